//! A container's life: started, stopped, removed, and what a shim that was killed has left put right.
//!
//! What is true is in the record and in the kernel: a shim lives as long as it holds its lock, a container as long as its
//! first process. A start that somebody began and nobody waits for any more is waited for before anything else is done.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use madang_host::{
    cgroup::Limits,
    process::{Identity, Process},
    workload::{DriverError, Root, State, Workload},
};
use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep, timeout};
use tracing::info;
use uuid::Uuid;

use super::{Inner, blocking, freezer, host, image, refused, watch};
use crate::{
    disk,
    layers::private_dir,
    record::{Home, Lock, Record, Spec},
    runtime::PROCESSES_PER_VCPU,
};

/// Where runc is installed, in the order of PATH.
const RUNC: [&str; 4] = [
    "/usr/local/sbin/runc",
    "/usr/local/bin/runc",
    "/usr/sbin/runc",
    "/usr/bin/runc",
];
/// A start that was begun is over by then one way or the other: the shim gives up earlier.
const START_WITHIN: Duration = Duration::from_secs(40);
/// What was killed is gone by then, unless it is stuck in the kernel.
const END_WITHIN: Duration = Duration::from_secs(15);
/// How long a question waits for a shim that is about to write its answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// How often a lock is tried that somebody else may just be looking at.
const LOCK_STEP: Duration = Duration::from_millis(20);

impl Inner {
    pub(super) async fn start(self: &Arc<Self>, workload: &Workload) -> Result<(), DriverError> {
        let id = workload.id;
        if self.runs(id).await? {
            return Ok(());
        }
        let home = Home::of_workload(&workload.dir);
        let spec = self.wanted(workload).await?;
        if !self.let_go(id, &home, &spec).await? && !self.begin(workload, &home, &spec).await? {
            return Ok(());
        }
        self.decided(id, &home, START_WITHIN).await?;
        match self.record(id, &home)? {
            Some(Record::Running { .. } | Record::Exited { .. }) => {
                info!(workload = %id, "started a container");
                Ok(())
            }
            Some(Record::Failed {
                reason, broken: true, ..
            }) => Err(DriverError::Broken(reason)),
            Some(Record::Failed { reason, .. }) => Err(DriverError::Host(reason)),
            Some(Record::Starting { .. }) | None => {
                let log = home.file("shim.log");
                Err(DriverError::Host(format!(
                    "the container's shim ended early; {} may say why",
                    log.display()
                )))
            }
        }
    }

    /// Begins a start, and holds it where only its interfaces are missing.
    pub(super) async fn make_ready(self: &Arc<Self>, workload: &Workload) -> Result<(), DriverError> {
        let id = workload.id;
        let home = Home::of_workload(&workload.dir);
        if self.is_held(id, &home)? || self.runs(id).await? {
            return Ok(());
        }
        let mut spec = self.wanted(workload).await?;
        spec.is_held = true;
        self.begin(workload, &home, &spec).await.map(drop)
    }

    /// What is to run for a workload, its image unpacked.
    async fn wanted(self: &Arc<Self>, workload: &Workload) -> Result<Spec, DriverError> {
        let Root::Container {
            archive, digest, env, ..
        } = &workload.root
        else {
            return Err(DriverError::Unsupported {
                driver: "oci",
                action: "run a disk image",
            });
        };
        let runc = RUNC.iter().map(PathBuf::from).find(|path| path.exists());
        let runc = runc
            .ok_or_else(|| DriverError::Host("runc is not installed; install it with `apt-get install runc`".into()))?;
        let image = self.prepare(archive, digest).await?;
        self.spec(workload, image, env, runc)
    }

