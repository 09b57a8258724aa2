//! Why a request is not answered as asked, without saying yet how a face words it.
//!
//! Handlers return a [`Failure`]; the [`crate::Face`] around them turns it into its original's status and body. What
//! must always hold: the message of an [`ErrorKind::Internal`] failure goes to the log, never to the client.

use std::{fmt, sync::Arc};

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderName, HeaderValue, StatusCode};
use madang_store::{ErrorKind, Rejection, StoreError};
use serde_json::{Map, Value};

/// The reason of a body that is not JSON at all.
pub const MALFORMED_BODY: &str = "MalformedRequestBody";
/// The reason of a body whose `Content-Type` is not JSON.
pub const UNSUPPORTED_CONTENT_TYPE: &str = "UnsupportedContentType";
/// The reason of a body over the route's limit.
pub const TOO_LARGE: &str = "RequestEntityTooLarge";
/// The reason of a path that no route has.
pub const NO_SUCH_ROUTE: &str = "NoSuchRoute";
/// The reason of a method that the route does not have.
pub const NO_SUCH_METHOD: &str = "NoSuchMethod";

/// A request that is not answered as asked.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Its place in the one list; the face's table has the status code for it.
    pub kind: ErrorKind,
    /// A stable name for programs: Neutron's `type`, Placement's `code`. Empty where the kind says enough.
    pub reason: &'static str,
    /// What the client reads, in the words of the original where it has words for it.
    pub message: String,
    /// The field that is wrong, as a path, where there is one.
    pub field: Option<String>,
    more: Option<Box<More>>,
}

/// A failed write, in the words of Nova and Cinder: a lost race is a conflict that may be tried again.
pub fn write_failure(error: StoreError) -> Failure {
    match error {
        StoreError::Conflict { .. } => Failure::conflict("The resource was changed by another request. Try again."),
        other if other.kind() == ErrorKind::Internal => Failure::internal(other.to_string()),
        other => other.into(),
    }
}

#[derive(Clone, Debug, Default)]
struct More {
    status: Option<StatusCode>,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Map<String, Value>,
}

macro_rules! of_kind {
    ($($(#[$doc:meta])* $name:ident => $kind:ident),* $(,)?) => {
        $($(#[$doc])*
        pub fn $name(message: impl Into<String>) -> Self {
            Self::new(ErrorKind::$kind, message)
        })*
    };
}

impl Failure {
    /// A failure of a kind, without a reason.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            reason: "",
            message: message.into(),
            field: None,
            more: None,
        }
    }

    of_kind! {
        /// The request itself is wrong.
        invalid => Invalid,
        /// Nobody said who asks, or the proof does not hold.
        unauthenticated => Unauthenticated,
        /// Who asks may not do this.
        forbidden => Forbidden,
        /// There is no such thing, or not for who asks.
        not_found => NotFound,
        /// It does not fit what is there now.
        conflict => Conflict,
        /// A limit is reached.
        exhausted => Exhausted,
        /// A part that is needed does not answer now.
        unavailable => Unavailable,
        /// It did not happen within its time.
        timed_out => TimedOut,
        /// A defect of ours. The message is logged, the client is only told the request id.
        internal => Internal,
    }

    /// Gives the stable name.
    #[must_use]
    pub fn because(mut self, reason: &'static str) -> Self {
        self.reason = reason;
        self
    }

    /// Names the field that is wrong.
    #[must_use]
    pub fn at(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// Answers with this status instead of the one in the face's table, where an original makes an exception.
    #[must_use]
    pub fn with_status(mut self, status: StatusCode) -> Self {
        self.more_mut().status = Some(status);
        self
    }

    /// Adds a header to the answer.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.more_mut().headers.push((name, value));
        self
    }

    /// Adds a member to the object that describes the failure, as Placement's `max_version`.
    #[must_use]
    pub fn with_member(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.more_mut().body.insert(name.to_owned(), value.into());
        self
    }

    /// The status that replaces the table's.
    pub fn status(&self) -> Option<StatusCode> {
        self.more.as_ref().and_then(|m| m.status)
    }

    pub(crate) fn headers(&self) -> &[(HeaderName, HeaderValue)] {
        self.more.as_ref().map_or(&[], |m| &m.headers)
    }

    pub(crate) fn members(&self) -> Option<&Map<String, Value>> {
        self.more.as_ref().map(|m| &m.body)
    }

    fn more_mut(&mut self) -> &mut More {
        self.more.get_or_insert_default()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl From<Rejection> for Failure {
    fn from(rejection: Rejection) -> Self {
        let Rejection {
            kind,
            reason,
            field,
            message,
        } = rejection;
        Self {
            kind,
            reason,
            message,
            field,
            more: None,
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Rejected(rejection) => rejection.into(),
            other => Self::new(other.kind(), other.to_string()),
        }
    }
}

impl IntoResponse for Failure {
    /// The failure travels as an extension to the face, which alone knows the words. Without a face around it, the
    /// answer has no body.
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.status().unwrap_or_else(|| crate::Shape::Nova.status(self.kind));
        response.extensions_mut().insert(Arc::new(self));
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rejection_of_the_store_keeps_all_it_says() {
        let rejection = Rejection::new(ErrorKind::Exhausted, "OverQuota", "no more ports").at("port");
        let failure = Failure::from(StoreError::from(rejection));
        assert_eq!((failure.kind, failure.reason), (ErrorKind::Exhausted, "OverQuota"));
        assert_eq!(
            (failure.message.as_str(), failure.field.as_deref()),
            ("no more ports", Some("port"))
        );
    }

    #[test]
    fn failures_stay_small_enough_for_results() {
        assert!(size_of::<Failure>() <= 96, "{}", size_of::<Failure>());
    }
}
