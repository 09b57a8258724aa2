//! A flavor: a size of servers.

pub mod api;
pub mod seed;
pub mod specs;
mod validate;
mod view;

use std::collections::{BTreeMap, BTreeSet};

use madang_store::{Indexes, Kind};
use serde::{Deserialize, Serialize};

/// The kind of flavors. `metadata.name` is the flavor's id (any text, as in Nova), `metadata.project` is empty.
pub struct Flavor;

impl Kind for Flavor {
    const NAME: &'static str = "flavors";
    type Spec = FlavorSpec;
    type Status = FlavorStatus;

    fn indexes() -> Indexes<Self> {
        Indexes::<Self>::new().on("name", |r| vec![r.spec.name.clone()])
    }
}

/// A size. It never changes but for description, extra specs and access; servers keep a copy of the one they were made
/// with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FlavorSpec {
    /// What people call it; unique.
    pub name: String,
    /// Virtual processors.
    pub vcpus: u32,
    /// Memory in MiB.
    pub ram_mb: u32,
    /// Root disk in GiB; 0 for the image's own size.
    pub disk_gb: u32,
    /// Extra disk in GiB.
    #[serde(default)]
    pub ephemeral_gb: u32,
    /// Swap in MiB.
    #[serde(default)]
    pub swap_mb: u32,
    /// Kept and shown, without effect, as in today's Nova.
    #[serde(default = "one")]
    pub rxtx_factor: f64,
    /// For everybody, or only for the projects in `access`.
    pub is_public: bool,
    /// Cannot be used any more; kept for old clients' sake.
    #[serde(default)]
    pub is_disabled: bool,
    /// Free text.
    #[serde(default)]
    pub description: Option<String>,
    /// Hints for the host, such as `hw:cpu_policy`.
    #[serde(default)]
    pub extra_specs: BTreeMap<String, String>,
    /// The projects that may use it when it is not public.
    #[serde(default)]
    pub access: BTreeSet<String>,
}

fn one() -> f64 {
    1.0
}

/// Nothing is seen of a flavor.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FlavorStatus {}

impl FlavorSpec {
    /// Whether a project may see and use it.
    pub fn is_visible(&self, project: &str) -> bool {
        self.is_public || self.access.contains(project)
    }
}
