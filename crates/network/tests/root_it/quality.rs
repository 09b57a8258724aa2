//! Limits and marks, and peers by address group, with real packets.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use madang_host::{netns::Netns, nft, process::Command};
use madang_network::{
    AddressGroup, AddressGroupSpec, Direction, FloatingIp, PortSpec, QosPolicy, QosPolicySpec, QosRule, Rule, RuleSpec,
    Says,
};

use tokio::time::Instant;

use super::lab::{allow, in_lab, until_async};

/// How much is sent to see how quick it is.
const BYTES: usize = 1_500_000;

/// How long it takes to send [`BYTES`] from a namespace to an address of another one.
async fn send(from: &Netns, to: &Netns, address: IpAddr, port: u16) -> Duration {
    let listener = to
        .run(move || TcpListener::bind(("0.0.0.0", port)).unwrap())
        .await
        .unwrap();
    let reader = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        all.len()
    });
    let open = move || TcpStream::connect_timeout(&SocketAddr::new(address, port), Duration::from_secs(5)).unwrap();
    let mut stream = from.run(open).await.unwrap();
    let begun = Instant::now();
    tokio::task::spawn_blocking(move || stream.write_all(&vec![7; BYTES]).unwrap())
        .await
        .unwrap();
    assert_eq!(reader.join().unwrap(), BYTES);
    begun.elapsed()
}

fn rule(says: Says) -> QosRule {
    QosRule {
        id: uuid::Uuid::new_v4().to_string(),
        says,
    }
}

#[test]
fn a_limit_slows_its_direction_and_a_mark_is_seen() {
    in_lab(|lab| async move {
        let net = lab.network("10.1.0.0/24").await;
        lab.start();
        let group = lab.group().await;
        lab.create::<Rule>(allow(&group, None, None)).await;
        let policy = lab.create::<QosPolicy>(QosPolicySpec::default()).await;
        let spec = PortSpec {
            security_groups: vec![group.name().into()],
            qos_policy_id: Some(policy.name().into()),
            ..net.port(5)
        };
        let port = lab.port(spec).await;
        let slow = lab.plug(&port).await;
        slow.configure(&net).await;
        let peer = lab.guest(&net, 6, &group).await;
        assert!(slow.pings(peer.address()).await);
        let free = send(&slow.netns, &peer.netns, peer.address(), 7001).await;
        assert!(free < Duration::from_secs(1), "{free:?} without a limit");
        // Half a million bytes in a second, and as many at once.
        let limit = |direction| Says::BandwidthLimit {
            max_kbps: 4000,
            max_burst_kbps: 0,
            direction,
        };
        for (direction, port) in [(Direction::Egress, 7002), (Direction::Ingress, 7012)] {
            lab.modify::<QosPolicy>(&policy, |policy| {
                policy.spec.rules = vec![rule(limit(direction)), rule(Says::DscpMarking { dscp_mark: 26 })];
            })
            .await;
            tokio::time::sleep(Duration::from_millis(500)).await;
            let sent = send(&slow.netns, &peer.netns, peer.address(), port).await;
            let received = send(&peer.netns, &slow.netns, slow.address(), port + 1).await;
            let (slowed, other) = if direction == Direction::Egress {
                (sent, received)
            } else {
                (received, sent)
            };
            println!("{direction:?} {slowed:?}, the other way {other:?}, free {free:?}");
            assert!(slowed > Duration::from_millis(1500), "{direction:?} took {slowed:?}");
            assert!(
                other < slowed / 2,
                "the other way took {other:?}, {direction:?} {slowed:?}"
            );
        }
        let counter = "table ip seen {\nchain in {\ntype filter hook input priority 0\nip dscp 26 counter\n}\n}\n";
        nft::apply(&peer.netns, counter).await.unwrap();
        assert!(slow.pings(peer.address()).await);
        let list = Command::new("nft")
            .args(["list", "table", "ip", "seen"])
            .netns(&peer.netns);
        let list = list.output(Duration::from_secs(5)).await.unwrap();
        let text = String::from_utf8_lossy(&list.stdout).into_owned();
        assert!(text.contains("counter") && !text.contains("packets 0 "), "{text}");
    });
}

