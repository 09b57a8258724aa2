//! The bytes of images on this machine's disk, each blob under the SHA-512 of its content.
//!
//! ```text
//! DIR/images/incoming/<uuid>   bytes on their way in; swept when madang starts
//! DIR/images/blobs/<sha512>    complete, synced, never written to again
//! DIR/images/cache/<sha512>    hard links that servers stand on
//! ```
//! A blob is durable before any image names it, and goes only when no image names it and nobody is about to: an upload
//! pins its blob from the moment the file has its name until the image that names it is committed.

mod receive;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use madang_store::Store;
use parking_lot::Mutex;
use sha2::{Digest, Sha512};
use tokio::sync::Semaphore;

pub(crate) use receive::hex;
pub use receive::{Incoming, ReceiveError};

use crate::image::Image;

/// How much of a file is read at a time when it is checked. Past a few hundred KiB a larger piece gains nothing.
const CHECK_BYTES: usize = 1 << 20;

/// The blobs below one directory.
pub struct Blobs {
    root: PathBuf,
    cache: PathBuf,
    state: Mutex<State>,
    /// One check at a time: several servers that start from one unchecked image wait for the same answer.
    checking: Semaphore,
}

#[derive(Default)]
struct State {
    /// How many uploads are about to name a digest.
    pins: HashMap<String, usize>,
    /// The digests whose bytes this process has seen and found right.
    verified: HashSet<String>,
}

/// What can go wrong with a blob.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The operating system refused.
    #[error("could not {action} {path}")]
    Io {
        /// A verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// The bytes on disk are not those that were stored: the disk or somebody changed them.
    #[error("blob {digest} is damaged on disk: upload the image again")]
    Damaged {
        /// Its name.
        digest: String,
    },
}

impl BlobError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

/// Keeps a blob from being removed while the image that will name it is written.
pub struct Pin {
    blobs: Arc<Blobs>,
    digest: String,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut state = self.blobs.state.lock();
        if let Some(count) = state.pins.get_mut(&self.digest) {
            *count -= 1;
            if *count == 0 {
                state.pins.remove(&self.digest);
            }
        }
    }
}

impl Blobs {
    /// The blobs below `root` (`DIR/images`); makes its directories and removes what an earlier process left half way.
    ///
    /// # Errors
    /// When the directories cannot be made or read.
    pub fn open(root: &Path) -> Result<Self, BlobError> {
        let incoming = root.join("incoming");
        for directory in [&incoming, &root.join("blobs"), &root.join("cache")] {
            fs::create_dir_all(directory).map_err(BlobError::io("make", directory))?;
        }
        for path in files_in(&incoming)? {
            fs::remove_file(&path).map_err(BlobError::io("remove", &path))?;
        }
        Ok(Self {
            root: root.to_owned(),
            cache: root.join("cache"),
            state: Mutex::default(),
            checking: Semaphore::new(1),
        })
    }

    /// Where [`Blobs::link`] puts files.
    pub fn cache_directory(&self) -> &Path {
        &self.cache
    }

    /// Where bytes on their way in are; swept when madang starts.
    pub(crate) fn incoming(&self) -> PathBuf {
        self.root.join("incoming")
    }

    /// Where a blob is, if it is here.
    pub fn path(&self, digest: &str) -> PathBuf {
        self.root.join("blobs").join(digest)
    }

    /// Gives what was received its name, durably. The pin is dropped once the image that names it is committed.
    ///
    /// # Errors
    /// When the file cannot be synced or renamed.
    pub async fn keep(self: &Arc<Self>, incoming: Incoming) -> Result<Pin, BlobError> {
        let blobs = Arc::clone(self);
        let digest = incoming.sha512.clone();
        let pin = self.pin(&digest);
        blocking(move || {
            let path = blobs.path(&digest);
            // Also over an older file of that name: it has the same content, unless it was damaged.
            incoming.persist(&path)?;
            sync_directory(&blobs.root.join("blobs"))?;
            blobs.state.lock().verified.insert(digest);
            Ok(pin)
        })
        .await
    }

    fn pin(self: &Arc<Self>, digest: &str) -> Pin {
        *self.state.lock().pins.entry(digest.to_owned()).or_insert(0) += 1;
        Pin {
            blobs: Arc::clone(self),
            digest: digest.to_owned(),
        }
    }

    /// Removes a blob that no image names any more; does nothing while one does, or is about to.
    ///
    /// # Errors
    /// When the file is there and cannot be removed.
    pub async fn remove_unnamed(self: &Arc<Self>, store: &Store, digest: &str) -> Result<(), BlobError> {
        let (blobs, store, digest) = (Arc::clone(self), store.clone(), digest.to_owned());
        blocking(move || blobs.remove_unless_named(&store, &digest)).await
    }

