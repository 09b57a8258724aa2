//! `/os-volume-transfer`, and `/volume-transfers` since 3.55: parse, call a verb, render.

use std::sync::{Arc, LazyLock};

use axum::{
    extract::{OriginalUri, Path, State},
    response::Response,
};
use http::StatusCode;
use madang_http::{Failure, Form, Json, Microversion, Query, RequestInfo, Schema, SortValue, json};
use madang_identity::Caller;
use madang_store::Resource;
use serde_json::{Value, json};

use super::{Transfer, verbs};
use crate::{
    api::{BlockApi, accepted, enforce, flag, links, listing, member, micros, since, text, volume_for},
    volume::api::name_schema,
};

static CREATE: LazyLock<Schema> = LazyLock::new(|| {
    let properties = json!({
        "volume_id": { "type": "string", "format": "uuid" },
        "name": name_schema(),
        "no_snapshots": { "type": ["boolean", "string"] },
    });
    let body = json!({
        "type": "object",
        "properties": { "transfer": {
            "type": "object", "properties": properties, "required": ["volume_id"], "additionalProperties": false,
        } },
        "required": ["transfer"],
        "additionalProperties": false,
    });
    Schema::new(Form::Nova, body)
});

static ACCEPT: LazyLock<Schema> = LazyLock::new(|| {
    let body = json!({
        "type": "object",
        "properties": { "accept": {
            "type": "object",
            "properties": { "auth_key": { "type": ["string", "integer"] } },
            "required": ["auth_key"],
            "additionalProperties": false,
        } },
        "required": ["accept"],
        "additionalProperties": false,
    });
    Schema::new(Form::Nova, body)
});

/// The newer path is not there for older versions.
fn check_path(uri: &OriginalUri, version: Microversion) -> Result<(), Failure> {
    match uri.path().contains("/volume-transfers") {
        true => since(version, 55),
        false => Ok(()),
    }
}

fn brief(transfer: &Resource<Transfer>, info: &RequestInfo, caller: &Caller) -> Value {
    json!({
        "id": transfer.name(),
        "name": transfer.spec.name,
        "volume_id": transfer.spec.volume,
        "links": links(info, caller, "os-volume-transfer", transfer.name()),
    })
}

fn full(transfer: &Resource<Transfer>, info: &RequestInfo, caller: &Caller, version: Microversion) -> Value {
    let mut shown = brief(transfer, info, caller);
    shown["created_at"] = json!(micros(transfer.metadata.created));
    if version >= Microversion(3, 55) {
        shown["no_snapshots"] = json!(transfer.spec.without_snapshots);
    }
    if version >= Microversion(3, 57) {
        shown["source_project_id"] = json!(transfer.project());
        shown["destination_project_id"] = Value::Null;
        shown["accepted"] = json!(false);
    }
    shown
}

fn transfer_for(api: &BlockApi, caller: &Caller, id: &str, rule: &str) -> Result<Arc<Resource<Transfer>>, Failure> {
    let found = api.store.cache::<Transfer>().by_name(id);
    let found = found.filter(|transfer| caller.can_see(transfer.project()));
    let found = found.ok_or_else(|| Failure::not_found(format!("Transfer {id} could not be found.")))?;
    enforce(caller, rule, found.project())?;
    Ok(found)
}

/// `GET …`.
pub async fn list(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    query: Query,
    info: RequestInfo,
    uri: OriginalUri,
) -> Result<Response, Failure> {
    check_path(&uri, version)?;
    listed(&api, &caller, version, &query, &info, |transfer| {
        brief(transfer, &info, &caller)
    })
}

/// `GET …/detail`.
pub async fn detail(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    query: Query,
    info: RequestInfo,
    uri: OriginalUri,
) -> Result<Response, Failure> {
    check_path(&uri, version)?;
    listed(&api, &caller, version, &query, &info, |transfer| {
        full(transfer, &info, &caller, version)
    })
}

fn listed(
    api: &BlockApi,
    caller: &Caller,
    version: Microversion,
    query: &Query,
    info: &RequestInfo,
    view: impl Fn(&Resource<Transfer>) -> Value,
) -> Result<Response, Failure> {
    enforce(caller, "volume:get_all_transfers", caller.project()?)?;
    let mut transfers = listing::visible(api.store.cache::<Transfer>(), caller, query);
    transfers.retain(|transfer| {
        query.iter().all(|(name, said)| match name {
            "name" => transfer.spec.name.as_deref() == Some(said),
            "volume_id" => transfer.spec.volume == said,
            _ => true,
        })
    });
    let keys = ["id", "name", "created_at", "volume_id"];
    let page = listing::page(transfers, query, &keys, |transfer, key| match key {
        "id" => transfer.name().into(),
        "name" => transfer.spec.name.as_deref().into(),
        "volume_id" => transfer.spec.volume.as_str().into(),
        _ => SortValue::from(transfer.metadata.created),
    })?;
    let shown = page.0.items.iter().map(|transfer| view(transfer));
    listing::answer("transfers", shown.collect(), &page, (info, query, version))
}

/// `GET …/{id}`.
pub async fn show(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
    info: RequestInfo,
    uri: OriginalUri,
) -> Result<Response, Failure> {
    check_path(&uri, version)?;
    let found = transfer_for(&api, &caller, &id, "volume:get_transfer")?;
    let shown = full(&found, &info, &caller, version);
    Ok(json(StatusCode::OK, &json!({ "transfer": shown })))
}

/// `POST …`.
pub async fn create(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    info: RequestInfo,
    uri: OriginalUri,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    check_path(&uri, version)?;
    CREATE.check(&body)?;
    let body = member(&body, "transfer")?;
    if body.contains_key("no_snapshots") && version < Microversion(3, 55) {
        let message = "Invalid input for field/attribute transfer. Additional properties are not allowed \
                       ('no_snapshots' was unexpected)";
        return Err(Failure::invalid(message).at("no_snapshots"));
    }
    let id = text(body, "volume_id").unwrap_or_default();
    let volume = volume_for(&api, &caller, &id, "volume:create_transfer")?;
    let without_snapshots = flag(body, "no_snapshots", false)?;
    let name = text(body, "name");
    let (made, secret) = verbs::create(&api.store, &caller, &volume, name, without_snapshots).await?;
    let mut shown = full(&made, &info, &caller, version);
    shown["auth_key"] = json!(secret);
    Ok(json(StatusCode::ACCEPTED, &json!({ "transfer": shown })))
}

/// `POST …/{id}/accept`: whoever has the key may.
pub async fn accept(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
    info: RequestInfo,
    uri: OriginalUri,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    check_path(&uri, version)?;
    ACCEPT.check(&body)?;
    enforce(&caller, "volume:accept_transfer", caller.project()?)?;
    let said = &member(&body, "accept")?["auth_key"];
    let secret = said.as_str().map_or_else(|| said.to_string(), str::to_owned);
    let found = api.store.cache::<Transfer>().by_name(&id);
    let found = found.ok_or_else(|| Failure::not_found(format!("Transfer {id} could not be found.")))?;
    verbs::accept(&api.store, &caller, &found, &secret).await?;
    Ok(json(
        StatusCode::ACCEPTED,
        &json!({ "transfer": brief(&found, &info, &caller) }),
    ))
}

/// `DELETE …/{id}`.
pub async fn delete(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
    uri: OriginalUri,
) -> Result<Response, Failure> {
    check_path(&uri, version)?;
    let found = transfer_for(&api, &caller, &id, "volume:delete_transfer")?;
    verbs::delete(&api.store, &caller, &found).await?;
    Ok(accepted())
}
