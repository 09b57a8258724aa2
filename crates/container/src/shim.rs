//! The small process beside each container: makes its place, starts it, keeps its output, records its end.
//!
//! It is started by the driver as a hidden subcommand and needs nobody afterwards: it is the container's parent (by way
//! of being the "subreaper"), so only it learns the exit code. It has one thread once the container runs, no runtime, and
//! a few megabytes.
//!
//! ```text
//! run DIR:    record starting ─► namespaces, mounts ─► runc create, (held: the word) ─► network ─► start
//!                                                                  ─► record running ─► loop ─► record exited
//! spare:      reads of which run it is ─► its log ─► as run
//! adopt DIR:  (the shim before was killed)                            record running ─► loop ─► record exited, code unknown
//! shell DIR:  becomes runc, which starts a shell in the container and hands its terminal over; not a shim at all
//! ```
//! Its mounts are in a mount namespace of its own and end with it (the container holds its own copy). When the container
//! has ended, its network devices go back to where they came from, so that it can be started again.

mod console;
pub(crate) mod network;
mod place;

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Read as _},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            ffi::OsStringExt as _,
            fs::{OpenOptionsExt as _, chown},
            process::CommandExt as _,
        },
    },
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

use madang_host::{
    cgroup::{Group, Hierarchies},
    process::{Identity, Process},
};
use nix::{
    errno::Errno,
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        prctl::set_child_subreaper,
        resource::{Resource, setrlimit},
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Pid, dup2_stderr, mkfifo},
};

pub(crate) use self::console::tail;
use uuid::Uuid;

use self::{console::Console, network::Outside};
use crate::{
    archive::ImageError,
    record::{Home, Lock, Record, Spec},
    runtime::OPEN_FILES,
};

/// How long runc may take before the start is given up; it usually takes 20 ms.
const START_MS: u64 = 30_000;
/// How long the program may take from runc's end to its first instruction before it is called running anyway.
const EXEC_MS: u64 = 500;
/// While waiting for that, how often to look.
const EXEC_STEP_MS: u16 = 1;
/// How often the container's lock is tried, and how long in between: two seconds together.
const LOCK_TRIES: u32 = 400;
const LOCK_STEP_MS: u16 = 5;
/// What a spare shim reads at most: a run's id and a path.
const LONGEST_WORD: u64 = 64 + libc::PATH_MAX as u64;
/// How often an adopted container is looked at; nothing tells of a stranger's child.
const ADOPTED_STEP_MS: u16 = 200;

/// Why a container could not be started.
pub(crate) struct Failure {
    pub reason: String,
    pub broken: bool,
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Self {
        Self {
            broken: matches!(error, ImageError::Broken(_)),
            reason: error.to_string(),
        }
    }
}

impl From<madang_host::Error> for Failure {
    fn from(error: madang_host::Error) -> Self {
        Self {
            broken: false,
            reason: error.chain(),
        }
    }
}

impl Failure {
    fn host(action: &str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self {
            broken: false,
            reason: format!("could not {action}: {source}"),
        }
    }

    fn errno(action: &str) -> impl FnOnce(Errno) -> Self {
        move |source| Self::host(action)(source.into())
    }
}

