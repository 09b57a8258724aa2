//! The command line of a machine: a pure function of the workload and of the numbers of the descriptors it gets.
//!
//! Everything is said explicitly (`-nodefaults`, formats, nodes); QEMU guesses nothing and reads no configuration.

use std::os::fd::RawFd;

use madang_host::{
    acceleration::{Acceleration, Probe},
    workload::{DiskFormat, Root, Workload},
};
use serde_json::{Value, json};

use super::console;

/// Guest code that TCG keeps translated, in MiB: enough for a kernel and its programs. QEMU's own choice is an eighth of
/// the host's memory for every machine.
pub(super) const TRANSLATED_MIB: u64 = 256;

/// The name of the chardev that keeps console output.
pub(super) const CONSOLE: &str = "console";

/// What the guest's firmware tells its operating system about the maker: cloud-init looks for this product before it
/// asks the metadata service. Source: cloud-init's DataSourceOpenStack.
const PRODUCT: &str = "OpenStack Compute";

/// Numbers of the descriptors a machine inherits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Descriptors {
    /// The listening socket of the monitor.
    pub monitor: RawFd,
    /// The image, read-only.
    pub base: RawFd,
    /// The machine's own layer.
    pub disk: RawFd,
    /// The config drive, read-only.
    pub config_drive: Option<RawFd>,
    /// Kernel and initial ramdisk.
    pub kernel: Option<RawFd>,
    pub ramdisk: Option<RawFd>,
    /// One tap per interface, in order.
    pub taps: Vec<RawFd>,
    /// `/dev/kvm`, when its permissions would keep the machine's user out.
    pub kvm: Option<RawFd>,
}

/// All arguments. `format` is that of the base image.
pub(super) fn arguments(workload: &Workload, format: DiskFormat, probe: &Probe, fds: &Descriptors) -> Vec<String> {
    let mut args = Arguments::default();
    args.machine(workload, probe, fds);
    args.confine();
    args.monitor_and_console(fds);
    args.disks(workload, format, fds);
    args.kernel(workload, fds);
    args.interfaces(workload, fds);
    args.small_devices();
    args.0
}

#[derive(Default)]
struct Arguments(Vec<String>);

impl Arguments {
    fn flag(&mut self, flag: &str) {
        self.0.push(flag.into());
    }

    fn add(&mut self, flag: &str, value: impl Into<String>) {
        self.0.push(flag.into());
        self.0.push(value.into());
    }

    fn add_json(&mut self, flag: &str, value: &Value) {
        self.add(flag, value.to_string());
    }

    /// Makes a descriptor known as `/dev/fdset/N`, which block devices and KVM open.
    fn add_set(&mut self, fd: RawFd) -> String {
        self.add("-add-fd", format!("fd={fd},set={fd}"));
        format!("/dev/fdset/{fd}")
    }

    fn machine(&mut self, workload: &Workload, probe: &Probe, fds: &Descriptors) {
        self.flag("-nodefaults");
        self.flag("-no-user-config");
        self.add("-display", "none");
        self.add("-name", format!("madang-{}", workload.id));
        self.add("-uuid", workload.id.to_string());
        // The modern board without what servers have no use for: a quarter less of emulated boot than the stock one.
        self.add("-machine", "q35,smm=off,vmport=off,hpet=off,sata=off,smbus=off");
        match (probe.acceleration, fds.kvm) {
            (Acceleration::Kvm, Some(fd)) => {
                let device = self.add_set(fd);
                self.add("-accel", format!("kvm,device={device}"));
            }
            (Acceleration::Kvm, None) => self.add("-accel", "kvm"),
            (Acceleration::Tcg, _) => self.add("-accel", format!("tcg,thread=multi,tb-size={TRANSLATED_MIB}")),
        }
        self.add("-cpu", probe.cpu.clone());
        self.add(
            "-smp",
            format!("cpus={0},sockets=1,cores={0},threads=1", workload.vcpus),
        );
        self.add("-m", format!("{}k", workload.memory_bytes.div_ceil(1024)));
        self.add("-rtc", "base=utc,driftfix=slew");
        self.add("-boot", "menu=off,strict=on");
        let id = workload.id;
        self.add(
            "-smbios",
            format!("type=1,manufacturer=madang,product={PRODUCT},serial={id},uuid={id},family=Virtual Machine"),
        );
        // A guest that powers off or panics leaves QEMU halted, so that we learn of it even when we are away.
        self.add("-action", "reboot=reset,shutdown=pause,panic=pause");
    }

