//! Security groups and protection from spoofing, as the rules of the fabric's namespace. Pure.
//!
//! ```text
//! frame in ─► bridge from_port: who may send this? mark = sender's profile
//!          ─► inet zone (per bridge) ─► connection tracking ─► inet egress: by mark, the profile's rules
//!          ─► bridge to_port: mark = receiver's profile ─► inet ingress: by mark, the profile's rules ─► frame out
//! ```
//! `inet` sees bridged packets through br_netfilter, with the bridge as their link: the mark, set in `bridge` just
//! before, is what tells the ports apart. A *profile* is a list of groups; ports with the same list share one. A group
//! is a chain that profiles jump to and a set of members for rules that name it as peer, so that a change touches only
//! what it is about. Networks have connection zones of their own: the same addresses in two of them never meet.
//!
//! A connection that is established goes on when the rule that let it in goes; only new ones are refused.
//!
//! What must always hold: a port's device that is not known here passes nothing.

pub(super) mod quality;
mod rule;

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use madang_store::Resource;

use super::{
    names,
    ruleset::{Ruleset, Set, Table},
    view::{GroupView, View},
    wanted::parse_mac,
};
use crate::{Direction, Port, Says};

/// The table that sees frames.
const BRIDGE: &str = "bridge madang";
/// The table that sees packets and connections.
const INET: &str = "inet madang";

/// DHCP and neighbour discovery work whatever the groups say. Source: Neutron's base rules; numbers are multicast
/// listener messages (130-132, 143), solicitations (133, 135), advertisements (134 to ports only, 136).
const ALWAYS_OUT: [&str; 3] = [
    "udp sport 68 udp dport 67 accept",
    "udp sport 546 udp dport 547 accept",
    "icmpv6 type { 130, 131, 132, 133, 135, 136, 143 } accept",
];
/// See [`ALWAYS_OUT`]. Ports cannot forge these: the bridge table drops answers of servers and routers that they send.
const ALWAYS_IN: [&str; 3] = [
    "udp sport 67 udp dport 68 accept",
    "udp sport 547 udp dport 546 accept",
    "icmpv6 type { 130, 131, 132, 134, 135, 136 } accept",
];

/// The rules for all ports of a view.
pub(crate) fn rules(view: &View) -> Ruleset {
    let mut bridge = bridge_table();
    let mut inet = inet_table();
    for (id, group) in &view.groups {
        for direction in [Direction::Ingress, Direction::Egress] {
            let of_direction = group.rules.iter().filter(|rule| rule.spec.direction == direction);
            let lines: BTreeSet<String> = of_direction.flat_map(|rule| rule::compile(&rule.spec)).collect();
            inet.chain(group_chain(id, direction), None, lines);
        }
    }
    for (group, members) in &view.members {
        add_members(&mut inet, group, members.iter().map(|member| &**member));
    }
    for (group, addresses) in &view.addresses {
        add_addresses(&mut inet, group, addresses);
    }
    let mut profiles = Profiles::default();
    for port in &view.ports {
        let network = &view.networks[&port.spec.network_id].network;
        let name = names::device(port.metadata.uid);
        let device = format!("\"{name}\"");
        if let Some(rules) = view.qos.get(port.name()) {
            quality::add(&mut bridge, &name, &device, rules);
        }
        if port.spec.port_security_enabled && network.spec.port_security_enabled {
            let mark = profiles.mark(port.spec.security_groups.iter().collect());
            map(&mut bridge, "profile").entry(device.clone(), format!("{mark:#010x}"));
            add_sender(&mut bridge, &device, port);
        } else {
            bridge.set("open", "type ifname").insert(device);
        }
    }
    profiles.add_to(&mut inet, &view.groups);
    Ruleset {
        tables: [(BRIDGE, bridge), (INET, inet)].into(),
    }
}

/// Gives every bridge its zone of connections.
pub(crate) fn set_zones(rules: &mut Ruleset, zones: &BTreeMap<String, u16>) {
    let Some(inet) = rules.tables.get_mut(INET) else { return };
    let map = map(inet, "zone");
    map.elements.clear();
    for (bridge, zone) in zones {
        map.entry(format!("\"{bridge}\""), zone.to_string());
    }
}

fn map<'t>(table: &'t mut Table, name: &str) -> &'t mut Set {
    table.sets.get_mut(name).expect("declared when the table was made")
}

