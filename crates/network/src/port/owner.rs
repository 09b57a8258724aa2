//! What uses a port: the values of `device_owner` that mean something here.

/// Gives a network its DHCP and metadata service; one per network.
pub const DHCP: &str = "network:dhcp";
/// A router's end on a subnet.
pub const ROUTER_INTERFACE: &str = "network:router_interface";
/// A router's end on an external network.
pub const ROUTER_GATEWAY: &str = "network:router_gateway";
/// Keeps a floating address taken.
pub const FLOATING_IP: &str = "network:floatingip";
/// Is reached through a trunk; the device is the trunk.
pub const SUBPORT: &str = "trunk:subport";
/// The front of what servers' ports have: `compute:<zone>`.
pub const COMPUTE: &str = "compute:";

/// Whether the network itself uses it: such ports are trusted and not filtered.
pub fn is_of_the_network(owner: &str) -> bool {
    owner.starts_with("network:")
}

/// Whether a router or a floating address holds it, and alone may delete it.
pub fn is_of_a_router(owner: &str) -> bool {
    matches!(owner, ROUTER_INTERFACE | ROUTER_GATEWAY | FLOATING_IP)
}
