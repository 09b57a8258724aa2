//! What happens to a trunk on its way into the store: what may be in it, and what becomes of its subports.

use std::collections::BTreeSet;

use madang_host::workload::Attachment;
use madang_store::{Op, Resource, StoreBuilder, StoreError, Tx};

use super::{SubPort, Trunk};
use crate::{
    Network, Port,
    lookup::{find, hold},
    port::owner,
    quota::{self, Limited},
    refusal::{self, Missing},
};

/// VLAN ids that frames can have; 0 and 4095 mean something else. Source: IEEE 802.1Q.
const VLANS: std::ops::RangeInclusive<i64> = 1..=4094;
/// Where the ports of trunks are reserved: each is in one trunk at most, as a parent or as a subport.
const PORTS: &str = "trunk/port";

/// Makes trunks known, with their rule.
pub(crate) fn register(builder: &mut StoreBuilder) {
    builder.rule::<Trunk>(|tx, op| match op {
        Op::Create(trunk) => create(tx, trunk),
        Op::Update { old, new } if old.spec != new.spec => update(tx, old, new),
        Op::Update { .. } => Ok(()),
        Op::Remove(trunk) => remove(tx, trunk),
    });
}

fn create(tx: &mut Tx<'_>, trunk: &mut Resource<Trunk>) -> Result<(), StoreError> {
    let parent = hold::<Port>(tx, Missing::Port, &trunk.spec.port_id)?;
    require_free(tx, &parent)?;
    tx.reserve(PORTS, parent.name(), trunk.metadata.uid)?;
    let subs = trunk.spec.sub_ports.clone();
    check_numbers(trunk)?;
    join(tx, trunk, &parent, &subs)?;
    quota::take(tx, trunk.project(), Limited::Trunk);
    Ok(())
}

fn update(tx: &mut Tx<'_>, old: &Resource<Trunk>, new: &mut Resource<Trunk>) -> Result<(), StoreError> {
    let (was, is) = (&old.spec.sub_ports, &new.spec.sub_ports);
    let gone: Vec<_> = was.iter().filter(|sub| !is.contains(sub)).cloned().collect();
    let come: Vec<_> = is.iter().filter(|sub| !was.contains(sub)).cloned().collect();
    if gone.is_empty() && come.is_empty() {
        return Ok(());
    }
    check_numbers(new)?;
    leave(tx, &gone)?;
    let parent = hold::<Port>(tx, Missing::Port, &new.spec.port_id)?;
    join(tx, new, &parent, &come)
}

fn remove(tx: &mut Tx<'_>, trunk: &Resource<Trunk>) -> Result<(), StoreError> {
    leave(tx, &trunk.spec.sub_ports)?;
    tx.release(PORTS, &trunk.spec.port_id);
    quota::give_back(tx, trunk.project(), Limited::Trunk);
    Ok(())
}

fn check_numbers(trunk: &Resource<Trunk>) -> Result<(), StoreError> {
    let mut seen = BTreeSet::new();
    for sub in &trunk.spec.sub_ports {
        if sub.segmentation_type != "vlan" {
            return Err(refusal::invalid(format_args!(
                "Unknown segmentation_type '{}'",
                sub.segmentation_type
            )));
        }
        if !VLANS.contains(&i64::from(sub.segmentation_id)) {
            return Err(refusal::invalid(format_args!(
                "Segmentation ID '{}' is not in range",
                sub.segmentation_id
            )));
        }
        if !seen.insert(sub.segmentation_id) {
            let (kind, id) = (&sub.segmentation_type, sub.segmentation_id);
            let message = format!(
                "segmentation_type {kind} and segmentation_id {id} already in use on trunk {}.",
                trunk.name()
            );
            return Err(refusal::conflict("DuplicateSubPort", message));
        }
    }
    Ok(())
}

/// A port that is neither a parent nor a subport of any trunk.
fn require_free(tx: &Tx<'_>, port: &Resource<Port>) -> Result<(), StoreError> {
    let trunks = tx.store().cache::<Trunk>();
    let id = port.name();
    let is_live = |trunk: &std::sync::Arc<Resource<Trunk>>| tx.get::<Trunk>(&trunk.key()).is_some();
    if trunks.by("subport", id).iter().any(is_live) {
        let message = format!("Port {id} is in use by another trunk.");
        return Err(refusal::conflict("TrunkPortInUse", message));
    }
    if trunks.by("port", id).iter().any(is_live) || tx.has_reserved(PORTS, id) {
        return Err(parent_in_use(id));
    }
    Ok(())
}

