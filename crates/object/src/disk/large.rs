//! The bytes of large objects, each in a file of its own, and how bytes come in and go out.
//!
//! ```text
//! the bytes                                as they came, from the beginning
//! CRC-32 of each 64 KiB of them            so that a range is checked without reading the rest
//! CRC-32 of these sums
//! ```
//! A file is complete and synced before anything names it. Memory does not grow with an object: a few pieces of a MiB are
//! under way at a time.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::Write,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::{Bytes, BytesMut};
use md5::{Digest, Md5};
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::{DiskError, Place, SMALL_BYTES, blocking, private_directory, private_file, sync_directory};

/// What one sum is of.
const BLOCK: usize = 64 << 10;
/// How much is written or read at a time.
const PIECE: usize = 1 << 20;

/// The large files of a disk.
pub(super) struct Files {
    directory: PathBuf,
    /// Those that are being written, or have been and are not named yet.
    coming: Mutex<HashSet<u64>>,
}

impl Files {
    pub(super) fn open(directory: &Path) -> Result<Self, DiskError> {
        private_directory(directory).map_err(DiskError::io("make", directory))?;
        for number in 0..=u8::MAX {
            let below = directory.join(format!("{number:02x}"));
            private_directory(&below).map_err(DiskError::io("make", &below))?;
        }
        sync_directory(directory)?;
        Ok(Self {
            directory: directory.to_owned(),
            coming: Mutex::default(),
        })
    }

    pub(super) fn path(&self, id: u64) -> PathBuf {
        self.directory.join(format!("{:02x}/{id:016x}", id & 0xff))
    }

    /// Those that there are and nobody is writing.
    pub(super) fn all(&self) -> Result<Vec<u64>, DiskError> {
        let mut ids = Vec::new();
        for number in 0..=u8::MAX {
            let below = self.directory.join(format!("{number:02x}"));
            let entries = fs::read_dir(&below).map_err(DiskError::io("read", &below))?;
            for entry in entries {
                let entry = entry.map_err(DiskError::io("read", &below))?;
                let id = entry
                    .file_name()
                    .to_str()
                    .and_then(|name| u64::from_str_radix(name, 16).ok());
                ids.extend(id);
            }
        }
        let coming = self.coming.lock();
        ids.retain(|id| !coming.contains(id));
        Ok(ids)
    }

    pub(super) fn remove(&self, id: u64) -> Result<(), DiskError> {
        let path = self.path(id);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(DiskError::io("remove", &path)(error)),
            _ => Ok(()),
        }
    }

    pub(super) fn open_file(&self, id: u64, length: u64) -> Result<Stream, DiskError> {
        let path = self.path(id);
        let file = File::open(&path).map_err(DiskError::io("open", &path))?;
        let there = file.metadata().map_err(DiskError::io("look at", &path))?.len();
        if there != length + sums_bytes(length) {
            return Err(DiskError::Damaged {
                what: "an object",
                path,
            });
        }
        Ok(Stream(Source::File(Arc::new(Large { file, length, path }))))
    }
}

fn sums_bytes(length: u64) -> u64 {
    4 * length.div_ceil(BLOCK as u64) + 4
}

struct Large {
    file: File,
    length: u64,
    path: PathBuf,
}

impl Large {
    /// Some of the bytes; those of whole blocks are read, and compared with their sums.
    fn read(&self, from: u64, length: usize) -> Result<Bytes, DiskError> {
        let block = BLOCK as u64;
        let begin = from / block * block;
        let end = ((from + length as u64).div_ceil(block) * block).min(self.length);
        let mut bytes = vec![0; usize::try_from(end - begin).unwrap_or_default()];
        let mut sums = vec![0; bytes.len().div_ceil(BLOCK) * 4];
        self.file
            .read_exact_at(&mut bytes, begin)
            .and_then(|()| self.file.read_exact_at(&mut sums, self.length + begin / block * 4))
            .map_err(DiskError::io("read", &self.path))?;
        for (block, sum) in bytes.chunks(BLOCK).zip(sums.chunks(4)) {
            if crc32fast::hash(block).to_le_bytes() != sum {
                return Err(DiskError::Damaged {
                    what: "an object",
                    path: self.path.clone(),
                });
            }
        }
        let skip = usize::try_from(from - begin).unwrap_or_default();
        Ok(Bytes::from(bytes).slice(skip..skip + length))
    }
}

