//! A claim: one consumer's request for resources, and the host that gives them.
//!
//! ```text
//! (created by whoever needs a place) pending ──scheduler──► placed on status.host ──► removed with its owner
//!                                       └──────────────────► unplaceable: status.failure says why
//! ```
//! Usage is counted in the providers' counter records in the transaction that places or removes a claim, bounded by the
//! inventories' capacity: a host is never given twice.
//!
//! A claim is Placement's consumer with its allocations. Mostly one provider gives all; where several do, `status.shares`
//! says who gives what.

use std::collections::BTreeMap;

use madang_store::{Indexes, Kind};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Amounts, Seat};

pub(crate) mod api;
pub mod handover;
pub mod heal;
pub mod rules;
pub(crate) mod write;

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
            .on("provider", |r| {
                let given = r.status.given(&r.spec);
                given.map(|(provider, _)| provider.to_owned()).collect()
            })
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
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClaimSpec {
    /// The user who asked, for Placement's `user_id`.
    pub user: String,
    /// The consumer's kind, such as `servers`.
    pub consumer_kind: String,
    /// What is asked for in all.
    pub resources: Amounts,
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
    /// The consumer is busy on its host's disks now: being built, resized, imaged, rebuilt. Counts as one of the host's
    /// I/O operations. Written by the consumer's domain as it comes and goes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_busy: bool,
    /// What else filters and weighers look at; none for consumers without a flavor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wishes: Option<Box<Wishes>>,
}

/// What a consumer wants of its host beyond amounts: what Nova's filters and weighers read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Wishes {
    /// The flavor's name.
    #[serde(default)]
    pub flavor: String,
    /// The flavor's extra specs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extra_specs: BTreeMap<String, String>,
    /// The image's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The image's properties, such as `hw_architecture`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub image_properties: BTreeMap<String, String>,
    /// Scheduler hints. One text and a list of one are the same.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub hints: BTreeMap<String, Vec<String>>,
}

/// Membership in a server group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClaimGroup {
    /// The group's id.
    pub id: Uuid,
    /// What it wants.
    pub policy: GroupPolicy,
    /// With [`GroupPolicy::AntiAffinity`]: as many members as one host may have; one when none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_server_per_host: Option<u32>,
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

/// What became of it. Written by the scheduler, and by Placement's API for its own consumers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClaimStatus {
    /// The host's name (a provider's `spec.name`).
    #[serde(default)]
    pub host: Option<String>,
    /// The uuid of the provider that gives all of it, or of the host where several do.
    #[serde(default)]
    pub provider: Option<String>,
    /// What each provider gives, where it is not that one provider gives all of `spec.resources`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shares: Vec<Share>,
    /// What it has of single NUMA nodes of the host, one seat for each of its own nodes; none where any will do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub seats: Vec<Seat>,
    /// Placement's consumer generation: counts how often it was given something else.
    #[serde(default)]
    pub generation: u64,
    /// Another consumer had this and handed it over: it is not held to a capacity that shrank meanwhile.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_handed_over: bool,
    /// Why no host can give it: which filter left none, in words for the user.
    #[serde(default)]
    pub failure: Option<String>,
    /// What each filter left, in their order, when there was no host; for those who may know of hosts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refusals: Vec<Refusal>,
}

/// What one provider gives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Share {
    /// The provider's uuid.
    pub provider: String,
    /// What it gives.
    pub resources: Amounts,
}

/// What one filter said. Shown as `ComputeFilter: 2 of 5 hosts left; a: is disabled; b: …`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Refusal {
    /// Nova's name of the filter.
    pub filter: String,
    /// Hosts that came to it.
    pub before: u32,
    /// Hosts that it left.
    pub after: u32,
    /// Hosts it refused and why, the first [`Refusal::HOSTS`] of them.
    #[serde(default)]
    pub hosts: Vec<(String, String)>,
}

impl Refusal {
    /// As many refused hosts are named.
    pub const HOSTS: usize = 8;
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} of {} hosts left", self.filter, self.after, self.before)?;
        for (host, why) in &self.hosts {
            write!(f, "; {host} {why}")?;
        }
        let unnamed = (self.before - self.after.min(self.before)) as usize;
        if unnamed > self.hosts.len() && !self.hosts.is_empty() {
            write!(f, "; and {} more", unnamed - self.hosts.len())?;
        }
        Ok(())
    }
}

impl ClaimStatus {
    /// Whether the scheduler has yet to decide.
    pub fn is_pending(&self) -> bool {
        self.provider.is_none() && self.shares.is_empty() && self.failure.is_none()
    }

    /// Each provider's uuid with what it gives; nothing while pending. `spec` is the same claim's.
    pub fn given<'a>(&'a self, spec: &'a ClaimSpec) -> impl Iterator<Item = (&'a str, &'a Amounts)> {
        let whole = self.provider.as_deref().filter(|_| self.shares.is_empty());
        let parts = self
            .shares
            .iter()
            .map(|share| (share.provider.as_str(), &share.resources));
        whole
            .map(|provider| (provider, &spec.resources))
            .into_iter()
            .chain(parts)
    }
}
