//! What a guest is told about itself: the contents of the metadata service and of the config drive. Pure.
//!
//! Source: Nova's metadata API (`openstack/`, `latest/meta-data/`), as cloud-init reads both.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use base64::Engine as _;
use madang_block::Attachment;
use madang_network::{Network, Port, Subnet};
use madang_store::{Resource, Store};
use serde_json::{Value, json};

use crate::{
    Server,
    server::{LocalDiskSpec, local, volumes},
};

/// The versions of the OpenStack tree; each shows the same.
const VERSIONS: &[&str] = &[
    "2012-08-10",
    "2013-04-04",
    "2013-10-17",
    "2015-10-15",
    "2016-06-30",
    "2016-10-06",
    "2017-02-22",
    "2018-08-27",
    "2020-10-14",
    "latest",
];

/// The versions of the EC2 tree; each shows the same.
const EC2_VERSIONS: &[&str] = &[
    "1.0",
    "2007-01-19",
    "2007-12-15",
    "2008-02-01",
    "2008-09-01",
    "2009-04-04",
    "latest",
];

/// Everything a guest may read.
pub struct GuestData {
    server: Arc<Resource<Server>>,
    ports: Vec<Arc<Resource<Port>>>,
    links: Vec<Link>,
    volumes: Vec<Arc<Resource<Attachment>>>,
    zone: String,
}

/// A port with what its network says of it.
struct Link {
    port: Arc<Resource<Port>>,
    mtu: u16,
    subnets: Vec<Arc<Resource<Subnet>>>,
}

/// One answer of the metadata service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// `application/json` or `text/plain`.
    pub content_type: &'static str,
    /// The bytes.
    pub body: Vec<u8>,
}

impl GuestData {
    /// Of a server, as it is now.
    pub fn read(store: &Store, server: Arc<Resource<Server>>) -> Self {
        let mut ports = store.cache::<Port>().by("device", server.name());
        ports.sort_unstable_by_key(|port| (port.spec.device_index, port.metadata.uid));
        let subnets = store.cache::<Subnet>();
        let link = |port: &Arc<Resource<Port>>| Link {
            mtu: store
                .cache::<Network>()
                .by_name(&port.spec.network_id)
                .map_or(1500, |network| network.spec.mtu),
            subnets: port
                .spec
                .fixed_ips
                .iter()
                .filter_map(|ip| subnets.by_name(&ip.subnet_id))
                .collect(),
            port: Arc::clone(port),
        };
        let links = ports.iter().map(link).collect();
        let host = server.status.host.clone().unwrap_or_default();
        let provider = store
            .cache::<madang_scheduler::Provider>()
            .by("name", &host)
            .into_iter()
            .next();
        let zone = provider.map_or_else(|| "nova".to_owned(), |provider| provider.spec.zone.clone());
        let volumes = volumes::of(store, server.name());
        Self {
            server,
            ports,
            links,
            volumes,
            zone,
        }
    }

    /// `openstack/latest/meta_data.json`.
    pub fn meta_data(&self) -> Value {
        let spec = &self.server.spec;
        let mut data = json!({
            "uuid": self.server.name(),
            "name": spec.name,
            "hostname": spec.hostname,
            "availability_zone": self.zone,
            "project_id": self.server.project(),
            "launch_index": spec.launch_index,
            "random_seed": random_seed(),
            "devices": self.devices(),
        });
        if !spec.metadata.is_empty() {
            data["meta"] = json!(spec.metadata);
        }
        if let Some(key) = &spec.key {
            data["public_keys"] = json!({ &key.name: key.public_key });
            data["keys"] = json!([{ "name": key.name, "type": key.key_type, "data": key.public_key }]);
        }
        let files = spec.injected.files.iter().zip(0u32..);
        let files = files
            .map(|(file, number)| json!({ "path": file.path, "content_path": format!("/{}", content_path(number)) }));
        let files: Vec<Value> = files.collect();
        if !files.is_empty() {
            data["files"] = json!(files);
        }
        data
    }

