//! What may be done to roles, and which implies which.

use std::sync::Arc;

use madang_http::Failure;
use madang_store::{Metadata, Op, Resource, StoreBuilder, StoreError, Tx};

use super::{Implication, ImplicationSpec, Role, RoleSpec};
use crate::{
    Caller, Identity,
    api::{collection::Collection, input::Input, not_found},
    assignment::Assignment,
    cascade::remove_all,
    names,
    project::{Project, is_immutable, name_key, rules::refuse_immutable},
};

/// The role that no other may bring: Keystone's `prohibited_implied_role`.
const NEVER_IMPLIED: &str = "admin";

pub(crate) fn register(builder: &mut StoreBuilder) {
    builder.kind::<Implication>();
    builder.rule::<Role>(|tx, op| {
        names::keep_unique(tx, &op, |spec| name_key(&spec.domain_id, &spec.name), describe)?;
        if let Op::Remove(role) = op {
            clear(tx, role)
        } else {
            Ok(())
        }
    });
}

fn describe(spec: &RoleSpec) -> String {
    let within = if spec.domain_id.is_empty() {
        String::new()
    } else {
        format!(" at domain ID {}", spec.domain_id)
    };
    format!("role - Duplicate entry found with name {}{within}", spec.name)
}

fn clear(tx: &mut Tx<'_>, role: &Resource<Role>) -> Result<(), StoreError> {
    let store = tx.store();
    remove_all(tx, store.cache::<Assignment>().by("role", role.name()))?;
    for side in ["prior", "implied"] {
        remove_all(tx, store.cache::<Implication>().by(side, role.name()))?;
    }
    Ok(())
}

/// The rule for `verb` on a role, which is another one for a domain's own role.
pub(crate) fn rule(verb: &str, domain_id: &str) -> String {
    let what = if domain_id.is_empty() { "role" } else { "domain_role" };
    format!("identity:{verb}_{what}")
}

/// Creates a role.
///
/// # Errors
/// 403 for policy, 404 for a missing domain, 409 for a taken name.
pub async fn create(identity: &Identity, caller: &Caller, spec: RoleSpec) -> Result<Arc<Resource<Role>>, Failure> {
    caller.enforce(
        &rule("create", &spec.domain_id),
        &[("target.role.domain_id", &spec.domain_id)],
    )?;
    let created = identity.store.transact(caller.cause(), |tx| {
        if !spec.domain_id.is_empty() {
            let domain = tx
                .get::<Project>(&Project::key(&spec.domain_id))
                .filter(|domain| domain.spec.is_domain);
            tx.expect(&*domain.ok_or_else(|| not_found("domain", &spec.domain_id))?)?;
        }
        let mut metadata = Metadata::new("", "");
        metadata.name = metadata.uid.simple().to_string();
        Ok::<_, Failure>(tx.create(Resource::new(metadata, spec.clone()))?)
    });
    created.await
}

/// Changes a role.
///
/// # Errors
/// 403 for policy and an immutable one, 404, 409 for a taken name.
pub(crate) async fn update(
    identity: &Identity,
    caller: &Caller,
    id: &str,
    input: Input,
) -> Result<Arc<Resource<Role>>, Failure> {
    find(identity, caller, "update", id)?;
    let key = Role::key(id);
    let changed = identity.store.modify::<Role, Failure>(&key, caller.cause(), |role| {
        if is_immutable(&role.spec.options) && !input.unlocks() {
            return Err(refuse_immutable("update", "role", id));
        }
        Role::apply(&mut role.spec, input.clone());
        Ok(())
    });
    changed.await
}

/// Removes a role with all its assignments and implications.
///
/// # Errors
/// 403 for policy and an immutable one, 404.
pub async fn delete(identity: &Identity, caller: &Caller, id: &str) -> Result<(), Failure> {
    find(identity, caller, "delete", id)?;
    let deleted = identity.store.transact(caller.cause(), |tx| {
        let role = tx.get::<Role>(&Role::key(id)).ok_or_else(|| not_found("role", id))?;
        if is_immutable(&role.spec.options) {
            return Err(refuse_immutable("delete", "role", id));
        }
        Ok::<_, Failure>(tx.delete(&role)?)
    });
    deleted.await
}

/// Lets who has `prior_id` have `implied_id` too. Doing it again is fine.
///
/// # Errors
/// 403 for policy and for the admin role, 404 where either is missing.
pub async fn imply(identity: &Identity, caller: &Caller, prior_id: &str, implied_id: &str) -> Result<(), Failure> {
    caller.enforce("identity:create_implied_role", &[])?;
    let implied = identity.store.transact(caller.cause(), |tx| {
        let get = |id: &str| tx.get::<Role>(&Role::key(id)).ok_or_else(|| not_found("role", id));
        let (prior, implied) = (get(prior_id)?, get(implied_id)?);
        if implied.spec.name == NEVER_IMPLIED {
            return Err(Failure::forbidden(format!("{implied_id} cannot be an implied roles")));
        }
        if prior.spec.domain_id.is_empty() && !implied.spec.domain_id.is_empty() {
            return Err(Failure::forbidden("Global role cannot imply a domain-specific role"));
        }
        let key = Implication::key(prior_id, implied_id);
        if tx.get::<Implication>(&key).is_none() {
            tx.expect(&*prior)?;
            tx.expect(&*implied)?;
            let spec = ImplicationSpec {
                prior_id: prior_id.to_owned(),
                implied_id: implied_id.to_owned(),
            };
            tx.create(Resource::<Implication>::new(Metadata::new("", key.name), spec))?;
        }
        Ok(())
    });
    implied.await
}

/// Ends an implication.
///
/// # Errors
/// 403 for policy, 404 where there is none.
pub async fn imply_no_more(
    identity: &Identity,
    caller: &Caller,
    prior_id: &str,
    implied_id: &str,
) -> Result<(), Failure> {
    caller.enforce("identity:delete_implied_role", &[])?;
    let ended = identity.store.transact(caller.cause(), |tx| {
        let implication = tx.get::<Implication>(&Implication::key(prior_id, implied_id));
        let implication = implication.ok_or_else(|| no_implication(prior_id, implied_id))?;
        Ok::<_, Failure>(tx.delete(&implication)?)
    });
    ended.await
}

pub(crate) fn no_implication(prior_id: &str, implied_id: &str) -> Failure {
    Failure::not_found(format!("{prior_id} does not imply {implied_id}"))
}

/// A role, once policy allows `verb` on it.
///
/// # Errors
/// 403 for policy, also where there is none and the caller may not see any; 404.
pub fn find(identity: &Identity, caller: &Caller, verb: &str, id: &str) -> Result<Arc<Resource<Role>>, Failure> {
    let role = identity.store.get::<Role>(&Role::key(id));
    // As Keystone: that a role is not there is said before who asks is looked at.
    if role.is_none() {
        return Err(not_found("role", id));
    }
    let domain_id = role.as_ref().map_or("", |role| &role.spec.domain_id);
    let name = role.as_ref().map_or("", |role| &role.spec.name);
    caller.enforce(
        &rule(verb, domain_id),
        &[("target.role.domain_id", domain_id), ("target.role.name", name)],
    )?;
    role.ok_or_else(|| not_found("role", id))
}
