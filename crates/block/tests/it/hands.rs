//! Volumes that change hands: between projects, into groups, to the host and back.

use serde_json::{Value, json};

use crate::cloud::{Cloud, OTHER};

impl Cloud {
    async fn made(&self, body: Value) -> String {
        let id = self.create("volumes", "volume", body).await;
        self.becomes(&format!("/volumes/{id}"), "volume", "available").await;
        id
    }

    async fn gone(&self, path: &str) {
        for _ in 0..1000 {
            if self.call("GET", path, Value::Null).await.0 == 404 {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("{path} is still there after 10 s");
    }

    async fn used(&self, project: &str) -> (Value, Value, Value) {
        let caller = self.caller(project, &["member", "reader"]);
        let body = self.call_as(caller, "3.71", "GET", "/limits", Value::Null).await.1;
        let of = |name: &str| body["limits"]["absolute"][name].clone();
        (
            of("totalVolumesUsed"),
            of("totalSnapshotsUsed"),
            of("totalGigabytesUsed"),
        )
    }
}

#[tokio::test]
async fn a_volume_moves_with_its_snapshots() {
    let cloud = Cloud::new().await;
    let volume = cloud.made(json!({ "size": 1, "name": "given" })).await;
    cloud.write(&volume, 0, 5);
    let snapshot = cloud
        .create("snapshots", "snapshot", json!({ "volume_id": volume }))
        .await;
    let of = format!("/snapshots/{snapshot}");
    cloud.becomes(&of, "snapshot", "available").await;
    cloud.write(&volume, 1, 6);
    let body = json!({ "transfer": { "volume_id": volume, "name": "t" } });
    let (status, made) = cloud.call("POST", "/volume-transfers", body.clone()).await;
    assert_eq!(status, 202, "{made}");
    assert_eq!(
        cloud.call("POST", "/volume-transfers", body).await.0,
        400,
        "offered already"
    );
    let (id, key) = (made["transfer"]["id"].as_str().unwrap(), &made["transfer"]["auth_key"]);
    let path = format!("/volumes/{volume}");
    cloud.becomes(&path, "volume", "awaiting-transfer").await;
    assert_eq!(cloud.call("DELETE", &path, Value::Null).await.0, 400);

    let other = || cloud.caller(OTHER, &["member", "reader"]);
    let ask = async |method: &str, path: &str, body: Value| cloud.call_as(other(), "3.71", method, path, body).await;
    let accept = format!("/volume-transfers/{id}/accept");
    assert_eq!(ask("GET", &format!("/volume-transfers/{id}"), Value::Null).await.0, 404);
    let (status, _) = ask("POST", &accept, json!({ "accept": { "auth_key": "0123456789abcdef" } })).await;
    assert_eq!(status, 400);
    let (status, body) = ask("POST", &accept, json!({ "accept": { "auth_key": key } })).await;
    assert_eq!(status, 202, "{body}");
    let (status, shown) = ask("GET", &path, Value::Null).await;
    assert_eq!((status, &shown["volume"]["status"]), (200, &json!("available")));
    assert_eq!(shown["volume"]["user_id"], format!("user-of-{OTHER}"));
    assert_eq!(ask("GET", &of, Value::Null).await.0, 200);
    for gone in [&path, &of, &format!("/volume-transfers/{id}")] {
        assert_eq!(cloud.call("GET", gone, Value::Null).await.0, 404, "{gone}");
    }
    assert_eq!(cloud.used(OTHER).await, (json!(1), json!(1), json!(2)));
    assert_eq!(cloud.used(crate::cloud::PROJECT).await, (json!(0), json!(0), json!(0)));
    cloud.check(&volume, &[5, 6], "moved");

    // What was held stays held over a restart, and goes with its new owner.
    let cloud = Cloud::again(cloud.stop().await).await;
    cloud.check(&volume, &[5, 6], "moved, and started anew");
    let other = || cloud.caller(OTHER, &["member", "reader"]);
    let (status, _) = cloud.call_as(other(), "3.71", "DELETE", &of, Value::Null).await;
    assert_eq!(status, 202);
    cloud.check(&volume, &[5, 6], "without its snapshot");
    let (status, body) = cloud.call_as(other(), "3.71", "DELETE", &path, Value::Null).await;
    assert_eq!(status, 202, "{body}");
    for _ in 0..500 {
        if cloud.files() == 0 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(cloud.files(), 0);
    cloud.stop().await;
}

#[tokio::test]
async fn an_offer_can_be_taken_back() {
    let cloud = Cloud::new().await;
    let volume = cloud.made(json!({ "size": 1 })).await;
    let body = json!({ "transfer": { "volume_id": volume } });
    let (_, made) = cloud.call("POST", "/os-volume-transfer", body).await;
    let path = format!("/os-volume-transfer/{}", made["transfer"]["id"].as_str().unwrap());
    assert_eq!(cloud.call("DELETE", &path, Value::Null).await.0, 202);
    cloud
        .becomes(&format!("/volumes/{volume}"), "volume", "available")
        .await;
    assert_eq!(cloud.call("GET", &path, Value::Null).await.0, 404);
    cloud.stop().await;
}

#[tokio::test]
async fn a_group_is_snapshot_cloned_and_deleted_together() {
    let cloud = Cloud::new().await;
    let of_type = json!({ "group_type": { "name": "set" } });
    assert_eq!(cloud.call("POST", "/group_types", of_type.clone()).await.0, 403);
    let (status, body) = cloud.admin("POST", "/group_types", of_type.clone()).await;
    assert_eq!(status, 202, "{body}");
    assert_eq!(cloud.admin("POST", "/group_types", of_type).await.0, 409);
    let body = json!({ "group_type": "set", "volume_types": ["__DEFAULT__"], "name": "g" });
    let group = cloud.create("groups", "group", body).await;
    let path = format!("/groups/{group}");
    let of = async |index: u8| {
        let body = json!({ "size": 1, "group_id": group, "volume_type": "__DEFAULT__" });
        let volume = cloud.made(body).await;
        cloud.write(&volume, 0, index);
        volume
    };
    let (first, second) = (of(1).await, of(2).await);
    let (status, _) = cloud.call("DELETE", &format!("/volumes/{first}"), Value::Null).await;
    assert_eq!(status, 400, "it is in a group");
    let body = json!({ "size": 1, "group_id": group });
    assert_eq!(
        cloud.call("POST", "/volumes", json!({ "volume": body })).await.0,
        400,
        "without a type"
    );

    let snapshot = cloud
        .create(
            "group_snapshots",
            "group_snapshot",
            json!({ "group_id": group, "name": "s" }),
        )
        .await;
    let kept = format!("/group_snapshots/{snapshot}");
    cloud.becomes(&kept, "group_snapshot", "available").await;
    cloud.write(&first, 0, 9);
    let with_volumes = json!({ "delete": { "delete-volumes": true } });
    let (status, _) = cloud
        .call("POST", &format!("{path}/action"), with_volumes.clone())
        .await;
    assert_eq!(status, 400, "it has a snapshot");

    for (from, wanted) in [
        (json!({ "group_snapshot_id": snapshot }), [1, 2]),
        (json!({ "source_group_id": group }), [9, 2]),
    ] {
        let (status, made) = cloud
            .call("POST", "/groups/action", json!({ "create-from-src": from }))
            .await;
        assert_eq!(status, 202, "{made}");
        let copy = format!("/groups/{}", made["group"]["id"].as_str().unwrap());
        cloud.becomes(&copy, "group", "available").await;
        let shown = cloud
            .call("GET", &format!("{copy}?list_volume=True"), Value::Null)
            .await
            .1;
        let mut found: Vec<u8> = Vec::new();
        for id in shown["group"]["volumes"].as_array().unwrap() {
            let id = id.as_str().unwrap();
            found.extend(wanted.iter().copied().filter(|pattern| cloud.reads(id, *pattern)));
        }
        found.sort_unstable();
        let mut wanted = wanted.to_vec();
        wanted.sort_unstable();
        assert_eq!(found, wanted, "{from}");
        let (status, body) = cloud
            .call("POST", &format!("{copy}/action"), with_volumes.clone())
            .await;
        assert_eq!(status, 202, "{body}");
        assert_eq!(cloud.call("GET", &copy, Value::Null).await.0, 404);
    }

    assert_eq!(cloud.call("DELETE", &kept, Value::Null).await.0, 202);
    let change = json!({ "group": { "remove_volumes": second, "name": "h" } });
    assert_eq!(cloud.call("PUT", &path, change.clone()).await.0, 202);
    assert_eq!(
        cloud.call("PUT", &path, change).await.0,
        400,
        "it is not in it any more"
    );
    let bare = json!({ "delete": {} });
    assert_eq!(
        cloud.call("POST", &format!("{path}/action"), bare).await.0,
        400,
        "it has a volume"
    );
    assert_eq!(cloud.call("POST", &format!("{path}/action"), with_volumes).await.0, 202);
    assert_eq!(
        cloud.call("GET", &format!("/volumes/{first}"), Value::Null).await.0,
        404
    );
    assert_eq!(
        cloud.call("GET", &format!("/volumes/{second}"), Value::Null).await.0,
        200
    );
    cloud.stop().await;
}

#[tokio::test]
async fn bytes_go_to_the_host_and_come_back() {
    let cloud = Cloud::new().await;
    let volume = cloud.made(json!({ "size": 1 })).await;
    cloud.write(&volume, 0, 3);
    let snapshot = cloud
        .create("snapshots", "snapshot", json!({ "volume_id": volume }))
        .await;
    cloud
        .becomes(&format!("/snapshots/{snapshot}"), "snapshot", "available")
        .await;
    cloud.write(&volume, 0, 4);
    let unmanage = json!({ "os-unmanage": {} });
    let action = format!("/volumes/{volume}/action");
    assert_eq!(
        cloud.admin("POST", &action, unmanage.clone()).await.0,
        400,
        "it has a snapshot"
    );
    let (status, _) = cloud
        .admin("POST", &format!("/snapshots/{snapshot}/action"), unmanage.clone())
        .await;
    assert_eq!(status, 202);
    cloud.gone(&format!("/snapshots/{snapshot}")).await;
    let body = json!({ "snapshot": {
        "volume_id": volume, "ref": { "source-name": format!("_snapshot-{snapshot}") }, "name": "back",
    } });
    let (status, made) = cloud.admin("POST", "/manageable_snapshots", body.clone()).await;
    assert_eq!(status, 202, "{made}");
    let back = made["snapshot"]["id"].as_str().unwrap().to_owned();
    cloud
        .becomes(&format!("/snapshots/{back}"), "snapshot", "available")
        .await;
    let copy = cloud.made(json!({ "snapshot_id": back })).await;
    cloud.check(&copy, &[3], "the snapshot that was away");
    assert_eq!(
        cloud.admin("POST", "/manageable_snapshots", body).await.0,
        400,
        "it is taken"
    );
    cloud.call("DELETE", &format!("/snapshots/{back}"), Value::Null).await;

    assert_eq!(cloud.call("POST", &action, unmanage.clone()).await.0, 403);
    assert_eq!(cloud.admin("POST", &action, unmanage).await.0, 202);
    // Also when it is interrupted.
    let cloud = Cloud::again(cloud.stop().await).await;
    cloud.gone(&format!("/volumes/{volume}")).await;
    let host = "here@file#file";
    let list = cloud
        .admin("GET", &format!("/manageable_volumes?host={}", "here@file"), Value::Null)
        .await
        .1;
    assert_eq!(
        list["manageable-volumes"][0]["reference"]["source-name"],
        format!("volume-{volume}")
    );
    for name in ["../store.db", "nothing", ""] {
        let body = json!({ "volume": { "host": host, "ref": { "source-name": name } } });
        assert_eq!(cloud.admin("POST", "/os-volume-manage", body).await.0, 400, "{name}");
    }
    let body = json!({ "volume": { "host": host, "ref": { "source-name": format!("volume-{volume}") } } });
    let (status, made) = cloud.admin("POST", "/os-volume-manage", body).await;
    assert_eq!(status, 202, "{made}");
    let back = made["volume"]["id"].as_str().unwrap().to_owned();
    cloud.becomes(&format!("/volumes/{back}"), "volume", "available").await;
    cloud.check(&back, &[4], "the volume that was away");
    let left = std::fs::read_dir(cloud.path().join("volumes/unmanaged"))
        .unwrap()
        .count();
    assert_eq!(left, 0);
    cloud.stop().await;
}

#[tokio::test]
async fn a_type_that_no_back_end_gives_says_so() {
    let cloud = Cloud::new().await;
    let body = json!({ "volume_type": { "name": "gold", "extra_specs": { "vendor_name": "acme" } } });
    assert_eq!(cloud.admin("POST", "/types", body).await.0, 200);
    let volume = cloud
        .create("volumes", "volume", json!({ "size": 1, "volume_type": "gold" }))
        .await;
    cloud.becomes(&format!("/volumes/{volume}"), "volume", "error").await;
    let messages = cloud.call("GET", "/messages", Value::Null).await.1;
    let message = &messages["messages"][0];
    assert_eq!(message["event_id"], "VOLUME_VOLUME_001_003");
    assert_eq!(
        message["user_message"],
        "schedule allocate volume:Could not find any available weighted backend."
    );
    assert_eq!(message["request_id"], "req-test");
    cloud.stop().await;
}
