//! From a value to the slots of the resources that have it; small, because there is one for every resource and index.

use std::hash::Hash;

use ahash::{AHashMap, AHashSet};

/// More slots than this are kept in a set, so that one of many is removed without looking at all. Up to here (the
/// workloads of a host, mostly) a list is looked through in little time and takes less memory.
const FEW: usize = 128;

/// Some slots, mostly one: 16 bytes then.
pub(super) enum Slots {
    One(u32),
    #[expect(
        clippy::box_collection,
        reason = "a bare vector would double the size of every entry"
    )]
    Few(Box<Vec<u32>>),
    Many(Box<AHashSet<u32>>),
}

impl Slots {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Few(slots) => slots.len(),
            Self::Many(slots) => slots.len(),
        }
    }

    pub(super) fn for_each(&self, mut visit: impl FnMut(u32)) {
        match self {
            Self::One(slot) => visit(*slot),
            Self::Few(slots) => slots.iter().copied().for_each(visit),
            Self::Many(slots) => slots.iter().copied().for_each(visit),
        }
    }

    /// The first that `is` says yes to.
    pub(super) fn find(&self, mut is: impl FnMut(u32) -> bool) -> Option<u32> {
        match self {
            Self::One(slot) => is(*slot).then_some(*slot),
            Self::Few(slots) => slots.iter().copied().find(|slot| is(*slot)),
            Self::Many(slots) => slots.iter().copied().find(|slot| is(*slot)),
        }
    }

    fn insert(&mut self, slot: u32) {
        match self {
            Self::One(one) if *one == slot => {}
            Self::One(one) => *self = Self::Few(Box::new(vec![*one, slot])),
            Self::Few(slots) if slots.contains(&slot) => {}
            Self::Few(slots) if slots.len() < FEW => slots.push(slot),
            Self::Few(slots) => *self = Self::Many(Box::new(slots.iter().copied().chain([slot]).collect())),
            Self::Many(slots) => _ = slots.insert(slot),
        }
    }

    /// Whether none is left.
    fn remove(&mut self, slot: u32) -> bool {
        match self {
            Self::One(one) => *one == slot,
            Self::Few(slots) => {
                slots.retain(|other| *other != slot);
                slots.is_empty()
            }
            Self::Many(slots) => {
                slots.remove(&slot);
                slots.is_empty()
            }
        }
    }
}

/// An index.
pub(super) struct Index<V>(AHashMap<V, Slots>);

impl<V: Eq + Hash> Index<V> {
    pub(super) fn new() -> Self {
        Self(AHashMap::new())
    }

    pub(super) fn get<Q: Eq + Hash + ?Sized>(&self, value: &Q) -> Option<&Slots>
    where
        V: std::borrow::Borrow<Q>,
    {
        self.0.get(value)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.0.keys()
    }

    pub(super) fn insert(&mut self, value: V, slot: u32) {
        self.0
            .entry(value)
            .and_modify(|slots| slots.insert(slot))
            .or_insert(Slots::One(slot));
    }

    pub(super) fn remove<Q: Eq + Hash + ?Sized>(&mut self, value: &Q, slot: u32)
    where
        V: std::borrow::Borrow<Q>,
    {
        if self.0.get_mut(value).is_some_and(|slots| slots.remove(slot)) {
            self.0.remove(value);
        }
    }
}

impl Index<Box<str>> {
    /// As [`Index::insert`]; the text is copied only where there is none of it yet.
    pub(super) fn insert_text(&mut self, value: &str, slot: u32) {
        match self.0.get_mut(value) {
            Some(slots) => slots.insert(slot),
            None => _ = self.0.insert(value.into(), Slots::One(slot)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_index_is_a_map_of_sets(steps in proptest::collection::vec((any::<bool>(), 0u8..3, 0u32..300), 0..1200)) {
            let mut index = Index::new();
            let mut model: BTreeMap<u8, BTreeSet<u32>> = BTreeMap::new();
            for (adds, value, slot) in steps {
                if adds {
                    index.insert(value, slot);
                    model.entry(value).or_default().insert(slot);
                } else {
                    index.remove(&value, slot);
                    if let Some(slots) = model.get_mut(&value) {
                        slots.remove(&slot);
                    }
                }
                model.retain(|_, slots| !slots.is_empty());
                prop_assert_eq!(index.values().copied().collect::<BTreeSet<_>>(), model.keys().copied().collect());
                for (value, slots) in &model {
                    let found = index.get(value).unwrap();
                    let mut seen = BTreeSet::new();
                    found.for_each(|slot| _ = seen.insert(slot));
                    prop_assert_eq!(&seen, slots);
                    prop_assert_eq!(found.len(), slots.len());
                }
            }
        }
    }
}
