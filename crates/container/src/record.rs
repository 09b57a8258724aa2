//! What driver and shim tell each other, as files in the workload's directory.
//!
//! ```text
//! <workload dir>/container/
//!   spec.json      what to run; the driver writes it before each start
//!   record.json    how it goes; written by the shim, and by the driver only after both shim and container are gone
//!   shell.json     how a shell is started in it; written by the shim
//!   disk.img       the writable layer's file system, as large as the flavor says
//!   go             fifo that wakes a shim that was held
//!   stop           there while the container is being ended on request; its end is then no failure
//!   output         fifo of the container's output       console.log, console.log.1   what came out of it
//!   upper, work    the writable layer where it has no bound     runc, runc.log, shim.log     the runtime's and the shim's own
//! ```

use std::{
    fs::File,
    io::{self, Write},
    net::IpAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use madang_host::{process::Identity, userns::IdRange};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    libc,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::files::{read_json, write_json};

/// The lock of a container; given back when dropped.
pub(crate) type Lock = Flock<File>;

/// What to run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spec {
    pub id: Uuid,
    /// Different for every run, so that a shim that comes late does not start it again.
    pub run: Uuid,
    pub hostname: String,
    pub command: Vec<String>,
    /// `NAME=value` each, complete.
    pub env: Vec<String>,
    pub working_dir: String,
    /// As the image writes it.
    pub user: String,
    pub stop_signal: i32,
    /// Chain ids of the image's layers, lowest first; keeps them from being collected.
    pub layers: Vec<String>,
    /// The layers' files, highest first.
    pub lower: Vec<PathBuf>,
    /// First host id of the container's range.
    pub first_id: u32,
    pub vcpus: u32,
    pub memory_bytes: u64,
    /// Memory beyond that, where the host has swap space and counts who uses it.
    #[serde(default)]
    pub swap_bytes: u64,
    pub nics: Vec<SpecNic>,
    pub name_servers: Vec<IpAddr>,
    /// The shim makes all ready and waits until this is false; its interfaces are known then.
    #[serde(default)]
    pub is_held: bool,
    /// Below the roots of the control group hierarchies, such as `madang-0a1b2c/ct-<id>`.
    pub cgroup: String,
    /// The group that shims move to.
    pub shims: String,
    pub runc: PathBuf,
    /// The driver's fifo, which gets the id on every change of the record.
    pub events: PathBuf,
}

impl Spec {
    /// The container's ids on the host.
    pub fn ids(&self) -> IdRange {
        IdRange { first: self.first_id }
    }

    /// Whether a run made ready for this one is the same, but for what is known only when it starts.
    pub fn is_ready_for(&self, other: &Self) -> bool {
        let started = Self {
            run: other.run,
            nics: other.nics.clone(),
            name_servers: other.name_servers.clone(),
            is_held: other.is_held,
            ..self.clone()
        };
        started == *other
    }

    /// What runc calls the container.
    pub fn runc_id(&self) -> String {
        self.id.simple().to_string()
    }
}

/// One interface, already waiting in the fabric.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SpecNic {
    /// The port's id.
    #[serde(default)]
    pub port: Uuid,
    /// What the container calls it.
    #[serde(default)]
    pub name: String,
    /// The device that moves in.
    pub peer: String,
    /// The namespace it waits in and returns to.
    pub netns: PathBuf,
    pub mac: [u8; 6],
    pub mtu: u16,
    pub addresses: Vec<IpNet>,
    pub gateway: Option<IpAddr>,
    pub routes: Vec<(IpNet, IpAddr)>,
}

/// What a container calls its interface of this number.
pub(crate) fn nic_name(number: usize) -> String {
    format!("eth{number}")
}

/// How a container's current or last run goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "lowercase")]
pub(crate) enum Record {
    /// The shim prepares it.
    Starting { shim: Identity },
    /// Its first process runs.
    Running { shim: Identity, init: Identity },
    /// It ran and ended.
    Exited {
        shim: Identity,
        /// 128 + signal where one ended it; none when nobody saw it end.
        code: Option<i32>,
        /// Seconds since 1970.
        at: u64,
    },
    /// It could not be started, or the host ended it.
    Failed {
        shim: Identity,
        reason: String,
        /// Whether its own data is at fault, so that repeating cannot help.
        broken: bool,
        at: u64,
    },
}

impl Record {
    pub fn shim(&self) -> Identity {
        match self {
            Self::Starting { shim }
            | Self::Running { shim, .. }
            | Self::Exited { shim, .. }
            | Self::Failed { shim, .. } => *shim,
        }
    }
}

/// The container's directory in the workload's.
#[derive(Clone, Debug)]
pub(crate) struct Home(PathBuf);

impl Home {
    pub fn of_workload(dir: &Path) -> Self {
        Self(dir.join("container"))
    }

    pub fn at(path: PathBuf) -> Self {
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn spec(&self) -> io::Result<Option<Spec>> {
        let mut spec: Option<Spec> = read_json(&self.file("spec.json"))?;
        let nics = spec.iter_mut().flat_map(|spec| spec.nics.iter_mut().enumerate());
        // Specifications of before devices had names.
        for (i, nic) in nics.filter(|(_, nic)| nic.name.is_empty()) {
            nic.name = nic_name(i);
        }
        Ok(spec)
    }

    pub fn write_spec(&self, spec: &Spec) -> io::Result<()> {
        write_json(&self.file("spec.json"), spec)
    }

    pub fn record(&self) -> io::Result<Option<Record>> {
        read_json(&self.file("record.json"))
    }

    /// Writes the record and tells the driver, if there is one now.
    pub fn write_record(&self, spec: &Spec, record: &Record) -> io::Result<()> {
        write_json(&self.file("record.json"), record)?;
        // Without a driver nobody reads, and a full fifo means that it is behind: it also watches the shim's own end.
        if let Ok(mut events) = File::options()
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(&spec.events)
        {
            let _ = events.write_all(format!("{}\n", spec.id).as_bytes());
        }
        Ok(())
    }

    /// Takes the lock that a shim holds all its life; none if somebody has it.
    pub fn try_lock(&self) -> io::Result<Option<Lock>> {
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(self.file("shim.lock"))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Some(lock)),
            Err((_, Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, error)) => Err(error.into()),
        }
    }

    /// Whether a shim lives.
    pub fn is_attended(&self) -> io::Result<bool> {
        match self.try_lock() {
            Ok(lock) => Ok(lock.is_none()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Wakes a shim that was held. One that does not listen yet reads the specification later anyway.
    pub fn poke(&self) -> io::Result<()> {
        let fifo = File::options()
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(self.file("go"));
        match fifo.and_then(|mut fifo| fifo.write_all(b"g")) {
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => Ok(()),
            done => done,
        }
    }

    /// Whether it is being ended on request.
    pub fn is_stopping(&self) -> bool {
        self.file("stop").exists()
    }
}
