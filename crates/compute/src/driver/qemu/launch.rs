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
    workload::{DiskFormat, DiskKind, DriverError, Firmware, Root, Workload},
};
use nix::libc;

use super::{
    Host,
    arguments::{self, Descriptors, TRANSLATED_MIB},
    devices::Devices,
    disk, firmware, hotplug,
    layer::{self, Layer},
    local,
    machine::{Machine, Phase},
    pinning,
    record::{self, AGENT, DISK, ERRORS, End, MEMORY, MONITOR, RESCUE, Record},
    shape, suspend, tpm,
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

/// Starts a machine and waits until it runs; one with memory on the disk goes on with it.
pub(super) async fn start(host: &Arc<Host>, workload: &Workload) -> Result<Arc<Machine>, DriverError> {
    let dir = &workload.dir;
    let is_resuming = dir.join(MEMORY).exists();
    let known = Devices::load(dir)?;
    // The board that its memory knows; what came meanwhile is added to the running machine.
    let on_board = match is_resuming {
        true => suspend::as_it_was(workload, &known)?,
        false => workload.clone(),
    };
    let machine = start_as(host, &on_board, known, is_resuming).await?;
    let hardware = &workload.hardware;
    if let Err(error) = pinning::pin(&machine, &hardware.cpu).await {
        // It would run on what others have to themselves.
        machine.kill().await?;
        return Err(error);
    }
    hotplug::limit_root(&machine, &hardware.disk_limits).await?;
    for disk in &workload.locals {
        hotplug::limit_disk(&machine, &local::device(&disk.name), &hardware.disk_limits).await?;
    }
    let mut known = Devices::load(dir)?;
    for disk in &workload.disks {
        match known.disk(disk.id) {
            Some(entry) => hotplug::limit_disk(&machine, &entry.device, &disk.limits).await?,
            None => hotplug::attach_disk(&machine, dir, disk).await?,
        }
    }
    known = Devices::load(dir)?;
    for nic in &workload.nics {
        if !known.nics.iter().any(|entry| entry.port == nic.port) {
            hotplug::attach_nic(&machine, dir, nic).await?;
        }
    }
    Ok(machine)
}

async fn start_as(
    host: &Arc<Host>,
    workload: &Workload,
    mut known: Devices,
    is_resuming: bool,
) -> Result<Arc<Machine>, DriverError> {
    let dir = &workload.dir;
    let group = host.group(workload.id)?;
    // Of an attempt that nobody remembers.
    group.remove().await?;
    // From here on a restart finds it, and `remove` cleans it up.
    let end = if is_resuming { End::Suspended } else { End::Stopped };
    record::try_write(dir, &Record::ended(workload.id, end))
        .map_err(DriverError::io(format!("write to {}", dir.display())))?;
    if !is_resuming {
        known.board = None;
    }
    let devices = known.plan(workload)?;
    devices.save(dir)?;

    let mut opened = Opened::default();
    let mut fds = Descriptors {
        monitor: opened.keep(listen(dir, MONITOR)?),
        ..Descriptors::default()
    };
    open_disks(&mut fds, &mut opened, workload).await?;
    if workload.hardware.has_guest_agent {
        fds.agent = Some(opened.keep(listen(dir, AGENT)?));
    }
    for nic in &workload.nics {
        let tap = tap::open(&Netns::named(nic.netns.clone()), &nic.device).await?;
        shape::limit(nic, workload.hardware.nic_limits).await?;
        fds.taps.push(opened.keep(tap));
    }
    if is_resuming {
        fds.memory = Some(opened.keep(suspend::take_memory(dir)?));
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

    if let Some(version) = workload.hardware.tpm {
        fds.tpm = Some(opened.keep(tpm::start(workload, version, &group).await?));
    }
    let errors = dir.join(ERRORS);
    let _ = fs::remove_file(&errors);
    record::write(dir, &Record::starting(workload.id));
    let mut command = Command::new(QEMU)
        .args(arguments::arguments(workload, &devices, &host.probe, &fds))
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
    let started = match is_resuming {
        true => suspend::resumed(&machine, dir).await,
        false => machine.started().await,
    };
    match started {
        Ok(()) => Ok(machine),
        Err(error) => {
            machine.kill().await?;
            if is_resuming {
                suspend::give_memory_back(dir);
            }
            // It ended before it ran: by what it was given.
            match (machine.phase(), record::last_error(dir)) {
                (Phase::Ended(_), Some(said)) => Err(blame(&said, &workload.root)),
                _ => Err(error),
            }
        }
    }
}

/// Everything it boots from and has as disks.
async fn open_disks(fds: &mut Descriptors, opened: &mut Opened, workload: &Workload) -> Result<(), DriverError> {
    let (dir, hardware) = (&workload.dir, &workload.hardware);
    if let Firmware::Uefi { is_secure } = hardware.firmware {
        let (code, vars) = firmware::prepare(dir, is_secure)?;
        fds.firmware = vec![
            (
                Layer::file("firmware", DiskFormat::Raw, true),
                opened.file(&code, false)?,
            ),
            (
                Layer::file("firmware-vars", DiskFormat::Raw, false),
                opened.file(&vars, true)?,
            ),
        ];
    }
    match &workload.root {
        Root::Container { .. } => {
            return Err(DriverError::Unsupported {
                driver: "qemu",
                action: "run a container image",
            });
        }
        Root::Attached if workload.disks.is_empty() => {
            return Err(DriverError::Broken("it has no disk to boot from".into()));
        }
        Root::Disk {
            base,
            format,
            size_bytes,
            ..
        } if hardware.root_kind == DiskKind::Cdrom => {
            disk::ensure_empty(dir, DISK, *size_bytes).await?;
            let layer = Layer::file("disk", DiskFormat::Qcow2, false);
            fds.root = vec![(layer, opened.file(&dir.join(DISK), true)?)];
            fds.cdrom = vec![(Layer::file("base", *format, true), opened.file(base, false)?)];
        }
        root => fds.root = opened.root(dir, root, DISK, ["base", "disk"]).await?,
    }
    let rescue = dir.join(RESCUE);
    match &workload.rescue {
        Some(root) => fds.rescue = opened.root(dir, root, RESCUE, ["rescue-base", "rescue"]).await?,
        None if rescue.exists() => {
            fs::remove_file(&rescue).map_err(DriverError::io(format!("remove {}", rescue.display())))?;
        }
        None => {}
    }
    if let Root::Disk { kernel, ramdisk, .. } = workload.rescue.as_ref().unwrap_or(&workload.root) {
        if let Some(kernel) = kernel {
            fds.kernel = Some(opened.readable(kernel)?);
        }
        if let Some(ramdisk) = ramdisk {
            fds.ramdisk = Some(opened.readable(ramdisk)?);
        }
    }
    if let Some(drive) = &workload.config_drive {
        fds.config_drive = Some(opened.file(drive, false)?);
    }
    local::ensure(dir, &workload.locals).await?;
    for disk in &workload.locals {
        let node = local::device(&disk.name);
        let layer = Layer::file(&node, DiskFormat::Raw, false);
        let file = opened.file(&local::path(dir, &disk.name), true)?;
        fds.locals.push((layer, file));
    }
    for disk in &workload.disks {
        let layers = layer::open(disk)?.into_iter();
        fds.disks
            .push(layers.map(|(layer, file)| (layer, opened.keep(file))).collect());
    }
    Ok(())
}

/// Whose fault QEMU's last words are.
fn blame(said: &str, root: &Root) -> DriverError {
    if said.contains("No space left") || said.contains("Cannot allocate memory") || said.contains("Permission denied") {
        return DriverError::Host(format!("QEMU could not start: {said}"));
    }
    let from = match root {
        Root::Disk { format, .. } => format!(" from the {} image", format.as_str()),
        _ => String::new(),
    };
    DriverError::Broken(format!("QEMU could not start{from}: {said}"))
}

fn limits(workload: &Workload, acceleration: Acceleration) -> Limits {
    let translated = if acceleration == Acceleration::Tcg {
        TRANSLATED_MIB << 20
    } else {
        0
    };
    let vcpus = u64::from(workload.vcpus);
    let cpus = match workload.hardware.cpu_quota {
        // Nova's quota is that of each processor.
        Some((quota, period)) => f64::from(workload.vcpus) * quota as f64 / period.max(1) as f64,
        None => f64::from(workload.vcpus) + OVERHEAD_CPUS,
    };
    Limits {
        memory_bytes: Some(workload.memory_bytes + workload.memory_bytes / 16 + OVERHEAD_BYTES + translated),
        cpus: Some(cpus),
        cpu_shares: Some(workload.hardware.cpu_shares.unwrap_or(1024 * vcpus)),
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

    /// The layers of a disk that a machine boots from: its image, and its own layer over it.
    async fn root(
        &mut self,
        dir: &Path,
        root: &Root,
        name: &str,
        [below, node]: [&str; 2],
    ) -> Result<Vec<(Layer, RawFd)>, DriverError> {
        let Root::Disk {
            base,
            format,
            size_bytes,
            ..
        } = root
        else {
            return Ok(Vec::new());
        };
        disk::ensure(dir, name, base, *format, *size_bytes).await?;
        Ok(vec![
            (Layer::file(below, *format, true), self.file(base, false)?),
            (
                Layer::file(node, DiskFormat::Qcow2, false),
                self.file(&dir.join(name), true)?,
            ),
        ])
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

/// Listens at a socket of the machine's directory. By way of the directory's descriptor: a socket's path may have 107 bytes only.
fn listen(dir: &Path, name: &str) -> Result<UnixListener, DriverError> {
    let io = || DriverError::io(format!("listen at {}", dir.join(name).display()));
    let opened = fs::File::open(dir).map_err(io())?;
    let _ = fs::remove_file(dir.join(name));
    let path = Path::new("/proc/self/fd")
        .join(opened.as_raw_fd().to_string())
        .join(name);
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
        listen(&deep, MONITOR).unwrap();
        listen(&deep, MONITOR).unwrap();
        assert_eq!(
            fs::metadata(deep.join(MONITOR)).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }

    #[test]
    fn a_full_host_is_not_the_images_fault() {
        let root = Root::Disk {
            base: "/absent".into(),
            format: DiskFormat::Qcow2,
            size_bytes: 1,
            kernel: None,
            ramdisk: None,
            kernel_args: None,
        };
        assert!(matches!(
            blame("cannot set up guest memory: Cannot allocate memory", &root),
            DriverError::Host(_)
        ));
        let error = blame("Image is not in qcow2 format", &root);
        assert!(
            matches!(&error, DriverError::Broken(why) if why.contains("from the qcow2 image")),
            "{error}"
        );
    }
}
