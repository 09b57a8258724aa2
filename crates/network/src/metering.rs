//! Metering: labels whose rules say which packets through a project's routers are counted.
//!
//! Each host counts in its routers' namespaces and adds what came to the label; see the agent's `meter`.

pub mod api;
pub(crate) mod rules;

use ipnet::IpNet;
use madang_store::{Indexes, Kind};
use serde::{Deserialize, Serialize};

use crate::Direction;

/// The kind of labels. `metadata.name` is the id; the project is whose routers count.
pub struct MeteringLabel;

impl Kind for MeteringLabel {
    const NAME: &'static str = "meteringlabels";
    type Spec = MeteringLabelSpec;
    type Status = MeteringLabelStatus;

    fn indexes() -> Indexes<Self> {
        Indexes::<Self>::new().on("shared", |r| if r.spec.is_shared { vec!["yes".into()] } else { vec![] })
    }
}

/// What was asked of a label.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeteringLabelSpec {
    /// What it is called.
    #[serde(default)]
    pub name: String,
    /// Free text.
    #[serde(default)]
    pub description: String,
    /// Every project's routers count.
    #[serde(default)]
    pub is_shared: bool,
}

/// What was counted so far, on all hosts. Written by the network agents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeteringLabelStatus {
    /// Packets.
    #[serde(default)]
    pub packets: u64,
    /// Their bytes, headers of IP included.
    #[serde(default)]
    pub bytes: u64,
}

/// The kind of rules. `metadata.name` is the id; the label owns it.
pub struct MeteringRule;

impl Kind for MeteringRule {
    const NAME: &'static str = "meteringlabelrules";
    type Spec = MeteringRuleSpec;
    type Status = MeteringRuleStatus;

    fn indexes() -> Indexes<Self> {
        Indexes::<Self>::new().on("label", |r| vec![r.spec.label_id.clone()])
    }
}

/// Which packets a rule is about: all those between a router and its external network that fit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeteringRuleSpec {
    /// The label.
    pub label_id: String,
    /// From outside, or to it.
    pub direction: Direction,
    /// They are not counted, whatever other rules say.
    #[serde(default)]
    pub is_excluded: bool,
    /// The inner address, whichever end of the packet that is: so is Neutron's `remote_ip_prefix`.
    #[serde(default)]
    pub remote_ip_prefix: Option<IpNet>,
    /// Where they come from.
    #[serde(default)]
    pub source_ip_prefix: Option<IpNet>,
    /// Where they go.
    #[serde(default)]
    pub destination_ip_prefix: Option<IpNet>,
}

/// Nothing is seen of a rule itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MeteringRuleStatus {}
