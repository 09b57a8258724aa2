//! The contract on real machines, and what is QEMU's alone. The guest is one boot sector; see `root_tests/guest.S`.

use std::{fs, os::unix::fs::FileExt, path::PathBuf};

use async_trait::async_trait;
use madang_host::{
    Instance, acceleration, tap,
    workload::{
        DiskBus, DiskFormat, DiskKind, DiskName, DiskSource, Hardware, IoLimits, Nic, Root, contract,
        contract::Fixture as _,
    },
};
use tempfile::TempDir;

use super::*;

const GUEST: &[u8] = include_bytes!("root_tests/guest.bin");

const KERNEL: &[u8] = include_bytes!("root_tests/kernel.bin");

const MIB: u64 = 1 << 20;

/// A host of its own: sweeps when it is over, also when the test failed.
struct Fixture {
    directory: TempDir,
    instance: Instance,
    probe: Probe,
    tasks: TaskGroup,
    driver: Arc<QemuDriver>,
}

impl Fixture {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let instance = Instance::open(directory.path()).unwrap();
        fs::create_dir(directory.path().join("servers")).unwrap();
        fs::create_dir(directory.path().join("images")).unwrap();
        // Shared by the tests of one run.
        let probe = acceleration::probe(&std::env::temp_dir().join("madang-test-acceleration.json"))
            .await
            .unwrap();
        let tasks = TaskGroup::new("test");
        let driver = QemuDriver::open(&directory.path().join("servers"), &instance, probe.clone(), &tasks)
            .await
            .unwrap();
        Self {
            directory,
            instance,
            probe,
            tasks,
            driver: Arc::new(driver),
        }
    }

    fn image(&self, id: Uuid) -> PathBuf {
        self.directory.path().join("images").join(id.to_string())
    }

    fn flag(&self, id: Uuid, flag: u8) {
        let image = fs::OpenOptions::new().write(true).open(self.image(id)).unwrap();
        image.write_all_at(&[flag], 512).unwrap();
    }

    fn pid(&self, id: Uuid) -> u32 {
        match self.driver.slot(id).unwrap().state() {
            State::Running { pid } => pid,
            state => panic!("{state:?}"),
        }
    }

    /// A disk of 4 MiB to attach, full of `v`.
    fn volume(&self) -> Disk {
        let id = Uuid::new_v4();
        let path = self.directory.path().join("images").join(format!("volume-{id}"));
        fs::write(&path, vec![b'v'; 4 * MIB as usize]).unwrap();
        Disk {
            id,
            source: DiskSource::File {
                path,
                format: DiskFormat::Raw,
            },
            bus: DiskBus::Virtio,
            kind: DiskKind::Disk,
            serial: id.to_string(),
            is_read_only: false,
            boot_index: None,
            limits: IoLimits::default(),
            mount_point: None,
        }
    }

    async fn machine(&self, id: Uuid) -> Arc<Machine> {
        self.driver.slot(id).unwrap().machine().unwrap()
    }

    /// Waits until its console holds a text.
    async fn prints(&self, id: Uuid, text: &str) {
        for _ in 0..400 {
            let console = self.driver.console(id, 1 << 16).await.unwrap();
            if String::from_utf8_lossy(&console).contains(text) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("it never printed `{text}`");
    }

    async fn ended(&self, id: Uuid) -> State {
        for _ in 0..200 {
            match self.driver.state(id).await.unwrap() {
                State::Running { .. } | State::Paused => tokio::time::sleep(Duration::from_millis(50)).await,
                state => return state,
            }
        }
        panic!("still runs");
    }

    async fn finish(self) {
        self.instance.sweep().await.unwrap();
        assert_eq!(self.instance.traces().await, Vec::<String>::new());
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let instance = self.instance.clone();
        let swept = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(instance.sweep())
        });
        if let Err(error) = swept.join().unwrap() {
            eprintln!("left on the host: {}", error.chain());
        }
    }
}

#[async_trait]
impl contract::Fixture for Fixture {
    fn driver(&self) -> Arc<dyn Driver> {
        self.driver.clone()
    }

    async fn reopen(&mut self) -> Arc<dyn Driver> {
        self.tasks.shutdown(Duration::from_secs(5)).await;
        self.tasks = TaskGroup::new("test again");
        let root = self.directory.path().join("servers");
        self.driver = Arc::new(
            QemuDriver::open(&root, &self.instance, self.probe.clone(), &self.tasks)
                .await
                .unwrap(),
        );
        self.driver.clone()
    }

    async fn workload(&self) -> Workload {
        let id = Uuid::new_v4();
        let dir = self.directory.path().join("servers").join(id.to_string());
        fs::create_dir(&dir).unwrap();
        let image = self.image(id);
        fs::write(&image, GUEST).unwrap();
        fs::File::options()
            .write(true)
            .open(&image)
            .unwrap()
            .set_len(MIB)
            .unwrap();
        let root = Root::Disk {
            base: image,
            format: DiskFormat::Raw,
            size_bytes: 8 * MIB,
            kernel: None,
            ramdisk: None,
            kernel_args: None,
        };
        Workload {
            id,
            hostname: "demo".into(),
            vcpus: 1,
            memory_bytes: 64 * MIB,
            root,
            nics: Vec::new(),
            dir,
            uid: self.instance.uids().unwrap().get(1).unwrap(),
            config_drive: None,
            locals: Vec::new(),
            disks: Vec::new(),
            hardware: Hardware::default(),
            rescue: None,
        }
    }

