//! `/types/{id}/extra_specs` and `/types/{id}/encryption`.

use std::collections::BTreeMap;

use axum::{
    extract::{Path, State},
    response::Response,
};
use http::StatusCode;
use madang_http::{Failure, Json, json};
use madang_identity::Caller;
use madang_store::Resource;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{
    Encryption, VolumeType,
    api::{edit, type_for},
};
use crate::{
    api::{BlockApi, accepted, member, text},
    volume::{Volume, api::whole},
};

/// The pairs of an object of extra specs.
///
/// # Errors
/// 400 for keys with other characters than Cinder takes, and for values that are no text.
pub(crate) fn read(object: &Value) -> Result<BTreeMap<String, String>, Failure> {
    let bad = |what: &str| {
        Failure::invalid(format!(
            "Invalid input for field/attribute extra_specs. Value: {object}. {what}"
        ))
        .at("extra_specs")
    };
    let members = object.as_object().ok_or_else(|| bad("It is not of type 'object'"))?;
    let is_key = |key: &str| {
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_:. ".contains(c);
        !key.is_empty() && key.len() <= 255 && key.chars().all(fits)
    };
    let mut pairs = BTreeMap::new();
    for (key, value) in members {
        let value = value.as_str().filter(|value| value.len() <= 255);
        let value = value.ok_or_else(|| bad("Its values must be texts of at most 255 characters"))?;
        if !is_key(key) {
            return Err(bad(&format!(
                "'{key}' does not match any of the regexes: '^[a-zA-Z0-9-_:. ]{{1,255}}$'"
            )));
        }
        pairs.insert(key.clone(), value.to_owned());
    }
    Ok(pairs)
}

fn missing(id: &str, key: &str) -> Failure {
    Failure::not_found(format!("Volume Type {id} has no extra specs with key {key}."))
}

/// `GET /types/{id}/extra_specs`.
pub async fn list(State(api): State<BlockApi>, caller: Caller, Path(id): Path<String>) -> Result<Response, Failure> {
    caller.enforce_in("volume_extension:types_extra_specs:index", caller.project()?)?;
    let found = type_for(&api, &caller, &id)?;
    Ok(json(StatusCode::OK, &json!({ "extra_specs": found.spec.extra_specs })))
}

/// `POST /types/{id}/extra_specs`.
pub async fn merge(
    State(api): State<BlockApi>,
    caller: Caller,
    Path(id): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    caller.enforce("volume_extension:types_extra_specs:create", &[])?;
    let specs = Value::Object(member(&body, "extra_specs")?.clone());
    let specs = read(&specs)?;
    let found = type_for(&api, &caller, &id)?;
    edit(&api, &caller, &found, |found| {
        found.spec.extra_specs.extend(specs.clone());
        Ok(())
    })
    .await?;
    Ok(json(StatusCode::OK, &json!({ "extra_specs": specs })))
}

/// `GET /types/{id}/extra_specs/{key}`.
pub async fn show(
    State(api): State<BlockApi>,
    caller: Caller,
    Path((id, key)): Path<(String, String)>,
) -> Result<Response, Failure> {
    caller.enforce_in("volume_extension:types_extra_specs:show", caller.project()?)?;
    let found = type_for(&api, &caller, &id)?;
    let value = found.spec.extra_specs.get(&key).ok_or_else(|| missing(&id, &key))?;
    Ok(json(StatusCode::OK, &json!({ key: value })))
}

/// `PUT /types/{id}/extra_specs/{key}`.
pub async fn set(
    State(api): State<BlockApi>,
    caller: Caller,
    Path((id, key)): Path<(String, String)>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    caller.enforce("volume_extension:types_extra_specs:update", &[])?;
    let found = type_for(&api, &caller, &id)?;
    let specs = read(&body)?;
    if specs.len() > 1 {
        return Err(Failure::invalid("Request body contains too many items"));
    }
    if !specs.contains_key(&key) {
        return Err(Failure::invalid("Request body and URI mismatch"));
    }
    edit(&api, &caller, &found, |found| {
        found.spec.extra_specs.extend(specs.clone());
        Ok(())
    })
    .await?;
    Ok(json(StatusCode::OK, &specs))
}

/// `DELETE /types/{id}/extra_specs/{key}`.
pub async fn remove(
    State(api): State<BlockApi>,
    caller: Caller,
    Path((id, key)): Path<(String, String)>,
) -> Result<Response, Failure> {
    caller.enforce("volume_extension:types_extra_specs:delete", &[])?;
    let found = type_for(&api, &caller, &id)?;
    edit(&api, &caller, &found, |found| {
        let removed = found.spec.extra_specs.remove(&key);
        removed.map(|_| ()).ok_or_else(|| missing(&id, &key))
    })
    .await?;
    Ok(accepted())
}

fn encryption_view(found: &Resource<VolumeType>) -> Map<String, Value> {
    let Some(said) = &found.spec.encryption else {
        return Map::new();
    };
    let shown = json!({
        "volume_type_id": found.name(),
        "encryption_id": said.id,
        "provider": said.provider,
        "cipher": said.cipher,
        "key_size": said.key_size,
        "control_location": said.control_location,
        "created_at": crate::api::micros(found.metadata.created),
        "updated_at": crate::api::updated(found),
        "deleted": false,
        "deleted_at": null,
    });
    shown.as_object().cloned().unwrap_or_default()
}

