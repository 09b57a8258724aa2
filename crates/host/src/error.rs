//! What can go wrong on a host, in words a person can act on.

use std::{io, time::Duration};

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why something could not be done on this host.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("could not {action}")]
    Io {
        /// A verb phrase naming the thing and the value.
        action: String,
        /// What it said.
        source: io::Error,
    },
    /// A program is not installed.
    #[error("{program} is not installed; {remedy}")]
    Missing {
        /// The program's name.
        program: String,
        /// What to do, such as ``install it with `apt-get install nftables` ``.
        remedy: String,
    },
    /// A program ran and failed.
    #[error("{program} failed: {message}")]
    Command {
        /// The program's name.
        program: String,
        /// Its exit code; none when a signal ended it.
        code: Option<i32>,
        /// The last lines it wrote to standard error, or how it ended when it wrote nothing.
        message: String,
    },
    /// It did not happen within its time.
    #[error("{action} did not finish within {after:?}")]
    TimedOut {
        /// What was being waited for.
        action: String,
        /// How long.
        after: Duration,
    },
    /// A value that cannot be used; says which and why.
    #[error("{0}")]
    Invalid(String),
}

impl Error {
    /// An [`Error::Io`] for a `map_err`.
    pub fn io<E: Into<io::Error>>(action: impl Into<String>) -> impl FnOnce(E) -> Self {
        let action = action.into();
        move |source| Self::Io {
            action,
            source: source.into(),
        }
    }

    /// Whether the thing asked about is not there.
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::Io { source, .. } => {
                source.kind() == io::ErrorKind::NotFound
                    || matches!(source.raw_os_error(), Some(libc::ENODEV | libc::ESRCH | libc::ENXIO))
            }
            _ => false,
        }
    }

    /// Whether the thing to be made is there already.
    pub fn is_already_there(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.raw_os_error() == Some(libc::EEXIST))
    }

    /// The message with everything that caused it, joined by `: `.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            text.push_str(": ");
            text.push_str(&error.to_string());
            source = error.source();
        }
        text
    }
}
