//! A server as Nova shows it, by microversion. Borrowed from the caches and written straight to bytes: a list of a
//! thousand servers is rendered in milliseconds.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use jiff::{Timestamp, tz::TimeZone};
use madang_block::Attachment;
use madang_http::Microversion;
use madang_image::Image;
use madang_network::{FloatingIp, Network, Port, SecurityGroup};
use madang_scheduler::Provider;
use madang_store::{Resource, Store};
use serde::{Serialize, Serializer, ser::SerializeMap};
use sha2::{Digest, Sha224};

use crate::{
    FlavorSpec, ServerGroup,
    aggregate::zone_of,
    server::{Server, state, volumes},
};

/// How a server is to be shown.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// The microversion asked for.
    pub version: Microversion,
    /// Whether the caller sees what only admins see.
    pub is_admin: bool,
    /// Whether this is one server (`GET /servers/{id}`) or one of a list.
    pub is_single: bool,
}

impl Look {
    fn from(self, minor: u16) -> bool {
        self.version >= Microversion(2, minor)
    }
}

/// What views of many servers share, looked up once.
pub struct Surroundings {
    /// Where the service is, as the client names it: `http://127.0.0.1:8000/compute`.
    base: String,
}

/// A server with everything its view needs.
pub struct Shown<'a> {
    server: &'a Resource<Server>,
    look: Look,
    around: &'a Surroundings,
    host: Option<Arc<Resource<Provider>>>,
    zone: String,
    ports: Vec<Arc<Resource<Port>>>,
    networks: Vec<Option<Arc<Resource<Network>>>>,
    floating: Vec<Arc<Resource<FloatingIp>>>,
    group_names: Vec<String>,
    kernel_id: String,
    ramdisk_id: String,
    server_groups: Vec<String>,
    volumes: Vec<Arc<Resource<Attachment>>>,
}

impl Surroundings {
    /// For a client that names the service `base`.
    pub fn new(base: String) -> Self {
        Self { base }
    }

    /// One server, shown as asked.
    pub fn show<'a>(&'a self, store: &Store, server: &'a Resource<Server>, look: Look) -> Shown<'a> {
        let mut ports = store.cache::<Port>().by("device", server.name());
        ports.sort_unstable_by_key(|port| (port.spec.device_index, port.metadata.uid));
        let networks = store.cache::<Network>();
        let networks = ports
            .iter()
            .map(|port| networks.by_name(&port.spec.network_id))
            .collect();
        let host = server.status.host.as_deref();
        let host = host.and_then(|name| store.cache::<Provider>().by("name", name).into_iter().next());
        let placed = host.as_deref().map(|host| zone_of(store, host));
        let zone = placed
            .or_else(|| server.spec.availability_zone.clone())
            .unwrap_or_default();
        let floating_ips = store.cache::<FloatingIp>();
        let floating = ports
            .iter()
            .flat_map(|port| floating_ips.by("port", port.name()))
            .collect();
        let groups: BTreeSet<&String> = ports.iter().flat_map(|port| &port.spec.security_groups).collect();
        let name = |id: &String| Some(store.cache::<SecurityGroup>().by_name(id)?.spec.name.clone());
        let group_names = groups.into_iter().filter_map(name).collect();
        let image = (look.is_admin && look.from(3))
            .then(|| {
                store
                    .cache::<Image>()
                    .by_name(server.spec.image.as_deref().unwrap_or_default())
            })
            .flatten();
        let of_image = |id: Option<&str>| id.unwrap_or_default().to_owned();
        Shown {
            server,
            look,
            around: self,
            host,
            zone,
            ports,
            networks,
            floating,
            group_names,
            kernel_id: of_image(image.as_ref().and_then(|image| image.spec.kernel_id())),
            ramdisk_id: of_image(image.as_ref().and_then(|image| image.spec.ramdisk_id())),
            server_groups: server_groups(store, server),
            volumes: volumes::of(store, server.name()),
        }
    }
}

