//! What may be done to trusts, and what with them.

use std::{collections::BTreeSet, sync::Arc};

use jiff::Timestamp;
use madang_http::Failure;
use madang_store::{Cause, Metadata, Op, Resource, Store, StoreBuilder};
use uuid::Uuid;

use super::{Trust, TrustSpec};
use crate::{
    Caller, Identity, RoleRef,
    api::not_found,
    application_credential::rules::RoleName,
    assignment::{On, effective},
    auth::unauthenticated,
    cascade::remove_all,
    project::name_key,
    role::Role,
    user::User,
};

pub(crate) fn register(builder: &mut StoreBuilder) {
    builder.rule::<Trust>(|tx, op| {
        let Op::Remove(trust) = op else { return Ok(()) };
        remove_all(tx, tx.store().cache::<Trust>().by("redelegated", trust.name()))
    });
}

/// Keystone's `max_redelegation_count`.
const MAX_HANDING_ON: u32 = 3;

/// How a new trust is to be handed on.
#[derive(Clone, Copy, Debug, Default)]
pub struct HandingOn {
    /// Whether it may be.
    pub is_allowed: bool,
    /// How often; as often as there can be where it does not say.
    pub count: Option<u32>,
}

impl HandingOn {
    /// The count of a new trust of which `left` is what the one it comes from leaves.
    fn counted(self, spec: &TrustSpec, left: Option<u32>) -> Result<u32, Failure> {
        if !self.is_allowed || self.count == Some(0) {
            return Ok(0);
        }
        if let Some(count) = self.count.filter(|count| *count > MAX_HANDING_ON) {
            return Err(Failure::forbidden(format!(
                "Requested redelegation depth of {count} is greater than allowed {MAX_HANDING_ON}"
            )));
        }
        if spec.remaining_uses.is_some() {
            let message = "remaining_uses must not be set if redelegation is allowed";
            return Err(Failure::invalid(message).at("remaining_uses"));
        }
        if left.is_some() && self.count.is_some() && self.count != left {
            return Err(Failure::forbidden(
                "Modifying \"redelegation_count\" upon redelegation is forbidden. Omitting this parameter is advised.",
            ));
        }
        Ok(left.or(self.count).unwrap_or(MAX_HANDING_ON))
    }
}

/// Makes a trust. The trustor must ask itself, and have the roles it gives. With a trust's token that trust is handed on.
///
/// # Errors
/// 400 for uses that are counted of a trust to hand on, 403 for policy, delegated tokens, without roles and for more than
/// the trust that is handed on gives, 404 where the trustee, the project or a role is missing.
pub async fn create(
    identity: &Identity,
    caller: &Caller,
    mut spec: TrustSpec,
    roles: &[RoleName],
    handing_on: HandingOn,
) -> Result<Arc<Resource<Trust>>, Failure> {
    caller.enforce(
        "identity:create_trust",
        &[("target.trust.trustor_user_id", &spec.trustor_user_id)],
    )?;
    caller.check_primary()?;
    if roles.is_empty() {
        return Err(Failure::forbidden("At least one role should be specified"));
    }
    if caller.subject.user.id != spec.trustor_user_id {
        return Err(Failure::forbidden("The authenticated user should match the trustor"));
    }
    let store = &identity.store;
    let trustee = store.get::<User>(&User::key(&spec.trustee_user_id));
    trustee.ok_or_else(|| not_found("user", &spec.trustee_user_id))?;
    let on = On::Project(spec.project_id.clone());
    let has = effective::with_implied(store, &effective::assigned(store, &spec.trustor_user_id, &on));
    for role in roles {
        let id = role_id(store, role).filter(|id| has.contains_key(id));
        let (RoleName::Id(text) | RoleName::Name(text)) = role;
        spec.role_ids.push(id.ok_or_else(|| not_found("role", text))?);
    }
    let from = caller.subject.trust.as_deref().map(|id| current(store, id));
    let from = from.transpose()?;
    let left = from.as_ref().map(|from| from.spec.redelegation_count.saturating_sub(1));
    spec.redelegation_count = handing_on.counted(&spec, left)?;
    if let Some(from) = &from {
        hand_on(from, &mut spec)?;
    }
    let created = store.transact(caller.cause(), |tx| {
        if let Some(from) = &from {
            tx.expect(&**from)?;
        }
        let uid = Uuid::new_v4();
        let metadata = Metadata::with_uid(uid, "", uid.simple().to_string());
        Ok::<_, Failure>(tx.create(Resource::new(metadata, spec.clone()))?)
    });
    created.await
}

/// A trust that is not over.
fn current(store: &Store, id: &str) -> Result<Arc<Resource<Trust>>, Failure> {
    let trust = store
        .get::<Trust>(&Trust::key(id))
        .filter(|trust| !is_over(&trust.spec));
    trust.ok_or_else(|| not_found("trust", id))
}

