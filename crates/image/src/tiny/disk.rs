//! The disk: boot loader with its plan, the kernel where the loader expects it, and the root file system.
//!
//! ```text
//! sector 0      loader.bin: boot sector, partition table, second stage, plan
//! 1 MiB         extents: setup, command line, initramfs, kernel        (partition 1, type 0xda: no file system)
//! after that    ext4 `tiny-root`                                       (partition 2)
//! ```
//! Extents begin on 64 KiB, the size of a qcow2 cluster and of one read by the loader, so that each read is one piece.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom, Write},
    path::Path,
};

use super::{TinyError, elf, io_error, kernel::KernelFile};

/// The program of `loader.S`.
const LOADER: &[u8] = include_bytes!("loader.bin");
/// Where in the loader the plan begins: the kernel's entry, then the extents.
const PLAN_OFFSET: usize = 1024;
/// Bytes of one extent in the plan.
const EXTENT_BYTES: usize = 12;
/// Where the boot sector has its partition table.
const PARTITIONS_OFFSET: usize = 446;

const SECTOR: usize = 512;
const CLUSTER: usize = 64 << 10;
const FIRST_EXTENT: u64 = 1 << 20;
const MEBIBYTE: u64 = 1 << 20;

/// Where things go in memory; `loader.S` draws the map.
mod memory {
    pub(super) const SETUP: u32 = 0x1_0000;
    pub(super) const COMMAND_LINE: u32 = 0x1_f000;
    /// Below the kernel, which begins at 16 MiB, so that it fits whatever memory the guest has.
    pub(super) const INITRAMFS: u32 = 0x20_0000;
    pub(super) const INITRAMFS_END: u32 = 0x100_0000;
    /// Where the setup's heap ends, counted from its begin.
    pub(super) const HEAP_END: u16 = 0xde00;
}

/// Fields of the setup's header that a boot loader fills in (Documentation/arch/x86/boot.rst).
mod header {
    pub(super) const TYPE_OF_LOADER: usize = 0x210;
    pub(super) const LOAD_FLAGS: usize = 0x211;
    pub(super) const RAMDISK_ADDRESS: usize = 0x218;
    pub(super) const RAMDISK_SIZE: usize = 0x21c;
    pub(super) const HEAP_END: usize = 0x224;
    pub(super) const COMMAND_LINE: usize = 0x228;
    /// A loader without a number of its own.
    pub(super) const UNKNOWN_LOADER: u8 = 0xff;
    pub(super) const CAN_USE_HEAP: u8 = 0x80;
}

/// What to write.
pub(super) struct Contents<'a> {
    pub(super) kernel: &'a KernelFile,
    pub(super) initramfs: &'a [u8],
    pub(super) command_line: &'a str,
    /// A file that is the ext4 file system.
    pub(super) root: &'a Path,
}

/// A piece of memory to be filled by the loader.
#[derive(Debug, PartialEq, Eq)]
struct Extent<'a> {
    address: u32,
    /// What with; none for zeros.
    bytes: Option<&'a [u8]>,
    sectors: u32,
}

/// Writes the disk to `path`.
pub(super) fn write(contents: &Contents<'_>, path: &Path) -> Result<(), TinyError> {
    let mut setup = contents.kernel.setup.clone();
    let kernel = elf::kernel(&contents.kernel.elf)?;
    complete_setup(&mut setup, contents.initramfs.len())?;
    let mut command_line = contents.command_line.as_bytes().to_vec();
    command_line.push(0);

    let mut extents = vec![
        filled(memory::SETUP, &setup),
        filled(memory::COMMAND_LINE, &command_line),
        filled(memory::INITRAMFS, contents.initramfs),
    ];
    for segment in &kernel.segments {
        let bytes = &contents.kernel.elf[segment.file.clone()];
        extents.extend(split(bytes, segment.memory_size as usize, segment.address as u32));
    }
    write_disk(&extents, kernel.entry as u32, contents.root, path)
}

