//! `/usages`: what a project has in all. `/reshaper`: inventories and what is taken of them, moved together.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use axum::response::Response;
use http::StatusCode;
use madang_http::{Failure, Form, Microversion, Schema};
use madang_store::{StoreError, Tx};
use serde_json::{Map, Value, json};

use super::{call::Call, concurrent_update, failure};
use crate::{
    Claim, Inventory, Provider,
    claim::{
        api::{consumer_type, read_several, several_schema},
        write::{Wanted, write},
    },
    class::is_class,
    provider::{
        inventories::{all_schema, read},
        rules::key,
    },
};

fn query_schema(has_type: bool) -> Schema {
    let text = || json!({ "type": "string", "minLength": 1, "maxLength": 255 });
    let mut properties = json!({ "project_id": text(), "user_id": text() });
    if has_type {
        properties["consumer_type"] = text();
        properties["consumer_type"]["pattern"] = json!("^[A-Z0-9_]+$|^all|^unknown$");
    }
    let body = json!({
        "type": "object", "properties": properties, "required": ["project_id"], "additionalProperties": false,
    });
    Schema::new(Form::Placement, body)
}

static QUERY: LazyLock<Schema> = LazyLock::new(|| query_schema(false));
static QUERY_TYPE: LazyLock<Schema> = LazyLock::new(|| query_schema(true));

/// `GET /usages?project_id=…&user_id=…`, since 1.9; since 1.38 by type of consumer.
pub(super) async fn list(call: Call) -> Result<Response, Failure> {
    call.since(9)?;
    call.takes_json()?;
    let project = call.query.get("project_id");
    call.may_on("placement:usages", project.unwrap_or_default())?;
    call.check_query(if call.is_since(38) { &QUERY_TYPE } else { &QUERY })?;
    let user = call.query.get("user_id");
    let wanted = call.query.get("consumer_type");
    let mut totals: BTreeMap<String, (usize, BTreeMap<String, i64>)> = BTreeMap::new();
    for claim in call.api.store.cache::<Claim>().in_project(project.unwrap_or_default()) {
        let kind = consumer_type(&claim.spec.consumer_kind);
        let is_asked = wanted.is_none_or(|wanted| wanted == "all" || wanted == kind);
        let mut given = claim.status.given(&claim.spec).peekable();
        if given.peek().is_none() || !is_asked || user.is_some_and(|user| claim.spec.user != user) {
            continue;
        }
        let sum = wanted.filter(|wanted| *wanted == "all").unwrap_or(kind);
        let (consumers, totals) = totals.entry(sum.to_owned()).or_default();
        *consumers += 1;
        for (class, amount) in given.flat_map(|(_, amounts)| amounts.iter()) {
            *totals.entry(class.to_string()).or_default() += amount;
        }
    }
    let usages = if call.is_since(38) {
        let shown = totals.into_iter().map(|(kind, (consumers, amounts))| {
            let mut shown = json!(amounts);
            shown["consumer_count"] = json!(consumers);
            (kind, shown)
        });
        Value::Object(shown.collect())
    } else {
        let mut all: BTreeMap<String, i64> = BTreeMap::new();
        for (class, amount) in totals.into_values().flat_map(|(_, amounts)| amounts) {
            *all.entry(class).or_default() += amount;
        }
        json!(all)
    };
    Ok(call.answer(StatusCode::OK, &json!({ "usages": usages }), None))
}

static RESHAPE: LazyLock<BTreeMap<u16, Schema>> = LazyLock::new(|| {
    let schema = |minor| {
        let body = json!({
            "type": "object",
            "properties": {
                "inventories": {
                    "type": "object",
                    "patternProperties": { "^[0-9a-fA-F-]{36}$": all_schema() },
                    "minProperties": 1,
                    "additionalProperties": false,
                },
                "allocations": several_schema(Microversion(1, minor), 0),
            },
            "required": ["inventories", "allocations"],
            "additionalProperties": false,
        });
        (minor, Schema::new(Form::Placement, body))
    };
    [30, 34, 38].map(schema).into()
});

/// The inventories that a provider is to have, and the generation that the writer decided on.
struct Shape {
    provider: String,
    generation: i64,
    inventories: BTreeMap<String, Inventory>,
}

