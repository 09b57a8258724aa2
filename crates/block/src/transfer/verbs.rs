//! Offering, taking back and taking volumes. Each verb is one transaction.

use std::sync::Arc;

use madang_http::Failure;
use madang_identity::Caller;
use madang_store::{Key, Kind as _, Metadata, Resource, Store, StoreError, Tx};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::{Transfer, TransferSpec};
use crate::{
    snapshot::{Snapshot, SnapshotState},
    volume::{
        Volume, VolumeState,
        verbs::{Refusal, invalid_state},
    },
};

/// As Cinder's: hexadecimal digits that somebody may have to type.
fn random_text<const BYTES: usize>() -> String {
    let mut bytes = [0_u8; BYTES];
    rand::fill(&mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn hash(salt: &str, key: &str) -> String {
    let digest = Sha256::new().chain_update(salt).chain_update(key).finalize();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Offers a volume; returns the transfer, and the key that takes it.
///
/// # Errors
/// 400 in another state than `available`.
pub async fn create(
    store: &Store,
    caller: &Caller,
    volume: &Resource<Volume>,
    name: Option<String>,
    without_snapshots: bool,
) -> Result<(Arc<Resource<Transfer>>, String), Failure> {
    let (salt, secret) = (random_text::<4>(), random_text::<8>());
    let key = volume.key();
    let made = store.transact::<_, Refusal>(caller.cause(), |tx| {
        let missing = || Failure::not_found(format!("Volume {} could not be found.", key.name));
        let volume = tx.get::<Volume>(&key).ok_or_else(missing)?;
        if volume.status.state != VolumeState::Available {
            return Err(invalid_state("status must be available".to_owned()).into());
        }
        if volume.spec.group.is_some() {
            return Err(invalid_state("a volume in a group cannot be transferred".to_owned()).into());
        }
        if !without_snapshots {
            for snapshot in own_snapshots(tx, &volume) {
                check_movable(&snapshot)?;
            }
        }
        let mut waiting = (*volume).clone();
        waiting.status.state = VolumeState::AwaitingTransfer;
        tx.update(&volume, waiting)?;
        let spec = TransferSpec {
            name: name.clone(),
            volume: volume.name().to_owned(),
            without_snapshots,
            salt: salt.clone(),
            hash: hash(&salt, &secret),
        };
        Ok(tx.create(Resource::<Transfer>::new(Metadata::with_id(volume.project()), spec))?)
    });
    let made = made.await.map_err(|Refusal(failure)| failure)?;
    Ok((made, secret))
}

/// The volume's snapshots that are of its own project: a transfer may have left others behind.
fn own_snapshots(tx: &Tx<'_>, volume: &Resource<Volume>) -> Vec<Arc<Resource<Snapshot>>> {
    let known = tx.store().cache::<Snapshot>().by("volume", volume.name());
    let known = known
        .into_iter()
        .filter(|snapshot| snapshot.project() == volume.project());
    known
        .filter_map(|snapshot| tx.get::<Snapshot>(&snapshot.key()))
        .collect()
}

fn check_movable(snapshot: &Resource<Snapshot>) -> Result<(), Failure> {
    if snapshot.status.state == SnapshotState::Available && snapshot.spec.group_snapshot.is_none() {
        return Ok(());
    }
    let message = format!(
        "Invalid snapshot: Snapshot: {} status must be \"available\", and it must not be part of a group snapshot.",
        snapshot.name()
    );
    Err(Failure::invalid(message))
}

/// Takes an offer back.
///
/// # Errors
/// What the store says.
pub async fn delete(store: &Store, caller: &Caller, transfer: &Resource<Transfer>) -> Result<(), Failure> {
    let key = transfer.key();
    let deleted = store.transact::<(), Refusal>(caller.cause(), |tx| {
        let Some(transfer) = tx.get::<Transfer>(&key) else {
            return Ok(());
        };
        let volume = Key::new(Volume::NAME, transfer.project(), "", &transfer.spec.volume);
        if let Some(volume) = tx.get::<Volume>(&volume)
            && volume.status.state == VolumeState::AwaitingTransfer
        {
            let mut free = (*volume).clone();
            free.status.settle();
            tx.update(&volume, free)?;
        }
        Ok(tx.delete(&transfer)?)
    });
    deleted.await.map_err(|Refusal(failure)| failure)
}

/// Takes a volume that was offered into the caller's project.
///
/// # Errors
/// 400 with another key; the quota's.
pub async fn accept(
    store: &Store,
    caller: &Caller,
    transfer: &Resource<Transfer>,
    secret: &str,
) -> Result<(), Failure> {
    let said = hash(&transfer.spec.salt, secret);
    if !bool::from(said.as_bytes().ct_eq(transfer.spec.hash.as_bytes())) {
        let message = format!("Attempt to transfer {} with invalid auth key.", transfer.name());
        return Err(Failure::invalid(format!("Invalid auth key: {message}")).at("auth_key"));
    }
    let (key, project) = (transfer.key(), caller.project()?);
    let accepted = store.transact::<(), Refusal>(caller.cause(), |tx| {
        let gone = || Failure::not_found(format!("Transfer {} could not be found.", key.name));
        let transfer = tx.get::<Transfer>(&key).ok_or_else(gone)?;
        let from = Key::new(Volume::NAME, transfer.project(), "", &transfer.spec.volume);
        let missing = || Failure::not_found(format!("Volume {} could not be found.", from.name));
        let volume = tx.get::<Volume>(&from).ok_or_else(missing)?;
        if volume.status.state != VolumeState::AwaitingTransfer {
            let message = format!("status must be awaiting-transfer, it is {}", volume.status.state);
            return Err(invalid_state(message).into());
        }
        tx.delete(&transfer)?;
        let snapshots = match transfer.spec.without_snapshots {
            true => Vec::new(),
            false => own_snapshots(tx, &volume),
        };
        if volume.project() == project {
            let mut free = (*volume).clone();
            free.status.settle();
            tx.update(&volume, free)?;
            return Ok(());
        }
        let count = u32::try_from(snapshots.len()).unwrap_or(u32::MAX);
        move_volume(tx, &volume, project, &caller.subject.user.id, count)?;
        for snapshot in snapshots {
            check_movable(&snapshot)?;
            move_snapshot(tx, &snapshot, project)?;
        }
        Ok(())
    });
    accepted.await.map_err(|Refusal(failure)| failure)
}

/// Moves a volume into another project, where it has so many snapshots.
fn move_volume(
    tx: &mut Tx<'_>,
    volume: &Resource<Volume>,
    project: &str,
    user: &str,
    snapshots: u32,
) -> Result<(), StoreError> {
    let mut leaving = volume.clone();
    leaving.status.is_moving = true;
    let leaving = tx.update(volume, leaving)?;
    let mut coming = Resource::<Volume>::new(there(&volume.metadata, project), volume.spec.clone());
    coming.spec.user = user.to_owned();
    coming.status = leaving.status.clone();
    coming.status.snapshots = snapshots;
    coming.status.settle();
    tx.delete(&leaving)?;
    tx.create_since(coming, leaving.metadata.created).map(|_| ())
}

fn move_snapshot(tx: &mut Tx<'_>, snapshot: &Resource<Snapshot>, project: &str) -> Result<(), StoreError> {
    let mut leaving = snapshot.clone();
    leaving.status.is_moving = true;
    let leaving = tx.update(snapshot, leaving)?;
    let mut coming = Resource::<Snapshot>::new(there(&snapshot.metadata, project), snapshot.spec.clone());
    coming.status = leaving.status.clone();
    tx.delete(&leaving)?;
    tx.create_since(coming, leaving.metadata.created).map(|_| ())
}

/// The same resource's metadata in another project.
fn there(metadata: &Metadata, project: &str) -> Metadata {
    Metadata {
        project: project.to_owned(),
        ..metadata.clone()
    }
}
