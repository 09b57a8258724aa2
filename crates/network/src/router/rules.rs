//! What happens to a router on its way into the store: its gateway's port, its routes, and what holds it back.

use std::{net::IpAddr, sync::Arc};

use madang_host::workload::Attachment;
use madang_store::{Metadata, Op, Resource, StoreBuilder, StoreError, Tx};

use super::{ExternalGateway, Router};
use crate::{
    FixedIp, FloatingIp, HostRoute, Network, Port, PortSpec, Subnet,
    lookup::{find, ports_of_device},
    port::{owner, rules::delete_held},
    quota::{self, Limited},
    refusal::{self, Missing},
    usage,
};

/// Neutron's `max_routes`.
const MAX_ROUTES: usize = 30;

/// Makes routers known, with their rule.
pub(crate) fn register(builder: &mut StoreBuilder) {
    builder.rule::<Router>(|tx, op| match op {
        Op::Create(router) => create(tx, router),
        Op::Update { old, new } if old.spec != new.spec => update(tx, old, new),
        Op::Update { .. } => Ok(()),
        Op::Remove(router) => remove(tx, router),
    });
}

fn create(tx: &mut Tx<'_>, router: &mut Resource<Router>) -> Result<(), StoreError> {
    let id = router.metadata.name.clone();
    if let Some(gateway) = &mut router.spec.gateway {
        open_gateway(tx, &id, gateway)?;
    }
    check_routes(tx, router)?;
    quota::take(tx, router.project(), Limited::Router);
    Ok(())
}

fn update(tx: &mut Tx<'_>, old: &Resource<Router>, new: &mut Resource<Router>) -> Result<(), StoreError> {
    let id = old.name();
    let network = |gateway: &Option<ExternalGateway>| gateway.as_ref().map(|g| g.network_id.clone());
    if network(&old.spec.gateway) != network(&new.spec.gateway) {
        if let Some(before) = &old.spec.gateway {
            close_gateway(tx, id, before)?;
        }
        if let Some(after) = &mut new.spec.gateway {
            open_gateway(tx, id, after)?;
        }
    } else if let (Some(before), Some(after)) = (&old.spec.gateway, &mut new.spec.gateway) {
        after.port_id.clone_from(&before.port_id);
        move_gateway(tx, before, after)?;
    }
    if old.spec.routes != new.spec.routes || old.spec.gateway != new.spec.gateway {
        check_routes(tx, new)?;
    }
    Ok(())
}

fn remove(tx: &mut Tx<'_>, router: &Resource<Router>) -> Result<(), StoreError> {
    let id = router.name();
    let ports = ports_of_device(tx, id);
    if ports
        .iter()
        .any(|port| port.spec.device_owner == owner::ROUTER_INTERFACE)
    {
        return Err(refusal::router_in_use(id));
    }
    usage::require_no_interfaces(tx, id);
    if let Some(gateway) = &router.spec.gateway {
        close_gateway(tx, id, gateway)?;
    }
    quota::give_back(tx, router.project(), Limited::Router);
    Ok(())
}

/// Makes the router's port on the external network. It belongs to the cloud, not to the project.
fn open_gateway(tx: &mut Tx<'_>, router: &str, gateway: &mut ExternalGateway) -> Result<(), StoreError> {
    let network = find::<Network>(tx, &gateway.network_id);
    let network = network.ok_or_else(|| refusal::not_found(Missing::Network, &gateway.network_id))?;
    if !network.spec.is_external {
        let why = format_args!("Network {} is not an external network", gateway.network_id);
        return Err(refusal::bad_request("router", why));
    }
    let spec = held_port(
        router,
        owner::ROUTER_GATEWAY,
        &gateway.network_id,
        std::mem::take(&mut gateway.fixed_ips),
    );
    let port = tx.create(Resource::<Port>::new(Metadata::with_id(""), spec))?;
    port.name().clone_into(&mut gateway.port_id);
    gateway.fixed_ips.clone_from(&port.spec.fixed_ips);
    Ok(())
}

