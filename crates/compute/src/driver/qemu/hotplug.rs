//! Disks and interfaces that come and go while a machine runs.
//!
//! Every step can be repeated: what an interrupted call left behind is cleared by the next one. A device leaves when its
//! guest lets go of it; a guest that does not is asked again until [`DETACH_WITHIN`] is over.

use std::{os::fd::OwnedFd, path::Path, time::Duration};

use madang_host::{
    netns::Netns,
    tap,
    workload::{Disk, DiskBus, DriverError, IoLimits, Nic},
};
use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    devices::{self, Devices, ROOT},
    job,
    layer::{self, Layer, Protocol, node_of},
    machine::{Machine, Phase},
    shape,
};

/// How long a guest may take to let go of a device. It may be booting under emulation; others wait for their turn.
const DETACH_WITHIN: Duration = Duration::from_secs(90);

/// A guest that was busy (or still booting) misses the request: it is made again.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// How often QEMU is looked at while it tells nothing.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// A disk, unless it is there.
pub(super) async fn attach_disk(machine: &Machine, dir: &Path, disk: &Disk) -> Result<(), DriverError> {
    let node = node_of(disk.id);
    if user_of(machine, &node).await?.is_some() {
        return Ok(());
    }
    refuse_cold(machine, disk.bus).await?;
    let mut known = Devices::load(dir)?;
    let entry = known.add_disk(disk)?;
    clear_nodes(machine, &node).await?;
    known.save(dir)?;
    let attached = async {
        add_nodes(machine, disk).await?;
        machine.ask("device_add", devices::disk_device(disk, &entry, 0)).await?;
        limit_disk(machine, &entry.device, &disk.limits).await
    };
    if let Err(error) = attached.await {
        // An attempt that failed leaves nothing behind.
        let _ = clear_nodes(machine, &node).await;
        known.disks.retain(|entry| entry.id != disk.id);
        known.save(dir)?;
        return Err(error);
    }
    Ok(())
}

/// Takes a disk away and closes what it lies in.
pub(super) async fn detach_disk(machine: &Machine, dir: &Path, id: Uuid) -> Result<(), DriverError> {
    let node = node_of(id);
    if let Some(user) = user_of(machine, &node).await? {
        remove_device(machine, &user.device).await?;
    }
    clear_nodes(machine, &node).await?;
    let mut known = Devices::load(dir)?;
    known.disks.retain(|entry| entry.id != id);
    known.save(dir)
}

/// Tells the guest of a new size.
pub(super) async fn grow_disk(machine: &Machine, id: Uuid, bytes: u64) -> Result<(), DriverError> {
    let user = user_of(machine, &node_of(id)).await?;
    let user = user.ok_or_else(|| DriverError::Host(format!("disk {id} is not attached")))?;
    let resize = json!({ "node-name": user.top, "size": bytes });
    machine.ask("block_resize", resize).await.map(drop)
}

/// Copies a disk to another and goes on with that.
pub(super) async fn swap_disk(machine: &Machine, dir: &Path, old: Uuid, new: &Disk) -> Result<(), DriverError> {
    let (from, to) = (node_of(old), node_of(new.id));
    if user_of(machine, &to).await?.is_some() {
        return Ok(());
    }
    let Some(user) = user_of(machine, &from).await? else {
        return Err(DriverError::Host(format!("disk {old} is not attached")));
    };
    clear_nodes(machine, &to).await?;
    add_nodes(machine, new).await?;
    let mirrored = job::mirror(machine, &user.top, &to).await;
    if let Err(error) = mirrored {
        let _ = clear_nodes(machine, &to).await;
        return Err(error);
    }
    clear_nodes(machine, &from).await?;
    let mut known = Devices::load(dir)?;
    for entry in known.disks.iter_mut().filter(|entry| entry.id == old) {
        entry.id = new.id;
    }
    known.save(dir)
}

