//! `GET /allocation_candidates`: which providers could take what is asked.

use std::collections::BTreeMap;

use axum::{extract::State, response::Response};
use http::StatusCode;
use madang_http::{Failure, Microversion, Query, json};
use madang_identity::Caller;
use serde_json::{Map, Value, json};

use super::{PlacementApi, dated, enforce};
use crate::{Provider, claim::rules::usage_group};

/// Candidates in one answer where nothing is asked; Placement's own limit on large clouds.
const MOST: usize = 1000;

/// `resources=VCPU:1,MEMORY_MB:64`.
///
/// # Errors
/// `Invalid` for anything else.
pub(crate) fn resources(text: &str) -> Result<BTreeMap<String, i64>, Failure> {
    let bad = || {
        let message = format!(
            "Badly formed resources parameter. Expected resources query string parameter in form: ?resources=VCPU:2,MEMORY_MB:1024. Got: {text}."
        );
        Failure::invalid(message).at("resources")
    };
    let one = |part: &str| -> Option<(String, i64)> {
        let (class, amount) = part.split_once(':')?;
        let amount = amount.parse().ok().filter(|amount| *amount > 0)?;
        Some((class.to_owned(), amount))
    };
    let parsed: Option<BTreeMap<_, _>> = text.split(',').map(one).collect();
    parsed.filter(|parsed| !parsed.is_empty()).ok_or_else(bad)
}

/// `GET /allocation_candidates`, since 1.10: the unnumbered request group.
pub(super) async fn list(
    State(api): State<PlacementApi>,
    caller: Caller,
    version: Microversion,
    query: Query,
) -> Result<Response, Failure> {
    enforce(&caller, "placement:allocation_candidates:list")?;
    if version < Microversion(1, 10) {
        return Err(Failure::not_found("The resource could not be found."));
    }
    let known = ["resources", "required", "limit", "in_tree", "member_of", "group_policy"];
    if let Some((name, _)) = query.iter().find(|(name, _)| !known.contains(name)) {
        return Err(Failure::invalid(format!(
            "Invalid query string parameters: '{name}' is not one of {known:?}"
        )));
    }
    let wanted = query
        .get("resources")
        .ok_or_else(|| Failure::invalid("At least one group of resources must be requested.").at("resources"))?;
    let wanted = resources(wanted)?;
    let limit = match query.get("limit") {
        Some(text) => text
            .parse()
            .map_err(|_| Failure::invalid(format!("Invalid limit {text}")).at("limit"))?,
        None => MOST,
    };
    let required: Vec<&str> = query.all("required").flat_map(|list| list.split(',')).collect();
    let mut providers = api.store.cache::<Provider>().all();
    providers.sort_unstable_by(|a, b| a.spec.name.cmp(&b.spec.name));
    let mut requests = Vec::new();
    let mut summaries = Map::new();
    for provider in &providers {
        let spec = &provider.spec;
        let used = api.store.counters("", &usage_group(provider.name()));
        let of = |class: &str| used.get(class).copied().unwrap_or(0);
        let fits = wanted.iter().all(|(class, amount)| {
            spec.inventories.get(class).is_some_and(|inventory| {
                of(class) + amount <= inventory.capacity()
                    && (inventory.min_unit..=inventory.max_unit).contains(amount)
                    && amount % inventory.step_size.max(1) == 0
            })
        });
        let has = |name: &str| spec.traits.iter().any(|own| own == name);
        let suits = required.iter().all(|wish| {
            wish.strip_prefix('!')
                .map_or_else(|| has(wish), |unwanted| !has(unwanted))
        });
        let in_tree = query.get("in_tree").is_none_or(|root| root == provider.name());
        let is_member = query.get("member_of").is_none_or(|list| {
            list.trim_start_matches("in:")
                .split(',')
                .any(|id| spec.aggregates.iter().any(|own| own == id))
        });
        if !(fits && suits && in_tree && is_member) || requests.len() >= limit {
            continue;
        }
        requests.push(request(provider.name(), &wanted, version));
        let resources: BTreeMap<&String, Value> = spec
            .inventories
            .iter()
            .filter(|(class, _)| version >= Microversion(1, 27) || wanted.contains_key(*class))
            .map(|(class, inventory)| (class, json!({ "capacity": inventory.capacity(), "used": of(class) })))
            .collect();
        let mut summary = json!({ "resources": resources });
        if version >= Microversion(1, 17) {
            summary["traits"] = json!(spec.traits);
        }
        if version >= Microversion(1, 29) {
            summary["parent_provider_uuid"] = json!(spec.parent);
            summary["root_provider_uuid"] = json!(spec.parent.as_deref().unwrap_or(provider.name()));
        }
        summaries.insert(provider.name().to_owned(), summary);
    }
    let body = json!({ "allocation_requests": requests, "provider_summaries": summaries });
    Ok(dated(json(StatusCode::OK, &body), version))
}

fn request(provider: &str, resources: &BTreeMap<String, i64>, version: Microversion) -> Value {
    // Up to 1.11 a list, from 1.12 on an object by provider; from 1.34 on with what each group got.
    if version < Microversion(1, 12) {
        return json!({ "allocations": [{ "resource_provider": { "uuid": provider }, "resources": resources }] });
    }
    let mut request = json!({ "allocations": { provider: { "resources": resources } } });
    if version >= Microversion(1, 34) {
        request["mappings"] = json!({ "": [provider] });
    }
    request
}
