//! Brings interfaces that came or went to a running guest.
//!
//! What the guest has is written down in the server's status, so that a round in which nothing changed asks the driver
//! nothing.

use std::{collections::BTreeSet, sync::Arc};

use madang_host::workload::{Driver, DriverError};
use madang_network::Port;
use madang_store::Resource;
use tracing::{info, warn};
use uuid::Uuid;

use super::{Agent, AgentError, workload};
use crate::server::Server;

/// The ports that a server's guest has after a start.
pub(super) fn all(ports: &[Arc<Resource<Port>>]) -> BTreeSet<Uuid> {
    ports.iter().map(|port| port.metadata.uid).collect()
}

impl Agent {
    /// One step for a server that runs and of which nothing else is wanted.
    pub(super) async fn follow_interfaces(
        &self,
        server: &Resource<Server>,
        driver: &Arc<dyn Driver>,
    ) -> Result<(), AgentError> {
        // Of a server that was started before this was kept, nothing is known until its next start.
        let Some(has) = &server.status.interfaces else {
            return Ok(());
        };
        let ports = workload::ports(&self.store, server);
        let wanted = all(&ports);
        let id = server.metadata.uid;
        for gone in has.difference(&wanted) {
            self.told(server, driver.detach_nic(id, *gone).await)?;
            info!(server = server.name(), port = %gone, "interface detached");
            self.modify(server, |server| {
                if let Some(interfaces) = &mut server.status.interfaces {
                    interfaces.remove(gone);
                }
            })
            .await?;
        }
        let host = server.status.host.as_deref();
        let is_wired = |port: &&Arc<Resource<Port>>| port.status.wired_on.as_deref() == host;
        for port in ports.iter().filter(is_wired) {
            let came = port.metadata.uid;
            if has.contains(&came) {
                continue;
            }
            let nic = self.nic(port)?;
            self.told(server, driver.attach_nic(id, &nic).await)?;
            info!(server = server.name(), port = %came, "interface attached");
            self.modify(server, |server| {
                server.status.interfaces.get_or_insert_default().insert(came);
            })
            .await?;
        }
        Ok(())
    }

    /// What a driver does not do is not tried again and again; the next start brings it.
    fn told(&self, server: &Resource<Server>, done: Result<(), DriverError>) -> Result<(), AgentError> {
        match done {
            Err(error @ DriverError::Unsupported { .. }) => {
                warn!(server = server.name(), %error, "an interface waits for the next start");
                Ok(())
            }
            other => Ok(other?),
        }
    }
}
