//! Filters: which hosts can take a claim at all. Pure.
//!
//! Each has Nova's name and meaning. A filter refuses a host with words that go after a number of hosts: `3 of 5 are
//! disabled`. What hosts have and what is left of it is not theirs: that is looked at last, for a host with its tree.

mod aggregate;
mod json;
mod machine;
mod spec;

use std::{borrow::Cow, net::IpAddr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    GroupPolicy,
    ask::Ask,
    options::Options,
    snapshot::{Host, is_alive},
};

pub use spec::matches;

/// Why a host is refused.
pub type Why = Cow<'static, str>;

/// What filters look at beside the host.
pub struct Context<'a> {
    /// The operator's settings.
    pub options: &'a Options,
    /// What is asked.
    pub ask: &'a Ask<'a>,
    /// The time.
    pub now: Timestamp,
}

macro_rules! filters {
    ($($(#[$doc:meta])* $variant:ident = $name:literal => $refuse:path),* $(,)?) => {
        /// A filter, by Nova's name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Filter {
            $($(#[$doc])* #[serde(rename = $name)] $variant),*
        }

        impl Filter {
            /// Nova's name.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// Why the filter refuses a host; none when it does not.
            pub fn refuse(self, context: &Context<'_>, host: &Host) -> Option<Why> {
                match self { $(Self::$variant => $refuse(context, host)),* }
            }
        }
    };
}

filters! {
    /// Enabled, heard of, and with the driver that is needed.
    Compute = "ComputeFilter" => compute,
    /// In the zone asked for, and not a host to be avoided.
    AvailabilityZone = "AvailabilityZoneFilter" => zone,
    /// Any host.
    AllHosts = "AllHostsFilter" => all_hosts,
    /// Extra specs `capabilities:…` compared with what the host is.
    ComputeCapabilities = "ComputeCapabilitiesFilter" => machine::capabilities,
    /// The image's architecture, hypervisor and kind of guest.
    ImageProperties = "ImagePropertiesFilter" => machine::image,
    /// Members of an anti-affinity group on hosts of their own.
    ServerGroupAntiAffinity = "ServerGroupAntiAffinityFilter" => anti_affinity,
    /// Members of an affinity group on one host.
    ServerGroupAffinity = "ServerGroupAffinityFilter" => affinity,
    /// Hint `same_host`.
    SameHost = "SameHostFilter" => same_host,
    /// Hint `different_host`.
    DifferentHost = "DifferentHostFilter" => different_host,
    /// Hints `build_near_host_ip` and `cidr`.
    SimpleCidrAffinity = "SimpleCIDRAffinityFilter" => near,
    /// Extra specs compared with the metadata of the host's aggregates.
    AggregateInstanceExtraSpecs = "AggregateInstanceExtraSpecsFilter" => aggregate::extra_specs,
    /// Aggregates that are for some projects only.
    AggregateMultiTenancyIsolation = "AggregateMultiTenancyIsolation" => aggregate::tenancy,
    /// Aggregates that are for images with some properties only.
    AggregateImagePropertiesIsolation = "AggregateImagePropertiesIsolation" => aggregate::image_properties,
    /// As `IoOpsFilter`, with the aggregate's limit.
    AggregateIoOps = "AggregateIoOpsFilter" => aggregate::io_ops,
    /// As `NumInstancesFilter`, with the aggregate's limit.
    AggregateNumInstances = "AggregateNumInstancesFilter" => aggregate::instances,
    /// Aggregates that are for some flavors only.
    AggregateTypeAffinity = "AggregateTypeAffinityFilter" => aggregate::flavor,
    /// Not too many workloads that are busy on the host's disks.
    IoOps = "IoOpsFilter" => io_ops,
    /// Not too many workloads.
    NumInstances = "NumInstancesFilter" => instances,
    /// Hint `query`: an expression over what the host has.
    Json = "JsonFilter" => json::refuse,
    /// Dedicated processors, NUMA nodes and pages that the flavor asks for.
    NumaTopology = "NUMATopologyFilter" => machine::numa,
    /// Hosts and images that are for each other.
    IsolatedHosts = "IsolatedHostsFilter" => isolated,
    /// Devices passed through, which no host has.
    PciPassthrough = "PciPassthroughFilter" => machine::pci,
    /// Hosts of aggregates that are for workloads with some traits only.
    IsolatedAggregates = "IsolatedAggregatesFilter" => aggregate::isolated,
}

impl Filter {
    /// What no setting and no policy leaves out.
    pub const ALWAYS: [Self; 5] = [
        Self::Compute,
        Self::AvailabilityZone,
        Self::ServerGroupAntiAffinity,
        Self::ServerGroupAffinity,
        Self::NumaTopology,
    ];

    /// What is on where nothing is set: Nova's own and the hints that people use most.
    pub const DEFAULT: [Self; 9] = [
        Self::Compute,
        Self::AvailabilityZone,
        Self::ComputeCapabilities,
        Self::ImageProperties,
        Self::ServerGroupAntiAffinity,
        Self::ServerGroupAffinity,
        Self::SameHost,
        Self::DifferentHost,
        Self::PciPassthrough,
    ];
}

/// Refuses when `is_wrong`.
fn when(is_wrong: bool, why: &'static str) -> Option<Why> {
    is_wrong.then_some(Cow::Borrowed(why))
}

fn all_hosts(_: &Context<'_>, _: &Host) -> Option<Why> {
    None
}

fn compute(context: &Context<'_>, host: &Host) -> Option<Why> {
    let spec = &host.provider.spec;
    let wanted = &context.ask.spec.driver;
    let runs = spec
        .drivers
        .iter()
        .any(|driver| driver == wanted || driver == "simulated");
    when(!spec.is_enabled, "are disabled")
        .or_else(|| when(!is_alive(&host.provider, context.now), "do not answer"))
        .or_else(|| when(!runs, "cannot run this kind of workload"))
        .or_else(|| aggregate::isolated(context, host))
}

fn zone(context: &Context<'_>, host: &Host) -> Option<Why> {
    let ask = context.ask.spec;
    let is_elsewhere = ask
        .zone
        .as_ref()
        .is_some_and(|wanted| !host.zones().any(|zone| zone == wanted));
    when(
        ask.host.as_deref().is_some_and(|wanted| wanted != host.name()),
        "are not the host asked for",
    )
    .or_else(|| {
        when(
            ask.avoid.iter().any(|avoided| avoided == host.name()),
            "are to be avoided",
        )
    })
    .or_else(|| when(is_elsewhere, "are in another availability zone"))
}

fn anti_affinity(context: &Context<'_>, host: &Host) -> Option<Why> {
    let group = context.ask.spec.group.as_ref()?;
    if group.policy != GroupPolicy::AntiAffinity {
        return None;
    }
    let most = group.max_server_per_host.unwrap_or(1).max(1) as usize;
    let members = context
        .ask
        .group_hosts
        .iter()
        .filter(|member| *member == host.name())
        .count();
    when(members >= most, "have a member of the server group already")
}

fn affinity(context: &Context<'_>, host: &Host) -> Option<Why> {
    let group = context.ask.spec.group.as_ref()?;
    let hosts = &context.ask.group_hosts;
    let is_elsewhere = !hosts.is_empty() && !hosts.iter().any(|member| member == host.name());
    when(
        group.policy == GroupPolicy::Affinity && is_elsewhere,
        "are not where the server group is",
    )
}

fn same_host(context: &Context<'_>, host: &Host) -> Option<Why> {
    let hosts = context.ask.same_hosts.as_ref()?;
    when(!hosts.contains(host.name()), "have none of the servers of same_host")
}

fn different_host(context: &Context<'_>, host: &Host) -> Option<Why> {
    when(
        context.ask.different_hosts.contains(host.name()),
        "have a server of different_host",
    )
}

fn near(context: &Context<'_>, host: &Host) -> Option<Why> {
    let ip = context.ask.hint("build_near_host_ip")?;
    let prefix = context.ask.hint("cidr").unwrap_or("/24").trim_start_matches('/');
    let address = host.provider.status.address.as_deref();
    let is_near = address
        .and_then(|address| address.parse().ok())
        .zip(ip.parse().ok())
        .zip(prefix.parse().ok())
        .is_some_and(|((own, wanted), prefix)| share_network(own, wanted, prefix));
    when(!is_near, "are in another network than build_near_host_ip")
}

/// Whether two addresses have their first `prefix` bits in common.
fn share_network(a: IpAddr, b: IpAddr, prefix: u32) -> bool {
    let (a, b, bits) = match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (u128::from(a.to_bits()), u128::from(b.to_bits()), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits(), b.to_bits(), 128),
        _ => return false,
    };
    prefix <= bits && (prefix == 0 || (a ^ b) >> (bits - prefix) == 0)
}

fn io_ops(context: &Context<'_>, host: &Host) -> Option<Why> {
    when(
        host.busy >= context.options.max_io_ops_per_host,
        "have too many I/O operations",
    )
}

fn instances(context: &Context<'_>, host: &Host) -> Option<Why> {
    when(
        host.servers >= context.options.max_instances_per_host,
        "have too many instances",
    )
}

fn isolated(context: &Context<'_>, host: &Host) -> Option<Why> {
    let options = context.options;
    if options.isolated_hosts.is_empty() {
        return None;
    }
    let is_isolated = options.isolated_hosts.iter().any(|name| name == host.name());
    let image = context
        .ask
        .spec
        .wishes
        .as_ref()
        .and_then(|wishes| wishes.image.as_ref());
    let is_for_them = image.is_some_and(|image| options.isolated_images.contains(image));
    when(is_for_them && !is_isolated, "are not for isolated images").or_else(|| {
        let is_kept = options.restrict_isolated_hosts_to_isolated_images;
        when(is_isolated && is_kept && !is_for_them, "are for isolated images")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_shared_by_their_first_bits() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(share_network(ip("10.0.0.1"), ip("10.0.0.200"), 24));
        assert!(!share_network(ip("10.0.0.1"), ip("10.0.1.1"), 24));
        assert!(share_network(ip("10.0.0.1"), ip("11.0.0.1"), 0));
        assert!(!share_network(ip("10.0.0.1"), ip("::1"), 0));
        assert!(share_network(ip("fd00::1"), ip("fd00::2"), 64));
    }

    #[test]
    fn filters_have_novas_names() {
        let text = r#"["ComputeFilter","AggregateMultiTenancyIsolation","NUMATopologyFilter","JsonFilter"]"#;
        let filters: Vec<Filter> = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&filters).unwrap(), text);
        assert!(
            serde_json::from_str::<Filter>(r#""MetricsFilter""#).is_err(),
            "there are no metrics"
        );
    }
}
