//! Devices that may come and go: which there are, where on the board they sit, and how QEMU is told of them.
//!
//! All of them sit behind one bridge ([`BRIDGE`]), which has room for 31 and costs a guest's boot nothing that could be
//! measured; a root port for each would cost an emulated boot some milliseconds apiece, used or not. What sits where is
//! kept in `devices.json`: names in the guest stay as they are when others come and go, and memory that was written to
//! the disk finds the same board again.

use std::{fs, io::ErrorKind, path::Path};

use madang_host::workload::{Disk, DiskBus, DiskKind, DriverError, Nic, NicModel, Workload};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    layer::node_of,
    record::{DEVICES, partial},
};

/// The bus of devices that may come and go.
pub(super) const BRIDGE: &str = "hot";

/// Its places, from 1.
const SLOTS: u8 = 31;

/// The model that only fits slots of PCI Express.
pub(super) const E1000E: &str = "e1000e";

/// The device of the root disk.
pub(super) const ROOT: &str = "vda";

/// What is there beside what every machine has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Devices {
    /// The board with its version, where memory was written to the disk.
    #[serde(default)]
    pub board: Option<String>,
    /// QEMU's name for the model of its interfaces.
    #[serde(default = "virtio")]
    pub nic_driver: String,
    #[serde(default)]
    pub disks: Vec<DiskEntry>,
    #[serde(default)]
    pub nics: Vec<NicEntry>,
    /// Limits of each interface in bytes a second, to and from the guest.
    #[serde(default)]
    pub nic_limits: (Option<u64>, Option<u64>),
}

/// A disk beside the root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DiskEntry {
    pub id: Uuid,
    /// Its device; named after the disk that came first where that was swapped.
    pub device: String,
    /// Where it sits behind the bridge; none on other buses.
    pub slot: Option<u8>,
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NicEntry {
    pub port: Uuid,
    pub mac: [u8; 6],
    /// The tap and where it is.
    pub tap: String,
    pub netns: String,
    /// Where it sits behind the bridge.
    pub slot: u8,
}

impl Default for Devices {
    fn default() -> Self {
        Self {
            board: None,
            nic_driver: virtio(),
            disks: Vec::new(),
            nics: Vec::new(),
            nic_limits: (None, None),
        }
    }
}

fn virtio() -> String {
    nic_driver(NicModel::Virtio).to_owned()
}

impl Devices {
    /// What was written; nothing when it was not.
    pub fn load(dir: &Path) -> Result<Self, DriverError> {
        let path = dir.join(DEVICES);
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map_err(|error| DriverError::Host(format!("{} cannot be read: {error}", path.display()))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(DriverError::io(format!("read {}", path.display()))(error)),
        }
    }

    /// Writes it whole or not at all.
    pub fn save(&self, dir: &Path) -> Result<(), DriverError> {
        let text = serde_json::to_vec(self).expect("plain data has a JSON form");
        let partial = partial(dir, DEVICES);
        fs::write(&partial, text)
            .and_then(|()| fs::rename(&partial, dir.join(DEVICES)))
            .map_err(DriverError::io(format!("write {}", dir.join(DEVICES).display())))
    }

    /// What a machine is started with; what was there before stays where it was.
    pub fn plan(mut self, workload: &Workload) -> Result<Self, DriverError> {
        self.nic_driver = nic_driver(workload.hardware.nic_model).to_owned();
        self.nic_limits = workload.hardware.nic_limits;
        self.disks
            .retain(|entry| workload.disks.iter().any(|disk| disk.id == entry.id));
        self.nics
            .retain(|entry| workload.nics.iter().any(|nic| nic.port == entry.port));
        for nic in &workload.nics {
            self.add_nic(nic)?;
        }
        for disk in &workload.disks {
            self.add_disk(disk)?;
        }
        Ok(self)
    }

