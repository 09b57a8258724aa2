//! What may be done to groups, and who is in them.

use std::sync::Arc;

use madang_http::Failure;
use madang_store::{Metadata, Op, Resource, StoreBuilder, StoreError, Tx};

use super::{Group, GroupSpec, Membership, MembershipSpec};
use crate::{
    Caller, Identity,
    api::not_found,
    assignment::{Actor, Assignment},
    cascade::remove_all,
    directory::DirectoryEntry,
    names,
    project::{Project, name_key},
    user::User,
};

pub(crate) fn register(builder: &mut StoreBuilder) {
    builder.kind::<Membership>();
    builder.rule::<Group>(|tx, op| {
        names::keep_unique(tx, &op, |spec| name_key(&spec.domain_id, &spec.name), describe)?;
        if let Op::Remove(group) = op {
            clear(tx, group)
        } else {
            Ok(())
        }
    });
}

fn describe(spec: &GroupSpec) -> String {
    format!(
        "group - Duplicate entry found with name {} at domain ID {}",
        spec.name, spec.domain_id
    )
}

fn clear(tx: &mut Tx<'_>, group: &Resource<Group>) -> Result<(), StoreError> {
    let store = tx.store();
    let id = group.name();
    if let Some(mark) = tx.get::<DirectoryEntry>(&DirectoryEntry::key(id)) {
        tx.delete(&mark)?;
    }
    remove_all(
        tx,
        store
            .cache::<Assignment>()
            .by("actor", &Actor::Group(id.to_owned()).as_text()),
    )?;
    remove_all(tx, store.cache::<Membership>().by("group", id))?;
    Ok(())
}

/// Creates a group.
///
/// # Errors
/// 403 for policy, 404 for a missing domain, 409 for a taken name.
pub async fn create(
    identity: &Identity,
    caller: &Caller,
    mut spec: GroupSpec,
) -> Result<Arc<Resource<Group>>, Failure> {
    caller.enforce("identity:create_group", &[("target.group.domain_id", &spec.domain_id)])?;
    if spec.domain_id.is_empty() {
        spec.domain_id = caller.home_domain().to_owned();
    }
    identity.check_writable(&spec.domain_id)?;
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

/// Puts a user into a group. Doing it again is fine.
///
/// # Errors
/// 403 for policy, 404 where either is missing.
pub async fn add_user(identity: &Identity, caller: &Caller, group_id: &str, user_id: &str) -> Result<(), Failure> {
    find_both(identity, caller, "identity:add_user_to_group", group_id, user_id)?;
    check_members_writable(identity, group_id)?;
    let added = identity.store.transact(caller.cause(), |tx| {
        let group = tx
            .get::<Group>(&Group::key(group_id))
            .ok_or_else(|| not_found("group", group_id))?;
        let user = tx
            .get::<User>(&User::key(user_id))
            .ok_or_else(|| not_found("user", user_id))?;
        let key = Membership::key(group_id, user_id);
        if tx.get::<Membership>(&key).is_none() {
            tx.expect(&*group)?;
            tx.expect(&*user)?;
            let spec = MembershipSpec {
                group_id: group_id.to_owned(),
                user_id: user_id.to_owned(),
            };
            tx.create(Resource::<Membership>::new(Metadata::new("", key.name), spec))?;
        }
        Ok::<_, Failure>(())
    });
    added.await
}

fn check_members_writable(identity: &Identity, group_id: &str) -> Result<(), Failure> {
    match identity.store.get::<Group>(&Group::key(group_id)) {
        Some(group) => identity.check_writable(&group.spec.domain_id),
        None => Ok(()),
    }
}

/// Takes a user out of a group.
///
/// # Errors
/// 403 for policy, 404 where it is not in it.
pub async fn remove_user(identity: &Identity, caller: &Caller, group_id: &str, user_id: &str) -> Result<(), Failure> {
    find_both(identity, caller, "identity:remove_user_from_group", group_id, user_id)?;
    check_members_writable(identity, group_id)?;
    let removed = identity.store.transact(caller.cause(), |tx| {
        let membership = tx.get::<Membership>(&Membership::key(group_id, user_id));
        let membership = membership.ok_or_else(|| not_in_group(group_id, user_id))?;
        Ok::<_, Failure>(tx.delete(&membership)?)
    });
    removed.await
}

/// Whether a user is in a group: says so, or why not.
///
/// # Errors
/// 403 for policy, 404 where it is not in it.
pub fn check_user(identity: &Identity, caller: &Caller, group_id: &str, user_id: &str) -> Result<(), Failure> {
    find_both(identity, caller, "identity:check_user_in_group", group_id, user_id)?;
    let membership = identity.store.get::<Membership>(&Membership::key(group_id, user_id));
    membership.map(|_| ()).ok_or_else(|| not_in_group(group_id, user_id))
}

fn not_in_group(group_id: &str, user_id: &str) -> Failure {
    Failure::not_found(format!("User {user_id} not found in group {group_id}"))
}

fn find_both(identity: &Identity, caller: &Caller, rule: &str, group_id: &str, user_id: &str) -> Result<(), Failure> {
    let group = identity.store.get::<Group>(&Group::key(group_id));
    let user = identity.store.get::<User>(&User::key(user_id));
    let group_domain = group.as_ref().map_or("None", |group| &group.spec.domain_id);
    let user_domain = user.as_ref().map_or("None", |user| &user.spec.domain_id);
    let target = [
        ("target.group.domain_id", group_domain),
        ("target.user.domain_id", user_domain),
        ("user_id", user_id),
    ];
    caller.enforce(rule, &target)?;
    group.ok_or_else(|| not_found("group", group_id))?;
    user.ok_or_else(|| not_found("user", user_id))?;
    Ok(())
}

/// A group, once policy allows `rule` on it.
///
/// # Errors
/// 403 for policy, also where there is none and the caller may not see any; 404.
pub fn find(identity: &Identity, caller: &Caller, rule: &str, id: &str) -> Result<Arc<Resource<Group>>, Failure> {
    let group = identity.store.get::<Group>(&Group::key(id));
    // As Keystone: who wants to remove one learns first that it is not there.
    if group.is_none() && rule == "identity:delete_group" {
        return Err(not_found("group", id));
    }
    let domain_id = group.as_ref().map_or("None", |group| &group.spec.domain_id);
    caller.enforce(rule, &[("target.group.domain_id", domain_id)])?;
    group.ok_or_else(|| not_found("group", id))
}
