//! What happens in a child between fork and exec. Only system calls, nothing that allocates or locks: other threads of
//! the parent may hold any lock at the moment of the fork.

use std::{io, os::fd::OwnedFd};

/// Everything the child does before it becomes the program, opened and allocated by the parent.
pub(super) struct Setup {
    pub cgroup: Vec<OwnedFd>,
    pub netns: Option<OwnedFd>,
    pub credentials: Option<(u32, u32)>,
    pub groups: Vec<libc::gid_t>,
    pub no_new_privileges: bool,
    pub limits: Vec<(libc::c_int, libc::rlimit)>,
    pub inherit: Vec<OwnedFd>,
}

impl Setup {
    /// Runs in the child. Order matters: rights are dropped last.
    pub fn apply(&self) -> io::Result<()> {
        use std::os::fd::AsRawFd;
        // SAFETY (whole body): async-signal-safe system calls on values that live in `self`.
        unsafe {
            check(libc::setsid())?;
            for group in &self.cgroup {
                // "0" means the writer. Source: cgroups(7).
                if libc::write(group.as_raw_fd(), c"0".as_ptr().cast(), 1) != 1 {
                    return Err(io::Error::last_os_error());
                }
            }
            if let Some(namespace) = &self.netns {
                check(libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET))?;
            }
            for (resource, limit) in &self.limits {
                check(libc::setrlimit(*resource as _, limit))?;
            }
            reset_signals()?;
            close_others()?;
            for descriptor in &self.inherit {
                check(libc::fcntl(descriptor.as_raw_fd(), libc::F_SETFD, 0))?;
            }
            if let Some((uid, gid)) = self.credentials {
                check(libc::setgroups(self.groups.len(), self.groups.as_ptr()))?;
                check(libc::setresgid(gid, gid, gid))?;
                check(libc::setresuid(uid, uid, uid))?;
            }
            if self.no_new_privileges {
                check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
            }
        }
        Ok(())
    }
}

/// Nothing but standard streams and what is listed stays open, whoever opened it without close-on-exec.
unsafe fn close_others() -> io::Result<()> {
    // SAFETY: plain system call; marks, so that the parent still learns of a failed exec.
    let marked = unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    check(marked as libc::c_int)
}

/// Ignored signals and masks survive exec: a program must not inherit the runtime's.
unsafe fn reset_signals() -> io::Result<()> {
    // SAFETY: all-zero is an empty signal set; `SIG_DFL` is a valid handler.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        check(libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut()))?;
        if libc::signal(libc::SIGPIPE, libc::SIG_DFL) == libc::SIG_ERR {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
