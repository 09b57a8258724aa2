//! What may be done to application credentials, and what with them.

use std::{collections::BTreeSet, sync::Arc};

use http::Method;
use madang_http::Failure;
use madang_store::{Metadata, Op, Resource, Store, StoreBuilder};
use uuid::Uuid;

use super::{AccessRule, AccessRuleSpec, ApplicationCredential, ApplicationCredentialSpec};
use crate::{
    Caller, Identity, RoleRef, Scope,
    api::not_found,
    assignment::{On, effective},
    names,
    project::name_key,
    token::Claims,
};

pub(crate) fn register(builder: &mut StoreBuilder) {
    builder.kind::<AccessRule>();
    builder.rule::<ApplicationCredential>(|tx, op: Op<'_, ApplicationCredential>| {
        names::keep_unique(tx, &op, |spec| name_key(&spec.user_id, &spec.name), describe)
    });
}

fn describe(spec: &ApplicationCredentialSpec) -> String {
    format!("application_credential - Duplicate entry found with name {}", spec.name)
}

/// A role as a request names it.
#[derive(Clone, Debug)]
pub enum RoleName {
    /// By id.
    Id(String),
    /// By name.
    Name(String),
}

/// An access rule as a request names it.
#[derive(Clone, Debug)]
pub enum AccessRuleName {
    /// One that is there.
    Id(String),
    /// By what it says; made where it is not there.
    Rule {
        /// The service's type.
        service: String,
        /// The HTTP method.
        method: String,
        /// The path.
        path: String,
    },
}

/// A new application credential.
#[derive(Clone)]
pub struct NewCredential {
    /// Its name.
    pub name: String,
    /// Free text.
    pub description: Option<String>,
    /// Its secret; one is made up where there is none.
    pub secret: Option<String>,
    /// Until when it can be used.
    pub expires: Option<jiff::Timestamp>,
    /// The roles it may use; all of the token's where there is none.
    pub roles: Vec<RoleName>,
    /// Whether it may manage application credentials.
    pub unrestricted: bool,
    /// What it may be used for; everything where there is none.
    pub access_rules: Vec<AccessRuleName>,
}

/// Creates an application credential for the project of the caller's token; also gives the secret, which is not kept.
///
/// # Errors
/// 400 for roles that the caller does not have, 403 for policy and without a project, 409 for a taken name.
pub async fn create(
    identity: &Identity,
    caller: &Caller,
    user_id: &str,
    new: NewCredential,
) -> Result<(Arc<Resource<ApplicationCredential>>, String), Failure> {
    caller.enforce("identity:create_application_credential", &[("user_id", user_id)])?;
    check_unrestricted(identity, caller)?;
    let Scope::Project(project) = &caller.subject.scope else {
        return Err(Failure::forbidden(
            "an application credential is for a project, so it takes a token for one",
        ));
    };
    let role_ids = roles(&caller.subject.roles, &new.roles)?;
    let secret = new
        .secret
        .clone()
        .unwrap_or_else(|| [(); 3].map(|()| crate::password::generate()).concat());
    let hash = identity.hash(&secret).await?;
    let created = identity.store.transact(caller.cause(), |tx| {
        let mut access_rule_ids = Vec::with_capacity(new.access_rules.len());
        for rule in &new.access_rules {
            let known = find_rule(&identity.store, user_id, rule);
            access_rule_ids.push(match (known, rule) {
                (Some(known), _) => known.name().to_owned(),
                (None, AccessRuleName::Id(id)) => return Err(not_found("access_rule", id)),
                (None, AccessRuleName::Rule { service, method, path }) => {
                    let spec = AccessRuleSpec {
                        user_id: user_id.to_owned(),
                        service: service.clone(),
                        method: method.clone(),
                        path: path.clone(),
                    };
                    tx.create(Resource::<AccessRule>::new(new_id(), spec))?
                        .name()
                        .to_owned()
                }
            });
        }
        let spec = ApplicationCredentialSpec {
            name: new.name.clone(),
            user_id: user_id.to_owned(),
            project_id: project.id.clone(),
            secret: hash.clone(),
            description: new.description.clone(),
            role_ids: role_ids.clone(),
            expires: new.expires,
            unrestricted: new.unrestricted,
            access_rule_ids,
        };
        Ok::<_, Failure>(tx.create(Resource::new(new_id(), spec))?)
    });
    Ok((created.await?, secret))
}

