//! Hosts that only pretend: their ports are wired as soon as they are bound, without a kernel.

use std::sync::Arc;

use madang_control::{Backoff, Queue, TaskGroup};
use madang_host::workload::Attachment;
use madang_store::{Key, Resource, Store};
use tracing::warn;

use super::{names, status};
use crate::{Port, PortStatus};

/// Ports in one transaction.
const AT_A_TIME: usize = 256;

/// Says of every port bound to a host for which `is_simulated` holds that it is wired. One task for all such hosts, so
/// ten thousand of them cost no more than the ports they have.
pub fn simulate(store: &Store, is_simulated: impl Fn(&str) -> bool + Send + Sync + 'static, group: &TaskGroup) {
    let is_simulated: Arc<dyn Fn(&str) -> bool + Send + Sync> = Arc::new(is_simulated);
    let queue: Queue<Key> = Queue::new(Backoff::default());
    let (wanted, waiting) = (Arc::clone(&is_simulated), queue.clone());
    store.cache::<Port>().on_change(move |change| {
        if let Some(port) = change.new.as_ref().filter(|port| needs_wiring(port, &*wanted)) {
            waiting.add(port.key());
        }
    });
    for port in store
        .cache::<Port>()
        .all()
        .iter()
        .filter(|port| needs_wiring(port, &*is_simulated))
    {
        queue.add(port.key());
    }
    let store = store.clone();
    group.spawn_until_stopped("simulated-ports", async move {
        loop {
            let mut tickets = vec![queue.next().await];
            tickets.extend(queue.take_ready(AT_A_TIME - 1));
            let keys: Vec<(Key, ())> = tickets.iter().map(|ticket| (ticket.key().clone(), ())).collect();
            let written = status::write::<Port, _>(&store, &keys, |port, ()| {
                if needs_wiring(port, &*is_simulated) {
                    port.status = wired(port);
                }
            });
            match written.await {
                Ok(()) => tickets.into_iter().for_each(madang_control::Ticket::done),
                Err(error) => {
                    warn!(%error, ports = tickets.len(), "could not mark simulated ports as wired, trying again");
                    tickets.into_iter().for_each(madang_control::Ticket::failed);
                }
            }
        }
    });
}

fn needs_wiring(port: &Resource<Port>, is_simulated: &dyn Fn(&str) -> bool) -> bool {
    port.spec
        .binding_host
        .as_deref()
        .is_some_and(|host| port.status.wired_on.as_deref() != Some(host) && is_simulated(host))
}

fn wired(port: &Resource<Port>) -> PortStatus {
    let is_veth = port.spec.attachment == Attachment::Veth;
    PortStatus {
        wired_on: port.spec.binding_host.clone(),
        device: Some(names::device(port.metadata.uid)),
        peer: is_veth.then(|| names::peer(port.metadata.uid)),
        failure: None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use madang_store::{Cause, Kind as _, Metadata, Sqlite, SqliteOptions, StoreBuilder};
    use tokio::time::Instant;

    use super::*;
    use crate::agent::sample;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn thousands_of_ports_are_wired_and_those_of_real_hosts_are_not() {
        const COUNT: usize = 3000;
        let dir = tempfile::tempdir().unwrap();
        let backend = Sqlite::open(SqliteOptions::new(dir.path().join("db"))).await.unwrap();
        let mut builder = StoreBuilder::new();
        builder.kind::<Port>();
        let store = builder.open(Arc::new(backend)).await.unwrap();
        let group = TaskGroup::new("test");
        simulate(&store, |host| host.starts_with("simulated-"), &group);
        let spec = sample::port(1, 5, |_| {}).spec.clone();
        let begun = Instant::now();
        for batch in 0..COUNT / 100 {
            let mut tx = store.begin(Cause::system("test"));
            for index in 0..100 {
                let mut spec = spec.clone();
                let kind = if index == 0 { "real" } else { "simulated" };
                spec.binding_host = Some(format!("{kind}-{batch}"));
                tx.create(Resource::<Port>::new(Metadata::with_id("p1"), spec)).unwrap();
            }
            tx.commit().await.unwrap();
        }
        let wired = || {
            store
                .cache::<Port>()
                .all()
                .iter()
                .filter(|port| port.status.wired_on.is_some())
                .count()
        };
        while wired() < COUNT - COUNT / 100 {
            assert!(begun.elapsed() < Duration::from_secs(20), "{} wired", wired());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        println!("{COUNT} {} created and wired in {:?}", Port::NAME, begun.elapsed());
        let real = store.cache::<Port>().by("host", "real-0");
        assert_eq!(real[0].status, PortStatus::default());
        assert_eq!(group.shutdown(Duration::from_secs(1)).await, [""; 0]);
        store.close().await;
    }
}
