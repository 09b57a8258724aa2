//! What clients read first: the versions, and the list of extensions that old clients ask for.

use axum::{extract::Path, response::Response};
use http::StatusCode;
use madang_http::{Failure, RequestInfo, VersionDocument, json};
use madang_identity::Caller;
use serde_json::{Value, json};

use super::{NEWEST, OLDEST, base};

fn document(base: &str) -> VersionDocument {
    let mut version = VersionDocument::new("v3.0", "CURRENT", format!("{base}/v3/"))
        .media_type("application/vnd.openstack.volume+json;version=3");
    version.version = Some(NEWEST.to_string());
    version.min_version = Some(OLDEST.to_string());
    // Cinder's own date; clients show it and nothing more.
    version.updated = Some("2023-08-31T00:00:00Z");
    version
}

fn documents(info: &RequestInfo) -> Value {
    json!({ "versions": [document(&base(info))] })
}

/// `GET /`: all versions.
pub(super) async fn all(info: RequestInfo) -> Response {
    json(StatusCode::MULTIPLE_CHOICES, &documents(&info))
}

/// `GET /v3/`: this version.
pub(super) async fn v3(info: RequestInfo) -> Response {
    json(StatusCode::OK, &documents(&info))
}

/// What Cinder lists as extensions, all of which are part of this API: alias, name, and the date of Cinder's list.
const EXTENSIONS: &[(&str, &str, &str)] = &[
    (
        "os-extended-snapshot-attributes",
        "ExtendedSnapshotAttributes",
        "2012-06-19T00:00:00+00:00",
    ),
    ("os-volume-actions", "VolumeActions", "2012-05-31T00:00:00+00:00"),
    ("os-volume-type-access", "VolumeTypeAccess", "2014-06-26T00:00:00Z"),
    (
        "os-volume-encryption-metadata",
        "VolumeEncryptionMetadata",
        "2013-07-10T00:00:00+00:00",
    ),
    ("encryption", "VolumeTypeEncryption", "2013-07-01T00:00:00+00:00"),
    ("os-admin-actions", "AdminActions", "2012-08-25T00:00:00+00:00"),
    ("os-quota-sets", "Quotas", "2011-08-08T00:00:00+00:00"),
    ("os-quota-class-sets", "QuotaClasses", "2012-03-12T00:00:00+00:00"),
    ("os-types-manage", "TypesManage", "2011-08-24T00:00:00+00:00"),
    ("os-types-extra-specs", "TypesExtraSpecs", "2011-08-24T00:00:00+00:00"),
    ("qos-specs", "Qos_specs_manage", "2013-08-02T00:00:00+00:00"),
    ("os-vol-image-meta", "VolumeImageMetadata", "2012-12-07T00:00:00+00:00"),
    ("os-vol-host-attr", "VolumeHostAttribute", "2011-11-03T00:00:00+00:00"),
    (
        "os-vol-tenant-attr",
        "VolumeTenantAttribute",
        "2011-11-03T00:00:00+00:00",
    ),
    (
        "os-vol-mig-status-attr",
        "VolumeMigStatusAttribute",
        "2013-08-08T00:00:00+00:00",
    ),
    ("os-snapshot-actions", "SnapshotActions", "2013-07-16T00:00:00+00:00"),
    ("os-services", "Services", "2012-10-28T00:00:00-00:00"),
    ("os-extended-services", "ExtendedServices", "2014-01-10T00:00:00-00:00"),
    ("os-hosts", "Hosts", "2011-06-29T00:00:00+00:00"),
    ("os-availability-zone", "AvailabilityZones", "2013-06-27T00:00:00+00:00"),
    ("os-used-limits", "UsedLimits", "2013-10-03T00:00:00+00:00"),
    ("scheduler-stats", "Scheduler_stats", "2014-09-07T00:00:00+00:00"),
    ("capabilities", "Capabilities", "2015-08-31T00:00:00+00:00"),
    ("OS-SCH-HNT", "SchedulerHints", "2013-04-18T00:00:00+00:00"),
];

fn shown((alias, name, updated): &(&str, &str, &str)) -> Value {
    json!({ "alias": alias, "name": name, "description": name, "updated": updated, "links": [] })
}

/// `GET /extensions`.
pub(super) async fn extensions(_: Caller) -> Response {
    let shown: Vec<Value> = EXTENSIONS.iter().map(shown).collect();
    json(StatusCode::OK, &json!({ "extensions": shown }))
}

/// `GET /extensions/{alias}`.
pub(super) async fn extension(_: Caller, Path(alias): Path<String>) -> Result<Response, Failure> {
    let found = EXTENSIONS.iter().find(|(known, _, _)| *known == alias);
    let found = found.ok_or_else(|| Failure::not_found("The resource could not be found."))?;
    Ok(json(StatusCode::OK, &json!({ "extension": shown(found) })))
}
