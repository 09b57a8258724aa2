//! Bytes with a known digest: reading them checks it.

use std::{
    fmt,
    fs::File,
    io::{self, BufReader, Read},
    os::unix::fs::FileExt,
    str::FromStr,
    sync::Arc,
};

use flate2::read::MultiGzDecoder;
use sha2::{Digest as _, Sha256, Sha512};

use super::{ImageError, tape::Source};

/// zstd may ask for a window of gigabytes; 128 MiB is what its command line accepts unasked.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// A content hash as images write it: `sha256:` or `sha512:` and lower-case hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Digest {
    pub algorithm: Algorithm,
    pub hex: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Algorithm {
    Sha256,
    Sha512,
}

impl FromStr for Digest {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Self, ImageError> {
        let bad = || {
            ImageError::Broken(format!(
                "{:?} is not a digest that can be checked (sha256 or sha512)",
                clip(text)
            ))
        };
        let (name, hex) = text.split_once(':').ok_or_else(bad)?;
        let (algorithm, length) = match name {
            "sha256" => (Algorithm::Sha256, 64),
            "sha512" => (Algorithm::Sha512, 128),
            _ => return Err(bad()),
        };
        let is_hex = hex.len() == length && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !is_hex {
            return Err(bad());
        }
        Ok(Self {
            algorithm,
            hex: hex.to_owned(),
        })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.algorithm {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
        };
        write!(f, "{name}:{}", self.hex)
    }
}

/// Computes a digest of what passes through.
enum Hasher {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hasher {
    fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::Sha256(Sha256::new()),
            Algorithm::Sha512 => Self::Sha512(Sha512::new()),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
    }

    fn hex(self) -> String {
        match self {
            Self::Sha256(hasher) => to_hex(&hasher.finalize()),
            Self::Sha512(hasher) => to_hex(&hasher.finalize()),
        }
    }
}

/// Lower-case hexadecimal of the SHA-256 of `bytes`.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    to_hex(&Sha256::digest(bytes))
}

/// The digest of what was hashed.
pub(super) fn sha256(hasher: Sha256) -> Digest {
    Digest {
        algorithm: Algorithm::Sha256,
        hex: to_hex(&hasher.finalize()),
    }
}

/// The SHA-256 of all that there is to read.
pub(super) fn sha256_of(mut reader: impl Read) -> io::Result<Digest> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 128 << 10];
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(sha256(hasher)),
            count => hasher.update(&buffer[..count]),
        }
    }
}

fn to_hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            write!(text, "{byte:02x}").expect("writing to a string does not fail");
            text
        })
}

/// A part of a file.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub file: Arc<File>,
    pub offset: u64,
    pub size: u64,
}

impl Read for Span {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.size).unwrap_or(usize::MAX));
        let n = self.file.read_at(&mut buffer[..most], self.offset)?;
        self.offset += n as u64;
        self.size -= n as u64;
        Ok(n)
    }
}

impl Source for Span {
    fn skip(&mut self, count: u64) -> io::Result<u64> {
        let count = count.min(self.size);
        self.offset += count;
        self.size -= count;
        Ok(count)
    }
}

/// Hashes what passes through and, at [`Verified::finish`], compares it.
pub(crate) struct Verified<R> {
    reader: R,
    check: Option<(Hasher, Digest)>,
    left: u64,
    limit: u64,
    what: String,
}

impl<R: Read> Verified<R> {
    /// Reads at most `limit` bytes of `reader`; `what` is its name in messages.
    pub fn new(reader: R, digest: Option<&Digest>, limit: u64, what: String) -> Self {
        let check = digest.map(|digest| (Hasher::new(digest.algorithm), digest.clone()));
        Self {
            reader,
            check,
            left: limit,
            limit,
            what,
        }
    }

    /// Reads what is left, compares the digest, and returns what was read from.
    pub fn finish(mut self) -> Result<R, ImageError> {
        io::copy(&mut self, &mut io::sink()).map_err(|source| ImageError::reading(&self.what, source))?;
        if let Some((hasher, wanted)) = self.check {
            let found = hasher.hex();
            if found != wanted.hex {
                return Err(ImageError::Broken(format!(
                    "{} does not match its digest {wanted}: it has {found}",
                    self.what
                )));
            }
        }
        Ok(self.reader)
    }
}

impl<R: Read> Read for Verified<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.reader.read(buffer)?;
        self.left = self.left.checked_sub(n as u64).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("{} is larger than {} bytes", self.what, self.limit),
            )
        })?;
        if let Some((hasher, _)) = &mut self.check {
            hasher.update(&buffer[..n]);
        }
        Ok(n)
    }
}

impl<R: Read> Source for Verified<R> {}

/// A stream after decompression.
pub(crate) enum Decoded<R: Read> {
    Plain(R),
    Gzip(Box<MultiGzDecoder<R>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, BufReader<R>>>),
}

impl<R: Read> Decoded<R> {
    /// Wraps `reader` by how its first bytes, `magic`, look: what a manifest says is not always true.
    pub fn new(reader: R, magic: &[u8]) -> Result<Self, ImageError> {
        match Compression::of(magic) {
            Compression::None => Ok(Self::Plain(reader)),
            Compression::Gzip => Ok(Self::Gzip(Box::new(MultiGzDecoder::new(reader)))),
            Compression::Zstd => {
                let refused = |source| ImageError::reading("a zstd stream", source);
                let mut decoder = zstd::stream::read::Decoder::new(reader).map_err(refused)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(refused)?;
                Ok(Self::Zstd(Box::new(decoder)))
            }
        }
    }

    /// The stream underneath.
    pub fn into_inner(self) -> R {
        match self {
            Self::Plain(reader) => reader,
            Self::Gzip(decoder) => decoder.into_inner(),
            Self::Zstd(decoder) => decoder.finish().into_inner(),
        }
    }
}

impl<R: Read> Read for Decoded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(reader) => reader.read(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Zstd(decoder) => decoder.read(buffer),
        }
    }
}

/// How a stream is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    /// By the first bytes.
    pub fn of(magic: &[u8]) -> Self {
        if magic.starts_with(&[0x1f, 0x8b]) {
            Self::Gzip
        } else if magic.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            Self::Zstd
        } else {
            Self::None
        }
    }
}

/// The beginning of a stranger's text, for messages.
pub(crate) fn clip(text: &str) -> String {
    text.chars().take(120).collect()
}
