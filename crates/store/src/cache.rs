//! Every resource of a kind, in memory, with its indexes.
//!
//! Written only by the store's applier, batch by batch in revision order; read by everybody. An event that is not newer
//! than what is here changes nothing, so that a list and the changes since its beginning can be laid over each other in
//! any way. What a batch changes is made ready first and published then: no cache lets anybody see its part before all
//! caches have theirs, so that whoever has seen something of a transaction sees all of it from then on.

mod index;

use std::{any::Any, sync::Arc};

use ahash::RandomState;
use parking_lot::{RwLock, RwLockReadGuard};
use tracing::error;
use uuid::Uuid;

use self::index::{Index, Slots};
use crate::{
    Key, Kind, OwnerReference, Record, Resource, Revision, StoreError, Tx, fresh::AnyResource, resource::IndexFn,
};

/// A change of one resource, as listeners get it.
pub struct Change<K: Kind> {
    /// How it was; none when it is new.
    pub old: Option<Arc<Resource<K>>>,
    /// How it is; none when it is gone.
    pub new: Option<Arc<Resource<K>>>,
}

impl<K: Kind> Change<K> {
    /// The resource that changed: as it is, or as it was before it went.
    pub fn resource(&self) -> &Arc<Resource<K>> {
        self.new
            .as_ref()
            .or(self.old.as_ref())
            .expect("a change has a before or an after")
    }
}

type Listener<K> = Arc<dyn Fn(&Change<K>) + Send + Sync>;

/// All resources of a kind.
pub struct Cache<K: Kind> {
    state: RwLock<State<K>>,
    fields: Vec<(&'static str, IndexFn<K>)>,
    listeners: RwLock<Vec<Listener<K>>>,
}

/// Resources stand in numbered slots; all else leads to slots.
struct State<K: Kind> {
    slots: Vec<Option<Arc<Resource<K>>>>,
    free: Vec<u32>,
    len: usize,
    hasher: RandomState,
    /// By the hash of project, namespace and name: the key itself is in the resource.
    keys: Index<u64>,
    /// By the hash of the name.
    names: Index<u64>,
    uids: Index<Uuid>,
    projects: Index<Box<str>>,
    owners: Index<Uuid>,
    /// In the order of the cache's `fields`.
    fields: Vec<Index<Box<str>>>,
}

impl<K: Kind> Cache<K> {
    pub(crate) fn new() -> Self {
        let fields = K::indexes().0;
        let state = State {
            slots: Vec::new(),
            free: Vec::new(),
            len: 0,
            hasher: RandomState::new(),
            keys: Index::new(),
            names: Index::new(),
            uids: Index::new(),
            projects: Index::new(),
            owners: Index::new(),
            fields: fields.iter().map(|_| Index::new()).collect(),
        };
        Self {
            state: RwLock::new(state),
            fields,
            listeners: RwLock::new(Vec::new()),
        }
    }

    /// The resource at a key.
    pub fn get(&self, key: &Key) -> Option<Arc<Resource<K>>> {
        let state = self.state.read();
        state.at(state.slot(key)?).cloned()
    }

    /// The resource with a uid.
    pub fn by_uid(&self, uid: Uuid) -> Option<Arc<Resource<K>>> {
        let state = self.state.read();
        state.at(state.uids.get(&uid)?.find(|_| true)?).cloned()
    }

    /// The resource with a name, whatever its project. For kinds whose names are ids; of several, any one.
    pub fn by_name(&self, name: &str) -> Option<Arc<Resource<K>>> {
        let state = self.state.read();
        let named = |slot| state.at(slot).is_some_and(|resource| resource.name() == name);
        state
            .at(state.names.get(&state.hasher.hash_one(name))?.find(named)?)
            .cloned()
    }

    /// The resources of a project, in no order.
    pub fn in_project(&self, project: &str) -> Vec<Arc<Resource<K>>> {
        let state = self.state.read();
        state.pick(state.projects.get(project))
    }

