//! A machine's disk: its own copy-on-write layer over an image that many share.

use std::{
    fs,
    io::{ErrorKind, Read},
    path::Path,
    time::Duration,
};

use madang_host::{
    process::Command,
    workload::{DiskFormat, DriverError},
};

use super::record::{DISK, partial};

/// Making a layer writes 200 KiB; only a dead disk takes longer.
const TIMEOUT: Duration = Duration::from_secs(60);

/// What to do without `qemu-img`.
const REMEDY: &str = "install it with `apt-get install qemu-utils`";

/// Makes the layer in `dir` unless it is there. The image is checked, not trusted: one that refers to other files of the
/// host, or is not what it claims to be, is refused.
pub(super) async fn ensure(dir: &Path, base: &Path, format: DiskFormat, size_bytes: u64) -> Result<(), DriverError> {
    let base_size = check(base, format)?;
    if base_size > size_bytes {
        return Err(DriverError::Broken(format!(
            "the disk of {size_bytes} bytes is smaller than its image, which needs {base_size}"
        )));
    }
    let disk = dir.join(DISK);
    if disk.exists() {
        return Ok(());
    }
    let partial = partial(dir, DISK);
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

/// The virtual size of an image in bytes.
fn check(base: &Path, format: DiskFormat) -> Result<u64, DriverError> {
    let mut file = fs::File::open(base).map_err(|error| match error.kind() {
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
    let mut header = [0; 80];
    let mut read = 0;
    while read < header.len() {
        match file
            .read(&mut header[read..])
            .map_err(DriverError::io(format!("read {}", base.display())))?
        {
            0 => break,
            count => read += count,
        }
    }
    qcow2_size(&header[..read])
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
        let error = ensure(dir.path(), &base, DiskFormat::Raw, 512).await.unwrap_err();
        assert!(error.to_string().contains("smaller than its image"), "{error}");
        fs::write(&base, "").unwrap();
        assert!(matches!(
            ensure(dir.path(), &base, DiskFormat::Raw, 512).await,
            Err(DriverError::Broken(_))
        ));
        let error = ensure(dir.path(), &dir.path().join("absent"), DiskFormat::Raw, 512)
            .await
            .unwrap_err();
        assert!(error.to_string().contains("is gone"), "{error}");
    }
}