    async fn broken(&self) -> Option<(Workload, &'static str)> {
        let mut workload = self.workload().await;
        if let Root::Disk { format, .. } = &mut workload.root {
            *format = DiskFormat::Qcow2;
        }
        Some((workload, "qcow2"))
    }

    fn greeting(&self) -> Option<&'static str> {
        Some("the guest is up")
    }

    async fn end(&self, id: Uuid) {
        self.flag(id, b'E');
    }

    async fn kill(&self, id: Uuid) {
        let pid = nix::unistd::Pid::from_raw(self.pid(id) as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(20)
    }

    fn scratch(&self) -> Option<PathBuf> {
        Some(self.directory.path().join("images"))
    }

    async fn disk(&self) -> Option<Disk> {
        Some(self.volume())
    }

    async fn nic(&self) -> Option<Nic> {
        let fabric = self.instance.fabric();
        fabric.ensure().await.unwrap();
        tap::ensure(&fabric, "hot0").await.unwrap();
        Some(nic(&fabric, "hot0"))
    }
}

fn nic(netns: &madang_host::netns::Netns, device: &str) -> Nic {
    Nic {
        port: Uuid::new_v4(),
        mac: [0xfa, 0x16, 0x3e, 1, 2, 3],
        device: device.into(),
        peer: None,
        netns: netns.name().unwrap().into(),
        mtu: 1450,
        addresses: Vec::new(),
        gateway: None,
        routes: Vec::new(),
        name_servers: Vec::new(),
    }
}

#[tokio::test]
async fn keeps_the_contract() {
    let mut fixture = Fixture::new().await;
    contract::run(&mut fixture).await;
    fixture.finish().await;
}

#[tokio::test]
async fn a_machine_has_no_rights_and_its_tap() {
    let fixture = Fixture::new().await;
    let fabric = fixture.instance.fabric();
    fabric.ensure().await.unwrap();
    tap::ensure(&fabric, "t0").await.unwrap();
    let mut workload = fixture.workload().await;
    workload.nics.push(nic(&fabric, "t0"));
    workload.config_drive = Some(fixture.image(workload.id));
    let start = tokio::time::Instant::now();
    fixture.driver.start(&workload).await.unwrap();
    println!("started within {:?}", start.elapsed());
    let pid = fixture.pid(workload.id);
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap()
            .trim()
            .to_owned()
    };
    assert!(
        field("Uid:")
            .split_whitespace()
            .all(|id| id == workload.uid.to_string())
    );
    assert_eq!(field("CapEff:"), "0000000000000000");
    assert_eq!(field("NoNewPrivs:"), "1");
    assert_eq!(field("Seccomp:"), "2", "system calls are filtered");
    assert_eq!(field("Groups:"), "");
    let links = fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap();
    assert_eq!(links.lines().skip(2).count(), 1, "nothing but lo: {links}");
    assert!(tap::open(&fabric, "t0").await.is_err(), "the machine holds it");
    let group = fixture.driver.host.group(workload.id).unwrap();
    assert_eq!(group.processes(), [pid]);
    assert!(group.usage().memory_bytes > 0);
    fixture.driver.stop(workload.id, None).await.unwrap();
    assert!(!group.exists());
    tap::open(&fabric, "t0").await.unwrap();
    fixture.finish().await;
}

mod beyond_tests;
mod pinning_tests;

#[tokio::test]
async fn a_panic_is_told_with_its_reason() {
    let fixture = Fixture::new().await;
    let workload = fixture.workload().await;
    fixture.driver.start(&workload).await.unwrap();
    fixture.flag(workload.id, b'P');
    let state = fixture.ended(workload.id).await;
    assert!(
        matches!(&state, State::Failed { reason } if reason.contains("panicked")),
        "{state:?}"
    );
    assert!(
        !fixture.driver.console(workload.id, 1000).await.unwrap().is_empty(),
        "what it printed is kept"
    );
    fixture.finish().await;
}

