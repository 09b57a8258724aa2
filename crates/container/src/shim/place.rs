//! The container's place: its namespaces, its root file system and the bundle that runc is given.
//!
//! Everything is mounted in a mount namespace of the shim's own, on a tmpfs that covers a directory of the host nobody
//! there uses ([`COVERS`]): the container's root has to be reached by an id without rights, which the data directory,
//! closed to others, does not allow. The host sees none of it, and it cannot be left behind.

use std::{
    fs, io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::{MetadataExt, PermissionsExt, chown, symlink},
    },
    path::{Path, PathBuf},
};

use madang_host::{
    cgroup::{Group, Hierarchies, Layout},
    userns::{Namespaces, mount_shifted},
};
use nix::{
    fcntl::{AT_FDCWD, OFlag, openat},
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::{
        resource::{Resource, getrlimit},
        stat::Mode,
    },
};

use super::Failure;
use crate::{
    disk,
    files::write_json,
    layers::overlay_options,
    record::{Home, Spec},
    runtime::{self, Account, check_program},
};

/// Directories that every Debian has, anybody may pass, and the shim needs nothing of; the first that holds nothing the
/// container needs is covered, for the shim alone.
const COVERS: [&str; 4] = ["/mnt", "/media", "/srv", "/opt"];

/// The container's root in its place.
const ROOT: &str = "root";

/// What runc is given.
pub(super) struct Place {
    pub bundle: PathBuf,
    etc: PathBuf,
    /// Kept open until runc has joined them.
    _namespaces: Namespaces,
}

impl Place {
    /// Fills in the files that only the host knows the content of; the container has them mounted already.
    pub fn name_hosts(&self, spec: &Spec) -> Result<(), Failure> {
        let written = etc_files(spec)
            .into_iter()
            .try_for_each(|(name, content)| fs::write(self.etc.join(name), content));
        written.map_err(Failure::host("write the container's /etc/hosts"))
    }
}

/// Makes the place; `connect` makes the new network namespace usable.
pub(super) fn make(
    home: &Home,
    spec: &Spec,
    connect: impl FnOnce(&Namespaces) -> Result<(), Failure>,
) -> Result<Place, Failure> {
    let namespaces = Namespaces::make(spec.ids())?;
    connect(&namespaces)?;
    let base = cover(home, spec)?;
    let rootfs = mount_root(home, spec, &base, &namespaces)?;
    let root = openat(
        AT_FDCWD,
        &rootfs,
        OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    );
    let root: OwnedFd = root.map_err(Failure::errno("open the container's root"))?;
    let account = Account::find(&root, &spec.user)?;
    let mut spec = spec.clone();
    if !spec.env.iter().any(|entry| entry.starts_with("HOME=")) {
        spec.env.push(format!("HOME={}", account.home));
    }
    let program = spec.command.first().map_or("", String::as_str);
    check_program(&root, program, &spec.env, &spec.working_dir)?;
    let etc = base.join("etc");
    make_etc(&etc, &spec)?;
    let own = |fd: &OwnedFd| PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd()));
    // Of a path below `/proc/<pid>` runc since 1.1.10 believes that the namespace is that process's own.
    let user_ns = base.join("userns");
    symlink(own(&namespaces.user), &user_ns).map_err(Failure::host("name the container's user namespace"))?;
    let document = runtime::document(
        &spec,
        &runtime::Place {
            rootfs: &rootfs,
            etc: &etc,
            user_ns,
            net_ns: own(&namespaces.net),
            user: &account.user,
            limit_swap: swap_is_counted(&spec),
            open_files: getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(_, hard)| hard.min(runtime::OPEN_FILES)),
        },
    );
    let bundle = directory(&base, "bundle")?;
    fs::write(bundle.join("config.json"), document.to_string())
        .map_err(Failure::host("write the container's bundle"))?;
    write_json(&home.file("shell.json"), &runtime::shell(&document["process"]))
        .map_err(Failure::host("write how a shell is started"))?;
    Ok(Place {
        bundle,
        etc,
        _namespaces: namespaces,
    })
}

/// Makes a directory of the name that the container's root has in its shim's place, in a mount namespace of this process's
/// own.
pub(super) fn stand_in(home: &Home, spec: &Spec) -> Result<(), Failure> {
    directory(&cover(home, spec)?, ROOT).map(drop)
}

/// Leaves the host's mounts and covers a directory with an empty tmpfs; returns it.
fn cover(home: &Home, spec: &Spec) -> Result<PathBuf, Failure> {
    let mut needed = vec![home.path(), spec.runc.as_path(), spec.events.as_path()];
    needed.extend(spec.lower.iter().map(PathBuf::as_path));
    let passable = |cover: &Path| fs::metadata(cover).is_ok_and(|m| m.is_dir());
    let unused = |cover: &Path| !needed.iter().any(|path| path.starts_with(cover));
    let cover = COVERS
        .map(Path::new)
        .into_iter()
        .find(|cover| passable(cover) && unused(cover));
    let cover = cover.ok_or_else(|| Failure {
        reason: format!(
            "containers need one of the directories {} that the data directory is not in",
            COVERS.join(", ")
        ),
        broken: false,
    })?;
    let none: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS).map_err(Failure::errno("make a mount namespace"))?;
    mount(none, "/", none, MsFlags::MS_SLAVE | MsFlags::MS_REC, none)
        .map_err(Failure::errno("leave the host's mounts"))?;
    mount(
        Some("tmpfs"),
        cover,
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some("mode=755,size=2m,nr_inodes=1k"),
    )
    .map_err(Failure::errno("mount a tmpfs"))?;
    Ok(cover.to_owned())
}

