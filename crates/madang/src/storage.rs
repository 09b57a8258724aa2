//! Which engine the state is in: SQLite in the data directory, or etcd, and how that is remembered.
//!
//! The address of a store in etcd is kept in `store.toml` once a madang has been up on it, so that all commands find it.
//! Such a store belongs to one data directory, which has the keys and the images that go with it: its instance's name is
//! in etcd, and another one is refused.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, bail};
use madang_store::{Backend, Etcd, EtcdOptions, EtcdTls, Sqlite, SqliteOptions};
use serde::{Deserialize, Serialize};

use crate::{
    config,
    data_dir::{DataDir, write_secret},
};

/// What etcd adds to a request before it measures it.
const AROUND_REQUEST: usize = 8 << 10;

/// What `store.toml` says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Elsewhere {
    address: String,
    ca: Option<PathBuf>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    max_txn_ops: usize,
    max_request_bytes: usize,
}

impl Elsewhere {
    fn read(data: &DataDir) -> anyhow::Result<Option<config::Store>> {
        let path = data.store_elsewhere();
        if !path.exists() {
            return Ok(None);
        }
        let said = || format!("could not read {}", path.display());
        let text = fs::read_to_string(&path).with_context(said)?;
        let Self {
            address,
            ca,
            certificate,
            key,
            max_txn_ops,
            max_request_bytes,
        } = toml::from_str(&text).with_context(said)?;
        Ok(Some(config::Store {
            address: Some(address),
            ca,
            certificate,
            key,
            max_txn_ops,
            max_request_bytes,
            take_over: false,
        }))
    }

    fn keep(data: &DataDir, address: &str, store: &config::Store) -> anyhow::Result<()> {
        let absolute = |path: &Option<PathBuf>| path.as_deref().map(std::path::absolute).transpose();
        let this = Self {
            address: address.to_owned(),
            ca: absolute(&store.ca)?,
            certificate: absolute(&store.certificate)?,
            key: absolute(&store.key)?,
            max_txn_ops: store.max_txn_ops,
            max_request_bytes: store.max_request_bytes,
        };
        write_secret(&data.store_elsewhere(), &toml::to_string(&this)?)
    }
}

/// How to open the store in etcd at an address.
///
/// # Errors
/// When the address is none, or a file cannot be read.
pub fn etcd(address: &str, store: &config::Store) -> anyhow::Result<EtcdOptions> {
    let mut options = EtcdOptions::parse(address)?;
    let read = |path: &Path| fs::read(path).with_context(|| format!("could not read {}", path.display()));
    options.tls = match (&store.ca, &store.certificate, &store.key) {
        (None, None, None) => None,
        (None, ..) => bail!("a certificate for etcd needs its authority, too: give store.ca (--store-ca)"),
        (Some(ca), certificate, key) => {
            let identity = certificate.as_deref().zip(key.as_deref());
            let identity = identity.map(|(certificate, key)| anyhow::Ok((read(certificate)?, read(key)?)));
            Some(EtcdTls {
                ca: read(ca)?,
                identity: identity.transpose()?,
            })
        }
    };
    options.max_txn_ops = store.max_txn_ops;
    options.max_request_bytes = store.max_request_bytes - AROUND_REQUEST;
    Ok(options)
}

/// Opens the store of a data directory, for the instance that runs on it.
///
/// # Errors
/// When it cannot be opened, belongs to somebody else, or there is another one in the directory already.
pub async fn open(asked: &config::Store, data: &DataDir, instance: &str) -> anyhow::Result<Arc<dyn Backend>> {
    let remembered = Elsewhere::read(data)?;
    let is_known = remembered.is_some();
    let before = remembered.as_ref().and_then(|remembered| remembered.address.clone());
    let store = match (&asked.address, remembered) {
        (None, Some(remembered)) => config::Store {
            take_over: asked.take_over,
            ..remembered
        },
        _ => asked.clone(),
    };
    let address = match store.address.as_deref() {
        None | Some("sqlite") => {
            if is_known && !data.database().exists() {
                bail!(
                    "the state of {} is in etcd ({}): bring it back first, with `madang migrate --from etcd:… --to sqlite:{}`",
                    data.path().display(),
                    data.store_elsewhere().display(),
                    data.database().display()
                );
            }
            let backend = Sqlite::open(SqliteOptions::new(data.database())).await;
            let backend = backend.context("could not open the store")?;
            if is_known {
                fs::remove_file(data.store_elsewhere()).context("could not forget the store in etcd")?;
            }
            return Ok(Arc::new(backend));
        }
        Some(address) => address,
    };
    let mut options = etcd(address, &store)?;
    options.owner = Some(format!("instance {instance}"));
    options.take_over = store.take_over;
    let is_elsewhere = match &before {
        Some(before) => before != address,
        None => data.database().exists(),
    };
    let said = "could not open the store in etcd";
    if is_elsewhere && !Etcd::exists(&options).await.context(said)? {
        let from = before.unwrap_or_else(|| format!("sqlite:{}", data.database().display()));
        bail!(
            "the state of {} is in {from}, and there is nothing at {address}: bring it there first, with `madang migrate \
             --from {from} --to {address}`, or name another --data-dir",
            data.path().display(),
        );
    }
    let backend = Etcd::open(options).await.map_err(|error| {
        let is_taken = error.to_string().contains("belongs to");
        let error = anyhow::Error::new(error).context(said);
        if !is_taken {
            return error;
        }
        error.context(
            "this store is another madang's: go on with its data directory (DIR/instance names it); if that is gone for good, \
             --store-take-over",
        )
    })?;
    Elsewhere::keep(data, address, &store)?;
    Ok(Arc::new(backend))
}

/// Writes a copy of the store of a data directory, as an SQLite database, whether or not madang is up on it.
///
/// # Errors
/// When it cannot be read or the copy cannot be written.
pub async fn copy(data: &DataDir, to: &Path) -> anyhow::Result<()> {
    let Some(store) = Elsewhere::read(data)? else {
        let copied = Sqlite::copy(&data.database(), to).await;
        return copied.context("could not copy the store");
    };
    let options = etcd(store.address.as_deref().unwrap_or_default(), &store)?;
    let backend = Etcd::open(options).await.context("could not open the store in etcd")?;
    let copied = backend.backup(to).await;
    backend.close().await;
    copied.context("could not copy the store in etcd")
}
