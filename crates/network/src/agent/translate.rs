//! Address translation of one router, as the rules of its namespace. Pure.
//!
//! Guests with a floating address are that address outside, both ways; the others go out under the gateway's address.
//! Two guests behind one router may use each other's floating address: such packets are marked where they come in from
//! inside, and their source is translated too, so that the answer comes back through the router.

use std::net::IpAddr;

use madang_host::instance::device_name;

use super::{
    filter::quality,
    meter, names,
    ruleset::{Ruleset, Set, Table},
    view::{RouterView, View},
    wanted::{gateway, translated},
};
use crate::{Direction, PortForwarding, Says};

/// The table.
const TABLE: &str = "ip madang";

/// The table that keeps floating addresses to their policies.
pub(crate) const LIMITS: &str = "inet madang_limits";

/// The table that keeps address scopes apart.
const SCOPES: &str = "inet madang_scopes";

/// The rules of a router: translation where it has a way out, and walls between address scopes.
pub(crate) fn rules(view: &View, router: &RouterView) -> Ruleset {
    let mut rules = translation(view, router);
    if let Some(table) = walls(view, router) {
        rules.tables.insert(SCOPES, table);
    }
    if let Some(table) = limits(view, router) {
        rules.tables.insert(LIMITS, table);
    }
    if let Some(table) = meter::table(view, router) {
        rules.tables.insert(meter::TABLE, table);
    }
    rules
}

/// What the policies of floating addresses limit; none where there are none. Marks are for ports alone, as in Neutron.
fn limits(view: &View, router: &RouterView) -> Option<Table> {
    let (port, _) = gateway(view, router)?;
    let link = device_name(names::GATEWAY, port.metadata.uid);
    let mut lines = Vec::new();
    for floating in &router.floating {
        let (Some(rules), Some(inner)) = (view.qos.get(floating.name()), floating.spec.fixed_ip_address) else {
            continue;
        };
        for (way, matching) in [
            (Direction::Egress, format!("oifname \"{link}\" ip saddr {inner}")),
            (Direction::Ingress, format!("iifname \"{link}\" ip daddr {inner}")),
        ] {
            let limits = rules.iter().filter(|says| !matches!(says, Says::DscpMarking { .. }));
            let limits = limits.flat_map(|says| quality::compile(says, way));
            lines.extend(limits.map(|limit| format!("{matching} {limit}")));
        }
    }
    if lines.is_empty() {
        return None;
    }
    let mut table = Table::default();
    // Where inner addresses are seen both ways.
    table.chain("limits", Some("type filter hook forward priority 5"), lines);
    Some(table)
}

/// The address scope of a port's network, of version 4 or 6.
fn scope<'v>(view: &'v View, network: &str, version: usize) -> Option<&'v String> {
    view.scopes.get(network)?[version].as_ref()
}

/// Nothing passes from an address scope to another one, but what is translated; none where there is only one.
fn walls(view: &View, router: &RouterView) -> Option<Table> {
    let mut lines = Vec::new();
    for (version, family) in ["ipv4", "ipv6"].into_iter().enumerate() {
        let links: Vec<_> = router
            .interfaces
            .iter()
            .map(|port| {
                let link = device_name(names::INTERFACE, port.metadata.uid);
                (link, scope(view, &port.spec.network_id, version))
            })
            .collect();
        for (from, inner) in &links {
            for (to, _) in links.iter().filter(|(_, outer)| outer != inner) {
                lines.push(format!(
                    "meta nfproto {family} iifname \"{from}\" oifname \"{to}\" ct status & dnat == 0 drop"
                ));
            }
        }
    }
    if lines.is_empty() {
        return None;
    }
    let mut table = Table::default();
    table.chain("between", Some("type filter hook forward priority 0"), lines);
    Some(table)
}

/// Subnets that the outside can route to, because it is in their address scope: they are not translated.
fn routed(view: &View, router: &RouterView, outside: &str) -> Vec<String> {
    let Some(outer) = scope(view, outside, 0) else {
        return Vec::new();
    };
    let inner = router.interfaces.iter().map(|port| &port.spec.network_id);
    let inner = inner.filter(|network| scope(view, network, 0) == Some(outer));
    let subnets = inner
        .filter_map(|network| view.networks.get(network))
        .flat_map(|network| &network.subnets);
    let v4 = subnets.filter(|subnet| subnet.spec.cidr.addr().is_ipv4());
    v4.map(|subnet| subnet.spec.cidr.to_string()).collect()
}

