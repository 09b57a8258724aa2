//! What may be done to users.

use std::sync::Arc;

use jiff::Timestamp;
use madang_http::Failure;
use madang_store::{ErrorKind, Metadata, Op, Rejection, Resource, StoreBuilder, StoreError, Tx};

use super::{
    User, UserSpec,
    compliance::{self, has_option},
};
use crate::{
    Caller, Identity,
    api::{collection::Collection, input::Input, not_found},
    application_credential::{AccessRule, ApplicationCredential},
    assignment::{Actor, Assignment},
    auth::unauthenticated,
    cascade::remove_all,
    credential::Credential,
    directory::DirectoryEntry,
    federation::shadow,
    group::Membership,
    names,
    project::Project,
    trust::Trust,
};

pub(crate) fn register(builder: &mut StoreBuilder) {
    compliance::register(builder);
    builder.rule::<User>(|tx, op| {
        names::keep_unique(tx, &op, UserSpec::unique_name, describe)?;
        keep_federated_unique(tx, &op)?;
        match op {
            Op::Create(_) => Ok(()),
            Op::Update { old, new } => {
                let disabled = old.spec.enabled && !new.spec.enabled;
                if disabled || old.spec.password != new.spec.password {
                    new.spec.tokens_void_until = Some(tx.at());
                }
                Ok(())
            }
            Op::Remove(user) => clear(tx, user),
        }
    });
}

/// Keeps two users from being the same one of an identity provider.
fn keep_federated_unique(tx: &mut Tx<'_>, op: &Op<'_, User>) -> Result<(), StoreError> {
    const NAMES: &str = "names/federated-users";
    let (before, now, uid) = match op {
        Op::Create(new) => (&[][..], &new.spec.federated[..], new.metadata.uid),
        Op::Update { old, new } => (&old.spec.federated[..], &new.spec.federated[..], new.metadata.uid),
        Op::Remove(old) => (&old.spec.federated[..], &[][..], old.metadata.uid),
    };
    for gone in before.iter().filter(|name| !now.contains(name)) {
        tx.release(NAMES, &gone.as_text());
    }
    for name in now.iter().filter(|name| !before.contains(name)) {
        let others = tx.store().cache::<User>().by("federated", &name.as_text());
        let is_taken = others.iter().any(|other| {
            let now = tx.get::<User>(&other.key());
            other.metadata.uid != uid && now.is_some_and(|now| now.spec.federated.contains(name))
        });
        if is_taken || tx.has_reserved(NAMES, &name.as_text()) {
            let message = format!(
                "Conflict occurred attempting to store federated_user - Duplicate entry found with unique_id {} of {}.",
                name.unique_id, name.provider_id
            );
            return Err(Rejection::new(ErrorKind::Conflict, "Duplicate", message)
                .at("federated")
                .into());
        }
        tx.reserve(NAMES, &name.as_text(), uid)?;
    }
    Ok(())
}

fn describe(spec: &UserSpec) -> String {
    format!(
        "user - Duplicate entry found with name {} at domain ID {}",
        spec.name, spec.domain_id
    )
}

/// What goes with a user.
fn clear(tx: &mut Tx<'_>, user: &Resource<User>) -> Result<(), StoreError> {
    let store = tx.store();
    let id = user.name();
    if let Some(mark) = tx.get::<DirectoryEntry>(&DirectoryEntry::key(id)) {
        tx.delete(&mark)?;
    }
    remove_all(
        tx,
        store
            .cache::<Assignment>()
            .by("actor", &Actor::User(id.to_owned()).as_text()),
    )?;
    remove_all(tx, store.cache::<Membership>().by("user", id))?;
    remove_all(tx, store.cache::<ApplicationCredential>().by("user", id))?;
    remove_all(tx, store.cache::<AccessRule>().by("user", id))?;
    remove_all(tx, store.cache::<Credential>().by("user", id))?;
    for side in ["trustor", "trustee"] {
        remove_all(tx, store.cache::<Trust>().by(side, id))?;
    }
    Ok(())
}

/// Creates a user; `spec.password` is the password itself and is stored as its hash.
///
/// # Errors
/// 403 for policy, 404 for a missing domain, 409 for a taken name.
pub async fn create(identity: &Identity, caller: &Caller, mut spec: UserSpec) -> Result<Arc<Resource<User>>, Failure> {
    caller.enforce("identity:create_user", &[("target.user.domain_id", &spec.domain_id)])?;
    if spec.domain_id.is_empty() {
        spec.domain_id = caller.home_domain().to_owned();
    }
    identity.check_writable(&spec.domain_id)?;
    check_references(identity, &spec.domain_id, spec.default_project_id.as_deref())?;
    shadow::check_names(&identity.store, &spec.federated)?;
    if let Some(password) = spec.password.take() {
        let compliance = &identity.options.compliance;
        compliance.check(&password)?;
        let hash = identity.hash(&password).await?;
        compliance.set_password(&mut spec, Some(hash), false, Timestamp::now());
    }
    let created = identity.store.transact(caller.cause(), |tx| {
        let domain = tx
            .get::<Project>(&Project::key(&spec.domain_id))
            .filter(|domain| domain.spec.is_domain);
        tx.expect(&*domain.ok_or_else(|| not_found("domain", &spec.domain_id))?)?;
        let mut metadata = Metadata::new("", "");
        metadata.name = metadata.uid.simple().to_string();
        Ok::<_, Failure>(tx.create(Resource::new(metadata, spec.clone()))?)
    });
    created.await
}

