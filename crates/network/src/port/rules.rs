//! What happens to a port on its way into the store: its MAC address, addresses and groups, and what it counts.

use std::sync::Arc;

use madang_store::{Op, Resource, StoreBuilder, StoreError, Tx};

use super::{Port, PortStatus, addresses::Addresses, assign, mac, owner};
use crate::{
    FloatingIp, Network, SecurityGroup,
    floating_ip::forwarding,
    lookup::{find, hold},
    qos,
    quota::{self, Limited},
    rbac,
    refusal::{self, Missing},
    security_group, usage,
};

/// Neutron's `max_allowed_address_pair`.
const MAX_ADDRESS_PAIRS: usize = 10;

/// Makes ports known, with their rule.
pub(crate) fn register(builder: &mut StoreBuilder) {
    let hints = Arc::new(Addresses::default());
    builder.rule::<Port>(move |tx, op| match op {
        Op::Create(port) => create(&hints, tx, port),
        Op::Update { old, new } if old.spec != new.spec => update(&hints, tx, old, new),
        Op::Update { .. } => Ok(()),
        Op::Remove(port) => remove(tx, port),
    });
}

fn create(hints: &Arc<Addresses>, tx: &mut Tx<'_>, port: &mut Resource<Port>) -> Result<(), StoreError> {
    let network = hold::<Network>(tx, Missing::Network, &port.spec.network_id)?;
    if owner::is_of_the_network(&port.spec.device_owner) {
        // Neutron trusts what the network itself puts there.
        port.spec.port_security_enabled = false;
    } else if !network.spec.port_security_enabled && !port.spec.explicit_security_groups {
        port.spec.port_security_enabled = false;
    }
    qos::rules::take_up(tx, port.spec.qos_policy_id.as_ref())?;
    take_mac(tx, port)?;
    assign::assign(hints, tx, port, &network, &[])?;
    complete_groups(tx, port)?;
    check_groups(tx, port, &[])?;
    check_filters(port)?;
    usage::change(tx, Vec::new(), usage::of_port(port));
    if port.spec.device_owner == owner::DHCP {
        quota::take_regardless(tx, port.project(), Limited::Port);
    } else {
        quota::take(tx, port.project(), Limited::Port);
    }
    Ok(())
}

fn update(
    hints: &Arc<Addresses>,
    tx: &mut Tx<'_>,
    old: &Resource<Port>,
    new: &mut Resource<Port>,
) -> Result<(), StoreError> {
    if new.spec.network_id != old.spec.network_id {
        return Err(refusal::invalid(format_args!(
            "port {} cannot move to another network",
            old.name()
        )));
    }
    if new.spec.qos_policy_id != old.spec.qos_policy_id {
        qos::rules::take_up(tx, new.spec.qos_policy_id.as_ref())?;
    }
    if new.spec.mac_address != old.spec.mac_address {
        tx.release(&usage::mac_space(&old.spec.network_id), &old.spec.mac_address);
        take_mac(tx, new)?;
    }
    if new.spec.fixed_ips != old.spec.fixed_ips {
        let network = hold::<Network>(tx, Missing::Network, &new.spec.network_id)?;
        for gone in old.spec.fixed_ips.iter().filter(|ip| !new.spec.fixed_ips.contains(ip)) {
            tx.release(
                &usage::address_space(&gone.subnet_id),
                &usage::address_value(gone.ip_address),
            );
        }
        assign::assign(hints, tx, new, &network, &old.spec.fixed_ips)?;
        let lost = |ip| old.spec.fixed_ips.iter().any(|had| had.ip_address == ip) && !has_address(new, ip);
        leave_floating_ips(tx, old.name(), lost)?;
        forwarding::leave(tx, old.name(), lost)?;
    }
    if new.spec.security_groups != old.spec.security_groups {
        check_groups(tx, new, &old.spec.security_groups)?;
    }
    check_filters(new)?;
    let is_rebound = new.spec.binding_host != old.spec.binding_host || new.spec.device_id != old.spec.device_id;
    if new.spec.binding_host != old.spec.binding_host {
        crate::trunk::rules::follow(tx, new)?;
    }
    if is_rebound && !owner::is_of_the_network(&new.spec.device_owner) {
        // What was seen is of the last binding. Its device may be on its way out while the port is bound anew to the
        // same host, and must not be taken for the new one.
        new.status = PortStatus::default();
    }
    usage::change(tx, usage::of_port(old), usage::of_port(new));
    Ok(())
}

