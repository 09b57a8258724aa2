//! Bytes on their way in: written and hashed at the same time, each on its own thread, a few megabytes at most in flight.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use md5::Md5;
use sha2::{Digest, Sha512};
use tokio::{sync::mpsc, task::JoinHandle};
use uuid::Uuid;

use super::{BlobError, Blobs};

/// How many bytes are handed to the threads at a time. Bodies come in frames of some 16 KiB; waking three threads for
/// each would cost more than the hashing.
const BATCH_BYTES: usize = 1 << 20;
/// How many batches may wait for a thread; with the batch in each thread's hands this bounds the memory of an upload.
const BATCHES_WAITING: usize = 4;
/// How much of the front is kept for telling formats apart: an ISO says what it is at 32 KiB, all others earlier.
const HEAD_BYTES: usize = 64 << 10;

type Batch = Arc<[Bytes]>;

/// Bytes that are here but have no name yet; dropped, they are gone.
pub struct Incoming {
    path: Option<PathBuf>,
    file: Option<File>,
    /// How many there are.
    pub size: u64,
    /// MD5 in hex.
    pub md5: String,
    /// SHA-512 in hex.
    pub sha512: String,
    /// The first 64 KiB, or all there is.
    pub head: Vec<u8>,
}

/// Why bytes were not taken.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError<E> {
    /// There were more than allowed.
    #[error("the data is larger than {limit} bytes")]
    TooLarge {
        /// The most that are taken.
        limit: u64,
    },
    /// The sender broke off.
    #[error("the data broke off")]
    Body(#[source] E),
    /// They could not be written.
    #[error(transparent)]
    Blob(#[from] BlobError),
}

impl Incoming {
    /// Syncs the bytes and gives them their name.
    pub(super) fn persist(mut self, path: &Path) -> Result<(), BlobError> {
        let from = self.path.take().expect("only this takes it");
        let file = self.file.take().expect("only this takes it");
        let done = file.sync_all().and_then(|()| fs::rename(&from, path));
        done.map_err(|error| {
            self.path = Some(from); // removed on drop
            BlobError::io("store", path)(error)
        })
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if let Some(path) = self.path.take() {
            remove(&path);
        }
    }
}

/// Removes a file on a best effort: what stays is swept at the next start.
fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "could not remove an unfinished upload");
    }
}

/// A file that is removed unless it becomes an [`Incoming`], also when the upload is cancelled. Whoever writes it holds
/// this: nobody else knows whether it is there yet.
struct Unfinished(Option<PathBuf>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(path) = self.0.take() {
            remove(&path);
        }
    }
}

impl Blobs {
    /// Takes a body to its end. Cancelling it leaves nothing behind.
    ///
    /// # Errors
    /// `TooLarge` as soon as more than `limit` bytes have come; `Body` when the sender breaks off; `Blob` when the disk
    /// is full or fails.
    pub async fn receive<S, E>(&self, body: S, limit: u64) -> Result<Incoming, ReceiveError<E>>
    where
        S: Stream<Item = Result<Bytes, E>>,
    {
        let path = self.root.join("incoming").join(Uuid::new_v4().to_string());
        let (to_file, file) = worker({
            let path = path.clone();
            let unfinished = Unfinished(Some(path.clone()));
            move |batches| write(&path, batches).map(|file| (file, unfinished))
        });
        let (to_sha512, sha512) = worker(digest::<Sha512>);
        let (to_md5, md5) = worker(digest::<Md5>);

        let senders = [to_file, to_sha512, to_md5];
        let distributed = distribute(body, limit, &senders).await;
        drop(senders);
        // Waited for in any case: what is refused is gone when that is said.
        let file = finished(file).await;
        let (size, head) = distributed?;
        let (file, mut unfinished) = file?;
        let (sha512, md5) = (finished(sha512).await, finished(md5).await);
        unfinished.0 = None;
        Ok(Incoming {
            path: Some(path),
            file: Some(file),
            size,
            md5,
            sha512,
            head,
        })
    }
}

/// Starts a blocking thread that works on batches until there are no more.
fn worker<T: Send + 'static>(
    work: impl FnOnce(mpsc::Receiver<Batch>) -> T + Send + 'static,
) -> (mpsc::Sender<Batch>, JoinHandle<T>) {
    let (sender, receiver) = mpsc::channel(BATCHES_WAITING);
    (sender, tokio::task::spawn_blocking(move || work(receiver)))
}

async fn finished<T>(worker: JoinHandle<T>) -> T {
    match worker.await {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

/// Gives every worker every byte; returns how many there were and the first of them. A worker that stopped early has its
/// error in hand: it is not sent to any more, and asked at the end.
async fn distribute<E>(
    body: impl Stream<Item = Result<Bytes, E>>,
    limit: u64,
    workers: &[mpsc::Sender<Batch>],
) -> Result<(u64, Vec<u8>), ReceiveError<E>> {
    let mut body = std::pin::pin!(body);
    let (mut size, mut head) = (0_u64, Vec::new());
    let (mut batch, mut batch_bytes) = (Vec::new(), 0);
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(ReceiveError::Body)?;
        size += chunk.len() as u64;
        if size > limit {
            return Err(ReceiveError::TooLarge { limit });
        }
        let missing = HEAD_BYTES - head.len();
        head.extend_from_slice(&chunk[..chunk.len().min(missing)]);
        batch_bytes += chunk.len();
        batch.push(chunk);
        if batch_bytes >= BATCH_BYTES {
            if !send(workers, std::mem::take(&mut batch)).await {
                return Ok((size, head));
            }
            batch_bytes = 0;
        }
    }
    send(workers, batch).await;
    Ok((size, head))
}

/// Whether every worker still takes batches.
async fn send(workers: &[mpsc::Sender<Batch>], batch: Vec<Bytes>) -> bool {
    let batch: Batch = batch.into();
    for worker in workers {
        if worker.send(Arc::clone(&batch)).await.is_err() {
            return false;
        }
    }
    true
}

fn write(path: &Path, mut batches: mpsc::Receiver<Batch>) -> Result<File, BlobError> {
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(BlobError::io("create", path))?;
    while let Some(batch) = batches.blocking_recv() {
        for chunk in batch.iter() {
            file.write_all(chunk).map_err(BlobError::io("write", path))?;
        }
    }
    Ok(file)
}

fn digest<D: Digest>(mut batches: mpsc::Receiver<Batch>) -> String {
    let mut hash = D::new();
    while let Some(batch) = batches.blocking_recv() {
        for chunk in batch.iter() {
            hash.update(chunk);
        }
    }
    hex(&hash.finalize())
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
