//! Back ends: what keeps the bytes of layers. The only code here that touches the world is behind this trait.
//!
//! A layer is named by its uid. All calls may be repeated: making what is there, and removing what is not, succeed.

pub mod file;
pub mod simulated;

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use uuid::Uuid;

use crate::layer::LayerFormat;

/// A layer as a back end needs to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerFile {
    /// Its name.
    pub uid: Uuid,
    /// What it is.
    pub format: LayerFormat,
}

/// What a back end has room for, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    /// In all.
    pub total: u64,
    /// Not yet used.
    pub free: u64,
}

/// A file of the host that is no layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stranger {
    /// Its name.
    pub name: String,
    /// The size of the disk that it is.
    pub bytes: u64,
}

/// Why a back end could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum BackEndError {
    /// The bytes are not what they must be: repeating cannot help.
    #[error("{0}")]
    Broken(String),
    /// There is no room.
    #[error("could not {0}: the disk is full")]
    Full(String),
    /// Something failed that may not fail again.
    #[error("could not {action}: {reason}")]
    Failed {
        /// A verb phrase naming the thing.
        action: String,
        /// What was said.
        reason: String,
    },
}

impl BackEndError {
    /// For a `map_err`.
    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let action = action.into();
        move |error| match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Self::Full(action),
            _ => Self::Failed {
                action,
                reason: error.to_string(),
            },
        }
    }

    /// Whether trying again may help.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Failed { .. })
    }
}

/// Keeps layers. What it says is done survives the loss of power.
#[async_trait]
pub trait BackEnd: Send + Sync {
    /// Its name: the part of a volume's host after the `@`.
    fn name(&self) -> &'static str;

    /// Makes an empty layer of `bytes` that stands alone.
    async fn make_blank(&self, uid: Uuid, bytes: u64) -> Result<LayerFile, BackEndError>;

    /// Makes an empty layer of `bytes` over `base`, which is not written to any more.
    async fn make_over(&self, uid: Uuid, base: LayerFile, bytes: u64) -> Result<LayerFile, BackEndError>;

    /// Makes a layer of what `top` and the layers between it and `base` hold: the same disk, over `base` or alone.
    async fn merge(&self, uid: Uuid, top: LayerFile, base: Option<LayerFile>) -> Result<LayerFile, BackEndError>;

    /// Takes an image's file as a layer, without copying where that can be. `format` is QEMU's word for what it is.
    async fn take_image(&self, uid: Uuid, image: &Path, format: &str) -> Result<LayerFile, BackEndError>;

    /// Grows a layer that nobody has open to `bytes`.
    async fn grow(&self, layer: LayerFile, bytes: u64) -> Result<(), BackEndError>;

    /// Writes all of a layer and what it stands on into a new file, in the format that QEMU calls `format`.
    async fn export(&self, layer: LayerFile, into: &Path, format: &str) -> Result<(), BackEndError>;

    /// Files of the host that are no layers and can become some.
    async fn strangers(&self) -> Result<Vec<Stranger>, BackEndError>;

    /// Makes a layer of such a file, without copying where that can be; the file stays until it is forgotten.
    async fn adopt(&self, uid: Uuid, name: &str) -> Result<LayerFile, BackEndError>;

    /// Removes such a file.
    async fn forget(&self, name: &str) -> Result<(), BackEndError>;

    /// Writes all of a layer and what it stands on into such a file.
    async fn leave(&self, layer: LayerFile, name: &str) -> Result<(), BackEndError>;

    /// Removes a layer.
    async fn remove(&self, layer: LayerFile) -> Result<(), BackEndError>;

    /// Removes everything but these.
    async fn sweep(&self, keep: &HashSet<Uuid>) -> Result<(), BackEndError>;

    /// Where a layer is on this host.
    fn path(&self, layer: LayerFile) -> PathBuf;

    /// Where files may be put for a while.
    fn scratch(&self) -> PathBuf;

    /// How much room there is.
    fn capacity(&self) -> Capacity;
}

/// Does what waits for a disk beside the runtime.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BackEndError> + Send + 'static,
) -> Result<T, BackEndError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}
