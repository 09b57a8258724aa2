//! What a host can run, and the seam behind which it is run.
//!
//! A server's agent turns its resources into a [`Workload`] and hands it to the [`Driver`] that fits. Drivers live in
//! the crates that know their subject (`qemu` and `simulated` in compute, `oci` in container); none of them reads the
//! store. What must always hold: every call may be repeated, and a driver made anew over the same directory finds
//! everything that was running before.

#[cfg(feature = "contract")]
pub mod contract;

use std::{io::ErrorKind, net::IpAddr, path::PathBuf, time::Duration};

use async_trait::async_trait;
use ipnet::IpNet;
use tokio::sync::broadcast;
use uuid::Uuid;

/// Everything a driver needs to know to run one workload.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// The server's (or pod's, or function's) uid; names the workload on the host.
    pub id: Uuid,
    /// What the guest calls itself; a valid DNS label.
    pub hostname: String,
    /// Virtual processors, 1 or more; for containers the share of processors it may use.
    pub vcpus: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// What it starts from.
    pub root: Root,
    /// Network interfaces in guest order.
    pub nics: Vec<Nic>,
    /// A directory of this workload's own, made and owned by the agent. The driver keeps all it has about the workload
    /// in it, so that it is found again after a restart, and leaves nothing elsewhere on the disk.
    pub dir: PathBuf,
    /// The unprivileged user and group id that only this workload runs under on this host.
    pub uid: u32,
    /// An ISO 9660 or VFAT image attached read-only as the config drive.
    pub config_drive: Option<PathBuf>,
}

/// What a workload starts from.
#[derive(Clone, Debug, PartialEq)]
pub enum Root {
    /// A virtual machine's disk: a copy-on-write overlay over a cached, immutable base image.
    Disk {
        /// The verified base image in the host's cache.
        base: PathBuf,
        /// The base image's format.
        format: DiskFormat,
        /// The virtual size of the overlay in bytes, at least that of the base.
        size_bytes: u64,
        /// Boots this kernel directly instead of through the disk's firmware boot.
        kernel: Option<PathBuf>,
        /// The initial ramdisk that goes with `kernel`.
        ramdisk: Option<PathBuf>,
        /// The kernel command line that goes with `kernel`.
        kernel_args: Option<String>,
    },
    /// A container's image: an OCI or `docker save` archive in the host's cache.
    Container {
        /// The verified archive.
        archive: PathBuf,
        /// The archive's content hash (hex), the name under which its unpacked layers are shared on the host.
        digest: String,
        /// Limit of the writable layer in bytes, where the host can enforce one.
        size_bytes: u64,
        /// Environment added to the image's own, as `NAME=value`.
        env: Vec<String>,
    },
}

/// Disk image formats that QEMU is told explicitly; nothing is ever probed from a guest-writable file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFormat {
    /// Plain bytes.
    Raw,
    /// QEMU copy-on-write, version 2 or 3.
    Qcow2,
}

impl DiskFormat {
    /// The name QEMU knows it by.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

/// How a port reaches its workload. The network's agent makes the device before the workload starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Attachment {
    /// A persistent tap device in the fabric namespace; the driver opens it and hands QEMU the descriptor.
    Tap,
    /// A veth pair in the fabric namespace; the driver moves the `peer` end into the workload's own namespace.
    Veth,
}

/// One network interface of a workload, already wired by the network's agent.
#[derive(Clone, Debug, PartialEq)]
pub struct Nic {
    /// The port's id.
    pub port: Uuid,
    /// The guest's MAC address.
    pub mac: [u8; 6],
    /// The bridge-side device in the fabric namespace: the tap itself, or the veth's outer end.
    pub device: String,
    /// The veth end that moves into the workload; none for a tap.
    pub peer: Option<String>,
    /// The namespace that holds `device` (and `peer` until it is moved).
    pub netns: String,
    /// The network's MTU in bytes.
    pub mtu: u16,
    /// Addresses with their prefix lengths. Virtual machines learn them by DHCP; containers are given them.
    pub addresses: Vec<IpNet>,
    /// The default gateway; none on an isolated network.
    pub gateway: Option<IpAddr>,
    /// Further routes: destination and next hop.
    pub routes: Vec<(IpNet, IpAddr)>,
    /// Name servers, best first.
    pub name_servers: Vec<IpAddr>,
}

