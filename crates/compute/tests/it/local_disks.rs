//! Disks that a server's host makes for it: asked for, told of, and following the flavor. And what a host may lack for a
//! machine's trusted platform module.

use madang_compute::Server;
use madang_image::{ContainerFormat, Image};
use madang_scheduler::Provider;
use madang_store::{Cause, Resource};
use serde_json::{Value, json};

use crate::cloud::{Cloud, OTHER, Options};

/// Makes a flavor; its id is its name.
async fn flavor(cloud: &Cloud, name: &str, ephemeral: u32, swap: u32) {
    let body = json!({ "flavor": {
        "name": name, "id": name, "ram": 256, "vcpus": 1, "disk": 1, "OS-FLV-EXT-DATA:ephemeral": ephemeral, "swap": swap,
    } });
    let admin = cloud.caller(OTHER, &["admin", "member", "reader"]);
    let (status, body) = cloud.call_as(admin, "2.1", "POST", "/flavors", body).await;
    assert_eq!(status, 200, "{body}");
}

fn blank(size: Option<u32>, format: Option<&str>) -> Value {
    let mut disk = json!({
        "source_type": "blank", "destination_type": "local", "boot_index": -1, "delete_on_termination": true,
    });
    if let Some(size) = size {
        disk["volume_size"] = json!(size);
    }
    if let Some(format) = format {
        disk["guest_format"] = json!(format);
    }
    disk
}

/// Asks for a server of a flavor with these disks beside the image's.
async fn ask(cloud: &Cloud, flavor: &str, disks: &[Value]) -> (u16, Value) {
    let mut wanted = cloud.wanted("a");
    wanted["server"]["flavorRef"] = json!(flavor);
    if !disks.is_empty() {
        let root = json!({
            "source_type": "image", "destination_type": "local", "uuid": cloud.image, "boot_index": 0,
        });
        wanted["server"]["block_device_mapping_v2"] = [&[root], disks].concat().into();
    }
    cloud.call("POST", "/servers", wanted).await
}

/// What it has been given, as sizes in MiB and names.
fn disks(cloud: &Cloud, id: &str) -> Vec<(u64, String)> {
    let server: std::sync::Arc<Resource<Server>> = cloud.store.cache::<Server>().by_name(id).unwrap();
    let disks = server.spec.disks.iter();
    disks.map(|disk| (disk.size_mib, disk.device.clone())).collect()
}

fn disk(mib: u64, device: &str) -> (u64, String) {
    (mib, device.to_owned())
}

