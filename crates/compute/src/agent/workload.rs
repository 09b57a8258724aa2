//! From resources to what a driver runs.

use std::{net::IpAddr, path::PathBuf, sync::Arc};

use ipnet::IpNet;
use madang_host::workload::{DiskFormat, DriverError, Hardware, Nic, Root, Workload};
use madang_image::{CacheError, CachedImage};
use madang_network::{Network, Port, Subnet};
use madang_store::{Resource, Store};

use super::{Agent, config_drive};
use crate::server::{Base, Server, hardware, local, machine, volumes};

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;
/// Frame payload where a port's network is gone; Ethernet's own.
const DEFAULT_MTU: u16 = 1500;

/// The ports of a server, in guest order.
pub(super) fn ports(store: &Store, server: &Resource<Server>) -> Vec<Arc<Resource<Port>>> {
    let mut ports = store.cache::<Port>().by("device", server.name());
    ports.sort_unstable_by_key(|port| (port.spec.device_index, port.metadata.created, port.metadata.uid));
    ports
}

impl Agent {
    /// What the driver is to run for a server.
    ///
    /// # Errors
    /// `Broken` for an image that is gone or of the wrong sort; `Io` when its directory cannot be made.
    pub(super) async fn workload(
        &self,
        server: &Resource<Server>,
        ports: &[Arc<Resource<Port>>],
        uid: u32,
    ) -> Result<Workload, DriverError> {
        let flavor = &server.spec.flavor;
        let dir = self.directory(server).await?;
        let wants_drive = server.spec.config_drive && server.spec.driver == "qemu" && self.options.ground.is_some();
        let config_drive = match wants_drive {
            true => Some(config_drive::write(&self.store, server, self.options.config_drive, &dir).await?),
            false => None,
        };
        let hardware = self.hardware(server)?;
        Ok(Workload {
            id: server.metadata.uid,
            hostname: server.spec.hostname.clone(),
            vcpus: flavor.vcpus,
            memory_bytes: u64::from(flavor.ram_mb) * MIB,
            root: self.root(server).await?,
            nics: ports.iter().map(|port| self.nic(port)).collect::<Result<_, _>>()?,
            dir,
            uid,
            config_drive,
            locals: local::wanted(&server.spec.disks, &hardware),
            disks: self.disks(server)?,
            hardware,
            rescue: self.rescuer(server).await?,
        })
    }

    /// The server's own directory, made; an empty path where nothing runs.
    async fn directory(&self, server: &Resource<Server>) -> Result<PathBuf, DriverError> {
        let Some(ground) = &self.options.ground else {
            return Ok(PathBuf::new());
        };
        let dir = ground.directory.join(server.metadata.uid.to_string());
        let made = tokio::fs::create_dir_all(&dir).await;
        made.map_err(|source| DriverError::Io {
            action: format!("make the directory {}", dir.display()),
            source,
        })?;
        Ok(dir)
    }

    /// What its rescuer runs from.
    async fn rescuer(&self, server: &Resource<Server>) -> Result<Option<Root>, DriverError> {
        let Some(rescue) = &server.spec.asked.rescue else {
            return Ok(None);
        };
        let image = self.image(&rescue.image).await?;
        Ok(Some(Root::Disk {
            size_bytes: image.virtual_size.unwrap_or(image.size),
            format: disk_format(image.disk_format),
            base: image.path,
            kernel: None,
            ramdisk: None,
            kernel_args: None,
        }))
    }

    /// What its root stands on: what it stood on before, or the image it is made from.
    async fn base(&self, server: &Resource<Server>) -> Result<CachedImage, DriverError> {
        if let Some(base) = &server.status.base {
            let held = self.options.images.held(&base.digest, base.size).await;
            let path = held.map_err(|source| {
                DriverError::Host(format!("what the root disk stands on cannot be read: {source}"))
            })?;
            return Ok(CachedImage {
                path,
                disk_format: base.disk_format,
                container_format: base.container_format,
                size: base.size,
                virtual_size: base.virtual_size,
                digest: base.digest.clone(),
            });
        }
        let id = server.status.unshelved.as_deref().or(server.spec.image.as_deref());
        let id = id.ok_or_else(|| DriverError::Broken("the server has no image to start from".to_owned()))?;
        self.image(id).await
    }

    /// What is to be kept of the base of a server that starts for the first time.
    pub(super) async fn base_to_keep(&self, server: &Resource<Server>) -> Option<Base> {
        if server.status.base.is_some() {
            return None;
        }
        let image = self.base(server).await.ok()?;
        Some(Base {
            digest: image.digest,
            size: image.size,
            virtual_size: image.virtual_size,
            disk_format: image.disk_format,
            container_format: image.container_format,
        })
    }

