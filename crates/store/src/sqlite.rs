//! The embedded engine: SQLite in WAL mode, one writer thread, many transactions per fsync.
//!
//! ```text
//! txn ──queue──► writer: BEGIN … up to 256 transactions … COMMIT (fsync) ──► publish to watchers ──► answer
//! ```
//! A transaction is checked in full before its first write, so that a refused one leaves nothing and its neighbours in
//! the group go on. Watchers read recent batches from memory and older ones from the history table. History is kept
//! within [`SqliteOptions`]; records are what they are without it. A lock file keeps a second process out.

mod copy;
mod read;
mod writer;

use std::{
    collections::VecDeque,
    fs::{File, OpenOptions, TryLockError},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use rusqlite::{Connection, OpenFlags};
use tokio::sync::{mpsc, oneshot};

pub(crate) use self::copy::NewDatabase;
use self::{read::Readers, writer::Job};
use crate::{
    Backend, Batch, Key, Page, Prefix, Record, Revision, Scan, StoreError, Txn, Watch,
    log::Log,
    pages::Pages,
    prepared::Prepared,
    watcher::{History, HistoryWatch},
};

/// The version of the database's own tables.
const SCHEMA_VERSION: i64 = 1;
/// Transactions that may wait for the writer before callers wait themselves.
const QUEUE: usize = 1024;
/// How long opening waits for whoever has the database open to let go of it.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
/// The write-ahead log is folded into the database whenever it is this long. Longer means fewer random writes and a
/// longer pause for the one transaction that does it.
const CHECKPOINT_PAGES: i64 = 2000;
/// What the write-ahead log may keep of the disk after something (a backup) has made it grow.
const WAL_BYTES: i64 = 32 << 20;

const SCHEMA: &str = "
    CREATE TABLE records (id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, value BLOB NOT NULL,
        created INTEGER NOT NULL, modified INTEGER NOT NULL);
    CREATE TABLE history (revision INTEGER PRIMARY KEY, batch BLOB NOT NULL);
    CREATE TABLE head (id INTEGER PRIMARY KEY CHECK (id = 1), revision INTEGER NOT NULL, compacted INTEGER NOT NULL,
        history_bytes INTEGER NOT NULL);
    INSERT INTO head VALUES (1, 0, 0, 0);
";

/// How to open the database.
#[derive(Clone, Debug)]
pub struct SqliteOptions {
    /// The database file; its directory must exist. Files that end in `-wal`, `-shm` and `.lock` appear beside it.
    pub path: PathBuf,
    /// How many revisions of history are kept for watchers that come back and for who asks what happened; older ones are
    /// compacted as new ones come.
    pub keep_revisions: u64,
    /// How many bytes that history may take; the oldest goes first.
    pub keep_bytes: u64,
}

impl SqliteOptions {
    /// The usual options for a file: 100,000 revisions of history, 256 MiB at most.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            keep_revisions: 100_000,
            keep_bytes: 256 << 20,
        }
    }
}

/// The engine. Clones share the database.
#[derive(Clone)]
pub struct Sqlite {
    jobs: mpsc::Sender<Job>,
    readers: Arc<Readers>,
    log: Arc<Log>,
    path: Arc<Path>,
}

impl Sqlite {
    /// Opens the database, making it when absent (for its owner's eyes only), and starts its writer thread.
    ///
    /// # Errors
    /// `Backend` when the file cannot be opened, is not a database, is of a newer version, or another process has it
    /// open.
    pub async fn open(options: SqliteOptions) -> Result<Self, StoreError> {
        let lock = lock(&options.path).await?;
        tokio::task::spawn_blocking(move || Self::open_locked(&options, lock))
            .await
            .map_err(|_| StoreError::Closed)?
    }

