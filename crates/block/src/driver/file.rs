//! The `file` back end: qcow2 files in one directory of the host, which grow as they are written to.
//!
//! ```text
//! layers/<uid>.qcow2   a layer; what it stands on is named relative to it
//! layers/<uid>.raw     an image that is plain bytes, hard-linked from the host's image cache
//! scratch/             files on their way elsewhere
//! unmanaged/           files of the host that can become volumes, and what volumes were left as
//! ```
//! Making a layer writes a few kilobytes, whatever its size. Files belong to root, mode 0600; a guest gets descriptors.
//! A file has its final name only when it is whole and durable.

mod qcow2;

use std::{
    collections::HashSet,
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{ErrorKind, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use madang_host::process::Command;
use uuid::Uuid;

use super::{BackEnd, BackEndError, Capacity, LayerFile, Stranger, blocking};
use crate::layer::LayerFormat;

/// A size is changed in the file's header.
const QUICK: Duration = Duration::from_secs(60);
/// Copying a terabyte takes hours.
const SLOW: Duration = Duration::from_secs(6 * 3600);
/// Address space of a `qemu-img`: what it needs is tens of megabytes, whatever a file says of itself.
const ADDRESS_SPACE: u64 = 4 << 30;
/// `RLIMIT_AS` of Linux. Source: getrlimit(2).
const RLIMIT_AS: u32 = 9;
/// What ends the name of a file that is not whole.
const PARTIAL: &str = ".part";
const REMEDY: &str = "install it with `apt-get install qemu-utils`";

/// Layers as files below a directory.
pub struct FileBackEnd {
    directory: PathBuf,
}

impl FileBackEnd {
    /// The back end over `directory`, made when it is not there.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(directory: &Path) -> Result<Self, BackEndError> {
        for below in ["layers", "scratch", "unmanaged"] {
            let path = directory.join(below);
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&path)
                .map_err(BackEndError::io(format!("make {}", path.display())))?;
        }
        Ok(Self {
            directory: directory.to_owned(),
        })
    }

    fn layers(&self) -> PathBuf {
        self.directory.join("layers")
    }

    fn unmanaged(&self) -> PathBuf {
        self.directory.join("unmanaged")
    }

    fn file(&self, layer: LayerFile) -> PathBuf {
        self.layers().join(file_name(layer))
    }

    /// Gives a layer that is whole its name, durably.
    async fn finish(&self, layer: LayerFile, partial: PathBuf) -> Result<LayerFile, BackEndError> {
        let path = self.file(layer);
        blocking(move || {
            let end = || -> std::io::Result<()> {
                fs::set_permissions(&partial, Permissions::from_mode(0o600))?;
                File::open(&partial)?.sync_all()?;
                fs::rename(&partial, &path)?;
                sync_parent(&path)
            };
            end().map_err(BackEndError::io(format!("write {}", path.display())))?;
            Ok(layer)
        })
        .await
    }

    async fn write(&self, uid: Uuid, bytes: Vec<u8>, length: u64) -> Result<LayerFile, BackEndError> {
        let layer = LayerFile {
            uid,
            format: LayerFormat::Qcow2,
        };
        let (path, partial) = (self.file(layer), self.layers().join(format!("{uid}.part")));
        blocking(move || {
            if path.exists() {
                return Ok(layer);
            }
            let write = || -> std::io::Result<()> {
                let mut file = OpenOptions::new()
                    .write(true)
                    .create(true)
                    .truncate(true)
                    .mode(0o600)
                    .open(&partial)?;
                file.write_all(&bytes)?;
                file.set_len(length)?;
                file.sync_all()?;
                fs::rename(&partial, &path)?;
                sync_parent(&path)
            };
            write().map_err(BackEndError::io(format!("write {}", path.display())))?;
            Ok(layer)
        })
        .await
    }
}

/// The name of a file in a directory, and nothing that leads out of it.
fn plain_name(name: &str) -> Result<&str, BackEndError> {
    let is_plain = !name.is_empty() && !name.contains(['/', '\0']) && !name.starts_with('.') && name.len() < 250;
    is_plain
        .then_some(name)
        .ok_or_else(|| BackEndError::Broken(format!("{name:?} is not the name of a file")))
}

