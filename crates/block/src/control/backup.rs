//! Making and removing backups, and volumes of them.

use std::{sync::Arc, time::Duration};

use madang_control::{Controller, Next, TaskGroup};
use madang_store::{Key, Resource, StoreError};
use tokio::sync::watch;
use tracing::{info, warn};
use uuid::Uuid;

use super::{BackEndError, Control, ControlError, PATIENCE, Progress, make::Base, stale};
use crate::{
    backup::{Backup, BackupState, FINALIZER, verbs},
    message::{self, Action, MessageSpec},
    vault::{self, Manifest},
    volume::{Source, Task, Volume, VolumeState},
};

/// How many backups are made at a time.
const AT_A_TIME: usize = 2;
/// The store hears so often how far one is.
const TOLD: Duration = Duration::from_secs(5);

/// Starts the reconciler of backups.
pub(super) fn follow(control: &Arc<Control>, group: &TaskGroup) {
    let store = control.store.clone();
    let controller = Controller::<Key>::new("backups")
        .workers(AT_A_TIME)
        .resync(Duration::from_secs(60));
    let controller = controller.watch::<Backup>(&control.store, |change| {
        change.new.iter().map(|backup| backup.key()).collect()
    });
    let all = move || {
        store
            .cache::<Backup>()
            .all()
            .iter()
            .map(|backup| backup.key())
            .collect()
    };
    let control = Arc::clone(control);
    controller.run(group, all, move |key| {
        let control = Arc::clone(&control);
        async move { control.backup(&key).await }
    });
}

impl Control {
    /// One round for one backup.
    async fn backup(&self, key: &Key) -> Result<Next, ControlError> {
        let Some(backup) = self.store.get::<Backup>(key) else {
            return Ok(Next::Done);
        };
        if backup.metadata.is_deleting() {
            self.remove_backup(&backup).await?;
            return Ok(Next::Done);
        }
        match backup.status.state {
            BackupState::Creating => match self.make_backup(&backup).await {
                Ok(Progress::Done) => Ok(Next::Done),
                Ok(Progress::Waiting) => Ok(Next::After(PATIENCE)),
                Err(ControlError::BackEnd(error)) => {
                    self.fail_backup(&backup, &error.to_string()).await?;
                    Ok(Next::Done)
                }
                Err(other) => Err(other),
            },
            // Who was made of it may be gone, or be brought to another state by an admin.
            BackupState::Restoring if !self.is_restoring(backup.name()) => {
                self.change_backup(key, |backup| {
                    if backup.status.state == BackupState::Restoring {
                        backup.status.state = BackupState::Available;
                    }
                })
                .await?;
                Ok(Next::Done)
            }
            BackupState::Restoring => Ok(Next::After(PATIENCE)),
            _ => Ok(Next::Done),
        }
    }

    /// Whether a volume still waits for the bytes of a backup.
    fn is_restoring(&self, id: &str) -> bool {
        let volumes = self.store.cache::<Volume>();
        let is_new = |volume: &Arc<Resource<Volume>>| {
            volume.status.state == VolumeState::Creating && matches!(&volume.spec.source, Source::Backup(_))
        };
        let is_over = |volume: &Arc<Resource<Volume>>| matches!(&volume.status.task, Some(Task::Restore { backup }) if backup == id);
        volumes.by("source", id).iter().any(is_new)
            || volumes.by("state", VolumeState::Restoring.as_str()).iter().any(is_over)
    }

    async fn make_backup(&self, backup: &Resource<Backup>) -> Result<Progress, ControlError> {
        let Some(layer) = backup.status.layer else {
            return self.take_layer(backup).await;
        };
        let parent = match &backup.spec.parent {
            None => None,
            Some(id) => {
                let parent = self.store.cache::<Backup>().by_name(id);
                let parent = parent.ok_or_else(|| BackEndError::Broken(format!("its parent {id} is gone")))?;
                Some(Manifest::load(&*self.options.vault, &parent.spec.data).await?)
            }
        };
        let file = self
            .options
            .back_end
            .scratch()
            .join(format!("{}.backup", backup.name()));
        let exported = self.options.back_end.export(self.layer_file(layer)?, &file, "raw");
        exported.await?;
        // What a crash left of an earlier try.
        self.options.vault.remove(&backup.spec.data).await?;
        let key = backup.key();
        let so_far = watch::Sender::default();
        let writing = vault::write::write(&self.options.vault, &backup.spec.data, &file, parent, &so_far);
        tokio::pin!(writing);
        let written = loop {
            tokio::select! {
                written = &mut writing => break written,
                () = tokio::time::sleep(TOLD) => {
                    let objects = so_far.borrow().objects;
                    self.change_backup(&key, |backup| backup.status.objects = objects).await?;
                }
            }
        };
        remove_scratch(&file).await;
        let written = written?;
        self.store
            .transact::<(), StoreError>(Self::cause(), |tx| {
                let Some(now) = tx.get::<Backup>(&key) else {
                    return Ok(());
                };
                if now.status.state != BackupState::Creating {
                    return Ok(());
                }
                let mut new = (*now).clone();
                new.status.state = BackupState::Available;
                new.status.layer = None;
                new.status.objects = written.objects;
                new.status.stored = written.stored;
                tx.update(&now, new)?;
                verbs::free_source(tx, &now)
            })
            .await?;
        info!(backup = backup.name(), written.objects, written.stored, "backed up");
        Ok(Progress::Done)
    }

