//! What a server's machine is built of, by its image's properties and its flavor's extra specs. Pure.
//!
//! Where both speak, the flavor is the operator's word: it wins, or what the image says against it is refused, as in Nova.
//! Source: Nova's image metadata properties and flavor extra specs.

use std::{collections::BTreeMap, str::FromStr};

use madang_host::workload::{
    Cpu, DiskBus, DiskKind, Firmware, Hardware, IoLimits, NicModel, NumaNode, TpmVersion, Video,
};
use madang_scheduler::{Seat, seat::pages};

use crate::FlavorSpec;

/// Text by name, as images and flavors have it.
pub type Properties = BTreeMap<String, String>;

/// Why there is no such machine, in words for the user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// The image says something that is not there.
    #[error("Invalid image metadata. Error: Field value {value} is invalid for {name}")]
    Image {
        /// The property.
        name: String,
        /// What it says.
        value: String,
    },
    /// The flavor does.
    #[error("Invalid flavor: {name}={value}: {why}")]
    Flavor {
        /// The extra spec.
        name: String,
        /// What it says.
        value: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The image asks for what the flavor does not give.
    #[error("Image property '{name}' is not permitted to override what the flavor says")]
    Override {
        /// The property.
        name: &'static str,
    },
}

/// What a machine with an image and a flavor of `vcpus` and `ram_mb` is built of.
///
/// # Errors
/// [`Unfit`], naming property and value.
pub fn of(image: &Properties, is_iso: bool, specs: &Properties, vcpus: u32, ram_mb: u32) -> Result<Hardware, Unfit> {
    let said = Said { image, specs };
    said.refuse_what_is_not_here()?;
    said.seating()?;
    let disk_bus = match image.get("hw_scsi_model").map(String::as_str) {
        Some("virtio-scsi") if !image.contains_key("hw_disk_bus") => DiskBus::Scsi,
        None | Some("virtio-scsi") => said.image_one_of("hw_disk_bus", DISK_BUSES)?.unwrap_or_default(),
        Some(_) => return Err(said.image_is_wrong("hw_scsi_model")),
    };
    said.image_one_of("hw_rng_model", &[("virtio", ())])?;
    said.image_one_of("hw_cdrom_bus", DISK_BUSES)?;
    Ok(Hardware {
        machine_type: said.machine_type()?,
        firmware: said.firmware()?,
        disk_bus,
        root_kind: if is_iso { DiskKind::Cdrom } else { DiskKind::Disk },
        nic_model: said.image_one_of("hw_vif_model", NIC_MODELS)?.unwrap_or_default(),
        has_boot_menu: match said.flavor_bool("hw:boot_menu")? {
            Some(has) => has,
            None => said.image_bool("hw_boot_menu")?.unwrap_or(false),
        },
        has_guest_agent: said.image_bool("hw_qemu_guest_agent")?.unwrap_or(false),
        is_without_rng: said.flavor_bool("hw_rng:allowed")? == Some(false),
        video: said.image_one_of("hw_video_model", VIDEOS)?.unwrap_or_default(),
        tpm: said.tpm()?,
        is_for_windows: image.get("os_type").is_some_and(|os| os == "windows"),
        cpu: Cpu {
            model: None,
            topology: said.topology(vcpus)?,
            ..Cpu::default()
        },
        disk_limits: IoLimits {
            read_bytes_sec: said.limit("quota:disk_read_bytes_sec")?,
            write_bytes_sec: said.limit("quota:disk_write_bytes_sec")?,
            total_bytes_sec: said.limit("quota:disk_total_bytes_sec")?,
            read_iops_sec: said.limit("quota:disk_read_iops_sec")?,
            write_iops_sec: said.limit("quota:disk_write_iops_sec")?,
            total_iops_sec: said.limit("quota:disk_total_iops_sec")?,
        },
        // Nova's unit is a kilobyte a second.
        nic_limits: (
            said.limit("quota:vif_inbound_average")?.map(|limit| limit * 1000),
            said.limit("quota:vif_outbound_average")?.map(|limit| limit * 1000),
        ),
        cpu_shares: said.limit("quota:cpu_shares")?,
        // Nova's period, where only the quota is said.
        cpu_quota: said
            .limit("quota:cpu_quota")?
            .map(|quota| {
                said.limit("quota:cpu_period")
                    .map(|period| (quota, period.unwrap_or(100_000)))
            })
            .transpose()?,
        rescue: None,
        numa: said.numa(vcpus, ram_mb)?,
    })
}

