//! The root file system: busybox, sshd, the libraries it needs, modules, and the guest's own scripts.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use super::{TinyError, command::run, command::run_file, elf, io_error, modules::Modules};

/// The size of the file system. What is not used is not stored.
const SIZE: &str = "64M";
/// Fixed, so that the same content gives the same file system.
const ID: &str = "6d616461-6e67-4000-8000-74696e790001";

/// The guest's own files: where, mode, content.
const FILES: &[(&str, u32, &str)] = &[
    ("etc/fstab", 0o644, ""),
    ("etc/group", 0o644, include_str!("guest/etc/group")),
    ("etc/hostname", 0o644, "tiny\n"),
    ("etc/hosts", 0o644, "127.0.0.1 localhost\n::1 localhost\n"),
    ("etc/inittab", 0o644, include_str!("guest/etc/inittab")),
    ("etc/issue", 0o644, include_str!("guest/etc/issue")),
    ("etc/passwd", 0o644, include_str!("guest/etc/passwd")),
    ("etc/profile", 0o644, include_str!("guest/etc/profile")),
    // No terminal is one that root may log in on: its way is `su`, for who has logged in by key.
    ("etc/securetty", 0o644, ""),
    ("etc/shadow", 0o600, include_str!("guest/etc/shadow")),
    ("etc/shells", 0o644, include_str!("guest/etc/shells")),
    ("etc/acpi/PWRF/00000080", 0o755, include_str!("guest/lib/power-button")),
    ("bin/curl", 0o755, include_str!("guest/lib/curl")),
    ("bin/blkid", 0o755, include_str!("guest/lib/blkid")),
    ("bin/sudo", 0o755, include_str!("guest/lib/sudo")),
    ("bin/lsblk", 0o755, include_str!("guest/lib/lsblk")),
    ("lib/tiny/agent", 0o755, include_str!("guest/lib/agent")),
    ("lib/tiny/boot", 0o755, include_str!("guest/lib/boot")),
    ("lib/tiny/disks", 0o755, include_str!("guest/lib/disks")),
    ("lib/tiny/drivers", 0o755, include_str!("guest/lib/drivers")),
    ("lib/tiny/json.awk", 0o644, include_str!("guest/lib/json.awk")),
    ("lib/tiny/lease", 0o755, include_str!("guest/lib/lease")),
    ("lib/tiny/say", 0o644, include_str!("guest/lib/say")),
    ("lib/tiny/shutdown", 0o755, include_str!("guest/lib/shutdown")),
];

/// Directories, with their modes.
const DIRECTORIES: &[(&str, u32)] = &[
    ("bin", 0o755),
    ("dev", 0o755),
    ("etc", 0o755),
    ("etc/acpi", 0o755),
    ("etc/acpi/PWRF", 0o755),
    ("etc/dropbear", 0o700),
    ("home", 0o755),
    ("home/tiny", 0o755),
    ("lib", 0o755),
    ("lib/modules", 0o755),
    ("lib/tiny", 0o755),
    ("mnt", 0o755),
    ("proc", 0o755),
    ("root", 0o700),
    ("run", 0o755),
    ("sys", 0o755),
    ("tmp", 0o1777),
    ("usr", 0o755),
    ("var", 0o755),
    ("var/lib", 0o755),
    ("var/lib/tiny", 0o700),
    ("var/log", 0o755),
];

/// Symbolic links: where, to what.
const LINKS: &[(&str, &str)] = &[
    ("sbin", "bin"),
    ("lib64", "lib"),
    ("usr/bin", "../bin"),
    ("usr/sbin", "../bin"),
    ("usr/lib", "../lib"),
    ("var/run", "../run"),
    ("var/tmp", "../tmp"),
    ("etc/mtab", "/proc/mounts"),
    ("etc/resolv.conf", "/run/net/resolv.conf"),
    ("bin/dropbearkey", "../lib/dropbear/dropbearkey"),
    ("bin/dropbear", "../lib/dropbear/dropbear"),
];

/// What decides the content besides the packages: for the cache's key.
pub(super) fn fingerprint() -> impl Iterator<Item = &'static [u8]> {
    FILES
        .iter()
        .flat_map(|(path, _, content)| [path.as_bytes(), content.as_bytes()])
}

/// Where the pieces are.
pub(super) struct Sources<'a> {
    /// The unpacked packages, a directory each.
    pub(super) packages: &'a Path,
    pub(super) busybox: &'a Path,
    pub(super) kernel_version: &'a str,
    pub(super) modules: &'a Modules,
    /// The modules to be there, each after what it needs.
    pub(super) module_names: &'a [String],
    /// Somewhere to work in.
    pub(super) work: &'a Path,
}

/// Builds the file system and returns the file that it is in.
pub(super) async fn build(sources: &Sources<'_>) -> Result<PathBuf, TinyError> {
    let root = sources.work.join("root");
    make_directory(&root, 0o755)?;
    for (path, mode) in DIRECTORIES {
        make_directory(&root.join(path), *mode)?;
    }
    for (path, target) in LINKS {
        make_link(target, &root.join(path))?;
    }
    put_busybox(sources, &root).await?;
    for (path, mode, content) in FILES {
        put(&root.join(path), *mode, content.as_bytes())?;
    }
    put_sshd(sources, &root)?;
    put_modules(sources, &root)?;
    make_file_system(&root, sources.work).await
}

