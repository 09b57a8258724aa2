//! `/groups`: parse, call a verb, render.

use std::{
    collections::BTreeSet,
    sync::{Arc, LazyLock},
};

use axum::{
    extract::{Path, State},
    response::Response,
};
use http::StatusCode;
use madang_http::{Failure, Form, Json, Microversion, Query, RequestInfo, Schema, SortValue, json, parse_bool};
use madang_identity::Caller;
use madang_store::Resource;
use serde_json::{Map, Value, json};

use super::{
    Group, GroupSpec, GroupState, state,
    verbs::{self, Change, From, invalid},
};
use crate::{
    api::{BlockApi, ZONE, accepted, enforce, flag, listing, member, micros, since, text},
    group_snapshot::api::group_snapshot_for,
    group_type,
    volume::{
        api::{actions::only_member, filter::check_names, name_schema, open_type},
        verbs::Refusal,
    },
    volume_type,
};

/// The version with which groups came.
const SINCE: u16 = 13;

static CREATE: LazyLock<Schema> = LazyLock::new(|| {
    let properties = json!({
        "name": name_schema(),
        "description": { "type": ["string", "null"], "maxLength": 255 },
        "group_type": { "type": "string", "minLength": 1, "maxLength": 255 },
        "volume_types": {
            "type": "array", "minItems": 1, "uniqueItems": true,
            "items": { "type": "string", "minLength": 1, "maxLength": 255 },
        },
        "availability_zone": { "type": ["string", "null"], "minLength": 1, "maxLength": 255 },
    });
    let body = json!({
        "type": "object",
        "properties": { "group": {
            "type": "object", "properties": properties, "required": ["group_type", "volume_types"],
            "additionalProperties": false,
        } },
        "required": ["group"],
        "additionalProperties": false,
    });
    Schema::new(Form::Nova, body)
});

static UPDATE: LazyLock<Schema> = LazyLock::new(|| {
    let text = json!({ "type": ["string", "null"] });
    let properties = json!({
        "name": name_schema(),
        "description": { "type": ["string", "null"], "maxLength": 255 },
        "add_volumes": text, "remove_volumes": text,
    });
    let body = json!({
        "type": "object",
        "properties": { "group": { "type": "object", "properties": properties, "additionalProperties": false } },
        "required": ["group"],
        "additionalProperties": false,
    });
    Schema::new(Form::Nova, body)
});

/// The group, if the caller may know of it and do `rule` to it.
pub(crate) fn group_for(
    api: &BlockApi,
    caller: &Caller,
    id: &str,
    rule: &str,
) -> Result<Arc<Resource<Group>>, Failure> {
    let found = api.store.cache::<Group>().by_name(id);
    let found = found.filter(|group| caller.can_see(group.project()));
    let found = found.ok_or_else(|| Failure::not_found(format!("Group {id} could not be found.")))?;
    enforce(caller, rule, found.project())?;
    Ok(found)
}

fn brief(group: &Resource<Group>) -> Value {
    json!({ "id": group.name(), "name": group.spec.name })
}

fn full(api: &BlockApi, caller: &Caller, group: &Resource<Group>, version: Microversion, query: &Query) -> Value {
    let spec = &group.spec;
    let mut shown = json!({
        "id": group.name(),
        "name": spec.name,
        "status": state(&api.store, group).as_str(),
        "availability_zone": spec.availability_zone,
        "created_at": micros(group.metadata.created),
        "description": spec.description,
        "group_type": spec.group_type,
        "volume_types": spec.volume_types,
    });
    if version >= Microversion(3, 14) {
        shown["group_snapshot_id"] = json!(spec.group_snapshot);
        shown["source_group_id"] = json!(spec.source_group);
    }
    if version >= Microversion(3, 25) && query.get("list_volume").and_then(parse_bool) == Some(true) {
        let volumes = super::volumes(&api.store, group.name());
        let ids: Vec<&str> = volumes.iter().map(|volume| volume.name()).collect();
        shown["volumes"] = json!(ids);
    }
    if version >= Microversion(3, 38) {
        shown["replication_status"] = json!("disabled");
    }
    let target = [("project_id", group.project())];
    if version >= Microversion(3, 58) && caller.allows("group:group_project_attribute", &target) {
        shown["project_id"] = json!(group.project());
    }
    shown
}

