//! What happens to a floating address on its way into the store: its outside address, and the router it leads through.

use std::{net::IpAddr, sync::Arc};

use madang_store::{ErrorKind, Metadata, Op, Resource, StoreBuilder, StoreError, Tx};
use uuid::Uuid;

use super::{FloatingIp, FloatingIpSpec, forwarding};
use crate::{
    FixedIp, Network, Port, Router,
    lookup::{find, hold, subnets_of},
    port::{owner, rules::delete_held},
    qos,
    quota::{self, Limited},
    refusal::{self, Missing},
    router::rules::held_port,
    usage,
};

/// Makes floating addresses known, with their rule.
pub(crate) fn register(builder: &mut StoreBuilder) {
    builder.rule::<FloatingIp>(|tx, op| match op {
        Op::Create(floating) => create(tx, floating),
        Op::Update { old, new } if old.spec != new.spec => update(tx, old, new),
        Op::Update { .. } => Ok(()),
        Op::Remove(floating) => remove(tx, floating),
    });
}

fn create(tx: &mut Tx<'_>, floating: &mut Resource<FloatingIp>) -> Result<(), StoreError> {
    let network_id = floating.spec.network_id.clone();
    let network = find::<Network>(tx, &network_id).ok_or_else(|| refusal::not_found(Missing::Network, &network_id))?;
    if !network.spec.is_external {
        let why = format_args!("Network {network_id} is not a valid external network");
        return Err(refusal::bad_request("floatingip", why));
    }
    let subnets = subnets_of(tx, &network_id);
    let v4: Vec<_> = subnets
        .iter()
        .filter(|subnet| subnet.spec.cidr.addr().is_ipv4())
        .collect();
    if v4.is_empty() {
        let why = format_args!("Network {network_id} does not contain any IPv4 subnet");
        return Err(refusal::bad_request("floatingip", why));
    }
    let holder = hold_address(
        tx,
        floating,
        &v4.iter().map(|subnet| subnet.name().to_owned()).collect::<Vec<_>>(),
    )?;
    let ip = holder
        .spec
        .fixed_ips
        .first()
        .ok_or_else(|| refusal::no_address_left(&network_id))?;
    floating.spec.address = ip.ip_address;
    floating.spec.subnet_id.clone_from(&ip.subnet_id);
    holder.name().clone_into(&mut floating.spec.holder_port_id);
    lead(tx, floating)?;
    take_lead(tx, &floating.spec, floating.metadata.uid)?;
    qos::rules::take_up(tx, floating.spec.qos_policy_id.as_ref())?;
    usage::change(tx, Vec::new(), usage::of_floating_ip(floating));
    quota::take(tx, floating.project(), Limited::FloatingIp);
    Ok(())
}

/// Takes the outside address by a port on the external network that belongs to the cloud.
fn hold_address(
    tx: &mut Tx<'_>,
    floating: &Resource<FloatingIp>,
    subnets: &[String],
) -> Result<Arc<Resource<Port>>, StoreError> {
    let FloatingIpSpec {
        network_id,
        subnet_id,
        address,
        ..
    } = &floating.spec;
    let candidates = if subnet_id.is_empty() && address.is_unspecified() {
        subnets
    } else {
        std::slice::from_ref(subnet_id)
    };
    let mut refused = refusal::no_address_left(network_id);
    for subnet in candidates {
        let ip = FixedIp {
            subnet_id: subnet.clone(),
            ip_address: *address,
        };
        let spec = held_port(floating.name(), owner::FLOATING_IP, network_id, vec![ip]);
        match tx.create(Resource::<Port>::new(Metadata::with_id(""), spec)) {
            Err(StoreError::Rejected(full)) if full.kind == ErrorKind::Exhausted => refused = full.into(),
            done => return done,
        }
    }
    Err(refused)
}

fn update(tx: &mut Tx<'_>, old: &Resource<FloatingIp>, new: &mut Resource<FloatingIp>) -> Result<(), StoreError> {
    let leads_to = |spec: &FloatingIpSpec| (spec.port_id.clone(), spec.fixed_ip_address);
    if leads_to(&old.spec) != leads_to(&new.spec) {
        lead(tx, new)?;
        give_lead_back(tx, &old.spec);
        take_lead(tx, &new.spec, new.metadata.uid)?;
    }
    if old.spec.port_forwardings != new.spec.port_forwardings || !new.spec.port_forwardings.is_empty() {
        forwarding::check(tx, &old.spec.port_forwardings, new)?;
    }
    if old.spec.qos_policy_id != new.spec.qos_policy_id {
        qos::rules::take_up(tx, new.spec.qos_policy_id.as_ref())?;
    }
    usage::change(tx, usage::of_floating_ip(old), usage::of_floating_ip(new));
    Ok(())
}

fn remove(tx: &mut Tx<'_>, floating: &Resource<FloatingIp>) -> Result<(), StoreError> {
    if !floating.spec.port_forwardings.is_empty() {
        return Err(forwarding::in_use(floating.name()));
    }
    if let Some(holder) = find::<Port>(tx, &floating.spec.holder_port_id) {
        delete_held(tx, &holder)?;
    }
    give_lead_back(tx, &floating.spec);
    usage::change(tx, usage::of_floating_ip(floating), Vec::new());
    quota::give_back(tx, floating.project(), Limited::FloatingIp);
    Ok(())
}

