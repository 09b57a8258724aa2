//! A group: volumes of one project that are snapshot, cloned and deleted together.
//!
//! A volume says in which group it is; what a group is like is read off its volumes, so that none stays on its way.

pub mod api;
pub mod verbs;

use std::collections::BTreeSet;

use madang_store::{Indexes, Kind, Op, Resource, Store, StoreError, Tx};
use serde::{Deserialize, Serialize};

use crate::{
    quota,
    volume::{Volume, VolumeState},
    words::words,
};

/// The kind of groups. `metadata.name` is the id.
pub struct Group;

impl Kind for Group {
    const NAME: &'static str = "volumegroups";
    type Spec = GroupSpec;
    type Status = GroupStatus;

    fn indexes() -> Indexes<Self> {
        Indexes::<Self>::new().on("type", |r| vec![r.spec.group_type.clone()])
    }
}

/// What was asked of a group.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GroupSpec {
    /// What the user calls it.
    #[serde(default)]
    pub name: Option<String>,
    /// Free text.
    #[serde(default)]
    pub description: Option<String>,
    /// The user who made it.
    pub user: String,
    /// The id of its type.
    pub group_type: String,
    /// The ids of the types that its volumes may have.
    pub volume_types: BTreeSet<String>,
    /// Where it is to be.
    pub availability_zone: String,
    /// The group it was made of.
    #[serde(default)]
    pub source_group: Option<String>,
    /// The group snapshot it was made of.
    #[serde(default)]
    pub group_snapshot: Option<String>,
}

words! {
    /// Where a group or a group snapshot is on its way. Source: Cinder's `GroupStatus` and `GroupSnapshotStatus`.
    GroupState {
        /// There.
        Available = "available",
        /// Something of it is being made.
        Creating = "creating",
        /// Something of it could not be made.
        Error = "error",
        /// It goes.
        Deleting = "deleting",
        /// It changes.
        Updating = "updating",
        /// It could not be removed.
        ErrorDeleting = "error_deleting",
    }
}

/// What is seen of a group.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GroupStatus {
    /// What an admin says of it, whatever its volumes are.
    #[serde(default)]
    pub said: Option<GroupState>,
}

/// The volumes of a group.
pub(crate) fn volumes(store: &Store, group: &str) -> Vec<std::sync::Arc<Resource<Volume>>> {
    store.cache::<Volume>().by("group", group)
}

/// What a group is like.
pub(crate) fn state(store: &Store, group: &Resource<Group>) -> GroupState {
    if let Some(said) = group.status.said {
        return said;
    }
    let is = |state| move |volume: &std::sync::Arc<Resource<Volume>>| volume.status.state == state;
    let volumes = volumes(store, group.name());
    if volumes.iter().any(is(VolumeState::Creating)) {
        GroupState::Creating
    } else if volumes.iter().any(is(VolumeState::Error)) {
        GroupState::Error
    } else {
        GroupState::Available
    }
}

/// The rule of groups: they are counted.
pub(crate) fn admit(tx: &mut Tx<'_>, op: Op<'_, Group>) -> Result<(), StoreError> {
    let (group, sign) = match op {
        Op::Create(new) => (&*new, 1),
        Op::Update { .. } => return Ok(()),
        Op::Remove(old) => (old, -1),
    };
    let deltas = quota::deltas(tx.store(), group.project(), None, &[(quota::GROUPS, 1)], sign);
    tx.add(group.project(), quota::COUNTERS, deltas);
    Ok(())
}