    /// How many resources a project has.
    pub fn count_in_project(&self, project: &str) -> usize {
        self.state.read().projects.get(project).map_or(0, Slots::len)
    }

    /// The resources that have `value` in the index `index`, in no order.
    ///
    /// # Panics
    /// When the kind declares no such index.
    pub fn by(&self, index: &str, value: &str) -> Vec<Arc<Resource<K>>> {
        let state = self.state.read();
        state.pick(state.fields[self.field(index)].get(value))
    }

    /// How many resources have `value` in the index `index`.
    ///
    /// # Panics
    /// When the kind declares no such index.
    pub fn count_by(&self, index: &str, value: &str) -> usize {
        self.state.read().fields[self.field(index)]
            .get(value)
            .map_or(0, Slots::len)
    }

    /// The resources that a uid owns.
    pub fn owned_by(&self, owner: Uuid) -> Vec<Arc<Resource<K>>> {
        let state = self.state.read();
        state.pick(state.owners.get(&owner))
    }

    /// All of them, in no order.
    pub fn all(&self) -> Vec<Arc<Resource<K>>> {
        self.state.read().slots.iter().flatten().cloned().collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.state.read().len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// It all, to look at without taking anything out. Who has one keeps the caches from changing and must hold a moment,
    /// so that nobody waits to change them one by one.
    pub(crate) fn view(&self) -> View<'_, K> {
        View(self.state.read())
    }

    /// Calls `listener` for every change from now on, after the cache shows it. It must not block: it notes a key
    /// somewhere and returns.
    pub fn on_change(&self, listener: impl Fn(&Change<K>) + Send + Sync + 'static) {
        self.listeners.write().push(Arc::new(listener));
    }

    fn field(&self, name: &str) -> usize {
        let found = self.fields.iter().position(|(field, _)| *field == name);
        found.unwrap_or_else(|| panic!("{} has no index {name}", K::NAME))
    }

    /// The values of a resource in every index. The kind's code runs here, outside the lock.
    fn values(&self, resource: &Resource<K>) -> Vec<Vec<String>> {
        self.fields.iter().map(|(_, values)| values(resource)).collect()
    }

    /// What a resource changes here; none when it is no newer than what is here.
    fn plan_put(&self, key: Key, resource: Resource<K>) -> Option<Step<K>> {
        let old = self.get(&key);
        if old.as_ref().is_some_and(|old| old.revision >= resource.revision) {
            return None;
        }
        let new_values = self.values(&resource);
        let old_values = old.as_ref().map(|old| self.values(old));
        Some(Step {
            key,
            change: Change {
                old,
                new: Some(Arc::new(resource)),
            },
            old_values,
            new_values,
        })
    }

    /// What the removal at a key changes here; none when it is older than what is here, or nothing is.
    fn plan_removal(&self, key: Key, revision: Revision) -> Option<Step<K>> {
        let old = self.get(&key).filter(|old| old.revision <= revision)?;
        let old_values = Some(self.values(&old));
        Some(Step {
            key,
            change: Change {
                old: Some(old),
                new: None,
            },
            old_values,
            new_values: Vec::new(),
        })
    }
}

/// A change with everything that is needed to publish it: only the applier writes, so that what was read before the lock
/// is still so.
struct Step<K: Kind> {
    key: Key,
    change: Change<K>,
    /// By index, what it was found by before.
    old_values: Option<Vec<Vec<String>>>,
    new_values: Vec<Vec<String>>,
}

/// All resources of a kind as they are in one moment; see [`crate::Moment::view`].
pub struct View<'m, K: Kind>(RwLockReadGuard<'m, State<K>>);

impl<K: Kind> View<'_, K> {
    /// The resources of a project, in no order.
    pub fn in_project(&self, project: &str) -> Vec<&Arc<Resource<K>>> {
        let slots = self.0.projects.get(project);
        let mut found = Vec::with_capacity(slots.map_or(0, Slots::len));
        if let Some(slots) = slots {
            slots.for_each(|slot| found.extend(self.0.at(slot)));
        }
        found
    }

    /// All of them, in no order.
    pub fn all(&self) -> Vec<&Arc<Resource<K>>> {
        self.0.slots.iter().flatten().collect()
    }
}

