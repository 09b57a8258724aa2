//! From a file of the host into the vault: chunk by chunk, what is zeros or known already left out.

use std::{
    fs::File,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use nix::unistd::{Whence, lseek};
use sha2::{Digest as _, Sha256};
use tokio::sync::{mpsc, watch};

use super::{
    Vault,
    manifest::{CHUNK, Manifest, Place},
};
use crate::driver::BackEndError;

/// Objects are closed when they are so large.
const OBJECT: usize = 16 << 20;

/// What a backup took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Objects of its own.
    pub objects: u32,
    /// Bytes of its own.
    pub stored: u64,
}

/// Compressed chunks on their way into one object.
struct Packed {
    number: u32,
    bytes: Vec<u8>,
}

/// Writes the disk that a raw file is as `data`, over what `parent` has already. `so_far` says how far it is.
///
/// # Errors
/// When the file cannot be read or the vault does not take it.
pub async fn write(
    vault: &Arc<dyn Vault>,
    data: &str,
    file: &Path,
    parent: Option<Manifest>,
    so_far: &watch::Sender<Written>,
) -> Result<Written, BackEndError> {
    // Two objects are in memory at a time.
    let (sender, mut receiver) = mpsc::channel(1);
    let (path, name) = (file.to_owned(), data.to_owned());
    let reading = tokio::task::spawn_blocking(move || pack(&path, &name, parent, &sender));
    let mut written = Written::default();
    let mut failed = None;
    while let Some(Packed { number, bytes }) = receiver.recv().await {
        let length = bytes.len() as u64;
        if let Err(error) = vault.put(data, &object(number), bytes).await {
            failed = Some(error);
            break;
        }
        written.objects += 1;
        written.stored += length;
        so_far.send_replace(written);
    }
    // Ends the reader, should it still be at it.
    drop(receiver);
    let read = reading.await.map_err(|error| BackEndError::Broken(error.to_string()))?;
    if let Some(error) = failed {
        return Err(error);
    }
    written.stored += read?.store(&**vault).await? as u64;
    written.objects += 1;
    Ok(written)
}

/// What an object is called.
pub(super) fn object(number: u32) -> String {
    format!("{number:08}")
}

fn pack(
    path: &PathBuf,
    data: &str,
    parent: Option<Manifest>,
    sender: &mpsc::Sender<Packed>,
) -> Result<Manifest, BackEndError> {
    let run = || -> std::io::Result<Manifest> {
        let file = File::open(path)?;
        let size = file.metadata()?.len();
        let parent = parent.unwrap_or_default();
        let mut manifest = Manifest::new(size, data);
        let mut packed = Packed {
            number: 1,
            bytes: Vec::with_capacity(OBJECT + CHUNK),
        };
        let mut buffer = vec![0; CHUNK];
        let mut compressor = zstd::bulk::Compressor::new(3)?;
        let mut at = next_data(&file, 0, size);
        while let Some(begin) = at {
            let index = begin / CHUNK as u64;
            let offset = index * CHUNK as u64;
            let length = usize::try_from(size - offset).map_or(CHUNK, |left| left.min(CHUNK));
            let chunk = &mut buffer[..length];
            file.read_exact_at(chunk, offset)?;
            if chunk.iter().any(|byte| *byte != 0) {
                let hash = format!("{:x}", Hex(&Sha256::digest(&*chunk)));
                let place = match parent.chunks.get(&index).filter(|known| known.0 == hash) {
                    Some(known) => Place(
                        hash,
                        manifest.number(&parent.data[known.1]),
                        known.2,
                        known.3,
                        known.4,
                        known.5,
                    ),
                    None => add(&mut packed, chunk, hash, &mut compressor)?,
                };
                manifest.chunks.insert(index, place);
            }
            if packed.bytes.len() >= OBJECT {
                let next = Packed {
                    number: packed.number + 1,
                    bytes: Vec::with_capacity(OBJECT + CHUNK),
                };
                let full = std::mem::replace(&mut packed, next);
                if sender.blocking_send(full).is_err() {
                    return Err(std::io::Error::other("nobody takes it any more"));
                }
            }
            at = next_data(&file, offset + CHUNK as u64, size);
        }
        if !packed.bytes.is_empty() && sender.blocking_send(packed).is_err() {
            return Err(std::io::Error::other("nobody takes it any more"));
        }
        Ok(manifest)
    };
    run().map_err(BackEndError::io(format!("back up {}", path.display())))
}

/// Where the next bytes are that may not be zeros.
fn next_data(file: &File, from: u64, size: u64) -> Option<u64> {
    if from >= size {
        return None;
    }
    let asked = i64::try_from(from).unwrap_or(i64::MAX);
    match lseek(file, asked, Whence::SeekData) {
        Ok(at) => u64::try_from(at).ok().filter(|at| *at < size),
        // Nothing but a hole is left.
        Err(nix::errno::Errno::ENXIO) => None,
        // A file system that does not know: all of it may be data.
        Err(_) => Some(from),
    }
}

fn add(
    packed: &mut Packed,
    chunk: &[u8],
    hash: String,
    compressor: &mut zstd::bulk::Compressor<'_>,
) -> std::io::Result<Place> {
    let small = compressor.compress(chunk)?;
    // What hardly shrinks is not worth unpacking.
    let is_compressed = small.len() < chunk.len() / 16 * 15;
    let bytes = if is_compressed { &small[..] } else { chunk };
    let offset = packed.bytes.len() as u64;
    packed.bytes.extend_from_slice(bytes);
    Ok(Place(hash, 0, packed.number, offset, bytes.len(), is_compressed))
}

/// Bytes in hex.
pub(super) struct Hex<'a>(pub(super) &'a [u8]);

impl std::fmt::LowerHex for Hex<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
