//! Hosts as Nova shows them: availability zones, hypervisors, services. All are views of the scheduler's providers.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    extract::{Path, State},
    response::Response,
};
use http::StatusCode;
use jiff::Timestamp;
use madang_http::{Failure, Json, Microversion, json};
use madang_identity::Caller;
use madang_scheduler::{DISK_GB, MEMORY_MB, Provider, VCPU, claim::rules::usage_group, control::is_alive};
use madang_store::{Resource, Store, StoreError};
use serde_json::{Value, json};

use super::{ComputeApi, failure};
use crate::{Server, server::view::micros};

type Host = Arc<Resource<Provider>>;

fn providers(store: &Store) -> Vec<Host> {
    let mut providers = store.cache::<Provider>().all();
    providers.sort_unstable_by(|a, b| a.spec.name.cmp(&b.spec.name));
    providers
}

fn is_up(host: &Resource<Provider>) -> bool {
    is_alive(host, Timestamp::now())
}

/// `GET /os-availability-zone`.
pub(super) async fn zones(State(api): State<ComputeApi>, caller: Caller) -> Result<Response, Failure> {
    caller.enforce("os_compute_api:os-availability-zone:list", &[])?;
    Ok(zone_list(&api.store, false))
}

/// `GET /os-availability-zone/detail`.
pub(super) async fn zones_detail(State(api): State<ComputeApi>, caller: Caller) -> Result<Response, Failure> {
    caller.enforce("os_compute_api:os-availability-zone:detail", &[])?;
    Ok(zone_list(&api.store, true))
}

