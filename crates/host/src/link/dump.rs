//! What the kernel says of a link.

use rtnetlink::packet_route::link::{InfoBridgePort, InfoPortData, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};

/// A link as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number for it, unique in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// `bridge`, `veth`, `tun` …; none for hardware and `lo`.
    pub kind: Option<String>,
    /// Its address; none for links without one.
    pub mac: Option<[u8; 6]>,
    /// Largest packet in bytes.
    pub mtu: u32,
    /// Whether it is set up (not whether something is at the other end).
    pub up: bool,
    /// The number of the bridge it is a port of.
    pub master: Option<u32>,
    /// Its free text.
    pub alias: Option<String>,
    /// For bridge ports: whether it is isolated.
    pub isolated: bool,
    /// For bridge ports: whether the bridge learns from it.
    pub learning: bool,
    /// For bridge ports: whether a packet may leave by the port it came in.
    pub hairpin: bool,
}

impl Link {
    /// None for messages without a name.
    pub(super) fn read(message: &LinkMessage) -> Option<Self> {
        let mut link = Self {
            index: message.header.index,
            up: message.header.flags.contains(LinkFlags::Up),
            ..Self::default()
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Address(address) => link.mac = address.as_slice().try_into().ok(),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::Controller(index) => link.master = Some(*index),
                LinkAttribute::IfAlias(alias) => link.alias = Some(alias.clone()),
                LinkAttribute::LinkInfo(infos) => infos.iter().for_each(|info| link.read_info(info)),
                _ => {}
            }
        }
        (!link.name.is_empty()).then_some(link)
    }

    fn read_info(&mut self, info: &LinkInfo) {
        match info {
            LinkInfo::Kind(kind) => self.kind = Some(kind.to_string()),
            LinkInfo::PortData(InfoPortData::BridgePort(settings)) => {
                for setting in settings {
                    match setting {
                        InfoBridgePort::Isolated(is) => self.isolated = *is,
                        InfoBridgePort::Learning(is) => self.learning = *is,
                        InfoBridgePort::HairpinMode(is) => self.hairpin = *is,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
}