/// How a rescuer is plugged in where its image says that all other disks keep their places. Source: Nova's stable device
/// rescue, `hw_rescue_bus` and `hw_rescue_device`, either of which asks for it.
///
/// # Errors
/// [`Unfit`], naming property and value.
pub fn rescuer(image: &Properties) -> Result<Option<(DiskBus, DiskKind)>, Unfit> {
    let specs = Properties::new();
    let said = Said { image, specs: &specs };
    let kinds = [("disk", DiskKind::Disk), ("cdrom", DiskKind::Cdrom)];
    let (bus, kind) = (
        said.image_one_of("hw_rescue_bus", DISK_BUSES)?,
        said.image_one_of("hw_rescue_device", &kinds)?,
    );
    if (bus, kind) == (None, None) {
        return Ok(None);
    }
    let kind = kind.unwrap_or_default();
    let usual = if kind == DiskKind::Cdrom {
        DiskBus::Sata
    } else {
        DiskBus::default()
    };
    let by_image = said.image_one_of("hw_disk_bus", DISK_BUSES)?;
    Ok(Some((bus.or(by_image).unwrap_or(usual), kind)))
}

/// What a flavor asks for that containers do not get; all else of it that is for machines has no meaning for them.
///
/// # Errors
/// [`Unfit`], naming the extra spec, or the field, and its value.
pub fn of_container(flavor: &FlavorSpec) -> Result<(), Unfit> {
    let (image, specs) = (Properties::new(), &flavor.extra_specs);
    let said = Said { image: &image, specs };
    if flavor.ephemeral_gb > 0 {
        return Err(Unfit::Flavor {
            name: "OS-FLV-EXT-DATA:ephemeral".to_owned(),
            value: flavor.ephemeral_gb.to_string(),
            why: "containers have their root alone, no further disks",
        });
    }
    if specs.get("hw:cpu_policy").is_some_and(|policy| policy == "dedicated") {
        return Err(said.flavor_is_wrong("hw:cpu_policy", "containers share their host's processors"));
    }
    if specs.get("hw:mem_page_size").is_some_and(|size| pages(size).is_some()) {
        return Err(said.flavor_is_wrong("hw:mem_page_size", "containers have their host's usual pages"));
    }
    Ok(())
}

/// The trusted platform module that a machine has, by its image and its flavor.
///
/// # Errors
/// [`Unfit`], naming property and value.
pub fn tpm(image: &Properties, specs: &Properties) -> Result<Option<TpmVersion>, Unfit> {
    Said { image, specs }.tpm()
}

const DISK_BUSES: &[(&str, DiskBus)] = &[
    ("virtio", DiskBus::Virtio),
    ("scsi", DiskBus::Scsi),
    ("sata", DiskBus::Sata),
    ("ide", DiskBus::Ide),
    ("usb", DiskBus::Usb),
];

const NIC_MODELS: &[(&str, NicModel)] = &[
    ("virtio", NicModel::Virtio),
    ("e1000", NicModel::E1000),
    ("e1000e", NicModel::E1000e),
    ("rtl8139", NicModel::Rtl8139),
    ("pcnet", NicModel::Pcnet),
    ("ne2k_pci", NicModel::Ne2kPci),
    ("vmxnet3", NicModel::Vmxnet3),
];

const VIDEOS: &[(&str, Video)] = &[
    ("none", Video::None),
    ("vga", Video::Vga),
    ("virtio", Video::Virtio),
    ("cirrus", Video::Cirrus),
    ("vmvga", Video::Vmvga),
    ("qxl", Video::Qxl),
    ("bochs", Video::Bochs),
];

struct Said<'a> {
    image: &'a Properties,
    specs: &'a Properties,
}

