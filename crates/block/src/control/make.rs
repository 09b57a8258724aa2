//! Making what a volume begins as.

use super::{
    Arc, BackEndError, Control, ControlError, Layer, LayerFile, LayerSpec, Progress, Resource, Snapshot, Source, Task,
    Uuid, Volume, VolumeState, info, layer, stale,
};
use crate::volume::{GIB, rules::image_metadata};
use madang_image::Image;
use madang_store::{StoreError, Tx};

use crate::{
    backup::{Backup, BackupState},
    volume_type::VolumeType,
};

/// A layer that a volume is to stand on.
pub(super) struct Base {
    pub(super) uid: Uuid,
    file: LayerFile,
    /// What it is to the store, where it is new there.
    new: Option<LayerSpec>,
}

/// What Cinder says where no back end gives what a type asks for.
pub(super) const NO_BACK_END: &str = "Could not find any available weighted backend.";

impl Base {
    /// A layer that is new to the store.
    pub(super) fn new(uid: Uuid, file: LayerFile, spec: LayerSpec) -> Self {
        Self {
            uid,
            file,
            new: Some(spec),
        }
    }
}

impl Control {
    /// Makes a volume's first layer.
    pub(super) async fn make(&self, volume: &Resource<Volume>) -> Result<Progress, ControlError> {
        if !self.gives_what_is_asked(volume) {
            return Err(BackEndError::Broken(NO_BACK_END.to_owned()).into());
        }
        let base = match &volume.spec.source {
            Source::Blank => None,
            Source::Image(id) => Some(self.image_base(volume, id).await?),
            Source::Snapshot(id) => match volume.status.next_layer {
                Some(uid) => Some(self.old_base(uid)?),
                None => Some(self.snapshot_base(id)?),
            },
            Source::Volume(id) => match volume.status.next_layer {
                Some(uid) => Some(self.old_base(uid)?),
                None => return self.wait_for_source(volume, id).await,
            },
            Source::Backup(id) => Some(self.backup_base(id).await?),
            Source::File(name) => Some(self.file_base(name).await?),
        };
        self.put(volume, base, VolumeState::Creating).await?;
        if let Source::File(name) = &volume.spec.source {
            self.options.back_end.forget(name).await?;
        }
        info!(volume = volume.name(), "made");
        Ok(Progress::Done)
    }

    /// Gives a volume a new layer (over `base`) in place of what it has, and lets it go on.
    pub(super) async fn put(
        &self,
        volume: &Resource<Volume>,
        base: Option<Base>,
        during: VolumeState,
    ) -> Result<(), ControlError> {
        let bytes = u64::from(volume.spec.size_gib) * GIB;
        let uid = Uuid::new_v4();
        let back_end = &self.options.back_end;
        let top = match &base {
            Some(base) => back_end.make_over(uid, base.file, bytes).await?,
            None => back_end.make_blank(uid, bytes).await?,
        };
        let mut spec = self.spec_over(base.as_ref().map(|base| base.uid), top);
        if base.as_ref().is_some_and(|base| base.new.is_some()) {
            spec.depth = 1;
        }
        let mut files = vec![top];
        files.extend(base.iter().filter(|base| base.new.is_some()).map(|base| base.file));
        let (key, before, place) = (volume.key(), volume.status.layer, self.place());
        self.commit(&files, |tx| {
            let now = tx.get::<Volume>(&key).ok_or_else(|| stale(&key))?;
            if now.status.layer != before || now.status.state != during {
                return Err(stale(&key));
            }
            if let Some(Base {
                uid, new: Some(new), ..
            }) = &base
            {
                tx.create(layer::new(*uid, new.clone()))?;
            }
            tx.create(layer::new(top.uid, spec.clone()))?;
            let mut new = (*now).clone();
            new.status.layer = Some(top.uid);
            new.status.next_layer = None;
            new.status.host = Some(place.clone());
            new.status.fault = None;
            if let Some(Task::Reimage { image }) = &now.status.task
                && let Some(image) = tx.store().cache::<Image>().by_name(image)
            {
                new.spec.image_metadata = image_metadata(&image);
            }
            let restored = match (&now.status.task, &now.spec.source) {
                (Some(Task::Restore { backup }), _) => {
                    take_words(tx, &mut new, backup);
                    Some(backup)
                }
                (None, Source::Backup(id)) if during == VolumeState::Creating => Some(id),
                _ => None,
            };
            new.status.settle();
            tx.update(&now, new)?;
            restored.map_or(Ok(()), |id| end_restore(tx, id))
        })
        .await
    }

    /// Whether the back end gives what a volume's type asks for. Keys of another scope are for others.
    fn gives_what_is_asked(&self, volume: &Resource<Volume>) -> bool {
        let of_type = volume.spec.volume_type.as_ref();
        let of_type = of_type.and_then(|id| self.store.cache::<VolumeType>().by_name(id));
        let specs = of_type.as_ref().map(|of_type| &of_type.spec.extra_specs);
        specs.into_iter().flatten().all(|(key, wanted)| {
            let key = match key.split_once(':') {
                Some(("capabilities", key)) => key,
                Some(_) => return true,
                None => key,
            };
            capability(self.options.back_end.name(), key).is_some_and(|is| fits(&is, wanted))
        })
    }

    fn old_base(&self, uid: Uuid) -> Result<Base, BackEndError> {
        Ok(Base {
            uid,
            file: self.layer_file(uid)?,
            new: None,
        })
    }

    pub(super) fn snapshot_base(&self, id: &str) -> Result<Base, BackEndError> {
        let snapshot = self.store.cache::<Snapshot>().by_name(id);
        let uid = snapshot.and_then(|snapshot| snapshot.status.layer);
        self.old_base(uid.ok_or_else(|| BackEndError::Broken(format!("snapshot {id} is gone")))?)
    }

