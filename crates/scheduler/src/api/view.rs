//! Providers as Placement shows them. Pure.

use std::collections::BTreeMap;

use madang_store::Resource;
use serde_json::{Value, json};

use super::call::Call;
use crate::{Inventory, Provider, provider::rules::root};

/// A provider, with links to what belongs to it.
pub(crate) fn provider(call: &Call, provider: &Resource<Provider>) -> Value {
    let id = provider.name();
    let mut names = vec!["inventories", "usages"];
    let since = [(1, "aggregates"), (6, "traits"), (11, "allocations")];
    names.extend(
        since
            .iter()
            .filter(|(minor, _)| call.is_since(*minor))
            .map(|(_, name)| *name),
    );
    let own = call.path(&format!("/resource_providers/{id}"));
    let links = names
        .iter()
        .map(|name| json!({ "rel": name, "href": format!("{own}/{name}") }));
    let links: Vec<Value> = std::iter::once(json!({ "rel": "self", "href": own }))
        .chain(links)
        .collect();
    let mut shown = json!({
        "uuid": id,
        "name": provider.spec.name,
        "generation": provider.spec.generation,
        "links": links,
    });
    if call.is_since(14) {
        shown["parent_provider_uuid"] = json!(provider.spec.parent);
        shown["root_provider_uuid"] = json!(root(&call.api.store, provider));
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
    let all = provider.spec.inventories.iter();
    let all: BTreeMap<&String, Value> = all.map(|(class, one)| (class, inventory(one))).collect();
    json!({ "inventories": all, "resource_provider_generation": provider.spec.generation })
}
