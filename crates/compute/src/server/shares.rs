//! `/servers/{id}/shares`, since 2.97: Manila's shares in servers. Hosts here have no file system to pass on to a guest
//! (`COMPUTE_STORAGE_VIRTIO_FS`), so that no server ever has a share, and one that is asked for is refused as Nova refuses
//! it where the server's host lacks that.

use std::sync::LazyLock;

use axum::{
    extract::{Path, State},
    response::Response,
};
use http::StatusCode;
use madang_http::{Failure, Json, Microversion, Schema, json};
use madang_identity::Caller;
use madang_store::Resource;
use serde_json::{Value, json};

use super::{api::find_for, state};
use crate::{
    Phase, Server,
    api::{ComputeApi, input},
};

static ATTACH: LazyLock<Schema> = LazyLock::new(|| {
    let properties = json!({
        "share_id": { "type": "string", "format": "uuid" },
        "tag": { "type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[a-zA-Z0-9-]*$" },
    });
    input::nova(input::wrapped("share", properties, &["share_id"]))
});

/// `GET /servers/{id}/shares`.
pub async fn list(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    input::since(version, 97)?;
    find_for(&api, &caller, &id, "os_compute_api:os-server-shares:index")?;
    Ok(json(StatusCode::OK, &json!({ "shares": [] })))
}

/// `POST /servers/{id}/shares`.
pub async fn attach(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    input::since(version, 97)?;
    ATTACH.check(&body)?;
    let server = find_for(&api, &caller, &id, "os_compute_api:os-server-shares:create")?;
    if server.status.phase != Phase::Stopped {
        return Err(wrong_state(&server, "create share"));
    }
    Err(Failure::conflict(format!(
        "share {} cannot be attached: the host of instance {id} has no file systems to pass on to guests",
        body["share"]["share_id"].as_str().unwrap_or_default()
    )))
}

/// `GET /servers/{id}/shares/{share}`.
pub async fn show(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path((id, share)): Path<(String, String)>,
) -> Result<Response, Failure> {
    input::since(version, 97)?;
    find_for(&api, &caller, &id, "os_compute_api:os-server-shares:show")?;
    Err(missing(&share))
}

/// `DELETE /servers/{id}/shares/{share}`.
pub async fn detach(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path((id, share)): Path<(String, String)>,
) -> Result<Response, Failure> {
    input::since(version, 97)?;
    let server = find_for(&api, &caller, &id, "os_compute_api:os-server-shares:delete")?;
    if !matches!(server.status.phase, Phase::Stopped | Phase::Error) {
        return Err(wrong_state(&server, "delete share"));
    }
    Err(missing(&share))
}

fn missing(share: &str) -> Failure {
    Failure::not_found(format!("Share {share} could not be found."))
}

fn wrong_state(server: &Resource<Server>, verb: &str) -> Failure {
    Failure::conflict(format!(
        "Cannot '{verb}' instance {} while it is in vm_state {}",
        server.name(),
        state::of(server).vm_state
    ))
}
