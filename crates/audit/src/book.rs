//! The book: events in a SQLite database of their own, only ever added to at its end and forgotten at its beginning.
//!
//! Apart from the store, so that a flood of events neither grows the cloud's state nor waits for its writer, and so that
//! it can be read while nothing is up. One connection writes, further ones read.

mod filter;

use std::{
    borrow::Cow,
    fs::{self, OpenOptions, Permissions},
    io,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use madang_http::Event;
use rusqlite::{Connection, OpenFlags, params, params_from_iter};
use serde::Serialize;

pub use filter::{Filter, Order};

/// The columns are what is filtered by; the event itself is JSON, so that it can grow.
const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    time INTEGER NOT NULL,
    project TEXT,
    user TEXT,
    service TEXT NOT NULL,
    action TEXT NOT NULL,
    resource TEXT NOT NULL,
    resource_id TEXT,
    status INTEGER NOT NULL,
    event TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS events_time ON events (time);
CREATE INDEX IF NOT EXISTS events_project ON events (project, id) WHERE project IS NOT NULL;
CREATE INDEX IF NOT EXISTS events_user ON events (user, id) WHERE user IS NOT NULL;
CREATE INDEX IF NOT EXISTS events_resource ON events (resource_id, id) WHERE resource_id IS NOT NULL;
CREATE TRIGGER IF NOT EXISTS events_stay BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'the trail is not rewritten'); END;
";

/// How many events go at a time where the book is over its bounds, so that no batch waits long for it.
const FORGOTTEN_AT_ONCE: u32 = 2_000;
/// How many pages an upkeep gives back to the file system at most.
const PAGES_GIVEN_BACK: u32 = 4_096;
/// Another process that reads or writes is waited for this long.
const BUSY: Duration = Duration::from_secs(5);
/// The longest text of a client's own that is kept, in bytes: names and paths can be as long as a request.
const LONGEST_TEXT: usize = 512;

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// Older events go.
    pub age: SignedDuration,
    /// The database's bound in bytes: the oldest events go.
    pub bytes: u64,
}