    fn confine(&mut self) {
        self.add(
            "-sandbox",
            "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        );
        self.add("-msg", "timestamp=off,guest-name=off");
    }

    fn monitor_and_console(&mut self, fds: &Descriptors) {
        self.add(
            "-chardev",
            format!("socket,id=monitor,fd={},server=on,wait=off", fds.monitor),
        );
        self.add("-mon", "chardev=monitor,mode=control");
        self.add("-chardev", format!("ringbuf,id={CONSOLE},size={}", console::RING_BYTES));
        self.add("-serial", format!("chardev:{CONSOLE}"));
    }

    fn disks(&mut self, workload: &Workload, format: DiskFormat, fds: &Descriptors) {
        let base = self.add_set(fds.base);
        self.add_json("-blockdev", &file_node("base-file", &base, true));
        let mut node = json!({
            "driver": format.as_str(), "node-name": "base", "file": "base-file", "read-only": true,
        });
        if format == DiskFormat::Qcow2 {
            // Never what the image's own header says.
            node["backing"] = Value::Null;
        }
        self.add_json("-blockdev", &node);
        let disk = self.add_set(fds.disk);
        self.add_json("-blockdev", &file_node("disk-file", &disk, false));
        self.add_json(
            "-blockdev",
            &json!({
                "driver": "qcow2", "node-name": "disk", "file": "disk-file", "backing": "base",
                "discard": "unmap", "detect-zeroes": "unmap",
            }),
        );
        // The first 20 digits of the id, as Nova's disks show; virtio has room for no more.
        let serial: String = workload.id.to_string().chars().take(20).collect();
        self.add_json(
            "-device",
            &json!({ "driver": "virtio-blk-pci", "id": "vda", "drive": "disk", "bootindex": 1, "serial": serial }),
        );
        if let Some(fd) = fds.config_drive {
            let file = self.add_set(fd);
            self.add_json("-blockdev", &file_node("config-file", &file, true));
            self.add_json(
                "-blockdev",
                &json!({ "driver": "raw", "node-name": "config", "file": "config-file", "read-only": true }),
            );
            self.add_json(
                "-device",
                &json!({ "driver": "virtio-blk-pci", "id": "config", "drive": "config", "serial": "config-drive" }),
            );
        }
    }

    fn kernel(&mut self, workload: &Workload, fds: &Descriptors) {
        let Root::Disk { kernel_args, .. } = &workload.root else {
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

    fn interfaces(&mut self, workload: &Workload, fds: &Descriptors) {
        for (index, (nic, fd)) in workload.nics.iter().zip(&fds.taps).enumerate() {
            self.add("-netdev", format!("tap,id=net{index},fd={fd}"));
            let mac = nic.mac.map(|byte| format!("{byte:02x}")).join(":");
            self.add_json(
                "-device",
                &json!({
                    "driver": "virtio-net-pci", "id": format!("nic{index}"), "netdev": format!("net{index}"),
                    "mac": mac, "host_mtu": nic.mtu,
                    // No network boot: saves its ROM's time.
                    "romfile": "",
                }),
            );
        }
    }

    fn small_devices(&mut self) {
        self.add("-object", "rng-builtin,id=random");
        self.add("-device", "virtio-rng-pci,rng=random");
        self.add("-device", "virtio-balloon-pci,free-page-reporting=on");
        self.add("-device", "pvpanic");
    }
}

fn file_node(name: &str, path: &str, read_only: bool) -> Value {
    let mut node = json!({
        "driver": "file", "node-name": name, "filename": path, "read-only": read_only, "auto-read-only": false,
    });
    if !read_only {
        node["discard"] = json!("unmap");
    }
    node
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
        }
    }

    fn line(probe: &Probe, fds: &Descriptors) -> String {
        arguments(&workload(), DiskFormat::Qcow2, probe, fds).join(" ")
    }

    #[test]
    fn nothing_is_left_to_chance() {
        let fds = Descriptors {
            monitor: 5,
            base: 6,
            disk: 7,
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
            "-kernel /proc/self/fd/8 -append console=ttyS0, x",
            "tap,id=net0,fd=9",
            "\"mac\":\"fa:16:3e:00:01:ff\",\"host_mtu\":1450",
            "-smp cpus=2,sockets=1,cores=2,threads=1 -m 524288k",
        ] {
            assert!(line.contains(part), "`{part}` is missing from\n{line}");
        }
        assert!(!line.contains("/images/"), "QEMU opens nothing by its path");
        assert!(!line.contains("config-file"), "there is no config drive");
    }

    #[test]
    fn acceleration_is_what_the_probe_found() {
        let with = Descriptors {
            kvm: Some(11),
            ..Descriptors::default()
        };
        assert!(
            line(&probe(Acceleration::Kvm), &with).contains("-add-fd fd=11,set=11 -accel kvm,device=/dev/fdset/11")
        );
        assert!(line(&probe(Acceleration::Kvm), &Descriptors::default()).contains("-accel kvm -cpu host"));
        assert!(line(&probe(Acceleration::Tcg), &with).contains("-accel tcg,"));
    }
}
