//! Learning of what happens to containers: shims tell through a fifo, and their own end is watched.

use std::sync::Arc;

use madang_host::{process::Process, workload::DriverError};
use nix::{errno::Errno, sys::stat::Mode, unistd::mkfifo};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::unix::pipe,
};
use tracing::{debug, warn};
use uuid::Uuid;

use super::{Inner, refused};
use crate::record::{Home, Record};

/// Shims of one container that may be killed in a row before it is left without one: whatever kills them would go on.
const MAX_ADOPTIONS: u32 = 5;

/// Opens the fifo that shims write ids to and passes them on.
pub(super) fn listen(inner: &Arc<Inner>) -> Result<(), DriverError> {
    let open = || -> std::io::Result<pipe::Receiver> {
        match mkfifo(&inner.events, Mode::from_bits_truncate(0o600)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
        // For writing too, so that it does not end when the last shim does.
        pipe::OpenOptions::new().read_write(true).open_receiver(&inner.events)
    };
    let events = open().map_err(|e| refused(format!("open {}", inner.events.display()), e))?;
    let listening = inner.clone();
    inner.tasks.spawn_until_stopped("listen to containers", async move {
        let mut lines = BufReader::new(events).lines();
        loop {
            match lines.next_line().await {
                Ok(Some(line)) => {
                    if let Ok(id) = Uuid::parse_str(&line) {
                        heard(&listening, id);
                    }
                }
                Ok(None) => return,
                Err(error) => return warn!(%error, "cannot listen to containers any more"),
            }
        }
    });
    Ok(())
}

/// A container's record has changed.
fn heard(inner: &Inner, id: Uuid) {
    // Nobody may be waiting right now.
    let _ = inner.pulses.send(id);
    let Ok(Some(home)) = inner.home(id) else { return };
    let ended = matches!(home.record(), Ok(Some(Record::Exited { .. } | Record::Failed { .. })));
    if ended && !home.is_stopping() {
        let _ = inner.changes.send(id);
    }
}

/// Watches a container that was found again.
pub(super) fn resume(inner: &Arc<Inner>, id: Uuid) {
    let Ok(Some(home)) = inner.home(id) else { return };
    let Ok(Some(record)) = home.record() else { return };
    match Process::find(record.shim()) {
        Some(shim) => attend(inner, id, shim),
        // Without a shim: adopted, or its end is recorded.
        None if matches!(record, Record::Running { .. } | Record::Starting { .. }) => {
            let watching = inner.clone();
            inner
                .tasks
                .spawn_until_stopped(format!("watch container {id}"), async move {
                    after_shim(&watching, id, &home).await
                });
        }
        None => {}
    }
}

/// Watches a shim until it ends, and deals with a container that it has left behind.
pub(super) fn attend(inner: &Arc<Inner>, id: Uuid, shim: Process) {
    if inner.watched.lock().insert(shim.identity(), id).is_some() {
        return;
    }
    let watching = inner.clone();
    inner
        .tasks
        .spawn_until_stopped(format!("watch container {id}"), async move {
            shim.wait().await;
            watching.watched.lock().remove(&shim.identity());
            if let Ok(Some(home)) = watching.home(id) {
                after_shim(&watching, id, &home).await;
            }
        });
}

async fn after_shim(inner: &Arc<Inner>, id: Uuid, home: &Home) {
    for _ in 0..MAX_ADOPTIONS {
        let _ = inner.pulses.send(id);
        let Ok(Some(record)) = home.record() else { return };
        let runs = matches!(&record, Record::Running { init, .. } if Process::find(*init).is_some());
        if !runs {
            if matches!(record, Record::Running { .. } | Record::Starting { .. }) {
                // Both shim and container were killed: what is left to do is to say so.
                let lock = inner.lock(id);
                let _held = lock.lock().await;
                match inner.settle(id, home).await {
                    Ok(()) => drop(inner.changes.send(id)),
                    Err(error) => warn!(workload = %id, %error, "could not clean up a container"),
                }
            }
            return;
        }
        let Ok(Some(spec)) = home.spec() else { return };
        warn!(workload = %id, "a container's shim is gone; starting another");
        match inner.launch("adopt", home, spec.run).await {
            Ok(shim) => {
                shim.wait().await;
            }
            Err(error) => return warn!(workload = %id, %error, "could not start a shim"),
        }
        debug!(workload = %id, "an adopting shim has ended");
    }
}
