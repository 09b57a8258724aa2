//! `madang up`: one process that is the whole cloud, from the lock on the data directory to the last goodbye.
//!
//! ```text
//! lock ─► port ─► host ─► store ─► domains ─► agents ─► serve ─► seeds ─► every API asked ─► ready ─► SIGTERM ─► stop
//! ```
//! What can be refused is refused before anything is made. Stopping ends the control plane and leaves workloads alone; the
//! next `up` on the data directory finds them.

mod address;
pub mod domains;
pub mod hosts;
mod seed;

use std::{sync::Arc, time::Duration};

use anyhow::{Context, bail};
use jiff::{SignedDuration, Timestamp};
use madang_control::TaskGroup;
use madang_host::Instance;
use madang_http::{Certificates, Health, Metrics, Server, ServerError, ServerOptions, Trail};
use madang_store::Store;
use nix::sys::resource::{Resource as Limit, getrlimit, setrlimit};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::Instant,
};
use tracing::{info, warn};

use crate::{
    client::Client,
    config::Config,
    console::{Checks, line},
    credentials::{self, Credentials, Endpoint},
    data_dir::DataDir,
};

/// How long tasks may take to end once they are asked. What is cut then is found again by the next start.
const GOODBYE: Duration = Duration::from_secs(15);

/// Runs the cloud until it is told to stop.
///
/// # Errors
/// When it cannot start; the message says what to do.
pub async fn run(config: Config, data: DataDir) -> anyhow::Result<()> {
    let started = Instant::now();
    let _lock = data.lock()?;
    crate::logs::start(&config.log, &data.join("madang.log"))?;
    raise_file_limit();
    // Before anything is made: signals that come during the start count, too.
    let mut told = Told::listen()?;
    let server = bind(&config, &data).await?;
    let endpoint = address::endpoint(&config, &data, &server);
    let credentials = Credentials::load_or_make(&data.join("credentials.toml"))?;
    info!(version = env!("CARGO_PKG_VERSION"), url = endpoint.url, data = %data.path().display(), "starting");

    let mut checks = Checks::new();
    let group = TaskGroup::new("madang");
    let start = start(&config, &data, &endpoint, &credentials, server, &mut checks, &group);
    let store = tokio::select! {
        store = start => store,
        () = told.stop_asked() => bail!("stopped before it was ready"),
    };
    let store = match store {
        Ok(store) => store,
        Err(error) => {
            checks.end();
            group.shutdown(GOODBYE).await;
            return Err(error);
        }
    };
    let files = write_credentials(&data, &endpoint, &credentials)?;
    line(&format!(
        "madang is ready in {:.1} s   API {}   credentials: {files}",
        started.elapsed().as_secs_f64(),
        endpoint.url
    ));
    info!(seconds = started.elapsed().as_secs_f64(), "ready");

    told.stop_asked().await;
    line("stopping; workloads go on (`madang down` ends them)");
    stop(&group, &store, &mut told).await;
    Ok(())
}

/// Starts everything behind the bound server, up to the last API answering.
async fn start(
    config: &Config,
    data: &DataDir,
    endpoint: &Endpoint,
    credentials: &Credentials,
    server: Server,
    checks: &mut Checks,
    group: &TaskGroup,
) -> anyhow::Result<Store> {
    let instance = Instance::open(data.path()).map_err(|error| anyhow::anyhow!(error.chain()))?;
    let id = instance.id().to_owned();
    let host = hosts::examine(config, data, instance, checks).await?;
    checks.pass(&format!("host checked ({})", host.summary()));

    let cloud = domains::Cloud::open(config, data, endpoint, credentials, &id, group).await?;
    checks.pass("store");

    let drivers = hosts::drivers(data, &host, group).await?;
    let (metrics, health) = (Metrics::new(), Health::new());
    watch_over(&health, &cloud.store, group);
    let recorder = trail(config, data, &metrics, group).await?;
    let simulated = hosts::simulated(&cloud, config);
    let reach = hosts::reach(config, &host, &drivers, &simulated);
    let options = config.compute.options();
    let block = hosts::block(&cloud, data, &host)?;
    let router = cloud.router(
        reach,
        options.clone(),
        block.clone(),
        Arc::clone(&recorder),
        &metrics,
        &health,
    );
    server.serve(Trail::new(recorder, &config.trusted_proxies).over(router), group);
    hosts::start(&cloud, config, data, &host, drivers, simulated, group)?;
    hosts::start_volumes(&cloud, block, group).await?;
    madang_compute::server::control::run(&cloud.store, options, group);
    checks.pass("network");
    match seed::is_due(data) {
        false => checks.pass("images: tiny"),
        true => match seed::tiny(data, endpoint, credentials, checks).await {
            Ok(()) => checks.pass("images: tiny"),
            // Without it the cloud is still of use.
            Err(error) => {
                checks.fail("images: no tiny");
                checks.end();
                warn!(
                    error = format!("{error:#}"),
                    "there is no image tiny; the next start tries again"
                );
            }
        },
    }

    let answers = checks.wait("waiting for all APIs to answer", everything_answers(endpoint));
    answers.await?;
    checks.end();
    Ok(cloud.store)
}

