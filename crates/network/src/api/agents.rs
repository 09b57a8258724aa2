//! Hosts as Neutron shows them: each is one agent, which does all that Neutron has several for.

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    response::Response,
};
use http::StatusCode;
use jiff::Timestamp;
use madang_http::{Failure, Json, Query, RequestInfo, json};
use madang_identity::Caller;
use madang_scheduler::Provider;
use madang_store::Resource;
use serde_json::{Map, Value, json};

use super::{
    NetworkApi, convert,
    failure::Stop,
    filter,
    resource::{Context, Facts, member},
    view::time,
};
use crate::{
    network::api::zones as known_zones,
    refusal::{self, Missing},
};

/// After this long without a sign of life, a host's agent is taken for dead, in seconds: twice what its heartbeat takes
/// at most, and a little.
const ALIVE_FOR_SECONDS: i64 = 150;

/// Where what admins say about an agent is kept.
const DESCRIPTION: &str = "network.madang/description";

const ATTRIBUTES: [&str; 13] = [
    "id",
    "agent_type",
    "binary",
    "host",
    "topic",
    "admin_state_up",
    "alive",
    "availability_zone",
    "created_at",
    "started_at",
    "heartbeat_timestamp",
    "configurations",
    "description",
];

fn view(host: &Resource<Provider>, now: Timestamp) -> Map<String, Value> {
    let seen = host.status.seen.unwrap_or(host.metadata.updated);
    let is_alive = now.as_second() - seen.as_second() < ALIVE_FOR_SECONDS;
    let view = json!({
        "id": host.name(),
        "agent_type": "madang agent",
        "binary": "madang",
        "host": host.spec.name,
        "topic": "N/A",
        "admin_state_up": host.spec.is_enabled,
        "alive": is_alive,
        "availability_zone": host.spec.zone,
        "created_at": time(host.metadata.created),
        "started_at": time(host.metadata.created),
        "heartbeat_timestamp": time(seen),
        "configurations": {},
        "description": host.metadata.annotations.get(DESCRIPTION),
        "resources_synced": null,
    });
    match view {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}

/// `GET /agents`.
pub(super) async fn list(
    State(api): State<NetworkApi>,
    caller: Caller,
    query: Query,
    info: RequestInfo,
) -> Result<Response, Failure> {
    let now = Timestamp::now();
    let is_allowed = Facts::default().allow(&caller, "get_agent");
    let hosts = if is_allowed {
        api.store.cache::<Provider>().all()
    } else {
        Vec::new()
    };
    let hosts = hosts.iter().map(|host| view(host, now)).collect();
    Ok(json(
        StatusCode::OK,
        &filter::page("agents", hosts, &ATTRIBUTES, &[], &query, &info)?,
    ))
}

fn visible(api: &NetworkApi, caller: &Caller, id: &str) -> Result<Arc<Resource<Provider>>, Failure> {
    let found: Option<Arc<Resource<Provider>>> = api.store.cache::<Provider>().by_name(id);
    let found = found.filter(|_| Facts::default().allow(caller, "get_agent"));
    Ok(found.ok_or_else(|| refusal::not_found(Missing::Agent, id))?)
}

/// `GET /agents/{id}`.
pub(super) async fn show(
    State(api): State<NetworkApi>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let found = visible(&api, &caller, &id)?;
    Ok(json(
        StatusCode::OK,
        &json!({ "agent": view(&found, Timestamp::now()) }),
    ))
}

fn is_its_host(id: &str) -> Failure {
    let message = format!("Agent {id} is its host's and comes and goes with it: see the host's compute service.");
    refusal::conflict("AgentIsItsHost", message).into()
}

/// `PUT /agents/{id}`: what admins say about it. Whether it works is its host's matter.
pub(super) async fn update(
    State(api): State<NetworkApi>,
    caller: Caller,
    Path(id): Path<String>,
    body: Json<Value>,
) -> Result<Response, Failure> {
    let known = visible(&api, &caller, &id)?;
    Facts::default().enforce(&caller, "update_agent")?;
    let mut description = None;
    for (name, value) in member(body.0, "agent")? {
        let unfit =
            |why: String| Failure::invalid(format!("Invalid input for {name}. Reason: {why}.")).at(name.as_str());
        match name.as_str() {
            "description" => description = Some(convert::text_or_null(&value).map_err(unfit)?),
            "admin_state_up" => {
                if convert::flag(&value).map_err(unfit)? != Value::Bool(known.spec.is_enabled) {
                    return Err(is_its_host(&id));
                }
            }
            _ => return Err(Failure::invalid(format!("Unrecognized attribute(s) '{name}'")).at(name)),
        }
    }
    let key = known.key();
    let changed = api.store.modify::<Provider, Stop>(&key, caller.cause(), |host| {
        let annotations = &mut host.metadata.annotations;
        match &description {
            Some(Value::String(text)) => _ = annotations.insert(DESCRIPTION.to_owned(), text.clone()),
            Some(_) => _ = annotations.remove(DESCRIPTION),
            None => {}
        }
        Ok(())
    });
    let changed = changed.await?;
    Ok(json(
        StatusCode::OK,
        &json!({ "agent": view(&changed, Timestamp::now()) }),
    ))
}

/// `DELETE /agents/{id}`.
pub(super) async fn delete(
    State(api): State<NetworkApi>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    visible(&api, &caller, &id)?;
    Facts::default().enforce(&caller, "delete_agent")?;
    Err(is_its_host(&id))
}

/// `GET /availability_zones`: every zone, for networks and for routers.
pub(super) async fn zones(
    State(api): State<NetworkApi>,
    caller: Caller,
    query: Query,
    info: RequestInfo,
) -> Result<Response, Failure> {
    let context = Context {
        store: api.store,
        caller,
    };
    let mut zones = Vec::new();
    for name in known_zones(&context) {
        for resource in ["network", "router"] {
            let zone = json!({ "name": name, "resource": resource, "state": "available" });
            zones.extend(zone.as_object().cloned());
        }
    }
    let names = ["name", "resource", "state", "id"];
    Ok(json(
        StatusCode::OK,
        &filter::page("availability_zones", zones, &names, &[], &query, &info)?,
    ))
}
