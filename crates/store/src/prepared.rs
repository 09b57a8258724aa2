//! A transaction made ready for an engine's one writer by its caller, so that the writer does only what needs it.

use ahash::AHashMap;
use bytes::Bytes;
use jiff::Timestamp;

use crate::{Cause, Delta, Expect, Key, MAX_VALUE_BYTES, Revision, StoreError, Txn, Write};

/// Keys are encoded, sizes are checked, every key is written once.
pub(crate) struct Prepared {
    pub(crate) expects: Vec<Wanted>,
    pub(crate) writes: Vec<Change>,
    pub(crate) cause: Cause,
    pub(crate) at: Timestamp,
}

/// An expectation.
pub(crate) struct Wanted {
    pub(crate) key: Key,
    pub(crate) encoded: String,
    /// None: absent.
    pub(crate) at: Option<Revision>,
    /// Where in `writes` the same key is, if it is: it need not be looked up twice then.
    pub(crate) write: Option<usize>,
}

/// A write.
pub(crate) struct Change {
    pub(crate) key: Key,
    pub(crate) encoded: String,
    pub(crate) what: What,
}

pub(crate) enum What {
    Put(Bytes),
    Delete,
    /// All that the transaction adds to this record, in order.
    Add(Vec<Delta>),
}

impl Prepared {
    /// # Errors
    /// `Invalid` for an impossible key, a value that is too large, or a key that is written twice.
    pub(crate) fn new(txn: Txn) -> Result<Self, StoreError> {
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