    /// Starts a shim on a run; false if something runs already.
    async fn begin(self: &Arc<Self>, workload: &Workload, home: &Home, spec: &Spec) -> Result<bool, DriverError> {
        let id = workload.id;
        let Some(lock) = self.take_over(id, home).await? else {
            return Ok(false);
        };
        if let (Some(blanks), Root::Container { size_bytes, .. }) = (&self.blanks, &workload.root)
            && *size_bytes > 0
        {
            let (made, blank) = (home.clone(), blanks.of_size(*size_bytes).await?);
            blocking(move || disk::make(&made, &blank)).await?;
            disk::grow_offline(home, *size_bytes).await?;
        }
        self.register(id, home, spec)?;
        self.shims.ensure(&Limits::default()).map_err(host)?;
        drop(lock);
        let shim = match self.take_spare(home, spec.run) {
            Some(shim) => shim,
            None => self.launch("run", home, spec.run).await?,
        };
        watch::attend(self, id, shim);
        Ok(true)
    }

    /// Whether a shim has made all ready, or is about to, and waits for the word.
    pub(super) fn is_held(&self, id: Uuid, home: &Home) -> Result<bool, DriverError> {
        let failed = |e| refused(format!("look after container {id}"), e);
        let is_held = home.spec().map_err(failed)?.is_some_and(|spec| spec.is_held);
        if !is_held || !matches!(self.record(id, home)?, None | Some(Record::Starting { .. })) {
            return Ok(false);
        }
        let begun = self.watched.lock().values().any(|watched| *watched == id);
        Ok(begun || home.is_attended().map_err(failed)?)
    }

    /// Gives a run that was made ready what it waits for; false if there is none of the sort that is wanted.
    async fn let_go(self: &Arc<Self>, id: Uuid, home: &Home, wanted: &Spec) -> Result<bool, DriverError> {
        if !self.is_held(id, home)? {
            return Ok(false);
        }
        let failed = |e| refused(format!("let container {id} go on"), e);
        let Some(held) = home.spec().map_err(failed)?.filter(|held| held.is_ready_for(wanted)) else {
            self.give_up(id, home).await?;
            return Ok(false);
        };
        let spec = Spec {
            run: held.run,
            ..wanted.clone()
        };
        home.write_spec(&spec).map_err(failed)?;
        home.poke().map_err(failed)?;
        Ok(true)
    }

    /// Ends a run that was made ready and that nobody wants.
    async fn give_up(self: &Arc<Self>, id: Uuid, home: &Home) -> Result<(), DriverError> {
        let mut spec = home
            .spec()
            .map_err(|e| refused(format!("read the specification of container {id}"), e))?;
        let shims: Vec<Identity> = {
            let watched = self.watched.lock();
            let its = watched.iter().filter(|(_, workload)| **workload == id);
            its.map(|(shim, _)| *shim).collect()
        };
        let recorded = self.record(id, home)?.map(|record| record.shim());
        for shim in shims.into_iter().chain(recorded).filter_map(Process::find) {
            shim.signal(Signal::SIGKILL).map_err(host)?;
            let ended = timeout(END_WITHIN, shim.wait()).await;
            ended.map_err(|_| DriverError::TimedOut {
                action: format!("ending what was made ready for container {id}"),
                after: END_WITHIN,
            })?;
            end_orphans(shim.identity()).await?;
        }
        self.clean(id, home).await?;
        self.group(id)?.remove().await.map_err(host)?;
        if let Some(spec) = &mut spec {
            spec.is_held = false;
            home.write_spec(spec)
                .map_err(|e| refused(format!("write the specification of container {id}"), e))?;
        }
        Ok(())
    }

