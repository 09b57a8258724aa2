//! The catalog as a token has it: services and their endpoints, with the token's project in the URLs.

use std::{collections::BTreeSet, sync::Arc};

use madang_store::{Resource, Store};
use serde::Serialize;

use super::{Endpoint, Service, filter::seen_by};

/// A service in a catalog.
#[derive(Debug, Serialize)]
pub struct CatalogService {
    endpoints: Vec<CatalogEndpoint>,
    id: String,
    #[serde(rename = "type")]
    service_type: String,
    name: String,
}

#[derive(Debug, Serialize)]
struct CatalogEndpoint {
    id: String,
    interface: String,
    region_id: Option<String>,
    url: String,
    region: Option<String>,
}

/// The catalog for a token of `user_id`, in `project_id` where it has one. Endpoints whose URL needs a project are left
/// out where there is none, and services without an endpoint too.
pub(crate) fn catalog(store: &Store, user_id: &str, project_id: Option<&str>) -> Vec<CatalogService> {
    let mut services = store.cache::<Service>().all();
    services.retain(|service| service.spec.enabled);
    services.sort_by(|a, b| (&a.spec.service_type, a.name()).cmp(&(&b.spec.service_type, b.name())));
    let seen = project_id.and_then(|id| seen_by(store, id));
    let rendered = services.iter().map(|service| CatalogService {
        endpoints: endpoints(store, service, seen.as_ref(), user_id, project_id),
        id: service.name().to_owned(),
        service_type: service.spec.service_type.clone(),
        name: service.spec.name.clone().unwrap_or_default(),
    });
    rendered.filter(|service| !service.endpoints.is_empty()).collect()
}

fn endpoints(
    store: &Store,
    service: &Arc<Resource<Service>>,
    seen: Option<&BTreeSet<String>>,
    user_id: &str,
    project_id: Option<&str>,
) -> Vec<CatalogEndpoint> {
    let mut endpoints = store.cache::<Endpoint>().by("service", service.name());
    endpoints.sort_by(|a, b| (&a.spec.interface, a.name()).cmp(&(&b.spec.interface, b.name())));
    endpoints.retain(|endpoint| endpoint.spec.enabled && seen.is_none_or(|seen| seen.contains(endpoint.name())));
    endpoints
        .iter()
        .filter_map(|endpoint| {
            Some(CatalogEndpoint {
                id: endpoint.name().to_owned(),
                interface: endpoint.spec.interface.clone(),
                region_id: endpoint.spec.region_id.clone(),
                url: filled(&endpoint.spec.url, user_id, project_id)?,
                region: endpoint.spec.region_id.clone(),
            })
        })
        .collect()
}

/// The URL with what `$(…)s` and `%(…)s` stand for; none where it is not known.
pub(crate) fn filled(url: &str, user_id: &str, project_id: Option<&str>) -> Option<String> {
    let mut out = String::with_capacity(url.len() + 32);
    let mut rest = url;
    while let Some(at) = rest.find("$(").into_iter().chain(rest.find("%(")).min() {
        out.push_str(&rest[..at]);
        let (name, after) = rest[at + 2..].split_once(")s")?;
        out.push_str(match name {
            "project_id" | "tenant_id" => project_id?,
            "user_id" => user_id,
            _ => return None,
        });
        rest = after;
    }
    out.push_str(rest);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_filled_with_what_is_known() {
        let fill = |url| filled(url, "u1", Some("p1"));
        assert_eq!(
            fill("http://c/v3/$(project_id)s/x").as_deref(),
            Some("http://c/v3/p1/x")
        );
        assert_eq!(
            fill("http://c/AUTH_%(tenant_id)s/%(user_id)s").as_deref(),
            Some("http://c/AUTH_p1/u1")
        );
        assert_eq!(fill("http://c/$(secret)s"), None);
        assert_eq!(fill("http://c/$(project_id"), None);
        assert_eq!(filled("http://c/$(project_id)s", "u1", None), None);
        assert_eq!(filled("http://c/", "u1", None).as_deref(), Some("http://c/"));
    }
}
