//! Addresses, routes, neighbours and bridge forwarding entries of a namespace's links.

use std::net::IpAddr;

use futures_util::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::{
    RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        address::{AddressAttribute, AddressMessage},
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
        route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteScope, RouteType},
    },
};

use super::{Links, acknowledged, answered};
use crate::{Error, Result};

/// A route of the main table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where to; `0.0.0.0/0` and `::/0` are the default routes.
    pub destination: IpNet,
    /// By which neighbour; none when the destination is on the link itself.
    pub gateway: Option<IpAddr>,
    /// By which link; none lets the kernel find it from the gateway.
    pub link: Option<String>,
}

/// A neighbour that is known for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Its network address.
    pub address: IpAddr,
    /// Its link address.
    pub mac: [u8; 6],
}

impl Links {
    /// Gives a link exactly these addresses: adds what is missing, removes what is not listed. Link-local addresses of
    /// IPv6 are the kernel's and stay.
    pub async fn set_addresses(&self, link: &str, wanted: &[IpNet]) -> Result<()> {
        let index = self.index(link).await?;
        let there = self.address_messages(index).await?;
        for message in there {
            match read_address(&message) {
                Some(address) if wanted.contains(&address) || is_link_local(&address) => {}
                Some(address) => {
                    let removed = self.handle.address().del(message).execute();
                    match acknowledged(format!("remove {address} from link {link}"), removed).await {
                        // EADDRNOTAVAIL: went away with the address it was secondary to.
                        Err(Error::Io { source, .. }) if source.raw_os_error() == Some(libc::EADDRNOTAVAIL) => {}
                        other => other?,
                    }
                }
                None => {}
            }
        }
        for address in wanted {
            self.add_address(index, link, address).await?;
        }
        Ok(())
    }

    /// Adds an address to a link. Succeeds when it has it.
    pub async fn ensure_address(&self, link: &str, address: IpNet) -> Result<()> {
        let index = self.index(link).await?;
        self.add_address(index, link, &address).await
    }

    async fn add_address(&self, index: u32, link: &str, address: &IpNet) -> Result<()> {
        let mut request = self.handle.address().add(index, address.addr(), address.prefix_len());
        if address.addr().is_ipv6() {
            // Duplicate detection would keep the address unusable for a second; we allocate them ourselves.
            let flags = rtnetlink::packet_route::address::AddressFlags::Nodad;
            request.message_mut().attributes.push(AddressAttribute::Flags(flags));
        }
        match acknowledged(format!("add {address} to link {link}"), request.execute()).await {
            Err(error) if error.is_already_there() => Ok(()),
            other => other,
        }
    }

    /// Removes an address from a link. Succeeds when it does not have it.
    pub async fn remove_address(&self, link: &str, address: IpNet) -> Result<()> {
        let index = self.index(link).await?;
        let there = self.address_messages(index).await?;
        let Some(message) = there.into_iter().find(|message| read_address(message) == Some(address)) else {
            return Ok(());
        };
        let removed = self.handle.address().del(message).execute();
        acknowledged(format!("remove {address} from link {link}"), removed).await
    }

    /// The addresses of a link with their prefix lengths.
    pub async fn addresses(&self, link: &str) -> Result<Vec<IpNet>> {
        let index = self.index(link).await?;
        Ok(self
            .address_messages(index)
            .await?
            .iter()
            .filter_map(read_address)
            .collect())
    }

    async fn address_messages(&self, index: u32) -> Result<Vec<AddressMessage>> {
        let request = self.handle.address().get().set_link_index_filter(index).execute();
        let found: Vec<AddressMessage> = answered("list addresses".into(), request.try_collect()).await?;
        // The kernel filters only for sockets that ask it to be strict.
        Ok(found
            .into_iter()
            .filter(|message| message.header.index == index)
            .collect())
    }

    /// Adds a route to the main table, or replaces the one to the same destination.
    pub async fn ensure_route(&self, route: &Route) -> Result<()> {
        let message = self.route_message(route).await?;
        let added = self.handle.route().add(message).replace().execute();
        acknowledged(format!("add the route to {}", route.destination), added).await
    }

    /// Removes a route. Succeeds when there is none.
    pub async fn remove_route(&self, route: &Route) -> Result<()> {
        let message = self.route_message(route).await?;
        let removed = self.handle.route().del(message).execute();
        match acknowledged(format!("remove the route to {}", route.destination), removed).await {
            Err(error) if error.is_not_found() => Ok(()),
            other => other,
        }
    }

    async fn route_message(&self, route: &Route) -> Result<RouteMessage> {
        let refused = || Error::Invalid(format!("the route to {} mixes address families", route.destination));
        let destination = route.destination.trunc();
        let mut message = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(destination.addr(), destination.prefix_len())
            .map_err(|_| refused())?;
        if let Some(gateway) = route.gateway {
            message = message.gateway(gateway).map_err(|_| refused())?;
        } else {
            message = message.scope(RouteScope::Link);
        }
        if let Some(link) = &route.link {
            message = message.output_interface(self.index(link).await?);
        }
        Ok(message.build())
    }

