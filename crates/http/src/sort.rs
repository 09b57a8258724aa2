//! `sort_key`/`sort_dir` pairs and Cinder's and Glance's `sort=key:dir,…`.

use std::{borrow::Cow, cmp::Ordering};

use crate::{Failure, Query};

/// Which way a key sorts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Smallest first.
    Ascending,
    /// Largest first.
    Descending,
}

/// A value that lists are sorted by. Nothing sorts first, as in the originals' database.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SortValue<'a> {
    /// No value.
    Nothing,
    /// A boolean; false first.
    Flag(bool),
    /// A number, or a time as microseconds.
    Number(i64),
    /// A text.
    Text(Cow<'a, str>),
}

impl<'a> From<&'a str> for SortValue<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }
}

impl<'a> From<Option<&'a str>> for SortValue<'a> {
    fn from(text: Option<&'a str>) -> Self {
        text.map_or(Self::Nothing, Self::from)
    }
}

impl From<i64> for SortValue<'_> {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<bool> for SortValue<'_> {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

impl From<jiff::Timestamp> for SortValue<'_> {
    fn from(time: jiff::Timestamp) -> Self {
        Self::Number(time.as_microsecond())
    }
}

/// The keys that a list is sorted by, most important first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SortKeys(Vec<(String, Direction)>);

impl SortKeys {
    /// Reads `sort_key` and `sort_dir` (repeatable, paired in order; a missing direction is the `default`'s) and
    /// `sort=name:asc,size`. Where nothing is asked, `default` it is; its keys are also appended to break ties.
    ///
    /// # Errors
    /// 400 for a key that is not in `allowed`, a direction other than `asc` and `desc`, or more directions than keys.
    pub fn from(query: &Query, allowed: &[&str], default: &[(&str, Direction)]) -> Result<Self, Failure> {
        let fallback = default
            .first()
            .map_or(Direction::Ascending, |(_, direction)| *direction);
        let mut keys = Vec::new();
        if let Some(list) = query.get("sort") {
            for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
                let (key, direction) = part.split_once(':').map_or((part, None), |(k, d)| (k, Some(d)));
                keys.push((key.to_owned(), direction.map_or(Ok(fallback), read_direction)?));
            }
        } else {
            let mut directions = query.all("sort_dir").map(read_direction);
            let mut last = fallback;
            for key in query.all("sort_key") {
                last = directions.next().transpose()?.unwrap_or(last);
                keys.push((key.to_owned(), last));
            }
            match directions.next() {
                Some(Err(bad)) => return Err(bad),
                Some(Ok(direction)) if keys.is_empty() => {
                    keys.extend(default.iter().map(|(key, _)| ((*key).to_owned(), direction)));
                }
                Some(Ok(_)) => return Err(Failure::invalid("there are more sort_dir than sort_key parameters")),
                None => {}
            }
        }
        if let Some((bad, _)) = keys.iter().find(|(key, _)| !allowed.contains(&key.as_str())) {
            return Err(Failure::invalid(format!("{bad} is not a key that this list can be sorted by")).at("sort_key"));
        }
        let missing = default.iter().filter(|(key, _)| keys.iter().all(|(k, _)| k != key));
        let missing: Vec<_> = missing
            .map(|(key, direction)| ((*key).to_owned(), *direction))
            .collect();
        keys.extend(missing);
        Ok(Self(keys))
    }

    /// Sorts, keeping the order of equal items. `value` gives an item's value for a key, once.
    pub fn sort<T>(&self, items: &mut [T], value: impl for<'t> Fn(&'t T, &str) -> SortValue<'t>) {
        let order = self.order(items, value);
        let mut sorted: Vec<usize> = (0..items.len()).collect();
        sorted.sort_unstable_by(|a, b| order.compare(*a, *b));
        drop(order);
        let mut places = vec![0; sorted.len()];
        for (place, at) in sorted.into_iter().enumerate() {
            places[at] = place;
        }
        // Each swap brings one item to its place.
        for at in 0..items.len() {
            while places[at] != at {
                let place = places[at];
                items.swap(at, place);
                places.swap(at, place);
            }
        }
    }

    /// How items stand to each other. Their values lie together: items are all over the memory.
    pub(crate) fn order<'t, T>(&self, items: &'t [T], value: impl Fn(&'t T, &str) -> SortValue<'t>) -> Order<'t> {
        let value = &value;
        let of_item = |item| self.0.iter().map(move |(key, _)| value(item, key));
        Order {
            values: items.iter().flat_map(of_item).collect(),
            directions: self.0.iter().map(|(_, direction)| *direction).collect(),
        }
    }

    /// The keys with their directions.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Direction)> {
        self.0.iter().map(|(key, direction)| (key.as_str(), *direction))
    }
}

