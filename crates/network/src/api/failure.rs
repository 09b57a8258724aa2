//! From what the store says to what Neutron says.

use madang_http::Failure;
use madang_store::StoreError;

use crate::{
    quota,
    refusal::{self, Missing},
    usage,
};

/// Why a verb did not come about: the store's word, or one that is a face's already.
pub(crate) enum Stop {
    /// What the store or a rule said.
    Store(StoreError),
    /// What the API itself refused.
    Said(Failure),
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Said(failure)
    }
}

impl From<Stop> for Failure {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Said(failure) => failure,
            Stop::Store(error) => worded(error),
        }
    }
}

/// The store's errors in Neutron's words.
pub(crate) fn worded(error: StoreError) -> Failure {
    let counted = match &error {
        StoreError::LimitExceeded { key, field, .. } if key.name == quota::COUNTERS => quota::refused(field),
        StoreError::LimitExceeded { key, field, .. } => usage::refused(&key.name, field),
        StoreError::NotFound { key } => Missing::of_kind(&key.kind).map(|what| refusal::not_found(what, &key.name)),
        _ => None,
    };
    counted.unwrap_or(error).into()
}
