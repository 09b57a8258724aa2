//! What can be asked of backups. Each verb is one transaction.

use std::sync::Arc;

use madang_http::Failure;
use madang_identity::Caller;
use madang_store::{Key, Kind as _, Metadata, Resource, Store, Tx};

use super::{Backup, BackupSpec, BackupState, Origin};
use crate::{
    snapshot::{Snapshot, SnapshotState},
    volume::{
        Source, Task, Volume, VolumeSpec, VolumeState,
        verbs::{Refusal, invalid_state},
    },
};

/// A backup as its verb left it.
pub type Done = Result<Arc<Resource<Backup>>, Failure>;

/// What is asked of a new backup beside its spec.
#[derive(Clone, Copy, Debug, Default)]
pub struct How {
    /// Only what changed since the last one.
    pub is_incremental: bool,
    /// Also of a volume in use.
    pub is_forced: bool,
}

pub(super) fn invalid(message: impl std::fmt::Display) -> Failure {
    Failure::invalid(format!("Invalid backup: {message}"))
}

/// Asks for a backup of a volume, or of the snapshot that `spec` names.
///
/// # Errors
/// 400 in a state that does not allow it, or without a full backup to stand on; the quota's.
pub async fn create(store: &Store, caller: &Caller, volume: &Resource<Volume>, spec: BackupSpec, how: How) -> Done {
    let key = volume.key();
    let made = store.transact::<_, Refusal>(caller.cause(), |tx| {
        let missing = || Failure::not_found(format!("Volume {} could not be found.", key.name));
        let volume = tx.get::<Volume>(&key).ok_or_else(missing)?;
        let mut metadata = Metadata::with_id(caller.project()?);
        metadata.finalizers = vec![super::FINALIZER.to_owned()];
        let mut spec = BackupSpec {
            volume: volume.name().to_owned(),
            size_gib: volume.spec.size_gib,
            data: metadata.name.clone(),
            of: origin(&volume),
            ..spec.clone()
        };
        let mut layer = None;
        match spec.snapshot.clone() {
            Some(id) => {
                let snapshot = from_snapshot(tx, &volume, &id)?;
                spec.data_timestamp = Some(snapshot.metadata.created);
                spec.size_gib = snapshot.spec.size_gib;
                layer = snapshot.status.layer;
            }
            None => from_volume(tx, &volume, how.is_forced)?,
        }
        if how.is_incremental {
            spec.parent = Some(parent(tx, caller.project()?, &spec)?);
        }
        let mut new = Resource::<Backup>::new(metadata, spec);
        new.status.layer = layer;
        Ok(tx.create(new)?)
    });
    made.await.map_err(|Refusal(failure)| failure)
}

fn origin(volume: &Resource<Volume>) -> Origin {
    let spec = &volume.spec;
    Origin {
        name: spec.name.clone(),
        description: spec.description.clone(),
        metadata: spec.metadata.clone(),
        image_metadata: spec.image_metadata.clone(),
        is_bootable: spec.is_bootable,
    }
}

fn from_snapshot(tx: &mut Tx<'_>, volume: &Resource<Volume>, id: &str) -> Result<Arc<Resource<Snapshot>>, Refusal> {
    let snapshot = tx.get::<Snapshot>(&Key::new(Snapshot::NAME, volume.project(), "", id));
    let snapshot = snapshot.ok_or_else(|| Failure::not_found(format!("Snapshot {id} could not be found.")))?;
    if snapshot.spec.volume != volume.name() {
        let message = format!(
            "Volume {} does not match with snapshot.volume_id {}.",
            volume.name(),
            snapshot.spec.volume
        );
        return Err(invalid_state(message).into());
    }
    if snapshot.status.state != SnapshotState::Available {
        let message = format!(
            "Invalid snapshot: Snapshot to be backed up must be available, but the current status is \"{}\".",
            snapshot.status.state
        );
        return Err(Failure::invalid(message).into());
    }
    let mut busy = (*snapshot).clone();
    busy.status.state = SnapshotState::BackingUp;
    tx.update(&snapshot, busy)?;
    Ok(snapshot)
}

fn from_volume(tx: &mut Tx<'_>, volume: &Resource<Volume>, is_forced: bool) -> Result<(), Refusal> {
    match volume.status.state {
        VolumeState::Available => {}
        VolumeState::InUse if is_forced => {}
        VolumeState::InUse => {
            let message = "Backing up an in-use volume must use the force flag.".to_owned();
            return Err(invalid_state(message).into());
        }
        other => {
            let message =
                format!("Volume to be backed up must be available or in-use, but the current status is \"{other}\".");
            return Err(invalid_state(message).into());
        }
    }
    let mut busy = volume.clone();
    busy.status.state = VolumeState::BackingUp;
    tx.update(volume, busy)?;
    Ok(())
}

/// The backup that an incremental one stands on: the newest of the volume, for a snapshot's the newest from before it.
fn parent(tx: &Tx<'_>, project: &str, spec: &BackupSpec) -> Result<String, Failure> {
    let mut known = tx.store().cache::<Backup>().by("volume", &spec.volume);
    known.retain(|backup| backup.project() == project && !backup.metadata.is_deleting());
    if known.is_empty() {
        return Err(invalid("No backups available to do an incremental backup."));
    }
    let taken = |backup: &Resource<Backup>| backup.spec.data_timestamp.unwrap_or(backup.metadata.created);
    if let Some(at) = spec.data_timestamp {
        known.retain(|backup| taken(backup) < at);
    }
    let newest = known.into_iter().max_by_key(|backup| taken(backup));
    match newest {
        Some(newest) if newest.status.state == BackupState::Available => Ok(newest.name().to_owned()),
        _ => Err(invalid("The parent backup must be available for incremental backup.")),
    }
}

