//! The one writer of a disk: takes what waits, changes the index, writes the log, syncs once, commits, answers.
//!
//! A change that is refused takes back its own part of the group and leaves its neighbours alone. Where the log cannot be
//! written, the whole group is taken back. Where nobody can say what is on the disk, nothing more is written.

use std::{
    fs::File,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use bytes::Bytes;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};
use tracing::error;

use super::{
    DiskError, failed,
    index::{self, Entry, Look, Position},
    large::Uploaded,
    log::{Log, Segments},
    record::{self, Effect, HEADER_BYTES, Place},
};

/// Changes of one sync. More would make the first of them wait.
const GROUP: usize = 512;
/// Bytes of one sync.
const GROUP_BYTES: usize = 8 << 20;

/// What the writer is asked to do.
pub(super) enum Job {
    Change(Box<dyn Change>),
    /// Makes the index durable.
    Checkpoint(oneshot::Sender<Result<(), DiskError>>),
    /// Ends.
    Close(oneshot::Sender<Result<(), DiskError>>),
    /// Forgets files that were removed. Needs no log: what is forgotten twice is forgotten.
    Forget(Vec<u64>, oneshot::Sender<Result<(), DiskError>>),
}

impl Job {
    pub(super) fn change<T, E>(
        change: impl FnOnce(&mut Tx<'_>) -> Result<T, E> + Send + 'static,
        reply: oneshot::Sender<Result<T, E>>,
    ) -> Self
    where
        T: Send + 'static,
        E: From<DiskError> + Send + 'static,
    {
        Self::Change(Box::new(Asked {
            change: Some(change),
            answer: None,
            reply,
        }))
    }
}

/// A change with whoever waits for it.
pub(super) trait Change: Send {
    /// Runs it; whether it stays.
    fn run(&mut self, tx: &mut Tx<'_>) -> bool;
    /// Answers, once it is known what became of the group.
    fn finish(self: Box<Self>, written: Result<(), DiskError>);
}

struct Asked<T, E, F> {
    change: Option<F>,
    answer: Option<Result<T, E>>,
    reply: oneshot::Sender<Result<T, E>>,
}

impl<T, E, F> Change for Asked<T, E, F>
where
    T: Send,
    E: From<DiskError> + Send,
    F: FnOnce(&mut Tx<'_>) -> Result<T, E> + Send,
{
    fn run(&mut self, tx: &mut Tx<'_>) -> bool {
        self.answer = self.change.take().map(|change| change(tx));
        matches!(self.answer, Some(Ok(_)))
    }

    fn finish(self: Box<Self>, written: Result<(), DiskError>) {
        let answer = match (self.answer, written) {
            (Some(Ok(done)), Ok(())) => Ok(done),
            (Some(Err(refused)), _) => Err(refused),
            (_, Err(error)) => Err(error.into()),
            (None, Ok(())) => Err(DiskError::Broken.into()),
        };
        // Who asked may have gone; what was done is done.
        _ = self.reply.send(answer);
    }
}

/// A change under way.
pub struct Tx<'w> {
    look: Look<'w>,
    segments: &'w Segments,
    effects: Vec<Effect>,
    data: Vec<Bytes>,
    /// What came from outside: it must not go before it is known whether it stays.
    uploads: Vec<Arc<Uploaded>>,
    /// Where the record's next bytes will be.
    next: Position,
}

impl<'w> std::ops::Deref for Tx<'w> {
    type Target = Look<'w>;

    fn deref(&self) -> &Self::Target {
        &self.look
    }
}

impl Tx<'_> {
    /// Writes an entry without bytes.
    ///
    /// # Errors
    /// When the index cannot be written.
    pub fn put(&mut self, key: &[u8], value: impl Into<Bytes>) -> Result<Option<Entry>, DiskError> {
        self.put_at(key, value, Place::Nowhere)
    }

    /// Writes an entry whose bytes stay where they are, or are in a file that other entries may have, too. Bytes in a
    /// segment belong to one key.
    ///
    /// # Errors
    /// When the index cannot be written.
    pub fn put_at(&mut self, key: &[u8], value: impl Into<Bytes>, place: Place) -> Result<Option<Entry>, DiskError> {
        self.effect(Effect::Put(key.to_vec(), value.into(), place))
    }

