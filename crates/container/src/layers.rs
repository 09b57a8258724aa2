//! Unpacked image layers, shared by all containers of this host.
//!
//! ```text
//! DIR/images/<archive digest>.json     how the image is run and which layers it has
//! DIR/layers/<chain id>/tree           one layer's files; with those of the layers below, the image
//! DIR/layers/<chain id>/unwritten      not yet known to be on the disk; holds the id of the boot that unpacked it
//! DIR/layers/.new-<random>             being unpacked; removed at the next start
//! DIR/layers.lock                      held (shared) by who unpacks, so that nobody takes their work for a leftover
//! ```
//! A layer is named by its chain id (a hash over it and all below it), because what unpacking it does may depend on
//! those below: each is applied to an overlay mount of the lower ones and keeps only what it changed. It appears under
//! its name by one rename, after its digests were compared. Writing it to the disk may take long and nobody waits for it:
//! until [`LayerStore::flush`] has done so it counts as unpacked only as long as the machine is up. Owners are the image's own; a
//! container sees them through a mount that shifts them into its range. The directory is root's alone, because there are
//! root's set-uid programs in it.
//!
//! All of this blocks: callers use the blocking pool. Mounts happen in a mount namespace of a thread made for it, so that
//! neither the host nor this process sees them, and none can be left behind.

pub(crate) mod pack;
pub(crate) mod unpack;

use std::{
    collections::{HashMap, HashSet},
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, SystemTime},
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tracing::{debug, info};

use self::unpack::{Limits, apply};
use crate::{
    archive::{Archive, ImageConfig, ImageError, LayerRef, sha256_hex, tape::Tape},
    files,
};

/// Files in a layer; a full desktop distribution has a third of it.
const MAX_ENTRIES: u64 = 1_000_000;
/// Bytes in a layer.
const MAX_BYTES: u64 = 32 << 30;
/// Layers used within this time are kept whatever happens: a start may be between finding them and saying so.
const MIN_KEEP: Duration = Duration::from_secs(120);

/// Marks a layer whose files may still be in memory only.
const UNWRITTEN: &str = "unwritten";

/// An image whose layers are unpacked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared {
    /// How it wants to be run.
    pub config: ImageConfig,
    /// Chain ids from the lowest layer to the highest.
    pub layers: Vec<String>,
}

/// The layers of one data directory.
pub struct LayerStore {
    layers: PathBuf,
    images: PathBuf,
    /// One lock per name that is being unpacked, so that the second to ask waits and finds it.
    busy: Mutex<HashMap<String, Arc<Mutex<()>>>>,
}

impl LayerStore {
    /// Opens (and makes, where missing) the store in `dir`, and removes what an interrupted unpacking left, or one that
    /// a power loss may have cut short.
    pub fn open(dir: &Path) -> Result<Self, ImageError> {
        let store = Self {
            layers: dir.join("layers"),
            images: dir.join("images"),
            busy: Mutex::default(),
        };
        for directory in [&store.layers, &store.images] {
            private_dir(directory)?;
        }
        let lock = store.lock_file()?;
        lock.lock().map_err(|e| ImageError::host("lock the layers", e))?;
        for entry in list(&store.layers)? {
            let path = store.layers.join(&entry);
            if entry.starts_with('.') || is_of_another_boot(&path)? {
                remove_tree(&path)?;
            }
        }
        Ok(store)
    }

    /// Where a layer's files are.
    pub fn tree(&self, layer: &str) -> PathBuf {
        self.layers.join(layer).join("tree")
    }

