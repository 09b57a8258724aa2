//! Moves a container's network devices in, configures them, and moves them back out.
//!
//! Blocking netlink, a request and its answer at a time: the shim has no runtime, and a dozen requests need none. The
//! thread enters other network namespaces meanwhile, so who has several threads uses one for this alone.

use std::{
    fs::File,
    io,
    net::IpAddr,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use ipnet::IpNet;
use nix::{
    fcntl::{OFlag, open, openat},
    net::if_::if_nametoindex,
    sched::{CloneFlags, setns},
    sys::stat::Mode,
};
use rtnetlink::{
    LinkUnspec, RouteMessageBuilder,
    packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        address::{AddressAttribute, AddressHeaderFlags, AddressMessage},
    },
    sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE},
};

use super::Failure;
use crate::record::{Spec, SpecNic};

/// Makes a new network namespace usable for its own processes.
pub(super) fn ready(container: &OwnedFd) -> Result<(), Failure> {
    inside(container, |link| link.up("lo", None))?
}

/// The host's files, as whoever opened this sees them. Namespaces of networks have names there, and those that come later
/// are found too, although the shim leaves the host's mounts early.
pub(crate) struct Outside {
    root: OwnedFd,
}

impl Outside {
    pub fn open() -> Result<Self, Failure> {
        let root = open(
            "/",
            OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
            Mode::empty(),
        );
        let root = root.map_err(Failure::errno("open the host's root directory"))?;
        Ok(Self { root })
    }

    /// The namespace that a device waits in.
    fn namespace_of(&self, nic: &SpecNic) -> Result<OwnedFd, Failure> {
        let path = nic.netns.strip_prefix("/").unwrap_or(&nic.netns);
        let opened = openat(&self.root, path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty());
        opened.map_err(Failure::errno(&format!(
            "open the network namespace {} of device {}",
            nic.netns.display(),
            nic.peer
        )))
    }
}

/// Moves all devices in and configures them.
pub(super) fn move_in(outside: &Outside, spec: &Spec, container: &OwnedFd) -> Result<(), Failure> {
    spec.nics.iter().try_for_each(|nic| put(outside, container, nic))
}

/// Moves the devices that are there back to where they came from, under their old names. What cannot be returned is made
/// anew by the network's agent.
pub(super) fn give_back(outside: &Outside, nics: &[SpecNic], container: &OwnedFd) {
    for nic in nics.iter().rev() {
        if let Err(failure) = take(outside, container, nic) {
            eprintln!("{}", failure.reason);
        }
    }
}

/// Moves a device into the network namespace of a container that runs, and configures it. One that is in it already is
/// only configured.
pub(crate) fn plug(pid: u32, nic: &SpecNic) -> Result<(), Failure> {
    put(&Outside::open()?, &of_process(pid)?, nic)
}

/// Moves a device out of the network namespace of a container that runs. One that is gone is no error.
pub(crate) fn unplug(pid: u32, nic: &SpecNic) -> Result<(), Failure> {
    take(&Outside::open()?, &of_process(pid)?, nic)
}

/// The network namespace of a process.
pub(super) fn of_process(pid: u32) -> Result<OwnedFd, Failure> {
    let file = File::open(format!("/proc/{pid}/ns/net"));
    file.map(OwnedFd::from)
        .map_err(Failure::host("open the container's network namespace"))
}

fn put(outside: &Outside, container: &OwnedFd, nic: &SpecNic) -> Result<(), Failure> {
    if !inside(container, |_| is_there(&nic.name))? {
        let home = outside.namespace_of(nic)?;
        inside(&home, |link| {
            link.hand_over(&nic.peer, container, &nic.name, Some(nic.mac))
        })??;
    }
    inside(container, |link| link.configure(nic))?
}

fn take(outside: &Outside, container: &OwnedFd, nic: &SpecNic) -> Result<(), Failure> {
    if !inside(container, |_| is_there(&nic.name))? {
        return Ok(());
    }
    let home = outside.namespace_of(nic)?;
    inside(container, |link| link.hand_over(&nic.name, &home, &nic.peer, None))?
}

fn is_there(name: &str) -> bool {
    if_nametoindex(name).is_ok()
}