    /// Writes an entry with bytes that were taken before.
    ///
    /// # Errors
    /// When the index cannot be written.
    pub fn put_uploaded(
        &mut self,
        key: &[u8],
        value: impl Into<Bytes>,
        uploaded: &Arc<Uploaded>,
    ) -> Result<Option<Entry>, DiskError> {
        self.uploads.push(Arc::clone(uploaded));
        let place = match uploaded.small() {
            Some(bytes) => self.append(bytes.clone()),
            None => uploaded.place(),
        };
        self.put_at(key, value, place)
    }

    /// Writes an entry with the bytes that another has: small ones are copied, a file is shared.
    ///
    /// # Errors
    /// When the bytes cannot be read or the index not be written.
    pub fn put_copy(&mut self, key: &[u8], value: impl Into<Bytes>, of: &Place) -> Result<Option<Entry>, DiskError> {
        let place = match of {
            Place::Segment { .. } => {
                let bytes = self.bytes(of)?;
                self.append(bytes)
            }
            Place::Nowhere | Place::File { .. } => *of,
        };
        self.put_at(key, value, place)
    }

    /// Takes an entry away.
    ///
    /// # Errors
    /// When the index cannot be written.
    pub fn delete(&mut self, key: &[u8]) -> Result<Option<Entry>, DiskError> {
        self.effect(Effect::Delete(key.to_vec()))
    }

    /// The bytes of a small entry, also of one of this change.
    fn bytes(&self, place: &Place) -> Result<Bytes, DiskError> {
        let mut end = self.next.offset;
        for piece in self.data.iter().rev() {
            end -= piece.len() as u64;
            if matches!(place, Place::Segment { segment, offset, .. } if *segment == self.next.segment && *offset == end)
            {
                return Ok(piece.clone());
            }
        }
        self.segments.read(place)
    }

    fn append(&mut self, bytes: Bytes) -> Place {
        let place = Place::Segment {
            segment: self.next.segment,
            offset: self.next.offset,
            length: bytes.len() as u64,
            crc: crc32fast::hash(&bytes),
        };
        self.next.offset += bytes.len() as u64;
        self.data.push(bytes);
        place
    }

    fn effect(&mut self, effect: Effect) -> Result<Option<Entry>, DiskError> {
        let before = index::apply(self.look.connection, &effect)?;
        if before.is_some() || matches!(effect, Effect::Put(..)) {
            self.effects.push(effect);
        }
        Ok(before)
    }
}

pub(super) struct Writer {
    connection: Connection,
    log: Log,
    segment_bytes: u64,
    is_broken: bool,
    _lock: File,
}

impl Writer {
    pub(super) fn new(connection: Connection, log: Log, segment_bytes: u64, lock: File) -> Self {
        Self {
            connection,
            log,
            segment_bytes,
            is_broken: false,
            _lock: lock,
        }
    }

    /// Until it is closed or nobody can ask any more.
    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        let mut waiting = None;
        while let Some(job) = waiting.take().or_else(|| queue.blocking_recv()) {
            match job {
                Job::Change(change) => waiting = self.group(change, &mut queue),
                Job::Checkpoint(reply) => _ = reply.send(self.checkpoint()),
                Job::Forget(files, reply) => _ = reply.send(self.forget(&files)),
                Job::Close(reply) => {
                    let closed = self.checkpoint();
                    drop(self);
                    _ = reply.send(closed);
                    return;
                }
            }
        }
    }

    /// Changes that share one sync; what came in between and is no change is given back.
    fn group(&mut self, first: Box<dyn Change>, queue: &mut mpsc::Receiver<Job>) -> Option<Job> {
        let mut changes = vec![first];
        let mut other = None;
        let (mut buffer, mut uploads) = (Vec::new(), Vec::new());
        let mut written = self.begin();
        if written.is_ok() {
            let mut at = 0;
            while at < changes.len() {
                if let Err(error) = self.one(changes[at].as_mut(), &mut buffer, &mut uploads) {
                    written = Err(error);
                    break;
                }
                at += 1;
                if at == changes.len() && at < GROUP && buffer.len() < GROUP_BYTES {
                    match queue.try_recv() {
                        Ok(Job::Change(change)) => changes.push(change),
                        Ok(job) => other = Some(job),
                        Err(_) => {}
                    }
                }
            }
            written = written.and_then(|()| self.finish(&buffer));
            if let Err(error) = &written {
                error!(error = error as &dyn std::error::Error, "could not write objects");
                self.take_back();
            }
        }
        if written.is_ok() {
            uploads.iter().for_each(|upload| upload.keep());
        }
        let mut failure = written.err();
        for change in changes {
            let outcome = match &mut failure {
                None => Ok(()),
                Some(error) => Err(again(error)),
            };
            change.finish(outcome);
        }
        other
    }

