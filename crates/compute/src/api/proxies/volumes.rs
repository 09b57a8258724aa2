//! `/os-volumes` and `/os-snapshots`: volumes in the shape that Nova gave them.

use std::sync::{Arc, LazyLock};

use axum::{
    Router,
    extract::{Path, State},
    response::{IntoResponse as _, Response},
    routing::get,
};
use http::StatusCode;
use madang_block::{Attachment, Snapshot, SnapshotSpec, Source, Volume, VolumeSpec, VolumeState, VolumeType};
use madang_http::{Failure, Json, Microversion, Query, RequestInfo, Schema, json};
use madang_identity::Caller;
use madang_store::{Kind, Metadata, Resource, Store, StoreError};
use serde_json::{Value, json};

use super::{allowed, refusal};
use crate::{
    api::{ComputeApi, base, input},
    server::{api::located, view::micros},
};

pub(super) fn routes() -> Router<ComputeApi> {
    Router::new()
        .route("/os-volumes", get(list).post(create))
        .route("/os-volumes/detail", get(list))
        .route("/os-volumes/{id}", get(show).delete(delete))
        .route("/os-snapshots", get(list_snapshots).post(create_snapshot))
        .route("/os-snapshots/detail", get(list_snapshots))
        .route("/os-snapshots/{id}", get(show_snapshot).delete(delete_snapshot))
}

const RULE: &str = "os_compute_api:os-volumes";

/// A project's own, the newest first.
fn own<K: Kind>(store: &Store, project: &str) -> Vec<Arc<Resource<K>>> {
    let mut own = store.cache::<K>().in_project(project);
    own.sort_unstable_by_key(|one| std::cmp::Reverse((one.metadata.created, one.metadata.uid)));
    own
}

/// The part of a list that `offset` and `limit` ask for.
fn part<T>(mut items: Vec<T>, query: &Query) -> Result<Vec<T>, Failure> {
    let number = |name: &str| match query.get(name) {
        None => Ok(None),
        Some(said) => said.parse::<usize>().map(Some).map_err(|_| {
            let message = format!("Invalid input for query parameters {name}. Value: {said}.");
            Failure::invalid(message).at(name)
        }),
    };
    let (offset, limit) = (number("offset")?.unwrap_or(0), number("limit")?.unwrap_or(1000));
    items.drain(..offset.min(items.len()));
    items.truncate(limit.min(1000));
    Ok(items)
}

fn find<K: Kind>(store: &Store, caller: &Caller, id: &str, what: &str) -> Result<Arc<Resource<K>>, Failure> {
    let found = store
        .cache::<K>()
        .by_name(id)
        .filter(|one| caller.can_see(one.project()));
    found.ok_or_else(|| Failure::not_found(format!("{what} {id} could not be found.")))
}

fn view(store: &Store, volume: &Resource<Volume>) -> Value {
    let (spec, id) = (&volume.spec, volume.name());
    let of_type = spec.volume_type.as_deref();
    let of_type = of_type.and_then(|id| store.cache::<VolumeType>().by_name(id));
    let snapshot = match &spec.source {
        Source::Snapshot(id) => Some(id),
        _ => None,
    };
    let attachments = store.cache::<Attachment>().by("volume", id);
    let attached = attachments
        .iter()
        .filter(|one| one.spec.server.is_some())
        .map(|one| json!({ "id": id, "volumeId": id, "serverId": one.spec.server, "device": one.spec.mountpoint }));
    let mut attached: Vec<Value> = attached.collect();
    if attached.is_empty() {
        // So said Nova.
        attached.push(json!({}));
    }
    json!({
        "id": id,
        "status": volume.status.state.as_str(),
        "size": spec.size_gib,
        "availabilityZone": spec.availability_zone,
        "createdAt": micros(volume.metadata.created),
        "displayName": spec.name,
        "displayDescription": spec.description,
        "volumeType": of_type.map(|of_type| of_type.spec.name.clone()),
        "snapshotId": snapshot,
        "metadata": spec.metadata,
        "attachments": attached,
    })
}

