//! A place to run containers in for one test: a data directory, an instance, a fabric, a driver; all gone afterwards,
//! however the test ends.

#![allow(
    clippy::unwrap_used,
    reason = "tests; clippy only knows those functions that are marked so"
)]

use std::{
    future::Future,
    net::IpAddr,
    panic::AssertUnwindSafe,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use futures_util::FutureExt;
use madang_container::{OciDriver, Options};
use madang_control::TaskGroup;
use madang_host::{
    Instance,
    cgroup::Hierarchies,
    link::{Bridge, Change, Links, VethEnd},
    workload::{Driver, Hardware, Nic, Root, State, Workload, contract::Fixture},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use parking_lot::Mutex;
use uuid::Uuid;

use super::images::{Image, Item, content_hash, layer};

pub const SECOND: Duration = Duration::from_secs(1);
/// What a busy machine may need for what usually takes milliseconds.
pub const LONG: Duration = Duration::from_secs(20);

pub struct Yard {
    dir: tempfile::TempDir,
    pub instance: Instance,
    pub driver: OciDriver,
    tasks: Mutex<TaskGroup>,
}

/// Runs a test in a yard and cleans up after it.
pub fn in_a_yard<F: Future<Output = ()>>(test: impl FnOnce(&'static Yard) -> F) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let instance = Instance::open(dir.path()).unwrap();
        instance.fabric().ensure().await.unwrap();
        let (driver, tasks) = open(dir.path(), &instance).await;
        // Lives as long as the test's process, which nextest gives to each test.
        let yard: &'static Yard = Box::leak(Box::new(Yard {
            dir,
            instance,
            driver,
            tasks: Mutex::new(tasks),
        }));
        let result = AssertUnwindSafe(test(yard)).catch_unwind().await;
        let clean = AssertUnwindSafe(yard.clean_up()).catch_unwind().await;
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
        if let Err(panic) = clean {
            std::panic::resume_unwind(panic);
        }
    });
}

async fn open(dir: &std::path::Path, instance: &Instance) -> (OciDriver, TaskGroup) {
    let tasks = TaskGroup::new("test");
    let options = Options {
        root: dir.join("containers"),
        instance: instance.clone(),
        shim: vec![env!("CARGO_BIN_EXE_madang-container-shim").into()],
        tasks: tasks.clone(),
    };
    (OciDriver::open(options).await.unwrap(), tasks)
}

impl Yard {
    /// A driver made anew over the same directory, as after a restart of madang.
    pub async fn reopen(&self) -> OciDriver {
        let old = self.tasks.lock().clone();
        assert_eq!(old.shutdown(LONG).await, [""; 0]);
        let (driver, tasks) = open(self.dir.path(), &self.instance).await;
        *self.tasks.lock() = tasks;
        driver
    }

    /// A container of an image that is there, such as one of another container.
    pub fn workload_of(&self, archive: PathBuf, name: &str) -> Workload {
        let workload = self.script("true");
        let root = Root::Container {
            archive,
            digest: content_hash(name.as_bytes()),
            size_bytes: 1 << 30,
            env: vec![],
        };
        Workload { root, ..workload }
    }

    /// Where a file that goes with the yard can be.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes an image and describes a container of it.
    pub fn workload(&self, image: &Image) -> Workload {
        let bytes = image.oci();
        let digest = content_hash(&bytes);
        let archive = self.dir.path().join(format!("{digest}.tar"));
        std::fs::write(&archive, bytes).unwrap();
        let id = Uuid::new_v4();
        let dir = self.dir.path().join("workloads").join(id.to_string());
        std::fs::create_dir_all(&dir).unwrap();
        Workload {
            id,
            hostname: "yard".into(),
            vcpus: 1,
            memory_bytes: 64 << 20,
            root: Root::Container {
                archive,
                digest,
                size_bytes: 1 << 30,
                env: vec![],
            },
            nics: vec![],
            dir,
            // Different from test to test, so that they can run side by side.
            uid: 0x7000_0000 + (id.as_u128() as u32 & 0xffff),
            config_drive: None,
            locals: Vec::new(),
            disks: Vec::new(),
            hardware: Hardware::default(),
            rescue: None,
        }
    }

    /// A container of busybox that runs a shell script.
    pub fn script(&self, script: &str) -> Workload {
        self.workload(&busybox(&["sh", "-c", script]))
    }

