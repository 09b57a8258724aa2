//! Keystone's version documents.

use std::sync::Arc;

use axum::{Router, response::Response, routing::get};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use madang_http::{RequestInfo, VersionDocument, json};
use serde_json::json as value;

use super::json_home;
use crate::Identity;

/// The API that this is measured against: Keystone's own `v3.14`.
const VERSION: &str = "v3.14";

pub(super) fn routes() -> Router<Arc<Identity>> {
    Router::new().route("/", get(all)).route("/v3", get(one))
}

fn document(info: &RequestInfo) -> VersionDocument {
    let mut version = VersionDocument::new(VERSION, "stable", format!("{}/v3/", info.base_url()));
    version.updated = Some("2020-04-07T00:00:00Z");
    version.media_type("application/vnd.openstack.identity-v3+json")
}

async fn all(info: RequestInfo, headers: HeaderMap) -> Response {
    if json_home::is_asked(&headers) {
        return json_home::answer("/v3");
    }
    let body = value!({ "versions": { "values": [document(&info)] } });
    let mut response = json(StatusCode::MULTIPLE_CHOICES, &body);
    if let Ok(place) = HeaderValue::try_from(format!("{}/v3/", info.base_url())) {
        response.headers_mut().insert(header::LOCATION, place);
    }
    response
}

async fn one(info: RequestInfo, headers: HeaderMap) -> Response {
    if json_home::is_asked(&headers) {
        return json_home::answer("");
    }
    json(StatusCode::OK, &value!({ "version": document(&info) }))
}
