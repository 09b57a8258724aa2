//! Links of one network namespace: bridges, veth pairs, their settings, addresses, routes, neighbours.
//!
//! [`Links`] is a netlink socket that was opened inside the namespace and stays there. Calls named `ensure_…` make things
//! so whatever they were before; all may be repeated, and many may be under way at once on one handle.

mod address;
mod dump;
mod ebpf;
mod vlan;
mod watch;

use std::{future::Future, os::fd::AsRawFd};

pub use address::{Neighbour, Route};
pub use dump::Link;
use futures_util::TryStreamExt;
use rtnetlink::{
    Handle, LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec,
    packet_route::link::{
        BridgeStpState, InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkMessage,
    },
};
use tokio::task::JoinSet;
pub use watch::Removals;

use crate::{Error, Result, netns::Netns};

/// How a bridge is set up: without spanning tree and without delay, a port forwards as soon as it is up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bridge {
    /// Largest packet in bytes; none keeps the kernel's choice.
    pub mtu: Option<u32>,
    /// Its own address; without one it takes that of one of its ports, and changes it with them.
    pub mac: Option<[u8; 6]>,
}

/// One end of a veth pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VethEnd {
    /// Its name.
    pub name: String,
    /// The namespace it is made in.
    pub netns: Netns,
    /// Its address; none lets the kernel choose.
    pub mac: Option<[u8; 6]>,
    /// Largest packet in bytes; none keeps the kernel's choice.
    pub mtu: Option<u32>,
}

/// Settings to change on a link; none keeps what it has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Whether it is up.
    pub up: Option<bool>,
    /// Its address.
    pub mac: Option<[u8; 6]>,
    /// Largest packet in bytes.
    pub mtu: Option<u32>,
    /// The bridge it is a port of; an inner none takes it out of any.
    pub master: Option<Option<String>>,
    /// Its free text of up to 255 bytes, for people who look.
    pub alias: Option<String>,
}

/// Settings of a bridge port to change; none keeps what it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortChange {
    /// Isolated ports reach only those that are not.
    pub isolated: Option<bool>,
    /// Whether the bridge learns addresses from what it sends.
    pub learning: Option<bool>,
    /// Whether a packet may leave by the port it came in.
    pub hairpin: Option<bool>,
    /// Whether packets to unknown addresses are sent to it.
    pub unicast_flood: Option<bool>,
}

/// The links of one namespace.
#[derive(Debug)]
pub struct Links {
    handle: Handle,
    netns: Netns,
    /// Moves messages between the handle and the socket; ends with this.
    _connection: JoinSet<()>,
}

impl Links {
    /// Opens a socket inside the namespace. Later renames or removals of the namespace do not matter to it; it keeps the
    /// namespace alive, so do not hold one longer than the namespace should live.
    pub async fn open(netns: &Netns) -> Result<Self> {
        let opened = netns.run(rtnetlink::new_connection).await?;
        let (connection, handle, _) = opened.map_err(Error::io("open a netlink socket"))?;
        let mut running = JoinSet::new();
        running.spawn(connection);
        Ok(Self {
            handle,
            netns: netns.clone(),
            _connection: running,
        })
    }

    /// The namespace it was opened in.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Makes a bridge and brings it up, or sets up the one that is there.
    pub async fn ensure_bridge(&self, name: &str, bridge: &Bridge) -> Result<()> {
        check_name(name)?;
        let options = [
            InfoBridge::StpState(BridgeStpState::Disabled),
            InfoBridge::ForwardDelay(0),
            InfoBridge::MulticastSnooping(false),
        ];
        let mut message = LinkBridge::new(name).up();
        for option in options {
            message = message.append_info_data(option);
        }
        if let Some(mtu) = bridge.mtu {
            message = message.mtu(mtu);
        }
        if let Some(mac) = bridge.mac {
            message = message.address(mac.to_vec());
        }
        let made = acknowledged(
            format!("make bridge {name}"),
            self.handle.link().add(message.build()).execute(),
        )
        .await;
        match made {
            Err(error) if error.is_already_there() => {
                let found = self.get(name).await?;
                if found.kind.as_deref() != Some("bridge") {
                    return Err(Error::Invalid(format!("link {name} is there and is not a bridge")));
                }
                self.change(
                    name,
                    &Change {
                        up: Some(true),
                        mac: bridge.mac,
                        mtu: bridge.mtu,
                        ..Change::default()
                    },
                )
                .await
            }
            other => other,
        }
    }

