//! Users. `metadata.name` is the id; names are unique within a domain.

pub mod api;
pub mod compliance;
pub mod rules;

use jiff::Timestamp;
use madang_store::{Indexes, Key, Kind};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::project::name_key;

/// The kind of users.
#[derive(Debug)]
pub struct User;

/// What a user is. Holds a password's hash, so it is never logged (the store prints only names).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
}

impl Kind for User {
    const NAME: &'static str = "users";
    type Spec = UserSpec;
    type Status = ();

    fn indexes() -> Indexes<Self> {
        Indexes::<Self>::new()
            .on("domain", |r| vec![r.spec.domain_id.clone()])
            .on("name", |r| vec![name_key(&r.spec.domain_id, &r.spec.name)])
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
