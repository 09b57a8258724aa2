//! A group type: what a user chooses among for groups, and what an admin says of it.

pub mod api;

use std::{collections::BTreeMap, sync::Arc};

use madang_store::{ErrorKind, Indexes, Kind, Op, Rejection, Resource, Store, StoreError, Tx};
use serde::{Deserialize, Serialize};

use crate::group::Group;

const NAMES: &str = "names/volumegrouptypes";

/// The kind of group types. `metadata.name` is the id; they belong to the cloud.
pub struct GroupType;

impl Kind for GroupType {
    const NAME: &'static str = "volumegrouptypes";
    type Spec = GroupTypeSpec;
    type Status = GroupTypeStatus;

    fn indexes() -> Indexes<Self> {
        Indexes::<Self>::new().on("name", |r| vec![r.spec.name.clone()])
    }
}

/// What was said of a group type.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GroupTypeSpec {
    /// Its name; unique.
    pub name: String,
    /// Free text.
    #[serde(default)]
    pub description: Option<String>,
    /// Everybody may use it; else admins alone.
    pub is_public: bool,
    /// What its groups are to be able to: `consistent_group_snapshot_enabled = <is> True`, ….
    #[serde(default)]
    pub group_specs: BTreeMap<String, String>,
}

/// Nothing is seen of a group type.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GroupTypeStatus {}

/// A group type by id or name.
pub fn find(store: &Store, id_or_name: &str) -> Option<Arc<Resource<GroupType>>> {
    let types = store.cache::<GroupType>();
    types.by_name(id_or_name).or_else(|| types.by("name", id_or_name).pop())
}

/// The rule of group types: names are unique, and one that groups have stays.
pub(crate) fn admit(tx: &mut Tx<'_>, op: Op<'_, GroupType>) -> Result<(), StoreError> {
    match op {
        Op::Create(new) => take(tx, new),
        Op::Update { old, new } if old.spec.name != new.spec.name => {
            tx.release(NAMES, &old.spec.name);
            take(tx, new)
        }
        Op::Update { .. } => Ok(()),
        Op::Remove(old) => {
            if tx.store().cache::<Group>().count_by("type", old.name()) > 0 {
                let message = format!(
                    "Target group type is still in use. Group type {} has groups.",
                    old.spec.name
                );
                return Err(Rejection::new(ErrorKind::Invalid, "GroupTypeInUse", message).into());
            }
            tx.release(NAMES, &old.spec.name);
            Ok(())
        }
    }
}

fn take(tx: &mut Tx<'_>, new: &Resource<GroupType>) -> Result<(), StoreError> {
    let others = tx.store().cache::<GroupType>().by("name", &new.spec.name);
    if others.iter().any(|other| other.name() != new.name()) {
        let message = format!("Group Type {} already exists.", new.spec.name);
        return Err(Rejection::new(ErrorKind::Conflict, "GroupTypeExists", message)
            .at("name")
            .into());
    }
    tx.reserve(NAMES, &new.spec.name, new.metadata.uid)
}
