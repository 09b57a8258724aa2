//! Counter records: JSON objects of integers, and how they are added to. Decided inside the commit by every engine alike.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::{Delta, Key, StoreError};

/// The values of a counter record, by field.
pub(crate) type CounterFields = BTreeMap<String, i64>;

/// The fields of a counter record.
pub(crate) fn decode(key: &Key, value: &[u8]) -> Result<CounterFields, StoreError> {
    serde_json::from_slice(value).map_err(|e| StoreError::Decode {
        key: key.clone(),
        reason: format!("not a counter: {e}"),
    })
}

/// The inverse of [`decode`].
pub(crate) fn encode(key: &Key, fields: &CounterFields) -> Result<Bytes, StoreError> {
    let value = serde_json::to_vec(fields).map_err(|e| StoreError::Invalid(format!("{key}: {e}")))?;
    Ok(value.into())
}

/// Adds to one field, within its limit.
pub(crate) fn add(key: &Key, fields: &mut CounterFields, delta: &Delta) -> Result<(), StoreError> {
    let used = fields.get(&delta.field).copied().unwrap_or(0);
    let sum = used.saturating_add(delta.add).max(0);
    if let Some(limit) = delta.limit
        && delta.add > 0
        && sum > limit
    {
        let (field, requested) = (delta.field.clone(), delta.add);
        return Err(StoreError::LimitExceeded {
            key: Box::new(key.clone()),
            field,
            used,
            requested,
            limit,
        });
    }
    if sum == 0 {
        fields.remove(&delta.field);
    } else {
        fields.insert(delta.field.clone(), sum);
    }
    Ok(())
}