/// What a file of the host is, and how large the disk is that it holds.
fn look(path: &Path) -> Result<(LayerFormat, u64), BackEndError> {
    let broken = || BackEndError::io(format!("look at {}", path.display()));
    let about = fs::symlink_metadata(path).map_err(broken())?;
    if !about.is_file() {
        return Err(BackEndError::Broken(format!("{} is not a file", path.display())));
    }
    if !qcow2::is_one(path)? {
        return Ok((LayerFormat::Raw, about.len()));
    }
    qcow2::check_alone(path)?;
    Ok((LayerFormat::Qcow2, qcow2::size(path)?))
}

/// A path among QEMU's options, where a comma is written twice.
fn doubled(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

fn file_name(layer: LayerFile) -> String {
    let ending = layer.format.as_str();
    format!("{}.{ending}", layer.uid)
}

fn sync_parent(path: &Path) -> std::io::Result<()> {
    path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

/// Runs `qemu-img` where it can neither take all memory nor gain rights.
async fn qemu_img(args: Vec<std::ffi::OsString>, doing: String, timeout: Duration) -> Result<(), BackEndError> {
    let run = Command::new("qemu-img")
        .args(args)
        .limit(RLIMIT_AS, ADDRESS_SPACE)
        .no_new_privileges()
        .if_missing(REMEDY)
        .run(timeout);
    match run.await {
        Ok(_) => Ok(()),
        Err(madang_host::Error::Command { message, .. }) if message.contains("No space left") => {
            Err(BackEndError::Full(doing))
        }
        Err(error @ madang_host::Error::Command { .. }) => {
            Err(BackEndError::Broken(format!("could not {doing}: {error}")))
        }
        Err(error) => Err(BackEndError::Failed {
            action: doing,
            reason: error.chain(),
        }),
    }
}

#[async_trait]
impl BackEnd for FileBackEnd {
    fn name(&self) -> &'static str {
        "file"
    }

    async fn make_blank(&self, uid: Uuid, bytes: u64) -> Result<LayerFile, BackEndError> {
        let (head, length) = qcow2::head(bytes, None);
        self.write(uid, head, length).await
    }

    async fn make_over(&self, uid: Uuid, base: LayerFile, bytes: u64) -> Result<LayerFile, BackEndError> {
        if !self.file(base).exists() {
            return Err(BackEndError::Broken(format!("layer {} is gone", base.uid)));
        }
        let name = file_name(base);
        let (head, length) = qcow2::head(bytes, Some((&name, base.format.as_str())));
        self.write(uid, head, length).await
    }

    async fn merge(&self, uid: Uuid, top: LayerFile, base: Option<LayerFile>) -> Result<LayerFile, BackEndError> {
        let layer = LayerFile {
            uid,
            format: LayerFormat::Qcow2,
        };
        let (path, partial) = (self.file(layer), self.layers().join(format!("{uid}.part")));
        if path.exists() {
            return Ok(layer);
        }
        let doing = format!("merge the layers below {}", top.uid);
        // Somebody may attach the volume meanwhile, and must not find it locked: what is read then is not used.
        let Some(base) = base else {
            let mut args = ["convert", "-q", "-U", "-f", top.format.as_str(), "-O", "qcow2"]
                .map(Into::into)
                .to_vec();
            args.extend([self.file(top).into(), partial.clone().into()]);
            qemu_img(args, doing, SLOW).await?;
            return self.finish(layer, partial).await;
        };
        // An empty layer over what is there, which is then told to stand on the base: what differs comes into it.
        let (of, empty, name) = (self.file(top), partial.clone(), file_name(top));
        blocking(move || {
            let (head, length) = qcow2::head(qcow2::size(&of)?, Some((&name, top.format.as_str())));
            let write = || -> std::io::Result<()> {
                let mut file = OpenOptions::new()
                    .write(true)
                    .create(true)
                    .truncate(true)
                    .mode(0o600)
                    .open(&empty)?;
                file.write_all(&head)?;
                file.set_len(length)
            };
            write().map_err(BackEndError::io(format!("write {}", empty.display())))
        })
        .await?;
        let opened = format!(
            "driver=qcow2,file.driver=file,file.filename={},backing.driver={},backing.force-share=on,\
             backing.file.driver=file,backing.file.filename={}",
            doubled(&partial),
            top.format.as_str(),
            doubled(&self.file(top)),
        );
        let mut args = ["rebase", "-q", "--image-opts", "-F", base.format.as_str(), "-b"]
            .map(Into::into)
            .to_vec();
        args.extend([self.file(base).into(), opened.into()]);
        qemu_img(args, doing.clone(), SLOW).await?;
        // Named relative to the new file, as every layer names what it stands on.
        let mut args = ["rebase", "-q", "-u", "-f", "qcow2", "-F", base.format.as_str(), "-b"]
            .map(Into::into)
            .to_vec();
        args.extend([file_name(base).into(), partial.clone().into()]);
        qemu_img(args, doing, QUICK).await?;
        self.finish(layer, partial).await
    }

    async fn take_image(&self, uid: Uuid, image: &Path, format: &str) -> Result<LayerFile, BackEndError> {
        let kept = match format {
            "raw" | "iso" | "ami" | "ari" | "aki" => Some(LayerFormat::Raw),
            "qcow2" => Some(LayerFormat::Qcow2),
            _ => None,
        };
        let layer = LayerFile {
            uid,
            format: kept.unwrap_or(LayerFormat::Qcow2),
        };
        let (path, partial) = (self.file(layer), self.layers().join(format!("{uid}.part")));
        if path.exists() {
            return Ok(layer);
        }
        let from = image.to_owned();
        if kept.is_some() {
            let to = partial.clone();
            blocking(move || {
                if layer.format == LayerFormat::Qcow2 {
                    qcow2::check_alone(&from)?;
                }
                link_or_copy(&from, &to).map_err(BackEndError::io(format!("take the image {}", from.display())))
            })
            .await?;
        } else {
            let of = match format {
                "vhd" => "vpc",
                other => other,
            };
            let args = ["convert", "-q", "-f", of, "-O", "qcow2"].map(Into::into);
            let args = args.into_iter().chain([from.clone().into(), partial.clone().into()]);
            qemu_img(args.collect(), format!("convert the image from {format}"), SLOW).await?;
        }
        blocking(move || {
            let end = || -> std::io::Result<()> {
                File::open(&partial)?.sync_all()?;
                fs::rename(&partial, &path)?;
                sync_parent(&path)
            };
            end().map_err(BackEndError::io(format!("write {}", path.display())))
        })
        .await?;
        Ok(layer)
    }

    async fn grow(&self, layer: LayerFile, bytes: u64) -> Result<(), BackEndError> {
        let path = self.file(layer);
        let at = path.clone();
        let is = blocking(move || qcow2::size(&at)).await?;
        if is >= bytes {
            return Ok(());
        }
        let mut args = vec!["resize".into(), "-q".into(), "-f".into(), layer.format.as_str().into()];
        args.extend([path.clone().into(), bytes.to_string().into()]);
        qemu_img(args, format!("grow layer {}", layer.uid), QUICK).await?;
        blocking(move || {
            File::open(&path)
                .and_then(|file| file.sync_all())
                .map_err(BackEndError::io(format!("write {}", path.display())))
        })
        .await
    }

    async fn export(&self, layer: LayerFile, into: &Path, format: &str) -> Result<(), BackEndError> {
        let of = match format {
            "vhd" => "vpc",
            "iso" | "ami" | "ari" | "aki" => "raw",
            other => other,
        };
        let mut args = ["convert", "-q", "-f", layer.format.as_str(), "-O", of]
            .map(Into::into)
            .to_vec();
        args.extend([self.file(layer).into(), into.to_owned().into()]);
        qemu_img(args, format!("export layer {} as {format}", layer.uid), SLOW).await?;
        let into = into.to_owned();
        blocking(move || {
            fs::set_permissions(&into, Permissions::from_mode(0o600))
                .and_then(|()| File::open(&into)?.sync_all())
                .map_err(BackEndError::io(format!("write {}", into.display())))
        })
        .await
    }

    async fn strangers(&self) -> Result<Vec<Stranger>, BackEndError> {
        let directory = self.unmanaged();
        blocking(move || {
            let broken = || BackEndError::io(format!("look through {}", directory.display()));
            let mut known = Vec::new();
            for entry in fs::read_dir(&directory).map_err(broken())? {
                let entry = entry.map_err(broken())?;
                let is_file = entry.file_type().map_err(broken())?.is_file();
                let Ok(name) = entry.file_name().into_string() else {
                    continue;
                };
                if is_file && !name.ends_with(PARTIAL) {
                    let (_, bytes) = look(&entry.path())?;
                    known.push(Stranger { name, bytes });
                }
            }
            Ok(known)
        })
        .await
    }

    async fn adopt(&self, uid: Uuid, name: &str) -> Result<LayerFile, BackEndError> {
        let path = self.unmanaged().join(plain_name(name)?);
        let from = path.clone();
        let (format, _) = blocking(move || look(&from)).await?;
        self.take_image(uid, &path, format.as_str()).await
    }

    async fn forget(&self, name: &str) -> Result<(), BackEndError> {
        let path = self.unmanaged().join(plain_name(name)?);
        blocking(move || match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(BackEndError::io(format!("remove {}", path.display()))(error))
            }
            _ => Ok(()),
        })
        .await
    }

    async fn leave(&self, layer: LayerFile, name: &str) -> Result<(), BackEndError> {
        let path = self.unmanaged().join(plain_name(name)?);
        let partial = self.unmanaged().join(format!("{name}{PARTIAL}"));
        self.export(layer, &partial, "qcow2").await?;
        blocking(move || {
            fs::rename(&partial, &path)
                .and_then(|()| sync_parent(&path))
                .map_err(BackEndError::io(format!("write {}", path.display())))
        })
        .await
    }

    async fn remove(&self, layer: LayerFile) -> Result<(), BackEndError> {
        let path = self.file(layer);
        blocking(move || match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(BackEndError::io(format!("remove {}", path.display()))(error))
            }
            _ => Ok(()),
        })
        .await
    }

    async fn sweep(&self, keep: &HashSet<Uuid>) -> Result<(), BackEndError> {
        let (layers, scratch, keep) = (self.layers(), self.scratch(), keep.clone());
        blocking(move || {
            let needed = |name: &str| {
                let (uid, ending) = name.split_once('.').unwrap_or((name, ""));
                ending != "part" && uid.parse().is_ok_and(|uid: Uuid| keep.contains(&uid))
            };
            remove_unless(&layers, needed)?;
            remove_unless(&scratch, |_| false)
        })
        .await
    }

    fn path(&self, layer: LayerFile) -> PathBuf {
        self.file(layer)
    }

    fn scratch(&self) -> PathBuf {
        self.directory.join("scratch")
    }

    fn capacity(&self) -> Capacity {
        let room = madang_host::capability::capacity(&self.directory);
        room.map_or_else(
            |_| Capacity::default(),
            |room| Capacity {
                total: room.disk_bytes,
                free: room.disk_free_bytes,
            },
        )
    }
}

/// A second name for a file, or a copy where there cannot be one.
fn link_or_copy(from: &Path, to: &Path) -> std::io::Result<()> {
    match fs::remove_file(to) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::hard_link(from, to).or_else(|_| fs::copy(from, to).map(|_| ()))
}

fn remove_unless(directory: &Path, is_needed: impl Fn(&str) -> bool) -> Result<(), BackEndError> {
    let broken = || BackEndError::io(format!("look through {}", directory.display()));
    for entry in fs::read_dir(directory).map_err(broken())? {
        let entry = entry.map_err(broken())?;
        if !entry.file_name().to_str().is_some_and(&is_needed) {
            tracing::info!(file = %entry.path().display(), "removing what no layer names");
            fs::remove_file(entry.path()).map_err(broken())?;
        }
    }
    Ok(())
}
