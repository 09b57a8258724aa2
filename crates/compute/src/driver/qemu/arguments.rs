//! The command line of a machine: a pure function of the workload and of the numbers of the descriptors it gets.
//!
//! Everything is said explicitly (`-nodefaults`, formats, nodes); QEMU guesses nothing and reads no configuration.

use std::os::fd::RawFd;

use madang_host::{
    acceleration::{Acceleration, Probe},
    workload::{DiskBus, DiskFormat, DiskKind, Firmware, Root, TpmVersion, Video, Workload},
};
use serde_json::{Value, json};

use super::{
    console,
    devices::{self, BRIDGE, Devices, ROOT},
    layer::{Layer, Protocol},
    local,
};

/// Guest code that TCG keeps translated, in MiB: enough for a kernel and its programs. QEMU's own choice is an eighth of
/// the host's memory for every machine.
pub(super) const TRANSLATED_MIB: u64 = 256;

/// The name of the chardev that keeps console output.
pub(super) const CONSOLE: &str = "console";

/// What the guest's firmware tells its operating system about the maker: cloud-init looks for this product before it
/// asks the metadata service. Source: cloud-init's DataSourceOpenStack.
const PRODUCT: &str = "OpenStack Compute";

/// The name of the guest agent's chardev.
const AGENT: &str = "agent";

/// The board most suits. Without what servers have no use for: a quarter less of emulated boot than the stock one.
const BOARD: &str = "q35";

/// Numbers of the descriptors a machine inherits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Descriptors {
    /// The listening socket of the monitor.
    pub monitor: RawFd,
    /// The listening socket of the guest's agent.
    pub agent: Option<RawFd>,
    /// The layers of the root disk, the lowest first; none where it boots from another.
    pub root: Vec<(Layer, RawFd)>,
    /// Those of the disk it boots from for once.
    pub rescue: Vec<(Layer, RawFd)>,
    /// Those of the disks that were made with the machine, in their order.
    pub locals: Vec<(Layer, RawFd)>,
    /// Those of the disks that are there without it, in their order.
    pub disks: Vec<Vec<(Layer, RawFd)>>,
    /// Those of an installer's compact disc.
    pub cdrom: Vec<(Layer, RawFd)>,
    /// UEFI's code and what it keeps.
    pub firmware: Vec<(Layer, RawFd)>,
    /// The config drive, read-only.
    pub config_drive: Option<RawFd>,
    /// Kernel and initial ramdisk.
    pub kernel: Option<RawFd>,
    pub ramdisk: Option<RawFd>,
    /// One tap per interface, in order.
    pub taps: Vec<RawFd>,
    /// `/dev/kvm`, when its permissions would keep the machine's user out.
    pub kvm: Option<RawFd>,
    /// The wire to its trusted platform module.
    pub tpm: Option<RawFd>,
    /// The memory it goes on with.
    pub memory: Option<RawFd>,
}

/// All arguments.
pub(super) fn arguments(workload: &Workload, devices: &Devices, probe: &Probe, fds: &Descriptors) -> Vec<String> {
    let mut args = Arguments::default();
    args.machine(workload, devices, probe, fds);
    args.processors(workload, probe);
    args.confine();
    args.monitor_and_console(workload, fds);
    args.controllers(workload, devices);
    args.disks(workload, devices, fds);
    args.kernel(workload, fds);
    args.interfaces(workload, devices, fds);
    args.small_devices(workload, fds);
    args.tpm(workload, fds);
    if let Some(fd) = fds.memory {
        args.add("-incoming", format!("fd:{fd}"));
    }
    args.list
}

#[derive(Default)]
struct Arguments {
    list: Vec<String>,
    /// Places taken on buses that give each disk one.
    ide: usize,
}

impl Arguments {
    fn flag(&mut self, flag: &str) {
        self.list.push(flag.into());
    }

    fn add(&mut self, flag: &str, value: impl Into<String>) {
        self.list.push(flag.into());
        self.list.push(value.into());
    }

    fn add_json(&mut self, flag: &str, value: &Value) {
        self.add(flag, value.to_string());
    }

    /// Makes a descriptor known as `/dev/fdset/N`, which block devices and KVM open.
    fn add_set(&mut self, fd: RawFd) -> String {
        self.add("-add-fd", format!("fd={fd},set={fd}"));
        format!("/dev/fdset/{fd}")
    }

