//! The agent of a host (or of many simulated ones): brings the servers that are placed there to what was asked.
//!
//! It wakes when a server, one of its ports or a workload changes, and on a slow clock. It reads the server, asks the
//! driver what is ([`plan`] decides, purely), does one step, writes what it saw, and looks again. Nothing is remembered
//! between rounds but user id slots, which are read back from the store: a restart or a crash anywhere costs a round.

mod config_drive;
pub mod facts;
mod filing;
mod heartbeat;
mod interfaces;
mod orphans;
mod plan;
mod slots;
mod steps;
mod volumes;
mod workload;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use madang_block::{Attachment, Volume};
use madang_control::{Controller, Next, TaskGroup};
use madang_host::{
    Instance,
    instance::UidRange,
    workload::{Driver, DriverError, State},
};
use madang_image::{Cache, Intake};
use madang_network::Port;
use madang_store::{Key, Resource, Store, StoreError};
use tokio::sync::broadcast;
use tracing::{debug, info, warn};

pub use self::{config_drive::ConfigDriveFormat, heartbeat::HostFacts};
use self::{plan::Step, slots::Slots};
use crate::server::{AGENT_FINALIZER, Server};

/// How long a guest may take to power itself off before it is cut, as Nova's `shutdown_timeout`.
const GRACE: Duration = Duration::from_secs(60);
/// How long a guest may take to reboot by itself before it is reset.
const REBOOT_GRACE: Duration = Duration::from_secs(30);
/// Tries to start a server before it is in error. Only for failures that may pass by themselves.
const MAX_ATTEMPTS: u32 = 3;
/// A server that waits for its ports is looked at again after this, changed or not.
const PORTS_CHECK: Duration = Duration::from_secs(10);
/// How long ports may take to be wired before the server is in error.
const PORTS_LIMIT: Duration = Duration::from_secs(300);

/// What an agent works with.
pub struct AgentOptions {
    /// The names of its hosts, as their providers': one, but for simulated hosts.
    pub hosts: BTreeSet<String>,
    /// What each host has and how it runs machines.
    pub facts: HostFacts,
    /// What real workloads need of the host; none where all hosts are simulated.
    pub ground: Option<Ground>,
    /// What can run workloads here, by the name servers ask for (`qemu`, `oci`).
    pub drivers: BTreeMap<String, Arc<dyn Driver>>,
    /// Image bytes as local files.
    pub images: Arc<dyn Cache>,
    /// Takes files as the bytes of images.
    pub intake: Arc<dyn Intake>,
    /// What config drives are.
    pub config_drive: ConfigDriveFormat,
}

/// What workloads stand on.
pub struct Ground {
    /// The directory that holds a directory of each server.
    pub directory: PathBuf,
    /// The directory that holds the host's volumes.
    pub volumes: PathBuf,
    /// Whose names things on the host carry.
    pub instance: Instance,
    /// User ids for workloads.
    pub uids: UidRange,
}

/// Starts the agent's tasks in `group`.
pub fn run(store: &Store, options: AgentOptions, group: &TaskGroup) {
    heartbeat::run(store, &options, group);
    let agent = Arc::new(Agent {
        store: store.clone(),
        options,
        slots: Slots::default(),
    });
    agent.slots.read(&agent.servers());
    let (of_server, of_port) = (Arc::clone(&agent), Arc::clone(&agent));
    let controller = Controller::<Key>::new("compute-agent")
        .workers(16)
        .resync(Duration::from_secs(60))
        .watch::<Server>(store, move |change| {
            change
                .new
                .iter()
                .filter(|server| of_server.has(server))
                .map(|server| server.key())
                .collect()
        })
        .watch::<Port>(store, move |change| {
            // Also that of the server it was taken from.
            let ports = change.old.iter().chain(&change.new);
            ports.filter_map(|port| of_port.server_of(port)).collect()
        });
    let (of_attachment, of_volume) = (Arc::clone(&agent), Arc::clone(&agent));
    let controller = controller
        .watch::<Attachment>(store, move |change| {
            let new = change.new.iter();
            new.filter_map(|attachment| of_attachment.server_of_attachment(attachment))
                .collect()
        })
        .watch::<Volume>(store, move |change| {
            let new = change.new.iter();
            new.flat_map(|volume| of_volume.servers_of_volume(volume)).collect()
        });
    for driver in agent.options.drivers.values() {
        follow_driver(&agent, driver, controller.queue(), group);
    }
    orphans::run(&agent, group);
    let all = {
        let agent = Arc::clone(&agent);
        move || agent.servers().iter().map(|server| server.key()).collect()
    };
    controller.run(group, all, move |key| {
        let agent = Arc::clone(&agent);
        async move { agent.reconcile(&key).await }
    });
}

