//! Images of servers: made here without bytes, filled by the agent of the server's host.

use std::{collections::BTreeMap, sync::Arc};

use madang_block::{Snapshot as VolumeSnapshot, SnapshotSpec, Volume, VolumeState};
use madang_http::Failure;
use madang_identity::Caller;
use madang_image::{ContainerFormat, DiskFormat, Image, ImageSpec, ImageState, Member, MemberStatus, Visibility};
use madang_store::{Key, Kind as _, Metadata, Resource, Store, StoreError, Tx};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{Edit, Wants, allowed, check_lock, transact};
use crate::{
    Phase, Server,
    server::{Doing, Rotation, Snapshot, volumes},
};

/// From these a copy can be made.
pub(super) const COPIED: [Phase; 4] = [Phase::Active, Phase::Stopped, Phase::Paused, Phase::Suspended];

/// Properties that an image of a server does not have from the image the server was made from. Source: Nova's
/// `non_inheritable_image_properties`.
const OWN: [&str; 10] = [
    "cache_in_nova",
    "bittorrent",
    "img_signature_hash_method",
    "img_signature",
    "img_signature_key_type",
    "img_signature_certificate_uuid",
    "os_glance_importing_to_stores",
    "os_glance_failed_import",
    "owner_specified.openstack.md5",
    "owner_specified.openstack.sha256",
];

/// What an image of a server is to be.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Its name.
    pub name: String,
    /// Properties that the user gives it.
    pub properties: BTreeMap<String, String>,
    /// For backups: how many of which sort stay.
    pub rotation: Option<Rotation>,
}

/// Asks for an image of its root, and says the image's id.
///
/// # Errors
/// `Conflict` in a state without it; `Invalid` for a backup of a server that boots from a volume.
pub async fn snapshot(
    store: &Store,
    caller: &Caller,
    server: &Resource<Server>,
    wanted: &Wanted,
) -> Result<String, Failure> {
    let verb = if wanted.rotation.is_some() {
        "createBackup"
    } else {
        "createImage"
    };
    let made = Mutex::new(None);
    let done = transact(store, caller, server, |tx, server| {
        if wanted.rotation.is_some() {
            check_lock(caller, server)?;
        }
        allowed(server, verb, &COPIED, Wants::Idle)?;
        if server.spec.image.is_none() {
            if wanted.rotation.is_some() {
                let message = "Backup is not supported for volume-backed instances.";
                return Err(Edit::Refused(Failure::invalid(message)));
            }
            let image = of_volumes(tx, caller, server, wanted)?;
            server.status.action = Some(Doing::new(verb, tx.cause()));
            *made.lock() = Some(image.name().to_owned());
            return Ok(());
        }
        let image = make(tx, Some(caller), server, wanted)?;
        *made.lock() = Some(image.name().to_owned());
        server.spec.asked.snapshot = Some(Snapshot {
            image: image.name().to_owned(),
            rotation: wanted.rotation.clone(),
        });
        server.status.action = Some(Doing::new(verb, tx.cause()));
        Ok(())
    });
    done.await?;
    let made = made.into_inner();
    made.ok_or_else(|| Failure::internal("the image was not noted"))
}

