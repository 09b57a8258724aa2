//! Restarts, repairs and the end: what must outlive the agent does, and nothing else.

use std::time::Duration;

use madang_host::{link::Links, netns::Netns};
use madang_network::{
    Port, PortSpec, Rule,
    agent::{Options, names},
};

use crate::lab::{Lab, allow, connect, in_lab, pings, until, until_async};

#[test]
fn a_restart_under_traffic_loses_nothing() {
    in_lab(|lab| async move {
        let net = lab.network("10.1.0.0/24").await;
        let external = lab.external("172.29.0.0/24").await;
        let router = lab.router(&[&net], &external, 10).await;
        lab.start();
        let group = lab.group().await;
        let rule = lab.create::<Rule>(allow(&group, None, None)).await;
        let (a, b) = (lab.guest(&net, 5, &group).await, lab.guest(&net, 6, &group).await);
        a.echo(80).await;
        b.echo(80).await;
        let floating = lab.float(&external, 20, &router, &a).await;
        let mut inside = connect(&a.netns, b.address(), 80).await.unwrap();
        let mut through = connect(&lab.outside, floating, 80).await.unwrap();
        let fabric = Links::open(&lab.instance.fabric()).await.unwrap();
        let mut before = fabric.list().await.unwrap();

        // A steady stream of echo requests, 5 ms apart, while the agent goes and comes three times.
        let args = ["-n", "-q", "-i", "0.005", "-c", "400", "-W", "1", "10.1.0.6"];
        let ping = madang_host::process::Command::new("ping").args(args).netns(&a.netns);
        let (traffic, ()) = tokio::join!(ping.output(Duration::from_secs(20)), async {
            for _ in 0..3 {
                lab.stop().await;
                lab.start();
                tokio::time::sleep(Duration::from_millis(400)).await;
            }
        });
        let said = String::from_utf8_lossy(&traffic.unwrap().stdout).into_owned();
        assert!(said.contains("400 received"), "{said}");
        assert_eq!(inside.seen_as(), Some(a.address()));
        assert_eq!(through.seen_as(), Some(external.at(1)));
        let mut after = fabric.list().await.unwrap();
        before.sort_by_key(|link| link.index);
        after.sort_by_key(|link| link.index);
        assert_eq!(before, after, "no link was made anew");

        // What changed while it was away counts when it is back, and old connections are none of its business.
        lab.stop().await;
        lab.delete(&*rule).await;
        lab.start();
        until_async("the rule to go", || async { !a.reaches(b.address(), 80).await }).await;
        assert_eq!(inside.seen_as(), Some(a.address()));
        assert_eq!(through.seen_as(), Some(external.at(1)));
    });
}

#[test]
fn what_somebody_broke_is_repaired_and_what_is_not_ours_to_keep_goes() {
    in_lab(|lab| async move {
        let net = lab.network("10.1.0.0/24").await;
        lab.start();
        let group = lab.group().await;
        lab.create::<Rule>(allow(&group, None, None)).await;
        let (a, b) = (lab.guest(&net, 5, &group).await, lab.guest(&net, 6, &group).await);
        let tap = lab
            .port(PortSpec {
                attachment: madang_host::workload::Attachment::Tap,
                ..net.port(7)
            })
            .await;
        assert!(a.pings(b.address()).await);
        lab.stop().await;
        let space = lab.instance.fabric();
        let fabric = Links::open(&space).await.unwrap();
        let device = names::device(a.port.metadata.uid);
        fabric
            .change(
                &device,
                &madang_host::link::Change {
                    master: Some(None),
                    ..Default::default()
                },
            )
            .await
            .unwrap();
        fabric.remove(&names::device(tap.metadata.uid)).await.unwrap();
        madang_host::tap::ensure(&space, "tstranger").await.unwrap();
        madang_host::nft::apply(&space, "flush ruleset").await.unwrap();
        assert!(!a.pings(b.address()).await);
        let stranger = lab.instance.netns(&format!("net-{}", uuid::Uuid::new_v4()));
        stranger.ensure().await.unwrap();
        // A port that went while the agent was away.
        lab.delete(&*b.port).await;
        lab.start();
        until_async("the device to be back", || async {
            fabric
                .get(&names::device(tap.metadata.uid))
                .await
                .is_ok_and(|link| link.up && link.master.is_some())
        })
        .await;
        until("the stranger's namespace to go", || !stranger.exists()).await;
        assert!(fabric.get("tstranger").await.is_err());
        assert!(fabric.get(&names::device(b.port.metadata.uid)).await.is_err());
        let back = lab.guest(&net, 9, &group).await;
        assert!(a.pings(back.address()).await);
    });
}