/// What a running server's disks are called in its diagnostics.
async fn diagnosed(cloud: &Cloud, id: &str) -> Vec<String> {
    let admin = cloud.caller(OTHER, &["admin", "member", "reader"]);
    let path = format!("/servers/{id}/diagnostics");
    let (status, body) = cloud.call_as(admin, "2.1", "GET", &path, Value::Null).await;
    assert_eq!(status, 200, "{body}");
    let names = body.as_object().unwrap().keys();
    let names = names.filter_map(|name| name.strip_suffix("_read_req").map(str::to_owned));
    names.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flavor_gives_disks_and_a_request_divides_them() {
    let cloud = Cloud::new(Options::default()).await;
    flavor(&cloud, "more", 2, 64).await;
    let (status, body) = ask(&cloud, "more", &[]).await;
    assert_eq!(status, 202, "{body}");
    let id = body["server"]["id"].as_str().unwrap();
    cloud.becomes(id, "ACTIVE").await;
    assert_eq!(disks(&cloud, id), [disk(2048, "/dev/vdb"), disk(64, "/dev/vdc")]);
    assert_eq!(diagnosed(&cloud, id).await, ["vda", "vdb", "vdc"]);

    flavor(&cloud, "only-ephemeral", 2, 0).await;
    let (status, body) = ask(
        &cloud,
        "only-ephemeral",
        &[blank(Some(1), None), blank(Some(1), Some("xfs"))],
    )
    .await;
    assert_eq!(status, 202, "{body}");
    let id = body["server"]["id"].as_str().unwrap();
    assert_eq!(disks(&cloud, id), [disk(1024, "/dev/vdb"), disk(1024, "/dev/vdc")]);

    let refused = [
        (
            "only-ephemeral",
            vec![blank(Some(2), None), blank(Some(1), None)],
            "larger than the instance type allows",
        ),
        (
            "only-ephemeral",
            vec![blank(None, None), blank(Some(1), None)],
            "flavor ephemeral size will be used",
        ),
        ("1", vec![blank(Some(1), None)], "Ephemeral disks requested are larger"),
        (
            "more",
            vec![blank(Some(65), Some("swap"))],
            "Swap drive requested is larger than instance type allows.",
        ),
        (
            "more",
            vec![blank(Some(1), Some("swap")), blank(Some(1), Some("swap"))],
            "More than one swap drive requested.",
        ),
        (
            "more",
            vec![blank(Some(1), None), blank(Some(1), None)],
            "more local devices than the limit allows",
        ),
        (
            "more",
            vec![blank(Some(1), Some("btrfs"))],
            "btrfs format is not supported",
        ),
    ];
    for (flavor, disks, why) in refused {
        let (status, body) = ask(&cloud, flavor, &disks).await;
        let message = body["badRequest"]["message"].as_str().unwrap_or_default();
        assert!(status == 400 && message.contains(why), "{why}: {body}");
    }
    let mut with_id = blank(Some(1), None);
    with_id["uuid"] = json!(cloud.image);
    let (status, body) = ask(&cloud, "more", &[with_id]).await;
    assert_eq!(status, 400, "{body}");
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn its_disks_follow_a_resize_and_come_back_from_it() {
    let cloud = Cloud::new(Options::default()).await;
    flavor(&cloud, "small", 1, 64).await;
    flavor(&cloud, "big", 3, 128).await;
    flavor(&cloud, "bare", 1, 0).await;
    let (_, body) = ask(&cloud, "small", &[]).await;
    let id = body["server"]["id"].as_str().unwrap();
    cloud.becomes(id, "ACTIVE").await;
    let small = [disk(1024, "/dev/vdb"), disk(64, "/dev/vdc")];
    assert_eq!(
        cloud.act(id, json!({ "resize": { "flavorRef": "1" } })).await,
        400,
        "it cannot shrink"
    );

    assert_eq!(cloud.act(id, json!({ "resize": { "flavorRef": "big" } })).await, 202);
    cloud.becomes(id, "VERIFY_RESIZE").await;
    assert_eq!(disks(&cloud, id), [disk(3072, "/dev/vdb"), disk(128, "/dev/vdc")]);
    assert_eq!(cloud.act(id, json!({ "revertResize": null })).await, 202);
    cloud.becomes(id, "ACTIVE").await;
    assert_eq!(disks(&cloud, id), small);

    assert_eq!(cloud.act(id, json!({ "resize": { "flavorRef": "bare" } })).await, 202);
    cloud.becomes(id, "VERIFY_RESIZE").await;
    assert_eq!(disks(&cloud, id), small[..1]);
    assert_eq!(cloud.act(id, json!({ "confirmResize": null })).await, 204);
    cloud.becomes(id, "ACTIVE").await;

    let keep = json!({ "rebuild": { "imageRef": cloud.image, "preserve_ephemeral": true } });
    assert_eq!(cloud.act(id, keep).await, 400, "as with Nova's libvirt");
    assert_eq!(
        cloud.act(id, json!({ "rebuild": { "imageRef": cloud.image } })).await,
        202
    );
    cloud.becomes(id, "ACTIVE").await;
    assert_eq!(diagnosed(&cloud, id).await, ["vda", "vdb"]);
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_has_swap_and_no_further_disks() {
    let cloud = Cloud::new(Options::default()).await;
    let key = cloud.store.cache::<Image>().by_name(&cloud.image).unwrap().key();
    let changed = cloud
        .store
        .modify::<Image, madang_store::StoreError>(&key, Cause::system("test"), |image| {
            image.spec.container_format = Some(ContainerFormat::Docker);
            image.spec.disk_format = Some(madang_image::DiskFormat::Raw);
            Ok(())
        });
    changed.await.unwrap();
    flavor(&cloud, "swapping", 0, 64).await;
    flavor(&cloud, "ephemeral", 1, 0).await;
    let (status, body) = ask(&cloud, "swapping", &[]).await;
    assert_eq!(status, 202, "{body}");
    let id = body["server"]["id"].as_str().unwrap();
    cloud.becomes(id, "ACTIVE").await;
    assert_eq!(disks(&cloud, id)[0].0, 64);
    for (flavor, disks) in [("ephemeral", vec![]), ("swapping", vec![blank(Some(1), Some("swap"))])] {
        let (status, body) = ask(&cloud, flavor, &disks).await;
        assert_eq!(status, 400, "{body}");
    }
    let (_, body) = ask(&cloud, "ephemeral", &[]).await;
    let message = body["badRequest"]["message"].as_str().unwrap();
    assert!(message.contains("OS-FLV-EXT-DATA:ephemeral=1"), "{message}");
    assert_eq!(
        cloud.act(id, json!({ "resize": { "flavorRef": "ephemeral" } })).await,
        400
    );
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_platform_module_takes_a_host_that_has_them() {
    let cloud = Cloud::new(Options::default()).await;
    let admin = || cloud.caller(OTHER, &["admin", "member", "reader"]);
    flavor(&cloud, "trusted", 0, 0).await;
    let specs = json!({ "extra_specs": { "hw:tpm_version": "2.0", "hw:tpm_model": "tpm-crb" } });
    let path = "/flavors/trusted/os-extra_specs";
    let (status, body) = cloud.call_as(admin(), "2.1", "POST", path, specs).await;
    assert_eq!(status, 200, "{body}");
    let (_, body) = ask(&cloud, "trusted", &[]).await;
    cloud.becomes(body["server"]["id"].as_str().unwrap(), "ACTIVE").await;

    // As where `swtpm` is not installed.
    for host in cloud.store.cache::<Provider>().all() {
        let key = host.key();
        let without = cloud
            .store
            .modify::<Provider, madang_store::StoreError>(&key, Cause::system("test"), |host| {
                host.spec
                    .traits
                    .retain(|name| !name.starts_with("COMPUTE_SECURITY_TPM"));
                Ok(())
            });
        without.await.unwrap();
    }
    let (_, body) = ask(&cloud, "trusted", &[]).await;
    let id = body["server"]["id"].as_str().unwrap();
    let server = cloud.becomes(id, "ERROR").await;
    let message = server["fault"]["message"].as_str().unwrap();
    assert!(
        message.starts_with("No valid host was found.") && message.contains("COMPUTE_SECURITY_TPM_2_0"),
        "{message}"
    );
    assert!(server["OS-EXT-SRV-ATTR:host"].is_null(), "no host has tried: {server}");
    cloud.stop().await;
}