/// The group a server is in, while there is that group.
fn server_groups(store: &Store, server: &Resource<Server>) -> Vec<String> {
    let ids = server.spec.group.iter().map(ToString::to_string);
    ids.filter(|id| store.cache::<ServerGroup>().by_name(id).is_some())
        .collect()
}

/// A link as Nova writes it.
#[derive(Serialize)]
struct Link {
    rel: &'static str,
    href: String,
}

/// The short form: id, name and links.
#[derive(Serialize)]
pub struct Brief<'a> {
    id: &'a str,
    name: &'a str,
    links: Vec<Link>,
}

/// The short form of a server.
pub fn brief<'a>(server: &'a Resource<Server>, base: &str) -> Brief<'a> {
    Brief {
        id: server.name(),
        name: &server.spec.name,
        links: links(base, server.name()),
    }
}

fn links(base: &str, id: &str) -> Vec<Link> {
    vec![
        Link {
            rel: "self",
            href: format!("{base}/v2.1/servers/{id}"),
        },
        Link {
            rel: "bookmark",
            href: format!("{base}/servers/{id}"),
        },
    ]
}

/// The links of a server, for answers that hold little else.
pub fn links_of(base: &str, id: &str) -> impl Serialize + use<> {
    links(base, id)
}

/// A reference to an image or a flavor: id and bookmark.
#[derive(Serialize)]
struct Reference<'a> {
    id: &'a str,
    links: [Link; 1],
}

fn reference<'a>(base: &str, collection: &str, id: &'a str) -> Reference<'a> {
    Reference {
        id,
        links: [Link {
            rel: "bookmark",
            href: format!("{base}/{collection}/{id}"),
        }],
    }
}

/// The flavor as it is embedded since 2.47.
#[derive(Serialize)]
struct EmbeddedFlavor<'a> {
    vcpus: u32,
    ram: u32,
    disk: u32,
    ephemeral: u32,
    swap: u32,
    original_name: &'a str,
    extra_specs: &'a BTreeMap<String, String>,
}

impl<'a> From<&'a FlavorSpec> for EmbeddedFlavor<'a> {
    fn from(flavor: &'a FlavorSpec) -> Self {
        Self {
            vcpus: flavor.vcpus,
            ram: flavor.ram_mb,
            disk: flavor.disk_gb,
            ephemeral: flavor.ephemeral_gb,
            swap: flavor.swap_mb,
            original_name: &flavor.name,
            extra_specs: &flavor.extra_specs,
        }
    }
}

#[derive(Serialize)]
struct GroupName<'a> {
    name: &'a str,
}

/// A volume of a server, in the server's view.
#[derive(Serialize)]
struct VolumeView<'a> {
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    delete_on_termination: Option<bool>,
}

#[derive(Serialize)]
struct FaultView<'a> {
    code: u16,
    created: String,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<&'a str>,
}

/// One address in Nova's list.
#[derive(Serialize)]
pub struct AddressView<'a> {
    version: u8,
    addr: IpAddr,
    #[serde(rename = "OS-EXT-IPS:type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    #[serde(rename = "OS-EXT-IPS-MAC:mac_addr", skip_serializing_if = "Option::is_none")]
    mac: Option<&'a str>,
}

