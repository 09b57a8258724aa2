//! Flavors of network services, and the profiles that say what is behind one.
//!
//! A flavor is what users choose by name. Nothing here has more than one way to be done, so there are no drivers that a
//! profile could name: it has words of its own (`metainfo`) for those who read them.

pub mod api;
pub(crate) mod rules;

use madang_store::{Indexes, Kind};
use serde::{Deserialize, Serialize};

/// The kind of flavors. `metadata.name` is the id; they are no project's.
pub struct Flavor;

impl Kind for Flavor {
    const NAME: &'static str = "networkflavors";
    type Spec = FlavorSpec;
    type Status = FlavorStatus;

    fn indexes() -> Indexes<Self> {
        Indexes::<Self>::new().on("profile", |r| r.spec.profiles.clone())
    }
}

/// What was asked of a flavor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlavorSpec {
    /// What it is called.
    #[serde(default)]
    pub name: String,
    /// Free text.
    #[serde(default)]
    pub description: String,
    /// Which service it is of, in Neutron's words: `L3_ROUTER_NAT`.
    pub service_type: String,
    /// It may be chosen.
    pub is_enabled: bool,
    /// Ids of its profiles.
    #[serde(default)]
    pub profiles: Vec<String>,
}

/// Nothing is seen of a flavor.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FlavorStatus {}

/// The kind of profiles. `metadata.name` is the id.
pub struct ServiceProfile;

impl Kind for ServiceProfile {
    const NAME: &'static str = "networkserviceprofiles";
    type Spec = ServiceProfileSpec;
    type Status = ServiceProfileStatus;
}

/// What was asked of a profile.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceProfileSpec {
    /// Free text.
    #[serde(default)]
    pub description: String,
    /// What those who read it understand.
    #[serde(default)]
    pub metainfo: String,
    /// It may be used.
    pub is_enabled: bool,
}

/// Nothing is seen of a profile.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServiceProfileStatus {}
