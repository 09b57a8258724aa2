//! What can be asked of a volume that is there. Each verb is one transaction that looks at the volume's state itself.

use std::sync::Arc;

use madang_http::Failure;
use madang_identity::Caller;
use madang_store::{Metadata, Resource, Store, StoreError, Tx};

use super::{Task, Volume, VolumeSpec, VolumeState, rules};
use crate::{
    api::failure,
    attachment::{AGENT_FINALIZER, AttachState, Attachment, AttachmentSpec},
    quota,
    snapshot::{Snapshot, SnapshotState},
};

/// A volume as its verb left it.
pub type Done = Result<Arc<Resource<Volume>>, Failure>;

/// A failure inside a transaction, so that the store's own errors come out in Cinder's words.
pub struct Refusal(pub Failure);

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self(failure(quota::over_quota(error)))
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self(failure)
    }
}

/// Asks for a new volume.
///
/// # Errors
/// What the rule of volumes says: quota, a source that is not there or does not fit.
pub async fn create(store: &Store, caller: &Caller, project: &str, spec: &VolumeSpec) -> Done {
    let made = store.transact::<_, Refusal>(caller.cause(), |tx| {
        Ok(tx.create(Resource::<Volume>::new(Metadata::with_id(project), spec.clone()))?)
    });
    made.await.map_err(|Refusal(failure)| failure)
}

/// Changes anything of a volume; for verbs of few words.
///
/// # Errors
/// What `change` says; `NotFound` when it is gone.
pub async fn edit(
    store: &Store,
    caller: &Caller,
    volume: &Resource<Volume>,
    change: impl Fn(&mut Resource<Volume>) -> Result<(), Failure>,
) -> Done {
    store
        .modify::<Volume, Refusal>(&volume.key(), caller.cause(), |volume| Ok(change(volume)?))
        .await
        .map_err(|Refusal(failure)| failure)
}

/// How a volume is to go.
#[derive(Clone, Copy, Debug, Default)]
pub struct Deletion {
    /// With its snapshots.
    pub cascade: bool,
    /// Whatever its state.
    pub force: bool,
}

/// Ends a volume. Its bytes go once nothing stands on them.
///
/// # Errors
/// 400 in a state in which it is needed, attached, or with snapshots.
pub async fn delete(store: &Store, caller: &Caller, volume: &Resource<Volume>, how: Deletion) -> Result<(), Failure> {
    let key = volume.key();
    let deleted = store.transact::<(), Refusal>(caller.cause(), |tx| {
        let Some(volume) = tx.get::<Volume>(&key) else {
            return Ok(());
        };
        delete_in(tx, &volume, how)
    });
    deleted.await.map_err(|Refusal(failure)| failure)
}

pub(crate) fn delete_in(tx: &mut Tx<'_>, volume: &Resource<Volume>, how: Deletion) -> Result<(), Refusal> {
    let may_go = matches!(
        volume.status.state,
        VolumeState::Available
            | VolumeState::Error
            | VolumeState::ErrorRestoring
            | VolumeState::ErrorExtending
            | VolumeState::ErrorManaging
            | VolumeState::ErrorDeleting
    );
    if !may_go && !how.force {
        let message = format!(
            "Invalid volume: Volume status must be available or error or error_restoring or error_extending or \
             error_managing and must not be migrating, attached, belong to a group, have snapshots, awaiting a transfer, \
             or be disassociated from snapshots after volume transfer. It is {}.",
            volume.status.state
        );
        return Err(Failure::invalid(message).into());
    }
    if volume.spec.group.is_some() && !how.force {
        return Err(Failure::invalid("Invalid volume: Volume must not belong to a group.").into());
    }
    if how.force {
        end_attachments(tx, volume)?;
    }
    if how.cascade || how.force {
        for snapshot in tx.store().cache::<Snapshot>().by("volume", volume.name()) {
            let deletable = matches!(snapshot.status.state, SnapshotState::Available | SnapshotState::Error);
            if !deletable && !how.force {
                return Err(Failure::invalid("Invalid volume: Failed to update snapshot.").into());
            }
            if snapshot.project() == volume.project() {
                tx.delete(&snapshot)?;
            }
        }
    }
    if let Some(volume) = tx.get::<Volume>(&volume.key()) {
        tx.delete(&volume)?;
    }
    Ok(())
}