fn move_gateway(tx: &mut Tx<'_>, before: &ExternalGateway, after: &mut ExternalGateway) -> Result<(), StoreError> {
    if after.fixed_ips.is_empty() {
        after.fixed_ips.clone_from(&before.fixed_ips);
    }
    if after.fixed_ips == before.fixed_ips {
        return Ok(());
    }
    let Some(port) = find::<Port>(tx, &before.port_id) else {
        return Ok(());
    };
    let mut moved = (*port).clone();
    moved.spec.fixed_ips.clone_from(&after.fixed_ips);
    let moved = tx.update(&port, moved)?;
    after.fixed_ips.clone_from(&moved.spec.fixed_ips);
    Ok(())
}

fn close_gateway(tx: &mut Tx<'_>, router: &str, gateway: &ExternalGateway) -> Result<(), StoreError> {
    let floating = tx.store().cache::<FloatingIp>().by("router", router);
    let mut floating = floating.iter().filter_map(|cached| tx.get::<FloatingIp>(&cached.key()));
    if floating.any(|floating| floating.spec.router_id.as_deref() == Some(router)) {
        let message = format!(
            "Gateway cannot be updated for router {router}, since a gateway to external network {} is required by one \
             or more floating IPs.",
            gateway.network_id
        );
        return Err(refusal::conflict("RouterExternalGatewayInUseByFloatingIp", message));
    }
    usage::require_floating_at_most(tx, router, 0);
    match find::<Port>(tx, &gateway.port_id) {
        Some(port) => delete_held(tx, &port),
        None => Ok(()),
    }
}

/// A port that a router or a floating address holds.
pub(crate) fn held_port(device: &str, owner: &str, network: &str, fixed_ips: Vec<FixedIp>) -> PortSpec {
    PortSpec {
        fixed_ips,
        device_id: device.to_owned(),
        device_owner: owner.to_owned(),
        explicit_security_groups: true,
        port_security_enabled: false,
        attachment: Attachment::Veth,
        ..PortSpec::on(network)
    }
}

/// The addresses a router has, and the subnets they are in.
pub(super) fn connected(tx: &Tx<'_>, router: &str) -> Vec<(IpAddr, Arc<Resource<Subnet>>)> {
    let ports = ports_of_device(tx, router);
    let ips = ports.iter().flat_map(|port| port.spec.fixed_ips.clone());
    ips.filter_map(|ip| Some((ip.ip_address, find::<Subnet>(tx, &ip.subnet_id)?)))
        .collect()
}

fn check_routes(tx: &Tx<'_>, router: &Resource<Router>) -> Result<(), StoreError> {
    let routes = &router.spec.routes;
    if routes.is_empty() {
        return Ok(());
    }
    if routes.len() > MAX_ROUTES {
        let message = format!(
            "Unable to complete operation for {}. The number of routes exceeds the maximum {MAX_ROUTES}.",
            router.name()
        );
        return Err(refusal::bad("RoutesExhausted", message));
    }
    let mut connected = connected(tx, router.name());
    let gateway = router.spec.gateway.iter().flat_map(|gateway| &gateway.fixed_ips);
    connected.extend(gateway.filter_map(|ip| Some((ip.ip_address, find::<Subnet>(tx, &ip.subnet_id)?))));
    for (at, route) in routes.iter().enumerate() {
        if routes[..at].contains(route) {
            return Err(invalid_routes(route, "is there twice"));
        }
        if connected
            .iter()
            .all(|(_, subnet)| !subnet.spec.cidr.contains(&route.nexthop))
        {
            return Err(invalid_routes(route, "the nexthop is not connected with router"));
        }
        if connected.iter().any(|(address, _)| *address == route.nexthop) {
            return Err(invalid_routes(route, "the nexthop is used by router"));
        }
    }
    Ok(())
}

fn invalid_routes(route: &HostRoute, why: &str) -> StoreError {
    let message = format!(
        "Invalid format for routes: [{{'destination': '{}', 'nexthop': '{}'}}], {why}",
        route.destination, route.nexthop
    );
    refusal::bad("InvalidRoutes", message)
}
