//! A disk that is full: writers are told, readers go on, and when there is room again so do writers.
//!
//! The child is this test binary with [`CHILD`] set, under a limit on the size of files, which it lifts halfway.

use std::{path::PathBuf, process::Command};

use jiff::Timestamp;
use madang_store::{Backend, Cause, ErrorKind, Key, Prefix, Revision, Sqlite, SqliteOptions, StoreError, Txn, Write};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::task::JoinSet;

/// The directory a child works in.
const CHILD: &str = "MADANG_STORE_FULL_DISK_CHILD";

fn put(number: u64) -> Txn {
    let key = |half| Key::new("things", "p", half, format!("{number:05}"));
    let value = format!("\"{}\"", "x".repeat(3000));
    Txn {
        expects: Vec::new(),
        writes: vec![
            Write::Put(key("a"), value.clone().into()),
            Write::Put(key("b"), value.into()),
        ],
        cause: Cause::system("test"),
        at: Timestamp::UNIX_EPOCH,
    }
}

/// The numbers whose both halves are there, in order; panics when there is a half.
async fn there(engine: &Sqlite) -> Vec<u64> {
    let page = engine.range(&Prefix::kind("things"), None, usize::MAX).await.unwrap();
    let of = |half: &str| -> Vec<u64> {
        let records = page.records.iter().filter(|record| record.key.namespace == half);
        records.map(|record| record.key.name.parse().unwrap()).collect()
    };
    let numbers = of("a");
    assert_eq!(numbers, of("b"), "no half transaction");
    numbers
}

/// Commits many at once; returns which were acknowledged, and says how the others failed.
async fn commit(engine: &Sqlite, numbers: std::ops::Range<u64>) -> (Vec<u64>, Vec<StoreError>) {
    let mut tasks = JoinSet::new();
    for number in numbers {
        let engine = engine.clone();
        tasks.spawn(async move { (number, engine.txn(put(number)).await) });
    }
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    for (number, result) in tasks.join_all().await {
        match result {
            Ok(_) => done.push(number),
            Err(e) => failed.push(e),
        }
    }
    (done, failed)
}

async fn history(engine: &Sqlite) -> u64 {
    let head = engine.revision().await.unwrap();
    let mut watch = engine.watch(Prefix::all(), Revision(0)).await.unwrap();
    for revision in 1..=head.0 {
        assert_eq!(watch.next().await.unwrap().revision, Revision(revision));
    }
    head.0
}

/// Not a test by itself: what the child does.
#[test]
fn full_disk_child() {
    let Some(dir) = std::env::var_os(CHILD).map(PathBuf::from) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let options = SqliteOptions::new(dir.join("state.db"));
        let engine = Sqlite::open(options.clone()).await.unwrap();
        let mut acknowledged = Vec::new();
        let mut number = 0;
        while number < 50_000 {
            let (done, failed) = commit(&engine, number..number + 20).await;
            number += 20;
            acknowledged.extend(done);
            if !failed.is_empty() {
                assert!(failed.iter().all(|e| e.kind() == ErrorKind::Unavailable), "{failed:?}");
                break;
            }
        }
        assert!(number < 50_000, "the disk was never full");
        assert!(!acknowledged.is_empty());
        // It stays full: who writes is told each time, who reads reads.
        for _ in 0..5 {
            let (done, failed) = commit(&engine, number..number + 20).await;
            number += 20;
            acknowledged.extend(done);
            assert!(!failed.is_empty());
        }
        acknowledged.sort_unstable();
        assert_eq!(there(&engine).await, acknowledged);
        assert_eq!(history(&engine).await, acknowledged.len() as u64);

        let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
        setrlimit(Resource::RLIMIT_FSIZE, hard, hard).unwrap();
        let (done, failed) = commit(&engine, number..number + 200).await;
        assert!(failed.is_empty(), "there is room again: {failed:?}");
        acknowledged.extend(done);
        acknowledged.sort_unstable();
        assert_eq!(there(&engine).await, acknowledged);
        assert_eq!(history(&engine).await, acknowledged.len() as u64);
        engine.close().await;
        let engine = Sqlite::open(options).await.unwrap();
        assert_eq!(there(&engine).await, acknowledged);
        assert_eq!(history(&engine).await, acknowledged.len() as u64);
        engine.close().await;
    });
}

#[test]
fn a_full_disk_is_told_and_got_over() {
    let dir = tempfile::tempdir().unwrap();
    // A file that grows beyond the limit is an error, not a signal, when the signal is ignored.
    let limited = "trap '' XFSZ; ulimit -S -f 6000; exec \"$0\" --exact full_disk::full_disk_child --test-threads=1";
    let child = Command::new("sh")
        .args(["-c", limited])
        .arg(std::env::current_exe().unwrap())
        .env(CHILD, dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&child.stdout).into_owned() + &String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success() && text.contains("1 passed"), "{text}");
}
