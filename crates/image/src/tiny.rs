//! The tiny guest: a whole Linux machine that is up and answers ssh within seconds, also under pure emulation.
//!
//! Built on the user's machine from Debian packages (kernel, busybox, dropbear) and the files of `tiny/guest`. Nothing
//! is installed and no rights are needed. `madang image build-tiny` and `madang up` call [`build`]; the result is kept
//! under a key made of package versions and our own files, so calling it again costs a look at the package lists.
//!
//! Where the time goes, and what we do about it: the kernel lies on the disk uncompressed and is read by a loader of our
//! own (`loader.S`); parts of the kernel's start that such a guest has no use for are left out (`COMMAND_LINE`); only the
//! disk's driver is loaded before the root file system is mounted; DHCP runs while the host key is made.

mod command;
mod cpio;
mod disk;
mod elf;
mod kernel;
mod modules;
mod packages;
mod root;

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::ExitStatus,
};

use madang_store::ErrorKind;
use sha2::{Digest, Sha256};

use self::{
    modules::Modules,
    packages::{Apt, Package},
};

/// Counted up when the builder itself makes something else of the same pieces.
const BUILDER_VERSION: &str = "2";

/// The kernel's arguments: nobody watches the first second, nothing is tested that the host has tested, and what only
/// serves tracing, BPF or signed modules is not set up. Together that is 0.8 s under emulation.
const COMMAND_LINE: &str = "console=tty0 console=ttyS0 quiet panic=10 nokaslr mitigations=off \
    init_on_alloc=0 randomize_kstack_offset=off random.trust_cpu=on random.trust_bootloader=on cryptomgr.notests lsm=none apparmor=0 audit=0 nowatchdog \
    no_timer_check noreplace-smp 8250.nr_uarts=1 i8042.noaux rcupdate.rcu_expedited=1 nolapic_timer \
    initcall_blacklist=tracer_init_tracefs,init_kprobe_trace,init_uprobe_trace,init_dynamic_event,\
init_trace_printk_function_export,init_graph_tracefs,stack_trace_init,trace_events_synth_init,\
btf_module_init,btf_vmlinux_init,cubictcp_register,kfunc_init,bpf_prog_test_run_init,bpf_tcp_ca_kfunc_init,\
bpf_key_sig_kfuncs_init,bpf_rstat_kfunc_init,load_system_certificate_list,slab_sysfs_init,crypto_kdf108_init,init_ima,init_evm,\
snapshot_device_init";

/// What brings the root file system and the network within reach, in the first second.
const FIRST_MODULES: &[&str] = &["virtio_pci", "virtio_blk", "ext4", "virtio_net"];
/// What else may carry it, tried when that was not enough.
const OTHER_DISK_MODULES: &[&str] = &["sd_mod", "virtio_scsi", "ata_piix", "ahci", "nvme"];
/// What the running guest can load.
const MODULES: &[&str] = &[
    "virtio_rng",
    "virtio_console",
    "virtio_balloon",
    "virtio_input",
    "isofs",
    "vfat",
    "nls_cp437",
    "nls_ascii",
    "nls_iso8859_1",
    "nls_utf8",
    "button",
    "evdev",
    "sr_mod",
    "e1000",
    "dummy",
    "tun",
    "8021q",
    "vmw_vsock_virtio_transport",
];

/// The host's tool for disk images.
const QEMU_IMG: &str = "qemu-img";

/// How the disk is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TinyFormat {
    /// qcow2.
    #[default]
    Qcow2,
    /// The bare disk, a file with holes.
    Raw,
}

/// What to build and where.
#[derive(Clone, Debug)]
pub struct TinyOptions {
    /// Where packages and results are kept between builds; made when it is not there.
    pub cache: PathBuf,
    /// Where the disk goes; without it, it stays in the cache.
    pub output: Option<PathBuf>,
    /// How it is written.
    pub format: TinyFormat,
}

/// A built guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TinyImage {
    /// The bootable disk.
    pub path: PathBuf,
    /// How it is written.
    pub format: TinyFormat,
    /// The kernel, for starting the guest without a boot loader (`qemu -kernel`).
    pub kernel: PathBuf,
    /// The initramfs that goes with the kernel.
    pub ramdisk: PathBuf,
    /// The arguments that go with the kernel.
    pub command_line: String,
    /// The kernel's version.
    pub kernel_version: String,
    /// Whether it was there already.
    pub was_cached: bool,
}

