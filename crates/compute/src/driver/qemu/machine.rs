//! A running machine: one task talks to its QEMU, follows what happens to it and writes down how it ended. Everybody else
//! asks the task, or looks at the phase it publishes.

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use madang_host::{
    process::Process,
    workload::{DriverError, Session, State},
};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::{
    net::UnixStream,
    sync::{mpsc, oneshot, watch},
    time::{Instant, timeout, timeout_at},
};
use uuid::Uuid;

use super::{Host, record::End, session::Serial};

mod watcher;

use watcher::Watcher;

/// How long a machine may take from its process to its running guest: QEMU maps memory and loads firmware.
const START_WITHIN: Duration = Duration::from_secs(60);

/// How long QEMU may take to end after it was told to; then it is killed.
const QUIT_WITHIN: Duration = Duration::from_secs(5);

/// How long the kernel may take to end a killed process.
const KILL_WITHIN: Duration = Duration::from_secs(15);

/// A guest that is still booting misses the power button: it is pressed again.
const PRESS_AGAIN: Duration = Duration::from_secs(3);

/// Requests that may wait for the task.
const REQUESTS: usize = 16;

/// Where a machine is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Its process exists, its guest may not run yet.
    Starting,
    Running,
    Paused,
    Ended(End),
}

/// What is being done to a machine, which decides what its end means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Intent {
    /// Nothing: an end is the guest's own.
    None,
    /// Its end was asked for.
    Stop,
    /// Its end was asked for, after its memory was written to the disk.
    Suspend,
    /// When it powers off it is started again, in the same process.
    Restart,
}

/// A question to the task.
enum Request {
    /// Tell QEMU this.
    Call(Call),
    /// Collect console output.
    Collect(oneshot::Sender<()>),
    /// Lead the serial line to a session.
    Serial(oneshot::Sender<Result<Line, String>>),
}

/// The serial line, for as long as the second is held.
type Line = (UnixStream, Arc<()>);

/// A command for QEMU.
struct Call {
    command: &'static str,
    arguments: Value,
    /// For commands that take one.
    descriptor: Option<OwnedFd>,
    /// The error is QEMU's refusal.
    answer: oneshot::Sender<Result<Value, String>>,
}

/// A QEMU process and the way to the task that watches it.
pub(super) struct Machine {
    id: Uuid,
    dir: PathBuf,
    process: Process,
    phase: watch::Receiver<Phase>,
    intent: Arc<Mutex<Intent>>,
    requests: mpsc::Sender<Request>,
    /// Counts what QEMU told unasked.
    events: watch::Receiver<u64>,
}

impl Machine {
    /// Starts watching a process.
    pub fn watch(host: &Arc<Host>, id: Uuid, dir: &Path, process: Process) -> Arc<Self> {
        let (phase, published) = watch::channel(Phase::Starting);
        let (requests, incoming) = mpsc::channel(REQUESTS);
        let (counter, events) = watch::channel(0);
        let intent = Arc::new(Mutex::new(Intent::None));
        let watcher = Watcher {
            id,
            dir: dir.to_owned(),
            process: process.clone(),
            group: host.group(id).ok(),
            phase,
            intent: Arc::clone(&intent),
            requests: incoming,
            changes: host.changes.clone(),
            events: counter,
            serial: None,
            end: None,
        };
        host.tasks.spawn_until_stopped(format!("vm-{id}"), watcher.run());
        Arc::new(Self {
            id,
            dir: dir.to_owned(),
            process,
            phase: published,
            intent,
            requests,
            events,
        })
    }

    pub fn phase(&self) -> Phase {
        self.phase.borrow().clone()
    }

    pub fn state(&self) -> State {
        match &*self.phase.borrow() {
            Phase::Starting | Phase::Running => State::Running {
                pid: self.process.pid(),
            },
            Phase::Paused => State::Paused,
            Phase::Ended(end) => end.state(),
        }
    }

