//! What is counted of hosts, brought to what claims have: usage and seats.
//!
//! Both are counted in the transaction that gives them, so the two agree after any crash. Where they do not (a defect, a
//! record brought back by hand), what claims say is the truth.

use ahash::AHashMap;
use madang_store::{Cause, Drift, Moment, Store, Sums};
use tracing::error;

use super::rules::{SEATS, USAGE, seat_amounts, seat_group, usage_group};
use crate::{Amounts, Claim};

/// Where counters and claims differ.
pub fn drifts(store: &Store) -> Vec<Drift> {
    store.drifts(is_ours, had)
}

/// Brings the counters to what claims have. For the start.
pub async fn run(store: &Store) {
    if let Err(failed) = store.recount(Cause::system("scheduler"), is_ours, had).await {
        error!(%failed, "could not bring what is counted to what claims have");
    }
}

fn is_ours(group: &str) -> bool {
    group.starts_with(USAGE) || group.starts_with(SEATS)
}

/// What claims have of each provider.
fn had(moment: &Moment<'_>) -> Sums {
    let claims = moment.view::<Claim>();
    let mut usage: AHashMap<&str, Amounts> = AHashMap::new();
    let mut sums = Sums::default();
    for claim in claims.all() {
        for (provider, amounts) in claim.status.given(&claim.spec) {
            let of_provider = usage.entry(provider).or_default();
            amounts
                .iter()
                .for_each(|(class, amount)| of_provider.add(class, amount));
        }
        let Some(provider) = claim
            .status
            .provider
            .as_ref()
            .filter(|_| !claim.status.seats.is_empty())
        else {
            continue;
        };
        for (_, field, amount) in claim.status.seats.iter().flat_map(seat_amounts) {
            sums.add("", &seat_group(provider), &field, amount);
        }
    }
    for (provider, amounts) in usage {
        let group = usage_group(provider);
        amounts
            .iter()
            .for_each(|(class, amount)| sums.add("", &group, class, amount));
    }
    sums
}
