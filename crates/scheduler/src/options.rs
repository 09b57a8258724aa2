//! How the scheduler chooses: what operators set under `[scheduler]`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{filter::Filter, weigh::Weigher};

/// Which way a host is chosen among those that can take a workload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// The least loaded.
    Simple,
    /// Any.
    Chance,
    /// What the filters leave, by the weighers.
    #[default]
    Filter,
}

impl Policy {
    /// The policy of a name, as a request's hint `policy` has it.
    pub fn named(name: &str) -> Option<Self> {
        [
            ("simple", Self::Simple),
            ("chance", Self::Chance),
            ("filter", Self::Filter),
        ]
        .into_iter()
        .find_map(|(own, policy)| (own == name).then_some(policy))
    }
}

/// Whether workloads go to empty hosts or to full ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Arrange {
    /// The emptiest first: every host gets some.
    #[default]
    Spread,
    /// The fullest that still has room first: hosts stay empty as long as can be.
    Pack,
}

/// The scheduler's settings. Names and defaults are Nova's where it has them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// How a host is chosen where the request does not say (hint `policy`).
    pub policy: Policy,
    /// Empty or full hosts first, where the request does not say (hint `arrange`).
    pub arrange: Arrange,
    /// The filters of policy `filter`, in their order.
    pub filters: Vec<Filter>,
    /// Multipliers of weighers that are not to have Nova's default. The metadata of an aggregate wins over it.
    pub multipliers: BTreeMap<Weigher, f64>,
    /// One of so many best hosts is taken, at random; from 1.
    pub host_subset_size: usize,
    /// For `IoOpsFilter`, where an aggregate does not say.
    pub max_io_ops_per_host: u32,
    /// For `NumInstancesFilter`, where an aggregate does not say.
    pub max_instances_per_host: u32,
    /// For `IsolatedHostsFilter`: images that only run on `isolated_hosts`.
    pub isolated_images: Vec<String>,
    /// For `IsolatedHostsFilter`: hosts for `isolated_images`.
    pub isolated_hosts: Vec<String>,
    /// Whether `isolated_hosts` take nothing else.
    pub restrict_isolated_hosts_to_isolated_images: bool,
    /// For `AggregateImagePropertiesIsolation`: only metadata that begins with this counts; all when empty.
    pub aggregate_image_properties_isolation_namespace: String,
    /// What stands after that beginning.
    pub aggregate_image_properties_isolation_separator: String,
    /// Hosts of aggregates with `trait:NAME=required` take only what asks for all these traits.
    pub enable_isolated_aggregate_filtering: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            policy: Policy::Filter,
            arrange: Arrange::Spread,
            filters: Filter::DEFAULT.to_vec(),
            multipliers: BTreeMap::new(),
            host_subset_size: 1,
            max_io_ops_per_host: 8,
            max_instances_per_host: 50,
            isolated_images: Vec::new(),
            isolated_hosts: Vec::new(),
            restrict_isolated_hosts_to_isolated_images: true,
            aggregate_image_properties_isolation_namespace: String::new(),
            aggregate_image_properties_isolation_separator: ".".to_owned(),
            enable_isolated_aggregate_filtering: false,
        }
    }
}
