//! What a record means: a kind, its metadata, what was asked and what is.

use std::{borrow::Cow, fmt};

use jiff::Timestamp;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use uuid::Uuid;

use crate::{Key, StoreError};

/// A sort of resource. Implemented by an empty type that names it.
///
/// ```
/// use madang_store::{Indexes, Kind};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
/// struct BoxSpec { color: String }
///
/// #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
/// struct BoxStatus { full: bool }
///
/// struct Box;
/// impl Kind for Box {
///     const NAME: &'static str = "boxes";
///     type Spec = BoxSpec;
///     type Status = BoxStatus;
///     fn indexes() -> Indexes<Self> {
///         Indexes::<Self>::new().on("color", |r| vec![r.spec.color.clone()])
///     }
/// }
/// ```
pub trait Kind: Sized + Send + Sync + 'static {
    /// The plural, lower case name; the first part of the key.
    const NAME: &'static str;
    /// The version of the stored form, counted up when `Spec` or `Status` change in a way that serde's defaults do not
    /// cover.
    const VERSION: u32 = 1;
    /// What was asked; written through rules.
    type Spec: Clone + PartialEq + Send + Sync + Serialize + DeserializeOwned + 'static;
    /// What is; written by controllers and agents.
    type Status: Clone + Default + PartialEq + Send + Sync + Serialize + DeserializeOwned + 'static;

    /// The fields that faces and controllers look resources up by.
    fn indexes() -> Indexes<Self> {
        Indexes::<Self>::new()
    }

    /// Brings a stored record (`{"spec":…, "status":…}`) of version `from` to `from + 1`.
    ///
    /// # Errors
    /// Words that say what could not be brought forward.
    fn upgrade(from: u32, _record: &mut Value) -> Result<(), String> {
        Err(format!("{} has no way from version {from}", Self::NAME))
    }
}

/// Gives the values under which a resource is found in one index; none leaves it out.
pub type IndexFn<K> = fn(&Resource<K>) -> Vec<String>;

/// The secondary indexes of a kind, by name.
pub struct Indexes<K: Kind>(pub(crate) Vec<(&'static str, IndexFn<K>)>);

impl<K: Kind> Indexes<K> {
    /// No index.
    pub fn new() -> Self {
        Self(Vec::new())
    }

    /// The values under which a resource is found in an index; none for an index there is not.
    pub fn values_of(&self, index: &str, resource: &Resource<K>) -> Vec<String> {
        let found = self.0.iter().find(|(name, _)| *name == index);
        found.map(|(_, values)| values(resource)).unwrap_or_default()
    }

    /// Adds an index.
    #[must_use]
    pub fn on(mut self, name: &'static str, values: IndexFn<K>) -> Self {
        self.0.push((name, values));
        self
    }
}

impl<K: Kind> Default for Indexes<K> {
    fn default() -> Self {
        Self::new()
    }
}

/// Who a resource belongs to: when the owner is gone, so is the resource.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OwnerReference {
    /// The owner's kind.
    pub kind: String,
    /// The owner's uid.
    pub uid: Uuid,
}

/// What every resource has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// Unique for all time; given at creation.
    pub uid: Uuid,
    /// Unique within kind, project and namespace. For OpenStack's resources the id, for others what the user calls it.
    pub name: String,
    /// The owning project's id; empty for what belongs to the cloud.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub project: String,
    /// The namespace inside the project; mostly empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// For selecting, in Kubernetes' sense.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub labels: std::collections::BTreeMap<String, String>,
    /// For keeping, not for selecting.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub annotations: std::collections::BTreeMap<String, String>,
    /// Who still has to clean up before a deleted resource may go.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub finalizers: Vec<String>,
    /// Whose removal removes this.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub owners: Vec<OwnerReference>,
    /// Counts changes of the spec, from 1. Set by the store.
    #[serde(default)]
    pub generation: u64,
    /// When it was created. Set by the store.
    pub created: Timestamp,
    /// When spec or status last changed. Set by the store.
    pub updated: Timestamp,
    /// When its deletion was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted: Option<Timestamp>,
}

impl Metadata {
    /// Metadata of a new resource in a project, with `name`; uid and times are set, all else is empty.
    pub fn new(project: impl Into<String>, name: impl Into<String>) -> Self {
        Self::with_uid(Uuid::new_v4(), project, name)
    }

    /// Metadata of a new OpenStack resource, whose name is its uid in hyphenated form.
    pub fn with_id(project: impl Into<String>) -> Self {
        let uid = Uuid::new_v4();
        Self::with_uid(uid, project, uid.to_string())
    }

    /// Metadata of a new resource whose uid is known beforehand.
    pub fn with_uid(uid: Uuid, project: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            uid,
            name: name.into(),
            project: project.into(),
            namespace: String::new(),
            labels: Default::default(),
            annotations: Default::default(),
            finalizers: Vec::new(),
            owners: Vec::new(),
            generation: 1,
            created: Timestamp::UNIX_EPOCH,
            updated: Timestamp::UNIX_EPOCH,
            deleted: None,
        }
    }

    /// Whether its deletion was asked for.
    pub fn is_deleting(&self) -> bool {
        self.deleted.is_some()
    }
}

