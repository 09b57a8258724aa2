//! Workloads that only exist in memory: for scale tests with thousands of hosts, and for tests of everything above a
//! driver.
//!
//! What runs is kept in a [`World`]; drivers come and go over it, as they do over a real host.

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use madang_host::workload::{Driver, DriverError, State, Workload};
use parking_lot::Mutex;
use tokio::{sync::broadcast, time::sleep};
use uuid::Uuid;

/// How many changes a receiver may lag behind before it has to look at everything.
const CHANGES: usize = 4096;

/// How a simulated host behaves. The default does everything at once and never fails.
#[derive(Clone, Debug, Default)]
pub struct Behaviour {
    /// How long a start takes.
    pub start_takes: Duration,
    /// How long a polite stop takes, if it is given that long.
    pub stop_takes: Duration,
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
            let machine = Machine {
                state,
                pid,
                console: String::new(),
            };
            machines.known.insert(id, machine);
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

    fn change(&self, id: Uuid, state: State) {
        let changed = match self.machines.lock().known.get_mut(&id) {
            Some(machine) if matches!(machine.state, State::Running { .. } | State::Paused) => {
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
        let machine = machines.known.entry(workload.id).or_insert_with(|| Machine {
            state: State::Absent,
            pid,
            console: String::new(),
        });
        if self
            .behaviour
            .fail_every
            .is_some_and(|every| number.is_multiple_of(every.max(1)))
        {
            let reason = "simulated failure".to_owned();
            machine.state = State::Failed { reason: reason.clone() };
            return Err(DriverError::Host(reason));
        }
        machine.pid = pid;
        machine.state = State::Running { pid };
        machine
            .console
            .push_str(&format!("simulated machine {} is up\n", workload.hostname));
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
            false => Err(DriverError::Host(format!("machine {id} is not running"))),
        }
    }

    async fn resume(&self, id: Uuid) -> Result<(), DriverError> {
        let resumed = |machine: &Machine| match machine.state {
            State::Running { .. } | State::Paused => Some(State::Running { pid: machine.pid }),
            _ => None,
        };
        match self.set(id, resumed) {
            true => Ok(()),
            false => Err(DriverError::Host(format!("machine {id} is not running"))),
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

    fn changes(&self) -> broadcast::Receiver<Uuid> {
        self.world.changes.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use madang_host::workload::{DiskFormat, Hardware, Root, contract};

    use super::*;

    struct Fixture {
        world: Arc<World>,
        driver: Arc<SimulatedDriver>,
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
    }

    #[tokio::test(start_paused = true)]
    async fn keeps_the_contract() {
        let world = Arc::new(World::default());
        let driver = Arc::new(SimulatedDriver::new(world.clone(), Behaviour::default()));
        contract::run(&mut Fixture { world, driver }).await;
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
