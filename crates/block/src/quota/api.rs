//! `/os-quota-sets`, `/os-quota-class-sets` and `/limits`.

use axum::{
    extract::{Path, State},
    response::{IntoResponse as _, Response},
};
use http::StatusCode;
use madang_http::{Failure, Json, Query, json};
use madang_identity::Caller;
use madang_store::{Metadata, Resource, Store};
use serde_json::{Map, Value, json};

use super::{BY_TYPE, COUNTERS, DEFAULTS, Quota, QuotaSpec, key, limit, of_type};
use crate::{
    api::{BlockApi, enforce, failure, member},
    volume_type::VolumeType,
};

/// Every resource by the name that the API has for it, and the one under which it is counted and limited. Those of types
/// that a caller may not know of are left out, since their names would tell.
fn resources(store: &Store, caller: &Caller) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = DEFAULTS
        .iter()
        .map(|(name, _)| ((*name).to_owned(), (*name).to_owned()))
        .collect();
    let project = caller.subject.project_id().unwrap_or_default();
    let is_known = |of: &Resource<VolumeType>| caller.is_admin() || of.spec.is_open_to(project);
    let types = store.cache::<VolumeType>().all();
    for volume_type in types.iter().filter(|of| is_known(of)) {
        let each = |name: &&str| {
            (
                format!("{name}_{}", volume_type.spec.name),
                of_type(name, volume_type.name()),
            )
        };
        all.extend(BY_TYPE.iter().map(each));
    }
    all
}

fn limits_of(store: &Store, caller: &Caller, project: &str) -> Map<String, Value> {
    let shown = resources(store, caller).into_iter();
    shown
        .map(|(name, counted)| (name, json!(limit(store, project, &counted).unwrap_or(-1))))
        .collect()
}

fn quota_set(limits: Map<String, Value>, id: Option<&str>) -> Response {
    let mut set = limits;
    if let Some(id) = id {
        set.insert("id".to_owned(), json!(id));
    }
    json(StatusCode::OK, &json!({ "quota_set": set }))
}

/// `GET /os-quota-sets/{project}`, with what is used where `usage` is asked.
pub async fn show(
    State(api): State<BlockApi>,
    caller: Caller,
    Path(project): Path<String>,
    query: Query,
) -> Result<Response, Failure> {
    enforce(&caller, "volume_extension:quotas:show", &project)?;
    if !query.flag("usage")?.unwrap_or(false) {
        return Ok(quota_set(limits_of(&api.store, &caller, &project), Some(&project)));
    }
    let used = api.store.counters(&project, COUNTERS);
    let shown = resources(&api.store, &caller).into_iter().map(|(name, counted)| {
        let in_use = used.get(&counted).copied().unwrap_or(0);
        let limit = limit(&api.store, &project, &counted).unwrap_or(-1);
        (
            name,
            json!({ "limit": limit, "in_use": in_use, "reserved": 0, "allocated": 0 }),
        )
    });
    Ok(quota_set(shown.collect(), Some(&project)))
}

/// `GET /os-quota-sets/{project}/defaults`.
pub async fn defaults(
    State(api): State<BlockApi>,
    caller: Caller,
    Path(project): Path<String>,
) -> Result<Response, Failure> {
    enforce(&caller, "volume_extension:quotas:show", &project)?;
    Ok(quota_set(limits_of(&api.store, &caller, ""), Some(&project)))
}

/// The limits of a body, by the names under which they are kept.
fn wanted(store: &Store, caller: &Caller, set: &Map<String, Value>) -> Result<Vec<(String, i64)>, Failure> {
    let known = resources(store, caller);
    let mut wanted = Vec::new();
    for (name, value) in set {
        if ["id", "tenant_id", "project_id", "class_name"].contains(&name.as_str()) {
            continue;
        }
        let number = value.as_i64().or_else(|| value.as_str()?.parse().ok());
        let fits = number.filter(|number| (-1..=0x7fff_ffff).contains(number));
        let bad = || {
            Failure::invalid(format!(
                "Invalid input for field/attribute quota_set. Value: {value} for {name} is not a limit."
            ))
            .at(name)
        };
        let number = fits.ok_or_else(bad)?;
        match known.iter().find(|(shown, _)| shown == name) {
            Some((_, counted)) => wanted.push((counted.clone(), number)),
            None => return Err(Failure::invalid(format!("Bad key(s) in quota set: {name}")).at(name)),
        }
    }
    Ok(wanted)
}

