//! A resource provider: a host and what it has to give.

pub(crate) mod api;
pub(crate) mod inventories;
pub(crate) mod labels;
pub(crate) mod rules;

use std::collections::BTreeMap;

use jiff::Timestamp;
use madang_store::{Indexes, Kind};
use serde::{Deserialize, Serialize};

/// Virtual processors, counted.
pub const VCPU: &str = "VCPU";
/// Processors that a workload has to itself, counted.
pub const PCPU: &str = "PCPU";
/// Memory, in MiB.
pub const MEMORY_MB: &str = "MEMORY_MB";
/// Local disk, in GiB.
pub const DISK_GB: &str = "DISK_GB";

/// The kind of providers. `metadata.name` is the provider's uuid, `metadata.project` is empty.
pub struct Provider;

impl Kind for Provider {
    const NAME: &'static str = "providers";
    type Spec = ProviderSpec;
    type Status = ProviderStatus;

    fn indexes() -> Indexes<Self> {
        Indexes::<Self>::new()
            .on("name", |r| vec![r.spec.name.clone()])
            .on("parent", |r| r.spec.parent.iter().cloned().collect())
            .on("class", |r| r.spec.inventories.keys().cloned().collect())
            .on("trait", |r| r.spec.traits.clone())
    }
}

/// What a provider is and has. Written by the host's agent when it registers, and through Placement's API.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProviderSpec {
    /// The host's name; unique.
    pub name: String,
    /// The parent provider's uuid, for nested ones.
    #[serde(default)]
    pub parent: Option<String>,
    /// The availability zone.
    pub zone: String,
    /// Resource class to inventory.
    #[serde(default)]
    pub inventories: BTreeMap<String, Inventory>,
    /// Traits it has, such as `COMPUTE_STATUS_DISABLED`.
    #[serde(default)]
    pub traits: Vec<String>,
    /// Aggregate uuids it belongs to.
    #[serde(default)]
    pub aggregates: Vec<String>,
    /// Drivers its agent can run: `qemu`, `oci`, `simulated`.
    #[serde(default)]
    pub drivers: Vec<String>,
    /// Takes no new workloads when false.
    pub is_enabled: bool,
    /// Why it is disabled.
    #[serde(default)]
    pub disabled_reason: Option<String>,
    /// An operator says that it is down, whatever its agent says.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_forced_down: bool,
    /// Placement's generation: counts changes of inventories, traits, aggregates and allocations through its API.
    #[serde(default)]
    pub generation: u64,
}

/// An amount of one resource class, with Placement's meaning of each field.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Inventory {
    /// What there is.
    pub total: i64,
    /// What is kept for the host itself.
    #[serde(default)]
    pub reserved: i64,
    /// The least that one consumer can take.
    #[serde(default = "one")]
    pub min_unit: i64,
    /// The most that one consumer can take.
    pub max_unit: i64,
    /// Amounts are multiples of this.
    #[serde(default = "one")]
    pub step_size: i64,
    /// How often it may be given: 4.0 gives every processor four times.
    #[serde(default = "ratio")]
    pub allocation_ratio: f64,
}

impl Inventory {
    /// What may be given in all: `(total - reserved) * allocation_ratio`.
    pub fn capacity(&self) -> i64 {
        ((self.total - self.reserved) as f64 * self.allocation_ratio) as i64
    }

    /// Whether one consumer may take this much at once, however much is left.
    pub fn takes(&self, amount: i64) -> bool {
        (self.min_unit..=self.max_unit).contains(&amount) && amount % self.step_size.max(1) == 0
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

fn one() -> i64 {
    1
}

fn ratio() -> f64 {
    1.0
}

/// What is seen of a provider. Written by the host's agent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProviderStatus {
    /// When the agent was last heard of; a heartbeat writes it every minute at most.
    #[serde(default)]
    pub seen: Option<Timestamp>,
    /// The hypervisor in use: `QEMU` with `kvm` or `tcg`, for humans and Nova's hypervisor view.
    #[serde(default)]
    pub hypervisor: String,
    /// Why hardware acceleration is or is not used.
    #[serde(default)]
    pub acceleration: String,
    /// The address other hosts reach it at.
    #[serde(default)]
    pub address: Option<String>,
    /// When its machine was started; none where the agent does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub booted: Option<Timestamp>,
    /// Workloads that failed to be built here since one was built; for `BuildFailureWeigher`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub failed_builds: u32,
    /// What its machine and hypervisor are; none where the agent does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Box<Capabilities>>,
}

/// What a host's machine and hypervisor are, as filters look at them. Written by the host's agent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Architectures that guests may have, such as `x86_64`.
    #[serde(default)]
    pub architectures: Vec<String>,
    /// The hypervisor's type in Nova's words, such as `QEMU`.
    #[serde(default)]
    pub hypervisor_type: String,
    /// All that an image may call it, such as `qemu` and `kvm`; `hypervisor_type` alone where there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hypervisor_names: Vec<String>,
    /// Its version: major, minor and patch in thousands, as 7002009 for 7.2.9.
    #[serde(default)]
    pub hypervisor_version: u64,
    /// The kinds of guests it runs: `hvm`, `exe`.
    #[serde(default)]
    pub vm_modes: Vec<String>,
    /// The processor: `vendor`, `model`, `arch`, and of its topology `topology:sockets`, `topology:cores`,
    /// `topology:threads`.
    #[serde(default)]
    pub cpu: BTreeMap<String, String>,
    /// The processor's features, such as `avx2`.
    #[serde(default)]
    pub cpu_features: Vec<String>,
    /// Its NUMA nodes; none where it does not tell.
    #[serde(default)]
    pub cells: Vec<Cell>,
}

/// One NUMA node of a host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// Its number.
    pub id: u32,
    /// The numbers of its processors.
    pub cpus: Vec<u32>,
    /// Those of its processors that are given to one workload each; the others are shared.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dedicated: Vec<u32>,
    /// Its memory in MiB.
    pub memory_mb: i64,
    /// Huge pages: size in KiB to how many there are.
    #[serde(default)]
    pub pages: BTreeMap<u64, u64>,
}