    /// Gives a running container the processors and memory of `workload`, by its control group.
    pub(super) async fn resize(&self, workload: &Workload) -> Result<(), DriverError> {
        let id = workload.id;
        let not_running = || DriverError::Host(format!("container {id} is not running"));
        let home = self.home(id)?.ok_or_else(not_running)?;
        if !self.runs(id).await? {
            return Err(not_running());
        }
        let (vcpus, memory) = (u64::from(workload.vcpus), workload.memory_bytes);
        let swap_bytes = workload.swap_bytes();
        if let Root::Container { size_bytes, .. } = workload.root {
            let home = home.clone();
            blocking(move || disk::grow_online(&home, size_bytes)).await?;
        }
        let words = [
            "update".to_owned(),
            format!("--cpu-share={}", vcpus * 1024),
            format!("--cpu-quota={}", vcpus * 100_000),
            "--cpu-period=100000".to_owned(),
            format!("--pids-limit={}", vcpus * PROCESSES_PER_VCPU),
            format!("--memory={memory}"),
        ];
        let swap = format!("--memory-swap={}", memory + swap_bytes);
        let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
        // Where the host counts swap, its limit has to move with the memory's; elsewhere it cannot be set.
        words.push(&swap);
        if self.runc(&home, &words).await.is_err() {
            words.pop();
            self.runc(&home, &words).await?;
        }
        if let Ok(Some(mut spec)) = home.spec() {
            (spec.vcpus, spec.memory_bytes, spec.swap_bytes) = (workload.vcpus, memory, swap_bytes);
            home.write_spec(&spec)
                .map_err(|e| refused(format!("write the specification of container {id}"), e))?;
        }
        Ok(())
    }

    /// Waits for what an earlier call has begun, and then makes sure that nothing runs and nothing can: none if it runs.
    async fn take_over(self: &Arc<Self>, id: Uuid, home: &Home) -> Result<Option<Lock>, DriverError> {
        private_dir(home.path()).map_err(image)?;
        let attempt = async {
            loop {
                if self.runs(id).await? {
                    return Ok(None);
                }
                // Of a driver before this one: its shim may show only now, and waits for a word that nobody gives.
                if self.is_held(id, home)? {
                    self.give_up(id, home).await?;
                }
                self.settle(id, home).await?;
                let lock = home
                    .try_lock()
                    .map_err(|e| refused(format!("lock container {id}"), e))?;
                if lock.is_some() {
                    return Ok(lock);
                }
                sleep(LOCK_STEP).await;
            }
        };
        let late = |_| DriverError::TimedOut {
            action: format!("waiting for an earlier start of container {id}"),
            after: START_WITHIN,
        };
        timeout(START_WITHIN, attempt).await.map_err(late)?
    }

    async fn runs(&self, id: Uuid) -> Result<bool, DriverError> {
        if let Some(home) = self.home(id)? {
            self.decided(id, &home, START_WITHIN).await?;
        }
        Ok(matches!(self.state(id).await?, State::Running { .. } | State::Paused))
    }

    /// Waits until a start that is under way has come to something.
    async fn decided(&self, id: Uuid, home: &Home, patience: Duration) -> Result<(), DriverError> {
        let mut pulses = self.pulses.subscribe();
        let wait = async {
            loop {
                if self.is_held(id, home)? {
                    return Ok(());
                }
                // Asked first: what the shim wrote last is then read.
                let attended = home
                    .is_attended()
                    .map_err(|e| refused(format!("look after container {id}"), e))?;
                let record = self.record(id, home)?;
                let begun = self.watched.lock().values().any(|watched| *watched == id);
                match record {
                    None | Some(Record::Starting { .. }) if attended || begun => {}
                    _ => return Ok(()),
                }
                tokio::select! {
                    _ = pulses.recv() => {}
                    () = sleep(LOCK_STEP) => {}
                }
            }
        };
        let late = |_| DriverError::TimedOut {
            action: format!("starting container {id}"),
            after: patience,
        };
        timeout(patience, wait).await.map_err(late)?
    }

    pub(super) async fn stop(self: &Arc<Self>, id: Uuid, grace: Option<Duration>) -> Result<(), DriverError> {
        let Some(home) = self.home(id)? else { return Ok(()) };
        self.end(id, &home, grace).await?;
        self.settle(id, &home).await
    }

