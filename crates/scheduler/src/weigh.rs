//! Weighers: which of the hosts that can take a claim is best. Pure.
//!
//! Each gives every host a number; the numbers of one weigher are brought to 0…1 over the hosts that are compared, times
//! its multiplier, and added up. Source: Nova's weighers.

use serde::{Deserialize, Serialize};

use crate::{
    DISK_GB, GroupPolicy, MEMORY_MB, VCPU,
    ask::Ask,
    options::{Arrange, Options},
    snapshot::Host,
};

/// A weigher, by Nova's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Weigher {
    /// Memory that is left.
    #[serde(rename = "RAMWeigher")]
    Ram,
    /// Processors that are left.
    #[serde(rename = "CPUWeigher")]
    Cpu,
    /// Disk that is left.
    #[serde(rename = "DiskWeigher")]
    Disk,
    /// Workloads that are busy on the host's disks.
    #[serde(rename = "IoOpsWeigher")]
    IoOps,
    /// Workloads.
    #[serde(rename = "NumInstancesWeigher")]
    NumInstances,
    /// Members of the claim's group, where it wants to be together.
    #[serde(rename = "ServerGroupSoftAffinityWeigher")]
    SoftAffinity,
    /// Members of the claim's group, fewer being better, where it wants to be apart.
    #[serde(rename = "ServerGroupSoftAntiAffinityWeigher")]
    SoftAntiAffinity,
    /// Workloads that failed to be built there of late.
    #[serde(rename = "BuildFailureWeigher")]
    BuildFailure,
    /// The hypervisor's version.
    #[serde(rename = "HypervisorVersionWeigher")]
    HypervisorVersion,
    /// Workloads whose images have the same properties.
    #[serde(rename = "ImagePropertiesWeigher")]
    ImageProperties,
}

/// Every weigher with Nova's multiplier and the metadata of an aggregate that has another one for its hosts.
const WEIGHERS: [(Weigher, f64, &str); 10] = [
    (Weigher::Ram, 1.0, "ram_weight_multiplier"),
    (Weigher::Cpu, 1.0, "cpu_weight_multiplier"),
    (Weigher::Disk, 1.0, "disk_weight_multiplier"),
    (Weigher::IoOps, -1.0, "io_ops_weight_multiplier"),
    (Weigher::NumInstances, 0.0, "num_instances_weight_multiplier"),
    (Weigher::SoftAffinity, 1.0, "soft_affinity_weight_multiplier"),
    (Weigher::SoftAntiAffinity, 1.0, "soft_anti_affinity_weight_multiplier"),
    (Weigher::BuildFailure, 1_000_000.0, "build_failure_weight_multiplier"),
    (Weigher::HypervisorVersion, 1.0, "hypervisor_version_weight_multiplier"),
    (Weigher::ImageProperties, 0.0, "image_props_weight_multiplier"),
];

/// What outweighs emptiness: a soft policy is kept wherever it can be.
const SOFT: f64 = 10.0;

impl Weigher {
    fn weigh(self, ask: &Ask<'_>, host: &Host) -> f64 {
        let policy = ask.spec.group.as_ref().map(|group| group.policy);
        let members = || ask.group_hosts.iter().filter(|member| *member == host.name()).count() as f64;
        match self {
            Self::Ram => host.free(MEMORY_MB) as f64,
            Self::Cpu => host.free(VCPU) as f64,
            Self::Disk => host.free(DISK_GB) as f64,
            Self::IoOps => f64::from(host.busy),
            Self::NumInstances => f64::from(host.servers),
            Self::SoftAffinity if policy == Some(GroupPolicy::SoftAffinity) => members(),
            Self::SoftAntiAffinity if policy == Some(GroupPolicy::SoftAntiAffinity) => -members(),
            Self::SoftAffinity | Self::SoftAntiAffinity => 0.0,
            Self::BuildFailure => -f64::from(host.provider.status.failed_builds),
            Self::HypervisorVersion => {
                let own = host.provider.status.capabilities.as_ref();
                own.map_or(0.0, |own| own.hypervisor_version as f64)
            }
            Self::ImageProperties => {
                let properties = ask.spec.wishes.iter().flat_map(|wishes| &wishes.image_properties);
                let labels = properties.map(|(name, value)| format!("{name}={value}"));
                let same = labels.filter_map(|label| host.images.iter().find(|(known, _)| **known == *label));
                same.map(|(_, number)| f64::from(*number)).sum()
            }
        }
    }
}

/// The weight of each host, in their order: more is better.
pub fn weights(options: &Options, arrange: Arrange, ask: &Ask<'_>, hosts: &[&Host]) -> Vec<f64> {
    let mut sums = vec![0.0; hosts.len()];
    for (weigher, default, key) in WEIGHERS {
        let general = options.multipliers.get(&weigher).copied();
        let soft = matches!(weigher, Weigher::SoftAffinity | Weigher::SoftAntiAffinity);
        let general = general.unwrap_or(if soft { SOFT * default } else { default });
        let multiplier = |host: &Host| {
            let said = host.metadata(key).filter_map(|text| text.parse::<f64>().ok());
            let own = said.reduce(f64::min).unwrap_or(general);
            match (weigher, arrange) {
                (Weigher::Ram | Weigher::Cpu | Weigher::Disk, Arrange::Pack) => -own,
                _ => own,
            }
        };
        if general == 0.0 && hosts.iter().all(|host| host.groups.is_empty()) {
            continue;
        }
        let values: Vec<f64> = hosts.iter().map(|host| weigher.weigh(ask, host)).collect();
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if most - least <= 0.0 || !(most - least).is_finite() {
            continue;
        }
        for ((sum, value), host) in sums.iter_mut().zip(&values).zip(hosts) {
            *sum += multiplier(host) * (value - least) / (most - least);
        }
    }
    sums
}
