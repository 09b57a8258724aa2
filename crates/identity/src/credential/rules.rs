//! What may be done to credentials.

use std::sync::Arc;

use madang_http::Failure;
use madang_store::{Metadata, Resource, StoreBuilder};
use serde_json::{Value, json};

use super::{Credential, CredentialSpec, EC2, access_key};
use crate::{Caller, Identity, api::not_found, project::Project, user::User};

pub(crate) fn register(builder: &mut StoreBuilder) {
    builder.kind::<Credential>();
}

/// A credential as a client gives it. Not to be logged.
pub struct NewCredential {
    /// Whose it is.
    pub user_id: String,
    /// The project it is for.
    pub project_id: Option<String>,
    /// What it is.
    pub credential_type: String,
    /// The secret; for `ec2` an object with `access` and `secret`, as text.
    pub blob: String,
}

/// Keeps a credential. One of type `ec2` must be for a project, and hold an access key that is not taken.
///
/// # Errors
/// 400 for one of type `ec2` that lacks something, 403 for policy and delegated tokens, 404, 409 for a taken key.
pub async fn create(
    identity: &Identity,
    caller: &Caller,
    rule: &str,
    new: NewCredential,
) -> Result<Arc<Resource<Credential>>, Failure> {
    caller.enforce(rule, &[("target.credential.user_id", &new.user_id)])?;
    caller.check_not_delegated()?;
    let id = if new.credential_type == EC2 {
        Some(ec2_id(&new)?)
    } else {
        None
    };
    let mut spec = CredentialSpec {
        user_id: new.user_id,
        project_id: new.project_id,
        credential_type: new.credential_type,
        sealed: String::new(),
        plain: None,
    };
    identity.seal_credential(&mut spec, &new.blob);
    let created = identity.store.transact(caller.cause(), |tx| {
        let user = tx
            .get::<User>(&User::key(&spec.user_id))
            .ok_or_else(|| not_found("user", &spec.user_id))?;
        tx.expect(&*user)?;
        if let Some(id) = &spec.project_id {
            let project = tx
                .get::<Project>(&Project::key(id))
                .ok_or_else(|| not_found("project", id))?;
            tx.expect(&*project)?;
        }
        let mut metadata = Metadata::new("", "");
        metadata.name = id.clone().unwrap_or_else(|| metadata.uid.simple().to_string());
        if tx.get::<Credential>(&Credential::key(&metadata.name)).is_some() {
            let message = "Conflict occurred attempting to store credential - Duplicate entry.";
            return Err(Failure::conflict(message));
        }
        Ok::<_, Failure>(tx.create(Resource::new(metadata, spec.clone()))?)
    });
    created.await
}

fn ec2_id(new: &NewCredential) -> Result<String, Failure> {
    let (access, _) = access_key(&new.blob).ok_or_else(|| Failure::invalid("Invalid blob in credential").at("blob"))?;
    if new.project_id.is_none() {
        return Err(Failure::invalid("a credential of type ec2 is for a project").at("project_id"));
    }
    Ok(Credential::ec2_id(&access))
}

/// Makes an access key for a project.
///
/// # Errors
/// 403 for policy and delegated tokens, 404 where the user or the project is missing.
pub async fn create_ec2(
    identity: &Identity,
    caller: &Caller,
    user_id: &str,
    project_id: &str,
) -> Result<Arc<Resource<Credential>>, Failure> {
    let (access, secret) = (
        crate::password::generate(),
        crate::password::generate() + &crate::password::generate()[..16],
    );
    let new = NewCredential {
        user_id: user_id.to_owned(),
        project_id: Some(project_id.to_owned()),
        credential_type: EC2.to_owned(),
        blob: json!({ "access": access, "secret": secret }).to_string(),
    };
    create(identity, caller, "identity:ec2_create_credential", new).await
}

/// A credential, once policy allows `rule` on it.
///
/// # Errors
/// 403 for policy, also where there is none and the caller may not see any, and for delegated tokens; 404.
pub fn find(identity: &Identity, caller: &Caller, rule: &str, id: &str) -> Result<Arc<Resource<Credential>>, Failure> {
    let credential = identity.store.get::<Credential>(&Credential::key(id));
    let user_id = credential.as_ref().map_or("", |credential| &credential.spec.user_id);
    caller.enforce(rule, &[("target.credential.user_id", user_id)])?;
    let credential = credential.ok_or_else(|| not_found("credential", id))?;
    caller.check_not_delegated()?;
    Ok(credential)
}

/// An access key of a user, once policy allows `rule` on it.
///
/// # Errors
/// 403 for policy, 404.
pub fn find_ec2(
    identity: &Identity,
    caller: &Caller,
    rule: &str,
    user_id: &str,
    access: &str,
) -> Result<Arc<Resource<Credential>>, Failure> {
    let key = Credential::key(&Credential::ec2_id(access));
    let found = identity.store.get::<Credential>(&key);
    let found = found.filter(|credential| credential.spec.credential_type == EC2);
    let found = found.ok_or_else(|| not_found("credential", access))?;
    // What counts is whose it is, not whose it is said to be.
    caller.enforce(rule, &[("target.credential.user_id", &found.spec.user_id)])?;
    caller.check_not_delegated()?;
    let user = identity.store.get::<User>(&User::key(user_id));
    user.map(|_| found).ok_or_else(|| not_found("user", user_id))
}

/// Replaces the secret of a credential. What it is, whose and for which project cannot change.
///
/// # Errors
/// 400 for an attempt to change more, 403 for policy and delegated tokens, 404.
pub async fn update(
    identity: &Identity,
    caller: &Caller,
    id: &str,
    changes: &serde_json::Map<String, Value>,
) -> Result<Arc<Resource<Credential>>, Failure> {
    let now = find(identity, caller, "identity:update_credential", id)?;
    caller.check_not_delegated()?;
    let fixed = [
        ("user_id", Value::from(now.spec.user_id.as_str())),
        ("project_id", Value::from(now.spec.project_id.clone())),
        ("type", Value::from(now.spec.credential_type.as_str())),
    ];
    for (field, is) in fixed {
        if changes.get(field).is_some_and(|wanted| *wanted != is) {
            return Err(Failure::invalid(format!("the {field} of a credential cannot change")).at(field));
        }
    }
    let key = Credential::key(id);
    let changed = identity
        .store
        .modify::<Credential, Failure>(&key, caller.cause(), |credential| {
            let Some(blob) = changes.get("blob").and_then(Value::as_str) else {
                return Ok(());
            };
            if credential.spec.credential_type == EC2 && access_key(blob).is_none() {
                return Err(Failure::invalid("Invalid blob in credential").at("blob"));
            }
            identity.seal_credential(&mut credential.spec, blob);
            Ok(())
        });
    changed.await
}

/// Forgets a credential that was found.
///
/// # Errors
/// 403 for delegated tokens, 404 where it went meanwhile.
pub async fn delete(identity: &Identity, caller: &Caller, id: &str) -> Result<(), Failure> {
    caller.check_not_delegated()?;
    let deleted = identity.store.transact(caller.cause(), |tx| {
        let credential = tx
            .get::<Credential>(&Credential::key(id))
            .ok_or_else(|| not_found("credential", id))?;
        Ok::<_, Failure>(tx.delete(&credential)?)
    });
    deleted.await
}
