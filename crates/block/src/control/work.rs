//! What is done to a volume that is made: growing, going back, becoming an image.

use super::{BackEndError, Control, ControlError, Progress, Resource, Volume, VolumeState, info};
use crate::volume::GIB;

impl Control {
    /// Grows a volume that nobody has open; one that is attached is grown by who has it.
    pub(super) async fn extend(&self, volume: &Resource<Volume>, size_gib: u32) -> Result<Progress, ControlError> {
        if volume.status.is_connected() {
            return Ok(Progress::Waiting);
        }
        let layer = volume.status.layer.ok_or_else(|| no_bytes(volume))?;
        let file = self.layer_file(layer)?;
        self.options.back_end.grow(file, u64::from(size_gib) * GIB).await?;
        self.change(&volume.key(), |volume| {
            if volume.status.state == VolumeState::Extending && volume.status.layer == Some(layer) {
                volume.spec.size_gib = size_gib;
                volume.status.settle();
            }
        })
        .await?;
        info!(volume = volume.name(), size_gib, "extended");
        Ok(Progress::Done)
    }

    /// Begins anew over a snapshot.
    pub(super) async fn revert(&self, volume: &Resource<Volume>, snapshot: &str) -> Result<Progress, ControlError> {
        let base = self.snapshot_base(snapshot)?;
        self.put(volume, Some(base), VolumeState::Reverting).await?;
        info!(volume = volume.name(), snapshot, "went back to a snapshot");
        Ok(Progress::Done)
    }

    /// Begins anew over an image.
    pub(super) async fn reimage(&self, volume: &Resource<Volume>, image: &str) -> Result<Progress, ControlError> {
        let base = self.image_base(volume, image).await?;
        self.put(volume, Some(base), VolumeState::Downloading).await?;
        info!(volume = volume.name(), image, "began anew");
        Ok(Progress::Done)
    }

    /// Becomes an image. Whoever has it attached waits: a volume that is uploaded is attached to nobody.
    pub(super) async fn upload(
        &self,
        volume: &Resource<Volume>,
        image: &str,
        format: &str,
    ) -> Result<Progress, ControlError> {
        let layer = volume.status.layer.ok_or_else(|| no_bytes(volume))?;
        let Some(intake) = &self.options.intake else {
            return Err(BackEndError::Broken("this host cannot make images".to_owned()).into());
        };
        let (back_end, file) = (&self.options.back_end, intake.scratch());
        back_end.export(self.layer_file(layer)?, &file, format).await?;
        let taken = intake.take(image, &file).await;
        taken.map_err(|error| BackEndError::Broken(error.to_string()))?;
        self.change(&volume.key(), |volume| volume.status.settle()).await?;
        info!(volume = volume.name(), image, "uploaded");
        Ok(Progress::Done)
    }
}

fn no_bytes(volume: &Resource<Volume>) -> BackEndError {
    BackEndError::Broken(format!("volume {} has no bytes", volume.name()))
}
