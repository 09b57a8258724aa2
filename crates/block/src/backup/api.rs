//! `/backups`: parse, call a verb, render.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

use axum::{
    extract::{Path, State},
    response::Response,
};
use http::StatusCode;
use madang_http::{Failure, Form, Json, Microversion, Query, RequestInfo, Schema, SortValue, json};
use madang_identity::Caller;
use madang_store::{Key, Kind as _, Metadata, Resource};
use serde_json::{Map, Value, json};

use super::{
    Backup, BackupSpec, BackupState, record,
    verbs::{self, How},
};
use crate::{
    api::{BlockApi, ZONE, accepted, enforce, flag, links, listing, member, micros, since, text, updated, volume_for},
    volume::{
        VolumeSpec,
        api::{actions::only_member, filter::check_names, metadata_schema, name_schema},
        verbs::Refusal,
    },
};

const FILTERS: &[&str] = &["name", "status", "volume_id"];
const SORT_KEYS: &[&str] = &["id", "name", "status", "size", "volume_id", "created_at", "updated_at"];

fn body(name: &str, properties: Value, required: &[&str], may_be_null: bool) -> Schema {
    let kinds = if may_be_null {
        json!(["object", "null"])
    } else {
        json!("object")
    };
    let mut inner = json!({ "type": kinds, "properties": properties, "additionalProperties": false });
    if !required.is_empty() {
        inner["required"] = json!(required);
    }
    let all = json!({
        "type": "object", "properties": { name: inner }, "required": [name], "additionalProperties": false,
    });
    Schema::new(Form::Nova, all)
}

static CREATE: LazyLock<Schema> = LazyLock::new(|| {
    let text = json!({ "type": ["string", "null"], "minLength": 0, "maxLength": 255 });
    let boolean = json!({ "type": ["boolean", "string", "null"] });
    let properties = json!({
        "volume_id": { "type": "string", "format": "uuid" },
        "container": text, "description": text, "name": name_schema(),
        "incremental": boolean, "force": boolean,
        "snapshot_id": { "oneOf": [{ "type": "string", "format": "uuid" }, { "type": "null" }] },
        "metadata": metadata_schema(),
        "availability_zone": { "type": ["string", "null"], "minLength": 1, "maxLength": 255 },
    });
    body("backup", properties, &["volume_id"], false)
});

static UPDATE: LazyLock<Schema> = LazyLock::new(|| {
    let text = json!({ "type": ["string", "null"], "minLength": 0, "maxLength": 255 });
    let properties = json!({ "name": name_schema(), "description": text, "metadata": metadata_schema() });
    body("backup", properties, &[], true)
});

static RESTORE: LazyLock<Schema> = LazyLock::new(|| {
    let properties = json!({
        "name": name_schema(),
        "volume_id": { "oneOf": [{ "type": "string", "format": "uuid" }, { "type": "null" }] },
    });
    body("restore", properties, &[], true)
});

static IMPORT: LazyLock<Schema> = LazyLock::new(|| {
    let properties = json!({
        "backup_service": { "type": "string", "minLength": 1, "maxLength": 255 },
        "backup_url": { "type": "string", "minLength": 1 },
    });
    body("backup-record", properties, &["backup_service", "backup_url"], false)
});

/// The backup, if the caller may know of it and do `rule` to it.
pub(crate) fn backup_for(
    api: &BlockApi,
    caller: &Caller,
    id: &str,
    rule: &str,
) -> Result<Arc<Resource<Backup>>, Failure> {
    let found = api.store.cache::<Backup>().by_name(id);
    let found = found.filter(|backup| caller.can_see(backup.project()));
    let found = found.ok_or_else(|| Failure::not_found(format!("Backup {id} could not be found.")))?;
    enforce(caller, rule, found.project())?;
    Ok(found)
}

fn brief(backup: &Resource<Backup>, info: &RequestInfo, caller: &Caller) -> Value {
    json!({
        "id": backup.name(),
        "name": backup.spec.name,
        "links": links(info, caller, "backups", backup.name()),
    })
}

