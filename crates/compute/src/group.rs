//! A server group: servers that are to be together on a host, or apart.
//!
//! A server names its group when it is made and stays in it. The scheduler gets the group's policy with each member's
//! claim. How many members there are is counted with the member's record, against the project's quota.

pub mod api;

use madang_scheduler::{ClaimGroup, GroupPolicy};
use madang_store::{Delta, Kind, Op, Store, StoreError, Tx};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::quota;

/// The quota's name for groups.
pub const SERVER_GROUPS: &str = "server_groups";
/// The quota's name for members of one group.
pub const MEMBERS: &str = "server_group_members";

/// The kind of server groups. `metadata.name` is the id.
pub struct ServerGroup;

impl Kind for ServerGroup {
    const NAME: &'static str = "servergroups";
    type Spec = ServerGroupSpec;
    type Status = ServerGroupStatus;
}

/// What was asked of a group. Never changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerGroupSpec {
    /// What the user calls it; need not be unique.
    pub name: String,
    /// The user who made it.
    pub user: String,
    /// What it wants of its members' hosts.
    pub policy: GroupPolicy,
    /// With `anti-affinity`: as many members as one host may have; one when none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_server_per_host: Option<u32>,
}

/// Nothing is seen of a group; its members name it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServerGroupStatus {}

/// The rule of groups: quota with the record.
pub(crate) fn admit(tx: &mut Tx<'_>, op: Op<'_, ServerGroup>) -> Result<(), StoreError> {
    let (project, user, add, limit) = match op {
        Op::Create(group) => (
            group.project(),
            &group.spec.user,
            1,
            quota::limit(tx.store(), group.project(), SERVER_GROUPS),
        ),
        Op::Remove(group) => (group.project(), &group.spec.user, -1, None),
        Op::Update { .. } => return Ok(()),
    };
    let delta = |limit| Delta {
        field: SERVER_GROUPS.to_owned(),
        add,
        limit,
    };
    let of_user = (add > 0).then(|| quota::user_limit(tx.store(), project, user, SERVER_GROUPS));
    tx.add(project, quota::COUNTERS, vec![delta(limit)]);
    tx.add(project, &quota::user_counters(user), vec![delta(of_user.flatten())]);
    Ok(())
}

/// What a group wants of the host of one more member; none without a group, or when it is gone.
pub(crate) fn claim_group(store: &Store, id: Option<Uuid>) -> Option<ClaimGroup> {
    let id = id?;
    let group = store.cache::<ServerGroup>().by_name(&id.to_string())?;
    Some(ClaimGroup {
        id,
        policy: group.spec.policy,
        max_server_per_host: group.spec.max_server_per_host,
    })
}

/// The counter record of a group's members, in its project.
pub(crate) fn member_counters(group: &str) -> String {
    format!("servergroup/{group}")
}
