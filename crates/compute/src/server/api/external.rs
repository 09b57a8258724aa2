//! What other services tell of servers: `/os-server-external-events` and `/os-assisted-volume-snapshots`.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
};

use axum::{
    extract::{Path, State},
    response::{IntoResponse as _, Response},
};
use http::StatusCode;
use madang_block::{Attachment, Snapshot, SnapshotState};
use madang_http::{Failure, Form, Json, Microversion, Query, Schema, json};
use madang_identity::Caller;
use madang_store::{Resource, Store, StoreError};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::{
    Power, Server,
    api::{ComputeApi, failure},
    server::{Doing, state},
};

/// The names of events, with the microversions they came with.
const EVENTS: &[(u16, &str)] = &[
    (1, "network-changed"),
    (1, "network-vif-plugged"),
    (1, "network-vif-unplugged"),
    (1, "network-vif-deleted"),
    (51, "volume-extended"),
    (76, "power-update"),
    (82, "accelerator-request-bound"),
    (93, "volume-reimaged"),
];

/// Events that are about one thing, which their tag names.
const TAGGED: &[&str] = &["volume-extended", "power-update", "accelerator-request-bound"];

fn schema(version: Microversion) -> Arc<Schema> {
    static COMPILED: LazyLock<Mutex<HashMap<usize, Arc<Schema>>>> = LazyLock::new(Mutex::default);
    let known: Vec<&str> = EVENTS
        .iter()
        .filter(|(from, _)| version >= Microversion(2, *from))
        .map(|(_, name)| *name)
        .collect();
    let mut compiled = COMPILED.lock();
    let schema = compiled.entry(known.len()).or_insert_with(|| {
        let event = json!({
            "type": "object",
            "properties": {
                "name": { "type": "string", "enum": known },
                "server_uuid": { "type": "string", "format": "uuid" },
                "status": { "type": "string", "enum": ["failed", "completed", "in-progress"] },
                "tag": { "type": "string", "maxLength": 255 },
            },
            "required": ["name", "server_uuid"],
            "additionalProperties": false,
        });
        Arc::new(Schema::new(
            Form::Nova,
            json!({
                "type": "object",
                "properties": { "events": { "type": "array", "minItems": 1, "items": event } },
                "required": ["events"],
                "additionalProperties": false,
            }),
        ))
    });
    Arc::clone(schema)
}

/// `POST /os-server-external-events`.
pub async fn events(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Json(mut body): Json<Value>,
) -> Result<Response, Failure> {
    schema(version).check(&body)?;
    caller.enforce("os_compute_api:os-server-external-events:create", &[])?;
    let mut is_all = true;
    for event in body["events"].as_array_mut().into_iter().flatten() {
        let server = event["server_uuid"].as_str();
        let server = server.and_then(|id| api.store.cache::<Server>().by_name(id));
        let needs_tag = event["name"].as_str().is_some_and(|name| TAGGED.contains(&name));
        let code = match &server {
            None => 404,
            Some(_) if needs_tag && event["tag"].is_null() => 400,
            Some(server) if server.status.host.is_none() => 422,
            Some(server) => {
                take(&api, &caller, server, event).await?;
                200
            }
        };
        is_all &= code == 200;
        event["status"] = json!(if code == 200 { "completed" } else { "failed" });
        event["code"] = json!(code);
    }
    let status = if is_all {
        StatusCode::OK
    } else {
        StatusCode::MULTI_STATUS
    };
    Ok(json(status, &body))
}

/// What an event changes. Ports and volumes are watched in the store: to hear of them again changes nothing.
async fn take(api: &ComputeApi, caller: &Caller, server: &Resource<Server>, event: &Value) -> Result<(), Failure> {
    if event["name"] != "power-update" {
        return Ok(());
    }
    let (power, action) = match event["tag"].as_str() {
        Some("POWER_ON") => (Power::On, "start"),
        Some("POWER_OFF") => (Power::Off, "stop"),
        _ => return Ok(()),
    };
    let (key, cause) = (server.key(), caller.cause());
    let changed = api.store.modify::<Server, StoreError>(&key, cause.clone(), |server| {
        let is_settled = matches!(server.status.phase, crate::Phase::Active | crate::Phase::Stopped);
        if is_settled && state::of(server).task_state.is_none() && server.spec.power != power {
            server.spec.power = power;
            server.status.action = Some(Doing::new(action, &cause));
        }
        Ok(())
    });
    match changed.await {
        Ok(_) | Err(StoreError::NotFound { .. }) => Ok(()),
        Err(error) => Err(failure(error)),
    }
}

