//! `/attachments`: how consumers that are not compute reserve a volume, learn how to reach it, and say that they have it.

use std::sync::{Arc, LazyLock};

use axum::{
    extract::{Path, State},
    response::{IntoResponse as _, Response},
};
use http::StatusCode;
use madang_http::{Failure, Form, Json, Microversion, Query, RequestInfo, Schema, SortValue, json};
use madang_identity::Caller;
use madang_store::{Metadata, Resource};
use serde_json::{Value, json};

use super::{AttachState, Attachment, AttachmentSpec};
use crate::{
    api::{BlockApi, enforce, listing, member, micros, since, text, volume_for},
    driver::LayerFile,
    layer::{self, Layer},
    volume::{
        Volume,
        api::actions::only_member,
        verbs::{self, Refusal},
    },
};

/// The version with which attachments came.
const SINCE: u16 = 27;

static CREATE: LazyLock<Schema> = LazyLock::new(|| {
    let uuid = json!({ "type": "string", "format": "uuid" });
    let properties = json!({
        "instance_uuid": { "oneOf": [uuid, { "type": "null" }] },
        "connector": { "type": ["object", "null"] },
        "volume_uuid": uuid,
        "mode": { "type": ["string", "null"], "enum": ["rw", "ro", null] },
    });
    let body = json!({
        "type": "object",
        "properties": { "attachment": {
            "type": "object", "properties": properties, "required": ["volume_uuid"], "additionalProperties": false,
        } },
        "required": ["attachment"],
        "additionalProperties": false,
    });
    Schema::new(Form::Nova, body)
});

/// The attachment, if the caller may know of it and do `rule` to it.
fn attachment_for(api: &BlockApi, caller: &Caller, id: &str, rule: &str) -> Result<Arc<Resource<Attachment>>, Failure> {
    let found = api.store.cache::<Attachment>().by_name(id);
    let found = found.filter(|attachment| caller.can_see(attachment.project()));
    let missing = || {
        Failure::not_found(format!(
            "Volume attachment could not be found with filter: attachment_id = {id}."
        ))
    };
    let found = found.ok_or_else(missing)?;
    enforce(caller, rule, found.project())?;
    Ok(found)
}

fn brief(attachment: &Resource<Attachment>) -> Value {
    json!({
        "id": attachment.name(),
        "status": attachment.status.state.as_str(),
        "instance": attachment.spec.server,
        "volume_id": attachment.spec.volume,
    })
}

fn full(api: &BlockApi, attachment: &Resource<Attachment>) -> Value {
    let mut shown = brief(attachment);
    let time = |at: Option<jiff::Timestamp>| json!(at.map(micros).unwrap_or_default());
    shown["attached_at"] = time(attachment.status.attached);
    shown["detached_at"] = time(attachment.status.detached);
    shown["attach_mode"] = json!(if attachment.spec.is_read_only { "ro" } else { "rw" });
    let volume = api.store.cache::<Volume>().by_name(&attachment.spec.volume);
    let info = volume
        .filter(|_| attachment.spec.connector.is_some())
        .and_then(|volume| connection(api, &volume, attachment.spec.is_read_only).ok());
    shown["connection_info"] = match info {
        Some(info) => {
            let mut flat = info["data"].clone();
            flat["driver_volume_type"] = info["driver_volume_type"].clone();
            flat["attachment_id"] = json!(attachment.name());
            flat
        }
        None => json!({}),
    };
    shown
}

/// How to reach a volume's bytes on the host of the back end.
pub(crate) fn connection(api: &BlockApi, volume: &Resource<Volume>, is_read_only: bool) -> Result<Value, Failure> {
    let found = volume
        .status
        .layer
        .and_then(|uid| api.store.get::<Layer>(&layer::key(uid)));
    let missing = || Failure::invalid(format!("Invalid volume: Volume {} has no bytes yet.", volume.name()));
    let found = found.ok_or_else(missing)?;
    let file = LayerFile {
        uid: found.metadata.uid,
        format: found.spec.format,
    };
    Ok(json!({
        "driver_volume_type": "local",
        "data": {
            "device_path": api.back_end.path(file),
            "format": found.spec.format.as_str(),
            "access_mode": if is_read_only { "ro" } else { "rw" },
            "encrypted": volume.spec.is_encrypted,
            "qos_specs": null,
            "volume_id": volume.name(),
            "host": found.spec.host,
        },
    }))
}

/// `GET /attachments`.
pub async fn list(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    query: Query,
    info: RequestInfo,
) -> Result<Response, Failure> {
    listed(&api, &caller, version, &query, &info, brief)
}

/// `GET /attachments/detail`.
pub async fn detail(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    query: Query,
    info: RequestInfo,
) -> Result<Response, Failure> {
    listed(&api, &caller, version, &query, &info, |attachment| {
        full(&api, attachment)
    })
}

