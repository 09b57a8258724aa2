//! A process that writes is killed at random moments, again and again; afterwards everything it was told is true.
//!
//! The child is this test binary with [`CHILD`] set: 16 writers commit transactions of several keys and note each answer
//! in a file; a watcher notes what it was shown. The parent kills it, opens the database, and compares.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    hash::Hasher,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use jiff::Timestamp;
use madang_store::{
    Backend, Batch, Cause, Delta, Etcd, EtcdOptions, Event, Expect, Key, Prefix, Revision, Sqlite, SqliteOptions,
    StoreError, Txn, Write,
};
use rand::RngExt as _;

use crate::cluster::Cluster;

/// The directory a child works in.
const CHILD: &str = "MADANG_STORE_CRASH_CHILD";
const WRITERS: u64 = 16;
/// Names a writer uses in turn, beside its two fixed ones.
const RING: u64 = 16;
const KILLS: usize = 220;
/// Lives on one database before the next begins with none, so that checking stays quick.
const LIVES: usize = 20;

fn key(writer: u64, name: impl std::fmt::Display) -> Key {
    Key::new("things", format!("w{writer:02}"), "", name.to_string())
}

fn total() -> Key {
    Key::new("counters", "", "", "total")
}

/// `number` and some padding, so that rows move about in their pages.
fn value(number: u64) -> Bytes {
    format!(
        "{{\"n\":{number},\"pad\":\"{}\"}}",
        "x".repeat((number * 37 % 400) as usize)
    )
    .into()
}

fn number(value: &[u8]) -> u64 {
    let value: serde_json::Value = serde_json::from_slice(value).unwrap();
    value["n"].as_u64().unwrap()
}

/// A writer's transaction `n`: two fixed keys, one of the ring, one of the ring removed at times, and a counter.
fn transaction(writer: u64, n: u64, expect: Expect) -> Txn {
    let one = Delta {
        field: "n".to_owned(),
        add: 1,
        limit: None,
    };
    let mut writes = vec![
        Write::Put(key(writer, "a"), value(n)),
        Write::Put(key(writer, format!("ring-{}", n % RING)), value(n)),
        Write::Add(total(), vec![one]),
        Write::Put(key(writer, "b"), value(n)),
    ];
    if n.is_multiple_of(4) {
        writes.push(Write::Delete(key(writer, format!("ring-{}", (n + RING / 2) % RING))));
    }
    Txn {
        expects: vec![expect],
        writes,
        cause: Cause::request(format!("{writer}"), format!("{n}")),
        at: Timestamp::now(),
    }
}

fn digest(batch: &Batch) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    for Event { key, value } in &batch.events {
        hasher.write(key.encode().unwrap().as_bytes());
        hasher.write(value.as_deref().unwrap_or(b"-"));
    }
    hasher.finish()
}

fn notes(dir: &Path, name: &str) -> File {
    OpenOptions::new()
        .append(true)
        .create(true)
        .open(dir.join(name))
        .unwrap()
}

/// The engine of a directory: etcd at the address in its file `etcd`, or SQLite. Where there is a file `forgetful`, history
/// is so short that it is trimmed all the time.
async fn open(dir: &Path) -> Arc<dyn Backend> {
    let is_forgetful = dir.join("forgetful").exists();
    if let Ok(address) = std::fs::read_to_string(dir.join("etcd")) {
        let mut options = EtcdOptions::parse(&address).unwrap();
        options.owner = Some("the crash test".to_owned());
        if is_forgetful {
            options.keep_revisions = 50;
        }
        return Arc::new(Etcd::open(options).await.unwrap());
    }
    let mut options = SqliteOptions::new(dir.join("state.db"));
    if is_forgetful {
        options.keep_revisions = 50;
    }
    Arc::new(Sqlite::open(options).await.unwrap())
}

/// Not a test by itself: what the child does.
#[test]
fn crash_child() {
    let Some(dir) = std::env::var_os(CHILD).map(PathBuf::from) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let engine = open(&dir).await;
        let tasks = begin(&engine, &dir).await;
        // A parent that dies leaves nothing behind.
        _ = tokio::time::timeout(Duration::from_secs(20), tasks.join_all()).await;
    });
}

