//! The contract on SQLite and on etcd.

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use madang_store::{
    Backend, Etcd, EtcdOptions, Sqlite, SqliteOptions,
    contract::{CHECKS, Lab},
};

use crate::cluster::Cluster;

pub(crate) struct SqliteLab {
    dir: tempfile::TempDir,
}

impl SqliteLab {
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }
}

#[async_trait]
impl Lab for SqliteLab {
    async fn open(&self) -> Arc<dyn Backend> {
        Arc::new(
            Sqlite::open(SqliteOptions::new(self.dir.path().join("state.db")))
                .await
                .unwrap(),
        )
    }

    async fn open_backup(&self, backup: PathBuf) -> Option<Arc<dyn Backend>> {
        let path = backup.with_extension("restored");
        Sqlite::restore(&backup, &path).await.unwrap();
        Some(Arc::new(Sqlite::open(SqliteOptions::new(path)).await.unwrap()))
    }

    fn scratch(&self) -> PathBuf {
        self.dir.path().to_owned()
    }
}

/// A prefix of its own for each.
pub(crate) struct EtcdLab {
    address: String,
    dir: tempfile::TempDir,
}

impl EtcdLab {
    pub(crate) fn new(cluster: &Cluster) -> Self {
        Self {
            address: cluster.fresh_address(),
            dir: tempfile::tempdir().unwrap(),
        }
    }
}

#[async_trait]
impl Lab for EtcdLab {
    async fn open(&self) -> Arc<dyn Backend> {
        let options = EtcdOptions::parse(&self.address).unwrap();
        Arc::new(Etcd::open(options).await.unwrap())
    }

    /// Restored as SQLite, and copied from there.
    async fn open_backup(&self, backup: PathBuf) -> Option<Arc<dyn Backend>> {
        let path = backup.with_extension("restored");
        Sqlite::restore(&backup, &path).await.unwrap();
        let restored = Sqlite::open(SqliteOptions::new(path)).await.unwrap();
        let name = backup.file_name().unwrap().to_string_lossy().into_owned();
        let options = EtcdOptions::parse(&format!("{}-{name}", self.address)).unwrap();
        Etcd::copy_from(&restored, &options).await.unwrap();
        restored.close().await;
        Some(Arc::new(Etcd::open(options).await.unwrap()))
    }

    fn scratch(&self) -> PathBuf {
        self.dir.path().to_owned()
    }
}

async fn run_all() {
    for check in CHECKS {
        println!("{}", check.name); // shown when it fails
        check.run(&SqliteLab::new()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_keeps_the_contract() {
    run_all().await;
}

#[tokio::test]
async fn sqlite_keeps_the_contract_on_one_thread() {
    run_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_keeps_the_contract() {
    let cluster = Cluster::start();
    for check in CHECKS {
        let began = tokio::time::Instant::now();
        check.run(&EtcdLab::new(&cluster)).await;
        println!("{} ({} ms)", check.name, began.elapsed().as_millis());
    }
}
