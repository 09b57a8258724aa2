//! A group snapshot: all volumes of a group as they were, made and deleted together.
//!
//! Each volume's part is a snapshot that says to which group snapshot it belongs. The parts of volumes that nobody has open
//! are of one moment; those of attached ones follow when their servers switch over, each in its own moment.

pub mod api;

use madang_store::{Indexes, Kind, Resource, Store};
use serde::{Deserialize, Serialize};

use crate::{
    group::GroupState,
    snapshot::{Snapshot, SnapshotState},
};

/// The kind of group snapshots. `metadata.name` is the id.
pub struct GroupSnapshot;

impl Kind for GroupSnapshot {
    const NAME: &'static str = "volumegroupsnapshots";
    type Spec = GroupSnapshotSpec;
    type Status = GroupSnapshotStatus;

    fn indexes() -> Indexes<Self> {
        Indexes::<Self>::new().on("group", |r| vec![r.spec.group.clone()])
    }
}

/// What was asked of a group snapshot.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GroupSnapshotSpec {
    /// What the user calls it.
    #[serde(default)]
    pub name: Option<String>,
    /// Free text.
    #[serde(default)]
    pub description: Option<String>,
    /// The user who made it.
    pub user: String,
    /// The group's id.
    pub group: String,
    /// The id of the group's type.
    pub group_type: String,
}

/// What is seen of a group snapshot.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GroupSnapshotStatus {
    /// What an admin says of it, whatever its parts are.
    #[serde(default)]
    pub said: Option<GroupState>,
}

/// What a group snapshot is like.
pub(crate) fn state(store: &Store, of: &Resource<GroupSnapshot>) -> GroupState {
    if let Some(said) = of.status.said {
        return said;
    }
    let parts = store.cache::<Snapshot>().by("group_snapshot", of.name());
    let any = |state| parts.iter().any(|part| part.status.state == state);
    if any(SnapshotState::Creating) {
        GroupState::Creating
    } else if any(SnapshotState::Error) {
        GroupState::Error
    } else {
        GroupState::Available
    }
}