    fn open_locked(options: &SqliteOptions, lock: File) -> Result<Self, StoreError> {
        let path = &options.path;
        private_file(path).map_err(|e| not_opened(path, &e))?;
        let connection = connect(path).map_err(|e| not_opened(path, &e))?;
        prepare_schema(&connection)?;
        let head = read::head(&connection).map_err(failed("read the newest revision"))?;
        let log = Arc::new(Log::new(head.revision, head.compacted));
        let (jobs, queue) = mpsc::channel(QUEUE);
        let writer = writer::Writer::new(connection, Arc::clone(&log), head, options, lock);
        std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer.run(queue))
            .map_err(|e| StoreError::Backend {
                action: "start its writer thread",
                reason: e.to_string(),
            })?;
        Ok(Self {
            jobs,
            readers: Arc::new(Readers::new(path.clone())),
            log,
            path: path.as_path().into(),
        })
    }

    /// Writes a copy of the database at `path` to a new file, as [`Backend::backup`] does, also while another process has
    /// it open.
    ///
    /// # Errors
    /// `Invalid` when there is a file at `to`; `Backend` when there is no database at `path` or the copy fails.
    pub async fn copy(path: &Path, to: &Path) -> Result<(), StoreError> {
        let (path, to) = (path.to_owned(), to.to_owned());
        let copied = tokio::task::spawn_blocking(move || copy::backup(&path, &to)).await;
        copied.map_err(|_| StoreError::Closed)?
    }

    /// Puts a backup where a store is then opened: at `path`, where there must be nothing yet. The revision it then has
    /// is far above any that was there before, so that whoever watched the store that is gone is told to list again.
    ///
    /// # Errors
    /// `Invalid` when there is a file at `path`; `Backend` when the backup is damaged or the copy fails.
    pub async fn restore(backup: &Path, path: &Path) -> Result<Revision, StoreError> {
        let (backup, path) = (backup.to_owned(), path.to_owned());
        let restored = tokio::task::spawn_blocking(move || copy::restore(&backup, &path)).await;
        restored.map_err(|_| StoreError::Closed)?
    }

    /// Makes a database at `path`, where there must be nothing yet, of all records of another engine that nobody writes
    /// to. Records keep their revisions; the history stays behind.
    ///
    /// # Errors
    /// `Invalid` when there is a file at `path`, or somebody does write; `Backend`.
    pub async fn copy_from(from: &dyn Backend, path: &Path) -> Result<Revision, StoreError> {
        let owned = path.to_owned();
        let blocking = |result: Result<Result<NewDatabase, StoreError>, tokio::task::JoinError>| {
            result.map_err(|_| StoreError::Closed)?
        };
        let mut new = blocking(tokio::task::spawn_blocking(move || NewDatabase::create(&owned)).await)?;
        let mut pages = Pages::new(from);
        while let Some(records) = pages.next().await? {
            let add = move || {
                new.add(&records)?;
                Ok(new)
            };
            new = blocking(tokio::task::spawn_blocking(add).await)?;
        }
        let revision = pages.revision();
        let finished = tokio::task::spawn_blocking(move || new.finish(revision)).await;
        finished.map_err(|_| StoreError::Closed)??;
        Ok(revision)
    }

    async fn submit<T>(
        &self,
        job: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Job,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.jobs.send(job(reply)).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }
}

#[async_trait]
impl Backend for Sqlite {
    async fn get(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        let (key, encoded) = (key.clone(), key.encode()?);
        self.readers
            .read("read a record", move |connection| read::get(connection, key, &encoded))
            .await
    }

    async fn range(&self, prefix: &Prefix, after: Option<&Key>, limit: usize) -> Result<Page, StoreError> {
        let prefix = prefix.clone();
        let after = after.map(Key::encode).transpose()?;
        let list = move |connection: &mut Connection| read::range(connection, &prefix, after.as_deref(), limit);
        self.readers.read("list records", list).await
    }

    async fn scan(&self, from: u64, limit: usize) -> Result<Scan, StoreError> {
        let scan = move |connection: &mut Connection| read::scan(connection, from, limit);
        self.readers.read("list records", scan).await
    }

