//! The handle that all of images works with: the store, the blobs, and the uploads under way.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use futures_util::Stream;
use madang_control::TaskGroup;
use madang_http::Failure;
use madang_store::{Cause, Store, StoreError};
use tokio::{fs::File, io};
use tokio_util::io::ReaderStream;

use crate::{
    blobs::{BlobError, Blobs},
    image::{Content, Image, ImageState, quota},
    task,
};

/// The largest image, 1 TiB: Glance's `image_size_cap`.
pub const MAX_IMAGE_BYTES: u64 = 1 << 40;

/// How much of a file is read at a time when it is sent. Larger pieces gain nothing on a local disk.
const READ_BYTES: usize = 512 << 10;

/// Images and their bytes.
pub struct Library {
    pub(crate) store: Store,
    pub(crate) blobs: Arc<Blobs>,
    /// Uploads belong to nobody's request: when a client goes away, they still have to clean up.
    pub(crate) uploads: TaskGroup,
    pub(crate) max_bytes: u64,
    /// Hosts that images may be downloaded from although they are not of the open Internet.
    trusted: OnceLock<BTreeSet<String>>,
}

/// Why the library cannot open.
#[derive(Debug, thiserror::Error)]
pub enum LibraryError {
    /// The bytes cannot be used.
    #[error("could not open the images' bytes")]
    Blob(#[from] BlobError),
    /// The store refuses.
    #[error("could not take back what a crash left half way")]
    Store(#[from] StoreError),
}

/// Removes the bytes of images that go, whoever deleted them: an owner's end, a rotation of backups.
fn follow_ends(store: &Store, blobs: &Arc<Blobs>, tasks: &TaskGroup) {
    let (blobs, tasks, named) = (Arc::clone(blobs), tasks.clone(), store.clone());
    store.cache::<Image>().on_change(move |change| {
        let gone = change.old.as_ref().filter(|_| change.new.is_none());
        let contents = gone.map(|image| {
            image
                .status
                .content
                .clone()
                .into_iter()
                .chain(image.status.staged.clone())
        });
        for content in contents.into_iter().flatten() {
            let (blobs, store) = (Arc::clone(&blobs), named.clone());
            tasks.spawn_until_stopped(format!("end of blob {}", content.sha512), async move {
                if let Err(error) = blobs.remove_unnamed(&store, &content.sha512).await {
                    // Swept at the next start.
                    tracing::warn!(digest = content.sha512, %error, "could not remove the bytes of a deleted image");
                }
            });
        }
    });
}

impl Library {
    /// Opens the library over a store that [`crate::register`] took part in, with its bytes below `directory`
    /// (`DIR/images`). Takes back what a crash left half way: uploads that broke off are `queued` again, bytes that
    /// nobody names go. Counts what is not counted.
    ///
    /// # Errors
    /// When the directory or the store cannot be used.
    pub async fn open(store: Store, directory: &Path, tasks: &TaskGroup) -> Result<Arc<Self>, LibraryError> {
        let directory = directory.to_owned();
        let blobs = tokio::task::spawn_blocking(move || Blobs::open(&directory)).await;
        let blobs = Arc::new(blobs.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?);
        let busy = [ImageState::Saving, ImageState::Uploading, ImageState::Importing];
        let busy = busy.map(|state| store.cache::<Image>().by("state", state.as_str()));
        for image in busy.into_iter().flatten() {
            let key = image.key();
            let reset = store.modify::<Image, StoreError>(&key, Cause::system("image"), |image| {
                image.status.state = match image.status.staged {
                    Some(_) => ImageState::Uploading,
                    None => ImageState::Queued,
                };
                Ok(())
            });
            reset.await?;
        }
        task::end_interrupted(&store).await?;
        blobs.sweep(&store).await?;
        quota::recount(&store).await?;
        let uploads = tasks.child("image uploads");
        follow_ends(&store, &blobs, &uploads);
        Ok(Arc::new(Self {
            store,
            blobs,
            uploads,
            max_bytes: MAX_IMAGE_BYTES,
            trusted: OnceLock::new(),
        }))
    }

    /// Lets users download images from these hosts although they are not of the open Internet. Counts the first time.
    pub fn trust(&self, hosts: impl IntoIterator<Item = String>) {
        self.trusted.get_or_init(|| hosts.into_iter().collect());
    }

    pub(crate) fn trusts(&self, host: &str) -> bool {
        self.trusted.get().is_some_and(|trusted| trusted.contains(host))
    }

    /// The blobs, for a [`crate::LocalCache`].
    pub fn blobs(&self) -> &Arc<Blobs> {
        &self.blobs
    }

    /// An image's bytes from `begin` on, `length` of them.
    ///
    /// # Errors
    /// Unavailable when the file cannot be opened.
    pub async fn read(
        &self,
        content: &Content,
        begin: u64,
        length: u64,
    ) -> Result<impl Stream<Item = io::Result<Bytes>> + use<>, Failure> {
        use tokio::io::{AsyncReadExt, AsyncSeekExt};
        let path = self.blobs.path(&content.sha512);
        let gone = |error: io::Error| Failure::unavailable(format!("the image's data cannot be read: {error}"));
        let mut file = File::open(&path).await.map_err(gone)?;
        file.set_max_buf_size(READ_BYTES);
        if begin > 0 {
            file.seek(io::SeekFrom::Start(begin)).await.map_err(gone)?;
        }
        Ok(ReaderStream::with_capacity(file.take(length), READ_BYTES))
    }
}
