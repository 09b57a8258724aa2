//! `/flavors/{id}/os-extra_specs`.

use std::{collections::BTreeMap, sync::LazyLock};

use axum::{
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use http::StatusCode;
use madang_http::{Failure, Form, Json, Microversion, Schema, json};
use madang_identity::Caller;
use serde_json::{Value, json};

use super::api::{edit, find};
use crate::api::{ComputeApi, enforce};

fn specs_schema() -> Value {
    json!({
        "type": "object",
        "patternProperties": { "^[a-zA-Z0-9-_:. ]{1,255}$": { "type": ["string", "number"], "maxLength": 255 } },
        "additionalProperties": false,
    })
}

static MERGE: LazyLock<Schema> = LazyLock::new(|| {
    Schema::new(
        Form::Nova,
        json!({
            "type": "object",
            "properties": { "extra_specs": specs_schema() },
            "required": ["extra_specs"],
            "additionalProperties": false,
        }),
    )
});

static ONE: LazyLock<Schema> = LazyLock::new(|| {
    let mut one = specs_schema();
    one["minProperties"] = json!(1);
    one["maxProperties"] = json!(1);
    Schema::new(Form::Nova, one)
});

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// `GET /flavors/{id}/os-extra_specs`.
pub async fn list(State(api): State<ComputeApi>, caller: Caller, Path(id): Path<String>) -> Result<Response, Failure> {
    enforce(
        &caller,
        "os_compute_api:os-flavor-extra-specs:index",
        caller.subject.project_id().unwrap_or_default(),
    )?;
    let flavor = find(&api, &caller, &id)?;
    Ok(json(StatusCode::OK, &json!({ "extra_specs": flavor.spec.extra_specs })))
}

/// `POST /flavors/{id}/os-extra_specs`.
pub async fn merge(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    caller.enforce("os_compute_api:os-flavor-extra-specs:create", &[])?;
    MERGE.check(&body)?;
    let specs = body["extra_specs"].as_object().into_iter().flatten();
    let specs: BTreeMap<String, String> = specs.map(|(key, value)| (key.clone(), text(value))).collect();
    for (key, value) in &specs {
        check_spec(version, key, value)?;
    }
    edit(&api, &caller, &id, |flavor| flavor.extra_specs.extend(specs.clone())).await?;
    Ok(json(StatusCode::OK, &json!({ "extra_specs": specs })))
}

/// `GET /flavors/{id}/os-extra_specs/{key}`.
pub async fn show(
    State(api): State<ComputeApi>,
    caller: Caller,
    Path((id, key)): Path<(String, String)>,
) -> Result<Response, Failure> {
    enforce(
        &caller,
        "os_compute_api:os-flavor-extra-specs:show",
        caller.subject.project_id().unwrap_or_default(),
    )?;
    let flavor = find(&api, &caller, &id)?;
    let value = flavor.spec.extra_specs.get(&key).ok_or_else(|| no_spec(&id, &key))?;
    Ok(json(StatusCode::OK, &json!({ key: value })))
}

/// `PUT /flavors/{id}/os-extra_specs/{key}`.
pub async fn set(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path((id, key)): Path<(String, String)>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    caller.enforce("os_compute_api:os-flavor-extra-specs:update", &[])?;
    ONE.check(&body)?;
    let value = body
        .get(&key)
        .map(text)
        .ok_or_else(|| Failure::invalid("Request body and URI mismatch").at(&key))?;
    check_spec(version, &key, &value)?;
    edit(&api, &caller, &id, |flavor| {
        _ = flavor.extra_specs.insert(key.clone(), value.clone())
    })
    .await?;
    Ok(json(StatusCode::OK, &json!({ key: value })))
}

/// `DELETE /flavors/{id}/os-extra_specs/{key}`.
pub async fn remove(
    State(api): State<ComputeApi>,
    caller: Caller,
    Path((id, key)): Path<(String, String)>,
) -> Result<Response, Failure> {
    caller.enforce("os_compute_api:os-flavor-extra-specs:delete", &[])?;
    if !find(&api, &caller, &id)?.spec.extra_specs.contains_key(&key) {
        return Err(no_spec(&id, &key));
    }
    edit(&api, &caller, &id, |flavor| _ = flavor.extra_specs.remove(&key)).await?;
    Ok(StatusCode::OK.into_response())
}

/// Since 2.86 names and values are checked.
fn check_spec(version: Microversion, key: &str, value: &str) -> Result<(), Failure> {
    if version >= Microversion(2, 86) {
        return super::validate::check(key, value);
    }
    Ok(())
}

fn no_spec(id: &str, key: &str) -> Failure {
    Failure::not_found(format!("Flavor {id} has no extra specs with key {key}."))
}
