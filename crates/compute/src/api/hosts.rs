//! Hosts as Nova shows them: availability zones, hypervisors, services. All are views of the scheduler's providers.

mod hypervisors;
mod old;
mod services;
mod zones;

use std::sync::Arc;

use axum::Router;
use jiff::Timestamp;
use madang_http::{Failure, Microversion};
use madang_scheduler::{DISK_GB, MEMORY_MB, Provider, VCPU, claim::rules::usage_group, control::is_alive};
use madang_store::{Resource, Store};
use serde_json::{Value, json};

use super::ComputeApi;
use crate::Server;

type Host = Arc<Resource<Provider>>;

/// The routes.
pub(super) fn routes() -> Router<ComputeApi> {
    zones::routes()
        .merge(hypervisors::routes())
        .merge(services::routes())
        .merge(old::routes())
}

/// Every host, by name. Providers that Placement's users made themselves are none.
fn all(store: &Store) -> Vec<Host> {
    let mut hosts = store.cache::<Provider>().all();
    hosts.retain(|host| is_host(host));
    hosts.sort_unstable_by(|a, b| a.spec.name.cmp(&b.spec.name));
    hosts
}

fn is_host(host: &Resource<Provider>) -> bool {
    host.spec.parent.is_none() && !host.spec.drivers.is_empty()
}

fn is_up(host: &Resource<Provider>) -> bool {
    is_alive(host, Timestamp::now())
}

fn state(host: &Resource<Provider>) -> &'static str {
    if is_up(host) { "up" } else { "down" }
}

fn status(host: &Resource<Provider>) -> &'static str {
    if host.spec.is_enabled { "enabled" } else { "disabled" }
}

/// The number that old clients know a host by.
fn number(host: &Resource<Provider>) -> u32 {
    host.metadata.uid.as_fields().0 >> 1
}

fn id_of(host: &Resource<Provider>, version: Microversion) -> Value {
    if version >= Microversion(2, 53) {
        json!(host.name())
    } else {
        json!(number(host))
    }
}

/// A host by the id that clients of this microversion have.
///
/// # Errors
/// `Invalid` for what is no uuid, since 2.53; none where there is no such host.
fn by_id(store: &Store, id: &str, version: Microversion) -> Result<Option<Host>, Failure> {
    if version < Microversion(2, 53) {
        return Ok(all(store).into_iter().find(|host| number(host).to_string() == id));
    }
    if uuid::Uuid::try_parse(id).is_err() {
        return Err(Failure::invalid(format!("Invalid uuid {id}")));
    }
    Ok(store.cache::<Provider>().by_name(id).filter(|host| is_host(host)))
}

fn by_name(store: &Store, name: &str) -> Option<Host> {
    let found = store.cache::<Provider>().by("name", name).into_iter().next();
    found.filter(|host| is_host(host))
}

fn servers_on(store: &Store, host: &Resource<Provider>) -> Vec<Arc<Resource<Server>>> {
    store.cache::<Server>().by("host", &host.spec.name)
}

/// What hosts have and give, added up in Nova's words.
#[derive(Default)]
struct Sums {
    vcpus: i64,
    vcpus_used: i64,
    memory_mb: i64,
    memory_mb_used: i64,
    local_gb: i64,
    local_gb_used: i64,
    running_vms: usize,
}

impl Sums {
    fn of<'a>(store: &Store, hosts: impl IntoIterator<Item = &'a Resource<Provider>>) -> Self {
        let mut sums = Self::default();
        for host in hosts {
            let inventory = |class: &str| host.spec.inventories.get(class);
            let total = |class: &str| inventory(class).map_or(0, |inventory| inventory.total);
            let kept = |class: &str| inventory(class).map_or(0, |inventory| inventory.reserved);
            let used = store.counters("", &usage_group(host.name()));
            let used = |class: &str| used.get(class).copied().unwrap_or(0) + kept(class);
            sums.vcpus += total(VCPU);
            sums.vcpus_used += used(VCPU);
            sums.memory_mb += total(MEMORY_MB);
            sums.memory_mb_used += used(MEMORY_MB);
            sums.local_gb += total(DISK_GB);
            sums.local_gb_used += used(DISK_GB);
            sums.running_vms += store.cache::<Server>().count_by("host", &host.spec.name);
        }
        sums
    }

    fn write(&self, shown: &mut Value) {
        shown["vcpus"] = json!(self.vcpus);
        shown["vcpus_used"] = json!(self.vcpus_used);
        shown["memory_mb"] = json!(self.memory_mb);
        shown["memory_mb_used"] = json!(self.memory_mb_used);
        shown["free_ram_mb"] = json!(self.memory_mb - self.memory_mb_used);
        shown["local_gb"] = json!(self.local_gb);
        shown["local_gb_used"] = json!(self.local_gb_used);
        shown["free_disk_gb"] = json!(self.local_gb - self.local_gb_used);
        shown["disk_available_least"] = json!(self.local_gb - self.local_gb_used);
        shown["running_vms"] = json!(self.running_vms);
        shown["current_workload"] = json!(0);
    }
}
