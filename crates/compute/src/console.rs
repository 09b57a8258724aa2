//! Console output as a session: bytes that flow from the host that has them to who asks, never through the store.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use madang_host::workload::{Driver, DriverError};
use madang_store::Resource;

use crate::Server;

/// Reads the consoles of servers.
#[async_trait]
pub trait Consoles: Send + Sync {
    /// The last `max_bytes` bytes of a server's console; empty when nothing was written yet.
    ///
    /// # Errors
    /// What the driver says.
    async fn read(&self, server: &Resource<Server>, max_bytes: u64) -> Result<Vec<u8>, DriverError>;
}

/// The consoles of the host this process runs on.
pub struct LocalConsoles {
    drivers: BTreeMap<String, Arc<dyn Driver>>,
}

impl LocalConsoles {
    /// Through the host's drivers, by name.
    pub fn new(drivers: BTreeMap<String, Arc<dyn Driver>>) -> Self {
        Self { drivers }
    }
}

#[async_trait]
impl Consoles for LocalConsoles {
    async fn read(&self, server: &Resource<Server>, max_bytes: u64) -> Result<Vec<u8>, DriverError> {
        match self.drivers.get(&server.spec.driver) {
            Some(driver) => driver.console(server.metadata.uid, max_bytes).await,
            None => Err(DriverError::Host(format!(
                "no driver {} on this host",
                server.spec.driver
            ))),
        }
    }
}
