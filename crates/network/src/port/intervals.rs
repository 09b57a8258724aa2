//! A set of numbers kept as its gapless runs: dense sets stay small, and the next number that is not in it is one look
//! away.

use std::collections::BTreeMap;

/// The set. Runs never touch each other.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Intervals(BTreeMap<u128, u128>);

impl Intervals {
    /// Puts a number in. Being there already is fine.
    pub(crate) fn insert(&mut self, number: u128) {
        let before = self.0.range(..=number).next_back().map(|(start, end)| (*start, *end));
        if before.is_some_and(|(_, end)| end >= number) {
            return;
        }
        let start = match before {
            Some((start, end)) if end + 1 == number => start,
            _ => number,
        };
        let end = number
            .checked_add(1)
            .and_then(|next| self.0.remove(&next))
            .unwrap_or(number);
        self.0.insert(start, end);
    }

    /// Takes a number out. Not being there is fine.
    pub(crate) fn remove(&mut self, number: u128) {
        let Some((start, end)) = self.0.range(..=number).next_back().map(|(start, end)| (*start, *end)) else {
            return;
        };
        if end < number {
            return;
        }
        self.0.remove(&start);
        if start < number {
            self.0.insert(start, number - 1);
        }
        if number < end {
            self.0.insert(number + 1, end);
        }
    }

    /// Whether a number is in.
    pub(crate) fn contains(&self, number: u128) -> bool {
        self.0
            .range(..=number)
            .next_back()
            .is_some_and(|(_, end)| *end >= number)
    }

    /// The first number from `from` on that is not in.
    pub(crate) fn next_free(&self, from: u128) -> Option<u128> {
        match self.0.range(..=from).next_back() {
            Some((_, end)) if *end >= from => end.checked_add(1),
            _ => Some(from),
        }
    }

    /// Whether nothing is in.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_set(steps in prop::collection::vec((any::<bool>(), 0u128..24), 0..80), from in 0u128..24) {
            let (mut set, mut model) = (Intervals::default(), BTreeSet::new());
            for (add, number) in steps {
                if add {
                    set.insert(number);
                    model.insert(number);
                } else {
                    set.remove(number);
                    model.remove(&number);
                }
            }
            for number in 0..26 {
                prop_assert_eq!(set.contains(number), model.contains(&number));
            }
            prop_assert_eq!(set.next_free(from), (from..).find(|number| !model.contains(number)));
            prop_assert_eq!(set.is_empty(), model.is_empty());
            // Runs never touch, so that one look is enough.
            let runs: Vec<_> = set.0.iter().collect();
            prop_assert!(runs.windows(2).all(|pair| *pair[0].1 + 1 < *pair[1].0));
        }
    }

    #[test]
    fn the_last_number_there_is_has_no_next() {
        let mut set = Intervals::default();
        set.insert(u128::MAX);
        assert_eq!(set.next_free(u128::MAX), None);
        assert!(set.contains(u128::MAX));
    }
}