    /// Makes a veth pair, each end straight in its own namespace, both down. When the near end is there already it is
    /// left as it is, apart from its address and size; the far end may have been renamed by whoever it was given to.
    ///
    /// `near` must be in the namespace of this handle.
    pub async fn ensure_veth(&self, near: &VethEnd, far: &VethEnd) -> Result<()> {
        check_name(&near.name)?;
        check_name(&far.name)?;
        if near.netns != self.netns {
            return Err(Error::Invalid(format!(
                "link {} is to be made in another namespace",
                near.name
            )));
        }
        let namespace = far.netns.open()?;
        let peer = end(LinkUnspec::new_with_name(&far.name), far)
            .setns_by_fd(namespace.as_raw_fd())
            .build();
        let message = end(LinkUnspec::new_with_name(&near.name), near);
        let mut message = message.build();
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            rtnetlink::packet_route::link::LinkInfo::Kind(InfoKind::Veth),
            rtnetlink::packet_route::link::LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        let action = format!("make the pair {} and {}", near.name, far.name);
        match acknowledged(action, self.handle.link().add(message).execute()).await {
            // EEXIST may be about either end: only the near one makes the pair ours.
            Err(error) if error.is_already_there() => {
                let Ok(found) = self.get(&near.name).await else {
                    return Err(error);
                };
                if found.kind.as_deref() != Some("veth") {
                    return Err(Error::Invalid(format!("link {} is there and is not a veth", near.name)));
                }
                self.change(
                    &near.name,
                    &Change {
                        mac: near.mac,
                        mtu: near.mtu,
                        ..Change::default()
                    },
                )
                .await
            }
            other => other,
        }
    }

    /// Changes settings of a link. Being a port of a bridge is changed in the same request.
    pub async fn change(&self, name: &str, change: &Change) -> Result<()> {
        if *change == Change::default() {
            return Ok(());
        }
        check_name(name)?;
        let mut message = LinkUnspec::new_with_name(name);
        match &change.master {
            Some(Some(master)) => message = message.controller(self.index(master).await?),
            Some(None) => message = message.nocontroller(),
            None => {}
        }
        if let Some(mac) = change.mac {
            message = message.address(mac.to_vec());
        }
        if let Some(mtu) = change.mtu {
            message = message.mtu(mtu);
        }
        if let Some(alias) = &change.alias {
            message = message.alias(alias.clone());
        }
        match change.up {
            Some(true) => message = message.up(),
            Some(false) => message = message.down(),
            None => {}
        }
        acknowledged(
            format!("change link {name}"),
            self.handle.link().change(message.build()).execute(),
        )
        .await
    }

    /// Changes settings of a bridge port.
    pub async fn change_port(&self, name: &str, change: &PortChange) -> Result<()> {
        let options: Vec<InfoBridgePort> = [
            change.isolated.map(InfoBridgePort::Isolated),
            change.learning.map(InfoBridgePort::Learning),
            change.hairpin.map(InfoBridgePort::HairpinMode),
            change.unicast_flood.map(InfoBridgePort::UnicastFlood),
        ]
        .into_iter()
        .flatten()
        .collect();
        if options.is_empty() {
            return Ok(());
        }
        let mut message = LinkBridgePort::new(self.index(name).await?);
        for option in options {
            message = message.append_info_data(option);
        }
        let set = self.handle.link().set_port(message.build()).execute();
        acknowledged(format!("change bridge port {name}"), set).await
    }

