//! Real containers through runc: needs root, runc and busybox-static.
#![allow(
    clippy::unwrap_used,
    reason = "tests; clippy only knows those functions that are marked so"
)]

#[path = "support/images.rs"]
mod images;
#[path = "root_it/server.rs"]
mod server;
#[path = "support/yard.rs"]
mod yard;

use std::{fs, os::unix::fs::MetadataExt, sync::Arc, time::Duration};

use images::{Image, Item, file, layer};
use madang_host::{
    cgroup::Hierarchies,
    process::{Identity, Process},
    workload::{Driver, DriverError, Root, State},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;
use yard::{Contract, LONG, SECOND, busybox, busybox_layer, caller, in_a_yard, wait_for};

#[test]
fn root_the_contract_of_all_drivers_is_kept() {
    in_a_yard(async |yard| {
        let driver = Arc::new(yard.driver.clone());
        madang_host::workload::contract::run(&mut Contract(yard, driver)).await;
    });
}

#[test]
fn root_a_container_runs_ends_and_starts_again_on_its_disk() {
    in_a_yard(async |yard| {
        let workload =
            yard.script("cat /kept 2>/dev/null; echo $(hostname) $HOME $PATH; echo was here > /kept; exit 7");
        let mut changes = yard.driver.changes();
        let (code, output) = yard.run(&workload).await;
        assert_eq!(
            (code, output.as_str()),
            (
                Some(7),
                "yard /root /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"
            )
        );
        assert_eq!(
            tokio::time::timeout(LONG, changes.recv()).await.unwrap().unwrap(),
            workload.id
        );
        let (_, output) = yard.run(&workload).await;
        assert!(output.contains("was here"), "{output}");

        yard.driver.remove(workload.id).await.unwrap();
        assert_eq!(yard.driver.state(workload.id).await.unwrap(), State::Absent);
        assert_eq!(fs::read_dir(&workload.dir).unwrap().count(), 0);
        yard.driver.remove(workload.id).await.unwrap();
        yard.driver.stop(workload.id, None).await.unwrap();
    });
}

#[test]
fn root_stopping_is_polite_first_and_repeatable() {
    in_a_yard(async |yard| {
        let polite = yard.script("trap 'echo bye; exit 3' TERM; echo ready; while true; do sleep 1 & wait $!; done");
        let deaf = yard.script("trap '' TERM; echo ready; while true; do sleep 1; done");
        let image = busybox(&[
            "sh",
            "-c",
            "trap 'exit 4' QUIT; echo ready; while true; do sleep 1 & wait $!; done",
        ]);
        let quitter = yard.workload(&image.with("StopSignal", json!("SIGQUIT")));
        let mut changes = yard.driver.changes();
        for workload in [&polite, &deaf, &quitter] {
            yard.driver.start(workload).await.unwrap();
            yard.driver.start(workload).await.unwrap();
            yard.wait_for_output(workload.id, "ready").await;
        }
        yard.driver.stop(polite.id, Some(LONG)).await.unwrap();
        yard.driver.stop(deaf.id, Some(SECOND / 4)).await.unwrap();
        yard.driver.stop(quitter.id, Some(LONG)).await.unwrap();
        yard.driver.stop(quitter.id, Some(LONG)).await.unwrap();
        assert_eq!(
            yard.driver.state(polite.id).await.unwrap(),
            State::Stopped { exit_code: Some(3) }
        );
        assert_eq!(
            yard.driver.state(deaf.id).await.unwrap(),
            State::Stopped { exit_code: Some(137) }
        );
        assert_eq!(
            yard.driver.state(quitter.id).await.unwrap(),
            State::Stopped { exit_code: Some(4) }
        );
        assert!(changes.try_recv().is_err(), "all of it was asked for");

        yard.driver.reboot(&polite, Some(LONG)).await.unwrap();
        let State::Running { pid } = yard.driver.state(polite.id).await.unwrap() else {
            panic!("not running")
        };
        yard.driver.reboot(&polite, None).await.unwrap();
        let State::Running { pid: other } = yard.driver.state(polite.id).await.unwrap() else {
            panic!("not running")
        };
        assert_ne!(pid, other);
    });
}

#[test]
fn root_what_cannot_start_says_why() {
    in_a_yard(async |yard| {
        let with = |path, mode, body: &[u8]| vec![busybox_layer(), layer(&[Item::File(path, mode, body.to_vec())])];
        for (image, word) in [
            (busybox(&["/no/such"]), "\"/no/such\" is not in the image"),
            (busybox(&["nosuch"]), "not found in PATH"),
            (
                Image::new(with("bin/text", 0o755, b"hello"), &["text"]),
                "exec format error",
            ),
            (
                Image::new(with("bin/data", 0o644, b"hello"), &["/bin/data"]),
                "permission denied",
            ),
            (
                Image::new(with("bin/script", 0o755, b"#!/bin/bash\n"), &["script"]),
                "needs the interpreter \"/bin/bash\"",
            ),
            (
                busybox(&["true"]).with("User", json!("nobody-here")),
                "not in its /etc/passwd",
            ),
        ] {
            let workload = yard.workload(&image);
            let error = yard.driver.start(&workload).await.unwrap_err();
            assert!(matches!(error, DriverError::Broken(_)), "{error:?}");
            assert!(error.to_string().contains(word), "{error} should say {word}");
            let state = yard.driver.state(workload.id).await.unwrap();
            assert!(
                matches!(&state, State::Failed { reason } if reason.contains(word)),
                "{state:?}"
            );
        }
        // An ELF header and nothing that can be loaded: only the kernel finds out.
        let mut broken = caller(39, 0);
        broken.truncate(100);
        let workload = yard.workload(&Image::new(with("bin/broken", 0o755, &broken), &["broken"]));
        let started = yard.driver.start(&workload).await;
        let state = yard
            .wait_for(workload.id, |state| !matches!(state, State::Running { .. }))
            .await;
        let output = yard.output(workload.id).await;
        assert!(
            started.is_err() || output.contains("exec"),
            "{started:?} {state:?} {output}"
        );

        let mut disk = yard.script("true");
        disk.root = Root::Disk {
            base: "/nowhere".into(),
            format: madang_host::workload::DiskFormat::Raw,
            size_bytes: 0,
            kernel: None,
            ramdisk: None,
            kernel_args: None,
        };
        assert!(matches!(
            yard.driver.start(&disk).await,
            Err(DriverError::Unsupported { .. })
        ));
    });
}

#[test]
fn root_nothing_of_the_host_is_seen_and_no_rights_are_had() {
    in_a_yard(async |yard| {
        let calls: Vec<(u32, u32, i32)> = vec![
            (165, 0, 1),           // mount
            (272, 0x1000_0000, 1), // unshare, a user namespace
            (308, 0, 1),           // setns
            (250, 0, 1),           // keyctl
            (248, 0, 1),           // add_key
            (321, 0, 1),           // bpf
            (298, 0, 1),           // perf_event_open
            (304, 0, 1),           // open_by_handle_at
            (425, 1, 1),           // io_uring_setup
            (323, 0, 1),           // userfaultfd
            (41, 38, 1),           // socket, the kernel's crypto interface
            (41, 40, 1),           // socket, past the network to the host
            (56, 0x1000_0000, 1),  // clone, a user namespace
            (435, 0, 38),          // clone3
            (39, 0, 0),            // getpid, which is allowed
        ];
        let mut items = Vec::new();
        let mut script = String::from(
            "cat /proc/self/status; ls /proc | grep -c '^[0-9]*$'; mount -t tmpfs none /tmp || echo no mount; \
             mknod /tmp/sda b 8 0 || echo no device; hostname other || echo no hostname; chroot /proc/1/root true && echo same root; \
             echo 1 > /proc/sys/kernel/panic || echo no sysctl; echo b > /proc/sysrq-trigger || echo no sysrq; \
             ls /proc/keys /proc/kcore; cat /proc/kcore | wc -c; ls -ld /proc/1/root/. ; ls /; kill -9 2; touch /sys/x || echo no sys; ",
        );
        for (number, first, _) in &calls {
            let path: &'static str = format!("bin/call-{number}-{first}").leak();
            items.push(Item::File(path, 0o755, caller(*number, *first)));
            script.push_str(&format!("{path}; echo call {number} {first} $?; "));
        }
        // A set-user-id program gives nothing.
        items.push(Item::File("suid/id", 0o4755, fs::read("/bin/busybox").unwrap()));
        let image = Image::new(vec![busybox_layer(), layer(&items)], &["sh", "-c", &script]);
        let workload = yard.workload(&image);
        let (_, output) = yard.run(&workload).await;
        for (number, first, wanted) in &calls {
            let line = format!("call {number} {first} {wanted}\n");
            assert!(output.contains(&line), "{line} is missing in {output}");
        }
        for wanted in [
            "NoNewPrivs:\t1",
            "Seccomp:\t2",
            "no mount",
            "no device",
            "no hostname",
            "no sysctl",
            "no sysrq",
            "no sys",
        ] {
            assert!(output.contains(wanted), "{wanted} is missing in {output}");
        }
        let bits = |name: &str| {
            let line = output.lines().find(|line| line.starts_with(name)).unwrap();
            u64::from_str_radix(line.split_whitespace().last().unwrap(), 16).unwrap()
        };
        // CHOWN … SETUID, SETPCAP, NET_BIND_SERVICE, NET_RAW, SYS_CHROOT and nothing else.
        assert_eq!(bits("CapEff:"), 0x0004_25fb);
        assert_eq!(bits("CapBnd:"), bits("CapEff:"));
        let processes: u32 = output.lines().find_map(|line| line.parse().ok()).unwrap();
        assert!(processes <= 4, "{processes} processes are seen");

        let user = yard.workload(
            &Image {
                layers: image.layers.clone(),
                ..busybox(&[
                    "sh",
                    "-c",
                    "id; /suid/id -u; cat /proc/self/status; pwd; touch /x || echo no",
                ])
            }
            .with("User", json!("www"))
            .with("WorkingDir", json!("/made/for/it")),
        );
        let (_, output) = yard.run(&user).await;
        assert!(
            output.starts_with("uid=33(www) gid=33(www) groups=29(audio),33(www)\n33\n"),
            "{output}"
        );
        assert!(
            output.contains("CapEff:\t0000000000000000") && output.contains("CapPrm:\t0000000000000000"),
            "{output}"
        );
        assert!(
            output.ends_with("/made/for/it\ntouch: /x: Permission denied\nno\n"),
            "{output}"
        );
    });
}

#[test]
fn root_containers_are_other_users_of_the_host() {
    in_a_yard(async |yard| {
        let workloads = [
            yard.script("echo x > /mine; echo ready; sleep 100"),
            yard.script("echo x > /mine; echo ready; sleep 100"),
        ];
        let mut owners = Vec::new();
        for workload in &workloads {
            yard.driver.start(workload).await.unwrap();
            yard.wait_for_output(workload.id, "ready").await;
            let State::Running { pid } = yard.driver.state(workload.id).await.unwrap() else {
                panic!("not running")
            };
            let owner = fs::metadata(format!("/proc/{pid}")).unwrap().uid();
            assert_eq!(
                fs::metadata(format!("/proc/{pid}/{}", "root/mine")).unwrap().uid(),
                owner
            );
            owners.push(owner);
            for namespace in ["user", "pid", "net", "mnt", "uts", "ipc", "cgroup"] {
                let link = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{namespace}")).unwrap();
                assert_ne!(link(&pid.to_string()), link("self"), "{namespace}");
            }
            let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
            assert!(
                !mounts.contains("overlay") || !mounts.contains(&workload.id.to_string()),
                "the host must not see the root"
            );
        }
        assert!(
            owners.iter().all(|owner| *owner >= 0x2000_0000) && owners[0] != owners[1],
            "{owners:?}"
        );
    });
}

#[test]
fn root_limits_hold() {
    in_a_yard(async |yard| {
        let hungry = yard.script("echo go; tail /dev/zero");
        let mut changes = yard.driver.changes();
        yard.driver.start(&hungry).await.unwrap();
        // The shell is process 1 and survives; as process 1 itself, the eater takes the container with it.
        let (code, output) = {
            let state = yard
                .wait_for(hungry.id, |state| !matches!(state, State::Running { .. }))
                .await;
            (state, yard.output(hungry.id).await)
        };
        assert!(
            matches!(&code, State::Failed { reason } if reason.contains("64 MiB"))
                || matches!(code, State::Stopped { exit_code: Some(137) }),
            "{code:?} {output}"
        );
        let eater = yard.workload(&busybox(&["tail", "/dev/zero"]));
        yard.driver.start(&eater).await.unwrap();
        let state = yard
            .wait_for(eater.id, |state| !matches!(state, State::Running { .. }))
            .await;
        let State::Failed { reason } = state else {
            panic!("{state:?}")
        };
        assert_eq!(
            reason,
            "the container needed more than its 64 MiB of memory and was ended by the kernel"
        );
        tokio::time::timeout(LONG, async { while changes.recv().await.unwrap() != eater.id {} })
            .await
            .unwrap();

        let script = "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/cpu.max /sys/fs/cgroup/pids.max 2>/dev/null; \
                      n=0; while [ $n -lt 3000 ]; do sleep 60 & n=$((n+1)); done; echo all";
        let mut forks = yard.script(script);
        forks.memory_bytes = 1 << 30;
        let (_, output) = yard.run(&forks).await;
        assert!(output.contains("100000"), "{output}");
        assert!(output.contains("2048") && output.contains("can't fork"), "{output}");
        assert!(!output.contains("all"), "{output}");
    });
}

#[test]
fn root_pausing_keeps_everything() {
    in_a_yard(async |yard| {
        let workload = yard.script("n=0; while true; do n=$((n+1)); echo tick $n; sleep 0.1; done");
        yard.driver.start(&workload).await.unwrap();
        yard.wait_for_output(workload.id, "tick 2").await;
        yard.driver.pause(workload.id).await.unwrap();
        yard.driver.pause(workload.id).await.unwrap();
        assert_eq!(yard.driver.state(workload.id).await.unwrap(), State::Paused);
        tokio::time::sleep(SECOND / 5).await;
        let before = yard.output(workload.id).await;
        tokio::time::sleep(SECOND / 2).await;
        assert_eq!(yard.output(workload.id).await, before);
        assert_eq!(yard.reopen().await.state(workload.id).await.unwrap(), State::Paused);
        yard.driver.resume(workload.id).await.unwrap();
        yard.driver.resume(workload.id).await.unwrap();
        assert!(matches!(
            yard.driver.state(workload.id).await.unwrap(),
            State::Running { .. }
        ));
        let next = format!("tick {}\n", before.lines().count() + 2);
        yard.wait_for_output(workload.id, &next).await;
        // A paused one can be ended too.
        yard.driver.pause(workload.id).await.unwrap();
        yard.driver.stop(workload.id, Some(SECOND / 4)).await.unwrap();
        assert!(matches!(
            yard.driver.state(workload.id).await.unwrap(),
            State::Stopped { .. }
        ));
        assert!(yard.driver.pause(workload.id).await.is_err());
    });
}

#[test]
fn root_a_running_container_is_resized_without_noticing() {
    in_a_yard(async |yard| {
        let mut workload = yard.script("while true; do sleep 1; done");
        yard.driver.resize(&workload).await.unwrap_err();
        yard.driver.start(&workload).await.unwrap();
        let before = yard.driver.state(workload.id).await.unwrap();
        let State::Running { pid } = before else {
            panic!("not running")
        };
        workload.memory_bytes *= 2;
        workload.vcpus += 1;
        yard.driver.resize(&workload).await.unwrap();
        assert_eq!(yard.driver.state(workload.id).await.unwrap(), before);
        let wanted = workload.memory_bytes.to_string();
        let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        let limits = groups.lines().filter_map(|line| {
            let path = line.rsplit(':').next()?;
            let at = ["memory", ""].map(|root| format!("/sys/fs/cgroup/{root}{path}"));
            let files = at
                .iter()
                .flat_map(|at| [format!("{at}/memory.limit_in_bytes"), format!("{at}/memory.max")]);
            files.filter_map(|file| std::fs::read_to_string(file).ok()).next()
        });
        let limits: Vec<String> = limits.collect();
        assert!(
            limits.iter().any(|limit| limit.trim() == wanted),
            "{limits:?} without {wanted}"
        );
    });
}

#[test]
fn root_a_new_driver_finds_everything_again() {
    in_a_yard(async |yard| {
        let runs = yard.script("trap 'exit 5' TERM; n=0; while true; do n=$((n+1)); echo tick $n; sleep 0.1; done");
        let ended = yard.script("exit 9");
        yard.driver.start(&runs).await.unwrap();
        yard.run(&ended).await;
        let before = yard.driver.state(runs.id).await.unwrap();
        let driver = yard.reopen().await;
        assert_eq!(driver.state(runs.id).await.unwrap(), before, "nobody noticed");
        let mut all = driver.list().await.unwrap();
        all.sort_by_key(|(id, _)| *id != runs.id);
        assert_eq!(
            all,
            [
                (runs.id, before.clone()),
                (ended.id, State::Stopped { exit_code: Some(9) })
            ]
        );
        driver.start(&runs).await.unwrap();
        assert_eq!(
            driver.state(runs.id).await.unwrap(),
            before,
            "starting what runs does nothing"
        );
        let mut changes = driver.changes();
        let State::Running { pid } = before else {
            panic!("not running")
        };
        kill(Pid::from_raw(pid as i32), Signal::SIGTERM).unwrap();
        // The other's end may be told late, too.
        let told = async { while changes.recv().await.unwrap() != runs.id {} };
        tokio::time::timeout(LONG, told).await.unwrap();
        assert_eq!(
            driver.state(runs.id).await.unwrap(),
            State::Stopped { exit_code: Some(5) }
        );
    });
}

#[test]
fn root_a_killed_shim_is_replaced_and_the_container_goes_on() {
    in_a_yard(async |yard| {
        let mut workload = yard.script("n=0; while true; do n=$((n+1)); echo tick $n; sleep 0.05; done");
        workload.nics = vec![yard.port(1, &["10.9.0.11/24"]).await];
        yard.driver.start(&workload).await.unwrap();
        let before = yard.driver.state(workload.id).await.unwrap();
        for next in ["tick 3\n", "tick 30\n"] {
            yard.wait_for_output(workload.id, next).await;
            let shim = shim_of(&workload.dir);
            kill(Pid::from_raw(shim), Signal::SIGKILL).unwrap();
            let deadline = yard::now() + LONG;
            while shim_of(&workload.dir) == shim {
                assert!(yard::now() < deadline, "no new shim");
                tokio::time::sleep(SECOND / 50).await;
            }
        }
        yard.wait_for_output(workload.id, "tick 60\n").await;
        assert_eq!(yard.driver.state(workload.id).await.unwrap(), before);

        // Killed while nobody watches: found by the next driver.
        let driver = yard.reopen().await;
        let shim = shim_of(&workload.dir);
        kill(Pid::from_raw(shim), Signal::SIGKILL).unwrap();
        let mut changes = driver.changes();
        tokio::time::sleep(SECOND / 2).await;
        let State::Running { pid } = before else {
            panic!("not running")
        };
        kill(Pid::from_raw(pid as i32), Signal::SIGKILL).unwrap();
        assert_eq!(
            tokio::time::timeout(LONG, changes.recv()).await.unwrap().unwrap(),
            workload.id
        );
        assert_eq!(
            driver.state(workload.id).await.unwrap(),
            State::Stopped { exit_code: None }
        );
        driver.start(&workload).await.unwrap();
        assert!(
            matches!(driver.state(workload.id).await.unwrap(), State::Running { .. }),
            "its device has come back"
        );

        // Both at once, with no driver at all.
        let State::Running { pid } = driver.state(workload.id).await.unwrap() else {
            panic!("not running")
        };
        let old = yard.reopen().await;
        drop(old);
        kill(Pid::from_raw(shim_of(&workload.dir)), Signal::SIGKILL).unwrap();
        kill(Pid::from_raw(pid as i32), Signal::SIGKILL).unwrap();
        let driver = yard.reopen().await;
        let state = wait_for(&driver, workload.id, |state| !matches!(state, State::Running { .. })).await;
        assert_eq!(state, State::Stopped { exit_code: None });
        driver.remove(workload.id).await.unwrap();
    });
}

fn shim_of(dir: &std::path::Path) -> i32 {
    let record = fs::read_to_string(dir.join("container/record.json")).unwrap();
    let record: serde_json::Value = serde_json::from_str(&record).unwrap();
    record["shim"]["pid"].as_i64().unwrap() as i32
}

#[test]
fn root_containers_talk_over_their_ports() {
    in_a_yard(async |yard| {
        // An ordinary user may listen on a low port: the network is the container's own.
        let script = "ip addr; ip route; cat /etc/resolv.conf /etc/hosts; echo ready; while true; do echo hello | nc -l -p 80; done";
        let mut server = yard.workload(&busybox(&["sh", "-c", script]).with("User", json!("www")));
        server.nics = vec![
            yard.port(1, &["10.9.0.11/24", "fd00:9::11/64"]).await,
            yard.port(2, &["10.8.0.12/24"]).await,
        ];
        server.nics[1].gateway = None;
        server.nics[1].routes.clear();
        yard.driver.start(&server).await.unwrap();
        let output = yard.wait_for_output(server.id, "ready").await;
        for wanted in [
            "fa:16:3e:00:00:01",
            "mtu 1400",
            "inet 10.9.0.11/24 brd 10.9.0.255",
            "inet6 fd00:9::11/64",
            "eth1",
            "inet 10.8.0.12/24",
            "default via 10.9.0.1 dev eth0",
            "192.0.2.0/24 via 10.9.0.1 dev eth0",
            "nameserver 10.9.0.2",
            "10.9.0.11\tyard",
        ] {
            assert!(output.contains(wanted), "{wanted} is missing in {output}");
        }
        let mut client = yard.script(
            "ping -c 1 -w 5 localhost && ping -c 1 -w 5 10.9.0.11 && ping -c 1 -w 5 fd00:9::11 && nc 10.9.0.11 80",
        );
        client.nics = vec![yard.port(3, &["10.9.0.13/24", "fd00:9::13/64"]).await];
        let (code, output) = yard.run(&client).await;
        assert_eq!(code, Some(0), "{output}");
        assert!(output.ends_with("hello\n"), "{output}");
        // The devices went back, so the same ports serve again.
        let (code, output) = yard.run(&client).await;
        assert_eq!(code, Some(0), "{output}");

        let mut unwired = yard.script("true");
        unwired.nics = vec![yard.port(4, &["10.9.0.14/24"]).await];
        unwired.nics[0].peer = Some("nosuch".into());
        let error = yard.driver.start(&unwired).await.unwrap_err().to_string();
        assert!(error.contains("nosuch"), "{error}");
    });
}

#[test]
fn root_upper_layers_hide_and_replace_what_is_below() {
    in_a_yard(async |yard| {
        let layers = vec![
            busybox_layer(),
            layer(&[
                Item::Dir("data", 0o2775),
                Item::Owner(33, 33),
                Item::Dir("own", 0o700),
                file("data/gone", "1"),
                file("data/stays", "2"),
                file("data/changes", "3"),
                Item::Dir("all", 0o755),
                file("all/a", "4"),
                file("all/b", "5"),
                Item::Dir("tree/deep", 0o755),
                file("tree/deep/x", "6"),
                Item::Dir("usr/lib", 0o755),
                Item::Symlink("lib", "usr/lib"),
                file("becomes", "7"),
                Item::Dir("was", 0o755),
                file("was/x", ""),
            ]),
            layer(&[
                file("data/.wh.gone", ""),
                file("data/changes", "new"),
                file("all/c", "8"),
                file("all/.wh..wh..opq", ""),
                file(".wh.tree", ""),
                file("lib/added", "9"),
                Item::Dir("becomes", 0o755),
                file("becomes/dir", "10"),
                file("was", "file"),
                file(".wh.nothing", ""),
            ]),
        ];
        let script = "cd /; ls data all usr/lib becomes; cat data/changes all/c lib/added becomes/dir was; ls -d tree; readlink lib; stat -c '%a %u:%g' data own .";
        let workload = yard.workload(&Image::new(layers, &["sh", "-c", script]));
        let (_, output) = yard.run(&workload).await;
        let wanted = "all:\nc\n\nbecomes:\ndir\n\ndata:\nchanges\nstays\n\nusr/lib:\nadded\nnew8910filels: tree: No such file or directory\nusr/lib\n2775 0:0\n700 33:33\n755 0:0\n";
        assert_eq!(output, wanted);
        // The container may delete what its image brings; the image stays.
        let again = yard.script("rm -r /bin/cat /etc; ls /; echo done");
        let (_, output) = yard.run(&again).await;
        assert!(output.contains("done"), "{output}");
        let (_, output) = yard.run(&yard.script("cat /etc/passwd")).await;
        assert!(output.contains("root"), "{output}");
    });
}

#[test]
fn root_output_is_bounded_and_nobody_waits_for_it() {
    in_a_yard(async |yard| {
        let workload = yard.script("dd if=/dev/zero bs=65536 count=400 2>/dev/null; echo; echo the end; echo to stderr >&2; echo again > /dev/stdout");
        let (code, output) = yard.run(&workload).await;
        assert_eq!(code, Some(0));
        assert!(
            output.ends_with("\nthe end\nto stderr\nagain\n"),
            "{}",
            &output[output.len() - 60..]
        );
        let size: u64 = ["console.log", "console.log.1"]
            .iter()
            .map(|name| fs::metadata(workload.dir.join("container").join(name)).unwrap().len())
            .sum();
        assert!(size < 9 << 20, "{size}");
        assert_eq!(yard.driver.console(workload.id, 6).await.unwrap(), b"again\n");
    });
}

#[test]
fn root_an_interrupted_start_is_finished_or_repeated() {
    in_a_yard(async |yard| {
        let mut driver = yard.driver.clone();
        for kill_the_shim in [false, true] {
            for delay_ms in [0, 4, 8, 15, 25, 40, 70] {
                let workload = yard.script("echo once; sleep 1000");
                let begun = tokio::time::timeout(Duration::from_millis(delay_ms), driver.start(&workload)).await;
                driver = yard.reopen().await;
                if kill_the_shim && workload.dir.join("container/record.json").exists() {
                    kill(Pid::from_raw(shim_of(&workload.dir)), Signal::SIGKILL).unwrap();
                }
                driver
                    .start(&workload)
                    .await
                    .unwrap_or_else(|error| panic!("{begun:?} {delay_ms}: {error}"));
                let State::Running { pid } = driver.state(workload.id).await.unwrap() else {
                    panic!("{delay_ms}: not running")
                };
                let group = yard
                    .instance
                    .cgroup(&Hierarchies::detect())
                    .child(&format!("ct-{}", workload.id))
                    .unwrap();
                // The shell may not have started its `sleep` yet.
                assert!(
                    group.processes().contains(&pid) && group.processes().len() <= 2,
                    "{delay_ms}: one container only"
                );
                driver.remove(workload.id).await.unwrap();
                assert!(!group.exists());
            }
        }
    });
}

#[test]
fn root_many_at_once() {
    in_a_yard(async |yard| {
        let workloads: Vec<_> = (0..20)
            .map(|i| yard.script(&format!("echo number {i}; sleep 1000")))
            .collect();
        let starts = workloads.iter().map(|workload| yard.driver.start(workload));
        futures_util::future::try_join_all(starts).await.unwrap();
        for (i, workload) in workloads.iter().enumerate() {
            yard.wait_for_output(workload.id, &format!("number {i}\n")).await;
        }
        assert_eq!(yard.driver.list().await.unwrap().len(), workloads.len());
        let removes = workloads.iter().map(|workload| yard.driver.remove(workload.id));
        futures_util::future::try_join_all(removes).await.unwrap();
        assert_eq!(yard.driver.list().await.unwrap(), []);
    });
}

#[test]
fn root_a_sweep_of_the_host_ends_containers_too() {
    in_a_yard(async |yard| {
        let (runs, paused) = (yard.script("sleep 1000"), yard.script("sleep 1000"));
        for workload in [&runs, &paused] {
            yard.driver.start(workload).await.unwrap();
        }
        yard.driver.pause(paused.id).await.unwrap();
        let State::Running { pid } = yard.driver.state(runs.id).await.unwrap() else {
            panic!("not running")
        };
        let identity = Identity::of(pid).unwrap();
        // As `madang down` does: without a driver.
        drop(yard.reopen().await);
        yard.instance.sweep().await.unwrap();
        assert_eq!(yard.instance.traces().await, [""; 0]);
        assert!(Process::find(identity).is_none());

        yard.instance.fabric().ensure().await.unwrap();
        let driver = yard.reopen().await;
        for workload in [&runs, &paused] {
            let state = driver.state(workload.id).await.unwrap();
            assert!(matches!(state, State::Stopped { .. }), "{state:?}");
            driver.start(workload).await.unwrap();
            assert!(matches!(
                driver.state(workload.id).await.unwrap(),
                State::Running { .. }
            ));
        }
    });
}

#[test]
fn root_a_spare_shim_takes_the_next_container() {
    in_a_yard(async |yard| {
        let [first, second, third] = ["a", "b", "c"].map(|word| yard.script(&format!("echo {word}; sleep 100")));
        yard.driver.start(&first).await.unwrap();
        let spare = spare_shim().await;
        yard.driver.start(&second).await.unwrap();
        yard.wait_for_output(second.id, "b\n").await;
        assert_eq!(shim_of(&second.dir), spare);

        // One that is killed meanwhile is not missed.
        let spare = spare_shim().await;
        kill(Pid::from_raw(spare), Signal::SIGKILL).unwrap();
        yard.driver.start(&third).await.unwrap();
        yard.wait_for_output(third.id, "c\n").await;
        assert_ne!(shim_of(&third.dir), spare);

        // Without a driver it is of no use.
        let mut alone = std::process::Command::new(env!("CARGO_BIN_EXE_madang-container-shim"));
        alone.arg("spare").stdin(std::process::Stdio::piped());
        let mut alone = alone.spawn().unwrap();
        drop(alone.stdin.take());
        assert!(alone.wait().unwrap().success());
    });
}

/// The shim that waits for the next container of this process's driver.
async fn spare_shim() -> i32 {
    let deadline = yard::now() + LONG;
    loop {
        for entry in fs::read_dir("/proc/self/task").unwrap().flatten() {
            let children = fs::read_to_string(entry.path().join("children")).unwrap_or_default();
            let spare = children.split_whitespace().find(|child| {
                let words = fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
                words.ends_with(b"\0spare\0")
            });
            if let Some(spare) = spare {
                return spare.parse().unwrap();
            }
        }
        assert!(yard::now() < deadline, "no spare shim");
        tokio::time::sleep(SECOND / 50).await;
    }
}

#[test]
fn root_the_shim_is_small() {
    in_a_yard(async |yard| {
        let workload = yard.script("sleep 100");
        yard.driver.start(&workload).await.unwrap();
        let status = fs::read_to_string(format!("/proc/{}/status", shim_of(&workload.dir))).unwrap();
        let field = |name: &str| -> u64 {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        let groups = || fs::read_to_string(format!("/proc/{}/cgroup", shim_of(&workload.dir))).unwrap();
        let deadline = yard::now() + LONG;
        while !groups().contains("/shims") {
            assert!(
                yard::now() < deadline,
                "it stays in the group of who started it: {}",
                groups()
            );
            tokio::time::sleep(SECOND / 50).await;
        }
        assert_eq!(field("Threads:"), 1);
        assert!(field("RssAnon:") < 2048, "{} kB of its own", field("RssAnon:"));
    });
}
