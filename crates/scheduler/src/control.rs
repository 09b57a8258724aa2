//! The scheduler: takes pending claims in bulk and gives each a host.
//!
//! ```text
//! pending claims ──up to 256──► choose hosts on the snapshot ──► one transaction ──► placed, or failed with the reason
//! ```
//! The snapshot is what the watch has brought plus what rounds under way have given away, so that the next rounds are
//! planned while the ones before are written. Capacity is checked again inside the commit: a round that loses a race is
//! decided anew.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use madang_control::{Backoff, Queue, TaskGroup};
use madang_store::{Cause, Change, Key, Resource, Revision, Store, StoreError, Tx};
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tracing::{info, warn};

pub use crate::snapshot::is_alive;
use crate::{
    Claim, HostGroup, Options, Provider,
    ask::Ask,
    plan::{Nowhere, choose},
    snapshot::Snapshot,
};

/// Claims placed in one transaction at most.
const ROUND: usize = 256;
/// Rounds under way at most: one is planned while others are written, and the engine makes those durable together.
const ROUNDS: usize = 4;
/// As often others may be faster before a round is put off.
const ATTEMPTS: usize = 8;
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
        let scheduler = Scheduler::new(store, options, snapshot);
        let mut rounds = JoinSet::new();
        loop {
            let first = tokio::select! {
                ticket = queue.next(), if rounds.len() < ROUNDS => ticket,
                Some(_) = rounds.join_next() => continue,
                () = token.cancelled() => break,
            };
            let mut tickets = vec![first];
            tickets.extend(queue.take_ready(ROUND - 1));
            let scheduler = scheduler.clone();
            rounds.spawn(async move {
                let keys: Vec<Key> = tickets.iter().map(|ticket| ticket.key().clone()).collect();
                match scheduler.place_round(&keys).await {
                    Ok(()) => tickets.into_iter().for_each(madang_control::Ticket::done),
                    Err(error) => {
                        warn!(%error, claims = keys.len(), "could not place claims, trying again");
                        tickets.into_iter().for_each(madang_control::Ticket::failed);
                    }
                }
            });
        }
        while rounds.join_next().await.is_some() {}
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
    let providers = store.cache::<Provider>().all();
    let groups = store.cache::<HostGroup>().all();
    let claims = store.cache::<Claim>().all();
    // Whatever was loaded has been told by when the caches are applied so far.
    let newest = [newest(&providers), newest(&groups), newest(&claims)];
    if let Some(newest) = newest.into_iter().flatten().max() {
        store.reached(newest).await?;
    }
    let mut locked = snapshot.lock();
    providers.iter().for_each(|one| locked.provider_changed(&new(one)));
    groups.iter().for_each(|one| locked.group_changed(&new(one)));
    locked.load(&claims);
    let waiting = early.lock().take().unwrap_or_default();
    let changed: HashSet<Key> = waiting.iter().map(Seen::key).collect();
    let mut late = (
        Latest::of(&providers, &changed),
        Latest::of(&groups, &changed),
        Latest::of(&claims, &changed),
    );
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

