//! A volume: a disk that outlives the servers it is attached to.
//!
//! ```text
//!  create ──► creating ──► available ◄──► reserved ──► attaching ──► in-use ──► detaching ──► available
//!                 │            │  ▲                                     │ ▲
//!                 ▼            ▼  │ (extend, upload, revert, back up)   ▼ │
//!               error       extending, uploading, reverting …        extending …
//! ```
//! Attachments move a volume between `available` and `in-use` ([`VolumeStatus::settle`], from what [`VolumeStatus`] says of
//! each of them). Everything else that takes time is a [`Task`]: the reconciler does it and goes back to where it was; a
//! restart finds the task and does it again. A deleted volume is gone at once; its bytes go with its layer.

pub mod api;
pub mod rules;
pub mod verbs;

use std::collections::BTreeMap;

use madang_store::{Indexes, Kind};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{attachment::AttachState, words::words};

/// Bytes in a GiB, the unit of volumes' sizes.
pub const GIB: u64 = 1 << 30;

/// The kind of volumes. `metadata.name` is the id.
pub struct Volume;

impl Kind for Volume {
    const NAME: &'static str = "volumes";
    type Spec = VolumeSpec;
    type Status = VolumeStatus;

    fn indexes() -> Indexes<Self> {
        Indexes::<Self>::new()
            .on("state", |r| vec![r.status.state.as_str().to_owned()])
            .on("type", |r| r.spec.volume_type.iter().cloned().collect())
            .on("group", |r| r.spec.group.iter().cloned().collect())
            .on("source", |r| {
                r.spec.source.id().map(str::to_owned).into_iter().collect()
            })
    }
}

/// What was asked of a volume. Written by its verbs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct VolumeSpec {
    /// What the user calls it; need not be unique, need not be there.
    #[serde(default)]
    pub name: Option<String>,
    /// Free text.
    #[serde(default)]
    pub description: Option<String>,
    /// Its size in GiB.
    pub size_gib: u32,
    /// The user who made it.
    pub user: String,
    /// Where it is to be.
    pub availability_zone: String,
    /// The id of its type.
    #[serde(default)]
    pub volume_type: Option<String>,
    /// What it begins as.
    #[serde(default)]
    pub source: Source,
    /// The user's own words.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    /// What the image it was made from says of itself; none when it was made from no image.
    #[serde(default)]
    pub image_metadata: BTreeMap<String, String>,
    /// Servers may start from it.
    #[serde(default)]
    pub is_bootable: bool,
    /// Nobody may write to it; none where nothing was said.
    #[serde(default)]
    pub is_read_only: Option<bool>,
    /// Several servers may have it at a time.
    #[serde(default)]
    pub is_multiattach: bool,
    /// Its type asks for encryption.
    #[serde(default)]
    pub is_encrypted: bool,
    /// The group it is in.
    #[serde(default)]
    pub group: Option<String>,
}

/// What a volume begins as.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Zeros.
    #[default]
    Blank,
    /// An image's bytes.
    Image(String),
    /// A snapshot's bytes.
    Snapshot(String),
    /// Another volume's bytes as they were when it was asked.
    Volume(String),
    /// A backup's bytes.
    Backup(String),
    /// A file of the host, by its name.
    File(String),
}

impl Source {
    /// The id of what it begins as.
    pub fn id(&self) -> Option<&str> {
        match self {
            Self::Blank => None,
            Self::Image(id) | Self::Snapshot(id) | Self::Volume(id) | Self::Backup(id) | Self::File(id) => Some(id),
        }
    }
}

words! {
    /// Where a volume is on its way. Source: Cinder's `VolumeStatus`.
    VolumeState {
        /// Its bytes are being made.
        Creating = "creating",
        /// Nobody uses it.
        Available = "available",
        /// Somebody will use it.
        Reserved = "reserved",
        /// It is being attached.
        Attaching = "attaching",
        /// It is being detached.
        Detaching = "detaching",
        /// Somebody uses it.
        InUse = "in-use",
        /// An admin keeps it from use.
        Maintenance = "maintenance",
        /// It goes.
        Deleting = "deleting",
        /// It waits for another project to take it.
        AwaitingTransfer = "awaiting-transfer",
        /// It could not be made.
        Error = "error",
        /// It could not be removed.
        ErrorDeleting = "error_deleting",
        /// A backup reads it.
        BackingUp = "backing-up",
        /// A backup is written to it.
        Restoring = "restoring-backup",
        /// The backup failed.
        ErrorBackingUp = "error_backing-up",
        /// The restore failed.
        ErrorRestoring = "error_restoring",
        /// It could not grow.
        ErrorExtending = "error_extending",
        /// An image's bytes come in.
        Downloading = "downloading",
        /// Its bytes become an image.
        Uploading = "uploading",
        /// It changes its type.
        Retyping = "retyping",
        /// It grows.
        Extending = "extending",
        /// It goes back to a snapshot.
        Reverting = "reverting",
        /// A file of the host becomes a volume.
        Managing = "managing",
        /// Its bytes are left to the host.
        Unmanaging = "unmanaging",
        /// It could not.
        ErrorManaging = "error_managing",
    }
}