    fn begin(&mut self) -> Result<(), DiskError> {
        if self.is_broken {
            return Err(DiskError::Broken);
        }
        self.log.roll(self.segment_bytes)?;
        self.connection.execute_batch("BEGIN IMMEDIATE").map_err(failed)
    }

    /// Runs one change and puts its record into the buffer.
    fn one(
        &self,
        change: &mut dyn Change,
        buffer: &mut Vec<u8>,
        uploads: &mut Vec<Arc<Uploaded>>,
    ) -> Result<(), DiskError> {
        let end = self.log.end();
        let mut tx = Tx {
            look: Look {
                connection: &self.connection,
            },
            segments: self.log.segments(),
            effects: Vec::new(),
            data: Vec::new(),
            uploads: Vec::new(),
            next: Position {
                segment: end.segment,
                offset: end.offset + (buffer.len() + HEADER_BYTES) as u64,
            },
        };
        index::run(&self.connection, "SAVEPOINT change", [])?;
        let stays = catch_unwind(AssertUnwindSafe(|| change.run(&mut tx))).unwrap_or_default();
        if !stays {
            index::run(&self.connection, "ROLLBACK TO change", [])?;
        }
        index::run(&self.connection, "RELEASE change", [])?;
        if stays && !tx.effects.is_empty() {
            record::write(buffer, (end.segment, end.offset), &tx.data, &tx.effects);
            uploads.append(&mut tx.uploads);
        }
        Ok(())
    }

    fn finish(&mut self, buffer: &[u8]) -> Result<(), DiskError> {
        if buffer.is_empty() {
            return self.connection.execute_batch("ROLLBACK").map_err(failed);
        }
        self.log.write(buffer)?;
        let end = self.log.end();
        let after = Position {
            segment: end.segment,
            offset: end.offset + buffer.len() as u64,
        };
        index::set_head(&self.connection, after)?;
        self.connection.execute_batch("COMMIT").map_err(failed)?;
        self.log.advance(buffer.len() as u64);
        Ok(())
    }

    /// Back to where the group began, or nowhere.
    fn take_back(&mut self) {
        let in_transaction = !self.connection.is_autocommit();
        let back = in_transaction.then(|| self.connection.execute_batch("ROLLBACK").map_err(failed));
        if let Err(error) = back.unwrap_or(Ok(())).and_then(|()| self.log.cut()) {
            error!(
                error = &error as &dyn std::error::Error,
                "objects cannot be written any more"
            );
            self.is_broken = true;
        }
    }

    /// What a reader still looks at can keep the last part from being durable: then it says that it is busy.
    fn checkpoint(&mut self) -> Result<(), DiskError> {
        let numbers = self.connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?))
        });
        match numbers.map_err(failed)? {
            (0, log, done) if log == done => Ok(()),
            _ => Err(DiskError::Busy),
        }
    }

    fn forget(&mut self, files: &[u64]) -> Result<(), DiskError> {
        self.connection.execute_batch("BEGIN IMMEDIATE").map_err(failed)?;
        for id in files {
            let gone = index::run(
                &self.connection,
                "DELETE FROM garbage WHERE id = ?1",
                [index::signed(*id)],
            );
            if let Err(error) = gone {
                _ = self.connection.execute_batch("ROLLBACK");
                return Err(error);
            }
        }
        self.connection.execute_batch("COMMIT").map_err(failed)
    }
}

/// The same failure for another of the group.
fn again(error: &DiskError) -> DiskError {
    match error {
        DiskError::Full => DiskError::Full,
        DiskError::Io { action, path, source } => DiskError::Io {
            action,
            path: path.clone(),
            source: source.kind().into(),
        },
        _ => DiskError::Broken,
    }
}
