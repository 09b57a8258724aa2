//! How much a project may have of what compute gives.
//!
//! Usage is counted in the project's counter record in the transaction that creates or removes a server; the limit is
//! checked there, so that two requests can never both take the last place.

pub mod api;

use std::collections::BTreeMap;

use madang_identity::limit::unified::{self, Asked};
use madang_store::{Delta, Key, Kind, Op, Resource, Store, StoreError, Tx};
use serde::{Deserialize, Serialize};

use crate::{FlavorSpec, Server};

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

/// Resources of the networks before Neutron: limits are kept and shown up to 2.35, nothing is counted.
pub const NETWORK_DEFAULTS: &[(&str, i64)] = &[
    ("fixed_ips", -1),
    ("floating_ips", -1),
    ("security_groups", -1),
    ("security_group_rules", -1),
];

/// The kind of quotas: one of a project, `metadata.name` is `compute`; with a user's id as the namespace, that user's in
/// the project. The project `""` holds the cloud's own defaults, with a class's name as the namespace that class's.
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

/// Nova's names of unified limits, and whether a project can have its own.
const UNIFIED: &[(&str, &str, bool)] = &[
    (INSTANCES, "servers", true),
    (CORES, "class:VCPU", true),
    (RAM, "class:MEMORY_MB", true),
    ("metadata_items", "server_metadata_items", false),
    ("key_pairs", "server_key_pairs", false),
    ("server_groups", "server_groups", false),
    ("server_group_members", "server_group_members", false),
    ("injected_files", "server_injected_files", false),
    (
        "injected_file_content_bytes",
        "server_injected_file_content_bytes",
        false,
    ),
    ("injected_file_path_bytes", "server_injected_file_path_bytes", false),
];

/// What unified limits say of a resource. Where nothing is registered there is no limit, but for servers, of which nobody
/// may then have any: Nova's `unified_limits_resource_list` as it comes.
fn unified_limit(store: &Store, project: &str, resource: &str) -> Option<Option<i64>> {
    let (_, name, by_project) = UNIFIED.iter().find(|(known, ..)| *known == resource)?;
    let project = if *by_project { project } else { "" };
    match unified::asked(store, "compute", name, project) {
        Asked::Own => None,
        Asked::Unregistered => Some((resource == INSTANCES).then_some(0)),
        Asked::AtMost(limit) => Some(limit),
    }
}

/// Whether unified limits count, and what is set here does not.
pub fn is_unified(store: &Store) -> bool {
    unified::decides(store, "compute")
}

/// The limit of a project for one resource; none for no limit.
pub fn limit(store: &Store, project: &str, resource: &str) -> Option<i64> {
    if let Some(limit) = unified_limit(store, project, resource) {
        return limit;
    }
    let default = || {
        DEFAULTS
            .iter()
            .chain(NETWORK_DEFAULTS)
            .find(|(name, _)| *name == resource)
            .map(|(_, limit)| *limit)
    };
    set_limit(store, project, "", resource)
        .or_else(|| set_limit(store, "", "", resource))
        .or_else(default)
        .filter(|limit| *limit >= 0)
}

/// The limit of a user in a project: their own, or the project's. There are none for users among unified limits.
pub fn user_limit(store: &Store, project: &str, user: &str, resource: &str) -> Option<i64> {
    let own = set_limit(store, project, user, resource).filter(|_| !is_unified(store));
    match own {
        Some(own) => Some(own).filter(|limit| *limit >= 0),
        None => limit(store, project, resource),
    }
}

/// The limit that somebody set.
fn set_limit(store: &Store, project: &str, namespace: &str, resource: &str) -> Option<i64> {
    let quota = store.get::<Quota>(&Key::new(Quota::NAME, project, namespace, COUNTERS))?;
    quota.spec.limits.get(resource).copied()
}

/// The counter group of what one user has in a project.
pub fn user_counters(user: &str) -> String {
    format!("{COUNTERS}/{user}")
}

/// The rule of servers that counts them for the user who made them, beside the project's own count.
pub(crate) fn count_user(tx: &mut Tx<'_>, op: Op<'_, Server>) -> Result<(), StoreError> {
    let add = |tx: &mut Tx<'_>, server: &Resource<Server>, sign: i64| {
        let (project, user) = (server.project(), &server.spec.user);
        let delta = |(field, amount): (&str, i64)| Delta {
            field: field.to_owned(),
            add: sign * amount,
            limit: if sign > 0 {
                user_limit(tx.store(), project, user, field)
            } else {
                None
            },
        };
        let deltas = usage(&server.spec.flavor).into_iter().map(delta).collect();
        tx.add(project, &user_counters(user), deltas);
    };
    match op {
        Op::Create(server) => add(tx, server, 1),
        Op::Update { old, new } if old.spec.flavor != new.spec.flavor => {
            add(tx, old, -1);
            add(tx, new, 1);
        }
        Op::Update { .. } => {}
        Op::Remove(server) => add(tx, server, -1),
    }
    Ok(())
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
