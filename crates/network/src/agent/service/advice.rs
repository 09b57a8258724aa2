//! What routers and servers of DHCPv6 say to guests. Pure. Sources: RFC 4861 and 8106 (advertisements), RFC 8415 (DHCPv6).

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

use crate::{FixedIp, SubnetSpec};

/// How long a router that falls silent is used, in seconds: three advertisements.
const ROUTER_LIFETIME: u16 = 300;
/// How long addresses made of a prefix, and those that are given, are good and best. Source: radvd's and Neutron's own.
const VALID: u32 = 86_400;
const PREFERRED: u32 = 14_400;
/// When a guest asks for its address again, here and of anybody: it never changes.
const RENEW: u32 = 7_200;
const REBIND: u32 = 11_520;

/// Whether routers speak of a subnet.
pub(crate) fn is_spoken_of(subnet: &SubnetSpec) -> bool {
    subnet.cidr.addr().is_ipv6() && subnet.ipv6_ra_mode.is_some()
}

/// Whether a packet of ICMPv6 asks for routers.
pub(super) fn is_solicitation(packet: &[u8]) -> bool {
    packet.len() >= 8 && packet[..2] == [133, 0]
}

/// The MAC address that a link-local address was made of; none where it was not. Source: RFC 4291, appendix A.
pub(super) fn mac_of(address: Ipv6Addr) -> Option<[u8; 6]> {
    let bytes = address.octets();
    let is_made = bytes[..8] == [0xfe, 0x80, 0, 0, 0, 0, 0, 0] && bytes[11..13] == [0xff, 0xfe];
    is_made.then(|| [bytes[8] ^ 2, bytes[9], bytes[10], bytes[13], bytes[14], bytes[15]])
}

fn servers<'s>(subnets: impl Iterator<Item = &'s SubnetSpec>) -> Vec<Ipv6Addr> {
    let all = subnets.flat_map(|subnet| &subnet.dns_nameservers);
    let v6 = all.filter_map(|server| match server {
        IpAddr::V6(server) => Some(*server),
        IpAddr::V4(_) => None,
    });
    let mut servers = Vec::new();
    for server in v6 {
        if !servers.contains(&server) {
            servers.push(server);
        }
    }
    servers
}

/// What a router says of itself and its link.
pub(super) struct Advice<'s> {
    /// Its address on the link.
    pub mac: [u8; 6],
    /// The network's.
    pub mtu: u32,
    /// The subnets that it speaks of.
    pub subnets: Vec<&'s SubnetSpec>,
}

impl Advice<'_> {
    /// An advertisement without its checksum, which is the kernel's; none where there is nothing to speak of.
    pub fn advertisement(&self) -> Option<Vec<u8>> {
        if self.subnets.is_empty() {
            return None;
        }
        let mode = |subnet: &&&SubnetSpec, mode: &str| subnet.ipv6_ra_mode.as_deref() == Some(mode);
        let is_managed = self.subnets.iter().any(|subnet| mode(&subnet, "dhcpv6-stateful"));
        let is_other = is_managed || self.subnets.iter().any(|subnet| mode(&subnet, "dhcpv6-stateless"));
        let flags = if is_managed { 0x80 } else { 0 } | if is_other { 0x40 } else { 0 };
        let leads_on = self.subnets.iter().any(|subnet| subnet.gateway_ip.is_some());
        let lifetime = if leads_on { ROUTER_LIFETIME } else { 0 };
        let mut packet = vec![134, 0, 0, 0, 64, flags];
        packet.extend(lifetime.to_be_bytes());
        packet.extend([0; 8]);
        packet.extend([1, 1]);
        packet.extend(self.mac);
        packet.extend([5, 1, 0, 0]);
        packet.extend(self.mtu.to_be_bytes());
        for subnet in &self.subnets {
            let IpNet::V6(prefix) = subnet.cidr.trunc() else {
                continue;
            };
            let makes_up = !mode(&subnet, "dhcpv6-stateful");
            packet.extend([3, 4, prefix.prefix_len(), if makes_up { 0xc0 } else { 0x80 }]);
            packet.extend(VALID.to_be_bytes());
            packet.extend(PREFERRED.to_be_bytes());
            packet.extend([0; 4]);
            packet.extend(prefix.network().octets());
        }
        let servers = servers(self.subnets.iter().copied());
        if let Some(words) = u8::try_from(servers.len() * 2 + 1).ok().filter(|words| *words > 1) {
            packet.extend([25, words, 0, 0]);
            packet.extend(u32::from(ROUTER_LIFETIME).to_be_bytes());
            packet.extend(servers.iter().flat_map(|server| server.octets()));
        }
        Some(packet)
    }
}

