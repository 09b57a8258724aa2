//! The DHCP server of one network: a socket in its service namespace, answers from the store's caches.
//!
//! It keeps nothing: which address is whose is decided when a port is made. Only ports of this network and host are
//! answered; to everybody else there is no server.

use std::{
    io::{self, IoSlice},
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::AsRawFd,
    sync::Arc,
};

use dhcproto::v4::MessageType;
use madang_control::TaskGroup;
use madang_host::{
    Error, Result,
    link::{Links, Neighbour},
    netns::Netns,
};
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrIn, sendmsg};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tracing::{debug, warn};

use super::{
    Context,
    answer::{Request, To},
    lease::Lease,
};
use crate::{Network, Port, Subnet, agent::names::SERVICE_LINK, port::owner};

/// Source: RFC 2131.
const SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;
/// The largest packet; longer ones are cut and then refused as damaged.
const MAX_BYTES: usize = 1500;

/// Opens the socket and answers until the group stops.
pub(super) async fn start(context: &Arc<Context>, network: &str, netns: &Netns, group: &TaskGroup) -> Result<()> {
    let socket = netns
        .run(open)
        .await?
        .map_err(Error::io(format!("listen for DHCP on network {network}")))?;
    let links = Links::open(netns).await?;
    let server = Server {
        context: Arc::clone(context),
        network: network.to_owned(),
        socket,
        links,
    };
    group.spawn_until_stopped("dhcp", async move { server.run().await });
    Ok(())
}

fn open() -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_broadcast(true)?;
    socket.set_nonblocking(true)?;
    socket.bind_device(Some(SERVICE_LINK.as_bytes()))?;
    socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, SERVER_PORT).into())?;
    UdpSocket::from_std(socket.into())
}

struct Server {
    context: Arc<Context>,
    network: String,
    socket: UdpSocket,
    links: Links,
}

impl Server {
    async fn run(&self) {
        let mut buffer = [0; MAX_BYTES];
        loop {
            match self.socket.recv_from(&mut buffer).await {
                Ok((size, _)) => self.handle(&buffer[..size]).await,
                Err(error) => {
                    warn!(network = self.network, %error, "could not receive a DHCP message");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn handle(&self, packet: &[u8]) {
        let Some(request) = Request::parse(packet) else { return };
        let Some(lease) = self.lease(request.mac) else {
            debug!(network = self.network, mac = ?request.mac, "no lease for who asks");
            return;
        };
        if request.kind() == MessageType::Decline {
            warn!(network = self.network, address = %lease.address, "a guest found its address in use");
        }
        let Some((answer, to)) = request.answer(&lease) else {
            return;
        };
        if let Err(error) = self.send(&answer, to, lease.server).await {
            warn!(network = self.network, address = %lease.address, %error, "could not answer a DHCP request");
        }
    }

    fn lease(&self, mac: [u8; 6]) -> Option<Lease> {
        let store = &self.context.store;
        let port = self.context.port_of(&self.network, mac)?;
        let network = store.cache::<Network>().by_name(&self.network)?;
        let subnets = store.cache::<Subnet>().by("network", &self.network);
        let device = format!("dhcp-{}", self.network);
        let servers = store.cache::<Port>().by("device", &device);
        let server = servers.iter().find(|port| port.spec.device_owner == owner::DHCP)?;
        Lease::of(&port, &network, &subnets, server)
    }

    /// A client without an address cannot be asked for where it is: the kernel is told for just this message.
    async fn send(&self, answer: &[u8], to: To, server: Ipv4Addr) -> Result<()> {
        match to {
            To::All => self.send_to(answer, Ipv4Addr::BROADCAST, server),
            To::Client(address) => self.send_to(answer, address, server),
            To::Hardware(address, mac) => {
                self.links
                    .ensure_neighbour(
                        SERVICE_LINK,
                        Neighbour {
                            address: address.into(),
                            mac,
                        },
                    )
                    .await?;
                let sent = self.send_to(answer, address, server);
                self.links.remove_neighbour(SERVICE_LINK, address.into()).await?;
                sent
            }
        }
    }

    /// Sends from the address that the client knows us by; a full buffer drops the answer, and the client asks again.
    fn send_to(&self, answer: &[u8], to: Ipv4Addr, server: Ipv4Addr) -> Result<()> {
        let in_addr = |address: Ipv4Addr| libc::in_addr {
            s_addr: u32::from(address).to_be(),
        };
        let source = libc::in_pktinfo {
            ipi_ifindex: 0,
            ipi_spec_dst: in_addr(server),
            ipi_addr: in_addr(Ipv4Addr::UNSPECIFIED),
        };
        let to = SockaddrIn::from(SocketAddrV4::new(to, CLIENT_PORT));
        let parts = [IoSlice::new(answer)];
        let control = [ControlMessage::Ipv4PacketInfo(&source)];
        sendmsg(
            self.socket.as_raw_fd(),
            &parts,
            &control,
            MsgFlags::MSG_DONTWAIT,
            Some(&to),
        )
        .map(|_| ())
        .map_err(Error::io("send a DHCP message"))
    }
}
