//! Reads a tar stream one entry at a time, with every length bounded.
//!
//! Used for the outer archive (where only names and offsets matter) and for layers (where everything does). The input
//! is a stranger's: nothing is allocated by a length it claims beyond the limits here, and a stream that ends early is an
//! error that names the entry.

use std::io::{self, Read};

use tar::Header;

use super::ImageError;

const BLOCK: u64 = 512;
/// Longest extension header (long names, attributes): POSIX paths end at 4 KiB and Linux attributes at 64 KiB each.
const EXTENSION_LIMIT: u64 = 1 << 20;
/// Linux refuses longer paths; beyond it a name is an attack on memory.
const PATH_LIMIT: usize = 4096;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    Symlink,
    HardLink,
    Fifo,
    Device,
}

/// One entry's header with its extensions applied.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub path: Vec<u8>,
    pub link: Vec<u8>,
    pub kind: Kind,
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    /// Seconds since 1970; fractions are dropped.
    pub mtime: i64,
    /// Bytes of data that follow.
    pub size: u64,
    /// Where the data begins in the stream.
    pub offset: u64,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Entry {
    /// The path for messages.
    pub fn name(&self) -> String {
        String::from_utf8_lossy(&self.path).into_owned()
    }
}

/// Extensions that apply to the next entry only.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<i64>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A stream that may know a faster way to skip than reading.
pub(crate) trait Source: Read {
    /// Skips `count` bytes and returns how many there were.
    fn skip(&mut self, count: u64) -> io::Result<u64>
    where
        Self: Sized,
    {
        io::copy(&mut self.take(count), &mut io::sink())
    }
}

impl Source for &[u8] {}

/// A tar stream; reading it reads the current entry's data.
pub(crate) struct Tape<R> {
    reader: R,
    position: u64,
    data_left: u64,
    padding: u64,
    entries_left: u64,
    current: String,
}

impl<R: Source> Tape<R> {
    /// Reads from the start of `reader` and refuses more than `max_entries` entries.
    pub fn new(reader: R, max_entries: u64) -> Self {
        Self {
            reader,
            position: 0,
            data_left: 0,
            padding: 0,
            entries_left: max_entries,
            current: String::new(),
        }
    }

    /// The next entry, or none at the end of the archive.
    pub fn next(&mut self) -> Result<Option<Entry>, ImageError> {
        let mut extensions = Extensions::default();
        loop {
            self.skip_rest()?;
            let Some(header) = self.header()? else { return Ok(None) };
            self.entries_left = self
                .entries_left
                .checked_sub(1)
                .ok_or_else(|| too_many(&self.current))?;
            let size = header.entry_size().map_err(|_| self.broken("has an unreadable size"))?;
            let kind = header.entry_type();
            if kind.is_gnu_longname() || kind.is_gnu_longlink() || kind.is_pax_local_extensions() {
                let body = self.extension(size)?;
                if kind.is_gnu_longname() {
                    extensions.path = Some(without_nul(body));
                } else if kind.is_gnu_longlink() {
                    extensions.link = Some(without_nul(body));
                } else {
                    self.pax(&body, &mut extensions)?;
                }
                continue;
            }
            if kind.is_pax_global_extensions() {
                self.extension(size)?;
                continue;
            }
            return self.entry(&header, size, extensions).map(Some);
        }
    }

    /// The stream, whose unread rest is the archive's padding.
    pub fn into_inner(self) -> R {
        self.reader
    }

