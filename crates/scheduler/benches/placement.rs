//! Placements at scale: `cargo bench -p madang-scheduler --bench placement [HOSTS WORKLOADS]`.
//!
//! 1. The plan alone: how many hosts are chosen in a second, on one core.
//! 2. Through the store: claims written, placed in rounds, and what they cost in memory and on disk.
//! 3. How long a start takes with all of them.
#![allow(clippy::unwrap_used, reason = "a bench that cannot go on has failed")]

use std::{path::Path, sync::Arc, time::Duration};

use jiff::Timestamp;
use madang_scheduler::{
    Claim, ClaimSpec, DISK_GB, Inventory, MEMORY_MB, Options, Provider, ProviderSpec, VCPU,
    ask::Ask,
    control::{Scheduler, follow},
    plan::choose,
    snapshot::Snapshot,
};
use madang_store::{Backend, Cause, Change, Key, Metadata, Resource, Sqlite, SqliteOptions, Store, StoreBuilder};
use tokio::time::Instant;

fn main() {
    let mut numbers = std::env::args().skip(1).filter_map(|text| text.parse::<usize>().ok());
    let hosts = numbers.next().unwrap_or(10_000);
    let workloads = numbers.next().unwrap_or(1_000_000);
    println!("{hosts} hosts, {workloads} workloads");
    plan(hosts, workloads);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(stored(hosts, workloads));
}

/// A host that has room for a fifth more than its share of the workloads.
fn provider(number: usize, each: i64) -> Resource<Provider> {
    let inventory = |total: i64, allocation_ratio: f64| Inventory {
        total,
        reserved: 0,
        min_unit: 1,
        max_unit: total,
        step_size: 1,
        allocation_ratio,
    };
    let room = each + each / 5 + 1;
    let spec = ProviderSpec {
        name: format!("host-{number:05}"),
        zone: "nova".to_owned(),
        inventories: [
            (VCPU, inventory(room.div_euclid(4) + 1, 4.0)),
            (MEMORY_MB, inventory(room * 512, 1.0)),
            (DISK_GB, inventory(room * 2, 1.0)),
        ]
        .map(|(class, one)| (class.to_owned(), one))
        .into(),
        drivers: vec!["simulated".to_owned()],
        is_enabled: true,
        ..ProviderSpec::default()
    };
    let mut provider = Resource::<Provider>::new(Metadata::with_id(""), spec);
    provider.status.seen = Some(Timestamp::now() + Duration::from_secs(170));
    provider
}

fn claim(number: usize) -> Resource<Claim> {
    let spec = ClaimSpec {
        user: format!("{:032x}", number % 100),
        consumer_kind: "servers".to_owned(),
        resources: [(VCPU, 1), (MEMORY_MB, 512), (DISK_GB, 2)].into(),
        driver: "qemu".to_owned(),
        ..ClaimSpec::default()
    };
    Resource::<Claim>::new(Metadata::with_id(format!("{:032x}", number % 1000)), spec)
}

fn rate(count: usize, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

fn plan(hosts: usize, workloads: usize) {
    let mut snapshot = Snapshot::default();
    for number in 0..hosts {
        snapshot.provider_changed(&Change {
            old: None,
            new: Some(Arc::new(provider(number, (workloads / hosts) as i64))),
        });
    }
    let options = Options::default();
    let began = Instant::now();
    for number in 0..workloads {
        let mut claim = claim(number);
        let ask = Ask::new(&claim.spec, claim.project(), Vec::new(), |_| None);
        let start = number.wrapping_mul(31) % hosts;
        let choice = choose(&snapshot, &options, &ask, Timestamp::now(), start).unwrap();
        claim.status.host = Some(choice.host);
        claim.status.provider = Some(choice.provider);
        snapshot.take(&Arc::new(claim));
    }
    let took = began.elapsed();
    let most = (0..hosts)
        .filter_map(|at| snapshot.host(at))
        .map(|host| host.servers)
        .max()
        .unwrap();
    let least = (0..hosts)
        .filter_map(|at| snapshot.host(at))
        .map(|host| host.servers)
        .min()
        .unwrap();
    println!(
        "plan alone: {:.0} placements/s; {least} to {most} workloads on a host",
        rate(workloads, took)
    );
}

async fn open(dir: &Path) -> Store {
    let mut builder = StoreBuilder::new();
    madang_scheduler::register(&mut builder);
    let backend = Sqlite::open(SqliteOptions::new(dir.join("store.db"))).await.unwrap();
    builder.open(Arc::new(backend) as Arc<dyn Backend>).await.unwrap()
}

async fn stored(hosts: usize, workloads: usize) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    for some in (0..hosts).collect::<Vec<_>>().chunks(1000) {
        let mut tx = store.begin(Cause::system("bench"));
        for number in some {
            tx.create(provider(*number, (workloads / hosts) as i64)).unwrap();
        }
        tx.commit().await.unwrap();
    }
    let snapshot = follow(&store).await.unwrap();
    let mut scheduler = Scheduler {
        store: store.clone(),
        options: Options::default(),
        snapshot,
        turn: 0,
    };
    let before = resident();
    let (mut writing, mut placing) = (Duration::ZERO, Duration::ZERO);
    for some in (0..workloads).collect::<Vec<_>>().chunks(1024) {
        let began = Instant::now();
        let mut keys: Vec<Key> = Vec::with_capacity(some.len());
        let mut tx = store.begin(Cause::system("bench"));
        for number in some {
            keys.push(tx.create(claim(*number)).unwrap().key());
        }
        tx.commit().await.unwrap();
        writing += began.elapsed();
        let began = Instant::now();
        scheduler.place(&keys).await.unwrap();
        placing += began.elapsed();
    }
    let placed = store.cache::<Claim>().len() - store.cache::<Claim>().count_by("pending", "yes");
    println!(
        "through the store: {:.0} claims written/s, {:.0} placed/s ({placed} placed); {} bytes of memory for each",
        rate(workloads, writing),
        rate(workloads, placing),
        (resident() - before) / workloads as u64
    );
    drop(scheduler);
    store.close().await;
    let disk: u64 = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|one| one.unwrap().metadata().unwrap().len())
        .sum();
    drop(store);
    let began = Instant::now();
    let store = open(dir.path()).await;
    let loaded = began.elapsed();
    let began = Instant::now();
    follow(&store).await.unwrap();
    println!(
        "start: {:.1} s to load {placed} claims, {:.1} s for the snapshot; {} bytes on disk for each",
        loaded.as_secs_f64(),
        began.elapsed().as_secs_f64(),
        disk / workloads as u64
    );
    store.close().await;
}

/// The process's memory in bytes.
fn resident() -> u64 {
    let pages: u64 = std::fs::read_to_string("/proc/self/statm")
        .unwrap()
        .split(' ')
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    pages * 4096
}
