//! A request, taken apart: what it is about, and who asks.

use axum::extract::Request;
use http::{HeaderMap, Method, StatusCode};
use madang_http::{Failure, Query, RequestInfo};
use madang_identity::Caller;
use madang_store::ErrorKind;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::SwiftApi;
use crate::objects::{ObjectError, Which};

/// What Python's `quote` leaves as it is.
const KEEP: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'_')
    .remove(b'.')
    .remove(b'-')
    .remove(b'~')
    .remove(b'/');

/// How long names may be, in bytes.
pub const ACCOUNT_BYTES: usize = 256;
/// How long names may be, in bytes.
pub const CONTAINER_BYTES: usize = 256;
/// How long names may be, in bytes.
pub const OBJECT_BYTES: usize = 1024;

/// What a request is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// The account, such as `AUTH_<project>`.
    pub account: String,
    /// The container; none where it is about the account.
    pub container: String,
    /// The object; none where it is about the container.
    pub object: String,
}

impl Target {
    /// Reads `/v1/ACCOUNT/CONTAINER/OBJECT`, as it came over the wire.
    fn parse(path: &str) -> Result<Self, Failure> {
        let rest = path.trim_start_matches('/');
        let (_, rest) = rest.split_once('/').unwrap_or((rest, ""));
        let mut parts = rest.splitn(3, '/');
        let mut part = || decode(parts.next().unwrap_or_default());
        let target = Self {
            account: part()?,
            container: part()?,
            object: part()?,
        };
        if target.account.is_empty() || (target.container.is_empty() && !target.object.is_empty()) {
            return Err(refuse(StatusCode::PRECONDITION_FAILED, "Bad URL"));
        }
        if target.account.len() > ACCOUNT_BYTES {
            return Err(too_long("Account", target.account.len(), ACCOUNT_BYTES));
        }
        Ok(target)
    }
}

fn decode(part: &str) -> Result<String, Failure> {
    let bad = || refuse(StatusCode::PRECONDITION_FAILED, "Invalid UTF8 or contains NULL");
    let text = percent_decode_str(part).decode_utf8().map_err(|_| bad())?;
    if text.contains('\0') {
        return Err(bad());
    }
    Ok(text.into_owned())
}

/// Text as it stands in an URL.
pub fn quote(text: &str) -> String {
    utf8_percent_encode(text, KEEP).to_string()
}

/// Text as it stood in an URL.
pub fn unquote(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// A name that is too long.
pub fn too_long(what: &str, bytes: usize, most: usize) -> Failure {
    refuse(
        StatusCode::BAD_REQUEST,
        &format!("{what} name length of {bytes} longer than {most}"),
    )
}

/// An answer that is no success, with what is said of it; nothing for what the status means anyway.
pub fn refuse(status: StatusCode, message: &str) -> Failure {
    let kind = match status.as_u16() {
        401 => ErrorKind::Unauthenticated,
        403 => ErrorKind::Forbidden,
        404 => ErrorKind::NotFound,
        409 | 412 => ErrorKind::Conflict,
        413 | 507 => ErrorKind::Exhausted,
        503 => ErrorKind::Unavailable,
        500 => ErrorKind::Internal,
        _ => ErrorKind::Invalid,
    };
    Failure::new(kind, message).with_status(status)
}

/// What a verb refuses, in Swift's statuses.
pub fn refused(error: ObjectError) -> Failure {
    use crate::disk::DiskError;
    match error {
        ObjectError::NoContainer | ObjectError::NoObject => refuse(StatusCode::NOT_FOUND, ""),
        ObjectError::NotEmpty => refuse(StatusCode::CONFLICT, ""),
        ObjectError::Exists => refuse(StatusCode::PRECONDITION_FAILED, ""),
        ObjectError::OverQuota(message) => refuse(StatusCode::PAYLOAD_TOO_LARGE, message),
        ObjectError::NoArchive => refuse(
            StatusCode::PRECONDITION_FAILED,
            "The container that older versions go to is not there",
        ),
        ObjectError::Changed => refuse(StatusCode::SERVICE_UNAVAILABLE, ""),
        ObjectError::Invalid(message) => refuse(StatusCode::BAD_REQUEST, &message),
        ObjectError::Disk(DiskError::Full) => refuse(StatusCode::INSUFFICIENT_STORAGE, ""),
        ObjectError::Disk(error) => {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "an object cannot be read or written"
            );
            refuse(StatusCode::SERVICE_UNAVAILABLE, "")
        }
    }
}

