//! Connections that a namespace's kernel tracks: forgetting those of an address that is somebody else's from now on.
//!
//! Spoken to directly over netlink, since one look at the table serves any number of addresses. Source of all numbers:
//! linux/netfilter/nfnetlink.h and nfnetlink_conntrack.h.

use std::{
    collections::HashSet,
    io,
    net::IpAddr,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::sys::{
    socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, socket},
    time::TimeVal,
};

use crate::{Error, Result, netns::Netns};

const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;
const GET_TOTALS: u16 = SUBSYSTEM | 5;
const REQUEST: u16 = 1;
const DUMP: u16 = 0x300;
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// `nlmsghdr` and `nfgenmsg`.
const HEADER_BYTES: usize = 20;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ZONE: u16 = 18;
const TUPLE_IP: u16 = 1;
const TOTAL_ENTRIES: u16 = 1;
/// Nested, and in network order, are flags of an attribute's type.
const TYPE: u16 = 0x3fff;
/// The kernel's dumps come in pieces of at most this.
const PIECE_BYTES: usize = 64 * 1024;

/// Forgets every connection in the namespace that one of `addresses` of a zone takes part in, at either end, before or
/// after translation. Zone 0 is that of connections without one. Returns how many there were.
///
/// A packet of a forgotten connection is looked at as if it were a first one.
pub async fn forget(netns: &Netns, addresses: HashSet<(u16, IpAddr)>) -> Result<usize> {
    if addresses.is_empty() {
        return Ok(0);
    }
    let forgotten = netns.run(move || forget_here(&addresses)).await?;
    forgotten.map_err(Error::io("forget connections"))
}

fn forget_here(addresses: &HashSet<(u16, IpAddr)>) -> io::Result<usize> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkNetFilter,
    )?;
    // Whatever goes wrong, nobody waits for ever.
    nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::ReceiveTimeout, &TimeVal::new(5, 0))?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    // The kernel goes through all its buckets, those of other namespaces too, which takes 10 ms where there is nothing.
    if total(&socket)? == 0 {
        return Ok(0);
    }
    let doomed = find(&socket, addresses)?;
    for (family, attributes) in &doomed {
        // Done when this returns. One that ended by itself meanwhile is as good.
        send(
            socket.as_raw_fd(),
            &message(DELETE, REQUEST, *family, attributes),
            MsgFlags::empty(),
        )?;
    }
    Ok(doomed.len())
}

/// How many connections the namespace has.
fn total(socket: &OwnedFd) -> io::Result<u32> {
    send(
        socket.as_raw_fd(),
        &message(GET_TOTALS, REQUEST, 0, &[]),
        MsgFlags::empty(),
    )?;
    let mut piece = vec![0; PIECE_BYTES];
    let size = recv(socket.as_raw_fd(), &mut piece, MsgFlags::empty())?;
    let (kind, body) = messages(&piece[..size]).next().ok_or(io::ErrorKind::UnexpectedEof)?;
    if kind == ERROR {
        return Err(error(body));
    }
    let rest = body.get(HEADER_BYTES - 16..).unwrap_or_default();
    let entries = attributes(rest).find(|(kind, ..)| *kind == TOTAL_ENTRIES);
    let number = entries.and_then(|(_, value, _)| value.try_into().ok());
    Ok(number.map_or(u32::MAX, u32::from_be_bytes))
}

/// What names each connection to the kernel: its family, and its tuple and zone as the kernel wrote them.
fn find(socket: &OwnedFd, addresses: &HashSet<(u16, IpAddr)>) -> io::Result<Vec<(u8, Vec<u8>)>> {
    send(
        socket.as_raw_fd(),
        &message(GET, REQUEST | DUMP, 0, &[]),
        MsgFlags::empty(),
    )?;
    let mut doomed = Vec::new();
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let size = recv(socket.as_raw_fd(), &mut piece, MsgFlags::empty())?;
        for (kind, body) in messages(&piece[..size]) {
            match kind {
                DONE => return Ok(doomed),
                ERROR => return Err(error(body)),
                _ => doomed.extend(doom(body, addresses)),
            }
        }
    }
}

fn error(body: &[u8]) -> io::Error {
    let number = body.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
    io::Error::from_raw_os_error(-number)
}

