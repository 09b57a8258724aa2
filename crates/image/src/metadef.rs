//! Metadata definitions: what keys may stand on images, flavors and volumes, and what they mean. Catalogues for people and
//! dashboards; nothing in the cloud is decided by them.
//!
//! A namespace holds everything that is in it, so that each change is one write of one resource. Its name is unique in the
//! whole cloud and may change.

pub mod api;
pub mod rules;
mod schema;

use indexmap::IndexMap;
use jiff::Timestamp;
use madang_store::{Indexes, Kind};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The kind of namespaces of definitions. `metadata.name` is an id that nobody sees; its project is who made it.
pub struct Namespace;

impl Kind for Namespace {
    const NAME: &'static str = "metadef-namespaces";
    type Spec = NamespaceSpec;
    type Status = ();

    fn indexes() -> Indexes<Self> {
        Indexes::<Self>::new()
            .on("namespace", |r| vec![r.spec.namespace.clone()])
            .on("owner", |r| vec![r.spec.owner.clone()])
            .on("public", |r| vec![r.spec.is_public.to_string()])
    }
}

/// A namespace. Written by the verbs in [`rules`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NamespaceSpec {
    /// Its name, at most 80 characters; unique in the cloud.
    pub namespace: String,
    /// For people.
    #[serde(default)]
    pub display_name: Option<String>,
    /// For people.
    #[serde(default)]
    pub description: Option<String>,
    /// Everybody sees it, not only its owner's project.
    #[serde(default)]
    pub is_public: bool,
    /// Nothing of it can be deleted.
    #[serde(default)]
    pub is_protected: bool,
    /// The project it belongs to.
    pub owner: String,
    /// What it is for, in the order of association.
    #[serde(default)]
    pub resource_types: Vec<Association>,
    /// Groups of properties, by name.
    #[serde(default)]
    pub objects: IndexMap<String, Part>,
    /// Properties, by name.
    #[serde(default)]
    pub properties: IndexMap<String, Part>,
    /// Tags, by name.
    #[serde(default)]
    pub tags: IndexMap<String, Part>,
}

/// What sort of resource a namespace's properties are for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Association {
    /// Such as `OS::Glance::Image`.
    pub name: String,
    /// What stands before the names of properties there.
    #[serde(default)]
    pub prefix: Option<String>,
    /// Which of its properties are meant, such as `image` of a volume.
    #[serde(default)]
    pub properties_target: Option<String>,
    /// When.
    pub created: Timestamp,
}

/// An object, a property or a tag, without its name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// As it came, checked against its schema.
    pub body: Map<String, Value>,
    /// When it was made.
    pub created: Timestamp,
    /// When it last changed.
    pub updated: Timestamp,
}

/// The three sorts of parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sort {
    Object,
    Property,
    Tag,
}

impl Sort {
    /// The parts of a namespace that are of this sort.
    pub fn of(self, spec: &NamespaceSpec) -> &IndexMap<String, Part> {
        match self {
            Self::Object => &spec.objects,
            Self::Property => &spec.properties,
            Self::Tag => &spec.tags,
        }
    }

    /// As [`Sort::of`], to be changed.
    pub fn of_mut(self, spec: &mut NamespaceSpec) -> &mut IndexMap<String, Part> {
        match self {
            Self::Object => &mut spec.objects,
            Self::Property => &mut spec.properties,
            Self::Tag => &mut spec.tags,
        }
    }

    /// One of them, in Glance's words.
    pub fn word(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Property => "property",
            Self::Tag => "tag",
        }
    }

    /// Several, as in paths and bodies.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Object => "objects",
            Self::Property => "properties",
            Self::Tag => "tags",
        }
    }
}
