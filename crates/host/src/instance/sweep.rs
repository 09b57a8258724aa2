//! Finding and removing everything an instance put on the host.

use std::{fs, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{Instance, SLOTS, slots};
use crate::{Error, Result, cgroup::Hierarchies, link::Links, mounts, netns::Netns, process};

/// How long the last processes of a namespace may take to end after SIGKILL.
const END_WITHIN: Duration = Duration::from_secs(10);

impl Instance {
    /// Ends every process and removes every namespace, link, mount and group of this instance, the data directory
    /// excepted, and says what there was. This process itself is spared. May be repeated; needs root.
    ///
    /// Errors with the first thing that resisted, after having tried all others.
    pub async fn sweep(&self) -> Result<Vec<String>> {
        let found = self.traces().await;
        let mut first_error = None;
        let mut note = |result: Result<()>| {
            if let Err(error) = result {
                tracing::warn!(error = %error.chain(), "could not remove all traces");
                first_error.get_or_insert(error);
            }
        };
        let hierarchies = Hierarchies::detect();
        // Processes first: they hold everything else.
        note(self.cgroup(&hierarchies).kill().await);
        note(self.end_processes_in_namespaces().await);
        note(self.remove_mounts().await);
        for name in Netns::list(&self.netns_prefix()) {
            note(Netns::named(name).remove().await);
        }
        note(self.remove_links().await);
        note(self.cgroup(&hierarchies).remove().await);
        self.release_uids();
        match first_error {
            None => Ok(found),
            Some(error) => Err(error),
        }
    }

    /// What is on the host under this instance's names, one line each, such as `network namespace mdg-0a1b2c-fabric`.
    /// Empty when the host is as if it had never been.
    pub async fn traces(&self) -> Vec<String> {
        let mut traces = Vec::new();
        for name in Netns::list(&self.netns_prefix()) {
            traces.push(format!("network namespace {name}"));
        }
        let hierarchies = Hierarchies::detect();
        let group = self.cgroup(&hierarchies);
        if group.exists() {
            traces.push(format!("control group {}", self.cgroup_name()));
        }
        let mut processes = group.processes();
        processes.extend(self.processes_in_namespaces());
        processes.sort_unstable();
        processes.dedup();
        for pid in processes {
            let program = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            traces.push(format!("process {pid} {}", program.trim()));
        }
        traces.extend(self.links().await.into_iter().map(|link| format!("link {link}")));
        for point in mounts::below(self.directory())
            .into_iter()
            .filter(|point| point != self.directory())
        {
            traces.push(format!("mount {}", point.display()));
        }
        traces.extend(
            slots()
                .into_iter()
                .filter(|(_, id)| *id == self.id)
                .map(|(slot, _)| format!("user ids {slot}")),
        );
        traces
    }

    fn processes_in_namespaces(&self) -> Vec<u32> {
        let namespaces: Vec<_> = Netns::list(&self.netns_prefix())
            .into_iter()
            .filter_map(|name| Netns::named(name).open().ok())
            .collect();
        process::in_namespaces(&namespaces)
    }

    async fn end_processes_in_namespaces(&self) -> Result<()> {
        let deadline = tokio::time::Instant::now() + END_WITHIN;
        loop {
            let left = self.processes_in_namespaces();
            if left.is_empty() {
                return Ok(());
            }
            if tokio::time::Instant::now() > deadline {
                return Err(Error::TimedOut {
                    action: format!("ending processes {left:?}"),
                    after: END_WITHIN,
                });
            }
            for pid in left {
                let _ = kill(Pid::from_raw(pid as i32), Signal::SIGKILL);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn remove_mounts(&self) -> Result<()> {
        let directory = self.directory().to_owned();
        // The data directory may be a mount of the administrator's: only what is below it is ours.
        let below: Vec<_> = mounts::below(&directory)
            .into_iter()
            .filter(|point| *point != directory)
            .collect();
        let removed = tokio::task::spawn_blocking(move || {
            below
                .iter()
                .try_for_each(|point| mounts::remove_below(point).map(|_| ()))
        });
        removed.await.map_err(|error| Error::Invalid(error.to_string()))?
    }

    async fn remove_links(&self) -> Result<()> {
        let names = self.links().await;
        if names.is_empty() {
            return Ok(());
        }
        let links = Links::open(&Netns::OWN).await?;
        for name in names {
            links.remove(&name).await?;
        }
        Ok(())
    }

    /// Our links in the namespace this process lives in.
    async fn links(&self) -> Vec<String> {
        let Ok(links) = Links::open(&Netns::OWN).await else {
            return Vec::new();
        };
        let (outside, passing) = (self.outside_link(), format!("m{}", self.id));
        let all = links.list().await.unwrap_or_default();
        let names = all.into_iter().map(|link| link.name);
        names
            .filter(|name| name.starts_with(&outside) || name.starts_with(&passing))
            .collect()
    }

    fn release_uids(&self) {
        let directory = mounts::host_root().join(SLOTS);
        for (slot, _) in slots().into_iter().filter(|(_, id)| *id == self.id) {
            let _ = fs::remove_file(directory.join(slot.to_string()));
        }
        // Only the last instance of the host succeeds.
        let _ = fs::remove_dir(&directory);
        let _ = directory.parent().map(fs::remove_dir);
    }
}
