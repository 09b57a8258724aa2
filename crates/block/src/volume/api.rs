//! `/volumes`: parse, call a verb, render.

pub mod actions;
pub(crate) mod filter;
pub mod metadata;
pub mod view;

use std::sync::{Arc, LazyLock};

use axum::{
    extract::{Path, State},
    response::Response,
};
use http::StatusCode;
use madang_http::{Failure, Form, Json, Microversion, Query, RequestInfo, Schema, SortValue, json};
use madang_identity::Caller;
use madang_image::Image;
use madang_store::{Resource, Store};
use serde_json::{Map, Value, json};

use super::{Source, Volume, VolumeSpec, verbs};
use crate::{
    api::{BlockApi, accepted, enforce, listing, member, since, text, volume_for},
    backup, group,
    snapshot::Snapshot,
    volume_type::{self, VolumeType},
};

/// What lists of volumes can be sorted by.
const SORT_KEYS: &[&str] = &[
    "id",
    "name",
    "display_name",
    "status",
    "size",
    "created_at",
    "updated_at",
    "availability_zone",
    "host",
    "bootable",
    "migration_status",
    "project_id",
    "user_id",
    "volume_type_id",
    "attach_status",
    "group_id",
];

/// A size in a body: a whole number from 1, as a number or as text.
pub(crate) fn size_schema() -> Value {
    json!({ "type": ["integer", "string"], "pattern": "^[0-9]+$", "minimum": 1, "maximum": 0x7fff_ffff, "minLength": 1 })
}

/// The user's own words in a body.
pub(crate) fn metadata_schema() -> Value {
    json!({
        "type": ["object", "null"],
        "patternProperties": { "^[\\s\\S]{1,255}$": { "type": "string", "maxLength": 255 } },
        "additionalProperties": false,
    })
}

pub(crate) fn name_schema() -> Value {
    json!({ "type": ["string", "null"], "maxLength": 255 })
}

fn optional_uuid() -> Value {
    json!({ "oneOf": [{ "type": "null" }, { "type": "string", "format": "uuid" }, { "type": "string", "maxLength": 0 }] })
}

static CREATE: LazyLock<Schema> = LazyLock::new(|| Schema::new(Form::Nova, create_body()));

fn create_body() -> Value {
    let mut size = size_schema();
    size["type"] = json!(["integer", "string", "null"]);
    let longer = json!({ "type": ["string", "null"], "maxLength": 255 });
    let properties = json!({
        "name": name_schema(), "display_name": name_schema(),
        "description": longer, "display_description": longer,
        "volume_type": { "type": ["string", "null"], "maxLength": 255 },
        "metadata": metadata_schema(),
        "snapshot_id": optional_uuid(), "source_volid": optional_uuid(), "consistencygroup_id": optional_uuid(),
        "backup_id": optional_uuid(),
        "size": size,
        "availability_zone": { "type": ["string", "null"], "minLength": 1, "maxLength": 255 },
        "multiattach": { "type": ["boolean", "string", "null"] },
        "image_id": { "type": ["string", "null"], "maxLength": 255 },
        "imageRef": { "type": ["string", "null"], "maxLength": 255 },
        "group_id": { "type": ["string", "null"], "maxLength": 255 },
    });
    json!({
        "type": "object",
        "properties": {
            "volume": { "type": "object", "properties": properties },
            "OS-SCH-HNT:scheduler_hints": { "type": ["object", "null"] },
        },
        "required": ["volume"],
        "additionalProperties": false,
    })
}

static UPDATE: LazyLock<Schema> = LazyLock::new(|| {
    let longer = json!({ "type": ["string", "null"], "maxLength": 255 });
    let properties = json!({
        "name": name_schema(), "display_name": name_schema(), "description": longer, "display_description": longer,
        "metadata": metadata_schema(),
    });
    let body = json!({
        "type": "object",
        "properties": { "volume": { "type": "object", "properties": properties, "additionalProperties": false } },
        "required": ["volume"],
        "additionalProperties": false,
    });
    Schema::new(Form::Nova, body)
});

/// `GET /volumes`.
pub async fn list(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    query: Query,
    info: RequestInfo,
) -> Result<Response, Failure> {
    let page = selected(&api, &caller, version, &query)?;
    let shown = page.0.items.iter().map(|volume| view::brief(volume, &info, &caller));
    listing::answer("volumes", shown.collect(), &page, (&info, &query, version))
}

