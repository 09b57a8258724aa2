//! The store as the rest of madang uses it: caches to read, transactions to write.

use std::{
    any::{Any, TypeId},
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use ahash::AHashMap;
use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::{
    Backend, Cache, Cause, Event, Expect, Key, Kind, Op, OwnerReference, Prefix, Record, Resource, Revision,
    StoreError, Tx, Watch,
    applied::AppliedRevision,
    cache::{AnyCache, Ready, View},
    cascade::Cascade,
    counting::{self, CounterFields},
    fresh::Fresh,
    rules::Rules,
    turns::Turns,
    tx::{COUNTERS, counter_key},
};

/// How often a transaction is decided anew when others write the same at the same time.
const MAX_ATTEMPTS: u32 = 64;
/// How many batches the applier takes in before it tells who waits.
const APPLY_AT_ONCE: usize = 256;
/// How long to wait between attempts to list again when the engine fails.
const RELIST_PAUSE: std::time::Duration = std::time::Duration::from_millis(500);
/// How many records are listed at a time when the caches are filled.
const LIST_PAGE: usize = 4096;
/// Pages that are read and decoded at the same time when the caches are filled, at most.
const FILLERS: usize = 8;

/// The values of a counter record, by field.
pub type Counters = BTreeMap<String, i64>;

/// Collects kinds and rules, then opens the store.
#[derive(Default)]
pub struct StoreBuilder {
    caches: AHashMap<&'static str, Arc<dyn AnyCache>>,
    typed: AHashMap<TypeId, Arc<dyn Any + Send + Sync>>,
    rules: Rules,
}

impl StoreBuilder {
    /// No kinds yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a kind known, so that it is cached. Knowing it already is fine.
    pub fn kind<K: Kind>(&mut self) -> &mut Self {
        if !self.typed.contains_key(&TypeId::of::<K>()) {
            let cache: Arc<dyn AnyCache> = Arc::new(Cache::<K>::new());
            self.typed.insert(TypeId::of::<K>(), Arc::clone(&cache).as_any());
            let before = self.caches.insert(K::NAME, cache);
            assert!(before.is_none(), "two kinds are called {}", K::NAME);
        }
        self
    }

    /// Adds a rule that every write of kind `K` goes through, after those registered before. It runs again whenever the
    /// transaction is decided anew, so it has no effect but on its arguments.
    pub fn rule<K: Kind>(
        &mut self,
        rule: impl Fn(&mut Tx<'_>, Op<'_, K>) -> Result<(), StoreError> + Send + Sync + 'static,
    ) -> &mut Self {
        self.kind::<K>();
        self.rules.add::<K>(Arc::new(rule));
        self
    }

    /// Fills the caches from the backend and follows it from there.
    ///
    /// # Errors
    /// What the backend says; `Decode` for a record that its kind cannot read.
    pub async fn open(self, backend: Arc<dyn Backend>) -> Result<Store, StoreError> {
        let inner = Inner {
            backend,
            caches: self.caches,
            typed: self.typed,
            rules: self.rules,
            counters: RwLock::default(),
            moment: RwLock::default(),
            applied: AppliedRevision::default(),
            cascade: Cascade::default(),
            fresh: Fresh::default(),
            turns: Turns::default(),
            stop: CancellationToken::new(),
            tasks: Mutex::default(),
        };
        let store = Store(Arc::new(inner));
        let revision = store.fill().await?;
        let changes = store.0.backend.watch(Prefix::all(), revision).await?;
        store.0.cascade.add_orphans(&store);
        let mut tasks = store.0.tasks.lock();
        // The store is below the task groups of `control`: it owns these two itself and ends them in `close`.
        #[expect(clippy::disallowed_methods, reason = "owned by `tasks`, joined in `close`")]
        tasks.extend([
            tokio::spawn(store.clone().follow(changes)),
            tokio::spawn(store.clone().cascade()),
        ]);
        drop(tasks);
        Ok(store)
    }
}

/// A handle on the one store of this process; clones are the same store.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

/// The caches stand still while this lives; see [`Store::moment`].
#[must_use = "the caches go on when it is dropped"]
pub struct Moment<'s> {
    store: &'s Store,
    _still: RwLockReadGuard<'s, ()>,
}