static SNAPSHOT: LazyLock<Schema> = LazyLock::new(|| {
    let text = json!({ "type": "string", "minLength": 1 });
    let create_info = json!({
        "type": "object",
        "properties": {
            "snapshot_id": text, "type": { "type": "string", "enum": ["qcow2"] }, "new_file": text, "id": text,
        },
        "required": ["snapshot_id", "type", "new_file"],
        "additionalProperties": false,
    });
    Schema::new(
        Form::Nova,
        json!({
            "type": "object",
            "properties": { "snapshot": {
                "type": "object",
                "properties": { "volume_id": text, "create_info": create_info },
                "required": ["volume_id", "create_info"],
                "additionalProperties": false,
            } },
            "required": ["snapshot"],
            "additionalProperties": false,
        }),
    )
});

/// `POST /os-assisted-volume-snapshots`: what a host would do for a back end that cannot make its snapshots by itself. No
/// host here does it, and the snapshot says so, as it does in the original where a host cannot.
pub async fn create_snapshot(
    State(api): State<ComputeApi>,
    caller: Caller,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    SNAPSHOT.check(&body)?;
    caller.enforce("os_compute_api:os-assisted-volume-snapshots:create", &[])?;
    let (volume, info) = (&body["snapshot"]["volume_id"], &body["snapshot"]["create_info"]);
    require_attached(&api.store, volume.as_str().unwrap_or_default())?;
    refuse_snapshot(&api.store, &caller, info["snapshot_id"].as_str().unwrap_or_default()).await?;
    let shown = json!({ "snapshot": { "id": info["id"], "volumeId": volume } });
    Ok(json(StatusCode::OK, &shown))
}

fn require_attached(store: &Store, volume: &str) -> Result<(), Failure> {
    let attachments = store.cache::<Attachment>().by("volume", volume);
    if attachments.iter().any(|attachment| attachment.spec.device.is_some()) {
        return Ok(());
    }
    let message = format!("No volume Block Device Mapping with volume_id {volume}.");
    Err(Failure::invalid(message))
}

/// Ends a snapshot that waits for a host in error.
async fn refuse_snapshot(store: &Store, caller: &Caller, id: &str) -> Result<(), Failure> {
    let Some(snapshot) = store.cache::<Snapshot>().by_name(id) else {
        return Ok(());
    };
    let key = snapshot.key();
    let refused = store.modify::<Snapshot, StoreError>(&key, caller.cause(), |snapshot| {
        if snapshot.status.state == SnapshotState::Creating {
            snapshot.status.state = SnapshotState::Error;
            snapshot.status.fault = Some("no host makes snapshots for a back end".to_owned());
        }
        Ok(())
    });
    match refused.await {
        Ok(_) | Err(StoreError::NotFound { .. }) => Ok(()),
        Err(error) => Err(failure(error)),
    }
}

/// `DELETE /os-assisted-volume-snapshots/{id}`.
pub async fn delete_snapshot(
    State(api): State<ComputeApi>,
    caller: Caller,
    Path(_): Path<String>,
    query: Query,
) -> Result<Response, Failure> {
    caller.enforce("os_compute_api:os-assisted-volume-snapshots:delete", &[])?;
    let info = query.get("delete_info").unwrap_or_default();
    let info: Value =
        serde_json::from_str(info).map_err(|error| Failure::invalid(error.to_string()).at("delete_info"))?;
    let volume = info["volume_id"]
        .as_str()
        .ok_or_else(|| Failure::invalid("'volume_id'").at("delete_info"))?;
    require_attached(&api.store, volume)?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
