//! Control groups: limits on memory, processors and processes, on hosts with version 1, version 2 or both at once.
//!
//! Everything of an instance lives below one group of its own, `madang-<id>`, at the top of each hierarchy; the machine's
//! own groups are never touched. On version 1 a [`Group`] is one directory per controller, on version 2 a single one.

mod hierarchy;

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

pub use hierarchy::{Hierarchies, Layout};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{Error, Result};

/// The period over which processor time is shared out, in microseconds: the kernel's default.
const PERIOD_US: u64 = 100_000;

/// How long a killed group may take to empty before that is an error.
const EMPTY_WITHIN: Duration = Duration::from_secs(10);

/// What members of a group may use at most; none is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    /// Memory in bytes, page cache included; beyond it the kernel ends a member.
    pub memory_bytes: Option<u64>,
    /// Processors, such as 1.5.
    pub cpus: Option<f64>,
    /// Weight against other groups when processors are short: 1024 is an ordinary process' share (2 … 262144).
    pub cpu_shares: Option<u64>,
    /// Number of processes and threads.
    pub processes: Option<u64>,
}

/// What members of a group have used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time in nanoseconds since the group was made.
    pub cpu_ns: u64,
    /// Memory in bytes, page cache included.
    pub memory_bytes: u64,
    /// Processes and threads now.
    pub processes: u64,
    /// How often the kernel ended a member for lack of memory.
    pub out_of_memory_kills: u64,
}

/// A group, in every hierarchy that has something to limit or count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    hierarchies: Hierarchies,
    /// Below the hierarchies' roots, such as `madang-0a1b2c/vm-…`.
    path: PathBuf,
}

impl Group {
    /// A group by its path below the roots, whether it exists or not.
    ///
    /// Errors when the path could leave the root.
    pub fn new(hierarchies: &Hierarchies, path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let plain = path
            .components()
            .all(|part| matches!(part, std::path::Component::Normal(_)));
        if !plain || path.as_os_str().is_empty() {
            return Err(Error::Invalid(format!(
                "`{}` cannot name a control group",
                path.display()
            )));
        }
        Ok(Self {
            hierarchies: hierarchies.clone(),
            path,
        })
    }

    /// Its path below the roots; what an OCI runtime calls `cgroupsPath` when a `/` is put before it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A group inside this one.
    pub fn child(&self, name: &str) -> Result<Self> {
        Self::new(&self.hierarchies, self.path.join(name))
    }

    /// Names of the groups directly inside this one, sorted.
    pub fn children(&self) -> Vec<String> {
        let directories = self.everywhere();
        let entries = directories
            .iter()
            .flat_map(|directory| fs::read_dir(directory).into_iter().flatten().flatten());
        let mut names: Vec<String> = entries
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        names.dedup();
        names
    }

    /// Whether it exists in any hierarchy, those that only an OCI runtime uses included.
    pub fn exists(&self) -> bool {
        self.everywhere().iter().any(|directory| directory.is_dir())
    }

    /// Its directories in all hierarchies of the host.
    fn everywhere(&self) -> Vec<PathBuf> {
        self.hierarchies
            .everywhere()
            .iter()
            .map(|root| root.join(&self.path))
            .collect()
    }

    /// Lets paused members go on: on version 1 a signal does not end a frozen process.
    fn thaw(&self) {
        for group in self.everywhere().iter().flat_map(|directory| tree(directory)) {
            let state = group.join("freezer.state");
            if state.exists() {
                // If it cannot be thawed, its members survive the signal, and that is reported.
                let _ = fs::write(state, "THAWED");
            }
        }
    }

    /// Its directories, one per hierarchy.
    pub fn directories(&self) -> Vec<PathBuf> {
        self.hierarchies
            .roots()
            .into_iter()
            .map(|root| root.join(&self.path))
            .collect()
    }

    /// Makes it and sets its limits; also changes the limits of one that exists. Limits on what the host cannot limit
    /// are an error that names them.
    pub fn ensure(&self, limits: &Limits) -> Result<()> {
        self.hierarchies.prepare(&self.path)?;
        for directory in self.directories() {
            make(&directory)?;
        }
        if self.hierarchies.layout() == Layout::V2 {
            self.limit_v2(limits)
        } else {
            self.limit_v1(limits)
        }
    }

    fn limit_v1(&self, limits: &Limits) -> Result<()> {
        if let Some(bytes) = limits.memory_bytes {
            self.write("memory", "memory.limit_in_bytes", &bytes.to_string())?;
        }
        if let Some(cpus) = limits.cpus {
            self.write("cpu", "cpu.cfs_period_us", &PERIOD_US.to_string())?;
            self.write("cpu", "cpu.cfs_quota_us", &quota_us(cpus).to_string())?;
        }
        if let Some(shares) = limits.cpu_shares {
            self.write("cpu", "cpu.shares", &shares.clamp(2, 262_144).to_string())?;
        }
        if let Some(processes) = limits.processes {
            self.write("pids", "pids.max", &processes.to_string())?;
        }
        Ok(())
    }