fn full(
    api: &BlockApi,
    backup: &Resource<Backup>,
    info: &RequestInfo,
    caller: &Caller,
    version: Microversion,
) -> Value {
    let (spec, status) = (&backup.spec, &backup.status);
    let mut shown = brief(backup, info, caller);
    let has_children = api.store.cache::<Backup>().count_by("parent", backup.name()) > 0;
    let rest = json!({
        "status": status.state.as_str(),
        "size": spec.size_gib,
        "object_count": status.objects,
        "availability_zone": spec.availability_zone.as_deref().unwrap_or(ZONE),
        "container": spec.container,
        "created_at": micros(backup.metadata.created),
        "updated_at": updated(backup),
        "description": spec.description,
        "fail_reason": status.fault,
        "volume_id": spec.volume,
        "is_incremental": spec.parent.is_some(),
        "has_dependent_backups": has_children,
        "snapshot_id": spec.snapshot,
        "data_timestamp": micros(spec.data_timestamp.unwrap_or(backup.metadata.created)),
    });
    let mut put = |name: &str, value: Value| shown[name] = value;
    for (name, value) in rest.as_object().into_iter().flatten() {
        put(name, value.clone());
    }
    let target = [("project_id", backup.project())];
    if version >= Microversion(3, 18) && caller.allows("backup:backup_project_attribute", &target) {
        put("os-backup-project-attr:project_id", json!(backup.project()));
    }
    if version >= Microversion(3, 43) {
        put("metadata", json!(spec.metadata));
    }
    if version >= Microversion(3, 56) {
        put("user_id", json!(spec.user));
    }
    shown
}

/// `GET /backups`.
pub async fn list(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    query: Query,
    info: RequestInfo,
) -> Result<Response, Failure> {
    let page = selected(&api, &caller, version, &query)?;
    let shown = page.0.items.iter().map(|backup| brief(backup, &info, &caller));
    listing::answer("backups", shown.collect(), &page, (&info, &query, version))
}

/// `GET /backups/detail`.
pub async fn detail(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    query: Query,
    info: RequestInfo,
) -> Result<Response, Failure> {
    let page = selected(&api, &caller, version, &query)?;
    let shown = page.0.items.iter();
    let shown = shown.map(|backup| full(&api, backup, &info, &caller, version));
    listing::answer("backups", shown.collect(), &page, (&info, &query, version))
}

type Page = (madang_http::Page<Arc<Resource<Backup>>>, usize);

fn selected(api: &BlockApi, caller: &Caller, version: Microversion, query: &Query) -> Result<Page, Failure> {
    enforce(caller, "backup:get_all", caller.project()?)?;
    check_names(caller, version, query, FILTERS, &[])?;
    if let Some(said) = query
        .get("all_tenants")
        .filter(|said| madang_http::parse_bool(said).is_none())
    {
        let message = format!("all_tenants must be a boolean, got '{said}'.");
        return Err(Failure::invalid(message).at("all_tenants"));
    }
    let mut backups = listing::visible(api.store.cache::<Backup>(), caller, query);
    backups.retain(|backup| {
        query.iter().all(|(name, said)| {
            let spec = &backup.spec;
            match name {
                "name" => spec.name.as_deref().unwrap_or_default() == said,
                "name~" => spec.name.as_deref().unwrap_or_default().contains(said),
                "status" => backup.status.state.as_str() == said,
                "volume_id" => spec.volume == said,
                _ => true,
            }
        })
    });
    listing::page(backups, query, SORT_KEYS, |backup, key| match key {
        "id" => backup.name().into(),
        "name" => backup.spec.name.as_deref().into(),
        "status" => backup.status.state.as_str().into(),
        "size" => i64::from(backup.spec.size_gib).into(),
        "volume_id" => backup.spec.volume.as_str().into(),
        "updated_at" => SortValue::from(backup.metadata.updated),
        _ => backup.metadata.created.into(),
    })
}

/// `GET /backups/{id}`.
pub async fn show(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
    info: RequestInfo,
) -> Result<Response, Failure> {
    let found = backup_for(&api, &caller, &id, "backup:get")?;
    let shown = full(&api, &found, &info, &caller, version);
    Ok(json(StatusCode::OK, &json!({ "backup": shown })))
}

fn words(body: &Map<String, Value>) -> BTreeMap<String, String> {
    let pairs = body.get("metadata").and_then(Value::as_object).into_iter().flatten();
    pairs
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}

