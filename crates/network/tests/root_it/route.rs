//! Routers: between networks, outside, and back in through floating addresses.

use madang_host::{
    link::{Links, Route},
    process::Command,
};
use madang_network::{HostRoute, Router, Rule};

use crate::lab::{Lab, allow, connect, echo, in_lab, pings, until, until_async};

#[test]
fn guests_go_out_under_the_routers_address_and_are_reached_by_their_own() {
    in_lab(|lab| async move {
        let (one, two) = (lab.network("10.1.0.0/24").await, lab.network("10.2.0.0/24").await);
        let external = lab.external("172.29.0.0/24").await;
        let router = lab.router(&[&one, &two], &external, 10).await;
        lab.start();
        let group = lab.group().await;
        lab.create::<Rule>(allow(&group, None, None)).await;
        let a = lab.guest(&one, 5, &group).await;
        let b = lab.guest(&one, 6, &group).await;
        let c = lab.guest(&two, 5, &group).await;
        for guest in [&a, &b, &c] {
            guest.echo(80).await;
        }
        echo(&lab.outside, 80).await;
        let outside = external.at(1);

        until_async("the way out", || a.pings(outside)).await;
        assert!(a.pings(c.address()).await, "from network to network");
        assert_eq!(
            connect(&a.netns, c.address(), 80).await.unwrap().seen_as(),
            Some(a.address()),
            "untranslated"
        );
        let seen = connect(&a.netns, outside, 80).await.unwrap().seen_as();
        assert_eq!(seen, Some(external.at(10)), "under the router's address");
        assert!(
            !pings(&lab.outside, a.address()).await,
            "nobody outside knows inside addresses"
        );

        let floating_a = lab.float(&external, 20, &router, &a).await;
        let seen = connect(&a.netns, outside, 80).await.unwrap().seen_as();
        assert_eq!(seen, Some(floating_a), "under its own address");
        let seen = connect(&lab.outside, floating_a, 80).await.unwrap().seen_as();
        assert_eq!(seen, Some(outside), "the guest sees who asks");
        assert!(pings(&lab.outside, floating_a).await);

        // Hairpins: on one network, between networks, and to oneself.
        let floating_b = lab.float(&external, 21, &router, &b).await;
        assert_eq!(
            connect(&a.netns, floating_b, 80).await.unwrap().seen_as(),
            Some(floating_a)
        );
        assert_eq!(
            connect(&c.netns, floating_b, 80).await.unwrap().seen_as(),
            Some(external.at(10))
        );
        assert_eq!(
            connect(&a.netns, floating_a, 80).await.unwrap().seen_as(),
            Some(floating_a)
        );

        let state = lab.store.get::<Router>(&router.key()).unwrap();
        assert_eq!(state.status.failure, None);
        assert_router_ports_are_up(&lab);
    });
}

fn assert_router_ports_are_up(lab: &Lab) {
    for port in lab.store.cache::<madang_network::Port>().all() {
        assert!(
            port.status.wired_on.is_some(),
            "{} {:?}",
            port.spec.device_owner,
            port.status
        );
    }
}

#[test]
fn a_floating_address_is_announced_when_it_moves() {
    in_lab(|lab| async move {
        let net = lab.network("10.1.0.0/24").await;
        let external = lab.external("172.29.0.0/24").await;
        let router = lab.router(&[&net], &external, 10).await;
        lab.start();
        let group = lab.group().await;
        lab.create::<Rule>(allow(&group, None, None)).await;
        let a = lab.guest(&net, 5, &group).await;
        until_async("the way out", || a.pings(external.at(1))).await;
        // Somebody else had the address before: the outside still believes so.
        let stale = madang_host::link::Neighbour {
            address: external.at(20),
            mac: [2, 0, 0, 0, 0, 7],
        };
        let outside = Links::open(&lab.outside).await.unwrap();
        let link = lab.instance.outside_link();
        let replace = [
            "neigh",
            "replace",
            "172.29.0.20",
            "lladdr",
            "02:00:00:00:00:07",
            "nud",
            "reachable",
            "dev",
            &link,
        ];
        Command::new("ip")
            .args(replace)
            .netns(&lab.outside)
            .run(std::time::Duration::from_secs(5))
            .await
            .unwrap();
        assert!(
            outside
                .neighbours(&link)
                .await
                .unwrap()
                .iter()
                .all(|known| known.address != stale.address)
        );
        let floating = lab.float(&external, 20, &router, &a).await;
        assert!(pings(&lab.outside, floating).await, "the announcement did not come");
    });
}

#[test]
fn extra_routes_lead_on_and_a_wrong_one_is_told() {
    in_lab(|lab| async move {
        let net = lab.network("10.1.0.0/24").await;
        let external = lab.external("172.29.0.0/24").await;
        let router = lab.router(&[&net], &external, 10).await;
        lab.start();
        let group = lab.group().await;
        lab.create::<Rule>(allow(&group, None, None)).await;
        let a = lab.guest(&net, 5, &group).await;
        let b = lab.guest(&net, 6, &group).await;
        until_async("the way out", || a.pings(external.at(1))).await;
        // Behind b there is another network.
        b.links
            .ensure_address("lo", "10.77.0.1/32".parse().unwrap())
            .await
            .unwrap();
        let pair = madang_network::AddressPair {
            ip_address: "10.77.0.0/24".parse().unwrap(),
            mac_address: None,
        };
        lab.modify::<madang_network::Port>(&b.port, |port| port.spec.allowed_address_pairs = vec![pair.clone()])
            .await;
        assert!(!a.pings("10.77.0.1".parse().unwrap()).await);
        let route = HostRoute {
            destination: "10.77.0.0/24".parse().unwrap(),
            nexthop: b.address(),
        };
        lab.modify::<Router>(&router, |router| router.spec.routes = vec![route.clone()])
            .await;
        until_async("the route", || a.pings("10.77.0.1".parse().unwrap())).await;

        let wrong = HostRoute {
            destination: "10.78.0.0/24".parse().unwrap(),
            nexthop: "192.0.2.1".parse().unwrap(),
        };
        lab.modify::<Router>(&router, |router| router.spec.routes.push(wrong.clone()))
            .await;
        until("the failure to be told", || {
            lab.store.get::<Router>(&router.key()).unwrap().status.failure.is_some()
        })
        .await;
        assert!(a.pings("10.77.0.1".parse().unwrap()).await, "the rest works on");
        lab.modify::<Router>(&router, |router| router.spec.routes.clear()).await;
        until("all to be well", || {
            lab.store.get::<Router>(&router.key()).unwrap().status.failure.is_none()
        })
        .await;
        let namespace = lab.instance.netns(&format!("router-{}", router.metadata.uid));
        let routes = Links::open(&namespace).await.unwrap().routes().await.unwrap();
        let gone = |route: &Route| route.destination != "10.77.0.0/24".parse().unwrap();
        assert!(routes.iter().all(gone), "{routes:?}");
    });
}
