//! What holds for volume types, whoever writes them: names are unique, and a type that volumes have stays.

use madang_store::{Cause, ErrorKind, Metadata, Op, Rejection, Resource, Store, StoreError, Tx};

use super::{DEFAULT_NAME, VolumeType, VolumeTypeSpec};
use crate::volume::Volume;

const NAMES: &str = "names/volumetypes";

/// The rule of volume types.
pub(crate) fn admit(tx: &mut Tx<'_>, op: Op<'_, VolumeType>) -> Result<(), StoreError> {
    match op {
        Op::Create(new) => take(tx, new),
        Op::Update { old, new } if old.spec.name != new.spec.name => {
            tx.release(NAMES, &old.spec.name);
            take(tx, new)
        }
        Op::Update { .. } => Ok(()),
        Op::Remove(old) => {
            if tx.store().cache::<Volume>().count_by("type", old.name()) > 0 {
                let message = format!(
                    "Target volume type is still in use. Volume type {} has volumes.",
                    old.spec.name
                );
                return Err(Rejection::new(ErrorKind::Invalid, "VolumeTypeInUse", message).into());
            }
            tx.release(NAMES, &old.spec.name);
            Ok(())
        }
    }
}

fn take(tx: &mut Tx<'_>, new: &Resource<VolumeType>) -> Result<(), StoreError> {
    let others = tx.store().cache::<VolumeType>().by("name", &new.spec.name);
    if others.iter().any(|other| other.name() != new.name()) {
        let message = format!("Volume Type {} already exists.", new.spec.name);
        return Err(Rejection::new(ErrorKind::Conflict, "VolumeTypeExists", message)
            .at("name")
            .into());
    }
    tx.reserve(NAMES, &new.spec.name, new.metadata.uid)
}

/// Makes the type that a cloud begins with.
///
/// # Errors
/// What the store says.
pub async fn seed(store: &Store) -> Result<(), StoreError> {
    if !store.cache::<VolumeType>().is_empty() {
        return Ok(());
    }
    let spec = VolumeTypeSpec {
        name: DEFAULT_NAME.to_owned(),
        description: Some("Default Volume Type".to_owned()),
        is_public: true,
        ..VolumeTypeSpec::default()
    };
    let mut tx = store.begin(Cause::system("block"));
    tx.create(Resource::<VolumeType>::new(Metadata::with_id(""), spec))?;
    tx.commit().await.map(|_| ())
}