/// Why there is no guest.
#[derive(Debug, thiserror::Error)]
pub enum TinyError {
    /// A tool is not installed.
    #[error("{program} is not installed: apt-get install {package}")]
    Missing {
        /// The tool.
        program: &'static str,
        /// Its Debian package.
        package: &'static str,
    },
    /// A tool could not be started.
    #[error("could not start {program}")]
    Start {
        /// The tool.
        program: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A tool failed.
    #[error("{program} failed ({status}): {complaint}")]
    Failed {
        /// The tool.
        program: &'static str,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it said.
        complaint: String,
    },
    /// A tool did not come to an end.
    #[error("{program} was still busy after {seconds} s")]
    Slow {
        /// The tool.
        program: &'static str,
        /// How long it was given.
        seconds: u64,
    },
    /// apt does not know a package.
    #[error("apt knows no package {package}: the guest is built from Debian's packages, on Debian 12 or 13 for amd64")]
    Unavailable {
        /// The package.
        package: &'static str,
    },
    /// A downloaded package is not what apt promised.
    #[error("the downloaded package {file} is not what the package lists say")]
    Damaged {
        /// The package file.
        file: String,
    },
    /// A program wants a library that no package has.
    #[error("no package has the library {name}")]
    Library {
        /// The library.
        name: String,
    },
    /// The kernel or a module is not as expected.
    #[error("{0}")]
    Kernel(String),
    /// A file could not be read or written.
    #[error("could not {action} {path}")]
    Io {
        /// A verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

impl TinyError {
    /// Its place in the one list.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Slow { .. } => ErrorKind::TimedOut,
            Self::Missing { .. } | Self::Unavailable { .. } | Self::Failed { .. } => ErrorKind::Unavailable,
            _ => ErrorKind::Internal,
        }
    }
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> TinyError {
    let path = path.to_owned();
    move |source| TinyError::Io { action, path, source }
}

/// Builds the guest, or finds it built. `progress` is told each step as it begins, in a few words.
///
/// # Errors
/// See [`TinyError`]; what was there before is untouched then.
pub async fn build(options: TinyOptions, progress: &(dyn Fn(&str) + Send + Sync)) -> Result<TinyImage, TinyError> {
    fs::create_dir_all(&options.cache).map_err(io_error("make", &options.cache))?;
    let ours = own_fingerprint();
    progress("looking up packages");
    let mut apt = Apt::new(&options.cache);
    let packages = match apt.resolve().await {
        Ok(packages) => packages,
        Err(TinyError::Missing { program, package }) => return Err(TinyError::Missing { program, package }),
        Err(_) => {
            progress("fetching package lists");
            match refreshed(&mut apt).await {
                Ok(packages) => packages,
                // Without a network, what was built before from the same files of ours is as good.
                Err(error) => return newest_result(&options, &ours).ok_or(error),
            }
        }
    };

    let directory = options.cache.join(format!("{ours}-{}", fingerprint_of(&packages)));
    let was_cached = is_complete(&directory);
    if !was_cached {
        download(&mut apt, &packages, &options.cache, progress).await?;
        assemble(&packages, &options.cache, &directory, progress).await?;
        remove_other_results(&options.cache, &directory)?;
    }
    deliver(&options, &directory, was_cached)
}

async fn refreshed(apt: &mut Apt) -> Result<Vec<Package>, TinyError> {
    apt.update().await?;
    apt.resolve().await
}

/// Downloads; when the lists are older than what the mirror still has, once more with new lists.
async fn download(
    apt: &mut Apt,
    packages: &[Package],
    cache: &Path,
    progress: &(dyn Fn(&str) + Send + Sync),
) -> Result<(), TinyError> {
    let megabytes = packages.iter().map(|package| package.size).sum::<u64>() / 1_000_000;
    progress(&format!("downloading {} packages, {megabytes} MB", packages.len()));
    let target = cache.join("packages");
    if apt.download(packages, &target).await.is_ok() {
        return Ok(());
    }
    progress("fetching package lists");
    apt.update().await?;
    apt.download(packages, &target).await
}

/// What our own part of the guest is, in a few letters.
fn own_fingerprint() -> String {
    let mut hash = Sha256::new();
    for module in FIRST_MODULES.iter().chain(OTHER_DISK_MODULES).chain(MODULES) {
        hash.update(module);
    }
    for part in [BUILDER_VERSION, COMMAND_LINE, INITRAMFS_INIT] {
        hash.update(part);
    }
    hash.update(include_bytes!("tiny/loader.bin"));
    for part in root::fingerprint() {
        hash.update(part);
    }
    crate::blobs::hex(&hash.finalize())[..12].to_owned()
}

fn fingerprint_of(packages: &[Package]) -> String {
    let mut hash = Sha256::new();
    for package in packages {
        hash.update(&package.file);
        hash.update(&package.sha256);
    }
    crate::blobs::hex(&hash.finalize())[..12].to_owned()
}

/// The names within a result.
mod result {
    pub(super) const QCOW2: &str = "tiny.qcow2";
    pub(super) const RAW: &str = "tiny.raw";
    pub(super) const KERNEL: &str = "kernel";
    pub(super) const RAMDISK: &str = "ramdisk";
    pub(super) const VERSION: &str = "kernel-version";
}

/// A result appears under its name in one step, so a part of it means all of it.
fn is_complete(directory: &Path) -> bool {
    directory.join(result::VERSION).is_file()
}

fn newest_result(options: &TinyOptions, ours: &str) -> Option<TinyImage> {
    let entries = fs::read_dir(&options.cache).ok()?.filter_map(Result::ok);
    let results = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(ours));
    let newest = results
        .filter(|entry| is_complete(&entry.path()))
        .max_by_key(|entry| entry.metadata().and_then(|meta| meta.modified()).ok())?;
    deliver(options, &newest.path(), true).ok()
}

/// Only the newest result is kept; older ones are of packages that are not to be had any more.
fn remove_other_results(cache: &Path, keep: &Path) -> Result<(), TinyError> {
    for entry in fs::read_dir(cache).map_err(io_error("read", cache))? {
        let path = entry.map_err(io_error("read", cache))?.path();
        if path != keep && is_complete(&path) {
            fs::remove_dir_all(&path).map_err(io_error("remove", &path))?;
        }
    }
    Ok(())
}

fn deliver(options: &TinyOptions, directory: &Path, was_cached: bool) -> Result<TinyImage, TinyError> {
    let built = directory.join(match options.format {
        TinyFormat::Qcow2 => result::QCOW2,
        TinyFormat::Raw => result::RAW,
    });
    let path = options.output.clone().unwrap_or_else(|| built.clone());
    if path != built {
        fs::copy(&built, &path).map_err(io_error("write", &path))?;
    }
    let version = directory.join(result::VERSION);
    Ok(TinyImage {
        path,
        format: options.format,
        kernel: directory.join(result::KERNEL),
        ramdisk: directory.join(result::RAMDISK),
        command_line: COMMAND_LINE.to_owned(),
        kernel_version: fs::read_to_string(&version).map_err(io_error("read", &version))?,
        was_cached,
    })
}

/// A directory that goes when the build ends, however it ends.
struct Work(PathBuf);

impl Drop for Work {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "could not remove the build's working directory");
        }
    }
}

