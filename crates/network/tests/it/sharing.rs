//! What projects share with each other, and what is said of quality and of single ports.

use http::Method;
use madang_network::{Network, NetworkSpec, SubnetPool, rbac};
use madang_store::{Metadata, Resource, StoreBuilder};
use serde_json::{Value, json};

use super::cloud::{Client, Cloud, cause, open, text};

async fn network(client: &Client) -> String {
    let made = client.create("/v2.0/networks", json!({ "network": {} })).await;
    text(&made, "/network/id").to_owned()
}

fn policy(kind: &str, id: &str, action: &str, target: &str) -> Value {
    json!({ "rbac_policy": { "object_type": kind, "object_id": id, "action": action, "target_tenant": target } })
}

async fn failed(client: &Client, method: Method, path: &str, body: Option<Value>) -> (u16, String) {
    let (status, answer) = client.call(method, path, body).await;
    (status, text(&answer, "/NeutronError/type").to_owned())
}

#[tokio::test]
async fn a_network_is_shared_with_one_project_while_it_is_not_in_use() {
    let cloud = Cloud::new().await;
    let (owner, guest, other) = (cloud.member("p1"), cloud.member("p2"), cloud.member("p3"));
    let id = network(&owner).await;
    let path = format!("/v2.0/networks/{id}");
    assert_eq!(guest.get(&path).await.0, 404);
    let shared = policy("network", &id, "access_as_shared", "p2");
    let made = owner.create("/v2.0/rbac-policies", shared.clone()).await;
    let share = format!("/v2.0/rbac-policies/{}", text(&made, "/rbac_policy/id"));
    let (_, seen) = guest.get(&path).await;
    assert_eq!(seen["network"]["shared"], json!(true));
    assert_eq!(owner.get(&path).await.1["network"]["shared"], json!(false));
    assert_eq!((other.get(&path).await.0, guest.get(&share).await.0), (404, 404));
    let (_, list) = guest.get("/v2.0/networks").await;
    assert_eq!(list["networks"].as_array().unwrap().len(), 1);
    let again = failed(&owner, Method::POST, "/v2.0/rbac-policies", Some(shared)).await;
    assert_eq!(again, (409, "DuplicateRbacPolicy".to_owned()));
    let port = guest
        .create("/v2.0/ports", json!({ "port": { "network_id": id } }))
        .await;
    let used = failed(&owner, Method::DELETE, &share, None).await;
    assert_eq!(used, (409, "RbacPolicyInUse".to_owned()));
    let moved = json!({ "rbac_policy": { "target_tenant": "p3" } });
    assert_eq!(failed(&owner, Method::PUT, &share, Some(moved.clone())).await.0, 409);
    assert_eq!(
        guest
            .delete(&format!("/v2.0/ports/{}", text(&port, "/port/id")))
            .await
            .0,
        204
    );
    owner.update(&share, moved).await;
    assert_eq!((guest.get(&path).await.0, other.get(&path).await.0), (404, 200));
    assert_eq!(owner.delete(&share).await.0, 204);
    assert_eq!(other.get(&path).await.0, 404);
    // With everybody is for admins; what is somebody else's nobody shares.
    let for_all = policy("network", &id, "access_as_shared", "*");
    assert_eq!(
        owner.call(Method::POST, "/v2.0/rbac-policies", Some(for_all)).await.0,
        403
    );
    let stolen = policy("network", &id, "access_as_shared", "p2");
    assert_eq!(
        guest.call(Method::POST, "/v2.0/rbac-policies", Some(stolen)).await.0,
        400
    );
}

