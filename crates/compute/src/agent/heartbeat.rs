//! The host's place in the inventory, and the sign of life that keeps it there.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use madang_control::TaskGroup;
use madang_scheduler::{Capabilities, DISK_GB, Inventory, MEMORY_MB, PCPU, Provider, ProviderSpec, VCPU};
use madang_store::{Metadata, Resource, Store, StoreError, Tx};
use tracing::warn;

use super::{AgentOptions, facts, filing};

/// A third of what the scheduler waits before it takes a host for dead.
const EVERY: Duration = Duration::from_secs(60);
/// Hosts in one transaction.
const AT_A_TIME: usize = 256;

/// What a host has.
#[derive(Clone, Debug)]
pub struct HostFacts {
    /// Its availability zone.
    pub zone: String,
    /// Processors.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Disk for servers in bytes.
    pub disk_bytes: u64,
    /// `QEMU` with `kvm` or `tcg`, for humans.
    pub hypervisor: String,
    /// Why hardware acceleration is or is not used.
    pub acceleration: String,
    /// What its machine and hypervisor are.
    pub capabilities: Capabilities,
    /// When it was started, where that is known.
    pub booted: Option<Timestamp>,
}

impl HostFacts {
    /// The numbers of the processors that are given to one server each.
    pub fn dedicated(&self) -> impl Iterator<Item = u32> {
        self.capabilities.cells.iter().flat_map(|cell| &cell.dedicated).copied()
    }

    /// The numbers of the other processors.
    pub fn shared(&self) -> impl Iterator<Item = u32> {
        let cells = self.capabilities.cells.iter();
        cells.flat_map(|cell| {
            cell.cpus
                .iter()
                .filter(move |cpu| !cell.dedicated.contains(cpu))
                .copied()
        })
    }

    /// The inventory, with the ratios Nova gives by default and some memory kept for the host.
    pub fn inventories(&self) -> BTreeMap<String, Inventory> {
        let of = |total: i64, reserved: i64, allocation_ratio| Inventory {
            total,
            reserved,
            min_unit: 1,
            max_unit: total,
            step_size: 1,
            allocation_ratio,
        };
        let memory_mb = (self.memory_bytes >> 20) as i64;
        let dedicated = self.dedicated().count() as i64;
        [
            (VCPU, of(i64::from(self.cpus) - dedicated, 0, 16.0)),
            (PCPU, of(dedicated, 0, 1.0)),
            (MEMORY_MB, of(memory_mb, 512.min(memory_mb / 4), 1.5)),
            (DISK_GB, of((self.disk_bytes >> 30) as i64, 0, 1.0)),
        ]
        .into_iter()
        .filter(|(class, inventory)| inventory.total > 0 || *class != PCPU)
        .map(|(class, inventory)| (class.to_owned(), inventory))
        .collect()
    }
}

pub(super) fn run(store: &Store, options: &AgentOptions, group: &TaskGroup) {
    let (store, found) = (store.clone(), options.facts.clone());
    let hosts: Vec<String> = options.hosts.iter().cloned().collect();
    let drivers: Vec<String> = options.drivers.keys().cloned().collect();
    let is_real = options.ground.is_some();
    group.spawn_until_stopped("heartbeat", async move {
        loop {
            let traits = match is_real {
                true => facts::own_traits(),
                // Who pretends has everything.
                false => facts::OWN_TRAITS.iter().map(|name| (*name).to_owned()).collect(),
            };
            for some in hosts.chunks(AT_A_TIME) {
                if let Err(error) = beat(&store, some, &found, &drivers, &traits).await {
                    warn!(hosts = some.len(), %error, "could not write a sign of life");
                }
            }
            tokio::time::sleep(EVERY).await;
        }
    });
}

/// Writes the providers of hosts: new, or brought up to what the hosts have now.
async fn beat(
    store: &Store,
    hosts: &[String],
    facts: &HostFacts,
    drivers: &[String],
    traits: &[String],
) -> Result<(), StoreError> {
    let cause = filing::cause(hosts.first().map_or("", String::as_str));
    store
        .transact(cause, |tx| {
            hosts
                .iter()
                .try_for_each(|host| beat_one(tx, host, facts, drivers, traits))
        })
        .await
}

fn beat_one(
    tx: &mut Tx<'_>,
    host: &str,
    facts: &HostFacts,
    drivers: &[String],
    traits: &[String],
) -> Result<(), StoreError> {
    let known = tx.store().cache::<Provider>().by("name", host).into_iter().next();
    let Some(known) = known else {
        let mut provider = Resource::<Provider>::new(Metadata::with_id(""), new_provider(host, facts, drivers));
        provider.spec.traits = traits.to_vec();
        see(&mut provider, facts);
        return tx.create(provider).map(|_| ());
    };
    let mut provider = (*known).clone();
    provider.spec.drivers = drivers.to_vec();
    let own = &mut provider.spec.traits;
    own.retain(|name| !facts::OWN_TRAITS.contains(&name.as_str()) || traits.contains(name));
    let missing = traits.iter().filter(|name| !own.contains(name)).cloned();
    let missing: Vec<String> = missing.collect();
    own.extend(missing);
    for (class, inventory) in facts.inventories() {
        // Ratios and reservations are the operator's, once they are there.
        let entry = provider
            .spec
            .inventories
            .entry(class)
            .or_insert_with(|| inventory.clone());
        entry.total = inventory.total;
        entry.max_unit = inventory.max_unit;
    }
    if facts.dedicated().next().is_none()
        && let Some(former) = provider.spec.inventories.get_mut(PCPU)
    {
        // Kept for those who have some of it still.
        former.total = 0;
    }
    see(&mut provider, facts);
    tx.update(&known, provider).map(|_| ())
}

fn see(provider: &mut Resource<Provider>, facts: &HostFacts) {
    provider.status.seen = Some(Timestamp::now());
    provider.status.hypervisor = facts.hypervisor.clone();
    provider.status.acceleration = facts.acceleration.clone();
    provider.status.booted = facts.booted;
    provider.status.capabilities = Some(Box::new(facts.capabilities.clone()));
}

fn new_provider(host: &str, facts: &HostFacts, drivers: &[String]) -> ProviderSpec {
    ProviderSpec {
        name: host.to_owned(),
        zone: facts.zone.clone(),
        inventories: facts.inventories(),
        drivers: drivers.to_vec(),
        is_enabled: true,
        ..ProviderSpec::default()
    }
}