    /// Unicast routes of the main table of both families.
    pub async fn routes(&self) -> Result<Vec<Route>> {
        let links = self.list().await?;
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut filter = RouteMessage::default();
            filter.header.address_family = family;
            let request = self.handle.route().get(filter).execute();
            let found: Vec<RouteMessage> = answered("list routes".into(), request.try_collect()).await?;
            let unicast = found.iter().filter(|message| {
                message.header.table == RouteHeader::RT_TABLE_MAIN && message.header.kind == RouteType::Unicast
            });
            for message in unicast {
                let mut route = Route {
                    destination: default_route(family),
                    gateway: None,
                    link: None,
                };
                for attribute in &message.attributes {
                    match attribute {
                        RouteAttribute::Destination(address) => {
                            let destination = ip(address)
                                .and_then(|address| IpNet::new(address, message.header.destination_prefix_length).ok());
                            route.destination = destination.unwrap_or(route.destination);
                        }
                        RouteAttribute::Gateway(address) => route.gateway = ip(address),
                        RouteAttribute::Oif(index) => {
                            let link = links.iter().find(|link| link.index == *index);
                            route.link = link.map(|link| link.name.clone());
                        }
                        _ => {}
                    }
                }
                routes.push(route);
            }
        }
        Ok(routes)
    }

    /// Makes a neighbour known for good, so that it is never asked for.
    pub async fn ensure_neighbour(&self, link: &str, neighbour: Neighbour) -> Result<()> {
        let index = self.index(link).await?;
        let request = self.handle.neighbours().add(index, neighbour.address);
        let added = request.link_layer_address(&neighbour.mac).replace().execute();
        acknowledged(format!("add neighbour {} to link {link}", neighbour.address), added).await
    }

    /// Forgets a neighbour. Succeeds when it is not known.
    pub async fn remove_neighbour(&self, link: &str, address: IpAddr) -> Result<()> {
        let mut message = NeighbourMessage::default();
        message.header.family = if address.is_ipv4() {
            AddressFamily::Inet
        } else {
            AddressFamily::Inet6
        };
        message.header.ifindex = self.index(link).await?;
        message.attributes.push(NeighbourAttribute::Destination(match address {
            IpAddr::V4(address) => NeighbourAddress::Inet(address),
            IpAddr::V6(address) => NeighbourAddress::Inet6(address),
        }));
        let removed = self.handle.neighbours().del(message).execute();
        match acknowledged(format!("remove neighbour {address} from link {link}"), removed).await {
            Err(error) if error.is_not_found() => Ok(()),
            other => other,
        }
    }

    /// Neighbours known for good on a link.
    pub async fn neighbours(&self, link: &str) -> Result<Vec<Neighbour>> {
        let index = self.index(link).await?;
        let request = self.handle.neighbours().get().execute();
        let found: Vec<NeighbourMessage> = answered("list neighbours".into(), request.try_collect()).await?;
        let of_link = found
            .iter()
            .filter(|message| message.header.ifindex == index && message.header.state == NeighbourState::Permanent);
        Ok(of_link.filter_map(read_neighbour).collect())
    }

    /// Tells a bridge behind which of its ports an address is, for good: no flooding to find it.
    pub async fn ensure_forwarding(&self, port: &str, mac: [u8; 6]) -> Result<()> {
        let index = self.index(port).await?;
        let request = self.handle.neighbours().add_bridge(index, &mac);
        // Noarp is "static": it never ages, unlike Permanent it does not make the address the bridge's own.
        let request = request.flags(NeighbourFlags::Controller).state(NeighbourState::Noarp);
        acknowledged(
            format!("add a forwarding entry to port {port}"),
            request.replace().execute(),
        )
        .await
    }
}

fn default_route(family: AddressFamily) -> IpNet {
    match family {
        AddressFamily::Inet6 => IpNet::V6(ipnet::Ipv6Net::default()),
        _ => IpNet::V4(ipnet::Ipv4Net::default()),
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

/// The link's own address: "local" where there is one (the other is the far end then).
fn read_address(message: &AddressMessage) -> Option<IpNet> {
    let own = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let any = || {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    };
    IpNet::new(own.or_else(any)?, message.header.prefix_len).ok()
}

fn is_link_local(address: &IpNet) -> bool {
    matches!(address.addr(), IpAddr::V6(address) if address.is_unicast_link_local())
}

fn read_neighbour(message: &NeighbourMessage) -> Option<Neighbour> {
    let mut address = None;
    let mut mac = None;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(found)) => address = Some(IpAddr::V4(*found)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(found)) => address = Some(IpAddr::V6(*found)),
            NeighbourAttribute::LinkLayerAddress(found) => mac = found.as_slice().try_into().ok(),
            _ => {}
        }
    }
    Some(Neighbour {
        address: address?,
        mac: mac?,
    })
}
