//! `/resource_providers/{id}/inventories`.

use std::{collections::BTreeMap, sync::LazyLock};

use axum::{extract::Path, response::Response};
use http::StatusCode;
use madang_http::{Failure, Form, Schema};
use madang_store::StoreError;
use serde_json::{Value, json};

use super::api::{check_generation, edit_or, updated};
use crate::{
    Inventory,
    api::{Call, concurrent_update, failure, find, inventories_view, inventory_view, standard},
    claim::rules::usage_group,
    class::is_class,
};

/// Placement's largest amount.
const MAX: i64 = 0x7fff_ffff;
const GENERATION: &str = "resource provider generation conflict";

fn fields() -> Value {
    json!({
        "resource_provider_generation": { "type": "integer" },
        "total": { "type": "integer", "maximum": MAX, "minimum": 1 },
        "reserved": { "type": "integer", "maximum": MAX, "minimum": 0 },
        "min_unit": { "type": "integer", "maximum": MAX, "minimum": 1 },
        "max_unit": { "type": "integer", "maximum": MAX, "minimum": 1 },
        "step_size": { "type": "integer", "maximum": MAX, "minimum": 1 },
        "allocation_ratio": { "type": "number", "maximum": 3.40282e+38 },
    })
}

/// The body that replaces all inventories of a provider.
pub(crate) fn all_schema() -> Value {
    let one = json!({ "type": "object", "properties": fields(), "required": ["total"], "additionalProperties": false });
    json!({
        "type": "object",
        "properties": {
            "resource_provider_generation": { "type": "integer" },
            "inventories": { "type": "object", "patternProperties": { "^[A-Z0-9_]+$": one } },
        },
        "required": ["resource_provider_generation", "inventories"],
        "additionalProperties": false,
    })
}

static ALL: LazyLock<Schema> = LazyLock::new(|| Schema::new(Form::Placement, all_schema()));

static ONE: LazyLock<Schema> = LazyLock::new(|| {
    let body = json!({
        "type": "object",
        "properties": fields(),
        "required": ["total", "resource_provider_generation"],
        "additionalProperties": false,
    });
    Schema::new(Form::Placement, body)
});

static NEW: LazyLock<Schema> = LazyLock::new(|| {
    let mut properties = fields();
    properties["resource_class"] = json!({ "type": "string", "pattern": "^[A-Z0-9_]+$" });
    let body = json!({
        "type": "object",
        "properties": properties,
        "required": ["total", "resource_class"],
        "additionalProperties": false,
    });
    Schema::new(Form::Placement, body)
});

/// An inventory as a body describes it, with Placement's defaults.
pub(crate) fn read(body: &Value) -> Inventory {
    let number = |name: &str, default: i64| body[name].as_i64().unwrap_or(default);
    Inventory {
        total: number("total", 0),
        reserved: number("reserved", 0),
        min_unit: number("min_unit", 1),
        max_unit: number("max_unit", MAX),
        step_size: number("step_size", 1),
        allocation_ratio: body["allocation_ratio"].as_f64().unwrap_or(1.0),
    }
}

/// Up to 1.25 something must be left beside what is reserved; from 1.26 on all may be reserved.
fn check_capacity(call: &Call, id: &str, verb: &str, class: &str, inventory: &Inventory) -> Result<(), Failure> {
    let why = match (inventory.capacity(), call.is_since(26)) {
        (..0, true) => "greater than total.",
        (..=0, false) => "greater than or equal to total.",
        _ => return Ok(()),
    };
    let message = format!(
        "Unable to {verb} inventory for resource provider {id}: Invalid inventory for '{class}' on resource provider \
         '{id}'. The reserved value is {why}"
    );
    Err(Failure::invalid(message).at("reserved"))
}

fn in_use(prefix: &str, code: &'static str, id: &str, classes: &[&str]) -> Failure {
    let message = format!(
        "{prefix}Inventory for '{}' on resource provider '{id}' in use.",
        classes.join(", ")
    );
    Failure::conflict(message).because(code)
}

