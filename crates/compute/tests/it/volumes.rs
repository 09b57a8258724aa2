//! Volumes of servers: attached, taken away, started from, and gone with them.

use madang_block::{Snapshot, SnapshotState, Source, Volume, VolumeSpec, VolumeState};
use madang_store::{Cause, Metadata, Resource};
use serde_json::{Value, json};

use crate::cloud::{Cloud, Options, PROJECT};

pub async fn volume(cloud: &Cloud, source: Source) -> String {
    let spec = VolumeSpec {
        size_gib: 1,
        source,
        ..VolumeSpec::default()
    };
    let mut tx = cloud.store.begin(Cause::system("test"));
    let made = tx
        .create(Resource::<Volume>::new(Metadata::with_id(PROJECT), spec))
        .unwrap();
    tx.commit().await.unwrap();
    let id = made.name().to_owned();
    is(cloud, &id, VolumeState::Available).await;
    id
}

async fn is(cloud: &Cloud, id: &str, state: VolumeState) {
    let probe = || {
        let volume = cloud.store.cache::<Volume>().by_name(id)?;
        (volume.status.state == state).then_some(())
    };
    cloud.eventually(&format!("volume that is {state}"), probe).await;
}

async fn attach(cloud: &Cloud, server: &str, volume: &str) -> (u16, Value) {
    let body = json!({ "volumeAttachment": { "volumeId": volume } });
    cloud
        .call("POST", &format!("/servers/{server}/os-volume_attachments"), body)
        .await
}

#[tokio::test]
async fn a_volume_comes_and_goes() {
    let cloud = Cloud::new(Options::default()).await;
    let server = cloud.create("a").await;
    cloud.becomes(&server, "ACTIVE").await;
    let volume = volume(&cloud, Source::Blank).await;

    let (status, body) = attach(&cloud, &server, &volume).await;
    assert_eq!((status, &body["volumeAttachment"]["device"]), (200, &json!("/dev/vdb")));
    is(&cloud, &volume, VolumeState::InUse).await;
    let (status, body) = attach(&cloud, &server, &volume).await;
    assert_eq!(status, 400, "twice: {body}");
    let (_, body) = cloud.call("GET", &format!("/servers/{server}"), Value::Null).await;
    assert_eq!(
        body["server"]["os-extended-volumes:volumes_attached"],
        json!([{ "id": volume }])
    );

    let path = format!("/servers/{server}/os-volume_attachments/{volume}");
    let (status, body) = cloud.call("GET", &path, Value::Null).await;
    assert_eq!((status, &body["volumeAttachment"]["volumeId"]), (200, &json!(volume)));
    let (status, _) = cloud.call("DELETE", &path, Value::Null).await;
    assert_eq!(status, 202);
    is(&cloud, &volume, VolumeState::Available).await;
    let (status, _) = cloud.call("GET", &path, Value::Null).await;
    assert_eq!(status, 404);
    cloud.stop().await;
}

#[tokio::test]
async fn a_server_starts_from_a_volume_that_is_made_for_it() {
    let cloud = Cloud::new(Options::default()).await;
    let mut wanted = cloud.wanted("bfv");
    wanted["server"]["imageRef"] = json!("");
    wanted["server"]["block_device_mapping_v2"] = json!([{
        "source_type": "image", "destination_type": "volume", "uuid": cloud.image, "volume_size": 1, "boot_index": 0,
        "delete_on_termination": true,
    }]);
    let (status, body) = cloud.call("POST", "/servers", wanted).await;
    assert_eq!(status, 202, "{body}");
    let server = body["server"]["id"].as_str().unwrap().to_owned();
    let shown = cloud.becomes(&server, "ACTIVE").await;
    assert_eq!(shown["image"], "");
    let root = shown["os-extended-volumes:volumes_attached"][0]["id"].as_str().unwrap();
    is(&cloud, root, VolumeState::InUse).await;
    let path = format!("/servers/{server}/os-volume_attachments/{root}");
    let (status, _) = cloud.call("DELETE", &path, Value::Null).await;
    assert_eq!(status, 400, "the root stays");

    cloud.call("DELETE", &format!("/servers/{server}"), Value::Null).await;
    let gone = || cloud.store.cache::<Volume>().by_name(root).is_none().then_some(());
    cloud.eventually("end of the root volume", gone).await;
    cloud.stop().await;
}

