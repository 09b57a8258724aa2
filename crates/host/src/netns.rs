//! Network namespaces: made, found, entered, removed.
//!
//! A namespace is mounted under `/run/netns` of the host's own mount table, as `ip netns` does, so that it outlives the
//! process that made it, and people can look inside. Work inside one happens on a thread made for it: the threads of the
//! runtime never change their namespace.
#![allow(unsafe_code)] // one ioctl, to bring up `lo`

use std::{
    fs,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    thread,
};

use nix::{
    fcntl::{Flock, FlockArg},
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
};
use tokio::sync::oneshot;

use crate::{Error, Result, mounts};

/// Where `ip netns` keeps namespaces. Source: ip-netns(8).
const DIRECTORY: &str = "/run/netns";

/// A network namespace by name, or the one this process lives in.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Netns {
    name: Option<String>,
}

impl Netns {
    /// The namespace this process lives in.
    pub const OWN: Self = Self { name: None };

    /// A namespace by its name, whether it exists or not.
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: Some(name.into()),
        }
    }

    /// Its name; none for this process' own.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// For messages.
    fn label(&self) -> &str {
        self.name.as_deref().unwrap_or("of this process")
    }

    /// A path at which every process that sees the host's mounts can open it, such as
    /// `/run/netns/mdg-0a1b2c-fabric`.
    pub fn path(&self) -> PathBuf {
        match &self.name {
            Some(name) => Path::new(DIRECTORY).join(name),
            None => PathBuf::from("/proc/self/ns/net"),
        }
    }

    /// Opens it. Errors with "not found" when it does not exist.
    pub fn open(&self) -> Result<OwnedFd> {
        let path = match &self.name {
            Some(name) => mounts::host_root().join(&DIRECTORY[1..]).join(name),
            None => self.path(),
        };
        let file = fs::File::open(path).map_err(Error::io(format!("open network namespace {}", self.label())))?;
        if self.name.is_some() && !is_namespace(&file) {
            // The file that a namespace is mounted on stays behind when the machine lost power.
            let source = std::io::Error::from(std::io::ErrorKind::NotFound);
            return Err(Error::Io {
                action: format!("open network namespace {}", self.label()),
                source,
            });
        }
        Ok(file.into())
    }

    /// Whether it exists.
    pub fn exists(&self) -> bool {
        self.open().is_ok()
    }

    /// Makes it with `lo` up, or returns whether it was there already (`false`: was there).
    pub async fn ensure(&self) -> Result<bool> {
        let Some(name) = self.name.clone() else {
            return Ok(false);
        };
        check_name(&name)?;
        if self.exists() {
            return Ok(false);
        }
        blocking(move || mounts::on_host(move || make(&name))).await?;
        Ok(true)
    }

    /// Removes it. Succeeds when it does not exist. What lives in it keeps it alive until it ends; virtual links that
    /// nothing holds are gone when the kernel has cleaned up, shortly after.
    pub async fn remove(&self) -> Result<()> {
        let Some(name) = self.name.clone() else {
            return Err(Error::Invalid(
                "this process' own network namespace cannot be removed".into(),
            ));
        };
        check_name(&name)?;
        blocking(move || mounts::on_host(move || unmake(&name))).await
    }

    /// Names of the namespaces that start with `prefix`, sorted.
    pub fn list(prefix: &str) -> Vec<String> {
        let directory = mounts::host_root().join(&DIRECTORY[1..]);
        let Ok(entries) = fs::read_dir(directory) else {
            return Vec::new();
        };
        let mut names: Vec<String> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| name.starts_with(prefix))
            .collect();
        names.sort();
        names
    }

    /// Runs `work` inside the namespace on a thread of its own and returns what it returns. Sockets and devices that it
    /// opens belong to the namespace for good and may be handed back. `work` may block. A runtime is entered, so tokio
    /// sockets can be made.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let (answer, wait) = oneshot::channel();
        let runtime = tokio::runtime::Handle::current();
        self.spawn(move || {
            let _entered = runtime.enter();
            // Nobody waits any more when the caller was cancelled.
            let _ = answer.send(work());
        })?;
        match wait.await {
            Ok(value) => Ok(value),
            Err(_) => panic!("work inside network namespace {} panicked", self.label()),
        }
    }

    /// As [`Netns::run`] for callers that are not async. Blocks.
    pub fn run_blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        match self.spawn(work)?.join() {
            Ok(Some(value)) => Ok(value),
            Ok(None) => unreachable!("`spawn` reports a thread that could not enter"),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Starts `work` on a thread that has entered the namespace. The thread's value is none only when it could not enter,
    /// which is reported here.
    fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<thread::JoinHandle<Option<T>>> {
        let namespace = match self.name {
            Some(_) => Some(self.open()?),
            None => None,
        };
        let (entered, wait) = std::sync::mpsc::sync_channel(1);
        let thread = thread::Builder::new()
            .name("netns".into())
            .spawn(move || {
                let result = match &namespace {
                    Some(namespace) => setns(namespace, CloneFlags::CLONE_NEWNET),
                    None => Ok(()),
                };
                let may_work = result.is_ok();
                let _ = entered.send(result);
                may_work.then(work)
            })
            .map_err(Error::io("start a thread"))?;
        let result = wait.recv().expect("the thread answers before it does anything else");
        result.map_err(Error::io(format!("enter network namespace {}", self.label())))?;
        Ok(thread)
    }
}