/// Kinds of messages.
const SOLICIT: u8 = 1;
const ADVERTISE: u8 = 2;
const REQUEST: u8 = 3;
const CONFIRM: u8 = 4;
const RENEW_KIND: u8 = 5;
const REBIND_KIND: u8 = 6;
const REPLY: u8 = 7;
const RELEASE: u8 = 8;
const DECLINE: u8 = 9;
const INFORMATION: u8 = 11;
/// Options.
const CLIENT_ID: u16 = 1;
const SERVER_ID: u16 = 2;
const ASSOCIATION: u16 = 3;
const ADDRESS: u16 = 5;
const STATUS: u16 = 13;
const RAPID: u16 = 14;
const NAME_SERVERS: u16 = 23;
/// What an option [`STATUS`] says.
const NO_ADDRESS: u16 = 2;
const NOT_HERE: u16 = 4;

/// What is a guest's.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Guest {
    /// The addresses that it is told.
    addresses: Vec<Ipv6Addr>,
    name_servers: Vec<Ipv6Addr>,
}

impl Guest {
    /// With a port's addresses, and the subnets that are spoken of, with their ids.
    pub fn of(fixed_ips: &[FixedIp], subnets: &[(&str, &SubnetSpec)]) -> Self {
        let is_told = |ip: &&FixedIp| {
            let subnet = subnets.iter().find(|(id, _)| *id == ip.subnet_id);
            subnet.is_some_and(|(_, subnet)| subnet.ipv6_address_mode.as_deref() == Some("dhcpv6-stateful"))
        };
        let told = fixed_ips.iter().filter(is_told).filter_map(|ip| match ip.ip_address {
            IpAddr::V6(address) => Some(address),
            IpAddr::V4(_) => None,
        });
        Self {
            addresses: told.collect(),
            name_servers: servers(subnets.iter().map(|(_, subnet)| *subnet)),
        }
    }

    /// The answer to a message of this guest; none where there is nothing to say. `server` is the MAC address of who
    /// answers.
    pub fn answer(&self, packet: &[u8], server: [u8; 6]) -> Option<Vec<u8>> {
        let (kind, exchange) = (*packet.first()?, packet.get(1..4)?);
        let given = options(packet.get(4..)?);
        let find = |code: u16| given.iter().find(|(other, _)| *other == code).map(|(_, value)| *value);
        let own: Vec<u8> = [0, 3, 0, 1].into_iter().chain(server).collect();
        let client = find(CLIENT_ID);
        let names_server = find(SERVER_ID).map(|said| said == own);
        let may_be = match kind {
            SOLICIT | CONFIRM | REBIND_KIND => client.is_some() && names_server.is_none(),
            REQUEST | RENEW_KIND | RELEASE | DECLINE => client.is_some() && names_server == Some(true),
            INFORMATION => names_server != Some(false),
            _ => false,
        };
        if !may_be {
            return None;
        }
        let is_rapid = kind == SOLICIT && find(RAPID).is_some();
        let mut answer = vec![if kind == SOLICIT && !is_rapid { ADVERTISE } else { REPLY }];
        answer.extend(exchange);
        if let Some(client) = client {
            put(&mut answer, CLIENT_ID, client);
        }
        put(&mut answer, SERVER_ID, &own);
        if is_rapid {
            put(&mut answer, RAPID, &[]);
        }
        let associations = given
            .iter()
            .filter(|(code, value)| *code == ASSOCIATION && value.len() >= 12);
        match kind {
            INFORMATION => {}
            CONFIRM => {
                let has = |value: &[u8]| addresses(value).iter().all(|address| self.addresses.contains(address));
                let is_right = associations.map(|(_, value)| *value).all(has);
                put(
                    &mut answer,
                    STATUS,
                    &(if is_right { 0 } else { NOT_HERE }).to_be_bytes(),
                );
            }
            RELEASE | DECLINE => put(&mut answer, STATUS, &0u16.to_be_bytes()),
            _ => {
                // All are the first one's: the others are told that there is no more.
                for (at, (_, value)) in associations.enumerate() {
                    let own: &[Ipv6Addr] = if at == 0 { &self.addresses } else { &[] };
                    put(&mut answer, ASSOCIATION, &association(&value[..4], own));
                }
            }
        }
        if !self.name_servers.is_empty() {
            let servers: Vec<u8> = self.name_servers.iter().flat_map(|server| server.octets()).collect();
            put(&mut answer, NAME_SERVERS, &servers);
        }
        Some(answer)
    }
}

