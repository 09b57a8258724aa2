//! Namespaces, links, filters, settings.

use std::time::Duration;

use ipnet::IpNet;
use madang_host::{
    link::{Bridge, Change, Links, Neighbour, PortChange, Route, VethEnd},
    netns::Netns,
    nft, sysctl, tap,
};
use tokio::time::Instant;

use crate::Fixture;

fn end(name: &str, netns: &Netns, last: u8) -> VethEnd {
    VethEnd {
        name: name.into(),
        netns: netns.clone(),
        mac: Some([0x02, 0, 0, 0, 0, last]),
        mtu: Some(1450),
    }
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

#[tokio::test]
async fn a_namespace_is_made_once_and_removed() {
    let fixture = Fixture::new();
    let fabric = fixture.instance.fabric();
    assert!(!fabric.exists());
    assert!(fabric.ensure().await.unwrap());
    assert!(!fabric.ensure().await.unwrap(), "the second time it is there");
    assert_eq!(Netns::list(&fixture.instance.netns_prefix()), [fabric.name().unwrap()]);
    // As people see it.
    let seen = std::process::Command::new("ip")
        .args(["netns", "list"])
        .output()
        .unwrap();
    assert!(String::from_utf8(seen.stdout).unwrap().contains(fabric.name().unwrap()));
    let lo = Links::open(&fabric).await.unwrap().get("lo").await.unwrap();
    assert!(lo.up);
    fabric.remove().await.unwrap();
    fabric.remove().await.unwrap();
    assert!(!fabric.exists());
    fixture.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_made_by_many_at_once_is_one() {
    let fixture = Fixture::new();
    let fabric = fixture.instance.fabric();
    let all = futures_util::future::join_all((0..16).map(|_| fabric.ensure())).await;
    assert!(all.into_iter().all(|made| made.is_ok()));
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert_eq!(mounts.matches(fabric.name().unwrap()).count(), 1);
    fixture.finish().await;
}

#[tokio::test]
async fn threads_of_the_runtime_stay_where_they_are() {
    let fixture = Fixture::new();
    let fabric = fixture.instance.fabric();
    fabric.ensure().await.unwrap();
    let inside = fabric
        .run(|| std::fs::read_link("/proc/thread-self/ns/net").unwrap())
        .await
        .unwrap();
    let outside = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
    assert_ne!(inside, outside);
    let listener = fabric
        .run(|| std::net::TcpListener::bind("127.0.0.1:0").unwrap())
        .await
        .unwrap();
    let port = listener.local_addr().unwrap().port();
    assert!(
        std::net::TcpStream::connect(("127.0.0.1", port)).is_err(),
        "the socket is in the other namespace"
    );
    let reached = fabric
        .run(move || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok())
        .await
        .unwrap();
    assert!(reached);
    fixture.finish().await;
}

#[tokio::test]
async fn bridges_and_pairs_carry_packets() {
    let fixture = Fixture::new();
    let (fabric, guest) = (fixture.instance.fabric(), fixture.instance.netns("guest"));
    fabric.ensure().await.unwrap();
    guest.ensure().await.unwrap();
    let links = Links::open(&fabric).await.unwrap();
    let bridge = Bridge {
        mtu: Some(1450),
        mac: Some([0x02, 0, 0, 0, 0, 1]),
    };
    // Everything twice: the second time must change nothing.
    for _ in 0..2 {
        links.ensure_bridge("b0", &bridge).await.unwrap();
        links
            .ensure_veth(&end("v0", &fabric, 2), &end("v0p", &guest, 3))
            .await
            .unwrap();
        let port = Change {
            master: Some(Some("b0".into())),
            up: Some(true),
            alias: Some("port 1".into()),
            ..Change::default()
        };
        links.change("v0", &port).await.unwrap();
        let flags = PortChange {
            isolated: Some(true),
            learning: Some(false),
            hairpin: Some(true),
            unicast_flood: None,
        };
        links.change_port("v0", &flags).await.unwrap();
        links.ensure_address("b0", net("10.9.0.1/24")).await.unwrap();
        links.ensure_forwarding("v0", [0x02, 0, 0, 0, 0, 3]).await.unwrap();
        let inside = Links::open(&guest).await.unwrap();
        inside
            .change(
                "v0p",
                &Change {
                    up: Some(true),
                    ..Change::default()
                },
            )
            .await
            .unwrap();
        inside.set_addresses("v0p", &[net("10.9.0.2/24")]).await.unwrap();
        inside
            .ensure_route(&Route {
                destination: net("0.0.0.0/0"),
                gateway: Some("10.9.0.1".parse().unwrap()),
                link: None,
            })
            .await
            .unwrap();
        let neighbour = Neighbour {
            address: "10.9.0.77".parse().unwrap(),
            mac: [2, 0, 0, 0, 0, 77],
        };
        inside.ensure_neighbour("v0p", neighbour).await.unwrap();
        assert_eq!(inside.neighbours("v0p").await.unwrap(), [neighbour]);
    }
    let port = links.get("v0").await.unwrap();
    assert_eq!(port.master, Some(links.index("b0").await.unwrap()));
    assert_eq!((port.isolated, port.learning, port.hairpin), (true, false, true));
    assert_eq!(
        (port.kind.as_deref(), port.alias.as_deref(), port.mtu),
        (Some("veth"), Some("port 1"), 1450)
    );

    let ping = madang_host::process::Command::new("ping")
        .args(["-c1", "-W2", "10.9.0.1"])
        .netns(&guest);
    ping.run(Duration::from_secs(5)).await.unwrap();

    let inside = Links::open(&guest).await.unwrap();
    let default = Route {
        destination: net("0.0.0.0/0"),
        gateway: Some("10.9.0.1".parse().unwrap()),
        link: Some("v0p".into()),
    };
    assert!(inside.routes().await.unwrap().contains(&default));
    inside.remove_route(&default).await.unwrap();
    inside.remove_route(&default).await.unwrap();
    assert!(!inside.routes().await.unwrap().contains(&default));
    inside
        .set_addresses("v0p", &[net("10.9.0.3/24"), net("10.9.0.4/24")])
        .await
        .unwrap();
    assert_eq!(
        inside
            .addresses("v0p")
            .await
            .unwrap()
            .iter()
            .filter(|a| a.addr().is_ipv4())
            .count(),
        2
    );
    inside
        .remove_neighbour("v0p", "10.9.0.77".parse().unwrap())
        .await
        .unwrap();
    inside
        .remove_neighbour("v0p", "10.9.0.77".parse().unwrap())
        .await
        .unwrap();

    links
        .change(
            "v0",
            &Change {
                master: Some(None),
                ..Change::default()
            },
        )
        .await
        .unwrap();
    assert_eq!(links.get("v0").await.unwrap().master, None);
    links.remove("v0").await.unwrap();
    links.remove("v0").await.unwrap();
    assert!(
        inside.get("v0p").await.unwrap_err().is_not_found(),
        "a pair goes together"
    );
    let error = links
        .ensure_veth(&end("b0", &fabric, 9), &end("x", &guest, 9))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("is not a veth"), "{error}");
    drop((links, inside));
    fixture.finish().await;
}

#[tokio::test]
async fn a_link_moves_with_its_new_name() {
    let fixture = Fixture::new();
    let (fabric, other) = (fixture.instance.fabric(), fixture.instance.netns("other"));
    fabric.ensure().await.unwrap();
    other.ensure().await.unwrap();
    let links = Links::open(&fabric).await.unwrap();
    links
        .ensure_veth(&end("near", &fabric, 2), &end("far", &fabric, 3))
        .await
        .unwrap();
    links.move_to("far", &other, Some("eth0")).await.unwrap();
    assert_eq!(
        Links::open(&other).await.unwrap().get("eth0").await.unwrap().mac,
        Some([2, 0, 0, 0, 0, 3])
    );
    drop(links);
    fixture.finish().await;
}

#[tokio::test]
async fn a_tap_is_held_by_one_at_a_time() {
    let fixture = Fixture::new();
    let fabric = fixture.instance.fabric();
    fabric.ensure().await.unwrap();
    assert!(tap::open(&fabric, "t0").await.unwrap_err().is_not_found());
    tap::ensure(&fabric, "t0").await.unwrap();
    tap::ensure(&fabric, "t0").await.unwrap();
    let held = tap::open(&fabric, "t0").await.unwrap();
    assert!(tap::open(&fabric, "t0").await.is_err());
    assert!(tap::is_open(&fabric, "t0").await.unwrap());
    tap::ensure(&fabric, "t0").await.unwrap();
    drop(held);
    assert!(!tap::is_open(&fabric, "t0").await.unwrap());
    assert!(!tap::is_open(&fabric, "t1").await.unwrap(), "it is not there");
    tap::open(&fabric, "t0").await.unwrap();
    fixture.finish().await;
}

#[tokio::test]
async fn filters_apply_whole_or_not_at_all_and_fast() {
    let fixture = Fixture::new();
    let fabric = fixture.instance.fabric();
    fabric.ensure().await.unwrap();
    let batch = "add table inet madang\nadd chain inet madang input { type filter hook input priority 0; }\n";
    nft::apply(&fabric, batch).await.unwrap();
    let broken = "add rule inet madang input tcp dport 22 accept\nadd rule inet madang absent drop\n";
    let error = nft::apply(&fabric, broken).await.unwrap_err();
    assert!(error.to_string().contains("absent"), "{error}");
    assert!(!nft::list(&fabric).await.unwrap().contains("dport 22"));
    assert!(nft::list_json(&fabric).await.unwrap()["nftables"].is_array());

    let (rounds, start) = (20, Instant::now());
    for port in 0..rounds {
        nft::apply(
            &fabric,
            &format!(
                "add rule inet madang input tcp dport {port} accept {}\n",
                nft::comment("a\"b")
            ),
        )
        .await
        .unwrap();
    }
    let each = start.elapsed() / rounds;
    println!("one batch takes {each:?}");
    assert!(each < Duration::from_millis(200), "a batch took {each:?}");
    fixture.finish().await;
}

#[tokio::test]
async fn settings_stay_in_their_namespace() {
    let fixture = Fixture::new();
    let fabric = fixture.instance.fabric();
    fabric.ensure().await.unwrap();
    let key = "net/ipv4/conf/all/forwarding";
    let before = sysctl::get(&Netns::OWN, key).await.unwrap();
    for value in ["1", "0", "1"] {
        sysctl::set(&fabric, &[(key, value)]).await.unwrap();
        assert_eq!(sysctl::get(&fabric, key).await.unwrap(), value);
        assert_eq!(sysctl::get(&Netns::OWN, key).await.unwrap(), before);
    }
    assert!(
        sysctl::set(&fabric, &[("net/ipv4/absent", "1")])
            .await
            .unwrap_err()
            .to_string()
            .contains("absent")
    );
    fixture.finish().await;
}

#[tokio::test]
async fn a_sweep_removes_what_a_crash_left() {
    let fixture = Fixture::new();
    let instance = &fixture.instance;
    let (fabric, hierarchies) = (instance.fabric(), Fixture::hierarchies());
    fabric.ensure().await.unwrap();
    instance.uids().unwrap();
    let group = instance.cgroup(&hierarchies).child("vm-1").unwrap();
    group.ensure(&Default::default()).unwrap();
    let in_group = madang_host::process::Command::new("sleep")
        .arg("60")
        .cgroup(&group)
        .start()
        .await
        .unwrap();
    let in_netns = madang_host::process::Command::new("sleep")
        .arg("60")
        .netns(&fabric)
        .start()
        .await
        .unwrap();
    let own = Links::open(&Netns::OWN).await.unwrap();
    own.ensure_veth(&end(&instance.outside_link(), &Netns::OWN, 2), &end("out", &fabric, 3))
        .await
        .unwrap();
    let mount = instance.directory().join("mount point");
    std::fs::create_dir(&mount).unwrap();
    nix::mount::mount(
        Some("none"),
        &mount,
        Some("tmpfs"),
        nix::mount::MsFlags::empty(),
        None::<&str>,
    )
    .unwrap();

    let traces = instance.traces().await;
    for kind in [
        "network namespace",
        "control group",
        "process",
        "link",
        "mount",
        "user ids",
    ] {
        assert!(traces.iter().any(|trace| trace.starts_with(kind)), "{kind}: {traces:?}");
    }
    assert_eq!(instance.sweep().await.unwrap(), traces);
    assert_eq!(instance.traces().await, Vec::<String>::new());
    assert!(!in_group.is_alive() && !in_netns.is_alive());
    fixture.finish().await;
}

#[tokio::test]
async fn works_from_inside_ip_netns_exec() {
    // What `ip netns exec lab madang up` does: another mount table, another /sys, another namespace as the own one.
    let fixture = Fixture::new();
    let lab = fixture.instance.netns("lab");
    lab.ensure().await.unwrap();
    let script = "tests=$0; exec \"$tests\" --exact root_links::inside_a_lab --ignored --nocapture";
    let inside = std::process::Command::new("ip")
        .args(["netns", "exec", lab.name().unwrap(), "sh", "-c", script])
        .arg(std::env::current_exe().unwrap())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&inside.stdout).into_owned() + &String::from_utf8_lossy(&inside.stderr);
    assert!(inside.status.success() && text.contains("1 passed"), "{text}");
    let id = text
        .lines()
        .find_map(|line| line.strip_prefix("left by "))
        .expect(&text);
    // The process that made it and its mount table are gone; the namespace is not.
    let other = madang_host::Instance::named(id, "/nowhere".into()).unwrap();
    assert!(other.fabric().exists());
    other.sweep().await.unwrap();
    assert_eq!(other.traces().await, Vec::<String>::new());
    fixture.finish().await;
}

