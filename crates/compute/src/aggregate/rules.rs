//! The verbs of aggregates, and what the scheduler is told of them. Each verb is one transaction.

use std::{collections::BTreeMap, sync::Arc};

use madang_scheduler::{HostGroup, HostGroupSpec, Provider};
use madang_store::{Cause, ErrorKind, Key, Kind as _, Metadata, Op, Rejection, Resource, Store, StoreError, Tx};
use uuid::Uuid;

use super::{Aggregate, AggregateSpec, ZONE};
use crate::Server;

/// Where names are taken.
const NAMES: &str = "aggregate-names";
/// Where numbers are taken.
const NUMBERS: &str = "aggregate-numbers";

type Done = Result<Arc<Resource<Aggregate>>, StoreError>;

/// The rule of aggregates: names and numbers are unique, and hosts that come, go or change their zone count up their
/// provider's generation, so that two changes of one host's zone never both happen.
pub(crate) fn admit(tx: &mut Tx<'_>, op: Op<'_, Aggregate>) -> Result<(), StoreError> {
    let none = AggregateSpec::default();
    let (id, before, after) = match op {
        Op::Create(new) => {
            tx.reserve(NUMBERS, &new.spec.number.to_string(), new.metadata.uid)?;
            tx.reserve(NAMES, &new.spec.name, new.metadata.uid)?;
            (new.name().to_owned(), &none, &new.spec)
        }
        Op::Update { old, new } => {
            if old.spec.name != new.spec.name {
                tx.release(NAMES, &old.spec.name);
                tx.reserve(NAMES, &new.spec.name, new.metadata.uid)?;
            }
            (old.name().to_owned(), &old.spec, &new.spec)
        }
        Op::Remove(old) => {
            tx.release(NUMBERS, &old.spec.number.to_string());
            tx.release(NAMES, &old.spec.name);
            (old.name().to_owned(), &old.spec, &none)
        }
    };
    tell(tx, &id, after)?;
    for host in before.hosts.union(&after.hosts) {
        let is_in = after.hosts.contains(host);
        if is_in != before.hosts.contains(host) || before.zone() != after.zone() {
            mirror(tx, host, &id, is_in)?;
        }
    }
    Ok(())
}

/// Keeps what the scheduler reads of an aggregate; one without a name is gone.
fn tell(tx: &mut Tx<'_>, id: &str, aggregate: &AggregateSpec) -> Result<(), StoreError> {
    let told = tx.get::<HostGroup>(&Key::new(HostGroup::NAME, "", "", id));
    let spec = HostGroupSpec {
        name: aggregate.name.clone(),
        hosts: aggregate.hosts.clone(),
        metadata: aggregate.metadata.clone(),
    };
    match told {
        Some(old) if aggregate.name.is_empty() => tx.delete(&old),
        Some(old) => {
            let mut new = (*old).clone();
            new.spec = spec;
            tx.update(&old, new).map(|_| ())
        }
        None => tx
            .create(Resource::<HostGroup>::new(Metadata::new("", id), spec))
            .map(|_| ()),
    }
}

/// Names the aggregate in its host's provider, where Placement looks for it.
fn mirror(tx: &mut Tx<'_>, host: &str, id: &str, is_in: bool) -> Result<(), StoreError> {
    let Some(found) = provider(tx.store(), host) else {
        return Ok(());
    };
    let Some(provider) = tx.get::<Provider>(&found.key()) else {
        return Ok(());
    };
    let mut changed = (*provider).clone();
    changed.spec.aggregates.retain(|other| other != id);
    if is_in {
        changed.spec.aggregates.push(id.to_owned());
    }
    changed.spec.generation += 1;
    tx.update(&provider, changed).map(|_| ())
}

/// The provider that a host is.
pub(crate) fn provider(store: &Store, host: &str) -> Option<Arc<Resource<Provider>>> {
    store.cache::<Provider>().by("name", host).into_iter().next()
}

/// Makes one.
///
/// # Errors
/// `Conflict` when the name is taken.
pub async fn create(store: &Store, cause: Cause, name: &str, zone: Option<&str>) -> Done {
    let made = store
        .transact(cause, |tx| {
            let uid = Uuid::new_v4();
            let spec = AggregateSpec {
                // The first of the uid's bits: a number that never comes again, and fits into the smallest of columns.
                number: uid.as_fields().0 >> 1,
                name: name.to_owned(),
                metadata: zone.iter().map(|zone| (ZONE.to_owned(), (*zone).to_owned())).collect(),
                ..AggregateSpec::default()
            };
            tx.create(Resource::<Aggregate>::new(
                Metadata::with_uid(uid, "", uid.to_string()),
                spec,
            ))
        })
        .await;
    made.map_err(|error| taken(error, name))
}

