//! What is around servers: aggregates and zones, services, quotas for users, proxies, usage, lists and their filters.

use madang_identity::{
    catalog::Service,
    limit::{RegisteredLimit, unified},
};
use madang_store::{Cause, Metadata, Resource, StoreError};
use serde_json::{Value, json};

use crate::cloud::{Cloud, OTHER, Options, PROJECT};

async fn admin(cloud: &Cloud, version: &str, method: &str, path: &str, body: Value) -> (u16, Value) {
    let caller = cloud.caller(OTHER, &["admin", "member", "reader"]);
    cloud.call_as(caller, version, method, path, body).await
}

async fn member(cloud: &Cloud, version: &str, method: &str, path: &str, body: Value) -> (u16, Value) {
    let caller = cloud.caller(PROJECT, &["member", "reader"]);
    cloud.call_as(caller, version, method, path, body).await
}

#[tokio::test]
async fn an_aggregate_makes_a_zone_of_its_hosts() {
    let cloud = Cloud::new(Options::default()).await;
    let wanted = json!({ "aggregate": { "name": "fast", "availability_zone": "az-fast" } });
    let (status, body) = admin(&cloud, "2.41", "POST", "/os-aggregates", wanted.clone()).await;
    assert_eq!(status, 200, "{body}");
    let id = body["aggregate"]["id"].as_u64().unwrap();
    assert!(body["aggregate"]["uuid"].is_string() && body["aggregate"].get("hosts").is_none());
    let (status, _) = admin(&cloud, "2.1", "POST", "/os-aggregates", wanted).await;
    assert_eq!(status, 409, "a name is taken once");

    let action = format!("/os-aggregates/{id}/action");
    let add = |host: &str| json!({ "add_host": { "host": host } });
    let (status, body) = admin(&cloud, "2.1", "POST", &action, add("sim-1")).await;
    assert_eq!(
        (status, &body["aggregate"]["hosts"]),
        (200, &json!(["sim-1"])),
        "{body}"
    );
    assert_eq!(admin(&cloud, "2.1", "POST", &action, add("sim-1")).await.0, 409);
    assert_eq!(admin(&cloud, "2.1", "POST", &action, add("nowhere")).await.0, 404);

    let (_, body) = member(&cloud, "2.1", "GET", "/os-availability-zone", Value::Null).await;
    let zones: Vec<&str> = body["availabilityZoneInfo"]
        .as_array()
        .unwrap()
        .iter()
        .map(|zone| zone["zoneName"].as_str().unwrap())
        .collect();
    assert_eq!(zones, ["az-fast", "nova"]);
    let (_, body) = admin(&cloud, "2.1", "GET", "/os-services?host=sim-1", Value::Null).await;
    assert_eq!(body["services"][0]["zone"], "az-fast");

    // A host is in one zone.
    let other = json!({ "aggregate": { "name": "slow", "availability_zone": "az-slow" } });
    let (_, body) = admin(&cloud, "2.1", "POST", "/os-aggregates", other).await;
    let slow = format!("/os-aggregates/{}/action", body["aggregate"]["id"]);
    assert_eq!(admin(&cloud, "2.1", "POST", &slow, add("sim-1")).await.0, 409);

    let path = format!("/os-aggregates/{id}");
    assert_eq!(
        admin(&cloud, "2.1", "DELETE", &path, Value::Null).await.0,
        400,
        "it has a host"
    );
    let remove = json!({ "remove_host": { "host": "sim-1" } });
    assert_eq!(admin(&cloud, "2.1", "POST", &action, remove).await.0, 200);
    assert_eq!(admin(&cloud, "2.1", "DELETE", &path, Value::Null).await.0, 200);
    assert_eq!(member(&cloud, "2.1", "GET", "/os-aggregates", Value::Null).await.0, 403);
    cloud.stop().await;
}

