//! Processes with dropped rights, control groups.

use std::{fs, time::Duration};

use madang_host::{
    cgroup::{Layout, Limits},
    process::{Command, Stdio},
};

use crate::Fixture;

#[tokio::test]
async fn a_process_starts_with_exactly_its_rights() {
    let fixture = Fixture::new();
    let fabric = fixture.instance.fabric();
    fabric.ensure().await.unwrap();
    let hierarchies = Fixture::hierarchies();
    let group = fixture.instance.cgroup(&hierarchies).child("p").unwrap();
    group
        .ensure(&Limits {
            memory_bytes: Some(64 << 20),
            cpus: Some(0.5),
            cpu_shares: Some(512),
            processes: Some(20),
        })
        .unwrap();
    let uid = fixture.instance.uids().unwrap().get(7).unwrap();
    let process = Command::new("sleep")
        .arg("60")
        .netns(&fabric)
        .cgroup(&group)
        .run_as(uid, uid, &[4242])
        .limit(nix::libc::RLIMIT_NOFILE, 77)
        .start()
        .await
        .unwrap();
    let proc = |file: &str| fs::read_to_string(format!("/proc/{}/{file}", process.pid())).unwrap();
    let status = proc("status");
    let field = |name: &str| {
        status
            .lines()
            .find_map(|l| l.strip_prefix(name))
            .unwrap()
            .split_whitespace()
            .collect::<Vec<_>>()
    };
    let id = uid.to_string();
    assert_eq!(field("Uid:"), [&id, &id, &id, &id]);
    assert_eq!(field("Gid:"), [&id, &id, &id, &id]);
    assert_eq!(field("Groups:"), ["4242"]);
    assert_eq!(field("NoNewPrivs:"), ["1"]);
    assert_eq!(field("CapEff:"), ["0000000000000000"]);
    assert_eq!(field("CapPrm:"), ["0000000000000000"]);
    assert!(
        proc("limits")
            .lines()
            .any(|l| l.starts_with("Max open files") && l.contains(" 77 "))
    );
    let namespace = fs::read_link(format!("/proc/{}/ns/net", process.pid())).unwrap();
    assert_eq!(
        namespace,
        fabric
            .run(|| fs::read_link("/proc/thread-self/ns/net").unwrap())
            .await
            .unwrap()
    );
    assert_eq!(
        proc("environ").split('\0').filter(|v| !v.is_empty()).count(),
        2,
        "PATH and LC_ALL"
    );
    assert_eq!(group.processes(), [process.pid()]);
    assert_eq!(group.usage().processes, 1);
    if hierarchies.layout() != Layout::V2 {
        assert!(
            proc("cgroup")
                .lines()
                .filter(|l| l.ends_with(&format!("/{}/p", fixture.instance.cgroup_name())))
                .count()
                >= 3
        );
    }
    group.kill().await.unwrap();
    assert_eq!(process.wait().await, Some(137));
    fixture.finish().await;
}

#[tokio::test]
async fn memory_beyond_the_limit_ends_the_process() {
    let fixture = Fixture::new();
    let group = fixture.instance.cgroup(&Fixture::hierarchies()).child("small").unwrap();
    group
        .ensure(&Limits {
            memory_bytes: Some(16 << 20),
            ..Limits::default()
        })
        .unwrap();
    let greedy = Command::new("tail")
        .arg("/dev/zero")
        .cgroup(&group)
        .start()
        .await
        .unwrap();
    let code = tokio::time::timeout(Duration::from_secs(20), greedy.wait())
        .await
        .unwrap();
    assert_eq!(code, Some(137));
    assert_eq!(group.usage().out_of_memory_kills, 1);
    fixture.finish().await;
}

#[tokio::test]
async fn a_group_that_forks_is_killed_whole() {
    let fixture = Fixture::new();
    let group = fixture.instance.cgroup(&Fixture::hierarchies()).child("many").unwrap();
    group
        .ensure(&Limits {
            processes: Some(50),
            ..Limits::default()
        })
        .unwrap();
    let script = "while true; do sleep 60 & done";
    let log = fixture.instance.directory().join("log");
    let process = Command::new("sh")
        .args(["-c", script])
        .cgroup(&group)
        .stderr(Stdio::Truncate(log))
        .start()
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(group.processes().len() > 5);
    group.remove().await.unwrap();
    assert!(!group.exists() && !process.is_alive());
    fixture.finish().await;
}

#[tokio::test]
async fn instances_do_not_share_user_ids() {
    let (one, two) = (Fixture::new(), Fixture::new());
    let (a, b) = (one.instance.uids().unwrap(), two.instance.uids().unwrap());
    assert_eq!(one.instance.uids().unwrap(), a, "kept");
    assert!(a.first + a.count <= b.first || b.first + b.count <= a.first);
    one.finish().await;
    two.finish().await;
}

#[tokio::test]
async fn the_examination_finds_this_host_fit_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let found = madang_host::capability::examine(dir.path()).await;
    for capability in &found {
        println!(
            "{} {} {}",
            if capability.present { "✓" } else { "✗" },
            capability.name,
            capability.detail
        );
    }
    for name in [
        "bridges",
        "veth pairs",
        "taps",
        "packet filter on bridges",
        "overlay file systems",
        "control groups",
    ] {
        assert!(
            found
                .iter()
                .any(|capability| capability.name == name && capability.present),
            "{name}: {found:?}"
        );
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    assert!(madang_host::netns::Netns::list("mdg-probe-").is_empty());
}
