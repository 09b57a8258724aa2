//! Router advertisements and DHCPv6 at an inner link of a router: guests find out about it, make up or are told their
//! addresses, and learn their name servers.
//!
//! What is said is read from the store each time. A subnet is spoken of when it has an `ipv6_ra_mode` and the router has an
//! address in it.

use std::{
    io,
    net::{Ipv6Addr, SocketAddrV6},
    sync::Arc,
    time::Duration,
};

use madang_control::TaskGroup;
use madang_host::{Error, Result, link::Links, netns::Netns};
use madang_store::Resource;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{net::UdpSocket, time::Instant};
use tracing::warn;

use super::{
    Context,
    advice::{self, Advice, Guest},
};
use crate::{Network, Port, Subnet};

/// Time between advertisements nobody asked for, in seconds. Source: Neutron's `min_rtr_adv_interval`, `max_…`.
const PAUSE: std::ops::Range<u64> = 30..100;
/// Everybody on a link, all routers of it, and all servers of DHCP. Source: RFC 4291, RFC 8415.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
const ALL_SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
/// Receivers drop what came through a router. Source: RFC 4861, 6.1.
const HOPS: u32 = 255;
/// Source: RFC 8415.
const SERVER_PORT: u16 = 547;
/// The largest packet that is looked at.
const MAX_BYTES: usize = 1500;
/// A socket that fails rests so long.
const REST: Duration = Duration::from_millis(100);

/// Speaks at a link, which is that of the router's port with an id, until the group stops.
pub(super) async fn start(
    context: &Arc<Context>,
    link: &str,
    port: &str,
    netns: &Netns,
    group: &TaskGroup,
) -> Result<()> {
    let found = Links::open(netns).await?.get(link).await?;
    let Some(mac) = found.mac else { return Ok(()) };
    let (name, index) = (link.to_owned(), found.index);
    let opened = netns.run(move || open(&name, index)).await?;
    let (router, server) = opened.map_err(Error::io(format!("advertise a router at {link}")))?;
    let speaker = Arc::new(Speaker {
        context: Arc::clone(context),
        port: port.to_owned(),
        mac,
        index,
        router,
        server,
    });
    let other = Arc::clone(&speaker);
    group.spawn_until_stopped("router-advertisements", async move { speaker.advertise().await });
    group.spawn_until_stopped("dhcpv6", async move { other.serve().await });
    Ok(())
}

fn open(link: &str, index: u32) -> io::Result<(UdpSocket, UdpSocket)> {
    let common = |socket: &Socket| {
        socket.set_nonblocking(true)?;
        socket.bind_device(Some(link.as_bytes()))
    };
    let router = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
    common(&router)?;
    router.set_multicast_hops_v6(HOPS)?;
    router.set_unicast_hops_v6(HOPS)?;
    router.set_multicast_loop_v6(false)?;
    router.join_multicast_v6(&ALL_ROUTERS, index)?;
    let server = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))?;
    common(&server)?;
    server.set_only_v6(true)?;
    server.bind(&SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, SERVER_PORT, 0, 0).into())?;
    server.join_multicast_v6(&ALL_SERVERS, index)?;
    // A raw socket sends and receives as one of datagrams does.
    Ok((UdpSocket::from_std(router.into())?, UdpSocket::from_std(server.into())?))
}

struct Speaker {
    context: Arc<Context>,
    port: String,
    mac: [u8; 6],
    index: u32,
    router: UdpSocket,
    server: UdpSocket,
}

impl Speaker {
    async fn advertise(&self) {
        let mut buffer = [0; MAX_BYTES];
        let mut due = Instant::now();
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(due) => {
                    self.say(ALL_NODES).await;
                    due = Instant::now() + Duration::from_secs(rand::random_range(PAUSE));
                }
                received = self.router.recv_from(&mut buffer) => match received {
                    Ok((size, from)) if advice::is_solicitation(&buffer[..size]) => {
                        let asker = match from.ip() {
                            std::net::IpAddr::V6(asker) if !asker.is_unspecified() => asker,
                            _ => ALL_NODES,
                        };
                        self.say(asker).await;
                    }
                    Ok(_) => {}
                    Err(error) => {
                        warn!(port = self.port, %error, "could not receive a router solicitation");
                        tokio::time::sleep(REST).await;
                    }
                },
            }
        }
    }

    async fn say(&self, to: Ipv6Addr) {
        let Some((network, subnets)) = self.subnets() else {
            return;
        };
        let packet = Advice {
            mac: self.mac,
            mtu: u32::from(network.spec.mtu),
            subnets: subnets.iter().map(|subnet| &subnet.spec).collect(),
        };
        let Some(packet) = packet.advertisement() else { return };
        if let Err(error) = self.router.send_to(&packet, self.at(to, 0)).await {
            warn!(port = self.port, %to, %error, "could not advertise a router");
        }
    }

    fn at(&self, address: Ipv6Addr, port: u16) -> SocketAddrV6 {
        SocketAddrV6::new(address, port, 0, self.index)
    }

    /// The network, and its subnets of version 6 that are spoken of.
    fn subnets(&self) -> Option<(Arc<Resource<Network>>, Vec<Arc<Resource<Subnet>>>)> {
        let store = &self.context.store;
        let port = store.cache::<Port>().by_name(&self.port)?;
        let network = store.cache::<Network>().by_name(&port.spec.network_id)?;
        let of_port = port.spec.fixed_ips.iter();
        let subnets = of_port.filter_map(|ip| store.cache::<Subnet>().by_name(&ip.subnet_id));
        let subnets: Vec<_> = subnets.filter(|subnet| advice::is_spoken_of(&subnet.spec)).collect();
        (!subnets.is_empty()).then_some((network, subnets))
    }

    async fn serve(&self) {
        let mut buffer = [0; MAX_BYTES];
        loop {
            let (size, from) = match self.server.recv_from(&mut buffer).await {
                Ok((size, std::net::SocketAddr::V6(from))) => (size, from),
                Ok(_) => continue,
                Err(error) => {
                    warn!(port = self.port, %error, "could not receive a DHCPv6 message");
                    tokio::time::sleep(REST).await;
                    continue;
                }
            };
            let Some(answer) = self.answer(&buffer[..size], *from.ip()) else {
                continue;
            };
            if let Err(error) = self.server.send_to(&answer, from).await {
                warn!(port = self.port, %from, %error, "could not answer a DHCPv6 message");
            }
        }
    }

    fn answer(&self, packet: &[u8], from: Ipv6Addr) -> Option<Vec<u8>> {
        // Ports send from no other link-local address than the one that is made of their MAC address.
        let mac = advice::mac_of(from)?;
        let (network, subnets) = self.subnets()?;
        let guest = self.context.port_of(&network.metadata.name, mac)?;
        let subnets: Vec<_> = subnets.iter().map(|subnet| (subnet.name(), &subnet.spec)).collect();
        Guest::of(&guest.spec.fixed_ips, &subnets).answer(packet, self.mac)
    }
}
