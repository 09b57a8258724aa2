//! How much a project may have of what volumes take.
//!
//! Usage is counted in the project's counter record in the transaction that creates, grows or removes something; the limit
//! is checked there. Types count apart, too, by their id.

pub mod api;

use std::collections::BTreeMap;

use madang_identity::limit::unified::{self, Asked};
use madang_store::{Delta, ErrorKind, Key, Kind, Rejection, Store, StoreError};
use serde::{Deserialize, Serialize};

/// The counter group of a project's volumes.
pub const COUNTERS: &str = "volume";
/// Volumes.
pub const VOLUMES: &str = "volumes";
/// Snapshots.
pub const SNAPSHOTS: &str = "snapshots";
/// GiB of volumes and snapshots.
pub const GIGABYTES: &str = "gigabytes";
/// Backups.
pub const BACKUPS: &str = "backups";
/// GiB of the volumes that backups are of.
pub const BACKUP_GIGABYTES: &str = "backup_gigabytes";
/// Groups of volumes.
pub const GROUPS: &str = "groups";
/// The most GiB of one volume.
pub const PER_VOLUME: &str = "per_volume_gigabytes";

/// Cinder's resources and their default limits; -1 is no limit.
pub const DEFAULTS: &[(&str, i64)] = &[
    (VOLUMES, 10),
    (PER_VOLUME, -1),
    (SNAPSHOTS, 10),
    (GIGABYTES, 1000),
    (BACKUPS, 10),
    (BACKUP_GIGABYTES, 1000),
    (GROUPS, 10),
];
/// The resources that are counted by type, too.
pub const BY_TYPE: &[&str] = &[VOLUMES, GIGABYTES, SNAPSHOTS];

/// The kind of quotas: one of a project, `metadata.name` is `volume`; the project `""` holds the cloud's own defaults.
pub struct Quota;

impl Kind for Quota {
    const NAME: &'static str = "volumequotas";
    type Spec = QuotaSpec;
    type Status = QuotaStatus;
}

/// Limits that differ from the defaults, by resource (`volumes`, or `volumes/<type id>`); -1 is no limit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct QuotaSpec {
    /// Resource to limit.
    #[serde(default)]
    pub limits: BTreeMap<String, i64>,
}

/// Nothing is seen of a quota; usage is in the counters.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct QuotaStatus {}

/// Where a project's limits are; those of the cloud with `""`.
pub fn key(project: &str) -> Key {
    Key::new(Quota::NAME, project, "", COUNTERS)
}

/// The name under which a resource is counted and limited for one type.
pub fn of_type(resource: &str, volume_type: &str) -> String {
    format!("{resource}/{volume_type}")
}

/// The limit of a project for one resource; none for no limit. Where unified limits count, what is registered under
/// Cinder's name.
pub fn limit(store: &Store, project: &str, resource: &str) -> Option<i64> {
    if let Asked::AtMost(limit) = unified::asked(store, "block-storage", resource, project) {
        return limit;
    }
    let own = |project: &str| {
        let quota = store.get::<Quota>(&key(project));
        quota.and_then(|quota| quota.spec.limits.get(resource).copied())
    };
    let default = || {
        DEFAULTS
            .iter()
            .find(|(name, _)| *name == resource)
            .map(|(_, limit)| *limit)
    };
    own(project)
        .or_else(|| own(""))
        .or_else(default)
        .filter(|limit| *limit >= 0)
}

/// The deltas of something that comes (`sign` 1) or goes (-1), in all and for its type.
pub fn deltas(
    store: &Store,
    project: &str,
    volume_type: Option<&str>,
    fields: &[(&str, i64)],
    sign: i64,
) -> Vec<Delta> {
    let named = fields.iter().flat_map(|(field, amount)| {
        let by_type = volume_type
            .filter(|_| BY_TYPE.contains(field))
            .map(|id| (of_type(field, id), *amount));
        std::iter::once(((*field).to_owned(), *amount)).chain(by_type)
    });
    let delta = |(field, amount): (String, i64)| Delta {
        limit: if sign > 0 { limit(store, project, &field) } else { None },
        add: amount * sign,
        field,
    };
    named.map(delta).collect()
}

/// A passed limit in Cinder's words; anything else as it is.
pub fn over_quota(error: StoreError) -> StoreError {
    let StoreError::LimitExceeded {
        field,
        used,
        requested,
        limit,
        ..
    } = &error
    else {
        return error;
    };
    let (resource, of) = field.split_once('/').unwrap_or((field, ""));
    let (reason, message) = match resource {
        VOLUMES => (
            "VolumeLimitExceeded",
            format!("VolumeLimitExceeded: Maximum number of volumes allowed ({limit}) exceeded for quota 'volumes'."),
        ),
        SNAPSHOTS => (
            "SnapshotLimitExceeded",
            format!("SnapshotLimitExceeded: Maximum number of snapshots allowed ({limit}) exceeded"),
        ),
        BACKUPS => (
            "BackupLimitExceeded",
            format!("BackupLimitExceeded: Maximum number of backups allowed ({limit}) exceeded"),
        ),
        GROUPS => (
            "GroupLimitExceeded",
            format!("GroupLimitExceeded: Maximum number of groups allowed ({limit}) exceeded"),
        ),
        BACKUP_GIGABYTES => (
            "VolumeBackupSizeExceedsAvailableQuota",
            format!(
                "VolumeBackupSizeExceedsAvailableQuota: Requested backup exceeds allowed Backup gigabytes quota. \
                 Requested {requested}G, quota is {limit}G and {used}G has been consumed."
            ),
        ),
        _ => (
            "VolumeSizeExceedsAvailableQuota",
            format!(
                "VolumeSizeExceedsAvailableQuota: Requested volume or snapshot exceeds allowed {resource}{}{of} quota. \
                 Requested {requested}G, quota is {limit}G and {used}G has been consumed.",
                if of.is_empty() { "" } else { "_" },
            ),
        ),
    };
    Rejection::new(ErrorKind::Exhausted, reason, message).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_passed_limit_says_which() {
        let error = StoreError::LimitExceeded {
            key: Box::new(Key::new("counters", "p", "", "volume")),
            field: "gigabytes".to_owned(),
            used: 9,
            requested: 2,
            limit: 10,
        };
        let words = over_quota(error).to_string();
        assert!(words.contains("Requested 2G, quota is 10G and 9G"), "{words}");
    }
}
