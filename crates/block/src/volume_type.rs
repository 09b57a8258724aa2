//! A volume type: what a user chooses among, and what an admin says of it (extra specs, access, encryption, QoS).

pub mod api;
pub mod rules;
pub mod specs;

use std::collections::{BTreeMap, BTreeSet};

use madang_store::{Indexes, Kind, Resource, Store};
use serde::{Deserialize, Serialize};

/// The name of the type that a cloud begins with, as Cinder's.
pub const DEFAULT_NAME: &str = "__DEFAULT__";

/// The kind of volume types. `metadata.name` is the id; they belong to the cloud.
pub struct VolumeType;

impl Kind for VolumeType {
    const NAME: &'static str = "volumetypes";
    type Spec = VolumeTypeSpec;
    type Status = VolumeTypeStatus;

    fn indexes() -> Indexes<Self> {
        Indexes::<Self>::new()
            .on("name", |r| vec![r.spec.name.clone()])
            .on("qos", |r| r.spec.qos_specs.iter().cloned().collect())
    }
}

/// What was said of a type.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct VolumeTypeSpec {
    /// Its name; unique.
    pub name: String,
    /// Free text.
    #[serde(default)]
    pub description: Option<String>,
    /// Everybody may use it.
    pub is_public: bool,
    /// What a back end is to give: `multiattach = <is> True`, `volume_backend_name = file`, ….
    #[serde(default)]
    pub extra_specs: BTreeMap<String, String>,
    /// The projects that may use it when it is not public.
    #[serde(default)]
    pub access: BTreeSet<String>,
    /// The id of its QoS specs.
    #[serde(default)]
    pub qos_specs: Option<String>,
    /// How its volumes are encrypted.
    #[serde(default)]
    pub encryption: Option<Encryption>,
}

/// How volumes of a type are encrypted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Encryption {
    /// Its id.
    pub id: String,
    /// `luks`, or a class of Nova's.
    pub provider: String,
    /// Such as `aes-xts-plain64`.
    #[serde(default)]
    pub cipher: Option<String>,
    /// In bits.
    #[serde(default)]
    pub key_size: Option<u32>,
    /// `front-end` or `back-end`.
    pub control_location: String,
}

/// Nothing is seen of a type.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct VolumeTypeStatus {}

impl VolumeTypeSpec {
    /// Whether a project may use it.
    pub fn is_open_to(&self, project: &str) -> bool {
        self.is_public || self.access.contains(project)
    }

    /// Whether several servers may have its volumes at a time.
    pub fn is_multiattach(&self) -> bool {
        self.extra_specs
            .get("multiattach")
            .is_some_and(|said| said.trim_start_matches("<is>").trim().eq_ignore_ascii_case("true"))
    }
}

/// The type of a project's volumes where nothing is said; `metadata.name` is the project's id.
pub struct DefaultType;

impl Kind for DefaultType {
    const NAME: &'static str = "volumedefaulttypes";
    type Spec = DefaultTypeSpec;
    type Status = VolumeTypeStatus;
}

/// Which type that is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DefaultTypeSpec {
    /// Its id.
    pub volume_type: String,
}

/// A type by id or name.
pub fn find(store: &Store, id_or_name: &str) -> Option<std::sync::Arc<Resource<VolumeType>>> {
    let types = store.cache::<VolumeType>();
    types.by_name(id_or_name).or_else(|| types.by("name", id_or_name).pop())
}

/// The type of a project's volumes where nothing is said.
pub fn default_of(store: &Store, project: &str) -> Option<std::sync::Arc<Resource<VolumeType>>> {
    let chosen = store.cache::<DefaultType>().by_name(project);
    chosen
        .and_then(|chosen| store.cache::<VolumeType>().by_name(&chosen.spec.volume_type))
        .or_else(|| find(store, DEFAULT_NAME))
}
