//! The scheduler: takes pending claims in bulk and gives each a host.
//!
//! ```text
//! pending claims ──up to 256──► choose hosts on one view ──► one transaction ──► placed, or failed with the reason
//! ```
//! The view is what the caches show plus what this round has given away. Capacity is checked again inside the commit: a
//! round that loses a race is decided anew.

use std::{collections::HashMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use madang_control::{Backoff, Queue, TaskGroup};
use madang_store::{Cause, Key, Resource, Store, StoreError};
use tracing::{info, warn};
use uuid::Uuid;

use crate::{
    Claim, Provider,
    claim::rules::usage_group,
    placement::{HostView, choose},
};

/// Claims placed in one transaction at most.
const ROUND: usize = 256;
/// A host that was not heard of for this long takes nothing. Heartbeats come every minute.
pub const HEARTBEAT_LIMIT: Duration = Duration::from_secs(180);
/// How often everything pending is looked at without a change.
const RESYNC: Duration = Duration::from_secs(60);

/// Starts the scheduler in `group`.
pub fn run(store: &Store, group: &TaskGroup) {
    let queue = Queue::<Key>::new(Backoff::default());
    let arrivals = queue.clone();
    store.cache::<Claim>().on_change(move |change| {
        if let Some(claim) = change.new.as_ref().filter(|claim| claim.status.is_pending()) {
            arrivals.add(claim.key());
        }
    });
    let (clock, everything) = (queue.clone(), store.clone());
    group.spawn_until_stopped("scheduler-clock", async move {
        loop {
            for claim in everything.cache::<Claim>().by("pending", "yes") {
                clock.add(claim.key());
            }
            tokio::time::sleep(RESYNC).await;
        }
    });
    let (store, token) = (store.clone(), group.token());
    group.spawn("scheduler", async move {
        let mut turn = 0;
        loop {
            let first = tokio::select! {
                ticket = queue.next() => ticket,
                () = token.cancelled() => return,
            };
            let mut tickets = vec![first];
            tickets.extend(queue.take_ready(ROUND - 1));
            let keys: Vec<Key> = tickets.iter().map(|ticket| ticket.key().clone()).collect();
            match place(&store, &keys, turn).await {
                Ok(()) => tickets.into_iter().for_each(madang_control::Ticket::done),
                Err(error) => {
                    warn!(%error, claims = keys.len(), "could not place claims, trying again");
                    tickets.into_iter().for_each(madang_control::Ticket::failed);
                }
            }
            turn = turn.wrapping_add(1);
        }
    });
}

/// Places (or fails) the pending ones of `keys` in one transaction.
async fn place(store: &Store, keys: &[Key], turn: usize) -> Result<(), StoreError> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        let decided = store
            .transact(Cause::system("scheduler"), |tx| round(tx, keys, turn))
            .await;
        match decided {
            // The view was older than the usage: the newest is in the caches now.
            Err(StoreError::LimitExceeded { .. }) if attempts < 8 => {
                let newest = store.backend().revision().await?;
                store.reached(newest).await?;
            }
            other => return other,
        }
    }
}

fn round(tx: &mut madang_store::Tx<'_>, keys: &[Key], turn: usize) -> Result<(), StoreError> {
    let mut hosts = view(tx.store(), tx.at());
    let mut placed_groups: HashMap<Uuid, Vec<String>> = HashMap::new();
    for key in keys {
        let Some(claim) = tx
            .get::<Claim>(key)
            .filter(|c| c.status.is_pending() && !c.metadata.is_deleting())
        else {
            continue;
        };
        let members = members(tx.store(), &claim, &placed_groups);
        let mut new = (*claim).clone();
        match choose(&claim.spec, &hosts, &members, turn) {
            Ok(index) => {
                let host = &mut hosts[index];
                for (class, amount) in &claim.spec.resources {
                    *host.used.entry(class.to_string()).or_default() += amount;
                }
                let name = host.provider.spec.name.clone();
                if let Some(group) = &claim.spec.group {
                    placed_groups.entry(group.id).or_default().push(name.clone());
                }
                new.status.provider = Some(host.provider.name().to_owned());
                new.status.host = Some(name);
                new.status.generation += 1;
            }
            Err(reason) => {
                info!(consumer = claim.name(), reason, "no host for a claim");
                new.status.failure = Some(reason);
            }
        }
        tx.update(&claim, new)?;
    }
    Ok(())
}

/// Every host, with what is taken of it.
fn view(store: &Store, now: Timestamp) -> Vec<HostView> {
    let mut providers = store.cache::<Provider>().all();
    providers.sort_unstable_by(|a, b| a.spec.name.cmp(&b.spec.name));
    let host = |provider: Arc<Resource<Provider>>| HostView {
        used: store.counters("", &usage_group(provider.name())),
        is_alive: is_alive(&provider, now),
        provider,
    };
    providers.into_iter().map(host).collect()
}

/// Whether a provider's agent was heard of lately, and nobody says that it is down all the same.
pub fn is_alive(provider: &Resource<Provider>, now: Timestamp) -> bool {
    let is_heard = |seen: Timestamp| now.duration_since(seen).unsigned_abs() < HEARTBEAT_LIMIT;
    !provider.spec.is_forced_down && provider.status.seen.is_some_and(is_heard)
}

/// The hosts of a claim's group, once for each member that has one.
fn members(store: &Store, claim: &Resource<Claim>, placed: &HashMap<Uuid, Vec<String>>) -> Vec<String> {
    let Some(group) = &claim.spec.group else {
        return Vec::new();
    };
    let others = store.cache::<Claim>().by("group", &group.id.to_string());
    let mut hosts: Vec<String> = others.iter().filter_map(|other| other.status.host.clone()).collect();
    hosts.extend(placed.get(&group.id).into_iter().flatten().cloned());
    hosts
}
