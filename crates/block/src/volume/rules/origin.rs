//! What a new volume takes from what it begins as, and what keeps a volume from going.

use std::{collections::BTreeMap, sync::Arc};

use madang_image::{Image, ImageState};
use madang_store::{ErrorKind, Key, Kind as _, Rejection, Resource, StoreError, Tx};

use crate::{
    quota,
    snapshot::{Snapshot, SnapshotState},
    volume::{GIB, Source, Volume, VolumeState},
    volume_type::{self, VolumeType},
};

fn invalid(reason: &'static str, message: String) -> StoreError {
    Rejection::new(ErrorKind::Invalid, reason, message).into()
}

/// Fills in what was not said, from what it begins as and its type, and refuses what does not fit.
pub(super) fn complete(tx: &mut Tx<'_>, new: &mut Resource<Volume>) -> Result<(), StoreError> {
    match new.spec.source.clone() {
        Source::Blank | Source::Backup(_) | Source::File(_) => {}
        Source::Image(id) => from_image(tx, new, &id)?,
        Source::Snapshot(id) => from_snapshot(tx, new, &id)?,
        Source::Volume(id) => from_volume(tx, new, &id)?,
    }
    if new.spec.size_gib == 0 {
        let message = "Invalid input received: Volume size '0' must be an integer and greater than 0".to_owned();
        return Err(invalid("InvalidInput", message));
    }
    check_size(tx, new.project(), new.spec.size_gib)?;
    of_type(tx, new);
    if new.spec.availability_zone.is_empty() {
        "nova".clone_into(&mut new.spec.availability_zone);
    }
    Ok(())
}

/// Refuses a volume that is larger than any volume of a project may be.
pub(crate) fn check_size(tx: &Tx<'_>, project: &str, size_gib: u32) -> Result<(), StoreError> {
    let limit = quota::limit(tx.store(), project, quota::PER_VOLUME);
    match limit.filter(|limit| i64::from(size_gib) > *limit) {
        None => Ok(()),
        Some(limit) => {
            let message = format!("Requested volume size {size_gib}G is larger than maximum allowed limit {limit}G.");
            Err(Rejection::new(ErrorKind::Exhausted, "VolumeSizeExceedsLimit", message).into())
        }
    }
}

fn of_type(tx: &Tx<'_>, new: &mut Resource<Volume>) {
    let store = tx.store();
    let chosen: Option<Arc<Resource<VolumeType>>> = match &new.spec.volume_type {
        Some(id) => store.cache::<VolumeType>().by_name(id),
        None => volume_type::default_of(store, new.project()),
    };
    let Some(chosen) = chosen else { return };
    new.spec.volume_type = Some(chosen.name().to_owned());
    new.spec.is_multiattach |= chosen.spec.is_multiattach();
    new.spec.is_encrypted |= chosen.spec.encryption.is_some();
}

fn from_image(tx: &Tx<'_>, new: &mut Resource<Volume>, id: &str) -> Result<(), StoreError> {
    let image = tx.store().cache::<Image>().by_name(id);
    let image = image.filter(|image| madang_image::is_visible(image, new.project()));
    let missing = || invalid("ImageNotFound", format!("Image {id} could not be found."));
    let image = image.ok_or_else(missing)?;
    if image.status.state != ImageState::Active {
        return Err(invalid(
            "ImageUnacceptable",
            format!("Invalid input received: Image {id} is not active."),
        ));
    }
    let content = image.status.content.as_ref();
    let bytes = content.map_or(0, |content| content.virtual_size.unwrap_or(content.size));
    let needed = bytes.div_ceil(GIB);
    let size = u64::from(new.spec.size_gib);
    if needed > size {
        let message =
            format!("Invalid input received: Size of specified image {needed}GB is larger than volume size {size}GB.");
        return Err(invalid("InvalidInput", message));
    }
    if u64::from(image.spec.min_disk) > size {
        let message = format!(
            "Invalid input received: Volume size {size}GB cannot be smaller than the image minDisk size {}GB.",
            image.spec.min_disk
        );
        return Err(invalid("InvalidInput", message));
    }
    new.spec.is_bootable = true;
    if new.spec.volume_type.is_none()
        && let Some(name) = image.spec.properties.get("cinder_img_volume_type")
        && let Some(of_type) = volume_type::find(tx.store(), name).filter(|found| found.spec.is_open_to(new.project()))
    {
        new.spec.volume_type = Some(of_type.name().to_owned());
    }
    let said = std::mem::take(&mut new.spec.image_metadata);
    new.spec.image_metadata = image_metadata(&image);
    new.spec.image_metadata.extend(said);
    Ok(())
}

