//! DHCP and metadata, from a guest's side.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use madang_host::process::Command;
use madang_network::{
    HostRoute, Port, PortSpec, Subnet,
    agent::{MetadataSource, Options},
};
use madang_store::Resource;

use crate::lab::{Guest, Lab, in_lab, until_async};

/// Runs busybox' client once; returns what it was given.
pub async fn udhcpc(lab: &Lab, guest: &Guest, more: &[&str]) -> Option<BTreeMap<String, String>> {
    let script = lab.dir.path().join("udhcpc.sh");
    let output = lab.dir.path().join(format!("lease-{}", guest.port.name()));
    let text = format!("#!/bin/sh\n[ \"$1\" = bound ] && env > {}\nexit 0\n", output.display());
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let script = script.to_str().unwrap();
    let options = [
        "udhcpc",
        "-f",
        "-n",
        "-q",
        "-t3",
        "-T1",
        "-i",
        "eth0",
        "-O",
        "mtu",
        "-O",
        "staticroutes",
        "-s",
        script,
    ];
    let client = Command::new("busybox").args(options).args(more).netns(&guest.netns);
    let ended = client.output(Duration::from_secs(10)).await.unwrap();
    if ended.code != 0 {
        return None;
    }
    let text = std::fs::read_to_string(output).unwrap();
    Some(
        text.lines()
            .filter_map(|line| line.split_once('='))
            .map(|(k, v)| (k.into(), v.into()))
            .collect(),
    )
}

#[test]
fn a_guest_is_told_all_it_needs() {
    in_lab(|lab| async move {
        let net = lab.network("10.1.0.0/24").await;
        let route = HostRoute {
            destination: "10.99.0.0/16".parse().unwrap(),
            nexthop: net.at(9),
        };
        lab.modify::<Subnet>(&net.subnet, |subnet| subnet.spec.host_routes = vec![route.clone()])
            .await;
        lab.start();
        let group = lab.group().await;
        let spec = PortSpec {
            security_groups: vec![group.name().into()],
            dns_name: "web".into(),
            ..net.port(5)
        };
        let guest = lab.plug(&lab.port(spec).await).await;
        // The service point follows the port by some milliseconds; the client asks again by itself.
        let lease = udhcpc(&lab, &guest, &[]).await.expect("no lease");
        let given = |name: &str| lease.get(name).map_or("", String::as_str);
        assert_eq!(given("ip"), "10.1.0.5");
        assert_eq!(given("mask"), "24");
        assert_eq!(given("router"), "10.1.0.1");
        assert_eq!(
            given("dns"),
            "10.1.0.2",
            "the network's own, since the subnet names none"
        );
        assert_eq!(given("mtu"), "1450");
        assert_eq!(given("hostname"), "web");
        assert_eq!(given("lease"), "86400");
        assert_eq!(given("serverid"), "10.1.0.2");
        assert_eq!(
            given("staticroutes"),
            "10.99.0.0/16 10.1.0.9 169.254.169.254/32 10.1.0.2 0.0.0.0/0 10.1.0.1"
        );
        let begun = tokio::time::Instant::now();
        udhcpc(&lab, &guest, &[]).await.unwrap();
        println!("udhcpc, process and all: {:?}", begun.elapsed());
        // A client that asks for what is another's is refused, asks anew and gets its own.
        let lease = udhcpc(&lab, &guest, &["-r", "10.1.0.77"]).await.unwrap();
        assert_eq!(lease["ip"], "10.1.0.5");
    });
}

#[test]
fn names_are_asked_of_the_hosts_own_servers() {
    in_lab(|lab| async move {
        // Answers every question with itself and the bit for answers set.
        let (udp, tcp) = lab
            .outside
            .run(|| {
                let at = ("127.0.0.53", 53);
                (UdpSocket::bind(at).unwrap(), TcpListener::bind(at).unwrap())
            })
            .await
            .unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((size, from)) = udp.recv_from(&mut buffer) {
                buffer[2] |= 0x80;
                udp.send_to(&buffer[..size], from).unwrap();
            }
        });
        std::thread::spawn(move || {
            for stream in tcp.incoming() {
                let mut stream = stream.unwrap();
                let mut question = [0; 4];
                stream.read_exact(&mut question).unwrap();
                stream.write_all(b"tcp!").unwrap();
            }
        });
        let net = lab.network("10.1.0.0/24").await;
        lab.start();
        let group = lab.group().await;
        let guest = lab.guest(&net, 5, &group).await;
        let server = SocketAddr::new(net.at(2), 53);
        let question = *b"\xab\xcd\x01\0\0\x01\0\0\0\0\0\0question";
        let ask = move || {
            let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
            socket.set_read_timeout(Some(Duration::from_millis(500))).ok()?;
            socket.connect(server).ok()?;
            socket.send(&question).ok()?;
            let mut answer = [0; 512];
            let size = socket.recv(&mut answer).ok()?;
            Some(answer[..size].to_vec())
        };
        until_async("an answer over UDP", || async {
            let answer = guest.netns.run(ask).await.unwrap();
            answer.is_some_and(|answer| answer == b"\xab\xcd\x81\0\0\x01\0\0\0\0\0\0question")
        })
        .await;
        let asked = guest.netns.run(move || {
            let mut stream = TcpStream::connect_timeout(&server, Duration::from_secs(5)).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            stream.write_all(b"ask?").unwrap();
            let mut answer = [0; 4];
            stream.read_exact(&mut answer).unwrap();
            answer
        });
        assert_eq!(&asked.await.unwrap(), b"tcp!");
    });
}

