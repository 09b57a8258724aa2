//! The few bytes with which a qcow2 file begins. Source: docs/interop/qcow2.txt of QEMU.
//!
//! Written here rather than by `qemu-img create`, which takes tens of milliseconds to start and reads what the new file
//! stands on.

use std::{fs::File, io::Read as _, path::Path};

use crate::driver::BackEndError;

const MAGIC: &[u8; 4] = b"QFI\xfb";
/// 64 KiB, QEMU's own choice.
const CLUSTER_BITS: u32 = 16;
const CLUSTER: u64 = 1 << CLUSTER_BITS;
/// What one entry of the first table leads to: a cluster of 8-byte entries, each a cluster.
const L1_ENTRY_BYTES: u64 = CLUSTER / 8 * CLUSTER;
const HEADER_BYTES: u32 = 104;
/// The header extension that names the format of what the file stands on.
const BACKING_FORMAT: u32 = 0xe279_2aca;
/// Refcounts have 16 bits.
const REFCOUNT_ORDER: u32 = 4;

/// The beginning of an empty file of `size` bytes, and how long the file is. `base` names what it stands on, and its format.
pub(super) fn head(size: u64, base: Option<(&str, &str)>) -> (Vec<u8>, u64) {
    let entries = size.div_ceil(L1_ENTRY_BYTES).max(1);
    let l1_clusters = (entries * 8).div_ceil(CLUSTER);
    // Header, refcount table, refcount block, first table.
    let clusters = 3 + l1_clusters;
    let mut bytes = vec![0; usize::try_from(3 * CLUSTER).unwrap_or_default()];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, MAGIC);
    put(4, &3_u32.to_be_bytes());
    put(20, &CLUSTER_BITS.to_be_bytes());
    put(24, &size.to_be_bytes());
    put(36, &u32::try_from(entries).unwrap_or(u32::MAX).to_be_bytes());
    put(40, &(3 * CLUSTER).to_be_bytes());
    put(48, &CLUSTER.to_be_bytes());
    put(56, &1_u32.to_be_bytes());
    put(96, &REFCOUNT_ORDER.to_be_bytes());
    put(100, &HEADER_BYTES.to_be_bytes());
    if let Some((name, format)) = base {
        let mut at = HEADER_BYTES as usize;
        put(at, &BACKING_FORMAT.to_be_bytes());
        put(at + 4, &(format.len() as u32).to_be_bytes());
        put(at + 8, format.as_bytes());
        at += 8 + format.len().next_multiple_of(8);
        at += 8; // the extension that ends them is zeros
        put(8, &(at as u64).to_be_bytes());
        put(16, &(name.len() as u32).to_be_bytes());
        put(at, name.as_bytes());
    }
    put(CLUSTER as usize, &(2 * CLUSTER).to_be_bytes());
    for cluster in 0..clusters as usize {
        put(2 * CLUSTER as usize + cluster * 2, &1_u16.to_be_bytes());
    }
    (bytes, clusters * CLUSTER)
}

/// Whether a file begins as one.
pub(super) fn is_one(path: &Path) -> Result<bool, BackEndError> {
    let mut magic = [0; MAGIC.len()];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut magic));
    match read {
        Ok(()) => Ok(magic == *MAGIC),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(BackEndError::io(format!("read {}", path.display()))(error)),
    }
}

fn read_header(path: &Path) -> Result<[u8; HEADER_BYTES as usize], BackEndError> {
    let mut header = [0; HEADER_BYTES as usize];
    let mut file = File::open(path).map_err(BackEndError::io(format!("open {}", path.display())))?;
    let broken = || BackEndError::Broken(format!("{} is not a qcow2 file", path.display()));
    // The shortest header is 72 bytes.
    let mut read = 0;
    while read < header.len() {
        match file
            .read(&mut header[read..])
            .map_err(BackEndError::io(format!("read {}", path.display())))?
        {
            0 => break,
            count => read += count,
        }
    }
    if read < 72 || header[..4] != *MAGIC {
        Err(broken())
    } else {
        Ok(header)
    }
}

fn number(header: &[u8], at: usize) -> u64 {
    header[at..at + 8]
        .iter()
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The size of the disk that a file holds, in bytes.
pub(super) fn size(path: &Path) -> Result<u64, BackEndError> {
    Ok(number(&read_header(path)?, 24))
}

/// Refuses an image that leads to other files of the host.
pub(super) fn check_alone(path: &Path) -> Result<(), BackEndError> {
    let header = read_header(path)?;
    let has_external_data = header[7] >= 3 && number(&header, 72) & 4 != 0;
    if number(&header, 8) != 0 || has_external_data {
        return Err(BackEndError::Broken("the image leads to other files".to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs, process::Command};

    use super::*;

    fn write(path: &Path, size: u64, base: Option<(&str, &str)>) {
        let (head, length) = head(size, base);
        fs::write(path, head).unwrap();
        File::options().write(true).open(path).unwrap().set_len(length).unwrap();
    }

    fn qemu(program: &str, args: &[&str]) -> String {
        let output = Command::new(program).args(args).output();
        let output = output.unwrap_or_else(|error| panic!("{program} ({error}): apt-get install qemu-utils"));
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {args:?}: {said}");
        said
    }

    /// What QEMU's own tools say of our files.
    #[test]
    fn qemu_takes_what_is_written_here() {
        let dir = tempfile::tempdir().unwrap();
        for (number, gib) in [1_u64, 3, 4096, 16384].into_iter().enumerate() {
            let (base, top) = (
                dir.path().join(format!("{number}.qcow2")),
                dir.path().join(format!("{number}t.qcow2")),
            );
            write(&base, gib << 30, None);
            let name = format!("{number}.qcow2");
            write(&top, (gib << 30) + (1 << 29), Some((&name, "qcow2")));
            let (base, top) = (base.to_str().unwrap(), top.to_str().unwrap());
            assert!(qemu("qemu-img", &["check", base]).contains("No errors"));
            assert!(qemu("qemu-img", &["check", top]).contains("No errors"));
            let end = (gib << 30) - 4096;
            qemu("qemu-io", &["-f", "qcow2", "-c", &format!("write -P 7 {end} 4k"), base]);
            qemu(
                "qemu-io",
                &[
                    "-f",
                    "qcow2",
                    "-c",
                    &format!("read -P 7 {end} 4k"),
                    "-c",
                    "read -P 0 0 4k",
                    top,
                ],
            );
            qemu(
                "qemu-io",
                &["-f", "qcow2", "-c", &format!("write -P 9 {} 4k", gib << 30), top],
            );
            assert!(qemu("qemu-img", &["check", top]).contains("No errors"));
            let info = qemu("qemu-img", &["info", "--output=json", top]);
            assert!(info.contains("\"backing-filename-format\": \"qcow2\""), "{info}");
            assert_eq!(size(Path::new(top)).unwrap(), (gib << 30) + (1 << 29));
            check_alone(Path::new(base)).unwrap();
            assert!(check_alone(Path::new(top)).is_err());
        }
    }

    #[test]
    fn what_is_no_qcow2_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        for bytes in [&b""[..], b"QFI\xfb", b"#!/bin/sh\n"] {
            fs::write(&path, bytes).unwrap();
            assert!(matches!(size(&path), Err(BackEndError::Broken(_))));
        }
    }
}
