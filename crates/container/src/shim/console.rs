//! The container's output: from its fifo into a log of bounded size.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::OpenOptionsExt,
    },
    path::PathBuf,
};

use nix::libc;

use crate::record::Home;

/// One log file; there are two, so that at least this much is kept.
const FILE_BYTES: u64 = 4 << 20;
/// Pipes hold 64 KiB.
const BUFFER: usize = 64 << 10;
/// How much is copied before other events are looked at.
const BURST: usize = 16;

const LOG: &str = "console.log";
const OLDER: &str = "console.log.1";

/// The reading end of a container's output and the log it goes into.
pub(super) struct Console {
    output: File,
    log: File,
    written: u64,
    path: PathBuf,
    older: PathBuf,
    buffer: Vec<u8>,
}

impl Console {
    /// Opens both; the log goes on where it ended.
    pub fn open(home: &Home) -> io::Result<Self> {
        // For writing too, so that it never ends when the last writer goes.
        let output = File::options()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(home.file("output"))?;
        let (path, older) = (home.file(LOG), home.file(OLDER));
        let log = open_log(&path)?;
        let written = log.metadata()?.len();
        Ok(Self {
            output,
            log,
            written,
            path,
            older,
            buffer: vec![0; BUFFER],
        })
    }

    /// Copies what is there, up to a bound.
    pub fn copy(&mut self) -> io::Result<()> {
        for _ in 0..BURST {
            if !self.step()? {
                break;
            }
        }
        Ok(())
    }

    /// Copies all that is there.
    pub fn drain(&mut self) -> io::Result<()> {
        while self.step()? {}
        Ok(())
    }

    fn step(&mut self) -> io::Result<bool> {
        let n = match self.output.read(&mut self.buffer) {
            Ok(0) => return Ok(false),
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(true),
            Err(error) => return Err(error),
        };
        // A full disk must not end the container: what does not fit is lost.
        match self.log.write_all(&self.buffer[..n]) {
            Ok(()) => self.written += n as u64,
            Err(error) => eprintln!("{}: {error}", self.path.display()),
        }
        if self.written >= FILE_BYTES {
            fs::rename(&self.path, &self.older)?;
            self.log = open_log(&self.path)?;
            self.written = 0;
        }
        Ok(true)
    }
}

impl AsFd for Console {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.output.as_fd()
    }
}

fn open_log(path: &PathBuf) -> io::Result<File> {
    File::options()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
}

/// The last `max_bytes` bytes of a container's output.
pub(crate) fn tail(home: &Home, max_bytes: u64) -> io::Result<Vec<u8>> {
    let mut newest = end_of(&home.file(LOG), max_bytes)?;
    let missing = max_bytes - newest.len() as u64;
    if missing == 0 {
        return Ok(newest);
    }
    let mut all = end_of(&home.file(OLDER), missing)?;
    all.append(&mut newest);
    Ok(all)
}

fn end_of(path: &PathBuf, max_bytes: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(bytes),
        Err(error) => return Err(error),
    };
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(max_bytes)))?;
    file.take(max_bytes).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use nix::{sys::stat::Mode, unistd::mkfifo};

    use super::*;

    #[test]
    fn output_is_kept_in_two_bounded_files() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path().to_owned());
        mkfifo(&home.file("output"), Mode::from_bits_truncate(0o600)).unwrap();
        let mut console = Console::open(&home).unwrap();
        let mut container = File::options().write(true).open(home.file("output")).unwrap();
        let line = [b'x'; 32 << 10];
        for _ in 0..(3 * FILE_BYTES as usize / line.len()) {
            container.write_all(&line).unwrap();
            console.copy().unwrap();
        }
        container.write_all(b"the end").unwrap();
        drop(container);
        console.drain().unwrap();
        let size = |name: &str| fs::metadata(home.file(name)).unwrap().len();
        assert!(
            size(LOG) < 2 * FILE_BYTES && size(OLDER) < 2 * FILE_BYTES,
            "{} {}",
            size(LOG),
            size(OLDER)
        );
        assert_eq!(tail(&home, 10).unwrap(), b"xxxthe end");
        let most = tail(&home, FILE_BYTES).unwrap();
        assert_eq!(most.len() as u64, FILE_BYTES);
        assert!(most.ends_with(b"the end"));
    }
}