impl Moment<'_> {
    /// All resources of a kind, to choose from them where they are: taking ten thousand out for a page of some costs more
    /// than all else.
    ///
    /// # Panics
    /// When the kind was not registered with the builder.
    pub fn view<K: Kind>(&self) -> View<'_, K> {
        self.store.cache().view()
    }
}

struct Inner {
    backend: Arc<dyn Backend>,
    caches: AHashMap<&'static str, Arc<dyn AnyCache>>,
    typed: AHashMap<TypeId, Arc<dyn Any + Send + Sync>>,
    rules: Rules,
    counters: RwLock<AHashMap<Key, CounterFields>>,
    /// Held by the applier while what one transaction wrote becomes visible, and by those who want none of that meanwhile.
    moment: RwLock<()>,
    /// The revision that all caches show.
    applied: AppliedRevision,
    cascade: Cascade,
    fresh: Fresh,
    turns: Turns,
    stop: CancellationToken,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Store {
    /// All resources of a kind.
    ///
    /// # Panics
    /// When the kind was not registered with the builder.
    pub fn cache<K: Kind>(&self) -> &Cache<K> {
        let cache = self
            .0
            .typed
            .get(&TypeId::of::<K>())
            .and_then(|cache| cache.downcast_ref::<Cache<K>>());
        cache.unwrap_or_else(|| panic!("the kind {} is not registered", K::NAME))
    }

    /// The resource at a key, as this process sees it.
    pub fn get<K: Kind>(&self, key: &Key) -> Option<Arc<Resource<K>>> {
        self.cache::<K>().get(key)
    }

    /// Keeps the caches as they are for as long as the answer lives, for looking at several kinds at once: all of what a
    /// transaction wrote is there, or nothing. Short, since writers wait meanwhile; never a second one within it.
    pub fn moment(&self) -> Moment<'_> {
        Moment {
            store: self,
            _still: self.0.moment.read(),
        }
    }

    /// The counters of `(project, group)`; a missing field is 0.
    pub fn counters(&self, project: &str, group: &str) -> Counters {
        self.0
            .counters
            .read()
            .get(&counter_key(project, group))
            .cloned()
            .unwrap_or_default()
    }

    /// The counters of the groups that `is_meant` names, by project and group.
    pub(crate) fn counted(&self, is_meant: impl Fn(&str) -> bool) -> AHashMap<(String, String), Counters> {
        let counters = self.0.counters.read();
        let meant = counters.iter().filter(|(key, _)| is_meant(&key.name));
        meant
            .map(|(key, fields)| ((key.project.clone(), key.name.clone()), fields.clone()))
            .collect()
    }

