//! `/group_snapshots`: parse, write, render.

use std::sync::{Arc, LazyLock};

use axum::{
    extract::{Path, State},
    response::Response,
};
use http::StatusCode;
use madang_http::{Failure, Form, Json, Microversion, Query, RequestInfo, Schema, SortValue, json};
use madang_identity::Caller;
use madang_store::{Metadata, Resource};
use serde_json::{Value, json};

use super::{GroupSnapshot, GroupSnapshotSpec, state};
use crate::{
    api::{BlockApi, accepted, enforce, listing, member, micros, since, text},
    group::{
        self, GroupState,
        api::{group_for, said_state},
    },
    snapshot::{Snapshot, SnapshotSpec},
    volume::{
        Volume, VolumeState,
        api::{actions::only_member, filter::check_names, name_schema},
        verbs::{Refusal, invalid_state},
    },
};

/// The version with which group snapshots came.
const SINCE: u16 = 14;

static CREATE: LazyLock<Schema> = LazyLock::new(|| {
    let properties = json!({
        "name": name_schema(),
        "description": { "type": ["string", "null"], "maxLength": 255 },
        "group_id": { "type": "string", "format": "uuid" },
    });
    let body = json!({
        "type": "object",
        "properties": { "group_snapshot": {
            "type": "object", "properties": properties, "required": ["group_id"], "additionalProperties": false,
        } },
        "required": ["group_snapshot"],
        "additionalProperties": false,
    });
    Schema::new(Form::Nova, body)
});

fn invalid(message: impl std::fmt::Display) -> Failure {
    Failure::invalid(format!("Invalid GroupSnapshot: {message}"))
}

/// The group snapshot, if the caller may know of it and do `rule` to it.
pub(crate) fn group_snapshot_for(
    api: &BlockApi,
    caller: &Caller,
    id: &str,
    rule: &str,
) -> Result<Arc<Resource<GroupSnapshot>>, Failure> {
    let found = api.store.cache::<GroupSnapshot>().by_name(id);
    let found = found.filter(|one| caller.can_see(one.project()));
    let found = found.ok_or_else(|| Failure::not_found(format!("GroupSnapshot {id} could not be found.")))?;
    enforce(caller, rule, found.project())?;
    Ok(found)
}

fn brief(one: &Resource<GroupSnapshot>) -> Value {
    json!({ "id": one.name(), "name": one.spec.name })
}

fn full(api: &BlockApi, caller: &Caller, one: &Resource<GroupSnapshot>, version: Microversion) -> Value {
    let spec = &one.spec;
    let mut shown = json!({
        "id": one.name(),
        "name": spec.name,
        "group_id": spec.group,
        "group_type_id": spec.group_type,
        "status": state(&api.store, one).as_str(),
        "created_at": micros(one.metadata.created),
        "description": spec.description,
    });
    let target = [("project_id", one.project())];
    if version >= Microversion(3, 58) && caller.allows("group:group_snapshot_project_attribute", &target) {
        shown["project_id"] = json!(one.project());
    }
    shown
}

/// `GET /group_snapshots`.
pub async fn list(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    query: Query,
    info: RequestInfo,
) -> Result<Response, Failure> {
    listed(&api, &caller, version, &query, &info, brief)
}

/// `GET /group_snapshots/detail`.
pub async fn detail(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    query: Query,
    info: RequestInfo,
) -> Result<Response, Failure> {
    listed(&api, &caller, version, &query, &info, |one| {
        full(&api, &caller, one, version)
    })
}

fn listed(
    api: &BlockApi,
    caller: &Caller,
    version: Microversion,
    query: &Query,
    info: &RequestInfo,
    view: impl Fn(&Resource<GroupSnapshot>) -> Value,
) -> Result<Response, Failure> {
    since(version, SINCE)?;
    enforce(caller, "group:get_all_group_snapshots", caller.project()?)?;
    check_names(caller, version, query, &["name", "status", "group_id"], &[])?;
    let mut found = listing::visible(api.store.cache::<GroupSnapshot>(), caller, query);
    found.retain(|one| {
        query.iter().all(|(name, said)| match name {
            "name" => one.spec.name.as_deref() == Some(said),
            "name~" => one.spec.name.as_deref().is_some_and(|name| name.contains(said)),
            "status" => state(&api.store, one).as_str() == said,
            "group_id" => one.spec.group == said,
            _ => true,
        })
    });
    let keys = ["id", "name", "created_at", "group_id"];
    let page = listing::page(found, query, &keys, |one, key| match key {
        "id" => one.name().into(),
        "name" => one.spec.name.as_deref().into(),
        "group_id" => one.spec.group.as_str().into(),
        _ => SortValue::from(one.metadata.created),
    })?;
    let shown = page.0.items.iter().map(|one| view(one));
    listing::answer("group_snapshots", shown.collect(), &page, (info, query, version))
}