/// `GET /volumes/detail`.
pub async fn detail(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    query: Query,
    info: RequestInfo,
) -> Result<Response, Failure> {
    let page = selected(&api, &caller, version, &query)?;
    let look = view::Look {
        api: &api,
        caller: &caller,
        version,
        info: &info,
    };
    let shown = page.0.items.iter().map(|volume| Value::Object(look.full(volume)));
    listing::answer("volumes", shown.collect(), &page, (&info, &query, version))
}

type Page = (madang_http::Page<Arc<Resource<Volume>>>, usize);

fn selected(api: &BlockApi, caller: &Caller, version: Microversion, query: &Query) -> Result<Page, Failure> {
    let project = caller.project()?;
    enforce(caller, "volume:get_all", project)?;
    let filter = filter::Filter::read(caller, version, query)?;
    let mut volumes = listing::visible(api.store.cache::<Volume>(), caller, query);
    let mut broken = None;
    volumes.retain(|volume| match filter.matches(&api.store, volume) {
        Ok(fits) => fits,
        Err(failure) => {
            broken.get_or_insert(failure);
            false
        }
    });
    if let Some(failure) = broken {
        return Err(failure);
    }
    listing::page(volumes, query, SORT_KEYS, sort_value)
}

fn sort_value<'a>(volume: &'a Arc<Resource<Volume>>, key: &str) -> SortValue<'a> {
    let (spec, status) = (&volume.spec, &volume.status);
    match key {
        "id" => volume.name().into(),
        "name" | "display_name" => spec.name.as_deref().into(),
        "status" => status.state.as_str().into(),
        "size" => i64::from(spec.size_gib).into(),
        "updated_at" => volume.metadata.updated.into(),
        "availability_zone" => spec.availability_zone.as_str().into(),
        "host" => status.host.as_deref().into(),
        "bootable" => spec.is_bootable.into(),
        "migration_status" => status.migration.as_deref().into(),
        "project_id" => volume.project().into(),
        "user_id" => spec.user.as_str().into(),
        "volume_type_id" => spec.volume_type.as_deref().into(),
        "attach_status" => (!status.attachments.is_empty()).into(),
        "group_id" => spec.group.as_deref().into(),
        _ => volume.metadata.created.into(),
    }
}

/// `GET /volumes/summary`.
pub async fn summary(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    query: Query,
) -> Result<Response, Failure> {
    since(version, 12)?;
    enforce(&caller, "volume:get_all", caller.project()?)?;
    let volumes = listing::visible(api.store.cache::<Volume>(), &caller, &query);
    let size: u64 = volumes.iter().map(|volume| u64::from(volume.spec.size_gib)).sum();
    let mut shown = json!({ "total_count": volumes.len(), "total_size": size });
    if version >= Microversion(3, 36) {
        let mut metadata: std::collections::BTreeMap<&str, std::collections::BTreeSet<&str>> = Default::default();
        for (key, value) in volumes.iter().flat_map(|volume| &volume.spec.metadata) {
            metadata.entry(key).or_default().insert(value);
        }
        shown["metadata"] = json!(metadata);
    }
    Ok(json(StatusCode::OK, &json!({ "volume-summary": shown })))
}

/// `GET /volumes/{id}`.
pub async fn show(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
    info: RequestInfo,
) -> Result<Response, Failure> {
    let volume = volume_for(&api, &caller, &id, "volume:get")?;
    let look = view::Look {
        api: &api,
        caller: &caller,
        version,
        info: &info,
    };
    Ok(json(StatusCode::OK, &json!({ "volume": look.full(&volume) })))
}

/// `POST /volumes`.
pub async fn create(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    info: RequestInfo,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    CREATE.check(&body)?;
    let project = caller.project()?.to_owned();
    enforce(&caller, "volume:create", &project)?;
    let spec = wanted(&api, &caller, &project, version, member(&body, "volume")?)?;
    let volume = match &spec.source {
        Source::Backup(id) => {
            let backup = backup::api::backup_for(&api, &caller, id, "backup:restore")?;
            backup::verbs::restore_new(&api.store, &caller, &backup, spec.clone()).await?
        }
        _ => verbs::create(&api.store, &caller, &project, &spec).await?,
    };
    let look = view::Look {
        api: &api,
        caller: &caller,
        version,
        info: &info,
    };
    Ok(json(StatusCode::ACCEPTED, &json!({ "volume": look.legacy(&volume) })))
}

