//! Counting what passes between a router and its external network, for metering labels.
//!
//! Every label has a counter of the kernel. What it has counted since it was last looked at is added to the label: about
//! every [`EVERY`], and before rules are set anew as a whole, which starts counters over.

use std::{collections::BTreeMap, time::Duration};

use ipnet::IpNet;
use madang_host::{Result, instance::device_name, netns::Netns, nft};
use madang_store::{Key, Store, StoreError};
use serde_json::Value;

use super::{
    names,
    ruleset::Table,
    status,
    view::{RouterView, View},
    wanted::gateway,
};
use crate::{Direction, MeteringLabel, MeteringRuleSpec};

/// The table of a router's counters.
pub(crate) const TABLE: &str = "inet madang_meter";
/// How often counters are looked at: often enough for who watches, seldom enough to cost nothing.
pub(super) const EVERY: Duration = Duration::from_secs(10);

/// Packets and bytes.
pub(crate) type Count = (u64, u64);

/// A label's counter.
fn counter(label: &str) -> String {
    format!("label_{}", label.replace('-', "_"))
}

/// The counters of a router; none where it has nothing to count.
pub(super) fn table(view: &View, router: &RouterView) -> Option<Table> {
    let (port, _) = gateway(view, router)?;
    if router.meters.is_empty() {
        return None;
    }
    let link = device_name(names::GATEWAY, port.metadata.uid);
    let mut table = Table::default();
    for (label, rules) in &router.meters {
        let name = counter(label);
        // What is not to be counted is sorted out first, whatever its place among the rules.
        let (excluded, counted): (Vec<_>, Vec<_>) = rules.iter().partition(|rule| rule.spec.is_excluded);
        let lines = excluded
            .iter()
            .map(|rule| format!("{} return", matching(&rule.spec, &link)));
        let counting = counted
            .iter()
            .map(|rule| format!("{} counter name {name} return", matching(&rule.spec, &link)));
        table.chain(name.clone(), None, lines.chain(counting));
        table.counters.insert(name);
    }
    let jumps: Vec<_> = table.counters.iter().map(|name| format!("jump {name}")).collect();
    // After translation into inner addresses, and before the one into outer ones.
    table.chain("passing", Some("type filter hook forward priority 10"), jumps);
    Some(table)
}

fn matching(rule: &MeteringRuleSpec, link: &str) -> String {
    let is_in = rule.direction == Direction::Ingress;
    let mut words = vec![format!("{} \"{link}\"", if is_in { "iifname" } else { "oifname" })];
    let inner = if is_in { "daddr" } else { "saddr" };
    let ends = [
        (inner, rule.remote_ip_prefix),
        ("saddr", rule.source_ip_prefix),
        ("daddr", rule.destination_ip_prefix),
    ];
    for (end, prefix) in ends {
        if let Some(prefix) = prefix {
            let family = if matches!(prefix, IpNet::V4(_)) { "ip" } else { "ip6" };
            words.push(format!("{family} {end} {}", prefix.trunc()));
        }
    }
    words.join(" ")
}

/// What the counters of a namespace say, by name.
pub(crate) async fn read(netns: &Netns) -> Result<BTreeMap<String, Count>> {
    let list = nft::counters(netns, TABLE).await?;
    let counters = list["nftables"].as_array().into_iter().flatten();
    let count = |entry: &Value| {
        let counter = entry.get("counter")?;
        let name = counter["name"].as_str()?.to_owned();
        Some((name, (counter["packets"].as_u64()?, counter["bytes"].as_u64()?)))
    };
    Ok(counters.filter_map(count).collect())
}

/// What came since the counters were last looked at. Those that start over have counted from nothing.
pub(crate) fn news(before: &BTreeMap<String, Count>, now: &BTreeMap<String, Count>) -> BTreeMap<String, Count> {
    let new = now.iter().map(|(name, (packets, bytes))| {
        let (old_packets, old_bytes) = before.get(name).copied().unwrap_or_default();
        let since = |now: u64, old: u64| if now >= old { now - old } else { now };
        (name.clone(), (since(*packets, old_packets), since(*bytes, old_bytes)))
    });
    new.filter(|(_, (packets, _))| *packets > 0).collect()
}

/// Adds what was counted to the labels.
pub(super) async fn add(store: &Store, counted: &BTreeMap<String, Count>) -> std::result::Result<(), StoreError> {
    let labels = store.cache::<MeteringLabel>().all();
    let keys = labels
        .iter()
        .filter_map(|label| Some((label.key(), *counted.get(&counter(label.name()))?)));
    let changes: Vec<(Key, Count)> = keys.collect();
    status::write::<MeteringLabel, _>(store, &changes, |label, (packets, bytes)| {
        label.status.packets += packets;
        label.status.bytes += bytes;
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_about_one_side_of_the_gateway() {
        let rule = |direction, remote: Option<&str>, source: Option<&str>| MeteringRuleSpec {
            label_id: String::new(),
            direction,
            is_excluded: false,
            remote_ip_prefix: remote.map(|net| net.parse().unwrap()),
            source_ip_prefix: source.map(|net| net.parse().unwrap()),
            destination_ip_prefix: None,
        };
        let said = [
            matching(&rule(Direction::Ingress, Some("10.0.0.0/24"), None), "g1"),
            matching(&rule(Direction::Egress, Some("fd00::/8"), None), "g1"),
            matching(&rule(Direction::Ingress, None, Some("192.0.2.0/24")), "g1"),
        ];
        assert_eq!(
            said,
            [
                "iifname \"g1\" ip daddr 10.0.0.0/24",
                "oifname \"g1\" ip6 saddr fd00::/8",
                "iifname \"g1\" ip saddr 192.0.2.0/24",
            ]
        );
    }

    #[test]
    fn counters_that_start_over_lose_nothing_of_what_they_counted_since() {
        let counts = |packets, bytes| BTreeMap::from([("a".to_owned(), (packets, bytes))]);
        assert_eq!(news(&counts(5, 500), &counts(7, 800)), counts(2, 300));
        assert_eq!(news(&counts(5, 500), &counts(2, 90)), counts(2, 90));
        assert_eq!(news(&counts(5, 500), &counts(5, 500)), BTreeMap::new());
    }
}
