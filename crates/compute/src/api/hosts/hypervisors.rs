//! `/os-hypervisors`.

use std::sync::LazyLock;

use axum::{
    Router,
    extract::{Path, State},
    response::Response,
    routing::get,
};
use http::StatusCode;
use jiff::{Timestamp, Unit};
use madang_http::{Failure, LimitRules, Microversion, PageQuery, Query, RequestInfo, Schema, json, next_url};
use madang_identity::Caller;
use madang_scheduler::Provider;
use madang_store::{Resource, Store};
use serde_json::{Value, json};

use super::{Host, Sums, all, by_id, id_of, is_up, number, servers_on, state, status};
use crate::api::{ComputeApi, input};

/// Nova's `max_limit`.
const LIMITS: LimitRules = LimitRules::up_to(1000);

pub(super) fn routes() -> Router<ComputeApi> {
    Router::new()
        .route("/os-hypervisors", get(list))
        .route("/os-hypervisors/detail", get(detail))
        .route("/os-hypervisors/statistics", get(statistics))
        .route("/os-hypervisors/{id}", get(show))
        .route("/os-hypervisors/{id}/search", get(search))
        .route("/os-hypervisors/{id}/servers", get(servers))
        .route("/os-hypervisors/{id}/uptime", get(uptime))
}

fn enforce(caller: &Caller, verb: &str) -> Result<(), Failure> {
    caller.enforce(&format!("os_compute_api:os-hypervisors:{verb}"), &[])
}

fn brief(host: &Resource<Provider>, version: Microversion) -> Value {
    json!({
        "id": id_of(host, version),
        "hypervisor_hostname": host.spec.name,
        "state": state(host),
        "status": status(host),
    })
}

fn full(store: &Store, host: &Resource<Provider>, version: Microversion) -> Value {
    let capabilities = host.status.capabilities.as_deref();
    let mut shown = brief(host, version);
    let kind = capabilities.map_or("QEMU", |c| c.hypervisor_type.as_str());
    shown["hypervisor_type"] = json!(if kind.is_empty() { "QEMU" } else { kind });
    shown["hypervisor_version"] = json!(capabilities.map_or(0, |c| c.hypervisor_version));
    shown["host_ip"] = json!(host.status.address.as_deref().unwrap_or("127.0.0.1"));
    shown["service"] = json!({
        "id": id_of(host, version),
        "host": host.spec.name,
        "disabled_reason": host.spec.disabled_reason,
    });
    // From 2.88 on inventory and usage are Placement's to tell.
    if version >= Microversion(2, 88) {
        shown["uptime"] = json!(is_up(host).then(|| uptime_of(host)).flatten());
        return shown;
    }
    Sums::of(store, [host]).write(&mut shown);
    let cpu = cpu_info(host);
    shown["cpu_info"] = if version < Microversion(2, 28) {
        json!(cpu.to_string())
    } else {
        cpu
    };
    shown
}

fn cpu_info(host: &Resource<Provider>) -> Value {
    let Some(capabilities) = host.status.capabilities.as_deref() else {
        return json!({});
    };
    let mut info = json!({});
    for (name, value) in &capabilities.cpu {
        match name.split_once(':') {
            // Numbers, in Nova, too.
            Some((part, name)) => info[part][name] = json!(value.parse::<u64>().unwrap_or(0)),
            None => info[name] = json!(value),
        }
    }
    if !capabilities.cpu_features.is_empty() {
        info["features"] = json!(capabilities.cpu_features);
    }
    info
}

/// How long a host's machine has run, as `uptime` says it; none where its agent does not tell.
fn uptime_of(host: &Resource<Provider>) -> Option<String> {
    let now = Timestamp::now();
    let since = host.status.booted?;
    let seconds = now.since((Unit::Second, since)).ok()?.get_seconds().max(0);
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    let clock = now.strftime("%H:%M:%S");
    Some(format!(" {clock} up {days} days, {hours:2}:{minutes:02}"))
}

/// The servers of a host where they were asked for; none at all is said since 2.75 only.
fn add_servers(store: &Store, host: &Resource<Provider>, version: Microversion, shown: &mut Value) {
    let servers = servers_on(store, host);
    if servers.is_empty() && version < Microversion(2, 75) {
        return;
    }
    let servers: Vec<Value> = servers
        .iter()
        .map(|server| json!({ "uuid": server.name(), "name": server.spec.name }))
        .collect();
    shown["servers"] = json!(servers);
}

/// What a list's query may hold since 2.53; before, anything may.
fn check_query(query: &Query, version: Microversion, is_list: bool) -> Result<bool, Failure> {
    static LIST: LazyLock<Schema> = LazyLock::new(|| {
        let one = |schema: Value| json!({ "type": "array", "items": schema, "maxItems": 1 });
        input::nova(json!({
            "type": "object",
            "properties": {
                "limit": one(input::number(0)),
                "marker": one(json!({ "type": "string" })),
                "hypervisor_hostname_pattern": one(input::host()),
                "with_servers": one(input::boolean()),
            },
            "additionalProperties": false,
        }))
    });
    static SHOW: LazyLock<Schema> = LazyLock::new(|| {
        input::nova(json!({
            "type": "object",
            "properties": { "with_servers": { "type": "array", "items": input::boolean(), "maxItems": 1 } },
            "additionalProperties": false,
        }))
    });
    if version < Microversion(2, 53) {
        return Ok(false);
    }
    if is_list { &LIST } else { &SHOW }.check_query(query)?;
    Ok(query.flag("with_servers")?.unwrap_or(false))
}

