//! The verbs of sharing, and what happens to policies on their way into the store.
//!
//! The flags of an object (`shared`, `router:external`) and its policies say the same: whoever changes one of them does so
//! here, in the same transaction.

use std::{collections::BTreeSet, sync::Arc};

use madang_store::{ErrorKind, Kind, Metadata, Op, Resource, StoreBuilder, StoreError, Tx};

use super::{Action, EVERYBODY, RbacPolicy, RbacPolicySpec, Shareable};
use crate::{
    AddressGroup, AddressScope, FloatingIp, Network, Port, QosPolicy, Router, Rule, SecurityGroup, Subnet, SubnetPool,
    lookup::{find, touch},
    quota::{self, Limited},
    refusal,
};

/// Where policies are reserved: one for each object, action and target.
const POLICIES: &str = "rbac";

/// Makes policies known, with their rule.
pub(crate) fn register(builder: &mut StoreBuilder) {
    builder.rule::<RbacPolicy>(|tx, op| match op {
        Op::Create(policy) => take(tx, policy),
        Op::Update { old, new } if old.spec != new.spec => {
            tx.release(POLICIES, &place(&old.spec));
            take(tx, new)
        }
        Op::Update { .. } => Ok(()),
        Op::Remove(policy) => {
            tx.release(POLICIES, &place(&policy.spec));
            quota::give_back(tx, policy.project(), Limited::RbacPolicy);
            Ok(())
        }
    });
}

fn place(spec: &RbacPolicySpec) -> String {
    format!("{}/{:?}/{}", spec.object_id, spec.action, spec.target)
}

fn take(tx: &mut Tx<'_>, policy: &mut Resource<RbacPolicy>) -> Result<(), StoreError> {
    let is_other = |other: &Arc<Resource<RbacPolicy>>| other.name() != policy.name() && other.spec == policy.spec;
    if policies_of(tx, &policy.spec.object_id).iter().any(is_other) {
        let message = "An RBAC policy already exists with those values.";
        return Err(refusal::conflict("DuplicateRbacPolicy", message));
    }
    tx.reserve(POLICIES, &place(&policy.spec), policy.metadata.uid)
}

/// The policies of an object, as the transaction leaves them so far.
fn policies_of(tx: &Tx<'_>, object: &str) -> Vec<Arc<Resource<RbacPolicy>>> {
    let cached = tx.store().cache::<RbacPolicy>().by("object", object);
    let mut policies: Vec<_> = cached
        .iter()
        .filter_map(|policy| tx.get::<RbacPolicy>(&policy.key()))
        .collect();
    for staged in tx.staged::<RbacPolicy>() {
        if staged.spec.object_id == object && policies.iter().all(|known| known.name() != staged.name()) {
            policies.push(staged);
        }
    }
    policies
}

/// Makes an object's policies fit its flag, which was set or taken away: with it there is one for all projects, and without
/// it none for all (none at all of an external network).
pub(crate) fn follow_flag<K: Kind>(
    tx: &mut Tx<'_>,
    object: &Resource<K>,
    object_type: Shareable,
    action: Action,
    is_set: bool,
) -> Result<(), StoreError> {
    let mut policies = policies_of(tx, object.name());
    policies.retain(|policy| policy.spec.action == action);
    if is_set {
        let is_enough = |policy: &RbacPolicySpec| action == Action::AccessAsExternal || policy.target == EVERYBODY;
        if !policies.iter().any(|policy| is_enough(&policy.spec)) {
            let spec = RbacPolicySpec {
                object_type,
                object_id: object.name().to_owned(),
                action,
                target: EVERYBODY.to_owned(),
            };
            quota::take_regardless(tx, object.project(), Limited::RbacPolicy);
            tx.create(Resource::<RbacPolicy>::new(Metadata::with_id(object.project()), spec))?;
        }
        return Ok(());
    }
    policies.retain(|policy| action == Action::AccessAsExternal || policy.spec.target == EVERYBODY);
    policies.iter().try_for_each(|policy| tx.delete(policy))?;
    // Networks have a refusal of their own for this, which came before.
    policies.retain(|_| object_type != Shareable::Network);
    policies
        .iter()
        .try_for_each(|policy| require_unused(tx, &policy.spec, None))
}

