//! Kernel modules: which the guest needs, what those need, and the tables that `modprobe` reads.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

use super::{TinyError, elf, io_error, kernel::unpack_xz};

/// All modules of a kernel package, those that are asked for decompressed.
pub(super) struct Modules {
    files: BTreeMap<String, PathBuf>,
    built_in: BTreeSet<String>,
    loaded: BTreeMap<String, Module>,
}

/// One module.
pub(super) struct Module {
    /// Its file, not compressed.
    pub(super) bytes: Vec<u8>,
    /// The modules it needs, itself not included.
    depends: Vec<String>,
    aliases: Vec<String>,
}

/// A module has one name in files and another in the kernel; this is the kernel's.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

impl Modules {
    /// The modules below `directory` (`lib/modules/<version>`).
    pub(super) fn find(directory: &Path) -> Result<Self, TinyError> {
        let mut files = BTreeMap::new();
        let mut open = vec![directory.to_owned()];
        while let Some(path) = open.pop() {
            for entry in fs::read_dir(&path).map_err(io_error("read", &path))? {
                let path = entry.map_err(io_error("read", &path))?.path();
                let name = path
                    .file_name()
                    .and_then(|name| name.to_str())
                    .unwrap_or_default()
                    .to_owned();
                if path.is_dir() && !path.is_symlink() {
                    open.push(path);
                } else if let Some((name, "" | ".xz")) = name.split_once(".ko") {
                    files.insert(canonical(name), path);
                }
            }
        }
        let list = directory.join("modules.builtin");
        let built_in = fs::read_to_string(&list).map_err(io_error("read", &list))?;
        let built_in = built_in
            .lines()
            .filter_map(|line| line.rsplit('/').next()?.strip_suffix(".ko"));
        Ok(Self {
            files,
            built_in: built_in.map(canonical).collect(),
            loaded: BTreeMap::new(),
        })
    }

    /// These modules and all they need, each after what it needs. What the kernel has built in is left out; so is what
    /// this kernel does not have, unless it is `required`.
    pub(super) async fn closure(
        &mut self,
        names: &[&str],
        required: bool,
        busybox: &Path,
        work: &Path,
    ) -> Result<Vec<String>, TinyError> {
        let mut order: Vec<String> = Vec::new();
        // Depth first, a module being put in order once all it needs is there.
        let mut open: Vec<(String, bool)> = names.iter().rev().map(|name| (canonical(name), false)).collect();
        while let Some((name, is_ready)) = open.pop() {
            if order.contains(&name) || self.built_in.contains(&name) {
                continue;
            }
            if is_ready {
                order.push(name);
                continue;
            }
            let Some(file) = self.files.get(&name).cloned() else {
                if required {
                    return Err(TinyError::Kernel(format!("the kernel has no module {name}")));
                }
                continue;
            };
            if !self.loaded.contains_key(&name) {
                let module = load(&file, busybox, work).await?;
                self.loaded.insert(name.clone(), module);
            }
            let depends = self.loaded[&name].depends.clone();
            open.push((name, true));
            open.extend(depends.into_iter().map(|needed| (needed, false)));
        }
        Ok(order)
    }

    /// A module that [`Modules::closure`] has named.
    pub(super) fn get(&self, name: &str) -> &Module {
        self.loaded.get(name).expect("the closure has loaded it")
    }

    /// `modules.dep` and `modules.alias` for these modules, which lie as `<name>.ko` in one directory.
    pub(super) fn tables(&self, names: &[String]) -> (String, String) {
        let (mut dep, mut alias) = (String::new(), String::new());
        for name in names {
            let mut needs: Vec<&str> = Vec::new();
            self.all_needed(name, &mut needs);
            let needs: String = needs.iter().map(|needed| format!(" {needed}.ko")).collect();
            // Writing into a string cannot fail.
            let _ = writeln!(dep, "{name}.ko:{needs}");
            for pattern in &self.get(name).aliases {
                let _ = writeln!(alias, "alias {pattern} {name}");
            }
        }
        (dep, alias)
    }

    /// All that a module needs, the nearest first, as `modules.dep` has it.
    fn all_needed<'a>(&'a self, name: &str, needs: &mut Vec<&'a str>) {
        let Some(module) = self.loaded.get(name) else { return };
        for needed in module.depends.iter().filter(|needed| self.loaded.contains_key(*needed)) {
            needs.retain(|known| known != needed);
            needs.push(needed);
            self.all_needed(needed, needs);
        }
    }
}

async fn load(file: &Path, busybox: &Path, work: &Path) -> Result<Module, TinyError> {
    let is_compressed = file.extension().is_some_and(|extension| extension == "xz");
    let bytes = if is_compressed {
        unpack_xz(file, busybox, work).await?
    } else {
        fs::read(file).map_err(io_error("read", file))?
    };
    let bytes = without_signature(bytes);
    let depends = elf::module_info(&bytes, "depends")?;
    let depends = depends
        .iter()
        .flat_map(|list| list.split(','))
        .filter(|name| !name.is_empty());
    let depends = depends.map(canonical).collect();
    let aliases = elf::module_info(&bytes, "alias")?;
    Ok(Module {
        bytes,
        depends,
        aliases,
    })
}

/// A module without the signature at its end (include/linux/module_signature.h): the guest's kernel trusts its own disk,
/// and checking takes 10 ms per module under emulation.
fn without_signature(mut bytes: Vec<u8>) -> Vec<u8> {
    const MAGIC: &[u8] = b"~Module signature appended~\n";
    const HEADER_BYTES: usize = 12;
    if bytes.ends_with(MAGIC)
        && let Some(header) = bytes.len().checked_sub(MAGIC.len() + HEADER_BYTES)
    {
        // The header ends with the signature's length.
        let length = bytes[header + 8..header + HEADER_BYTES]
            .try_into()
            .map_or(0, u32::from_be_bytes) as usize;
        bytes.truncate(header.saturating_sub(length));
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_cut_off_and_nothing_else() {
        let mut signed = b"module".to_vec();
        signed.extend(b"sig");
        signed.extend([0; 8]);
        signed.extend(3_u32.to_be_bytes());
        signed.extend(b"~Module signature appended~\n");
        assert_eq!(without_signature(signed), b"module");
        assert_eq!(without_signature(b"module".to_vec()), b"module");
    }
}