async fn listed(
    api: &ComputeApi,
    version: Microversion,
    query: &Query,
    info: &RequestInfo,
    is_detailed: bool,
) -> Result<Response, Failure> {
    let store = &api.store;
    let with_servers = check_query(query, version, true)?;
    let pattern = query
        .get("hypervisor_hostname_pattern")
        .filter(|_| version >= Microversion(2, 53));
    let mut hosts = all(store);
    let mut page = PageQuery::default();
    if let Some(pattern) = pattern {
        if query.has("limit") || query.has("marker") {
            return Err(Failure::invalid(
                "Paging over hypervisors with the hypervisor_hostname_pattern query parameter is not supported.",
            ));
        }
        hosts = matching(hosts, pattern)?;
    } else if version >= Microversion(2, 33) {
        page = PageQuery::from(query, LIMITS)?;
    }
    // Markers are ids, which are numbers before 2.53.
    if version < Microversion(2, 53)
        && let Some(marker) = &page.marker
    {
        let host = hosts.iter().find(|host| number(host).to_string() == *marker);
        page.marker = Some(host.map_or_else(|| marker.clone(), |host| host.name().to_owned()));
    }
    let page = page.cut(hosts, |host| host.name())?;
    let show = |host: &Host| {
        let mut shown = if is_detailed {
            full(store, host, version)
        } else {
            brief(host, version)
        };
        if with_servers {
            add_servers(store, host, version, &mut shown);
        }
        shown
    };
    let mut body = json!({ "hypervisors": page.items.iter().map(show).collect::<Vec<_>>() });
    if let Some(last) = page.items.last().filter(|_| page.has_next) {
        let marker = match id_of(last, version) {
            Value::String(id) => id,
            number => number.to_string(),
        };
        let href = next_url(&info.url(), query, &marker);
        body["hypervisors_links"] = json!([{ "rel": "next", "href": href }]);
    }
    Ok(json(StatusCode::OK, &body))
}

/// The hosts whose name has `part` in it.
fn matching(mut hosts: Vec<Host>, part: &str) -> Result<Vec<Host>, Failure> {
    hosts.retain(|host| host.spec.name.contains(part));
    if hosts.is_empty() {
        return Err(Failure::not_found(format!(
            "No hypervisor matching '{part}' could be found."
        )));
    }
    Ok(hosts)
}

/// `GET /os-hypervisors`.
async fn list(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    query: Query,
    info: RequestInfo,
) -> Result<Response, Failure> {
    enforce(&caller, "list")?;
    listed(&api, version, &query, &info, false).await
}

/// `GET /os-hypervisors/detail`.
async fn detail(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    query: Query,
    info: RequestInfo,
) -> Result<Response, Failure> {
    enforce(&caller, "list-detail")?;
    listed(&api, version, &query, &info, true).await
}

fn find(store: &Store, id: &str, version: Microversion) -> Result<Host, Failure> {
    let missing = || Failure::not_found(format!("Hypervisor with ID '{id}' could not be found."));
    by_id(store, id, version)?.ok_or_else(missing)
}

/// `GET /os-hypervisors/{id}`.
async fn show(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
    query: Query,
) -> Result<Response, Failure> {
    enforce(&caller, "show")?;
    let with_servers = check_query(&query, version, false)?;
    let host = find(&api.store, &id, version)?;
    let mut shown = full(&api.store, &host, version);
    if with_servers {
        add_servers(&api.store, &host, version, &mut shown);
    }
    Ok(json(StatusCode::OK, &json!({ "hypervisor": shown })))
}

/// `GET /os-hypervisors/{part of a name}/search`, up to 2.52.
async fn search(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(part): Path<String>,
) -> Result<Response, Failure> {
    input::until(version, 52)?;
    enforce(&caller, "search")?;
    let hosts = matching(all(&api.store), &part)?;
    let list: Vec<Value> = hosts.iter().map(|host| brief(host, version)).collect();
    Ok(json(StatusCode::OK, &json!({ "hypervisors": list })))
}

/// `GET /os-hypervisors/{part of a name}/servers`, up to 2.52.
async fn servers(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(part): Path<String>,
) -> Result<Response, Failure> {
    input::until(version, 52)?;
    enforce(&caller, "servers")?;
    let hosts = matching(all(&api.store), &part)?;
    let show = |host: &Host| {
        let mut shown = brief(host, version);
        add_servers(&api.store, host, version, &mut shown);
        shown
    };
    let list: Vec<Value> = hosts.iter().map(show).collect();
    Ok(json(StatusCode::OK, &json!({ "hypervisors": list })))
}

/// `GET /os-hypervisors/{id}/uptime`, up to 2.87.
async fn uptime(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    input::until(version, 87)?;
    enforce(&caller, "uptime")?;
    let host = find(&api.store, &id, version)?;
    if !is_up(&host) {
        let message = format!("Compute service of {} is unavailable at this time.", host.spec.name);
        return Err(Failure::invalid(message));
    }
    let uptime = uptime_of(&host).ok_or_else(|| {
        Failure::invalid(format!("the agent of {} does not tell its uptime", host.spec.name))
            .with_status(StatusCode::NOT_IMPLEMENTED)
    })?;
    let mut shown = brief(&host, version);
    shown["uptime"] = json!(uptime);
    Ok(json(StatusCode::OK, &json!({ "hypervisor": shown })))
}

/// `GET /os-hypervisors/statistics`, up to 2.87.
async fn statistics(State(api): State<ComputeApi>, caller: Caller, version: Microversion) -> Result<Response, Failure> {
    input::until(version, 87)?;
    enforce(&caller, "statistics")?;
    let hosts = all(&api.store);
    let mut shown = json!({ "count": hosts.len() });
    Sums::of(&api.store, hosts.iter().map(AsRef::as_ref)).write(&mut shown);
    Ok(json(StatusCode::OK, &json!({ "hypervisor_statistics": shown })))
}
