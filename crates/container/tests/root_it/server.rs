//! What makes a container a server: images of it, shells in it, interfaces and sizes that change while it runs.

use std::{fs, time::Duration};

use madang_host::workload::{ConsoleKind, Driver, DriverError, Root, Session, State, Workload};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    images::{Image, Item, file, layer},
    yard::{LONG, SECOND, Yard, busybox_layer, caller, in_a_yard, now},
};

/// A shell to talk to.
struct Shell(Box<dyn Session>);

impl Shell {
    async fn of(yard: &Yard, workload: &Workload) -> Self {
        Self(
            yard.driver
                .open_console(workload.id, ConsoleKind::Serial)
                .await
                .unwrap(),
        )
    }

    /// Reads until a text has come.
    async fn until(&mut self, wanted: &str) -> String {
        let mut said = Vec::new();
        let heard = async {
            let mut buffer = [0; 4096];
            while !String::from_utf8_lossy(&said).contains(wanted) {
                let count = self.0.read(&mut buffer).await.unwrap();
                assert!(
                    count > 0,
                    "ended without {wanted:?}: {}",
                    String::from_utf8_lossy(&said)
                );
                said.extend(&buffer[..count]);
            }
        };
        let heard = tokio::time::timeout(LONG, heard).await;
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(heard.is_ok(), "no {wanted:?} in {said:?}");
        said
    }

    /// Runs a command and returns what it wrote.
    async fn run(&mut self, command: &str) -> String {
        self.0
            .write_all(format!("{command}; echo do''ne\n").as_bytes())
            .await
            .unwrap();
        self.until("done\r\n").await
    }
}

#[test]
fn root_an_image_of_a_container_has_its_files() {
    in_a_yard(async |yard| {
        let layers = vec![
            busybox_layer(),
            layer(&[
                Item::Dir("data", 0o755),
                file("data/gone", "1"),
                file("data/stays", "2"),
                file("data/changes", "3"),
                Item::Dir("all", 0o755),
                file("all/a", "4"),
                Item::Dir("keep", 0o755),
                file("keep/below", "5"),
                Item::Owner(33, 33),
                file("www", "6"),
            ]),
        ];
        let script = "cd /; if [ ! -e one ]; then rm data/gone; echo new > data/changes; rm -r all; mkdir all; echo 8 > all/b; echo 9 > keep/above; \
                      echo x > one; busybox ln one two; chown 33:33 one; busybox chmod 4711 one; busybox ln -s /nowhere link; mkfifo pipe; \
                      mkdir -p a/long/way/down; echo deep > a/long/way/down/file; fi; echo ready; while true; do sleep 1; done";
        let image = Image::new(layers, &["sh", "-c", script]).with("Env", json!(["KEPT=yes"]));
        let workload = yard.workload(&image);
        yard.driver.start(&workload).await.unwrap();
        yard.wait_for_output(workload.id, "ready").await;
        let before = yard.driver.state(workload.id).await.unwrap();
        let archive = yard.file("copy.tar");
        yard.driver.snapshot(&workload, &archive).await.unwrap();
        assert_eq!(yard.driver.state(workload.id).await.unwrap(), before, "it goes on");

        let mut copy = yard.workload_of(archive.clone(), "copy");
        yard.driver.start(&copy).await.unwrap();
        let mut shell = Shell::of(yard, &copy).await;
        let seen = shell
            .run("cd /; ls -1 data all keep; cat data/changes all/b keep/above keep/below a/long/way/down/file; readlink link; stat -c '%a %u %h %F' one two pipe www; echo $KEPT")
            .await
            .replace('\r', "");
        for wanted in [
            "all:\nb\n",
            "data:\nchanges\nstays\n",
            "keep:\nabove\nbelow\n",
            "new\n8\n9\n5deep\n/nowhere\n",
            "4711 33 2 regular file\n4711 33 2 regular file\n644 0 1 fifo\n644 33 1 regular file\nyes\n",
        ] {
            assert!(seen.contains(wanted), "{wanted:?} is missing in {seen:?}");
        }
        drop(shell);
        // An image of an image, of one that is off; and one of a container that never ran.
        yard.driver.stop(copy.id, None).await.unwrap();
        let second = yard.file("second.tar");
        yard.driver.snapshot(&copy, &second).await.unwrap();
        let never = yard.workload_of(second.clone(), "second");
        yard.driver.snapshot(&never, &yard.file("third.tar")).await.unwrap();
        copy = yard.workload_of(yard.file("third.tar"), "third");
        yard.driver.start(&copy).await.unwrap();
        let seen = Shell::of(yard, &copy).await.run("cat /all/b; ls /data").await;
        assert!(seen.contains("8\r\n") && !seen.contains("gone"), "{seen}");
    });
}

