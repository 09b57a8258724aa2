//! Describing a program to run, and running it.

use std::{
    ffi::{OsStr, OsString},
    fs,
    os::{
        fd::OwnedFd,
        unix::process::{CommandExt, ExitStatusExt},
    },
    path::{Path, PathBuf},
    process,
    time::Duration,
};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

use super::{Identity, Process, child::Setup, open_handle, reaper};
use crate::{Error, Result, cgroup::Group, netns::Netns};

/// Where programs are looked for; the caller's own environment is not passed on.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The file of a program by its name, looked for where [`Command`] does.
pub fn find_program(name: &str) -> Option<PathBuf> {
    PATH.split(':')
        .map(|directory| Path::new(directory).join(name))
        .find(|file| file.is_file())
}

/// How much of a short program's standard output and error is kept; what is beyond is read and dropped.
const OUTPUT_LIMIT: u64 = 16 << 20;

/// Where a long-running program's standard stream goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Stdio {
    /// Nowhere.
    #[default]
    Null,
    /// Appended to this file, made with mode 0600 if it does not exist.
    Append(PathBuf),
    /// Into this file, emptied first and made with mode 0600.
    Truncate(PathBuf),
}

/// What a short program left behind.
#[derive(Debug)]
pub struct Output {
    /// Its exit code; 128 + the signal that ended it.
    pub code: i32,
    /// Standard output, at most 16 MiB of it.
    pub stdout: Vec<u8>,
    /// Standard error, at most 16 MiB of it.
    pub stderr: Vec<u8>,
}

/// A program to run: found in the usual directories, without a shell, with an environment that holds `PATH` and
/// `LC_ALL=C` only, in a session (a short one: at least a process group) of its own, inheriting no descriptors but those
/// it is given.
#[derive(Debug)]
pub struct Command {
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    directory: Option<PathBuf>,
    netns: Option<Netns>,
    cgroup: Option<Group>,
    credentials: Option<(u32, u32)>,
    groups: Vec<u32>,
    no_new_privileges: bool,
    limits: Vec<(libc::c_int, u64)>,
    inherit: Vec<OwnedFd>,
    stdin: Vec<u8>,
    stdin_from: Option<OwnedFd>,
    stdout: Stdio,
    stderr: Stdio,
    remedy: Option<String>,
}