/// Whether a new trust is no more than the one it comes from; ends with it at the latest.
fn hand_on(from: &Resource<Trust>, spec: &mut TrustSpec) -> Result<(), Failure> {
    let given = &from.spec;
    let refuse = |message: String| Err(Failure::forbidden(message));
    if given.redelegation_count == 0 || given.redelegation_count > MAX_HANDING_ON {
        let depth = given.redelegation_count;
        return refuse(format!(
            "Remaining redelegation depth of {depth} out of allowed range of [0..{MAX_HANDING_ON}]"
        ));
    }
    if let Some(uses) = spec.remaining_uses {
        return refuse(format!(
            "Field \"remaining_uses\" is set to {uses} while it must not be set in order to redelegate a trust"
        ));
    }
    match (given.expires, spec.expires) {
        (Some(end), Some(wanted)) if wanted > end => {
            return refuse("Requested expiration time is more than redelegated trust can provide".to_owned());
        }
        (end, None) => spec.expires = end,
        _ => {}
    }
    if !spec.role_ids.iter().all(|id| given.role_ids.contains(id)) {
        return refuse("Some of requested roles are not in redelegated trust".to_owned());
    }
    if spec.impersonation && !given.impersonation {
        return refuse(format!(
            "Impersonation is not allowed because redelegated trust does not specify impersonation. Redelegated trust id: {}",
            from.name()
        ));
    }
    if spec.project_id != given.project_id {
        return refuse(format!(
            "the redelegated trust is for project {}, not for {}",
            given.project_id, spec.project_id
        ));
    }
    spec.redelegated_trust_id = Some(from.name().to_owned());
    Ok(())
}

/// The id of a role that a request names.
pub(crate) fn role_id(store: &Store, role: &RoleName) -> Option<String> {
    match role {
        RoleName::Id(id) => store.get::<Role>(&Role::key(id)).map(|role| role.name().to_owned()),
        RoleName::Name(name) => {
            let found = store.cache::<Role>().by("name", &name_key("", name));
            found.first().map(|role| role.name().to_owned())
        }
    }
}

/// A trust, once policy allows `rule` on it.
///
/// # Errors
/// 403 for policy, 404 where there is none, or it is over.
pub fn find(identity: &Identity, caller: &Caller, rule: &str, id: &str) -> Result<Arc<Resource<Trust>>, Failure> {
    let trust = current(&identity.store, id)?;
    let target = [
        ("target.trust.trustor_user_id", trust.spec.trustor_user_id.as_str()),
        ("target.trust.trustee_user_id", trust.spec.trustee_user_id.as_str()),
    ];
    caller.enforce(rule, &target)?;
    caller.check_primary()?;
    Ok(trust)
}

/// Ends a trust, those that come from it, and every token that was given for them.
///
/// # Errors
/// 403 for policy and delegated tokens, 404.
pub async fn delete(identity: &Identity, caller: &Caller, id: &str) -> Result<(), Failure> {
    find(identity, caller, "identity:delete_trust", id)?;
    let deleted = identity.store.transact(caller.cause(), |tx| {
        let trust = tx.get::<Trust>(&Trust::key(id)).ok_or_else(|| not_found("trust", id))?;
        Ok::<_, Failure>(tx.delete(&trust)?)
    });
    deleted.await
}

/// Whether all the trusts that one comes from are still there for it, and their trustees.
pub(crate) fn holds(store: &Store, trust: &TrustSpec) -> bool {
    let mut next = trust.redelegated_trust_id.clone();
    // Each is handed on at most that often.
    for _ in 0..=MAX_HANDING_ON {
        let Some(id) = &next else { return true };
        let above = current(store, id).ok();
        let above = above.filter(|above| {
            let trustee = store.get::<User>(&User::key(&above.spec.trustee_user_id));
            trustee.is_some_and(|trustee| trustee.spec.enabled)
        });
        let Some(above) = above else { return false };
        next.clone_from(&above.spec.redelegated_trust_id);
    }
    false
}

/// Whether no token is given or taken for it any more. One whose uses are up still stands behind its tokens.
pub(crate) fn is_over(trust: &TrustSpec) -> bool {
    trust.expires.is_some_and(|end| end <= Timestamp::now())
}

/// The roles that a trust gives now: those it names that its trustor still has.
pub(crate) fn roles_now(store: &Store, trust: &TrustSpec) -> Vec<RoleRef> {
    let on = On::Project(trust.project_id.clone());
    let has = effective::with_implied(store, &effective::assigned(store, &trust.trustor_user_id, &on));
    let given: BTreeSet<String> = trust
        .role_ids
        .iter()
        .filter(|id| has.contains_key(*id))
        .cloned()
        .collect();
    effective::in_token(store, &given)
}

/// Takes one of a trust's uses, where they are counted.
///
/// # Errors
/// 401 when they are used up.
pub(crate) async fn use_once(identity: &Identity, trust: &Resource<Trust>) -> Result<(), Failure> {
    if trust.spec.remaining_uses.is_none() {
        return Ok(());
    }
    let (key, cause) = (trust.key(), Cause::system("trust"));
    let used = identity.store.modify::<Trust, Failure>(&key, cause, |trust| {
        if let Some(uses) = &mut trust.spec.remaining_uses {
            *uses = uses.checked_sub(1).ok_or_else(unauthenticated)?;
        }
        Ok(())
    });
    used.await.map(|_| ())
}
