//! The API as clients use it.

use http::Method;
use serde_json::{Value, json};

use super::cloud::{Cloud, text};

fn ids(list: &Value, collection: &str) -> Vec<String> {
    list[collection]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["id"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn a_client_finds_its_way() {
    let cloud = Cloud::new().await;
    let client = cloud.member("p1");
    let (status, versions) = client.get("/").await;
    assert_eq!(status, 200);
    assert_eq!(
        text(&versions, "/versions/0/links/0/href"),
        "http://cloud:8000/network/v2.0/"
    );
    for path in ["/v2.0", "/v2.0/"] {
        let (status, resources) = client.get(path).await;
        assert_eq!(
            (status, text(&resources, "/resources/0/links/0/href")),
            (200, "http://cloud:8000/network/v2.0/networks"),
            "{path}"
        );
    }
    let (_, extensions) = client.get("/v2.0/extensions").await;
    for extension in extensions["extensions"].as_array().unwrap() {
        let alias = extension["alias"].as_str().unwrap();
        assert_eq!(client.get(&format!("/v2.0/extensions/{alias}")).await.0, 200);
    }
    assert_eq!(
        client.get("/v2.0/service-providers").await.1,
        json!({ "service_providers": [] })
    );
    assert_eq!(client.get("/v2.0/agents").await.1, json!({ "agents": [] }));
}

#[tokio::test]
async fn a_network_reads_as_it_was_written() {
    let cloud = Cloud::new().await;
    let client = cloud.member("p1");
    let made = client
        .create(
            "/v2.0/networks",
            json!({ "network": { "name": "blue", "description": "sky", "mtu": 1400, "admin_state_up": "false" } }),
        )
        .await;
    let network = &made["network"];
    let wanted = json!({
        "name": "blue", "description": "sky", "mtu": 1400, "admin_state_up": false, "status": "DOWN", "shared": false,
        "router:external": false, "port_security_enabled": true, "subnets": [], "project_id": "p1", "tenant_id": "p1",
        "tags": [], "availability_zone_hints": [], "dns_domain": "", "is_default": false,
    });
    for (name, value) in wanted.as_object().unwrap() {
        assert_eq!(&network[name], value, "{name}");
    }
    let id = text(&made, "/network/id");
    assert_eq!(client.get(&format!("/v2.0/networks/{id}")).await.1, made);
    let before = network["revision_number"].as_u64().unwrap();
    let changed = client
        .update(
            &format!("/v2.0/networks/{id}"),
            json!({ "network": { "name": "green" } }),
        )
        .await;
    assert_eq!(
        (text(&changed, "/network/name"), text(&changed, "/network/description")),
        ("green", "sky")
    );
    assert!(changed["network"]["revision_number"].as_u64().unwrap() > before);
    let (_, some) = client.get(&format!("/v2.0/networks/{id}?fields=id&fields=name")).await;
    assert_eq!(some, json!({ "network": { "name": "green", "id": id } }));
}

#[tokio::test]
async fn lists_are_filtered_sorted_and_cut() {
    let cloud = Cloud::new().await;
    let client = cloud.member("p1");
    let bulk: Vec<_> = ["c", "a", "e", "b", "d"]
        .iter()
        .map(|name| json!({ "name": name }))
        .collect();
    let made = client.create("/v2.0/networks", json!({ "networks": bulk })).await;
    assert_eq!(ids(&made, "networks").len(), 5);
    let names = |list: &Value| -> String {
        list["networks"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["name"].as_str().unwrap())
            .collect()
    };
    let (_, page) = client.get("/v2.0/networks?sort_key=name&sort_dir=asc&limit=2").await;
    assert_eq!(names(&page), "ab");
    let next = text(&page, "/networks_links/0/href")
        .strip_prefix("http://cloud:8000/network")
        .unwrap()
        .to_owned();
    assert_eq!(text(&page, "/networks_links/0/rel"), "next");
    let (_, page) = client.get(&next).await;
    assert_eq!(names(&page), "cd");
    let (_, page) = client
        .get("/v2.0/networks?sort_key=name&sort_dir=desc&name=a&name=d")
        .await;
    assert_eq!(names(&page), "da");
    let (_, page) = client.get("/v2.0/networks?name=nobody").await;
    assert_eq!(page, json!({ "networks": [] }));
    let (_, only) = client.get("/v2.0/networks?name=a&fields=name").await;
    assert_eq!(only, json!({ "networks": [{ "name": "a" }] }));
}

#[tokio::test]
async fn bulk_is_all_or_nothing() {
    let cloud = Cloud::new().await;
    let client = cloud.member("p1");
    let network = client.create("/v2.0/networks", json!({ "network": {} })).await;
    let id = text(&network, "/network/id");
    client
        .create(
            "/v2.0/subnets",
            json!({ "subnet": { "network_id": id, "ip_version": 4, "cidr": "10.0.0.0/29" } }),
        )
        .await;
    let ports = |count: usize| json!({ "ports": vec![json!({ "network_id": id }); count] });
    // Five addresses are left of eight: the subnet's, the broadcast, the router's; one of the five is DHCP's.
    assert_eq!(client.call(Method::POST, "/v2.0/ports", Some(ports(5))).await.0, 409);
    let (_, list) = client.get(&format!("/v2.0/ports?network_id={id}&device_owner=")).await;
    assert_eq!(list, json!({ "ports": [] }));
    client.create("/v2.0/ports", ports(4)).await;
}

#[tokio::test]
async fn a_router_joins_and_translates() {
    let cloud = Cloud::new().await;
    let (admin, client) = (cloud.admin(), cloud.member("p1"));
    let public = admin
        .create(
            "/v2.0/networks",
            json!({ "network": { "name": "public", "router:external": true } }),
        )
        .await;
    let public = text(&public, "/network/id").to_owned();
    let outside = json!({ "subnet": { "network_id": public, "ip_version": 4, "cidr": "172.24.4.0/24", "enable_dhcp": false, "gateway_ip": "172.24.4.1" } });
    let outside = admin.create("/v2.0/subnets", outside).await;
    let network = client.create("/v2.0/networks", json!({ "network": {} })).await;
    let network = text(&network, "/network/id").to_owned();
    let subnet = client
        .create(
            "/v2.0/subnets",
            json!({ "subnet": { "network_id": network, "ip_version": 4, "cidr": "10.0.0.0/24" } }),
        )
        .await;
    let subnet = text(&subnet, "/subnet/id").to_owned();
    let router = json!({ "router": { "name": "r", "external_gateway_info": { "network_id": public } } });
    let router = client.create("/v2.0/routers", router).await;
    assert_eq!(
        text(&router, "/router/external_gateway_info/external_fixed_ips/0/subnet_id"),
        text(&outside, "/subnet/id")
    );
    let router = text(&router, "/router/id").to_owned();
    let added = client
        .update(
            &format!("/v2.0/routers/{router}/add_router_interface"),
            json!({ "subnet_id": subnet }),
        )
        .await;
    assert_eq!(
        (text(&added, "/id"), text(&added, "/subnet_id")),
        (router.as_str(), subnet.as_str())
    );
    let (_, interface) = client.get(&format!("/v2.0/ports/{}", text(&added, "/port_id"))).await;
    assert_eq!(text(&interface, "/port/fixed_ips/0/ip_address"), "10.0.0.1");
    assert_eq!(text(&interface, "/port/device_owner"), "network:router_interface");
    // The gateway's port is the cloud's: only admins see it.
    let ports = format!("/v2.0/ports?device_id={router}");
    assert_eq!(ids(&client.get(&ports).await.1, "ports").len(), 1);
    assert_eq!(ids(&admin.get(&ports).await.1, "ports").len(), 2);

    let port = client
        .create("/v2.0/ports", json!({ "port": { "network_id": network } }))
        .await;
    let inside = text(&port, "/port/fixed_ips/0/ip_address").to_owned();
    let port = text(&port, "/port/id").to_owned();
    let floating = client
        .create(
            "/v2.0/floatingips",
            json!({ "floatingip": { "floating_network_id": public } }),
        )
        .await;
    assert_eq!(text(&floating, "/floatingip/status"), "DOWN");
    let floating = text(&floating, "/floatingip/id").to_owned();
    let path = format!("/v2.0/floatingips/{floating}");
    let led = client.update(&path, json!({ "floatingip": { "port_id": port } })).await;
    assert_eq!(
        (
            text(&led, "/floatingip/fixed_ip_address"),
            text(&led, "/floatingip/router_id")
        ),
        (inside.as_str(), router.as_str())
    );
    assert_eq!(text(&led, "/floatingip/port_details/network_id"), network);
    let (_, by_port) = client.get(&format!("/v2.0/floatingips?port_id={port}")).await;
    assert_eq!(ids(&by_port, "floatingips"), [floating.as_str()]);
    let free = client.update(&path, json!({ "floatingip": { "port_id": null } })).await;
    assert_eq!(free["floatingip"]["router_id"], Value::Null);

    let route = json!({ "router": { "routes": [{ "destination": "192.168.0.0/16", "nexthop": "10.0.0.9" }] } });
    let routed = client
        .update(&format!("/v2.0/routers/{router}/add_extraroutes"), route.clone())
        .await;
    assert_eq!(text(&routed, "/router/routes/0/nexthop"), "10.0.0.9");
    let far = json!({ "router": { "routes": [{ "destination": "192.168.0.0/16", "nexthop": "10.1.0.9" }] } });
    let (status, refused) = client
        .call(Method::PUT, &format!("/v2.0/routers/{router}"), Some(far))
        .await;
    assert_eq!((status, text(&refused, "/NeutronError/type")), (400, "InvalidRoutes"));
    client
        .update(&format!("/v2.0/routers/{router}/remove_extraroutes"), route)
        .await;
}

#[tokio::test]
async fn every_project_has_neutrons_default_group() {
    let cloud = Cloud::new().await;
    let client = cloud.member("p1");
    let (_, list) = client.get("/v2.0/security-groups").await;
    assert_eq!(text(&list, "/security_groups/0/name"), "default");
    let rules = list["security_groups"][0]["security_group_rules"].as_array().unwrap();
    let said = |rule: &Value| {
        format!(
            "{} {} {}",
            rule["direction"],
            rule["ethertype"],
            rule["remote_group_id"] == list["security_groups"][0]["id"]
        )
    };
    let mut said: Vec<_> = rules.iter().map(said).collect();
    said.sort_unstable();
    assert_eq!(
        said,
        [
            r#""egress" "IPv4" false"#,
            r#""egress" "IPv6" false"#,
            r#""ingress" "IPv4" true"#,
            r#""ingress" "IPv6" true"#
        ]
    );
    let id = text(&list, "/security_groups/0/id").to_owned();
    let (status, refused) = client.delete(&format!("/v2.0/security-groups/{id}")).await;
    assert_eq!(
        (status, text(&refused, "/NeutronError/type")),
        (409, "SecurityGroupCannotRemoveDefault")
    );
    let rule = json!({ "security_group_rule": { "security_group_id": id, "direction": "ingress", "protocol": "TCP", "port_range_min": "22", "port_range_max": 22, "remote_ip_prefix": "10.0.0.5/8" } });
    let made = client.create("/v2.0/security-group-rules", rule.clone()).await;
    assert_eq!(
        (
            text(&made, "/security_group_rule/protocol"),
            text(&made, "/security_group_rule/normalized_cidr")
        ),
        ("tcp", "10.0.0.0/8")
    );
    let (status, refused) = client
        .call(Method::POST, "/v2.0/security-group-rules", Some(rule))
        .await;
    assert_eq!(
        (status, text(&refused, "/NeutronError/type")),
        (409, "SecurityGroupRuleExists")
    );
    assert!(text(&refused, "/NeutronError/message").ends_with(&format!("{}.", text(&made, "/security_group_rule/id"))));
}

#[tokio::test]
async fn tags_come_and_go() {
    let cloud = Cloud::new().await;
    let client = cloud.member("p1");
    let network = client.create("/v2.0/networks", json!({ "network": {} })).await;
    let path = format!("/v2.0/networks/{}/tags", text(&network, "/network/id"));
    client.update(&path, json!({ "tags": ["red", "blue", "red"] })).await;
    assert_eq!(client.get(&path).await.1, json!({ "tags": ["red", "blue"] }));
    assert_eq!(client.call(Method::PUT, &format!("{path}/green"), None).await.0, 201);
    assert_eq!(client.get(&format!("{path}/green")).await.0, 204);
    assert_eq!(client.delete(&format!("{path}/red")).await.0, 204);
    assert_eq!(client.get(&format!("{path}/red")).await.0, 404);
    let (_, found) = client.get("/v2.0/networks?tags=blue,green").await;
    assert_eq!(ids(&found, "networks").len(), 1);
    assert_eq!(client.delete(&path).await.0, 204);
    assert_eq!(client.get(&path).await.1, json!({ "tags": [] }));
}

#[tokio::test]
async fn quotas_read_as_they_were_set() {
    let cloud = Cloud::new().await;
    let (admin, client) = (cloud.admin(), cloud.member("p1"));
    let (_, shown) = client.get("/v2.0/quotas/p1").await;
    let defaults = json!({ "network": 100, "subnet": 100, "subnetpool": -1, "port": 500, "router": 10, "floatingip": 50, "security_group": 10, "security_group_rule": 100, "trunk": -1, "rbac_policy": 10, "address_group": -1, "qos_policy": -1 });
    assert_eq!(shown, json!({ "quota": defaults }));
    let set = admin
        .update("/v2.0/quotas/p1", json!({ "quota": { "network": 1, "router": -1 } }))
        .await;
    assert_eq!(
        (&set["quota"]["network"], &set["quota"]["router"]),
        (&json!(1), &json!(-1))
    );
    client.create("/v2.0/networks", json!({ "network": {} })).await;
    let (status, refused) = client
        .call(Method::POST, "/v2.0/networks", Some(json!({ "network": {} })))
        .await;
    assert_eq!(
        (status, text(&refused, "/NeutronError/message")),
        (409, "Quota exceeded for resources: ['network'].")
    );
    let (_, details) = client.get("/v2.0/quotas/p1/details").await;
    assert_eq!(
        details["quota"]["network"],
        json!({ "limit": 1, "used": 1, "reserved": 0 })
    );
    for bad in [
        json!({ "network": -2 }),
        json!({ "network": "many" }),
        json!({ "colour": 1 }),
    ] {
        let (status, _) = admin
            .call(Method::PUT, "/v2.0/quotas/p1", Some(json!({ "quota": bad })))
            .await;
        assert_eq!(status, 400, "{bad}");
    }
    assert_eq!(
        client.get("/v2.0/quotas/p1/default").await.1,
        json!({ "quota": defaults })
    );
}

#[tokio::test]
async fn version_6_addresses_come_from_the_mac_address_or_the_pool() {
    let cloud = Cloud::new().await;
    let client = cloud.member("p1");
    let network = client.create("/v2.0/networks", json!({ "network": {} })).await;
    let id = text(&network, "/network/id");
    let automatic = json!({ "subnet": { "network_id": id, "ip_version": 6, "cidr": "fd00:1::/64", "ipv6_ra_mode": "slaac", "ipv6_address_mode": "slaac" } });
    client.create("/v2.0/subnets", automatic).await;
    let pooled = json!({ "subnet": { "network_id": id, "ip_version": 6, "cidr": "fd00:2::/64" } });
    client.create("/v2.0/subnets", pooled).await;
    let port = client
        .create(
            "/v2.0/ports",
            json!({ "port": { "network_id": id, "mac_address": "fa:16:3e:12:34:56" } }),
        )
        .await;
    let mut ips: Vec<_> = port["port"]["fixed_ips"]
        .as_array()
        .unwrap()
        .iter()
        .map(|ip| ip["ip_address"].as_str().unwrap())
        .collect();
    ips.sort_unstable();
    assert_eq!(ips[0], "fd00:1::f816:3eff:fe12:3456");
    assert!(ips[1].starts_with("fd00:2::"));
}

#[tokio::test]
async fn addresses_that_make_themselves_come_and_go_with_their_subnet() {
    let cloud = Cloud::new().await;
    let client = cloud.member("p1");
    let network = client.create("/v2.0/networks", json!({ "network": {} })).await;
    let id = text(&network, "/network/id");
    let port = client
        .create(
            "/v2.0/ports",
            json!({ "port": { "network_id": id, "mac_address": "fa:16:3e:12:34:56" } }),
        )
        .await;
    let path = format!("/v2.0/ports/{}", text(&port, "/port/id"));
    let automatic = json!({ "subnet": { "network_id": id, "ip_version": 6, "cidr": "fd00:1::/64",
        "ipv6_ra_mode": "slaac", "ipv6_address_mode": "slaac" } });
    let subnet = client.create("/v2.0/subnets", automatic).await;
    let (_, has) = client.get(&path).await;
    assert_eq!(
        text(&has, "/port/fixed_ips/0/ip_address"),
        "fd00:1::f816:3eff:fe12:3456"
    );
    assert_eq!(
        client
            .delete(&format!("/v2.0/subnets/{}", text(&subnet, "/subnet/id")))
            .await
            .0,
        204
    );
    assert_eq!(client.get(&path).await.1["port"]["fixed_ips"], json!([]));
}

#[tokio::test]
async fn an_external_network_takes_idle_floating_addresses_along() {
    let cloud = Cloud::new().await;
    let (admin, client) = (cloud.admin(), cloud.member("p1"));
    let public = admin
        .create("/v2.0/networks", json!({ "network": { "router:external": true } }))
        .await;
    let public = text(&public, "/network/id").to_owned();
    let outside =
        json!({ "subnet": { "network_id": public, "ip_version": 4, "cidr": "172.24.0.0/24", "enable_dhcp": false } });
    let outside = admin.create("/v2.0/subnets", outside).await;
    let outside = text(&outside, "/subnet/id");
    assert_eq!(
        client.get(&format!("/v2.0/subnets/{outside}")).await.0,
        404,
        "users see the network, not its subnets"
    );
    let wanted = json!({ "floatingip": { "floating_network_id": public, "subnet_id": outside } });
    let floating = client.create("/v2.0/floatingips", wanted).await;
    assert_eq!(admin.delete(&format!("/v2.0/networks/{public}")).await.0, 204);
    let path = format!("/v2.0/floatingips/{}", text(&floating, "/floatingip/id"));
    assert_eq!(client.get(&path).await.0, 404);
    assert_eq!(cloud.store.counters("p1", "network").get("floatingips"), None);
}

#[tokio::test]
async fn what_hangs_on_a_resource_moves_its_revision() {
    let cloud = Cloud::new().await;
    let client = cloud.member("p1");
    let group = client
        .create("/v2.0/security-groups", json!({ "security_group": { "name": "g" } }))
        .await;
    let id = text(&group, "/security_group/id");
    let rule = json!({ "security_group_rule": { "security_group_id": id, "direction": "ingress", "protocol": "tcp" } });
    let rule = client.create("/v2.0/security-group-rules", rule).await;
    let revision = |group: &Value| group["security_group"]["revision_number"].as_u64().unwrap();
    let (_, added) = client.get(&format!("/v2.0/security-groups/{id}")).await;
    assert!(revision(&added) > revision(&group));
    let rule = text(&rule, "/security_group_rule/id");
    assert_eq!(
        client.delete(&format!("/v2.0/security-group-rules/{rule}")).await.0,
        204
    );
    let (_, removed) = client.get(&format!("/v2.0/security-groups/{id}")).await;
    assert!(revision(&removed) > revision(&added));
    assert_eq!(client.delete(&format!("/v2.0/security-groups/{id}")).await.0, 204);
}

#[tokio::test]
async fn a_port_has_groups_of_one_sort() {
    let cloud = Cloud::new().await;
    let client = cloud.member("p1");
    let network = client.create("/v2.0/networks", json!({ "network": {} })).await;
    let network = text(&network, "/network/id");
    let group = |name: &str, stateful: bool| json!({ "security_group": { "name": name, "stateful": stateful } });
    let one = client.create("/v2.0/security-groups", group("one", true)).await;
    let other = client.create("/v2.0/security-groups", group("other", false)).await;
    let groups = [text(&one, "/security_group/id"), text(&other, "/security_group/id")];
    let port = json!({ "port": { "network_id": network, "security_groups": groups } });
    let (status, refused) = client.call(Method::POST, "/v2.0/ports", Some(port)).await;
    assert_eq!(
        (status, text(&refused, "/NeutronError/type")),
        (409, "SecurityGroupConflict")
    );
}

#[tokio::test]
async fn a_revision_can_be_insisted_on() {
    let cloud = Cloud::new().await;
    let client = cloud.member("p1");
    let network = client.create("/v2.0/networks", json!({ "network": {} })).await;
    let path = format!("/v2.0/networks/{}", text(&network, "/network/id"));
    let revision = network["network"]["revision_number"].as_u64().unwrap();
    let body = json!({ "network": { "name": "x" } });
    let (status, refused) = client
        .insist(Method::PUT, &path, revision + 1, Some(body.clone()))
        .await;
    assert_eq!(
        (status, text(&refused, "/NeutronError/type")),
        (412, "RevisionNumberConstraintFailed")
    );
    assert_eq!(client.insist(Method::PUT, &path, revision, Some(body)).await.0, 200);
    assert_eq!(client.insist(Method::DELETE, &path, revision, None).await.0, 412);
}