impl<K: Kind> State<K> {
    fn at(&self, slot: u32) -> Option<&Arc<Resource<K>>> {
        self.slots[slot as usize].as_ref()
    }

    fn hash(&self, project: &str, namespace: &str, name: &str) -> u64 {
        self.hasher.hash_one((project, namespace, name))
    }

    fn slot(&self, key: &Key) -> Option<u32> {
        if key.kind != K::NAME {
            return None;
        }
        let is_it = |slot| {
            self.at(slot)
                .map(|resource| &resource.metadata)
                .is_some_and(|metadata| {
                    metadata.name == key.name && metadata.project == key.project && metadata.namespace == key.namespace
                })
        };
        self.keys
            .get(&self.hash(&key.project, &key.namespace, &key.name))?
            .find(is_it)
    }

    fn pick(&self, slots: Option<&Slots>) -> Vec<Arc<Resource<K>>> {
        let mut picked = Vec::with_capacity(slots.map_or(0, Slots::len));
        if let Some(slots) = slots {
            slots.for_each(|slot| picked.extend(self.at(slot).cloned()));
        }
        picked
    }

    /// Puts a resource in, over the old one at its key if there is one. What is the same in both stays in the indexes.
    fn replace(
        &mut self,
        key: &Key,
        new: &Arc<Resource<K>>,
        new_values: &[Vec<String>],
        old_values: Option<&[Vec<String>]>,
    ) {
        let slot = self.slot(key);
        let old = slot.and_then(|slot| self.at(slot).cloned());
        let slot = slot.unwrap_or_else(|| self.enter(key));
        self.slots[slot as usize] = Some(Arc::clone(new));
        let uid = new.metadata.uid;
        if old.as_ref().map(|old| old.metadata.uid) != Some(uid) {
            if let Some(old) = &old {
                self.uids.remove(&old.metadata.uid, slot);
            }
            self.uids.insert(uid, slot);
        }
        let old_owners = old.as_ref().map_or(&[][..], |old| &old.metadata.owners);
        if old_owners != new.metadata.owners {
            old_owners.iter().for_each(|owner| self.owners.remove(&owner.uid, slot));
            new.metadata
                .owners
                .iter()
                .for_each(|owner| self.owners.insert(owner.uid, slot));
        }
        for (place, (index, new_values)) in self.fields.iter_mut().zip(new_values).enumerate() {
            let old_values = old_values.map_or(&[][..], |values| &values[place]);
            if old_values != new_values {
                old_values.iter().for_each(|value| index.remove(value.as_str(), slot));
                new_values.iter().for_each(|value| index.insert_text(value, slot));
            }
        }
    }

    /// A slot for a new key, which leads to it from now on.
    fn enter(&mut self, key: &Key) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            u32::try_from(self.slots.len() - 1).expect("no memory holds 2^32 resources")
        });
        self.len += 1;
        self.keys
            .insert(self.hash(&key.project, &key.namespace, &key.name), slot);
        self.names.insert(self.hasher.hash_one(key.name.as_str()), slot);
        self.projects.insert_text(&key.project, slot);
        slot
    }

    fn remove(&mut self, key: &Key, values: &[Vec<String>]) {
        let Some(slot) = self.slot(key) else { return };
        let Some(old) = self.slots[slot as usize].take() else {
            return;
        };
        self.len -= 1;
        self.free.push(slot);
        self.keys
            .remove(&self.hash(&key.project, &key.namespace, &key.name), slot);
        self.names.remove(&self.hasher.hash_one(key.name.as_str()), slot);
        self.projects.remove(key.project.as_str(), slot);
        self.uids.remove(&old.metadata.uid, slot);
        old.metadata
            .owners
            .iter()
            .for_each(|owner| self.owners.remove(&owner.uid, slot));
        for (index, values) in self.fields.iter_mut().zip(values) {
            values.iter().for_each(|value| index.remove(value.as_str(), slot));
        }
    }
}

