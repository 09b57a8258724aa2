//! `/group_types` and their specs: parse, write, render.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

use axum::{
    extract::{Path, State},
    response::Response,
};
use http::StatusCode;
use madang_http::{Failure, Form, Json, Microversion, Query, RequestInfo, Schema, SortValue, json, parse_bool};
use madang_identity::Caller;
use madang_store::{Metadata, Resource};
use serde_json::{Map, Value, json};

use super::{GroupType, GroupTypeSpec};
use crate::{
    api::{BlockApi, accepted, failure, flag, listing, member, since, text},
    volume::verbs::Refusal,
};

/// The version with which group types came.
const SINCE: u16 = 11;

static CREATE: LazyLock<Schema> = LazyLock::new(|| body(&["name"]));
static UPDATE: LazyLock<Schema> = LazyLock::new(|| body(&[]));

fn body(required: &[&str]) -> Schema {
    let mut inner = json!({
        "type": "object",
        "properties": {
            "name": { "type": ["string", "null"], "minLength": 1, "maxLength": 255 },
            "description": { "type": ["string", "null"], "maxLength": 255 },
            "is_public": { "type": ["boolean", "string"] },
            "group_specs": { "type": ["object", "null"], "additionalProperties": { "type": ["string", "null"], "maxLength": 255 } },
        },
        "additionalProperties": false,
    });
    if !required.is_empty() {
        inner["required"] = json!(required);
    }
    let all = json!({
        "type": "object", "properties": { "group_type": inner }, "required": ["group_type"],
        "additionalProperties": false,
    });
    Schema::new(Form::Nova, all)
}

fn view(caller: &Caller, found: &Resource<GroupType>) -> Value {
    let spec = &found.spec;
    let mut shown = json!({
        "id": found.name(),
        "name": spec.name,
        "description": spec.description,
        "is_public": spec.is_public,
    });
    if caller.allows("group:access_group_types_specs", &[]) {
        shown["group_specs"] = json!(spec.group_specs);
    }
    shown
}

/// The group type, if the caller may know of it.
pub(crate) fn type_for(api: &BlockApi, caller: &Caller, id: &str) -> Result<Arc<Resource<GroupType>>, Failure> {
    let found = api.store.cache::<GroupType>().by_name(id);
    let found = found.filter(|found| found.spec.is_public || caller.is_admin());
    found.ok_or_else(|| Failure::not_found(format!("Group type {id} could not be found.")))
}

async fn edit(
    api: &BlockApi,
    caller: &Caller,
    found: &Resource<GroupType>,
    change: impl Fn(&mut Resource<GroupType>) -> Result<(), Failure>,
) -> Result<Arc<Resource<GroupType>>, Failure> {
    let key = found.key();
    let changed = api
        .store
        .modify::<GroupType, Refusal>(&key, caller.cause(), |found| Ok(change(found)?));
    changed.await.map_err(|Refusal(failure)| failure)
}

/// `GET /group_types`.
pub async fn list(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    query: Query,
    info: RequestInfo,
) -> Result<Response, Failure> {
    since(version, SINCE)?;
    let wants_public = match query.get("is_public").map(str::to_lowercase).as_deref() {
        None => Some(true),
        Some("none") => None,
        Some(said) => {
            let bad = || Failure::invalid(format!("Invalid is_public filter [{said}]")).at("is_public");
            Some(parse_bool(said).ok_or_else(bad)?)
        }
    };
    let mut types = api.store.cache::<GroupType>().all();
    types.retain(|found| {
        let is_public = found.spec.is_public;
        match caller.is_admin() {
            true => wants_public.is_none_or(|wanted| wanted == is_public),
            false => is_public,
        }
    });
    let keys = ["id", "name", "created_at", "updated_at", "is_public"];
    let page = listing::page(types, &query, &keys, |found, key| match key {
        "id" => found.name().into(),
        "name" => found.spec.name.as_str().into(),
        "is_public" => found.spec.is_public.into(),
        "updated_at" => SortValue::from(found.metadata.updated),
        _ => found.metadata.created.into(),
    })?;
    let shown = page.0.items.iter().map(|found| view(&caller, found));
    listing::answer("group_types", shown.collect(), &page, (&info, &query, version))
}

/// `GET /group_types/{id}`; `default` there is none, as in a Cinder that was not told one.
pub async fn show(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    since(version, SINCE)?;
    if id == "default" {
        return Err(Failure::not_found("Default group type can not be found."));
    }
    let found = type_for(&api, &caller, &id)?;
    Ok(json(StatusCode::OK, &json!({ "group_type": view(&caller, &found) })))
}

fn specs(said: Option<&Value>) -> BTreeMap<String, String> {
    let pairs = said.and_then(Value::as_object).into_iter().flatten();
    pairs
        .map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned()))
        .collect()
}

/// `POST /group_types`.
pub async fn create(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    since(version, SINCE)?;
    caller.enforce("group:group_types:create", &[])?;
    CREATE.check(&body)?;
    let body = member(&body, "group_type")?;
    let name = text(body, "name").filter(|name| !name.is_empty());
    let spec = GroupTypeSpec {
        name: name.ok_or_else(|| Failure::invalid("Invalid input for field/attribute name.").at("name"))?,
        description: text(body, "description"),
        is_public: flag(body, "is_public", true)?,
        group_specs: specs(body.get("group_specs")),
    };
    let made = api.store.transact::<_, Refusal>(caller.cause(), |tx| {
        Ok(tx.create(Resource::<GroupType>::new(Metadata::with_id(""), spec.clone()))?)
    });
    let made = made.await.map_err(|Refusal(failure)| failure)?;
    Ok(json(
        StatusCode::ACCEPTED,
        &json!({ "group_type": view(&caller, &made) }),
    ))
}

