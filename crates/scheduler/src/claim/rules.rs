//! What holds for claims, whoever writes them: usage is counted where a claim is placed, within the capacity.

use std::collections::BTreeMap;

use madang_store::{Delta, ErrorKind, Op, Rejection, Resource, StoreError, Tx};

use crate::{Claim, Class, Inventory, Provider};

/// The counter group of a provider's usage; its fields are resource classes.
pub fn usage_group(provider: &str) -> String {
    format!("usage/{provider}")
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
            if old.status.given(&old.spec).eq(new.status.given(&new.spec)) {
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
