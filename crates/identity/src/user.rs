//! Users. `metadata.name` is the id; names are unique within a domain.

pub mod api;
pub mod compliance;
pub mod rules;

use std::collections::BTreeSet;

use jiff::Timestamp;
use madang_store::{Indexes, Key, Kind};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{federation::shadow::FederatedName, project::name_key};

/// The kind of users.
#[derive(Debug)]
pub struct User;

/// What a user is. Holds a password's hash, so it is never logged (the store prints only names).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UserSpec {
    /// What the user logs in with, 1 to 255 characters.
    pub name: String,
    /// The domain it is in.
    pub domain_id: String,
    /// Whether it may log in, and its tokens are taken.
    pub enabled: bool,
    /// The project its tokens are for where nothing else is asked and it has a role there.
    #[serde(default)]
    pub default_project_id: Option<String>,
    /// The password's hash in PHC form; none for who cannot log in with one.
    #[serde(default)]
    pub password: Option<String>,
    /// Keystone's resource options, such as `lock_password`.
    #[serde(default)]
    pub options: Map<String, Value>,
    /// What clients keep beside: `description`, `email`.
    #[serde(default)]
    pub extra: Map<String, Value>,
    /// Tokens issued up to then are void. Set when the password changes and when the user is disabled.
    #[serde(default)]
    pub tokens_void_until: Option<Timestamp>,
    /// When the password was set.
    #[serde(default)]
    pub password_created: Option<Timestamp>,
    /// From when on it is good for nothing but to be changed.
    #[serde(default)]
    pub password_expires: Option<Timestamp>,
    /// Whether the user chose it itself.
    #[serde(default)]
    pub password_by_user: bool,
    /// The hashes of those before, newest first.
    #[serde(default)]
    pub password_history: Vec<String>,
    /// What identity providers know it by.
    #[serde(default)]
    pub federated: Vec<FederatedName>,
    /// Whether nobody but a login at an identity provider made it. Its name is the provider's, and need not be unique.
    #[serde(default)]
    pub is_shadow: bool,
}

impl UserSpec {
    /// What it is unique by: its name in its domain, or for a shadow what the provider knows it by.
    pub(crate) fn unique_name(&self) -> String {
        match self.federated.first().filter(|_| self.is_shadow) {
            Some(name) => format!("{}\n\n{}", self.domain_id, name.as_text()),
            None => name_key(&self.domain_id, &self.name),
        }
    }
}

impl Kind for User {
    const NAME: &'static str = "users";
    type Spec = UserSpec;
    type Status = ();

    fn indexes() -> Indexes<Self> {
        Indexes::<Self>::new()
            .on("domain", |r| vec![r.spec.domain_id.clone()])
            .on("name", |r| vec![r.spec.unique_name()])
            .on("federated", |r| {
                r.spec.federated.iter().map(FederatedName::as_text).collect()
            })
            .on("federated_by", |r| {
                let by: BTreeSet<_> = r.spec.federated.iter().map(|name| name.provider_id.clone()).collect();
                by.into_iter().collect()
            })
            .on("default_project", |r| {
                r.spec.default_project_id.iter().cloned().collect()
            })
    }
}

impl User {
    /// Where a user is stored.
    pub fn key(id: &str) -> Key {
        Key::new(Self::NAME, "", "", id)
    }
}
