//! Files of this host as the bytes of images: what the compute agent makes of a server's root.
//!
//! The image is there before, queued; who may make it was asked then. Nothing of the bytes passes through the store.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use madang_store::Cause;
use uuid::Uuid;

use crate::{
    image::{Image, ImageState, upload},
    library::Library,
};

/// Takes files as the bytes of images.
#[async_trait]
pub trait Intake: Send + Sync {
    /// Where a file that is to be taken can be written; nothing is there yet.
    fn scratch(&self) -> PathBuf;

    /// Takes a file as the bytes of a queued image; the file is gone afterwards, whatever came of it. Taking a file for
    /// an image that has bytes already changes nothing.
    ///
    /// # Errors
    /// See [`IntakeError`].
    async fn take(&self, image_id: &str, path: &Path) -> Result<(), IntakeError>;
}

/// Why a file was not taken.
#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    /// Somebody deleted the image meanwhile.
    #[error("image {0} was deleted meanwhile")]
    Gone(String),
    /// The bytes cannot be stored, or are not what the image says they are.
    #[error("image {id} does not take the data: {reason}")]
    Refused {
        /// The image.
        id: String,
        /// Why.
        reason: String,
    },
}

/// The intake on the machine that keeps the blobs.
pub struct LocalIntake(Arc<Library>);

impl LocalIntake {
    /// Into a library.
    pub fn new(library: Arc<Library>) -> Self {
        Self(library)
    }

    async fn take_file(&self, image_id: &str, path: &Path) -> Result<(), IntakeError> {
        let gone = || IntakeError::Gone(image_id.to_owned());
        let image = self.0.store.cache::<Image>().by_name(image_id).ok_or_else(gone)?;
        if image.status.state == ImageState::Active {
            return Ok(());
        }
        let taken = upload::take_file(&self.0, image.key(), Cause::system("compute"), path).await;
        taken.map_err(|failure| match self.0.store.cache::<Image>().by_name(image_id) {
            None => gone(),
            Some(_) => IntakeError::Refused {
                id: image_id.to_owned(),
                reason: failure.message,
            },
        })
    }
}

#[async_trait]
impl Intake for LocalIntake {
    fn scratch(&self) -> PathBuf {
        self.0.blobs.incoming().join(Uuid::new_v4().to_string())
    }

    async fn take(&self, image_id: &str, path: &Path) -> Result<(), IntakeError> {
        let taken = self.take_file(image_id, path).await;
        match tokio::fs::remove_file(path).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), %error, "could not remove a file that was taken");
            }
            _ => {}
        }
        taken
    }
}