    /// The devices that the user gave tags. Where they sit in the machine is not told: the guest finds them by address or
    /// serial number.
    fn devices(&self) -> Vec<Value> {
        let nics = self.ports.iter().filter_map(|port| {
            let tag = port.spec.device_tag.as_ref()?;
            Some(json!({
                "type": "nic", "bus": "none", "address": "none", "mac": port.spec.mac_address, "tags": [tag],
            }))
        });
        let disks = self.volumes.iter().filter_map(|attachment| {
            let tag = attachment.spec.device.as_ref()?.tag.as_ref()?;
            Some(json!({
                "type": "disk", "bus": "none", "address": "none", "serial": attachment.spec.volume,
                "path": attachment.spec.mountpoint, "tags": [tag],
            }))
        });
        let locals = local::named(self.locals()).filter_map(|(name, disk)| {
            let tag = disk.tag.as_ref()?;
            Some(json!({
                "type": "disk", "bus": "none", "address": "none", "serial": name, "path": disk.device, "tags": [tag],
            }))
        });
        nics.chain(locals).chain(disks).collect()
    }

    /// The disks that the host has made for its machine.
    fn locals(&self) -> &[LocalDiskSpec] {
        match self.server.spec.driver.as_str() {
            "qemu" => &self.server.spec.disks,
            _ => &[],
        }
    }

    /// What is where, in EC2's words.
    fn block_device_mapping(&self) -> Value {
        let mut mapping = json!({ "ami": "vda", "root": "/dev/vda" });
        let volumes = self.volumes.iter().filter_map(|one| one.spec.mountpoint.clone());
        let volumes: BTreeSet<String> = volumes.collect();
        let volumes = (0u32..)
            .zip(volumes)
            .map(|(number, name)| (format!("ebs{number}"), name));
        for (name, device) in local::mapping(self.locals()).into_iter().chain(volumes) {
            mapping[name] = json!(device);
        }
        mapping
    }

    /// The bytes of the file of that number, of those that are put into the guest.
    fn content(&self, number: usize) -> Option<Vec<u8>> {
        decoded(&self.server.spec.injected.files.get(number)?.contents)
    }

    /// `openstack/latest/network_data.json`.
    pub fn network_data(&self) -> Value {
        let mut networks = Vec::new();
        let mut services: Vec<Value> = Vec::new();
        for (link, number) in self.links.iter().zip(0u32..) {
            for (fixed, subnet) in link.port.spec.fixed_ips.iter().zip(&link.subnets) {
                let version = if fixed.ip_address.is_ipv4() { 4 } else { 6 };
                let any = if version == 4 { "0.0.0.0" } else { "::" };
                let mut routes: Vec<Value> = subnet
                    .spec
                    .gateway_ip
                    .iter()
                    .map(|gateway| json!({ "network": any, "netmask": any, "gateway": gateway }))
                    .collect();
                routes.extend(subnet.spec.host_routes.iter().map(|route| {
                    json!({ "network": route.destination.network(), "netmask": route.destination.netmask(),
                            "gateway": route.nexthop })
                }));
                let dns = subnet
                    .spec
                    .dns_nameservers
                    .iter()
                    .map(|ip| json!({ "type": "dns", "address": ip }));
                let dns: Vec<Value> = dns.collect();
                services.extend(
                    dns.iter()
                        .filter(|one| !services.contains(one))
                        .cloned()
                        .collect::<Vec<_>>(),
                );
                let kind = if subnet.spec.enable_dhcp {
                    format!("ipv{version}_dhcp")
                } else {
                    format!("ipv{version}")
                };
                networks.push(json!({
                    "id": format!("network{}", networks.len()),
                    "type": kind,
                    "link": format!("tap{number}"),
                    "network_id": link.port.spec.network_id,
                    "ip_address": fixed.ip_address,
                    "netmask": subnet.spec.cidr.netmask(),
                    "routes": routes,
                    "services": dns,
                }));
            }
        }
        let links = self.links.iter().zip(0u32..).map(|(link, number)| {
            json!({
                "id": format!("tap{number}"),
                "type": "ovs",
                "mtu": link.mtu,
                "vif_id": link.port.name(),
                "ethernet_mac_address": link.port.spec.mac_address,
            })
        });
        json!({ "links": links.collect::<Vec<_>>(), "networks": networks, "services": services })
    }

