//! Placement's API: providers, their inventories, and who has what of them. Source: the Placement API reference.
//!
//! A claim is Placement's consumer with its allocations. Writes that name a generation fail with 409 when the provider
//! or the consumer has changed since, as Placement's do.

mod call;
mod candidates;
mod classes;
pub(crate) mod filter;
mod policy;
pub(crate) mod standard;
mod usages;
mod view;

use std::sync::Arc;

use axum::{
    Router, middleware,
    response::Response,
    routing::{get, post, put},
};
use http::{HeaderValue, StatusCode, header};
use madang_http::{Face, Failure, Metrics, Microversion, Microversions, RequestInfo, Shape, VersionDocument, json};
use madang_store::{ErrorKind, Resource, Store, StoreError};
use serde_json::json;

pub(crate) use call::Call;
pub use policy::POLICY;
pub(crate) use view::{inventories as inventories_view, inventory as inventory_view, provider as provider_view};

use crate::{
    Provider,
    claim::api as allocations,
    provider::{api as providers, inventories, labels},
};

/// The newest microversion spoken.
pub const NEWEST: Microversion = Microversion(1, 39);
/// The oldest, and what a request without the header gets.
pub const OLDEST: Microversion = Microversion(1, 0);

/// What handlers work with.
#[derive(Clone)]
pub struct PlacementApi {
    /// The store.
    pub store: Store,
}

/// The router, to be nested at `/placement`. `authenticate` wraps the part that needs a token.
pub fn router(api: PlacementApi, metrics: &Metrics, authenticate: impl FnOnce(Router) -> Router) -> Router {
    let authenticated = authenticate(of_providers().merge(others()).with_state(api));
    let versions = Microversions::new("placement", OLDEST, NEWEST).naming_range();
    let all = versions.wrap(authenticated.merge(Router::new().route("/", get(root))));
    let all = all.layer(middleware::map_response(allow));
    Face::new("placement", Shape::Placement).wrap(all, metrics)
}

fn of_providers() -> Router<PlacementApi> {
    Router::new()
        .route("/resource_providers", get(providers::list).post(providers::create))
        .route(
            "/resource_providers/{id}",
            get(providers::show).put(providers::update).delete(providers::delete),
        )
        .route(
            "/resource_providers/{id}/inventories",
            get(inventories::list)
                .post(inventories::create)
                .put(inventories::replace)
                .delete(inventories::clear),
        )
        .route(
            "/resource_providers/{id}/inventories/{class}",
            get(inventories::show).put(inventories::set).delete(inventories::remove),
        )
        .route(
            "/resource_providers/{id}/traits",
            get(labels::traits).put(labels::set_traits).delete(labels::clear_traits),
        )
        .route(
            "/resource_providers/{id}/aggregates",
            get(labels::aggregates).put(labels::set_aggregates),
        )
        .route("/resource_providers/{id}/usages", get(providers::usages))
        .route("/resource_providers/{id}/allocations", get(allocations::of_provider))
}

fn others() -> Router<PlacementApi> {
    Router::new()
        .route("/allocations", post(allocations::set_several))
        .route(
            "/allocations/{consumer}",
            get(allocations::show).put(allocations::set).delete(allocations::delete),
        )
        .route("/allocation_candidates", get(candidates::list))
        .route("/reshaper", post(usages::reshape))
        .route("/usages", get(usages::list))
        .route("/resource_classes", get(classes::list).post(classes::create))
        .route(
            "/resource_classes/{name}",
            get(classes::show).put(classes::put).delete(classes::delete),
        )
        .route("/traits", get(classes::list_traits))
        .route(
            "/traits/{name}",
            put(classes::put_trait)
                .get(classes::show_trait)
                .delete(classes::delete_trait),
        )
}

/// `GET /`: the one version.
async fn root(info: RequestInfo, asked: Microversion) -> Response {
    let mut version = VersionDocument::new("v1.0", "CURRENT", info.base_url());
    version.min_version = Some(OLDEST.to_string());
    version.max_version = Some(NEWEST.to_string());
    // Placement's own link is empty: the service's address is the version's.
    version.links[0].href = String::new();
    let mut response = json(StatusCode::OK, &json!({ "versions": [version] }));
    if asked >= Microversion(1, 15) {
        call::date(&mut response, None);
    }
    response
}

/// The methods of a route as Placement names them: without HEAD, which it does not have.
async fn allow(mut response: Response) -> Response {
    let allowed = response
        .headers()
        .get(header::ALLOW)
        .and_then(|value| value.to_str().ok());
    let kept = allowed.map(|text| {
        let methods = text.split(',').map(str::trim).filter(|method| *method != "HEAD");
        methods.collect::<Vec<_>>().join(", ")
    });
    if let Some(value) = kept.and_then(|text| HeaderValue::try_from(text).ok()) {
        response.headers_mut().insert(header::ALLOW, value);
    }
    response
}

/// The provider with a uuid.
///
/// # Errors
/// `NotFound`.
pub(crate) fn find(store: &Store, id: &str) -> Result<Arc<Resource<Provider>>, Failure> {
    let missing = || Failure::not_found(format!("No resource provider with uuid {id} found"));
    store.cache::<Provider>().by_name(id).ok_or_else(missing)
}

/// A failed write, in Placement's words.
pub(crate) fn failure(error: StoreError) -> Failure {
    match error {
        StoreError::Conflict { .. } => {
            concurrent_update("resource provider generation conflict: it has changed, read it again")
        }
        StoreError::LimitExceeded { field, .. } => Failure::conflict(format!(
            "Unable to allocate inventory: Unable to create allocation for '{field}'. The requested amount would exceed \
             the capacity."
        )),
        other if other.kind() == ErrorKind::Internal => Failure::internal(other.to_string()),
        other => other.into(),
    }
}

/// 409 for who decided on what is no longer so.
pub(crate) fn concurrent_update(words: &str) -> Failure {
    Failure::conflict(words).because("placement.concurrent_update")
}
