//! The writable layer of a container: a directory in a file system of its own, as large as its flavor says.
//!
//! ```text
//! DIR/blank/<bytes>.img            an empty file system of that size, made once; sparse, about a megabyte of it on the disk
//! <container>/disk.img             a copy of it, with `upper` and `work` of the overlay inside once it has run
//! ```
//! The driver makes the file, the shim mounts it in its own mount namespace, where it ends with the container. Only the
//! kernel ever writes to it, so that what is mounted is what was made here. Whoever needs the layer beside the shim mounts
//! the same block device again, never the file a second time.
//!
//! A container without a bound (a flavor without a disk, a host without loop devices or `mkfs.ext4`) has the two as plain
//! directories beside its other files; so has one that was made before there were bounds.

use std::{
    fs::{self, File},
    io::{self, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use madang_host::{
    blockfile::{self, BlockFile},
    process::{Command, find_program},
    workload::DriverError,
};
use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    unistd::{Whence, lseek},
};

use crate::{
    archive::ImageError,
    layers::{in_mount_namespace, private_dir},
    record::Home,
};

/// The container's file system.
const FILE: &str = "disk.img";
/// Making a file system takes 20 ms; a busy disk may take its time.
const MAKE_WITHIN: Duration = Duration::from_secs(60);
/// Growing one takes as long, its check longer the more is in it.
const GROW_WITHIN: Duration = Duration::from_secs(600);
/// The smallest file system that has room for a container's first files; smaller ones get this.
const SMALLEST: u64 = 64 << 20;

/// Whether this host can bound writable layers.
pub(crate) fn is_bounded() -> Result<(), &'static str> {
    if find_program("mkfs.ext4").is_none() {
        return Err("mkfs.ext4 is not installed (Debian's package e2fsprogs has it)");
    }
    if !Path::new("/dev/loop-control").exists() {
        return Err("/dev/loop-control is missing (the kernel module `loop` makes it)");
    }
    Ok(())
}

/// The directory of empty file systems.
pub(crate) struct Blanks {
    directory: PathBuf,
    making: tokio::sync::Mutex<()>,
}

impl Blanks {
    /// In this directory, which is made.
    pub fn open(directory: PathBuf) -> Result<Self, ImageError> {
        private_dir(&directory)?;
        Ok(Self {
            directory,
            making: tokio::sync::Mutex::default(),
        })
    }

    /// An empty file system of at least `bytes`.
    pub async fn of_size(&self, bytes: u64) -> Result<PathBuf, DriverError> {
        let bytes = bytes.max(SMALLEST);
        let path = self.directory.join(format!("{bytes}.img"));
        if path.exists() {
            return Ok(path);
        }
        let _one = self.making.lock().await;
        if path.exists() {
            return Ok(path);
        }
        let new = path.with_extension("new");
        let make = || -> io::Result<()> {
            let file = File::options()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&new)?;
            file.set_len(bytes)
        };
        make().map_err(DriverError::io(format!("make {}", new.display())))?;
        // Nothing is zeroed: the file is empty, and stays sparse.
        let command = Command::new("mkfs.ext4")
            .args(["-q", "-F", "-m", "0", "-O", "^resize_inode,meta_bg"])
            .args(["-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", "-J", "size=8"])
            .arg(&new);
        command.run(MAKE_WITHIN).await.map_err(DriverError::from)?;
        fs::rename(&new, &path).map_err(DriverError::io(format!("name {}", path.display())))?;
        Ok(path)
    }
}

/// Gives a container its file from a blank one, unless it has one.
pub(crate) fn make(home: &Home, blank: &Path) -> Result<(), DriverError> {
    let path = home.file(FILE);
    if path.exists() || home.file("upper").exists() {
        return Ok(());
    }
    let new = path.with_extension("new");
    let copied = copy(blank, &new).and_then(|()| fs::rename(&new, &path));
    copied.map_err(DriverError::io(format!("make {}", path.display())))
}

