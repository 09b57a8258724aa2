//! A network: one broadcast domain of a project, or shared, or external.

pub mod api;
pub(crate) mod rules;

use madang_store::{Indexes, Kind};
use serde::{Deserialize, Serialize};

/// The kind of networks. `metadata.name` is the id.
pub struct Network;

impl Kind for Network {
    const NAME: &'static str = "networks";
    type Spec = NetworkSpec;
    type Status = NetworkStatus;

    fn indexes() -> Indexes<Self> {
        Indexes::<Self>::new()
            .on("name", |r| vec![r.spec.name.clone()])
            .on("shared", |r| if r.spec.is_shared { vec!["yes".into()] } else { vec![] })
            .on(
                "external",
                |r| if r.spec.is_external { vec!["yes".into()] } else { vec![] },
            )
            .on("qos", |r| r.spec.qos_policy_id.iter().cloned().collect())
            .on("segment", rules::segment_of)
    }
}

/// What was asked of a network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NetworkSpec {
    /// What the user calls it; need not be unique.
    pub name: String,
    /// Free text.
    #[serde(default)]
    pub description: String,
    /// Carries traffic when true.
    pub admin_state_up: bool,
    /// Every project may use it.
    #[serde(default)]
    pub is_shared: bool,
    /// Leads outside: routers take gateways and floating addresses from it.
    #[serde(default)]
    pub is_external: bool,
    /// The default external network for auto-allocation.
    #[serde(default)]
    pub is_default: bool,
    /// Ports filter traffic unless they say otherwise.
    #[serde(default = "yes")]
    pub port_security_enabled: bool,
    /// The largest frame payload in bytes.
    pub mtu: u16,
    /// The segment's number, unique among madang's networks; the VXLAN id between hosts.
    pub segmentation_id: u32,
    /// `vxlan`, `flat` or `vlan`; for admins.
    pub network_type: String,
    /// The physical network of `flat` and `vlan`.
    #[serde(default)]
    pub physical_network: Option<String>,
    /// The DNS domain of its ports.
    #[serde(default)]
    pub dns_domain: String,
    /// The quality of service of its ports that have none of their own.
    #[serde(default)]
    pub qos_policy_id: Option<String>,
    /// Hints for zones; kept and shown.
    #[serde(default)]
    pub availability_zone_hints: Vec<String>,
    /// The user's tags.
    #[serde(default)]
    pub tags: Vec<String>,
}

fn yes() -> bool {
    true
}

/// What is seen of a network.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NetworkStatus {}
