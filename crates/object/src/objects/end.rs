//! Objects that end by themselves.

use std::time::Duration;

use madang_control::TaskGroup;
use tokio::time::sleep;
use tracing::warn;

use super::{Object, ObjectError, Objects, Which, object::remove, read_at};
use crate::{
    Stamp,
    disk::{DiskError, Tx},
    key,
};

/// How often it is looked for objects that have ended. They are not shown any more before.
const EVERY: Duration = Duration::from_secs(5);
/// Objects removed at a time.
const BATCH: usize = 500;

impl Objects {
    /// Removes objects that have ended, until the group is stopped.
    pub fn end(&self, group: &TaskGroup) {
        let objects = self.clone();
        group.spawn_until_stopped("object ends", async move {
            loop {
                sleep(EVERY).await;
                loop {
                    match objects.remove_ended().await {
                        Ok(BATCH) => {}
                        Ok(_) => break,
                        Err(error) => {
                            warn!(
                                error = &error as &dyn std::error::Error,
                                "could not remove ended objects"
                            );
                            break;
                        }
                    }
                }
            }
        });
    }

    /// Removes some of what has ended. How many.
    ///
    /// # Errors
    /// When they cannot be removed.
    pub async fn remove_ended(&self) -> Result<usize, ObjectError> {
        let now = Stamp::now().seconds();
        let remove = self.disk.transact(move |tx| {
            let until = [&b"x"[..], &now.saturating_add(1).to_be_bytes()].concat();
            let ended = tx.range(b"x", &until, false, BATCH)?;
            let count = ended.len();
            for (key, entry) in ended {
                let whose = String::from_utf8_lossy(&entry.value).into_owned();
                if let (Some((seconds, id, name)), Some((account, container))) =
                    (key::read_expiry(&key), whose.split_once('\0'))
                {
                    one(tx, &Which::new(account, container, name), seconds, id)?;
                }
                tx.delete(&key)?;
            }
            Ok::<_, ObjectError>(count)
        });
        remove.await
    }
}

fn one(tx: &mut Tx<'_>, which: &Which, seconds: u64, id: u64) -> Result<(), ObjectError> {
    let object: Option<Object> = read_at(tx, &key::object(id, &which.name)).map_err(|error: DiskError| error)?;
    match object.filter(|object| object.ends() == Some(seconds)) {
        Some(object) => remove(tx, which, id, &object),
        None => Ok(()),
    }
}
