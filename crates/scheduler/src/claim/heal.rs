//! What is counted, brought to what is there.
//!
//! Usage is counted in the transaction that gives it, so the two agree after any crash. Where they do not (a defect, a
//! record brought back by hand), what claims say is the truth.

use std::{collections::BTreeSet, time::Duration};

use ahash::AHashMap;
use madang_store::{Cause, Delta, Store};
use tracing::{error, warn};

use super::rules::usage_group;
use crate::{Amounts, Claim, Provider};

/// A provider's class of which another amount is counted than claims have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drift {
    /// The provider's uuid.
    pub provider: String,
    /// The resource class.
    pub class: String,
    /// What is counted.
    pub counted: i64,
    /// What claims have.
    pub had: i64,
}

/// Where counters and claims differ, as the caches show them.
pub fn drifts(store: &Store) -> Vec<Drift> {
    let claims = store.cache::<Claim>().all();
    let mut had: AHashMap<&str, Amounts> = AHashMap::new();
    for claim in &claims {
        for (provider, amounts) in claim.status.given(&claim.spec) {
            let of_provider = had.entry(provider).or_default();
            amounts
                .iter()
                .for_each(|(class, amount)| of_provider.add(class, amount));
        }
    }
    let providers = store.cache::<Provider>().all();
    let known: BTreeSet<&str> = providers
        .iter()
        .map(|provider| provider.name())
        .chain(had.keys().copied())
        .collect();
    let mut drifts = Vec::new();
    for provider in known {
        let counted = store.counters("", &usage_group(provider));
        let had = had.remove(provider).unwrap_or_default();
        let classes: BTreeSet<&str> = counted
            .keys()
            .map(String::as_str)
            .chain(had.iter().map(|(class, _)| &**class))
            .collect();
        for class in classes {
            let (counted, had) = (counted.get(class).copied().unwrap_or(0), had.get(class).unwrap_or(0));
            if counted != had {
                drifts.push(Drift {
                    provider: provider.to_owned(),
                    class: class.to_owned(),
                    counted,
                    had,
                });
            }
        }
    }
    drifts
}

/// How long a difference has to last: one that is just being written looks like one for a moment.
const LASTS: Duration = Duration::from_millis(500);

/// Brings the counters to what claims have, where they differ and go on to differ. For the start.
pub async fn run(store: &Store) {
    let first = drifts(store);
    if first.is_empty() {
        return;
    }
    tokio::time::sleep(LASTS).await;
    let found: Vec<Drift> = drifts(store)
        .into_iter()
        .filter(|drift| first.contains(drift))
        .collect();
    if found.is_empty() {
        return;
    }
    let mut tx = store.begin(Cause::system("scheduler"));
    for drift in &found {
        warn!(
            provider = drift.provider,
            class = drift.class,
            counted = drift.counted,
            had = drift.had,
            "usage was miscounted"
        );
        let delta = Delta {
            field: drift.class.clone(),
            add: drift.had - drift.counted,
            limit: None,
        };
        tx.add("", &usage_group(&drift.provider), vec![delta]);
    }
    if let Err(failed) = tx.commit().await {
        error!(%failed, "could not bring usage to what claims have");
    }
}
