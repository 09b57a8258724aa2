//! Files as block devices (loop devices), for file systems of a bounded size.
//!
//! A device lives as long as something uses it: it is made to let go of its file by itself, so that nothing is left behind
//! when the process or mount namespace that used it ends.
#![allow(unsafe_code)] // loop devices and ext4 are spoken to by ioctl

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsRawFd, RawFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
};

use crate::{Error, Result};

/// Source: include/uapi/linux/loop.h.
const LOOP_SET_CAPACITY: libc::c_ulong = 0x4C07;
const LOOP_GET_STATUS64: libc::c_ulong = 0x4C05;
const LOOP_CONFIGURE: libc::c_ulong = 0x4C0A;
const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4C82;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
/// `_IOW('f', 16, __u64)`. Source: include/uapi/linux/ext4.h.
const EXT4_IOC_RESIZE_FS: libc::c_ulong = 0x4008_6610;
/// Another process may take the free device first; that often in a row means that something else is wrong.
const TRIES: u32 = 64;

/// `struct loop_info64`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

impl Info {
    fn zero() -> Self {
        // SAFETY: plain numbers, for which zero is a value.
        unsafe { std::mem::zeroed() }
    }
}

/// `struct loop_config`.
#[repr(C)]
struct Config {
    file: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

/// A loop device over a file.
#[derive(Debug)]
pub struct BlockFile {
    device: File,
    path: PathBuf,
}

impl BlockFile {
    /// The device of a file: the one that has it already, or a new one. It lets go of the file when it is neither open nor
    /// mounted any more.
    ///
    /// # Errors
    /// When the file cannot be opened, or the host has no loop devices.
    pub fn open(file: &Path) -> Result<Self> {
        if let Some(found) = Self::find(file)? {
            return Ok(found);
        }
        let action = || format!("use {} as a block device", file.display());
        let backing = File::options()
            .read(true)
            .write(true)
            .open(file)
            .map_err(Error::io(action()))?;
        let control = File::options()
            .read(true)
            .write(true)
            .open("/dev/loop-control")
            .map_err(Error::io("open /dev/loop-control (the kernel module `loop` makes it)"))?;
        for _ in 0..TRIES {
            let number = ask(control.as_raw_fd(), LOOP_CTL_GET_FREE).map_err(Error::io("find a free loop device"))?;
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let opened = File::options().read(true).write(true).open(&path);
            let device = opened.map_err(Error::io(format!("open {}", path.display())))?;
            let mut config = Config {
                file: backing.as_raw_fd() as u32,
                block_size: 0,
                info: Info::zero(),
                reserved: [0; 8],
            };
            config.info.flags = LO_FLAGS_AUTOCLEAR;
            match tell(device.as_raw_fd(), LOOP_CONFIGURE, (&raw mut config).cast()) {
                Ok(()) => return Ok(Self { device, path }),
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
                Err(error) => return Err(Error::io(action())(error)),
            }
        }
        Err(Error::io(action())(io::Error::from(io::ErrorKind::ResourceBusy)))
    }

    /// The device that has a file now, if one does.
    fn find(file: &Path) -> Result<Option<Self>> {
        let wanted = fs::metadata(file).map_err(Error::io(format!("look at {}", file.display())))?;
        let Ok(devices) = fs::read_dir("/sys/block") else {
            return Ok(None);
        };
        for name in devices.flatten().map(|entry| entry.file_name()) {
            let directory = Path::new("/sys/block").join(&name);
            // Only devices that have a file have this.
            if !directory.join("loop/backing_file").exists() {
                continue;
            }
            let path = Path::new("/dev").join(&name);
            let Ok(device) = File::options().read(true).write(true).open(&path) else {
                continue;
            };
            let mut info = Info::zero();
            let known = tell(device.as_raw_fd(), LOOP_GET_STATUS64, (&raw mut info).cast()).is_ok();
            if known && info.inode == wanted.ino() && info.device == kernel_number(wanted.dev()) {
                return Ok(Some(Self { device, path }));
            }
        }
        Ok(None)
    }

    /// The device's path, such as `/dev/loop7`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the file's new size over.
    pub fn follow_size(&self) -> Result<()> {
        ask(self.device.as_raw_fd(), LOOP_SET_CAPACITY)
            .map(drop)
            .map_err(Error::io(format!("give {} its new size", self.path.display())))
    }
}

/// Lets a mounted ext4 file system grow to `bytes`, while it is used. The kernel asks for CAP_SYS_RESOURCE.
pub fn grow_ext4(mounted: &Path, bytes: u64) -> Result<()> {
    let action = || {
        let needs = "while it is used; that needs the capability CAP_SYS_RESOURCE";
        format!(
            "let the file system at {} grow to {bytes} bytes {needs}",
            mounted.display()
        )
    };
    let root = File::open(mounted).map_err(Error::io(action()))?;
    let block = nix::sys::statfs::fstatfs(&root)
        .map_err(Error::io(action()))?
        .block_size();
    let mut blocks = bytes / u64::try_from(block).unwrap_or(4096).max(1);
    tell(root.as_raw_fd(), EXT4_IOC_RESIZE_FS, (&raw mut blocks).cast()).map_err(Error::io(action()))
}

/// A device number as the kernel counts it, from that of the C library. Source: `new_encode_dev` in include/linux/kdev_t.h.
fn kernel_number(device: u64) -> u64 {
    let (major, minor) = (u64::from(libc::major(device)), u64::from(libc::minor(device)));
    minor & 0xff | major << 8 | (minor & !0xff) << 12
}

fn ask(descriptor: RawFd, request: libc::c_ulong) -> io::Result<i32> {
    // SAFETY: a request without an argument on a descriptor that the caller holds open.
    let answer = unsafe { libc::ioctl(descriptor, request as _, 0) };
    if answer < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(answer)
    }
}

fn tell(descriptor: RawFd, request: libc::c_ulong, argument: *mut libc::c_void) -> io::Result<()> {
    // SAFETY: every caller passes the structure that the request is defined with, alive for the call.
    let answer = unsafe { libc::ioctl(descriptor, request as _, argument) };
    if answer < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_structures_have_their_sizes() {
        assert_eq!(size_of::<Info>(), 232);
        assert_eq!(size_of::<Config>(), 304);
    }

    #[test]
    fn device_numbers_are_told_as_the_kernel_does() {
        assert_eq!(kernel_number(libc::makedev(254, 1)), 254 << 8 | 1);
        assert_eq!(kernel_number(libc::makedev(8, 0x123)), 0x23 | 8 << 8 | 0x100 << 12);
    }

    #[test]
    fn root_a_file_has_one_device_and_lets_go_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        File::create(&path).unwrap().set_len(4 << 20).unwrap();
        let first = BlockFile::open(&path).unwrap();
        let second = BlockFile::open(&path).unwrap();
        assert_eq!(first.path(), second.path());
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(8 << 20)
            .unwrap();
        first.follow_size().unwrap();
        let sectors = Path::new("/sys/block")
            .join(first.path().file_name().unwrap())
            .join("size");
        assert_eq!(fs::read_to_string(sectors).unwrap().trim(), (8 << 11).to_string());
        drop((first, second));
        assert!(BlockFile::find(&path).unwrap().is_none());
    }
}
