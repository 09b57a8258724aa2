//! Starting a machine: everything is opened here, with our rights, and handed down to a process that has none.

use std::{
    fs,
    os::{
        fd::{AsRawFd, OwnedFd, RawFd},
        unix::{fs::PermissionsExt, net::UnixListener},
    },
    path::Path,
    sync::Arc,
};

use madang_host::{
    acceleration::{Acceleration, QEMU, QEMU_REMEDY},
    cgroup::{Layout, Limits},
    netns::Netns,
    process::{Command, Stdio},
    tap,
    workload::{DiskFormat, DriverError, Root, Workload},
};
use nix::libc;

use super::{
    Host,
    arguments::{self, Descriptors, TRANSLATED_MIB},
    disk,
    machine::{Machine, Phase},
    record::{self, DISK, ERRORS, End, MONITOR, Record},
};

/// Memory QEMU needs beside the guest's, in bytes: its own code and data, device queues, and room for the page cache of
/// the disk. A machine beyond its limit is ended by the kernel.
const OVERHEAD_BYTES: u64 = 256 << 20;

/// Processors beside the guest's for QEMU's own threads.
const OVERHEAD_CPUS: f64 = 0.5;

/// Threads beside the guest's processors: 64 of the disk's pool and a few more.
const OVERHEAD_THREADS: u64 = 96;

/// Open files: descriptors of the start, of the disk's pool, of migrations to come.
const OPEN_FILES: u64 = 1024;

/// Starts a machine and waits until it runs.
pub(super) async fn start(host: &Arc<Host>, workload: &Workload) -> Result<Arc<Machine>, DriverError> {
    let Root::Disk {
        base,
        format,
        size_bytes,
        kernel,
        ramdisk,
        ..
    } = &workload.root
    else {
        return Err(DriverError::Unsupported {
            driver: "qemu",
            action: "run a container image",
        });
    };
    let dir = &workload.dir;
    let group = host.group(workload.id)?;
    // Of an attempt that nobody remembers.
    group.remove().await?;
    // From here on a restart finds it, and `remove` cleans it up.
    record::try_write(dir, &Record::ended(workload.id, End::Stopped))
        .map_err(DriverError::io(format!("write to {}", dir.display())))?;
    disk::ensure(dir, base, *format, *size_bytes).await?;

    let mut opened = Opened::default();
    let mut fds = Descriptors {
        monitor: opened.keep(listen(dir)?),
        base: opened.file(base, false)?,
        disk: opened.file(&dir.join(DISK), true)?,
        ..Descriptors::default()
    };
    if let Some(drive) = &workload.config_drive {
        fds.config_drive = Some(opened.file(drive, false)?);
    }
    if let Some(kernel) = kernel {
        fds.kernel = Some(opened.readable(kernel)?);
    }
    if let Some(ramdisk) = ramdisk {
        fds.ramdisk = Some(opened.readable(ramdisk)?);
    }
    for nic in &workload.nics {
        let tap = tap::open(&Netns::named(nic.netns.clone()), &nic.device).await?;
        fds.taps.push(opened.keep(tap));
    }
    let mut groups = Vec::new();
    if host.probe.acceleration == Acceleration::Kvm {
        match kvm_group() {
            Some(group) => groups.push(group),
            None => fds.kvm = Some(opened.file(Path::new("/dev/kvm"), true)?),
        }
    }
    if host.hierarchies.layout() != Layout::None {
        group.ensure(&limits(workload, host.probe.acceleration))?;
    }

    // A namespace without a network: whatever breaks out of QEMU reaches nothing but its taps.
    let netns = host.instance.netns("machines");
    netns.ensure().await?;

    let errors = dir.join(ERRORS);
    let _ = fs::remove_file(&errors);
    record::write(dir, &Record::starting(workload.id));
    let mut command = Command::new(QEMU)
        .args(arguments::arguments(workload, *format, &host.probe, &fds))
        .cgroup(&group)
        .netns(&netns)
        .run_as(workload.uid, workload.uid, &groups)
        .limit(libc::RLIMIT_NOFILE, OPEN_FILES)
        // A core would hold the guest's memory.
        .limit(libc::RLIMIT_CORE, 0)
        // Appending, so that the file can be cut while QEMU writes.
        .stderr(Stdio::Append(errors))
        .if_missing(QEMU_REMEDY);
    for descriptor in opened.0 {
        command = command.inherit(descriptor);
    }
    let process = command.start().await?;
    record::write(dir, &Record::running(workload.id, process.identity()));

    let machine = Machine::watch(host, workload.id, dir, process);
    match machine.started().await {
        Ok(()) => Ok(machine),
        Err(error) => {
            machine.kill().await?;
            // It ended before it ran: by what it was given.
            match (machine.phase(), record::last_error(dir)) {
                (Phase::Ended(_), Some(said)) => Err(blame(&said, *format)),
                _ => Err(error),
            }
        }
    }
}