fn bridge_table() -> Table {
    let mut table = Table::default();
    table.sets.insert("profile".into(), Set::map("type ifname : mark"));
    for map in [quality::SENT, quality::RECEIVED] {
        table.sets.insert(map.into(), Set::map("type ifname : verdict"));
    }
    table.set("open", "type ifname");
    table.set("sender", "type ifname . ether_addr");
    table.set("sender4", "type ifname . ether_addr . ipv4_addr");
    table.set("sender6", "type ifname . ether_addr . ipv6_addr");
    table.set("range4", "type ifname . ether_addr . ipv4_addr; flags interval");
    table.set("range6", "type ifname . ether_addr . ipv6_addr; flags interval");
    // The target of a neighbour advertisement, for which nft has no name of its own. Source: RFC 4861, 4.4.
    table.set("target6", "typeof iifname . ether saddr . @th,64,128");
    table.chain(
        "from_port",
        Some("type filter hook prerouting priority -200"),
        [
            "meta mark set 0",
            "iifname != \"t*\" accept",
            "iifname vmap @quality_sent",
            "iifname @open accept",
            "iifname . ether saddr != @sender drop",
            "meta mark set iifname map @profile",
            "ether type vmap { arp : goto from_arp, ip : goto from_ip4, ip6 : goto from_ip6 }",
            "drop",
        ],
    );
    table.chain::<&str>(
        "from_arp",
        None,
        [
            "arp htype != 1 drop",
            "arp ptype != ip drop",
            "arp operation != { request, reply } drop",
            "iifname . arp saddr ether . arp saddr ip @sender4 accept",
            "iifname . arp saddr ether . arp saddr ip @range4 accept",
            // A probe for an address that nobody has yet. Source: RFC 5227, 2.1.1.
            "arp operation request arp saddr ip 0.0.0.0 iifname . arp saddr ether @sender accept",
            "drop",
        ],
    );
    table.chain(
        "from_ip4",
        None,
        [
            "udp sport 67 udp dport 68 drop",
            "ip saddr 0.0.0.0 ip daddr 255.255.255.255 udp sport 68 udp dport 67 accept",
            "iifname . ether saddr . ip saddr @sender4 accept",
            "iifname . ether saddr . ip saddr @range4 accept",
            "drop",
        ],
    );
    table.chain(
        "from_ip6",
        None,
        [
            "icmpv6 type { nd-router-advert, nd-redirect } drop",
            "udp sport 547 udp dport 546 drop",
            "ip6 saddr :: icmpv6 type { 131, 132, 135, 143 } accept",
            "icmpv6 type nd-neighbor-advert iifname . ether saddr . @th,64,128 @target6 goto from_ip6_source",
            "icmpv6 type nd-neighbor-advert goto from_ip6_range",
            "goto from_ip6_source",
        ],
    );
    table.chain(
        "from_ip6_source",
        None,
        [
            "iifname . ether saddr . ip6 saddr @sender6 accept",
            "goto from_ip6_range",
        ],
    );
    table.chain(
        "from_ip6_range",
        None,
        ["iifname . ether saddr . ip6 saddr @range6 accept", "drop"],
    );
    table.chain(
        "to_port",
        Some("type filter hook forward priority -10"),
        [
            "meta mark set 0",
            "oifname != \"t*\" accept",
            "oifname vmap @quality_received",
            "oifname @open accept",
            "meta mark set oifname map @profile accept",
            "drop",
        ],
    );
    table
}

fn inet_table() -> Table {
    let mut table = Table::default();
    table.sets.insert("zone".into(), Set::map("typeof iifname : ct zone"));
    table
        .sets
        .insert("egress_profile".into(), Set::map("type mark : verdict"));
    table
        .sets
        .insert("ingress_profile".into(), Set::map("type mark : verdict"));
    table.chain(
        "zones",
        Some("type filter hook prerouting priority -300"),
        ["ct zone set iifname map @zone"],
    );
    let by_mark = |always: &[&str], map: &str| -> Vec<String> {
        let before = ["meta mark 0 accept"]
            .into_iter()
            .chain(always.iter().copied())
            .map(str::to_owned);
        before
            .chain([format!("meta mark vmap @{map}"), "drop".to_owned()])
            .collect()
    };
    table.chain(
        "egress",
        Some("type filter hook prerouting priority 0"),
        by_mark(&ALWAYS_OUT, "egress_profile"),
    );
    table.chain(
        "ingress",
        Some("type filter hook forward priority 0"),
        by_mark(&ALWAYS_IN, "ingress_profile"),
    );
    table
}

/// Ids are UUIDs; what is not a letter or digit has no place in a name.
fn identifier(id: &str) -> String {
    id.chars().filter(char::is_ascii_alphanumeric).take(40).collect()
}

