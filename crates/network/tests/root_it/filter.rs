//! Security groups, spoofing and tenants, with real packets.

use std::time::Duration;

use madang_host::{link::Change, process::Command};
use madang_network::{AddressPair, EtherType, Port, PortSpec, Rule, RuleSpec};
use tokio::time::Instant;

use crate::lab::{allow, connect, in_lab, until_async};

#[test]
fn groups_allow_and_block_and_changes_leave_connections_alone() {
    in_lab(|lab| async move {
        let net = lab.network("10.1.0.0/24").await;
        lab.start();
        let group = lab.group().await;
        let (a, b) = (lab.guest(&net, 5, &group).await, lab.guest(&net, 6, &group).await);
        b.echo(80).await;
        assert!(!a.pings(b.address()).await, "nothing comes in by default");
        assert!(!a.reaches(b.address(), 80).await);

        let ssh = lab.create::<Rule>(allow(&group, Some("tcp"), Some(80))).await;
        let begun = Instant::now();
        until_async("a connection", || a.reaches(b.address(), 80)).await;
        println!("a rule came into force within {:?}", begun.elapsed());
        assert!(!a.pings(b.address()).await, "only what was allowed");
        let mut connection = connect(&a.netns, b.address(), 80).await.unwrap();
        assert_eq!(connection.seen_as(), Some(a.address()));

        lab.create::<Rule>(allow(&group, Some("icmp"), None)).await;
        until_async("an answer", || a.pings(b.address())).await;
        lab.delete(&*ssh).await;
        let begun = Instant::now();
        until_async("the rule to go", || async { !a.reaches(b.address(), 80).await }).await;
        // The last attempt itself waits half a second for its refusal.
        println!(
            "a rule was gone within {:?}",
            begun.elapsed().saturating_sub(Duration::from_millis(500))
        );
        assert_eq!(connection.seen_as(), Some(a.address()), "what was established stays");
        assert!(a.pings(b.address()).await);
    });
}

#[test]
fn a_rule_is_in_force_within_50_ms() {
    in_lab(|lab| async move {
        let net = lab.network("10.1.0.0/24").await;
        lab.start();
        let group = lab.group().await;
        let mut others = Vec::new();
        for last in 10..30 {
            others.push(lab.guest(&net, last, &group).await);
        }
        let (a, b) = (&others[0], &others[1]);
        b.echo(81).await;
        let begun = Instant::now();
        lab.create::<Rule>(allow(&group, Some("tcp"), Some(81))).await;
        let committed = begun.elapsed();
        // Refused packets are dropped, so look at the kernel's rules instead of waiting for a retransmission.
        let fabric = lab.instance.fabric();
        let in_force = until_async("the rule", || async {
            madang_host::nft::list(&fabric)
                .await
                .unwrap()
                .contains("dport 81 accept")
        });
        let took = in_force.await;
        println!("commit {committed:?}, then in force after {took:?} (one look costs some ms itself)");
        assert!(took < Duration::from_millis(50), "{took:?}");
        assert!(a.reaches(b.address(), 81).await);
    });
}

#[test]
fn members_of_a_group_are_let_in_and_strangers_are_not() {
    in_lab(|lab| async move {
        let net = lab.network("10.1.0.0/24").await;
        lab.start();
        let (friends, others) = (lab.group().await, lab.group().await);
        let spec = RuleSpec {
            remote_group_id: Some(friends.name().into()),
            ..allow(&friends, None, None)
        };
        lab.create::<Rule>(spec).await;
        let a = lab.guest(&net, 5, &friends).await;
        let b = lab.guest(&net, 6, &friends).await;
        let c = lab.guest(&net, 7, &others).await;
        assert!(a.pings(b.address()).await);
        assert!(!c.pings(a.address()).await);
        // Joining and leaving count at once.
        lab.modify::<Port>(&c.port, |port| port.spec.security_groups.push(friends.name().into()))
            .await;
        until_async("a new member", || c.pings(a.address())).await;
        lab.modify::<Port>(&c.port, |port| port.spec.security_groups.pop().map(drop).unwrap())
            .await;
        until_async("a member to leave", || async { !c.pings(a.address()).await }).await;
    });
}