/// An event with its place in the book.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Counts up; never used again.
    pub id: i64,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// Why the book cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BookError {
    /// The database.
    #[error("could not use the audit trail at {path}")]
    Database {
        /// Where it is.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// Its file.
    #[error("could not make the audit trail at {path}")]
    File {
        /// Where it is.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// An event that cannot be read or written as JSON.
    #[error("an event of the audit trail is not what it should be")]
    Event(#[from] serde_json::Error),
}

/// Makes the file for its owner's eyes only; SQLite's further files take after it. One that an earlier version made open to
/// all is closed.
fn private(path: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    for ending in ["", "-wal", "-shm"] {
        let mut file = path.as_os_str().to_owned();
        file.push(ending);
        match fs::set_permissions(&file, Permissions::from_mode(0o600)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// A connection to the book.
pub struct Book {
    path: PathBuf,
    connection: Connection,
}

impl Book {
    /// Opens it for writing, making it where there is none.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub fn open(path: &Path) -> Result<Self, BookError> {
        private(path).map_err(|source| BookError::File {
            path: path.to_owned(),
            source,
        })?;
        let open = || {
            let connection = Connection::open(path)?;
            connection.busy_timeout(BUSY)?;
            // Takes effect only before the first table is there.
            connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
            connection.pragma_update(None, "journal_mode", "WAL")?;
            connection.pragma_update(None, "synchronous", "FULL")?;
            connection.execute_batch(SCHEMA)?;
            Ok(connection)
        };
        Ok(Self {
            connection: open().map_err(|source| failed(path, source))?,
            path: path.to_owned(),
        })
    }

    /// Opens it for reading only, also while another process writes.
    ///
    /// # Errors
    /// When there is none or it cannot be read.
    pub fn read_only(path: &Path) -> Result<Self, BookError> {
        let open = || {
            let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
            connection.busy_timeout(BUSY)?;
            Ok(connection)
        };
        Ok(Self {
            connection: open().map_err(|source| failed(path, source))?,
            path: path.to_owned(),
        })
    }

    /// Adds events in their order, all or none.
    ///
    /// # Errors
    /// When the disk is full, for one.
    pub fn add(&mut self, events: &[Event]) -> Result<(), BookError> {
        let texts = events
            .iter()
            .map(|event| serde_json::to_string(&shortened(event)))
            .collect::<Result<Vec<_>, _>>()?;
        let add = |connection: &mut Connection| {
            let tx = connection.transaction()?;
            {
                let mut insert = tx.prepare_cached(
                    "INSERT INTO events (time, project, user, service, action, resource, resource_id, status, event) \
                     VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                )?;
                for (event, text) in events.iter().zip(&texts) {
                    let actor = event.actor.as_deref();
                    insert.execute(params![
                        event.time.as_microsecond(),
                        actor.and_then(|actor| actor.project_id.as_deref()),
                        actor.map(|actor| actor.user_id.as_str()),
                        event.service,
                        event.action,
                        event.resource,
                        event.resource_id.as_deref().map(short),
                        event.status,
                        text,
                    ])?;
                }
            }
            tx.commit()
        };
        add(&mut self.connection).map_err(|source| failed(&self.path, source))
    }

    /// The events that pass, at most `limit`, in the filter's order.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn find(&self, filter: &Filter, limit: usize) -> Result<Vec<Entry>, BookError> {
        let (condition, values) = filter.condition();
        let order = filter.order.sql();
        let query = format!("SELECT id, event FROM events WHERE {condition} ORDER BY id {order} LIMIT {limit}");
        let find = || {
            let mut statement = self.connection.prepare_cached(&query)?;
            let rows = statement.query_map(params_from_iter(values), |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?))
            })?;
            rows.collect::<Result<Vec<_>, _>>()
        };
        let rows = find().map_err(|source| failed(&self.path, source))?;
        let entries = rows.into_iter().map(|(id, text)| {
            let event = serde_json::from_str(&text)?;
            Ok(Entry { id, event })
        });
        entries.collect()
    }

    /// Forgets what is too old and, while the book is too large, what is oldest. A piece at a time: whether there is more
    /// to do.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn trim(&mut self, keep: Keep, now: Timestamp) -> Result<bool, BookError> {
        let oldest = now.checked_sub(keep.age).unwrap_or(Timestamp::MIN);
        let trim = |connection: &Connection| {
            let mut gone = connection.execute(
                "DELETE FROM events WHERE id IN (SELECT id FROM events WHERE time < ? ORDER BY time LIMIT ?)",
                params![oldest.as_microsecond(), FORGOTTEN_AT_ONCE],
            )?;
            if used_bytes(connection)? > keep.bytes {
                gone += connection.execute(
                    "DELETE FROM events WHERE id IN (SELECT id FROM events ORDER BY id LIMIT ?)",
                    params![FORGOTTEN_AT_ONCE],
                )?;
            }
            if gone > 0 {
                connection.execute_batch(&format!("PRAGMA incremental_vacuum({PAGES_GIVEN_BACK})"))?;
            }
            Ok(gone >= FORGOTTEN_AT_ONCE as usize)
        };
        trim(&self.connection).map_err(|source| failed(&self.path, source))
    }
}

/// What the events take, without pages that wait to be used again.
fn used_bytes(connection: &Connection) -> rusqlite::Result<u64> {
    let number = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let bytes = (number("page_count")? - number("freelist_count")?) * number("page_size")?;
    Ok(u64::try_from(bytes).unwrap_or_default())
}

fn failed(path: &Path, source: rusqlite::Error) -> BookError {
    BookError::Database {
        path: path.to_owned(),
        source,
    }
}

/// With the texts that a client chose cut to a bound.
fn shortened(event: &Event) -> Cow<'_, Event> {
    let chosen = [Some(&event.path), event.resource_id.as_ref(), event.claimed.as_ref()];
    if chosen.into_iter().flatten().all(|text| text.len() <= LONGEST_TEXT) {
        return Cow::Borrowed(event); // nearly always
    }
    let mut event = event.clone();
    event.path = short(&event.path).to_owned();
    event.resource_id = event.resource_id.as_deref().map(|id| short(id).to_owned());
    event.claimed = event.claimed.as_deref().map(|who| short(who).to_owned());
    Cow::Owned(event)
}

fn short(text: &str) -> &str {
    &text[..text.floor_char_boundary(LONGEST_TEXT)]
}

#[cfg(test)]
mod tests;
