//! Disks that a server's host makes for it: the flavor's `OS-FLV-EXT-DATA:ephemeral` and `swap`, whole or as the request
//! divides them. Pure.
//!
//! They begin with an empty file system, or as swap space, and live as long as the server stays where it is: stopped or
//! resized it keeps what is in them, rebuilt or back from the shelf it finds them empty. Source: Nova's compute API
//! (`_validate_bdm`) and its libvirt driver.

use std::collections::{BTreeMap, BTreeSet};

use madang_host::workload::{DiskBus, FileSystem, Hardware, LocalContent, LocalDisk};
use serde::{Deserialize, Serialize};

use crate::FlavorSpec;

const MIB: u64 = 1 << 20;

/// MiB of a GiB.
const GIB_IN_MIB: u64 = 1024;

/// Disks of the host's that one server may have, its root included. Source: Nova's `max_local_block_devices`.
const MOST: usize = 3;

/// A disk of a server's host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalDiskSpec {
    /// What it is for.
    pub kind: LocalKind,
    /// Its size.
    pub size_mib: u64,
    /// It is all that the flavor gives of its kind, and becomes more with the flavor.
    #[serde(default)]
    pub is_whole: bool,
    /// What it begins with; what suits the guest's system when none.
    #[serde(default)]
    pub file_system: Option<FileSystem>,
    /// How the guest sees it; as its root when none.
    #[serde(default)]
    pub bus: Option<DiskBus>,
    /// The user's tag.
    #[serde(default)]
    pub tag: Option<String>,
    /// What a machine's guest is told it is called: `/dev/vdb`.
    pub device: String,
}

/// What a disk of the host's is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LocalKind {
    /// Room that nobody keeps.
    Ephemeral,
    /// Memory on a disk.
    Swap,
}

/// A disk of the host's, as a request asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalRequest {
    /// What for.
    pub kind: LocalKind,
    /// How big, in GiB or, for swap, in MiB; all that the flavor gives when none.
    pub size: Option<u32>,
    /// What it begins with.
    pub file_system: Option<FileSystem>,
    /// How the guest sees it.
    pub bus: Option<DiskBus>,
    /// The user's tag.
    pub tag: Option<String>,
}

impl LocalRequest {
    fn whole(kind: LocalKind) -> Self {
        Self {
            kind,
            size: None,
            file_system: None,
            bus: None,
            tag: None,
        }
    }
}

/// Why a server cannot have the disks that were asked for. The words are the original's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooMuch {
    /// More ephemeral room than the flavor has.
    #[error(
        "Ephemeral disks requested are larger than the instance type allows. If no size is given in one block device \
         mapping, flavor ephemeral size will be used."
    )]
    Ephemeral,
    /// More swap.
    #[error("Swap drive requested is larger than instance type allows.")]
    Swap,
    /// Swap twice.
    #[error("Block Device Mapping is Invalid: More than one swap drive requested.")]
    Swaps,
    /// Too many.
    #[error("Block Device Mapping is Invalid: You specified more local devices than the limit allows")]
    Disks,
}

