//! `/os-availability-zone`.

use std::collections::BTreeMap;

use axum::{Router, extract::State, response::Response, routing::get};
use http::StatusCode;
use madang_http::{Failure, json};
use madang_identity::Caller;
use madang_store::Store;
use serde_json::{Value, json};

use super::{Host, all, is_up};
use crate::{aggregate::zone_of, api::ComputeApi, server::view::micros};

pub(super) fn routes() -> Router<ComputeApi> {
    Router::new()
        .route("/os-availability-zone", get(list))
        .route("/os-availability-zone/detail", get(detail))
}

/// `GET /os-availability-zone`.
async fn list(State(api): State<ComputeApi>, caller: Caller) -> Result<Response, Failure> {
    caller.enforce("os_compute_api:os-availability-zone:list", &[])?;
    Ok(shown(&api.store, false))
}

/// `GET /os-availability-zone/detail`.
async fn detail(State(api): State<ComputeApi>, caller: Caller) -> Result<Response, Failure> {
    caller.enforce("os_compute_api:os-availability-zone:detail", &[])?;
    Ok(shown(&api.store, true))
}

/// Zones with an enabled host are available and come first; the others have no hosts to show.
fn shown(store: &Store, has_hosts: bool) -> Response {
    let mut zones: BTreeMap<String, Vec<Host>> = BTreeMap::new();
    for host in all(store) {
        zones.entry(zone_of(store, &host)).or_default().push(host);
    }
    let mut list: Vec<(bool, Value)> = zones
        .into_iter()
        .map(|(name, mut hosts)| {
            hosts.retain(|host| host.spec.is_enabled);
            let is_available = !hosts.is_empty();
            let hosts = if has_hosts && is_available {
                json!(services(&hosts))
            } else {
                Value::Null
            };
            let zone = json!({ "zoneName": name, "zoneState": { "available": is_available }, "hosts": hosts });
            (is_available, zone)
        })
        .collect();
    list.sort_by_key(|(is_available, _)| !is_available);
    let list: Vec<Value> = list.into_iter().map(|(_, zone)| zone).collect();
    json(StatusCode::OK, &json!({ "availabilityZoneInfo": list }))
}

fn services(hosts: &[Host]) -> BTreeMap<&str, Value> {
    let one = |host: &Host| {
        json!({ "nova-compute": {
            "available": is_up(host),
            "active": host.spec.is_enabled,
            "updated_at": host.status.seen.map(micros),
        } })
    };
    hosts.iter().map(|host| (host.spec.name.as_str(), one(host))).collect()
}