/// Runs `work` with a netlink socket of another network namespace, in which names of devices are looked up too.
fn inside<T>(namespace: &OwnedFd, work: impl FnOnce(&mut Link) -> T) -> Result<T, Failure> {
    let own = File::open("/proc/self/ns/net").map_err(Failure::host("open the own network namespace"))?;
    setns(namespace, CloneFlags::CLONE_NEWNET).map_err(Failure::errno("enter a network namespace"))?;
    let result = Link::open()
        .map(|mut link| work(&mut link))
        .map_err(Failure::host("open a netlink socket"));
    setns(own.as_fd(), CloneFlags::CLONE_NEWNET).map_err(Failure::errno("leave a network namespace"))?;
    result
}

struct Link {
    socket: Socket,
    sequence: u32,
}

impl Link {
    fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Moves the device `from` into another namespace under another name.
    fn hand_over(&mut self, from: &str, to: &OwnedFd, name: &str, mac: Option<[u8; 6]>) -> Result<(), Failure> {
        let index = index(from)?;
        let mut message = LinkUnspec::new_with_index(index).name(name).setns_by_fd(to.as_raw_fd());
        if let Some(mac) = mac {
            message = message.address(mac.to_vec());
        }
        self.request(RouteNetlinkMessage::SetLink(message.build()), 0)
            .map_err(Failure::host(&format!("move network device {from}")))
    }

    fn configure(&mut self, nic: &SpecNic) -> Result<(), Failure> {
        let name = nic.name.as_str();
        let index = index(name)?;
        for address in &nic.addresses {
            self.add_address(index, *address)?;
        }
        self.up(name, Some(nic.mtu))?;
        for (destination, via) in &nic.routes {
            self.add_route(index, *destination, *via)?;
        }
        if let Some(gateway) = nic.gateway {
            let all: IpNet = if gateway.is_ipv4() { "0.0.0.0/0" } else { "::/0" }
                .parse()
                .expect("a literal network");
            self.add_route(index, all, gateway)?;
        }
        Ok(())
    }

    fn up(&mut self, name: &str, mtu: Option<u16>) -> Result<(), Failure> {
        let mut message = LinkUnspec::new_with_index(index(name)?).up();
        if let Some(mtu) = mtu {
            message = message.mtu(u32::from(mtu));
        }
        self.request(RouteNetlinkMessage::SetLink(message.build()), 0)
            .map_err(Failure::host(&format!("bring up network device {name}")))
    }

    fn add_address(&mut self, index: u32, address: IpNet) -> Result<(), Failure> {
        let mut message = AddressMessage::default();
        message.header.prefix_len = address.prefix_len();
        message.header.index = index;
        message.header.family = if address.addr().is_ipv4() {
            AddressFamily::Inet
        } else {
            AddressFamily::Inet6
        };
        // The address was allocated to this port alone: asking the neighbours would only delay its use.
        message.header.flags = AddressHeaderFlags::Nodad;
        message.attributes.push(AddressAttribute::Address(address.addr()));
        if let IpNet::V4(v4) = address {
            message.attributes.push(AddressAttribute::Local(address.addr()));
            message.attributes.push(AddressAttribute::Broadcast(v4.broadcast()));
        }
        self.ensure(RouteNetlinkMessage::NewAddress(message))
            .map_err(Failure::host(&format!("give the container the address {address}")))
    }

    fn add_route(&mut self, index: u32, destination: IpNet, via: IpAddr) -> Result<(), Failure> {
        let message = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(destination.addr(), destination.prefix_len())
            .and_then(|route| route.gateway(via))
            .map_err(|error| Failure {
                reason: format!("the route to {destination} via {via} is impossible: {error}"),
                broken: true,
            })?;
        // The gateway may be outside the subnet, as the host's own next hops sometimes are.
        let message = message.output_interface(index).onlink().build();
        self.ensure(RouteNetlinkMessage::NewRoute(message))
            .map_err(Failure::host(&format!(
                "give the container the route to {destination} via {via}"
            )))
    }

    /// Adds what may be there already.
    fn ensure(&mut self, message: RouteNetlinkMessage) -> io::Result<()> {
        match self.request(message, NLM_F_CREATE | NLM_F_EXCL) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            done => done,
        }
    }

    /// Sends a request and waits for its acknowledgement.
    fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        loop {
            let (answer, _) = self.socket.recv_from_full()?;
            let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer).map_err(io::Error::other)?;
            if answer.header.sequence_number != self.sequence {
                continue;
            }
            return match answer.payload {
                NetlinkPayload::Error(error) if error.code.is_some() => Err(error.to_io()),
                _ => Ok(()),
            };
        }
    }
}

fn index(name: &str) -> Result<u32, Failure> {
    if_nametoindex(name).map_err(Failure::errno(&format!("find network device {name}")))
}