    fn limit_v2(&self, limits: &Limits) -> Result<()> {
        if let Some(bytes) = limits.memory_bytes {
            self.write("memory", "memory.max", &bytes.to_string())?;
        }
        if let Some(cpus) = limits.cpus {
            self.write("cpu", "cpu.max", &format!("{} {PERIOD_US}", quota_us(cpus)))?;
        }
        if let Some(shares) = limits.cpu_shares {
            self.write("cpu", "cpu.weight", &weight(shares).to_string())?;
        }
        if let Some(processes) = limits.processes {
            self.write("pids", "pids.max", &processes.to_string())?;
        }
        Ok(())
    }

    /// Moves a process in. New ones are better started inside: see [`crate::process::Command::cgroup`].
    pub fn add(&self, pid: u32) -> Result<()> {
        for directory in self.directories() {
            let file = directory.join("cgroup.procs");
            fs::write(&file, pid.to_string()).map_err(Error::io(format!("add process {pid} to {}", file.display())))?;
        }
        Ok(())
    }

    /// Descriptors through which a process puts itself into the group by writing `0`.
    pub(crate) fn doors(&self) -> Result<Vec<OwnedFd>> {
        let mut doors = Vec::new();
        for directory in self.directories() {
            let file = directory.join("cgroup.procs");
            let door = fs::OpenOptions::new().write(true).open(&file);
            doors.push(door.map_err(Error::io(format!("open {}", file.display())))?.into());
        }
        Ok(doors)
    }

    /// What its members use. Counters the host does not keep are zero.
    pub fn usage(&self) -> Usage {
        if self.hierarchies.layout() == Layout::V2 {
            return Usage {
                cpu_ns: self.field("cpu", "cpu.stat", "usage_usec") * 1000,
                memory_bytes: self.number("memory", "memory.current"),
                processes: self.number("pids", "pids.current"),
                out_of_memory_kills: self.field("memory", "memory.events", "oom_kill"),
            };
        }
        Usage {
            cpu_ns: self.number("cpuacct", "cpuacct.usage"),
            memory_bytes: self.number("memory", "memory.usage_in_bytes"),
            processes: self.number("pids", "pids.current"),
            out_of_memory_kills: self.field("memory", "memory.oom_control", "oom_kill"),
        }
    }

    /// Numbers of the processes in it and in the groups below it.
    pub fn processes(&self) -> Vec<u32> {
        let mut pids = Vec::new();
        for directory in self.everywhere() {
            for group in tree(&directory) {
                let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
                pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
            }
        }
        pids.sort_unstable();
        pids.dedup();
        // Zero stands for processes of a namespace that cannot be seen from here: a signal to it would hit ourselves.
        pids.retain(|pid| *pid != 0 && *pid != std::process::id());
        pids
    }

