//! What a machine is built of, as image properties and flavors ask for it. The default is what suits most: the modern
//! board with virtio devices.

use super::{DiskBus, DiskKind, IoLimits};

/// A machine's hardware. Containers have none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Hardware {
    /// QEMU's board, when not the default. Source: `hw_machine_type`.
    pub machine_type: Option<String>,
    /// What starts the operating system. Source: `hw_firmware_type`, `os_secure_boot`.
    pub firmware: Firmware,
    /// The bus of the root disk. Source: `hw_disk_bus`.
    pub disk_bus: DiskBus,
    /// Whether the root is a disk or an installer's compact disc. Source: the image's format `iso`, `hw_cdrom_bus`.
    pub root_kind: DiskKind,
    /// The model of network interfaces. Source: `hw_vif_model`.
    pub nic_model: NicModel,
    /// Shows the firmware's boot menu. Source: `hw_boot_menu`.
    pub has_boot_menu: bool,
    /// Gives the guest's agent its channel. Source: `hw_qemu_guest_agent`.
    pub has_guest_agent: bool,
    /// Gives the guest random numbers; on unless refused. Source: `hw_rng_model`, `hw_rng:allowed`.
    pub is_without_rng: bool,
    /// The graphics adapter. Source: `hw_video_model`.
    pub video: Video,
    /// A trusted platform module of this version, kept by `swtpm`. Source: `hw_tpm_version`, `hw:tpm_version`.
    pub tpm: Option<TpmVersion>,
    /// Suits Windows guests: local time, enlightenments. Source: `os_type=windows`.
    pub is_for_windows: bool,
    /// Processors: model, topology, where they run.
    pub cpu: Cpu,
    /// Limits of the root disk. Source: `quota:disk_*`.
    pub disk_limits: IoLimits,
    /// Limits of each interface in bytes a second, to and from the guest. Source: `quota:vif_*`.
    pub nic_limits: (Option<u64>, Option<u64>),
    /// Relative share of processor time. Source: `quota:cpu_shares`.
    pub cpu_shares: Option<u64>,
    /// Processor time in microseconds, of each period in microseconds. Source: `quota:cpu_quota`, `quota:cpu_period`.
    pub cpu_quota: Option<(u64, u64)>,
    /// How its rescuer's disk is plugged in, beside all others and after them; before all others where nothing is said.
    /// Source: `hw_rescue_bus`, `hw_rescue_device` of the rescuer's image.
    pub rescue: Option<(DiskBus, DiskKind)>,
    /// Memory in MiB and processors of each node, when it has more than one or they are somewhere. Source: `hw:numa_*`.
    pub numa: Vec<NumaNode>,
}

/// What starts the operating system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Firmware {
    /// SeaBIOS.
    #[default]
    Bios,
    /// OVMF.
    Uefi {
        /// Only signed systems start.
        is_secure: bool,
    },
}

/// Models of network interfaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NicModel {
    /// Paravirtual.
    #[default]
    Virtio,
    /// Intel 82540EM.
    E1000,
    /// Intel 82574L.
    E1000e,
    /// Realtek 8139.
    Rtl8139,
    /// AMD PCnet.
    Pcnet,
    /// NE2000 on PCI.
    Ne2kPci,
    /// VMware's.
    Vmxnet3,
}

/// Graphics adapters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Video {
    /// None: the console is serial.
    None,
    /// Standard VGA.
    #[default]
    Vga,
    /// Paravirtual.
    Virtio,
    /// Cirrus Logic.
    Cirrus,
    /// VMware's.
    Vmvga,
    /// SPICE's.
    Qxl,
    /// A plain frame buffer.
    Bochs,
}

/// Versions of a trusted platform module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TpmVersion {
    /// 1.2.
    V1,
    /// 2.0.
    V2,
}

/// A machine's processors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    /// QEMU's model, when not the host's best. Source: `hw:cpu_model` by configuration.
    pub model: Option<String>,
    /// Sockets, cores of each, threads of each; one core a processor by default. Source: `hw:cpu_*`.
    pub topology: Option<(u32, u32, u32)>,
    /// Host processors that it has to itself, one for each of its own. Source: `hw:cpu_policy=dedicated`.
    pub pinned: Vec<u32>,
    /// Host processors that everything else of it may use; all where there is none.
    pub shared: Vec<u32>,
}

/// A node of a machine's memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NumaNode {
    /// Its processors, by number from 0.
    pub cpus: Vec<u32>,
    /// In MiB.
    pub memory_mib: u64,
    /// The host's node that it is on; anywhere when none.
    pub host_node: Option<u32>,
    /// The size of its pages in KiB, when not the usual. Source: `hw:mem_page_size`.
    pub page_kib: Option<u64>,
}
