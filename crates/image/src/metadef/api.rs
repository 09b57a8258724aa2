//! Glance's `/v2/metadefs`: parse, call a verb, render.

mod namespace;
mod part;
mod resource_type;

use std::sync::Arc;

use axum::{
    Router,
    routing::{MethodRouter, delete, get, post},
};
use jiff::Timestamp;
use madang_http::{LimitRules, ZeroLimit};

use super::{Sort, schema};
use crate::library::Library;

/// Glance's `limit_param_default` and `api_limit_max`.
const LIMITS: LimitRules = LimitRules {
    max: Some(1000),
    default: Some(25),
    zero: ZeroLimit::Empty,
};

/// The routes, to be merged with those of images.
pub(crate) fn router() -> Router<Arc<Library>> {
    let mut router = Router::new()
        .route("/v2/schemas/metadefs/{name}", get(schema::show))
        .route("/v2/metadefs/resource_types", get(resource_type::list_all))
        .route("/v2/metadefs/namespaces", get(namespace::list).post(namespace::create))
        .route(
            "/v2/metadefs/namespaces/{namespace}",
            get(namespace::show).put(namespace::update).delete(namespace::delete),
        )
        .route(
            "/v2/metadefs/namespaces/{namespace}/resource_types",
            get(resource_type::list).post(resource_type::associate),
        )
        .route(
            "/v2/metadefs/namespaces/{namespace}/resource_types/{name}",
            delete(resource_type::dissociate),
        );
    for sort in [Sort::Object, Sort::Property, Sort::Tag] {
        let all = format!("/v2/metadefs/namespaces/{{namespace}}/{}", sort.plural());
        router = router
            .route(&all, of_all(sort))
            .route(&format!("{all}/{{name}}"), of_one(sort));
    }
    router
}

fn of_all(sort: Sort) -> MethodRouter<Arc<Library>> {
    let all = get(async move |library, caller, path, query| part::list(sort, library, caller, path, query).await)
        .delete(async move |library, caller, path| part::delete_all(sort, library, caller, path).await);
    match sort {
        Sort::Tag => all.merge(post(part::create_tags)),
        Sort::Object | Sort::Property => {
            all.post(async move |library, caller, path, body| part::create(sort, library, caller, path, body).await)
        }
    }
}

fn of_one(sort: Sort) -> MethodRouter<Arc<Library>> {
    let one = get(async move |library, caller, path, query| part::show(sort, library, caller, path, query).await)
        .put(async move |library, caller, path, body| part::update(sort, library, caller, path, body).await)
        .delete(async move |library, caller, path| part::delete(sort, library, caller, path).await);
    match sort {
        Sort::Tag => one.post(part::create_tag),
        Sort::Object | Sort::Property => one,
    }
}

/// A time as Glance writes it.
fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
