//! The reconcilers of a host's back end: they make what volumes and snapshots need and remove what nobody holds.
//!
//! Every step makes a file under a new name first, then writes one transaction that names it. A crash between the two
//! leaves a file that nobody names, which [`run`] sweeps away, and a volume that is still on its way, which is taken up
//! again. Nothing is remembered here.

mod backup;
mod freeze;
mod make;
mod manage;
mod merge;
mod work;

use std::{sync::Arc, time::Duration};

use madang_control::{Controller, Next, TaskGroup};
use madang_image::{Cache, Intake};
use madang_store::{Cause, Key, Kind as _, Resource, Store, StoreError};
use tracing::{info, warn};
use uuid::Uuid;

use crate::{
    driver::{BackEnd, BackEndError, LayerFile},
    layer::{self, Layer, LayerSpec},
    message::{self, Action, MessageSpec},
    snapshot::{Snapshot, SnapshotState},
    vault::Vault,
    volume::{Source, Task, Volume, VolumeState},
};

/// A volume that waits for somebody else is looked at again after this, changed or not.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the reconcilers work with.
pub struct Options {
    /// The host's name, as its provider's.
    pub host: String,
    /// What keeps the bytes.
    pub back_end: Arc<dyn BackEnd>,
    /// What keeps the bytes of backups.
    pub vault: Arc<dyn Vault>,
    /// Image bytes as local files.
    pub images: Arc<dyn Cache>,
    /// Takes files as the bytes of images; none where volumes cannot become images.
    pub intake: Option<Arc<dyn Intake>>,
}

/// Removes what a crash left, then starts the reconcilers in `group`.
///
/// # Errors
/// When the back end cannot be looked through.
pub async fn run(store: &Store, options: Options, group: &TaskGroup) -> Result<(), BackEndError> {
    let keep = store.cache::<Layer>().all();
    let keep = keep.iter().map(|layer| layer.metadata.uid).collect();
    options.back_end.sweep(&keep).await?;
    let control = Arc::new(Control {
        store: store.clone(),
        options,
    });
    control.forget_taken().await?;
    follow_volumes(&control, group);
    follow_snapshots(&control, group);
    remove_layers(&control, group);
    backup::follow(&control, group);
    Ok(())
}

fn follow_volumes(control: &Arc<Control>, group: &TaskGroup) {
    let store = control.store.clone();
    let controller = Controller::<Key>::new("volumes")
        .workers(8)
        .resync(Duration::from_secs(60));
    let controller = controller.watch::<Volume>(&control.store, {
        let store = store.clone();
        move |change| {
            let Some(volume) = &change.new else { return Vec::new() };
            let mut keys = vec![volume.key()];
            // Clones wait for what they are made of.
            if volume.status.clones > 0 {
                keys.extend(
                    store
                        .cache::<Volume>()
                        .by("source", volume.name())
                        .iter()
                        .map(|clone| clone.key()),
                );
            }
            keys
        }
    });
    let all = move || {
        store
            .cache::<Volume>()
            .all()
            .iter()
            .map(|volume| volume.key())
            .collect()
    };
    let control = Arc::clone(control);
    controller.run(group, all, move |key| {
        let control = Arc::clone(&control);
        async move { control.volume(&key).await }
    });
}

fn follow_snapshots(control: &Arc<Control>, group: &TaskGroup) {
    let store = control.store.clone();
    let waiting = [SnapshotState::Creating.as_str(), SnapshotState::Unmanaging.as_str()];
    let controller = Controller::<Key>::new("snapshots")
        .workers(4)
        .resync(Duration::from_secs(60));
    let controller = controller.watch::<Snapshot>(&control.store, |change| {
        change.new.iter().map(|snapshot| snapshot.key()).collect()
    });
    let controller = controller.watch::<Volume>(&control.store, {
        let store = store.clone();
        move |change| {
            let Some(volume) = change.new.as_ref().filter(|volume| volume.status.snapshots > 0) else {
                return Vec::new();
            };
            let snapshots = store.cache::<Snapshot>().by("volume", volume.name());
            snapshots
                .iter()
                .filter(|snapshot| snapshot.status.state == SnapshotState::Creating)
                .map(|snapshot| snapshot.key())
                .collect()
        }
    });
    let all = move || {
        let snapshots = store.cache::<Snapshot>();
        let waiting = waiting.iter().flat_map(|state| snapshots.by("state", state));
        waiting.map(|snapshot| snapshot.key()).collect()
    };
    let control = Arc::clone(control);
    controller.run(group, all, move |key| {
        let control = Arc::clone(&control);
        async move { control.snapshot(&key).await }
    });
}

