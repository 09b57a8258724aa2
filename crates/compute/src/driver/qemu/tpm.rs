//! A machine's trusted platform module: `swtpm`, a process beside its QEMU, under the same user and in the same group.
//!
//! They speak over a pair of sockets; when QEMU ends, its module ends too. What it keeps lies in a directory of the
//! machine's own, which it reaches by a descriptor alone, and stays until the machine is removed.

use std::{
    fs,
    io::ErrorKind,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{fs::PermissionsExt, net::UnixStream},
    },
};

use madang_host::{
    cgroup::Group,
    process::{Command, Stdio},
    workload::{DriverError, TpmVersion, Workload},
};

use super::record::{TPM, TPM_ERRORS};

/// What to do without it.
pub const REMEDY: &str = "install it with `apt-get install swtpm`";

/// Starts the module of a machine; the end of the wire that QEMU gets.
///
/// # Errors
/// `Host` where `swtpm` is not installed.
pub(super) async fn start(workload: &Workload, version: TpmVersion, group: &Group) -> Result<OwnedFd, DriverError> {
    let (dir, uid) = (workload.dir.join(TPM), workload.uid);
    let io = || DriverError::io(format!("make {}", dir.display()));
    match fs::create_dir(&dir) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(io()(error)),
        _ => {}
    }
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).map_err(io())?;
    own(&dir, uid)?;
    let state: OwnedFd = fs::File::open(&dir).map_err(io())?.into();
    let (ours, theirs) = UnixStream::pair().map_err(DriverError::io("make a pair of sockets"))?;
    let theirs: OwnedFd = theirs.into();
    let (errors, state_fd, control) = (workload.dir.join(TPM_ERRORS), state.as_raw_fd(), theirs.as_raw_fd());
    let _ = fs::remove_file(&errors);
    let mut command = Command::new("swtpm")
        .arg("socket")
        .arg("--tpmstate")
        .arg(format!("dir=/proc/self/fd/{state_fd},mode=0600"))
        .arg("--ctrl")
        .arg(format!("type=unixio,clientfd={control}"))
        .arg("--terminate");
    if version == TpmVersion::V2 {
        command = command.arg("--tpm2");
    }
    command
        .cgroup(group)
        .run_as(uid, uid, &[])
        .stderr(Stdio::Append(errors))
        .inherit(state)
        .inherit(theirs)
        .if_missing(REMEDY)
        .start()
        .await?;
    Ok(ours.into())
}

/// What an earlier run under another user id has kept belongs to this one.
fn own(dir: &std::path::Path, uid: u32) -> Result<(), DriverError> {
    let failed = || DriverError::io(format!("give {} to its machine", dir.display()));
    let entries = fs::read_dir(dir).map_err(failed())?;
    for path in entries.map_while(|entry| Some(entry.ok()?.path())) {
        std::os::unix::fs::lchown(&path, Some(uid), Some(uid)).map_err(failed())?;
    }
    std::os::unix::fs::lchown(dir, Some(uid), Some(uid)).map_err(failed())
}
