//! A small cloud in one process: the domains that servers need, simulated hosts, and callers without identity.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use axum::{Router, body::Body, extract::Request, middleware, response::Response};
use http_body_util::BodyExt as _;
use madang_compute::{
    agent::{AgentOptions, ConfigDriveFormat, HostFacts, facts},
    api::ComputeApi,
    console::LocalConsoles,
    driver::simulated::{Behaviour, SimulatedDriver, World},
    reach::Reach,
    server::control::Options as Chosen,
};
use madang_control::TaskGroup;
use madang_host::workload::Driver;
use madang_http::Metrics;
use madang_identity::{Caller, DomainMember, Policy, RoleRef, Scope, Subject};
use madang_image::{
    BlobError, CacheError, CachedImage, ContainerFormat, Content, DiskFormat, Image, ImageSpec, ImageState, Intake,
    IntakeError, Visibility,
};
use madang_network::seed::SeedOptions;
use madang_store::{Backend, Cause, Metadata, Resource, Sqlite, SqliteOptions, Store, StoreBuilder};
use serde_json::{Value, json};
use tempfile::TempDir;
use tower::ServiceExt as _;

/// The project of the user in [`Cloud::call`].
pub const PROJECT: &str = "11111111111111111111111111111111";
/// Another project.
pub const OTHER: &str = "22222222222222222222222222222222";

pub struct Cloud {
    pub store: Store,
    pub world: Arc<World>,
    pub image: String,
    pub network: String,
    router: Router,
    group: TaskGroup,
    policy: Arc<Policy>,
    _dir: TempDir,
}

pub struct Options {
    pub hosts: u32,
    pub behaviour: Behaviour,
    pub chosen: Chosen,
    /// Processors that every host gives to one server each.
    pub dedicated: Vec<u32>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            hosts: 2,
            behaviour: Behaviour::default(),
            chosen: Chosen::default(),
            dedicated: Vec::new(),
        }
    }
}

/// Gives a path for every image; what is behind it is nobody's concern where nothing runs.
struct NoBytes;

#[async_trait]
impl madang_image::Cache for NoBytes {
    async fn fetch(&self, image_id: &str) -> Result<CachedImage, CacheError> {
        Ok(CachedImage {
            path: PathBuf::from("/nonexistent").join(image_id),
            disk_format: DiskFormat::Qcow2,
            container_format: ContainerFormat::Bare,
            size: 1,
            virtual_size: Some(1 << 20),
            digest: "0".repeat(128),
        })
    }

    async fn held(&self, digest: &str, _: u64) -> Result<PathBuf, BlobError> {
        Ok(PathBuf::from("/nonexistent").join(digest))
    }

    async fn retain(&self, _: &BTreeSet<String>) -> Result<(), BlobError> {
        Ok(())
    }
}

/// Takes the size of a file for its bytes.
struct Taken {
    store: Store,
    directory: PathBuf,
}

#[async_trait]
impl Intake for Taken {
    fn scratch(&self) -> PathBuf {
        self.directory.join(uuid::Uuid::new_v4().to_string())
    }

    async fn take(&self, image_id: &str, path: &std::path::Path) -> Result<(), IntakeError> {
        let size = std::fs::metadata(path).unwrap().len();
        let gone = || IntakeError::Gone(image_id.to_owned());
        let image = self.store.cache::<Image>().by_name(image_id).ok_or_else(gone)?;
        let key = image.key();
        let taken = self
            .store
            .modify::<Image, madang_store::StoreError>(&key, Cause::system("test"), |image| {
                image.status.state = ImageState::Active;
                image.status.content = Some(Content {
                    size,
                    virtual_size: Some(1 << 20),
                    md5: String::new(),
                    sha512: image_id.to_owned(),
                });
                Ok(())
            });
        taken.await.map(|_| ()).map_err(|_| gone())
    }
}

