//! OAuth 1.0a delegation (`OS-OAUTH1`): a user lets a consumer act for it in a project with some of its roles.
//!
//! ```text
//! consumer: request token ─► user: authorize, verifier ─► consumer: access token ─► POST /auth/tokens, signed
//! ```
//! Request tokens live hours and are used up; an access token's tokens hold what it gives and its user still has.

pub(crate) mod api;
pub mod rules;
pub(crate) mod signature;

use jiff::Timestamp;
use madang_store::{Indexes, Key, Kind};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The kind of consumers: programs that users may let act for them.
#[derive(Debug)]
pub struct Consumer;

/// What a consumer is. Never logged (the store prints only names).
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct ConsumerSpec {
    /// Free text.
    #[serde(default)]
    pub description: Option<String>,
    /// What it signs with.
    pub secret: String,
    /// What clients keep beside.
    #[serde(default)]
    pub extra: Map<String, Value>,
}

impl Kind for Consumer {
    const NAME: &'static str = "oauth1-consumers";
    type Spec = ConsumerSpec;
    type Status = ();
}

impl Consumer {
    /// Where a consumer is stored.
    pub fn key(id: &str) -> Key {
        Key::new(Self::NAME, "", "", id)
    }
}

/// The kind of request tokens.
#[derive(Debug)]
pub struct RequestToken;

/// A consumer asks to act in a project. Never logged.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct RequestTokenSpec {
    /// Who asks.
    pub consumer_id: String,
    /// The project.
    pub project_id: String,
    /// What the consumer signs with, beside its own secret.
    pub secret: String,
    /// Until when it can be authorized and exchanged.
    pub expires: Timestamp,
    /// Who authorized it, and what for.
    #[serde(default)]
    pub authorized: Option<Authorization>,
}

/// A user's yes to a request token.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Authorization {
    /// Who said yes.
    pub user_id: String,
    /// The roles it gives, by id.
    pub role_ids: Vec<String>,
    /// What the consumer must show.
    pub verifier: String,
}

impl Kind for RequestToken {
    const NAME: &'static str = "oauth1-request-tokens";
    type Spec = RequestTokenSpec;
    type Status = ();

    fn indexes() -> Indexes<Self> {
        Indexes::<Self>::new()
            .on("consumer", |r| vec![r.spec.consumer_id.clone()])
            .on("project", |r| vec![r.spec.project_id.clone()])
            .on("user", |r| {
                r.spec.authorized.iter().map(|yes| yes.user_id.clone()).collect()
            })
    }
}

impl RequestToken {
    /// Where a request token is stored.
    pub fn key(id: &str) -> Key {
        Key::new(Self::NAME, "", "", id)
    }
}

/// The kind of access tokens.
#[derive(Debug)]
pub struct AccessToken;

/// What a consumer may do for a user. Never logged.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct AccessTokenSpec {
    /// Who may.
    pub consumer_id: String,
    /// For whom.
    pub user_id: String,
    /// In which project.
    pub project_id: String,
    /// With which roles, by id.
    pub role_ids: Vec<String>,
    /// What the consumer signs with, beside its own secret.
    pub secret: String,
    /// Until when.
    pub expires: Timestamp,
}

impl Kind for AccessToken {
    const NAME: &'static str = "oauth1-access-tokens";
    type Spec = AccessTokenSpec;
    type Status = ();

    fn indexes() -> Indexes<Self> {
        Indexes::<Self>::new()
            .on("consumer", |r| vec![r.spec.consumer_id.clone()])
            .on("project", |r| vec![r.spec.project_id.clone()])
            .on("user", |r| vec![r.spec.user_id.clone()])
    }
}

impl AccessToken {
    /// Where an access token is stored.
    pub fn key(id: &str) -> Key {
        Key::new(Self::NAME, "", "", id)
    }
}
