//! `/os-volumes` and `/os-snapshots`: volumes in the shape that Nova gave them.

use std::sync::LazyLock;

use axum::{Router, response::Response, routing::get};
use madang_block::{Attachment, Snapshot, SnapshotSpec, Source, Volume, VolumeSpec, VolumeState, VolumeType};
use madang_http::{Failure, Json, Schema};
use madang_store::{Metadata, Resource, Store};
use serde_json::{Value, json};

use super::{
    collection::{self, Asked, Collection, Found, find, on_delete, on_list, on_show, one, own, part},
    refusal,
};
use crate::{
    api::{ComputeApi, input},
    server::{api::located, view::micros},
};

pub(super) fn routes() -> Router<ComputeApi> {
    Router::new()
        .route("/os-volumes", get(on_list::<Volumes>).post(create))
        .route("/os-volumes/detail", get(on_list::<Volumes>))
        .route("/os-volumes/{id}", get(on_show::<Volumes>).delete(on_delete::<Volumes>))
        .route("/os-snapshots", get(on_list::<Snapshots>).post(create_snapshot))
        .route("/os-snapshots/detail", get(on_list::<Snapshots>))
        .route(
            "/os-snapshots/{id}",
            get(on_show::<Snapshots>).delete(on_delete::<Snapshots>),
        )
}

const RULE: &str = "os_compute_api:os-volumes";

/// The project's volumes; Nova showed as much in lists as in details.
struct Volumes;

impl Collection for Volumes {
    type Kind = Volume;
    const ONE: &'static str = "volume";
    const MANY: &'static str = "volumes";

    fn allow(asked: &Asked, verb: &str) -> Result<(), Failure> {
        asked.allowed(&format!("{RULE}:{verb}")).map(|_| ())
    }

    fn missing(id: &str) -> String {
        format!("Volume {id} could not be found.")
    }

    fn view(asked: &Asked, volume: &Resource<Volume>) -> Value {
        view(asked.store(), volume)
    }

    async fn list(asked: &Asked) -> Result<Found<Volume>, Failure> {
        Ok(part(own(asked), &asked.query)?.into())
    }
}

/// The project's snapshots.
struct Snapshots;

impl Collection for Snapshots {
    type Kind = Snapshot;
    const ONE: &'static str = "snapshot";
    const MANY: &'static str = "snapshots";

    fn allow(asked: &Asked, verb: &str) -> Result<(), Failure> {
        asked.allowed(&format!("{RULE}:snapshots:{verb}")).map(|_| ())
    }

    fn missing(id: &str) -> String {
        format!("Snapshot {id} could not be found.")
    }

    fn view(_asked: &Asked, snapshot: &Resource<Snapshot>) -> Value {
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

    async fn list(asked: &Asked) -> Result<Found<Snapshot>, Failure> {
        Ok(part(own(asked), &asked.query)?.into())
    }
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

/// `POST /os-volumes`.
async fn create(asked: Asked, Json(body): Json<Value>) -> Result<Response, Failure> {
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
    let project = asked.allowed(&format!("{RULE}:create"))?;
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
        user: asked.caller.subject.user.id.clone(),
        availability_zone: text("availability_zone").unwrap_or_default(),
        volume_type: text("volume_type")
            .map(|name| volume_type(asked.store(), project, &name))
            .transpose()?,
        source: text("snapshot_id").map_or(Source::Blank, Source::Snapshot),
        metadata: words.collect(),
        ..VolumeSpec::default()
    };
    let volume = Resource::<Volume>::new(Metadata::with_id(project), spec);
    let made = collection::make(&asked, volume).await.map_err(refusal)?;
    let place = format!("{}/v2.1/os-volumes/{}", asked.base(), made.name());
    Ok(located(one::<Volumes>(&asked, &made), &place))
}

fn volume_type(store: &Store, project: &str, name: &str) -> Result<String, Failure> {
    let types = store.cache::<VolumeType>();
    let found = types.by_name(name).or_else(|| types.by("name", name).pop());
    let found = found.filter(|found| found.spec.is_open_to(project));
    let missing = || Failure::invalid(format!("Volume type {name} could not be found.")).at("volume_type");
    Ok(found.ok_or_else(missing)?.name().to_owned())
}

/// `POST /os-snapshots`: with `force` also of a volume that somebody uses.
async fn create_snapshot(asked: Asked, Json(body): Json<Value>) -> Result<Response, Failure> {
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
    asked.allowed(&format!("{RULE}:snapshots:create"))?;
    CREATE.check(&body)?;
    let said = &body["snapshot"];
    let text = |name: &str| said[name].as_str().map(str::to_owned);
    let force = &said["force"];
    let is_forced = *force == true || force.as_str().and_then(madang_http::parse_bool) == Some(true);
    let volume = find::<Volumes>(&asked, &text("volume_id").unwrap_or_default())?;
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
        user: asked.caller.subject.user.id.clone(),
        ..SnapshotSpec::default()
    };
    let snapshot = Resource::<Snapshot>::new(Metadata::with_id(volume.project()), spec);
    let made = collection::make(&asked, snapshot).await.map_err(refusal)?;
    Ok(one::<Snapshots>(&asked, &made))
}
