//! Which mounts this process sees, and how to see the host's own.
//!
//! `ip netns exec` gives a process a private copy of the mount table with another `/sys` in it: cgroups are gone there,
//! and a namespace mounted under `/run/netns` would die with the process. The binary therefore calls [`join_host`] first
//! thing; the rest of this crate works on process 1's mounts by itself where it matters.

use std::{
    fs,
    os::fd::{AsFd, AsRawFd},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::LazyLock,
    thread,
};

use nix::{
    mount::{MntFlags, umount2},
    sched::{CloneFlags, setns, unshare},
};

use crate::{Error, Result};

/// The host's mount table, when it is not ours.
struct Host {
    table: fs::File,
    root: fs::File,
}

impl Host {
    /// Moves the calling thread, and those it starts later.
    fn join(&self) -> Result<()> {
        // A thread that shares its working directory with others may not change its mount table.
        unshare(CloneFlags::CLONE_FS).map_err(Error::io("leave the shared working directory"))?;
        setns(self.table.as_fd(), CloneFlags::CLONE_NEWNS).map_err(Error::io("join the host's mount namespace"))
    }
}

/// Held open, so that it stays whatever becomes of the process it was found through.
static HOST: LazyLock<Option<Host>> = LazyLock::new(find_host);

/// Looks at process 1, or, where that is out of reach (it may have rights that even our root has not), at the oldest
/// process that is not: it was there before any `ip netns exec`. None when its table is ours.
fn find_host() -> Option<Host> {
    let own = fs::read_link("/proc/self/ns/mnt").ok()?;
    let mut pids: Vec<u32> = fs::read_dir("/proc")
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable();
    let (pid, table) = pids
        .into_iter()
        .find_map(|pid| Some((pid, fs::read_link(format!("/proc/{pid}/ns/mnt")).ok()?)))?;
    if table == own {
        return None;
    }
    let table = fs::File::open(format!("/proc/{pid}/ns/mnt")).ok()?;
    let root = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open(format!("/proc/{pid}/root"))
        .ok()?;
    Some(Host { table, root })
}

/// Whether this process has the host's own mount table. What cannot be found out counts as yes: it could not be joined.
pub fn are_the_hosts() -> bool {
    HOST.is_none()
}

/// The directory under which this process sees the host's root file system: `/`, or, from a private mount table, the
/// descriptor of it.
pub fn host_root() -> PathBuf {
    match &*HOST {
        None => PathBuf::from("/"),
        Some(host) => PathBuf::from(format!("/proc/self/fd/{}", host.root.as_raw_fd())),
    }
}

/// Moves this process into the host's mount table if it is in a private copy made by `ip netns exec`; the working
/// directory and the network namespace stay. Returns whether it moved.
///
/// Must be called before any thread is started (those that run would stay) and before anything else of this crate. A private table with another
/// root, or in which `must_see` is another directory than on the host, is left alone: it was made on purpose.
///
/// Errors when the host's table may not be joined.
pub fn join_host(must_see: &[&Path]) -> Result<bool> {
    let Some(host) = find_host() else { return Ok(false) };
    if !is_copy(&host, must_see) {
        return Ok(false);
    }
    let here = std::env::current_dir().map_err(Error::io("read the working directory"))?;
    host.join()?;
    std::env::set_current_dir(&here).map_err(Error::io(format!("return to {}", here.display())))?;
    Ok(true)
}

fn is_copy(host: &Host, must_see: &[&Path]) -> bool {
    let root = PathBuf::from(format!("/proc/self/fd/{}", host.root.as_raw_fd()));
    let same = |path: &Path| {
        let Ok(relative) = path.strip_prefix("/") else {
            return false;
        };
        match (fs::metadata(path), fs::metadata(root.join(relative))) {
            (Ok(own), Ok(host)) => own.dev() == host.dev() && own.ino() == host.ino(),
            (Err(_), Err(_)) => true,
            _ => false,
        }
    };
    let here = std::env::current_dir().unwrap_or_default();
    same(Path::new("/")) && same(&here) && must_see.iter().all(|path| same(path))
}

/// Runs `work` on a thread of its own that sees the host's mounts. Blocks; nothing of the thread's state leaks.
pub(crate) fn on_host<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let thread = thread::Builder::new()
        .name("mounts".into())
        .spawn(move || {
            if let Some(host) = &*HOST {
                host.join()?;
            }
            work()
        })
        .map_err(Error::io("start a thread"))?;
    match thread.join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Mount points at or below `dir` as the host sees them, deepest (and latest) first.
pub fn below(dir: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/1/mountinfo")
        .or_else(|_| fs::read_to_string("/proc/self/mountinfo"))
        .unwrap_or_default();
    let mut found: Vec<PathBuf> = table
        .lines()
        .filter_map(mount_point)
        .filter(|point| point.starts_with(dir))
        .collect();
    found.reverse();
    found.sort_by_key(|point| std::cmp::Reverse(point.components().count()));
    found
}

/// Unmounts everything at or below `dir`. Blocks. Returns how many mounts there were.
pub fn remove_below(dir: &Path) -> Result<usize> {
    let points = below(dir);
    let count = points.len();
    if count > 0 {
        on_host(move || {
            for point in points {
                match umount2(&point, MntFlags::MNT_DETACH) {
                    // EINVAL: went away together with the mount it stood on.
                    Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
                    Err(error) => return Err(Error::io(format!("unmount {}", point.display()))(error)),
                }
            }
            Ok(())
        })?;
    }
    Ok(count)
}

/// The fifth field of a `mountinfo` line, in which space, tab, newline and backslash are written in octal.
/// Source: proc_pid_mountinfo(5).
pub(crate) fn mount_point(line: &str) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    let field = line.split(' ').nth(4)?.as_bytes();
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = || {
            let digits = tail.get(..3).filter(|_| first == b'\\')?;
            u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
        };
        if let Some(byte) = octal() {
            path.push(byte);
            rest = &tail[3..];
        } else {
            path.push(first);
            rest = tail;
        }
    }
    Some(PathBuf::from(std::ffi::OsString::from_vec(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_unescaped() {
        let line = r"36 35 98:0 /mnt1 /var/my\040disk\134x rw,noatime master:1 - ext3 /dev/root rw";
        assert_eq!(mount_point(line), Some(PathBuf::from(r"/var/my disk\x")));
        assert_eq!(mount_point("36 35"), None);
        assert_eq!(mount_point(r"36 35 98:0 / /end\04"), Some(PathBuf::from(r"/end\04")));
    }

    #[test]
    fn nothing_is_mounted_below_a_fresh_directory() {
        let dir = tempfile::tempdir().unwrap();
        assert!(below(dir.path()).is_empty());
        assert!(below(Path::new("/")).contains(&PathBuf::from("/proc")));
    }
}