    /// The user data, decoded.
    pub fn user_data(&self) -> Option<Vec<u8>> {
        decoded(self.server.spec.user_data.as_ref()?)
    }

    /// The files of the config drive, by path.
    pub fn config_drive(&self) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        let mut add = |name: &str, body: Vec<u8>| {
            for version in ["2018-08-27", "latest"] {
                files.insert(format!("openstack/{version}/{name}"), body.clone());
            }
        };
        let mut meta = self.meta_data();
        if let Some(password) = &self.server.spec.injected.password {
            // Only here: whoever reaches the service from inside the guest is not to learn it.
            meta["admin_pass"] = json!(password);
        }
        add("meta_data.json", meta.to_string().into_bytes());
        add("network_data.json", self.network_data().to_string().into_bytes());
        add("vendor_data.json", b"{}".to_vec());
        add("vendor_data2.json", b"{}".to_vec());
        if let Some(data) = self.user_data() {
            add("user_data", data);
        }
        for number in 0..self.server.spec.injected.files.len() {
            let content = self.content(number).unwrap_or_default();
            files.insert(format!("openstack/{}", content_path(number as u32)), content);
        }
        files.insert(
            "ec2/latest/meta-data.json".to_owned(),
            self.ec2_tree().to_string().into_bytes(),
        );
        files
    }

    /// What the metadata service answers for a path; none is 404.
    pub fn document(&self, path: &str) -> Option<Document> {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        match parts.as_slice() {
            [] => Some(text(EC2_VERSIONS.join("\n"))),
            ["openstack"] => Some(text(VERSIONS.join("\n"))),
            ["openstack", "content", number] => Some(Document {
                content_type: "application/octet-stream",
                body: self.content(number.parse().ok()?)?,
            }),
            ["openstack", version, rest @ ..] if VERSIONS.contains(version) => self.openstack(rest),
            [version] if EC2_VERSIONS.contains(version) => {
                let user_data = if self.server.spec.user_data.is_some() {
                    "\nuser-data"
                } else {
                    ""
                };
                Some(text(format!("meta-data/{user_data}")))
            }
            [version, "user-data"] if EC2_VERSIONS.contains(version) => self.user_data_document(),
            [version, "meta-data", rest @ ..] if EC2_VERSIONS.contains(version) => walk(&self.ec2_tree(), rest),
            _ => None,
        }
    }

    fn openstack(&self, rest: &[&str]) -> Option<Document> {
        match rest {
            [] => {
                let mut names = vec![
                    "meta_data.json",
                    "network_data.json",
                    "vendor_data.json",
                    "vendor_data2.json",
                ];
                if self.server.spec.user_data.is_some() {
                    names.push("user_data");
                }
                Some(text(names.join("\n")))
            }
            ["meta_data.json"] => Some(json_document(&self.meta_data())),
            ["network_data.json"] => Some(json_document(&self.network_data())),
            ["vendor_data.json" | "vendor_data2.json"] => Some(json_document(&json!({}))),
            ["user_data"] => self.user_data_document(),
            _ => None,
        }
    }

    fn user_data_document(&self) -> Option<Document> {
        Some(Document {
            content_type: "text/plain",
            body: self.user_data()?,
        })
    }

    fn ec2_tree(&self) -> Value {
        let spec = &self.server.spec;
        let address = self
            .ports
            .iter()
            .flat_map(|port| &port.spec.fixed_ips)
            .find(|ip| ip.ip_address.is_ipv4());
        let address = address.map(|ip| ip.ip_address.to_string()).unwrap_or_default();
        let id = format!("i-{}", &self.server.metadata.uid.simple().to_string()[..8]);
        let mut tree = json!({
            "ami-id": spec.image,
            "ami-launch-index": spec.launch_index,
            "hostname": spec.hostname,
            "instance-action": "none",
            "instance-id": id,
            "instance-type": spec.flavor.name,
            "local-hostname": spec.hostname,
            "local-ipv4": address,
            "placement": { "availability-zone": self.zone },
            "public-hostname": spec.hostname,
            "public-ipv4": "",
            "reservation-id": spec.reservation_id,
            "block-device-mapping": self.block_device_mapping(),
        });
        if let Some(key) = &spec.key {
            tree["public-keys"] = json!({ "0": { "_name": format!("0={}", key.name), "openssh-key": key.public_key } });
        }
        tree
    }
}

