//! Layers that only the next one needs, made one again: what deleted snapshots and backups of attached volumes leave.
//!
//! A new layer takes the place of the volume's and of those below it that nobody else holds. Nothing that is there is
//! changed, so that a stop at any point leaves the volume as it was, and a volume that was attached meanwhile keeps what it
//! has.

use std::sync::Arc;

use tracing::info;
use uuid::Uuid;

use super::{Control, ControlError, Layer, Resource, Volume, VolumeState, layer, stale};
use crate::driver::LayerFile;

/// So many layers that only the next one needs are left alone: merging copies.
const SPARED: usize = 8;

impl Control {
    /// Merges the layers of a volume that nobody has open, where that is worth it.
    pub(super) async fn merge(&self, volume: &Resource<Volume>) -> Result<(), ControlError> {
        let is_idle = volume.status.state == VolumeState::Available
            && volume.status.attachments.is_empty()
            && volume.status.clones == 0
            && volume.status.next_layer.is_none();
        let Some(top) = volume.status.layer.filter(|_| is_idle) else {
            return Ok(());
        };
        let (run, base) = self.own(top);
        if run.len() <= SPARED {
            return Ok(());
        }
        let uid = Uuid::new_v4();
        let base_file = base.map(|uid| self.layer_file(uid)).transpose()?;
        let back_end = &self.options.back_end;
        let merged: LayerFile = back_end.merge(uid, self.layer_file(top)?, base_file).await?;
        let (key, read, spec) = (volume.key(), volume.revision, self.spec_over(base, merged));
        let files = [merged];
        let done = self.commit(&files, |tx| {
            let now = tx.get::<Volume>(&key).ok_or_else(|| stale(&key))?;
            // Any change: it may have been attached, written to and let go.
            if now.revision != read {
                return Err(stale(&key));
            }
            tx.create(layer::new(merged.uid, spec.clone()))?;
            let mut new = (*now).clone();
            new.status.layer = Some(merged.uid);
            tx.update(&now, new).map(|_| ())
        });
        match done.await {
            Ok(()) => info!(volume = volume.name(), layers = run.len(), "merged"),
            Err(ControlError::Store(error)) => {
                tracing::debug!(volume = volume.name(), %error, "not merged: it changed meanwhile");
            }
            Err(other) => return Err(other),
        }
        Ok(())
    }

    /// The layers from `top` down that are held once, and the first one that others hold as well.
    fn own(&self, top: Uuid) -> (Vec<Uuid>, Option<Uuid>) {
        let mut run = Vec::new();
        let mut at = Some(top);
        while let Some(layer) = at.and_then(|uid| self.store.get::<Layer>(&layer::key(uid))) {
            let layer: Arc<Resource<Layer>> = layer;
            if layer.status.holders != 1 || layer.spec.image.is_some() {
                return (run, Some(layer.metadata.uid));
            }
            run.push(layer.metadata.uid);
            at = layer.spec.parent;
        }
        (run, None)
    }
}
