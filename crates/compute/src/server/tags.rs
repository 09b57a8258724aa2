//! `/servers/{id}/tags`, since 2.26.

use std::{collections::BTreeSet, sync::LazyLock};

use axum::{
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use http::StatusCode;
use madang_http::{Failure, Form, Json, Microversion, RequestInfo, Schema, json};
use madang_identity::Caller;
use serde_json::{Value, json};

use super::{
    api::{find_for, located},
    verbs,
};
use crate::api::ComputeApi;

/// Nova's limit of tags a server.
const MAX: usize = 50;

static TAGS: LazyLock<Schema> = LazyLock::new(|| {
    let tag = json!({ "type": "string", "minLength": 1, "maxLength": 60, "pattern": "^[^,/]*$" });
    let body = json!({
        "type": "object",
        "properties": { "tags": { "type": "array", "items": tag, "maxItems": MAX } },
        "required": ["tags"],
        "additionalProperties": false,
    });
    Schema::new(Form::Nova, body)
});

fn need_version(version: Microversion) -> Result<(), Failure> {
    if version >= Microversion(2, 26) {
        Ok(())
    } else {
        Err(Failure::not_found("The resource could not be found."))
    }
}

/// `GET /servers/{id}/tags`.
pub async fn list(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    need_version(version)?;
    let server = find_for(&api, &caller, &id, "os_compute_api:os-server-tags:index")?;
    Ok(json(StatusCode::OK, &json!({ "tags": server.spec.tags })))
}

/// `PUT /servers/{id}/tags`: these tags and no others.
pub async fn replace(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    need_version(version)?;
    TAGS.check(&body)?;
    let tags: BTreeSet<String> = body["tags"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    let server = find_for(&api, &caller, &id, "os_compute_api:os-server-tags:update_all")?;
    let server = verbs::edit(&api.store, &caller, &server, |server| {
        server.spec.tags.clone_from(&tags);
        Ok(())
    });
    Ok(json(StatusCode::OK, &json!({ "tags": server.await?.spec.tags })))
}

/// `DELETE /servers/{id}/tags`.
pub async fn clear(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    need_version(version)?;
    let server = find_for(&api, &caller, &id, "os_compute_api:os-server-tags:delete_all")?;
    let cleared = verbs::edit(&api.store, &caller, &server, |server| {
        server.spec.tags.clear();
        Ok(())
    });
    cleared.await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `GET /servers/{id}/tags/{tag}`: 204 when it is there.
pub async fn show(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path((id, tag)): Path<(String, String)>,
) -> Result<Response, Failure> {
    need_version(version)?;
    let server = find_for(&api, &caller, &id, "os_compute_api:os-server-tags:show")?;
    if server.spec.tags.contains(&tag) {
        Ok(StatusCode::NO_CONTENT.into_response())
    } else {
        Err(no_tag(&id, &tag))
    }
}

/// `PUT /servers/{id}/tags/{tag}`: 201 when it is new, 204 when it was there.
pub async fn add(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path((id, tag)): Path<(String, String)>,
    info: RequestInfo,
) -> Result<Response, Failure> {
    need_version(version)?;
    TAGS.check(&json!({ "tags": [tag] }))?;
    let server = find_for(&api, &caller, &id, "os_compute_api:os-server-tags:update")?;
    if server.spec.tags.contains(&tag) {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let added = verbs::edit(&api.store, &caller, &server, |server| {
        server.spec.tags.insert(tag.clone());
        if server.spec.tags.len() > MAX {
            return Err(Failure::invalid(format!(
                "The number of tags exceeded the per-server limit {MAX}"
            )));
        }
        Ok(())
    });
    added.await?;
    Ok(located(StatusCode::CREATED.into_response(), &info.url()))
}

/// `DELETE /servers/{id}/tags/{tag}`.
pub async fn remove(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path((id, tag)): Path<(String, String)>,
) -> Result<Response, Failure> {
    need_version(version)?;
    let server = find_for(&api, &caller, &id, "os_compute_api:os-server-tags:delete")?;
    let removed = verbs::edit(&api.store, &caller, &server, |server| {
        if server.spec.tags.remove(&tag) {
            Ok(())
        } else {
            Err(no_tag(&id, &tag))
        }
    });
    removed.await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn no_tag(id: &str, tag: &str) -> Failure {
    Failure::not_found(format!("Server {id} has no tag '{tag}'"))
}
