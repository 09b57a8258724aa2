//! Reading: a few connections beside the writer's, for records and for history that is not in memory any more.

use std::{collections::VecDeque, path::PathBuf, sync::Arc};

use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension, Row, params};
use tokio::sync::Semaphore;

use super::{connect, failed};
use crate::{Batch, Key, Page, Prefix, Record, Revision, Scan, StoreError, batch};

/// Reads at a time; more wait. Records are mostly read from caches, so these are lists and watchers that lag.
const READERS: usize = 4;
/// Connections that stay open without work.
const IDLE: usize = 2;
/// Pages each of them keeps, as SQLite counts KiB: below 0. Lists and history are read once, in order.
const READER_CACHE_KIB: i64 = -1024;
/// Bytes of history that one watcher reads ahead at most, more than one batch aside.
const READ_AHEAD_BYTES: usize = 4 << 20;

/// Connections for reading, opened when needed.
pub(super) struct Readers {
    path: PathBuf,
    permits: Semaphore,
    /// None once closed.
    idle: Mutex<Option<Vec<Connection>>>,
}

impl Readers {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            permits: Semaphore::new(READERS),
            idle: Mutex::new(Some(Vec::new())),
        }
    }

    /// Runs a read where it may block.
    pub(super) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        action: &'static str,
        read: impl FnOnce(&mut Connection) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let _permit = self.permits.acquire().await.map_err(|_| StoreError::Closed)?;
        let readers = Arc::clone(self);
        let result = tokio::task::spawn_blocking(move || readers.read_blocking(read)).await;
        result.map_err(|_| StoreError::Closed)?.map_err(|e| match e {
            ReadError::Store(e) => e,
            ReadError::Sqlite(e) => failed(action)(e),
        })
    }

    fn read_blocking<T>(&self, read: impl FnOnce(&mut Connection) -> Result<T, ReadError>) -> Result<T, ReadError> {
        let idle = self.idle.lock().as_mut().ok_or(StoreError::Closed)?.pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => {
                let connection = connect(&self.path)?;
                connection.pragma_update(None, "query_only", true)?;
                connection.pragma_update(None, "cache_size", READER_CACHE_KIB)?;
                connection
            }
        };
        let result = read(&mut connection)?; // one that failed is not used again
        if let Some(idle) = &mut *self.idle.lock()
            && idle.len() < IDLE
        {
            idle.push(connection);
        }
        Ok(result)
    }

    /// Refuses further reads; those at work end as they would.
    pub(super) fn close(&self) {
        self.permits.close();
        *self.idle.lock() = None;
    }
}

/// A failed read: SQLite's word or ours.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
}

/// Where history stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// The newest revision.
    pub(super) revision: Revision,
    /// The newest that is forgotten.
    pub(super) compacted: Revision,
    /// What those between take.
    pub(super) history_bytes: u64,
}

pub(super) fn head(connection: &Connection) -> rusqlite::Result<Head> {
    let mut statement = connection.prepare_cached("SELECT revision, compacted, history_bytes FROM head")?;
    statement.query_row([], |row| {
        let history_bytes = row.get::<_, i64>(2)? as u64;
        Ok(Head {
            revision: revision(row, 0)?,
            compacted: revision(row, 1)?,
            history_bytes,
        })
    })
}

pub(super) fn get(connection: &Connection, key: Key, encoded: &str) -> Result<Option<Record>, ReadError> {
    let mut statement = connection.prepare_cached("SELECT value, created, modified FROM records WHERE key = ?1")?;
    let found = statement.query_row([encoded], |row| {
        Ok((row.get::<_, Vec<u8>>(0)?, revision(row, 1)?, revision(row, 2)?))
    });
    let found = found.optional()?;
    Ok(found.map(|(value, created, modified)| Record {
        key,
        value: value.into(),
        created,
        modified,
    }))
}

