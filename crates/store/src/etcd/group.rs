//! The transactions of one commit, decided on what the writer knows of their records.
//!
//! Each is checked in full before it changes anything, so that a refused one leaves nothing behind and its neighbours go on.

use std::sync::Arc;

use ahash::AHashMap;
use bytes::Bytes;

use super::{
    layout::{Entry, Head, Layout, Nonce, RECORD_HEADER, encode_record},
    wire::{DeleteRequest, PutRequest, Request, RequestOp, TxnRequest},
};
use crate::{
    Batch, Delta, Event, Key, Revision, StoreError,
    counting::{self, CounterFields},
    prepared::{Change, Prepared, Wanted, What},
    recent::Recent,
};

/// What is known of the record at a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Known {
    Absent,
    There {
        created: Revision,
        modified: Revision,
        /// Its sums, if it is a counter record and they have been read.
        sums: Option<CounterFields>,
    },
}

/// A commit that is being put together.
pub(super) struct Group<'w> {
    layout: &'w Layout,
    recent: &'w mut Recent<Known>,
    head: Head,
    batches: Vec<Batch>,
    /// The last write of every key: in which batch, at which place, and what the record then is.
    last: AHashMap<String, (usize, usize, Option<Bytes>)>,
}

/// A commit that can be sent.
pub(super) struct Sealed {
    pub(super) head: Head,
    pub(super) batches: Vec<Arc<Batch>>,
    pub(super) nonce: Nonce,
    /// `log` and `head`.
    first: Vec<RequestOp>,
    records: Vec<RequestOp>,
    /// About what etcd will count.
    pub(super) bytes: usize,
}

/// One write, decided.
struct Decided {
    encoded: String,
    event: Event,
    created: Revision,
    sums: Option<CounterFields>,
}

impl<'w> Group<'w> {
    /// Everything that its transactions touch is in `recent`; whoever does not send it clears that.
    pub(super) fn begin(layout: &'w Layout, recent: &'w mut Recent<Known>, head: Head) -> Self {
        Self {
            layout,
            recent,
            head,
            batches: Vec::new(),
            last: AHashMap::new(),
        }
    }

    /// Decides one; one that changes nothing has the newest revision.
    pub(super) fn apply(&mut self, txn: &Prepared) -> Result<Revision, StoreError> {
        for wanted in &txn.expects {
            self.check(wanted)?;
        }
        let revision = self.head.revision.next();
        let mut changes = Vec::with_capacity(txn.writes.len());
        for Change { key, encoded, what } in &txn.writes {
            let known = self.known(key, encoded)?;
            let created = match known {
                Known::There { created, .. } => Some(*created),
                Known::Absent => None,
            };
            let (value, sums) = match what {
                What::Put(value) => (Some(value.clone()), None),
                What::Delete => (None, None),
                What::Add(deltas) => {
                    let sums = match known {
                        Known::Absent => CounterFields::new(),
                        Known::There { sums: Some(sums), .. } => sums.clone(),
                        Known::There { sums: None, .. } => self.sums_of_this_commit(key, encoded)?,
                    };
                    count(key, sums, deltas)?
                }
            };
            if value.is_some() || created.is_some() {
                changes.push(Decided {
                    encoded: encoded.clone(),
                    event: Event {
                        key: key.clone(),
                        value,
                    },
                    created: created.unwrap_or(revision),
                    sums,
                });
            }
        }
        if changes.is_empty() {
            return Ok(self.head.revision);
        }
        self.head.revision = revision;
        let batch = self.batches.len();
        let mut events = Vec::with_capacity(changes.len());
        for (place, change) in changes.into_iter().enumerate() {
            let Decided {
                encoded,
                event,
                created,
                sums,
            } = change;
            let value = event.value.as_ref();
            let known = match value {
                Some(_) => Known::There {
                    created,
                    modified: revision,
                    sums,
                },
                None => Known::Absent,
            };
            self.recent.note(&encoded, known);
            let value = value.map(|value| encode_record(created, revision, value));
            self.last.insert(encoded, (batch, place, value));
            events.push(event);
        }
        self.batches.push(Batch {
            revision,
            cause: txn.cause.clone(),
            at: txn.at,
            events,
        });
        Ok(revision)
    }

