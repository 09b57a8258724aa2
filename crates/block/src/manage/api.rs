//! `/manageable_volumes` and `/manageable_snapshots` (before 3.8 `/os-volume-manage` and `/os-snapshot-manage`).

use std::collections::BTreeMap;

use axum::{
    extract::{OriginalUri, Path, State},
    response::Response,
};
use http::StatusCode;
use madang_http::{Failure, Json, Microversion, Query, RequestInfo, json};
use madang_identity::Caller;
use madang_store::{Metadata, Resource};
use serde_json::{Map, Value, json};

use super::SNAPSHOT;
use crate::{
    api::{BlockApi, ZONE, enforce, flag, member, since, text, volume_for},
    driver::Stranger,
    snapshot::{self, Snapshot, SnapshotSpec},
    volume::{
        GIB, Source, VolumeSpec,
        api::{open_type, view},
        verbs::{self, Refusal},
    },
};

fn check_path(uri: &OriginalUri, version: Microversion) -> Result<(), Failure> {
    match uri.path().contains("/manageable_") {
        true => since(version, 8),
        false => Ok(()),
    }
}

/// The file that a reference names, if it can be taken.
async fn stranger(api: &BlockApi, body: &Map<String, Value>) -> Result<Stranger, Failure> {
    let reference = body.get("ref").and_then(Value::as_object);
    let required = || Failure::invalid("Invalid input for field/attribute ref. 'ref' is a required property").at("ref");
    let reference = reference.ok_or_else(required)?;
    let name = text(reference, "source-name").or_else(|| text(reference, "source-id"));
    let bad = |why: &str| {
        let shown = Value::Object(reference.clone());
        let message = format!(
            "Invalid input received: Manage existing volume failed due to invalid backend reference {shown}: {why}"
        );
        Failure::invalid(message).at("ref")
    };
    let name = name.ok_or_else(|| bad("Reference must contain source-name element."))?;
    let known = api
        .back_end
        .strangers()
        .await
        .map_err(|error| bad(&error.to_string()))?;
    let found = known.into_iter().find(|known| known.name == name);
    found.ok_or_else(|| bad("there is no such file"))
}

fn size_gib(stranger: &Stranger) -> u32 {
    u32::try_from(stranger.bytes.div_ceil(GIB).max(1)).unwrap_or(u32::MAX)
}

fn words(body: &Map<String, Value>) -> BTreeMap<String, String> {
    let pairs = body.get("metadata").and_then(Value::as_object).into_iter().flatten();
    pairs
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}

fn check_host(api: &BlockApi, host: &str) -> Result<(), Failure> {
    if host.split('#').next() == Some(api.volume_host().as_str()) {
        return Ok(());
    }
    Err(Failure::not_found(format!("Service cinder-volume could not be found on host {host}.")).at("host"))
}

/// `POST /manageable_volumes`.
pub async fn manage_volume(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    info: RequestInfo,
    uri: OriginalUri,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    check_path(&uri, version)?;
    let project = caller.project()?.to_owned();
    enforce(&caller, "volume_extension:volume_manage", &project)?;
    let body = member(&body, "volume")?;
    let host = text(body, "host");
    let host = host.ok_or_else(|| {
        Failure::invalid("Invalid input for field/attribute host. 'host' is a required property").at("host")
    })?;
    check_host(&api, &host)?;
    let of_type = text(body, "volume_type").filter(|name| !name.is_empty());
    let of_type = of_type
        .map(|name| open_type(&api.store, &caller, &project, &name))
        .transpose()?;
    let stranger = stranger(&api, body).await?;
    let spec = VolumeSpec {
        name: text(body, "name"),
        description: text(body, "description"),
        size_gib: size_gib(&stranger),
        user: caller.subject.user.id.clone(),
        availability_zone: text(body, "availability_zone").unwrap_or_else(|| ZONE.to_owned()),
        volume_type: of_type.map(|of_type| of_type.name().to_owned()),
        source: Source::File(stranger.name),
        metadata: words(body),
        is_bootable: flag(body, "bootable", false)?,
        ..VolumeSpec::default()
    };
    let volume = verbs::create(&api.store, &caller, &project, &spec).await?;
    let look = view::Look {
        api: &api,
        caller: &caller,
        version,
        info: &info,
    };
    Ok(json(StatusCode::ACCEPTED, &json!({ "volume": look.full(&volume) })))
}

