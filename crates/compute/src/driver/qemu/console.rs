//! The console's output: QEMU keeps the newest part in memory, we collect it into a file of bounded size.
//!
//! QEMU never writes to the disk, so however much a guest prints, and however long madang is away, the file keeps its
//! bound; what was printed beyond QEMU's memory meanwhile is lost, oldest first.

use std::{
    fs,
    io::{ErrorKind, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use madang_host::workload::DriverError;

use super::record::{CONSOLE, partial};

/// What QEMU keeps, in bytes; a power of two.
pub(super) const RING_BYTES: u64 = 1 << 20;

/// What is fetched at once; as JSON it is a third longer, well below the longest message accepted.
pub(super) const FETCH_BYTES: u64 = 1 << 18;

/// How much of the output is kept at least, once there was that much; the file grows to twice that before it is cut.
const KEEP_BYTES: u64 = 1 << 20;

/// Appends to the file, cutting its beginning when it grew too long.
pub(super) fn append(dir: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let path = dir.join(CONSOLE);
    let mut file = options().append(true).open(&path)?;
    let length = file.metadata()?.len();
    if length + bytes.len() as u64 <= 2 * KEEP_BYTES {
        return file.write_all(bytes);
    }
    let mut kept = read_tail(&path, KEEP_BYTES.saturating_sub(bytes.len() as u64))?;
    kept.extend_from_slice(&bytes[bytes.len().saturating_sub(KEEP_BYTES as usize)..]);
    let partial = partial(dir, CONSOLE);
    options().write(true).truncate(true).open(&partial)?.write_all(&kept)?;
    fs::rename(partial, path)
}

fn options() -> fs::OpenOptions {
    let mut options = fs::OpenOptions::new();
    options.create(true).mode(0o600);
    options
}

/// The last `max_bytes` of the file; empty when there is none.
pub(super) fn tail(dir: &Path, max_bytes: u64) -> Result<Vec<u8>, DriverError> {
    let path = dir.join(CONSOLE);
    match read_tail(&path, max_bytes) {
        Ok(bytes) => Ok(bytes),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(DriverError::io(format!("read {}", path.display()))(error)),
    }
}

fn read_tail(path: &Path, max_bytes: u64) -> std::io::Result<Vec<u8>> {
    let mut file = fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(max_bytes)))?;
    let mut bytes = Vec::new();
    file.take(max_bytes).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The last line that says why a Linux kernel gave up, if there is one.
pub(super) fn panic_line(dir: &Path) -> Option<String> {
    let bytes = tail(dir, 1 << 16).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let line = text.lines().rfind(|line| line.contains("Kernel panic"))?;
    let start = line.find("Kernel panic")?;
    Some(line[start..].trim().chars().take(300).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_keeps_its_bound_and_the_newest_part() {
        let dir = tempfile::tempdir().unwrap();
        assert!(tail(dir.path(), 10).unwrap().is_empty());
        let line = [b'x'; 1000];
        for _ in 0..5000 {
            append(dir.path(), &line).unwrap();
        }
        append(dir.path(), b"the end").unwrap();
        let length = fs::metadata(dir.path().join(CONSOLE)).unwrap().len();
        assert!((KEEP_BYTES..=2 * KEEP_BYTES).contains(&length), "{length}");
        assert_eq!(tail(dir.path(), 7).unwrap(), b"the end");
        append(dir.path(), &vec![b'y'; 3 * KEEP_BYTES as usize]).unwrap();
        assert_eq!(fs::metadata(dir.path().join(CONSOLE)).unwrap().len(), KEEP_BYTES);
    }

    #[test]
    fn the_reason_of_a_panic_is_found() {
        let dir = tempfile::tempdir().unwrap();
        append(
            dir.path(),
            b"[    1.2] Kernel panic - not syncing: VFS: no root\r\n[    1.3] Call Trace:\r\n",
        )
        .unwrap();
        assert_eq!(
            panic_line(dir.path()).as_deref(),
            Some("Kernel panic - not syncing: VFS: no root")
        );
    }
}
