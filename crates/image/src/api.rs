//! Glance v2 over this crate's verbs: the router and its versions.

use std::sync::Arc;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    response::Response,
    routing::{get, post, put},
};
use http::StatusCode;
use madang_http::{Face, Metrics, RequestInfo, Shape, VersionDocument, json};
use serde_json::{Value, json as object};

pub use crate::policy::POLICY;
use crate::{
    image::{
        api::{data, image, import, list, member, schema},
        import::METHODS,
    },
    library::Library,
    metadef, task,
};

/// How this face presents itself.
const FACE: Face = Face::new("image", Shape::Glance);

/// The versions that clients choose among, the newest first. Left out are those that only say that a cache or metadata
/// definitions are there.
const VERSIONS: &[&str] = &[
    "v2.16", "v2.15", "v2.13", "v2.12", "v2.11", "v2.10", "v2.9", "v2.8", "v2.7", "v2.6", "v2.5", "v2.4", "v2.3",
    "v2.2", "v2.1", "v2.0",
];

/// The only store there is, as `/v2/info/stores` and images name it.
pub(crate) const STORE: &str = "local";

/// Glance's router, to be nested at `/image`. `authenticate` wraps the part that needs a token.
pub fn router(library: Arc<Library>, metrics: &Metrics, authenticate: impl FnOnce(Router) -> Router) -> Router {
    let images = Router::new()
        .route("/v2/images", get(list::list).post(image::create))
        .route(
            "/v2/images/{id}",
            get(image::show).patch(image::update).delete(image::delete),
        )
        .route(
            "/v2/images/{id}/file",
            get(data::download).put(data::upload).layer(DefaultBodyLimit::disable()),
        )
        .route("/v2/images/{id}/actions/deactivate", post(image::deactivate))
        .route("/v2/images/{id}/actions/reactivate", post(image::reactivate))
        .route(
            "/v2/images/{id}/tags/{tag}",
            put(image::add_tag).delete(image::remove_tag),
        )
        .route("/v2/images/{id}/tasks", get(task::api::of_image))
        .route(
            "/v2/images/{id}/stage",
            put(import::stage).layer(DefaultBodyLimit::disable()),
        )
        .route("/v2/images/{id}/import", post(import::begin))
        .route("/v2/images/{id}/members", get(member::list).post(member::add))
        .route(
            "/v2/images/{id}/members/{project}",
            get(member::show).put(member::answer).delete(member::remove),
        );
    let about = Router::new()
        .route("/v2/schemas/{name}", get(schema::show))
        .route("/v2/info/import", get(async || json(StatusCode::OK, &import_methods())))
        .route("/v2/info/stores", get(async || json(StatusCode::OK, &stores())));
    let versions = Router::new()
        .route(
            "/",
            get(async |info: RequestInfo| versions(&info, StatusCode::MULTIPLE_CHOICES)),
        )
        .route(
            "/versions",
            get(async |info: RequestInfo| versions(&info, StatusCode::OK)),
        )
        .route(
            "/versions/",
            get(async |info: RequestInfo| versions(&info, StatusCode::OK)),
        )
        .route("/v2", get(async |info: RequestInfo| versions(&info, StatusCode::OK)))
        .route("/v2/", get(async |info: RequestInfo| versions(&info, StatusCode::OK)));
    let guarded = authenticate(
        images
            .merge(about)
            .merge(metadef::api::router())
            .merge(task::api::router())
            .with_state(library),
    );
    FACE.wrap(guarded.merge(versions), metrics)
}

fn versions(info: &RequestInfo, status: StatusCode) -> Response {
    let href = format!("{}/v2/", info.base_url());
    let state = |position: usize| if position == 0 { "CURRENT" } else { "SUPPORTED" };
    let versions = VERSIONS.iter().enumerate();
    let versions: Vec<_> = versions
        .map(|(i, id)| VersionDocument::new(id, state(i), href.clone()))
        .collect();
    json(status, &object!({ "versions": versions }))
}

fn import_methods() -> Value {
    object!({ "import-methods": { "description": "Import methods available.", "type": "array", "value": METHODS } })
}

fn stores() -> Value {
    object!({ "stores": [{ "id": STORE, "default": "true" }] })
}