fn make_directory(path: &Path, mode: u32) -> Result<(), TinyError> {
    fs::create_dir_all(path).map_err(io_error("make", path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(io_error("make", path))
}

fn make_link(target: &str, path: &Path) -> Result<(), TinyError> {
    symlink(target, path).map_err(io_error("link", path))
}

fn put(path: &Path, mode: u32, content: &[u8]) -> Result<(), TinyError> {
    fs::write(path, content).map_err(io_error("write", path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(io_error("write", path))
}

/// Busybox under all its names. It is set-uid for `su` and `ping`, and gives that up for everything else; its shell runs
/// its own `su` whatever lies in the path, so a copy for `su` alone would never be reached.
async fn put_busybox(sources: &Sources<'_>, root: &Path) -> Result<(), TinyError> {
    let busybox = fs::read(sources.busybox).map_err(io_error("read", sources.busybox))?;
    put(&root.join("bin/busybox"), 0o4755, &busybox)?;
    let names = run_file(sources.busybox, &["--list".as_ref()], sources.work).await?;
    for name in String::from_utf8_lossy(&names)
        .lines()
        .filter(|name| !matches!(*name, "busybox" | ""))
    {
        make_link("busybox", &root.join("bin").join(name))?;
    }
    Ok(())
}

/// The ssh server, its key tool and all libraries that they need, found through what they say they need.
fn put_sshd(sources: &Sources<'_>, root: &Path) -> Result<(), TinyError> {
    make_directory(&root.join("lib/dropbear"), 0o755)?;
    let package = sources.packages.join("dropbear-bin");
    let mut open = Vec::new();
    for (from, to) in [
        ("usr/sbin/dropbear", "dropbear"),
        ("usr/bin/dropbearkey", "dropbearkey"),
    ] {
        let path = package.join(from);
        let bytes = fs::read(&path).map_err(io_error("read", &path))?;
        open.extend(elf::needed(&bytes)?);
        put(&root.join("lib/dropbear").join(to), 0o755, &bytes)?;
    }
    open.push("ld-linux-x86-64.so.2".to_owned());
    let mut known = BTreeSet::new();
    while let Some(name) = open.pop() {
        if known.insert(name.clone()) {
            let path = find_library(sources.packages, &name)?;
            let bytes = fs::read(&path).map_err(io_error("read", &path))?;
            open.extend(elf::needed(&bytes)?);
            put(&root.join("lib").join(&name), 0o755, &bytes)?;
        }
    }
    Ok(())
}

/// Where an unpacked package has a library: releases differ in whether that is below `/lib` or `/usr/lib`.
fn find_library(packages: &Path, name: &str) -> Result<PathBuf, TinyError> {
    const PLACES: &[&str] = &["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "lib64", "usr/lib64"];
    for entry in fs::read_dir(packages).map_err(io_error("read", packages))? {
        let package = entry.map_err(io_error("read", packages))?.path();
        if let Some(path) = PLACES
            .iter()
            .map(|place| package.join(place).join(name))
            .find(|path| path.is_file())
        {
            return Ok(path);
        }
    }
    Err(TinyError::Library { name: name.to_owned() })
}

fn put_modules(sources: &Sources<'_>, root: &Path) -> Result<(), TinyError> {
    let directory = root.join("lib/modules").join(sources.kernel_version);
    make_directory(&directory, 0o755)?;
    for name in sources.module_names {
        put(
            &directory.join(format!("{name}.ko")),
            0o644,
            &sources.modules.get(name).bytes,
        )?;
    }
    let (dep, alias) = sources.modules.tables(sources.module_names);
    put(&directory.join("modules.dep"), 0o644, dep.as_bytes())?;
    put(&directory.join("modules.alias"), 0o644, alias.as_bytes())
}

/// Makes the file system with everything in it owned by root, and its user's home by the user. The files belong to
/// whoever runs the build, so the owners are corrected inside.
async fn make_file_system(root: &Path, work: &Path) -> Result<PathBuf, TinyError> {
    let image = work.join("root.ext4");
    let seed = format!("hash_seed={ID},root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0");
    let arguments: &[&std::ffi::OsStr] = &[
        "-q".as_ref(),
        "-F".as_ref(),
        "-t".as_ref(),
        "ext4".as_ref(),
        "-b".as_ref(),
        "4096".as_ref(),
        "-m".as_ref(),
        "0".as_ref(),
        "-L".as_ref(),
        "tiny-root".as_ref(),
        "-U".as_ref(),
        ID.as_ref(),
        // Checksums cost time under emulation, and their driver may be a module on another kernel.
        "-O".as_ref(),
        "^metadata_csum,^64bit".as_ref(),
        "-E".as_ref(),
        seed.as_ref(),
        "-d".as_ref(),
        root.as_os_str(),
        image.as_os_str(),
        SIZE.as_ref(),
    ];
    run("mke2fs", arguments, work).await?;
    let mut commands = String::new();
    own(root, "", &mut commands)?;
    let script = work.join("owners");
    put(&script, 0o644, commands.as_bytes())?;
    let arguments: &[&std::ffi::OsStr] = &["-w".as_ref(), "-f".as_ref(), script.as_os_str(), image.as_os_str()];
    run("debugfs", arguments, work).await?;
    Ok(image)
}

/// Adds the commands that give everything below a directory to its owner in the guest.
fn own(directory: &Path, inside: &str, commands: &mut String) -> Result<(), TinyError> {
    for entry in fs::read_dir(directory).map_err(io_error("read", directory))? {
        let entry = entry.map_err(io_error("read", directory))?;
        let path = format!("{inside}/{}", entry.file_name().to_string_lossy());
        let owner = if path.starts_with("/home/tiny") { 1000 } else { 0 };
        // Writing into a string cannot fail.
        let _ = writeln!(commands, "sif \"{path}\" uid {owner}\nsif \"{path}\" gid {owner}");
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            own(&entry.path(), &path, commands)?;
        }
    }
    Ok(())
}
