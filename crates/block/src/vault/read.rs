//! From the vault into a file of the host, every chunk compared with its hash.

use std::{fs::OpenOptions, os::unix::fs::FileExt as _, os::unix::fs::OpenOptionsExt as _, path::Path, sync::Arc};

use sha2::{Digest as _, Sha256};

use super::{
    Vault,
    manifest::{CHUNK, Manifest, Place},
    write::{Hex, object},
};
use crate::driver::{BackEndError, blocking};

/// Writes the disk that `data` is into a new sparse raw file.
///
/// # Errors
/// When the vault does not have all of it, what it has is not what was put there, or the file cannot be written.
pub async fn read(vault: &dyn Vault, data: &str, into: &Path) -> Result<(), BackEndError> {
    let manifest = Manifest::load(vault, data).await?;
    let broken = || BackEndError::io(format!("write {}", into.display()));
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(into)
        .map_err(broken())?;
    file.set_len(manifest.size).map_err(broken())?;
    let file = Arc::new(file);
    for (index, place) in manifest.chunks {
        let Place(hash, of, number, offset, length, is_compressed) = place;
        let (of, at) = (&manifest.data[of], index * CHUNK as u64);
        let bytes = vault.get_range(of, &object(number), offset, length).await?;
        let (file, name) = (Arc::clone(&file), into.display().to_string());
        let what = format!("chunk {index} of backup data {data}");
        blocking(move || {
            let broken = |why: String| BackEndError::Broken(format!("{what} is broken: {why}"));
            let chunk = match is_compressed {
                true => zstd::bulk::decompress(&bytes, CHUNK).map_err(|error| broken(error.to_string()))?,
                false => bytes,
            };
            let is = format!("{:x}", Hex(&Sha256::digest(&chunk)));
            if is != hash {
                return Err(broken(format!("its SHA-256 is {is}, not {hash}")));
            }
            file.write_all_at(&chunk, at)
                .map_err(BackEndError::io(format!("write {name}")))
        })
        .await?;
    }
    blocking(move || file.sync_all().map_err(BackEndError::io("write a restored disk"))).await
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::Arc};

    use tokio::sync::watch;

    use super::*;
    use crate::vault::{DirectoryVault, write::write};

    const A: &str = "00000000-0000-4000-8000-00000000000a";
    const B: &str = "00000000-0000-4000-8000-00000000000b";

    /// A disk with data in the middle, at the end (where no chunk is whole), and random bytes.
    fn disk() -> Vec<u8> {
        let mut bytes = vec![0; 5 * CHUNK + 777];
        let mut state = 7_u32;
        for (at, byte) in bytes.iter_mut().enumerate() {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = match at / CHUNK {
                1 => 7,
                3 | 5 => (state >> 24) as u8,
                _ => 0,
            };
        }
        bytes
    }

    #[tokio::test]
    async fn what_is_read_is_what_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let vault: Arc<dyn Vault> = Arc::new(DirectoryVault::open(&dir.path().join("vault")).unwrap());
        let (source, back) = (dir.path().join("disk"), dir.path().join("back"));
        let mut bytes = disk();
        fs::write(&source, &bytes).unwrap();
        let full = write(&vault, A, &source, None, &watch::Sender::default())
            .await
            .unwrap();
        read(&*vault, A, &back).await.unwrap();
        assert!(fs::read(&back).unwrap() == bytes);

        bytes[CHUNK] = 8;
        bytes[3 * CHUNK..4 * CHUNK].fill(0);
        fs::write(&source, &bytes).unwrap();
        let parent = Manifest::load(&*vault, A).await.unwrap();
        let more = write(&vault, B, &source, Some(parent), &watch::Sender::default())
            .await
            .unwrap();
        assert!(more.stored < full.stored / 10, "{more:?} after {full:?}");
        read(&*vault, B, &back).await.unwrap();
        assert!(fs::read(&back).unwrap() == bytes, "the incremental one");
        read(&*vault, A, &back).await.unwrap();
        assert!(fs::read(&back).unwrap() == disk(), "the full one is as it was");
    }

    #[tokio::test]
    async fn a_flipped_bit_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let vault: Arc<dyn Vault> = Arc::new(DirectoryVault::open(dir.path()).unwrap());
        let source = dir.path().join("disk");
        fs::write(&source, disk()).unwrap();
        write(&vault, A, &source, None, &watch::Sender::default())
            .await
            .unwrap();
        let object = dir.path().join(A).join(object(1));
        let mut bytes = fs::read(&object).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&object, bytes).unwrap();
        let error = read(&*vault, A, &dir.path().join("back")).await.unwrap_err();
        assert!(error.to_string().contains("chunk 5 of backup data"), "{error}");
        fs::remove_file(&object).unwrap();
        assert!(read(&*vault, A, &dir.path().join("back")).await.is_err());
    }
}
