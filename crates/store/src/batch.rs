//! One revision of history as engines keep it: the bytes of a [`Batch`].
//!
//! A format of length-prefixed fields, little endian: a format number, the time in microseconds, actor, request, the
//! count of events, and for each its encoded key and its value (length + 1, 0 for a removal).

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};
use jiff::Timestamp;

use crate::{Batch, Cause, Event, Key, Revision, StoreError};

/// The first byte of every batch; another one is another format.
const FORMAT: u8 = 1;

/// The bytes of a transaction's events, each with its encoded key.
pub(crate) fn encode<'e>(
    cause: &Cause,
    at: Timestamp,
    events: impl ExactSizeIterator<Item = (&'e str, Option<&'e [u8]>)> + Clone,
) -> Vec<u8> {
    let size = |(key, value): (&str, Option<&[u8]>)| 8 + key.len() + value.map_or(0, <[u8]>::len);
    let events_size: usize = events.clone().map(size).sum();
    let mut bytes = Vec::with_capacity(21 + cause.actor.len() + cause.request.len() + events_size);
    bytes.put_u8(FORMAT);
    bytes.put_i64_le(at.as_microsecond());
    put(&mut bytes, cause.actor.as_bytes());
    put(&mut bytes, cause.request.as_bytes());
    bytes.put_u32_le(events.len() as u32);
    for (key, value) in events {
        put(&mut bytes, key.as_bytes());
        bytes.put_u32_le(value.map_or(0, |value| value.len() as u32 + 1));
        bytes.extend_from_slice(value.unwrap_or_default());
    }
    bytes
}

/// The inverse of [`encode`]. Values share the bytes they came in.
pub(crate) fn decode(revision: Revision, bytes: Vec<u8>) -> Result<Batch, StoreError> {
    let mut rest = Bytes::from(bytes);
    decode_from(revision, &mut rest).ok_or_else(|| StoreError::Backend {
        action: "read its changes",
        reason: format!("revision {revision} of the history is damaged"),
    })
}

fn decode_from(revision: Revision, rest: &mut Bytes) -> Option<Batch> {
    if rest.try_get_u8().ok()? != FORMAT {
        return None;
    }
    let at = Timestamp::from_microsecond(rest.try_get_i64_le().ok()?).ok()?;
    let cause = Cause {
        actor: take_str(rest)?,
        request: take_str(rest)?,
    };
    let count = rest.try_get_u32_le().ok()? as usize;
    let mut events = Vec::with_capacity(count.min(rest.len()));
    for _ in 0..count {
        let key = Key::decode(&take_str(rest)?).ok()?;
        let value = match rest.try_get_u32_le().ok()? {
            0 => None,
            length => Some(take(rest, length as usize - 1)?),
        };
        events.push(Event { key, value });
    }
    rest.is_empty().then_some(Batch {
        revision,
        cause,
        at,
        events,
    })
}

/// A part with its length before it.
pub(crate) fn put(bytes: &mut Vec<u8>, part: &[u8]) {
    bytes.put_u32_le(part.len() as u32);
    bytes.extend_from_slice(part);
}

/// The front of what is left, if there is so much.
pub(crate) fn take(rest: &mut Bytes, length: usize) -> Option<Bytes> {
    (length <= rest.len()).then(|| rest.split_to(length))
}

fn take_str(rest: &mut Bytes) -> Option<Arc<str>> {
    let length = rest.try_get_u32_le().ok()? as usize;
    let part = take(rest, length)?;
    std::str::from_utf8(&part).ok().map(Arc::from)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let key = ("[a-z]{1,6}", ".{0,6}", ".{0,6}", ".{1,6}").prop_map(|(k, p, ns, n)| Key::new(k, p, ns, n));
        let value = proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from));
        proptest::collection::vec((key, value).prop_map(|(key, value)| Event { key, value }), 0..6)
    }

    fn encoded(batch: &Batch) -> Vec<u8> {
        let keys: Vec<String> = batch.events.iter().map(|event| event.key.encode().unwrap()).collect();
        let pairs: Vec<_> = keys
            .iter()
            .zip(&batch.events)
            .map(|(k, e)| (k.as_str(), e.value.as_deref()))
            .collect();
        encode(&batch.cause, batch.at, pairs.into_iter())
    }

    proptest! {
        #[test]
        fn a_batch_comes_back_as_it_was(events in events(), actor in ".{0,9}", at in 0i64..1 << 50) {
            let at = Timestamp::from_microsecond(at).unwrap();
            let batch = Batch { revision: Revision(7), cause: Cause::request(actor, "req-1"), at, events };
            prop_assert_eq!(decode(Revision(7), encoded(&batch)).unwrap(), batch);
        }

        #[test]
        fn damaged_bytes_are_an_error_and_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80), cut in 0usize..60) {
            let mut with_format = vec![FORMAT];
            with_format.extend(&bytes);
            _ = decode(Revision(1), with_format);
            let key = Key::new("things", "p", "", "n");
            let events = vec![Event { key, value: Some(Bytes::from(bytes)) }];
            let whole = encoded(&Batch { revision: Revision(1), cause: Cause::system("x"), at: Timestamp::UNIX_EPOCH, events });
            let cut = cut.min(whole.len() - 1);
            prop_assert!(decode(Revision(1), whole[..cut].to_vec()).is_err());
        }
    }
}
