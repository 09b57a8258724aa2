//! Every host with what is taken of it, in memory, kept current by the watch: what plans are made on.
//!
//! Nothing is rebuilt for a claim: a change of a provider, a claim or a host group changes its own entries. What a round of
//! the scheduler gives away is noted by [`Snapshot::take`]; that ends when the watch brings it, or with
//! [`Snapshot::untake`] when it does not come about. Nothing is ever counted twice or not at all in between.

use std::{collections::BTreeMap, sync::Arc};

use ahash::AHashMap;
use jiff::Timestamp;
use madang_store::{Change, Resource};
use uuid::Uuid;

use crate::{
    Amounts, Claim, Class, DISK_GB, HostGroup, Inventory, MEMORY_MB, Provider, VCPU,
    claim::handover::MIGRATIONS,
    forest::{Forest, SHARES},
    seat::{Occupied, Seat, Seating},
};

/// A provider as plans see it.
#[derive(Clone, Debug)]
pub struct Host {
    /// The provider.
    pub provider: Arc<Resource<Provider>>,
    /// What is taken of it.
    pub used: Amounts,
    /// Workloads on it.
    pub servers: u32,
    /// Those of them that are busy on its disks.
    pub busy: u32,
    /// How many workloads on it have images with which property, as `name=value`.
    pub images: Vec<(Class, u32)>,
    /// The aggregates it is in.
    pub groups: Vec<Arc<Resource<HostGroup>>>,
    /// Providers right below it.
    pub children: u32,
    /// What is taken of its NUMA nodes.
    pub occupied: Occupied,
    /// The usual classes, in the order of [`CLASSES`]: looked at for every host and every workload.
    usual: [Stock; 3],
}

/// A class of a host: how much there is and what is left, and what one consumer may take.
#[derive(Clone, Copy, Debug, Default)]
struct Stock {
    capacity: i64,
    free: i64,
    min_unit: i64,
    max_unit: i64,
    step_size: i64,
}

impl Stock {
    fn new(inventory: Option<&Inventory>, used: i64) -> Self {
        let Some(inventory) = inventory else {
            return Self::default(); // nothing of which nobody may take anything
        };
        let capacity = inventory.capacity();
        Self {
            capacity,
            free: capacity - used,
            min_unit: inventory.min_unit,
            max_unit: inventory.max_unit,
            step_size: inventory.step_size.max(1),
        }
    }

    fn fits(&self, amount: i64) -> bool {
        (self.min_unit..=self.max_unit).contains(&amount) && amount % self.step_size.max(1) == 0 && self.free >= amount
    }
}

impl Host {
    fn new(provider: Arc<Resource<Provider>>) -> Self {
        Self {
            provider,
            used: Amounts::default(),
            servers: 0,
            busy: 0,
            images: Vec::new(),
            groups: Vec::new(),
            children: 0,
            occupied: Occupied::default(),
            usual: Default::default(),
        }
    }

    /// The host's name.
    pub fn name(&self) -> &str {
        &self.provider.spec.name
    }

    /// Its availability zones: what its aggregates say, its own where they say nothing.
    pub fn zones(&self) -> impl Iterator<Item = &str> {
        let said = self
            .groups
            .iter()
            .filter_map(|group| group.spec.metadata.get("availability_zone"));
        let mut said = said.map(String::as_str).peekable();
        let own = said.peek().is_none().then_some(self.provider.spec.zone.as_str());
        own.into_iter().chain(said)
    }

    /// The values that its aggregates have for a key, lists taken apart.
    pub fn metadata<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        let said = self.groups.iter().filter_map(move |group| group.spec.metadata.get(key));
        said.flat_map(|value| value.split(',').map(str::trim))
    }

    /// What there is of a class.
    fn stock(&self, class: &str) -> Stock {
        match CLASSES.iter().position(|usual| *usual == class) {
            Some(at) => self.usual[at],
            None => self.counted(class),
        }
    }

    fn counted(&self, class: &str) -> Stock {
        let inventory = self.provider.spec.inventories.get(class);
        Stock::new(inventory, self.used.get(class).unwrap_or(0))
    }

    /// How much of a class is left.
    pub fn free(&self, class: &str) -> i64 {
        self.stock(class).free
    }

    /// The share of a class that is left, from 0 to 1.
    pub fn free_share(&self, class: &str) -> f64 {
        let Stock { capacity, free, .. } = self.stock(class);
        if capacity > 0 {
            free.max(0) as f64 / capacity as f64
        } else {
            0.0
        }
    }

    /// What a guest can have of its NUMA nodes; none where there is not enough left.
    pub fn seats(&self, seating: &Seating) -> Option<Vec<Seat>> {
        let own = self.provider.status.capabilities.as_deref();
        seating.find(own.map_or(&[], |own| &own.cells), &self.occupied)
    }

    /// Whether one consumer can take this much of a class.
    pub fn fits(&self, class: &str, amount: i64) -> bool {
        self.stock(class).fits(amount)
    }
}

