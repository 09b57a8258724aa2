//! What bytes really are, whatever they are said to be.
//!
//! A guest's disk is opened by QEMU as what its image says it is. A "raw" image that is a qcow2 file, or a qcow2 file
//! that names another file, would let its owner read files of the host; so the front of every upload is compared with
//! what was declared, and what points elsewhere is refused.

use crate::image::{ContainerFormat, DiskFormat};

/// Why bytes are refused. Every one is the uploader's mistake, or worse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The bytes are something else.
    #[error("Image content did not match disk_format: it was declared {declared} and looks like {found}")]
    Mismatch {
        /// What it was declared.
        declared: DiskFormat,
        /// What it looks like: a format, or `unknown`.
        found: &'static str,
    },
    /// The bytes refer to other files, or have features that nobody here knows.
    #[error("Image content is refused: {0}")]
    Unsafe(&'static str),
}

/// What the front of a file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Known(DiskFormat),
    Unknown,
}

fn find(head: &[u8]) -> Found {
    let at = |offset: usize, magic: &[u8]| head.get(offset..offset + magic.len()) == Some(magic);
    if at(0, b"QFI\xfb") {
        Found::Known(DiskFormat::Qcow2)
    } else if at(0, b"KDMV") || at(0, b"COWD") || at(0, b"# Disk DescriptorFile") {
        Found::Known(DiskFormat::Vmdk)
    } else if at(0, b"vhdxfile") {
        Found::Known(DiskFormat::Vhdx)
    } else if at(0, b"conectix") {
        Found::Known(DiskFormat::Vhd)
    } else if at(0x40, &0xbeda_107f_u32.to_le_bytes()) {
        Found::Known(DiskFormat::Vdi)
    } else if at(0x8001, b"CD001") {
        Found::Known(DiskFormat::Iso)
    } else {
        Found::Unknown
    }
}

/// Compares what was declared with the front of the bytes (64 KiB, or all there are). Gives the size of the disk that a
/// guest would see, where the format has one.
///
/// # Errors
/// See [`FormatError`].
pub fn inspect(
    container: ContainerFormat,
    declared: DiskFormat,
    head: &[u8],
    size: u64,
) -> Result<Option<u64>, FormatError> {
    use DiskFormat as F;
    // What is wrapped in something is not opened as a disk; kernels and ramdisks have no format of their own.
    let is_plain = matches!(container, ContainerFormat::Bare);
    if !is_plain || matches!(declared, F::Ami | F::Ari | F::Aki) {
        return match find(head) {
            Found::Known(F::Qcow2) if declared == F::Qcow2 => qcow2(head).map(Some),
            _ => Ok(None),
        };
    }
    let found = find(head);
    let mismatch = |found| Err(FormatError::Mismatch { declared, found });
    match (declared, found) {
        (F::Qcow2, Found::Known(F::Qcow2)) => qcow2(head).map(Some),
        (F::Vmdk, Found::Known(F::Vmdk)) => vmdk(head).map(Some),
        // Optical discs boot as disks too; a raw disk may begin with anything.
        (F::Raw, Found::Unknown | Found::Known(F::Iso)) | (F::Iso, Found::Known(F::Iso)) => Ok(Some(size)),
        (F::Ploop, Found::Unknown) => Ok(None),
        (F::Vhd | F::Vhdx | F::Vdi, Found::Known(found)) if found == declared => Ok(None),
        (_, Found::Known(found)) => mismatch(found.as_str()),
        (_, Found::Unknown) => mismatch("unknown"),
    }
}

fn be64(head: &[u8], at: usize) -> Option<u64> {
    head.get(at..at + 8)?.try_into().ok().map(u64::from_be_bytes)
}

fn be32(head: &[u8], at: usize) -> Option<u32> {
    head.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes)
}

/// Checks a qcow2 header (docs/interop/qcow2 of QEMU) and gives the disk's size.
fn qcow2(head: &[u8]) -> Result<u64, FormatError> {
    const SHORT: FormatError = FormatError::Unsafe("its qcow2 header is cut off");
    /// Dirty, corrupt, external data file, compression type, extended L2 entries.
    const KNOWN_FEATURES: u64 = 0b1_1111;
    const EXTERNAL_DATA: u64 = 0b100;
    let version = be32(head, 4).ok_or(SHORT)?;
    let backing_file = be64(head, 8).ok_or(SHORT)?;
    let size = be64(head, 24).ok_or(SHORT)?;
    if !matches!(version, 2 | 3) {
        return Err(FormatError::Unsafe("it is a qcow2 file of an unknown version"));
    }
    if backing_file != 0 {
        return Err(FormatError::Unsafe("it is a qcow2 file that stands on a backing file"));
    }
    if version == 3 {
        let features = be64(head, 72).ok_or(SHORT)?;
        if features & EXTERNAL_DATA != 0 {
            return Err(FormatError::Unsafe("it is a qcow2 file whose data are in another file"));
        }
        if features & !KNOWN_FEATURES != 0 {
            return Err(FormatError::Unsafe("it is a qcow2 file with unknown features"));
        }
    }
    Ok(size)
}