#[test]
fn nobody_sends_as_somebody_else() {
    in_lab(|lab| async move {
        let net = lab.network("10.1.0.0/24").await;
        lab.start();
        let group = lab.group().await;
        lab.create::<Rule>(allow(&group, None, None)).await;
        let (a, b) = (lab.guest(&net, 5, &group).await, lab.guest(&net, 6, &group).await);
        assert!(a.pings(b.address()).await);

        // Another address.
        let own = "10.1.0.5/24".parse().unwrap();
        let forged = "10.1.0.77/24".parse().unwrap();
        a.links.set_addresses("eth0", &[forged]).await.unwrap();
        assert!(!a.pings(b.address()).await);
        // Neither does its announcement reach anybody.
        let arping = Command::new("busybox")
            .args(["arping", "-U", "-c1", "-I", "eth0", "10.1.0.77"])
            .netns(&a.netns);
        let _ = arping.output(Duration::from_secs(5)).await;
        let neighbours = Command::new("ip").args(["neigh", "show", "10.1.0.77"]).netns(&b.netns);
        let seen = neighbours.output(Duration::from_secs(5)).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&seen.stdout).trim(), "");

        // Unless it is allowed to.
        let pair = AddressPair {
            ip_address: "10.1.0.64/27".parse().unwrap(),
            mac_address: None,
        };
        lab.modify::<Port>(&a.port, |port| port.spec.allowed_address_pairs = vec![pair.clone()])
            .await;
        until_async("the pair", || a.pings(b.address())).await;
        a.links.set_addresses("eth0", &[own]).await.unwrap();
        assert!(a.pings(b.address()).await);

        // Another hardware address.
        let mac = |mac| Change {
            mac: Some(mac),
            ..Change::default()
        };
        a.links.change("eth0", &mac([0x02, 0, 0, 0, 0, 1])).await.unwrap();
        assert!(!a.pings(b.address()).await);

        // Without port security anything goes.
        lab.modify::<Port>(&a.port, |port| port.spec.port_security_enabled = false)
            .await;
        until_async("the port to be open", || a.pings(b.address())).await;
    });
}

#[test]
fn no_guest_is_a_dhcp_server() {
    in_lab(|lab| async move {
        let net = lab.network("10.1.0.0/24").await;
        lab.start();
        let group = lab.group().await;
        lab.create::<Rule>(allow(&group, None, None)).await;
        let (a, b) = (lab.guest(&net, 5, &group).await, lab.guest(&net, 6, &group).await);
        let to = b.address();
        let heard = |from: u16| {
            let (a, b) = (a.netns.clone(), b.netns.clone());
            async move {
                let listening = b
                    .run(|| std::net::UdpSocket::bind("0.0.0.0:68").unwrap())
                    .await
                    .unwrap();
                listening.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
                let send = move || {
                    let socket = std::net::UdpSocket::bind(("0.0.0.0", from)).unwrap();
                    socket.send_to(b"offer", (to, 68)).unwrap();
                };
                a.run(send).await.unwrap();
                listening.recv(&mut [0; 16]).is_ok()
            }
        };
        until_async("an ordinary datagram to pass", || heard(6767)).await;
        assert!(!heard(67).await, "a forged offer does not");
    });
}

#[test]
fn the_same_addresses_in_two_networks_never_meet() {
    in_lab(|lab| async move {
        let (one, two) = (lab.network("10.1.0.0/24").await, lab.network("10.1.0.0/24").await);
        lab.start();
        let group = lab.group().await;
        lab.create::<Rule>(allow(&group, None, None)).await;
        let (a1, b1) = (lab.guest(&one, 5, &group).await, lab.guest(&one, 6, &group).await);
        let (a2, b2) = (lab.guest(&two, 5, &group).await, lab.guest(&two, 6, &group).await);
        let c2 = lab.guest(&two, 7, &group).await;
        for guest in [&b1, &b2, &c2] {
            guest.echo(80).await;
        }
        assert!(!a1.pings(c2.address()).await, "only on the other network");
        // The same five numbers in both networks at once: each connection stays in its own.
        let ports = 40_000..40_020;
        let mut open = Vec::new();
        for port in ports {
            for guest in [&a1, &a2] {
                let to = b1.address();
                let from = guest.address();
                let dial = move || {
                    let kind = socket2::Type::STREAM;
                    let socket = socket2::Socket::new(socket2::Domain::IPV4, kind, None).unwrap();
                    socket.bind(&std::net::SocketAddr::new(from, port).into()).unwrap();
                    let to = std::net::SocketAddr::new(to, 80);
                    socket
                        .connect_timeout(&to.into(), Duration::from_millis(500))
                        .map(|()| socket)
                };
                open.push(
                    guest
                        .netns
                        .run(dial)
                        .await
                        .unwrap()
                        .expect("each network has its own connections"),
                );
            }
        }
        let count = |netns: madang_host::netns::Netns| async move {
            let zones = netns.run(|| std::fs::read_to_string("/proc/thread-self/net/nf_conntrack").unwrap());
            let text = zones.await.unwrap();
            let lines = text
                .lines()
                .filter(|line| line.contains("dport=80") && line.contains("ESTABLISHED"));
            lines
                .filter_map(|line| {
                    line.split_whitespace()
                        .find(|word| word.starts_with("zone="))
                        .map(str::to_owned)
                })
                .collect::<Vec<_>>()
        };
        let zones = count(lab.instance.fabric()).await;
        let distinct: std::collections::BTreeSet<_> = zones.iter().collect();
        assert_eq!((zones.len(), distinct.len()), (40, 2), "{zones:?}");
        drop(open);
    });
}

