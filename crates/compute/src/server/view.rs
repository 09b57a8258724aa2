//! A server as Nova shows it, by microversion. Borrowed from the caches and written straight to bytes: a list of a
//! thousand servers is rendered in milliseconds.

mod image_properties;

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    fmt,
    net::IpAddr,
    ops::Deref,
    sync::Arc,
};

use jiff::{Timestamp, civil::DateTime, tz::Offset};
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
pub struct Surroundings<'a> {
    store: &'a Store,
    /// Where the service is, as the client names it: `http://127.0.0.1:8000/compute`.
    base: &'a str,
    /// By project and host: thousands of servers share a few of these.
    places: RefCell<HashMap<(&'a str, Option<&'a str>), Arc<Place>>>,
}

/// Where a server is.
struct Place {
    /// Of the host; none where there is no host.
    zone: Option<String>,
    host_status: &'static str,
    host_id: String,
}

/// A server with everything its view needs.
pub struct Shown<'a> {
    server: &'a Resource<Server>,
    look: Look,
    base: &'a str,
    place: Arc<Place>,
    ports: Vec<Arc<Resource<Port>>>,
    networks: Vec<Option<Arc<Resource<Network>>>>,
    floating: Vec<Arc<Resource<FloatingIp>>>,
    groups: Vec<Arc<Resource<SecurityGroup>>>,
    image: Option<Arc<Resource<Image>>>,
    server_groups: Vec<String>,
    volumes: Vec<Arc<Resource<Attachment>>>,
}

impl<'a> Surroundings<'a> {
    /// For a client that names the service `base`.
    pub fn new(store: &'a Store, base: &'a str) -> Self {
        Self {
            store,
            base,
            places: RefCell::default(),
        }
    }

    /// One server, shown as asked. Looks at many kinds: where others write meanwhile, within a moment.
    pub fn show(&self, server: &'a Resource<Server>, look: Look) -> Shown<'a> {
        let store = self.store;
        let mut ports = store.cache::<Port>().by("device", server.name());
        ports.sort_unstable_by_key(|port| (port.spec.device_index, port.metadata.uid));
        let networks = store.cache::<Network>();
        let networks = ports.iter().map(|port| networks.by_name(&port.spec.network_id));
        let networks = networks.collect();
        let floating_ips = store.cache::<FloatingIp>();
        let floating = ports.iter().flat_map(|port| floating_ips.by("port", port.name()));
        let floating = floating.collect();
        let mut groups: Vec<&String> = ports.iter().flat_map(|port| &port.spec.security_groups).collect();
        groups.sort_unstable();
        groups.dedup();
        let known_groups = store.cache::<SecurityGroup>();
        let groups = groups.into_iter().filter_map(|id| known_groups.by_name(id)).collect();
        let image = server.spec.image.as_ref().filter(|_| look.is_admin && look.from(3));
        Shown {
            server,
            look,
            base: self.base,
            place: self.place(server),
            networks,
            floating,
            groups,
            image: image.and_then(|id| store.cache::<Image>().by_name(id)),
            server_groups: server_groups(store, server),
            volumes: volumes::of(store, server.name()),
            ports,
        }
    }

    fn place(&self, server: &'a Resource<Server>) -> Arc<Place> {
        let (project, host) = (server.project(), server.status.host.as_deref());
        let mut places = self.places.borrow_mut();
        let place = places.entry((project, host)).or_insert_with(|| {
            let provider = host_of(self.store, server);
            Arc::new(Place {
                zone: provider.as_deref().map(|provider| zone_of(self.store, provider)),
                host_status: host_status(provider.as_deref()),
                host_id: host_id(project, host),
            })
        });
        Arc::clone(place)
    }
}

/// The host that a server is on.
pub(super) fn host_of(store: &Store, server: &Resource<Server>) -> Option<Arc<Resource<Provider>>> {
    let hosts = store.cache::<Provider>().by("name", server.status.host.as_deref()?);
    hosts.into_iter().next()
}

/// The group a server is in, while there is that group.
fn server_groups(store: &Store, server: &Resource<Server>) -> Vec<String> {
    let ids = server.spec.group.iter().map(ToString::to_string);
    ids.filter(|id| store.cache::<ServerGroup>().by_name(id).is_some())
        .collect()
}

/// A text in parts, written without putting them together before.
struct Joined<'a, const N: usize>([&'a str; N]);

