//! One security group rule in nft's words.

use super::identifier;
use crate::{Direction, EtherType, RuleSpec, security_group::protocol};

/// `ip` and `hopopt`, with which Neutron means any protocol.
const ANY: u8 = 0;
const ICMP: u8 = 1;
const ICMP6: u8 = 58;
/// Protocols whose header starts with two port numbers.
const WITH_PORTS: [u8; 5] = [6, 17, 33, 132, 136];

/// The set of a group's members that are single addresses.
pub(super) fn members_set(group: &str, version: u8) -> String {
    format!("members{version}_{}", identifier(group))
}

/// The set of a group's members that are ranges of addresses.
pub(super) fn ranges_set(group: &str, version: u8) -> String {
    format!("ranges{version}_{}", identifier(group))
}

/// The set of an address group's addresses.
pub(super) fn addresses_set(group: &str, version: u8) -> String {
    format!("addresses{version}_{}", identifier(group))
}

/// The rule as lines of a chain: one, or two when its peers are a group's members; none when it can match nothing.
pub(super) fn compile(rule: &RuleSpec) -> Vec<String> {
    let (version, family, word) = match rule.ethertype {
        EtherType::IPv4 => (4, "ipv4", "ip"),
        EtherType::IPv6 => (6, "ipv6", "ip6"),
    };
    let Some(service) = service(rule) else {
        return Vec::new();
    };
    let side = match rule.direction {
        Direction::Ingress => "saddr",
        Direction::Egress => "daddr",
    };
    if let Some(group) = &rule.remote_address_group_id {
        return vec![format!(
            "{word} {side} @{}{service} accept",
            addresses_set(group, version)
        )];
    }
    let peers = match (&rule.remote_group_id, rule.remote_ip_prefix) {
        (Some(group), _) => vec![
            format!("{word} {side} @{}", members_set(group, version)),
            format!("{word} {side} @{}", ranges_set(group, version)),
        ],
        (None, Some(prefix)) if prefix.addr().is_ipv4() != (version == 4) => return Vec::new(),
        (None, Some(prefix)) if prefix.prefix_len() > 0 => vec![format!("{word} {side} {}", prefix.trunc())],
        _ => vec![format!("meta nfproto {family}")],
    };
    peers
        .into_iter()
        .map(|peers| format!("{peers}{service} accept"))
        .collect()
}

/// The protocol and ports, with a blank in front; none for a protocol nobody knows.
fn service(rule: &RuleSpec) -> Option<String> {
    let Some(name) = rule.protocol.as_deref().filter(|name| *name != "any") else {
        return Some(String::new());
    };
    let mut number = protocol::number(name)?;
    if number == ANY {
        return Some(String::new());
    }
    // `icmp` with IPv6 is what old clients send. Source: Neutron's security group validation.
    if number == ICMP && rule.ethertype == EtherType::IPv6 {
        number = ICMP6;
    }
    let (first, last) = (rule.port_range_min, rule.port_range_max);
    let detail = match number {
        ICMP | ICMP6 => {
            let word = if number == ICMP { "icmp" } else { "icmpv6" };
            let kind = first.map(|kind| format!(" {word} type {kind}")).unwrap_or_default();
            let code = first
                .and(last)
                .map(|code| format!(" {word} code {code}"))
                .unwrap_or_default();
            format!("{kind}{code}")
        }
        _ if WITH_PORTS.contains(&number) => match (first, last) {
            (None, None) => String::new(),
            (Some(one), None) | (None, Some(one)) => format!(" th dport {one}"),
            (Some(first), Some(last)) if first == last => format!(" th dport {first}"),
            (Some(first), Some(last)) => format!(" th dport {first}-{last}"),
        },
        _ => String::new(),
    };
    Some(format!(" meta l4proto {number}{detail}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(direction: Direction, ethertype: EtherType) -> RuleSpec {
        RuleSpec {
            group_id: "g".into(),
            direction,
            ethertype,
            protocol: None,
            port_range_min: None,
            port_range_max: None,
            remote_ip_prefix: None,
            remote_group_id: None,
            remote_address_group_id: None,
            description: String::new(),
        }
    }

    #[test]
    fn every_sort_of_rule_has_its_words() {
        let inward = || rule(Direction::Ingress, EtherType::IPv4);
        let with = |protocol: &str, min: Option<u16>, max: Option<u16>| RuleSpec {
            protocol: Some(protocol.into()),
            port_range_min: min,
            port_range_max: max,
            ..inward()
        };
        let lines = [
            inward(),
            with("tcp", Some(22), Some(22)),
            with("udp", Some(1000), Some(2000)),
            with("icmp", Some(8), Some(0)),
            with("icmp", None, None),
            with("132", Some(5), Some(6)),
            with("gre", None, None),
            RuleSpec {
                remote_ip_prefix: Some("10.1.2.3/8".parse().unwrap()),
                ..with("tcp", None, None)
            },
            RuleSpec {
                remote_ip_prefix: Some("0.0.0.0/0".parse().unwrap()),
                ..inward()
            },
            RuleSpec {
                remote_group_id: Some("a-b".into()),
                ..with("tcp", Some(80), Some(81))
            },
            RuleSpec {
                remote_address_group_id: Some("c-d".into()),
                ..with("udp", Some(53), Some(53))
            },
            RuleSpec {
                direction: Direction::Egress,
                remote_ip_prefix: Some("fd00::/8".parse().unwrap()),
                ..rule(Direction::Egress, EtherType::IPv6)
            },
            RuleSpec {
                protocol: Some("icmp".into()),
                ..rule(Direction::Ingress, EtherType::IPv6)
            },
        ];
        insta::assert_snapshot!(lines.iter().flat_map(compile).collect::<Vec<_>>().join("\n"), @r"
        meta nfproto ipv4 accept
        meta nfproto ipv4 meta l4proto 6 th dport 22 accept
        meta nfproto ipv4 meta l4proto 17 th dport 1000-2000 accept
        meta nfproto ipv4 meta l4proto 1 icmp type 8 icmp code 0 accept
        meta nfproto ipv4 meta l4proto 1 accept
        meta nfproto ipv4 meta l4proto 132 th dport 5-6 accept
        meta nfproto ipv4 meta l4proto 47 accept
        ip saddr 10.0.0.0/8 meta l4proto 6 accept
        meta nfproto ipv4 accept
        ip saddr @members4_ab meta l4proto 6 th dport 80-81 accept
        ip saddr @ranges4_ab meta l4proto 6 th dport 80-81 accept
        ip saddr @addresses4_cd meta l4proto 17 th dport 53 accept
        ip6 daddr fd00::/8 accept
        meta nfproto ipv6 meta l4proto 58 accept
        ");
    }

    #[test]
    fn what_can_match_nothing_has_no_line() {
        let prefix = Some("fd00::/8".parse().unwrap());
        assert!(
            compile(&RuleSpec {
                remote_ip_prefix: prefix,
                ..rule(Direction::Ingress, EtherType::IPv4)
            })
            .is_empty()
        );
        let odd = RuleSpec {
            protocol: Some("x; flush ruleset".into()),
            ..rule(Direction::Ingress, EtherType::IPv4)
        };
        assert!(compile(&odd).is_empty());
    }
}