/// The shim's `main`: `args` are `run DIR RUN`, `spare`, `adopt DIR RUN` or `shell DIR RUN SOCKET`, what follows the
/// subcommand's name. Must be called before any thread is started. What goes wrong ends up in the record and, for people,
/// on standard error.
pub fn shim_main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut args = args.into_iter();
    let verb = args.next();
    let verb = verb.as_deref().and_then(|verb| verb.to_str()).unwrap_or_default();
    let job = match verb {
        "spare" => match await_job() {
            Ok(Some(job)) => Some(job),
            Ok(None) => return ExitCode::SUCCESS,
            Err(failure) => return failed(Path::new("spare"), &failure),
        },
        _ => args.next().zip(args.next()),
    };
    let job = job.and_then(|(dir, run)| Some((dir, Uuid::parse_str(run.to_str()?).ok()?)));
    let Some((dir, run)) = job else {
        eprintln!(
            "this is started by madang for its containers: run DIR RUN | spare | adopt DIR RUN | shell DIR RUN SOCKET"
        );
        return ExitCode::from(2);
    };
    let result = match verb {
        "shell" => shell(Path::new(&dir), run, args.next()),
        "run" | "spare" => Shim::open(Path::new(&dir), run).and_then(Shim::run),
        "adopt" => Shim::open(Path::new(&dir), run).and_then(Shim::adopt),
        _ => Err(Failure {
            reason: format!("unknown verb {verb:?}"),
            broken: false,
        }),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failed(Path::new(&dir), &failure),
    }
}

fn failed(what: &Path, failure: &Failure) -> ExitCode {
    eprintln!("{}: {}", what.display(), failure.reason);
    ExitCode::FAILURE
}

/// Waits until the driver says of which container's run this is the shim, and takes that container's log; none when the
/// driver has ended.
fn await_job() -> Result<Option<(OsString, OsString)>, Failure> {
    let mut word = Vec::new();
    let read = io::stdin().lock().take(LONGEST_WORD).read_to_end(&mut word);
    read.map_err(Failure::host("hear of which container this is the shim"))?;
    let Some(space) = word.iter().position(|byte| *byte == b' ') else {
        return Ok(None);
    };
    let dir = OsString::from_vec(word.split_off(space + 1));
    word.truncate(space);
    let log = File::options()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(Path::new(&dir).join("shim.log"))
        .map_err(Failure::host("open shim.log"))?;
    dup2_stderr(log).map_err(Failure::errno("write to shim.log"))?;
    Ok(Some((dir, OsString::from_vec(word))))
}

/// Becomes `runc exec` of a shell whose terminal goes to `socket`. runc begins in the directory of the container's root, so
/// there has to be one of that name; what is in it does not matter.
fn shell(dir: &Path, run: Uuid, socket: Option<OsString>) -> Result<(), Failure> {
    let home = Home::at(dir.to_owned());
    let spec = spec_of(&home, run)?;
    place::stand_in(&home, &spec)?;
    let error = Command::new(&spec.runc)
        .arg("--root")
        .arg(home.file("runc"))
        .args(["exec", "--detach", "--console-socket"])
        .arg(socket.unwrap_or_default())
        .arg("--process")
        .arg(home.file("shell.json"))
        .arg(spec.runc_id())
        .exec();
    Err(Failure::host("start runc")(error))
}

fn spec_of(home: &Home, run: Uuid) -> Result<Spec, Failure> {
    let spec = home.spec().map_err(Failure::host("read spec.json"))?;
    let spec = spec.ok_or_else(|| Failure {
        reason: "there is no spec.json".into(),
        broken: false,
    })?;
    if spec.run == run {
        return Ok(spec);
    }
    Err(Failure {
        reason: "this run is over: another has been asked for".into(),
        broken: false,
    })
}

struct Shim {
    home: Home,
    spec: Spec,
    own: Identity,
    console: Console,
    children: SignalFd,
    outside: Outside,
    /// Its network namespace, from which its devices go back.
    network: Option<OwnedFd>,
    /// Where the word to start comes from, until it has come.
    word: Option<File>,
    /// Held for as long as the process lives: there is one shim per container.
    _lock: Lock,
}

/// The container's first process as its shim knows it.
struct Init {
    identity: Identity,
    /// Set when it has ended: its exit code, or none when unknown.
    ended: Option<Option<i32>>,
}

