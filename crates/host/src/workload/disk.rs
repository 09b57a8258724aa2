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

/// A disk that is made with its workload, on the host, and goes with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalDisk {
    /// What it is called: `ephemeral0`, `swap`. Its file, its device, its label and its serial number have this name.
    pub name: String,
    /// Its size in bytes. A file system keeps its bytes when it becomes more; swap space is made anew.
    pub size_bytes: u64,
    /// What it begins with.
    pub content: LocalContent,
    /// How the guest sees it.
    pub bus: DiskBus,
}

/// What a disk of the host's begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalContent {
    /// Swap space. For a container, memory beyond its memory.
    Swap,
    /// An empty file system.
    FileSystem(FileSystem),
}

/// File systems that a host can make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileSystem {
    /// The second extended one.
    Ext2,
    /// The third.
    Ext3,
    /// The fourth, the usual one.
    Ext4,
    /// Made with `mkfs.xfs`.
    Xfs,
    /// That of Windows, made with `mkfs.ntfs`.
    Ntfs,
}

impl FileSystem {
    /// Its name, as `mount` knows it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ext2 => "ext2",
            Self::Ext3 => "ext3",
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Ntfs => "ntfs",
        }
    }
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