fn association(number: &[u8], own: &[Ipv6Addr]) -> Vec<u8> {
    let mut value = number.to_vec();
    value.extend(RENEW.to_be_bytes());
    value.extend(REBIND.to_be_bytes());
    for address in own {
        let mut inner = address.octets().to_vec();
        inner.extend(PREFERRED.to_be_bytes());
        inner.extend(VALID.to_be_bytes());
        put(&mut value, ADDRESS, &inner);
    }
    if own.is_empty() {
        put(&mut value, STATUS, &NO_ADDRESS.to_be_bytes());
    }
    value
}

/// The addresses in an association.
fn addresses(value: &[u8]) -> Vec<Ipv6Addr> {
    let inner = options(value.get(12..).unwrap_or_default());
    let address = |(code, value): (u16, &[u8])| {
        let octets: [u8; 16] = value.get(..16)?.try_into().ok()?;
        (code == ADDRESS).then(|| Ipv6Addr::from(octets))
    };
    inner.into_iter().filter_map(address).collect()
}

fn put(to: &mut Vec<u8>, code: u16, value: &[u8]) {
    let Ok(length) = u16::try_from(value.len()) else { return };
    to.extend(code.to_be_bytes());
    to.extend(length.to_be_bytes());
    to.extend(value);
}

/// Options until the packet ends, or is cut off.
fn options(mut rest: &[u8]) -> Vec<(u16, &[u8])> {
    let mut options = Vec::new();
    while let [a, b, c, d, after @ ..] = rest {
        let (code, length) = (u16::from_be_bytes([*a, *b]), usize::from(u16::from_be_bytes([*c, *d])));
        let Some(value) = after.get(..length) else { break };
        options.push((code, value));
        rest = &after[length..];
    }
    options
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::agent::sample;

    fn subnet(mode: &str) -> SubnetSpec {
        SubnetSpec {
            cidr: "fd00:1::/64".parse().unwrap(),
            gateway_ip: Some("fd00:1::1".parse().unwrap()),
            ipv6_address_mode: Some(mode.into()),
            ipv6_ra_mode: Some(mode.into()),
            dns_nameservers: vec!["fd00:1::53".parse().unwrap(), "192.0.2.53".parse().unwrap()],
            ..sample::view().networks.values().next().unwrap().subnets[0].spec.clone()
        }
    }

    fn advertised(spec: &SubnetSpec) -> Vec<u8> {
        let advice = Advice {
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1450,
            subnets: vec![spec],
        };
        advice.advertisement().unwrap()
    }

    #[test]
    fn an_advertisement_says_how_addresses_are_come_by() {
        for (mode, flags, prefix) in [
            ("slaac", 0, 0xc0),
            ("dhcpv6-stateless", 0x40, 0xc0),
            ("dhcpv6-stateful", 0xc0, 0x80),
        ] {
            let packet = advertised(&subnet(mode));
            assert_eq!(
                (packet[0], packet[5], packet[6..8].to_vec()),
                (134, flags, vec![1, 44]),
                "{mode}"
            );
            assert_eq!(packet[16..24], [1, 1, 2, 0, 0, 0, 0, 1]);
            assert_eq!(packet[24..32], [5, 1, 0, 0, 0, 0, 5, 170]);
            assert_eq!(packet[32..36], [3, 4, 64, prefix]);
            assert_eq!(packet[48..52], [0xfd, 0, 0, 1]);
            assert_eq!(
                (packet[64], packet[65], packet.len()),
                (25, 3, 88),
                "one name server of version 6"
            );
        }
        let dead_end = SubnetSpec {
            gateway_ip: None,
            ..subnet("slaac")
        };
        assert_eq!(advertised(&dead_end)[6..8], [0, 0], "a network that leads nowhere");
    }

    fn guest(mode: &str) -> Guest {
        let ip = FixedIp {
            subnet_id: "s".into(),
            ip_address: "fd00:1::7".parse().unwrap(),
        };
        Guest::of(&[ip], &[("s", &subnet(mode))])
    }

    const SERVER: [u8; 6] = [2, 0, 0, 0, 0, 1];

    fn message(kind: u8, server: Option<[u8; 6]>, address: Option<&str>) -> Vec<u8> {
        let mut packet = vec![kind, 1, 2, 3];
        put(&mut packet, CLIENT_ID, &[0, 3, 0, 1, 9, 9, 9, 9, 9, 9]);
        if let Some(mac) = server {
            let id: Vec<u8> = [0, 3, 0, 1].into_iter().chain(mac).collect();
            put(&mut packet, SERVER_ID, &id);
        }
        let mut own = vec![0, 0, 0, 42, 0, 0, 0, 0, 0, 0, 0, 0];
        if let Some(address) = address {
            let address: Ipv6Addr = address.parse().unwrap();
            let inner: Vec<u8> = address.octets().into_iter().chain([0; 8]).collect();
            put(&mut own, ADDRESS, &inner);
        }
        put(&mut packet, ASSOCIATION, &own);
        packet
    }

    fn said(answer: &[u8], code: u16) -> Option<&[u8]> {
        let found = options(&answer[4..]).into_iter().find(|(other, _)| *other == code);
        found.map(|(_, value)| value)
    }

    #[test]
    fn a_guest_is_told_the_address_of_its_port() {
        let guest = guest("dhcpv6-stateful");
        let told: Ipv6Addr = "fd00:1::7".parse().unwrap();
        for (kind, server, wanted) in [
            (SOLICIT, None, ADVERTISE),
            (REQUEST, Some(SERVER), REPLY),
            (RENEW_KIND, Some(SERVER), REPLY),
            (REBIND_KIND, None, REPLY),
        ] {
            let answer = guest.answer(&message(kind, server, None), SERVER).unwrap();
            assert_eq!((answer[0], &answer[1..4]), (wanted, &[1, 2, 3][..]));
            let own = said(&answer, ASSOCIATION).unwrap();
            assert_eq!((&own[..4], addresses(own)), (&[0, 0, 0, 42][..], vec![told]));
            assert_eq!(said(&answer, NAME_SERVERS).unwrap()[..2], [0xfd, 0]);
        }
        for (address, status) in [("fd00:1::7", 0), ("fd00:1::8", 4)] {
            let answer = guest.answer(&message(CONFIRM, None, Some(address)), SERVER).unwrap();
            assert_eq!(said(&answer, STATUS).unwrap(), [0, status]);
        }
        let other = [9; 6];
        assert_eq!(
            guest.answer(&message(REQUEST, Some(other), None), SERVER),
            None,
            "it chose somebody else"
        );
    }

    #[test]
    fn who_makes_its_address_up_is_told_name_servers_alone() {
        let guest = guest("dhcpv6-stateless");
        let answer = guest.answer(&message(INFORMATION, None, None), SERVER).unwrap();
        assert!(said(&answer, NAME_SERVERS).is_some() && said(&answer, ASSOCIATION).is_none());
        let answer = guest.answer(&message(SOLICIT, None, None), SERVER).unwrap();
        let own = said(&answer, ASSOCIATION).unwrap();
        assert_eq!(own[12..], [0, 13, 0, 2, 0, 2], "there is none to give");
    }

    #[test]
    fn a_link_local_address_says_the_mac_address_it_was_made_of() {
        assert_eq!(
            mac_of("fe80::f816:3eff:fe01:203".parse().unwrap()),
            Some([0xfa, 0x16, 0x3e, 1, 2, 3])
        );
        assert_eq!(mac_of("fe80::1".parse().unwrap()), None);
        assert_eq!(mac_of("fd00::f816:3eff:fe01:203".parse().unwrap()), None);
    }

    proptest! {
        #[test]
        fn whatever_comes_is_answered_or_not(packet in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(answer) = guest("dhcpv6-stateful").answer(&packet, SERVER) {
                prop_assert_eq!(&answer[1..4], &packet[1..4]);
            }
            is_solicitation(&packet);
        }
    }
}
