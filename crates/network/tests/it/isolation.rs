//! A project reaches only what is its own or was shared: every route, every id, tried by a stranger.

use http::Method;
use serde_json::{Value, json};

use super::cloud::{Cloud, text};

/// One of everything, made by a project: `(collection, id)`.
async fn everything(cloud: &Cloud, project: &str) -> Vec<(&'static str, String)> {
    let admin = cloud.admin();
    let client = cloud.member(project);
    let public = json!({ "network": { "name": format!("public-{project}"), "router:external": true } });
    let public = admin.create("/v2.0/networks", public).await;
    let public = text(&public, "/network/id").to_owned();
    let outside =
        json!({ "subnet": { "network_id": public, "ip_version": 4, "cidr": "172.24.0.0/24", "enable_dhcp": false } });
    admin.create("/v2.0/subnets", outside).await;
    let network = client
        .create("/v2.0/networks", json!({ "network": { "name": "n" } }))
        .await;
    let network = text(&network, "/network/id").to_owned();
    let subnet = json!({ "subnet": { "network_id": network, "ip_version": 4, "cidr": "10.0.0.0/24" } });
    let subnet = client.create("/v2.0/subnets", subnet).await;
    let subnet = text(&subnet, "/subnet/id").to_owned();
    let port = client
        .create("/v2.0/ports", json!({ "port": { "network_id": network } }))
        .await;
    let port = text(&port, "/port/id").to_owned();
    let router = json!({ "router": { "external_gateway_info": { "network_id": public } } });
    let router = client.create("/v2.0/routers", router).await;
    let router = text(&router, "/router/id").to_owned();
    client
        .update(
            &format!("/v2.0/routers/{router}/add_router_interface"),
            json!({ "subnet_id": subnet }),
        )
        .await;
    let floating = json!({ "floatingip": { "floating_network_id": public, "port_id": port } });
    let floating = client.create("/v2.0/floatingips", floating).await;
    let floating = text(&floating, "/floatingip/id").to_owned();
    let group = client
        .create("/v2.0/security-groups", json!({ "security_group": { "name": "g" } }))
        .await;
    let rule = text(&group, "/security_group/security_group_rules/0/id").to_owned();
    let group = text(&group, "/security_group/id").to_owned();
    vec![
        ("networks", network),
        ("subnets", subnet),
        ("ports", port),
        ("routers", router),
        ("floatingips", floating),
        ("security-groups", group),
        ("security-group-rules", rule),
    ]
}

fn members(list: &Value) -> &Vec<Value> {
    list.as_object().unwrap().values().next().unwrap().as_array().unwrap()
}

#[tokio::test]
async fn a_stranger_finds_nothing() {
    let cloud = Cloud::new().await;
    let things = everything(&cloud, "owner").await;
    let owner = cloud.member("owner");
    let stranger = cloud.member("stranger");
    for (collection, id) in &things {
        let path = format!("/v2.0/{collection}/{id}");
        assert_eq!(owner.get(&path).await.0, 200, "{path}");
        let (_, own) = owner.get(&format!("/v2.0/{collection}?id={id}")).await;
        assert_eq!(members(&own).len(), 1, "{path}");
        for query in [
            String::new(),
            format!("?id={id}"),
            "?project_id=owner".to_owned(),
            "?tenant_id=owner".to_owned(),
        ] {
            let (status, list) = stranger.get(&format!("/v2.0/{collection}{query}")).await;
            assert_eq!(status, 200);
            assert!(
                members(&list).iter().all(|item| item["id"] != **id),
                "{collection}{query} shows {id}"
            );
        }
        let mut attempts = vec![
            (Method::GET, path.clone(), None),
            (Method::DELETE, path.clone(), None),
            (Method::GET, format!("{path}/tags"), None),
            (Method::PUT, format!("{path}/tags"), Some(json!({ "tags": ["mine"] }))),
            (Method::DELETE, format!("{path}/tags"), None),
            (Method::PUT, format!("{path}/tags/mine"), None),
        ];
        if *collection != "security-group-rules" {
            let singular = collection.trim_end_matches('s').replace('-', "_");
            attempts.push((
                Method::PUT,
                path.clone(),
                Some(json!({ singular: { "description": "mine" } })),
            ));
        }
        for (method, path, body) in attempts {
            let (status, answer) = stranger.call(method.clone(), &path, body).await;
            assert_eq!(status, 404, "{method} {path}: {answer}");
        }
    }
    // By reference, too: a stranger's new things do not attach to them.
    let id = |collection: &str| things.iter().find(|(name, _)| *name == collection).unwrap().1.clone();
    let own = everything(&cloud, "stranger").await;
    let own = |collection: &str| own.iter().find(|(name, _)| *name == collection).unwrap().1.clone();
    let attempts = [
        (
            Method::POST,
            "/v2.0/ports".to_owned(),
            json!({ "port": { "network_id": id("networks") } }),
        ),
        (
            Method::POST,
            "/v2.0/subnets".to_owned(),
            json!({ "subnet": { "network_id": id("networks"), "ip_version": 4, "cidr": "10.9.0.0/24" } }),
        ),
        (
            Method::POST,
            "/v2.0/ports".to_owned(),
            json!({ "port": { "network_id": own("networks"), "security_groups": [id("security-groups")] } }),
        ),
        (
            Method::POST,
            "/v2.0/security-group-rules".to_owned(),
            json!({ "security_group_rule": { "security_group_id": id("security-groups"), "direction": "ingress" } }),
        ),
        (
            Method::POST,
            "/v2.0/security-group-rules".to_owned(),
            json!({ "security_group_rule": { "security_group_id": own("security-groups"), "direction": "ingress", "remote_group_id": id("security-groups") } }),
        ),
        (
            Method::PUT,
            format!("/v2.0/routers/{}/add_router_interface", own("routers")),
            json!({ "subnet_id": id("subnets") }),
        ),
        (
            Method::PUT,
            format!("/v2.0/routers/{}/add_router_interface", own("routers")),
            json!({ "port_id": id("ports") }),
        ),
        (
            Method::PUT,
            format!("/v2.0/routers/{}/add_router_interface", id("routers")),
            json!({ "subnet_id": own("subnets") }),
        ),
        (
            Method::PUT,
            format!("/v2.0/routers/{}/remove_router_interface", id("routers")),
            json!({ "subnet_id": id("subnets") }),
        ),
        (
            Method::PUT,
            format!("/v2.0/routers/{}/add_extraroutes", id("routers")),
            json!({ "router": { "routes": [] } }),
        ),
        (
            Method::PUT,
            format!("/v2.0/floatingips/{}", own("floatingips")),
            json!({ "floatingip": { "port_id": id("ports") } }),
        ),
    ];
    for (method, path, body) in attempts {
        let (status, answer) = stranger.call(method.clone(), &path, Some(body.clone())).await;
        assert_eq!(status, 404, "{method} {path} {body}: {answer}");
    }
    // Nor in somebody's name.
    let (status, _) = stranger
        .call(
            Method::POST,
            "/v2.0/networks",
            Some(json!({ "network": { "project_id": "owner" } })),
        )
        .await;
    assert_eq!(status, 400);
    assert_eq!(stranger.get("/v2.0/quotas/owner").await.0, 403);
    assert_eq!(
        stranger
            .call(
                Method::PUT,
                "/v2.0/quotas/stranger",
                Some(json!({ "quota": { "port": -1 } }))
            )
            .await
            .0,
        403
    );
}

