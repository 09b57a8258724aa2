//! A floating address: an outside address that leads to a port's inside one, through the router between them.

pub mod api;
pub(crate) mod forwarding;
pub mod forwarding_api;
pub(crate) mod rules;

use std::net::IpAddr;

use madang_store::{Indexes, Kind, Resource};
use serde::{Deserialize, Serialize};

pub use forwarding::PortForwarding;

/// The kind of floating addresses. `metadata.name` is the id.
pub struct FloatingIp;

impl Kind for FloatingIp {
    const NAME: &'static str = "floatingips";
    type Spec = FloatingIpSpec;
    type Status = FloatingIpStatus;

    fn indexes() -> Indexes<Self> {
        Indexes::<Self>::new()
            .on("port", |r| r.spec.port_id.iter().cloned().collect())
            .on("router", |r| r.spec.router_id.iter().cloned().collect())
            .on("network", |r| vec![r.spec.network_id.clone()])
            .on("forwarded", |r| {
                r.spec
                    .port_forwardings
                    .iter()
                    .map(|one| one.internal_port_id.clone())
                    .collect()
            })
            .on("qos", |r| r.spec.qos_policy_id.iter().cloned().collect())
            .on("address", |r| vec![r.spec.address.to_string()])
    }
}

/// What was asked of a floating address.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FloatingIpSpec {
    /// Free text.
    #[serde(default)]
    pub description: String,
    /// The external network it is from.
    pub network_id: String,
    /// The subnet it is from.
    pub subnet_id: String,
    /// The outside address. Unspecified at creation: the kind's rule takes a free one.
    pub address: IpAddr,
    /// The port on the external network that keeps the address taken.
    #[serde(default)]
    pub holder_port_id: String,
    /// The port it leads to.
    #[serde(default)]
    pub port_id: Option<String>,
    /// The inside address of that port.
    #[serde(default)]
    pub fixed_ip_address: Option<IpAddr>,
    /// Where single ports of it lead, when it leads nowhere itself.
    #[serde(default)]
    pub port_forwardings: Vec<PortForwarding>,
    /// The router that translates.
    #[serde(default)]
    pub router_id: Option<String>,
    /// The policy that limits what goes through it.
    #[serde(default)]
    pub qos_policy_id: Option<String>,
    /// Its DNS domain and name; kept and shown.
    #[serde(default)]
    pub dns_domain: String,
    /// See `dns_domain`.
    #[serde(default)]
    pub dns_name: String,
    /// The user's tags.
    #[serde(default)]
    pub tags: Vec<String>,
}

/// What is seen of a floating address. Written by the network agent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FloatingIpStatus {
    /// Whether the translation is in place, or was when the agent last said so: see [`is_active`].
    #[serde(default)]
    pub is_active: bool,
    /// The inside address that it leads to there.
    #[serde(default)]
    pub inside: Option<IpAddr>,
}

/// Whether an address leads where it was asked to.
pub(crate) fn is_active(floating: &Resource<FloatingIp>) -> bool {
    let (spec, status) = (&floating.spec, &floating.status);
    let leads_on = spec.port_id.is_some() || !spec.port_forwardings.is_empty();
    status.is_active && leads_on && status.inside == spec.fixed_ip_address
}