/// What a driver sees of a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// The host knows nothing of it.
    Absent,
    /// It runs; the process id of the machine monitor or of the container's first process.
    Running {
        /// As seen from the host.
        pid: u32,
    },
    /// Its processors are halted, its memory is kept.
    Paused,
    /// It ended, by request or by itself; its disk is kept.
    Stopped {
        /// The exit code of a container's first process; none for a machine or when unknown.
        exit_code: Option<i32>,
    },
    /// It could not be started or was killed by the host; the reason, in words for the user.
    Failed {
        /// Lower case, without a full stop.
        reason: String,
    },
}

/// Why a driver could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The workload's own data is wrong (a broken image, an impossible size): repeating cannot help.
    #[error("{0}")]
    Broken(String),
    /// Something on this host is missing or full (no QEMU, no space): says what and how to get it.
    #[error("{0}")]
    Host(String),
    /// The driver does not do this.
    #[error("{driver} cannot {action}")]
    Unsupported {
        /// The driver's name.
        driver: &'static str,
        /// A verb phrase, such as `pause a container`.
        action: &'static str,
    },
    /// It did not happen within its time; repeating may help.
    #[error("{action} did not finish within {after:?}")]
    TimedOut {
        /// What was being waited for.
        action: String,
        /// How long.
        after: Duration,
    },
    /// The operating system refused.
    #[error("could not {action}: {source}")]
    Io {
        /// A verb phrase naming the thing and the value.
        action: String,
        /// What it said.
        source: std::io::Error,
    },
}

impl DriverError {
    /// A [`DriverError::Io`] for a `map_err`, or a [`DriverError::Host`] when the disk is full.
    pub fn io(action: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let action = action.into();
        move |source| match source.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                Self::Host(format!("could not {action}: the disk of this host is full"))
            }
            _ => Self::Io { action, source },
        }
    }
}

/// What this crate's tools report is about the host, not about the workload.
impl From<crate::Error> for DriverError {
    fn from(error: crate::Error) -> Self {
        match error {
            crate::Error::Io { action, source } => Self::io(action)(source),
            crate::Error::TimedOut { action, after } => Self::TimedOut { action, after },
            other => Self::Host(other.to_string()),
        }
    }
}

/// Runs workloads of one sort on this host.
///
/// All calls are idempotent: starting what runs, stopping what is stopped and removing what is absent succeed.
/// Workloads outlive the process that holds the driver.
#[async_trait]
pub trait Driver: Send + Sync {
    /// The driver's name: `qemu`, `oci`, `simulated`.
    fn name(&self) -> &'static str;

    /// Starts the workload; it is running (its first process exists and has not failed at once) when this returns.
    async fn start(&self, workload: &Workload) -> Result<(), DriverError>;

    /// Stops it and keeps its disk: politely for at most `grace`, then (or at once when none) by force.
    async fn stop(&self, id: Uuid, grace: Option<Duration>) -> Result<(), DriverError>;

    /// Restarts it on the same disk: politely for at most `grace` (a guest's own reboot), else by force.
    async fn reboot(&self, workload: &Workload, grace: Option<Duration>) -> Result<(), DriverError>;

    /// Halts its processors.
    async fn pause(&self, id: Uuid) -> Result<(), DriverError>;

    /// Lets halted processors go on.
    async fn resume(&self, id: Uuid) -> Result<(), DriverError>;

    /// Ends it by force and frees everything it had on the host, its disk included.
    async fn remove(&self, id: Uuid) -> Result<(), DriverError>;

    /// What it is now.
    async fn state(&self, id: Uuid) -> Result<State, DriverError>;

    /// All workloads of this driver on this host, those found again after a restart included.
    async fn list(&self) -> Result<Vec<(Uuid, State)>, DriverError>;

    /// The last `max_bytes` bytes of its console or output.
    async fn console(&self, id: Uuid, max_bytes: u64) -> Result<Vec<u8>, DriverError>;

    /// Ids of workloads whose state changed without being asked (a guest powered off, a container exited). A receiver
    /// that lags has to look at all of them.
    fn changes(&self) -> broadcast::Receiver<Uuid>;
}