/// Writers, a watcher, and one who is always refused; from now on.
async fn begin(engine: &Arc<dyn Backend>, dir: &Path) -> tokio::task::JoinSet<()> {
    let mut tasks = tokio::task::JoinSet::new();
    let start = engine.revision().await.unwrap();
    tasks.spawn(watch_and_note(Arc::clone(engine), start, notes(dir, "watched")));
    for writer in 0..WRITERS {
        tasks.spawn(write_and_note(Arc::clone(engine), writer, notes(dir, "acknowledged")));
    }
    tasks.spawn(be_refused(Arc::clone(engine)));
    tasks
}

async fn write_and_note(engine: Arc<dyn Backend>, writer: u64, mut acknowledged: File) {
    let record = engine.get(&key(writer, "a")).await.unwrap();
    let mut n = record.as_ref().map_or(0, |record| number(&record.value));
    let mut expect = match record {
        Some(record) => Expect::At(record.key, record.modified),
        None => Expect::Absent(key(writer, "a")),
    };
    loop {
        n += 1;
        let revision = engine.txn(transaction(writer, n, expect)).await.unwrap();
        acknowledged
            .write_all(format!("{writer} {n} {revision}\n").as_bytes())
            .unwrap();
        expect = Expect::At(key(writer, "a"), revision);
    }
}

async fn be_refused(engine: Arc<dyn Backend>) {
    loop {
        let txn = Txn {
            expects: vec![Expect::At(key(0, "nothing"), Revision(1))],
            writes: vec![Write::Put(key(99, "never"), value(0))],
            cause: Cause::system("refused"),
            at: Timestamp::now(),
        };
        assert!(matches!(engine.txn(txn).await, Err(StoreError::NotFound { .. })));
        tokio::task::yield_now().await;
    }
}

async fn watch_and_note(engine: Arc<dyn Backend>, start: Revision, mut watched: File) {
    let mut watch = engine.watch(Prefix::all(), start).await.unwrap();
    loop {
        let batch = watch.next().await.unwrap();
        watched
            .write_all(format!("{} {}\n", batch.revision, digest(&batch)).as_bytes())
            .unwrap();
    }
}

/// What the parent knows of one database.
#[derive(Default)]
struct Witness {
    /// Everything up to here was seen by a watch that goes on after every crash.
    at: Revision,
    replica: BTreeMap<String, Bytes>,
    /// The last transaction of each writer, in the history seen so far.
    done: BTreeMap<u64, u64>,
    digests: BTreeMap<Revision, u64>,
    of_revision: BTreeMap<Revision, (u64, u64)>,
    checked_lines: [usize; 2],
}

impl Witness {
    /// Goes on watching, and compares what it was shown with what there is and with what the child was told.
    async fn check(&mut self, dir: &Path) {
        let engine = open(dir).await;
        let head = engine.revision().await.unwrap();
        let mut watch = match engine.watch(Prefix::all(), self.at).await {
            Err(StoreError::Compacted { compacted }) if dir.join("forgetful").exists() => {
                assert!(compacted > self.at);
                self.list_again(&*engine).await;
                engine.watch(Prefix::all(), self.at).await.unwrap()
            }
            watch => watch.unwrap(),
        };
        while self.at < head {
            let batch = watch.next().await.unwrap();
            assert_eq!(batch.revision, self.at.next(), "a watcher misses nothing");
            self.take(&batch);
        }
        let page = engine.range(&Prefix::all(), None, usize::MAX).await.unwrap();
        let listed: BTreeMap<_, _> = page
            .records
            .into_iter()
            .map(|record| (record.key.encode().unwrap(), record.value))
            .collect();
        assert!(listed == self.replica, "what the watcher was shown is what there is");
        engine.close().await;
        self.check_halves();
        self.check_notes(dir);
    }

