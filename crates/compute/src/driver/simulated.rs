//! Workloads that only exist in memory: for scale tests with thousands of hosts, and for tests of everything above a
//! driver.
//!
//! What runs is kept in a [`World`]; drivers come and go over it, as they do over a real host.

mod console;

use std::{collections::HashMap, path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use madang_host::workload::{
    ConsoleKind, Disk, DiskName, DiskUsage, Driver, DriverError, Nic, NicUsage, Root, Session, State, Usage, Workload,
};
use parking_lot::Mutex;
use tokio::{
    sync::broadcast,
    time::{Instant, sleep},
};
use uuid::Uuid;

use super::blank;

/// How many changes a receiver may lag behind before it has to look at everything.
const CHANGES: usize = 4096;

/// How much of a console is kept, in bytes.
const CONSOLE_BYTES: usize = 4096;

/// How many requests to a guest are remembered.
const ASKED: usize = 16;

/// How a simulated host behaves. The default does everything at once and never fails.
#[derive(Clone, Debug, Default)]
pub struct Behaviour {
    /// How long a start takes.
    pub start_takes: Duration,
    /// How long a polite stop takes, if it is given that long.
    pub stop_takes: Duration,
    /// How long a copy of a root takes.
    pub copy_takes: Duration,
    /// Starts that fail, by number counted from 1: every how manieth, with `simulated failure` as the reason.
    pub fail_every: Option<u64>,
}

/// What runs on a simulated host; outlives its drivers.
#[derive(Debug)]
pub struct World {
    machines: Mutex<Machines>,
    changes: broadcast::Sender<Uuid>,
}

#[derive(Debug, Default)]
struct Machines {
    known: HashMap<Uuid, Machine>,
    starts: u64,
    next_pid: u32,
}

#[derive(Debug)]
struct Machine {
    state: State,
    pid: u32,
    console: String,
    since: Instant,
    vcpus: u32,
    memory_bytes: u64,
    /// Disks that were made with it, by name.
    locals: Vec<String>,
    /// Other disks that it has now, by id.
    disks: Vec<Uuid>,
    /// Its interfaces: port and address.
    nics: Vec<(Uuid, [u8; 6])>,
    /// What its guest was asked, in words, oldest first; the newest [`ASKED`] of them.
    asked: Vec<String>,
}

impl Machine {
    fn new(pid: u32, state: State) -> Self {
        Self {
            state,
            pid,
            console: String::new(),
            since: Instant::now(),
            vcpus: 1,
            memory_bytes: 1 << 20,
            locals: Vec::new(),
            disks: Vec::new(),
            nics: Vec::new(),
            asked: Vec::new(),
        }
    }

    fn is_on(&self) -> bool {
        matches!(self.state, State::Running { .. } | State::Paused)
    }

    /// Begins to run as this.
    fn begin(&mut self, workload: &Workload, pid: u32) {
        self.pid = pid;
        self.state = State::Running { pid };
        self.since = Instant::now();
        self.resize(workload);
        self.locals = workload.locals.iter().map(|disk| disk.name.clone()).collect();
        self.disks = workload.disks.iter().map(|disk| disk.id).collect();
        self.nics = workload.nics.iter().map(|nic| (nic.port, nic.mac)).collect();
        self.say(&format!("{} processors, {} MiB", self.vcpus, self.memory_bytes >> 20));
        self.say(&format!(
            "{} disks beside the root",
            self.locals.len() + self.disks.len()
        ));
        self.say(&format!("{} interfaces", self.nics.len()));
        self.say(&format!("simulated machine {} is up", workload.hostname));
    }

    /// Writes a line to the console, whose oldest lines go.
    fn say(&mut self, line: &str) {
        self.console.push_str(line);
        self.console.push('\n');
        while self.console.len() > CONSOLE_BYTES {
            let oldest = self.console.find('\n').map_or(self.console.len(), |end| end + 1);
            self.console.drain(..oldest);
        }
    }

    fn resize(&mut self, workload: &Workload) {
        self.vcpus = workload.vcpus;
        self.memory_bytes = workload.memory_bytes;
    }

    fn ask(&mut self, what: String) {
        if self.asked.len() == ASKED {
            self.asked.remove(0);
        }
        self.asked.push(what);
    }

    fn usage(&self) -> Usage {
        let uptime = self.since.elapsed();
        let disk = |disk: DiskName| DiskUsage {
            disk,
            ..DiskUsage::default()
        };
        let locals = self.locals.iter().cloned().map(DiskName::Local);
        let others = self.disks.iter().copied().map(DiskName::Disk);
        let disks = std::iter::once(DiskName::Root).chain(locals).chain(others);
        let nic = |(_, mac): &(Uuid, [u8; 6])| NicUsage {
            mac: *mac,
            ..NicUsage::default()
        };
        Usage {
            uptime,
            cpu_time: vec![uptime; self.vcpus as usize],
            memory_bytes: self.memory_bytes,
            memory_used_bytes: Some(self.memory_bytes / 2),
            disks: disks.map(disk).collect(),
            nics: self.nics.iter().map(nic).collect(),
        }
    }
}

impl Default for World {
    fn default() -> Self {
        Self {
            machines: Mutex::default(),
            changes: broadcast::channel(CHANGES).0,
        }
    }
}

impl World {
    /// A world in which these workloads are as said already: what went on while nobody looked.
    pub fn with(workloads: impl IntoIterator<Item = (Uuid, State)>) -> Self {
        let world = Self::default();
        let mut machines = world.machines.lock();
        for (id, state) in workloads {
            machines.next_pid += 1;
            let pid = machines.next_pid;
            let state = match state {
                State::Running { .. } => State::Running { pid },
                other => other,
            };
            machines.known.insert(id, Machine::new(pid, state));
        }
        drop(machines);
        world
    }

    /// Makes a running workload end by itself, as when a guest powers off.
    pub fn end(&self, id: Uuid) {
        self.change(id, State::Stopped { exit_code: Some(0) });
    }

    /// Makes a running workload fail by an accident, in these words.
    pub fn fail(&self, id: Uuid, reason: &str) {
        self.change(id, State::Failed { reason: reason.into() });
    }

    /// What the guest of a workload was asked so far, in words, oldest first.
    pub fn asked(&self, id: Uuid) -> Vec<String> {
        let machines = self.machines.lock();
        machines
            .known
            .get(&id)
            .map(|machine| machine.asked.clone())
            .unwrap_or_default()
    }

    fn change(&self, id: Uuid, state: State) {
        let changed = match self.machines.lock().known.get_mut(&id) {
            Some(machine) if machine.is_on() => {
                machine.state = state;
                true
            }
            _ => false,
        };
        if changed {
            // Nobody may be listening.
            let _ = self.changes.send(id);
        }
    }
}

/// Pretends to run workloads.
#[derive(Debug)]
pub struct SimulatedDriver {
    world: Arc<World>,
    behaviour: Behaviour,
}

impl SimulatedDriver {
    /// A driver over a world, which may have running workloads already.
    pub fn new(world: Arc<World>, behaviour: Behaviour) -> Self {
        Self { world, behaviour }
    }

    fn state_now(&self, id: Uuid) -> State {
        self.world
            .machines
            .lock()
            .known
            .get(&id)
            .map_or(State::Absent, |machine| machine.state.clone())
    }

    /// With the world locked only for a moment.
    fn run(&self, workload: &Workload) -> Result<(), DriverError> {
        let mut machines = self.world.machines.lock();
        machines.starts += 1;
        machines.next_pid += 1;
        let (number, pid) = (machines.starts, machines.next_pid);
        let machine = machines
            .known
            .entry(workload.id)
            .or_insert_with(|| Machine::new(pid, State::Absent));
        if self
            .behaviour
            .fail_every
            .is_some_and(|every| number.is_multiple_of(every.max(1)))
        {
            let reason = "simulated failure".to_owned();
            machine.state = State::Failed { reason: reason.clone() };
            return Err(DriverError::Host(reason));
        }
        machine.begin(workload, pid);
        Ok(())
    }

    /// Does something with a machine that is on.
    fn with_running<T>(&self, id: Uuid, act: impl FnOnce(&mut Machine) -> T) -> Result<T, DriverError> {
        let mut machines = self.world.machines.lock();
        match machines.known.get_mut(&id) {
            Some(machine) if machine.is_on() => Ok(act(machine)),
            _ => Err(not_running(id)),
        }
    }

    /// Changes the devices of a machine that is on; one that is off gets them with its next start.
    fn change_devices(&self, id: Uuid, change: impl FnOnce(&mut Machine)) -> Result<(), DriverError> {
        let mut machines = self.world.machines.lock();
        if let Some(machine) = machines.known.get_mut(&id).filter(|machine| machine.is_on()) {
            change(machine);
        }
        Ok(())
    }

    fn set(&self, id: Uuid, state: impl FnOnce(&Machine) -> Option<State>) -> bool {
        let mut machines = self.world.machines.lock();
        let Some(machine) = machines.known.get_mut(&id) else {
            return false;
        };
        match state(machine) {
            Some(state) => {
                machine.state = state;
                true
            }
            None => false,
        }
    }
}

#[async_trait]
impl Driver for SimulatedDriver {
    fn name(&self) -> &'static str {
        "simulated"
    }

    async fn start(&self, workload: &Workload) -> Result<(), DriverError> {
        if matches!(self.state_now(workload.id), State::Running { .. } | State::Paused) {
            return Ok(());
        }
        if !self.behaviour.start_takes.is_zero() {
            sleep(self.behaviour.start_takes).await;
        }
        self.run(workload)
    }

    async fn stop(&self, id: Uuid, grace: Option<Duration>) -> Result<(), DriverError> {
        let takes = self.behaviour.stop_takes.min(grace.unwrap_or_default());
        if matches!(self.state_now(id), State::Running { .. }) && !takes.is_zero() {
            sleep(takes).await;
        }
        self.set(id, |_| Some(State::Stopped { exit_code: None }));
        Ok(())
    }

    async fn reboot(&self, workload: &Workload, grace: Option<Duration>) -> Result<(), DriverError> {
        self.stop(workload.id, grace).await?;
        self.start(workload).await
    }

    async fn pause(&self, id: Uuid) -> Result<(), DriverError> {
        let running = |machine: &Machine| matches!(machine.state, State::Running { .. } | State::Paused);
        match self.set(id, |machine| running(machine).then_some(State::Paused)) {
            true => Ok(()),
            false => Err(not_running(id)),
        }
    }

    async fn resume(&self, id: Uuid) -> Result<(), DriverError> {
        let resumed = |machine: &Machine| match machine.state {
            State::Running { .. } | State::Paused => Some(State::Running { pid: machine.pid }),
            _ => None,
        };
        match self.set(id, resumed) {
            true => Ok(()),
            false => Err(not_running(id)),
        }
    }

    async fn remove(&self, id: Uuid) -> Result<(), DriverError> {
        self.world.machines.lock().known.remove(&id);
        Ok(())
    }

    async fn state(&self, id: Uuid) -> Result<State, DriverError> {
        Ok(self.state_now(id))
    }

    async fn list(&self) -> Result<Vec<(Uuid, State)>, DriverError> {
        let machines = self.world.machines.lock();
        Ok(machines
            .known
            .iter()
            .map(|(id, machine)| (*id, machine.state.clone()))
            .collect())
    }

    async fn console(&self, id: Uuid, max_bytes: u64) -> Result<Vec<u8>, DriverError> {
        let machines = self.world.machines.lock();
        let console = machines
            .known
            .get(&id)
            .map_or("", |machine| machine.console.as_str())
            .as_bytes();
        Ok(console[console.len().saturating_sub(max_bytes as usize)..].to_vec())
    }

    async fn suspend(&self, id: Uuid) -> Result<(), DriverError> {
        let can = |machine: &Machine| machine.is_on() || machine.state == State::Suspended;
        match self.set(id, |machine| can(machine).then_some(State::Suspended)) {
            true => Ok(()),
            false => Err(not_running(id)),
        }
    }

    async fn snapshot(&self, workload: &Workload, into: &Path) -> Result<(), DriverError> {
        let size = match &workload.root {
            Root::Disk { size_bytes, .. } | Root::Container { size_bytes, .. } => *size_bytes,
            Root::Attached => {
                return Err(DriverError::Unsupported {
                    driver: self.name(),
                    action: "make a snapshot of a volume",
                });
            }
        };
        if !self.behaviour.copy_takes.is_zero() {
            sleep(self.behaviour.copy_takes).await;
        }
        let written = tokio::fs::write(into, blank::qcow2(size)).await;
        written.map_err(DriverError::io(format!("write {}", into.display())))
    }

    async fn attach_disk(&self, id: Uuid, disk: &Disk) -> Result<(), DriverError> {
        self.change_devices(id, |machine| {
            if !machine.disks.contains(&disk.id) {
                machine.disks.push(disk.id);
            }
        })
    }

    async fn detach_disk(&self, id: Uuid, disk: Uuid) -> Result<(), DriverError> {
        self.change_devices(id, |machine| machine.disks.retain(|one| *one != disk))
    }

    async fn grow_disk(&self, id: Uuid, disk: &Disk, bytes: u64) -> Result<(), DriverError> {
        self.change_devices(id, |machine| machine.ask(format!("disk {} has {bytes} bytes", disk.id)))
    }

    async fn stack_disk(&self, id: Uuid, top: &Disk) -> Result<(), DriverError> {
        self.change_devices(id, |machine| machine.ask(format!("disk {} has a layer more", top.id)))
    }

    async fn swap_disk(&self, id: Uuid, old: Uuid, new: &Disk) -> Result<(), DriverError> {
        self.change_devices(id, |machine| {
            for disk in machine.disks.iter_mut().filter(|disk| **disk == old) {
                *disk = new.id;
            }
        })
    }

    async fn travel(&self, id: Uuid, host: &str) -> Result<(), DriverError> {
        // All simulated hosts are of one world.
        self.with_running(id, |machine| machine.ask(format!("to go on at {host}")))
    }

    async fn attach_nic(&self, id: Uuid, nic: &Nic) -> Result<(), DriverError> {
        self.change_devices(id, |machine| {
            machine.nics.retain(|(port, _)| *port != nic.port);
            machine.nics.push((nic.port, nic.mac));
        })
    }

    async fn detach_nic(&self, id: Uuid, port: Uuid) -> Result<(), DriverError> {
        self.change_devices(id, |machine| machine.nics.retain(|(one, _)| *one != port))
    }

    async fn resize(&self, workload: &Workload) -> Result<(), DriverError> {
        self.with_running(workload.id, |machine| machine.resize(workload))
    }

    async fn set_password(&self, id: Uuid, user: &str, _password: &str) -> Result<(), DriverError> {
        self.with_running(id, |machine| machine.ask(format!("password of {user}")))
    }

    async fn trigger_crash_dump(&self, id: Uuid) -> Result<(), DriverError> {
        self.with_running(id, |machine| machine.ask("crash dump".to_owned()))
    }

    async fn usage(&self, id: Uuid) -> Result<Usage, DriverError> {
        self.with_running(id, |machine| machine.usage())
    }

    async fn open_console(&self, id: Uuid, kind: ConsoleKind) -> Result<Box<dyn Session>, DriverError> {
        self.with_running(id, |_| console::open(kind))
    }

    fn changes(&self) -> broadcast::Receiver<Uuid> {
        self.world.changes.subscribe()
    }
}