fn from_snapshot(tx: &mut Tx<'_>, new: &mut Resource<Volume>, id: &str) -> Result<(), StoreError> {
    let snapshot = tx.get::<Snapshot>(&Key::new(Snapshot::NAME, new.project(), "", id));
    let missing = || {
        let message = format!("Snapshot {id} could not be found.");
        StoreError::from(Rejection::new(ErrorKind::NotFound, "SnapshotNotFound", message))
    };
    let snapshot = snapshot.ok_or_else(missing)?;
    if !matches!(
        snapshot.status.state,
        SnapshotState::Available | SnapshotState::BackingUp
    ) {
        let message = "Invalid snapshot: Originating snapshot status must be one of 'available' values".to_owned();
        return Err(invalid("InvalidSnapshot", message));
    }
    let least = snapshot.spec.size_gib;
    fit(new, least, "snapshot")?;
    // Held from now on: the snapshot may go before the volume is made.
    new.status.next_layer = snapshot.status.layer;
    new.spec.volume_type = new
        .spec
        .volume_type
        .take()
        .or_else(|| snapshot.spec.volume_type.clone());
    let volume = tx.get::<Volume>(&Key::new(Volume::NAME, new.project(), "", &snapshot.spec.volume));
    if let Some(volume) = volume {
        new.spec.is_bootable |= volume.spec.is_bootable;
        new.spec.image_metadata = volume.spec.image_metadata.clone();
    }
    Ok(())
}

fn from_volume(tx: &mut Tx<'_>, new: &mut Resource<Volume>, id: &str) -> Result<(), StoreError> {
    let source = tx.get::<Volume>(&Key::new(Volume::NAME, new.project(), "", id));
    let missing = || {
        let message = format!("Volume {id} could not be found.");
        StoreError::from(Rejection::new(ErrorKind::NotFound, "VolumeNotFound", message))
    };
    let source = source.ok_or_else(missing)?;
    let state = source.status.state;
    if !matches!(state, VolumeState::Available | VolumeState::InUse) {
        let message = format!(
            "Invalid volume: Unable to create a volume from an originating source volume when its status is not one of              ('available', 'in-use') values, it is {state}"
        );
        return Err(invalid("InvalidVolume", message));
    }
    fit(new, source.spec.size_gib, "volume")?;
    new.spec.volume_type = new.spec.volume_type.take().or_else(|| source.spec.volume_type.clone());
    new.spec.is_bootable |= source.spec.is_bootable;
    new.spec.image_metadata = source.spec.image_metadata.clone();
    Ok(())
}

fn fit(new: &mut Resource<Volume>, least: u32, what: &str) -> Result<(), StoreError> {
    if new.spec.size_gib == 0 {
        new.spec.size_gib = least;
    }
    if new.spec.size_gib >= least {
        return Ok(());
    }
    let size = new.spec.size_gib;
    let message = match what {
        "snapshot" => format!(
            "Invalid input received: Volume size '{size}'GB cannot be smaller than the snapshot size {least}GB. They              must be >= original snapshot size."
        ),
        _ => format!(
            "Invalid input received: Volume size '{size}'GB cannot be smaller than original volume size {least}GB. They              must be >= original volume size."
        ),
    };
    Err(invalid("InvalidInput", message))
}

/// Refuses to let a volume go that somebody still needs.
pub(super) fn check_free(volume: &Resource<Volume>) -> Result<(), StoreError> {
    let (id, status) = (volume.name(), &volume.status);
    let message = if status.snapshots > 0 {
        format!(
            "Invalid volume: Volume {id} still has {} dependent snapshots.",
            status.snapshots
        )
    } else if !status.attachments.is_empty() {
        format!("Invalid volume: Volume {id} is still attached, detach volume first.")
    } else if status.clones > 0 {
        format!("Invalid volume: Volume {id} is being cloned.")
    } else {
        return Ok(());
    };
    Err(invalid("InvalidVolume", message))
}

/// What Cinder keeps of an image with the volume that begins as it.
pub(crate) fn image_metadata(image: &Resource<Image>) -> BTreeMap<String, String> {
    let spec = &image.spec;
    let mut kept = spec.properties.clone();
    let mut keep = |name: &str, value: String| _ = kept.insert(name.to_owned(), value);
    keep("image_id", image.name().to_owned());
    keep("image_name", spec.name.clone().unwrap_or_default());
    keep("min_disk", spec.min_disk.to_string());
    keep("min_ram", spec.min_ram.to_string());
    if let Some(format) = spec.disk_format {
        keep("disk_format", format.as_str().to_owned());
    }
    if let Some(format) = spec.container_format {
        keep("container_format", format.as_str().to_owned());
    }
    if let (ImageState::Active, Some(content)) = (image.status.state, &image.status.content) {
        keep("size", content.size.to_string());
        keep("checksum", content.md5.clone());
    }
    kept
}
