//! The contract on SQLite and on etcd.

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use madang_store::{
    Backend, Sqlite, SqliteOptions,
    contract::{CHECKS, Lab},
};

use crate::cluster::{Cluster, EtcdLab};

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
