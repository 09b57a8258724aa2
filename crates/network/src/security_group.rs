//! Security groups and their rules: what may pass a port.

pub mod api;
pub mod protocol;
pub mod rule_api;
pub(crate) mod rules;
pub(crate) mod template;
mod template_api;

use ipnet::IpNet;
use madang_store::{Indexes, Key, Kind};
use serde::{Deserialize, Serialize};
pub use template::{RuleTemplate, RuleTemplateSpec, RuleTemplateStatus};
use uuid::Uuid;

use crate::AddressGroup;

/// Under which the ids of default groups are made from their projects: any fixed value does.
const DEFAULT_GROUPS: Uuid = Uuid::from_u128(0x6d61_6461_6e67_4573_8065_6661_756c_7473);

/// The id of a project's default group, made from the project's id: two who need it first make the same one.
pub fn default_id(project: &str) -> Uuid {
    Uuid::new_v5(&DEFAULT_GROUPS, project.as_bytes())
}

/// Where a project's default group is.
pub fn default_key(project: &str) -> Key {
    Key::new(SecurityGroup::NAME, project, "", default_id(project).to_string())
}

/// The kind of security groups. `metadata.name` is the id. Every project has one called `default`, made on first need.
pub struct SecurityGroup;

impl Kind for SecurityGroup {
    const NAME: &'static str = "securitygroups";
    type Spec = SecurityGroupSpec;
    type Status = SecurityGroupStatus;

    fn indexes() -> Indexes<Self> {
        Indexes::<Self>::new().on("name", |r| vec![r.spec.name.clone()])
    }
}

/// What was asked of a group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SecurityGroupSpec {
    /// What the user calls it.
    pub name: String,
    /// Free text.
    #[serde(default)]
    pub description: String,
    /// Answers to what was let out come back in by themselves.
    pub is_stateful: bool,
    /// The project's own `default` group, which cannot be deleted or renamed.
    #[serde(default)]
    pub is_default: bool,
    /// The user's tags.
    #[serde(default)]
    pub tags: Vec<String>,
}

/// Nothing is seen of a group itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SecurityGroupStatus {}

/// The kind of rules. `metadata.name` is the id; the group owns it.
pub struct Rule;

impl Kind for Rule {
    const NAME: &'static str = "securitygrouprules";
    type Spec = RuleSpec;
    type Status = RuleStatus;

    fn indexes() -> Indexes<Self> {
        Indexes::<Self>::new()
            .on("group", |r| vec![r.spec.group_id.clone()])
            .on("remote", |r| r.spec.remote_group_id.iter().cloned().collect())
            .on("address_group", |r| {
                r.spec.remote_address_group_id.iter().cloned().collect()
            })
    }
}

/// What a rule lets pass; everything else is dropped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RuleSpec {
    /// The group it is part of.
    pub group_id: String,
    /// Which way.
    pub direction: Direction,
    /// Which version of IP.
    pub ethertype: EtherType,
    /// A protocol's name (`tcp`, `udp`, `icmp`, `ipv6-icmp`, …) or number as text; none for any.
    #[serde(default)]
    pub protocol: Option<String>,
    /// First port, or ICMP type.
    #[serde(default)]
    pub port_range_min: Option<u16>,
    /// Last port, or ICMP code.
    #[serde(default)]
    pub port_range_max: Option<u16>,
    /// Peers by address.
    #[serde(default)]
    pub remote_ip_prefix: Option<IpNet>,
    /// Peers by membership of a group.
    #[serde(default)]
    pub remote_group_id: Option<String>,
    /// Peers by the addresses of an address group.
    #[serde(default)]
    pub remote_address_group_id: Option<String>,
    /// Free text.
    #[serde(default)]
    pub description: String,
}

/// Nothing is seen of a rule itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RuleStatus {}

/// Which way traffic goes, seen from the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// To the port.
    Ingress,
    /// From the port.
    Egress,
}

/// A version of IP, in Neutron's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EtherType {
    /// Version 4.
    IPv4,
    /// Version 6.
    IPv6,
}