/// `POST /backups`.
pub async fn create(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    info: RequestInfo,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    CREATE.check(&body)?;
    let body = member(&body, "backup")?;
    for (name, minor) in [("metadata", 43), ("availability_zone", 51)] {
        if body.contains_key(name) && version < Microversion(3, minor) {
            let message = format!(
                "Invalid input for field/attribute backup. Additional properties are not allowed ('{name}' was unexpected)"
            );
            return Err(Failure::invalid(message).at(name));
        }
    }
    let volume = volume_for(
        &api,
        &caller,
        &text(body, "volume_id").unwrap_or_default(),
        "volume:get",
    )?;
    enforce(&caller, "backup:create", volume.project())?;
    let zone = text(body, "availability_zone");
    if zone.as_ref().is_some_and(|zone| zone != ZONE) {
        let message = "Service cinder-backup could not be found.";
        return Err(Failure::not_found(message).at("availability_zone"));
    }
    let spec = BackupSpec {
        name: text(body, "name"),
        description: text(body, "description"),
        container: text(body, "container"),
        availability_zone: zone,
        snapshot: text(body, "snapshot_id"),
        user: caller.subject.user.id.clone(),
        metadata: words(body),
        ..BackupSpec::default()
    };
    let how = How {
        is_incremental: flag(body, "incremental", false)?,
        is_forced: flag(body, "force", false)?,
    };
    let made = verbs::create(&api.store, &caller, &volume, spec, how).await?;
    let mut shown = brief(&made, &info, &caller);
    if version >= Microversion(3, 43) {
        shown["metadata"] = json!(made.spec.metadata);
    }
    Ok(json(StatusCode::ACCEPTED, &json!({ "backup": shown })))
}

/// `PUT /backups/{id}`.
pub async fn update(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
    info: RequestInfo,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    since(version, 9)?;
    UPDATE.check(&body)?;
    let none = Map::new();
    let said = body["backup"].as_object().unwrap_or(&none);
    if said.is_empty() {
        return Err(Failure::invalid("Missing updates"));
    }
    let found = backup_for(&api, &caller, &id, "backup:update")?;
    let key = found.key();
    let changed = api.store.modify::<Backup, Refusal>(&key, caller.cause(), |backup| {
        if said.contains_key("name") {
            backup.spec.name = text(said, "name");
        }
        if said.contains_key("description") {
            backup.spec.description = text(said, "description");
        }
        if said.contains_key("metadata") && version >= Microversion(3, 43) {
            backup.spec.metadata = words(said);
        }
        Ok(())
    });
    let changed = changed.await.map_err(|Refusal(failure)| failure)?;
    let mut shown = brief(&changed, &info, &caller);
    if version >= Microversion(3, 43) {
        shown["metadata"] = json!(changed.spec.metadata);
    }
    Ok(json(StatusCode::OK, &json!({ "backup": shown })))
}

/// `DELETE /backups/{id}`.
pub async fn delete(State(api): State<BlockApi>, caller: Caller, Path(id): Path<String>) -> Result<Response, Failure> {
    let found = backup_for(&api, &caller, &id, "backup:delete")?;
    verbs::delete(&api.store, &caller, &found, false).await?;
    Ok(accepted())
}

/// `POST /backups/{id}/restore`: over the volume that is named, or as a new one.
pub async fn restore(
    State(api): State<BlockApi>,
    caller: Caller,
    Path(id): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    RESTORE.check(&body)?;
    let none = Map::new();
    let said = body["restore"].as_object().unwrap_or(&none);
    let found = backup_for(&api, &caller, &id, "backup:restore")?;
    let volume = match text(said, "volume_id") {
        Some(onto) => {
            let volume = volume_for(&api, &caller, &onto, "volume:get")?;
            verbs::restore_over(&api.store, &caller, &found, &volume).await?
        }
        None => {
            enforce(&caller, "volume:create", caller.project()?)?;
            let spec = VolumeSpec {
                name: text(said, "name"),
                user: caller.subject.user.id.clone(),
                availability_zone: ZONE.to_owned(),
                ..VolumeSpec::default()
            };
            verbs::restore_new(&api.store, &caller, &found, spec).await?
        }
    };
    let shown = json!({
        "backup_id": found.name(),
        "volume_id": volume.name(),
        "volume_name": volume.spec.name.as_deref().unwrap_or_default(),
    });
    Ok(json(StatusCode::ACCEPTED, &json!({ "restore": shown })))
}

