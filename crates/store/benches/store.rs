//! What the store can do on this machine: durable transactions, latency, typed creates, watch fan-out, lookups, memory.
//!
//! `cargo bench -p madang-store` prints a table; a word after `--` picks lines by their name. The database is made in
//! `MADANG_BENCH_DIR`, or in the directory for temporary files: put it on the disk that is to be measured.

use std::{
    hint::black_box,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use madang_store::{
    Backend, Cause, Delta, Expect, Indexes, Key, Kind, Metadata, Op, Prefix, Resource, Revision, Sqlite, SqliteOptions,
    Store, StoreBuilder, StoreError, Txn, Write,
};
use serde::{Deserialize, Serialize};
use tokio::{task::JoinSet, time::Instant};

/// How long each throughput is measured.
const SPAN: Duration = Duration::from_secs(3);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct MachineSpec {
    display_name: String,
    flavor: String,
    image: String,
    network: Vec<String>,
    user_data: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct MachineStatus {
    state: String,
    host: Option<String>,
    addresses: Vec<String>,
}

struct Machine;

impl Kind for Machine {
    const NAME: &'static str = "machines";
    type Spec = MachineSpec;
    type Status = MachineStatus;

    fn indexes() -> Indexes<Self> {
        Indexes::<Self>::new()
            .on("host", |m| m.status.host.iter().cloned().collect())
            .on("display_name", |m| vec![m.spec.display_name.clone()])
    }
}

fn machine(project: &str, number: u64) -> Resource<Machine> {
    let spec = MachineSpec {
        display_name: format!("machine-{number}"),
        flavor: "m1.small".to_owned(),
        image: "f1c0a1de-aaaa-4bbb-8ccc-000000000001".to_owned(),
        network: vec!["f1c0a1de-aaaa-4bbb-8ccc-000000000002".to_owned()],
        user_data: "#!/bin/sh\necho hello".to_owned(),
    };
    let mut machine = Resource::<Machine>::new(Metadata::with_id(project), spec);
    machine.status.host = Some(format!("host-{}", number % 100));
    machine.status.state = "ACTIVE".to_owned();
    machine
}

struct Place {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

fn place() -> Place {
    let dir = match std::env::var_os("MADANG_BENCH_DIR") {
        Some(parent) => tempfile::tempdir_in(parent),
        None => tempfile::tempdir(),
    };
    let dir = dir.expect("a directory for the database");
    let path = dir.path().join("state.db");
    Place { _dir: dir, path }
}

async fn engine(place: &Place) -> Arc<Sqlite> {
    Arc::new(
        Sqlite::open(SqliteOptions::new(&place.path))
            .await
            .expect("the database opens"),
    )
}

async fn store(place: &Place) -> Store {
    let mut builder = StoreBuilder::new();
    builder.rule::<Machine>(|tx, op| {
        if let Op::Create(new) = op {
            let (uid, project) = (new.metadata.uid, new.metadata.project.clone());
            tx.reserve("machine-ids", &uid.to_string(), uid)?;
            let one = Delta {
                field: "machines".to_owned(),
                add: 1,
                limit: Some(1 << 40),
            };
            tx.add(&project, "compute", vec![one]);
        }
        Ok(())
    });
    builder.open(engine(place).await).await.expect("the store opens")
}

fn cause() -> Cause {
    Cause::request("bench", "req-00000000-0000-4000-8000-000000000000")
}

fn put(writer: u64, number: u64) -> Txn {
    let key = Key::new(
        "things",
        "9f0c6a4e2c3b4a0c8d5e6f7081920304",
        "",
        format!("{writer:08x}-4000-8000-{number:012x}"),
    );
    let value = format!(r#"{{"v":1,"number":{number},"text":"{}"}}"#, "x".repeat(200));
    Txn {
        expects: vec![Expect::Absent(key.clone())],
        writes: vec![Write::Put(key, value.into())],
        cause: cause(),
        at: jiff::Timestamp::now(),
    }
}

/// What a load came to.
struct Load {
    /// A second.
    rate: f64,
    /// Sorted.
    latencies: Vec<Duration>,
    /// Processor time of the whole process for one of them, in microseconds: comparable on a machine that is busy.
    cpu_us: f64,
}

/// Runs `work(writer, number)` in `writers` tasks for [`SPAN`].
async fn load<F, R>(writers: u64, work: F) -> Load
where
    F: Fn(u64, u64) -> R + Send + Sync + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let work = Arc::new(work);
    let cpu_before = cpu_us();
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for writer in 0..writers {
        let work = Arc::clone(&work);
        tasks.spawn(async move {
            let mut latencies = Vec::new();
            while begun.elapsed() < SPAN {
                let one = Instant::now();
                work(writer, latencies.len() as u64).await;
                latencies.push(one.elapsed());
            }
            latencies
        });
    }
    let mut latencies = tasks.join_all().await.concat();
    let rate = latencies.len() as f64 / begun.elapsed().as_secs_f64();
    latencies.sort_unstable();
    let cpu_us = (cpu_us() - cpu_before) / latencies.len() as f64;
    Load {
        rate,
        latencies,
        cpu_us,
    }
}

fn report(name: &str, load: &Load) {
    let Load {
        rate,
        latencies,
        cpu_us,
    } = load;
    let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e6;
    let (median, p99) = (at(0.5), at(0.99));
    println!(
        "{name:<44} {rate:>8.0}/s   median {median:>6.0} µs   p99 {p99:>6.0} µs   processor {cpu_us:>5.1} µs each"
    );
}

/// Processor time of this process so far.
fn cpu_us() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(11)
        .take(2);
    ticks.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() * 10_000.0
}

async fn transactions(writers: u64) {
    let place = place();
    let engine = engine(&place).await;
    let of = Arc::clone(&engine);
    let load = load(writers, move |writer, number| {
        let engine = Arc::clone(&of);
        async move {
            engine.txn(put(writer, number)).await.expect("it is committed");
        }
    })
    .await;
    report(&format!("durable transactions, {writers} writers"), &load);
    engine.close().await;
}

async fn creates(writers: u64) {
    let place = place();
    let store = store(&place).await;
    let of = store.clone();
    let load = load(writers, move |writer, number| {
        let store = of.clone();
        async move {
            let mut tx = store.begin(cause());
            let made = tx
                .create(machine(&format!("project-{writer}"), number))
                .expect("the rules agree");
            tx.commit().await.expect("it is committed");
            assert!(store.get::<Machine>(&made.key()).is_some());
        }
    })
    .await;
    report(&format!("create by rules, cache caught up, {writers} writers"), &load);
    store.close().await;
}

async fn contended_updates(writers: u64) {
    let place = place();
    let store = store(&place).await;
    let mut tx = store.begin(cause());
    let key = tx.create(machine("p", 0)).expect("the rules agree").key();
    tx.commit().await.expect("it is committed");
    let of = store.clone();
    let load = load(writers, move |_, _| {
        let (store, key) = (of.clone(), key.clone());
        async move {
            let changed = store.modify::<Machine, StoreError>(&key, cause(), |m| {
                m.status.state.push('x');
                m.status.state.truncate(64);
                m.spec.user_data = uuid::Uuid::new_v4().to_string();
                Ok(())
            });
            changed.await.expect("it gets through");
        }
    })
    .await;
    report(&format!("updates of one resource, {writers} writers"), &load);
    store.close().await;
}

async fn fan_out(watchers: u64) {
    const TRANSACTIONS: u64 = 5_000;
    let place = place();
    let engine = engine(&place).await;
    let delivered = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..watchers {
        let mut watch = engine
            .watch(Prefix::kind("things"), Revision(0))
            .await
            .expect("it can be watched");
        let delivered = Arc::clone(&delivered);
        tasks.spawn(async move {
            for _ in 0..TRANSACTIONS {
                black_box(watch.next().await.expect("a change"));
                delivered.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let begun = Instant::now();
    let mut writers = JoinSet::new();
    for writer in 0..50 {
        let engine = Arc::clone(&engine);
        writers.spawn(async move {
            for number in 0..TRANSACTIONS / 50 {
                engine.txn(put(writer, number)).await.expect("it is committed");
            }
        });
    }
    writers.join_all().await;
    let written = begun.elapsed();
    tasks.join_all().await;
    let rate = delivered.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64();
    println!(
        "{:<44} {rate:>8.0}/s   ({watchers} watchers, {TRANSACTIONS} transactions in {written:.2?})",
        "watch: batches delivered"
    );
    engine.close().await;
}

async fn big_cache(count: u64) {
    let place = place();
    let filled = store(&place).await;
    let mut at = 0;
    while at < count {
        let mut tx = filled.begin(cause());
        for number in at..count.min(at + 500) {
            tx.create(machine(&format!("project-{}", number % 1000), number))
                .expect("the rules agree");
        }
        at += 500;
        tx.commit().await.expect("it is committed");
    }
    filled.close().await;
    drop(filled);
    let before = resident();
    let begun = Instant::now();
    let store = store(&place).await;
    let opened = begun.elapsed();
    let bytes = resident().saturating_sub(before) / count.max(1);
    println!(
        "{:<44} {opened:>8.2?}   about {bytes} bytes resident each",
        format!("open with {count} resources")
    );
    let all = store.cache::<Machine>().all();
    let mut names: Vec<_> = all
        .iter()
        .map(|m| (m.key(), m.name().to_owned(), m.spec.display_name.clone()))
        .collect();
    names.truncate(10_000);
    let cache = store.cache::<Machine>();
    each("cache: get by key", names.len(), |i| {
        _ = black_box(cache.get(&names[i].0))
    });
    each("cache: get by name", names.len(), |i| {
        _ = black_box(cache.by_name(&names[i].1))
    });
    each("cache: by an index, 1 found", names.len(), |i| {
        _ = black_box(cache.by("display_name", &names[i].2))
    });
    each("cache: by an index, 1000 found", 100, |i| {
        _ = black_box(cache.by("host", &format!("host-{i}")))
    });
    each("cache: in a project, 100 found", 1000, |i| {
        _ = black_box(cache.in_project(&format!("project-{i}")))
    });
    store.close().await;
}

fn each(name: &str, count: usize, mut one: impl FnMut(usize)) {
    let begun = Instant::now();
    let rounds = 20;
    for round in 0..rounds * count {
        one(round % count);
    }
    println!(
        "{name:<44} {:>8.0} ns",
        begun.elapsed().as_nanos() as f64 / (rounds * count) as f64
    );
}

/// This process's resident memory in bytes.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok())
        .unwrap_or_default()
        * 4096
}

#[tokio::main]
async fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let wants = |name: &str| wanted.is_empty() || wanted.iter().any(|word| name.contains(word.as_str()));
    if wants("open") {
        big_cache(100_000).await;
    }
    if wants("transactions") {
        transactions(64).await;
        transactions(1).await;
    }
    if wants("create") {
        creates(64).await;
        creates(1).await;
    }
    if wants("updates") {
        contended_updates(16).await;
    }
    if wants("fan-out") {
        fan_out(200).await;
    }
}