/// `GET /types/{id}/encryption`.
pub async fn encryption(
    State(api): State<BlockApi>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    caller.enforce("volume_extension:volume_type_encryption:get", &[])?;
    let found = type_for(&api, &caller, &id)?;
    Ok(json(StatusCode::OK, &encryption_view(&found)))
}

/// `GET /types/{id}/encryption/{key}`.
pub async fn encryption_item(
    State(api): State<BlockApi>,
    caller: Caller,
    Path((id, key)): Path<(String, String)>,
) -> Result<Response, Failure> {
    caller.enforce("volume_extension:volume_type_encryption:get", &[])?;
    let found = type_for(&api, &caller, &id)?;
    let value = encryption_view(&found).get(&key).cloned();
    let value = value.ok_or_else(|| Failure::not_found("The resource could not be found."))?;
    Ok(json(StatusCode::OK, &json!({ key: value })))
}

/// What a body says of encryption, over what was said before.
fn said(body: &Map<String, Value>, before: Option<&Encryption>) -> Result<Encryption, Failure> {
    let mut said = before.cloned().unwrap_or_else(|| Encryption {
        id: Uuid::new_v4().to_string(),
        control_location: "front-end".to_owned(),
        ..Encryption::default()
    });
    if let Some(provider) = text(body, "provider") {
        said.provider = provider;
    }
    if said.provider.is_empty() {
        return Err(
            Failure::invalid("Invalid input for field/attribute provider. It is a required property").at("provider"),
        );
    }
    if let Some(location) = text(body, "control_location") {
        if !["front-end", "back-end"].contains(&location.as_str()) {
            let message = format!(
                "Invalid input for field/attribute control_location. Value: {location}. It must be front-end or back-end"
            );
            return Err(Failure::invalid(message).at("control_location"));
        }
        said.control_location = location;
    }
    if body.contains_key("cipher") {
        said.cipher = text(body, "cipher").filter(|cipher| !cipher.is_empty());
    }
    match body.get("key_size") {
        None => {}
        Some(Value::Null) => said.key_size = None,
        Some(size) => {
            let bad = || {
                Failure::invalid(format!("Invalid input for field/attribute key_size. Value: {size}.")).at("key_size")
            };
            said.key_size = Some(whole(size).ok_or_else(bad)?);
        }
    }
    Ok(said)
}

fn answer(said: &Encryption, id: &str) -> Response {
    let shown = json!({
        "volume_type_id": id,
        "encryption_id": said.id,
        "provider": said.provider,
        "cipher": said.cipher,
        "key_size": said.key_size,
        "control_location": said.control_location,
    });
    json(StatusCode::OK, &json!({ "encryption": shown }))
}

fn check_unused(api: &BlockApi, found: &Resource<VolumeType>) -> Result<(), Failure> {
    if api.store.cache::<Volume>().count_by("type", found.name()) > 0 {
        return Err(Failure::invalid(
            "Cannot create, update or delete encryption specs. Volume type in use.",
        ));
    }
    Ok(())
}

/// `POST /types/{id}/encryption`.
pub async fn encrypt(
    State(api): State<BlockApi>,
    caller: Caller,
    Path(id): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    caller.enforce("volume_extension:volume_type_encryption:create", &[])?;
    let wanted = said(member(&body, "encryption")?, None)?;
    let found = type_for(&api, &caller, &id)?;
    check_unused(&api, &found)?;
    edit(&api, &caller, &found, |found| {
        if found.spec.encryption.is_some() {
            return Err(Failure::invalid(format!(
                "Volume type encryption for type {id} already exists."
            )));
        }
        found.spec.encryption = Some(wanted.clone());
        Ok(())
    })
    .await?;
    Ok(answer(&wanted, &id))
}

/// `PUT /types/{id}/encryption/{encryption}`.
pub async fn update_encryption(
    State(api): State<BlockApi>,
    caller: Caller,
    Path((id, _)): Path<(String, String)>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    caller.enforce("volume_extension:volume_type_encryption:update", &[])?;
    let body = member(&body, "encryption")?;
    let found = type_for(&api, &caller, &id)?;
    check_unused(&api, &found)?;
    let none = || Failure::not_found(format!("Volume type encryption for type {id} does not exist."));
    let wanted = said(body, Some(found.spec.encryption.as_ref().ok_or_else(none)?))?;
    edit(&api, &caller, &found, |found| {
        found.spec.encryption = Some(wanted.clone());
        Ok(())
    })
    .await?;
    // The original answers with what was asked.
    Ok(json(StatusCode::OK, &json!({ "encryption": body })))
}

/// `DELETE /types/{id}/encryption/{encryption}`.
pub async fn remove_encryption(
    State(api): State<BlockApi>,
    caller: Caller,
    Path((id, _)): Path<(String, String)>,
) -> Result<Response, Failure> {
    caller.enforce("volume_extension:volume_type_encryption:delete", &[])?;
    let found = type_for(&api, &caller, &id)?;
    check_unused(&api, &found)?;
    edit(&api, &caller, &found, |found| {
        let removed = found.spec.encryption.take();
        let none = || Failure::not_found(format!("Volume type encryption for type {id} does not exist."));
        removed.map(|_| ()).ok_or_else(none)
    })
    .await?;
    Ok(accepted())
}
