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

use super::{Attach, attach as attach_to, detach as detach_from, keep, of};
use crate::{api::ComputeApi, server::api::find_for};

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
    };
    let made = attach_to(&api.store, &caller, &server, &wanted).await?;
    Ok(json(
        StatusCode::OK,
        &json!({ "volumeAttachment": view(&made, version) }),
    ))
}

/// `PUT /servers/{id}/os-volume_attachments/{volume}`: whether it goes with the server.
pub async fn update(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path((id, volume)): Path<(String, String)>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    let said = &body["volumeAttachment"];
    let wanted = said["volumeId"].as_str().unwrap_or(&volume);
    if wanted != volume || version < Microversion(2, 85) {
        find_for(&api, &caller, &id, "os_compute_api:os-volumes-attachments:swap")?;
        find(&api, &id, &volume)?;
        let message = format!("volume {volume} cannot be swapped: attach {wanted}, copy, and detach {volume} instead");
        return Err(Failure::invalid(message).at("volumeId"));
    }
    let server = find_for(&api, &caller, &id, "os_compute_api:os-volumes-attachments:update")?;
    let found = find(&api, server.name(), &volume)?;
    let differs = |name: &str, is: Option<&str>| said[name].as_str().is_some_and(|said| Some(said) != is);
    let device = found.spec.device.as_ref();
    if differs("device", found.spec.mountpoint.as_deref())
        || differs("tag", device.and_then(|device| device.tag.as_deref()))
    {
        return Err(Failure::invalid(
            "The requested change is not supported: only delete_on_termination changes",
        ));
    }
    if let Some(wish) = said.get("delete_on_termination") {
        keep(&api.store, &caller, &found, truth(wish)).await?;
    }
    Ok(StatusCode::ACCEPTED.into_response())
}

/// `DELETE /servers/{id}/os-volume_attachments/{volume}`.
pub async fn detach(
    State(api): State<ComputeApi>,
    caller: Caller,
    Path((id, volume)): Path<(String, String)>,
) -> Result<Response, Failure> {
    let server = find_for(&api, &caller, &id, "os_compute_api:os-volumes-attachments:delete")?;
    let found = find(&api, server.name(), &volume)?;
    detach_from(&api.store, &caller, &server, &found).await?;
    Ok(StatusCode::ACCEPTED.into_response())
}