/// Fills in what the setup wants to know, but for where it goes when it is done: only the loader knows that.
fn complete_setup(setup: &mut [u8], initramfs_bytes: usize) -> Result<(), TinyError> {
    let initramfs_bytes = initramfs_bytes as u32;
    if initramfs_bytes > memory::INITRAMFS_END - memory::INITRAMFS {
        return Err(TinyError::Kernel("the initramfs is too large".into()));
    }
    setup[header::TYPE_OF_LOADER] = header::UNKNOWN_LOADER;
    setup[header::LOAD_FLAGS] |= header::CAN_USE_HEAP;
    let mut put = |at: usize, value: &[u8]| setup[at..at + value.len()].copy_from_slice(value);
    put(header::RAMDISK_ADDRESS, &memory::INITRAMFS.to_le_bytes());
    put(header::RAMDISK_SIZE, &initramfs_bytes.to_le_bytes());
    put(header::HEAP_END, &memory::HEAP_END.to_le_bytes());
    put(header::COMMAND_LINE, &memory::COMMAND_LINE.to_le_bytes());
    Ok(())
}

fn filled(address: u32, bytes: &[u8]) -> Extent<'_> {
    Extent {
        address,
        bytes: Some(bytes),
        sectors: bytes.len().div_ceil(SECTOR) as u32,
    }
}

/// Cuts a segment into what has to be read and what is zero, cluster by cluster.
fn split(bytes: &[u8], memory_size: usize, address: u32) -> Vec<Extent<'_>> {
    let is_zero = |begin: usize, end: usize| {
        let (begin, end) = (begin.min(bytes.len()), end.min(bytes.len()));
        bytes[begin..end].iter().all(|byte| *byte == 0)
    };
    let mut extents = Vec::new();
    let mut begin = 0;
    while begin < memory_size {
        let zero = is_zero(begin, (begin + CLUSTER).min(memory_size));
        let mut end = (begin + CLUSTER).min(memory_size);
        while end < memory_size && is_zero(end, (end + CLUSTER).min(memory_size)) == zero {
            end = (end + CLUSTER).min(memory_size);
        }
        let place = address + begin as u32;
        let sectors = (end - begin).div_ceil(SECTOR) as u32;
        // The file may end before the memory does, within a cluster: whole sectors are read, the rest comes as zeros.
        extents.push(if zero {
            Extent {
                address: place,
                bytes: None,
                sectors,
            }
        } else {
            Extent {
                address: place,
                bytes: Some(&bytes[begin..end.min(bytes.len())]),
                sectors,
            }
        });
        begin = end;
    }
    extents
}