/// A resource as this process has written it, at the revision it got. What is read from its bytes is the same, or it would
/// be another one after a restart: a debug build looks, and takes what it has read where it is not.
fn renewed<K: Kind>(
    fresh: Arc<Resource<K>>,
    key: &Key,
    revision: Revision,
    bytes: &[u8],
) -> Result<Resource<K>, StoreError> {
    let mut resource = Arc::unwrap_or_clone(fresh);
    resource.revision = revision;
    if cfg!(debug_assertions) {
        let read = Resource::<K>::decode(key, revision, bytes)?;
        if read.metadata != resource.metadata || read.spec != resource.spec || read.status != resource.status {
            error!(?key, "a resource is another one when it is read again");
            return Ok(read);
        }
    }
    Ok(resource)
}

/// What the applier and the cascade need of a cache, whatever its kind.
pub(crate) trait AnyCache: Send + Sync {
    /// Makes one event ready; none when it is old. `fresh` is the resource that became the value, where this process has
    /// it still. Of what is made ready, a key may be there once.
    fn prepare(
        &self,
        key: &Key,
        revision: Revision,
        value: Option<&[u8]>,
        fresh: Option<AnyResource>,
    ) -> Result<Option<Ready>, StoreError>;
    /// Takes what was made ready here in, does `then`, and lets readers see it only after that.
    fn publish(&self, ready: &mut dyn Iterator<Item = &Ready>, then: &mut dyn FnMut());
    /// Takes records of this kind in. Several may be at it, each with other records; nobody is told.
    fn fill(&self, records: &[&Record]) -> Result<(), StoreError>;
    /// Tells the listeners what was published.
    fn tell(&self, ready: &Ready);
    /// Whether a resource with this uid is here.
    fn has(&self, uid: Uuid) -> bool;
    /// The keys of everything here.
    fn keys(&self) -> Vec<Key>;
    /// The owners that resources here name for which `is_gone`, each at least once.
    fn owners(&self, is_gone: &dyn Fn(&OwnerReference) -> bool) -> Vec<OwnerReference>;
    /// The keys of resources here that have an owner, `owner` among them, and none that lives.
    fn orphans(&self, owner: Uuid, lives: &dyn Fn(&OwnerReference) -> bool) -> Vec<Key>;
    /// Stages the deletion of a resource here, if it is there.
    fn delete(&self, tx: &mut Tx<'_>, key: &Key) -> Result<(), StoreError>;
    /// As itself, to be cast back to its kind.
    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
}

/// One event that is ready to be published.
pub(crate) struct Ready {
    /// A `Step<K>`.
    step: Box<dyn Any + Send + Sync>,
    /// The uid that goes with it, if it removes one.
    pub(crate) removed: Option<Uuid>,
    /// Whom the resource names as owners, when it is new or names others than before.
    pub(crate) owners: Vec<OwnerReference>,
}

impl Ready {
    fn step<K: Kind>(&self) -> &Step<K> {
        self.step.downcast_ref().expect("a cache gets back its own steps")
    }
}

impl<K: Kind> AnyCache for Cache<K> {
    fn prepare(
        &self,
        key: &Key,
        revision: Revision,
        value: Option<&[u8]>,
        fresh: Option<AnyResource>,
    ) -> Result<Option<Ready>, StoreError> {
        let fresh = fresh.and_then(|fresh| fresh.downcast::<Resource<K>>().ok());
        let step = match value {
            Some(bytes) => {
                let resource = match fresh {
                    Some(fresh) => renewed(fresh, key, revision, bytes)?,
                    None => Resource::decode(key, revision, bytes)?,
                };
                self.plan_put(key.clone(), resource)
            }
            None => self.plan_removal(key.clone(), revision),
        };
        let Some(step) = step else { return Ok(None) };
        let Change { old, new } = &step.change;
        // A key that was freed and taken again within one batch is the end of the old owner, too.
        let new_uid = new.as_ref().map(|new| new.metadata.uid);
        let removed = old
            .as_ref()
            .map(|old| old.metadata.uid)
            .filter(|uid| Some(*uid) != new_uid);
        let old_owners = old.as_ref().map_or(&[][..], |old| &old.metadata.owners);
        let new_owners = new.as_ref().map_or(&[][..], |new| &new.metadata.owners);
        let owners = if old_owners == new_owners {
            Vec::new()
        } else {
            new_owners.to_vec()
        };
        Ok(Some(Ready {
            step: Box::new(step),
            removed,
            owners,
        }))
    }