    /// The place of a disk, which it takes if it has none.
    pub fn add_disk(&mut self, disk: &Disk) -> Result<DiskEntry, DriverError> {
        if let Some(entry) = self.disk(disk.id) {
            return Ok(entry.clone());
        }
        let slot = match disk.bus {
            DiskBus::Virtio => Some(self.free_slot()?),
            _ => None,
        };
        let entry = DiskEntry {
            id: disk.id,
            device: format!("disk-{}", disk.id),
            slot,
        };
        self.disks.push(entry.clone());
        Ok(entry)
    }

    /// The place of an interface, which it takes if it has none.
    pub fn add_nic(&mut self, nic: &Nic) -> Result<NicEntry, DriverError> {
        let slot = match self.nics.iter().position(|entry| entry.port == nic.port) {
            Some(index) => self.nics.remove(index).slot,
            None => self.free_slot()?,
        };
        let entry = NicEntry {
            port: nic.port,
            mac: nic.mac,
            tap: nic.device.clone(),
            netns: nic.netns.clone(),
            slot,
        };
        self.nics.push(entry.clone());
        Ok(entry)
    }

    pub fn disk(&self, id: Uuid) -> Option<&DiskEntry> {
        self.disks.iter().find(|entry| entry.id == id)
    }

    fn free_slot(&self) -> Result<u8, DriverError> {
        let disks = self.disks.iter().filter_map(|disk| disk.slot);
        let taken: Vec<u8> = disks.chain(self.nics.iter().map(|nic| nic.slot)).collect();
        (1..=SLOTS)
            .find(|slot| !taken.contains(slot))
            .ok_or_else(|| DriverError::Host(format!("a machine has room for {SLOTS} disks and interfaces")))
    }
}

/// How QEMU is told of a disk's device. `index` counts those on buses that have places of their own.
pub(super) fn disk_device(disk: &Disk, entry: &DiskEntry, index: usize) -> Value {
    let mut device = device_on(disk.bus, disk.kind, &disk.serial, index);
    device["id"] = json!(entry.device);
    device["drive"] = json!(node_of(disk.id));
    if let Some(slot) = entry.slot {
        device["bus"] = json!(BRIDGE);
        device["addr"] = json!(format!("{slot:#x}"));
    }
    if let Some(index) = disk.boot_index {
        // The root, where there is one, has 1.
        device["bootindex"] = json!(index.saturating_add(1));
    }
    device
}

/// A disk's device on its bus, with neither id nor drive.
pub(super) fn device_on(bus: DiskBus, kind: DiskKind, serial: &str, index: usize) -> Value {
    let cut = |length: usize| serial.chars().take(length).collect::<String>();
    // The number that the guest pages for is as long as that of other buses; the page takes the whole.
    let scsi = |driver: &str| json!({ "driver": driver, "bus": "scsi.0", "serial": cut(36), "device_id": cut(20) });
    match (bus, kind) {
        // There are no paravirtual compact discs: it is a disk that cannot be written.
        (DiskBus::Virtio, _) => json!({ "driver": "virtio-blk-pci", "serial": cut(20) }),
        (DiskBus::Scsi, DiskKind::Disk) => scsi("scsi-hd"),
        (DiskBus::Scsi, DiskKind::Cdrom) => scsi("scsi-cd"),
        (DiskBus::Sata | DiskBus::Ide, DiskKind::Disk) => {
            json!({ "driver": "ide-hd", "bus": format!("ide.{index}"), "serial": cut(20) })
        }
        (DiskBus::Sata | DiskBus::Ide, DiskKind::Cdrom) => {
            json!({ "driver": "ide-cd", "bus": format!("ide.{index}"), "serial": cut(20) })
        }
        (DiskBus::Usb, _) => json!({ "driver": "usb-storage", "bus": "usb.0", "serial": cut(36), "removable": true }),
    }
}

/// How QEMU is told of a rescuer's disk that all others keep their places beside: it comes last and starts first.
pub(super) fn rescuer(bus: DiskBus, kind: DiskKind, serial: &str, index: usize, node: &str) -> Value {
    let mut device = device_on(bus, kind, serial, index);
    device["id"] = json!("rescue");
    device["drive"] = json!(node);
    device["bootindex"] = json!(0);
    if bus == DiskBus::Virtio {
        device["bus"] = json!(BRIDGE);
        device["addr"] = json!(format!("{SLOTS:#x}"));
    }
    device
}

