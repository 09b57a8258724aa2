//! Taking an image's bytes: `queued` to `saving` to `active`, or back.
//!
//! The bytes are checked and durable before the image says that it has them. Whatever goes wrong on the way, the image is
//! `queued` again and its bytes are gone; after a crash [`Library::open`] sees to that.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use futures_util::Stream;
use http::StatusCode;
use madang_http::Failure;
use madang_identity::Caller;
use madang_store::{Cause, ErrorKind, Key, Resource};
use tokio::sync::oneshot;
use tokio_util::io::ReaderStream;

use super::{Content, Image, ImageSpec, ImageState, quota, rules::find_for};
use crate::{
    blobs::{BlobError, Incoming, ReceiveError},
    format,
    library::Library,
};

/// How much of a file is read at a time. Larger pieces gain nothing on a local disk.
const FILE_BYTES: usize = 512 << 10;

/// Takes an image's bytes. The image is `saving` meanwhile, and `queued` again when they are not taken: also when
/// whoever waits for this goes away, since the work is a task of the library's.
///
/// # Errors
/// Not found, forbidden; conflict when it has bytes already; invalid while its formats are not set; 413 when they are
/// too many; 415 when they are not what was declared.
pub async fn upload<S, E>(
    library: &Arc<Library>,
    caller: &Caller,
    id: &str,
    promised: Option<u64>,
    body: S,
) -> Result<(), Failure>
where
    S: Stream<Item = Result<Bytes, E>> + Send + 'static,
    E: std::fmt::Display + Send + 'static,
{
    take(library, caller, id, promised, Purpose::Use, body).await
}

/// Takes bytes that an import is to make an image's. The image is `uploading` from then on.
///
/// # Errors
/// As [`upload`].
pub(crate) async fn stage<S, E>(library: &Arc<Library>, caller: &Caller, id: &str, body: S) -> Result<(), Failure>
where
    S: Stream<Item = Result<Bytes, E>> + Send + 'static,
    E: std::fmt::Display + Send + 'static,
{
    take(library, caller, id, None, Purpose::Stage, body).await
}

async fn take<S, E>(
    library: &Arc<Library>,
    caller: &Caller,
    id: &str,
    promised: Option<u64>,
    purpose: Purpose,
    body: S,
) -> Result<(), Failure>
where
    S: Stream<Item = Result<Bytes, E>> + Send + 'static,
    E: std::fmt::Display + Send + 'static,
{
    let image = find_for(library, caller, "upload_image", id)?;
    let (done, outcome) = oneshot::channel();
    let upload = Upload {
        library: Arc::clone(library),
        cause: caller.cause(),
        key: image.key(),
        promised,
        purpose,
    };
    library.uploads.spawn(format!("upload of {id}"), async move {
        // Nobody waits any more when the client is gone.
        let _ = done.send(upload.run(body).await);
    });
    let outcome = outcome.await;
    outcome.unwrap_or_else(|_| Err(Failure::unavailable("madang is stopping: upload the image again")))
}

/// Takes a file of this host as an image's bytes, as [`upload`] takes a body.
///
/// # Errors
/// As [`upload`].
pub(crate) async fn take_file(library: &Arc<Library>, key: Key, cause: Cause, path: &Path) -> Result<(), Failure> {
    let opened = tokio::fs::File::open(path).await;
    let file = opened.map_err(|error| Failure::unavailable(format!("could not read {}: {error}", path.display())))?;
    let upload = Upload {
        library: Arc::clone(library),
        cause,
        key,
        promised: None,
        purpose: Purpose::Use,
    };
    upload.run(ReaderStream::with_capacity(file, FILE_BYTES)).await
}

/// What bytes that come are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To be the image's.
    Use,
    /// To be imported later.
    Stage,
    /// To be the image's, which is `importing` already.
    Import,
}

impl Purpose {
    /// What an image is meanwhile.
    fn state(self) -> ImageState {
        match self {
            Self::Use => ImageState::Saving,
            Self::Stage => ImageState::Uploading,
            Self::Import => ImageState::Importing,
        }
    }
}

/// An upload under way.
pub(crate) struct Upload {
    pub(crate) library: Arc<Library>,
    pub(crate) cause: Cause,
    pub(crate) key: Key,
    /// How many bytes the client said there are.
    pub(crate) promised: Option<u64>,
    pub(crate) purpose: Purpose,
}

impl Upload {
    /// Takes a body to its end.
    ///
    /// # Errors
    /// As [`upload`].
    pub(crate) async fn run<S, E>(&self, body: S) -> Result<(), Failure>
    where
        S: Stream<Item = Result<Bytes, E>>,
        E: std::fmt::Display,
    {
        let spec = self.begin().await?;
        let outcome = match self.receive(body).await {
            Ok(incoming) => self.finish(&spec, incoming).await,
            Err(failure) => Err(failure),
        };
        if outcome.is_err() {
            self.take_back().await;
        }
        outcome
    }

