//! A claim: one consumer's request for resources, and the host that gives them.
//!
//! ```text
//! (created by whoever needs a place) pending ──scheduler──► placed on status.host ──► removed with its owner
//!                                       └──────────────────► unplaceable: status.failure says why
//! ```
//! Usage is counted in the provider's counter record in the transaction that places or removes a claim, bounded by the
//! inventory's capacity: a host is never given twice.

use std::collections::BTreeMap;

use madang_store::{Indexes, Kind};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub(crate) mod api;
pub mod rules;

/// The kind of claims. `metadata.name` is the consumer's uuid (a server's id), `metadata.project` its project; the
/// consumer owns it, so that it goes with it.
pub struct Claim;

impl Kind for Claim {
    const NAME: &'static str = "claims";
    type Spec = ClaimSpec;
    type Status = ClaimStatus;

    fn indexes() -> Indexes<Self> {
        Indexes::<Self>::new()
            .on("host", |r| r.status.host.iter().cloned().collect())
            .on("pending", |r| {
                if r.status.is_pending() {
                    vec!["yes".to_owned()]
                } else {
                    vec![]
                }
            })
            .on("group", |r| {
                r.spec.group.iter().map(|group| group.id.to_string()).collect()
            })
    }
}

/// What is asked for. Written by the consumer's domain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClaimSpec {
    /// The user who asked, for Placement's `user_id`.
    pub user: String,
    /// The consumer's kind, such as `servers`.
    pub consumer_kind: String,
    /// Resource class to amount.
    pub resources: BTreeMap<String, i64>,
    /// The driver that has to be there: `qemu` or `oci`. A host with `simulated` takes both.
    pub driver: String,
    /// Only in this availability zone.
    #[serde(default)]
    pub zone: Option<String>,
    /// Only on this host (its name).
    #[serde(default)]
    pub host: Option<String>,
    /// Not on these hosts (their names).
    #[serde(default)]
    pub avoid: Vec<String>,
    /// Traits the host must have.
    #[serde(default)]
    pub required_traits: Vec<String>,
    /// Traits the host must not have.
    #[serde(default)]
    pub forbidden_traits: Vec<String>,
    /// Together with or apart from others.
    #[serde(default)]
    pub group: Option<ClaimGroup>,
}

/// Membership in a server group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClaimGroup {
    /// The group's id.
    pub id: Uuid,
    /// What it wants.
    pub policy: GroupPolicy,
}

/// What a group wants of its members' hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GroupPolicy {
    /// All on one host.
    Affinity,
    /// Each on a host of its own.
    AntiAffinity,
    /// On one host where possible.
    SoftAffinity,
    /// On hosts of their own where possible.
    SoftAntiAffinity,
}

/// What became of it. Written by the scheduler.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClaimStatus {
    /// The host's name (a provider's `spec.name`).
    #[serde(default)]
    pub host: Option<String>,
    /// The provider's uuid.
    #[serde(default)]
    pub provider: Option<String>,
    /// Why no host can give it: which filter left none, in words for the user.
    #[serde(default)]
    pub failure: Option<String>,
}

impl ClaimStatus {
    /// Whether the scheduler has yet to decide.
    pub fn is_pending(&self) -> bool {
        self.host.is_none() && self.failure.is_none()
    }
}
