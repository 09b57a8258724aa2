//! The arithmetic of a subnet: which addresses it has, where pools may be.

use std::net::IpAddr;

use ipnet::IpNet;
use madang_store::StoreError;

use crate::{
    AllocationPool, SubnetSpec,
    port::number::{address, number},
    refusal,
};

/// Neutron's `max_dns_nameservers`.
const MAX_NAME_SERVERS: usize = 5;
/// Neutron's `max_subnet_host_routes`.
const MAX_HOST_ROUTES: usize = 20;
/// How many pools a subnet may have: enough for any real one, and few enough to look at for each address.
const MAX_POOLS: usize = 64;

impl SubnetSpec {
    /// Whether guests make up their address from their MAC address.
    pub fn is_automatic(&self) -> bool {
        matches!(self.ipv6_address_mode.as_deref(), Some("slaac" | "dhcpv6-stateless"))
    }

    /// Whether a host of the subnet can have this address.
    pub fn is_host_address(&self, address: IpAddr) -> bool {
        hosts(self.cidr).is_some_and(|(first, last)| {
            let is_inside = self.cidr.contains(&address);
            is_inside && (first..=last).contains(&number(address))
        })
    }

    /// Neutron's version of IP: 4 or 6.
    pub fn ip_version(&self) -> u8 {
        if self.cidr.addr().is_ipv4() { 4 } else { 6 }
    }
}

/// The first and last address that hosts can have, as numbers; none when there is no such.
fn hosts(cidr: IpNet) -> Option<(u128, u128)> {
    let (first, last) = (number(cidr.network()), number(cidr.broadcast()));
    if first == last {
        return Some((first, last));
    }
    // Version 6 has no broadcast address; its first address is that of all routers (RFC 4291, section 2.6.1).
    let last = if cidr.addr().is_ipv4() { last - 1 } else { last };
    (first < last).then_some((first + 1, last))
}

/// The gateway a subnet gets when nobody names one: its first host address.
pub(crate) fn default_gateway(cidr: IpNet) -> Option<IpAddr> {
    hosts(cidr).map(|(first, _)| address(first, cidr.addr().is_ipv4()))
}

/// All host addresses but the gateway.
pub(crate) fn default_pools(cidr: IpNet, gateway: Option<IpAddr>) -> Vec<AllocationPool> {
    let Some((first, last)) = hosts(cidr) else {
        return Vec::new();
    };
    let v4 = cidr.addr().is_ipv4();
    let pool = |from: u128, to: u128| AllocationPool {
        start: address(from, v4),
        end: address(to, v4),
    };
    match gateway
        .filter(|ip| cidr.contains(ip))
        .map(number)
        .filter(|gateway| (first..=last).contains(gateway))
    {
        None => vec![pool(first, last)],
        Some(gateway) => {
            let before = (first < gateway).then(|| pool(first, gateway - 1));
            let after = (gateway < last).then(|| pool(gateway + 1, last));
            before.into_iter().chain(after).collect()
        }
    }
}

/// Whether two ranges have an address in common.
pub(crate) fn overlap(a: IpNet, b: IpNet) -> bool {
    a.contains(&b) || b.contains(&a)
}

/// Checks everything about a subnet that needs no look at others.
pub(crate) fn validate(id: &str, spec: &SubnetSpec) -> Result<(), StoreError> {
    if spec.cidr.prefix_len() == 0 {
        return Err(refusal::invalid("0 is not allowed as CIDR prefix length"));
    }
    validate_gateway(spec)?;
    validate_pools(spec)?;
    validate_modes(spec)?;
    let family = spec.cidr.addr().is_ipv4();
    if spec.dns_nameservers.len() > MAX_NAME_SERVERS {
        let message = format!(
            "Unable to complete operation for {id}. The number of DNS nameservers exceeds the limit {MAX_NAME_SERVERS}."
        );
        return Err(refusal::bad("DNSNameServersExhausted", message));
    }
    if spec.host_routes.len() > MAX_HOST_ROUTES {
        let message = format!(
            "Unable to complete operation for {id}. The number of host routes exceeds the limit {MAX_HOST_ROUTES}."
        );
        return Err(refusal::bad("HostRoutesExhausted", message));
    }
    let odd = spec
        .host_routes
        .iter()
        .find(|r| r.destination.addr().is_ipv4() != family || r.nexthop.is_ipv4() != family);
    match odd {
        Some(route) => Err(refusal::invalid(format_args!(
            "Invalid format for routes: destination {} and nexthop {} are not both of IPv{}",
            route.destination,
            route.nexthop,
            spec.ip_version()
        ))),
        None => Ok(()),
    }
}

