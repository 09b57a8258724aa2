//! Small durable transactions from 64 writers; `cargo bench -p madang-store` looks closer. On three members of etcd beside
//! what etcd's own measure, `etcdctl check perf`, reaches on the same members.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context;
use madang_store::{Backend, Cause, Etcd, EtcdOptions, Expect, Key, Sqlite, SqliteOptions, Txn, Write};
use tokio::{task::JoinSet, time::Instant};

use crate::{
    cloud::Bench,
    cluster::Cluster,
    report::{Better, Report},
};

const WRITERS: usize = 64;
const SPAN: Duration = Duration::from_secs(3);
const TIMES: usize = 3;

pub async fn run(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    let mut rates = Vec::new();
    for _ in 0..TIMES {
        let directory = tempfile::tempdir_in(&bench.scratch)?;
        rates.push(rate(Engine::Sqlite(directory.path().join("store.db"))).await?);
    }
    report.add(
        "durable small transactions, 64 writers",
        "1/s",
        &rates,
        10_000.0,
        Better::Higher,
    );
    Ok(())
}

/// Three members on this machine, for both rows.
pub async fn run_on_etcd(report: &mut Report) -> anyhow::Result<()> {
    let cluster = tokio::task::spawn_blocking(Cluster::start).await?;
    let mut rates = Vec::new();
    for _ in 0..TIMES {
        rates.push(rate(Engine::Etcd(cluster.fresh_address())).await?);
    }
    let (_, said) = tokio::task::spawn_blocking(move || cluster.check_perf()).await?;
    let theirs = throughput(&said).with_context(|| format!("etcdctl check perf says no throughput: {said}"))?;
    report.add(
        "durable small transactions on three-member etcd, 64 writers",
        "1/s",
        &rates,
        0.7 * theirs,
        Better::Higher,
    );
    let shares: Vec<f64> = rates.iter().map(|rate| 100.0 * rate / theirs).collect();
    report.add(
        "of what `etcdctl check perf` writes on the same members",
        "%",
        &shares,
        70.0,
        Better::Higher,
    );
    Ok(())
}

/// Of `… Throughput is 1234 writes/s`, or `… too low: 1234 writes/s`.
fn throughput(said: &str) -> Option<f64> {
    let (before, _) = said.split_once(" writes/s")?;
    before.rsplit(' ').next()?.parse().ok()
}

enum Engine {
    Sqlite(PathBuf),
    Etcd(String),
}

impl Engine {
    async fn open(self) -> anyhow::Result<Arc<dyn Backend>> {
        Ok(match self {
            Self::Sqlite(path) => Arc::new(Sqlite::open(SqliteOptions::new(path)).await?),
            Self::Etcd(address) => Arc::new(Etcd::open(EtcdOptions::parse(&address)?).await?),
        })
    }
}

/// On a runtime of its own with two workers, as madang's.
async fn rate(engine: Engine) -> anyhow::Result<f64> {
    tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let store = engine.open().await?;
            let began = Instant::now();
            let mut tasks = JoinSet::new();
            for writer in 0..WRITERS {
                tasks.spawn(write(Arc::clone(&store), writer, began + SPAN));
            }
            let mut total = 0;
            while let Some(done) = tasks.join_next().await {
                total += done??;
            }
            let rate = total as f64 / began.elapsed().as_secs_f64();
            store.close().await;
            anyhow::Ok(rate)
        })
    })
    .await?
}

async fn write(store: Arc<dyn Backend>, writer: usize, until: Instant) -> anyhow::Result<u64> {
    let mut count = 0;
    while Instant::now() < until {
        let key = Key::new("things", "project", "", format!("{writer}-{count}"));
        let value = format!(r#"{{"v":1,"number":{count},"text":"{}"}}"#, "x".repeat(200));
        let txn = Txn {
            expects: vec![Expect::Absent(key.clone())],
            writes: vec![Write::Put(key, value.into())],
            cause: Cause::system("bench"),
            at: jiff::Timestamp::now(),
        };
        store.txn(txn).await?;
        count += 1;
    }
    Ok(count)
}