#[test]
fn nobody_gets_a_lease_who_has_no_port() {
    in_lab(|lab| async move {
        let net = lab.network("10.1.0.0/24").await;
        lab.start();
        // Unfiltered, so that only the server can refuse.
        let spec = PortSpec {
            port_security_enabled: false,
            ..net.port(5)
        };
        let guest = lab.plug(&lab.port(spec).await).await;
        udhcpc(&lab, &guest, &[])
            .await
            .expect("the port's own address is asked from");
        let mac = Some([0x02, 0, 0, 0, 0, 9]);
        guest
            .links
            .change(
                "eth0",
                &madang_host::link::Change {
                    mac,
                    ..Default::default()
                },
            )
            .await
            .unwrap();
        assert!(udhcpc(&lab, &guest, &[]).await.is_none());
    });
}

struct Names;

#[async_trait]
impl MetadataSource for Names {
    async fn answer(&self, port: Arc<Resource<Port>>, request: Request<Bytes>) -> Response<Bytes> {
        Response::new(Bytes::from(format!(
            "{} {} is {}",
            request.method(),
            request.uri().path(),
            port.name()
        )))
    }
}

async fn fetch(guest: &Guest, request: &'static [u8]) -> Option<String> {
    let fetch = move || {
        let address = "169.254.169.254:80".parse().unwrap();
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_millis(500)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        stream.write_all(request).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    };
    guest.netns.run(fetch).await.unwrap()
}

#[test]
fn metadata_is_answered_for_the_port_that_asks() {
    in_lab(|lab| async move {
        let (one, two) = (lab.network("10.1.0.0/24").await, lab.network("10.1.0.0/24").await);
        lab.start_with(Options {
            metadata: Some(Arc::new(Names)),
            ..lab.options.clone()
        });
        let group = lab.group().await;
        // The same address on two networks.
        let guests = [lab.guest(&one, 5, &group).await, lab.guest(&two, 5, &group).await];
        for (guest, net) in guests.iter().zip([&one, &two]) {
            let route = madang_host::link::Route {
                destination: "169.254.169.254/32".parse().unwrap(),
                gateway: Some(net.at(2)),
                link: None,
            };
            guest.links.ensure_route(&route).await.unwrap();
            let request = b"GET /latest/meta-data HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
            until_async("the metadata service", || async {
                fetch(guest, request).await.is_some()
            })
            .await;
            let answer = fetch(guest, request).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            assert!(
                answer.ends_with(&format!("GET /latest/meta-data is {}", guest.port.name())),
                "{answer}"
            );
            let nonsense = fetch(guest, b"\x16\x03\x01 nonsense\r\n\r\n").await.unwrap();
            assert!(nonsense.starts_with("HTTP/1.1 400"), "{nonsense}");
        }
    });
}

#[test]
fn metadata_is_reached_through_the_router_by_guests_without_a_route_to_it() {
    in_lab(|lab| async move {
        let net = lab.network("10.1.0.0/24").await;
        let external = lab.external("172.29.0.0/24").await;
        lab.router(&[&net], &external, 10).await;
        lab.start_with(Options {
            metadata: Some(Arc::new(Names)),
            ..lab.options.clone()
        });
        let group = lab.group().await;
        // Only a default route, as a guest has that ignores DHCP's option 121.
        let guest = lab.guest(&net, 5, &group).await;
        let request = b"GET /latest HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        until_async("the metadata service", || async {
            fetch(&guest, request).await.is_some()
        })
        .await;
        let answer = fetch(&guest, request).await.unwrap();
        assert!(
            answer.ends_with(&format!("GET /latest is {}", guest.port.name())),
            "{answer}"
        );
    });
}