/// Writes limits of a project, or with `""` those of all that have none.
async fn put(store: &Store, caller: &Caller, project: &str, wanted: &[(String, i64)]) -> Result<(), Failure> {
    let key = key(project);
    let set = store.transact(caller.cause(), |tx| {
        let Some(old) = tx.get::<Quota>(&key) else {
            let spec = QuotaSpec {
                limits: wanted.iter().cloned().collect(),
            };
            return tx.create(Resource::<Quota>::new(Metadata::new(project, COUNTERS), spec));
        };
        let mut new = (*old).clone();
        new.spec.limits.extend(wanted.iter().cloned());
        tx.update(&old, new)
    });
    set.await.map(|_| ()).map_err(failure)
}

/// `PUT /os-quota-sets/{project}`.
pub async fn update(
    State(api): State<BlockApi>,
    caller: Caller,
    Path(project): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    caller.enforce("volume_extension:quotas:update", &[])?;
    let wanted = wanted(&api.store, &caller, member(&body, "quota_set")?)?;
    put(&api.store, &caller, &project, &wanted).await?;
    Ok(quota_set(limits_of(&api.store, &caller, &project), None))
}

/// `DELETE /os-quota-sets/{project}`: back to the defaults.
pub async fn delete(
    State(api): State<BlockApi>,
    caller: Caller,
    Path(project): Path<String>,
) -> Result<Response, Failure> {
    caller.enforce("volume_extension:quotas:delete", &[])?;
    if let Some(quota) = api.store.get::<Quota>(&key(&project)) {
        let mut tx = api.store.begin(caller.cause());
        tx.delete(&quota).map_err(failure)?;
        tx.commit().await.map_err(failure)?;
    }
    Ok(StatusCode::OK.into_response())
}

fn class_set(store: &Store, caller: &Caller, class: &str) -> Response {
    let mut set = limits_of(store, caller, "");
    set.insert("id".to_owned(), json!(class));
    json(StatusCode::OK, &json!({ "quota_class_set": set }))
}

/// `GET /os-quota-class-sets/{class}`.
pub async fn show_class(
    State(api): State<BlockApi>,
    caller: Caller,
    Path(class): Path<String>,
) -> Result<Response, Failure> {
    caller.enforce("volume_extension:quota_classes:get", &[])?;
    Ok(class_set(&api.store, &caller, &class))
}

/// `PUT /os-quota-class-sets/{class}`: what projects without their own limits have.
pub async fn update_class(
    State(api): State<BlockApi>,
    caller: Caller,
    Path(class): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    caller.enforce("volume_extension:quota_classes:update", &[])?;
    let wanted = wanted(&api.store, &caller, member(&body, "quota_class_set")?)?;
    if class == "default" {
        put(&api.store, &caller, "", &wanted).await?;
    }
    let mut set = limits_of(&api.store, &caller, "");
    if class != "default" {
        // Other classes are nobody's: they say back what was said.
        let said = member(&body, "quota_class_set")?;
        set.extend(said.iter().map(|(name, value)| (name.clone(), value.clone())));
    }
    Ok(json(StatusCode::OK, &json!({ "quota_class_set": set })))
}

/// `GET /limits`.
pub async fn limits(State(api): State<BlockApi>, caller: Caller, query: Query) -> Result<Response, Failure> {
    let own = caller.project()?;
    let asked = query.get("project_id").filter(|_| caller.is_admin());
    let project = asked.unwrap_or(own);
    enforce(&caller, "limits_extension:used_limits", project)?;
    let most = |name: &str| json!(limit(&api.store, project, name).unwrap_or(-1));
    let used = api.store.counters(project, COUNTERS);
    let used = |name: &str| json!(used.get(name).copied().unwrap_or(0));
    let absolute = json!({
        "maxTotalVolumes": most("volumes"),
        "maxTotalSnapshots": most("snapshots"),
        "maxTotalVolumeGigabytes": most("gigabytes"),
        "maxTotalBackups": most("backups"),
        "maxTotalBackupGigabytes": most("backup_gigabytes"),
        "totalVolumesUsed": used("volumes"),
        "totalSnapshotsUsed": used("snapshots"),
        "totalGigabytesUsed": used("gigabytes"),
        "totalBackupsUsed": used("backups"),
        "totalBackupGigabytesUsed": used("backup_gigabytes"),
    });
    Ok(json(
        StatusCode::OK,
        &json!({ "limits": { "rate": [], "absolute": absolute } }),
    ))
}