/// Wakes servers whose workloads changed by themselves.
fn follow_driver(agent: &Arc<Agent>, driver: &Arc<dyn Driver>, queue: madang_control::Queue<Key>, group: &TaskGroup) {
    let mut changes = driver.changes();
    let agent = Arc::clone(agent);
    group.spawn_until_stopped(format!("{}-events", driver.name()), async move {
        loop {
            match changes.recv().await {
                Ok(id) => {
                    if let Some(server) = agent.store.cache::<Server>().by_uid(id) {
                        queue.add(server.key());
                    }
                }
                Err(broadcast::error::RecvError::Lagged(_)) => {
                    agent.servers().iter().for_each(|server| queue.add(server.key()));
                }
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    });
}

/// The name of a server's host, for messages.
fn host_of(server: &Resource<Server>) -> &str {
    server.status.host.as_deref().unwrap_or_default()
}

struct Agent {
    store: Store,
    options: AgentOptions,
    slots: Slots,
}

/// Why a round did not end well; it is tried again.
#[derive(Debug, thiserror::Error)]
enum AgentError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Driver(#[from] DriverError),
    #[error("could not remove {path}: {source}")]
    Remove { path: PathBuf, source: std::io::Error },
}

impl Agent {
    /// The servers placed on its hosts.
    fn servers(&self) -> Vec<Arc<Resource<Server>>> {
        let servers = self.store.cache::<Server>();
        self.options
            .hosts
            .iter()
            .flat_map(|host| servers.by("host", host))
            .collect()
    }

    /// Whether a server is placed on one of its hosts.
    fn has(&self, server: &Resource<Server>) -> bool {
        server
            .status
            .host
            .as_ref()
            .is_some_and(|host| self.options.hosts.contains(host))
    }

    /// The server that a port belongs to, if it is here.
    fn server_of(&self, port: &Resource<Port>) -> Option<Key> {
        if port.spec.device_id.is_empty() {
            return None;
        }
        let server = self.store.cache::<Server>().by_name(&port.spec.device_id)?;
        self.has(&server).then(|| server.key())
    }

    /// One round for one server.
    async fn reconcile(&self, key: &Key) -> Result<Next, AgentError> {
        let Some(server) = self.store.get::<Server>(key) else {
            return Ok(Next::Done);
        };
        if !self.has(&server) {
            return Ok(Next::Done);
        }
        if server.metadata.is_deleting() {
            return self.end(&server).await;
        }
        let Some(driver) = self.options.drivers.get(&server.spec.driver) else {
            let reason = format!("host {} cannot run {} workloads", host_of(&server), server.spec.driver);
            self.record_failure(&server, &reason).await?;
            return Ok(Next::Done);
        };
        let seen = driver.state(server.metadata.uid).await?;
        match plan::plan(&server, &seen) {
            Step::Nothing => {
                if matches!(seen, State::Running { .. }) {
                    self.follow_interfaces(&server, driver).await?;
                }
                self.follow_volumes(&server, driver, &seen).await
            }
            Step::Start => self.start_as(&server, driver, filing::active).await,
            Step::Stop => {
                driver.stop(server.metadata.uid, Some(GRACE)).await?;
                self.record(&server, filing::stopped).await
            }
            Step::Pause => {
                self.act(&server, driver.pause(server.metadata.uid).await, filing::paused)
                    .await
            }
            Step::Resume => {
                self.act(&server, driver.resume(server.metadata.uid).await, filing::active)
                    .await
            }
            Step::Suspend => {
                self.act(&server, driver.suspend(server.metadata.uid).await, filing::suspended)
                    .await
            }
            Step::Rebuild => self.rebuild(&server, driver).await,
            Step::Rescue => self.rescue(&server, driver).await,
            Step::Unrescue => self.unrescue(&server, driver).await,
            Step::Snapshot(snapshot) => self.snapshot(&server, driver, &snapshot).await,
            Step::Shelve => self.shelve(&server, driver, &seen).await,
            Step::Offload => self.offload(&server, driver).await,
            Step::Discard(image) => self.discard(&server, &image).await,
            Step::Leave => self.leave(&server, driver).await,
            Step::Arrive => self.arrive(&server, driver).await,
            Step::Return => self.come_back(&server, driver).await,
            Step::Reboot { hard } => self.reboot(&server, driver, &seen, hard).await,
            Step::Record(phase) => self.record(&server, |server| filing::reached(server, phase)).await,
            Step::GuestOff => {
                info!(server = server.name(), "the guest powered itself off");
                self.record(&server, filing::guest_off).await
            }
            Step::Fail(reason) => {
                self.record_failure(&server, &reason).await?;
                Ok(Next::Done)
            }
        }
    }

    /// The user id a server's workload runs under; none is needed where nothing runs.
    async fn uid(&self, server: &Resource<Server>) -> Result<u32, AgentError> {
        let Some(ground) = &self.options.ground else {
            return Ok(0);
        };
        let slot = self.slots.take(&self.store, server).await?;
        Ok(ground.uids.get(slot).ok_or_else(|| {
            DriverError::Host(format!(
                "host {} has no user id left for workload {slot}",
                host_of(server)
            ))
        })?)
    }

    /// Starts it once its ports are wired, and writes what it is then.
    async fn start_as(
        &self,
        server: &Resource<Server>,
        driver: &Arc<dyn Driver>,
        change: fn(&mut Resource<Server>),
    ) -> Result<Next, AgentError> {
        let ports = workload::ports(&self.store, server);
        if let Some(next) = self.wait_for(server, &ports).await? {
            self.make_ready(server, driver).await?;
            return Ok(next);
        }
        match self.hold_volumes(server).await? {
            volumes::Ready::Yes => {}
            volumes::Ready::Wait => return Ok(Self::wait_for_volumes()),
            volumes::Ready::Never(reason) => {
                self.record_failure(server, &reason).await?;
                return Ok(Next::Done);
            }
        }
        let uid = self.uid(server).await?;
        let started = match self.workload(server, &ports, uid).await {
            Ok(workload) => driver.start(&workload).await,
            Err(error) => Err(error),
        };
        match started {
            Ok(()) => {
                info!(server = server.name(), driver = driver.name(), "started");
                let base = self.base_to_keep(server).await;
                self.record(server, |server| {
                    if let Some(base) = &base {
                        server.status.base = Some(base.clone());
                    }
                    server.status.interfaces = Some(interfaces::all(&ports));
                    server.spec.injected.password = None;
                    change(server);
                })
                .await
            }
            Err(error) => self.give_up_or_retry(server, error).await,
        }
    }

    /// Uses the time until its ports are wired. What fails is told by the start.
    async fn make_ready(&self, server: &Resource<Server>, driver: &Arc<dyn Driver>) -> Result<(), AgentError> {
        if self.options.ground.is_none() {
            // Nothing takes time on simulated hosts.
            return Ok(());
        }
        let uid = self.uid(server).await?;
        let ready = match self.workload(server, &[], uid).await {
            Ok(workload) => driver.make_ready(&workload).await,
            Err(error) => Err(error),
        };
        if let Err(error) = ready {
            debug!(server = server.name(), %error, "could not be made ready before its ports are wired");
        }
        Ok(())
    }

    /// Something to come back for while a port is not wired; none when all are.
    async fn wait_for(
        &self,
        server: &Resource<Server>,
        ports: &[Arc<Resource<Port>>],
    ) -> Result<Option<Next>, AgentError> {
        let host = server.status.host.as_deref();
        let Some(port) = ports.iter().find(|port| port.status.wired_on.as_deref() != host) else {
            return Ok(None);
        };
        if let Some(reason) = &port.status.failure {
            let reason = format!("port {} could not be wired: {reason}", port.name());
            self.record_failure(server, &reason).await?;
            return Ok(Some(Next::Done));
        }
        let waited = jiff::Timestamp::now()
            .duration_since(server.metadata.updated)
            .unsigned_abs();
        if waited > PORTS_LIMIT {
            let reason = format!("port {} was not wired within {} s", port.name(), PORTS_LIMIT.as_secs());
            self.record_failure(server, &reason).await?;
            return Ok(Some(Next::Done));
        }
        Ok(Some(Next::After(PORTS_CHECK)))
    }

    async fn reboot(
        &self,
        server: &Resource<Server>,
        driver: &Arc<dyn Driver>,
        seen: &State,
        hard: bool,
    ) -> Result<Next, AgentError> {
        let ports = workload::ports(&self.store, server);
        if let Some(next) = self.wait_for(server, &ports).await? {
            return Ok(next);
        }
        let asked = server.spec.reboots;
        let uid = self.uid(server).await?;
        let workload = match self.workload(server, &ports, uid).await {
            Ok(workload) => workload,
            Err(error) => return self.give_up_or_retry(server, error).await,
        };
        let grace = (!hard && matches!(seen, State::Running { .. })).then_some(REBOOT_GRACE);
        match driver.reboot(&workload, grace).await {
            Ok(()) => self.record(server, |server| filing::rebooted(server, asked)).await,
            Err(error) => self.give_up_or_retry(server, error).await,
        }
    }

    /// Writes what follows an action that the driver did, or why it did not.
    async fn act(
        &self,
        server: &Resource<Server>,
        done: Result<(), DriverError>,
        change: impl Fn(&mut Resource<Server>),
    ) -> Result<Next, AgentError> {
        match done {
            Ok(()) => self.record(server, change).await,
            Err(DriverError::Unsupported { .. }) => {
                // Not an end: the server goes on as it is, and says why it did not do what was asked.
                let message = done.err().map(|error| error.to_string()).unwrap_or_default();
                self.record(server, |server| filing::refused(server, &message)).await
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn give_up_or_retry(&self, server: &Resource<Server>, error: DriverError) -> Result<Next, AgentError> {
        let may_pass = matches!(error, DriverError::Io { .. } | DriverError::TimedOut { .. });
        if may_pass && server.status.attempts + 1 < MAX_ATTEMPTS {
            warn!(server = server.name(), %error, "could not start, trying again");
            self.modify(server, |server| server.status.attempts += 1).await?;
            return Ok(Next::After(Duration::from_secs(1)));
        }
        self.record_failure(server, &error.to_string()).await?;
        Ok(Next::Done)
    }

    async fn record_failure(&self, server: &Resource<Server>, reason: &str) -> Result<(), AgentError> {
        warn!(server = server.name(), reason, "server in error");
        Ok(self.modify(server, |server| filing::failed(server, reason)).await?)
    }

    async fn record(
        &self,
        server: &Resource<Server>,
        change: impl Fn(&mut Resource<Server>),
    ) -> Result<Next, AgentError> {
        self.modify(server, change).await?;
        Ok(Next::Done)
    }

    /// Changes a server; one that is gone meanwhile is no error.
    async fn modify(
        &self,
        server: &Resource<Server>,
        change: impl Fn(&mut Resource<Server>),
    ) -> Result<(), StoreError> {
        let key = server.key();
        let changed = self
            .store
            .modify::<Server, StoreError>(&key, filing::cause(host_of(server)), |server| {
                change(server);
                Ok(())
            });
        match changed.await {
            Ok(_) | Err(StoreError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn remove_directory(&self, server: &Resource<Server>) -> Result<(), AgentError> {
        let Some(ground) = &self.options.ground else {
            return Ok(());
        };
        let path = ground.directory.join(server.metadata.uid.to_string());
        match tokio::fs::remove_dir_all(&path).await {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(AgentError::Remove { path, source }),
            _ => Ok(()),
        }
    }

    /// The end of a server: its workload, its directory, then the finalizer that held it.
    async fn end(&self, server: &Resource<Server>) -> Result<Next, AgentError> {
        let id = server.metadata.uid;
        if let Some(driver) = self.options.drivers.get(&server.spec.driver) {
            driver.remove(id).await?;
        }
        self.remove_directory(server).await?;
        self.slots.free(server);
        self.modify(server, |server| {
            server.metadata.finalizers.retain(|f| f != AGENT_FINALIZER)
        })
        .await?;
        info!(server = server.name(), "removed");
        Ok(Next::Done)
    }
}
