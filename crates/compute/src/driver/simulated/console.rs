//! The consoles of machines that have none: a line that says hello and echoes, a screen of one pixel that nobody can touch.

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
    let (greeting, screen): (&[u8], _) = match kind {
        ConsoleKind::Vnc => (b"RFB 003.008\n", Some(Handshake::default())),
        ConsoleKind::Serial => (b"simulated console\r\n", None),
    };
    Box::new(Console {
        held: greeting.iter().copied().collect(),
        screen,
        is_over: false,
        reader: None,
        writer: None,
    })
}

/// How far a client of a screen is. Source: RFC 6143, section 7.
#[derive(Debug, Default)]
struct Handshake {
    /// Answers given.
    step: usize,
    /// Bytes of the message that is coming in.
    seen: usize,
}

/// How long the messages are that a client sends first, and what is answered to each: the ways to log in (none is needed),
/// that it worked, and the screen: one pixel of 32 bits, called `simulated`.
const ANSWERS: [(usize, &[u8]); 3] = [
    (12, &[1, 1]),
    (1, &[0, 0, 0, 0]),
    (
        1,
        b"\0\x01\0\x01\x20\x18\0\x01\0\xff\0\xff\0\xff\x10\x08\0\0\0\0\0\0\0\x09simulated",
    ),
];

impl Handshake {
    /// What is answered to these bytes. What comes after the handshake changes nothing on such a screen.
    fn take(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut said = Vec::new();
        self.seen += bytes.len();
        while let Some((length, answer)) = ANSWERS.get(self.step).filter(|(length, _)| self.seen >= *length) {
            self.seen -= length;
            self.step += 1;
            said.extend_from_slice(answer);
        }
        said
    }
}

struct Console {
    held: VecDeque<u8>,
    /// Of a screen; a line echoes.
    screen: Option<Handshake>,
    is_over: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Session for Console {}

impl AsyncRead for Console {
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

impl AsyncWrite for Console {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let count = bytes.len().min(HELD_BYTES - self.held.len().min(HELD_BYTES));
        if count == 0 && !bytes.is_empty() {
            self.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        match &mut self.screen {
            Some(screen) => {
                let said = screen.take(&bytes[..count]);
                self.held.extend(said);
            }
            None => self.held.extend(&bytes[..count]),
        }
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
    async fn a_screen_is_opened_step_by_step() {
        let mut session = open(ConsoleKind::Vnc);
        let mut version = [0; 12];
        session.read_exact(&mut version).await.unwrap();
        session.write_all(&version).await.unwrap();
        let mut ways = [0; 2];
        session.read_exact(&mut ways).await.unwrap();
        assert_eq!(ways, [1, 1]);
        session.write_all(&[1]).await.unwrap();
        let mut result = [1; 4];
        session.read_exact(&mut result).await.unwrap();
        assert_eq!(result, [0; 4]);
        session.write_all(&[1]).await.unwrap();
        let mut screen = [0; 33];
        session.read_exact(&mut screen).await.unwrap();
        assert_eq!((&screen[20..24], &screen[24..]), (&[0, 0, 0, 9][..], &b"simulated"[..]));
    }

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
