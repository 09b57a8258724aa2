//! The network agent of one host: makes in the kernel what the store says of networks here.
//!
//! ```text
//!           namespace of the fabric                          namespaces beside it
//!   guest ──tap──┐
//!                ├─ bridge per network ── veth ── service point: DHCP, metadata (one per network)
//!   container ───┘        │
//!                         └──────────── veth ── router: forwarding, address translation (one per router)
//!                                                  │
//!   host's own namespace ── veth ── bridge `outside`┘
//! ```
//! It watches ports bound to its host and everything they depend on, and is two loops: the [`fabric`] wires ports, the
//! [`edge`]s follow. Both decide in pure functions (`View` → `Wanted` → `plan`) and compare with the kernel, so a start
//! after a crash is an ordinary pass: what is right stays untouched, what differs is repaired, what is not wanted goes.
//! Traffic does not notice: filters are replaced in one step, connections live in the kernel.
//!
//! | state of a port | who moves it | after a restart |
//! |---|---|---|
//! | bound, not wired | the agent wires it and writes `wired_on`, `device`, `peer` | wired at the first pass |
//! | wired | | found as it is |
//! | unbound or gone | the agent removes its device | removed at the first pass |
//! | failed | the agent writes `failure` and tries again | tried again |

mod edge;
mod fabric;
mod filter;
mod kept;
pub(crate) mod meter;
pub mod names;
mod outside;
pub(crate) mod plan;
pub(crate) mod ruleset;
#[cfg(test)]
mod sample;
mod service;
mod simulated;
mod status;
mod tagging;
pub(crate) mod translate;
mod view;
pub(crate) mod wanted;

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use madang_control::{Backoff, TaskGroup};
use madang_host::{Instance, netns::Netns};
use madang_store::{Change, Key, Kind, Store};
use parking_lot::{Mutex, RwLock};
pub use service::metadata::MetadataSource;
pub use simulated::simulate;
use tokio::sync::{Notify, watch};
use tracing::{debug, error, warn};

use crate::{
    AddressGroup, FloatingIp, MeteringLabel, MeteringRule, Network, Port, QosPolicy, Router, Rule, SecurityGroup,
    Subnet, SubnetPool, Trunk,
};

/// How long changes are gathered before a pass: a transaction's ports arrive one by one, microseconds apart.
const GATHER: Duration = Duration::from_millis(1);

/// How long what a network needs stays on a host after its last port there: making it anew takes longer than everything
/// else that a workload waits for. Long enough for one to be replaced by another, short enough that networks nobody uses
/// cost nothing for long.
const LINGER: Duration = Duration::from_secs(60);

/// How long after its start an agent makes networks ready ahead: what else starts comes first.
const READY_AFTER: Duration = Duration::from_secs(1);

/// Failures in a row after which ports that wait are told why: the first may pass by themselves.
const TELL_AFTER: u32 = 3;

/// Why a pass did not get through.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The kernel or a program refused.
    #[error("{}", .0.chain())]
    Host(madang_host::Error),
    /// Some links could not be made; which and why is in the log and with their ports.
    #[error("{0} links could not be made")]
    Links(usize),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] madang_store::StoreError),
}

impl From<madang_host::Error> for Error {
    fn from(error: madang_host::Error) -> Self {
        Self::Host(error)
    }
}

/// What can be set about an agent.
#[derive(Clone)]
pub struct Options {
    /// The namespace on whose side the way outside ends: the host's own.
    pub outside: Netns,
    /// Who answers guests' metadata requests; without one they get "unavailable".
    pub metadata: Option<Arc<dyn MetadataSource>>,
    /// Name servers that questions of guests are passed on to, best first; reached from the `outside`.
    pub name_servers: Vec<IpAddr>,
    /// How often everything is compared with the kernel without a change.
    pub resync: Duration,
    /// How long a network's bridge, service point and routers stay after its last port here.
    pub linger: Duration,
    /// How long after the start the first networks are made ready; none leaves that to their first ports.
    pub ready_after: Option<Duration>,
}

impl Default for Options {
    /// The host's own namespace, no metadata, the host's name servers, every five minutes, a minute, after a second.
    fn default() -> Self {
        let resolv = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        Self {
            outside: Netns::OWN,
            metadata: None,
            name_servers: name_servers(&resolv),
            resync: Duration::from_secs(300),
            linger: LINGER,
            ready_after: Some(READY_AFTER),
        }
    }
}

/// The name servers of a `resolv.conf`. Those on the loopback, too: it is this process that asks them.
fn name_servers(resolv: &str) -> Vec<IpAddr> {
    let lines = resolv.lines().filter_map(|line| line.strip_prefix("nameserver"));
    lines.filter_map(|rest| rest.trim().parse().ok()).collect()
}

/// Starts the agent of `host` in `group`. It runs until the group stops, and leaves everything in the kernel as it is;
/// [`Instance::sweep`] removes it.
pub fn run(store: &Store, host: &str, instance: Instance, options: Options, group: &TaskGroup) {
    let shared = Arc::new(Shared::default());
    listen(store, host, &shared);
    let (handover, handed) = watch::channel(None);
    let resync = options.resync;
    let fabric = fabric::FabricAgent::new(
        store.clone(),
        host.to_owned(),
        instance.clone(),
        Arc::clone(&shared),
        handover,
        &options,
    );
    let edges = edge::EdgeAgent::new(
        store.clone(),
        host.to_owned(),
        instance,
        Arc::clone(&shared),
        options,
        group.child("service-points"),
    );
    let token = group.token();
    group.spawn("network-fabric", async move {
        tokio::select! {
            () = run_fabric(fabric, shared, resync) => {}
            () = token.cancelled() => {}
        }
    });
    group.spawn_until_stopped("network-edges", run_edges(edges, handed));
}

