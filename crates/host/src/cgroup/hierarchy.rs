//! Where this host's control group hierarchies are.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{Error, Result, mounts};

/// Controllers that limit or count something for us. `freezer` and `devices` are for OCI runtimes, which make their own
/// directories there.
const WANTED: [&str; 4] = ["cpu", "cpuacct", "memory", "pids"];

/// Which versions a host has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// One hierarchy per controller.
    V1,
    /// One hierarchy for all.
    V2,
    /// Version 1 with all controllers, and an empty version 2 beside it.
    Hybrid,
    /// Not mounted: nothing can be limited.
    None,
}

/// The mounted hierarchies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchies {
    layout: Layout,
    /// Mount point of each wanted controller; several may share one (`cpu,cpuacct`).
    controllers: Vec<(String, PathBuf)>,
    unified: Option<PathBuf>,
    /// Every mount point, those of controllers that are not ours included: an OCI runtime makes groups in all of them.
    everywhere: Vec<PathBuf>,
}

impl Hierarchies {
    /// Those of this host, also when this process' own mount table hides them.
    pub fn detect() -> Self {
        let own = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let found = Self::parse(&own, Path::new("/"));
        if found.layout != Layout::None || mounts::are_the_hosts() {
            return found;
        }
        let host = fs::read_to_string("/proc/1/mountinfo").unwrap_or_default();
        Self::parse(&host, &mounts::host_root())
    }

    /// A version 2 hierarchy at `root`.
    pub fn v2(root: &Path) -> Self {
        Self::unified(root.to_owned())
    }

    /// Reads `mountinfo`, whose paths are seen below `root`. Source: proc_pid_mountinfo(5).
    fn parse(table: &str, root: &Path) -> Self {
        let mut controllers = Vec::new();
        let mut unified = None;
        let mut everywhere = Vec::new();
        for line in table.lines() {
            let Some((_, described)) = line.split_once(" - ") else {
                continue;
            };
            let Some(point) = mounts::mount_point(line) else {
                continue;
            };
            let point = root.join(point.strip_prefix("/").unwrap_or(&point));
            let mut fields = described.split(' ');
            match (fields.next(), fields.nth(1)) {
                (Some("cgroup2"), _) => {
                    everywhere.push(point.clone());
                    unified = Some(point);
                }
                (Some("cgroup"), Some(options)) => {
                    everywhere.push(point.clone());
                    for option in options.split(',').filter(|option| WANTED.contains(option)) {
                        controllers.push((option.to_owned(), point.clone()));
                    }
                }
                _ => {}
            }
        }
        match (controllers.is_empty(), unified) {
            (true, Some(unified)) => Self::unified(unified),
            (true, None) => Self {
                layout: Layout::None,
                controllers,
                unified: None,
                everywhere,
            },
            (false, unified) => {
                let layout = if unified.is_some() { Layout::Hybrid } else { Layout::V1 };
                Self {
                    layout,
                    controllers,
                    unified,
                    everywhere,
                }
            }
        }
    }

    fn unified(root: PathBuf) -> Self {
        let there = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
        let controllers = there
            .split_whitespace()
            .filter(|controller| WANTED.contains(controller))
            .map(|controller| (controller.to_owned(), root.clone()))
            .collect();
        Self {
            layout: Layout::V2,
            controllers,
            everywhere: vec![root.clone()],
            unified: Some(root),
        }
    }

    /// Which versions there are.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Names of the wanted controllers that this host has.
    pub fn controllers(&self) -> Vec<&str> {
        self.controllers.iter().map(|(name, _)| name.as_str()).collect()
    }

    /// The mount point that has this controller.
    pub(super) fn root_of(&self, controller: &str) -> Option<&Path> {
        self.controllers
            .iter()
            .find(|(name, _)| name == controller)
            .map(|(_, root)| root.as_path())
    }

