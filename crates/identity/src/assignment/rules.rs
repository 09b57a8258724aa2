//! Granting and revoking roles.

use std::sync::Arc;

use madang_http::Failure;
use madang_store::{Metadata, Resource, StoreBuilder};

use super::{Actor, Assignment, AssignmentSpec, On};
use crate::{Caller, Identity, api::not_found, group::Group, project::Project, role::Role, user::User};

pub(crate) fn register(builder: &mut StoreBuilder) {
    builder.kind::<Assignment>();
}

/// Gives a role. Doing it again is fine.
///
/// # Errors
/// 403 for policy and for a domain's own role elsewhere, 404 where anything named is missing.
pub async fn grant(identity: &Identity, caller: &Caller, spec: &AssignmentSpec) -> Result<(), Failure> {
    enforce(identity, caller, "create", spec)?;
    let granted = identity.store.transact(caller.cause(), |tx| {
        // What is named must still be there at commit.
        match &spec.actor {
            Actor::User(id) => tx.expect(&*tx.get::<User>(&User::key(id)).ok_or_else(|| not_found("user", id))?)?,
            Actor::Group(id) => tx.expect(&*tx.get::<Group>(&Group::key(id)).ok_or_else(|| not_found("group", id))?)?,
        }
        let role = tx
            .get::<Role>(&Role::key(&spec.role_id))
            .ok_or_else(|| not_found("role", &spec.role_id))?;
        tx.expect(&*role)?;
        let domain_id = match &spec.on {
            On::Project(id) => {
                let project = tx
                    .get::<Project>(&Project::key(id))
                    .ok_or_else(|| not_found("project", id))?;
                tx.expect(&*project)?;
                project.spec.domain_id.clone()
            }
            On::Domain(id) => {
                let domain = tx
                    .get::<Project>(&Project::key(id))
                    .filter(|domain| domain.spec.is_domain);
                tx.expect(&*domain.ok_or_else(|| not_found("domain", id))?)?;
                id.clone()
            }
            On::System => String::new(),
        };
        // Keystone looks at this for projects alone.
        let elsewhere = !role.spec.domain_id.is_empty() && role.spec.domain_id != domain_id;
        if elsewhere && matches!(spec.on, On::Project(_)) {
            let message = format!("role {} belongs to domain {}", spec.role_id, role.spec.domain_id);
            return Err(Failure::forbidden(message));
        }
        if tx.get::<Assignment>(&Assignment::key(spec)).is_none() {
            tx.create(Resource::<Assignment>::new(
                Metadata::new("", spec.as_name()),
                spec.clone(),
            ))?;
        }
        Ok(())
    });
    granted.await
}

/// Takes a role away.
///
/// # Errors
/// 403 for policy, 404 where it is not assigned.
pub async fn revoke(identity: &Identity, caller: &Caller, spec: &AssignmentSpec) -> Result<(), Failure> {
    enforce(identity, caller, "revoke", spec)?;
    let revoked = identity.store.transact(caller.cause(), |tx| {
        let assignment = tx
            .get::<Assignment>(&Assignment::key(spec))
            .ok_or_else(|| not_assigned(spec))?;
        Ok::<_, Failure>(tx.delete(&assignment)?)
    });
    revoked.await
}

/// Whether a role is assigned: says so, or why not.
///
/// # Errors
/// 403 for policy, 404 where it is not assigned.
pub fn check(identity: &Identity, caller: &Caller, spec: &AssignmentSpec) -> Result<(), Failure> {
    enforce(identity, caller, "check", spec)?;
    let found = identity.store.get::<Assignment>(&Assignment::key(spec));
    found.map(|_| ()).ok_or_else(|| not_assigned(spec))
}

/// The roles assigned to an actor in a place, by name.
///
/// # Errors
/// 403 for policy, 404 where the actor or the place is missing.
pub fn granted(
    identity: &Identity,
    caller: &Caller,
    actor: &Actor,
    on: &On,
    inherited: bool,
) -> Result<Vec<Arc<Resource<Role>>>, Failure> {
    let spec = AssignmentSpec {
        actor: actor.clone(),
        on: on.clone(),
        role_id: String::new(),
        inherited,
    };
    enforce(identity, caller, "list", &spec)?;
    let assignments = identity.store.cache::<Assignment>().by("actor", &actor.as_text());
    let here = assignments
        .iter()
        .filter(|a| a.spec.on == *on && a.spec.inherited == inherited);
    let mut roles: Vec<_> = here
        .filter_map(|a| identity.store.get::<Role>(&Role::key(&a.spec.role_id)))
        .collect();
    roles.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
    Ok(roles)
}

fn not_assigned(spec: &AssignmentSpec) -> Failure {
    let (who, on) = (spec.actor.as_text(), spec.on.as_text());
    Failure::not_found(format!(
        "Could not find role assignment with role: {}, {who}, {on}.",
        spec.role_id
    ))
}

/// Policy, then that the actor and the place are there.
fn enforce(identity: &Identity, caller: &Caller, verb: &str, spec: &AssignmentSpec) -> Result<(), Failure> {
    let store = &identity.store;
    let mut target: Vec<(&str, String)> = Vec::new();
    let mut missing = None;
    let mut found = |what: &'static str, id: &str, field: &'static str, domain: Option<String>| match domain {
        Some(domain) => target.push((field, domain)),
        None => _ = missing.get_or_insert_with(|| not_found(what, id)),
    };
    let kind = match &spec.actor {
        Actor::User(id) => {
            let user = store
                .get::<User>(&User::key(id))
                .map(|user| user.spec.domain_id.clone());
            found("user", id, "target.user.domain_id", user);
            "user"
        }
        Actor::Group(id) => {
            let group = store
                .get::<Group>(&Group::key(id))
                .map(|group| group.spec.domain_id.clone());
            found("group", id, "target.group.domain_id", group);
            "group"
        }
    };
    match &spec.on {
        On::Project(id) => {
            let project = store
                .get::<Project>(&Project::key(id))
                .map(|project| project.spec.domain_id.clone());
            found("project", id, "target.project.domain_id", project);
        }
        On::Domain(id) => {
            let domain = store
                .get::<Project>(&Project::key(id))
                .filter(|domain| domain.spec.is_domain);
            found("domain", id, "target.domain.id", domain.map(|_| id.clone()));
        }
        On::System => {}
    }
    if !spec.role_id.is_empty() {
        let role = store.get::<Role>(&Role::key(&spec.role_id));
        let domain = role
            .as_ref()
            .map(|role| role.spec.domain_id.clone())
            .map(|id| if id.is_empty() { "None".into() } else { id });
        found("role", &spec.role_id, "target.role.domain_id", domain);
        target.extend(role.map(|role| ("target.role.name", role.spec.name.clone())));
    }
    let rule = match (&spec.on, verb) {
        (On::System, "list") => format!("identity:list_system_grants_for_{kind}"),
        (On::System, verb) => format!("identity:{verb}_system_grant_for_{kind}"),
        (_, "list") => "identity:list_grants".to_owned(),
        (_, verb) => format!("identity:{verb}_grant"),
    };
    let target: Vec<(&str, &str)> = target.iter().map(|(field, value)| (*field, value.as_str())).collect();
    caller.enforce(&rule, &target)?;
    missing.map_or(Ok(()), Err)
}
