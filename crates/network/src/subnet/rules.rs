//! What happens to a subnet on its way into the store, and the verb that makes one.

use std::sync::Arc;

use ipnet::IpNet;
use madang_store::{Op, Resource, StoreBuilder, StoreError, Tx};

use super::{Subnet, shape};
use crate::{
    AllocationPool, FixedIp, Network, Port, dhcp_port,
    lookup::{find, hold, subnets_of, touch},
    port::{number::number, owner},
    quota::{self, Limited},
    refusal::{self, Missing},
    usage,
};

/// Makes subnets known, with their rule.
pub(crate) fn register(builder: &mut StoreBuilder) {
    builder.rule::<Subnet>(|tx, op| match op {
        Op::Create(subnet) => admit(tx, subnet),
        Op::Update { old, new } if old.spec != new.spec => update(tx, old, new),
        Op::Update { .. } => Ok(()),
        Op::Remove(subnet) => remove(tx, subnet),
    });
}

/// Creates a subnet, and where it has DHCP the port that serves it.
///
/// # Errors
/// Neutron's refusals of the subnet; the quotas of the project.
pub fn create(tx: &mut Tx<'_>, subnet: Resource<Subnet>) -> Result<Arc<Resource<Subnet>>, StoreError> {
    let subnet = tx.create(subnet)?;
    let network = find::<Network>(tx, &subnet.spec.network_id);
    let network = network.ok_or_else(|| refusal::not_found(Missing::Network, &subnet.spec.network_id))?;
    if subnet.spec.enable_dhcp {
        dhcp_port::serve(tx, &network, &subnet)?;
    }
    if subnet.spec.is_automatic() {
        give_automatic(tx, &subnet)?;
    }
    Ok(subnet)
}

/// The ports that are on the network already make up an address of the new subnet, too.
fn give_automatic(tx: &mut Tx<'_>, subnet: &Resource<Subnet>) -> Result<(), StoreError> {
    for cached in tx.store().cache::<Port>().by("network", &subnet.spec.network_id) {
        let Some(port) = tx
            .get::<Port>(&cached.key())
            .filter(|port| !owner::is_of_the_network(&port.spec.device_owner))
        else {
            continue;
        };
        let mut more = (*port).clone();
        let ip_address = std::net::Ipv6Addr::UNSPECIFIED.into();
        more.spec.fixed_ips.push(FixedIp {
            subnet_id: subnet.name().to_owned(),
            ip_address,
        });
        tx.update(&port, more)?;
    }
    Ok(())
}

/// Addresses that nobody asked for do not hold their subnet back.
fn take_automatic(tx: &mut Tx<'_>, subnet: &Resource<Subnet>) -> Result<(), StoreError> {
    for cached in tx.store().cache::<Port>().by("subnet", subnet.name()) {
        let Some(port) = tx
            .get::<Port>(&cached.key())
            .filter(|port| !owner::is_of_the_network(&port.spec.device_owner))
        else {
            continue;
        };
        let mut less = (*port).clone();
        less.spec.fixed_ips.retain(|ip| ip.subnet_id != subnet.name());
        tx.update(&port, less)?;
    }
    Ok(())
}

fn admit(tx: &mut Tx<'_>, subnet: &mut Resource<Subnet>) -> Result<(), StoreError> {
    let network = hold::<Network>(tx, Missing::Network, &subnet.spec.network_id)?;
    let spec = &mut subnet.spec;
    spec.cidr = spec.cidr.trunc();
    if spec.allocation_pools.is_empty() {
        spec.allocation_pools = shape::default_pools(spec.cidr, spec.gateway_ip);
    }
    shape::validate(&subnet.metadata.name, spec)?;
    let cidr = spec.cidr;
    check_mtu(&network, cidr)?;
    let others = subnets_of(tx, network.name());
    let is_elsewhere = |other: &&Arc<Resource<Subnet>>| {
        other.spec.ip_version() == spec.ip_version() && other.spec.subnetpool_id != spec.subnetpool_id
    };
    if others.iter().any(|other| is_elsewhere(&other)) {
        let message = "Subnets hosted on the same network must be allocated from the same subnet pool.";
        return Err(refusal::bad("NetworkSubnetPoolAffinityError", message));
    }
    if others.iter().any(|other| shape::overlap(other.spec.cidr, cidr)) {
        return Err(refusal::invalid(format_args!(
            "Requested subnet with cidr: {cidr} for network: {} overlaps with another subnet",
            network.name()
        )));
    }
    subnet.metadata.owners.push(network.as_owner());
    touch(tx, &network)?;
    quota::take(tx, subnet.project(), Limited::Subnet);
    Ok(())
}

