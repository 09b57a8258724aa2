//! What should be on this host, decided from a [`View`]. Pure.
//!
//! The *fabric* is one namespace with a bridge per network and the devices of ports. An *edge* is a namespace at the end
//! of one or more bridges: a router, or a network's service point with its DHCP and metadata addresses.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use ipnet::{IpNet, Ipv4Net};
use madang_host::{instance::device_name, link::Route, workload::Attachment};
use madang_store::{Key, Resource};
use uuid::Uuid;

use super::{
    filter, names,
    ruleset::Ruleset,
    service::advice,
    tagging::Tag,
    translate,
    view::{NetworkView, RouterView, View},
};
use crate::{Network, Port, subnet::rules::MIN_MTU_V4};

/// Where guests find their metadata. Source: the EC2 convention that Nova and cloud-init follow.
pub(crate) const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// The prefix of a single IPv4 address.
const SINGLE: u8 = 32;

/// All of it.
#[derive(Default)]
pub(crate) struct Wanted {
    /// The bridges and the ports in them.
    pub fabric: Fabric,
    /// Namespaces beside it, by the last part of their name.
    pub edges: BTreeMap<String, Edge>,
    /// The way out through the host's own namespace.
    pub outside: Option<Outside>,
}

/// The fabric.
#[derive(Default)]
pub(crate) struct Fabric {
    /// Bridges by name.
    pub bridges: BTreeMap<String, Bridge>,
    /// Ports' devices by name.
    pub devices: BTreeMap<String, Device>,
    /// What may pass, without connection zones, which are given out by what the kernel has.
    pub rules: Ruleset,
}

/// A network's bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bridge {
    /// Written on the bridge, for people.
    pub label: String,
    /// In bytes.
    pub mtu: u32,
    /// Fixed, so that it does not change with its ports.
    pub mac: [u8; 6],
}

/// A port's device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Device {
    /// The port, or the network that it joins with the way out.
    pub port: Key,
    /// The port's id.
    pub id: Uuid,
    /// Tap or veth.
    pub attachment: Attachment,
    /// The bridge it is in.
    pub bridge: String,
    /// In bytes.
    pub mtu: u32,
    /// The guest's address; the inner end of a veth gets it.
    pub mac: Option<[u8; 6]>,
    /// Whether it carries traffic.
    pub up: bool,
    /// The port's addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// For the subport of a trunk: where its frames are.
    pub tag: Option<Tag>,
}

/// A namespace beside the fabric.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Edge {
    /// What it is.
    pub role: Role,
    /// Its links, by their inner name.
    pub links: BTreeMap<String, EdgeLink>,
    /// Routes beyond those that come with addresses.
    pub routes: Vec<Route>,
    /// Its packet filter.
    pub rules: Ruleset,
    /// Ports that it is the device of.
    pub ports: Vec<Key>,
}

/// What an edge does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Forwards between its links.
    Router {
        /// The router.
        router: Key,
        /// Floating addresses it translates, with what they lead to as a whole.
        floating: Vec<(Key, Option<IpAddr>)>,
        /// Ids of its inner networks.
        networks: Vec<String>,
        /// Links whose guests it tells of itself, with its ports there.
        speaks: Vec<(String, String)>,
        /// Outside addresses with the inside ones they lead to.
        translated: BTreeSet<(Ipv4Addr, Ipv4Addr)>,
    },
    /// Answers DHCP and metadata requests of one network.
    Service {
        /// The network's id.
        network: String,
    },
}

/// A veth pair between an edge and a bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EdgeLink {
    /// Its name in the fabric.
    pub outer: String,
    /// The bridge its outer end is in.
    pub bridge: String,
    /// The inner end's address.
    pub mac: Option<[u8; 6]>,
    /// In bytes.
    pub mtu: u32,
    /// The inner end's addresses.
    pub addresses: Vec<IpNet>,
    /// Whether neighbours are told when addresses come.
    pub announces: bool,
}

/// The veth pair between the outside bridge and the host's own namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outside {
    /// In bytes.
    pub mtu: u32,
    /// The external subnets' gateway addresses, for the host's end.
    pub addresses: Vec<IpNet>,
}

/// Six bytes of `fa:16:3e:00:00:01`; none when it is something else.
pub(crate) fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2)?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

/// A network's frames. The kernel makes no link for smaller ones than IPv4 needs; no subnet can be on such a network.
fn mtu(network: &Resource<Network>) -> u32 {
    u32::from(network.spec.mtu.max(MIN_MTU_V4))
}

/// The payload of frames outside, in bytes, where no external network says otherwise.
const WIRE_MTU: u32 = 1500;

fn is_vlan(network: &Resource<Network>) -> bool {
    network.spec.network_type == "vlan" && !network.spec.is_external
}