    async fn txn(&self, txn: Txn) -> Result<Revision, StoreError> {
        let txn = Prepared::new(txn)?;
        self.submit(|reply| Job::Txn { txn, reply }).await
    }

    async fn watch(&self, prefix: Prefix, after: Revision) -> Result<Box<dyn Watch>, StoreError> {
        let watch = HistoryWatch::new(self.clone(), prefix, after);
        watch.check().await?;
        Ok(Box::new(watch))
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        Ok(self.log.head())
    }

    async fn compact(&self, through: Revision) -> Result<(), StoreError> {
        self.submit(|reply| Job::Compact { through, reply }).await
    }

    async fn backup(&self, to: &Path) -> Result<(), StoreError> {
        if self.jobs.is_closed() {
            return Err(StoreError::Closed);
        }
        // On a connection of its own: it takes long, and readers and watchers go on.
        Self::copy(&self.path, to).await
    }

    async fn close(&self) {
        // Closed already is as good.
        _ = self.submit(|reply| Job::Close { reply }).await;
        self.readers.close();
    }
}

#[async_trait]
impl History for Sqlite {
    fn log(&self) -> &Log {
        &self.log
    }

    async fn load(&self, after: Revision, limit: usize) -> Result<VecDeque<Arc<Batch>>, StoreError> {
        let load = move |connection: &mut Connection| read::batches(connection, after, limit);
        self.readers.read("read its changes", load).await
    }
}

fn failed(action: &'static str) -> impl Fn(rusqlite::Error) -> StoreError {
    move |e| StoreError::Backend {
        action,
        reason: e.to_string(),
    }
}

fn not_opened(path: &Path, e: &dyn std::error::Error) -> StoreError {
    StoreError::Backend {
        action: "open the database",
        reason: format!("{}: {e}", path.display()),
    }
}

/// Takes the lock that one process holds as long as it writes. The database file itself will not do: closing another
/// handle on it would drop the locks SQLite holds on it.
async fn lock(path: &Path) -> Result<File, StoreError> {
    let mut lock_path = path.as_os_str().to_owned();
    lock_path.push(".lock");
    let lock = private_file(Path::new(&lock_path)).map_err(|e| not_opened(path, &e))?;
    let patience = tokio::time::Instant::now() + LOCK_PATIENCE;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(TryLockError::WouldBlock) if tokio::time::Instant::now() < patience => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(TryLockError::WouldBlock) => {
                let reason = format!("another process has {} open", path.display());
                return Err(StoreError::Backend {
                    action: "open the database",
                    reason,
                });
            }
            Err(TryLockError::Error(e)) => return Err(not_opened(path, &e)),
        }
    }
}

/// Opens a file, made for its owner's eyes only when absent: the store keeps secrets.
fn private_file(path: &Path) -> std::io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(Duration::from_secs(10))?;
    let mode: String = connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    if mode != "wal" {
        let reason = format!("its file system cannot do write-ahead logging (mode {mode})");
        return Err(rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CANTOPEN),
            Some(reason),
        ));
    }
    // In WAL mode FULL is one fsync of the log per commit: what is acknowledged survives power loss.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "cache_size", -8192)?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    connection.pragma_update(None, "journal_size_limit", WAL_BYTES)?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(connection)
}

fn prepare_schema(connection: &Connection) -> Result<(), StoreError> {
    match schema_version(connection)? {
        SCHEMA_VERSION => Ok(()),
        0 => connection
            .execute_batch(&format!(
                "BEGIN; {SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
            ))
            .map_err(failed("make its tables")),
        newer => Err(StoreError::Backend {
            action: "open the database",
            reason: format!("it is of version {newer}, this madang knows {SCHEMA_VERSION}"),
        }),
    }
}

fn schema_version(connection: &Connection) -> Result<i64, StoreError> {
    let version = connection.pragma_query_value(None, "user_version", |row| row.get(0));
    version.map_err(failed("read the version of the database"))
}
