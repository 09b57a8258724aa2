//! The projects that an image is shared with.

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    response::Response,
};
use http::StatusCode;
use madang_http::{Failure, Json, json};
use madang_identity::Caller;
use serde_json::{Value, json as object};

use super::{
    super::{MemberStatus, rules},
    view::member_view,
};
use crate::library::Library;

pub(crate) async fn list(
    State(library): State<Arc<Library>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let members = rules::members(&library, &caller, &id)?;
    let members: Vec<_> = members.iter().map(|member| member_view(&id, member)).collect();
    Ok(json(
        StatusCode::OK,
        &object!({ "members": members, "schema": "/v2/schemas/members" }),
    ))
}

pub(crate) async fn add(
    State(library): State<Arc<Library>>,
    caller: Caller,
    Path(id): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    let project = body["member"].as_str().filter(|project| !project.is_empty());
    let project = project.ok_or_else(|| Failure::invalid("Member to be added not specified").at("member"))?;
    if project.chars().count() > 255 {
        return Err(Failure::invalid(format!("the member {project} is longer than 255 characters")).at("member"));
    }
    let member = rules::add_member(&library, &caller, &id, project).await?;
    Ok(json(StatusCode::OK, &member_view(&id, &member)))
}

pub(crate) async fn show(
    State(library): State<Arc<Library>>,
    caller: Caller,
    Path((id, project)): Path<(String, String)>,
) -> Result<Response, Failure> {
    let member = rules::member(&library, &caller, &id, &project)?;
    Ok(json(StatusCode::OK, &member_view(&id, &member)))
}

pub(crate) async fn answer(
    State(library): State<Arc<Library>>,
    caller: Caller,
    Path((id, project)): Path<(String, String)>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    let status = body["status"]
        .as_str()
        .ok_or_else(|| Failure::invalid("Status not specified").at("status"))?;
    let status: MemberStatus = status.parse().map_err(|_| {
        let words = MemberStatus::ALL
            .iter()
            .map(|word| format!("\"{word}\""))
            .collect::<Vec<_>>()
            .join(", ");
        Failure::invalid(format!("Status must be {words}.")).at("status")
    })?;
    let member = rules::answer_membership(&library, &caller, &id, &project, status).await?;
    Ok(json(StatusCode::OK, &member_view(&id, &member)))
}

pub(crate) async fn remove(
    State(library): State<Arc<Library>>,
    caller: Caller,
    Path((id, project)): Path<(String, String)>,
) -> Result<StatusCode, Failure> {
    rules::remove_member(&library, &caller, &id, &project)
        .await
        .map(|()| StatusCode::NO_CONTENT)
}