/// Passes until it is dropped, which is safe anywhere: every step stands by itself, and the next start compares.
async fn run_fabric(mut fabric: fabric::FabricAgent, shared: Arc<Shared>, resync: Duration) {
    let backoff = Backoff {
        first: Duration::from_millis(200),
        most: Duration::from_secs(30),
    };
    let mut failures = 0;
    let mut is_thorough = true;
    loop {
        let pause = match fabric.pass(is_thorough).await {
            Ok(()) => {
                failures = 0;
                resync
            }
            Err(failed) => {
                failures += 1;
                error!(error = %failed, failures, "could not make the fabric, trying again");
                if failures >= TELL_AFTER {
                    fabric.tell(&failed).await;
                }
                backoff.delay(failures)
            }
        };
        tokio::select! {
            () = shared.wake.notified() => {
                tokio::time::sleep(GATHER).await;
                is_thorough = failures > 0;
            }
            () = due(fabric.next_pass()) => is_thorough = failures > 0,
            () = fabric.lost() => is_thorough = failures > 0,
            () = tokio::time::sleep(pause) => is_thorough = true,
        }
    }
}

async fn due(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn run_edges(mut edges: edge::EdgeAgent, mut handed: watch::Receiver<Option<fabric::Handover>>) {
    let backoff = Backoff {
        first: Duration::from_millis(200),
        most: Duration::from_secs(30),
    };
    let mut failures = 0;
    let mut count = tokio::time::interval(meter::EVERY);
    count.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let handover = handed.borrow_and_update().clone();
        let mut pause = None;
        if let Some(handover) = handover {
            match edges.pass(&handover).await {
                Ok(()) => failures = 0,
                Err(failed) if handover.is_outdated() => {
                    // Bridges it was plugging into went meanwhile; what is wanted now is handed over next.
                    debug!(error = %failed, "edges are wanted otherwise by now");
                    pause = Some(backoff.first);
                }
                Err(failed) => {
                    failures += 1;
                    warn!(error = %failed, failures, "could not make all edges, trying again");
                    pause = Some(backoff.delay(failures));
                }
            }
        }
        let again = pause.map(|pause| tokio::time::Instant::now() + pause);
        loop {
            tokio::select! {
                changed = handed.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return,
                },
                () = due(again) => break,
                _ = count.tick() => edges.count().await,
            }
        }
    }
}

/// What listeners of changes leave for the fabric, and what they have to know.
#[derive(Default)]
struct Shared {
    /// Something changed that matters here.
    wake: Notify,
    /// Groups whose members matter here; all, before the first pass has looked.
    peers: RwLock<Option<BTreeSet<String>>>,
    /// Ports that left this host since the last pass.
    released: Mutex<BTreeSet<Key>>,
}

/// Wakes the fabric for every change that may matter here.
fn listen(store: &Store, host: &str, shared: &Arc<Shared>) {
    wake_on_spec::<Network>(store, shared);
    wake_on_spec::<Subnet>(store, shared);
    wake_on_spec::<SecurityGroup>(store, shared);
    wake_on_spec::<Rule>(store, shared);
    wake_on_spec::<Router>(store, shared);
    wake_on_spec::<FloatingIp>(store, shared);
    wake_on_spec::<Trunk>(store, shared);
    wake_on_spec::<AddressGroup>(store, shared);
    wake_on_spec::<QosPolicy>(store, shared);
    wake_on_spec::<SubnetPool>(store, shared);
    wake_on_spec::<MeteringLabel>(store, shared);
    wake_on_spec::<MeteringRule>(store, shared);
    let (host, shared) = (host.to_owned(), Arc::clone(shared));
    store.cache::<Port>().on_change(move |change| {
        if !is_news(change) {
            return;
        }
        let is_here =
            |port: &Arc<madang_store::Resource<Port>>| port.spec.binding_host.as_deref() == Some(host.as_str());
        if let (Some(old), Some(new)) = (&change.old, &change.new)
            && is_here(old)
            && !is_here(new)
        {
            shared.released.lock().insert(new.key());
        }
        let both = change.old.iter().chain(&change.new);
        let matters = |port: &Arc<madang_store::Resource<Port>>| {
            let is_peer = shared
                .peers
                .read()
                .as_ref()
                .is_none_or(|peers| port.spec.security_groups.iter().any(|group| peers.contains(group)));
            is_here(port) || is_peer || crate::port::owner::is_of_the_network(&port.spec.device_owner)
        };
        if both.into_iter().any(matters) {
            shared.wake.notify_one();
        }
    });
}

fn wake_on_spec<K: Kind>(store: &Store, shared: &Arc<Shared>) {
    let shared = Arc::clone(shared);
    store.cache::<K>().on_change(move |change| {
        if is_news(change) {
            shared.wake.notify_one();
        }
    });
}

/// Whether more than the status changed, which agents write themselves.
fn is_news<K: Kind>(change: &Change<K>) -> bool {
    match (&change.old, &change.new) {
        (Some(old), Some(new)) => old.spec != new.spec || old.metadata.deleted != new.metadata.deleted,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_name_servers_of_the_host_are_asked() {
        let text = "# x\nnameserver 127.0.0.53\nnameserver 9.9.9.9\nsearch a\nnameserver fd00::1\n";
        let servers: Vec<String> = name_servers(text).iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["127.0.0.53", "9.9.9.9", "fd00::1"]);
    }
}
