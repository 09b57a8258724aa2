//! DHCP messages: what is asked, and what is answered. Pure. Source: RFC 2131.
//!
//! Requests come from guests, and dhcproto's decoder panics on some malformed options, so the few fields that matter are
//! read here; answers are built from our own data and encoded by dhcproto.

use std::net::Ipv4Addr;

use dhcproto::v4::{
    DhcpOption, Encodable, Encoder, Flags, HType, Message, MessageType, Opcode, OptionCode, UnknownOption,
};

use super::lease::Lease;

/// A day, as Neutron gives. Renewing costs nothing and addresses do not change, so it only bounds how long a guest
/// keeps old options.
const LEASE_SECONDS: u32 = 86_400;
/// The least that a BOOTP relay or an old client takes. Source: RFC 1542, 2.1.
const LEAST_BYTES: usize = 300;
/// Up to the magic cookie. Source: RFC 2131, 2.
const HEADER_BYTES: usize = 236;
/// Behind the cookie.
const OPTIONS: usize = HEADER_BYTES + 4;
const MAGIC: [u8; 4] = [99, 130, 83, 99];

/// Where an answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum To {
    /// Everybody on the network; only who asked listens.
    All,
    /// An address that the client uses already.
    Client(Ipv4Addr),
    /// An address that the client will use, at the hardware address it asked from.
    Hardware(Ipv4Addr, [u8; 6]),
}

/// A request that we may have to answer.
#[derive(Debug)]
pub(super) struct Request {
    kind: MessageType,
    /// Who asks.
    pub mac: [u8; 6],
    /// The client's number for the exchange.
    exchange: u32,
    /// The client cannot be reached by its own address yet.
    wants_broadcast: bool,
    /// The address that the client has; unspecified without one.
    current: Ipv4Addr,
    requested: Option<Ipv4Addr>,
    server: Option<Ipv4Addr>,
    client_id: Option<Vec<u8>>,
}

impl Request {
    /// Reads a packet; none for what is not a client's request over Ethernet, for what is cut off, and for what was
    /// relayed, since everybody we answer is on our own network.
    pub fn parse(packet: &[u8]) -> Option<Self> {
        // A request, over Ethernet, with addresses of 6 bytes.
        let is_ethernet = packet.get(..3)? == [1, 1, 6];
        let is_direct = address(packet, 24)?.is_unspecified();
        if !is_ethernet || !is_direct || packet.get(HEADER_BYTES..OPTIONS)? != MAGIC {
            return None;
        }
        let mut request = Self {
            kind: MessageType::Unknown(0),
            mac: packet.get(28..34)?.try_into().ok()?,
            exchange: u32::from_be_bytes(packet.get(4..8)?.try_into().ok()?),
            wants_broadcast: packet.get(10)? & 0x80 != 0,
            current: address(packet, 12)?,
            requested: None,
            server: None,
            client_id: None,
        };
        for (code, value) in options(packet.get(OPTIONS..)?) {
            match code {
                50 => request.requested = address(value, 0),
                53 => request.kind = MessageType::from(*value.first()?),
                54 => request.server = address(value, 0),
                61 if value.len() >= 2 => request.client_id = Some(value.to_vec()),
                _ => {}
            }
        }
        Some(request)
    }

    /// What is asked, for logs.
    pub fn kind(&self) -> MessageType {
        self.kind
    }

    /// The answer for the client whose lease this is, and where it goes; none when there is nothing to say.
    pub fn answer(&self, lease: &Lease) -> Option<(Vec<u8>, To)> {
        match self.kind {
            MessageType::Discover => self.give(MessageType::Offer, lease),
            MessageType::Request => {
                if self.server.is_some_and(|server| server != lease.server) {
                    return None; // it chose somebody else
                }
                let renewing = Some(self.current).filter(|address| !address.is_unspecified());
                match self.requested.or(renewing) {
                    Some(address) if address == lease.address => self.give(MessageType::Ack, lease),
                    Some(_) => self.refuse(lease),
                    None => None,
                }
            }
            MessageType::Inform => self.inform(lease),
            _ => None,
        }
    }