/// Divides what a flavor gives as it was asked for; what nobody asked about is one disk. `has_root` says that the root is
/// the host's, too, `bus` is the root's.
///
/// # Errors
/// [`TooMuch`].
pub fn divided(
    flavor: &FlavorSpec,
    asked: Vec<LocalRequest>,
    has_root: bool,
    bus: DiskBus,
) -> Result<Vec<LocalDiskSpec>, TooMuch> {
    let (mut ephemerals, mut swaps): (Vec<_>, Vec<_>) =
        asked.into_iter().partition(|one| one.kind == LocalKind::Ephemeral);
    if ephemerals.is_empty() && flavor.ephemeral_gb > 0 {
        ephemerals.push(LocalRequest::whole(LocalKind::Ephemeral));
    }
    if swaps.is_empty() && flavor.swap_mb > 0 {
        swaps.push(LocalRequest::whole(LocalKind::Swap));
    }
    let sizes = ephemerals.iter().map(|one| one.size.unwrap_or(flavor.ephemeral_gb));
    let sum: u64 = sizes.map(u64::from).sum();
    // What has no size in a flavor without any is no disk.
    if sum > u64::from(flavor.ephemeral_gb) || (!ephemerals.is_empty() && flavor.ephemeral_gb == 0) {
        return Err(TooMuch::Ephemeral);
    }
    match swaps.as_slice() {
        [_, _, ..] => return Err(TooMuch::Swaps),
        [one] if one.size.unwrap_or(0) > flavor.swap_mb || flavor.swap_mb == 0 => return Err(TooMuch::Swap),
        _ => {}
    }
    if ephemerals.len() + swaps.len() + usize::from(has_root) > MOST {
        return Err(TooMuch::Disks);
    }
    let mut taken = BTreeSet::new();
    if has_root {
        taken.insert(free_name(bus, &taken));
    } else {
        // The volume it starts from.
        taken.insert("/dev/vda".to_owned());
    }
    let mut disks = Vec::new();
    for one in ephemerals.into_iter().chain(swaps) {
        let device = free_name(one.bus.unwrap_or(bus), &taken);
        taken.insert(device.clone());
        disks.push(made(one, flavor, device));
    }
    Ok(disks)
}

/// The disks of a server that gets another flavor: what was the whole of the old flavor's becomes the whole of the new
/// one's, and swap is what the new one gives. `others` are the names that its other disks have.
pub fn resized(
    disks: &[LocalDiskSpec],
    old: &FlavorSpec,
    new: &FlavorSpec,
    others: &BTreeSet<String>,
) -> Vec<LocalDiskSpec> {
    let mut disks = disks.to_vec();
    for disk in disks.iter_mut().filter(|disk| disk.is_whole) {
        if disk.kind == LocalKind::Ephemeral {
            disk.size_mib = disk.size_mib.max(u64::from(new.ephemeral_gb) * GIB_IN_MIB);
        }
    }
    if old.swap_mb != new.swap_mb {
        for disk in disks.iter_mut().filter(|disk| disk.kind == LocalKind::Swap) {
            disk.size_mib = u64::from(new.swap_mb);
        }
        disks.retain(|disk| disk.size_mib > 0);
    }
    for (kind, is_given) in [
        (LocalKind::Ephemeral, new.ephemeral_gb > 0),
        (LocalKind::Swap, new.swap_mb > 0),
    ] {
        if is_given && !disks.iter().any(|disk| disk.kind == kind) {
            let mut taken = others.clone();
            taken.insert("/dev/vda".to_owned());
            taken.extend(disks.iter().map(|disk| disk.device.clone()));
            let device = free_name(DiskBus::Virtio, &taken);
            disks.push(made(LocalRequest::whole(kind), new, device));
        }
    }
    // Ephemeral ones come first.
    disks.sort_by_key(|disk| disk.kind == LocalKind::Swap);
    disks
}

/// The ephemeral room that a server has, in GiB; what its flavor says where it has no such disk.
pub fn ephemeral_gb(disks: &[LocalDiskSpec], flavor: &FlavorSpec) -> u64 {
    let ephemerals = disks.iter().filter(|disk| disk.kind == LocalKind::Ephemeral);
    let sum: u64 = ephemerals.map(|disk| disk.size_mib).sum();
    match sum {
        0 => u64::from(flavor.ephemeral_gb),
        sum => sum.div_ceil(GIB_IN_MIB),
    }
}

/// Each disk with its name among the server's own: `ephemeral0`, `ephemeral1`, `swap`.
pub fn named(disks: &[LocalDiskSpec]) -> impl Iterator<Item = (String, &LocalDiskSpec)> {
    let mut count = 0;
    disks.iter().map(move |disk| match disk.kind {
        LocalKind::Swap => ("swap".to_owned(), disk),
        LocalKind::Ephemeral => {
            count += 1;
            (format!("ephemeral{}", count - 1), disk)
        }
    })
}