    fn remove_unless_named(&self, store: &Store, digest: &str) -> Result<(), BlobError> {
        // Pins are taken under this lock, so nobody begins to name the blob between the question and the removal.
        let mut state = self.state.lock();
        if state.pins.contains_key(digest) || store.cache::<Image>().count_by("digest", digest) > 0 {
            return Ok(());
        }
        state.verified.remove(digest);
        let path = self.path(digest);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(BlobError::io("remove", &path)(error)),
            _ => Ok(()),
        }
    }

    /// Removes every blob that no image names: what a crash between an upload and its commit left.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub async fn sweep(self: &Arc<Self>, store: &Store) -> Result<(), BlobError> {
        let (blobs, store) = (Arc::clone(self), store.clone());
        blocking(move || {
            for path in files_in(&blobs.root.join("blobs"))? {
                if let Some(digest) = path.file_name().and_then(|name| name.to_str()) {
                    blobs.remove_unless_named(&store, digest)?;
                }
            }
            Ok(())
        })
        .await
    }

    /// A hard link to a blob in the cache directory, its content checked once per process.
    ///
    /// # Errors
    /// `Damaged` when the bytes are not those of the digest; `Io` when the blob is missing.
    pub async fn link(self: &Arc<Self>, digest: &str, size: u64) -> Result<PathBuf, BlobError> {
        let path = self.cache.join(digest);
        if self.state.lock().verified.contains(digest) && path.exists() {
            return Ok(path);
        }
        let _turn = self.checking.acquire().await.expect("the semaphore is never closed");
        let (blobs, digest, link) = (Arc::clone(self), digest.to_owned(), path.clone());
        blocking(move || {
            let source = if link.exists() {
                link.clone()
            } else {
                blobs.path(&digest)
            };
            if !blobs.state.lock().verified.contains(&digest) {
                check(&source, &digest, size)?;
                blobs.state.lock().verified.insert(digest);
            }
            match fs::hard_link(&source, &link) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    Err(BlobError::io("link", &source)(error))
                }
                _ => Ok(()),
            }
        })
        .await?;
        Ok(path)
    }

    /// Removes all links in the cache directory but those of `digests`.
    ///
    /// # Errors
    /// When the directory cannot be read or a link not be removed.
    pub async fn unlink_all_but(&self, digests: &BTreeSet<String>) -> Result<(), BlobError> {
        let (cache, digests) = (self.cache.clone(), digests.clone());
        blocking(move || {
            for path in files_in(&cache)? {
                let is_wanted = path
                    .file_name()
                    .and_then(|name| name.to_str())
                    .is_some_and(|n| digests.contains(n));
                if !is_wanted {
                    fs::remove_file(&path).map_err(BlobError::io("remove", &path))?;
                }
            }
            Ok(())
        })
        .await
    }
}

/// Reads a file whole and compares it with its digest.
fn check(path: &Path, digest: &str, size: u64) -> Result<(), BlobError> {
    let mut file = fs::File::open(path).map_err(BlobError::io("open", path))?;
    let mut hash = Sha512::new();
    let mut buffer = vec![0; CHECK_BYTES];
    let mut seen = 0;
    loop {
        let read = io::Read::read(&mut file, &mut buffer).map_err(BlobError::io("read", path))?;
        if read == 0 {
            break;
        }
        hash.update(&buffer[..read]);
        seen += read as u64;
    }
    if seen == size && hex(&hash.finalize()) == digest {
        Ok(())
    } else {
        Err(BlobError::Damaged {
            digest: digest.to_owned(),
        })
    }
}

fn files_in(directory: &Path) -> Result<Vec<PathBuf>, BlobError> {
    let entries = fs::read_dir(directory).map_err(BlobError::io("read", directory))?;
    entries
        .map(|entry| entry.map(|e| e.path()).map_err(BlobError::io("read", directory)))
        .collect()
}

/// Makes a rename in `directory` survive a power loss.
fn sync_directory(directory: &Path) -> Result<(), BlobError> {
    let synced = fs::File::open(directory).and_then(|opened| opened.sync_all());
    synced.map_err(BlobError::io("sync", directory))
}

