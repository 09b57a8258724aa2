//! Consoles as sessions: bytes that flow from the host that has them to who asks, never through the store.

pub(crate) mod api;
pub(crate) mod door;
mod tokens;

use std::time::Duration;

use async_trait::async_trait;
use madang_host::workload::{ConsoleKind, DriverError, Session};
use madang_store::Resource;

pub use self::tokens::{Grant, Tokens};
use crate::{Server, reach::Reach};

/// Reads the consoles of servers.
#[async_trait]
pub trait Consoles: Send + Sync {
    /// The last `max_bytes` bytes of a server's console; empty when nothing was written yet.
    ///
    /// # Errors
    /// What the driver says.
    async fn read(&self, server: &Resource<Server>, max_bytes: u64) -> Result<Vec<u8>, DriverError>;

    /// Opens a session on one of a server's consoles.
    ///
    /// # Errors
    /// What the driver says.
    async fn open(&self, server: &Resource<Server>, kind: ConsoleKind) -> Result<Box<dyn Session>, DriverError>;

    /// The tokens that open them.
    fn tokens(&self) -> &Tokens;
}

/// The consoles of the hosts of this process.
pub struct LocalConsoles {
    reach: Reach,
    tokens: Tokens,
}

impl LocalConsoles {
    /// Through the hosts' drivers; a token opens its console for so long.
    pub fn new(reach: Reach, life: Duration) -> Self {
        Self {
            reach,
            tokens: Tokens::new(life),
        }
    }
}

#[async_trait]
impl Consoles for LocalConsoles {
    async fn read(&self, server: &Resource<Server>, max_bytes: u64) -> Result<Vec<u8>, DriverError> {
        let driver = self.reach.driver(server)?;
        driver.console(server.metadata.uid, max_bytes).await
    }

    async fn open(&self, server: &Resource<Server>, kind: ConsoleKind) -> Result<Box<dyn Session>, DriverError> {
        let driver = self.reach.driver(server)?;
        driver.open_console(server.metadata.uid, kind).await
    }

    fn tokens(&self) -> &Tokens {
        &self.tokens
    }
}
