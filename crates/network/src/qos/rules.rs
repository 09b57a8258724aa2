//! What happens to a policy on its way into the store.

use std::mem::discriminant;

use madang_store::{Op, Resource, StoreBuilder, StoreError, Tx};

use super::{QosPolicy, QosRule, Says, Ways};
use crate::{
    FloatingIp, Network, Port,
    lookup::hold,
    quota::{self, Limited},
    rbac::{Action, Shareable, rules as sharing},
    refusal::{self, Missing},
};

/// Where it is reserved that a project has one default policy.
const DEFAULTS: &str = "qos/default";

/// Makes policies known, with their rule.
pub(crate) fn register(builder: &mut StoreBuilder) {
    builder.rule::<QosPolicy>(|tx, op| match op {
        Op::Create(policy) => create(tx, policy),
        Op::Update { old, new } if old.spec != new.spec => update(tx, old, new),
        Op::Update { .. } => Ok(()),
        Op::Remove(policy) => remove(tx, policy),
    });
}

fn create(tx: &mut Tx<'_>, policy: &mut Resource<QosPolicy>) -> Result<(), StoreError> {
    if policy.spec.is_shared {
        follow(tx, policy)?;
    }
    if policy.spec.is_default {
        require_only_default(tx, policy)?;
    }
    quota::take(tx, policy.project(), Limited::QosPolicy);
    Ok(())
}

fn update(tx: &mut Tx<'_>, old: &Resource<QosPolicy>, new: &mut Resource<QosPolicy>) -> Result<(), StoreError> {
    if old.spec.is_shared != new.spec.is_shared {
        follow(tx, new)?;
    }
    match (old.spec.is_default, new.spec.is_default) {
        (false, true) => require_only_default(tx, new)?,
        (true, false) => tx.release(DEFAULTS, old.project()),
        _ => {}
    }
    check_rules(new)
}

fn follow(tx: &mut Tx<'_>, policy: &Resource<QosPolicy>) -> Result<(), StoreError> {
    let is_shared = policy.spec.is_shared;
    sharing::follow_flag(tx, policy, Shareable::QosPolicy, Action::AccessAsShared, is_shared)
}

fn require_only_default(tx: &mut Tx<'_>, policy: &Resource<QosPolicy>) -> Result<(), StoreError> {
    let project = policy.project();
    let others = tx.store().cache::<QosPolicy>().by("default", project);
    let mut others = others.iter().filter_map(|cached| tx.get::<QosPolicy>(&cached.key()));
    if others.any(|other| other.spec.is_default && other.name() != policy.name()) {
        let message = format!("A default QoS policy exists for project {project}.");
        return Err(refusal::conflict("QoSPolicyDefaultAlreadyExists", message));
    }
    tx.reserve(DEFAULTS, project, policy.metadata.uid)
}

/// Whether two rules of one policy say something about the same.
fn meet(a: &Says, b: &Says) -> bool {
    match (a, b) {
        (Says::BandwidthLimit { direction: a, .. }, Says::BandwidthLimit { direction: b, .. })
        | (Says::PacketRateLimit { direction: a, .. }, Says::PacketRateLimit { direction: b, .. })
        | (Says::MinimumBandwidth { direction: a, .. }, Says::MinimumBandwidth { direction: b, .. }) => a == b,
        (Says::MinimumPacketRate { direction: a, .. }, Says::MinimumPacketRate { direction: b, .. }) => {
            a == b || [a, b].contains(&&Ways::Any)
        }
        _ => discriminant(a) == discriminant(b),
    }
}

fn check_rules(policy: &Resource<QosPolicy>) -> Result<(), StoreError> {
    let rules = &policy.spec.rules;
    for (at, rule) in rules.iter().enumerate() {
        if let Some(QosRule { id, .. }) = rules[..at].iter().find(|other| meet(&other.says, &rule.says)) {
            let message = format!(
                "Rule {} conflicts with rule {id} which already exists in QoS Policy {}.",
                rule.says.word(),
                policy.name()
            );
            return Err(refusal::conflict("QoSRulesConflict", message));
        }
    }
    Ok(())
}

impl Says {
    /// Neutron's word for this sort of rule.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::BandwidthLimit { .. } => "bandwidth_limit",
            Self::PacketRateLimit { .. } => "packet_rate_limit",
            Self::MinimumBandwidth { .. } => "minimum_bandwidth",
            Self::MinimumPacketRate { .. } => "minimum_packet_rate",
            Self::DscpMarking { .. } => "dscp_marking",
        }
    }
}

/// A port or network that is to have a policy holds it: neither goes without the other knowing.
pub(crate) fn take_up(tx: &mut Tx<'_>, policy: Option<&String>) -> Result<(), StoreError> {
    match policy {
        Some(id) => hold::<QosPolicy>(tx, Missing::QosPolicy, id).map(|_| ()),
        None => Ok(()),
    }
}

/// The default policy of a project.
pub(crate) fn default_of(tx: &Tx<'_>, project: &str) -> Option<String> {
    let found = tx.store().cache::<QosPolicy>().by("default", project);
    let mut found = found.iter().filter_map(|cached| tx.get::<QosPolicy>(&cached.key()));
    found
        .find(|policy| policy.spec.is_default)
        .map(|policy| policy.name().to_owned())
}

fn remove(tx: &mut Tx<'_>, policy: &Resource<QosPolicy>) -> Result<(), StoreError> {
    let id = policy.name();
    let ports = tx.store().cache::<Port>().by("qos", id);
    let networks = tx.store().cache::<Network>().by("qos", id);
    let port = ports.iter().find(|port| tx.get::<Port>(&port.key()).is_some());
    let network = networks
        .iter()
        .find(|network| tx.get::<Network>(&network.key()).is_some());
    let addresses = tx.store().cache::<FloatingIp>().by("qos", id);
    let address = addresses
        .iter()
        .find(|address| tx.get::<FloatingIp>(&address.key()).is_some());
    let user = port
        .map(|port| ("port", port.name()))
        .or(network.map(|network| ("network", network.name())))
        .or(address.map(|address| ("floatingip", address.name())));
    if let Some((what, user)) = user {
        let message = format!("QoS Policy {id} is used by {what} {user}.");
        return Err(refusal::conflict("QosPolicyInUse", message));
    }
    if policy.spec.is_default {
        tx.release(DEFAULTS, policy.project());
    }
    sharing::object_goes(tx, id)?;
    quota::give_back(tx, policy.project(), Limited::QosPolicy);
    Ok(())
}
