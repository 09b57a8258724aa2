//! What holds for snapshots, whoever writes them: quota, the count in their volume, and the layer they hold.

use madang_store::{Key, Kind as _, Op, Resource, StoreError, Tx};

use super::Snapshot;
use crate::{
    layer,
    quota::{self, GIGABYTES, SNAPSHOTS},
    volume::Volume,
};

/// The rule of snapshots.
pub(crate) fn admit(tx: &mut Tx<'_>, op: Op<'_, Snapshot>) -> Result<(), StoreError> {
    match op {
        Op::Create(new) => {
            count(tx, new, 1);
            if new.status.is_moving {
                new.status.is_moving = false;
                return Ok(());
            }
            count_in_volume(tx, new, 1)?;
            new.status.layer.map_or(Ok(()), |uid| layer::hold(tx, uid))
        }
        Op::Update { old, new } => layer::pass(tx, old.status.layer, new.status.layer),
        Op::Remove(old) => {
            count(tx, old, -1);
            if old.status.is_moving {
                return Ok(());
            }
            count_in_volume(tx, old, -1)?;
            old.status.layer.map_or(Ok(()), |uid| layer::release(tx, uid))
        }
    }
}

fn count(tx: &mut Tx<'_>, snapshot: &Resource<Snapshot>, add: i64) {
    let fields = [(SNAPSHOTS, 1), (GIGABYTES, i64::from(snapshot.spec.size_gib))];
    let deltas = quota::deltas(
        tx.store(),
        snapshot.project(),
        snapshot.spec.volume_type.as_deref(),
        &fields,
        add,
    );
    tx.add(snapshot.project(), quota::COUNTERS, deltas);
}

fn count_in_volume(tx: &mut Tx<'_>, snapshot: &Resource<Snapshot>, add: i32) -> Result<(), StoreError> {
    let key = Key::new(Volume::NAME, snapshot.project(), "", &snapshot.spec.volume);
    let Some(volume) = tx.get::<Volume>(&key) else {
        return Ok(());
    };
    let mut counted = (*volume).clone();
    counted.status.snapshots = counted.status.snapshots.saturating_add_signed(add);
    tx.update(&volume, counted).map(|_| ())
}
