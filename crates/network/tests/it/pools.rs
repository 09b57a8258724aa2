//! Subnet pools: what is cut from them never overlaps, whoever cuts at the same time.

use std::collections::BTreeSet;

use http::Method;
use ipnet::IpNet;
use serde_json::{Value, json};

use super::cloud::{Client, Cloud, text};

async fn pool(client: &Client, more: &[(&str, Value)]) -> String {
    let mut pool = json!({ "name": "pool", "prefixes": ["10.0.1.0/24", "10.0.0.0/24"], "min_prefixlen": "26" });
    for (name, value) in more {
        pool[*name] = value.clone();
    }
    let made = client.create("/v2.0/subnetpools", json!({ "subnetpool": pool })).await;
    text(&made, "/subnetpool/id").to_owned()
}

async fn network(client: &Client) -> String {
    let made = client.create("/v2.0/networks", json!({ "network": {} })).await;
    text(&made, "/network/id").to_owned()
}

async fn cut(client: &Client, pool: &str, more: &[(&str, Value)]) -> (u16, Value) {
    let mut subnet = json!({ "network_id": network(client).await, "ip_version": 4, "subnetpool_id": pool });
    for (name, value) in more {
        subnet[*name] = value.clone();
    }
    client
        .call(Method::POST, "/v2.0/subnets", Some(json!({ "subnet": subnet })))
        .await
}

#[tokio::test]
async fn a_pool_reads_as_neutron_writes_it() {
    let cloud = Cloud::new().await;
    let client = cloud.member("p1");
    let id = pool(&client, &[]).await;
    let (_, shown) = client.get(&format!("/v2.0/subnetpools/{id}")).await;
    let wanted = json!({ "prefixes": ["10.0.0.0/23"], "min_prefixlen": "26", "default_prefixlen": "26",
        "max_prefixlen": "32", "default_quota": null, "shared": false, "is_default": false, "ip_version": 4 });
    for (name, value) in wanted.as_object().unwrap() {
        assert_eq!(&shown["subnetpool"][name], value, "{name}");
    }
    assert_eq!(cloud.member("p2").get(&format!("/v2.0/subnetpools/{id}")).await.0, 404);
    let shrunk = json!({ "subnetpool": { "prefixes": ["10.0.0.0/24"] } });
    assert_eq!(
        client
            .call(Method::PUT, &format!("/v2.0/subnetpools/{id}"), Some(shrunk))
            .await
            .0,
        400
    );
}

#[tokio::test]
async fn many_who_cut_at_the_same_time_get_what_nobody_else_has() {
    let cloud = Cloud::new().await;
    let client = cloud.member("p1");
    let id = pool(&client, &[]).await;
    let cuts = futures_util::future::join_all((0..9).map(|_| cut(&client, &id, &[]))).await;
    let got: Vec<IpNet> = cuts
        .iter()
        .filter(|(status, _)| *status == 201)
        .map(|(_, made)| text(made, "/subnet/cidr").parse().unwrap())
        .collect();
    assert_eq!(got.len(), 8, "as many as there are: {cuts:?}");
    assert_eq!(got.iter().collect::<BTreeSet<_>>().len(), 8);
    assert!(got.iter().all(|cidr| cidr.prefix_len() == 26));
    let (_, refused) = cuts.iter().find(|(status, _)| *status != 201).unwrap();
    assert_eq!(text(refused, "/NeutronError/type"), "SubnetAllocationError");
    // What is given back can be cut again; a pool that is in use stays.
    let first = cuts.iter().find(|(status, _)| *status == 201).unwrap();
    assert_eq!(client.delete(&format!("/v2.0/subnetpools/{id}")).await.0, 400);
    let subnet = text(&first.1, "/subnet/id");
    assert_eq!(client.delete(&format!("/v2.0/subnets/{subnet}")).await.0, 204);
    let again = cut(&client, &id, &[]).await.1;
    assert_eq!(text(&again, "/subnet/cidr"), text(&first.1, "/subnet/cidr"));
}