fn group_chain(group: &str, direction: Direction) -> String {
    match direction {
        Direction::Ingress => format!("in_{}", identifier(group)),
        Direction::Egress => format!("out_{}", identifier(group)),
    }
}

/// What a port may send from: its own addresses and its pairs.
fn add_sender(bridge: &mut Table, device: &str, port: &Resource<Port>) {
    let Some(own) = parse_mac(&port.spec.mac_address) else {
        return;
    };
    let fixed = port.spec.fixed_ips.iter().map(|ip| (own, IpNet::from(ip.ip_address)));
    let pairs = port.spec.allowed_address_pairs.iter().filter_map(|pair| {
        let mac = pair.mac_address.as_deref().map_or(Some(own), parse_mac)?;
        Some((mac, pair.ip_address.trunc()))
    });
    let senders: BTreeSet<([u8; 6], IpNet)> = fixed.chain(pairs).collect();
    let macs: BTreeSet<[u8; 6]> = senders.iter().map(|(mac, _)| *mac).chain([own]).collect();
    for mac in macs.iter().copied() {
        let front = format!("{device} . {}", mac_text(mac));
        bridge.set("sender", "").insert(front.clone());
        let local = link_local(mac);
        bridge.set("sender6", "").insert(format!("{front} . {local}"));
        bridge
            .set("target6", "")
            .insert(format!("{front} . {:#034x}", local.to_bits()));
    }
    // nft refuses intervals that overlap.
    let merged = macs.into_iter().flat_map(|mac| {
        let (ranges, single): (Vec<IpNet>, Vec<IpNet>) = senders
            .iter()
            .filter(|(of, _)| *of == mac)
            .map(|(_, net)| *net)
            .partition(|net| net.prefix_len() < net.max_prefix_len());
        IpNet::aggregate(&ranges)
            .into_iter()
            .chain(single)
            .map(move |net| (mac, net))
            .collect::<Vec<_>>()
    });
    for (mac, range) in merged {
        let front = format!("{device} . {}", mac_text(mac));
        match range {
            IpNet::V4(one) if one.prefix_len() == 32 => {
                bridge.set("sender4", "").insert(format!("{front} . {}", one.addr()));
            }
            IpNet::V4(range) => bridge.set("range4", "").insert(format!("{front} . {range}")),
            IpNet::V6(one) if one.prefix_len() == 128 => {
                bridge.set("sender6", "").insert(format!("{front} . {}", one.addr()));
                bridge
                    .set("target6", "")
                    .insert(format!("{front} . {:#034x}", one.addr().to_bits()));
            }
            IpNet::V6(range) => bridge.set("range6", "").insert(format!("{front} . {range}")),
        }
    }
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// The address every guest makes for itself from its MAC address. Source: RFC 4291, appendix A.
fn link_local(mac: [u8; 6]) -> std::net::Ipv6Addr {
    let [a, b, c, d, e, f] = mac;
    let pair = |high: u8, low: u8| u16::from_be_bytes([high, low]);
    std::net::Ipv6Addr::new(
        0xfe80,
        0,
        0,
        0,
        pair(a ^ 2, b),
        pair(c, 0xff),
        pair(0xfe, d),
        pair(e, f),
    )
}

/// The sets of a group's members: single addresses, which is nearly all, apart from ranges.
fn add_members<'p>(inet: &mut Table, group: &str, members: impl Iterator<Item = &'p Resource<Port>>) {
    let mut ranges = Vec::new();
    let (hosts4, hosts6) = (rule::members_set(group, 4), rule::members_set(group, 6));
    inet.set(&hosts4, "type ipv4_addr");
    inet.set(&hosts6, "type ipv6_addr");
    for member in members {
        let pairs = member
            .spec
            .allowed_address_pairs
            .iter()
            .map(|pair| pair.ip_address.trunc());
        let fixed = member.spec.fixed_ips.iter().map(|ip| IpNet::from(ip.ip_address));
        for range in fixed.chain(pairs) {
            match range {
                IpNet::V4(one) if one.prefix_len() == 32 => inet.set(&hosts4, "").insert(one.addr().to_string()),
                IpNet::V6(one) if one.prefix_len() == 128 => inet.set(&hosts6, "").insert(one.addr().to_string()),
                range => ranges.push(range),
            }
        }
    }
    inet.set(rule::ranges_set(group, 4), "type ipv4_addr; flags interval");
    inet.set(rule::ranges_set(group, 6), "type ipv6_addr; flags interval");
    // nft refuses intervals that overlap.
    for range in IpNet::aggregate(&ranges) {
        let version = if range.addr().is_ipv4() { 4 } else { 6 };
        inet.set(rule::ranges_set(group, version), "").insert(range.to_string());
    }
}