/// Bytes to read from.
#[derive(Clone)]
pub struct Stream(Source);

#[derive(Clone)]
enum Source {
    Memory(Bytes),
    File(Arc<Large>),
}

impl Stream {
    /// Of bytes that are there already.
    pub fn of(bytes: Bytes) -> Self {
        Self(Source::Memory(bytes))
    }

    /// How many there are.
    pub fn length(&self) -> u64 {
        match &self.0 {
            Source::Memory(bytes) => bytes.len() as u64,
            Source::File(large) => large.length,
        }
    }

    /// The next piece of what begins at `from` and is `length` long, at most a MiB of it.
    ///
    /// # Errors
    /// When it cannot be read or is damaged.
    pub async fn piece(&self, from: u64, length: u64) -> Result<Bytes, DiskError> {
        let most = usize::try_from(length).unwrap_or(usize::MAX).min(PIECE);
        match &self.0 {
            Source::Memory(bytes) => {
                let from = usize::try_from(from).unwrap_or(usize::MAX).min(bytes.len());
                Ok(bytes.slice(from..(from + most).min(bytes.len())))
            }
            Source::File(large) => {
                let large = Arc::clone(large);
                blocking(move || large.read(from, most)).await
            }
        }
    }

    /// All of it, where it is known to be short.
    ///
    /// # Errors
    /// When it cannot be read or is damaged.
    pub async fn all(&self) -> Result<Bytes, DiskError> {
        let mut bytes = BytesMut::new();
        while (bytes.len() as u64) < self.length() {
            let at = bytes.len() as u64;
            bytes.extend_from_slice(&self.piece(at, self.length() - at).await?);
        }
        Ok(bytes.freeze())
    }
}

/// What is written from another thread, a piece at a time.
struct Sink {
    /// Who drops an upload half way must not remove the file before the last piece is written.
    _coming: Arc<Coming>,
    file: Option<File>,
    path: PathBuf,
    md5: Md5,
    block: crc32fast::Hasher,
    in_block: usize,
    sums: Vec<u8>,
}

impl Sink {
    fn write(&mut self, bytes: &[u8]) -> Result<(), DiskError> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(private_file(&self.path).map_err(DiskError::io("make", &self.path))?),
        };
        file.write_all(bytes).map_err(DiskError::io("write", &self.path))?;
        self.md5.update(bytes);
        let mut rest = bytes;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(BLOCK - self.in_block));
            self.block.update(now);
            self.in_block += now.len();
            if self.in_block == BLOCK {
                self.end_block();
            }
            rest = later;
        }
        Ok(())
    }

    fn end_block(&mut self) {
        let sum = std::mem::take(&mut self.block).finalize();
        self.sums.extend_from_slice(&sum.to_le_bytes());
        self.in_block = 0;
    }

    fn finish(&mut self) -> Result<(), DiskError> {
        if self.in_block > 0 {
            self.end_block();
        }
        let sum = crc32fast::hash(&self.sums);
        self.sums.extend_from_slice(&sum.to_le_bytes());
        let Some(file) = &mut self.file else { return Ok(()) };
        file.write_all(&self.sums)
            .and_then(|()| file.sync_data())
            .map_err(DiskError::io("write", &self.path))?;
        match self.path.parent() {
            Some(directory) => sync_directory(directory),
            None => Ok(()),
        }
    }
}

/// A file that is removed unless something names it.
struct Coming {
    files: Arc<Files>,
    id: u64,
    is_kept: AtomicBool,
}

impl Drop for Coming {
    fn drop(&mut self) {
        // What stays in spite of this is swept at the next start.
        if !self.is_kept.load(Ordering::Relaxed) {
            _ = self.files.remove(self.id);
        }
        self.files.coming.lock().remove(&self.id);
    }
}

/// Bytes on their way in. Dropped, it leaves nothing behind.
pub struct Upload {
    files: Arc<Files>,
    buffer: BytesMut,
    length: u64,
    writing: Option<JoinHandle<(Sink, Result<(), DiskError>)>>,
    coming: Option<Arc<Coming>>,
}

