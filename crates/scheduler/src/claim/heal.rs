//! What is counted, brought to what is there.
//!
//! Usage is counted in the transaction that gives it, so the two agree after any crash. Where they do not (a defect, a
//! record brought back by hand), what claims say is the truth.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use madang_store::{Cause, Delta, Store};
use tracing::{error, warn};

use super::rules::usage_group;
use crate::{Claim, Provider};

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
    let mut had: BTreeMap<String, BTreeMap<String, i64>> = BTreeMap::new();
    for claim in store.cache::<Claim>().all() {
        for (provider, amounts) in claim.status.given(&claim.spec) {
            let of_provider = had.entry(provider.to_owned()).or_default();
            for (class, amount) in amounts {
                *of_provider.entry(class.to_string()).or_default() += amount;
            }
        }
    }
    let known: BTreeSet<String> = store
        .cache::<Provider>()
        .all()
        .iter()
        .map(|provider| provider.name().to_owned())
        .chain(had.keys().cloned())
        .collect();
    let mut drifts = Vec::new();
    for provider in known {
        let counted = store.counters("", &usage_group(&provider));
        let had = had.remove(&provider).unwrap_or_default();
        let classes: BTreeSet<&String> = counted.keys().chain(had.keys()).collect();
        for class in classes {
            let (counted, had) = (
                counted.get(class).copied().unwrap_or(0),
                had.get(class).copied().unwrap_or(0),
            );
            if counted != had {
                drifts.push(Drift {
                    provider: provider.clone(),
                    class: class.clone(),
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
