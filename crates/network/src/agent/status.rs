//! What the agent says about ports, routers and floating addresses: many in one transaction.

use madang_store::{Cause, Key, Kind, Resource, Store, StoreError};
use tracing::debug;

use super::names;
use crate::{FloatingIp, FloatingIpStatus, Port, PortStatus, Router};

/// Writes in one transaction. More gain little, and all are decided anew when one of them collides.
const AT_A_TIME: usize = 256;

fn cause() -> Cause {
    Cause::system("network-agent")
}

/// How a port's wiring ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wiring {
    /// Its device is there and its filters hold.
    Device,
    /// It is the end of a router or of a service point, which is up.
    Edge,
    /// It could not be wired, in words.
    Failed(String),
    /// It is not this host's any more.
    Released,
}

/// Writes how the wiring of ports on `host` ended, where that is news. Ports that are gone, or were bound elsewhere
/// meanwhile, are left alone.
pub(super) async fn ports(store: &Store, host: &str, outcomes: Vec<(Key, Wiring)>) -> Result<(), StoreError> {
    let news = outcomes.into_iter().filter(|(key, wiring)| {
        store
            .get::<Port>(key)
            .is_some_and(|port| status(&port, host, wiring).is_some_and(|new| new != port.status))
    });
    let news: Vec<_> = news.collect();
    write::<Port, _>(store, &news, |port, wiring| {
        if let Some(status) = status(port, host, wiring) {
            port.status = status;
        }
    })
    .await?;
    if !news.is_empty() {
        debug!(host, ports = news.len(), "wrote what became of ports");
    }
    Ok(())
}

/// The status a port should have; none when this host has nothing to say about it.
fn status(port: &Resource<Port>, host: &str, wiring: &Wiring) -> Option<PortStatus> {
    let is_bound_here = port.spec.binding_host.as_deref() == Some(host);
    let uid = port.metadata.uid;
    let is_veth = port.spec.attachment == madang_host::workload::Attachment::Veth;
    match wiring {
        Wiring::Device => is_bound_here.then(|| PortStatus {
            wired_on: Some(host.to_owned()),
            device: Some(names::device(uid)),
            peer: is_veth.then(|| names::peer(uid)),
            failure: None,
        }),
        // A router is on every host that needs it: the first one to say so is enough.
        Wiring::Edge => {
            let wired_on = port.status.wired_on.clone().unwrap_or_else(|| host.to_owned());
            Some(PortStatus {
                wired_on: Some(wired_on),
                ..PortStatus::default()
            })
        }
        Wiring::Failed(reason) => {
            let failure = Some(reason.clone());
            (is_bound_here || port.spec.binding_host.is_none()).then(|| PortStatus {
                failure,
                ..PortStatus::default()
            })
        }
        Wiring::Released => {
            let is_ours = port.status.wired_on.as_deref() == Some(host) && !is_bound_here;
            is_ours.then(PortStatus::default)
        }
    }
}

/// Writes what is wrong with routers, or that nothing is.
pub(super) async fn routers(store: &Store, outcomes: Vec<(Key, Option<String>)>) -> Result<(), StoreError> {
    let news = outcomes.into_iter().filter(|(key, failure)| {
        store
            .get::<Router>(key)
            .is_some_and(|router| router.status.failure != *failure)
    });
    write::<Router, _>(store, &news.collect::<Vec<_>>(), |router, failure| {
        router.status.failure.clone_from(failure)
    })
    .await
}

/// Writes whether floating addresses are translated, and into what.
pub(super) async fn floating(store: &Store, outcomes: Vec<(Key, FloatingIpStatus)>) -> Result<(), StoreError> {
    let news = outcomes.into_iter().filter(|(key, status)| {
        store
            .get::<FloatingIp>(key)
            .is_some_and(|floating| floating.status != *status)
    });
    write::<FloatingIp, _>(store, &news.collect::<Vec<_>>(), |floating, status| {
        floating.status.clone_from(status);
    })
    .await
}

/// Changes many resources, some in each transaction. Those that are gone are skipped.
pub(super) async fn write<K: Kind, T>(
    store: &Store,
    changes: &[(Key, T)],
    change: impl Fn(&mut Resource<K>, &T),
) -> Result<(), StoreError> {
    for some in changes.chunks(AT_A_TIME) {
        store
            .transact(cause(), |tx| {
                for (key, what) in some {
                    let Some(old) = tx.get::<K>(key) else { continue };
                    let mut new = (*old).clone();
                    change(&mut new, what);
                    tx.update(&old, new)?;
                }
                Ok::<_, StoreError>(())
            })
            .await?;
    }
    Ok(())
}
