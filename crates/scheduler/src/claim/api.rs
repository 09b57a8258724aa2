//! `/allocations`: what consumers have.

use std::{collections::BTreeMap, sync::LazyLock};

use axum::{extract::Path, response::Response};
use http::StatusCode;
use jiff::Timestamp;
use madang_http::{Failure, Form, Microversion, Schema};
use madang_store::Resource;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::write::{Wanted, write};
use crate::{
    Amounts, Claim, Class, Provider,
    api::{Call, failure, find},
};

const UUID: &str = "^[0-9a-fA-F-]{36}$";

/// `GET /allocations/{consumer}`.
pub(crate) async fn show(Path(consumer): Path<String>, call: Call) -> Result<Response, Failure> {
    call.takes_json()?;
    call.may("placement:allocations:list")?;
    let claim = call.api.store.cache::<Claim>().by_name(&consumer);
    let claim = claim.filter(|claim| claim.status.given(&claim.spec).next().is_some());
    let Some(claim) = claim else {
        return Ok(call.answer(StatusCode::OK, &json!({ "allocations": {} }), None));
    };
    let providers = call.api.store.cache::<Provider>();
    let allocations: Map<String, Value> = claim
        .status
        .given(&claim.spec)
        .map(|(id, amounts)| {
            let generation = providers.by_name(id).map_or(0, |provider| provider.spec.generation);
            (id.to_owned(), json!({ "resources": amounts, "generation": generation }))
        })
        .collect();
    let mut body = json!({ "allocations": allocations });
    if call.is_since(12) {
        body["project_id"] = json!(claim.project());
        body["user_id"] = json!(claim.spec.user);
    }
    if call.is_since(28) {
        body["consumer_generation"] = json!(claim.status.generation);
    }
    if call.is_since(38) {
        body["consumer_type"] = json!(consumer_type(&claim.spec.consumer_kind));
    }
    Ok(call.answer(StatusCode::OK, &body, Some(claim.metadata.updated)))
}

/// Placement's name for a sort of consumer.
pub(crate) fn consumer_type(kind: &str) -> &str {
    match kind {
        "" => "unknown",
        "servers" => "INSTANCE",
        "migrations" => "MIGRATION",
        other => other,
    }
}

/// `GET /resource_providers/{id}/allocations`.
pub(crate) async fn of_provider(Path(id): Path<String>, call: Call) -> Result<Response, Failure> {
    call.takes_json()?;
    call.may("placement:resource_providers:allocations:list")?;
    let provider = find(&call.api.store, &id)
        .map_err(|failure| Failure::not_found(format!("Resource provider '{id}' not found: {}", failure.message)))?;
    let claims = call.api.store.cache::<Claim>().by("provider", &id);
    let mut modified: Option<Timestamp> = None;
    let mut allocations = Map::new();
    for claim in &claims {
        let mut given = claim.status.given(&claim.spec);
        let Some((_, amounts)) = given.find(|(giver, _)| *giver == id) else {
            continue;
        };
        let mut shown = json!({ "resources": amounts });
        if call.is_since(28) {
            shown["consumer_generation"] = json!(claim.status.generation);
        }
        allocations.insert(claim.name().to_owned(), shown);
        modified = modified.max(Some(claim.metadata.updated));
    }
    let body = json!({ "allocations": allocations, "resource_provider_generation": provider.spec.generation });
    Ok(call.answer(StatusCode::OK, &body, modified))
}

fn amounts_schema() -> Value {
    json!({
        "type": "object",
        "minProperties": 1,
        "patternProperties": { "^[A-Z0-9_]+$": { "type": "integer", "minimum": 1 } },
        "additionalProperties": false,
    })
}

fn owner() -> Value {
    json!({ "type": "string", "minLength": 1, "maxLength": 255 })
}

/// Up to 1.11: a list of providers; from 1.8 on with project and user.
fn list_schema(version: Microversion) -> Value {
    let one = json!({
        "type": "object",
        "properties": {
            "resource_provider": {
                "type": "object",
                "properties": { "uuid": { "type": "string", "format": "uuid" } },
                "additionalProperties": false,
                "required": ["uuid"],
            },
            "resources": amounts_schema(),
        },
        "required": ["resource_provider", "resources"],
        "additionalProperties": false,
    });
    let mut properties = json!({ "allocations": { "type": "array", "minItems": 1, "items": one } });
    let mut required = vec!["allocations"];
    if version >= Microversion(1, 8) {
        (properties["project_id"], properties["user_id"]) = (owner(), owner());
        required.extend(["project_id", "user_id"]);
    }
    json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false })
}

/// From 1.12 on: an object by provider, with project and user; from 1.28 on with the consumer's generation.
fn object_schema(version: Microversion, is_deletable: bool) -> Value {
    let one = json!({
        "type": "object",
        "properties": { "generation": { "type": "integer" }, "resources": amounts_schema() },
        "required": ["resources"],
        "additionalProperties": false,
    });
    let least = u8::from(!is_deletable);
    let mut properties = json!({
        "allocations": {
            "type": "object",
            "minProperties": least,
            "patternProperties": { UUID: one },
            "additionalProperties": false,
        },
        "project_id": owner(),
        "user_id": owner(),
    });
    let mut required = vec!["allocations", "project_id", "user_id"];
    if version >= Microversion(1, 28) {
        properties["consumer_generation"] = json!({ "type": ["integer", "null"] });
        required.push("consumer_generation");
    }
    if version >= Microversion(1, 34) {
        properties["mappings"] = json!({
            "type": "object",
            "minProperties": 1,
            "patternProperties": {
                "[a-zA-Z0-9_-]{1,64}": {
                    "type": "array",
                    "minItems": 1,
                    "items": { "type": "string", "format": "uuid" },
                },
            },
        });
    }
    if version >= Microversion(1, 38) {
        properties["consumer_type"] =
            json!({ "type": "string", "pattern": "^[A-Z0-9_]+$", "minLength": 1, "maxLength": 255 });
        required.push("consumer_type");
    }
    json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false })
}