/// Copies what is written of a sparse file.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let from = File::open(from)?;
    let mut to = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(to)?;
    to.set_len(from.metadata()?.len())?;
    let mut at: i64 = 0;
    loop {
        let start = match lseek(&from, at, Whence::SeekData) {
            Ok(start) => start,
            Err(Errno::ENXIO) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        at = lseek(&from, start, Whence::SeekHole)?;
        let mut piece = vec![0; usize::try_from(at - start).unwrap_or(0)];
        from.read_exact_at(&mut piece, start as u64)?;
        to.seek(SeekFrom::Start(start as u64))?;
        to.write_all(&piece)?;
    }
}

/// Lets the file system of a container that is off grow to `bytes`. Its own check comes first, as the tools want it.
pub(crate) async fn grow_offline(home: &Home, bytes: u64) -> Result<(), DriverError> {
    let file = home.file(FILE);
    if !file.exists() || size_of(&file)? >= bytes {
        return Ok(());
    }
    let check = Command::new("e2fsck")
        .args(["-f", "-p"])
        .arg(&file)
        .output(GROW_WITHIN)
        .await?;
    // 1 is "errors were corrected". Source: e2fsck(8).
    if check.code > 1 {
        let said = String::from_utf8_lossy(&check.stdout).trim().to_owned();
        return Err(DriverError::Host(format!("the container's disk is damaged: {said}")));
    }
    lengthen(&file, bytes)?;
    Command::new("resize2fs").arg(&file).run(GROW_WITHIN).await?;
    Ok(())
}

/// Lets the file system of a container that runs grow to `bytes`.
pub(crate) fn grow_online(home: &Home, bytes: u64) -> Result<(), DriverError> {
    let file = home.file(FILE);
    if !file.exists() || size_of(&file)? >= bytes {
        return Ok(());
    }
    lengthen(&file, bytes)?;
    BlockFile::open(&file)?.follow_size()?;
    let onto = home.file("mounted");
    let grown = with(home, move |_| Ok(blockfile::grow_ext4(&onto, bytes)));
    grown.map_err(crate::driver::image)?.map_err(DriverError::from)
}

fn lengthen(file: &Path, bytes: u64) -> Result<(), DriverError> {
    let opened = File::options().write(true).open(file);
    let grown = opened.and_then(|opened| match opened.metadata()?.len() < bytes {
        true => opened.set_len(bytes),
        false => Ok(()),
    });
    grown.map_err(DriverError::io(format!("grow {} to {bytes} bytes", file.display())))
}

/// The size of the file system in a file, which may be less than the file's. Source: Linux,
/// Documentation/filesystems/ext4/super.rst.
fn size_of(file: &Path) -> Result<u64, DriverError> {
    const SUPERBLOCK: u64 = 1024;
    let mut superblock = [0; 0x154];
    let read = File::open(file).and_then(|file| file.read_exact_at(&mut superblock, SUPERBLOCK));
    read.map_err(DriverError::io(format!("read the file system in {}", file.display())))?;
    let number = |at: usize| {
        u32::from_le_bytes([
            superblock[at],
            superblock[at + 1],
            superblock[at + 2],
            superblock[at + 3],
        ])
    };
    let blocks = u64::from(number(0x4)) | u64::from(number(0x150)) << 32;
    Ok(blocks << (10 + number(0x18).min(6)))
}

/// Where the overlay's two directories are, after mounting what has to be mounted on `onto`.
pub(crate) fn open(home: &Home, onto: &Path) -> Result<(PathBuf, PathBuf), ImageError> {
    let file = home.file(FILE);
    if !file.exists() {
        return Ok((home.file("upper"), home.file("work")));
    }
    let device = BlockFile::open(&file)
        .map_err(|error| ImageError::host("open the container's disk", io::Error::other(error.chain())))?;
    mount(
        Some(device.path()),
        onto,
        Some("ext4"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOATIME,
        Some("noinit_itable"),
    )
    .map_err(|e| ImageError::host("mount the container's disk", e))?;
    Ok((onto.join("upper"), onto.join("work")))
}

/// Runs `work` on the overlay's upper directory, which may not exist yet, beside the shim.
pub(crate) fn with<T: Send + 'static>(
    home: &Home,
    work: impl FnOnce(&Path) -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    let home = home.clone();
    in_mount_namespace(move || {
        let onto = home.file("mounted");
        private_dir(&onto)?;
        let (upper, _) = open(&home, &onto)?;
        work(&upper)
    })
}
