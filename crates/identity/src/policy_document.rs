//! Policy documents that operators keep in identity for services to fetch. They are kept and given back, nothing more:
//! what this cloud allows is decided by [`crate::policy`].

pub mod api;
pub mod association;

use madang_store::{Key, Kind};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The kind of policy documents.
#[derive(Debug)]
pub struct PolicyDocument;

/// What a policy document is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PolicyDocumentSpec {
    /// The media type of the document.
    #[serde(rename = "type")]
    pub media_type: String,
    /// The document.
    pub blob: String,
    /// What clients keep beside.
    #[serde(default)]
    pub extra: Map<String, Value>,
}

impl Kind for PolicyDocument {
    const NAME: &'static str = "policies";
    type Spec = PolicyDocumentSpec;
    type Status = ();
}

impl PolicyDocument {
    /// Where a policy document is stored.
    pub fn key(id: &str) -> Key {
        Key::new(Self::NAME, "", "", id)
    }
}
