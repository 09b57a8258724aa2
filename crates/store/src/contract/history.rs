//! What lasts: revisions, reopening, closing, backups.

use std::collections::BTreeSet;

use tokio::task::JoinSet;

use super::{Lab, commit, everything, put, thing, txn};
use crate::{Delta, Expect, Key, Prefix, Revision, StoreError, Write};

pub(super) async fn revisions_only_go_up(lab: &dyn Lab) {
    let engine = lab.open().await;
    let start = engine.revision().await.expect("a revision");
    let mut tasks = JoinSet::new();
    for writer in 0..8 {
        let engine = engine.clone();
        tasks.spawn(async move {
            let mut revisions = Vec::new();
            for number in 0..20 {
                let revision = commit(&*engine, vec![put(&thing(writer), number)]).await;
                assert!(engine.revision().await.expect("a revision") >= revision);
                let page = engine.range(&Prefix::all(), None, 1).await.expect("a range");
                assert!(
                    page.revision >= revision,
                    "who has written reads at that revision or later"
                );
                revisions.push(revision);
            }
            assert!(revisions.is_sorted_by(|a, b| a < b), "a writer's revisions go up");
            revisions
        });
    }
    let all: BTreeSet<Revision> = tasks.join_all().await.into_iter().flatten().collect();
    assert_eq!(all.len(), 160, "no two transactions have one revision");
    assert!(all.first().is_some_and(|first| *first > start));
    assert_eq!(
        engine.revision().await.expect("a revision"),
        *all.last().expect("there are some")
    );
}

pub(super) async fn reopening_keeps_everything(lab: &dyn Lab) {
    let engine = lab.open().await;
    let adding = Write::Add(
        Key::new("counters", "", "", "c"),
        vec![Delta {
            field: "n".to_owned(),
            add: 1,
            limit: None,
        }],
    );
    for number in 0..50 {
        commit(&*engine, vec![put(&thing(number), number), adding.clone()]).await;
    }
    let last = commit(&*engine, vec![Write::Delete(thing(7))]).await;
    let state = everything(&*engine).await;
    engine.close().await;
    drop(engine);
    let engine = lab.open().await;
    assert_eq!(everything(&*engine).await, state);
    assert_eq!(engine.revision().await.expect("a revision"), last);
    assert!(commit(&*engine, vec![put(&thing("next"), 1)]).await > last);
}

pub(super) async fn closing_does_what_was_submitted(lab: &dyn Lab) {
    let engine = lab.open().await;
    let mut tasks = JoinSet::new();
    for number in 0..400 {
        let engine = engine.clone();
        tasks.spawn(async move {
            (
                number,
                engine.txn(txn(Vec::new(), vec![put(&thing(number), number)])).await,
            )
        });
    }
    tokio::task::yield_now().await;
    engine.close().await;
    let mut acknowledged = BTreeSet::new();
    while let Some(done) = tasks.join_next().await {
        match done.expect("a writer does not panic") {
            (number, Ok(_)) => _ = acknowledged.insert(thing(number)),
            (_, Err(failed)) => assert!(matches!(failed, StoreError::Closed), "{failed}"),
        }
    }
    drop(engine);
    let (records, _) = everything(&*lab.open().await).await;
    let there: BTreeSet<Key> = records.into_iter().map(|record| record.key).collect();
    assert_eq!(there, acknowledged, "what was answered is there, and nothing else");
}

pub(super) async fn a_closed_engine_says_so(lab: &dyn Lab) {
    let engine = lab.open().await;
    let revision = commit(&*engine, vec![put(&thing("a"), 1)]).await;
    engine.close().await;
    engine.close().await;
    let closed = |failed: Option<StoreError>| matches!(failed, Some(StoreError::Closed));
    assert!(closed(
        engine.txn(txn(Vec::new(), vec![put(&thing("b"), 1)])).await.err()
    ));
    assert!(closed(engine.get(&thing("a")).await.err()));
    assert!(closed(engine.range(&Prefix::all(), None, 1).await.err()));
    assert!(closed(engine.compact(revision).await.err()));
    assert!(closed(engine.backup(&lab.scratch().join("late-backup")).await.err()));
    if let Ok(mut watch) = engine.watch(Prefix::all(), revision).await {
        assert!(closed(watch.next().await.err()));
    }
}

/// Every transaction moves one unit between two records and notes it in a third: any one moment has the same sum.
pub(super) async fn a_backup_is_one_moment(lab: &dyn Lab) {
    let engine = lab.open().await;
    let amount = |n: i64| Write::Put(thing("left"), n.to_string().into());
    let rest = |n: i64| Write::Put(thing("right"), (1_000_000 - n).to_string().into());
    commit(&*engine, vec![amount(0), rest(0)]).await;
    let filler = (0..500)
        .map(|n| put(&thing(format!("filler-{n}")), "x".repeat(500)))
        .collect();
    let first = commit(&*engine, filler).await;
    let writing = engine.clone();
    let mut writer = JoinSet::new();
    writer.spawn(async move {
        for n in 1..i64::MAX {
            if writing.txn(txn(Vec::new(), vec![amount(n), rest(n)])).await.is_err() {
                return;
            }
        }
    });
    let mut backups = Vec::new();
    for number in 0..3 {
        let path = lab.scratch().join(format!("backup-{number}"));
        engine.backup(&path).await.expect("a backup while others write");
        assert!(engine.backup(&path).await.is_err(), "a backup never writes over a file");
        backups.push(path);
    }
    engine.close().await;
    writer.join_all().await;
    for path in backups {
        let Some(copy) = lab.open_backup(path).await else {
            return;
        };
        let number = async |name| -> i64 {
            let record = copy
                .get(&thing(name))
                .await
                .expect("a read")
                .expect("it is in the copy");
            String::from_utf8_lossy(&record.value).parse().expect("a number")
        };
        assert_eq!(number("left").await + number("right").await, 1_000_000);
        let (records, revision) = everything(&*copy).await;
        assert_eq!(records.len(), 502);
        // Whoever watched the old store is told to list again, whatever is written from now on.
        let next = commit(&*copy, vec![amount(0)]).await;
        assert!(next > revision);
        let failed = copy.watch(Prefix::all(), first).await.err();
        assert!(matches!(failed, Some(StoreError::Compacted { .. })), "{failed:?}");
        copy.close().await;
    }
}

pub(super) async fn a_dropped_call_does_all_or_nothing(lab: &dyn Lab) {
    let engine = lab.open().await;
    for number in 0..40 {
        let keys = [thing(format!("{number}-a")), thing(format!("{number}-b"))];
        let expects = keys.iter().cloned().map(Expect::Absent).collect();
        let call = engine.txn(txn(expects, keys.iter().map(|key| put(key, number)).collect()));
        let patience = std::time::Duration::from_micros(number * 10);
        let outcome = tokio::time::timeout(patience, call).await;
        if let Ok(result) = outcome {
            result.expect("nobody is in the way");
        }
    }
    // Comes after all that was submitted before.
    commit(&*engine, vec![put(&thing("last"), 1)]).await;
    for number in 0..40 {
        let a = engine.get(&thing(format!("{number}-a"))).await.expect("a read");
        let b = engine.get(&thing(format!("{number}-b"))).await.expect("a read");
        assert_eq!(a.map(|record| record.modified), b.map(|record| record.modified));
    }
}