/// Single ports of outside addresses.
fn forwarded(router: &RouterView) -> Vec<String> {
    let line = |outer: IpAddr, one: &PortForwarding| {
        let (protocol, inner) = (&one.protocol, one.internal_ip_address);
        let is_known = matches!(protocol.as_str(), "tcp" | "udp") && outer.is_ipv4() && inner.is_ipv4();
        is_known.then(|| format!("ip daddr {outer} {protocol} {}", ports(one, inner)))
    };
    let of_address = |floating: &std::sync::Arc<madang_store::Resource<crate::FloatingIp>>| {
        let spec = floating.spec.clone();
        spec.port_forwardings
            .into_iter()
            .filter_map(move |one| line(spec.address, &one))
            .collect::<Vec<_>>()
    };
    router.floating.iter().flat_map(of_address).collect()
}

/// From which ports to which.
fn ports(one: &PortForwarding, inner: IpAddr) -> String {
    let (from, to) = (one.external_ports(), one.internal_ports());
    let range = if from.len() == 1 {
        from.start().to_string()
    } else {
        format!("{}-{}", from.start(), from.end())
    };
    if to.len() == 1 {
        return format!("dport {range} dnat to {inner}:{}", to.start());
    }
    if from == to {
        return format!("dport {range} dnat to {inner}");
    }
    // A range alone would lead to any port of it.
    let pairs = from.zip(to).map(|(from, to)| format!("{from} : {inner} . {to}"));
    let pairs = pairs.collect::<Vec<_>>().join(", ");
    format!("dport {range} dnat ip to {} dport map {{ {pairs} }}", one.protocol)
}

/// Address translation; none without a way out.
fn translation(view: &View, router: &RouterView) -> Ruleset {
    let (Some((port, _)), Some(spec)) = (gateway(view, router), &router.router.spec.gateway) else {
        return Ruleset::default();
    };
    let link = device_name(names::GATEWAY, port.metadata.uid);
    let mut table = Table::default();
    let mut inward = Set::map("type ipv4_addr : ipv4_addr");
    let mut outward = Set::map("type ipv4_addr : ipv4_addr");
    for (outer, inner) in translated(router) {
        inward.entry(outer.to_string(), inner.to_string());
        // A guest with two floating addresses goes out under the first.
        outward
            .elements
            .entry(inner.to_string())
            .or_insert(Some(outer.to_string()));
    }
    table.sets.insert("inward".into(), inward);
    table.sets.insert("outward".into(), outward);
    table.chain(
        "arriving",
        Some("type nat hook prerouting priority -100"),
        ["dnat to ip daddr map @inward".to_owned()]
            .into_iter()
            .chain(forwarded(router)),
    );
    // The chains above see only a connection's first packet; the mark is looked at together with it, below.
    table.chain(
        "from_inside",
        Some("type filter hook prerouting priority -150"),
        [format!("iifname != \"{link}\" meta mark set 1")],
    );
    let mut leaving = vec![
        // From outside to inside: the guest sees who asks.
        format!("oifname != \"{link}\" meta mark != 1 accept"),
        // From inside to inside, untranslated so far: plain routing.
        format!("oifname != \"{link}\" ct status & dnat == 0 accept"),
        "snat to ip saddr map @outward".to_owned(),
    ];
    for subnet in routed(view, router, &spec.network_id) {
        leaving.push(format!("oifname \"{link}\" ip saddr {subnet} accept"));
    }
    let own = port.spec.fixed_ips.iter().find_map(|ip| match ip.ip_address {
        IpAddr::V4(address) if !address.is_unspecified() => Some(address),
        _ => None,
    });
    if let Some(own) = own {
        let only_hairpins = if spec.enable_snat {
            String::new()
        } else {
            format!("oifname != \"{link}\" ")
        };
        leaving.push(format!("{only_hairpins}ip saddr != {own} snat to {own}"));
    }
    table.chain("leaving", Some("type nat hook postrouting priority 100"), leaving);
    Ruleset {
        tables: [(TABLE, table)].into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::sample;

    #[test]
    fn a_router_in_nfts_words() {
        let view = sample::view();
        insta::assert_snapshot!(rules(&view, &view.routers[0]).replace_all(&Ruleset::default()));
    }

    #[test]
    fn between_address_scopes_there_is_a_wall() {
        let mut view = sample::view();
        let first = view.routers[0].interfaces[0].clone();
        let second = sample::port(2, 20, |spec| spec.binding_host = None);
        view.routers[0].gateway = None;
        view.routers[0].interfaces = vec![first.clone(), second.clone()];
        let same = Some("scope".to_owned());
        for (other, walls) in [(same.clone(), 0), (None, 2)] {
            view.scopes.insert(first.spec.network_id.clone(), [same.clone(), None]);
            view.scopes.insert(second.spec.network_id.clone(), [other, None]);
            let rules = rules(&view, &view.routers[0]);
            let lines = rules
                .tables
                .get(SCOPES)
                .map_or(0, |table| table.chains["between"].rules.len());
            assert_eq!(lines, walls);
        }
    }

    #[test]
    fn without_a_way_out_nothing_is_translated() {
        let mut view = sample::view();
        view.routers[0].gateway = None;
        assert_eq!(rules(&view, &view.routers[0]), Ruleset::default());
    }
}
