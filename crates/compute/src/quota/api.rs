//! `/os-quota-sets` and `/limits`.

use std::sync::LazyLock;

use axum::{
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use http::StatusCode;
use madang_http::{Failure, Form, Json, Microversion, Query, Schema, json};
use madang_identity::Caller;
use madang_store::{Key, Kind as _, Metadata, Resource, Store};
use serde_json::{Map, Value, json};

use super::{COUNTERS, DEFAULTS, Quota, QuotaSpec, limit};
use crate::api::{ComputeApi, enforce, failure};

/// Resources of the networks before Neutron, shown up to 2.35 with what they had when nothing was set.
const NETWORK_DEFAULTS: &[(&str, i64)] = &[
    ("fixed_ips", -1),
    ("floating_ips", -1),
    ("security_groups", -1),
    ("security_group_rules", -1),
];

fn shown(version: Microversion, name: &str) -> bool {
    let injected = name.starts_with("injected_file");
    !(injected && version >= Microversion(2, 57))
}

fn limits_of(store: &Store, project: &str, version: Microversion) -> Map<String, Value> {
    let mut limits = Map::new();
    for (name, _) in DEFAULTS.iter().filter(|(name, _)| shown(version, name)) {
        limits.insert((*name).to_owned(), json!(limit(store, project, name).unwrap_or(-1)));
    }
    if version < Microversion(2, 36) {
        limits.extend(
            NETWORK_DEFAULTS
                .iter()
                .map(|(name, limit)| ((*name).to_owned(), json!(limit))),
        );
    }
    limits
}

fn quota_set(limits: Map<String, Value>, id: Option<&str>) -> Response {
    let mut set = Map::new();
    if let Some(id) = id {
        set.insert("id".to_owned(), json!(id));
    }
    set.extend(limits);
    json(StatusCode::OK, &json!({ "quota_set": set }))
}

/// `GET /os-quota-sets/{project}`.
pub async fn show(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(project): Path<String>,
) -> Result<Response, Failure> {
    enforce(&caller, "os_compute_api:os-quota-sets:show", &project)?;
    Ok(quota_set(limits_of(&api.store, &project, version), Some(&project)))
}

/// `GET /os-quota-sets/{project}/defaults`.
pub async fn defaults(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(project): Path<String>,
) -> Result<Response, Failure> {
    enforce(&caller, "os_compute_api:os-quota-sets:defaults", &project)?;
    Ok(quota_set(limits_of(&api.store, "", version), Some(&project)))
}

/// `GET /os-quota-sets/{project}/detail`.
pub async fn detail(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(project): Path<String>,
) -> Result<Response, Failure> {
    enforce(&caller, "os_compute_api:os-quota-sets:detail", &project)?;
    let used = api.store.counters(&project, COUNTERS);
    let limits = limits_of(&api.store, &project, version)
        .into_iter()
        .map(|(name, limit)| {
            let in_use = used.get(&name).copied().unwrap_or(0);
            (name, json!({ "limit": limit, "in_use": in_use, "reserved": 0 }))
        });
    Ok(quota_set(limits.collect(), Some(&project)))
}

fn update_schema(member: &str) -> Value {
    let number = json!({ "type": ["integer", "string"], "pattern": "^-?[0-9]+$", "minLength": 1, "minimum": -1,
                         "maximum": 0x7fff_ffff });
    let names = DEFAULTS
        .iter()
        .chain(NETWORK_DEFAULTS)
        .map(|(name, _)| ((*name).to_owned(), number.clone()));
    let mut properties: Map<String, Value> = names.collect();
    properties.insert("force".to_owned(), json!({ "type": ["boolean", "string"] }));
    json!({
        "type": "object",
        "properties": { member: { "type": "object", "properties": properties, "additionalProperties": false } },
        "required": [member],
        "additionalProperties": false,
    })
}

fn class_set(store: &Store, version: Microversion, class: &str, has_id: bool) -> Response {
    let mut set = limits_of(store, "", version);
    // Groups came to quota classes with 2.50.
    if version < Microversion(2, 50) {
        set.retain(|name, _| !name.starts_with("server_group"));
    }
    if has_id {
        set.insert("id".to_owned(), json!(class));
    }
    json(StatusCode::OK, &json!({ "quota_class_set": set }))
}

/// The only class there is; its limits are those of projects without their own.
fn check_class(class: &str) -> Result<(), Failure> {
    if class == "default" {
        return Ok(());
    }
    Err(Failure::not_found(format!(
        "Quota class {class} could not be found: there is only default."
    )))
}

/// `GET /os-quota-class-sets/{class}`.
pub async fn show_class(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(class): Path<String>,
) -> Result<Response, Failure> {
    caller.enforce("os_compute_api:os-quota-class-sets:show", &[])?;
    check_class(&class)?;
    Ok(class_set(&api.store, version, &class, true))
}

/// `PUT /os-quota-class-sets/{class}`: what projects without their own limits have.
pub async fn update_class(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(class): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    static UPDATE: LazyLock<Schema> = LazyLock::new(|| Schema::new(Form::Nova, update_schema("quota_class_set")));
    caller.enforce("os_compute_api:os-quota-class-sets:update", &[])?;
    UPDATE.check(&body)?;
    check_class(&class)?;
    put(&api.store, &caller, "", wanted(&body["quota_class_set"])).await?;
    Ok(class_set(&api.store, version, &class, false))
}

/// The limits of a checked body that are this cloud's to keep.
fn wanted(set: &Value) -> Vec<(String, i64)> {
    let read = |value: &Value| value.as_i64().or_else(|| value.as_str()?.parse().ok());
    let members = set.as_object().into_iter().flatten();
    members
        .filter(|(name, _)| DEFAULTS.iter().any(|(known, _)| known == name))
        .filter_map(|(name, value)| Some((name.clone(), read(value)?)))
        .collect()
}

/// Writes limits of a project, or with `""` those of all that have none.
async fn put(store: &Store, caller: &Caller, project: &str, wanted: Vec<(String, i64)>) -> Result<(), Failure> {
    let key = Key::new(Quota::NAME, project, "", COUNTERS);
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
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(project): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    static UPDATE: LazyLock<Schema> = LazyLock::new(|| Schema::new(Form::Nova, update_schema("quota_set")));
    caller.enforce("os_compute_api:os-quota-sets:update", &[])?;
    UPDATE.check(&body)?;
    let wanted = wanted(&body["quota_set"]);
    let force = body["quota_set"]
        .get("force")
        .is_some_and(|f| f == true || f == "true" || f == "True");
    let used = api.store.counters(&project, COUNTERS);
    for (name, limit) in &wanted {
        let in_use = used.get(name).copied().unwrap_or(0);
        if !force && *limit >= 0 && *limit < in_use {
            let message = format!(
                "Quota limit {limit} for {name} must be greater than or equal to already used and reserved {in_use}."
            );
            return Err(Failure::invalid(message).at(name));
        }
    }
    put(&api.store, &caller, &project, wanted).await?;
    Ok(quota_set(limits_of(&api.store, &project, version), None))
}

/// `DELETE /os-quota-sets/{project}`: back to the defaults.
pub async fn delete(
    State(api): State<ComputeApi>,
    caller: Caller,
    Path(project): Path<String>,
) -> Result<Response, Failure> {
    caller.enforce("os_compute_api:os-quota-sets:delete", &[])?;
    if let Some(quota) = api.store.get::<Quota>(&Key::new(Quota::NAME, &project, "", COUNTERS)) {
        let mut tx = api.store.begin(caller.cause());
        tx.delete(&quota).map_err(failure)?;
        tx.commit().await.map_err(failure)?;
    }
    Ok(StatusCode::ACCEPTED.into_response())
}

/// `GET /limits`.
pub async fn limits(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    query: Query,
) -> Result<Response, Failure> {
    let own = caller.subject.project_id().unwrap_or_default();
    enforce(&caller, "os_compute_api:limits", own)?;
    let asked = query.get("tenant_id");
    if asked.is_some_and(|project| project != own) {
        caller.enforce("os_compute_api:limits:other_project", &[])?;
    }
    let project = asked.unwrap_or(own);
    let most = |name: &str| json!(limit(&api.store, project, name).unwrap_or(-1));
    let used = api.store.counters(project, COUNTERS);
    let used = |name: &str| json!(used.get(name).copied().unwrap_or(0));
    let mut absolute = json!({
        "maxTotalInstances": most("instances"),
        "maxTotalCores": most("cores"),
        "maxTotalRAMSize": most("ram"),
        "maxServerMeta": most("metadata_items"),
        "maxTotalKeypairs": most("key_pairs"),
        "maxServerGroups": most("server_groups"),
        "maxServerGroupMembers": most("server_group_members"),
        "totalInstancesUsed": used("instances"),
        "totalCoresUsed": used("cores"),
        "totalRAMUsed": used("ram"),
        "totalServerGroupsUsed": used("server_groups"),
    });
    if version < Microversion(2, 57) {
        absolute["maxPersonality"] = most("injected_files");
        absolute["maxPersonalitySize"] = most("injected_file_content_bytes");
    }
    if version < Microversion(2, 39) {
        absolute["maxImageMeta"] = most("metadata_items");
    }
    if version < Microversion(2, 36) {
        for name in ["maxSecurityGroups", "maxSecurityGroupRules", "maxTotalFloatingIps"] {
            absolute[name] = json!(-1);
        }
        absolute["totalSecurityGroupsUsed"] = json!(0);
        absolute["totalFloatingIpsUsed"] = json!(0);
    }
    Ok(json(
        StatusCode::OK,
        &json!({ "limits": { "rate": [], "absolute": absolute } }),
    ))
}