/// Files follow their layers out.
fn remove_layers(control: &Arc<Control>, group: &TaskGroup) {
    let controller = Controller::<(Uuid, bool)>::new("layers").workers(4);
    let controller = controller.watch::<Layer>(&control.store, |change| match (&change.old, &change.new) {
        (Some(old), None) => vec![(old.metadata.uid, old.spec.format == layer::LayerFormat::Raw)],
        _ => Vec::new(),
    });
    let control = Arc::clone(control);
    controller.run(group, Vec::new, move |(uid, is_raw)| {
        let control = Arc::clone(&control);
        async move {
            if control.store.get::<Layer>(&layer::key(uid)).is_some() {
                return Ok(Next::Done);
            }
            let format = if is_raw {
                layer::LayerFormat::Raw
            } else {
                layer::LayerFormat::Qcow2
            };
            control.options.back_end.remove(LayerFile { uid, format }).await?;
            Ok::<_, ControlError>(Next::Done)
        }
    });
}

/// Why a round did not end well; it is tried again.
#[derive(Debug, thiserror::Error)]
enum ControlError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    BackEnd(#[from] BackEndError),
}

/// How far a step that may have to wait for others is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// It is done.
    Done,
    /// Somebody else has to do something first.
    Waiting,
}

struct Control {
    store: Store,
    options: Options,
}

impl Control {
    fn cause() -> Cause {
        Cause::system("block")
    }

    /// One round for one volume.
    async fn volume(&self, key: &Key) -> Result<Next, ControlError> {
        let Some(volume) = self.store.get::<Volume>(key) else {
            return Ok(Next::Done);
        };
        let is_creating = volume.status.state == VolumeState::Creating;
        if volume.status.next_layer.is_some() && !is_creating && !volume.status.is_connected() {
            // Who was to switch over has let go meanwhile.
            self.switch(&volume).await?;
            return Ok(Next::Done);
        }
        let worked = match (volume.status.state, &volume.status.task) {
            (VolumeState::Creating, _) if volume.status.layer.is_none() => self.make(&volume).await,
            (VolumeState::Extending, Some(Task::Extend { size_gib })) => self.extend(&volume, *size_gib).await,
            (VolumeState::Reverting, Some(Task::Revert { snapshot })) => self.revert(&volume, snapshot).await,
            (VolumeState::Uploading, Some(Task::Upload { image, format })) => self.upload(&volume, image, format).await,
            (VolumeState::Downloading, Some(Task::Reimage { image })) => self.reimage(&volume, image).await,
            (VolumeState::Unmanaging, Some(Task::Unmanage)) => self.leave(&volume).await,
            (VolumeState::Restoring, Some(Task::Restore { backup })) => self.restore(&volume, backup).await,
            _ => {
                self.merge(&volume).await?;
                return Ok(Next::Done);
            }
        };
        match worked {
            Ok(Progress::Done) => Ok(Next::Done),
            Ok(Progress::Waiting) => Ok(Next::After(PATIENCE)),
            Err(ControlError::BackEnd(error)) => {
                self.fail(&volume, &error.to_string()).await?;
                Ok(Next::Done)
            }
            Err(other) => Err(other),
        }
    }

    /// One round for one snapshot.
    async fn snapshot(&self, key: &Key) -> Result<Next, ControlError> {
        let Some(snapshot) = self.store.get::<Snapshot>(key) else {
            return Ok(Next::Done);
        };
        let alone = match (snapshot.status.state, &snapshot.spec.file) {
            (SnapshotState::Unmanaging, _) => Some(self.leave_snapshot(&snapshot).await),
            (SnapshotState::Creating, Some(name)) => Some(self.take_snapshot(&snapshot, name).await),
            _ => None,
        };
        match alone {
            Some(Err(ControlError::BackEnd(error))) => {
                self.fail_snapshot(key, &error.to_string()).await?;
                return Ok(Next::Done);
            }
            Some(done) => return done.map(|()| Next::Done),
            None => {}
        }
        if snapshot.status.state != SnapshotState::Creating || snapshot.status.layer.is_some() {
            return Ok(Next::Done);
        }
        let volume = Key::new(Volume::NAME, snapshot.project(), "", &snapshot.spec.volume);
        let Some(volume) = self
            .store
            .get::<Volume>(&volume)
            .filter(|volume| volume.status.layer.is_some())
        else {
            self.fail_snapshot(key, "its volume has no bytes").await?;
            return Ok(Next::Done);
        };
        match self.freeze(&volume).await {
            Ok(Progress::Done) => Ok(Next::Done),
            Ok(Progress::Waiting) => Ok(Next::After(PATIENCE)),
            Err(ControlError::BackEnd(error)) => {
                self.fail_snapshot(key, &error.to_string()).await?;
                Ok(Next::Done)
            }
            Err(other) => Err(other),
        }
    }

    /// Where volumes are, in Cinder's words.
    fn place(&self) -> String {
        let name = self.options.back_end.name();
        format!("{}@{name}#{name}", self.options.host)
    }

    fn layer_file(&self, uid: Uuid) -> Result<LayerFile, BackEndError> {
        let layer = self.store.get::<Layer>(&layer::key(uid));
        let layer = layer.ok_or_else(|| BackEndError::Broken(format!("layer {uid} is gone")))?;
        Ok(LayerFile {
            uid,
            format: layer.spec.format,
        })
    }

