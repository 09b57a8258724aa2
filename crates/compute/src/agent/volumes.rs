//! The volumes of a host's servers: the driver is told of each that comes or goes, then the store.
//!
//! An attachment is held by a finalizer from before a workload may open its volume until after it let go. Every step can
//! be repeated: the driver leaves alone what it has already, and takes away what is not there without complaint.

use std::{sync::Arc, time::Duration};

use madang_block::{
    AttachState, Attachment, Layer, LayerFormat, QosSpecs, Task, Volume, VolumeState, VolumeType,
    attachment::AGENT_FINALIZER as HELD, layer,
};
use madang_control::Next;
use madang_host::workload::{Disk, DiskFormat, DiskKind, DiskSource, Driver, DriverError, State};
use madang_store::{Cause, Key, Resource, StoreError};
use tracing::{info, warn};
use uuid::Uuid;

use super::{Agent, AgentError, filing, host_of};
use crate::server::{Server, action, volumes};

const GIB: u64 = 1 << 30;
/// A server that waits for its volumes is looked at again after this, changed or not.
const VOLUMES_CHECK: Duration = Duration::from_secs(10);

/// How a server's volumes are before it starts.
pub(super) enum Ready {
    /// All there.
    Yes,
    /// Some are still being made.
    Wait,
    /// One cannot be had, for this reason.
    Never(String),
}

impl Agent {
    fn volume_of(&self, attachment: &Resource<Attachment>) -> Option<Arc<Resource<Volume>>> {
        self.store.cache::<Volume>().by_name(&attachment.spec.volume)
    }

    /// The server that an attachment is for, if it is here.
    pub(super) fn server_of_attachment(&self, attachment: &Resource<Attachment>) -> Option<Key> {
        let server = self
            .store
            .cache::<Server>()
            .by_name(attachment.spec.server.as_deref()?)?;
        self.has(&server).then(|| server.key())
    }

    /// The servers here that have a volume.
    pub(super) fn servers_of_volume(&self, volume: &Resource<Volume>) -> Vec<Key> {
        if volume.status.attachments.is_empty() {
            return Vec::new();
        }
        let attachments = self.store.cache::<Attachment>().by("volume", volume.name());
        attachments
            .iter()
            .filter_map(|attachment| self.server_of_attachment(attachment))
            .collect()
    }

    /// Before a server starts: all its volumes are made, and held for it.
    pub(super) async fn hold_volumes(&self, server: &Resource<Server>) -> Result<Ready, AgentError> {
        let attachments = volumes::of(&self.store, server.name());
        for attachment in &attachments {
            let volume = self.volume_of(attachment);
            match volume.as_ref().map(|volume| (volume.status.state, volume.status.layer)) {
                None => return Ok(Ready::Never(format!("volume {} is gone", attachment.spec.volume))),
                Some((VolumeState::Error, _)) => {
                    let why = volume
                        .and_then(|volume| volume.status.fault.clone())
                        .unwrap_or_default();
                    return Ok(Ready::Never(format!(
                        "volume {} could not be made: {why}",
                        attachment.spec.volume
                    )));
                }
                Some((_, None) | (VolumeState::Downloading, _)) => return Ok(Ready::Wait),
                Some(_) => {}
            }
        }
        for attachment in attachments
            .iter()
            .filter(|attachment| !attachment.metadata.is_deleting())
        {
            self.set(server, attachment, AttachState::Attached, None).await?;
        }
        Ok(Ready::Yes)
    }

