//! The `oci` workload driver: containers, as the host's agent asks for them.
//!
//! The driver holds nothing that matters: what to run and how it goes is in each workload's directory (see [`record`]),
//! written by the shim beside it. A driver made anew reads it, watches the shims again, and gives a container whose shim
//! was killed a new one.
//!
//! ```text
//! absent ── start ──► starting ──► running ◄── pause/resume ──► paused
//!    ▲                   │            │ its program ends, or stop
//!    └── remove ── failed/stopped ◄───┘
//! ```
//! A start may be begun before its interfaces are wired (`make_ready`): its shim then makes all else, runc's part included,
//! and waits; the start only gives it the interfaces and the word. Until then the workload is absent to others.
//!
//! One operation per workload at a time; a call that is cancelled halfway leaves a shim that goes on by itself, and the
//! next call finds it.
//!
//! [`record`]: crate::record

mod copy;
mod freezer;
mod interfaces;
mod launch;
mod life;
mod shell;
mod spare;
mod usage;
mod watch;

use std::{
    collections::{HashMap, HashSet},
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use madang_control::TaskGroup;
use madang_host::{
    Instance,
    cgroup::{Group, Hierarchies},
    process::Identity,
    workload::{ConsoleKind, Driver, DriverError, Nic, Session, State, Usage, Workload},
};
use parking_lot::Mutex;
use tokio::sync::{Notify, broadcast};
use tracing::warn;
use uuid::Uuid;

use self::spare::Spare;
use crate::{
    archive::ImageError,
    disk::{self, Blanks},
    layers::{LayerStore, Prepared, private_dir},
    record::{Home, Record},
    shim::tail,
};

/// Layers that no container uses are kept this long, for the next one.
const KEEP_LAYERS: Duration = Duration::from_secs(3600);
/// How often unused layers are looked for.
const COLLECT_EVERY: Duration = Duration::from_secs(900);
/// How long newly unpacked layers wait before they are written to the disk.
const FLUSH_AFTER: Duration = Duration::from_secs(2);
/// Changes that a slow receiver may be behind before it has to look at all workloads.
const CHANGES: usize = 1024;

/// How a driver is made.
pub struct Options {
    /// `DIR/containers`: shared layers, and where every container's own directory is.
    pub root: PathBuf,
    /// Whose containers these are.
    pub instance: Instance,
    /// The program that ends in [`crate::shim_main`] and the arguments before its own, such as
    /// `/usr/bin/madang container-shim`. Has to exist for as long as containers run.
    pub shim: Vec<OsString>,
    /// Owns the driver's tasks.
    pub tasks: TaskGroup,
}

/// Runs containers through runc; see the [module](self) for how.
///
/// Of a [`Workload`] `config_drive` has no effect here, because a container has no drives (it reads the metadata service).
#[derive(Clone)]
pub struct OciDriver {
    inner: Arc<Inner>,
}

struct Inner {
    layers: LayerStore,
    /// What writable layers begin as; none where this host cannot bound them.
    blanks: Option<Blanks>,
    /// Where unnamed files can be.
    scratch: PathBuf,
    /// A link per workload to its directory in the workload's own.
    workloads: PathBuf,
    events: PathBuf,
    shim: Vec<OsString>,
    shims: Group,
    hierarchies: Hierarchies,
    instance: Instance,
    tasks: TaskGroup,
    changes: broadcast::Sender<Uuid>,
    /// Every change of a record, asked for or not.
    pulses: broadcast::Sender<Uuid>,
    locks: Mutex<HashMap<Uuid, Arc<tokio::sync::Mutex<()>>>>,
    /// Shims that are waited for, and whose they are.
    watched: Mutex<HashMap<Identity, Uuid>>,
    /// Told when layers may have been unpacked.
    unpacked: Notify,
    /// A shim that waits for its container.
    spare: Mutex<Option<Spare>>,
    /// Told when a container has started.
    spare_wanted: Notify,
}

impl OciDriver {
    /// Opens the driver over a data directory, finds its containers again and watches them. Needs a tokio runtime.
    ///
    /// # Errors
    /// If the directory cannot be made or read. A missing runc is reported by [`Driver::start`].
    pub async fn open(options: Options) -> Result<Self, DriverError> {
        let Options {
            root,
            instance,
            shim,
            tasks,
        } = options;
        let hierarchies = Hierarchies::detect();
        let shims = instance.cgroup(&hierarchies).child("shims").map_err(host)?;
        let (workloads, events) = (root.join("workloads"), root.join("events"));
        private_dir(&root).map_err(image)?;
        private_dir(&workloads).map_err(image)?;
        let directory = root.clone();
        let layers = blocking(move || LayerStore::open(&directory).map_err(image)).await?;
        let blanks = match disk::is_bounded() {
            Ok(()) => Some(Blanks::open(root.join("blank")).map_err(image)?),
            Err(reason) => {
                warn!(reason, "containers may write more than their flavors say");
                None
            }
        };
        let inner = Arc::new(Inner {
            layers,
            blanks,
            scratch: root,
            workloads,
            events,
            shim,
            shims,
            hierarchies,
            instance,
            tasks,
            changes: broadcast::Sender::new(CHANGES),
            pulses: broadcast::Sender::new(CHANGES),
            locks: Mutex::default(),
            watched: Mutex::default(),
            unpacked: Notify::new(),
            spare: Mutex::default(),
            spare_wanted: Notify::new(),
        });
        watch::listen(&inner)?;
        for id in inner.ids()? {
            watch::resume(&inner, id);
        }
        inner
            .tasks
            .spawn_until_stopped("collect unused image layers", collect_now_and_then(inner.clone()));
        inner
            .tasks
            .spawn_until_stopped("write image layers to the disk", flush_when_unpacked(inner.clone()));
        inner
            .tasks
            .spawn_until_stopped("keep a spare shim", spare::keep_one(inner.clone()));
        Ok(Self { inner })
    }

    /// Unpacks an image before it is needed, so that the first start is as fast as all others. `digest` is the archive's
    /// verified content hash (hex).
    pub async fn prepare(&self, archive: &Path, digest: &str) -> Result<Prepared, DriverError> {
        self.inner.prepare(archive, digest).await
    }

    /// Removes image layers that no container uses and that nobody asked for within `keep` (at least two minutes).
    /// Returns how many. Happens by itself every quarter of an hour for layers unused for an hour.
    pub async fn collect(&self, keep: Duration) -> Result<usize, DriverError> {
        self.inner.collect(keep).await
    }
}

async fn collect_now_and_then(inner: Arc<Inner>) {
    loop {
        tokio::time::sleep(COLLECT_EVERY).await;
        if let Err(error) = inner.collect(KEEP_LAYERS).await {
            warn!(%error, "could not remove unused image layers");
        }
    }
}

async fn flush_when_unpacked(inner: Arc<Inner>) {
    loop {
        let flushing = inner.clone();
        if let Err(error) = blocking(move || flushing.layers.flush().map_err(image)).await {
            warn!(%error, "could not write image layers to the disk");
        }
        inner.unpacked.notified().await;
        // Not at once: the image's first container is being started, and would wait for the disk.
        tokio::time::sleep(FLUSH_AFTER).await;
    }
}

#[async_trait]
impl Driver for OciDriver {
    fn name(&self) -> &'static str {
        "oci"
    }

    async fn start(&self, workload: &Workload) -> Result<(), DriverError> {
        let lock = self.inner.lock(workload.id);
        let _held = lock.lock().await;
        let started = self.inner.start(workload).await;
        self.inner.spare_wanted.notify_one();
        started
    }

    async fn make_ready(&self, workload: &Workload) -> Result<(), DriverError> {
        let lock = self.inner.lock(workload.id);
        let _held = lock.lock().await;
        self.inner.make_ready(workload).await
    }

    async fn stop(&self, id: Uuid, grace: Option<Duration>) -> Result<(), DriverError> {
        let lock = self.inner.lock(id);
        let _held = lock.lock().await;
        self.inner.stop(id, grace).await
    }

    async fn reboot(&self, workload: &Workload, grace: Option<Duration>) -> Result<(), DriverError> {
        let lock = self.inner.lock(workload.id);
        let _held = lock.lock().await;
        self.inner.stop(workload.id, grace).await?;
        self.inner.start(workload).await
    }

    async fn pause(&self, id: Uuid) -> Result<(), DriverError> {
        let lock = self.inner.lock(id);
        let _held = lock.lock().await;
        self.inner.freeze(id, true).await
    }

    async fn resume(&self, id: Uuid) -> Result<(), DriverError> {
        let lock = self.inner.lock(id);
        let _held = lock.lock().await;
        self.inner.freeze(id, false).await
    }

    async fn remove(&self, id: Uuid) -> Result<(), DriverError> {
        let lock = self.inner.lock(id);
        let _held = lock.lock().await;
        self.inner.remove(id).await
    }

    async fn resize(&self, workload: &Workload) -> Result<(), DriverError> {
        let lock = self.inner.lock(workload.id);
        let _held = lock.lock().await;
        self.inner.resize(workload).await
    }

    async fn state(&self, id: Uuid) -> Result<State, DriverError> {
        self.inner.state(id).await
    }

    async fn list(&self) -> Result<Vec<(Uuid, State)>, DriverError> {
        let mut all = Vec::new();
        for id in self.inner.ids()? {
            match self.inner.state(id).await? {
                State::Absent => {
                    // Removed meanwhile, or made ready: that has to be found by who looks for what nobody wants.
                    if let Some(home) = self.inner.home(id)?
                        && self.inner.is_held(id, &home)?
                    {
                        all.push((id, State::Stopped { exit_code: None }));
                    }
                }
                state => all.push((id, state)),
            }
        }
        Ok(all)
    }

    async fn console(&self, id: Uuid, max_bytes: u64) -> Result<Vec<u8>, DriverError> {
        let Some(home) = self.inner.home(id)? else {
            return Ok(Vec::new());
        };
        blocking(move || tail(&home, max_bytes).map_err(|e| refused(format!("read the output of container {id}"), e)))
            .await
    }

    async fn snapshot(&self, workload: &Workload, into: &Path) -> Result<(), DriverError> {
        let lock = self.inner.lock(workload.id);
        let _held = lock.lock().await;
        self.inner.snapshot(workload, into).await
    }

    async fn attach_nic(&self, id: Uuid, nic: &Nic) -> Result<(), DriverError> {
        let lock = self.inner.lock(id);
        let _held = lock.lock().await;
        self.inner.attach_nic(id, nic).await
    }

    async fn detach_nic(&self, id: Uuid, port: Uuid) -> Result<(), DriverError> {
        let lock = self.inner.lock(id);
        let _held = lock.lock().await;
        self.inner.detach_nic(id, port).await
    }

    async fn usage(&self, id: Uuid) -> Result<Usage, DriverError> {
        self.inner.usage(id)
    }

    async fn open_console(&self, id: Uuid, kind: ConsoleKind) -> Result<Box<dyn Session>, DriverError> {
        self.inner.shell(id, kind).await
    }

    fn changes(&self) -> broadcast::Receiver<Uuid> {
        self.inner.changes.subscribe()
    }
}

