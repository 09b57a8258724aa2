//! Bad requests get the status, the form and the words that Nova has for them.

use serde_json::{Value, json};

use crate::cloud::{Cloud, Options, PROJECT};

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_for_servers_name_what_is_wrong() {
    let cloud = Cloud::new(Options::default()).await;
    let nowhere = "00000000-0000-4000-8000-000000000000";
    let table: &[(&str, Value, u16, &str)] = &[
        (
            "name",
            json!(""),
            400,
            "Invalid input for field/attribute name. Value: . '' is too short",
        ),
        ("name", json!("x".repeat(256)), 400, "is too long"),
        ("name", json!(7), 400, "7 is not of type 'string'"),
        ("imageRef", json!(nowhere), 400, "Can not find requested image"),
        (
            "imageRef",
            json!("not-a-uuid"),
            400,
            "Invalid input for field/attribute imageRef",
        ),
        ("flavorRef", json!("999"), 400, "Flavor 999 could not be found."),
        ("key_name", json!("nokey"), 400, "Invalid key_name provided."),
        ("networks", json!([{ "uuid": nowhere }]), 400, "could not be found"),
        ("networks", json!([{ "port": nowhere }]), 400, "could not be found"),
        (
            "networks",
            json!([{ "uuid": cloud.network, "fixed_ip": "300.1.1.1" }]),
            400,
            "fixed_ip",
        ),
        (
            "security_groups",
            json!([{ "name": "nogroup" }]),
            400,
            "Security group nogroup not found",
        ),
        (
            "user_data",
            json!("@@@"),
            400,
            "Invalid input for field/attribute user_data. Value: @@@. '@@@' is not a 'base64'",
        ),
        ("min_count", json!(0), 400, "min_count"),
        (
            "availability_zone",
            json!("moon"),
            400,
            "The requested availability zone is not available",
        ),
        ("metadata", json!({ "a": 1 }), 400, "1 is not of type 'string'"),
        (
            "nonsense",
            json!(1),
            400,
            "Additional properties are not allowed ('nonsense' was unexpected)",
        ),
        (
            "block_device_mapping_v2",
            json!([{ "source_type": "volume", "uuid": nowhere }]),
            400,
            "failed to get volume",
        ),
    ];
    for (field, value, status, words) in table {
        let mut body = cloud.wanted("bad");
        body["server"][*field] = value.clone();
        let (got, answer) = cloud.call("POST", "/servers", body).await;
        let message = answer["badRequest"]["message"].as_str().unwrap_or_default();
        assert!(
            got == *status && message.contains(words),
            "{field}={value}: {got} {answer}"
        );
        assert_eq!(answer["badRequest"]["code"], *status);
    }
    let (status, answer) = cloud.call("POST", "/servers", json!({})).await;
    assert_eq!(
        (status, answer["badRequest"]["message"].as_str()),
        (400, Some("'server' is a required property"))
    );
    assert!(
        cloud.store.cache::<madang_compute::Server>().is_empty(),
        "nothing was made"
    );
    assert!(
        cloud.store.counters(PROJECT, "compute").is_empty(),
        "nothing was counted"
    );
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_things_are_404_and_impossible_ones_409() {
    let cloud = Cloud::new(Options::default()).await;
    let id = cloud.create("one").await;
    cloud.becomes(&id, "ACTIVE").await;
    let action = format!("/servers/{id}/action");
    let table: &[(&str, &str, Value, u16)] = &[
        ("GET", "/servers/nope", Value::Null, 404),
        ("DELETE", "/servers/nope", Value::Null, 404),
        ("GET", "/flavors/nope", Value::Null, 404),
        ("GET", "/os-keypairs/nope", Value::Null, 404),
        ("POST", &action, json!({ "os-start": null }), 409),
        ("POST", &action, json!({ "unpause": null }), 409),
        ("POST", &action, json!({ "dance": null }), 400),
        ("POST", &action, json!({}), 400),
        ("POST", &action, json!({ "reboot": { "type": "GENTLE" } }), 400),
        ("GET", "/servers?limit=-1", Value::Null, 400),
        ("GET", "/servers?marker=nope", Value::Null, 400),
        ("GET", "/servers?sort_key=color", Value::Null, 400),
        ("GET", "/servers/detail?changes-since=yesterday", Value::Null, 400),
        (
            "POST",
            "/flavors",
            json!({ "flavor": { "name": "x", "ram": 1, "vcpus": 1, "disk": 1 } }),
            403,
        ),
        ("GET", "/os-hypervisors", Value::Null, 403),
    ];
    for (method, path, body, status) in table {
        let (got, answer) = cloud.call(method, path, body.clone()).await;
        assert_eq!(got, *status, "{method} {path} {body}: {answer}");
    }
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_follow_the_microversion() {
    let cloud = Cloud::new(Options::default()).await;
    let id = cloud.create("v").await;
    cloud.becomes(&id, "ACTIVE").await;
    let get = async |version: &str| {
        let caller = cloud.caller(PROJECT, &["member", "reader"]);
        cloud
            .call_as(caller, version, "GET", &format!("/servers/{id}"), Value::Null)
            .await
    };
    let (_, old) = get("2.1").await;
    assert!(old["server"]["flavor"]["id"] == "1" && old["server"].get("tags").is_none());
    let (_, new) = get("2.96").await;
    let server = &new["server"];
    assert_eq!(server["flavor"]["original_name"], "m1.tiny");
    assert_eq!(
        (&server["tags"], &server["locked"], &server["description"]),
        (&json!([]), &json!(false), &Value::Null)
    );
    assert_eq!(get("2.999").await.0, 406);
    assert_eq!(get("x").await.0, 400);
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_taken_made_and_never_kept() {
    let cloud = Cloud::new(Options::default()).await;
    let (status, made) = cloud
        .call("POST", "/os-keypairs", json!({ "keypair": { "name": "me" } }))
        .await;
    assert_eq!(status, 200);
    assert!(made["keypair"]["private_key"].as_str().unwrap().contains("PRIVATE KEY"));
    let (status, _) = cloud
        .call("POST", "/os-keypairs", json!({ "keypair": { "name": "me" } }))
        .await;
    assert_eq!(status, 409);
    let (_, shown) = cloud.call("GET", "/os-keypairs/me", Value::Null).await;
    assert!(shown["keypair"].get("private_key").is_none());
    let bad = json!({ "keypair": { "name": "bad", "public_key": "ssh-rsa nonsense" } });
    assert_eq!(cloud.call("POST", "/os-keypairs", bad).await.0, 400);
    let mut body = cloud.wanted("keyed");
    body["server"]["key_name"] = json!("me");
    let (status, answer) = cloud.call("POST", "/servers", body).await;
    assert_eq!(status, 202, "{answer}");
    assert_eq!(cloud.call("DELETE", "/os-keypairs/me", Value::Null).await.0, 202);
    cloud.stop().await;
}
