//! Applies a layer's tar stream to a directory tree.
//!
//! The stream is a stranger's and runs through root's hands, so every name is resolved by the kernel inside the tree
//! (`openat2` with `RESOLVE_IN_ROOT`): symbolic links, absolute names and `..` in links cannot leave it. The last
//! component is never followed. Deletions (`.wh.` names) are carried out on the tree; when that tree is an overlay mount,
//! the kernel turns them into its own whiteouts.

use std::{
    collections::HashSet,
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2},
    sys::{
        stat::{
            FchmodatFlags, FileStat, Mode, SFlag, UtimensatFlags, fchmod, fchmodat, fstatat, futimens, mkdirat,
            mknodat, utimensat,
        },
        time::TimeSpec,
    },
    unistd::{Gid, LinkatFlags, Uid, UnlinkatFlags, fchown, fchownat, linkat, symlinkat, unlinkat},
};
use xattr::FileExt as _;

use crate::archive::{
    ImageError,
    tape::{Entry, Kind, Source, Tape},
};

pub(super) const WHITEOUT: &[u8] = b".wh.";
pub(super) const OPAQUE: &[u8] = b".wh..wh..opq";
/// The kernel answers `EAGAIN` when a rename elsewhere made the walk uncertain; nobody renames here, so few will do.
const WALK_TRIES: u32 = 8;

/// Names are remembered while a layer is applied; real layers need a few MiB for them.
const MAX_NAME_BYTES: usize = 256 << 20;

/// What a layer may cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Bytes of file content.
    pub bytes: u64,
    /// Whether files get the owners the layer gives; only root can do that.
    pub owners: bool,
}

