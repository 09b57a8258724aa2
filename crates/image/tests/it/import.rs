//! Importing: what was staged, what a server has, what another image has; and what comes of failures and stops.

use std::time::Duration;

use axum::{Router, body::Body, routing::get};
use http::StatusCode;
use madang_control::TaskGroup;
use madang_identity::catalog::{Endpoint, EndpointSpec, Service, ServiceSpec};
use madang_store::{Cause, Metadata, Resource};
use serde_json::{Value, json};

use super::cloud::{Answer, Cloud};

fn raw() -> Value {
    json!({"name": "r", "disk_format": "raw", "container_format": "bare"})
}

impl Cloud {
    async fn stage(&self, id: &str, bytes: Vec<u8>) -> Answer {
        let headers = [("content-type", "application/octet-stream")];
        let path = format!("/v2/images/{id}/stage");
        self.send("alice", "PUT", &path, &headers, Body::from(bytes)).await
    }

    async fn import(&self, id: &str, method: Value) -> Answer {
        let path = format!("/v2/images/{id}/import");
        self.call("alice", "POST", &path, json!({ "method": method })).await
    }

    async fn shown(&self, id: &str) -> Value {
        self.get("alice", &format!("/v2/images/{id}")).await.json()
    }

    /// The last task of an image, once it has ended.
    async fn task(&self, id: &str) -> Value {
        for _ in 0..1000 {
            let tasks = self.get("alice", &format!("/v2/images/{id}/tasks")).await.json();
            let last = tasks["tasks"].as_array().unwrap().last().unwrap().clone();
            if last["status"] != "processing" {
                return last;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the import of {id} does not end within 10 s");
    }

    async fn in_catalog(&self, region: &str) {
        let service = Resource::<Service>::new(
            Metadata::with_id(""),
            ServiceSpec {
                service_type: "image".to_owned(),
                enabled: true,
                ..ServiceSpec::default()
            },
        );
        let endpoint = Resource::<Endpoint>::new(
            Metadata::with_id(""),
            EndpointSpec {
                service_id: service.name().to_owned(),
                interface: "public".to_owned(),
                region_id: Some(region.to_owned()),
                enabled: true,
                ..EndpointSpec::default()
            },
        );
        let mut tx = self.store.begin(Cause::system("test"));
        tx.create(service).unwrap();
        tx.create(endpoint).unwrap();
        tx.commit().await.unwrap();
    }
}

#[tokio::test]
async fn staged_bytes_become_the_image() {
    let cloud = Cloud::new().await;
    let id = cloud.create("alice", raw()).await;
    let direct = json!({ "name": "glance-direct" });
    assert_eq!(cloud.import(&id, direct.clone()).await.status, StatusCode::CONFLICT);
    let bytes = vec![7; 300_000];
    assert_eq!(cloud.stage(&id, bytes.clone()).await.status, StatusCode::NO_CONTENT);
    let shown = cloud.shown(&id).await;
    assert_eq!((&shown["status"], &shown["size"]), (&json!("uploading"), &Value::Null));
    assert_eq!(cloud.stage(&id, bytes.clone()).await.status, StatusCode::CONFLICT);

    // What is staged stays over a restart.
    let cloud = cloud.reopened().await;
    assert_eq!(cloud.shown(&id).await["status"], "uploading");
    assert_eq!(cloud.import(&id, direct.clone()).await.status, StatusCode::ACCEPTED);
    let task = cloud.task(&id).await;
    assert_eq!(
        (&task["status"], &task["request_id"]),
        (&json!("success"), &json!("req-test"))
    );
    assert_eq!(task["input"]["import_req"]["method"]["name"], "glance-direct");
    let shown = cloud.shown(&id).await;
    assert_eq!(
        (&shown["status"], &shown["stores"]),
        (&json!("active"), &json!("local"))
    );
    let file = cloud.get("alice", &format!("/v2/images/{id}/file")).await;
    assert!(file.bytes == bytes);
    assert_eq!(cloud.import(&id, direct).await.status, StatusCode::CONFLICT);
    assert_eq!(
        cloud.import(&id, json!({ "name": "carrier-pigeon" })).await.status,
        StatusCode::BAD_REQUEST
    );
}

#[tokio::test]
async fn staged_bytes_that_lie_are_refused_and_go_with_the_image() {
    let cloud = Cloud::new().await;
    let id = cloud.create("alice", raw()).await;
    let mut bytes = b"QFI\xfb".to_vec();
    bytes.resize(4096, 0);
    assert_eq!(cloud.stage(&id, bytes).await.status, StatusCode::NO_CONTENT);
    let direct = json!({ "name": "glance-direct" });
    assert_eq!(cloud.import(&id, direct).await.status, StatusCode::ACCEPTED);
    let task = cloud.task(&id).await;
    assert_eq!(task["status"], "failure");
    assert!(task["message"].as_str().unwrap().contains("disk_format"), "{task}");
    let shown = cloud.shown(&id).await;
    assert_eq!(
        (&shown["status"], &shown["os_glance_failed_import"]),
        (&json!("uploading"), &json!("local"))
    );
    let path = format!("/v2/images/{id}");
    let gone = cloud.send("alice", "DELETE", &path, &[], Body::empty()).await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT);
    assert_eq!(std::fs::read_dir(cloud.directory().join("blobs")).unwrap().count(), 0);
}

#[tokio::test]
async fn another_image_gives_its_bytes_and_words() {
    let cloud = Cloud::new().await;
    cloud.in_catalog("here").await;
    let source = cloud
        .create(
            "alice",
            json!({ "disk_format": "raw", "container_format": "bare", "hw_x": "1", "os_distro": "d", "speed": "88" }),
        )
        .await;
    cloud.put_file("alice", &source, vec![9; 5000]).await;
    let id = cloud
        .create(
            "alice",
            json!({ "disk_format": "iso", "container_format": "ovf", "hw_x": "2" }),
        )
        .await;
    let method = |region: &str, image: &str| json!({ "name": "glance-download", "glance_region": region, "glance_image_id": image });
    assert_eq!(
        cloud.import(&id, method("here", "x")).await.status,
        StatusCode::BAD_REQUEST
    );
    for (region, image) in [
        ("elsewhere", source.as_str()),
        ("here", &uuid::Uuid::new_v4().to_string()),
    ] {
        assert_eq!(
            cloud.import(&id, method(region, image)).await.status,
            StatusCode::ACCEPTED
        );
        assert_eq!(cloud.task(&id).await["status"], "failure", "{region} {image}");
        assert_eq!(cloud.shown(&id).await["status"], "queued");
    }
    assert_eq!(
        cloud.import(&id, method("here", &source)).await.status,
        StatusCode::ACCEPTED
    );
    let task = cloud.task(&id).await;
    assert_eq!(task["status"], "success", "{task}");
    let shown = cloud.shown(&id).await;
    assert_eq!(
        (
            &shown["disk_format"],
            &shown["hw_x"],
            &shown["os_distro"],
            &shown["speed"]
        ),
        (&json!("raw"), &json!("1"), &json!("d"), &Value::Null)
    );
    // Kept once, and until the last one goes.
    assert_eq!(std::fs::read_dir(cloud.directory().join("blobs")).unwrap().count(), 1);
    let path = format!("/v2/images/{source}");
    cloud.send("alice", "DELETE", &path, &[], Body::empty()).await;
    let file = cloud.get("alice", &format!("/v2/images/{id}/file")).await;
    assert_eq!(file.bytes, vec![9; 5000]);
}

#[tokio::test]
async fn a_server_gives_its_bytes_unless_only_the_host_reaches_it() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let app = Router::new()
        .route("/disk", get(async || vec![5_u8; 70_000]))
        .route("/moved", get(async || axum::response::Redirect::temporary("/disk")));
    let group = TaskGroup::new("a server elsewhere");
    group.spawn_until_stopped("serve", async move {
        axum::serve(listener, app).await.unwrap();
    });

