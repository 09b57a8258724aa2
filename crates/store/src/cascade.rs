//! When an owner is gone, what it owned goes too.
//!
//! The applier notes owners that went, and owners that somebody names who are nowhere; one task deletes what has no
//! living owner left, which may own others in turn. What cannot be deleted now (a rule says no) is tried again, ever
//! more rarely. A restart finds orphans by looking at every owner once.

use std::time::Duration;

use ahash::{AHashMap, AHashSet};
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};
use tracing::warn;

use crate::{Cause, Key, OwnerReference, Store, StoreError};

/// Dependents deleted in one transaction at most.
const STEP: usize = 128;
/// How long to wait before an owner is looked at again, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// Owners whose end has to be followed up.
#[derive(Default)]
pub(crate) struct Cascade {
    gone: Mutex<AHashSet<OwnerReference>>,
    wake: Notify,
}

/// An owner that could not be followed up.
struct Late {
    due: Instant,
    wait: Duration,
}

impl Cascade {
    /// Notes that a resource is gone, or is named and nowhere.
    pub(crate) fn add(&self, owner: OwnerReference) {
        self.gone.lock().insert(owner);
        self.wake.notify_one();
    }

    /// Notes every owner that is named somewhere and is nowhere.
    pub(crate) fn add_orphans(&self, store: &Store) {
        for owner in store
            .caches()
            .flat_map(|cache| cache.owners(&|owner| !store.lives(owner)))
        {
            self.add(owner);
        }
    }

    /// Deletes dependents for ever, until the store is closed.
    pub(crate) async fn run(&self, store: &Store) {
        let mut late: AHashMap<OwnerReference, Late> = AHashMap::new();
        loop {
            let now = Instant::now();
            let mut gone = std::mem::take(&mut *self.gone.lock());
            gone.extend(
                late.iter()
                    .filter(|(_, late)| late.due <= now)
                    .map(|(owner, _)| owner.clone()),
            );
            for owner in gone {
                match follow_up(store, &owner).await {
                    Ok(()) => _ = late.remove(&owner),
                    Err(StoreError::Closed) => return,
                    Err(failed) => {
                        let wait = late.get(&owner).map_or(RETRY.0, |late| (late.wait * 2).min(RETRY.1));
                        warn!(owner = %owner.uid, %failed, ?wait, "could not delete what a removed resource owned");
                        late.insert(
                            owner,
                            Late {
                                due: Instant::now() + wait,
                                wait,
                            },
                        );
                    }
                }
            }
            match late.values().map(|late| late.due).min() {
                Some(due) => tokio::select! {
                    () = self.wake.notified() => {}
                    () = tokio::time::sleep_until(due) => {}
                },
                None => self.wake.notified().await,
            }
        }
    }
}

/// Deletes what an owner leaves behind: together where it can be, one by one where a rule objects to some of it.
async fn follow_up(store: &Store, owner: &OwnerReference) -> Result<(), StoreError> {
    if store.lives(owner) {
        return Ok(());
    }
    let orphans: Vec<Key> = store
        .caches()
        .flat_map(|cache| cache.orphans(owner.uid, &|other| store.lives(other)))
        .collect();
    let mut last = Ok(());
    for step in orphans.chunks(STEP) {
        match delete(store, step).await {
            Ok(()) => {}
            Err(StoreError::Closed) => return Err(StoreError::Closed),
            Err(_) => {
                for key in step {
                    if let Err(failed) = delete(store, std::slice::from_ref(key)).await {
                        last = Err(failed);
                    }
                }
            }
        }
    }
    last
}

async fn delete(store: &Store, keys: &[Key]) -> Result<(), StoreError> {
    store
        .transact(Cause::system("cascade"), |tx| {
            keys.iter().try_for_each(|key| store.delete_any(tx, key))
        })
        .await
}
