//! From what the kernel has to what is wanted, as steps. Pure.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::IpAddr,
};

use ipnet::IpNet;
use madang_host::{
    link::{Change, Link, Route},
    workload::Attachment,
};

use super::{
    names,
    wanted::{Device, Edge, EdgeLink, Fabric},
};

/// The largest zone number of connections. 0 is the zone of everything that has none. Source: nf_conntrack's u16.
const LAST_ZONE: u16 = u16::MAX;

/// One thing to do in a namespace.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    /// Remove a link, and with it what it is a pair with.
    RemoveLink(String),
    /// Make a bridge.
    AddBridge {
        /// Its name.
        name: String,
        /// In bytes.
        mtu: u32,
        /// Its own address.
        mac: [u8; 6],
    },
    /// Make a port's device, without plugging it in.
    AddDevice(String),
    /// Make a veth pair from an edge to the fabric.
    AddPair {
        /// Its end in the edge.
        inner: String,
        /// What it is like.
        link: EdgeLink,
    },
    /// Change settings of a link.
    Change(String, Change),
    /// Give a link exactly these addresses.
    SetAddresses {
        /// The link.
        link: String,
        /// With their prefix lengths.
        addresses: Vec<IpNet>,
        /// Whether to tell neighbours.
        announce: bool,
    },
    /// Take a route away.
    RemoveRoute(Route),
    /// Add or replace a route.
    AddRoute(Route),
}

impl Step {
    /// The link of the fabric that it is about.
    pub fn link(&self) -> Option<&str> {
        match self {
            Self::RemoveLink(name) | Self::AddDevice(name) | Self::Change(name, _) | Self::AddBridge { name, .. } => {
                Some(name)
            }
            Self::AddPair { .. } | Self::SetAddresses { .. } | Self::RemoveRoute(_) | Self::AddRoute(_) => None,
        }
    }
}

/// The text on a bridge, for people and for finding its zone again.
pub(crate) fn bridge_alias(label: &str, zone: u16) -> String {
    format!("{label} zone {zone}")
}

fn alias_zone(alias: &str) -> Option<u16> {
    alias.rsplit_once(" zone ")?.1.parse().ok()
}

/// A zone of connections for every wanted bridge: the one written on it, or the lowest that is free.
pub(crate) fn zones(is: &[Link], wanted: &Fabric) -> BTreeMap<String, u16> {
    let mut zones = BTreeMap::new();
    let mut taken = BTreeSet::new();
    for link in is.iter().filter(|link| wanted.bridges.contains_key(&link.name)) {
        let zone = link.alias.as_deref().and_then(alias_zone).filter(|zone| *zone > 0);
        if let Some(zone) = zone.filter(|zone| taken.insert(*zone)) {
            zones.insert(link.name.clone(), zone);
        }
    }
    let mut free = 1..=LAST_ZONE;
    for name in wanted.bridges.keys() {
        if !zones.contains_key(name) {
            // More bridges than zones do not fit into a kernel either; sharing the last is the lesser harm.
            let zone = free.by_ref().find(|zone| taken.insert(*zone)).unwrap_or(LAST_ZONE);
            zones.insert(name.clone(), zone);
        }
    }
    zones
}

/// Zones and addresses of connections that ended with `before`: those of devices that are gone or have other addresses.
/// A connection outlives its port in the kernel, and would let in whoever gets the address next.
pub(crate) fn ended(
    before: &BTreeMap<String, Device>,
    zones: &BTreeMap<String, u16>,
    now: &BTreeMap<String, Device>,
) -> HashSet<(u16, IpAddr)> {
    let mut ended = HashSet::new();
    for (name, device) in before {
        let still = now.get(name).filter(|still| still.bridge == device.bridge);
        let Some(zone) = zones.get(&device.bridge) else {
            continue;
        };
        let gone = device
            .addresses
            .iter()
            .filter(|address| still.is_none_or(|still| !still.addresses.contains(address)));
        ended.extend(gone.map(|address| (*zone, *address)));
    }
    ended
}

/// Links of the fabric that have to go, which is done before rules for them go.
pub(crate) fn fabric_removals(is: &[Link], wanted: &Fabric) -> Vec<Step> {
    let unwanted = is.iter().filter(|link| {
        let name = &link.name;
        match wanted.devices.get(name) {
            Some(device) => link.kind.as_deref() != Some(kind(device.attachment)),
            None if wanted.bridges.contains_key(name) => link.kind.as_deref() != Some("bridge"),
            None => names::is_device(name) || names::is_uplink(name) || names::is_bridge(name),
        }
    });
    unwanted.map(|link| Step::RemoveLink(link.name.clone())).collect()
}