/// Starts to write down who does what.
async fn trail(
    config: &Config,
    data: &DataDir,
    metrics: &Metrics,
    group: &TaskGroup,
) -> anyhow::Result<Arc<madang_audit::Recorder>> {
    let keep = madang_audit::Keep {
        age: SignedDuration::from_hours(24 * i64::from(config.audit.keep_days)),
        bytes: config.audit.max_mib.saturating_mul(1024 * 1024),
    };
    let recorder = madang_audit::Recorder::start(&data.audit(), keep, metrics, group).await;
    recorder.context("could not open the audit trail")
}

/// What `/readyz` looks at.
fn watch_over(health: &Health, store: &Store, group: &TaskGroup) {
    let backend = Arc::clone(store.backend());
    health.register("store", move || {
        let backend = Arc::clone(&backend);
        async move { backend.revision().await.map(|_| ()).map_err(|error| error.to_string()) }
    });
    let group = group.clone();
    health.register("process", move || {
        let stopping = group.is_stopping();
        async move { if stopping { Err("stopping".to_owned()) } else { Ok(()) } }
    });
}

/// Listens, so that a taken port is known before anything is made.
async fn bind(config: &Config, data: &DataDir) -> anyhow::Result<Server> {
    let certificates = match (&config.tls.certificate, &config.tls.key) {
        (Some(certificate), Some(key)) => Some(Certificates::given(certificate, key)?),
        _ if config.listen.ip().is_loopback() => None,
        _ => Some(Certificates::generated(
            data.join("tls"),
            &address::names(config),
            Timestamp::now(),
        )?),
    };
    let options = ServerOptions::new(config.listen, certificates.map(Arc::new));
    match Server::bind(options).await {
        Ok(server) => Ok(server),
        Err(ServerError::Listen { address, source }) if source.kind() == std::io::ErrorKind::AddrInUse => {
            bail!("{address} is in use by another program: choose another address with --listen")
        }
        Err(ServerError::Listen { address, source }) if source.kind() == std::io::ErrorKind::AddrNotAvailable => {
            bail!("{address} is not an address of this machine: choose another with --listen")
        }
        Err(error) => Err(error.into()),
    }
}

/// Asks every service's root over HTTP, as a client would, until all of them answer.
async fn everything_answers(endpoint: &Endpoint) -> anyhow::Result<()> {
    let client = Client::new(endpoint)?;
    for service in domains::SERVICES {
        let path = service.path;
        client
            .get(&format!("{path}/"))
            .await
            .with_context(|| format!("the API at {path} does not answer"))?;
    }
    client.get("/readyz").await.context("not everything is ready")?;
    Ok(())
}

/// Writes the files and says where they are, for people.
fn write_credentials(data: &DataDir, endpoint: &Endpoint, credentials: &Credentials) -> anyhow::Result<String> {
    credentials::write_all(data, endpoint, credentials)?;
    let openrc = data.shown("openrc");
    if !data.is_default() {
        return Ok(openrc);
    }
    // Not being able to link is no reason not to be up.
    match credentials::link_clouds(data) {
        Ok(Some(link)) => Ok(format!("{openrc}, {link}")),
        Ok(None) => Ok(format!("{openrc}, {}", data.shown("clouds.yaml"))),
        Err(error) => {
            warn!(
                error = format!("{error:#}"),
                "clients will not find clouds.yaml by themselves"
            );
            Ok(openrc)
        }
    }
}

async fn stop(group: &TaskGroup, store: &Store, told: &mut Told) {
    info!("stopping");
    let stopping = async {
        let late = group.shutdown(GOODBYE).await;
        if !late.is_empty() {
            warn!(?late, "did not end in time");
        }
        store.close().await;
    };
    tokio::select! {
        () = stopping => info!("stopped"),
        () = told.stop_asked() => warn!("told twice: ending at once"),
    }
}

/// SIGTERM and SIGINT.
struct Told {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Told {
    fn listen() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("could not listen for signals");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    async fn stop_asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Each connection, disk and tap is a file; the usual soft limit of 1024 is for programs that use select.
fn raise_file_limit() {
    let raised = getrlimit(Limit::RLIMIT_NOFILE).and_then(|(_, most)| setrlimit(Limit::RLIMIT_NOFILE, most, most));
    if let Err(error) = raised {
        warn!(%error, "could not raise the limit of open files");
    }
}