/// What is in use cannot be taken away.
fn check_use(call: &Call, id: &str, kept: impl Fn(&str) -> bool) -> Result<(), Vec<String>> {
    let used = call.api.store.counters("", &usage_group(id));
    let mut gone: Vec<String> = used.into_keys().filter(|class| !kept(class)).collect();
    gone.sort_by_key(|class| {
        standard::CLASSES
            .iter()
            .position(|known| known == class)
            .unwrap_or(usize::MAX)
    });
    if gone.is_empty() { Ok(()) } else { Err(gone) }
}

/// What the store refuses: somebody was faster, or uses it by now.
fn words(id: &str, error: StoreError) -> Failure {
    match error {
        StoreError::LimitExceeded { field, .. } => {
            in_use("update conflict: ", "placement.inventory.inuse", id, &[field.as_str()])
        }
        other => failure(other),
    }
}

/// `GET …/inventories`.
pub(crate) async fn list(Path(id): Path<String>, call: Call) -> Result<Response, Failure> {
    call.takes_json()?;
    call.may("placement:resource_providers:inventories:list")?;
    let provider = find(&call.api.store, &id)?;
    Ok(call.answer(StatusCode::OK, &inventories_view(&provider), updated(&provider)))
}

/// `POST …/inventories`: one more.
pub(crate) async fn create(Path(id): Path<String>, call: Call) -> Result<Response, Failure> {
    call.sends_json()?;
    call.may("placement:resource_providers:inventories:create")?;
    let provider = find(&call.api.store, &id)?;
    let body = call.content(&NEW)?;
    let class = body["resource_class"].as_str().unwrap_or_default();
    let inventory = read(&body);
    check_capacity(&call, &id, "create", class, &inventory)?;
    if !is_class(&call.api.store, class) {
        let message = format!("Unable to create inventory for resource provider {id}: No such resource class {class}.");
        return Err(Failure::invalid(message).at("resource_class"));
    }
    if provider.spec.inventories.contains_key(class) {
        return Err(concurrent_update(&format!(
            "Update conflict: there is an inventory of class {class}"
        )));
    }
    let mut shown = inventory_view(&inventory);
    let insert = |spec: &mut crate::ProviderSpec| _ = spec.inventories.insert(class.to_owned(), inventory);
    let provider = edit_or(&call, &provider, insert, |error| words(&id, error)).await?;
    shown["resource_provider_generation"] = json!(provider.spec.generation);
    let mut response = call.answer(StatusCode::CREATED, &shown, updated(&provider));
    call.locate(&mut response, &format!("/resource_providers/{id}/inventories/{class}"));
    Ok(response)
}

/// `PUT …/inventories`: these and no others.
pub(crate) async fn replace(Path(id): Path<String>, call: Call) -> Result<Response, Failure> {
    call.sends_json()?;
    call.may("placement:resource_providers:inventories:update")?;
    let provider = find(&call.api.store, &id)?;
    let body = call.content(&ALL)?;
    check_generation(&provider, &body, GENERATION)?;
    let given = body["inventories"].as_object().into_iter().flatten();
    let wanted: BTreeMap<String, Inventory> = given.map(|(class, one)| (class.clone(), read(one))).collect();
    for (class, inventory) in &wanted {
        check_capacity(&call, &id, "update", class, inventory)?;
    }
    if let Some(class) = wanted.keys().find(|class| !is_class(&call.api.store, class)) {
        let message =
            format!("Unknown resource class in inventory for resource provider {id}: No such resource class {class}.");
        return Err(Failure::invalid(message).at("inventories"));
    }
    check_use(&call, &id, |class| wanted.contains_key(class)).map_err(|classes| {
        let classes: Vec<&str> = classes.iter().map(String::as_str).collect();
        in_use("update conflict: ", "placement.inventory.inuse", &id, &classes)
    })?;
    let provider = edit_or(
        &call,
        &provider,
        |spec| spec.inventories = wanted,
        |error| words(&id, error),
    )
    .await?;
    Ok(call.answer(StatusCode::OK, &inventories_view(&provider), updated(&provider)))
}

