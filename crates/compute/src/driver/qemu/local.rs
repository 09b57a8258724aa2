//! Disks that are made with a machine: sparse files of its directory, made ready once on this host's side, and gone with
//! the machine.
//!
//! What is in them is the guest's from its first start on: the host makes them bigger, and never reads them again.

use std::{
    fs,
    io::{ErrorKind, Write as _},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use madang_host::{
    process::Command,
    workload::{DriverError, FileSystem, LocalContent, LocalDisk},
};
use uuid::Uuid;

use super::record::PARTIAL;

/// What all files of such disks, and their devices, begin with.
const PREFIX: &str = "local-";

/// What the files end with: they hold plain bytes.
const SUFFIX: &str = ".raw";

/// Making a file system writes some MiB for each TiB.
const TIMEOUT: Duration = Duration::from_secs(300);

/// Bytes of a page of memory, which swap space is counted in.
const PAGE: u64 = 4096;

/// The device of a disk.
pub(super) fn device(name: &str) -> String {
    format!("{PREFIX}{name}")
}

/// The name of the disk that a device is, if it is one of these.
pub(super) fn name_of(device: &str) -> Option<&str> {
    device.strip_prefix(PREFIX)
}

/// The file that a disk lies in.
pub(super) fn path(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{PREFIX}{name}{SUFFIX}"))
}

/// Makes the disks of a machine, unless they are there; what is there and not wanted any more goes.
///
/// # Errors
/// `Host` where this host has no tool for a file system; `Io`.
pub(super) async fn ensure(dir: &Path, disks: &[LocalDisk]) -> Result<(), DriverError> {
    for file in files(dir)? {
        if !disks.iter().any(|disk| path(dir, &disk.name) == file) {
            remove(&file)?;
        }
    }
    for disk in disks {
        ensure_one(dir, disk).await?;
    }
    Ok(())
}

/// Removes all of them.
///
/// # Errors
/// `Io`.
pub(super) fn remove_all(dir: &Path) -> Result<(), DriverError> {
    files(dir)?.iter().try_for_each(|file| remove(file))
}

/// The files of such disks, those that were never made ready included.
fn files(dir: &Path) -> Result<Vec<PathBuf>, DriverError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(DriverError::io(format!("list {}", dir.display()))(error)),
    };
    let names = entries.flatten().map(|entry| entry.path());
    let is_one = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with(PREFIX)
    };
    Ok(names.filter(is_one).collect())
}

fn remove(file: &Path) -> Result<(), DriverError> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(DriverError::io(format!("remove {}", file.display()))(error))
        }
        _ => Ok(()),
    }
}

async fn ensure_one(dir: &Path, disk: &LocalDisk) -> Result<(), DriverError> {
    let path = path(dir, &disk.name);
    let is_there = match fs::metadata(&path) {
        Ok(found) if found.len() >= disk.size_bytes && disk.content != LocalContent::Swap => true,
        Ok(found) if found.len() == disk.size_bytes => true,
        Ok(_) if disk.content != LocalContent::Swap => {
            let file = fs::OpenOptions::new().write(true).open(&path);
            file.and_then(|file| file.set_len(disk.size_bytes))
                .map_err(DriverError::io(format!("make {} bigger", path.display())))?;
            true
        }
        // Swap space of another size is made anew.
        _ => false,
    };
    if is_there {
        return Ok(());
    }
    let partial = dir.join(format!("{PREFIX}{}{SUFFIX}{PARTIAL}", disk.name));
    let io = || DriverError::io(format!("write {}", partial.display()));
    let file = fs::OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(&partial)
        .map_err(io())?;
    file.set_len(disk.size_bytes).map_err(io())?;
    match disk.content {
        LocalContent::Swap => {
            let pages = u32::try_from(disk.size_bytes / PAGE).unwrap_or(u32::MAX);
            file.write_all_at(&swap_header(pages, Uuid::new_v4()), 0)
                .map_err(io())?;
        }
        LocalContent::FileSystem(kind) => make_file_system(&partial, kind, &disk.name).await?,
    }
    (&file).flush().map_err(io())?;
    fs::rename(&partial, &path).map_err(DriverError::io(format!("rename {}", partial.display())))
}

/// Makes an empty file system over a whole file, which holds nothing but zeros.
async fn make_file_system(file: &Path, kind: FileSystem, label: &str) -> Result<(), DriverError> {
    let (program, remedy) = match kind {
        FileSystem::Ext2 | FileSystem::Ext3 | FileSystem::Ext4 => {
            ("mkfs.ext4", "install it with `apt-get install e2fsprogs`")
        }
        FileSystem::Xfs => ("mkfs.xfs", "install it with `apt-get install xfsprogs`"),
        FileSystem::Ntfs => ("mkfs.ntfs", "install it with `apt-get install ntfs-3g`"),
    };
    let command = Command::new(program);
    let command = match kind {
        FileSystem::Ext2 | FileSystem::Ext3 | FileSystem::Ext4 => command
            .args(["-q", "-F", "-t", kind.as_str()])
            // Neither this host nor the guest has to write zeros over zeros.
            .args(["-E", "assume_storage_prezeroed=1,nodiscard"]),
        FileSystem::Xfs => command.args(["-q", "-f", "-K"]),
        FileSystem::Ntfs => command.args(["-q", "-Q", "-F"]),
    };
    let made = command
        .args(["-L", label])
        .arg(file)
        .if_missing(remedy)
        .run(TIMEOUT)
        .await;
    match made {
        Err(madang_host::Error::Command { message, .. }) if message.contains("No space left") => {
            let _ = fs::remove_file(file);
            let why = format!("could not make the disk {label}: the disk of this host is full");
            Err(DriverError::Host(why))
        }
        other => Ok(other.map(drop)?),
    }
}

