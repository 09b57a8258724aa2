//! Address translation of one router, as the rules of its namespace. Pure.
//!
//! Guests with a floating address are that address outside, both ways; the others go out under the gateway's address.
//! Two guests behind one router may use each other's floating address: such packets are marked where they come in from
//! inside, and their source is translated too, so that the answer comes back through the router.

use std::net::IpAddr;

use madang_host::instance::device_name;

use super::{
    names,
    ruleset::{Ruleset, Set, Table},
    view::{RouterView, View},
    wanted::{gateway, translated},
};

/// The table.
const TABLE: &str = "ip madang";

/// The rules of a router; no table without a way out.
pub(crate) fn rules(view: &View, router: &RouterView) -> Ruleset {
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
        ["dnat to ip daddr map @inward"],
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
    fn without_a_way_out_nothing_is_translated() {
        let mut view = sample::view();
        view.routers[0].gateway = None;
        assert_eq!(rules(&view, &view.routers[0]), Ruleset::default());
    }
}
