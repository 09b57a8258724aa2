//! Quality of service: a policy limits how much ports send and receive, and marks what they send.
//!
//! A port has its own policy, or else its network's; what the network itself uses has none. Bits above a limit are dropped
//! after a burst.

pub mod api;
pub mod rule_api;
pub(crate) mod rules;

use madang_store::{Indexes, Kind, Resource, Store};
use serde::{Deserialize, Serialize};

use crate::{Direction, Network, Port, port::owner};

/// The kind of policies. `metadata.name` is the id.
pub struct QosPolicy;

impl Kind for QosPolicy {
    const NAME: &'static str = "qospolicies";
    type Spec = QosPolicySpec;
    type Status = QosPolicyStatus;

    fn indexes() -> Indexes<Self> {
        Indexes::<Self>::new().on("default", |r| {
            if r.spec.is_default {
                vec![r.project().to_owned()]
            } else {
                vec![]
            }
        })
    }
}

/// What was asked of a policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QosPolicySpec {
    /// What the user calls it.
    pub name: String,
    /// Free text.
    #[serde(default)]
    pub description: String,
    /// Every project may use it.
    #[serde(default)]
    pub is_shared: bool,
    /// That of its project's new networks which name none.
    #[serde(default)]
    pub is_default: bool,
    /// At most one limit for each direction, and one mark.
    #[serde(default)]
    pub rules: Vec<QosRule>,
    /// The user's tags.
    #[serde(default)]
    pub tags: Vec<String>,
}

/// One thing that a policy says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QosRule {
    /// Its id, a UUID.
    pub id: String,
    /// What it says.
    #[serde(flatten)]
    pub says: Says,
}

/// What a rule of a policy says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Says {
    /// No more than this.
    BandwidthLimit {
        /// Thousands of bits in a second.
        max_kbps: u32,
        /// Thousands of bits that may come at once; what comes in a second may in any case.
        max_burst_kbps: u32,
        /// Which way, seen from the port.
        direction: Direction,
    },
    /// No more packets than this.
    PacketRateLimit {
        /// Thousands of packets in a second.
        max_kpps: u32,
        /// Thousands of packets that may come at once.
        max_burst_kpps: u32,
        /// Which way, seen from the port.
        direction: Direction,
    },
    /// The host of a server with such a port has this much left for it.
    MinimumBandwidth {
        /// Thousands of bits in a second.
        min_kbps: u32,
        /// Which way, seen from the port.
        direction: Direction,
    },
    /// The host of a server with such a port has room for so many packets.
    MinimumPacketRate {
        /// Thousands of packets in a second.
        min_kpps: u32,
        /// Which way, seen from the port.
        direction: Ways,
    },
    /// Packets that it sends are marked.
    DscpMarking {
        /// The upper six bits of the field that was called type of service.
        dscp_mark: u8,
    },
}

/// One way, or both taken together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ways {
    /// To the port.
    Ingress,
    /// From the port.
    Egress,
    /// Either.
    Any,
}

/// Nothing is seen of a policy itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct QosPolicyStatus {}

/// What a port needs of its host, by resource class of Placement, with its own policy or else its network's.
pub fn needs(store: &Store, own: Option<&str>, network: &str) -> Vec<(&'static str, i64)> {
    let policy = match own {
        Some(own) => Some(own.to_owned()),
        None => network_policy(store, network),
    };
    let policy = policy.and_then(|id| store.cache::<QosPolicy>().by_name(&id));
    let rules = policy.map(|policy| policy.spec.rules.clone()).unwrap_or_default();
    rules.iter().filter_map(|rule| rule.says.need()).collect()
}

/// What the ports of a device need of its host.
pub fn needs_of_device(store: &Store, device: &str) -> Vec<(&'static str, i64)> {
    let ports = store.cache::<Port>().by("device", device);
    let need = |port: &std::sync::Arc<Resource<Port>>| {
        let own = port.spec.qos_policy_id.clone();
        needs(store, own.as_deref(), &port.spec.network_id)
    };
    ports.iter().flat_map(need).collect()
}

impl Says {
    /// What has to be left of a host, by resource class.
    fn need(&self) -> Option<(&'static str, i64)> {
        let (class, amount) = match self {
            Self::MinimumBandwidth { min_kbps, direction } => (
                match direction {
                    Direction::Egress => "NET_BW_EGR_KILOBIT_PER_SEC",
                    Direction::Ingress => "NET_BW_IGR_KILOBIT_PER_SEC",
                },
                *min_kbps,
            ),
            Self::MinimumPacketRate { min_kpps, direction } => (
                match direction {
                    Ways::Egress => "NET_PACKET_RATE_EGR_KILOPACKET_PER_SEC",
                    Ways::Ingress => "NET_PACKET_RATE_IGR_KILOPACKET_PER_SEC",
                    Ways::Any => "NET_PACKET_RATE_KILOPACKET_PER_SEC",
                },
                *min_kpps,
            ),
            Self::BandwidthLimit { .. } | Self::PacketRateLimit { .. } | Self::DscpMarking { .. } => return None,
        };
        (amount > 0).then_some((class, i64::from(amount)))
    }
}

/// The id of the policy that holds for a port.
pub(crate) fn policy_of(store: &Store, port: &Resource<Port>) -> Option<String> {
    if port.spec.qos_policy_id.is_some() {
        return port.spec.qos_policy_id.clone();
    }
    network_policy_of(store, port)
}

/// The id of the policy that a port has from its network.
pub(crate) fn network_policy_of(store: &Store, port: &Resource<Port>) -> Option<String> {
    if owner::is_of_the_network(&port.spec.device_owner) {
        return None;
    }
    network_policy(store, &port.spec.network_id)
}

fn network_policy(store: &Store, network: &str) -> Option<String> {
    store.cache::<Network>().by_name(network)?.spec.qos_policy_id.clone()
}