#[tokio::test]
async fn a_service_is_disabled_forced_down_and_counted_by_its_microversion() {
    let cloud = Cloud::new(Options::default()).await;
    let (_, body) = admin(&cloud, "2.53", "GET", "/os-services", Value::Null).await;
    let id = body["services"][0]["id"].as_str().unwrap().to_owned();
    let (status, body) = admin(
        &cloud,
        "2.53",
        "PUT",
        &format!("/os-services/{id}"),
        json!({ "status": "disabled", "disabled_reason": "work" }),
    )
    .await;
    assert_eq!(
        (status, &body["service"]["disabled_reason"]),
        (200, &json!("work")),
        "{body}"
    );
    let enable = json!({ "host": "sim-1", "binary": "nova-compute" });
    let (status, body) = admin(&cloud, "2.1", "PUT", "/os-services/enable", enable).await;
    assert_eq!((status, &body["service"]["status"]), (200, &json!("enabled")), "{body}");
    let (_, body) = admin(
        &cloud,
        "2.53",
        "PUT",
        &format!("/os-services/{id}"),
        json!({ "forced_down": true }),
    )
    .await;
    assert_eq!(
        (&body["service"]["state"], &body["service"]["forced_down"]),
        (&json!("down"), &json!(true))
    );

    let (_, old) = admin(&cloud, "2.1", "GET", "/os-hypervisors/detail", Value::Null).await;
    assert!(old["hypervisors"][0]["id"].is_u64() && old["hypervisors"][0]["vcpus"] == 64);
    let (_, new) = admin(&cloud, "2.88", "GET", "/os-hypervisors/detail?limit=1", Value::Null).await;
    assert!(new["hypervisors"][0].get("vcpus").is_none() && new["hypervisors_links"][0]["rel"] == "next");
    assert_eq!(
        admin(&cloud, "2.88", "GET", "/os-hypervisors/statistics", Value::Null)
            .await
            .0,
        404
    );
    assert_eq!(admin(&cloud, "2.43", "GET", "/os-hosts", Value::Null).await.0, 404);
    assert_eq!(admin(&cloud, "2.42", "GET", "/os-hosts", Value::Null).await.0, 200);
    cloud.stop().await;
}

#[tokio::test]
async fn a_user_has_limits_of_its_own_within_the_project() {
    let cloud = Cloud::new(Options::default()).await;
    let user = format!("user-of-{PROJECT}");
    let path = format!("/os-quota-sets/{PROJECT}?user_id={user}");
    let (status, body) = admin(&cloud, "2.1", "PUT", &path, json!({ "quota_set": { "instances": 11 } })).await;
    assert_eq!(status, 400, "more than the project may have: {body}");
    let (status, body) = admin(&cloud, "2.1", "PUT", &path, json!({ "quota_set": { "instances": 1 } })).await;
    assert_eq!((status, &body["quota_set"]["instances"]), (200, &json!(1)), "{body}");

    cloud.create("one").await;
    let (status, body) = cloud.call("POST", "/servers", cloud.wanted("two")).await;
    assert_eq!(status, 403, "{body}");
    let message = body["forbidden"]["message"].as_str().unwrap();
    assert!(message.contains("already used 1 of 1 instances"), "{message}");

    let (_, body) = admin(
        &cloud,
        "2.36",
        "GET",
        &format!("/os-quota-sets/{PROJECT}/detail?user_id={user}"),
        Value::Null,
    )
    .await;
    assert_eq!(
        body["quota_set"]["instances"],
        json!({ "limit": 1, "in_use": 1, "reserved": 0 })
    );
    assert!(body["quota_set"].get("floating_ips").is_none());
    assert_eq!(admin(&cloud, "2.1", "DELETE", &path, Value::Null).await.0, 202);
    cloud.create("two").await;
    cloud.stop().await;
}

