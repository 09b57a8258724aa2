//! Server groups, and what a request says back.

use serde_json::{Value, json};

use crate::cloud::{Cloud, OTHER, Options};

#[tokio::test]
async fn a_group_keeps_its_servers_apart_and_counts_them() {
    let cloud = Cloud::new(Options::default()).await;
    let wanted = json!({ "server_group": { "name": "apart", "policies": ["anti-affinity"] } });
    let (status, body) = cloud.call("POST", "/os-server-groups", wanted).await;
    assert_eq!(status, 200, "{body}");
    let id = body["server_group"]["id"].as_str().unwrap().to_owned();
    assert_eq!(body["server_group"]["policies"], json!(["anti-affinity"]));

    let mut hosts = Vec::new();
    for name in ["a", "b"] {
        let mut wanted = cloud.wanted(name);
        wanted["os:scheduler_hints"] = json!({ "group": id });
        let (status, body) = cloud.call("POST", "/servers", wanted).await;
        assert_eq!(status, 202, "{body}");
        assert!(
            body["server"]["adminPass"]
                .as_str()
                .is_some_and(|password| password.len() >= 12)
        );
        let server = cloud.becomes(body["server"]["id"].as_str().unwrap(), "ACTIVE").await;
        hosts.push(server["hostId"].clone());
    }
    assert_ne!(hosts[0], hosts[1]);
    let (_, body) = cloud.call("GET", &format!("/os-server-groups/{id}"), Value::Null).await;
    assert_eq!(body["server_group"]["members"].as_array().unwrap().len(), 2);

    let stranger = cloud.caller(OTHER, &["member", "reader"]);
    let (status, _) = cloud
        .call_as(stranger, "2.1", "GET", &format!("/os-server-groups/{id}"), Value::Null)
        .await;
    assert_eq!(status, 404, "another project's group is not there");
    let (status, _) = cloud
        .call("DELETE", &format!("/os-server-groups/{id}"), Value::Null)
        .await;
    assert_eq!(status, 204);
    cloud.stop().await;
}

#[tokio::test]
async fn groups_are_counted_against_the_quota() {
    let cloud = Cloud::new(Options::default()).await;
    let wanted = || json!({ "server_group": { "name": "g", "policies": ["affinity"] } });
    for _ in 0..10 {
        assert_eq!(cloud.call("POST", "/os-server-groups", wanted()).await.0, 200);
    }
    let (status, body) = cloud.call("POST", "/os-server-groups", wanted()).await;
    assert_eq!((status, body["forbidden"]["code"].as_u64()), (403, Some(403)), "{body}");
    cloud.stop().await;
}
