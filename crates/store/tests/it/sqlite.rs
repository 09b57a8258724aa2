//! What is SQLite's own: files and their modes, a second process, history within its bounds, damaged files.

use std::{os::unix::fs::PermissionsExt, path::Path};

use jiff::Timestamp;
use madang_store::{Backend, Cause, Key, Prefix, Revision, Sqlite, SqliteOptions, StoreError, Txn, Write};

fn put(number: u64, size: usize) -> Txn {
    let key = Key::new("things", "p", "", format!("{}", number % 10));
    Txn {
        expects: Vec::new(),
        writes: vec![Write::Put(key, vec![b'x'; size].into())],
        cause: Cause::system("test"),
        at: Timestamp::UNIX_EPOCH,
    }
}

async fn oldest(engine: &Sqlite) -> Revision {
    match engine.watch(Prefix::all(), Revision(0)).await {
        Ok(_) => Revision(0),
        Err(StoreError::Compacted { compacted }) => compacted,
        Err(other) => panic!("{other}"),
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn nobody_else_may_read_the_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let engine = Sqlite::open(SqliteOptions::new(&path)).await.unwrap();
    engine.txn(put(1, 10)).await.unwrap();
    assert_eq!(engine.range(&Prefix::all(), None, 9).await.unwrap().records.len(), 1);
    let copy = dir.path().join("copy");
    engine.backup(&copy).await.unwrap();
    let files: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(files.len() >= 4, "{files:?}");
    for file in files {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
    engine.close().await;
    let wal = dir.path().join("state.db-wal");
    assert!(!wal.exists(), "a closed database is one file, whoever read it");
}

#[tokio::test]
async fn only_one_has_it_open() {
    let dir = tempfile::tempdir().unwrap();
    let options = SqliteOptions::new(dir.path().join("state.db"));
    let engine = Sqlite::open(options.clone()).await.unwrap();
    let second = Sqlite::open(options.clone()).await.err().unwrap();
    assert!(second.to_string().contains("another process has"), "{second}");
    // A copy needs no turn.
    engine.txn(put(1, 10)).await.unwrap();
    let copy = dir.path().join("copy.db");
    Sqlite::copy(&options.path, &copy).await.unwrap();
    assert!(matches!(
        Sqlite::copy(&options.path, &copy).await,
        Err(StoreError::Invalid(_))
    ));
    assert!(
        Sqlite::copy(&dir.path().join("none.db"), &dir.path().join("x"))
            .await
            .is_err()
    );
    let copied = Sqlite::open(SqliteOptions::new(copy)).await.unwrap();
    assert_eq!(copied.range(&Prefix::all(), None, 9).await.unwrap().records.len(), 1);
    copied.close().await;
    engine.close().await;
    let third = Sqlite::open(options.clone()).await.unwrap();
    // Dropped without being closed, it lets go as well.
    drop(third);
    Sqlite::open(options).await.unwrap().close().await;
}

#[tokio::test]
async fn history_stays_within_its_count_and_its_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = SqliteOptions::new(dir.path().join("counted.db"));
    options.keep_revisions = 100;
    let engine = Sqlite::open(options.clone()).await.unwrap();
    for number in 0..1500 {
        engine.txn(put(number, 10)).await.unwrap();
    }
    let compacted = oldest(&engine).await;
    assert!(compacted >= Revision(200) && compacted <= Revision(1400), "{compacted}");
    engine.close().await;

    options.path = dir.path().join("weighed.db");
    options.keep_bytes = 1 << 20;
    options.keep_revisions = 100_000;
    let engine = Sqlite::open(options.clone()).await.unwrap();
    for number in 0..300 {
        engine.txn(put(number, 20_000)).await.unwrap();
    }
    let compacted = oldest(&engine).await;
    assert!(compacted >= Revision(240) && compacted <= Revision(290), "{compacted}");
    engine.close().await;
    let size = std::fs::metadata(&options.path).unwrap().len();
    assert!(
        size < 4 << 20,
        "what is forgotten gives its room to what comes: {size} bytes"
    );
    let engine = Sqlite::open(options).await.unwrap();
    assert_eq!(oldest(&engine).await, compacted, "the bounds are known after reopening");
    engine.close().await;
}

#[tokio::test]
async fn what_is_no_database_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    std::fs::write(
        &path,
        "this is not a database, it only is long enough to look like one at first".repeat(99),
    )
    .unwrap();
    let failed = Sqlite::open(SqliteOptions::new(&path)).await.err().unwrap();
    assert!(
        failed.to_string().contains("state.db") && failed.to_string().contains("not a database"),
        "{failed}"
    );
    let failed = Sqlite::open(SqliteOptions::new(dir.path().join("no/such/state.db")))
        .await
        .err()
        .unwrap();
    assert!(failed.to_string().contains("no/such/state.db"), "{failed}");
    let failed = Sqlite::restore(&path, &dir.path().join("new.db")).await.err().unwrap();
    assert!(failed.to_string().contains("not a database"), "{failed}");
    assert!(!dir.path().join("new.db").exists());
}

#[tokio::test]
async fn a_newer_database_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    Sqlite::open(SqliteOptions::new(&path)).await.unwrap().close().await;
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    let failed = Sqlite::open(SqliteOptions::new(&path)).await.err().unwrap();
    assert!(failed.to_string().contains("version 99"), "{failed}");
}
