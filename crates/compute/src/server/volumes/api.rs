//! `/servers/{id}/os-volume_attachments`: parse, call a verb, render.

use std::sync::{Arc, LazyLock};

use axum::{
    extract::{Path, State},
    response::{IntoResponse as _, Response},
};
use http::StatusCode;
use madang_block::Attachment;
use madang_http::{Failure, Form, Json, LimitRules, Microversion, PageQuery, Query, Schema, json};
use madang_identity::Caller;
use madang_store::Resource;
use serde_json::{Value, json};

use super::{Attach, attach as attach_to, detach as detach_from, keep, of, swap};
use crate::{
    Phase, Server,
    api::ComputeApi,
    server::api::{find as find_server, find_for},
};

/// Nova's `max_limit`.
const LIMITS: LimitRules = LimitRules::up_to(1000);

fn body_schema(minor: u16) -> Value {
    let mut properties = json!({
        "volumeId": { "type": "string", "format": "uuid" },
        "device": { "type": ["string", "null"], "minLength": 1, "maxLength": 255, "pattern": "(^/dev/x{0,1}[a-z]{0,1}d{0,1})([a-z]+)[0-9]*$" },
    });
    if minor >= 49 {
        properties["tag"] = json!({ "type": "string", "minLength": 1, "maxLength": 60, "pattern": "^[^,/]*$" });
    }
    if minor >= 79 {
        properties["delete_on_termination"] = json!({ "type": ["boolean", "string"] });
    }
    json!({
        "type": "object",
        "properties": { "volumeAttachment": {
            "type": "object", "properties": properties, "required": ["volumeId"], "additionalProperties": false,
        } },
        "required": ["volumeAttachment"],
        "additionalProperties": false,
    })
}

fn schema(version: Microversion) -> &'static Schema {
    static FIRST: LazyLock<Schema> = LazyLock::new(|| Schema::new(Form::Nova, body_schema(1)));
    static TAGGED: LazyLock<Schema> = LazyLock::new(|| Schema::new(Form::Nova, body_schema(49)));
    static KEPT: LazyLock<Schema> = LazyLock::new(|| Schema::new(Form::Nova, body_schema(79)));
    match version {
        v if v >= Microversion(2, 79) => &KEPT,
        v if v >= Microversion(2, 49) => &TAGGED,
        _ => &FIRST,
    }
}

/// What a change may say: since 2.85 everything that is shown, of which little may differ.
fn update_schema(version: Microversion) -> &'static Schema {
    fn of(is_whole: bool) -> Schema {
        let id = json!({ "type": "string", "format": "uuid" });
        let mut properties = json!({ "volumeId": id });
        if is_whole {
            properties = json!({
                "volumeId": id, "id": id, "serverId": id,
                "device": { "type": ["string", "null"], "minLength": 1, "maxLength": 255 },
                "tag": { "type": "string", "minLength": 1, "maxLength": 60, "pattern": "^[^,/]*$" },
                "delete_on_termination": { "type": ["boolean", "string"] },
            });
        }
        let member = json!({
            "type": "object", "properties": properties, "required": ["volumeId"], "additionalProperties": false,
        });
        let body = json!({
            "type": "object",
            "properties": { "volumeAttachment": member },
            "required": ["volumeAttachment"],
            "additionalProperties": false,
        });
        Schema::new(Form::Nova, body)
    }
    static SWAP: LazyLock<Schema> = LazyLock::new(|| of(false));
    static WHOLE: LazyLock<Schema> = LazyLock::new(|| of(true));
    if version >= Microversion(2, 85) { &WHOLE } else { &SWAP }
}

/// An attachment as Nova shows it.
fn view(attachment: &Resource<Attachment>, version: Microversion) -> Value {
    let spec = &attachment.spec;
    let device = spec.device.as_ref();
    let mut shown = json!({
        "volumeId": spec.volume,
        "serverId": spec.server,
        "device": spec.mountpoint,
    });
    if version < Microversion(2, 89) {
        shown["id"] = json!(spec.volume);
    } else {
        shown["attachment_id"] = json!(attachment.name());
        shown["bdm_uuid"] = json!(attachment.name());
    }
    if version >= Microversion(2, 70) {
        shown["tag"] = json!(device.and_then(|device| device.tag.as_ref()));
    }
    if version >= Microversion(2, 79) {
        shown["delete_on_termination"] = json!(device.is_some_and(|device| device.delete_on_termination));
    }
    shown
}

fn find(api: &ComputeApi, server: &str, volume: &str) -> Result<Arc<Resource<Attachment>>, Failure> {
    let found = of(&api.store, server)
        .into_iter()
        .find(|attachment| attachment.spec.volume == volume);
    let missing = || Failure::not_found(format!("Instance {server} is not attached to volume {volume}"));
    found.ok_or_else(missing)
}

