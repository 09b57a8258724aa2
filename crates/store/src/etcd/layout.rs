//! What lies where in etcd, below the store's prefix:
//!
//! ```text
//! head              the newest revision; every commit expects it as it was and writes it anew
//! owner             the madang that may write
//! importing         there while a copy is brought in
//! log/<revision>    the transactions of one commit, under the revision of the last
//! records/<key>     the revisions that created and last changed a record, and its value
//! ```
//! One commit is one transaction of etcd's, of several of ours: the log says which, by whom and when. A value is in its
//! record; the log holds only those that another transaction of the same commit has written over. So the past of a record
//! is etcd's own past, and etcd's compaction takes it away.

use bytes::{Buf, BufMut, Bytes};

use crate::{
    Batch, Key, Prefix, Record, Revision, StoreError,
    batch::{self, put, take},
};

/// The first byte of `head` and of every entry of the log; another one is another format.
const FORMAT: u8 = 1;
/// Bytes before a record's value.
pub(super) const RECORD_HEADER: usize = 16;
/// Who made a commit, and which it was.
pub(super) type Nonce = u128;

/// Keys below a prefix.
#[derive(Clone, Debug)]
pub(super) struct Layout(String);

impl Layout {
    /// `prefix` ends in a slash.
    pub(super) fn new(prefix: &str) -> Self {
        Self(prefix.to_owned())
    }

    pub(super) fn prefix(&self) -> &str {
        &self.0
    }

    pub(super) fn head(&self) -> Bytes {
        format!("{}head", self.0).into()
    }

    pub(super) fn owner(&self) -> Bytes {
        format!("{}owner", self.0).into()
    }

    pub(super) fn importing(&self) -> Bytes {
        format!("{}importing", self.0).into()
    }

    /// Everything of this store.
    pub(super) fn all(&self) -> (Bytes, Bytes) {
        (self.0.clone().into(), end_of(&self.0))
    }

    pub(super) fn record(&self, encoded: &str) -> Bytes {
        format!("{}records/{encoded}", self.0).into()
    }

    /// Records that begin with a prefix, above a key.
    pub(super) fn records(&self, prefix: &Prefix, after: Option<&str>) -> (Bytes, Bytes) {
        let front = format!("{}records/{}", self.0, prefix.as_str());
        let end = end_of(&front);
        let start = match after {
            Some(after) => format!("{}records/{after}\0", self.0).max(front),
            None => front,
        };
        (start.into(), end)
    }

    /// The encoded key of a record.
    pub(super) fn encoded<'k>(&self, key: &'k [u8]) -> Option<&'k str> {
        let encoded = key.strip_prefix(self.0.as_bytes())?.strip_prefix(b"records/")?;
        std::str::from_utf8(encoded).ok()
    }

    pub(super) fn log(&self, last: Revision) -> Bytes {
        format!("{}log/{:016x}", self.0, last.0).into()
    }

    /// The log's entries whose last revision is above `after`, up to `through`.
    pub(super) fn log_between(&self, after: Revision, through: Revision) -> (Bytes, Bytes) {
        let above = |revision: Revision| self.log(Revision(revision.0.saturating_add(1)));
        (above(after), above(through))
    }
}

/// The first key above all that begin with `front`, which ends in a slash.
fn end_of(front: &str) -> Bytes {
    let mut end = front.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end.into()
}

/// Where the store stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    /// The newest revision.
    pub(super) revision: Revision,
    /// The newest that is forgotten.
    pub(super) compacted: Revision,
    /// Bytes ever written, as the log counts them.
    pub(super) written: u64,
}

impl Head {
    pub(super) fn encode(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(25);
        bytes.put_u8(FORMAT);
        bytes.put_u64_le(self.revision.0);
        bytes.put_u64_le(self.compacted.0);
        bytes.put_u64_le(self.written);
        bytes.into()
    }

    pub(super) fn decode(mut bytes: &[u8]) -> Result<Self, StoreError> {
        let unknown = || StoreError::Backend {
            action: "read its head in etcd",
            reason: "it is of another version than this madang knows".to_owned(),
        };
        if bytes.len() != 25 || bytes.get_u8() != FORMAT {
            return Err(unknown());
        }
        Ok(Self {
            revision: Revision(bytes.get_u64_le()),
            compacted: Revision(bytes.get_u64_le()),
            written: bytes.get_u64_le(),
        })
    }
}

/// The value of a record's key.
pub(super) fn encode_record(created: Revision, modified: Revision, value: &[u8]) -> Bytes {
    let mut bytes = Vec::with_capacity(RECORD_HEADER + value.len());
    bytes.put_u64_le(created.0);
    bytes.put_u64_le(modified.0);
    bytes.extend_from_slice(value);
    bytes.into()
}

/// The inverse of [`encode_record`].
pub(super) fn decode_record(key: Key, mut bytes: Bytes) -> Result<Record, StoreError> {
    if bytes.len() < RECORD_HEADER {
        return Err(StoreError::Decode {
            key,
            reason: format!("{} bytes are no record", bytes.len()),
        });
    }
    Ok(Record {
        key,
        created: Revision(bytes.get_u64_le()),
        modified: Revision(bytes.get_u64_le()),
        value: bytes,
    })
}

/// An entry of the log: the transactions of one commit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) nonce: Nonce,
    /// [`Head::written`] before it.
    pub(super) written: u64,
    pub(super) batches: Vec<Logged>,
}