/// The body that says what several consumers are to have.
pub(crate) fn several_schema(version: Microversion, least: u8) -> Value {
    json!({
        "type": "object",
        "minProperties": least,
        "additionalProperties": false,
        "patternProperties": { UUID: object_schema(version, true) },
    })
}

/// Schemas by the microversions that have one of their own, compiled when first asked for.
static PUT: LazyLock<BTreeMap<u16, Schema>> = LazyLock::new(|| {
    let schema = |minor| {
        let version = Microversion(1, minor);
        let body = if minor < 12 {
            list_schema(version)
        } else {
            object_schema(version, minor >= 28)
        };
        (minor, Schema::new(Form::Placement, body))
    };
    [0, 8, 12, 28, 34, 38].map(schema).into()
});

static POST: LazyLock<BTreeMap<u16, Schema>> = LazyLock::new(|| {
    let schema = |minor| {
        (
            minor,
            Schema::new(Form::Placement, several_schema(Microversion(1, minor), 1)),
        )
    };
    [12, 28, 34, 38].map(schema).into()
});

/// The schema of the newest form that is not newer than what is asked for.
fn pick(schemas: &BTreeMap<u16, Schema>, version: Microversion) -> Result<&Schema, Failure> {
    let found = schemas.range(..=version.1).next_back().map(|(_, schema)| schema);
    found.ok_or_else(|| Failure::not_found("The resource could not be found."))
}

/// `PUT /allocations/{consumer}`.
pub(crate) async fn set(Path(consumer): Path<String>, call: Call) -> Result<Response, Failure> {
    call.sends_json()?;
    call.may("placement:allocations:update")?;
    let uid = Uuid::try_parse(&consumer)
        .map_err(|_| Failure::invalid(format!("Malformed consumer_uuid: {consumer}")).at("consumer_uuid"))?;
    let body = call.content(pick(&PUT, call.version)?)?;
    let wanted = [read(&call, uid, &body)];
    submit(&call, &wanted).await
}

/// `POST /allocations`, since 1.13: for several consumers at once.
pub(crate) async fn set_several(call: Call) -> Result<Response, Failure> {
    call.since(13)?;
    call.sends_json()?;
    call.may("placement:allocations:manage")?;
    let body = call.content(pick(&POST, call.version)?)?;
    submit(&call, &read_several(&call, &body)?).await
}

async fn submit(call: &Call, wanted: &[Wanted]) -> Result<Response, Failure> {
    let written = call.api.store.transact(call.caller.cause(), |tx| write(tx, wanted));
    written.await?;
    Ok(Call::done())
}

/// What several consumers are to have.
pub(crate) fn read_several(call: &Call, body: &Value) -> Result<Vec<Wanted>, Failure> {
    let consumers = body.as_object().into_iter().flatten();
    let read_one = |(consumer, wanted): (&String, &Value)| {
        let uid = Uuid::try_parse(consumer)
            .map_err(|_| Failure::invalid(format!("Malformed consumer_uuid: {consumer}")).at("consumer_uuid"))?;
        Ok(read(call, uid, wanted))
    };
    consumers.map(read_one).collect()
}

fn read(call: &Call, consumer: Uuid, body: &Value) -> Wanted {
    let text = |name: &str| body[name].as_str().map(str::to_owned);
    let mut shares: BTreeMap<String, Amounts> = BTreeMap::new();
    match &body["allocations"] {
        Value::Array(list) => {
            for one in list {
                let id = one["resource_provider"]["uuid"].as_str().unwrap_or_default();
                shares.insert(id.to_owned(), amounts(&one["resources"]));
            }
        }
        Value::Object(providers) => {
            shares.extend(
                providers
                    .iter()
                    .map(|(id, one)| (id.clone(), amounts(&one["resources"]))),
            );
        }
        _ => {}
    }
    Wanted {
        consumer,
        project: text("project_id"),
        user: text("user_id"),
        kind: text("consumer_type"),
        generation: call.is_since(28).then(|| body["consumer_generation"].as_u64()),
        shares,
    }
}

fn amounts(resources: &Value) -> Amounts {
    let resources = resources.as_object().into_iter().flatten();
    resources
        .filter_map(|(class, amount)| Some((Class::new(class), amount.as_i64()?)))
        .collect()
}

/// `DELETE /allocations/{consumer}`.
pub(crate) async fn delete(Path(consumer): Path<String>, call: Call) -> Result<Response, Failure> {
    call.may("placement:allocations:delete")?;
    let claims = call.api.store.cache::<Claim>();
    let is_given = |claim: &std::sync::Arc<Resource<Claim>>| claim.status.given(&claim.spec).next().is_some();
    let claim = claims
        .by_name(&consumer)
        .filter(is_given)
        .ok_or_else(|| Failure::not_found(format!("No allocations for consumer '{consumer}'")))?;
    if !claim.metadata.owners.is_empty() {
        return Err(Failure::conflict(format!(
            "the allocation of server {consumer} goes with the server"
        )));
    }
    let mut tx = call.api.store.begin(call.caller.cause());
    tx.delete(&claim).map_err(failure)?;
    tx.commit().await.map_err(failure)?;
    Ok(Call::done())
}