    /// Kills every process in it and below it and waits until it is empty.
    ///
    /// Errors when a member survives for 10 seconds.
    pub async fn kill(&self) -> Result<()> {
        let deadline = tokio::time::Instant::now() + EMPTY_WITHIN;
        self.thaw();
        loop {
            let members = self.processes();
            if members.is_empty() {
                return Ok(());
            }
            // Again and again: a member may have forked between listing and killing.
            for pid in members {
                // Gone meanwhile is what we want.
                let _ = kill(Pid::from_raw(pid as i32), Signal::SIGKILL);
            }
            if tokio::time::Instant::now() > deadline {
                let action = format!("ending the processes of control group {}", self.path.display());
                return Err(Error::TimedOut {
                    action,
                    after: EMPTY_WITHIN,
                });
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Kills its members and removes it with all groups below. Succeeds when it does not exist.
    pub async fn remove(&self) -> Result<()> {
        self.kill().await?;
        let deadline = tokio::time::Instant::now() + EMPTY_WITHIN;
        for directory in self.everywhere() {
            for group in tree(&directory).into_iter().rev() {
                loop {
                    match fs::remove_dir(&group) {
                        Ok(()) => break,
                        Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                        // A killed member counts until it is collected by its parent.
                        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                            if tokio::time::Instant::now() > deadline {
                                return Err(Error::io(format!("remove {}", group.display()))(error));
                            }
                            tokio::time::sleep(Duration::from_millis(5)).await;
                        }
                        Err(error) => return Err(Error::io(format!("remove {}", group.display()))(error)),
                    }
                }
            }
        }
        Ok(())
    }

    fn write(&self, controller: &str, file: &str, value: &str) -> Result<()> {
        let Some(root) = self.hierarchies.root_of(controller) else {
            return Err(Error::Invalid(format!(
                "this host cannot limit `{controller}`: its controller is not there"
            )));
        };
        let path = root.join(&self.path).join(file);
        // Not `fs::write`, which would make a file where the controller is missing.
        let opened = fs::OpenOptions::new().write(true).open(&path);
        opened
            .and_then(|mut opened| io::Write::write_all(&mut opened, value.as_bytes()))
            .map_err(Error::io(format!("write {value} to {}", path.display())))
    }

    fn read(&self, controller: &str, file: &str) -> String {
        let root = self.hierarchies.root_of(controller);
        root.and_then(|root| fs::read_to_string(root.join(&self.path).join(file)).ok())
            .unwrap_or_default()
    }

    fn number(&self, controller: &str, file: &str) -> u64 {
        self.read(controller, file).trim().parse().unwrap_or_default()
    }

    fn field(&self, controller: &str, file: &str, name: &str) -> u64 {
        let text = self.read(controller, file);
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.and_then(|value| value.trim().parse().ok()).unwrap_or_default()
    }
}

fn make(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory).map_err(Error::io(format!("make control group {}", directory.display())))
}

/// A directory and all below it, parents first; empty when it does not exist.
fn tree(directory: &Path) -> Vec<PathBuf> {
    if !directory.is_dir() {
        return Vec::new();
    }
    let mut found = vec![directory.to_owned()];
    let mut next = 0;
    while let Some(parent) = found.get(next) {
        let entries = fs::read_dir(parent).into_iter().flatten().flatten();
        let below: Vec<PathBuf> = entries
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .map(|entry| entry.path())
            .collect();
        found.extend(below);
        next += 1;
    }
    found
}

/// Microseconds per period; the kernel refuses less than a millisecond.
fn quota_us(cpus: f64) -> u64 {
    ((cpus * PERIOD_US as f64) as u64).max(1000)
}

/// Shares of version 1 (2 … 262144, ordinary 1024) as a weight of version 2 (1 … 10000). The line through both ends is
/// the one runc and systemd use, so that both sorts of workload compare.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory that looks like a version 2 hierarchy, as far as plain files can.
    fn fake_v2() -> (tempfile::TempDir, Hierarchies) {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("cgroup.controllers"), "cpuset cpu io memory pids\n").unwrap();
        fs::write(root.path().join("cgroup.subtree_control"), "").unwrap();
        let hierarchies = Hierarchies::v2(root.path());
        (root, hierarchies)
    }

    #[test]
    fn version_2_limits_go_to_the_unified_files() {
        let (root, hierarchies) = fake_v2();
        let group = Group::new(&hierarchies, "madang-0a1b2c/vm-1").unwrap();
        let directory = root.path().join("madang-0a1b2c/vm-1");
        fs::create_dir_all(&directory).unwrap();
        for file in ["memory.max", "cpu.max", "cpu.weight", "pids.max"] {
            fs::write(directory.join(file), "").unwrap();
        }
        fs::write(root.path().join("madang-0a1b2c/cgroup.subtree_control"), "").unwrap();
        let limits = Limits {
            memory_bytes: Some(1 << 28),
            cpus: Some(1.5),
            cpu_shares: Some(1024),
            processes: Some(64),
        };
        group.ensure(&limits).unwrap();
        let read = |file: &str| fs::read_to_string(directory.join(file)).unwrap();
        assert_eq!(read("memory.max"), "268435456");
        assert_eq!(read("cpu.max"), "150000 100000");
        assert_eq!(read("cpu.weight"), "39");
        assert_eq!(read("pids.max"), "64");
        let enabled = fs::read_to_string(root.path().join("cgroup.subtree_control")).unwrap();
        assert_eq!(enabled, "+cpu +memory +pids");
        let enabled = fs::read_to_string(root.path().join("madang-0a1b2c/cgroup.subtree_control")).unwrap();
        assert_eq!(enabled, "+cpu +memory +pids");
    }

    #[test]
    fn version_2_usage_is_read_in_the_same_units() {
        let (root, hierarchies) = fake_v2();
        let group = Group::new(&hierarchies, "madang-0a1b2c/vm-1").unwrap();
        let directory = root.path().join("madang-0a1b2c/vm-1");
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("cpu.stat"), "usage_usec 1500\nuser_usec 1000\n").unwrap();
        fs::write(directory.join("memory.current"), "4096\n").unwrap();
        fs::write(directory.join("memory.events"), "low 0\noom 2\noom_kill 1\n").unwrap();
        fs::write(directory.join("pids.current"), "3\n").unwrap();
        let usage = Usage {
            cpu_ns: 1_500_000,
            memory_bytes: 4096,
            processes: 3,
            out_of_memory_kills: 1,
        };
        assert_eq!(group.usage(), usage);
    }

    #[test]
    fn a_limit_the_host_cannot_enforce_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("cgroup.controllers"), "memory\n").unwrap();
        let group = Group::new(&Hierarchies::v2(root.path()), "madang-0a1b2c").unwrap();
        let error = group
            .ensure(&Limits {
                processes: Some(1),
                ..Limits::default()
            })
            .unwrap_err();
        assert!(error.to_string().contains("`pids`"), "{error}");
    }

    #[test]
    fn shares_become_weights_over_the_whole_range() {
        assert_eq!(
            (weight(0), weight(2), weight(1024), weight(262_144), weight(u64::MAX)),
            (1, 1, 39, 10_000, 10_000)
        );
        assert_eq!((quota_us(0.001), quota_us(2.0)), (1000, 200_000));
    }

    #[test]
    fn paths_that_lead_elsewhere_are_refused() {
        let (_root, hierarchies) = fake_v2();
        for bad in ["", "/", "../x", "a/../../x", "/madang"] {
            assert!(Group::new(&hierarchies, bad).is_err(), "{bad}");
        }
    }
}
