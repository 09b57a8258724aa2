//! What a server's machine is, from what the store knows of its image, its flavor and its place.

use madang_block::Source;
use madang_host::workload::Hardware;
use madang_image::{DiskFormat, Image};
use madang_scheduler::{Claim, Seat};
use madang_store::{Resource, Store};

use super::{
    Server,
    hardware::{self, Properties, Unfit},
    volumes::{self, DeviceRequest, DeviceSource},
};

/// What its image says of machines: the one in the volume, where it starts from one.
pub(crate) fn image_properties(store: &Store, server: &Resource<Server>) -> Properties {
    let id = server.spec.image.as_deref();
    if let Some(image) = id.and_then(|id| store.cache::<Image>().by_name(id)) {
        return image.spec.properties.clone();
    }
    let volume = volumes::root_volume(store, server.name());
    volume
        .map(|volume| volume.spec.image_metadata.clone())
        .unwrap_or_default()
}

/// What the image says of machines that is in the volume a new server starts from.
pub(crate) fn image_properties_in(store: &Store, root: &DeviceRequest) -> Properties {
    let volumes = store.cache::<madang_block::Volume>();
    let snapshots = store.cache::<madang_block::Snapshot>();
    let in_volume = |id: &str| volumes.by_name(id).map(|volume| volume.spec.image_metadata.clone());
    let properties = match &root.source {
        DeviceSource::Volume(id) => in_volume(id),
        DeviceSource::New { source, .. } => match source {
            Source::Image(id) => {
                let image = store.cache::<Image>().by_name(id);
                image.map(|image| image.spec.properties.clone())
            }
            Source::Snapshot(id) => snapshots
                .by_name(id)
                .and_then(|snapshot| in_volume(&snapshot.spec.volume)),
            _ => None,
        },
    };
    properties.unwrap_or_default()
}

/// What its machine is built of.
///
/// # Errors
/// [`Unfit`], naming property and value.
pub(crate) fn hardware(store: &Store, server: &Resource<Server>) -> Result<Hardware, Unfit> {
    let id = server.spec.image.as_deref();
    let image = id.and_then(|id| store.cache::<Image>().by_name(id));
    let is_iso = image.is_some_and(|image| image.spec.disk_format == Some(DiskFormat::Iso));
    let (properties, flavor) = (image_properties(store, server), &server.spec.flavor);
    hardware::of(&properties, is_iso, &flavor.extra_specs, flavor.vcpus, flavor.ram_mb)
}

/// What it was given of the host it is on: while it moves, its old place is the migration's.
pub(crate) fn seats(store: &Store, server: &Resource<Server>) -> Vec<Seat> {
    let moving = server.spec.asked.moving.as_ref();
    let names = [
        Some(server.name().to_owned()),
        moving.map(|moving| moving.migration.to_string()),
    ];
    let claims = names
        .iter()
        .flatten()
        .filter_map(|name| store.cache::<Claim>().by_name(name));
    let mut here = claims.filter(|claim| claim.status.host == server.status.host);
    here.next().map(|claim| claim.status.seats.clone()).unwrap_or_default()
}