#[tokio::test]
async fn lengths_quota_and_company_are_kept() {
    let cloud = Cloud::new().await;
    let client = cloud.member("p1");
    let id = pool(&client, &[("default_quota", json!(64)), ("max_prefixlen", json!(28))]).await;
    for bits in [25, 29] {
        assert_eq!(cut(&client, &id, &[("prefixlen", json!(bits))]).await.0, 400, "{bits}");
    }
    let (status, made) = cut(&client, &id, &[("cidr", json!("10.0.1.64/27"))]).await;
    assert_eq!((status, text(&made, "/subnet/subnetpool_id")), (201, id.as_str()));
    let (status, refused) = cut(&client, &id, &[]).await;
    assert_eq!(
        (status, text(&refused, "/NeutronError/type")),
        (409, "SubnetPoolQuotaExceeded")
    );
    let beside = json!({ "network_id": made["subnet"]["network_id"], "ip_version": 4, "cidr": "10.9.0.0/24" });
    let (status, refused) = client
        .call(Method::POST, "/v2.0/subnets", Some(json!({ "subnet": beside })))
        .await;
    assert_eq!(
        (status, text(&refused, "/NeutronError/type")),
        (400, "NetworkSubnetPoolAffinityError")
    );
}

#[tokio::test]
async fn sharing_and_being_the_default_are_the_admins_business() {
    let cloud = Cloud::new().await;
    let (admin, client) = (cloud.admin(), cloud.member("p1"));
    for what in ["shared", "is_default"] {
        let wanted = json!({ "subnetpool": { "name": "x", "prefixes": ["10.0.0.0/8"], what: true } });
        assert_eq!(
            client.call(Method::POST, "/v2.0/subnetpools", Some(wanted)).await.0,
            403,
            "{what}"
        );
    }
    let id = pool(&admin, &[("shared", json!(true)), ("is_default", json!(true))]).await;
    let wanted = json!({ "subnetpool": { "name": "x", "prefixes": ["10.7.0.0/24"], "is_default": true } });
    assert_eq!(
        admin.call(Method::POST, "/v2.0/subnetpools", Some(wanted)).await.0,
        400,
        "there is one already"
    );
    let subnet = json!({ "network_id": network(&client).await, "ip_version": 4, "use_default_subnetpool": true });
    let (status, made) = client
        .call(Method::POST, "/v2.0/subnets", Some(json!({ "subnet": subnet })))
        .await;
    assert_eq!((status, text(&made, "/subnet/subnetpool_id")), (201, id.as_str()));
}

#[tokio::test]
async fn dhcp_options_of_a_port_are_put_one_by_one_and_taken_away_by_null() {
    let cloud = Cloud::new().await;
    let client = cloud.member("p1");
    let option = |name: &str, value: Value| json!({ "opt_name": name, "opt_value": value });
    let port = json!({ "network_id": network(&client).await,
        "extra_dhcp_opts": [option("bootfile-name", json!("a")), option("mtu", json!("1400"))] });
    let made = client.create("/v2.0/ports", json!({ "port": port })).await;
    let id = text(&made, "/port/id");
    let change =
        json!({ "port": { "extra_dhcp_opts": [option("bootfile-name", json!("b")), option("mtu", Value::Null)] } });
    let changed = client.update(&format!("/v2.0/ports/{id}"), change).await;
    assert_eq!(
        changed["port"]["extra_dhcp_opts"],
        json!([{ "opt_name": "bootfile-name", "opt_value": "b", "ip_version": 4 }])
    );
    let twice = json!({ "port": { "extra_dhcp_opts": [option("mtu", json!("1")), option("mtu", json!("2"))] } });
    assert_eq!(
        client
            .call(Method::PUT, &format!("/v2.0/ports/{id}"), Some(twice))
            .await
            .0,
        400
    );
}