impl Said<'_> {
    fn image_is_wrong(&self, name: &str) -> Unfit {
        Unfit::Image {
            name: name.to_owned(),
            value: self.image.get(name).cloned().unwrap_or_default(),
        }
    }

    fn flavor_is_wrong(&self, name: &str, why: &'static str) -> Unfit {
        Unfit::Flavor {
            name: name.to_owned(),
            value: self.specs.get(name).cloned().unwrap_or_default(),
            why,
        }
    }

    fn image_one_of<T: Copy>(&self, name: &str, known: &[(&str, T)]) -> Result<Option<T>, Unfit> {
        let Some(value) = self.image.get(name) else {
            return Ok(None);
        };
        let found = known.iter().find(|(word, _)| word == value);
        found
            .map(|(_, meaning)| Some(*meaning))
            .ok_or_else(|| self.image_is_wrong(name))
    }

    fn image_bool(&self, name: &str) -> Result<Option<bool>, Unfit> {
        match self.image.get(name) {
            None => Ok(None),
            Some(value) => truth(value).map(Some).ok_or_else(|| self.image_is_wrong(name)),
        }
    }

    fn image_number<T: FromStr>(&self, name: &str) -> Result<Option<T>, Unfit> {
        let number = self.image.get(name).map(|value| value.parse());
        number.transpose().map_err(|_| self.image_is_wrong(name))
    }

    fn flavor_bool(&self, name: &str) -> Result<Option<bool>, Unfit> {
        match self.specs.get(name) {
            None => Ok(None),
            Some(value) => truth(value)
                .map(Some)
                .ok_or_else(|| self.flavor_is_wrong(name, "it is true or false")),
        }
    }

    fn flavor_number<T: FromStr>(&self, name: &str) -> Result<Option<T>, Unfit> {
        let number = self.specs.get(name).map(|value| value.parse());
        number
            .transpose()
            .map_err(|_| self.flavor_is_wrong(name, "it is a whole number"))
    }

    /// A limit; 0 is none.
    fn limit(&self, name: &str) -> Result<Option<u64>, Unfit> {
        Ok(self.flavor_number(name)?.filter(|limit| *limit > 0))
    }

    fn machine_type(&self) -> Result<Option<String>, Unfit> {
        let Some(value) = self.image.get("hw_machine_type") else {
            return Ok(None);
        };
        let version = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit() || c == '.');
        let versioned = ["pc-q35-", "pc-i440fx-"]
            .iter()
            .find_map(|family| value.strip_prefix(family));
        if value == "q35" || value == "pc" || versioned.is_some_and(version) {
            return Ok(Some(value.clone()));
        }
        Err(self.image_is_wrong("hw_machine_type"))
    }

    fn firmware(&self) -> Result<Firmware, Unfit> {
        let is_uefi = self
            .image_one_of("hw_firmware_type", &[("bios", false), ("uefi", true)])?
            .unwrap_or(false);
        let secure = [("required", true), ("optional", false), ("disabled", false)];
        let by_image = self.image_one_of("os_secure_boot", &secure)?.unwrap_or(false);
        let by_flavor = match self.specs.get("os:secure_boot").map(String::as_str) {
            None => None,
            Some("required") => Some(true),
            Some("optional" | "disabled") => Some(false),
            Some(_) => return Err(self.flavor_is_wrong("os:secure_boot", "it is required, optional or disabled")),
        };
        let is_secure = by_flavor.unwrap_or(by_image);
        match (is_uefi, is_secure) {
            (true, is_secure) => Ok(Firmware::Uefi { is_secure }),
            (false, false) => Ok(Firmware::Bios),
            (false, true) if by_image => Err(self.image_is_wrong("os_secure_boot")),
            (false, true) => {
                Err(self.flavor_is_wrong("os:secure_boot", "it takes an image with hw_firmware_type=uefi"))
            }
        }
    }

    fn tpm(&self) -> Result<Option<TpmVersion>, Unfit> {
        let by_image = self.image_one_of("hw_tpm_version", &[("1.2", TpmVersion::V1), ("2.0", TpmVersion::V2)])?;
        let by_flavor = match self.specs.get("hw:tpm_version").map(String::as_str) {
            None => None,
            Some("1.2") => Some(TpmVersion::V1),
            Some("2.0") => Some(TpmVersion::V2),
            Some(_) => return Err(self.flavor_is_wrong("hw:tpm_version", "it is 1.2 or 2.0")),
        };
        match (by_flavor, by_image) {
            (Some(flavor), Some(image)) if flavor != image => Err(Unfit::Override { name: "hw_tpm_version" }),
            (flavor, image) => Ok(flavor.or(image)),
        }
    }

    /// Sockets, cores and threads: what is left open is filled so that the product fits, as sockets first.
    fn topology(&self, vcpus: u32) -> Result<Option<(u32, u32, u32)>, Unfit> {
        let part = |name: &str| -> Result<Option<u32>, Unfit> {
            match self.flavor_number(&format!("hw:cpu_{name}"))? {
                Some(number) => Ok(Some(number)),
                None => self.image_number(&format!("hw_cpu_{name}")),
            }
        };
        let (sockets, cores, threads) = (part("sockets")?, part("cores")?, part("threads")?);
        if (sockets, cores, threads) == (None, None, None) {
            return Ok(None);
        }
        let threads_now = threads.unwrap_or(1);
        let divided = |by: u32| (by > 0 && vcpus.is_multiple_of(by)).then(|| vcpus / by);
        let whole = match (sockets, cores) {
            (Some(sockets), Some(cores)) => Some((sockets, cores)),
            (Some(sockets), None) => divided(sockets.saturating_mul(threads_now)).map(|cores| (sockets, cores)),
            (None, cores) => {
                let cores = cores.unwrap_or(1);
                divided(cores.saturating_mul(threads_now)).map(|sockets| (sockets, cores))
            }
        };
        let fits = |(sockets, cores): &(u32, u32)| {
            u64::from(*sockets) * u64::from(*cores) * u64::from(threads_now) == u64::from(vcpus)
        };
        let Some((sockets, cores)) = whole.filter(fits) else {
            let name = ["sockets", "cores", "threads"]
                .into_iter()
                .map(|part| format!("hw:cpu_{part}"))
                .find(|name| self.specs.contains_key(name));
            return Err(match name {
                Some(name) => self.flavor_is_wrong(&name, "sockets times cores times threads are not its processors"),
                None => self.image_is_wrong("hw_cpu_sockets"),
            });
        };
        Ok(Some((sockets, cores, threads_now)))
    }

    /// Nodes of equal size, unless said otherwise node by node.
    fn numa(&self, vcpus: u32, ram_mb: u32) -> Result<Vec<NumaNode>, Unfit> {
        let nodes = match self.flavor_number::<u32>("hw:numa_nodes")? {
            Some(nodes) if self.image.contains_key("hw_numa_nodes") && nodes > 0 => {
                return Err(Unfit::Override { name: "hw_numa_nodes" });
            }
            Some(nodes) => Some(nodes),
            None => self.image_number("hw_numa_nodes")?,
        };
        let Some(nodes) = nodes else { return Ok(Vec::new()) };
        if nodes == 0 || nodes > vcpus {
            return Err(self.flavor_is_wrong("hw:numa_nodes", "it is between 1 and the number of processors"));
        }
        let mut numa = Vec::new();
        for node in 0..nodes {
            let (cpus, memory) = (format!("hw:numa_cpus.{node}"), format!("hw:numa_mem.{node}"));
            let said = self.specs.get(&cpus).map(|text| number_list(text));
            let cpus = match said {
                Some(list) => list.ok_or_else(|| self.flavor_is_wrong(&cpus, "it is a list such as 0-1,3"))?,
                None if vcpus.is_multiple_of(nodes) => {
                    let each = vcpus / nodes;
                    (node * each..(node + 1) * each).collect()
                }
                None => return Err(self.flavor_is_wrong("hw:numa_nodes", "its processors cannot be divided evenly")),
            };
            let memory_mib = match self.flavor_number(&memory)? {
                Some(memory) => memory,
                None if ram_mb.is_multiple_of(nodes) => u64::from(ram_mb / nodes),
                None => return Err(self.flavor_is_wrong("hw:numa_nodes", "its memory cannot be divided evenly")),
            };
            numa.push(NumaNode {
                cpus,
                memory_mib,
                ..NumaNode::default()
            });
        }
        let mut all: Vec<u32> = numa.iter().flat_map(|node| node.cpus.iter().copied()).collect();
        all.sort_unstable();
        if all != (0..vcpus).collect::<Vec<_>>() {
            return Err(self.flavor_is_wrong("hw:numa_nodes", "each processor belongs to one node"));
        }
        if numa.iter().map(|node| node.memory_mib).sum::<u64>() != u64::from(ram_mb) {
            return Err(self.flavor_is_wrong("hw:numa_nodes", "the nodes' memory is not the flavor's"));
        }
        Ok(numa)
    }

    /// Processors and pages of the host's: what the image may say of them, and what containers and hosts never give.
    fn seating(&self) -> Result<(), Unfit> {
        match (self.specs.get("hw:cpu_policy"), self.image.get("hw_cpu_policy")) {
            (Some(policy), _) if policy == "mixed" => {
                return Err(self.flavor_is_wrong("hw:cpu_policy", "no host of this cloud offers that"));
            }
            (Some(policy), Some(wanted)) if policy == "shared" && wanted == "dedicated" => {
                return Err(Unfit::Override { name: "hw_cpu_policy" });
            }
            _ => self.image_one_of("hw_cpu_policy", &[("shared", ()), ("dedicated", ())])?,
        };
        if self.image.contains_key("hw_mem_page_size") {
            let gives = self.specs.get("hw:mem_page_size").map(String::as_str);
            if !matches!(gives, Some("large" | "any")) {
                return Err(Unfit::Override {
                    name: "hw_mem_page_size",
                });
            }
        }
        Ok(())
    }

    /// What needs a host that gives something away that no host here does; it is never ignored.
    fn refuse_what_is_not_here(&self) -> Result<(), Unfit> {
        for (name, fine) in [
            ("hw:emulator_threads_policy", &["share"][..]),
            ("hw:cpu_realtime", &["no", "false"]),
            ("hw:mem_encryption", &["false"]),
            ("pci_passthrough:alias", &[]),
        ] {
            if self
                .specs
                .get(name)
                .is_some_and(|value| !fine.contains(&value.to_lowercase().as_str()))
            {
                return Err(self.flavor_is_wrong(name, "no host of this cloud offers that"));
            }
        }
        if self
            .image
            .get("hw_mem_encryption")
            .is_some_and(|value| truth(value) != Some(false))
        {
            return Err(self.image_is_wrong("hw_mem_encryption"));
        }
        Ok(())
    }
}