/// A request without its body.
#[derive(Clone)]
pub struct Ask {
    /// What handlers work with.
    pub api: SwiftApi,
    /// What is known of it besides.
    pub info: RequestInfo,
    /// Its method.
    pub method: Method,
    /// What is behind the question mark.
    pub query: Query,
    /// Its headers.
    pub headers: HeaderMap,
    /// What it is about.
    pub target: Target,
    /// Who asks; none for whoever did not show a token that holds.
    pub caller: Option<Caller>,
    /// Whether something other than who asks lets it through: a signature that was checked.
    pub is_signed: bool,
}

impl Ask {
    /// Takes a request apart.
    ///
    /// # Errors
    /// When its path is none of Swift's.
    pub fn of(api: SwiftApi, info: RequestInfo, request: &Request) -> Result<Self, Failure> {
        Ok(Self {
            api,
            info,
            method: request.method().clone(),
            query: Query::parse(request.uri().query().unwrap_or_default()),
            headers: request.headers().clone(),
            target: Target::parse(request.uri().path())?,
            caller: request.extensions().get::<Caller>().cloned(),
            is_signed: false,
        })
    }

    /// A header's text.
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    /// A header that says yes or no.
    pub fn flag(&self, name: &str) -> bool {
        self.header(name).is_some_and(is_yes)
    }

    /// The object it is about, and the version of it.
    ///
    /// # Errors
    /// When the version cannot be one.
    pub fn which(&self) -> Result<Which, Failure> {
        let mut which = Which::new(&self.target.account, &self.target.container, &self.target.object);
        which.version = self.version()?;
        Ok(which)
    }

    fn version(&self) -> Result<Option<crate::Stamp>, Failure> {
        let Some(text) = self.query.get("version-id") else {
            return Ok(None);
        };
        let bad = || refuse(StatusCode::BAD_REQUEST, "Invalid version parameter");
        match text {
            "null" => Ok(Some(crate::Stamp::default())),
            text => crate::Stamp::parse(text).map(Some).ok_or_else(bad),
        }
    }

    /// Whether it only reads.
    pub fn reads(&self) -> bool {
        self.method == Method::GET || self.method == Method::HEAD
    }
}

/// A header's text; bytes that are not UTF-8 are taken for Latin-1.
pub fn header<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    std::str::from_utf8(headers.get(name)?.as_bytes()).ok()
}

/// Whether a word means yes, as Swift takes it.
pub fn is_yes(text: &str) -> bool {
    ["true", "1", "yes", "on", "t", "y"].contains(&text.to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_apart_as_they_came() {
        let parse = |path| Target::parse(path).map(|t| (t.account, t.container, t.object)).ok();
        let target = |a: &str, c: &str, o: &str| Some((a.to_owned(), c.to_owned(), o.to_owned()));
        assert_eq!(parse("/v1/a"), target("a", "", ""));
        assert_eq!(parse("/v1/a/"), target("a", "", ""));
        assert_eq!(parse("/v1/a/c/"), target("a", "c", ""));
        assert_eq!(parse("/v1/a/c/o/../%2e%2e//x/"), target("a", "c", "o/../..//x/"));
        assert_eq!(parse("/v1/a/c%2Fd/%C3%BC%20"), target("a", "c/d", "ü "));
        for bad in ["/v1/", "/v1//c", "/v1/a//o", "/v1/a/c/%00", "/v1/a/c/%ff"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        assert_eq!(quote("a b/ü~"), "a%20b/%C3%BC~");
    }
}
