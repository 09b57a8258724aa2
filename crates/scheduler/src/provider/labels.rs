//! `/resource_providers/{id}/traits` and `/aggregates`.

use std::sync::LazyLock;

use axum::{extract::Path, response::Response};
use http::StatusCode;
use madang_http::{Failure, Form, Schema};
use madang_store::Resource;
use serde_json::{Value, json};

use super::api::{check_generation, edit, updated};
use crate::{
    Provider,
    api::{Call, failure, find},
    class::is_trait,
};

const GENERATION: &str = "Resource provider's generation already changed. Please update the generation and try again.";

static TRAITS: LazyLock<Schema> = LazyLock::new(|| {
    let body = json!({
        "type": "object",
        "properties": {
            "traits": { "type": "array", "items": { "type": "string", "minLength": 1, "maxLength": 255 } },
            "resource_provider_generation": { "type": "integer" },
        },
        "required": ["traits", "resource_provider_generation"],
        "additionalProperties": false,
    });
    Schema::new(Form::Placement, body)
});

fn list_schema() -> Value {
    json!({ "type": "array", "items": { "type": "string", "format": "uuid" }, "uniqueItems": true })
}

static AGGREGATES: LazyLock<Schema> = LazyLock::new(|| Schema::new(Form::Placement, list_schema()));

static AGGREGATES_AT: LazyLock<Schema> = LazyLock::new(|| {
    let body = json!({
        "type": "object",
        "properties": { "aggregates": list_schema(), "resource_provider_generation": { "type": "integer" } },
        "required": ["aggregates", "resource_provider_generation"],
        "additionalProperties": false,
    });
    Schema::new(Form::Placement, body)
});

fn traits_view(provider: &Resource<Provider>) -> Value {
    json!({ "traits": provider.spec.traits, "resource_provider_generation": provider.spec.generation })
}

/// `GET …/traits`, since 1.6.
pub(crate) async fn traits(Path(id): Path<String>, call: Call) -> Result<Response, Failure> {
    call.since(6)?;
    call.takes_json()?;
    call.may("placement:resource_providers:traits:list")?;
    let provider = find(&call.api.store, &id)?;
    Ok(call.answer(StatusCode::OK, &traits_view(&provider), updated(&provider)))
}

/// `PUT …/traits`: these and no others.
pub(crate) async fn set_traits(Path(id): Path<String>, call: Call) -> Result<Response, Failure> {
    call.since(6)?;
    call.sends_json()?;
    call.may("placement:resource_providers:traits:update")?;
    let body = call.content(&TRAITS)?;
    let mut wanted = texts(&body["traits"]);
    // The standard ones first, as they are known for longer.
    let order = |name: &String| (name.starts_with("CUSTOM_"), name.clone());
    wanted.sort_by_cached_key(order);
    wanted.dedup();
    let provider = find(&call.api.store, &id)?;
    check_generation(&provider, &body, GENERATION)?;
    let missing: Vec<&str> = wanted
        .iter()
        .filter(|name| !is_trait(&call.api.store, name))
        .map(String::as_str)
        .collect();
    if !missing.is_empty() {
        return Err(Failure::invalid(format!("No such trait {}", missing.join(", "))).at("traits"));
    }
    let mut own = provider.spec.traits.clone();
    own.sort_by_cached_key(order);
    let provider = if own == wanted {
        provider
    } else {
        edit(&call, &provider, |spec| spec.traits = wanted).await?
    };
    Ok(call.answer(StatusCode::OK, &traits_view(&provider), updated(&provider)))
}

/// `DELETE …/traits`.
pub(crate) async fn clear_traits(Path(id): Path<String>, call: Call) -> Result<Response, Failure> {
    call.since(6)?;
    call.may("placement:resource_providers:traits:delete")?;
    let provider = find(&call.api.store, &id)?;
    if !provider.spec.traits.is_empty() {
        edit(&call, &provider, |spec| spec.traits.clear()).await?;
    }
    Ok(Call::done())
}

fn aggregates_view(call: &Call, provider: &Resource<Provider>) -> Value {
    let mut shown = json!({ "aggregates": provider.spec.aggregates });
    if call.is_since(19) {
        shown["resource_provider_generation"] = json!(provider.spec.generation);
    }
    shown
}

/// `GET …/aggregates`, since 1.1.
pub(crate) async fn aggregates(Path(id): Path<String>, call: Call) -> Result<Response, Failure> {
    call.takes_json()?;
    call.since(1)?;
    call.may("placement:resource_providers:aggregates:list")?;
    let provider = find(&call.api.store, &id)?;
    Ok(call.answer(StatusCode::OK, &aggregates_view(&call, &provider), None))
}

/// `PUT …/aggregates`: up to 1.18 a bare list, from 1.19 on with the generation.
pub(crate) async fn set_aggregates(Path(id): Path<String>, call: Call) -> Result<Response, Failure> {
    call.sends_json()?;
    call.since(1)?;
    call.may("placement:resource_providers:aggregates:update")?;
    let provider = find(&call.api.store, &id)?;
    let body = call.content(if call.is_since(19) { &AGGREGATES_AT } else { &AGGREGATES })?;
    let provider = if call.is_since(19) {
        check_generation(&provider, &body, GENERATION)?;
        edit(&call, &provider, |spec| spec.aggregates = texts(&body["aggregates"])).await?
    } else {
        let mut new = (*provider).clone();
        new.spec.aggregates = texts(&body);
        let mut tx = call.api.store.begin(call.caller.cause());
        let changed = tx.update(&provider, new).map_err(failure)?;
        tx.commit().await.map_err(failure)?;
        changed
    };
    Ok(call.answer(StatusCode::OK, &aggregates_view(&call, &provider), None))
}

fn texts(value: &Value) -> Vec<String> {
    let list = value.as_array().into_iter().flatten();
    list.filter_map(|one| one.as_str().map(str::to_owned)).collect()
}