    /// Wires a port: a veth on the bridge `yard` in the fabric.
    pub async fn port(&self, number: u8, addresses: &[&str]) -> Nic {
        let fabric = self.instance.fabric();
        let links = Links::open(&fabric).await.unwrap();
        links.ensure_bridge("yard", &Bridge::default()).await.unwrap();
        let end = |name: String| VethEnd {
            name,
            netns: fabric.clone(),
            mac: None,
            mtu: Some(1400),
        };
        let (near, far) = (end(format!("v{number}")), end(format!("c{number}")));
        links.ensure_veth(&near, &far).await.unwrap();
        let plug = Change {
            up: Some(true),
            master: Some(Some("yard".into())),
            ..Change::default()
        };
        links.change(&near.name, &plug).await.unwrap();
        let gateway: IpAddr = "10.9.0.1".parse().unwrap();
        Nic {
            port: Uuid::new_v4(),
            mac: [0xfa, 0x16, 0x3e, 0, 0, number],
            device: near.name,
            peer: Some(far.name),
            netns: fabric.name().unwrap().to_owned(),
            mtu: 1400,
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            gateway: Some(gateway),
            routes: vec![("192.0.2.0/24".parse().unwrap(), gateway)],
            name_servers: vec!["10.9.0.2".parse().unwrap()],
        }
    }

    /// Runs a container to its end and returns its exit code and output.
    pub async fn run(&self, workload: &Workload) -> (Option<i32>, String) {
        self.driver.start(workload).await.unwrap();
        let state = self
            .wait_for(workload.id, |state| !matches!(state, State::Running { .. }))
            .await;
        let output = self.output(workload.id).await;
        match state {
            State::Stopped { exit_code } => (exit_code, output),
            other => panic!("{other:?}: {output}"),
        }
    }

    pub async fn output(&self, id: Uuid) -> String {
        String::from_utf8_lossy(&self.driver.console(id, 1 << 20).await.unwrap()).into_owned()
    }

    /// Waits for a state.
    pub async fn wait_for(&self, id: Uuid, wanted: impl Fn(&State) -> bool) -> State {
        wait_for(&self.driver, id, wanted).await
    }

    /// Waits for a line of output.
    pub async fn wait_for_output(&self, id: Uuid, wanted: &str) -> String {
        let deadline = now() + LONG;
        loop {
            let output = self.output(id).await;
            if output.contains(wanted) {
                return output;
            }
            assert!(now() < deadline, "no {wanted:?} in {output:?}");
            tokio::time::sleep(SECOND / 50).await;
        }
    }

    /// Removes all containers and asserts that nothing is left of them.
    async fn clean_up(&self) {
        let driver = self.reopen().await;
        for (id, _) in driver.list().await.unwrap() {
            driver.remove(id).await.unwrap();
        }
        let containers: Vec<_> = self.instance.cgroup(&Hierarchies::detect()).directories();
        let left: Vec<PathBuf> = containers
            .iter()
            .flat_map(|directory| std::fs::read_dir(directory).into_iter().flatten().flatten())
            .map(|entry| entry.path())
            .filter(|path| {
                path.file_name()
                    .is_some_and(|name| name.to_string_lossy().starts_with("ct-"))
            })
            .collect();
        let tasks = self.tasks.lock().clone();
        tasks.shutdown(LONG).await;
        self.instance.sweep().await.unwrap();
        let traces = self.instance.traces().await;
        std::fs::remove_dir_all(self.dir.path()).unwrap();
        assert!(left.is_empty(), "{left:?}");
        assert_eq!(traces, [""; 0]);
    }
}

pub async fn wait_for(driver: &OciDriver, id: Uuid, wanted: impl Fn(&State) -> bool) -> State {
    let deadline = now() + LONG;
    loop {
        let state = driver.state(id).await.unwrap();
        if wanted(&state) {
            return state;
        }
        assert!(now() < deadline, "{state:?}");
        tokio::time::sleep(SECOND / 100).await;
    }
}

#[expect(clippy::disallowed_methods, reason = "real containers take real time")]
pub fn now() -> Instant {
    Instant::now()
}