fn new_id() -> Metadata {
    let uid = Uuid::new_v4();
    Metadata::with_uid(uid, "", uid.simple().to_string())
}

fn roles(has: &[RoleRef], wanted: &[RoleName]) -> Result<Vec<String>, Failure> {
    if wanted.is_empty() {
        return Ok(has.iter().map(|role| role.id.clone()).collect());
    }
    let find = |wanted: &RoleName| {
        let found = has.iter().find(|role| match wanted {
            RoleName::Id(id) => role.id == *id,
            RoleName::Name(name) => role.name == *name,
        });
        let (RoleName::Id(text) | RoleName::Name(text)) = wanted;
        let message = format!("role {text} is not one of the token's, so an application credential cannot have it");
        found
            .map(|role| role.id.clone())
            .ok_or_else(|| Failure::invalid(message).at("roles"))
    };
    wanted.iter().map(find).collect()
}

fn find_rule(store: &Store, user_id: &str, wanted: &AccessRuleName) -> Option<Arc<Resource<AccessRule>>> {
    store
        .cache::<AccessRule>()
        .by("user", user_id)
        .into_iter()
        .find(|rule| match wanted {
            AccessRuleName::Id(id) => rule.name() == id,
            AccessRuleName::Rule { service, method, path } => {
                rule.spec.service == *service && rule.spec.method == *method && rule.spec.path == *path
            }
        })
}

/// A program with a restricted credential cannot get itself further ones, nor can who acts under a trust: they would
/// outlive it.
fn check_unrestricted(identity: &Identity, caller: &Caller) -> Result<(), Failure> {
    if caller.subject.trust.is_some() {
        return caller.check_not_delegated();
    }
    let Some(id) = &caller.subject.application_credential else {
        return Ok(());
    };
    let own = identity
        .store
        .get::<ApplicationCredential>(&ApplicationCredential::key(id));
    if own.is_some_and(|own| own.spec.unrestricted) {
        return Ok(());
    }
    let message =
        "Using method 'application_credential' is not allowed for managing additional application credentials.";
    Err(Failure::forbidden(message))
}

/// An application credential of a user, once policy allows `rule`.
///
/// # Errors
/// 403 for policy, 404.
pub fn find(
    identity: &Identity,
    caller: &Caller,
    rule: &str,
    user_id: &str,
    id: &str,
) -> Result<Arc<Resource<ApplicationCredential>>, Failure> {
    let found = identity
        .store
        .get::<ApplicationCredential>(&ApplicationCredential::key(id));
    // What counts is whose it is, not whose it is said to be.
    let owner = found.as_ref().map_or(user_id, |credential| &credential.spec.user_id);
    caller.enforce(rule, &[("user_id", owner), ("target.user.id", owner)])?;
    found
        .filter(|c| c.spec.user_id == user_id)
        .ok_or_else(|| not_found("application credential", id))
}

/// Removes an application credential; its tokens end with it.
///
/// # Errors
/// 403 for policy and for a restricted credential's token, 404.
pub async fn delete(identity: &Identity, caller: &Caller, user_id: &str, id: &str) -> Result<(), Failure> {
    find(identity, caller, "identity:delete_application_credential", user_id, id)?;
    check_unrestricted(identity, caller)?;
    let deleted = identity.store.transact(caller.cause(), |tx| {
        let credential = tx.get::<ApplicationCredential>(&ApplicationCredential::key(id));
        let credential = credential.ok_or_else(|| not_found("application credential", id))?;
        Ok::<_, Failure>(tx.delete(&credential)?)
    });
    deleted.await
}