impl VolumeState {
    /// Whether attachments alone decide it.
    pub fn follows_attachments(self) -> bool {
        matches!(
            self,
            Self::Available | Self::Reserved | Self::Attaching | Self::Detaching | Self::InUse
        )
    }
}

/// What is being done to a volume beside making it; its arguments, so that a restart can do it again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// Grow to so many GiB; the quota has them already.
    Extend {
        /// The new size.
        size_gib: u32,
    },
    /// Become as a snapshot was.
    Revert {
        /// Its id.
        snapshot: String,
    },
    /// Become an image.
    Upload {
        /// The image's id; it is there and waits for bytes.
        image: String,
        /// What the bytes shall be: `raw`, `qcow2`, ….
        format: String,
    },
    /// Begin anew as an image.
    Reimage {
        /// Its id.
        image: String,
    },
    /// Leave its bytes to the host, and go.
    Unmanage,
    /// Become as a backup is.
    Restore {
        /// Its id.
        backup: String,
    },
}

/// What is seen of a volume.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct VolumeStatus {
    /// Where it is on its way. Written by verbs, the reconciler and the rule of attachments.
    #[serde(default)]
    pub state: VolumeState,
    /// What is being done, while `state` says that something is.
    #[serde(default)]
    pub task: Option<Task>,
    /// Where it is: `host@backend#pool`. Written by the reconciler.
    #[serde(default)]
    pub host: Option<String>,
    /// The layer it is written to; none until it is made. Written by the reconciler and whoever switches layers.
    #[serde(default)]
    pub layer: Option<Uuid>,
    /// The layer it is to be written to next: who has it attached switches over and says so in `layer`. For a clone that is
    /// to be made, the layer it will stand on.
    #[serde(default)]
    pub next_layer: Option<Uuid>,
    /// Its attachments and how far each is. Written by the rule of attachments.
    #[serde(default)]
    pub attachments: BTreeMap<String, AttachState>,
    /// How many snapshots it has. Written by the rule of snapshots; while there is one, the volume stays.
    #[serde(default)]
    pub snapshots: u32,
    /// How many clones of it are still to be made. Written by the rule of volumes.
    #[serde(default)]
    pub clones: u32,
    /// What went wrong last, for the user.
    #[serde(default)]
    pub fault: Option<String>,
    /// The request that asked for what is being done, for the message should it fail. Written by the rule of volumes.
    #[serde(default)]
    pub request: String,
    /// What Cinder says of migrations.
    #[serde(default)]
    pub migration: Option<String>,
    /// It passes from one project to another in this transaction: its layer and its attachments stay.
    #[serde(default)]
    pub is_moving: bool,
}

impl VolumeStatus {
    /// What its attachments make of its state.
    pub fn settled(&self) -> VolumeState {
        let has = |state| self.attachments.values().any(|is| *is == state);
        if has(AttachState::Detaching) {
            VolumeState::Detaching
        } else if has(AttachState::Attached) {
            VolumeState::InUse
        } else if has(AttachState::Attaching) || has(AttachState::ErrorAttaching) {
            VolumeState::Attaching
        } else if has(AttachState::Reserved) {
            VolumeState::Reserved
        } else {
            VolumeState::Available
        }
    }

    /// Ends what was being done and goes to where its attachments are.
    pub fn settle(&mut self) {
        self.task = None;
        self.state = self.settled();
    }

    /// Whether somebody may have it open now.
    pub fn is_connected(&self) -> bool {
        self.attachments.values().any(|state| *state != AttachState::Reserved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attachments_decide_the_state() {
        let mut status = VolumeStatus::default();
        assert_eq!(status.settled(), VolumeState::Available);
        for (states, wanted) in [
            (vec![AttachState::Reserved], VolumeState::Reserved),
            (
                vec![AttachState::Reserved, AttachState::Attaching],
                VolumeState::Attaching,
            ),
            (vec![AttachState::Attached, AttachState::Reserved], VolumeState::InUse),
            (
                vec![AttachState::Attached, AttachState::Detaching],
                VolumeState::Detaching,
            ),
        ] {
            status.attachments = states
                .iter()
                .enumerate()
                .map(|(i, state)| (i.to_string(), *state))
                .collect();
            assert_eq!(status.settled(), wanted, "{states:?}");
        }
    }

    #[test]
    fn every_state_has_one_word() {
        for word in VolumeState::ALL {
            assert_eq!(VolumeState::from_word(word).unwrap().as_str(), *word);
        }
        assert_eq!(VolumeState::from_word("nope"), None);
    }
}