/// What is left of the classes that nearly every workload asks for, beside each other in memory so that a full cloud is
/// searched quickly.
type Room = [i64; 3];
const CLASSES: [&str; 3] = [VCPU, MEMORY_MB, DISK_GB];

/// All hosts.
#[derive(Debug, Default)]
pub struct Snapshot {
    hosts: Vec<Option<Host>>,
    /// In the order of `hosts`.
    rooms: Vec<Room>,
    by_id: AHashMap<String, usize>,
    by_name: AHashMap<String, usize>,
    groups: AHashMap<String, Arc<Resource<HostGroup>>>,
    /// By the uuid of a provider that may not be known yet, how many are right below it.
    children: AHashMap<String, u32>,
    /// How many sharing providers there are.
    sharing: usize,
    /// Placed claims whose provider is not known yet.
    early: Vec<Arc<Resource<Claim>>>,
    /// What is given away and not brought by the watch yet, by the claim's uid.
    passing: AHashMap<Uuid, Arc<Resource<Claim>>>,
    /// Those of them that are in a group.
    passing_groups: AHashMap<Uuid, Vec<Arc<Resource<Claim>>>>,
}

impl Snapshot {
    /// How many places there are; some may be empty.
    pub fn len(&self) -> usize {
        self.hosts.len()
    }

