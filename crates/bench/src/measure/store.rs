//! Small durable transactions from 64 writers; `cargo bench -p madang-store` looks closer.

use std::{sync::Arc, time::Duration};

use madang_store::{Backend, Cause, Expect, Key, Sqlite, SqliteOptions, Txn, Write};
use tokio::{task::JoinSet, time::Instant};

use crate::{
    cloud::Bench,
    report::{Better, Report},
};

const WRITERS: usize = 64;
const SPAN: Duration = Duration::from_secs(3);
const TIMES: usize = 3;

pub async fn run(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    let mut rates = Vec::new();
    for _ in 0..TIMES {
        rates.push(rate(bench).await?);
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

/// On a runtime of its own with two workers, as madang's.
async fn rate(bench: &Bench) -> anyhow::Result<f64> {
    let directory = tempfile::tempdir_in(&bench.scratch)?;
    let path = directory.path().join("store.db");
    tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let store: Arc<dyn Backend> = Arc::new(Sqlite::open(SqliteOptions::new(path)).await?);
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
