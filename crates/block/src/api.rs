//! Cinder's API over this crate's verbs: the router, its versions, and what all handlers share.

pub mod listing;
pub(crate) mod metadata;
mod policy;
mod project;
mod service;
mod versions;

use std::sync::Arc;

use axum::{
    Router,
    routing::{any, get, post, put},
};
use http::StatusCode;
use jiff::{Timestamp, tz::TimeZone};
pub(crate) use madang_http::write_failure as failure;
use madang_http::{Face, Failure, Metrics, Microversion, Microversions, RequestInfo, Shape};
use madang_identity::Caller;
use madang_store::{Resource, Store};
use serde_json::{Value, json};

pub use policy::POLICY;

use crate::{
    attachment, backup,
    driver::BackEnd,
    group, group_snapshot, group_type, manage, message, qos, quota, snapshot, transfer,
    vault::Vault,
    volume::{self, Volume},
    volume_type,
};

/// The newest microversion spoken.
pub const NEWEST: Microversion = Microversion(3, 71);
/// The oldest, and what a request without the header gets.
pub const OLDEST: Microversion = Microversion(3, 0);
/// The zone of this cloud's volumes.
pub const ZONE: &str = "nova";

/// What handlers work with.
#[derive(Clone)]
pub struct BlockApi {
    /// The store.
    pub store: Store,
    /// The host of the back end.
    pub host: String,
    /// The back end, for what it says of itself.
    pub back_end: Arc<dyn BackEnd>,
    /// What keeps backups, for looking at what is brought in.
    pub vault: Arc<dyn Vault>,
}

/// The router, to be nested at `/volume`. `authenticate` wraps the part that needs a token.
pub fn router(api: BlockApi, metrics: &Metrics, authenticate: impl FnOnce(Router) -> Router) -> Router {
    let routes = volumes()
        .merge(snapshots())
        .merge(backups())
        .merge(transfers())
        .merge(groups())
        .merge(manageable())
        .merge(types())
        .merge(operations())
        .with_state(api)
        .layer(axum::middleware::from_fn(project::check));
    let authenticated = authenticate(routes);
    let microversions = Microversions::new("volume", OLDEST, NEWEST);
    let v3 = microversions.wrap(authenticated.merge(Router::new().route("/", any(versions::v3))));
    let all = Router::new()
        .route("/", get(versions::all))
        .route("/v3/", get(versions::v3))
        .nest("/v3", v3);
    // Outside of the face: it would answer for what no route of its own takes.
    project::outside(Face::new("volume", Shape::Cinder).wrap(all, metrics))
}

fn volumes() -> Router<BlockApi> {
    use volume::api::{actions, metadata};
    Router::new()
        .route("/volumes", get(volume::api::list).post(volume::api::create))
        .route("/volumes/detail", get(volume::api::detail))
        .route("/volumes/summary", get(volume::api::summary))
        .route(
            "/volumes/{id}",
            get(volume::api::show)
                .put(volume::api::update)
                .delete(volume::api::delete),
        )
        .route("/volumes/{id}/action", post(actions::act))
        .route(
            "/volumes/{id}/metadata",
            get(metadata::list).post(metadata::merge).put(metadata::replace),
        )
        .route(
            "/volumes/{id}/metadata/{key}",
            get(metadata::show).put(metadata::set).delete(metadata::remove),
        )
        .route("/volumes/{id}/encryption", get(volume::api::encryption))
        .route("/volumes/{id}/encryption/{key}", get(volume::api::encryption_item))
        .route("/attachments", get(attachment::api::list).post(attachment::api::create))
        .route("/attachments/detail", get(attachment::api::detail))
        .route("/attachments/summary", get(attachment::api::list))
        .route(
            "/attachments/{id}",
            get(attachment::api::show)
                .put(attachment::api::update)
                .delete(attachment::api::delete),
        )
        .route("/attachments/{id}/action", post(attachment::api::act))
}

fn snapshots() -> Router<BlockApi> {
    use snapshot::api::metadata;
    Router::new()
        .route("/snapshots", get(snapshot::api::list).post(snapshot::api::create))
        .route("/snapshots/detail", get(snapshot::api::detail))
        .route(
            "/snapshots/{id}",
            get(snapshot::api::show)
                .put(snapshot::api::update)
                .delete(snapshot::api::delete),
        )
        .route("/snapshots/{id}/action", post(snapshot::api::act))
        .route(
            "/snapshots/{id}/metadata",
            get(metadata::list).post(metadata::merge).put(metadata::replace),
        )
        .route(
            "/snapshots/{id}/metadata/{key}",
            get(metadata::show).put(metadata::set).delete(metadata::remove),
        )
}

