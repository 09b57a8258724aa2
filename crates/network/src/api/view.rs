//! What every resource shows alike.

use jiff::Timestamp;
use madang_store::{Kind, Resource};
use serde::Serialize;
use serde_json::{Map, Value};

/// An object in the making.
pub(crate) struct View(Map<String, Value>);

impl View {
    /// The attributes that every resource has.
    pub(crate) fn of<K: Kind>(resource: &Resource<K>, description: &str, tags: &[String]) -> Self {
        let metadata = &resource.metadata;
        Self(Map::with_capacity(32))
            .with("id", metadata.name.as_str())
            .with("project_id", metadata.project.as_str())
            .with("tenant_id", metadata.project.as_str())
            .with("description", description)
            .with("created_at", time(metadata.created))
            .with("updated_at", time(metadata.updated))
            .with("revision_number", resource.revision.0)
            .with("tags", tags.to_vec())
    }

    /// Whose it is alone, for what has none of the other attributes.
    pub(crate) fn bare<K: Kind>(resource: &Resource<K>) -> Self {
        let metadata = &resource.metadata;
        Self(Map::with_capacity(8))
            .with("id", metadata.name.as_str())
            .with("project_id", metadata.project.as_str())
            .with("tenant_id", metadata.project.as_str())
    }

    /// The id alone, for what is no project's.
    pub(crate) fn of_nobody<K: Kind>(resource: &Resource<K>) -> Self {
        Self(Map::with_capacity(8)).with("id", resource.metadata.name.as_str())
    }

    /// Adds a member.
    #[must_use]
    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.insert(name.to_owned(), value.into());
        self
    }

    /// Adds a member that is written by its type.
    #[must_use]
    pub(crate) fn typed(self, name: &str, value: &impl Serialize) -> Self {
        // Our own types are plain data: they always can be written.
        let value = serde_json::to_value(value).unwrap_or_default();
        self.with(name, value)
    }

    /// The object.
    pub(crate) fn done(self) -> Map<String, Value> {
        self.0
    }
}

/// A time as Neutron writes it.
pub(crate) fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
