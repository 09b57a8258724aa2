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
    store
        .cache::<Network>()
        .by_name(&port.spec.network_id)?
        .spec
        .qos_policy_id
        .clone()
}
