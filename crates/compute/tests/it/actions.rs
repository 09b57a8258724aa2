//! What can be done to a server beyond power, and what is told of it afterwards.

use std::time::Duration;

use madang_compute::{Action, Departed, Migration, Server, server::control::Options as Chosen};
use madang_image::{Image, ImageState};
use madang_scheduler::Claim;
use serde_json::{Value, json};

use crate::cloud::{Cloud, Options, PROJECT};

#[tokio::test(flavor = "multi_thread")]
async fn memory_can_wait_on_the_disk() {
    let cloud = Cloud::new(Options::default()).await;
    let id = cloud.create("sleeper").await;
    cloud.becomes(&id, "ACTIVE").await;
    assert_eq!(cloud.act(&id, json!({ "resume": null })).await, 409);
    assert_eq!(cloud.act(&id, json!({ "suspend": null })).await, 202);
    let server = cloud.becomes(&id, "SUSPENDED").await;
    assert_eq!(server["OS-EXT-STS:power_state"], 4);
    assert_eq!(cloud.act(&id, json!({ "suspend": null })).await, 409);
    assert_eq!(cloud.act(&id, json!({ "resume": null })).await, 202);
    cloud.becomes(&id, "ACTIVE").await;
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_rescued_and_rebuilt() {
    let cloud = Cloud::new(Options::default()).await;
    let id = cloud.create("patient").await;
    cloud.becomes(&id, "ACTIVE").await;
    let path = format!("/servers/{id}/action");
    let (status, body) = cloud.call("POST", &path, json!({ "rescue": null })).await;
    assert_eq!(status, 200, "{body}");
    assert!(body["adminPass"].is_string());
    cloud.becomes(&id, "RESCUE").await;
    assert_eq!(cloud.act(&id, json!({ "os-stop": null })).await, 409);
    assert_eq!(cloud.act(&id, json!({ "unrescue": null })).await, 202);
    cloud.becomes(&id, "ACTIVE").await;

    let rebuild = json!({ "rebuild": { "imageRef": cloud.image, "name": "healed", "metadata": { "a": "b" } } });
    let (status, body) = cloud.call("POST", &path, rebuild.clone()).await;
    assert_eq!(status, 202, "{body}");
    assert_eq!(body["server"]["name"], "healed");
    assert_eq!(body["server"]["status"], "REBUILD");
    let address = &body["server"]["addresses"]["private"][0];
    assert!(
        address.get("OS-EXT-IPS:type").is_none() && address["addr"].is_string(),
        "{body}"
    );
    let server = cloud.becomes(&id, "ACTIVE").await;
    assert_eq!(server["metadata"], json!({ "a": "b" }));

    assert_eq!(cloud.act(&id, json!({ "os-stop": null })).await, 202);
    cloud.becomes(&id, "SHUTOFF").await;
    assert_eq!(cloud.act(&id, rebuild).await, 202);
    cloud.becomes(&id, "SHUTOFF").await;
    let missing = json!({ "rebuild": { "imageRef": uuid::Uuid::new_v4() } });
    assert_eq!(cloud.act(&id, missing).await, 400);
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resize_waits_for_a_word_and_keeps_the_old_place_until_then() {
    let cloud = Cloud::new(Options::default()).await;
    let id = cloud.create("grower").await;
    cloud.becomes(&id, "ACTIVE").await;
    let claims = || cloud.store.cache::<Claim>().len();
    let memory = || cloud.store.cache::<Server>().by_name(&id).unwrap().spec.flavor.ram_mb;
    let (small, used) = (memory(), cloud.store.counters(PROJECT, "compute")["ram"]);
    let resize = json!({ "resize": { "flavorRef": "2" } });
    assert_eq!(cloud.act(&id, json!({ "resize": { "flavorRef": "1" } })).await, 400);
    assert_eq!(cloud.act(&id, resize.clone()).await, 202);
    cloud.becomes(&id, "VERIFY_RESIZE").await;
    assert_eq!(claims(), 2);
    assert!(memory() > small);
    assert_eq!(cloud.act(&id, json!({ "os-stop": null })).await, 409);
    assert_eq!(cloud.act(&id, json!({ "revertResize": null })).await, 202);
    cloud.becomes(&id, "ACTIVE").await;
    assert_eq!((claims(), memory()), (1, small));
    assert_eq!(cloud.store.counters(PROJECT, "compute")["ram"], used);

    assert_eq!(cloud.act(&id, resize).await, 202);
    cloud.becomes(&id, "VERIFY_RESIZE").await;
    assert_eq!(cloud.act(&id, json!({ "confirmResize": null })).await, 204);
    cloud.becomes(&id, "ACTIVE").await;
    assert_eq!(claims(), 1);
    assert!(memory() > small);
    let mut states: Vec<_> = cloud.store.cache::<Migration>().all();
    states.sort_by_key(|migration| migration.metadata.created);
    let states: Vec<_> = states.iter().map(|one| one.status.state.clone()).collect();
    assert_eq!(states, ["reverted", "confirmed"]);

    assert_eq!(
        cloud.call("DELETE", &format!("/servers/{id}"), Value::Null).await.0,
        204
    );
    cloud
        .eventually("end", || cloud.store.cache::<Server>().is_empty().then_some(()))
        .await;
    cloud
        .eventually("end of claims", || (claims() == 0).then_some(()))
        .await;
    assert!(cloud.store.counters(PROJECT, "compute").is_empty());
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_goes_to_another_host_and_stays_off_when_it_was() {
    let cloud = Cloud::new(Options::default()).await;
    let id = cloud.create("wanderer").await;
    cloud.becomes(&id, "ACTIVE").await;
    assert_eq!(cloud.act(&id, json!({ "os-stop": null })).await, 202);
    cloud.becomes(&id, "SHUTOFF").await;
    let host = || {
        cloud
            .store
            .cache::<Server>()
            .by_name(&id)
            .unwrap()
            .status
            .host
            .clone()
            .unwrap()
    };
    let before = host();
    assert_eq!(cloud.act(&id, json!({ "migrate": null })).await, 403);
    let (status, body) = cloud.act_as_admin(&id, "2.1", json!({ "migrate": null })).await;
    assert_eq!(status, 202, "{body}");
    cloud.becomes(&id, "VERIFY_RESIZE").await;
    assert_ne!(host(), before);
    assert_eq!(cloud.act(&id, json!({ "confirmResize": null })).await, 204);
    let server = cloud.becomes(&id, "SHUTOFF").await;
    assert_eq!(server["OS-EXT-STS:vm_state"], "stopped");
    let other = json!({ "migrate": { "host": before } });
    assert_eq!(cloud.act_as_admin(&id, "2.56", other).await.0, 202);
    cloud.becomes(&id, "VERIFY_RESIZE").await;
    assert_eq!(host(), before);
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_goes_to_another_host_as_it_runs() {
    let cloud = Cloud::new(Options::default()).await;
    let id = cloud.create("nomad").await;
    cloud.becomes(&id, "ACTIVE").await;
    let host = || {
        let server = cloud.store.cache::<Server>().by_name(&id).unwrap();
        server.status.host.clone().unwrap()
    };
    let before = host();
    let live = |host: Value| json!({ "os-migrateLive": { "host": host, "block_migration": "auto" } });
    assert_eq!(cloud.act_as_admin(&id, "2.25", live(json!("nowhere"))).await.0, 400);
    assert_eq!(
        cloud.act_as_admin(&id, "2.25", live(json!(before))).await.0,
        400,
        "where it is"
    );
    let (status, body) = cloud.act_as_admin(&id, "2.25", live(Value::Null)).await;
    assert_eq!(status, 202, "{body}");
    let server = cloud.becomes(&id, "ACTIVE").await;
    assert_ne!(host(), before);
    assert_eq!(cloud.store.cache::<Claim>().len(), 1, "its old place is free");
    let uid = cloud.store.cache::<Server>().by_name(&id).unwrap().metadata.uid;
    assert_eq!(cloud.world.asked(uid), [format!("to go on at {}", host())]);
    assert!(server["addresses"]["private"][0]["addr"].is_string());
    let migration = cloud.store.cache::<Migration>().all().pop().unwrap();
    assert_eq!(migration.status.state, "completed");

    assert_eq!(cloud.act(&id, json!({ "pause": null })).await, 202);
    cloud.becomes(&id, "PAUSED").await;
    assert_eq!(cloud.act_as_admin(&id, "2.30", live(json!(before))).await.0, 202);
    cloud.becomes(&id, "PAUSED").await;
    assert_eq!(host(), before);
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_without_a_place_leaves_everything_as_it_was() {
    let cloud = Cloud::new(Options {
        hosts: 1,
        ..Options::default()
    })
    .await;
    let id = cloud.create("stuck").await;
    cloud.becomes(&id, "ACTIVE").await;
    assert_eq!(cloud.act_as_admin(&id, "2.1", json!({ "migrate": null })).await.0, 202);
    cloud
        .eventually("error", || {
            let all = cloud.store.cache::<Migration>().all();
            all.iter().any(|one| one.status.state == "error").then_some(())
        })
        .await;
    cloud.becomes(&id, "ACTIVE").await;
    assert_eq!(cloud.store.cache::<Claim>().len(), 1);
    let actions = cloud.store.cache::<Action>().by("server", &id);
    let migrate = actions.iter().find(|action| action.spec.action == "migrate").unwrap();
    assert_eq!(migrate.status.message.as_deref(), Some("Error"));
    assert_eq!(migrate.status.events[0].result(), Some("Error"));
    assert!(
        migrate.status.events[0]
            .details
            .as_deref()
            .unwrap()
            .starts_with("No valid host")
    );
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_made_and_old_backups_go() {
    let cloud = Cloud::new(Options::default()).await;
    let id = cloud.create("model").await;
    cloud.becomes(&id, "ACTIVE").await;
    let path = format!("/servers/{id}/action");
    let member = || cloud.caller(PROJECT, &["member", "reader"]);
    let images = || {
        let mut all = cloud.store.cache::<Image>().in_project(PROJECT);
        all.sort_by_key(|image| image.metadata.created);
        all
    };
    let wanted = json!({ "createImage": { "name": "shot", "metadata": { "k": "v" } } });
    let (status, body) = cloud.call_as(member(), "2.45", "POST", &path, wanted).await;
    assert_eq!(status, 202, "{body}");
    cloud.becomes(&id, "ACTIVE").await;
    let image = images().remove(0);
    assert_eq!(body["image_id"], image.name());
    assert_eq!(image.status.state, ImageState::Active);
    for (name, value) in [
        ("image_type", "snapshot"),
        ("instance_uuid", &*id),
        ("k", "v"),
        ("base_image_ref", &*cloud.image),
    ] {
        assert_eq!(image.spec.properties[name], value);
    }

    for name in ["one", "two", "three"] {
        let backup = json!({ "createBackup": { "name": name, "backup_type": "daily", "rotation": 2 } });
        assert_eq!(cloud.act(&id, backup).await, 202);
        cloud.becomes(&id, "ACTIVE").await;
    }
    let names: Vec<_> = images().iter().map(|image| image.spec.name.clone().unwrap()).collect();
    assert_eq!(names, ["shot", "two", "three"]);
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shelf_keeps_a_server_without_a_host() {
    let cloud = Cloud::new(Options::default()).await;
    let id = cloud.create("winter").await;
    cloud.becomes(&id, "ACTIVE").await;
    assert_eq!(cloud.act(&id, json!({ "unshelve": null })).await, 409);
    assert_eq!(cloud.act(&id, json!({ "shelve": null })).await, 202);
    cloud.becomes(&id, "SHELVED_OFFLOADED").await;
    let server = cloud.store.cache::<Server>().by_name(&id).unwrap();
    assert_eq!(server.status.host, None);
    assert!(cloud.store.cache::<Claim>().is_empty());
    let image = cloud.store.cache::<Image>().in_project(PROJECT).remove(0);
    assert_eq!(image.spec.name.as_deref(), Some("winter-shelved"));
    assert_eq!(cloud.act(&id, json!({ "os-start": null })).await, 409);
    assert_eq!(cloud.act(&id, json!({ "unshelve": null })).await, 202);
    cloud.becomes(&id, "ACTIVE").await;
    cloud
        .eventually("end of the image", || {
            cloud
                .store
                .cache::<Image>()
                .in_project(PROJECT)
                .is_empty()
                .then_some(())
        })
        .await;
    assert_eq!(cloud.store.cache::<Claim>().len(), 1);

    assert_eq!(cloud.act(&id, json!({ "shelve": null })).await, 202);
    cloud.becomes(&id, "SHELVED_OFFLOADED").await;
    assert_eq!(
        cloud.call("DELETE", &format!("/servers/{id}"), Value::Null).await.0,
        204
    );
    assert!(cloud.store.cache::<Server>().is_empty());
    assert!(cloud.store.cache::<Image>().in_project(PROJECT).is_empty());
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shelved_server_may_stay_on_its_host_for_a_while() {
    let cloud = Cloud::new(Options {
        chosen: Chosen {
            shelved_offload_time: None,
            ..Chosen::default()
        },
        ..Options::default()
    })
    .await;
    let id = cloud.create("autumn").await;
    cloud.becomes(&id, "ACTIVE").await;
    assert_eq!(cloud.act(&id, json!({ "shelve": null })).await, 202);
    cloud.becomes(&id, "SHELVED").await;
    assert_eq!(cloud.act(&id, json!({ "unshelve": null })).await, 202);
    cloud.becomes(&id, "ACTIVE").await;
    assert_eq!(cloud.act(&id, json!({ "shelve": null })).await, 202);
    cloud.becomes(&id, "SHELVED").await;
    assert_eq!(cloud.act(&id, json!({ "shelveOffload": null })).await, 403);
    assert_eq!(
        cloud.act_as_admin(&id, "2.1", json!({ "shelveOffload": null })).await.0,
        202
    );
    cloud.becomes(&id, "SHELVED_OFFLOADED").await;
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_done_is_recorded_and_outlives_the_server() {
    let cloud = Cloud::new(Options::default()).await;
    let id = cloud.create("famous").await;
    cloud.becomes(&id, "ACTIVE").await;
    for (action, status) in [("os-stop", "SHUTOFF"), ("os-start", "ACTIVE")] {
        assert_eq!(cloud.act(&id, json!({ action: null })).await, 202);
        cloud.becomes(&id, status).await;
    }
    assert_eq!(cloud.act(&id, json!({ "lock": null })).await, 202);
    assert_eq!(cloud.act(&id, json!({ "unlock": null })).await, 202);
    let (status, _) = cloud.call("DELETE", &format!("/servers/{id}"), Value::Null).await;
    assert_eq!(status, 204);
    cloud
        .eventually("end", || cloud.store.cache::<Server>().is_empty().then_some(()))
        .await;
    let departed = cloud.store.cache::<Departed>().by_name(&id).unwrap();
    assert_eq!(departed.spec.spec.name, "famous");
    let mut actions = cloud.store.cache::<Action>().by("server", &id);
    actions.sort_by_key(|action| action.spec.started);
    let names: Vec<_> = actions.iter().map(|action| action.spec.action.as_str()).collect();
    assert_eq!(names, ["create", "stop", "start", "lock", "unlock", "delete"]);
    assert!(
        actions
            .iter()
            .all(|action| action.status.events[0].result() == Some("Success"))
    );
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_server_can_be_wanted_back_while_that_lasts() {
    let cloud = Cloud::new(Options {
        chosen: Chosen {
            reclaim_instance_interval: Duration::from_secs(3600),
            ..Chosen::default()
        },
        ..Options::default()
    })
    .await;
    let id = cloud.create("regret").await;
    cloud.becomes(&id, "ACTIVE").await;
    let path = format!("/servers/{id}");
    assert_eq!(cloud.call("DELETE", &path, Value::Null).await.0, 204);
    cloud.becomes(&id, "SOFT_DELETED").await;
    assert_eq!(cloud.act(&id, json!({ "restore": null })).await, 202);
    cloud.becomes(&id, "ACTIVE").await;
    assert_eq!(cloud.act(&id, json!({ "forceDelete": null })).await, 202);
    cloud
        .eventually("end", || cloud.store.cache::<Server>().is_empty().then_some(()))
        .await;
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_is_asked_at_once() {
    let cloud = Cloud::new(Options::default()).await;
    let id = cloud.create("asked").await;
    cloud.becomes(&id, "ACTIVE").await;
    let change = json!({ "changePassword": { "adminPass": "secret" } });
    assert_eq!(cloud.act(&id, change.clone()).await, 202);
    assert_eq!(
        cloud
            .act_as_admin(&id, "2.17", json!({ "trigger_crash_dump": null }))
            .await
            .0,
        202
    );
    assert_eq!(
        cloud.world.asked(id.parse().unwrap()),
        ["password of root", "crash dump"]
    );
    assert_eq!(
        cloud.act(&id, json!({ "trigger_crash_dump": null })).await,
        400,
        "came with 2.17"
    );
    assert_eq!(cloud.act(&id, json!({ "os-stop": null })).await, 202);
    cloud.becomes(&id, "SHUTOFF").await;
    assert_eq!(cloud.act(&id, change).await, 409);
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn actions_are_told_by_microversion_and_after_the_end() {
    let cloud = Cloud::new(Options::default()).await;
    let id = cloud.create("told").await;
    cloud.becomes(&id, "ACTIVE").await;
    let member = || cloud.caller(PROJECT, &["member", "reader"]);
    let path = format!("/servers/{id}/os-instance-actions");
    let get = async |version: &str, path: &str| cloud.call_as(member(), version, "GET", path, Value::Null).await;
    let (status, list) = get("2.1", &path).await;
    assert_eq!(status, 200, "{list}");
    let action = &list["instanceActions"][0];
    assert_eq!(
        (&action["action"], &action["message"]),
        (&json!("create"), &Value::Null)
    );
    assert!(action.get("updated_at").is_none());
    let one = format!("{path}/{}", action["request_id"].as_str().unwrap());
    let (_, brief) = get("2.1", &one).await;
    assert!(brief["instanceAction"].get("events").is_none(), "{brief}");
    let (_, full) = get("2.84", &one).await;
    let event = &full["instanceAction"]["events"][0];
    assert_eq!(
        (&event["result"], event.get("host")),
        (&json!("Success"), None),
        "{full}"
    );
    assert!(event["hostId"].as_str().unwrap().len() == 56 && event.get("details").is_none());
    let (status, _) = get(
        "2.66",
        &format!("{path}?changes-since=2030-01-01&changes-before=2020-01-01"),
    )
    .await;
    assert_eq!(status, 400);

    assert_eq!(
        cloud.call("DELETE", &format!("/servers/{id}"), Value::Null).await.0,
        204
    );
    cloud
        .eventually("end", || cloud.store.cache::<Server>().is_empty().then_some(()))
        .await;
    assert_eq!(get("2.1", &path).await.0, 404);
    let (status, list) = get("2.58", &path).await;
    assert_eq!((status, &list["instanceActions"][0]["action"]), (200, &json!("delete")));
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_tell_of_servers_is_answered_one_by_one() {
    let cloud = Cloud::new(Options::default()).await;
    let id = cloud.create("heard").await;
    cloud.becomes(&id, "ACTIVE").await;
    let events = json!({ "events": [
        { "name": "network-changed", "server_uuid": id },
        { "name": "network-changed", "server_uuid": uuid::Uuid::new_v4() },
        { "name": "volume-extended", "server_uuid": id },
    ] });
    let admin = || cloud.caller(crate::cloud::OTHER, &["admin", "member", "reader"]);
    let (status, body) = cloud
        .call_as(admin(), "2.51", "POST", "/os-server-external-events", events)
        .await;
    assert_eq!(status, 207, "{body}");
    let codes: Vec<_> = body["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["code"].as_u64())
        .collect();
    assert_eq!(codes, [Some(200), Some(404), Some(400)]);
    let off = json!({ "events": [{ "name": "power-update", "server_uuid": id, "tag": "POWER_OFF" }] });
    let (status, body) = cloud
        .call_as(admin(), "2.51", "POST", "/os-server-external-events", off.clone())
        .await;
    assert_eq!(status, 400, "{body}");
    let (status, body) = cloud
        .call_as(admin(), "2.76", "POST", "/os-server-external-events", off)
        .await;
    assert_eq!(status, 200, "{body}");
    cloud.becomes(&id, "SHUTOFF").await;
    cloud.stop().await;
}