fn listed(
    api: &BlockApi,
    caller: &Caller,
    version: Microversion,
    query: &Query,
    info: &RequestInfo,
    view: impl Fn(&Resource<Attachment>) -> Value,
) -> Result<Response, Failure> {
    since(version, SINCE)?;
    let mut attachments = listing::visible(api.store.cache::<Attachment>(), caller, query);
    attachments.retain(|attachment| {
        query.iter().all(|(name, said)| match name {
            "volume_id" => attachment.spec.volume == said,
            "instance_id" => attachment.spec.server.as_deref() == Some(said),
            "status" | "attach_status" => attachment.status.state.as_str() == said,
            _ => true,
        })
    });
    let keys = ["id", "created_at", "updated_at", "volume_id", "attach_status"];
    let page = listing::page(attachments, query, &keys, |attachment, key| match key {
        "id" => attachment.name().into(),
        "volume_id" => attachment.spec.volume.as_str().into(),
        "attach_status" => attachment.status.state.as_str().into(),
        "updated_at" => SortValue::from(attachment.metadata.updated),
        _ => attachment.metadata.created.into(),
    })?;
    let shown = page.0.items.iter().map(|attachment| view(attachment));
    listing::answer("attachments", shown.collect(), &page, (info, query, version))
}

/// `GET /attachments/{id}`.
pub async fn show(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    since(version, SINCE)?;
    let found = attachment_for(&api, &caller, &id, "volume:get")?;
    Ok(json(StatusCode::OK, &json!({ "attachment": full(&api, &found) })))
}

/// `POST /attachments`.
pub async fn create(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    since(version, SINCE)?;
    CREATE.check(&body)?;
    let body = member(&body, "attachment")?;
    let id = text(body, "volume_uuid").unwrap_or_default();
    let volume = volume_for(&api, &caller, &id, "volume:attachment_create")?;
    let connector = body.get("connector").and_then(Value::as_object).cloned();
    let said = |name: &str| connector.as_ref().and_then(|connector| text(connector, name));
    let mode = text(body, "mode")
        .filter(|_| version >= Microversion(3, 54))
        .or_else(|| said("mode"));
    let spec = AttachmentSpec {
        volume: volume.name().to_owned(),
        server: text(body, "instance_uuid"),
        is_read_only: mode.as_deref() == Some("ro"),
        mountpoint: said("mountpoint"),
        connector: connector.clone(),
        device: None,
    };
    let made = api.store.transact::<_, Refusal>(caller.cause(), |tx| {
        let mut new = Resource::<Attachment>::new(Metadata::with_id(volume.project()), spec.clone());
        if connector.is_some() {
            new.status.state = AttachState::Attaching;
            new.status.host = said("host");
        }
        Ok(tx.create(new)?)
    });
    let made = made.await.map_err(|Refusal(failure)| failure)?;
    Ok(json(StatusCode::OK, &json!({ "attachment": full(&api, &made) })))
}

/// `PUT /attachments/{id}`.
pub async fn update(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    since(version, SINCE)?;
    let connector = member(&body, "attachment")?
        .get("connector")
        .and_then(Value::as_object)
        .cloned();
    let connector = connector.filter(|connector| !connector.is_empty());
    let connector =
        connector.ok_or_else(|| Failure::invalid("Invalid input for field/attribute connector.").at("connector"))?;
    let found = attachment_for(&api, &caller, &id, "volume:attachment_update")?;
    let key = found.key();
    let changed = api
        .store
        .modify::<Attachment, Refusal>(&key, caller.cause(), |attachment| {
            if attachment.status.state == AttachState::Reserved {
                attachment.status.state = AttachState::Attaching;
            }
            attachment.status.host = text(&connector, "host");
            attachment.spec.mountpoint = text(&connector, "mountpoint").or(attachment.spec.mountpoint.take());
            attachment.spec.is_read_only |= text(&connector, "mode").as_deref() == Some("ro");
            attachment.spec.connector = Some(connector.clone());
            Ok(())
        });
    let changed = changed.await.map_err(|Refusal(failure)| failure)?;
    Ok(json(StatusCode::OK, &json!({ "attachment": full(&api, &changed) })))
}

/// `DELETE /attachments/{id}`.
pub async fn delete(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    since(version, SINCE)?;
    let found = attachment_for(&api, &caller, &id, "volume:attachment_delete")?;
    if !found.metadata.finalizers.is_empty() {
        let message = format!(
            "Detach volume from instance {} using the Compute API",
            found.spec.server.as_deref().unwrap_or_default()
        );
        return Err(Failure::conflict(message));
    }
    let key = found.key();
    let ended = api
        .store
        .transact::<(), Refusal>(caller.cause(), |tx| match tx.get::<Attachment>(&key) {
            Some(attachment) => verbs::end(tx, &attachment, false),
            None => Ok(()),
        });
    ended.await.map_err(|Refusal(failure)| failure)?;
    let left = api.store.cache::<Attachment>().by("volume", &found.spec.volume);
    let left: Vec<Value> = left.iter().map(|attachment| brief(attachment)).collect();
    Ok(json(StatusCode::OK, &json!({ "attachments": left })))
}

/// `POST /attachments/{id}/action`: `os-complete`.
pub async fn act(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    since(version, 44)?;
    let (name, _) = only_member(&body)?;
    if name != "os-complete" {
        return Err(Failure::invalid(format!("There is no such action: {name}")));
    }
    let found = attachment_for(&api, &caller, &id, "volume:attachment_complete")?;
    let key = found.key();
    let completed = api
        .store
        .modify::<Attachment, Refusal>(&key, caller.cause(), |attachment| {
            attachment.status.state = AttachState::Attached;
            attachment.status.attached.get_or_insert_with(jiff::Timestamp::now);
            Ok(())
        });
    completed.await.map_err(|Refusal(failure)| failure)?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
