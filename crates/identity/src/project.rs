//! Projects, and domains, which are the projects at the roots of the tree.
//!
//! A domain owns projects, users and groups; a project owns everything else of a cloud. `metadata.name` is the id, 32
//! hexadecimal digits (or `default`). Names are unique among domains, and among the projects of a domain.

pub mod api;
pub mod domains;
pub mod rules;
pub mod tags;

use jiff::Timestamp;
use madang_store::{Indexes, Key, Kind, Resource};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The kind of projects and domains.
#[derive(Debug)]
pub struct Project;

/// What a project or a domain is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProjectSpec {
    /// What users call it, 1 to 64 characters.
    pub name: String,
    /// Whether it is a domain.
    #[serde(default)]
    pub is_domain: bool,
    /// The domain it is in; a domain's is empty.
    #[serde(default)]
    pub domain_id: String,
    /// The project above it, or its domain at the top; a domain's is empty.
    #[serde(default)]
    pub parent_id: String,
    /// Free text.
    #[serde(default)]
    pub description: String,
    /// Whether tokens for it are given and taken.
    pub enabled: bool,
    /// Tags in the order they were given.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Keystone's resource options; `immutable` is the only one.
    #[serde(default)]
    pub options: Map<String, Value>,
    /// What clients keep beside.
    #[serde(default)]
    pub extra: Map<String, Value>,
    /// Tokens issued for it (or, for a domain, within it) up to then are void. Set when it is disabled.
    #[serde(default)]
    pub tokens_void_until: Option<Timestamp>,
}

impl Kind for Project {
    const NAME: &'static str = "projects";
    type Spec = ProjectSpec;
    type Status = ();

    fn indexes() -> Indexes<Self> {
        Indexes::<Self>::new()
            .on("domain", |r| vec![r.spec.domain_id.clone()])
            .on("parent", |r| vec![r.spec.parent_id.clone()])
            .on("name", |r| vec![name_key(&r.spec.domain_id, &r.spec.name)])
    }
}

impl Project {
    /// Where a project is stored.
    pub fn key(id: &str) -> Key {
        Key::new(Self::NAME, "", "", id)
    }
}

/// What names are unique by, as an index value and as a reservation.
pub(crate) fn name_key(domain_id: &str, name: &str) -> String {
    format!("{domain_id}\n{name}")
}

/// Whether changes are refused until the option is taken off.
pub(crate) fn is_immutable(options: &Map<String, Value>) -> bool {
    options.get("immutable") == Some(&Value::Bool(true))
}

/// The id of the domain that a project is in; a domain is in itself.
pub(crate) fn domain_of(project: &Resource<Project>) -> &str {
    if project.spec.is_domain {
        project.name()
    } else {
        &project.spec.domain_id
    }
}
