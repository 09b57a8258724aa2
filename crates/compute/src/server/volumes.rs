//! The volumes of a server: attaching and taking away, and those that a new server begins with.
//!
//! An attachment is block's resource, made here with the server as its owner. The rule of attachments keeps the volume's
//! state; the agent of the server's host brings each to `attached` and, once it is deleted, lets go of it
//! ([`crate::agent`]). Whatever a server leaves behind is let go in the transaction in which it goes.

pub mod api;
pub mod mapping;

use std::{collections::BTreeSet, sync::Arc};

use madang_block::{
    AttachState, Attachment, AttachmentSpec, Device, Source, Task, Volume, VolumeSpec, VolumeState,
    attachment::AGENT_FINALIZER as HELD,
};
use madang_host::workload::DiskBus;
use madang_http::Failure;
use madang_identity::Caller;
use madang_store::{ErrorKind, Key, Kind as _, Metadata, Rejection, Resource, Store, StoreError, Tx};

use super::{Phase, Server, action, verbs};

/// A failure inside a transaction, so that the store's own errors come out in Nova's words.
struct Refusal(Failure);

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self(crate::api::failure(error))
    }
}

impl From<Rejection> for Refusal {
    fn from(rejection: Rejection) -> Self {
        StoreError::from(rejection).into()
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self(failure)
    }
}

/// A disk that a new server begins with.
#[derive(Clone, Debug)]
pub struct DeviceRequest {
    /// What it is.
    pub source: DeviceSource,
    /// How the server sees it.
    pub device: Device,
    /// Where: `/dev/vdb`; the next free one when none.
    pub name: Option<String>,
}

/// What a disk of a new server is.
#[derive(Clone, Debug)]
pub enum DeviceSource {
    /// A volume that is there.
    Volume(String),
    /// A volume that is made for it.
    New {
        /// What the volume begins as.
        source: Source,
        /// Its size in GiB; 0 for that of what it begins as.
        size_gib: u32,
        /// The id of its type.
        volume_type: Option<String>,
    },
}

/// The volumes of a server, in guest order.
pub fn of(store: &Store, server: &str) -> Vec<Arc<Resource<Attachment>>> {
    let mut attachments = store.cache::<Attachment>().by("server", server);
    attachments.retain(|attachment| attachment.spec.device.is_some());
    attachments.sort_unstable_by_key(|attachment| {
        let order = attachment.spec.device.as_ref().map_or(0, |device| device.order);
        (order, attachment.metadata.created, attachment.metadata.uid)
    });
    attachments
}

/// The names that a server's volumes have.
pub(super) fn names(store: &Store, server: &str) -> BTreeSet<String> {
    names_of(&of(store, server))
}

fn names_of(attachments: &[Arc<Resource<Attachment>>]) -> BTreeSet<String> {
    let names = attachments
        .iter()
        .filter_map(|attachment| attachment.spec.mountpoint.clone());
    names.collect()
}

/// Whether a server starts from a volume.
pub fn boots_from(attachments: &[Arc<Resource<Attachment>>]) -> bool {
    attachments.iter().any(|attachment| is_root(attachment))
}

/// The volume that a server starts from, if it does.
pub fn root_volume(store: &Store, server: &str) -> Option<Arc<Resource<Volume>>> {
    let root = of(store, server).into_iter().find(|attachment| is_root(attachment))?;
    store.cache::<Volume>().by_name(&root.spec.volume)
}

fn is_root(attachment: &Resource<Attachment>) -> bool {
    attachment.spec.device.as_ref().and_then(|device| device.boot_index) == Some(0)
}

/// What is asked of a volume that a server is to have.
#[derive(Clone, Debug, Default)]
pub struct Attach {
    /// The volume's id.
    pub volume: String,
    /// Where the user wants it.
    pub name: Option<String>,
    /// The user's tag.
    pub tag: Option<String>,
    /// It goes when the server goes.
    pub delete_on_termination: bool,
    /// The caller knows of volumes that several servers have.
    pub may_share: bool,
}