/// Goes on writing to an empty layer over what a disk is now. The layer's file was made by who keeps the disk, and its
/// header is not asked what it stands on.
pub(super) async fn stack_disk(machine: &Machine, top: &Disk) -> Result<(), DriverError> {
    let node = node_of(top.id);
    let Some(user) = user_of(machine, &node).await? else {
        return Err(DriverError::Host(format!("disk {} is not attached", top.id)));
    };
    let note = layer::note_of(top);
    let name = layer::stacked(&node, note);
    if user.top == name {
        return Ok(());
    }
    // Of an attempt that nobody remembers.
    clear_one(machine, &name).await?;
    let opened = layer::open(top)?.pop();
    let (mut layer, descriptor) = opened.ok_or_else(|| DriverError::Broken("the new layer has no bytes".into()))?;
    layer.node = name;
    let stacked = async {
        add_layer(machine, &layer, descriptor, None).await?;
        let over = json!({ "node": user.top, "overlay": layer.node });
        machine.ask("blockdev-snapshot", over).await.map(drop)
    };
    if let Err(error) = stacked.await {
        let _ = clear_one(machine, &layer.node).await;
        return Err(error);
    }
    Ok(())
}

/// An interface, unless it is there.
pub(super) async fn attach_nic(machine: &Machine, dir: &Path, nic: &Nic) -> Result<(), DriverError> {
    let device = devices::nic_id(nic.port);
    if has_device(machine, &device).await? {
        return Ok(());
    }
    let mut known = Devices::load(dir)?;
    if known.nic_driver == devices::E1000E {
        return Err(DriverError::Unsupported {
            driver: "qemu",
            action: "attach an e1000e interface to a running machine",
        });
    }
    let entry = known.add_nic(nic)?;
    let netdev = devices::netdev_id(nic.port);
    // Of an attempt that nobody remembers; it would hold the tap.
    let _ = machine.call("netdev_del", json!({ "id": netdev }), None).await;
    known.save(dir)?;
    let attached = async {
        let tap = tap::open(&Netns::named(nic.netns.clone()), &nic.device).await?;
        shape::limit(nic, known.nic_limits).await?;
        give(machine, &netdev, tap).await?;
        let host_end = json!({ "type": "tap", "id": netdev, "fd": netdev });
        machine.ask("netdev_add", host_end).await?;
        machine
            .ask("device_add", devices::nic_device(nic, &entry, &known.nic_driver))
            .await
    };
    if let Err(error) = attached.await {
        let _ = machine.call("netdev_del", json!({ "id": netdev }), None).await;
        known.nics.retain(|entry| entry.port != nic.port);
        known.save(dir)?;
        return Err(error);
    }
    Ok(())
}

/// Takes an interface away; its tap is free afterwards.
pub(super) async fn detach_nic(machine: &Machine, dir: &Path, port: Uuid) -> Result<(), DriverError> {
    let device = devices::nic_id(port);
    if has_device(machine, &device).await? {
        remove_device(machine, &device).await?;
    }
    // Refused when there is none.
    let netdev = json!({ "id": devices::netdev_id(port) });
    let _ = machine.call("netdev_del", netdev, None).await;
    let mut known = Devices::load(dir)?;
    known.nics.retain(|entry| entry.port != port);
    known.save(dir)
}

/// Gives a descriptor to QEMU under a name, which the next command that says it takes.
pub(super) async fn give(machine: &Machine, name: &str, descriptor: OwnedFd) -> Result<(), DriverError> {
    let given = machine.call("getfd", json!({ "fdname": name }), Some(descriptor)).await;
    given
        .map(drop)
        .map_err(|why| DriverError::Host(format!("getfd: {why}")))
}

