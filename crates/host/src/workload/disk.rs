//! Disks that a workload has beside (or instead of) its root: volumes, rescue disks, installer media.

use std::path::PathBuf;

use uuid::Uuid;

use super::DiskFormat;

/// A disk that may come and go while the workload runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Disk {
    /// Names it within the workload: the volume's id.
    pub id: Uuid,
    /// Where its bytes are.
    pub source: DiskSource,
    /// How the guest sees it.
    pub bus: DiskBus,
    /// A disk or a medium in a drive.
    pub kind: DiskKind,
    /// The serial number the guest reads; the volume's id, as Nova's.
    pub serial: String,
    /// The guest may not write.
    pub is_read_only: bool,
    /// The order in which the firmware tries it, from 0; never when none.
    pub boot_index: Option<u32>,
    /// What the host lets through.
    pub limits: IoLimits,
    /// Where a container mounts it; machines see devices.
    pub mount_point: Option<PathBuf>,
}

/// Where a disk's bytes are, as the host reaches them.
#[derive(Clone, Debug, PartialEq)]
pub enum DiskSource {
    /// A file or block device of this host; what a qcow2 file stands on is opened with it.
    File {
        /// Its path, made and owned by the driver of the volume's back end.
        path: PathBuf,
        /// Its format.
        format: DiskFormat,
    },
    /// An NBD export on a local socket, such as `qemu-storage-daemon` serves.
    Nbd {
        /// The socket.
        socket: PathBuf,
        /// The export's name.
        export: String,
    },
}

/// How a guest sees a disk. Source: the image property `hw_disk_bus`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskBus {
    /// `virtio-blk`.
    #[default]
    Virtio,
    /// A disk on a `virtio-scsi` controller.
    Scsi,
    /// A disk on an AHCI controller.
    Sata,
    /// A disk on the board's IDE controller (served as SATA on boards without one).
    Ide,
    /// A USB storage device.
    Usb,
}

/// What a disk is to the guest. Source: Nova's `device_type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskKind {
    /// A disk.
    #[default]
    Disk,
    /// A compact disc in a drive.
    Cdrom,
}

/// Limits of a disk or an interface; none where nothing is said. Source: Nova's `quota:*` extra specs and Cinder's
/// front-end QoS specs, which have the same words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct IoLimits {
    /// Bytes read a second.
    pub read_bytes_sec: Option<u64>,
    /// Bytes written a second.
    pub write_bytes_sec: Option<u64>,
    /// Bytes read and written a second.
    pub total_bytes_sec: Option<u64>,
    /// Reads a second.
    pub read_iops_sec: Option<u64>,
    /// Writes a second.
    pub write_iops_sec: Option<u64>,
    /// Reads and writes a second.
    pub total_iops_sec: Option<u64>,
}