    /// Waits until its guest runs.
    pub async fn started(&self) -> Result<(), DriverError> {
        let mut phase = self.phase.clone();
        let started = timeout(START_WITHIN, phase.wait_for(|phase| *phase != Phase::Starting)).await;
        match started {
            Ok(Ok(phase)) => match &*phase {
                Phase::Ended(End::Failed { reason }) => Err(DriverError::Host(reason.clone())),
                _ => Ok(()),
            },
            Ok(Err(_)) => Err(shutting_down()),
            Err(_) => Err(DriverError::TimedOut {
                action: format!("starting machine {}", self.id),
                after: START_WITHIN,
            }),
        }
    }

    /// Stops it: by its power button for at most `grace`, then by force.
    pub async fn stop(&self, grace: Option<Duration>) -> Result<(), DriverError> {
        *self.intent.lock() = Intent::Stop;
        // Halted processors do not feel the button.
        if let Some(grace) = grace.filter(|_| self.phase() == Phase::Running)
            && self
                .press_power_button(grace, |phase| matches!(phase, Phase::Ended(_)))
                .await
        {
            return Ok(());
        }
        // Lets QEMU finish what it is writing.
        self.collect_console().await;
        if self.tell("quit").await.is_ok() && self.ended_within(QUIT_WITHIN).await {
            return Ok(());
        }
        self.kill().await
    }

    /// Ends it, once its memory is on the disk.
    pub async fn end_suspended(&self) -> Result<(), DriverError> {
        *self.intent.lock() = Intent::Suspend;
        if self.tell("quit").await.is_ok() && self.ended_within(QUIT_WITHIN).await {
            return Ok(());
        }
        self.kill().await
    }

    /// What is asked does not undo a memory that was written.
    fn intend(&self, wanted: Intent) {
        let mut intent = self.intent.lock();
        if *intent != Intent::Suspend {
            *intent = wanted;
        }
    }

    /// Ends its process at once.
    pub async fn kill(&self) -> Result<(), DriverError> {
        self.intend(Intent::Stop);
        self.process.signal(nix::sys::signal::Signal::SIGKILL)?;
        if self.ended_within(KILL_WITHIN).await {
            return Ok(());
        }
        if self.phase.has_changed().is_err() {
            return Err(shutting_down());
        }
        Err(DriverError::TimedOut {
            action: format!("ending the QEMU process of {}", self.id),
            after: KILL_WITHIN,
        })
    }

    /// Asks the guest to end and starts it again in the same process. False when it did not end within `grace`, or
    /// cannot be asked because it is paused.
    pub async fn restart_politely(&self, grace: Duration) -> bool {
        if self.phase() != Phase::Running {
            return false;
        }
        *self.intent.lock() = Intent::Restart;
        let intent = Arc::clone(&self.intent);
        // The task takes the intent back once it has started the guest again.
        let restarted = move |_: &Phase| *intent.lock() == Intent::None;
        let done = self.press_power_button(grace, restarted).await;
        if !done {
            *self.intent.lock() = Intent::None;
        }
        done && self.phase() == Phase::Running
    }

    pub async fn pause(&self) -> Result<(), DriverError> {
        self.tell_and_wait("stop", "pausing", Phase::Paused).await
    }

    pub async fn resume(&self) -> Result<(), DriverError> {
        self.tell_and_wait("cont", "resuming", Phase::Running).await
    }

    /// Brings the file of console output up to date, as far as QEMU answers in time.
    pub async fn collect_console(&self) {
        let (answer, wait) = oneshot::channel();
        if self.requests.send(Request::Collect(answer)).await.is_ok() {
            let _ = timeout(Duration::from_secs(2), wait).await;
        }
    }