    /// All mount points in which a group gets a directory. The empty version 2 of a hybrid host is left out: it would
    /// limit nothing, and its members need no second list.
    pub(super) fn roots(&self) -> Vec<PathBuf> {
        let mut roots: Vec<PathBuf> = self.controllers.iter().map(|(_, root)| root.clone()).collect();
        if self.layout == Layout::V2 {
            roots.extend(self.unified.clone());
        }
        roots.sort();
        roots.dedup();
        roots
    }

    /// All mount points in which a group may have been made on our behalf.
    pub(super) fn everywhere(&self) -> &[PathBuf] {
        &self.everywhere
    }

    /// Names of the top-level groups that start with `prefix`, sorted.
    pub fn list(&self, prefix: &str) -> Vec<String> {
        let mut names: Vec<String> = self
            .everywhere
            .iter()
            .flat_map(|root| fs::read_dir(root).into_iter().flatten().flatten())
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| name.starts_with(prefix))
            .collect();
        names.sort();
        names.dedup();
        names
    }

    /// On version 2, lets the parents of `path` pass our controllers on. Writing the root's list adds to it and takes
    /// nothing away; systemd has them enabled there anyway.
    pub(super) fn prepare(&self, path: &Path) -> Result<()> {
        let Some(root) = self.unified.as_deref().filter(|_| self.layout == Layout::V2) else {
            return Ok(());
        };
        let enable: Vec<String> = self.controllers.iter().map(|(name, _)| format!("+{name}")).collect();
        let enable = enable.join(" ");
        let mut parent = root.to_owned();
        for part in path.components() {
            fs::create_dir_all(&parent).map_err(Error::io(format!("make control group {}", parent.display())))?;
            let file = parent.join("cgroup.subtree_control");
            let enabled = fs::read_to_string(&file).unwrap_or_default();
            let missing = self
                .controllers
                .iter()
                .any(|(name, _)| !enabled.split_whitespace().any(|word| word == name));
            if missing {
                fs::write(&file, &enable).map_err(Error::io(format!("write {enable} to {}", file.display())))?;
            }
            parent.push(part);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
30 20 0:26 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
33 30 0:29 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
34 30 0:30 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
35 30 0:31 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
";

    #[test]
    fn hybrid_hosts_keep_their_controllers_in_version_1() {
        let found = Hierarchies::parse(HYBRID, Path::new("/"));
        assert_eq!(found.layout(), Layout::Hybrid);
        assert_eq!(found.controllers(), ["cpu", "cpuacct", "memory", "pids"]);
        let roots = [
            "/sys/fs/cgroup/cpu,cpuacct",
            "/sys/fs/cgroup/memory",
            "/sys/fs/cgroup/pids",
        ];
        assert_eq!(found.roots(), roots.map(PathBuf::from));
        assert!(found.everywhere().contains(&PathBuf::from("/sys/fs/cgroup/systemd")));
    }

    #[test]
    fn paths_of_a_hidden_table_are_seen_through_process_1() {
        let found = Hierarchies::parse(HYBRID, Path::new("/proc/1/root"));
        assert_eq!(
            found.root_of("memory"),
            Some(Path::new("/proc/1/root/sys/fs/cgroup/memory"))
        );
    }

    #[test]
    fn version_2_alone_takes_its_controllers_from_its_root() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cgroup.controllers"), "cpuset cpu memory hugetlb\n").unwrap();
        let line = format!("24 23 0:22 / {} rw - cgroup2 cgroup2 rw", dir.path().display());
        let found = Hierarchies::parse(&line, Path::new("/"));
        assert_eq!(found.layout(), Layout::V2);
        assert_eq!(found.controllers(), ["cpu", "memory"]);
        assert_eq!(found.roots(), [dir.path()]);
    }

    #[test]
    fn a_host_without_control_groups_says_so() {
        assert_eq!(Hierarchies::parse("", Path::new("/")).layout(), Layout::None);
    }
}