/// The least that IPv4 works with (RFC 791), in bytes.
pub(crate) const MIN_MTU_V4: u16 = 68;
/// The least that IPv6 works with (RFC 8200, section 5), in bytes.
const MIN_MTU_V6: u16 = 1280;

/// Whether a network's frames are large enough for a subnet.
pub(crate) fn check_mtu(network: &Resource<Network>, cidr: IpNet) -> Result<(), StoreError> {
    let mtu = network.spec.mtu;
    let least = if cidr.addr().is_ipv4() { MIN_MTU_V4 } else { MIN_MTU_V6 };
    if mtu >= least {
        return Ok(());
    }
    let message = format!(
        "Network {} has an MTU of {mtu}, which is below {least}, the minimum of its subnet {cidr}.",
        network.name()
    );
    Err(refusal::conflict("NetworkMTUSubnetConflict", message))
}

fn update(tx: &mut Tx<'_>, old: &Resource<Subnet>, new: &mut Resource<Subnet>) -> Result<(), StoreError> {
    if (new.spec.cidr, &new.spec.network_id) != (old.spec.cidr, &old.spec.network_id) {
        return Err(refusal::invalid(format_args!(
            "the range of subnet {} cannot change",
            old.name()
        )));
    }
    if new.spec.allocation_pools.is_empty() {
        new.spec.allocation_pools = shape::default_pools(new.spec.cidr, new.spec.gateway_ip);
    }
    shape::validate(old.name(), &new.spec)?;
    if new.spec.gateway_ip != old.spec.gateway_ip {
        check_gateway_is_free(tx, old)?;
    }
    if new.spec.enable_dhcp != old.spec.enable_dhcp {
        let network = hold::<Network>(tx, Missing::Network, &old.spec.network_id)?;
        if new.spec.enable_dhcp {
            dhcp_port::serve(tx, &network, new)?;
        } else {
            dhcp_port::leave(tx, &network, old.name())?;
        }
    }
    Ok(())
}

/// A router's address on the subnet cannot be taken from under it.
fn check_gateway_is_free(tx: &Tx<'_>, subnet: &Resource<Subnet>) -> Result<(), StoreError> {
    let Some(gateway) = subnet.spec.gateway_ip else {
        return Ok(());
    };
    let ports = tx.store().cache::<Port>().by("ip", &usage::address_value(gateway));
    let is_its = |port: &&Arc<Resource<Port>>| {
        let ips = &port.spec.fixed_ips;
        port.spec.device_owner == owner::ROUTER_INTERFACE
            && ips
                .iter()
                .any(|ip| ip.subnet_id == subnet.name() && ip.ip_address == gateway)
    };
    match ports.iter().find(is_its) {
        Some(port) => {
            let message = format!(
                "Current gateway ip {gateway} already in use by port {}. Unable to update.",
                port.name()
            );
            Err(refusal::conflict("GatewayIpInUse", message))
        }
        None => Ok(()),
    }
}

fn remove(tx: &mut Tx<'_>, subnet: &Resource<Subnet>) -> Result<(), StoreError> {
    let (id, network_id) = (subnet.name(), &subnet.spec.network_id);
    if subnet.spec.is_automatic() {
        take_automatic(tx, subnet)?;
    }
    let ports = tx.store().cache::<Port>().by("subnet", id);
    let mut ports = ports.iter().filter_map(|cached| tx.get::<Port>(&cached.key()));
    let in_use = ports
        .any(|port| port.spec.device_owner != owner::DHCP && port.spec.fixed_ips.iter().any(|ip| ip.subnet_id == id));
    if in_use {
        return Err(refusal::subnet_in_use(id));
    }
    usage::require_unused_subnet(tx, network_id, id);
    if let Some(network) = find::<Network>(tx, network_id) {
        dhcp_port::leave(tx, &network, id)?;
        touch(tx, &network)?;
    }
    quota::give_back(tx, subnet.project(), Limited::Subnet);
    Ok(())
}

/// How many addresses the pools of a subnet have.
pub(crate) fn pool_size(pools: &[AllocationPool]) -> u128 {
    pools
        .iter()
        .map(|pool| (number(pool.end) - number(pool.start)).saturating_add(1))
        .fold(0, u128::saturating_add)
}
