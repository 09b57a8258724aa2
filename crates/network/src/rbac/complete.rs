//! What was shared or external before there were policies gets those that its flags stand for.

use std::sync::Arc;

use madang_store::{Cause, Kind, Resource, Store, StoreError, Tx};

use super::{Action, RbacPolicy, Shareable, rules::follow_flag};
use crate::{Network, SubnetPool, lookup::find};

/// An object with a flag that no policy stands for.
struct Bare {
    id: String,
    of: Shareable,
    action: Action,
}

/// Makes the policies that are missing in a store of before; changes nothing in others. For the start, before anybody asks.
///
/// # Errors
/// The store's.
pub async fn complete(store: &Store) -> Result<(), StoreError> {
    let bare = bare(store);
    if bare.is_empty() {
        return Ok(());
    }
    store
        .transact(Cause::system("network"), |tx| {
            bare.iter().try_for_each(|Bare { id, of, action }| match of {
                Shareable::SubnetPool => follow::<SubnetPool>(tx, id, *of, *action),
                _ => follow::<Network>(tx, id, *of, *action),
            })
        })
        .await
}

fn follow<K: Kind>(tx: &mut Tx<'_>, id: &str, of: Shareable, action: Action) -> Result<(), StoreError> {
    match find::<K>(tx, id) {
        Some(object) => follow_flag(tx, &object, of, action, true),
        None => Ok(()),
    }
}

fn bare(store: &Store) -> Vec<Bare> {
    fn flagged<K: Kind>(
        store: &Store,
        of: Shareable,
        action: Action,
        has: impl Fn(&Resource<K>) -> bool,
    ) -> impl Iterator<Item = Bare> {
        let mut objects: Vec<Arc<Resource<K>>> = store.cache::<K>().all();
        objects.retain(|object| has(object));
        objects.into_iter().map(move |object| Bare {
            id: object.name().to_owned(),
            of,
            action,
        })
    }
    let (shared, external) = (Action::AccessAsShared, Action::AccessAsExternal);
    let all = flagged::<Network>(store, Shareable::Network, shared, |network| network.spec.is_shared)
        .chain(flagged::<Network>(store, Shareable::Network, external, |network| {
            network.spec.is_external
        }))
        .chain(flagged::<SubnetPool>(store, Shareable::SubnetPool, shared, |pool| {
            pool.spec.is_shared
        }));
    let policies = store.cache::<RbacPolicy>();
    let has_policy = |bare: &Bare| {
        let its = policies.by("object", &bare.id);
        its.iter().any(|policy| policy.spec.action == bare.action)
    };
    all.filter(|bare| !has_policy(bare)).collect()
}