impl Cloud {
    pub async fn new(options: Options) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut builder = StoreBuilder::new();
        madang_scheduler::register(&mut builder);
        madang_network::register(&mut builder);
        madang_block::register(&mut builder);
        madang_compute::register(&mut builder);
        let backend = Sqlite::open(SqliteOptions::new(dir.path().join("store.db")))
            .await
            .unwrap();
        let store = builder.open(Arc::new(backend) as Arc<dyn Backend>).await.unwrap();

        let group = TaskGroup::new("test");
        madang_scheduler::control::run(&store, &group);
        madang_compute::flavor::seed::seed(&store).await.unwrap();
        let seeded = madang_network::seed::seed(&store, &networks()).await.unwrap();
        let image = make_image(&store).await;

        let world = Arc::new(World::default());
        let driver: Arc<dyn Driver> = Arc::new(SimulatedDriver::new(Arc::clone(&world), options.behaviour));
        let drivers = ["qemu", "oci"].map(|name| (name.to_owned(), Arc::clone(&driver)));
        madang_network::agent::simulate(&store, |_| true, &group);
        let agent = AgentOptions {
            hosts: (1..=options.hosts).map(|n| format!("sim-{n}")).collect(),
            facts: HostFacts {
                zone: "nova".to_owned(),
                cpus: 64,
                memory_bytes: 512 << 30,
                disk_bytes: 8 << 40,
                hypervisor: "simulated".to_owned(),
                acceleration: String::new(),
                capabilities: facts::capabilities(&facts::pretended(64, 512 << 30), None, 0, &options.dedicated),
                booted: None,
            },
            ground: None,
            drivers: drivers.clone().into(),
            images: Arc::new(NoBytes),
            intake: Arc::new(Taken {
                store: store.clone(),
                directory: dir.path().to_owned(),
            }),
            config_drive: ConfigDriveFormat::default(),
        };
        let hosts = agent.hosts.clone();
        madang_compute::agent::run(&store, agent, &group);
        madang_compute::server::control::run(&store, options.chosen.clone(), &group);
        madang_block::volume_type::rules::seed(&store).await.unwrap();
        let volumes = madang_block::control::Options {
            host: "sim-1".to_owned(),
            back_end: Arc::new(madang_block::driver::simulated::SimulatedBackEnd::default()),
            images: Arc::new(NoBytes),
            intake: None,
            vault: Arc::new(madang_block::vault::DirectoryVault::open(&dir.path().join("backups")).unwrap()),
        };
        madang_block::control::run(&store, volumes, &group).await.unwrap();