/// Ends every attachment of a volume that no host holds.
fn end_attachments(tx: &mut Tx<'_>, volume: &Resource<Volume>) -> Result<(), Refusal> {
    for attachment in tx.store().cache::<Attachment>().by("volume", volume.name()) {
        if attachment.metadata.finalizers.is_empty() {
            tx.delete(&attachment)?;
        }
    }
    Ok(())
}

pub(crate) fn invalid_state(message: String) -> Failure {
    Failure::invalid(format!("Invalid volume: {message}"))
}

/// Asks for more room.
///
/// # Errors
/// 400 when it is not larger, or in another state; the quota's.
pub async fn extend(
    store: &Store,
    caller: &Caller,
    volume: &Resource<Volume>,
    size_gib: u32,
    may_be_attached: bool,
) -> Done {
    let key = volume.key();
    let extended = store.transact::<_, Refusal>(caller.cause(), |tx| {
        let volume = tx.get::<Volume>(&key).ok_or_else(|| gone(volume))?;
        let state = volume.status.state;
        let fits = state == VolumeState::Available || (may_be_attached && state == VolumeState::InUse);
        if !fits {
            let wanted = if may_be_attached { "'available' or 'in-use'" } else { "'available'" };
            let message = format!(
                "Volume {} status must be {wanted} to extend, but the current status is {state}.",
                volume.name()
            );
            return Err(invalid_state(message).into());
        }
        if size_gib <= volume.spec.size_gib {
            let message = format!(
                "Invalid input received: New size for extend must be greater than current size. (current: {}, extended: \
                 {size_gib}).",
                volume.spec.size_gib
            );
            return Err(Failure::invalid(message).into());
        }
        rules::check_size(tx, volume.project(), size_gib)?;
        let mut new = (*volume).clone();
        new.status.state = VolumeState::Extending;
        new.status.task = Some(Task::Extend { size_gib });
        Ok(tx.update(&volume, new)?)
    });
    extended.await.map_err(|Refusal(failure)| failure)
}

fn gone(volume: &Resource<Volume>) -> Failure {
    Failure::not_found(format!("Volume {} could not be found.", volume.name()))
}

/// Asks for a task in a state that allows it.
///
/// # Errors
/// 400 in another state.
pub async fn begin(
    store: &Store,
    caller: &Caller,
    volume: &Resource<Volume>,
    allowed: &[VolumeState],
    state: VolumeState,
    task: Option<Task>,
) -> Done {
    edit(store, caller, volume, |volume| {
        require(volume, allowed, state.as_str())?;
        volume.status.state = state;
        volume.status.task.clone_from(&task);
        Ok(())
    })
    .await
}

/// Requires one of several states.
///
/// # Errors
/// 400 in another one.
pub fn require(volume: &Resource<Volume>, allowed: &[VolumeState], doing: &str) -> Result<(), Failure> {
    if allowed.contains(&volume.status.state) {
        return Ok(());
    }
    let words: Vec<&str> = allowed.iter().map(|state| state.as_str()).collect();
    let message = format!(
        "Volume {} status must be {} for {doing}, but the current status is {}.",
        volume.name(),
        words.join(" or "),
        volume.status.state
    );
    Err(invalid_state(message))
}

/// What somebody who is not compute says of its attachment.
#[derive(Clone, Debug, Default)]
pub struct Attach {
    /// The server.
    pub server: Option<String>,
    /// The host.
    pub host: Option<String>,
    /// Where it is seen.
    pub mountpoint: Option<String>,
    /// Read only.
    pub is_read_only: bool,
}

/// Writes down that somebody has it attached.
///
/// # Errors
/// 400 in a state in which it cannot be attached.
pub async fn attach(store: &Store, caller: &Caller, volume: &Resource<Volume>, how: &Attach) -> Result<(), Failure> {
    let key = volume.key();
    let attached = store.transact::<(), Refusal>(caller.cause(), |tx| {
        let volume = tx.get::<Volume>(&key).ok_or_else(|| gone(volume))?;
        if volume.spec.is_read_only == Some(true) && !how.is_read_only {
            let message = "Invalid volume: Invalid attaching mode 'rw' for a readonly volume.";
            return Err(Failure::invalid(message).into());
        }
        let spec = AttachmentSpec {
            volume: volume.name().to_owned(),
            server: how.server.clone(),
            is_read_only: how.is_read_only,
            mountpoint: how.mountpoint.clone(),
            ..AttachmentSpec::default()
        };
        let mut attachment = Resource::<Attachment>::new(Metadata::with_id(volume.project()), spec);
        attachment.status.state = AttachState::Attached;
        attachment.status.attached = Some(tx.at());
        attachment.status.host.clone_from(&how.host);
        tx.create(attachment)?;
        Ok(())
    });
    attached.await.map_err(|Refusal(failure)| failure)
}

