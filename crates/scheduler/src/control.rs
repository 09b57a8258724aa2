//! The scheduler: takes pending claims in bulk and gives each a host.
//!
//! ```text
//! pending claims ──up to 256──► choose hosts on the snapshot ──► one transaction ──► placed, or failed with the reason
//! ```
//! The snapshot is what the watch has brought plus what this round has given away. Capacity is checked again inside the
//! commit: a round that loses a race is decided anew.

use std::{collections::HashMap, sync::Arc, time::Duration};

use madang_control::{Backoff, Queue, TaskGroup};
use madang_store::{Cause, Change, Key, Resource, Store, StoreError, Tx};
use parking_lot::Mutex;
use tracing::{info, warn};
use uuid::Uuid;

pub use crate::snapshot::is_alive;
use crate::{
    Claim, HostGroup, Options, Provider,
    ask::Ask,
    plan::{Nowhere, choose},
    snapshot::Snapshot,
};

/// Claims placed in one transaction at most.
const ROUND: usize = 256;
/// A host that was not heard of for this long takes nothing. Heartbeats come every minute.
pub const HEARTBEAT_LIMIT: Duration = Duration::from_secs(180);
/// How often everything pending is looked at without a change.
const RESYNC: Duration = Duration::from_secs(60);

/// Starts the scheduler in `group`, with the settings that hold where nothing is set.
pub fn run(store: &Store, group: &TaskGroup) {
    run_with(store, Options::default(), group);
}

/// Starts the scheduler in `group`.
pub fn run_with(store: &Store, options: Options, group: &TaskGroup) {
    let queue = Queue::<Key>::new(Backoff::default());
    let arrivals = queue.clone();
    store.cache::<Claim>().on_change(move |change| {
        if let Some(claim) = change.new.as_ref().filter(|claim| claim.status.is_pending()) {
            arrivals.add(claim.key());
        }
    });
    let (clock, everything) = (queue.clone(), store.clone());
    group.spawn_until_stopped("scheduler-clock", async move {
        loop {
            for claim in everything.cache::<Claim>().by("pending", "yes") {
                clock.add(claim.key());
            }
            tokio::time::sleep(RESYNC).await;
        }
    });
    let (store, token) = (store.clone(), group.token());
    group.spawn("scheduler", async move {
        let followed = tokio::select! {
            followed = follow(&store) => followed,
            () = token.cancelled() => return,
        };
        let snapshot = match followed {
            Ok(snapshot) => snapshot,
            Err(error) => {
                warn!(%error, "the scheduler ends: the store does");
                return;
            }
        };
        crate::claim::heal::run(&store).await;
        let mut scheduler = Scheduler {
            store,
            options,
            snapshot,
            turn: 0,
        };
        loop {
            let first = tokio::select! {
                ticket = queue.next() => ticket,
                () = token.cancelled() => return,
            };
            let mut tickets = vec![first];
            tickets.extend(queue.take_ready(ROUND - 1));
            let keys: Vec<Key> = tickets.iter().map(|ticket| ticket.key().clone()).collect();
            match scheduler.place(&keys).await {
                Ok(()) => tickets.into_iter().for_each(madang_control::Ticket::done),
                Err(error) => {
                    warn!(%error, claims = keys.len(), "could not place claims, trying again");
                    tickets.into_iter().for_each(madang_control::Ticket::failed);
                }
            }
        }
    });
}