#[tokio::test]
#[ignore = "run by works_from_inside_ip_netns_exec"]
async fn inside_a_lab() {
    assert!(!madang_host::mounts::are_the_hosts());
    let directory = tempfile::tempdir().unwrap();
    let instance = madang_host::Instance::open(directory.path()).unwrap();
    let fabric = instance.fabric();
    fabric.ensure().await.unwrap();
    tap::ensure(&fabric, "t0").await.unwrap();
    nft::apply(&fabric, "add table inet madang").await.unwrap();
    let group = instance.cgroup(&Fixture::hierarchies()).child("vm-1").unwrap();
    group
        .ensure(&madang_host::cgroup::Limits {
            memory_bytes: Some(64 << 20),
            ..Default::default()
        })
        .unwrap();
    let process = madang_host::process::Command::new("true")
        .cgroup(&group)
        .netns(&fabric)
        .start()
        .await
        .unwrap();
    assert_eq!(process.wait().await, Some(0));
    println!("left by {}", instance.id());
}

#[test]
fn a_process_in_ip_netns_exec_can_join_the_host() {
    let own = std::fs::read_link("/proc/self/ns/mnt").unwrap();
    let program = std::env::current_exe().unwrap();
    let name = format!("mdg-join-{}", std::process::id());
    let ip = |args: &[&str]| std::process::Command::new("ip").args(args).output().unwrap();
    assert!(ip(&["netns", "add", &name]).status.success());
    let test = "root_links::joins_the_host";
    let inside = ip(&[
        "netns",
        "exec",
        &name,
        program.to_str().unwrap(),
        "--exact",
        test,
        "--ignored",
        "--test-threads",
        "1",
        "--nocapture",
    ]);
    assert!(ip(&["netns", "del", &name]).status.success());
    let text = String::from_utf8_lossy(&inside.stdout);
    assert!(
        text.contains(&format!("in {}", own.display())),
        "{text} {}",
        String::from_utf8_lossy(&inside.stderr)
    );
}

#[test]
#[ignore = "run by a_process_in_ip_netns_exec_can_join_the_host"]
fn joins_the_host() {
    // Moves the thread that asks, which is this one.
    let here = std::env::current_dir().unwrap();
    assert!(madang_host::mounts::join_host(&[&here]).unwrap());
    println!(
        "in {}",
        std::fs::read_link("/proc/thread-self/ns/mnt").unwrap().display()
    );
    assert_eq!(std::env::current_dir().unwrap(), here);
    assert!(
        std::fs::read_dir("/sys/fs/cgroup").unwrap().next().is_some(),
        "hidden by `ip netns exec`"
    );
}