/// `DELETE …/inventories`, since 1.5.
pub(crate) async fn clear(Path(id): Path<String>, call: Call) -> Result<Response, Failure> {
    if !call.is_since(5) {
        let refused = Failure::invalid("The method specified is not allowed for this resource.");
        return Err(refused.with_status(StatusCode::METHOD_NOT_ALLOWED));
    }
    call.may("placement:resource_providers:inventories:delete")?;
    let provider = find(&call.api.store, &id)?;
    check_use(&call, &id, |_| false).map_err(|classes| {
        let classes: Vec<&str> = classes.iter().map(String::as_str).collect();
        in_use("", "placement.inventory.inuse", &id, &classes)
    })?;
    edit_or(
        &call,
        &provider,
        |spec| spec.inventories.clear(),
        |error| words(&id, error),
    )
    .await?;
    Ok(Call::done())
}

/// `GET …/inventories/{class}`.
pub(crate) async fn show(Path((id, class)): Path<(String, String)>, call: Call) -> Result<Response, Failure> {
    call.takes_json()?;
    call.may("placement:resource_providers:inventories:show")?;
    let provider = find(&call.api.store, &id)?;
    let missing = || Failure::not_found(format!("No inventory of class {class} for {id}"));
    let inventory = provider.spec.inventories.get(&class).ok_or_else(missing)?;
    let mut shown = inventory_view(inventory);
    shown["resource_provider_generation"] = json!(provider.spec.generation);
    Ok(call.answer(StatusCode::OK, &shown, updated(&provider)))
}

/// `PUT …/inventories/{class}`.
pub(crate) async fn set(Path((id, class)): Path<(String, String)>, call: Call) -> Result<Response, Failure> {
    call.sends_json()?;
    call.may("placement:resource_providers:inventories:update")?;
    let provider = find(&call.api.store, &id)?;
    let body = call.content(&ONE)?;
    check_generation(&provider, &body, GENERATION)?;
    let inventory = read(&body);
    check_capacity(&call, &id, "update", &class, &inventory)?;
    if !provider.spec.inventories.contains_key(&class) {
        let message = format!(
            "No inventory record with resource class for resource provider {id}: No inventory of class {class} found."
        );
        return Err(Failure::invalid(message).at("resource_class"));
    }
    let mut shown = inventory_view(&inventory);
    let insert = |spec: &mut crate::ProviderSpec| _ = spec.inventories.insert(class, inventory);
    let provider = edit_or(&call, &provider, insert, |error| words(&id, error)).await?;
    shown["resource_provider_generation"] = json!(provider.spec.generation);
    Ok(call.answer(StatusCode::OK, &shown, updated(&provider)))
}

/// `DELETE …/inventories/{class}`.
pub(crate) async fn remove(Path((id, class)): Path<(String, String)>, call: Call) -> Result<Response, Failure> {
    call.may("placement:resource_providers:inventories:delete")?;
    let provider = find(&call.api.store, &id)?;
    if !provider.spec.inventories.contains_key(&class) {
        let why = if is_class(&call.api.store, &class) {
            format!("No inventory of class {class} found for delete")
        } else {
            format!("No such resource class {class}.")
        };
        return Err(Failure::not_found(format!(
            "No inventory of class {class} found for delete: {why}"
        )));
    }
    let prefix = format!("Unable to delete inventory of class {class}: ");
    let refused = || in_use(&prefix, "placement.concurrent_update", &id, &[class.as_str()]);
    check_use(&call, &id, |kept| kept != class).map_err(|_| refused())?;
    let take = |spec: &mut crate::ProviderSpec| _ = spec.inventories.remove(&class);
    edit_or(&call, &provider, take, |error| match error {
        StoreError::LimitExceeded { .. } => refused(),
        other => failure(other),
    })
    .await?;
    Ok(Call::done())
}
