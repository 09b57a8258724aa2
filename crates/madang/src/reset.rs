//! `madang identity reset-admin`: back in when `credentials.toml` is lost or wrong.
//!
//! Whoever owns the data directory has the keys that tokens are made with, so this opens nothing that was closed. A running
//! cloud is asked through its own API, with a token made from those keys; a stopped one is changed in its store, where
//! also a missing admin, or one without its roles, is made whole.

use std::sync::Arc;

use anyhow::Context;
use http::Method;
use madang_identity::{BackDoor, Identity, Options, reset_admin};
use madang_store::{Backend, Sqlite, SqliteOptions, StoreBuilder};
use serde_json::json;

use crate::{
    client::Client,
    console::line,
    credentials::{self, Credentials, Endpoint},
    data_dir::DataDir,
    policy, storage,
};

/// Makes new passwords, gives them to the cloud, and writes the files.
///
/// # Errors
/// When there is no cloud in the directory, or it does not take them.
pub async fn run(data: &DataDir) -> anyhow::Result<()> {
    data.require_used()?;
    let file = data.join("credentials.toml");
    // A file that holds no credentials is as good as none.
    let kept = Credentials::load(&file).unwrap_or_default();
    let new = Credentials::replacing_admin(kept.clone());
    // The demo user's password is its own affair where the file still has one.
    let demo = kept.is_none().then_some(new.demo_password.as_str());

    match data.holder() {
        Some(_) => running(data, &new, demo).await?,
        None => stopped(data, &new, demo).await?,
    }
    new.keep(&file)?;
    match Endpoint::read(data) {
        Ok(endpoint) => credentials::write_all(data, &endpoint, &new)?,
        Err(_) => line("openrc is written by the next `madang up`"),
    }
    line(&format!(
        "admin has a new password: {} and {}",
        data.shown("credentials.toml"),
        data.shown("admin-openrc")
    ));
    Ok(())
}

async fn stopped(data: &DataDir, new: &Credentials, demo: Option<&str>) -> anyhow::Result<()> {
    let _lock = data.lock()?;
    let instance = std::fs::read_to_string(data.join("instance")).unwrap_or_default();
    let backend = storage::open(&crate::config::Store::default(), data, instance.trim()).await?;
    let identity = open(data, backend).await?;
    let reset = reset_admin(&identity, &new.admin_password, demo).await;
    identity.store().close().await;
    reset.map_err(|failure| anyhow::anyhow!(failure.message))
}

async fn running(data: &DataDir, new: &Credentials, demo: Option<&str>) -> anyhow::Result<()> {
    let endpoint =
        Endpoint::read(data).context("without admin-openrc the cloud cannot be reached: stop it and try again")?;
    let BackDoor {
        token,
        admin,
        demo: demo_id,
    } = back_door(data).await?;
    let (admin_client, nobody) = (Client::with_token(&endpoint, token)?, Client::new(&endpoint)?);
    // The admin's own last: it ends the token.
    let demo = demo_id.zip(demo);
    for (id, password) in demo.into_iter().chain([(admin, new.admin_password.as_str())]) {
        let given = set_password(&admin_client, &nobody, &id, password).await;
        given.context("the running cloud does not take it: stop it and try again")?;
    }
    Ok(())
}

/// Through one that holds for a moment: what somebody else chose may have to be changed before it is good for anything,
/// what a user chose itself is not.
async fn set_password(admin: &Client, nobody: &Client, id: &str, password: &str) -> anyhow::Result<()> {
    let (path, passing) = (format!("/identity/v3/users/{id}"), credentials::password());
    let body = json!({"user": {"password": passing, "enabled": true}});
    admin.send(Method::PATCH, &path, &body).await?;
    let body = json!({"user": {"original_password": passing, "password": password}});
    nobody.send(Method::POST, &format!("{path}/password"), &body).await?;
    Ok(())
}

/// A token for the running cloud, from its keys and a copy of its store.
async fn back_door(data: &DataDir) -> anyhow::Result<BackDoor> {
    let scratch = tempfile::Builder::new().prefix("reset-").tempdir_in(data.path())?;
    let copy = scratch.path().join("store.db");
    storage::copy(data, &copy).await?;
    let backend = Sqlite::open(SqliteOptions::new(copy)).await;
    let backend: Arc<dyn Backend> = Arc::new(backend.context("could not open the copy of the store")?);
    let identity = open(data, backend).await?;
    let door = identity.back_door();
    identity.store().close().await;
    door.map_err(|failure| anyhow::anyhow!("{}: stop the cloud and try again", failure.message))
}

async fn open(data: &DataDir, backend: Arc<dyn Backend>) -> anyhow::Result<Arc<Identity>> {
    let mut builder = StoreBuilder::new();
    madang_identity::register(&mut builder);
    let store = builder.open(backend).await.context("could not read the store")?;
    let opened = Identity::open(store, policy::defaults(), Options::new(data.join("keys"))).await;
    opened.context("could not open identity")
}