fn zone_list(store: &Store, has_hosts: bool) -> Response {
    let mut zones: BTreeMap<String, Vec<Host>> = BTreeMap::new();
    for provider in providers(store) {
        zones.entry(provider.spec.zone.clone()).or_default().push(provider);
    }
    let zone = |(name, hosts): (String, Vec<Host>)| {
        let is_available = hosts.iter().any(|host| host.spec.is_enabled && is_up(host));
        let hosts: BTreeMap<_, _> = hosts
            .iter()
            .map(|host| {
                let state = json!({ "nova-compute": {
                    "available": is_up(host),
                    "active": host.spec.is_enabled,
                    "updated_at": host.status.seen.map(micros),
                } });
                (host.spec.name.clone(), state)
            })
            .collect();
        let hosts = if has_hosts { json!(hosts) } else { Value::Null };
        json!({ "zoneName": name, "zoneState": { "available": is_available }, "hosts": hosts })
    };
    let list: Vec<Value> = zones.into_iter().map(zone).collect();
    json(StatusCode::OK, &json!({ "availabilityZoneInfo": list }))
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

fn hypervisor_brief(host: &Resource<Provider>, version: Microversion) -> Value {
    json!({
        "id": id_of(host, version),
        "hypervisor_hostname": host.spec.name,
        "state": if is_up(host) { "up" } else { "down" },
        "status": if host.spec.is_enabled { "enabled" } else { "disabled" },
    })
}

fn hypervisor_full(store: &Store, host: &Resource<Provider>, version: Microversion) -> Value {
    let mut shown = hypervisor_brief(host, version);
    shown["hypervisor_type"] = json!("QEMU");
    shown["hypervisor_version"] = json!(0);
    shown["host_ip"] = json!(host.status.address.as_deref().unwrap_or("127.0.0.1"));
    shown["service"] = json!({
        "id": id_of(host, version),
        "host": host.spec.name,
        "disabled_reason": host.spec.disabled_reason,
    });
    // From 2.88 on inventory and usage are Placement's to tell.
    if version < Microversion(2, 88) {
        let sums = Sums::of(store, std::slice::from_ref(&Arc::new(host.clone())));
        sums.write(&mut shown);
        shown["cpu_info"] = if version < Microversion(2, 28) {
            json!("")
        } else {
            json!({})
        };
    } else {
        shown["uptime"] = Value::Null;
    }
    if version >= Microversion(2, 53) {
        shown["servers"] = json!(servers_on(store, host));
    }
    shown
}

fn servers_on(store: &Store, host: &Resource<Provider>) -> Vec<Value> {
    let servers = store.cache::<Server>().by("host", &host.spec.name);
    servers
        .iter()
        .map(|server| json!({ "uuid": server.name(), "name": server.spec.name }))
        .collect()
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
    fn of(store: &Store, hosts: &[Host]) -> Self {
        let mut sums = Self::default();
        for host in hosts {
            let total = |class: &str| host.spec.inventories.get(class).map_or(0, |inventory| inventory.total);
            let used = store.counters("", &usage_group(host.name()));
            let used = |class: &str| used.get(class).copied().unwrap_or(0);
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

/// `GET /os-hypervisors`.
pub(super) async fn hypervisors(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
) -> Result<Response, Failure> {
    caller.enforce("os_compute_api:os-hypervisors:list", &[])?;
    let list: Vec<Value> = providers(&api.store)
        .iter()
        .map(|host| hypervisor_brief(host, version))
        .collect();
    Ok(json(StatusCode::OK, &json!({ "hypervisors": list })))
}

/// `GET /os-hypervisors/detail`.
pub(super) async fn hypervisors_detail(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
) -> Result<Response, Failure> {
    caller.enforce("os_compute_api:os-hypervisors:list-detail", &[])?;
    let hosts = providers(&api.store);
    let list: Vec<Value> = hosts
        .iter()
        .map(|host| hypervisor_full(&api.store, host, version))
        .collect();
    Ok(json(StatusCode::OK, &json!({ "hypervisors": list })))
}

fn find(store: &Store, id: &str) -> Result<Host, Failure> {
    let by_id = store.cache::<Provider>().by_name(id);
    let by_number = || providers(store).into_iter().find(|host| number(host).to_string() == id);
    by_id
        .or_else(by_number)
        .ok_or_else(|| Failure::not_found(format!("Compute host {id} could not be found.")))
}

/// `GET /os-hypervisors/{id}`.
pub(super) async fn hypervisor(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    caller.enforce("os_compute_api:os-hypervisors:show", &[])?;
    let host = find(&api.store, &id)?;
    Ok(json(
        StatusCode::OK,
        &json!({ "hypervisor": hypervisor_full(&api.store, &host, version) }),
    ))
}

/// The hosts whose name has `part` in it; what two calls of old clients are about.
fn named(
    api: &ComputeApi,
    caller: &Caller,
    version: Microversion,
    rule: &str,
    part: &str,
) -> Result<Vec<Host>, Failure> {
    if version >= Microversion(2, 53) {
        return Err(Failure::not_found("The resource could not be found."));
    }
    caller.enforce(rule, &[])?;
    let mut hosts = providers(&api.store);
    hosts.retain(|host| host.spec.name.contains(part));
    if hosts.is_empty() {
        return Err(Failure::not_found(format!(
            "No hypervisor matching '{part}' could be found."
        )));
    }
    Ok(hosts)
}

/// `GET /os-hypervisors/{part of a name}/search`, up to 2.52.
pub(super) async fn search(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(part): Path<String>,
) -> Result<Response, Failure> {
    let hosts = named(&api, &caller, version, "os_compute_api:os-hypervisors:search", &part)?;
    let list: Vec<Value> = hosts.iter().map(|host| hypervisor_brief(host, version)).collect();
    Ok(json(StatusCode::OK, &json!({ "hypervisors": list })))
}

/// `GET /os-hypervisors/{part of a name}/servers`, up to 2.52.
pub(super) async fn servers(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(part): Path<String>,
) -> Result<Response, Failure> {
    let hosts = named(&api, &caller, version, "os_compute_api:os-hypervisors:servers", &part)?;
    let show = |host: &Host| {
        let mut shown = hypervisor_brief(host, version);
        let servers = servers_on(&api.store, host);
        if !servers.is_empty() {
            shown["servers"] = json!(servers);
        }
        shown
    };
    let list: Vec<Value> = hosts.iter().map(show).collect();
    Ok(json(StatusCode::OK, &json!({ "hypervisors": list })))
}

/// `GET /os-hypervisors/statistics`, up to 2.87.
pub(super) async fn statistics(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
) -> Result<Response, Failure> {
    if version >= Microversion(2, 88) {
        return Err(Failure::not_found("The resource could not be found."));
    }
    caller.enforce("os_compute_api:os-hypervisors:statistics", &[])?;
    let hosts = providers(&api.store);
    let mut shown = json!({ "count": hosts.len() });
    Sums::of(&api.store, &hosts).write(&mut shown);
    Ok(json(StatusCode::OK, &json!({ "hypervisor_statistics": shown })))
}

fn service_view(host: &Resource<Provider>, version: Microversion) -> Value {
    let mut shown = json!({
        "id": id_of(host, version),
        "binary": "nova-compute",
        "host": host.spec.name,
        "zone": host.spec.zone,
        "status": if host.spec.is_enabled { "enabled" } else { "disabled" },
        "state": if is_up(host) { "up" } else { "down" },
        "updated_at": host.status.seen.map(micros),
        "disabled_reason": host.spec.disabled_reason,
    });
    if version >= Microversion(2, 11) {
        shown["forced_down"] = json!(false);
    }
    shown
}

/// `GET /os-services`: an agent of each host.
pub(super) async fn services(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    query: madang_http::Query,
) -> Result<Response, Failure> {
    caller.enforce("os_compute_api:os-services:list", &[])?;
    let mut hosts = providers(&api.store);
    if let Some(wanted) = query.get("host") {
        hosts.retain(|host| host.spec.name == wanted);
    }
    if query.get("binary").is_some_and(|binary| binary != "nova-compute") {
        hosts.clear();
    }
    let list: Vec<Value> = hosts.iter().map(|host| service_view(host, version)).collect();
    Ok(json(StatusCode::OK, &json!({ "services": list })))
}

/// `PUT /os-services/{id}` (since 2.53, or `enable`/`disable` with the host in the body before): takes a host out of
/// scheduling, or back in.
pub(super) async fn update_service(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    caller.enforce("os_compute_api:os-services:update", &[])?;
    let reason = body["disabled_reason"].as_str().map(str::to_owned);
    let (host, is_enabled) = if version >= Microversion(2, 53) {
        let status = body["status"].as_str();
        (find(&api.store, &id)?, status.map(|status| status == "enabled"))
    } else {
        let name = body["host"].as_str().unwrap_or_default();
        let host = api.store.cache::<Provider>().by("name", name).into_iter().next();
        let host = host.ok_or_else(|| Failure::not_found(format!("Compute host {name} could not be found.")))?;
        (host, Some(id == "enable"))
    };
    let is_enabled = is_enabled.ok_or_else(|| {
        Failure::invalid("Invalid input for field/attribute status. Value: None. 'status' is a required property")
            .at("status")
    })?;
    if is_enabled && reason.is_some() {
        return Err(
            Failure::invalid("Specifying 'disabled_reason' when status is 'enabled' is invalid.").at("disabled_reason"),
        );
    }
    let key = host.key();
    let changed = api.store.modify::<Provider, StoreError>(&key, caller.cause(), |host| {
        host.spec.is_enabled = is_enabled;
        host.spec.disabled_reason.clone_from(&reason);
        Ok(())
    });
    let host = changed.await.map_err(failure)?;
    Ok(json(
        StatusCode::OK,
        &json!({ "service": service_view(&host, version) }),
    ))
}
