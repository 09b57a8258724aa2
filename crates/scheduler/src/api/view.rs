//! Providers and claims as Placement shows them. Pure.

use std::collections::BTreeMap;

use madang_http::Microversion;
use madang_store::Resource;
use serde_json::{Value, json};

use crate::{Claim, Inventory, Provider};

/// A provider, with links to what belongs to it.
pub(crate) fn provider(provider: &Resource<Provider>, version: Microversion) -> Value {
    let id = provider.name();
    let mut names = vec!["inventories", "usages"];
    let since = [(1, "aggregates"), (6, "traits"), (11, "allocations")];
    names.extend(
        since
            .iter()
            .filter(|(minor, _)| version >= Microversion(1, *minor))
            .map(|(_, name)| *name),
    );
    let own = json!({ "rel": "self", "href": format!("/placement/resource_providers/{id}") });
    let links = names
        .iter()
        .map(|name| json!({ "rel": name, "href": format!("/placement/resource_providers/{id}/{name}") }));
    let links: Vec<Value> = std::iter::once(own).chain(links).collect();
    let mut shown = json!({
        "uuid": id,
        "name": provider.spec.name,
        "generation": provider.spec.generation,
        "links": links,
    });
    if version >= Microversion(1, 14) {
        shown["parent_provider_uuid"] = json!(provider.spec.parent);
        shown["root_provider_uuid"] = json!(provider.spec.parent.as_deref().unwrap_or(id));
    }
    shown
}

/// One inventory.
pub(crate) fn inventory(inventory: &Inventory) -> Value {
    json!({
        "total": inventory.total,
        "reserved": inventory.reserved,
        "min_unit": inventory.min_unit,
        "max_unit": inventory.max_unit,
        "step_size": inventory.step_size,
        "allocation_ratio": inventory.allocation_ratio,
    })
}

/// All inventories of a provider, with its generation.
pub(crate) fn inventories(provider: &Resource<Provider>) -> Value {
    let all: BTreeMap<&String, Value> = provider
        .spec
        .inventories
        .iter()
        .map(|(class, one)| (class, inventory(one)))
        .collect();
    json!({ "inventories": all, "resource_provider_generation": provider.spec.generation })
}

/// What one consumer has, by provider.
pub(crate) fn allocation(claim: &Resource<Claim>, provider: &Resource<Provider>) -> Value {
    json!({ provider.name(): { "resources": claim.spec.resources, "generation": provider.spec.generation } })
}