#[tokio::test]
async fn flags_and_policies_for_all_are_one_fact() {
    let cloud = Cloud::new().await;
    let (admin, guest) = (cloud.admin(), cloud.member("p2"));
    let made = admin
        .create(
            "/v2.0/networks",
            json!({ "network": { "router:external": true, "shared": true } }),
        )
        .await;
    let id = text(&made, "/network/id").to_owned();
    let path = format!("/v2.0/networks/{id}");
    let list = format!("/v2.0/rbac-policies?object_id={id}");
    let actions = |list: &Value| -> Vec<(String, String)> {
        let mut actions: Vec<_> = list["rbac_policies"]
            .as_array()
            .unwrap()
            .iter()
            .map(|policy| {
                (
                    text(policy, "/action").to_owned(),
                    text(policy, "/target_tenant").to_owned(),
                )
            })
            .collect();
        actions.sort();
        actions
    };
    let all = |action: &str| (action.to_owned(), "*".to_owned());
    let (_, policies) = admin.get(&list).await;
    assert_eq!(actions(&policies), [all("access_as_external"), all("access_as_shared")]);
    admin
        .update(
            &path,
            json!({ "network": { "router:external": false, "shared": false } }),
        )
        .await;
    assert_eq!(actions(&admin.get(&list).await.1), []);
    assert_eq!(guest.get(&path).await.0, 404);
    let external = admin
        .create(
            "/v2.0/rbac-policies",
            policy("network", &id, "access_as_external", "p2"),
        )
        .await;
    assert_eq!(admin.get(&path).await.1["network"]["router:external"], json!(true));
    assert_eq!(
        (guest.get(&path).await.0, cloud.member("p3").get(&path).await.0),
        (200, 404)
    );
    let one = format!("/v2.0/rbac-policies/{}", text(&external, "/rbac_policy/id"));
    assert_eq!(admin.delete(&one).await.0, 204);
    assert_eq!(admin.get(&path).await.1["network"]["router:external"], json!(false));
    admin
        .create("/v2.0/rbac-policies", policy("network", &id, "access_as_shared", "*"))
        .await;
    assert_eq!(guest.get(&path).await.1["network"]["shared"], json!(true));
    assert_eq!(admin.delete(&path).await.0, 204);
    assert_eq!(actions(&admin.get(&list).await.1), []);
}

#[tokio::test]
async fn pools_of_one_address_scope_never_overlap() {
    let cloud = Cloud::new().await;
    let client = cloud.member("p1");
    let made = client
        .create(
            "/v2.0/address-scopes",
            json!({ "address_scope": { "name": "s", "ip_version": 4 } }),
        )
        .await;
    let scope = text(&made, "/address_scope/id").to_owned();
    let pool = |prefix: &str| json!({ "subnetpool": { "name": "p", "prefixes": [prefix], "address_scope_id": scope } });
    let first = client.create("/v2.0/subnetpools", pool("10.0.0.0/16")).await;
    assert_eq!(first["subnetpool"]["address_scope_id"], json!(scope));
    for (prefix, wanted) in [
        ("10.0.3.0/24", (409, "AddressScopePrefixConflict")),
        (
            "fd00::/48",
            (400, "IllegalSubnetPoolIpVersionAssociationToAddressScope"),
        ),
    ] {
        let refused = failed(&client, Method::POST, "/v2.0/subnetpools", Some(pool(prefix))).await;
        assert_eq!(refused, (wanted.0, wanted.1.to_owned()), "{prefix}");
    }
    let foreign = cloud.member("p2");
    assert_eq!(
        foreign
            .call(Method::POST, "/v2.0/subnetpools", Some(pool("10.9.0.0/16")))
            .await
            .0,
        404
    );
    let path = format!("/v2.0/address-scopes/{scope}");
    assert_eq!(
        failed(&client, Method::DELETE, &path, None).await,
        (409, "AddressScopeInUse".to_owned())
    );
    let id = network(&client).await;
    let pool_id = text(&first, "/subnetpool/id");
    let subnet = json!({ "subnet": { "network_id": id, "ip_version": 4, "subnetpool_id": pool_id, "prefixlen": 24 } });
    client.create("/v2.0/subnets", subnet).await;
    let (_, seen) = client.get(&format!("/v2.0/networks/{id}")).await;
    assert_eq!(
        (
            &seen["network"]["ipv4_address_scope"],
            &seen["network"]["ipv6_address_scope"]
        ),
        (&json!(scope), &Value::Null)
    );
}

