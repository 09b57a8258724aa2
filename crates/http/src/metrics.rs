//! What is counted, and the page that shows it.

use std::{fmt::Write, sync::Arc, time::Duration};

use axum::{Router, response::IntoResponse, routing::get};
use http::{Method, StatusCode, header};
use parking_lot::Mutex;
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use crate::{Failure, RouteName};

/// Upper bounds in seconds: token validation takes tens of microseconds, uploads minutes.
const LATENCY_BUCKETS: [f64; 12] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0, 5.0, 30.0,
];

/// Everything that is counted in this process. Cheap to clone; all clones count together.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Mutex<Registry>,
    requests: Family<Answered, Counter>,
    latency: Family<Named, Histogram, fn() -> Histogram>,
    in_flight: Family<Named, Gauge>,
    /// Only where somebody wants to know: see [`Metrics::noting_routes`].
    routes: Option<Mutex<Vec<RouteName>>>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Named {
    face: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Answered {
    face: &'static str,
    method: &'static str,
    status: Code,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq)]
struct Code(u16);

impl EncodeLabelValue for Code {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        write!(encoder, "{}", self.0)
    }
}

impl Metrics {
    /// Nothing counted yet.
    pub fn new() -> Self {
        Self::with(None)
    }

    /// As [`Metrics::new`], and remembers the routes of all faces that are wrapped with it, for tests that go through them.
    pub fn noting_routes() -> Self {
        Self::with(Some(Mutex::default()))
    }

    fn with(routes: Option<Mutex<Vec<RouteName>>>) -> Self {
        let inner = Inner {
            routes,
            registry: Mutex::new(Registry::with_prefix("madang")),
            requests: Family::default(),
            latency: Family::new_with_constructor(new_histogram),
            in_flight: Family::default(),
        };
        let metrics = Self(Arc::new(inner));
        metrics.register(|registry| {
            registry.register("http_requests", "Requests answered", metrics.0.requests.clone());
            registry.register(
                "http_request_seconds",
                "Time to the answer's head",
                metrics.0.latency.clone(),
            );
            registry.register(
                "http_requests_in_flight",
                "Requests being answered",
                metrics.0.in_flight.clone(),
            );
        });
        metrics
    }

    /// Notes the routes of a face.
    pub(crate) fn note(&self, face: &'static str, router: &Router) {
        if let Some(routes) = &self.0.routes {
            routes.lock().extend(crate::routes::of(face, router));
        }
    }

    /// The routes that were noted.
    pub fn routes(&self) -> Vec<RouteName> {
        self.0
            .routes
            .as_ref()
            .map(|routes| routes.lock().clone())
            .unwrap_or_default()
    }

    /// Lets another part add its own counters: `metrics.register(|r| r.register("store_commits", "…", counter.clone()))`.
    pub fn register(&self, add: impl FnOnce(&mut Registry)) {
        add(&mut self.0.registry.lock());
    }

    /// The page in OpenMetrics text.
    ///
    /// # Errors
    /// When a counter cannot be written as text.
    pub fn page(&self) -> Result<String, std::fmt::Error> {
        let mut page = String::new();
        encode(&mut page, &self.0.registry.lock())?;
        Ok(page)
    }

    /// A router with `GET /metrics`.
    pub fn router(&self) -> Router {
        let metrics = self.clone();
        Router::new().route(
            "/metrics",
            get(async move || {
                let page = metrics
                    .page()
                    .map_err(|e| Failure::internal(format!("could not write metrics: {e}")))?;
                let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                Ok::<_, Failure>(([(header::CONTENT_TYPE, kind)], page).into_response())
            }),
        )
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

fn new_histogram() -> Histogram {
    Histogram::new(LATENCY_BUCKETS)
}

/// One face's part, looked up once.
pub(crate) struct FaceMetrics {
    face: &'static str,
    requests: Family<Answered, Counter>,
    latency: Histogram,
    in_flight: Gauge,
}

impl FaceMetrics {
    pub(crate) fn of(metrics: &Metrics, face: &'static str) -> Self {
        let inner = &metrics.0;
        Self {
            face,
            requests: inner.requests.clone(),
            latency: inner.latency.get_or_create(&Named { face }).clone(),
            in_flight: inner.in_flight.get_or_create(&Named { face }).clone(),
        }
    }

    /// Counts a request as being answered until the guard is dropped, also when the client goes away.
    pub(crate) fn enter(&self) -> InFlight {
        self.in_flight.inc();
        InFlight(self.in_flight.clone())
    }

    pub(crate) fn finished(&self, method: &Method, status: StatusCode, took: Duration) {
        let labels = Answered {
            face: self.face,
            method: known(method),
            status: Code(status.as_u16()),
        };
        self.requests.get_or_create(&labels).inc();
        self.latency.observe(took.as_secs_f64());
    }
}

pub(crate) struct InFlight(Gauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Clients can invent methods; the page must not grow with them.
fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_counts_by_face_method_and_status() {
        let metrics = Metrics::new();
        let compute = FaceMetrics::of(&metrics, "compute");
        let guard = compute.enter();
        compute.finished(&Method::GET, StatusCode::OK, Duration::from_millis(2));
        compute.finished(
            &Method::from_bytes(b"BREW").unwrap(),
            StatusCode::NOT_FOUND,
            Duration::from_millis(2),
        );
        let page = metrics.page().unwrap();
        assert!(
            page.contains(r#"madang_http_requests_total{face="compute",method="GET",status="200"} 1"#),
            "{page}"
        );
        assert!(page.contains(r#"method="other",status="404"} 1"#), "{page}");
        assert!(
            page.contains(r#"madang_http_requests_in_flight{face="compute"} 1"#),
            "{page}"
        );
        drop(guard);
        assert!(
            metrics
                .page()
                .unwrap()
                .contains(r#"madang_http_requests_in_flight{face="compute"} 0"#)
        );
    }
}