#[test]
fn with_the_last_port_everything_of_its_network_goes_and_a_sweep_takes_the_rest() {
    in_lab(|lab| async move {
        let net = lab.network("10.1.0.0/24").await;
        let external = lab.external("172.29.0.0/24").await;
        let router = lab.router(&[&net], &external, 10).await;
        lab.start();
        let group = lab.group().await;
        let a = lab.guest(&net, 5, &group).await;
        let floating = lab.float(&external, 20, &router, &a).await;
        assert!(!pings(&lab.outside, floating).await, "no rule lets it in");
        let outside = Links::open(&lab.outside).await.unwrap();
        assert!(outside.get(&lab.instance.outside_link()).await.is_ok());
        let edges = || {
            let names = Netns::list(&lab.instance.netns_prefix());
            names
                .iter()
                .filter(|name| name.contains("-net-") || name.contains("-router-"))
                .count()
        };
        assert_eq!(edges(), 2);
        let port = lab.store.get::<Port>(&a.port.key()).unwrap();
        lab.delete(&*port).await;
        until("the edges to go", || edges() == 0).await;
        until_async("the way outside to go", || async {
            outside.get(&lab.instance.outside_link()).await.is_err()
        })
        .await;
        let fabric = Links::open(&lab.instance.fabric()).await.unwrap();
        let left = fabric.list().await.unwrap();
        assert!(left.iter().all(|link| link.name == "lo"), "{left:?}");
        // `in_lab` sweeps and looks for traces.
    });
}

/// Bridges, edges and the way out that are there, with the numbers the kernel knows bridges by.
async fn made(lab: &Lab) -> Vec<String> {
    let Ok(fabric) = Links::open(&lab.instance.fabric()).await else {
        return Vec::new();
    };
    let bridges = fabric.list().await.unwrap();
    let bridges = bridges.iter().filter(|link| link.kind.as_deref() == Some("bridge"));
    let mut made: Vec<String> = bridges.map(|link| format!("{} {}", link.name, link.index)).collect();
    let names = Netns::list(&lab.instance.netns_prefix());
    made.extend(
        names
            .into_iter()
            .filter(|name| name.contains("-net-") || name.contains("-router-")),
    );
    let outside = Links::open(&lab.outside).await.unwrap();
    made.extend(outside.get(&lab.instance.outside_link()).await.map(|link| link.name));
    made
}

#[test]
fn what_a_network_needs_stays_for_the_next_port_and_outlives_a_restart() {
    in_lab(|lab| async move {
        let net = lab.network("10.1.0.0/24").await;
        let external = lab.external("172.29.0.0/24").await;
        lab.router(&[&net], &external, 10).await;
        let patient = Options {
            linger: Duration::from_secs(3600),
            ..lab.options.clone()
        };
        lab.start_with(patient.clone());
        let group = lab.group().await;
        let a = lab.guest(&net, 5, &group).await;
        until_async("both edges and the way out", || async { made(&lab).await.len() == 5 }).await;
        let before = made(&lab).await;
        let fabric = Links::open(&lab.instance.fabric()).await.unwrap();
        lab.delete(&*lab.store.get::<Port>(&a.port.key()).unwrap()).await;
        until_async("the device to go", || async {
            fabric.get(&names::device(a.port.metadata.uid)).await.is_err()
        })
        .await;
        lab.stop().await;
        lab.start_with(patient);
        // By then the first pass after the start is over.
        let b = lab.guest(&net, 6, &group).await;
        assert_eq!(made(&lab).await, before, "nothing was made anew");
        let _router_answers = until_async("the router to answer", || b.pings(net.at(1))).await;
        // In less than an hour: the agent that starts now finds it lingering and is not so patient.
        lab.delete(&*lab.store.get::<Port>(&b.port.key()).unwrap()).await;
        lab.stop().await;
        lab.start();
        until_async("everything to go", || async { made(&lab).await.is_empty() }).await;
    });
}