/// The yard as every driver's contract suite needs it.
pub struct Contract(pub &'static Yard, pub Arc<OciDriver>);

impl Contract {
    async fn signal(&self, id: Uuid, signal: Signal) {
        let State::Running { pid } = self.1.state(id).await.unwrap() else {
            panic!("it does not run")
        };
        kill(Pid::from_raw(pid as i32), signal).unwrap();
    }
}

#[async_trait]
impl Fixture for Contract {
    fn driver(&self) -> Arc<dyn Driver> {
        self.1.clone()
    }

    async fn reopen(&mut self) -> Arc<dyn Driver> {
        self.1 = Arc::new(self.0.reopen().await);
        self.1.clone()
    }

    async fn workload(&self) -> Workload {
        self.0
            .script("trap 'exit 0' TERM; echo hello from inside; while true; do sleep 1 & wait $!; done")
    }

    async fn broken(&self) -> Option<(Workload, &'static str)> {
        let workload = self.0.script("true");
        let Root::Container { archive, .. } = &workload.root else {
            unreachable!()
        };
        let bytes = std::fs::read(archive).unwrap();
        std::fs::write(archive, &bytes[..bytes.len() / 2]).unwrap();
        let digest = content_hash(workload.id.as_bytes());
        let root = Root::Container {
            archive: archive.clone(),
            digest,
            size_bytes: 1 << 30,
            env: vec![],
        };
        Some((Workload { root, ..workload }, "archive"))
    }

    fn greeting(&self) -> Option<&'static str> {
        Some("hello from inside")
    }

    async fn end(&self, id: Uuid) {
        self.signal(id, Signal::SIGTERM).await;
    }

    async fn kill(&self, id: Uuid) {
        self.signal(id, Signal::SIGKILL).await;
    }

    fn patience(&self) -> Duration {
        LONG
    }

    fn scratch(&self) -> Option<PathBuf> {
        Some(self.0.dir.path().to_owned())
    }

    async fn nic(&self) -> Option<Nic> {
        Some(self.0.port(200, &["10.9.0.200/24"]).await)
    }
}

/// The files of a small system around the host's static busybox.
pub fn busybox_layer() -> Vec<u8> {
    let busybox = std::fs::read("/bin/busybox").expect("the package busybox-static is installed");
    let mut items = vec![
        Item::Dir("./", 0o755),
        Item::Dir("bin", 0o755),
        Item::File("bin/busybox", 0o755, busybox),
        Item::Dir("tmp", 0o1777),
        Item::Dir("etc", 0o755),
        super::images::file(
            "etc/passwd",
            "root:x:0:0:root:/root:/bin/sh\nwww:x:33:33:www:/var/www:/bin/sh\n",
        ),
        super::images::file("etc/group", "root:x:0:\nwww:x:33:\naudio:x:29:www\n"),
    ];
    for applet in [
        "sh", "cat", "echo", "grep", "hostname", "id", "ip", "kill", "ls", "mkdir", "mkfifo", "mknod", "mount", "nc",
        "ping", "ps", "pwd", "readlink", "rm", "sleep", "stat", "su", "touch", "true", "uname", "wc", "chown",
        "chroot", "env", "tail", "head", "dd", "seq",
    ] {
        items.push(Item::Symlink(format!("bin/{applet}").leak(), "busybox"));
    }
    layer(&items)
}

/// An image of busybox with this command.
pub fn busybox(command: &[&str]) -> Image {
    Image::new(vec![busybox_layer()], command)
}

/// A program that makes one system call and exits with its error number, 0 if it succeeds: nothing else a test could
/// count on being installed does that.
pub fn caller(number: u32, first: u32) -> Vec<u8> {
    let mut code = vec![0xb8]; // mov eax, number
    code.extend(number.to_le_bytes());
    code.push(0xbf); // mov edi, first
    code.extend(first.to_le_bytes());
    // xor esi, esi; xor edx, edx; xor r10d, r10d; syscall
    code.extend([0x31, 0xf6, 0x31, 0xd2, 0x45, 0x31, 0xd2, 0x0f, 0x05]);
    // xor edi, edi; test rax, rax; jns +4; neg eax; mov edi, eax; mov eax, 60; syscall
    code.extend([
        0x31, 0xff, 0x48, 0x85, 0xc0, 0x79, 0x04, 0xf7, 0xd8, 0x89, 0xc7, 0xb8, 60, 0, 0, 0, 0x0f, 0x05,
    ]);
    let (base, start): (u64, u64) = (0x40_0000, 120);
    let size = start + code.len() as u64;
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    elf.extend((base + start).to_le_bytes());
    elf.extend(64_u64.to_le_bytes());
    elf.extend([0; 12]);
    for half in [64_u16, 56, 1, 0, 0, 0] {
        elf.extend(half.to_le_bytes());
    }
    elf.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    for word in [0, base, base, size, size, 4096] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(code);
    elf
}