#[test]
fn root_a_console_is_a_shell_of_its_own() {
    in_a_yard(async |yard| {
        let workload = yard.script("echo ready; while true; do sleep 1; done");
        yard.driver.start(&workload).await.unwrap();
        let mut shell = Shell::of(yard, &workload).await;
        let mut other = Shell::of(yard, &workload).await;
        shell.0.terminal().unwrap().resize(101, 33).unwrap();
        let said = shell
            .run("busybox stty size; echo $((6*7)) $TERM $(hostname) $(id -u)")
            .await;
        assert!(
            said.contains("33 101\r\n") && said.contains("42 xterm-256color yard 0\r\n"),
            "{said}"
        );
        other.run("echo still here > /tmp/other").await;
        assert!(shell.run("cat /tmp/other").await.contains("still here"));
        let status = shell
            .run("grep -e CapEff -e NoNewPrivs -e Seccomp: /proc/self/status")
            .await;
        assert!(
            status.contains("CapEff:\t00000000000425fb")
                && status.contains("NoNewPrivs:\t1")
                && status.contains("Seccomp:\t2"),
            "no more rights than the container: {status}"
        );
        shell.0.write_all(b"exit\n").await.unwrap();
        let mut rest = Vec::new();
        tokio::time::timeout(LONG, shell.0.read_to_end(&mut rest))
            .await
            .unwrap()
            .unwrap();
        // Who hangs up ends it.
        let processes = || {
            fs::read_dir("/proc")
                .unwrap()
                .flatten()
                .filter(|entry| {
                    let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
                    String::from_utf8_lossy(&environment).contains("HOSTNAME=yard")
                        && fs::read_to_string(entry.path().join("cgroup"))
                            .is_ok_and(|group| group.contains(&workload.id.to_string()))
                        && fs::read_to_string(entry.path().join("cmdline")).is_ok_and(|line| line.contains("-i"))
                })
                .count()
        };
        assert_eq!(processes(), 1, "the other one");
        drop(other);
        let deadline = now() + LONG;
        while processes() > 0 {
            assert!(now() < deadline, "it runs on");
            tokio::time::sleep(SECOND / 50).await;
        }

        let refused = |kind| async move { yard.driver.open_console(workload.id, kind).await.err().unwrap() };
        assert!(matches!(
            refused(ConsoleKind::Vnc).await,
            DriverError::Unsupported { .. }
        ));
        yard.driver.pause(workload.id).await.unwrap();
        assert!(refused(ConsoleKind::Serial).await.to_string().contains("paused"));
        yard.driver.stop(workload.id, None).await.unwrap();
        assert!(refused(ConsoleKind::Serial).await.to_string().contains("not running"));

        // The program waits for a signal: pause().
        let bare = Image::new(vec![layer(&[Item::File("wait", 0o755, caller(34, 0))])], &["/wait"]);
        let bare = yard.workload(&bare);
        yard.driver.start(&bare).await.unwrap();
        let error = yard
            .driver
            .open_console(bare.id, ConsoleKind::Serial)
            .await
            .err()
            .unwrap();
        assert!(error.to_string().contains("its image has no /bin/sh"), "{error}");
    });
}

