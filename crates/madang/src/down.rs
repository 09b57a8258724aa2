//! `madang down`: everything of this instance leaves the host; the data stays.

use std::time::Duration;

use anyhow::{Context, bail};
use madang_host::Instance;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    console::{Checks, line},
    credentials::unlink_clouds,
    data_dir::{DataDir, Lock},
    ranges::Registry,
};

/// Longer than a clean stop takes; past it something hangs and a person should look.
const STOP_PATIENCE: Duration = Duration::from_secs(40);

/// Stops a madang that is up on the data directory, then removes all its traces and says what there was.
///
/// # Errors
/// When there never was one, it does not stop, or something resists removal.
pub async fn run(data: &DataDir) -> anyhow::Result<()> {
    if !data.join("instance").exists() {
        bail!(
            "{} has no madang in it: name the right one with --data-dir",
            data.path().display()
        );
    }
    let mut checks = Checks::new();
    let _lock = stop_running(data, &mut checks).await?;
    let instance = Instance::open(data.path()).context("could not read which instance this is")?;
    let removed = checks.wait("removing what is on the host", instance.sweep()).await;
    let removed = removed.map_err(|error| anyhow::anyhow!("not everything could be removed: {}", error.chain()))?;
    Registry::open()?.release(instance.id());
    for trace in &removed {
        line(&format!("removed {trace}"));
    }
    if data.is_default()
        && let Some(link) = unlink_clouds(data)?
    {
        line(&format!("removed link {link}"));
    }
    if removed.is_empty() {
        line("there was nothing of it on the host");
    }
    line(&format!(
        "madang is down; its data is in {}",
        crate::data_dir::shown(data.path())
    ));
    Ok(())
}

async fn stop_running(data: &DataDir, checks: &mut Checks) -> anyhow::Result<Lock> {
    let Some(in_use) = data.holder() else {
        return data.lock();
    };
    let Some(pid) = in_use.pid else {
        return Err(in_use.into());
    };
    line(&format!("stopping madang (process {pid})"));
    let pid = Pid::from_raw(i32::try_from(pid).context("the lock names no process")?);
    kill(pid, Signal::SIGTERM).with_context(|| format!("could not stop process {pid}"))?;
    let freed = async {
        loop {
            match data.lock() {
                Ok(lock) => return lock,
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    let freed = checks
        .wait("waiting for it to end", tokio::time::timeout(STOP_PATIENCE, freed))
        .await;
    freed.map_err(|_| {
        anyhow::anyhow!(
            "process {pid} did not end within {STOP_PATIENCE:?}: look at {}",
            data.shown("madang.log")
        )
    })
}