/// Applies the layer that `tape` reads to the tree at `root`; returns the bytes of file content written.
pub(crate) fn apply<R: Source>(tape: &mut Tape<R>, root: &Path, limits: Limits) -> Result<u64, ImageError> {
    let root = openat(
        AT_FDCWD,
        root,
        OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
    .map_err(|e| ImageError::host(format!("open {}", root.display()), e))?;
    let mut tree = Tree {
        root,
        limits,
        written: 0,
        name_bytes: 0,
        made: HashSet::new(),
        directories: Vec::new(),
        parent: None,
    };
    while let Some(entry) = tape.next()? {
        tree.entry(&entry, tape)?;
    }
    tree.date_directories()?;
    Ok(tree.written)
}

struct Tree {
    root: OwnedFd,
    limits: Limits,
    written: u64,
    name_bytes: usize,
    /// What this layer has put there, which its own opaque markers must not delete.
    made: HashSet<PathBuf>,
    /// Directories whose times are set last, because filling them changes them.
    directories: Vec<(PathBuf, i64)>,
    /// The directory of the entry before: layers are sorted, so it is mostly the next one's too.
    parent: Option<(PathBuf, OwnedFd)>,
}

impl Tree {
    fn entry<R: Source>(&mut self, entry: &Entry, tape: &mut Tape<R>) -> Result<(), ImageError> {
        let path = inside(&entry.path).ok_or_else(|| broken(entry, "leaves the layer by `..`"))?;
        let Some(name) = path.file_name().map(OsStr::to_owned) else {
            return if entry.kind == Kind::Directory {
                self.root_itself(entry)
            } else {
                Err(broken(entry, "names the layer's root but is no directory"))
            };
        };
        self.name_bytes += path.as_os_str().len();
        if self.name_bytes > MAX_NAME_BYTES {
            return Err(broken(entry, "makes the layer's names longer than 256 MiB together"));
        }
        let above = path.parent().unwrap_or(Path::new("")).to_owned();
        self.enter(&above, entry)?;
        if name.as_bytes() == OPAQUE {
            return self.empty(&above, entry);
        }
        if let Some(hidden) = name.as_bytes().strip_prefix(WHITEOUT) {
            return self.hide(hidden, entry);
        }
        if entry.kind == Kind::Device {
            // `/dev` of a container is made by the runtime and covers the image's.
            let shadowed = path.starts_with("dev");
            return if shadowed {
                Ok(())
            } else {
                Err(broken(
                    entry,
                    "is a device node; only those below /dev, which are not used, may be in an image",
                ))
            };
        }
        let parent = self.parent_fd();
        let existing = lookup(parent, &name).map_err(|e| refused(entry, e))?;
        let both_directories =
            entry.kind == Kind::Directory && existing.is_some_and(|stat| kind(&stat) == SFlag::S_IFDIR);
        if existing.is_some() && !both_directories {
            delete(parent, &name).map_err(|e| refused(entry, e))?;
        }
        self.create(entry, &path, &name, both_directories, tape)?;
        self.made.insert(path);
        Ok(())
    }

    fn create<R: Source>(
        &mut self,
        entry: &Entry,
        path: &Path,
        name: &OsStr,
        exists: bool,
        tape: &mut Tape<R>,
    ) -> Result<(), ImageError> {
        let parent = self.parent_fd();
        let refused = |error: Errno| refused(entry, error);
        match entry.kind {
            Kind::File => {
                let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let file = File::from(openat(parent, name, flags, Mode::from_bits_truncate(0o600)).map_err(refused)?);
                self.written += copy(tape, &file, self.limits.bytes - self.written, entry)?;
                self.attributes(&file, entry)?;
                let time = TimeSpec::new(entry.mtime, 0);
                futimens(&file, &time, &time).map_err(refused)?;
            }
            Kind::Directory => {
                if !exists {
                    mkdirat(parent, name, Mode::from_bits_truncate(0o700)).map_err(refused)?;
                }
                let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let directory = File::from(openat(parent, name, flags, Mode::empty()).map_err(refused)?);
                self.attributes(&directory, entry)?;
                self.directories.push((path.to_owned(), entry.mtime));
            }
            Kind::Symlink => {
                if entry.link.is_empty() {
                    return Err(broken(entry, "is a symbolic link to nothing"));
                }
                symlinkat(OsStr::from_bytes(&entry.link), parent, name).map_err(refused)?;
                self.own_name(entry, name)?;
                let time = TimeSpec::new(entry.mtime, 0);
                utimensat(parent, name, &time, &time, UtimensatFlags::NoFollowSymlink).map_err(refused)?;
            }
            Kind::HardLink => self.hard_link(entry, name)?,
            Kind::Fifo => {
                mknodat(parent, name, SFlag::S_IFIFO, Mode::from_bits_truncate(0o600), 0).map_err(refused)?;
                self.own_name(entry, name)?;
                // Made a moment ago in a tree that nobody else writes to, so there is no link to follow.
                fchmodat(
                    parent,
                    name,
                    Mode::from_bits_truncate(entry.mode),
                    FchmodatFlags::FollowSymlink,
                )
                .map_err(refused)?;
            }
            Kind::Device => unreachable!("devices were dealt with before"),
        }
        Ok(())
    }

    fn hard_link(&self, entry: &Entry, name: &OsStr) -> Result<(), ImageError> {
        let target = inside(&entry.link).ok_or_else(|| broken(entry, "links to a file outside the layer by `..`"))?;
        let missing = || broken(entry, &format!("links to {:?}, which does not exist", target.display()));
        let target_name = target.file_name().ok_or_else(missing)?;
        let directory = match resolve(
            &self.root,
            target.parent().unwrap_or(Path::new("")),
            OFlag::O_PATH | OFlag::O_DIRECTORY,
        ) {
            Ok(directory) => directory,
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Err(missing()),
            Err(error) => return Err(refused(entry, error)),
        };
        match linkat(&directory, target_name, self.parent_fd(), name, LinkatFlags::empty()) {
            Ok(()) => Ok(()),
            Err(Errno::ENOENT) => Err(missing()),
            Err(Errno::EPERM) => Err(broken(entry, "links to a directory")),
            Err(error) => Err(refused(entry, error)),
        }
    }

    fn root_itself(&mut self, entry: &Entry) -> Result<(), ImageError> {
        let root = File::from(
            resolve(&self.root, Path::new(""), OFlag::O_RDONLY | OFlag::O_DIRECTORY).map_err(|e| refused(entry, e))?,
        );
        self.attributes(&root, entry)?;
        self.directories.push((PathBuf::new(), entry.mtime));
        Ok(())
    }

    /// Makes `above` the current parent, creating what is missing of it.
    fn enter(&mut self, above: &Path, entry: &Entry) -> Result<(), ImageError> {
        if self.parent.as_ref().is_some_and(|(path, _)| path == above) {
            return Ok(());
        }
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let fd = match resolve(&self.root, above, flags) {
            Ok(fd) => fd,
            Err(Errno::ENOENT) => self.make_parents(above, entry)?,
            Err(Errno::ENOTDIR) => return Err(broken(entry, "lies below something that is no directory")),
            Err(Errno::ELOOP) => return Err(broken(entry, "lies below symbolic links that lead in a circle")),
            Err(error) => return Err(refused(entry, error)),
        };
        self.parent = Some((above.to_owned(), fd));
        Ok(())
    }

    fn make_parents(&mut self, above: &Path, entry: &Entry) -> Result<OwnedFd, ImageError> {
        let mut path = PathBuf::new();
        let mut directory =
            resolve(&self.root, &path, OFlag::O_PATH | OFlag::O_DIRECTORY).map_err(|e| refused(entry, e))?;
        for name in above.components() {
            path.push(name);
            directory = match resolve(&self.root, &path, OFlag::O_PATH | OFlag::O_DIRECTORY) {
                Ok(next) => next,
                Err(Errno::ENOENT) => {
                    let name = name.as_os_str();
                    match mkdirat(&directory, name, Mode::from_bits_truncate(0o755)) {
                        Ok(()) => {}
                        Err(Errno::EEXIST) => {
                            return Err(broken(entry, "lies below a symbolic link that leads nowhere"));
                        }
                        Err(error) => return Err(refused(entry, error)),
                    }
                    self.made.insert(path.clone());
                    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                    let made = openat(&directory, name, flags, Mode::empty()).map_err(|e| refused(entry, e))?;
                    fchmod(&made, Mode::from_bits_truncate(0o755)).map_err(|e| refused(entry, e))?;
                    made
                }
                Err(Errno::ENOTDIR) => return Err(broken(entry, "lies below something that is no directory")),
                Err(error) => return Err(refused(entry, error)),
            };
        }
        Ok(directory)
    }

    fn parent_fd(&self) -> BorrowedFd<'_> {
        let (_, fd) = self.parent.as_ref().expect("`enter` is called for every entry first");
        fd.as_fd()
    }

    /// Deletes what lower layers have in the current directory.
    fn empty(&self, above: &Path, entry: &Entry) -> Result<(), ImageError> {
        let listing = fs::read_dir(through_proc(self.parent_fd()))
            .map_err(|e| ImageError::host("list a layer's directory", e))?;
        for found in listing {
            let name = found
                .map_err(|e| ImageError::host("list a layer's directory", e))?
                .file_name();
            if !self.made.contains(&above.join(&name)) {
                delete(self.parent_fd(), &name).map_err(|e| refused(entry, e))?;
            }
        }
        Ok(())
    }

    /// Deletes one name that lower layers have.
    fn hide(&self, hidden: &[u8], entry: &Entry) -> Result<(), ImageError> {
        if hidden.starts_with(WHITEOUT) {
            return Ok(()); // bookkeeping of a union file system that Docker once used
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(broken(entry, "deletes nothing that can be named"));
        }
        match delete(self.parent_fd(), OsStr::from_bytes(hidden)) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(error) => Err(refused(entry, error)),
        }
    }

    /// Owner, mode and attributes of an open file, in the order in which one does not undo the other.
    fn attributes(&self, file: &File, entry: &Entry) -> Result<(), ImageError> {
        if self.limits.owners {
            let (uid, gid) = owner(entry)?;
            fchown(file, Some(uid), Some(gid)).map_err(|e| refused(entry, e))?;
        }
        fchmod(file, Mode::from_bits_truncate(entry.mode)).map_err(|e| refused(entry, e))?;
        for (name, value) in &entry.xattrs {
            // Everything else is either this host's own business (trusted, other security modules, ACLs with host ids).
            let kept = name.starts_with(b"user.") || (self.limits.owners && name == b"security.capability");
            if kept {
                let set = file.set_xattr(OsStr::from_bytes(name), value);
                set.map_err(|source| ImageError::host(format!("set an attribute of {:?}", entry.name()), source))?;
            }
        }
        Ok(())
    }

    fn own_name(&self, entry: &Entry, name: &OsStr) -> Result<(), ImageError> {
        if self.limits.owners {
            let (uid, gid) = owner(entry)?;
            let owned = fchownat(
                self.parent_fd(),
                name,
                Some(uid),
                Some(gid),
                AtFlags::AT_SYMLINK_NOFOLLOW,
            );
            owned.map_err(|e| refused(entry, e))?;
        }
        Ok(())
    }

    fn date_directories(&self) -> Result<(), ImageError> {
        for (path, mtime) in self.directories.iter().rev() {
            let time = TimeSpec::new(*mtime, 0);
            // A later entry may have replaced the directory by something else.
            if let Ok(directory) = resolve(
                &self.root,
                path,
                OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW,
            ) {
                futimens(&directory, &time, &time)
                    .map_err(|e| ImageError::host(format!("date {}", path.display()), e))?;
            }
        }
        Ok(())
    }
}

