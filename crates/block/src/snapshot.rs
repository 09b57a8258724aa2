//! A snapshot: a volume as it was.
//!
//! ```text
//!  create ──► creating ──► available        delete: gone at once
//!                 └──────► error
//! ```
//! Making one turns the layer that its volume writes to into the snapshot's, and gives the volume a new one over it. Where
//! nobody has the volume open, the reconciler does both; else whoever has it open switches over first
//! ([`crate::VolumeStatus::next_layer`]), and the rule of volumes gives the old layer to the snapshots that wait for it.

pub mod api;
pub mod rules;

use std::collections::BTreeMap;

use madang_store::{Indexes, Kind};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::words::words;

/// The kind of snapshots. `metadata.name` is the id.
pub struct Snapshot;

impl Kind for Snapshot {
    const NAME: &'static str = "volumesnapshots";
    type Spec = SnapshotSpec;
    type Status = SnapshotStatus;

    fn indexes() -> Indexes<Self> {
        Indexes::<Self>::new()
            .on("volume", |r| vec![r.spec.volume.clone()])
            .on("state", |r| vec![r.status.state.as_str().to_owned()])
            .on("group_snapshot", |r| r.spec.group_snapshot.iter().cloned().collect())
    }
}

/// What was asked of a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SnapshotSpec {
    /// What the user calls it.
    #[serde(default)]
    pub name: Option<String>,
    /// Free text.
    #[serde(default)]
    pub description: Option<String>,
    /// The volume's id.
    pub volume: String,
    /// The volume's size in GiB at that time.
    pub size_gib: u32,
    /// The volume's type at that time.
    #[serde(default)]
    pub volume_type: Option<String>,
    /// The user who made it.
    pub user: String,
    /// The user's own words.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    /// The group snapshot it is part of.
    #[serde(default)]
    pub group_snapshot: Option<String>,
    /// The file of the host that it is to be.
    #[serde(default)]
    pub file: Option<String>,
}

words! {
    /// Where a snapshot is on its way. Source: Cinder's `SnapshotStatus`.
    SnapshotState {
        /// Being made.
        Creating = "creating",
        /// There.
        Available = "available",
        /// Going.
        Deleting = "deleting",
        /// Could not be made.
        Error = "error",
        /// Could not be removed.
        ErrorDeleting = "error_deleting",
        /// A backup reads it.
        BackingUp = "backing-up",
        /// Its volume goes back to it.
        Restoring = "restoring",
        /// Its volume lets go of it.
        Unmanaging = "unmanaging",
    }
}

/// What is seen of a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SnapshotStatus {
    /// Where it is on its way. Written by the reconciler and by admins.
    #[serde(default)]
    pub state: SnapshotState,
    /// Its layer, once it is made.
    #[serde(default)]
    pub layer: Option<Uuid>,
    /// How much is done, in percent.
    #[serde(default)]
    pub progress: Option<u8>,
    /// What went wrong.
    #[serde(default)]
    pub fault: Option<String>,
    /// It passes to another project with its volume.
    #[serde(default)]
    pub is_moving: bool,
}
