//! A trunk: one port that carries the traffic of others, each as frames of a VLAN of its own.
//!
//! The *parent* port is where a server is plugged in. Frames that the server tags with the segmentation id of a *subport*
//! are that port's traffic, on its network, with its addresses and groups; what is for the subport reaches the server
//! tagged likewise. Subports follow their parent from host to host.

pub mod api;
pub(crate) mod rules;

use madang_store::{Indexes, Kind, Resource, Store};
use serde::{Deserialize, Serialize};

use crate::Port;

/// The kind of trunks. `metadata.name` is the id.
pub struct Trunk;

impl Kind for Trunk {
    const NAME: &'static str = "trunks";
    type Spec = TrunkSpec;
    type Status = TrunkStatus;

    fn indexes() -> Indexes<Self> {
        Indexes::<Self>::new()
            .on("port", |r| vec![r.spec.port_id.clone()])
            .on("subport", |r| {
                r.spec.sub_ports.iter().map(|sub| sub.port_id.clone()).collect()
            })
    }
}

/// What was asked of a trunk.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrunkSpec {
    /// What the user calls it; need not be unique.
    #[serde(default)]
    pub name: String,
    /// Free text.
    #[serde(default)]
    pub description: String,
    /// When false, the trunk and its subports stay as they are: only the flag itself can be changed. Traffic goes on.
    pub admin_state_up: bool,
    /// The parent port.
    pub port_id: String,
    /// Its subports.
    #[serde(default)]
    pub sub_ports: Vec<SubPort>,
    /// The user's tags.
    #[serde(default)]
    pub tags: Vec<String>,
}

/// A port that is reached through a trunk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubPort {
    /// The port.
    pub port_id: String,
    /// `vlan`.
    pub segmentation_type: String,
    /// The VLAN id of its frames, from 1 to 4094.
    pub segmentation_id: u16,
}

/// Nothing is seen of a trunk itself: its state is that of its ports.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrunkStatus {}

/// The trunk that a port is a subport of.
pub(crate) fn of_subport(store: &Store, port: &str) -> Option<std::sync::Arc<Resource<Trunk>>> {
    store.cache::<Trunk>().by("subport", port).into_iter().next()
}

/// The port that a server is plugged in by: the trunk's parent for a subport, the port itself otherwise.
pub(crate) fn plugged(store: &Store, port: std::sync::Arc<Resource<Port>>) -> std::sync::Arc<Resource<Port>> {
    if port.spec.device_owner != crate::port::owner::SUBPORT {
        return port;
    }
    let parent = of_subport(store, port.name()).and_then(|trunk| store.cache::<Port>().by_name(&trunk.spec.port_id));
    parent.unwrap_or(port)
}
