//! The log: everything goes to `DIR/madang.log`, which is bounded; warnings are also shown.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, IsTerminal, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context;
use parking_lot::Mutex;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{EnvFilter, Layer, fmt::MakeWriter, layer::SubscriberExt, util::SubscriberInitExt};

use crate::config::{Log, LogFormat};

/// The size at which the file is put aside, and with it the bound: two of them are kept.
const FILE_BYTES: u64 = 32 * 1024 * 1024;

/// Starts logging for a long-running process.
///
/// # Errors
/// When the filter cannot be parsed or the file not opened.
pub fn start(settings: &Log, path: &Path) -> anyhow::Result<()> {
    let text = std::env::var("MADANG_LOG").unwrap_or_else(|_| settings.filter.clone());
    let filter = EnvFilter::try_new(&text).with_context(|| format!("log filter {text:?} cannot be used"))?;
    let file = Bounded::open(path)?;
    let to_file = match settings.format {
        LogFormat::Text => tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .with_writer(file)
            .with_filter(filter)
            .boxed(),
        LogFormat::Json => tracing_subscriber::fmt::layer()
            .json()
            .with_writer(file)
            .with_filter(filter)
            .boxed(),
    };
    let shown = tracing_subscriber::fmt::layer()
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .with_target(false)
        .with_filter(LevelFilter::WARN);
    tracing_subscriber::registry().with(to_file).with(shown).init();
    Ok(())
}

/// Shows warnings, for commands that end soon.
pub fn start_shown() {
    let filter = EnvFilter::try_from_env("MADANG_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_target(false)
        .init();
}

/// A file that is put aside as `NAME.1` when it has grown to its bound.
#[derive(Clone)]
struct Bounded(Arc<Mutex<Inner>>);

struct Inner {
    path: PathBuf,
    file: File,
    written: u64,
}

impl Bounded {
    fn open(path: &Path) -> anyhow::Result<Self> {
        let file = append(path).with_context(|| format!("could not open {}", path.display()))?;
        let written = file.metadata().map(|about| about.len()).unwrap_or_default();
        Ok(Self(Arc::new(Mutex::new(Inner {
            path: path.to_owned(),
            file,
            written,
        }))))
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

impl Write for Bounded {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut inner = self.0.lock();
        if inner.written >= FILE_BYTES {
            fs::rename(&inner.path, inner.path.with_extension("log.1"))?;
            inner.file = append(&inner.path)?;
            inner.written = 0;
        }
        let written = inner.file.write(line)?;
        inner.written += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.lock().file.flush()
    }
}

impl<'a> MakeWriter<'a> for Bounded {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_bounded() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("madang.log");
        let mut log = Bounded::open(&path).unwrap();
        log.write_all(b"first\n").unwrap();
        log.0.lock().written = FILE_BYTES;
        log.write_all(b"second\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "second\n");
        assert_eq!(
            fs::read_to_string(scratch.path().join("madang.log.1")).unwrap(),
            "first\n"
        );
    }
}