    /// Begins a transaction.
    pub fn begin(&self, cause: Cause) -> Tx<'_> {
        Tx::new(self, cause)
    }

    /// Decides and commits a transaction, anew as long as others write the same at the same time. `decide` must have no
    /// effect but on its transaction, and read what it changes through it.
    ///
    /// # Errors
    /// What `decide` says; `Conflict`, `Exists` or `NotFound` when deciding anew expects the very same again (it rests on
    /// what was read outside, or on a reservation that somebody has), or does not get through in 64 attempts.
    pub async fn transact<T, E: From<StoreError>>(
        &self,
        cause: Cause,
        decide: impl FnMut(&mut Tx<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        self.transact_in_turn(cause, None, decide).await
    }

    /// As [`Store::transact`]; from the first attempt in turn with those who change `wanted` now.
    async fn transact_in_turn<T, E: From<StoreError>>(
        &self,
        cause: Cause,
        wanted: Option<&Key>,
        mut decide: impl FnMut(&mut Tx<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let hasher = ahash::RandomState::new();
        let mut unmet_before = None;
        let mut attempt = 0;
        let mut turn = match wanted {
            Some(key) if self.0.turns.is_wanted(key) => Some(self.0.turns.take(key).await),
            _ => None,
        };
        loop {
            attempt += 1;
            let mut tx = self.begin(cause.clone());
            let decided = decide(&mut tx)?;
            let mark = |key: &Key, at| (hasher.hash_one(key), at);
            let marks = tx.expectations().iter().map(|expect| match expect {
                Expect::Absent(key) => mark(key, None),
                Expect::At(key, revision) => mark(key, Some(*revision)),
            });
            let marks: Vec<_> = marks.collect();
            let Err(failed) = tx.commit().await else {
                return Ok(decided);
            };
            let (StoreError::Conflict { key } | StoreError::Exists { key } | StoreError::NotFound { key }) = &failed
            else {
                return Err(failed.into());
            };
            let of_key = hasher.hash_one(key);
            let unmet = marks.into_iter().find(|(hash, _)| *hash == of_key);
            if unmet == unmet_before || attempt >= MAX_ATTEMPTS {
                return Err(failed.into());
            }
            unmet_before = unmet;
            if !turn.as_ref().is_some_and(|turn| turn.is_for(key)) {
                drop(turn.take()); // nobody waits for one turn with another in hand
                turn = Some(self.0.turns.take(key).await);
            }
            // What we decided on is old: see the newest before deciding again.
            let newest = self.0.backend.revision().await?;
            self.reached(newest).await?;
        }
    }

    /// Changes one resource, anew as long as others change it at the same time.
    ///
    /// # Errors
    /// `NotFound`; what `change` says; what the kind's rules say.
    pub async fn modify<K: Kind, E: From<StoreError>>(
        &self,
        key: &Key,
        cause: Cause,
        mut change: impl FnMut(&mut Resource<K>) -> Result<(), E>,
    ) -> Result<Arc<Resource<K>>, E> {
        self.transact_in_turn(cause, Some(key), |tx| {
            let old = tx
                .get::<K>(key)
                .ok_or_else(|| StoreError::NotFound { key: key.clone() })?;
            let mut new = (*old).clone();
            change(&mut new)?;
            Ok(tx.update(&old, new)?)
        })
        .await
    }

    /// The revision that the caches show.
    pub fn applied(&self) -> Revision {
        self.0.applied.get()
    }

    /// Waits until the caches show `revision`.
    ///
    /// # Errors
    /// `Closed` when the store closes before.
    pub async fn reached(&self, revision: Revision) -> Result<(), StoreError> {
        self.0.applied.reached(revision).await
    }

    /// The engine below, for watching raw changes, compaction and backup.
    pub fn backend(&self) -> &Arc<dyn Backend> {
        &self.0.backend
    }

    /// Closes the engine, which does what was submitted before; lets the caches and who waits for them see it; stops.
    pub async fn close(&self) {
        // The applier goes on until the engine has nothing more to show; all else ends now.
        self.0.stop.cancel();
        self.0.backend.close().await;
        let tasks = std::mem::take(&mut *self.0.tasks.lock());
        for task in tasks {
            if let Err(failed) = task.await {
                error!(%failed, "a task of the store ended badly");
            }
        }
    }

    pub(crate) fn rules(&self) -> &Rules {
        &self.0.rules
    }

    pub(crate) fn fresh(&self) -> &Fresh {
        &self.0.fresh
    }

    pub(crate) fn caches(&self) -> impl Iterator<Item = &Arc<dyn AnyCache>> {
        self.0.caches.values()
    }

    /// Whether an owner is there. One of a kind that is not registered here counts as there: who knows it will tell.
    pub(crate) fn lives(&self, owner: &OwnerReference) -> bool {
        self.0
            .caches
            .get(owner.kind.as_str())
            .is_none_or(|cache| cache.has(owner.uid))
    }

    /// Stages the deletion of a resource of whatever kind.
    pub(crate) fn delete_any(&self, tx: &mut Tx<'_>, key: &Key) -> Result<(), StoreError> {
        self.0
            .caches
            .get(key.kind.as_str())
            .map_or(Ok(()), |cache| cache.delete(tx, key))
    }

    /// Takes everything into the caches; returns the revision from which to follow. Pages after the first may show later
    /// revisions, whose batches come once more: the caches take what is newer only. Pages are decoded beside each other,
    /// while the next are read.
    async fn fill(&self) -> Result<Revision, StoreError> {
        let at_once = std::thread::available_parallelism().map_or(1, |cores| cores.get().min(FILLERS));
        let mut first = None;
        let mut after = Some(0);
        let mut filling: VecDeque<JoinHandle<Result<(), StoreError>>> = VecDeque::new();
        while let Some(place) = after {
            let scan = self.0.backend.scan(place, LIST_PAGE).await?;
            first.get_or_insert(scan.revision);
            after = scan.next;
            let store = self.clone();
            filling.push_back(tokio::task::spawn_blocking(move || store.fill_page(scan.records)));
            if filling.len() > at_once
                && let Some(oldest) = filling.pop_front()
            {
                filled(oldest).await?;
            }
        }
        for rest in filling {
            filled(rest).await?;
        }
        let revision = first.unwrap_or_default();
        self.0.applied.advance(revision);
        Ok(revision)
    }

    /// Takes a page of records into the caches, before anybody follows them.
    fn fill_page(&self, records: Vec<Record>) -> Result<(), StoreError> {
        let mut by_kind: AHashMap<&str, Vec<&Record>> = AHashMap::new();
        for record in &records {
            by_kind.entry(&record.key.kind).or_default().push(record);
        }
        for (kind, records) in by_kind {
            match self.0.caches.get(kind) {
                Some(cache) => cache.fill(&records)?,
                None if kind == COUNTERS => self.fill_counters(&records)?,
                None => {}
            }
        }
        Ok(())
    }

    fn fill_counters(&self, records: &[&Record]) -> Result<(), StoreError> {
        for record in records {
            if let Some(fields) = counter_fields(&record.key, Some(&record.value))? {
                self.0.counters.write().insert(record.key.clone(), fields);
            }
        }
        Ok(())
    }

    /// Applies every batch until the engine is closed. When it says that changes are gone, starts over from a list.
    async fn follow(self, mut changes: Box<dyn Watch>) {
        // However this ends, nobody waits for the caches in vain.
        let _stops = Stops(&self.0);
        loop {
            match changes.next_many(APPLY_AT_ONCE).await {
                Ok(batches) => {
                    for batch in &batches {
                        self.take_in(&batch.events, batch.revision);
                    }
                    if let Some(newest) = batches.last() {
                        self.0.applied.advance(newest.revision);
                    }
                }
                Err(StoreError::Closed) => return,
                Err(failed) => {
                    error!(%failed, "lost the changes, listing again");
                    match self.relist().await {
                        Some(again) => changes = again,
                        None => return,
                    }
                }
            }
        }
    }

    /// Lists again until it works or the store is closed. Resources that went meanwhile are dropped from the caches.
    async fn relist(&self) -> Option<Box<dyn Watch>> {
        while !self.0.stop.is_cancelled() {
            match self.try_relist().await {
                Ok(changes) => return Some(changes),
                Err(StoreError::Closed) => return None,
                Err(failed) => error!(%failed, "could not list again"),
            }
            tokio::select! {
                () = tokio::time::sleep(RELIST_PAUSE) => {}
                () = self.0.stop.cancelled() => {}
            }
        }
        None
    }

    async fn try_relist(&self) -> Result<Box<dyn Watch>, StoreError> {
        let mut there = ahash::AHashSet::new();
        let mut first = None;
        let mut after = None;
        loop {
            let page = self.0.backend.range(&Prefix::all(), after.as_ref(), LIST_PAGE).await?;
            first.get_or_insert(page.revision);
            for record in page.records {
                after = Some(record.key.clone());
                there.insert(record.key.clone());
                let event = Event {
                    key: record.key,
                    value: Some(record.value),
                };
                self.take_in(&[event], record.modified);
            }
            if !page.more {
                break;
            }
        }
        let revision = first.unwrap_or_default();
        for cache in self.caches() {
            for key in cache.keys() {
                if !there.contains(&key) {
                    self.take_in(&[Event { key, value: None }], revision);
                }
            }
        }
        self.0.counters.write().retain(|key, _| there.contains(key));
        self.0.cascade.add_orphans(self);
        let changes = self.0.backend.watch(Prefix::all(), revision).await?;
        self.0.applied.advance(revision);
        Ok(changes)
    }

    /// Takes in events of a running store that happened together, each key once: shows all of them at once, then tells who
    /// listens, who reads what was written together.
    fn take_in(&self, events: &[Event], revision: Revision) {
        let mut prepared = Prepared::default();
        for event in events {
            self.prepare(event, revision, &mut prepared);
        }
        self.publish(&mut prepared);
        for owner in prepared.removed {
            self.0.cascade.add(owner);
        }
        for (cache, ready) in &prepared.ready {
            tell(cache, ready);
        }
        // Looked at when all of it is in: an owner may come after what it owns.
        for owner in prepared.named {
            if !self.lives(&owner) {
                self.0.cascade.add(owner);
            }
        }
    }

    /// Makes an event ready to be published. A record that cannot be read stays as it was, and a panic of a kind's code
    /// ends there: each is a defect to look at, not a reason to stop everything else.
    fn prepare<'s>(&'s self, event: &Event, revision: Revision, prepared: &mut Prepared<'s>) {
        let (key, value) = (&event.key, event.value.as_deref());
        if key.kind == COUNTERS {
            match counter_fields(key, value) {
                Ok(fields) => prepared.counted.push((key.clone(), fields)),
                Err(failed) => error!(?key, %failed, "could not take in a change"),
            }
            return;
        }
        let Some(cache) = self.0.caches.get(key.kind.as_str()) else {
            return;
        };
        let fresh = value.and_then(|bytes| self.0.fresh.take(bytes));
        let ready = std::panic::AssertUnwindSafe(|| cache.prepare(key, revision, value, fresh));
        match std::panic::catch_unwind(ready) {
            Ok(Ok(Some(mut ready))) => {
                if let Some(uid) = ready.removed {
                    prepared.removed.push(OwnerReference {
                        kind: key.kind.clone(),
                        uid,
                    });
                }
                prepared.named.append(&mut ready.owners);
                prepared.ready.push((cache, ready));
            }
            Ok(Ok(None)) => {}
            Ok(Err(failed)) => error!(?key, %failed, "could not take in a change"),
            Err(_) => error!(?key, "a panic while a change was taken in"),
        }
    }

    /// Shows what is ready: no reader sees a part of it without all of it, whatever caches it looks at one after the other.
    fn publish(&self, prepared: &mut Prepared<'_>) {
        let mut caches: Vec<&Arc<dyn AnyCache>> = Vec::new();
        for (cache, _) in &prepared.ready {
            if !caches.iter().any(|known| Arc::ptr_eq(known, cache)) {
                caches.push(cache);
            }
        }
        let counted = std::mem::take(&mut prepared.counted);
        let _moment = self.0.moment.write();
        let mut counters = (!counted.is_empty()).then(|| self.0.counters.write());
        for (key, fields) in counted {
            let counters = counters.as_mut();
            match fields {
                Some(fields) => _ = counters.map(|counters| counters.insert(key, fields)),
                None => _ = counters.map(|counters| counters.remove(&key)),
            }
        }
        publish_each(&caches, &prepared.ready);
    }

    async fn cascade(self) {
        tokio::select! {
            () = self.0.cascade.run(&self) => {}
            () = self.0.stop.cancelled() => {}
        }
    }
}