fn backups() -> Router<BlockApi> {
    use backup::api;
    Router::new()
        .route("/backups", get(api::list).post(api::create))
        .route("/backups/detail", get(api::detail))
        .route("/backups/import_record", post(api::import))
        .route("/backups/{id}", get(api::show).put(api::update).delete(api::delete))
        .route("/backups/{id}/restore", post(api::restore))
        .route("/backups/{id}/export_record", get(api::export))
        .route("/backups/{id}/action", post(api::act))
}

fn transfers() -> Router<BlockApi> {
    use transfer::api;
    let mut router = Router::new();
    for path in ["/os-volume-transfer", "/volume-transfers"] {
        router = router
            .route(path, get(api::list).post(api::create))
            .route(&format!("{path}/detail"), get(api::detail))
            .route(&format!("{path}/{{id}}"), get(api::show).delete(api::delete))
            .route(&format!("{path}/{{id}}/accept"), post(api::accept));
    }
    router
}

fn groups() -> Router<BlockApi> {
    Router::new()
        .route("/group_types", get(group_type::api::list).post(group_type::api::create))
        .route(
            "/group_types/{id}",
            get(group_type::api::show)
                .put(group_type::api::update)
                .delete(group_type::api::delete),
        )
        .route(
            "/group_types/{id}/group_specs",
            get(group_type::api::list_specs).post(group_type::api::merge_specs),
        )
        .route(
            "/group_types/{id}/group_specs/{key}",
            get(group_type::api::show_spec)
                .put(group_type::api::set_spec)
                .delete(group_type::api::remove_spec),
        )
        .route("/groups", get(group::api::list).post(group::api::create))
        .route("/groups/detail", get(group::api::detail))
        .route("/groups/action", post(group::api::create_from))
        .route("/groups/{id}", get(group::api::show).put(group::api::update))
        .route("/groups/{id}/action", post(group::api::act))
        .route(
            "/group_snapshots",
            get(group_snapshot::api::list).post(group_snapshot::api::create),
        )
        .route("/group_snapshots/detail", get(group_snapshot::api::detail))
        .route(
            "/group_snapshots/{id}",
            get(group_snapshot::api::show).delete(group_snapshot::api::delete),
        )
        .route("/group_snapshots/{id}/action", post(group_snapshot::api::act))
}

fn manageable() -> Router<BlockApi> {
    use manage::api;
    let mut router = Router::new();
    for path in ["/os-volume-manage", "/manageable_volumes"] {
        router = router
            .route(path, get(api::volumes).post(api::manage_volume))
            .route(&format!("{path}/{{word}}"), get(api::detail));
    }
    for path in ["/os-snapshot-manage", "/manageable_snapshots"] {
        router = router
            .route(path, get(api::snapshots).post(api::manage_snapshot))
            .route(&format!("{path}/{{word}}"), get(api::detail));
    }
    router
}

fn types() -> Router<BlockApi> {
    use volume_type::{api, specs};
    Router::new()
        .route("/types", get(api::list).post(api::create))
        .route("/types/{id}", get(api::show).put(api::update).delete(api::delete))
        .route("/types/{id}/action", post(api::act))
        .route("/types/{id}/os-volume-type-access", get(api::access))
        .route("/types/{id}/extra_specs", get(specs::list).post(specs::merge))
        .route(
            "/types/{id}/extra_specs/{key}",
            get(specs::show).put(specs::set).delete(specs::remove),
        )
        .route("/types/{id}/encryption", get(specs::encryption).post(specs::encrypt))
        .route(
            "/types/{id}/encryption/{key}",
            get(specs::encryption_item)
                .put(specs::update_encryption)
                .delete(specs::remove_encryption),
        )
        .route("/default-types", get(api::default_types))
        .route(
            "/default-types/{project}",
            get(api::default_type)
                .put(api::set_default_type)
                .delete(api::unset_default_type),
        )
        .route("/qos-specs", get(qos::api::list).post(qos::api::create))
        .route(
            "/qos-specs/{id}",
            get(qos::api::show).put(qos::api::update).delete(qos::api::delete),
        )
        .route("/qos-specs/{id}/delete_keys", put(qos::api::delete_keys))
        .route("/qos-specs/{id}/associations", get(qos::api::associations))
        .route("/qos-specs/{id}/associate", get(qos::api::associate))
        .route("/qos-specs/{id}/disassociate", get(qos::api::disassociate))
        .route("/qos-specs/{id}/disassociate_all", get(qos::api::disassociate_all))
}