/// What the host lets through to a disk.
pub(super) async fn limit_disk(machine: &Machine, device: &str, limits: &IoLimits) -> Result<(), DriverError> {
    if *limits == IoLimits::default() {
        return Ok(());
    }
    let blocks = machine.ask("query-block", Value::Null).await?;
    let mut paths = blocks.as_array().into_iter().flatten().map(|block| &block["qdev"]);
    // Not by the device's id: the back end of a virtio disk is a part of the device, known by its path alone.
    let path = paths.find(|path| device_name(path).as_deref() == Some(device));
    let or_none = |limit: Option<u64>| limit.unwrap_or(0);
    let throttle = json!({
        "id": path,
        "bps": or_none(limits.total_bytes_sec), "bps_rd": or_none(limits.read_bytes_sec),
        "bps_wr": or_none(limits.write_bytes_sec), "iops": or_none(limits.total_iops_sec),
        "iops_rd": or_none(limits.read_iops_sec), "iops_wr": or_none(limits.write_iops_sec),
    });
    machine.ask("block_set_io_throttle", throttle).await.map(drop)
}

/// The limits of the root disk.
pub(super) async fn limit_root(machine: &Machine, limits: &IoLimits) -> Result<(), DriverError> {
    limit_disk(machine, ROOT, limits).await
}

/// Opens a disk's layers and makes QEMU know them.
async fn add_nodes(machine: &Machine, disk: &Disk) -> Result<(), DriverError> {
    let mut below: Option<String> = None;
    for (layer, descriptor) in layer::open(disk)? {
        add_layer(machine, &layer, descriptor, below.as_deref()).await?;
        below = Some(layer.node);
    }
    Ok(())
}

/// Makes QEMU know one layer.
pub(super) async fn add_layer(
    machine: &Machine,
    layer: &Layer,
    descriptor: OwnedFd,
    below: Option<&str>,
) -> Result<(), DriverError> {
    let from = match layer.protocol {
        Protocol::Nbd { .. } => {
            give(machine, &layer.node, descriptor).await?;
            layer.node.clone()
        }
        _ => {
            // The note finds the set again when the disk goes.
            let set = machine
                .call("add-fd", json!({ "opaque": layer.node }), Some(descriptor))
                .await;
            let set = set.map_err(|why| DriverError::Host(format!("add-fd: {why}")))?;
            format!("/dev/fdset/{}", set["fdset-id"])
        }
    };
    for node in layer.nodes(&from, below) {
        machine.ask("blockdev-add", node).await?;
    }
    Ok(())
}

/// Removes what is left of a disk that no device uses: its nodes, the highest first, and its descriptors.
pub(super) async fn clear_nodes(machine: &Machine, node: &str) -> Result<(), DriverError> {
    let is_of = |name: &str| layer::is_of(name, node);
    let deadline = Instant::now() + ASK_AGAIN;
    loop {
        let nodes = machine.ask("query-named-block-nodes", json!({ "flat": true })).await?;
        let names = nodes.as_array().into_iter().flatten();
        let names: Vec<&str> = names
            .filter_map(|node| node["node-name"].as_str())
            .filter(|name| is_of(name))
            .collect();
        if names.is_empty() {
            break;
        }
        let mut refusal = None;
        for name in &names {
            // One that another stands on is refused, until that one is gone.
            if let Err(why) = machine.call("blockdev-del", json!({ "node-name": name }), None).await {
                refusal = Some(why);
            }
        }
        if let Some(why) = refusal
            && Instant::now() > deadline
        {
            return Err(DriverError::Host(format!("could not let go of a disk: {why}")));
        }
    }
    close_sets(machine, is_of).await
}

/// Removes a layer that nothing uses, and its descriptor; what is not there is no error.
async fn clear_one(machine: &Machine, node: &str) -> Result<(), DriverError> {
    for name in [node.to_owned(), format!("{node}-file")] {
        let _ = machine.call("blockdev-del", json!({ "node-name": name }), None).await;
    }
    close_sets(machine, |name| name == node).await
}

