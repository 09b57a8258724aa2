//! The ordered index of a disk: what each key is and where its bytes are. A table of SQLite, read by range.
//!
//! It follows the log: its own commits are not synced, and after a crash it goes on from the record it was last at.
//! Beside the entries it counts what is alive in each segment and who uses which file, so that space is given back.

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{
    DiskError, failed,
    record::{Effect, Place},
};

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS entries (key BLOB PRIMARY KEY, value BLOB NOT NULL, kind INTEGER NOT NULL,
        place INTEGER NOT NULL, offset INTEGER NOT NULL, length INTEGER NOT NULL, crc INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS files (id INTEGER NOT NULL, key BLOB NOT NULL, PRIMARY KEY (id, key)) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS garbage (id INTEGER PRIMARY KEY);
    CREATE TABLE IF NOT EXISTS segments (id INTEGER PRIMARY KEY, alive INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS head (id INTEGER PRIMARY KEY CHECK (id = 1), segment INTEGER NOT NULL,
        offset INTEGER NOT NULL);
";
/// The write-ahead log is folded into the database whenever it has so many pages.
const CHECKPOINT_PAGES: i64 = 4000;
/// What is kept of the database in memory by each connection, in KiB.
const CACHE_KIB: i64 = 32 << 10;

/// An entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it says.
    pub value: Bytes,
    /// Where its bytes are.
    pub place: Place,
}

/// A place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    pub(super) segment: u64,
    pub(super) offset: u64,
}

pub(super) fn open(path: &std::path::Path) -> Result<Connection, rusqlite::Error> {
    let connection = Connection::open(path)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    connection.set_prepared_statement_cache_capacity(64);
    connection.busy_timeout(std::time::Duration::from_secs(10))?;
    connection.execute_batch(SCHEMA)?;
    Ok(connection)
}

/// Everything up to here is in the index.
pub(super) fn head(connection: &Connection) -> Result<Option<Position>, DiskError> {
    let mut statement = connection
        .prepare_cached("SELECT segment, offset FROM head")
        .map_err(failed)?;
    let read = |row: &Row<'_>| {
        Ok(Position {
            segment: unsigned(row.get(0)?),
            offset: unsigned(row.get(1)?),
        })
    };
    statement.query_row([], read).optional().map_err(failed)
}

pub(super) fn set_head(connection: &Connection, at: Position) -> Result<(), DiskError> {
    let sql = "INSERT INTO head VALUES (1, ?1, ?2) ON CONFLICT (id) DO UPDATE SET segment = ?1, offset = ?2";
    run(connection, sql, params![signed(at.segment), signed(at.offset)])
}

/// Looks into the index: the writer at what it is about to commit, everybody else at what is committed.
#[derive(Clone, Copy)]
pub struct Look<'c> {
    pub(super) connection: &'c Connection,
}

impl Look<'_> {
    /// What a key is.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn get(&self, key: &[u8]) -> Result<Option<Entry>, DiskError> {
        get(self.connection, key)
    }

    /// The entries whose keys are at least `from` and below `to`, in order, from either end.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn range(
        &self,
        from: &[u8],
        to: &[u8],
        reverse: bool,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Entry)>, DiskError> {
        let sql = match reverse {
            false => {
                "SELECT value, kind, place, offset, length, crc, key FROM entries WHERE key >= ?1 AND key < ?2 \
                 ORDER BY key LIMIT ?3"
            }
            true => {
                "SELECT value, kind, place, offset, length, crc, key FROM entries WHERE key >= ?1 AND key < ?2 \
                 ORDER BY key DESC LIMIT ?3"
            }
        };
        let mut statement = self.connection.prepare_cached(sql).map_err(failed)?;
        let read = |row: &Row<'_>| Ok((row.get(6)?, entry(row)?));
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = statement.query_map(params![from, to, limit], read).map_err(failed)?;
        rows.collect::<Result<_, _>>().map_err(failed)
    }
}

fn get(connection: &Connection, key: &[u8]) -> Result<Option<Entry>, DiskError> {
    let sql = "SELECT value, kind, place, offset, length, crc FROM entries WHERE key = ?1";
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    statement.query_row([key], entry).optional().map_err(failed)
}

fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    let value: Vec<u8> = row.get(0)?;
    let numbers = [row.get(2)?, row.get(3)?, row.get(4)?].map(unsigned);
    let place = match row.get::<_, i64>(1)? {
        1 => Place::Segment {
            segment: numbers[0],
            offset: numbers[1],
            length: numbers[2],
            crc: row.get(5)?,
        },
        2 => Place::File {
            id: numbers[0],
            length: numbers[2],
        },
        _ => Place::Nowhere,
    };
    Ok(Entry {
        value: value.into(),
        place,
    })
}