/// The bridge of a network. External networks share one: it is the segment that the outside is on.
pub(crate) fn bridge_name(network: &Resource<Network>) -> String {
    if network.spec.is_external {
        return names::OUTSIDE_BRIDGE.to_owned();
    }
    device_name(names::BRIDGE, network.metadata.uid)
}

impl Wanted {
    /// Decides everything.
    pub fn from_view(view: &View) -> Self {
        let mut wanted = Self::default();
        for network in view.networks.values() {
            wanted.add_bridge(network);
            if let Some((name, edge)) = service(network) {
                wanted.edges.insert(name, edge);
            }
        }
        for network in view.networks.values() {
            wanted.add_uplink(network);
        }
        for port in &view.ports {
            wanted.add_device(view, port);
        }
        wanted.fabric.rules = filter::rules(view);
        for router in view.routers.iter().filter(|router| router.router.spec.admin_state_up) {
            wanted
                .edges
                .insert(names::router_suffix(&router.router), self::router(view, router));
        }
        wanted.outside = outside(view);
        wanted
    }

    fn add_bridge(&mut self, view: &NetworkView) {
        let network = &view.network;
        let name = bridge_name(network);
        let mtu = mtu(network);
        let label = if network.spec.is_external {
            "outside".to_owned()
        } else {
            format!("network {}", network.name())
        };
        let id = if network.spec.is_external {
            Uuid::nil()
        } else {
            network.metadata.uid
        };
        let bridge = self.fabric.bridges.entry(name).or_insert(Bridge {
            label,
            mtu,
            mac: bridge_mac(id),
        });
        bridge.mtu = bridge.mtu.min(mtu);
    }

    /// A network of a VLAN is one segment with that VLAN of the way out.
    fn add_uplink(&mut self, view: &NetworkView) {
        let network = &view.network;
        if !is_vlan(network) {
            return;
        }
        // The way out begins at the bridge of external networks, of which there may be none here.
        let outside = Bridge {
            label: "outside".to_owned(),
            mtu: WIRE_MTU,
            mac: bridge_mac(Uuid::nil()),
        };
        self.fabric
            .bridges
            .entry(names::OUTSIDE_BRIDGE.to_owned())
            .or_insert(outside);
        let vlan = u16::try_from(network.spec.segmentation_id).unwrap_or_default();
        let uplink = Device {
            port: network.key(),
            id: network.metadata.uid,
            attachment: Attachment::Veth,
            bridge: bridge_name(network),
            mtu: mtu(network),
            mac: None,
            up: network.spec.admin_state_up,
            addresses: BTreeSet::new(),
            tag: Some(Tag {
                trunk: names::OUTSIDE_PORT.to_owned(),
                vlan,
            }),
        };
        self.fabric.devices.insert(names::uplink(network.metadata.uid), uplink);
    }

    fn add_device(&mut self, view: &View, port: &Resource<Port>) {
        let network = &view.networks[&port.spec.network_id].network;
        let device = Device {
            port: port.key(),
            id: port.metadata.uid,
            attachment: port.spec.attachment,
            bridge: bridge_name(network),
            mtu: mtu(network),
            mac: parse_mac(&port.spec.mac_address),
            up: port.spec.admin_state_up && network.spec.admin_state_up,
            addresses: port.spec.fixed_ips.iter().map(|ip| ip.ip_address).collect(),
            tag: view.tags.get(port.name()).map(|(trunk, vlan)| Tag {
                trunk: names::device(*trunk),
                vlan: *vlan,
            }),
        };
        self.fabric.devices.insert(names::device(port.metadata.uid), device);
    }
}

/// A local address of our own making: 02 says so, the rest is the network's.
fn bridge_mac(id: Uuid) -> [u8; 6] {
    let bytes = id.as_bytes();
    [0x02, bytes[11], bytes[12], bytes[13], bytes[14], bytes[15]]
}

/// The service point of a network that has a DHCP address; none for others.
fn service(view: &NetworkView) -> Option<(String, Edge)> {
    let dhcp = view.dhcp.as_ref().filter(|_| view.network.spec.admin_state_up)?;
    let mut addresses = addresses(view, dhcp);
    addresses.retain(|address| address.addr().is_ipv4());
    if addresses.is_empty() {
        return None;
    }
    let here: BTreeSet<IpNet> = addresses.iter().map(IpNet::trunc).collect();
    let routes = view.subnets.iter().map(|subnet| subnet.spec.cidr);
    let routes = routes
        .filter(|cidr| cidr.addr().is_ipv4() && !here.contains(cidr))
        .map(|destination| Route {
            destination,
            gateway: None,
            link: Some(names::SERVICE_LINK.to_owned()),
        });
    addresses.push(single(METADATA));
    let link = EdgeLink {
        outer: device_name(names::SERVICE, dhcp.metadata.uid),
        bridge: bridge_name(&view.network),
        mac: parse_mac(&dhcp.spec.mac_address),
        mtu: u32::from(view.network.spec.mtu),
        addresses,
        announces: false,
    };
    let edge = Edge {
        role: Role::Service {
            network: view.network.name().to_owned(),
        },
        links: [(names::SERVICE_LINK.to_owned(), link)].into(),
        routes: routes.collect(),
        rules: Ruleset::default(),
        ports: vec![dhcp.key()],
    };
    Some((names::service_suffix(&view.network), edge))
}

