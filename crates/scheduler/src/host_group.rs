//! A group of hosts that have something in common, as filters and weighers look at it.
//!
//! Nova's aggregates in the scheduler's words: compute's rule on its aggregates writes one of these for each, in the same
//! transaction. The scheduler reads what is here and nothing of compute's.

use std::collections::{BTreeMap, BTreeSet};

use madang_store::{Indexes, Kind};
use serde::{Deserialize, Serialize};

/// The kind of host groups. `metadata.name` is the aggregate's uuid, `metadata.project` is empty.
pub struct HostGroup;

impl Kind for HostGroup {
    const NAME: &'static str = "hostgroups";
    type Spec = HostGroupSpec;
    type Status = ();

    fn indexes() -> Indexes<Self> {
        Indexes::<Self>::new().on("host", |r| r.spec.hosts.iter().cloned().collect())
    }
}

/// Which hosts, and what holds for them. Written by compute's rule on aggregates.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HostGroupSpec {
    /// What people call it.
    pub name: String,
    /// The names of its hosts (`spec.name` of their providers).
    #[serde(default)]
    pub hosts: BTreeSet<String>,
    /// Its metadata as Nova's filters read it: `filter_tenant_id`, `instance_type`, `cpu_weight_multiplier`,
    /// `trait:CUSTOM_X`, and whatever extra specs compare with. `availability_zone`, where it is there, is the zone of its
    /// hosts in place of their own.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
}