/// Mounts the image's layers with the container's writable one on top.
fn mount_root(home: &Home, spec: &Spec, base: &Path, namespaces: &Namespaces) -> Result<PathBuf, Failure> {
    let top = spec.lower.first().ok_or_else(|| Failure {
        reason: "the image has no layers".into(),
        broken: true,
    })?;
    let (upper, work) = disk::open(home, &directory(base, "disk")?)?;
    make_upper(&upper, top, spec).map_err(Failure::host("make the writable layer"))?;
    fs::create_dir_all(&work).map_err(Failure::host("make the writable layer"))?;
    // Mount options end at 4 KiB, so every layer gets a short name, relative to here.
    std::env::set_current_dir(base).map_err(Failure::host("enter the container's place"))?;
    let mut names = Vec::new();
    for (i, layer) in spec.lower.iter().enumerate() {
        let name = i.to_string();
        mount_shifted(layer, &directory(base, &name)?, namespaces.user.as_fd())?;
        names.push(name);
    }
    for (name, target) in [("u", &upper), ("w", &work)] {
        symlink(target, base.join(name)).map_err(Failure::host("name the writable layer"))?;
    }
    let rootfs = directory(base, ROOT)?;
    let options = overlay_options(&names.join(":"), "u", "w");
    mount(Some("overlay"), &rootfs, Some("overlay"), MsFlags::MS_NODEV, Some(options.as_str())).map_err(|error| {
        let hint = if error == nix::Error::EINVAL { " (the data directory's file system must support overlays with shifted owners: ext4, xfs or btrfs, Linux 5.19)" } else { "" };
        Failure { reason: format!("could not mount the container's root: {error}{hint}"), broken: false }
    })?;
    std::env::set_current_dir("/").map_err(Failure::host("leave the container's place"))?;
    Ok(rootfs)
}

/// The writable layer's own attributes are those of the container's `/`: the image's, shifted.
///
/// It appears under its name when it is complete: a shim may be killed at any moment.
fn make_upper(upper: &Path, top: &Path, spec: &Spec) -> io::Result<()> {
    if upper.exists() {
        return Ok(());
    }
    let new = upper.with_extension("new");
    match fs::remove_dir(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::create_dir(&new)?;
    let like = fs::metadata(top)?;
    let shift = |id: u32| Some(spec.ids().host_id(u16::try_from(id).unwrap_or(0)));
    chown(&new, shift(like.uid()), shift(like.gid()))?;
    fs::set_permissions(&new, fs::Permissions::from_mode(like.mode() & 0o7777))?;
    fs::rename(&new, upper)
}

/// The files that only the host knows the content of.
fn etc_files(spec: &Spec) -> [(&'static str, String); 3] {
    let mut hosts = String::from("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for address in spec.nics.iter().flat_map(|nic| &nic.addresses) {
        hosts.push_str(&format!("{}\t{}\n", address.addr(), spec.hostname));
    }
    let servers = spec.name_servers.iter();
    let resolv = servers.map(|server| format!("nameserver {server}\n")).collect();
    [
        ("hostname", format!("{}\n", spec.hostname)),
        ("hosts", hosts),
        ("resolv.conf", resolv),
    ]
}

/// Makes those files, still empty, for the container to have them mounted.
fn make_etc(etc: &Path, spec: &Spec) -> Result<(), Failure> {
    let make = || -> io::Result<()> {
        fs::create_dir(etc)?;
        let root = Some(spec.ids().host_id(0));
        for (name, _) in etc_files(spec) {
            let path = etc.join(name);
            fs::write(&path, [])?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
            chown(&path, root, root)?;
        }
        Ok(())
    };
    make().map_err(Failure::host("make the container's /etc/hosts"))
}

fn directory(base: &Path, name: &str) -> Result<PathBuf, Failure> {
    let path = base.join(name);
    fs::create_dir(&path).map_err(Failure::host("make a mount point"))?;
    Ok(path)
}

/// Whether a limit on swap can be set: always with version 2, with version 1 if the kernel was built for it.
fn swap_is_counted(spec: &Spec) -> bool {
    let hierarchies = Hierarchies::detect();
    if hierarchies.layout() == Layout::V2 {
        return true;
    }
    let Some(first) = Path::new(&spec.cgroup).components().next() else {
        return false;
    };
    let Ok(group) = Group::new(&hierarchies, first.as_os_str()) else {
        return false;
    };
    group
        .directories()
        .iter()
        .filter_map(|path| path.parent())
        .any(|root| root.join("memory.memsw.limit_in_bytes").exists())
}
