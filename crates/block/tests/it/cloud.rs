//! A volume service in one process, with files in a scratch directory and callers without identity.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use axum::{Router, body::Body, extract::Request, middleware, response::Response};
use http_body_util::BodyExt as _;
use madang_block::{
    api::BlockApi,
    control::Options,
    driver::{BackEnd, file::FileBackEnd},
    vault::{DirectoryVault, Vault},
};
use madang_control::TaskGroup;
use madang_http::Metrics;
use madang_identity::{Caller, DomainMember, Policy, RoleRef, Scope, Subject};
use madang_image::{
    BlobError, CacheError, CachedImage, ContainerFormat, Content, DiskFormat, Image, ImageSpec, ImageState, Visibility,
};
use madang_store::{Backend, Cause, Metadata, Resource, Sqlite, SqliteOptions, Store, StoreBuilder};
use serde_json::Value;
use tempfile::TempDir;
use tower::ServiceExt as _;

/// The project of the user in [`Cloud::call`].
pub const PROJECT: &str = "11111111111111111111111111111111";
/// Another project.
pub const OTHER: &str = "22222222222222222222222222222222";

pub struct Cloud {
    pub store: Store,
    pub back_end: Arc<dyn BackEnd>,
    pub image: String,
    router: Router,
    group: TaskGroup,
    policy: Arc<Policy>,
    dir: Arc<TempDir>,
}

/// One file as the bytes of every image.
struct OneFile(PathBuf);

#[async_trait]
impl madang_image::Cache for OneFile {
    async fn fetch(&self, _: &str) -> Result<CachedImage, CacheError> {
        Ok(CachedImage {
            path: self.0.clone(),
            disk_format: DiskFormat::Raw,
            container_format: ContainerFormat::Bare,
            size: 1 << 20,
            virtual_size: Some(1 << 20),
            digest: "0".repeat(128),
        })
    }

    async fn held(&self, _: &str, _: u64) -> Result<PathBuf, BlobError> {
        Ok(self.0.clone())
    }

    async fn retain(&self, _: &BTreeSet<String>) -> Result<(), BlobError> {
        Ok(())
    }
}

impl Cloud {
    pub async fn new() -> Self {
        Self::again(Arc::new(tempfile::tempdir().unwrap())).await
    }

    /// A service over what another one left in a directory.
    pub async fn again(dir: Arc<TempDir>) -> Self {
        let mut builder = StoreBuilder::new();
        madang_block::register(&mut builder);
        let backend = Sqlite::open(SqliteOptions::new(dir.path().join("store.db")))
            .await
            .unwrap();
        let store = builder.open(Arc::new(backend) as Arc<dyn Backend>).await.unwrap();
        let group = TaskGroup::new("test");
        madang_block::volume_type::rules::seed(&store).await.unwrap();
        let file = dir.path().join("image.raw");
        std::fs::write(&file, vec![0x55; 1 << 20]).unwrap();
        let image = make_image(&store).await;
        let back_end: Arc<dyn BackEnd> = Arc::new(FileBackEnd::open(&dir.path().join("volumes")).unwrap());
        let vault: Arc<dyn Vault> = Arc::new(DirectoryVault::open(&dir.path().join("backups")).unwrap());
        let options = Options {
            host: "here".to_owned(),
            back_end: Arc::clone(&back_end),
            vault: Arc::clone(&vault),
            images: Arc::new(OneFile(file)),
            intake: None,
        };
        madang_block::control::run(&store, options, &group).await.unwrap();
        let mut policy = Policy::new();
        policy.register(madang_block::api::POLICY);
        let api = BlockApi {
            store: store.clone(),
            host: "here".to_owned(),
            back_end: Arc::clone(&back_end),
            vault,
        };
        // Who asks is put there by `call_as`.
        let router = madang_block::api::router(api, &Metrics::new(), |router| {
            router.layer(middleware::from_fn(|request: Request, next: middleware::Next| {
                next.run(request)
            }))
        });
        Self {
            store,
            back_end,
            image,
            router: Router::new().nest_service("/volume", router),
            group,
            policy: Arc::new(policy),
            dir,
        }
    }