/// A resource as everybody sees it. Clone, change and write it back; the revision it was read at goes along.
pub struct Resource<K: Kind> {
    /// What every resource has.
    pub metadata: Metadata,
    /// What was asked.
    pub spec: K::Spec,
    /// What is.
    pub status: K::Status,
    /// The revision at which this was written; 0 for one that is not stored yet.
    pub revision: crate::Revision,
}

impl<K: Kind> Resource<K> {
    /// A resource that is not stored yet, with default status.
    pub fn new(metadata: Metadata, spec: K::Spec) -> Self {
        Self {
            metadata,
            spec,
            status: K::Status::default(),
            revision: crate::Revision(0),
        }
    }

    /// Where it is stored.
    pub fn key(&self) -> Key {
        Key::new(
            K::NAME,
            &self.metadata.project,
            &self.metadata.namespace,
            &self.metadata.name,
        )
    }

    /// Whether it is stored there; as comparing with [`Resource::key`], without making one.
    fn is_at(&self, key: &Key) -> bool {
        let own = &self.metadata;
        key.kind == K::NAME && key.project == own.project && key.namespace == own.namespace && key.name == own.name
    }

    /// Its name: the id, for OpenStack's resources.
    pub fn name(&self) -> &str {
        &self.metadata.name
    }

    /// The owning project's id.
    pub fn project(&self) -> &str {
        &self.metadata.project
    }

    /// A reference by which another resource can say that this one owns it.
    pub fn as_owner(&self) -> OwnerReference {
        OwnerReference {
            kind: K::NAME.to_owned(),
            uid: self.metadata.uid,
        }
    }

    pub(crate) fn encode(&self) -> Result<Vec<u8>, StoreError> {
        let stored = Stored {
            version: K::VERSION,
            metadata: Cow::Borrowed(&self.metadata),
            spec: &self.spec,
            status: Some(&self.status),
        };
        serde_json::to_vec(&stored).map_err(|e| StoreError::Decode {
            key: self.key(),
            reason: e.to_string(),
        })
    }

    pub(crate) fn decode(key: &Key, revision: crate::Revision, bytes: &[u8]) -> Result<Self, StoreError> {
        let broken = |reason: String| StoreError::Decode {
            key: key.clone(),
            reason,
        };
        let stored: Stored<'_, K::Spec, K::Status> = if is_current::<K>(bytes) {
            serde_json::from_slice(bytes).map_err(|e| broken(e.to_string()))?
        } else {
            Self::bring_forward(bytes).map_err(broken)?
        };
        let resource = Self {
            metadata: stored.metadata.into_owned(),
            spec: stored.spec,
            status: stored.status.unwrap_or_default(),
            revision,
        };
        if resource.is_at(key) {
            Ok(resource)
        } else {
            Err(broken(format!("it says it is {:?}", resource.key())))
        }
    }

    fn bring_forward(bytes: &[u8]) -> Result<Stored<'static, K::Spec, K::Status>, String> {
        let mut value: Value = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        let version = value.get("v").and_then(Value::as_u64).ok_or("it has no version")?;
        if version > u64::from(K::VERSION) {
            return Err(format!("stored as version {version}, this madang knows {}", K::VERSION));
        }
        for from in version as u32..K::VERSION {
            K::upgrade(from, &mut value)?;
        }
        serde_json::from_value(value).map_err(|e| e.to_string())
    }
}

/// Whether a record is stored as the current version: by its first bytes, since [`Resource::encode`] writes the version
/// first. A record for which this errs is looked at in full.
fn is_current<K: Kind>(bytes: &[u8]) -> bool {
    let rest = bytes.strip_prefix(br#"{"v":"#);
    let digits = rest.and_then(|rest| rest.split(|byte| *byte == b',').next());
    digits
        .and_then(|digits| std::str::from_utf8(digits).ok())
        .and_then(|digits| digits.parse().ok())
        == Some(K::VERSION)
}

impl<K: Kind> Clone for Resource<K> {
    fn clone(&self) -> Self {
        Self {
            metadata: self.metadata.clone(),
            spec: self.spec.clone(),
            status: self.status.clone(),
            revision: self.revision,
        }
    }
}

impl<K: Kind> fmt::Debug for Resource<K> {
    /// Only the name: specs may hold what must not be logged.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} at {}", K::NAME, self.metadata.name, self.revision)
    }
}

/// The form at rest.
#[derive(Serialize, Deserialize)]
struct Stored<'a, S, T> {
    #[serde(rename = "v")]
    version: u32,
    metadata: Cow<'a, Metadata>,
    spec: S,
    #[serde(default = "Option::default")]
    status: Option<T>,
}
