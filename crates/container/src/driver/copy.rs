//! Images of containers: the layers of the image with the container's own on top.

use std::{path::Path, sync::Arc};

use madang_host::workload::{DriverError, Root, State, Workload};
use tracing::warn;

use super::{Inner, blocking, image};
use crate::{
    archive::{Archive, ImageError, build},
    disk,
    layers::pack::pack,
    record::Home,
};

impl Inner {
    /// Writes an archive of the container as it is now. One that runs is frozen meanwhile: its files are of one moment.
    pub(super) async fn snapshot(self: &Arc<Self>, workload: &Workload, into: &Path) -> Result<(), DriverError> {
        let Root::Container { archive, .. } = &workload.root else {
            return Err(DriverError::Unsupported {
                driver: "oci",
                action: "copy a disk image",
            });
        };
        let id = workload.id;
        let runs = matches!(self.state(id).await?, State::Running { .. });
        if runs {
            self.freeze(id, true).await?;
        }
        let (base, into, scratch) = (archive.clone(), into.to_owned(), self.scratch.clone());
        let home = Home::of_workload(&workload.dir);
        let ids = madang_host::userns::IdRange::of_workload(workload.uid);
        let copied = blocking(move || {
            let base = Archive::open(&base, &scratch).map_err(image)?;
            let created = jiff::Timestamp::now().to_string();
            disk::with(&home, move |upper| {
                build::with_layer(&base, &into, &created, |layer| match upper.exists() {
                    true => pack(upper, ids, layer),
                    // It never ran: nothing was changed.
                    false => tar::Builder::new(layer)
                        .finish()
                        .map_err(|e| ImageError::host("write a layer", e)),
                })
            })
            .map_err(image)
        })
        .await;
        if runs && let Err(error) = self.freeze(id, false).await {
            // Who asks for its state finds it paused and lets it go on.
            warn!(workload = %id, %error, "could not let a container go on after copying it");
        }
        copied
    }
}
