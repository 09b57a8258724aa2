//! Suspending: a machine's memory goes to a file and its process ends; the next start goes on from there.
//!
//! The memory fits the disks as they were at that moment and no other: it is used at most once. A start takes it out of
//! reach before QEMU reads it and gives it back only if the guest did not run.

use std::{
    fs,
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt},
    path::Path,
    time::Duration,
};

use madang_host::workload::{DriverError, Workload};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{
    devices::Devices,
    hotplug,
    machine::{Machine, Phase},
    record::{MEMORY, MEMORY_USED, partial},
};

/// A migration that moves nothing for so long has lost its disk.
const STALLED: Duration = Duration::from_secs(120);

/// How often QEMU is asked how far it is.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// How long reading the memory back may take before the guest runs.
const RESUME_WITHIN: Duration = Duration::from_secs(600);

/// The descriptor's name in QEMU.
const NAME: &str = "memory";

/// As fast as the disk is, in bytes a second.
const BANDWIDTH: u64 = 1 << 40;

/// Writes the memory and ends the machine. A machine that could not be written goes on.
pub(super) async fn suspend(machine: &Machine, dir: &Path) -> Result<(), DriverError> {
    machine.collect_console().await;
    machine.pause().await?;
    let written = write(machine, dir).await;
    if let Err(error) = written {
        let _ = machine.call("migrate_cancel", Value::Null, None).await;
        let _ = fs::remove_file(partial(dir, MEMORY));
        machine.resume().await?;
        return Err(error);
    }
    machine.end_suspended().await
}

async fn write(machine: &Machine, dir: &Path) -> Result<(), DriverError> {
    let partial = partial(dir, MEMORY);
    let io = || DriverError::io(format!("write {}", partial.display()));
    let file = fs::OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(&partial)
        .map_err(io())?;
    let kept = file.try_clone().map_err(io())?;
    machine
        .ask("migrate-set-parameters", json!({ "max-bandwidth": BANDWIDTH }))
        .await?;
    hotplug::give(machine, NAME, OwnedFd::from(file)).await?;
    machine.ask("migrate", json!({ "uri": format!("fd:{NAME}") })).await?;
    follow(machine).await?;
    let synced = tokio::task::spawn_blocking(move || kept.sync_all()).await;
    synced
        .map_err(|_| DriverError::Host("madang is shutting down".into()))?
        .map_err(io())?;

    let board = machine
        .ask("qom-get", json!({ "path": "/machine", "property": "type" }))
        .await?;
    let mut known = Devices::load(dir)?;
    known.board = board
        .as_str()
        .and_then(|name| name.strip_suffix("-machine"))
        .map(str::to_owned);
    known.save(dir)?;
    fs::rename(&partial, dir.join(MEMORY)).map_err(io())
}

async fn follow(machine: &Machine) -> Result<(), DriverError> {
    let (mut progress, mut since) = (Value::Null, Instant::now());
    loop {
        let migration = machine.ask("query-migrate", Value::Null).await?;
        match migration["status"].as_str().unwrap_or_default() {
            "completed" => return Ok(()),
            "failed" | "cancelled" => {
                let why = migration["error-desc"].as_str().unwrap_or("QEMU did not say why");
                return Err(DriverError::Host(format!("could not write its memory: {why}")));
            }
            _ => {}
        }
        if migration["ram"]["transferred"] != progress {
            (progress, since) = (migration["ram"]["transferred"].clone(), Instant::now());
        }
        if since.elapsed() > STALLED {
            return Err(DriverError::TimedOut {
                action: "writing its memory".into(),
                after: STALLED,
            });
        }
        sleep(LOOK_AGAIN).await;
    }
}

/// The workload with only those devices that its memory knows.
///
/// # Errors
/// `Broken` when one that it knows is not there any more.
pub(super) fn as_it_was(workload: &Workload, known: &Devices) -> Result<Workload, DriverError> {
    let mut was = workload.clone();
    was.disks.retain(|disk| known.disk(disk.id).is_some());
    was.nics
        .retain(|nic| known.nics.iter().any(|entry| entry.port == nic.port));
    if was.disks.len() < known.disks.len() || was.nics.len() < known.nics.len() {
        return Err(DriverError::Broken(
            "its memory knows a disk or an interface that is gone; a hard reboot starts it without".into(),
        ));
    }
    // In the order of its board.
    was.disks
        .sort_by_key(|disk| known.disks.iter().position(|entry| entry.id == disk.id));
    was.nics
        .sort_by_key(|nic| known.nics.iter().position(|entry| entry.port == nic.port));
    Ok(was)
}

/// Opens the memory for its only use.
pub(super) fn take_memory(dir: &Path) -> Result<fs::File, DriverError> {
    let used = dir.join(MEMORY_USED);
    fs::rename(dir.join(MEMORY), &used).map_err(DriverError::io("take the memory of a suspended machine"))?;
    fs::File::open(&used).map_err(DriverError::io(format!("open {}", used.display())))
}

/// After a start that failed before the guest ran.
pub(super) fn give_memory_back(dir: &Path) {
    if let Err(error) = fs::rename(dir.join(MEMORY_USED), dir.join(MEMORY)) {
        tracing::warn!(dir = %dir.display(), %error, "could not keep the memory of a suspended machine");
    }
}

/// Forgets the memory: what follows begins anew.
pub(super) fn forget_memory(dir: &Path) {
    for name in [MEMORY, MEMORY_USED] {
        let _ = fs::remove_file(dir.join(name));
    }
}

/// Waits until a started machine has read its memory, and lets it go on.
pub(super) async fn resumed(machine: &Machine, dir: &Path) -> Result<(), DriverError> {
    let deadline = Instant::now() + RESUME_WITHIN;
    loop {
        if let Phase::Ended(_) = machine.phase() {
            return machine.started().await;
        }
        let status = machine.ask("query-status", Value::Null).await?;
        if status["status"] != "inmigrate" {
            break;
        }
        if Instant::now() > deadline {
            return Err(DriverError::TimedOut {
                action: "reading its memory".into(),
                after: RESUME_WITHIN,
            });
        }
        sleep(LOOK_AGAIN).await;
    }
    // From here on it is used up.
    forget_memory(dir);
    machine.ask("cont", Value::Null).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_once() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(MEMORY), "x").unwrap();
        take_memory(dir.path()).unwrap();
        assert!(!dir.path().join(MEMORY).exists());
        give_memory_back(dir.path());
        take_memory(dir.path()).unwrap();
        take_memory(dir.path()).unwrap_err();
        forget_memory(dir.path());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