/// The sets of an address group.
fn add_addresses(inet: &mut Table, group: &str, addresses: &[IpNet]) {
    inet.set(rule::addresses_set(group, 4), "type ipv4_addr; flags interval");
    inet.set(rule::addresses_set(group, 6), "type ipv6_addr; flags interval");
    // nft refuses intervals that overlap.
    for range in IpNet::aggregate(&addresses.to_vec()) {
        let version = if range.addr().is_ipv4() { 4 } else { 6 };
        inet.set(rule::addresses_set(group, version), "")
            .insert(range.to_string());
    }
}

/// Lists of groups and the marks that stand for them.
#[derive(Default)]
struct Profiles(BTreeMap<u32, BTreeSet<String>>);

impl Profiles {
    /// The mark of a list. It follows from the list, so that a restart finds the same one; 0 means unfiltered.
    fn mark(&mut self, groups: BTreeSet<&String>) -> u32 {
        let mut mark = fnv(groups.iter().flat_map(|id| id.bytes().chain([b' '])));
        loop {
            match self.0.get(&mark) {
                _ if mark == 0 => {}
                Some(taken) if taken.iter().ne(groups.iter().copied()) => {}
                Some(_) => return mark,
                None => {
                    self.0.insert(mark, groups.into_iter().cloned().collect());
                    return mark;
                }
            }
            mark = mark.wrapping_add(1);
        }
    }

    fn add_to(&self, inet: &mut Table, groups: &BTreeMap<String, GroupView>) {
        for (mark, list) in &self.0 {
            let is_stateful = list
                .iter()
                .all(|id| groups.get(id).is_none_or(|group| group.is_stateful));
            for (direction, word) in [(Direction::Ingress, "ingress"), (Direction::Egress, "egress")] {
                let chain = format!("{word}_{mark:08x}");
                let mut rules = Vec::new();
                if is_stateful {
                    rules.push("ct state established,related accept".to_owned());
                    rules.push("ct state invalid drop".to_owned());
                }
                rules.extend(list.iter().map(|id| format!("jump {}", group_chain(id, direction))));
                rules.push("drop".to_owned());
                map(inet, &format!("{word}_profile")).entry(format!("{mark:#010x}"), format!("goto {chain}"));
                inet.chain(chain, None, rules);
            }
        }
    }
}

/// FNV-1a, 32 bits: small, and the same in every release.
fn fnv(bytes: impl Iterator<Item = u8>) -> u32 {
    bytes.fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::sample;

    #[test]
    fn a_small_cloud_in_nfts_words() {
        let mut rules = rules(&sample::view());
        set_zones(&mut rules, &[("b00000000000101".to_owned(), 1)].into());
        insta::assert_snapshot!(rules.replace_all(&Ruleset::default()));
    }

    #[test]
    fn one_rule_less_touches_its_groups_chain_only() {
        let view = sample::view();
        let before = rules(&view);
        let mut view = sample::view();
        view.groups.values_mut().for_each(|group| _ = group.rules.pop());
        insta::assert_snapshot!(rules(&view).difference(&before).unwrap());
    }

    #[test]
    fn one_more_port_adds_elements_and_no_chain() {
        let mut view = sample::view();
        let before = rules(&view);
        let more = sample::port(1, 8, |spec| {
            spec.security_groups = view.ports[0].spec.security_groups.clone()
        });
        view.members.values_mut().for_each(|members| members.push(more.clone()));
        view.ports.push(more);
        insta::assert_snapshot!(rules(&view).difference(&before).unwrap());
    }

    #[test]
    fn groups_in_another_order_are_the_same_profile_and_others_are_not() {
        let (a, b, c) = ("a".to_owned(), "b".to_owned(), "c".to_owned());
        let mut profiles = Profiles::default();
        let mark = profiles.mark([&a, &b].into());
        assert_eq!(profiles.mark([&b, &a].into()), mark);
        assert_ne!(profiles.mark([&a, &c].into()), mark);
        assert_eq!(
            Profiles::default().mark([&a, &b].into()),
            mark,
            "the same after a restart"
        );
    }

    #[test]
    fn a_link_local_address_follows_from_the_mac_address() {
        let address = link_local([0xfa, 0x16, 0x3e, 0x01, 0x02, 0x03]);
        assert_eq!(address.to_string(), "fe80::f816:3eff:fe01:203");
    }
}
