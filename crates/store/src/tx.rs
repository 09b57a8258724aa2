//! A transaction being put together: typed writes, run through the rules of their kinds.

use std::{any::Any, sync::Arc};

use ahash::AHashMap;
use jiff::Timestamp;
use uuid::Uuid;

use crate::{Cause, Delta, Expect, Key, Kind, Op, Resource, Revision, Store, StoreError, Txn, Write, rules::Rule};

/// Where counters live.
pub(crate) const COUNTERS: &str = "counters";
/// Where reservations live.
pub(crate) const RESERVATIONS: &str = "reservations";

/// Writes that will be committed together or not at all. Nothing happens until [`Tx::commit`].
///
/// Reading through [`Tx::get`] shows what this transaction has written so far over what the caches show; every resource
/// that is updated or deleted is expected, at commit, to be still as it was read. A write that is refused leaves nothing
/// of itself, its rules' writes included: the transaction may go on without it.
pub struct Tx<'s> {
    store: &'s Store,
    cause: Cause,
    at: Timestamp,
    expects: Vec<Expect>,
    /// The revisions that resources are expected at, to find them again.
    read: AHashMap<Key, Revision>,
    writes: Vec<Write>,
    staged: AHashMap<Key, Staged>,
    reservations: AHashMap<Key, Reservation>,
    /// The keys whose rules run now, from the outermost.
    writing: Vec<Key>,
    /// How to take back what was done since the outermost of them began.
    undo: Vec<Undo>,
}

/// A typed write of this transaction.
struct Staged {
    /// Where in `writes`.
    position: usize,
    /// An `Arc<Resource<K>>`; none once removed.
    resource: Option<Arc<dyn Any + Send + Sync>>,
}

/// A reservation that this transaction takes or frees.
struct Reservation {
    /// Where in `writes`.
    position: usize,
    is_taken: bool,
}

/// A step back.
enum Undo {
    /// A key was written for the first time.
    Staged(Key),
    /// A key was written again: what was there.
    Restaged(Key, Write, Option<Arc<dyn Any + Send + Sync>>),
    /// A resource was expected.
    Read(Key),
    /// A reservation was taken or freed for the first time.
    Reserved(Key),
    /// A reservation was taken or freed again: what was there, and whether it was taken.
    Rereserved(Key, Write, bool),
}

impl<'s> Tx<'s> {
    pub(crate) fn new(store: &'s Store, cause: Cause) -> Self {
        Self {
            store,
            cause,
            at: Timestamp::now(),
            expects: Vec::new(),
            read: AHashMap::new(),
            writes: Vec::new(),
            staged: AHashMap::new(),
            reservations: AHashMap::new(),
            writing: Vec::new(),
            undo: Vec::new(),
        }
    }

