//! What calls gain and lose with the microversions from 2.97 on.

use madang_block::Source;
use madang_image::Image;
use madang_scheduler::Claim;
use madang_store::{Cause, StoreError};
use serde_json::{Value, json};

use crate::cloud::{Cloud, OTHER, Options};

/// A server of one microversion's view.
async fn shown(cloud: &Cloud, version: &str, id: &str) -> Value {
    let (status, mut body) = cloud
        .call_in(version, "GET", &format!("/servers/{id}"), Value::Null)
        .await;
    assert_eq!(status, 200, "{body}");
    body["server"].take()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_server_has_shares() {
    let cloud = Cloud::new(Options::default()).await;
    let id = cloud.create("a").await;
    cloud.becomes(&id, "ACTIVE").await;
    let shares = format!("/servers/{id}/shares");
    let share = "e8debdc0-447a-4376-a10a-4cd9122d7986";
    let one = format!("{shares}/{share}");
    let body = json!({ "share": { "share_id": share } });
    assert_eq!(cloud.call_in("2.96", "GET", &shares, Value::Null).await.0, 404);
    let (status, list) = cloud.call_in("2.97", "GET", &shares, Value::Null).await;
    assert_eq!((status, list), (200, json!({ "shares": [] })));
    assert_eq!(
        cloud
            .call_in("2.97", "GET", &format!("{shares}?x=1"), Value::Null)
            .await
            .0,
        400
    );
    assert_eq!(cloud.call_in("2.97", "GET", &one, Value::Null).await.0, 404);
    let bad = json!({ "share": { "share_id": share, "tag": "no spaces" } });
    assert_eq!(cloud.call_in("2.97", "POST", &shares, bad).await.0, 400);
    let (status, answer) = cloud.call_in("2.97", "POST", &shares, body.clone()).await;
    assert_eq!(status, 409);
    let message = answer["conflictingRequest"]["message"].as_str().unwrap();
    assert!(message.contains("vm_state active"), "{message}");
    assert_eq!(cloud.call_in("2.97", "DELETE", &one, Value::Null).await.0, 409);
    cloud.act(&id, json!({ "os-stop": null })).await;
    cloud.becomes(&id, "SHUTOFF").await;
    let (status, answer) = cloud.call_in("2.97", "POST", &shares, body).await;
    let message = answer["conflictingRequest"]["message"].as_str().unwrap();
    assert!(status == 409 && message.contains(share), "{answer}");
    assert_eq!(cloud.call_in("2.97", "DELETE", &one, Value::Null).await.0, 404);
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_tells_of_its_image_and_of_what_its_maker_told_the_scheduler() {
    let cloud = Cloud::new(Options::default()).await;
    let image = cloud.store.cache::<Image>().by_name(&cloud.image).unwrap().key();
    let set = async |name: &str, value: &str| {
        let cause = Cause::system("test");
        let changed = cloud.store.modify::<Image, StoreError>(&image, cause, |image| {
            image.spec.properties.insert(name.to_owned(), value.to_owned());
            Ok(())
        });
        changed.await.unwrap();
    };
    set("os_distro", &"d".repeat(300)).await;
    set("colour", "blue").await;
    let first = cloud.create("first").await;
    cloud.becomes(&first, "ACTIVE").await;
    let mut wanted = cloud.wanted("second");
    wanted["os:scheduler_hints"] = json!({ "different_host": first, "colour": ["blue", "red"] });
    let (_, made) = cloud.call("POST", "/servers", wanted).await;
    let id = made["server"]["id"].as_str().unwrap();
    cloud.becomes(id, "ACTIVE").await;
    // What the image says later is not what the server was made from.
    set("os_type", "linux").await;

    let server = shown(&cloud, "2.97", id).await;
    assert!(server["image"].get("properties").is_none(), "{server}");
    let server = shown(&cloud, "2.98", id).await;
    assert_eq!(
        server["image"]["properties"],
        json!({ "os_distro": "d".repeat(255) }),
        "what Nova knows, as long as it keeps it"
    );
    assert!(server.get("scheduler_hints").is_none());
    let server = shown(&cloud, "2.100", id).await;
    let hints = json!({ "different_host": [first], "colour": ["blue", "red"] });
    assert_eq!(server["scheduler_hints"], hints);
    let (_, list) = cloud.call_in("2.100", "GET", "/servers/detail", Value::Null).await;
    let of_first = list["servers"]
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["id"] == first.as_str());
    assert_eq!(of_first.unwrap()["scheduler_hints"], json!({}));

    let rebuild = json!({ "rebuild": { "imageRef": cloud.image } });
    let (status, rebuilt) = cloud
        .call_in("2.100", "POST", &format!("/servers/{id}/action"), rebuild)
        .await;
    assert_eq!(
        (status, &rebuilt["server"]["image"]["properties"]["os_type"]),
        (202, &json!("linux"))
    );
    assert_eq!(rebuilt["server"]["scheduler_hints"], hints);
    cloud.becomes(id, "ACTIVE").await;
    // Off the shelf, it is placed as it was asked for once.
    cloud.act(id, json!({ "shelve": null })).await;
    cloud.becomes(id, "SHELVED_OFFLOADED").await;
    cloud.act(id, json!({ "unshelve": null })).await;
    cloud.becomes(id, "ACTIVE").await;
    let claim = cloud.store.cache::<Claim>().by_name(id).unwrap();
    let wishes = claim.spec.wishes.as_ref().unwrap();
    assert_eq!(wishes.hints["different_host"], [first]);
    assert_eq!(wishes.image_properties["os_type"], "linux");
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn consoles_volumes_and_flavors_change_their_answers() {
    let cloud = Cloud::new(Options::default()).await;
    let id = cloud.create("a").await;
    cloud.becomes(&id, "ACTIVE").await;
    let consoles = format!("/servers/{id}/remote-consoles");
    let direct = json!({ "remote_console": { "protocol": "spice", "type": "spice-direct" } });
    let refusal = async |version: &str| {
        let (status, body) = cloud.call_in(version, "POST", &consoles, direct.clone()).await;
        (
            status,
            body["badRequest"]["message"].as_str().unwrap_or_default().to_owned(),
        )
    };
    let (status, message) = refusal("2.98").await;
    assert!(status == 400 && message.contains("is not one of"), "{message}");
    assert_eq!(
        refusal("2.99").await,
        (400, "Unavailable console type spice-direct.".to_owned())
    );

    let volumes = format!("/servers/{id}/os-volume_attachments");
    for (version, status, has_body) in [("2.100", 200, true), ("2.101", 202, false)] {
        let volume = crate::volumes::volume(&cloud, Source::Blank).await;
        let body = json!({ "volumeAttachment": { "volumeId": volume } });
        let (got, answer) = cloud.call_in(version, "POST", &volumes, body).await;
        assert_eq!((got, !answer.is_null()), (status, has_body), "{answer}");
    }

    let (_, old) = cloud.call_in("2.101", "GET", "/flavors/1?x=1", Value::Null).await;
    assert_eq!(
        (
            &old["flavor"]["rxtx_factor"],
            &old["flavor"]["OS-FLV-DISABLED:disabled"]
        ),
        (&json!(1.0), &json!(false))
    );
    let (_, new) = cloud.call_in("2.102", "GET", "/flavors/1", Value::Null).await;
    let names: Vec<&String> = new["flavor"].as_object().unwrap().keys().collect();
    assert!(
        !names
            .iter()
            .any(|name| name.contains("rxtx") || name.contains("disabled")),
        "{names:?}"
    );
    let named = format!("/flavors?name={}", new["flavor"]["name"].as_str().unwrap());
    let (_, list) = cloud.call_in("2.102", "GET", &named, Value::Null).await;
    assert_eq!(
        (list["flavors"].as_array().unwrap().len(), &list["flavors"][0]["id"]),
        (1, &json!("1"))
    );
    for (version, path, status) in [
        ("2.74", named.as_str(), 200),
        ("2.75", &named, 400),
        ("2.101", "/flavors?sort_key=rxtx_factor", 200),
        ("2.102", "/flavors?sort_key=rxtx_factor", 400),
        ("2.102", "/flavors/1?x=1", 400),
        ("2.101", "/extensions?x=1", 200),
        ("2.102", "/extensions?x=1", 400),
        ("2.102", "/os-volumes_boot/detail", 200),
        ("2.103", "/os-volumes_boot/detail", 404),
    ] {
        let (got, body) = cloud.call_in(version, "GET", path, Value::Null).await;
        assert_eq!(got, status, "{version} {path}: {body}");
    }
    let admin = || cloud.caller(OTHER, &["admin", "member", "reader"]);
    let flavor = json!({ "flavor": { "name": "f", "vcpus": 1, "ram": 64, "disk": 1, "rxtx_factor": 2.0 } });
    for (version, status) in [("2.102", 400), ("2.101", 200)] {
        let (got, body) = cloud
            .call_as(admin(), version, "POST", "/flavors", flavor.clone())
            .await;
        assert_eq!(got, status, "{body}");
    }
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_held_to_its_zone_and_let_go() {
    let cloud = Cloud::new(Options::default()).await;
    let mut wanted = cloud.wanted("pinned");
    wanted["server"]["availability_zone"] = json!("nova");
    let (_, made) = cloud.call("POST", "/servers", wanted).await;
    let id = made["server"]["id"].as_str().unwrap();
    cloud.becomes(id, "ACTIVE").await;
    let pin = async |version: &str, zone: Value| {
        let body = json!({ "server": { "pinned_availability_zone": zone } });
        let (status, body) = cloud.call_in(version, "PUT", &format!("/servers/{id}"), body).await;
        (status, body["server"]["pinned_availability_zone"].clone())
    };
    assert_eq!(pin("2.103", Value::Null).await.0, 400);
    assert_eq!(pin("2.104", json!("nova")).await, (200, json!("nova")));
    assert_eq!(pin("2.104", json!("other")).await.0, 409, "not from one to the other");
    for _ in 0..2 {
        assert_eq!(pin("2.104", Value::Null).await, (200, Value::Null));
    }
    assert_eq!(pin("2.104", json!("other")).await.0, 409, "it is not there");
    assert_eq!(shown(&cloud, "2.96", id).await["pinned_availability_zone"], Value::Null);
    let zone = || cloud.store.cache::<Claim>().by_name(id).unwrap().spec.zone.clone();
    let (status, body) = cloud.act_as_admin(id, "2.56", json!({ "migrate": null })).await;
    assert_eq!(status, 202, "{body}");
    cloud.becomes(id, "VERIFY_RESIZE").await;
    assert_eq!(zone(), None, "a move asks for any zone");
    assert_eq!(cloud.act(id, json!({ "confirmResize": null })).await, 204);
    cloud.becomes(id, "ACTIVE").await;
    assert_eq!(pin("2.104", json!("nova")).await, (200, json!("nova")));
    cloud.stop().await;
}
