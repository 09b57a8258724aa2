//! Who still uses what, counted inside the commit: a network is not deleted while a port is being made on it.
//!
//! One counter record per network (`ports`, and one field per subnet id), per group that is not a default one (`ports`)
//! and per router (`interfaces`, `floatingips`). A deletion requires its field to be 0 at the moment of its commit.

use std::net::IpAddr;

use madang_store::{Delta, Resource, StoreError, Tx};

use crate::{FloatingIp, Port, PortSpec, port::owner, refusal, security_group};

/// One use of something by one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Use {
    record: String,
    field: String,
}

impl Use {
    fn new(record: String, field: impl Into<String>) -> Self {
        Self {
            record,
            field: field.into(),
        }
    }

    fn of_router(router: &str, field: &str) -> Self {
        Self::new(router_record(router), field)
    }
}

const PORTS: &str = "ports";
const INTERFACES: &str = "interfaces";
const FLOATING: &str = "floatingips";

fn network_record(network: &str) -> String {
    format!("network/{network}")
}

fn group_record(group: &str) -> String {
    format!("group/{group}")
}

fn router_record(router: &str) -> String {
    format!("router/{router}")
}

/// What a port of `project` uses. DHCP ports hold nothing back: they go with their subnets.
pub(crate) fn of_port(port: &Resource<Port>) -> Vec<Use> {
    let PortSpec {
        network_id,
        fixed_ips,
        security_groups,
        device_owner,
        device_id,
        ..
    } = &port.spec;
    if device_owner == owner::DHCP {
        return Vec::new();
    }
    let network = network_record(network_id);
    let default_group = security_group::default_id(port.project()).to_string();
    let mut uses: Vec<Use> = fixed_ips
        .iter()
        .map(|ip| Use::new(network.clone(), &ip.subnet_id))
        .collect();
    uses.push(Use::new(network, PORTS));
    uses.extend(
        security_groups
            .iter()
            .filter(|id| **id != default_group)
            .map(|id| Use::new(group_record(id), PORTS)),
    );
    if device_owner == owner::ROUTER_INTERFACE {
        uses.push(Use::of_router(device_id, INTERFACES));
    }
    uses
}

/// What a floating address uses.
pub(crate) fn of_floating_ip(floating: &Resource<FloatingIp>) -> Vec<Use> {
    floating
        .spec
        .router_id
        .iter()
        .map(|router| Use::of_router(router, FLOATING))
        .collect()
}

/// Counts the difference between what was used and what is.
pub(crate) fn change(tx: &mut Tx<'_>, before: Vec<Use>, mut after: Vec<Use>) {
    let mut gone = before;
    gone.retain(|used| match after.iter().position(|still| still == used) {
        Some(place) => {
            after.swap_remove(place);
            false
        }
        None => true,
    });
    let changes = gone
        .into_iter()
        .map(|used| (used, -1))
        .chain(after.into_iter().map(|used| (used, 1)));
    let mut by_record: Vec<(String, Vec<Delta>)> = Vec::new();
    for (Use { record, field }, add) in changes {
        let delta = Delta {
            field,
            add,
            limit: None,
        };
        match by_record.iter_mut().find(|(known, _)| *known == record) {
            Some((_, deltas)) => deltas.push(delta),
            None => by_record.push((record, vec![delta])),
        }
    }
    for (record, deltas) in by_record {
        tx.add("", &record, deltas);
    }
}

/// Requires, at the commit, that nothing uses a network.
pub(crate) fn require_unused_network(tx: &mut Tx<'_>, network: &str) {
    at_most(tx, &network_record(network), PORTS, 0);
}

/// Requires, at the commit, that no port has an address of a subnet.
pub(crate) fn require_unused_subnet(tx: &mut Tx<'_>, network: &str, subnet: &str) {
    at_most(tx, &network_record(network), subnet, 0);
}

/// Requires, at the commit, that no port has a group.
pub(crate) fn require_unused_group(tx: &mut Tx<'_>, group: &str) {
    at_most(tx, &group_record(group), PORTS, 0);
}

/// Requires, at the commit, that a router has no interfaces.
pub(crate) fn require_no_interfaces(tx: &mut Tx<'_>, router: &str) {
    at_most(tx, &router_record(router), INTERFACES, 0);
}

/// Requires, at the commit, that no more floating addresses lead through a router than were `seen`.
pub(crate) fn require_floating_at_most(tx: &mut Tx<'_>, router: &str, seen: usize) {
    at_most(
        tx,
        &router_record(router),
        FLOATING,
        i64::try_from(seen).unwrap_or(i64::MAX - 1),
    );
}

/// Adding one within the limit and taking it away again: the limit is checked, the sum stays.
fn at_most(tx: &mut Tx<'_>, record: &str, field: &str, most: i64) {
    let probe = Delta {
        field: field.to_owned(),
        add: 1,
        limit: Some(most + 1),
    };
    let undo = Delta {
        field: field.to_owned(),
        add: -1,
        limit: None,
    };
    tx.add("", record, vec![probe, undo]);
}

/// Neutron's word for a deletion that came too late, when its counter refused it.
pub(crate) fn refused(record: &str, field: &str) -> Option<StoreError> {
    let (kind, id) = record.split_once('/')?;
    match (kind, field) {
        ("network", PORTS) => Some(refusal::network_in_use(id)),
        ("network", subnet) => Some(refusal::subnet_in_use(subnet)),
        ("group", _) => Some(refusal::group_in_use(id)),
        ("router", INTERFACES) => Some(refusal::router_in_use(id)),
        ("router", _) => {
            let message = format!("A floating IP was associated through router {id} at the same time.");
            Some(refusal::conflict("RouterInterfaceInUseByFloatingIP", message))
        }
        _ => None,
    }
}

/// The reservation space of a subnet's addresses.
pub(crate) fn address_space(subnet: &str) -> String {
    format!("ip/{subnet}")
}

/// The reservation space of a network's MAC addresses.
pub(crate) fn mac_space(network: &str) -> String {
    format!("mac/{network}")
}

/// An address as reservations name it.
pub(crate) fn address_value(address: IpAddr) -> String {
    address.to_string()
}
