//! What holds for providers, whoever writes them: names are unique, trees have no circles, and what is in use stays.

use std::sync::Arc;

use madang_store::{Delta, ErrorKind, Key, Kind, Op, Rejection, Resource, Store, StoreError, Tx};

use crate::{Provider, claim::rules::usage_group};

/// Where the names of providers are reserved.
const NAMES: &str = "providers";
/// A tree that is deeper is taken for a circle.
const DEPTH: usize = 64;

/// The rule of the kind.
pub(crate) fn admit(tx: &mut Tx<'_>, op: Op<'_, Provider>) -> Result<(), StoreError> {
    match op {
        Op::Create(provider) => {
            name(tx, provider)?;
            if let Some(parent) = provider.spec.parent.clone() {
                descend(tx, provider, &parent)?;
            }
            Ok(())
        }
        Op::Update { old, new } => {
            if old.spec.name != new.spec.name {
                name(tx, new)?;
                tx.release(NAMES, &old.spec.name);
            }
            match &new.spec.parent {
                Some(parent) if old.spec.parent != new.spec.parent => {
                    let parent = parent.clone();
                    descend(tx, new, &parent)?;
                }
                _ => {}
            }
            let gone: Vec<&String> = old.spec.inventories.keys().collect();
            let gone: Vec<String> = gone
                .into_iter()
                .filter(|class| !new.spec.inventories.contains_key(*class))
                .cloned()
                .collect();
            expect_unused(tx, new.name(), &gone);
            Ok(())
        }
        Op::Remove(provider) => {
            tx.release(NAMES, &provider.spec.name);
            let classes: Vec<String> = provider.spec.inventories.keys().cloned().collect();
            expect_unused(tx, provider.name(), &classes);
            Ok(())
        }
    }
}

/// Takes the name of a provider, which no other has.
fn name(tx: &mut Tx<'_>, provider: &Resource<Provider>) -> Result<(), StoreError> {
    let name = &provider.spec.name;
    let others = tx.store().cache::<Provider>().by("name", name);
    let is_other = |other: &Arc<Resource<Provider>>| {
        other.name() != provider.name()
            && tx
                .get::<Provider>(&other.key())
                .is_some_and(|now| now.spec.name == *name)
    };
    if others.iter().any(is_other) {
        let message = format!("Conflicting resource provider name: {name} already exists.");
        return Err(Rejection::new(ErrorKind::Conflict, "placement.duplicate_name", message).into());
    }
    tx.reserve(NAMES, name, provider.metadata.uid)
}

/// Requires at commit that the parents up to the root are as they are now, and that the provider is none of them.
fn descend(tx: &mut Tx<'_>, provider: &Resource<Provider>, parent: &str) -> Result<(), StoreError> {
    let refuse = |why: &'static str| Rejection::new(ErrorKind::Invalid, "", why).at("parent_provider_uuid");
    let mut above = parent.to_owned();
    for _ in 0..DEPTH {
        if above == provider.name() {
            return Err(refuse("creating loop in the provider tree is not allowed.").into());
        }
        let next = tx.get::<Provider>(&key(&above));
        let next = next.ok_or_else(|| refuse("parent provider UUID does not exist."))?;
        tx.expect(&*next)?;
        match &next.spec.parent {
            Some(parent) => above.clone_from(parent),
            None => return Ok(()),
        }
    }
    Err(refuse("creating loop in the provider tree is not allowed.").into())
}

/// Fails the transaction at commit when somebody has something of these classes then.
fn expect_unused(tx: &mut Tx<'_>, provider: &str, classes: &[String]) {
    let add = |class: &String, add, limit| Delta {
        field: class.clone(),
        add,
        limit,
    };
    // A limit is only looked at where something is added.
    let probe = classes
        .iter()
        .flat_map(|class| [add(class, 1, Some(1)), add(class, -1, None)]);
    let probe = probe.collect();
    tx.add("", &usage_group(provider), probe);
}

/// Where a provider is.
pub(crate) fn key(id: &str) -> Key {
    Key::new(Provider::NAME, "", "", id)
}

/// The uuid of the root of a provider's tree; its own where it has no parent.
pub(crate) fn root(store: &Store, provider: &Resource<Provider>) -> String {
    let mut root = provider.name().to_owned();
    let mut parent = provider.spec.parent.clone();
    for _ in 0..DEPTH {
        let Some(above) = parent else { break };
        parent = store
            .cache::<Provider>()
            .by_name(&above)
            .and_then(|above| above.spec.parent.clone());
        root = above;
    }
    root
}
