//! Unified limits, domain configuration, policy associations.

use madang_identity::limit::{self, Model};
use serde_json::{Value, json};

use crate::cloud::{Cloud, text};

async fn service(cloud: &Cloud) -> String {
    text(&cloud.create("services", "service", json!({ "type": "compute" })).await["id"])
}

async fn post(cloud: &Cloud, collection: &str, item: Value) -> (u16, Value) {
    let path = format!("/v3/{collection}");
    let answer = cloud.admin("POST", &path, Some(json!({ collection: [item] }))).await;
    (answer.status, answer.body[collection][0].clone())
}

#[tokio::test]
async fn a_limit_overrides_what_is_registered() {
    let cloud = Cloud::new().await;
    let service = service(&cloud).await;
    let (_, project) = cloud.member("a", "member").await;
    let what = json!({ "service_id": service, "resource_name": "servers" });
    let with = |more: Value| {
        let mut all = what.clone();
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        all
    };
    let own = with(json!({ "project_id": project, "resource_limit": 3 }));
    assert_eq!(
        post(&cloud, "limits", own.clone()).await.0,
        403,
        "nothing is registered"
    );
    let (status, registered) = post(&cloud, "registered_limits", with(json!({ "default_limit": 10 }))).await;
    assert_eq!(status, 201);
    assert_eq!(
        post(&cloud, "registered_limits", with(json!({ "default_limit": 11 })))
            .await
            .0,
        409
    );
    let store = cloud.identity.store();
    let of = |id: &str| limit::of_project(store, "compute", Some("RegionOne"), "servers", id);
    assert_eq!(of(&project), Some(10));
    let (status, limit) = post(&cloud, "limits", own).await;
    assert_eq!(status, 201);
    assert_eq!((of(&project), of("other")), (Some(3), Some(10)));
    assert_eq!(limit::of_project(store, "compute", None, "ports", &project), None);
    let registered = format!("/v3/registered_limits/{}", text(&registered["id"]));
    assert_eq!(
        cloud.admin("DELETE", &registered, None).await.status,
        403,
        "a limit refers to it"
    );
    let token = cloud
        .login("a", "secret", json!({ "project": { "id": project } }))
        .await
        .token();
    let seen = cloud.ask(&token, "GET", "/v3/limits", None).await;
    assert_eq!(seen.body["limits"].as_array().unwrap().len(), 1);
    let limit = format!("/v3/limits/{}", text(&limit["id"]));
    assert_eq!(cloud.ask(&token, "DELETE", &limit, None).await.status, 403);
    assert_eq!(cloud.admin("DELETE", &limit, None).await.status, 204);
    assert_eq!(cloud.admin("DELETE", &registered, None).await.status, 204);
}

#[tokio::test]
async fn two_levels_fit_into_each_other() {
    let cloud = Cloud::with(|options| options.limit_model = Model::StrictTwoLevel).await;
    let model = cloud.admin("GET", "/v3/limits/model", None).await;
    assert_eq!(model.body["model"]["name"], "strict_two_level");
    let service = service(&cloud).await;
    let (_, project) = cloud.member("a", "member").await;
    let registered = json!({ "service_id": service, "resource_name": "servers", "default_limit": 10 });
    assert_eq!(post(&cloud, "registered_limits", registered).await.0, 201);
    let set = async |owner: &str, id: &str, number: i64| {
        let limit = json!({ "service_id": service, "resource_name": "servers", owner: id, "resource_limit": number });
        post(&cloud, "limits", limit).await.0
    };
    assert_eq!(
        set("project_id", &project, 11).await,
        403,
        "above what holds for its domain"
    );
    assert_eq!(set("project_id", &project, 8).await, 201);
    assert_eq!(
        set("domain_id", "default", 7).await,
        403,
        "below what one of its projects has"
    );
    assert_eq!(set("domain_id", "default", 20).await, 201);
}

#[tokio::test]
async fn a_domains_configuration_hides_its_password() {
    let cloud = Cloud::new().await;
    let domain = text(&cloud.create("domains", "domain", json!({ "name": "d" })).await["id"]);
    let path = format!("/v3/domains/{domain}/config");
    let config = json!({ "identity": { "driver": "ldap" }, "ldap": { "url": "ldap://x", "password": "secret" } });
    let put = |config: Value| Some(json!({ "config": config }));
    let made = cloud.admin("PUT", &path, put(config.clone())).await;
    assert_eq!(made.status, 201, "{}", made.body);
    assert!(!made.body.to_string().contains("secret"));
    assert_eq!(cloud.admin("PUT", &path, put(config)).await.status, 200);
    let url = cloud.admin("GET", &format!("{path}/ldap/url"), None).await;
    assert_eq!(url.body["config"], json!({ "url": "ldap://x" }));
    for (part, status) in [
        ("ldap/password", 404),
        ("ldap/nonsense", 403),
        ("identity/list_limit", 404),
    ] {
        assert_eq!(
            cloud.admin("GET", &format!("{path}/{part}"), None).await.status,
            status,
            "{part}"
        );
    }
    let more = cloud
        .admin("PATCH", &format!("{path}/ldap/url"), put(json!({ "url": "ldap://y" })))
        .await;
    assert_eq!(more.body["config"]["ldap"]["url"], "ldap://y");
    assert_eq!(cloud.admin("DELETE", &format!("{path}/ldap"), None).await.status, 204);
    assert_eq!(cloud.admin("GET", &format!("{path}/ldap"), None).await.status, 404);
    let defaults = cloud.admin("GET", "/v3/domains/config/ldap/default", None).await;
    assert!(defaults.body["config"]["ldap"]["url"].is_string());
}

#[tokio::test]
async fn the_nearest_policy_is_an_endpoints() {
    let cloud = Cloud::new().await;
    let service = service(&cloud).await;
    let endpoint =
        json!({ "service_id": service, "interface": "public", "url": "http://x/", "region_id": "RegionOne" });
    let endpoint = text(&cloud.create("endpoints", "endpoint", endpoint).await["id"]);
    let mut policies = Vec::new();
    for name in ["a", "b"] {
        let policy = json!({ "blob": name, "type": "text/plain" });
        policies.push(text(&cloud.create("policies", "policy", policy).await["id"]));
    }
    let of_endpoint = format!("/v3/endpoints/{endpoint}/OS-ENDPOINT-POLICY/policy");
    assert_eq!(cloud.admin("GET", &of_endpoint, None).await.status, 404);
    let place = |policy: &str, place: &str| format!("/v3/policies/{policy}/OS-ENDPOINT-POLICY/{place}");
    let service = format!("services/{service}");
    assert_eq!(
        cloud.admin("PUT", &place(&policies[0], &service), None).await.status,
        204
    );
    assert_eq!(cloud.admin("GET", &of_endpoint, None).await.body["policy"]["blob"], "a");
    let region = format!("{service}/regions/RegionOne");
    assert_eq!(
        cloud.admin("PUT", &place(&policies[1], &region), None).await.status,
        204
    );
    assert_eq!(cloud.admin("GET", &of_endpoint, None).await.body["policy"]["blob"], "b");
    assert_eq!(
        cloud.admin("GET", &place(&policies[1], &service), None).await.status,
        404
    );
    let path = format!("/v3/policies/{}", policies[1]);
    assert_eq!(cloud.admin("DELETE", &path, None).await.status, 204);
    assert_eq!(cloud.admin("GET", &of_endpoint, None).await.body["policy"]["blob"], "a");
}