/// The order of some items, which are known by where they were.
pub(crate) struct Order<'t> {
    /// Of each item one for each key.
    values: Vec<SortValue<'t>>,
    directions: Vec<Direction>,
}

impl Order<'_> {
    /// How two items stand to each other; of equal ones the one that was first comes first.
    pub(crate) fn compare(&self, a: usize, b: usize) -> Ordering {
        let keys = self.directions.len();
        let (of_a, of_b) = (&self.values[a * keys..], &self.values[b * keys..]);
        for (key, direction) in self.directions.iter().enumerate() {
            let order = direction.of(of_a[key].cmp(&of_b[key]));
            if order.is_ne() {
                return order;
            }
        }
        a.cmp(&b)
    }
}

impl Direction {
    /// An order in this direction.
    fn of(self, order: Ordering) -> Ordering {
        match self {
            Self::Ascending => order,
            Self::Descending => order.reverse(),
        }
    }
}

fn read_direction(text: &str) -> Result<Direction, Failure> {
    match text {
        "asc" => Ok(Direction::Ascending),
        "desc" => Ok(Direction::Descending),
        other => Err(Failure::invalid(format!("Unknown sort direction {other}, must be asc or desc")).at("sort_dir")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT: &[(&str, Direction)] = &[("created_at", Direction::Descending), ("id", Direction::Descending)];

    fn keys(query: &str) -> Result<Vec<(String, Direction)>, Failure> {
        SortKeys::from(&Query::parse(query), &["created_at", "id", "name", "size"], DEFAULT).map(|keys| keys.0)
    }

    #[test]
    fn keys_and_directions_pair_up() {
        use Direction::{Ascending, Descending};
        let own = |pairs: &[(&str, Direction)]| pairs.iter().map(|(k, d)| ((*k).to_owned(), *d)).collect::<Vec<_>>();
        let tail = DEFAULT;
        for (query, front) in [
            ("", own(&[])),
            ("sort_key=name", own(&[("name", Descending)])),
            (
                "sort_key=name&sort_key=size&sort_dir=asc",
                own(&[("name", Ascending), ("size", Ascending)]),
            ),
            (
                "sort_key=name&sort_key=size&sort_dir=asc&sort_dir=desc",
                own(&[("name", Ascending), ("size", Descending)]),
            ),
            ("sort=name:asc,size", own(&[("name", Ascending), ("size", Descending)])),
        ] {
            assert_eq!(keys(query).unwrap(), [front, own(tail)].concat(), "{query}");
        }
        for bad in [
            "sort_key=nope",
            "sort_key=name&sort_dir=up",
            "sort_key=id&sort_dir=asc&sort_dir=asc",
            "sort=name:x",
        ] {
            assert!(keys(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn later_keys_decide_where_earlier_ones_do_not_and_equals_stay() {
        let keys = SortKeys(vec![
            ("name".into(), Direction::Descending),
            ("size".into(), Direction::Ascending),
        ]);
        let mut items: Vec<(&str, i64, usize)> = (0..500)
            .map(|at| (["a", "b", "c"][at * 7 % 3], (at * 11 % 5) as i64, at))
            .collect();
        let mut expected = items.clone();
        expected.sort_by_key(|(name, size, at)| (std::cmp::Reverse(*name), *size, *at));
        keys.sort(&mut items, |item, key| match key {
            "name" => item.0.into(),
            _ => item.1.into(),
        });
        assert_eq!(items, expected);
    }

    #[test]
    fn nothing_sorts_first() {
        let mut items = vec![Some("b"), None, Some("a")];
        let keys = SortKeys(vec![("name".into(), Direction::Ascending)]);
        keys.sort(&mut items, |item, _| (*item).into());
        assert_eq!(items, [None, Some("a"), Some("b")]);
    }
}