fn validate_gateway(spec: &SubnetSpec) -> Result<(), StoreError> {
    let Some(gateway) = spec.gateway_ip else { return Ok(()) };
    if gateway.is_ipv4() != spec.cidr.addr().is_ipv4() {
        return Err(refusal::invalid(format_args!(
            "gateway_ip '{gateway}' does not match the ip_version '{}'",
            spec.ip_version()
        )));
    }
    if spec.cidr.contains(&gateway) && !spec.is_host_address(gateway) && spec.cidr.addr().is_ipv4() {
        return Err(refusal::invalid("Gateway is not valid on subnet"));
    }
    Ok(())
}

fn validate_pools(spec: &SubnetSpec) -> Result<(), StoreError> {
    let cidr = spec.cidr;
    let show = |pool: &AllocationPool| format!("{}-{}", pool.start, pool.end);
    if spec.allocation_pools.len() > MAX_POOLS {
        return Err(refusal::invalid(format_args!(
            "a subnet has at most {MAX_POOLS} allocation pools"
        )));
    }
    for pool in &spec.allocation_pools {
        let families = [pool.start, pool.end].map(|ip| ip.is_ipv4());
        if families != [cidr.addr().is_ipv4(); 2] || number(pool.start) > number(pool.end) {
            return Err(refusal::bad(
                "InvalidAllocationPool",
                format!("The allocation pool {} is not valid.", show(pool)),
            ));
        }
        if !spec.is_host_address(pool.start) || !spec.is_host_address(pool.end) {
            let message = format!(
                "The allocation pool {} spans beyond the subnet cidr {cidr}.",
                show(pool)
            );
            return Err(refusal::bad("OutOfBoundsAllocationPool", message));
        }
    }
    let mut pools: Vec<_> = spec.allocation_pools.iter().collect();
    pools.sort_by_key(|pool| number(pool.start));
    if let Some(pair) = pools
        .windows(2)
        .find(|pair| number(pair[1].start) <= number(pair[0].end))
    {
        let message = format!(
            "Found overlapping allocation pools: {} {} for subnet {cidr}.",
            show(pair[0]),
            show(pair[1])
        );
        return Err(refusal::conflict("OverlappingAllocationPools", message));
    }
    if let Some(gateway) = spec.gateway_ip {
        let holds = |pool: &&AllocationPool| (number(pool.start)..=number(pool.end)).contains(&number(gateway));
        if let Some(pool) = spec.allocation_pools.iter().find(holds) {
            let message = format!("Gateway ip {gateway} conflicts with allocation pool {}.", show(pool));
            return Err(refusal::conflict("GatewayConflictWithAllocationPools", message));
        }
    }
    Ok(())
}

