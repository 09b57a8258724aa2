//! What Cinder's clients ask, and what they are told.

use serde_json::{Value, json};

use crate::cloud::{Cloud, OTHER};

#[tokio::test]
async fn a_volume_lives() {
    let cloud = Cloud::new().await;
    let id = cloud
        .create(
            "volumes",
            "volume",
            json!({ "size": 1, "name": "a", "metadata": { "k": "v" } }),
        )
        .await;
    let path = format!("/volumes/{id}");
    let shown = cloud.becomes(&path, "volume", "available").await;
    assert_eq!(
        (&shown["size"], &shown["metadata"]["k"], &shown["volume_type"]),
        (&json!(1), &json!("v"), &json!("__DEFAULT__"))
    );

    let (status, _) = cloud
        .call(
            "POST",
            &format!("{path}/action"),
            json!({ "os-extend": { "new_size": 2 } }),
        )
        .await;
    assert_eq!(status, 202);
    for _ in 0..1000 {
        if cloud.call("GET", &path, Value::Null).await.1["volume"]["size"] == 2 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(cloud.becomes(&path, "volume", "available").await["size"], 2);
    let (status, _) = cloud
        .call(
            "POST",
            &format!("{path}/action"),
            json!({ "os-extend": { "new_size": 2 } }),
        )
        .await;
    assert_eq!(status, 400);

    for (query, count) in [
        ("name=a", 1),
        ("name=b", 0),
        ("metadata=%7B%22k%22:%22v%22%7D", 1),
        ("status=available", 1),
        ("limit=0", 0),
    ] {
        let (_, body) = cloud
            .call("GET", &format!("/volumes/detail?{query}"), Value::Null)
            .await;
        assert_eq!(body["volumes"].as_array().map(Vec::len), Some(count), "{query}: {body}");
    }
    let stranger = cloud.caller(OTHER, &["member", "reader"]);
    let (status, _) = cloud.call_as(stranger, "3.71", "GET", &path, Value::Null).await;
    assert_eq!(status, 404);

    let (status, _) = cloud.call("DELETE", &path, Value::Null).await;
    assert_eq!(status, 202);
    assert_eq!(cloud.call("GET", &path, Value::Null).await.0, 404);
    let (_, body) = cloud.call("GET", "/limits", Value::Null).await;
    assert_eq!(body["limits"]["absolute"]["totalGigabytesUsed"], 0);
    cloud.stop().await;
}

#[tokio::test]
async fn clients_find_the_version() {
    let cloud = Cloud::new().await;
    let links = |body: &Value| body["versions"][0]["links"][0]["href"].clone();
    for (path, wanted) in [("/volume/", 300), ("/volume/v3/", 200)] {
        let (status, body) = cloud.get(path).await;
        assert_eq!(
            (status, links(&body)),
            (wanted, json!("http://cloud/volume/v3/")),
            "{path}: {body}"
        );
    }
    cloud.stop().await;
}

#[tokio::test]
async fn what_cannot_be_is_refused() {
    let cloud = Cloud::new().await;
    let none = "00000000-0000-0000-0000-000000000000";
    for (body, wanted) in [
        (json!({}), 400),
        (json!({ "size": 0 }), 400),
        (json!({ "size": -1 }), 400),
        (json!({ "size": "#$%" }), 400),
        (json!({ "size": 1, "volume_type": none }), 404),
        (json!({ "size": 1, "snapshot_id": none }), 404),
        (json!({ "size": 1, "source_volid": none }), 404),
        (json!({ "size": 1, "imageRef": none }), 400),
        (json!({ "size": 1, "availability_zone": "mars" }), 400),
        (json!({ "size": 1001 }), 413),
    ] {
        let (status, answer) = cloud.call("POST", "/volumes", json!({ "volume": body })).await;
        assert_eq!(status, wanted, "{body}: {answer}");
    }
    cloud.stop().await;
}

#[tokio::test]
async fn a_volume_with_snapshots_stays() {
    let cloud = Cloud::new().await;
    let volume = cloud.create("volumes", "volume", json!({ "size": 1 })).await;
    let path = format!("/volumes/{volume}");
    cloud.becomes(&path, "volume", "available").await;
    let snapshot = cloud
        .create("snapshots", "snapshot", json!({ "volume_id": volume }))
        .await;
    cloud
        .becomes(&format!("/snapshots/{snapshot}"), "snapshot", "available")
        .await;
    let (status, body) = cloud.call("DELETE", &path, Value::Null).await;
    assert_eq!(status, 400, "{body}");
    let (status, _) = cloud.call("DELETE", &format!("{path}?cascade=True"), Value::Null).await;
    assert_eq!(status, 202);
    assert_eq!(
        cloud
            .call("GET", &format!("/snapshots/{snapshot}"), Value::Null)
            .await
            .0,
        404
    );
    cloud.stop().await;
}

#[tokio::test]
async fn attachments_move_the_volume() {
    let cloud = Cloud::new().await;
    let volume = cloud.create("volumes", "volume", json!({ "size": 1 })).await;
    let path = format!("/volumes/{volume}");
    cloud.becomes(&path, "volume", "available").await;
    let attachment = cloud
        .create("attachments", "attachment", json!({ "volume_uuid": volume }))
        .await;
    cloud.becomes(&path, "volume", "reserved").await;
    let of = format!("/attachments/{attachment}");
    let connector = json!({ "attachment": { "connector": { "host": "h", "mountpoint": "/dev/vdb" } } });
    let (status, body) = cloud.call("PUT", &of, connector).await;
    assert_eq!(
        (status, &body["attachment"]["connection_info"]["driver_volume_type"]),
        (200, &json!("local")),
        "{body}"
    );
    cloud.becomes(&path, "volume", "attaching").await;
    let (status, _) = cloud
        .call("POST", &format!("{of}/action"), json!({ "os-complete": null }))
        .await;
    assert_eq!(status, 204);
    let shown = cloud.becomes(&path, "volume", "in-use").await;
    assert_eq!(shown["attachments"][0]["device"], "/dev/vdb");
    assert_eq!(cloud.call("DELETE", &path, Value::Null).await.0, 400);
    cloud.call("DELETE", &of, Value::Null).await;
    cloud.becomes(&path, "volume", "available").await;
    cloud.stop().await;
}

#[tokio::test]
async fn types_are_the_admins() {
    let cloud = Cloud::new().await;
    let body =
        json!({ "volume_type": { "name": "fast", "extra_specs": { "volume_backend_name": "file", "other:a": "b" } } });
    assert_eq!(cloud.call("POST", "/types", body.clone()).await.0, 403);
    let (status, made) = cloud.admin("POST", "/types", body.clone()).await;
    assert_eq!(status, 200, "{made}");
    assert_eq!(cloud.admin("POST", "/types", body).await.0, 409);
    let id = made["volume_type"]["id"].as_str().unwrap().to_owned();
    let volume = cloud
        .create("volumes", "volume", json!({ "size": 1, "volume_type": "fast" }))
        .await;
    assert_eq!(cloud.admin("DELETE", &format!("/types/{id}"), Value::Null).await.0, 400);
    cloud
        .becomes(&format!("/volumes/{volume}"), "volume", "available")
        .await;
    cloud.call("DELETE", &format!("/volumes/{volume}"), Value::Null).await;
    assert_eq!(cloud.admin("DELETE", &format!("/types/{id}"), Value::Null).await.0, 202);
    cloud.stop().await;
}
