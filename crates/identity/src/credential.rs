//! Credentials: secrets that identity keeps for a user and gives back, such as the access keys of S3 clients.
//!
//! The store has them sealed, with the keys of `keys/credentials` in the data directory (see [`vault`]).

pub mod api;
pub mod ec2;
pub mod rules;
pub(crate) mod signature;
pub(crate) mod vault;

use madang_store::{Indexes, Key, Kind};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// The kind of credentials.
#[derive(Debug)]
pub struct Credential;

/// What a credential is. Never logged (the store prints only names).
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct CredentialSpec {
    /// Whose it is.
    pub user_id: String,
    /// The project it is for; always there for access keys.
    #[serde(default)]
    pub project_id: Option<String>,
    /// What it is: `ec2` for access keys, `cert`, `totp`, anything.
    #[serde(rename = "type")]
    pub credential_type: String,
    /// The secret, sealed.
    #[serde(default)]
    pub sealed: String,
    /// The secret as it was kept before there were keys; nothing where `sealed` has it.
    #[serde(default, rename = "blob", skip_serializing_if = "Option::is_none")]
    pub(crate) plain: Option<String>,
}

/// The type of access keys.
pub const EC2: &str = "ec2";

impl Kind for Credential {
    const NAME: &'static str = "credentials";
    type Spec = CredentialSpec;
    type Status = ();

    fn indexes() -> Indexes<Self> {
        Indexes::<Self>::new()
            .on("user", |r| vec![r.spec.user_id.clone()])
            .on("project", |r| r.spec.project_id.iter().cloned().collect())
    }
}

impl Credential {
    /// Where a credential is stored.
    pub fn key(id: &str) -> Key {
        Key::new(Self::NAME, "", "", id)
    }

    /// The id of an access key: clients know only the key, so the id follows from it.
    pub fn ec2_id(access: &str) -> String {
        Sha256::digest(access.as_bytes())
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

/// The access key and its secret, in what a credential of type `ec2` keeps: an object with `access` and `secret`, as text.
pub(crate) fn access_key(blob: &str) -> Option<(String, String)> {
    let blob: Value = serde_json::from_str(blob).ok()?;
    Some((blob["access"].as_str()?.to_owned(), blob["secret"].as_str()?.to_owned()))
}
