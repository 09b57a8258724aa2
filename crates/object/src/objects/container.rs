//! Containers.

use super::{
    Container, Difference, Object, ObjectError, Objects, Rows, Use, Which, account::row_or_new, container_of, count,
    object::remove, read, read_at, use_of, write,
};
use crate::{
    Stamp,
    disk::{Place, Tx},
    key,
    listing::{self, Line, Wanted},
};

/// Ended objects removed at a time.
const BATCH: usize = 500;

/// A container with what it uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The container.
    pub container: Container,
    /// What it uses.
    pub used: Use,
}

impl Objects {
    /// A container; none where there is none.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn container(&self, account: &str, container: &str) -> Result<Option<Listed>, ObjectError> {
        let key = key::container(account, container);
        let look = self.disk.view(move |view| {
            let Some(container) = read_at::<Container>(view, &key)? else {
                return Ok::<_, ObjectError>(None);
            };
            let used = use_of(view, &key::container_use(container.id))?;
            Ok(Some(Listed { container, used }))
        });
        look.await
    }

    /// Changes a container; one that is not there is made, if that is wanted. Whether it was there.
    ///
    /// # Errors
    /// `NoContainer`; what `change` refuses; when it cannot be written.
    pub async fn set_container(
        &self,
        account: &str,
        container: &str,
        make: bool,
        change: impl FnOnce(&mut Container) -> Result<(), ObjectError> + Send + 'static,
    ) -> Result<bool, ObjectError> {
        let (account, key) = (account.to_owned(), key::container(account, container));
        let set = self.disk.transact(move |tx| {
            let found: Option<Container> = read_at(tx, &key)?;
            let is_there = found.is_some();
            if !is_there && !make {
                return Err(ObjectError::NoContainer);
            }
            let now = Stamp::after(found.as_ref().map(|container| container.changed));
            let new = || Container {
                id: rand::random(),
                created: now,
                ..Container::default()
            };
            let mut row = found.unwrap_or_else(new);
            row.changed = now;
            change(&mut row)?;
            tx.put(&key, write(&row))?;
            if !is_there {
                let (owner, owner_is_there) = row_or_new(tx, &account)?;
                if !owner_is_there {
                    tx.put(&key::account(&account), write(&owner))?;
                }
                let one = Difference {
                    containers: 1,
                    ..Difference::default()
                };
                count(tx, &key::account_use(&account), one)?;
            }
            Ok(is_there)
        });
        set.await
    }

    /// Takes an empty container away.
    ///
    /// # Errors
    /// `NoContainer`, `NotEmpty`, or when it cannot be written.
    pub async fn delete_container(&self, account: &str, container: &str) -> Result<(), ObjectError> {
        let (account, container) = (account.to_owned(), container.to_owned());
        let delete = self.disk.transact(move |tx| {
            let row = container_of(tx, &account, &container)?;
            remove_ended(tx, &account, &container, row.id)?;
            let of_it = [key::objects(row.id), key::all_versions(row.id)];
            for prefix in of_it {
                if !tx.range(&prefix, &key::end_of(&prefix), false, 1)?.is_empty() {
                    return Err(ObjectError::NotEmpty);
                }
            }
            tx.delete(&key::container(&account, &container))?;
            tx.delete(&key::container_use(row.id))?;
            let one = Difference {
                containers: -1,
                ..Difference::default()
            };
            count(tx, &key::account_use(&account), one)?;
            Ok(())
        });
        delete.await
    }

    /// The objects of a container, by its id.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn objects(&self, id: u64, wanted: Wanted) -> Result<Vec<Line<(Object, Place)>>, ObjectError> {
        let look = self.disk.view(move |view| {
            let rows = Rows {
                look: view,
                prefix: key::objects(id),
                read: read::<Object>,
            };
            Ok::<_, ObjectError>(listing::list(&rows, &wanted)?)
        });
        look.await
    }
}

/// What has ended is as good as gone.
fn remove_ended(tx: &mut Tx<'_>, account: &str, container: &str, id: u64) -> Result<(), ObjectError> {
    let prefix = key::objects(id);
    loop {
        let rows = tx.range(&prefix, &key::end_of(&prefix), false, BATCH)?;
        let is_last = rows.len() < BATCH;
        for (key, entry) in rows {
            let object: Object = read(&entry)?;
            if !object.has_ended() {
                return Ok(());
            }
            let name = String::from_utf8_lossy(&key[prefix.len()..]).into_owned();
            remove(tx, &Which::new(account, container, &name), id, &object)?;
        }
        if is_last {
            return Ok(());
        }
    }
}