/// What the driver is to make of them.
pub fn wanted(disks: &[LocalDiskSpec], hardware: &Hardware) -> Vec<LocalDisk> {
    let usual = if hardware.is_for_windows {
        FileSystem::Ntfs
    } else {
        FileSystem::Ext4
    };
    let disks = named(disks).map(|(name, disk)| LocalDisk {
        name,
        size_bytes: disk.size_mib * MIB,
        content: match disk.kind {
            LocalKind::Swap => LocalContent::Swap,
            LocalKind::Ephemeral => LocalContent::FileSystem(disk.file_system.unwrap_or(usual)),
        },
        bus: disk.bus.unwrap_or(hardware.disk_bus),
    });
    disks.collect()
}

/// Each name with where it is, as EC2's `block-device-mapping` has it.
pub fn mapping(disks: &[LocalDiskSpec]) -> BTreeMap<String, String> {
    named(disks).map(|(name, disk)| (name, disk.device.clone())).collect()
}

fn made(asked: LocalRequest, flavor: &FlavorSpec, device: String) -> LocalDiskSpec {
    let (given, unit) = match asked.kind {
        LocalKind::Ephemeral => (flavor.ephemeral_gb, GIB_IN_MIB),
        LocalKind::Swap => (flavor.swap_mb, 1),
    };
    LocalDiskSpec {
        kind: asked.kind,
        size_mib: u64::from(asked.size.unwrap_or(given)) * unit,
        is_whole: asked.size.is_none_or(|size| size == given),
        file_system: asked.file_system,
        bus: asked.bus,
        tag: asked.tag,
        device,
    }
}