    async fn root(&self, server: &Resource<Server>) -> Result<Root, DriverError> {
        if volumes::boots_from(&volumes::of(&self.store, server.name())) {
            return Ok(Root::Attached);
        }
        let image = self.base(server).await?;
        let wanted = u64::from(server.spec.flavor.disk_gb) * GIB;
        if server.spec.driver == "oci" {
            return Ok(Root::Container {
                archive: image.path,
                digest: image.digest,
                size_bytes: wanted,
                env: Vec::new(),
            });
        }
        let properties = server.spec.image.as_deref();
        let properties = properties.and_then(|id| self.store.cache::<madang_image::Image>().by_name(id));
        let properties = properties.as_ref().map(|image| &image.spec);
        let kernel = match properties.and_then(|spec| spec.kernel_id()) {
            Some(kernel) => Some(self.image(kernel).await?.path),
            None => None,
        };
        let ramdisk = match properties.and_then(|spec| spec.ramdisk_id()) {
            Some(ramdisk) => Some(self.image(ramdisk).await?.path),
            None => None,
        };
        let base_size = image.virtual_size.unwrap_or(image.size);
        Ok(Root::Disk {
            base: image.path,
            format: disk_format(image.disk_format),
            size_bytes: wanted.max(base_size),
            kernel,
            ramdisk,
            kernel_args: properties.and_then(|spec| spec.properties.get("os_command_line").cloned()),
        })
    }

    /// What its machine is built of; containers are built of nothing.
    fn hardware(&self, server: &Resource<Server>) -> Result<Hardware, DriverError> {
        if server.spec.driver != "qemu" {
            return Ok(Hardware::default());
        }
        let flavor = &server.spec.flavor;
        let unfit = |unfit: hardware::Unfit| DriverError::Broken(unfit.to_string());
        let mut built = machine::hardware(&self.store, server).map_err(unfit)?;
        let rescuer = server.spec.asked.rescue.as_ref();
        if let Some(rescuer) =
            rescuer.and_then(|rescue| self.store.cache::<madang_image::Image>().by_name(&rescue.image))
        {
            built.rescue = hardware::rescuer(&rescuer.spec.properties).map_err(unfit)?;
        }
        let facts = &self.options.facts;
        let shared = if facts.dedicated().next().is_some() {
            facts.shared().collect()
        } else {
            Vec::new()
        };
        let seats = machine::seats(&self.store, server);
        hardware::sit(&mut built, &seats, &shared, flavor.vcpus, flavor.ram_mb);
        Ok(built)
    }

    async fn image(&self, id: &str) -> Result<CachedImage, DriverError> {
        self.options.images.fetch(id).await.map_err(|error| match error {
            // Its source says what is wrong with the bytes; the chain is shown to the user.
            CacheError::Blob { id, source } => DriverError::Host(format!("image {id} cannot be read: {source}")),
            other => DriverError::Broken(other.to_string()),
        })
    }

    pub(super) fn nic(&self, port: &Resource<Port>) -> Result<Nic, DriverError> {
        let device = port.status.device.clone();
        let device = device.ok_or_else(|| DriverError::Host(format!("port {} has no device yet", port.name())))?;
        let subnets = self.store.cache::<Subnet>();
        let fabric = self
            .options
            .ground
            .as_ref()
            .and_then(|ground| Some(ground.instance.fabric().name()?.to_owned()));
        let network = self.store.cache::<Network>().by_name(&port.spec.network_id);
        let mut nic = Nic {
            port: port.metadata.uid,
            mac: mac(&port.spec.mac_address)?,
            device,
            peer: port.status.peer.clone(),
            netns: fabric.unwrap_or_default(),
            mtu: network.map_or(DEFAULT_MTU, |network| network.spec.mtu),
            addresses: Vec::new(),
            gateway: None,
            routes: Vec::new(),
            name_servers: Vec::new(),
        };
        for fixed in &port.spec.fixed_ips {
            let Some(subnet) = subnets.by_name(&fixed.subnet_id) else {
                continue;
            };
            let subnet = &subnet.spec;
            nic.addresses.push(with_prefix(fixed.ip_address, &subnet.cidr));
            if nic.gateway.is_none() {
                nic.gateway = subnet.gateway_ip;
            }
            nic.routes.extend(
                subnet
                    .host_routes
                    .iter()
                    .map(|route| (route.destination, route.nexthop)),
            );
            nic.name_servers.extend(&subnet.dns_nameservers);
            if subnet.dns_nameservers.is_empty() && subnet.enable_dhcp {
                nic.name_servers
                    .extend(self.own_name_server(&port.spec.network_id, &fixed.subnet_id));
            }
        }
        Ok(nic)
    }
}

fn disk_format(format: madang_image::DiskFormat) -> DiskFormat {
    match format {
        madang_image::DiskFormat::Qcow2 => DiskFormat::Qcow2,
        _ => DiskFormat::Raw,
    }
}

impl Agent {
    /// Where DHCP of a subnet is, names are answered, too; it says the same to who asks it.
    fn own_name_server(&self, network: &str, subnet: &str) -> Option<IpAddr> {
        let ports = self.store.cache::<Port>().by("device", &format!("dhcp-{network}"));
        let addresses = ports.iter().flat_map(|port| &port.spec.fixed_ips);
        let mut addresses = addresses.filter(|ip| ip.subnet_id == subnet && ip.ip_address.is_ipv4());
        addresses.next().map(|ip| ip.ip_address)
    }
}

fn with_prefix(address: IpAddr, subnet: &IpNet) -> IpNet {
    IpNet::new(address, subnet.prefix_len()).unwrap_or_else(|_| IpNet::from(address))
}

fn mac(text: &str) -> Result<[u8; 6], DriverError> {
    let broken = || DriverError::Broken(format!("{text:?} is not a MAC address"));
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next().ok_or_else(broken)?;
        *byte = u8::from_str_radix(part, 16).map_err(|_| broken())?;
    }
    if parts.next().is_some() { Err(broken()) } else { Ok(mac) }
}