/// `PUT /group_types/{id}`.
pub async fn update(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    since(version, SINCE)?;
    caller.enforce("group:group_types:update", &[])?;
    UPDATE.check(&body)?;
    let body = member(&body, "group_type")?;
    let (name, description) = (text(body, "name"), text(body, "description"));
    let is_public = body
        .get("is_public")
        .map(|_| flag(body, "is_public", true))
        .transpose()?;
    if name.is_none() && description.is_none() && is_public.is_none() {
        return Err(Failure::invalid(
            "Specify group type name, description or a combination thereof.",
        ));
    }
    if name.as_deref() == Some("") {
        return Err(Failure::invalid("Group type name can not be empty.").at("name"));
    }
    let found = type_for(&api, &caller, &id)?;
    let changed = edit(&api, &caller, &found, |found| {
        if let Some(name) = &name {
            found.spec.name.clone_from(name);
        }
        if let Some(description) = &description {
            found.spec.description = Some(description.clone());
        }
        found.spec.is_public = is_public.unwrap_or(found.spec.is_public);
        Ok(())
    });
    Ok(json(
        StatusCode::OK,
        &json!({ "group_type": view(&caller, &*changed.await?) }),
    ))
}

/// `DELETE /group_types/{id}`.
pub async fn delete(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    since(version, SINCE)?;
    caller.enforce("group:group_types:delete", &[])?;
    let found = type_for(&api, &caller, &id)?;
    let mut tx = api.store.begin(caller.cause());
    tx.delete(&found).map_err(failure)?;
    tx.commit().await.map_err(failure)?;
    Ok(accepted())
}

fn missing(key: &str) -> Failure {
    Failure::not_found(format!("Group Type has no specs with key {key}."))
}

/// `GET /group_types/{id}/group_specs`.
pub async fn list_specs(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    since(version, SINCE)?;
    caller.enforce("group:group_types_specs:get_all", &[])?;
    let found = type_for(&api, &caller, &id)?;
    Ok(json(StatusCode::OK, &json!({ "group_specs": found.spec.group_specs })))
}

fn checked(said: &Map<String, Value>) -> Result<BTreeMap<String, String>, Failure> {
    let fits = |key: &str| !key.is_empty() && key.chars().all(|c| c.is_alphanumeric() || "_-.: ".contains(c));
    for (key, value) in said {
        if !fits(key) || !value.is_string() {
            let message = format!("Invalid input for field/attribute {key}. Value: {value}.");
            return Err(Failure::invalid(message).at(key));
        }
    }
    Ok(specs(Some(&Value::Object(said.clone()))))
}

/// `POST /group_types/{id}/group_specs`: adds to what is there.
pub async fn merge_specs(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    since(version, SINCE)?;
    caller.enforce("group:group_types_specs:create", &[])?;
    let new = checked(member(&body, "group_specs")?)?;
    let found = type_for(&api, &caller, &id)?;
    edit(&api, &caller, &found, |found| {
        found.spec.group_specs.extend(new.clone());
        Ok(())
    })
    .await?;
    Ok(json(StatusCode::ACCEPTED, &json!({ "group_specs": new })))
}

/// `GET /group_types/{id}/group_specs/{key}`.
pub async fn show_spec(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    Path((id, key)): Path<(String, String)>,
) -> Result<Response, Failure> {
    since(version, SINCE)?;
    caller.enforce("group:group_types_specs:get", &[])?;
    let found = type_for(&api, &caller, &id)?;
    let value = found.spec.group_specs.get(&key).ok_or_else(|| missing(&key))?;
    Ok(json(StatusCode::OK, &json!({ key: value })))
}

/// `PUT /group_types/{id}/group_specs/{key}`.
pub async fn set_spec(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    Path((id, key)): Path<(String, String)>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    since(version, SINCE)?;
    caller.enforce("group:group_types_specs:update", &[])?;
    let said = body
        .as_object()
        .filter(|said| said.len() == 1 && said.contains_key(&key));
    let said = said.ok_or_else(|| Failure::invalid("Request body and URI mismatch").at(&key))?;
    let new = checked(said)?;
    let found = type_for(&api, &caller, &id)?;
    edit(&api, &caller, &found, |found| {
        found.spec.group_specs.extend(new.clone());
        Ok(())
    })
    .await?;
    Ok(json(StatusCode::OK, &new))
}

/// `DELETE /group_types/{id}/group_specs/{key}`.
pub async fn remove_spec(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    Path((id, key)): Path<(String, String)>,
) -> Result<Response, Failure> {
    since(version, SINCE)?;
    caller.enforce("group:group_types_specs:delete", &[])?;
    let found = type_for(&api, &caller, &id)?;
    edit(&api, &caller, &found, |found| {
        let removed = found.spec.group_specs.remove(&key);
        removed.map(|_| ()).ok_or_else(|| missing(&key))
    })
    .await?;
    Ok(accepted())
}