/// Runs file work where it may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BlobError> + Send + 'static,
) -> Result<T, BlobError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use madang_store::{Cause, Metadata, Resource, Sqlite, SqliteOptions, StoreBuilder};

    use super::*;
    use crate::image::{Content, ImageSpec};

    async fn received(blobs: &Arc<Blobs>, chunks: &[&[u8]]) -> Incoming {
        let chunks: Vec<_> = chunks
            .iter()
            .map(|c| Ok::<_, io::Error>(Bytes::copy_from_slice(c)))
            .collect();
        blobs
            .receive(futures_util::stream::iter(chunks), 1 << 30)
            .await
            .unwrap()
    }

    async fn store(directory: &Path) -> Store {
        let mut builder = StoreBuilder::new();
        builder.kind::<Image>();
        let backend = Sqlite::open(SqliteOptions::new(directory.join("store.db")))
            .await
            .unwrap();
        builder.open(Arc::new(backend)).await.unwrap()
    }

    fn image_of(digest: &str) -> Resource<Image> {
        let mut image = Resource::<Image>::new(Metadata::with_id("p"), ImageSpec::default());
        let sha512 = digest.to_owned();
        image.status.content = Some(Content {
            size: 3,
            virtual_size: None,
            md5: String::new(),
            sha512,
        });
        image
    }

    #[tokio::test]
    async fn digests_are_those_of_the_standard() {
        let directory = tempfile::tempdir().unwrap();
        let blobs = Arc::new(Blobs::open(directory.path()).unwrap());
        let incoming = received(&blobs, &[b"a", b"", b"bc"]).await;
        assert_eq!(
            (incoming.size, incoming.md5.as_str()),
            (3, "900150983cd24fb0d6963f7d28e17f72")
        );
        assert!(incoming.sha512.starts_with("ddaf35a193617abacc417349ae204131"));
        let digest = incoming.sha512.clone();
        let _pin = blobs.keep(incoming).await.unwrap();
        assert_eq!(fs::read(blobs.path(&digest)).unwrap(), b"abc");
    }

    #[tokio::test]
    async fn a_blob_stays_while_named_or_pinned() {
        let directory = tempfile::tempdir().unwrap();
        let store = store(directory.path()).await;
        let blobs = Arc::new(Blobs::open(&directory.path().join("images")).unwrap());
        let incoming = received(&blobs, &[b"abc"]).await;
        let digest = incoming.sha512.clone();
        let pin = blobs.keep(incoming).await.unwrap();
        blobs.remove_unnamed(&store, &digest).await.unwrap();
        assert!(blobs.path(&digest).exists(), "pinned");

        let mut tx = store.begin(Cause::system("test"));
        let image = tx.create(image_of(&digest)).unwrap();
        tx.commit().await.unwrap();
        drop(pin);
        blobs.sweep(&store).await.unwrap();
        assert!(blobs.path(&digest).exists(), "named");

        let mut tx = store.begin(Cause::system("test"));
        tx.delete(&*store.get::<Image>(&image.key()).unwrap()).unwrap();
        tx.commit().await.unwrap();
        blobs.sweep(&store).await.unwrap();
        assert!(!blobs.path(&digest).exists(), "neither");
    }

    #[tokio::test]
    async fn a_link_outlives_the_blob_until_it_is_let_go() {
        let directory = tempfile::tempdir().unwrap();
        let store = store(directory.path()).await;
        let blobs = Arc::new(Blobs::open(&directory.path().join("images")).unwrap());
        let incoming = received(&blobs, &[b"abc"]).await;
        let digest = incoming.sha512.clone();
        drop(blobs.keep(incoming).await.unwrap());
        let link = blobs.link(&digest, 3).await.unwrap();
        blobs.sweep(&store).await.unwrap();
        assert_eq!(fs::read(&link).unwrap(), b"abc");
        assert_eq!(blobs.link(&digest, 3).await.unwrap(), link);
        blobs.unlink_all_but(&BTreeSet::from([digest.clone()])).await.unwrap();
        assert!(link.exists());
        blobs.unlink_all_but(&BTreeSet::new()).await.unwrap();
        assert!(!link.exists());
    }

    #[tokio::test]
    async fn a_damaged_blob_is_noticed_after_a_restart_and_healed_by_an_upload() {
        let directory = tempfile::tempdir().unwrap();
        let blobs = Arc::new(Blobs::open(directory.path()).unwrap());
        let incoming = received(&blobs, &[b"abc"]).await;
        let digest = incoming.sha512.clone();
        drop(blobs.keep(incoming).await.unwrap());
        fs::remove_file(blobs.path(&digest)).unwrap();
        fs::write(blobs.path(&digest), b"abd").unwrap();

        let blobs = Arc::new(Blobs::open(directory.path()).unwrap());
        assert!(matches!(blobs.link(&digest, 3).await, Err(BlobError::Damaged { .. })));
        let again = received(&blobs, &[b"abc"]).await;
        drop(blobs.keep(again).await.unwrap());
        assert!(blobs.link(&digest, 3).await.is_ok());
    }

    #[tokio::test]
    async fn what_is_too_long_or_breaks_off_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let blobs = Arc::new(Blobs::open(directory.path()).unwrap());
        let chunk = || Ok::<_, io::Error>(Bytes::from_static(b"abc"));
        let long = blobs.receive(futures_util::stream::iter([chunk(), chunk()]), 5).await;
        assert!(matches!(long, Err(ReceiveError::TooLarge { limit: 5 })));
        let broken = futures_util::stream::iter([chunk(), Err(io::Error::other("gone"))]);
        assert!(matches!(blobs.receive(broken, 5).await, Err(ReceiveError::Body(_))));
        assert_eq!(
            files_in(&directory.path().join("incoming")).unwrap(),
            Vec::<PathBuf>::new()
        );
    }
}
