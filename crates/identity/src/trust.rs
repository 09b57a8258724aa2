//! Trusts: one user lets another act in a project with some of its roles, as itself or in its name.
//!
//! A trust's token holds what the trust gives and its trustor still has; it ends with the trust. Trusts are not handed
//! on: a trust's token makes no further ones.

pub mod api;
pub mod rules;

use jiff::Timestamp;
use madang_store::{Indexes, Key, Kind};
use serde::{Deserialize, Serialize};

/// The kind of trusts.
#[derive(Debug)]
pub struct Trust;

/// What a trust is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrustSpec {
    /// Who gives.
    pub trustor_user_id: String,
    /// Who may act.
    pub trustee_user_id: String,
    /// The project it is for.
    pub project_id: String,
    /// The roles it gives, by id.
    pub role_ids: Vec<String>,
    /// Whether who acts does so in the trustor's name.
    pub impersonation: bool,
    /// Until when.
    #[serde(default)]
    pub expires: Option<Timestamp>,
    /// How many tokens may still be given for it; any number where there is none.
    #[serde(default)]
    pub remaining_uses: Option<u32>,
}

impl Kind for Trust {
    const NAME: &'static str = "trusts";
    type Spec = TrustSpec;
    type Status = ();

    fn indexes() -> Indexes<Self> {
        Indexes::<Self>::new()
            .on("trustor", |r| vec![r.spec.trustor_user_id.clone()])
            .on("trustee", |r| vec![r.spec.trustee_user_id.clone()])
            .on("project", |r| vec![r.spec.project_id.clone()])
    }
}

impl Trust {
    /// Where a trust is stored.
    pub fn key(id: &str) -> Key {
        Key::new(Self::NAME, "", "", id)
    }
}