impl Shim {
    fn open(dir: &Path, run: Uuid) -> Result<Self, Failure> {
        let home = Home::at(dir.to_owned());
        let lock = lock(&home)?;
        let spec = spec_of(&home, run)?;
        let own = Identity::of(std::process::id()).ok_or_else(|| Failure {
            reason: "this process is not in /proc".into(),
            broken: false,
        })?;
        set_child_subreaper(true).map_err(Failure::errno("become the container's parent"))?;
        // Children start with an empty mask, because the standard library resets it.
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        mask.thread_block().map_err(Failure::errno("block SIGCHLD"))?;
        let children = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .map_err(Failure::errno("watch children"))?;
        let output = home.file("output");
        match mkfifo(&output, nix::sys::stat::Mode::from_bits_truncate(0o600)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(Failure::errno("make the output fifo")(error)),
        }
        // The container's user may open its own /dev/stdout again.
        let root = spec.ids().host_id(0);
        chown(&output, Some(root), Some(root)).map_err(Failure::host("give the output fifo to the container"))?;
        let console = Console::open(&home).map_err(Failure::host("open the console"))?;
        let outside = Outside::open()?;
        Ok(Self {
            home,
            spec,
            own,
            console,
            children,
            outside,
            network: None,
            word: None,
            _lock: lock,
        })
    }

    /// Starts the container and stays until it has ended.
    fn run(mut self) -> Result<(), Failure> {
        self.record(&Record::Starting { shim: self.own })?;
        match self.start() {
            Ok(init) => self.attend(init, PollTimeout::NONE),
            Err(failure) => {
                let reason = failure.reason.clone();
                self.give_back();
                self.clean();
                self.record(&Record::Failed {
                    shim: self.own,
                    reason,
                    broken: failure.broken,
                    at: now(),
                })?;
                Err(failure)
            }
        }
    }

    /// Takes over a container whose shim was killed. Its exit code cannot be known any more.
    fn adopt(mut self) -> Result<(), Failure> {
        let Some(Record::Running { init, .. }) = self.home.record().map_err(Failure::host("read record.json"))? else {
            return Ok(());
        };
        self.network = network::of_process(init.pid).ok();
        self.leave_madangs_group();
        self.attend(
            Init {
                identity: init,
                ended: None,
            },
            PollTimeout::from(ADOPTED_STEP_MS),
        )
    }

    fn start(&mut self) -> Result<Init, Failure> {
        raise_open_files();
        // Open before the specification is looked at again: a word that comes in between is not missed.
        let go = File::options()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(self.home.file("go"))
            .map_err(Failure::host("open the fifo of the word to start"))?;
        self.word = Some(go);
        let place = place::make(&self.home, &self.spec, |namespaces| {
            let container = namespaces.net.try_clone();
            let container = container.map_err(Failure::host("hold the container's network namespace"))?;
            network::ready(self.network.insert(container))
        })?;
        self.clean();
        let runc_log = self.home.file("runc.log");
        let pid_file = self.home.file("pid");
        // The last is runc's own on the way to the pid file; a killed runc leaves it, and the next one refuses.
        for stale in [&runc_log, &pid_file, &self.home.file(".pid")] {
            // Missing is what it should be; anything else shows when it is written.
            let _ = fs::remove_file(stale);
        }
        // Open for reading too, so that there is always a reader: a killed shim must not break the container's output.
        let output = File::options()
            .read(true)
            .write(true)
            .open(self.home.file("output"))
            .map_err(Failure::host("open the output fifo"))?;
        let also = output.try_clone().map_err(Failure::host("open the output fifo"))?;
        let leaving = self.leave_madangs_group();
        let child = Command::new(&self.spec.runc)
            .arg("--root")
            .arg(self.home.file("runc"))
            .arg("--log")
            .arg(&runc_log)
            .args([
                "--log-format",
                "json",
                "create",
                "--no-new-keyring",
                "--bundle",
            ])
            .arg(&place.bundle)
            .arg("--pid-file")
            .arg(&pid_file)
            .arg(self.spec.runc_id())
            // It lives for moments: collecting what it does not need any more takes longer than it saves.
            .env("GOGC", "off")
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(also)
            .spawn()
            .map_err(|error| Failure {
                reason: format!("could not start {}: {error}", self.spec.runc.display()),
                broken: false,
            })?;
        self.wait_for_runc(child, &runc_log)?;
        let pid = fs::read_to_string(&pid_file)
            .ok()
            .and_then(|text| text.trim().parse().ok());
        let pid = pid.ok_or_else(|| Failure {
            reason: "runc did not say which process it started".into(),
            broken: false,
        })?;
        let identity = Identity::of(pid).unwrap_or(Identity { pid, started: 0 });
        let mut init = Init { identity, ended: None };
        self.wait_for_the_word(&mut init)?;
        // It has long left; if it could not, its log says so.
        let _ = leaving.map(thread::JoinHandle::join);
        place.name_hosts(&self.spec)?;
        self.let_it_run(&mut init)?;
        self.wait_for_program(&mut init)?;
        Ok(init)
    }

