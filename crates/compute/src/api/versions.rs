//! What clients read first: the versions, and the list of extensions that old clients ask for.

use axum::response::Response;
use http::StatusCode;
use madang_http::{Failure, Microversion, RequestInfo, VersionDocument, json};
use madang_identity::Caller;
use serde_json::json;

use super::{NEWEST, OLDEST, base};

fn document(base: &str) -> VersionDocument {
    let mut version = VersionDocument::new("v2.1", "CURRENT", format!("{base}/v2.1/"))
        .media_type("application/vnd.openstack.compute+json;version=2.1");
    version.version = Some(NEWEST.to_string());
    version.min_version = Some(OLDEST.to_string());
    // Nova's own date; clients show it and nothing more.
    version.updated = Some("2013-07-23T11:33:21Z");
    version
}

/// `GET /`: all versions.
pub(super) async fn all(info: RequestInfo) -> Response {
    let base = info.url();
    json(
        StatusCode::OK,
        &json!({ "versions": [document(base.trim_end_matches('/'))] }),
    )
}

/// `GET /v2.1/`: this version.
pub(super) async fn v21(info: RequestInfo) -> Response {
    json(StatusCode::OK, &json!({ "version": document(&base(&info)) }))
}

/// `GET /extensions`: none. They became part of the API with 2.1 and tell nothing any more.
pub(super) async fn extensions(_: Caller, _: Microversion) -> Result<Response, Failure> {
    Ok(json(StatusCode::OK, &json!({ "extensions": [] })))
}