/// `POST /reshaper`, since 1.30.
pub(super) async fn reshape(call: Call) -> Result<Response, Failure> {
    call.since(30)?;
    call.sends_json()?;
    call.may("placement:reshaper:reshape")?;
    let schema = RESHAPE.range(..=call.version.1).next_back().map(|(_, schema)| schema);
    let schema = schema.ok_or_else(|| Failure::not_found("The resource could not be found."))?;
    let body = call.content(schema)?;
    let providers = body["inventories"].as_object().into_iter().flatten();
    let shapes: Vec<Shape> = providers
        .map(|(provider, one)| Shape {
            provider: provider.clone(),
            generation: one["resource_provider_generation"].as_i64().unwrap_or(-1),
            inventories: one["inventories"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(class, inventory)| (class.clone(), read(inventory)))
                .collect(),
        })
        .collect();
    let wanted = read_several(&call, &body["allocations"])?;
    let written = call
        .api
        .store
        .transact(call.caller.cause(), |tx| put(tx, &shapes, &wanted));
    written.await?;
    Ok(Call::done())
}

/// First every inventory that is there or will be, then what is taken, then only what will be: so that allocations may
/// move from a provider that loses a class to one that gets it.
fn put(tx: &mut Tx<'_>, shapes: &[Shape], wanted: &[Wanted]) -> Result<(), Failure> {
    for shape in shapes {
        let id = &shape.provider;
        let provider = tx.get::<Provider>(&key(id)).ok_or_else(|| {
            let message =
                format!("Resource provider {id} in inventories not found: No resource provider with uuid {id} found");
            Failure::invalid(message)
                .because("placement.resource_provider.not_found")
                .at("inventories")
        })?;
        let now = i64::try_from(provider.spec.generation).unwrap_or(-1);
        if now != shape.generation {
            return Err(concurrent_update(&format!(
                "resource provider generation conflict for provider {id}: actual: {now}, given: {}",
                shape.generation
            )));
        }
        if let Some(class) = shape.inventories.keys().find(|class| !is_class(tx.store(), class)) {
            let message = format!("malformed reshaper data: No such resource class {class}.");
            return Err(Failure::invalid(message).at("inventories"));
        }
        if shape.inventories.is_empty() {
            continue;
        }
        let mut interim = (*provider).clone();
        interim.spec.inventories.extend(shape.inventories.clone());
        interim.spec.generation += 1;
        tx.update(&provider, interim).map_err(failure)?;
    }
    write(tx, wanted)?;
    for shape in shapes {
        if let Some(class) = left_in_use(tx, shape, wanted) {
            let message = format!(
                "update conflict: Inventory for '{class}' on resource provider '{}' in use.",
                shape.provider
            );
            return Err(Failure::conflict(message).because("placement.inventory.inuse"));
        }
        let Some(interim) = tx.get::<Provider>(&key(&shape.provider)) else {
            continue;
        };
        let mut new = (*interim).clone();
        new.spec.inventories.clone_from(&shape.inventories);
        new.spec.generation += 1;
        tx.update(&interim, new).map_err(|error: StoreError| failure(error))?;
    }
    Ok(())
}

/// A class that a provider loses although somebody will have something of it.
fn left_in_use(tx: &Tx<'_>, shape: &Shape, wanted: &[Wanted]) -> Option<String> {
    let consumers: BTreeSet<String> = wanted.iter().map(|one| one.consumer.to_string()).collect();
    let mut left: Map<String, Value> = Map::new();
    let claims = tx.store().cache::<Claim>().by("provider", &shape.provider);
    for claim in claims.iter().filter(|claim| !consumers.contains(claim.name())) {
        let given = claim.status.given(&claim.spec).filter(|(id, _)| *id == shape.provider);
        left.extend(given.flat_map(|(_, amounts)| amounts.iter().map(|(class, n)| (class.to_string(), n.into()))));
    }
    let given = wanted.iter().filter_map(|one| one.shares.get(&shape.provider));
    left.extend(given.flat_map(|amounts| amounts.iter().map(|(class, n)| (class.to_string(), n.into()))));
    left.into_iter()
        .map(|(class, _)| class)
        .find(|class| !shape.inventories.contains_key(class))
}
