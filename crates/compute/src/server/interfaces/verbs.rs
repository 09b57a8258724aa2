//! Interfaces that come to a server and go: one transaction each, in which the port is made or taken and bound to the
//! server's host. The network's agent wires it, the server's agent brings it to the guest; both see the port change.

use std::{net::IpAddr, sync::Arc};

use madang_host::workload::Attachment;
use madang_http::Failure;
use madang_identity::Caller;
use madang_network::{FixedIp, Network, Port, PortSpec, Subnet, qos};
use madang_store::{ErrorKind, Metadata, Rejection, Resource, Store, StoreError, Tx};

use crate::{
    Phase, Server,
    server::{action, state, verbs::check_lock},
};

/// What is to come.
#[derive(Clone, Debug)]
pub enum Wanted {
    /// A new port.
    Network {
        /// On this network.
        network: Arc<Resource<Network>>,
        /// With this address; any when none.
        address: Option<IpAddr>,
    },
    /// A port that is there already and free.
    Port(Arc<Resource<Port>>),
}

/// Where interfaces may come and go. Source: Nova's `attach_interface`.
const STATES: &[Phase] = &[Phase::Active, Phase::Paused, Phase::Stopped];

/// Adds an interface and says which port it is.
///
/// # Errors
/// `Conflict` in a state without, when it is locked, when the port or the address is taken; what the rules of ports say.
pub async fn attach(
    store: &Store,
    caller: &Caller,
    server: &Resource<Server>,
    wanted: &Wanted,
    tag: Option<&str>,
) -> Result<Arc<Resource<Port>>, Failure> {
    may(caller, server, "attach_interface")?;
    let attached = store
        .transact(caller.cause(), |tx| {
            let port = attach_in(tx, server, wanted, tag)?;
            action::note(tx, server, "attach_interface", None)?;
            Ok::<_, StoreError>(port)
        })
        .await;
    attached.map_err(crate::api::failure)
}

fn attach_in(
    tx: &mut Tx<'_>,
    server: &Resource<Server>,
    wanted: &Wanted,
    tag: Option<&str>,
) -> Result<Arc<Resource<Port>>, StoreError> {
    // As it is now: it may have moved, or be going.
    let now = tx.get::<Server>(&server.key());
    let server = now
        .filter(|server| !server.metadata.is_deleting())
        .ok_or_else(|| StoreError::NotFound { key: server.key() })?;
    let take = |spec: &mut PortSpec| {
        spec.device_id = server.name().to_owned();
        spec.device_owner = format!("compute:{}", server.spec.availability_zone.as_deref().unwrap_or("nova"));
        spec.binding_host = server.status.host.clone();
        spec.attachment = attachment(&server);
        spec.device_tag = tag.map(str::to_owned);
        // After all that were there before; the same twice is told apart by age.
        spec.device_index = LAST;
    };
    let needs = match wanted {
        Wanted::Network { network, .. } => qos::needs(tx.store(), None, network.name()),
        Wanted::Port(port) => qos::needs(tx.store(), port.spec.qos_policy_id.as_deref(), &port.spec.network_id),
    };
    if !needs.is_empty() {
        // What is promised has to be there: only who is placed anew is asked whether it is.
        let message = format!(
            "Attaching interfaces with QoS policy is not supported for instance {}",
            server.name()
        );
        return Err(Rejection::new(ErrorKind::Invalid, "AttachInterfaceWithQoSPolicyNotSupported", message).into());
    }
    match wanted {
        Wanted::Network { network, address } => {
            let mut metadata = Metadata::with_id(server.project());
            metadata.owners = vec![server.as_owner()];
            let mut spec = PortSpec::on(network.name());
            take(&mut spec);
            spec.dns_name.clone_from(&server.spec.hostname);
            spec.fixed_ips = address
                .iter()
                .map(|ip| FixedIp {
                    subnet_id: String::new(),
                    ip_address: *ip,
                })
                .collect();
            tx.create(Resource::<Port>::new(metadata, spec))
        }
        Wanted::Port(port) => {
            let port = tx
                .get::<Port>(&port.key())
                .ok_or_else(|| StoreError::NotFound { key: port.key() })?;
            if !port.spec.device_id.is_empty() {
                let message = format!("Port {} is still in use.", port.name());
                return Err(Rejection::new(ErrorKind::Conflict, "PortInUse", message).into());
            }
            let mut taken = (*port).clone();
            take(&mut taken.spec);
            tx.update(&port, taken)
        }
    }
}

/// How a server's ports reach it.
fn attachment(server: &Resource<Server>) -> Attachment {
    match server.spec.driver.as_str() {
        "oci" => Attachment::Veth,
        _ => Attachment::Tap,
    }
}

