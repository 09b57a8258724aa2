//! The task that watches one machine.

use std::{
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use madang_host::{cgroup::Group, process::Process};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{
    sync::{broadcast, mpsc, watch},
    time::{MissedTickBehavior, interval, timeout},
};
use uuid::Uuid;

use super::{Intent, Line, Phase, Request};
use crate::driver::qemu::{
    arguments, console,
    qmp::{Event, Failure, Qmp},
    record::{self, End, MONITOR, Record},
    session,
};

/// QEMU's own complaints are cut beyond this; a guest may provoke them.
const ERRORS_BYTES: u64 = 1 << 20;

/// How often console output is collected when nobody asks for it.
const COLLECT_EVERY: Duration = Duration::from_secs(30);

/// How often a lost connection is tried again.
const CONNECT_AGAIN: Duration = Duration::from_millis(200);

/// Everything the task has.
pub(super) struct Watcher {
    pub id: Uuid,
    pub dir: PathBuf,
    pub process: Process,
    pub group: Option<Group>,
    pub phase: watch::Sender<Phase>,
    pub intent: Arc<Mutex<Intent>>,
    pub requests: mpsc::Receiver<Request>,
    pub changes: broadcast::Sender<Uuid>,
    pub events: watch::Sender<u64>,
    /// Alive while a session has the serial line.
    pub serial: Option<Weak<()>>,
    /// How it is ending, from the moment that is known until its process is gone.
    pub end: Option<End>,
}

/// Why a connection is over.
enum Over {
    /// The process has ended.
    Ended,
    /// QEMU closed it or does not answer.
    Lost,
}

impl Watcher {
    /// Until the process has ended. May be dropped at any moment: the machine does not notice.
    pub async fn run(mut self) {
        let process = self.process.clone();
        loop {
            let connected = tokio::select! {
                connected = connect(&self.dir) => connected,
                _ = process.wait() => break,
            };
            match connected {
                Ok(mut qmp) => match self.serve(&mut qmp).await {
                    Over::Ended => break,
                    Over::Lost => {}
                },
                Err(error) => tracing::debug!(workload = %self.id, %error, "could not talk to QEMU"),
            }
            if timeout(CONNECT_AGAIN, process.wait()).await.is_ok() {
                break;
            }
        }
        self.finish().await;
    }

    async fn serve(&mut self, qmp: &mut Qmp) -> Over {
        if let Err(over) = self.take_stock(qmp).await {
            return over;
        }
        if self.serial.is_none()
            && let Err(over) = self.mend_serial(qmp).await
        {
            return over;
        }
        let process = self.process.clone();
        let mut collect = interval(COLLECT_EVERY);
        collect.set_missed_tick_behavior(MissedTickBehavior::Delay);
        collect.reset();
        loop {
            let step = tokio::select! {
                biased;
                _ = process.wait() => return Over::Ended,
                event = qmp.event() => match event {
                    Ok(event) => self.happened(qmp, &event).await,
                    Err(_) => Err(Over::Lost),
                },
                // Without senders there is nobody left to ask.
                Some(request) = self.requests.recv() => self.asked(qmp, request).await,
                _ = collect.tick() => {
                    self.cut_errors();
                    self.collect(qmp).await
                }
            };
            match step {
                Ok(()) => {}
                // A QEMU that quits closes the connection first.
                Err(Over::Lost) if timeout(Duration::from_secs(1), process.wait()).await.is_ok() => return Over::Ended,
                Err(over) => return over,
            }
        }
    }

    /// What it is now: at the beginning, and after having been away.
    async fn take_stock(&mut self, qmp: &mut Qmp) -> Result<(), Over> {
        let status = self.call(qmp, "query-status", Value::Null).await?.unwrap_or_default();
        match status["status"].as_str().unwrap_or_default() {
            "shutdown" => self.powered_off(qmp).await,
            "guest-panicked" => self.panicked(qmp).await,
            // Its memory is being read; who started it waits for that.
            "inmigrate" => Ok(()),
            "paused" | "postmigrate" | "finish-migrate" | "prelaunch" | "io-error" | "internal-error" | "watchdog"
            | "suspended" => {
                self.publish(Phase::Paused);
                Ok(())
            }
            _ => {
                self.publish(Phase::Running);
                Ok(())
            }
        }
    }

    async fn happened(&mut self, qmp: &mut Qmp, event: &Event) -> Result<(), Over> {
        self.events.send_modify(|count| *count += 1);
        match event.name.as_str() {
            "SHUTDOWN" if self.end.is_none() => self.powered_off(qmp).await,
            "GUEST_PANICKED" => self.panicked(qmp).await,
            // Events may be old news by now: the guest stops, for a moment, when it is restarted.
            "STOP" | "RESUME" if self.end.is_none() => self.take_stock(qmp).await,
            "RESET" => {
                tracing::info!(workload = %self.id, "guest restarts");
                Ok(())
            }
            "BLOCK_IO_ERROR" => {
                let why = event.data["reason"].as_str().unwrap_or("unknown");
                tracing::warn!(workload = %self.id, why, "the disk of a machine failed, it is paused");
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Its guest powered off; QEMU waits, halted.
    async fn powered_off(&mut self, qmp: &mut Qmp) -> Result<(), Over> {
        if *self.intent.lock() == Intent::Restart {
            let reset = self.call(qmp, "system_reset", Value::Null).await?;
            let goes_on = self.call(qmp, "cont", Value::Null).await?;
            if reset.is_ok() && goes_on.is_ok() {
                *self.intent.lock() = Intent::None;
                // Wakes up who waits for the restart, also when the phase is what it was.
                self.phase.send_replace(Phase::Running);
                return Ok(());
            }
            tracing::warn!(workload = %self.id, ?reset, ?goes_on, "QEMU could not start the guest again");
        }
        // QEMU says the same when it is told to quit.
        let is_suspended = *self.intent.lock() == Intent::Suspend;
        let end = if is_suspended { End::Suspended } else { End::Stopped };
        self.quit(qmp, end).await
    }

    async fn panicked(&mut self, qmp: &mut Qmp) -> Result<(), Over> {
        self.collect(qmp).await?;
        let line = console::panic_line(&self.dir).unwrap_or_else(|| "it did not say why".into());
        let reason = format!("the guest's kernel panicked, see its console: {line}");
        self.quit(qmp, End::Failed { reason }).await
    }

    /// Ends QEMU because the guest has ended; what it printed is kept.
    async fn quit(&mut self, qmp: &mut Qmp, end: End) -> Result<(), Over> {
        self.end.get_or_insert(end);
        self.collect(qmp).await?;
        if self.call(qmp, "quit", Value::Null).await?.is_err() {
            let _ = self.process.signal(nix::sys::signal::Signal::SIGKILL);
        }
        Ok(())
    }

    async fn asked(&mut self, qmp: &mut Qmp, request: Request) -> Result<(), Over> {
        match request {
            Request::Call(call) => {
                let told = self
                    .call_with(qmp, call.command, call.arguments, call.descriptor.as_ref())
                    .await?;
                // Before the event comes, which would look like news.
                match call.command {
                    "stop" if told.is_ok() => drop(self.phase.send_replace(Phase::Paused)),
                    "cont" if told.is_ok() => drop(self.phase.send_replace(Phase::Running)),
                    _ => {}
                }
                // Who asked may have given up.
                let _ = call.answer.send(told);
                Ok(())
            }
            Request::Serial(answer) => {
                let line = self.lead_to_session(qmp).await?;
                let _ = answer.send(line);
                Ok(())
            }
            Request::Collect(answer) => {
                let collected = self.collect(qmp).await;
                let _ = answer.send(());
                collected
            }
        }
    }

    /// Moves console output from QEMU's memory into the file.
    async fn collect(&mut self, qmp: &mut Qmp) -> Result<(), Over> {
        match &self.serial {
            Some(held) if held.strong_count() > 0 => return Ok(()),
            Some(_) => self.lead_to_memory(qmp).await?,
            None => {}
        }
        let arguments = json!({ "device": arguments::CONSOLE, "size": console::FETCH_BYTES, "format": "base64" });
        // No more than QEMU kept when we began: a guest that prints faster than we read must not hold us here.
        for _ in 0..console::RING_BYTES / console::FETCH_BYTES {
            let Ok(piece) = self.call(qmp, "ringbuf-read", arguments.clone()).await? else {
                return Ok(());
            };
            let bytes = BASE64.decode(piece.as_str().unwrap_or_default()).unwrap_or_default();
            if bytes.is_empty() {
                return Ok(());
            }
            if let Err(error) = console::append(&self.dir, &bytes) {
                tracing::warn!(workload = %self.id, %error, "could not keep console output");
                return Ok(());
            }
        }
        Ok(())
    }

    /// Leads the serial line to a new session. What was printed before is kept.
    async fn lead_to_session(&mut self, qmp: &mut Qmp) -> Result<Result<Line, String>, Over> {
        self.collect(qmp).await?;
        let (ours, theirs) = match session::pair() {
            Ok(pair) => pair,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let name = json!({ "fdname": session::NAME });
        if let Err(why) = self.call_with(qmp, "getfd", name, Some(&theirs)).await? {
            return Ok(Err(why));
        }
        if let Err(why) = self.call(qmp, "chardev-change", session::to_socket()).await? {
            return Ok(Err(why));
        }
        let held = Arc::new(());
        self.serial = Some(Arc::downgrade(&held));
        Ok(Ok((ours, held)))
    }

    /// After a session: QEMU keeps what is printed again.
    async fn lead_to_memory(&mut self, qmp: &mut Qmp) -> Result<(), Over> {
        self.serial = None;
        if let Err(why) = self.call(qmp, "chardev-change", session::to_memory()).await? {
            tracing::warn!(workload = %self.id, why, "its console output is lost from now on");
        }
        Ok(())
    }

    /// A session that madang's end took with it left the serial line in the air.
    async fn mend_serial(&mut self, qmp: &mut Qmp) -> Result<(), Over> {
        let devices = self.call(qmp, "query-chardev", Value::Null).await?.unwrap_or_default();
        let line = devices
            .as_array()
            .into_iter()
            .flatten()
            .find(|device| device["label"] == arguments::CONSOLE);
        match line.and_then(|line| line["filename"].as_str()) {
            Some(leads_to) if leads_to != "ringbuf" => self.lead_to_memory(qmp).await,
            _ => Ok(()),
        }
    }

    fn cut_errors(&self) {
        let path = self.dir.join(record::ERRORS);
        if std::fs::metadata(&path).is_ok_and(|file| file.len() > ERRORS_BYTES) {
            let cut = std::fs::OpenOptions::new()
                .write(true)
                .open(&path)
                .and_then(|file| file.set_len(0));
            if let Err(error) = cut {
                tracing::warn!(workload = %self.id, %error, "could not cut QEMU's complaints");
            }
        }
    }

    /// The inner error is QEMU's refusal.
    async fn call(&self, qmp: &mut Qmp, command: &str, arguments: Value) -> Result<Result<Value, String>, Over> {
        self.call_with(qmp, command, arguments, None).await
    }

    async fn call_with(
        &self,
        qmp: &mut Qmp,
        command: &str,
        arguments: Value,
        descriptor: Option<&OwnedFd>,
    ) -> Result<Result<Value, String>, Over> {
        match qmp.call_with(command, arguments, descriptor).await {
            Ok(value) => Ok(Ok(value)),
            Err(Failure::Refused(why)) => Ok(Err(why)),
            Err(Failure::Lost(error)) => {
                tracing::debug!(workload = %self.id, command, %error, "lost the connection to QEMU");
                Err(Over::Lost)
            }
        }
    }

    fn publish(&self, phase: Phase) {
        let unasked = phase == Phase::Paused && *self.intent.lock() == Intent::None;
        let changed = self.phase.send_if_modified(|old| {
            let changed = *old != phase;
            *old = phase;
            changed
        });
        if changed && unasked {
            self.tell_everybody();
        }
    }

    /// Its process is gone: writes down how it ended and gives back what it had.
    async fn finish(mut self) {
        let code = timeout(Duration::from_secs(1), self.process.wait())
            .await
            .ok()
            .flatten();
        let intent = *self.intent.lock();
        let end = match self.end.take() {
            Some(end) => end,
            None if intent == Intent::Stop => End::Stopped,
            None if intent == Intent::Suspend => End::Suspended,
            None => End::Failed { reason: self.why(code) },
        };
        if let Some(group) = &self.group
            && let Err(error) = group.remove().await
        {
            tracing::warn!(workload = %self.id, error = %error.chain(), "could not remove a control group");
        }
        match &end {
            End::Stopped => tracing::info!(workload = %self.id, "machine stopped"),
            End::Suspended => tracing::info!(workload = %self.id, "machine suspended"),
            End::Failed { reason } => tracing::warn!(workload = %self.id, reason, "machine failed"),
        }
        record::write(&self.dir, &Record::ended(self.id, end.clone()));
        let _ = std::fs::remove_file(self.dir.join(MONITOR));
        self.phase.send_replace(Phase::Ended(end));
        if !matches!(intent, Intent::Stop | Intent::Suspend) {
            self.tell_everybody();
        }
    }

    /// Why a process that should run has ended, in words for the user.
    fn why(&self, code: Option<i32>) -> String {
        if self
            .group
            .as_ref()
            .is_some_and(|group| group.usage().out_of_memory_kills > 0)
        {
            return "the host ended it because its QEMU process used more memory than it may".into();
        }
        let how = match code {
            Some(code) if code > 128 => format!("was ended by signal {}", code - 128),
            Some(code) => format!("ended with exit code {code}"),
            None => "ended".into(),
        };
        let said = record::last_error(&self.dir)
            .map(|line| format!(": {line}"))
            .unwrap_or_default();
        format!("its QEMU process {how}{said}")
    }

    fn tell_everybody(&self) {
        // Nobody may be listening.
        let _ = self.changes.send(self.id);
    }
}

/// By way of the directory's descriptor: a socket's path may have 107 bytes only.
async fn connect(dir: &Path) -> std::io::Result<Qmp> {
    let opened = std::fs::File::open(dir)?;
    let path = Path::new("/proc/self/fd")
        .join(opened.as_raw_fd().to_string())
        .join(MONITOR);
    Qmp::connect(&path).await
}
