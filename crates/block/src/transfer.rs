//! A transfer: a volume that waits for another project to take it, with a key that only its donor was told.
//!
//! Taking it moves the volume, and its snapshots with it, into the other project in one transaction: bytes, layers and ids
//! stay. A transfer that was taken or taken back is gone.

pub mod api;
pub mod verbs;

use madang_store::{Indexes, Kind};
use serde::{Deserialize, Serialize};

/// The kind of transfers. `metadata.name` is the id; it belongs to the donor.
pub struct Transfer;

impl Kind for Transfer {
    const NAME: &'static str = "volumetransfers";
    type Spec = TransferSpec;
    type Status = TransferStatus;

    fn indexes() -> Indexes<Self> {
        Indexes::<Self>::new().on("volume", |r| vec![r.spec.volume.clone()])
    }
}

/// What was asked of a transfer. Written once.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TransferSpec {
    /// What the donor calls it.
    #[serde(default)]
    pub name: Option<String>,
    /// The volume's id.
    pub volume: String,
    /// The volume's snapshots stay with the donor.
    #[serde(default)]
    pub without_snapshots: bool,
    /// What the key is hashed with, in hex.
    pub salt: String,
    /// SHA-256 of the salt and the key, in hex.
    pub hash: String,
}

/// Nothing is seen of a transfer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TransferStatus {}