/// Ends one attachment, or the only one. `is_forced` ends it although a host may still have it open.
///
/// # Errors
/// 404 for one there is not; 400 when it is not said which.
pub async fn detach(
    store: &Store,
    caller: &Caller,
    volume: &Resource<Volume>,
    which: Option<&str>,
    is_forced: bool,
) -> Result<(), Failure> {
    let key = volume.key();
    let detached = store.transact::<(), Refusal>(caller.cause(), |tx| {
        let volume = tx.get::<Volume>(&key).ok_or_else(|| gone(volume))?;
        let mut attachments = tx.store().cache::<Attachment>().by("volume", volume.name());
        if let Some(id) = which {
            attachments.retain(|attachment| attachment.name() == id);
            if attachments.is_empty() {
                let message = format!("Volume attachment could not be found with filter: attachment_id = {id}.");
                return Err(Failure::not_found(message).into());
            }
        }
        if attachments.len() > 1 {
            let message = "Detach volume failed: More than one attachment, but no attachment_id provided.";
            return Err(invalid_state(message.to_owned()).into());
        }
        let Some(attachment) = attachments.pop() else {
            if volume.status.state.follows_attachments() {
                let mut free = (*volume).clone();
                free.status.settle();
                tx.update(&volume, free)?;
            }
            return Ok(());
        };
        end(tx, &attachment, is_forced)?;
        // An admin may have said another state meanwhile.
        if is_forced && let Some(volume) = tx.get::<Volume>(&key) {
            let mut free = (*volume).clone();
            free.status.settle();
            tx.update(&volume, free)?;
        }
        Ok(())
    });
    detached.await.map_err(|Refusal(failure)| failure)
}

/// Ends an attachment; at once where no host holds it, or `is_forced`.
///
/// # Errors
/// What the store says.
pub fn end(tx: &mut Tx<'_>, attachment: &Resource<Attachment>, is_forced: bool) -> Result<(), Refusal> {
    if is_forced && !attachment.metadata.finalizers.is_empty() {
        let mut bare = attachment.clone();
        bare.metadata
            .finalizers
            .retain(|finalizer| finalizer != AGENT_FINALIZER);
        let bare = tx.update(attachment, bare)?;
        return Ok(tx.delete(&bare)?);
    }
    Ok(tx.delete(attachment)?)
}

/// Goes back to the newest snapshot.
///
/// # Errors
/// 400 when that is another one or of another size; 409 in a state that does not allow it.
pub async fn revert(store: &Store, caller: &Caller, volume: &Resource<Volume>, snapshot: Option<&str>) -> Done {
    let id = volume.name();
    let mut snapshots = store.cache::<Snapshot>().by("volume", id);
    // A transfer may have left some with the donor.
    snapshots.retain(|snapshot| snapshot.project() == volume.project());
    snapshots.sort_by_key(|snapshot| snapshot.metadata.created);
    let Some(newest) = snapshots.pop() else {
        return Err(Failure::invalid(format!("Volume {id} doesn't have any snapshots.")));
    };
    if snapshot != Some(newest.name()) {
        let said = snapshot.unwrap_or("None");
        let message = format!("Specified snapshot {said} is None or not the latest one of volume {id}.");
        return Err(Failure::invalid(message));
    }
    if newest.spec.size_gib != volume.spec.size_gib {
        let message = format!(
            "Can't revert volume {id} to its latest snapshot {said}. The volume size must be equal to the snapshot size.",
            said = newest.name()
        );
        return Err(Failure::invalid(message));
    }
    let task = Task::Revert {
        snapshot: newest.name().to_owned(),
    };
    let begun = begin(
        store,
        caller,
        volume,
        &[VolumeState::Available],
        VolumeState::Reverting,
        Some(task),
    )
    .await;
    begun.map_err(|failure| Failure::conflict(failure.message))
}
