//! Workloads and directories on the host that no server stands for: what a crash, or a restored older state, left.

use std::{sync::Arc, time::Duration};

use madang_control::TaskGroup;
use tracing::{info, warn};
use uuid::Uuid;

use super::Agent;
use crate::server::Server;

/// How often the host is compared with the store.
const EVERY: Duration = Duration::from_secs(60);

pub(super) fn run(agent: &Arc<Agent>, group: &TaskGroup) {
    let agent = Arc::clone(agent);
    group.spawn_until_stopped("orphans", async move {
        loop {
            agent.remove_orphans().await;
            tokio::time::sleep(EVERY).await;
        }
    });
}

impl Agent {
    async fn remove_orphans(&self) {
        for driver in self.options.drivers.values() {
            let workloads = match driver.list().await {
                Ok(workloads) => workloads,
                Err(error) => {
                    warn!(driver = driver.name(), %error, "could not list workloads");
                    continue;
                }
            };
            for (id, _) in workloads.into_iter().filter(|(id, _)| !self.is_known(*id)) {
                info!(workload = %id, driver = driver.name(), "removing a workload that no server stands for");
                if let Err(error) = driver.remove(id).await {
                    warn!(workload = %id, %error, "could not remove it");
                }
            }
        }
        if let Err(error) = self.remove_directories().await {
            warn!(%error, "could not look for directories that no server stands for");
        }
    }

    async fn remove_directories(&self) -> std::io::Result<()> {
        let Some(ground) = &self.options.ground else {
            return Ok(());
        };
        let mut entries = match tokio::fs::read_dir(&ground.directory).await {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        while let Some(entry) = entries.next_entry().await? {
            let id = entry.file_name().to_str().and_then(|name| name.parse::<Uuid>().ok());
            if id.is_some_and(|id| !self.is_known(id)) {
                info!(path = %entry.path().display(), "removing a directory that no server stands for");
                tokio::fs::remove_dir_all(entry.path()).await?;
            }
        }
        Ok(())
    }

    fn is_known(&self, id: Uuid) -> bool {
        let server = self.store.cache::<Server>().by_uid(id);
        server.is_some_and(|server| self.has(&server))
    }
}
