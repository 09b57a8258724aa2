//! Allocations as Placement writes them: all of several consumers' at once, or none of them.
//!
//! What is written through the API bumps the generations of the providers that give, as Placement does. Capacity is
//! looked at here for the words, and again inside the commit, where it counts.

use std::collections::{BTreeMap, BTreeSet};

use madang_http::Failure;
use madang_store::{Delta, Metadata, Resource, StoreError, Tx};
use uuid::Uuid;

use super::rules::usage_group;
use crate::{
    Amounts, Claim, ClaimSpec, ClaimStatus, Inventory, Provider, Share,
    api::{concurrent_update, failure},
    class::is_class,
    provider::rules::key,
};

/// What one consumer is to have: this, and nothing else.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// The consumer.
    pub(crate) consumer: Uuid,
    /// Whose it is; what it was, or unknown, when none.
    pub(crate) project: Option<String>,
    /// Who asked.
    pub(crate) user: Option<String>,
    /// Its type; what it was, or unknown, when none.
    pub(crate) kind: Option<String>,
    /// Which state of the consumer the writer decided on: `Some(None)` for a new one. Not looked at when none.
    #[allow(clippy::option_option, reason = "not said, new, and a number are three answers")]
    pub(crate) generation: Option<Option<u64>>,
    /// By provider, what it gives.
    pub(crate) shares: BTreeMap<String, Amounts>,
}

/// The project and user of consumers from before Placement asked for them. Source: placement's configuration.
const INCOMPLETE: &str = "00000000-0000-0000-0000-000000000000";

/// Writes what consumers are to have into a transaction. `prefix` begins what is said of amounts that do not fit.
///
/// # Errors
/// What Placement refuses, in its words.
pub(crate) fn write(tx: &mut Tx<'_>, wanted: &[Wanted]) -> Result<(), Failure> {
    let mut known = Vec::new();
    for one in wanted {
        let name = one.consumer.to_string();
        let claim = tx.store().cache::<Claim>().by_name(&name);
        let claim = claim.and_then(|claim| tx.get::<Claim>(&claim.key()));
        check_consumer(one, claim.as_deref())?;
        known.push(claim);
    }
    check_room(tx, wanted, &known)?;
    let mut givers: BTreeSet<String> = BTreeSet::new();
    for (one, claim) in wanted.iter().zip(&known) {
        givers.extend(one.shares.keys().cloned());
        if one.shares.is_empty() {
            givers.extend(claim.iter().flat_map(|claim| {
                let given = claim.status.given(&claim.spec);
                given.map(|(provider, _)| provider.to_owned()).collect::<Vec<_>>()
            }));
        }
        write_one(tx, one, claim.as_deref()).map_err(failure)?;
    }
    for giver in &givers {
        bump(tx, giver).map_err(failure)?;
    }
    keep_bounds(tx, wanted);
    Ok(())
}

/// Since 1.28 a writer says which state of the consumer it decided on; none for a new one.
fn check_consumer(wanted: &Wanted, known: Option<&Resource<Claim>>) -> Result<(), Failure> {
    if let Some(asked) = wanted.generation {
        let now = known.map(|claim| claim.status.generation);
        if asked != now {
            let words = |generation: Option<u64>, none: &str| generation.map_or(none.to_owned(), |g| g.to_string());
            return Err(concurrent_update(&format!(
                "consumer generation conflict - expected {} but got {}",
                words(now, "null"),
                words(asked, "None")
            )));
        }
    }
    if known.is_some_and(|claim| !claim.metadata.owners.is_empty()) {
        return Err(Failure::conflict(format!(
            "the allocation of {} belongs to the scheduler, as long as the server lives",
            wanted.consumer
        )));
    }
    Ok(())
}

/// Whether everything fits when all is written.
fn check_room(
    tx: &Tx<'_>,
    wanted: &[Wanted],
    known: &[Option<std::sync::Arc<Resource<Claim>>>],
) -> Result<(), Failure> {
    let mut freed: BTreeMap<(&str, &str), i64> = BTreeMap::new();
    for claim in known.iter().flatten() {
        for (provider, amounts) in claim.status.given(&claim.spec) {
            for (class, amount) in amounts {
                *freed.entry((provider, class)).or_default() += amount;
            }
        }
    }
    let mut taken: BTreeMap<(&str, &str), i64> = BTreeMap::new();
    for one in wanted {
        for (id, amounts) in &one.shares {
            let provider = tx.get::<Provider>(&key(id)).ok_or_else(|| {
                Failure::invalid(format!("Allocation for resource provider '{id}' that does not exist."))
                    .at("allocations")
            })?;
            let used = tx.store().counters("", &usage_group(id));
            for (class, amount) in amounts {
                if !is_class(tx.store(), class) {
                    let message = format!(
                        "Unable to allocate inventory for consumer {}: No such resource class {class}.",
                        one.consumer
                    );
                    return Err(Failure::invalid(message).at("allocations"));
                }
                let refuse = |why: String| Failure::conflict(format!("Unable to allocate inventory: {why}"));
                let Some(inventory) = provider.spec.inventories.get(&**class) else {
                    return Err(refuse(format!(
                        "Inventory for '{class}' on resource provider '{id}' invalid."
                    )));
                };
                let on = format!("Unable to create allocation for '{class}' on resource provider '{id}'.");
                if !inventory.takes(amount) {
                    return Err(refuse(format!(
                        "{on} The requested amount would violate inventory constraints."
                    )));
                }
                let place = (id.as_str(), &**class);
                let total = taken.entry(place).or_default();
                *total += amount;
                let before = used.get(&**class).copied().unwrap_or(0);
                let after = before - freed.get(&place).copied().unwrap_or(0) + *total;
                // Who has too much since there is less may still have less of it.
                if after > inventory.capacity() && after >= before {
                    return Err(refuse(format!("{on} The requested amount would exceed the capacity.")));
                }
            }
        }
    }
    Ok(())
}