/// `GET /servers/{id}/os-volume_attachments`.
pub async fn list(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
    query: Query,
) -> Result<Response, Failure> {
    let server = find_for(&api, &caller, &id, "os_compute_api:os-volumes-attachments:index")?;
    let mut attachments = of(&api.store, server.name());
    let offset = query
        .get("offset")
        .and_then(|offset| offset.parse().ok())
        .unwrap_or(0_usize);
    attachments.drain(..offset.min(attachments.len()));
    let page = PageQuery {
        marker: None,
        ..PageQuery::from(&query, LIMITS)?
    };
    let page = page.cut(attachments, |attachment| attachment.name())?;
    let shown: Vec<Value> = page.items.iter().map(|attachment| view(attachment, version)).collect();
    Ok(json(StatusCode::OK, &json!({ "volumeAttachments": shown })))
}

/// `GET /servers/{id}/os-volume_attachments/{volume}`.
pub async fn show(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path((id, volume)): Path<(String, String)>,
) -> Result<Response, Failure> {
    let server = find_for(&api, &caller, &id, "os_compute_api:os-volumes-attachments:show")?;
    let found = find(&api, server.name(), &volume)?;
    Ok(json(
        StatusCode::OK,
        &json!({ "volumeAttachment": view(&found, version) }),
    ))
}

fn truth(value: &Value) -> bool {
    *value == true
        || value
            .as_str()
            .is_some_and(|said| madang_http::parse_bool(said) == Some(true))
}

/// `POST /servers/{id}/os-volume_attachments`.
pub async fn attach(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    schema(version).check(&body)?;
    let server = find_for(&api, &caller, &id, "os_compute_api:os-volumes-attachments:create")?;
    let said = &body["volumeAttachment"];
    let text = |name: &str| said[name].as_str().map(str::to_owned);
    let wanted = Attach {
        volume: text("volumeId").unwrap_or_default(),
        name: text("device"),
        tag: text("tag"),
        delete_on_termination: truth(&said["delete_on_termination"]),
        may_share: version >= Microversion(2, 60),
    };
    // Since 2.20 one that is put away may be given volumes.
    if version < Microversion(2, 20) && matches!(server.status.phase, Phase::Shelved | Phase::Offloaded) {
        return Err(super::wrong_phase(&server, "attach_volume"));
    }
    let made = attach_to(&api.store, &caller, &server, &wanted).await?;
    if version >= Microversion(2, 101) {
        return Ok(StatusCode::ACCEPTED.into_response());
    }
    Ok(json(
        StatusCode::OK,
        &json!({ "volumeAttachment": view(&made, version) }),
    ))
}

/// `PUT /servers/{id}/os-volume_attachments/{volume}`: whether it goes with the server, since 2.85; another volume in its
/// stead.
pub async fn update(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path((id, volume)): Path<(String, String)>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    update_schema(version).check(&body)?;
    let said = &body["volumeAttachment"];
    let wanted = said["volumeId"].as_str().unwrap_or(&volume);
    let only_swap = version < Microversion(2, 85);
    let is_swap = only_swap || wanted != volume;
    // Block swaps for whoever owns the server, so this one is asked of the caller alone.
    let server = match is_swap {
        true => {
            caller.enforce("os_compute_api:os-volumes-attachments:swap", &[])?;
            find_server(&api.store, &caller, &id)?
        }
        false => find_for(&api, &caller, &id, "os_compute_api:os-volumes-attachments:update")?,
    };
    if !only_swap {
        change(&api, &caller, &server, &volume, said).await?;
    }
    if is_swap {
        swap(&api.store, &caller, &server, &volume, wanted).await?;
    }
    Ok(StatusCode::ACCEPTED.into_response())
}

/// Changes what can be changed of an attachment, and refuses what cannot.
async fn change(
    api: &ComputeApi,
    caller: &Caller,
    server: &Resource<Server>,
    volume: &str,
    said: &Value,
) -> Result<(), Failure> {
    let found = find(api, server.name(), volume)?;
    let device = found.spec.device.as_ref();
    let is = [
        ("id", Some(volume)),
        ("serverId", Some(server.name())),
        ("device", found.spec.mountpoint.as_deref()),
        ("tag", device.and_then(|device| device.tag.as_deref())),
    ];
    for (name, is) in is {
        if said.get(name).is_some_and(|said| said.as_str() != is) {
            return Err(Failure::invalid(format!("The {name} property is not mutable")).at(name));
        }
    }
    match said.get("delete_on_termination") {
        Some(wish) => keep(&api.store, caller, &found, truth(wish)).await,
        None => Ok(()),
    }
}

/// `DELETE /servers/{id}/os-volume_attachments/{volume}`.
pub async fn detach(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path((id, volume)): Path<(String, String)>,
) -> Result<Response, Failure> {
    let server = find_for(&api, &caller, &id, "os_compute_api:os-volumes-attachments:delete")?;
    let found = find(&api, server.name(), &volume)?;
    if version < Microversion(2, 20) && matches!(server.status.phase, Phase::Shelved | Phase::Offloaded) {
        return Err(super::wrong_phase(&server, "detach_volume"));
    }
    detach_from(&api.store, &caller, &server, &found).await?;
    Ok(StatusCode::ACCEPTED.into_response())
}
