//! How much a project may have of what compute gives.
//!
//! Usage is counted in the project's counter record in the transaction that creates or removes a server; the limit is
//! checked there, so that two requests can never both take the last place.

pub mod api;

use std::collections::BTreeMap;

use madang_store::{Delta, Key, Kind, Store};
use serde::{Deserialize, Serialize};

use crate::FlavorSpec;

/// The counter group of a project's compute usage.
pub const COUNTERS: &str = "compute";
/// Servers.
pub const INSTANCES: &str = "instances";
/// Virtual processors.
pub const CORES: &str = "cores";
/// Memory in MiB.
pub const RAM: &str = "ram";

/// Nova's resources and their default limits; -1 is no limit.
pub const DEFAULTS: &[(&str, i64)] = &[
    (INSTANCES, 10),
    (CORES, 20),
    (RAM, 51200),
    ("metadata_items", 128),
    ("key_pairs", 100),
    ("server_groups", 10),
    ("server_group_members", 10),
    ("injected_files", 5),
    ("injected_file_content_bytes", 10240),
    ("injected_file_path_bytes", 255),
];

/// The kind of quotas: one of a project, `metadata.name` is `compute`; the project `""` holds the cloud's own defaults.
pub struct Quota;

impl Kind for Quota {
    const NAME: &'static str = "computequotas";
    type Spec = QuotaSpec;
    type Status = QuotaStatus;
}

/// Limits that differ from the defaults, by resource; -1 is no limit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct QuotaSpec {
    /// Resource to limit.
    #[serde(default)]
    pub limits: BTreeMap<String, i64>,
}

/// Nothing is seen of a quota; usage is in the counters.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct QuotaStatus {}

/// The limit of a project for one resource; none for no limit.
pub fn limit(store: &Store, project: &str, resource: &str) -> Option<i64> {
    let own = |project: &str| {
        let quota = store.get::<Quota>(&Key::new(Quota::NAME, project, "", COUNTERS));
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

/// What one server of a flavor counts for.
pub fn usage(flavor: &FlavorSpec) -> [(&'static str, i64); 3] {
    [
        (INSTANCES, 1),
        (CORES, i64::from(flavor.vcpus)),
        (RAM, i64::from(flavor.ram_mb)),
    ]
}

/// The deltas of a new server, with the project's limits.
pub fn take(store: &Store, project: &str, flavor: &FlavorSpec) -> Vec<Delta> {
    let delta = |(field, add): (&str, i64)| Delta {
        field: field.to_owned(),
        add,
        limit: limit(store, project, field),
    };
    usage(flavor).into_iter().map(delta).collect()
}

/// The deltas of a server that is gone.
pub fn give_back(flavor: &FlavorSpec) -> Vec<Delta> {
    let delta = |(field, add): (&str, i64)| Delta {
        field: field.to_owned(),
        add: -add,
        limit: None,
    };
    usage(flavor).into_iter().map(delta).collect()
}