impl Seen {
    fn key(&self) -> Key {
        match self {
            Self::Provider(change) => change.resource().key(),
            Self::Group(change) => change.resource().key(),
            Self::Claim(change) => change.resource().key(),
        }
    }
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

fn newest<K: madang_store::Kind>(all: &[Arc<Resource<K>>]) -> Option<Revision> {
    all.iter().map(|one| one.revision).max()
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
    /// Those of what was loaded that have changed meanwhile.
    fn of(loaded: &[Arc<Resource<K>>], changed: &HashSet<Key>) -> Self {
        if changed.is_empty() {
            return Self(HashMap::new());
        }
        let keyed = loaded.iter().map(|resource| (resource.key(), Arc::clone(resource)));
        Self(keyed.filter(|(key, _)| changed.contains(key)).collect())
    }

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
/// Clones are the same scheduler.
#[derive(Clone)]
pub struct Scheduler {
    store: Store,
    options: Arc<Options>,
    snapshot: Arc<Mutex<Snapshot>>,
    /// Where the next search begins, so that equal hosts take turns.
    turn: Arc<AtomicUsize>,
}

impl Scheduler {
    /// One that places on `snapshot`, from [`follow`].
    pub fn new(store: Store, options: Options, snapshot: Arc<Mutex<Snapshot>>) -> Self {
        Self {
            store,
            options: Arc::new(options),
            snapshot,
            turn: Arc::default(),
        }
    }

    /// Places (or fails) the pending ones of `keys`, each once, as the scheduler's task does: rounds under way at a time.
    ///
    /// # Errors
    /// As [`Scheduler::place_round`], of the first round that does not come about; others may have.
    pub async fn place(&self, keys: &[Key]) -> Result<(), StoreError> {
        let mut rounds = JoinSet::new();
        let mut outcome = Ok(());
        let mut left = keys.chunks(ROUND);
        loop {
            if rounds.len() < ROUNDS
                && let Some(round) = left.next()
            {
                let (scheduler, keys) = (self.clone(), round.to_vec());
                rounds.spawn(async move { scheduler.place_round(&keys).await });
                continue;
            }
            match rounds.join_next().await {
                Some(placed) => outcome = outcome.and(placed.unwrap_or(Err(StoreError::Closed))),
                None => return outcome,
            }
        }
    }

    /// Places (or fails) the pending ones of `keys` in one transaction. Others may be under way, for other keys.
    ///
    /// # Errors
    /// What the store says; `LimitExceeded` when others were faster eight times.
    pub async fn place_round(&self, keys: &[Key]) -> Result<(), StoreError> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let mut taken = Taken {
                snapshot: &self.snapshot,
                claims: Vec::new(),
            };
            let decided = self
                .store
                .transact(Cause::system("scheduler"), |tx| {
                    taken.give_back();
                    self.plan(tx, keys, &mut taken)
                })
                .await;
            match decided {
                // The view was older than the usage: the newest is in the caches soon.
                Err(StoreError::LimitExceeded { .. }) if attempts < ATTEMPTS => {
                    drop(taken);
                    let newest = self.store.backend().revision().await?;
                    self.store.reached(newest).await?;
                }
                other => return other,
            }
        }
    }

    fn plan(&self, tx: &mut Tx<'_>, keys: &[Key], taken: &mut Taken<'_>) -> Result<(), StoreError> {
        for key in keys {
            let pending = tx.get::<Claim>(key);
            let Some(claim) = pending.filter(|c| c.status.is_pending() && !c.metadata.is_deleting()) else {
                continue;
            };
            let store = tx.store();
            let host_of = |id: &str| store.cache::<Claim>().by_name(id)?.status.host.clone();
            // Locked for one claim at a time: whoever brings changes waits for it.
            let mut hosts = self.snapshot.lock();
            let members = members(store, &claim, &hosts);
            let ask = Ask::new(&claim.spec, claim.project(), members, host_of);
            let mut new = (*claim).clone();
            let turn = self.turn.fetch_add(1, Ordering::Relaxed);
            let start = turn.wrapping_mul(31) % hosts.len().max(1);
            match choose(&hosts, &self.options, &ask, tx.at(), start) {
                Ok(choice) => {
                    new.status.host = Some(choice.host);
                    new.status.provider = Some(choice.provider);
                    new.status.shares = choice.shares;
                    new.status.seats = choice.seats;
                    new.status.generation += 1;
                    let new = Arc::new(new);
                    hosts.take(&new);
                    drop(hosts);
                    taken.claims.push(Arc::clone(&new));
                    tx.update(&claim, (*new).clone())?;
                }
                Err(nowhere) => {
                    drop(hosts);
                    let Nowhere { reason, refusals } = *nowhere;
                    info!(consumer = claim.name(), reason, "no host for a claim");
                    new.status.failure = Some(reason);
                    new.status.refusals = refusals;
                    tx.update(&claim, new)?;
                }
            }
        }
        Ok(())
    }
}

/// What a round has taken of the snapshot. What the watch has not brought by the end of the round did not come about.
struct Taken<'s> {
    snapshot: &'s Mutex<Snapshot>,
    claims: Vec<Arc<Resource<Claim>>>,
}

impl Taken<'_> {
    fn give_back(&mut self) {
        let mut hosts = self.snapshot.lock();
        self.claims.drain(..).for_each(|claim| hosts.untake(&claim));
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// The hosts of a claim's group, once for each member that has one.
fn members(store: &Store, claim: &Resource<Claim>, snapshot: &Snapshot) -> Vec<String> {
    let Some(group) = &claim.spec.group else {
        return Vec::new();
    };
    let others = store.cache::<Claim>().by("group", &group.id.to_string());
    let mut hosts: HashMap<&str, &String> = HashMap::new();
    for other in others.iter().chain(snapshot.passing(group.id)) {
        if let Some(host) = other.status.host.as_ref().filter(|_| other.name() != claim.name()) {
            hosts.insert(other.name(), host);
        }
    }
    hosts.into_values().cloned().collect()
}
