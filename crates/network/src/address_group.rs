//! An address group: addresses that rules of security groups name together as peers. Changing it changes all of them.

pub mod api;
pub(crate) mod rules;

use ipnet::IpNet;
use madang_store::{Indexes, Kind};
use serde::{Deserialize, Serialize};

/// The kind of address groups. `metadata.name` is the id.
pub struct AddressGroup;

impl Kind for AddressGroup {
    const NAME: &'static str = "addressgroups";
    type Spec = AddressGroupSpec;
    type Status = AddressGroupStatus;

    fn indexes() -> Indexes<Self> {
        Indexes::new()
    }
}

/// What was asked of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressGroupSpec {
    /// What the user calls it.
    #[serde(default)]
    pub name: String,
    /// Free text.
    #[serde(default)]
    pub description: String,
    /// Ranges of either version of IP, without host bits, none twice.
    #[serde(default)]
    pub addresses: Vec<IpNet>,
}

/// Nothing is seen of a group itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AddressGroupStatus {}