#[tokio::test]
async fn unified_limits_hold_where_operators_want_them() {
    let cloud = Cloud::new(Options::default()).await;
    let limits = |body: &Value| {
        (
            body["quota_set"]["instances"].clone(),
            body["quota_set"]["cores"].clone(),
        )
    };
    let path = format!("/os-quota-sets/{PROJECT}");
    unified::decide(&cloud.store, ["compute".to_owned()].into(), "RegionOne")
        .await
        .unwrap();
    let (_, body) = admin(&cloud, "2.1", "GET", &path, Value::Null).await;
    assert_eq!(limits(&body), (json!(0), json!(-1)), "nothing is registered");
    let (status, body) = cloud.call("POST", "/servers", cloud.wanted("none")).await;
    assert_eq!(status, 403, "{body}");

    let service = json!({ "type": "compute", "enabled": true });
    let service = Resource::<Service>::new(Metadata::new("", "nova"), serde_json::from_value(service).unwrap());
    let registered = json!({ "service_id": "nova", "resource_name": "servers", "default_limit": 1 });
    let registered = Resource::<RegisteredLimit>::new(
        Metadata::new("", "servers"),
        serde_json::from_value(registered).unwrap(),
    );
    let written = cloud.store.transact(Cause::system("test"), |tx| {
        tx.create(service.clone())?;
        tx.create(registered.clone())?;
        Ok::<_, StoreError>(())
    });
    written.await.unwrap();
    let (_, body) = admin(&cloud, "2.1", "GET", &path, Value::Null).await;
    assert_eq!(limits(&body), (json!(1), json!(-1)));
    let wanted = json!({ "quota_set": { "instances": 7 } });
    let (status, body) = admin(&cloud, "2.1", "PUT", &path, wanted).await;
    assert_eq!((status, limits(&body).0), (200, json!(1)), "it is set elsewhere");
    cloud.create("one").await;
    let (status, body) = cloud.call("POST", "/servers", cloud.wanted("two")).await;
    assert_eq!(status, 403, "{body}");
    cloud.stop().await;
}