    /// Waits until the run is not held any more.
    fn wait_for_the_word(&mut self, init: &mut Init) -> Result<(), Failure> {
        loop {
            self.heed_the_word()?;
            if self.word.is_none() {
                return Ok(());
            }
            self.pump(PollTimeout::NONE)?;
            self.collect(init)?;
            if init.ended.is_some() {
                return Err(Failure {
                    reason: "what was made ready was ended before it was started".into(),
                    broken: false,
                });
            }
        }
    }

    /// Once the run is not held any more, takes over what is known by then, and moves its devices in.
    fn heed_the_word(&mut self) -> Result<(), Failure> {
        let Some(word) = &mut self.word else { return Ok(()) };
        // Emptied, so that it wakes again only when there is something new.
        let _ = word.read(&mut [0; 16]);
        self.spec = spec_of(&self.home, self.spec.run)?;
        if self.spec.is_held {
            return Ok(());
        }
        self.word = None;
        match &self.network {
            Some(container) => network::move_in(&self.outside, &self.spec, container),
            None => Ok(()),
        }
    }

    /// What `runc start` does: the container's first process waits for a reader of this fifo before it executes its program.
    /// Asking runc takes twenty times longer, and is left to versions that do it in another way.
    fn let_it_run(&mut self, init: &mut Init) -> Result<(), Failure> {
        let path = self.home.file("runc").join(self.spec.runc_id()).join("exec.fifo");
        let opened = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&path);
        let mut fifo = match opened {
            Ok(fifo) => fifo,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return self.ask_runc_to_start(),
            Err(error) => return Err(Failure::host("start the container's program")(error)),
        };
        let mut waited: u64 = 0;
        while !matches!(fifo.read(&mut [0; 1]), Ok(1)) {
            self.collect(init)?;
            if init.ended.is_some() || waited >= START_MS {
                return Err(Failure {
                    reason: "the container's first process did not get to its program".into(),
                    broken: false,
                });
            }
            let mut polled = [
                PollFd::new(self.children.as_fd(), PollFlags::POLLIN),
                PollFd::new(fifo.as_fd(), PollFlags::POLLIN),
            ];
            poll(&mut polled, PollTimeout::from(100_u16)).map_err(Failure::errno("start the container's program"))?;
            while let Ok(Some(_)) = self.children.read_signal() {}
            waited += 100;
        }
        fs::remove_file(&path).map_err(Failure::host("start the container's program"))
    }

    fn ask_runc_to_start(&self) -> Result<(), Failure> {
        let output = Command::new(&self.spec.runc)
            .arg("--root")
            .arg(self.home.file("runc"))
            .args(["start", &self.spec.runc_id()])
            .stdin(Stdio::null())
            .output()
            .map_err(Failure::host("start runc"))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(Failure {
            reason: format!("runc could not start the container: {said}"),
            broken: false,
        })
    }

    /// Waits for runc. The network devices move in meanwhile, if the word comes before its end: either takes its time, and
    /// neither needs the other. What fails there is told when runc has ended, which would go on otherwise.
    fn wait_for_runc(&mut self, mut child: Child, log: &Path) -> Result<(), Failure> {
        let pid = Pid::from_raw(child.id() as i32);
        let mut waited: u64 = 0;
        let mut heeded = Ok(());
        let code = loop {
            match waitpid(pid, Some(WaitPidFlag::WNOHANG)).map_err(Failure::errno("wait for runc"))? {
                WaitStatus::Exited(_, code) => break code,
                WaitStatus::Signaled(_, signal, _) => break 128 + signal as i32,
                _ => {}
            }
            if waited >= START_MS {
                // It is not waited for any more; the clean-up ends what it has started.
                let _ = child.kill();
                return Err(Failure {
                    reason: format!("runc did not start the container within {} seconds", START_MS / 1000),
                    broken: false,
                });
            }
            if heeded.is_ok() {
                heeded = self.heed_the_word();
            }
            self.pump(PollTimeout::from(100_u16))?;
            waited += 100;
        };
        if code == 0 { heeded } else { Err(complaint(log, code)) }
    }

    /// runc returns just before the program is executed; waits until it is, so that "running" is true.
    fn wait_for_program(&mut self, init: &mut Init) -> Result<(), Failure> {
        let comm = format!("/proc/{}/comm", init.identity.pid);
        for _ in 0..EXEC_MS {
            self.collect(init)?;
            let is_runc = fs::read_to_string(&comm).is_ok_and(|name| name.starts_with("runc:["));
            if init.ended.is_some() || !is_runc {
                break;
            }
            self.pump(PollTimeout::from(EXEC_STEP_MS))?;
        }
        Ok(())
    }

    /// Records that it runs, copies its output until it has ended, and records that. With a `step`, it is no child of
    /// ours and has to be looked at that often.
    fn attend(mut self, mut init: Init, step: PollTimeout) -> Result<(), Failure> {
        self.record(&Record::Running {
            shim: self.own,
            init: init.identity,
        })?;
        while init.ended.is_none() {
            self.pump(step)?;
            self.collect(&mut init)?;
            if step != PollTimeout::NONE && init.ended.is_none() && Process::find(init.identity).is_none() {
                init.ended = Some(None);
            }
        }
        self.console.drain().map_err(Failure::host("copy the output"))?;
        let code = init.ended.flatten();
        let record = self.how_it_ended(code);
        self.give_back();
        self.record(&record)?;
        self.clean();
        Ok(())
    }

    /// Moves out of the control group of whoever started this, which may be ended as a whole. Beside runc, because the
    /// kernel lets the first move wait for all processors to come by, 10 ms and more: runc's own is then no first one.
    fn leave_madangs_group(&self) -> Option<thread::JoinHandle<()>> {
        let (shims, own) = (self.spec.shims.clone(), self.own.pid);
        let leave = move || {
            let group = Group::new(&Hierarchies::detect(), &shims);
            if let Err(error) = group.and_then(|group| group.add(own)) {
                eprintln!("{}", error.chain());
            }
        };
        let started = thread::Builder::new().spawn(leave);
        started
            .inspect_err(|error| eprintln!("could not start a thread to leave madang's control group: {error}"))
            .ok()
    }

    fn how_it_ended(&self, code: Option<i32>) -> Record {
        let (shim, at) = (self.own, now());
        let out_of_memory = || {
            let group = Group::new(&Hierarchies::detect(), &self.spec.cgroup);
            group.is_ok_and(|group| group.usage().out_of_memory_kills > 0)
        };
        let killed = code.is_none_or(|code| code == 128 + Signal::SIGKILL as i32);
        if killed && !self.home.is_stopping() && out_of_memory() {
            let mib = self.spec.memory_bytes >> 20;
            let reason = format!("the container needed more than its {mib} MiB of memory and was ended by the kernel");
            return Record::Failed {
                shim,
                reason,
                broken: false,
                at,
            };
        }
        Record::Exited { shim, code, at }
    }

    /// Waits for output, the end of a child or the word to start, and copies output.
    fn pump(&mut self, patience: PollTimeout) -> Result<(), Failure> {
        let always = [self.children.as_fd(), self.console.as_fd()];
        let awaited = always.into_iter().chain(self.word.as_ref().map(|word| word.as_fd()));
        let mut polled: Vec<PollFd> = awaited.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        match poll(&mut polled, patience) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(Failure::errno("wait for the container")(error)),
        }
        // Emptied, so that it is silent until the next child ends; who it was is asked of `waitpid`.
        while let Ok(Some(_)) = self.children.read_signal() {}
        self.console.copy().map_err(Failure::host("copy the output"))
    }

    /// Takes every child that has ended; the container's orphans become ours too.
    fn collect(&self, init: &mut Init) -> Result<(), Failure> {
        loop {
            let (pid, code) = match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, code),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, 128 + signal as i32),
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(()),
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(error) => return Err(Failure::errno("wait for the container")(error)),
            };
            if pid.as_raw() as u32 == init.identity.pid {
                init.ended = Some(Some(code));
            }
        }
    }

    /// Returns the network devices, those that came while it ran too.
    fn give_back(&mut self) {
        let Some(container) = self.network.take() else { return };
        let now = self.home.spec().ok().flatten().filter(|spec| spec.run == self.spec.run);
        network::give_back(&self.outside, &now.as_ref().unwrap_or(&self.spec).nics, &container);
    }

    /// Removes what runc keeps and its control groups, from this run or one that was cut short.
    fn clean(&self) {
        if let Err(error) = remove_runtime_state(&self.home, &self.spec) {
            eprintln!("{}", error.reason);
        }
    }

    fn record(&self, record: &Record) -> Result<(), Failure> {
        self.home
            .write_record(&self.spec, record)
            .map_err(Failure::host("write record.json"))
    }
}

