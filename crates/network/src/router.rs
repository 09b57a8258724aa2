//! A router: joins subnets, and leads outside through an external gateway.
//!
//! Its interfaces are ports with its id as `device_id` and the owner `network:router_interface`; its gateway is a port of
//! the external network with the owner `network:router_gateway`.

pub mod api;
pub(crate) mod interfaces;
pub(crate) mod rules;

use madang_store::{Indexes, Kind};
use serde::{Deserialize, Serialize};

use crate::{FixedIp, HostRoute};

/// The kind of routers. `metadata.name` is the id.
pub struct Router;

impl Kind for Router {
    const NAME: &'static str = "routers";
    type Spec = RouterSpec;
    type Status = RouterStatus;

    fn indexes() -> Indexes<Self> {
        Indexes::<Self>::new()
            .on("name", |r| vec![r.spec.name.clone()])
            .on("external", |r| {
                r.spec.gateway.iter().map(|g| g.network_id.clone()).collect()
            })
    }
}

/// What was asked of a router.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RouterSpec {
    /// What the user calls it; need not be unique.
    #[serde(default)]
    pub name: String,
    /// Free text.
    #[serde(default)]
    pub description: String,
    /// Carries traffic when true.
    pub admin_state_up: bool,
    /// The way outside.
    #[serde(default)]
    pub gateway: Option<ExternalGateway>,
    /// Extra routes.
    #[serde(default)]
    pub routes: Vec<HostRoute>,
    /// Accepted and shown; every router is on every host that needs it.
    #[serde(default)]
    pub distributed: bool,
    /// Accepted and shown.
    #[serde(default)]
    pub ha: bool,
    /// Hints for zones; kept and shown.
    #[serde(default)]
    pub availability_zone_hints: Vec<String>,
    /// The user's tags.
    #[serde(default)]
    pub tags: Vec<String>,
}

/// The way outside.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExternalGateway {
    /// The external network.
    pub network_id: String,
    /// The port that the router has on it.
    pub port_id: String,
    /// Its addresses there.
    pub fixed_ips: Vec<FixedIp>,
    /// Whether guests without a floating address go out under the gateway's.
    pub enable_snat: bool,
}

/// What is seen of a router. Written by the network agent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RouterStatus {
    /// Why it does not work, in words; none when it does.
    #[serde(default)]
    pub failure: Option<String>,
}
