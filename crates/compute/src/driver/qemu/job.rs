//! Block jobs: copying a disk while the guest uses it.

use std::time::Duration;

use madang_host::workload::DriverError;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::machine::Machine;

/// A job that makes no progress for so long has lost its disk.
const STALLED: Duration = Duration::from_secs(120);

/// How often a job is looked at while QEMU tells nothing.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// Copies a node to another and lets whoever uses the first go on with the second.
pub(super) async fn mirror(machine: &Machine, from: &str, to: &str) -> Result<(), DriverError> {
    let id = format!("mirror-{from}");
    let mirror = json!({
        "job-id": id, "device": from, "target": to, "sync": "full", "auto-dismiss": false, "auto-finalize": true,
    });
    begin(machine, &id, "blockdev-mirror", mirror).await?;
    let mirrored = async {
        follow(machine, &id, "ready").await?;
        machine.ask("job-complete", json!({ "id": id })).await?;
        follow(machine, &id, "concluded").await
    };
    finish(machine, &id, mirrored.await).await
}

/// Begins to copy a node, as it is at this moment, to another one.
pub(super) async fn begin_backup(machine: &Machine, from: &str, to: &str) -> Result<String, DriverError> {
    let id = format!("backup-{from}");
    let backup = json!({
        "job-id": id, "device": from, "target": to, "sync": "full", "auto-dismiss": false, "auto-finalize": true,
    });
    begin(machine, &id, "blockdev-backup", backup).await?;
    Ok(id)
}

/// Waits for the end of a copy.
pub(super) async fn finish_backup(machine: &Machine, id: &str) -> Result<(), DriverError> {
    let followed = follow(machine, id, "concluded").await;
    finish(machine, id, followed).await
}

async fn begin(machine: &Machine, id: &str, command: &'static str, arguments: Value) -> Result<(), DriverError> {
    if job(machine, id).await?.is_some() {
        // Of a call that nobody remembers.
        end(machine, id).await?;
    }
    machine.ask(command, arguments).await.map(drop)
}

/// Waits until a job is `wanted`, as long as it makes progress.
async fn follow(machine: &Machine, id: &str, wanted: &str) -> Result<(), DriverError> {
    let (mut progress, mut since) = (Value::Null, Instant::now());
    loop {
        let Some(job) = job(machine, id).await? else {
            return Err(DriverError::Host(format!("{id} vanished")));
        };
        if let Some(why) = job["error"].as_str() {
            return Err(DriverError::Host(format!("{id}: {why}")));
        }
        if job["status"] == wanted {
            return Ok(());
        }
        if job["status"] == "concluded" {
            return Err(DriverError::Host(format!("{id} ended early")));
        }
        if job["current-progress"] != progress {
            (progress, since) = (job["current-progress"].clone(), Instant::now());
        }
        if since.elapsed() > STALLED {
            return Err(DriverError::TimedOut {
                action: id.to_owned(),
                after: STALLED,
            });
        }
        machine.news(LOOK_AGAIN).await;
    }
}

async fn finish(machine: &Machine, id: &str, result: Result<(), DriverError>) -> Result<(), DriverError> {
    let ended = end(machine, id).await;
    result.and(ended)
}

/// Makes QEMU forget a job, which it ends first.
async fn end(machine: &Machine, id: &str) -> Result<(), DriverError> {
    let deadline = Instant::now() + STALLED;
    while let Some(job) = job(machine, id).await? {
        if job["status"] == "concluded" {
            machine.ask("job-dismiss", json!({ "id": id })).await?;
            return Ok(());
        }
        let _ = machine.call("job-cancel", json!({ "id": id }), None).await;
        if Instant::now() > deadline {
            return Err(DriverError::TimedOut {
                action: format!("ending {id}"),
                after: STALLED,
            });
        }
        machine.news(LOOK_AGAIN).await;
    }
    Ok(())
}

async fn job(machine: &Machine, id: &str) -> Result<Option<Value>, DriverError> {
    let jobs = machine.ask("query-jobs", Value::Null).await?;
    Ok(jobs
        .as_array()
        .into_iter()
        .flatten()
        .find(|job| job["id"] == id)
        .cloned())
}
