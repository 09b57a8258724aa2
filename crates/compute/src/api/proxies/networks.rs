//! `/os-networks`, `/os-tenant-networks` and `/os-baremetal-nodes`: what is left of them.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Path, State},
    response::Response,
    routing::get,
};
use http::StatusCode;
use madang_http::{Failure, Microversion, json};
use madang_identity::Caller;
use madang_network::{Network, is_visible};
use madang_store::{Resource, Store};
use serde_json::{Value, json};

use super::allowed;
use crate::api::{ComputeApi, input};

pub(super) fn routes() -> Router<ComputeApi> {
    Router::new()
        .route("/os-networks", get(list).post(super::removed::gone))
        .route("/os-networks/add", axum::routing::post(super::removed::gone))
        .route("/os-networks/{id}", get(show).delete(super::removed::gone))
        .route("/os-networks/{id}/action", axum::routing::post(super::removed::gone))
        .route("/os-tenant-networks", get(tenant_list).post(super::removed::gone))
        .route(
            "/os-tenant-networks/{id}",
            get(tenant_show).delete(super::removed::gone),
        )
        .route("/os-baremetal-nodes", get(nodes))
        .route("/os-baremetal-nodes/{id}", get(node))
}

/// The networks a project sees: its own, shared and external ones; an admin sees all.
fn visible(store: &Store, caller: &Caller, project: &str) -> Vec<Arc<Resource<Network>>> {
    let mut networks = store.cache::<Network>().all();
    networks.retain(|network| caller.is_admin() || is_visible(store, network, project));
    networks.sort_unstable_by(|a, b| (a.metadata.created, a.name()).cmp(&(b.metadata.created, b.name())));
    networks
}

fn find(store: &Store, caller: &Caller, project: &str, id: &str) -> Result<Arc<Resource<Network>>, Failure> {
    let network = store.cache::<Network>().by_name(id);
    let network = network.filter(|network| caller.is_admin() || is_visible(store, network, project));
    network.ok_or_else(|| Failure::not_found("Network not found"))
}

/// Members that Nova's own networks had; today they are there without a value.
const EMPTY: &[&str] = &[
    "cidr",
    "netmask",
    "gateway",
    "broadcast",
    "dns1",
    "dns2",
    "cidr_v6",
    "gateway_v6",
    "netmask_v6",
];
/// More of them, for admins.
const EMPTY_FOR_ADMINS: &[&str] = &[
    "created_at",
    "updated_at",
    "deleted_at",
    "deleted",
    "injected",
    "bridge",
    "vlan",
    "vpn_public_address",
    "vpn_public_port",
    "vpn_private_address",
    "dhcp_start",
    "project_id",
    "host",
    "bridge_interface",
    "multi_host",
    "priority",
    "rxtx_base",
    "mtu",
    "dhcp_server",
    "enable_dhcp",
    "share_address",
];

fn view(caller: &Caller, network: &Resource<Network>) -> Value {
    let mut shown = json!({ "id": network.name(), "label": network.spec.name });
    let more = if caller.is_admin() { EMPTY_FOR_ADMINS } else { &[] };
    for name in EMPTY.iter().chain(more) {
        shown[*name] = Value::Null;
    }
    shown
}

/// `GET /os-networks`.
async fn list(State(api): State<ComputeApi>, caller: Caller, version: Microversion) -> Result<Response, Failure> {
    let project = allowed(&caller, version, "os_compute_api:os-networks:list")?;
    let networks = visible(&api.store, &caller, project);
    let shown: Vec<Value> = networks.iter().map(|network| view(&caller, network)).collect();
    Ok(json(StatusCode::OK, &json!({ "networks": shown })))
}

/// `GET /os-networks/{id}`.
async fn show(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let project = allowed(&caller, version, "os_compute_api:os-networks:show")?;
    let network = find(&api.store, &caller, project, &id)?;
    Ok(json(StatusCode::OK, &json!({ "network": view(&caller, &network) })))
}

/// The word `None` is what Nova says.
fn tenant_view(network: &Resource<Network>) -> Value {
    json!({ "id": network.name(), "cidr": "None", "label": network.spec.name })
}

/// `GET /os-tenant-networks`.
async fn tenant_list(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
) -> Result<Response, Failure> {
    let project = allowed(&caller, version, "os_compute_api:os-tenant-networks:list")?;
    let networks = visible(&api.store, &caller, project);
    let shown: Vec<Value> = networks.iter().map(|network| tenant_view(network)).collect();
    Ok(json(StatusCode::OK, &json!({ "networks": shown })))
}

/// `GET /os-tenant-networks/{id}`.
async fn tenant_show(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let project = allowed(&caller, version, "os_compute_api:os-tenant-networks:show")?;
    let network = find(&api.store, &caller, project, &id)?;
    Ok(json(StatusCode::OK, &json!({ "network": tenant_view(&network) })))
}

/// `GET /os-baremetal-nodes`: there is no Ironic to ask.
async fn nodes(caller: Caller, version: Microversion) -> Result<Response, Failure> {
    input::until(version, super::LAST)?;
    caller.enforce("os_compute_api:os-baremetal-nodes:list", &[])?;
    Err(no_ironic())
}

/// `GET /os-baremetal-nodes/{id}`.
async fn node(caller: Caller, version: Microversion) -> Result<Response, Failure> {
    input::until(version, super::LAST)?;
    caller.enforce("os_compute_api:os-baremetal-nodes:show", &[])?;
    Err(no_ironic())
}

fn no_ironic() -> Failure {
    Failure::invalid("Ironic client unavailable, cannot access Ironic.").with_status(StatusCode::NOT_IMPLEMENTED)
}