/// Takes the container's lock, with some patience for those who only look whether it is held.
fn lock(home: &Home) -> Result<Lock, Failure> {
    for _ in 0..LOCK_TRIES {
        if let Some(lock) = home.try_lock().map_err(Failure::host("lock the container"))? {
            return Ok(lock);
        }
        // Nothing to wait for but time.
        poll(&mut [], PollTimeout::from(LOCK_STEP_MS)).map_err(Failure::errno("wait for the container's lock"))?;
    }
    Err(Failure {
        reason: "the container has a shim already".into(),
        broken: false,
    })
}

/// Raised here, because the container's root has no right to; a madang that is itself confined may not have it either,
/// and the container gets as many as there are.
fn raise_open_files() {
    if let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, OPEN_FILES, OPEN_FILES) {
        eprintln!("the container gets fewer than {OPEN_FILES} open files: {error}");
    }
}

/// Ends what is left of the container and removes runc's state and control groups.
fn remove_runtime_state(home: &Home, spec: &Spec) -> Result<(), Failure> {
    if !home.file("runc").join(spec.runc_id()).exists() {
        return Ok(());
    }
    let output = Command::new(&spec.runc)
        .arg("--root")
        .arg(home.file("runc"))
        .args(["delete", "--force", &spec.runc_id()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .output()
        .map_err(Failure::host("start runc to remove the container"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Failure {
        reason: format!("runc could not remove the container: {said}"),
        broken: false,
    })
}

/// What runc said last in its log, in words for a user.
fn complaint(log: &Path, code: i32) -> Failure {
    let text = fs::read_to_string(log).unwrap_or_default();
    let last = text.lines().rev().find_map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        (line["level"] == "error").then(|| line["msg"].as_str().map(str::to_owned))?
    });
    let message = last.unwrap_or_else(|| format!("exit code {code}"));
    let message = message.strip_prefix("runc create failed: ").unwrap_or(&message);
    Failure {
        reason: format!("runc could not start the container: {message}"),
        broken: false,
    }
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
