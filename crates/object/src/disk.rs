//! One disk: a directory that keeps entries with bytes. What is acknowledged is on the disk; what is not, is not there.
//!
//! ```text
//! DIR/lock               one process at a time
//! DIR/log/<number>       segments: what changed, in order, with the bytes of small objects in between
//! DIR/index.db           what each key is and where its bytes are, in order of keys; follows the log
//! DIR/large/xx/<id>      one file for the bytes of each large object, sums of its blocks at the end
//! ```
//! The log is the truth: a group of changes is one append and one sync, shared by all that wait. The index is committed
//! after it without a sync of its own and caught up with the log when the disk is opened. A large object is complete and
//! synced in its place before the log names it; a file that nobody names is removed. A ring of several disks would stand on
//! [`Disk::transact`], [`Disk::view`] and [`Disk::upload`], which is all that the rest of this crate knows of a disk.

mod catch_up;
mod index;
mod large;
mod log;
mod record;
mod tend;
mod writer;

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

pub use index::{Entry, Look};
pub use large::{Stream, Upload, Uploaded, hex};
pub use record::Place;
pub use writer::Tx;

use self::{
    large::Files,
    log::Segments,
    writer::{Job, Writer},
};

/// Changes that may wait for the writer before callers wait themselves.
const QUEUE: usize = 1024;
/// Bytes up to here go into the log; more get a file of their own.
pub const SMALL_BYTES: usize = 128 << 10;

/// What can go wrong with a disk.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
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
    /// The index cannot be read or written.
    #[error("the index of objects refuses: {0}")]
    Index(#[from] rusqlite::Error),
    /// There is no room.
    #[error("the disk of objects is full")]
    Full,
    /// Bytes are not what was written.
    #[error("{what} is damaged: {path}")]
    Damaged {
        /// What.
        what: &'static str,
        /// Where.
        path: PathBuf,
    },
    /// A write failed so that nobody knows what is on the disk; it has to be opened anew.
    #[error("the disk of objects failed and must be opened again: restart madang once it is mended")]
    Broken,
    /// Somebody still reads what is to be made durable; again later.
    #[error("the index of objects is being read")]
    Busy,
    /// It is closed.
    #[error("the disk of objects is closed")]
    Closed,
}

impl DiskError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| match source.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => Self::Full,
            _ => Self::Io { action, path, source },
        }
    }
}

/// What the index says, as ours.
fn failed(error: rusqlite::Error) -> DiskError {
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DiskFull) => DiskError::Full,
        _ => DiskError::Index(error),
    }
}

/// How to open a disk.
#[derive(Clone, Copy, Debug)]
pub struct DiskOptions {
    /// A segment that has so many bytes is followed by a new one.
    pub segment_bytes: u64,
    /// Files and segments that nobody needs any more are kept so long for those who have just looked them up.
    pub grace: std::time::Duration,
}

impl Default for DiskOptions {
    fn default() -> Self {
        Self {
            // Large enough that there are few, small enough to be rewritten in a second.
            segment_bytes: 64 << 20,
            grace: std::time::Duration::from_secs(10),
        }
    }
}

/// A disk. Clones share it.
#[derive(Clone)]
pub struct Disk(Arc<Inner>);

struct Inner {
    jobs: mpsc::Sender<Job>,
    index: PathBuf,
    readers: Mutex<Vec<Connection>>,
    segments: Arc<Segments>,
    files: Arc<Files>,
    options: DiskOptions,
}

impl Disk {
    /// Opens the directory, making it when it is not there, and catches up with its log. Blocks.
    ///
    /// # Errors
    /// When it cannot be read, another process has it open, or its log is damaged.
    pub fn open(directory: &Path, options: DiskOptions) -> Result<Self, DiskError> {
        private_directory(directory).map_err(DiskError::io("make", directory))?;
        let lock = lock(&directory.join("lock"))?;
        let segments = Arc::new(Segments::open(&directory.join("log"))?);
        let files = Arc::new(Files::open(&directory.join("large"))?);
        let path = directory.join("index.db");
        // What SQLite puts beside it is for the same eyes.
        private_file(&path).map_err(DiskError::io("open", &path))?;
        let connection = index::open(&path).map_err(failed)?;
        let end = catch_up::catch_up(&connection, &segments)?;
        let log = log::Log::open(Arc::clone(&segments), end)?;
        let (jobs, queue) = mpsc::channel(QUEUE);
        let writer = Writer::new(connection, log, options.segment_bytes, lock);
        let started = std::thread::Builder::new()
            .name("object-writer".to_owned())
            .spawn(move || writer.run(queue));
        started.map_err(DiskError::io("start the writer of", directory))?;
        Ok(Self(Arc::new(Inner {
            jobs,
            index: path,
            readers: Mutex::default(),
            segments,
            files,
            options,
        })))
    }

