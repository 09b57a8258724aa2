//! `/qos-specs`: parse, write, render.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    extract::{Path, State},
    response::Response,
};
use http::StatusCode;
use madang_http::{Failure, Json, Microversion, Query, RequestInfo, SortValue, json};
use madang_identity::Caller;
use madang_store::{Metadata, Resource};
use serde_json::{Value, json};

use super::{Consumer, QosSpecs, QosSpecsSpec};
use crate::{
    api::{BlockApi, accepted, listing, member},
    volume::verbs::Refusal,
    volume_type::{
        VolumeType,
        api::{edit as edit_type, type_for},
    },
};

fn view(found: &Resource<QosSpecs>) -> Value {
    json!({
        "id": found.name(),
        "name": found.spec.name,
        "consumer": found.spec.consumer.as_str(),
        "specs": found.spec.specs,
    })
}

fn one(found: &Resource<QosSpecs>, info: &RequestInfo) -> Response {
    let links = json!([{ "rel": "self", "href": info.url() }]);
    json(StatusCode::OK, &json!({ "qos_specs": view(found), "links": links }))
}

fn find(api: &BlockApi, id: &str) -> Result<Arc<Resource<QosSpecs>>, Failure> {
    let found = api.store.cache::<QosSpecs>().by_name(id);
    found.ok_or_else(|| Failure::not_found(format!("No such qos spec {id}.")))
}

/// `GET /qos-specs`.
pub async fn list(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    query: Query,
    info: RequestInfo,
) -> Result<Response, Failure> {
    caller.enforce("volume_extension:qos_specs_manage:get_all", &[])?;
    let mut all = api.store.cache::<QosSpecs>().all();
    all.retain(|found| {
        query.iter().all(|(name, said)| match name {
            "id" => found.name() == said,
            "name" => found.spec.name == said,
            "consumer" => found.spec.consumer.as_str() == said,
            _ => true,
        })
    });
    let page = listing::page(
        all,
        &query,
        &["id", "name", "consumer", "created_at"],
        |found, key| match key {
            "id" => found.name().into(),
            "name" => found.spec.name.as_str().into(),
            "consumer" => found.spec.consumer.as_str().into(),
            _ => SortValue::from(found.metadata.created),
        },
    )?;
    let shown = page.0.items.iter().map(|found| view(found));
    listing::answer("qos_specs", shown.collect(), &page, (&info, &query, version))
}

/// The name, the consumer and the pairs of a body.
fn read(body: &Value) -> Result<(Option<String>, Option<Consumer>, BTreeMap<String, String>), Failure> {
    let mut pairs = BTreeMap::new();
    let (mut name, mut consumer) = (None, None);
    for (key, value) in member(body, "qos_specs")? {
        let bad = || Failure::invalid(format!("Invalid input for field/attribute {key}. Value: {value}.")).at(key);
        let text = match value {
            Value::String(text) => text.trim().to_owned(),
            Value::Number(number) => number.to_string(),
            _ => return Err(bad()),
        };
        match key.as_str() {
            "name" => name = Some(text),
            "consumer" => consumer = Some(Consumer::from_word(&text).ok_or_else(bad)?),
            _ if text.len() > 255 || key.len() > 255 => return Err(bad()),
            _ => _ = pairs.insert(key.clone(), text),
        }
    }
    Ok((name, consumer, pairs))
}

/// `POST /qos-specs`.
pub async fn create(
    State(api): State<BlockApi>,
    caller: Caller,
    info: RequestInfo,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    caller.enforce("volume_extension:qos_specs_manage:create", &[])?;
    let (name, consumer, specs) = read(&body)?;
    let name = name.filter(|name| !name.is_empty() && name.chars().count() <= 255);
    let name = name.ok_or_else(|| Failure::invalid("Invalid input for field/attribute name.").at("name"))?;
    let spec = QosSpecsSpec {
        name,
        consumer: consumer.unwrap_or(Consumer::BackEnd),
        specs,
    };
    let made = api.store.transact::<_, Refusal>(caller.cause(), |tx| {
        Ok(tx.create(Resource::<QosSpecs>::new(Metadata::with_id(""), spec.clone()))?)
    });
    Ok(one(&*made.await.map_err(|Refusal(failure)| failure)?, &info))
}

/// `GET /qos-specs/{id}`.
pub async fn show(
    State(api): State<BlockApi>,
    caller: Caller,
    Path(id): Path<String>,
    info: RequestInfo,
) -> Result<Response, Failure> {
    caller.enforce("volume_extension:qos_specs_manage:get", &[])?;
    Ok(one(&*find(&api, &id)?, &info))
}

async fn edit(
    api: &BlockApi,
    caller: &Caller,
    found: &Resource<QosSpecs>,
    change: impl Fn(&mut QosSpecsSpec) -> Result<(), Failure>,
) -> Result<Arc<Resource<QosSpecs>>, Failure> {
    let key = found.key();
    let changed = api
        .store
        .modify::<QosSpecs, Refusal>(&key, caller.cause(), |found| Ok(change(&mut found.spec)?));
    changed.await.map_err(|Refusal(failure)| failure)
}

