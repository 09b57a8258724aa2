//! Resource classes and traits that operators made, beside the standard ones.

use std::collections::BTreeSet;

use madang_store::{Kind, Store};

use crate::{Provider, api::standard};

/// The kind of custom resource classes. `metadata.name` is the name, such as `CUSTOM_FPGA`; there is no more to it.
pub struct ResourceClass;

impl Kind for ResourceClass {
    const NAME: &'static str = "resourceclasses";
    type Spec = ();
    type Status = ();
}

/// The kind of custom traits. `metadata.name` is the name, such as `CUSTOM_GOLD`; there is no more to it.
pub struct Trait;

impl Kind for Trait {
    const NAME: &'static str = "traits";
    type Spec = ();
    type Status = ();
}

/// Whether there is a resource class: a standard one, a custom one, or one that a host's agent has brought along.
pub(crate) fn is_class(store: &Store, name: &str) -> bool {
    standard::CLASSES.contains(&name)
        || store.cache::<ResourceClass>().by_name(name).is_some()
        || store.cache::<Provider>().count_by("class", name) > 0
}

/// Whether there is a trait: a standard one, a custom one, or one that a host's agent has brought along.
pub(crate) fn is_trait(store: &Store, name: &str) -> bool {
    standard::TRAITS.binary_search(&name).is_ok()
        || store.cache::<Trait>().by_name(name).is_some()
        || store.cache::<Provider>().count_by("trait", name) > 0
}

/// The names of all resource classes, the standard ones first.
pub(crate) fn classes(store: &Store) -> Vec<String> {
    let providers = store.cache::<Provider>().all();
    let used = providers
        .iter()
        .flat_map(|provider| provider.spec.inventories.keys().cloned());
    let made = store.cache::<ResourceClass>().all();
    let custom: BTreeSet<String> = used.chain(made.iter().map(|one| one.name().to_owned())).collect();
    let custom = custom
        .into_iter()
        .filter(|name| !standard::CLASSES.contains(&name.as_str()));
    standard::CLASSES
        .iter()
        .map(|name| (*name).to_owned())
        .chain(custom)
        .collect()
}

/// The names of all traits, sorted; with `associated`, only those that some provider has, or that none has.
pub(crate) fn traits(store: &Store, associated: Option<bool>) -> BTreeSet<String> {
    let providers = store.cache::<Provider>().all();
    let used: BTreeSet<String> = providers
        .iter()
        .flat_map(|provider| provider.spec.traits.iter().cloned())
        .collect();
    if associated == Some(true) {
        return used;
    }
    let made = store.cache::<Trait>().all();
    let known = made.iter().map(|one| one.name().to_owned());
    let mut all: BTreeSet<String> = standard::TRAITS
        .iter()
        .map(|name| (*name).to_owned())
        .chain(known)
        .collect();
    match associated {
        Some(_) => all.retain(|name| !used.contains(name)),
        None => all.extend(used),
    }
    all
}