impl Command {
    /// A program by name or absolute path.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            directory: None,
            netns: None,
            cgroup: None,
            credentials: None,
            groups: Vec::new(),
            no_new_privileges: false,
            limits: Vec::new(),
            inherit: Vec::new(),
            stdin: Vec::new(),
            stdin_from: None,
            stdout: Stdio::Null,
            stderr: Stdio::Null,
            remedy: None,
        }
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Adds an environment variable.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Starts it in this directory (default: `/`).
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// Starts it inside this network namespace.
    pub fn netns(mut self, netns: &Netns) -> Self {
        self.netns = Some(netns.clone());
        self
    }

    /// Starts it as a member of this group, from its first instruction on.
    pub fn cgroup(mut self, group: &Group) -> Self {
        self.cgroup = Some(group.clone());
        self
    }

    /// Runs it as this user and group with only these further groups, and without a way to gain rights.
    pub fn run_as(mut self, uid: u32, gid: u32, groups: &[u32]) -> Self {
        self.credentials = Some((uid, gid));
        self.groups = groups.to_vec();
        self.no_new_privileges = true;
        self
    }

    /// Takes away every way to gain rights (set-user-id programs, file capabilities).
    pub fn no_new_privileges(mut self) -> Self {
        self.no_new_privileges = true;
        self
    }

    /// Sets a resource limit, soft and hard, such as `libc::RLIMIT_NOFILE`. Source: getrlimit(2).
    pub fn limit(mut self, resource: u32, value: u64) -> Self {
        self.limits.push((resource as libc::c_int, value));
        self
    }

    /// Hands this descriptor down; it keeps its number, so that it can be named in an argument.
    pub fn inherit(mut self, descriptor: OwnedFd) -> Self {
        self.inherit.push(descriptor);
        self
    }

    /// What [`Command::run`] feeds it on standard input.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// What [`Command::start`] gives it as standard input (default: nothing to read).
    pub fn stdin_from(mut self, descriptor: OwnedFd) -> Self {
        self.stdin_from = Some(descriptor);
        self
    }

    /// Where [`Command::start`] sends its standard output.
    pub fn stdout(mut self, to: Stdio) -> Self {
        self.stdout = to;
        self
    }

    /// Where [`Command::start`] sends its standard error.
    pub fn stderr(mut self, to: Stdio) -> Self {
        self.stderr = to;
        self
    }

    /// What to do when the program is not installed; completes the sentence "… is not installed; …".
    pub fn if_missing(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// Runs it to its end and fails unless it succeeds; the error carries its last lines of standard error. It is killed,
    /// with everything it started, after `timeout` and when the caller is cancelled.
    pub async fn run(self, timeout: Duration) -> Result<Output> {
        let name = self.name();
        let output = self.output(timeout).await?;
        if output.code == 0 {
            return Ok(output);
        }
        Err(Error::Command {
            program: name,
            code: Some(output.code),
            message: complaint(&output),
        })
    }

    /// As [`Command::run`], but a failing exit code is not an error.
    pub async fn output(mut self, timeout: Duration) -> Result<Output> {
        let name = self.name();
        let input = std::mem::take(&mut self.stdin);
        let remedy = self.remedy.take();
        let netns = self.netns.clone().unwrap_or(Netns::OWN);
        let is_plain = self.is_plain();
        let mut command = if is_plain {
            self.prepare_plain()
        } else {
            self.prepare()?
        };
        command.stdin(if input.is_empty() {
            process::Stdio::null()
        } else {
            process::Stdio::piped()
        });
        command.stdout(process::Stdio::piped()).stderr(process::Stdio::piped());
        let spawn = || tokio::process::Command::from(command).kill_on_drop(true).spawn();
        let spawned = match is_plain && netns != Netns::OWN {
            true => netns.run(spawn).await?,
            false => spawn(),
        };
        let mut child = spawned.map_err(|error| not_started(&name, remedy, error))?;
        // `kill_on_drop` ends the program alone; its group goes with this.
        let mut group = EndGroup(child.id());
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let feed = async {
            if let Some(mut stdin) = stdin {
                // A program that does not read all of its input says why by itself.
                let _ = stdin.write_all(&input).await;
            }
        };
        let finished = async {
            let ((), stdout, stderr) = tokio::join!(feed, read(stdout), read(stderr));
            (child.wait().await, stdout, stderr)
        };
        let (status, stdout, stderr) = tokio::time::timeout(timeout, finished)
            .await
            .map_err(|_| Error::TimedOut {
                action: format!("running {name}"),
                after: timeout,
            })?;
        // From here on its number may belong to somebody else.
        group.0 = None;
        let status = status.map_err(Error::io(format!("wait for {name}")))?;
        let code = status
            .code()
            .unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
        Ok(Output { code, stdout, stderr })
    }

    /// Starts it and leaves it running; it stays when this process ends.
    pub async fn start(self) -> Result<Process> {
        let started = tokio::task::spawn_blocking(move || self.start_blocking()).await;
        started.unwrap_or_else(|error| match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Error::Invalid("the runtime is shutting down".into())),
        })
    }

    fn start_blocking(mut self) -> Result<Process> {
        let name = self.name();
        let remedy = self.remedy.take();
        let stdout = std::mem::take(&mut self.stdout).open()?;
        let stderr = std::mem::take(&mut self.stderr).open()?;
        let stdin = self.stdin_from.take().map_or_else(process::Stdio::null, Into::into);
        let mut command = self.prepare()?;
        command.stdin(stdin).stdout(stdout).stderr(stderr);
        let child = command.spawn().map_err(|error| not_started(&name, remedy, error))?;
        let pid = child.id();
        // Until it is waited for, which only the reaper does, the number is not given to another process.
        let handle = open_handle(pid).map_err(Error::io(format!("watch {name}")))?;
        let identity = Identity::of(pid)
            .ok_or_else(|| Error::Invalid(format!("process {pid} ({name}) is not listed in /proc")))?;
        let watched = handle.try_clone().map_err(Error::io(format!("watch {name}")))?;
        let exit = reaper::collect(pid, watched).map_err(Error::io(format!("watch {name}")))?;
        Ok(Process {
            identity,
            handle: handle.into(),
            exit: Some(exit),
        })
    }

    fn name(&self) -> String {
        Path::new(&self.program)
            .file_name()
            .unwrap_or(&self.program)
            .to_string_lossy()
            .into_owned()
    }

    /// Whether there is nothing to set up in the child that its parent's thread cannot have set up.
    fn is_plain(&self) -> bool {
        self.cgroup.is_none()
            && self.credentials.is_none()
            && !self.no_new_privileges
            && self.limits.is_empty()
            && self.inherit.is_empty()
    }

    /// Without code of ours in the child, which then shares our memory until it has become the program: to copy the page
    /// tables of a large process takes longer than most short programs do. The standard library does so only with a path.
    fn prepare_plain(self) -> process::Command {
        let program = self.program.to_str().and_then(find_program);
        let mut command = self.bare(program.as_deref().map(Path::as_os_str));
        command.process_group(0);
        command
    }

    fn prepare(mut self) -> Result<process::Command> {
        let setup = Setup {
            cgroup: match &self.cgroup {
                Some(group) => group.doors()?,
                None => Vec::new(),
            },
            netns: match &self.netns {
                Some(netns) if *netns != Netns::OWN => Some(netns.open()?),
                _ => None,
            },
            credentials: self.credentials,
            groups: std::mem::take(&mut self.groups),
            no_new_privileges: self.no_new_privileges,
            limits: self
                .limits
                .iter()
                .map(|(resource, value)| {
                    (
                        *resource,
                        libc::rlimit {
                            rlim_cur: *value,
                            rlim_max: *value,
                        },
                    )
                })
                .collect(),
            inherit: std::mem::take(&mut self.inherit),
        };
        let mut command = self.bare(None);
        // SAFETY: `Setup::apply` makes system calls only, on what was opened and allocated above.
        unsafe { command.pre_exec(move || setup.apply()) };
        Ok(command)
    }

    /// The program, or another file of it, with its arguments, environment and directory.
    fn bare(&self, file: Option<&OsStr>) -> process::Command {
        let mut command = process::Command::new(file.unwrap_or(&self.program));
        command
            .args(&self.args)
            .env_clear()
            .env("PATH", PATH)
            .env("LC_ALL", "C");
        command
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir(self.directory.as_deref().unwrap_or(Path::new("/")));
        command
    }
}