fn kind(attachment: Attachment) -> &'static str {
    match attachment {
        Attachment::Tap => "tun",
        Attachment::Veth => "veth",
    }
}

/// Links of the fabric to make or to change, bridges first. To be done when the rules are in place.
pub(crate) fn fabric_additions(is: &[Link], wanted: &Fabric, zones: &BTreeMap<String, u16>) -> Vec<Step> {
    let there: BTreeMap<&str, &Link> = is.iter().map(|link| (link.name.as_str(), link)).collect();
    let mut steps = Vec::new();
    for (name, bridge) in &wanted.bridges {
        let found = there.get(name.as_str());
        if found.is_none() {
            steps.push(Step::AddBridge {
                name: name.clone(),
                mtu: bridge.mtu,
                mac: bridge.mac,
            });
        }
        let alias = bridge_alias(&bridge.label, zones.get(name).copied().unwrap_or(LAST_ZONE));
        let mut change = Change::default();
        if found.is_none_or(|link| link.alias.as_deref() != Some(&alias)) {
            change.alias = Some(alias);
        }
        if let Some(link) = found {
            change.mtu = (link.mtu != bridge.mtu).then_some(bridge.mtu);
            change.mac = (link.mac != Some(bridge.mac)).then_some(bridge.mac);
            change.up = (!link.up).then_some(true);
        }
        steps.extend(changed(name, change));
    }
    for (name, device) in &wanted.devices {
        let found = there
            .get(name.as_str())
            .filter(|link| link.kind.as_deref() == Some(kind(device.attachment)));
        if found.is_none() {
            steps.push(Step::AddDevice(name.clone()));
        }
        let master = there.get(device.bridge.as_str()).map(|bridge| bridge.index);
        steps.extend(changed(name, device_change(found.copied(), device, master)));
    }
    steps
}

fn changed(name: &str, change: Change) -> Option<Step> {
    (change != Change::default()).then(|| Step::Change(name.to_owned(), change))
}

fn device_change(found: Option<&Link>, device: &Device, master: Option<u32>) -> Change {
    let Some(link) = found else {
        return Change {
            up: Some(device.up),
            mtu: Some(device.mtu),
            master: Some(Some(device.bridge.clone())),
            alias: Some(format!("port {}", device.id)),
            mac: None,
        };
    };
    Change {
        up: (link.up != device.up).then_some(device.up),
        mtu: (link.mtu != device.mtu).then_some(device.mtu),
        master: (link.master != master || master.is_none()).then(|| Some(device.bridge.clone())),
        alias: None,
        mac: None,
    }
}

/// What an edge's namespace has.
#[derive(Default)]
pub(crate) struct EdgeIs {
    /// Its links.
    pub links: Vec<Link>,
    /// Addresses by link.
    pub addresses: BTreeMap<String, Vec<IpNet>>,
    /// Its routes.
    pub routes: Vec<Route>,
}

/// Steps inside an edge's namespace: links, then addresses, then routes.
pub(crate) fn edge(is: &EdgeIs, wanted: &Edge) -> Vec<Step> {
    let mut steps = Vec::new();
    let there: BTreeMap<&str, &Link> = is.links.iter().map(|link| (link.name.as_str(), link)).collect();
    // `lo` and what the kernel makes by itself are not veths.
    let unwanted = is.links.iter().filter(|link| link.kind.as_deref() == Some("veth"));
    let unwanted = unwanted.filter(|link| !wanted.links.contains_key(&link.name));
    steps.extend(unwanted.map(|link| Step::RemoveLink(link.name.clone())));
    for (name, link) in &wanted.links {
        let found = there.get(name.as_str());
        if found.is_none() {
            steps.push(Step::AddPair {
                inner: name.clone(),
                link: link.clone(),
            });
        }
        let change = Change {
            up: found.is_none_or(|found| !found.up).then_some(true),
            mtu: found.filter(|found| found.mtu != link.mtu).map(|_| link.mtu),
            mac: link
                .mac
                .filter(|mac| found.is_some_and(|found| found.mac != Some(*mac))),
            ..Change::default()
        };
        steps.extend(changed(name, change));
        let has: BTreeSet<IpNet> = is.addresses.get(name).into_iter().flatten().copied().collect();
        let has = has
            .into_iter()
            .filter(|address| !is_link_local(address))
            .collect::<BTreeSet<_>>();
        let wants: BTreeSet<IpNet> = link.addresses.iter().copied().collect();
        if found.is_none() || has != wants {
            let announce = link.announces && !wants.is_subset(&has);
            steps.push(Step::SetAddresses {
                link: name.clone(),
                addresses: link.addresses.clone(),
                announce,
            });
        }
    }
    let is_ours = |route: &&Route| route.gateway.is_some();
    let extra = is
        .routes
        .iter()
        .filter(is_ours)
        .filter(|route| !wanted.routes.iter().any(|w| is_same(w, route)));
    // A route to the same place through elsewhere is replaced, without a gap.
    let extra = extra.filter(|route| !wanted.routes.iter().any(|w| w.destination == route.destination));
    steps.extend(extra.cloned().map(Step::RemoveRoute));
    let missing = wanted
        .routes
        .iter()
        .filter(|wanted| !is.routes.iter().any(|route| is_same(wanted, route)));
    steps.extend(missing.cloned().map(Step::AddRoute));
    steps
}

