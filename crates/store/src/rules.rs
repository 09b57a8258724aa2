//! What happens to a resource of a kind on its way into the store, whoever writes it.

use std::{
    any::{Any, TypeId},
    sync::Arc,
};

use ahash::AHashMap;

use crate::{Kind, Resource, StoreError, Tx};

/// A write on its way in, before it is part of the transaction. Rules may change what is new and add writes.
pub enum Op<'a, K: Kind> {
    /// A new resource.
    Create(&'a mut Resource<K>),
    /// A change, the mark of deletion included.
    Update {
        /// As stored.
        old: &'a Resource<K>,
        /// As it will be.
        new: &'a mut Resource<K>,
    },
    /// The end: its finalizers are done, the record goes in this transaction.
    Remove(&'a Resource<K>),
}

pub(crate) type Rule<K> = Arc<dyn Fn(&mut Tx<'_>, Op<'_, K>) -> Result<(), StoreError> + Send + Sync>;

/// All rules, by kind, in the order of their registration.
#[derive(Default)]
pub(crate) struct Rules(AHashMap<TypeId, Box<dyn Any + Send + Sync>>);

impl Rules {
    pub(crate) fn add<K: Kind>(&mut self, rule: Rule<K>) {
        let rules = self
            .0
            .entry(TypeId::of::<K>())
            .or_insert_with(|| Box::new(Vec::<Rule<K>>::new()));
        rules
            .downcast_mut::<Vec<Rule<K>>>()
            .expect("rules are kept under their kind")
            .push(rule);
    }

    pub(crate) fn of<K: Kind>(&self) -> &[Rule<K>] {
        let rules = self.0.get(&TypeId::of::<K>());
        rules
            .and_then(|rules| rules.downcast_ref::<Vec<Rule<K>>>())
            .map_or(&[], Vec::as_slice)
    }
}
