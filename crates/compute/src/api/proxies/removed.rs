//! What Nova has removed: each call is answered with 410 and the reason, as Nova does.

use axum::{Router, extract::Request, routing::any};
use http::StatusCode;
use madang_http::Failure;
use madang_identity::Caller;

use crate::api::ComputeApi;

/// Paths that are nothing but gone.
const GONE: &[&str] = &[
    "/os-agents",
    "/os-agents/{id}",
    "/os-cells",
    "/os-cells/{id}",
    "/os-cells/{id}/capacities",
    "/os-certificates",
    "/os-certificates/{id}",
    "/os-cloudpipe",
    "/os-cloudpipe/{id}",
    "/os-fixed-ips/{id}",
    "/os-fixed-ips/{id}/action",
    "/os-floating-ip-dns",
    "/os-floating-ip-dns/{id}",
    "/os-floating-ip-dns/{id}/entries/{name}",
    "/os-floating-ips-bulk",
    "/os-floating-ips-bulk/{id}",
    "/os-fping",
    "/os-fping/{id}",
    "/os-security-group-default-rules",
    "/os-security-group-default-rules/{id}",
    "/servers/{id}/consoles",
    "/servers/{id}/consoles/{console}",
    "/servers/{id}/os-virtual-interfaces",
];

pub(super) fn routes() -> Router<ComputeApi> {
    GONE.iter()
        .fold(Router::new(), |router, path| router.route(path, any(gone)))
}

/// The answer to all of them.
pub(super) async fn gone(_: Caller, request: Request) -> Failure {
    let message = format!(
        "{} {} is an API of nova-network, cells v1 or another part that Nova has removed.",
        request.method(),
        request.uri().path()
    );
    Failure::not_found(message).with_status(StatusCode::GONE)
}
