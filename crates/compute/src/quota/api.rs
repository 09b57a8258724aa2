//! `/os-quota-sets`, `/os-quota-class-sets` and `/limits`.

use std::sync::LazyLock;

use axum::{
    Router,
    extract::{Path, State},
    response::{IntoResponse, Response},
    routing::get,
};
use http::StatusCode;
use madang_http::{Failure, Json, Microversion, Query, Schema, json};
use madang_identity::Caller;
use madang_store::{Counters, Key, Kind as _, Metadata, Resource, Store};
use serde_json::{Map, Value, json};

use super::{COUNTERS, DEFAULTS, NETWORK_DEFAULTS, Quota, QuotaSpec, is_unified, limit, user_counters, user_limit};
use crate::api::{ComputeApi, enforce, failure, input};

/// The routes.
pub(crate) fn routes() -> Router<ComputeApi> {
    Router::new()
        .route("/limits", get(limits))
        .route("/os-quota-sets/{project}", get(show).put(update).delete(delete))
        .route("/os-quota-sets/{project}/defaults", get(defaults))
        .route("/os-quota-sets/{project}/detail", get(detail))
        .route("/os-quota-class-sets/{class}", get(show_class).put(update_class))
}

/// The resources that a microversion has: those of networks went with `networks_until`, files with 2.57.
fn names(version: Microversion, networks_until: u16) -> impl Iterator<Item = &'static str> {
    let has_networks = version < Microversion(2, networks_until);
    let has_files = version < Microversion(2, 57);
    let own = DEFAULTS.iter().map(|(name, _)| *name);
    let networks = NETWORK_DEFAULTS
        .iter()
        .map(|(name, _)| *name)
        .filter(move |_| has_networks);
    own.filter(move |name| has_files || !name.starts_with("injected_file"))
        .chain(networks)
}

/// Whose limits are meant: a project's, or one user's in it (`?user_id=`).
struct Of<'a> {
    project: &'a str,
    user: &'a str,
}

impl<'a> Of<'a> {
    fn read(project: &'a str, query: &'a Query) -> Self {
        let user = query.all("user_id").next().unwrap_or_default();
        Self { project, user }
    }

    fn limit(&self, store: &Store, name: &str) -> i64 {
        let limit = if self.user.is_empty() {
            limit(store, self.project, name)
        } else {
            user_limit(store, self.project, self.user, name)
        };
        limit.unwrap_or(-1)
    }

    fn used(&self, store: &Store) -> Counters {
        if self.user.is_empty() {
            store.counters(self.project, COUNTERS)
        } else {
            store.counters(self.project, &user_counters(self.user))
        }
    }

