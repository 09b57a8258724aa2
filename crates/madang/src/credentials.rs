//! The two accounts that `up` makes, and the files through which clients find them.
//!
//! There is no default password: they are generated once and kept in `credentials.toml`. `openrc`, `admin-openrc` and
//! `clouds.yaml` are written anew at every start, as the address may have changed.

mod files;

use std::{fs, path::Path};

use anyhow::Context;
use rand::distr::{Alphanumeric, SampleString};
use serde::{Deserialize, Serialize};

pub use files::{Endpoint, link_clouds, unlink_clouds, write_all};

use crate::data_dir::write_secret;

/// Letters and digits: 190 bits, and nothing that a shell or YAML would read otherwise.
const PASSWORD_LETTERS: usize = 32;

/// The passwords of the accounts `admin` and `demo`.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credentials {
    /// Of `admin`, who may do everything.
    pub admin_password: String,
    /// Of `demo`, a member of the project `demo`.
    pub demo_password: String,
}

impl Credentials {
    /// Those kept in the file, or new ones that are kept there from now on.
    ///
    /// # Errors
    /// When the file is there but not readable or not ours, or cannot be written.
    pub fn load_or_make(path: &Path) -> anyhow::Result<Self> {
        if let Some(kept) = Self::load(path)? {
            return Ok(kept);
        }
        let made = Self::replacing_admin(None);
        made.keep(path)?;
        Ok(made)
    }

    /// A new password for `admin`, and for `demo` where there is none to keep.
    pub fn replacing_admin(kept: Option<Self>) -> Self {
        Self {
            admin_password: password(),
            demo_password: kept.map_or_else(password, |kept| kept.demo_password),
        }
    }

    /// Writes them into the file.
    ///
    /// # Errors
    /// What the file system says.
    pub fn keep(&self, path: &Path) -> anyhow::Result<()> {
        let text = toml::to_string(self).context("could not write credentials as TOML")?;
        write_secret(
            path,
            &format!("# Made by `madang up`. Whoever reads this is admin.\n{text}"),
        )
    }

    /// Those kept in the file; none where there is no file.
    ///
    /// # Errors
    /// As [`Credentials::load_or_make`].
    pub fn load(path: &Path) -> anyhow::Result<Option<Self>> {
        match fs::read_to_string(path) {
            // The parser's message would show the line, and with it a password.
            Ok(text) => match toml::from_str(&text) {
                Ok(credentials) => Ok(Some(credentials)),
                Err(_) => anyhow::bail!(
                    "{} does not hold credentials: remove it to get new ones",
                    path.display()
                ),
            },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("could not read {}", path.display())),
        }
    }
}

/// A new password, hard to guess.
pub fn password() -> String {
    Alphanumeric.sample_string(&mut rand::rng(), PASSWORD_LETTERS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_made_once() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("credentials.toml");
        assert!(Credentials::load(&path).unwrap().is_none());
        let first = Credentials::load_or_make(&path).unwrap();
        assert!(first == Credentials::load_or_make(&path).unwrap());
        assert_ne!(first.admin_password, first.demo_password);
        assert_eq!(first.admin_password.len(), PASSWORD_LETTERS);
    }

    #[test]
    fn a_broken_file_is_named_without_its_secrets() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("credentials.toml");
        fs::write(&path, "admin_password = 'hush").unwrap();
        let error = format!("{:#}", Credentials::load(&path).err().unwrap());
        assert!(error.contains("credentials.toml") && !error.contains("hush"), "{error}");
    }
}