/// A transaction in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Logged {
    pub(super) batch: Batch,
    /// Events whose values are in their records, as those were at the commit; in the batch they are empty.
    pub(super) elsewhere: Vec<u32>,
}

impl Entry {
    /// The bytes of a commit's batches; values at the places `elsewhere` are left out.
    pub(super) fn encode(nonce: Nonce, written: u64, batches: &[(&Batch, Vec<u32>)]) -> Result<Bytes, StoreError> {
        let mut bytes = Vec::new();
        bytes.put_u8(FORMAT);
        bytes.put_u128_le(nonce);
        bytes.put_u64_le(written);
        bytes.put_u32_le(batches.len() as u32);
        for (batch, elsewhere) in batches {
            bytes.put_u64_le(batch.revision.0);
            bytes.put_u32_le(elsewhere.len() as u32);
            for place in elsewhere {
                bytes.put_u32_le(*place);
            }
            let keys = batch.events.iter().map(|event| event.key.encode());
            let keys = keys.collect::<Result<Vec<String>, _>>()?;
            let mut left_out = elsewhere.iter().peekable();
            let events = batch.events.iter().zip(&keys).enumerate().map(|(place, (event, key))| {
                let is_elsewhere = left_out.next_if_eq(&&(place as u32)).is_some();
                let value = event.value.as_deref();
                (key.as_str(), if is_elsewhere { Some(&[][..]) } else { value })
            });
            let events: Vec<_> = events.collect();
            put(&mut bytes, &batch::encode(&batch.cause, batch.at, events.into_iter()));
        }
        Ok(bytes.into())
    }

    pub(super) fn decode(mut bytes: Bytes) -> Result<Self, StoreError> {
        Self::decode_from(&mut bytes).ok_or_else(|| StoreError::Backend {
            action: "read its changes",
            reason: "an entry of the log in etcd is damaged".to_owned(),
        })
    }

    fn decode_from(rest: &mut Bytes) -> Option<Self> {
        if rest.try_get_u8().ok()? != FORMAT {
            return None;
        }
        let (nonce, written) = (rest.try_get_u128_le().ok()?, rest.try_get_u64_le().ok()?);
        let count = rest.try_get_u32_le().ok()?;
        let mut batches = Vec::new();
        for _ in 0..count {
            let revision = Revision(rest.try_get_u64_le().ok()?);
            let mut elsewhere = Vec::new();
            for _ in 0..rest.try_get_u32_le().ok()? {
                elsewhere.push(rest.try_get_u32_le().ok()?);
            }
            let length = rest.try_get_u32_le().ok()? as usize;
            let batch = batch::decode(revision, take(rest, length)?.to_vec()).ok()?;
            let is_in = |place: &u32| (*place as usize) < batch.events.len();
            if !elsewhere.iter().all(is_in) {
                return None;
            }
            batches.push(Logged { batch, elsewhere });
        }
        rest.is_empty().then_some(Self {
            nonce,
            written,
            batches,
        })
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::*;
    use crate::{Cause, Event};

    fn batch(revision: u64, values: Vec<Option<Vec<u8>>>) -> Batch {
        let events = values.into_iter().enumerate().map(|(n, value)| Event {
            key: Key::new("things", "p", "", n.to_string()),
            value: value.map(Bytes::from),
        });
        Batch {
            revision: Revision(revision),
            cause: Cause::system("test"),
            at: Timestamp::UNIX_EPOCH,
            events: events.collect(),
        }
    }

    proptest! {
        #[test]
        fn an_entry_comes_back_without_what_is_elsewhere(
            values in proptest::collection::vec(proptest::option::of(proptest::collection::vec(any::<u8>(), 1..9)), 1..6),
            cut in 0usize..60,
        ) {
            let whole = batch(7, values);
            let places = whole.events.iter().enumerate().filter(|(n, event)| n % 2 == 0 && event.value.is_some());
            let elsewhere: Vec<u32> = places.map(|(n, _)| n as u32).collect();
            let bytes = Entry::encode(5, 9, &[(&whole, elsewhere.clone())]).unwrap();
            let entry = Entry::decode(bytes.clone()).unwrap();
            prop_assert_eq!((entry.nonce, entry.written), (5, 9));
            prop_assert_eq!(&entry.batches[0].elsewhere, &elsewhere);
            let mut left_out = whole;
            for place in elsewhere {
                left_out.events[place as usize].value = Some(Bytes::new());
            }
            prop_assert_eq!(&entry.batches[0].batch, &left_out);
            prop_assert!(Entry::decode(bytes.slice(..cut.min(bytes.len() - 1))).is_err());
        }
    }

    #[test]
    fn keys_are_below_the_prefix_in_the_order_of_the_store() {
        let layout = Layout::new("/m/");
        let (start, end) = layout.records(&Prefix::kind("things"), Some("aaa"));
        assert_eq!(
            (&start[..], &end[..]),
            (&b"/m/records/things/"[..], &b"/m/records/things0"[..])
        );
        let (start, _) = layout.records(&Prefix::kind("things"), Some("things/x"));
        assert_eq!(&start[..], b"/m/records/things/x\0");
        assert_eq!(layout.encoded(b"/m/records/a/b"), Some("a/b"));
        assert_eq!(layout.encoded(b"/m/log/a/b"), None);
        assert!(layout.log(Revision(9)) < layout.log(Revision(10)));
        let head = Head {
            revision: Revision(3),
            compacted: Revision(2),
            written: 1,
        };
        assert_eq!(Head::decode(&head.encode()).unwrap(), head);
        assert!(Head::decode(b"other").is_err());
    }
}