/// The device of an interface.
pub(super) fn nic_id(port: Uuid) -> String {
    format!("nic-{port}")
}

/// The host's end of an interface.
pub(super) fn netdev_id(port: Uuid) -> String {
    format!("net-{port}")
}

/// How QEMU is told of an interface's device.
pub(super) fn nic_device(nic: &Nic, entry: &NicEntry, driver: &str) -> Value {
    let mac = nic.mac.map(|byte| format!("{byte:02x}")).join(":");
    let mut device = json!({
        "driver": driver, "id": nic_id(nic.port), "netdev": netdev_id(nic.port), "mac": mac,
        // No network boot: saves its ROM's time.
        "romfile": "",
    });
    if driver == nic_driver(NicModel::Virtio) {
        device["host_mtu"] = json!(nic.mtu);
    }
    // The only one that knows nothing of bridges for PCI proper.
    if driver != E1000E {
        device["bus"] = json!(BRIDGE);
        device["addr"] = json!(format!("{:#x}", entry.slot));
    }
    device
}

fn nic_driver(model: NicModel) -> &'static str {
    match model {
        NicModel::Virtio => "virtio-net-pci",
        NicModel::E1000 => "e1000",
        NicModel::E1000e => E1000E,
        NicModel::Rtl8139 => "rtl8139",
        NicModel::Pcnet => "pcnet",
        NicModel::Ne2kPci => "ne2k_pci",
        NicModel::Vmxnet3 => "vmxnet3",
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use madang_host::workload::{DiskFormat, DiskSource, IoLimits};

    use super::*;

    pub(crate) fn disk(bus: DiskBus) -> Disk {
        let id = Uuid::new_v4();
        Disk {
            id,
            source: DiskSource::File {
                path: PathBuf::from("/absent"),
                format: DiskFormat::Raw,
            },
            bus,
            kind: DiskKind::Disk,
            serial: id.to_string(),
            is_read_only: false,
            boot_index: None,
            limits: IoLimits::default(),
            mount_point: None,
        }
    }

    #[test]
    fn places_are_kept_and_filled_again() {
        let mut devices = Devices::default();
        let disks: Vec<Disk> = (0..31).map(|_| disk(DiskBus::Virtio)).collect();
        for (disk, slot) in disks.iter().zip(1..) {
            assert_eq!(devices.add_disk(disk).unwrap().slot, Some(slot));
        }
        assert_eq!(
            devices.add_disk(&disks[4]).unwrap().slot,
            Some(5),
            "it is there already"
        );
        let one_more = disk(DiskBus::Virtio);
        assert!(devices.add_disk(&one_more).unwrap_err().to_string().contains("31"));
        assert_eq!(devices.add_disk(&disk(DiskBus::Scsi)).unwrap().slot, None);
        devices.disks.remove(7);
        assert_eq!(devices.add_disk(&one_more).unwrap().slot, Some(8));
    }

    #[test]
    fn they_are_written_and_read() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Devices::load(dir.path()).unwrap(), Devices::default());
        let mut devices = Devices::default();
        devices.add_disk(&disk(DiskBus::Virtio)).unwrap();
        devices.save(dir.path()).unwrap();
        assert_eq!(Devices::load(dir.path()).unwrap(), devices);
        fs::write(dir.path().join(DEVICES), "{").unwrap();
        Devices::load(dir.path()).unwrap_err();
    }

    #[test]
    fn serial_numbers_fit_their_bus() {
        let disk = disk(DiskBus::Virtio);
        let entry = Devices::default().add_disk(&disk).unwrap();
        let device = disk_device(&disk, &entry, 0);
        assert_eq!(device["serial"], json!(disk.id.to_string()[..20]));
        assert_eq!((&device["bus"], &device["addr"]), (&json!("hot"), &json!("0x1")));
        assert_eq!(device_on(DiskBus::Sata, DiskKind::Cdrom, "s", 3)["bus"], "ide.3");
    }
}
