//! Writes what a container has changed as a layer: its overlay's upper directory in the form that image layers have.
//!
//! The counterpart of [`super::unpack`]. Deletions, which the kernel keeps as devices 0:0 and opaque markers, become `.wh.`
//! names; owners go back from the container's range to what they are inside. Nobody writes to the tree meanwhile (the
//! container is stopped or frozen), and names are resolved inside it all the same: its content is a stranger's.

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs::{self, File},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Path, PathBuf},
};

use madang_host::userns::IdRange;
use nix::{
    errno::Errno,
    fcntl::{AT_FDCWD, AtFlags, OFlag, openat, readlinkat},
    sys::stat::{FileStat, Mode, SFlag, fstat, fstatat},
};
use tar::{Builder, EntryType, Header};
use xattr::FileExt as _;

use super::unpack::{OPAQUE, WHITEOUT, kind, resolve, through_proc};
use crate::archive::ImageError;

/// Mounted over in every container; what lies below was made by the runtime.
const MOUNTED_OVER: [&str; 3] = ["etc/hostname", "etc/hosts", "etc/resolv.conf"];
/// How overlayfs marks a directory that hides all of its namesakes below. Source: Documentation/filesystems/overlayfs.rst.
const OPAQUE_MARK: &str = "trusted.overlay.opaque";
/// A file capability with and without the id of its namespace's root. Source: include/uapi/linux/capability.h.
const CAPABILITY: &str = "security.capability";
const CAPABILITY_V2: u32 = 0x0200_0000;
const CAPABILITY_V3: u32 = 0x0300_0000;
const CAPABILITY_V2_BYTES: usize = 20;
/// Names longer than this stand in an extension header.
const HEADER_NAME: usize = 100;

/// Writes the layer of the upper directory at `upper`, whose owners are of `ids`.
pub(crate) fn pack(upper: &Path, ids: IdRange, into: &mut impl Write) -> Result<(), ImageError> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = openat(AT_FDCWD, upper, flags, Mode::empty())
        .map_err(|e| ImageError::host(format!("open {}", upper.display()), e))?;
    let mut packer = Packer {
        root,
        ids,
        tar: Builder::new(into),
        linked: HashMap::new(),
    };
    let mut waiting = vec![PathBuf::new()];
    while let Some(path) = waiting.pop() {
        packer.directory(&path, &mut waiting)?;
    }
    packer.tar.finish().map_err(|e| ImageError::host("write a layer", e))
}

struct Packer<W: Write> {
    root: OwnedFd,
    ids: IdRange,
    tar: Builder<W>,
    /// Files of several names, by device and inode: the first of their names.
    linked: HashMap<(u64, u64), PathBuf>,
}