#[test]
fn a_deleted_network_does_not_linger() {
    in_lab(|lab| async move {
        let (net, other) = (lab.network("10.1.0.0/24").await, lab.network("10.1.0.0/24").await);
        lab.start_with(Options {
            linger: Duration::from_secs(3600),
            ..lab.options.clone()
        });
        let group = lab.group().await;
        let (a, b) = (lab.guest(&net, 5, &group).await, lab.guest(&other, 5, &group).await);
        until_async("both service points", || async { made(&lab).await.len() == 4 }).await;
        for port in [&a.port, &b.port] {
            lab.delete(&*lab.store.get::<Port>(&port.key()).unwrap()).await;
        }
        lab.delete(&*net.network).await;
        until_async("its bridge and its service point to go", || async {
            made(&lab).await.len() == 2
        })
        .await;
        let left = made(&lab).await;
        assert!(left[1].ends_with(&other.network.metadata.uid.to_string()), "{left:?}");
    });
}

#[test]
fn networks_behind_routers_are_ready_before_their_first_port() {
    in_lab(|lab| async move {
        let net = lab.network("10.1.0.0/24").await;
        let _lone = lab.network("10.2.0.0/24").await;
        let external = lab.external("172.29.0.0/24").await;
        lab.router(&[&net], &external, 10).await;
        lab.start_with(Options {
            ready_after: Some(Duration::from_millis(50)),
            ..lab.options.clone()
        });
        until_async("bridges, edges and the way out", || async {
            made(&lab).await.len() == 5
        })
        .await;
        let before = made(&lab).await;
        let group = lab.group().await;
        let a = lab.guest(&net, 5, &group).await;
        until_async("the router to answer", || a.pings(net.at(1))).await;
        lab.delete(&*lab.store.get::<Port>(&a.port.key()).unwrap()).await;
        let fabric = Links::open(&lab.instance.fabric()).await.unwrap();
        until_async("the device to go", || async {
            fabric.get(&names::device(a.port.metadata.uid)).await.is_err()
        })
        .await;
        assert_eq!(made(&lab).await, before);
    });
}

#[test]
fn a_device_that_died_with_its_container_is_made_anew() {
    in_lab(|lab| async move {
        let net = lab.network("10.1.0.0/24").await;
        lab.start();
        let group = lab.group().await;
        lab.create::<Rule>(allow(&group, None, None)).await;
        let (a, b) = (lab.guest(&net, 5, &group).await, lab.guest(&net, 6, &group).await);
        assert!(a.pings(b.address()).await);
        let fabric = Links::open(&lab.instance.fabric()).await.unwrap();
        let device = names::device(b.port.metadata.uid);
        let before = fabric.get(&device).await.unwrap().index;
        let (netns, port) = (b.netns.clone(), b.port.clone());
        drop(b);
        netns.remove().await.unwrap();
        let took = until_async("the device to be made anew", || async {
            fabric
                .get(&device)
                .await
                .is_ok_and(|link| link.index != before && link.up && link.master.is_some())
        })
        .await;
        println!("made anew {took:?} after its namespace was removed");
        let b = lab.plug(&port).await;
        b.configure(&net).await;
        assert!(a.pings(b.address()).await);
    });
}

#[test]
fn a_port_that_cannot_be_wired_says_why_and_is_wired_when_it_can() {
    in_lab(|lab| async move {
        let net = lab.network("10.1.0.0/24").await;
        lab.start();
        let mut spec = net.port(5);
        // Everybody's on a segment: the kernel gives it to no link.
        spec.mac_address = "01:00:5e:00:00:05".into();
        let port = lab.create::<Port>(spec).await;
        let status = || lab.store.get::<Port>(&port.key()).unwrap().status.clone();
        until("the failure", || status().failure.is_some()).await;
        assert_eq!(status().wired_on, None);
        lab.modify::<Port>(&port, |port| port.spec.mac_address = "fa:16:3e:00:00:05".into())
            .await;
        lab.wired(&port).await;
        assert_eq!(status().failure, None);
    });
}
