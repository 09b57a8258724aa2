//! What holds for claims, whoever writes them: usage is counted where a claim is placed, within the capacity.

use std::collections::BTreeMap;

use madang_store::{Delta, ErrorKind, Op, Rejection, Resource, StoreError, Tx};

use crate::{Cell, Claim, Class, Inventory, Provider, Seat};

pub(super) const USAGE: &str = "usage/";
pub(super) const SEATS: &str = "seats/";

/// The counter group of a provider's usage; its fields are resource classes.
pub fn usage_group(provider: &str) -> String {
    format!("{USAGE}{provider}")
}

/// The counter group of what is taken of a provider's NUMA nodes; its fields are processors and pages.
pub fn seat_group(provider: &str) -> String {
    format!("{SEATS}{provider}")
}

/// What a seat counts for: in the pool of which processor or pages, by which field, how much.
pub(super) fn seat_amounts(seat: &Seat) -> impl Iterator<Item = (Pool, String, i64)> {
    let cpus = seat.cpus.iter().map(|cpu| (Pool::Cpu(*cpu), format!("cpu/{cpu}"), 1));
    let pages = seat
        .pages
        .map(|(kib, number)| (Pool::Pages(kib), format!("pages/{}/{kib}", seat.cell), number as i64));
    cpus.chain(pages)
}

/// What there is some of on a NUMA node.
pub(super) enum Pool {
    /// A processor, given to one claim.
    Cpu(u32),
    /// Pages of a size in KiB.
    Pages(u64),
}

impl Pool {
    /// How much of it a node has.
    fn capacity(&self, cell: &Cell) -> i64 {
        match self {
            Self::Cpu(cpu) => i64::from(cell.dedicated.contains(cpu)),
            Self::Pages(kib) => cell.pages.get(kib).copied().unwrap_or(0) as i64,
        }
    }
}

/// The rule of the kind.
pub(crate) fn admit(tx: &mut Tx<'_>, op: Op<'_, Claim>) -> Result<(), StoreError> {
    match op {
        Op::Create(claim) => {
            check(claim)?;
            count(tx, None, Some(claim))
        }
        Op::Update { old, new } => {
            check(new)?;
            if old.status.given(&old.spec).eq(new.status.given(&new.spec)) && old.status.seats == new.status.seats {
                return Ok(());
            }
            count(tx, Some(old), Some(new))
        }
        Op::Remove(claim) => count(tx, Some(claim), None),
    }
}

fn check(claim: &Resource<Claim>) -> Result<(), Rejection> {
    let asked = claim.spec.resources.iter();
    let given = claim.status.shares.iter().flat_map(|share| share.resources.iter());
    match asked.chain(given).find(|(_, amount)| *amount < 1) {
        Some((class, amount)) => {
            let message = format!("{amount} of {class} cannot be claimed, at least 1 can");
            Err(Rejection::new(ErrorKind::Invalid, "InvalidAmount", message).at(format!("resources.{class}")))
        }
        None => Ok(()),
    }
}

/// Counts what changes hands against the providers; fails at commit with `LimitExceeded` where there is no room any more.
/// Only what grows is held to the capacity: who has more than there is since it was made smaller may keep it, or less.
fn count(tx: &mut Tx<'_>, old: Option<&Resource<Claim>>, new: Option<&Resource<Claim>>) -> Result<(), StoreError> {
    let mut changes: BTreeMap<&str, BTreeMap<&Class, i64>> = BTreeMap::new();
    for (claim, sign) in [(old, -1), (new, 1)] {
        for (provider, resources) in claim.into_iter().flat_map(|claim| claim.status.given(&claim.spec)) {
            let of_provider = changes.entry(provider).or_default();
            for (class, amount) in resources.iter() {
                *of_provider.entry(class).or_default() += sign * amount;
            }
        }
    }
    let is_move = new.is_some_and(|claim| claim.status.is_handed_over);
    for (id, mut amounts) in changes {
        amounts.retain(|_, amount| *amount != 0);
        let grows = amounts.values().any(|amount| *amount > 0);
        let inventories = if grows && !is_move {
            Some(inventories(tx, id)?)
        } else {
            None
        };
        let deltas = amounts.into_iter().map(|(class, add)| Delta {
            field: class.to_string(),
            add,
            limit: inventories
                .as_ref()
                .filter(|_| add > 0)
                .map(|known| known.spec.inventories.get(&**class).map_or(0, Inventory::capacity)),
        });
        let deltas = deltas.collect();
        tx.add("", &usage_group(id), deltas);
    }
    count_seats(tx, old, new, is_move)
}

/// Counts what changes hands of the providers' NUMA nodes: each processor once, as many pages as there are.
fn count_seats(
    tx: &mut Tx<'_>,
    old: Option<&Resource<Claim>>,
    new: Option<&Resource<Claim>>,
    is_move: bool,
) -> Result<(), StoreError> {
    for (claim, sign) in [(old, -1), (new, 1)] {
        let Some(claim) = claim.filter(|claim| !claim.status.seats.is_empty()) else {
            continue;
        };
        let Some(id) = &claim.status.provider else { continue };
        let is_bounded = sign > 0 && !is_move;
        let provider = is_bounded.then(|| inventories(tx, id)).transpose()?;
        let cells = provider.as_ref().and_then(|known| known.status.capabilities.as_deref());
        let cells = cells.map_or(&[][..], |own| &own.cells);
        let mut deltas = Vec::new();
        for seat in &claim.status.seats {
            let cell = cells.iter().find(|cell| cell.id == seat.cell);
            deltas.extend(seat_amounts(seat).map(|(pool, field, amount)| Delta {
                field,
                add: sign * amount,
                limit: is_bounded.then(|| cell.map_or(0, |cell| pool.capacity(cell))),
            }));
        }
        tx.add("", &seat_group(id), deltas);
    }
    Ok(())
}

/// The provider as this transaction leaves it.
fn inventories(tx: &Tx<'_>, id: &str) -> Result<std::sync::Arc<Resource<Provider>>, Rejection> {
    let key = madang_store::Key::new(<Provider as madang_store::Kind>::NAME, "", "", id);
    tx.get::<Provider>(&key).ok_or_else(|| {
        Rejection::new(
            ErrorKind::Conflict,
            "NoSuchProvider",
            format!("there is no resource provider {id}"),
        )
    })
}