fn write_one(tx: &mut Tx<'_>, wanted: &Wanted, known: Option<&Resource<Claim>>) -> Result<(), StoreError> {
    if wanted.shares.is_empty() {
        return known.map_or(Ok(()), |claim| tx.delete(claim));
    }
    let name = wanted.consumer.to_string();
    let project = wanted
        .project
        .clone()
        .or_else(|| known.map(|claim| claim.project().to_owned()));
    let project = project.unwrap_or_else(|| INCOMPLETE.to_owned());
    let mut spec = known.map(|claim| claim.spec.clone()).unwrap_or_else(|| ClaimSpec {
        user: INCOMPLETE.to_owned(),
        ..ClaimSpec::default()
    });
    if let Some(user) = &wanted.user {
        spec.user.clone_from(user);
    }
    if let Some(kind) = &wanted.kind {
        spec.consumer_kind.clone_from(kind);
    }
    let all = wanted
        .shares
        .values()
        .flat_map(|amounts| amounts.iter().map(|(class, n)| (class.clone(), n)));
    spec.resources = all.collect();
    let status = ClaimStatus {
        generation: known.map_or(1, |claim| claim.status.generation + 1),
        // What is freed and taken in one request need not be in that order: the bound is kept at the end.
        is_handed_over: true,
        ..place(tx, wanted)
    };
    match known {
        Some(old) if old.project() == project => {
            let mut new = old.clone();
            (new.spec, new.status) = (spec, status);
            tx.update(old, new).map(|_| ())
        }
        other => {
            // The project is part of where a claim is stored: another one is another record of the same consumer.
            if let Some(old) = other {
                tx.delete(old)?;
            }
            let mut claim = Resource::<Claim>::new(Metadata::with_uid(wanted.consumer, project, name), spec);
            claim.status = status;
            tx.create(claim).map(|_| ())
        }
    }
}

/// Where the shares place a claim: on the host whose tree gives most of the classes.
fn place(tx: &Tx<'_>, wanted: &Wanted) -> ClaimStatus {
    let mut shares = wanted.shares.iter();
    let (Some((first, _)), rest) = (shares.next(), shares.next()) else {
        return ClaimStatus::default();
    };
    let host = tx
        .get::<Provider>(&key(first))
        .map(|provider| provider.spec.name.clone());
    ClaimStatus {
        host,
        provider: Some(first.clone()),
        shares: match rest {
            None => Vec::new(),
            Some(_) => {
                let share = |(provider, resources): (&String, &Amounts)| Share {
                    provider: provider.clone(),
                    resources: resources.clone(),
                };
                wanted.shares.iter().map(share).collect()
            }
        },
        ..ClaimStatus::default()
    }
}

/// Counts the generation of a provider up.
fn bump(tx: &mut Tx<'_>, id: &str) -> Result<(), StoreError> {
    if let Some(provider) = tx.get::<Provider>(&key(id)) {
        let mut new = (*provider).clone();
        new.spec.generation += 1;
        tx.update(&provider, new)?;
    }
    Ok(())
}

/// Keeps the capacity inside the commit, after everything is freed and taken.
fn keep_bounds(tx: &mut Tx<'_>, wanted: &[Wanted]) {
    for (id, amounts) in wanted.iter().flat_map(|one| &one.shares) {
        let Some(provider) = tx.get::<Provider>(&key(id)) else {
            continue;
        };
        let used = tx.store().counters("", &usage_group(id));
        let mut probe = Vec::new();
        for (class, _) in amounts {
            let capacity = provider.spec.inventories.get(&**class).map_or(0, Inventory::capacity);
            // Who has too much already was allowed to have less, see above.
            let bound = capacity.max(used.get(&**class).copied().unwrap_or(0));
            let add = |add, limit| Delta {
                field: class.to_string(),
                add,
                limit,
            };
            // A limit is only looked at where something is added.
            probe.extend([add(1, Some(bound + 1)), add(-1, None)]);
        }
        tx.add("", &usage_group(id), probe);
    }
}