impl<const N: usize> fmt::Display for Joined<'_, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|part| f.write_str(part))
    }
}

impl<const N: usize> Serialize for Joined<'_, N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A link as Nova writes it.
#[derive(Serialize)]
struct Link<'a, const N: usize> {
    rel: &'static str,
    href: Joined<'a, N>,
}

/// The short form: id, name and links.
#[derive(Serialize)]
pub struct Brief<'a> {
    id: &'a str,
    name: &'a str,
    links: Links<'a>,
}

/// The short form of a server.
pub fn brief<'a>(server: &'a Resource<Server>, base: &'a str) -> Brief<'a> {
    Brief {
        id: server.name(),
        name: &server.spec.name,
        links: Links(base, server.name()),
    }
}

/// The two links of a server: of which service, and of which id.
struct Links<'a>(&'a str, &'a str);

impl Serialize for Links<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(base, id) = self;
        let own = Link {
            rel: "self",
            href: Joined([base, "/v2.1/servers/", id]),
        };
        let bookmark = Link {
            rel: "bookmark",
            href: Joined([base, "/servers/", id]),
        };
        (own, bookmark).serialize(serializer)
    }
}

/// The links of a server, for answers that hold little else.
pub fn links_of<'a>(base: &'a str, id: &'a str) -> impl Serialize + use<'a> {
    Links(base, id)
}

/// A reference to an image or a flavor: id and bookmark.
#[derive(Serialize)]
struct Reference<'a> {
    id: &'a str,
    links: [Link<'a, 5>; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    properties: Option<BTreeMap<&'a str, &'a str>>,
}

fn reference<'a>(base: &'a str, collection: &'a str, id: &'a str) -> Reference<'a> {
    Reference {
        id,
        links: [Link {
            rel: "bookmark",
            href: Joined([base, "/", collection, "/", id]),
        }],
        properties: None,
    }
}

/// Those properties of an image that Nova knows, each as long as it keeps them.
fn shown_properties(properties: &BTreeMap<String, String>) -> BTreeMap<&str, &str> {
    let known = properties
        .iter()
        .filter(|(name, _)| image_properties::KNOWN.binary_search(&name.as_str()).is_ok());
    known
        .map(|(name, value)| {
            let end = value.char_indices().nth(255).map_or(value.len(), |(end, _)| end);
            (name.as_str(), &value[..end])
        })
        .collect()
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
    created: TimeText,
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

/// Nothing is an empty text.
struct OrEmpty<'a, T>(&'a Option<T>);

impl<T: Serialize> Serialize for OrEmpty<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Some(value) => value.serialize(serializer),
            None => serializer.serialize_str(""),
        }
    }
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
            server,
            look,
            base,
            place,
            ..
        } = self;
        let (id, spec, status) = (server.name(), &server.spec, &server.status);
        let state = state::of(server);
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("id", id)?;
        map.serialize_entry("name", &spec.name)?;
        map.serialize_entry("status", state.status)?;
        map.serialize_entry("tenant_id", server.project())?;
        map.serialize_entry("user_id", &spec.user)?;
        map.serialize_entry("metadata", &spec.metadata)?;
        map.serialize_entry("hostId", &place.host_id)?;
        match &spec.image {
            Some(image) => {
                let properties = look.from(98).then(|| shown_properties(&spec.image_properties));
                map.serialize_entry(
                    "image",
                    &Reference {
                        properties,
                        ..reference(base, "images", image)
                    },
                )?;
            }
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
        map.serialize_entry("accessIPv4", &OrEmpty(&spec.access_ipv4))?;
        map.serialize_entry("accessIPv6", &OrEmpty(&spec.access_ipv6))?;
        map.serialize_entry("links", &Links(base, id))?;
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
        let zone = place.zone.as_ref().or(spec.availability_zone.as_ref());
        map.serialize_entry("OS-EXT-AZ:availability_zone", &OrEmpty(&zone))?;
        if look.from(96) {
            map.serialize_entry("pinned_availability_zone", &spec.availability_zone)?;
        }
        map.serialize_entry("config_drive", if spec.config_drive { "True" } else { "" })?;
        map.serialize_entry("key_name", &spec.key.as_ref().map(|key| &key.name))?;
        let launched = status.launched.map(micros);
        map.serialize_entry("OS-SRV-USG:launched_at", &launched)?;
        let terminated = state::is_gone(server).then(|| micros(server.metadata.updated));
        map.serialize_entry("OS-SRV-USG:terminated_at", &terminated)?;
        if !self.groups.is_empty() {
            let names = self.groups.iter().map(|group| GroupName { name: &group.spec.name });
            let names: Vec<_> = names.collect();
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
        if look.from(100) {
            map.serialize_entry("scheduler_hints", &self.hints())?;
        }
        map.end()
    }
}