/// One address as a network.
pub(crate) fn single(address: Ipv4Addr) -> IpNet {
    IpNet::V4(Ipv4Net::new(address, SINGLE).expect("32 bits fit"))
}

/// A port's addresses with the prefix lengths of their subnets.
pub(crate) fn addresses(view: &NetworkView, port: &Resource<Port>) -> Vec<IpNet> {
    let with_prefix = |ip: &crate::FixedIp| {
        let subnet = view.subnet(&ip.subnet_id)?;
        IpNet::new(ip.ip_address, subnet.spec.cidr.prefix_len()).ok()
    };
    let fixed = port.spec.fixed_ips.iter().filter(|ip| !ip.ip_address.is_unspecified());
    fixed.filter_map(with_prefix).collect()
}

fn router(view: &View, router: &RouterView) -> Edge {
    let spec = &router.router.spec;
    let mut links = BTreeMap::new();
    let mut ports = Vec::new();
    let mut networks = Vec::new();
    let mut speaks = Vec::new();
    for port in &router.interfaces {
        let network = &view.networks[&port.spec.network_id];
        if network.network.spec.admin_state_up && port.spec.admin_state_up {
            let name = device_name(names::INTERFACE, port.metadata.uid);
            let subnets = port
                .spec
                .fixed_ips
                .iter()
                .filter_map(|ip| network.subnet(&ip.subnet_id));
            if subnets.into_iter().any(|subnet| advice::is_spoken_of(&subnet.spec)) {
                speaks.push((name.clone(), port.name().to_owned()));
            }
            links.insert(name, edge_link(network, port, names::ROUTER));
            ports.push(port.key());
            networks.push(port.spec.network_id.clone());
        }
    }
    let mut routes: Vec<Route> = Vec::new();
    if let Some((port, network)) = gateway(view, router) {
        let name = device_name(names::GATEWAY, port.metadata.uid);
        let mut link = edge_link(network, port, names::ROUTER);
        link.announces = true;
        link.addresses.extend(outer_addresses(router).into_iter().map(single));
        routes.extend(default_routes(network, port, &name));
        links.insert(name, link);
        ports.push(port.key());
    }
    routes.extend(spec.routes.iter().map(|route| Route {
        destination: route.destination.trunc(),
        gateway: Some(route.nexthop),
        link: None,
    }));
    let floating = router
        .floating
        .iter()
        .filter(|ip| ip.spec.port_id.is_some() || !ip.spec.port_forwardings.is_empty())
        .map(|ip| (ip.key(), ip.spec.fixed_ip_address))
        .collect();
    Edge {
        role: Role::Router {
            router: router.router.key(),
            floating,
            networks,
            speaks,
            translated: gateway(view, router)
                .map(|_| translated(router).collect())
                .unwrap_or_default(),
        },
        links,
        routes,
        rules: translate::rules(view, router),
        ports,
    }
}

/// A router's port on its external network, when both are there and carry traffic.
pub(crate) fn gateway<'v>(view: &'v View, router: &'v RouterView) -> Option<(&'v Resource<Port>, &'v NetworkView)> {
    let port = router.gateway.as_deref()?;
    let network = view.networks.get(&port.spec.network_id)?;
    network.network.spec.admin_state_up.then_some((port, network))
}

/// The floating addresses of a router with the inside addresses they lead to.
pub(crate) fn translated(router: &RouterView) -> impl Iterator<Item = (Ipv4Addr, Ipv4Addr)> + '_ {
    router.floating.iter().filter_map(
        |floating| match (floating.spec.address, floating.spec.fixed_ip_address) {
            (IpAddr::V4(outer), Some(IpAddr::V4(inner))) if floating.spec.port_id.is_some() => Some((outer, inner)),
            _ => None,
        },
    )
}

/// Outside addresses that a router answers for.
fn outer_addresses(router: &RouterView) -> BTreeSet<Ipv4Addr> {
    let forwarding = router
        .floating
        .iter()
        .filter(|floating| !floating.spec.port_forwardings.is_empty());
    let forwarding = forwarding.filter_map(|floating| match floating.spec.address {
        IpAddr::V4(outer) => Some(outer),
        IpAddr::V6(_) => None,
    });
    translated(router).map(|(outer, _)| outer).chain(forwarding).collect()
}

