//! A cloud that has nothing but identity, and a client for it.

use std::sync::Arc;

use axum::{Router, body::Body, routing::get};
use http::{HeaderMap, Method, Request, header};
use http_body_util::BodyExt;
use madang_http::{Face, Metrics, Shape};
use madang_identity::{
    Bootstrap, Bootstrapped, Caller, Identity, Options, POLICY, Policy, authenticate, bootstrap,
    catalog::rules::CatalogEntry, register, router,
};
use madang_store::{Sqlite, SqliteOptions, StoreBuilder};
use serde_json::{Value, json};
use tower::ServiceExt;

pub struct Cloud {
    pub identity: Arc<Identity>,
    pub begun: Bootstrapped,
    /// A token of the admin for the project `admin`.
    pub admin: String,
    app: Router,
    dir: tempfile::TempDir,
}

pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Cloud {
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// A cloud with other options.
    pub async fn with(change: impl FnOnce(&mut Options)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (identity, begun) = open(dir.path(), change).await;
        let mut cloud = Self {
            app: app(&identity),
            identity,
            begun,
            admin: String::new(),
            dir,
        };
        let entry = |service_type, name, url: &str| CatalogEntry {
            service_type,
            name,
            description: "",
            url: url.into(),
        };
        let entries = [
            entry("identity", "keystone", "http://cloud/identity"),
            entry("volumev3", "cinder", "http://cloud/volume/v3/$(project_id)s"),
        ];
        cloud.identity.publish("RegionOne", &entries).await.unwrap();
        let password = cloud.begun.admin_password.clone().unwrap();
        let project = cloud.begun.admin_project.clone().unwrap();
        let answer = cloud
            .login("admin", &password, json!({ "project": { "id": project } }))
            .await;
        cloud.admin = answer.token();
        cloud
    }

    /// The same cloud in a new process.
    pub async fn restarted(self) -> Self {
        self.identity.store().close().await;
        let (identity, again) = open(self.dir.path(), |_| {}).await;
        assert!(again.admin_password.is_none(), "nothing is made anew");
        Self {
            app: app(&identity),
            identity,
            ..self
        }
    }

    pub async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: Option<Value>) -> Answer {
        let mut request = Request::builder()
            .method(method)
            .uri(
                path.strip_prefix("/test")
                    .map_or_else(|| format!("/identity{path}"), |rest| format!("/identity-test{rest}")),
            )
            .header("host", "cloud");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        let response = self.app.clone().oneshot(request.body(body).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body,
        }
    }

    /// Where its state is.
    pub fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// A request with a body that is not JSON.
    pub async fn send_text(&self, method: Method, path: &str, headers: &[(&str, &str)], body: String) -> Answer {
        let uri = format!("/identity{path}");
        let mut request = Request::builder().method(method).uri(uri).header("host", "cloud");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self
            .app
            .clone()
            .oneshot(request.body(Body::from(body)).unwrap())
            .await
            .unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
        }
    }

    /// A request without a body; the answer's status and text.
    pub async fn send_raw(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> (u16, String) {
        let uri = format!("/identity{path}");
        let mut request = Request::builder().method(method).uri(uri).header("host", "cloud");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::empty()).unwrap();
        let (parts, body) = self.app.clone().oneshot(request).await.unwrap().into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        (parts.status.as_u16(), String::from_utf8(bytes.to_vec()).unwrap())
    }

    /// A request with a token.
    pub async fn ask(&self, token: &str, method: &str, path: &str, body: Option<Value>) -> Answer {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        self.send(method, path, &[("x-auth-token", token)], body).await
    }

    /// A request of the admin's.
    pub async fn admin(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        self.ask(&self.admin, method, path, body).await
    }

    /// Creates something as the admin; gives it.
    pub async fn create(&self, collection: &str, what: &str, of: Value) -> Value {
        let answer = self
            .admin("POST", &format!("/v3/{collection}"), Some(json!({ what: of })))
            .await;
        assert_eq!(answer.status, 201, "{}", answer.body);
        answer.body[what].clone()
    }

    pub async fn authenticate(&self, identity: Value, scope: Value) -> Answer {
        let mut auth = json!({ "identity": identity });
        if !scope.is_null() {
            auth["scope"] = scope;
        }
        self.send(Method::POST, "/v3/auth/tokens", &[], Some(json!({ "auth": auth })))
            .await
    }

    pub async fn login(&self, name: &str, password: &str, scope: Value) -> Answer {
        let user = json!({ "name": name, "domain": { "id": "default" }, "password": password });
        self.authenticate(json!({ "methods": ["password"], "password": { "user": user } }), scope)
            .await
    }

    /// A new user with a role in a new project; the ids of both.
    pub async fn member(&self, name: &str, role: &str) -> (String, String) {
        let project = self
            .create("projects", "project", json!({ "name": format!("of-{name}") }))
            .await;
        let user = self
            .create("users", "user", json!({ "name": name, "password": "secret" }))
            .await;
        let (project, user) = (text(&project["id"]), text(&user["id"]));
        self.grant(&format!("projects/{project}/users/{user}"), role).await;
        (user, project)
    }

    /// A role's id by its name.
    pub async fn role(&self, name: &str) -> String {
        let found = self.admin("GET", &format!("/v3/roles?name={name}"), None).await;
        text(&found.body["roles"][0]["id"])
    }

    pub async fn grant(&self, place: &str, role: &str) {
        let role = self.role(role).await;
        let answer = self.admin("PUT", &format!("/v3/{place}/roles/{role}"), None).await;
        assert_eq!(answer.status, 204, "{}", answer.body);
    }

    /// What `GET /v3/auth/tokens` says of a token: 200, or why not.
    pub async fn validate(&self, subject: &str) -> Answer {
        let headers = [("x-auth-token", self.admin.as_str()), ("x-subject-token", subject)];
        self.send(Method::GET, "/v3/auth/tokens", &headers, None).await
    }
}

