//! IPv6 as guests come by it: advertisements of their router, addresses they make up or are told.

use std::net::{Ipv6Addr, SocketAddrV6, UdpSocket};

use madang_host::link::{Change, Links};
use madang_network::{AllocationPool, FixedIp, Port, PortSpec, Rule, RuleSpec, Subnet, SubnetSpec};
use madang_store::Resource;

use super::lab::{Guest, HOST, Lab, Net, allow, in_lab, pings, until, until_async};

/// A subnet of version 6 on a network, with the router's interface at `::1`.
async fn subnet(lab: &Lab, net: &Net, router: &str, mode: &str) -> std::sync::Arc<Resource<Subnet>> {
    let first: Ipv6Addr = "fd00:1::1".parse().unwrap();
    let spec = SubnetSpec {
        cidr: "fd00:1::/64".parse().unwrap(),
        gateway_ip: Some(first.into()),
        allocation_pools: vec![AllocationPool {
            start: "fd00:1::2".parse().unwrap(),
            end: "fd00:1::ffff".parse().unwrap(),
        }],
        ipv6_address_mode: Some(mode.into()),
        ipv6_ra_mode: Some(mode.into()),
        dns_nameservers: vec!["fd00:1::53".parse().unwrap()],
        ..net.subnet.spec.clone()
    };
    let subnet = lab.create::<Subnet>(spec).await;
    let ip = FixedIp {
        subnet_id: subnet.name().into(),
        ip_address: first.into(),
    };
    lab.create::<Port>(PortSpec {
        device_owner: "network:router_interface".into(),
        device_id: router.into(),
        binding_host: None,
        fixed_ips: vec![ip],
        ..net.port(200)
    })
    .await;
    subnet
}

/// A guest with the address `address` of version 6, of whose links nothing is set by hand but the MAC address.
async fn guest(lab: &Lab, net: &Net, subnet: &Resource<Subnet>, group: &str, address: Option<Ipv6Addr>) -> Guest {
    let mut spec = PortSpec {
        security_groups: vec![group.into()],
        ..net.port(7)
    };
    let mac: Vec<u8> = spec
        .mac_address
        .split(':')
        .map(|b| u8::from_str_radix(b, 16).unwrap())
        .collect();
    let made_up = Ipv6Addr::from([
        0xfd,
        0,
        0,
        1,
        0,
        0,
        0,
        0,
        mac[0] ^ 2,
        mac[1],
        mac[2],
        0xff,
        0xfe,
        mac[3],
        mac[4],
        mac[5],
    ]);
    spec.fixed_ips = vec![FixedIp {
        subnet_id: subnet.name().into(),
        ip_address: address.unwrap_or(made_up).into(),
    }];
    let port = lab.port(spec).await;
    let guest = lab.plug(&port).await;
    let down_and_up = |up| Change {
        up: Some(up),
        ..Change::default()
    };
    // A guest that boots asks for routers.
    guest.links.change("eth0", &down_and_up(false)).await.unwrap();
    guest.links.change("eth0", &down_and_up(true)).await.unwrap();
    guest
}

async fn has(guest: &Guest, address: std::net::IpAddr) -> bool {
    let links = Links::open(&guest.netns).await.unwrap();
    let addresses = links.addresses("eth0").await.unwrap();
    addresses.iter().any(|net| net.addr() == address)
}

fn everything_v6(group: &Resource<madang_network::SecurityGroup>, direction: madang_network::Direction) -> RuleSpec {
    RuleSpec {
        ethertype: madang_network::EtherType::IPv6,
        direction,
        ..allow(group, None, None)
    }
}

#[test]
fn a_guest_makes_up_the_address_of_its_port_and_finds_its_router() {
    in_lab(|lab| async move {
        let net = lab.network("10.1.0.0/24").await;
        let external = lab.external("172.29.0.0/24").await;
        let router = lab.router(&[&net], &external, 10).await;
        let subnet = subnet(&lab, &net, router.name(), "slaac").await;
        lab.start();
        let group = lab.group().await;
        for direction in [madang_network::Direction::Egress, madang_network::Direction::Ingress] {
            lab.create::<Rule>(everything_v6(&group, direction)).await;
        }
        let guest = guest(&lab, &net, &subnet, group.name(), None).await;
        let own = guest.address();
        until_async("the address that the guest makes up", || has(&guest, own)).await;
        let gateway = "fd00:1::1".parse().unwrap();
        until_async("the router", || async { pings(&guest.netns, gateway).await }).await;
        let routes = guest.links.routes().await.unwrap();
        assert!(
            routes
                .iter()
                .any(|route| route.destination == "::/0".parse().unwrap() && route.gateway.is_some()),
            "{routes:?}"
        );
    });
}

#[test]
fn a_guest_that_asks_by_dhcp_is_told_the_address_of_its_port() {
    in_lab(|lab| async move {
        let net = lab.network("10.1.0.0/24").await;
        let external = lab.external("172.29.0.0/24").await;
        let router = lab.router(&[&net], &external, 10).await;
        let subnet = subnet(&lab, &net, router.name(), "dhcpv6-stateful").await;
        lab.start();
        let group = lab.group().await;
        let address: Ipv6Addr = "fd00:1::77".parse().unwrap();
        let guest = guest(&lab, &net, &subnet, group.name(), Some(address)).await;
        until("the router to be there", || {
            let ports = lab.store.cache::<Port>().by("device", router.name());
            ports.iter().all(|port| port.status.wired_on.as_deref() == Some(HOST))
        })
        .await;
        let index = guest.links.get("eth0").await.unwrap().index;
        // A solicitation with one association, and the option request of nothing.
        let solicit = [
            &[1u8, 7, 7, 7][..],
            &[0, 1, 0, 10, 0, 3, 0, 1, 2, 0, 0, 0, 0, 9],
            &[0, 3, 0, 12, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0],
        ]
        .concat();
        let ask = move || {
            let socket = UdpSocket::bind(("::", 546)).unwrap();
            socket
                .set_read_timeout(Some(std::time::Duration::from_millis(300)))
                .unwrap();
            let all = SocketAddrV6::new("ff02::1:2".parse().unwrap(), 547, 0, index);
            let mut answer = vec![0; 1500];
            for _ in 0..20 {
                // Until the guest's own address is ready, it cannot send.
                let _ = socket.send_to(&solicit, all);
                if let Ok((size, _)) = socket.recv_from(&mut answer) {
                    answer.truncate(size);
                    return answer;
                }
            }
            Vec::new()
        };
        let answer = guest.netns.run(ask).await.unwrap();
        assert_eq!(answer.get(..4), Some(&[2, 7, 7, 7][..]), "an advertisement of a server");
        let octets = address.octets();
        assert!(answer.windows(16).any(|window| window == octets), "{answer:?}");
    });
}