#[test]
fn root_interfaces_come_to_a_running_container_and_go_home() {
    in_a_yard(async |yard| {
        let mut workload = yard.script("while true; do sleep 1; done");
        workload.nics = vec![yard.port(1, &["10.9.0.11/24"]).await];
        yard.driver.start(&workload).await.unwrap();
        let (second, third) = (
            yard.port(2, &["10.8.0.12/24"]).await,
            yard.port(3, &["10.7.0.13/24"]).await,
        );
        for nic in [&second, &third] {
            yard.driver.attach_nic(workload.id, nic).await.unwrap();
        }
        let mut shell = Shell::of(yard, &workload).await;
        let seen = shell.run("ip addr").await;
        for wanted in ["eth1", "10.8.0.12/24", "fa:16:3e:00:00:02", "eth2", "10.7.0.13/24"] {
            assert!(seen.contains(wanted), "{wanted} is missing in {seen}");
        }
        yard.driver.detach_nic(workload.id, second.port).await.unwrap();
        let seen = shell.run("ip addr").await;
        assert!(!seen.contains("10.8.0.12") && seen.contains("10.7.0.13"), "{seen}");
        let gone = yard.driver.attach_nic(workload.id, &second).await;
        gone.expect("its device is back home, so that it can come again");
        // The end of the container brings all of them home, those that came later too.
        yard.driver.stop(workload.id, None).await.unwrap();
        workload.nics.extend([third, second]);
        yard.driver.start(&workload).await.unwrap();
        let seen = Shell::of(yard, &workload).await.run("ip addr").await;
        assert!(seen.contains("10.8.0.12") && seen.contains("10.7.0.13"), "{seen}");

        let mut lost = yard.port(4, &["10.6.0.14/24"]).await;
        lost.peer = Some("nosuch".into());
        let error = yard
            .driver
            .attach_nic(workload.id, &lost)
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("nosuch"), "{error}");
        let usage = yard.driver.usage(workload.id).await.unwrap();
        assert_eq!(usage.nics.len(), 3);
        assert!(usage.memory_used_bytes.is_some_and(|bytes| bytes > 0));
    });
}

#[test]
fn root_the_writable_layer_has_the_size_of_the_flavor() {
    in_a_yard(async |yard| {
        // It is meant to fail; what it says and how far it came are looked at.
        let fill = "dd if=/dev/zero of=/big bs=1048576 count=150 2>&1 || true; ls -l /big";
        let mut workload = yard.script(&format!(
            "[ -e /big ] || {{ {fill}; }}; echo ready; while true; do sleep 1; done"
        ));
        size(&mut workload, 100 << 20);
        yard.driver.start(&workload).await.unwrap();
        let output = yard.wait_for_output(workload.id, "ready").await;
        assert!(output.contains("No space left on device"), "{output}");
        size(&mut workload, 400 << 20);
        let resized = yard.driver.resize(&workload).await;
        if !may_grow_what_is_mounted() {
            let error = resized.unwrap_err().to_string();
            assert!(error.contains("CAP_SYS_RESOURCE"), "{error}");
            yard.driver.reboot(&workload, None).await.unwrap();
        } else {
            resized.unwrap();
        }
        let mut shell = Shell::of(yard, &workload).await;
        let seen = shell.run(fill).await;
        assert!(!seen.contains("No space") && seen.contains("157286400"), "{seen}");
        shell.run("sync; echo kept > /kept").await;
        yard.driver.reboot(&workload, None).await.unwrap();
        let seen = Shell::of(yard, &workload).await.run("cat /kept; ls -l /big").await;
        assert!(seen.contains("kept\r\n") && seen.contains("157286400"), "{seen}");
        // It takes of the host what is written, not what may be.
        let blocks =
            std::os::unix::fs::MetadataExt::blocks(&fs::metadata(workload.dir.join("container/disk.img")).unwrap());
        assert!((150 << 11..250 << 11).contains(&blocks), "{blocks}");
        assert!(matches!(
            yard.driver.state(workload.id).await.unwrap(),
            State::Running { .. }
        ));
        yard.driver
            .stop(workload.id, Some(Duration::from_millis(10)))
            .await
            .unwrap();
        size(&mut workload, 500 << 20);
        yard.driver.start(&workload).await.unwrap();
        let seen = Shell::of(yard, &workload)
            .await
            .run("busybox df -m / | tail -n 1")
            .await;
        let size: u64 = seen
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .next()
            .unwrap();
        assert!((430..500).contains(&size), "{seen}");
    });
}

fn size(workload: &mut Workload, bytes: u64) {
    let Root::Container { size_bytes, .. } = &mut workload.root else {
        unreachable!()
    };
    *size_bytes = bytes;
}

/// The kernel asks for the capability CAP_SYS_RESOURCE, which root of a container host may be without.
fn may_grow_what_is_mounted() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(effective.trim(), 16).unwrap() & 1 << 24 != 0
}
