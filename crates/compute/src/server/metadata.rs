//! `/servers/{id}/metadata`: the user's own words about a server.

use std::{collections::BTreeMap, sync::LazyLock};

use axum::{
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use http::StatusCode;
use madang_http::{Failure, Form, Json, Schema, json};
use madang_identity::Caller;
use serde_json::{Value, json};

use super::{api::find_for, verbs};
use crate::{api::ComputeApi, quota};

type Items = BTreeMap<String, String>;

fn items_schema() -> Value {
    json!({
        "type": "object",
        "patternProperties": { "^[a-zA-Z0-9-_:. ]{1,255}$": { "type": "string", "maxLength": 255 } },
        "additionalProperties": false,
    })
}

static ALL: LazyLock<Schema> = LazyLock::new(|| {
    let body = json!({
        "type": "object",
        "properties": { "metadata": items_schema() },
        "required": ["metadata"],
        "additionalProperties": false,
    });
    Schema::new(Form::Nova, body)
});

static ONE: LazyLock<Schema> = LazyLock::new(|| {
    let mut one = items_schema();
    one["minProperties"] = json!(1);
    one["maxProperties"] = json!(1);
    let body = json!({
        "type": "object",
        "properties": { "meta": one },
        "required": ["meta"],
        "additionalProperties": false,
    });
    Schema::new(Form::Nova, body)
});

/// `GET /servers/{id}/metadata`.
pub async fn list(State(api): State<ComputeApi>, caller: Caller, Path(id): Path<String>) -> Result<Response, Failure> {
    let server = find_for(&api, &caller, &id, "os_compute_api:server-metadata:index")?;
    Ok(json(StatusCode::OK, &json!({ "metadata": server.spec.metadata })))
}

/// `POST /servers/{id}/metadata`: adds and changes items.
pub async fn merge(
    State(api): State<ComputeApi>,
    caller: Caller,
    Path(id): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    let items = read(&ALL, body, "metadata")?;
    let rule = "os_compute_api:server-metadata:create";
    edit(&api, &caller, &id, rule, |metadata| metadata.extend(items.clone())).await
}

/// `PUT /servers/{id}/metadata`: these items and no others.
pub async fn replace(
    State(api): State<ComputeApi>,
    caller: Caller,
    Path(id): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    let items = read(&ALL, body, "metadata")?;
    let rule = "os_compute_api:server-metadata:update_all";
    edit(&api, &caller, &id, rule, |metadata| metadata.clone_from(&items)).await
}

/// `GET /servers/{id}/metadata/{key}`.
pub async fn show(
    State(api): State<ComputeApi>,
    caller: Caller,
    Path((id, key)): Path<(String, String)>,
) -> Result<Response, Failure> {
    let server = find_for(&api, &caller, &id, "os_compute_api:server-metadata:show")?;
    let value = server.spec.metadata.get(&key).ok_or_else(no_item)?;
    Ok(json(StatusCode::OK, &json!({ "meta": { key: value } })))
}

/// `PUT /servers/{id}/metadata/{key}`.
pub async fn set(
    State(api): State<ComputeApi>,
    caller: Caller,
    Path((id, key)): Path<(String, String)>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    let items = read(&ONE, body, "meta")?;
    let Some(value) = items.get(&key) else {
        return Err(Failure::invalid("Request body and URI mismatch").at("meta"));
    };
    let rule = "os_compute_api:server-metadata:update";
    edit(&api, &caller, &id, rule, |metadata| {
        _ = metadata.insert(key.clone(), value.clone())
    })
    .await?;
    Ok(json(StatusCode::OK, &json!({ "meta": { key: value } })))
}

/// `DELETE /servers/{id}/metadata/{key}`.
pub async fn remove(
    State(api): State<ComputeApi>,
    caller: Caller,
    Path((id, key)): Path<(String, String)>,
) -> Result<Response, Failure> {
    let server = find_for(&api, &caller, &id, "os_compute_api:server-metadata:delete")?;
    let removed = verbs::edit_metadata(&api.store, &caller, &server, |metadata| {
        metadata.remove(&key).map(|_| ()).ok_or_else(no_item)
    });
    removed.await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn no_item() -> Failure {
    Failure::not_found("Metadata item was not found")
}

fn read(schema: &Schema, body: Value, member: &str) -> Result<Items, Failure> {
    schema.check(&body)?;
    let items = body.get(member).cloned().unwrap_or_default();
    serde_json::from_value(items).map_err(|error| Failure::invalid(format!("{member}: {error}")).at(member))
}

async fn edit(
    api: &ComputeApi,
    caller: &Caller,
    id: &str,
    rule: &str,
    change: impl Fn(&mut Items),
) -> Result<Response, Failure> {
    let server = find_for(api, caller, id, rule)?;
    let limit = quota::limit(&api.store, server.project(), "metadata_items");
    let server = verbs::edit_metadata(&api.store, caller, &server, |metadata| {
        change(metadata);
        if limit.is_some_and(|limit| metadata.len() as i64 > limit) {
            return Err(Failure::forbidden("Maximum number of metadata items exceeds quota").because("OverQuota"));
        }
        Ok(())
    });
    Ok(json(
        StatusCode::OK,
        &json!({ "metadata": server.await?.spec.metadata }),
    ))
}
