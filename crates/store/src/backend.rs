//! The contract that every engine under the store keeps.
//!
//! What must hold, and is tested by [`crate::contract`] on each engine:
//! - an acknowledged transaction survives `kill -9` and power loss; one that failed left nothing;
//! - all writes of a transaction appear at one revision, and a watcher gets them in one [`Batch`];
//! - a watcher sees every batch after the revision it asked for, in order, or [`StoreError::Compacted`].

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{Key, Prefix, StoreError};

/// The largest value of a record in bytes. Bytes that flow belong elsewhere; etcd takes 1.5 MiB a request.
pub const MAX_VALUE_BYTES: usize = 1 << 20;

/// A point in the history of the whole store. Counts transactions that changed something, from 1; 0 is before the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Revision(pub u64);

impl Revision {
    /// The revision after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Who caused a change, and through which request. Kept with every revision: it is the audit trail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// A user id, or `system:<controller>`.
    pub actor: Arc<str>,
    /// The request's id (`req-…`), empty for what no request caused.
    pub request: Arc<str>,
}

impl Cause {
    /// A change by a user's request.
    pub fn request(actor: impl Into<Arc<str>>, request: impl Into<Arc<str>>) -> Self {
        Self {
            actor: actor.into(),
            request: request.into(),
        }
    }

    /// A change by a part of madang itself.
    pub fn system(controller: &str) -> Self {
        Self {
            actor: format!("system:{controller}").into(),
            request: "".into(),
        }
    }
}

/// A stored value and its history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where it is.
    pub key: Key,
    /// What it is: JSON.
    pub value: Bytes,
    /// The revision that created it.
    pub created: Revision,
    /// The revision that last changed it.
    pub modified: Revision,
}

/// What a transaction requires of one record before it writes anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// There is no such record.
    Absent(Key),
    /// It was last modified at exactly this revision.
    At(Key, Revision),
}

/// One write of a transaction. A transaction writes a key at most once; several `Add` of one key are as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Sets a record.
    Put(Key, Bytes),
    /// Removes a record; nothing happens when there is none.
    Delete(Key),
    /// Adds to a counter record, made when absent: a JSON object of integers. Decided inside the commit, so that many
    /// writers never conflict on it. A field that comes to 0 is dropped from the record.
    Add(Key, Vec<Delta>),
}

/// A change of one field of a counter record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delta {
    /// The field within the record.
    pub field: String,
    /// What to add; may be negative. The sum never goes below 0.
    pub add: i64,
    /// The most the sum may be, checked only when adding more than 0; the whole transaction fails above it.
    pub limit: Option<i64>,
}

/// Several writes, all or nothing.
#[derive(Clone, Debug)]
pub struct Txn {
    /// What must be so.
    pub expects: Vec<Expect>,
    /// What then happens, in this order.
    pub writes: Vec<Write>,
    /// Who wants it.
    pub cause: Cause,
    /// When it was asked.
    pub at: Timestamp,
}

/// A change of one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Which.
    pub key: Key,
    /// Its value now; none when it was removed.
    pub value: Option<Bytes>,
}

/// Everything one transaction changed (of what a watcher asked for).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The transaction's revision.
    pub revision: Revision,
    /// Who caused it.
    pub cause: Cause,
    /// When.
    pub at: Timestamp,
    /// What changed, in the order of the transaction's writes; each key once.
    pub events: Vec<Event>,
}

/// Some records, and when they were so.
#[derive(Clone, Debug)]
pub struct Page {
    /// In key order.
    pub records: Vec<Record>,
    /// The revision at which all of them were read.
    pub revision: Revision,
    /// Whether more follow after the last.
    pub more: bool,
}

/// Some records in the order of the engine.
#[derive(Clone, Debug)]
pub struct Scan {
    /// In no order that means anything.
    pub records: Vec<Record>,
    /// The revision at which they were read.
    pub revision: Revision,
    /// Where to go on; none after the last.
    pub next: Option<u64>,
}

/// A stream of batches without gaps.
#[async_trait]
pub trait Watch: Send {
    /// The next batch that has an event for the watched prefix; waits for it. May be dropped and called again.
    ///
    /// # Errors
    /// `Compacted` when changes that were not delivered yet are gone; `Closed` at shutdown; `Backend`.
    async fn next(&mut self) -> Result<Arc<Batch>, StoreError>;

    /// The next batch, for which it waits, and those after it that are at hand, `limit` at most. May be dropped and
    /// called again.
    ///
    /// # Errors
    /// As [`Watch::next`].
    async fn next_many(&mut self, limit: usize) -> Result<Vec<Arc<Batch>>, StoreError> {
        _ = limit; // one is always within it
        Ok(vec![self.next().await?])
    }
}

/// An engine. SQLite is the embedded default, etcd is for several machines.
#[async_trait]
pub trait Backend: Send + Sync {
    /// One record, or none.
    async fn get(&self, key: &Key) -> Result<Option<Record>, StoreError>;

    /// Up to `limit` records in key order, after the key `after`, all read at one revision.
    async fn range(&self, prefix: &Prefix, after: Option<&Key>, limit: usize) -> Result<Page, StoreError>;

    /// Up to `limit` records from the place `from` on, in the order that costs the engine least; 0 is the beginning. From
    /// one page to the next, every record that was there all the time comes once; one that is written meanwhile comes as
    /// it was or is, twice, or not at all.
    async fn scan(&self, from: u64, limit: usize) -> Result<Scan, StoreError>;

    /// Commits a transaction, durably, and says at which revision; one that changes nothing may get the newest there
    /// is. Dropping the future does not take the transaction back: it is committed or not.
    ///
    /// # Errors
    /// `Conflict`/`Exists`/`NotFound` for the first expectation that does not hold, `LimitExceeded` for a counter,
    /// `Invalid` for a key or value the store does not take or a key written twice; nothing was written then.
    /// `Backend` when the engine failed, a full disk for one: nothing that others can see was written, and later
    /// transactions go through once the cause is gone.
    async fn txn(&self, txn: Txn) -> Result<Revision, StoreError>;

    /// Batches after revision `after` that touch `prefix`.
    ///
    /// # Errors
    /// `Compacted` when changes after `after` are gone already, or `after` is no revision of this store (which was
    /// restored from an older copy, perhaps): list, and watch from the revision of the list.
    async fn watch(&self, prefix: Prefix, after: Revision) -> Result<Box<dyn Watch>, StoreError>;

    /// The newest revision.
    async fn revision(&self) -> Result<Revision, StoreError>;

    /// Forgets how things were up to and including `through`; records stay.
    async fn compact(&self, through: Revision) -> Result<(), StoreError>;

    /// Writes a consistent copy of everything to a new file, durably, while others read and write.
    ///
    /// # Errors
    /// `Invalid` when the file exists; `Backend`.
    async fn backup(&self, to: &std::path::Path) -> Result<(), StoreError>;

    /// Does what was submitted, lets watchers have it, and stops; later calls fail with `Closed`.
    async fn close(&self);
}