impl Shown<'_> {
    /// The addresses by network name; with types and MACs in server views, without in `/ips`.
    pub fn addresses(&self, is_extended: bool) -> BTreeMap<&str, Vec<AddressView<'_>>> {
        let mut networks: BTreeMap<&str, Vec<AddressView<'_>>> = BTreeMap::new();
        for (port, network) in self.ports.iter().zip(&self.networks) {
            let name = network
                .as_ref()
                .map_or(port.spec.network_id.as_str(), |network| network.spec.name.as_str());
            let list = networks.entry(name).or_default();
            let mac = is_extended.then_some(port.spec.mac_address.as_str());
            let view = |addr: IpAddr, kind| AddressView {
                version: if addr.is_ipv4() { 4 } else { 6 },
                addr,
                kind: is_extended.then_some(kind),
                mac,
            };
            list.extend(port.spec.fixed_ips.iter().map(|ip| view(ip.ip_address, "fixed")));
            let floating = self
                .floating
                .iter()
                .filter(|f| f.spec.port_id.as_deref() == Some(port.name()));
            list.extend(floating.map(|f| view(f.spec.address, "floating")));
        }
        networks
    }

    fn volumes_attached(&self) -> Vec<VolumeView<'_>> {
        let view = |attachment: &'_ Arc<Resource<Attachment>>| {
            let device = attachment.spec.device.as_ref();
            let goes = device.is_some_and(|device| device.delete_on_termination);
            self.look.from(3).then_some(goes)
        };
        let volumes = self.volumes.iter();
        volumes
            .map(|attachment| VolumeView {
                id: &attachment.spec.volume,
                delete_on_termination: view(attachment),
            })
            .collect()
    }

    fn fault(&self) -> Option<FaultView<'_>> {
        let fault = self.server.status.fault.as_ref()?;
        (self.server.status.phase == crate::Phase::Error).then(|| FaultView {
            code: fault.code,
            created: seconds(fault.created),
            message: &fault.message,
            details: fault.details.as_deref().filter(|_| self.look.is_admin),
        })
    }
}

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self {
            server, look, around, ..
        } = self;
        let (id, spec, status) = (server.name(), &server.spec, &server.status);
        let state = state::of(server);
        let base = &around.base;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("id", id)?;
        map.serialize_entry("name", &spec.name)?;
        map.serialize_entry("status", state.status)?;
        map.serialize_entry("tenant_id", server.project())?;
        map.serialize_entry("user_id", &spec.user)?;
        map.serialize_entry("metadata", &spec.metadata)?;
        map.serialize_entry("hostId", &host_id(server.project(), status.host.as_deref()))?;
        match &spec.image {
            Some(image) => map.serialize_entry("image", &reference(base, "images", image))?,
            None => map.serialize_entry("image", "")?,
        }
        if look.from(47) {
            map.serialize_entry("flavor", &EmbeddedFlavor::from(&spec.flavor))?;
        } else {
            map.serialize_entry("flavor", &reference(base, "flavors", &spec.flavor_id))?;
        }
        map.serialize_entry("created", &seconds(server.metadata.created))?;
        map.serialize_entry("updated", &seconds(server.metadata.updated))?;
        map.serialize_entry("addresses", &self.addresses(true))?;
        map.serialize_entry(
            "accessIPv4",
            &spec.access_ipv4.map(|ip| ip.to_string()).unwrap_or_default(),
        )?;
        map.serialize_entry(
            "accessIPv6",
            &spec.access_ipv6.map(|ip| ip.to_string()).unwrap_or_default(),
        )?;
        map.serialize_entry("links", &links(base, id))?;
        map.serialize_entry(
            "OS-DCF:diskConfig",
            if spec.is_disk_automatic { "AUTO" } else { "MANUAL" },
        )?;
        if matches!(state.status, "ACTIVE" | "BUILD") {
            map.serialize_entry("progress", &0)?;
        }
        if let Some(fault) = self.fault() {
            map.serialize_entry("fault", &fault)?;
        }
        map.serialize_entry("OS-EXT-AZ:availability_zone", &self.zone)?;
        if look.from(96) {
            map.serialize_entry("pinned_availability_zone", &spec.availability_zone)?;
        }
        map.serialize_entry("config_drive", if spec.config_drive { "True" } else { "" })?;
        map.serialize_entry("key_name", &spec.key.as_ref().map(|key| &key.name))?;
        map.serialize_entry("OS-SRV-USG:launched_at", &status.launched.map(micros))?;
        let terminated = state::is_gone(server).then(|| micros(server.metadata.updated));
        map.serialize_entry("OS-SRV-USG:terminated_at", &terminated)?;
        if !self.group_names.is_empty() {
            let names: Vec<_> = self.group_names.iter().map(|name| GroupName { name }).collect();
            map.serialize_entry("security_groups", &names)?;
        }
        if look.is_admin {
            self.admin_fields(&mut map)?;
        }
        if look.from(90) && !look.is_admin {
            map.serialize_entry("OS-EXT-SRV-ATTR:hostname", &spec.hostname)?;
        }
        map.serialize_entry("OS-EXT-STS:task_state", &state.task_state)?;
        map.serialize_entry("OS-EXT-STS:vm_state", state.vm_state)?;
        map.serialize_entry("OS-EXT-STS:power_state", &state.power_state)?;
        map.serialize_entry("os-extended-volumes:volumes_attached", &self.volumes_attached())?;
        if look.from(9) {
            map.serialize_entry("locked", &spec.lock.is_some())?;
        }
        if look.from(73) {
            map.serialize_entry(
                "locked_reason",
                &spec.lock.as_ref().and_then(|lock| lock.reason.as_ref()),
            )?;
        }
        if look.from(19) {
            map.serialize_entry("description", &spec.description)?;
        }
        if look.from(26) {
            map.serialize_entry("tags", &spec.tags)?;
        }
        if look.from(63) {
            map.serialize_entry("trusted_image_certificates", &None::<()>)?;
        }
        if look.from(71) && look.is_single {
            map.serialize_entry("server_groups", &self.server_groups)?;
        }
        map.end()
    }
}

