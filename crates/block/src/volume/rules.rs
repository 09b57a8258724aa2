//! What holds for volumes, whoever writes them: quota, the layers they hold, and the snapshots that wait for a layer.

mod origin;

pub(crate) use origin::{check_size, image_metadata};

use madang_store::{Delta, Key, Kind as _, Op, Resource, StoreError, Tx};

use super::{Source, Task, Volume, VolumeState};
use crate::{
    backup::{Backup, BackupState},
    layer,
    quota::{self, GIGABYTES, VOLUMES},
    snapshot::{Snapshot, SnapshotState},
    transfer::Transfer,
};

/// The rule of volumes.
pub(crate) fn admit(tx: &mut Tx<'_>, op: Op<'_, Volume>) -> Result<(), StoreError> {
    match op {
        Op::Create(new) => {
            if new.status.is_moving {
                let deltas = usage(tx, new, 1);
                tx.add(new.project(), quota::COUNTERS, deltas);
                new.status.is_moving = false;
                return Ok(());
            }
            tx.cause().request.as_ref().clone_into(&mut new.status.request);
            origin::complete(tx, new)?;
            let deltas = usage(tx, new, 1);
            tx.add(new.project(), quota::COUNTERS, deltas);
            count_clone(tx, new, 1)?;
            new.status.next_layer.map_or(Ok(()), |uid| layer::hold(tx, uid))?;
            new.status.layer.map_or(Ok(()), |uid| layer::hold(tx, uid))
        }
        Op::Update { old, new } => {
            if old.status.task != new.status.task && new.status.task.is_some() {
                tx.cause().request.as_ref().clone_into(&mut new.status.request);
            }
            recount(tx, old, new);
            if is_waiting(old) && !is_waiting(new) {
                count_clone(tx, new, -1)?;
            }
            if old.status.layer != new.status.layer {
                hand_over(tx, old, new)?;
            }
            // In this order: what was next may become the layer, and the layer's parent is let go last.
            layer::pass(tx, old.status.layer, new.status.layer)?;
            layer::pass(tx, old.status.next_layer, new.status.next_layer)
        }
        Op::Remove(old) => {
            let deltas = usage(tx, old, -1);
            tx.add(old.project(), quota::COUNTERS, deltas);
            if old.status.is_moving {
                return Ok(());
            }
            origin::check_free(old)?;
            for transfer in tx.store().cache::<Transfer>().by("volume", old.name()) {
                tx.delete(&transfer)?;
            }
            if is_waiting(old) {
                count_clone(tx, old, -1)?;
            }
            old.status.next_layer.map_or(Ok(()), |uid| layer::release(tx, uid))?;
            old.status.layer.map_or(Ok(()), |uid| layer::release(tx, uid))
        }
    }
}

/// Its size as the quota sees it: what it grows to counts from the time it was asked.
fn quota_gib(volume: &Resource<Volume>) -> i64 {
    match volume.status.task {
        Some(Task::Extend { size_gib }) => i64::from(size_gib.max(volume.spec.size_gib)),
        _ => i64::from(volume.spec.size_gib),
    }
}

fn usage(tx: &Tx<'_>, volume: &Resource<Volume>, add: i64) -> Vec<Delta> {
    let fields = [(VOLUMES, 1), (GIGABYTES, quota_gib(volume))];
    quota::deltas(
        tx.store(),
        volume.project(),
        volume.spec.volume_type.as_deref(),
        &fields,
        add,
    )
}

fn recount(tx: &mut Tx<'_>, old: &Resource<Volume>, new: &Resource<Volume>) {
    if old.spec.volume_type != new.spec.volume_type {
        let (give, take) = (usage(tx, old, -1), usage(tx, new, 1));
        tx.add(new.project(), quota::COUNTERS, give);
        tx.add(new.project(), quota::COUNTERS, take);
        return;
    }
    let more = quota_gib(new) - quota_gib(old);
    if more != 0 {
        let fields = [(GIGABYTES, more.abs())];
        let deltas = quota::deltas(
            tx.store(),
            new.project(),
            new.spec.volume_type.as_deref(),
            &fields,
            more.signum(),
        );
        tx.add(new.project(), quota::COUNTERS, deltas);
    }
}

/// Whether it still has to be made of what another volume holds.
fn is_waiting(volume: &Resource<Volume>) -> bool {
    volume.status.state == VolumeState::Creating && volume.status.layer.is_none()
}

/// Counts a clone that is to be made in the volume it is made of, so that this one stays until then.
fn count_clone(tx: &mut Tx<'_>, clone: &Resource<Volume>, add: i32) -> Result<(), StoreError> {
    let Source::Volume(source) = &clone.spec.source else {
        return Ok(());
    };
    let Some(source) = tx.get::<Volume>(&Key::new(Volume::NAME, clone.project(), "", source)) else {
        return Ok(());
    };
    let mut counted = (*source).clone();
    counted.status.clones = counted.status.clones.saturating_add_signed(add);
    tx.update(&source, counted).map(|_| ())
}

/// A volume that goes on in another layer over its old one leaves the old one to the snapshots that wait for it.
fn hand_over(tx: &mut Tx<'_>, old: &Resource<Volume>, new: &Resource<Volume>) -> Result<(), StoreError> {
    let (Some(before), Some(after)) = (old.status.layer, new.status.layer) else {
        return Ok(());
    };
    let stands_on_it = tx
        .get::<layer::Layer>(&layer::key(after))
        .is_some_and(|layer| layer.spec.parent == Some(before));
    if !stands_on_it {
        return Ok(());
    }
    let clones = tx.store().cache::<Volume>().by("source", new.name());
    for clone in clones {
        let Some(clone) = tx.get::<Volume>(&clone.key()) else {
            continue;
        };
        let is_clone = matches!(clone.spec.source, Source::Volume(_));
        if !is_clone || !is_waiting(&clone) || clone.status.next_layer.is_some() {
            continue;
        }
        let mut based = (*clone).clone();
        based.status.next_layer = Some(before);
        tx.update(&clone, based)?;
    }
    for backup in tx.store().cache::<Backup>().by("volume", new.name()) {
        let Some(backup) = tx.get::<Backup>(&backup.key()) else {
            continue;
        };
        let is_waiting = backup.status.state == BackupState::Creating && backup.status.layer.is_none();
        if !is_waiting || backup.spec.snapshot.is_some() || backup.metadata.is_deleting() {
            continue;
        }
        let mut made = (*backup).clone();
        made.status.layer = Some(before);
        tx.update(&backup, made)?;
    }
    let waiting = tx.store().cache::<Snapshot>().by("volume", new.name());
    for snapshot in waiting {
        let Some(snapshot) = tx.get::<Snapshot>(&snapshot.key()) else {
            continue;
        };
        let is_waiting = snapshot.status.state == SnapshotState::Creating && snapshot.status.layer.is_none();
        if !is_waiting || snapshot.spec.file.is_some() {
            continue;
        }
        let mut made = (*snapshot).clone();
        made.status.state = SnapshotState::Available;
        made.status.layer = Some(before);
        made.status.progress = Some(100);
        tx.update(&snapshot, made)?;
    }
    Ok(())
}