    /// Takes the layer of a volume that nobody writes to now; from others it comes when they go on in a new one.
    async fn take_layer(&self, backup: &Resource<Backup>) -> Result<Progress, ControlError> {
        let gone = || BackEndError::Broken(format!("its volume {} is gone", backup.spec.volume));
        let volume = self
            .store
            .cache::<Volume>()
            .by_name(&backup.spec.volume)
            .ok_or_else(gone)?;
        let no_bytes = || BackEndError::Broken(format!("its volume {} has no bytes", backup.spec.volume));
        let layer = volume.status.layer.ok_or_else(no_bytes)?;
        if volume.status.is_connected() {
            self.freeze(&volume).await?;
            return Ok(Progress::Waiting);
        }
        let (key, of) = (backup.key(), volume.key());
        self.store
            .transact::<(), StoreError>(Self::cause(), |tx| {
                let (Some(now), Some(volume)) = (tx.get::<Backup>(&key), tx.get::<Volume>(&of)) else {
                    return Ok(());
                };
                if volume.status.is_connected() || volume.status.layer != Some(layer) || now.status.layer.is_some() {
                    return Err(stale(&of));
                }
                tx.expect(&*volume)?;
                let mut new = (*now).clone();
                new.status.layer = Some(layer);
                tx.update(&now, new).map(|_| ())
            })
            .await?;
        Ok(Progress::Done)
    }

    async fn fail_backup(&self, backup: &Resource<Backup>, reason: &str) -> Result<(), ControlError> {
        warn!(backup = backup.name(), reason, "could not make a backup");
        let key = backup.key();
        self.store
            .transact::<(), StoreError>(Self::cause(), |tx| {
                let Some(now) = tx.get::<Backup>(&key) else {
                    return Ok(());
                };
                verbs::free_source(tx, &now)?;
                let mut new = (*now).clone();
                new.status.state = BackupState::Error;
                new.status.layer = None;
                new.status.fault = Some(reason.to_owned());
                tx.update(&now, new)?;
                let spec = MessageSpec {
                    resource: "VOLUME_BACKUP".to_owned(),
                    about: key.name.clone(),
                    action: Action::BackUp,
                    detail: message::UNKNOWN.to_owned(),
                    text: reason.to_owned(),
                    request: String::new(),
                };
                message::tell(tx, &key.project, spec)
            })
            .await?;
        Ok(())
    }

    /// Removes the bytes of a backup, unless another record names them, and lets it go.
    async fn remove_backup(&self, backup: &Resource<Backup>) -> Result<(), ControlError> {
        let sharing = self.store.cache::<Backup>().by("data", &backup.spec.data);
        if sharing.iter().all(|one| one.metadata.is_deleting()) {
            self.options.vault.remove(&backup.spec.data).await?;
        }
        self.change_backup(&backup.key(), |backup| {
            backup.metadata.finalizers.retain(|one| one != FINALIZER);
        })
        .await?;
        info!(backup = backup.name(), "removed");
        Ok(())
    }

    async fn change_backup(&self, key: &Key, change: impl Fn(&mut Resource<Backup>)) -> Result<(), ControlError> {
        let changed = self.store.modify::<Backup, StoreError>(key, Self::cause(), |backup| {
            change(backup);
            Ok(())
        });
        match changed.await {
            Ok(_) | Err(StoreError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// A backup's bytes as a layer.
    pub(super) async fn backup_base(&self, id: &str) -> Result<Base, BackEndError> {
        let backup = self.store.cache::<Backup>().by_name(id);
        let backup = backup.ok_or_else(|| BackEndError::Broken(format!("backup {id} is gone")))?;
        let uid = Uuid::new_v4();
        let file = self.options.back_end.scratch().join(format!("{uid}.restore"));
        let read = vault::read::read(&*self.options.vault, &backup.spec.data, &file).await;
        let taken = match read {
            Ok(()) => self.options.back_end.take_image(uid, &file, "raw").await,
            Err(error) => Err(error),
        };
        remove_scratch(&file).await;
        let taken = taken?;
        Ok(Base::new(uid, taken, self.spec_over(None, taken)))
    }

    /// Writes a backup over a volume.
    pub(super) async fn restore(&self, volume: &Resource<Volume>, id: &str) -> Result<Progress, ControlError> {
        let base = self.backup_base(id).await?;
        self.put(volume, Some(base), VolumeState::Restoring).await?;
        info!(volume = volume.name(), backup = id, "restored");
        Ok(Progress::Done)
    }
}

async fn remove_scratch(file: &std::path::Path) {
    match tokio::fs::remove_file(file).await {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            warn!(file = %file.display(), %error, "could not remove a scratch file");
        }
        _ => {}
    }
}