#[tokio::test]
async fn a_policy_of_quality_is_held_by_who_has_it() {
    let cloud = Cloud::new().await;
    let (admin, client) = (cloud.admin(), cloud.member("p1"));
    let made = admin
        .create(
            "/v2.0/qos/policies",
            json!({ "policy": { "name": "slow", "project_id": "p1" } }),
        )
        .await;
    let id = text(&made, "/policy/id").to_owned();
    let rules = format!("/v2.0/qos/policies/{id}/bandwidth_limit_rules");
    let limit = json!({ "bandwidth_limit_rule": { "max_kbps": 1000, "direction": "ingress" } });
    assert_eq!(client.call(Method::POST, &rules, Some(limit.clone())).await.0, 403);
    let rule = admin.create(&rules, limit.clone()).await;
    assert_eq!(rule["bandwidth_limit_rule"]["max_burst_kbps"], json!(0));
    assert_eq!(
        failed(&admin, Method::POST, &rules, Some(limit)).await,
        (409, "QoSRulesConflict".to_owned())
    );
    let one = format!("{rules}/{}", text(&rule, "/bandwidth_limit_rule/id"));
    let changed = admin
        .update(&one, json!({ "bandwidth_limit_rule": { "max_kbps": 2000 } }))
        .await;
    assert_eq!(
        (
            &changed["bandwidth_limit_rule"]["max_kbps"],
            &changed["bandwidth_limit_rule"]["direction"]
        ),
        (&json!(2000), &json!("ingress"))
    );
    let marks = format!("/v2.0/qos/policies/{id}/dscp_marking_rules");
    let odd = json!({ "dscp_marking_rule": { "dscp_mark": 58 } });
    assert_eq!(admin.call(Method::POST, &marks, Some(odd)).await.0, 400);
    admin
        .create(&marks, json!({ "dscp_marking_rule": { "dscp_mark": 26 } }))
        .await;
    let (_, seen) = client.get(&format!("/v2.0/qos/policies/{id}")).await;
    assert_eq!(seen["policy"]["rules"].as_array().unwrap().len(), 2);
    let net = client
        .create("/v2.0/networks", json!({ "network": { "qos_policy_id": id } }))
        .await;
    let net = text(&net, "/network/id").to_owned();
    let port = client
        .create("/v2.0/ports", json!({ "port": { "network_id": net } }))
        .await;
    assert_eq!(
        (&port["port"]["qos_policy_id"], &port["port"]["qos_network_policy_id"]),
        (&Value::Null, &json!(id))
    );
    let path = format!("/v2.0/qos/policies/{id}");
    assert_eq!(
        failed(&admin, Method::DELETE, &path, None).await,
        (409, "QosPolicyInUse".to_owned())
    );
    client
        .update(
            &format!("/v2.0/networks/{net}"),
            json!({ "network": { "qos_policy_id": null } }),
        )
        .await;
    assert_eq!(admin.delete(&path).await.0, 204);
    assert_eq!(admin.delete(&one).await.0, 404);
}

/// What a madang wrote that had no policies is shared as before.
#[tokio::test]
async fn flags_of_before_get_their_policies() {
    let directory = tempfile::tempdir().unwrap();
    let mut builder = StoreBuilder::new();
    builder.kind::<Network>().kind::<SubnetPool>();
    let before = open(&directory, builder).await;
    let specs = [(false, true), (true, false), (false, false)].map(|(is_shared, is_external)| NetworkSpec {
        is_shared,
        is_external,
        ..NetworkSpec::default()
    });
    let [outside, common, own] = before
        .transact::<_, madang_store::StoreError>(cause(), |tx| {
            let mut make =
                |spec: &NetworkSpec| tx.create(Resource::<Network>::new(Metadata::with_id("p1"), spec.clone()));
            Ok([make(&specs[0])?, make(&specs[1])?, make(&specs[2])?])
        })
        .await
        .unwrap();
    before.close().await;

    let cloud = Cloud::over(directory).await;
    let seen = async |id: &str| cloud.member("p2").get(&format!("/v2.0/networks/{id}")).await.0;
    assert_eq!(seen(outside.name()).await, 404, "which is why it is completed");
    for _ in 0..2 {
        rbac::complete(&cloud.store).await.unwrap();
        assert_eq!((seen(outside.name()).await, seen(common.name()).await), (200, 200));
        assert_eq!(seen(own.name()).await, 404);
        let (_, list) = cloud.admin().get("/v2.0/rbac-policies").await;
        assert_eq!(list["rbac_policies"].as_array().unwrap().len(), 2);
    }
}