impl Inner {
    async fn prepare(self: &Arc<Self>, archive: &Path, digest: &str) -> Result<Prepared, DriverError> {
        let (inner, archive, digest) = (self.clone(), archive.to_owned(), digest.to_owned());
        let prepared = blocking(move || inner.layers.prepare(&archive, &digest).map_err(image)).await;
        self.unpacked.notify_one();
        prepared
    }

    async fn collect(self: &Arc<Self>, keep: Duration) -> Result<usize, DriverError> {
        let inner = self.clone();
        blocking(move || {
            let mut used = HashSet::new();
            for id in inner.ids()? {
                let spec = inner.home(id)?.map(|home| home.spec()).transpose();
                let spec = spec.map_err(|e| refused(format!("read the specification of container {id}"), e))?;
                used.extend(spec.flatten().into_iter().flat_map(|spec| spec.layers));
            }
            inner.layers.collect(&used, keep).map_err(image)
        })
        .await
    }

    fn group(&self, id: Uuid) -> Result<Group, DriverError> {
        self.instance
            .cgroup(&self.hierarchies)
            .child(&format!("ct-{id}"))
            .map_err(host)
    }

    fn link(&self, id: Uuid) -> PathBuf {
        self.workloads.join(id.to_string())
    }

    fn home(&self, id: Uuid) -> Result<Option<Home>, DriverError> {
        match fs::read_link(self.link(id)) {
            Ok(path) => Ok(Some(Home::at(path))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(refused(format!("find container {id}"), error)),
        }
    }

    fn record(&self, id: Uuid, home: &Home) -> Result<Option<Record>, DriverError> {
        home.record()
            .map_err(|e| refused(format!("read the record of container {id}"), e))
    }

    fn ids(&self) -> Result<Vec<Uuid>, DriverError> {
        let fail = |e| refused(format!("list {}", self.workloads.display()), e);
        let mut ids = Vec::new();
        for entry in fs::read_dir(&self.workloads).map_err(fail)? {
            let name = entry.map_err(fail)?.file_name();
            ids.extend(name.to_str().and_then(|name| Uuid::parse_str(name).ok()));
        }
        Ok(ids)
    }

    fn lock(&self, id: Uuid) -> Arc<tokio::sync::Mutex<()>> {
        self.locks.lock().entry(id).or_default().clone()
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, DriverError> + Send + 'static,
) -> Result<T, DriverError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(DriverError::Host("madang is shutting down".into())),
        },
    }
}

fn host(error: madang_host::Error) -> DriverError {
    DriverError::Host(error.chain())
}

fn refused(action: String, source: io::Error) -> DriverError {
    DriverError::Io { action, source }
}

pub(crate) fn image(error: ImageError) -> DriverError {
    match error {
        ImageError::Broken(reason) => DriverError::Broken(reason),
        ImageError::Host { action, source } => match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                DriverError::Host(format!("no space is left on this host to {action}"))
            }
            _ => DriverError::Io { action, source },
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_called_so() {
        let error = ImageError::host("write \"bin/app\"", io::Error::from(io::ErrorKind::StorageFull));
        assert_eq!(
            image(error).to_string(),
            "no space is left on this host to write \"bin/app\""
        );
    }
}