/// An object that goes takes its policies along.
pub(crate) fn object_goes(tx: &mut Tx<'_>, object: &str) -> Result<(), StoreError> {
    policies_of(tx, object).iter().try_for_each(|policy| tx.delete(policy))
}

/// Whose the object is; none when it is not there.
pub(super) fn owner(tx: &Tx<'_>, spec: &RbacPolicySpec) -> Option<String> {
    fn of<K: Kind>(tx: &Tx<'_>, id: &str) -> Option<String> {
        find::<K>(tx, id).map(|object| object.project().to_owned())
    }
    match spec.object_type {
        Shareable::Network => of::<Network>(tx, &spec.object_id),
        Shareable::SecurityGroup => of::<SecurityGroup>(tx, &spec.object_id),
        Shareable::AddressScope => of::<AddressScope>(tx, &spec.object_id),
        Shareable::SubnetPool => of::<SubnetPool>(tx, &spec.object_id),
        Shareable::AddressGroup => of::<AddressGroup>(tx, &spec.object_id),
        Shareable::QosPolicy => of::<QosPolicy>(tx, &spec.object_id),
    }
}

/// Shares an object.
pub(super) fn share(
    tx: &mut Tx<'_>,
    project: &str,
    spec: RbacPolicySpec,
) -> Result<Arc<Resource<RbacPolicy>>, StoreError> {
    require_scope_shared(tx, &spec)?;
    quota::take(tx, project, Limited::RbacPolicy);
    let made = tx.create(Resource::<RbacPolicy>::new(Metadata::with_id(project), spec))?;
    set_flag(tx, &made.spec)?;
    Ok(made)
}

/// Shares it with somebody else.
pub(super) fn retarget(
    tx: &mut Tx<'_>,
    old: &Resource<RbacPolicy>,
    target: &str,
) -> Result<Arc<Resource<RbacPolicy>>, StoreError> {
    let mut new = old.clone();
    target.clone_into(&mut new.spec.target);
    let changed = tx.update(old, new)?;
    if old.spec != changed.spec {
        require_scope_shared(tx, &changed.spec)?;
        // Whom the new target allows does not count, as in Neutron, unless it is everybody, or about a network.
        let counts = target == EVERYBODY || old.spec.object_type == Shareable::Network;
        let moved = (!counts).then_some(old.name());
        require_unused(tx, &old.spec, moved)?;
        set_flag(tx, &changed.spec)?;
    }
    set_flag(tx, &old.spec)?;
    Ok(changed)
}

/// Shares it no more.
pub(super) fn unshare(tx: &mut Tx<'_>, policy: &Resource<RbacPolicy>) -> Result<(), StoreError> {
    tx.delete(policy)?;
    require_unused(tx, &policy.spec, None)?;
    set_flag(tx, &policy.spec)
}

/// Sets the flag of a policy's object to what its policies say, and tells others that something about it changed.
fn set_flag(tx: &mut Tx<'_>, spec: &RbacPolicySpec) -> Result<(), StoreError> {
    let id = &spec.object_id;
    let policies = policies_of(tx, id);
    let mut with_action = policies.iter().filter(|policy| policy.spec.action == spec.action);
    match spec.object_type {
        Shareable::Network => {
            let Some(network) = find::<Network>(tx, id) else {
                return Ok(());
            };
            let mut new = (*network).clone();
            match spec.action {
                Action::AccessAsShared => {
                    new.spec.is_shared = with_action.any(|policy| policy.spec.target == EVERYBODY);
                }
                Action::AccessAsExternal => new.spec.is_external = with_action.next().is_some(),
            }
            if new.spec == network.spec {
                return touch(tx, &network);
            }
            tx.update(&network, new).map(|_| ())
        }
        Shareable::SubnetPool => {
            let Some(pool) = find::<SubnetPool>(tx, id) else {
                return Ok(());
            };
            let mut new = (*pool).clone();
            new.spec.is_shared = with_action.any(|policy| policy.spec.target == EVERYBODY);
            tx.update(&pool, new).map(|_| ())
        }
        Shareable::AddressScope => {
            let Some(scope) = find::<AddressScope>(tx, id) else {
                return Ok(());
            };
            let mut new = (*scope).clone();
            new.spec.is_shared = with_action.any(|policy| policy.spec.target == EVERYBODY);
            tx.update(&scope, new).map(|_| ())
        }
        Shareable::QosPolicy => {
            let Some(policy) = find::<QosPolicy>(tx, id) else {
                return Ok(());
            };
            let mut new = (*policy).clone();
            new.spec.is_shared = with_action.any(|policy| policy.spec.target == EVERYBODY);
            tx.update(&policy, new).map(|_| ())
        }
        Shareable::SecurityGroup | Shareable::AddressGroup => Ok(()),
    }
}

