//! The tiny guest is built from Debian's packages and booted, under emulation, without root.
//!
//! Needs QEMU, an ssh client and mtools, and says so when one is missing: a guest nobody has booted is not a guest.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use madang_image::tiny::{TinyFormat, TinyImage, TinyOptions, build};

/// How long a boot may take on a machine that does ten other things. The benchmark measures; this only ends a hang.
const PATIENCE: Duration = Duration::from_secs(90);

async fn tiny() -> TinyImage {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tiny");
    build(
        TinyOptions {
            cache,
            output: None,
            format: TinyFormat::Qcow2,
        },
        &|_| (),
    )
    .await
    .expect("the guest is built")
}

fn run(program: &str, package: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    output.unwrap_or_else(|e| panic!("{program} could not be started ({e}): apt-get install {package}"))
}

fn must(program: &str, package: &str, arguments: &[&str]) {
    let output = run(program, package, arguments);
    assert!(
        output.status.success(),
        "{program}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A guest in QEMU, its files in a directory of its own.
struct Guest {
    directory: tempfile::TempDir,
    qemu: Child,
    ssh_port: u16,
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

impl Guest {
    /// Starts a guest whose disk stands on `image`; `directory` holds the client's key.
    fn start(image: &TinyImage, directory: tempfile::TempDir, network: &str, extra: &[&str]) -> Self {
        let disk = directory.path().join("disk.qcow2");
        let base = image.path.to_str().unwrap();
        must(
            "qemu-img",
            "qemu-utils",
            &[
                "create",
                "-q",
                "-f",
                "qcow2",
                "-F",
                "qcow2",
                "-b",
                base,
                disk.to_str().unwrap(),
                "1G",
            ],
        );
        let ssh_port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let monitor = format!("unix:{},server,nowait", directory.path().join("monitor").display());
        let network = format!("user,id=n,{network},hostfwd=tcp:127.0.0.1:{ssh_port}-:22");
        let console = fs::File::create(directory.path().join("console")).unwrap();
        let qemu = Command::new("qemu-system-x86_64")
            .args([
                "-accel", "tcg", "-cpu", "max", "-m", "128", "-display", "none", "-serial", "stdio",
            ])
            .args([
                "-monitor",
                &monitor,
                "-drive",
                &format!("file={},if=virtio", disk.display()),
            ])
            .args(["-netdev", &network, "-device", "virtio-net-pci,netdev=n"])
            .args(extra)
            .stdin(Stdio::null())
            .stdout(console.try_clone().unwrap())
            .stderr(console)
            .spawn()
            .unwrap_or_else(|e| panic!("QEMU could not be started ({e}): apt-get install qemu-system-x86"));
        Self {
            directory,
            qemu,
            ssh_port,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.path("console")).unwrap()).into_owned()
    }

    fn ssh(&self, user: &str, command: &str) -> Output {
        let (key, port) = (self.path("key"), self.ssh_port.to_string());
        let to = format!("{user}@127.0.0.1");
        let mut arguments = vec!["-i", key.to_str().unwrap(), "-p", &port, "-F", "none"];
        for option in [
            "BatchMode=yes",
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "ConnectTimeout=5",
        ] {
            arguments.extend(["-o", option]);
        }
        arguments.extend([to.as_str(), command]);
        run("ssh", "openssh-client", &arguments)
    }

    /// What a command prints, once the guest answers.
    async fn ask(&self, command: &str) -> String {
        let begin = tokio::time::Instant::now();
        loop {
            let output = self.ssh("tiny", command);
            if output.status.success() {
                return String::from_utf8(output.stdout).unwrap().trim().to_owned();
            }
            let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(
                begin.elapsed() < PATIENCE,
                "no answer: {complaint}\n--- console\n{}",
                self.console()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn see(&self, words: &str) {
        let begin = tokio::time::Instant::now();
        while !self.console().contains(words) {
            assert!(
                begin.elapsed() < PATIENCE,
                "no {words:?} on the console:\n{}",
                self.console()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn press_power_button(&mut self) {
        let mut monitor = UnixStream::connect(self.path("monitor")).unwrap();
        let begin = tokio::time::Instant::now();
        while self.qemu.try_wait().unwrap().is_none() {
            assert!(begin.elapsed() < PATIENCE, "still running:\n{}", self.console());
            // Again and again, as a cloud does: a press before the button has its driver is lost.
            let _ = monitor.write_all(b"system_powerdown\n");
            tokio::time::sleep(Duration::from_millis(1000)).await;
        }
        assert!(self.qemu.wait().unwrap().success());
    }
}

/// A directory with a key pair; returns the public half too.
fn with_key() -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let key = directory.path().join("key");
    must(
        "ssh-keygen",
        "openssh-client",
        &["-q", "-t", "ed25519", "-N", "", "-f", key.to_str().unwrap()],
    );
    let public = fs::read_to_string(directory.path().join("key.pub")).unwrap();
    (directory, public.trim().to_owned())
}

fn meta_data(host: &str, key: &str) -> String {
    let keys = serde_json::json!({ "my \"best\" key": format!("{key}\n") });
    serde_json::json!({"uuid": "5a52f1a5-3c2c-4c8e-9d6b-0d6a8a7c2f11", "hostname": host, "public_keys": keys,
        "meta": {"nested": [1, {"deep": true}], "text": "a, b: \"c\" \u{e9}"}})
    .to_string()
}

/// Answers the metadata paths until the process ends. Returns the port.
fn serve_metadata(meta_data: String, user_data: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = answer(stream.unwrap(), &meta_data, user_data);
        }
    });
    port
}

fn answer(mut stream: TcpStream, meta_data: &str, user_data: &str) -> std::io::Result<()> {
    let mut request = [0; 4096];
    let read = stream.read(&mut request)?;
    let request = String::from_utf8_lossy(&request[..read]).into_owned();
    let (status, body) = match request.split(' ').nth(1) {
        Some("/openstack/latest/meta_data.json") => ("200 OK", meta_data),
        Some("/openstack/latest/user_data") => ("200 OK", user_data),
        _ => ("404 Not Found", ""),
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

#[tokio::test]
async fn boot_tiny_with_the_metadata_service() {
    let image = tiny().await;
    let (directory, key) = with_key();
    let port = serve_metadata(
        meta_data("walk.example.org", &key),
        "#!/bin/sh\necho ran >> /home/tiny/user-data\n",
    );
    // QEMU's own network has no such address; it hands a connection to it to a program.
    let relay = directory.path().join("relay");
    fs::write(
        &relay,
        format!("#!/bin/bash\nexec 3<>/dev/tcp/127.0.0.1/{port}\ncat <&3 &\ncat >&3\n"),
    )
    .unwrap();
    fs::set_permissions(&relay, fs::Permissions::from_mode(0o755)).unwrap();
    let network = format!(
        "net=169.254.169.0/24,host=169.254.169.253,dns=169.254.169.252,dhcpstart=169.254.169.15,\
         guestfwd=tcp:169.254.169.254:80-cmd:{}",
        relay.display()
    );
    let mut guest = Guest::start(&image, directory, &network, &[]);

    assert_eq!(guest.ask("hostname; id -un; su -c 'id -u'").await, "walk\ntiny\n0");
    assert!(!guest.ssh("root", "true").status.success(), "root must not come in");
    guest.see("user data ended with status 0").await;
    guest.see("tiny: host key SHA256:").await;
    guest.see("walk login:").await;
    assert_eq!(
        guest.ask("ping -c 1 169.254.169.253 | grep -c ' 0% packet loss'").await,
        "1"
    );
    assert_eq!(
        guest
            .ask("curl -s http://169.254.169.254/openstack/latest/user_data | head -n 1")
            .await,
        "#!/bin/sh"
    );

    // A reboot keeps what was written, keys added by hand included, and runs user data no second time.
    let host_key = guest
        .ask("su -c 'dropbearkey -y -f /etc/dropbear/dropbear_ed25519_host_key' | tail -n 1")
        .await;
    guest
        .ask("echo mine > kept; echo 'ssh-ed25519 AAAA by-hand' >> .ssh/authorized_keys; sync")
        .await;
    let first_boot = guest.ask("cat /proc/sys/kernel/random/boot_id").await;
    guest.ssh("tiny", "su -c reboot");
    while guest.ask("cat /proc/sys/kernel/random/boot_id").await == first_boot {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(
        guest.ask("cat kept user-data; grep -c '' .ssh/authorized_keys").await,
        "mine\nran\n2"
    );
    let host_key_now = guest
        .ask("su -c 'dropbearkey -y -f /etc/dropbear/dropbear_ed25519_host_key' | tail -n 1")
        .await;
    assert_eq!(host_key, host_key_now);

    guest.press_power_button().await;
    assert!(guest.console().contains("tiny: power button"), "{}", guest.console());
}

#[tokio::test]
async fn boot_tiny_directly_with_a_config_drive_and_two_interfaces() {
    let image = tiny().await;
    let (directory, key) = with_key();
    let drive = directory.path().join("drive");
    fs::write(&drive, vec![0; 1440 << 10]).unwrap();
    let (drive, file) = (drive.to_str().unwrap().to_owned(), directory.path().join("file"));
    must(
        "mformat",
        "mtools",
        &["-i", &drive, "-v", "config-2", "-f", "1440", "::"],
    );
    must("mmd", "mtools", &["-i", &drive, "::openstack", "::openstack/latest"]);
    for (name, content) in [
        ("meta_data.json", meta_data("driven", &key)),
        ("user_data", "#!/bin/sh\necho from the drive\n".to_owned()),
    ] {
        fs::write(&file, content).unwrap();
        let to = format!("::openstack/latest/{name}");
        must("mcopy", "mtools", &["-i", &drive, file.to_str().unwrap(), &to]);
    }
    let extra = [
        "-kernel",
        image.kernel.to_str().unwrap(),
        "-initrd",
        image.ramdisk.to_str().unwrap(),
        "-append",
        &image.command_line,
        "-smp",
        "2",
        "-drive",
        &format!("file={drive},if=virtio,format=raw,readonly=on"),
        "-netdev",
        "user,id=n2,net=10.7.0.0/24",
        "-device",
        "virtio-net-pci,netdev=n2",
    ];
    let mut guest = Guest::start(&image, directory, "net=10.6.0.0/24", &extra);

    assert_eq!(guest.ask("hostname").await, "driven");
    guest.see("tiny: configured by the config drive").await;
    guest.see("from the drive").await;
    guest.see("eth1 has 10.7.0.15/24").await;
    // The first interface has the better way out.
    assert_eq!(
        guest.ask("ip route get 192.0.2.1 | grep -o 'dev eth.'").await,
        "dev eth0"
    );
    assert_eq!(guest.ask("nproc").await, "2");
    guest.press_power_button().await;
}
