//! Port forwarding of floating addresses with real packets.

use std::net::IpAddr;

use madang_network::{FloatingIp, FloatingIpSpec, PortForwarding, Rule};

use super::lab::{allow, connect, in_lab, until, until_async};

#[test]
fn one_port_of_an_outside_address_leads_inside_and_no_other() {
    in_lab(|lab| async move {
        let net = lab.network("10.1.0.0/24").await;
        let external = lab.external("198.51.100.0/24").await;
        let router = lab.router(&[&net], &external, 10).await;
        lab.start();
        let group = lab.group().await;
        lab.create::<Rule>(allow(&group, Some("tcp"), None)).await;
        let (web, shell) = (lab.guest(&net, 5, &group).await, lab.guest(&net, 6, &group).await);
        for port in [80, 22] {
            web.echo(port).await;
            shell.echo(port).await;
        }
        let forwarding = |guest: &super::lab::Guest, external_port, internal_port| PortForwarding {
            id: uuid::Uuid::new_v4().to_string(),
            protocol: "tcp".into(),
            external_port,
            external_port_last: 0,
            internal_port_id: guest.port.name().into(),
            internal_ip_address: guest.address(),
            internal_port,
            internal_port_last: 0,
            description: String::new(),
        };
        let address = external.at(50);
        let floating = lab
            .create::<FloatingIp>(FloatingIpSpec {
                description: String::new(),
                network_id: external.network.name().into(),
                subnet_id: external.subnet.name().into(),
                address,
                holder_port_id: String::new(),
                port_id: None,
                fixed_ip_address: None,
                port_forwardings: vec![forwarding(&web, 8080, 80), forwarding(&shell, 2222, 22)],
                router_id: Some(router.name().into()),
                qos_policy_id: None,
                dns_domain: String::new(),
                dns_name: String::new(),
                tags: vec![],
            })
            .await;
        until("the address to be active", || {
            lab.store.get::<FloatingIp>(&floating.key()).unwrap().status.is_active
        })
        .await;
        for port in [8080, 2222] {
            let mut through = connect(&lab.outside, address, port).await.expect("no way in");
            assert_eq!(through.seen_as(), Some(external.at(1)), "the guest sees who asks");
        }
        for port in [80, 22, 8081] {
            assert!(connect(&lab.outside, address, port).await.is_none(), "{port}");
        }
        // From inside, too; the answer comes back through the router.
        let mut around = connect(&shell.netns, address, 8080).await.expect("no way around");
        assert_eq!(around.seen_as(), Some(external.at(10)));
        lab.modify::<FloatingIp>(&floating, |floating| {
            floating.spec.port_forwardings.remove(0);
        })
        .await;
        let outside = &lab.outside;
        let shut = |to: IpAddr| async move { connect(outside, to, 8080).await.is_none() };
        until_async("the port to be shut", || shut(address)).await;
        assert!(connect(&lab.outside, address, 2222).await.is_some());
        // Rows of ports: each to its own number, each to the one at the same place, all to one.
        for port in [7001, 7002, 9001] {
            shell.echo(port).await;
        }
        let row = |external: (u16, u16), internal: (u16, u16)| PortForwarding {
            external_port_last: external.1,
            internal_port_last: internal.1,
            ..forwarding(&shell, external.0, internal.0)
        };
        lab.modify::<FloatingIp>(&floating, |floating| {
            floating.spec.port_forwardings = vec![
                row((7001, 7002), (7001, 7002)),
                row((8000, 8002), (7000, 7002)),
                row((9100, 9109), (9001, 0)),
            ];
        })
        .await;
        let opened = |port: u16| async move { connect(outside, address, port).await.is_some() };
        until_async("the rows", || opened(9105)).await;
        for (port, is_open) in [
            (7002, true),
            (8000, false),
            (8001, true),
            (8002, true),
            (9109, true),
            (9110, false),
        ] {
            assert_eq!(opened(port).await, is_open, "{port}");
        }
    });
}
