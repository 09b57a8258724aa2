//! An attachment: a volume and who uses it.
//!
//! ```text
//!  reserved ──► attaching ──► attached ──► detaching ──► gone
//! ```
//! For a server, compute makes it with the server as its owner and its agent moves it along; for others, the API's clients
//! do. The rule of attachments keeps [`crate::VolumeStatus::attachments`], and with it the volume's state.

pub mod api;
pub mod rules;

use jiff::Timestamp;
use madang_host::workload::{DiskBus, DiskKind};
use madang_store::{Indexes, Kind};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::words::words;

/// The finalizer under which a host's agent holds an attachment while a workload may have the volume open.
pub const AGENT_FINALIZER: &str = "agent";

/// The kind of attachments. `metadata.name` is the id, `metadata.project` the volume's.
pub struct Attachment;

impl Kind for Attachment {
    const NAME: &'static str = "volumeattachments";
    type Spec = AttachmentSpec;
    type Status = AttachmentStatus;

    fn indexes() -> Indexes<Self> {
        Indexes::<Self>::new()
            .on("volume", |r| vec![r.spec.volume.clone()])
            .on("server", |r| r.spec.server.iter().cloned().collect())
    }
}

/// What was asked of an attachment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AttachmentSpec {
    /// The volume's id.
    pub volume: String,
    /// The server's id; none for a host.
    #[serde(default)]
    pub server: Option<String>,
    /// Read only rather than read and write.
    #[serde(default)]
    pub is_read_only: bool,
    /// Where it is seen: `/dev/vdb`.
    #[serde(default)]
    pub mountpoint: Option<String>,
    /// Who connects, as it says itself.
    #[serde(default)]
    pub connector: Option<Map<String, Value>>,
    /// How a server sees it; none for what compute did not make.
    #[serde(default)]
    pub device: Option<Device>,
}

/// How a server sees a volume. Written by compute.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Device {
    /// The user's tag, which the guest finds in its metadata.
    #[serde(default)]
    pub tag: Option<String>,
    /// What it is plugged in as; the driver's choice when none.
    #[serde(default)]
    pub bus: Option<DiskBus>,
    /// A disk or a medium in a drive.
    #[serde(default)]
    pub kind: DiskKind,
    /// Its turn when the firmware looks for something to start, from 0; never when none.
    #[serde(default)]
    pub boot_index: Option<u32>,
    /// The volume goes when the server goes.
    #[serde(default)]
    pub delete_on_termination: bool,
    /// Its place among the server's disks.
    #[serde(default)]
    pub order: u32,
    /// The attachment in whose stead it comes: the guest goes on with this volume, and that one goes.
    #[serde(default)]
    pub replaces: Option<String>,
}

words! {
    /// How far an attachment is. Source: Cinder's `VolumeAttachStatus`.
    AttachState {
        /// Promised.
        Reserved = "reserved",
        /// Being made.
        Attaching = "attaching",
        /// There.
        Attached = "attached",
        /// Being taken away.
        Detaching = "detaching",
        /// Could not be made.
        ErrorAttaching = "error_attaching",
    }
}

/// What is seen of an attachment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AttachmentStatus {
    /// How far it is. Written by the agent of the server's host, or by the API's clients.
    #[serde(default)]
    pub state: AttachState,
    /// When it was attached.
    #[serde(default)]
    pub attached: Option<Timestamp>,
    /// When it was taken away.
    #[serde(default)]
    pub detached: Option<Timestamp>,
    /// The host it is on.
    #[serde(default)]
    pub host: Option<String>,
    /// Why it could not be attached.
    #[serde(default)]
    pub fault: Option<String>,
}
