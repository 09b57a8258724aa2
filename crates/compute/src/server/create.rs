//! Making servers: everything a request asks for in one transaction.
//!
//! Server, claim, ports and quota appear together or not at all: what is accepted has its addresses, and a crash leaves
//! no half of it. The caller has resolved and authorised what the request names.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use madang_host::workload::Attachment;
use madang_network::{FixedIp, Network, Port, PortSpec, qos};
use madang_scheduler::{Amounts, Claim, ClaimGroup, ClaimSpec, Class, DISK_GB, MEMORY_MB, VCPU, Wishes};
use madang_store::{Cause, ErrorKind, Kind as _, Metadata, Rejection, Resource, Store, StoreError, Tx};
use uuid::Uuid;

use crate::{
    Flavor,
    agent::facts,
    server::{
        Asked, Doing, Injected, LocalDiskSpec, Power, Server, ServerKey, ServerSpec,
        hardware::{self, Properties},
        rules,
        volumes::{self, DeviceRequest},
    },
};

/// A request for servers that are alike.
#[derive(Clone)]
pub struct CreateServers {
    /// The project that will own them.
    pub project: String,
    /// The user who asks.
    pub user: String,
    /// Their name; with several, `-1`, `-2`, … are added.
    pub name: String,
    /// The guest's name for itself; derived from the name when none.
    pub hostname: Option<String>,
    /// Free text.
    pub description: Option<String>,
    /// At least this many, or none at all; from 1.
    pub min_count: u32,
    /// As many as the quota allows up to this; from `min_count`.
    pub max_count: u32,
    /// The image's id.
    pub image: Option<String>,
    /// Whether the image is a container image.
    pub is_container: bool,
    /// The flavor.
    pub flavor: Arc<Resource<Flavor>>,
    /// The key to put in.
    pub key: Option<ServerKey>,
    /// For the guest, in base64.
    pub user_data: Option<String>,
    /// The user's own words.
    pub metadata: std::collections::BTreeMap<String, String>,
    /// The user's tags.
    pub tags: BTreeSet<String>,
    /// Wants its metadata on a drive, too.
    pub config_drive: bool,
    /// Only in this zone.
    pub availability_zone: Option<String>,
    /// Only on this host; for admins.
    pub host: Option<String>,
    /// Together with or apart from others.
    pub group: Option<ClaimGroup>,
    /// Hints for the scheduler, the group's aside: name to values.
    pub hints: std::collections::BTreeMap<String, Vec<String>>,
    /// Its interfaces, in guest order.
    pub nics: Vec<NicRequest>,
    /// Its disks, beside or instead of a root of its own, in guest order.
    pub devices: Vec<DeviceRequest>,
    /// The disks that its host makes for it.
    pub locals: Vec<LocalDiskSpec>,
    /// What its image says of machines: that of its root, also where the root is a volume.
    pub image_properties: Properties,
    /// Ids of the groups for new ports; none for the project's default.
    pub security_groups: Option<Vec<String>>,
    /// What the user said of the disk's partitions: `AUTO` rather than `MANUAL`.
    pub is_disk_automatic: bool,
    /// Where the user says it is reached.
    pub access_ipv4: Option<Ipv4Addr>,
    /// Where the user says it is reached, in IPv6.
    pub access_ipv6: Option<Ipv6Addr>,
    /// What is put into the guest.
    pub injected: Injected,
}

/// One interface asked for.
#[derive(Clone, Debug)]
pub enum NicRequest {
    /// A new port on a network.
    Network {
        /// The network.
        network: Arc<Resource<Network>>,
        /// This very address; any when none.
        address: Option<IpAddr>,
        /// The device tag.
        tag: Option<String>,
    },
    /// A port that is there already.
    Port {
        /// The port's key.
        port: Arc<Resource<Port>>,
        /// The device tag.
        tag: Option<String>,
    },
}

/// Makes the servers a request asks for and says what was made, in order.
///
/// # Errors
/// `Forbidden` (`OverQuota`) when the quota has no room for `min_count`; what the rules of ports and claims say; a port
/// in use is a `Conflict`.
pub async fn create(
    store: &Store,
    cause: Cause,
    request: &CreateServers,
) -> Result<Vec<Arc<Resource<Server>>>, StoreError> {
    let mut count = request.max_count;
    loop {
        let made = store.transact(cause.clone(), |tx| create_in(tx, request, count)).await;
        match made {
            // As many as fit, as Nova does; in the worst case one after the other is given up.
            Err(StoreError::LimitExceeded { .. }) if count > request.min_count => {
                count = room(store, request).clamp(request.min_count, count - 1);
            }
            Err(error) => return Err(rules::over_quota(error, store, &request.project)),
            Ok(servers) => return Ok(servers),
        }
    }
}

/// How many servers of this request the quota still has room for.
fn room(store: &Store, request: &CreateServers) -> u32 {
    let used = store.counters(&request.project, crate::quota::COUNTERS);
    let fits = crate::quota::usage(&request.flavor.spec)
        .into_iter()
        .filter(|(_, each)| *each > 0)
        .map(|(field, each)| {
            let limit = crate::quota::limit(store, &request.project, field).unwrap_or(i64::MAX);
            (limit - used.get(field).copied().unwrap_or(0)).max(0) / each
        });
    fits.min().and_then(|n| u32::try_from(n).ok()).unwrap_or(u32::MAX)
}