impl Upload {
    pub(super) fn new(files: Arc<Files>) -> Self {
        Self {
            files,
            buffer: BytesMut::new(),
            length: 0,
            writing: None,
            coming: None,
        }
    }

    /// How many came so far.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Takes the next ones.
    ///
    /// # Errors
    /// When the disk does not take them.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), DiskError> {
        self.length += bytes.len() as u64;
        self.buffer.extend_from_slice(bytes);
        let is_due = if self.coming.is_some() {
            self.buffer.len() >= PIECE
        } else {
            self.buffer.len() > SMALL_BYTES.max(PIECE / 2)
        };
        if is_due { self.flush(false).await } else { Ok(()) }
    }

    /// Begins to write what has come while more comes.
    async fn flush(&mut self, is_last: bool) -> Result<(), DiskError> {
        let mut sink = match self.writing.take() {
            Some(writing) => {
                let (sink, written) = writing.await.map_err(|_| DiskError::Broken)?;
                written?;
                sink
            }
            None => self.begin(),
        };
        let bytes = std::mem::take(&mut self.buffer);
        self.writing = Some(tokio::task::spawn_blocking(move || {
            let mut written = sink.write(&bytes);
            if is_last {
                written = written.and_then(|()| sink.finish());
            }
            (sink, written)
        }));
        Ok(())
    }

    fn begin(&mut self) -> Sink {
        let id = loop {
            let id = rand::random::<u64>();
            if self.files.coming.lock().insert(id) && !self.files.path(id).exists() {
                break id;
            }
        };
        let path = self.files.path(id);
        let coming = Arc::new(Coming {
            files: Arc::clone(&self.files),
            id,
            is_kept: AtomicBool::new(false),
        });
        self.coming = Some(Arc::clone(&coming));
        Sink {
            _coming: coming,
            file: None,
            path,
            md5: Md5::new(),
            block: crc32fast::Hasher::new(),
            in_block: 0,
            sums: Vec::new(),
        }
    }

    /// That was all. Large bytes are on the disk now, small ones will be with the entry that gets them.
    ///
    /// # Errors
    /// When the disk does not take them.
    pub async fn finish(mut self) -> Result<Uploaded, DiskError> {
        if self.coming.is_none() && self.buffer.len() <= SMALL_BYTES {
            let bytes = std::mem::take(&mut self.buffer).freeze();
            return Ok(Uploaded {
                md5: hex(&Md5::digest(&bytes)),
                length: self.length,
                small: Some(bytes),
                coming: None,
            });
        }
        self.flush(true).await?;
        let Some(writing) = self.writing.take() else {
            return Err(DiskError::Broken);
        };
        let (sink, written) = writing.await.map_err(|_| DiskError::Broken)?;
        written?;
        Ok(Uploaded {
            md5: hex(&sink.md5.finalize()),
            length: self.length,
            small: None,
            coming: self.coming.take(),
        })
    }
}

/// Bytes that have come, for an entry to have. Dropped without one, they go.
pub struct Uploaded {
    md5: String,
    length: u64,
    small: Option<Bytes>,
    coming: Option<Arc<Coming>>,
}

impl Uploaded {
    /// Of bytes that are there already, to be kept in the log.
    pub fn of(bytes: Bytes) -> Self {
        Self {
            md5: hex(&Md5::digest(&bytes)),
            length: bytes.len() as u64,
            small: Some(bytes),
            coming: None,
        }
    }

    /// Their MD5, in hexadecimal digits.
    pub fn md5(&self) -> &str {
        &self.md5
    }

    /// How many they are.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// An entry has them now.
    pub(super) fn keep(&self) {
        if let Some(coming) = &self.coming {
            coming.is_kept.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn small(&self) -> Option<&Bytes> {
        self.small.as_ref()
    }

    pub(super) fn place(&self) -> Place {
        self.coming.as_ref().map_or(Place::Nowhere, |coming| Place::File {
            id: coming.id,
            length: self.length,
        })
    }
}

/// Bytes in hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |four: u8| char::from(DIGITS[usize::from(four)]);
    bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
        .collect()
}
