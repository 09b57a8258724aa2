//! Which addresses a port gets: those it asks for, or one of each version.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use ipnet::IpNet;
use madang_store::{Resource, StoreError, Tx};

use super::{FixedIp, Port, addresses::Addresses, mac, owner};
use crate::{
    Network, Subnet, SubnetSpec,
    lookup::subnets_of,
    refusal,
    usage::{address_space, address_value},
};

/// Neutron's `max_fixed_ips_per_port`.
const MAX_FIXED_IPS: usize = 5;

/// Turns what a port asks for into addresses that are its own. `kept` are addresses it has already.
///
/// # Errors
/// Neutron's refusals: no address left, address in use, address or subnet that does not fit.
pub(super) fn assign(
    hints: &Arc<Addresses>,
    tx: &mut Tx<'_>,
    port: &mut Resource<Port>,
    network: &Resource<Network>,
    kept: &[FixedIp],
) -> Result<(), StoreError> {
    let wanted = std::mem::take(&mut port.spec.fixed_ips);
    if wanted.len() > MAX_FIXED_IPS && !owner::is_of_the_network(&port.spec.device_owner) {
        return Err(refusal::invalid("Exceeded maximum amount of fixed ips per port"));
    }
    let subnets = subnets_of(tx, network.name());
    let is_creation = kept.is_empty() && port.revision.0 == 0;
    let wants_any = wanted.is_empty() && is_creation && !port.spec.no_fixed_ips;
    let mut work = Assignment {
        hints,
        tx,
        port,
        network,
        subnets: &subnets,
    };
    for want in &wanted {
        if kept.contains(want) {
            work.port.spec.fixed_ips.push(want.clone());
        } else {
            work.one(want)?;
        }
    }
    if wants_any {
        work.one_of_each_version()?;
    }
    if wants_any || (!wanted.is_empty() && is_creation) {
        work.automatic()?;
    }
    Ok(())
}

struct Assignment<'a, 't, 's> {
    hints: &'a Arc<Addresses>,
    tx: &'t mut Tx<'s>,
    port: &'a mut Resource<Port>,
    network: &'a Resource<Network>,
    subnets: &'a [Arc<Resource<Subnet>>],
}

impl<'a> Assignment<'a, '_, '_> {
    /// One address as it was asked for; either its subnet or its address may be open.
    fn one(&mut self, want: &FixedIp) -> Result<(), StoreError> {
        let subnet = self.subnet_for(want)?;
        if !want.ip_address.is_unspecified() {
            return self.given(subnet, want.ip_address);
        }
        if subnet.spec.is_automatic() && !self.is_router_port() {
            return self.take_from_mac(subnet);
        }
        if self.take_from_pools(subnet)? {
            Ok(())
        } else {
            Err(refusal::no_address_left(self.network.name()))
        }
    }