/// `GET /os-volumes` and `/os-volumes/detail`: Nova showed as much in both.
async fn list(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    query: Query,
) -> Result<Response, Failure> {
    let project = allowed(&caller, version, &format!("{RULE}:list"))?;
    let volumes = part(own::<Volume>(&api.store, project), &query)?;
    let shown: Vec<Value> = volumes.iter().map(|volume| view(&api.store, volume)).collect();
    Ok(json(StatusCode::OK, &json!({ "volumes": shown })))
}

/// `GET /os-volumes/{id}`.
async fn show(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    allowed(&caller, version, &format!("{RULE}:show"))?;
    let volume = find::<Volume>(&api.store, &caller, &id, "Volume")?;
    Ok(json(StatusCode::OK, &json!({ "volume": view(&api.store, &volume) })))
}

/// `POST /os-volumes`.
async fn create(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    info: RequestInfo,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    static CREATE: LazyLock<Schema> = LazyLock::new(|| {
        let text = json!({ "type": "string" });
        let properties = json!({
            "volume_type": text, "metadata": { "type": "object" }, "snapshot_id": text,
            "size": { "type": ["integer", "string"], "pattern": "^[0-9]+$", "minimum": 1 },
            "availability_zone": text, "display_name": text, "display_description": text,
        });
        input::nova(json!({
            "type": "object",
            "properties": { "volume": {
                "type": "object", "properties": properties, "required": ["size"], "additionalProperties": false,
            } },
            "required": ["volume"],
            "additionalProperties": false,
        }))
    });
    let project = allowed(&caller, version, &format!("{RULE}:create"))?;
    CREATE.check(&body)?;
    let said = &body["volume"];
    let text = |name: &str| said[name].as_str().map(str::to_owned);
    let size = &said["size"];
    let size = size.as_u64().or_else(|| size.as_str()?.parse().ok()).unwrap_or(0);
    let size_gib = u32::try_from(size).ok().filter(|size| *size > 0);
    let size_gib = size_gib.ok_or_else(|| Failure::invalid(format!("a volume cannot have {size} GiB")).at("size"))?;
    let metadata = said["metadata"].as_object().into_iter().flatten();
    let words = metadata.map(|(name, value)| {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        (name.clone(), value)
    });
    let spec = VolumeSpec {
        name: text("display_name"),
        description: text("display_description"),
        size_gib,
        user: caller.subject.user.id.clone(),
        availability_zone: text("availability_zone").unwrap_or_default(),
        volume_type: text("volume_type")
            .map(|name| volume_type(&api.store, project, &name))
            .transpose()?,
        source: text("snapshot_id").map_or(Source::Blank, Source::Snapshot),
        metadata: words.collect(),
        ..VolumeSpec::default()
    };
    let volume = Resource::<Volume>::new(Metadata::with_id(project), spec);
    let made = api
        .store
        .transact::<_, StoreError>(caller.cause(), |tx| tx.create(volume.clone()))
        .await
        .map_err(refusal)?;
    let answer = json(StatusCode::OK, &json!({ "volume": view(&api.store, &made) }));
    let place = format!("{}/v2.1/os-volumes/{}", base(&info), made.name());
    Ok(located(answer, &place))
}

fn volume_type(store: &Store, project: &str, name: &str) -> Result<String, Failure> {
    let types = store.cache::<VolumeType>();
    let found = types.by_name(name).or_else(|| types.by("name", name).pop());
    let found = found.filter(|found| found.spec.is_open_to(project));
    let missing = || Failure::invalid(format!("Volume type {name} could not be found.")).at("volume_type");
    Ok(found.ok_or_else(missing)?.name().to_owned())
}

/// `DELETE /os-volumes/{id}`.
async fn delete(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    allowed(&caller, version, &format!("{RULE}:delete"))?;
    let volume = find::<Volume>(&api.store, &caller, &id, "Volume")?;
    remove(&api.store, &caller, &volume).await
}