/// Ends a backup; `is_forced` whatever its state.
///
/// # Errors
/// 400 in a state in which it is needed, or with incremental ones on it.
pub async fn delete(store: &Store, caller: &Caller, backup: &Resource<Backup>, is_forced: bool) -> Result<(), Failure> {
    let key = backup.key();
    let deleted = store.transact::<(), Refusal>(caller.cause(), |tx| {
        let Some(backup) = tx.get::<Backup>(&key) else {
            return Ok(());
        };
        if !is_forced && !matches!(backup.status.state, BackupState::Available | BackupState::Error) {
            return Err(invalid("Backup status must be available or error").into());
        }
        if is_forced && backup.status.state == BackupState::Creating {
            free_source(tx, &backup)?;
        }
        Ok(tx.delete(&backup)?)
    });
    deleted.await.map_err(|Refusal(failure)| failure)
}

/// Lets what a backup was made of go on.
pub(crate) fn free_source(tx: &mut Tx<'_>, backup: &Resource<Backup>) -> Result<(), madang_store::StoreError> {
    if let Some(id) = &backup.spec.snapshot {
        let snapshot = tx.store().cache::<Snapshot>().by_name(id);
        let Some(snapshot) = snapshot.and_then(|snapshot| tx.get::<Snapshot>(&snapshot.key())) else {
            return Ok(());
        };
        if snapshot.status.state == SnapshotState::BackingUp {
            let mut free = (*snapshot).clone();
            free.status.state = SnapshotState::Available;
            tx.update(&snapshot, free)?;
        }
        return Ok(());
    }
    let volume = tx.store().cache::<Volume>().by_name(&backup.spec.volume);
    let Some(volume) = volume.and_then(|volume| tx.get::<Volume>(&volume.key())) else {
        return Ok(());
    };
    if volume.status.state == VolumeState::BackingUp {
        let mut free = (*volume).clone();
        free.status.settle();
        tx.update(&volume, free)?;
    }
    Ok(())
}

fn begin_restore(tx: &mut Tx<'_>, key: &Key) -> Result<Arc<Resource<Backup>>, Refusal> {
    let missing = || Failure::not_found(format!("Backup {} could not be found.", key.name));
    let backup = tx.get::<Backup>(key).ok_or_else(missing)?;
    if backup.metadata.is_deleting() || backup.status.state != BackupState::Available {
        return Err(invalid("Backup status must be available").into());
    }
    let mut busy = (*backup).clone();
    busy.status.state = BackupState::Restoring;
    tx.update(&backup, busy)?;
    Ok(backup)
}

/// Makes a new volume of a backup.
///
/// # Errors
/// 400 in another state than `available`; the quota's.
pub async fn restore_new(
    store: &Store,
    caller: &Caller,
    backup: &Resource<Backup>,
    spec: VolumeSpec,
) -> Result<Arc<Resource<Volume>>, Failure> {
    let key = backup.key();
    let made = store.transact::<_, Refusal>(caller.cause(), |tx| {
        let backup = begin_restore(tx, &key)?;
        let of = &backup.spec.of;
        let spec = VolumeSpec {
            name: spec.name.clone().or_else(|| of.name.clone()),
            description: spec.description.clone().or_else(|| of.description.clone()),
            size_gib: spec.size_gib.max(backup.spec.size_gib),
            source: Source::Backup(key.name.clone()),
            metadata: of.metadata.clone().into_iter().chain(spec.metadata.clone()).collect(),
            image_metadata: of.image_metadata.clone(),
            is_bootable: of.is_bootable,
            ..spec.clone()
        };
        Ok(tx.create(Resource::<Volume>::new(Metadata::with_id(caller.project()?), spec))?)
    });
    made.await.map_err(|Refusal(failure)| failure)
}

/// Writes a backup over a volume that is there.
///
/// # Errors
/// 400 when the volume is smaller or not `available`, or the backup is not.
pub async fn restore_over(
    store: &Store,
    caller: &Caller,
    backup: &Resource<Backup>,
    volume: &Resource<Volume>,
) -> Result<Arc<Resource<Volume>>, Failure> {
    let (key, onto) = (backup.key(), volume.key());
    let begun = store.transact::<_, Refusal>(caller.cause(), |tx| {
        let missing = || Failure::not_found(format!("Volume {} could not be found.", onto.name));
        let volume = tx.get::<Volume>(&onto).ok_or_else(missing)?;
        let backup = begin_restore(tx, &key)?;
        if volume.status.state != VolumeState::Available {
            let message = "Volume to be restored to must be available".to_owned();
            return Err(invalid_state(message).into());
        }
        let (wanted, size) = (backup.spec.size_gib, volume.spec.size_gib);
        if wanted > size {
            let message = format!("volume size {size} is too small to restore backup of size {wanted}.");
            return Err(invalid_state(message).into());
        }
        let mut busy = (*volume).clone();
        busy.status.state = VolumeState::Restoring;
        busy.status.task = Some(Task::Restore {
            backup: key.name.clone(),
        });
        Ok(tx.update(&volume, busy)?)
    });
    begun.await.map_err(|Refusal(failure)| failure)
}