/// Where the file of that number is, of those that are put into the guest.
fn content_path(number: u32) -> String {
    format!("content/{number:04}")
}

fn decoded(base64: &str) -> Option<Vec<u8>> {
    let digits: String = base64.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    base64::engine::general_purpose::STANDARD.decode(digits).ok()
}

/// Walks EC2's tree: a branch lists its names, sorted, with `/` after those that are branches.
fn walk(tree: &Value, rest: &[&str]) -> Option<Document> {
    let mut at = tree;
    for part in rest {
        at = at.get(part)?;
    }
    match at {
        Value::Object(members) => {
            let names = members
                .iter()
                .filter(|(name, _)| !name.starts_with('_'))
                .map(|(name, value)| match value {
                    Value::Object(inner) => match inner.get("_name").and_then(Value::as_str) {
                        Some(shown) => shown.to_owned(),
                        None => format!("{name}/"),
                    },
                    _ => name.clone(),
                });
            Some(text(
                names
                    .collect::<BTreeSet<_>>()
                    .into_iter()
                    .collect::<Vec<_>>()
                    .join("\n"),
            ))
        }
        Value::String(value) => Some(text(value.clone())),
        Value::Null => Some(text(String::new())),
        other => Some(text(other.to_string())),
    }
}

fn text(body: String) -> Document {
    Document {
        content_type: "text/plain",
        body: body.into_bytes(),
    }
}

fn json_document(value: &Value) -> Document {
    Document {
        content_type: "application/json",
        body: value.to_string().into_bytes(),
    }
}

/// 512 random bytes for the guest's entropy pool, in base64.
fn random_seed() -> String {
    let mut seed = [0u8; 512];
    rand::fill(&mut seed);
    base64::engine::general_purpose::STANDARD.encode(seed)
}

#[cfg(test)]
mod tests {
    use madang_host::workload::DiskBus;
    use madang_network::PortSpec;
    use madang_store::Metadata;

    use super::*;
    use crate::{
        ServerKey,
        server::{Injected, InjectedFile, tests::server},
    };

    fn data() -> GuestData {
        let mut server = server("web");
        server.spec.key = Some(ServerKey {
            name: "me".into(),
            key_type: "ssh".into(),
            public_key: "ssh-ed25519 AAAA me".into(),
        });
        server.spec.user_data = Some("IyEvYmluL3NoCg==".into());
        server.spec.injected = Injected {
            files: vec![InjectedFile {
                path: "/etc/motd".into(),
                contents: "aGVs\nbG8=".into(),
            }],
            password: Some("secret".into()),
        };
        let mut port = Resource::<Port>::new(Metadata::with_id("p1"), PortSpec::on("n1"));
        port.spec.mac_address = "fa:16:3e:00:00:01".into();
        port.spec.device_tag = Some("front".into());
        GuestData {
            server: Arc::new(server),
            ports: vec![Arc::new(port)],
            links: vec![],
            volumes: vec![],
            zone: "nova".into(),
        }
    }