/// `GET /groups`.
pub async fn list(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    query: Query,
    info: RequestInfo,
) -> Result<Response, Failure> {
    listed(&api, &caller, version, &query, &info, brief)
}

/// `GET /groups/detail`.
pub async fn detail(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    query: Query,
    info: RequestInfo,
) -> Result<Response, Failure> {
    listed(&api, &caller, version, &query, &info, |group| {
        full(&api, &caller, group, version, &query)
    })
}

fn listed(
    api: &BlockApi,
    caller: &Caller,
    version: Microversion,
    query: &Query,
    info: &RequestInfo,
    view: impl Fn(&Resource<Group>) -> Value,
) -> Result<Response, Failure> {
    since(version, SINCE)?;
    enforce(caller, "group:get_all", caller.project()?)?;
    check_names(caller, version, query, &["name", "list_volume"], &[])?;
    let mut groups = listing::visible(api.store.cache::<Group>(), caller, query);
    groups.retain(|group| {
        query.iter().all(|(name, said)| match name {
            "name" => group.spec.name.as_deref() == Some(said),
            "name~" => group.spec.name.as_deref().is_some_and(|name| name.contains(said)),
            "status" => state(&api.store, group).as_str() == said,
            "group_type" => group.spec.group_type == said,
            _ => true,
        })
    });
    let keys = ["id", "name", "created_at", "group_type"];
    let page = listing::page(groups, query, &keys, |group, key| match key {
        "id" => group.name().into(),
        "name" => group.spec.name.as_deref().into(),
        "group_type" => group.spec.group_type.as_str().into(),
        _ => SortValue::from(group.metadata.created),
    })?;
    let shown = page.0.items.iter().map(|group| view(group));
    listing::answer("groups", shown.collect(), &page, (info, query, version))
}

/// `GET /groups/{id}`.
pub async fn show(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
    query: Query,
) -> Result<Response, Failure> {
    since(version, SINCE)?;
    let found = group_for(&api, &caller, &id, "group:get")?;
    let shown = full(&api, &caller, &found, version, &query);
    Ok(json(StatusCode::OK, &json!({ "group": shown })))
}

/// `POST /groups`.
pub async fn create(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    since(version, SINCE)?;
    CREATE.check(&body)?;
    let project = caller.project()?;
    enforce(&caller, "group:create", project)?;
    let body = member(&body, "group")?;
    let name = text(body, "group_type").unwrap_or_default();
    let of_type = group_type::find(&api.store, &name).filter(|found| found.spec.is_public || caller.is_admin());
    let of_type = of_type.ok_or_else(|| Failure::not_found(format!("Group type {name} could not be found.")))?;
    let types = body.get("volume_types").and_then(Value::as_array).into_iter().flatten();
    let types = types.filter_map(Value::as_str).map(|name| {
        let found = open_type(&api.store, &caller, project, name)?;
        Ok(found.name().to_owned())
    });
    let zone = text(body, "availability_zone").unwrap_or_else(|| ZONE.to_owned());
    if zone != ZONE {
        let message = format!("Invalid input received: Availability zone '{zone}' is invalid.");
        return Err(Failure::invalid(message).at("availability_zone"));
    }
    let spec = GroupSpec {
        name: text(body, "name"),
        description: text(body, "description"),
        user: caller.subject.user.id.clone(),
        group_type: of_type.name().to_owned(),
        volume_types: types.collect::<Result<BTreeSet<_>, Failure>>()?,
        availability_zone: zone,
        ..GroupSpec::default()
    };
    let made = verbs::create(&api.store, &caller, spec).await?;
    Ok(json(StatusCode::ACCEPTED, &json!({ "group": brief(&made) })))
}

/// `POST /groups/action`: `create-from-src`.
pub async fn create_from(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    since(version, 14)?;
    let (name, said) = only_member(&body)?;
    if name != "create-from-src" {
        return Err(Failure::invalid(format!("There is no such action: {name}")));
    }
    let none = Map::new();
    let said = said.as_object().unwrap_or(&none);
    enforce(&caller, "group:create", caller.project()?)?;
    let (name, description) = (text(said, "name"), text(said, "description"));
    let made = match (text(said, "group_snapshot_id"), text(said, "source_group_id")) {
        (Some(id), None) => {
            let snapshot = group_snapshot_for(&api, &caller, &id, "group:get_group_snapshot")?;
            let group = group_for(&api, &caller, &snapshot.spec.group, "group:get")?;
            let from = From::Snapshot(&snapshot, &group);
            verbs::create_from(&api.store, &caller, name, description, from).await?
        }
        (None, Some(id)) => {
            let group = group_for(&api, &caller, &id, "group:get")?;
            verbs::create_from(&api.store, &caller, name, description, From::Group(&group)).await?
        }
        _ => {
            let message = "Invalid input for field/attribute create-from-src. Either 'source_group_id' or \
                           'group_snapshot_id' must be provided to create group from source, and not both.";
            return Err(Failure::invalid(message));
        }
    };
    Ok(json(StatusCode::ACCEPTED, &json!({ "group": brief(&made) })))
}

