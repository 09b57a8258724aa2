//! Debian's kernel file taken apart: the real-mode setup, and the kernel proper, decompressed.

use std::{ffi::OsStr, fs, path::Path};

use super::{TinyError, command::run_file, io_error};

/// Where the boot protocol keeps what in the first sectors (Documentation/arch/x86/boot.rst).
mod header {
    /// How many sectors of setup follow the first one.
    pub(super) const SETUP_SECTORS: usize = 0x1f1;
    /// `HdrS`.
    pub(super) const MAGIC: usize = 0x202;
    /// Where the compressed kernel begins, counted from the end of the setup.
    pub(super) const PAYLOAD_OFFSET: usize = 0x248;
    /// How long it is; the last four bytes are its uncompressed size.
    pub(super) const PAYLOAD_LENGTH: usize = 0x24c;
}

/// The largest block of the kernel's LZ4 format.
const LZ4_BLOCK_BYTES: usize = 8 << 20;

/// A kernel file's parts.
pub(super) struct KernelFile {
    /// The sectors that run in real mode.
    pub(super) setup: Vec<u8>,
    /// The kernel, an ELF file.
    pub(super) elf: Vec<u8>,
}

/// Takes a kernel file apart. `busybox` unpacks xz, which the kernels of some releases use.
pub(super) async fn take_apart(path: &Path, busybox: &Path, work: &Path) -> Result<KernelFile, TinyError> {
    let bytes = fs::read(path).map_err(io_error("read", path))?;
    if bytes.get(header::MAGIC..header::MAGIC + 4) != Some(b"HdrS") {
        return Err(TinyError::Kernel(format!("{} is not a kernel", path.display())));
    }
    let setup_bytes = (usize::from(bytes[header::SETUP_SECTORS]) + 1) * 512;
    let begin = setup_bytes + word(&bytes, header::PAYLOAD_OFFSET);
    let end = begin + word(&bytes, header::PAYLOAD_LENGTH).saturating_sub(4);
    let payload = bytes
        .get(begin..end)
        .ok_or_else(|| TinyError::Kernel("the kernel file is cut off".into()))?;
    let elf = decompress(payload, busybox, work).await?;
    Ok(KernelFile {
        setup: bytes[..setup_bytes].to_vec(),
        elf,
    })
}

fn word(bytes: &[u8], at: usize) -> usize {
    let word = bytes
        .get(at..at + 4)
        .and_then(|word| word.try_into().ok())
        .unwrap_or_default();
    u32::from_le_bytes(word) as usize
}

async fn decompress(payload: &[u8], busybox: &Path, work: &Path) -> Result<Vec<u8>, TinyError> {
    let broken = |error: &dyn std::fmt::Display| TinyError::Kernel(format!("could not decompress the kernel: {error}"));
    match payload {
        [0x02, 0x21, 0x4c, 0x18, blocks @ ..] => lz4(blocks).map_err(|error| broken(&error)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => zstd::decode_all(payload).map_err(|error| broken(&error)),
        [0x1f, 0x8b, ..] => {
            let mut elf = Vec::new();
            std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(payload), &mut elf)
                .map_err(|error| broken(&error))?;
            Ok(elf)
        }
        [0xfd, b'7', b'z', b'X', b'Z', ..] => {
            let path = work.join("kernel.xz");
            fs::write(&path, payload).map_err(io_error("write", &path))?;
            unpack_xz(&path, busybox, work).await
        }
        _ => Err(TinyError::Kernel(
            "the kernel is compressed in a way that is not known here".into(),
        )),
    }
}

/// What an `.xz` file holds.
pub(super) async fn unpack_xz(path: &Path, busybox: &Path, work: &Path) -> Result<Vec<u8>, TinyError> {
    run_file(busybox, &[OsStr::new("xzcat"), path.as_os_str()], work).await
}

/// LZ4 as `lz4 -l` writes it: blocks, each after its length.
fn lz4(mut blocks: &[u8]) -> Result<Vec<u8>, lz4_flex::block::DecompressError> {
    let mut elf = Vec::new();
    while let Some((length, rest)) = blocks.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        if length == 0 || length > rest.len() {
            break;
        }
        elf.extend(lz4_flex::block::decompress(&rest[..length], LZ4_BLOCK_BYTES)?);
        blocks = &rest[length..];
    }
    Ok(elf)
}
