//! A keypair: a user's public key, put into the servers they make.

pub mod api;
mod key;

use madang_store::{Indexes, Kind};
use serde::{Deserialize, Serialize};

/// The kind of keypairs. `metadata.namespace` is the user's id, `metadata.name` the key's name.
pub struct Keypair;

impl Kind for Keypair {
    const NAME: &'static str = "keypairs";
    type Spec = KeypairSpec;
    type Status = KeypairStatus;

    fn indexes() -> Indexes<Self> {
        Indexes::<Self>::new().on("user", |r| vec![r.metadata.namespace.clone()])
    }
}

/// A public key. Private keys that madang generates are shown once and never kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeypairSpec {
    /// `ssh` or `x509`.
    #[serde(rename = "type")]
    pub key_type: String,
    /// In OpenSSH's one-line form (or PEM for `x509`).
    pub public_key: String,
    /// MD5 of the key, as colon-separated hex.
    pub fingerprint: String,
}

/// Nothing is seen of a keypair.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct KeypairStatus {}