    fn entry(&mut self, header: &Header, size: u64, extensions: Extensions) -> Result<Entry, ImageError> {
        let path = extensions.path.unwrap_or_else(|| header.path_bytes().into_owned());
        self.current = String::from_utf8_lossy(&path[..path.len().min(256)]).into_owned();
        let link = match extensions.link {
            Some(link) => link,
            None => header
                .link_name_bytes()
                .map(|link| link.into_owned())
                .unwrap_or_default(),
        };
        if path.len() > PATH_LIMIT || link.len() > PATH_LIMIT {
            return Err(self.broken("has a name longer than 4096 bytes"));
        }
        if path.contains(&0) || link.contains(&0) {
            return Err(self.broken("has a zero byte in its name"));
        }
        let kind = match header.entry_type() {
            t if t.is_file() || t.is_contiguous() => Kind::File,
            t if t.is_dir() => Kind::Directory,
            t if t.is_symlink() => Kind::Symlink,
            t if t.is_hard_link() => Kind::HardLink,
            t if t.is_fifo() => Kind::Fifo,
            t if t.is_character_special() || t.is_block_special() => Kind::Device,
            t if t.is_gnu_sparse() => return Err(self.broken("is a sparse file, which image layers do not hold")),
            t => return Err(self.broken(&format!("is of the unknown type {:?}", char::from(t.as_byte())))),
        };
        // Before POSIX, a directory was a file whose name ends in a slash.
        let kind = if kind == Kind::File && path.ends_with(b"/") {
            Kind::Directory
        } else {
            kind
        };
        let size = if kind == Kind::File {
            extensions.size.unwrap_or(size)
        } else {
            0
        };
        self.data_left = size;
        self.padding = (BLOCK - size % BLOCK) % BLOCK;
        // Writers that do not care leave owners and modes blank.
        let old = header.as_old();
        let number = |field: &[u8], value: io::Result<u64>, what: &str| match value {
            Err(_) if field.iter().all(|byte| matches!(byte, 0 | b' ')) => Ok(0),
            Err(_) => Err(self.broken(&format!("has an unreadable {what}"))),
            Ok(value) => Ok(value),
        };
        let mode = number(&old.mode, header.mode().map(u64::from), "mode")? as u32;
        let uid = extensions
            .uid
            .map_or_else(|| number(&old.uid, header.uid(), "owner"), Ok)?;
        let gid = extensions
            .gid
            .map_or_else(|| number(&old.gid, header.gid(), "group"), Ok)?;
        Ok(Entry {
            link,
            kind,
            mode: mode & 0o7777,
            uid,
            gid,
            mtime: extensions
                .mtime
                .unwrap_or_else(|| header.mtime().unwrap_or(0).try_into().unwrap_or(0)),
            size,
            offset: self.position,
            xattrs: extensions.xattrs,
            path,
        })
    }

    fn header(&mut self) -> Result<Option<Header>, ImageError> {
        let mut header = Header::new_old();
        let mut filled = 0;
        let block = header.as_mut_bytes();
        while filled < block.len() {
            match self.reader.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => {
                    return Err(ImageError::Broken(format!(
                        "the tar archive ends in the middle of the header after {:?}",
                        self.current
                    )));
                }
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(ImageError::reading("a tar header", source)),
            }
        }
        self.position += BLOCK;
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let sum = block
            .iter()
            .enumerate()
            .map(|(i, byte)| if (148..156).contains(&i) { 32 } else { u32::from(*byte) })
            .sum::<u32>();
        if header.cksum().ok() != Some(sum) {
            return Err(match self.current.as_str() {
                "" => ImageError::Broken("this is not a tar archive: its first header has a wrong checksum".into()),
                after => ImageError::Broken(format!("the tar header after {after:?} has a wrong checksum")),
            });
        }
        Ok(Some(header))
    }

    fn extension(&mut self, size: u64) -> Result<Vec<u8>, ImageError> {
        if size > EXTENSION_LIMIT {
            return Err(ImageError::Broken(format!(
                "the tar extension header after {:?} claims {size} bytes, more than {EXTENSION_LIMIT}",
                self.current
            )));
        }
        self.data_left = size;
        self.padding = (BLOCK - size % BLOCK) % BLOCK;
        let mut body = Vec::new();
        self.read_to_end(&mut body)
            .map_err(|source| ImageError::reading("a tar extension header", source))?;
        Ok(body)
    }

    /// Applies the records `LENGTH KEY=VALUE\n` of a POSIX extension header.
    fn pax(&self, mut body: &[u8], into: &mut Extensions) -> Result<(), ImageError> {
        let bad = || self.broken("is preceded by a malformed extension header");
        while !body.is_empty() {
            let space = body.iter().take(20).position(|byte| *byte == b' ').ok_or_else(bad)?;
            let length: usize = parse(&body[..space]).ok_or_else(bad)?;
            if length <= space + 1 || length > body.len() || body[length - 1] != b'\n' {
                return Err(bad());
            }
            let record = &body[space + 1..length - 1];
            body = &body[length..];
            let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(bad)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            match key {
                b"path" => into.path = Some(value.to_vec()),
                b"linkpath" => into.link = Some(value.to_vec()),
                b"size" => into.size = Some(parse(value).ok_or_else(bad)?),
                b"uid" => into.uid = Some(parse(value).ok_or_else(bad)?),
                b"gid" => into.gid = Some(parse(value).ok_or_else(bad)?),
                b"mtime" => {
                    let seconds = value.split(|byte| *byte == b'.').next().unwrap_or_default();
                    into.mtime = Some(parse(seconds).ok_or_else(bad)?);
                }
                _ if key.starts_with(b"GNU.sparse.") => {
                    return Err(self.broken("is followed by a sparse file, which image layers do not hold"));
                }
                _ => {
                    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                        into.xattrs.push((name.to_vec(), value.to_vec()));
                    }
                }
            }
        }
        Ok(())
    }

    fn skip_rest(&mut self) -> Result<(), ImageError> {
        let left = std::mem::take(&mut self.data_left) + std::mem::take(&mut self.padding);
        let skipped = self
            .reader
            .skip(left)
            .map_err(|source| ImageError::reading(format!("{:?} in the archive", self.current), source))?;
        self.position += skipped;
        if skipped < left {
            return Err(self.broken("is cut off: the archive ends in the middle of it"));
        }
        Ok(())
    }

    fn broken(&self, what: &str) -> ImageError {
        ImageError::Broken(format!("the archive's entry {:?} {what}", self.current))
    }
}

