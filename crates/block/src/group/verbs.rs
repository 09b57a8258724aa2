//! What can be asked of groups. Each verb is one transaction.

use std::sync::Arc;

use madang_http::Failure;
use madang_identity::Caller;
use madang_store::{Metadata, Resource, Store, Tx};

use super::{Group, GroupSpec, GroupState, state};
use crate::{
    group_snapshot::GroupSnapshot,
    snapshot::Snapshot,
    volume::{
        Source, Volume, VolumeSpec, VolumeState,
        verbs::{Deletion, Refusal, delete_in},
    },
};

/// A group as its verb left it.
pub type Done = Result<Arc<Resource<Group>>, Failure>;

pub(super) fn invalid(message: impl std::fmt::Display) -> Failure {
    Failure::invalid(format!("Invalid group: {message}"))
}

/// Makes an empty group.
///
/// # Errors
/// The quota's.
pub async fn create(store: &Store, caller: &Caller, spec: GroupSpec) -> Done {
    let project = caller.project()?;
    let made = store.transact::<_, Refusal>(caller.cause(), |tx| {
        Ok(tx.create(Resource::<Group>::new(Metadata::with_id(project), spec.clone()))?)
    });
    made.await.map_err(|Refusal(failure)| failure)
}

/// What a group can be made of.
pub enum From<'a> {
    /// Another group as it is now.
    Group(&'a Resource<Group>),
    /// A group as it was, and the group that it was of.
    Snapshot(&'a Resource<GroupSnapshot>, &'a Resource<Group>),
}

/// Makes a group whose volumes begin as those of another one, or of a snapshot of one.
///
/// # Errors
/// 400 when that is empty; what the rule of volumes says.
pub async fn create_from(
    store: &Store,
    caller: &Caller,
    name: Option<String>,
    description: Option<String>,
    from: From<'_>,
) -> Done {
    let project = caller.project()?;
    let (like, sources) = match from {
        From::Group(group) => (group, volumes_of(store, group)),
        From::Snapshot(snapshot, group) => (group, snapshots_of(store, snapshot)),
    };
    if sources.is_empty() {
        return Err(invalid("Source Group is empty. No group will be created."));
    }
    let spec = GroupSpec {
        name,
        description,
        user: caller.subject.user.id.clone(),
        source_group: matches!(from, From::Group(_)).then(|| like.name().to_owned()),
        group_snapshot: match from {
            From::Snapshot(snapshot, _) => Some(snapshot.name().to_owned()),
            From::Group(_) => None,
        },
        ..like.spec.clone()
    };
    let made = store.transact::<_, Refusal>(caller.cause(), |tx| {
        let group = tx.create(Resource::<Group>::new(Metadata::with_id(project), spec.clone()))?;
        for (source, volume_type) in &sources {
            let spec = VolumeSpec {
                user: spec.user.clone(),
                availability_zone: spec.availability_zone.clone(),
                volume_type: volume_type.clone(),
                source: source.clone(),
                group: Some(group.name().to_owned()),
                ..VolumeSpec::default()
            };
            tx.create(Resource::<Volume>::new(Metadata::with_id(project), spec))?;
        }
        Ok(group)
    });
    made.await.map_err(|Refusal(failure)| failure)
}

fn volumes_of(store: &Store, group: &Resource<Group>) -> Vec<(Source, Option<String>)> {
    let volumes = super::volumes(store, group.name());
    let source = |volume: &Arc<Resource<Volume>>| {
        (
            Source::Volume(volume.name().to_owned()),
            volume.spec.volume_type.clone(),
        )
    };
    volumes.iter().map(source).collect()
}

fn snapshots_of(store: &Store, of: &Resource<GroupSnapshot>) -> Vec<(Source, Option<String>)> {
    let snapshots = store.cache::<Snapshot>().by("group_snapshot", of.name());
    let source = |snapshot: &Arc<Resource<Snapshot>>| {
        (
            Source::Snapshot(snapshot.name().to_owned()),
            snapshot.spec.volume_type.clone(),
        )
    };
    snapshots.iter().map(source).collect()
}