        let mut policy = Policy::new();
        policy.register(madang_compute::api::POLICY);
        let reach = Reach::default().and(hosts, drivers.into());
        let api = ComputeApi {
            store: store.clone(),
            consoles: Arc::new(LocalConsoles::new(reach.clone(), options.chosen.console_token_life)),
            reach,
            options: options.chosen,
        };
        // Who asks is put there by `call_as`.
        let router = madang_compute::api::router(api, &Metrics::new(), |router| {
            router.layer(middleware::from_fn(|request: Request, next: middleware::Next| {
                next.run(request)
            }))
        });
        let router = Router::new().nest("/compute", router);
        let network = seeded.private_network;
        let cloud = Self {
            store,
            world,
            image,
            network,
            router,
            group,
            policy: Arc::new(policy),
            _dir: dir,
        };
        cloud
            .eventually("hosts", || {
                (cloud.store.cache::<madang_scheduler::Provider>().len() == options.hosts as usize).then_some(())
            })
            .await;
        cloud
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
        subject.roles = roles
            .iter()
            .map(|name| RoleRef {
                id: (*name).into(),
                name: (*name).into(),
            })
            .collect();
        Caller::new(
            Arc::new(subject),
            Arc::clone(&self.policy),
            format!("req-{}", uuid::Uuid::new_v4()),
        )
    }

    /// Asks as a member of [`PROJECT`].
    pub async fn call(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        self.call_in("2.1", method, path, body).await
    }

    /// Asks as a member of [`PROJECT`], in a microversion.
    pub async fn call_in(&self, version: &str, method: &str, path: &str, body: Value) -> (u16, Value) {
        self.call_as(self.caller(PROJECT, &["member", "reader"]), version, method, path, body)
            .await
    }

    pub async fn call_as(&self, caller: Caller, version: &str, method: &str, path: &str, body: Value) -> (u16, Value) {
        let request = Request::builder()
            .method(method)
            .uri(format!("/compute/v2.1{path}"))
            .header("host", "cloud")
            .header("content-type", "application/json")
            .header("openstack-api-version", format!("compute {version}"))
            .extension(caller)
            .body(if body.is_null() {
                Body::empty()
            } else {
                Body::from(body.to_string())
            })
            .unwrap();
        let response: Response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    /// The body of a request for one server on `private`.
    pub fn wanted(&self, name: &str) -> Value {
        json!({ "server": {
            "name": name, "imageRef": self.image, "flavorRef": "1", "networks": [{ "uuid": self.network }],
        } })
    }

    /// Asks for a server and returns its id.
    pub async fn create(&self, name: &str) -> String {
        let (status, body) = self.call("POST", "/servers", self.wanted(name)).await;
        assert_eq!(status, 202, "{body}");
        body["server"]["id"].as_str().unwrap().to_owned()
    }

    /// Waits until a server has a status, and returns it.
    pub async fn becomes(&self, id: &str, wanted: &str) -> Value {
        for _ in 0..500 {
            let (_, body) = self.call("GET", &format!("/servers/{id}"), Value::Null).await;
            if body["server"]["status"] == wanted && body["server"]["OS-EXT-STS:task_state"].is_null() {
                return body["server"].clone();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let (_, body) = self.call("GET", &format!("/servers/{id}"), Value::Null).await;
        panic!("not {wanted} within 5 s: {body}");
    }

    /// Asks for an action and says the status code.
    pub async fn act(&self, id: &str, action: Value) -> u16 {
        let (status, _) = self.call("POST", &format!("/servers/{id}/action"), action).await;
        status
    }

    /// Asks for an action as an admin in a microversion.
    pub async fn act_as_admin(&self, id: &str, version: &str, action: Value) -> (u16, Value) {
        let admin = self.caller(OTHER, &["admin", "member", "reader"]);
        self.call_as(admin, version, "POST", &format!("/servers/{id}/action"), action)
            .await
    }

    /// Waits until `probe` finds something.
    pub async fn eventually<T>(&self, what: &str, probe: impl Fn() -> Option<T>) -> T {
        for _ in 0..500 {
            if let Some(found) = probe() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no {what} within 5 s");
    }

    pub async fn stop(self) {
        assert_eq!(self.group.shutdown(Duration::from_secs(5)).await, [""; 0]);
        self.store.close().await;
    }
}

fn networks() -> SeedOptions {
    SeedOptions {
        project: PROJECT.to_owned(),
        admin_project: OTHER.to_owned(),
        private: "10.77.0.0/16".parse().unwrap(),
        public: "172.31.77.0/24".parse().unwrap(),
        public_gateway: "172.31.77.1".parse().unwrap(),
        public_pool: None,
        name_servers: Vec::new(),
    }
}

async fn make_image(store: &Store) -> String {
    let spec = ImageSpec {
        name: Some("tiny".to_owned()),
        visibility: Visibility::Public,
        container_format: Some(ContainerFormat::Bare),
        disk_format: Some(DiskFormat::Qcow2),
        ..ImageSpec::default()
    };
    let mut image = Resource::<Image>::new(Metadata::with_id(OTHER), spec);
    image.status.state = ImageState::Active;
    image.status.content = Some(Content {
        size: 1,
        virtual_size: Some(1 << 20),
        md5: String::new(),
        sha512: String::new(),
    });
    let mut tx = store.begin(Cause::system("test"));
    let image = tx.create(image).unwrap();
    tx.commit().await.unwrap();
    image.name().to_owned()
}