fn create_in(tx: &mut Tx<'_>, request: &CreateServers, count: u32) -> Result<Vec<Arc<Resource<Server>>>, StoreError> {
    let reservation_id = format!("r-{}", &Uuid::new_v4().simple().to_string()[..8]);
    (0..count)
        .map(|index| create_one(tx, request, index, &reservation_id))
        .collect()
}

fn create_one(
    tx: &mut Tx<'_>,
    request: &CreateServers,
    index: u32,
    reservation_id: &str,
) -> Result<Arc<Resource<Server>>, StoreError> {
    let suffix = if request.max_count > 1 {
        format!("-{}", index + 1)
    } else {
        String::new()
    };
    let name = format!("{}{suffix}", request.name);
    let metadata = Metadata::with_id(&request.project);
    let spec = ServerSpec {
        hostname: request
            .hostname
            .clone()
            .unwrap_or_else(|| hostname(&name, metadata.uid)),
        name,
        description: request.description.clone(),
        user: request.user.clone(),
        image: request.image.clone(),
        image_properties: request.image_properties.clone(),
        flavor_id: request.flavor.name().to_owned(),
        flavor: request.flavor.spec.clone(),
        key: request.key.clone(),
        user_data: request.user_data.clone(),
        metadata: request.metadata.clone(),
        tags: request.tags.clone(),
        config_drive: request.config_drive,
        availability_zone: request.availability_zone.clone(),
        hints: request.hints.clone(),
        driver: if request.is_container { "oci" } else { "qemu" }.to_owned(),
        power: Power::On,
        reboots: 0,
        is_hard_reboot: false,
        lock: None,
        group: request.group.as_ref().map(|group| group.id),
        reservation_id: reservation_id.to_owned(),
        launch_index: index,
        is_disk_automatic: request.is_disk_automatic,
        access_ipv4: request.access_ipv4,
        access_ipv6: request.access_ipv6,
        injected: request.injected.clone(),
        disks: request.locals.clone(),
        asked: Asked::default(),
    };
    let mut server = Resource::<Server>::new(metadata, spec);
    server.status.action = Some(Doing::new("create", tx.cause()));
    let server = tx.create(server)?;
    tx.create(claim(tx.store(), request, &server))?;
    for (place, nic) in (0..).zip(&request.nics) {
        attach(tx, request, &server, place, nic)?;
    }
    volumes::begin(tx, &server, &request.devices)?;
    Ok(server)
}

fn claim(store: &Store, request: &CreateServers, server: &Resource<Server>) -> Resource<Claim> {
    let mut metadata = Metadata::new(&request.project, server.name());
    metadata.owners = vec![server.as_owner()];
    let needs = request.nics.iter().flat_map(|nic| match nic {
        NicRequest::Network { network, .. } => qos::needs(store, None, network.name()),
        NicRequest::Port { port, .. } => qos::needs(store, port.spec.qos_policy_id.as_deref(), &port.spec.network_id),
    });
    let spec = ClaimSpec {
        host: request.host.clone(),
        resources: with_needs(resources(&server.spec.flavor), needs),
        ..claim_spec(server, request.group.clone(), request.image_properties.clone())
    };
    Resource::new(metadata, spec)
}

/// What a server asks of a host, wherever that is. `image` is what its image says of machines.
pub(super) fn claim_spec(server: &Resource<Server>, group: Option<ClaimGroup>, image: Properties) -> ClaimSpec {
    let flavor = &server.spec.flavor;
    ClaimSpec {
        user: server.spec.user.clone(),
        consumer_kind: Server::NAME.to_owned(),
        resources: resources(flavor),
        driver: server.spec.driver.clone(),
        zone: server.spec.availability_zone.clone(),
        required_traits: required_traits(flavor, Some(&image)),
        forbidden_traits: forbidden_traits(flavor),
        group,
        is_busy: true,
        wishes: Some(Box::new(Wishes {
            image: server.spec.image.clone(),
            image_properties: image,
            hints: server.spec.hints.clone(),
            ..wishes(None, flavor)
        })),
        ..ClaimSpec::default()
    }
}

/// What filters and weighers read, for another flavor.
pub(super) fn wishes(own: Option<&Wishes>, flavor: &crate::FlavorSpec) -> Wishes {
    Wishes {
        flavor: flavor.name.clone(),
        extra_specs: flavor.extra_specs.clone(),
        ..own.cloned().unwrap_or_default()
    }
}

/// What a server of a flavor takes of its host.
pub(super) fn resources(flavor: &crate::FlavorSpec) -> Amounts {
    let disk = i64::from(flavor.disk_gb) + i64::from(flavor.ephemeral_gb) + i64::from(flavor.swap_mb.div_ceil(1024));
    let resources = [
        (VCPU, i64::from(flavor.vcpus)),
        (MEMORY_MB, i64::from(flavor.ram_mb)),
        (DISK_GB, disk),
    ];
    resources.into_iter().filter(|(_, amount)| *amount > 0).collect()
}

