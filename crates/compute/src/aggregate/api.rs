//! `/os-aggregates`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, LazyLock},
};

use axum::{
    Router,
    extract::{Path, State},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use http::StatusCode;
use madang_http::{Failure, Json, Microversion, Schema, json};
use madang_identity::Caller;
use madang_image::{Image, ImageState};
use madang_store::{Resource, Store};
use serde_json::{Value, json};

use super::{Aggregate, rules};
use crate::{
    api::{ComputeApi, failure, input},
    server::view::micros,
};

/// The routes.
pub(crate) fn routes() -> Router<ComputeApi> {
    Router::new()
        .route("/os-aggregates", get(list).post(create))
        .route("/os-aggregates/{id}", get(show).put(update).delete(delete))
        .route("/os-aggregates/{id}/action", post(act))
        .route("/os-aggregates/{id}/images", post(cache_images))
}

fn view(aggregate: &Resource<Aggregate>, version: Microversion) -> Value {
    let (metadata, spec) = (&aggregate.metadata, &aggregate.spec);
    let updated = (metadata.updated != metadata.created).then(|| micros(metadata.updated));
    let mut shown = json!({
        "id": spec.number,
        "name": spec.name,
        "availability_zone": spec.zone(),
        "hosts": spec.hosts,
        "metadata": spec.metadata,
        "created_at": micros(metadata.created),
        "updated_at": updated,
        "deleted": false,
        "deleted_at": null,
    });
    if version >= Microversion(2, 41) {
        shown["uuid"] = json!(aggregate.name());
    }
    shown
}

fn one(aggregate: &Resource<Aggregate>, version: Microversion) -> Response {
    json(StatusCode::OK, &json!({ "aggregate": view(aggregate, version) }))
}

fn find(store: &Store, id: &str) -> Result<Arc<Resource<Aggregate>>, Failure> {
    if id.parse::<i64>().is_err() {
        return Err(Failure::invalid(format!("Invalid input received: id must be an integer, not {id}")).at("id"));
    }
    let found = store.cache::<Aggregate>().by("number", id).into_iter().next();
    found.ok_or_else(|| Failure::not_found(format!("Aggregate {id} could not be found.")))
}

fn enforce(caller: &Caller, verb: &str) -> Result<(), Failure> {
    caller.enforce(&format!("os_compute_api:os-aggregates:{verb}"), &[])
}

/// `GET /os-aggregates`.
async fn list(State(api): State<ComputeApi>, caller: Caller, version: Microversion) -> Result<Response, Failure> {
    enforce(&caller, "index")?;
    let mut all = api.store.cache::<Aggregate>().all();
    all.sort_unstable_by_key(|aggregate| (aggregate.metadata.created, aggregate.metadata.uid));
    let shown: Vec<Value> = all.iter().map(|aggregate| view(aggregate, version)).collect();
    Ok(json(StatusCode::OK, &json!({ "aggregates": shown })))
}

/// `GET /os-aggregates/{id}`.
async fn show(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    enforce(&caller, "show")?;
    Ok(one(&*find(&api.store, &id)?, version))
}

/// `POST /os-aggregates`.
async fn create(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    static CREATE: LazyLock<Schema> = LazyLock::new(|| {
        let properties = json!({ "name": input::name(), "availability_zone": input::zone_or_null() });
        input::nova(input::wrapped("aggregate", properties, &["name"]))
    });
    enforce(&caller, "create")?;
    CREATE.check(&body)?;
    let wanted = &body["aggregate"];
    let name = wanted["name"].as_str().unwrap_or_default();
    let zone = wanted["availability_zone"].as_str();
    let made = rules::create(&api.store, caller.cause(), name, zone)
        .await
        .map_err(failure)?;
    let mut shown = view(&made, version);
    // As Nova, whose new aggregates have neither yet.
    if let Some(members) = shown.as_object_mut() {
        members.remove("hosts");
        members.remove("metadata");
    }
    Ok(json(StatusCode::OK, &json!({ "aggregate": shown })))
}

/// `PUT /os-aggregates/{id}`.
async fn update(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    static UPDATE: LazyLock<Schema> = LazyLock::new(|| {
        let name = json!({ "type": "string", "pattern": "\\S", "minLength": 1, "maxLength": 255 });
        let properties = json!({ "name": name, "availability_zone": input::zone_or_null() });
        let mut schema = input::wrapped("aggregate", properties, &[]);
        schema["properties"]["aggregate"]["anyOf"] =
            json!([{ "required": ["name"] }, { "required": ["availability_zone"] }]);
        input::nova(schema)
    });
    enforce(&caller, "update")?;
    UPDATE.check(&body)?;
    let aggregate = find(&api.store, &id)?;
    let wanted = &body["aggregate"];
    let name = wanted["name"].as_str().map(str::trim);
    // A null is refused as an empty zone is.
    let zone = wanted
        .get("availability_zone")
        .map(|zone| zone.as_str().unwrap_or_default());
    let changed = rules::update(&api.store, caller.cause(), &aggregate, name, zone);
    Ok(one(&*changed.await.map_err(failure)?, version))
}

/// `DELETE /os-aggregates/{id}`.
async fn delete(State(api): State<ComputeApi>, caller: Caller, Path(id): Path<String>) -> Result<Response, Failure> {
    enforce(&caller, "delete")?;
    let aggregate = find(&api.store, &id)?;
    rules::delete(&api.store, caller.cause(), &aggregate)
        .await
        .map_err(failure)?;
    Ok(StatusCode::OK.into_response())
}

/// `POST /os-aggregates/{id}/action`: `add_host`, `remove_host` and `set_metadata`.
async fn act(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    static ADD: LazyLock<Schema> =
        LazyLock::new(|| input::nova(input::wrapped("add_host", json!({ "host": input::host() }), &["host"])));
    static REMOVE: LazyLock<Schema> = LazyLock::new(|| {
        input::nova(input::wrapped(
            "remove_host",
            json!({ "host": input::host() }),
            &["host"],
        ))
    });
    static SET: LazyLock<Schema> = LazyLock::new(|| {
        let properties = json!({ "metadata": input::items(true) });
        input::nova(input::wrapped("set_metadata", properties, &["metadata"]))
    });
    let action = body
        .as_object()
        .filter(|body| body.len() == 1)
        .and_then(|body| body.keys().next());
    let action = action.ok_or_else(|| Failure::invalid("Malformed request body"))?;
    let schema = match action.as_str() {
        "add_host" => &ADD,
        "remove_host" => &REMOVE,
        "set_metadata" => &SET,
        other => return Err(Failure::invalid(format!("There is no such action: {other}"))),
    };
    enforce(&caller, action)?;
    schema.check(&body)?;
    let aggregate = find(&api.store, &id)?;
    let (store, cause) = (&api.store, caller.cause());
    let host = body[action]["host"].as_str().unwrap_or_default();
    let changed = match action.as_str() {
        "add_host" => rules::add_host(store, cause, &aggregate, host).await,
        "remove_host" => rules::remove_host(store, cause, &aggregate, host).await,
        _ => rules::set_metadata(store, cause, &aggregate, &items(&body)).await,
    };
    Ok(one(&*changed.map_err(failure)?, version))
}

fn items(body: &Value) -> BTreeMap<String, Option<String>> {
    let items = body["set_metadata"]["metadata"].as_object().into_iter().flatten();
    items
        .map(|(key, value)| (key.clone(), value.as_str().map(str::to_owned)))
        .collect()
}

/// `POST /os-aggregates/{id}/images`, since 2.81: asks hosts to have images at hand. Ours fetch an image when its first
/// server comes, and keep it; what is asked for is checked, and is all there is to do.
async fn cache_images(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    static IMAGES: LazyLock<Schema> = LazyLock::new(|| {
        let image = json!({
            "type": "object",
            "properties": { "id": { "type": "string", "format": "uuid" } },
            "required": ["id"],
            "additionalProperties": false,
        });
        input::nova(json!({
            "type": "object",
            "properties": { "cache": { "type": "array", "minItems": 1, "items": image } },
            "required": ["cache"],
            "additionalProperties": false,
        }))
    });
    input::since(version, 81)?;
    caller.enforce("compute:aggregates:images", &[])?;
    IMAGES.check(&body)?;
    let ids: Vec<&str> = body["cache"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|image| image["id"].as_str())
        .collect();
    if ids.iter().collect::<BTreeSet<_>>().len() != ids.len() {
        return Err(Failure::invalid("Duplicate images in request").at("cache"));
    }
    find(&api.store, &id)?;
    let images = api.store.cache::<Image>();
    for id in ids {
        let image = images.by_name(id);
        if image.is_none_or(|image| image.status.state != ImageState::Active) {
            return Err(Failure::invalid(format!("Image {id} is not found or not active.")).at("cache"));
        }
    }
    Ok(StatusCode::ACCEPTED.into_response())
}
