//! Why a write is refused, in the words of Neutron's own exceptions: the reason is the exception's name.

use std::net::IpAddr;

use madang_store::{ErrorKind, Rejection, StoreError};

/// A refusal with a reason of its own.
pub(crate) fn refuse(kind: ErrorKind, reason: &'static str, message: impl Into<String>) -> StoreError {
    Rejection::new(kind, reason, message).into()
}

/// A write that does not fit what is there.
pub(crate) fn conflict(reason: &'static str, message: impl Into<String>) -> StoreError {
    refuse(ErrorKind::Conflict, reason, message)
}

/// A value that cannot be.
pub(crate) fn bad(reason: &'static str, message: impl Into<String>) -> StoreError {
    refuse(ErrorKind::Invalid, reason, message)
}

/// `InvalidInput`, for what has no exception of its own.
pub(crate) fn invalid(why: impl std::fmt::Display) -> StoreError {
    bad("InvalidInput", format!("Invalid input for operation: {why}."))
}

/// `BadRequest` of a resource.
pub(crate) fn bad_request(resource: &str, why: impl std::fmt::Display) -> StoreError {
    bad("BadRequest", format!("Bad {resource} request: {why}."))
}

/// Something that is not there, or not for who asks.
pub(crate) fn not_found(what: Missing, id: &str) -> StoreError {
    let (reason, message) = match what {
        Missing::Network => ("NetworkNotFound", format!("Network {id} could not be found.")),
        Missing::Subnet => ("SubnetNotFound", format!("Subnet {id} could not be found.")),
        Missing::SubnetPool => ("SubnetPoolNotFound", format!("Subnet pool {id} could not be found.")),
        Missing::Port => ("PortNotFound", format!("Port {id} could not be found.")),
        Missing::Router => ("RouterNotFound", format!("Router {id} could not be found")),
        Missing::FloatingIp => ("FloatingIPNotFound", format!("Floating IP {id} could not be found")),
        Missing::SecurityGroup => ("SecurityGroupNotFound", format!("Security group {id} does not exist")),
        Missing::SecurityGroupRule => (
            "SecurityGroupRuleNotFound",
            format!("Security group rule {id} does not exist"),
        ),
        Missing::DefaultSecurityGroupRule => (
            "DefaultSecurityGroupRuleNotFound",
            format!("Default Security Group rule {id} does not exist"),
        ),
        Missing::MeteringLabel => ("MeteringLabelNotFound", format!("Metering label {id} does not exist.")),
        Missing::MeteringLabelRule => (
            "MeteringLabelRuleNotFound",
            format!("Metering label rule {id} does not exist."),
        ),
        Missing::Flavor => ("FlavorNotFound", format!("Flavor {id} could not be found.")),
        Missing::ServiceProfile => (
            "ServiceProfileNotFound",
            format!("Service Profile {id} could not be found."),
        ),
        Missing::Trunk => ("TrunkNotFound", format!("Trunk {id} could not be found.")),
        Missing::RbacPolicy => (
            "RbacPolicyNotFound",
            format!("RBAC policy or object with ID {id} not found"),
        ),
        Missing::AddressScope => ("AddressScopeNotFound", format!("Address scope {id} could not be found")),
        Missing::AddressGroup => (
            "AddressGroupNotFound",
            format!("Address group {id} could not be found."),
        ),
        Missing::QosPolicy => ("QosPolicyNotFound", format!("QoS policy {id} could not be found.")),
        Missing::Agent => ("AgentNotFound", format!("Agent {id} could not be found.")),
    };
    refuse(ErrorKind::NotFound, reason, message)
}

/// What can be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    Network,
    Subnet,
    SubnetPool,
    Port,
    Router,
    FloatingIp,
    SecurityGroup,
    SecurityGroupRule,
    DefaultSecurityGroupRule,
    MeteringLabel,
    MeteringLabelRule,
    Flavor,
    ServiceProfile,
    Agent,
    Trunk,
    RbacPolicy,
    AddressScope,
    AddressGroup,
    QosPolicy,
}

impl Missing {
    /// What the kind of a key is called when it is missing.
    pub(crate) fn of_kind(kind: &str) -> Option<Self> {
        use madang_store::Kind;
        let kinds = [
            (crate::Network::NAME, Self::Network),
            (crate::Subnet::NAME, Self::Subnet),
            (crate::SubnetPool::NAME, Self::SubnetPool),
            (crate::Port::NAME, Self::Port),
            (crate::Router::NAME, Self::Router),
            (crate::FloatingIp::NAME, Self::FloatingIp),
            (crate::SecurityGroup::NAME, Self::SecurityGroup),
            (crate::Rule::NAME, Self::SecurityGroupRule),
            (crate::RuleTemplate::NAME, Self::DefaultSecurityGroupRule),
            (crate::MeteringLabel::NAME, Self::MeteringLabel),
            (crate::MeteringRule::NAME, Self::MeteringLabelRule),
            (crate::Flavor::NAME, Self::Flavor),
            (crate::ServiceProfile::NAME, Self::ServiceProfile),
            (crate::Trunk::NAME, Self::Trunk),
            (crate::RbacPolicy::NAME, Self::RbacPolicy),
            (crate::AddressScope::NAME, Self::AddressScope),
            (crate::AddressGroup::NAME, Self::AddressGroup),
            (crate::QosPolicy::NAME, Self::QosPolicy),
        ];
        kinds.into_iter().find(|(name, _)| *name == kind).map(|(_, what)| what)
    }
}

/// Nothing left to give on a network.
pub(crate) fn no_address_left(network: &str) -> StoreError {
    let message = format!("No more IP addresses available on network {network}.");
    refuse(ErrorKind::Exhausted, "IpAddressGenerationFailure", message)
}

/// An address that somebody else has.
pub(crate) fn address_in_use(subnet: &str, address: IpAddr) -> StoreError {
    let message = format!("IP address {address} already allocated in subnet {subnet}");
    conflict("IpAddressAlreadyAllocated", message)
}

/// A MAC address that another port of the network has.
pub(crate) fn mac_in_use(network: &str, mac: &str) -> StoreError {
    let message = format!("Unable to complete operation for network {network}. The mac address {mac} is in use.");
    conflict("MacAddressInUse", message)
}

/// A network that still has ports.
pub(crate) fn network_in_use(network: &str) -> StoreError {
    let message = format!(
        "Unable to complete operation on network {network}. There are one or more ports still in use on the network."
    );
    conflict("NetworkInUse", message)
}

/// A subnet whose addresses are in use.
pub(crate) fn subnet_in_use(subnet: &str) -> StoreError {
    let message = format!(
        "Unable to complete operation on subnet {subnet}: One or more ports have an IP allocation from this subnet."
    );
    conflict("SubnetInUse", message)
}

/// A group whose rules ports have.
pub(crate) fn group_in_use(group: &str) -> StoreError {
    conflict("SecurityGroupInUse", format!("Security Group {group} in use."))
}

/// A router that still has interfaces.
pub(crate) fn router_in_use(router: &str) -> StoreError {
    conflict("RouterInUse", format!("Router {router} still has ports"))
}