/// Ends a group, with its volumes where that is said.
///
/// # Errors
/// 400 with volumes that are not to go or cannot, or with snapshots.
pub async fn delete(
    store: &Store,
    caller: &Caller,
    group: &Resource<Group>,
    with_volumes: bool,
) -> Result<(), Failure> {
    let key = group.key();
    let deleted = store.transact::<(), Refusal>(caller.cause(), |tx| {
        let Some(group) = tx.get::<Group>(&key) else {
            return Ok(());
        };
        let (id, volumes) = (group.name(), super::volumes(tx.store(), group.name()));
        if !volumes.is_empty() && !with_volumes {
            let message =
                format!("Group {id} still contains volumes. The delete-volumes flag is required to delete it.");
            return Err(invalid(message).into());
        }
        let is = state(tx.store(), &group);
        if !matches!(
            is,
            GroupState::Available | GroupState::Error | GroupState::ErrorDeleting
        ) {
            let message = format!("Group status must be available or error, but current status is: {is}");
            return Err(invalid(message).into());
        }
        if tx.store().cache::<GroupSnapshot>().count_by("group", id) > 0 {
            return Err(invalid(format!(
                "Cannot delete group {id} because it has dependent group snapshots"
            ))
            .into());
        }
        for volume in volumes {
            let Some(volume) = tx.get::<Volume>(&volume.key()) else {
                continue;
            };
            let mut alone = (*volume).clone();
            alone.spec.group = None;
            let alone = tx.update(&volume, alone)?;
            delete_in(tx, &alone, Deletion::default())?;
        }
        Ok(tx.delete(&group)?)
    });
    deleted.await.map_err(|Refusal(failure)| failure)
}

/// What is to change in a group.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// Another name.
    pub name: Option<String>,
    /// Another description.
    pub description: Option<String>,
    /// Volumes that come.
    pub add: Vec<String>,
    /// Volumes that go on alone.
    pub remove: Vec<String>,
}

/// Changes a group.
///
/// # Errors
/// 400 for volumes that do not fit.
pub async fn update(store: &Store, caller: &Caller, group: &Resource<Group>, change: &Change) -> Result<(), Failure> {
    let key = group.key();
    let updated = store.transact::<(), Refusal>(caller.cause(), |tx| {
        let missing = || Failure::not_found(format!("Group {} could not be found.", key.name));
        let group = tx.get::<Group>(&key).ok_or_else(missing)?;
        let is = state(tx.store(), &group);
        if is != GroupState::Available {
            let message = format!("Group status must be available, but current status is: {is}.");
            return Err(invalid(message).into());
        }
        for id in &change.remove {
            put(tx, &group, id, false)?;
        }
        for id in &change.add {
            put(tx, &group, id, true)?;
        }
        let mut new = (*group).clone();
        new.spec.name = change.name.clone().or(new.spec.name);
        new.spec.description = change.description.clone().or(new.spec.description);
        tx.update(&group, new)?;
        Ok(())
    });
    updated.await.map_err(|Refusal(failure)| failure)
}

/// Puts a volume into a group, or takes it out.
fn put(tx: &mut Tx<'_>, group: &Resource<Group>, id: &str, is_coming: bool) -> Result<(), Refusal> {
    let into = group.name();
    let refused = |why: String| {
        let doing = if is_coming { "add" } else { "remove" };
        let preposition = if is_coming { "to" } else { "from" };
        invalid(format!(
            "Cannot {doing} volume {id} {preposition} group {into} because {why}"
        ))
    };
    let known = tx.store().cache::<Volume>().by_name(id);
    let volume = known.filter(|volume| volume.project() == group.project());
    let volume = volume.and_then(|volume| tx.get::<Volume>(&volume.key()));
    let volume = volume.ok_or_else(|| refused("volume cannot be found.".to_owned()))?;
    let state = volume.status.state;
    let fits = match state {
        VolumeState::Available | VolumeState::InUse => true,
        VolumeState::Error | VolumeState::ErrorDeleting => !is_coming,
        _ => false,
    };
    if !fits {
        return Err(refused(format!("volume is in an invalid state: {state}.")).into());
    }
    let mut new = (*volume).clone();
    match (&volume.spec.group, is_coming) {
        (Some(is), true) if is == into => return Ok(()),
        (Some(is), true) => return Err(refused(format!("it already belongs to group {is}.")).into()),
        (None, true) => {
            let of_type = volume.spec.volume_type.as_deref().unwrap_or_default();
            if !group.spec.volume_types.contains(of_type) {
                return Err(refused(format!("volume type {of_type} is not supported by the group.")).into());
            }
            new.spec.group = Some(into.to_owned());
        }
        (Some(is), false) if is == into => new.spec.group = None,
        (_, false) => return Err(refused("it is not in the group.".to_owned()).into()),
    }
    tx.update(&volume, new)?;
    Ok(())
}