#[tokio::test]
async fn a_guest_that_powers_off_while_madang_is_away_is_stopped() {
    let mut fixture = Fixture::new().await;
    let workload = fixture.workload().await;
    fixture.driver.start(&workload).await.unwrap();
    let mut text = Vec::new();
    while text.is_empty() {
        text = fixture.driver.console(workload.id, 1000).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    fixture.tasks.shutdown(Duration::from_secs(5)).await;
    fixture.flag(workload.id, b'E');
    tokio::time::sleep(Duration::from_secs(1)).await;
    fixture.reopen().await;
    assert_eq!(fixture.ended(workload.id).await, State::Stopped { exit_code: None });
    fixture.finish().await;
}

#[tokio::test]
async fn an_interrupted_start_is_found_by_its_group() {
    let mut fixture = Fixture::new().await;
    let workload = fixture.workload().await;
    fixture.driver.start(&workload).await.unwrap();
    let pid = fixture.pid(workload.id);
    // As if madang had been killed before it wrote down which process it was.
    record::write(&workload.dir, &Record::starting(workload.id));
    fixture.reopen().await;
    assert_eq!(fixture.pid(workload.id), pid);
    fixture.finish().await;
}

#[tokio::test]
async fn a_machine_whose_directory_is_gone_is_ended() {
    let mut fixture = Fixture::new().await;
    let workload = fixture.workload().await;
    fixture.driver.start(&workload).await.unwrap();
    let group = fixture.driver.host.group(workload.id).unwrap();
    fixture.tasks.shutdown(Duration::from_secs(5)).await;
    fs::remove_dir_all(&workload.dir).unwrap();
    let driver = fixture.reopen().await;
    assert!(!group.exists());
    assert_eq!(driver.state(workload.id).await.unwrap(), State::Absent);
    fixture.finish().await;
}

#[tokio::test]
async fn a_machine_that_vanished_while_madang_was_away_has_failed() {
    let mut fixture = Fixture::new().await;
    let workload = fixture.workload().await;
    fixture.driver.start(&workload).await.unwrap();
    fixture.tasks.shutdown(Duration::from_secs(5)).await;
    fixture.kill(workload.id).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    fixture.reopen().await;
    let state = fixture.driver.state(workload.id).await.unwrap();
    assert!(
        matches!(&state, State::Failed { reason } if reason.contains("gone")),
        "{state:?}"
    );
    fixture.driver.start(&workload).await.unwrap();
    fixture.finish().await;
}

#[tokio::test]
async fn a_kernel_is_booted_directly_from_a_private_file() {
    use std::os::unix::fs::PermissionsExt;
    let fixture = Fixture::new().await;
    let mut workload = fixture.workload().await;
    let path = fixture.directory.path().join("images/kernel");
    fs::write(&path, KERNEL).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(fixture.directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
    if let Root::Disk {
        kernel, kernel_args, ..
    } = &mut workload.root
    {
        (*kernel, *kernel_args) = (Some(path), Some("console=ttyS0, x=1".into()));
    }
    fixture.driver.start(&workload).await.unwrap();
    let mut text = Vec::new();
    while !String::from_utf8_lossy(&text).contains("the kernel is up") {
        text = fixture.driver.console(workload.id, 1000).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // It does not listen to its power button.
    let start = tokio::time::Instant::now();
    fixture
        .driver
        .stop(workload.id, Some(Duration::from_secs(1)))
        .await
        .unwrap();
    assert!(start.elapsed() >= Duration::from_secs(1), "no grace was given");
    assert_eq!(
        fixture.driver.state(workload.id).await.unwrap(),
        State::Stopped { exit_code: None }
    );
    fixture.finish().await;
}

#[tokio::test]
async fn a_full_disk_is_named_and_nothing_is_left() {
    use nix::mount::{MsFlags, mount};
    let fixture = Fixture::new().await;
    let mut workload = fixture.workload().await;
    mount(
        Some("none"),
        &workload.dir,
        Some("tmpfs"),
        MsFlags::empty(),
        Some("size=64k"),
    )
    .unwrap();
    workload.uid += 1;
    let error = fixture.driver.start(&workload).await.unwrap_err();
    assert!(matches!(error, DriverError::Host(_)), "{error:?}");
    assert!(error.to_string().contains("full"), "{error}");
    let state = fixture.driver.state(workload.id).await.unwrap();
    assert!(
        matches!(&state, State::Failed { reason } if reason.contains("full")),
        "{state:?}"
    );
    fixture.driver.remove(workload.id).await.unwrap();
    assert_eq!(fs::read_dir(&workload.dir).unwrap().count(), 0);
    fixture.finish().await;
}

#[tokio::test]
async fn many_start_at_once() {
    let fixture = Fixture::new().await;
    let mut starts = Vec::new();
    for _ in 0..4 {
        let workload = fixture.workload().await;
        let driver = fixture.driver.clone();
        starts.push(async move { driver.start(&workload).await });
    }
    for result in futures_util::future::join_all(starts).await {
        result.unwrap();
    }
    assert_eq!(fixture.driver.list().await.unwrap().len(), 4);
    fixture.finish().await;
}

#[tokio::test]
async fn a_container_image_is_not_for_qemu() {
    let fixture = Fixture::new().await;
    let mut workload = fixture.workload().await;
    workload.root = Root::Container {
        archive: PathBuf::from("/absent"),
        digest: String::new(),
        size_bytes: 0,
        env: Vec::new(),
    };
    let error = fixture.driver.start(&workload).await.unwrap_err();
    assert!(matches!(error, DriverError::Unsupported { .. }));
    fixture.finish().await;
}
