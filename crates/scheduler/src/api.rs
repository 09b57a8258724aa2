//! Placement's API: providers, their inventories, and who has what of them. Source: the Placement API reference.
//!
//! A claim is Placement's allocation of one consumer on one provider. Writes that name a generation fail with 409 when
//! the provider has changed since, as Placement's do.

mod candidates;
mod classes;
mod policy;
mod view;

use std::sync::Arc;

use axum::{
    Router,
    response::Response,
    routing::{get, put},
};
use http::{HeaderValue, StatusCode, header};
use madang_http::{Face, Failure, Metrics, Microversion, Microversions, RequestInfo, Shape, VersionDocument, json};
use madang_identity::Caller;
use madang_store::{ErrorKind, Resource, Store, StoreError};
use serde_json::json;

pub(crate) use candidates::resources as requested;
pub(crate) use classes::check_trait;
pub use policy::POLICY;
pub(crate) use view::{
    allocation as allocation_view, inventories as inventories_view, inventory as inventory_view,
    provider as provider_view,
};

use crate::{Provider, claim, provider};

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
    let providers = Router::new()
        .route(
            "/resource_providers",
            get(provider::api::list).post(provider::api::create),
        )
        .route(
            "/resource_providers/{id}",
            get(provider::api::show)
                .put(provider::api::update)
                .delete(provider::api::delete),
        )
        .route(
            "/resource_providers/{id}/inventories",
            get(provider::inventories::list)
                .put(provider::inventories::replace)
                .delete(provider::inventories::clear),
        )
        .route(
            "/resource_providers/{id}/inventories/{class}",
            get(provider::inventories::show)
                .put(provider::inventories::set)
                .delete(provider::inventories::remove),
        )
        .route(
            "/resource_providers/{id}/traits",
            get(provider::labels::traits)
                .put(provider::labels::set_traits)
                .delete(provider::labels::clear_traits),
        )
        .route(
            "/resource_providers/{id}/aggregates",
            get(provider::labels::aggregates).put(provider::labels::set_aggregates),
        )
        .route("/resource_providers/{id}/usages", get(provider::api::usages))
        .route("/resource_providers/{id}/allocations", get(claim::api::of_provider));
    let others = Router::new()
        .route(
            "/allocations/{consumer}",
            get(claim::api::show).put(claim::api::set).delete(claim::api::delete),
        )
        .route("/allocation_candidates", get(candidates::list))
        .route("/usages", get(claim::api::usages))
        .route("/resource_classes", get(classes::list))
        .route("/resource_classes/{name}", get(classes::show))
        .route("/traits", get(classes::traits))
        .route("/traits/{name}", put(classes::need_trait).get(classes::show_trait));
    let authenticated = authenticate(providers.merge(others).with_state(api));
    let versions = Microversions::new("placement", OLDEST, NEWEST).naming_range();
    let all = versions.wrap(authenticated.merge(Router::new().route("/", get(root))));
    Face::new("placement", Shape::Placement).wrap(all, metrics)
}

/// `GET /`: the one version.
async fn root(info: RequestInfo) -> Response {
    let mut version = VersionDocument::new("v1.0", "CURRENT", info.base_url());
    version.min_version = Some(OLDEST.to_string());
    version.max_version = Some(NEWEST.to_string());
    // Placement's own link is empty: the service's address is the version's.
    version.links[0].href = String::new();
    json(StatusCode::OK, &json!({ "versions": [version] }))
}

/// The provider with a uuid.
///
/// # Errors
/// `NotFound`.
pub(crate) fn find(store: &Store, id: &str) -> Result<Arc<Resource<Provider>>, Failure> {
    let missing = || Failure::not_found(format!("No resource provider with uuid {id} found"));
    store.cache::<Provider>().by_name(id).ok_or_else(missing)
}

/// Placement's reads and writes are for admins and services; all rules are of one shape.
pub(crate) fn enforce(caller: &Caller, rule: &str) -> Result<(), Failure> {
    caller.enforce(rule, &[])
}

/// A failed write, in Placement's words.
pub(crate) fn failure(error: StoreError) -> Failure {
    match error {
        StoreError::Conflict { .. } => concurrent_update(),
        StoreError::LimitExceeded { field, requested, .. } => Failure::conflict(format!(
            "Unable to allocate inventory: {requested} of {field} is over the capacity"
        ))
        .because("placement.undefined_code"),
        other if other.kind() == ErrorKind::Internal => Failure::internal(other.to_string()),
        other => other.into(),
    }
}

/// 409 for who decided on what is no longer so.
pub(crate) fn concurrent_update() -> Failure {
    Failure::conflict("resource provider generation conflict: The resource provider has changed. Read it again.")
        .because("placement.concurrent_update")
}

/// Since 1.15 answers say when they were true and that they are not to be kept.
pub(crate) fn dated(mut response: Response, version: Microversion) -> Response {
    if version >= Microversion(1, 15) {
        response
            .headers_mut()
            .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    }
    response
}
