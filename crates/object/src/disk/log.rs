//! The files of the log: appended to by one writer, read from anywhere.

use std::{
    collections::{BTreeSet, HashMap},
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{DiskError, index::Position, private_directory, private_file, record::Place, sync_directory};

/// Segments kept open for readers.
const OPEN: usize = 256;

/// The segments of a disk.
pub(super) struct Segments {
    directory: PathBuf,
    open: Mutex<HashMap<u64, Arc<File>>>,
}

impl Segments {
    pub(super) fn open(directory: &Path) -> Result<Self, DiskError> {
        private_directory(directory).map_err(DiskError::io("make", directory))?;
        Ok(Self {
            directory: directory.to_owned(),
            open: Mutex::default(),
        })
    }

    pub(super) fn path(&self, segment: u64) -> PathBuf {
        self.directory.join(format!("{segment:012}"))
    }

    /// Those that there are, in order.
    pub(super) fn all(&self) -> Result<BTreeSet<u64>, DiskError> {
        let read = DiskError::io("read", &self.directory);
        let entries = fs::read_dir(&self.directory).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let entries = entries.map_err(read)?;
        let numbers = entries
            .iter()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        Ok(numbers.collect())
    }

    pub(super) fn file(&self, segment: u64) -> Result<Arc<File>, DiskError> {
        if let Some(file) = self.open.lock().get(&segment) {
            return Ok(Arc::clone(file));
        }
        let path = self.path(segment);
        let file = Arc::new(File::open(&path).map_err(DiskError::io("open", &path))?);
        let mut open = self.open.lock();
        if open.len() >= OPEN {
            open.clear();
        }
        open.insert(segment, Arc::clone(&file));
        Ok(file)
    }

    /// The bytes at a place in a segment, compared with their sum.
    pub(super) fn read(&self, place: &Place) -> Result<Bytes, DiskError> {
        let Place::Segment {
            segment,
            offset,
            length,
            crc,
        } = *place
        else {
            return Ok(Bytes::new());
        };
        let file = self.file(segment)?;
        let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
        let path = || self.path(segment);
        file.read_exact_at(&mut bytes, offset)
            .map_err(|error| DiskError::io("read", &path())(error))?;
        if crc32fast::hash(&bytes) == crc {
            return Ok(bytes.into());
        }
        Err(DiskError::Damaged {
            what: "an object",
            path: path(),
        })
    }

    pub(super) fn remove(&self, segment: u64) -> Result<(), DiskError> {
        self.open.lock().remove(&segment);
        let path = self.path(segment);
        fs::remove_file(&path).map_err(DiskError::io("remove", &path))
    }
}

/// The end of the log.
pub(super) struct Log {
    segments: Arc<Segments>,
    file: File,
    end: Position,
}

impl Log {
    /// Goes on at `end`; what stands behind it is cut off.
    pub(super) fn open(segments: Arc<Segments>, end: Position) -> Result<Self, DiskError> {
        let path = segments.path(end.segment);
        let file = private_file(&path).map_err(DiskError::io("open", &path))?;
        file.set_len(end.offset)
            .and_then(|()| file.sync_all())
            .map_err(DiskError::io("cut", &path))?;
        sync_directory(&segments.directory)?;
        Ok(Self { segments, file, end })
    }

    pub(super) fn end(&self) -> Position {
        self.end
    }

    pub(super) fn segments(&self) -> &Segments {
        &self.segments
    }

    /// Begins a new segment where the last one is long enough.
    pub(super) fn roll(&mut self, most: u64) -> Result<(), DiskError> {
        if self.end.offset < most {
            return Ok(());
        }
        let next = Position {
            segment: self.end.segment + 1,
            offset: 0,
        };
        *self = Self::open(Arc::clone(&self.segments), next)?;
        Ok(())
    }

    /// Writes at the end and syncs. The end stays where it was until [`Log::advance`].
    pub(super) fn write(&self, bytes: &[u8]) -> Result<(), DiskError> {
        let path = || self.segments.path(self.end.segment);
        self.file
            .write_all_at(bytes, self.end.offset)
            .map_err(|error| DiskError::io("write", &path())(error))?;
        self.file
            .sync_data()
            .map_err(|error| DiskError::io("sync", &path())(error))
    }

    pub(super) fn advance(&mut self, bytes: u64) {
        self.end.offset += bytes;
    }

    /// Takes back what was written behind the end.
    pub(super) fn cut(&self) -> Result<(), DiskError> {
        let path = self.segments.path(self.end.segment);
        let cut = self.file.set_len(self.end.offset).and_then(|()| self.file.sync_data());
        cut.map_err(DiskError::io("cut", &path))
    }
}