    pub(super) async fn remove(self: &Arc<Self>, id: Uuid) -> Result<(), DriverError> {
        let Some(home) = self.home(id)? else { return Ok(()) };
        if home.path().exists() {
            self.end(id, &home, None).await?;
            self.settle(id, &home).await?;
            remove_home(home.path()).await?;
        }
        self.group(id)?.remove().await.map_err(host)?;
        fs::remove_file(self.link(id)).map_err(|e| refused(format!("forget container {id}"), e))?;
        self.locks.lock().retain(|_, lock| Arc::strong_count(lock) > 1);
        info!(workload = %id, "removed a container");
        Ok(())
    }

    pub(super) async fn freeze(self: &Arc<Self>, id: Uuid, freeze: bool) -> Result<(), DriverError> {
        let (verb, done) = if freeze {
            ("pause", State::Paused)
        } else {
            ("resume", State::Running { pid: 0 })
        };
        let state = self.state(id).await?;
        let already = std::mem::discriminant(&state) == std::mem::discriminant(&done);
        match (already, &state) {
            (true, _) => return Ok(()),
            (false, State::Running { .. } | State::Paused) => {}
            _ => {
                return Err(DriverError::Host(format!(
                    "container {id} does not run, so it cannot {verb}"
                )));
            }
        }
        let Some(home) = self.home(id)? else { return Ok(()) };
        self.runc(&home, &[verb]).await
    }

    /// Ends the container's first process, and with it all others.
    async fn end(self: &Arc<Self>, id: Uuid, home: &Home, grace: Option<Duration>) -> Result<(), DriverError> {
        if self.is_held(id, home)? {
            return self.give_up(id, home).await;
        }
        // One that is being started cannot be signalled yet.
        self.decided(id, home, START_WITHIN).await?;
        let Some(Record::Running { init, .. }) = self.record(id, home)? else {
            return Ok(());
        };
        let Some(process) = Process::find(init) else {
            return Ok(());
        };
        fs::write(home.file("stop"), []).map_err(|e| refused(format!("stop container {id}"), e))?;
        if freezer::is_frozen(init.pid) {
            self.runc(home, &["resume"]).await?;
        }
        if let Some(grace) = grace {
            let number = home
                .spec()
                .ok()
                .flatten()
                .map_or(Signal::SIGTERM as i32, |spec| spec.stop_signal);
            match Signal::try_from(number) {
                Ok(signal) => process.signal(signal).map_err(host)?,
                Err(_) => self.runc(home, &["kill", &number.to_string()]).await?, // a real-time signal
            }
            if timeout(grace, process.wait()).await.is_ok() {
                return Ok(());
            }
        }
        process.signal(Signal::SIGKILL).map_err(host)?;
        let patience = END_WITHIN;
        timeout(patience, process.wait())
            .await
            .map(drop)
            .map_err(|_| DriverError::TimedOut {
                action: format!("ending container {id}"),
                after: patience,
            })
    }

    /// Waits until a container that has ended, or was never started whole, has left nothing but its record and its disk.
    /// Does nothing to one that runs.
    pub(super) async fn settle(&self, id: Uuid, home: &Home) -> Result<(), DriverError> {
        let Some(record) = self.record(id, home)? else {
            return Ok(());
        };
        if self.is_held(id, home)? {
            return Ok(());
        }
        if let Some(shim) = Process::find(record.shim()) {
            if let Record::Running { init, .. } = record
                && Process::find(init).is_some()
            {
                return Ok(());
            }
            let ended = timeout(END_WITHIN, shim.wait()).await;
            ended.map_err(|_| DriverError::TimedOut {
                action: format!("cleaning up container {id}"),
                after: END_WITHIN,
            })?;
        }
        let record = self.record(id, home)?;
        let last = match record {
            Some(Record::Running { init, .. }) if Process::find(init).is_some() => return Ok(()),
            Some(Record::Running { shim, .. }) => Record::Exited {
                shim,
                code: None,
                at: 0,
            },
            Some(Record::Starting { shim }) => Record::Failed {
                shim,
                reason: "the start was interrupted".into(),
                broken: false,
                at: 0,
            },
            _ => return self.clean(id, home).await,
        };
        if let Record::Failed { shim, .. } = last {
            end_orphans(shim).await?;
        }
        self.clean(id, home).await?;
        self.group(id)?.remove().await.map_err(host)?;
        let spec = home
            .spec()
            .map_err(|e| refused(format!("read the specification of container {id}"), e))?;
        let Some(spec) = spec else { return Ok(()) };
        home.write_record(&spec, &last)
            .map_err(|e| refused(format!("write the record of container {id}"), e))
    }