/// Makes QEMU close the descriptors that it was given for some nodes.
async fn close_sets(machine: &Machine, is_over: impl Fn(&str) -> bool) -> Result<(), DriverError> {
    let sets = machine.ask("query-fdsets", Value::Null).await?;
    for set in sets.as_array().into_iter().flatten() {
        let is_ours = |fd: &Value| fd["opaque"].as_str().is_some_and(&is_over);
        if set["fds"].as_array().is_some_and(|fds| fds.iter().any(is_ours)) {
            machine.ask("remove-fd", json!({ "fdset-id": set["fdset-id"] })).await?;
        }
    }
    Ok(())
}

/// Who uses a disk.
struct User {
    /// The device's id.
    device: String,
    /// The disk's topmost node: its own, or one that was put on it.
    top: String,
}

/// The device that uses a disk, by the disk's node.
async fn user_of(machine: &Machine, node: &str) -> Result<Option<User>, DriverError> {
    let blocks = machine.ask("query-block", Value::Null).await?;
    let user = blocks.as_array().into_iter().flatten().find_map(|block| {
        let top = block["inserted"]["node-name"].as_str()?;
        layer::is_of(top, node).then(|| {
            Some(User {
                device: device_name(&block["qdev"])?,
                top: top.to_owned(),
            })
        })?
    });
    Ok(user)
}

/// The id in `/machine/peripheral/ID/virtio-backend`, or the id itself.
pub(super) fn device_name(path: &Value) -> Option<String> {
    let path = path.as_str()?;
    let name = path.strip_prefix("/machine/peripheral/").unwrap_or(path);
    name.split('/')
        .next()
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
}

async fn has_device(machine: &Machine, id: &str) -> Result<bool, DriverError> {
    let devices = machine
        .ask("qom-list", json!({ "path": "/machine/peripheral" }))
        .await?;
    Ok(devices
        .as_array()
        .into_iter()
        .flatten()
        .any(|device| device["name"] == id))
}

/// Takes a device away, which takes its guest's consent.
async fn remove_device(machine: &Machine, id: &str) -> Result<(), DriverError> {
    if machine.phase() == Phase::Paused {
        return Err(DriverError::Host("a paused guest cannot let go of a device".into()));
    }
    let deadline = Instant::now() + DETACH_WITHIN;
    while Instant::now() < deadline {
        // Refused while the guest is still busy with the last request.
        let _ = machine.call("device_del", json!({ "id": id }), None).await;
        let again = Instant::now() + ASK_AGAIN;
        while Instant::now() < again {
            if !has_device(machine, id).await? {
                return Ok(());
            }
            machine.news(LOOK_AGAIN).await;
        }
    }
    Err(DriverError::TimedOut {
        action: format!("the guest letting go of {id}"),
        after: DETACH_WITHIN,
    })
}

/// Buses that take no disk while the machine runs, or are not there.
async fn refuse_cold(machine: &Machine, bus: DiskBus) -> Result<(), DriverError> {
    let (controller, action) = match bus {
        DiskBus::Virtio => return Ok(()),
        DiskBus::Scsi => (
            "scsi",
            "attach a SCSI disk to a running machine without a SCSI controller",
        ),
        DiskBus::Usb => ("usb", "attach a USB disk to a running machine without a USB controller"),
        DiskBus::Sata | DiskBus::Ide => ("", "attach a SATA disk to a running machine"),
    };
    match has_device(machine, controller).await? {
        true => Ok(()),
        false => Err(DriverError::Unsupported { driver: "qemu", action }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_known_by_their_ids() {
        let name = |path: &str| device_name(&json!(path));
        assert_eq!(name("/machine/peripheral/vda/virtio-backend").as_deref(), Some("vda"));
        assert_eq!(name("/machine/peripheral/disk-1").as_deref(), Some("disk-1"));
        assert_eq!(name("disk-1").as_deref(), Some("disk-1"));
        assert_eq!(device_name(&Value::Null), None);
    }
}