/// Why containers have no volumes: whoever had the volume before wrote its file system, and the kernel that all share
/// would have to trust it.
pub const NO_VOLUMES: &str = "volumes are disks, and mounting a disk that others may have written is not safe for its \
                              host; attach it to a virtual machine";

/// Attaches a volume to a server.
///
/// # Errors
/// 404 for a volume there is not; 400 for one that is not free; 409 for a server that cannot take it now.
pub async fn attach(
    store: &Store,
    caller: &Caller,
    server: &Resource<Server>,
    wanted: &Attach,
) -> Result<Arc<Resource<Attachment>>, Failure> {
    verbs::check_lock(caller, server)?;
    verbs::refuse_container(server, NO_VOLUMES)?;
    check_phase(server, "attach_volume")?;
    let key = server.key();
    let attached = store.transact::<_, Refusal>(caller.cause(), |tx| {
        let server = tx
            .get::<Server>(&key)
            .ok_or_else(|| StoreError::NotFound { key: key.clone() })?;
        let volume = find(tx, caller, &wanted.volume)?;
        check_sharing(&server, &volume, wanted.may_share)?;
        let others = of(tx.store(), server.name());
        if others.iter().any(|other| other.spec.volume == wanted.volume) {
            let message = format!(
                "Invalid volume: volume {} already attached to instance {}",
                wanted.volume,
                server.name()
            );
            return Err(Failure::invalid(message).into());
        }
        let device = Device {
            tag: wanted.tag.clone(),
            delete_on_termination: wanted.delete_on_termination,
            order: next_order(&others),
            ..Device::default()
        };
        let mut taken = names_of(&others);
        taken.extend(server.spec.disks.iter().map(|disk| disk.device.clone()));
        let name = device_name(wanted.name.as_deref(), &taken, false)?;
        // One that is on no host has nobody who would bring it on.
        let state = match server.status.host {
            Some(_) => AttachState::Attaching,
            None => AttachState::Attached,
        };
        action::note(tx, &server, "attach_volume", None)?;
        Ok(make(tx, &server, &volume, name, device, state)?)
    });
    attached.await.map_err(|Refusal(failure)| failure)
}

/// A volume that the caller may know of; an admin may give a server another project's.
fn find(tx: &Tx<'_>, caller: &Caller, id: &str) -> Result<Arc<Resource<Volume>>, Failure> {
    let missing = || Failure::not_found(format!("Volume {id} could not be found."));
    let known = tx.store().cache::<Volume>().by_name(id);
    known
        .filter(|volume| caller.can_see(volume.project()))
        .and_then(|volume| tx.get::<Volume>(&volume.key()))
        .ok_or_else(missing)
}

/// Refuses a volume for several servers where it cannot be one of them.
fn check_sharing(server: &Resource<Server>, volume: &Resource<Volume>, may_share: bool) -> Result<(), Failure> {
    if !volume.spec.is_multiattach {
        return Ok(());
    }
    if !may_share {
        let message = "Multiattach volumes are only supported starting with compute API version 2.60.";
        return Err(Failure::invalid(message));
    }
    if matches!(server.status.phase, Phase::Shelved | Phase::Offloaded) {
        let message = "Attaching multiattach volumes is not supported for shelved-offloaded instances.";
        return Err(Failure::invalid(message));
    }
    Ok(())
}