pub(super) fn range(
    connection: &mut Connection,
    prefix: &Prefix,
    after: Option<&str>,
    limit: usize,
) -> Result<Page, ReadError> {
    let transaction = connection.transaction()?;
    let head = head(&transaction)?;
    // Keys above `after`; without it, those that begin with the prefix are above the prefix itself, which is no key.
    let above = after.map_or(prefix.as_str(), |after| after.max(prefix.as_str()));
    let mut statement = transaction.prepare_cached(
        "SELECT key, value, created, modified FROM records
         WHERE key > ?1 AND (?2 IS NULL OR key < ?2) ORDER BY key LIMIT ?3",
    )?;
    let limit = limit.max(1);
    let take = i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1);
    let mut rows = statement.query(params![above, end_of(prefix), take])?;
    let mut records = Vec::new();
    let mut more = false;
    while let Some(row) = rows.next()? {
        if records.len() == limit {
            more = true;
            break;
        }
        records.push(record(row)?);
    }
    Ok(Page {
        records,
        revision: head.revision,
        more,
    })
}

/// Up to `limit` records from a row on. New rows come after all others, so that nothing is passed over.
pub(super) fn scan(connection: &mut Connection, from: u64, limit: usize) -> Result<Scan, ReadError> {
    let transaction = connection.transaction()?;
    let head = head(&transaction)?;
    let mut statement = transaction
        .prepare_cached("SELECT key, value, created, modified, id FROM records WHERE id >= ?1 ORDER BY id LIMIT ?2")?;
    let limit = limit.max(1);
    let take = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut rows = statement.query(params![i64::try_from(from).unwrap_or(i64::MAX), take])?;
    let mut records = Vec::new();
    let mut last = 0;
    while let Some(row) = rows.next()? {
        records.push(record(row)?);
        last = row.get::<_, i64>(4)? as u64;
    }
    let is_more = records.len() == limit;
    Ok(Scan {
        records,
        revision: head.revision,
        next: is_more.then(|| last + 1),
    })
}

/// A record of a row that begins with key, value, created, modified.
fn record(row: &Row<'_>) -> Result<Record, ReadError> {
    let key = Key::decode(row.get_ref(0)?.as_str().map_err(rusqlite::Error::from)?)?;
    let value: Vec<u8> = row.get(1)?;
    Ok(Record {
        key,
        value: value.into(),
        created: revision(row, 2)?,
        modified: revision(row, 3)?,
    })
}

/// The first string above all that begin with the prefix; none for the empty prefix. Prefixes end in `/`.
fn end_of(prefix: &Prefix) -> Option<String> {
    prefix.as_str().strip_suffix('/').map(|front| format!("{front}0"))
}

/// Up to `limit` whole batches after a revision.
pub(super) fn batches(
    connection: &mut Connection,
    after: Revision,
    limit: usize,
) -> Result<VecDeque<Arc<Batch>>, ReadError> {
    let transaction = connection.transaction()?;
    let head = head(&transaction)?;
    if after < head.compacted {
        return Err(StoreError::Compacted {
            compacted: head.compacted,
        }
        .into());
    }
    if after > head.revision {
        // Not of this history: a copy from before that revision was put in place since.
        return Err(StoreError::Compacted {
            compacted: head.revision,
        }
        .into());
    }
    let mut statement = transaction
        .prepare_cached("SELECT revision, batch FROM history WHERE revision > ?1 ORDER BY revision LIMIT ?2")?;
    let mut rows = statement.query(params![after.0 as i64, limit as i64])?;
    let mut batches = VecDeque::new();
    let mut size = 0;
    while let Some(row) = rows.next()? {
        let bytes: Vec<u8> = row.get(1)?;
        size += bytes.len();
        batches.push_back(Arc::new(batch::decode(revision(row, 0)?, bytes)?));
        if size > READ_AHEAD_BYTES {
            break;
        }
    }
    Ok(batches)
}

fn revision(row: &Row<'_>, column: usize) -> rusqlite::Result<Revision> {
    Ok(Revision(row.get::<_, i64>(column)? as u64))
}
