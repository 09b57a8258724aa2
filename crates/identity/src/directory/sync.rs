//! Copying a directory into the store: what it has is written, what it no longer has is disabled.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use madang_store::{Cause, Metadata, Resource, Store, StoreError, Tx};
use serde_json::Map;
use tokio::time::sleep;
use tracing::{info, warn};

use super::{
    Connection, DirectoryEntry, DirectoryEntrySpec, DirectoryError, LdapOptions,
    connection::is_absent,
    entries::{Person, Team, all_groups, all_users, as_member, person, team},
};
use crate::{
    Identity,
    auth::DomainRef,
    group::{Group, GroupSpec, Membership, MembershipSpec},
    user::{User, UserSpec},
};

/// How many users or groups are written in one transaction.
const AT_ONCE: usize = 128;

/// Copies now and again, until dropped.
pub(super) async fn forever(identity: &Identity, domain: &DomainRef, connection: &Connection) {
    let pause = Duration::from_secs(connection.options.sync_seconds);
    let mut said = None;
    loop {
        let outcome = match identity.find_domain(domain) {
            Some(found) => once(&identity.store, found.name(), connection).await.map_err(|error| {
                let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
                format!("{error}{}", cause.unwrap_or_default())
            }),
            None => Err("there is no such domain, or it is disabled: create it".to_owned()),
        };
        // The same trouble every minute is said once.
        let trouble = outcome.err();
        match (&trouble, &said) {
            (Some(now), before) if before.as_ref() != Some(now) => {
                warn!(domain = connection.options.domain, reason = now, "directory not copied");
            }
            (None, Some(_)) => info!(domain = connection.options.domain, "directory copied again"),
            _ => {}
        }
        said = trouble;
        sleep(pause).await;
    }
}

pub(super) fn attributes_of_users(options: &LdapOptions) -> Vec<&str> {
    vec![
        &options.user_id_attribute,
        &options.user_name_attribute,
        &options.user_mail_attribute,
        &options.user_description_attribute,
        &options.user_enabled_attribute,
    ]
}

fn attributes_of_groups(options: &LdapOptions) -> Vec<&str> {
    vec![
        &options.group_id_attribute,
        &options.group_name_attribute,
        &options.group_desc_attribute,
        &options.group_member_attribute,
    ]
}

/// The groups that match. A tree of groups that nobody made has none.
pub(super) async fn teams(connection: &Connection, domain_id: &str, filter: &str) -> Result<Vec<Team>, DirectoryError> {
    let options = &connection.options;
    let found = connection
        .search(&options.group_tree(), filter, &attributes_of_groups(options))
        .await;
    let found = match found {
        Err(error) if is_absent(&error) => Vec::new(),
        found => found?,
    };
    Ok(found
        .iter()
        .filter_map(|entry| team(options, domain_id, entry))
        .collect())
}

/// Copies all of it.
async fn once(store: &Store, domain_id: &str, connection: &Connection) -> Result<(), DirectoryError> {
    let options = &connection.options;
    let users = connection
        .search(&options.user_tree(), &all_users(options), &attributes_of_users(options))
        .await?;
    let mut people: Vec<Person> = users
        .iter()
        .filter_map(|entry| person(options, domain_id, entry))
        .collect();
    let mut teams = teams(connection, domain_id, &all_groups(options)).await?;
    once_each(&mut people, |person| (&person.id, &person.name));
    once_each(&mut teams, |team| (&team.id, &team.name));

    write(store, &people, |tx, person| keep_person(tx, domain_id, person)).await?;
    write(store, &teams, |tx, team| keep_team(tx, domain_id, team)).await?;
    let by_member: HashMap<String, &str> = people.iter().map(|p| (as_member(options, p), p.id.as_str())).collect();
    let members: Vec<(&str, BTreeSet<&str>)> = teams
        .iter()
        .map(|team| {
            let members = team.members.iter().filter_map(|member| by_member.get(member).copied());
            (team.id.as_str(), members.collect())
        })
        .collect();
    write(store, &members, |tx, (team, members)| keep_members(tx, team, members)).await?;

    let seen: HashSet<&str> = people
        .iter()
        .map(|p| p.id.as_str())
        .chain(teams.iter().map(|t| t.id.as_str()))
        .collect();
    let gone = store.cache::<DirectoryEntry>().by("domain", domain_id);
    let gone: Vec<_> = gone
        .into_iter()
        .filter(|mark| !mark.spec.missing && !seen.contains(mark.name()))
        .collect();
    if !gone.is_empty() {
        info!(
            domain_id,
            entries = gone.len(),
            "the directory does not have these any more"
        );
    }
    write(store, &gone, retire).await
}

/// A second entry with the same id or name cannot be told from the first.
fn once_each<T>(all: &mut Vec<T>, of: impl Fn(&T) -> (&String, &String)) {
    let (mut ids, mut names) = (HashSet::new(), HashSet::new());
    let before = all.len();
    all.retain(|one| {
        let (id, name) = of(one);
        ids.insert(id.clone()) && names.insert(name.clone())
    });
    if all.len() < before {
        warn!(
            entries = before - all.len(),
            "the directory has these ids or names twice: left out"
        );
    }
}

