//! Taking files of the host, and leaving bytes to it.

use tracing::info;
use uuid::Uuid;

use super::{BackEndError, Control, ControlError, Progress, make::Base, stale};
use crate::{
    layer, manage,
    snapshot::{Snapshot, SnapshotState},
    volume::{Source, Volume, VolumeState},
};
use madang_store::{Resource, StoreError};

impl Control {
    /// A file of the host as a layer.
    pub(super) async fn file_base(&self, name: &str) -> Result<Base, BackEndError> {
        let uid = Uuid::new_v4();
        let taken = self.options.back_end.adopt(uid, name).await?;
        Ok(Base::new(uid, taken, self.spec_over(None, taken)))
    }

    /// Files that are layers now are no files of their own; also those that a crash left.
    pub(super) async fn forget_taken(&self) -> Result<(), BackEndError> {
        for volume in self.store.cache::<Volume>().all() {
            if let (Source::File(name), Some(_)) = (&volume.spec.source, volume.status.layer) {
                self.options.back_end.forget(name).await?;
            }
        }
        for snapshot in self.store.cache::<Snapshot>().all() {
            if let (Some(name), Some(_)) = (&snapshot.spec.file, snapshot.status.layer) {
                self.options.back_end.forget(name).await?;
            }
        }
        Ok(())
    }

    /// Leaves a volume's bytes to the host; then it is gone.
    pub(super) async fn leave(&self, volume: &Resource<Volume>) -> Result<Progress, ControlError> {
        let no_bytes = || BackEndError::Broken(format!("volume {} has no bytes", volume.name()));
        let file = self.layer_file(volume.status.layer.ok_or_else(no_bytes)?)?;
        let name = manage::volume_name(volume.name());
        self.options.back_end.leave(file, &name).await?;
        let key = volume.key();
        self.store
            .transact::<(), StoreError>(Self::cause(), |tx| match tx.get::<Volume>(&key) {
                Some(volume) if volume.status.state == VolumeState::Unmanaging => tx.delete(&volume),
                _ => Ok(()),
            })
            .await?;
        info!(volume = volume.name(), "left to the host");
        Ok(Progress::Done)
    }

    /// Leaves a snapshot's bytes to the host; then it is gone.
    pub(super) async fn leave_snapshot(&self, snapshot: &Resource<Snapshot>) -> Result<(), ControlError> {
        let no_bytes = || BackEndError::Broken(format!("snapshot {} has no bytes", snapshot.name()));
        let file = self.layer_file(snapshot.status.layer.ok_or_else(no_bytes)?)?;
        let name = manage::snapshot_name(snapshot.name());
        self.options.back_end.leave(file, &name).await?;
        let key = snapshot.key();
        self.store
            .transact::<(), StoreError>(Self::cause(), |tx| match tx.get::<Snapshot>(&key) {
                Some(snapshot) if snapshot.status.state == SnapshotState::Unmanaging => tx.delete(&snapshot),
                _ => Ok(()),
            })
            .await?;
        info!(snapshot = snapshot.name(), "left to the host");
        Ok(())
    }

    /// Makes a snapshot of a file of the host.
    pub(super) async fn take_snapshot(&self, snapshot: &Resource<Snapshot>, name: &str) -> Result<(), ControlError> {
        let uid = Uuid::new_v4();
        let taken = self.options.back_end.adopt(uid, name).await?;
        let (key, spec) = (snapshot.key(), self.spec_over(None, taken));
        self.commit(&[taken], |tx| {
            let now = tx.get::<Snapshot>(&key).ok_or_else(|| stale(&key))?;
            if now.status.state != SnapshotState::Creating {
                return Err(stale(&key));
            }
            tx.create(layer::new(uid, spec.clone()))?;
            let mut new = (*now).clone();
            new.status.layer = Some(uid);
            new.status.state = SnapshotState::Available;
            new.status.progress = Some(100);
            tx.update(&now, new).map(|_| ())
        })
        .await?;
        self.options.back_end.forget(name).await?;
        info!(snapshot = snapshot.name(), name, "taken from the host");
        Ok(())
    }
}
