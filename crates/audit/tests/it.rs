//! From a recorded event to the answer that a caller gets.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::Request,
    middleware::{self, Next},
};
use http_body_util::BodyExt;
use jiff::{SignedDuration, Timestamp};
use madang_audit::{
    Book, Filter, Keep, Recorder,
    api::{AuditApi, POLICY, router},
};
use madang_control::TaskGroup;
use madang_http::{Actor, Event, Metrics, Outcome, Recorder as _};
use madang_identity::{Caller, DomainMember, Policy, RoleRef, Scope, Subject};
use serde_json::Value;
use tower::ServiceExt;

const KEEP: Keep = Keep {
    age: SignedDuration::from_hours(24),
    bytes: 1 << 30,
};

fn event(project: &str, action: &str) -> Event {
    let actor = Actor {
        user_id: "alice".into(),
        project_id: Some(project.into()),
        ..Actor::default()
    };
    Event {
        time: Timestamp::now(),
        request_id: "req-1".into(),
        global_request_id: None,
        source: None,
        actor: Some(Arc::new(actor)),
        claimed: None,
        service: "compute".into(),
        action: action.into(),
        resource: "servers".into(),
        resource_id: None,
        method: "POST".into(),
        path: "/".into(),
        route: "/".into(),
        status: 202,
        outcome: Outcome::Success,
        duration_us: 1,
    }
}

/// A caller with one role in a project, as authentication would give it.
async fn as_who(mut request: Request, next: Next) -> axum::response::Response {
    identify(&mut request);
    next.run(request).await
}

fn identify(request: &mut Request) {
    let header = |name: &str| {
        request
            .headers()
            .get(name)
            .map(|value| value.to_str().unwrap().to_owned())
    };
    if let (Some(role), Some(project)) = (header("role"), header("project")) {
        let mut subject = (*Subject::system("test")).clone();
        subject.roles = vec![RoleRef {
            id: role.clone(),
            name: role,
        }];
        subject.scope = Scope::Project(DomainMember {
            id: project,
            ..DomainMember::default()
        });
        let mut policy = Policy::new();
        policy.register(POLICY);
        request
            .extensions_mut()
            .insert(Caller::new(Arc::new(subject), Arc::new(policy), "req-2"));
    }
}

struct Lab {
    recorder: Arc<Recorder>,
    app: Router,
    group: TaskGroup,
    _scratch: tempfile::TempDir,
}

async fn lab() -> Lab {
    let scratch = tempfile::tempdir().unwrap();
    let group = TaskGroup::new("test");
    let metrics = Metrics::new();
    let path = scratch.path().join("audit.db");
    let recorder = Recorder::start(&path, KEEP, &metrics, &group).await.unwrap();
    let api = AuditApi::new(Arc::clone(&recorder));
    let app = router(api, &metrics, |inner| inner.layer(middleware::from_fn(as_who)));
    Lab {
        recorder,
        app,
        group,
        _scratch: scratch,
    }
}

impl Lab {
    async fn get(&self, role: &str, project: &str, query: &str) -> (u16, Value) {
        let request = Request::get(format!("/v1/events?{query}"))
            .header("role", role)
            .header("project", project);
        let answer = self
            .app
            .clone()
            .oneshot(request.body(Body::empty()).unwrap())
            .await
            .unwrap();
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap())
    }

    async fn written(&self, count: usize) {
        for _ in 0..400 {
            let book = Book::read_only(self.recorder.path()).unwrap();
            if book.find(&Filter::default(), count + 1).unwrap().len() == count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("the events are not written");
    }
}

#[tokio::test]
async fn a_project_sees_its_own_and_an_admin_sees_all() {
    let lab = lab().await;
    for n in 0..3 {
        lab.recorder
            .record(event(if n == 1 { "blue" } else { "red" }, &format!("a{n}")));
    }
    lab.written(3).await;
    let actions = |body: &Value| {
        let events = body["events"].as_array().unwrap().iter();
        events
            .map(|event| event["action"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let (status, body) = lab.get("reader", "red", "").await;
    assert_eq!((status, actions(&body)), (200, vec!["a2".to_owned(), "a0".to_owned()]));
    assert_eq!(lab.get("reader", "red", "project_id=blue").await.0, 403);
    assert_eq!(actions(&lab.get("reader", "red", "project=blue").await.1), [""; 0]);
    assert_eq!(lab.get("observer", "red", "").await.0, 403);
    assert_eq!(actions(&lab.get("admin", "green", "").await.1).len(), 3);
    assert_eq!(lab.get("reader", "red", "colour=red").await.0, 400);

    let (_, first) = lab.get("admin", "green", "limit=2&sort=asc").await;
    assert_eq!(actions(&first), ["a0", "a1"]);
    let next = first["links"]["next"].as_str().unwrap();
    let (_, second) = lab.get("admin", "green", next.split_once('?').unwrap().1).await;
    assert_eq!(
        (actions(&second), &second["links"]["next"]),
        (vec!["a2".to_owned()], &Value::Null)
    );
}

#[tokio::test]
async fn nobody_is_told_without_a_caller_and_versions_are_for_everybody() {
    let lab = lab().await;
    for (path, status) in [("/v1/events", 401), ("/", 200), ("/v1/", 200)] {
        let answer = lab
            .app
            .clone()
            .oneshot(Request::get(path).body(Body::empty()).unwrap())
            .await
            .unwrap();
        assert_eq!(answer.status().as_u16(), status, "{path}");
    }
}

#[tokio::test]
async fn strangers_cannot_fill_the_book_and_stopping_writes_what_waits() {
    let lab = lab().await;
    for _ in 0..5_000 {
        let mut stranger = event("x", "authenticate");
        stranger.actor = None;
        lab.recorder.record(stranger);
    }
    lab.recorder.record(event("red", "last"));
    let path = lab.recorder.path().to_owned();
    let Lab {
        recorder,
        app,
        group,
        _scratch,
    } = lab;
    drop((recorder, app));
    assert_eq!(group.shutdown(Duration::from_secs(10)).await, Vec::<String>::new());
    let found = Book::read_only(&path)
        .unwrap()
        .find(&Filter::default(), 10_000)
        .unwrap();
    assert_eq!(found[0].event.action, "last");
    assert!(found.len() < 1_000, "{}", found.len());
}
