//! Consoles of containers: each is a shell of its own, on a terminal of its own.

use std::time::Duration;

use madang_host::{
    Error,
    pty::PtyDoor,
    workload::{ConsoleKind, DriverError, Session, State},
};
use uuid::Uuid;

use super::{Inner, host};

/// runc takes 30 ms to start a program in a container.
const OPEN_WITHIN: Duration = Duration::from_secs(20);

impl Inner {
    pub(super) async fn shell(&self, id: Uuid, kind: ConsoleKind) -> Result<Box<dyn Session>, DriverError> {
        if kind == ConsoleKind::Vnc {
            return Err(DriverError::Unsupported {
                driver: "oci",
                action: "show a screen: containers have none",
            });
        }
        let (home, spec, _) = self.running(id)?;
        if self.state(id).await? == State::Paused {
            return Err(DriverError::Host(format!(
                "container {id} is paused: nothing starts in it"
            )));
        }
        let door = PtyDoor::open(home.path()).map_err(host)?;
        let exec = self
            .shim_command("shell")?
            .arg(home.path())
            .arg(spec.run.to_string())
            .arg(door.path());
        match exec.run(OPEN_WITHIN).await {
            Ok(_) => {}
            Err(Error::Command { message, .. }) if message.contains("/bin/sh") => {
                return Err(DriverError::Host(format!(
                    "no shell can be started in container {id}: its image has no /bin/sh"
                )));
            }
            Err(error) => return Err(host(error)),
        }
        // runc has handed it in before it ended.
        let terminal = tokio::time::timeout(OPEN_WITHIN, door.take()).await;
        let terminal = terminal.map_err(|_| DriverError::TimedOut {
            action: format!("taking the terminal of a shell in container {id}"),
            after: OPEN_WITHIN,
        })?;
        Ok(Box::new(terminal.map_err(host)?))
    }
}
