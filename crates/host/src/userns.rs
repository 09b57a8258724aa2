//! User namespaces with a range of ids of their own, and directory trees seen through them.
//!
//! For containers: `root` inside is an id without rights outside. A workload's range follows from its one uid, so nothing
//! has to be allocated or remembered; trees are shifted into the range by the kernel at mount time (`mount_setattr`), so
//! one tree on the disk serves all ranges.
#![allow(unsafe_code)] // fork, and mount calls that libc does not wrap

use std::{
    ffi::CString,
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use crate::{Error, Result};

/// First id that ranges are cut from. Distributions give users subordinate ids from 100000 up and systemd gives
/// containers 0x80000 … 0x6FFFFFFF; this is the upper part of the latter, which `useradd` never reaches.
const FIRST: u32 = 0x2000_0000;
/// How many ranges fit between [`FIRST`] and systemd's last, 0x6FFFFFFF.
const RANGES: u32 = 0x5000;

/// 65536 user and group ids of this host that stand for 0 … 65535 in a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IdRange {
    /// The host's id that is 0 inside.
    pub first: u32,
}

impl IdRange {
    /// Ids in a range.
    pub const COUNT: u32 = 65536;

    /// The range of the workload that has this uid to itself. Up to 20480 workloads of one instance, whose uids are
    /// neighbours, never share one; two instances on one host could, and are therefore spread out.
    pub fn of_workload(uid: u32) -> Self {
        // The upper half of a uid tells instances apart, the lower half their workloads; see `Instance::uids`.
        const SPREAD: u32 = 7919;
        let range = ((uid & 0xffff) + (uid >> 16).wrapping_mul(SPREAD)) % RANGES;
        Self {
            first: FIRST + range * Self::COUNT,
        }
    }

    /// The host's id for one inside.
    pub fn host_id(self, inside: u16) -> u32 {
        self.first + u32::from(inside)
    }
}

/// A user namespace and a network namespace that belongs to it, so that capabilities inside count for both.
#[derive(Debug)]
pub struct Namespaces {
    /// The user namespace.
    pub user: OwnedFd,
    /// The network namespace.
    pub net: OwnedFd,
}

impl Namespaces {
    /// Makes both; they live as long as a descriptor or a process of theirs. Needs root. Takes about a millisecond.
    pub fn make(range: IdRange) -> Result<Self> {
        let (ready, tell) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(Error::io("make a pipe"))?;
        let (until, hold) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(Error::io("make a pipe"))?;
        // SAFETY: the child makes system calls only, on values it was born with.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // SAFETY: as above; `_exit` runs nothing of the parent's.
            unsafe { stand_in(tell.as_raw_fd(), until.as_raw_fd(), hold.as_raw_fd()) }
        }
        if pid < 0 {
            return Err(Error::io("fork")(io::Error::last_os_error()));
        }
        drop(tell);
        let made = Self::of_child(pid, &ready, range);
        drop(hold); // lets the child end
        // SAFETY: a child of ours that nobody else waits for.
        unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
        made
    }

    fn of_child(pid: libc::pid_t, ready: &OwnedFd, range: IdRange) -> Result<Self> {
        let mut answer = [0; 4];
        let told = nix::unistd::read(ready, &mut answer).map_err(Error::io("hear from a new user namespace"))?;
        let action = "make a user namespace (the kernel or `user.max_user_namespaces` may forbid it)";
        if told != answer.len() {
            return Err(Error::io(action)(io::Error::from(io::ErrorKind::UnexpectedEof)));
        }
        match i32::from_ne_bytes(answer) {
            0 => {}
            error => return Err(Error::io(action)(io::Error::from_raw_os_error(error))),
        }
        let map = format!("0 {} {}\n", range.first, IdRange::COUNT);
        for file in ["uid_map", "gid_map"] {
            fs::write(format!("/proc/{pid}/{file}"), &map)
                .map_err(Error::io(format!("give a user namespace the {file} `{}`", map.trim())))?;
        }
        let open = |kind: &str| {
            let file =
                File::open(format!("/proc/{pid}/ns/{kind}")).map_err(Error::io(format!("open a new {kind} namespace")));
            file.map(OwnedFd::from)
        };
        Ok(Self {
            user: open("user")?,
            net: open("net")?,
        })
    }
}

/// The child: makes the namespaces, says so, and stays until the parent has opened them.
unsafe fn stand_in(tell: i32, until: i32, hold: i32) -> ! {
    // SAFETY: async-signal-safe system calls on descriptors that the child inherited.
    unsafe {
        libc::close(hold);
        let made = libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET);
        let error: i32 = if made == 0 { 0 } else { *libc::__errno_location() };
        libc::write(tell, (&raw const error).cast(), size_of::<i32>());
        let mut byte = 0_u8;
        libc::read(until, (&raw mut byte).cast(), 1);
        libc::_exit(0)
    }
}

/// Mounts the tree at `from` on the directory `onto`, with owners shifted into the ids of `user`: files of id 0 on the
/// disk belong to that namespace's root. Needs Linux 5.12 (5.19 for layers of an overlay) and a file system that takes
/// part in it, such as ext4, xfs or btrfs.
pub fn mount_shifted(from: &Path, onto: &Path, user: BorrowedFd<'_>) -> Result<()> {
    let path = |path: &Path| {
        CString::new(path.as_os_str().as_bytes())
            .map_err(|_| Error::Invalid(format!("{} holds a zero byte", path.display())))
    };
    let (source, target) = (path(from)?, path(onto)?);
    // SAFETY: a system call on a string that outlives it.
    let tree = unsafe {
        libc::syscall(
            libc::SYS_open_tree,
            libc::AT_FDCWD,
            source.as_ptr(),
            libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC,
        )
    };
    let tree = descriptor(tree).map_err(Error::io(format!("copy the mount of {}", from.display())))?;
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: user.as_raw_fd() as u64,
    };
    // SAFETY: a system call on an empty string and a whole structure with its true size.
    let set = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    let action = || {
        format!(
            "shift the owners of {} (the file system or kernel cannot; Linux 5.19 on ext4, xfs or btrfs can)",
            from.display()
        )
    };
    check(set).map_err(Error::io(action()))?;
    // SAFETY: a system call on strings that outlive it.
    let moved = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            target.as_ptr(),
            libc::MOVE_MOUNT_F_EMPTY_PATH,
        )
    };
    check(moved).map_err(Error::io(format!("mount {} on {}", from.display(), onto.display())))
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn descriptor(result: libc::c_long) -> io::Result<OwnedFd> {
    check(result)?;
    // SAFETY: the kernel just gave us this descriptor; nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(result as libc::c_int) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_apart_and_below_systemds_last() {
        let ranges: Vec<u32> = (0..RANGES).map(|uid| IdRange::of_workload(uid).first).collect();
        assert!(ranges.windows(2).all(|pair| pair[1] - pair[0] == IdRange::COUNT));
        assert_eq!(
            ranges[ranges.len() - 1].checked_add(IdRange::COUNT - 1),
            Some(0x6FFF_FFFF)
        );
        assert_eq!(IdRange::of_workload(7).host_id(5), 0x2000_0000 + 7 * 65536 + 5);
        // The same workload of two instances.
        assert_ne!(IdRange::of_workload(0x7000_0001), IdRange::of_workload(0x7005_0001));
    }
}