    fn limits(&self, store: &Store, version: Microversion) -> Map<String, Value> {
        names(version, 36)
            .map(|name| (name.to_owned(), json!(self.limit(store, name))))
            .collect()
    }
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
async fn show(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(project): Path<String>,
    query: Query,
) -> Result<Response, Failure> {
    enforce(&caller, "os_compute_api:os-quota-sets:show", &project)?;
    let of = Of::read(&project, &query);
    Ok(quota_set(of.limits(&api.store, version), Some(&project)))
}

/// `GET /os-quota-sets/{project}/defaults`.
async fn defaults(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(project): Path<String>,
) -> Result<Response, Failure> {
    enforce(&caller, "os_compute_api:os-quota-sets:defaults", &project)?;
    let of = Of { project: "", user: "" };
    Ok(quota_set(of.limits(&api.store, version), Some(&project)))
}

/// `GET /os-quota-sets/{project}/detail`.
async fn detail(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(project): Path<String>,
    query: Query,
) -> Result<Response, Failure> {
    enforce(&caller, "os_compute_api:os-quota-sets:detail", &project)?;
    let of = Of::read(&project, &query);
    let used = of.used(&api.store);
    let limits = of.limits(&api.store, version).into_iter().map(|(name, limit)| {
        let in_use = used.get(&name).copied().unwrap_or(0);
        (name, json!({ "limit": limit, "in_use": in_use, "reserved": 0 }))
    });
    Ok(quota_set(limits.collect(), Some(&project)))
}

/// The schema of an update; resources that the microversion has not are refused.
fn update_schema(member: &str, minor: u16, networks_until: u16) -> Schema {
    let number =
        json!({ "type": ["integer", "string"], "pattern": "^-?[0-9]+$", "minimum": -1, "maximum": 0x7fff_ffff });
    let names = names(Microversion(2, minor), networks_until);
    let mut properties: Map<String, Value> = names.map(|name| (name.to_owned(), number.clone())).collect();
    if member == "quota_set" {
        properties.insert("force".to_owned(), input::boolean());
    } else if minor < 50 {
        properties.retain(|name, _| !name.starts_with("server_group"));
    }
    input::nova(input::wrapped(member, Value::Object(properties), &[]))
}

/// The limits of a checked body.
fn wanted(set: &Value) -> Vec<(String, i64)> {
    let read = |value: &Value| value.as_i64().or_else(|| value.as_str()?.parse().ok());
    let members = set.as_object().into_iter().flatten();
    members
        .filter(|(name, _)| *name != "force")
        .filter_map(|(name, value)| Some((name.clone(), read(value)?)))
        .collect()
}

/// Writes limits of a project (with `""` those of all that have none), or of a user or class in the namespace.
async fn put(
    store: &Store,
    caller: &Caller,
    project: &str,
    namespace: &str,
    wanted: Vec<(String, i64)>,
) -> Result<(), Failure> {
    let key = Key::new(Quota::NAME, project, namespace, COUNTERS);
    let set = store.transact(caller.cause(), |tx| {
        let Some(old) = tx.get::<Quota>(&key) else {
            let spec = QuotaSpec {
                limits: wanted.iter().cloned().collect(),
            };
            let mut metadata = Metadata::new(project, COUNTERS);
            namespace.clone_into(&mut metadata.namespace);
            return tx.create(Resource::<Quota>::new(metadata, spec));
        };
        let mut new = (*old).clone();
        new.spec.limits.extend(wanted.iter().cloned());
        tx.update(&old, new)
    });
    set.await.map(|_| ()).map_err(failure)
}

/// `PUT /os-quota-sets/{project}`.
async fn update(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(project): Path<String>,
    query: Query,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    static OLD: LazyLock<Schema> = LazyLock::new(|| update_schema("quota_set", 1, 36));
    static PLAIN: LazyLock<Schema> = LazyLock::new(|| update_schema("quota_set", 36, 36));
    static NEW: LazyLock<Schema> = LazyLock::new(|| update_schema("quota_set", 57, 36));
    caller.enforce("os_compute_api:os-quota-sets:update", &[])?;
    let schema = match version {
        v if v >= Microversion(2, 57) => &NEW,
        v if v >= Microversion(2, 36) => &PLAIN,
        _ => &OLD,
    };
    schema.check(&body)?;
    let of = Of::read(&project, &query);
    // Where unified limits count, they are set there; what is sent here is taken and left alone, as Nova does.
    if !is_unified(&api.store) {
        let wanted = wanted(&body["quota_set"]);
        if !input::truth(&body["quota_set"]["force"]) {
            check_room(&api.store, &of, &wanted)?;
        }
        put(&api.store, &caller, &project, of.user, wanted).await?;
    }
    Ok(quota_set(of.limits(&api.store, version), None))
}

/// A limit is not below what is used, nor a user's above the project's.
fn check_room(store: &Store, of: &Of<'_>, wanted: &[(String, i64)]) -> Result<(), Failure> {
    let used = of.used(store);
    let endless = |limit: i64| if limit < 0 { i64::MAX } else { limit };
    for (name, wanted) in wanted {
        let in_use = used.get(name).copied().unwrap_or(0);
        if endless(*wanted) < in_use {
            let message = format!(
                "Quota limit {wanted} for {name} must be greater than or equal to already used and reserved {in_use}."
            );
            return Err(Failure::invalid(message).at(name));
        }
        let most = limit(store, of.project, name).unwrap_or(-1);
        if !of.user.is_empty() && endless(*wanted) > endless(most) {
            let message = format!("Quota limit {wanted} for {name} must be less than or equal to {most}.");
            return Err(Failure::invalid(message).at(name));
        }
    }
    Ok(())
}

/// `DELETE /os-quota-sets/{project}`: back to the defaults, for the project and its users, or for one user.
async fn delete(
    State(api): State<ComputeApi>,
    caller: Caller,
    Path(project): Path<String>,
    query: Query,
) -> Result<Response, Failure> {
    caller.enforce("os_compute_api:os-quota-sets:delete", &[])?;
    let of = Of::read(&project, &query);
    if is_unified(&api.store) {
        return Ok(StatusCode::ACCEPTED.into_response());
    }
    let gone = api
        .store
        .transact::<(), madang_store::StoreError>(caller.cause(), |tx| {
            let mut quotas = tx.store().cache::<Quota>().in_project(&project);
            quotas.retain(|quota| of.user.is_empty() || quota.metadata.namespace == of.user);
            quotas.iter().try_for_each(|quota| tx.delete(quota))
        });
    gone.await.map_err(failure)?;
    Ok(StatusCode::ACCEPTED.into_response())
}

/// The class whose limits are those of projects without their own. Others are kept and shown, and hold for nobody.
const DEFAULT_CLASS: &str = "default";

fn class_namespace(class: &str) -> &str {
    if class == DEFAULT_CLASS { "" } else { class }
}

fn class_set(store: &Store, version: Microversion, class: &str, has_id: bool) -> Response {
    let of = Of {
        project: "",
        user: class_namespace(class),
    };
    let mut set: Map<String, Value> = names(version, 50)
        .map(|name| (name.to_owned(), json!(of.limit(store, name))))
        .collect();
    // Groups came to quota classes with 2.50.
    if version < Microversion(2, 50) {
        set.retain(|name, _| !name.starts_with("server_group"));
    }
    if has_id {
        set.insert("id".to_owned(), json!(class));
    }
    json(StatusCode::OK, &json!({ "quota_class_set": set }))
}

/// `GET /os-quota-class-sets/{class}`.
async fn show_class(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(class): Path<String>,
) -> Result<Response, Failure> {
    caller.enforce("os_compute_api:os-quota-class-sets:show", &[])?;
    Ok(class_set(&api.store, version, &class, true))
}

/// `PUT /os-quota-class-sets/{class}`: what projects without their own limits have.
async fn update_class(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(class): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    static OLD: LazyLock<Schema> = LazyLock::new(|| update_schema("quota_class_set", 1, 50));
    static PLAIN: LazyLock<Schema> = LazyLock::new(|| update_schema("quota_class_set", 50, 50));
    static NEW: LazyLock<Schema> = LazyLock::new(|| update_schema("quota_class_set", 57, 50));
    caller.enforce("os_compute_api:os-quota-class-sets:update", &[])?;
    let schema = match version {
        v if v >= Microversion(2, 57) => &NEW,
        v if v >= Microversion(2, 50) => &PLAIN,
        _ => &OLD,
    };
    schema.check(&body)?;
    if class.len() > 255 {
        return Err(Failure::invalid(
            "Invalid input received: quota_class_name has more than 255 characters.",
        ));
    }
    if !is_unified(&api.store) {
        let wanted = wanted(&body["quota_class_set"]);
        put(&api.store, &caller, "", class_namespace(&class), wanted).await?;
    }
    Ok(class_set(&api.store, version, &class, false))
}

/// Nova's name of a limit, the resource, and until which microversion it is there.
const ABSOLUTE: &[(&str, &str, u16)] = &[
    ("maxTotalInstances", "instances", u16::MAX),
    ("maxTotalCores", "cores", u16::MAX),
    ("maxTotalRAMSize", "ram", u16::MAX),
    ("maxServerMeta", "metadata_items", u16::MAX),
    ("maxImageMeta", "metadata_items", 38),
    ("maxTotalKeypairs", "key_pairs", u16::MAX),
    ("maxServerGroups", "server_groups", u16::MAX),
    ("maxServerGroupMembers", "server_group_members", u16::MAX),
    ("maxPersonality", "injected_files", 56),
    ("maxPersonalitySize", "injected_file_content_bytes", 56),
    ("maxSecurityGroups", "security_groups", 35),
    ("maxSecurityGroupRules", "security_group_rules", 35),
    ("maxTotalFloatingIps", "floating_ips", 35),
];

/// Nova's name of a usage, the resource, and until which microversion it is there.
const USED: &[(&str, &str, u16)] = &[
    ("totalInstancesUsed", "instances", u16::MAX),
    ("totalCoresUsed", "cores", u16::MAX),
    ("totalRAMUsed", "ram", u16::MAX),
    ("totalServerGroupsUsed", "server_groups", u16::MAX),
    ("totalSecurityGroupsUsed", "security_groups", 35),
    ("totalFloatingIpsUsed", "floating_ips", 35),
];

/// `GET /limits`.
async fn limits(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    query: Query,
) -> Result<Response, Failure> {
    let own = caller.subject.project_id().unwrap_or_default();
    enforce(&caller, "os_compute_api:limits", own)?;
    let asked = query.get("tenant_id");
    if asked.is_some() {
        caller.enforce("os_compute_api:limits:other_project", &[])?;
    }
    let project = asked.unwrap_or(own);
    let used = api.store.counters(project, COUNTERS);
    let is_there = |until: u16| version <= Microversion(2, until);
    let mut absolute = Map::new();
    for (name, resource, _) in ABSOLUTE.iter().filter(|(.., until)| is_there(*until)) {
        let most = limit(&api.store, project, resource).unwrap_or(-1);
        absolute.insert((*name).to_owned(), json!(most));
    }
    for (name, resource, _) in USED.iter().filter(|(.., until)| is_there(*until)) {
        let used = used.get(*resource).copied().unwrap_or(0);
        absolute.insert((*name).to_owned(), json!(used));
    }
    Ok(json(
        StatusCode::OK,
        &json!({ "limits": { "rate": [], "absolute": absolute } }),
    ))
}
