//! What an operator asks of the service itself: zones, services, hosts, pools, capabilities, filters.

use axum::{
    extract::{Path, State},
    response::Response,
};
use http::StatusCode;
use jiff::Timestamp;
use madang_http::{Failure, Json, Microversion, Query, json};
use madang_identity::Caller;
use serde_json::{Map, Value, json};

use super::{BlockApi, ZONE, micros, since};
use crate::{snapshot::Snapshot, volume::Volume};

const GIB: f64 = (1_u64 << 30) as f64;

/// `GET /os-availability-zone`.
pub(super) async fn zones(_: Caller) -> Response {
    let zone = json!({ "zoneName": ZONE, "zoneState": { "available": true } });
    json(StatusCode::OK, &json!({ "availabilityZoneInfo": [zone] }))
}

impl BlockApi {
    /// `host@back-end`, as Cinder names a service of a host.
    pub(crate) fn volume_host(&self) -> String {
        format!("{}@{}", self.host, self.back_end.name())
    }

    /// Binaries and their hosts. All of them are this one process.
    fn services(&self) -> [(&'static str, String); 3] {
        [
            ("cinder-volume", self.volume_host()),
            ("cinder-scheduler", self.host.clone()),
            ("cinder-backup", self.host.clone()),
        ]
    }
}

/// `GET /os-services`.
pub(super) async fn list(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    query: Query,
) -> Result<Response, Failure> {
    caller.enforce("volume_extension:services:index", &[])?;
    let now = micros(Timestamp::now());
    let fits = |(binary, host): &(&str, String)| {
        let wanted = query.get("binary").or_else(|| query.get("service"));
        // A host may be named without its back end.
        let on = |wanted: &str| host == wanted || host.split('@').next() == Some(wanted);
        wanted.is_none_or(|wanted| wanted == *binary) && query.get("host").is_none_or(on)
    };
    let services = api.services().into_iter().filter(fits).map(|(binary, host)| {
        let mut shown = json!({
            "binary": binary, "host": host, "zone": ZONE, "status": "enabled", "state": "up",
            "updated_at": now, "disabled_reason": null,
        });
        if binary == "cinder-volume" {
            shown["frozen"] = json!(false);
            shown["replication_status"] = json!("disabled");
            shown["active_backend_id"] = Value::Null;
        }
        if version >= Microversion(3, 7) {
            shown["cluster"] = Value::Null;
        }
        if version >= Microversion(3, 49) && binary == "cinder-volume" {
            shown["backend_state"] = json!("up");
        }
        shown
    });
    Ok(json(
        StatusCode::OK,
        &json!({ "services": services.collect::<Vec<_>>() }),
    ))
}

/// `PUT /os-services/{action}`.
pub(super) async fn act(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    Path(action): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    let rule = match action.as_str() {
        "freeze" => "volume:freeze_host",
        "thaw" => "volume:thaw_host",
        "failover_host" | "failover" => "volume:failover_host",
        _ => "volume_extension:services:update",
    };
    caller.enforce(rule, &[])?;
    let said = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
    let (host, binary) = (said("host"), said("binary"));
    let binary = if binary.is_empty() { said("service") } else { binary };
    let known = api
        .services()
        .into_iter()
        .any(|(name, on)| (binary.is_empty() || name == binary) && (host.is_empty() || on == host));
    if !known && matches!(action.as_str(), "enable" | "disable" | "disable-log-reason") {
        return Err(Failure::not_found(format!(
            "Service {binary} could not be found on host {host}."
        )));
    }
    match action.as_str() {
        "enable" => {}
        "get-log" | "set-log" if version >= Microversion(3, 32) => {
            let shown = if action == "get-log" {
                json!({ "log_levels": [] })
            } else {
                json!({})
            };
            return Ok(json(StatusCode::OK, &shown));
        }
        "disable" | "disable-log-reason" | "freeze" | "thaw" | "failover_host" | "failover" => {
            let message = format!(
                "Invalid input received: {action} is not available: this cloud has one back end, which is the process itself"
            );
            return Err(Failure::invalid(message));
        }
        _ => return Err(Failure::not_found("Unknown action")),
    }
    let shown = json!({
        "host": host, "service": binary, "binary": binary, "disabled": false, "status": "enabled", "disabled_reason": null,
    });
    Ok(json(StatusCode::OK, &shown))
}

/// `GET /os-hosts`.
pub(super) async fn hosts(State(api): State<BlockApi>, caller: Caller) -> Result<Response, Failure> {
    caller.enforce("volume_extension:hosts", &[])?;
    let now = micros(Timestamp::now());
    let shown = api.services().map(|(service, host)| {
        json!({
            "host_name": host, "service": service, "zone": ZONE, "service-status": "available",
            "service-state": "enabled", "last-update": now,
        })
    });
    Ok(json(StatusCode::OK, &json!({ "hosts": shown })))
}

/// `GET /os-hosts/{host}`.
pub(super) async fn host(
    State(api): State<BlockApi>,
    caller: Caller,
    Path(host): Path<String>,
) -> Result<Response, Failure> {
    caller.enforce("volume_extension:hosts", &[])?;
    if host != api.volume_host() {
        return Err(Failure::not_found(format!("Host {host} could not be found.")));
    }
    let mut sums: std::collections::BTreeMap<String, [u64; 4]> = Default::default();
    let mut count = |project: &str, at: usize, size: u32| {
        for project in [project, "(total)"] {
            let sum = sums.entry(project.to_owned()).or_default();
            sum[at] += 1;
            sum[at + 1] += u64::from(size);
        }
    };
    for volume in api.store.cache::<Volume>().all() {
        count(volume.project(), 0, volume.spec.size_gib);
    }
    for snapshot in api.store.cache::<Snapshot>().all() {
        count(snapshot.project(), 2, snapshot.spec.size_gib);
    }
    sums.entry("(total)".to_owned()).or_default();
    let shown = sums.iter().map(|(project, sum)| {
        json!({ "resource": {
            "host": host, "project": project,
            "volume_count": sum[0].to_string(), "total_volume_gb": sum[1].to_string(),
            "snapshot_count": sum[2].to_string(), "total_snapshot_gb": sum[3].to_string(),
        } })
    });
    Ok(json(StatusCode::OK, &json!({ "host": shown.collect::<Vec<_>>() })))
}

/// `GET /scheduler-stats/get_pools`.
pub(super) async fn pools(State(api): State<BlockApi>, caller: Caller, query: Query) -> Result<Response, Failure> {
    caller.enforce("scheduler_extension:scheduler_stats:get_pools", &[])?;
    let back_end = api.back_end.name();
    let mut pool = json!({ "name": format!("{}#{back_end}", api.volume_host()) });
    if query.flag("detail")?.unwrap_or(false) {
        let room = api.back_end.capacity();
        let volumes = api.store.cache::<Volume>().all();
        let allocated: u64 = volumes.iter().map(|volume| u64::from(volume.spec.size_gib)).sum();
        pool["capabilities"] = json!({
            "volume_backend_name": back_end,
            "vendor_name": "madang",
            "driver_version": env!("CARGO_PKG_VERSION"),
            "storage_protocol": back_end,
            "total_capacity_gb": (room.total as f64 / GIB * 100.0).round() / 100.0,
            "free_capacity_gb": (room.free as f64 / GIB * 100.0).round() / 100.0,
            "allocated_capacity_gb": allocated,
            "provisioned_capacity_gb": allocated,
            "reserved_percentage": 0,
            "QoS_support": true,
            "thin_provisioning_support": true,
            "thick_provisioning_support": false,
            "multiattach": true,
            "location_info": null,
            "backend_state": "up",
            "timestamp": micros(Timestamp::now()),
        });
    }
    Ok(json(StatusCode::OK, &json!({ "pools": [pool] })))
}

/// `GET /capabilities/{host}`.
pub(super) async fn capabilities(
    State(api): State<BlockApi>,
    caller: Caller,
    Path(host): Path<String>,
) -> Result<Response, Failure> {
    caller.enforce("volume_extension:capabilities", &[])?;
    let known = api.volume_host();
    if host.split('#').next() != Some(known.as_str()) {
        return Err(Failure::not_found(format!(
            "Service for host {host} could not be found."
        )));
    }
    let property =
        |title: &str, description: &str| json!({ "title": title, "description": description, "type": "boolean" });
    let shown = json!({
        "namespace": format!("OS::Storage::Capabilities::{known}"),
        "vendor_name": "madang",
        "volume_backend_name": api.back_end.name(),
        "pool_name": null,
        "driver_version": env!("CARGO_PKG_VERSION"),
        "storage_protocol": api.back_end.name(),
        "display_name": "Files of the host",
        "description": "Sparse copy-on-write files on the host's own disk",
        "visibility": "public",
        "replication_targets": [],
        "properties": {
            "thin_provisioning": property("Thin Provisioning", "Volumes take what was written to them."),
            "compression": property("Compression", "Volumes are not compressed."),
            "qos": property("QoS", "The host keeps to front-end QoS specs."),
            "replication_enabled": property("Replication", "Volumes are not replicated."),
        },
    });
    Ok(json(StatusCode::OK, &shown))
}

/// What a user may filter each resource by. Source: Cinder's resource_filters.json.
const RESOURCE_FILTERS: &[(&str, &[&str])] = &[
    (
        "volume",
        &[
            "name",
            "status",
            "metadata",
            "bootable",
            "migration_status",
            "availability_zone",
            "group_id",
            "size",
            "created_at",
            "updated_at",
            "consumes_quota",
        ],
    ),
    ("backup", &["name", "status", "volume_id"]),
    (
        "snapshot",
        &[
            "name",
            "status",
            "volume_id",
            "metadata",
            "availability_zone",
            "consumes_quota",
        ],
    ),
    ("group", &["name"]),
    ("group_snapshot", &["name", "status", "group_id"]),
    ("attachment", &["volume_id", "status", "instance_id", "attach_status"]),
    (
        "message",
        &[
            "resource_uuid",
            "resource_type",
            "event_id",
            "request_id",
            "message_level",
        ],
    ),
    ("pool", &["name", "volume_type"]),
    ("volume_type", &["is_public", "extra_specs"]),
];

/// `GET /resource_filters`.
pub(super) async fn resource_filters(_: Caller, version: Microversion, query: Query) -> Result<Response, Failure> {
    since(version, 33)?;
    let wanted = query.get("resource");
    let fits = RESOURCE_FILTERS
        .iter()
        .filter(|(resource, _)| wanted.is_none_or(|wanted| wanted == *resource));
    let shown: Vec<Value> = fits
        .map(|(resource, filters)| json!({ "resource": resource, "filters": filters }))
        .collect();
    Ok(json(StatusCode::OK, &json!({ "resource_filters": shown })))
}

/// `GET /clusters`: none, since the back end is one process.
pub(super) async fn clusters(caller: Caller, version: Microversion) -> Result<Response, Failure> {
    since(version, 7)?;
    caller.enforce("clusters:get_all", &[])?;
    Ok(json(StatusCode::OK, &json!({ "clusters": [] })))
}

/// `POST /workers/cleanup`: nothing has to be cleaned up, what was under way goes on by itself.
pub(super) async fn clean_up(caller: Caller, version: Microversion) -> Result<Response, Failure> {
    since(version, 24)?;
    caller.enforce("workers:cleanup", &[])?;
    let none: [Map<String, Value>; 0] = [];
    Ok(json(
        StatusCode::ACCEPTED,
        &json!({ "cleaning": none, "unavailable": none }),
    ))
}
