//! Names that only one may have: among domains, in a domain, among global roles.

use madang_store::{Cache, ErrorKind, Kind, Op, Rejection, Resource, StoreError, Tx};

/// Keeps the names of a kind unique, in whatever way it is written. `key` gives what must be unique, as the kind's index
/// `name` has it; `describe` says in Keystone's words what is taken.
///
/// The index answers quickly and with words; the reservation is what holds when two ask at the same time.
pub(crate) fn keep_unique<K: Kind>(
    tx: &mut Tx<'_>,
    op: &Op<'_, K>,
    key: fn(&K::Spec) -> String,
    describe: fn(&K::Spec) -> String,
) -> Result<(), StoreError> {
    let space = format!("names/{}", K::NAME);
    match op {
        Op::Create(new) => take(tx, &space, new, key, describe),
        Op::Update { old, new } if key(&old.spec) != key(&new.spec) => {
            tx.release(&space, &key(&old.spec));
            take(tx, &space, new, key, describe)
        }
        Op::Update { .. } => Ok(()),
        Op::Remove(old) => {
            tx.release(&space, &key(&old.spec));
            Ok(())
        }
    }
}

fn take<K: Kind>(
    tx: &mut Tx<'_>,
    space: &str,
    new: &Resource<K>,
    key: fn(&K::Spec) -> String,
    describe: fn(&K::Spec) -> String,
) -> Result<(), StoreError> {
    let name = key(&new.spec);
    let cache: &Cache<K> = tx.store().cache();
    // One that this transaction renames or removes is still in the cache.
    let taken = cache.by("name", &name).iter().any(|other| {
        let now = tx.get::<K>(&other.key());
        other.metadata.uid != new.metadata.uid && now.is_some_and(|now| key(&now.spec) == name)
    });
    if taken {
        let message = format!("Conflict occurred attempting to store {}.", describe(&new.spec));
        return Err(Rejection::new(ErrorKind::Conflict, "Duplicate", message)
            .at("name")
            .into());
    }
    tx.reserve(space, &name, new.metadata.uid)
}