/// A member that says something: not null and not empty.
fn said(body: &Map<String, Value>, name: &str) -> Option<String> {
    text(body, name).filter(|text| !text.is_empty())
}

fn wanted(
    api: &BlockApi,
    caller: &Caller,
    project: &str,
    version: Microversion,
    body: &Map<String, Value>,
) -> Result<VolumeSpec, Failure> {
    if body
        .get("multiattach")
        .is_some_and(|said| *said == true || *said == "true" || *said == "True")
    {
        let message = "multiattach parameter has been removed. The default behavior is to use multiattach enabled \
                       volume types. Contact your administrator to create a multiattach enabled volume type and use it \
                       to create multiattach volumes.";
        return Err(Failure::invalid(message).at("multiattach"));
    }
    let size_gib = body.get("size").and_then(whole).unwrap_or(0);
    let source = source(&api.store, caller, project, version, body)?;
    if size_gib == 0 && matches!(source, Source::Blank | Source::Image(_)) {
        let message = "Invalid input received: Volume size 'None' must be an integer and greater than 0";
        return Err(Failure::invalid(message).at("size"));
    }
    let chosen = said(body, "volume_type");
    let volume_type = chosen
        .map(|name| open_type(&api.store, caller, project, &name))
        .transpose()?;
    let group = said(body, "group_id").filter(|_| version >= Microversion(3, 13));
    let type_id = volume_type.as_ref().map(|chosen| chosen.name());
    let group = group
        .map(|id| group::api::group_of(api, caller, &id, type_id))
        .transpose()?;
    let zone = said(body, "availability_zone").unwrap_or_else(|| crate::api::ZONE.to_owned());
    if zone != crate::api::ZONE {
        let message = format!("Availability zone '{zone}' is invalid.");
        return Err(Failure::invalid(message).at("availability_zone"));
    }
    let metadata = body.get("metadata").and_then(Value::as_object);
    let metadata = metadata.into_iter().flatten();
    Ok(VolumeSpec {
        name: text(body, "name").or_else(|| text(body, "display_name")),
        description: text(body, "description").or_else(|| text(body, "display_description")),
        size_gib,
        user: caller.subject.user.id.clone(),
        availability_zone: zone,
        volume_type: volume_type.map(|chosen| chosen.name().to_owned()),
        source,
        group,
        metadata: metadata
            .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
            .collect(),
        ..VolumeSpec::default()
    })
}

/// A whole number that may be written as text.
pub(crate) fn whole(value: &Value) -> Option<u32> {
    let number = value.as_u64().or_else(|| value.as_str()?.trim().parse().ok())?;
    u32::try_from(number).ok()
}

fn source(
    store: &Store,
    caller: &Caller,
    project: &str,
    version: Microversion,
    body: &Map<String, Value>,
) -> Result<Source, Failure> {
    if let Some(id) = said(body, "snapshot_id") {
        let found = store
            .cache::<Snapshot>()
            .by_name(&id)
            .filter(|snapshot| caller.can_see(snapshot.project()));
        found.ok_or_else(|| Failure::not_found(format!("Snapshot {id} could not be found.")))?;
        return Ok(Source::Snapshot(id));
    }
    if let Some(id) = said(body, "source_volid") {
        let found = store
            .cache::<Volume>()
            .by_name(&id)
            .filter(|volume| caller.can_see(volume.project()));
        found.ok_or_else(|| Failure::not_found(format!("Volume {id} could not be found.")))?;
        return Ok(Source::Volume(id));
    }
    if version >= Microversion(3, 47)
        && let Some(id) = said(body, "backup_id")
    {
        return Ok(Source::Backup(id));
    }
    let Some(reference) = said(body, "imageRef").or_else(|| said(body, "image_id")) else {
        return Ok(Source::Blank);
    };
    let id = reference.rsplit('/').next().unwrap_or(&reference);
    let images = store.cache::<Image>();
    let is_visible = |image: &Arc<Resource<Image>>| caller.is_admin() || madang_image::is_visible(image, project);
    let found = images.by_name(id).filter(is_visible);
    let found = found.or_else(|| images.by("name", &reference).into_iter().find(is_visible));
    let missing = || Failure::invalid("Invalid image identifier or unable to access requested image.").at("imageRef");
    Ok(Source::Image(found.ok_or_else(missing)?.name().to_owned()))
}

