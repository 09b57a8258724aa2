//! What holds for backups, whoever writes them: quota, the layer they hold, and that ancestors stay.

use madang_store::{ErrorKind, Op, Rejection, Resource, StoreError, Tx};

use super::{Backup, BackupState, FINALIZER};
use crate::{layer, quota};

/// The rule of backups.
pub(crate) fn admit(tx: &mut Tx<'_>, op: Op<'_, Backup>) -> Result<(), StoreError> {
    match op {
        Op::Create(new) => {
            new.metadata.finalizers = vec![FINALIZER.to_owned()];
            count(tx, new, 1);
            new.status.layer.map_or(Ok(()), |uid| layer::hold(tx, uid))
        }
        Op::Update { old, new } => {
            if new.metadata.is_deleting() && !old.metadata.is_deleting() {
                check_free(tx, old)?;
                new.status.state = BackupState::Deleting;
                new.status.layer = None;
            }
            layer::pass(tx, old.status.layer, new.status.layer)
        }
        Op::Remove(old) => {
            count(tx, old, -1);
            Ok(())
        }
    }
}

fn count(tx: &mut Tx<'_>, backup: &Resource<Backup>, sign: i64) {
    let fields = [
        (quota::BACKUPS, 1),
        (quota::BACKUP_GIGABYTES, i64::from(backup.spec.size_gib)),
    ];
    let deltas = quota::deltas(tx.store(), backup.project(), None, &fields, sign);
    tx.add(backup.project(), quota::COUNTERS, deltas);
}

/// Refuses to let a backup go that incremental ones stand on.
fn check_free(tx: &Tx<'_>, backup: &Resource<Backup>) -> Result<(), StoreError> {
    if children(tx, backup.name()) == 0 {
        return Ok(());
    }
    let message = "Invalid backup: Incremental backups exist for this backup.";
    Err(Rejection::new(ErrorKind::Invalid, "InvalidBackup", message).into())
}

/// How many backups stand on one.
fn children(tx: &Tx<'_>, id: &str) -> usize {
    let there = tx.store().cache::<Backup>().by("parent", id);
    let new = tx
        .staged::<Backup>()
        .filter(|new| new.spec.parent.as_deref() == Some(id));
    there.len().max(new.count())
}