impl Shown<'_> {
    /// What the scheduler was told; a group as long as there is one.
    fn hints(&self) -> BTreeMap<&str, &[String]> {
        let hints = self.server.spec.hints.iter();
        let mut hints: BTreeMap<&str, &[String]> =
            hints.map(|(name, values)| (name.as_str(), values.as_slice())).collect();
        if !self.server_groups.is_empty() {
            hints.insert("group", &self.server_groups);
        }
        hints
    }

    fn admin_fields<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        let (spec, status, look) = (&self.server.spec, &self.server.status, self.look);
        map.serialize_entry("OS-EXT-SRV-ATTR:host", &status.host)?;
        map.serialize_entry("OS-EXT-SRV-ATTR:instance_name", &instance_name(self.server))?;
        map.serialize_entry("OS-EXT-SRV-ATTR:hypervisor_hostname", &status.host)?;
        if look.from(3) {
            map.serialize_entry("OS-EXT-SRV-ATTR:reservation_id", &spec.reservation_id)?;
            map.serialize_entry("OS-EXT-SRV-ATTR:launch_index", &spec.launch_index)?;
            map.serialize_entry("OS-EXT-SRV-ATTR:hostname", &spec.hostname)?;
            let image = self.image.as_ref().map(|image| &image.spec);
            let (kernel, ramdisk) = (
                image.and_then(|image| image.kernel_id()),
                image.and_then(|image| image.ramdisk_id()),
            );
            map.serialize_entry("OS-EXT-SRV-ATTR:kernel_id", kernel.unwrap_or_default())?;
            map.serialize_entry("OS-EXT-SRV-ATTR:ramdisk_id", ramdisk.unwrap_or_default())?;
            let root = if spec.driver == "qemu" { Some("/dev/vda") } else { None };
            map.serialize_entry("OS-EXT-SRV-ATTR:root_device_name", &root)?;
            map.serialize_entry("OS-EXT-SRV-ATTR:user_data", &spec.user_data)?;
        }
        if look.from(16) {
            map.serialize_entry("host_status", self.place.host_status)?;
        }
        Ok(())
    }
}

/// The name that the host's driver knows a server by.
pub fn instance_name(server: &Resource<Server>) -> String {
    format!("instance-{:08x}", server.metadata.uid.as_fields().0)
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

/// A time as a text, of which lists have thousands.
pub struct TimeText {
    bytes: [u8; 26],
    len: usize,
}

impl Deref for TimeText {
    type Target = str;

    fn deref(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.len]).unwrap_or_default()
    }
}

impl fmt::Display for TimeText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

impl Serialize for TimeText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self)
    }
}

/// `2026-11-21T02:30:00Z`.
pub fn seconds(at: Timestamp) -> TimeText {
    let mut text = TimeText {
        bytes: *b"0000-00-00T00:00:00Z      ",
        len: 20,
    };
    put_time(&mut text.bytes, at);
    text
}

/// `2026-11-21T02:30:00.000000`.
pub fn micros(at: Timestamp) -> TimeText {
    let mut text = TimeText {
        bytes: *b"0000-00-00T00:00:00.000000",
        len: 26,
    };
    let time = put_time(&mut text.bytes, at);
    put_digits(&mut text.bytes[20..26], time.subsec_nanosecond().unsigned_abs() / 1000);
    text
}