impl<W: Write> Packer<W> {
    /// Writes a directory and what is in it; those below are left for later.
    fn directory(&mut self, path: &Path, waiting: &mut Vec<PathBuf>) -> Result<(), ImageError> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
        let directory = File::from(resolve(&self.root, path, flags).map_err(refused(path))?);
        let stat = fstat(&directory).map_err(refused(path))?;
        let attributes = attributes(&directory, path)?;
        let shown = if path.as_os_str().is_empty() {
            Path::new("./")
        } else {
            path
        };
        self.entry(EntryType::Directory, shown, None, &stat, &attributes, io::empty())?;
        if directory.get_xattr(OPAQUE_MARK).ok().flatten().as_deref() == Some(b"y") {
            self.marker(&path.join(OsStr::from_bytes(OPAQUE)))?;
        }
        let listed = fs::read_dir(through_proc(directory.as_fd())).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let mut names: Vec<_> = listed
            .map_err(|e| ImageError::host(format!("list {path:?} of the container"), e))?
            .into_iter()
            .map(|entry| entry.file_name())
            .collect();
        names.sort_unstable();
        for name in names {
            let below = path.join(&name);
            let stat = fstatat(&directory, name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW).map_err(refused(&below))?;
            match kind(&stat) {
                SFlag::S_IFDIR => waiting.push(below),
                SFlag::S_IFCHR if stat.st_rdev == 0 => {
                    let hidden = [WHITEOUT, name.as_bytes()].concat();
                    self.marker(&path.join(OsStr::from_bytes(&hidden)))?;
                }
                _ if MOUNTED_OVER.iter().any(|over| below == Path::new(over)) => {}
                SFlag::S_IFREG => self.file(&below, &stat)?,
                SFlag::S_IFLNK => {
                    let target = readlinkat(&directory, name.as_os_str()).map_err(refused(&below))?;
                    let target = Some(target.into_vec());
                    self.entry(EntryType::Symlink, &below, target, &stat, &[], io::empty())?;
                }
                SFlag::S_IFIFO => self.entry(EntryType::Fifo, &below, None, &stat, &[], io::empty())?,
                // A socket is nothing without who listens; other devices cannot be made by a container.
                _ => {}
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &Path, stat: &FileStat) -> Result<(), ImageError> {
        if stat.st_nlink > 1 {
            let node = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.linked.get(&node) {
                let first = Some(first.as_os_str().as_bytes().to_vec());
                return self.entry(EntryType::Link, path, first, stat, &[], io::empty());
            }
            self.linked.insert(node, path.to_owned());
        }
        // Not blocking, should it be something else by now.
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let file = File::from(resolve(&self.root, path, flags).map_err(refused(path))?);
        let attributes = attributes(&file, path)?;
        self.entry(EntryType::Regular, path, None, stat, &attributes, file)
    }

    /// An empty file that says something by its name.
    fn marker(&mut self, path: &Path) -> Result<(), ImageError> {
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(0);
        self.write(header, path, None, &[], io::empty())
    }

    fn entry(
        &mut self,
        kind: EntryType,
        path: &Path,
        link: Option<Vec<u8>>,
        stat: &FileStat,
        attributes: &[(String, Vec<u8>)],
        content: impl Read,
    ) -> Result<(), ImageError> {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(stat.st_mode & 0o7777);
        header.set_uid(self.inside(stat.st_uid));
        header.set_gid(self.inside(stat.st_gid));
        header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
        let size = if kind == EntryType::Regular { stat.st_size } else { 0 };
        header.set_size(u64::try_from(size).unwrap_or(0));
        self.write(header, path, link, attributes, content)
    }

    fn write(
        &mut self,
        mut header: Header,
        path: &Path,
        link: Option<Vec<u8>>,
        attributes: &[(String, Vec<u8>)],
        content: impl Read,
    ) -> Result<(), ImageError> {
        let fail = |e| ImageError::host(format!("write {path:?} into a layer"), e);
        let path_bytes = path.as_os_str().as_bytes();
        let link = link.unwrap_or_default();
        let mut records: Vec<(&str, &[u8])> = attributes
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_slice()))
            .collect();
        for (name, value) in [("path", path_bytes), ("linkpath", link.as_slice())] {
            if value.len() > HEADER_NAME {
                records.push((name, value));
            }
        }
        if !records.is_empty() {
            self.tar.append_pax_extensions(records).map_err(fail)?;
        }
        let old = header.as_old_mut();
        let (named, linked) = (path_bytes.len().min(HEADER_NAME), link.len().min(HEADER_NAME));
        old.name[..named].copy_from_slice(&path_bytes[..named]);
        old.linkname[..linked].copy_from_slice(&link[..linked]);
        let size = header.size().map_err(fail)?;
        header.set_cksum();
        // The header's size is a promise, whatever becomes of the file.
        let exactly = content.chain(io::repeat(0)).take(size);
        self.tar.append(&header, exactly).map_err(fail)
    }

    /// An id as the container sees it; what is not of its range is root's.
    fn inside(&self, id: u32) -> u64 {
        let inside = id.checked_sub(self.ids.first).filter(|id| *id < IdRange::COUNT);
        inside.map_or(0, u64::from)
    }
}

