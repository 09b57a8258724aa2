//! The domains over one store, and their faces below one address.

use std::sync::Arc;

use anyhow::Context;
use axum::{Router, routing::get};
use http::StatusCode;
use ipnet::IpNet;
use madang_compute::{console::LocalConsoles, reach::Reach, server::control::Options};
use madang_control::TaskGroup;
use madang_http::{Health, Metrics};
use madang_identity::{Identity, catalog::rules::CatalogEntry};
use madang_image::Library;
use madang_network::SeedOptions;
use madang_object::{
    disk::{Disk, DiskOptions},
    objects::Objects,
    swift::{self, SwiftApi},
};
use madang_store::{Store, StoreBuilder};
use serde_json::{Value, json};

use crate::{
    config::Config,
    credentials::{Credentials, Endpoint},
    data_dir::DataDir,
    policy,
    ranges::{self, Registry},
    storage,
};

/// One service of the catalog.
pub struct Service {
    /// What clients look for.
    kind: &'static str,
    /// What users of the originals call it.
    name: &'static str,
    /// Where its face hangs.
    pub path: &'static str,
    /// What the catalog adds: clients find the versions of the others by themselves.
    version: &'static str,
    description: &'static str,
}

/// All services, in the order in which they are asked whether they answer.
pub const SERVICES: [Service; 9] = [
    Service {
        kind: "identity",
        name: "keystone",
        path: "/identity",
        version: "",
        description: "Identity",
    },
    Service {
        kind: "placement",
        name: "placement",
        path: "/placement",
        version: "",
        description: "Placement",
    },
    Service {
        kind: "image",
        name: "glance",
        path: "/image",
        version: "",
        description: "Image",
    },
    Service {
        kind: "network",
        name: "neutron",
        path: "/network",
        version: "",
        description: "Networking",
    },
    Service {
        kind: "compute",
        name: "nova",
        path: "/compute",
        version: "/v2.1",
        description: "Compute",
    },
    Service {
        kind: "audit",
        name: "audit",
        path: "/audit",
        version: "",
        description: "Audit trail",
    },
    Service {
        kind: "object-store",
        name: "swift",
        path: "/object-store",
        version: madang_object::swift::CATALOG_PATH,
        description: "Object storage",
    },
    // Twice, since clients look for either name.
    Service {
        kind: "block-storage",
        name: "cinder",
        path: "/volume",
        version: "/v3",
        description: "Block storage",
    },
    Service {
        kind: "volumev3",
        name: "cinderv3",
        path: "/volume",
        version: "/v3/$(project_id)s",
        description: "Block storage",
    },
];

/// The opened domains.
pub struct Cloud {
    /// Where they meet.
    pub store: Store,
    /// Who may do what.
    pub identity: Arc<Identity>,
    /// Images and their bytes.
    pub library: Arc<Library>,
    /// Accounts, containers and objects.
    pub objects: Objects,
}

impl Cloud {
    /// Opens the store and everything that needs no host, and starts their controllers.
    ///
    /// # Errors
    /// When a directory, the database or a key cannot be read.
    pub async fn open(
        config: &Config,
        data: &DataDir,
        endpoint: &Endpoint,
        credentials: &Credentials,
        instance: &str,
        group: &TaskGroup,
    ) -> anyhow::Result<Self> {
        let mut builder = StoreBuilder::new();
        madang_identity::register(&mut builder);
        madang_scheduler::register(&mut builder);
        madang_image::register(&mut builder);
        madang_network::register(&mut builder);
        madang_block::register(&mut builder);
        madang_compute::register(&mut builder);
        let backend = storage::open(&config.store, data, instance).await?;
        let store = builder.open(backend).await.context("could not read the store")?;

        let mut options = madang_identity::Options::new(data.join("keys"));
        options.limit_model = config.identity.limit_model;
        options.compliance = config.identity.compliance()?;
        options.federation = config.identity.federation.options(&endpoint.url)?;
        options.directories.clone_from(&config.ldap);
        let (rules, file) = (policy::defaults(), policy::file(data, config.policy_file.as_deref()));
        policy::read(&rules, &file).context("could not use the policy file")?;
        let identity = Identity::open(store.clone(), rules, options)
            .await
            .context("could not open identity")?;
        let begin = madang_identity::Bootstrap {
            region: config.region.clone(),
            admin_password: Some(credentials.admin_password.clone()),
            demo_password: Some(credentials.demo_password.clone()),
        };
        let said = |failure: madang_http::Failure| anyhow::anyhow!(failure.message);
        let begun = madang_identity::bootstrap(&identity, begin)
            .await
            .map_err(said)
            .context("could not begin identity")?;
        identity
            .publish(&config.region, &catalog(endpoint))
            .await
            .map_err(said)
            .context("could not write the catalog")?;
        let unified = config.identity.unified_limits.clone();
        madang_identity::limit::unified::decide(&store, unified, &config.region)
            .await
            .map_err(said)
            .context("could not write whose quotas are unified limits")?;
        identity.start(group);
        policy::watch(Arc::clone(identity.policy()), file, group);
        first_networks(&store, config, instance, begun).await?;
        madang_network::rbac::complete(&store)
            .await
            .context("could not complete the policies of shared networks")?;
        madang_scheduler::control::run_with(&store, config.scheduler.clone(), group);
        madang_compute::flavor::seed::seed(&store)
            .await
            .context("could not make flavors")?;
        madang_block::volume_type::rules::seed(&store)
            .await
            .context("could not make a volume type")?;

        let library = Library::open(store.clone(), &data.join("images"), group).await;
        let library = library.context("could not open the images")?;
        library.trust(config.image.download_from.iter().cloned());
        let place = data.join("objects");
        let disk = tokio::task::spawn_blocking(move || Disk::open(&place, DiskOptions::default())).await?;
        let objects = Objects::new(disk.context("could not open the objects")?);
        objects.disk().tend(group);
        objects.end(group);
        Ok(Self {
            store,
            identity,
            library,
            objects,
        })
    }
}

