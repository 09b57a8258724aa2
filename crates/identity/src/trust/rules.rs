//! What may be done to trusts, and what with them.

use std::{collections::BTreeSet, sync::Arc};

use jiff::Timestamp;
use madang_http::Failure;
use madang_store::{Cause, Metadata, Resource, Store, StoreBuilder};
use uuid::Uuid;

use super::{Trust, TrustSpec};
use crate::{
    Caller, Identity, RoleRef,
    api::not_found,
    application_credential::rules::RoleName,
    assignment::{On, effective},
    auth::unauthenticated,
    project::name_key,
    role::Role,
    user::User,
};

pub(crate) fn register(builder: &mut StoreBuilder) {
    builder.kind::<Trust>();
}

/// Makes a trust. The trustor must ask itself, and have the roles it gives.
///
/// # Errors
/// 403 for policy, delegated tokens and without roles, 404 where the trustee, the project or a role is missing.
pub async fn create(
    identity: &Identity,
    caller: &Caller,
    mut spec: TrustSpec,
    roles: &[RoleName],
) -> Result<Arc<Resource<Trust>>, Failure> {
    caller.enforce(
        "identity:create_trust",
        &[("target.trust.trustor_user_id", &spec.trustor_user_id)],
    )?;
    caller.check_not_delegated()?;
    if roles.is_empty() {
        return Err(Failure::forbidden("At least one role should be specified"));
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
    let created = store.transact(caller.cause(), |tx| {
        let uid = Uuid::new_v4();
        let metadata = Metadata::with_uid(uid, "", uid.simple().to_string());
        Ok::<_, Failure>(tx.create(Resource::new(metadata, spec.clone()))?)
    });
    created.await
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
    let trust = identity
        .store
        .get::<Trust>(&Trust::key(id))
        .filter(|trust| !is_over(&trust.spec));
    let trust = trust.ok_or_else(|| not_found("trust", id))?;
    let target = [
        ("target.trust.trustor_user_id", trust.spec.trustor_user_id.as_str()),
        ("target.trust.trustee_user_id", trust.spec.trustee_user_id.as_str()),
    ];
    caller.enforce(rule, &target)?;
    caller.check_not_delegated()?;
    Ok(trust)
}

/// Ends a trust, and every token that was given for it.
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