/// Puts a machine on what its claim was given of the host: `shared` is what the host's machines have together.
///
/// ```
/// use madang_compute::server::hardware::sit;
/// use madang_host::workload::Hardware;
/// use madang_scheduler::Seat;
///
/// let mut hardware = Hardware::default();
/// let seat = Seat { cell: 1, cpus: vec![6, 7], pages: Some((2048, 256)) };
/// sit(&mut hardware, &[seat], &[0, 1], 2, 512);
/// assert_eq!((&hardware.cpu.pinned[..], hardware.numa[0].page_kib), (&[6, 7][..], Some(2048)));
/// ```
pub fn sit(hardware: &mut Hardware, seats: &[Seat], shared: &[u32], vcpus: u32, ram_mb: u32) {
    hardware.cpu.shared = shared.to_vec();
    if seats.is_empty() {
        return;
    }
    if hardware.numa.is_empty() {
        hardware.numa.push(NumaNode {
            cpus: (0..vcpus).collect(),
            memory_mib: u64::from(ram_mb),
            ..NumaNode::default()
        });
    }
    let mut own = BTreeMap::new();
    for (node, seat) in hardware.numa.iter_mut().zip(seats) {
        node.host_node = Some(seat.cell);
        node.page_kib = seat.pages.map(|(kib, _)| kib);
        own.extend(node.cpus.iter().copied().zip(seat.cpus.iter().copied()));
    }
    // By the guest's numbers.
    hardware.cpu.pinned = own.into_values().collect();
}

