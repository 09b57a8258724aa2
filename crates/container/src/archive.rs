//! Container image archives: an OCI image layout in a tar, or what `docker save` writes; either may be compressed.
//!
//! [`Archive::open`] indexes the tar once; nothing is unpacked. [`Archive::image`] follows index, manifest and
//! configuration to the image for this machine, checking every digest on the way; [`Archive::layer`] streams a layer
//! whose two digests (as stored, as unpacked) are compared when it ends. All of it is a stranger's input: sizes and
//! counts are bounded, and messages say which part is wrong.

mod blob;
pub(crate) mod build;
mod config;
mod manifest;
pub(crate) mod tape;

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::Arc,
};

pub(crate) use blob::{Digest, sha256_hex};
pub use config::ImageConfig;

use self::{
    blob::{Compression, Decoded, Span, Verified, clip},
    tape::{Kind, Tape},
};

/// Files in an archive: a few per layer; image indexes with every platform stay far below.
const MAX_ENTRIES: u64 = 20_000;
/// Manifests and configurations are a few KiB; registries refuse beyond 4 MiB.
const MAX_DOCUMENT: u64 = 4 << 20;
/// An archive that was compressed as a whole is spooled up to this size.
const MAX_SPOOLED: u64 = 32 << 30;
/// A layer's size after decompression.
const MAX_LAYER: u64 = 32 << 30;
/// Overlay mounts take 500 lower directories; Docker and others stop at 127.
const MAX_LAYERS: usize = 127;

/// Why an image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Its content is wrong; the message says which part and how.
    #[error("{0}")]
    Broken(String),
    /// This host refused: no space, no permission, a missing file.
    #[error("could not {action}: {source}")]
    Host {
        /// A verb phrase naming the thing.
        action: String,
        /// What the operating system said.
        source: io::Error,
    },
}

impl ImageError {
    /// An error while reading a stranger's stream: wrong content unless the machine itself failed.
    pub(crate) fn reading(what: impl Into<String>, source: io::Error) -> Self {
        use io::ErrorKind::{FileTooLarge, InvalidData, InvalidInput, Other, UnexpectedEof};
        let what = what.into();
        match source.kind() {
            FileTooLarge => Self::Broken(source.to_string()),
            InvalidData | InvalidInput | Other | UnexpectedEof => {
                Self::Broken(format!("could not read {what}: {source}"))
            }
            _ => Self::Host {
                action: format!("read {what}"),
                source,
            },
        }
    }

    pub(crate) fn host(action: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Host {
            action: action.into(),
            source: source.into(),
        }
    }
}

/// One layer of an image, as its manifest names it.
#[derive(Clone, Debug)]
pub(crate) struct LayerRef {
    /// Its file in the archive.
    pub path: String,
    /// The digest of that file; `docker save` gives none.
    pub stored: Option<Digest>,
    /// The digest of the tar inside.
    pub unpacked: Digest,
}

/// The image for this machine.
#[derive(Clone, Debug)]
pub struct Image {
    /// How it wants to be run.
    pub config: ImageConfig,
    /// The configuration as it stands in the archive, with what only others read.
    pub(crate) document: Vec<u8>,
    /// From the lowest to the highest.
    pub(crate) layers: Vec<LayerRef>,
}

/// An indexed archive.
pub struct Archive {
    files: HashMap<String, Span>,
}

/// A layer's tar stream.
pub(crate) type LayerStream = Verified<Decoded<Verified<Span>>>;

impl Archive {
    /// Indexes the archive at `path`. One that is compressed as a whole is first unpacked into an unnamed file in
    /// `scratch`.
    ///
    /// # Errors
    /// [`ImageError::Broken`] if it is no tar archive, is cut off or has too many entries.
    pub fn open(path: &Path, scratch: &Path) -> Result<Self, ImageError> {
        let name = path.display();
        let file =
            File::open(path).map_err(|source| ImageError::host(format!("open the image archive {name}"), source))?;
        let mut magic = [0; 4];
        let mut start = Span {
            file: Arc::new(file),
            offset: 0,
            size: u64::MAX,
        };
        let known =
            read_up_to(&mut start.clone(), &mut magic).map_err(|e| ImageError::reading("the image archive", e))?;
        let file = match Compression::of(&magic[..known]) {
            Compression::None => start.file,
            _ => Arc::new(spool(Decoded::new(&mut start, &magic[..known])?, scratch)?),
        };
        let total = file
            .metadata()
            .map_err(|source| ImageError::host("look at the image archive", source))?
            .len();
        let reader = Span {
            file: file.clone(),
            offset: 0,
            size: total,
        };
        Ok(Self {
            files: index(reader, &file)?,
        })
    }