#[tokio::test]
async fn a_reader_reads_and_changes_nothing() {
    let cloud = Cloud::new().await;
    let things = everything(&cloud, "owner").await;
    let reader = cloud.client("owner", &["reader"]);
    for (collection, id) in &things {
        let path = format!("/v2.0/{collection}/{id}");
        assert_eq!(reader.get(&path).await.0, 200, "{path}");
        let (status, refused) = reader.delete(&path).await;
        assert_eq!(
            (status, text(&refused, "/NeutronError/type")),
            (403, "PolicyNotAuthorized"),
            "{path}"
        );
    }
    let (status, _) = reader
        .call(Method::POST, "/v2.0/networks", Some(json!({ "network": {} })))
        .await;
    assert_eq!(status, 403);
    let nobody = cloud.client("owner", &[]);
    assert_eq!(nobody.get(&format!("/v2.0/networks/{}", things[0].1)).await.0, 404);
}

#[tokio::test]
async fn what_is_shared_or_external_is_seen_but_not_changed() {
    let cloud = Cloud::new().await;
    let admin = cloud.admin();
    let member = cloud.member("p1");
    let shared = admin
        .create(
            "/v2.0/networks",
            json!({ "network": { "name": "all", "shared": true } }),
        )
        .await;
    let id = text(&shared, "/network/id").to_owned();
    let subnet = json!({ "subnet": { "network_id": id, "ip_version": 4, "cidr": "10.0.0.0/24" } });
    let subnet = admin.create("/v2.0/subnets", subnet).await;
    let (_, list) = member.get("/v2.0/networks?shared=True").await;
    assert_eq!(text(&list, "/networks/0/id"), id);
    assert_eq!(
        member
            .get(&format!("/v2.0/subnets/{}", text(&subnet, "/subnet/id")))
            .await
            .0,
        200
    );
    assert_eq!(member.delete(&format!("/v2.0/networks/{id}")).await.0, 403);
    let update = json!({ "network": { "name": "mine" } });
    assert_eq!(
        member
            .call(Method::PUT, &format!("/v2.0/networks/{id}"), Some(update))
            .await
            .0,
        403
    );
    // A member may use it, but not choose addresses on it.
    member
        .create("/v2.0/ports", json!({ "port": { "network_id": id } }))
        .await;
    let chosen = json!({ "port": { "network_id": id, "fixed_ips": [{ "ip_address": "10.0.0.77" }] } });
    assert_eq!(member.call(Method::POST, "/v2.0/ports", Some(chosen)).await.0, 403);
    let (status, refused) = member
        .call(
            Method::POST,
            "/v2.0/networks",
            Some(json!({ "network": { "shared": true } })),
        )
        .await;
    assert_eq!(
        (status, text(&refused, "/NeutronError/type")),
        (403, "PolicyNotAuthorized")
    );
    // Unsharing is refused while somebody else is on it.
    let unshare = json!({ "network": { "shared": false } });
    let (status, refused) = admin
        .call(Method::PUT, &format!("/v2.0/networks/{id}"), Some(unshare))
        .await;
    assert_eq!(
        (status, text(&refused, "/NeutronError/type")),
        (409, "InvalidSharedSetting")
    );
    // Only admins see what is behind it.
    let (_, seen) = member.get(&format!("/v2.0/networks/{id}")).await;
    assert!(seen["network"].get("provider:segmentation_id").is_none());
    let (_, seen) = admin.get(&format!("/v2.0/networks/{id}")).await;
    assert_eq!(text(&seen, "/network/provider:network_type"), "vxlan");
}
