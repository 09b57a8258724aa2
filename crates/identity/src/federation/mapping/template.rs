//! The places in local rules that are filled from an assertion: `{0}`, as Python's `str.format` does.

use super::engine::MappingError;

/// What a template gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Filled {
    /// A text.
    Text(String),
    /// All values of one match, where the template is nothing else.
    List(Vec<String>),
}

impl Filled {
    /// As a list: a text that Python would read as a list of texts is that list, any other is one of its own.
    pub(super) fn into_list(self) -> Vec<String> {
        match self {
            Self::List(values) => values,
            Self::Text(text) => read_list(&text).unwrap_or_else(|| vec![text]),
        }
    }

    /// As a text: a list is written as Python writes it.
    pub(super) fn into_text(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::List(values) => write_list(&values),
        }
    }
}

/// Fills a template with the matches of a rule's remote part, in their order.
///
/// # Errors
/// For a place that there is no match for, and for braces that are none.
pub(super) fn fill(template: &str, matches: &[Vec<String>]) -> Result<Filled, MappingError> {
    let at = |index: usize| matches.get(index).ok_or(MappingError::NoSuchMatch(index));
    if let Some(index) = only_place(template) {
        return Ok(match at(index)?.as_slice() {
            [one] => Filled::Text(one.clone()),
            several => Filled::List(several.to_vec()),
        });
    }
    let broken = || MappingError::Template(template.to_owned());
    let mut text = String::with_capacity(template.len());
    let mut unnumbered = 0;
    let mut rest = template.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '{' if rest.peek() == Some(&'{') => _ = rest.next().map(|c| text.push(c)),
            '}' if rest.peek() == Some(&'}') => _ = rest.next().map(|c| text.push(c)),
            '}' => return Err(broken()),
            '{' => {
                let mut number = String::new();
                loop {
                    match rest.next() {
                        Some('}') => break,
                        Some(digit) if digit.is_ascii_digit() => number.push(digit),
                        _ => return Err(broken()),
                    }
                }
                let index = if number.is_empty() {
                    unnumbered += 1;
                    unnumbered - 1
                } else {
                    number.parse().map_err(|_| broken())?
                };
                match at(index)?.as_slice() {
                    [one] => text.push_str(one),
                    several => text.push_str(&write_list(several)),
                }
            }
            c => text.push(c),
        }
    }
    Ok(Filled::Text(text))
}

/// The number in `{0}`, where that is the whole template.
pub(super) fn only_place(template: &str) -> Option<usize> {
    let inside = template.strip_prefix('{')?.strip_suffix('}')?;
    if inside.is_empty() {
        return Some(0);
    }
    inside
        .chars()
        .all(|c| c.is_ascii_digit())
        .then(|| inside.parse().ok())?
}

/// `['a', 'b']`.
fn write_list(values: &[String]) -> String {
    let quoted: Vec<String> = values
        .iter()
        .map(|value| {
            let escaped = value.replace('\\', "\\\\");
            if value.contains('\'') && !value.contains('"') {
                format!("\"{escaped}\"")
            } else {
                format!("'{}'", escaped.replace('\'', "\\'"))
            }
        })
        .collect();
    format!("[{}]", quoted.join(", "))
}

/// The texts of `['a', "b"]`; none where it is anything else.
fn read_list(text: &str) -> Option<Vec<String>> {
    let inside = text.trim().strip_prefix('[')?.strip_suffix(']')?;
    let mut values = Vec::new();
    let mut rest = inside.trim_start();
    while !rest.is_empty() {
        let quote = rest.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
        let mut value = String::new();
        let mut chars = rest[1..].char_indices();
        let end = loop {
            match chars.next()? {
                (_, '\\') => value.push(chars.next()?.1),
                (at, c) if c == quote => break at,
                (_, c) => value.push(c),
            }
        };
        values.push(value);
        rest = rest[1 + end + 1..].trim_start();
        match rest.strip_prefix(',') {
            Some(after) => rest = after.trim_start(),
            None if rest.is_empty() => {}
            None => return None,
        }
    }
    Some(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(of: &[&[&str]]) -> Vec<Vec<String>> {
        of.iter()
            .map(|values| values.iter().map(|v| (*v).to_owned()).collect())
            .collect()
    }

    #[test]
    fn places_are_filled_as_python_does() {
        let found = matches(&[&["Bob"], &["a", "b's"], &[]]);
        for (template, wanted) in [
            ("{0}", "Bob"),
            ("{0} Thompson", "Bob Thompson"),
            ("{}-{}", "Bob-['a', \"b's\"]"),
            ("{{0}} {0}", "{0} Bob"),
            ("nothing", "nothing"),
            ("x{2}", "x[]"),
        ] {
            assert_eq!(fill(template, &found).unwrap().into_text(), wanted, "{template}");
        }
        for bad in ["{3}", "{0", "0}", "{name}", "{0[1]}", "{0!r}"] {
            assert!(fill(bad, &found).is_err(), "{bad}");
        }
    }

    #[test]
    fn lists_stay_lists_and_are_read_back() {
        let found = matches(&[&["a", "b;\"c"], &["alone"]]);
        assert_eq!(fill("{0}", &found).unwrap().into_list(), ["a", "b;\"c"]);
        assert_eq!(fill("{1}", &found).unwrap().into_list(), ["alone"]);
        for (text, wanted) in [
            ("['a', \"b\"]", vec!["a", "b"]),
            ("[]", vec![]),
            ("['it\\'s', 'a\\\\b',]", vec!["it's", "a\\b"]),
            ("[1, 2]", vec!["[1, 2]"]),
            ("['a' 'b']", vec!["['a' 'b']"]),
            ("plain", vec!["plain"]),
        ] {
            assert_eq!(Filled::Text(text.to_owned()).into_list(), wanted, "{text}");
        }
        let kept = matches(&[&["it's", "\"", "back\\slash"]]).remove(0);
        assert_eq!(Filled::Text(write_list(&kept)).into_list(), kept);
    }
}