/// Names become file names and parts of messages: letters, digits, `-`, `_` and `.`, not starting with a dot.
fn check_name(name: &str) -> Result<()> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > 64 || name.starts_with('.') || !name.chars().all(fits) {
        return Err(Error::Invalid(format!("`{name}` cannot name a network namespace")));
    }
    Ok(())
}

fn is_namespace(file: &fs::File) -> bool {
    // nsfs answers this request on every file of it, and no other file system knows it. Source: ioctl_nsfs(2).
    const NS_GET_NSTYPE: u64 = 0xb703;
    // SAFETY: the request takes no argument and changes nothing.
    let kind = unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_NSTYPE as _) };
    kind == libc::CLONE_NEWNET
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Error::Invalid("the runtime is shutting down".into())),
        },
    }
}

/// On a thread that sees the host's mounts: makes the namespace and mounts it.
fn make(name: &str) -> Result<()> {
    let directory = Path::new(DIRECTORY);
    fs::create_dir_all(directory).map_err(Error::io(format!("make {DIRECTORY}")))?;
    share(directory)?;
    let path = directory.join(name);
    let is_there = || fs::File::open(&path).is_ok_and(|file| is_namespace(&file));
    // Two that make the same one take turns; whoever opens it after the mount gets the namespace instead of the file,
    // which does not open for writing.
    let file = match fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
    {
        Ok(file) => file,
        Err(_) if is_there() => return Ok(()),
        Err(error) => return Err(Error::io(format!("make {}", path.display()))(error)),
    };
    let _turn = Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, error)| Error::io(format!("lock {}", path.display()))(error))?;
    if is_there() {
        return Ok(());
    }
    let made = unshare(CloneFlags::CLONE_NEWNET)
        .map_err(Error::io(format!("make network namespace {name}")))
        .and_then(|()| bring_up_loopback().map_err(Error::io(format!("bring up lo in {name}"))))
        .and_then(|()| {
            let none: Option<&str> = None;
            mount(Some("/proc/thread-self/ns/net"), &path, none, MsFlags::MS_BIND, none)
                .map_err(Error::io(format!("mount network namespace {name}")))
        });
    if made.is_err() {
        let _ = fs::remove_file(&path);
    }
    made
}

/// Lets mounts below the directory show up in private copies of the mount table too, those of `ip netns exec` included.
fn share(directory: &Path) -> Result<()> {
    let none: Option<&str> = None;
    let shared = || mount(none, directory, none, MsFlags::MS_SHARED | MsFlags::MS_REC, none);
    if shared() == Err(nix::Error::EINVAL) {
        mount(
            Some(directory),
            directory,
            none,
            MsFlags::MS_BIND | MsFlags::MS_REC,
            none,
        )
        .map_err(Error::io(format!("mount {DIRECTORY} on itself")))?;
        shared().map_err(Error::io(format!("share mounts below {DIRECTORY}")))?;
    }
    Ok(())
}

/// On a thread that sees the host's mounts.
fn unmake(name: &str) -> Result<()> {
    let path = Path::new(DIRECTORY).join(name);
    loop {
        match umount2(&path, MntFlags::MNT_DETACH) {
            // Something may be mounted below.
            Ok(()) => {}
            // EINVAL: a file without a mount.
            Err(nix::Error::EINVAL | nix::Error::ENOENT) => break,
            Err(error) => return Err(Error::io(format!("unmount network namespace {name}"))(error)),
        }
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format!("remove {}", path.display()))(error))
        }
        _ => Ok(()),
    }
}

fn bring_up_loopback() -> std::io::Result<()> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
    // SAFETY: all-zero is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the request is a whole `ifreq` that outlives the call.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_the_directory_are_refused() {
        for bad in ["", "..", "a/b", ".hidden", "a b", "ä"] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
        check_name("mdg-0a1b2c-fabric").unwrap();
    }

    #[test]
    fn a_missing_namespace_is_not_found() {
        let error = Netns::named("mdg-test-absent").open().unwrap_err();
        assert!(error.is_not_found(), "{error:?}");
        assert!(!Netns::named("mdg-test-absent").exists());
        assert!(Netns::OWN.exists());
    }

    #[tokio::test]
    async fn work_in_the_own_namespace_needs_no_rights() {
        assert_eq!(Netns::OWN.run(|| 42).await.unwrap(), 42);
    }
}
