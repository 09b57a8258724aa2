//! What is answered with: pieces of objects, one behind the other, each read when its turn comes.

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use madang_http::Failure;

use super::{ask::refused, ranges::Span};
use crate::{
    disk::{Stream, Upload},
    objects::{ObjectError, Objects, Which},
};

/// Where a piece is from.
#[derive(Clone)]
pub enum Source {
    /// It is open already.
    Open(Stream),
    /// An object, opened when its turn comes, and what its MD5 was.
    Later(Which, String),
}

/// A piece of an object.
#[derive(Clone)]
pub struct Part {
    /// Where it is from.
    pub source: Source,
    /// Where it begins there.
    pub from: u64,
    /// How long it is.
    pub length: u64,
}

impl Part {
    /// All of what is open.
    pub fn all(stream: Stream) -> Self {
        let length = stream.length();
        Self {
            source: Source::Open(stream),
            from: 0,
            length,
        }
    }

    /// Text between pieces.
    pub fn text(text: String) -> Self {
        Self::all(Stream::of(text.into()))
    }
}

/// How long pieces are together.
pub fn length(parts: &[Part]) -> u64 {
    parts.iter().map(|part| part.length).sum()
}

/// What of some pieces lies in a span.
pub fn cut(parts: &[Part], (begin, end): Span) -> Vec<Part> {
    let mut at = 0;
    let mut inside = Vec::new();
    for part in parts {
        let (first, last) = (begin.max(at), end.min(at + part.length));
        if first < last {
            inside.push(Part {
                source: part.source.clone(),
                from: part.from + (first - at),
                length: last - first,
            });
        }
        at += part.length;
    }
    inside
}

/// Reads pieces in their order.
pub struct Reader {
    objects: Objects,
    parts: std::vec::IntoIter<Part>,
    now: Option<(Stream, u64, u64)>,
}

impl Reader {
    /// Of these pieces.
    pub fn new(objects: &Objects, parts: Vec<Part>) -> Self {
        Self {
            objects: objects.clone(),
            parts: parts.into_iter(),
            now: None,
        }
    }

    /// The next bytes; none at the end.
    ///
    /// # Errors
    /// When they cannot be read, or an object is not what it was.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ObjectError> {
        loop {
            if let Some((stream, from, left)) = self.now.take().filter(|(_, _, left)| *left > 0) {
                let bytes = stream.piece(from, left).await?;
                if bytes.is_empty() {
                    return Err(ObjectError::Changed);
                }
                let count = bytes.len() as u64;
                self.now = Some((stream, from + count, left - count));
                return Ok(Some(bytes));
            }
            let Some(part) = self.parts.next() else { return Ok(None) };
            let stream = match part.source {
                Source::Open(stream) => stream,
                Source::Later(which, etag) => {
                    let (_, given) = self.objects.object(&which).await?;
                    let given = given.ok_or(ObjectError::NoObject)?;
                    if given.object.etag != etag {
                        return Err(ObjectError::Changed);
                    }
                    given.stream
                }
            };
            self.now = Some((stream, part.from, part.length));
        }
    }

    /// Everything, into an upload.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub async fn pour(mut self, into: &mut Upload) -> Result<(), Failure> {
        while let Some(bytes) = self.next().await.map_err(refused)? {
            into.write(&bytes).await.map_err(|error| refused(error.into()))?;
        }
        Ok(())
    }

    /// A body of all of it, after what was read already.
    pub fn body(self, first: Option<Bytes>) -> Body {
        let rest = stream::unfold((first, Some(self)), async |(first, reader)| {
            if let Some(bytes) = first {
                return Some((Ok(bytes), (None, reader)));
            }
            let mut reader = reader?;
            match reader.next().await {
                Ok(bytes) => Some((Ok(bytes?), (None, Some(reader)))),
                Err(error) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "an object cannot be read to its end"
                    );
                    Some((Err(error), (None, None)))
                }
            }
        });
        Body::from_stream(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_cut_across_pieces() {
        let parts: Vec<Part> = ["abc", "", "defg", "h"]
            .map(|text| Part::text(text.to_owned()))
            .to_vec();
        let text = |span| {
            let cut = cut(&parts, span);
            cut.iter().map(|part| (part.from, part.length)).collect::<Vec<_>>()
        };
        assert_eq!(length(&parts), 8);
        assert_eq!(text((0, 8)), [(0, 3), (0, 4), (0, 1)]);
        assert_eq!(text((2, 5)), [(2, 1), (0, 2)]);
        assert_eq!(text((7, 8)), [(0, 1)]);
    }
}
