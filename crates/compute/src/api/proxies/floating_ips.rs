//! `/os-floating-ips` and `/os-floating-ip-pools`.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, LazyLock},
};

use axum::{
    Router,
    body::Bytes,
    extract::{Path, State},
    response::{IntoResponse, Response},
    routing::get,
};
use http::StatusCode;
use madang_http::{Failure, Microversion, Schema, json};
use madang_identity::Caller;
use madang_network::{FloatingIp, FloatingIpSpec, Network, Port, Subnet};
use madang_store::{Metadata, Resource, Store, StoreError};
use serde_json::{Value, json};

use super::{allowed, refusal};
use crate::api::{ComputeApi, failure, input};

pub(super) fn routes() -> Router<ComputeApi> {
    Router::new()
        .route("/os-floating-ip-pools", get(pools))
        .route("/os-floating-ips", get(list).post(create))
        .route("/os-floating-ips/{id}", get(show).delete(delete))
}

/// The networks that addresses come from.
fn external(store: &Store) -> Vec<Arc<Resource<Network>>> {
    let mut networks = store.cache::<Network>().all();
    networks.retain(|network| network.spec.is_external);
    networks.sort_unstable_by(|a, b| (a.metadata.created, a.name()).cmp(&(b.metadata.created, b.name())));
    networks
}

/// What Nova calls a pool: an external network's name, or its id where it has none.
fn pool_name(network: &Resource<Network>) -> &str {
    if network.spec.name.is_empty() {
        network.name()
    } else {
        &network.spec.name
    }
}

fn view(store: &Store, floating: &Resource<FloatingIp>) -> Value {
    let spec = &floating.spec;
    let port = spec.port_id.as_deref().and_then(|id| store.cache::<Port>().by_name(id));
    let network = store.cache::<Network>().by_name(&spec.network_id);
    json!({
        "id": floating.name(),
        "ip": spec.address,
        "fixed_ip": spec.fixed_ip_address,
        "instance_id": port.map(|port| port.spec.device_id.clone()),
        "pool": network.as_deref().map_or(spec.network_id.as_str(), pool_name),
    })
}

/// `GET /os-floating-ip-pools`.
async fn pools(State(api): State<ComputeApi>, caller: Caller, version: Microversion) -> Result<Response, Failure> {
    input::until(version, super::LAST)?;
    caller.enforce("os_compute_api:os-floating-ip-pools", &[])?;
    let networks = external(&api.store);
    let pools: Vec<Value> = networks
        .iter()
        .map(|network| json!({ "name": pool_name(network) }))
        .collect();
    Ok(json(StatusCode::OK, &json!({ "floating_ip_pools": pools })))
}

/// `GET /os-floating-ips`: the project's own.
async fn list(State(api): State<ComputeApi>, caller: Caller, version: Microversion) -> Result<Response, Failure> {
    let project = allowed(&caller, version, "os_compute_api:os-floating-ips:list")?;
    let mut own = api.store.cache::<FloatingIp>().in_project(project);
    own.sort_unstable_by_key(|floating| (floating.metadata.created, floating.metadata.uid));
    let shown: Vec<Value> = own.iter().map(|floating| view(&api.store, floating)).collect();
    Ok(json(StatusCode::OK, &json!({ "floating_ips": shown })))
}

fn find(store: &Store, caller: &Caller, id: &str) -> Result<Arc<Resource<FloatingIp>>, Failure> {
    let floating = store.cache::<FloatingIp>().by_name(id);
    let floating = floating.filter(|floating| caller.can_see(floating.project()));
    floating.ok_or_else(|| Failure::not_found(format!("Floating IP not found for ID {id}")))
}

/// `GET /os-floating-ips/{id}`.
async fn show(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    allowed(&caller, version, "os_compute_api:os-floating-ips:show")?;
    let floating = find(&api.store, &caller, &id)?;
    Ok(json(
        StatusCode::OK,
        &json!({ "floating_ip": view(&api.store, &floating) }),
    ))
}

/// `POST /os-floating-ips`: an address of the pool named, or of the first there is. The body may be empty.
async fn create(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    body: Bytes,
) -> Result<Response, Failure> {
    static CREATE: LazyLock<Schema> = LazyLock::new(|| {
        let pool = json!({ "type": ["string", "null"] });
        input::nova(json!({ "type": ["object", "null"], "properties": { "pool": pool } }))
    });
    let project = allowed(&caller, version, "os_compute_api:os-floating-ips:create")?;
    let body: Value = if body.is_empty() {
        Value::Null
    } else {
        serde_json::from_slice(&body).map_err(|_| Failure::invalid("Malformed request body"))?
    };
    CREATE.check(&body)?;
    let network = pool(&api.store, body["pool"].as_str())?;
    let spec = FloatingIpSpec {
        description: String::new(),
        network_id: network.name().to_owned(),
        subnet_id: String::new(),
        address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        holder_port_id: String::new(),
        port_id: None,
        fixed_ip_address: None,
        router_id: None,
        dns_domain: String::new(),
        dns_name: String::new(),
        tags: Vec::new(),
    };
    let wanted = Resource::<FloatingIp>::new(Metadata::with_id(project), spec);
    let made = api
        .store
        .transact::<_, StoreError>(caller.cause(), |tx| tx.create(wanted.clone()))
        .await
        .map_err(|error| no_address(error, pool_name(&network)))?;
    Ok(json(StatusCode::OK, &json!({ "floating_ip": view(&api.store, &made) })))
}

fn pool(store: &Store, name: Option<&str>) -> Result<Arc<Resource<Network>>, Failure> {
    let mut networks = external(store);
    networks.retain(|network| store.cache::<Subnet>().count_by("network", network.name()) > 0);
    let found = match name {
        None => networks.into_iter().next(),
        Some(name) => networks
            .into_iter()
            .find(|network| network.name() == name || network.spec.name == name),
    };
    found.ok_or_else(|| Failure::not_found("Floating IP pool not found."))
}

/// Nova's words and statuses for a full pool and a full quota.
fn no_address(error: StoreError, pool: &str) -> Failure {
    let refused = refusal(error);
    match refused.reason {
        "OverQuota" => Failure::forbidden(format!("IP allocation over quota in pool {pool}.")),
        "IpAddressGenerationFailure" | "ExternalIpAddressExhausted" => {
            Failure::not_found(format!("No more floating IPs in pool {pool}."))
        }
        _ => refused,
    }
}

/// `DELETE /os-floating-ips/{id}`.
async fn delete(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    allowed(&caller, version, "os_compute_api:os-floating-ips:delete")?;
    let floating = find(&api.store, &caller, &id)?;
    let key = floating.key();
    let gone = api
        .store
        .transact::<(), StoreError>(caller.cause(), |tx| match tx.get::<FloatingIp>(&key) {
            Some(floating) => tx.delete(&floating),
            None => Ok(()),
        });
    gone.await.map_err(failure)?;
    Ok(StatusCode::ACCEPTED.into_response())
}
