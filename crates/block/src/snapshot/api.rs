//! `/snapshots`: parse, call a verb, render.

pub mod metadata;

use std::sync::{Arc, LazyLock};

use axum::{
    extract::{Path, State},
    response::Response,
};
use http::StatusCode;
use madang_http::{Failure, Form, Json, Microversion, Query, RequestInfo, Schema, SortValue, json};
use madang_identity::Caller;
use madang_store::{Metadata, Resource, Store};
use serde_json::{Value, json};

use super::{Snapshot, SnapshotSpec, SnapshotState};
use crate::{
    api::{
        BlockApi, accepted, enforce, flag,
        listing::{self, dictionary, has_all},
        member, micros, text, updated, volume_for,
    },
    manage,
    volume::{
        Volume, VolumeState,
        api::{actions::only_member, metadata_schema, name_schema},
        verbs::Refusal,
    },
};

const SORT_KEYS: &[&str] = &[
    "id",
    "name",
    "display_name",
    "status",
    "created_at",
    "updated_at",
    "volume_id",
    "size",
];

static CREATE: LazyLock<Schema> = LazyLock::new(|| {
    let longer = json!({ "type": ["string", "null"], "maxLength": 255 });
    let properties = json!({
        "name": name_schema(), "display_name": name_schema(), "description": longer, "display_description": longer,
        // Without one there is no such volume: 404.
        "volume_id": { "type": ["string", "null"], "format": "uuid" },
        "force": { "type": ["boolean", "string", "null"] },
        "metadata": metadata_schema(),
    });
    let body = json!({
        "type": "object",
        "properties": { "snapshot": { "type": "object", "properties": properties, "required": ["volume_id"] } },
        "required": ["snapshot"],
        "additionalProperties": false,
    });
    Schema::new(Form::Nova, body)
});

/// The snapshot, if the caller may know of it and do `rule` to it.
pub(crate) fn snapshot_for(
    api: &BlockApi,
    caller: &Caller,
    id: &str,
    rule: &str,
) -> Result<Arc<Resource<Snapshot>>, Failure> {
    let found = api.store.cache::<Snapshot>().by_name(id);
    let found = found.filter(|snapshot| caller.can_see(snapshot.project()));
    let found = found.ok_or_else(|| Failure::not_found(format!("Snapshot {id} could not be found.")))?;
    enforce(caller, rule, found.project())?;
    Ok(found)
}

/// Changes a snapshot.
///
/// # Errors
/// What `change` says; `NotFound` when it is gone.
pub(crate) async fn edit(
    store: &Store,
    caller: &Caller,
    snapshot: &Resource<Snapshot>,
    change: impl Fn(&mut Resource<Snapshot>) -> Result<(), Failure>,
) -> Result<Arc<Resource<Snapshot>>, Failure> {
    store
        .modify::<Snapshot, Refusal>(&snapshot.key(), caller.cause(), |snapshot| Ok(change(snapshot)?))
        .await
        .map_err(|Refusal(failure)| failure)
}

pub(crate) fn view(snapshot: &Resource<Snapshot>, version: Microversion, caller: &Caller, is_full: bool) -> Value {
    let (spec, status) = (&snapshot.spec, &snapshot.status);
    let mut shown = json!({
        "id": snapshot.name(),
        "name": spec.name,
        "description": spec.description,
        "status": status.state.as_str(),
        "created_at": micros(snapshot.metadata.created),
        "updated_at": updated(snapshot),
        "volume_id": spec.volume,
        "size": spec.size_gib,
        "metadata": spec.metadata,
    });
    if !is_full {
        return shown;
    }
    if version >= Microversion(3, 14) {
        shown["group_snapshot_id"] = json!(spec.group_snapshot);
    }
    if version >= Microversion(3, 41) {
        shown["user_id"] = json!(spec.user);
    }
    if version >= Microversion(3, 65) {
        shown["consumes_quota"] = json!(true);
    }
    let target = [("project_id", snapshot.project())];
    if caller.allows("volume_extension:extended_snapshot_attributes", &target) {
        let progress = match status.state {
            SnapshotState::Available => 100,
            _ => status.progress.unwrap_or(0),
        };
        shown["os-extended-snapshot-attributes:progress"] = json!(format!("{progress}%"));
        shown["os-extended-snapshot-attributes:project_id"] = json!(snapshot.project());
    }
    shown
}

/// `GET /snapshots`.
pub async fn list(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    query: Query,
    info: RequestInfo,
) -> Result<Response, Failure> {
    listed(&api, &caller, version, &query, &info, false)
}

/// `GET /snapshots/detail`.
pub async fn detail(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    query: Query,
    info: RequestInfo,
) -> Result<Response, Failure> {
    listed(&api, &caller, version, &query, &info, true)
}

