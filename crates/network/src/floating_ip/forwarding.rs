//! Port forwarding: single ports of a floating address lead to ports of guests. The address itself leads nowhere else then.

use std::{net::IpAddr, ops::RangeInclusive};

use madang_store::{Resource, StoreError, Tx};
use serde::{Deserialize, Serialize};

use super::{FloatingIp, rules::router_between};
use crate::{
    Port,
    lookup::{find, hold},
    refusal::{self, Missing},
};

/// The most forwardings of one address: each is a rule of its router.
const MOST: usize = 1000;

/// The most ports of one forwarding whose numbers change: each is an element of the router's rule.
const MOST_SHIFTED: usize = 1024;

/// One port of a floating address, or a row of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortForwarding {
    /// Its id, a UUID.
    pub id: String,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// The port at the floating address, or the first of several.
    pub external_port: u16,
    /// The last of several; 0 where there is one.
    #[serde(default, skip_serializing_if = "is_none")]
    pub external_port_last: u16,
    /// Neutron's port that it leads to.
    pub internal_port_id: String,
    /// The address of that port.
    pub internal_ip_address: IpAddr,
    /// The guest's TCP or UDP port, or the first of as many as there are outside.
    pub internal_port: u16,
    /// The last of several; 0 where there is one.
    #[serde(default, skip_serializing_if = "is_none")]
    pub internal_port_last: u16,
    /// Free text.
    #[serde(default)]
    pub description: String,
}

fn is_none(port: &u16) -> bool {
    *port == 0
}

impl PortForwarding {
    /// The ports at the floating address.
    pub fn external_ports(&self) -> RangeInclusive<u16> {
        self.external_port..=self.external_port_last.max(self.external_port)
    }

    /// The guest's ports: one for all, or one for each.
    pub fn internal_ports(&self) -> RangeInclusive<u16> {
        self.internal_port..=self.internal_port_last.max(self.internal_port)
    }
}

/// Checks forwardings that are new or changed, and finds the router on their way.
pub(super) fn check(tx: &mut Tx<'_>, old: &[PortForwarding], new: &mut Resource<FloatingIp>) -> Result<(), StoreError> {
    let forwardings = new.spec.port_forwardings.clone();
    if new.spec.port_id.is_some() && !forwardings.is_empty() {
        return Err(in_use(new.name()));
    }
    if forwardings.is_empty() {
        if new.spec.port_id.is_none() {
            new.spec.router_id = None;
        }
        return Ok(());
    }
    if forwardings.len() > MOST {
        return Err(refusal::invalid(format_args!(
            "a floating IP has at most {MOST} port forwardings"
        )));
    }
    for (at, forwarding) in forwardings.iter().enumerate() {
        check_single(&forwardings[..at], forwarding)?;
        if old.contains(forwarding) {
            continue;
        }
        let router = check_inside(tx, &new.spec.network_id, forwarding)?;
        if new.spec.router_id.get_or_insert_with(|| router.clone()) != &router {
            return Err(refusal::bad_request(
                "port_forwarding",
                format_args!(
                    "all forwardings of floating IP {} have to be behind one router",
                    new.name()
                ),
            ));
        }
    }
    Ok(())
}

/// Neither end is another forwarding's.
fn check_single(others: &[PortForwarding], one: &PortForwarding) -> Result<(), StoreError> {
    let (outer, inner) = (one.external_ports(), one.internal_ports());
    if inner.len() != 1 && inner.len() != outer.len() {
        let why = format_args!(
            "{} external ports cannot lead to {} internal ones: there has to be one, or as many",
            outer.len(),
            inner.len()
        );
        return Err(refusal::bad_request("port_forwarding", why));
    }
    if inner.len() > MOST_SHIFTED && inner != outer {
        let why = format_args!("at most {MOST_SHIFTED} ports can lead to ones of other numbers");
        return Err(refusal::bad_request("port_forwarding", why));
    }
    let meet = |a: &RangeInclusive<u16>, b: &RangeInclusive<u16>| a.start() <= b.end() && b.start() <= a.end();
    let is_same = |other: &&PortForwarding| {
        let meets_inside =
            other.internal_ip_address == one.internal_ip_address && meet(&other.internal_ports(), &inner);
        other.protocol == one.protocol && (meet(&other.external_ports(), &outer) || meets_inside)
    };
    match others.iter().find(is_same) {
        None => Ok(()),
        Some(same) => {
            let message = format!(
                "Bad port_forwarding request: A duplicate port forwarding entry with same attributes already exists, \
                 conflicting values are {{'id': '{}'}}.",
                same.id
            );
            Err(refusal::bad("BadRequest", message))
        }
    }
}

/// The id of the router on the way inside.
fn check_inside(tx: &mut Tx<'_>, external: &str, forwarding: &PortForwarding) -> Result<String, StoreError> {
    let port = hold::<Port>(tx, Missing::Port, &forwarding.internal_port_id)?;
    let address = forwarding.internal_ip_address;
    let inside = port.spec.fixed_ips.iter().find(|ip| ip.ip_address == address).cloned();
    let inside = inside.ok_or_else(|| {
        let why = format_args!(
            "Requested internal IP address {address} does not correspond with an address on the internal port {}",
            port.name()
        );
        refusal::bad_request("port_forwarding", why)
    })?;
    for cached in tx.store().cache::<FloatingIp>().by("port", port.name()) {
        let other = find::<FloatingIp>(tx, cached.name());
        if let Some(other) = other.filter(|other| other.spec.fixed_ip_address == Some(address)) {
            let message = format!(
                "Cannot create port forwarding to floating IP {} ({}) with port {} using fixed IP {address}, as that port \
                 already has a binding floating IP.",
                other.spec.address,
                other.name(),
                port.name()
            );
            return Err(refusal::conflict("PortHasBindingFloatingIP", message));
        }
    }
    let router = router_between(tx, external, &inside.subnet_id, port.name())?;
    Ok(router.name().to_owned())
}

/// An address that forwards ports leads nowhere as a whole, and stays.
pub(super) fn in_use(floating: &str) -> StoreError {
    let message = format!("Floating IP {floating} in use by Port Forwarding resources.");
    refusal::conflict("FipInUseByPortForwarding", message)
}

/// Forwardings to addresses that a port has lost go.
pub(crate) fn leave(tx: &mut Tx<'_>, port: &str, is_lost: impl Fn(IpAddr) -> bool) -> Result<(), StoreError> {
    for cached in tx.store().cache::<FloatingIp>().by("forwarded", port) {
        let Some(floating) = tx.get::<FloatingIp>(&cached.key()) else {
            continue;
        };
        let mut new = (*floating).clone();
        let goes = |f: &PortForwarding| f.internal_port_id == port && is_lost(f.internal_ip_address);
        new.spec.port_forwardings.retain(|forwarding| !goes(forwarding));
        if new.spec != floating.spec {
            tx.update(&floating, new)?;
        }
    }
    Ok(())
}