    /// What a new layer over `parent` is to the store.
    fn spec_over(&self, parent: Option<Uuid>, file: LayerFile) -> LayerSpec {
        let below = parent.and_then(|uid| self.store.get::<Layer>(&layer::key(uid)));
        LayerSpec {
            parent,
            format: file.format,
            back_end: self.options.back_end.name().to_owned(),
            host: self.options.host.clone(),
            image: None,
            depth: below.map_or(0, |below| below.spec.depth + 1),
        }
    }

    /// Writes what follows from new files; when the store refuses, the files go again.
    async fn commit(
        &self,
        files: &[LayerFile],
        decide: impl FnMut(&mut madang_store::Tx<'_>) -> Result<(), StoreError>,
    ) -> Result<(), ControlError> {
        let Err(error) = self.store.transact(Self::cause(), decide).await else {
            return Ok(());
        };
        for file in files {
            if self.store.get::<Layer>(&layer::key(file.uid)).is_none() {
                self.options.back_end.remove(*file).await?;
            }
        }
        Err(error.into())
    }

    async fn change(&self, key: &Key, change: impl Fn(&mut Resource<Volume>)) -> Result<(), ControlError> {
        let changed = self.store.modify::<Volume, StoreError>(key, Self::cause(), |volume| {
            change(volume);
            Ok(())
        });
        match changed.await {
            Ok(_) | Err(StoreError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The end of what could not be done: the volume says so, and its user finds out why.
    async fn fail(&self, volume: &Resource<Volume>, reason: &str) -> Result<(), ControlError> {
        warn!(
            volume = volume.name(),
            reason, "could not bring a volume to what was asked"
        );
        let failed = match volume.status.state {
            VolumeState::Extending => VolumeState::ErrorExtending,
            VolumeState::Uploading | VolumeState::Unmanaging => volume.status.settled(),
            VolumeState::Restoring => VolumeState::ErrorRestoring,
            _ => VolumeState::Error,
        };
        let (action, detail) = what_failed(volume, reason);
        let key = volume.key();
        self.store
            .transact::<(), StoreError>(Self::cause(), |tx| {
                let Some(now) = tx.get::<Volume>(&key) else {
                    return Ok(());
                };
                let mut new = (*now).clone();
                new.status.state = failed;
                new.status.task = None;
                new.status.fault = Some(reason.to_owned());
                tx.update(&now, new)?;
                let spec = MessageSpec {
                    resource: "VOLUME".to_owned(),
                    about: key.name.clone(),
                    action,
                    detail: detail.to_owned(),
                    text: reason.to_owned(),
                    request: now.status.request.clone(),
                };
                message::tell(tx, &key.project, spec)
            })
            .await?;
        Ok(())
    }

    async fn fail_snapshot(&self, key: &Key, reason: &str) -> Result<(), ControlError> {
        warn!(snapshot = key.name, reason, "could not make a snapshot");
        self.store
            .transact::<(), StoreError>(Self::cause(), |tx| {
                let Some(now) = tx.get::<Snapshot>(key) else {
                    return Ok(());
                };
                let mut new = (*now).clone();
                new.status.state = SnapshotState::Error;
                new.status.fault = Some(reason.to_owned());
                tx.update(&now, new)?;
                let spec = MessageSpec {
                    resource: "VOLUME_SNAPSHOT".to_owned(),
                    about: key.name.clone(),
                    action: Action::Snapshot,
                    detail: message::UNKNOWN.to_owned(),
                    text: reason.to_owned(),
                    request: String::new(),
                };
                message::tell(tx, &key.project, spec)
            })
            .await?;
        Ok(())
    }
}

/// What was being done to a volume when it failed, and Cinder's number of why.
fn what_failed(volume: &Resource<Volume>, reason: &str) -> (Action, &'static str) {
    let detail = if reason == make::NO_BACK_END {
        message::NO_BACK_END
    } else {
        message::UNKNOWN
    };
    let action = match (volume.status.state, &volume.spec.source) {
        (VolumeState::Extending, _) => Action::Extend,
        (VolumeState::Uploading, _) => Action::Upload,
        (VolumeState::Reverting, _) => Action::Revert,
        (VolumeState::Downloading, _) => Action::Reimage,
        (VolumeState::Unmanaging, _) => Action::Unmanage,
        (VolumeState::Creating, Source::File(_)) => Action::Manage,
        (VolumeState::Restoring, _) | (VolumeState::Creating, Source::Backup(_)) => Action::Restore,
        (VolumeState::Creating, Source::Image(_)) if detail == message::UNKNOWN => Action::Download,
        _ => Action::Allocate,
    };
    (action, detail)
}

/// A transaction's answer to a world that is not what it was decided on: look again.
fn stale(key: &Key) -> StoreError {
    StoreError::Conflict { key: key.clone() }
}
