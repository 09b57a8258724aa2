//! A machine's disk: its own copy-on-write layer over an image that many share.

use std::{
    fs,
    io::{ErrorKind, Read},
    path::Path,
    time::Duration,
};

use madang_host::{
    process::Command,
    workload::{Disk, DiskFormat, DiskSource, DriverError},
};

use nix::libc;
use serde_json::json;

use super::record::partial;
use crate::driver::blank;

/// Making a layer writes 200 KiB; only a dead disk takes longer.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Copying a whole disk; a terabyte at 100 MB/s takes three hours.
const CONVERT_TIMEOUT: Duration = Duration::from_secs(4 * 3600);

/// Address space of a child that reads what a guest wrote: a crafted image must not take the host's memory.
const CHILD_BYTES: u64 = 1 << 30;

/// What to do without `qemu-img`.
const REMEDY: &str = "install it with `apt-get install qemu-utils`";

/// Makes the layer `name` in `dir` unless it is there, and makes one that is there as big as wanted. The image is
/// checked, not trusted: one that refers to other files of the host, or is not what it claims to be, is refused.
pub(super) async fn ensure(
    dir: &Path,
    name: &str,
    base: &Path,
    format: DiskFormat,
    size_bytes: u64,
) -> Result<(), DriverError> {
    let base_size = check(base, format)?;
    if base_size > size_bytes {
        return Err(DriverError::Broken(format!(
            "the disk of {size_bytes} bytes is smaller than its image, which needs {base_size}"
        )));
    }
    let disk = dir.join(name);
    if disk.exists() {
        return grow(&disk, Some((base, format)), size_bytes).await;
    }
    let partial = partial(dir, name);
    let made = Command::new("qemu-img")
        // `-u`: the image was checked above, and qemu-img shall not follow what it says.
        .args(["create", "-q", "-u", "-f", "qcow2", "-F", format.as_str(), "-b"])
        .arg(base)
        .arg(&partial)
        .arg(size_bytes.to_string())
        .if_missing(REMEDY)
        .run(TIMEOUT)
        .await;
    match made {
        Ok(_) => {}
        Err(madang_host::Error::Command { message, .. }) if message.contains("No space left") => {
            let _ = fs::remove_file(&partial);
            return Err(DriverError::Host(
                "could not make the disk: the disk of this host is full".into(),
            ));
        }
        Err(error) => return Err(error.into()),
    }
    fs::rename(&partial, &disk).map_err(DriverError::io(format!("rename {}", partial.display())))
}

/// Makes an empty disk in `dir` unless it is there.
pub(super) async fn ensure_empty(dir: &Path, name: &str, size_bytes: u64) -> Result<(), DriverError> {
    let disk = dir.join(name);
    if disk.exists() {
        return grow(&disk, None, size_bytes).await;
    }
    let partial = partial(dir, name);
    fs::write(&partial, blank::qcow2(size_bytes))
        .and_then(|()| fs::rename(&partial, &disk))
        .map_err(DriverError::io(format!("write {}", disk.display())))
}

/// How `qemu-img` is told of a layer and what it stands on: its own header was in the hands of its machine.
fn described(layer: &Path, base: Option<(&Path, DiskFormat)>, is_read_only: bool) -> String {
    let file =
        |path: &Path, is_read_only: bool| json!({ "driver": "file", "filename": path, "read-only": is_read_only });
    let below =
        base.map(|(base, format)| json!({ "driver": format.as_str(), "read-only": true, "file": file(base, true) }));
    let options = json!({
        "driver": "qcow2", "read-only": is_read_only, "file": file(layer, is_read_only), "backing": below,
    });
    format!("json:{options}")
}

/// Makes a layer as big as wanted; one that is bigger stays so.
async fn grow(disk: &Path, base: Option<(&Path, DiskFormat)>, size_bytes: u64) -> Result<(), DriverError> {
    if size(disk)? >= size_bytes {
        return Ok(());
    }
    let resized = Command::new("qemu-img")
        .args(["resize", "-q"])
        .arg(described(disk, base, false))
        .arg(size_bytes.to_string())
        .limit(libc::RLIMIT_AS, CHILD_BYTES)
        .if_missing(REMEDY)
        .run(TIMEOUT)
        .await;
    Ok(resized.map(drop)?)
}

/// Makes a disk that no machine has open bigger. What it stands on is not looked at: a layer is at least as big as that.
pub(super) async fn grow_closed(disk: &Disk, size_bytes: u64) -> Result<(), DriverError> {
    let DiskSource::File { path, format } = &disk.source else {
        // Whoever serves it has made it so.
        return Ok(());
    };
    if *format == DiskFormat::Qcow2 {
        return grow(path, None, size_bytes).await;
    }
    let io = || DriverError::io(format!("make {} bigger", path.display()));
    let file = fs::OpenOptions::new().write(true).open(path).map_err(io())?;
    let kind = file.metadata().map_err(io())?;
    if kind.is_file() && kind.len() < size_bytes {
        file.set_len(size_bytes).map_err(io())?;
    }
    Ok(())
}

/// Copies a stopped machine's disk into a new image that stands alone.
pub(super) async fn convert(layer: &Path, base: Option<(&Path, DiskFormat)>, into: &Path) -> Result<(), DriverError> {
    size(layer)?;
    let converted = Command::new("qemu-img")
        .args(["convert", "-q", "-O", "qcow2"])
        .arg(described(layer, base, true))
        .arg(into)
        .limit(libc::RLIMIT_AS, CHILD_BYTES)
        .if_missing(REMEDY)
        .run(CONVERT_TIMEOUT)
        .await;
    match converted {
        Err(madang_host::Error::Command { message, .. }) if message.contains("No space left") => Err(
            DriverError::Host("could not copy the disk: the disk of this host is full".into()),
        ),
        other => Ok(other.map(drop)?),
    }
}