    fn give(&self, kind: MessageType, lease: &Lease) -> Option<(Vec<u8>, To)> {
        let mut reply = self.reply(kind, lease);
        reply.set_yiaddr(lease.address);
        reply.opts_mut().insert(DhcpOption::AddressLeaseTime(LEASE_SECONDS));
        add_settings(&mut reply, lease);
        let to = if !self.current.is_unspecified() {
            To::Client(self.current)
        } else if self.wants_broadcast {
            To::All
        } else {
            To::Hardware(lease.address, self.mac)
        };
        Some((encode(&reply)?, to))
    }

    /// Only settings: the client has its address from elsewhere.
    fn inform(&self, lease: &Lease) -> Option<(Vec<u8>, To)> {
        let mut reply = self.reply(MessageType::Ack, lease);
        reply.set_ciaddr(self.current);
        add_settings(&mut reply, lease);
        let is_known = self.current == lease.address;
        let to = if is_known {
            To::Client(lease.address)
        } else {
            To::Hardware(lease.address, self.mac)
        };
        Some((encode(&reply)?, to))
    }

    fn refuse(&self, lease: &Lease) -> Option<(Vec<u8>, To)> {
        let mut reply = self.reply(MessageType::Nak, lease);
        reply.opts_mut().insert(DhcpOption::Message(format!(
            "the address of this port is {}",
            lease.address
        )));
        Some((encode(&reply)?, To::All))
    }

    fn reply(&self, kind: MessageType, lease: &Lease) -> Message {
        let none = Ipv4Addr::UNSPECIFIED;
        let mut reply = Message::new_with_id(self.exchange, none, none, none, none, &self.mac);
        reply.set_opcode(Opcode::BootReply).set_htype(HType::Eth);
        let flags = if self.wants_broadcast {
            Flags::default().set_broadcast()
        } else {
            Flags::default()
        };
        reply.set_flags(flags);
        reply.opts_mut().insert(DhcpOption::MessageType(kind));
        reply.opts_mut().insert(DhcpOption::ServerIdentifier(lease.server));
        if let Some(id) = &self.client_id {
            reply.opts_mut().insert(DhcpOption::ClientIdentifier(id.clone())); // RFC 6842
        }
        reply
    }
}

fn address(bytes: &[u8], at: usize) -> Option<Ipv4Addr> {
    let octets: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(octets.into())
}

/// Codes and values up to the end mark, or to where the packet is cut off. Source: RFC 2132, 2.
fn options(mut rest: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    const PAD: u8 = 0;
    const END: u8 = 255;
    std::iter::from_fn(move || {
        while let Some((&PAD, tail)) = rest.split_first() {
            rest = tail;
        }
        let (&code, tail) = rest.split_first().filter(|(code, _)| **code != END)?;
        let (&size, tail) = tail.split_first()?;
        let (value, tail) = tail.split_at_checked(usize::from(size))?;
        rest = tail;
        Some((code, value))
    })
}

fn add_settings(reply: &mut Message, lease: &Lease) {
    let options = reply.opts_mut();
    options.insert(DhcpOption::SubnetMask(lease.subnet.netmask()));
    options.insert(DhcpOption::BroadcastAddr(lease.subnet.broadcast()));
    options.insert(DhcpOption::InterfaceMtu(lease.mtu));
    options.insert(DhcpOption::Hostname(lease.hostname.clone()));
    if let Some(router) = lease.router {
        options.insert(DhcpOption::Router(vec![router]));
    }
    if !lease.name_servers.is_empty() {
        options.insert(DhcpOption::DomainNameServer(lease.name_servers.clone()));
    }
    if let Some(domain) = &lease.domain {
        options.insert(DhcpOption::DomainName(domain.clone()));
    }
    options.insert(DhcpOption::ClasslessStaticRoute(lease.routes.clone()));
    for (code, value) in &lease.extra {
        let code = OptionCode::from(*code);
        options.remove(code);
        options.insert(DhcpOption::Unknown(UnknownOption::new(code, value.clone())));
    }
    if let Some(server) = lease.boot_server {
        reply.set_siaddr(server);
    }
}

