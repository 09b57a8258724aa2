//! A server's life.

use std::time::Duration;

use madang_network::{Network, Port};
use madang_scheduler::{Claim, Provider, claim::rules::usage_group};
use serde_json::{Value, json};

use crate::cloud::{Cloud, OTHER, Options, PROJECT};
use madang_compute::{Server, driver::simulated::Behaviour, quota};

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_made_used_and_gone_without_a_trace() {
    let cloud = Cloud::new(Options::default()).await;
    let id = cloud.create("web").await;
    let server = cloud.becomes(&id, "ACTIVE").await;
    let address = server["addresses"]["private"][0]["addr"].as_str().unwrap();
    assert!(address.starts_with("10.77."), "{server}");
    assert_eq!(server["security_groups"], json!([{ "name": "default" }]));
    assert_eq!(cloud.store.counters(PROJECT, quota::COUNTERS)["instances"], 1);

    assert_eq!(
        cloud
            .call("POST", &format!("/servers/{id}/action"), json!({ "os-stop": null }))
            .await
            .0,
        202
    );
    cloud.becomes(&id, "SHUTOFF").await;
    let again = cloud
        .call("POST", &format!("/servers/{id}/action"), json!({ "os-stop": null }))
        .await;
    assert_eq!(again.0, 409, "{}", again.1);
    assert_eq!(
        cloud
            .call("POST", &format!("/servers/{id}/action"), json!({ "os-start": null }))
            .await
            .0,
        202
    );
    cloud.becomes(&id, "ACTIVE").await;
    for kind in ["SOFT", "HARD"] {
        let reboot = json!({ "reboot": { "type": kind } });
        assert_eq!(
            cloud.call("POST", &format!("/servers/{id}/action"), reboot).await.0,
            202
        );
        cloud.becomes(&id, "ACTIVE").await;
    }
    let (status, console) = cloud
        .call(
            "POST",
            &format!("/servers/{id}/action"),
            json!({ "os-getConsoleOutput": {} }),
        )
        .await;
    assert!(status == 200 && console["output"].is_string(), "{console}");
    let (status, renamed) = cloud
        .call("PUT", &format!("/servers/{id}"), json!({ "server": { "name": "new" } }))
        .await;
    assert_eq!((status, renamed["server"]["name"].as_str()), (200, Some("new")));

    assert_eq!(
        cloud.call("DELETE", &format!("/servers/{id}"), Value::Null).await.0,
        204
    );
    cloud
        .eventually("end", || {
            cloud.store.cache::<Server>().by_name(&id).is_none().then_some(())
        })
        .await;
    cloud
        .eventually("end of its claim", || {
            cloud.store.cache::<Claim>().is_empty().then_some(())
        })
        .await;
    cloud
        .eventually("end of its port", || {
            cloud.store.cache::<Port>().by("device", &id).is_empty().then_some(())
        })
        .await;
    assert!(cloud.store.counters(PROJECT, quota::COUNTERS).is_empty());
    for provider in cloud.store.cache::<Provider>().all() {
        assert!(cloud.store.counters("", &usage_group(provider.name())).is_empty());
    }
    assert_eq!(cloud.call("GET", &format!("/servers/{id}"), Value::Null).await.0, 404);
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_powers_off_or_breaks_is_seen() {
    let cloud = Cloud::new(Options::default()).await;
    let (off, broken) = (cloud.create("off").await, cloud.create("broken").await);
    cloud.becomes(&off, "ACTIVE").await;
    cloud.becomes(&broken, "ACTIVE").await;
    cloud.world.end(off.parse().unwrap());
    cloud.world.fail(broken.parse().unwrap(), "the host ran out of memory");
    cloud.becomes(&off, "SHUTOFF").await;
    let server = cloud.becomes(&broken, "ERROR").await;
    assert_eq!(server["fault"]["message"], "the host ran out of memory");
    let hard = json!({ "reboot": { "type": "HARD" } });
    assert_eq!(
        cloud.call("POST", &format!("/servers/{broken}/action"), hard).await.0,
        202
    );
    cloud.becomes(&broken, "ACTIVE").await;
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_start_says_why() {
    let behaviour = Behaviour {
        fail_every: Some(1),
        ..Behaviour::default()
    };
    let cloud = Cloud::new(Options {
        behaviour,
        ..Options::default()
    })
    .await;
    let id = cloud.create("unlucky").await;
    let server = cloud.becomes(&id, "ERROR").await;
    assert!(
        server["fault"]["message"]
            .as_str()
            .unwrap()
            .contains("simulated failure"),
        "{server}"
    );
    assert_eq!(
        cloud.call("DELETE", &format!("/servers/{id}"), Value::Null).await.0,
        204
    );
    cloud
        .eventually("end", || cloud.store.cache::<Server>().is_empty().then_some(()))
        .await;
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_host_a_server_is_in_error_and_can_be_deleted() {
    let cloud = Cloud::new(Options {
        hosts: 0,
        ..Options::default()
    })
    .await;
    let id = cloud.create("homeless").await;
    let server = cloud.becomes(&id, "ERROR").await;
    assert!(
        server["fault"]["message"]
            .as_str()
            .unwrap()
            .starts_with("No valid host was found."),
        "{server}"
    );
    assert_eq!(
        cloud.call("DELETE", &format!("/servers/{id}"), Value::Null).await.0,
        204
    );
    cloud
        .eventually("end", || cloud.store.cache::<Claim>().is_empty().then_some(()))
        .await;
    assert!(cloud.store.counters(PROJECT, quota::COUNTERS).is_empty());
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_at_once_are_as_many_as_the_quota_allows() {
    let cloud = Cloud::new(Options::default()).await;
    let mut body = cloud.wanted("many");
    body["server"]["min_count"] = json!(2);
    body["server"]["max_count"] = json!(30);
    let (status, answer) = cloud.call("POST", "/servers", body).await;
    assert_eq!(status, 202, "{answer}");
    assert_eq!(cloud.store.cache::<Server>().len(), 10);
    assert_eq!(cloud.store.counters(PROJECT, quota::COUNTERS)["instances"], 10);
    let (status, answer) = cloud.call("POST", "/servers", cloud.wanted("one more")).await;
    assert_eq!(status, 403, "{answer}");
    let message = answer["forbidden"]["message"].as_str().unwrap();
    assert_eq!(
        message,
        "Quota exceeded for instances: Requested 1, but already used 10 of 10 instances"
    );
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_requests_at_once_take_exactly_what_the_quota_has() {
    let cloud = std::sync::Arc::new(Cloud::new(Options::default()).await);
    let asks = (0..50).map(|n| {
        let cloud = std::sync::Arc::clone(&cloud);
        async move { cloud.call("POST", "/servers", cloud.wanted(&format!("s{n}"))).await.0 }
    });
    let statuses = futures_util::future::join_all(asks).await;
    assert_eq!(
        statuses.iter().filter(|status| **status == 202).count(),
        10,
        "{statuses:?}"
    );
    assert!(
        statuses.iter().all(|status| matches!(status, 202 | 403)),
        "{statuses:?}"
    );
    let addresses: std::collections::BTreeSet<_> = cloud
        .store
        .cache::<Port>()
        .all()
        .iter()
        .flat_map(|port| port.spec.fixed_ips.iter().map(|ip| ip.ip_address).collect::<Vec<_>>())
        .collect();
    let ports: usize = cloud
        .store
        .cache::<Port>()
        .all()
        .iter()
        .map(|port| port.spec.fixed_ips.len())
        .sum();
    assert_eq!(addresses.len(), ports, "no address twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn others_see_nothing_and_admins_all() {
    let cloud = Cloud::new(Options::default()).await;
    let id = cloud.create("mine").await;
    cloud.becomes(&id, "ACTIVE").await;
    let other = || cloud.caller(OTHER, &["member", "reader"]);
    let path = format!("/servers/{id}");
    for (method, path, body) in [
        ("GET", path.as_str(), Value::Null),
        ("DELETE", path.as_str(), Value::Null),
        ("PUT", path.as_str(), json!({ "server": { "name": "x" } })),
        ("POST", &format!("{path}/action"), json!({ "os-stop": null })),
        ("GET", &format!("{path}/metadata"), Value::Null),
        ("GET", &format!("{path}/os-interface"), Value::Null),
    ] {
        assert_eq!(
            cloud.call_as(other(), "2.1", method, path, body).await.0,
            404,
            "{method} {path}"
        );
    }
    let (_, list) = cloud.call_as(other(), "2.1", "GET", "/servers", Value::Null).await;
    assert_eq!(list["servers"], json!([]));
    let (status, _) = cloud
        .call_as(other(), "2.1", "GET", "/servers?all_tenants=1", Value::Null)
        .await;
    assert_eq!(status, 403);
    let admin = cloud.caller(OTHER, &["admin", "member", "reader"]);
    let (_, list) = cloud
        .call_as(
            admin.clone(),
            "2.1",
            "GET",
            "/servers/detail?all_tenants=1",
            Value::Null,
        )
        .await;
    assert_eq!(list["servers"][0]["id"], id.as_str());
    assert!(
        list["servers"][0]["OS-EXT-SRV-ATTR:host"]
            .as_str()
            .unwrap()
            .starts_with("sim-")
    );
    let reader = cloud.caller(PROJECT, &["reader"]);
    assert_eq!(
        cloud.call_as(reader.clone(), "2.1", "GET", &path, Value::Null).await.0,
        200
    );
    assert_eq!(cloud.call_as(reader, "2.1", "DELETE", &path, Value::Null).await.0, 403);
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_while_it_is_built_leaves_nothing() {
    let behaviour = Behaviour {
        start_takes: Duration::from_millis(30),
        ..Behaviour::default()
    };
    let cloud = Cloud::new(Options {
        behaviour,
        ..Options::default()
    })
    .await;
    for round in 0..10u64 {
        let id = cloud.create("brief").await;
        tokio::time::sleep(Duration::from_millis(round * 4)).await;
        assert_eq!(
            cloud.call("DELETE", &format!("/servers/{id}"), Value::Null).await.0,
            204
        );
    }
    cloud
        .eventually("end of servers", || {
            cloud.store.cache::<Server>().is_empty().then_some(())
        })
        .await;
    cloud
        .eventually("end of claims", || {
            cloud.store.cache::<Claim>().is_empty().then_some(())
        })
        .await;
    assert!(cloud.store.counters(PROJECT, quota::COUNTERS).is_empty());
    cloud.stop().await;
}

#[tokio::test]
async fn files_are_put_in_up_to_the_quota() {
    let cloud = Cloud::new(Options::default()).await;
    let file = json!({ "path": "/etc/motd", "contents": "aGVsbG8=" });
    let mut wanted = cloud.wanted("a");
    wanted["server"]["personality"] = json!([file, file, file, file, file, file]);
    let (status, body) = cloud.call("POST", "/servers", wanted.clone()).await;
    assert_eq!(status, 403, "{body}");
    wanted["server"]["personality"] = json!([file]);
    let (status, body) = cloud.call("POST", "/servers", wanted).await;
    assert_eq!(status, 202, "{body}");
    let id = body["server"]["id"].as_str().unwrap();
    cloud.becomes(id, "ACTIVE").await;
    let injected = cloud.store.cache::<Server>().by_name(id).unwrap().spec.injected.clone();
    assert_eq!(injected.files[0].path, "/etc/motd");
    assert_eq!(injected.password, None, "told once");
    cloud.stop().await;
}

#[tokio::test]
async fn a_network_is_made_for_who_has_none_and_asks_for_any() {
    let cloud = Cloud::new(Options::default()).await;
    let ask = async |networks: Value| {
        let mut wanted = cloud.wanted("a");
        wanted["server"]["networks"] = networks;
        let caller = cloud.caller("project-without", &["member", "reader"]);
        cloud.call_as(caller, "2.37", "POST", "/servers", wanted).await
    };
    assert_eq!(ask(json!("none")).await.0, 202);
    let own = || cloud.store.cache::<Network>().in_project("project-without");
    assert!(own().is_empty());
    for _ in 0..2 {
        let (status, body) = ask(json!("auto")).await;
        assert_eq!(status, 202, "{body}");
        assert_eq!(own().len(), 1, "one for all");
    }
    let ports = cloud.store.cache::<Port>().by("network", own()[0].name());
    let owners: Vec<_> = ports.iter().map(|port| port.spec.device_owner.as_str()).collect();
    assert!(owners.contains(&"network:router_interface"), "{owners:?}");
    assert_eq!(owners.iter().filter(|owner| owner.starts_with("compute:")).count(), 2);
    cloud.stop().await;
}

#[tokio::test]
async fn two_ports_on_one_network_leave_nothing_behind() {
    let cloud = Cloud::new(Options::default()).await;
    let mut wanted = cloud.wanted("a");
    wanted["server"]["networks"] = json!([{ "uuid": cloud.network }, { "uuid": cloud.network }]);
    let record = format!("network/{}", cloud.network);
    let before = cloud.store.counters("", &record);
    let (status, body) = cloud.call("POST", "/servers", wanted).await;
    assert_eq!(status, 202, "{body}");
    let id = body["server"]["id"].as_str().unwrap();
    cloud.becomes(id, "ACTIVE").await;
    assert_ne!(cloud.store.counters("", &record), before);
    cloud.call("DELETE", &format!("/servers/{id}"), Value::Null).await;
    cloud
        .eventually("end", || cloud.store.cache::<Server>().is_empty().then_some(()))
        .await;
    assert_eq!(cloud.store.counters("", &record), before);
    cloud.stop().await;
}
