//! A subnet pool: prefixes that subnets are cut from, so that those of one pool never overlap.

pub mod api;
pub(crate) mod cut;
pub(crate) mod rules;

use ipnet::IpNet;
use madang_store::{Indexes, Kind, Store};
use serde::{Deserialize, Serialize};

use crate::Subnet;

/// The kind of subnet pools. `metadata.name` is the id.
pub struct SubnetPool;

impl Kind for SubnetPool {
    const NAME: &'static str = "subnetpools";
    type Spec = SubnetPoolSpec;
    type Status = SubnetPoolStatus;

    fn indexes() -> Indexes<Self> {
        Indexes::<Self>::new()
            .on("name", |r| vec![r.spec.name.clone()])
            .on("scope", |r| r.spec.address_scope_id.iter().cloned().collect())
            .on("default", |r| {
                if r.spec.is_default {
                    vec![r.spec.ip_version().to_string()]
                } else {
                    vec![]
                }
            })
    }
}

/// What was asked of a subnet pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SubnetPoolSpec {
    /// What the user calls it; need not be unique.
    pub name: String,
    /// Free text.
    #[serde(default)]
    pub description: String,
    /// What subnets are cut from: of one version of IP, in order, none within another.
    pub prefixes: Vec<IpNet>,
    /// The shortest prefix a subnet may have, in bits.
    pub min_prefixlen: u8,
    /// The longest.
    pub max_prefixlen: u8,
    /// That of a subnet which says nothing.
    pub default_prefixlen: u8,
    /// How much of the pool one project may have: addresses of version 4, /64 networks of version 6. None: any number.
    #[serde(default)]
    pub default_quota: Option<u64>,
    /// Every project may cut from it.
    #[serde(default)]
    pub is_shared: bool,
    /// The address scope it is in.
    #[serde(default)]
    pub address_scope_id: Option<String>,
    /// Used by subnets that ask for the default pool; one for each version of IP.
    #[serde(default)]
    pub is_default: bool,
    /// The user's tags.
    #[serde(default)]
    pub tags: Vec<String>,
}

impl SubnetPoolSpec {
    /// Neutron's version of IP: 4 or 6.
    pub fn ip_version(&self) -> u8 {
        match self.prefixes.first() {
            Some(IpNet::V6(_)) => 6,
            _ => 4,
        }
    }
}

/// The address scope that a network's subnets of one version of IP are in; none without one.
pub(crate) fn scope_of(store: &Store, network: &str, is_v4: bool) -> Option<String> {
    let mut subnets = store.cache::<Subnet>().by("network", network);
    subnets.retain(|subnet| subnet.spec.cidr.addr().is_ipv4() == is_v4);
    let pool = subnets.iter().find_map(|subnet| subnet.spec.subnetpool_id.as_deref())?;
    store.cache::<SubnetPool>().by_name(pool)?.spec.address_scope_id.clone()
}

/// What is seen of a subnet pool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SubnetPoolStatus {}
