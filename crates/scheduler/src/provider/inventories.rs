//! `/resource_providers/{id}/inventories`.

use std::{collections::BTreeMap, sync::LazyLock};

use axum::{
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use http::StatusCode;
use madang_http::{Failure, Form, Json, Microversion, Schema, json};
use madang_identity::Caller;
use madang_store::Resource;
use serde_json::{Value, json};

use super::api::{check_generation, edit};
use crate::{
    Inventory, Provider,
    api::{PlacementApi, dated, enforce, find, inventories_view, inventory_view},
    claim::rules::usage_group,
};

/// Placement's largest amount.
const MAX: i64 = 0x7fff_ffff;

fn fields() -> Value {
    json!({
        "total": { "type": "integer", "maximum": MAX, "minimum": 1 },
        "reserved": { "type": "integer", "maximum": MAX, "minimum": 0 },
        "min_unit": { "type": "integer", "maximum": MAX, "minimum": 1 },
        "max_unit": { "type": "integer", "maximum": MAX, "minimum": 1 },
        "step_size": { "type": "integer", "maximum": MAX, "minimum": 1 },
        "allocation_ratio": { "type": "number", "maximum": 3.40282e+38 },
    })
}

static ALL: LazyLock<Schema> = LazyLock::new(|| {
    let one = json!({ "type": "object", "required": ["total"], "properties": fields(), "additionalProperties": false });
    Schema::new(
        Form::Placement,
        json!({
            "type": "object",
            "required": ["resource_provider_generation", "inventories"],
            "properties": {
                "resource_provider_generation": { "type": "integer" },
                "inventories": {
                    "type": "object",
                    "patternProperties": { "^[A-Z0-9_]+$": one },
                    "additionalProperties": false,
                },
            },
            "additionalProperties": false,
        }),
    )
});

static ONE: LazyLock<Schema> = LazyLock::new(|| {
    let mut properties = fields();
    properties["resource_provider_generation"] = json!({ "type": "integer" });
    properties["resource_class"] = json!({ "type": "string" });
    Schema::new(
        Form::Placement,
        json!({
            "type": "object",
            "required": ["total", "resource_provider_generation"],
            "properties": properties,
            "additionalProperties": false,
        }),
    )
});

fn read(class: &str, body: &Value) -> Result<Inventory, Failure> {
    let number = |name: &str, default: i64| body[name].as_i64().unwrap_or(default);
    let inventory = Inventory {
        total: number("total", 0),
        reserved: number("reserved", 0),
        min_unit: number("min_unit", 1),
        max_unit: number("max_unit", MAX),
        step_size: number("step_size", 1),
        allocation_ratio: body["allocation_ratio"].as_f64().unwrap_or(1.0),
    };
    if inventory.reserved > inventory.total {
        let message = format!(
            "Invalid inventory for '{class}': reserved {} is over the total {}",
            inventory.reserved, inventory.total
        );
        return Err(Failure::invalid(message).at(format!("inventories.{class}.reserved")));
    }
    Ok(inventory)
}

/// What is in use cannot be taken away.
fn check_use(api: &PlacementApi, provider: &Resource<Provider>, kept: impl Fn(&str) -> bool) -> Result<(), Failure> {
    let used = api.store.counters("", &usage_group(provider.name()));
    match used.keys().find(|class| !kept(class)) {
        Some(class) => {
            let message = format!(
                "Inventory for '{class}' on resource provider '{}' in use.",
                provider.name()
            );
            Err(Failure::conflict(message).because("placement.inventory.inuse"))
        }
        None => Ok(()),
    }
}

/// `GET …/inventories`.
pub(crate) async fn list(
    State(api): State<PlacementApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    enforce(&caller, "placement:resource_providers:inventories:list")?;
    let provider = find(&api.store, &id)?;
    Ok(dated(json(StatusCode::OK, &inventories_view(&provider)), version))
}

/// `PUT …/inventories`: these and no others.
pub(crate) async fn replace(
    State(api): State<PlacementApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    enforce(&caller, "placement:resource_providers:inventories:update")?;
    ALL.check(&body)?;
    let provider = find(&api.store, &id)?;
    check_generation(&provider, &body)?;
    let wanted = body["inventories"].as_object().into_iter().flatten();
    let wanted = wanted.map(|(class, one)| Ok((class.clone(), read(class, one)?)));
    let wanted: BTreeMap<String, Inventory> = wanted.collect::<Result<_, Failure>>()?;
    check_use(&api, &provider, |class| wanted.contains_key(class))?;
    let provider = edit(&api, &caller, &provider, |spec| spec.inventories = wanted).await?;
    Ok(dated(json(StatusCode::OK, &inventories_view(&provider)), version))
}

/// `DELETE …/inventories`, since 1.5.
pub(crate) async fn clear(
    State(api): State<PlacementApi>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    enforce(&caller, "placement:resource_providers:inventories:delete")?;
    let provider = find(&api.store, &id)?;
    check_use(&api, &provider, |_| false)?;
    edit(&api, &caller, &provider, |spec| spec.inventories.clear()).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn no_inventory(id: &str, class: &str) -> Failure {
    Failure::not_found(format!("No inventory of class {class} for {id}"))
}

/// `GET …/inventories/{class}`.
pub(crate) async fn show(
    State(api): State<PlacementApi>,
    caller: Caller,
    version: Microversion,
    Path((id, class)): Path<(String, String)>,
) -> Result<Response, Failure> {
    enforce(&caller, "placement:resource_providers:inventories:show")?;
    let provider = find(&api.store, &id)?;
    let inventory = provider
        .spec
        .inventories
        .get(&class)
        .ok_or_else(|| no_inventory(&id, &class))?;
    let mut shown = inventory_view(inventory);
    shown["resource_provider_generation"] = json!(provider.spec.generation);
    Ok(dated(json(StatusCode::OK, &shown), version))
}

/// `PUT …/inventories/{class}`.
pub(crate) async fn set(
    State(api): State<PlacementApi>,
    caller: Caller,
    version: Microversion,
    Path((id, class)): Path<(String, String)>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    enforce(&caller, "placement:resource_providers:inventories:update")?;
    ONE.check(&body)?;
    let provider = find(&api.store, &id)?;
    check_generation(&provider, &body)?;
    let inventory = read(&class, &body)?;
    let mut shown = inventory_view(&inventory);
    let provider = edit(&api, &caller, &provider, |spec| {
        _ = spec.inventories.insert(class, inventory)
    })
    .await?;
    shown["resource_provider_generation"] = json!(provider.spec.generation);
    Ok(dated(json(StatusCode::OK, &shown), version))
}

/// `DELETE …/inventories/{class}`.
pub(crate) async fn remove(
    State(api): State<PlacementApi>,
    caller: Caller,
    Path((id, class)): Path<(String, String)>,
) -> Result<Response, Failure> {
    enforce(&caller, "placement:resource_providers:inventories:delete")?;
    let provider = find(&api.store, &id)?;
    if !provider.spec.inventories.contains_key(&class) {
        return Err(no_inventory(&id, &class));
    }
    check_use(&api, &provider, |kept| kept != class)?;
    edit(&api, &caller, &provider, |spec| _ = spec.inventories.remove(&class)).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