fn taken(error: StoreError, name: &str) -> StoreError {
    match error {
        StoreError::Exists { .. } => {
            let message = format!("Aggregate {name} already exists.");
            Rejection::new(ErrorKind::Conflict, "AggregateNameExists", message).into()
        }
        other => other,
    }
}

/// Renames it, or changes its zone; none leaves either.
///
/// # Errors
/// `Conflict` when the name is taken; `Invalid` when hosts have servers or are in another zone.
pub async fn update(
    store: &Store,
    cause: Cause,
    aggregate: &Resource<Aggregate>,
    name: Option<&str>,
    zone: Option<&str>,
) -> Done {
    let metadata = zone.map(|zone| BTreeMap::from([(ZONE.to_owned(), Some(zone.to_owned()))]));
    let changed = edit(store, cause, aggregate, |tx, aggregate| {
        if let Some(metadata) = &metadata {
            change_metadata(tx, aggregate, metadata, "update")?;
        }
        if let Some(name) = name {
            name.clone_into(&mut aggregate.spec.name);
        }
        Ok(())
    });
    changed
        .await
        .map_err(|error| taken(error, name.unwrap_or(&aggregate.spec.name)))
}

/// Sets items of its metadata; those without a value go.
///
/// # Errors
/// `Invalid` when hosts have servers or are in another zone.
pub async fn set_metadata(
    store: &Store,
    cause: Cause,
    aggregate: &Resource<Aggregate>,
    items: &BTreeMap<String, Option<String>>,
) -> Done {
    edit(store, cause, aggregate, |tx, aggregate| {
        change_metadata(tx, aggregate, items, "update metadata")
    })
    .await
}

fn change_metadata(
    tx: &Tx<'_>,
    aggregate: &mut Resource<Aggregate>,
    items: &BTreeMap<String, Option<String>>,
    verb: &str,
) -> Result<(), StoreError> {
    let number = aggregate.spec.number;
    let refuse = |reason: String| refused(ErrorKind::Invalid, verb, number, &reason);
    if let Some(zone) = items.get(ZONE) {
        let zone = zone.as_deref().filter(|zone| !zone.is_empty());
        let Some(zone) = zone else {
            let reason = format!(
                "Aggregate {} does not support empty named availability zone",
                aggregate.spec.name
            );
            return Err(refuse(reason));
        };
        let hosts = &aggregate.spec.hosts;
        let mut others = hosts
            .iter()
            .filter_map(|host| other_zone(tx.store(), host, aggregate, zone));
        if let Some(other) = others.next() {
            return Err(refuse(format!(
                "One or more hosts already in availability zone(s) ['{other}']"
            )));
        }
        let servers = tx.store().cache::<Server>();
        if aggregate.spec.zone() != Some(zone) && hosts.iter().any(|host| servers.count_by("host", host) > 0) {
            return Err(refuse("One or more hosts contain instances in this zone".to_owned()));
        }
    }
    for (key, value) in items {
        match value {
            Some(value) => _ = aggregate.spec.metadata.insert(key.clone(), value.clone()),
            None => _ = aggregate.spec.metadata.remove(key),
        }
    }
    Ok(())
}

/// A zone other than `zone` that another aggregate puts a host in.
fn other_zone(store: &Store, host: &str, aggregate: &Resource<Aggregate>, zone: &str) -> Option<String> {
    let others = store.cache::<Aggregate>().by("host", host);
    let mut zones = others
        .iter()
        .filter(|other| other.metadata.uid != aggregate.metadata.uid)
        .filter_map(|other| other.spec.zone());
    zones.find(|other| *other != zone).map(str::to_owned)
}

/// The zone that aggregates other than this one put a host in.
fn zone_without(store: &Store, host: &str, aggregate: &Resource<Aggregate>) -> Option<String> {
    let others = store.cache::<Aggregate>().by("host", host);
    others
        .iter()
        .filter(|other| other.metadata.uid != aggregate.metadata.uid)
        .find_map(|other| other.spec.zone().map(str::to_owned))
}

