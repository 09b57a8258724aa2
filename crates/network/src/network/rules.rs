//! What happens to a network on its way into the store: its segment, its size, and what goes with it.

use madang_store::{Op, Resource, StoreBuilder, StoreError, Tx};
use uuid::Uuid;

use super::Network;
use crate::{
    FloatingIp, Port, Router, dhcp_port,
    lookup::subnets_of,
    qos,
    quota::{self, Limited},
    rbac::{self, Action, Shareable, rules as sharing},
    refusal, usage,
};

/// The payload of a frame on the wires we assume, in bytes.
const WIRE_MTU: u16 = 1500;
/// What VXLAN adds to each frame over IPv4, in bytes.
const VXLAN_OVERHEAD: u16 = 50;
/// VXLAN ids have 24 bits (RFC 7348); 0 is not used.
const MAX_SEGMENT: u32 = (1 << 24) - 1;
/// How often a taken segment is drawn before it is left to the commit to decide.
const DRAWS: usize = 16;
/// Where segments are reserved.
const SEGMENTS: &str = "segment/vxlan";
/// The VLANs that a wire has. Source: IEEE 802.1Q; 0 and 4095 mean something else.
const MAX_VLAN: u32 = 4094;
/// Where VLANs are reserved. Every physical network is the host's one way outside, so they differ whatever its name.
const VLANS: &str = "segment/vlan";
/// Where physical networks are reserved: one flat network each.
const FLAT: &str = "segment/flat";

/// Makes networks known, with their rule.
pub(crate) fn register(builder: &mut StoreBuilder) {
    builder.rule::<Network>(|tx, op| match op {
        Op::Create(network) => create(tx, network),
        Op::Update { old, new } if old.spec != new.spec => update(tx, old, new),
        Op::Update { .. } => Ok(()),
        Op::Remove(network) => remove(tx, network),
    });
}

fn create(tx: &mut Tx<'_>, network: &mut Resource<Network>) -> Result<(), StoreError> {
    let uid = network.metadata.uid;
    let spec = &mut network.spec;
    if spec.network_type.is_empty() {
        "vxlan".clone_into(&mut spec.network_type);
    }
    match spec.network_type.as_str() {
        "vxlan" => {
            if let Some(physical) = &spec.physical_network {
                return Err(refusal::invalid(format_args!(
                    "provider:physical_network specified for vxlan network: {physical}"
                )));
            }
            take_segment(tx, SEGMENTS, MAX_SEGMENT, &mut spec.segmentation_id, uid)?;
        }
        "vlan" => {
            if spec.physical_network.is_none() {
                return Err(refusal::invalid("physical_network required for VLAN provider network"));
            }
            if spec.is_external {
                return Err(refusal::invalid(
                    "a VLAN network cannot be external: what is outside is not tagged",
                ));
            }
            take_segment(tx, VLANS, MAX_VLAN, &mut spec.segmentation_id, uid)?;
        }
        "flat" => {
            if spec.segmentation_id != 0 {
                return Err(refusal::invalid("provider:segmentation_id specified for flat network"));
            }
            let physical = spec.physical_network.as_deref();
            let physical =
                physical.ok_or_else(|| refusal::invalid("physical_network required for flat provider network"))?;
            if is_reserved(tx, FLAT, physical) {
                let message = format!("Unable to create the flat network. Physical network {physical} is in use.");
                return Err(refusal::conflict("FlatNetworkInUse", message));
            }
            tx.reserve(FLAT, physical, uid)?;
        }
        other => {
            return Err(refusal::invalid(format_args!(
                "network_type value '{other}' not supported"
            )));
        }
    }
    let largest = if spec.network_type == "vxlan" {
        WIRE_MTU - VXLAN_OVERHEAD
    } else {
        WIRE_MTU
    };
    if spec.mtu == 0 {
        spec.mtu = largest;
    }
    check_mtu(spec.mtu, largest)?;
    qos::rules::take_up(tx, network.spec.qos_policy_id.as_ref())?;
    if network.spec.is_shared {
        share(tx, network, Action::AccessAsShared, true)?;
    }
    if network.spec.is_external {
        share(tx, network, Action::AccessAsExternal, true)?;
    }
    quota::take(tx, network.project(), Limited::Network);
    Ok(())
}

/// Makes the network's policies fit its flag.
fn share(tx: &mut Tx<'_>, network: &Resource<Network>, action: Action, is_set: bool) -> Result<(), StoreError> {
    sharing::follow_flag(tx, network, Shareable::Network, action, is_set)
}

fn check_mtu(mtu: u16, largest: u16) -> Result<(), StoreError> {
    if mtu > largest {
        return Err(refusal::invalid(format_args!(
            "Requested MTU is too big, maximum is {largest}"
        )));
    }
    Ok(())
}

fn take_segment(
    tx: &mut Tx<'_>,
    space: &'static str,
    most: u32,
    segment: &mut u32,
    owner: Uuid,
) -> Result<(), StoreError> {
    if *segment == 0 {
        let draw = || rand::random_range(1..=most);
        let free = (0..DRAWS)
            .map(|_| draw())
            .find(|id| !is_reserved(tx, space, &id.to_string()));
        *segment = free.unwrap_or_else(draw);
    } else if *segment > most {
        return Err(refusal::invalid(format_args!(
            "segmentation_id out of range (1 through {most})"
        )));
    } else if is_reserved(tx, space, &segment.to_string()) {
        if space == VLANS {
            let message = format!("Unable to create the network. The VLAN {segment} is in use.");
            return Err(refusal::conflict("VlanIdInUse", message));
        }
        let message = format!("Unable to create the network. The tunnel ID {segment} is in use.");
        return Err(refusal::conflict("TunnelIdInUse", message));
    }
    tx.reserve(space, &segment.to_string(), owner)
}

