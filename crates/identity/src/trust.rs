//! Trusts: one user lets another act in a project with some of its roles, as itself or in its name.
//!
//! A trust's token holds what the trust gives and its trustor still has; it ends with the trust. Where a trust allows it,
//! its trustee hands it on: with the trust's token it makes a further trust, of no more than that. A trust that was handed
//! on holds as long as all those it comes from.

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
    /// How often it can still be handed on.
    #[serde(default)]
    pub redelegation_count: u32,
    /// The trust it was handed on from.
    #[serde(default)]
    pub redelegated_trust_id: Option<String>,
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
            .on("redelegated", |r| r.spec.redelegated_trust_id.iter().cloned().collect())
    }
}

impl Trust {
    /// Where a trust is stored.
    pub fn key(id: &str) -> Key {
        Key::new(Self::NAME, "", "", id)
    }
}
