//! Messages: why something that was asked failed, for the user who asked.
//!
//! Whoever writes a failure down writes its message in the same transaction. They are kept for a while, or until they are
//! deleted.

pub mod api;

use jiff::{SignedDuration, Timestamp};
use madang_store::{Indexes, Kind, Metadata, Resource, StoreError, Tx};
use serde::{Deserialize, Serialize};

/// Cinder's `message_ttl`.
const KEPT: SignedDuration = SignedDuration::from_hours(30 * 24);

/// The kind of messages. `metadata.name` is the id.
pub struct Message;

impl Kind for Message {
    const NAME: &'static str = "volumemessages";
    type Spec = MessageSpec;
    type Status = MessageStatus;

    fn indexes() -> Indexes<Self> {
        Indexes::<Self>::new().on("about", |r| vec![r.spec.about.clone()])
    }
}

/// What a message says. Written once.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MessageSpec {
    /// `VOLUME`, `VOLUME_SNAPSHOT` or `VOLUME_BACKUP`.
    pub resource: String,
    /// The id of what failed.
    pub about: String,
    /// What was tried.
    pub action: Action,
    /// Cinder's number of what went wrong.
    pub detail: String,
    /// What went wrong.
    pub text: String,
    /// The request that asked for it; empty where that is not known.
    #[serde(default)]
    pub request: String,
}

/// Nothing is seen of a message.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MessageStatus {}

/// What was tried. Source: Cinder's `message_field.Action`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Finding a place for a volume, and making it.
    #[default]
    Allocate,
    /// Making an image of a volume.
    Upload,
    /// Making a volume of an image.
    Download,
    /// Growing.
    Extend,
    /// Taking a file of the host.
    Manage,
    /// Making a snapshot.
    Snapshot,
    /// Making a backup.
    BackUp,
    /// Removing a backup.
    RemoveBackup,
    /// Making a volume of a backup.
    Restore,
    /// Beginning anew as an image.
    Reimage,
    /// Leaving a file to the host.
    Unmanage,
    /// Going back to a snapshot.
    Revert,
}

impl Action {
    /// Its number and words.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Allocate => ("001", "schedule allocate volume"),
            Self::Upload => ("003", "copy volume to image"),
            Self::Download => ("005", "copy image to volume"),
            Self::Unmanage => ("006", "unmanage volume"),
            Self::Extend => ("007", "extend volume"),
            Self::Manage => ("008", "create volume from backend storage"),
            Self::Snapshot => ("009", "create snapshot"),
            Self::BackUp => ("013", "create backup"),
            Self::RemoveBackup => ("014", "delete backup"),
            Self::Restore => ("015", "restore backup"),
            Self::Reimage => ("016", "reimage volume"),
            Self::Revert => ("017", "revert volume to snapshot"),
        }
    }
}

/// Cinder's number for an error that has none of its own.
pub const UNKNOWN: &str = "001";
/// No back end gives what a type asks for.
pub const NO_BACK_END: &str = "003";

impl MessageSpec {
    /// Cinder's id of the event.
    pub fn event(&self) -> String {
        format!("VOLUME_{}_{}_{}", self.resource, self.action.words().0, self.detail)
    }

    /// What the user reads.
    pub fn words(&self) -> String {
        format!("{}:{}", self.action.words().1, self.text)
    }
}

/// When a message may go.
pub fn expires(message: &Resource<Message>) -> Timestamp {
    message.metadata.created.saturating_add(KEPT).unwrap_or(Timestamp::MAX)
}

/// Tells a project's users what went wrong. Its messages that are too old go on this occasion.
pub(crate) fn tell(tx: &mut Tx<'_>, project: &str, spec: MessageSpec) -> Result<(), StoreError> {
    let now = tx.at();
    for old in tx.store().cache::<Message>().in_project(project) {
        if expires(&old) <= now {
            tx.delete(&old)?;
        }
    }
    tx.create(Resource::<Message>::new(Metadata::with_id(project), spec))
        .map(|_| ())
}
