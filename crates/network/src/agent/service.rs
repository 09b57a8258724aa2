//! What answers guests in an edge: DHCP, names and metadata at a network's service point; in a router metadata, for guests
//! that send everything there because they do not take routes from DHCP, and what makes IPv6 work: advertisements and
//! DHCPv6.

mod advert;
pub(super) mod advice;
mod answer;
mod dhcp;
mod lease;
pub(super) mod metadata;
mod names;
mod option;

use std::{net::IpAddr, sync::Arc, time::Duration};

use ipnet::IpNet;
use madang_control::TaskGroup;
use madang_host::{Result, netns::Netns};
use madang_store::{Resource, Store};

use crate::Port;

/// How long the last answers may take when the service stops.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the answers are taken from.
pub(super) struct Context {
    /// Ports, subnets, networks.
    pub store: Store,
    /// Only ports bound to this host are answered: each host has a service point of its own.
    pub host: String,
    /// Ids of the networks whose guests ask here: one at a service point, those of all inner links in a router.
    pub networks: Vec<String>,
    /// Where questions for names are passed on to.
    pub name_servers: Vec<IpAddr>,
    /// The namespace from which those are reached.
    pub outside: Netns,
    /// Who knows the metadata.
    pub metadata: Option<Arc<dyn metadata::MetadataSource>>,
}

/// Where and for whom is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Ids of networks.
    pub networks: Vec<String>,
    /// Where.
    pub addresses: Vec<IpNet>,
    /// Whether DHCP is answered, too.
    pub has_dhcp: bool,
    /// Links of a router at which it tells guests of itself, with its port there.
    pub speaks: Vec<(String, String)>,
}

/// The running tasks.
pub(super) struct Service {
    group: TaskGroup,
    place: Place,
}

impl Service {
    /// Starts answering in the namespace.
    pub async fn start(context: Context, netns: &Netns, place: Place, group: &TaskGroup) -> Result<Self> {
        let context = Arc::new(context);
        let group = group.child(netns.name().unwrap_or_default());
        let started = Self { group, place };
        let running = async {
            if started.place.has_dhcp {
                for network in &context.networks {
                    dhcp::start(&context, network, netns, &started.group).await?;
                }
                names::start(&context, &started.place, netns, &started.group).await?;
            }
            for (link, port) in &started.place.speaks {
                advert::start(&context, link, port, netns, &started.group).await?;
            }
            metadata::start(&context, netns, &started.group).await
        };
        match running.await {
            Ok(()) => Ok(started),
            Err(error) => {
                started.stop().await;
                Err(error)
            }
        }
    }

    /// Where and for whom it answers.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Stops answering; its sockets are closed when this returns.
    pub async fn stop(self) {
        self.group.shutdown(PATIENCE).await;
    }
}

impl Context {
    /// The port of this host on one of `networks`, out of `candidates`.
    fn pick(&self, networks: &[String], candidates: Vec<Arc<Resource<Port>>>) -> Option<Arc<Resource<Port>>> {
        candidates.into_iter().find(|port| {
            let is_here = port.spec.binding_host.as_deref() == Some(self.host.as_str());
            is_here && networks.contains(&port.spec.network_id)
        })
    }

    /// The port with an address.
    fn port_at(&self, address: IpAddr) -> Option<Arc<Resource<Port>>> {
        self.pick(
            &self.networks,
            self.store.cache::<Port>().by("ip", &address.to_string()),
        )
    }

    /// The port of `network` with a MAC address.
    fn port_of(&self, network: &String, mac: [u8; 6]) -> Option<Arc<Resource<Port>>> {
        let text = mac.map(|byte| format!("{byte:02x}")).join(":");
        self.pick(
            std::slice::from_ref(network),
            self.store.cache::<Port>().by("mac", &text),
        )
    }
}
