//! Groups of users, and who is in them.

pub mod api;
pub mod rules;

use madang_store::{Indexes, Key, Kind};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::project::name_key;

/// The kind of groups.
#[derive(Debug)]
pub struct Group;

/// What a group is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupSpec {
    /// What users call it; unique within the domain.
    pub name: String,
    /// The domain it is in.
    pub domain_id: String,
    /// Free text.
    #[serde(default)]
    pub description: String,
    /// What clients keep beside.
    #[serde(default)]
    pub extra: Map<String, Value>,
}

impl Kind for Group {
    const NAME: &'static str = "groups";
    type Spec = GroupSpec;
    type Status = ();

    fn indexes() -> Indexes<Self> {
        Indexes::<Self>::new()
            .on("domain", |r| vec![r.spec.domain_id.clone()])
            .on("name", |r| vec![name_key(&r.spec.domain_id, &r.spec.name)])
    }
}

impl Group {
    /// Where a group is stored.
    pub fn key(id: &str) -> Key {
        Key::new(Self::NAME, "", "", id)
    }
}

/// The kind of memberships: one user in one group.
#[derive(Debug)]
pub struct Membership;

/// Who is in what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MembershipSpec {
    /// The group.
    pub group_id: String,
    /// The user.
    pub user_id: String,
}

impl Kind for Membership {
    const NAME: &'static str = "group-memberships";
    type Spec = MembershipSpec;
    type Status = ();

    fn indexes() -> Indexes<Self> {
        Indexes::<Self>::new()
            .on("group", |r| vec![r.spec.group_id.clone()])
            .on("user", |r| vec![r.spec.user_id.clone()])
    }
}

impl Membership {
    /// Where a membership is stored.
    pub fn key(group_id: &str, user_id: &str) -> Key {
        Key::new(Self::NAME, "", "", format!("{group_id}.{user_id}"))
    }
}