    /// Changes entries, all or none: they are on the disk when this returns. `change` runs on the writer's thread, sees
    /// what all changes before it did, and must be quick; its error takes back what it did.
    ///
    /// # Errors
    /// What `change` says, or why it could not be written.
    pub async fn transact<T, E>(
        &self,
        change: impl FnOnce(&mut Tx<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<DiskError> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job = Job::change(change, reply);
        self.0.jobs.send(job).await.map_err(|_| DiskError::Closed)?;
        answer.await.map_err(|_| E::from(DiskError::Closed))?
    }

    /// Looks at entries as they were at one moment, off the async threads.
    ///
    /// # Errors
    /// What `look` says, or why the index cannot be read.
    pub async fn view<T, E>(&self, look: impl FnOnce(&View<'_>) -> Result<T, E> + Send + 'static) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<DiskError> + Send + 'static,
    {
        let disk = self.clone();
        blocking(move || disk.look(look)).await
    }

    fn look<T, E: From<DiskError>>(&self, look: impl FnOnce(&View<'_>) -> Result<T, E>) -> Result<T, E> {
        let idle = self.0.readers.lock().pop();
        let connection = match idle {
            Some(connection) => connection,
            None => index::open(&self.0.index).map_err(failed)?,
        };
        connection.execute_batch("BEGIN").map_err(failed)?;
        let view = View {
            look: Look {
                connection: &connection,
            },
            disk: self,
        };
        let seen = look(&view);
        connection.execute_batch("COMMIT").map_err(failed)?;
        self.0.readers.lock().push(connection);
        seen
    }

    /// Begins to take bytes.
    pub fn upload(&self) -> Upload {
        Upload::new(Arc::clone(&self.0.files))
    }

    /// Makes the index durable by itself, so that what the log has up to now is not needed any more.
    ///
    /// # Errors
    /// When it cannot be written, or readers keep it from being complete.
    pub async fn checkpoint(&self) -> Result<(), DiskError> {
        self.ask(Job::Checkpoint).await
    }

    /// Finishes what waits, and ends.
    pub async fn close(&self) {
        // Closed already is as good.
        _ = self.ask(Job::Close).await;
        self.0.readers.lock().clear();
    }

    async fn ask(&self, job: impl FnOnce(oneshot::Sender<Result<(), DiskError>>) -> Job) -> Result<(), DiskError> {
        let (reply, answer) = oneshot::channel();
        self.0.jobs.send(job(reply)).await.map_err(|_| DiskError::Closed)?;
        answer.await.map_err(|_| DiskError::Closed)?
    }
}

/// A moment of a disk.
pub struct View<'d> {
    look: Look<'d>,
    disk: &'d Disk,
}

impl<'d> std::ops::Deref for View<'d> {
    type Target = Look<'d>;

    fn deref(&self) -> &Self::Target {
        &self.look
    }
}

impl View<'_> {
    /// The bytes of an entry, to be read from; those of a small one are read at once.
    ///
    /// # Errors
    /// When they cannot be read or are damaged.
    pub fn open(&self, place: &Place) -> Result<Stream, DiskError> {
        match *place {
            Place::Nowhere => Ok(Stream::of(Bytes::new())),
            Place::Segment { .. } => self.disk.0.segments.read(place).map(Stream::of),
            Place::File { id, length } => self.disk.0.files.open_file(id, length),
        }
    }
}

/// Takes the lock that one process holds as long as it writes.
fn lock(path: &Path) -> Result<File, DiskError> {
    let file = private_file(path).map_err(DiskError::io("open", path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(DiskError::Io {
            action: "use, since another process does,",
            path: path.to_owned(),
            source: io::ErrorKind::WouldBlock.into(),
        }),
        Err(fs::TryLockError::Error(error)) => Err(DiskError::io("lock", path)(error)),
    }
}

/// A directory for its owner's eyes only, made where it is not there.
fn private_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o700))
}

/// Opens a file for its owner's eyes only, made where it is not there.
fn private_file(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    Ok(file)
}

/// Makes names in a directory survive a power loss.
fn sync_directory(directory: &Path) -> Result<(), DiskError> {
    let synced = File::open(directory).and_then(|opened| opened.sync_all());
    synced.map_err(DiskError::io("sync", directory))
}

/// Runs file work where it may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(stopped) => std::panic::resume_unwind(stopped.into_panic()),
    }
}

#[cfg(test)]
mod tests;
