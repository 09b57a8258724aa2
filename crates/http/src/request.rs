//! What is known of a request besides its parts: its id, where it came from, how long it may take.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::extract::{FromRequestParts, OriginalUri, Request};
use http::{HeaderName, HeaderValue, Uri, header, request::Parts};
use uuid::Uuid;

use crate::Actor;

pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-openstack-request-id");

/// The address that the connection comes from. Set by the server on every request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

/// Whether the connection is encrypted. Set by the server on every request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Plain text.
    Http,
    /// TLS.
    Https,
}

/// What is known of a request. An extractor for handlers; cheap to clone.
#[derive(Clone, Debug)]
pub struct RequestInfo(Arc<Info>);

#[derive(Debug)]
struct Info {
    id: String,
    global_id: Option<String>,
    uri: Uri,
    mount_bytes: usize,
    host: Option<HeaderValue>,
    scheme: Scheme,
    peer: Option<SocketAddr>,
    /// From the start of the request; `u64::MAX` is without limit.
    limit_ms: AtomicU64,
    subject: OnceLock<String>,
    actor: OnceLock<Arc<Actor>>,
    claimed: OnceLock<String>,
    action: OnceLock<String>,
}

impl RequestInfo {
    pub(crate) fn of(request: &Request, limit: Duration) -> Self {
        let extensions = request.extensions();
        let uri = extensions
            .get::<OriginalUri>()
            .map_or_else(|| request.uri().clone(), |original| original.0.clone());
        let mount_bytes = mount_bytes(uri.path(), request.uri().path());
        let incoming = request.headers().get(REQUEST_ID).and_then(|v| v.to_str().ok());
        Self(Arc::new(Info {
            id: format!("req-{}", Uuid::new_v4()),
            global_id: incoming.filter(|id| is_request_id(id)).map(str::to_owned),
            mount_bytes,
            host: request.headers().get(header::HOST).cloned(),
            uri,
            scheme: extensions.get().copied().unwrap_or(Scheme::Http),
            peer: extensions.get::<Peer>().map(|peer| peer.0),
            limit_ms: AtomicU64::new(millis(limit)),
            subject: OnceLock::new(),
            actor: OnceLock::new(),
            claimed: OnceLock::new(),
            action: OnceLock::new(),
        }))
    }

    /// This request's own id, `req-<uuid>`, as the answer's `x-openstack-request-id` has it.
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// The id that the caller gave, where it is one: a chain of requests shares it.
    pub fn global_id(&self) -> Option<&str> {
        self.0.global_id.as_deref()
    }

    /// The path as the client sent it.
    pub fn path(&self) -> &str {
        self.0.uri.path()
    }

    /// Who asks, in words for the log: `user <id> project <id>`. Set once, by who authenticates.
    pub fn set_subject(&self, subject: String) {
        let _ = self.0.subject.set(subject);
    }

    /// Who asks, in words for the log, once known.
    pub fn subject(&self) -> Option<&str> {
        self.0.subject.get().map(String::as_str)
    }

    /// Who asks, for the audit trail. Set once, by who authenticates.
    pub fn set_actor(&self, actor: Arc<Actor>) {
        let _ = self.0.actor.set(actor);
    }

    /// Who asks, once known.
    pub fn actor(&self) -> Option<&Arc<Actor>> {
        self.0.actor.get()
    }

    /// Who a login says to be, for the audit trail of those that are refused.
    pub fn set_claimed(&self, who: String) {
        let _ = self.0.claimed.set(who);
    }

    /// Who a login says to be.
    pub fn claimed(&self) -> Option<&str> {
        self.0.claimed.get().map(String::as_str)
    }

    /// Names what the request does where its method and route do not: `reboot`. It is then in the audit trail, even if
    /// it only reads.
    pub fn set_action(&self, action: impl Into<String>) {
        let _ = self.0.action.set(action.into());
    }

    /// What the request does, where that was named.
    pub fn action(&self) -> Option<&str> {
        self.0.action.get().map(String::as_str)
    }