    /// What a watcher does that is told that changes are gone.
    async fn list_again(&mut self, engine: &dyn Backend) {
        let page = engine.range(&Prefix::all(), None, usize::MAX).await.unwrap();
        self.at = page.revision;
        self.replica = page
            .records
            .into_iter()
            .map(|record| (record.key.encode().unwrap(), record.value))
            .collect();
        for writer in 0..WRITERS {
            if let Some(value) = self.replica.get(&key(writer, "a").encode().unwrap()) {
                let before = self.done.insert(writer, number(value)).unwrap_or_default();
                assert!(before <= number(value), "a writer goes back");
            }
        }
        self.digests.clear();
        self.of_revision.clear();
    }

    /// A transaction is there whole.
    fn take(&mut self, batch: &Batch) {
        let (writer, n): (u64, u64) = (batch.cause.actor.parse().unwrap(), batch.cause.request.parse().unwrap());
        let mut expected = transaction(writer, n, Expect::Absent(total())).writes;
        expected
            .retain(|write| !matches!(write, Write::Delete(key) if !self.replica.contains_key(&key.encode().unwrap())));
        assert_eq!(batch.events.len(), expected.len(), "no half transaction: {batch:?}");
        for (event, write) in batch.events.iter().zip(&expected) {
            let (Write::Put(key, _) | Write::Delete(key) | Write::Add(key, _)) = write;
            assert_eq!(event.key, *key);
            match &event.value {
                Some(value) => _ = self.replica.insert(key.encode().unwrap(), value.clone()),
                None => _ = self.replica.remove(&key.encode().unwrap()),
            }
        }
        let before = self.done.insert(writer, n).unwrap_or_default();
        assert_eq!(before + 1, n, "a writer's transactions come one after the other");
        self.digests.insert(batch.revision, digest(batch));
        self.of_revision.insert(batch.revision, (writer, n));
        self.at = batch.revision;
    }

    fn check_halves(&self) {
        for (writer, n) in &self.done {
            for name in ["a".to_owned(), "b".to_owned(), format!("ring-{}", n % RING)] {
                let held = self.replica.get(&key(*writer, &name).encode().unwrap());
                assert_eq!(held.map(|value| number(value)), Some(*n), "{name} of {writer}");
            }
        }
        let sum = self.done.values().sum::<u64>();
        if sum > 0 {
            let counted: BTreeMap<String, u64> =
                serde_json::from_slice(&self.replica[&total().encode().unwrap()]).unwrap();
            assert_eq!(counted["n"], sum, "the counter moves with its transaction");
        }
    }

    /// What the child was told, and what its watcher was shown, is so.
    fn check_notes(&mut self, dir: &Path) {
        let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap_or_default();
        let (acknowledged, watched) = (read("acknowledged"), read("watched"));
        for line in acknowledged.lines().skip(self.checked_lines[0]) {
            let parts: Vec<u64> = line.split(' ').map(|part| part.parse().unwrap()).collect();
            let (writer, n, revision) = (parts[0], parts[1], Revision(parts[2]));
            let there = match self.of_revision.get(&revision) {
                Some(there) => *there == (writer, n),
                // Before the list that this witness began with: its effect is there.
                None => self.of_revision.keys().next().is_none_or(|first| *first > revision) && self.done[&writer] >= n,
            };
            assert!(there, "an acknowledged transaction is lost: {line}");
        }
        for line in watched.lines().skip(self.checked_lines[1]) {
            let (revision, digest) = line.split_once(' ').unwrap();
            let revision = Revision(revision.parse().unwrap());
            assert!(revision <= self.at, "a watcher saw what never came to be: {line}");
            let is_forgotten = self.digests.keys().next().is_none_or(|first| *first > revision);
            let there = self.digests.get(&revision).copied();
            assert!(
                is_forgotten || there == digest.parse().ok(),
                "a watcher saw what is not so: {line}"
            );
        }
        self.checked_lines = [acknowledged.lines().count(), watched.lines().count()];
    }
}

fn live(dir: &Path, span: Duration) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::crash_child", "--test-threads=1"])
        .env(CHILD, dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(dir.join("stderr")).unwrap())
        .spawn()
        .unwrap();
    let end = tokio::time::Instant::now() + span;
    while tokio::time::Instant::now() < end {
        std::thread::park_timeout(end - tokio::time::Instant::now());
        if let Some(status) = child.try_wait().unwrap() {
            panic!(
                "the child ended by itself: {status}\n{}",
                std::fs::read_to_string(dir.join("stderr")).unwrap()
            );
        }
    }
    child.kill().unwrap(); // SIGKILL
    child.wait().unwrap();
}

