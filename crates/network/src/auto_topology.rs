//! What a project gets that wants a network and says no more: a network, a subnet, and a router that leads outside.
//!
//! Whoever writes the record gets the rest in the same transaction, by the rule of its kind; compute does it for servers
//! that are asked for with `networks: auto`. What was made is the project's own from then on: it may change or delete it,
//! and a record whose network is gone is made anew the next time.

pub(crate) mod api;

use std::sync::Arc;

use ipnet::IpNet;
use madang_store::{Key, Kind, Metadata, Op, Resource, Store, StoreBuilder, StoreError, Tx};
use serde::{Deserialize, Serialize};

use crate::{
    ExternalGateway, Network, NetworkSpec, Port, Router, RouterSpec, Subnet, SubnetPool, SubnetSpec,
    lookup::find,
    refusal,
    router::interfaces,
    seed::{seeded_with, subnet_of},
    subnet::rules as subnets,
    subnet_pool::rules as pools,
};

/// The kind of records: one of a project, called `auto`.
pub struct AutoTopology;

impl Kind for AutoTopology {
    const NAME: &'static str = "autotopologies";
    type Spec = AutoTopologySpec;
    type Status = AutoTopologyStatus;
}

/// Nothing is asked of it but to be.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AutoTopologySpec {}

/// What was made, by id. Written by the rule of the kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AutoTopologyStatus {
    /// The network.
    #[serde(default)]
    pub network: String,
    /// Its subnet.
    #[serde(default)]
    pub subnet: String,
    /// The router.
    #[serde(default)]
    pub router: String,
}

/// Where a project's record is.
pub fn key(project: &str) -> Key {
    Key::new(AutoTopology::NAME, project, "", "auto")
}

/// A record for a project, which makes the rest when it is created.
pub fn record(project: &str) -> Resource<AutoTopology> {
    Resource::new(Metadata::new(project, "auto"), AutoTopologySpec::default())
}

/// A project's network, while there is one.
pub fn network_of(store: &Store, project: &str) -> Option<Arc<Resource<Network>>> {
    let record = store.get::<AutoTopology>(&key(project))?;
    store.cache::<Network>().by_name(&record.status.network)
}

pub(crate) fn register(builder: &mut StoreBuilder) {
    builder.rule::<AutoTopology>(|tx, op| match op {
        Op::Create(record) => make(tx, record),
        Op::Update { .. } => Ok(()),
        Op::Remove(record) => unmake(tx, record),
    });
}

/// The ranges of a project's subnets by version of IP: cut from the default pools, as in Neutron, or else the private one.
fn ranges(
    tx: &mut Tx<'_>,
    private: Option<IpNet>,
    project: &str,
) -> Result<Vec<(u8, IpNet, Option<String>)>, StoreError> {
    let mut ranges = Vec::new();
    for version in [4, 6] {
        let pools = tx.store().cache::<SubnetPool>().by("default", &version.to_string());
        if let Some(pool) = pools.iter().find_map(|pool| tx.get::<SubnetPool>(&pool.key())) {
            let range = pools::cut(tx, &pool, pools::Wanted::Any(None), project)?;
            ranges.push((version, range, Some(pool.name().to_owned())));
        }
    }
    if ranges.is_empty() {
        ranges.extend(private.map(|range| (4, range, None)));
    }
    Ok(ranges)
}

/// The external network that is the default one, and the range of what is made where there are no default pools.
///
/// # Errors
/// `AutoAllocationFailure` where either is missing.
fn requirements(store: &Store) -> Result<(Arc<Resource<Network>>, Option<IpNet>), StoreError> {
    let missing = |what: &str| {
        let message = format!("Deployment error: {what}.");
        refusal::conflict("AutoAllocationFailure", message)
    };
    let outside = store.cache::<Network>().by("external", "yes");
    let outside = outside.into_iter().find(|network| network.spec.is_default);
    let outside = outside.ok_or_else(|| missing("No default router:external network"))?;
    let range = seeded_with(store).map(|options| options.private);
    let has_pools = ["4", "6"]
        .iter()
        .any(|version| store.cache::<SubnetPool>().count_by("default", version) > 0);
    if range.is_none() && !has_pools {
        return Err(missing("No default pools available"));
    }
    Ok((outside, range))
}

