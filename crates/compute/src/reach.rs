//! From a server to the driver that runs it, for calls that are answered at once and are no state: consoles, passwords,
//! interrupts, usage. They go past the store, as all bytes that flow.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use madang_host::workload::{Driver, DriverError};
use madang_store::Resource;

use crate::Server;

/// The hosts of this process and their drivers.
#[derive(Clone, Default)]
pub struct Reach {
    hosts: Vec<(BTreeSet<String>, BTreeMap<String, Arc<dyn Driver>>)>,
}

impl Reach {
    /// Hosts that share their drivers, by name.
    #[must_use]
    pub fn and(mut self, hosts: BTreeSet<String>, drivers: BTreeMap<String, Arc<dyn Driver>>) -> Self {
        self.hosts.push((hosts, drivers));
        self
    }

    /// The driver that runs a server.
    ///
    /// # Errors
    /// `Host` when its host is none of these, or cannot run its sort.
    pub fn driver(&self, server: &Resource<Server>) -> Result<&Arc<dyn Driver>, DriverError> {
        let host = server.status.host.as_deref().unwrap_or_default();
        let drivers = self.hosts.iter().find(|(hosts, _)| hosts.contains(host));
        drivers
            .and_then(|(_, drivers)| drivers.get(&server.spec.driver))
            .ok_or_else(|| DriverError::Host(format!("no driver {} on host {host}", server.spec.driver)))
    }
}
