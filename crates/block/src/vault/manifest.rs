//! Which chunk of a disk is where in the vault.

use std::{collections::BTreeMap, io::Read as _};

use serde::{Deserialize, Serialize};

use super::Vault;
use crate::driver::BackEndError;

/// The object that makes a backup whole.
const OBJECT: &str = "manifest";
const VERSION: u32 = 1;
/// How much of a disk is hashed, compared and compressed at a time.
pub(super) const CHUNK: usize = 1 << 20;
/// No manifest is larger: that of a disk of 64 TiB.
const MOST: u64 = 16 << 30;

/// A whole disk: what is not named is zeros.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    version: u32,
    /// The size of the disk in bytes.
    pub size: u64,
    chunk: usize,
    /// The data that places are in: its own first, then its ancestors'.
    pub(super) data: Vec<String>,
    /// Places by the number of the chunk.
    pub(super) chunks: BTreeMap<u64, Place>,
}

/// Where a chunk is, and what it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place(
    /// SHA-256 of the chunk, in hex.
    pub(super) String,
    /// The number of the data.
    pub(super) usize,
    /// The number of the object.
    pub(super) u32,
    /// Where in it.
    pub(super) u64,
    /// So many bytes.
    pub(super) usize,
    /// They are compressed.
    pub(super) bool,
);

impl Manifest {
    /// Of an empty disk, whose own data is `data`.
    pub(super) fn new(size: u64, data: &str) -> Self {
        Self {
            version: VERSION,
            size,
            chunk: CHUNK,
            data: vec![data.to_owned()],
            chunks: BTreeMap::new(),
        }
    }

    /// The number of some data, which is known from now on.
    pub(super) fn number(&mut self, data: &str) -> usize {
        let known = self.data.iter().position(|one| one == data);
        known.unwrap_or_else(|| {
            self.data.push(data.to_owned());
            self.data.len() - 1
        })
    }

    /// Reads the manifest of some data.
    ///
    /// # Errors
    /// When it is not there or not whole.
    pub async fn load(vault: &dyn Vault, data: &str) -> Result<Self, BackEndError> {
        let bytes = vault.get(data, OBJECT).await?;
        let broken = |why: String| BackEndError::Broken(format!("the manifest of backup data {data} is broken: {why}"));
        let mut text = Vec::new();
        let unpacked = zstd::stream::read::Decoder::new(&bytes[..]);
        let unpacked = unpacked.and_then(|unpacked| unpacked.take(MOST).read_to_end(&mut text));
        unpacked.map_err(|error| broken(error.to_string()))?;
        let read: Self = serde_json::from_slice(&text).map_err(|error| broken(error.to_string()))?;
        if (read.version, read.chunk) != (VERSION, CHUNK) {
            return Err(broken(format!("version {} is not known", read.version)));
        }
        if let Some(strange) = read.data.iter().find(|data| data.parse::<uuid::Uuid>().is_err()) {
            return Err(broken(format!("it leads to {strange}")));
        }
        if read
            .chunks
            .values()
            .any(|place| place.1 >= read.data.len() || place.4 > 2 * CHUNK)
        {
            return Err(broken("it leads nowhere".to_owned()));
        }
        Ok(read)
    }

    /// Writes it, which makes the backup whole.
    pub(super) async fn store(&self, vault: &dyn Vault) -> Result<usize, BackEndError> {
        let broken = |why: String| BackEndError::Broken(format!("could not write a manifest: {why}"));
        let text = serde_json::to_vec(self).map_err(|error| broken(error.to_string()))?;
        let bytes = zstd::bulk::compress(&text, 3).map_err(|error| broken(error.to_string()))?;
        let length = bytes.len();
        vault.put(&self.data[0], OBJECT, bytes).await?;
        Ok(length)
    }
}