fn listed(
    api: &BlockApi,
    caller: &Caller,
    version: Microversion,
    query: &Query,
    info: &RequestInfo,
    is_full: bool,
) -> Result<Response, Failure> {
    enforce(caller, "volume:get_all_snapshots", caller.project()?)?;
    let metadata = match version >= Microversion(3, 22) {
        true => dictionary(query, "metadata")?,
        false => None,
    };
    let mut snapshots = listing::visible(api.store.cache::<Snapshot>(), caller, query);
    snapshots.retain(|snapshot| {
        let spec = &snapshot.spec;
        let name = spec.name.as_deref().unwrap_or_default();
        let fits = |(filter, said): (&str, &str)| match filter {
            "name" | "display_name" => name == said,
            "name~" => name.contains(said),
            "status" => snapshot.status.state.as_str() == said,
            "status~" => snapshot.status.state.as_str().contains(said),
            "volume_id" => spec.volume == said,
            "id" if caller.is_admin() => snapshot.name() == said,
            _ => true,
        };
        query.iter().all(fits) && metadata.as_ref().is_none_or(|wanted| has_all(&spec.metadata, wanted))
    });
    let page = listing::page(snapshots, query, SORT_KEYS, |snapshot, key| match key {
        "id" => snapshot.name().into(),
        "name" | "display_name" => snapshot.spec.name.as_deref().into(),
        "status" => snapshot.status.state.as_str().into(),
        "volume_id" => snapshot.spec.volume.as_str().into(),
        "size" => i64::from(snapshot.spec.size_gib).into(),
        "updated_at" => SortValue::from(snapshot.metadata.updated),
        _ => snapshot.metadata.created.into(),
    })?;
    let shown = page
        .0
        .items
        .iter()
        .map(|snapshot| view(snapshot, version, caller, is_full));
    listing::answer("snapshots", shown.collect(), &page, (info, query, version))
}

/// `POST /snapshots`.
pub async fn create(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    CREATE.check(&body)?;
    let body = member(&body, "snapshot")?;
    let mut is_forced = flag(body, "force", false)?;
    if version >= Microversion(3, 66) {
        // What is in use may be snapshot now; to say otherwise makes no sense any more.
        if body.contains_key("force") && !is_forced {
            return Err(Failure::invalid(
                "Invalid input received: Since microversion 3.66 the 'force' option is invalid for this request.",
            ));
        }
        is_forced = true;
    }
    let volume = volume_for(
        &api,
        &caller,
        &text(body, "volume_id").unwrap_or_default(),
        "volume:create_snapshot",
    )?;
    let metadata = body.get("metadata").and_then(Value::as_object).into_iter().flatten();
    let spec = SnapshotSpec {
        name: text(body, "name").or_else(|| text(body, "display_name")),
        description: text(body, "description").or_else(|| text(body, "display_description")),
        user: caller.subject.user.id.clone(),
        metadata: metadata
            .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
            .collect(),
        ..SnapshotSpec::default()
    };
    let made = make(&api.store, &caller, &volume, spec, is_forced).await?;
    Ok(json(
        StatusCode::ACCEPTED,
        &json!({ "snapshot": view(&made, version, &caller, false) }),
    ))
}

/// Asks for a snapshot of a volume, also of one in use when `is_forced`.
///
/// # Errors
/// 400 in a state that does not allow it; the quota's.
pub(crate) async fn make(
    store: &Store,
    caller: &Caller,
    volume: &Resource<Volume>,
    spec: SnapshotSpec,
    is_forced: bool,
) -> Result<Arc<Resource<Snapshot>>, Failure> {
    let key = volume.key();
    let made = store.transact::<_, Refusal>(caller.cause(), |tx| {
        let missing = || Failure::not_found(format!("Volume {} could not be found.", key.name));
        let volume = tx.get::<Volume>(&key).ok_or_else(missing)?;
        let state = volume.status.state;
        if state != VolumeState::Available && !(is_forced && state == VolumeState::InUse) {
            let wanted = if is_forced { "available or in-use" } else { "available" };
            let message = format!(
                "Invalid volume: Volume {} status must be {wanted}, but current status is: {state}.",
                key.name
            );
            return Err(Failure::invalid(message).into());
        }
        let spec = SnapshotSpec {
            volume: volume.name().to_owned(),
            size_gib: volume.spec.size_gib,
            volume_type: volume.spec.volume_type.clone(),
            ..spec.clone()
        };
        Ok(tx.create(Resource::<Snapshot>::new(Metadata::with_id(volume.project()), spec))?)
    });
    made.await.map_err(|Refusal(failure)| failure)
}