    pub fn caller(&self, project: &str, roles: &[&str]) -> Caller {
        let member = |id: &str| DomainMember {
            id: id.to_owned(),
            name: id.to_owned(),
            ..DomainMember::default()
        };
        let mut subject = (*Subject::system("test")).clone();
        subject.user = member(&format!("user-of-{project}"));
        subject.scope = Scope::Project(member(project));
        let role = |name: &&str| RoleRef {
            id: (*name).into(),
            name: (*name).into(),
        };
        subject.roles = roles.iter().map(role).collect();
        Caller::new(Arc::new(subject), Arc::clone(&self.policy), "req-test")
    }

    /// Asks as a member of [`PROJECT`].
    pub async fn call(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let caller = self.caller(PROJECT, &["member", "reader"]);
        self.call_as(caller, "3.71", method, path, body).await
    }

    /// Asks as an admin.
    pub async fn admin(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let caller = self.caller(PROJECT, &["admin", "member", "reader"]);
        self.call_as(caller, "3.71", method, path, body).await
    }

    pub async fn call_as(&self, caller: Caller, version: &str, method: &str, path: &str, body: Value) -> (u16, Value) {
        let project = caller.subject.project_id().unwrap().to_owned();
        let request = Request::builder()
            .method(method)
            .uri(format!("/volume/v3/{project}{path}"))
            .header("host", "cloud")
            .header("content-type", "application/json")
            .header("openstack-api-version", format!("volume {version}"))
            .extension(caller)
            .body(match body.is_null() {
                true => Body::empty(),
                false => Body::from(body.to_string()),
            })
            .unwrap();
        let response: Response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    /// Asks without saying who.
    pub async fn get(&self, path: &str) -> (u16, Value) {
        let request = Request::builder().uri(path).header("host", "cloud");
        let request = request.body(Body::empty()).unwrap();
        let response: Response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    /// Asks for something and returns its id.
    pub async fn create(&self, collection: &str, one: &str, body: Value) -> String {
        let (status, answer) = self
            .call("POST", &format!("/{collection}"), serde_json::json!({ one: body }))
            .await;
        assert!(status < 300, "{status} {answer}");
        answer[one]["id"].as_str().unwrap().to_owned()
    }

    /// Waits until something has a status, and returns it.
    pub async fn becomes(&self, path: &str, one: &str, wanted: &str) -> Value {
        let mut last = Value::Null;
        for _ in 0..1500 {
            let (_, body) = self.call("GET", path, Value::Null).await;
            if body[one]["status"] == wanted {
                return body[one].clone();
            }
            last = body;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{path} is not {wanted} within 15 s: {last}");
    }

    /// The files that layers are.
    pub fn files(&self) -> usize {
        std::fs::read_dir(self.dir.path().join("volumes/layers"))
            .unwrap()
            .count()
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub async fn stop(self) -> Arc<TempDir> {
        assert_eq!(self.group.shutdown(Duration::from_secs(15)).await, [""; 0]);
        self.store.close().await;
        self.dir
    }
}

async fn make_image(store: &Store) -> String {
    let spec = ImageSpec {
        name: Some("plain".to_owned()),
        visibility: Visibility::Public,
        container_format: Some(ContainerFormat::Bare),
        disk_format: Some(DiskFormat::Raw),
        ..ImageSpec::default()
    };
    let mut image = Resource::<Image>::new(Metadata::with_id(OTHER), spec);
    image.status.state = ImageState::Active;
    image.status.content = Some(Content {
        size: 1 << 20,
        virtual_size: Some(1 << 20),
        md5: String::new(),
        sha512: "0".repeat(128),
    });
    let mut tx = store.begin(Cause::system("test"));
    let image = tx.create(image).unwrap();
    tx.commit().await.unwrap();
    image.name().to_owned()
}