fn remove(tx: &mut Tx<'_>, port: &Resource<Port>) -> Result<(), StoreError> {
    if owner::is_of_a_router(&port.spec.device_owner) {
        let (id, who) = (port.name(), &port.spec.device_owner);
        let message = format!("Port {id} cannot be deleted directly via the port API: has device owner {who}.");
        return Err(refusal::conflict("ServicePortInUse", message));
    }
    crate::trunk::rules::port_goes(tx, port)?;
    leave_floating_ips(tx, port.name(), |_| true)?;
    forwarding::leave(tx, port.name(), |_| true)?;
    tx.release(&usage::mac_space(&port.spec.network_id), &port.spec.mac_address);
    for ip in &port.spec.fixed_ips {
        tx.release(
            &usage::address_space(&ip.subnet_id),
            &usage::address_value(ip.ip_address),
        );
    }
    usage::change(tx, usage::of_port(port), Vec::new());
    quota::give_back(tx, port.project(), Limited::Port);
    Ok(())
}

/// Deletes a port that a router or a floating address holds, on behalf of its holder.
pub(crate) fn delete_held(tx: &mut Tx<'_>, port: &Resource<Port>) -> Result<(), StoreError> {
    let mut free = port.clone();
    free.spec.device_owner = String::new();
    free.spec.device_id = String::new();
    let free = tx.update(port, free)?;
    tx.delete(&free)
}

fn take_mac(tx: &mut Tx<'_>, port: &mut Resource<Port>) -> Result<(), StoreError> {
    let network = port.spec.network_id.clone();
    let space = usage::mac_space(&network);
    let uid = port.metadata.uid;
    if port.spec.mac_address.is_empty() {
        let taken = |mac: &str| tx.store().cache::<Port>().count_by("mac", mac) > 0 || tx.has_reserved(&space, mac);
        port.spec.mac_address = mac::random(taken);
        return tx.reserve(&space, &port.spec.mac_address, uid);
    }
    let given = mac::parse(&port.spec.mac_address);
    let given = given
        .ok_or_else(|| refusal::invalid(format_args!("'{}' is not a valid MAC address", port.spec.mac_address)))?;
    port.spec.mac_address = given;
    let mac = &port.spec.mac_address;
    let others = tx.store().cache::<Port>().by("mac", mac);
    let others = others.iter().filter_map(|cached| tx.get::<Port>(&cached.key()));
    let mut others = others.filter(|other| other.metadata.uid != uid && other.spec.network_id == network);
    let in_use = others.any(|other| other.spec.mac_address == *mac) || tx.has_reserved(&space, mac);
    if in_use {
        return Err(refusal::mac_in_use(&network, mac));
    }
    tx.reserve(&space, mac, uid)
}

/// The project's default group, for who named none.
fn complete_groups(tx: &mut Tx<'_>, port: &mut Resource<Port>) -> Result<(), StoreError> {
    if !port.spec.port_security_enabled {
        let groups = !port.spec.security_groups.is_empty();
        if groups && owner::is_of_the_network(&port.spec.device_owner) {
            port.spec.security_groups.clear();
        }
        return Ok(());
    }
    if port.spec.security_groups.is_empty() && !port.spec.explicit_security_groups && !port.project().is_empty() {
        let group = security_group::rules::ensure_default(tx, port.project())?;
        port.spec.security_groups.push(group);
    }
    Ok(())
}

