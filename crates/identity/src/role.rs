//! Roles, and which role implies which.

pub mod api;
pub mod rules;

use madang_store::{Indexes, Key, Kind};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::project::name_key;

/// The kind of roles.
#[derive(Debug)]
pub struct Role;

/// What a role is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoleSpec {
    /// What policy and users call it; unique among global roles, and within a domain.
    pub name: String,
    /// The domain whose own role it is. Such a role is never in a token; only what it implies is.
    #[serde(default)]
    pub domain_id: String,
    /// Free text.
    #[serde(default)]
    pub description: Option<String>,
    /// Keystone's resource options; `immutable` is the only one.
    #[serde(default)]
    pub options: Map<String, Value>,
    /// What clients keep beside.
    #[serde(default)]
    pub extra: Map<String, Value>,
}

impl Kind for Role {
    const NAME: &'static str = "roles";
    type Spec = RoleSpec;
    type Status = ();

    fn indexes() -> Indexes<Self> {
        Indexes::<Self>::new()
            .on("domain", |r| vec![r.spec.domain_id.clone()])
            .on("name", |r| vec![name_key(&r.spec.domain_id, &r.spec.name)])
    }
}

impl Role {
    /// Where a role is stored.
    pub fn key(id: &str) -> Key {
        Key::new(Self::NAME, "", "", id)
    }
}

/// The kind of implications: who has the prior role has the implied one too.
#[derive(Debug)]
pub struct Implication;

/// Which role brings which.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImplicationSpec {
    /// The role that is assigned.
    pub prior_id: String,
    /// The role that comes with it.
    pub implied_id: String,
}

impl Kind for Implication {
    const NAME: &'static str = "role-implications";
    type Spec = ImplicationSpec;
    type Status = ();

    fn indexes() -> Indexes<Self> {
        Indexes::<Self>::new()
            .on("prior", |r| vec![r.spec.prior_id.clone()])
            .on("implied", |r| vec![r.spec.implied_id.clone()])
    }
}

impl Implication {
    /// Where an implication is stored.
    pub fn key(prior_id: &str, implied_id: &str) -> Key {
        Key::new(Self::NAME, "", "", format!("{prior_id}.{implied_id}"))
    }
}
