//! What the builder needs to know of ELF files: where a kernel is loaded, what a module is called for, which libraries a
//! program wants.

use std::ops::Range;

use object::{
    Object, ObjectSection,
    read::elf::{Dyn, ElfFile64, FileHeader, ProgramHeader},
};

use super::TinyError;

/// The type of the Xen note that names the entry point (`XEN_ELFNOTE_PHYS32_ENTRY`).
const PVH_NOTE: u32 = 18;

/// A part of a kernel that has its place in memory.
pub(super) struct Segment {
    /// Its physical address.
    pub(super) address: u64,
    /// How much memory it takes; what the file does not hold is zero.
    pub(super) memory_size: u64,
    /// Where the file holds it.
    pub(super) file: Range<usize>,
}

/// A kernel, as its linker left it.
pub(super) struct Kernel {
    /// The physical address of the first 64 bit instruction.
    pub(super) entry: u64,
    /// What goes where.
    pub(super) segments: Vec<Segment>,
}

fn file(bytes: &[u8]) -> Result<ElfFile64<'_>, TinyError> {
    ElfFile64::parse(bytes).map_err(|error| TinyError::Kernel(format!("not an ELF file: {error}")))
}

/// Reads a kernel's headers.
pub(super) fn kernel(bytes: &[u8]) -> Result<Kernel, TinyError> {
    let elf = file(bytes)?;
    let endian = elf.endian();
    let mut segments = Vec::new();
    for header in elf.elf_program_headers() {
        if header.p_type(endian) == object::elf::PT_LOAD {
            let (offset, size) = header.file_range(endian);
            let range = offset as usize..(offset + size) as usize;
            if range.end > bytes.len() {
                return Err(TinyError::Kernel("a segment lies outside of the file".into()));
            }
            let (address, memory_size) = (header.p_paddr(endian), header.p_memsz(endian));
            segments.push(Segment {
                address,
                memory_size,
                file: range,
            });
        }
    }
    Ok(Kernel {
        entry: elf.elf_header().e_entry(endian),
        segments,
    })
}

/// The values of one key in a kernel module's `.modinfo`, such as `alias` or `depends`.
pub(super) fn module_info(bytes: &[u8], key: &str) -> Result<Vec<String>, TinyError> {
    let elf = file(bytes)?;
    let info = elf
        .section_by_name(".modinfo")
        .and_then(|section| section.data().ok())
        .unwrap_or_default();
    let entries = info
        .split(|byte| *byte == 0)
        .filter_map(|entry| std::str::from_utf8(entry).ok());
    Ok(entries
        .filter_map(|entry| entry.strip_prefix(key)?.strip_prefix('='))
        .map(str::to_owned)
        .collect())
}

/// The libraries that a program or library says it needs, and the interpreter that a program starts with.
pub(super) fn needed(bytes: &[u8]) -> Result<Vec<String>, TinyError> {
    let elf = file(bytes)?;
    let broken = |error: object::Error| TinyError::Kernel(format!("broken ELF file: {error}"));
    let endian = elf.endian();
    let sections = elf.elf_section_table();
    let mut names = Vec::new();
    if let Some((entries, link)) = sections.dynamic(endian, bytes).map_err(broken)? {
        let strings = sections.strings(endian, bytes, link).map_err(broken)?;
        for entry in entries.iter().filter(|entry| entry.is_string(endian)) {
            if entry.tag32(endian) == Some(object::elf::DT_NEEDED) {
                let name = entry.string(endian, strings).map_err(broken)?;
                names.push(String::from_utf8_lossy(name).into_owned());
            }
        }
    }
    Ok(names)
}

/// Whether a kernel can be entered as QEMU's `-kernel` does with ELF files (a Xen note of type 18, as PVH asks).
pub(super) fn has_direct_entry(bytes: &[u8]) -> bool {
    let Ok(elf) = file(bytes) else { return false };
    let endian = elf.endian();
    elf.elf_program_headers().iter().any(|header| {
        let mut notes = header.notes(endian, bytes).ok().flatten();
        let notes = std::iter::from_fn(|| notes.as_mut()?.next().ok().flatten());
        notes
            .into_iter()
            .any(|note| note.name() == b"Xen" && note.n_type(endian) == PVH_NOTE)
    })
}