fn not_running(id: Uuid) -> DriverError {
    DriverError::Host(format!("machine {id} is not running"))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use madang_host::workload::{DiskBus, DiskFormat, DiskKind, DiskSource, Hardware, IoLimits, contract};

    use super::*;

    struct Fixture {
        world: Arc<World>,
        driver: Arc<SimulatedDriver>,
        scratch: tempfile::TempDir,
    }

    fn workload() -> Workload {
        let root = Root::Disk {
            base: PathBuf::from("/absent"),
            format: DiskFormat::Raw,
            size_bytes: 1,
            kernel: None,
            ramdisk: None,
            kernel_args: None,
        };
        Workload {
            id: Uuid::new_v4(),
            hostname: "demo".into(),
            vcpus: 1,
            memory_bytes: 1 << 20,
            root,
            nics: Vec::new(),
            dir: PathBuf::from("/absent"),
            uid: 1,
            config_drive: None,
            locals: Vec::new(),
            disks: Vec::new(),
            hardware: Hardware::default(),
            rescue: None,
        }
    }

    #[async_trait]
    impl contract::Fixture for Fixture {
        fn driver(&self) -> Arc<dyn Driver> {
            self.driver.clone()
        }
        async fn reopen(&mut self) -> Arc<dyn Driver> {
            self.driver = Arc::new(SimulatedDriver::new(self.world.clone(), Behaviour::default()));
            self.driver.clone()
        }
        async fn workload(&self) -> Workload {
            workload()
        }
        async fn broken(&self) -> Option<(Workload, &'static str)> {
            None
        }
        fn greeting(&self) -> Option<&'static str> {
            Some("demo is up")
        }
        async fn end(&self, id: Uuid) {
            self.world.end(id);
        }
        async fn kill(&self, id: Uuid) {
            self.world.fail(id, "killed");
        }
        fn patience(&self) -> Duration {
            Duration::from_secs(1)
        }
        fn scratch(&self) -> Option<PathBuf> {
            Some(self.scratch.path().to_owned())
        }
        async fn disk(&self) -> Option<Disk> {
            let id = Uuid::new_v4();
            let source = DiskSource::File {
                path: PathBuf::from("/absent"),
                format: DiskFormat::Raw,
            };
            Some(Disk {
                id,
                source,
                bus: DiskBus::Virtio,
                kind: DiskKind::Disk,
                serial: id.to_string(),
                is_read_only: false,
                boot_index: None,
                limits: IoLimits::default(),
                mount_point: None,
            })
        }
        async fn nic(&self) -> Option<Nic> {
            Some(Nic {
                port: Uuid::new_v4(),
                mac: [0xfa, 0x16, 0x3e, 0, 0, 1],
                device: "t0".into(),
                peer: None,
                netns: String::new(),
                mtu: 1450,
                addresses: Vec::new(),
                gateway: None,
                routes: Vec::new(),
                name_servers: Vec::new(),
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn keeps_the_contract() {
        let world = Arc::new(World::default());
        let driver = Arc::new(SimulatedDriver::new(world.clone(), Behaviour::default()));
        let scratch = tempfile::tempdir().unwrap();
        let mut fixture = Fixture { world, driver, scratch };
        contract::run(&mut fixture).await;
    }

    #[tokio::test]
    async fn what_its_guest_was_asked_is_remembered() {
        let world = Arc::new(World::default());
        let driver = SimulatedDriver::new(world.clone(), Behaviour::default());
        let one = workload();
        driver.set_password(one.id, "root", "secret").await.unwrap_err();
        driver.start(&one).await.unwrap();
        driver.set_password(one.id, "root", "secret").await.unwrap();
        for _ in 0..2 * ASKED {
            driver.trigger_crash_dump(one.id).await.unwrap();
        }
        driver.set_password(one.id, "cirros", "secret").await.unwrap();
        let asked = world.asked(one.id);
        assert_eq!(asked.len(), ASKED);
        assert_eq!(asked.last().map(String::as_str), Some("password of cirros"));
        let mut bigger = one.clone();
        (bigger.vcpus, bigger.memory_bytes) = (4, 1 << 30);
        driver.resize(&bigger).await.unwrap();
        let usage = driver.usage(one.id).await.unwrap();
        assert_eq!((usage.cpu_time.len(), usage.memory_bytes), (4, 1 << 30));
    }

    #[tokio::test(start_paused = true)]
    async fn takes_its_time_and_fails_as_told() {
        let behaviour = Behaviour {
            start_takes: Duration::from_secs(3),
            fail_every: Some(2),
            ..Behaviour::default()
        };
        let driver = SimulatedDriver::new(Arc::default(), behaviour);
        let (one, two) = (workload(), workload());
        let start = tokio::time::Instant::now();
        driver.start(&one).await.unwrap();
        assert_eq!(start.elapsed(), Duration::from_secs(3));
        assert_eq!(driver.start(&two).await.unwrap_err().to_string(), "simulated failure");
        assert!(matches!(driver.state(two.id).await.unwrap(), State::Failed { .. }));
        driver.start(&two).await.unwrap();
    }

    #[tokio::test]
    async fn what_went_on_unwatched_is_found_as_it_is_said() {
        let (running, paused) = (Uuid::new_v4(), Uuid::new_v4());
        let said = [(running, State::Running { pid: 0 }), (paused, State::Paused)];
        let driver = SimulatedDriver::new(Arc::new(World::with(said)), Behaviour::default());
        assert!(matches!(driver.state(running).await.unwrap(), State::Running { pid } if pid > 0));
        assert_eq!(driver.state(paused).await.unwrap(), State::Paused);
        assert_eq!(driver.state(Uuid::new_v4()).await.unwrap(), State::Absent);
        driver.resume(paused).await.unwrap();
        assert!(matches!(driver.state(paused).await.unwrap(), State::Running { .. }));
    }
}
