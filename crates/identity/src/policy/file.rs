//! The operator's file: `"rule name": "rule"` per line, in YAML or JSON, as the originals' `policy.yaml`.
//!
//! It holds only what is to differ from the defaults. Read as a whole or not at all: a mistake anywhere in it is an error
//! that names the line and the rule, and what held before goes on to hold.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScanError};

use super::{Check, Policy, parse::parse};

/// The largest file that is read, in bytes.
pub const LARGEST_FILE: u64 = 1024 * 1024;

/// One rule of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Override {
    pub(super) check: Check,
    /// Where it stands, from 1.
    pub(super) line: usize,
}

/// What the file says, by the names of its rules.
pub(super) type Overrides = HashMap<String, Override>;

/// A file that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {}{reason}", .rule.as_ref().map(|rule| format!("rule {rule:?}: ")).unwrap_or_default())]
pub struct FileError {
    /// The line, from 1.
    pub line: usize,
    /// The rule's name, where it is one rule that is wrong.
    pub rule: Option<String>,
    /// What is wrong.
    pub reason: String,
}

/// Reads the text of a file.
pub(super) fn read(text: &str, policy: &Policy) -> Result<Overrides, FileError> {
    let mut overrides = Overrides::new();
    for (name, rule, line) in pairs(text)? {
        let wrong = |reason: String| FileError {
            line,
            rule: Some(name.clone()),
            reason,
        };
        let check = parse(&rule).map_err(|reason| wrong(format!("{reason} in {rule:?}")))?;
        if let Some(first) = overrides.get(&name) {
            return Err(wrong(format!("it stands on line {} already", first.line)));
        }
        overrides.insert(name.clone(), Override { check, line });
    }
    for (name, rule) in &overrides {
        let wrong = |reason: String| FileError {
            line: rule.line,
            rule: Some(name.clone()),
            reason,
        };
        let check_of = |name: &str| {
            overrides
                .get(name)
                .map(|rule| &rule.check)
                .or_else(|| policy.default_of(name))
        };
        refers_well(name, &rule.check, &check_of, &mut Vec::new()).map_err(wrong)?;
    }
    Ok(overrides)
}

/// Every rule that it refers to is there, and none leads back to it.
fn refers_well<'c>(
    name: &str,
    check: &'c Check,
    check_of: &impl Fn(&str) -> Option<&'c Check>,
    seen: &mut Vec<&'c str>,
) -> Result<(), String> {
    for other in check.refers_to() {
        if other == name {
            return Err("it leads back to itself".to_owned());
        }
        let check = check_of(other).ok_or_else(|| format!("it refers to rule {other:?}, which is not there"))?;
        if !seen.contains(&other) {
            seen.push(other);
            refers_well(name, check, check_of, seen)?;
        }
    }
    Ok(())
}

/// Names, rules and lines of a mapping of texts to texts.
fn pairs(text: &str) -> Result<Vec<(String, String, usize)>, FileError> {
    let mut pairs = Vec::new();
    let mut name: Option<(String, usize)> = None;
    let mut inside = false;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| unreadable(&error))?;
        let line = span.start.line();
        let wrong = |reason: &str, rule: Option<String>| FileError {
            line,
            rule,
            reason: reason.to_owned(),
        };
        match event {
            Event::MappingStart(..) if !inside => inside = true,
            Event::Scalar(value, ..) if inside => match name.take() {
                None => name = Some((value.into_owned(), line)),
                Some((name, line)) => pairs.push((name, value.into_owned(), line)),
            },
            // A file with nothing but comments has an empty document.
            Event::Scalar(value, ..) if value.is_empty() || value == "~" => {}
            Event::Scalar(..) => return Err(wrong("it has to hold rules as \"name\": \"rule\"", None)),
            Event::Alias(..) | Event::SequenceStart(..) | Event::MappingStart(..) => {
                let rule = name.take().map(|(name, _)| name);
                return Err(wrong("a rule has to be a text such as \"role:admin\"", rule));
            }
            _ => {}
        }
    }
    Ok(pairs)
}

fn unreadable(error: &ScanError) -> FileError {
    FileError {
        line: error.marker().line(),
        rule: None,
        reason: format!("this is no YAML: {}", error.info()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        read(text, &Policy::new()).unwrap_err().to_string()
    }

    #[test]
    fn yaml_and_json_are_read() {
        let yaml = "# ours\n\"compute:stop\": \"role:operator or rule:admin_api\"\nnobody: '!'\neverybody: \"\"\n";
        let json = r#"{"compute:stop": "role:operator or rule:admin_api", "nobody": "!", "everybody": ""}"#;
        let (yaml, json) = (read(yaml, &Policy::new()).unwrap(), read(json, &Policy::new()).unwrap());
        assert_eq!(yaml["compute:stop"].line, 2);
        assert_eq!(
            (&yaml["nobody"].check, &yaml["everybody"].check),
            (&Check::Never, &Check::Always)
        );
        assert_eq!(yaml["compute:stop"].check, json["compute:stop"].check);
        for empty in ["", "# nothing yet\n", "{}", "---\n"] {
            assert_eq!(read(empty, &Policy::new()).unwrap().len(), 0, "{empty:?}");
        }
    }

    #[test]
    fn a_mistake_is_named_by_line_and_rule() {
        for (text, wanted) in [
            (
                "a: '@'\nb: 'role:x or'\n",
                "line 2: rule \"b\": it ends too early in \"role:x or\"",
            ),
            ("a: '@'\na: '!'\n", "line 2: rule \"a\": it stands on line 1 already"),
            (
                "a: 'rule:nothing'\n",
                "line 1: rule \"a\": it refers to rule \"nothing\", which is not there",
            ),
            (
                "a: 'not rule:b'\nb: 'rule:c'\nc: '@ and rule:b'\nadmin_api: '@'\n",
                "leads back to itself",
            ),
            ("a: [['role:x']]\n", "rule \"a\": a rule has to be a text"),
            ("a: {b: c}\n", "rule \"a\": a rule has to be a text"),
            ("just words\n", "line 1: it has to hold rules"),
            ("a: '@'\nb: 'unclosed\n", "this is no YAML"),
        ] {
            let error = error(text);
            assert!(error.contains(wanted), "{text:?}: {error}");
        }
    }
}
