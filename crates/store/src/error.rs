//! The one short list of what can go wrong, and the store's own errors.

use serde::{Deserialize, Serialize};

use crate::{Key, Revision};

/// What kind of failure an error is. Every error of every crate maps to one of these, and each API face has one table
/// from here to its own status code and body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The request itself is wrong; repeating it unchanged cannot help.
    Invalid,
    /// Nobody said who asks, or the proof does not hold.
    Unauthenticated,
    /// Who asks may not do this.
    Forbidden,
    /// There is no such thing, or not for who asks.
    NotFound,
    /// It does not fit what is there now (a taken name, a wrong state).
    Conflict,
    /// A limit is reached: quota, capacity, addresses.
    Exhausted,
    /// A part that is needed does not answer now; repeating may help.
    Unavailable,
    /// It did not happen within its time.
    TimedOut,
    /// A defect of ours.
    Internal,
}

/// A write that a kind's rule refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Rejection {
    /// What kind of failure it is.
    pub kind: ErrorKind,
    /// A stable name for programs, such as `OverQuota` or `IpAddressInUse`; faces may show it.
    pub reason: &'static str,
    /// The field that is wrong, where there is one: a path such as `fixed_ips[0].ip_address`.
    pub field: Option<String>,
    /// Lower case, without a full stop, naming the thing and the value.
    pub message: String,
}

impl Rejection {
    /// A refusal without a field.
    pub fn new(kind: ErrorKind, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            kind,
            reason,
            field: None,
            message: message.into(),
        }
    }

    /// Names the field that is wrong.
    #[must_use]
    pub fn at(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }
}

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A record was not at the revision that the transaction expects: read again and decide anew.
    #[error("{key} has changed meanwhile")]
    Conflict {
        /// The first record that differs.
        key: Key,
    },
    /// A record that must not exist does.
    #[error("{key} exists already")]
    Exists {
        /// Its key.
        key: Key,
    },
    /// There is no such record.
    #[error("there is no {key}")]
    NotFound {
        /// The key asked for.
        key: Key,
    },
    /// A counter would pass its limit.
    #[error("{field} of {key}: {used} used, {requested} more requested, {limit} allowed")]
    LimitExceeded {
        /// The counter's record. Boxed, so that errors stay small.
        key: Box<Key>,
        /// The field within it.
        field: String,
        /// Its value now.
        used: i64,
        /// What was to be added.
        requested: i64,
        /// The most it may be.
        limit: i64,
    },
    /// A kind's rule refused the write.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// Changes before this revision are gone: list again.
    #[error("changes up to revision {compacted} are compacted, list again")]
    Compacted {
        /// The oldest revision that can still be watched from.
        compacted: Revision,
    },
    /// A record cannot be read as its kind.
    #[error("could not decode {key}: {reason}")]
    Decode {
        /// Its key.
        key: Key,
        /// What is wrong with it.
        reason: String,
    },
    /// A key, a size or an argument the store does not take.
    #[error("{0}")]
    Invalid(String),
    /// The disk or the engine failed. The transaction was not acknowledged.
    #[error("the store cannot {action}: {reason}")]
    Backend {
        /// A verb phrase.
        action: &'static str,
        /// What the engine said.
        reason: String,
    },
    /// The store has been shut down.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// Its place in the one list.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Conflict { .. } | Self::Exists { .. } => ErrorKind::Conflict,
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::LimitExceeded { .. } => ErrorKind::Exhausted,
            Self::Rejected(rejection) => rejection.kind,
            Self::Invalid(_) => ErrorKind::Invalid,
            Self::Closed | Self::Backend { .. } => ErrorKind::Unavailable,
            Self::Compacted { .. } | Self::Decode { .. } => ErrorKind::Internal,
        }
    }
}
