//! The config drive: what the metadata service says, as files on a small disk labelled `config-2`.

mod iso;

use std::{
    io::{Cursor, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use fatfs::{FileSystem, FormatVolumeOptions, FsOptions};
use madang_host::workload::DriverError;
use madang_store::{Resource, Store};

use crate::{guest_data::GuestData, server::Server};

/// What a config drive is. Source: Nova's `config_drive_format`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConfigDriveFormat {
    /// A compact disc's file system, with Joliet.
    #[default]
    Iso9660,
    /// FAT, for guests that read no other.
    Vfat,
}

/// Its label, by which guests find it.
const LABEL: &str = "config-2";

/// Bytes of the disk beyond its files: FAT's own tables and directories need far less.
const OVERHEAD: usize = 512 << 10;

/// Writes a server's drive into its directory, anew at each start, and says where.
///
/// # Errors
/// `Io` when the disk cannot be written.
pub(super) async fn write(
    store: &Store,
    server: &Resource<Server>,
    format: ConfigDriveFormat,
    dir: &Path,
) -> Result<PathBuf, DriverError> {
    let files = GuestData::read(store, Arc::new(server.clone())).config_drive();
    let path = dir.join("config-drive.img");
    let failed = |source| DriverError::Io {
        action: format!("write the config drive {}", path.display()),
        source,
    };
    let disk = match format {
        ConfigDriveFormat::Iso9660 => iso::image(LABEL, &files),
        ConfigDriveFormat::Vfat => fat(&files).map_err(failed)?,
    };
    tokio::fs::write(&path, disk).await.map_err(failed)?;
    Ok(path)
}

fn fat(files: &std::collections::BTreeMap<String, Vec<u8>>) -> std::io::Result<Vec<u8>> {
    let content: usize = files.values().map(|body| body.len().next_multiple_of(4096)).sum();
    let mut disk = Cursor::new(vec![0u8; (content + OVERHEAD).next_multiple_of(4096)]);
    fatfs::format_volume(&mut disk, FormatVolumeOptions::new().volume_label(*b"config-2   "))?;
    let volume = FileSystem::new(&mut disk, FsOptions::new())?;
    let root = volume.root_dir();
    for (path, body) in files {
        let mut directory = root.clone();
        let mut parts = path.split('/').peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_some() {
                directory = directory.create_dir(part)?;
            } else {
                directory.create_file(part)?.write_all(body)?;
            }
        }
    }
    drop(root);
    volume.unmount()?;
    Ok(disk.into_inner())
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn the_drive_holds_its_files_under_its_label() {
        let files = [
            ("openstack/latest/meta_data.json".to_owned(), b"{}".to_vec()),
            ("openstack/latest/user_data".to_owned(), vec![b'x'; 100_000]),
        ];
        let disk = fat(&files.into()).unwrap();
        let volume = FileSystem::new(Cursor::new(disk), FsOptions::new()).unwrap();
        assert_eq!(volume.volume_label(), "config-2");
        let mut body = Vec::new();
        volume
            .root_dir()
            .open_file("openstack/latest/user_data")
            .unwrap()
            .read_to_end(&mut body)
            .unwrap();
        assert_eq!(body.len(), 100_000);
    }
}
