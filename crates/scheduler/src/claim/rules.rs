//! What holds for claims, whoever writes them: usage is counted where a claim is placed, within the capacity.

use madang_store::{Delta, ErrorKind, Op, Rejection, Resource, StoreError, Tx};

use crate::{Claim, Provider};

/// The counter group of a provider's usage; its fields are resource classes.
pub fn usage_group(provider: &str) -> String {
    format!("usage/{provider}")
}

/// The rule of the kind.
pub(crate) fn admit(tx: &mut Tx<'_>, op: Op<'_, Claim>) -> Result<(), StoreError> {
    match op {
        Op::Create(claim) => {
            check(claim)?;
            count(tx, claim)
        }
        Op::Update { old, new } => {
            check(new)?;
            let same = old.status.provider == new.status.provider && old.spec.resources == new.spec.resources;
            if !same {
                release(tx, old);
                count(tx, new)?;
            }
            Ok(())
        }
        Op::Remove(claim) => {
            release(tx, claim);
            Ok(())
        }
    }
}

fn check(claim: &Resource<Claim>) -> Result<(), Rejection> {
    match claim.spec.resources.iter().find(|(_, amount)| **amount < 1) {
        Some((class, amount)) => {
            let message = format!("{amount} of {class} cannot be claimed, at least 1 can");
            Err(Rejection::new(ErrorKind::Invalid, "InvalidAmount", message).at(format!("resources.{class}")))
        }
        None => Ok(()),
    }
}

/// Counts a placed claim against its provider; fails at commit with `LimitExceeded` when there is no room any more.
fn count(tx: &mut Tx<'_>, claim: &Resource<Claim>) -> Result<(), StoreError> {
    let Some(id) = &claim.status.provider else {
        return Ok(());
    };
    let provider = tx.store().cache::<Provider>().by_name(id).ok_or_else(|| {
        Rejection::new(
            ErrorKind::Conflict,
            "NoSuchProvider",
            format!("there is no resource provider {id}"),
        )
    })?;
    let deltas = claim.spec.resources.iter().map(|(class, amount)| Delta {
        field: class.clone(),
        add: *amount,
        limit: Some(
            provider
                .spec
                .inventories
                .get(class)
                .map_or(0, crate::Inventory::capacity),
        ),
    });
    tx.add("", &usage_group(id), deltas.collect());
    Ok(())
}

fn release(tx: &mut Tx<'_>, claim: &Resource<Claim>) {
    if let Some(id) = &claim.status.provider {
        let deltas = claim.spec.resources.iter();
        let deltas = deltas.map(|(class, amount)| Delta {
            field: class.clone(),
            add: -*amount,
            limit: None,
        });
        tx.add("", &usage_group(id), deltas.collect());
    }
}