/// Writes all up to the seconds. Nothing here was ever before the year 0.
fn put_time(text: &mut [u8], at: Timestamp) -> DateTime {
    let time = Offset::UTC.to_datetime(at);
    put_digits(&mut text[0..4], u32::from(time.year().unsigned_abs()));
    let rest = [time.month(), time.day(), time.hour(), time.minute(), time.second()];
    for (place, number) in rest.into_iter().enumerate() {
        put_digits(
            &mut text[5 + 3 * place..7 + 3 * place],
            u32::from(number.unsigned_abs()),
        );
    }
    time
}

fn put_digits(text: &mut [u8], mut number: u32) {
    for digit in text.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use madang_store::{Backend, Cause, Kind, Metadata, Sqlite, SqliteOptions, StoreBuilder};
    use serde_json::{Value, json};
    use uuid::Uuid;

    use super::*;
    use crate::{
        Aggregate, Fault, Phase,
        server::{Lock, ServerKey, tests::server},
    };

    async fn open(dir: &tempfile::TempDir) -> Store {
        let mut builder = StoreBuilder::new();
        // Kinds without their rules: every resource is as it is written here.
        builder
            .kind::<Port>()
            .kind::<Network>()
            .kind::<FloatingIp>()
            .kind::<SecurityGroup>()
            .kind::<Provider>()
            .kind::<Image>()
            .kind::<Aggregate>()
            .kind::<ServerGroup>()
            .kind::<Attachment>();
        let engine = Sqlite::open(SqliteOptions::new(dir.path().join("state.db")))
            .await
            .unwrap();
        builder.open(Arc::new(engine) as Arc<dyn Backend>).await.unwrap()
    }

    fn id(number: u128) -> String {
        Uuid::from_u128(number).to_string()
    }

    async fn put<K: Kind>(store: &Store, number: u128, spec: Value) {
        let metadata = Metadata::with_uid(Uuid::from_u128(number), "p1", id(number));
        let spec = serde_json::from_value(spec).unwrap();
        let mut tx = store.begin(Cause::system("test"));
        tx.create(Resource::<K>::new(metadata, spec)).unwrap();
        tx.commit().await.unwrap();
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    async fn surroundings(store: &Store) {
        let network = |name: &str| json!({"name": name, "admin_state_up": true, "mtu": 1500, "segmentation_id": 1, "network_type": "vxlan"});
        put::<Network>(store, 0x10, network("blue")).await;
        put::<Network>(store, 0x11, network("a \"green\" one")).await;
        for (number, name) in [(0x20, "default"), (0x21, "web")] {
            put::<SecurityGroup>(store, number, json!({"name": name, "is_stateful": true})).await;
        }
        for (number, network, device, index, addresses) in [
            (0x30, 0x10, 0xa0, 1, vec!["10.0.0.7", "fd00::7"]),
            (0x31, 0x11, 0xa0, 0, vec!["192.168.1.4"]),
            (0x32, 0x12, 0xa0, 2, vec![]),
            (0x33, 0x10, 0xa1, 0, vec!["10.0.0.8"]),
        ] {
            let fixed = addresses
                .iter()
                .map(|ip| json!({"subnet_id": id(0x19), "ip_address": ip}));
            let port = json!({"network_id": id(network), "mac_address": format!("fa:16:3e:00:00:{index:02x}"),
                "fixed_ips": fixed.collect::<Vec<_>>(), "device_id": id(device), "device_index": index,
                "security_groups": [id(0x21), id(0x20)]});
            put::<Port>(store, number, port).await;
        }
        let floating =
            json!({"network_id": id(0x19), "subnet_id": id(0x19), "address": "203.0.113.9", "port_id": id(0x30)});
        put::<FloatingIp>(store, 0x40, floating).await;
        for (number, name, is_enabled) in [(0x50, "host-a", false), (0x51, "host-b", true)] {
            let provider = json!({"name": name, "zone": "nova", "is_enabled": is_enabled});
            put::<Provider>(store, number, provider).await;
        }
        let aggregate =
            json!({"number": 1, "name": "rack", "metadata": {"availability_zone": "east"}, "hosts": ["host-b"]});
        put::<Aggregate>(store, 0x60, aggregate).await;
        for (number, order, goes) in [(0x70, 1, true), (0x71, 0, false)] {
            let device = json!({"order": order, "delete_on_termination": goes});
            let attachment = json!({"volume": id(number + 0x100), "server": id(0xa1), "device": device});
            put::<Attachment>(store, number, attachment).await;
        }
    }

    /// Three servers with something of everything that a view can hold.
    fn servers() -> [Resource<Server>; 3] {
        let named = |number, name| {
            let mut one = server(name);
            one.metadata.uid = Uuid::from_u128(number);
            one.metadata.name = id(number);
            one.metadata.created = at("2026-03-04T05:06:07.089Z");
            one.metadata.updated = at("2026-11-21T23:59:59.999999Z");
            one
        };
        let mut full = named(0xa0, "full \"of\" it\n");
        full.status.phase = Phase::Active;
        full.status.host = Some("host-a".to_owned());
        full.status.launched = Some(at("2026-03-04T05:06:10.000042Z"));
        let spec = &mut full.spec;
        spec.metadata = [("k".to_owned(), "v/\u{e9}\\".to_owned())].into();
        spec.tags = ["one".to_owned(), "two".to_owned()].into();
        spec.description = Some("words".to_owned());
        spec.key = Some(ServerKey {
            name: "me".to_owned(),
            key_type: "ssh".to_owned(),
            public_key: "ssh-ed25519 A".to_owned(),
        });
        spec.user_data = Some("Zm9v".to_owned());
        spec.config_drive = true;
        spec.is_disk_automatic = true;
        spec.access_ipv4 = Some([192, 0, 2, 1].into());
        spec.access_ipv6 = Some("2001:db8::1".parse().unwrap());
        spec.lock = Some(Lock {
            by_admin: true,
            reason: Some("because".to_owned()),
        });
        spec.flavor.extra_specs = [("hw:cpu_policy".to_owned(), "shared".to_owned())].into();
        let mut failed = named(0xa1, "failed");
        failed.spec.image = None;
        failed.spec.driver = "oci".to_owned();
        failed.spec.availability_zone = Some("east".to_owned());
        failed.status.phase = Phase::Error;
        failed.status.host = Some("host-b".to_owned());
        failed.status.fault = Some(Fault {
            code: 500,
            message: "it broke".to_owned(),
            details: Some("at the seam".to_owned()),
            created: at("2026-03-04T05:06:08Z"),
        });
        let mut gone = named(0xa2, "gone");
        gone.metadata.deleted = Some(at("2026-11-21T23:59:59Z"));
        [full, failed, gone]
    }

    #[tokio::test]
    async fn a_view_is_what_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir).await;
        surroundings(&store).await;
        let servers = servers();
        let mut seen = String::new();
        for minor in [1, 3, 9, 16, 19, 26, 47, 63, 71, 73, 90, 96] {
            for (is_admin, is_single) in [(false, true), (true, false)] {
                let look = Look {
                    version: Microversion(2, minor),
                    is_admin,
                    is_single,
                };
                let around = Surroundings::new(&store, "http://127.0.0.1:8000/compute");
                writeln!(seen, "2.{minor} admin {is_admin} single {is_single}").unwrap();
                for server in &servers {
                    let text = serde_json::to_string(&around.show(server, look)).unwrap();
                    writeln!(seen, "  {text}").unwrap();
                }
            }
        }
        insta::assert_snapshot!("views", seen);
        store.close().await;
    }

    #[test]
    fn times_have_the_lengths_that_clients_parse() {
        for (time, in_seconds, in_micros) in [
            (
                "2026-11-21T02:30:00Z",
                "2026-11-21T02:30:00Z",
                "2026-11-21T02:30:00.000000",
            ),
            (
                "1969-12-31T23:59:59.9999999Z",
                "1969-12-31T23:59:59Z",
                "1969-12-31T23:59:59.999999",
            ),
            (
                "0099-01-02T03:04:05.000006Z",
                "0099-01-02T03:04:05Z",
                "0099-01-02T03:04:05.000006",
            ),
            (
                "9999-12-30T21:59:59.12Z",
                "9999-12-30T21:59:59Z",
                "9999-12-30T21:59:59.120000",
            ),
        ] {
            assert_eq!(
                (&*seconds(at(time)), &*micros(at(time))),
                (in_seconds, in_micros),
                "{time}"
            );
        }
    }
}
