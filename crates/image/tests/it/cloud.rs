//! A library over a store of its own, and callers without identity.

use std::{path::PathBuf, sync::Arc};

use axum::{Router, body::Body, extract::Request, middleware, response::Response};
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt as _;
use madang_control::TaskGroup;
use madang_http::Metrics;
use madang_identity::{Caller, DomainMember, Policy, RoleRef, Scope, Subject};
use madang_image::{Library, api};
use madang_store::{Sqlite, SqliteOptions, Store, StoreBuilder};
use serde_json::Value;
use tempfile::TempDir;
use tower::ServiceExt as _;

pub struct Cloud {
    pub store: Store,
    pub library: Arc<Library>,
    policy: Arc<Policy>,
    router: Router,
    directory: TempDir,
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub bytes: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        let text = String::from_utf8_lossy(&self.bytes);
        serde_json::from_slice(&self.bytes).unwrap_or_else(|e| panic!("{e}: {} {text}", self.status))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

impl Cloud {
    pub async fn new() -> Self {
        Self::over(tempfile::tempdir().unwrap()).await
    }

    /// As after a restart, or a crash: everything in memory is new.
    pub async fn reopened(self) -> Self {
        let Self { store, directory, .. } = self;
        store.close().await;
        Self::over(directory).await
    }

    async fn over(directory: TempDir) -> Self {
        let mut builder = StoreBuilder::new();
        madang_image::register(&mut builder);
        let backend = Sqlite::open(SqliteOptions::new(directory.path().join("store.db")))
            .await
            .unwrap();
        let store = builder.open(Arc::new(backend)).await.unwrap();
        let group = TaskGroup::new("test");
        let library = Library::open(store.clone(), &directory.path().join("images"), &group)
            .await
            .unwrap();
        let mut policy = Policy::new();
        policy.register(api::POLICY);
        // Who asks is put there by `send`.
        let router = api::router(Arc::clone(&library), &Metrics::new(), |router| {
            router.layer(middleware::from_fn(|request: Request, next: middleware::Next| {
                next.run(request)
            }))
        });
        let router = Router::new().nest_service("/image", router);
        Self {
            store,
            library,
            policy: Arc::new(policy),
            router,
            directory,
        }
    }

    pub fn directory(&self) -> PathBuf {
        self.directory.path().join("images")
    }

    /// `admin` is an administrator; every other name a member of the project of that name.
    pub fn caller(&self, who: &str) -> Caller {
        let member = |id: &str| DomainMember {
            id: id.to_owned(),
            name: id.to_owned(),
            ..DomainMember::default()
        };
        let mut subject = (*Subject::system("test")).clone();
        subject.user = member(who);
        subject.scope = Scope::Project(member(who));
        let roles: &[&str] = match who {
            "admin" => &["admin", "member", "reader"],
            "reader" => &["reader"],
            _ => &["member", "reader"],
        };
        subject.roles = roles
            .iter()
            .map(|name| RoleRef {
                id: (*name).into(),
                name: (*name).into(),
            })
            .collect();
        Caller::new(Arc::new(subject), Arc::clone(&self.policy), "req-test")
    }

    pub async fn send(&self, who: &str, method: &str, path: &str, headers: &[(&str, &str)], body: Body) -> Answer {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("/image{path}"))
            .header("host", "cloud");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(body).unwrap();
        request.extensions_mut().insert(self.caller(who));
        let response: Response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes().to_vec();
        Answer {
            status: parts.status,
            headers: parts.headers,
            bytes,
        }
    }

    pub async fn get(&self, who: &str, path: &str) -> Answer {
        self.send(who, "GET", path, &[], Body::empty()).await
    }

    pub async fn call(&self, who: &str, method: &str, path: &str, body: Value) -> Answer {
        let headers = [("content-type", "application/json")];
        self.send(who, method, path, &headers, Body::from(body.to_string()))
            .await
    }

    pub async fn patch(&self, who: &str, id: &str, body: Value) -> Answer {
        let headers = [("content-type", "application/openstack-images-v2.1-json-patch")];
        self.send(
            who,
            "PATCH",
            &format!("/v2/images/{id}"),
            &headers,
            Body::from(body.to_string()),
        )
        .await
    }

    /// Creates an image and gives its id.
    pub async fn create(&self, who: &str, body: Value) -> String {
        let answer = self.call(who, "POST", "/v2/images", body).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text());
        answer.json()["id"].as_str().unwrap().to_owned()
    }

    pub async fn put_file(&self, who: &str, id: &str, body: impl Into<Body>) -> Answer {
        let headers = [("content-type", "application/octet-stream")];
        self.send(who, "PUT", &format!("/v2/images/{id}/file"), &headers, body.into())
            .await
    }

    pub async fn names(&self, who: &str, query: &str) -> Vec<String> {
        let answer = self.get(who, &format!("/v2/images{query}")).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        let images = answer.json()["images"].as_array().unwrap().clone();
        images
            .iter()
            .map(|image| image["name"].as_str().unwrap_or("-").to_owned())
            .collect()
    }
}
