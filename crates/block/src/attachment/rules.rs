//! What holds for attachments, whoever writes them: the volume knows of each, and its state follows.

use madang_store::{ErrorKind, Key, Kind as _, Op, Rejection, Resource, StoreError, Tx};

use super::{AttachState, Attachment};
use crate::volume::{Volume, VolumeState};

/// The rule of attachments.
pub(crate) fn admit(tx: &mut Tx<'_>, op: Op<'_, Attachment>) -> Result<(), StoreError> {
    match op {
        Op::Create(new) => {
            let volume = volume_of(tx, new).ok_or_else(|| {
                let message = format!("Volume {} could not be found.", new.spec.volume);
                Rejection::new(ErrorKind::NotFound, "VolumeNotFound", message)
            })?;
            check_free(&volume)?;
            note(tx, &volume, new, Some(new.status.state))
        }
        Op::Update { old, new } => {
            if new.metadata.is_deleting() && new.status.state != AttachState::Detaching {
                new.status.state = AttachState::Detaching;
            }
            if old.status.state == new.status.state {
                return Ok(());
            }
            let state = new.status.state;
            match volume_of(tx, new) {
                Some(volume) => note(tx, &volume, new, Some(state)),
                None => Ok(()),
            }
        }
        Op::Remove(old) => match volume_of(tx, old) {
            Some(volume) => note(tx, &volume, old, None),
            None => Ok(()),
        },
    }
}

fn volume_of(tx: &Tx<'_>, attachment: &Resource<Attachment>) -> Option<std::sync::Arc<Resource<Volume>>> {
    tx.get::<Volume>(&Key::new(
        Volume::NAME,
        attachment.project(),
        "",
        &attachment.spec.volume,
    ))
}

/// Refuses a volume that nobody may attach now.
fn check_free(volume: &Resource<Volume>) -> Result<(), Rejection> {
    let state = volume.status.state;
    let is_free = match state {
        VolumeState::Available | VolumeState::Downloading => true,
        // Promised to a server that waits for it, or by the older way of attaching.
        VolumeState::Creating | VolumeState::Attaching if volume.status.attachments.is_empty() => true,
        VolumeState::InUse | VolumeState::Reserved | VolumeState::Attaching => volume.spec.is_multiattach,
        _ => false,
    };
    if is_free {
        return Ok(());
    }
    let wanted = if volume.spec.is_multiattach {
        "available or in-use"
    } else {
        "available"
    };
    let message = format!(
        "Invalid volume: Volume {} status must be {wanted} to reserve, but the current status is {state}.",
        volume.name()
    );
    Err(Rejection::new(ErrorKind::Invalid, "InvalidVolume", message))
}

/// Writes into the volume how far an attachment is, or that it is gone.
fn note(
    tx: &mut Tx<'_>,
    volume: &Resource<Volume>,
    attachment: &Resource<Attachment>,
    state: Option<AttachState>,
) -> Result<(), StoreError> {
    let mut noted = volume.clone();
    let id = attachment.name().to_owned();
    match state {
        Some(state) => _ = noted.status.attachments.insert(id, state),
        None => _ = noted.status.attachments.remove(&id),
    }
    if noted.status.state.follows_attachments() {
        noted.status.state = noted.status.settled();
    }
    tx.update(volume, noted).map(|_| ())
}
