//! An address scope: subnet pools whose addresses never overlap, so that networks cut from them can be routed to each other
//! as they are.
//!
//! A router passes nothing from a network of one scope to a network of another (those without one are in a scope of their
//! own), and translates nothing between networks of one.

pub mod api;
pub(crate) mod rules;

use madang_store::{Indexes, Kind};
use serde::{Deserialize, Serialize};

/// The kind of address scopes. `metadata.name` is the id.
pub struct AddressScope;

impl Kind for AddressScope {
    const NAME: &'static str = "addressscopes";
    type Spec = AddressScopeSpec;
    type Status = AddressScopeStatus;

    fn indexes() -> Indexes<Self> {
        Indexes::new()
    }
}

/// What was asked of a scope.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressScopeSpec {
    /// What the user calls it.
    pub name: String,
    /// Which version of IP: 4 or 6.
    pub ip_version: u8,
    /// Every project may put its pools into it.
    #[serde(default)]
    pub is_shared: bool,
}

/// Nothing is seen of a scope itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AddressScopeStatus {}
