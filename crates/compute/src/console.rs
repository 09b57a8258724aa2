//! Console output as a session: bytes that flow from the host that has them to who asks, never through the store.

use async_trait::async_trait;
use madang_host::workload::DriverError;
use madang_store::Resource;

use crate::{Server, reach::Reach};

/// Reads the consoles of servers.
#[async_trait]
pub trait Consoles: Send + Sync {
    /// The last `max_bytes` bytes of a server's console; empty when nothing was written yet.
    ///
    /// # Errors
    /// What the driver says.
    async fn read(&self, server: &Resource<Server>, max_bytes: u64) -> Result<Vec<u8>, DriverError>;
}

/// The consoles of the hosts of this process.
pub struct LocalConsoles {
    reach: Reach,
}

impl LocalConsoles {
    /// Through the hosts' drivers.
    pub fn new(reach: Reach) -> Self {
        Self { reach }
    }
}

#[async_trait]
impl Consoles for LocalConsoles {
    async fn read(&self, server: &Resource<Server>, max_bytes: u64) -> Result<Vec<u8>, DriverError> {
        let driver = self.reach.driver(server)?;
        driver.console(server.metadata.uid, max_bytes).await
    }
}
