//! Leaving a volume's layer to others: it goes on in a new one over it.

use super::{BackEndError, Control, ControlError, Key, LayerFile, Progress, Resource, Uuid, Volume, layer, stale};
use crate::volume::GIB;

impl Control {
    /// Gives a volume a new layer over its own, which from then on never changes. Where somebody has the volume open, only
    /// offers the new one.
    pub(super) async fn freeze(&self, volume: &Resource<Volume>) -> Result<Progress, ControlError> {
        if volume.status.next_layer.is_some() {
            return Ok(Progress::Waiting);
        }
        let Some(below) = volume.status.layer else {
            return Ok(Progress::Waiting);
        };
        let top = self.make_over(below, u64::from(volume.spec.size_gib) * GIB).await?;
        let is_connected = volume.status.is_connected();
        let key = volume.key();
        let spec = self.spec_over(Some(below), top);
        self.commit(&[top], |tx| {
            let now = tx.get::<Volume>(&key).ok_or_else(|| stale(&key))?;
            let status = &now.status;
            if status.layer != Some(below) || status.next_layer.is_some() || status.is_connected() != is_connected {
                return Err(stale(&key));
            }
            tx.create(layer::new(top.uid, spec.clone()))?;
            let mut new = (*now).clone();
            match is_connected {
                true => new.status.next_layer = Some(top.uid),
                false => new.status.layer = Some(top.uid),
            }
            tx.update(&now, new).map(|_| ())
        })
        .await?;
        Ok(if is_connected {
            Progress::Waiting
        } else {
            Progress::Done
        })
    }

    /// Takes the layer that was offered.
    pub(super) async fn switch(&self, volume: &Resource<Volume>) -> Result<(), ControlError> {
        self.change(&volume.key(), |volume| {
            if !volume.status.is_connected()
                && let Some(next) = volume.status.next_layer.take()
            {
                volume.status.layer = Some(next);
            }
        })
        .await
    }

    /// An empty layer over another.
    pub(super) async fn make_over(&self, below: Uuid, bytes: u64) -> Result<LayerFile, BackEndError> {
        let base = self.layer_file(below)?;
        self.options.back_end.make_over(Uuid::new_v4(), base, bytes).await
    }

    /// The key of a volume of the same project.
    pub(super) fn beside(volume: &Resource<Volume>, id: &str) -> Key {
        use madang_store::Kind as _;
        Key::new(Volume::NAME, volume.project(), "", id)
    }
}