/// Events that are ready to be published together.
#[derive(Default)]
struct Prepared<'s> {
    ready: Vec<(&'s Arc<dyn AnyCache>, Ready)>,
    /// Counter records as they are from now on; none for one that is gone.
    counted: Vec<(Key, Option<CounterFields>)>,
    /// What goes with it: its dependents are to go, too.
    removed: Vec<OwnerReference>,
    /// Owners that are newly named.
    named: Vec<OwnerReference>,
}

/// Publishes to the caches, each within the one before: the first lets readers in when the last has its part.
fn publish_each(caches: &[&Arc<dyn AnyCache>], ready: &[(&Arc<dyn AnyCache>, Ready)]) {
    let Some((first, rest)) = caches.split_first() else {
        return;
    };
    let own = ready.iter().filter(|(cache, _)| Arc::ptr_eq(cache, first));
    first.publish(&mut own.map(|(_, ready)| ready), &mut || publish_each(rest, ready));
}

fn counter_fields(key: &Key, value: Option<&[u8]>) -> Result<Option<CounterFields>, StoreError> {
    value.map(|value| counting::decode(key, value)).transpose()
}

/// The outcome of a page; its panic, which a kind's code made, is ours.
async fn filled(page: JoinHandle<Result<(), StoreError>>) -> Result<(), StoreError> {
    match page.await {
        Ok(filled) => filled,
        Err(ended) if ended.is_panic() => std::panic::resume_unwind(ended.into_panic()),
        Err(_) => Err(StoreError::Closed),
    }
}

/// Tells who listens. A panic of a listener ends there.
fn tell(cache: &Arc<dyn AnyCache>, ready: &Ready) {
    let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| cache.tell(ready)));
    if told.is_err() {
        error!("a panic while a change was told");
    }
}

/// Ends what depends on the applier when that ends.
struct Stops<'s>(&'s Inner);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.applied.close();
        self.0.stop.cancel();
    }
}