/// Asks for a server to go on with another volume in the stead of one that it has, while it runs.
///
/// # Errors
/// 404 for a volume there is not; 409 unless block says that it migrates, and for a server that does not run; 400 for a new
/// one that is not there, not free, too small, or where several servers write to the old one.
pub async fn swap(
    store: &Store,
    caller: &Caller,
    server: &Resource<Server>,
    old: &str,
    new: &str,
) -> Result<(), Failure> {
    let key = server.key();
    let swapped = store.transact::<(), Refusal>(caller.cause(), |tx| {
        let server = tx
            .get::<Server>(&key)
            .ok_or_else(|| StoreError::NotFound { key: key.clone() })?;
        let volume = find(tx, caller, old)?;
        if volume.status.migration.as_deref().is_none_or(str::is_empty) {
            let message = format!("volume {old} is not migrating; this API should only be called by Cinder");
            return Err(Failure::conflict(message).into());
        }
        verbs::check_lock(caller, &server)?;
        if !matches!(server.status.phase, Phase::Active | Phase::Paused | Phase::Resized) {
            return Err(wrong_phase(&server, "swap_volume").into());
        }
        let other = find(tx, caller, new).map_err(|failure| Failure::invalid(failure.message))?;
        let attachments = of(tx.store(), server.name());
        let attachment = attachments
            .iter()
            .find(|attachment| attachment.spec.volume == old)
            .ok_or_else(|| Failure::not_found(format!("No volume Block Device Mapping with volume_id {old}.")))?;
        check_swap(&volume, &other)?;
        let device = Device {
            replaces: Some(attachment.name().to_owned()),
            ..attachment.spec.device.clone().unwrap_or_default()
        };
        let name = attachment.spec.mountpoint.clone().unwrap_or_default();
        action::note(tx, &server, "swap_volume", None)?;
        make(tx, &server, &other, name, device, AttachState::Attaching)?;
        Ok(())
    });
    swapped.await.map_err(|Refusal(failure)| failure)
}

fn check_swap(old: &Resource<Volume>, new: &Resource<Volume>) -> Result<(), Failure> {
    let refuse = |why: &str| Err(Failure::invalid(format!("Invalid volume: {why}")));
    if old.status.attachments.len() > 1 && old.spec.is_read_only != Some(true) {
        let message = format!(
            "Volume {} is attached in read/write mode to more than one server, it cannot be swapped.",
            old.name()
        );
        return Err(Failure::invalid(message));
    }
    if !new.status.attachments.is_empty() {
        return refuse("New volume must be detached in order to swap.");
    }
    if new.spec.size_gib < old.spec.size_gib {
        return refuse("New volume must be the same size or larger.");
    }
    Ok(())
}

fn next_order(others: &[Arc<Resource<Attachment>>]) -> u32 {
    let orders = others
        .iter()
        .filter_map(|other| Some(other.spec.device.as_ref()?.order));
    orders.max().map_or(1, |last| last + 1)
}

fn make(
    tx: &mut Tx<'_>,
    server: &Resource<Server>,
    volume: &Resource<Volume>,
    name: String,
    device: Device,
    state: AttachState,
) -> Result<Arc<Resource<Attachment>>, StoreError> {
    let mut metadata = Metadata::with_id(volume.project());
    metadata.owners = vec![server.as_owner()];
    if server.status.host.is_some() {
        metadata.finalizers.push(HELD.to_owned());
    }
    let spec = AttachmentSpec {
        volume: volume.name().to_owned(),
        server: Some(server.name().to_owned()),
        mountpoint: Some(name),
        device: Some(device),
        ..AttachmentSpec::default()
    };
    let mut attachment = Resource::<Attachment>::new(metadata, spec);
    attachment.status.state = state;
    attachment.status.host.clone_from(&server.status.host);
    tx.create(attachment)
}

/// The device a disk is seen as: the one asked for, or the next that is free.
fn device_name(wanted: Option<&str>, taken: &BTreeSet<String>, is_root: bool) -> Result<String, Rejection> {
    if let Some(wanted) = wanted.filter(|wanted| !wanted.is_empty()) {
        let name = path_of(wanted);
        if taken.contains(&name) {
            let message = format!("The supplied device path ({name}) is in use.");
            return Err(Rejection::new(ErrorKind::Conflict, "DevicePathInUse", message).at("device"));
        }
        return Ok(name);
    }
    let first = if is_root { b'a' } else { b'b' };
    let mut names = (first..=b'z').map(|letter| format!("/dev/vd{}", char::from(letter)));
    names.find(|name| !taken.contains(name)).ok_or_else(|| {
        let message = "the server has as many disks as it can have";
        Rejection::new(ErrorKind::Forbidden, "TooManyDiskDevices", message)
    })
}

