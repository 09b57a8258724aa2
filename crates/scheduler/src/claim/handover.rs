//! Claims that change hands: a consumer keeps its old place while it asks for another.
//!
//! ```text
//! resize, migrate:  server ──set_aside──► server: pending with its new wish    migration: what the server had
//! confirm:                                server: what it got                   migration ──let_go──► given back
//! revert, failure:                        server ──take_back──► what it had     migration: gone
//! ```
//! As Nova moves allocations to a migration's uuid. Each verb is part of the caller's transaction; nothing is free in
//! between, and what is handed over is not held to a capacity that shrank meanwhile.

use std::sync::Arc;

use madang_store::{Key, Kind, Metadata, OwnerReference, Resource, StoreError, Tx};

use crate::{Claim, ClaimSpec, ClaimStatus};

/// The kind of consumer that holds what another had.
pub const MIGRATIONS: &str = "migrations";

/// Gives what `claim` has to the consumer `migration`, and has `claim` ask for `wanted` instead: it is pending then.
/// `owner` takes what was set aside with it when it goes, mostly the server. Returns the claim that is set aside.
///
/// # Errors
/// `Exists` when that consumer has a claim; `Conflict` (at commit) when `claim` has changed since it was read.
pub fn set_aside(
    tx: &mut Tx<'_>,
    claim: &Resource<Claim>,
    migration: &str,
    owner: OwnerReference,
    wanted: ClaimSpec,
) -> Result<Arc<Resource<Claim>>, StoreError> {
    let mut metadata = Metadata::new(claim.project(), migration);
    metadata.owners = vec![owner];
    let mut kept = Resource::<Claim>::new(metadata, claim.spec.clone());
    kept.spec.consumer_kind = MIGRATIONS.to_owned();
    // Only the server itself counts in its group, and only it is at work.
    kept.spec.group = None;
    kept.spec.is_busy = false;
    kept.status = ClaimStatus {
        generation: 1,
        is_handed_over: true,
        ..claim.status.clone()
    };
    let kept = tx.create(kept)?;
    let mut asking = claim.clone();
    asking.spec = wanted;
    asking.status = ClaimStatus {
        generation: claim.status.generation,
        ..ClaimStatus::default()
    };
    tx.update(claim, asking)?;
    Ok(kept)
}

/// Gives what was set aside for `migration` back to `claim`, which loses what it got or asked for meanwhile.
///
/// # Errors
/// `NotFound` when nothing is set aside there; `Conflict` (at commit) when either has changed since it was read.
pub fn take_back(
    tx: &mut Tx<'_>,
    claim: &Resource<Claim>,
    migration: &str,
) -> Result<Arc<Resource<Claim>>, StoreError> {
    let key = Key::new(Claim::NAME, claim.project(), "", migration);
    let kept = tx.get::<Claim>(&key).ok_or(StoreError::NotFound { key })?;
    let mut back = claim.clone();
    back.spec = ClaimSpec {
        consumer_kind: claim.spec.consumer_kind.clone(),
        group: claim.spec.group.clone(),
        ..kept.spec.clone()
    };
    back.status = ClaimStatus {
        generation: claim.status.generation + 1,
        is_handed_over: true,
        ..kept.status.clone()
    };
    tx.delete(&*kept)?;
    tx.update(claim, back)
}

/// Gives back to the providers what was set aside for `migration`; nothing when nothing is.
///
/// # Errors
/// `Conflict` (at commit) when it has changed since.
pub fn let_go(tx: &mut Tx<'_>, project: &str, migration: &str) -> Result<(), StoreError> {
    match tx.get::<Claim>(&Key::new(Claim::NAME, project, "", migration)) {
        Some(kept) => tx.delete(&*kept),
        None => Ok(()),
    }
}