async fn assemble(
    packages: &[Package],
    cache: &Path,
    directory: &Path,
    progress: &(dyn Fn(&str) + Send + Sync),
) -> Result<(), TinyError> {
    let work = Work(cache.join(format!("work-{}", uuid::Uuid::new_v4())));
    let (unpacked, finished) = (work.0.join("packages"), work.0.join("result"));
    for path in [&unpacked, &finished] {
        fs::create_dir_all(path).map_err(io_error("make", path))?;
    }
    progress("unpacking packages");
    packages::unpack(packages, &cache.join("packages"), &unpacked).await?;

    progress("taking the kernel apart");
    let kernel_package = packages.iter().find(|package| package.name.starts_with("linux-image-"));
    let kernel_package = kernel_package.ok_or(TinyError::Unavailable {
        package: "linux-image-cloud-amd64",
    })?;
    let version = kernel_package.name.trim_start_matches("linux-image-");
    let kernel_root = unpacked.join(&kernel_package.name);
    let busybox = unpacked.join("busybox-static/bin/busybox");
    let busybox = if busybox.is_file() {
        busybox
    } else {
        unpacked.join("busybox-static/usr/bin/busybox")
    };
    let kernel_path = kernel_root.join("boot").join(format!("vmlinuz-{version}"));
    let kernel = kernel::take_apart(&kernel_path, &busybox, &work.0).await?;
    let module_directory = [kernel_root.join("lib/modules"), kernel_root.join("usr/lib/modules")];
    let module_directory = module_directory.into_iter().find(|path| path.is_dir());
    let module_directory = module_directory.ok_or_else(|| TinyError::Kernel("the kernel has no modules".into()))?;
    let mut modules = Modules::find(&module_directory.join(version))?;

    progress("building the file systems");
    let initramfs = initramfs(&mut modules, &busybox, &work.0).await?;
    let mut names = modules.closure(FIRST_MODULES, true, &busybox, &work.0).await?;
    for name in modules
        .closure(&[OTHER_DISK_MODULES, MODULES].concat(), false, &busybox, &work.0)
        .await?
    {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let root = root::build(&root::Sources {
        packages: &unpacked,
        busybox: &busybox,
        kernel_version: version,
        modules: &modules,
        module_names: &names,
        work: &work.0,
    })
    .await?;

    progress("writing the disk");
    let raw = finished.join(result::RAW);
    let contents = disk::Contents {
        kernel: &kernel,
        initramfs: &initramfs,
        command_line: COMMAND_LINE,
        root: &root,
    };
    disk::write(&contents, &raw)?;
    let put = |name: &str, bytes: &[u8]| {
        let path = finished.join(name);
        fs::write(&path, bytes).map_err(io_error("write", &path))
    };
    // QEMU enters the bare kernel directly where it can; that saves decompressing it in the guest.
    if elf::has_direct_entry(&kernel.elf) {
        put(result::KERNEL, &kernel.elf)?;
    } else {
        let path = finished.join(result::KERNEL);
        fs::copy(&kernel_path, &path).map_err(io_error("write", &path))?;
    }
    put(result::RAMDISK, &initramfs)?;
    let qcow2 = finished.join(result::QCOW2);
    // Not compressed: that would save half of 40 MB, and cost every boot of every server more than a second.
    let arguments: &[&std::ffi::OsStr] = &[
        "convert".as_ref(),
        "-f".as_ref(),
        "raw".as_ref(),
        "-O".as_ref(),
        "qcow2".as_ref(),
        raw.as_os_str(),
        qcow2.as_os_str(),
    ];
    command::run(QEMU_IMG, arguments, &work.0).await?;
    put(result::VERSION, version.as_bytes())?;
    match fs::rename(&finished, directory) {
        // Another build of the same was quicker.
        Err(_) if is_complete(directory) => Ok(()),
        renamed => renamed.map_err(io_error("make", directory)),
    }
}

const INITRAMFS_INIT: &str = include_str!("tiny/guest/initramfs-init");

/// The first root: busybox, the script that finds the real root, and the modules it takes.
async fn initramfs(modules: &mut Modules, busybox: &Path, work: &Path) -> Result<Vec<u8>, TinyError> {
    let first = modules.closure(FIRST_MODULES, true, busybox, work).await?;
    let others = modules.closure(OTHER_DISK_MODULES, false, busybox, work).await?;
    let others: Vec<_> = others.into_iter().filter(|name| !first.contains(name)).collect();
    let mut archive = cpio::Archive::new();
    for directory in ["bin", "dev", "modules", "proc", "root"] {
        archive.directory(directory);
    }
    archive.file("init", 0o755, INITRAMFS_INIT.as_bytes());
    archive.file(
        "bin/busybox",
        // As in the root file system, where it goes on being used.
        0o4755,
        &fs::read(busybox).map_err(io_error("read", busybox))?,
    );
    for name in [
        "sh",
        "mount",
        "umount",
        "insmod",
        "findfs",
        "switch_root",
        "usleep",
        "poweroff",
    ] {
        archive.link(&format!("bin/{name}"), "busybox");
    }
    for (list, names) in [("order", &first), ("others", &others)] {
        let lines: String = names.iter().map(|name| format!("{name}.ko\n")).collect();
        archive.file(&format!("modules/{list}"), 0o644, lines.as_bytes());
        for name in names {
            archive.file(&format!("modules/{name}.ko"), 0o644, &modules.get(name).bytes);
        }
    }
    Ok(archive.finish())
}
