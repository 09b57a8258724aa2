//! Sessions on a machine's consoles.
//!
//! Nothing listens: each session is a pair of sockets, one end of which is handed to QEMU. The screen is QEMU's own RFB
//! server. The serial line leads to QEMU's memory while nobody looks; for a session it leads here instead, and what passes
//! is kept as if it had been collected.

use std::{
    io,
    os::fd::OwnedFd,
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use madang_host::workload::{ConsoleKind, DriverError, Session};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::UnixStream,
};

use super::{arguments, console, hotplug, machine::Machine};

/// The name of a descriptor that is handed over.
pub(super) const NAME: &str = "console";

/// Opens a session.
pub(super) async fn open(machine: &Machine, kind: ConsoleKind) -> Result<Box<dyn Session>, DriverError> {
    match kind {
        ConsoleKind::Vnc => screen(machine).await,
        ConsoleKind::Serial => machine.open_serial().await,
    }
}

async fn screen(machine: &Machine) -> Result<Box<dyn Session>, DriverError> {
    let (ours, theirs) = pair().map_err(DriverError::io("make a pair of sockets"))?;
    hotplug::give(machine, NAME, theirs).await?;
    // Who may look was decided before the session was asked for.
    let client = json!({ "protocol": "vnc", "fdname": NAME, "skipauth": true });
    machine.ask("add_client", client).await?;
    Ok(Box::new(ours))
}

/// Two ends of a connection: ours, and one to hand over.
pub(super) fn pair() -> io::Result<(UnixStream, OwnedFd)> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    theirs.set_nonblocking(true)?;
    Ok((UnixStream::from_std(ours)?, theirs.into()))
}

/// How QEMU is told that the serial line leads to a descriptor it was given.
pub(super) fn to_socket() -> Value {
    let address = json!({ "type": "fd", "data": { "str": NAME } });
    json!({
        "id": arguments::CONSOLE,
        "backend": { "type": "socket", "data": { "addr": address, "server": false } },
    })
}

/// How QEMU is told that the serial line leads to its memory.
pub(super) fn to_memory() -> Value {
    json!({
        "id": arguments::CONSOLE,
        "backend": { "type": "ringbuf", "data": { "size": console::RING_BYTES } },
    })
}

/// A session on the serial line.
pub(super) struct Serial {
    stream: UnixStream,
    dir: PathBuf,
    over: Box<dyn Fn() + Send>,
    held: Option<Arc<()>>,
}

impl Serial {
    /// Holds the line until it is dropped; `over` is called then.
    pub fn new(stream: UnixStream, dir: PathBuf, held: Arc<()>, over: impl Fn() + Send + 'static) -> Self {
        Self {
            stream,
            dir,
            over: Box::new(over),
            held: Some(held),
        }
    }
}

impl Drop for Serial {
    fn drop(&mut self) {
        self.held = None;
        (self.over)();
    }
}

impl Session for Serial {}

impl AsyncRead for Serial {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, into);
        let passed = &into.filled()[before..];
        if !passed.is_empty()
            && let Err(error) = console::append(&self.dir, passed)
        {
            tracing::warn!(dir = %self.dir.display(), %error, "could not keep console output");
        }
        read
    }
}

impl AsyncWrite for Serial {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