impl Shown<'_> {
    fn admin_fields<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        let (spec, status, look) = (&self.server.spec, &self.server.status, self.look);
        map.serialize_entry("OS-EXT-SRV-ATTR:host", &status.host)?;
        map.serialize_entry("OS-EXT-SRV-ATTR:instance_name", &instance_name(self.server))?;
        map.serialize_entry("OS-EXT-SRV-ATTR:hypervisor_hostname", &status.host)?;
        if look.from(3) {
            map.serialize_entry("OS-EXT-SRV-ATTR:reservation_id", &spec.reservation_id)?;
            map.serialize_entry("OS-EXT-SRV-ATTR:launch_index", &spec.launch_index)?;
            map.serialize_entry("OS-EXT-SRV-ATTR:hostname", &spec.hostname)?;
            map.serialize_entry("OS-EXT-SRV-ATTR:kernel_id", &self.kernel_id)?;
            map.serialize_entry("OS-EXT-SRV-ATTR:ramdisk_id", &self.ramdisk_id)?;
            let root = if spec.driver == "qemu" { Some("/dev/vda") } else { None };
            map.serialize_entry("OS-EXT-SRV-ATTR:root_device_name", &root)?;
            map.serialize_entry("OS-EXT-SRV-ATTR:user_data", &spec.user_data)?;
        }
        if look.from(16) {
            map.serialize_entry("host_status", host_status(self.host.as_deref()))?;
        }
        Ok(())
    }
}

/// The name that the host's driver knows a server by.
pub fn instance_name(server: &Resource<Server>) -> String {
    format!("instance-{}", &server.metadata.uid.simple().to_string()[..8])
}

fn host_status(host: Option<&Resource<Provider>>) -> &'static str {
    match host {
        None => "",
        Some(host) if !host.spec.is_enabled => "MAINTENANCE",
        Some(host) if madang_scheduler::control::is_alive(host, Timestamp::now()) => "UP",
        Some(_) => "DOWN",
    }
}

/// What tells a tenant whether two of its servers share a host, without telling which: as Nova computes it.
pub fn host_id(project: &str, host: Option<&str>) -> String {
    let Some(host) = host else { return String::new() };
    let digest = Sha224::digest(format!("{project}{host}"));
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `2026-11-21T02:30:00Z`.
pub fn seconds(at: Timestamp) -> String {
    at.to_zoned(TimeZone::UTC).strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `2026-11-21T02:30:00.000000`.
pub fn micros(at: Timestamp) -> String {
    at.to_zoned(TimeZone::UTC).strftime("%Y-%m-%dT%H:%M:%S.%6f").to_string()
}
