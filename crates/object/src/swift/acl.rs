//! Who else may read or write a container, as its owner writes it down: `X-Container-Read` and `X-Container-Write`.
//!
//! ```text
//! .r:*  .r:example.com  .r:.example.com  .r:-bad.example.com     by the page that refers to it
//! .rlistings                                                     these may also list
//! PROJECT:USER  PROJECT:*  *:USER  *:*  ROLE                      by who asks
//! ```

/// A list, taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acl {
    referrers: Vec<String>,
    groups: Vec<String>,
}

impl Acl {
    /// Reads what [`clean`] has let in.
    pub fn parse(text: &str) -> Self {
        let mut acl = Self::default();
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            match word.strip_prefix(".r:") {
                Some(referrer) => acl.referrers.push(referrer.to_owned()),
                None => acl.groups.push(word.to_owned()),
            }
        }
        acl
    }

    /// Whether whoever is referred to by this page is let in.
    pub fn lets_referrer(&self, referer: Option<&str>) -> bool {
        let host = referer.and_then(host_of).unwrap_or_else(|| "unknown".to_owned());
        let mut lets = false;
        for pattern in &self.referrers {
            let (is_no, pattern) = match pattern.strip_prefix('-') {
                Some(pattern) => (true, pattern),
                None => (false, pattern.as_str()),
            };
            let is_meant = pattern == "*" || pattern == host || (pattern.starts_with('.') && host.ends_with(pattern));
            if is_meant {
                lets = !is_no;
            }
        }
        lets
    }

    /// Whether those who are let in by the page may also list.
    pub fn has_listings(&self) -> bool {
        self.has(".rlistings")
    }

    /// Whether a group (a role, a user) is in it.
    pub fn has(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }

    /// Whether a role is in it, in whatever case.
    pub fn has_role(&self, role: &str) -> bool {
        self.groups.iter().any(|own| own.eq_ignore_ascii_case(role))
    }
}

fn host_of(url: &str) -> Option<String> {
    let (_, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority.rsplit('@').next()?;
    let host = host.split(':').next().unwrap_or(host);
    (!host.is_empty()).then(|| host.to_lowercase())
}

/// A list as it is kept, or what is wrong with it.
///
/// # Errors
/// In words.
pub fn clean(name: &str, text: &str) -> Result<String, String> {
    let mut words = Vec::new();
    for raw in text.split(',') {
        let word = raw.trim();
        if word.is_empty() {
            continue;
        }
        let Some((first, second)) = word.split_once(':') else {
            words.push(word.to_owned());
            continue;
        };
        let (first, second) = (first.trim(), second.trim());
        if !first.starts_with('.') {
            words.push(word.to_owned());
            continue;
        }
        if ![".r", ".ref", ".referer", ".referrer"].contains(&first) {
            return Err(format!("Unknown designator '{first}' in ACL: '{raw}'"));
        }
        if name.to_ascii_lowercase().contains("write") {
            return Err(format!("Referrers not allowed in write ACL: '{raw}'"));
        }
        let (minus, host) = match second.strip_prefix('-') {
            Some(host) => ("-", host.trim()),
            None => ("", second),
        };
        let host = match host.strip_prefix('*') {
            Some(rest) if !rest.is_empty() => rest.trim(),
            _ => host,
        };
        if host.is_empty() || host == "." {
            return Err(format!(
                "No host/domain value after referrer designation in ACL: '{raw}'"
            ));
        }
        words.push(format!(".r:{minus}{host}"));
    }
    Ok(words.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_kept_as_swift_does() {
        let clean = |text| clean("X-Container-Read", text);
        assert_eq!(clean(" .r:* , p:u,, role "), Ok(".r:*,p:u,role".to_owned()));
        assert_eq!(
            clean(".referrer : *.example.com,.r: - bad"),
            Ok(".r:.example.com,.r:-bad".to_owned())
        );
        assert!(clean(".x:1").is_err() && clean(".r:").is_err() && clean(".r:-").is_err());
        assert!(super::clean("X-Container-Write", ".r:*").is_err());
    }

    #[test]
    fn the_last_word_about_a_referrer_counts() {
        let acl = Acl::parse(".r:*,.r:-.bad.com,.r:good.bad.com,.rlistings,Member");
        assert!(acl.lets_referrer(None) && acl.lets_referrer(Some("http://x.com/")));
        assert!(!acl.lets_referrer(Some("https://www.bad.com:8080/page")));
        assert!(acl.lets_referrer(Some("http://u@GOOD.bad.com")));
        assert!(acl.has_listings() && acl.has_role("member") && !acl.has("member"));
        assert!(!Acl::parse("p:u").lets_referrer(None));
    }
}