/// `POST /manageable_snapshots`.
pub async fn manage_snapshot(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    uri: OriginalUri,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    check_path(&uri, version)?;
    let body = member(&body, "snapshot")?;
    let id = text(body, "volume_id").unwrap_or_default();
    let volume = volume_for(&api, &caller, &id, "volume:get")?;
    enforce(&caller, "snapshot_extension:snapshot_manage", volume.project())?;
    let stranger = stranger(&api, body).await?;
    let spec = SnapshotSpec {
        name: text(body, "name"),
        description: text(body, "description"),
        volume: volume.name().to_owned(),
        size_gib: size_gib(&stranger),
        volume_type: volume.spec.volume_type.clone(),
        user: caller.subject.user.id.clone(),
        metadata: words(body),
        file: Some(stranger.name),
        ..SnapshotSpec::default()
    };
    let made = api.store.transact::<_, Refusal>(caller.cause(), |tx| {
        let new = Resource::<Snapshot>::new(Metadata::with_id(volume.project()), spec.clone());
        Ok(tx.create(new)?)
    });
    let made = made.await.map_err(|Refusal(failure)| failure)?;
    let shown = snapshot::api::view(&made, version, &caller, false);
    Ok(json(StatusCode::ACCEPTED, &json!({ "snapshot": shown })))
}

/// `GET /manageable_volumes`.
pub async fn volumes(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    query: Query,
    uri: OriginalUri,
) -> Result<Response, Failure> {
    check_path(&uri, version)?;
    enforce(&caller, "volume_extension:list_manageable", caller.project()?)?;
    listed(&api, "manageable-volumes", &query, false).await
}

/// `GET /manageable_snapshots`.
pub async fn snapshots(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    query: Query,
    uri: OriginalUri,
) -> Result<Response, Failure> {
    check_path(&uri, version)?;
    enforce(&caller, "snapshot_extension:list_manageable", caller.project()?)?;
    listed(&api, "manageable-snapshots", &query, false).await
}

/// `GET …/detail`; there is no other word after these paths.
pub async fn detail(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    query: Query,
    uri: OriginalUri,
    Path(word): Path<String>,
) -> Result<Response, Failure> {
    check_path(&uri, version)?;
    let (rule, collection) = match uri.path().contains("snapshot") {
        true => ("snapshot_extension:list_manageable", "manageable-snapshots"),
        false => ("volume_extension:list_manageable", "manageable-volumes"),
    };
    enforce(&caller, rule, caller.project()?)?;
    if word != "detail" {
        return Err(Failure::not_found("The resource could not be found."));
    }
    listed(&api, collection, &query, true).await
}

async fn listed(api: &BlockApi, collection: &str, query: &Query, is_full: bool) -> Result<Response, Failure> {
    let required = || Failure::invalid("Either 'host' or 'cluster' must be specified.").at("host");
    check_host(api, query.get("host").ok_or_else(required)?)?;
    let wants_snapshots = collection == "manageable-snapshots";
    let failed = |error: crate::driver::BackEndError| Failure::internal(error.to_string());
    let mut known = api.back_end.strangers().await.map_err(failed)?;
    known.retain(|known| known.name.starts_with(SNAPSHOT) == wants_snapshots);
    known.sort_by(|a, b| a.name.cmp(&b.name));
    let number = |name: &'static str, absent: usize| {
        query.get(name).map_or(Ok(absent), |said| {
            let wrong =
                |_| Failure::invalid(format!("{name} must be a whole number of 0 or more, not {said}")).at(name);
            said.parse::<usize>().map_err(wrong)
        })
    };
    let (offset, limit) = (number("offset", 0)?, number("limit", 1000)?.min(1000));
    let page = known.iter().skip(offset).take(limit);
    let shown = page.map(|stranger| {
        let mut shown = json!({
            "reference": { "source-name": stranger.name },
            "size": size_gib(stranger),
            "safe_to_manage": true,
        });
        if wants_snapshots {
            shown["source_reference"] = json!({});
        }
        if is_full {
            shown["reason_not_safe"] = Value::Null;
            shown["cinder_id"] = Value::Null;
            shown["extra_info"] = Value::Null;
        }
        shown
    });
    let shown: Vec<Value> = shown.collect();
    Ok(json(StatusCode::OK, &json!({ collection: shown })))
}
