//! A shim that waits for its container: started ahead of need, because to start a process takes as long as a third of what
//! starting a container does.
//!
//! There is one at most, and none before the first container. It ends with the driver, whose end of its input closes then.

use std::{fs::File, io::Write as _, os::unix::ffi::OsStrExt as _, path::Path, sync::Arc, time::Duration};

use madang_host::{process::Process, workload::DriverError};
use nix::{fcntl::OFlag, unistd::pipe2};
use tracing::warn;
use uuid::Uuid;

use super::{Inner, host, refused};
use crate::record::Home;

/// Who waited for the last container has its answer first.
const AFTER: Duration = Duration::from_millis(20);

pub(super) struct Spare {
    shim: Process,
    /// Its input: the run that it is for.
    word: File,
}

impl Inner {
    /// Gives a run to the spare shim; none if there is none that lives.
    pub(super) fn take_spare(&self, home: &Home, run: Uuid) -> Option<Process> {
        let Spare { shim, mut word } = self.spare.lock().take()?;
        word.write_all(&word_for(home.path(), run)).ok()?;
        Some(shim)
    }

    async fn start_spare(&self) -> Result<Spare, DriverError> {
        let pipe = pipe2(OFlag::O_CLOEXEC);
        let (input, word) = pipe.map_err(|error| refused("make a pipe".into(), error.into()))?;
        let shim = self.shim_command("spare")?.stdin_from(input).start().await;
        Ok(Spare {
            shim: shim.map_err(host)?,
            word: word.into(),
        })
    }
}

/// The run of the container at `home`, as a spare shim is told it.
fn word_for(home: &Path, run: Uuid) -> Vec<u8> {
    [run.to_string().as_bytes(), b" ", home.as_os_str().as_bytes()].concat()
}

/// Starts one, when there is none, after a container has started: before that it would take processors from it.
pub(super) async fn keep_one(inner: Arc<Inner>) {
    loop {
        inner.spare_wanted.notified().await;
        tokio::time::sleep(AFTER).await;
        if inner.spare.lock().is_some() {
            continue;
        }
        match inner.start_spare().await {
            Ok(spare) => *inner.spare.lock() = Some(spare),
            Err(error) => warn!(%error, "could not start a shim ahead of need; the next container waits for its own"),
        }
    }
}