    /// Removes what a killed shim could not.
    async fn clean(&self, id: Uuid, home: &Home) -> Result<(), DriverError> {
        if home.file("runc").join(id.simple().to_string()).exists() {
            self.runc(home, &["delete", "--force"]).await?;
        }
        Ok(())
    }

    pub(super) async fn state(&self, id: Uuid) -> Result<State, DriverError> {
        let Some(home) = self.home(id)? else {
            return Ok(State::Absent);
        };
        if self.is_held(id, &home)? {
            return Ok(State::Absent);
        }
        let mut pulses = self.pulses.subscribe();
        // Long enough for a shim that is about to write what happens, and not longer.
        let deadline = Instant::now() + ANSWER_WITHIN;
        loop {
            let attended = home
                .is_attended()
                .map_err(|e| refused(format!("look after container {id}"), e))?;
            match self.record(id, &home)? {
                Some(Record::Exited { code, .. }) => return Ok(State::Stopped { exit_code: code }),
                Some(Record::Failed { reason, .. }) => return Ok(State::Failed { reason }),
                Some(Record::Running { init, .. }) if Process::find(init).is_some() => {
                    let paused = freezer::is_frozen(init.pid);
                    return Ok(if paused {
                        State::Paused
                    } else {
                        State::Running { pid: init.pid }
                    });
                }
                Some(Record::Running { .. } | Record::Starting { .. }) | None => {}
            }
            if !attended || Instant::now() >= deadline {
                return Ok(State::Stopped { exit_code: None });
            }
            tokio::select! {
                _ = pulses.recv() => {}
                () = sleep(LOCK_STEP) => {}
            }
        }
    }
}

/// Removes a container's directory. A start that was cut off may have a shim on its way that still writes its log: it ends
/// by itself when it finds that it is not wanted.
async fn remove_home(path: &Path) -> Result<(), DriverError> {
    let deadline = Instant::now() + END_WITHIN;
    loop {
        let doomed = path.to_owned();
        let removed = blocking(move || Ok(fs::remove_dir_all(&doomed))).await?;
        match removed {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty && Instant::now() < deadline => {
                sleep(LOCK_STEP).await;
            }
            Err(error) => return Err(refused(format!("remove {}", path.display()), error)),
        }
    }
}

/// Ends what a shim that was killed on the way to a container has left: calls of runc, which would go on and make one.
async fn end_orphans(shim: Identity) -> Result<(), DriverError> {
    let orphans = blocking(move || Ok(runtimes_of_session(shim.pid))).await?;
    for orphan in orphans {
        orphan.signal(Signal::SIGKILL).map_err(host)?;
        let ended = timeout(END_WITHIN, orphan.wait()).await;
        ended.map_err(|_| DriverError::TimedOut {
            action: format!("ending process {}", orphan.pid()),
            after: END_WITHIN,
        })?;
    }
    Ok(())
}

/// Processes called runc of the session that a shim was the leader of. The name is asked for because the number may be
/// another session's by now.
fn runtimes_of_session(session: u32) -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let Some((name, rest)) = stat.rsplit_once(") ") else {
            return false;
        };
        // The fields after the name: state, parent, group, session. Source: proc_pid_stat(5).
        name.contains("(runc") && rest.split(' ').nth(3) == Some(session.to_string().as_str())
    })
    .filter_map(|pid| Process::find(Identity::of(pid)?))
    .collect()
}