/// `POST /backups/{id}/action`: what admins do.
pub async fn act(
    State(api): State<BlockApi>,
    caller: Caller,
    Path(id): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    let (name, said) = only_member(&body)?;
    let found = backup_for(&api, &caller, &id, "backup:get")?;
    match name {
        "os-force_delete" => {
            enforce(
                &caller,
                "volume_extension:backup_admin_actions:force_delete",
                found.project(),
            )?;
            verbs::delete(&api.store, &caller, &found, true).await?;
        }
        "os-reset_status" => {
            enforce(
                &caller,
                "volume_extension:backup_admin_actions:reset_status",
                found.project(),
            )?;
            let word = said["status"].as_str().unwrap_or_default().to_lowercase();
            let state = match word.as_str() {
                "available" => BackupState::Available,
                "error" => BackupState::Error,
                _ => {
                    let message = format!(
                        "Invalid input for field/attribute status. Value: {word}. '{word}' is not one of ['available', 'error']"
                    );
                    return Err(Failure::invalid(message).at("status"));
                }
            };
            reset(&api, &caller, &found, state).await?;
        }
        other => return Err(Failure::invalid(format!("There is no such action: {other}"))),
    }
    Ok(accepted())
}

async fn reset(api: &BlockApi, caller: &Caller, backup: &Resource<Backup>, state: BackupState) -> Result<(), Failure> {
    let key = backup.key();
    let reset = api.store.transact::<(), Refusal>(caller.cause(), |tx| {
        let Some(backup) = tx.get::<Backup>(&key) else {
            return Ok(());
        };
        if backup.status.state == BackupState::Creating {
            if state == BackupState::Available {
                return Err(verbs::invalid("it is not whole yet").into());
            }
            verbs::free_source(tx, &backup)?;
        }
        let mut new = (*backup).clone();
        new.status.state = state;
        new.status.layer = None;
        tx.update(&backup, new)?;
        Ok(())
    });
    reset.await.map_err(|Refusal(failure)| failure)
}

/// `GET /backups/{id}/export_record`.
pub async fn export(State(api): State<BlockApi>, caller: Caller, Path(id): Path<String>) -> Result<Response, Failure> {
    let found = backup_for(&api, &caller, &id, "backup:export-import")?;
    if found.status.state != BackupState::Available {
        let message = format!("Backup status must be available and not {}.", found.status.state);
        return Err(verbs::invalid(message));
    }
    let shown = json!({ "backup_service": record::SERVICE, "backup_url": record::write(&found) });
    Ok(json(StatusCode::OK, &json!({ "backup-record": shown })))
}

/// `POST /backups/import_record`.
pub async fn import(
    State(api): State<BlockApi>,
    caller: Caller,
    info: RequestInfo,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    caller.enforce_in("backup:backup-import", caller.project()?)?;
    IMPORT.check(&body)?;
    let body = member(&body, "backup-record")?;
    let service = text(body, "backup_service").unwrap_or_default();
    if service != record::SERVICE {
        let message = format!("Service {service} could not be found.");
        return Err(Failure::not_found(message).at("backup_service"));
    }
    let (id, spec, objects) = record::read(&text(body, "backup_url").unwrap_or_default(), &caller.subject.user.id)?;
    let exists = || verbs::invalid("Backup already exists in database.");
    if api.store.cache::<Backup>().by_name(&id.to_string()).is_some() {
        return Err(exists());
    }
    if let Some(parent) = &spec.parent
        && api.store.cache::<Backup>().by_name(parent).is_none()
    {
        return Err(verbs::invalid(format!("import its parent {parent} first")));
    }
    // Whether the bytes are there is found out before anybody relies on them.
    crate::vault::Manifest::load(&*api.vault, &spec.data)
        .await
        .map_err(verbs::invalid)?;
    let project = caller.project()?;
    let made = api.store.transact::<_, Refusal>(caller.cause(), |tx| {
        let key = Key::new(Backup::NAME, project, "", id.to_string());
        if tx.get::<Backup>(&key).is_some() {
            return Err(exists().into());
        }
        let mut new = Resource::<Backup>::new(Metadata::with_uid(id, project, id.to_string()), spec.clone());
        new.status.state = BackupState::Available;
        new.status.objects = objects;
        Ok(tx.create(new)?)
    });
    let made = made.await.map_err(|Refusal(failure)| failure)?;
    Ok(json(
        StatusCode::CREATED,
        &json!({ "backup": brief(&made, &info, &caller) }),
    ))
}
