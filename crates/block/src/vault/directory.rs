//! The vault that is a directory of the host, which may be a mount of another machine's.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{ErrorKind, Write as _},
    os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use async_trait::async_trait;

use super::Vault;
use crate::driver::{BackEndError, blocking};

/// Objects as files below a directory.
pub struct DirectoryVault(PathBuf);

impl DirectoryVault {
    /// The vault over `directory`, made when it is not there.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(directory: &Path) -> Result<Self, BackEndError> {
        make(directory).map_err(BackEndError::io(format!("make {}", directory.display())))?;
        Ok(Self(directory.to_owned()))
    }

    fn path(&self, data: &str, object: &str) -> PathBuf {
        self.0.join(data).join(object)
    }
}

fn make(directory: &Path) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

/// Writes a file whose final name says that it is whole and durable.
fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let directory = path.parent().unwrap_or(path);
    make(directory)?;
    let partial = path.with_extension("part");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&partial)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&partial, path)?;
    File::open(directory)?.sync_all()
}

#[async_trait]
impl Vault for DirectoryVault {
    fn name(&self) -> &'static str {
        "directory"
    }

    async fn put(&self, data: &str, object: &str, bytes: Vec<u8>) -> Result<(), BackEndError> {
        let path = self.path(data, object);
        blocking(move || write(&path, &bytes).map_err(BackEndError::io(format!("write {}", path.display())))).await
    }

    async fn get(&self, data: &str, object: &str) -> Result<Vec<u8>, BackEndError> {
        let path = self.path(data, object);
        blocking(move || fs::read(&path).map_err(BackEndError::io(format!("read {}", path.display())))).await
    }

    async fn get_range(&self, data: &str, object: &str, offset: u64, length: usize) -> Result<Vec<u8>, BackEndError> {
        let path = self.path(data, object);
        blocking(move || {
            let read = || -> std::io::Result<Vec<u8>> {
                let mut bytes = vec![0; length];
                File::open(&path)?.read_exact_at(&mut bytes, offset)?;
                Ok(bytes)
            };
            read().map_err(BackEndError::io(format!("read {}", path.display())))
        })
        .await
    }

    async fn remove(&self, data: &str) -> Result<(), BackEndError> {
        let path = self.0.join(data);
        blocking(move || match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(BackEndError::io(format!("remove {}", path.display()))(error))
            }
            _ => Ok(()),
        })
        .await
    }
}
