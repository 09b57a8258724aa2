//! Tap devices: the network's agent makes one per port, the driver opens it and hands the descriptor to QEMU.
#![allow(unsafe_code)] // the tun driver is spoken to by ioctl

use std::{
    fs::{File, OpenOptions},
    io,
    os::fd::{AsRawFd, OwnedFd},
    os::unix::fs::OpenOptionsExt,
};

use crate::{Error, Result, link::check_name, netns::Netns};

/// Makes a persistent tap with offload headers in the namespace. Succeeds when it is there already.
pub async fn ensure(netns: &Netns, name: &str) -> Result<()> {
    check_name(name)?;
    let action = format!("make tap {name}");
    let device = name.to_owned();
    let made = netns.run(move || {
        let tap = attach(&device)?;
        // SAFETY: takes its argument by value.
        match unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETPERSIST, 1) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    });
    match made.await? {
        Ok(()) => Ok(()),
        // EBUSY: it is there and a machine has it open.
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok(()),
        Err(source) => Err(Error::Io { action, source }),
    }
}

/// Opens the existing tap `name` of the namespace; whoever holds the descriptor is at the other end of the wire.
///
/// Errors with "busy" while somebody else has it open, with "not found" when there is no such device.
pub async fn open(netns: &Netns, name: &str) -> Result<OwnedFd> {
    check_name(name)?;
    let action = format!("open tap {name}");
    let device = name.to_owned();
    let opened = netns.run(move || {
        // Attaching to a name that does not exist would make a device.
        if nix::net::if_::if_nametoindex(device.as_str()).is_err() {
            return Err(io::Error::from_raw_os_error(libc::ENODEV));
        }
        attach(&device)
    });
    opened
        .await?
        .map(OwnedFd::from)
        .map_err(|source| Error::Io { action, source })
}

/// Whether somebody has the tap `name` of the namespace open. What is not there, or no tap, nobody has open.
pub async fn is_open(netns: &Netns, name: &str) -> Result<bool> {
    check_name(name)?;
    let device = name.to_owned();
    let tried = netns.run(move || match nix::net::if_::if_nametoindex(device.as_str()) {
        Ok(_) => attach(&device).err().and_then(|error| error.raw_os_error()),
        Err(_) => None,
    });
    Ok(tried.await? == Some(libc::EBUSY))
}

fn attach(name: &str) -> io::Result<File> {
    let tap = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")?;
    // SAFETY: all-zero is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    // SAFETY: the request is a whole `ifreq` that outlives the call; `check_name` left room for the final zero.
    if unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETIFF as _, &request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(tap)
}