    /// A clone begins when the volume it is made of has left its layer to it.
    async fn wait_for_source(&self, clone: &Resource<Volume>, id: &str) -> Result<Progress, ControlError> {
        let source = self.store.get::<Volume>(&Self::beside(clone, id));
        let source = source.ok_or_else(|| BackEndError::Broken(format!("volume {id} is gone")))?;
        if source.status.layer.is_none() {
            return Err(BackEndError::Broken(format!("volume {id} has no bytes")).into());
        }
        // Leaving its layer to us changes us, which wakes us again.
        self.freeze(&source).await?;
        Ok(Progress::Waiting)
    }

    /// The layer that an image's bytes are; the same one for all volumes that begin as the same bytes.
    pub(super) async fn image_base(&self, volume: &Resource<Volume>, id: &str) -> Result<Base, ControlError> {
        let broken = |error: madang_image::CacheError| match error {
            madang_image::CacheError::Blob { id, source } => BackEndError::Failed {
                action: format!("read image {id}"),
                reason: source.to_string(),
            },
            other => BackEndError::Broken(other.to_string()),
        };
        let image = self.options.images.fetch(id).await.map_err(broken)?;
        if image.container_format != madang_image::ContainerFormat::Bare
            && !matches!(image.container_format.as_str(), "ami" | "ari" | "aki" | "ovf")
        {
            let message = format!("image {id} is {}, not a disk", image.container_format);
            return Err(BackEndError::Broken(message).into());
        }
        let needed = image.virtual_size.unwrap_or(image.size);
        let bytes = u64::from(volume.spec.size_gib) * GIB;
        if needed > bytes {
            let message = format!("image {id} needs {needed} bytes, the volume has {bytes}");
            return Err(BackEndError::Broken(message).into());
        }
        if let Some(known) = self.layer_of_image(&image.digest) {
            return Ok(self.old_base(known.metadata.uid)?);
        }
        let uid = Uuid::new_v4();
        let taken = self
            .options
            .back_end
            .take_image(uid, &image.path, image.disk_format.as_str());
        let file = taken.await?;
        let spec = LayerSpec {
            image: Some(image.digest),
            ..self.spec_over(None, file)
        };
        Ok(Base {
            uid,
            file,
            new: Some(spec),
        })
    }

    fn layer_of_image(&self, digest: &str) -> Option<Arc<Resource<Layer>>> {
        let (host, back_end) = (&self.options.host, self.options.back_end.name());
        let layers = self.store.cache::<Layer>().by("image", digest);
        layers
            .into_iter()
            .find(|layer| layer.spec.host == *host && layer.spec.back_end == back_end && layer.status.holders > 0)
    }
}

/// What the back end says of itself where types may ask for it; none for what says nothing of a back end.
fn capability(back_end: &str, key: &str) -> Option<String> {
    Some(match key {
        "volume_backend_name" | "storage_protocol" => back_end.to_owned(),
        "vendor_name" => "madang".to_owned(),
        "driver_version" => env!("CARGO_PKG_VERSION").to_owned(),
        "thin_provisioning_support" | "QoS_support" | "multiattach" => "True".to_owned(),
        "thick_provisioning_support" | "replication_enabled" | "compression_support" | "deduplication_support" => {
            "False".to_owned()
        }
        _ => return None,
    })
}

/// Whether a capability is what a type asks for: `<is> True`, `<in> part`, `<or> a <or> b`, `s== x`, or the words themselves.
fn fits(is: &str, wanted: &str) -> bool {
    let wanted = wanted.trim();
    if let Some(wanted) = wanted.strip_prefix("<is>") {
        return madang_http::parse_bool(wanted.trim()).unwrap_or(false) == madang_http::parse_bool(is).unwrap_or(false);
    }
    if let Some(wanted) = wanted.strip_prefix("<in>") {
        return is.contains(wanted.trim());
    }
    if wanted.starts_with("<or>") {
        return wanted.split("<or>").any(|one| one.trim() == is);
    }
    wanted.strip_prefix("s==").unwrap_or(wanted).trim() == is
}

/// A restored volume says of itself what the one that was backed up said.
fn take_words(tx: &Tx<'_>, volume: &mut Resource<Volume>, backup: &str) {
    let Some(backup) = tx.store().cache::<Backup>().by_name(backup) else {
        return;
    };
    let of = &backup.spec.of;
    volume.spec.metadata.extend(of.metadata.clone());
    volume.spec.image_metadata.clone_from(&of.image_metadata);
    volume.spec.is_bootable = of.is_bootable;
}

/// The backup has given its bytes.
fn end_restore(tx: &mut Tx<'_>, backup: &str) -> Result<(), StoreError> {
    let known = tx.store().cache::<Backup>().by_name(backup);
    let Some(known) = known.and_then(|known| tx.get::<Backup>(&known.key())) else {
        return Ok(());
    };
    if known.status.state != BackupState::Restoring {
        return Ok(());
    }
    let mut free = (*known).clone();
    free.status.state = BackupState::Available;
    tx.update(&known, free).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::fits;

    #[test]
    fn types_ask_in_many_ways() {
        for wanted in ["file", "<in> fil", "<or> nfs <or> file", "s== file"] {
            assert!(fits("file", wanted), "{wanted}");
        }
        for wanted in ["nfs", "<in> nfs", "<or> nfs", "s== nfs", ""] {
            assert!(!fits("file", wanted), "{wanted}");
        }
        assert!(fits("True", "<is> true") && !fits("False", "<is> True"));
    }
}
