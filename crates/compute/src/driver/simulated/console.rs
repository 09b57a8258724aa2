//! The consoles of machines that have none: they say hello and echo.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use madang_host::workload::{ConsoleKind, Session};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How much may wait to be read, in bytes; what is written beyond that waits.
const HELD_BYTES: usize = 4096;

/// Opens a session.
pub(super) fn open(kind: ConsoleKind) -> Box<dyn Session> {
    let greeting: &[u8] = match kind {
        ConsoleKind::Vnc => b"RFB 003.008\n",
        ConsoleKind::Serial => b"simulated console\r\n",
    };
    Box::new(Echo {
        held: greeting.iter().copied().collect(),
        is_over: false,
        reader: None,
        writer: None,
    })
}

struct Echo {
    held: VecDeque<u8>,
    is_over: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl AsyncRead for Echo {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.held.is_empty() && !self.is_over {
            self.reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        let count = self.held.len().min(into.remaining());
        for byte in self.held.drain(..count) {
            into.put_slice(&[byte]);
        }
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Echo {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let count = bytes.len().min(HELD_BYTES - self.held.len().min(HELD_BYTES));
        if count == 0 && !bytes.is_empty() {
            self.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        self.held.extend(&bytes[..count]);
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.is_over = true;
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn it_echoes_and_ends() {
        let mut session = open(ConsoleKind::Serial);
        session.write_all(b"hello").await.unwrap();
        session.shutdown().await.unwrap();
        let mut said = String::new();
        session.read_to_string(&mut said).await.unwrap();
        assert_eq!(said, "simulated console\r\nhello");
    }
}
