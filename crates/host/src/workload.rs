//! What a host can run, and the seam behind which it is run.
//!
//! A server's agent turns its resources into a [`Workload`] and hands it to the [`Driver`] that fits. Drivers live in
//! the crates that know their subject (`qemu` and `simulated` in compute, `oci` in container); none of them reads the
//! store. What must always hold: every call may be repeated, and a driver made anew over the same directory finds
//! everything that was running before.

#[cfg(feature = "contract")]
pub mod contract;
mod disk;
mod hardware;

use std::{
    io::ErrorKind,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use ipnet::IpNet;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UnixStream,
    sync::broadcast,
};
use uuid::Uuid;

pub use self::{
    disk::{Disk, DiskBus, DiskKind, DiskSource, FileSystem, IoLimits, LocalContent, LocalDisk},
    hardware::{Cpu, Firmware, Hardware, NicModel, NumaNode, TpmVersion, Video},
};

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
    /// Disks that are made with it, in guest order; they come right after the root.
    pub locals: Vec<LocalDisk>,
    /// Disks beside the root that are there without it, in guest order.
    pub disks: Vec<Disk>,
    /// What it is built of; containers have none.
    pub hardware: Hardware,
    /// Boots from this for once, with the root as a second disk.
    pub rescue: Option<Root>,
}

impl Workload {
    /// Its swap space in bytes.
    pub fn swap_bytes(&self) -> u64 {
        let swap = self.locals.iter().filter(|disk| disk.content == LocalContent::Swap);
        swap.map(|disk| disk.size_bytes).sum()
    }
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
    /// Nothing of its own: it boots from one of its disks, the one with the lowest boot index.
    Attached,
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
    /// It does not run, its memory is kept on the disk; starting it goes on from there.
    Suspended,
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

/// Which console of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConsoleKind {
    /// Its screen, in the RFB protocol.
    Vnc,
    /// Its serial line; a shell in a container.
    Serial,
}

/// Bytes both ways.
pub trait Session: AsyncRead + AsyncWrite + Send + Unpin {
    /// Its terminal, where it has one that can be told its size.
    fn terminal(&self) -> Option<Box<dyn Terminal>> {
        None
    }
}

impl Session for UnixStream {}

/// The terminal of a session.
pub trait Terminal: Send + Sync {
    /// Tells who runs in it how many columns and rows are seen.
    ///
    /// # Errors
    /// What the operating system says; the session goes on.
    fn resize(&self, columns: u16, rows: u16) -> std::io::Result<()>;
}

/// What a workload has used since its last start.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Usage {
    /// How long it has run.
    pub uptime: Duration,
    /// Processor time of each of its processors; one sum for a container.
    pub cpu_time: Vec<Duration>,
    /// Memory it has, in bytes.
    pub memory_bytes: u64,
    /// Memory it uses, in bytes, where that is known.
    pub memory_used_bytes: Option<u64>,
    /// Its disks.
    pub disks: Vec<DiskUsage>,
    /// Its interfaces, by MAC address.
    pub nics: Vec<NicUsage>,
}

/// Which of its disks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DiskName {
    /// Its root.
    #[default]
    Root,
    /// One that was made with it, by its name.
    Local(String),
    /// One that is there without it, by its id.
    Disk(Uuid),
}

/// What went to and from a disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// Which one.
    pub disk: DiskName,
    /// Bytes and requests read.
    pub read: (u64, u64),
    /// Bytes and requests written.
    pub written: (u64, u64),
    /// Requests that failed.
    pub errors: u64,
}

/// What went to and from an interface, as the guest counts it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NicUsage {
    /// Its address.
    pub mac: [u8; 6],
    /// Bytes, packets, errors and drops received.
    pub received: (u64, u64, u64, u64),
    /// Bytes, packets, errors and drops sent.
    pub sent: (u64, u64, u64, u64),
}