impl<R: Source> Read for Tape<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.data_left == 0 || buffer.is_empty() {
            return Ok(0);
        }
        let most = buffer.len().min(usize::try_from(self.data_left).unwrap_or(usize::MAX));
        let n = self.reader.read(&mut buffer[..most])?;
        if n == 0 {
            let message = format!("the archive ends in the middle of {:?}", self.current);
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
        }
        self.data_left -= n as u64;
        self.position += n as u64;
        Ok(n)
    }
}

fn too_many(after: &str) -> ImageError {
    ImageError::Broken(format!("the archive has too many entries (stopped after {after:?})"))
}

fn parse<T: std::str::FromStr>(bytes: &[u8]) -> Option<T> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

fn without_nul(mut name: Vec<u8>) -> Vec<u8> {
    if name.last() == Some(&0) {
        name.pop();
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(build: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        build(&mut builder);
        builder.into_inner().unwrap()
    }

    fn file(builder: &mut tar::Builder<Vec<u8>>, path: &str, body: &[u8]) {
        let mut header = Header::new_gnu();
        header.set_size(body.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, path, body).unwrap();
    }

    #[test]
    fn entries_data_and_long_names_come_back() {
        let long = format!("{}/x", "d".repeat(200));
        let bytes = archive(|b| {
            file(b, "a", b"hello");
            file(b, &long, b"");
        });
        let mut tape = Tape::new(bytes.as_slice(), 10);
        let a = tape.next().unwrap().unwrap();
        assert_eq!((a.path.as_slice(), a.size, a.offset), (b"a".as_slice(), 5, 512));
        let mut body = String::new();
        tape.read_to_string(&mut body).unwrap();
        assert_eq!(body, "hello");
        assert_eq!(tape.next().unwrap().unwrap().path, long.as_bytes());
        assert!(tape.next().unwrap().is_none());
    }

    #[test]
    fn pax_attributes_are_read() {
        let bytes = archive(|b| {
            b.append_pax_extensions([("SCHILY.xattr.user.colour", b"blue".as_slice()), ("mtime", b"12.5")])
                .unwrap();
            file(b, "a", b"");
        });
        let entry = Tape::new(bytes.as_slice(), 10).next().unwrap().unwrap();
        assert_eq!(entry.xattrs, [(b"user.colour".to_vec(), b"blue".to_vec())]);
        assert_eq!(entry.mtime, 12);
    }

    #[test]
    fn a_cut_archive_names_the_entry() {
        let bytes = archive(|b| file(b, "cut", &[7; 2000]));
        let mut tape = Tape::new(&bytes[..1500], 10);
        tape.next().unwrap();
        let error = tape.next().unwrap_err().to_string();
        assert!(error.contains("\"cut\"") && error.contains("cut off"), "{error}");
    }

    #[test]
    fn a_huge_extension_header_is_refused_before_it_is_read() {
        let mut header = Header::new_gnu();
        header.set_entry_type(tar::EntryType::GNULongName);
        header.set_size(1 << 40);
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend([b'a'; 4096]);
        let error = Tape::new(bytes.as_slice(), 10).next().unwrap_err().to_string();
        assert!(error.contains("1099511627776"), "{error}");
    }

    #[test]
    fn entries_are_counted() {
        let bytes = archive(|b| (0..5).for_each(|i| file(b, &format!("f{i}"), b"")));
        let mut tape = Tape::new(bytes.as_slice(), 3);
        for _ in 0..3 {
            tape.next().unwrap();
        }
        assert!(tape.next().unwrap_err().to_string().contains("too many entries"));
    }

    #[test]
    fn text_is_not_a_tar_archive() {
        let error = Tape::new([b'x'; 1024].as_slice(), 3).next().unwrap_err().to_string();
        assert!(error.contains("not a tar archive"), "{error}");
    }
}