impl Stdio {
    fn open(self) -> Result<process::Stdio> {
        use std::os::unix::fs::OpenOptionsExt;
        let mut options = fs::OpenOptions::new();
        options.create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        let (path, options) = match &self {
            Self::Null => return Ok(process::Stdio::null()),
            Self::Append(path) => (path, options.append(true)),
            Self::Truncate(path) => (path, options.write(true).truncate(true)),
        };
        Ok(options
            .open(path)
            .map_err(Error::io(format!("open {}", path.display())))?
            .into())
    }
}

fn not_started(name: &str, remedy: Option<String>, error: std::io::Error) -> Error {
    if error.kind() == std::io::ErrorKind::NotFound {
        let remedy = remedy.unwrap_or_else(|| "install the package that has it".into());
        return Error::Missing {
            program: name.into(),
            remedy,
        };
    }
    Error::io(format!("start {name}"))(error)
}

/// The last lines of standard error, or what there is to say without one.
fn complaint(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    match lines.as_slice() {
        [] if output.code > 128 => format!("it was ended by signal {}", output.code - 128),
        [] => format!("it ended with exit code {}", output.code),
        lines => lines[lines.len().saturating_sub(5)..].join("; "),
    }
}

async fn read(from: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(mut from) = from {
        // A read error means the program is gone; its exit code says why.
        let _ = (&mut from).take(OUTPUT_LIMIT).read_to_end(&mut bytes).await;
        let _ = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
    }
    bytes
}

