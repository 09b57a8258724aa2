//! One thread that collects children when they end, whether anybody waits for them or not.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, OnceLock},
    thread,
};

use nix::{
    sys::{
        epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
        wait::{Id, WaitPidFlag, WaitStatus, waitid},
    },
    unistd::Pid,
};
use parking_lot::Mutex;
use tokio::sync::watch;

/// The exit code of a child, once there is one.
#[derive(Clone, Debug)]
pub(super) struct Exit(watch::Receiver<Option<i32>>);

impl Exit {
    /// Waits for it. None only when the child was collected by somebody else.
    pub async fn code(&self) -> Option<i32> {
        let mut receiver = self.0.clone();
        let code = receiver.wait_for(Option::is_some).await;
        code.ok().and_then(|code| *code)
    }
}

struct Reaper {
    epoll: Epoll,
    children: Mutex<HashMap<u64, Child>>,
}

struct Child {
    handle: OwnedFd,
    exit: watch::Sender<Option<i32>>,
}

/// Hands a child over. `handle` is its pidfd.
pub(super) fn collect(pid: u32, handle: OwnedFd) -> io::Result<Exit> {
    static REAPER: OnceLock<io::Result<Arc<Reaper>>> = OnceLock::new();
    let reaper = match REAPER.get_or_init(start) {
        Ok(reaper) => reaper,
        Err(error) => return Err(io::Error::new(error.kind(), error.to_string())),
    };
    let (sender, receiver) = watch::channel(None);
    let key = u64::from(pid);
    let mut children = reaper.children.lock();
    // Level-triggered: a child that has ended already is reported too.
    reaper
        .epoll
        .add(handle.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, key))?;
    children.insert(key, Child { handle, exit: sender });
    Ok(Exit(receiver))
}

fn start() -> io::Result<Arc<Reaper>> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let reaper = Arc::new(Reaper {
        epoll,
        children: Mutex::default(),
    });
    let runs = Arc::clone(&reaper);
    thread::Builder::new().name("reaper".into()).spawn(move || runs.run())?;
    Ok(reaper)
}

impl Reaper {
    /// Ends with the process.
    fn run(&self) {
        let mut events = [EpollEvent::empty(); 32];
        loop {
            let ready = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Ok(ready) => ready,
                Err(nix::Error::EINTR) => continue,
                Err(error) => {
                    tracing::error!(%error, "cannot wait for ended processes");
                    return;
                }
            };
            for event in &events[..ready] {
                self.take(event.data());
            }
        }
    }

    fn take(&self, key: u64) {
        // A number is free for a new child only after the wait below, so an entry is never overwritten before that.
        let Some(Child { handle, exit }) = self.children.lock().remove(&key) else {
            return;
        };
        let _ = self.epoll.delete(handle.as_fd());
        let code = match waitid(Id::PIDFd(handle.as_fd()), WaitPidFlag::WEXITED) {
            Ok(WaitStatus::Exited(_, code)) => Some(code),
            Ok(WaitStatus::Signaled(_, signal, _)) => Some(128 + signal as i32),
            Ok(status) => {
                tracing::warn!(pid = %Pid::from_raw(key as i32), ?status, "a child ended in an unknown way");
                None
            }
            Err(error) => {
                tracing::warn!(pid = key, %error, "a child was collected by somebody else");
                None
            }
        };
        if code.is_some() {
            exit.send_replace(code);
        }
    }
}