fn operations() -> Router<BlockApi> {
    Router::new()
        .route("/limits", get(quota::api::limits))
        .route(
            "/os-quota-sets/{project}",
            get(quota::api::show).put(quota::api::update).delete(quota::api::delete),
        )
        .route("/os-quota-sets/{project}/defaults", get(quota::api::defaults))
        .route(
            "/os-quota-class-sets/{class}",
            get(quota::api::show_class).put(quota::api::update_class),
        )
        .route("/os-availability-zone", get(service::zones))
        .route("/os-services", get(service::list))
        .route("/os-services/{action}", put(service::act))
        .route("/os-hosts", get(service::hosts))
        .route("/os-hosts/{host}", get(service::host))
        .route("/scheduler-stats/get_pools", get(service::pools))
        .route("/capabilities/{host}", get(service::capabilities))
        .route("/extensions", get(versions::extensions))
        .route("/extensions/{alias}", get(versions::extension))
        .route("/resource_filters", get(service::resource_filters))
        .route("/messages", get(message::api::list))
        .route("/messages/{id}", get(message::api::show).delete(message::api::delete))
        .route("/clusters", get(service::clusters))
        .route("/clusters/detail", get(service::clusters))
        .route("/workers/cleanup", post(service::clean_up))
}

/// Where the service is, as the client names it: `http://127.0.0.1:8000/volume`.
pub(crate) fn base(info: &RequestInfo) -> String {
    let url = info.url();
    let end = url.find("/v3").unwrap_or(url.len());
    url[..end].trim_end_matches('/').to_owned()
}

/// Requires that a caller may do `rule` to what belongs to `project`, which it may know of.
pub(crate) fn enforce(caller: &Caller, rule: &str, project: &str) -> Result<(), Failure> {
    caller.enforce_in(rule, project)
}

/// The volume, if the caller may know of it and do `rule` to it.
pub(crate) fn volume_for(
    api: &BlockApi,
    caller: &Caller,
    id: &str,
    rule: &str,
) -> Result<Arc<Resource<Volume>>, Failure> {
    let volume = api.store.cache::<Volume>().by_name(id);
    let volume = volume.filter(|volume| caller.can_see(volume.project()));
    let volume = volume.ok_or_else(|| Failure::not_found(format!("Volume {id} could not be found.")))?;
    enforce(caller, rule, volume.project())?;
    Ok(volume)
}

/// `2026-11-21T02:30:00.000000`, as Cinder writes times.
pub(crate) fn micros(at: Timestamp) -> String {
    at.to_zoned(TimeZone::UTC).strftime("%Y-%m-%dT%H:%M:%S.%6f").to_string()
}

/// When something was last changed, as Cinder says it: not at all for what never was.
pub(crate) fn updated<K: madang_store::Kind>(resource: &Resource<K>) -> Option<String> {
    let metadata = &resource.metadata;
    (metadata.updated != metadata.created).then(|| micros(metadata.updated))
}

/// The links of something.
pub(crate) fn links(info: &RequestInfo, caller: &Caller, collection: &str, id: &str) -> Value {
    let base = base(info);
    let project = caller.subject.project_id().unwrap_or_default();
    json!([
        { "rel": "self", "href": format!("{base}/v3/{project}/{collection}/{id}") },
        { "rel": "bookmark", "href": format!("{base}/{project}/{collection}/{id}") },
    ])
}

/// Refuses what a version does not have yet, as a path that is not there.
pub(crate) fn since(version: Microversion, minor: u16) -> Result<(), Failure> {
    if version >= Microversion(3, minor) {
        return Ok(());
    }
    Err(Failure::not_found("The resource could not be found."))
}

/// The object that a body has under a name.
pub(crate) fn member<'b>(body: &'b Value, name: &str) -> Result<&'b serde_json::Map<String, Value>, Failure> {
    body.get(name).and_then(Value::as_object).ok_or_else(|| {
        Failure::invalid(format!(
            "Invalid input for field/attribute {name}. Missing required element '{name}' in request body."
        ))
        .at(name)
    })
}

/// A text member that may be missing or null.
pub(crate) fn text(object: &serde_json::Map<String, Value>, name: &str) -> Option<String> {
    object
        .get(name)
        .and_then(Value::as_str)
        .map(|text| text.trim().to_owned())
}

/// A boolean member in any spelling; `default` where there is none.
pub(crate) fn flag(object: &serde_json::Map<String, Value>, name: &str, default: bool) -> Result<bool, Failure> {
    match object.get(name) {
        None | Some(Value::Null) => Ok(default),
        Some(Value::Bool(said)) => Ok(*said),
        Some(said) => {
            let text = said.as_str().map_or_else(|| said.to_string(), str::to_owned);
            let bad = || {
                let message =
                    format!("Invalid input for field/attribute {name}. Value: {text}. '{text}' is not a 'boolean'");
                Failure::invalid(message).at(name)
            };
            madang_http::parse_bool(&text).ok_or_else(bad)
        }
    }
}

/// An empty answer.
pub(crate) fn accepted() -> axum::response::Response {
    axum::response::IntoResponse::into_response(StatusCode::ACCEPTED)
}