fn write_disk(extents: &[Extent<'_>], entry: u32, root: &Path, path: &Path) -> Result<(), TinyError> {
    let failed = || io_error("write", path);
    let mut disk = File::create(path).map_err(failed())?;
    let mut loader = LOADER.to_vec();
    loader[PLAN_OFFSET..PLAN_OFFSET + 4].copy_from_slice(&entry.to_le_bytes());
    // One entry must stay empty: it ends the plan.
    if extents.len() >= (LOADER.len() - PLAN_OFFSET - 4) / EXTENT_BYTES {
        return Err(TinyError::Kernel(format!(
            "the kernel falls into {} pieces, too many",
            extents.len()
        )));
    }
    let mut offset = FIRST_EXTENT;
    for (i, extent) in extents.iter().enumerate() {
        let sector = if extent.bytes.is_some() {
            (offset / SECTOR as u64) as u32
        } else {
            u32::MAX
        };
        let at = PLAN_OFFSET + 4 + i * EXTENT_BYTES;
        for (field, value) in [sector, extent.sectors, extent.address].into_iter().enumerate() {
            loader[at + 4 * field..at + 4 * field + 4].copy_from_slice(&value.to_le_bytes());
        }
        if let Some(bytes) = extent.bytes {
            disk.seek(SeekFrom::Start(offset))
                .and_then(|_| disk.write_all(bytes))
                .map_err(failed())?;
            offset += (extent.sectors as usize * SECTOR).next_multiple_of(CLUSTER) as u64;
        }
    }

    let root_begin = offset.next_multiple_of(MEBIBYTE);
    let root_bytes = copy_sparsely(root, &mut disk, root_begin)?;
    put_partition(&mut loader, 0, 0x80, 0xda, FIRST_EXTENT, root_begin - FIRST_EXTENT);
    put_partition(&mut loader, 1, 0, 0x83, root_begin, root_bytes);
    disk.seek(SeekFrom::Start(0))
        .and_then(|_| disk.write_all(&loader))
        .map_err(failed())?;
    disk.set_len(root_begin + root_bytes)
        .and_then(|()| disk.sync_all())
        .map_err(failed())
}

/// Writes one entry of the partition table; the old-style addresses say "too far, see the others".
fn put_partition(loader: &mut [u8], index: usize, flags: u8, kind: u8, begin: u64, bytes: u64) {
    let (begin, sectors) = ((begin / SECTOR as u64) as u32, (bytes / SECTOR as u64) as u32);
    let mut entry = [0_u8; 16];
    entry[..8].copy_from_slice(&[flags, 0xfe, 0xff, 0xff, kind, 0xfe, 0xff, 0xff]);
    entry[8..12].copy_from_slice(&begin.to_le_bytes());
    entry[12..].copy_from_slice(&sectors.to_le_bytes());
    let at = PARTITIONS_OFFSET + 16 * index;
    loader[at..at + 16].copy_from_slice(&entry);
}

/// Copies a file into the disk, leaving holes where it is zero. Returns its length.
fn copy_sparsely(from: &Path, disk: &mut File, at: u64) -> Result<u64, TinyError> {
    let mut file = File::open(from).map_err(io_error("open", from))?;
    let mut buffer = vec![0; CLUSTER];
    let mut copied = 0;
    loop {
        let read = file.read(&mut buffer).map_err(io_error("read", from))?;
        if read == 0 {
            return Ok(copied);
        }
        if buffer[..read].iter().any(|byte| *byte != 0) {
            let written = disk
                .seek(SeekFrom::Start(at + copied))
                .and_then(|_| disk.write_all(&buffer[..read]));
            written.map_err(io_error("copy", from))?;
        }
        copied += read as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_cut_at_its_zeros() {
        let mut bytes = vec![0_u8; 4 * CLUSTER];
        bytes[0] = 1;
        bytes[3 * CLUSTER + 5] = 1;
        let extents = split(&bytes, 5 * CLUSTER, 0x1000_0000);
        let shapes: Vec<_> = extents
            .iter()
            .map(|e| (e.address, e.bytes.map(<[u8]>::len), e.sectors))
            .collect();
        assert_eq!(
            shapes,
            [
                (0x1000_0000, Some(CLUSTER), 128),
                (0x1001_0000, None, 256),
                (0x1003_0000, Some(CLUSTER), 128),
                (0x1004_0000, None, 128),
            ]
        );
    }

    /// The committed program is the one that `loader.S` describes. Needs what linking Rust needs anyway.
    #[test]
    fn the_loader_is_built_from_its_source() {
        let directory = tempfile::tempdir().unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/tiny/loader.S");
        let run = |program: &str, arguments: &[&str]| {
            let done = std::process::Command::new(program)
                .args(arguments)
                .current_dir(&directory)
                .status();
            assert!(done.expect("binutils are installed").success(), "{program} failed");
        };
        run("as", &["--32", source.to_str().unwrap(), "-o", "loader.o"]);
        run(
            "ld",
            &[
                "-m",
                "elf_i386",
                "-Ttext",
                "0x7c00",
                "--oformat",
                "binary",
                "loader.o",
                "-o",
                "loader.bin",
            ],
        );
        assert!(
            std::fs::read(directory.path().join("loader.bin")).unwrap() == LOADER,
            "assemble loader.S again"
        );
    }
}
