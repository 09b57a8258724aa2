//! What a new cloud has from the start, so that the first server just works: `public`, `private`, `router1`.
//!
//! Done once and then left alone: who deletes or changes any of it is not overruled at the next start. In the first
//! project's default security group, ICMP and SSH are let in besides what Neutron's default lets in, because whoever
//! boots a first server wants to reach it; every other project has Neutron's default alone.

use std::net::IpAddr;

use ipnet::IpNet;
use madang_store::{Cause, Key, Kind, Metadata, Resource, Store, StoreError, Tx};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    AllocationPool, Direction, EtherType, ExternalGateway, Network, NetworkSpec, Router, RouterSpec, Rule, RuleSpec,
    Subnet, SubnetSpec,
    router::interfaces,
    security_group::rules::ensure_default,
    subnet::{rules as subnets, shape},
};

/// Under which the ids are made, so that they are found again: any fixed value does.
const SPACE: Uuid = Uuid::from_u128(0x6d61_6461_6e67_4673_8065_6564_6564_2121);

/// The kind of the one record, called `seed`, that says it was done and with which ranges.
pub struct Seed;

impl Kind for Seed {
    const NAME: &'static str = "networkseeds";
    type Spec = SeedOptions;
    type Status = SeedStatus;
}

/// Nothing is seen of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SeedStatus {}

/// Which ranges, and for whom. The composition chooses ranges that are free on the host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SeedOptions {
    /// The project that `private` and `router1` are of.
    pub project: String,
    /// The project that `public` is of: the admins'.
    pub admin_project: String,
    /// The range of `private`; its first address is the router's.
    pub private: IpNet,
    /// The range of `public`.
    pub public: IpNet,
    /// The host's own address in `public`, through which the outside is reached.
    pub public_gateway: IpAddr,
    /// The part of `public` that routers and floating addresses are taken from; all but the gateway where none.
    pub public_pool: Option<AllocationPool>,
    /// The name servers given to guests of `private`.
    pub name_servers: Vec<IpAddr>,
}

/// What was made: ids and, as it is stored, the outside range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seeded {
    /// The id of the network `public`.
    pub public_network: String,
    /// The id of its subnet.
    pub public_subnet: String,
    /// The id of the network `private`.
    pub private_network: String,
    /// The id of its subnet.
    pub private_subnet: String,
    /// The id of `router1`.
    pub router: String,
}

impl Seeded {
    fn ids() -> Self {
        let id = |name: &str| uid(name).to_string();
        Self {
            public_network: id("public"),
            public_subnet: id("public-subnet"),
            private_network: id("private"),
            private_subnet: id("private-subnet"),
            router: id("router1"),
        }
    }

    /// The subnet of `public` as it is now, for who has to give the host its side of it; none when it was deleted.
    pub fn public_subnet_of(&self, store: &Store) -> Option<std::sync::Arc<Resource<Subnet>>> {
        store.cache::<Subnet>().by_name(&self.public_subnet)
    }
}

fn uid(name: &str) -> Uuid {
    Uuid::new_v5(&SPACE, name.as_bytes())
}

fn metadata(project: &str, name: &str) -> Metadata {
    Metadata::with_uid(uid(name), project, uid(name).to_string())
}

/// Where the record is.
fn key() -> Key {
    Key::new(Seed::NAME, "", "", "seed")
}

/// The options that it was done with, once it was.
pub fn seeded_with(store: &Store) -> Option<SeedOptions> {
    store.get::<Seed>(&key()).map(|seed| seed.spec.clone())
}

/// Makes the first networks, unless that was done before.
///
/// # Errors
/// What the kinds' rules say about the ranges, and what the store says.
pub async fn seed(store: &Store, options: &SeedOptions) -> Result<Seeded, StoreError> {
    store
        .transact(Cause::system("seed"), |tx| match tx.get::<Seed>(&key()) {
            Some(_) => Ok(()),
            None => make(tx, options),
        })
        .await?;
    Ok(Seeded::ids())
}

fn make(tx: &mut Tx<'_>, options: &SeedOptions) -> Result<(), StoreError> {
    tx.create(Resource::<Seed>::new(Metadata::new("", "seed"), options.clone()))?;
    let public = NetworkSpec {
        name: "public".into(),
        is_external: true,
        is_default: true,
        ..NetworkSpec::default()
    };
    let public = tx.create(Resource::<Network>::new(
        metadata(&options.admin_project, "public"),
        public,
    ))?;
    let outside = SubnetSpec {
        gateway_ip: Some(options.public_gateway),
        allocation_pools: options.public_pool.into_iter().collect(),
        enable_dhcp: false,
        ..subnet_of("public-subnet", &public, options.public)
    };
    subnets::create(
        tx,
        Resource::new(metadata(&options.admin_project, "public-subnet"), outside),
    )?;

    let private = NetworkSpec {
        name: "private".into(),
        ..NetworkSpec::default()
    };
    let private = tx.create(Resource::<Network>::new(metadata(&options.project, "private"), private))?;
    let inside = SubnetSpec {
        dns_nameservers: options.name_servers.clone(),
        ..subnet_of("private-subnet", &private, options.private)
    };
    let inside = subnets::create(tx, Resource::new(metadata(&options.project, "private-subnet"), inside))?;

    let gateway = ExternalGateway {
        network_id: public.name().to_owned(),
        port_id: String::new(),
        fixed_ips: Vec::new(),
        enable_snat: true,
    };
    let router = RouterSpec {
        name: "router1".into(),
        description: String::new(),
        admin_state_up: true,
        gateway: Some(gateway),
        routes: Vec::new(),
        distributed: false,
        ha: false,
        availability_zone_hints: Vec::new(),
        tags: Vec::new(),
    };
    let router = tx.create(Resource::<Router>::new(metadata(&options.project, "router1"), router))?;
    interfaces::add_subnet(tx, &router, &inside)?;
    let_in(tx, &options.project)
}

/// A subnet as it is without a word about it.
pub(crate) fn subnet_of(name: &str, network: &Resource<Network>, cidr: IpNet) -> SubnetSpec {
    SubnetSpec {
        name: name.to_owned(),
        description: String::new(),
        network_id: network.name().to_owned(),
        cidr,
        gateway_ip: shape::default_gateway(cidr.trunc()),
        allocation_pools: Vec::new(),
        enable_dhcp: true,
        dns_nameservers: Vec::new(),
        host_routes: Vec::new(),
        ipv6_address_mode: None,
        ipv6_ra_mode: None,
        subnetpool_id: None,
        service_types: Vec::new(),
        tags: Vec::new(),
    }
}

/// ICMP and SSH from anywhere, in the project's default group.
fn let_in(tx: &mut Tx<'_>, project: &str) -> Result<(), StoreError> {
    let group = ensure_default(tx, project)?;
    let any = RuleSpec::any(&group, Direction::Ingress, EtherType::IPv4);
    let icmp = RuleSpec {
        protocol: Some("icmp".into()),
        ..any.clone()
    };
    let ssh = RuleSpec {
        protocol: Some("tcp".into()),
        port_range_min: Some(22),
        port_range_max: Some(22),
        ..any
    };
    for rule in [icmp, ssh] {
        tx.create(Resource::<Rule>::new(Metadata::with_id(project), rule))?;
    }
    Ok(())
}
