//! Keystone's API: its routes, and what all of its resources have in common.

pub(crate) mod collection;
pub(crate) mod input;
mod json_home;
mod versions;

use std::sync::Arc;

use axum::{Router, response::Response};
use http::StatusCode;
use madang_http::{Face, Failure, LimitRules, Metrics, PageQuery, Query, RequestInfo, Shape, json, next_url};
use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::{Map, Value};

use crate::{Identity, authenticate::recognize};

/// Keystone, as metrics and logs call it and as its failures look.
const FACE: Face = Face::new("identity", Shape::Keystone).trimming_slashes();

/// Everything of Keystone's API. To be mounted with `nest_service("/identity", …)`, which also takes a slash at the end;
/// `nest` does not.
pub fn router(identity: &Arc<Identity>, metrics: &Metrics) -> Router {
    let v3 = Router::new()
        .merge(crate::auth::api::routes())
        .merge(crate::project::api::routes())
        .merge(crate::project::tags::routes())
        .merge(crate::project::domains::routes())
        .merge(crate::user::api::routes())
        .merge(crate::group::api::routes())
        .merge(crate::role::api::routes())
        .merge(crate::assignment::grants::routes())
        .merge(crate::assignment::list::routes())
        .merge(crate::catalog::api::routes())
        .merge(crate::application_credential::api::routes())
        .merge(crate::credential::api::routes())
        .merge(crate::credential::ec2::routes())
        .merge(crate::credential::signature::routes())
        .merge(crate::trust::api::routes())
        .merge(crate::catalog::filter::api::routes())
        .merge(crate::policy_document::api::routes())
        .merge(crate::policy_document::association::routes())
        .merge(crate::domain_config::api::routes())
        .merge(crate::limit::api::routes())
        .merge(crate::oauth1::api::routes())
        .merge(crate::auth::oauth2::routes())
        .merge(crate::token::events::routes())
        .merge(crate::federation::api::routes());
    let routes = versions::routes().nest("/v3", v3).with_state(Arc::clone(identity));
    FACE.wrap(recognize(identity, "identity", routes), metrics)
}

/// Keystone's answer where there is none: `Could not find project: 42.`
pub(crate) fn not_found(what: &str, id: &str) -> Failure {
    Failure::not_found(format!("Could not find {what}: {id}."))
}

/// Sets members; `null` takes one off.
pub(crate) fn merge(into: &mut Map<String, Value>, changes: &Map<String, Value>) {
    for (name, value) in changes {
        if value.is_null() {
            into.remove(name);
        } else {
            into.insert(name.clone(), value.clone());
        }
    }
}

/// The `links` of a resource.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Links {
    #[serde(rename = "self")]
    itself: String,
}

impl Links {
    /// Its own address.
    pub(crate) fn itself(&self) -> &str {
        &self.itself
    }
}

/// The links of the resource `id` of a collection such as `projects`.
pub(crate) fn links(info: &RequestInfo, collection: &str, id: &str) -> Links {
    Links {
        itself: format!("{}/v3/{collection}/{id}", info.base_url()),
    }
}

/// A resource in a list.
pub(crate) trait Listed: Serialize {
    /// What markers are compared with.
    fn id(&self) -> &str;
}

/// `{"project": {…}}`.
pub(crate) fn one(status: StatusCode, name: &'static str, item: &impl Serialize) -> Response {
    json(status, &Named { name, item })
}

/// `{"projects": […], "links": {"self": …, "next": …, "previous": null}}`, cut as `limit` and `marker` ask.
pub(crate) fn many<T: Listed>(
    info: &RequestInfo,
    query: &Query,
    name: &'static str,
    items: Vec<T>,
) -> Result<Response, Failure> {
    let page = PageQuery::from(query, LimitRules::unbounded())?.cut(items, Listed::id)?;
    let next = page
        .items
        .last()
        .filter(|_| page.has_next)
        .map(|last| next_url(&info.url(), query, last.id()));
    let itself = if info.query().is_empty() {
        info.url()
    } else {
        format!("{}?{}", info.url(), info.query())
    };
    let links = ListLinks {
        next,
        itself,
        previous: None,
    };
    Ok(json(
        StatusCode::OK,
        &List {
            name,
            items: &page.items,
            links,
        },
    ))
}

/// 204 without a body.
pub(crate) fn no_content() -> Response {
    let mut response = Response::default();
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// Whether a text passes the filters that a query has for it: `name=x`, and Keystone's `name__contains=x` and the like.
pub(crate) fn passes(query: &Query, field: &str, text: &str) -> bool {
    query.iter().all(|(name, wanted)| {
        let Some(operator) = name.strip_prefix(field) else {
            return true;
        };
        let lower = || (text.to_lowercase(), wanted.to_lowercase());
        match operator {
            "" => text == wanted,
            "__contains" => text.contains(wanted),
            "__startswith" => text.starts_with(wanted),
            "__endswith" => text.ends_with(wanted),
            "__icontains" => lower().0.contains(&lower().1),
            "__istartswith" => lower().0.starts_with(&lower().1),
            "__iendswith" => lower().0.ends_with(&lower().1),
            _ => true,
        }
    })
}

struct Named<'a, T> {
    name: &'static str,
    item: &'a T,
}

impl<T: Serialize> Serialize for Named<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry(self.name, self.item)?;
        map.end()
    }
}

struct List<'a, T> {
    name: &'static str,
    items: &'a [T],
    links: ListLinks,
}

#[derive(Serialize)]
struct ListLinks {
    next: Option<String>,
    #[serde(rename = "self")]
    itself: String,
    previous: Option<String>,
}

impl<T: Serialize> Serialize for List<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry(self.name, self.items)?;
        map.serialize_entry("links", &self.links)?;
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_have_keystones_operators() {
        let passes = |query: &str| passes(&Query::parse(query), "name", "Alice");
        for yes in [
            "",
            "name=Alice",
            "name__contains=lic",
            "name__icontains=ALI",
            "name__startswith=Al",
            "other=x",
        ] {
            assert!(passes(yes), "{yes}");
        }
        for no in [
            "name=alice",
            "name__contains=xyz",
            "name__endswith=Al",
            "name=Alice&name=Bob",
        ] {
            assert!(!passes(no), "{no}");
        }
    }
}