/// A type that a project may use.
pub(crate) fn open_type(
    store: &Store,
    caller: &Caller,
    project: &str,
    name: &str,
) -> Result<Arc<Resource<VolumeType>>, Failure> {
    let found = volume_type::find(store, name);
    let found = found.filter(|found| found.spec.is_open_to(project) || caller.is_admin());
    found.ok_or_else(|| Failure::not_found(format!("Volume type with name {name} could not be found.")))
}

/// `PUT /volumes/{id}`.
pub async fn update(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
    info: RequestInfo,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    UPDATE.check(&body)?;
    let body = member(&body, "volume")?;
    if body.is_empty() && version >= Microversion(3, 53) {
        return Err(Failure::invalid(
            "Invalid input for field/attribute volume. Value: {}. {} does not have enough properties",
        ));
    }
    let volume = volume_for(&api, &caller, &id, "volume:update")?;
    let changed = verbs::edit(&api.store, &caller, &volume, |volume| {
        for name in ["name", "display_name"] {
            if body.contains_key(name) {
                volume.spec.name = text(body, name);
            }
        }
        for name in ["description", "display_description"] {
            if body.contains_key(name) {
                volume.spec.description = text(body, name);
            }
        }
        if let Some(metadata) = body.get("metadata").and_then(Value::as_object) {
            let pairs = metadata.iter();
            volume.spec.metadata = pairs
                .filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned())))
                .collect();
        }
        Ok(())
    });
    let look = view::Look {
        api: &api,
        caller: &caller,
        version,
        info: &info,
    };
    Ok(json(
        StatusCode::OK,
        &json!({ "volume": look.legacy(&*changed.await?) }),
    ))
}

/// `DELETE /volumes/{id}`.
pub async fn delete(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
    query: Query,
) -> Result<Response, Failure> {
    let volume = volume_for(&api, &caller, &id, "volume:delete")?;
    let how = verbs::Deletion {
        cascade: query.switch("cascade"),
        force: version >= Microversion(3, 23) && query.switch("force"),
    };
    if how.force {
        enforce(&caller, "volume:force_delete", volume.project())?;
    }
    verbs::delete(&api.store, &caller, &volume, how).await?;
    Ok(accepted())
}

/// `GET /volumes/{id}/encryption`.
pub async fn encryption(
    State(api): State<BlockApi>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let volume = volume_for(&api, &caller, &id, "volume_extension:volume_encryption_metadata")?;
    Ok(json(StatusCode::OK, &encryption_of(&api, &volume)))
}

fn encryption_of(api: &BlockApi, volume: &Resource<Volume>) -> Map<String, Value> {
    let of_type = volume.spec.volume_type.as_ref();
    let of_type = of_type.and_then(|id| api.store.cache::<VolumeType>().by_name(id));
    let said = of_type.as_ref().and_then(|of_type| of_type.spec.encryption.as_ref());
    let mut shown = Map::new();
    match said {
        Some(said) => {
            shown.insert("encryption_key_id".to_owned(), Value::Null);
            shown.insert("provider".to_owned(), json!(said.provider));
            shown.insert("cipher".to_owned(), json!(said.cipher));
            shown.insert("key_size".to_owned(), json!(said.key_size));
            shown.insert("control_location".to_owned(), json!(said.control_location));
        }
        None => _ = shown.insert("encryption_key_id".to_owned(), Value::Null),
    }
    shown
}

/// `GET /volumes/{id}/encryption/{key}`.
pub async fn encryption_item(
    State(api): State<BlockApi>,
    caller: Caller,
    Path((id, key)): Path<(String, String)>,
) -> Result<Response, Failure> {
    let volume = volume_for(&api, &caller, &id, "volume_extension:volume_encryption_metadata")?;
    let shown = encryption_of(&api, &volume);
    let item = shown.get(&key).cloned();
    let item = item.ok_or_else(|| Failure::not_found("The resource could not be found."))?;
    Ok(json(StatusCode::OK, &json!({ key: item })))
}
