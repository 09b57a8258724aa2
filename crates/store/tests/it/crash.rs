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
    Backend, Batch, Cause, Delta, Event, Expect, Key, Prefix, Revision, Sqlite, SqliteOptions, StoreError, Txn, Write,
};
use rand::RngExt as _;

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

/// Where there is a file `forgetful`, history is so short that it is trimmed all the time.
fn options(dir: &Path) -> SqliteOptions {
    let mut options = SqliteOptions::new(dir.join("state.db"));
    if dir.join("forgetful").exists() {
        options.keep_revisions = 50;
    }
    options
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
        let engine = Arc::new(Sqlite::open(options(&dir)).await.unwrap());
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(watch_and_note(Arc::clone(&engine), notes(&dir, "watched")));
        for writer in 0..WRITERS {
            tasks.spawn(write_and_note(Arc::clone(&engine), writer, notes(&dir, "acknowledged")));
        }
        tasks.spawn(be_refused(Arc::clone(&engine)));
        // A parent that dies leaves nothing behind.
        _ = tokio::time::timeout(Duration::from_secs(20), tasks.join_all()).await;
    });
}

async fn write_and_note(engine: Arc<Sqlite>, writer: u64, mut acknowledged: File) {
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

async fn be_refused(engine: Arc<Sqlite>) {
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

async fn watch_and_note(engine: Arc<Sqlite>, mut watched: File) {
    let mut watch = engine
        .watch(Prefix::all(), engine.revision().await.unwrap())
        .await
        .unwrap();
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
        let engine = Sqlite::open(options(dir)).await.unwrap();
        let head = engine.revision().await.unwrap();
        let mut watch = match engine.watch(Prefix::all(), self.at).await {
            Err(StoreError::Compacted { compacted }) if dir.join("forgetful").exists() => {
                assert!(compacted > self.at);
                self.list_again(&engine).await;
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
    async fn list_again(&mut self, engine: &Sqlite) {
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

#[test]
fn crash_loses_nothing_that_was_acknowledged() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (mut lives, mut transactions, mut acknowledged) = (0, 0, 0);
    while lives < KILLS {
        let dir = tempfile::tempdir().unwrap();
        let mut witness = Witness::default();
        let is_forgetful = lives / LIVES % 3 == 2;
        if is_forgetful {
            File::create(dir.path().join("forgetful")).unwrap();
        }
        for life in 1..=LIVES {
            // Mostly at work, sometimes while it starts.
            let most = if rand::rng().random_bool(0.2) { 40 } else { 150 };
            let span = Duration::from_micros(rand::rng().random_range(5_000..most * 1000));
            live(dir.path(), span);
            lives += 1;
            // Opening it cleanly every time would spare the child what it has to do after a crash.
            if rand::rng().random_bool(0.5) || life == LIVES {
                runtime.block_on(witness.check(dir.path()));
            }
        }
        transactions += witness.at.0;
        acknowledged += witness.checked_lines[0];
    }
    println!("{lives} kills, {transactions} transactions, {acknowledged} of them acknowledged");
    assert!(
        acknowledged > KILLS * 20,
        "the children were hardly at work: {acknowledged}"
    );
}