/// Whose fault QEMU's last words are.
fn blame(said: &str, format: DiskFormat) -> DriverError {
    if said.contains("No space left") || said.contains("Cannot allocate memory") || said.contains("Permission denied") {
        return DriverError::Host(format!("QEMU could not start: {said}"));
    }
    DriverError::Broken(format!(
        "QEMU could not start from the {} image: {said}",
        format.as_str()
    ))
}

fn limits(workload: &Workload, acceleration: Acceleration) -> Limits {
    let translated = if acceleration == Acceleration::Tcg {
        TRANSLATED_MIB << 20
    } else {
        0
    };
    let vcpus = u64::from(workload.vcpus);
    Limits {
        memory_bytes: Some(workload.memory_bytes + workload.memory_bytes / 16 + OVERHEAD_BYTES + translated),
        cpus: Some(f64::from(workload.vcpus) + OVERHEAD_CPUS),
        cpu_shares: Some(1024 * vcpus),
        processes: Some(vcpus + OVERHEAD_THREADS),
    }
}

/// Descriptors that go to the machine.
#[derive(Default)]
struct Opened(Vec<OwnedFd>);

impl Opened {
    fn keep(&mut self, descriptor: impl Into<OwnedFd>) -> RawFd {
        let descriptor = descriptor.into();
        let number = descriptor.as_raw_fd();
        self.0.push(descriptor);
        number
    }

    fn file(&mut self, path: &Path, writable: bool) -> Result<RawFd, DriverError> {
        let file = fs::OpenOptions::new().read(true).write(writable).open(path);
        Ok(self.keep(file.map_err(DriverError::io(format!("open {}", path.display())))?))
    }

    /// A file that QEMU opens anew by its descriptor, for which its user has to be allowed to read it.
    fn readable(&mut self, path: &Path) -> Result<RawFd, DriverError> {
        let io = || DriverError::io(format!("open {}", path.display()));
        let file = fs::File::open(path).map_err(io())?;
        let mut permissions = file.metadata().map_err(io())?.permissions();
        if permissions.mode() & 0o004 == 0 {
            // The directories above keep everybody else out.
            permissions.set_mode(permissions.mode() | 0o004);
            file.set_permissions(permissions).map_err(io())?;
        }
        Ok(self.keep(file))
    }
}

/// Listens where the monitor will be. By way of the directory's descriptor: a socket's path may have 107 bytes only.
fn listen(dir: &Path) -> Result<UnixListener, DriverError> {
    let io = || DriverError::io(format!("listen at {}", dir.join(MONITOR).display()));
    let opened = fs::File::open(dir).map_err(io())?;
    let _ = fs::remove_file(dir.join(MONITOR));
    let path = Path::new("/proc/self/fd")
        .join(opened.as_raw_fd().to_string())
        .join(MONITOR);
    let listener = UnixListener::bind(&path).map_err(io())?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(io())?;
    // QEMU polls it.
    listener.set_nonblocking(true).map_err(io())?;
    Ok(listener)
}

/// The group that may use `/dev/kvm`, where there is one besides root's.
fn kvm_group() -> Option<u32> {
    use std::os::unix::fs::MetadataExt;
    let device = fs::metadata("/dev/kvm").ok()?;
    (device.gid() != 0 && device.mode() & 0o060 == 0o060).then_some(device.gid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_deep_below_is_reached() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("d".repeat(120));
        fs::create_dir(&deep).unwrap();
        listen(&deep).unwrap();
        listen(&deep).unwrap();
        assert_eq!(
            fs::metadata(deep.join(MONITOR)).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }

    #[test]
    fn a_full_host_is_not_the_images_fault() {
        assert!(matches!(
            blame("cannot set up guest memory: Cannot allocate memory", DiskFormat::Raw),
            DriverError::Host(_)
        ));
        assert!(matches!(
            blame("Image is not in qcow2 format", DiskFormat::Qcow2),
            DriverError::Broken(_)
        ));
    }
}