/// A file's attributes that layers hold, by their names in a tar.
fn attributes(file: &File, path: &Path) -> Result<Vec<(String, Vec<u8>)>, ImageError> {
    let fail = |e| ImageError::host(format!("read the attributes of {path:?} of the container"), e);
    let mut found = Vec::new();
    for name in file.list_xattr().map_err(fail)? {
        let Some(name) = name.to_str() else { continue };
        if !name.starts_with("user.") && name != CAPABILITY {
            continue;
        }
        let Some(mut value) = file.get_xattr(name).map_err(fail)? else {
            continue;
        };
        if name == CAPABILITY {
            value = of_any_root(value);
        }
        found.push((format!("SCHILY.xattr.{name}"), value));
    }
    Ok(found)
}

/// A file capability without the root that it is for: an image's are for the root of who runs it.
fn of_any_root(mut value: Vec<u8>) -> Vec<u8> {
    let Some(head) = value.first_chunk::<4>() else {
        return value;
    };
    let head = u32::from_le_bytes(*head);
    if head & 0xff00_0000 == CAPABILITY_V3 && value.len() > CAPABILITY_V2_BYTES {
        value.truncate(CAPABILITY_V2_BYTES);
        value[..4].copy_from_slice(&(head & 0x00ff_ffff | CAPABILITY_V2).to_le_bytes());
    }
    value
}

fn refused(path: &Path) -> impl FnOnce(Errno) -> ImageError {
    let action = format!("read {path:?} of the container");
    move |error| ImageError::host(action, error)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::archive::tape::{Kind, Tape};

    #[test]
    fn files_links_and_long_names_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let long = "n".repeat(120);
        fs::create_dir(dir.path().join("d")).unwrap();
        fs::write(dir.path().join("d").join(&long), "hello").unwrap();
        fs::hard_link(dir.path().join("d").join(&long), dir.path().join("d/second")).unwrap();
        fs::set_permissions(dir.path().join("d").join(&long), fs::Permissions::from_mode(0o4750)).unwrap();
        symlink("x/".repeat(80), dir.path().join("link")).unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        fs::write(dir.path().join("etc/hosts"), "").unwrap();
        let mut layer = Vec::new();
        pack(dir.path(), IdRange { first: 0 }, &mut layer).unwrap();
        let mut tape = Tape::new(layer.as_slice(), 100);
        let mut found = Vec::new();
        while let Some(entry) = tape.next().unwrap() {
            let mut content = String::new();
            tape.read_to_string(&mut content).unwrap();
            found.push((
                entry.name(),
                entry.kind,
                String::from_utf8(entry.link).unwrap(),
                entry.mode,
                content,
            ));
        }
        let has = |name: &str| {
            found
                .iter()
                .find(|(found, ..)| found == name)
                .unwrap_or_else(|| panic!("{name}: {found:?}"))
        };
        let first = has(&format!("d/{long}"));
        assert_eq!((first.1, first.3, first.4.as_str()), (Kind::File, 0o4750, "hello"));
        let second = has("d/second");
        assert_eq!((second.1, second.2.clone()), (Kind::HardLink, format!("d/{long}")));
        assert_eq!(has("link").2, "x/".repeat(80));
        assert_eq!(has("./").1, Kind::Directory);
        assert!(!found.iter().any(|(name, ..)| name == "etc/hosts"));
    }

    #[test]
    fn a_capability_loses_its_namespace() {
        let v3 = [&[1, 0, 0, 3][..], &[7; 16], &[0, 0, 0, 32]].concat();
        let v2 = [&[1, 0, 0, 2][..], &[7; 16]].concat();
        assert_eq!(of_any_root(v3), v2);
        assert_eq!(of_any_root(v2.clone()), v2);
    }
}
