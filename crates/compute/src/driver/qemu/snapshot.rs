//! Copying a machine's root disk into an image that stands alone.
//!
//! Of a running machine QEMU copies the disk as it was at the first moment, while the guest goes on; where the guest's
//! agent answers, its file systems hold still for that moment.

use std::{
    fs,
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt},
    path::Path,
};

use madang_host::workload::{DiskFormat, DiskKind, DriverError, Root, Workload};

use super::{agent, disk, hotplug, job, layer::Layer, machine::Machine, record::DISK};
use crate::driver::blank;

/// The node that is written to, and that of the root.
const TARGET: &str = "snapshot";
const ROOT_NODE: &str = "disk";

/// Makes the image.
pub(super) async fn take(machine: Option<&Machine>, workload: &Workload, into: &Path) -> Result<(), DriverError> {
    let Root::Disk {
        base,
        format,
        size_bytes,
        ..
    } = &workload.root
    else {
        return Err(DriverError::Unsupported {
            driver: "qemu",
            action: "make a snapshot of a volume",
        });
    };
    match machine {
        Some(machine) => copy_running(machine, workload, *size_bytes, into).await,
        None => {
            // An installer's disk stands alone.
            let is_empty = workload.hardware.root_kind == DiskKind::Cdrom;
            let below = (!is_empty).then_some((base.as_path(), *format));
            disk::convert(&workload.dir.join(DISK), below, into).await
        }
    }
}

async fn copy_running(machine: &Machine, workload: &Workload, size_bytes: u64, into: &Path) -> Result<(), DriverError> {
    let io = || DriverError::io(format!("write {}", into.display()));
    let size = disk::size(&workload.dir.join(DISK))?.max(size_bytes);
    fs::write(into, blank::qcow2(size)).map_err(io())?;
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .mode(0o600)
        .open(into)
        .map_err(io())?;
    // Of an attempt that nobody remembers.
    hotplug::clear_nodes(machine, TARGET).await?;
    let target = Layer::file(TARGET, DiskFormat::Qcow2, false);
    hotplug::add_layer(machine, &target, OwnedFd::from(file), None).await?;
    let is_frozen = workload.hardware.has_guest_agent && agent::freeze(&workload.dir).await;
    let begun = job::begin_backup(machine, ROOT_NODE, TARGET).await;
    if is_frozen {
        agent::thaw(&workload.dir).await;
    }
    let copied = match begun {
        Ok(id) => job::finish_backup(machine, &id).await,
        Err(error) => Err(error),
    };
    let cleared = hotplug::clear_nodes(machine, TARGET).await;
    copied.and(cleared)
}