#[tokio::test]
async fn what_is_neutrons_now_is_still_answered_up_to_2_35() {
    let cloud = Cloud::new(Options::default()).await;
    let group = json!({ "security_group": { "name": "web", "description": "for web" } });
    let (status, body) = member(&cloud, "2.1", "POST", "/os-security-groups", group).await;
    assert_eq!(status, 200, "{body}");
    let id = body["security_group"]["id"].clone();
    let rule = json!({ "security_group_rule": {
        "parent_group_id": id, "ip_protocol": "tcp", "from_port": 80, "to_port": 80, "cidr": "10.0.0.0/8",
    } });
    let (status, body) = member(&cloud, "2.1", "POST", "/os-security-group-rules", rule.clone()).await;
    assert_eq!(
        (status, &body["security_group_rule"]["from_port"]),
        (200, &json!(80)),
        "{body}"
    );
    assert_eq!(
        member(&cloud, "2.1", "POST", "/os-security-group-rules", rule).await.0,
        400
    );
    let (_, body) = member(&cloud, "2.1", "GET", "/os-security-groups", Value::Null).await;
    let names: Vec<&str> = body["security_groups"]
        .as_array()
        .unwrap()
        .iter()
        .map(|group| group["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["default", "web"]);

    let (status, body) = member(&cloud, "2.1", "POST", "/os-floating-ips", json!({})).await;
    assert_eq!(
        (status, &body["floating_ip"]["pool"]),
        (200, &json!("public")),
        "{body}"
    );
    let stranger = cloud.caller(OTHER, &["member", "reader"]);
    let (_, body) = cloud
        .call_as(stranger, "2.1", "GET", "/os-floating-ips", Value::Null)
        .await;
    assert_eq!(body["floating_ips"], json!([]));

    let (_, body) = member(&cloud, "2.1", "GET", "/images/detail?name=tiny", Value::Null).await;
    assert_eq!(body["images"][0]["status"], "ACTIVE");
    for path in [
        "/os-security-groups",
        "/os-floating-ips",
        "/images",
        "/os-networks",
        "/os-tenant-networks",
    ] {
        assert_eq!(member(&cloud, "2.36", "GET", path, Value::Null).await.0, 404, "{path}");
        assert_eq!(member(&cloud, "2.35", "GET", path, Value::Null).await.0, 200, "{path}");
    }
    assert_eq!(member(&cloud, "2.1", "GET", "/os-cells", Value::Null).await.0, 410);
    cloud.stop().await;
}

#[tokio::test]
async fn usage_tells_what_ran_in_the_period() {
    let cloud = Cloud::new(Options::default()).await;
    let id = cloud.create("paid").await;
    cloud.becomes(&id, "ACTIVE").await;
    let period = "start=2020-01-01T00:00:00&end=2099-01-01T00:00:00";
    let (status, body) = member(
        &cloud,
        "2.1",
        "GET",
        &format!("/os-simple-tenant-usage/{PROJECT}?{period}"),
        Value::Null,
    )
    .await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(body["tenant_usage"]["server_usages"][0]["instance_id"], json!(id));
    let (status, _) = member(
        &cloud,
        "2.1",
        "GET",
        &format!("/os-simple-tenant-usage?{period}"),
        Value::Null,
    )
    .await;
    assert_eq!(status, 403);
    let (_, body) = admin(
        &cloud,
        "2.40",
        "GET",
        &format!("/os-simple-tenant-usage?detailed=1&limit=1&{period}"),
        Value::Null,
    )
    .await;
    assert_eq!(body["tenant_usages"][0]["tenant_id"], PROJECT);
    let (status, _) = member(
        &cloud,
        "2.1",
        "GET",
        &format!("/os-simple-tenant-usage/{PROJECT}?start=nonsense"),
        Value::Null,
    )
    .await;
    assert_eq!(status, 400);
    cloud.stop().await;
}

#[tokio::test]
async fn lists_filter_as_nova_does() {
    let cloud = Cloud::new(Options::default()).await;
    for name in ["web-1", "web-2", "db"] {
        let id = cloud.create(name).await;
        cloud.becomes(&id, "ACTIVE").await;
    }
    let names = async |version: &str, query: &str| -> Vec<String> {
        let (status, body) = member(&cloud, version, "GET", &format!("/servers?{query}"), Value::Null).await;
        assert_eq!(status, 200, "{query}: {body}");
        let servers = body["servers"].as_array().unwrap();
        servers
            .iter()
            .map(|server| server["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let sorted = "&sort_key=display_name&sort_dir=asc";
    assert_eq!(
        names("2.1", &format!("name=web-[0-9]%24{sorted}")).await,
        ["web-1", "web-2"]
    );
    assert_eq!(names("2.1", "status=nonsense").await, [""; 0]);
    assert_eq!(
        names("2.1", &format!("host=sim-1{sorted}")).await.len(),
        3,
        "not for users to ask"
    );
    assert_eq!(names("2.1", "limit=0").await, [""; 0]);
    for (version, query, wanted) in [
        ("2.38", "status=nonsense", 400),
        ("2.1", "name=[", 400),
        ("2.75", "unknown=1", 400),
        ("2.74", "unknown=1", 200),
        ("2.1", "sort_key=host", 403),
        ("2.1", "sort_key=nonsense", 400),
        ("2.74", "sort_key=vcpus", 200),
        ("2.75", "sort_key=vcpus", 400),
        (
            "2.66",
            "changes-since=2026-01-02T00:00:00Z&changes-before=2026-01-01T00:00:00Z",
            400,
        ),
        ("2.1", "changes-since=yesterday", 400),
        ("2.1", "all_tenants=1", 403),
        ("2.1", "limit=-1", 400),
    ] {
        let (status, body) = member(&cloud, version, "GET", &format!("/servers/detail?{query}"), Value::Null).await;
        assert_eq!(status, wanted, "{version} {query}: {body}");
    }
    cloud.stop().await;
}

#[tokio::test]
async fn versions_and_extensions_are_novas() {
    let cloud = Cloud::new(Options::default()).await;
    let (status, body) = member(&cloud, "2.1", "GET", "/extensions/os-aggregates", Value::Null).await;
    assert_eq!(
        (status, &body["extension"]["name"]),
        (200, &json!("Aggregates")),
        "{body}"
    );
    let (_, body) = member(&cloud, "2.1", "GET", "/extensions", Value::Null).await;
    assert_eq!(body["extensions"].as_array().unwrap().len(), 99);
    assert_eq!(
        member(&cloud, "2.1", "GET", "/extensions/nonsense", Value::Null)
            .await
            .0,
        404
    );
    cloud.stop().await;
}

#[tokio::test]
async fn misspelt_extra_specs_are_refused_since_2_86() {
    let cloud = Cloud::new(Options::default()).await;
    let path = "/flavors/1/os-extra_specs";
    let wrong = json!({ "extra_specs": { "hw:cpu_polic": "dedicated" } });
    assert_eq!(admin(&cloud, "2.85", "POST", path, wrong.clone()).await.0, 200);
    let (status, body) = admin(&cloud, "2.86", "POST", path, wrong).await;
    assert_eq!(status, 400, "{body}");
    assert!(body["badRequest"]["message"].as_str().unwrap().contains("hw:cpu_polic"));
    cloud.stop().await;
}
