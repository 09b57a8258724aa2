//! What the rules promise to whoever writes: addresses, uniqueness, quotas, and that nothing in use goes.

use std::{collections::BTreeSet, sync::Arc};

use madang_network::{
    FixedIp, Network, Port, PortSpec, SecurityGroup, SeedOptions, Subnet, quota::COUNTERS, security_group::default_key,
    seed,
};
use madang_store::{Metadata, Resource, StoreError};

use super::cloud::{Cloud, cause};

fn addresses(ports: &[Arc<Resource<Port>>]) -> BTreeSet<String> {
    ports
        .iter()
        .flat_map(|port| port.spec.fixed_ips.iter().map(|ip| ip.ip_address.to_string()))
        .collect()
}

#[tokio::test]
async fn a_port_about_which_nothing_is_said_gets_everything() {
    let cloud = Cloud::new().await;
    let (network, subnet) = cloud.network("p1", "10.0.0.0/24").await;
    let port = cloud.port("p1", network.name()).await.unwrap();
    assert!(port.spec.mac_address.starts_with("fa:16:3e:"));
    assert_eq!(port.spec.fixed_ips.len(), 1);
    assert_eq!(port.spec.fixed_ips[0].subnet_id, subnet.name());
    let group = cloud.store.get::<SecurityGroup>(&default_key("p1")).unwrap();
    assert_eq!(port.spec.security_groups, [group.name()]);
    let rules = cloud.store.cache::<madang_network::Rule>().by("group", group.name());
    assert_eq!(rules.len(), 4);
    let counters = cloud.store.counters("p1", COUNTERS);
    assert_eq!(
        (
            counters["ports"],
            counters["security_groups"],
            counters["security_group_rules"]
        ),
        (1, 1, 4)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sixty_four_at_once_all_get_different_addresses_until_none_is_left() {
    let cloud = Arc::new(Cloud::new().await);
    let (network, _) = cloud.network("p1", "10.0.0.0/25").await; // 125 addresses
    let create = |_| {
        let (cloud, network) = (Arc::clone(&cloud), network.name().to_owned());
        async move { cloud.port("p1", &network).await }
    };
    let mut made = Vec::new();
    for _ in 0..3 {
        let tried = futures_util::future::join_all((0..64).map(create)).await;
        for outcome in tried {
            match outcome {
                Ok(port) => made.push(port),
                Err(StoreError::Rejected(refused)) => assert_eq!(refused.reason, "IpAddressGenerationFailure"),
                Err(other) => panic!("{other}"),
            }
        }
    }
    assert_eq!(made.len(), 125);
    assert_eq!(addresses(&made).len(), 125, "an address was given twice");
    assert_eq!(
        made.iter()
            .map(|port| &port.spec.mac_address)
            .collect::<BTreeSet<_>>()
            .len(),
        125
    );

    // What is given back is given again, and nothing else.
    let freed = [&made[3], &made[77]];
    for port in freed {
        let port = cloud.store.get::<Port>(&port.key()).unwrap();
        cloud.store.transact(cause(), |tx| tx.delete(&port)).await.unwrap();
    }
    let again = [
        cloud.port("p1", network.name()).await.unwrap(),
        cloud.port("p1", network.name()).await.unwrap(),
    ];
    assert_eq!(addresses(&again), addresses(&freed.map(Arc::clone)));
    assert!(cloud.port("p1", network.name()).await.is_err());
    assert_eq!(cloud.store.counters("p1", COUNTERS)["ports"], 125);
}

#[tokio::test]
async fn ports_of_one_transaction_differ_also_in_the_last_addresses() {
    let cloud = Cloud::new().await;
    let (network, _) = cloud.network("p1", "10.0.0.0/29").await; // 5 addresses
    let create = |count: usize| {
        let network = network.name().to_owned();
        let store = cloud.store.clone();
        async move {
            store
                .transact(cause(), |tx| {
                    let port = |_| Resource::<Port>::new(Metadata::with_id("p1"), PortSpec::on(&network));
                    (0..count)
                        .map(|n| tx.create(port(n)))
                        .collect::<Result<Vec<_>, StoreError>>()
                })
                .await
        }
    };
    let first = create(3).await.unwrap();
    assert!(
        create(3).await.is_err(),
        "only two are left, and nothing of the three may stay"
    );
    let rest = create(2).await.unwrap();
    assert_eq!(addresses(&[first, rest].concat()).len(), 5);
}

#[tokio::test]
async fn hints_are_right_again_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let open = || async {
        let options = madang_store::SqliteOptions::new(directory.path().join("store.db"));
        let backend = madang_store::Sqlite::open(options).await.unwrap();
        let mut builder = madang_store::StoreBuilder::new();
        madang_network::register(&mut builder);
        builder.open(Arc::new(backend)).await.unwrap()
    };
    let options = seed_options();
    let store = open().await;
    let seeded = seed(&store, &options).await.unwrap();
    let create = |store: madang_store::Store, network: String| async move {
        let spec = PortSpec::on(&network);
        store
            .transact(cause(), |tx| {
                tx.create(Resource::<Port>::new(Metadata::with_id("demo"), spec.clone()))
            })
            .await
            .unwrap()
    };
    let mut made = Vec::new();
    for _ in 0..10 {
        made.push(create(store.clone(), seeded.private_network.clone()).await);
    }
    store.close().await;
    let store = open().await;
    assert_eq!(
        seed(&store, &options).await.unwrap(),
        seeded,
        "seeding twice makes nothing twice"
    );
    for _ in 0..10 {
        made.push(create(store.clone(), seeded.private_network.clone()).await);
    }
    assert_eq!(addresses(&made).len(), 20);
    assert_eq!(store.cache::<Network>().len(), 2);
    store.close().await;
}

fn seed_options() -> SeedOptions {
    SeedOptions {
        project: "demo".into(),
        admin_project: "admins".into(),
        private: "10.20.0.0/24".parse().unwrap(),
        public: "172.24.4.0/24".parse().unwrap(),
        public_gateway: "172.24.4.1".parse().unwrap(),
        public_pool: None,
        name_servers: vec!["9.9.9.9".parse().unwrap()],
    }
}

#[tokio::test]
async fn seeding_is_not_undone_by_who_deletes_it() {
    let cloud = Cloud::new().await;
    let seeded = seed(&cloud.store, &seed_options()).await.unwrap();
    let router = cloud
        .store
        .cache::<madang_network::Router>()
        .by_name(&seeded.router)
        .unwrap();
    assert!(
        router
            .spec
            .gateway
            .as_ref()
            .is_some_and(|gateway| gateway.network_id == seeded.public_network)
    );
    let client = cloud.member("demo");
    let remove = format!("/v2.0/routers/{}/remove_router_interface", seeded.router);
    client
        .update(&remove, serde_json::json!({ "subnet_id": seeded.private_subnet }))
        .await;
    assert_eq!(
        client
            .delete(&format!("/v2.0/networks/{}", seeded.private_network))
            .await
            .0,
        204
    );
    seed(&cloud.store, &seed_options()).await.unwrap();
    assert!(
        cloud
            .store
            .cache::<Network>()
            .by_name(&seeded.private_network)
            .is_none()
    );
    assert_eq!(madang_network::seeded_with(&cloud.store), Some(seed_options()));
}

#[tokio::test]
async fn explicit_addresses_are_exclusive() {
    let cloud = Cloud::new().await;
    let (network, subnet) = cloud.network("p1", "10.0.0.0/24").await;
    let want = |ip: &str| FixedIp {
        subnet_id: subnet.name().to_owned(),
        ip_address: ip.parse().unwrap(),
    };
    let create = |ips: Vec<FixedIp>, mac: &str| {
        let spec = PortSpec {
            fixed_ips: ips,
            mac_address: mac.to_owned(),
            ..PortSpec::on(network.name())
        };
        let store = cloud.store.clone();
        async move {
            let made = store.transact(cause(), |tx| {
                tx.create(Resource::<Port>::new(Metadata::with_id("p1"), spec.clone()))
            });
            made.await.map_err(|e| match e {
                StoreError::Rejected(refused) => refused.reason,
                other => panic!("{other}"),
            })
        }
    };
    let first = create(vec![want("10.0.0.9")], "FA-16-3E-00-00-01").await.unwrap();
    assert_eq!(first.spec.mac_address, "fa:16:3e:00:00:01");
    assert_eq!(
        create(vec![want("10.0.0.9")], "").await.unwrap_err(),
        "IpAddressAlreadyAllocated"
    );
    assert_eq!(
        create(vec![want("10.0.0.10"), want("10.0.0.10")], "")
            .await
            .unwrap_err(),
        "IpAddressAlreadyAllocated"
    );
    assert_eq!(
        create(vec![], "fa:16:3e:00:00:01").await.unwrap_err(),
        "MacAddressInUse"
    );
    assert_eq!(
        create(vec![want("10.0.1.9")], "").await.unwrap_err(),
        "InvalidIpForSubnet"
    );
    assert_eq!(
        create(vec![want("10.0.0.255")], "").await.unwrap_err(),
        "InvalidIpForSubnet"
    );
    let open = FixedIp {
        subnet_id: String::new(),
        ip_address: "10.9.0.1".parse().unwrap(),
    };
    assert_eq!(create(vec![open], "").await.unwrap_err(), "InvalidIpForNetwork");
    // Changing the address frees the old one within the same transaction.
    let held = cloud.store.get::<Port>(&first.key()).unwrap();
    let mut moved = (*held).clone();
    moved.spec.fixed_ips = vec![want("10.0.0.11")];
    cloud
        .store
        .transact(cause(), |tx| tx.update(&held, moved.clone()))
        .await
        .unwrap();
    create(vec![want("10.0.0.9")], "").await.unwrap();
    assert_eq!(
        create(vec![want("10.0.0.11")], "").await.unwrap_err(),
        "IpAddressAlreadyAllocated"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_network_never_goes_under_a_port_that_is_being_made() {
    let cloud = Arc::new(Cloud::new().await);
    for _ in 0..30 {
        let (network, _) = cloud.network("p1", "10.0.0.0/24").await;
        let delete = async {
            let network = cloud.store.get::<Network>(&network.key()).unwrap();
            cloud.store.transact(cause(), |tx| tx.delete(&network)).await
        };
        let (port, deleted) = tokio::join!(cloud.port("p1", network.name()), delete);
        let is_there = cloud.store.get::<Network>(&network.key()).is_some();
        assert_eq!(port.is_ok(), is_there, "port {:?}, deletion {deleted:?}", port.is_ok());
        if let Ok(port) = port {
            cloud.store.transact(cause(), |tx| tx.delete(&port)).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_network_takes_its_subnets_and_dhcp_port_along() {
    let cloud = Cloud::new().await;
    let client = cloud.member("p1");
    let network = client
        .create("/v2.0/networks", serde_json::json!({ "network": {} }))
        .await;
    let id = super::cloud::text(&network, "/network/id").to_owned();
    let subnet = serde_json::json!({ "subnet": { "network_id": id, "ip_version": 4, "cidr": "10.0.0.0/24" } });
    client.create("/v2.0/subnets", subnet).await;
    let ports = cloud.store.cache::<Port>().by("network", &id);
    assert_eq!(ports.len(), 1);
    assert_eq!(
        (ports[0].spec.device_owner.as_str(), ports[0].spec.fixed_ips.len()),
        ("network:dhcp", 1)
    );
    assert_eq!(client.delete(&format!("/v2.0/networks/{id}")).await.0, 204);
    assert!(cloud.store.cache::<Port>().is_empty() && cloud.store.cache::<Subnet>().is_empty());
    assert!(
        cloud.store.counters("p1", COUNTERS).is_empty(),
        "{:?}",
        cloud.store.counters("p1", COUNTERS)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_overlapping_subnets_never_both_come_about() {
    let cloud = Cloud::new().await;
    let client = cloud.member("p1");
    let network = client
        .create("/v2.0/networks", serde_json::json!({ "network": {} }))
        .await;
    let id = super::cloud::text(&network, "/network/id").to_owned();
    let create = |cidr: &'static str| {
        let body = serde_json::json!({ "subnet": { "network_id": id, "ip_version": 4, "cidr": cidr } });
        client.call(http::Method::POST, "/v2.0/subnets", Some(body))
    };
    let outcomes = tokio::join!(create("10.0.0.0/24"), create("10.0.0.0/25"), create("10.0.0.128/25"));
    let made = [outcomes.0.0, outcomes.1.0, outcomes.2.0]
        .iter()
        .filter(|status| **status == 201)
        .count();
    let subnets = cloud.store.cache::<Subnet>().by("network", &id);
    assert_eq!(subnets.len(), made);
    for (at, one) in subnets.iter().enumerate() {
        assert!(
            subnets[..at]
                .iter()
                .all(|other| !one.spec.cidr.contains(&other.spec.cidr.addr()))
        );
    }
}

#[tokio::test]
async fn quotas_hold_in_the_commit() {
    let cloud = Arc::new(Cloud::new().await);
    let (network, _) = cloud.network("p1", "10.0.0.0/24").await;
    let admin = cloud.admin();
    admin
        .update("/v2.0/quotas/p1", serde_json::json!({ "quota": { "port": 7 } }))
        .await;
    let create = |_| cloud.port("p1", network.name());
    let outcomes = futures_util::future::join_all((0..20).map(create)).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 7);
    let (status, refused) = cloud
        .member("p1")
        .call(
            http::Method::POST,
            "/v2.0/ports",
            Some(serde_json::json!({ "port": { "network_id": network.name() } })),
        )
        .await;
    assert_eq!(status, 409);
    assert_eq!(refused["NeutronError"]["type"], "OverQuota");
    assert_eq!(
        refused["NeutronError"]["message"],
        "Quota exceeded for resources: ['port']."
    );
    assert_eq!(admin.delete("/v2.0/quotas/p1").await.0, 204);
    cloud.port("p1", network.name()).await.unwrap();
}

/// How long one port takes through the store, alone and 64 at a time. `cargo nextest run -p madang-network
/// --run-ignored only -- cost` with optimisation says what counts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures, asserts nothing"]
async fn cost_of_a_port() {
    let cloud = Arc::new(Cloud::new().await);
    let (network, _) = cloud.network("p1", "10.0.0.0/16").await;
    cloud
        .admin()
        .update("/v2.0/quotas/p1", serde_json::json!({ "quota": { "port": -1 } }))
        .await;
    cloud.port("p1", network.name()).await.unwrap(); // makes the default group
    let started = tokio::time::Instant::now();
    let mut staged = 0u32;
    while staged < 5_000 {
        let mut tx = cloud.store.begin(cause());
        tx.create(Resource::<Port>::new(
            Metadata::with_id("p1"),
            PortSpec::on(network.name()),
        ))
        .unwrap();
        staged += 1;
    }
    println!("rules alone: {:?} a port", started.elapsed() / staged);
    let started = tokio::time::Instant::now();
    let mut made = 0u32;
    while made < 6_400 {
        let create = |_| cloud.port("p1", network.name());
        let outcomes = futures_util::future::join_all((0..64).map(create)).await;
        made += u32::try_from(outcomes.iter().filter(|outcome| outcome.is_ok()).count()).unwrap();
    }
    println!("committed, 64 at a time: {:?} a port", started.elapsed() / made);
}
