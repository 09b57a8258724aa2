//! `/os-networks`, `/os-tenant-networks` and `/os-baremetal-nodes`: what is left of them.

use axum::{
    Router,
    response::Response,
    routing::{get, post},
};
use http::StatusCode;
use madang_http::Failure;
use madang_network::{Network, is_visible};
use madang_store::Resource;
use serde_json::{Value, json};

use super::{
    collection::{Asked, Collection, Found, on_list, on_show},
    removed::gone,
};
use crate::api::{ComputeApi, input};

pub(super) fn routes() -> Router<ComputeApi> {
    Router::new()
        .route("/os-networks", get(on_list::<Networks>).post(gone))
        .route("/os-networks/add", post(gone))
        .route("/os-networks/{id}", get(on_show::<Networks>).delete(gone))
        .route("/os-networks/{id}/action", post(gone))
        .route("/os-tenant-networks", get(on_list::<TenantNetworks>).post(gone))
        .route("/os-tenant-networks/{id}", get(on_show::<TenantNetworks>).delete(gone))
        .route("/os-baremetal-nodes", get(nodes))
        .route("/os-baremetal-nodes/{id}", get(node))
}

/// The networks a project sees: its own, shared and external ones; an admin sees all.
struct Networks;

impl Collection for Networks {
    type Kind = Network;
    const ONE: &'static str = "network";
    const MANY: &'static str = "networks";

    fn allow(asked: &Asked, verb: &str) -> Result<(), Failure> {
        asked.allowed(&format!("os_compute_api:os-networks:{verb}")).map(|_| ())
    }

    fn missing(_id: &str) -> String {
        "Network not found".to_owned()
    }

    fn view(asked: &Asked, network: &Resource<Network>) -> Value {
        let mut shown = json!({ "id": network.name(), "label": network.spec.name });
        let more = if asked.caller.is_admin() { EMPTY_FOR_ADMINS } else { &[] };
        for name in EMPTY.iter().chain(more) {
            shown[*name] = Value::Null;
        }
        shown
    }

    async fn list(asked: &Asked) -> Result<Found<Network>, Failure> {
        let mut networks = asked.store().cache::<Network>().all();
        networks.retain(|network| Self::is_seen(asked, network));
        networks.sort_unstable_by(|a, b| (a.metadata.created, a.name()).cmp(&(b.metadata.created, b.name())));
        Ok(networks.into())
    }

    fn is_seen(asked: &Asked, network: &Resource<Network>) -> bool {
        asked.caller.is_admin() || is_visible(asked.store(), network, asked.project())
    }
}

/// The same ones, with less to say.
struct TenantNetworks;

impl Collection for TenantNetworks {
    type Kind = Network;
    const ONE: &'static str = Networks::ONE;
    const MANY: &'static str = Networks::MANY;

    fn allow(asked: &Asked, verb: &str) -> Result<(), Failure> {
        asked
            .allowed(&format!("os_compute_api:os-tenant-networks:{verb}"))
            .map(|_| ())
    }

    fn missing(id: &str) -> String {
        Networks::missing(id)
    }

    /// The word `None` is what Nova says.
    fn view(_asked: &Asked, network: &Resource<Network>) -> Value {
        json!({ "id": network.name(), "cidr": "None", "label": network.spec.name })
    }

    fn list(asked: &Asked) -> impl Future<Output = Result<Found<Network>, Failure>> + Send {
        Networks::list(asked)
    }

    fn is_seen(asked: &Asked, network: &Resource<Network>) -> bool {
        Networks::is_seen(asked, network)
    }
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

/// `GET /os-baremetal-nodes`: there is no Ironic to ask.
async fn nodes(asked: Asked) -> Result<Response, Failure> {
    input::until(asked.version, super::LAST)?;
    asked.caller.enforce("os_compute_api:os-baremetal-nodes:list", &[])?;
    Err(no_ironic())
}

/// `GET /os-baremetal-nodes/{id}`.
async fn node(asked: Asked) -> Result<Response, Failure> {
    input::until(asked.version, super::LAST)?;
    asked.caller.enforce("os_compute_api:os-baremetal-nodes:show", &[])?;
    Err(no_ironic())
}

fn no_ironic() -> Failure {
    Failure::invalid("Ironic client unavailable, cannot access Ironic.").with_status(StatusCode::NOT_IMPLEMENTED)
}