/// The answer to what a driver does not do.
fn refuse<T>(driver: &'static str, action: &'static str) -> Result<T, DriverError> {
    Err(DriverError::Unsupported { driver, action })
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

    /// Does what can be done of a start before its interfaces are wired, so that the start takes less time. `workload` has no
    /// interfaces. To others it is absent until it is started; removing it undoes this. What fails here is found again by
    /// the start, and is no reason not to try that.
    async fn make_ready(&self, _workload: &Workload) -> Result<(), DriverError> {
        Ok(())
    }

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

    /// Writes its memory to the disk and ends it; the next start goes on from there.
    async fn suspend(&self, _id: Uuid) -> Result<(), DriverError> {
        refuse(self.name(), "suspend it")
    }

    /// Copies its root, as it is now, into a new file that stands alone: a qcow2 disk of a machine, an OCI archive of a
    /// container. A running guest is asked to write what it holds back, where its agent answers, and goes on meanwhile.
    async fn snapshot(&self, _workload: &Workload, _into: &Path) -> Result<(), DriverError> {
        refuse(self.name(), "make a snapshot")
    }

    /// Adds a disk; a running guest sees it at once. What is there already is left alone.
    async fn attach_disk(&self, _id: Uuid, _disk: &Disk) -> Result<(), DriverError> {
        refuse(self.name(), "attach a disk")
    }

    /// Takes a disk away, asking the guest to let go of it. When this returns the host has let go of it too.
    async fn detach_disk(&self, _id: Uuid, _disk: Uuid) -> Result<(), DriverError> {
        refuse(self.name(), "detach a disk")
    }

    /// Makes a disk so many bytes bigger than before that it has `bytes`; a running guest sees it at once.
    async fn grow_disk(&self, _id: Uuid, _disk: &Disk, _bytes: u64) -> Result<(), DriverError> {
        refuse(self.name(), "grow a disk")
    }

    /// Copies a disk to another while the guest uses it, then goes on with the other one under `new.id`.
    async fn swap_disk(&self, _id: Uuid, _old: Uuid, _new: &Disk) -> Result<(), DriverError> {
        refuse(self.name(), "swap disks")
    }

    /// Goes on writing to `top`, an empty layer over what the disk `top.id` is now, while the guest uses it.
    async fn stack_disk(&self, _id: Uuid, _top: &Disk) -> Result<(), DriverError> {
        refuse(self.name(), "put a layer on a disk")
    }

    /// Moves what runs, as it runs, to another host, where the same driver goes on with it.
    async fn travel(&self, _id: Uuid, _host: &str) -> Result<(), DriverError> {
        refuse(self.name(), "migrate what runs")
    }

    /// Adds a network interface.
    async fn attach_nic(&self, _id: Uuid, _nic: &Nic) -> Result<(), DriverError> {
        refuse(self.name(), "attach an interface")
    }

    /// Takes the interface of a port away.
    async fn detach_nic(&self, _id: Uuid, _port: Uuid) -> Result<(), DriverError> {
        refuse(self.name(), "detach an interface")
    }

    /// Gives a running workload the processors and memory of `workload`.
    async fn resize(&self, _workload: &Workload) -> Result<(), DriverError> {
        refuse(self.name(), "be resized while it runs")
    }

    /// Sets a user's password through the guest's agent.
    async fn set_password(&self, _id: Uuid, _user: &str, _password: &str) -> Result<(), DriverError> {
        refuse(self.name(), "set a password")
    }

    /// Sends the guest a non-maskable interrupt, on which it writes a crash dump.
    async fn trigger_crash_dump(&self, _id: Uuid) -> Result<(), DriverError> {
        refuse(self.name(), "trigger a crash dump")
    }

    /// What it has used so far.
    async fn usage(&self, _id: Uuid) -> Result<Usage, DriverError> {
        refuse(self.name(), "tell what it has used")
    }

    /// Opens a session on its console; bytes flow until either side ends it.
    async fn open_console(&self, _id: Uuid, _kind: ConsoleKind) -> Result<Box<dyn Session>, DriverError> {
        refuse(self.name(), "open a console")
    }

    /// Ids of workloads whose state changed without being asked (a guest powered off, a container exited). A receiver
    /// that lags has to look at all of them.
    fn changes(&self) -> broadcast::Receiver<Uuid>;
}
