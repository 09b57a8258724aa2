//! Networks that stay ready on a host though nothing there is on them. Pure.
//!
//! A bridge, a service point and a router take longer to make than everything else a workload waits for, and removing
//! them holds the kernel's lock on links for longer still. So what a network needs stays for a while after its last port
//! ([`Options::linger`](super::Options::linger)), and the networks that a host most likely sees first are made before
//! anybody asks ([`ready_ahead`]). A network that is deleted is no network any more: nothing of it is kept.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use madang_store::Store;
use tokio::time::Instant;

use super::view;
use crate::{Network, Port};

/// Networks made ready ahead: the first ones of a cloud. Each costs two namespaces and the links between them, about
/// half a megabyte of the kernel's memory; the next workload of any other network waits for them once.
const READY_AHEAD: usize = 4;

/// What is kept, by the network's id.
#[derive(Debug, Default)]
pub(super) struct Kept {
    in_use: BTreeSet<String>,
    /// Until when networks out of use stay.
    until: BTreeMap<String, Instant>,
    ahead: BTreeSet<String>,
}

impl Kept {
    /// Networks that were found on the host after a restart stay as if their last port had gone just now.
    pub fn found(&mut self, networks: impl IntoIterator<Item = String>, until: Instant) {
        self.until.extend(networks.into_iter().map(|network| (network, until)));
    }

    /// Networks that stay ready without any end.
    pub fn make_ready(&mut self, networks: BTreeSet<String>) {
        self.ahead = networks;
    }

    /// Takes note of what is in use at this moment; returns what is to be kept beside it.
    pub fn look(&mut self, in_use: BTreeSet<String>, now: Instant, linger: Duration) -> BTreeSet<String> {
        for left in self.in_use.difference(&in_use) {
            self.until.insert(left.clone(), now + linger);
        }
        self.until
            .retain(|network, until| *until > now && !in_use.contains(network));
        self.in_use = in_use;
        self.until.keys().chain(&self.ahead).cloned().collect()
    }

    /// When the next one has been kept long enough.
    pub fn next_end(&self) -> Option<Instant> {
        self.until.values().min().copied()
    }
}

/// Ids of the networks to make ready ahead: the oldest that a router joins to others.
pub(super) fn ready_ahead(store: &Store) -> BTreeSet<String> {
    let ports = store.cache::<Port>().all();
    let joined = ports.iter().filter(|port| view::is_router_interface(port));
    let joined: BTreeSet<&String> = joined.map(|port| &port.spec.network_id).collect();
    let networks = joined.into_iter().filter_map(|id| store.cache::<Network>().by_name(id));
    let mut networks: Vec<_> = networks.filter(|network| !network.spec.is_external).collect();
    networks.sort_by(|a, b| (a.metadata.created, a.name()).cmp(&(b.metadata.created, b.name())));
    let first = networks.iter().take(READY_AHEAD);
    first.map(|network| network.name().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINGER: Duration = Duration::from_secs(60);

    fn set(ids: &[&str]) -> BTreeSet<String> {
        ids.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_network_stays_for_a_while_after_its_last_port_and_its_time_starts_anew_with_each() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut kept = Kept::default();
        assert_eq!(kept.look(set(&["a", "b"]), at(0), LINGER), set(&[]));
        assert_eq!(kept.next_end(), None);
        assert_eq!(kept.look(set(&["b"]), at(100), LINGER), set(&["a"]));
        assert_eq!(kept.next_end(), Some(at(160)));
        assert_eq!(kept.look(set(&["a", "b"]), at(130), LINGER), set(&[]));
        assert_eq!(kept.next_end(), None);
        assert_eq!(kept.look(set(&[]), at(140), LINGER), set(&["a", "b"]));
        assert_eq!(kept.look(set(&[]), at(199), LINGER), set(&["a", "b"]));
        assert_eq!(kept.look(set(&[]), at(200), LINGER), set(&[]));
    }

    #[test]
    fn what_a_restart_found_stays_as_long_and_what_is_ready_ahead_stays() {
        let begun = Instant::now();
        let mut kept = Kept::default();
        kept.found(["a".to_owned()], begun + LINGER);
        kept.make_ready(set(&["r"]));
        assert_eq!(kept.look(set(&["b"]), begun, LINGER), set(&["a", "r"]));
        assert_eq!(kept.look(set(&["b"]), begun + LINGER, LINGER), set(&["r"]));
    }
}