/// Lets a child live and die again and again; returns how many transactions there were, and how many it was told of.
fn live_and_die(dir: &Path, lives: usize, spans: [std::ops::Range<u64>; 2]) -> (u64, usize) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut witness = Witness::default();
    for life in 1..=lives {
        // Mostly at work, sometimes while it starts.
        let span = spans[usize::from(rand::rng().random_bool(0.8))].clone();
        live(dir, Duration::from_micros(rand::rng().random_range(span)));
        // Opening it cleanly every time would spare the child what it has to do after a crash.
        if rand::rng().random_bool(0.5) || life == lives {
            runtime.block_on(witness.check(dir));
        }
    }
    (witness.at.0, witness.checked_lines[0])
}

#[test]
fn crash_loses_nothing_that_was_acknowledged() {
    let (mut lives, mut transactions, mut acknowledged) = (0, 0, 0);
    while lives < KILLS {
        let dir = tempfile::tempdir().unwrap();
        if lives / LIVES % 3 == 2 {
            File::create(dir.path().join("forgetful")).unwrap();
        }
        let seen = live_and_die(dir.path(), LIVES, [5_000..40_000, 5_000..150_000]);
        lives += LIVES;
        transactions += seen.0;
        acknowledged += seen.1;
    }
    println!("{lives} kills, {transactions} transactions, {acknowledged} of them acknowledged");
    assert!(
        acknowledged > KILLS * 20,
        "the children were hardly at work: {acknowledged}"
    );
}

#[test]
fn crash_on_etcd_loses_nothing_that_was_acknowledged() {
    let cluster = Cluster::start();
    for is_forgetful in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("etcd"), cluster.address("crash")).unwrap();
        if is_forgetful {
            File::create(dir.path().join("forgetful")).unwrap();
        }
        cluster.remove_all("crash");
        let (transactions, acknowledged) = live_and_die(dir.path(), 12, [5_000..100_000, 100_000..900_000]);
        println!("{transactions} transactions, {acknowledged} of them acknowledged");
        assert!(acknowledged > 100, "the children were hardly at work: {acknowledged}");
    }
}

/// Members die and come back, one, the leader, all, while others write: nobody is told what is not so, a watcher sees
/// everything once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crash_of_members_loses_nothing_that_was_acknowledged() {
    let mut cluster = Cluster::start();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("etcd"), cluster.address("members")).unwrap();
    let engine = open(dir.path()).await;
    let mut tasks = begin(&engine, dir.path()).await;
    let second = async || tokio::time::sleep(Duration::from_secs(1)).await;
    let told = |dir: &Path| {
        std::fs::read_to_string(dir.join("acknowledged"))
            .unwrap()
            .lines()
            .count()
    };
    second().await;
    let mut before = 0;
    for turn in 0..6 {
        match turn {
            0 | 1 => cluster.kill(turn),
            2 => cluster.kill(cluster.leader()),
            3 => (0..3).for_each(|member| cluster.kill(member)),
            _ => {
                for _ in 0..3 {
                    cluster.move_leader();
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
            }
        }
        second().await;
        cluster.revive();
        cluster.ready();
        // Writers go on by themselves.
        let patience = tokio::time::Instant::now() + Duration::from_secs(20);
        before += 100;
        while told(dir.path()) < before {
            assert!(
                tokio::time::Instant::now() < patience,
                "nobody writes after turn {turn}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        before = told(dir.path());
    }
    tasks.shutdown().await;
    engine.close().await;
    let watched = std::fs::read_to_string(dir.path().join("watched")).unwrap();
    for (line, expected) in watched.lines().zip(1u64..) {
        assert_eq!(line.split(' ').next().unwrap(), expected.to_string(), "everything once");
    }
    let mut witness = Witness::default();
    witness.check(dir.path()).await;
    assert!(watched.lines().count() as u64 >= before as u64);
    println!("{} transactions, {before} of them acknowledged", witness.at);
}
