//! The verbs: what becomes of accounts, containers and objects, each in one transaction of the disk.
//!
//! Counts, quotas, conditions and versions are decided inside of the transaction, so that nothing is checked first and
//! written later. A list shows an object from the moment its writer is told that it is there.

mod account;
mod container;
mod end;
mod object;
mod versions;

use std::{collections::BTreeMap, ops::Bound};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

pub use container::Listed;
pub use object::{Bytes, Given, NewObject, Which};
pub use versions::{DELETED, Version};

use crate::{
    Stamp,
    disk::{Disk, DiskError, Entry, Look, Place, Tx},
    key, listing,
};

/// Headers that are kept with something, by their names in lower case.
pub type Headers = BTreeMap<String, String>;

/// An account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Since when it is there.
    #[serde(rename = "t")]
    pub created: Stamp,
    /// What was set on it.
    #[serde(default, rename = "h", skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: Headers,
}

/// How much there is in something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Use {
    /// Containers; of an account.
    #[serde(default, rename = "c", skip_serializing_if = "is_zero")]
    pub containers: u64,
    /// Objects.
    #[serde(default, rename = "o")]
    pub objects: u64,
    /// Bytes, also of older versions.
    #[serde(default, rename = "b")]
    pub bytes: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// What its objects are kept under.
    #[serde(rename = "i")]
    pub id: u64,
    /// Since when it is there.
    #[serde(rename = "t")]
    pub created: Stamp,
    /// When it was last put or posted to.
    #[serde(rename = "m")]
    pub changed: Stamp,
    /// What was set on it.
    #[serde(default, rename = "h", skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: Headers,
    /// Whether older versions of its objects are kept.
    #[serde(default, rename = "v", skip_serializing_if = "Option::is_none")]
    pub versions: Option<bool>,
}

impl Container {
    /// A header that says something.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .get(name)
            .map(String::as_str)
            .filter(|text| !text.is_empty())
    }
}

/// An object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// When it was last put or posted to.
    #[serde(rename = "t")]
    pub at: Stamp,
    /// How many bytes it has.
    #[serde(rename = "n")]
    pub bytes: u64,
    /// Their MD5.
    #[serde(rename = "e")]
    pub etag: String,
    /// What they are.
    #[serde(rename = "c")]
    pub content_type: String,
    /// What else was said of it.
    #[serde(default, rename = "h", skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: Headers,
    /// Where its bytes are a list of others: what these are together.
    #[serde(default, rename = "l", skip_serializing_if = "Option::is_none")]
    pub large: Option<Large>,
    /// Since when these bytes are there, where versions are kept.
    #[serde(default, rename = "v", skip_serializing_if = "Option::is_none")]
    pub version: Option<Stamp>,
    /// It is not an object, but the sign that one was deleted.
    #[serde(default, rename = "d", skip_serializing_if = "std::ops::Not::not")]
    pub deleted: bool,
}

/// What a list of segments is together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Large {
    /// The MD5 of the MD5s of the segments.
    #[serde(rename = "e")]
    pub etag: String,
    /// Their bytes.
    #[serde(rename = "n")]
    pub bytes: u64,
}

impl Object {
    /// When it ends, in seconds.
    pub fn ends(&self) -> Option<u64> {
        self.headers.get("x-delete-at")?.parse().ok()
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.ends().is_some_and(|ends| ends <= Stamp::now().seconds())
    }
}