fn is_link_local(address: &IpNet) -> bool {
    matches!(address, IpNet::V6(address) if address.addr().is_unicast_link_local())
}

/// A wanted route without a link fits whichever link the kernel found.
fn is_same(wanted: &Route, is: &Route) -> bool {
    wanted.destination == is.destination
        && wanted.gateway == is.gateway
        && (wanted.link.is_none() || wanted.link == is.link)
}

/// The step that plugs an edge's outer end into its bridge; none when it is in. `bridges` are the fabric's links.
pub(crate) fn outer_end(fabric: &[Link], link: &EdgeLink) -> Option<Step> {
    let found = fabric.iter().find(|found| found.name == link.outer);
    let bridge = fabric
        .iter()
        .find(|found| found.name == link.bridge)
        .map(|bridge| bridge.index);
    let master = found.is_none_or(|found| found.master != bridge || bridge.is_none());
    let change = Change {
        up: found.is_none_or(|found| !found.up).then_some(true),
        mtu: found.is_none_or(|found| found.mtu != link.mtu).then_some(link.mtu),
        master: master.then(|| Some(link.bridge.clone())),
        ..Change::default()
    };
    changed(&link.outer, change)
}

#[cfg(test)]
mod tests {
    use madang_store::Key;
    use uuid::Uuid;

    use super::*;
    use crate::agent::{
        ruleset::Ruleset,
        wanted::{Bridge, Role},
    };

    fn fabric() -> Fabric {
        let id = Uuid::from_u128(7);
        let device = Device {
            port: Key::new("ports", "p", "", "x"),
            id,
            attachment: Attachment::Tap,
            bridge: "b1".into(),
            mtu: 1450,
            mac: None,
            up: true,
            addresses: BTreeSet::new(),
            tag: None,
        };
        let bridge = Bridge {
            label: "network x".into(),
            mtu: 1450,
            mac: [2; 6],
        };
        Fabric {
            bridges: [("b1".to_owned(), bridge)].into(),
            devices: [(names::device(id), device)].into(),
            rules: Ruleset::default(),
        }
    }

    fn link(index: u32, name: &str, kind: &str) -> Link {
        Link {
            index,
            name: name.into(),
            kind: Some(kind.into()),
            up: true,
            mtu: 1450,
            ..Link::default()
        }
    }

    fn kept_fabric() -> Vec<Link> {
        let name = names::device(Uuid::from_u128(7));
        let alias = Some("network x zone 9".to_owned());
        vec![
            Link {
                mac: Some([2; 6]),
                alias,
                ..link(3, "b1", "bridge")
            },
            Link {
                master: Some(3),
                ..link(4, &name, "tun")
            },
        ]
    }

    #[test]
    fn an_empty_fabric_gets_bridges_before_devices() {
        let wanted = fabric();
        let zones = zones(&[], &wanted);
        assert_eq!(zones["b1"], 1);
        let steps = fabric_additions(&[], &wanted, &zones);
        assert!(
            matches!(&steps[0], Step::AddBridge { name, .. } if name == "b1"),
            "{steps:?}"
        );
        assert!(matches!(&steps[1], Step::Change(name, _) if name == "b1"), "{steps:?}");
        assert!(matches!(&steps[2], Step::AddDevice(_)), "{steps:?}");
        let Step::Change(_, change) = &steps[3] else {
            panic!("{steps:?}")
        };
        assert_eq!((change.up, &change.master), (Some(true), &Some(Some("b1".into()))));
    }

    #[test]
    fn what_is_as_it_should_be_is_left_alone() {
        let (is, wanted) = (kept_fabric(), fabric());
        let zones = zones(&is, &wanted);
        assert_eq!(zones["b1"], 9, "the zone is read from the bridge");
        assert_eq!(fabric_additions(&is, &wanted, &zones), []);
        assert_eq!(fabric_removals(&is, &wanted), []);
    }