/// An inside address has one floating address of each external network at most.
fn take_lead(tx: &mut Tx<'_>, spec: &FloatingIpSpec, owner: Uuid) -> Result<(), StoreError> {
    match led_to(spec) {
        Some((space, value)) => tx.reserve(&space, &value, owner),
        None => Ok(()),
    }
}

fn give_lead_back(tx: &mut Tx<'_>, spec: &FloatingIpSpec) {
    if let Some((space, value)) = led_to(spec) {
        tx.release(&space, &value);
    }
}

fn led_to(spec: &FloatingIpSpec) -> Option<(String, String)> {
    let (port, inside) = (spec.port_id.as_ref()?, spec.fixed_ip_address?);
    Some((format!("floating/{}", spec.network_id), format!("{port}/{inside}")))
}

/// Finds the inside address and the router on the way to it.
fn lead(tx: &mut Tx<'_>, floating: &mut Resource<FloatingIp>) -> Result<(), StoreError> {
    let Some(port_id) = floating.spec.port_id.clone() else {
        floating.spec.fixed_ip_address = None;
        floating.spec.router_id = None;
        return Ok(());
    };
    let port = hold::<Port>(tx, Missing::Port, &port_id)?;
    let inside = inside_address(floating, &port)?;
    check_not_led_already(tx, floating, &port, inside.ip_address)?;
    let router = router_between(tx, &floating.spec.network_id, &inside.subnet_id, &port_id)?;
    floating.spec.fixed_ip_address = Some(inside.ip_address);
    floating.spec.router_id = Some(router.name().to_owned());
    Ok(())
}

fn inside_address(floating: &Resource<FloatingIp>, port: &Resource<Port>) -> Result<FixedIp, StoreError> {
    let v4 = || port.spec.fixed_ips.iter().filter(|ip| ip.ip_address.is_ipv4());
    if let Some(wanted) = floating.spec.fixed_ip_address {
        return v4().find(|ip| ip.ip_address == wanted).cloned().ok_or_else(|| {
            let why = format_args!("Port {} does not have fixed ip {wanted}", port.name());
            refusal::bad_request("floatingip", why)
        });
    }
    match (v4().next(), v4().count()) {
        (None, _) => {
            let why = format_args!(
                "Cannot add floating IP to port {} that has no fixed IPv4 addresses",
                port.name()
            );
            Err(refusal::bad_request("floatingip", why))
        }
        (Some(only), 1) => Ok(only.clone()),
        (Some(_), _) => {
            let why = format_args!(
                "Port {} has multiple fixed IPv4 addresses.  Must provide a specific IPv4 address when assigning a \
                 floating IP",
                port.name()
            );
            Err(refusal::bad_request("floatingip", why))
        }
    }
}

fn check_not_led_already(
    tx: &Tx<'_>,
    floating: &Resource<FloatingIp>,
    port: &Resource<Port>,
    inside: IpAddr,
) -> Result<(), StoreError> {
    let others = tx.store().cache::<FloatingIp>().by("port", port.name());
    let mut others = others.iter().filter_map(|cached| tx.get::<FloatingIp>(&cached.key()));
    let leads_there = |other: &Arc<Resource<FloatingIp>>| {
        other.metadata.uid != floating.metadata.uid
            && other.spec.port_id.as_deref() == Some(port.name())
            && other.spec.fixed_ip_address == Some(inside)
            && other.spec.network_id == floating.spec.network_id
    };
    if !others.any(|other| leads_there(&other)) {
        return Ok(());
    }
    let message = format!(
        "Cannot associate floating IP {} ({}) with port {} using fixed IP {inside}, as that fixed IP already has a \
         floating IP on external network {}.",
        floating.spec.address,
        floating.name(),
        port.name(),
        floating.spec.network_id
    );
    Err(refusal::conflict("FloatingIPPortAlreadyAssociated", message))
}

/// The router with its gateway on the external network and an interface on the inside subnet.
pub(super) fn router_between(
    tx: &mut Tx<'_>,
    external: &str,
    subnet: &str,
    port: &str,
) -> Result<Arc<Resource<Router>>, StoreError> {
    for interface in tx.store().cache::<Port>().by("interface", subnet) {
        let Some(router) = find::<Router>(tx, &interface.spec.device_id) else {
            continue;
        };
        if router
            .spec
            .gateway
            .as_ref()
            .is_some_and(|gateway| gateway.network_id == external)
        {
            tx.expect(&router)?;
            tx.expect(&interface)?;
            return Ok(router);
        }
    }
    let message = format!(
        "External network {external} is not reachable from subnet {subnet}.  Therefore, cannot associate Port {port} \
         with a Floating IP."
    );
    Err(refusal::refuse(
        ErrorKind::NotFound,
        "ExternalGatewayForFloatingIPNotFound",
        message,
    ))
}
