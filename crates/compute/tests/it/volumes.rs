//! Volumes of servers: attached, taken away, started from, and gone with them.

use madang_block::{Source, Volume, VolumeSpec, VolumeState};
use madang_store::{Cause, Metadata, Resource};
use serde_json::{Value, json};

use crate::cloud::{Cloud, Options, PROJECT};

async fn volume(cloud: &Cloud, source: Source) -> String {
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
    assert_eq!(status, 403, "the root stays");

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
