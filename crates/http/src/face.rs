//! A face: one API with its original's way to word failures, and the layers that every request passes.
//!
//! [`Shape`] is the table from [`ErrorKind`] to status and body, one per original; [`Face::wrap`] puts the layers of
//! [`gate`] around a domain's router.

mod gate;
mod shape;

use std::time::Duration;

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request},
    middleware,
};
use http::{HeaderName, Uri};

pub use shape::Shape;

use crate::{Metrics, metrics::FaceMetrics};

/// The largest request body where a route says nothing else: oslo.middleware's `max_request_body_size`. A route that
/// takes more has its own `axum::extract::DefaultBodyLimit` layer.
pub const DEFAULT_BODY_BYTES: usize = 114_688;

/// How long a handler may take where it says nothing else (see [`crate::RequestInfo::allow`]). Clients of the originals
/// give up after a minute.
pub const DEFAULT_TIME: Duration = Duration::from_secs(60);

/// How one API presents itself. Cheap to make and copy; a domain has one as a constant.
#[derive(Clone, Copy, Debug)]
pub struct Face {
    name: &'static str,
    shape: Shape,
    body_bytes: usize,
    time: Duration,
    request_id_alias: Option<&'static str>,
    trims_slashes: bool,
}

impl Face {
    /// A face named `name` (in metrics and logs) that words failures as `shape` does.
    pub const fn new(name: &'static str, shape: Shape) -> Self {
        Self {
            name,
            shape,
            body_bytes: DEFAULT_BODY_BYTES,
            time: DEFAULT_TIME,
            request_id_alias: None,
            trims_slashes: false,
        }
    }

    /// Takes request bodies up to `bytes` where a route says nothing else.
    #[must_use]
    pub const fn body_limit(mut self, bytes: usize) -> Self {
        self.body_bytes = bytes;
        self
    }

    /// Gives handlers this long where they say nothing else.
    #[must_use]
    pub const fn time_limit(mut self, time: Duration) -> Self {
        self.time = time;
        self
    }

    /// Also answers with the request id under an older name, in lower case, such as `x-compute-request-id`.
    #[must_use]
    pub const fn request_id_alias(mut self, header: &'static str) -> Self {
        self.request_id_alias = Some(header);
        self
    }

    /// Takes paths with a slash at the end for those without, as Keystone does.
    #[must_use]
    pub const fn trimming_slashes(mut self) -> Self {
        self.trims_slashes = true;
        self
    }

    /// The name in metrics and logs.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// How failures are worded.
    pub const fn shape(&self) -> Shape {
        self.shape
    }

    /// The router with everything around it that each request needs: id, access log, metrics, time and size limits,
    /// failures in the face's words (also for unknown paths and methods), and a bland 500 where a handler panics.
    pub fn wrap(self, router: Router, metrics: &Metrics) -> Router {
        metrics.note(self.name, &router);
        let gate = gate::Gate {
            face: self,
            metrics: FaceMetrics::of(metrics, self.name),
            alias: self.request_id_alias.map(HeaderName::from_static),
        };
        let gated = router
            .fallback(gate::no_such_route)
            .layer(DefaultBodyLimit::max(self.body_bytes))
            .layer(middleware::from_fn_with_state(std::sync::Arc::new(gate), gate::pass));
        if self.trims_slashes { trimmed(gated) } else { gated }
    }
}

/// Before the router chooses by path; a layer of the router itself comes after that.
fn trimmed(router: Router) -> Router {
    let trim = tower::service_fn(move |mut request: Request| {
        if let Some(uri) = without_slash(request.uri()) {
            *request.uri_mut() = uri;
        }
        tower::ServiceExt::oneshot(router.clone(), request)
    });
    Router::new().fallback_service(trim)
}

fn without_slash(uri: &Uri) -> Option<Uri> {
    let path = uri.path();
    let trimmed = path.trim_end_matches('/');
    if trimmed.len() == path.len() || trimmed.is_empty() {
        return None;
    }
    let path = match uri.query() {
        Some(query) => format!("{trimmed}?{query}"),
        None => trimmed.to_owned(),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(path.parse().ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slashes_at_the_end_go_and_the_query_stays() {
        let trim = |uri: &str| without_slash(&uri.parse().unwrap()).map(|uri| uri.to_string());
        assert_eq!(trim("/v3/trusts/?a=b").as_deref(), Some("/v3/trusts?a=b"));
        assert_eq!(trim("http://c/v3//").as_deref(), Some("http://c/v3"));
        assert_eq!((trim("/"), trim("/v3"), trim("/v3?a=/")), (None, None, None));
    }
}
