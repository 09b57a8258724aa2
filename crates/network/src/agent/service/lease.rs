//! What a port is told by DHCP. Pure.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use madang_store::Resource;

use super::option;
use crate::{Network, Port, Subnet, agent::wanted::METADATA};

/// Routes that fit into a message beside everything else: 8 of at most 9 bytes each leave most of the 312 bytes of
/// options that every client takes. Source: RFC 2131, 2.
const MAX_ROUTES: usize = 20;

/// The answer to one port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lease {
    /// The port's address.
    pub address: Ipv4Addr,
    /// Its subnet.
    pub subnet: Ipv4Net,
    /// Our address in that subnet.
    pub server: Ipv4Addr,
    /// The subnet's router.
    pub router: Option<Ipv4Addr>,
    /// Name servers, best first; our own address where the subnet names none.
    pub name_servers: Vec<Ipv4Addr>,
    /// In bytes.
    pub mtu: u16,
    /// The guest's own name, a DNS label.
    pub hostname: String,
    /// The network's domain.
    pub domain: Option<String>,
    /// Destinations and next hops, the default route included.
    pub routes: Vec<(Ipv4Net, Ipv4Addr)>,
    /// Further options of the port, by code, as they go over the wire; instead of the usual ones where they are the same.
    pub extra: Vec<(u8, Vec<u8>)>,
    /// Where a guest that boots over the network finds what it boots.
    pub boot_server: Option<Ipv4Addr>,
}

impl Lease {
    /// The lease of a port's first address in a subnet where DHCP is on and we have an address; none without.
    pub fn of(
        port: &Resource<Port>,
        network: &Resource<Network>,
        subnets: &[std::sync::Arc<Resource<Subnet>>],
        server: &Resource<Port>,
    ) -> Option<Self> {
        let ours = v4_addresses(server);
        let mut candidates = v4_addresses(port).into_iter().filter_map(|(subnet_id, address)| {
            let subnet = subnets
                .iter()
                .find(|subnet| subnet.name() == subnet_id && subnet.spec.enable_dhcp)?;
            let (_, server) = ours.iter().find(|(other, _)| *other == subnet_id)?;
            Some((subnet, address, *server))
        });
        let (subnet, address, server) = candidates.next()?;
        let IpNet::V4(range) = subnet.spec.cidr else {
            return None;
        };
        let named = v4(&subnet.spec.dns_nameservers);
        let router = subnet.spec.gateway_ip.and_then(only_v4);
        Some(Self {
            address,
            subnet: range,
            server,
            router,
            name_servers: if named.is_empty() { vec![server] } else { named },
            mtu: network.spec.mtu,
            hostname: hostname(port, address),
            domain: domain(network),
            routes: routes(subnet, router, server),
            extra: option::wired(&port.spec.extra_dhcp_opts),
            boot_server: option::boot_server(&port.spec.extra_dhcp_opts),
        })
    }
}

fn v4_addresses(port: &Resource<Port>) -> Vec<(&str, Ipv4Addr)> {
    let fixed = port.spec.fixed_ips.iter();
    fixed
        .filter_map(|ip| Some((ip.subnet_id.as_str(), only_v4(ip.ip_address)?)))
        .collect()
}

fn only_v4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) if !address.is_unspecified() => Some(address),
        _ => None,
    }
}

fn v4(addresses: &[IpAddr]) -> Vec<Ipv4Addr> {
    addresses.iter().copied().filter_map(only_v4).collect()
}

/// The port's DNS name, or the name Neutron gives: `host-10-0-0-5`.
fn hostname(port: &Resource<Port>, address: Ipv4Addr) -> String {
    let label = port.spec.dns_name.split('.').next().unwrap_or_default();
    let is_label = (1..=63).contains(&label.len()) && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    if is_label {
        label.to_owned()
    } else {
        format!("host-{}", address.to_string().replace('.', "-"))
    }
}

fn domain(network: &Resource<Network>) -> Option<String> {
    let domain = network.spec.dns_domain.trim_end_matches('.');
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    ((1..=253).contains(&domain.len()) && domain.chars().all(fits)).then(|| domain.to_owned())
}

/// The subnet's own routes, the way to the metadata, and the default route: who takes these ignores the router option.
/// Source: RFC 3442; Neutron's DHCP agent gives the same.
fn routes(subnet: &Resource<Subnet>, router: Option<Ipv4Addr>, server: Ipv4Addr) -> Vec<(Ipv4Net, Ipv4Addr)> {
    let own = subnet
        .spec
        .host_routes
        .iter()
        .filter_map(|route| match (route.destination, route.nexthop) {
            (IpNet::V4(destination), IpAddr::V4(nexthop)) => Some((destination.trunc(), nexthop)),
            _ => None,
        });
    let mut routes: Vec<(Ipv4Net, Ipv4Addr)> = own.take(MAX_ROUTES).collect();
    let metadata = Ipv4Net::from(METADATA);
    if routes.iter().all(|(destination, _)| *destination != metadata) {
        routes.push((metadata, server));
    }
    if let Some(router) = router.filter(|_| routes.iter().all(|(destination, _)| destination.prefix_len() > 0)) {
        routes.push((Ipv4Net::default(), router));
    }
    routes
}
