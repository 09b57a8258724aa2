//! Joining subnets to a router and taking them off again.

use std::{net::IpAddr, sync::Arc};

use madang_store::{Metadata, Resource, StoreError, Tx};

use super::{
    Router,
    rules::{connected, held_port},
};
use crate::{
    FixedIp, FloatingIp, Port, Subnet,
    lookup::{find, hold, ports_of_device, touch},
    port::{owner, rules::delete_held},
    refusal::{self, Missing},
    subnet::shape::overlap,
    usage,
};

/// Joins a subnet with the subnet's gateway address. The port is made for it.
///
/// # Errors
/// Neutron's `BadRequest` when it has no gateway or overlaps a subnet of the router; the address may be in use.
pub(crate) fn add_subnet(
    tx: &mut Tx<'_>,
    router: &Resource<Router>,
    subnet: &Resource<Subnet>,
) -> Result<Arc<Resource<Port>>, StoreError> {
    let Some(gateway) = subnet.spec.gateway_ip else {
        return Err(refusal::bad_request(
            "router",
            "Subnet for router interface must have a gateway IP",
        ));
    };
    check_ranges(tx, router, subnet)?;
    touch(tx, router)?;
    let ip = FixedIp {
        subnet_id: subnet.name().to_owned(),
        ip_address: gateway,
    };
    let spec = held_port(
        router.name(),
        owner::ROUTER_INTERFACE,
        &subnet.spec.network_id,
        vec![ip],
    );
    tx.create(Resource::<Port>::new(Metadata::with_id(router.project()), spec))
}

/// Makes a free port the router's.
///
/// # Errors
/// `PortInUse` when something uses it; `BadRequest` when its addresses do not fit.
pub(crate) fn add_port(
    tx: &mut Tx<'_>,
    router: &Resource<Router>,
    port: &Resource<Port>,
) -> Result<Arc<Resource<Port>>, StoreError> {
    if !port.spec.device_id.is_empty() {
        let message = format!(
            "Unable to complete operation on port {} for network {}. Port already has an attached device {}.",
            port.name(),
            port.spec.network_id,
            port.spec.device_id
        );
        return Err(refusal::conflict("PortInUse", message));
    }
    let ips = &port.spec.fixed_ips;
    if ips.is_empty() {
        return Err(refusal::bad_request(
            "router",
            "Router port must have at least one fixed IP",
        ));
    }
    if ips.iter().filter(|ip| ip.ip_address.is_ipv4()).count() > 1 {
        return Err(refusal::bad_request(
            "router",
            "Cannot have multiple IPv4 subnets on router port",
        ));
    }
    for ip in ips {
        let subnet = hold::<Subnet>(tx, Missing::Subnet, &ip.subnet_id)?;
        check_ranges(tx, router, &subnet)?;
    }
    touch(tx, router)?;
    let mut taken = port.clone();
    router.name().clone_into(&mut taken.spec.device_id);
    owner::ROUTER_INTERFACE.clone_into(&mut taken.spec.device_owner);
    taken.spec.port_security_enabled = false;
    taken.spec.security_groups.clear();
    taken.spec.allowed_address_pairs.clear();
    tx.update(port, taken)
}

/// Takes an interface off: its port goes.
///
/// # Errors
/// `RouterInterfaceInUseByFloatingIP`, `RouterInterfaceInUseByRoute`.
pub(crate) fn remove(tx: &mut Tx<'_>, router: &Resource<Router>, port: &Resource<Port>) -> Result<(), StoreError> {
    let floating = tx.store().cache::<FloatingIp>().by("router", router.name());
    let seen: Vec<_> = floating
        .iter()
        .filter_map(|cached| tx.get::<FloatingIp>(&cached.key()))
        .collect();
    for ip in &port.spec.fixed_ips {
        let Some(subnet) = find::<Subnet>(tx, &ip.subnet_id) else {
            continue;
        };
        let is_inside = |address: IpAddr| subnet.spec.cidr.contains(&address);
        if seen
            .iter()
            .any(|floating| floating.spec.fixed_ip_address.is_some_and(is_inside))
        {
            return Err(in_use(
                "RouterInterfaceInUseByFloatingIP",
                router,
                &subnet,
                "floating IPs",
            ));
        }
        if router.spec.routes.iter().any(|route| is_inside(route.nexthop)) {
            return Err(in_use("RouterInterfaceInUseByRoute", router, &subnet, "routes"));
        }
    }
    usage::require_floating_at_most(tx, router.name(), seen.len());
    touch(tx, router)?;
    delete_held(tx, port)
}

fn in_use(reason: &'static str, router: &Resource<Router>, subnet: &Resource<Subnet>, by: &str) -> StoreError {
    let message = format!(
        "Router interface for subnet {} on router {} cannot be deleted, as it is required by one or more {by}.",
        subnet.name(),
        router.name()
    );
    refusal::conflict(reason, message)
}

/// The interface of a router with an id.
///
/// # Errors
/// `RouterInterfaceNotFound`.
pub(crate) fn by_port(tx: &Tx<'_>, router: &Resource<Router>, port: &str) -> Result<Arc<Resource<Port>>, StoreError> {
    let interfaces = interfaces(tx, router);
    interfaces
        .into_iter()
        .find(|interface| interface.name() == port)
        .ok_or_else(|| {
            let message = format!("Router {} does not have an interface with id {port}", router.name());
            refusal::refuse(madang_store::ErrorKind::NotFound, "RouterInterfaceNotFound", message)
        })
}

/// The interface of a router on a subnet.
///
/// # Errors
/// `RouterInterfaceNotFoundForSubnet`.
pub(crate) fn by_subnet(
    tx: &Tx<'_>,
    router: &Resource<Router>,
    subnet: &str,
) -> Result<Arc<Resource<Port>>, StoreError> {
    let is_on = |port: &Arc<Resource<Port>>| port.spec.fixed_ips.iter().any(|ip| ip.subnet_id == subnet);
    interfaces(tx, router).into_iter().find(is_on).ok_or_else(|| {
        let message = format!("Router {} has no interface on subnet {subnet}", router.name());
        refusal::refuse(
            madang_store::ErrorKind::NotFound,
            "RouterInterfaceNotFoundForSubnet",
            message,
        )
    })
}

fn interfaces(tx: &Tx<'_>, router: &Resource<Router>) -> Vec<Arc<Resource<Port>>> {
    let mut ports = ports_of_device(tx, router.name());
    ports.retain(|port| port.spec.device_owner == owner::ROUTER_INTERFACE);
    ports
}

fn check_ranges(tx: &Tx<'_>, router: &Resource<Router>, subnet: &Resource<Subnet>) -> Result<(), StoreError> {
    for (_, other) in connected(tx, router.name()) {
        if other.name() == subnet.name() {
            let why = format_args!("Router already has a port on subnet {}", subnet.name());
            return Err(refusal::bad_request("router", why));
        }
        if overlap(other.spec.cidr, subnet.spec.cidr) {
            let why = format_args!(
                "Cidr {} of subnet {} overlaps with cidr {} of subnet {}",
                subnet.spec.cidr,
                subnet.name(),
                other.spec.cidr,
                other.name()
            );
            return Err(refusal::bad_request("router", why));
        }
    }
    Ok(())
}
