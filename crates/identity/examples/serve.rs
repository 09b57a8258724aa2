//! Identity alone, for running the originals' own suites and clients against it:
//! `cargo run -p madang-identity --example serve -- 127.0.0.1:5000 /tmp/identity`, with `ADMIN_PASSWORD` in the
//! environment.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use axum::Router;
use madang_control::TaskGroup;
use madang_http::{Metrics, Server, ServerOptions};
use madang_identity::{
    Bootstrap, Identity, Options, POLICY, Policy, bootstrap, catalog::rules::CatalogEntry, register, router,
};
use madang_store::{Sqlite, SqliteOptions, StoreBuilder};

#[tokio::main]
async fn main() -> Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .init();
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().context("which address?")?.parse()?;
    let dir = PathBuf::from(arguments.next().context("which directory?")?);
    std::fs::create_dir_all(&dir)?;

    let mut builder = StoreBuilder::new();
    register(&mut builder);
    let store = builder
        .open(Arc::new(Sqlite::open(SqliteOptions::new(dir.join("store.db"))).await?))
        .await?;
    let mut policy = Policy::new();
    policy.register(POLICY);
    let identity = Identity::open(store.clone(), policy, Options::new(dir.join("keys"))).await?;
    let begun = Bootstrap {
        admin_password: std::env::var("ADMIN_PASSWORD").ok(),
        ..Bootstrap::new()
    };
    bootstrap(&identity, begun).await?;

    let group = TaskGroup::new("serve");
    let server = Server::bind(ServerOptions::new(address, None)).await?;
    let url = format!("{}/identity", server.url());
    let entry = CatalogEntry {
        service_type: "identity",
        name: "keystone",
        description: "who is who",
        url: url.clone(),
    };
    identity.publish("RegionOne", &[entry]).await?;
    identity.start(&group);
    let metrics = Metrics::new();
    server.serve(
        Router::new()
            .nest_service("/identity", router(&identity, &metrics))
            .merge(metrics.router()),
        &group,
    );
    println!("{url}/v3");
    tokio::signal::ctrl_c().await?;
    group.shutdown(Duration::from_secs(5)).await;
    store.close().await;
    Ok(())
}