    fn publish(&self, ready: &mut dyn Iterator<Item = &Ready>, then: &mut dyn FnMut()) {
        let mut state = self.state.write();
        for Step {
            key,
            change,
            old_values,
            new_values,
        } in ready.map(Ready::step)
        {
            match &change.new {
                Some(new) => state.replace(key, new, new_values, old_values.as_deref()),
                None => state.remove(key, old_values.as_deref().unwrap_or_default()),
            }
        }
        then();
    }

    fn fill(&self, records: &[&Record]) -> Result<(), StoreError> {
        let mut decoded = Vec::with_capacity(records.len());
        for record in records {
            let resource = Resource::<K>::decode(&record.key, record.modified, &record.value)?;
            let values = self.values(&resource);
            decoded.push((&record.key, Arc::new(resource), values));
        }
        let mut state = self.state.write();
        for (key, new, values) in decoded {
            // Only what was written while everything is read comes twice.
            let old = state.slot(key).and_then(|slot| state.at(slot).cloned());
            if old.as_ref().is_some_and(|old| old.revision >= new.revision) {
                continue;
            }
            let old_values = old.as_ref().map(|old| self.values(old));
            state.replace(key, &new, &values, old_values.as_deref());
        }
        Ok(())
    }

    fn tell(&self, ready: &Ready) {
        let change = &ready.step::<K>().change;
        // Called outside the lock, so that a listener may look at anything here.
        let listeners = self.listeners.read().clone();
        for listener in listeners {
            listener(change);
        }
    }

    fn has(&self, uid: Uuid) -> bool {
        self.state.read().uids.get(&uid).is_some()
    }

    fn keys(&self) -> Vec<Key> {
        self.state
            .read()
            .slots
            .iter()
            .flatten()
            .map(|resource| resource.key())
            .collect()
    }

    fn owners(&self, is_gone: &dyn Fn(&OwnerReference) -> bool) -> Vec<OwnerReference> {
        // `is_gone` asks caches, maybe this one: not under its lock.
        let mut named: Vec<OwnerReference> = Vec::new();
        {
            let state = self.state.read();
            for uid in state.owners.values() {
                let owned = state.owners.get(uid).and_then(|slots| state.at(slots.find(|_| true)?));
                named.extend(
                    owned
                        .into_iter()
                        .flat_map(|r| r.metadata.owners.iter().filter(|o| o.uid == *uid))
                        .cloned(),
                );
            }
        }
        named.retain(|owner| is_gone(owner));
        named
    }

    fn orphans(&self, owner: Uuid, lives: &dyn Fn(&OwnerReference) -> bool) -> Vec<Key> {
        let owned = self.owned_by(owner);
        let orphans = owned
            .iter()
            .filter(|resource| !resource.metadata.owners.iter().any(lives));
        orphans.map(|resource| resource.key()).collect()
    }

    fn delete(&self, tx: &mut Tx<'_>, key: &Key) -> Result<(), StoreError> {
        match tx.get::<K>(key) {
            Some(resource) => tx.delete(&resource),
            None => Ok(()),
        }
    }

    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}