    let cloud = Cloud::new().await;
    let id = cloud.create("alice", raw()).await;
    let web = |uri: String| json!({ "name": "web-download", "uri": uri });
    for uri in [
        format!("http://127.0.0.1:{port}/disk"),
        "http://169.254.169.254/latest/meta-data".to_owned(),
        "http://[::1]/".to_owned(),
        "http://localhost/".to_owned(),
        "http://user@example.org/".to_owned(),
        "http://example.org:22/".to_owned(),
        "file:///etc/shadow".to_owned(),
        "nonsense".to_owned(),
    ] {
        let answer = cloud.import(&id, web(uri.clone())).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{uri}: {}", answer.text());
    }
    cloud.library.trust(["127.0.0.1".to_owned()]);
    for path in ["moved", "nothing"] {
        let answer = cloud.import(&id, web(format!("http://127.0.0.1:{port}/{path}"))).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED);
        assert_eq!(cloud.task(&id).await["status"], "failure", "{path}");
        assert_eq!(cloud.shown(&id).await["status"], "queued");
    }
    let uri = format!("http://127.0.0.1:{port}/disk");
    assert_eq!(cloud.import(&id, web(uri.clone())).await.status, StatusCode::ACCEPTED);
    let task = cloud.task(&id).await;
    assert_eq!(task["status"], "success", "{task}");
    let shown = cloud.shown(&id).await;
    assert_eq!((&shown["status"], &shown["size"]), (&json!("active"), &json!(70_000)));
    assert_eq!(
        (
            &shown["os_glance_failed_import"],
            &shown["os_glance_importing_to_stores"]
        ),
        (&json!(""), &json!(""))
    );

    // As a task of its own, which is for administrators.
    let input = json!({
        "import_from": uri, "import_from_format": "raw",
        "image_properties": { "name": "t", "disk_format": "raw", "container_format": "bare" },
    });
    let body = json!({ "type": "import", "input": input });
    assert_eq!(
        cloud.call("alice", "POST", "/v2/tasks", body.clone()).await.status,
        StatusCode::FORBIDDEN
    );
    let made = cloud.call("admin", "POST", "/v2/tasks", body).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text());
    let path = format!("/v2/tasks/{}", made.json()["id"].as_str().unwrap());
    let mut task = Value::Null;
    for _ in 0..1000 {
        task = cloud.get("admin", &path).await.json();
        if task["status"] != "processing" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(task["status"], "success", "{task}");
    let image = task["result"]["image_id"].as_str().unwrap();
    let shown = cloud.get("admin", &format!("/v2/images/{image}")).await.json();
    assert_eq!(shown["status"], "active");
}
