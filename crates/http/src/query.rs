//! Query strings as the originals read them: repeatable parameters, booleans in many spellings, `in:` lists.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use http::request::Parts;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::Failure;

/// What Python's `urlencode` leaves as it is.
const KEEP: &AsciiSet = &NON_ALPHANUMERIC.remove(b'_').remove(b'.').remove(b'-').remove(b'~');

/// The parameters of a request in their order. An extractor for handlers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads a query string without its question mark. Bytes that are not UTF-8 become replacement characters.
    pub fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        });
        Self(pairs.collect())
    }

    /// The last value of a parameter, as the originals take it where only one makes sense.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .rev()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }

    /// All values of a parameter in their order.
    pub fn all<'q>(&'q self, name: &'q str) -> impl Iterator<Item = &'q str> {
        self.0
            .iter()
            .filter(move |(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }

    /// Every parameter in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Whether a parameter is there, with whatever value.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(n, _)| n == name)
    }

    /// Whether there is no parameter.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A parameter as a boolean in any spelling of [`parse_bool`].
    ///
    /// # Errors
    /// 400 for any other spelling.
    pub fn flag(&self, name: &str) -> Result<Option<bool>, Failure> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let bad = || Failure::invalid(format!("Invalid value for {name}: {text} is not a boolean")).at(name);
        parse_bool(text).map(Some).ok_or_else(bad)
    }

    /// A flag as Keystone and Nova's older parameters read it: there without a value is true, `0`, `false`, `no`, `off`,
    /// `f` and `n` are false, all else is true.
    pub fn switch(&self, name: &str) -> bool {
        self.get(name).is_some_and(|text| parse_bool(text) != Some(false))
    }

    /// The values of a filter that may be repeated (`status=a&status=b`) or a list (`status=in:a,b`, where a value in
    /// double quotes may hold a comma). Empty where the parameter is not there.
    ///
    /// # Errors
    /// 400 when a quote is not closed.
    pub fn any_of(&self, name: &str) -> Result<Vec<String>, Failure> {
        let mut values = Vec::new();
        for value in self.all(name) {
            match value.strip_prefix("in:") {
                Some(list) => values.extend(split_list(list).ok_or_else(|| {
                    Failure::invalid(format!("Invalid filter value {list}. The quote is not closed.")).at(name)
                })?),
                None => values.push(value.to_owned()),
            }
        }
        Ok(values)
    }

    /// The same parameters with these set: each takes the place of all of its name, at the end. `None` removes it.
    #[must_use]
    pub fn with(&self, changes: &[(&str, Option<&str>)]) -> Self {
        let kept = self
            .0
            .iter()
            .filter(|(name, _)| changes.iter().all(|(changed, _)| changed != name))
            .cloned();
        let added = changes
            .iter()
            .filter_map(|(name, value)| Some(((*name).to_owned(), (*value)?.to_owned())));
        Self(kept.chain(added).collect())
    }

    /// As a query string without the question mark.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        for (name, value) in &self.0 {
            if !text.is_empty() {
                text.push('&');
            }
            text.extend(utf8_percent_encode(name, KEEP));
            text.push('=');
            text.extend(utf8_percent_encode(value, KEEP));
        }
        text
    }
}

impl<S: Sync> FromRequestParts<S> for Query {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::parse(parts.uri.query().unwrap_or_default()))
    }
}

/// A boolean as oslo.utils' `bool_from_string` reads it: `1 t true on y yes` or `0 f false off n no`, in any case and
/// with spaces around.
pub fn parse_bool(text: &str) -> Option<bool> {
    let is = |spellings: [&str; 6]| spellings.iter().any(|s| s.eq_ignore_ascii_case(text.trim()));
    if is(["1", "t", "true", "on", "y", "yes"]) {
        return Some(true);
    }
    is(["0", "f", "false", "off", "n", "no"]).then_some(false)
}

fn decode(text: &str) -> String {
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
}

fn split_list(list: &str) -> Option<Vec<String>> {
    let mut values = Vec::new();
    let mut current = String::new();
    let mut quoted = false;
    for c in list.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => values.push(std::mem::take(&mut current)),
            other => current.push(other),
        }
    }
    values.push(current);
    (!quoted).then_some(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_repeat_and_decode() {
        let query = Query::parse("name=a%20b+c&tag=x&tag=y&deep&=empty");
        assert_eq!(query.get("name"), Some("a b c"));
        assert_eq!(query.all("tag").collect::<Vec<_>>(), ["x", "y"]);
        assert_eq!(query.get("tag"), Some("y"));
        assert!(query.has("deep") && query.switch("deep") && !query.switch("shallow"));
    }

    #[test]
    fn what_is_encoded_reads_the_same() {
        let query = Query::parse("name=a%26b&x=%E2%82%AC&y=1");
        assert_eq!(Query::parse(&query.encode()), query);
        assert_eq!(
            query
                .with(&[("y", Some("2")), ("name", None), ("z", Some("3"))])
                .encode(),
            "x=%E2%82%AC&y=2&z=3"
        );
    }

    #[test]
    fn booleans_have_oslos_spellings() {
        for yes in ["1", "true", "True", "YES", " on ", "y", "t"] {
            assert_eq!(parse_bool(yes), Some(true), "{yes}");
        }
        for no in ["0", "False", "no", "OFF", "n", "f"] {
            assert_eq!(parse_bool(no), Some(false), "{no}");
        }
        assert_eq!(parse_bool("maybe"), None);
        assert!(Query::parse("deep=maybe").flag("deep").is_err());
    }

    #[test]
    fn lists_split_outside_of_quotes() {
        let query = Query::parse("status=in:active,%22a,b%22&status=queued");
        assert_eq!(query.any_of("status").unwrap(), ["active", "a,b", "queued"]);
        assert!(Query::parse("name=in:%22open").any_of("name").is_err());
    }
}