/// An image of a server that starts from a volume: no bytes, but snapshots of its volumes and how they belong together.
fn of_volumes(
    tx: &mut Tx<'_>,
    caller: &Caller,
    server: &Resource<Server>,
    wanted: &Wanted,
) -> Result<Arc<Resource<Image>>, Edit> {
    let mut mapping = Vec::new();
    for attachment in volumes::of(tx.store(), server.name()) {
        let key = Key::new(Volume::NAME, attachment.project(), "", &attachment.spec.volume);
        let Some(volume) = tx.get::<Volume>(&key) else { continue };
        if volume.status.state != VolumeState::InUse {
            let (id, state) = (volume.name(), volume.status.state);
            let message = format!("Invalid volume: Volume {id} status must be in-use, but current status is: {state}.");
            return Err(Failure::invalid(message).into());
        }
        let spec = SnapshotSpec {
            name: Some(format!("snapshot for {}", wanted.name)),
            volume: volume.name().to_owned(),
            size_gib: volume.spec.size_gib,
            volume_type: volume.spec.volume_type.clone(),
            user: tx.cause().actor.to_string(),
            ..SnapshotSpec::default()
        };
        let metadata = Metadata::with_id(volume.project());
        let snapshot = tx.create(Resource::<VolumeSnapshot>::new(metadata, spec))?;
        let device = attachment.spec.device.clone().unwrap_or_default();
        mapping.push(json!({
            "source_type": "snapshot",
            "destination_type": "volume",
            "snapshot_id": snapshot.name(),
            "volume_size": volume.spec.size_gib,
            "boot_index": device.boot_index,
            "device_name": attachment.spec.mountpoint,
            "disk_bus": device.bus,
            "device_type": device.kind,
            "delete_on_termination": device.delete_on_termination,
            "tag": device.tag,
        }));
    }
    let own = [
        ("bdm_v2", "True".to_owned()),
        ("block_device_mapping", Value::Array(mapping).to_string()),
        ("root_device_name", "/dev/vda".to_owned()),
    ];
    let mut wanted = wanted.clone();
    wanted
        .properties
        .extend(own.map(|(name, value)| (name.to_owned(), value)));
    let image = make(tx, Some(caller), server, &wanted)?;
    let mut there = (*image).clone();
    there.status.state = ImageState::Active;
    Ok(tx.update(&image, there)?)
}

/// Makes the image of a server, without bytes.
pub(super) fn make(
    tx: &mut Tx<'_>,
    caller: Option<&Caller>,
    server: &Resource<Server>,
    wanted: &Wanted,
) -> Result<Arc<Resource<Image>>, StoreError> {
    let base = server.spec.image.as_deref();
    let base = base.and_then(|id| tx.store().cache::<Image>().by_name(id));
    let from_base = base.as_ref().map(|image| &image.spec);
    let mut properties: BTreeMap<String, String> = from_base.map(|spec| spec.properties.clone()).unwrap_or_default();
    properties.retain(|name, _| !OWN.contains(&name.as_str()));
    let user = tx.cause().actor.to_string();
    let sort = if wanted.rotation.is_some() {
        "backup"
    } else {
        "snapshot"
    };
    let own = [
        ("instance_uuid", server.name().to_owned()),
        ("user_id", user),
        ("image_type", sort.to_owned()),
        ("base_image_ref", server.spec.image.clone().unwrap_or_default()),
        ("owner_id", server.project().to_owned()),
        ("image_state", "available".to_owned()),
        ("image_location", "snapshot".to_owned()),
    ];
    properties.extend(own.map(|(name, value)| (name.to_owned(), value)));
    if let Some(rotation) = &wanted.rotation {
        properties.insert("backup_type".to_owned(), rotation.sort.clone());
    }
    properties.extend(wanted.properties.clone());
    let owner = caller
        .and_then(|caller| caller.subject.project_id())
        .unwrap_or(server.project());
    let is_container = server.spec.driver == "oci";
    let mut spec = ImageSpec {
        name: Some(wanted.name.clone()),
        visibility: Visibility::Private,
        container_format: Some(if is_container {
            ContainerFormat::Docker
        } else {
            ContainerFormat::Bare
        }),
        disk_format: Some(if is_container {
            DiskFormat::Raw
        } else {
            DiskFormat::Qcow2
        }),
        min_disk: from_base
            .map_or(0, |spec| spec.min_disk)
            .max(server.spec.flavor.disk_gb),
        min_ram: from_base.map_or(0, |spec| spec.min_ram),
        properties,
        ..ImageSpec::default()
    };
    if owner != server.project() {
        // An admin's copy of somebody's server: the server's owner may use it.
        spec.visibility = Visibility::Shared;
        spec.properties
            .insert("instance_owner".to_owned(), server.project().to_owned());
        spec.members.push(Member {
            project: server.project().to_owned(),
            status: MemberStatus::Pending,
            created: tx.at(),
            updated: tx.at(),
        });
    }
    tx.create(Resource::<Image>::new(Metadata::with_id(owner), spec))
}
