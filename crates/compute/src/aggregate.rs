//! A host aggregate: hosts that have something in common, for operators and the scheduler.
//!
//! With `availability_zone` in its metadata its hosts are in that zone, which is all that users see of it. An aggregate
//! names its hosts; that a host is in one zone only, and that a server's zone never changes under it, is decided in the
//! transaction that would change it ([`rules`]).

pub mod api;
pub mod rules;

use std::collections::{BTreeMap, BTreeSet};

use madang_scheduler::Provider;
use madang_store::{Indexes, Kind, Resource, Store};
use serde::{Deserialize, Serialize};

/// The item of an aggregate's metadata that names the zone of its hosts.
pub const ZONE: &str = "availability_zone";

/// The kind of aggregates. `metadata.name` is the uuid, `metadata.project` is empty.
pub struct Aggregate;

impl Kind for Aggregate {
    const NAME: &'static str = "aggregates";
    type Spec = AggregateSpec;
    type Status = ();

    fn indexes() -> Indexes<Self> {
        Indexes::<Self>::new()
            .on("number", |r| vec![r.spec.number.to_string()])
            .on("host", |r| r.spec.hosts.iter().cloned().collect())
            .on("zone", |r| r.spec.zone().map(str::to_owned).into_iter().collect())
    }
}

/// What was asked of an aggregate. Written by its verbs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AggregateSpec {
    /// The number that Nova's API knows it by; unique.
    pub number: u32,
    /// What people call it; unique.
    pub name: String,
    /// What holds for its hosts: the zone, and what the scheduler's filters compare with.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    /// The names of its hosts (`spec.name` of their providers).
    #[serde(default)]
    pub hosts: BTreeSet<String>,
}

impl AggregateSpec {
    /// The zone of its hosts, when it is one.
    pub fn zone(&self) -> Option<&str> {
        self.metadata.get(ZONE).map(String::as_str)
    }
}

/// The zone that a host is in: that of an aggregate, or its own.
pub fn zone_of(store: &Store, host: &Resource<Provider>) -> String {
    zone_by_aggregate(store, &host.spec.name).unwrap_or_else(|| host.spec.zone.clone())
}

fn zone_by_aggregate(store: &Store, host: &str) -> Option<String> {
    let aggregates = store.cache::<Aggregate>().by("host", host);
    aggregates
        .iter()
        .find_map(|aggregate| aggregate.spec.zone().map(str::to_owned))
}