/// Whether a network has the segment, as far as seen; the reservation decides.
fn is_reserved(tx: &Tx<'_>, space: &str, value: &str) -> bool {
    tx.has_reserved(space, value)
        || tx
            .store()
            .cache::<Network>()
            .count_by("segment", &format!("{space}/{value}"))
            > 0
}

/// Under which a network is found by its segment.
pub(super) fn segment_of(network: &Resource<Network>) -> Vec<String> {
    let spec = &network.spec;
    match (spec.network_type.as_str(), &spec.physical_network) {
        ("vxlan", _) => vec![format!("{SEGMENTS}/{}", spec.segmentation_id)],
        ("vlan", _) => vec![format!("{VLANS}/{}", spec.segmentation_id)],
        ("flat", Some(physical)) => vec![format!("{FLAT}/{physical}")],
        _ => Vec::new(),
    }
}

fn update(tx: &mut Tx<'_>, old: &Resource<Network>, new: &mut Resource<Network>) -> Result<(), StoreError> {
    let fixed = |spec: &super::NetworkSpec| {
        (
            spec.network_type.clone(),
            spec.segmentation_id,
            spec.physical_network.clone(),
        )
    };
    if fixed(&old.spec) != fixed(&new.spec) {
        return Err(refusal::invalid("Plugin does not support updating provider attributes"));
    }
    if new.spec.is_external && new.spec.network_type == "vlan" {
        return Err(refusal::invalid(
            "a VLAN network cannot be external: what is outside is not tagged",
        ));
    }
    if new.spec.mtu != old.spec.mtu {
        let largest = if new.spec.network_type == "vxlan" {
            WIRE_MTU - VXLAN_OVERHEAD
        } else {
            WIRE_MTU
        };
        check_mtu(new.spec.mtu, largest)?;
        for subnet in subnets_of(tx, old.name()) {
            crate::subnet::rules::check_mtu(new, subnet.spec.cidr)?;
        }
    }
    if old.spec.is_shared && !new.spec.is_shared {
        let store = tx.store();
        let foreign = |port: &std::sync::Arc<Resource<Port>>| {
            let is_named = || rbac::shared_with(store, port.project(), Shareable::Network).contains(&old.metadata.name);
            !["", old.project()].contains(&port.project()) && !is_named()
        };
        if tx.store().cache::<Port>().by("network", old.name()).iter().any(foreign) {
            let message = format!(
                "Unable to reconfigure sharing settings for network {}. Multiple tenants are using it.",
                old.name()
            );
            return Err(refusal::conflict("InvalidSharedSetting", message));
        }
    }
    if old.spec.is_external && !new.spec.is_external {
        let gateways = tx.store().cache::<Router>().count_by("external", old.name());
        let floating = tx.store().cache::<FloatingIp>().count_by("network", old.name());
        if gateways + floating > 0 {
            let message = format!(
                "External network {} cannot be updated to be made non-external, since it has existing gateway ports.",
                old.name()
            );
            return Err(refusal::conflict("ExternalNetworkInUse", message));
        }
    }
    if old.spec.qos_policy_id != new.spec.qos_policy_id {
        qos::rules::take_up(tx, new.spec.qos_policy_id.as_ref())?;
    }
    if old.spec.is_shared != new.spec.is_shared {
        share(tx, new, Action::AccessAsShared, new.spec.is_shared)?;
    }
    if old.spec.is_external != new.spec.is_external {
        share(tx, new, Action::AccessAsExternal, new.spec.is_external)?;
    }
    Ok(())
}

fn remove(tx: &mut Tx<'_>, network: &Resource<Network>) -> Result<(), StoreError> {
    let id = network.name();
    let dhcp = dhcp_port::key(network);
    // Floating addresses that lead nowhere do not hold their network back.
    for cached in tx.store().cache::<FloatingIp>().by("network", id) {
        let floating = tx.get::<FloatingIp>(&cached.key());
        if let Some(floating) = floating.filter(|floating| floating.spec.port_id.is_none()) {
            tx.delete(&floating)?;
        }
    }
    let ports = tx.store().cache::<Port>().by("network", id);
    let mut ports = ports.iter().filter_map(|cached| tx.get::<Port>(&cached.key()));
    if ports.any(|port| port.key() != dhcp) {
        return Err(refusal::network_in_use(id));
    }
    usage::require_unused_network(tx, id);
    sharing::object_goes(tx, id)?;
    for subnet in subnets_of(tx, id) {
        tx.delete(&subnet)?;
    }
    if let Some(port) = tx.get::<Port>(&dhcp) {
        tx.delete(&port)?;
    }
    match (network.spec.network_type.as_str(), &network.spec.physical_network) {
        ("flat", Some(physical)) => tx.release(FLAT, physical),
        _ => tx.release(SEGMENTS, &network.spec.segmentation_id.to_string()),
    }
    quota::give_back(tx, network.project(), Limited::Network);
    Ok(())
}