/// A subnet pool is of use only to who may use its address scope, too.
fn require_scope_shared(tx: &Tx<'_>, spec: &RbacPolicySpec) -> Result<(), StoreError> {
    if spec.object_type != Shareable::SubnetPool {
        return Ok(());
    }
    let pool = find::<SubnetPool>(tx, &spec.object_id);
    let Some(scope) = pool.and_then(|pool| find::<AddressScope>(tx, pool.spec.address_scope_id.as_deref()?)) else {
        return Ok(());
    };
    let is_for_target = |policy: &RbacPolicySpec| [EVERYBODY, &spec.target].contains(&policy.target.as_str());
    let policies = policies_of(tx, scope.name());
    if scope.project() == spec.target || policies.iter().any(|policy| is_for_target(&policy.spec)) {
        return Ok(());
    }
    let message = format!(
        "Failed to create RBAC policy on object {} because target project doesn't have access to associated address \
         scope {}.",
        spec.object_id,
        scope.name()
    );
    Err(refusal::bad("RbacPolicyInitError", message))
}

/// What a policy allowed and no other one does must not be in use. `moved` is one that does not count. What its owner
/// alone uses counts, too, unless it is a network: so it is in Neutron.
fn require_unused(tx: &Tx<'_>, gone: &RbacPolicySpec, moved: Option<&str>) -> Result<(), StoreError> {
    let mut policies = policies_of(tx, &gone.object_id);
    policies.retain(|policy| Some(policy.name()) != moved);
    let is_allowed = |project: &str| {
        let mut policies = policies.iter().filter(|policy| policy.spec.action == gone.action);
        policies.any(|policy| policy.spec.target == project || policy.spec.target == EVERYBODY)
    };
    let owner = owner(tx, gone).filter(|_| gone.object_type == Shareable::Network);
    let mut lost = users(tx, gone);
    lost.retain(|project| {
        let was_allowed = gone.target == EVERYBODY || gone.target == *project;
        was_allowed && owner.as_ref() != Some(project) && !project.is_empty() && !is_allowed(project)
    });
    match lost.first() {
        None => Ok(()),
        Some(project) => {
            let (id, project) = (&gone.object_id, project);
            let message = format!(
                "RBAC policy on object {id} cannot be removed because other objects depend on it.\nDetails: project \
                 {project} uses it"
            );
            Err(refusal::refuse(ErrorKind::Conflict, "RbacPolicyInUse", message))
        }
    }
}

/// The projects that use an object in the way that a policy is about.
fn users(tx: &Tx<'_>, policy: &RbacPolicySpec) -> BTreeSet<String> {
    fn of<K: Kind>(tx: &Tx<'_>, index: &'static str, id: &str) -> BTreeSet<String> {
        let cached = tx.store().cache::<K>().by(index, id);
        let there = cached.iter().filter_map(|user| tx.get::<K>(&user.key()));
        there.map(|user| user.project().to_owned()).collect()
    }
    let id = &policy.object_id;
    match (policy.object_type, policy.action) {
        (Shareable::Network, Action::AccessAsExternal) => {
            let mut users = of::<Router>(tx, "external", id);
            users.extend(of::<FloatingIp>(tx, "network", id));
            users
        }
        (Shareable::Network, Action::AccessAsShared) => of::<Port>(tx, "network", id),
        (Shareable::SecurityGroup, _) => of::<Port>(tx, "group", id),
        (Shareable::AddressScope, _) => of::<SubnetPool>(tx, "scope", id),
        (Shareable::SubnetPool, _) => of::<Subnet>(tx, "pool", id),
        (Shareable::AddressGroup, _) => of::<Rule>(tx, "address_group", id),
        (Shareable::QosPolicy, _) => {
            let mut users = of::<Port>(tx, "qos", id);
            users.extend(of::<Network>(tx, "qos", id));
            users.extend(of::<FloatingIp>(tx, "qos", id));
            users
        }
    }
}
