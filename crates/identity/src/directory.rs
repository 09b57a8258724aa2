//! Users and groups of a domain that are kept in an LDAP directory; only read.
//!
//! What the directory has is copied into the store, so that role assignments, tokens and lists work on it as on
//! everybody else: all of it every minute, and a user with its groups whenever it logs in. Passwords stay where they are:
//! they are proved by a bind. Ids are Keystone's, the hash of domain, kind and the entry's own id, so they hold when a copy
//! is made anew.
//!
//! What must always hold: a directory that does not answer, or answers in part, takes nothing away. An entry that a whole
//! answer no longer has is disabled, and keeps its assignments until somebody removes it.

mod connection;
mod entries;
mod login;
mod options;
mod sync;

use std::{collections::HashMap, sync::Arc};

use madang_control::TaskGroup;
use madang_http::Failure;
use madang_store::{Indexes, Key, Kind, Store};
use serde::{Deserialize, Serialize};

pub use options::{LdapOptions, QueryScope, Secret};

use crate::{Identity, auth::DomainRef, project::Project};
use connection::Connection;

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// It does not answer, or not as LDAP.
    #[error("the directory does not answer")]
    Ldap(#[from] ldap3::LdapError),
    /// It took too long.
    #[error("the directory did not answer in time")]
    TimedOut,
    /// It has more than is copied.
    #[error("the directory has more than {0} entries below {1}: narrow the filter, or raise max_entries")]
    TooMany(usize, String),
    /// The account that searches is refused.
    #[error("the directory refuses the account {0:?}: look at user and password of [[ldap]]")]
    Refused(String),
    /// What it says cannot be kept.
    #[error("could not keep what the directory has")]
    Store(#[from] madang_store::StoreError),
    /// Madang is not started yet, or stops.
    #[error("directories are not asked now")]
    NotNow,
}

/// The kind of marks on users and groups that are copies; by the copy's id.
#[derive(Debug)]
pub struct DirectoryEntry;

/// Where a copy is from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectoryEntrySpec {
    /// The domain.
    pub domain_id: String,
    /// Its distinguished name when it was last seen.
    pub dn: String,
    /// Whether it is a group.
    #[serde(default)]
    pub is_group: bool,
    /// The directory does not have it any more.
    #[serde(default)]
    pub missing: bool,
}

impl Kind for DirectoryEntry {
    const NAME: &'static str = "directory-entries";
    type Spec = DirectoryEntrySpec;
    type Status = ();

    fn indexes() -> Indexes<Self> {
        Indexes::<Self>::new().on("domain", |r| vec![r.spec.domain_id.clone()])
    }
}

impl DirectoryEntry {
    /// Where the mark of the user or group `id` is stored.
    pub fn key(id: &str) -> Key {
        Key::new(Self::NAME, "", "", id)
    }
}

/// All directories of this cloud, by the names of their domains. Empty, it costs nothing.
#[derive(Default)]
pub(crate) struct Directories(HashMap<String, Arc<Connection>>);

impl Directories {
    pub(crate) fn new(options: &[LdapOptions]) -> Result<Self, String> {
        let mut all = HashMap::new();
        for options in options {
            let connection =
                Connection::new(options.clone()).map_err(|reason| format!("ldap {}: {reason}", options.domain))?;
            if all.insert(options.domain.clone(), Arc::new(connection)).is_some() {
                return Err(format!("ldap {}: this domain has two directories", options.domain));
            }
        }
        Ok(Self(all))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Of the domain with that id.
    fn of(&self, store: &Store, domain_id: &str) -> Option<&Arc<Connection>> {
        if self.is_empty() {
            return None;
        }
        let domain = store.get::<Project>(&Project::key(domain_id))?;
        self.0.get(&domain.spec.name).filter(|_| domain.spec.is_domain)
    }
}

impl Identity {
    /// Refuses to change users and groups of a domain that a directory has.
    pub(crate) fn check_writable(&self, domain_id: &str) -> Result<(), Failure> {
        if self.directories.of(&self.store, domain_id).is_none() {
            return Ok(());
        }
        Err(Failure::forbidden(format!(
            "LDAP does not support write operations: the users and groups of domain {domain_id} are kept in a directory, \
             change them there"
        )))
    }

    /// As [`Identity::check_writable`], for removing one, which may be done to what the directory does not have any more.
    pub(crate) fn check_removable(&self, domain_id: &str, id: &str) -> Result<(), Failure> {
        let mark = self.store.get::<DirectoryEntry>(&DirectoryEntry::key(id));
        if mark.is_some_and(|mark| mark.spec.missing) {
            return Ok(());
        }
        self.check_writable(domain_id)
    }

    /// Copies all directories now and again, in `group` until it stops.
    pub(crate) fn follow_directories(self: &Arc<Self>, group: &TaskGroup) {
        for (name, connection) in &self.directories.0 {
            connection.start(group.child(format!("directory {name}")));
            let (identity, name, connection) = (Arc::clone(self), name.clone(), Arc::clone(connection));
            group.spawn_until_stopped(format!("copy directory {name}"), async move {
                sync::forever(&identity, &DomainRef::Name(name), &connection).await;
            });
        }
    }
}