fn validate_modes(spec: &SubnetSpec) -> Result<(), StoreError> {
    let (address, ra) = (spec.ipv6_address_mode.as_deref(), spec.ipv6_ra_mode.as_deref());
    if address.is_none() && ra.is_none() {
        return Ok(());
    }
    if spec.cidr.addr().is_ipv4() {
        return Err(refusal::invalid(
            "ipv6_ra_mode and ipv6_address_mode are not valid when ip_version is 4",
        ));
    }
    if !spec.enable_dhcp {
        return Err(refusal::invalid(
            "ipv6_ra_mode or ipv6_address_mode cannot be set when enable_dhcp is set to False",
        ));
    }
    if let (Some(address), Some(ra)) = (address, ra)
        && address != ra
    {
        return Err(refusal::invalid(format_args!(
            "ipv6_ra_mode set to '{ra}' with ipv6_address_mode set to '{address}' is not valid. If both attributes are \
             set, they must be the same value"
        )));
    }
    let is_automatic = [address, ra]
        .into_iter()
        .flatten()
        .any(|mode| mode != "dhcpv6-stateful");
    if is_automatic && spec.cidr.prefix_len() != 64 {
        return Err(refusal::invalid(format_args!(
            "Invalid CIDR {} for IPv6 address mode. OpenStack uses the EUI-64 address format, which requires the prefix \
             to be /64",
            spec.cidr
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(cidr: &str, gateway: Option<&str>, pools: &[(&str, &str)]) -> SubnetSpec {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let cidr: IpNet = cidr.parse().unwrap();
        SubnetSpec {
            name: String::new(),
            description: String::new(),
            network_id: "n".into(),
            cidr,
            gateway_ip: gateway.map(ip),
            allocation_pools: pools
                .iter()
                .map(|(a, b)| AllocationPool {
                    start: ip(a),
                    end: ip(b),
                })
                .collect(),
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

    #[test]
    fn pools_are_everything_but_the_gateway() {
        let table = [
            ("10.0.0.0/24", Some("10.0.0.1"), "10.0.0.2-10.0.0.254"),
            ("10.0.0.0/24", None, "10.0.0.1-10.0.0.254"),
            ("10.0.0.0/24", Some("10.0.0.254"), "10.0.0.1-10.0.0.253"),
            (
                "10.0.0.0/24",
                Some("10.0.0.9"),
                "10.0.0.1-10.0.0.8 10.0.0.10-10.0.0.254",
            ),
            ("10.0.0.0/30", Some("10.0.0.1"), "10.0.0.2-10.0.0.2"),
            ("10.0.0.0/31", None, ""),
            ("10.0.0.7/32", None, "10.0.0.7-10.0.0.7"),
            ("fd00::/64", Some("fd00::1"), "fd00::2-fd00::ffff:ffff:ffff:ffff"),
        ];
        for (cidr, gateway, pools) in table {
            let made = default_pools(cidr.parse().unwrap(), gateway.map(|ip| ip.parse().unwrap()));
            let made: Vec<_> = made.iter().map(|pool| format!("{}-{}", pool.start, pool.end)).collect();
            assert_eq!(made.join(" "), pools, "{cidr} {gateway:?}");
        }
        assert_eq!(
            default_gateway("10.0.0.0/24".parse().unwrap()),
            Some("10.0.0.1".parse().unwrap())
        );
    }

    #[test]
    fn what_cannot_be_is_refused_with_neutrons_reason() {
        let table = [
            (spec("10.0.0.0/24", Some("10.0.0.1"), &[("10.0.0.2", "10.0.0.9")]), ""),
            (
                spec("10.0.0.0/24", Some("192.168.0.1"), &[("10.0.0.2", "10.0.0.9")]),
                "",
            ),
            (spec("10.0.0.0/24", Some("10.0.0.0"), &[]), "InvalidInput"),
            (spec("10.0.0.0/24", Some("10.0.0.255"), &[]), "InvalidInput"),
            (spec("10.0.0.0/24", Some("fd00::1"), &[]), "InvalidInput"),
            (spec("0.0.0.0/0", None, &[]), "InvalidInput"),
            (
                spec("10.0.0.0/24", Some("10.0.0.5"), &[("10.0.0.2", "10.0.0.9")]),
                "GatewayConflictWithAllocationPools",
            ),
            (
                spec("10.0.0.0/24", None, &[("10.0.0.9", "10.0.0.2")]),
                "InvalidAllocationPool",
            ),
            (
                spec("10.0.0.0/24", None, &[("10.0.0.9", "10.0.1.2")]),
                "OutOfBoundsAllocationPool",
            ),
            (
                spec("10.0.0.0/24", None, &[("10.0.0.2", "10.0.0.255")]),
                "OutOfBoundsAllocationPool",
            ),
            (
                spec(
                    "10.0.0.0/24",
                    None,
                    &[("10.0.0.2", "10.0.0.9"), ("10.0.0.9", "10.0.0.12")],
                ),
                "OverlappingAllocationPools",
            ),
            (
                SubnetSpec {
                    ipv6_ra_mode: Some("slaac".into()),
                    ..spec("10.0.0.0/24", None, &[])
                },
                "InvalidInput",
            ),
            (
                SubnetSpec {
                    ipv6_ra_mode: Some("slaac".into()),
                    ..spec("fd00::/64", None, &[])
                },
                "",
            ),
            (
                SubnetSpec {
                    ipv6_ra_mode: Some("slaac".into()),
                    ..spec("fd00::/80", None, &[])
                },
                "InvalidInput",
            ),
            (
                SubnetSpec {
                    dns_nameservers: vec!["1.1.1.1".parse().unwrap(); 6],
                    ..spec("10.0.0.0/24", None, &[])
                },
                "DNSNameServersExhausted",
            ),
        ];
        for (spec, reason) in table {
            let got = match validate("s", &spec) {
                Ok(()) => "",
                Err(StoreError::Rejected(rejection)) => rejection.reason,
                Err(other) => panic!("{other}"),
            };
            assert_eq!(got, reason, "{} {:?}", spec.cidr, spec.gateway_ip);
        }
    }
}
