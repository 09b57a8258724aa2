//! The transactions of one commit: each is checked in full before its first write, so that a refused one leaves nothing
//! behind and its neighbours go on.

use std::sync::Arc;

use bytes::Bytes;
use rusqlite::{CachedStatement, Connection, OptionalExtension, params};

use super::Known;
use crate::{
    Batch, Delta, Event, Key, Revision, StoreError, batch,
    counting::{self, CounterFields},
    prepared::{Change, Prepared, Wanted, What},
    recent::Recent,
    sqlite::read::Head,
};

/// An open SQLite transaction and how far it has come.
pub(super) struct Group<'c> {
    connection: &'c Connection,
    recent: &'c mut Recent<Known>,
    find: CachedStatement<'c>,
    read: CachedStatement<'c>,
    insert: CachedStatement<'c>,
    update: CachedStatement<'c>,
    put: CachedStatement<'c>,
    delete: CachedStatement<'c>,
    note: CachedStatement<'c>,
    move_head: CachedStatement<'c>,
    head: Head,
    batches: Vec<Arc<Batch>>,
}

/// One write, decided.
struct Decided {
    encoded: String,
    found: Found,
    event: Event,
    /// The sums of a counter record.
    sums: Option<CounterFields>,
}

/// What is known of the record that a write goes to.
#[derive(Clone, Copy)]
enum Found {
    /// Not looked up.
    Unknown,
    Absent,
    /// Its row.
    Row(i64),
}

impl<'c> Group<'c> {
    /// `recent` is what is known before; whoever rolls the transaction back clears it.
    pub(super) fn begin(
        connection: &'c Connection,
        recent: &'c mut Recent<Known>,
        head: Head,
    ) -> rusqlite::Result<Self> {
        Ok(Self {
            connection,
            recent,
            find: connection.prepare_cached("SELECT id, modified FROM records WHERE key = ?1")?,
            read: connection.prepare_cached("SELECT id, value FROM records WHERE key = ?1")?,
            insert: connection
                .prepare_cached("INSERT INTO records (key, value, created, modified) VALUES (?1, ?2, ?3, ?3)")?,
            update: connection.prepare_cached("UPDATE records SET value = ?2, modified = ?3 WHERE id = ?1")?,
            put: connection.prepare_cached(
                "INSERT INTO records (key, value, created, modified) VALUES (?1, ?2, ?3, ?3)
                 ON CONFLICT (key) DO UPDATE SET value = excluded.value, modified = excluded.modified",
            )?,
            delete: connection.prepare_cached("DELETE FROM records WHERE id = ?1")?,
            note: connection.prepare_cached("INSERT INTO history (revision, batch) VALUES (?1, ?2)")?,
            move_head: connection.prepare_cached("UPDATE head SET revision = ?1, history_bytes = ?2")?,
            head,
            batches: Vec::new(),
        })
    }

    /// Checks everything a transaction expects, then writes it at the next revision. One that changes nothing has the
    /// newest revision.
    pub(super) fn apply(&mut self, txn: Prepared) -> Result<Revision, ApplyError> {
        let mut found = vec![Found::Unknown; txn.writes.len()];
        for wanted in &txn.expects {
            let there = self.check(wanted)?;
            if let Some(write) = wanted.write {
                found[write] = there;
            }
        }
        // Whatever may refuse comes before the first write.
        let mut changes = Vec::with_capacity(txn.writes.len());
        for (Change { key, encoded, what }, found) in txn.writes.into_iter().zip(found) {
            let (value, found, sums) = match what {
                What::Put(value) => (Some(value), self.recall(&encoded, found), None),
                What::Delete => (None, self.look_up(&encoded, found)?, None),
                What::Add(deltas) => self.count(&key, &encoded, &deltas)?,
            };
            if value.is_some() || matches!(found, Found::Row(_)) {
                let event = Event { key, value };
                changes.push(Decided {
                    encoded,
                    found,
                    event,
                    sums,
                });
            }
        }
        if changes.is_empty() {
            return Ok(self.head.revision);
        }
        let revision = self.head.revision.next();
        for change in &mut changes {
            self.write(revision, change)?;
        }
        let pairs = changes
            .iter()
            .map(|change| (change.encoded.as_str(), change.event.value.as_deref()));
        let noted = batch::encode(&txn.cause, txn.at, pairs);
        self.note.execute(params![revision.0 as i64, noted])?;
        self.head.revision = revision;
        self.head.history_bytes += noted.len() as u64;
        let events = changes.into_iter().map(|change| change.event).collect();
        self.batches.push(Arc::new(Batch {
            revision,
            cause: txn.cause,
            at: txn.at,
            events,
        }));
        Ok(revision)
    }

