//! What the audit trail is told.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    extract::Path,
    response::Response,
    routing::{get, post},
};
use http::StatusCode;
use madang_control::TaskGroup;
use madang_http::{
    Actor, CLIENT_GONE, Event, Face, Failure, Metrics, Outcome, Recorder, RequestInfo, Server, ServerOptions, Shape,
    Trail, json,
};
use serde_json::{Value, json as value};

#[derive(Default)]
struct Notes(Mutex<Vec<Event>>);

impl Recorder for Notes {
    fn record(&self, event: Event) {
        self.0.lock().unwrap().push(event);
    }
}

async fn make(info: RequestInfo) -> Response {
    let actor = Actor {
        user_id: "u1".into(),
        ..Actor::default()
    };
    info.set_actor(Arc::new(actor));
    json(
        StatusCode::ACCEPTED,
        &value!({"server": {"id": "s1", "adminPass": "hush"}}),
    )
}

async fn act(info: RequestInfo, Path(_): Path<String>) -> Result<Response, Failure> {
    info.set_action("reboot");
    Err(Failure::conflict("not now"))
}

async fn never() -> Response {
    std::future::pending().await
}

async fn guarded() -> Result<Response, Failure> {
    Err(Failure::unauthenticated("who are you"))
}

struct Running {
    url: String,
    notes: Arc<Notes>,
    _group: TaskGroup,
}

async fn running() -> Running {
    let routes = Router::new()
        .route("/servers", get(async || "[]").post(make))
        .route("/servers/{id}/action", post(act))
        .route("/slow", post(never))
        .route("/guarded", get(guarded));
    let face = Face::new("compute", Shape::Nova).trimming_slashes();
    let faces = Router::new().nest_service(
        "/compute",
        face.wrap(Router::new().nest("/v2.1", routes), &Metrics::new()),
    );
    let notes = Arc::new(Notes::default());
    let recorder: Arc<dyn Recorder> = notes.clone();
    let router = Trail::new(recorder, &["127.0.0.0/8".parse().unwrap()]).over(faces);
    let server = Server::bind(ServerOptions::new("127.0.0.1:0".parse().unwrap(), None))
        .await
        .unwrap();
    let url = format!("{}/compute/v2.1", server.url());
    let group = TaskGroup::new("test");
    server.serve(router, &group);
    Running {
        url,
        notes,
        _group: group,
    }
}

impl Running {
    fn taken(&self) -> Vec<Event> {
        std::mem::take(&mut *self.notes.0.lock().unwrap())
    }
}

#[tokio::test]
async fn a_write_is_told_with_who_what_and_which() {
    let server = running().await;
    let client = super::client();
    let chain = "req-7d2cb6e0-2e5c-4c3a-9a54-6d6f6f0a1b2c";
    let answer = client
        .post(format!("{}/servers/?key=hush", server.url))
        .header("x-openstack-request-id", chain)
        .header("x-forwarded-for", "192.0.2.7")
        .body(r#"{"server": {"user_data": "hush"}}"#)
        .send()
        .await
        .unwrap();
    let request_id = answer.headers()["x-openstack-request-id"].to_str().unwrap().to_owned();
    let body: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
    assert_eq!(body["server"]["adminPass"], "hush", "the answer is whole");

    let [event] = server.taken().try_into().unwrap();
    assert_eq!((event.service.as_str(), event.action.as_str()), ("compute", "create"));
    assert_eq!(
        (event.resource.as_str(), event.resource_id.as_deref()),
        ("servers", Some("s1"))
    );
    assert_eq!((event.status, event.outcome), (202, Outcome::Success));
    assert_eq!(event.actor.as_ref().unwrap().user_id, "u1");
    assert_eq!(
        (event.request_id, event.global_request_id.as_deref()),
        (request_id, Some(chain))
    );
    assert_eq!(event.source, Some("192.0.2.7".parse().unwrap()));
    assert_eq!(
        (event.method.as_str(), event.route.as_str()),
        ("POST", "/compute/v2.1/servers")
    );
    assert!(event.duration_us > 0);
}

#[tokio::test]
async fn refusals_are_told_and_reads_are_not() {
    let server = running().await;
    let client = super::client();
    client.get(format!("{}/servers", server.url)).send().await.unwrap();
    client.get(format!("{}/guarded", server.url)).send().await.unwrap();
    assert_eq!(server.taken(), [], "a read, also one without any proof");

    client
        .post(format!("{}/servers/42/action", server.url))
        .send()
        .await
        .unwrap();
    client
        .get(format!("{}/guarded", server.url))
        .header("x-auth-token", "hush")
        .send()
        .await
        .unwrap();
    client.delete(format!("{}/nowhere", server.url)).send().await.unwrap();
    client.delete(format!("{}/servers", server.url)).send().await.unwrap();
    let events = server.taken();
    let told: Vec<_> = events
        .iter()
        .map(|e| (e.action.as_str(), e.resource_id.as_deref(), e.status))
        .collect();
    assert_eq!(
        told,
        [
            ("reboot", Some("42"), 409),
            ("read", None, 401),
            ("delete", None, 404),
            ("delete", None, 405)
        ]
    );
    assert!(events.iter().all(|event| event.outcome == Outcome::Failure));
    assert!(!serde_json::to_string(&events).unwrap().contains("hush"));
}

#[tokio::test]
async fn a_client_that_goes_away_does_not_go_untold() {
    let server = running().await;
    let asking = super::client().post(format!("{}/slow", server.url)).send();
    assert!(tokio::time::timeout(Duration::from_millis(300), asking).await.is_err());
    for _ in 0..200 {
        if let [event] = &server.taken()[..] {
            assert_eq!((event.status, event.resource.as_str()), (CLIENT_GONE, "slow"));
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("it was never told");
}