impl Cloud {
    /// All faces below one address, with health and metrics beside them. `reach` leads to the hosts of this process;
    /// `block` keeps its volumes, `recorder` is where the trail is read.
    pub fn router(
        &self,
        reach: Reach,
        options: Options,
        block: madang_block::api::BlockApi,
        recorder: Arc<madang_audit::Recorder>,
        metrics: &Metrics,
        health: &Health,
    ) -> Router {
        let store = &self.store;
        let behind = |service: &'static str| {
            let identity = Arc::clone(&self.identity);
            move |router: Router| madang_identity::authenticate(&identity, service, router)
        };
        let placement = madang_scheduler::api::PlacementApi { store: store.clone() };
        let network = madang_network::NetworkApi { store: store.clone() };
        let compute = madang_compute::api::ComputeApi {
            store: store.clone(),
            consoles: Arc::new(LocalConsoles::new(reach.clone(), options.console_token_life)),
            reach,
            options,
        };
        let audit = madang_audit::api::AuditApi::new(recorder);
        let objects = SwiftApi {
            objects: self.objects.clone(),
        };
        let recognize = |router| madang_identity::recognize(&self.identity, "object-store", router);
        let faces = [
            ("/audit", madang_audit::api::router(audit, metrics, behind("audit"))),
            ("/identity", madang_identity::router(&self.identity, metrics)),
            (
                "/image",
                madang_image::api::router(Arc::clone(&self.library), metrics, behind("image")),
            ),
            (
                "/placement",
                madang_scheduler::api::router(placement, metrics, behind("placement")),
            ),
            ("/network", madang_network::router(network, metrics, behind("network"))),
            (
                "/compute",
                madang_compute::api::router(compute, metrics, behind("compute")),
            ),
            ("/volume", madang_block::api::router(block, metrics, behind("volume"))),
            ("/object-store", swift::router(objects, metrics, recognize)),
        ];
        let mut router = Router::new()
            .route("/", get(async || madang_http::json(StatusCode::OK, &directory())))
            .merge(health.router())
            .merge(metrics.router())
            .merge(swift::root(metrics))
            .fallback(async || madang_http::json(StatusCode::NOT_FOUND, &directory()));
        for (path, face) in faces {
            router = router.nest_service(path, face);
        }
        router
    }
}

/// What hangs where, for people who look.
fn directory() -> Value {
    let services = SERVICES
        .iter()
        .map(|service| json!({"type": service.kind, "path": service.path}));
    json!({"madang": env!("CARGO_PKG_VERSION"), "services": services.collect::<Vec<_>>()})
}

/// Makes the first networks, in ranges that are free on this host now; later starts only write down which are taken.
async fn first_networks(
    store: &Store,
    config: &Config,
    instance: &str,
    begun: madang_identity::Bootstrapped,
) -> anyhow::Result<()> {
    let registry = tokio::task::spawn_blocking(Registry::open).await??;
    if let Some(SeedOptions {
        public: IpNet::V4(public),
        ..
    }) = madang_network::seeded_with(store)
    {
        return registry.claim(instance, public);
    }
    let (Some(project), Some(admin_project)) = (begun.demo_project, begun.admin_project) else {
        return Ok(());
    };
    let mut taken = ranges::of_host();
    taken.extend(registry.others(instance));
    let ranges = ranges::choose(config.network.private, config.network.public, &taken)?;
    registry.claim(instance, ranges.public)?;
    let gateway = ranges.public.hosts().next().context("network.public has no room")?;
    let options = SeedOptions {
        project,
        admin_project,
        private: ranges.private.into(),
        public: ranges.public.into(),
        public_gateway: gateway.into(),
        public_pool: None,
        name_servers: config.network.name_servers.clone(),
    };
    madang_network::seed(store, &options)
        .await
        .context("could not make the first networks")?;
    Ok(())
}

fn catalog(endpoint: &Endpoint) -> Vec<CatalogEntry> {
    let entries = SERVICES.iter().map(|service| CatalogEntry {
        service_type: service.kind,
        name: service.name,
        description: service.description,
        url: format!("{}{}{}", endpoint.url, service.path, service.version),
    });
    entries.collect()
}