    /// The new head, once it is noted in the database, and what to show to watchers after the commit.
    pub(super) fn finish(mut self) -> rusqlite::Result<(Head, Vec<Arc<Batch>>)> {
        if !self.batches.is_empty() {
            let Head {
                revision,
                history_bytes,
                ..
            } = self.head;
            self.move_head
                .execute(params![revision.0 as i64, history_bytes as i64])?;
        }
        Ok((self.head, self.batches))
    }

    fn check(&mut self, wanted: &Wanted) -> Result<Found, ApplyError> {
        let found = self.find(&wanted.encoded)?;
        let key = || wanted.key.clone();
        match (wanted.at, found) {
            (None, None) => Ok(Found::Absent),
            (None, Some(_)) => Err(StoreError::Exists { key: key() }.into()),
            (Some(at), Some((row, modified))) if at == modified => Ok(Found::Row(row)),
            (Some(_), Some(_)) => Err(StoreError::Conflict { key: key() }.into()),
            (Some(_), None) => Err(StoreError::NotFound { key: key() }.into()),
        }
    }

    /// The row and the revision of a record.
    fn find(&mut self, encoded: &str) -> rusqlite::Result<Option<(i64, Revision)>> {
        if let Some(known) = self.recent.get(encoded) {
            return Ok(Some((known.row, known.modified)));
        }
        let found = self.find.query_row([encoded], |row| {
            Ok((row.get(0)?, Revision(row.get::<_, i64>(1)? as u64)))
        });
        found.optional()
    }

    fn look_up(&mut self, encoded: &str, found: Found) -> rusqlite::Result<Found> {
        if !matches!(found, Found::Unknown) {
            return Ok(found);
        }
        Ok(self.find(encoded)?.map_or(Found::Absent, |(row, _)| Found::Row(row)))
    }

    /// As [`Group::look_up`], without looking: who does not know writes either way.
    fn recall(&mut self, encoded: &str, found: Found) -> Found {
        match (found, self.recent.get(encoded)) {
            (Found::Unknown, Some(known)) => Found::Row(known.row),
            (found, _) => found,
        }
    }

    /// The new value of a counter record, none when it comes to nothing, and its sums.
    fn count(&mut self, key: &Key, encoded: &str, deltas: &[Delta]) -> Result<Counted, ApplyError> {
        let (mut sums, found) = match self.recent.get(encoded) {
            Some(Known {
                row, sums: Some(sums), ..
            }) => (sums.clone(), Found::Row(*row)),
            _ => self.read_sums(key, encoded)?,
        };
        for delta in deltas {
            counting::add(key, &mut sums, delta)?;
        }
        if sums.is_empty() {
            return Ok((None, found, None));
        }
        Ok((Some(counting::encode(key, &sums)?), found, Some(sums)))
    }

    fn read_sums(&mut self, key: &Key, encoded: &str) -> Result<(CounterFields, Found), ApplyError> {
        let record: Option<(i64, Vec<u8>)> = self
            .read
            .query_row([encoded], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let Some((row, value)) = record else {
            return Ok((CounterFields::new(), Found::Absent));
        };
        Ok((counting::decode(key, &value)?, Found::Row(row)))
    }

    fn write(&mut self, revision: Revision, change: &mut Decided) -> rusqlite::Result<()> {
        let (key, at) = (change.encoded.as_str(), revision.0 as i64);
        let row = match (change.event.value.as_deref(), change.found) {
            (Some(value), Found::Absent) => {
                self.insert.execute(params![key, value, at])?;
                Some(self.connection.last_insert_rowid())
            }
            (Some(value), Found::Row(row)) => {
                self.update.execute(params![row, value, at])?;
                Some(row)
            }
            (Some(value), Found::Unknown) => {
                self.put.execute(params![key, value, at])?;
                None // inserted or not: SQLite does not say which row it is
            }
            (None, Found::Row(row)) => {
                self.delete.execute([row])?;
                self.recent.forget(key);
                None
            }
            (None, Found::Absent | Found::Unknown) => None, // nothing to remove
        };
        if let Some(row) = row {
            let known = Known {
                row,
                modified: revision,
                sums: change.sums.take(),
            };
            self.recent.note(key, known);
        }
        Ok(())
    }
}

/// A counter record as it will be: its value, where it is, its sums.
type Counted = (Option<Bytes>, Found, Option<CounterFields>);

/// Why a transaction was not applied.
pub(super) enum ApplyError {
    /// It is not to be; nothing was written.
    Refused(StoreError),
    /// The engine failed; the whole group is off.
    Sqlite(rusqlite::Error),
}

impl From<StoreError> for ApplyError {
    fn from(refused: StoreError) -> Self {
        Self::Refused(refused)
    }
}

impl From<rusqlite::Error> for ApplyError {
    fn from(e: rusqlite::Error) -> Self {
        Self::Sqlite(e)
    }
}