/// `GET /group_snapshots/{id}`.
pub async fn show(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    since(version, SINCE)?;
    let found = group_snapshot_for(&api, &caller, &id, "group:get_group_snapshot")?;
    let shown = full(&api, &caller, &found, version);
    Ok(json(StatusCode::OK, &json!({ "group_snapshot": shown })))
}

/// `POST /group_snapshots`: a snapshot of each of a group's volumes, in one transaction.
pub async fn create(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    since(version, SINCE)?;
    CREATE.check(&body)?;
    let body = member(&body, "group_snapshot")?;
    let id = text(body, "group_id").unwrap_or_default();
    let group = group_for(&api, &caller, &id, "group:get")?;
    enforce(&caller, "group:create_group_snapshot", group.project())?;
    let is = group::state(&api.store, &group);
    if !matches!(is, GroupState::Available | GroupState::Error) {
        let message = format!("Invalid group: Group status must be available, but current status is: {is}.");
        return Err(Failure::invalid(message));
    }
    let spec = GroupSnapshotSpec {
        name: text(body, "name"),
        description: text(body, "description"),
        user: caller.subject.user.id.clone(),
        group: id.clone(),
        group_type: group.spec.group_type.clone(),
    };
    let made = api.store.transact::<_, Refusal>(caller.cause(), |tx| {
        let project = group.project();
        let made = tx.create(Resource::<GroupSnapshot>::new(Metadata::with_id(project), spec.clone()))?;
        let volumes = group::volumes(tx.store(), &id);
        if volumes.is_empty() {
            let message = "Source group is empty. No group snapshot will be created.";
            return Err(Failure::invalid(format!("Invalid group: {message}")).into());
        }
        for volume in volumes {
            let state = volume.status.state;
            if !matches!(state, VolumeState::Available | VolumeState::InUse) {
                let message = format!(
                    "Snapshot cannot be created because volume {} is not available, current volume status: {state}.",
                    volume.name()
                );
                return Err(invalid_state(message).into());
            }
            tx.expect::<Volume>(&volume)?;
            let part = SnapshotSpec {
                name: spec.name.clone(),
                description: spec.description.clone(),
                volume: volume.name().to_owned(),
                size_gib: volume.spec.size_gib,
                volume_type: volume.spec.volume_type.clone(),
                user: spec.user.clone(),
                group_snapshot: Some(made.name().to_owned()),
                ..SnapshotSpec::default()
            };
            tx.create(Resource::<Snapshot>::new(Metadata::with_id(project), part))?;
        }
        Ok(made)
    });
    let made = made.await.map_err(|Refusal(failure)| failure)?;
    let mut shown = brief(&made);
    shown["group_type_id"] = json!(made.spec.group_type);
    Ok(json(StatusCode::ACCEPTED, &json!({ "group_snapshot": shown })))
}

/// `DELETE /group_snapshots/{id}`: with its parts.
pub async fn delete(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    since(version, SINCE)?;
    let found = group_snapshot_for(&api, &caller, &id, "group:delete_group_snapshot")?;
    let key = found.key();
    let deleted = api.store.transact::<(), Refusal>(caller.cause(), |tx| {
        let Some(found) = tx.get::<GroupSnapshot>(&key) else {
            return Ok(());
        };
        let is = state(tx.store(), &found);
        if !matches!(is, GroupState::Available | GroupState::Error | GroupState::ErrorDeleting) {
            let message = format!("GroupSnapshot status must be available or error, and no Group can be currently using it as source for its creation. It is {is}.");
            return Err(invalid(message).into());
        }
        for part in tx.store().cache::<Snapshot>().by("group_snapshot", &key.name) {
            tx.delete(&part)?;
        }
        Ok(tx.delete(&found)?)
    });
    deleted.await.map_err(|Refusal(failure)| failure)?;
    Ok(accepted())
}

/// `POST /group_snapshots/{id}/action`: `reset_status`.
pub async fn act(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    since(version, 19)?;
    let (name, said) = only_member(&body)?;
    if name != "reset_status" {
        return Err(Failure::invalid(format!("There is no such action: {name}")));
    }
    let found = group_snapshot_for(&api, &caller, &id, "group:reset_group_snapshot_status")?;
    let said = said_state(said)?;
    let key = found.key();
    let reset = api.store.modify::<GroupSnapshot, Refusal>(&key, caller.cause(), |one| {
        one.status.said = Some(said);
        Ok(())
    });
    reset.await.map_err(|Refusal(failure)| failure)?;
    Ok(accepted())
}