fn edge_link(network: &NetworkView, port: &Resource<Port>, kind: char) -> EdgeLink {
    EdgeLink {
        outer: device_name(kind, port.metadata.uid),
        bridge: bridge_name(&network.network),
        mac: parse_mac(&port.spec.mac_address),
        mtu: u32::from(network.network.spec.mtu),
        addresses: addresses(network, port),
        announces: false,
    }
}

/// One per version of IP: by the gateway of the first subnet of that version that the port has an address in.
fn default_routes(network: &NetworkView, port: &Resource<Port>, link: &str) -> Vec<Route> {
    let mut routes: Vec<Route> = Vec::new();
    for ip in &port.spec.fixed_ips {
        let gateway = network.subnet(&ip.subnet_id).and_then(|subnet| subnet.spec.gateway_ip);
        let Some(gateway) = gateway.filter(|gateway| *gateway != ip.ip_address) else {
            continue;
        };
        let everything = match gateway {
            IpAddr::V4(_) => IpNet::V4(Default::default()),
            IpAddr::V6(_) => IpNet::V6(Default::default()),
        };
        if routes.iter().all(|route| route.destination != everything) {
            let link = Some(link.to_owned());
            routes.push(Route {
                destination: everything,
                gateway: Some(gateway),
                link,
            });
        }
    }
    routes
}

fn outside(view: &View) -> Option<Outside> {
    let external: Vec<&NetworkView> = view
        .networks
        .values()
        .filter(|n| n.network.spec.is_external && n.network.spec.admin_state_up)
        .collect();
    let wire = view.networks.values().any(|n| is_vlan(&n.network)).then_some(WIRE_MTU);
    let mtu = external
        .iter()
        .map(|network| u32::from(network.network.spec.mtu))
        .min()
        .or(wire)?;
    let subnets = external.iter().flat_map(|network| &network.subnets);
    let addresses =
        subnets.filter_map(|subnet| IpNet::new(subnet.spec.gateway_ip?, subnet.spec.cidr.prefix_len()).ok());
    Some(Outside {
        mtu,
        addresses: addresses.collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::sample;

    #[test]
    fn ports_bring_their_network_its_service_point_its_router_and_the_way_out() {
        let wanted = Wanted::from_view(&sample::view());
        assert_eq!(
            wanted.fabric.bridges.keys().collect::<Vec<_>>(),
            ["b00000000000101", "outside"]
        );
        assert_eq!(wanted.fabric.devices.len(), 3);
        let outside = wanted.outside.unwrap();
        assert_eq!(outside.addresses, ["10.2.0.1/24".parse().unwrap()]);
        let edges: Vec<&Edge> = wanted.edges.values().collect();
        let [service, router] = edges[..] else {
            panic!("{:?}", wanted.edges.keys())
        };
        let at = |edge: &Edge, link: &str| {
            edge.links[link]
                .addresses
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        };
        assert_eq!(at(service, names::SERVICE_LINK), ["10.1.0.2/24", "169.254.169.254/32"]);
        let inner = device_name(names::INTERFACE, sample::id(3, 17));
        let gateway = device_name(names::GATEWAY, sample::id(3, 42));
        assert_eq!(at(router, &inner), ["10.1.0.1/24"]);
        assert_eq!(at(router, &gateway), ["10.2.0.10/24", "10.2.0.20/32"]);
        assert_eq!(router.routes.len(), 1);
        assert_eq!(router.routes[0].gateway, Some("10.2.0.1".parse().unwrap()));
        assert_eq!((router.links[&inner].mtu, router.links[&gateway].mtu), (1450, 1500));
    }

    #[test]
    fn a_router_that_is_down_is_not_there() {
        let mut view = sample::view();
        let mut down = (*view.routers[0].router).clone();
        down.spec.admin_state_up = false;
        view.routers[0].router = std::sync::Arc::new(down);
        let wanted = Wanted::from_view(&view);
        assert!(
            wanted
                .edges
                .values()
                .all(|edge| matches!(edge.role, Role::Service { .. }))
        );
    }

    #[test]
    fn mac_addresses_are_read_or_refused() {
        assert_eq!(parse_mac("fa:16:3e:00:01:ff"), Some([0xfa, 0x16, 0x3e, 0, 1, 0xff]));
        for bad in [
            "",
            "fa:16:3e:00:01",
            "fa:16:3e:00:01:ff:00",
            "g0:16:3e:00:01:ff",
            "fa:16:3e:0:1:ff",
        ] {
            assert_eq!(parse_mac(bad), None, "{bad}");
        }
    }
}
