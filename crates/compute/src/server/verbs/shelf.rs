//! Putting a server away, and taking it back.

use madang_http::Failure;
use madang_identity::Caller;
use madang_network::qos;
use madang_scheduler::{Claim, Provider};
use madang_store::{Metadata, Resource, Store};

use super::{
    Done, Wants, allowed, check_lock,
    snapshot::{COPIED, Wanted, make},
    transact,
};
use crate::{
    Phase, Power, Server,
    server::{
        Doing, Shelf,
        create::{claim_spec, with_needs},
        machine, moves,
    },
};

/// Asks for it, a machine or a container, to be put away: off, its root in an image. `offload` takes it off its host, too.
///
/// # Errors
/// `Conflict` in a state without it; when it is locked.
pub async fn shelve(store: &Store, caller: &Caller, server: &Resource<Server>, offload: bool) -> Done {
    transact(store, caller, server, |tx, server| {
        check_lock(caller, server)?;
        allowed(server, "shelve", &COPIED, Wants::Idle)?;
        let is_on_volume = server.spec.image.is_none();
        let image = if is_on_volume {
            None
        } else {
            let wanted = Wanted {
                name: format!("{}-shelved", server.spec.name),
                ..Wanted::default()
            };
            // The owner's, whoever asks: it goes with the server.
            Some(make(tx, None, server, &wanted)?.name().to_owned())
        };
        server.spec.asked.shelf = Some(Shelf {
            image,
            offload: offload || is_on_volume,
        });
        server.status.fault = None;
        server.status.action = Some(Doing::new("shelve", tx.cause()));
        Ok(())
    })
    .await
}

/// Asks for a shelved server to leave its host.
///
/// # Errors
/// `Conflict` unless it is shelved and on a host; when it is locked.
pub async fn offload(store: &Store, caller: &Caller, server: &Resource<Server>) -> Done {
    transact(store, caller, server, |tx, server| {
        check_lock(caller, server)?;
        allowed(server, "shelveOffload", &[Phase::Shelved], Wants::Idle)?;
        if let Some(shelf) = &mut server.spec.asked.shelf {
            shelf.offload = true;
        }
        server.status.action = Some(Doing::new("shelveOffload", tx.cause()));
        Ok(())
    })
    .await
}

/// Where a server that comes off the shelf is to be.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// Only in this zone from now on; inner none takes an earlier wish back.
    pub zone: Option<Option<String>>,
    /// On this host.
    pub host: Option<String>,
}

/// Wants a shelved server back, running.
///
/// # Errors
/// `Conflict` unless it is shelved; when it is locked; when a place is asked for and it is on a host still, or the host
/// is not in the zone. `Invalid` for a zone or host there is not.
pub async fn unshelve(store: &Store, caller: &Caller, server: &Resource<Server>, place: &Place) -> Done {
    transact(store, caller, server, |tx, server| {
        check_lock(caller, server)?;
        allowed(server, "unshelve", &[Phase::Shelved, Phase::Offloaded], Wants::Idle)?;
        if place.zone.is_some() || place.host.is_some() {
            check_place(tx.store(), server, place)?;
        }
        if let Some(zone) = &place.zone {
            server.spec.availability_zone.clone_from(zone);
        }
        let shelf = server.spec.asked.shelf.take();
        server.status.unshelved = shelf.and_then(|shelf| shelf.image);
        server.spec.power = Power::On;
        server.status.fault = None;
        server.status.action = Some(Doing::new("unshelve", tx.cause()));
        if server.status.phase == Phase::Offloaded {
            server.status.before = Some(Phase::Offloaded);
            server.status.phase = Phase::Scheduling;
            let mut metadata = Metadata::new(server.project(), server.name());
            metadata.owners = vec![server.as_owner()];
            let group = crate::group::claim_group(store, server.spec.group);
            let mut spec = claim_spec(server, group, machine::image_properties(tx.store(), server));
            spec.resources = with_needs(spec.resources, qos::needs_of_device(tx.store(), server.name()));
            spec.host.clone_from(&place.host);
            moves::place_anew(tx, server, Resource::<Claim>::new(metadata, spec))?;
        }
        Ok(())
    })
    .await
}

fn check_place(store: &Store, server: &Resource<Server>, place: &Place) -> Result<(), Failure> {
    if server.status.phase != Phase::Offloaded {
        let state = super::state::of(server).vm_state;
        return Err(Failure::conflict(format!(
            "Specifying an availability zone or a host when unshelving server \"{}\" with status \"{}\" is not \
             supported. The server status must be SHELVED_OFFLOADED.",
            server.name(),
            state.to_uppercase()
        )));
    }
    let providers = store.cache::<Provider>().all();
    let wanted = place
        .zone
        .as_ref()
        .map_or(server.spec.availability_zone.as_ref(), Option::as_ref);
    if let Some(Some(zone)) = &place.zone
        && !providers.iter().any(|provider| provider.spec.zone == *zone)
    {
        return Err(Failure::invalid("The requested availability zone is not available").at("availability_zone"));
    }
    let Some(host) = &place.host else { return Ok(()) };
    let Some(provider) = providers.iter().find(|provider| provider.spec.name == *host) else {
        return Err(Failure::invalid(format!("Compute host {host} could not be found.")).at("host"));
    };
    match wanted {
        Some(zone) if provider.spec.zone != *zone => Err(Failure::conflict(format!(
            "Host \"{host}\" is not in the availability zone \"{zone}\"."
        ))),
        _ => Ok(()),
    }
}