/// Removes an access rule that no application credential uses.
///
/// # Errors
/// 403 for policy and for one in use, 404.
pub async fn delete_access_rule(identity: &Identity, caller: &Caller, user_id: &str, id: &str) -> Result<(), Failure> {
    find_access_rule(identity, caller, "identity:delete_access_rule", user_id, id)?;
    let deleted = identity.store.transact(caller.cause(), |tx| {
        let rule = tx
            .get::<AccessRule>(&AccessRule::key(id))
            .ok_or_else(|| not_found("access_rule", id))?;
        let credentials = identity.store.cache::<ApplicationCredential>().by("user", user_id);
        if credentials
            .iter()
            .any(|credential| credential.spec.access_rule_ids.iter().any(|used| used == id))
        {
            let message = format!("access rule {id} is used by an application credential: delete that first");
            return Err(Failure::forbidden(message));
        }
        Ok(tx.delete(&rule)?)
    });
    deleted.await
}

/// An access rule of a user, once policy allows `rule`.
///
/// # Errors
/// 403 for policy, 404.
pub fn find_access_rule(
    identity: &Identity,
    caller: &Caller,
    rule: &str,
    user_id: &str,
    id: &str,
) -> Result<Arc<Resource<AccessRule>>, Failure> {
    caller.enforce(rule, &[("target.user.id", user_id), ("user_id", user_id)])?;
    let found = identity.store.get::<AccessRule>(&AccessRule::key(id));
    found
        .filter(|rule| rule.spec.user_id == user_id)
        .ok_or_else(|| not_found("access_rule", id))
}

/// Whether a token may be used for a request, by the access rules of its application credential. `path` is the one below
/// the service's endpoint.
pub(crate) fn may_be_used(store: &Store, claims: &Claims, service: &str, method: &Method, path: &str) -> bool {
    let Some(id) = &claims.application_credential else {
        return true;
    };
    let Some(credential) = store.get::<ApplicationCredential>(&ApplicationCredential::key(id)) else {
        return false;
    };
    let ids = &credential.spec.access_rule_ids;
    let rules = ids
        .iter()
        .filter_map(|id| store.get::<AccessRule>(&AccessRule::key(id)));
    ids.is_empty()
        || rules.into_iter().any(|rule| {
            rule.spec.service == service && rule.spec.method == method.as_str() && path_fits(&rule.spec.path, path)
        })
}

/// Whether a path fits a rule's: `*` and `{name}` stand for one part, `**` at the end for any rest.
fn path_fits(rule: &str, path: &str) -> bool {
    let mut parts = path.trim_matches('/').split('/');
    let mut wanted = rule.trim_matches('/').split('/');
    loop {
        match (wanted.next(), parts.next()) {
            (Some("**"), _) | (None, None) => return true,
            (Some(wanted), Some(part)) => {
                let any = wanted == "*" || (wanted.starts_with('{') && wanted.ends_with('}'));
                if !any && wanted != part {
                    return false;
                }
            }
            _ => return false,
        }
    }
}

/// The roles that an application credential has now: those given that its user still has.
pub(crate) fn roles_now(store: &Store, credential: &ApplicationCredentialSpec) -> Vec<RoleRef> {
    let on = On::Project(credential.project_id.clone());
    let has = effective::with_implied(store, &effective::assigned(store, &credential.user_id, &on));
    let given: BTreeSet<String> = credential
        .role_ids
        .iter()
        .filter(|id| has.contains_key(*id))
        .cloned()
        .collect();
    effective::in_token(store, &given)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_fit_by_parts() {
        for (rule, path, fits) in [
            ("/v2.1/servers", "/v2.1/servers", true),
            ("/v2.1/servers", "/v2.1/servers/1", false),
            ("/v2.1/servers/*", "/v2.1/servers/1", true),
            ("/v2.1/servers/{id}/ips", "/v2.1/servers/1/ips", true),
            ("/v2.1/servers/*", "/v2.1/servers/1/ips", false),
            ("/v2.1/**", "/v2.1/servers/1/ips", true),
            ("/v2.1/**", "/v3/servers", false),
        ] {
            assert_eq!(path_fits(rule, path), fits, "{rule} {path}");
        }
    }
}
