//! How the log is written: records of what changed, with the bytes of small objects in them.
//!
//! ```text
//! header: magic  data length  effects length  crc of data  crc of effects  segment  group  crc of the header
//! data    (the bytes that the effects place here)
//! effects (what becomes of which key)
//! ```
//! Effects say what is, not what to do to it, so that reading them again changes nothing. Numbers are little-endian. The
//! group is where the first of the records begins that were synced together: all before it was on the disk by then.

use bytes::Bytes;

/// What a record begins with.
pub(super) const MAGIC: u32 = 0x6f67_646d;
/// How long the header is.
pub(super) const HEADER_BYTES: usize = 32;

/// Where the bytes of an entry are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// It has none.
    #[default]
    Nowhere,
    /// In a segment of the log.
    Segment {
        /// Which one.
        segment: u64,
        /// From where on.
        offset: u64,
        /// How many.
        length: u64,
        /// Their CRC-32.
        crc: u32,
    },
    /// In a file of their own.
    File {
        /// Its name.
        id: u64,
        /// How many.
        length: u64,
    },
}

impl Place {
    /// How many bytes there are.
    pub fn length(&self) -> u64 {
        match self {
            Self::Nowhere => 0,
            Self::Segment { length, .. } | Self::File { length, .. } => *length,
        }
    }
}

/// What becomes of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// It is gone.
    Delete(Vec<u8>),
    /// It has this value, and its bytes are there.
    Put(Vec<u8>, Bytes, Place),
}

/// A record's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) data: u32,
    pub(super) effects: u32,
    data_crc: u32,
    effects_crc: u32,
    segment: u32,
    /// Where the group begins that the record was written in.
    pub(super) group: u32,
}

impl Header {
    /// How long the whole record is.
    pub(super) fn record_bytes(&self) -> u64 {
        HEADER_BYTES as u64 + u64::from(self.data) + u64::from(self.effects)
    }

    /// The header at the beginning of these bytes, if it is whole and of this segment.
    pub(super) fn read(bytes: &[u8], segment: u64) -> Option<Self> {
        let bytes = bytes.get(..HEADER_BYTES)?;
        let word = |i: usize| u32::from_le_bytes([bytes[4 * i], bytes[4 * i + 1], bytes[4 * i + 2], bytes[4 * i + 3]]);
        let header = Self {
            data: word(1),
            effects: word(2),
            data_crc: word(3),
            effects_crc: word(4),
            segment: word(5),
            group: word(6),
        };
        let whole = word(0) == MAGIC && word(7) == crc32fast::hash(&bytes[..28]);
        (whole && header.segment == low(segment)).then_some(header)
    }

    /// Whether these are the record's data.
    pub(super) fn has_data(&self, data: &[u8]) -> bool {
        crc32fast::hash(data) == self.data_crc
    }

    /// The record's effects, if these are their bytes.
    pub(super) fn effects(&self, bytes: &[u8]) -> Option<Vec<Effect>> {
        (crc32fast::hash(bytes) == self.effects_crc).then(|| decode(bytes))?
    }
}

fn low(segment: u64) -> u32 {
    (segment & u64::from(u32::MAX)) as u32
}

/// Adds a record to the end of a buffer, of the group that begins at `group` in the segment.
pub(super) fn write(buffer: &mut Vec<u8>, (segment, group): (u64, u64), data: &[Bytes], effects: &[Effect]) {
    let encoded = encode(effects);
    let mut data_crc = crc32fast::Hasher::new();
    let mut length = 0;
    for piece in data {
        data_crc.update(piece);
        length += piece.len();
    }
    let words = [
        MAGIC,
        length as u32,
        encoded.len() as u32,
        data_crc.finalize(),
        crc32fast::hash(&encoded),
        low(segment),
        low(group),
    ];
    let begin = buffer.len();
    buffer.reserve(HEADER_BYTES + length + encoded.len());
    for word in words {
        buffer.extend_from_slice(&word.to_le_bytes());
    }
    let crc = crc32fast::hash(&buffer[begin..]);
    buffer.extend_from_slice(&crc.to_le_bytes());
    for piece in data {
        buffer.extend_from_slice(piece);
    }
    buffer.extend_from_slice(&encoded);
}

