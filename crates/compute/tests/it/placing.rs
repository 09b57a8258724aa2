//! What the scheduler is told of servers and hosts, and what it says back.

use std::time::Duration;

use madang_compute::driver::simulated::Behaviour;
use madang_scheduler::{Claim, Provider};
use serde_json::{Value, json};

use crate::cloud::{Cloud, OTHER, Options, PROJECT};

/// The events of a server's only action, as an admin sees them.
async fn events(cloud: &Cloud, id: &str) -> Vec<Value> {
    let admin = || cloud.caller(OTHER, &["admin", "member", "reader"]);
    let path = format!("/servers/{id}/os-instance-actions");
    let (_, list) = cloud.call_as(admin(), "2.84", "GET", &path, Value::Null).await;
    let request = list["instanceActions"][0]["request_id"].as_str().unwrap().to_owned();
    let path = format!("{path}/{request}");
    let (_, shown) = cloud.call_as(admin(), "2.84", "GET", &path, Value::Null).await;
    shown["instanceAction"]["events"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_know_of_hosts_reads_why_each_filter_refused_them() {
    let cloud = Cloud::new(Options::default()).await;
    let mut wanted = cloud.wanted("lonely");
    wanted["server"]["availability_zone"] = json!("nova");
    wanted["os:scheduler_hints"] = json!({ "same_host": ["00000000-0000-4000-8000-000000000000"] });
    let (status, body) = cloud.call("POST", "/servers", wanted).await;
    assert_eq!(status, 202, "{body}");
    let id = body["server"]["id"].as_str().unwrap();
    let server = cloud.becomes(id, "ERROR").await;
    let message = server["fault"]["message"].as_str().unwrap();
    assert!(message.starts_with("No valid host was found."), "{message}");
    assert!(
        server["fault"]["details"].is_null(),
        "hosts are no user's business: {server}"
    );

    let admin = cloud.caller(OTHER, &["admin", "member", "reader"]);
    let (_, shown) = cloud
        .call_as(admin, "2.1", "GET", &format!("/servers/{id}"), Value::Null)
        .await;
    let details = shown["server"]["fault"]["details"].as_str().unwrap_or_default();
    let of_filter = details
        .lines()
        .find(|line| line.starts_with("SameHostFilter: 0 of 2 hosts left"));
    assert!(
        of_filter.is_some_and(|line| line.contains("sim-1") && line.contains("sim-2")),
        "{shown}"
    );
    assert!(
        details.lines().any(|line| line == "ComputeFilter: 2 of 2 hosts left"),
        "{details}"
    );
    let events = events(&cloud, id).await;
    assert_eq!(
        (&events[0]["event"], &events[0]["result"]),
        (&json!("schedule"), &json!("Error"))
    );
    assert_eq!(events[0]["details"], json!(format!("{message}\n{details}")));
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_is_busy_while_it_builds_and_remembers_what_failed() {
    let cloud = Cloud::new(Options {
        hosts: 1,
        behaviour: Behaviour {
            start_takes: Duration::from_millis(300),
            fail_every: Some(2),
            ..Behaviour::default()
        },
        ..Options::default()
    })
    .await;
    let claim = |id: &str| cloud.store.cache::<Claim>().by_name(id).unwrap();
    let failed = || {
        let hosts = cloud.store.cache::<Provider>().by("name", "sim-1");
        hosts[0].status.failed_builds
    };
    let first = cloud.create("first").await;
    cloud
        .eventually("place", || {
            claim(&first).status.host.clone().filter(|_| claim(&first).spec.is_busy)
        })
        .await;
    cloud.becomes(&first, "ACTIVE").await;
    assert_eq!((claim(&first).spec.is_busy, failed()), (false, 0));
    let second = cloud.create("second").await;
    cloud.becomes(&second, "ERROR").await;
    assert_eq!((claim(&second).spec.is_busy, failed()), (false, 1));
    let third = cloud.create("third").await;
    cloud.becomes(&third, "ACTIVE").await;
    assert_eq!(failed(), 0, "one that was built makes it as good as new");
    let project = cloud.store.cache::<Claim>().in_project(PROJECT);
    assert!(project.iter().all(|claim| !claim.spec.is_busy));
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_takes_as_many_of_a_group_as_its_rule_says() {
    let cloud = Cloud::new(Options::default()).await;
    let two = json!({ "max_server_per_host": 2 });
    let group = async |version: &str, policy: &str| {
        let body = json!({ "server_group": { "name": "g", "policy": policy, "rules": two } });
        cloud.call_in(version, "POST", "/os-server-groups", body).await
    };
    for (version, policy) in [("2.64", "affinity"), ("2.63", "anti-affinity")] {
        let (status, body) = group(version, policy).await;
        assert_eq!(status, 400, "{version} {policy}: {body}");
    }
    let (status, body) = group("2.64", "anti-affinity").await;
    assert_eq!((status, &body["server_group"]["rules"]), (200, &two), "{body}");
    let mut wanted = cloud.wanted("member");
    wanted["server"]["min_count"] = json!(4);
    wanted["server"]["max_count"] = json!(4);
    wanted["os:scheduler_hints"] = json!({ "group": body["server_group"]["id"] });
    let (status, made) = cloud.call("POST", "/servers", wanted.clone()).await;
    assert_eq!(status, 202, "{made}");
    let placed = || {
        let claims = cloud.store.cache::<Claim>().in_project(PROJECT);
        let hosts: Vec<String> = claims.iter().filter_map(|claim| claim.status.host.clone()).collect();
        (hosts.len() == 4).then_some(hosts)
    };
    let hosts = cloud.eventually("places", placed).await;
    for host in ["sim-1", "sim-2"] {
        assert_eq!(hosts.iter().filter(|one| *one == host).count(), 2, "{hosts:?}");
    }
    wanted["server"]["min_count"] = json!(1);
    wanted["server"]["max_count"] = json!(1);
    let (_, fifth) = cloud.call("POST", "/servers", wanted).await;
    let fifth = cloud.becomes(fifth["server"]["id"].as_str().unwrap(), "ERROR").await;
    let message = fifth["fault"]["message"].as_str().unwrap();
    assert!(
        message.contains("2 of 2 have a member of the server group already"),
        "{message}"
    );
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dedicated_processors_are_given_once_and_come_back() {
    let cloud = Cloud::new(Options {
        hosts: 1,
        dedicated: vec![2, 3, 40, 41, 42],
        ..Options::default()
    })
    .await;
    let admin = || cloud.caller(OTHER, &["admin", "member", "reader"]);
    let flavor = json!({ "flavor": { "name": "own", "id": "own", "vcpus": 2, "ram": 64, "disk": 1 } });
    let (status, body) = cloud.call_as(admin(), "2.1", "POST", "/flavors", flavor).await;
    assert_eq!(status, 200, "{body}");
    let specs = json!({ "extra_specs": { "hw:cpu_policy": "dedicated", "hw:mem_page_size": "2MB" } });
    let (status, body) = cloud
        .call_as(admin(), "2.1", "POST", "/flavors/own/os-extra_specs", specs)
        .await;
    assert_eq!(status, 200, "{body}");
    let make = async |name: &str| {
        let mut wanted = cloud.wanted(name);
        wanted["server"]["flavorRef"] = json!("own");
        let (status, body) = cloud.call("POST", "/servers", wanted).await;
        assert_eq!(status, 202, "{body}");
        body["server"]["id"].as_str().unwrap().to_owned()
    };
    let seats = |id: &str| cloud.store.cache::<Claim>().by_name(id).unwrap().status.seats.clone();
    let (a, b) = (make("a").await, make("b").await);
    for id in [&a, &b] {
        cloud.becomes(id, "ACTIVE").await;
        assert_eq!((seats(id).len(), seats(id)[0].pages), (1, Some((2048, 32))));
    }
    let mut given: Vec<Vec<u32>> = [&a, &b].map(|id| seats(id)[0].cpus.clone()).into();
    given.sort();
    assert_eq!(given, [vec![2, 3], vec![40, 41]]);
    let host = cloud.store.cache::<Provider>().by("name", "sim-1").remove(0);
    let counted = || {
        let group = madang_scheduler::claim::rules::seat_group(host.name());
        cloud.store.counters("", &group)
    };
    assert_eq!(
        (
            counted()["cpu/40"],
            counted()["pages/0/2048"] + counted()["pages/1/2048"]
        ),
        (1, 64)
    );

    let third = make("third").await;
    let refused = cloud.becomes(&third, "ERROR").await;
    let message = refused["fault"]["message"].as_str().unwrap();
    assert!(
        message.contains("dedicated processors"),
        "processor 42 alone is not enough: {message}"
    );
    assert_eq!(cloud.call("DELETE", &format!("/servers/{a}"), Value::Null).await.0, 204);
    let gone = || cloud.store.cache::<Claim>().by_name(&a).is_none().then_some(());
    cloud.eventually("end", gone).await;
    let freed = given.iter().find(|cpus| **cpus != seats(&b)[0].cpus).unwrap();
    let fourth = make("fourth").await;
    cloud.becomes(&fourth, "ACTIVE").await;
    assert_eq!(&seats(&fourth)[0].cpus, freed);
    for id in [b, third, fourth] {
        assert_eq!(
            cloud.call("DELETE", &format!("/servers/{id}"), Value::Null).await.0,
            204
        );
    }
    cloud
        .eventually("end", || cloud.store.cache::<Claim>().is_empty().then_some(()))
        .await;
    assert!(counted().is_empty(), "{:?}", counted());
    cloud.stop().await;
}
