//! Writes an image archive: an image that is there, with one more layer on top.
//!
//! An OCI image layout in a tar, as [`super::Archive`] reads it. Layers that are there are copied as they are stored; the
//! new one is streamed into its place, and its name, which is its hash, is filled in afterwards. Nothing is held in
//! memory.

use std::{
    collections::HashSet,
    fs::File,
    io::{self, BufWriter, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{EntryType, Header};

use super::{
    Archive, Digest, ImageError, MAX_LAYERS,
    blob::{self, Algorithm, Compression},
    manifest::blob_path,
    read_up_to,
};

const BLOCK: u64 = 512;
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// Writes to `into` the image in `base` with one more layer, which `layer` writes. `created` is now in RFC 3339.
///
/// # Errors
/// [`ImageError::Broken`] when the image cannot have another layer; [`ImageError::Host`] if this host refuses.
pub(crate) fn with_layer(
    base: &Archive,
    into: &Path,
    created: &str,
    layer: impl FnOnce(&mut Hashed<'_, BufWriter<File>>) -> Result<(), ImageError>,
) -> Result<(), ImageError> {
    let image = base.image()?;
    if image.layers.len() >= MAX_LAYERS {
        return Err(ImageError::Broken(format!(
            "the image has {} layers already, and more than {MAX_LAYERS} cannot be mounted",
            image.layers.len()
        )));
    }
    let mut output = Output::create(into)?;
    output.document("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let mut layers = Vec::new();
    let mut written = HashSet::new();
    for one in &image.layers {
        let span = base.find(&one.path)?;
        let digest = match &one.stored {
            Some(digest) if digest.algorithm == Algorithm::Sha256 => digest.clone(),
            _ => blob::sha256_of(span.clone()).map_err(|e| ImageError::reading(&one.path, e))?,
        };
        let mut magic = [0; 4];
        let known = read_up_to(&mut span.clone(), &mut magic).map_err(|e| ImageError::reading(&one.path, e))?;
        let kind = match Compression::of(&magic[..known]) {
            Compression::None => LAYER.to_owned(),
            Compression::Gzip => format!("{LAYER}+gzip"),
            Compression::Zstd => format!("{LAYER}+zstd"),
        };
        layers.push(json!({ "mediaType": kind, "digest": digest.to_string(), "size": span.size }));
        if written.insert(digest.clone()) {
            output.copy(&blob_path(&digest), span.size, span.clone())?;
        }
    }
    let (digest, size) = output.stream(layer)?;
    layers.push(json!({ "mediaType": LAYER, "digest": digest.to_string(), "size": size }));
    let config = output.blob(&configuration(&image.document, &digest, created)?)?;
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": describe(CONFIG, &config), "layers": layers,
    });
    let manifest = output.blob(manifest.to_string().as_bytes())?;
    let index = json!({ "schemaVersion": 2, "manifests": [describe(MANIFEST, &manifest)] });
    output.document("index.json", index.to_string().as_bytes())?;
    output.finish()
}

/// The image's configuration with the new layer in it. Source: OCI image specification, config.md.
fn configuration(document: &[u8], layer: &Digest, created: &str) -> Result<Vec<u8>, ImageError> {
    let malformed = || ImageError::Broken("the image's configuration has no list of layers".into());
    let mut config: Value = serde_json::from_slice(document).map_err(|_| malformed())?;
    config["created"] = json!(created);
    let contents = config["rootfs"]["diff_ids"].as_array_mut().ok_or_else(malformed)?;
    contents.push(json!(layer.to_string()));
    if let Some(history) = config["history"].as_array_mut() {
        history.push(json!({ "created": created, "created_by": "createImage" }));
    }
    Ok(config.to_string().into_bytes())
}

fn describe(kind: &str, (digest, size): &(Digest, u64)) -> Value {
    json!({ "mediaType": kind, "digest": digest.to_string(), "size": size })
}

/// The archive as it is written.
struct Output {
    file: BufWriter<File>,
}

impl Output {
    fn create(path: &Path) -> Result<Self, ImageError> {
        let opened = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path);
        let file = opened.map_err(|e| ImageError::host(format!("make {}", path.display()), e))?;
        Ok(Self {
            file: BufWriter::with_capacity(256 << 10, file),
        })
    }

    fn document(&mut self, name: &str, body: &[u8]) -> Result<(), ImageError> {
        self.copy(name, body.len() as u64, body)
    }

    /// A document under its hash.
    fn blob(&mut self, body: &[u8]) -> Result<(Digest, u64), ImageError> {
        let digest = blob::sha256_of(body).map_err(failed)?;
        self.document(&blob_path(&digest), body)?;
        Ok((digest, body.len() as u64))
    }

    fn copy(&mut self, name: &str, size: u64, mut from: impl Read) -> Result<(), ImageError> {
        self.file.write_all(header(name, size).as_bytes()).map_err(failed)?;
        let copied = io::copy(&mut from, &mut self.file).map_err(failed)?;
        if copied != size {
            return Err(ImageError::Broken(format!(
                "the archive of the server's image ends within {name}: it has {copied} bytes of {size}"
            )));
        }
        self.pad(size)
    }

    /// A layer that is named when it is known.
    fn stream(
        &mut self,
        layer: impl FnOnce(&mut Hashed<'_, BufWriter<File>>) -> Result<(), ImageError>,
    ) -> Result<(Digest, u64), ImageError> {
        let at = self.file.stream_position().map_err(failed)?;
        self.file.write_all(&[0; BLOCK as usize]).map_err(failed)?;
        let mut hashed = Hashed {
            to: &mut self.file,
            hasher: Sha256::new(),
            count: 0,
        };
        layer(&mut hashed)?;
        let (digest, size) = (blob::sha256(hashed.hasher), hashed.count);
        self.pad(size)?;
        let end = self.file.stream_position().map_err(failed)?;
        self.file.seek(SeekFrom::Start(at)).map_err(failed)?;
        let header = header(&blob_path(&digest), size);
        self.file.write_all(header.as_bytes()).map_err(failed)?;
        self.file.seek(SeekFrom::Start(end)).map_err(failed)?;
        Ok((digest, size))
    }

    fn pad(&mut self, size: u64) -> Result<(), ImageError> {
        let padding = (BLOCK - size % BLOCK) % BLOCK;
        self.file
            .write_all(&[0; BLOCK as usize][..padding as usize])
            .map_err(failed)
    }

    fn finish(mut self) -> Result<(), ImageError> {
        self.file.write_all(&[0; 2 * BLOCK as usize]).map_err(failed)?;
        self.file.flush().map_err(failed)
    }
}

/// Counts and hashes what passes through.
pub(crate) struct Hashed<'a, W> {
    to: &'a mut W,
    hasher: Sha256,
    count: u64,
}

impl<W: Write> Write for Hashed<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.to.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.count += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

fn header(name: &str, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header.set_cksum();
    header
}

fn failed(source: io::Error) -> ImageError {
    ImageError::host("write the image archive", source)
}
