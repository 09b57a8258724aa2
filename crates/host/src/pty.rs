//! Terminals: the master side of one, as a session, and the socket over which an OCI runtime hands it out.
#![allow(unsafe_code)] // waiting for a raw descriptor, and setting a terminal's size

use std::{
    fs::File,
    io::{self, IoSliceMut, Read, Write},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::socket::{ControlMessageOwned, MsgFlags, recvmsg},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf, unix::AsyncFd},
    net::UnixListener,
};
use uuid::Uuid;

use crate::{
    Error, Result,
    workload::{Session, Terminal},
};

/// The master side of a terminal. Dropping it hangs up on who runs in it.
pub struct Pty {
    master: Arc<AsyncFd<File>>,
}

impl Pty {
    /// Takes the master side over. Needs a tokio runtime.
    pub fn new(master: OwnedFd) -> io::Result<Self> {
        let flags = OFlag::from_bits_retain(fcntl(&master, FcntlArg::F_GETFL)?);
        fcntl(&master, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        // SAFETY: a `File` names the same open descriptor for as long as the `AsyncFd` owns it.
        let master =
            unsafe { AsyncFd::register_with_interest(File::from(master), Interest::READABLE | Interest::WRITABLE) };
        Ok(Self {
            master: Arc::new(master.map_err(io::Error::from)?),
        })
    }
}

impl AsyncRead for Pty {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.master.poll_read_ready(context))?;
            match guard.try_io(|master| master.get_ref().read(into.initialize_unfilled())) {
                Ok(Ok(count)) => {
                    into.advance(count);
                    return Poll::Ready(Ok(()));
                }
                // How a terminal says that nobody runs in it any more.
                Ok(Err(error)) if error.raw_os_error() == Some(libc::EIO) => return Poll::Ready(Ok(())),
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_not_ready) => {}
            }
        }
    }
}

impl AsyncWrite for Pty {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.master.poll_write_ready(context))?;
            if let Ok(written) = guard.try_io(|master| master.get_ref().write(from)) {
                return Poll::Ready(written);
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Session for Pty {
    fn terminal(&self) -> Option<Box<dyn Terminal>> {
        Some(Box::new(Sized(Arc::clone(&self.master))))
    }
}

struct Sized(Arc<AsyncFd<File>>);

impl Terminal for Sized {
    fn resize(&self, columns: u16, rows: u16) -> io::Result<()> {
        let size = libc::winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        // SAFETY: the request reads the structure it is defined with; the descriptor is open.
        match unsafe { libc::ioctl(self.0.get_ref().as_raw_fd(), libc::TIOCSWINSZ, &raw const size) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Where one terminal is handed in: a socket in a directory of the caller's, gone when this is.
pub struct PtyDoor {
    listener: UnixListener,
    /// Short, because names of sockets end at 108 bytes: through our descriptor of the directory.
    path: PathBuf,
    _directory: File,
}

impl PtyDoor {
    /// Opens it in a directory that only root enters.
    pub fn open(directory: &Path) -> Result<Self> {
        let held = File::options()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
            .open(directory);
        let held = held.map_err(Error::io(format!("open {}", directory.display())))?;
        let name = format!("pty-{}", Uuid::new_v4().simple());
        let path = PathBuf::from(format!("/proc/{}/fd/{}/{name}", std::process::id(), held.as_raw_fd()));
        let listener = UnixListener::bind(&path);
        let listener = listener.map_err(Error::io(format!("make a socket in {}", directory.display())))?;
        Ok(Self {
            listener,
            path,
            _directory: held,
        })
    }

    /// What the runtime is told.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for the terminal.
    pub async fn take(&self) -> Result<Pty> {
        let action = "take a terminal";
        let (stream, _) = self.listener.accept().await.map_err(Error::io(action))?;
        let taken = stream.async_io(Interest::READABLE, || descriptor(&stream)).await;
        taken.and_then(Pty::new).map_err(Error::io(action))
    }
}

impl Drop for PtyDoor {
    fn drop(&mut self) {
        // At worst a name is left in a directory that goes with its workload.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The descriptor that came with a message.
fn descriptor(stream: &tokio::net::UnixStream) -> io::Result<OwnedFd> {
    let mut name = [0; 4096];
    let mut parts = [IoSliceMut::new(&mut name)];
    let mut space = nix::cmsg_space!([std::os::fd::RawFd; 1]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = part
            && let Some(one) = descriptors.first()
        {
            // SAFETY: the kernel just gave us this descriptor; nobody else has it. There is room for one only.
            return Ok(unsafe { OwnedFd::from_raw_fd(*one) });
        }
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidData,
        "the runtime sent no terminal",
    ))
}

#[cfg(test)]
mod tests {
    use nix::pty::openpty;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_terminal_carries_bytes_and_knows_its_size() {
        let pair = openpty(None, None).unwrap();
        let mut pty = Pty::new(pair.master).unwrap();
        pty.terminal().unwrap().resize(101, 33).unwrap();
        // SAFETY: all zero is a value, and the request fills it.
        let mut size: libc::winsize = unsafe { std::mem::zeroed() };
        // SAFETY: the request fills the structure it is defined with.
        assert_eq!(
            unsafe { libc::ioctl(pair.slave.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) },
            0
        );
        assert_eq!((size.ws_col, size.ws_row), (101, 33));
        pty.write_all(b"typed\n").await.unwrap();
        let mut slave = File::from(pair.slave);
        let mut line = [0; 6];
        slave.read_exact(&mut line).unwrap();
        assert_eq!(&line, b"typed\n");
        drop(slave);
        let mut rest = Vec::new();
        pty.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"typed\r\n", "its echo, and then the end");
    }
}