    /// Moves a link into another namespace, optionally under a new name. It is down afterwards.
    pub async fn move_to(&self, name: &str, netns: &Netns, new_name: Option<&str>) -> Result<()> {
        check_name(name)?;
        let namespace = netns.open()?;
        let mut message = LinkUnspec::new_with_index(self.index(name).await?).setns_by_fd(namespace.as_raw_fd());
        if let Some(new_name) = new_name {
            check_name(new_name)?;
            message = message.name(new_name);
        }
        let action = format!(
            "move link {name} to namespace {}",
            netns.name().unwrap_or("of this process")
        );
        acknowledged(action, self.handle.link().change(message.build()).execute()).await
    }

    /// Removes a link. Succeeds when it does not exist.
    pub async fn remove(&self, name: &str) -> Result<()> {
        check_name(name)?;
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.into()));
        let removed = self.handle.link().del_with_message(message).execute();
        match acknowledged(format!("remove link {name}"), removed).await {
            Err(error) if error.is_not_found() => Ok(()),
            other => other,
        }
    }

    /// One link by name. Errors with "not found" when it does not exist.
    pub async fn get(&self, name: &str) -> Result<Link> {
        check_name(name)?;
        let request = self.handle.link().get().match_name(name).execute();
        let found = answered(format!("find link {name}"), request.try_collect::<Vec<_>>()).await?;
        found.first().and_then(Link::read).ok_or_else(|| Error::Io {
            action: format!("find link {name}"),
            source: std::io::Error::from_raw_os_error(libc::ENODEV),
        })
    }

    /// The number the kernel knows a link by.
    pub async fn index(&self, name: &str) -> Result<u32> {
        Ok(self.get(name).await?.index)
    }

    /// All links.
    pub async fn list(&self) -> Result<Vec<Link>> {
        let request = self.handle.link().get().execute();
        let found = answered("list links".into(), request.try_collect::<Vec<_>>()).await?;
        Ok(found.iter().filter_map(Link::read).collect())
    }
}

/// Whether this can be a link's name: 1 to 15 letters, digits, `-`, `_` and `.`, as the kernel and our own rules ask.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > 15 || name.starts_with('.') || !name.chars().all(fits) {
        return Err(Error::Invalid(format!(
            "`{name}` cannot name a link: 1 to 15 letters, digits, `-`, `_` and `.`"
        )));
    }
    Ok(())
}

fn end(mut message: LinkMessageBuilder<LinkUnspec>, end: &VethEnd) -> LinkMessageBuilder<LinkUnspec> {
    if let Some(mac) = end.mac {
        message = message.address(mac.to_vec());
    }
    if let Some(mtu) = end.mtu {
        message = message.mtu(mtu);
    }
    message
}

/// Turns netlink's answer into ours.
async fn answered<T>(action: String, request: impl Future<Output = Result<T, rtnetlink::Error>>) -> Result<T> {
    request.await.map_err(|error| {
        let source = match error {
            rtnetlink::Error::NetlinkError(message) => message.to_io(),
            other => std::io::Error::other(other.to_string()),
        };
        Error::Io { action, source }
    })
}

async fn acknowledged(action: String, request: impl Future<Output = Result<(), rtnetlink::Error>>) -> Result<()> {
    answered(action, request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_kernel_would_refuse_are_refused_with_a_reason() {
        for bad in ["", "a-name-of-16-abc", "a/b", "a b", ".."] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
        check_name("t0123456789abcd").unwrap();
    }

    #[tokio::test]
    async fn the_own_namespace_has_lo() {
        let links = Links::open(&Netns::OWN).await.unwrap();
        let lo = links.get("lo").await.unwrap();
        assert!(links.list().await.unwrap().contains(&lo));
        assert!(links.get("no-such-link").await.unwrap_err().is_not_found());
    }
}
