//! Image bytes as a local file, for whoever starts something from them.
//!
//! The compute and container agents call [`Cache::fetch`] for every server. On the machine that keeps the blobs the file
//! is a hard link to the blob; on another host it will be a copy. Either way it stays until [`Cache::retain`] lets it
//! go, so a server's backing file survives the deletion of its image.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use madang_store::{ErrorKind, Store};

use crate::{
    blobs::{BlobError, Blobs},
    image::{ContainerFormat, DiskFormat, Image, ImageState},
};

/// An image's bytes on this host. The file is never written to, and is readable by every user who is told its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedImage {
    /// Where they are.
    pub path: PathBuf,
    /// What they are.
    pub disk_format: DiskFormat,
    /// What they are wrapped in.
    pub container_format: ContainerFormat,
    /// How many there are.
    pub size: u64,
    /// The size of the disk that a guest sees, in bytes; none for what is not a disk.
    pub virtual_size: Option<u64>,
    /// SHA-512 in hex; the same bytes have the same digest, whichever image they came by.
    pub digest: String,
}

/// Why an image's bytes cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// There is no such image.
    #[error("image {0} does not exist")]
    NotFound(String),
    /// It has no bytes that may be used now.
    #[error("image {id} is {state}, not active")]
    NotActive {
        /// The image.
        id: String,
        /// Its state.
        state: ImageState,
    },
    /// The bytes are missing or not what they were.
    #[error("image {id} cannot be read")]
    Blob {
        /// The image.
        id: String,
        /// What is wrong.
        source: BlobError,
    },
}

impl CacheError {
    /// Its place in the one list.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound(_) => ErrorKind::NotFound,
            Self::NotActive { .. } => ErrorKind::Conflict,
            Self::Blob { .. } => ErrorKind::Unavailable,
        }
    }
}

/// Gives image bytes as local files.
#[async_trait]
pub trait Cache: Send + Sync {
    /// The bytes of an active image, checked against their digest the first time they are used by this process.
    /// Fetching an image that is here already is quick and does not touch its bytes.
    ///
    /// # Errors
    /// See [`CacheError`].
    async fn fetch(&self, image_id: &str) -> Result<CachedImage, CacheError>;

    /// The bytes of a digest, whether an image names them still or not, checked as by [`Cache::fetch`].
    ///
    /// # Errors
    /// When they are not here any more, or not what they were.
    async fn held(&self, digest: &str, size: u64) -> Result<PathBuf, BlobError>;

    /// Lets go of all files but those with these digests. Call it with the digests that servers still stand on.
    ///
    /// # Errors
    /// When the directory cannot be read.
    async fn retain(&self, digests: &BTreeSet<String>) -> Result<(), BlobError>;
}

/// The cache on the machine that keeps the blobs: hard links.
pub struct LocalCache {
    store: Store,
    blobs: Arc<Blobs>,
}

impl LocalCache {
    /// A cache beside the blobs.
    pub fn new(store: Store, blobs: Arc<Blobs>) -> Self {
        Self { store, blobs }
    }

    /// Where the files are.
    pub fn directory(&self) -> &Path {
        self.blobs.cache_directory()
    }
}

#[async_trait]
impl Cache for LocalCache {
    async fn fetch(&self, image_id: &str) -> Result<CachedImage, CacheError> {
        let image = self.store.cache::<Image>().by_name(image_id);
        let image = image.ok_or_else(|| CacheError::NotFound(image_id.to_owned()))?;
        let state = image.status.state;
        let spec = &image.spec;
        let (ImageState::Active, Some(content), Some(disk_format), Some(container_format)) =
            (state, &image.status.content, spec.disk_format, spec.container_format)
        else {
            return Err(CacheError::NotActive {
                id: image_id.to_owned(),
                state,
            });
        };
        let linked = self.blobs.link(&content.sha512, content.size).await;
        let path = linked.map_err(|source| CacheError::Blob {
            id: image_id.to_owned(),
            source,
        })?;
        Ok(CachedImage {
            path,
            disk_format,
            container_format,
            size: content.size,
            virtual_size: content.virtual_size,
            digest: content.sha512.clone(),
        })
    }

    async fn held(&self, digest: &str, size: u64) -> Result<PathBuf, BlobError> {
        self.blobs.link(digest, size).await
    }

    async fn retain(&self, digests: &BTreeSet<String>) -> Result<(), BlobError> {
        self.blobs.unlink_all_but(digests).await
    }
}
