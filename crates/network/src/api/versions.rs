//! Where a client starts: the version, and what it has.

use axum::response::Response;
use http::StatusCode;
use madang_http::{Failure, RequestInfo, VersionDocument, json};
use madang_identity::Caller;
use serde_json::json;

/// `GET /`: the one version there is.
pub(super) async fn list(info: RequestInfo) -> Response {
    let version = VersionDocument::new("v2.0", "CURRENT", format!("{}/v2.0/", info.base_url()));
    json(StatusCode::OK, &json!({ "versions": [version] }))
}

/// `GET /v2.0`: the collections there are.
pub(super) async fn resources(_: Caller, info: RequestInfo) -> Result<Response, Failure> {
    let collections = [
        ("network", "networks"),
        ("subnet", "subnets"),
        ("port", "ports"),
        ("security_group", "security-groups"),
        ("security_group_rule", "security-group-rules"),
        ("router", "routers"),
        ("floatingip", "floatingips"),
        ("quota", "quotas"),
        ("agent", "agents"),
        ("availability_zone", "availability_zones"),
        ("network_ip_availability", "network-ip-availabilities"),
        ("service_provider", "service-providers"),
        ("extension", "extensions"),
    ];
    let base = info.base_url();
    let resources = collections.map(|(name, path)| {
        let href = format!("{base}/v2.0/{path}");
        json!({ "name": name, "collection": path.replace('-', "_"), "links": [{ "rel": "self", "href": href }] })
    });
    Ok(json(StatusCode::OK, &json!({ "resources": resources })))
}

/// `GET /v2.0/service-providers`: drivers that users choose between; there are none.
pub(super) async fn service_providers(_: Caller) -> Response {
    json(StatusCode::OK, &json!({ "service_providers": [] }))
}
