//! A subnet: a range of addresses on a network.

pub mod api;
pub(crate) mod rules;
pub(crate) mod shape;

use std::net::IpAddr;

use ipnet::IpNet;
use madang_store::{Indexes, Kind};
use serde::{Deserialize, Serialize};

/// The kind of subnets. `metadata.name` is the id; the network owns it.
pub struct Subnet;

impl Kind for Subnet {
    const NAME: &'static str = "subnets";
    type Spec = SubnetSpec;
    type Status = SubnetStatus;

    fn indexes() -> Indexes<Self> {
        Indexes::<Self>::new()
            .on("network", |r| vec![r.spec.network_id.clone()])
            .on("pool", |r| r.spec.subnetpool_id.iter().cloned().collect())
    }
}

/// What was asked of a subnet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SubnetSpec {
    /// What the user calls it; need not be unique.
    pub name: String,
    /// Free text.
    #[serde(default)]
    pub description: String,
    /// The network it is on.
    pub network_id: String,
    /// The range, host bits zero.
    pub cidr: IpNet,
    /// The router's address; none for a network without a way out.
    pub gateway_ip: Option<IpAddr>,
    /// Where addresses are taken from; neither overlapping nor containing the gateway.
    pub allocation_pools: Vec<AllocationPool>,
    /// Whether addresses are given by DHCP.
    pub enable_dhcp: bool,
    /// Name servers given to guests.
    #[serde(default)]
    pub dns_nameservers: Vec<IpAddr>,
    /// Routes given to guests.
    #[serde(default)]
    pub host_routes: Vec<HostRoute>,
    /// How v6 guests learn addresses: `slaac`, `dhcpv6-stateful`, `dhcpv6-stateless`.
    #[serde(default)]
    pub ipv6_address_mode: Option<String>,
    /// How v6 routers announce: as above.
    #[serde(default)]
    pub ipv6_ra_mode: Option<String>,
    /// The pool it was cut from.
    #[serde(default)]
    pub subnetpool_id: Option<String>,
    /// Device owners that may take addresses here; empty for all.
    #[serde(default)]
    pub service_types: Vec<String>,
    /// The user's tags.
    #[serde(default)]
    pub tags: Vec<String>,
}

/// Addresses from `start` to `end`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllocationPool {
    /// The first.
    pub start: IpAddr,
    /// The last.
    pub end: IpAddr,
}

/// A route for guests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRoute {
    /// Where to.
    pub destination: IpNet,
    /// Through which neighbour.
    pub nexthop: IpAddr,
}

/// What is seen of a subnet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SubnetStatus {}
