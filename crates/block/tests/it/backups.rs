//! Backups: made of volumes and snapshots, full and incremental, restored bit for bit, and never stuck.

use serde_json::{Value, json};

use crate::cloud::{Cloud, OTHER};

impl Cloud {
    async fn volume(&self) -> String {
        let id = self
            .create(
                "volumes",
                "volume",
                json!({ "size": 1, "name": "origin", "metadata": { "k": "v" } }),
            )
            .await;
        self.becomes(&format!("/volumes/{id}"), "volume", "available").await;
        id
    }

    async fn back_up(&self, body: Value) -> String {
        let id = self.create("backups", "backup", body).await;
        self.becomes(&format!("/backups/{id}"), "backup", "available").await;
        id
    }

    async fn restore(&self, backup: &str, body: Value) -> String {
        let path = format!("/backups/{backup}/restore");
        let (status, answer) = self.call("POST", &path, json!({ "restore": body })).await;
        assert_eq!(status, 202, "{answer}");
        let volume = answer["restore"]["volume_id"].as_str().unwrap().to_owned();
        self.becomes(&format!("/volumes/{volume}"), "volume", "available").await;
        self.becomes(&format!("/backups/{backup}"), "backup", "available").await;
        volume
    }

    async fn is_gone(&self, path: &str) {
        for _ in 0..1000 {
            if self.call("GET", path, Value::Null).await.0 == 404 {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("{path} is still there after 10 s");
    }

    fn vault(&self) -> usize {
        std::fs::read_dir(self.path().join("backups")).unwrap().count()
    }
}

#[tokio::test]
async fn backups_are_restored_bit_for_bit() {
    let cloud = Cloud::new().await;
    let volume = cloud.volume().await;
    for (place, pattern) in [1, 2, 3, 4].into_iter().enumerate() {
        cloud.write(&volume, place as u64, pattern);
    }
    let full = cloud.back_up(json!({ "volume_id": volume, "name": "full" })).await;
    cloud
        .becomes(&format!("/volumes/{volume}"), "volume", "available")
        .await;
    cloud.write(&volume, 1, 9);
    let more = cloud.back_up(json!({ "volume_id": volume, "incremental": true })).await;
    let shown = cloud.call("GET", &format!("/backups/{full}"), Value::Null).await.1;
    assert_eq!(
        (
            &shown["backup"]["has_dependent_backups"],
            &shown["backup"]["is_incremental"]
        ),
        (&json!(true), &json!(false))
    );
    let (status, body) = cloud.call("DELETE", &format!("/backups/{full}"), Value::Null).await;
    assert_eq!(status, 400, "{body}");

    let new = cloud.restore(&full, json!({})).await;
    cloud.check(&new, &[1, 2, 3, 4], "the full one");
    let shown = cloud.call("GET", &format!("/volumes/{new}"), Value::Null).await.1;
    assert_eq!(
        (&shown["volume"]["name"], &shown["volume"]["metadata"]["k"]),
        (&json!("origin"), &json!("v"))
    );
    cloud.write(&volume, 0, 77);
    let same = cloud.restore(&more, json!({ "volume_id": volume })).await;
    assert_eq!(same, volume);
    cloud.check(&volume, &[1, 9, 3, 4], "the incremental one, over its own volume");
    let made = cloud
        .create("volumes", "volume", json!({ "backup_id": more, "size": 2 }))
        .await;
    cloud.becomes(&format!("/volumes/{made}"), "volume", "available").await;
    cloud.check(&made, &[1, 9, 3, 4], "a larger volume");

    // Nothing of a volume is needed for its backup.
    for id in [&volume, &new] {
        assert_eq!(
            cloud.call("DELETE", &format!("/volumes/{id}"), Value::Null).await.0,
            202
        );
    }
    let again = cloud.restore(&full, json!({ "name": "again" })).await;
    cloud.check(&again, &[1, 2, 3, 4], "without its volume");
    for id in [&more, &full] {
        let (status, body) = cloud.call("DELETE", &format!("/backups/{id}"), Value::Null).await;
        assert_eq!(status, 202, "{body}");
        cloud.is_gone(&format!("/backups/{id}")).await;
    }
    assert_eq!(cloud.vault(), 0, "their bytes went with them");
    let used = cloud.call("GET", "/limits", Value::Null).await.1;
    assert_eq!(used["limits"]["absolute"]["totalBackupsUsed"], 0);
    cloud.stop().await;
}

#[tokio::test]
async fn a_snapshot_is_backed_up_as_it_was() {
    let cloud = Cloud::new().await;
    let volume = cloud.volume().await;
    cloud.write(&volume, 0, 5);
    let snapshot = cloud
        .create("snapshots", "snapshot", json!({ "volume_id": volume }))
        .await;
    cloud
        .becomes(&format!("/snapshots/{snapshot}"), "snapshot", "available")
        .await;
    cloud.write(&volume, 0, 6);
    let backup = cloud
        .back_up(json!({ "volume_id": volume, "snapshot_id": snapshot }))
        .await;
    cloud
        .becomes(&format!("/snapshots/{snapshot}"), "snapshot", "available")
        .await;
    let new = cloud.restore(&backup, json!({})).await;
    cloud.check(&new, &[5], "the snapshot's bytes");
    cloud.stop().await;
}

#[tokio::test]
async fn what_cannot_be_backed_up_or_restored_is_refused() {
    let cloud = Cloud::new().await;
    let volume = cloud.volume().await;
    let ask = async |body: Value| cloud.call("POST", "/backups", json!({ "backup": body })).await.0;
    assert_eq!(ask(json!({ "volume_id": volume, "incremental": true })).await, 400);
    assert_eq!(ask(json!({ "volume_id": "x" })).await, 400);
    assert_eq!(ask(json!({ "volume_id": uuid::Uuid::nil() })).await, 404);
    let other = cloud.volume().await;
    let (status, body) = cloud
        .call(
            "POST",
            &format!("/volumes/{other}/action"),
            json!({ "os-extend": { "new_size": 2 } }),
        )
        .await;
    assert_eq!(status, 202, "{body}");
    cloud.becomes(&format!("/volumes/{other}"), "volume", "available").await;
    let backup = cloud.back_up(json!({ "volume_id": other })).await;
    let path = format!("/backups/{backup}");
    let over = json!({ "restore": { "volume_id": volume } });
    let (status, body) = cloud.call("POST", &format!("{path}/restore"), over).await;
    assert_eq!(status, 400, "a smaller volume: {body}");
    assert_eq!(
        cloud.call("GET", &path, Value::Null).await.1["backup"]["status"],
        "available"
    );
    let stranger = cloud.caller(OTHER, &["member", "reader"]);
    let (status, _) = cloud.call_as(stranger, "3.71", "GET", &path, Value::Null).await;
    assert_eq!(status, 404);
    cloud.stop().await;
}

#[tokio::test]
async fn a_start_finishes_what_a_crash_interrupted() {
    let cloud = Cloud::new().await;
    let volume = cloud.volume().await;
    cloud.write(&volume, 2, 3);
    let backup = cloud.create("backups", "backup", json!({ "volume_id": volume })).await;
    // At any point of it.
    let cloud = Cloud::again(cloud.stop().await).await;
    cloud
        .becomes(&format!("/backups/{backup}"), "backup", "available")
        .await;
    cloud
        .becomes(&format!("/volumes/{volume}"), "volume", "available")
        .await;
    let (_, answer) = cloud
        .call("POST", &format!("/backups/{backup}/restore"), json!({ "restore": {} }))
        .await;
    let new = answer["restore"]["volume_id"].as_str().unwrap().to_owned();
    let cloud = Cloud::again(cloud.stop().await).await;
    cloud.becomes(&format!("/volumes/{new}"), "volume", "available").await;
    cloud
        .becomes(&format!("/backups/{backup}"), "backup", "available")
        .await;
    cloud.check(&new, &[0, 0, 3], "restored over a restart");
    cloud.stop().await;
}

#[tokio::test]
async fn a_broken_backup_says_so() {
    let cloud = Cloud::new().await;
    let volume = cloud.volume().await;
    cloud.write(&volume, 0, 1);
    let backup = cloud.back_up(json!({ "volume_id": volume })).await;
    let object = cloud.path().join("backups").join(&backup).join("00000001");
    let mut bytes = std::fs::read(&object).unwrap();
    bytes[0] ^= 1;
    std::fs::write(&object, bytes).unwrap();
    let (_, answer) = cloud
        .call(
            "POST",
            &format!("/backups/{backup}/restore"),
            json!({ "restore": { "volume_id": volume } }),
        )
        .await;
    assert_eq!(answer["restore"]["volume_id"], volume.as_str());
    cloud
        .becomes(&format!("/volumes/{volume}"), "volume", "error_restoring")
        .await;
    cloud.check(&volume, &[1], "the volume is as it was");
    let messages = cloud.call("GET", "/messages", Value::Null).await.1;
    let about: Vec<&Value> = messages["messages"].as_array().unwrap().iter().collect();
    assert_eq!(about.len(), 1, "{messages}");
    assert_eq!(about[0]["resource_uuid"], volume.as_str());
    assert!(
        about[0]["user_message"].as_str().unwrap().contains("backup data"),
        "{messages}"
    );
    let path = format!("/messages/{}", about[0]["id"].as_str().unwrap());
    assert_eq!(cloud.call("DELETE", &path, Value::Null).await.0, 204);
    assert_eq!(cloud.call("GET", &path, Value::Null).await.0, 404);
    cloud.stop().await;
}

#[tokio::test]
async fn a_record_brings_a_backup_back() {
    let cloud = Cloud::new().await;
    let volume = cloud.volume().await;
    cloud.write(&volume, 0, 4);
    let backup = cloud.back_up(json!({ "volume_id": volume })).await;
    let path = format!("/backups/{backup}/export_record");
    let record = cloud.admin("GET", &path, Value::Null).await.1;
    let (status, _) = cloud.admin("POST", "/backups/import_record", record.clone()).await;
    assert_eq!(status, 400, "it is there already");
    // The store is lost, the vault is not.
    let lost = cloud.path().join("lost");
    let kept = cloud.path().join("backups").join(&backup);
    std::fs::rename(&kept, &lost).unwrap();
    assert_eq!(
        cloud.call("DELETE", &format!("/backups/{backup}"), Value::Null).await.0,
        202
    );
    cloud.is_gone(&format!("/backups/{backup}")).await;
    let (status, _) = cloud.admin("POST", "/backups/import_record", record.clone()).await;
    assert_eq!(status, 400, "there are no bytes");
    std::fs::rename(&lost, &kept).unwrap();
    let (status, body) = cloud.admin("POST", "/backups/import_record", record).await;
    assert_eq!((status, body["backup"]["id"].as_str()), (201, Some(&*backup)));
    let new = cloud.restore(&backup, json!({})).await;
    cloud.check(&new, &[4], "from a record");
    cloud.stop().await;
}