/// The virtual size of a layer in bytes.
pub(super) fn size(layer: &Path) -> Result<u64, DriverError> {
    layer_size(&header(layer)?)
}

/// The virtual size of a layer that a machine had in its hands: where its data is, is not for it to say.
fn layer_size(header: &[u8]) -> Result<u64, DriverError> {
    let mut standing_alone = header.to_vec();
    if let Some(backing) = standing_alone.get_mut(8..16) {
        backing.fill(0);
    }
    qcow2_size(&standing_alone)
}

/// The virtual size of an image in bytes.
fn check(base: &Path, format: DiskFormat) -> Result<u64, DriverError> {
    let file = fs::File::open(base).map_err(|error| match error.kind() {
        ErrorKind::NotFound => DriverError::Host(format!("the image {} is gone from this host", base.display())),
        _ => DriverError::io(format!("open {}", base.display()))(error),
    })?;
    let length = file
        .metadata()
        .map_err(DriverError::io(format!("read {}", base.display())))?
        .len();
    if format == DiskFormat::Raw {
        if length == 0 {
            return Err(DriverError::Broken("the image is empty".into()));
        }
        return Ok(length);
    }
    qcow2_size(&header(base)?)
}

/// The first bytes of an image; fewer when it is shorter.
fn header(path: &Path) -> Result<Vec<u8>, DriverError> {
    let mut header = Vec::new();
    let file = fs::File::open(path).map_err(DriverError::io(format!("open {}", path.display())))?;
    file.take(80)
        .read_to_end(&mut header)
        .map_err(DriverError::io(format!("read {}", path.display())))?;
    Ok(header)
}

/// Reads the header of a qcow2 image. Source: docs/interop/qcow2.txt of QEMU.
fn qcow2_size(header: &[u8]) -> Result<u64, DriverError> {
    let broken = |why: &str| DriverError::Broken(format!("the image is not a usable qcow2 image: {why}"));
    let number = |at: usize, length: usize| {
        let bytes = header.get(at..at + length)?;
        Some(bytes.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte)))
    };
    if header.get(..4) != Some(b"QFI\xfb") {
        return Err(broken("it does not begin like one"));
    }
    let cut = || broken("it is cut off");
    let version = number(4, 4).ok_or_else(cut)?;
    if !matches!(version, 2 | 3) {
        return Err(broken(&format!("its version {version} is not known")));
    }
    if number(8, 8).ok_or_else(cut)? != 0 {
        return Err(broken("it is a layer over another file"));
    }
    let size = number(24, 8).ok_or_else(cut)?;
    if version == 3 {
        // Bit 2 of the incompatible features.
        if number(72, 8).ok_or_else(cut)? & 4 != 0 {
            return Err(broken("its data is in another file"));
        }
    }
    if size == 0 {
        return Err(broken("its size is zero"));
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::qemu::record::DISK;

    fn header(version: u32, backing: u64, size: u64, features: u64) -> Vec<u8> {
        let mut header = vec![0; 80];
        header[..4].copy_from_slice(b"QFI\xfb");
        header[4..8].copy_from_slice(&version.to_be_bytes());
        header[8..16].copy_from_slice(&backing.to_be_bytes());
        header[24..32].copy_from_slice(&size.to_be_bytes());
        header[72..80].copy_from_slice(&features.to_be_bytes());
        header
    }

    #[test]
    fn sizes_are_read_from_the_header() {
        assert_eq!(qcow2_size(&header(3, 0, 1 << 30, 0)).unwrap(), 1 << 30);
        assert_eq!(
            qcow2_size(&header(2, 0, 512, 4)).unwrap(),
            512,
            "version 2 has no feature bits there"
        );
    }

    #[test]
    fn images_that_lead_to_other_files_are_refused() {
        for (bytes, word) in [
            (header(3, 0x68, 1, 0), "layer over another file"),
            (header(3, 0, 1, 4), "another file"),
            (header(9, 0, 1, 0), "version 9"),
            (header(3, 0, 0, 0), "zero"),
            (header(3, 0, 1, 0)[..20].to_vec(), "cut off"),
            (b"#!/bin/sh".to_vec(), "does not begin"),
            (Vec::new(), "does not begin"),
        ] {
            let error = qcow2_size(&bytes).unwrap_err();
            assert!(
                matches!(error, DriverError::Broken(_)) && error.to_string().contains(word),
                "{error}"
            );
        }
    }

    #[tokio::test]
    async fn a_disk_smaller_than_its_image_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("base.img");
        fs::write(&base, vec![0; 4096]).unwrap();
        let error = ensure(dir.path(), DISK, &base, DiskFormat::Raw, 512).await.unwrap_err();
        assert!(error.to_string().contains("smaller than its image"), "{error}");
        fs::write(&base, "").unwrap();
        assert!(matches!(
            ensure(dir.path(), DISK, &base, DiskFormat::Raw, 512).await,
            Err(DriverError::Broken(_))
        ));
        let error = ensure(dir.path(), DISK, &dir.path().join("absent"), DiskFormat::Raw, 512)
            .await
            .unwrap_err();
        assert!(error.to_string().contains("is gone"), "{error}");
    }
}