fn path_of(name: &str) -> String {
    format!("/dev/{}", name.trim_start_matches("/dev/"))
}

/// The servers' states in which volumes come and go.
fn check_phase(server: &Resource<Server>, verb: &str) -> Result<(), Failure> {
    let states = [
        Phase::Active,
        Phase::Stopped,
        Phase::Paused,
        Phase::Resized,
        Phase::SoftDeleted,
        Phase::Shelved,
        Phase::Offloaded,
    ];
    if states.contains(&server.status.phase) {
        return Ok(());
    }
    Err(wrong_phase(server, verb))
}

fn wrong_phase(server: &Resource<Server>, verb: &str) -> Failure {
    let state = super::state::of(server).vm_state;
    let id = server.name();
    Failure::conflict(format!("Cannot '{verb}' instance {id} while it is in vm_state {state}"))
}

/// Asks for a volume to be taken away from a server.
///
/// # Errors
/// 400 for the volume the server starts from; 409 for a server in another state.
pub async fn detach(
    store: &Store,
    caller: &Caller,
    server: &Resource<Server>,
    attachment: &Resource<Attachment>,
) -> Result<(), Failure> {
    verbs::check_lock(caller, server)?;
    check_phase(server, "detach_volume")?;
    if is_root(attachment) {
        return Err(Failure::invalid("Cannot detach a root device volume"));
    }
    let key = attachment.key();
    let detached = store.transact::<(), Refusal>(caller.cause(), |tx| match tx.get::<Attachment>(&key) {
        Some(attachment) => {
            action::note(tx, server, "detach_volume", None)?;
            Ok(tx.delete(&attachment)?)
        }
        None => Ok(()),
    });
    detached.await.map_err(|Refusal(failure)| failure)
}

/// Changes whether a volume goes with its server.
///
/// # Errors
/// `NotFound` when it is taken away meanwhile.
pub async fn keep(
    store: &Store,
    caller: &Caller,
    attachment: &Resource<Attachment>,
    delete_on_termination: bool,
) -> Result<(), Failure> {
    let key = attachment.key();
    let changed = store.modify::<Attachment, StoreError>(&key, caller.cause(), |attachment| {
        if let Some(device) = &mut attachment.spec.device {
            device.delete_on_termination = delete_on_termination;
        }
        Ok(())
    });
    changed.await.map(|_| ()).map_err(crate::api::failure)
}

/// Makes the disks that a new server begins with, in its own transaction.
pub(super) fn begin(tx: &mut Tx<'_>, server: &Resource<Server>, devices: &[DeviceRequest]) -> Result<(), StoreError> {
    let locals: BTreeSet<String> = server.spec.disks.iter().map(|disk| disk.device.clone()).collect();
    let mut taken = locals.clone();
    for (order, request) in (0_u32..).zip(devices) {
        let is_root = request.device.boot_index == Some(0);
        let volume = match &request.source {
            DeviceSource::Volume(id) => {
                let key = Key::new(Volume::NAME, server.project(), "", id);
                tx.get::<Volume>(&key).ok_or(StoreError::NotFound { key })?
            }
            DeviceSource::New {
                source,
                size_gib,
                volume_type,
            } => {
                let spec = VolumeSpec {
                    size_gib: *size_gib,
                    user: server.spec.user.clone(),
                    volume_type: volume_type.clone(),
                    source: source.clone(),
                    ..VolumeSpec::default()
                };
                tx.create(Resource::<Volume>::new(Metadata::with_id(server.project()), spec))?
            }
        };
        let device = Device {
            order,
            ..request.device.clone()
        };
        // Where the host's own disks are is not for a request to say.
        let wanted = request.name.as_deref().filter(|name| !locals.contains(&path_of(name)));
        let name = device_name(wanted, &taken, is_root)?;
        taken.insert(name.clone());
        make(tx, server, &volume, name, device, AttachState::Reserved)?;
    }
    Ok(())
}