    /// The store it goes to; its caches show the time before this transaction.
    pub fn store(&self) -> &'s Store {
        self.store
    }

    /// Who wants it.
    pub fn cause(&self) -> &Cause {
        &self.cause
    }

    /// When it was begun; the created and updated times of what it writes.
    pub fn at(&self) -> Timestamp {
        self.at
    }

    /// Whether it writes nothing.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// A resource as this transaction leaves it so far.
    pub fn get<K: Kind>(&self, key: &Key) -> Option<Arc<Resource<K>>> {
        match self.staged.get(key) {
            Some(staged) => staged
                .resource
                .clone()
                .map(|r| r.downcast().expect("a key names its kind")),
            None => self.store.cache::<K>().get(key),
        }
    }

    /// The resources of a kind that this transaction has written so far, in the order of their first writes.
    pub fn staged<K: Kind>(&self) -> impl Iterator<Item = Arc<Resource<K>>> + '_ {
        let typed = |staged: &Staged| {
            Some((
                staged.position,
                staged.resource.clone()?.downcast::<Resource<K>>().ok()?,
            ))
        };
        let mut found: Vec<_> = self.staged.values().filter_map(typed).collect();
        found.sort_unstable_by_key(|(position, _)| *position);
        found.into_iter().map(|(_, resource)| resource)
    }

    /// Creates a resource: its kind's rules complete and check it. Returns it as it will be stored.
    ///
    /// # Errors
    /// What a rule says; `Exists` (here or at commit) when its key is taken; `Invalid` for an impossible key.
    pub fn create<K: Kind>(&mut self, resource: Resource<K>) -> Result<Arc<Resource<K>>, StoreError> {
        self.create_since(resource, self.at)
    }

    /// As [`Tx::create`], for what has been there since `created` under another key, such as in another project.
    ///
    /// # Errors
    /// As [`Tx::create`].
    pub fn create_since<K: Kind>(
        &mut self,
        mut resource: Resource<K>,
        created: Timestamp,
    ) -> Result<Arc<Resource<K>>, StoreError> {
        self.expect_free(&resource)?;
        let asked = resource.key();
        resource.metadata.created = created;
        resource.metadata.updated = self.at;
        resource.metadata.deleted = None;
        resource.revision = Revision(0);
        self.by_rules::<K, _>(&asked, |tx, rules| {
            for rule in rules {
                rule(tx, Op::Create(&mut resource))?;
            }
            resource.metadata.generation = 1;
            let key = resource.key();
            if key != asked || tx.staged.contains_key(&key) {
                tx.expect_free(&resource)?; // a rule gave it another name, or took this one
            }
            if !tx.staged.contains_key(&key) {
                tx.expects.push(Expect::Absent(key.clone()));
            }
            tx.stage(key, resource)
        })
    }

    /// Changes a resource that was read as `old`. Returns it as it will be stored; nothing is written when nothing
    /// differs. When it is marked deleted and its last finalizer goes, it is removed. A mark of deletion stays once it is
    /// set, and so do uid, key and the time of creation.
    ///
    /// # Errors
    /// What a rule says; `Conflict` (here or at commit) when it changed since it was read; `NotFound` when this
    /// transaction has removed it; `Invalid` when this transaction has changed it and `old` is from before that: read
    /// through [`Tx::get`].
    pub fn update<K: Kind>(&mut self, old: &Resource<K>, mut new: Resource<K>) -> Result<Arc<Resource<K>>, StoreError> {
        let key = old.key();
        self.by_rules::<K, _>(&key, |tx, rules| {
            tx.expect_read(&key, old)?;
            settle(&key, old, &mut new)?;
            if !is_finished(&new) {
                for rule in rules {
                    rule(tx, Op::Update { old, new: &mut new })?;
                }
                settle(&key, old, &mut new)?;
            }
            if is_finished(&new) {
                // Gone before its rules run: what they look at is the time after it.
                tx.write(key.clone(), Write::Delete(key.clone()), None);
                for rule in rules {
                    rule(tx, Op::Remove(&new))?;
                }
                return Ok(Arc::new(new));
            }
            let is_new = old.revision == Revision(0); // by this transaction
            let same_spec = new.spec == old.spec;
            if same_spec && new.status == old.status && new.metadata == old.metadata {
                return Ok(Arc::new(new));
            }
            new.metadata.updated = tx.at;
            new.metadata.generation = old.metadata.generation + u64::from(!same_spec && !is_new);
            tx.stage(key.clone(), new)
        })
    }

    /// Asks for the end of a resource: marks it when it has finalizers, else removes it. What this transaction has
    /// changed of it before stays; nothing happens when it has been asked before.
    ///
    /// # Errors
    /// What a rule says; `Conflict` (here or at commit) when it changed since it was read.
    pub fn delete<K: Kind>(&mut self, resource: &Resource<K>) -> Result<(), StoreError> {
        let key = resource.key();
        if !self.staged.contains_key(&key) {
            return self.mark_deleted(resource);
        }
        match self.get::<K>(&key) {
            Some(staged) => self.mark_deleted(&*staged),
            None => Ok(()),
        }
    }

    fn mark_deleted<K: Kind>(&mut self, resource: &Resource<K>) -> Result<(), StoreError> {
        if resource.metadata.is_deleting() && !resource.metadata.finalizers.is_empty() {
            return Ok(());
        }
        let mut marked = resource.clone();
        marked.metadata.deleted.get_or_insert(self.at);
        self.update(resource, marked).map(|_| ())
    }

    /// Counts: adds to fields of the counter record `(project, group)`, such as `("p1", "compute")`. A field that would
    /// pass its limit fails the whole transaction at commit with `LimitExceeded`.
    pub fn add(&mut self, project: &str, group: &str, deltas: Vec<Delta>) {
        if !deltas.is_empty() {
            self.writes.push(Write::Add(counter_key(project, group), deltas));
        }
    }

    /// Takes `value` in `space` for `owner`, so that nobody else can: an address in a subnet, a name in a domain. What
    /// this transaction has released passes from hand to hand.
    ///
    /// # Errors
    /// `Exists` when this transaction has taken it already; at commit, when somebody else has.
    pub fn reserve(&mut self, space: &str, value: &str, owner: Uuid) -> Result<(), StoreError> {
        let key = reservation_key(space, value);
        let put = Write::Put(key.clone(), format!("{{\"owner\":\"{owner}\"}}").into());
        match self.reservations.get(&key) {
            Some(Reservation { is_taken: true, .. }) => return Err(StoreError::Exists { key }),
            Some(_) => {}
            None => self.expects.push(Expect::Absent(key.clone())),
        }
        self.change_reservation(key, put, true);
        Ok(())
    }

    /// Whether this transaction has taken `value` in `space`.
    pub fn has_reserved(&self, space: &str, value: &str) -> bool {
        self.reservations
            .get(&reservation_key(space, value))
            .is_some_and(|reservation| reservation.is_taken)
    }

    /// Frees `value` in `space`. Whoever frees it must own it.
    pub fn release(&mut self, space: &str, value: &str) {
        let key = reservation_key(space, value);
        let delete = Write::Delete(key.clone());
        self.change_reservation(key, delete, false);
    }

    /// Requires at commit that a resource is still as it was read, without writing it.
    ///
    /// # Errors
    /// `Conflict` when this transaction was told another state of it before.
    pub fn expect<K: Kind>(&mut self, read: &Resource<K>) -> Result<(), StoreError> {
        self.expect_read(&read.key(), read)
    }

    /// Commits, and returns once this process's caches show it. Dropping the future does not take it back.
    ///
    /// # Errors
    /// `Conflict`, `Exists`, `NotFound`, `LimitExceeded` as decided inside the commit; nothing is written then.
    pub async fn commit(self) -> Result<Revision, StoreError> {
        if self.writes.is_empty() {
            return Ok(self.store.applied());
        }
        let store = self.store;
        let staged = self.staged.into_values().filter_map(|staged| {
            let Write::Put(_, bytes) = &self.writes[staged.position] else {
                return None;
            };
            Some((bytes.clone(), staged.resource?))
        });
        let _written = store.fresh().keep(staged);
        let txn = Txn {
            expects: self.expects,
            writes: self.writes,
            cause: self.cause,
            at: self.at,
        };
        let revision = store.backend().txn(txn).await?;
        store.reached(revision).await?;
        Ok(revision)
    }

    pub(crate) fn expectations(&self) -> &[Expect] {
        &self.expects
    }

    /// Refuses a resource whose key or uid is taken, as far as the caches and this transaction know.
    fn expect_free<K: Kind>(&self, resource: &Resource<K>) -> Result<(), StoreError> {
        let key = resource.key();
        let same_uid = self.store.cache::<K>().by_uid(resource.metadata.uid);
        let has_uid = |other: &Arc<Resource<K>>| other.key() != key && self.get::<K>(&other.key()).is_some();
        if self.get::<K>(&key).is_some() || same_uid.is_some_and(|other| has_uid(&other)) {
            return Err(StoreError::Exists { key });
        }
        Ok(())
    }

    /// Runs a write with the rules of its kind. When one refuses, the transaction is as it was before, so that the caller
    /// may try something else. A rule that comes back to the key it is for would go round for ever, and what it wrote
    /// would be lost: it is refused.
    fn by_rules<K: Kind, T>(
        &mut self,
        key: &Key,
        write: impl FnOnce(&mut Self, &'s [Rule<K>]) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if self.writing.contains(key) {
            return Err(StoreError::Invalid(format!(
                "a rule writes {key}, which is being written"
            )));
        }
        let (undo, writes, expects) = (self.undo.len(), self.writes.len(), self.expects.len());
        self.writing.push(key.clone());
        let store = self.store;
        let written = write(self, store.rules().of::<K>());
        self.writing.pop();
        if written.is_err() {
            self.step_back(undo, writes, expects);
        } else if self.writing.is_empty() {
            self.undo.clear();
        }
        written
    }

    /// Takes back everything since there was so much of each.
    fn step_back(&mut self, undo: usize, writes: usize, expects: usize) {
        while self.undo.len() > undo {
            match self.undo.pop() {
                Some(Undo::Staged(key)) => _ = self.staged.remove(&key),
                Some(Undo::Restaged(key, write, resource)) => {
                    if let Some(staged) = self.staged.get_mut(&key) {
                        self.writes[staged.position] = write;
                        staged.resource = resource;
                    }
                }
                Some(Undo::Read(key)) => _ = self.read.remove(&key),
                Some(Undo::Reserved(key)) => _ = self.reservations.remove(&key),
                Some(Undo::Rereserved(key, write, is_taken)) => {
                    if let Some(reservation) = self.reservations.get_mut(&key) {
                        self.writes[reservation.position] = write;
                        reservation.is_taken = is_taken;
                    }
                }
                None => break,
            }
        }
        self.writes.truncate(writes);
        self.expects.truncate(expects);
    }

    /// Notes a step back, when there is somewhere to step back to.
    fn note_undo(&mut self, step: impl FnOnce() -> Undo) {
        if !self.writing.is_empty() {
            self.undo.push(step());
        }
    }

    fn change_reservation(&mut self, key: Key, write: Write, is_taken: bool) {
        match self.reservations.get_mut(&key) {
            Some(reservation) => {
                let before = std::mem::replace(&mut self.writes[reservation.position], write);
                let was_taken = std::mem::replace(&mut reservation.is_taken, is_taken);
                self.note_undo(|| Undo::Rereserved(key, before, was_taken));
            }
            None => {
                self.note_undo(|| Undo::Reserved(key.clone()));
                self.reservations.insert(
                    key,
                    Reservation {
                        position: self.writes.len(),
                        is_taken,
                    },
                );
                self.writes.push(write);
            }
        }
    }

    fn stage<K: Kind>(&mut self, key: Key, resource: Resource<K>) -> Result<Arc<Resource<K>>, StoreError> {
        key.encode()?;
        let put = Write::Put(key.clone(), resource.encode()?.into());
        let resource = Arc::new(resource);
        self.write(key, put, Some(Arc::clone(&resource) as Arc<dyn Any + Send + Sync>));
        Ok(resource)
    }

    /// Notes a typed write; a later one of the same key replaces the earlier.
    fn write(&mut self, key: Key, write: Write, resource: Option<Arc<dyn Any + Send + Sync>>) {
        if let Some(staged) = self.staged.get_mut(&key) {
            let write = std::mem::replace(&mut self.writes[staged.position], write);
            let resource = std::mem::replace(&mut staged.resource, resource);
            self.note_undo(|| Undo::Restaged(key, write, resource));
        } else {
            self.note_undo(|| Undo::Staged(key.clone()));
            self.staged.insert(
                key,
                Staged {
                    position: self.writes.len(),
                    resource,
                },
            );
            self.writes.push(write);
        }
    }

    /// Expects a resource as it was read: at its revision, or as this transaction left it.
    fn expect_read<K: Kind>(&mut self, key: &Key, read: &Resource<K>) -> Result<(), StoreError> {
        if self.staged.contains_key(key) {
            // Its first reading is what the commit checks; since then it is what was staged.
            let staged = self
                .get::<K>(key)
                .ok_or_else(|| StoreError::NotFound { key: key.clone() })?;
            if staged.metadata != read.metadata || staged.spec != read.spec || staged.status != read.status {
                let why =
                    format!("this transaction has changed {key} since it was read: read it through the transaction");
                return Err(StoreError::Invalid(why));
            }
            return Ok(());
        }
        match self.read.get(key) {
            Some(known) if *known != read.revision => Err(StoreError::Conflict { key: key.clone() }),
            Some(_) => Ok(()),
            None => {
                self.note_undo(|| Undo::Read(key.clone()));
                self.read.insert(key.clone(), read.revision);
                self.expects.push(Expect::At(key.clone(), read.revision));
                Ok(())
            }
        }
    }
}

/// Whether a resource is to go now: asked to, with nobody left to clean up.
fn is_finished<K: Kind>(resource: &Resource<K>) -> bool {
    resource.metadata.is_deleting() && resource.metadata.finalizers.is_empty()
}

/// Keeps what no update changes.
fn settle<K: Kind>(key: &Key, old: &Resource<K>, new: &mut Resource<K>) -> Result<(), StoreError> {
    if new.key() != *key || new.metadata.uid != old.metadata.uid {
        return Err(StoreError::Invalid(format!("{key} cannot become {}", new.key())));
    }
    new.metadata.created = old.metadata.created;
    new.metadata.updated = old.metadata.updated;
    new.metadata.generation = old.metadata.generation;
    new.metadata.deleted = old.metadata.deleted.or(new.metadata.deleted);
    Ok(())
}

pub(crate) fn counter_key(project: &str, group: &str) -> Key {
    Key::new(COUNTERS, project, "", group)
}

fn reservation_key(space: &str, value: &str) -> Key {
    Key::new(RESERVATIONS, "", space, value)
}
