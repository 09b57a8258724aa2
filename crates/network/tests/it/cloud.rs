//! A store with the network's rules in a directory of its own, and callers of its API.

use std::sync::Arc;

use axum::{Extension, Router, body::Body, http::Request};
use http::Method;
use http_body_util::BodyExt;
use madang_http::Metrics;
use madang_identity::{Caller, DomainMember, Policy, RoleRef, Scope, Subject};
use madang_network::{Network, NetworkApi, NetworkSpec, POLICY, Port, PortSpec, Subnet, SubnetSpec, register, router};
use madang_scheduler::Provider;
use madang_store::{Cause, Metadata, Resource, Sqlite, SqliteOptions, Store, StoreBuilder};
use serde_json::Value;
use tower::ServiceExt;

pub struct Cloud {
    pub store: Store,
    metrics: Metrics,
    _directory: tempfile::TempDir,
}

/// The store in a directory.
pub async fn open(directory: &tempfile::TempDir, builder: StoreBuilder) -> Store {
    let backend = Sqlite::open(SqliteOptions::new(directory.path().join("store.db"))).await;
    builder.open(Arc::new(backend.unwrap())).await.unwrap()
}

impl Cloud {
    pub async fn new() -> Self {
        Self::over(tempfile::tempdir().unwrap()).await
    }

    /// One whose store is in a directory already.
    pub async fn over(directory: tempfile::TempDir) -> Self {
        let mut builder = StoreBuilder::new();
        register(&mut builder);
        builder.kind::<Provider>();
        Self {
            store: open(&directory, builder).await,
            metrics: Metrics::new(),
            _directory: directory,
        }
    }

    /// A client of the API with these roles in a project.
    pub fn client(&self, project: &str, roles: &[&str]) -> Client {
        let mut policy = Policy::new();
        policy.register(POLICY);
        let mut subject = (*Subject::system("test")).clone();
        subject.user.id = format!("user-of-{project}");
        subject.scope = Scope::Project(DomainMember {
            id: project.to_owned(),
            ..DomainMember::default()
        });
        subject.roles = roles
            .iter()
            .map(|name| RoleRef {
                id: (*name).to_owned(),
                name: (*name).to_owned(),
            })
            .collect();
        let caller = Caller::new(Arc::new(subject), Arc::new(policy), "req-test");
        let api = NetworkApi {
            store: self.store.clone(),
        };
        let router = router(api, &self.metrics, |inner| inner.layer(Extension(caller)));
        Client(Router::new().nest_service("/network", router))
    }

    /// A member of a project, who is also a reader.
    pub fn member(&self, project: &str) -> Client {
        self.client(project, &["member", "reader"])
    }

    /// An admin.
    pub fn admin(&self) -> Client {
        self.client("admins", &["admin", "member", "reader"])
    }

    /// A network of a project with one subnet.
    pub async fn network(&self, project: &str, cidr: &str) -> (Arc<Resource<Network>>, Arc<Resource<Subnet>>) {
        let cidr: ipnet::IpNet = cidr.parse().unwrap();
        let made = self.store.transact(cause(), |tx| {
            let network = tx.create(Resource::<Network>::new(
                Metadata::with_id(project),
                NetworkSpec::default(),
            ))?;
            let spec = SubnetSpec {
                name: String::new(),
                description: String::new(),
                network_id: network.name().to_owned(),
                cidr,
                gateway_ip: cidr.hosts().next(),
                allocation_pools: Vec::new(),
                enable_dhcp: false,
                dns_nameservers: Vec::new(),
                host_routes: Vec::new(),
                ipv6_address_mode: None,
                ipv6_ra_mode: None,
                subnetpool_id: None,
                service_types: Vec::new(),
                tags: Vec::new(),
            };
            let subnet = tx.create(Resource::<Subnet>::new(Metadata::with_id(project), spec))?;
            Ok::<_, madang_store::StoreError>((network, subnet))
        });
        let (network, subnet) = made.await.unwrap();
        (
            self.store.get(&network.key()).unwrap(),
            self.store.get(&subnet.key()).unwrap(),
        )
    }

    /// A port as another domain makes it: nothing said but the network.
    pub async fn port(&self, project: &str, network: &str) -> Result<Arc<Resource<Port>>, madang_store::StoreError> {
        let made = self.store.transact(cause(), |tx| {
            tx.create(Resource::<Port>::new(Metadata::with_id(project), PortSpec::on(network)))
        });
        made.await.map(|port| self.store.get(&port.key()).unwrap())
    }
}

pub fn cause() -> Cause {
    Cause::system("test")
}

pub struct Client(Router);

impl Client {
    pub async fn call(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        self.send(Request::builder().method(method), path, body).await
    }

    /// As [`Client::call`], only where the revision is still this.
    pub async fn insist(&self, method: Method, path: &str, revision: u64, body: Option<Value>) -> (u16, Value) {
        let condition = format!("revision_number={revision}");
        self.send(
            Request::builder().method(method).header("if-match", condition),
            path,
            body,
        )
        .await
    }

    async fn send(&self, request: http::request::Builder, path: &str, body: Option<Value>) -> (u16, Value) {
        let request = request.uri(format!("/network{path}")).header("host", "cloud:8000");
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        let response = self.0.clone().oneshot(request.body(body).unwrap()).await.unwrap();
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let answer = if bytes.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&bytes).unwrap()
        };
        (status, answer)
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        self.call(Method::GET, path, None).await
    }

    /// The answer to a POST that has to work.
    pub async fn create(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self.call(Method::POST, path, Some(body)).await;
        assert_eq!(status, 201, "{path}: {answer}");
        answer
    }

    /// The answer to a PUT that has to work.
    pub async fn update(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self.call(Method::PUT, path, Some(body)).await;
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    pub async fn delete(&self, path: &str) -> (u16, Value) {
        self.call(Method::DELETE, path, None).await
    }
}

/// A text of an answer.
pub fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_else(|| panic!("no text at {pointer} in {value}"))
}