    /// The image for Linux on this machine's processor.
    ///
    /// # Errors
    /// [`ImageError::Broken`] if there is none, more than one, or a part is missing or does not match its digest.
    pub fn image(&self) -> Result<Image, ImageError> {
        if self.files.contains_key("index.json") {
            return manifest::from_layout(self);
        }
        if self.files.contains_key("manifest.json") {
            return manifest::from_docker_save(self);
        }
        Err(ImageError::Broken(
            "the archive holds neither index.json (an OCI image layout) nor manifest.json (docker save): it is not a container image"
                .into(),
        ))
    }

    /// The tar stream of a layer; call [`Archive::finish`] on it when done.
    pub(crate) fn layer(&self, layer: &LayerRef) -> Result<LayerStream, ImageError> {
        let span = self.find(&layer.path)?.clone();
        let mut magic = [0; 4];
        let known = read_up_to(&mut span.clone(), &mut magic).map_err(|e| ImageError::reading(&layer.path, e))?;
        let stored = Verified::new(span, layer.stored.as_ref(), u64::MAX, format!("layer {}", layer.path));
        let decoded = Decoded::new(stored, &magic[..known])?;
        Ok(Verified::new(
            decoded,
            Some(&layer.unpacked),
            MAX_LAYER,
            format!("the content of layer {}", layer.path),
        ))
    }

    /// Reads the rest of a layer and checks both of its digests.
    pub(crate) fn finish(stream: LayerStream) -> Result<(), ImageError> {
        stream.finish()?.into_inner().finish().map(drop)
    }

    fn find(&self, path: &str) -> Result<&Span, ImageError> {
        self.files.get(path).ok_or_else(|| {
            ImageError::Broken(format!(
                "the archive does not hold {:?}, which its manifest names",
                clip(path)
            ))
        })
    }

    /// A small document's bytes, checked.
    fn document(&self, path: &str, digest: Option<&Digest>) -> Result<Vec<u8>, ImageError> {
        let mut body = Vec::new();
        let mut reader = Verified::new(self.find(path)?.clone(), digest, MAX_DOCUMENT, path.to_owned());
        reader
            .read_to_end(&mut body)
            .map_err(|source| ImageError::reading(path, source))?;
        reader.finish()?;
        Ok(body)
    }

    fn json<T: serde::de::DeserializeOwned>(&self, path: &str, digest: Option<&Digest>) -> Result<T, ImageError> {
        let body = self.document(path, digest)?;
        serde_json::from_slice(&body).map_err(|error| ImageError::Broken(format!("{path} is malformed: {error}")))
    }
}

/// Where each regular file of the archive lies. Links are followed (older `docker save` stores equal layers once).
fn index(reader: Span, file: &Arc<File>) -> Result<HashMap<String, Span>, ImageError> {
    let mut files = HashMap::new();
    let mut links = Vec::new();
    let mut tape = Tape::new(reader, MAX_ENTRIES);
    while let Some(entry) = tape.next()? {
        let Some(path) = clean(&entry.path) else { continue };
        match entry.kind {
            Kind::File => {
                files.insert(
                    path,
                    Span {
                        file: file.clone(),
                        offset: entry.offset,
                        size: entry.size,
                    },
                );
            }
            Kind::HardLink => links.extend(clean(&entry.link).map(|target| (path, target))),
            Kind::Symlink => {
                let beside = path.rsplit_once('/').map_or("", |(directory, _)| directory);
                links.extend(join(beside, &entry.link).map(|target| (path, target)));
            }
            Kind::Directory | Kind::Fifo | Kind::Device => {}
        }
    }
    for (path, target) in links {
        if let Some(span) = files.get(&target).cloned() {
            files.insert(path, span);
        }
    }
    Ok(files)
}

/// A path in the archive without `./` and doubled slashes; none if it leaves the archive or is not text.
fn clean(path: &[u8]) -> Option<String> {
    join("", path)
}

fn join(directory: &str, path: &[u8]) -> Option<String> {
    let path = std::str::from_utf8(path).ok()?;
    let mut parts: Vec<&str> = directory.split('/').filter(|part| !part.is_empty()).collect();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

fn spool(mut from: impl Read, scratch: &Path) -> Result<File, ImageError> {
    let action = || format!("unpack the compressed image archive in {}", scratch.display());
    let mut file = File::options()
        .read(true)
        .write(true)
        .custom_flags(nix::libc::O_TMPFILE)
        .mode(0o600)
        .open(scratch)
        .map_err(|source| ImageError::host(action(), source))?;
    let mut buffer = vec![0; 128 << 10];
    let mut total = 0;
    loop {
        let n = from
            .read(&mut buffer)
            .map_err(|source| ImageError::reading("the compressed image archive", source))?;
        if n == 0 {
            return Ok(file);
        }
        total += n as u64;
        if total > MAX_SPOOLED {
            return Err(ImageError::Broken(format!(
                "the compressed image archive unpacks to more than {MAX_SPOOLED} bytes"
            )));
        }
        io::Write::write_all(&mut file, &buffer[..n]).map_err(|source| ImageError::host(action(), source))?;
    }
}

fn read_up_to(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..])? {
            0 => break,
            n => filled += n,
        }
    }
    Ok(filled)
}