/// Checks a VMDK header: only the kinds that hold their own data. Gives the disk's size.
fn vmdk(head: &[u8]) -> Result<u64, FormatError> {
    const REFUSED: FormatError = FormatError::Unsafe("it is a vmdk that does not hold its own data");
    let le64 = |at: usize| head.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
    if !head.starts_with(b"KDMV") {
        return Err(REFUSED);
    }
    let sectors = le64(12).ok_or(REFUSED)?;
    let begin = usize::try_from(le64(28).ok_or(REFUSED)?)
        .ok()
        .and_then(|sector| sector.checked_mul(512));
    let descriptor = begin.and_then(|begin| head.get(begin..)).ok_or(REFUSED)?;
    let descriptor = String::from_utf8_lossy(&descriptor[..descriptor.len().min(20 << 10)]).into_owned();
    let kind = descriptor
        .lines()
        .find_map(|line| line.trim().strip_prefix("createType="));
    match kind.map(|kind| kind.trim_matches('"')) {
        Some("streamOptimized" | "monolithicSparse") => Ok(sectors.saturating_mul(512)),
        _ => Err(REFUSED),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn qcow2_header(version: u32, backing: u64, features: u64) -> Vec<u8> {
        let mut head = b"QFI\xfb".to_vec();
        head.extend(version.to_be_bytes());
        head.extend(backing.to_be_bytes());
        head.extend([0; 8]);
        head.extend((5_u64 << 30).to_be_bytes());
        head.resize(72, 0);
        head.extend(features.to_be_bytes());
        head.resize(112, 0);
        head
    }

    fn look(declared: DiskFormat, head: &[u8]) -> Result<Option<u64>, FormatError> {
        inspect(ContainerFormat::Bare, declared, head, head.len() as u64)
    }

    #[test]
    fn an_honest_qcow2_says_its_size() {
        assert_eq!(look(DiskFormat::Qcow2, &qcow2_header(3, 0, 0)), Ok(Some(5 << 30)));
        assert_eq!(look(DiskFormat::Qcow2, &qcow2_header(2, 0, 0)), Ok(Some(5 << 30)));
    }

    #[test]
    fn a_qcow2_that_points_elsewhere_is_refused() {
        for head in [
            qcow2_header(3, 104, 0),
            qcow2_header(2, 104, 0),
            qcow2_header(3, 0, 4),
            qcow2_header(3, 0, 64),
        ] {
            assert!(matches!(look(DiskFormat::Qcow2, &head), Err(FormatError::Unsafe(_))));
        }
        assert!(matches!(
            look(DiskFormat::Qcow2, &qcow2_header(4, 0, 0)),
            Err(FormatError::Unsafe(_))
        ));
    }

    #[test]
    fn a_lie_is_refused() {
        let lie = look(DiskFormat::Raw, &qcow2_header(3, 0, 0));
        assert_eq!(
            lie,
            Err(FormatError::Mismatch {
                declared: DiskFormat::Raw,
                found: "qcow2"
            })
        );
        let lie = look(DiskFormat::Qcow2, b"just text");
        assert_eq!(
            lie,
            Err(FormatError::Mismatch {
                declared: DiskFormat::Qcow2,
                found: "unknown"
            })
        );
        assert_eq!(look(DiskFormat::Raw, b"just text"), Ok(Some(9)));
        assert_eq!(inspect(ContainerFormat::Docker, DiskFormat::Raw, b"tar", 3), Ok(None));
    }

    #[test]
    fn a_vmdk_must_hold_its_data() {
        let mut head = b"KDMV".to_vec();
        head.resize(12, 0);
        head.extend(2048_u64.to_le_bytes());
        head.resize(28, 0);
        head.extend(1_u64.to_le_bytes());
        head.resize(512, 0);
        let with = |kind: &str| [head.clone(), format!("version=1\ncreateType=\"{kind}\"\n").into_bytes()].concat();
        assert_eq!(look(DiskFormat::Vmdk, &with("streamOptimized")), Ok(Some(1 << 20)));
        assert!(look(DiskFormat::Vmdk, &with("monolithicFlat")).is_err());
        assert!(look(DiskFormat::Vmdk, b"# Disk DescriptorFile\n").is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_break_it(mut head in prop::collection::vec(any::<u8>(), 0..300), magic in 0..6_usize) {
            let magics: [&[u8]; 6] = [b"", b"QFI\xfb", b"KDMV", b"vhdxfile", b"conectix", b"COWD"];
            head.splice(0..0, magics[magic].iter().copied());
            for word in DiskFormat::ALL {
                let _ = look(word.parse().unwrap(), &head);
            }
        }
    }
}