/// A snapshot that the watch keeps current from now on.
///
/// # Errors
/// `Closed` when the store closes before it is complete.
pub async fn follow(store: &Store) -> Result<Arc<Mutex<Snapshot>>, StoreError> {
    let snapshot = Arc::new(Mutex::new(Snapshot::default()));
    // Changes that come while everything is loaded wait here, in their order.
    let early: Arc<Mutex<Option<Vec<Seen>>>> = Arc::new(Mutex::new(Some(Vec::new())));
    listen::<Provider>(store, &snapshot, &early, Seen::Provider, Snapshot::provider_changed);
    listen::<HostGroup>(store, &snapshot, &early, Seen::Group, Snapshot::group_changed);
    listen::<Claim>(store, &snapshot, &early, Seen::Claim, Snapshot::claim_changed);
    let providers = load::<Provider>(store);
    let groups = load::<HostGroup>(store);
    let claims = load::<Claim>(store);
    // Whatever was loaded has been told by when the caches are applied so far.
    let newest = [
        providers.values().map(|one| one.revision).max(),
        groups.values().map(|one| one.revision).max(),
        claims.values().map(|one| one.revision).max(),
    ];
    if let Some(newest) = newest.into_iter().flatten().max() {
        store.reached(newest).await?;
    }
    let mut locked = snapshot.lock();
    for provider in providers.values() {
        locked.provider_changed(&new(provider));
    }
    for group in groups.values() {
        locked.group_changed(&new(group));
    }
    for claim in claims.values() {
        locked.claim_changed(&new(claim));
    }
    let waiting = early.lock().take().unwrap_or_default();
    let mut late = (Latest(providers), Latest(groups), Latest(claims));
    for seen in waiting {
        match seen {
            Seen::Provider(change) => late.0.take(change).iter().for_each(|c| locked.provider_changed(c)),
            Seen::Group(change) => late.1.take(change).iter().for_each(|c| locked.group_changed(c)),
            Seen::Claim(change) => late.2.take(change).iter().for_each(|c| locked.claim_changed(c)),
        }
    }
    drop(locked);
    Ok(snapshot)
}

/// A change that came while everything was loaded.
enum Seen {
    Provider(Change<Provider>),
    Group(Change<HostGroup>),
    Claim(Change<Claim>),
}

fn listen<K: madang_store::Kind>(
    store: &Store,
    snapshot: &Arc<Mutex<Snapshot>>,
    early: &Arc<Mutex<Option<Vec<Seen>>>>,
    seen: fn(Change<K>) -> Seen,
    apply: fn(&mut Snapshot, &Change<K>),
) {
    let (snapshot, early) = (Arc::clone(snapshot), Arc::clone(early));
    store.cache::<K>().on_change(move |change| {
        let mut locked = snapshot.lock();
        match early.lock().as_mut() {
            Some(waiting) => waiting.push(seen(Change {
                old: change.old.clone(),
                new: change.new.clone(),
            })),
            None => apply(&mut locked, change),
        }
    });
}

fn load<K: madang_store::Kind>(store: &Store) -> HashMap<Key, Arc<Resource<K>>> {
    let all = store.cache::<K>().all().into_iter();
    all.map(|resource| (resource.key(), resource)).collect()
}

fn new<K: madang_store::Kind>(resource: &Arc<Resource<K>>) -> Change<K> {
    Change {
        old: None,
        new: Some(Arc::clone(resource)),
    }
}

/// What the snapshot shows of a kind while waiting changes are laid over it.
struct Latest<K: madang_store::Kind>(HashMap<Key, Arc<Resource<K>>>);

impl<K: madang_store::Kind> Latest<K> {
    /// The change as it is over what was loaded; none when it was loaded already.
    fn take(&mut self, change: Change<K>) -> Option<Change<K>> {
        let key = change.resource().key();
        let known = self.0.get(&key).cloned();
        match change.new {
            Some(new) => {
                if known.as_ref().is_some_and(|known| known.revision >= new.revision) {
                    return None;
                }
                self.0.insert(key, Arc::clone(&new));
                Some(Change {
                    old: known,
                    new: Some(new),
                })
            }
            None => {
                // What was loaded may be what came after the one that went.
                let is_it =
                    |known: &Arc<Resource<K>>| change.old.as_ref().is_none_or(|old| old.revision >= known.revision);
                let gone = known.filter(is_it)?;
                self.0.remove(&key);
                Some(Change {
                    old: Some(gone),
                    new: None,
                })
            }
        }
    }
}

