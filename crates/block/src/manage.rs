//! Files of the host as volumes and snapshots, and back: what Cinder calls to manage and to unmanage.
//!
//! A back end keeps such files apart from its layers, by name. One that is taken becomes a layer, and is no file of its own
//! any more once the volume is made; a volume that is left becomes a file with all of its bytes, and then goes.

pub mod api;

use std::sync::Arc;

use madang_http::Failure;
use madang_identity::Caller;
use madang_store::{Resource, Store};

use crate::{
    snapshot::{Snapshot, SnapshotState, api::edit},
    volume::{
        Task, Volume, VolumeState,
        verbs::{self, Done, invalid_state},
    },
};

/// What a volume is called when it is left to the host. Source: Cinder's `volume_name_template`.
pub(crate) fn volume_name(id: &str) -> String {
    format!("volume-{id}")
}

/// What begins the names of snapshots that are left to the host.
const SNAPSHOT: &str = "_snapshot-";

/// What a snapshot is called when it is left to the host.
pub(crate) fn snapshot_name(id: &str) -> String {
    format!("{SNAPSHOT}{id}")
}

/// Asks to leave a volume's bytes to the host.
///
/// # Errors
/// 400 in another state than `available`, with snapshots or attachments, or in a group.
pub async fn leave_volume(store: &Store, caller: &Caller, volume: &Resource<Volume>) -> Done {
    verbs::edit(store, caller, volume, |volume| {
        let status = &volume.status;
        if volume.spec.is_encrypted {
            return Err(invalid_state(
                "Unmanaging encrypted volumes is not supported.".to_owned(),
            ));
        }
        let is_free = status.snapshots == 0 && status.clones == 0 && status.attachments.is_empty();
        if !is_free || volume.spec.group.is_some() {
            let message =
                "Volume must not be attached, have snapshots, be cloned or belong to a group to be unmanaged.";
            return Err(invalid_state(message.to_owned()));
        }
        verbs::require(volume, &[VolumeState::Available], "unmanaging")?;
        volume.status.state = VolumeState::Unmanaging;
        volume.status.task = Some(Task::Unmanage);
        Ok(())
    })
    .await
}

/// Asks to leave a snapshot's bytes to the host.
///
/// # Errors
/// 400 in another state than `available`, or as part of a group snapshot.
pub async fn leave_snapshot(
    store: &Store,
    caller: &Caller,
    snapshot: &Resource<Snapshot>,
) -> Result<Arc<Resource<Snapshot>>, Failure> {
    edit(store, caller, snapshot, |snapshot| {
        let is_whole = snapshot.status.state == SnapshotState::Available && snapshot.status.layer.is_some();
        if !is_whole || snapshot.spec.group_snapshot.is_some() {
            let message = format!(
                "Invalid snapshot: Snapshot status must be available, and the snapshot must not be part of a group \
                 snapshot. It is {}.",
                snapshot.status.state
            );
            return Err(Failure::invalid(message));
        }
        snapshot.status.state = SnapshotState::Unmanaging;
        Ok(())
    })
    .await
}
