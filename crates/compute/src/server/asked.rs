//! What can be asked of a server beyond power and reboots. Verbs write it, the agent takes it back when it is done or
//! cannot be done; of a [`Move`] each writes its own stages.
//!
//! ```text
//!            no host                                    (control) back as it was
//!  Placing ──────────► Failed ────────────────────────► none
//!     │ claim placed (same transaction)
//!     ▼  stopped            started there              confirmed: the new place and size are its own
//!  Leaving ─────► Arriving ─────────────► Arrived ────► none
//!                    │ cannot start          │ reverted
//!                    └──────────► Reverting ◄┘
//!                                     │ stopped     started where it was
//!                                     └──► Returning ───► none
//! ```
//! The old place is set aside under the migration's name until the new one is confirmed or given up. A live migration
//! ends with *Leaving*: what runs there runs on here, and nobody has to confirm it.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{LocalDiskSpec, ServerSpec};
use crate::{FlavorSpec, Power};

/// What is asked of a server at the moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Asked {
    /// Rebuilds so far.
    pub rebuilds: u64,
    /// The image that the next rebuild writes anew into the volume it starts from.
    pub reimage: Option<String>,
    /// To run from another root, its own beside.
    pub rescue: Option<Rescue>,
    /// A copy of its root.
    pub snapshot: Option<Snapshot>,
    /// To be put away.
    pub shelf: Option<Shelf>,
    /// Another size or place.
    pub moving: Option<Move>,
}

/// A rescue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rescue {
    /// The image to run from.
    pub image: String,
}

/// A copy of a server's root, into an image that is there already, without bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The image's id.
    pub image: String,
    /// For backups: how many of which sort stay.
    #[serde(default)]
    pub rotation: Option<Rotation>,
}

/// How many backups stay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotation {
    /// The sort of backup, such as `daily`; each is counted by itself.
    pub sort: String,
    /// The newest so many.
    pub keep: u32,
}

/// Being put away.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shelf {
    /// The image that takes its root; none when the root is a volume.
    #[serde(default)]
    pub image: Option<String>,
    /// Leaves its host, too.
    #[serde(default)]
    pub offload: bool,
}

/// A change of size or place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Move {
    /// The migration's record, and the name of the claim on the old place.
    pub migration: Uuid,
    /// What sort of change.
    pub kind: MoveKind,
    /// The flavor before, by id.
    pub old_flavor_id: String,
    /// The flavor before.
    pub old_flavor: FlavorSpec,
    /// The host's disks that it had before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub old_disks: Vec<LocalDiskSpec>,
    /// Where it was.
    pub source: String,
    /// Where it goes, once that is known.
    #[serde(default)]
    pub target: Option<String>,
    /// Whether it ran before.
    pub power: Power,
    /// How far it is.
    #[serde(default)]
    pub stage: Stage,
    /// Why it did not come about.
    #[serde(default)]
    pub failure: Option<String>,
    /// Where there was no host: what each filter left, a line for each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusals: Option<String>,
}

impl Move {
    /// Gives a server the size that it had before.
    pub(crate) fn give_size_back(&self, spec: &mut ServerSpec) {
        spec.flavor_id.clone_from(&self.old_flavor_id);
        spec.flavor = self.old_flavor.clone();
        spec.disks.clone_from(&self.old_disks);
    }
}

/// Sorts of moves. Source: Nova's `migration_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MoveKind {
    /// To another flavor, on any host.
    Resize,
    /// To another host, off meanwhile.
    Migration,
    /// From a host that is down, built anew.
    Evacuation,
    /// To another host, as it runs.
    LiveMigration,
}

impl MoveKind {
    /// Nova's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Resize => "resize",
            Self::Migration => "migration",
            Self::Evacuation => "evacuation",
            Self::LiveMigration => "live-migration",
        }
    }
}

/// How far a move is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Waits for a place.
    #[default]
    Placing,
    /// There is none.
    Failed,
    /// Has a place, is to leave its host.
    Leaving,
    /// Is to start there.
    Arriving,
    /// Is there, and waits for a word.
    Arrived,
    /// Is to leave again.
    Reverting,
    /// Is to start where it was.
    Returning,
}

impl Asked {
    /// How far its move is, if there is one.
    pub fn stage(&self) -> Option<Stage> {
        self.moving.as_ref().map(|moving| moving.stage)
    }
}