/// Takes a host in.
///
/// # Errors
/// `NotFound` for a host that is not there; `Conflict` when it is in it already, is in another zone, or has servers that
/// would change their zone.
pub async fn add_host(store: &Store, cause: Cause, aggregate: &Resource<Aggregate>, host: &str) -> Done {
    edit(store, cause, aggregate, |tx, aggregate| {
        let number = aggregate.spec.number;
        if provider(tx.store(), host).is_none() {
            let message = format!("Compute host {host} could not be found.");
            return Err(Rejection::new(ErrorKind::NotFound, "ComputeHostNotFound", message).into());
        }
        if let Some(zone) = aggregate.spec.zone() {
            if let Some(other) = other_zone(tx.store(), host, aggregate, zone) {
                let reason = format!("One or more hosts already in availability zone(s) ['{other}']");
                return Err(refused(ErrorKind::Conflict, "add host to", number, &reason));
            }
            let old = zone_without(tx.store(), host, aggregate);
            if old.as_deref() != Some(zone) {
                moves_nobody(tx.store(), host, number, "add host to")?;
            }
        }
        if !aggregate.spec.hosts.insert(host.to_owned()) {
            let message = format!("Aggregate {number} already has host {host}.");
            return Err(Rejection::new(ErrorKind::Conflict, "AggregateHostExists", message).into());
        }
        Ok(())
    })
    .await
}

/// Lets a host go.
///
/// # Errors
/// `NotFound` when it is not in it; `Conflict` when it has servers that would change their zone.
pub async fn remove_host(store: &Store, cause: Cause, aggregate: &Resource<Aggregate>, host: &str) -> Done {
    edit(store, cause, aggregate, |tx, aggregate| {
        let number = aggregate.spec.number;
        if !aggregate.spec.hosts.contains(host) {
            let message = format!("Cannot remove host {host} in aggregate {number}");
            return Err(Rejection::new(ErrorKind::NotFound, "AggregateHostNotFound", message).into());
        }
        let zone = aggregate.spec.zone();
        if zone.is_some() && zone != zone_without(tx.store(), host, aggregate).as_deref() {
            moves_nobody(tx.store(), host, number, "remove host from")?;
        }
        aggregate.spec.hosts.remove(host);
        Ok(())
    })
    .await
}

fn moves_nobody(store: &Store, host: &str, number: u32, verb: &str) -> Result<(), StoreError> {
    match store.cache::<Server>().count_by("host", host) {
        0 => Ok(()),
        count => {
            let reason = format!(
                "the availability zone of host {host} would change but it has {count} instance(s): move them away first"
            );
            Err(refused(ErrorKind::Conflict, verb, number, &reason))
        }
    }
}

fn refused(kind: ErrorKind, verb: &str, number: u32, reason: &str) -> StoreError {
    let message = format!("Cannot {verb} aggregate {number}. Reason: {reason}.");
    Rejection::new(kind, "InvalidAggregateAction", message).into()
}

/// Ends it.
///
/// # Errors
/// `Invalid` while it has hosts.
pub async fn delete(store: &Store, cause: Cause, aggregate: &Resource<Aggregate>) -> Result<(), StoreError> {
    let key = aggregate.key();
    store
        .transact(cause, |tx| {
            let aggregate = tx
                .get::<Aggregate>(&key)
                .ok_or_else(|| StoreError::NotFound { key: key.clone() })?;
            if !aggregate.spec.hosts.is_empty() {
                let reason = "Host aggregate is not empty";
                return Err(refused(ErrorKind::Invalid, "delete", aggregate.spec.number, reason));
            }
            tx.delete(&aggregate)
        })
        .await
}

async fn edit(
    store: &Store,
    cause: Cause,
    aggregate: &Resource<Aggregate>,
    change: impl Fn(&Tx<'_>, &mut Resource<Aggregate>) -> Result<(), StoreError>,
) -> Done {
    let key = Key::new(Aggregate::NAME, "", "", aggregate.name());
    store
        .transact(cause, |tx| {
            let old = tx
                .get::<Aggregate>(&key)
                .ok_or_else(|| StoreError::NotFound { key: key.clone() })?;
            let mut new = (*old).clone();
            change(tx, &mut new)?;
            tx.update(&old, new)
        })
        .await
}