/// Kills a short program and what it started when its run is given up.
struct EndGroup(Option<u32>);

impl Drop for EndGroup {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            let _ = nix::sys::signal::killpg(
                nix::unistd::Pid::from_raw(pid as i32),
                nix::sys::signal::Signal::SIGKILL,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn output_is_returned_and_input_is_fed() {
        let output = Command::new("cat").stdin("hello").run(5 * SECOND).await.unwrap();
        assert_eq!(output.stdout, b"hello");
    }

    #[tokio::test]
    async fn failures_say_what_the_program_said() {
        let error = Command::new("ls")
            .arg("/no-such-place")
            .run(5 * SECOND)
            .await
            .unwrap_err();
        assert!(error.to_string().contains("/no-such-place"), "{error}");
        let error = Command::new("false").run(5 * SECOND).await.unwrap_err();
        assert_eq!(error.to_string(), "false failed: it ended with exit code 1");
    }

    #[tokio::test]
    async fn a_missing_program_is_named_with_its_remedy() {
        let error = Command::new("no-such-program")
            .if_missing("build it")
            .run(SECOND)
            .await
            .unwrap_err();
        assert_eq!(error.to_string(), "no-such-program is not installed; build it");
        assert!(matches!(
            Command::new("no-such-program").start().await,
            Err(Error::Missing { .. })
        ));
    }

    #[tokio::test]
    async fn a_slow_program_is_ended_with_its_children() {
        let marker = format!("{}", 3600 + std::process::id());
        let script = format!("sleep {marker} & sleep {marker}");
        let error = Command::new("sh")
            .args(["-c", &script])
            .run(SECOND / 5)
            .await
            .unwrap_err();
        assert!(matches!(error, Error::TimedOut { .. }));
        tokio::time::sleep(SECOND / 5).await;
        let left = Command::new("pgrep")
            .args(["-x", "-f", &format!("sleep {marker}")])
            .output(5 * SECOND)
            .await
            .unwrap();
        assert_eq!(left.code, 1, "still running: {}", String::from_utf8_lossy(&left.stdout));
    }

    #[tokio::test]
    async fn only_listed_descriptors_are_inherited() {
        let kept: OwnedFd = fs::File::open("/dev/null").unwrap().into();
        let other = fs::File::open("/dev/zero").unwrap();
        // As a careless library would leave it.
        nix::fcntl::fcntl(&other, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
        let number = kept.as_raw_fd();
        let output = Command::new("ls")
            .arg("/proc/self/fd")
            .inherit(kept)
            .run(5 * SECOND)
            .await
            .unwrap();
        let listed: Vec<i32> = String::from_utf8(output.stdout)
            .unwrap()
            .lines()
            .map(|line| line.parse().unwrap())
            .collect();
        assert!(listed.contains(&number), "{listed:?}");
        assert!(
            number == other.as_raw_fd() || !listed.contains(&other.as_raw_fd()) || other.as_raw_fd() == 3,
            "{listed:?}"
        );
        assert!(
            listed.len() <= 5,
            "0, 1, 2, the kept one and the directory itself: {listed:?}"
        );
    }

    #[tokio::test]
    async fn long_programs_write_to_private_files() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        for word in ["one", "two"] {
            let process = Command::new("echo")
                .arg(word)
                .stdout(Stdio::Append(log.clone()))
                .start()
                .await
                .unwrap();
            assert_eq!(process.wait().await, Some(0));
        }
        assert_eq!(fs::read_to_string(&log).unwrap(), "one\ntwo\n");
        assert_eq!(fs::metadata(&log).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
