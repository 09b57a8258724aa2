//! Making what a volume begins as.

use super::{
    Arc, BackEndError, Control, ControlError, Layer, LayerFile, LayerSpec, Progress, Resource, Snapshot, Source, Task,
    Uuid, Volume, VolumeState, info, layer, stale,
};
use crate::volume::{GIB, rules::image_metadata};
use madang_image::Image;

/// A layer that a volume is to stand on.
pub(super) struct Base {
    pub(super) uid: Uuid,
    file: LayerFile,
    /// What it is to the store, where it is new there.
    new: Option<LayerSpec>,
}

impl Control {
    /// Makes a volume's first layer.
    pub(super) async fn make(&self, volume: &Resource<Volume>) -> Result<Progress, ControlError> {
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
            Source::Backup(_) => {
                return Err(BackEndError::Broken("there are no backups to make a volume of".to_owned()).into());
            }
        };
        self.put(volume, base, VolumeState::Creating).await?;
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
            new.status.settle();
            tx.update(&now, new).map(|_| ())
        })
        .await
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