    fn machine(&mut self, workload: &Workload, devices: &Devices, probe: &Probe, fds: &Descriptors) {
        let hardware = &workload.hardware;
        self.flag("-nodefaults");
        self.flag("-no-user-config");
        self.add("-display", "none");
        self.add("-name", format!("madang-{}", workload.id));
        self.add("-uuid", workload.id.to_string());
        let board = devices
            .board
            .as_deref()
            .or(hardware.machine_type.as_deref())
            .unwrap_or(BOARD);
        let sata = if has_sata(workload) { "on" } else { "off" };
        let (is_secure, flash) = match hardware.firmware {
            Firmware::Bios => (false, String::new()),
            Firmware::Uefi { is_secure } => (is_secure, ",pflash0=firmware,pflash1=firmware-vars".to_owned()),
        };
        // Secure firmware alone writes what it keeps, in a mode that the guest has no way into. Without that mode, QEMU 10
        // shows q35's guest memory where the screen's should be, and nobody sees what is written there.
        let smm = if is_secure || hardware.video != Video::None {
            "on"
        } else {
            "off"
        };
        let without = match is_modern(board) {
            true => format!("smm={smm},vmport=off,hpet=off,sata={sata},smbus=off"),
            false => "smm=off,vmport=off,hpet=off".to_owned(),
        };
        self.add("-machine", format!("{board},{without}{flash}"));
        if is_secure {
            self.add("-global", "driver=cfi.pflash01,property=secure,value=on");
        }
        for layer in &fds.firmware {
            self.layers(std::slice::from_ref(layer));
        }
        match (probe.acceleration, fds.kvm) {
            (Acceleration::Kvm, Some(fd)) => {
                let device = self.add_set(fd);
                self.add("-accel", format!("kvm,device={device}"));
            }
            (Acceleration::Kvm, None) => self.add("-accel", "kvm"),
            (Acceleration::Tcg, _) => self.add("-accel", format!("tcg,thread=multi,tb-size={TRANSLATED_MIB}")),
        }
        self.add("-m", format!("{}k", workload.memory_bytes.div_ceil(1024)));
        let clock = if hardware.is_for_windows { "localtime" } else { "utc" };
        self.add("-rtc", format!("base={clock},driftfix=slew"));
        let menu = if hardware.has_boot_menu {
            "on,splash-time=3000"
        } else {
            "off"
        };
        self.add("-boot", format!("menu={menu},strict=on"));
        let id = workload.id;
        self.add(
            "-smbios",
            format!("type=1,manufacturer=madang,product={PRODUCT},serial={id},uuid={id},family=Virtual Machine"),
        );
        // A guest that powers off or panics leaves QEMU halted, so that we learn of it even when we are away.
        self.add("-action", "reboot=reset,shutdown=pause,panic=pause");
    }

    fn processors(&mut self, workload: &Workload, probe: &Probe) {
        let cpu = &workload.hardware.cpu;
        let mut model = cpu.model.clone().unwrap_or_else(|| probe.cpu.clone());
        if workload.hardware.is_for_windows && probe.acceleration == Acceleration::Kvm {
            model.push_str(",hv_relaxed=on,hv_vapic=on,hv_spinlocks=0x1fff,hv_time=on");
        }
        self.add("-cpu", model);
        let vcpus = workload.vcpus;
        let (sockets, cores, threads) = cpu.topology.unwrap_or((1, vcpus, 1));
        self.add(
            "-smp",
            format!("cpus={vcpus},sockets={sockets},cores={cores},threads={threads}"),
        );
        for (node, numa) in (0..).zip(&workload.hardware.numa) {
            let size = numa.memory_mib;
            let place = match numa.host_node {
                Some(host) => format!(",host-nodes={host},policy=bind"),
                None => String::new(),
            };
            self.add(
                "-object",
                match numa.page_kib {
                    Some(kib) => format!(
                        "memory-backend-memfd,id=memory{node},size={size}M,hugetlb=on,hugetlbsize={kib}K,prealloc=on{place}"
                    ),
                    None => format!("memory-backend-ram,id=memory{node},size={size}M{place}"),
                },
            );
            let cpus: String = numa.cpus.iter().map(|cpu| format!(",cpus={cpu}")).collect();
            self.add("-numa", format!("node,nodeid={node},memdev=memory{node}{cpus}"));
        }
    }

