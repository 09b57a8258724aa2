//! A backup: a volume's bytes as they were, kept apart from the volumes in a [vault](crate::vault).
//!
//! ```text
//!  create ──► creating ──► available ◄──► restoring        delete: deleting, gone once its bytes are
//!                 └──────► error
//! ```
//! While it is made it holds the layer that it reads, so that the volume may be written to, grow, or go meanwhile. An
//! incremental backup names the bytes of its ancestors for what did not change, and they stay as long as it does. What a
//! crash interrupts begins anew at the next start.

pub mod api;
pub mod record;
pub mod rules;
pub mod verbs;

use std::collections::BTreeMap;

use jiff::Timestamp;
use madang_store::{Indexes, Kind};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::words::words;

/// Keeps a deleted backup until its bytes are gone.
pub const FINALIZER: &str = "vault";

/// The kind of backups. `metadata.name` is the id.
pub struct Backup;

impl Kind for Backup {
    const NAME: &'static str = "volumebackups";
    type Spec = BackupSpec;
    type Status = BackupStatus;

    fn indexes() -> Indexes<Self> {
        Indexes::<Self>::new()
            .on("volume", |r| vec![r.spec.volume.clone()])
            .on("parent", |r| r.spec.parent.iter().cloned().collect())
            .on("data", |r| vec![r.spec.data.clone()])
    }
}

/// What was asked of a backup.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BackupSpec {
    /// What the user calls it.
    #[serde(default)]
    pub name: Option<String>,
    /// Free text.
    #[serde(default)]
    pub description: Option<String>,
    /// The volume's id.
    pub volume: String,
    /// The snapshot that it was made of.
    #[serde(default)]
    pub snapshot: Option<String>,
    /// The volume's size in GiB.
    pub size_gib: u32,
    /// The user who made it.
    pub user: String,
    /// What the user calls the place of its bytes.
    #[serde(default)]
    pub container: Option<String>,
    /// Where it is to be.
    #[serde(default)]
    pub availability_zone: Option<String>,
    /// The user's own words.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    /// The backup that it stands on; none for a full one.
    #[serde(default)]
    pub parent: Option<String>,
    /// The name of its bytes in the vault. Two records may name the same bytes.
    pub data: String,
    /// When its bytes were those of the volume; none for the time it was asked.
    #[serde(default)]
    pub data_timestamp: Option<Timestamp>,
    /// What the volume said of itself, which a restored one says again.
    #[serde(default)]
    pub of: Origin,
}

/// What a backup remembers of its volume beside the bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// What it was called.
    #[serde(default)]
    pub name: Option<String>,
    /// Its description.
    #[serde(default)]
    pub description: Option<String>,
    /// Its user's words.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    /// Its image's words.
    #[serde(default)]
    pub image_metadata: BTreeMap<String, String>,
    /// Servers could start from it.
    #[serde(default)]
    pub is_bootable: bool,
}

words! {
    /// Where a backup is on its way. Source: Cinder's `BackupStatus`.
    BackupState {
        /// Its bytes are being written.
        Creating = "creating",
        /// There.
        Available = "available",
        /// Going.
        Deleting = "deleting",
        /// Could not be made.
        Error = "error",
        /// Could not be removed.
        ErrorDeleting = "error_deleting",
        /// A volume is made of it.
        Restoring = "restoring",
    }
}

/// What is seen of a backup.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BackupStatus {
    /// Where it is on its way.
    #[serde(default)]
    pub state: BackupState,
    /// The layer it reads, while it is made.
    #[serde(default)]
    pub layer: Option<Uuid>,
    /// How many objects of its own it has in the vault so far.
    #[serde(default)]
    pub objects: u32,
    /// Bytes of its own in the vault.
    #[serde(default)]
    pub stored: u64,
    /// What went wrong.
    #[serde(default)]
    pub fault: Option<String>,
}