#[tokio::test]
async fn a_server_that_goes_leaves_its_volumes_free() {
    let cloud = Cloud::new(Options::default()).await;
    let server = cloud.create("a").await;
    cloud.becomes(&server, "ACTIVE").await;
    let volume = volume(&cloud, Source::Blank).await;
    attach(&cloud, &server, &volume).await;
    is(&cloud, &volume, VolumeState::InUse).await;
    cloud.call("DELETE", &format!("/servers/{server}"), Value::Null).await;
    is(&cloud, &volume, VolumeState::Available).await;
    cloud.stop().await;
}

#[tokio::test]
async fn a_shelved_server_is_given_volumes_and_has_them_when_it_is_back() {
    let cloud = Cloud::new(Options::default()).await;
    let server = cloud.create("a").await;
    cloud.becomes(&server, "ACTIVE").await;
    assert_eq!(cloud.act(&server, json!({ "shelve": null })).await, 202);
    cloud.becomes(&server, "SHELVED_OFFLOADED").await;
    let (kept, gone) = (volume(&cloud, Source::Blank).await, volume(&cloud, Source::Blank).await);
    assert_eq!(attach(&cloud, &server, &kept).await.0, 409, "before 2.20");
    let member = || cloud.caller(PROJECT, &["member", "reader"]);
    let path = format!("/servers/{server}/os-volume_attachments");
    for volume in [&kept, &gone] {
        let body = json!({ "volumeAttachment": { "volumeId": volume } });
        let (status, body) = cloud.call_as(member(), "2.20", "POST", &path, body).await;
        assert_eq!(status, 200, "{body}");
        is(&cloud, volume, VolumeState::InUse).await;
    }
    let away = format!("{path}/{gone}");
    assert_eq!(
        cloud.call_as(member(), "2.20", "DELETE", &away, Value::Null).await.0,
        202
    );
    is(&cloud, &gone, VolumeState::Available).await;
    assert_eq!(cloud.act(&server, json!({ "unshelve": null })).await, 202);
    let back = cloud.becomes(&server, "ACTIVE").await;
    assert_eq!(back["os-extended-volumes:volumes_attached"], json!([{ "id": kept }]));
    cloud.call("DELETE", &format!("{path}/{kept}"), Value::Null).await;
    is(&cloud, &kept, VolumeState::Available).await;
    cloud.stop().await;
}

#[tokio::test]
async fn a_volume_that_migrates_is_swapped_and_no_other() {
    let cloud = Cloud::new(Options::default()).await;
    let server = cloud.create("a").await;
    cloud.becomes(&server, "ACTIVE").await;
    let (old, new) = (volume(&cloud, Source::Blank).await, volume(&cloud, Source::Blank).await);
    attach(&cloud, &server, &old).await;
    is(&cloud, &old, VolumeState::InUse).await;
    let swap = async || {
        let path = format!("/servers/{server}/os-volume_attachments/{old}");
        let body = json!({ "volumeAttachment": { "volumeId": new } });
        let caller = cloud.caller(crate::cloud::OTHER, &["admin", "member", "reader", "service"]);
        cloud.call_as(caller, "2.1", "PUT", &path, body).await
    };
    let (status, body) = swap().await;
    assert_eq!(status, 409, "{body}");
    let key = cloud.store.cache::<Volume>().by_name(&old).unwrap().key();
    let migrates = cloud
        .store
        .modify::<Volume, madang_store::StoreError>(&key, Cause::system("test"), |volume| {
            volume.status.migration = Some("migrating".to_owned());
            Ok(())
        });
    migrates.await.unwrap();
    let (status, body) = swap().await;
    assert_eq!(status, 202, "{body}");
    is(&cloud, &new, VolumeState::InUse).await;
    is(&cloud, &old, VolumeState::Available).await;
    let (_, body) = cloud.call("GET", &format!("/servers/{server}"), Value::Null).await;
    assert_eq!(
        body["server"]["os-extended-volumes:volumes_attached"],
        json!([{ "id": new }])
    );
    cloud.stop().await;
}