#[test]
fn peers_by_address_group_follow_it() {
    in_lab(|lab| async move {
        let net = lab.network("10.1.0.0/24").await;
        lab.start();
        let group = lab.group().await;
        let addresses = lab
            .create::<AddressGroup>(AddressGroupSpec {
                addresses: vec!["10.1.0.6/32".parse().unwrap(), "10.9.0.0/16".parse().unwrap()],
                ..AddressGroupSpec::default()
            })
            .await;
        let rule = RuleSpec {
            remote_address_group_id: Some(addresses.name().into()),
            ..allow(&group, None, None)
        };
        lab.create::<Rule>(rule).await;
        let guest = lab.guest(&net, 5, &group).await;
        let (known, unknown) = (lab.guest(&net, 6, &group).await, lab.guest(&net, 7, &group).await);
        assert!(known.pings(guest.address()).await);
        assert!(!unknown.pings(guest.address()).await);
        lab.modify::<AddressGroup>(&addresses, |group| {
            group.spec.addresses = vec!["10.1.0.7/32".parse().unwrap()];
        })
        .await;
        until_async("the other one to be let in", || async {
            unknown.pings(guest.address()).await
        })
        .await;
        assert!(!known.pings(guest.address()).await);
    });
}

#[test]
fn a_floating_address_has_a_limit_of_its_own() {
    in_lab(|lab| async move {
        let net = lab.network("10.1.0.0/24").await;
        let external = lab.external("172.29.0.0/24").await;
        let router = lab.router(&[&net], &external, 10).await;
        lab.start();
        let group = lab.group().await;
        lab.create::<Rule>(allow(&group, None, None)).await;
        let guest = lab.guest(&net, 5, &group).await;
        let address = lab.float(&external, 20, &router, &guest).await;
        let free = send(&lab.outside, &guest.netns, address, 7001).await;
        assert!(free < Duration::from_secs(1), "{free:?} without a limit");
        let limit = rule(Says::BandwidthLimit {
            max_kbps: 4000,
            max_burst_kbps: 0,
            direction: Direction::Ingress,
        });
        let policy = QosPolicySpec {
            rules: vec![limit],
            ..QosPolicySpec::default()
        };
        let policy = lab.create::<QosPolicy>(policy).await;
        let floating = lab
            .store
            .cache::<FloatingIp>()
            .by("address", &address.to_string())
            .remove(0);
        lab.modify::<FloatingIp>(&floating, |floating| {
            floating.spec.qos_policy_id = Some(policy.name().to_owned());
        })
        .await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let received = send(&lab.outside, &guest.netns, address, 7002).await;
        let sent = send(&guest.netns, &lab.outside, external.at(1), 7003).await;
        assert!(received > Duration::from_millis(1500), "it took {received:?}");
        assert!(sent < Duration::from_secs(1), "the other way took {sent:?}");
        // Packets are counted, too.
        lab.modify::<QosPolicy>(&policy, |policy| {
            policy.spec.rules = vec![rule(Says::PacketRateLimit {
                max_kpps: 1,
                max_burst_kpps: 0,
                direction: Direction::Egress,
            })];
        })
        .await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let free = send(&lab.outside, &guest.netns, address, 7004).await;
        assert!(free < Duration::from_secs(1), "the other way took {free:?}");
        let flood = Command::new("ping")
            .args(["-f", "-q", "-c", "5000", "-w", "2", &external.at(1).to_string()])
            .netns(&guest.netns);
        let flood = flood.output(Duration::from_secs(5)).await.unwrap();
        let text = String::from_utf8_lossy(&flood.stdout).into_owned();
        let received = text.split(" received").next().and_then(|text| text.rsplit(' ').next());
        let received: u32 = received.and_then(|number| number.parse().ok()).unwrap();
        assert!((100..4500).contains(&received), "a thousand in a second: {text}");
    });
}