    fn subnet_for(&self, want: &FixedIp) -> Result<&'a Resource<Subnet>, StoreError> {
        if want.subnet_id.is_empty() {
            let mut fitting = self
                .subnets
                .iter()
                .filter(|subnet| subnet.spec.cidr.contains(&want.ip_address));
            return fitting.next().map(|subnet| &**subnet).ok_or_else(|| {
                let message = format!(
                    "IP address {} is not a valid IP for any of the subnets on the specified network.",
                    want.ip_address
                );
                refusal::bad("InvalidIpForNetwork", message)
            });
        }
        let named = self.subnets.iter().find(|subnet| subnet.name() == want.subnet_id);
        named.map(|subnet| &**subnet).ok_or_else(|| {
            refusal::invalid(format_args!(
                "Failed to create port on network {}, because fixed_ips included invalid subnet {}",
                self.network.name(),
                want.subnet_id
            ))
        })
    }

    fn one_of_each_version(&mut self) -> Result<(), StoreError> {
        for v4 in [true, false] {
            let fits = |subnet: &&Arc<Resource<Subnet>>| {
                matches!(subnet.spec.cidr, IpNet::V4(_)) == v4 && !subnet.spec.is_automatic()
            };
            let subnets = self.subnets;
            let of_version: Vec<_> = subnets.iter().filter(fits).collect();
            let serving: Vec<_> = of_version.iter().filter(|subnet| self.serves(&subnet.spec)).collect();
            if of_version.is_empty() {
                continue;
            }
            if serving.is_empty() {
                let (network, device) = (self.network.name(), &self.port.spec.device_owner);
                let message = format!(
                    "No more IP addresses available for network {network} because no subnet matches the service type {device}."
                );
                return Err(refusal::conflict("IpAddressGenerationFailureNoMatchingSubnet", message));
            }
            let mut found = false;
            for subnet in serving {
                if self.take_from_pools(subnet)? {
                    found = true;
                    break;
                }
            }
            if !found {
                return Err(refusal::no_address_left(self.network.name()));
            }
        }
        Ok(())
    }

    /// Subnets whose guests make up their address from their MAC address give one to every port that is not a router's.
    fn automatic(&mut self) -> Result<(), StoreError> {
        if self.is_router_port() {
            return Ok(());
        }
        for subnet in self.subnets {
            let has_one = self.port.spec.fixed_ips.iter().any(|ip| ip.subnet_id == subnet.name());
            if subnet.spec.is_automatic() && !has_one && self.serves(&subnet.spec) {
                self.take_from_mac(subnet)?;
            }
        }
        Ok(())
    }

    fn serves(&self, subnet: &SubnetSpec) -> bool {
        let types = &subnet.service_types;
        types.is_empty()
            || types
                .iter()
                .any(|prefix| self.port.spec.device_owner.starts_with(prefix.as_str()))
    }

    fn is_router_port(&self) -> bool {
        owner::is_of_a_router(&self.port.spec.device_owner)
    }

    fn given(&mut self, subnet: &Resource<Subnet>, address: IpAddr) -> Result<(), StoreError> {
        if !subnet.spec.is_host_address(address) {
            let message = format!("IP address {address} is not a valid IP for the specified subnet.");
            return Err(refusal::bad("InvalidIpForSubnet", message));
        }
        if subnet.spec.is_automatic() && !self.is_router_port() && Some(address) != self.eui64(subnet) {
            return Err(refusal::invalid(format_args!(
                "IPv6 address {address} can not be directly assigned to a port on subnet {} since the subnet is \
                 configured for automatic addresses",
                subnet.name()
            )));
        }
        self.take_free(subnet, address)
    }

    fn take_from_pools(&mut self, subnet: &Resource<Subnet>) -> Result<bool, StoreError> {
        let space = address_space(subnet.name());
        let is_mine = |ip: IpAddr| self.tx.has_reserved(&space, &address_value(ip));
        let picked = self
            .hints
            .pick(self.tx.store(), subnet.name(), &subnet.spec.allocation_pools, is_mine);
        let Some(address) = picked else { return Ok(false) };
        self.take(subnet, address)?;
        Ok(true)
    }

    fn take_from_mac(&mut self, subnet: &Resource<Subnet>) -> Result<(), StoreError> {
        match self.eui64(subnet) {
            Some(address) => self.take_free(subnet, address),
            None => Err(refusal::no_address_left(self.network.name())),
        }
    }

    fn take_free(&mut self, subnet: &Resource<Subnet>, address: IpAddr) -> Result<(), StoreError> {
        let is_mine = self
            .tx
            .has_reserved(&address_space(subnet.name()), &address_value(address));
        if is_mine || self.is_taken(subnet, address) {
            return Err(refusal::address_in_use(subnet.name(), address));
        }
        self.take(subnet, address)
    }

    /// Whether a port that stays has the address; the hints do not know what this transaction frees.
    fn is_taken(&self, subnet: &Resource<Subnet>, address: IpAddr) -> bool {
        if !self.hints.is_taken(self.tx.store(), subnet.name(), address) {
            return false;
        }
        let others = self.tx.store().cache::<Port>().by("ip", &address_value(address));
        let mut others = others.iter().filter_map(|cached| self.tx.get::<Port>(&cached.key()));
        let has_it = |ip: &FixedIp| ip.ip_address == address && ip.subnet_id == subnet.name();
        others.any(|other| other.metadata.uid != self.port.metadata.uid && other.spec.fixed_ips.iter().any(has_it))
    }

    fn take(&mut self, subnet: &Resource<Subnet>, address: IpAddr) -> Result<(), StoreError> {
        self.tx.expect(subnet)?;
        self.tx.reserve(
            &address_space(subnet.name()),
            &address_value(address),
            self.port.metadata.uid,
        )?;
        self.port.spec.fixed_ips.push(FixedIp {
            subnet_id: subnet.name().to_owned(),
            ip_address: address,
        });
        Ok(())
    }

    /// The address that a guest makes up from its MAC address (RFC 4291, appendix A).
    fn eui64(&self, subnet: &Resource<Subnet>) -> Option<IpAddr> {
        let IpNet::V6(net) = subnet.spec.cidr else { return None };
        let [a, b, c, d, e, f] = mac::octets(&self.port.spec.mac_address)?;
        let interface = u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
        Some(IpAddr::V6(Ipv6Addr::from(
            u128::from(net.network()) | u128::from(interface),
        )))
    }
}
