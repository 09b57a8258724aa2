//! Names in order: prefixes, delimiters, markers. Never looks at more than it gives back: what lies below a delimiter is
//! stepped over, not read.

use std::ops::Bound;

/// What of a list is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Names begin with this.
    pub prefix: String,
    /// What is behind the first one of these after the prefix is put together.
    pub delimiter: String,
    /// Names come after this, in the order of the list.
    pub marker: String,
    /// Names come before this, in the order of the list.
    pub end_marker: String,
    /// From the last to the first.
    pub reverse: bool,
    /// At most so many.
    pub limit: usize,
    /// Only what lies directly in this directory: without what is below it, and without groups.
    pub path: Option<String>,
}

/// One line of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line<T> {
    /// A name with what belongs to it.
    One(String, T),
    /// All names that begin with this.
    Group(String),
}

/// What lists are made of: names in order, with something to each.
pub trait Names {
    /// What belongs to a name.
    type Item;
    /// Why it cannot be read.
    type Error;

    /// At most `limit` names between two bounds, from either end.
    ///
    /// # Errors
    /// When they cannot be read.
    fn read(
        &self,
        from: &Bound<String>,
        to: &Bound<String>,
        reverse: bool,
        limit: usize,
    ) -> Result<Vec<(String, Self::Item)>, Self::Error>;
}

/// Names read at a time where nothing is stepped over.
const BATCH: usize = 512;

/// The first string behind all those that begin with `prefix`.
fn behind(prefix: &str) -> Bound<String> {
    let mut characters: Vec<char> = prefix.chars().collect();
    while let Some(last) = characters.pop() {
        let next = (u32::from(last) + 1..=u32::from(char::MAX)).find_map(char::from_u32);
        if let Some(next) = next {
            characters.push(next);
            return Bound::Excluded(characters.into_iter().collect());
        }
    }
    Bound::Unbounded
}

fn exclude(text: &str) -> Bound<String> {
    if text.is_empty() {
        Bound::Unbounded
    } else {
        Bound::Excluded(text.to_owned())
    }
}

/// The lines of a list.
///
/// # Errors
/// When the names cannot be read.
pub fn list<N: Names>(names: &N, wanted: &Wanted) -> Result<Vec<Line<N::Item>>, N::Error> {
    let (prefix, delimiter) = match &wanted.path {
        Some(path) if path.is_empty() => (String::new(), "/"),
        Some(path) => (format!("{}/", path.trim_end_matches('/')), "/"),
        None => (wanted.prefix.clone(), wanted.delimiter.as_str()),
    };
    let (low_marker, high_marker) = match wanted.reverse {
        false => (&wanted.marker, &wanted.end_marker),
        true => (&wanted.end_marker, &wanted.marker),
    };
    let mut from = match exclude(low_marker) {
        Bound::Excluded(marker) if marker >= prefix => Bound::Excluded(marker),
        _ => Bound::Included(prefix.clone()),
    };
    let mut to = match (exclude(high_marker), behind(&prefix)) {
        (Bound::Excluded(marker), Bound::Excluded(end)) => Bound::Excluded(marker.min(end)),
        (Bound::Excluded(marker), _) => Bound::Excluded(marker),
        (_, end) => end,
    };
    let mut lines = Vec::new();
    let mut batch = if delimiter.is_empty() { BATCH } else { 4 };
    'more: while lines.len() < wanted.limit && !is_empty(&from, &to) {
        let most = batch.min(wanted.limit - lines.len()).max(1);
        let read = names.read(&from, &to, wanted.reverse, most)?;
        let is_last = read.len() < most;
        for (name, item) in read {
            let edge = match &wanted.path {
                Some(_) if name == prefix => None,
                _ if delimiter.is_empty() => None,
                _ => name[prefix.len()..]
                    .find(delimiter)
                    .map(|at| prefix.len() + at + delimiter.len()),
            };
            let Some(edge) = edge else {
                set(wanted.reverse, &mut from, &mut to, name.clone());
                if wanted.path.is_none() || name != prefix {
                    lines.push(Line::One(name, item));
                }
                continue;
            };
            let group = name[..edge].to_owned();
            if wanted.path.is_some() {
                // A directory's own mark is in it.
                if name == group {
                    lines.push(Line::One(name, item));
                }
            } else if group != wanted.marker {
                lines.push(Line::Group(group.clone()));
            }
            match wanted.reverse {
                // In a path, the mark of the directory comes last, and still counts.
                true if wanted.path.is_some() && lines.last().is_none_or(|line| !is_mark(line, &group)) => {
                    let mark = names.read(
                        &Bound::Included(group.clone()),
                        &Bound::Included(group.clone()),
                        false,
                        1,
                    )?;
                    if is_empty(&from, &Bound::Included(group.clone())) {
                        return Ok(lines);
                    }
                    lines.extend(mark.into_iter().map(|(name, item)| Line::One(name, item)));
                    to = Bound::Excluded(group);
                }
                true => to = Bound::Excluded(group),
                false => {
                    from = match behind(&group) {
                        Bound::Excluded(next) => Bound::Included(next),
                        _ => return Ok(lines),
                    }
                }
            }
            batch = 4;
            continue 'more;
        }
        if is_last {
            break;
        }
        batch = (batch * 4).min(BATCH);
    }
    Ok(lines)
}