    /// What is to be sent; none when nothing changes.
    pub(super) fn seal(self) -> Result<Option<Sealed>, StoreError> {
        if self.batches.is_empty() {
            return Ok(None);
        }
        let mut elsewhere = vec![Vec::new(); self.batches.len()];
        let mut bytes = 0;
        let mut records = Vec::with_capacity(self.last.len());
        for (encoded, (batch, place, value)) in self.last {
            let key = self.layout.record(&encoded);
            // Lengths and tags of the message around them.
            bytes += key.len() + 24;
            let request = match value {
                Some(value) => {
                    elsewhere[batch].push(place as u32);
                    bytes += value.len();
                    Request::Put(PutRequest { key, value })
                }
                None => Request::Delete(DeleteRequest {
                    key,
                    range_end: Bytes::new(),
                }),
            };
            records.push(request.into());
        }
        let nonce = uuid::Uuid::new_v4().as_u128();
        let logged: Vec<(&Batch, Vec<u32>)> = self
            .batches
            .iter()
            .zip(elsewhere)
            .map(|(batch, mut places)| {
                places.sort_unstable();
                (batch, places)
            })
            .collect();
        let entry = Entry::encode(nonce, self.head.written, &logged)?;
        bytes += entry.len() + 256;
        let mut head = self.head;
        head.written += bytes as u64;
        let put = |key, value| Request::Put(PutRequest { key, value }).into();
        Ok(Some(Sealed {
            first: vec![
                put(self.layout.log(head.revision), entry),
                put(self.layout.head(), head.encode()),
            ],
            head,
            batches: self.batches.into_iter().map(Arc::new).collect(),
            nonce,
            records,
            bytes,
        }))
    }

    fn check(&self, wanted: &Wanted) -> Result<(), StoreError> {
        let key = || wanted.key.clone();
        match (wanted.at, self.recent.peek(&wanted.encoded)) {
            (_, None) => Err(not_known(&wanted.key)),
            (None, Some(Known::Absent)) => Ok(()),
            (None, Some(Known::There { .. })) => Err(StoreError::Exists { key: key() }),
            (Some(_), Some(Known::Absent)) => Err(StoreError::NotFound { key: key() }),
            (Some(at), Some(Known::There { modified, .. })) if at == *modified => Ok(()),
            (Some(_), Some(Known::There { .. })) => Err(StoreError::Conflict { key: key() }),
        }
    }

    /// The sums of a record that was put by a transaction before; another one is no counter.
    fn sums_of_this_commit(&self, key: &Key, encoded: &str) -> Result<CounterFields, StoreError> {
        match self.last.get(encoded) {
            Some((_, _, Some(record))) => counting::decode(key, &record[RECORD_HEADER..]),
            _ => Err(StoreError::Decode {
                key: key.clone(),
                reason: "not a counter".to_owned(),
            }),
        }
    }

    fn known(&self, key: &Key, encoded: &str) -> Result<&Known, StoreError> {
        self.recent.peek(encoded).ok_or_else(|| not_known(key))
    }
}

impl Sealed {
    /// As operations of one transaction of etcd's, which takes `most` operations on each level, and on all levels of one
    /// path together.
    ///
    /// # Errors
    /// `Invalid` when there are more than fit.
    pub(super) fn operations(&self, most: usize) -> Result<Vec<RequestOp>, StoreError> {
        let mut operations = self.first.clone();
        if operations.len() + self.records.len() <= most {
            operations.extend(self.records.iter().cloned());
            return Ok(operations);
        }
        let half = most / 2;
        let nested = self.records.chunks(half.max(1)).map(|some| {
            let txn = TxnRequest {
                success: some.to_vec(),
                ..TxnRequest::default()
            };
            RequestOp::from(Request::Txn(txn))
        });
        operations.extend(nested);
        if operations.len() > half {
            return Err(StoreError::Invalid(format!(
                "a transaction of {} writes is more than etcd takes: {} with its --max-txn-ops of {most}",
                self.records.len(),
                most_writes(most)
            )));
        }
        Ok(operations)
    }
}

/// Writes that fit into one transaction.
pub(super) fn most_writes(max_txn_ops: usize) -> usize {
    let half = max_txn_ops / 2;
    half.saturating_sub(2) * half
}

/// The new value of a counter record, none when it comes to nothing, and its sums.
fn count(
    key: &Key,
    mut sums: CounterFields,
    deltas: &[Delta],
) -> Result<(Option<Bytes>, Option<CounterFields>), StoreError> {
    for delta in deltas {
        counting::add(key, &mut sums, delta)?;
    }
    if sums.is_empty() {
        return Ok((None, None));
    }
    Ok((Some(counting::encode(key, &sums)?), Some(sums)))
}

fn not_known(key: &Key) -> StoreError {
    StoreError::Backend {
        action: "commit",
        reason: format!("{key} was not looked up"),
    }
}
