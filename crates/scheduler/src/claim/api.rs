//! `/allocations` and `/usages`: what consumers have.

use std::{collections::BTreeMap, sync::LazyLock};

use axum::{
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use http::StatusCode;
use madang_http::{Failure, Form, Json, Microversion, Query, Schema, json};
use madang_identity::Caller;
use madang_store::{Metadata, Resource};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::{
    Amounts, Claim, ClaimSpec, ClaimStatus, Provider,
    api::{PlacementApi, allocation_view, dated, enforce, failure, find},
};

/// The consumer type of claims made through this API where none is said.
const UNKNOWN: &str = "unknown";

/// `GET /allocations/{consumer}`.
pub(crate) async fn show(
    State(api): State<PlacementApi>,
    caller: Caller,
    version: Microversion,
    Path(consumer): Path<String>,
) -> Result<Response, Failure> {
    enforce(&caller, "placement:allocations:list")?;
    let claim = api.store.cache::<Claim>().by_name(&consumer);
    let provider = claim
        .as_ref()
        .and_then(|claim| api.store.cache::<Provider>().by_name(claim.status.provider.as_deref()?));
    let mut body = json!({ "allocations": {} });
    if let (Some(claim), Some(provider)) = (claim, provider) {
        body["allocations"] = allocation_view(&claim, &provider);
        if version >= Microversion(1, 12) {
            body["project_id"] = json!(claim.project());
            body["user_id"] = json!(claim.spec.user);
        }
        if version >= Microversion(1, 28) {
            body["consumer_generation"] = json!(claim.metadata.generation);
        }
        if version >= Microversion(1, 38) {
            body["consumer_type"] = json!(consumer_type(&claim));
        }
    }
    Ok(dated(json(StatusCode::OK, &body), version))
}

/// Placement's name for a sort of consumer.
fn consumer_type(claim: &Resource<Claim>) -> String {
    if claim.spec.consumer_kind == "servers" {
        "INSTANCE".to_owned()
    } else {
        claim.spec.consumer_kind.to_uppercase()
    }
}

static SET: LazyLock<Schema> = LazyLock::new(|| {
    let amounts = json!({
        "type": "object",
        "minProperties": 1,
        "patternProperties": { "^[A-Z0-9_]+$": { "type": "integer", "minimum": 1 } },
        "additionalProperties": false,
    });
    let allocation = json!({
        "type": "object",
        "required": ["resources"],
        "properties": { "resources": amounts, "generation": { "type": "integer" } },
        "additionalProperties": false,
    });
    Schema::new(
        Form::Placement,
        json!({
            "type": "object",
            "required": ["allocations", "project_id", "user_id"],
            "properties": {
                "allocations": { "type": "object", "additionalProperties": allocation },
                "project_id": { "type": "string", "minLength": 1, "maxLength": 255 },
                "user_id": { "type": "string", "minLength": 1, "maxLength": 255 },
                "consumer_generation": { "type": ["integer", "null"] },
                "consumer_type": { "type": "string", "pattern": "^[A-Z0-9_]+$", "minLength": 1, "maxLength": 255 },
                "mappings": { "type": "object" },
            },
            "additionalProperties": false,
        }),
    )
});

/// `PUT /allocations/{consumer}`, in the form of 1.12 and later: one provider for each consumer.
pub(crate) async fn set(
    State(api): State<PlacementApi>,
    caller: Caller,
    version: Microversion,
    Path(consumer): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    enforce(&caller, "placement:allocations:update")?;
    if version < Microversion(1, 12) {
        return Err(Failure::invalid(
            "allocations are taken in the form of microversion 1.12 and later",
        ));
    }
    SET.check(&body)?;
    let uid = Uuid::try_parse(&consumer)
        .map_err(|_| Failure::invalid(format!("Malformed consumer_uuid: {consumer}")).at("consumer_uuid"))?;
    let allocations = body["allocations"].as_object().cloned().unwrap_or_default();
    let known = api.store.cache::<Claim>().by_name(&consumer);
    check_consumer(version, known.as_deref(), &body)?;
    if known
        .as_ref()
        .is_some_and(|claim| claim.spec.consumer_kind == "servers")
    {
        return Err(Failure::conflict(format!(
            "the allocation of server {consumer} belongs to the scheduler"
        )));
    }
    let mut tx = api.store.begin(caller.cause());
    match one_of(&allocations)? {
        None => {
            if let Some(claim) = &known {
                tx.delete(claim).map_err(failure)?;
            }
        }
        Some((id, allocation)) => {
            let provider = find(&api.store, id).map_err(|_| {
                Failure::invalid(format!("Allocation for resource provider '{id}' that does not exist."))
                    .at("allocations")
            })?;
            let status = ClaimStatus {
                host: Some(provider.spec.name.clone()),
                provider: Some(id.to_owned()),
                generation: known.as_ref().map_or(1, |claim| claim.status.generation + 1),
                ..ClaimStatus::default()
            };
            let spec = ClaimSpec {
                user: body["user_id"].as_str().unwrap_or_default().to_owned(),
                consumer_kind: body["consumer_type"].as_str().unwrap_or(UNKNOWN).to_lowercase(),
                resources: amounts(allocation),
                ..ClaimSpec::default()
            };
            match &known {
                Some(old) => {
                    let mut new = (**old).clone();
                    (new.spec, new.status) = (spec, status);
                    tx.update(old, new).map_err(failure)?;
                }
                None => {
                    let project = body["project_id"].as_str().unwrap_or_default();
                    let mut claim = Resource::<Claim>::new(Metadata::with_uid(uid, project, &consumer), spec);
                    claim.status = status;
                    tx.create(claim).map_err(failure)?;
                }
            }
        }
    }
    tx.commit().await.map_err(failure)?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Since 1.28 a writer says which state of the consumer it decided on; none for a new one.
fn check_consumer(version: Microversion, known: Option<&Resource<Claim>>, body: &Value) -> Result<(), Failure> {
    if version < Microversion(1, 28) {
        return Ok(());
    }
    let asked = body.get("consumer_generation").ok_or_else(|| {
        Failure::invalid("JSON does not validate: 'consumer_generation' is a required property")
            .at("consumer_generation")
    })?;
    let now = known.map(|claim| claim.metadata.generation);
    if asked.as_u64() == now {
        return Ok(());
    }
    let message = format!(
        "consumer generation conflict - expected {} but got {asked}",
        now.map_or("null".to_owned(), |g| g.to_string())
    );
    Err(Failure::conflict(message).because("placement.concurrent_update"))
}

/// The one provider of an allocation; none when all is given back.
fn one_of(allocations: &Map<String, Value>) -> Result<Option<(&str, &Value)>, Failure> {
    if allocations.len() > 1 {
        return Err(
            Failure::invalid("an allocation over several resource providers is not available").at("allocations"),
        );
    }
    Ok(allocations
        .iter()
        .next()
        .map(|(id, allocation)| (id.as_str(), allocation)))
}

fn amounts(allocation: &Value) -> Amounts {
    let resources = allocation["resources"].as_object().into_iter().flatten();
    resources
        .filter_map(|(class, amount)| Some((class.clone(), amount.as_i64()?)))
        .collect()
}

/// `DELETE /allocations/{consumer}`.
pub(crate) async fn delete(
    State(api): State<PlacementApi>,
    caller: Caller,
    Path(consumer): Path<String>,
) -> Result<Response, Failure> {
    enforce(&caller, "placement:allocations:delete")?;
    let missing = || Failure::not_found(format!("No allocations for consumer '{consumer}'"));
    let claim = api.store.cache::<Claim>().by_name(&consumer).ok_or_else(missing)?;
    if !claim.metadata.owners.is_empty() {
        return Err(Failure::conflict(format!(
            "the allocation of server {consumer} goes with the server"
        )));
    }
    let mut tx = api.store.begin(caller.cause());
    tx.delete(&claim).map_err(failure)?;
    tx.commit().await.map_err(failure)?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `GET /resource_providers/{id}/allocations`.
pub(crate) async fn of_provider(
    State(api): State<PlacementApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    enforce(&caller, "placement:resource_providers:allocations:list")?;
    let provider = find(&api.store, &id)?;
    let claims = api.store.cache::<Claim>().by("host", &provider.spec.name);
    let allocations: Map<String, Value> = claims
        .iter()
        .map(|claim| {
            let mut shown = json!({ "resources": claim.spec.resources });
            if version >= Microversion(1, 28) {
                shown["consumer_generation"] = json!(claim.metadata.generation);
            }
            (claim.name().to_owned(), shown)
        })
        .collect();
    let body = json!({ "allocations": allocations, "resource_provider_generation": provider.spec.generation });
    Ok(dated(json(StatusCode::OK, &body), version))
}

/// `GET /usages?project_id=…&user_id=…`, since 1.9.
pub(crate) async fn usages(
    State(api): State<PlacementApi>,
    caller: Caller,
    version: Microversion,
    query: Query,
) -> Result<Response, Failure> {
    let project = query.get("project_id").ok_or_else(|| {
        Failure::invalid("Invalid query string parameters: 'project_id' is a required property").at("project_id")
    })?;
    caller.enforce("placement:usages", &[("project_id", project)])?;
    let user = query.get("user_id");
    let mut totals: BTreeMap<String, i64> = BTreeMap::new();
    let mut consumers = 0;
    for claim in api.store.cache::<Claim>().in_project(project) {
        if claim.status.provider.is_none() || user.is_some_and(|user| claim.spec.user != user) {
            continue;
        }
        consumers += 1;
        for (class, amount) in &claim.spec.resources {
            *totals.entry(class.to_string()).or_default() += amount;
        }
    }
    let mut usages = json!(totals);
    // From 1.38 on by type of consumer; all of ours together are `all`.
    if version >= Microversion(1, 38) {
        usages = if consumers == 0 {
            json!({})
        } else {
            let mut all = usages;
            all["consumer_count"] = json!(consumers);
            json!({ "all": all })
        };
    }
    Ok(dated(json(StatusCode::OK, &json!({ "usages": usages })), version))
}