    fn confine(&mut self) {
        self.add(
            "-sandbox",
            "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        );
        self.add("-msg", "timestamp=off,guest-name=off");
    }

    fn monitor_and_console(&mut self, workload: &Workload, fds: &Descriptors) {
        self.add(
            "-chardev",
            format!("socket,id=monitor,fd={},server=on,wait=off", fds.monitor),
        );
        self.add("-mon", "chardev=monitor,mode=control");
        self.add("-chardev", format!("ringbuf,id={CONSOLE},size={}", console::RING_BYTES));
        self.add("-serial", format!("chardev:{CONSOLE}"));
        let video = match workload.hardware.video {
            Video::None => return,
            Video::Vga => "VGA",
            Video::Virtio => "virtio-vga",
            Video::Cirrus => "cirrus-vga",
            Video::Vmvga => "vmware-svga",
            Video::Qxl => "qxl-vga",
            Video::Bochs => "bochs-display",
        };
        self.add("-device", format!("{video},id=video"));
        // It listens nowhere: who looks is handed in.
        self.add("-vnc", "none,share=force-shared");
    }

    /// What devices are behind.
    fn controllers(&mut self, workload: &Workload, devices: &Devices) {
        let hardware = &workload.hardware;
        let board = devices
            .board
            .as_deref()
            .or(hardware.machine_type.as_deref())
            .unwrap_or(BOARD);
        match is_modern(board) {
            true => self.add("-device", format!("pcie-pci-bridge,id={BRIDGE}")),
            false => self.add("-device", format!("pci-bridge,id={BRIDGE},chassis_nr=1")),
        }
        let has = |wanted| buses(workload).any(|bus| bus == wanted);
        if has(DiskBus::Scsi) {
            self.add("-device", "virtio-scsi-pci,id=scsi");
        }
        if has(DiskBus::Usb) {
            self.add("-device", "qemu-xhci,id=usb");
        }
    }

    /// The nodes of a disk; the name of the topmost.
    fn layers(&mut self, layers: &[(Layer, RawFd)]) -> Option<String> {
        let mut below: Option<&str> = None;
        for (layer, fd) in layers {
            let from = match layer.protocol {
                Protocol::Nbd { .. } => fd.to_string(),
                _ => self.add_set(*fd),
            };
            for node in layer.nodes(&from, below) {
                self.add_json("-blockdev", &node);
            }
            below = Some(&layer.node);
        }
        below.map(str::to_owned)
    }

    fn place(&mut self, bus: DiskBus) -> usize {
        if matches!(bus, DiskBus::Sata | DiskBus::Ide) {
            self.ide += 1;
        }
        self.ide.saturating_sub(1)
    }

    fn disks(&mut self, workload: &Workload, devices: &Devices, fds: &Descriptors) {
        let hardware = &workload.hardware;
        if hardware.rescue.is_none()
            && let Some(node) = self.layers(&fds.rescue)
        {
            self.disk(
                hardware.disk_bus,
                DiskKind::Disk,
                "rescue",
                &node,
                &workload.id.to_string(),
                Some(0),
            );
        }
        if let Some(node) = self.layers(&fds.root) {
            let boot = fds.rescue.is_empty().then_some(1);
            // The first 20 digits of the id, as Nova's disks show.
            self.disk(
                hardware.disk_bus,
                DiskKind::Disk,
                ROOT,
                &node,
                &workload.id.to_string(),
                boot,
            );
        }
        if let Some(node) = self.layers(&fds.cdrom) {
            // An empty disk does not boot, an installed one does.
            self.disk(DiskBus::Sata, DiskKind::Cdrom, "cdrom", &node, "installer", Some(2));
        }
        for (disk, layer) in workload.locals.iter().zip(&fds.locals) {
            if let Some(node) = self.layers(std::slice::from_ref(layer)) {
                let device = local::device(&disk.name);
                self.disk(disk.bus, DiskKind::Disk, &device, &node, &disk.name, None);
            }
        }
        if let Some(fd) = fds.config_drive {
            let layer = Layer::file("config", DiskFormat::Raw, true);
            if let Some(node) = self.layers(&[(layer, fd)]) {
                self.disk(DiskBus::Virtio, DiskKind::Disk, "config", &node, "config-drive", None);
            }
        }
        for (disk, layers) in workload.disks.iter().zip(&fds.disks) {
            let Some(entry) = devices.disk(disk.id) else { continue };
            self.layers(layers);
            let place = self.place(disk.bus);
            self.add_json("-device", &devices::disk_device(disk, entry, place));
        }
        if let Some((bus, kind)) = hardware.rescue
            && let Some(node) = self.layers(&fds.rescue)
        {
            let place = self.place(bus);
            let rescuer = devices::rescuer(bus, kind, &workload.id.to_string(), place, &node);
            self.add_json("-device", &rescuer);
        }
    }

    fn disk(&mut self, bus: DiskBus, kind: DiskKind, id: &str, node: &str, serial: &str, boot: Option<u32>) {
        let place = self.place(bus);
        let mut device = devices::device_on(bus, kind, serial, place);
        device["id"] = json!(id);
        device["drive"] = json!(node);
        if let Some(boot) = boot {
            device["bootindex"] = json!(boot);
        }
        self.add_json("-device", &device);
    }

    fn kernel(&mut self, workload: &Workload, fds: &Descriptors) {
        let Root::Disk { kernel_args, .. } = workload.rescue.as_ref().unwrap_or(&workload.root) else {
            return;
        };
        // Kernels are read with plain opens, which know nothing of descriptor sets.
        let Some(kernel) = fds.kernel else { return };
        self.add("-kernel", format!("/proc/self/fd/{kernel}"));
        if let Some(ramdisk) = fds.ramdisk {
            self.add("-initrd", format!("/proc/self/fd/{ramdisk}"));
        }
        if let Some(kernel_args) = kernel_args {
            self.add("-append", kernel_args.clone());
        }
    }

    fn interfaces(&mut self, workload: &Workload, devices: &Devices, fds: &Descriptors) {
        for (nic, fd) in workload.nics.iter().zip(&fds.taps) {
            let Some(entry) = devices.nics.iter().find(|entry| entry.port == nic.port) else {
                continue;
            };
            self.add("-netdev", format!("tap,id={},fd={fd}", devices::netdev_id(nic.port)));
            self.add_json("-device", &devices::nic_device(nic, entry, &devices.nic_driver));
        }
    }

    fn tpm(&mut self, workload: &Workload, fds: &Descriptors) {
        let Some(fd) = fds.tpm else { return };
        self.add("-chardev", format!("socket,id=tpm,fd={fd}"));
        self.add("-tpmdev", "emulator,id=tpm0,chardev=tpm");
        let device = match workload.hardware.tpm {
            Some(TpmVersion::V2) => "tpm-crb,tpmdev=tpm0",
            _ => "tpm-tis,tpmdev=tpm0",
        };
        self.add("-device", device);
    }

    fn small_devices(&mut self, workload: &Workload, fds: &Descriptors) {
        if !workload.hardware.is_without_rng {
            self.add("-object", "rng-builtin,id=random");
            self.add("-device", "virtio-rng-pci,rng=random");
        }
        if let Some(fd) = fds.agent {
            self.add("-chardev", format!("socket,id={AGENT},fd={fd},server=on,wait=off"));
            self.add("-device", "virtio-serial-pci");
            self.add(
                "-device",
                format!("virtserialport,chardev={AGENT},name=org.qemu.guest_agent.0"),
            );
        }
        self.add("-device", "virtio-balloon-pci,id=balloon,free-page-reporting=on");
        self.add("-device", "pvpanic");
    }
}

/// Whether a board is of the family with PCI Express.
fn is_modern(board: &str) -> bool {
    board == "q35" || board.starts_with("pc-q35")
}

fn has_sata(workload: &Workload) -> bool {
    workload.hardware.root_kind == DiskKind::Cdrom
        || buses(workload).any(|bus| matches!(bus, DiskBus::Sata | DiskBus::Ide))
}

/// The buses that its disks are on.
fn buses(workload: &Workload) -> impl Iterator<Item = DiskBus> {
    let hardware = &workload.hardware;
    let rescuer = hardware
        .rescue
        .filter(|_| workload.rescue.is_some())
        .map(|(bus, _)| bus);
    let disks = workload.disks.iter().map(|disk| disk.bus);
    let locals = workload.locals.iter().map(|disk| disk.bus);
    disks.chain(locals).chain([hardware.disk_bus]).chain(rescuer)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use madang_host::workload::{Hardware, Nic};
    use uuid::Uuid;

    use super::*;

    fn workload() -> Workload {
        Workload {
            id: Uuid::nil(),
            hostname: "demo".into(),
            vcpus: 2,
            memory_bytes: 512 << 20,
            root: Root::Disk {
                base: PathBuf::from("/images/base"),
                format: DiskFormat::Qcow2,
                size_bytes: 1 << 30,
                kernel: Some(PathBuf::from("/images/kernel")),
                ramdisk: None,
                kernel_args: Some("console=ttyS0, x".into()),
            },
            nics: vec![Nic {
                port: Uuid::nil(),
                mac: [0xfa, 0x16, 0x3e, 0, 1, 0xff],
                device: "t0".into(),
                peer: None,
                netns: "n".into(),
                mtu: 1450,
                addresses: Vec::new(),
                gateway: None,
                routes: Vec::new(),
                name_servers: Vec::new(),
            }],
            dir: PathBuf::from("/servers/0"),
            uid: 1,
            config_drive: None,
            locals: Vec::new(),
            disks: Vec::new(),
            hardware: Hardware::default(),
            rescue: None,
        }
    }

    fn probe(acceleration: Acceleration) -> Probe {
        Probe {
            acceleration,
            cpu: "host".into(),
            reason: String::new(),
            version: 0,
        }
    }

    fn line(probe: &Probe, fds: &Descriptors) -> String {
        let workload = workload();
        let devices = Devices::default().plan(&workload).unwrap();
        arguments(&workload, &devices, probe, fds).join(" ")
    }

    #[test]
    fn nothing_is_left_to_chance() {
        let fds = Descriptors {
            monitor: 5,
            root: vec![
                (Layer::file("base", DiskFormat::Qcow2, true), 6),
                (Layer::file("disk", DiskFormat::Qcow2, false), 7),
            ],
            kernel: Some(8),
            taps: vec![9],
            ..Descriptors::default()
        };
        let line = line(&probe(Acceleration::Tcg), &fds);
        for part in [
            "-nodefaults -no-user-config",
            "-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
            "socket,id=monitor,fd=5,server=on,wait=off",
            "-add-fd fd=6,set=6",
            "\"node-name\":\"base\",\"file\":\"base-file\",\"read-only\":true,\"backing\":null",
            "\"driver\":\"qcow2\",\"node-name\":\"disk\"",
            "\"backing\":\"base\"",
            "-kernel /proc/self/fd/8 -append console=ttyS0, x",
            "tap,id=net-00000000-0000-0000-0000-000000000000,fd=9",
            "\"bus\":\"hot\",\"addr\":\"0x1\"",
            "\"mac\":\"fa:16:3e:00:01:ff\",\"romfile\":\"\",\"host_mtu\":1450",
            "-cpu host -smp cpus=2,sockets=1,cores=2,threads=1",
            "-m 524288k",
        ] {
            assert!(line.contains(part), "`{part}` is missing from\n{line}");
        }
        assert!(!line.contains("/images/"), "QEMU opens nothing by its path");
        assert!(!line.contains("config-file"), "there is no config drive");
    }

    #[test]
    fn hardware_is_built_as_asked() {
        let mut workload = workload();
        workload.hardware = Hardware {
            machine_type: Some("pc".into()),
            firmware: Firmware::Uefi { is_secure: false },
            root_kind: DiskKind::Cdrom,
            video: Video::None,
            is_without_rng: true,
            numa: vec![madang_host::workload::NumaNode {
                cpus: vec![0, 1],
                memory_mib: 512,
                ..Default::default()
            }],
            ..Hardware::default()
        };
        let fds = Descriptors {
            cdrom: vec![(Layer::file("base", DiskFormat::Raw, true), 6)],
            agent: Some(8),
            ..Descriptors::default()
        };
        let devices = Devices::default().plan(&workload).unwrap();
        let line = arguments(&workload, &devices, &probe(Acceleration::Tcg), &fds).join(" ");
        for part in [
            "-machine pc,smm=off,vmport=off,hpet=off,pflash0=firmware,pflash1=firmware-vars",
            "pci-bridge,id=hot",
            "\"driver\":\"ide-cd\",\"bus\":\"ide.0\"",
            "node,nodeid=0,memdev=memory0,cpus=0,cpus=1",
            "name=org.qemu.guest_agent.0",
        ] {
            assert!(line.contains(part), "`{part}` is missing from\n{line}");
        }
        assert!(!line.contains("VGA") && !line.contains("rng"));
    }

    #[test]
    fn acceleration_is_what_the_probe_found() {
        let with = Descriptors {
            kvm: Some(11),
            ..Descriptors::default()
        };
        assert!(
            line(&probe(Acceleration::Kvm), &with).contains("-add-fd fd=11,set=11 -accel kvm,device=/dev/fdset/11 ")
        );
        assert!(line(&probe(Acceleration::Kvm), &Descriptors::default()).contains("-accel kvm -m "));
        assert!(line(&probe(Acceleration::Tcg), &with).contains("-accel tcg,"));
    }
}