impl Answer {
    pub fn token(&self) -> String {
        assert_eq!(self.status, 201, "{}", self.body);
        self.headers["x-subject-token"].to_str().unwrap().to_owned()
    }

    /// The names in a list, or the roles of a token.
    pub fn names(&self, of: &str) -> Vec<String> {
        let list = self.body[of]
            .as_array()
            .or_else(|| self.body["token"][of].as_array())
            .expect("a list");
        list.iter().map(|item| text(&item["name"])).collect()
    }
}

pub fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no text"))
        .to_owned()
}

async fn open(dir: &std::path::Path, change: impl FnOnce(&mut Options)) -> (Arc<Identity>, Bootstrapped) {
    let mut builder = StoreBuilder::new();
    register(&mut builder);
    let backend = Sqlite::open(SqliteOptions::new(dir.join("store.db"))).await.unwrap();
    let store = builder.open(Arc::new(backend)).await.unwrap();
    let mut policy = Policy::new();
    policy.register(POLICY);
    policy.register(&[
        ("test:read", "rule:project_reader_or_admin"),
        ("test:write", "rule:project_member_or_admin"),
    ]);
    let mut options = Options::new(dir.join("keys"));
    change(&mut options);
    let identity = Identity::open(store, policy, options).await.unwrap();

    let begun = bootstrap(&identity, Bootstrap::new()).await.unwrap();
    (identity, begun)
}

/// Keystone, and beside it a face as other domains have them.
fn app(identity: &Arc<Identity>) -> Router {
    let metrics = Metrics::new();
    let things = Router::new().route(
        "/things/{project}",
        get(
            async |caller: Caller, axum::extract::Path(project): axum::extract::Path<String>| {
                caller
                    .enforce_in("test:read", &project)
                    .map(|()| caller.subject.user.name.clone())
            },
        )
        .post(
            async |caller: Caller, axum::extract::Path(project): axum::extract::Path<String>| {
                caller.enforce_in("test:write", &project).map(|()| "written")
            },
        ),
    );
    let face = Face::new("test", Shape::Nova).wrap(authenticate(identity, "test", things), &metrics);
    Router::new()
        .nest_service("/identity", router(identity, &metrics))
        .nest_service("/identity-test", face)
}
