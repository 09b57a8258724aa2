//! The data directory: what lies where, and who may use it.
//!
//! One process at a time holds the lock. It is the kernel's, so that it ends with the process however that ends.

use std::{
    fmt,
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

/// Where everything of one madang lies.
#[derive(Clone, Debug)]
pub struct DataDir {
    path: PathBuf,
    is_default: bool,
}

/// Held as long as this process uses the data directory.
pub struct Lock {
    _file: Flock<File>,
}

/// Somebody else holds the lock.
#[derive(Debug)]
pub struct InUse {
    path: PathBuf,
    /// Whose it is, if it said so.
    pub pid: Option<u32>,
}

impl fmt::Display for InUse {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "madang is up on {} already", self.path.display())?;
        if let Some(pid) = self.pid {
            write!(formatter, " (process {pid})")?;
        }
        write!(
            formatter,
            ": stop it first, or give this one its own --data-dir and --listen"
        )
    }
}

impl std::error::Error for InUse {}

impl DataDir {
    /// The one asked for, else `~/.madang`. Made absolute; nothing is made yet.
    ///
    /// # Errors
    /// When there is no home directory to put it in.
    pub fn new(asked: Option<&Path>) -> anyhow::Result<Self> {
        let default = home().map(|home| home.join(".madang"));
        let path = match asked {
            Some(path) => std::path::absolute(path).with_context(|| format!("could not find {}", path.display()))?,
            None => default
                .clone()
                .context("there is no home directory (HOME): say where with --data-dir")?,
        };
        let is_default = default.as_ref() == Some(&path);
        Ok(Self { path, is_default })
    }

    /// Is it `~/.madang`?
    pub fn is_default(&self) -> bool {
        self.is_default
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Something in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The store's database.
    pub fn database(&self) -> PathBuf {
        self.join("store.db")
    }

    /// Where the store is, when that is not the database.
    pub fn store_elsewhere(&self) -> PathBuf {
        self.join("store.toml")
    }

    /// The audit trail.
    pub fn audit(&self) -> PathBuf {
        self.join("audit.db")
    }

    /// Has a madang been up on it?
    pub fn is_used(&self) -> bool {
        self.database().exists() || self.store_elsewhere().exists()
    }

    /// How a user would write a path in it: below the home directory with `~`.
    pub fn shown(&self, name: &str) -> String {
        shown(&self.join(name))
    }

    /// Makes it, open to its owner only, and takes the lock.
    ///
    /// # Errors
    /// [`InUse`], or what the file system says.
    pub fn lock(&self) -> anyhow::Result<Lock> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.path)
            .with_context(|| format!("could not make {}", self.path.display()))?;
        // Workloads' processes run under users of their own and have to reach their directories in here, hence x.
        fs::set_permissions(&self.path, Permissions::from_mode(0o711))
            .with_context(|| format!("could not set the mode of {}", self.path.display()))?;
        let path = self.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("could not open {}", path.display()))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut held) => {
                held.set_len(0)?;
                held.rewind()?;
                writeln!(held, "{}", std::process::id())?;
                Ok(Lock { _file: held })
            }
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let mut text = String::new();
                file.read_to_string(&mut text)?;
                Err(InUse {
                    path: self.path.clone(),
                    pid: text.trim().parse().ok(),
                }
                .into())
            }
            Err((_, error)) => Err(error).with_context(|| format!("could not lock {}", path.display())),
        }
    }

    /// Who holds the lock, if anybody does.
    pub fn holder(&self) -> Option<InUse> {
        if !self.join("lock").exists() {
            return None;
        }
        self.lock().err()?.downcast().ok()
    }

    /// Refuses a directory that no madang has been up on.
    ///
    /// # Errors
    /// Always then, naming it.
    pub fn require_used(&self) -> anyhow::Result<()> {
        if !self.is_used() {
            bail!(
                "{} has no madang in it: name the right one with --data-dir",
                self.path.display()
            );
        }
        Ok(())
    }
}

/// The user's home directory.
pub fn home() -> Option<PathBuf> {
    std::env::home_dir().filter(|home| home.is_absolute())
}

/// A path as a user would write it.
pub fn shown(path: &Path) -> String {
    match home().and_then(|home| path.strip_prefix(home).ok().map(Path::to_owned)) {
        Some(below) => format!("~/{}", below.display()),
        None => path.display().to_string(),
    }
}

/// Replaces a file in one step with one that only its owner may read.
///
/// # Errors
/// What the file system says, naming the file.
pub fn write_secret(path: &Path, text: &str) -> anyhow::Result<()> {
    let beside = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&beside)?;
        // The mode above holds for new files only.
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    write().with_context(|| format!("could not write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_cannot_use_it_at_a_time() {
        let scratch = tempfile::tempdir().unwrap();
        let data = DataDir::new(Some(&scratch.path().join("data"))).unwrap();
        assert!(data.holder().is_none());
        let lock = data.lock().unwrap();
        let refused = data.lock().err().unwrap();
        assert!(refused.to_string().contains("is up on"), "{refused}");
        assert_eq!(data.holder().unwrap().pid, Some(std::process::id()));
        drop(lock);
        assert!(data.holder().is_none());
        data.lock().unwrap();
    }

    #[test]
    fn secrets_are_their_owners() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("openrc");
        fs::write(&path, "old").unwrap();
        write_secret(&path, "new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn an_unused_directory_is_refused_by_name() {
        let scratch = tempfile::tempdir().unwrap();
        let data = DataDir::new(Some(scratch.path())).unwrap();
        assert!(
            data.require_used()
                .unwrap_err()
                .to_string()
                .contains(&scratch.path().display().to_string())
        );
    }
}
