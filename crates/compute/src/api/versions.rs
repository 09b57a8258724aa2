//! The version documents that clients read first.

use axum::response::Response;
use http::StatusCode;
use madang_http::{RequestInfo, json};
use serde_json::{Value, json};

use super::{NEWEST, OLDEST};

/// The API without microversions, and the one with them.
#[derive(Clone, Copy)]
struct Version {
    id: &'static str,
    path: &'static str,
    status: &'static str,
    /// Nova's own date; clients show it and nothing more.
    updated: &'static str,
    media_type: &'static str,
    has_microversions: bool,
}

const LEGACY: Version = Version {
    id: "v2.0",
    path: "v2",
    status: "DEPRECATED",
    updated: "2025-07-04T12:00:00Z",
    media_type: "application/vnd.openstack.compute+json;version=2",
    has_microversions: false,
};

const CURRENT: Version = Version {
    id: "v2.1",
    path: "v2.1",
    status: "CURRENT",
    updated: "2013-07-23T11:33:21Z",
    media_type: "application/vnd.openstack.compute+json;version=2.1",
    has_microversions: true,
};

impl Version {
    /// The newest and the oldest microversion.
    fn range(self) -> (String, String) {
        if self.has_microversions {
            (NEWEST.to_string(), OLDEST.to_string())
        } else {
            Default::default()
        }
    }

    fn brief(self, base: &str) -> Value {
        let (version, min_version) = self.range();
        json!({
            "id": self.id,
            "status": self.status,
            "version": version,
            "min_version": min_version,
            "updated": self.updated,
            "links": [{ "rel": "self", "href": format!("{base}/{}/", self.path) }],
        })
    }

    fn full(self, base: &str) -> Value {
        let mut shown = self.brief(base);
        let about = json!({ "rel": "describedby", "type": "text/html", "href": "http://docs.openstack.org/" });
        if let Some(links) = shown["links"].as_array_mut() {
            links.push(about);
        }
        shown["media-types"] = json!([{ "base": "application/json", "type": self.media_type }]);
        shown
    }
}

/// `GET /`: all versions.
pub(super) async fn all(info: RequestInfo) -> Response {
    let base = info.base_url();
    let versions = [LEGACY, CURRENT].map(|version| version.brief(&base));
    json(StatusCode::OK, &json!({ "versions": versions }))
}

/// `GET /v2.1/`: this version.
pub(super) async fn v21(info: RequestInfo) -> Response {
    json(StatusCode::OK, &json!({ "version": CURRENT.full(&base(&info)) }))
}

/// `GET /v2/`: the version without microversions.
pub(super) async fn v2(info: RequestInfo) -> Response {
    json(StatusCode::OK, &json!({ "version": LEGACY.full(&base(&info)) }))
}

/// What stands before the version in the path.
fn base(info: &RequestInfo) -> String {
    let url = info.url();
    let end = url.find("/v2").unwrap_or(url.len());
    url[..end].to_owned()
}
