//! Vaults: where the bytes of backups are kept. The code that touches the world is behind one trait, with the words of an
//! object store, so that such a store can be another vault.
//!
//! ```text
//! <data>/<object>      a few MiB of compressed chunks, one after the other
//! <data>/manifest      which chunk of the disk is where, and its hash ([`manifest::Manifest`])
//! ```
//! Objects are written once. A backup is whole when its manifest is there.

pub mod directory;
pub mod manifest;
pub mod read;
pub mod write;

use async_trait::async_trait;

use crate::driver::BackEndError;

pub use directory::DirectoryVault;
pub use manifest::Manifest;

/// Keeps objects by the name of a backup's data and their own. What it says is done survives the loss of power.
#[async_trait]
pub trait Vault: Send + Sync {
    /// Its name.
    fn name(&self) -> &'static str;

    /// Writes an object.
    async fn put(&self, data: &str, object: &str, bytes: Vec<u8>) -> Result<(), BackEndError>;

    /// Reads an object.
    async fn get(&self, data: &str, object: &str) -> Result<Vec<u8>, BackEndError>;

    /// Reads `length` bytes of an object, from `offset` on.
    async fn get_range(&self, data: &str, object: &str, offset: u64, length: usize) -> Result<Vec<u8>, BackEndError>;

    /// Removes all objects of one backup; none being there is no error.
    async fn remove(&self, data: &str) -> Result<(), BackEndError>;
}