    async fn begin(&self) -> Result<ImageSpec, Failure> {
        let (purpose, busy) = (self.purpose, self.purpose.state());
        let begun = self.change(|image| {
            let state = image.status.state;
            if state != ImageState::Queued && !(purpose == Purpose::Import && state == busy) {
                return Err(Failure::conflict(format!(
                    "Image status transition from {state} to {busy} is not allowed"
                )));
            }
            let has_formats = image.spec.disk_format.is_some() && image.spec.container_format.is_some();
            if !has_formats && purpose != Purpose::Stage {
                return Err(formats_missing());
            }
            image.status.state = busy;
            Ok(())
        });
        Ok(begun.await?.spec.clone())
    }

    async fn receive<S, E>(&self, body: S) -> Result<Incoming, Failure>
    where
        S: Stream<Item = Result<Bytes, E>>,
        E: std::fmt::Display,
    {
        let most = self.library.max_bytes.min(self.promised.unwrap_or(u64::MAX));
        let most = match quota::room(&self.library.store, &self.key.project) {
            // Refused here rather than after all bytes have come.
            Some(room) => most.min(room.saturating_mul(quota::MIB)),
            None => most,
        };
        let stop = self.library.uploads.token();
        let received = tokio::select! {
            received = self.library.blobs.receive(body, most) => received,
            () = stop.cancelled() => return Err(Failure::unavailable("madang is stopping: upload the image again")),
        };
        let incoming = received.map_err(|error| refused(&error, self.promised))?;
        match self.promised {
            Some(promised) if promised != incoming.size => Err(Failure::invalid(format!(
                "there are {} bytes of image data, not the promised {promised}",
                incoming.size
            ))),
            _ => Ok(incoming),
        }
    }

    async fn finish(&self, spec: &ImageSpec, incoming: Incoming) -> Result<(), Failure> {
        let staged = Content {
            size: incoming.size,
            virtual_size: None,
            md5: incoming.md5.clone(),
            sha512: incoming.sha512.clone(),
        };
        let is_staging = self.purpose == Purpose::Stage;
        let content = match is_staging {
            true => staged,
            false => content_of_head(spec, &incoming.head, &staged)?,
        };
        let blobs = &self.library.blobs;
        let pin = blobs.keep(incoming).await.map_err(|error| storage_failed(&error))?;
        let stored = self.change(|image| {
            if is_staging {
                image.status.staged = Some(content.clone());
                return Ok(());
            }
            image.status.state = ImageState::Active;
            image.status.content = Some(content.clone());
            Ok(())
        });
        let stored = stored.await;
        drop(pin);
        let Err(failure) = stored else { return Ok(()) };
        if let Err(error) = blobs.remove_unnamed(&self.library.store, &content.sha512).await {
            tracing::warn!(key = %self.key, %error, "could not remove the bytes of an upload that failed");
        }
        Err(match failure.kind {
            ErrorKind::NotFound => Failure::not_found(format!(
                "Image {} could not be found after upload. The image may have been deleted during the upload.",
                self.key.name
            ))
            .with_status(StatusCode::GONE),
            _ => failure,
        })
    }

    async fn take_back(&self) {
        let undone = self.change(|image| {
            if image.status.state == self.purpose.state() {
                image.status.state = ImageState::Queued;
            }
            Ok(())
        });
        match undone.await {
            Ok(_) => {}
            // Deleted meanwhile: nothing is left to undo.
            Err(failure) if failure.kind == ErrorKind::NotFound => {}
            Err(failure) => tracing::warn!(key = %self.key, %failure, "could not take back an upload"),
        }
    }

    async fn change(
        &self,
        change: impl Fn(&mut Resource<Image>) -> Result<(), Failure>,
    ) -> Result<Arc<Resource<Image>>, Failure> {
        self.library.store.modify(&self.key, self.cause.clone(), change).await
    }
}

fn formats_missing() -> Failure {
    Failure::invalid("Properties disk_format, container_format must be set prior to saving data.")
}

/// What is known of bytes that have come.
///
/// # Errors
/// 415 when they are not what was declared.
pub(crate) fn content_of_head(spec: &ImageSpec, head: &[u8], known: &Content) -> Result<Content, Failure> {
    let (Some(container), Some(disk)) = (spec.container_format, spec.disk_format) else {
        return Err(formats_missing());
    };
    let virtual_size = format::inspect(container, disk, head, known.size).map_err(|error| {
        Failure::invalid(error.to_string())
            .with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE)
            .at("disk_format")
    })?;
    Ok(Content {
        virtual_size,
        ..known.clone()
    })
}

fn refused<E: std::fmt::Display>(error: &ReceiveError<E>, promised: Option<u64>) -> Failure {
    match error {
        ReceiveError::TooLarge { limit } if promised == Some(*limit) => {
            Failure::invalid(format!("there are more bytes than the promised {limit}"))
        }
        ReceiveError::TooLarge { limit } => Failure::exhausted(format!(
            "Image exceeds the storage quota: it is larger than {limit} bytes"
        )),
        ReceiveError::Body(error) => Failure::invalid(format!("the image data broke off: {error}")),
        ReceiveError::Blob(error) => storage_failed(error),
    }
}

fn storage_failed(error: &BlobError) -> Failure {
    match error {
        BlobError::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => Failure::exhausted(
            "Image storage media is full: there is not enough disk space on the image storage media.",
        ),
        BlobError::Io { source, .. } => Failure::unavailable(format!("image storage failed: {error}: {source}")),
        BlobError::Damaged { .. } => Failure::unavailable(error.to_string()),
    }
}
