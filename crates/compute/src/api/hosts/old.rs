//! `/os-hosts`, up to 2.42: hosts as Nova showed them before hypervisors and services.

use std::{collections::BTreeMap, sync::LazyLock};

use axum::{
    Router,
    extract::{Path, State},
    response::Response,
    routing::get,
};
use http::StatusCode;
use madang_http::{Failure, Json, Microversion, Query, Schema, json};
use madang_identity::Caller;
use madang_scheduler::Provider;
use madang_store::{Store, StoreError};
use serde_json::{Value, json};

use super::{Host, Sums, all, by_name, servers_on};
use crate::{
    aggregate::zone_of,
    api::{ComputeApi, failure, input},
};

/// The last microversion that has this.
const LAST: u16 = 42;

pub(super) fn routes() -> Router<ComputeApi> {
    Router::new()
        .route("/os-hosts", get(list))
        .route("/os-hosts/{name}", get(show).put(update))
        .route("/os-hosts/{name}/startup", get(startup))
        .route("/os-hosts/{name}/shutdown", get(shutdown))
        .route("/os-hosts/{name}/reboot", get(reboot))
}

fn enforce(caller: &Caller, version: Microversion, verb: &str) -> Result<(), Failure> {
    input::until(version, LAST)?;
    caller.enforce(&format!("os_compute_api:os-hosts:{verb}"), &[])
}

fn find(store: &Store, name: &str) -> Result<Host, Failure> {
    by_name(store, name).ok_or_else(|| Failure::not_found(format!("Compute host {name} could not be found.")))
}

/// `GET /os-hosts`.
async fn list(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    query: Query,
) -> Result<Response, Failure> {
    enforce(&caller, version, "list")?;
    let wanted = query.get("zone").filter(|zone| !zone.is_empty());
    let mut list = Vec::new();
    for host in all(&api.store).iter().filter(|host| host.spec.is_enabled) {
        let zone = zone_of(&api.store, host);
        if wanted.is_none_or(|wanted| wanted == zone) {
            list.push(json!({ "host_name": host.spec.name, "service": "compute", "zone": zone }));
        }
    }
    Ok(json(StatusCode::OK, &json!({ "hosts": list })))
}

/// `GET /os-hosts/{name}`: what there is, what is in use, and by which project.
async fn show(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(name): Path<String>,
) -> Result<Response, Failure> {
    enforce(&caller, version, "show")?;
    let host = find(&api.store, &name)?;
    let sums = Sums::of(&api.store, [&*host]);
    let resource = |project: &str, cpu: i64, memory_mb: i64, disk_gb: i64| {
        json!({ "resource": {
            "host": name, "project": project, "cpu": cpu, "memory_mb": memory_mb, "disk_gb": disk_gb,
        } })
    };
    let mut whole = (0, 0, 0);
    let mut projects: BTreeMap<String, (i64, i64, i64)> = BTreeMap::new();
    for server in servers_on(&api.store, &host) {
        let flavor = &server.spec.flavor;
        let disk = i64::from(flavor.disk_gb) + i64::from(flavor.ephemeral_gb);
        let own = projects.entry(server.project().to_owned()).or_default();
        for sum in [&mut whole, own] {
            sum.0 += i64::from(flavor.vcpus);
            sum.1 += i64::from(flavor.ram_mb);
            sum.2 += disk;
        }
    }
    let mut shown = vec![
        resource("(total)", sums.vcpus, sums.memory_mb, sums.local_gb),
        resource("(used_now)", sums.vcpus_used, sums.memory_mb_used, sums.local_gb_used),
        resource("(used_max)", whole.0, whole.1, whole.2),
    ];
    let of_project = projects
        .iter()
        .map(|(project, (cpu, memory, disk))| resource(project, *cpu, *memory, *disk));
    shown.extend(of_project);
    Ok(json(StatusCode::OK, &json!({ "host": shown })))
}

/// `PUT /os-hosts/{name}`: `status` takes a host out of scheduling or back in.
async fn update(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(name): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    static UPDATE: LazyLock<Schema> = LazyLock::new(|| {
        let word = json!({ "type": "string", "enum": ["enable", "disable", "Enable", "Disable", "ENABLE", "DISABLE"] });
        input::nova(json!({
            "type": "object",
            "properties": { "status": word, "maintenance_mode": word },
            "anyOf": [{ "required": ["status"] }, { "required": ["maintenance_mode"] }],
            "additionalProperties": false,
        }))
    });
    enforce(&caller, version, "update")?;
    UPDATE.check(&body)?;
    let host = find(&api.store, &name)?;
    if body.get("maintenance_mode").is_some() {
        return Err(not_supported("maintenance_mode"));
    }
    let is_enabled = body["status"]
        .as_str()
        .is_some_and(|status| status.eq_ignore_ascii_case("enable"));
    let key = host.key();
    let changed = api.store.modify::<Provider, StoreError>(&key, caller.cause(), |host| {
        host.spec.is_enabled = is_enabled;
        Ok(())
    });
    changed.await.map_err(failure)?;
    let status = if is_enabled { "enabled" } else { "disabled" };
    Ok(json(StatusCode::OK, &json!({ "host": name, "status": status })))
}

/// As Nova's libvirt driver, which has no say over its machine's power.
fn not_supported(what: &str) -> Failure {
    Failure::invalid(format!("{what}: hosts are not powered or emptied through this API"))
        .with_status(StatusCode::NOT_IMPLEMENTED)
}

async fn power(
    api: &ComputeApi,
    caller: &Caller,
    version: Microversion,
    name: &str,
    verb: &str,
) -> Result<Response, Failure> {
    enforce(caller, version, verb)?;
    find(&api.store, name)?;
    Err(not_supported(verb))
}

/// `GET /os-hosts/{name}/startup`.
async fn startup(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(name): Path<String>,
) -> Result<Response, Failure> {
    power(&api, &caller, version, &name, "start").await
}

/// `GET /os-hosts/{name}/shutdown`.
async fn shutdown(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(name): Path<String>,
) -> Result<Response, Failure> {
    power(&api, &caller, version, &name, "shutdown").await
}

/// `GET /os-hosts/{name}/reboot`.
async fn reboot(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(name): Path<String>,
) -> Result<Response, Failure> {
    power(&api, &caller, version, &name, "reboot").await
}
