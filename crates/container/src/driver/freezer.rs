//! Whether a process is frozen, as its control group says: version 1 and 2 keep it in different places.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Whether the process' control group is frozen; false when there is no telling.
pub(super) fn is_frozen(pid: u32) -> bool {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let Some(file) = state_file(&groups, &mounts) else {
        return false;
    };
    let text = fs::read_to_string(file).unwrap_or_default();
    matches!(text.trim(), "FROZEN" | "FREEZING" | "1")
}

/// The file that says so: `freezer.state` if that controller is mounted, else `cgroup.freeze`. Sources: cgroups(7),
/// proc_pid_mountinfo(5).
fn state_file(groups: &str, mounts: &str) -> Option<PathBuf> {
    let path = |wanted: &str| {
        groups.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            controllers
                .split(',')
                .any(|name| name == wanted)
                .then_some(path.trim_start_matches('/'))
        })
    };
    let mount = |kind: &str, option: Option<&str>| {
        mounts.lines().find_map(|line| {
            let (before, after) = line.split_once(" - ")?;
            let mut after = after.split(' ');
            let fits = after.next() == Some(kind)
                && option.is_none_or(|wanted| after.nth(1).is_some_and(|all| all.split(',').any(|o| o == wanted)));
            fits.then(|| before.split(' ').nth(4))?
        })
    };
    if let (Some(path), Some(root)) = (path("freezer"), mount("cgroup", Some("freezer"))) {
        return Some(Path::new(root).join(path).join("freezer.state"));
    }
    Some(Path::new(mount("cgroup2", None)?).join(path("")?).join("cgroup.freeze"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_are_found() {
        let v1 = "36 31 0:33 / /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,freezer\n";
        let v2 = "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let groups = "7:freezer:/m/ct\n0::/m/ct\n";
        assert_eq!(
            state_file(groups, &format!("{v2}{v1}")).unwrap(),
            Path::new("/sys/fs/cgroup/freezer/m/ct/freezer.state")
        );
        let only = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(
            state_file("0::/m/ct\n", only).unwrap(),
            Path::new("/sys/fs/cgroup/m/ct/cgroup.freeze")
        );
        assert_eq!(state_file("", ""), None);
    }
}