    /// Unpacks the archive's image, or finds it unpacked. `digest` is the archive's verified content hash (hex).
    ///
    /// # Errors
    /// [`ImageError::Broken`] if the archive is; [`ImageError::Host`] if this host has no space or no right to unpack.
    pub fn prepare(&self, archive: &Path, digest: &str) -> Result<Prepared, ImageError> {
        if digest.is_empty() || !digest.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(ImageError::Broken(format!(
                "{digest:?} is not the content hash of an archive"
            )));
        }
        // The second to ask for an image waits and finds it.
        let lock = self.lock_of(&format!("image {digest}"));
        let _held = lock.lock();
        let record = self.images.join(format!("{digest}.json"));
        if let Some(known) = files::read_json::<Prepared>(&record)
            .map_err(|e| ImageError::host(format!("read {}", record.display()), e))?
            && known.layers.iter().all(|layer| self.touch(layer))
        {
            return Ok(known);
        }
        let opened = Archive::open(archive, &self.layers)?;
        let image = opened.image()?;
        let mut layers: Vec<String> = Vec::with_capacity(image.layers.len());
        for layer in &image.layers {
            let name = chain(layers.last(), layer);
            self.ensure(&opened, layer, &name, &layers)?;
            layers.push(name);
        }
        let prepared = Prepared {
            config: image.config,
            layers,
        };
        files::write_json(&record, &prepared)
            .map_err(|e| ImageError::host(format!("write {}", record.display()), e))?;
        info!(
            image = digest,
            layers = prepared.layers.len(),
            "unpacked a container image"
        );
        Ok(prepared)
    }

    /// Writes newly unpacked layers to the disk, so that they outlive a power loss. May take long on a busy disk.
    pub fn flush(&self) -> Result<(), ImageError> {
        let markers = list(&self.layers)?
            .into_iter()
            .map(|layer| self.layers.join(layer).join(UNWRITTEN));
        let markers: Vec<PathBuf> = markers.filter(|marker| marker.exists()).collect();
        if markers.is_empty() {
            return Ok(());
        }
        let action = || format!("write {} to the disk", self.layers.display());
        let directory = File::open(&self.layers).map_err(|e| ImageError::host(action(), e))?;
        nix::unistd::syncfs(&directory).map_err(|e| ImageError::host(action(), e))?;
        for marker in markers {
            match fs::remove_file(&marker) {
                // Collected meanwhile.
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(ImageError::host(format!("remove {}", marker.display()), error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Removes layers that are neither in `used` nor were asked for within `keep`. Returns how many.
    pub fn collect(&self, used: &HashSet<String>, keep: Duration) -> Result<usize, ImageError> {
        let keep = keep.max(MIN_KEEP);
        let mut removed = 0;
        for layer in list(&self.layers)? {
            if layer.starts_with('.') || used.contains(&layer) {
                continue;
            }
            let lock = self.lock_of(&layer);
            let _held = lock.lock();
            let path = self.layers.join(&layer);
            if last_used(&path).is_none_or(|age| age < keep) {
                continue;
            }
            let doomed = self.layers.join(format!(".old-{layer}"));
            fs::rename(&path, &doomed).map_err(|e| ImageError::host(format!("remove layer {layer}"), e))?;
            remove_tree(&doomed)?;
            removed += 1;
            debug!(layer, "removed an unused image layer");
        }
        self.forget_images()?;
        Ok(removed)
    }

    /// Drops what is known of images that have lost a layer.
    fn forget_images(&self) -> Result<(), ImageError> {
        for name in list(&self.images)? {
            let record = self.images.join(&name);
            let whole = files::read_json::<Prepared>(&record)
                .ok()
                .flatten()
                .is_some_and(|i| i.layers.iter().all(|l| self.tree(l).exists()));
            if !whole {
                fs::remove_file(&record).map_err(|e| ImageError::host(format!("remove {}", record.display()), e))?;
            }
        }
        Ok(())
    }

    /// Notes that a layer is used now; false if it is not there.
    fn touch(&self, layer: &str) -> bool {
        let lock = self.lock_of(layer);
        let _held = lock.lock();
        let now = SystemTime::now();
        File::open(self.layers.join(layer))
            .and_then(|directory| directory.set_modified(now))
            .is_ok()
    }

    fn ensure(&self, archive: &Archive, layer: &LayerRef, name: &str, below: &[String]) -> Result<(), ImageError> {
        if self.touch(name) {
            return Ok(());
        }
        let lock = self.lock_of(name);
        let _held = lock.lock();
        let home = self.layers.join(name);
        if home.exists() {
            return Ok(());
        }
        let unpacking = self.lock_file()?;
        unpacking
            .lock_shared()
            .map_err(|e| ImageError::host("lock the layers", e))?;
        let new = self.layers.join(format!(".new-{}", uuid::Uuid::new_v4().simple()));
        let result = self
            .unpack(archive, layer, &new, below)
            .and_then(|()| match fs::rename(&new, &home) {
                // A start that nobody waits for any more still unpacks to its end: whoever is first names it.
                Err(_) if home.exists() => remove_tree(&new),
                named => named.map_err(|e| ImageError::host(format!("name layer {name}"), e)),
            });
        if result.is_err() {
            // The first error is the one to tell; leftovers go at the next start at the latest.
            let _ = remove_tree(&new);
        }
        result
    }

    fn lock_file(&self) -> Result<File, ImageError> {
        let path = self.layers.with_extension("lock");
        let opened = File::options().create(true).append(true).mode(0o600).open(&path);
        opened.map_err(|e| ImageError::host(format!("open {}", path.display()), e))
    }

    fn unpack(&self, archive: &Archive, layer: &LayerRef, new: &Path, below: &[String]) -> Result<(), ImageError> {
        private_dir(new)?;
        let tree = new.join("tree");
        fs::create_dir(&tree).map_err(|e| ImageError::host(format!("make {}", tree.display()), e))?;
        let lower: Vec<PathBuf> = below.iter().rev().map(|layer| self.tree(layer)).collect();
        match lower.first() {
            None => fs::set_permissions(&tree, fs::Permissions::from_mode(0o755))
                .map_err(|e| ImageError::host(format!("open {}", tree.display()), e))?,
            Some(top) => copy_root_attributes(top, &tree)?,
        }
        let mut tape = Tape::new(archive.layer(layer)?, MAX_ENTRIES);
        let limits = Limits {
            bytes: MAX_BYTES,
            owners: nix::unistd::geteuid().is_root(),
        };
        if lower.is_empty() {
            apply(&mut tape, &tree, limits)?;
        } else {
            let (new, tree) = (new.to_owned(), tree.clone());
            tape = in_mount_namespace(move || {
                let root = mount_over(&lower, &tree, &new)?;
                apply(&mut tape, &root, limits)?;
                Ok(tape)
            })?;
        }
        Archive::finish(tape.into_inner())?;
        let marker = new.join(UNWRITTEN);
        fs::write(&marker, boot_id()?).map_err(|e| ImageError::host(format!("write {}", marker.display()), e))?;
        for scratch in ["work", "mnt"] {
            remove_tree(&new.join(scratch))?;
        }
        Ok(())
    }

    fn lock_of(&self, name: &str) -> Arc<Mutex<()>> {
        let mut busy = self.busy.lock();
        busy.retain(|_, lock| Arc::strong_count(lock) > 1);
        busy.entry(name.to_owned()).or_default().clone()
    }
}

/// The chain id of a layer over those below. Source: OCI image specification, config.md, "Layer ChainID".
fn chain(below: Option<&String>, layer: &LayerRef) -> String {
    match below {
        None => layer.unpacked.hex.clone(),
        Some(below) => sha256_hex(format!("sha256:{below} {}", layer.unpacked).as_bytes()),
    }
}

/// Runs `work` on a thread whose mounts nobody else sees and which end with it.
pub(crate) fn in_mount_namespace<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    let thread = thread::Builder::new().name("mounts".into()).spawn(move || {
        unshare(CloneFlags::CLONE_NEWNS)
            .map_err(|e| ImageError::host("make a mount namespace (containers need root)", e))?;
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_SLAVE | MsFlags::MS_REC, none)
            .map_err(|e| ImageError::host("detach the mount namespace", e))?;
        work()
    });
    match thread.map_err(|e| ImageError::host("start a thread", e))?.join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Mounts an overlay of `lower` (highest first) with `upper` as the writable layer; returns where.
fn mount_over(lower: &[PathBuf], upper: &Path, new: &Path) -> Result<PathBuf, ImageError> {
    let fail = |what: &'static str| move |e: nix::Error| ImageError::host(what, e);
    let none: Option<&str> = None;
    let (work, mnt) = (new.join("work"), new.join("mnt"));
    for directory in [&work, &mnt] {
        private_dir(directory)?;
    }
    // Mount options end at 4 KiB: every layer gets a short name.
    mount(
        Some("tmpfs"),
        &mnt,
        Some("tmpfs"),
        MsFlags::empty(),
        Some("mode=700,size=1m"),
    )
    .map_err(fail("mount a tmpfs"))?;
    let short = |name: &str| -> Result<PathBuf, ImageError> {
        let path = mnt.join(name);
        fs::create_dir(&path).map_err(|e| ImageError::host("make a mount point", e))?;
        Ok(path)
    };
    for (i, layer) in lower.iter().enumerate() {
        mount(Some(layer), &short(&i.to_string())?, none, MsFlags::MS_BIND, none).map_err(fail("bind a layer"))?;
    }
    for (name, directory) in [("u", upper), ("w", work.as_path())] {
        std::os::unix::fs::symlink(directory, mnt.join(name)).map_err(|e| ImageError::host("name a layer", e))?;
    }
    let root = short("r")?;
    std::env::set_current_dir(&mnt).map_err(|e| ImageError::host("enter the mount namespace", e))?;
    let names: Vec<String> = (0..lower.len()).map(|i| i.to_string()).collect();
    let options = overlay_options(&names.join(":"), "u", "w");
    mount(
        Some("overlay"),
        &root,
        Some("overlay"),
        MsFlags::MS_NODEV,
        Some(options.as_str()),
    )
    .map_err(fail(
        "mount an overlay (the data directory's file system must support being its upper layer)",
    ))?;
    Ok(root)
}

/// Overlay options that never write anything but plain whiteouts and opaque markers into the upper layer, whatever the
/// kernel's own defaults are.
pub(crate) fn overlay_options(lower: &str, upper: &str, work: &str) -> String {
    format!("lowerdir={lower},upperdir={upper},workdir={work},redirect_dir=off,metacopy=off,index=off")
}

fn copy_root_attributes(from: &Path, to: &Path) -> Result<(), ImageError> {
    let fail = |e: io::Error| ImageError::host(format!("copy the attributes of {}", from.display()), e);
    let top = fs::metadata(from).map_err(fail)?;
    chown(to, Some(top.uid()), Some(top.gid())).map_err(fail)?;
    fs::set_permissions(to, top.permissions()).map_err(fail)
}

fn last_used(path: &Path) -> Option<Duration> {
    fs::metadata(path).and_then(|m| m.modified()).ok()?.elapsed().ok()
}

pub(crate) fn private_dir(path: &Path) -> Result<(), ImageError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|e| ImageError::host(format!("make {}", path.display()), e))
}

/// Which start of the machine this is.
fn boot_id() -> Result<String, ImageError> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    id.map_err(|e| ImageError::host("read the id of this boot", e))
}

/// Whether a layer was not known to be on the disk when the machine went down.
fn is_of_another_boot(layer: &Path) -> Result<bool, ImageError> {
    match fs::read_to_string(layer.join(UNWRITTEN)) {
        Ok(boot) => Ok(boot != boot_id()?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(ImageError::host(format!("read {}", layer.display()), error)),
    }
}

fn list(path: &Path) -> Result<Vec<String>, ImageError> {
    let fail = |e| ImageError::host(format!("list {}", path.display()), e);
    let mut names = Vec::new();
    for entry in fs::read_dir(path).map_err(fail)? {
        names.extend(entry.map_err(fail)?.file_name().into_string());
    }
    Ok(names)
}

fn remove_tree(path: &Path) -> Result<(), ImageError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(ImageError::host(format!("remove {}", path.display()), error))
        }
        _ => Ok(()),
    }
}
