//! Leaving a volume's layer to others: it goes on in a new one over it.

use super::{
    BackEndError, Control, ControlError, Key, Layer, LayerFile, Progress, Resource, Uuid, Volume, layer, stale,
};
use crate::{
    attachment::{AttachState, Attachment},
    volume::GIB,
};

/// Drivers open so many layers of one disk.
const DEEPEST: u32 = 32;

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
        self.check_connected(volume)?;
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

    /// Refuses a volume that somebody has open who cannot switch over: an outside consumer, or several servers at a time.
    fn check_connected(&self, volume: &Resource<Volume>) -> Result<(), BackEndError> {
        if !volume.status.is_connected() {
            return Ok(());
        }
        let mut attachments = self.store.cache::<Attachment>().by("volume", volume.name());
        attachments.retain(|attachment| attachment.status.state != AttachState::Reserved);
        match attachments.as_slice() {
            [one] if !one.metadata.finalizers.is_empty() => Ok(()),
            [] => Ok(()),
            _ => Err(BackEndError::Broken(format!(
                "volume {} is attached outside of this cloud or several times: detach it first",
                volume.name()
            ))),
        }
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
        let depth = self
            .store
            .get::<Layer>(&layer::key(below))
            .map_or(0, |layer| layer.spec.depth);
        if depth + 2 > DEEPEST {
            let message = format!("it stands on {depth} layers already, more than {DEEPEST} cannot be used");
            return Err(BackEndError::Broken(message));
        }
        let base = self.layer_file(below)?;
        self.options.back_end.make_over(Uuid::new_v4(), base, bytes).await
    }

    /// The key of a volume of the same project.
    pub(super) fn beside(volume: &Resource<Volume>, id: &str) -> Key {
        use madang_store::Kind as _;
        Key::new(Volume::NAME, volume.project(), "", id)
    }
}