/// `PUT /groups/{id}`.
pub async fn update(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    since(version, SINCE)?;
    UPDATE.check(&body)?;
    let body = member(&body, "group")?;
    let ids = |name: &str| -> Vec<String> {
        let said = text(body, name).unwrap_or_default();
        said.split(',')
            .map(str::trim)
            .filter(|id| !id.is_empty())
            .map(str::to_owned)
            .collect()
    };
    let change = Change {
        name: text(body, "name"),
        description: text(body, "description"),
        add: ids("add_volumes"),
        remove: ids("remove_volumes"),
    };
    let found = group_for(&api, &caller, &id, "group:update")?;
    if change.name.is_none() && change.description.is_none() && change.add.is_empty() && change.remove.is_empty() {
        let message = format!(
            "Cannot update group {id} because no valid name, description, add_volumes, or remove_volumes were provided."
        );
        return Err(invalid(message));
    }
    if let Some(both) = change.add.iter().find(|id| change.remove.contains(id)) {
        return Err(invalid(format!(
            "Volume {both} is in both the add volumes and remove volumes list."
        )));
    }
    verbs::update(&api.store, &caller, &found, &change).await?;
    Ok(accepted())
}

/// `POST /groups/{id}/action`.
pub async fn act(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    since(version, SINCE)?;
    let (name, said) = only_member(&body)?;
    match name {
        "delete" => {
            let none = Map::new();
            let with_volumes = flag(said.as_object().unwrap_or(&none), "delete-volumes", false)?;
            let found = group_for(&api, &caller, &id, "group:delete")?;
            verbs::delete(&api.store, &caller, &found, with_volumes).await?;
        }
        "reset_status" => {
            since(version, 20)?;
            let found = group_for(&api, &caller, &id, "group:reset_status")?;
            let said = said_state(said)?;
            let key = found.key();
            let reset = api.store.modify::<Group, Refusal>(&key, caller.cause(), |group| {
                group.status.said = Some(said);
                Ok(())
            });
            reset.await.map_err(|Refusal(failure)| failure)?;
        }
        "enable_replication" | "disable_replication" | "failover_replication" | "list_replication_targets" => {
            since(version, 38)?;
            group_for(&api, &caller, &id, &format!("group:{name}"))?;
            let message = "Invalid group type: this cloud does not replicate groups";
            return Err(Failure::invalid(message));
        }
        other => return Err(Failure::invalid(format!("There is no such action: {other}"))),
    }
    Ok(accepted())
}

/// The state that an admin says.
pub(crate) fn said_state(said: &Value) -> Result<GroupState, Failure> {
    let word = said["status"].as_str().unwrap_or_default().to_lowercase();
    let bad = || {
        Failure::invalid(format!(
            "Invalid status: '{word}', valid statuses are available, creating, error …"
        ))
        .at("status")
    };
    GroupState::from_word(&word).ok_or_else(bad)
}

/// The group that a new volume is to be in, which has to know its type.
pub(crate) fn group_of(api: &BlockApi, caller: &Caller, id: &str, of_type: Option<&str>) -> Result<String, Failure> {
    let group = group_for(api, caller, id, "group:get")?;
    let Some(of_type) = of_type else {
        let message = "Invalid input received: volume_type must be provided when creating a volume in a group.";
        return Err(Failure::invalid(message).at("volume_type"));
    };
    if group.spec.volume_types.contains(of_type) {
        return Ok(id.to_owned());
    }
    let name = volume_type::find(&api.store, of_type).map(|found| found.spec.name.clone());
    let message = format!(
        "Invalid input received: Invalid volume_type {} requested. It must be supported by group {id}.",
        name.unwrap_or_default()
    );
    Err(Failure::invalid(message).at("volume_type"))
}
