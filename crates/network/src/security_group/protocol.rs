//! IP protocols by the names that Neutron knows.

use crate::EtherType;

/// Names and numbers (IANA's protocol numbers, Neutron's spellings).
const NAMES: [(&str, u8); 25] = [
    ("ah", 51),
    ("dccp", 33),
    ("egp", 8),
    ("esp", 50),
    ("gre", 47),
    ("hopopt", 0),
    ("icmp", 1),
    ("icmpv6", 58),
    ("igmp", 2),
    ("ipip", 4),
    ("ipv6-encap", 41),
    ("ipv6-frag", 44),
    ("ipv6-icmp", 58),
    ("ipv6-nonxt", 59),
    ("ipv6-opts", 60),
    ("ipv6-route", 43),
    ("ospf", 89),
    ("pgm", 113),
    ("rsvp", 46),
    ("sctp", 132),
    ("tcp", 6),
    ("udp", 17),
    ("udplite", 136),
    ("vrrp", 112),
    ("ip", 0),
];

/// Numbers that only make sense in version 6, by Neutron's reckoning.
const ONLY_V6: [u8; 6] = [41, 43, 44, 58, 59, 60];

/// The number of a protocol named by name or number; none for what is neither.
pub fn number(protocol: &str) -> Option<u8> {
    let named = NAMES
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(protocol))
        .map(|(_, number)| *number);
    named.or_else(|| protocol.parse().ok())
}

/// All names, as Neutron lists them in its refusals.
pub(super) fn names() -> String {
    let names: Vec<_> = NAMES.iter().map(|(name, _)| format!("'{name}'")).collect();
    format!("[None, {}]", names.join(", "))
}

/// Whether the protocol has ports.
pub(super) fn has_ports(number: u8) -> bool {
    matches!(number, 6 | 17 | 33 | 132 | 136)
}

/// Whether it is ICMP of either version.
pub(super) fn is_icmp(number: u8) -> bool {
    matches!(number, 1 | 58)
}

/// Whether the protocol fits the version of IP.
pub(super) fn fits(number: u8, ethertype: EtherType) -> bool {
    ethertype == EtherType::IPv6 || !ONLY_V6.contains(&number)
}