#[test]
fn version_six_is_filtered_and_neighbours_cannot_be_forged() {
    in_lab(|lab| async move {
        let net = lab.network("10.1.0.0/24").await;
        lab.start();
        let group = lab.group().await;
        lab.create::<Rule>(RuleSpec {
            direction: madang_network::Direction::Egress,
            ethertype: EtherType::IPv6,
            ..allow(&group, None, None)
        })
        .await;
        let with_v6 = |last: u8| {
            let mut spec = PortSpec {
                security_groups: vec![group.name().into()],
                ..net.port(last)
            };
            spec.fixed_ips.push(madang_network::FixedIp {
                subnet_id: net.subnet.name().into(),
                ip_address: format!("fd00::{last}").parse().unwrap(),
            });
            spec
        };
        let a = lab.plug(&lab.port(with_v6(5)).await).await;
        let b = lab.plug(&lab.port(with_v6(6)).await).await;
        for (guest, last) in [(&a, 5), (&b, 6)] {
            guest
                .links
                .ensure_address("eth0", format!("fd00::{last}/64").parse().unwrap())
                .await
                .unwrap();
        }
        let to = "fd00::6".parse().unwrap();
        assert!(!a.pings(to).await, "nothing comes in by default");
        let rule = RuleSpec {
            ethertype: EtherType::IPv6,
            ..allow(&group, Some("ipv6-icmp"), None)
        };
        lab.create::<Rule>(rule).await;
        until_async("an answer over version 6", || a.pings(to)).await;
        // An address that is not the port's: no answer comes back, since nobody may say where it is.
        b.links
            .ensure_address("eth0", "fd00::77/64".parse().unwrap())
            .await
            .unwrap();
        assert!(!a.pings("fd00::77".parse().unwrap()).await);
    });
}

#[test]
fn whoever_gets_an_address_next_gets_none_of_its_connections() {
    in_lab(|lab| async move {
        let net = lab.network("10.1.0.0/24").await;
        lab.start();
        let (closed, open) = (lab.group().await, lab.group().await);
        lab.create::<Rule>(allow(&open, None, None)).await;
        let (a, b, other) = (
            lab.guest(&net, 5, &open).await,
            lab.guest(&net, 6, &open).await,
            lab.guest(&net, 7, &open).await,
        );
        b.echo(80).await;
        other.echo(80).await;
        let mut kept = connect(&a.netns, other.address(), 80).await.unwrap();
        let _ended = connect(&a.netns, b.address(), 80).await.unwrap();
        let tracked = |address: String| {
            let space = lab.instance.fabric();
            async move {
                let table = space
                    .run(|| std::fs::read_to_string("/proc/thread-self/net/nf_conntrack"))
                    .await;
                table.unwrap().unwrap_or_default().contains(&address)
            }
        };
        // Not every kernel shows the table this way; then only the connection below is looked at.
        let is_shown = tracked("10.1.0.6".into()).await;
        lab.delete(&*lab.store.get::<Port>(&b.port.key()).unwrap()).await;
        let again = lab.guest(&net, 6, &closed).await;
        assert!(!tracked("10.1.0.6".into()).await);
        assert!(
            !is_shown || tracked("10.1.0.7".into()).await,
            "connections of others are none of its business"
        );
        assert_eq!(kept.seen_as(), Some(a.address()));
        again.echo(80).await;
        assert!(!a.reaches(again.address(), 80).await);
    });
}