/// As oslo's `strutils.bool_from_string` in its strict form.
fn truth(text: &str) -> Option<bool> {
    match text.trim().to_lowercase().as_str() {
        "1" | "t" | "true" | "on" | "y" | "yes" => Some(true),
        "0" | "f" | "false" | "off" | "n" | "no" => Some(false),
        _ => None,
    }
}

/// Numbers and ranges, such as `0-1,3`.
fn number_list(text: &str) -> Option<Vec<u32>> {
    let mut numbers = Vec::new();
    for part in text.split(',') {
        match part.trim().split_once('-') {
            Some((from, to)) => {
                let (from, to): (u32, u32) = (from.trim().parse().ok()?, to.trim().parse().ok()?);
                // More processors than any flavor has.
                if from > to || to > 4096 {
                    return None;
                }
                numbers.extend(from..=to);
            }
            None => numbers.push(part.trim().parse().ok()?),
        }
    }
    Some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn properties(pairs: &[(&str, &str)]) -> Properties {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    fn fit(image: &[(&str, &str)], specs: &[(&str, &str)]) -> Result<Hardware, Unfit> {
        of(&properties(image), false, &properties(specs), 4, 1024)
    }

    #[test]
    fn a_rescuer_stands_last_where_its_image_says_so() {
        let of = |pairs: &[(&str, &str)]| rescuer(&properties(pairs));
        assert_eq!(of(&[("hw_disk_bus", "scsi")]), Ok(None));
        assert_eq!(
            of(&[("hw_rescue_device", "disk")]),
            Ok(Some((DiskBus::Virtio, DiskKind::Disk)))
        );
        assert_eq!(
            of(&[("hw_rescue_device", "cdrom")]),
            Ok(Some((DiskBus::Sata, DiskKind::Cdrom)))
        );
        assert_eq!(
            of(&[("hw_rescue_bus", "usb")]),
            Ok(Some((DiskBus::Usb, DiskKind::Disk)))
        );
        assert!(
            of(&[("hw_rescue_bus", "floppy")])
                .unwrap_err()
                .to_string()
                .contains("floppy")
        );
    }

    #[test]
    fn nothing_said_is_the_default() {
        assert_eq!(fit(&[], &[]).unwrap(), Hardware::default());
        assert_eq!(
            fit(
                &[("os_distro", "debian"), ("hw_new_thing", "x")],
                &[("trait:X", "required")]
            )
            .unwrap(),
            Hardware::default(),
            "what nobody knows is for somebody else"
        );
    }

    #[test]
    fn what_an_image_says_is_built() {
        let hardware = fit(
            &[
                ("hw_disk_bus", "scsi"),
                ("hw_vif_model", "e1000"),
                ("hw_machine_type", "pc-q35-7.2"),
                ("hw_firmware_type", "uefi"),
                ("os_secure_boot", "required"),
                ("hw_qemu_guest_agent", "yes"),
                ("hw_video_model", "virtio"),
                ("hw_tpm_version", "2.0"),
                ("os_type", "windows"),
            ],
            &[],
        )
        .unwrap();
        assert_eq!(hardware.disk_bus, DiskBus::Scsi);
        assert_eq!(hardware.nic_model, NicModel::E1000);
        assert_eq!(hardware.machine_type.as_deref(), Some("pc-q35-7.2"));
        assert_eq!(hardware.firmware, Firmware::Uefi { is_secure: true });
        assert!(hardware.has_guest_agent && hardware.is_for_windows);
        assert_eq!((hardware.video, hardware.tpm), (Video::Virtio, Some(TpmVersion::V2)));
        assert_eq!(
            fit(&[("hw_scsi_model", "virtio-scsi")], &[]).unwrap().disk_bus,
            DiskBus::Scsi
        );
    }

    #[test]
    fn what_is_wrong_is_named_with_its_value() {
        for (name, value) in [
            ("hw_disk_bus", "floppy"),
            ("hw_vif_model", "token-ring"),
            ("hw_machine_type", "q35,accel=kvm"),
            ("hw_machine_type", "pc-q35-"),
            ("hw_firmware_type", "openfirmware"),
            ("hw_boot_menu", "maybe"),
            ("hw_cpu_policy", "alone"),
            ("os_secure_boot", "required"),
        ] {
            let error = fit(&[(name, value)], &[]).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(value), "{error}");
        }
        for (name, value) in [
            ("hw:cpu_policy", "mixed"),
            ("hw:mem_encryption", "true"),
            ("quota:cpu_shares", "many"),
            ("hw:tpm_version", "3"),
            ("hw:cpu_sockets", "3"),
            ("hw:numa_nodes", "3"),
            ("hw:numa_nodes", "5"),
        ] {
            let error = fit(&[], &[(name, value)]).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(value), "{error}");
        }
    }

    #[test]
    fn seats_are_for_machines_and_images_choose_within_the_flavor() {
        let flavor = |pairs: &[(&str, &str)]| FlavorSpec {
            extra_specs: properties(pairs),
            ..crate::server::tests::server("a").spec.flavor
        };
        let specs = |pairs: &[(&str, &str)]| of_container(&flavor(pairs));
        let with_more = FlavorSpec {
            ephemeral_gb: 2,
            ..flavor(&[])
        };
        let error = of_container(&with_more).unwrap_err().to_string();
        assert!(error.contains("OS-FLV-EXT-DATA:ephemeral=2"), "{error}");
        assert!(specs(&[("hw:cpu_policy", "shared"), ("hw:mem_page_size", "small")]).is_ok());
        assert!(specs(&[("hw:cpu_policy", "dedicated")]).is_err() && specs(&[("hw:mem_page_size", "2MB")]).is_err());
        assert!(fit(&[("hw_cpu_policy", "dedicated")], &[]).is_ok());
        let shared = fit(&[("hw_cpu_policy", "dedicated")], &[("hw:cpu_policy", "shared")]);
        assert_eq!(shared, Err(Unfit::Override { name: "hw_cpu_policy" }));
        assert!(fit(&[("hw_mem_page_size", "2048")], &[("hw:mem_page_size", "large")]).is_ok());
        assert!(fit(&[("hw_mem_page_size", "2048")], &[]).is_err());
    }

    #[test]
    fn limits_have_the_units_of_the_original() {
        let hardware = fit(
            &[],
            &[
                ("quota:disk_read_iops_sec", "500"),
                ("quota:disk_write_bytes_sec", "0"),
                ("quota:vif_inbound_average", "64"),
                ("quota:cpu_quota", "25000"),
            ],
        )
        .unwrap();
        assert_eq!(hardware.disk_limits.read_iops_sec, Some(500));
        assert_eq!(hardware.disk_limits.write_bytes_sec, None);
        assert_eq!(hardware.nic_limits, (Some(64_000), None));
        assert_eq!(hardware.cpu_quota, Some((25_000, 100_000)));
    }

    #[test]
    fn processors_are_divided() {
        let topology = |specs: &[(&str, &str)]| fit(&[], specs).unwrap().cpu.topology;
        assert_eq!(topology(&[("hw:cpu_sockets", "2")]), Some((2, 2, 1)));
        assert_eq!(topology(&[("hw:cpu_threads", "2")]), Some((2, 1, 2)));
        assert_eq!(topology(&[("hw:cpu_cores", "4")]), Some((1, 4, 1)));
        let numa = fit(&[], &[("hw:numa_nodes", "2")]).unwrap().numa;
        assert_eq!((numa[1].cpus.clone(), numa[1].memory_mib), (vec![2, 3], 512));
        let uneven = [
            ("hw:numa_nodes", "2"),
            ("hw:numa_cpus.0", "0,2-3"),
            ("hw:numa_cpus.1", "1"),
            ("hw:numa_mem.0", "768"),
            ("hw:numa_mem.1", "256"),
        ];
        assert_eq!(fit(&[], &uneven).unwrap().numa[0].cpus, [0, 2, 3]);
        assert!(fit(&[], &uneven[..3]).is_ok_and(|hardware| hardware.numa[1].memory_mib == 512));
        assert!(fit(&[], &[("hw:numa_nodes", "2"), ("hw:numa_cpus.0", "0-9")]).is_err());
    }
}
