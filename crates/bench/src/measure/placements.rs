//! Placements at scale, in this process, with madang's own store and scheduler: the plan alone, claims written and placed
//! through the store, what they take in memory, and a start with all of them.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use madang_scheduler::{
    Claim, ClaimSpec, DISK_GB, Inventory, MEMORY_MB, Options, Provider, ProviderSpec, VCPU,
    ask::Ask,
    claim::{heal, rules::usage_group},
    control::{Scheduler, follow},
    plan::choose,
    snapshot::Snapshot,
};
use madang_store::{
    Backend, Cause, Change, Key, Metadata, Resource, Sqlite, SqliteOptions, Store, StoreBuilder, StoreError,
};
use tokio::time::Instant;

use crate::{
    cloud::Bench,
    report::{Better, Report},
};

/// Claims written in one transaction.
const TOGETHER: usize = 256;
/// Transactions of them under way.
const WRITERS: usize = 4;
/// Claims written before they are placed.
const PORTION: usize = 16 * 1024;
/// Claims that are planned alone, at most: the rate is the same from there on.
const PLANNED: usize = 200_000;

/// What was found.
struct Found {
    planned: f64,
    written: f64,
    placed: f64,
    memory: f64,
    disk: f64,
    started: f64,
}

pub async fn run(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    let (hosts, workloads) = bench.placed;
    let directory = tempfile::tempdir_in(&bench.scratch)?;
    let path = directory.path().to_owned();
    // On a runtime of its own with two workers, as madang's.
    let found = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        let found = runtime.block_on(stored(&path, hosts, workloads))?;
        // Afterwards, since what is measured of memory is what this process has more than before.
        let planned = plan(hosts, workloads.min(PLANNED))?;
        anyhow::Ok(Found { planned, ..found })
    });
    let found = found.await??;
    let cloud = format!("{hosts} hosts, {workloads} workloads");
    let mut row = |what: &str, unit: &str, value: f64, wanted: f64, better: Better| {
        report.add(&format!("{cloud}: {what}"), unit, &[value], wanted, better);
    };
    row(
        "planned, without the store",
        "1/s",
        found.planned,
        20_000.0,
        Better::Higher,
    );
    row("claims written", "1/s", found.written, 10_000.0, Better::Higher);
    row(
        "claims placed through the store",
        "1/s",
        found.placed,
        10_000.0,
        Better::Higher,
    );
    row("memory of each", "bytes", found.memory, 1500.0, Better::Lower);
    row("disk of each", "bytes", found.disk, 2000.0, Better::Lower);
    row("start with all of them", "s", found.started, 10.0, Better::Lower);
    Ok(())
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
    // Nobody tells that it is alive: it is for the whole measure.
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

/// How many hosts are chosen in a second, on one core.
fn plan(hosts: usize, workloads: usize) -> anyhow::Result<f64> {
    let mut snapshot = Snapshot::default();
    for number in 0..hosts {
        let new = provider(number, (workloads / hosts) as i64);
        snapshot.provider_changed(&Change {
            old: None,
            new: Some(Arc::new(new)),
        });
    }
    let options = Options::default();
    let began = Instant::now();
    for number in 0..workloads {
        let mut claim = claim(number);
        let ask = Ask::new(&claim.spec, claim.project(), Vec::new(), |_| None);
        let start = number.wrapping_mul(31) % hosts;
        let choice = choose(&snapshot, &options, &ask, Timestamp::now(), start)
            .map_err(|nowhere| anyhow::anyhow!(nowhere.reason))?;
        claim.status.host = Some(choice.host);
        claim.status.provider = Some(choice.provider);
        snapshot.claim_changed(&Change {
            old: None,
            new: Some(Arc::new(claim)),
        });
    }
    Ok(rate(workloads, began.elapsed()))
}

async fn open(directory: &Path) -> anyhow::Result<Store> {
    let mut builder = StoreBuilder::new();
    madang_scheduler::register(&mut builder);
    let backend = Sqlite::open(SqliteOptions::new(directory.join("store.db"))).await?;
    Ok(builder.open(Arc::new(backend) as Arc<dyn Backend>).await?)
}

async fn write(store: &Store, numbers: &[usize]) -> Result<Vec<Key>, StoreError> {
    let mut tx = store.begin(Cause::system("bench"));
    let made = numbers.iter().map(|number| Ok(tx.create(claim(*number))?.key()));
    let keys = made.collect::<Result<_, StoreError>>()?;
    tx.commit().await?;
    Ok(keys)
}

async fn stored(directory: &Path, hosts: usize, workloads: usize) -> anyhow::Result<Found> {
    let store = open(directory).await?;
    for some in (0..hosts).collect::<Vec<_>>().chunks(1000) {
        let mut tx = store.begin(Cause::system("bench"));
        for number in some {
            tx.create(provider(*number, (workloads / hosts) as i64))?;
        }
        tx.commit().await?;
    }
    let scheduler = Scheduler::new(store.clone(), Options::default(), follow(&store).await?);
    let before = resident()?;
    let (mut writing, mut placing) = (Duration::ZERO, Duration::ZERO);
    for some in (0..workloads).collect::<Vec<_>>().chunks(PORTION) {
        let began = Instant::now();
        let written = futures_util::stream::iter(some.chunks(TOGETHER)).map(|some| write(&store, some));
        let keys: Vec<Vec<Key>> = written.buffered(WRITERS).try_collect().await?;
        writing += began.elapsed();
        let began = Instant::now();
        scheduler.place(&keys.concat()).await?;
        placing += began.elapsed();
    }
    let memory = (resident()? - before) as f64 / workloads as f64;
    let claims = store.cache::<Claim>();
    let placed = claims.all().iter().filter(|claim| claim.status.host.is_some()).count();
    ensure!(placed == workloads, "only {placed} of {workloads} were placed");
    let is_over = |provider: &Arc<Resource<Provider>>| {
        let used = store.counters("", &usage_group(provider.name()));
        let capacity = |class: &String| provider.spec.inventories.get(class).map_or(0, Inventory::capacity);
        used.iter().any(|(class, used)| *used > capacity(class))
    };
    let over = store
        .cache::<Provider>()
        .all()
        .iter()
        .filter(|one| is_over(one))
        .count();
    ensure!(over == 0, "{over} hosts have given more than they have");
    drop(scheduler);
    store.close().await;
    let disk = std::fs::metadata(directory.join("store.db"))?.len();
    drop(store);

    let began = Instant::now();
    let store = open(directory).await?;
    let loaded = began.elapsed();
    follow(&store).await?;
    let followed = began.elapsed();
    ensure!(heal::drifts(&store).is_empty(), "what is counted is not what is there");
    let started = began.elapsed();
    eprintln!(
        "  caches after {loaded:.1?}, the snapshot after {followed:.1?}, the counters compared after {started:.1?}"
    );
    store.close().await;
    Ok(Found {
        planned: 0.0,
        written: rate(workloads, writing),
        placed: rate(workloads, placing),
        memory,
        disk: disk as f64 / workloads as f64,
        started: started.as_secs_f64(),
    })
}

/// The process's memory in bytes.
fn resident() -> anyhow::Result<u64> {
    let sizes = std::fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = sizes.split(' ').nth(1).context("no resident size")?.parse()?;
    Ok(pages * 4096)
}