fn encode(message: &Message) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(512);
    message.encode(&mut Encoder::new(&mut bytes)).ok()?;
    bytes.resize(bytes.len().max(LEAST_BYTES), 0);
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use dhcproto::v4::{Decodable, Decoder};
    use proptest::prelude::*;

    use super::*;

    const MAC: [u8; 6] = [0xfa, 0x16, 0x3e, 1, 2, 3];

    fn lease() -> Lease {
        let server = Ipv4Addr::new(10, 0, 0, 2);
        Lease {
            address: Ipv4Addr::new(10, 0, 0, 5),
            subnet: "10.0.0.0/24".parse().unwrap(),
            server,
            router: Some(Ipv4Addr::new(10, 0, 0, 1)),
            name_servers: vec![Ipv4Addr::new(9, 9, 9, 9)],
            mtu: 1450,
            hostname: "web".into(),
            domain: Some("example.org".into()),
            routes: vec![("169.254.169.254/32".parse().unwrap(), server)],
            extra: vec![],
            boot_server: None,
        }
    }

    fn asked(kind: MessageType, change: impl FnOnce(&mut Message)) -> Vec<u8> {
        let none = Ipv4Addr::UNSPECIFIED;
        let mut message = Message::new_with_id(77, none, none, none, none, &MAC);
        message.opts_mut().insert(DhcpOption::MessageType(kind));
        change(&mut message);
        let mut bytes = Vec::new();
        message.encode(&mut Encoder::new(&mut bytes)).unwrap();
        bytes
    }

    fn answered(packet: &[u8]) -> Option<(Message, To)> {
        let (bytes, to) = Request::parse(packet)?.answer(&lease())?;
        assert!(bytes.len() >= LEAST_BYTES);
        Some((Message::decode(&mut Decoder::new(&bytes)).unwrap(), to))
    }

    fn kind(message: &Message) -> MessageType {
        message.opts().msg_type().unwrap()
    }

    #[test]
    fn a_discover_is_offered_the_ports_address_with_everything() {
        let (offer, to) = answered(&asked(MessageType::Discover, |_| {})).unwrap();
        assert_eq!(to, To::Hardware(lease().address, MAC));
        assert_eq!(
            (kind(&offer), offer.xid(), offer.yiaddr()),
            (MessageType::Offer, 77, lease().address)
        );
        let mut codes: Vec<u8> = offer.opts().iter().map(|(code, _)| u8::from(*code)).collect();
        codes.sort_unstable();
        assert_eq!(codes, [1, 3, 6, 12, 15, 26, 28, 51, 53, 54, 121]);
    }

    #[test]
    fn a_ports_own_options_are_told_and_win() {
        let lease = Lease {
            extra: vec![(67, b"boot.img".to_vec()), (26, vec![5, 0])],
            boot_server: Some(Ipv4Addr::new(10, 0, 0, 9)),
            ..lease()
        };
        let (bytes, _) = Request::parse(&asked(MessageType::Discover, |_| {}))
            .unwrap()
            .answer(&lease)
            .unwrap();
        let offer = Message::decode(&mut Decoder::new(&bytes)).unwrap();
        assert_eq!(offer.siaddr(), Ipv4Addr::new(10, 0, 0, 9));
        assert_eq!(
            offer.opts().get(OptionCode::BootfileName),
            Some(&DhcpOption::BootfileName(b"boot.img".to_vec()))
        );
        assert_eq!(
            offer.opts().get(OptionCode::InterfaceMtu),
            Some(&DhcpOption::InterfaceMtu(0x0500))
        );
    }

    #[test]
    fn who_cannot_hear_unicast_is_answered_to_all() {
        let packet = asked(MessageType::Discover, |m| {
            _ = m.set_flags(Flags::default().set_broadcast())
        });
        assert_eq!(answered(&packet).unwrap().1, To::All);
    }

    #[test]
    fn requests_are_granted_renewed_refused_and_left_to_others() {
        let request = |change: &dyn Fn(&mut Message)| answered(&asked(MessageType::Request, |m| change(m)));
        let wants = |m: &mut Message, last| {
            m.opts_mut()
                .insert(DhcpOption::RequestedIpAddress(Ipv4Addr::new(10, 0, 0, last)));
        };
        assert_eq!(kind(&request(&|m| wants(m, 5)).unwrap().0), MessageType::Ack);
        let (refused, to) = request(&|m| wants(m, 6)).unwrap();
        assert_eq!(
            (kind(&refused), to, refused.yiaddr()),
            (MessageType::Nak, To::All, Ipv4Addr::UNSPECIFIED)
        );
        let renewed = request(&|m| _ = m.set_ciaddr(lease().address)).unwrap();
        assert_eq!(
            (kind(&renewed.0), renewed.1),
            (MessageType::Ack, To::Client(lease().address))
        );
        let foreign = request(&|m| _ = m.set_ciaddr(Ipv4Addr::new(192, 168, 1, 1))).unwrap();
        assert_eq!(kind(&foreign.0), MessageType::Nak);
        let other_server = request(&|m| {
            wants(m, 5);
            m.opts_mut()
                .insert(DhcpOption::ServerIdentifier(Ipv4Addr::new(10, 0, 0, 66)));
        });
        assert!(other_server.is_none());
        assert!(request(&|_| {}).is_none());
    }

    #[test]
    fn informing_gives_settings_and_no_lease() {
        let (reply, to) = answered(&asked(MessageType::Inform, |m| _ = m.set_ciaddr(lease().address))).unwrap();
        assert_eq!((kind(&reply), to), (MessageType::Ack, To::Client(lease().address)));
        assert!(reply.yiaddr().is_unspecified());
        assert!(reply.opts().get(OptionCode::AddressLeaseTime).is_none());
    }

    #[test]
    fn declines_and_releases_and_relays_get_no_answer() {
        for silent in [MessageType::Decline, MessageType::Release, MessageType::Offer] {
            assert!(answered(&asked(silent, |_| {})).is_none(), "{silent:?}");
        }
        assert!(answered(&asked(MessageType::Discover, |m| _ = m.set_giaddr([10, 0, 0, 9]))).is_none());
    }

    #[test]
    fn options_that_are_malformed_or_cut_off_end_the_reading_and_nothing_else() {
        let packet = asked(MessageType::Discover, |_| {});
        let end = packet.iter().rposition(|byte| *byte == 255).unwrap();
        // An option that says it has no value (dhcproto's decoder panics), and one that says it is longer than the packet.
        for tail in [&[152, 0][..], &[50, 2, 1, 1], &[61, 200, 1], &[53], &[61, 0, 255]] {
            let mut packet = packet[..end].to_vec();
            packet.extend(tail);
            assert!(answered(&packet).is_some(), "{tail:?}");
        }
        assert!(Request::parse(&packet[..OPTIONS - 1]).is_none());
    }

    proptest! {
        #[test]
        fn no_packet_does_harm(bytes in proptest::collection::vec(any::<u8>(), 0..700)) {
            if let Some(request) = Request::parse(&bytes) {
                let _ = request.answer(&lease());
            }
        }

        #[test]
        fn no_damaged_request_does_harm(
            at in 0usize..400, byte in any::<u8>(), cut in 0usize..400, tail in proptest::collection::vec(any::<u8>(), 0..64)
        ) {
            let mut packet = asked(MessageType::Request, |m| {
                m.opts_mut().insert(DhcpOption::ClientIdentifier(vec![1; 7]));
            });
            if let Some(place) = packet.get_mut(at) { *place = byte; }
            packet.truncate(packet.len().saturating_sub(cut % 60));
            packet.extend(tail);
            if let Some(request) = Request::parse(&packet) {
                let _ = request.answer(&lease());
            }
        }
    }
}