    /// Writes how far an attachment is, and holds it.
    async fn set(
        &self,
        server: &Resource<Server>,
        attachment: &Resource<Attachment>,
        state: AttachState,
        fault: Option<&str>,
    ) -> Result<(), AgentError> {
        let (key, host) = (attachment.key(), host_of(server).to_owned());
        let changed = self
            .store
            .modify::<Attachment, StoreError>(&key, filing::cause(&host), |attachment| {
                if attachment.metadata.is_deleting() {
                    return Ok(());
                }
                if !attachment.metadata.finalizers.iter().any(|one| one == HELD) {
                    attachment.metadata.finalizers.push(HELD.to_owned());
                }
                attachment.status.state = state;
                attachment.status.fault = fault.map(str::to_owned);
                attachment.status.host = Some(host.clone());
                if state == AttachState::Attached {
                    attachment.status.attached.get_or_insert_with(jiff::Timestamp::now);
                }
                Ok(())
            });
        match changed.await {
            Ok(_) | Err(StoreError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// One round for the volumes of a server that is as it was asked to be.
    pub(super) async fn follow_volumes(
        &self,
        server: &Resource<Server>,
        driver: &Arc<dyn Driver>,
        seen: &State,
    ) -> Result<Next, AgentError> {
        let is_open = matches!(seen, State::Running { .. } | State::Paused);
        for attachment in volumes::of(&self.store, server.name()) {
            if attachment.metadata.is_deleting() {
                self.take_away(server, &attachment, driver, is_open).await?;
            } else if matches!(attachment.status.state, AttachState::Attaching | AttachState::Reserved) {
                self.plug_in(server, &attachment, driver, is_open).await?;
            } else if let Some(volume) = self.volume_of(&attachment) {
                self.follow_volume(server, &attachment, &volume, driver, is_open)
                    .await?;
            }
        }
        Ok(Next::Done)
    }

    async fn take_away(
        &self,
        server: &Resource<Server>,
        attachment: &Resource<Attachment>,
        driver: &Arc<dyn Driver>,
        is_open: bool,
    ) -> Result<(), AgentError> {
        if is_open && let Some(volume) = self.volume_of(attachment) {
            driver.detach_disk(server.metadata.uid, volume.metadata.uid).await?;
        }
        let key = attachment.key();
        let freed = self
            .store
            .modify::<Attachment, StoreError>(&key, filing::cause(host_of(server)), |attachment| {
                attachment.metadata.finalizers.retain(|one| one != HELD);
                Ok(())
            });
        match freed.await {
            Ok(_) | Err(StoreError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        info!(server = server.name(), volume = attachment.spec.volume, "detached");
        Ok(())
    }

    async fn plug_in(
        &self,
        server: &Resource<Server>,
        attachment: &Resource<Attachment>,
        driver: &Arc<dyn Driver>,
        is_open: bool,
    ) -> Result<(), AgentError> {
        let replaced = self.replaced(attachment);
        if is_open {
            let id = server.metadata.uid;
            let plugged = match (self.disk(attachment), &replaced) {
                (Ok(disk), Some((_, old))) => driver.swap_disk(id, old.metadata.uid, &disk).await,
                (Ok(disk), None) => driver.attach_disk(id, &disk).await,
                (Err(error), _) => Err(error),
            };
            if let Err(error) = plugged {
                if matches!(error, DriverError::Io { .. } | DriverError::TimedOut { .. }) {
                    return Err(error.into());
                }
                return self.give_back(server, attachment, &error.to_string()).await;
            }
        }
        self.set(server, attachment, AttachState::Attached, None).await?;
        if let Some((old, _)) = replaced {
            self.end_attachment(server, &old).await?;
        }
        info!(server = server.name(), volume = attachment.spec.volume, "attached");
        Ok(())
    }

    /// The attachment in whose stead one comes, and its volume; none when it is gone, or there never was one.
    fn replaced(
        &self,
        attachment: &Resource<Attachment>,
    ) -> Option<(Arc<Resource<Attachment>>, Arc<Resource<Volume>>)> {
        let old = attachment.spec.device.as_ref()?.replaces.as_deref()?;
        let old = self.store.cache::<Attachment>().by_name(old)?;
        let volume = self.volume_of(&old)?;
        Some((old, volume))
    }

    /// A volume that cannot be attached is free again, as in the original.
    async fn give_back(
        &self,
        server: &Resource<Server>,
        attachment: &Resource<Attachment>,
        reason: &str,
    ) -> Result<(), AgentError> {
        warn!(
            server = server.name(),
            volume = attachment.spec.volume,
            reason,
            "could not attach"
        );
        self.end_attachment(server, attachment).await
    }

    /// Ends what no workload has open.
    async fn end_attachment(
        &self,
        server: &Resource<Server>,
        attachment: &Resource<Attachment>,
    ) -> Result<(), AgentError> {
        let key = attachment.key();
        self.store
            .transact::<(), StoreError>(filing::cause(host_of(server)), |tx| {
                let Some(attachment) = tx.get::<Attachment>(&key) else {
                    return Ok(());
                };
                let mut free = (*attachment).clone();
                free.metadata.finalizers.retain(|one| one != HELD);
                let free = tx.update(&attachment, free)?;
                tx.delete(&free)
            })
            .await?;
        Ok(())
    }

    /// What block asks of a volume that is attached: another layer on top, or more room.
    async fn follow_volume(
        &self,
        server: &Resource<Server>,
        attachment: &Resource<Attachment>,
        volume: &Resource<Volume>,
        driver: &Arc<dyn Driver>,
        is_open: bool,
    ) -> Result<(), AgentError> {
        if let (VolumeState::Extending, Some(Task::Extend { size_gib })) = (volume.status.state, &volume.status.task) {
            let size_gib = *size_gib;
            let disk = self.disk(attachment)?;
            let grown = driver
                .grow_disk(server.metadata.uid, &disk, u64::from(size_gib) * GIB)
                .await;
            let failed = grown.err().map(|error| error.to_string());
            self.grown(server, volume, size_gib, failed).await?;
        }
        let Some(next) = volume.status.next_layer else {
            return Ok(());
        };
        let stacked = match is_open {
            true => {
                let top = self.disk_in(attachment, next)?;
                driver.stack_disk(server.metadata.uid, &top).await
            }
            false => Ok(()),
        };
        match stacked {
            Ok(()) => self.switch(server, volume, next).await,
            // It waits until the server is off or the volume is detached.
            Err(DriverError::Unsupported { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes down that a volume has grown, or could not; the server's users see it among what was done to it.
    async fn grown(
        &self,
        server: &Resource<Server>,
        volume: &Resource<Volume>,
        size_gib: u32,
        failed: Option<String>,
    ) -> Result<(), AgentError> {
        let asked = Cause {
            request: volume.status.request.as_str().into(),
            ..filing::cause(host_of(server))
        };
        let (key, at) = (volume.key(), server.key());
        self.store
            .transact::<(), StoreError>(asked, |tx| {
                let Some(now) = tx.get::<Volume>(&key) else {
                    return Ok(());
                };
                if now.status.state != VolumeState::Extending {
                    return Ok(());
                }
                let mut new = (*now).clone();
                match &failed {
                    None => {
                        new.spec.size_gib = size_gib;
                        new.status.settle();
                    }
                    Some(reason) => {
                        new.status.state = VolumeState::ErrorExtending;
                        new.status.task = None;
                        new.status.fault = Some(reason.clone());
                    }
                }
                tx.update(&now, new)?;
                match tx.get::<Server>(&at) {
                    Some(server) => action::note(tx, &server, "extend_volume", failed.clone()),
                    None => Ok(()),
                }
            })
            .await?;
        Ok(())
    }

    /// Writes down that a volume goes on in the layer that was offered.
    async fn switch(&self, server: &Resource<Server>, volume: &Resource<Volume>, next: Uuid) -> Result<(), AgentError> {
        self.change_volume(server, volume, |volume| {
            if volume.status.next_layer == Some(next) {
                volume.status.next_layer = None;
                volume.status.layer = Some(next);
            }
        })
        .await
    }

    async fn change_volume(
        &self,
        server: &Resource<Server>,
        volume: &Resource<Volume>,
        change: impl Fn(&mut Resource<Volume>),
    ) -> Result<(), AgentError> {
        let key = volume.key();
        let changed = self
            .store
            .modify::<Volume, StoreError>(&key, filing::cause(host_of(server)), |volume| {
                change(volume);
                Ok(())
            });
        match changed.await {
            Ok(_) | Err(StoreError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// What the driver is to plug in for a server's volumes, in guest order.
    pub(super) fn disks(&self, server: &Resource<Server>) -> Result<Vec<Disk>, DriverError> {
        let attachments = volumes::of(&self.store, server.name());
        // One that comes in another's stead is there once it took its place.
        let comes = |attachment: &Resource<Attachment>| {
            attachment.status.state == AttachState::Attaching && self.replaced(attachment).is_some()
        };
        let there = attachments
            .iter()
            .filter(|attachment| !attachment.metadata.is_deleting() && !comes(attachment));
        there.map(|attachment| self.disk(attachment)).collect()
    }

    fn disk(&self, attachment: &Resource<Attachment>) -> Result<Disk, DriverError> {
        let gone = || DriverError::Broken(format!("volume {} has no bytes", attachment.spec.volume));
        let volume = self.volume_of(attachment).ok_or_else(gone)?;
        self.disk_in(attachment, volume.status.layer.ok_or_else(gone)?)
    }

    /// A server's volume as it is in one of its layers.
    fn disk_in(&self, attachment: &Resource<Attachment>, uid: Uuid) -> Result<Disk, DriverError> {
        let gone = || DriverError::Broken(format!("volume {} has no bytes", attachment.spec.volume));
        let volume = self.volume_of(attachment).ok_or_else(gone)?;
        let top = self.store.get::<Layer>(&layer::key(uid)).ok_or_else(gone)?;
        let format = match top.spec.format {
            LayerFormat::Raw => DiskFormat::Raw,
            LayerFormat::Qcow2 => DiskFormat::Qcow2,
        };
        let directory = self
            .options
            .ground
            .as_ref()
            .map(|ground| ground.volumes.clone())
            .unwrap_or_default();
        let device = attachment.spec.device.clone().unwrap_or_default();
        Ok(Disk {
            id: volume.metadata.uid,
            source: DiskSource::File {
                path: directory
                    .join("layers")
                    .join(format!("{uid}.{}", top.spec.format.as_str())),
                format,
            },
            bus: device.bus.unwrap_or_default(),
            kind: device.kind,
            serial: volume.name().to_owned(),
            is_read_only: attachment.spec.is_read_only
                || volume.spec.is_read_only == Some(true)
                || device.kind == DiskKind::Cdrom,
            boot_index: device.boot_index,
            limits: self.limits(&volume),
            mount_point: attachment.spec.mountpoint.clone().map(Into::into),
        })
    }

    /// What the host lets through for a volume, by the QoS specs of its type.
    fn limits(&self, volume: &Resource<Volume>) -> madang_host::workload::IoLimits {
        let of_type = volume.spec.volume_type.as_ref();
        let of_type = of_type.and_then(|id| self.store.cache::<VolumeType>().by_name(id));
        let specs =
            of_type.and_then(|of_type| self.store.cache::<QosSpecs>().by_name(of_type.spec.qos_specs.as_ref()?));
        specs
            .map(|specs| specs.spec.limits(volume.spec.size_gib))
            .unwrap_or_default()
    }

    /// What a server that waits for its volumes comes back for.
    pub(super) fn wait_for_volumes() -> Next {
        Next::After(VOLUMES_CHECK)
    }
}
