//! Who may use what is somebody else's: a policy shares one object with one project, or with all.
//!
//! `shared` and `router:external` of an object are this, too: setting them makes a policy for all projects, and a policy
//! for all sets them. An external network is seen by those projects that its policies name.

pub mod api;
mod complete;
pub(crate) mod rules;

pub use complete::complete;
use madang_store::{Indexes, Kind, Resource, Store};
use serde::{Deserialize, Serialize};

use crate::Network;

/// The kind of policies. `metadata.name` is the id; the project is who shares.
pub struct RbacPolicy;

impl Kind for RbacPolicy {
    const NAME: &'static str = "rbacpolicies";
    type Spec = RbacPolicySpec;
    type Status = RbacPolicyStatus;

    fn indexes() -> Indexes<Self> {
        Indexes::<Self>::new()
            .on("object", |r| vec![r.spec.object_id.clone()])
            .on("target", |r| vec![r.spec.target.clone()])
    }
}

/// What is shared, with whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RbacPolicySpec {
    /// What sort of thing.
    pub object_type: Shareable,
    /// Its id.
    pub object_id: String,
    /// What for.
    pub action: Action,
    /// A project's id, or [`EVERYBODY`].
    pub target: String,
}

/// All projects.
pub const EVERYBODY: &str = "*";

/// What can be shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shareable {
    /// A network, with its subnets.
    Network,
    /// A security group, for ports.
    SecurityGroup,
    /// An address scope, for subnet pools.
    AddressScope,
    /// A subnet pool, for subnets.
    #[serde(rename = "subnetpool")]
    SubnetPool,
    /// An address group, for rules of security groups.
    AddressGroup,
    /// A policy of quality of service, for ports and networks.
    QosPolicy,
}

/// What something is shared for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// To see and use it.
    AccessAsShared,
    /// To take gateways and floating addresses from a network.
    AccessAsExternal,
}

/// Nothing is seen of a policy itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RbacPolicyStatus {}

/// Whether a policy lets a project do this with an object.
pub(crate) fn allows(store: &Store, object: &str, action: Action, project: &str) -> bool {
    let policies = store.cache::<RbacPolicy>().by("object", object);
    let is_for = |policy: &RbacPolicySpec| {
        policy.action == action && (policy.target == project || policy.target == EVERYBODY) && !project.is_empty()
    };
    policies.iter().any(|policy| is_for(&policy.spec))
}

/// Whether a project may use an object as if it were its own.
pub(crate) fn is_shared_with(store: &Store, object: &str, project: &str) -> bool {
    allows(store, object, Action::AccessAsShared, project)
}

/// The ids of what is shared with a project by name, of one sort.
pub(crate) fn shared_with(store: &Store, project: &str, sort: Shareable) -> Vec<String> {
    let policies = store.cache::<RbacPolicy>().by("target", project);
    let policies = policies.iter().filter(|policy| policy.spec.object_type == sort);
    policies.map(|policy| policy.spec.object_id.clone()).collect()
}

/// Whether a project may plug ports into a network: its own, or one that is shared with it.
pub fn may_plug_into(store: &Store, network: &Resource<Network>, project: &str) -> bool {
    network.project() == project || network.spec.is_shared || is_shared_with(store, network.name(), project)
}

/// Whether a network leads outside for a project.
pub fn is_external_for(store: &Store, network: &Resource<Network>, project: &str) -> bool {
    network.spec.is_external
        && (network.project() == project || allows(store, network.name(), Action::AccessAsExternal, project))
}

/// Whether a network is there for a project without being an admin: its own, shared with it, or external for it.
pub fn is_visible(store: &Store, network: &Resource<Network>, project: &str) -> bool {
    may_plug_into(store, network, project) || is_external_for(store, network, project)
}