#[tokio::test]
async fn a_server_on_a_volume_is_rebuilt_and_copied_with_it() {
    let cloud = Cloud::new(Options::default()).await;
    let mut wanted = cloud.wanted("bfv");
    wanted["server"]["imageRef"] = json!("");
    wanted["server"]["block_device_mapping_v2"] = json!([{
        "source_type": "image", "destination_type": "volume", "uuid": cloud.image, "volume_size": 1, "boot_index": 0,
    }]);
    let (_, body) = cloud.call("POST", "/servers", wanted).await;
    let server = body["server"]["id"].as_str().unwrap().to_owned();
    let shown = cloud.becomes(&server, "ACTIVE").await;
    let root = shown["os-extended-volumes:volumes_attached"][0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let layer = || cloud.store.cache::<Volume>().by_name(&root).unwrap().status.layer;
    let before = layer();
    let rebuild = json!({ "rebuild": { "imageRef": cloud.image } });
    let path = format!("/servers/{server}/action");
    let caller = || cloud.caller(PROJECT, &["member", "reader"]);
    let (status, body) = cloud.call_as(caller(), "2.92", "POST", &path, rebuild.clone()).await;
    assert_eq!((status, &body["server"]["image"]), (202, &json!("")), "{body}");
    cloud.becomes(&server, "ACTIVE").await;
    assert_eq!(layer(), before, "an older client keeps what is in the volume");
    let (status, body) = cloud.call_as(caller(), "2.93", "POST", &path, rebuild).await;
    assert_eq!(status, 202, "{body}");
    cloud.becomes(&server, "ACTIVE").await;
    assert_ne!(layer(), before, "it began anew");
    is(&cloud, &root, VolumeState::InUse).await;

    let copy = json!({ "createImage": { "name": "copy" } });
    let (status, body) = cloud.call_as(caller(), "2.45", "POST", &path, copy).await;
    assert_eq!(status, 202, "{body}");
    let image = body["image_id"].as_str().unwrap().to_owned();
    let snapshots = cloud.store.cache::<Snapshot>();
    assert_eq!(snapshots.by("volume", &root).len(), 1);
    let made = || {
        let snapshot = snapshots.by("volume", &root).pop()?;
        (snapshot.status.state == SnapshotState::Available).then_some(())
    };
    cloud.eventually("snapshot of the root", made).await;
    let mut wanted = cloud.wanted("twin");
    wanted["server"]["imageRef"] = json!(image);
    let (status, body) = cloud.call("POST", "/servers", wanted).await;
    assert_eq!(status, 202, "{body}");
    let twin = cloud.becomes(body["server"]["id"].as_str().unwrap(), "ACTIVE").await;
    assert_ne!(twin["os-extended-volumes:volumes_attached"][0]["id"], json!(root));
    cloud.stop().await;
}

#[tokio::test]
async fn disks_that_cannot_be_are_refused() {
    let cloud = Cloud::new(Options::default()).await;
    let none = "00000000-0000-0000-0000-000000000000";
    for device in [
        json!({ "source_type": "volume", "destination_type": "volume", "uuid": none, "boot_index": 0 }),
        json!({ "source_type": "image", "destination_type": "volume", "uuid": none, "volume_size": 1, "boot_index": 0 }),
        json!({ "source_type": "image", "destination_type": "volume", "uuid": cloud.image, "boot_index": 0 }),
        json!({ "source_type": "blank", "destination_type": "volume" }),
    ] {
        let mut wanted = cloud.wanted("a");
        wanted["server"]["block_device_mapping_v2"] = json!([device]);
        let (status, body) = cloud.call("POST", "/servers", wanted).await;
        assert_eq!(status, 400, "{device}: {body}");
    }
    cloud.stop().await;
}