/// Has the volume that a server starts from begin anew as an image, which nobody has open meanwhile.
pub(crate) fn reimage(tx: &mut Tx<'_>, server: &str, image: &str) -> Result<(), StoreError> {
    let Some(volume) = root_volume(tx.store(), server).and_then(|volume| tx.get::<Volume>(&volume.key())) else {
        return Ok(());
    };
    let mut new = (*volume).clone();
    new.status.state = VolumeState::Downloading;
    new.status.task = Some(Task::Reimage {
        image: image.to_owned(),
    });
    tx.update(&volume, new).map(|_| ())
}

/// A server leaves its host: no agent holds its volumes any more, they stay its own.
pub(super) fn leave(tx: &mut Tx<'_>, server: &Resource<Server>) -> Result<(), StoreError> {
    for attachment in tx.store().cache::<Attachment>().by("server", server.name()) {
        let Some(attachment) = tx.get::<Attachment>(&attachment.key()) else {
            continue;
        };
        let mut free = (*attachment).clone();
        free.metadata.finalizers.retain(|finalizer| finalizer != HELD);
        free.status.host = None;
        if free.status.state == AttachState::Attaching {
            free.status.state = AttachState::Attached;
        }
        tx.update(&attachment, free)?;
    }
    Ok(())
}

/// Lets go of a server's volumes, in the transaction in which it goes.
pub(super) fn let_go(tx: &mut Tx<'_>, server: &Resource<Server>) -> Result<(), StoreError> {
    for attachment in tx.store().cache::<Attachment>().by("server", server.name()) {
        let Some(attachment) = tx.get::<Attachment>(&attachment.key()) else {
            continue;
        };
        let Some(device) = &attachment.spec.device else {
            continue;
        };
        let mut free = (*attachment).clone();
        free.metadata.finalizers.retain(|finalizer| finalizer != HELD);
        let free = tx.update(&attachment, free)?;
        tx.delete(&free)?;
        if !device.delete_on_termination {
            continue;
        }
        let key = Key::new(Volume::NAME, attachment.project(), "", &attachment.spec.volume);
        // One that somebody else still needs stays, as in the original.
        if let Some(volume) = tx.get::<Volume>(&key)
            && volume.status.attachments.is_empty()
            && volume.status.snapshots == 0
            && volume.status.clones == 0
        {
            tx.delete(&volume)?;
        }
    }
    Ok(())
}

/// The bus of a name such as `virtio`.
pub(crate) fn bus(name: &str) -> Option<DiskBus> {
    Some(match name {
        "virtio" => DiskBus::Virtio,
        "scsi" => DiskBus::Scsi,
        "sata" => DiskBus::Sata,
        "ide" => DiskBus::Ide,
        "usb" => DiskBus::Usb,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_get_the_next_free_name() {
        let mut taken = BTreeSet::new();
        assert_eq!(device_name(None, &taken, true).unwrap(), "/dev/vda");
        assert_eq!(device_name(None, &taken, false).unwrap(), "/dev/vdb");
        taken.insert("/dev/vdb".to_owned());
        assert_eq!(device_name(None, &taken, false).unwrap(), "/dev/vdc");
        assert_eq!(device_name(Some("vdx"), &taken, false).unwrap(), "/dev/vdx");
        assert!(device_name(Some("/dev/vdb"), &taken, false).is_err());
        taken.extend((b'a'..=b'z').map(|letter| format!("/dev/vd{}", char::from(letter))));
        assert!(device_name(None, &taken, false).is_err());
    }
}