    /// Leads the serial line to a session; one that was there before ends.
    pub async fn open_serial(&self) -> Result<Box<dyn Session>, DriverError> {
        let (answer, wait) = oneshot::channel();
        let failed = |why: &str| DriverError::Host(format!("could not open the console of machine {}: {why}", self.id));
        let gone = |_| failed("its QEMU has ended");
        self.requests
            .send(Request::Serial(answer))
            .await
            .map_err(|_| gone(()))?;
        let line = wait.await.map_err(|_| gone(()))?;
        let (stream, held) = line.map_err(|why| failed(&why))?;
        let requests = self.requests.clone();
        let over = move || {
            // Only hurries what happens at the next collection anyway.
            let _ = requests.try_send(Request::Collect(oneshot::channel().0));
        };
        Ok(Box::new(Serial::new(stream, self.dir.clone(), held, over)))
    }

    /// Presses the button, again and again, until the phase is as wanted. False when that takes longer than `grace`.
    async fn press_power_button(&self, grace: Duration, mut wanted: impl FnMut(&Phase) -> bool) -> bool {
        let deadline = Instant::now() + grace;
        let mut phase = self.phase.clone();
        loop {
            let _ = self.tell("system_powerdown").await;
            let until = deadline.min(Instant::now() + PRESS_AGAIN);
            match timeout_at(until, phase.wait_for(&mut wanted)).await {
                Ok(Ok(_)) => return true,
                Ok(Err(_)) => return false,
                Err(_) if Instant::now() >= deadline => return false,
                Err(_) => {}
            }
        }
    }

    async fn tell_and_wait(&self, command: &'static str, verb: &str, wanted: Phase) -> Result<(), DriverError> {
        if self.phase() == wanted {
            return Ok(());
        }
        let action = format!("{verb} machine {}", self.id);
        self.tell(command)
            .await
            .map_err(|why| DriverError::Host(format!("{action}: {why}")))?;
        let mut phase = self.phase.clone();
        match timeout(
            QUIT_WITHIN,
            phase.wait_for(|phase| *phase == wanted || matches!(phase, Phase::Ended(_))),
        )
        .await
        {
            Ok(Ok(phase)) if *phase == wanted => Ok(()),
            Ok(Ok(_)) => Err(DriverError::Host(format!("{action}: it has ended"))),
            Ok(Err(_)) => Err(shutting_down()),
            Err(_) => Err(DriverError::TimedOut {
                action,
                after: QUIT_WITHIN,
            }),
        }
    }

    async fn tell(&self, command: &'static str) -> Result<(), String> {
        self.call(command, Value::Null, None).await.map(drop)
    }

    /// Lets QEMU do something. The error is its refusal, for people.
    pub async fn call(
        &self,
        command: &'static str,
        arguments: Value,
        descriptor: Option<OwnedFd>,
    ) -> Result<Value, String> {
        let (answer, wait) = oneshot::channel();
        let gone = || "its QEMU has ended".to_owned();
        let call = Call {
            command,
            arguments,
            descriptor,
            answer,
        };
        self.requests.send(Request::Call(call)).await.map_err(|_| gone())?;
        wait.await.unwrap_or_else(|_| Err(gone()))
    }

    /// As [`Machine::call`], for a step whose failure is the driver's.
    pub async fn ask(&self, command: &'static str, arguments: Value) -> Result<Value, DriverError> {
        let answer = self.call(command, arguments, None).await;
        answer.map_err(|why| DriverError::Host(format!("machine {}: {command}: {why}", self.id)))
    }

    /// Waits until QEMU tells something, or for `patience`.
    pub async fn news(&self, patience: Duration) {
        let mut events = self.events.clone();
        events.mark_unchanged();
        let _ = timeout(patience, events.changed()).await;
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    async fn ended_within(&self, patience: Duration) -> bool {
        let mut phase = self.phase.clone();
        matches!(
            timeout(patience, phase.wait_for(|phase| matches!(phase, Phase::Ended(_)))).await,
            Ok(Ok(_))
        )
    }
}

fn shutting_down() -> DriverError {
    DriverError::Host("madang is shutting down".into())
}