    /// Whether there is no place.
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }

    /// The provider at a place, whatever it is.
    pub fn provider(&self, at: usize) -> Option<&Host> {
        self.hosts.get(at)?.as_ref()
    }

    /// The host at a place; none for a provider that runs no workloads, such as a storage that is shared.
    pub fn host(&self, at: usize) -> Option<&Host> {
        self.provider(at).filter(|host| !host.provider.spec.drivers.is_empty())
    }

    /// The place of a provider by its name.
    pub fn named(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// Whether what is left at a place is clearly too little for these amounts of the usual classes. Only for hosts that
    /// give all themselves, see [`Snapshot::is_simple`].
    pub fn is_full(&self, at: usize, wanted: &Room) -> bool {
        let room = &self.rooms[at];
        room[0] < wanted[0] || room[1] < wanted[1] || room[2] < wanted[2]
    }

    /// The usual classes of an amount, for [`Snapshot::is_full`].
    pub fn usual(wanted: &Amounts) -> Room {
        CLASSES.map(|class| wanted.get(class).unwrap_or(i64::MIN))
    }

    /// Whether a host gives everything itself: it has no parent, no children, and nobody shares with it.
    pub fn is_simple(&self, host: &Host) -> bool {
        let is_alone = host.children == 0 && host.provider.spec.parent.is_none();
        is_alone && (self.sharing == 0 || host.provider.spec.aggregates.is_empty())
    }

    /// The tree of a host, with everybody who shares with it, and the place of the host's root in it.
    pub fn forest_of(&self, host: &Host) -> (Forest, Option<usize>) {
        let mut root = host;
        while let Some(parent) = root.provider.spec.parent.as_ref().and_then(|id| self.by_id.get(id)) {
            match self.provider(*parent) {
                Some(above) if above.provider.name() != host.provider.name() => root = above,
                _ => break,
            }
        }
        let mut members = vec![root];
        let mut at = 0;
        while let Some(above) = members.get(at).copied() {
            at += 1;
            if above.children > 0 {
                let is_below = |one: &&Host| one.provider.spec.parent.as_deref() == Some(above.provider.name());
                members.extend(self.hosts.iter().flatten().filter(is_below));
            }
        }
        if self.sharing > 0 {
            let aggregates: Vec<&String> = members.iter().flat_map(|one| &one.provider.spec.aggregates).collect();
            let shares = |one: &&Host| {
                let spec = &one.provider.spec;
                spec.traits.iter().any(|name| name == SHARES)
                    && spec.aggregates.iter().any(|own| aggregates.contains(&own))
            };
            let known: Vec<&str> = members.iter().map(|one| one.provider.name()).collect();
            let more: Vec<&Host> = self.hosts.iter().flatten().filter(shares).collect();
            let more = more.into_iter().filter(|one| !known.contains(&one.provider.name()));
            let more: Vec<&Host> = more.collect();
            members.extend(more);
        }
        let id = root.provider.name().to_owned();
        let with_use = members.iter().map(|one| {
            let used: BTreeMap<String, i64> = one.used.iter().map(|(class, n)| (class.to_string(), n)).collect();
            (Arc::clone(&one.provider), used)
        });
        let forest = Forest::new(with_use.collect());
        let root = forest.place(&id);
        (forest, root)
    }

    /// A provider has come, changed or gone.
    pub fn provider_changed(&mut self, change: &Change<Provider>) {
        let old = change.old.as_deref();
        if let Some(old) = old {
            self.sharing -= usize::from(shares(old));
            self.count_child(old.spec.parent.as_deref(), false);
        }
        match &change.new {
            Some(new) => {
                self.sharing += usize::from(shares(new));
                self.put(new, old.map(|old| old.spec.name.as_str()));
                self.count_child(new.spec.parent.as_deref(), true);
            }
            None => {
                if let Some(at) = old.and_then(|old| self.by_id.remove(old.name())) {
                    if let Some(gone) = self.hosts[at].take() {
                        self.by_name.remove(gone.name());
                    }
                    self.rooms[at] = [i64::MIN; 3];
                }
            }
        }
    }

    fn put(&mut self, provider: &Arc<Resource<Provider>>, old_name: Option<&str>) {
        let name = &provider.spec.name;
        let groups = || {
            let of_host = self.groups.values().filter(|group| group.spec.hosts.contains(name));
            of_host.cloned().collect::<Vec<_>>()
        };
        let at = match self.by_id.get(provider.name()) {
            Some(at) => {
                let at = *at;
                let renamed = (old_name != Some(name.as_str())).then(groups);
                if let Some(host) = &mut self.hosts[at] {
                    host.provider = Arc::clone(provider);
                    if let Some(groups) = renamed {
                        host.groups = groups;
                    }
                }
                at
            }
            None => {
                let mut host = Host::new(Arc::clone(provider));
                host.groups = groups();
                host.children = self.children.get(provider.name()).copied().unwrap_or(0);
                self.hosts.push(Some(host));
                self.rooms.push([0; 3]);
                self.by_id.insert(provider.name().to_owned(), self.hosts.len() - 1);
                self.hosts.len() - 1
            }
        };
        if let Some(old) = old_name.filter(|old| old != name) {
            self.by_name.remove(old);
        }
        self.by_name.insert(name.clone(), at);
        self.refresh(at);
        if !self.early.is_empty() {
            for claim in std::mem::take(&mut self.early) {
                self.count(&claim, 1);
            }
        }
    }

    fn count_child(&mut self, parent: Option<&str>, is_more: bool) {
        let Some(parent) = parent else { return };
        let count = self.children.entry(parent.to_owned()).or_default();
        *count = if is_more { *count + 1 } else { count.saturating_sub(1) };
        let count = *count;
        if count == 0 {
            self.children.remove(parent);
        }
        if let Some(at) = self.by_id.get(parent)
            && let Some(host) = &mut self.hosts[*at]
        {
            host.children = count;
        }
    }

    /// A host group has come, changed or gone.
    pub fn group_changed(&mut self, change: &Change<HostGroup>) {
        let id = change.resource().name().to_owned();
        if let Some(old) = self.groups.remove(&id) {
            for name in &old.spec.hosts {
                let Some(at) = self.by_name.get(name) else { continue };
                if let Some(host) = &mut self.hosts[*at] {
                    host.groups.retain(|group| group.name() != id);
                }
            }
        }
        let Some(new) = &change.new else { return };
        for name in &new.spec.hosts {
            let Some(at) = self.by_name.get(name) else { continue };
            if let Some(host) = &mut self.hosts[*at] {
                host.groups.push(Arc::clone(new));
            }
        }
        self.groups.insert(id, Arc::clone(new));
    }

    /// A claim has come, changed or gone.
    pub fn claim_changed(&mut self, change: &Change<Claim>) {
        // One that is still pending may be told after it was given something.
        if change.new.as_ref().is_none_or(|new| !new.status.is_pending()) {
            self.settle(change.resource().metadata.uid);
        }
        if let Some(old) = &change.old {
            self.early.retain(|early| early.key() != old.key());
            self.count(old, -1);
        }
        if let Some(new) = &change.new {
            self.count(new, 1);
        }
    }

    /// Takes in claims that are there, none of which it knows.
    pub fn load(&mut self, claims: &[Arc<Resource<Claim>>]) {
        for claim in claims {
            self.count_without_refresh(claim, 1);
        }
        for at in 0..self.hosts.len() {
            self.refresh(at);
        }
    }

    fn count(&mut self, claim: &Arc<Resource<Claim>>, sign: i64) {
        self.count_without_refresh(claim, sign);
        for (id, _) in claim.status.given(&claim.spec) {
            if let Some(at) = self.by_id.get(id) {
                self.refresh(*at);
            }
        }
    }

    fn count_without_refresh(&mut self, claim: &Arc<Resource<Claim>>, sign: i64) {
        for (id, amounts) in claim.status.given(&claim.spec) {
            match self.by_id.get(id) {
                Some(at) => self.use_of(*at, amounts, sign),
                None if sign > 0 => {
                    self.early.push(Arc::clone(claim));
                    return;
                }
                None => {}
            }
        }
        let seats = &claim.status.seats;
        if let Some(at) = claim.status.provider.as_ref().and_then(|id| self.by_id.get(id))
            && !seats.is_empty()
            && let Some(host) = &mut self.hosts[*at]
        {
            host.occupied.count(seats, sign > 0);
        }
        let host = claim.status.host.as_ref().and_then(|name| self.by_name.get(name));
        if let Some(at) = host.copied() {
            self.count_workload(at, claim, sign);
        }
    }

    fn use_of(&mut self, at: usize, amounts: &Amounts, sign: i64) {
        if let Some(host) = &mut self.hosts[at] {
            for (class, amount) in amounts {
                host.used.add(class, sign * amount);
            }
        }
    }

    fn count_workload(&mut self, at: usize, claim: &Resource<Claim>, sign: i64) {
        if claim.spec.driver.is_empty() || claim.spec.consumer_kind == MIGRATIONS {
            return;
        }
        let Some(host) = &mut self.hosts[at] else { return };
        let step = |number: &mut u32| {
            *number = if sign > 0 {
                *number + 1
            } else {
                number.saturating_sub(1)
            }
        };
        step(&mut host.servers);
        if claim.spec.is_busy {
            step(&mut host.busy);
        }
        let properties = claim.spec.wishes.iter().flat_map(|wishes| &wishes.image_properties);
        for label in properties.map(|(name, value)| format!("{name}={value}")) {
            match host.images.iter_mut().find(|(known, _)| **known == *label) {
                Some((_, number)) => step(number),
                None if sign > 0 => host.images.push((Class::new(&label), 1)),
                None => {}
            }
        }
        host.images.retain(|(_, number)| *number > 0);
    }

    fn refresh(&mut self, at: usize) {
        if let Some(host) = &mut self.hosts[at] {
            host.usual = CLASSES.map(|class| host.counted(class));
            self.rooms[at] = host.usual.map(|stock| stock.free);
        }
    }

    /// Notes that a claim was given something that the watch has not brought yet.
    pub fn take(&mut self, claim: &Arc<Resource<Claim>>) {
        self.settle(claim.metadata.uid);
        if let Some(group) = &claim.spec.group {
            self.passing_groups.entry(group.id).or_default().push(Arc::clone(claim));
        }
        self.passing.insert(claim.metadata.uid, Arc::clone(claim));
        self.count(claim, 1);
    }

    /// Takes back what [`Snapshot::take`] noted; nothing when the watch has brought it.
    pub fn untake(&mut self, claim: &Arc<Resource<Claim>>) {
        self.settle(claim.metadata.uid);
    }

    /// What was given to members of a group and is not brought by the watch yet.
    pub fn passing(&self, group: Uuid) -> &[Arc<Resource<Claim>>] {
        self.passing_groups.get(&group).map_or(&[], Vec::as_slice)
    }

    /// Ends the note of what was given to a claim.
    fn settle(&mut self, uid: Uuid) {
        let Some(claim) = self.passing.remove(&uid) else { return };
        if let Some(group) = &claim.spec.group
            && let Some(members) = self.passing_groups.get_mut(&group.id)
        {
            members.retain(|other| other.metadata.uid != uid);
            if members.is_empty() {
                self.passing_groups.remove(&group.id);
            }
        }
        self.early.retain(|early| early.metadata.uid != uid);
        self.count(&claim, -1);
    }
}

fn shares(provider: &Resource<Provider>) -> bool {
    provider.spec.traits.iter().any(|name| name == SHARES)
}

/// Whether a provider's agent was heard of lately, and nobody says that it is down all the same.
pub fn is_alive(provider: &Resource<Provider>, now: Timestamp) -> bool {
    let is_heard = |seen: Timestamp| now.duration_since(seen).unsigned_abs() < crate::control::HEARTBEAT_LIMIT;
    !provider.spec.is_forced_down && provider.status.seen.is_some_and(is_heard)
}
