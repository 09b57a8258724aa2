//! What a server's way means for its host, in the scheduler's eyes: it is busy on the host's disks, it could not be built
//! there. Written by the rule of servers, in the transaction that changes the server.

use madang_scheduler::{Claim, Provider};
use madang_store::{Key, Kind as _, Resource, StoreError, Tx};

use super::{Phase, Server, state};

/// Keeps the server's claim and its host's provider true.
pub(super) fn follow(tx: &mut Tx<'_>, old: &Resource<Server>, new: &Resource<Server>) -> Result<(), StoreError> {
    mark_busy(tx, new)?;
    if old.status.phase == Phase::Building {
        count_builds(tx, old, new.status.phase)?;
    }
    Ok(())
}

/// Whether a server keeps its host's disks busy. Source: Nova's `io_workload`.
fn is_busy(server: &Resource<Server>) -> bool {
    let state = state::of(server);
    let works = |task: &str| {
        matches!(
            task,
            "rebuilding"
                | "resize_prep"
                | "resize_migrating"
                | "image_snapshot"
                | "image_backup"
                | "rescuing"
                | "unshelving"
        )
    };
    state.vm_state == "building" || state.task_state.is_some_and(works)
}

fn mark_busy(tx: &mut Tx<'_>, server: &Resource<Server>) -> Result<(), StoreError> {
    let key = Key::new(Claim::NAME, server.project(), "", server.name());
    let is_busy = is_busy(server);
    // One without a host counts nowhere, and may be what this transaction is about.
    let claim = tx
        .get::<Claim>(&key)
        .filter(|claim| claim.status.host.is_some() && claim.spec.is_busy != is_busy);
    let Some(claim) = claim else { return Ok(()) };
    let mut changed = (*claim).clone();
    changed.spec.is_busy = is_busy;
    tx.update(&claim, changed).map(|_| ())
}

/// Counts a build that failed; one that did not makes the host as good as new.
fn count_builds(tx: &mut Tx<'_>, old: &Resource<Server>, phase: Phase) -> Result<(), StoreError> {
    let failed = match phase {
        Phase::Error => true,
        Phase::Active | Phase::Stopped => false,
        _ => return Ok(()),
    };
    let host = old.status.host.as_deref().unwrap_or_default();
    let Some(known) = tx.store().cache::<Provider>().by("name", host).into_iter().next() else {
        return Ok(());
    };
    let Some(provider) = tx.get::<Provider>(&known.key()) else {
        return Ok(());
    };
    let count = if failed {
        provider.status.failed_builds.saturating_add(1)
    } else {
        0
    };
    if count == provider.status.failed_builds {
        return Ok(());
    }
    let mut changed = (*provider).clone();
    changed.status.failed_builds = count;
    tx.update(&provider, changed).map(|_| ())
}
