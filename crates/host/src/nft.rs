//! Packet filters of a namespace, through the `nft` program: one process per batch, and a batch applies whole or not.
//!
//! A process costs about 5 ms; put everything that belongs together into one batch. Names and values that come from
//! users have no place in a batch: use ids, or [`comment`].

use std::{fmt::Write as _, time::Duration};

use crate::{Error, Result, netns::Netns, process::Command};

/// Longer than the largest batch takes by far; beyond it something is wrong with the kernel.
const TIMEOUT: Duration = Duration::from_secs(30);

/// What to do without `nft`.
const REMEDY: &str = "install it with `apt-get install nftables`";

/// Applies a batch in nft's own language inside the namespace: all of it or, with an error that quotes the line, nothing.
///
/// Refused for the process' own namespace: the host's own filters are not ours.
pub async fn apply(netns: &Netns, batch: &str) -> Result<()> {
    if *netns == Netns::OWN {
        return Err(Error::Invalid(
            "filters of the host's own network namespace are never changed".into(),
        ));
    }
    command(netns).args(["-f", "-"]).stdin(batch).run(TIMEOUT).await?;
    Ok(())
}

/// Everything that is set in the namespace, in nft's own language.
pub async fn list(netns: &Netns) -> Result<String> {
    let output = command(netns).args(["-n", "list", "ruleset"]).run(TIMEOUT).await?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Everything that is set in the namespace, as JSON. Source: libnftables-json(5).
pub async fn list_json(netns: &Netns) -> Result<serde_json::Value> {
    let output = command(netns).args(["-j", "list", "ruleset"]).run(TIMEOUT).await?;
    serde_json::from_slice(&output.stdout).map_err(|error| Error::Invalid(format!("nft's list is not JSON: {error}")))
}

/// The counters of a table, as JSON.
pub async fn counters(netns: &Netns, table: &str) -> Result<serde_json::Value> {
    let words = ["-j", "list", "counters", "table"].into_iter().chain(table.split(' '));
    let output = command(netns).args(words).run(TIMEOUT).await?;
    serde_json::from_slice(&output.stdout).map_err(|error| Error::Invalid(format!("nft's list is not JSON: {error}")))
}

fn command(netns: &Netns) -> Command {
    Command::new("nft").netns(netns).if_missing(REMEDY)
}

/// Whether this can name a table, chain, set or map: a letter, then letters, digits and `_`, 64 at most.
///
/// Errors with the name otherwise.
pub fn check_identifier(name: &str) -> Result<&str> {
    let starts = name.starts_with(|c: char| c.is_ascii_alphabetic());
    if starts && name.len() <= 64 && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Ok(name);
    }
    Err(Error::Invalid(format!("`{name}` cannot name something in a filter")))
}

/// A quoted string for a comment or a link name; what could end the quotes, and anything but printable ASCII, becomes
/// `?`, and the rest is cut at 120 bytes, under nft's limit of 128.
pub fn quoted(text: &str) -> String {
    let safe = |c: char| {
        if (c.is_ascii_graphic() || c == ' ') && c != '"' && c != '\\' {
            c
        } else {
            '?'
        }
    };
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    quoted.extend(text.chars().map(safe).take(120));
    quoted.push('"');
    quoted
}

/// A comment clause for the end of a rule.
pub fn comment(text: &str) -> String {
    format!("comment {}", quoted(text))
}

/// The elements of a set, such as `{ 10.0.0.1, 10.0.0.2 }`; nothing for an empty one, for which nft has no syntax.
pub fn elements<T: std::fmt::Display>(elements: impl IntoIterator<Item = T>) -> Option<String> {
    let mut text = String::from("{ ");
    let start = text.len();
    for element in elements {
        if text.len() > start {
            text.push_str(", ");
        }
        write!(text, "{element}").expect("writing to a string never fails");
    }
    let is_empty = text.len() == start;
    text.push_str(" }");
    (!is_empty).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_leave_its_quotes() {
        assert_eq!(quoted("a\"; flush ruleset; \\\n"), "\"a?; flush ruleset; ??\"");
        assert_eq!(quoted(&"x".repeat(500)).len(), 122);
        assert_eq!(comment("web"), "comment \"web\"");
    }

    #[test]
    fn identifiers_are_plain_words() {
        for bad in ["", "1a", "a-b", "a b", "a;b", "_x"] {
            assert!(check_identifier(bad).is_err(), "{bad}");
        }
        check_identifier("port_0a1b").unwrap();
    }

    #[test]
    fn sets_list_their_elements() {
        assert_eq!(elements([1, 2]), Some("{ 1, 2 }".into()));
        assert_eq!(elements::<u8>([]), None);
    }

    #[tokio::test]
    async fn the_hosts_own_filters_are_refused() {
        assert!(matches!(
            apply(&Netns::OWN, "flush ruleset").await,
            Err(Error::Invalid(_))
        ));
    }
}