/// Writes in pieces. Where one of a piece is refused (its name is taken by somebody who is not from the directory) the
/// others are written one by one.
async fn write<T>(
    store: &Store,
    all: &[T],
    keep: impl Fn(&mut Tx<'_>, &T) -> Result<(), StoreError>,
) -> Result<(), DirectoryError> {
    for piece in all.chunks(AT_ONCE) {
        let together = store.transact(cause(), |tx| piece.iter().try_for_each(|one| keep(tx, one)));
        match together.await {
            Ok(()) => {}
            Err(StoreError::Rejected(_)) => {
                for one in piece {
                    match store.transact(cause(), |tx| keep(tx, one)).await {
                        Ok(()) => {}
                        Err(StoreError::Rejected(why)) => {
                            warn!(why = why.message, "an entry of the directory is left out")
                        }
                        Err(error) => return Err(error.into()),
                    }
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Copies somebody who just logged in, with the groups it is in.
pub(super) async fn keep_one(
    store: &Store,
    domain_id: &str,
    person: &Person,
    teams: &[Team],
) -> Result<(), DirectoryError> {
    let wanted: BTreeSet<&str> = teams.iter().map(|team| team.id.as_str()).collect();
    let kept = store.transact(cause(), |tx| {
        keep_person(tx, domain_id, person)?;
        for team in teams {
            keep_team(tx, domain_id, team)?;
            join(tx, &team.id, &person.id)?;
        }
        let mut left = tx.store().cache::<Membership>().by("user", &person.id);
        left.retain(|membership| !wanted.contains(membership.spec.group_id.as_str()));
        left.iter().try_for_each(|membership| tx.delete(membership))
    });
    Ok(kept.await?)
}

fn cause() -> Cause {
    Cause::system("directory")
}

fn keep_person(tx: &mut Tx<'_>, domain_id: &str, person: &Person) -> Result<(), StoreError> {
    let mut extra = Map::new();
    for (name, value) in [("email", &person.mail), ("description", &person.description)] {
        if let Some(value) = value {
            extra.insert(name.to_owned(), value.as_str().into());
        }
    }
    let key = User::key(&person.id);
    match tx.get::<User>(&key) {
        Some(old) => {
            let mut new = (*old).clone();
            new.spec.name.clone_from(&person.name);
            new.spec.enabled = person.enabled;
            new.spec.extra = extra;
            if new.spec != old.spec {
                tx.update(&old, new)?;
            }
        }
        None => {
            let spec = UserSpec {
                name: person.name.clone(),
                domain_id: domain_id.to_owned(),
                enabled: person.enabled,
                extra,
                ..UserSpec::default()
            };
            tx.create(Resource::<User>::new(Metadata::new("", &person.id), spec))?;
        }
    }
    mark(tx, domain_id, &person.id, &person.dn, false)
}

fn keep_team(tx: &mut Tx<'_>, domain_id: &str, team: &Team) -> Result<(), StoreError> {
    let spec = GroupSpec {
        name: team.name.clone(),
        domain_id: domain_id.to_owned(),
        description: team.description.clone(),
        extra: Map::new(),
    };
    match tx.get::<Group>(&Group::key(&team.id)) {
        Some(old) if old.spec == spec => {}
        Some(old) => {
            let mut new = (*old).clone();
            new.spec = spec;
            tx.update(&old, new)?;
        }
        None => {
            tx.create(Resource::<Group>::new(Metadata::new("", &team.id), spec))?;
        }
    }
    mark(tx, domain_id, &team.id, &team.dn, true)
}

fn mark(tx: &mut Tx<'_>, domain_id: &str, id: &str, dn: &str, is_group: bool) -> Result<(), StoreError> {
    let spec = DirectoryEntrySpec {
        domain_id: domain_id.to_owned(),
        dn: dn.to_owned(),
        is_group,
        missing: false,
    };
    match tx.get::<DirectoryEntry>(&DirectoryEntry::key(id)) {
        Some(old) if old.spec == spec => Ok(()),
        Some(old) => {
            let mut new = (*old).clone();
            new.spec = spec;
            tx.update(&old, new).map(|_| ())
        }
        None => tx
            .create(Resource::<DirectoryEntry>::new(Metadata::new("", id), spec))
            .map(|_| ()),
    }
}

fn keep_members(tx: &mut Tx<'_>, team: &str, members: &BTreeSet<&str>) -> Result<(), StoreError> {
    let now = tx.store().cache::<Membership>().by("group", team);
    for membership in &now {
        if !members.contains(membership.spec.user_id.as_str()) {
            tx.delete(membership)?;
        }
    }
    members.iter().try_for_each(|user| join(tx, team, user))
}

fn join(tx: &mut Tx<'_>, team: &str, user: &str) -> Result<(), StoreError> {
    let key = Membership::key(team, user);
    let both = tx.get::<User>(&User::key(user)).is_some() && tx.get::<Group>(&Group::key(team)).is_some();
    if !both || tx.get::<Membership>(&key).is_some() {
        return Ok(());
    }
    let spec = MembershipSpec {
        group_id: team.to_owned(),
        user_id: user.to_owned(),
    };
    tx.create(Resource::<Membership>::new(
        Metadata::new("", format!("{team}.{user}")),
        spec,
    ))
    .map(|_| ())
}

/// What the directory does not have any more: a user is disabled, a group has nobody in it.
fn retire(tx: &mut Tx<'_>, mark: &Arc<Resource<DirectoryEntry>>) -> Result<(), StoreError> {
    if mark.spec.is_group {
        keep_members(tx, mark.name(), &BTreeSet::new())?;
    } else if let Some(old) = tx.get::<User>(&User::key(mark.name())).filter(|user| user.spec.enabled) {
        let mut new = (*old).clone();
        new.spec.enabled = false;
        tx.update(&old, new)?;
    }
    let mut new = (**mark).clone();
    new.spec.missing = true;
    tx.update(mark, new).map(|_| ())
}