/// A connection's name, if one of the addresses takes part in it.
fn doom(body: &[u8], addresses: &HashSet<(u16, IpAddr)>) -> Option<(u8, Vec<u8>)> {
    let (general, rest) = body.split_at_checked(HEADER_BYTES - 16)?;
    let family = *general.first()?;
    let mut zone = 0;
    let mut parties = Vec::new();
    let mut name = Vec::new();
    for (kind, value, whole) in attributes(rest) {
        match kind {
            TUPLE_ORIGINAL => {
                parties.extend(parties_of(value));
                name.extend_from_slice(whole);
            }
            TUPLE_REPLY => parties.extend(parties_of(value)),
            ZONE => {
                zone = u16::from_be_bytes(value.try_into().ok()?);
                name.extend_from_slice(whole);
            }
            _ => {}
        }
    }
    let is_one_of_them = parties.into_iter().any(|address| addresses.contains(&(zone, address)));
    is_one_of_them.then_some((family, name))
}

/// The two addresses of a tuple.
fn parties_of(tuple: &[u8]) -> Vec<IpAddr> {
    let ip = attributes(tuple).filter(|(kind, ..)| *kind == TUPLE_IP);
    let addresses = ip.flat_map(|(_, value, _)| attributes(value).collect::<Vec<_>>());
    let address = |value: &[u8]| match value.len() {
        4 => <[u8; 4]>::try_from(value).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(value).ok().map(IpAddr::from),
        _ => None,
    };
    addresses.filter_map(|(_, value, _)| address(value)).collect()
}

fn message(kind: u16, flags: u16, family: u8, attributes: &[u8]) -> Vec<u8> {
    let size = HEADER_BYTES + attributes.len();
    let mut message = Vec::with_capacity(size);
    message.extend_from_slice(&u32::try_from(size).unwrap_or(u32::MAX).to_ne_bytes());
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(&flags.to_ne_bytes());
    message.extend_from_slice(&[0; 8]); // sequence and sender: one question at a time
    message.extend_from_slice(&[family, 0, 0, 0]);
    message.extend_from_slice(attributes);
    message
}

/// Kinds and bodies (behind the `nlmsghdr`) of the messages in a piece; ends where one is cut off.
fn messages(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let size = u32::from_ne_bytes(rest.get(..4)?.try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes(rest.get(4..6)?.try_into().ok()?);
        let body = rest.get(16..size)?;
        rest = rest.get(aligned(size)..).unwrap_or_default();
        Some((kind, body))
    })
}

/// Kind, value and all bytes of each attribute; ends where one is cut off.
fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8], &[u8])> {
    std::iter::from_fn(move || {
        let size = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?) & TYPE;
        let value = rest.get(4..size)?;
        let whole = rest.get(..aligned(size)).unwrap_or(rest);
        rest = rest.get(aligned(size)..).unwrap_or_default();
        Some((kind, value, whole))
    })
}

/// Messages and attributes begin at multiples of four.
fn aligned(size: usize) -> usize {
    size.next_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&u16::try_from(4 + value.len()).unwrap().to_ne_bytes());
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(value);
        bytes.resize(aligned(bytes.len()), 0);
        bytes
    }

    fn tuple(kind: u16, from: [u8; 4], to: [u8; 4]) -> Vec<u8> {
        let ips = [attribute(1, &from), attribute(2, &to)].concat();
        attribute(0x8000 | kind, &attribute(0x8000 | TUPLE_IP, &ips))
    }

    #[test]
    fn a_connection_is_known_by_any_of_its_addresses_in_its_zone() {
        let body = [
            vec![2, 0, 0, 0],
            tuple(TUPLE_ORIGINAL, [10, 0, 0, 5], [172, 24, 4, 9]),
            tuple(TUPLE_REPLY, [10, 0, 0, 6], [10, 0, 0, 5]),
            attribute(ZONE, &7u16.to_be_bytes()),
        ]
        .concat();
        let doomed = |zone: u16, address: [u8; 4]| doom(&body, &[(zone, IpAddr::from(address))].into());
        for address in [[10, 0, 0, 5], [172, 24, 4, 9], [10, 0, 0, 6]] {
            let (family, name) = doomed(7, address).unwrap();
            assert_eq!(family, 2);
            let kinds: Vec<u16> = attributes(&name).map(|(kind, ..)| kind).collect();
            assert_eq!(kinds, [TUPLE_ORIGINAL, ZONE], "what the kernel needs to find it");
        }
        assert!(doomed(7, [10, 0, 0, 7]).is_none());
        assert!(doomed(0, [10, 0, 0, 5]).is_none(), "another network's");
    }

    #[test]
    fn pieces_that_are_cut_off_end_the_reading() {
        let whole = message(GET, REQUEST, 2, &tuple(TUPLE_ORIGINAL, [1; 4], [2; 4]));
        for end in 0..whole.len() {
            assert_eq!(messages(&whole[..end]).count(), 0, "{end}");
        }
        assert_eq!(messages(&whole).count(), 1);
        assert!(doom(&[], &[(0, IpAddr::from([1; 4]))].into()).is_none());
    }
}