    #[test]
    fn the_guest_is_told_of_its_hosts_disks() {
        let mut server = server("web");
        let flavor = crate::FlavorSpec {
            ephemeral_gb: 2,
            swap_mb: 64,
            ..server.spec.flavor.clone()
        };
        let asked = [Some(1), Some(1)].map(|size| local::LocalRequest {
            kind: local::LocalKind::Ephemeral,
            size,
            file_system: None,
            bus: None,
            tag: Some("scratch".into()),
        });
        server.spec.disks = local::divided(&flavor, asked.into(), false, DiskBus::Virtio).unwrap();
        let told = |server: &Resource<Server>| GuestData {
            server: Arc::new(server.clone()),
            ..data()
        };
        let body = told(&server)
            .document("/latest/meta-data/block-device-mapping")
            .unwrap()
            .body;
        assert_eq!(body, b"ami\nephemeral0\nephemeral1\nroot\nswap");
        let body = told(&server)
            .document("/latest/meta-data/block-device-mapping/ephemeral1")
            .unwrap();
        assert_eq!(body.body, b"/dev/vdc");
        let devices = told(&server).meta_data()["devices"].clone();
        assert_eq!(
            devices[1],
            json!({ "type": "disk", "bus": "none", "address": "none", "serial": "ephemeral0", "path": "/dev/vdb",
                    "tags": ["scratch"] })
        );
        server.spec.driver = "oci".into();
        let body = told(&server)
            .document("/latest/meta-data/block-device-mapping")
            .unwrap()
            .body;
        assert_eq!(body, b"ami\nroot", "a container has no such disks");
    }

    fn body(path: &str) -> Option<String> {
        data()
            .document(path)
            .map(|document| String::from_utf8(document.body).unwrap())
    }

    #[test]
    fn cloud_init_finds_its_way_through_both_trees() {
        let meta: Value = serde_json::from_str(&body("/openstack/latest/meta_data.json").unwrap()).unwrap();
        assert_eq!(
            (meta["hostname"].as_str(), meta["public_keys"]["me"].as_str()),
            (Some("web"), Some("ssh-ed25519 AAAA me"))
        );
        assert_eq!(body("/openstack/2018-08-27/user_data").as_deref(), Some("#!/bin/sh\n"));
        assert!(body("/openstack").unwrap().contains("latest"));
        assert_eq!(body("/latest/meta-data/public-keys/").as_deref(), Some("0=me"));
        assert_eq!(
            body("/2009-04-04/meta-data/public-keys/0/openssh-key").as_deref(),
            Some("ssh-ed25519 AAAA me")
        );
        assert_eq!(
            body("/latest/meta-data/placement/availability-zone").as_deref(),
            Some("nova")
        );
        assert!(body("/latest/meta-data/").unwrap().contains("placement/\n"));
    }

    #[test]
    fn what_is_put_in_is_found_and_the_password_only_on_the_drive() {
        let meta: Value = serde_json::from_str(&body("/openstack/latest/meta_data.json").unwrap()).unwrap();
        assert_eq!(
            meta["files"],
            json!([{ "path": "/etc/motd", "content_path": "/content/0000" }])
        );
        assert_eq!(meta["admin_pass"], Value::Null);
        assert_eq!(body("/openstack/content/0000").as_deref(), Some("hello"));
        assert_eq!(body("/openstack/content/0001"), None);
        let drive = data().config_drive();
        assert_eq!(drive["openstack/content/0000"], b"hello");
        let meta: Value = serde_json::from_slice(&drive["openstack/latest/meta_data.json"]).unwrap();
        assert_eq!(meta["admin_pass"], "secret");
    }

    #[test]
    fn devices_are_told_by_their_tags() {
        let devices = data().meta_data()["devices"].clone();
        assert_eq!(devices[0]["tags"], json!(["front"]));
        assert_eq!(devices[0]["mac"], "fa:16:3e:00:00:01");
    }

    #[test]
    fn what_is_not_there_is_none() {
        for path in [
            "/nope",
            "/openstack/1999-01-01/meta_data.json",
            "/latest/meta-data/nope",
            "/openstack/latest/password",
        ] {
            assert_eq!(body(path), None, "{path}");
        }
    }
}