    #[test]
    fn strangers_and_devices_of_another_sort_go() {
        let mut is = kept_fabric();
        is[1].kind = Some("veth".into());
        is.extend([
            link(5, "tdead", "tun"),
            link(6, "bold", "bridge"),
            link(7, "r1", "veth"),
            link(8, "lo", ""),
        ]);
        let gone = fabric_removals(&is, &fabric());
        let name = names::device(Uuid::from_u128(7));
        assert_eq!(
            gone,
            [name.as_str(), "tdead", "bold"].map(|name| Step::RemoveLink(name.to_owned()))
        );
    }

    #[test]
    fn a_device_that_left_its_bridge_is_put_back() {
        let mut is = kept_fabric();
        is[1].master = None;
        is[1].up = false;
        let steps = fabric_additions(&is, &fabric(), &zones(&is, &fabric()));
        let change = Change {
            up: Some(true),
            master: Some(Some("b1".into())),
            ..Change::default()
        };
        assert_eq!(steps, [Step::Change(names::device(Uuid::from_u128(7)), change)]);
    }

    #[test]
    fn connections_end_with_the_addresses_they_had() {
        let zones: BTreeMap<String, u16> = [("b1".to_owned(), 9)].into();
        let device = |addresses: &[&str]| {
            let mut devices = fabric().devices;
            let device = devices.values_mut().next().unwrap();
            device.addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
            devices
        };
        let before = device(&["10.0.0.5", "fd00::5"]);
        let ended = |now: &BTreeMap<String, Device>| ended(&before, &zones, now);
        assert_eq!(ended(&before), [].into());
        assert_eq!(ended(&device(&["fd00::5"])), [(9, "10.0.0.5".parse().unwrap())].into());
        assert_eq!(ended(&BTreeMap::new()).len(), 2);
    }

    #[test]
    fn two_bridges_never_share_a_zone() {
        let mut wanted = fabric();
        for name in ["b2", "b3"] {
            wanted.bridges.insert(name.into(), wanted.bridges["b1"].clone());
        }
        let mut is = kept_fabric();
        is.push(Link {
            alias: Some("network y zone 9".into()),
            ..link(9, "b2", "bridge")
        });
        let given: BTreeSet<u16> = zones(&is, &wanted).into_values().collect();
        assert_eq!(given.len(), 3);
    }

    fn an_edge() -> Edge {
        let link = EdgeLink {
            outer: "r1".into(),
            bridge: "b1".into(),
            mac: Some([4; 6]),
            mtu: 1450,
            addresses: vec!["10.0.0.1/24".parse().unwrap(), "10.9.0.1/32".parse().unwrap()],
            announces: true,
        };
        let route = |to: &str, by: &str| Route {
            destination: to.parse().unwrap(),
            gateway: Some(by.parse().unwrap()),
            link: None,
        };
        Edge {
            role: Role::Service { network: "n".into() },
            links: [("i1".to_owned(), link)].into(),
            routes: vec![route("0.0.0.0/0", "10.0.0.254")],
            rules: Ruleset::default(),
            ports: Vec::new(),
        }
    }

    #[test]
    fn an_edge_is_made_in_order_and_then_left_alone() {
        let wanted = an_edge();
        let steps = edge(&EdgeIs::default(), &wanted);
        assert!(matches!(steps[0], Step::AddPair { .. }), "{steps:?}");
        assert!(matches!(steps[1], Step::Change(..)), "{steps:?}");
        assert!(
            matches!(steps[2], Step::SetAddresses { announce: true, .. }),
            "{steps:?}"
        );
        assert!(matches!(steps[3], Step::AddRoute(_)), "{steps:?}");
        let is = EdgeIs {
            links: vec![Link {
                mac: Some([4; 6]),
                ..link(2, "i1", "veth")
            }],
            addresses: [("i1".to_owned(), wanted.links["i1"].addresses.clone())].into(),
            routes: vec![Route {
                link: Some("i1".into()),
                ..wanted.routes[0].clone()
            }],
        };
        assert_eq!(edge(&is, &wanted), []);
    }

    #[test]
    fn losing_a_floating_address_announces_nothing_and_a_new_way_out_replaces_the_old() {
        let mut wanted = an_edge();
        wanted.routes[0].gateway = Some("10.0.0.253".parse().unwrap());
        let before = an_edge();
        wanted.links.get_mut("i1").unwrap().addresses.pop();
        let is = EdgeIs {
            links: vec![Link {
                mac: Some([4; 6]),
                ..link(2, "i1", "veth")
            }],
            addresses: [("i1".to_owned(), before.links["i1"].addresses.clone())].into(),
            routes: before.routes,
        };
        let steps = edge(&is, &wanted);
        assert!(
            matches!(steps[0], Step::SetAddresses { announce: false, .. }),
            "{steps:?}"
        );
        assert_eq!(steps[1..], [Step::AddRoute(wanted.routes[0].clone())]);
    }
}