/// `GET /snapshots/{id}`.
pub async fn show(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let snapshot = snapshot_for(&api, &caller, &id, "volume:get_snapshot")?;
    Ok(json(
        StatusCode::OK,
        &json!({ "snapshot": view(&snapshot, version, &caller, true) }),
    ))
}

/// `PUT /snapshots/{id}`.
pub async fn update(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    let body = member(&body, "snapshot")?;
    for name in ["name", "description", "display_name", "display_description"] {
        if text(body, name).is_some_and(|text| text.chars().count() > 255) {
            return Err(Failure::invalid(format!("Invalid input for field/attribute {name}. It is too long")).at(name));
        }
    }
    let snapshot = snapshot_for(&api, &caller, &id, "volume:update_snapshot")?;
    let changed = edit(&api.store, &caller, &snapshot, |snapshot| {
        for name in ["name", "display_name"] {
            if body.contains_key(name) {
                snapshot.spec.name = text(body, name);
            }
        }
        for name in ["description", "display_description"] {
            if body.contains_key(name) {
                snapshot.spec.description = text(body, name);
            }
        }
        Ok(())
    });
    Ok(json(
        StatusCode::OK,
        &json!({ "snapshot": view(&*changed.await?, version, &caller, false) }),
    ))
}

/// `DELETE /snapshots/{id}`: gone at once; its bytes stay as long as something stands on them.
pub async fn delete(State(api): State<BlockApi>, caller: Caller, Path(id): Path<String>) -> Result<Response, Failure> {
    let snapshot = snapshot_for(&api, &caller, &id, "volume:delete_snapshot")?;
    remove(&api.store, &caller, &snapshot, false).await?;
    Ok(accepted())
}

async fn remove(store: &Store, caller: &Caller, snapshot: &Resource<Snapshot>, is_forced: bool) -> Result<(), Failure> {
    let key = snapshot.key();
    let removed = store.transact::<(), Refusal>(caller.cause(), |tx| {
        let Some(snapshot) = tx.get::<Snapshot>(&key) else {
            return Ok(());
        };
        let may_go = matches!(
            snapshot.status.state,
            SnapshotState::Available | SnapshotState::Error | SnapshotState::ErrorDeleting
        );
        if !is_forced && (!may_go || snapshot.spec.group_snapshot.is_some()) {
            let message = format!(
                "Invalid snapshot: Snapshot status must be available or error, and the snapshot must not be part of a \
                 group snapshot. It is {}.",
                snapshot.status.state
            );
            return Err(Failure::invalid(message).into());
        }
        Ok(tx.delete(&snapshot)?)
    });
    removed.await.map_err(|Refusal(failure)| failure)
}

/// `POST /snapshots/{id}/action`.
pub async fn act(
    State(api): State<BlockApi>,
    caller: Caller,
    Path(id): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    let (name, said) = only_member(&body)?;
    let snapshot = snapshot_for(&api, &caller, &id, "volume:get_snapshot")?;
    let project = snapshot.project();
    match name {
        "os-force_delete" => {
            enforce(&caller, "volume_extension:snapshot_admin_actions:force_delete", project)?;
            remove(&api.store, &caller, &snapshot, true).await?;
        }
        "os-reset_status" => {
            enforce(&caller, "volume_extension:snapshot_admin_actions:reset_status", project)?;
            set_state(&api, &caller, &snapshot, said).await?;
        }
        "os-update_snapshot_status" => {
            enforce(&caller, "volume:update_snapshot", project)?;
            set_state(&api, &caller, &snapshot, said).await?;
        }
        "os-unmanage" => {
            enforce(&caller, "snapshot_extension:snapshot_unmanage", project)?;
            manage::leave_snapshot(&api.store, &caller, &snapshot).await?;
        }
        other => return Err(Failure::invalid(format!("There is no such action: {other}"))),
    }
    Ok(accepted())
}

async fn set_state(
    api: &BlockApi,
    caller: &Caller,
    snapshot: &Resource<Snapshot>,
    said: &Value,
) -> Result<(), Failure> {
    let word = said["status"].as_str().unwrap_or_default().to_lowercase();
    let state = SnapshotState::from_word(&word);
    let bad = || Failure::invalid(format!("Must specify a valid status, not {word:?}")).at("status");
    let state = state.ok_or_else(bad)?;
    let progress = said["progress"]
        .as_str()
        .and_then(|said| said.trim_end_matches('%').parse().ok());
    edit(&api.store, caller, snapshot, |snapshot| {
        snapshot.status.state = state;
        snapshot.status.progress = progress.or(snapshot.status.progress);
        Ok(())
    })
    .await
    .map(|_| ())
}