/// The first page of swap space, as `mkswap` writes it. Source: `union swap_header` of Linux.
fn swap_header(pages: u32, id: Uuid) -> Vec<u8> {
    let mut page = vec![0; PAGE as usize];
    page[1024..1028].copy_from_slice(&1_u32.to_le_bytes());
    page[1028..1032].copy_from_slice(&pages.saturating_sub(1).to_le_bytes());
    page[1036..1052].copy_from_slice(id.as_bytes());
    let end = page.len();
    page[end - 10..].copy_from_slice(b"SWAPSPACE2");
    page
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use madang_host::workload::DiskBus;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn disk(name: &str, mib: u64, content: LocalContent) -> LocalDisk {
        LocalDisk {
            name: name.to_owned(),
            size_bytes: mib * MIB,
            content,
            bus: DiskBus::Virtio,
        }
    }

    fn ext4(mib: u64) -> LocalDisk {
        disk("ephemeral0", mib, LocalContent::FileSystem(FileSystem::Ext4))
    }

    #[tokio::test]
    async fn they_are_made_once_and_grow() {
        let dir = tempfile::tempdir().unwrap();
        ensure(dir.path(), &[ext4(64)]).await.unwrap();
        let file = path(dir.path(), "ephemeral0");
        let bytes = fs::read(&file).unwrap();
        assert_eq!(
            (bytes.len() as u64, &bytes[0x438..0x43a]),
            (64 * MIB, &[0x53, 0xef][..])
        );
        assert_eq!(&bytes[0x478..0x482], b"ephemeral0", "its label");
        assert!(fs::metadata(&file).unwrap().blocks() * 512 < 16 * MIB, "it is sparse");

        // What the guest wrote stays.
        let opened = fs::OpenOptions::new().write(true).open(&file).unwrap();
        opened.write_all_at(b"guest", 32 * MIB).unwrap();
        ensure(dir.path(), &[ext4(96)]).await.unwrap();
        ensure(dir.path(), &[ext4(64)]).await.unwrap();
        let bytes = fs::read(&file).unwrap();
        assert_eq!(bytes.len() as u64, 96 * MIB, "it never becomes smaller");
        assert_eq!(&bytes[32 * MIB as usize..][..5], b"guest");
    }

    #[tokio::test]
    async fn swap_of_another_size_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let swap = |mib| disk("swap", mib, LocalContent::Swap);
        ensure(dir.path(), &[swap(2)]).await.unwrap();
        let first = fs::read(path(dir.path(), "swap")).unwrap();
        assert_eq!((first.len() as u64, &first[4086..4096]), (2 * MIB, &b"SWAPSPACE2"[..]));
        assert_eq!(first[1028..1032], 511_u32.to_le_bytes(), "its last page");
        ensure(dir.path(), &[swap(2)]).await.unwrap();
        assert!(
            fs::read(path(dir.path(), "swap")).unwrap() == first,
            "it is there already"
        );
        ensure(dir.path(), &[swap(1)]).await.unwrap();
        let second = fs::read(path(dir.path(), "swap")).unwrap();
        assert_eq!(
            (second.len() as u64, &second[1028..1032]),
            (MIB, &255_u32.to_le_bytes()[..])
        );
        assert_ne!(second[1036..1052], first[1036..1052], "its id");
    }

    #[tokio::test]
    async fn what_is_not_wanted_any_more_goes() {
        let dir = tempfile::tempdir().unwrap();
        ensure(dir.path(), &[ext4(8), disk("swap", 1, LocalContent::Swap)])
            .await
            .unwrap();
        fs::write(dir.path().join("local-ephemeral1.raw.partial"), "cut off").unwrap();
        fs::write(dir.path().join("disk.qcow2"), "").unwrap();
        ensure(dir.path(), &[ext4(8)]).await.unwrap();
        assert_eq!(files(dir.path()).unwrap(), [path(dir.path(), "ephemeral0")]);
        remove_all(dir.path()).unwrap();
        remove_all(&dir.path().join("absent")).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "only the root is left");
    }

    #[tokio::test]
    async fn a_tool_that_is_not_there_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let ntfs = disk("ephemeral0", 8, LocalContent::FileSystem(FileSystem::Ntfs));
        let made = ensure(dir.path(), &[ntfs]).await;
        match madang_host::process::find_program("mkfs.ntfs") {
            Some(_) => made.unwrap(),
            None => assert!(made.unwrap_err().to_string().contains("apt-get install ntfs-3g")),
        }
    }

    #[test]
    fn devices_tell_their_disks() {
        assert_eq!(name_of(&device("swap")), Some("swap"));
        assert_eq!(name_of("vda"), None);
    }
}
