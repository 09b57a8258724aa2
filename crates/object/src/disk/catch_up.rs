//! What opening a disk does first: the index takes in what the log has and it has not.
//!
//! After `kill -9` the last record may be half there: it was not acknowledged, and is cut off. Anywhere else a record that
//! cannot be read is damage, and the disk is not opened over it.

use std::{io, os::unix::fs::FileExt};

use rusqlite::Connection;

use super::{
    DiskError, failed,
    index::{self, Position},
    log::Segments,
    record::{HEADER_BYTES, Header, MAGIC},
};

/// One record, as it stands in a segment.
pub(super) struct Found {
    pub(super) effects: Vec<super::record::Effect>,
    pub(super) bytes: u64,
}

/// The record at a position, if it is whole.
pub(super) fn record_at(file: &std::fs::File, at: Position, check_data: bool) -> io::Result<Option<Found>> {
    let mut head = [0; HEADER_BYTES];
    if !read_exact_or_end(file, &mut head, at.offset)? {
        return Ok(None);
    }
    let Some(header) = Header::read(&head, at.segment) else {
        return Ok(None);
    };
    let data = usize::try_from(header.data).unwrap_or(usize::MAX);
    let begin = at.offset + HEADER_BYTES as u64;
    if file.metadata()?.len() < at.offset + header.record_bytes() {
        return Ok(None);
    }
    if check_data {
        let mut bytes = vec![0; data];
        if !read_exact_or_end(file, &mut bytes, begin)? || !header.has_data(&bytes) {
            return Ok(None);
        }
    }
    let mut bytes = vec![0; usize::try_from(header.effects).unwrap_or(usize::MAX)];
    if !read_exact_or_end(file, &mut bytes, begin + u64::from(header.data))? {
        return Ok(None);
    }
    Ok(header.effects(&bytes).map(|effects| Found {
        effects,
        bytes: header.record_bytes(),
    }))
}

fn read_exact_or_end(file: &std::fs::File, into: &mut [u8], at: u64) -> io::Result<bool> {
    match file.read_exact_at(into, at) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// Brings the index to the end of the log; where that is.
pub(super) fn catch_up(connection: &Connection, segments: &Segments) -> Result<Position, DiskError> {
    let all = segments.all()?;
    let (first, last) = (all.first().copied(), all.last().copied());
    let begin = Position {
        segment: first.unwrap_or(1),
        offset: 0,
    };
    let mut at = index::head(connection)?.unwrap_or(begin);
    let Some(last) = last else { return Ok(at) };
    if all.contains(&at.segment) {
        let length = segments.file(at.segment)?.metadata();
        let length = length
            .map_err(DiskError::io("look at", &segments.path(at.segment)))?
            .len();
        if length < at.offset {
            return Err(damaged(segments, at));
        }
    }
    connection.execute_batch("BEGIN IMMEDIATE").map_err(failed)?;
    while at.segment <= last {
        if !all.contains(&at.segment) {
            return Err(damaged(segments, at));
        }
        at = read_segment(connection, segments, at)?;
        if at.segment == last {
            break;
        }
        let length = segments.file(at.segment)?.metadata();
        let length = length
            .map_err(DiskError::io("look at", &segments.path(at.segment)))?
            .len();
        if at.offset != length {
            return Err(damaged(segments, at));
        }
        at = Position {
            segment: at.segment + 1,
            offset: 0,
        };
    }
    index::set_head(connection, at)?;
    connection.execute_batch("COMMIT").map_err(failed)?;
    Ok(at)
}

/// Takes in the records from here to the end of the segment, or the first that is not whole.
fn read_segment(connection: &Connection, segments: &Segments, mut at: Position) -> Result<Position, DiskError> {
    let file = segments.file(at.segment)?;
    let path = segments.path(at.segment);
    loop {
        let found = record_at(&file, at, true).map_err(DiskError::io("read", &path))?;
        let Some(found) = found else {
            torn_or_damaged(&file, segments, at)?;
            return Ok(at);
        };
        for effect in &found.effects {
            index::apply(connection, effect)?;
        }
        at.offset += found.bytes;
    }
}

/// What is not whole was never acknowledged, unless there is a record behind it that was begun after it was synced.
fn torn_or_damaged(file: &std::fs::File, segments: &Segments, at: Position) -> Result<(), DiskError> {
    let path = segments.path(at.segment);
    let length = file.metadata().map_err(DiskError::io("look at", &path))?.len();
    let mut rest = vec![0; usize::try_from(length.saturating_sub(at.offset)).unwrap_or_default()];
    file.read_exact_at(&mut rest, at.offset)
        .map_err(DiskError::io("read", &path))?;
    let later = |window: &[u8]| {
        window.starts_with(&MAGIC.to_le_bytes())
            && Header::read(window, at.segment).is_some_and(|header| u64::from(header.group) > at.offset)
    };
    if rest.windows(HEADER_BYTES).any(later) {
        return Err(damaged(segments, at));
    }
    Ok(())
}

fn damaged(segments: &Segments, at: Position) -> DiskError {
    DiskError::Damaged {
        what: "the log of objects",
        path: segments.path(at.segment),
    }
}