fn make(tx: &mut Tx<'_>, record: &mut Resource<AutoTopology>) -> Result<(), StoreError> {
    let (outside, private) = requirements(tx.store())?;
    let project = record.project().to_owned();
    let network = NetworkSpec {
        name: "auto_allocated_network".into(),
        ..NetworkSpec::default()
    };
    let network = tx.create(Resource::<Network>::new(Metadata::with_id(&project), network))?;
    let mut made = Vec::new();
    for (version, range, pool) in ranges(tx, private, &project)? {
        let spec = SubnetSpec {
            subnetpool_id: pool,
            ..subnet_of(&format!("auto_allocated_subnet_v{version}"), &network, range)
        };
        made.push(subnets::create(
            tx,
            Resource::<Subnet>::new(Metadata::with_id(&project), spec),
        )?);
    }
    let router = RouterSpec {
        name: "auto_allocated_router".into(),
        description: String::new(),
        admin_state_up: true,
        gateway: Some(ExternalGateway {
            network_id: outside.name().to_owned(),
            port_id: String::new(),
            fixed_ips: Vec::new(),
            enable_snat: true,
        }),
        routes: Vec::new(),
        distributed: false,
        ha: false,
        availability_zone_hints: Vec::new(),
        tags: Vec::new(),
    };
    let router = tx.create(Resource::<Router>::new(Metadata::with_id(&project), router))?;
    for subnet in &made {
        let router = find::<Router>(tx, router.name()).unwrap_or_else(|| Arc::clone(&router));
        interfaces::add_subnet(tx, &router, subnet)?;
    }
    record.status = AutoTopologyStatus {
        network: network.name().to_owned(),
        subnet: made.first().map(|subnet| subnet.name().to_owned()).unwrap_or_default(),
        router: router.name().to_owned(),
    };
    Ok(())
}

/// Takes away what is still there. What somebody uses refuses to go, and so does the whole.
fn unmake(tx: &mut Tx<'_>, record: &Resource<AutoTopology>) -> Result<(), StoreError> {
    let made = &record.status;
    if let Some(router) = find::<Router>(tx, &made.router) {
        let ports = tx.store().cache::<Port>().by("device", router.name());
        for port in ports {
            // Each interface that goes changes the router.
            let router = find::<Router>(tx, &made.router).unwrap_or_else(|| Arc::clone(&router));
            if let Ok(interface) = interfaces::by_port(tx, &router, port.name()) {
                interfaces::remove(tx, &router, &interface)?;
            }
        }
        let router = find::<Router>(tx, &made.router).unwrap_or(router);
        tx.delete::<Router>(&router)?;
    }
    if let Some(subnet) = find::<Subnet>(tx, &made.subnet) {
        tx.delete::<Subnet>(&subnet)?;
    }
    match find::<Network>(tx, &made.network) {
        Some(network) => tx.delete::<Network>(&network),
        None => Ok(()),
    }
}

/// Writes a project's record, anew where its network is gone.
///
/// # Errors
/// `AutoAllocationFailure`; the quotas of the project.
pub(crate) fn ensure(tx: &mut Tx<'_>, project: &str) -> Result<Arc<Resource<AutoTopology>>, StoreError> {
    match tx.get::<AutoTopology>(&key(project)) {
        Some(old) if find::<Network>(tx, &old.status.network).is_some() => Ok(old),
        Some(old) => {
            let mut new = (*old).clone();
            make(tx, &mut new)?;
            tx.update(&old, new)
        }
        None => tx.create(record(project)),
    }
}
