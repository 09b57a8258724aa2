//! What goes along with something that is removed.

use std::sync::Arc;

use madang_store::{Kind, Resource, StoreError, Tx};

/// Removes resources in this transaction, but not those that it removed already: a user's credential for a project goes
/// with either, and both go with their domain.
pub(crate) fn remove_all<K: Kind>(tx: &mut Tx<'_>, resources: Vec<Arc<Resource<K>>>) -> Result<(), StoreError> {
    for resource in resources {
        if let Some(now) = tx.get::<K>(&resource.key()) {
            tx.delete(&now)?;
        }
    }
    Ok(())
}
