//! Processes: started with exactly what they need, known again after a restart, waited for, ended.
//!
//! [`Command`] describes one; [`Command::run`] waits for a short one with a time limit, [`Command::start`] leaves a long
//! one running on its own, in its own session, so that it outlives madang. A process is known by its number *and* the
//! moment it started ([`Identity`]): numbers are used again.
#![allow(unsafe_code)] // pidfd system calls that libc does not wrap

mod child;
mod command;
mod reaper;

use std::{
    fs, io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

pub use command::{Command, Output, Stdio, find_program};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::Signal,
};
use serde::{Deserialize, Serialize};
use tokio::io::{Interest, unix::AsyncFd};

use crate::{Error, Result};

/// Which process this is, for as long as the machine runs: safe to write to disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// Process id as seen from the host.
    pub pid: u32,
    /// When it started, in clock ticks since the machine did. Source: field 22 of proc_pid_stat(5).
    pub started: u64,
}

impl Identity {
    /// That of a process that exists now; none when there is no process `pid`.
    pub fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some(Self {
            pid,
            started: parse_stat(&stat)?.1,
        })
    }
}

/// State letter and start time of a `/proc/PID/stat` line; the program's name in it may hold blanks and parentheses.
fn parse_stat(stat: &str) -> Option<(char, u64)> {
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?.chars().next()?;
    // The state is field 3, the start time field 22.
    let started = fields.nth(18)?.parse().ok()?;
    Some((state, started))
}

/// A handle on a process of this host, child of ours or not.
#[derive(Clone, Debug)]
pub struct Process {
    identity: Identity,
    /// Readable once it has ended; never means another process.
    handle: Arc<OwnedFd>,
    /// Its exit code, for children of ours.
    exit: Option<reaper::Exit>,
}

impl Process {
    /// Finds a process again. None when it has ended, also when its number is used by another one now.
    pub fn find(identity: Identity) -> Option<Self> {
        let handle = open_handle(identity.pid).ok()?;
        // Compared after the handle is open: from here on it cannot become another process.
        let process = Self {
            identity,
            handle: Arc::new(handle),
            exit: None,
        };
        (Identity::of(identity.pid) == Some(identity) && process.is_alive()).then_some(process)
    }

    /// Who it is.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Its number as seen from the host.
    pub fn pid(&self) -> u32 {
        self.identity.pid
    }

    /// Whether it has not ended.
    pub fn is_alive(&self) -> bool {
        let mut polled = [PollFd::new(self.handle.as_fd(), PollFlags::POLLIN)];
        poll(&mut polled, PollTimeout::ZERO) == Ok(0)
    }

    /// Waits until it has ended. Returns its exit code (128 + the signal that ended it) when it was started by this very
    /// process, else none. May be cancelled.
    pub async fn wait(&self) -> Option<i32> {
        match self.handle.try_clone().and_then(watched) {
            Ok(handle) => {
                // Only fails when the runtime ends.
                let _ = handle.readable().await;
            }
            Err(error) => {
                tracing::warn!(pid = self.pid(), %error, "cannot watch a process, polling it");
                while self.is_alive() {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        match &self.exit {
            Some(exit) => exit.code().await,
            None => None,
        }
    }

    /// Sends a signal. Succeeds when it has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        // SAFETY: plain system call on a descriptor we own; no pointer is read when `info` is null.
        let sent = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.handle.as_raw_fd(),
                signal as libc::c_int,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        let error = io::Error::last_os_error();
        if sent == 0 || error.raw_os_error() == Some(libc::ESRCH) {
            return Ok(());
        }
        Err(Error::io(format!("send {signal} to process {}", self.pid()))(error))
    }

    /// Ends it: SIGTERM and at most `grace` of waiting when there is one, then SIGKILL. Returns its exit code as
    /// [`Process::wait`] does.
    ///
    /// Errors when it survives SIGKILL for 10 seconds, as one stuck in the kernel does.
    pub async fn stop(&self, grace: Option<Duration>) -> Result<Option<i32>> {
        if let Some(grace) = grace {
            self.signal(Signal::SIGTERM)?;
            if let Ok(code) = tokio::time::timeout(grace, self.wait()).await {
                return Ok(code);
            }
        }
        self.signal(Signal::SIGKILL)?;
        let patience = Duration::from_secs(10);
        let action = || format!("ending process {}", self.pid());
        tokio::time::timeout(patience, self.wait())
            .await
            .map_err(|_| Error::TimedOut {
                action: action(),
                after: patience,
            })
    }
}

/// Lets the runtime wait for a descriptor to become readable.
fn watched(handle: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` names the same open descriptor for as long as the `AsyncFd` owns it.
    unsafe { AsyncFd::register_with_interest(handle, Interest::READABLE) }.map_err(Into::into)
}

/// Opens a pidfd, close-on-exec. Source: pidfd_open(2).
fn open_handle(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: plain system call without pointers.
    let handle = unsafe { libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, 0) };
    if handle < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave us this descriptor; nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(handle as libc::c_int) })
}

/// Numbers of the processes that live in any of these network namespaces, this process excepted.
pub(crate) fn in_namespaces(namespaces: &[OwnedFd]) -> Vec<u32> {
    use std::os::unix::fs::MetadataExt;
    let inodes: Vec<(u64, u64)> = namespaces
        .iter()
        .filter_map(|namespace| {
            let metadata = fs::metadata(format!("/proc/self/fd/{}", namespace.as_raw_fd())).ok()?;
            Some((metadata.dev(), metadata.ino()))
        })
        .collect();
    if inodes.is_empty() {
        return Vec::new();
    }
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let own = std::process::id();
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != own)
        .filter(|pid| {
            fs::metadata(format!("/proc/{pid}/ns/net"))
                .is_ok_and(|metadata| inodes.contains(&(metadata.dev(), metadata.ino())))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_program_names_do_not_confuse_the_start_time() {
        let stat = "77 (a) R 1 (x) S 1 77 77 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 12345 1000 1 18446744073709551615";
        assert_eq!(parse_stat(stat), Some(('S', 12345)));
        assert_eq!(parse_stat("77 (a"), None);
    }

    #[tokio::test]
    async fn a_process_is_found_again_by_its_identity_only() {
        let process = Command::new("sleep").arg("60").start().await.unwrap();
        let identity = process.identity();
        assert!(Process::find(identity).is_some());
        let other = Identity {
            started: identity.started + 1,
            ..identity
        };
        assert!(Process::find(other).is_none(), "the number alone must not be enough");

        let again = Process::find(identity).unwrap();
        assert!(again.is_alive());
        assert_eq!(process.stop(None).await.unwrap(), Some(128 + 9));
        assert_eq!(again.wait().await, None, "not started through this handle");
        assert!(!again.is_alive());
        assert!(Process::find(identity).is_none());
        again.signal(Signal::SIGTERM).unwrap();
    }

    #[tokio::test]
    async fn ended_children_do_not_stay_as_zombies() {
        let process = Command::new("true").start().await.unwrap();
        let pid = process.pid();
        assert_eq!(process.wait().await, Some(0));
        assert_eq!(
            Identity::of(pid).filter(|identity| *identity == process.identity()),
            None
        );
    }

    #[tokio::test]
    async fn the_polite_signal_comes_first() {
        let process = Command::new("sleep").arg("60").start().await.unwrap();
        assert_eq!(
            process.stop(Some(Duration::from_secs(5))).await.unwrap(),
            Some(128 + 15)
        );
    }
}