fn encode(effects: &[Effect]) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    let blob = |out: &mut Vec<u8>, bytes: &[u8]| {
        out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        out.extend_from_slice(bytes);
    };
    for effect in effects {
        match effect {
            Effect::Delete(key) => {
                out.push(0);
                blob(&mut out, key);
            }
            Effect::Put(key, value, place) => {
                out.push(match place {
                    Place::Nowhere => 1,
                    Place::Segment { .. } => 2,
                    Place::File { .. } => 3,
                });
                blob(&mut out, key);
                blob(&mut out, value);
                let numbers: [u64; 4] = match *place {
                    Place::Nowhere => continue,
                    Place::Segment {
                        segment,
                        offset,
                        length,
                        crc,
                    } => [segment, offset, length, u64::from(crc)],
                    Place::File { id, length } => [id, length, 0, 0],
                };
                for number in numbers {
                    out.extend_from_slice(&number.to_le_bytes());
                }
            }
        }
    }
    out
}

/// Reads pieces off the front of a slice.
struct Pieces<'b>(&'b [u8]);

impl<'b> Pieces<'b> {
    fn take(&mut self, count: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn blob(&mut self) -> Option<&'b [u8]> {
        let length = u32::from_le_bytes(self.take(4)?.try_into().ok()?);
        self.take(length as usize)
    }
}

fn decode(bytes: &[u8]) -> Option<Vec<Effect>> {
    let mut pieces = Pieces(bytes);
    let mut effects = Vec::new();
    while !pieces.0.is_empty() {
        let tag = pieces.take(1)?[0];
        let key = pieces.blob()?.to_vec();
        if tag == 0 {
            effects.push(Effect::Delete(key));
            continue;
        }
        let value = Bytes::copy_from_slice(pieces.blob()?);
        let place = match tag {
            1 => Place::Nowhere,
            2 => Place::Segment {
                segment: pieces.number()?,
                offset: pieces.number()?,
                length: pieces.number()?,
                crc: u32::try_from(pieces.number()?).ok()?,
            },
            3 => {
                let (id, length) = (pieces.number()?, pieces.number()?);
                pieces.take(16)?;
                Place::File { id, length }
            }
            _ => return None,
        };
        effects.push(Effect::Put(key, value, place));
    }
    Some(effects)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (Vec<Bytes>, Vec<Effect>) {
        let place = Place::Segment {
            segment: 7,
            offset: 32,
            length: 5,
            crc: u32::MAX,
        };
        let effects = vec![
            Effect::Put(b"a".to_vec(), Bytes::from_static(b"{}"), place),
            Effect::Delete(b"b\0".to_vec()),
            Effect::Put(b"c".to_vec(), Bytes::new(), Place::Nowhere),
            Effect::Put(b"d".to_vec(), Bytes::new(), Place::File { id: 9, length: 1 << 40 }),
        ];
        (vec![Bytes::from_static(b"he"), Bytes::from_static(b"llo")], effects)
    }

    #[test]
    fn what_is_written_is_read() {
        let (data, effects) = sample();
        let mut buffer = vec![1, 2, 3];
        write(&mut buffer, (7, 3), &data, &effects);
        let record = &buffer[3..];
        let header = Header::read(record, 7).unwrap();
        assert_eq!(header.record_bytes(), record.len() as u64);
        let (data, rest) = record[HEADER_BYTES..].split_at(header.data as usize);
        assert!(data == b"hello" && header.has_data(data));
        assert_eq!(header.effects(rest), Some(effects));
        assert_eq!(Header::read(record, 8), None, "of another segment");
    }

    #[test]
    fn no_flipped_bit_goes_unnoticed() {
        let (data, effects) = sample();
        let mut buffer = Vec::new();
        write(&mut buffer, (7, 3), &data, &effects);
        for bit in 0..buffer.len() * 8 {
            buffer[bit / 8] ^= 1 << (bit % 8);
            let whole = Header::read(&buffer, 7).is_some_and(|header| {
                let (data, rest) = buffer[HEADER_BYTES..].split_at(header.data as usize);
                header.has_data(data) && header.effects(rest).is_some()
            });
            assert!(!whole, "bit {bit}");
            buffer[bit / 8] ^= 1 << (bit % 8);
        }
    }
}