    /// The address the connection comes from.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.0.peer
    }

    /// The server as the client names it: `http://127.0.0.1:8000`.
    pub fn origin(&self) -> String {
        let scheme = match self.0.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        // HTTP/2 has the authority in the URI instead of a Host header.
        let authority = self.0.uri.authority().map(|authority| authority.as_str());
        let host = self
            .0
            .host
            .as_ref()
            .and_then(|host| host.to_str().ok())
            .or(authority)
            .unwrap_or("localhost");
        format!("{scheme}://{host}")
    }

    /// Where the face is mounted, as the client names it: `http://127.0.0.1:8000/compute`.
    pub fn base_url(&self) -> String {
        format!("{}{}", self.origin(), self.mount())
    }

    /// The path under which the face hangs, such as `/compute`; empty where it hangs at the root.
    pub fn mount(&self) -> &str {
        &self.0.uri.path()[..self.0.mount_bytes]
    }

    /// The resource as the client names it, without the query: `http://127.0.0.1:8000/compute/v2.1/servers`.
    pub fn url(&self) -> String {
        format!("{}{}", self.origin(), self.path())
    }

    /// The query as the client sent it, without the question mark.
    pub fn query(&self) -> &str {
        self.0.uri.query().unwrap_or_default()
    }

    /// Gives this request another time limit, counted from its start; `None` lets it take as long as it wants, for
    /// handlers that read or wait for long streams.
    pub fn allow(&self, limit: Option<Duration>) {
        self.0.limit_ms.store(limit.map_or(u64::MAX, millis), Ordering::Relaxed);
    }

    pub(crate) fn time_limit(&self) -> Option<Duration> {
        match self.0.limit_ms.load(Ordering::Relaxed) {
            u64::MAX => None,
            ms => Some(Duration::from_millis(ms)),
        }
    }
}

impl<S: Sync> FromRequestParts<S> for RequestInfo {
    type Rejection = Infallible;

    /// Outside of a face (in tests of a bare router) it is made up from the request.
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        if let Some(info) = parts.extensions.get::<Self>() {
            return Ok(info.clone());
        }
        let request = Request::from_parts(parts.clone(), axum::body::Body::empty());
        let info = Self::of(&request, crate::DEFAULT_TIME);
        parts.extensions.insert(info.clone());
        Ok(info)
    }
}

/// How much of the path is above the face, which sees the rest. Right at the mount it sees `/`, which the client may not
/// have sent.
fn mount_bytes(whole: &str, seen: &str) -> usize {
    // The face may have taken slashes off the end.
    let mount = whole
        .strip_suffix(seen)
        .or_else(|| whole.trim_end_matches('/').strip_suffix(seen));
    match mount {
        Some(mount) => mount.len(),
        None if seen == "/" => whole.len(),
        None => 0,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX - 1)
}

/// The ids that oslo.middleware takes over from callers; anything else would let them write into logs.
fn is_request_id(text: &str) -> bool {
    text.strip_prefix("req-")
        .is_some_and(|uuid| uuid.len() == 36 && Uuid::try_parse(uuid).is_ok())
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn info(request: http::request::Builder) -> RequestInfo {
        RequestInfo::of(&request.body(Body::empty()).unwrap(), Duration::from_secs(1))
    }

    #[test]
    fn only_real_request_ids_are_taken_over() {
        let id = "req-7d2cb6e0-2e5c-4c3a-9a54-6d6f6f0a1b2c";
        assert_eq!(
            info(Request::builder().header("X-OpenStack-Request-ID", id)).global_id(),
            Some(id)
        );
        for bad in [
            "x",
            "req-1",
            "req-7d2cb6e02e5c4c3a9a546d6f6f0a1b2c",
            "7d2cb6e0-2e5c-4c3a-9a54-6d6f6f0a1b2c",
        ] {
            assert_eq!(
                info(Request::builder().header("X-OpenStack-Request-ID", bad)).global_id(),
                None,
                "{bad}"
            );
        }
    }

    #[test]
    fn the_mount_is_what_stands_before_the_face() {
        for (whole, seen, mount) in [
            ("/compute/v2.1/servers", "/v2.1/servers", "/compute"),
            ("/compute", "/", "/compute"),
            ("/compute/", "/", "/compute"),
            ("/compute/v2.1/", "/v2.1", "/compute"),
            ("/v2.1", "/v2.1", ""),
        ] {
            assert_eq!(&whole[..mount_bytes(whole, seen)], mount, "{whole}");
        }
    }

    #[test]
    fn urls_name_the_server_as_the_client_does() {
        let plain = info(
            Request::builder()
                .uri("/v2.1/servers?limit=1")
                .header("host", "cloud:8000"),
        );
        assert_eq!(plain.url(), "http://cloud:8000/v2.1/servers");
        assert_eq!(
            (plain.query(), plain.base_url().as_str()),
            ("limit=1", "http://cloud:8000")
        );
        let h2 = info(
            Request::builder()
                .uri("https://cloud:8443/v2.1")
                .extension(Scheme::Https),
        );
        assert_eq!(h2.url(), "https://cloud:8443/v2.1");
    }
}
