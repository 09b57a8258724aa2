//! The names of everything the network agent makes on a host.
//!
//! ```text
//! mdg-<id>-fabric            namespace of the bridges
//!   b<network>               bridge of a network; `outside` for all external ones
//!   t<port>                  a port's device: a tap, or the near end of a veth pair
//!   p<port>                  the far end of that pair, until the container's driver moves it
//!   s<port>, r<port>         outer ends of service points and routers
//!   outside-up               outer end of the way out
//!   v<network>               where a network's frames leave for its VLAN outside
//! mdg-<id>-net-<network>     service point: link `service`
//! mdg-<id>-router-<router>   router: links `i<port>`, and `g<port>` for the gateway
//! mdg<id>                    in the host's own namespace: the way out
//! ```
//! Namespaces of an instance are found by their prefix, and the links in them go with them, so a sweep finds all.

use madang_host::instance::device_name;
use madang_store::Resource;
use uuid::Uuid;

use crate::{Network, Router};

/// A network's bridge.
pub(super) const BRIDGE: char = 'b';
/// A port's device.
const DEVICE: char = 't';
/// The far end of a port's veth pair.
const PEER: char = 'p';
/// Where a network of a VLAN is joined with the way out.
const UPLINK: char = 'v';
/// A service point's outer end.
pub(super) const SERVICE: char = 's';
/// A router's outer ends.
pub(super) const ROUTER: char = 'r';
/// A router's inner ends on tenant networks.
pub(super) const INTERFACE: char = 'i';
/// A router's inner end on the external network.
pub(super) const GATEWAY: char = 'g';
/// The bridge of all external networks.
pub(super) const OUTSIDE_BRIDGE: &str = "outside";
/// The fabric's end of the way out.
pub(super) const OUTSIDE_PORT: &str = "outside-up";
/// A service point's inner end.
pub(super) const SERVICE_LINK: &str = "service";
/// How names of service points start, after the instance's prefix.
pub(super) const SERVICES: &str = "net-";
/// How names of routers start, after the instance's prefix.
pub(super) const ROUTERS: &str = "router-";

/// The bridge-side device of a port in the fabric namespace: a tap, or the near end of a veth pair.
pub fn device(port: Uuid) -> String {
    device_name(DEVICE, port)
}

/// The end of a port's veth pair that moves into the workload; in the fabric namespace until then.
pub fn peer(port: Uuid) -> String {
    device_name(PEER, port)
}

/// The device in a network's bridge by which its frames leave, tagged, by the way out.
pub(crate) fn uplink(network: Uuid) -> String {
    device_name(UPLINK, network)
}

/// Whether a link of the fabric is such a device.
pub(crate) fn is_uplink(link: &str) -> bool {
    link.starts_with(UPLINK)
}

/// Whether a link of the fabric is a port's device.
pub(crate) fn is_device(link: &str) -> bool {
    link.starts_with(DEVICE)
}

/// Whether a link of the fabric is a bridge of ours.
pub(crate) fn is_bridge(link: &str) -> bool {
    link.starts_with(BRIDGE) || link == OUTSIDE_BRIDGE
}

/// The last part of the name of a network's service namespace.
pub(super) fn service_suffix(network: &Resource<Network>) -> String {
    format!("{SERVICES}{}", network.metadata.uid)
}

/// The last part of the name of a router's namespace.
pub(super) fn router_suffix(router: &Resource<Router>) -> String {
    format!("{ROUTERS}{}", router.metadata.uid)
}