/// `PUT /qos-specs/{id}`.
pub async fn update(
    State(api): State<BlockApi>,
    caller: Caller,
    Path(id): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    caller.enforce("volume_extension:qos_specs_manage:update", &[])?;
    let (_, consumer, pairs) = read(&body)?;
    let found = find(&api, &id)?;
    edit(&api, &caller, &found, |spec| {
        spec.consumer = consumer.unwrap_or(spec.consumer);
        spec.specs.extend(pairs.clone());
        Ok(())
    })
    .await?;
    Ok(json(StatusCode::OK, &body))
}

/// `PUT /qos-specs/{id}/delete_keys`.
pub async fn delete_keys(
    State(api): State<BlockApi>,
    caller: Caller,
    Path(id): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    caller.enforce("volume_extension:qos_specs_manage:delete", &[])?;
    let keys: Vec<&str> = body["keys"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let found = find(&api, &id)?;
    edit(&api, &caller, &found, |spec| {
        for key in &keys {
            let removed = spec.specs.remove(*key);
            removed.ok_or_else(|| Failure::invalid(format!("QoS spec {id} has no spec with key {key}.")))?;
        }
        Ok(())
    })
    .await?;
    Ok(accepted())
}

/// `DELETE /qos-specs/{id}`; `force` takes it from the types that have it.
pub async fn delete(
    State(api): State<BlockApi>,
    caller: Caller,
    Path(id): Path<String>,
    query: Query,
) -> Result<Response, Failure> {
    caller.enforce("volume_extension:qos_specs_manage:delete", &[])?;
    let found = find(&api, &id)?;
    let force = query.flag("force")?.unwrap_or(false);
    let gone = api.store.transact::<(), Refusal>(caller.cause(), |tx| {
        let types = tx.store().cache::<VolumeType>().by("qos", &id);
        if !types.is_empty() && !force {
            let message = format!("QoS Specs {id} is still associated with entities.");
            return Err(Failure::invalid(message).into());
        }
        for of_type in types {
            let mut free = (*of_type).clone();
            free.spec.qos_specs = None;
            tx.update(&of_type, free)?;
        }
        Ok(tx.delete(&found)?)
    });
    gone.await.map_err(|Refusal(failure)| failure)?;
    Ok(accepted())
}

/// `GET /qos-specs/{id}/associations`.
pub async fn associations(
    State(api): State<BlockApi>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    caller.enforce("volume_extension:qos_specs_manage:get_all", &[])?;
    find(&api, &id)?;
    let types = api.store.cache::<VolumeType>().by("qos", &id);
    let view = |of_type: &Arc<Resource<VolumeType>>| json!({ "association_type": "volume_type", "name": of_type.spec.name, "id": of_type.name() });
    let shown: Vec<Value> = types.iter().map(view).collect();
    Ok(json(StatusCode::OK, &json!({ "qos_associations": shown })))
}

/// Gives a type these specs, or takes them away.
async fn set(api: &BlockApi, caller: &Caller, id: &str, query: &Query, is_on: bool) -> Result<Response, Failure> {
    caller.enforce("volume_extension:qos_specs_manage:update", &[])?;
    let missing = || Failure::invalid("Volume Type id must not be None.").at("vol_type_id");
    let type_id = query.get("vol_type_id").ok_or_else(missing)?;
    find(api, id)?;
    let of_type = type_for(api, caller, type_id)?;
    edit_type(api, caller, &of_type, |of_type| {
        let other = of_type.spec.qos_specs.as_deref().filter(|has| *has != id);
        if let Some(other) = other.filter(|_| is_on) {
            let message = format!(
                "Invalid volume_type passed: Type {type_id} is already associated with another qos specs: {other}"
            );
            return Err(Failure::invalid(message));
        }
        of_type.spec.qos_specs = is_on.then(|| id.to_owned());
        Ok(())
    })
    .await?;
    Ok(accepted())
}

/// `GET /qos-specs/{id}/associate?vol_type_id=…`.
pub async fn associate(
    State(api): State<BlockApi>,
    caller: Caller,
    Path(id): Path<String>,
    query: Query,
) -> Result<Response, Failure> {
    set(&api, &caller, &id, &query, true).await
}

/// `GET /qos-specs/{id}/disassociate?vol_type_id=…`.
pub async fn disassociate(
    State(api): State<BlockApi>,
    caller: Caller,
    Path(id): Path<String>,
    query: Query,
) -> Result<Response, Failure> {
    set(&api, &caller, &id, &query, false).await
}

/// `GET /qos-specs/{id}/disassociate_all`.
pub async fn disassociate_all(
    State(api): State<BlockApi>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    caller.enforce("volume_extension:qos_specs_manage:update", &[])?;
    find(&api, &id)?;
    for of_type in api.store.cache::<VolumeType>().by("qos", &id) {
        edit_type(&api, &caller, &of_type, |of_type| {
            of_type.spec.qos_specs = None;
            Ok(())
        })
        .await?;
    }
    Ok(accepted())
}
