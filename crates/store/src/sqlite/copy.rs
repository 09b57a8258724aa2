//! Copies of the whole database: out of a store that goes on working, and back into place.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use rusqlite::{Connection, OpenFlags, params};

use super::{SCHEMA_VERSION, failed, not_opened, prepare_schema, private_file, read, schema_version};
use crate::{Record, Revision, StoreError};

/// How far a restored store's revision is above the backup's: more than any store counts between a backup and its loss.
const RESTORED: u64 = 1 << 40;

/// Writes a copy to a new file: as things are at one revision, on the disk when this returns.
pub(super) fn backup(from: &Path, to: &Path) -> Result<(), StoreError> {
    let failed_io = |e: std::io::Error| StoreError::Backend {
        action: "back up the database",
        reason: format!("{}: {e}", to.display()),
    };
    absent(to)?;
    let partial = beside(to);
    // VACUUM INTO takes an empty file, and keeps its mode.
    discard(&partial)
        .and_then(|()| private_file(&partial).map(drop))
        .map_err(failed_io)?;
    let written = write_copy(from, &partial);
    let finished = written.and_then(|()| put_in_place(&partial, to).map_err(failed_io));
    if finished.is_err() {
        _ = fs::remove_file(&partial); // the reason why it failed is the one to report
    }
    finished
}

fn write_copy(from: &Path, to: &Path) -> Result<(), StoreError> {
    let action = failed("back up the database");
    let name = to
        .to_str()
        .ok_or_else(|| StoreError::Invalid(format!("{} is not valid UTF-8", to.display())))?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(from, flags).map_err(&action)?;
    connection
        .busy_timeout(std::time::Duration::from_secs(10))
        .map_err(&action)?;
    connection.execute("VACUUM INTO ?1", [name]).map_err(&action)?;
    Ok(())
}

/// A database that is being made of somebody else's records.
pub(crate) struct NewDatabase {
    connection: Connection,
    partial: PathBuf,
    path: PathBuf,
}

impl NewDatabase {
    /// # Errors
    /// `Invalid` when there is a file at `path`; `Backend`.
    pub(crate) fn create(path: &Path) -> Result<Self, StoreError> {
        absent(path)?;
        let partial = beside(path);
        discard(&partial)
            .and_then(|()| private_file(&partial).map(drop))
            .map_err(|e| not_opened(&partial, &e))?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&partial, flags).map_err(|e| not_opened(&partial, &e))?;
        // It is nothing until it has its name, and is synced before that.
        connection
            .pragma_update(None, "synchronous", "OFF")
            .map_err(failed("make a copy"))?;
        prepare_schema(&connection)?;
        Ok(Self {
            connection,
            partial,
            path: path.to_owned(),
        })
    }

    /// Takes in records, each once.
    pub(crate) fn add(&mut self, records: &[Record]) -> Result<(), StoreError> {
        let action = failed("make a copy");
        let transaction = self.connection.transaction().map_err(&action)?;
        for Record {
            key,
            value,
            created,
            modified,
        } in records
        {
            let key = key.encode()?;
            transaction
                .prepare_cached("INSERT INTO records (key, value, created, modified) VALUES (?1, ?2, ?3, ?4)")
                .and_then(|mut insert| insert.execute(params![key, &value[..], created.0 as i64, modified.0 as i64]))
                .map_err(&action)?;
        }
        transaction.commit().map_err(&action)
    }

    /// Makes it durable under its name, at a revision, without history.
    pub(crate) fn finish(self, revision: Revision) -> Result<(), StoreError> {
        let action = failed("make a copy");
        self.connection
            .execute(
                "UPDATE head SET revision = ?1, compacted = ?1",
                params![revision.0 as i64],
            )
            .map_err(&action)?;
        self.connection.close().map_err(|(_, e)| action(e))?;
        put_in_place(&self.partial, &self.path).map_err(|e| not_opened(&self.path, &e))
    }
}

/// Copies a backup to where a store is opened.
pub(super) fn restore(backup: &Path, path: &Path) -> Result<Revision, StoreError> {
    let failed_io = |e: std::io::Error| StoreError::Backend {
        action: "restore the database",
        reason: format!("{} to {}: {e}", backup.display(), path.display()),
    };
    absent(path)?;
    let partial = beside(path);
    let copied = discard(&partial)
        .and_then(|()| Ok((File::open(backup)?, private_file(&partial)?)))
        .and_then(|(mut from, mut to)| std::io::copy(&mut from, &mut to));
    let finished = copied
        .map_err(failed_io)
        .and_then(|_| start_anew(&partial))
        .and_then(|revision| {
            put_in_place(&partial, path).map_err(failed_io)?;
            Ok(revision)
        });
    if finished.is_err() {
        _ = fs::remove_file(&partial); // the reason why it failed is the one to report
    }
    finished
}

/// Checks a copy and begins a new history in it.
fn start_anew(path: &Path) -> Result<Revision, StoreError> {
    let action = failed("restore the database");
    let damaged = |reason: String| StoreError::Backend {
        action: "restore the database",
        reason,
    };
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(&action)?;
    let version = schema_version(&connection)?;
    if version != SCHEMA_VERSION {
        return Err(damaged(format!(
            "the backup is of version {version}, this madang knows {SCHEMA_VERSION}"
        )));
    }
    let found: String = connection
        .query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))
        .map_err(&action)?;
    if found != "ok" {
        return Err(damaged(format!("the backup is damaged: {found}")));
    }
    let head = read::head(&connection).map_err(&action)?;
    let revision = Revision(head.revision.0 + RESTORED);
    let at = revision.0 as i64;
    connection
        .execute_batch("PRAGMA journal_mode = DELETE; DELETE FROM history;")
        .map_err(&action)?;
    connection
        .execute(
            "UPDATE head SET revision = ?1, compacted = ?1, history_bytes = 0",
            params![at],
        )
        .map_err(&action)?;
    connection.close().map_err(|(_, e)| action(e))?;
    Ok(revision)
}

fn absent(path: &Path) -> Result<(), StoreError> {
    match fs::symlink_metadata(path) {
        Ok(_) => Err(StoreError::Invalid(format!(
            "there is a file at {} already",
            path.display()
        ))),
        Err(_) => Ok(()),
    }
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

fn discard(path: &Path) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Makes a finished file durable under its name.
fn put_in_place(partial: &Path, to: &Path) -> std::io::Result<()> {
    File::open(partial)?.sync_all()?;
    fs::rename(partial, to)?;
    let parent = to
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}