/// Places claims on a snapshot, round by round. The scheduler's task has one; benches and tests may have their own.
pub struct Scheduler {
    /// The store.
    pub store: Store,
    /// The settings.
    pub options: Options,
    /// The hosts, from [`follow`].
    pub snapshot: Arc<Mutex<Snapshot>>,
    /// Where the next search begins, so that equal hosts take turns.
    pub turn: usize,
}

impl Scheduler {
    /// Places (or fails) the pending ones of `keys` in one transaction.
    ///
    /// # Errors
    /// What the store says; `LimitExceeded` when others were faster eight times.
    pub async fn place(&mut self, keys: &[Key]) -> Result<(), StoreError> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let mut taken: Vec<Arc<Resource<Claim>>> = Vec::new();
            let (store, options, snapshot) = (self.store.clone(), &self.options, &self.snapshot);
            let turn = &mut self.turn;
            let decided = store
                .transact(Cause::system("scheduler"), |tx| {
                    let mut hosts = snapshot.lock();
                    give_back(&mut hosts, &mut taken);
                    round(tx, keys, options, &mut hosts, &mut taken, turn)
                })
                .await;
            // The watch has brought what was committed: what was noted beforehand is counted twice until now.
            give_back(&mut snapshot.lock(), &mut taken);
            match decided {
                // The view was older than the usage: the newest is in the caches soon.
                Err(StoreError::LimitExceeded { .. }) if attempts < 8 => {
                    let newest = store.backend().revision().await?;
                    store.reached(newest).await?;
                }
                other => return other,
            }
        }
    }
}

fn give_back(hosts: &mut Snapshot, taken: &mut Vec<Arc<Resource<Claim>>>) {
    for claim in taken.drain(..) {
        hosts.untake(&claim);
    }
}

fn round(
    tx: &mut Tx<'_>,
    keys: &[Key],
    options: &Options,
    hosts: &mut Snapshot,
    taken: &mut Vec<Arc<Resource<Claim>>>,
    turn: &mut usize,
) -> Result<(), StoreError> {
    let mut placed_groups: HashMap<Uuid, Vec<String>> = HashMap::new();
    for key in keys {
        let pending = tx.get::<Claim>(key);
        let Some(claim) = pending.filter(|c| c.status.is_pending() && !c.metadata.is_deleting()) else {
            continue;
        };
        let members = members(tx.store(), &claim, &placed_groups);
        let store = tx.store();
        let host_of = |id: &str| store.cache::<Claim>().by_name(id)?.status.host.clone();
        let ask = Ask::new(&claim.spec, claim.project(), members, host_of);
        let mut new = (*claim).clone();
        // Each begins a little further on, so that equal hosts take turns within a round, too.
        *turn = turn.wrapping_add(1);
        let start = turn.wrapping_mul(31) % hosts.len().max(1);
        match choose(hosts, options, &ask, tx.at(), start) {
            Ok(choice) => {
                if let Some(group) = &claim.spec.group {
                    placed_groups.entry(group.id).or_default().push(choice.host.clone());
                }
                new.status.host = Some(choice.host);
                new.status.provider = Some(choice.provider);
                new.status.shares = choice.shares;
                new.status.generation += 1;
            }
            Err(nowhere) => {
                let Nowhere { reason, refusals } = *nowhere;
                info!(consumer = claim.name(), reason, "no host for a claim");
                new.status.failure = Some(reason);
                new.status.refusals = refusals;
            }
        }
        let new = tx.update(&claim, new)?;
        if new.status.provider.is_some() {
            hosts.take(&new);
            taken.push(new);
        }
    }
    Ok(())
}

/// The hosts of a claim's group, once for each member that has one.
fn members(store: &Store, claim: &Resource<Claim>, placed: &HashMap<Uuid, Vec<String>>) -> Vec<String> {
    let Some(group) = &claim.spec.group else {
        return Vec::new();
    };
    let others = store.cache::<Claim>().by("group", &group.id.to_string());
    let others = others.iter().filter(|other| other.name() != claim.name());
    let mut hosts: Vec<String> = others.filter_map(|other| other.status.host.clone()).collect();
    hosts.extend(placed.get(&group.id).into_iter().flatten().cloned());
    hosts
}
