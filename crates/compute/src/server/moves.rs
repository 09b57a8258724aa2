//! The transactions of a move: what its claims, ports and records do with each stage. See [`super::asked`] for the picture.

use madang_scheduler::{Claim, ClaimSpec, ClaimStatus, claim::handover};
use madang_store::{Key, Kind as _, Resource, StoreError, Tx};

use super::{Fault, Move, MoveKind, Phase, Server, Stage, migration};

/// What a server's claim says when it asked for another place: a host starts the move, none ends it.
pub(super) fn follow(tx: &mut Tx<'_>, server: &Resource<Server>, claim: &Resource<Claim>) -> Result<(), StoreError> {
    let mut changed = server.clone();
    let Some(moving) = &mut changed.spec.asked.moving else {
        return Ok(());
    };
    if moving.stage != Stage::Placing {
        return Ok(());
    }
    let (id, kind) = (moving.migration, moving.kind);
    match (&claim.status.host, &claim.status.failure) {
        (Some(host), _) => {
            moving.target = Some(host.clone());
            moving.stage = Stage::Leaving;
            if moving.kind == MoveKind::Evacuation {
                moving.stage = Stage::Arrived;
                arrive_anew(tx, server, &mut changed, host)?;
            }
            let state = match kind {
                MoveKind::LiveMigration => "running",
                _ => "migrating",
            };
            migration::set(tx, server.project(), id, state, Some(host))?;
        }
        (None, Some(reason)) => {
            moving.stage = Stage::Failed;
            moving.failure = Some(reason.clone());
            moving.refusals = super::rules::refusals(claim);
        }
        (None, None) => return Ok(()),
    }
    tx.update(server, changed).map(|_| ())
}

/// Begins a move: the old place is set aside, and the server's claim asks for what is wanted now.
///
/// # Errors
/// What the rules of claims say.
pub(super) fn begin(
    tx: &mut Tx<'_>,
    server: &mut Resource<Server>,
    moving: Move,
    new_flavor_id: &str,
    wanted: impl FnOnce(&ClaimSpec) -> ClaimSpec,
) -> Result<(), StoreError> {
    migration::begin(tx, server, moving.migration, moving.kind, new_flavor_id)?;
    let own = own_claim(tx, server)?;
    let wanted = ClaimSpec {
        zone: server.spec.availability_zone.clone(),
        ..wanted(&own.spec)
    };
    handover::set_aside(tx, &own, &moving.migration.to_string(), server.as_owner(), wanted)?;
    server.spec.asked.moving = Some(moving);
    Ok(())
}

/// A server whose host is lost is built on another, from its image.
fn arrive_anew(
    tx: &mut Tx<'_>,
    server: &Resource<Server>,
    changed: &mut Resource<Server>,
    host: &str,
) -> Result<(), StoreError> {
    changed.status.before = Some(server.status.phase);
    changed.status.phase = Phase::Building;
    changed.status.base = None;
    changed.status.attempts = 0;
    stand_on(tx, changed, host)
}

/// A server is on another host from now on, with its ports.
///
/// # Errors
/// What the rules of ports say.
pub(crate) fn stand_on(tx: &mut Tx<'_>, server: &mut Resource<Server>, host: &str) -> Result<(), StoreError> {
    if server.status.host.as_deref() == Some(host) {
        return Ok(());
    }
    server.status.host = Some(host.to_owned());
    // Of the host it was on.
    server.status.slot = None;
    super::rules::bind_ports(tx, server, Some(host))
}

/// Makes the new place a server's own and ends the move.
///
/// # Errors
/// What the rules of claims say.
pub(crate) fn settle(tx: &mut Tx<'_>, server: &mut Resource<Server>, state: &str) -> Result<(), StoreError> {
    let Some(moving) = server.spec.asked.moving.take() else {
        return Ok(());
    };
    handover::let_go(tx, server.project(), &moving.migration.to_string())?;
    migration::set(tx, server.project(), moving.migration, state, None)
}

/// Gives up the new place and ends the move; the old flavor is the server's again.
///
/// # Errors
/// What the rules of claims say.
pub(crate) fn give_up(tx: &mut Tx<'_>, server: &mut Resource<Server>, state: &str) -> Result<(), StoreError> {
    let Some(moving) = server.spec.asked.moving.take() else {
        return Ok(());
    };
    let own = own_claim(tx, server)?;
    handover::take_back(tx, &own, &moving.migration.to_string())?;
    moving.give_size_back(&mut server.spec);
    migration::set(tx, server.project(), moving.migration, state, None)
}

/// Ends a move that found no place: the server goes on as it was, and says why.
///
/// # Errors
/// What the rules of claims say.
pub(crate) fn fail(tx: &mut Tx<'_>, server: &mut Resource<Server>) -> Result<(), StoreError> {
    let Some(moving) = &server.spec.asked.moving else {
        return Ok(());
    };
    let is_lost = moving.kind == MoveKind::Evacuation;
    server.status.fault = Some(Fault {
        details: moving.refusals.clone(),
        ..Fault::new(500, moving.failure.clone().unwrap_or_default(), tx.at())
    });
    if is_lost {
        server.status.phase = Phase::Error;
    }
    give_up(tx, server, "error")
}

/// Asks the scheduler for a place under a server's own name: a new claim, or the one that found none.
///
/// # Errors
/// What the rules of claims say.
pub(crate) fn place_anew(tx: &mut Tx<'_>, server: &Resource<Server>, claim: Resource<Claim>) -> Result<(), StoreError> {
    match tx.get::<Claim>(&claim_key(server)) {
        Some(old) => {
            let mut new = (*old).clone();
            new.spec = claim.spec;
            new.status = ClaimStatus::default();
            tx.update(&old, new).map(|_| ())
        }
        None => tx.create(claim).map(|_| ()),
    }
}

/// Frees a server's place and lets its ports go.
///
/// # Errors
/// What the rules of claims and ports say.
pub(crate) fn leave(tx: &mut Tx<'_>, server: &mut Resource<Server>) -> Result<(), StoreError> {
    if let Some(claim) = tx.get::<Claim>(&claim_key(server)) {
        tx.delete::<Claim>(&claim)?;
    }
    server.status.host = None;
    server.status.slot = None;
    server.status.base = None;
    super::volumes::leave(tx, server)?;
    super::rules::bind_ports(tx, server, None)
}

fn claim_key(server: &Resource<Server>) -> Key {
    Key::new(Claim::NAME, server.project(), "", server.name())
}

fn own_claim(tx: &Tx<'_>, server: &Resource<Server>) -> Result<std::sync::Arc<Resource<Claim>>, StoreError> {
    let key = claim_key(server);
    tx.get::<Claim>(&key).ok_or(StoreError::NotFound { key })
}