fn check_references(identity: &Identity, domain_id: &str, default_project_id: Option<&str>) -> Result<(), Failure> {
    let get = |id: &str| identity.store.get::<Project>(&Project::key(id));
    if !get(domain_id).is_some_and(|domain| domain.spec.is_domain) {
        return Err(not_found("domain", domain_id));
    }
    match default_project_id.and_then(get) {
        Some(project) if project.spec.is_domain => {
            let message = format!("User's default project ID cannot be a domain ID: {}", project.name());
            Err(Failure::invalid(message).at("default_project_id"))
        }
        _ => Ok(()),
    }
}

/// Changes a user as a body asks. A new password and disabling void its tokens.
///
/// # Errors
/// 403 for policy, 404, 409 for a taken name.
pub(crate) async fn update(
    identity: &Identity,
    caller: &Caller,
    id: &str,
    mut input: Input,
) -> Result<Arc<Resource<User>>, Failure> {
    let user = find(identity, caller, "identity:update_user", id)?;
    identity.check_writable(&user.spec.domain_id)?;
    let default_project_id = input.clone().text("default_project_id");
    check_references(identity, &user.spec.domain_id, default_project_id.as_deref())?;
    if let Some(names) = input.clone().take("federated") {
        shadow::check_names(&identity.store, &shadow::from_value(&names))?;
    }
    let password = match input.nullable("password") {
        Some(Some(password)) => {
            identity.options.compliance.check(&password)?;
            Some(Some(identity.hash(&password).await?))
        }
        Some(None) => Some(None),
        None => None,
    };
    let key = User::key(id);
    let changed = identity.store.modify::<User, Failure>(&key, caller.cause(), |user| {
        User::apply(&mut user.spec, input.clone());
        if let Some(hash) = password.clone() {
            let compliance = &identity.options.compliance;
            compliance.set_password(&mut user.spec, hash, false, Timestamp::now());
        }
        Ok(())
    });
    changed.await
}

/// A user changes its own password, proving that it knows the old one. Needs no token.
///
/// # Errors
/// 401 when the old password is wrong, or there is no such user; 400 when the user's password is locked.
pub async fn change_password(
    identity: &Identity,
    id: &str,
    old: &str,
    new: &str,
    request_id: &str,
) -> Result<(), Failure> {
    let user = identity
        .store
        .get::<User>(&User::key(id))
        .filter(|user| user.spec.enabled);
    let locked = user.as_ref().is_some_and(|user| identity.is_locked(user));
    if let Some(user) = &user {
        identity.check_writable(&user.spec.domain_id)?;
    }
    let kept = user.as_ref().and_then(|user| user.spec.password.clone());
    let fits = identity.passwords.verify(old, kept.as_deref()).await?;
    let user = user.filter(|_| !locked).ok_or_else(unauthenticated)?;
    identity.note_login(&user, fits).await?;
    if !fits {
        return Err(unauthenticated());
    }
    check_new_password(identity, &user.spec, old, new).await?;
    let hash = identity.hash(new).await?;
    let cause = madang_store::Cause::request(id, request_id);
    let key = User::key(id);
    let changed = identity.store.modify::<User, Failure>(&key, cause, |user| {
        // Somebody else may have changed it since it was proved.
        if user.spec.password != kept {
            return Err(unauthenticated());
        }
        let compliance = &identity.options.compliance;
        compliance.set_password(&mut user.spec, Some(hash.clone()), true, Timestamp::now());
        Ok(())
    });
    changed.await.map(|_| ())
}

/// Whether a user may change its password to `new`.
async fn check_new_password(identity: &Identity, user: &UserSpec, old: &str, new: &str) -> Result<(), Failure> {
    let compliance = &identity.options.compliance;
    if has_option(user, "lock_password") {
        let message = "You cannot change your password at this time due to password policy disallowing password changes. \
                       Please contact your administrator to reset your password.";
        return Err(Failure::invalid(message).at("password"));
    }
    compliance.check(new)?;
    compliance.check_age(user, Timestamp::now())?;
    let unique = compliance.unique_last_password_count;
    let message = format!(
        "The new password cannot be identical to a previous password. The total number which includes the new password \
         must be unique is {unique}."
    );
    let mut is_known = unique > 0 && old == new;
    for hash in user.password_history.iter().take((unique as usize).saturating_sub(1)) {
        is_known = is_known || identity.passwords.verify(new, Some(hash)).await?;
    }
    if is_known {
        return Err(Failure::invalid(message).at("password"));
    }
    Ok(())
}

/// A user, once policy allows `rule` on it.
///
/// # Errors
/// 403 for policy, also where there is none and the caller may not see any; 404.
pub fn find(identity: &Identity, caller: &Caller, rule: &str, id: &str) -> Result<Arc<Resource<User>>, Failure> {
    let user = identity.store.get::<User>(&User::key(id));
    let domain_id = user.as_ref().map_or("None", |user| &user.spec.domain_id);
    caller.enforce(
        rule,
        &[
            ("target.user.id", id),
            ("user_id", id),
            ("target.user.domain_id", domain_id),
        ],
    )?;
    user.ok_or_else(|| not_found("user", id))
}