/// Every group that is new must be there, and be the project's own.
fn check_groups(tx: &mut Tx<'_>, port: &mut Resource<Port>, known: &[String]) -> Result<(), StoreError> {
    let mut seen = Vec::with_capacity(port.spec.security_groups.len());
    for id in std::mem::take(&mut port.spec.security_groups) {
        if !seen.contains(&id) {
            seen.push(id);
        }
    }
    port.spec.security_groups = seen;
    let default = security_group::default_id(port.project()).to_string();
    let mut is_stateful = None;
    for id in &port.spec.security_groups {
        let is_usable = |group: &Resource<SecurityGroup>| {
            group.project() == port.project() || rbac::is_shared_with(tx.store(), id, port.project())
        };
        let group = find::<SecurityGroup>(tx, id).filter(|group| is_usable(group));
        let Some(group) = group else {
            // One that went meanwhile is no reason to refuse a change of something else.
            if known.contains(id) {
                continue;
            }
            return Err(refusal::not_found(Missing::SecurityGroup, id));
        };
        if *id != default && !known.contains(id) {
            tx.expect(&group)?;
        }
        if *is_stateful.get_or_insert(group.spec.is_stateful) != group.spec.is_stateful {
            let message = "Error using stateful and stateless security groups in the same port is not allowed while \
                           attempting the operation.";
            return Err(refusal::conflict("SecurityGroupConflict", message));
        }
    }
    Ok(())
}

fn check_filters(port: &Resource<Port>) -> Result<(), StoreError> {
    let spec = &port.spec;
    if !spec.port_security_enabled && !spec.security_groups.is_empty() {
        let message = "Port security must be enabled and port must have an IP address in order to use security groups.";
        return Err(refusal::bad("PortSecurityAndIPRequiredForSecurityGroups", message));
    }
    if !spec.port_security_enabled && !spec.allowed_address_pairs.is_empty() {
        let message = "Port Security must be enabled in order to have allowed address pairs on a port.";
        return Err(refusal::conflict("AddressPairAndPortSecurityRequired", message));
    }
    if spec.allowed_address_pairs.len() > MAX_ADDRESS_PAIRS {
        let message = format!("The number of allowed address pairs exceeds the maximum {MAX_ADDRESS_PAIRS}.");
        return Err(refusal::bad("AddressPairsExhausted", message));
    }
    let pairs = &spec.allowed_address_pairs;
    if let Some(twice) = pairs.iter().enumerate().find(|(at, pair)| pairs[..*at].contains(pair)) {
        let mac = twice.1.mac_address.as_ref().unwrap_or(&spec.mac_address);
        let message = format!(
            "Request contains duplicate address pair: mac_address {mac} ip_address {}.",
            twice.1.ip_address
        );
        return Err(refusal::bad("DuplicateAddressPairInRequest", message));
    }
    Ok(())
}

fn has_address(port: &Resource<Port>, address: std::net::IpAddr) -> bool {
    port.spec.fixed_ips.iter().any(|ip| ip.ip_address == address)
}

/// Floating addresses that lead to an address the port no longer has lead nowhere.
fn leave_floating_ips(
    tx: &mut Tx<'_>,
    port: &str,
    is_lost: impl Fn(std::net::IpAddr) -> bool,
) -> Result<(), StoreError> {
    for cached in tx.store().cache::<FloatingIp>().by("port", port) {
        let Some(floating) = tx.get::<FloatingIp>(&cached.key()) else {
            continue;
        };
        let leads_here = floating.spec.port_id.as_deref() == Some(port);
        if leads_here && floating.spec.fixed_ip_address.is_none_or(&is_lost) {
            let mut free = (*floating).clone();
            free.spec.port_id = None;
            tx.update(&floating, free)?;
        }
    }
    Ok(())
}
