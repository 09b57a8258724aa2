//! What admins set for all: templates of rules, flavors, metering labels; what a port needs of its host; and addresses that
//! move.

use std::time::Duration;

use http::Method;
use madang_network::{FloatingIp, qos};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::cloud::{Client, Cloud, cause, text};

async fn refused(client: &Client, method: Method, path: &str, body: Option<Value>) -> (u16, String) {
    let (status, answer) = client.call(method, path, body).await;
    (status, text(&answer, "/NeutronError/type").to_owned())
}

async fn rules_of_new_group(client: &Client, name: &str) -> Vec<(String, Value)> {
    let made = client
        .create("/v2.0/security-groups", json!({ "security_group": { "name": name } }))
        .await;
    let rules = made["security_group"]["security_group_rules"].as_array().unwrap();
    let said = |rule: &Value| (text(rule, "/direction").to_owned(), rule["port_range_min"].clone());
    rules.iter().map(said).collect()
}

#[tokio::test]
async fn templates_are_the_rules_of_new_groups() {
    let cloud = Cloud::new().await;
    let (admin, client) = (cloud.admin(), cloud.member("p1"));
    let path = "/v2.0/default-security-group-rules";
    let (_, list) = client.get(path).await;
    let known = list["default_security_group_rules"].as_array().unwrap().clone();
    assert_eq!(known.len(), 4);
    let inward: Vec<_> = known.iter().filter(|rule| rule["direction"] == "ingress").collect();
    assert!(
        inward
            .iter()
            .all(|rule| rule["remote_group_id"] == "PARENT" && rule["used_in_non_default_sg"] == json!(false))
    );
    let template = |others: bool| {
        json!({ "default_security_group_rule": { "direction": "ingress", "protocol": "tcp", "port_range_min": 22,
            "port_range_max": 22, "used_in_default_sg": false, "used_in_non_default_sg": others } })
    };
    assert_eq!(client.call(Method::POST, path, Some(template(true))).await.0, 403);
    let made = admin.create(path, template(true)).await;
    let again = refused(&admin, Method::POST, path, Some(template(true))).await;
    assert_eq!(again, (409, "DefaultSecurityGroupRuleExists".to_owned()));
    admin.create(path, template(false)).await;
    let rules = rules_of_new_group(&client, "one").await;
    assert_eq!(rules.len(), 3, "{rules:?}");
    assert!(rules.contains(&("ingress".to_owned(), json!(22))));
    // Groups that are there keep what they have; what an admin deletes does not come back.
    let one = format!("{path}/{}", text(&made, "/default_security_group_rule/id"));
    assert_eq!(admin.delete(&one).await.0, 204);
    for rule in &known {
        let one = format!("{path}/{}", text(rule, "/id"));
        assert_eq!(admin.delete(&one).await.0, 204);
    }
    assert_eq!(rules_of_new_group(&client, "two").await, []);
    let (_, list) = client.get("/v2.0/security-groups?name=default").await;
    let default = &list["security_groups"][0]["security_group_rules"];
    assert_eq!(default.as_array().unwrap().len(), 4, "made before");
    assert_eq!(
        admin.get(path).await.1["default_security_group_rules"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test]
async fn prefixes_of_a_pool_come_and_go_while_nothing_is_cut_from_them() {
    let cloud = Cloud::new().await;
    let client = cloud.member("p1");
    let pool = json!({ "subnetpool": { "name": "p", "prefixes": ["10.0.0.0/24"], "min_prefixlen": "26" } });
    let made = client.create("/v2.0/subnetpools", pool).await;
    let path = format!("/v2.0/subnetpools/{}", text(&made, "/subnetpool/id"));
    let (add, remove) = (format!("{path}/add_prefixes"), format!("{path}/remove_prefixes"));
    let both = json!({ "prefixes": ["10.9.0.0/24", "10.0.1.0/24"] });
    let added = client.update(&add, both.clone()).await;
    assert_eq!(added["prefixes"], json!(["10.0.0.0/23", "10.9.0.0/24"]));
    let net = client.create("/v2.0/networks", json!({ "network": {} })).await;
    let subnet = json!({ "subnet": { "network_id": text(&net, "/network/id"), "ip_version": 4,
        "subnetpool_id": text(&made, "/subnetpool/id"), "cidr": "10.9.0.64/26" } });
    client.create("/v2.0/subnets", subnet).await;
    let in_use = refused(&client, Method::PUT, &remove, Some(both)).await;
    assert_eq!(in_use, (400, "IllegalSubnetPoolUpdate".to_owned()));
    let free = json!({ "prefixes": ["10.0.1.0/24", "10.9.0.128/25", "192.0.2.0/24"] });
    let left = client.update(&remove, free).await;
    assert_eq!(left["prefixes"], json!(["10.0.0.0/24", "10.9.0.0/25"]));
    assert_eq!(
        cloud
            .member("p2")
            .call(Method::PUT, &add, Some(json!({ "prefixes": [] })))
            .await
            .0,
        404
    );
}

#[tokio::test]
async fn flavors_have_profiles_that_stay_while_they_do() {
    let cloud = Cloud::new().await;
    let (admin, client) = (cloud.admin(), cloud.member("p1"));
    let odd = json!({ "flavor": { "name": "f", "service_type": "COFFEE" } });
    assert_eq!(admin.call(Method::POST, "/v2.0/flavors", Some(odd)).await.0, 400);
    let flavor = json!({ "flavor": { "name": "f", "service_type": "L3_ROUTER_NAT" } });
    assert_eq!(
        client.call(Method::POST, "/v2.0/flavors", Some(flavor.clone())).await.0,
        403
    );
    let made = admin.create("/v2.0/flavors", flavor).await;
    let flavor = format!("/v2.0/flavors/{}", text(&made, "/flavor/id"));
    for (profile, wanted) in [
        (
            json!({ "driver": "some.Driver" }),
            (404, "ServiceProfileDriverNotFound"),
        ),
        (json!({ "description": "nothing" }), (400, "ServiceProfileEmpty")),
    ] {
        let body = Some(json!({ "service_profile": profile }));
        let got = refused(&admin, Method::POST, "/v2.0/service_profiles", body).await;
        assert_eq!(got, (wanted.0, wanted.1.to_owned()));
    }
    let made = admin
        .create(
            "/v2.0/service_profiles",
            json!({ "service_profile": { "metainfo": "{}" } }),
        )
        .await;
    let id = text(&made, "/service_profile/id").to_owned();
    let joined = json!({ "service_profile": { "id": id } });
    let profiles = format!("{flavor}/service_profiles");
    admin.create(&profiles, joined.clone()).await;
    let twice = refused(&admin, Method::POST, &profiles, Some(joined)).await;
    assert_eq!(twice, (409, "FlavorServiceProfileBindingExists".to_owned()));
    assert_eq!(client.get(&flavor).await.1["flavor"]["service_profiles"], json!([id]));
    let path = format!("/v2.0/service_profiles/{id}");
    assert_eq!(client.get(&path).await.0, 404);
    let used = refused(&admin, Method::DELETE, &path, None).await;
    assert_eq!(used, (409, "ServiceProfileInUse".to_owned()));
    assert_eq!(admin.delete(&format!("{profiles}/{id}")).await.0, 204);
    assert_eq!(admin.delete(&path).await.0, 204);
    assert_eq!(admin.delete(&flavor).await.0, 204);
}

#[tokio::test]
async fn a_labels_rules_do_not_overlap_and_go_with_it() {
    let cloud = Cloud::new().await;
    let admin = cloud.admin();
    let made = admin
        .create(
            "/v2.0/metering/metering-labels",
            json!({ "metering_label": { "name": "l" } }),
        )
        .await;
    assert_eq!(made["metering_label"]["bytes"], json!(0));
    let id = text(&made, "/metering_label/id");
    let rules = "/v2.0/metering/metering-label-rules";
    let rule = |prefix: &str, direction: &str| json!({ "metering_label_rule": { "metering_label_id": id, "direction": direction, "remote_ip_prefix": prefix } });
    admin.create(rules, rule("10.0.0.0/16", "ingress")).await;
    admin.create(rules, rule("10.0.0.0/16", "egress")).await;
    let within = refused(&admin, Method::POST, rules, Some(rule("10.0.3.0/24", "ingress"))).await;
    assert_eq!(within, (409, "MeteringLabelRuleOverlaps".to_owned()));
    let nothing = json!({ "metering_label_rule": { "metering_label_id": id, "direction": "ingress" } });
    assert_eq!(admin.call(Method::POST, rules, Some(nothing)).await.0, 400);
    assert_eq!(
        admin.delete(&format!("/v2.0/metering/metering-labels/{id}")).await.0,
        204
    );
    assert_eq!(admin.get(rules).await.1["metering_label_rules"], json!([]));
}

#[tokio::test]
async fn a_guarantee_is_asked_of_the_host() {
    let cloud = Cloud::new().await;
    let (admin, client) = (cloud.admin(), cloud.member("p1"));
    let made = admin
        .create(
            "/v2.0/qos/policies",
            json!({ "policy": { "name": "sure", "shared": true } }),
        )
        .await;
    let id = text(&made, "/policy/id").to_owned();
    let below = |sort: &str| format!("/v2.0/qos/policies/{id}/{sort}_rules");
    let bandwidth = below("minimum_bandwidth");
    for direction in ["egress", "ingress"] {
        let rule = json!({ "minimum_bandwidth_rule": { "min_kbps": 2000, "direction": direction } });
        admin.create(&bandwidth, rule).await;
    }
    let packets = below("minimum_packet_rate");
    let rate = |direction: &str| json!({ "minimum_packet_rate_rule": { "min_kpps": 3, "direction": direction } });
    admin.create(&packets, rate("any")).await;
    let meets = refused(&admin, Method::POST, &packets, Some(rate("egress"))).await;
    assert_eq!(meets, (409, "QoSRulesConflict".to_owned()));
    let net = client.create("/v2.0/networks", json!({ "network": {} })).await;
    let port = json!({ "port": { "network_id": text(&net, "/network/id"), "qos_policy_id": id } });
    let port = client.create("/v2.0/ports", port).await;
    assert_eq!(port["port"].get("resource_request"), None, "which is for admins");
    let path = format!("/v2.0/ports/{}", text(&port, "/port/id"));
    let (_, seen) = admin.get(&path).await;
    let groups = seen["port"]["resource_request"]["request_groups"].as_array().unwrap();
    assert_eq!(
        groups[0]["resources"],
        json!({ "NET_BW_EGR_KILOBIT_PER_SEC": 2000, "NET_BW_IGR_KILOBIT_PER_SEC": 2000 })
    );
    assert_eq!(
        groups[1]["resources"],
        json!({ "NET_PACKET_RATE_KILOPACKET_PER_SEC": 3 })
    );
    assert_eq!(qos::needs(&cloud.store, Some(&id), text(&net, "/network/id")).len(), 3);
    client.update(&path, json!({ "port": { "qos_policy_id": null } })).await;
    assert_eq!(admin.get(&path).await.1["port"]["resource_request"], Value::Null);
}

/// As the agent does once it has moved an address.
async fn translate(cloud: &Cloud, id: &str, inside: &str) {
    let key = cloud.store.cache::<FloatingIp>().by_name(id).unwrap().key();
    let written = cloud
        .store
        .modify::<FloatingIp, madang_store::StoreError>(&key, cause(), |floating| {
            floating.status.is_active = true;
            floating.status.inside = Some(inside.parse().unwrap());
            Ok(())
        });
    written.await.unwrap();
}

#[tokio::test]
async fn who_moves_an_address_in_use_is_answered_when_it_has_moved() {
    let cloud = Cloud::new().await;
    let (admin, client) = (cloud.admin(), cloud.member("p1"));
    let outside = admin
        .create(
            "/v2.0/networks",
            json!({ "network": { "router:external": true, "shared": true } }),
        )
        .await;
    let outside = text(&outside, "/network/id").to_owned();
    let subnet =
        |network: &str, cidr: &str| json!({ "subnet": { "network_id": network, "ip_version": 4, "cidr": cidr } });
    admin.create("/v2.0/subnets", subnet(&outside, "198.51.100.0/24")).await;
    let net = client.create("/v2.0/networks", json!({ "network": {} })).await;
    let net = text(&net, "/network/id").to_owned();
    let inner = client.create("/v2.0/subnets", subnet(&net, "10.0.0.0/24")).await;
    let router = json!({ "router": { "external_gateway_info": { "network_id": outside } } });
    let router = client.create("/v2.0/routers", router).await;
    let join = format!("/v2.0/routers/{}/add_router_interface", text(&router, "/router/id"));
    client
        .update(&join, json!({ "subnet_id": text(&inner, "/subnet/id") }))
        .await;
    let mut ports = Vec::new();
    for _ in 0..2 {
        let port = client
            .create("/v2.0/ports", json!({ "port": { "network_id": net } }))
            .await;
        let address = text(&port, "/port/fixed_ips/0/ip_address").to_owned();
        ports.push((text(&port, "/port/id").to_owned(), address));
    }
    let made = json!({ "floatingip": { "floating_network_id": outside, "port_id": ports[0].0 } });
    let made = client.create("/v2.0/floatingips", made).await;
    let id = text(&made, "/floatingip/id").to_owned();
    assert_eq!(text(&made, "/floatingip/status"), "DOWN");
    translate(&cloud, &id, &ports[0].1).await;
    let path = format!("/v2.0/floatingips/{id}");
    assert_eq!(text(&client.get(&path).await.1, "/floatingip/status"), "ACTIVE");
    let begun = Instant::now();
    let body = json!({ "floatingip": { "port_id": ports[1].0 } });
    let moves = client.update(&path, body);
    let agent = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let between = text(&client.get(&path).await.1, "/floatingip/status").to_owned();
        translate(&cloud, &id, &ports[1].1).await;
        between
    };
    let (moved, between) = tokio::join!(moves, agent);
    assert_eq!(
        (between.as_str(), text(&moved, "/floatingip/status")),
        ("DOWN", "ACTIVE")
    );
    assert!(begun.elapsed() >= Duration::from_millis(100), "{:?}", begun.elapsed());
    // What nobody finds anything behind is not waited for.
    let begun = Instant::now();
    client.update(&path, json!({ "floatingip": { "port_id": null } })).await;
    client
        .update(&path, json!({ "floatingip": { "port_id": ports[0].0 } }))
        .await;
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn what_is_not_shown_is_filtered_by_all_the_same() {
    let cloud = Cloud::new().await;
    let (admin, client) = (cloud.admin(), cloud.member("p1"));
    let vlan = |number: Option<u32>| {
        json!({ "network": { "project_id": "p1", "provider:network_type": "vlan",
            "provider:physical_network": "outside", "provider:segmentation_id": number } })
    };
    let made = admin.create("/v2.0/networks", vlan(None)).await;
    assert_eq!(made["network"]["mtu"], json!(1500));
    let number = made["network"]["provider:segmentation_id"].as_u64().unwrap() as u32;
    assert!((1..=4094).contains(&number));
    let taken = refused(&admin, Method::POST, "/v2.0/networks", Some(vlan(Some(number)))).await;
    assert_eq!(taken, (409, "VlanIdInUse".to_owned()));
    assert_eq!(
        admin
            .call(Method::POST, "/v2.0/networks", Some(vlan(Some(4095))))
            .await
            .0,
        400
    );
    client.create("/v2.0/networks", json!({ "network": {} })).await;
    let (_, list) = client.get("/v2.0/networks?provider:network_type=vlan").await;
    let list = list["networks"].as_array().unwrap();
    assert_eq!(list.len(), 1);
    assert_eq!(list[0].get("provider:network_type"), None, "which is for admins");
}