/// The path below the layer's root; none if `..` is in it. A leading slash means the root.
fn inside(path: &[u8]) -> Option<PathBuf> {
    let mut clean = PathBuf::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return None,
            part => clean.push(OsString::from_vec(part.to_vec())),
        }
    }
    Some(clean)
}

/// Opens `path` as a process that is confined to `root` would see it.
pub(crate) fn resolve(root: &OwnedFd, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    let mut tries = 0;
    loop {
        match openat2(root, path, how) {
            Err(Errno::EAGAIN | Errno::EINTR) if tries < WALK_TRIES => tries += 1,
            result => return result,
        }
    }
}

fn lookup(parent: BorrowedFd<'_>, name: &OsStr) -> nix::Result<Option<FileStat>> {
    match fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}

/// Deletes a name and, if it is a directory, everything below it; links are deleted, never followed.
fn delete(parent: BorrowedFd<'_>, name: &OsStr) -> nix::Result<()> {
    match unlinkat(parent, name, UnlinkatFlags::NoRemoveDir) {
        Err(Errno::EISDIR) => {}
        result => return result,
    }
    let path = through_proc(parent).join(name);
    fs::remove_dir_all(path).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(Errno::EIO as i32)))
}

/// A path to an open directory, for calls that take only paths.
pub(super) fn through_proc(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

fn copy<R: Source>(tape: &mut Tape<R>, mut file: &File, most: u64, entry: &Entry) -> Result<u64, ImageError> {
    if entry.size > most {
        return Err(broken(
            entry,
            &format!("has {} bytes and makes the layer larger than allowed", entry.size),
        ));
    }
    let mut buffer = [0; 64 << 10];
    let mut total = 0;
    loop {
        let n = match tape.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(source) => return Err(ImageError::reading(format!("{:?} in a layer", entry.name()), source)),
        };
        file.write_all(&buffer[..n])
            .map_err(|source| ImageError::host(format!("write {:?}", entry.name()), source))?;
        total += n as u64;
    }
}

fn owner(entry: &Entry) -> Result<(Uid, Gid), ImageError> {
    // A container's user namespace holds 65536 ids; an owner beyond them would be nobody's inside.
    let fits = |id: u64| u16::try_from(id).ok().map(u32::from);
    match (fits(entry.uid), fits(entry.gid)) {
        (Some(uid), Some(gid)) => Ok((Uid::from_raw(uid), Gid::from_raw(gid))),
        _ => Err(broken(
            entry,
            &format!("belongs to {}:{}; owners up to 65535 can be used", entry.uid, entry.gid),
        )),
    }
}

fn broken(entry: &Entry, what: &str) -> ImageError {
    let name: String = entry.name().chars().take(256).collect();
    ImageError::Broken(format!("the layer's entry {name:?} {what}"))
}

/// What the kernel said about an entry: names it cannot have are the image's fault, the rest is this host's.
fn refused(entry: &Entry, error: Errno) -> ImageError {
    match error {
        Errno::ENAMETOOLONG => broken(entry, "has a name that is too long"),
        Errno::EINVAL | Errno::EILSEQ => broken(entry, "has a name that this host's file system does not take"),
        error => ImageError::host(format!("unpack {:?}", entry.name()), error),
    }
}