/// With what its ports are guaranteed.
pub(super) fn with_needs(mut amounts: Amounts, needs: impl IntoIterator<Item = (&'static str, i64)>) -> Amounts {
    for (class, amount) in needs {
        amounts.add(&Class::new(class), amount);
    }
    amounts
}

/// The traits that a host has to have: those that flavor and image name (`trait:NAME=required`), and that of the trusted
/// platform module that they ask for.
pub(super) fn required_traits(flavor: &crate::FlavorSpec, image: Option<&Properties>) -> Vec<String> {
    let none = Properties::new();
    let image = image.unwrap_or(&none);
    let mut wanted = traits(&flavor.extra_specs, "required");
    wanted.extend(traits(image, "required"));
    if let Ok(Some(version)) = hardware::tpm(image, &flavor.extra_specs) {
        wanted.push(facts::tpm_trait(version).to_owned());
    }
    wanted.sort_unstable();
    wanted.dedup();
    wanted
}

/// The traits that a host may not have, by a flavor's extra specs (`trait:NAME=forbidden`).
pub(super) fn forbidden_traits(flavor: &crate::FlavorSpec) -> Vec<String> {
    traits(&flavor.extra_specs, "forbidden")
}

fn traits(said: &Properties, wish: &str) -> Vec<String> {
    let wished = said.iter().filter(|(_, value)| *value == wish);
    wished
        .filter_map(|(key, _)| key.strip_prefix("trait:"))
        .map(str::to_owned)
        .collect()
}

fn attach(
    tx: &mut Tx<'_>,
    request: &CreateServers,
    server: &Resource<Server>,
    place: u32,
    nic: &NicRequest,
) -> Result<(), StoreError> {
    let attachment = if request.is_container {
        Attachment::Veth
    } else {
        Attachment::Tap
    };
    let device_owner = format!("compute:{}", request.availability_zone.as_deref().unwrap_or("nova"));
    match nic {
        NicRequest::Network { network, address, tag } => {
            let mut metadata = Metadata::with_id(&request.project);
            metadata.owners = vec![server.as_owner()];
            let fixed_ips = address
                .iter()
                .map(|ip| FixedIp {
                    subnet_id: String::new(),
                    ip_address: *ip,
                })
                .collect();
            let spec = PortSpec {
                network_id: network.name().to_owned(),
                fixed_ips,
                device_id: server.name().to_owned(),
                device_owner,
                security_groups: request.security_groups.clone().unwrap_or_default(),
                explicit_security_groups: request.security_groups.is_some(),
                dns_name: label(&server.spec.hostname).to_owned(),
                attachment,
                device_tag: tag.clone(),
                device_index: place,
                ..PortSpec::on(network.name())
            };
            tx.create(Resource::<Port>::new(metadata, spec))?;
        }
        NicRequest::Port { port, tag } => {
            let port = tx
                .get::<Port>(&port.key())
                .ok_or_else(|| StoreError::NotFound { key: port.key() })?;
            if !port.spec.device_id.is_empty() {
                let message = format!("Port {} is still in use.", port.name());
                return Err(Rejection::new(ErrorKind::Conflict, "PortInUse", message)
                    .at("networks.port")
                    .into());
            }
            let mut bound = (*port).clone();
            bound.spec.device_id = server.name().to_owned();
            bound.spec.device_owner = device_owner;
            bound.spec.attachment = attachment;
            bound.spec.device_index = place;
            bound.spec.device_tag = tag.clone();
            tx.update(&port, bound)?;
        }
    }
    Ok(())
}

/// The first label of a name, which is what a port is called in its network's domain.
fn label(hostname: &str) -> &str {
    hostname
        .split('.')
        .next()
        .filter(|label| label.len() <= 63)
        .unwrap_or_default()
}

/// A DNS label made of a display name, as Nova makes it; `Server-<uid>` when nothing is left of it.
pub fn hostname(name: &str, uid: Uuid) -> String {
    let mapped = name.chars().filter_map(|c| match c {
        ' ' | '_' | '.' => Some('-'),
        c if c.is_ascii_alphanumeric() || c == '-' => Some(c.to_ascii_lowercase()),
        _ => None,
    });
    let label: String = mapped.collect();
    let label = label.trim_matches('-');
    let label = label.get(..63).unwrap_or(label).trim_end_matches('-');
    if label.is_empty() {
        format!("server-{uid}")
    } else {
        label.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostnames_are_labels() {
        let uid = Uuid::nil();
        assert_eq!(hostname("My Web_server.1", uid), "my-web-server-1");
        assert_eq!(hostname("서버", uid), format!("server-{uid}"));
        assert_eq!(hostname(&"a".repeat(100), uid).len(), 63);
        assert_eq!(hostname("-x-", uid), "x");
        assert_eq!(
            (label("web.example.org"), label("web"), label(&"a".repeat(64))),
            ("web", "web", "")
        );
    }
}
