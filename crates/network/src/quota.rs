//! How many networks, ports and so on a project may have.
//!
//! What is used is counted in the project's `network` counter record, inside each commit; this kind only keeps what
//! differs from the defaults.

pub mod api;

use std::collections::BTreeMap;

use madang_identity::limit::unified::{self, Asked};
use madang_store::{Delta, Indexes, Key, Kind, Store, StoreError, Tx};
use serde::{Deserialize, Serialize};

use crate::refusal;

/// The kind of network quotas; one per project that has its own, called `network`.
pub struct Quota;

impl Kind for Quota {
    const NAME: &'static str = "networkquotas";
    type Spec = QuotaSpec;
    type Status = QuotaStatus;

    fn indexes() -> Indexes<Self> {
        Indexes::new()
    }
}

/// A project's own limits. Written by the quota API.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct QuotaSpec {
    /// From a resource's name (`port`, see [`Limited::name`]) to the most a project may have; -1 for any number.
    #[serde(default)]
    pub limits: BTreeMap<String, i64>,
}

/// Nothing is seen of a quota itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct QuotaStatus {}

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limited {
    /// Networks.
    Network,
    /// Subnets.
    Subnet,
    /// Subnet pools.
    SubnetPool,
    /// Ports.
    Port,
    /// Routers.
    Router,
    /// Floating addresses.
    FloatingIp,
    /// Security groups.
    SecurityGroup,
    /// Rules of security groups.
    SecurityGroupRule,
    /// Trunks.
    Trunk,
    /// Policies of sharing.
    RbacPolicy,
    /// Address groups.
    AddressGroup,
    /// Policies of quality of service.
    QosPolicy,
}

/// The counter group of a project in which usage is counted.
pub const COUNTERS: &str = "network";

impl Limited {
    /// Everything that is limited.
    pub const ALL: [Self; 12] = [
        Self::Network,
        Self::Subnet,
        Self::SubnetPool,
        Self::Port,
        Self::Router,
        Self::FloatingIp,
        Self::SecurityGroup,
        Self::SecurityGroupRule,
        Self::Trunk,
        Self::RbacPolicy,
        Self::AddressGroup,
        Self::QosPolicy,
    ];

    /// Neutron's name of the limit.
    pub fn name(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::Subnet => "subnet",
            Self::SubnetPool => "subnetpool",
            Self::Port => "port",
            Self::Router => "router",
            Self::FloatingIp => "floatingip",
            Self::SecurityGroup => "security_group",
            Self::SecurityGroupRule => "security_group_rule",
            Self::Trunk => "trunk",
            Self::RbacPolicy => "rbac_policy",
            Self::AddressGroup => "address_group",
            Self::QosPolicy => "qos_policy",
        }
    }

    /// The counter's field.
    pub fn field(self) -> &'static str {
        match self {
            Self::Network => "networks",
            Self::Subnet => "subnets",
            Self::SubnetPool => "subnetpools",
            Self::Port => "ports",
            Self::Router => "routers",
            Self::FloatingIp => "floatingips",
            Self::SecurityGroup => "security_groups",
            Self::SecurityGroupRule => "security_group_rules",
            Self::Trunk => "trunks",
            Self::RbacPolicy => "rbac_policies",
            Self::AddressGroup => "address_groups",
            Self::QosPolicy => "qos_policies",
        }
    }

    /// Neutron's default.
    pub fn default_limit(self) -> i64 {
        match self {
            Self::Network | Self::Subnet | Self::SecurityGroupRule => 100,
            Self::SubnetPool | Self::Trunk | Self::AddressGroup | Self::QosPolicy => -1,
            Self::Port => 500,
            Self::Router | Self::SecurityGroup | Self::RbacPolicy => 10,
            Self::FloatingIp => 50,
        }
    }

    /// The limit with this counter field.
    pub fn of_field(field: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|limited| limited.field() == field)
    }
}

/// Where a project's own limits are.
pub fn key(project: &str) -> Key {
    Key::new(Quota::NAME, project, "", COUNTERS)
}

/// How many of something a project may have; any number where there is none. Where unified limits count, what is
/// registered under Neutron's name.
pub fn limit(store: &Store, project: &str, limited: Limited) -> Option<i64> {
    if let Asked::AtMost(limit) = unified::asked(store, "network", limited.name(), project) {
        return limit;
    }
    let own = store
        .get::<Quota>(&key(project))
        .and_then(|quota| quota.spec.limits.get(limited.name()).copied());
    Some(own.unwrap_or_else(|| limited.default_limit())).filter(|limit| *limit >= 0)
}

/// Counts one more of something for a project, within its limit.
pub(crate) fn take(tx: &mut Tx<'_>, project: &str, limited: Limited) {
    let limit = limit(tx.store(), project, limited);
    count(tx, project, limited, 1, limit);
}

/// Counts one more whatever the limit: for what madang makes by itself.
pub(crate) fn take_regardless(tx: &mut Tx<'_>, project: &str, limited: Limited) {
    count(tx, project, limited, 1, None);
}

/// Counts one less.
pub(crate) fn give_back(tx: &mut Tx<'_>, project: &str, limited: Limited) {
    count(tx, project, limited, -1, None);
}

/// What belongs to the cloud itself (gateways, holders of floating addresses) is not counted.
fn count(tx: &mut Tx<'_>, project: &str, limited: Limited, add: i64, limit: Option<i64>) {
    if !project.is_empty() {
        tx.add(
            project,
            COUNTERS,
            vec![Delta {
                field: limited.field().to_owned(),
                add,
                limit,
            }],
        );
    }
}

/// `OverQuota`, when a project's counter refused.
pub(crate) fn refused(field: &str) -> Option<StoreError> {
    let limited = Limited::of_field(field)?;
    let message = format!("Quota exceeded for resources: ['{}'].", limited.name());
    Some(refusal::refuse(
        madang_store::ErrorKind::Exhausted,
        "OverQuota",
        message,
    ))
}