/// The place of interfaces that came later.
const LAST: u32 = 1 << 16;

/// Takes an interface away: a port made for the server goes, another one is free again.
///
/// # Errors
/// `Conflict` in a state without and when it is locked; `NotFound` when the port is gone.
pub async fn detach(
    store: &Store,
    caller: &Caller,
    server: &Resource<Server>,
    port: &Resource<Port>,
) -> Result<(), Failure> {
    may(caller, server, "detach_interface")?;
    let is_own = port
        .metadata
        .owners
        .iter()
        .any(|owner| owner.uid == server.metadata.uid);
    let detached = store.transact(caller.cause(), |tx| {
        let now = tx
            .get::<Port>(&port.key())
            .filter(|port| port.spec.device_id == server.name())
            .ok_or_else(|| StoreError::NotFound { key: port.key() })?;
        action::note(tx, server, "detach_interface", None)?;
        if is_own {
            return tx.delete::<Port>(&now).map(drop);
        }
        let mut free = (*now).clone();
        free.spec.device_id.clear();
        free.spec.device_owner.clear();
        free.spec.binding_host = None;
        free.spec.device_tag = None;
        free.spec.device_index = 0;
        tx.update(&now, free).map(drop)
    });
    detached.await.map_err(crate::api::failure)
}

/// Gives a server's port on a network one more address.
///
/// # Errors
/// `NotFound` when it has no port there; what the rules of ports say.
pub(crate) async fn add_address(
    store: &Store,
    caller: &Caller,
    server: &Resource<Server>,
    network: &str,
) -> Result<(), Failure> {
    check_lock(caller, server)?;
    let mut subnets = store.cache::<Subnet>().by("network", network);
    subnets.sort_unstable_by_key(|subnet| (subnet.metadata.created, subnet.metadata.uid));
    let missing = || {
        Failure::not_found(format!(
            "Network not found for instance {} on {network}.",
            server.name()
        ))
    };
    let subnet = subnets.into_iter().next().ok_or_else(missing)?;
    let any = match subnet.spec.cidr.network() {
        IpAddr::V4(_) => IpAddr::from([0_u8; 4]),
        IpAddr::V6(_) => IpAddr::from([0_u8; 16]),
    };
    let ip = FixedIp {
        subnet_id: subnet.name().to_owned(),
        ip_address: any,
    };
    change_addresses(store, caller, server, |port| {
        let fits = port.spec.network_id == network;
        if fits {
            port.spec.fixed_ips.push(ip.clone());
        }
        fits
    })
    .await?
    .then_some(())
    .ok_or_else(missing)
}

/// Takes an address from the server's port that has it.
///
/// # Errors
/// `Invalid` when none has it.
pub(crate) async fn remove_address(
    store: &Store,
    caller: &Caller,
    server: &Resource<Server>,
    address: IpAddr,
) -> Result<(), Failure> {
    check_lock(caller, server)?;
    let is_found = change_addresses(store, caller, server, |port| {
        let before = port.spec.fixed_ips.len();
        port.spec.fixed_ips.retain(|ip| ip.ip_address != address);
        port.spec.fixed_ips.len() < before
    })
    .await?;
    let missing = || {
        let message = format!("Fixed IP {address} was not found on instance {}.", server.name());
        Failure::invalid(message).at("address")
    };
    is_found.then_some(()).ok_or_else(missing)
}

/// Changes the first port of a server for which `change` does something; says whether there is one.
async fn change_addresses(
    store: &Store,
    caller: &Caller,
    server: &Resource<Server>,
    change: impl Fn(&mut Resource<Port>) -> bool,
) -> Result<bool, Failure> {
    let changed = store.transact::<bool, StoreError>(caller.cause(), |tx| {
        for port in tx.store().cache::<Port>().by("device", server.name()) {
            let Some(port) = tx.get::<Port>(&port.key()) else {
                continue;
            };
            let mut new = (*port).clone();
            if change(&mut new) {
                tx.update(&port, new)?;
                return Ok(true);
            }
        }
        Ok(false)
    });
    changed.await.map_err(crate::api::failure)
}

fn may(caller: &Caller, server: &Resource<Server>, verb: &str) -> Result<(), Failure> {
    check_lock(caller, server)?;
    let now = state::of(server);
    if STATES.contains(&server.status.phase) && !server.metadata.is_deleting() {
        return Ok(());
    }
    Err(Failure::conflict(format!(
        "Cannot '{verb}' instance {} while it is in vm_state {}",
        server.name(),
        now.vm_state
    )))
}
