//! A transaction made ready for the writer by its caller, so that the one writer thread does only what needs it.

use ahash::AHashMap;
use bytes::Bytes;
use jiff::Timestamp;

use crate::{Cause, Delta, Expect, Key, MAX_VALUE_BYTES, Revision, StoreError, Txn, Write};

/// Keys are encoded, sizes are checked, every key is written once.
pub(super) struct Prepared {
    pub(super) expects: Vec<Wanted>,
    pub(super) writes: Vec<Change>,
    pub(super) cause: Cause,
    pub(super) at: Timestamp,
}

/// An expectation.
pub(super) struct Wanted {
    pub(super) key: Key,
    pub(super) encoded: String,
    /// None: absent.
    pub(super) at: Option<Revision>,
    /// Where in `writes` the same key is, if it is: it need not be looked up twice then.
    pub(super) write: Option<usize>,
}

/// A write.
pub(super) struct Change {
    pub(super) key: Key,
    pub(super) encoded: String,
    pub(super) what: What,
}

pub(super) enum What {
    Put(Bytes),
    Delete,
    /// All that the transaction adds to this record, in order.
    Add(Vec<Delta>),
}

impl Prepared {
    /// # Errors
    /// `Invalid` for an impossible key, a value that is too large, or a key that is written twice.
    pub(super) fn new(txn: Txn) -> Result<Self, StoreError> {
        let Txn {
            expects,
            writes,
            cause,
            at,
        } = txn;
        let mut places: AHashMap<String, usize> = AHashMap::with_capacity(writes.len());
        let mut changes: Vec<Change> = Vec::with_capacity(writes.len());
        for write in writes {
            let (key, what) = match write {
                Write::Put(key, value) => (key, What::Put(value)),
                Write::Delete(key) => (key, What::Delete),
                Write::Add(key, deltas) => (key, What::Add(deltas)),
            };
            if let What::Put(value) = &what
                && value.len() > MAX_VALUE_BYTES
            {
                let size = value.len();
                return Err(StoreError::Invalid(format!(
                    "{key} is {size} bytes, at most {MAX_VALUE_BYTES} fit"
                )));
            }
            let encoded = key.encode()?;
            match places.get(&encoded) {
                None => {
                    places.insert(encoded.clone(), changes.len());
                    changes.push(Change { key, encoded, what });
                }
                Some(place) => match (&mut changes[*place].what, what) {
                    (What::Add(before), What::Add(more)) => before.extend(more),
                    _ => return Err(StoreError::Invalid(format!("a transaction writes {key} twice"))),
                },
            }
        }
        let wanted = expects.into_iter().map(|expect| {
            let (key, at) = match expect {
                Expect::Absent(key) => (key, None),
                Expect::At(key, revision) => (key, Some(revision)),
            };
            let encoded = key.encode()?;
            let write = places.get(&encoded).copied();
            Ok(Wanted {
                key,
                encoded,
                at,
                write,
            })
        });
        Ok(Self {
            expects: wanted.collect::<Result<_, StoreError>>()?,
            writes: changes,
            cause,
            at,
        })
    }
}