async fn remove<K: Kind>(store: &Store, caller: &Caller, resource: &Resource<K>) -> Result<Response, Failure> {
    let key = resource.key();
    let gone = store.transact::<(), StoreError>(caller.cause(), |tx| match tx.get::<K>(&key) {
        Some(resource) => tx.delete::<K>(&resource),
        None => Ok(()),
    });
    gone.await.map_err(refusal)?;
    Ok(StatusCode::ACCEPTED.into_response())
}

fn view_snapshot(snapshot: &Resource<Snapshot>) -> Value {
    let spec = &snapshot.spec;
    json!({
        "id": snapshot.name(),
        "volumeId": spec.volume,
        "status": snapshot.status.state.as_str(),
        "size": spec.size_gib,
        "createdAt": micros(snapshot.metadata.created),
        "displayName": spec.name,
        "displayDescription": spec.description,
    })
}

/// `GET /os-snapshots` and `/os-snapshots/detail`.
async fn list_snapshots(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    query: Query,
) -> Result<Response, Failure> {
    let project = allowed(&caller, version, &format!("{RULE}:snapshots:list"))?;
    let snapshots = part(own::<Snapshot>(&api.store, project), &query)?;
    let shown: Vec<Value> = snapshots.iter().map(|snapshot| view_snapshot(snapshot)).collect();
    Ok(json(StatusCode::OK, &json!({ "snapshots": shown })))
}

/// `GET /os-snapshots/{id}`.
async fn show_snapshot(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    allowed(&caller, version, &format!("{RULE}:snapshots:show"))?;
    let snapshot = find::<Snapshot>(&api.store, &caller, &id, "Snapshot")?;
    Ok(json(StatusCode::OK, &json!({ "snapshot": view_snapshot(&snapshot) })))
}

/// `POST /os-snapshots`: with `force` also of a volume that somebody uses.
async fn create_snapshot(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    static CREATE: LazyLock<Schema> = LazyLock::new(|| {
        let text = json!({ "type": "string" });
        let properties = json!({
            "volume_id": text, "force": { "type": ["boolean", "string"] }, "display_name": text, "display_description": text,
        });
        input::nova(json!({
            "type": "object",
            "properties": { "snapshot": {
                "type": "object", "properties": properties, "required": ["volume_id"], "additionalProperties": false,
            } },
            "required": ["snapshot"],
            "additionalProperties": false,
        }))
    });
    allowed(&caller, version, &format!("{RULE}:snapshots:create"))?;
    CREATE.check(&body)?;
    let said = &body["snapshot"];
    let text = |name: &str| said[name].as_str().map(str::to_owned);
    let force = &said["force"];
    let is_forced = *force == true || force.as_str().and_then(madang_http::parse_bool) == Some(true);
    let volume = find::<Volume>(&api.store, &caller, &text("volume_id").unwrap_or_default(), "Volume")?;
    let state = volume.status.state;
    if state != VolumeState::Available && !(is_forced && state == VolumeState::InUse) {
        let message = format!(
            "Volume {} status must be available, but current status is: {state}.",
            volume.name()
        );
        return Err(Failure::invalid(message));
    }
    let spec = SnapshotSpec {
        name: text("display_name"),
        description: text("display_description"),
        volume: volume.name().to_owned(),
        size_gib: volume.spec.size_gib,
        volume_type: volume.spec.volume_type.clone(),
        user: caller.subject.user.id.clone(),
        ..SnapshotSpec::default()
    };
    let snapshot = Resource::<Snapshot>::new(Metadata::with_id(volume.project()), spec);
    let made = api
        .store
        .transact::<_, StoreError>(caller.cause(), |tx| tx.create(snapshot.clone()))
        .await
        .map_err(refusal)?;
    Ok(json(StatusCode::OK, &json!({ "snapshot": view_snapshot(&made) })))
}

/// `DELETE /os-snapshots/{id}`.
async fn delete_snapshot(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    allowed(&caller, version, &format!("{RULE}:snapshots:delete"))?;
    let snapshot = find::<Snapshot>(&api.store, &caller, &id, "Snapshot")?;
    remove(&api.store, &caller, &snapshot).await
}