fn parent_in_use(port: &str) -> StoreError {
    let message = format!("Port {port} is currently in use and is not eligible for use as a parent port.");
    refusal::conflict("ParentPortInUse", message)
}

/// Makes ports the trunk's: bound where its parent is.
fn join(tx: &mut Tx<'_>, trunk: &Resource<Trunk>, parent: &Resource<Port>, subs: &[SubPort]) -> Result<(), StoreError> {
    let largest = find::<Network>(tx, &parent.spec.network_id).map(|network| network.spec.mtu);
    for sub in subs {
        if sub.port_id == parent.name() {
            return Err(parent_in_use(parent.name()));
        }
        let port = hold::<Port>(tx, Missing::Port, &sub.port_id)?;
        let mtu = find::<Network>(tx, &port.spec.network_id).map(|network| network.spec.mtu);
        if let (Some(mtu), Some(largest)) = (mtu, largest)
            && mtu > largest
        {
            let message = format!(
                "MTU {mtu} of subport {} cannot be greater than MTU {largest} of trunk {}.",
                port.name(),
                parent.name()
            );
            return Err(refusal::conflict("SubPortMtuGreaterThanTrunkPortMtu", message));
        }
        require_free(tx, &port)?;
        if !port.spec.device_id.is_empty() {
            let (id, network, device) = (port.name(), &port.spec.network_id, &port.spec.device_id);
            let message = format!(
                "Unable to complete operation on port {id} for network {network}. Port already has an attached device \
                 {device}."
            );
            return Err(refusal::conflict("PortInUse", message));
        }
        tx.reserve(PORTS, port.name(), trunk.metadata.uid)?;
        let mut joined = (*port).clone();
        trunk.name().clone_into(&mut joined.spec.device_id);
        owner::SUBPORT.clone_into(&mut joined.spec.device_owner);
        joined.spec.attachment = Attachment::Veth;
        joined.spec.binding_host.clone_from(&parent.spec.binding_host);
        tx.update(&port, joined)?;
    }
    Ok(())
}

/// Makes ports nobody's again.
fn leave(tx: &mut Tx<'_>, subs: &[SubPort]) -> Result<(), StoreError> {
    for sub in subs {
        tx.release(PORTS, &sub.port_id);
        let Some(port) = find::<Port>(tx, &sub.port_id) else {
            continue;
        };
        let mut free = (*port).clone();
        free.spec.device_id.clear();
        free.spec.device_owner.clear();
        free.spec.attachment = Attachment::Tap;
        free.spec.binding_host = None;
        tx.update(&port, free)?;
    }
    Ok(())
}

/// Binds the subports of a port's trunk where the port is bound by now.
pub(crate) fn follow(tx: &mut Tx<'_>, parent: &Resource<Port>) -> Result<(), StoreError> {
    for cached in tx.store().cache::<Trunk>().by("port", parent.name()) {
        let Some(trunk) = tx.get::<Trunk>(&cached.key()) else {
            continue;
        };
        for sub in &trunk.spec.sub_ports {
            let Some(port) = find::<Port>(tx, &sub.port_id) else {
                continue;
            };
            if port.spec.binding_host != parent.spec.binding_host {
                let mut bound = (*port).clone();
                bound.spec.binding_host.clone_from(&parent.spec.binding_host);
                tx.update(&port, bound)?;
            }
        }
    }
    Ok(())
}

/// A port of a trunk stays as long as the trunk does. What a server owns goes with it, and takes its trunk along.
pub(crate) fn port_goes(tx: &mut Tx<'_>, port: &Resource<Port>) -> Result<(), StoreError> {
    let id = port.name();
    let trunks = tx.store().cache::<Trunk>();
    for cached in trunks.by("subport", id) {
        let Some(trunk) = tx.get::<Trunk>(&cached.key()) else {
            continue;
        };
        if trunk.spec.sub_ports.iter().any(|sub| sub.port_id == id) {
            let message = format!("Port {id} is currently a subport for trunk {}.", trunk.name());
            return Err(refusal::conflict("PortInUseAsSubPort", message));
        }
    }
    for cached in trunks.by("port", id) {
        let Some(trunk) = tx.get::<Trunk>(&cached.key()) else {
            continue;
        };
        if port.metadata.owners.is_empty() {
            let message = format!("Port {id} is currently a parent port for trunk {}.", trunk.name());
            return Err(refusal::conflict("PortInUseAsTrunkParent", message));
        }
        tx.delete(&trunk)?;
    }
    Ok(())
}