/// Why something does not become of something.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// There is no such container.
    #[error("there is no such container")]
    NoContainer,
    /// There is no such object.
    #[error("there is no such object")]
    NoObject,
    /// There is something in it.
    #[error("there are objects in the container")]
    NotEmpty,
    /// It is there already, and should not be.
    #[error("the object is there already")]
    Exists,
    /// There would be too much.
    #[error("{0}")]
    OverQuota(&'static str),
    /// Where older versions go is not there.
    #[error("the container for older versions is not there")]
    NoArchive,
    /// What is copied was changed meanwhile.
    #[error("the object was changed meanwhile")]
    Changed,
    /// What was asked for cannot be.
    #[error("{0}")]
    Invalid(String),
    /// The disk.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// Accounts, containers and objects. Clones share them.
#[derive(Clone)]
pub struct Objects {
    disk: Disk,
}

impl Objects {
    /// What is on a disk.
    pub fn new(disk: Disk) -> Self {
        Self { disk }
    }

    /// The disk.
    pub fn disk(&self) -> &Disk {
        &self.disk
    }
}

/// A row as it is written.
fn write(row: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(row).unwrap_or_default()
}

/// A row as it was written; one that cannot be read is damage.
fn read<T: DeserializeOwned>(entry: &Entry) -> Result<T, DiskError> {
    serde_json::from_slice(&entry.value).map_err(|_| DiskError::Damaged {
        what: "a row of the index",
        path: std::path::PathBuf::new(),
    })
}

fn read_at<T: DeserializeOwned>(look: &Look<'_>, key: &[u8]) -> Result<Option<T>, DiskError> {
    look.get(key)?.map(|entry| read(&entry)).transpose()
}

fn container_of(look: &Look<'_>, account: &str, container: &str) -> Result<Container, ObjectError> {
    read_at(look, &key::container(account, container))?.ok_or(ObjectError::NoContainer)
}

fn use_of(look: &Look<'_>, key: &[u8]) -> Result<Use, DiskError> {
    Ok(read_at(look, key)?.unwrap_or_default())
}

/// What a change adds to what is used, or takes from it.
#[derive(Clone, Copy, Debug, Default)]
struct Difference {
    containers: i64,
    objects: i64,
    bytes: i64,
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn count(tx: &mut Tx<'_>, key: &[u8], by: Difference) -> Result<Use, DiskError> {
    let before = use_of(tx, key)?;
    let after = Use {
        containers: before.containers.saturating_add_signed(by.containers),
        objects: before.objects.saturating_add_signed(by.objects),
        bytes: before.bytes.saturating_add_signed(by.bytes),
    };
    tx.put(key, write(&after))?;
    Ok(after)
}

/// Counts in a container and its account.
fn count_in(tx: &mut Tx<'_>, account: &str, id: u64, by: Difference) -> Result<(), DiskError> {
    if by.objects == 0 && by.bytes == 0 {
        return Ok(());
    }
    count(tx, &key::container_use(id), by)?;
    count(tx, &key::account_use(account), by)?;
    Ok(())
}

/// Rows in order of their names, below a prefix of keys.
struct Rows<'l, T> {
    look: &'l Look<'l>,
    prefix: Vec<u8>,
    read: fn(&Entry) -> Result<T, DiskError>,
}

impl<T> listing::Names for Rows<'_, T> {
    type Item = (T, Place);
    type Error = DiskError;

    fn read(
        &self,
        from: &Bound<String>,
        to: &Bound<String>,
        reverse: bool,
        limit: usize,
    ) -> Result<Vec<(String, Self::Item)>, DiskError> {
        // No name has a zero byte, so nothing is between a name and the same with one behind it.
        let low = match from {
            Bound::Included(name) => [&self.prefix, name.as_bytes()].concat(),
            Bound::Excluded(name) => [&self.prefix, name.as_bytes(), b"\0"].concat(),
            Bound::Unbounded => self.prefix.clone(),
        };
        let high = match to {
            Bound::Included(name) => [&self.prefix, name.as_bytes(), b"\0"].concat(),
            Bound::Excluded(name) => [&self.prefix, name.as_bytes()].concat(),
            Bound::Unbounded => key::end_of(&self.prefix),
        };
        let rows = self.look.range(&low, &high, reverse, limit)?;
        let rows = rows.into_iter().map(|(key, entry)| {
            let name = String::from_utf8_lossy(&key[self.prefix.len()..]).into_owned();
            Ok((name, ((self.read)(&entry)?, entry.place)))
        });
        rows.collect()
    }
}

#[cfg(test)]
mod tests;