fn is_mark<T>(line: &Line<T>, group: &str) -> bool {
    matches!(line, Line::One(name, _) if name == group)
}

fn set(reverse: bool, from: &mut Bound<String>, to: &mut Bound<String>, name: String) {
    *(if reverse { to } else { from }) = Bound::Excluded(name);
}

fn is_empty(from: &Bound<String>, to: &Bound<String>) -> bool {
    match (from, to) {
        (Bound::Included(from), Bound::Included(to)) => from > to,
        (Bound::Included(from) | Bound::Excluded(from), Bound::Excluded(to) | Bound::Included(to)) => from >= to,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, collections::BTreeSet, convert::Infallible};

    use proptest::prelude::*;

    use super::*;

    struct Sorted(BTreeSet<String>, Cell<usize>);

    impl Names for Sorted {
        type Item = ();
        type Error = Infallible;

        fn read(
            &self,
            from: &Bound<String>,
            to: &Bound<String>,
            reverse: bool,
            limit: usize,
        ) -> Result<Vec<(String, ())>, Infallible> {
            let range = self.0.range((from.clone(), to.clone()));
            let found: Vec<_> = match reverse {
                false => range.take(limit).map(|name| (name.clone(), ())).collect(),
                true => range.rev().take(limit).map(|name| (name.clone(), ())).collect(),
            };
            self.1.set(self.1.get() + found.len());
            Ok(found)
        }
    }

    fn lines(names: &[&str], wanted: &Wanted) -> Vec<String> {
        let sorted = Sorted(names.iter().map(|name| (*name).to_owned()).collect(), Cell::new(0));
        let lines = list(&sorted, wanted).unwrap();
        lines.into_iter().map(word).collect()
    }

    fn word(line: Line<()>) -> String {
        match line {
            Line::One(name, ()) => name,
            Line::Group(name) => format!("[{name}]"),
        }
    }

    fn all() -> Wanted {
        Wanted {
            limit: 10_000,
            ..Wanted::default()
        }
    }

    #[test]
    fn groups_are_what_swift_calls_subdirs() {
        let names = ["a", "a/1", "a/2", "a/b/3", "b", "b/", "b/4", "c"];
        let delimited = Wanted {
            delimiter: "/".to_owned(),
            ..all()
        };
        assert_eq!(lines(&names, &delimited), ["a", "[a/]", "b", "[b/]", "c"]);
        let below = Wanted {
            prefix: "a/".to_owned(),
            ..delimited.clone()
        };
        assert_eq!(lines(&names, &below), ["a/1", "a/2", "[a/b/]"]);
        let behind = Wanted {
            marker: "a/".to_owned(),
            ..delimited
        };
        assert_eq!(
            lines(&names, &behind),
            ["b", "[b/]", "c"],
            "a group that was given is not given again"
        );
    }

    #[test]
    fn a_path_has_what_is_directly_in_it() {
        let names = ["a", "a/1", "a/b/", "a/b/2", "a/c/3", "b"];
        let path = |path: &str, reverse| Wanted {
            path: Some(path.to_owned()),
            reverse,
            ..all()
        };
        assert_eq!(lines(&names, &path("a", false)), ["a/1", "a/b/"]);
        assert_eq!(lines(&names, &path("", false)), ["a", "b"]);
        assert_eq!(lines(&names, &path("a", true)), ["a/b/", "a/1"]);
    }

    #[test]
    fn what_is_below_a_delimiter_is_not_read() {
        let names = (0..20_u32).flat_map(|dir| (0..1000_u32).map(move |file| format!("{dir:02}/{file}")));
        let sorted = Sorted(names.collect(), Cell::new(0));
        let wanted = Wanted {
            delimiter: "/".to_owned(),
            ..all()
        };
        assert_eq!(list(&sorted, &wanted).unwrap().len(), 20);
        assert!(sorted.1.get() <= 100, "{} of 20,000 read", sorted.1.get());
    }

    /// What Swift's documentation says, without thinking of speed.
    fn model(names: &BTreeSet<String>, wanted: &Wanted) -> Vec<String> {
        let is_within = |name: &str| {
            let (after, before) = match wanted.reverse {
                false => (&wanted.marker, &wanted.end_marker),
                true => (&wanted.end_marker, &wanted.marker),
            };
            name.starts_with(&wanted.prefix)
                && (after.is_empty() || name > after.as_str())
                && (before.is_empty() || name < before.as_str())
        };
        let mut words: Vec<String> = Vec::new();
        let mut inside: Vec<&String> = names.iter().filter(|name| is_within(name)).collect();
        if wanted.reverse {
            inside.reverse();
        }
        for name in inside {
            let rest = &name[wanted.prefix.len()..];
            let word = match rest.find(&wanted.delimiter) {
                Some(at) if !wanted.delimiter.is_empty() => {
                    let group = &name[..wanted.prefix.len() + at + wanted.delimiter.len()];
                    if group == wanted.marker {
                        continue;
                    }
                    format!("[{group}]")
                }
                _ => name.clone(),
            };
            if words.last() != Some(&word) {
                words.push(word);
            }
        }
        words.truncate(wanted.limit);
        words
    }

    fn name() -> impl Strategy<Value = String> {
        proptest::collection::vec(
            prop_oneof![Just("a"), Just("b"), Just("/"), Just("é"), Just("\u{10ffff}")],
            0..6,
        )
        .prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn lists_are_what_the_model_says(
            names in proptest::collection::btree_set(name(), 0..40),
            (prefix, marker, end_marker) in (name(), name(), name()),
            delimiter in prop_oneof![Just(""), Just("/"), Just("a"), Just("b/")],
            reverse in any::<bool>(),
            limit in 0..12_usize,
            which in 0..8_u8,
        ) {
            let names: BTreeSet<String> = names.into_iter().filter(|name| !name.is_empty()).collect();
            let or = |bit: u8, text: String| if which & bit == 0 { String::new() } else { text };
            let wanted = Wanted {
                prefix: or(1, prefix), marker: or(2, marker), end_marker: or(4, end_marker),
                delimiter: delimiter.to_owned(), reverse, limit, path: None,
            };
            let sorted = Sorted(names.clone(), Cell::new(0));
            let lines: Vec<String> = list(&sorted, &wanted).unwrap().into_iter().map(word).collect();
            prop_assert_eq!(lines, model(&names, &wanted), "{:?}", wanted);
        }
    }
}