/// What Linux calls the next disk on a bus.
fn free_name(bus: DiskBus, taken: &BTreeSet<String>) -> String {
    let family = match bus {
        DiskBus::Virtio => "vd",
        DiskBus::Scsi | DiskBus::Sata | DiskBus::Ide | DiskBus::Usb => "sd",
    };
    let mut names = ('a'..='z').map(|letter| format!("/dev/{family}{letter}"));
    names.find(|name| !taken.contains(name)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::tests::server;

    fn flavor(ephemeral_gb: u32, swap_mb: u32) -> FlavorSpec {
        FlavorSpec {
            ephemeral_gb,
            swap_mb,
            ..server("a").spec.flavor
        }
    }

    fn ephemeral(size: Option<u32>) -> LocalRequest {
        LocalRequest {
            size,
            ..LocalRequest::whole(LocalKind::Ephemeral)
        }
    }

    fn swap(size: Option<u32>) -> LocalRequest {
        LocalRequest {
            size,
            ..LocalRequest::whole(LocalKind::Swap)
        }
    }

    fn shown(disks: &[LocalDiskSpec]) -> Vec<(String, u64, &str)> {
        named(disks)
            .map(|(name, disk)| (name, disk.size_mib, disk.device.as_str()))
            .collect()
    }

    #[test]
    fn what_nobody_asks_about_is_one_disk() {
        assert_eq!(divided(&flavor(0, 0), vec![], true, DiskBus::Virtio), Ok(vec![]));
        let disks = divided(&flavor(2, 512), vec![], true, DiskBus::Virtio).unwrap();
        assert_eq!(
            shown(&disks),
            [
                ("ephemeral0".to_owned(), 2048, "/dev/vdb"),
                ("swap".to_owned(), 512, "/dev/vdc")
            ]
        );
        let disks = divided(&flavor(1, 0), vec![], true, DiskBus::Scsi).unwrap();
        assert_eq!(disks[0].device, "/dev/sdb");
    }

    #[test]
    fn it_is_divided_within_the_flavor() {
        let disks = divided(
            &flavor(3, 0),
            vec![ephemeral(Some(1)), ephemeral(Some(2))],
            true,
            DiskBus::Virtio,
        )
        .unwrap();
        assert_eq!(
            shown(&disks),
            [
                ("ephemeral0".to_owned(), 1024, "/dev/vdb"),
                ("ephemeral1".to_owned(), 2048, "/dev/vdc")
            ]
        );
        assert!(disks.iter().all(|disk| !disk.is_whole));
        let of = |flavor: FlavorSpec, asked| divided(&flavor, asked, true, DiskBus::Virtio);
        assert_eq!(of(flavor(3, 0), vec![ephemeral(Some(4))]), Err(TooMuch::Ephemeral));
        assert_eq!(
            of(flavor(3, 0), vec![ephemeral(Some(1)), ephemeral(None)]),
            Err(TooMuch::Ephemeral),
            "without a size it is all that the flavor has"
        );
        assert_eq!(of(flavor(0, 0), vec![ephemeral(None)]), Err(TooMuch::Ephemeral));
        assert_eq!(of(flavor(0, 64), vec![swap(Some(65))]), Err(TooMuch::Swap));
        assert_eq!(of(flavor(0, 0), vec![swap(None)]), Err(TooMuch::Swap));
        assert_eq!(
            of(flavor(0, 64), vec![swap(Some(1)), swap(Some(1))]),
            Err(TooMuch::Swaps)
        );
        let three = vec![ephemeral(Some(1)), ephemeral(Some(1)), ephemeral(Some(1))];
        assert_eq!(of(flavor(3, 0), three.clone()), Err(TooMuch::Disks), "the root counts");
        assert!(divided(&flavor(3, 0), three, false, DiskBus::Virtio).is_ok());
    }

    #[test]
    fn they_follow_the_flavor() {
        let (small, big) = (flavor(1, 64), flavor(2, 128));
        let others = ["/dev/vdd".to_owned()].into();
        let disks = divided(&small, vec![], true, DiskBus::Virtio).unwrap();
        let now = resized(&disks, &small, &big, &others);
        assert_eq!(now.iter().map(|disk| disk.size_mib).collect::<Vec<_>>(), [2048, 128]);
        let now = resized(&disks, &small, &flavor(1, 0), &others);
        assert_eq!(now, disks[..1], "swap that the flavor does not give goes");
        let parts = divided(
            &flavor(3, 0),
            vec![ephemeral(Some(1)), ephemeral(Some(1))],
            true,
            DiskBus::Virtio,
        )
        .unwrap();
        assert_eq!(ephemeral_gb(&parts, &flavor(3, 0)), 2);
        let now = resized(&parts, &flavor(3, 0), &flavor(9, 64), &others);
        assert_eq!(now[..2], parts, "parts stay as they are");
        assert_eq!((now[2].kind, now[2].device.as_str()), (LocalKind::Swap, "/dev/vde"));
        let none = resized(&[], &flavor(0, 0), &big, &BTreeSet::new());
        assert_eq!(none, divided(&big, vec![], true, DiskBus::Virtio).unwrap());
    }

    #[test]
    fn a_guest_gets_what_suits_its_system() {
        let disks = divided(&flavor(1, 1), vec![], true, DiskBus::Virtio).unwrap();
        let mut hardware = Hardware::default();
        let kinds = |hardware: &Hardware| wanted(&disks, hardware).into_iter().map(|disk| disk.content);
        let first = |hardware: &Hardware| kinds(hardware).next().unwrap();
        assert_eq!(first(&hardware), LocalContent::FileSystem(FileSystem::Ext4));
        assert_eq!(kinds(&hardware).nth(1), Some(LocalContent::Swap));
        hardware.is_for_windows = true;
        assert_eq!(first(&hardware), LocalContent::FileSystem(FileSystem::Ntfs));
    }
}