/// Does what an effect says, and counts. Gives what was there before.
pub(super) fn apply(connection: &Connection, effect: &Effect) -> Result<Option<Entry>, DiskError> {
    let (Effect::Delete(key) | Effect::Put(key, _, _)) = effect;
    let before = get(connection, key)?;
    // What comes is counted before what goes: bytes that only change their key are never without one.
    if let Effect::Put(key, value, place) = effect {
        take(connection, key, place)?;
        let (kind, numbers, crc) = match *place {
            Place::Nowhere => (0, [0; 3], 0),
            Place::Segment {
                segment,
                offset,
                length,
                crc,
            } => (1, [segment, offset, length], crc),
            Place::File { id, length } => (2, [id, 0, length], 0),
        };
        let [place, offset, length] = numbers.map(signed);
        let sql = "INSERT INTO entries VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (key) DO UPDATE SET \
                   value = ?2, kind = ?3, place = ?4, offset = ?5, length = ?6, crc = ?7";
        run(
            connection,
            sql,
            params![key, &value[..], kind, place, offset, length, crc],
        )?;
    } else if before.is_some() {
        run(connection, "DELETE FROM entries WHERE key = ?1", params![key])?;
    }
    if let Some(before) = &before {
        let same_file = match (effect, before.place) {
            (Effect::Put(_, _, Place::File { id, .. }), Place::File { id: old, .. }) => *id == old,
            _ => false,
        };
        if !same_file {
            let_go(connection, key, &before.place)?;
        }
    }
    Ok(before)
}

fn take(connection: &Connection, key: &[u8], place: &Place) -> Result<(), DiskError> {
    match *place {
        Place::Nowhere => Ok(()),
        Place::Segment { segment, length, .. } => {
            let sql = "INSERT INTO segments VALUES (?1, ?2) ON CONFLICT (id) DO UPDATE SET alive = alive + ?2";
            run(connection, sql, params![signed(segment), signed(length)])
        }
        Place::File { id, .. } => {
            run(
                connection,
                "INSERT OR IGNORE INTO files VALUES (?1, ?2)",
                params![signed(id), key],
            )?;
            run(connection, "DELETE FROM garbage WHERE id = ?1", params![signed(id)])
        }
    }
}

fn let_go(connection: &Connection, key: &[u8], place: &Place) -> Result<(), DiskError> {
    match *place {
        Place::Nowhere => Ok(()),
        Place::Segment { segment, length, .. } => {
            let sql = "UPDATE segments SET alive = alive - ?2 WHERE id = ?1";
            run(connection, sql, params![signed(segment), signed(length)])
        }
        Place::File { id, .. } => {
            run(
                connection,
                "DELETE FROM files WHERE id = ?1 AND key = ?2",
                params![signed(id), key],
            )?;
            let sql = "INSERT OR IGNORE INTO garbage SELECT ?1 WHERE NOT EXISTS (SELECT 1 FROM files WHERE id = ?1)";
            run(connection, sql, params![signed(id)])
        }
    }
}

/// Files that nobody uses any more.
pub(super) fn garbage(connection: &Connection, limit: usize) -> Result<Vec<u64>, DiskError> {
    let mut statement = connection
        .prepare_cached("SELECT id FROM garbage LIMIT ?1")
        .map_err(failed)?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = statement
        .query_map([limit], |row| Ok(unsigned(row.get(0)?)))
        .map_err(failed)?;
    rows.collect::<Result<_, _>>().map_err(failed)
}

/// Whether anybody uses a file, or it waits to be removed.
pub(super) fn knows_file(connection: &Connection, id: u64) -> Result<bool, DiskError> {
    let sql = "SELECT EXISTS (SELECT 1 FROM files WHERE id = ?1) OR EXISTS (SELECT 1 FROM garbage WHERE id = ?1)";
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    statement.query_row([signed(id)], |row| row.get(0)).map_err(failed)
}

/// How many bytes of each segment are still needed.
pub(super) fn alive(connection: &Connection) -> Result<std::collections::BTreeMap<u64, u64>, DiskError> {
    let mut statement = connection
        .prepare_cached("SELECT id, alive FROM segments")
        .map_err(failed)?;
    let rows = statement
        .query_map([], |row| Ok((unsigned(row.get(0)?), unsigned(row.get(1)?))))
        .map_err(failed)?;
    rows.collect::<Result<_, _>>().map_err(failed)
}

/// Runs one statement.
pub(super) fn run(connection: &Connection, sql: &str, values: impl rusqlite::Params) -> Result<(), DiskError> {
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    statement.execute(values).map_err(failed)?;
    Ok(())
}

/// SQLite's integers have a sign.
pub(super) fn signed(number: u64) -> i64 {
    number.cast_signed()
}

pub(super) fn unsigned(number: i64) -> u64 {
    number.cast_unsigned()
}
