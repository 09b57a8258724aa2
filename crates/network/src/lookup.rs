//! Finding resources by id, as a transaction leaves them so far.

use std::sync::Arc;

use madang_store::{Kind, Resource, StoreError, Tx};

use crate::{
    Port, Subnet,
    refusal::{self, Missing},
};

/// The resource with an id, unless its deletion was asked for.
pub(crate) fn find<K: Kind>(tx: &Tx<'_>, id: &str) -> Option<Arc<Resource<K>>> {
    let found = match tx.store().cache::<K>().by_name(id) {
        Some(cached) => tx.get::<K>(&cached.key()),
        None => tx.staged::<K>().find(|staged| staged.name() == id),
    };
    found.filter(|resource| !resource.metadata.is_deleting())
}

/// As [`find`], and the transaction fails when it is changed or deleted before the commit.
///
/// # Errors
/// Neutron's `…NotFound`.
pub(crate) fn hold<K: Kind>(tx: &mut Tx<'_>, what: Missing, id: &str) -> Result<Arc<Resource<K>>, StoreError> {
    let found = find::<K>(tx, id).ok_or_else(|| refusal::not_found(what, id))?;
    tx.expect(&found)?;
    Ok(found)
}

/// The subnets of a network, oldest first.
pub(crate) fn subnets_of(tx: &Tx<'_>, network: &str) -> Vec<Arc<Resource<Subnet>>> {
    let cached = tx.store().cache::<Subnet>().by("network", network);
    let mut subnets: Vec<_> = cached
        .iter()
        .filter_map(|subnet| tx.get::<Subnet>(&subnet.key()))
        .collect();
    for staged in tx.staged::<Subnet>().filter(|subnet| subnet.spec.network_id == network) {
        if subnets.iter().all(|known| known.name() != staged.name()) {
            subnets.push(staged);
        }
    }
    subnets.retain(|subnet| !subnet.metadata.is_deleting());
    subnets.sort_by(|a, b| (a.metadata.created, a.name()).cmp(&(b.metadata.created, b.name())));
    subnets
}

/// The ports that something uses.
pub(crate) fn ports_of_device(tx: &Tx<'_>, device: &str) -> Vec<Arc<Resource<Port>>> {
    let cached = tx.store().cache::<Port>().by("device", device);
    let mut ports: Vec<_> = cached.iter().filter_map(|port| tx.get::<Port>(&port.key())).collect();
    for staged in tx.staged::<Port>() {
        if ports.iter().all(|known| known.name() != staged.name()) {
            ports.push(staged);
        }
    }
    ports.retain(|port| port.spec.device_id == device && !port.metadata.is_deleting());
    ports
}

/// Counts changes of what belongs to a resource without being part of it.
const CHANGES: &str = "network.madang/changes";

/// Marks that something that belongs to a resource changes (its subnets, rules, interfaces): two who do so at the same
/// time conflict here, and its revision tells clients.
pub(crate) fn touch<K: Kind>(tx: &mut Tx<'_>, resource: &Resource<K>) -> Result<(), StoreError> {
    let mut touched = resource.clone();
    let count = touched.metadata.annotations.entry(CHANGES.to_owned()).or_default();
    *count = (count.parse::<u64>().unwrap_or(0) + 1).to_string();
    tx.update(resource, touched).map(|_| ())
}
