//! Watches: order, gaps, prefixes, those who come late and those who are slow.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use tokio::task::JoinSet;

use super::{Lab, commit, everything, put, thing, txn};
use crate::{Backend, Batch, Cause, Delta, Event, Key, Prefix, Revision, StoreError, Watch, Write};

/// A watcher that waits this long for a change has missed it.
const PATIENCE: Duration = Duration::from_secs(20);

async fn next(watch: &mut dyn Watch) -> std::sync::Arc<Batch> {
    let next = tokio::time::timeout(PATIENCE, watch.next()).await;
    next.expect("a change is missing").expect("the watch goes on")
}

/// Everything by key, brought forward by what a watch shows.
#[derive(Debug, Default, PartialEq)]
struct Replica(BTreeMap<String, Bytes>);

impl Replica {
    fn apply(&mut self, batch: &Batch) {
        for Event { key, value } in &batch.events {
            let key = key.encode().expect("a key");
            match value {
                Some(value) => _ = self.0.insert(key, value.clone()),
                None => assert!(self.0.remove(&key).is_some(), "{key} goes without having been"),
            }
        }
    }

    async fn list(engine: &dyn Backend) -> (Self, Revision) {
        let (records, revision) = everything(engine).await;
        let pairs = records
            .into_iter()
            .map(|record| (record.key.encode().expect("a key"), record.value));
        (Self(pairs.collect()), revision)
    }

    /// Follows until a revision; the order must be right all the way.
    async fn follow(&mut self, watch: &mut dyn Watch, mut from: Revision, until: Revision) {
        while from < until {
            let batch = next(watch).await;
            assert!(batch.revision > from, "{} comes after {from}", batch.revision);
            assert!(!batch.events.is_empty(), "an empty batch is none");
            self.apply(&batch);
            from = batch.revision;
        }
        assert_eq!(from, until);
    }
}

/// Writes all sorts of things from several tasks at once; returns the last revision.
async fn disorder(engine: &std::sync::Arc<dyn Backend>, writers: u64, each: u64) -> Revision {
    let mut tasks = JoinSet::new();
    for writer in 0..writers {
        let engine = engine.clone();
        tasks.spawn(async move {
            let mut last = Revision(0);
            for number in 0..each {
                let own = thing(format!("{writer}-{}", number % 7));
                let counted = Write::Add(
                    Key::new("counters", "p", "", "c"),
                    vec![Delta {
                        field: format!("f{}", number % 3),
                        add: if number % 5 == 0 { -2 } else { 1 },
                        limit: None,
                    }],
                );
                let change = if number % 4 == 3 {
                    Write::Delete(own)
                } else {
                    put(&own, number)
                };
                let writes = vec![
                    change,
                    put(&Key::new("others", "q", "n", format!("{writer}")), number),
                    counted,
                ];
                last = engine.txn(txn(Vec::new(), writes)).await.expect("nobody is in the way");
            }
            last
        });
    }
    tasks.join_all().await.into_iter().max().expect("there are writers")
}

pub(super) async fn all_changes_in_order(lab: &dyn Lab) {
    let engine = lab.open().await;
    let start = engine.revision().await.expect("a revision");
    let mut early = engine.watch(Prefix::all(), start).await.expect("a watch");
    let until = disorder(&engine, 8, 40).await;
    let mut late = engine.watch(Prefix::all(), start).await.expect("a watch");
    let (listed, _) = Replica::list(&*engine).await;
    for watch in [&mut early, &mut late] {
        let mut replica = Replica::default();
        replica.follow(&mut **watch, start, until).await;
        assert_eq!(replica, listed, "what a watcher was shown is what there is");
    }
    // A batch is a transaction: all of it, in the order of its writes, with its cause.
    let at = jiff::Timestamp::from_microsecond(1_700_000_000_000_001).expect("a time");
    let (a, b, gone) = (thing("one-a"), thing("one-b"), thing("one-gone"));
    commit(&*engine, vec![put(&gone, 1)]).await;
    next(&mut *early).await;
    let mut one = txn(
        Vec::new(),
        vec![
            put(&b, 1),
            Write::Delete(gone.clone()),
            Write::Delete(thing("never")),
            put(&a, 2),
        ],
    );
    one.at = at;
    one.cause = Cause::request("somebody", "req-7");
    let revision = engine.txn(one).await.expect("nobody is in the way");
    let expected = Batch {
        revision,
        cause: Cause::request("somebody", "req-7"),
        at,
        events: vec![
            Event {
                key: b,
                value: Some(r#"{"is":"1"}"#.into()),
            },
            Event { key: gone, value: None },
            Event {
                key: a,
                value: Some(r#"{"is":"2"}"#.into()),
            },
        ],
    };
    assert_eq!(*next(&mut *early).await, expected);
    let mut many = engine.watch(Prefix::all(), start).await.expect("a watch");
    let mut seen = start;
    while seen < revision {
        for batch in many.next_many(16).await.expect("the watch goes on") {
            assert!(batch.revision > seen, "many at a time are in order, too");
            seen = batch.revision;
        }
    }
}

/// Lists while others write, then watches from the list's revision.
pub(super) async fn a_watch_continues_a_list(lab: &dyn Lab) {
    let engine = lab.open().await;
    // Nobody touches this one: however slow the writers are, there is something to follow.
    let kept = Key::new("kept", "", "", "kept");
    commit(&*engine, vec![put(&kept, 1)]).await;
    let mut writing = JoinSet::new();
    let writer = engine.clone();
    writing.spawn(async move { disorder(&writer, 4, 60).await });
    let mut followers = JoinSet::new();
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(2)).await;
        let (mut replica, from) = Replica::list(&*engine).await;
        let mut watch = engine.watch(Prefix::all(), from).await.expect("a watch");
        let (stop, mut stopped) = tokio::sync::watch::channel(Revision(0));
        followers.spawn(async move {
            let mut at = from;
            loop {
                tokio::select! {
                    _ = stopped.changed() => break,
                    batch = watch.next() => {
                        let batch = batch.expect("the watch goes on");
                        replica.apply(&batch);
                        at = batch.revision;
                    }
                }
            }
            let until = *stopped.borrow();
            replica.follow(&mut *watch, at, until.max(at)).await;
            replica
        });
        writing.spawn(async move {
            // Stops its follower somewhere in the middle; that goes on to the end from there.
            tokio::time::sleep(Duration::from_millis(5)).await;
            _ = stop.send(Revision(0));
            Revision(0)
        });
    }
    writing.join_all().await;
    // Followers stopped where they were: each is what there was at some revision, checked by the removals it saw.
    for replica in followers.join_all().await {
        assert!(replica.0.contains_key(&kept.encode().expect("a key")));
    }
    let (mut replica, from) = Replica::list(&*engine).await;
    let mut watch = engine.watch(Prefix::all(), from).await.expect("a watch");
    let until = disorder(&engine, 4, 20).await;
    replica.follow(&mut *watch, from, until).await;
    assert_eq!(replica, Replica::list(&*engine).await.0);
}

pub(super) async fn its_prefix_only(lab: &dyn Lab) {
    let engine = lab.open().await;
    let prefix = Prefix::project("others", "q");
    let mut watch = engine.watch(prefix.clone(), Revision(0)).await.expect("a watch");
    commit(
        &*engine,
        vec![put(&thing("a"), 1), put(&Key::new("others", "q2", "", "a"), 1)],
    )
    .await;
    let (key, other) = (Key::new("others", "q", "", "a"), Key::new("others", "q", "n", "b"));
    let mixed = commit(
        &*engine,
        vec![put(&thing("a"), 2), put(&key, 1), put(&thing("b"), 1), put(&other, 1)],
    )
    .await;
    commit(&*engine, vec![put(&thing("a"), 3)]).await;
    let removal = commit(&*engine, vec![Write::Delete(key.clone())]).await;
    let batch = next(&mut *watch).await;
    assert_eq!(batch.revision, mixed);
    assert_eq!(
        batch.events.iter().map(|event| &event.key).collect::<Vec<_>>(),
        [&key, &other]
    );
    let batch = next(&mut *watch).await;
    assert_eq!(
        (batch.revision, &batch.events[..]),
        (removal, &[Event { key, value: None }][..])
    );
}

/// Far enough behind that no engine keeps it in memory.
pub(super) async fn catches_up_from_far_behind(lab: &dyn Lab) {
    let engine = lab.open().await;
    let start = engine.revision().await.expect("a revision");
    let until = disorder(&engine, 64, 80).await;
    let mut watch = engine.watch(Prefix::all(), start).await.expect("a watch");
    let mut replica = Replica::default();
    replica.follow(&mut *watch, start, until).await;
    assert_eq!(replica, Replica::list(&*engine).await.0);
    let last = commit(&*engine, vec![put(&thing("after"), 1)]).await;
    assert_eq!(next(&mut *watch).await.revision, last, "and goes on with what is new");
}

pub(super) async fn a_slow_watcher_misses_nothing(lab: &dyn Lab) {
    let engine = lab.open().await;
    let start = engine.revision().await.expect("a revision");
    let mut watch = engine.watch(Prefix::all(), start).await.expect("a watch");
    let mut replica = Replica::default();
    let mut from = start;
    for round in 0..3 {
        let until = disorder(&engine, 64, if round == 1 { 70 } else { 3 }).await;
        // Takes a little of it, falls behind, takes all.
        for _ in 0..5 {
            let batch = next(&mut *watch).await;
            replica.apply(&batch);
            from = batch.revision;
        }
        if round > 0 {
            replica.follow(&mut *watch, from, until).await;
            from = until;
        }
    }
    assert_eq!(replica, Replica::list(&*engine).await.0);
}

pub(super) async fn goes_on_after_reopening(lab: &dyn Lab) {
    let engine = lab.open().await;
    let start = engine.revision().await.expect("a revision");
    let mut watch = engine.watch(Prefix::all(), start).await.expect("a watch");
    let until = disorder(&engine, 4, 10).await;
    let mut replica = Replica::default();
    let batch = next(&mut *watch).await;
    replica.apply(&batch);
    engine.close().await;
    drop((watch, engine));
    let engine = lab.open().await;
    let mut watch = engine.watch(Prefix::all(), batch.revision).await.expect("a watch");
    replica.follow(&mut *watch, batch.revision, until).await;
    let until = disorder(&engine, 4, 10).await;
    let from = next(&mut *watch).await;
    replica.apply(&from);
    replica.follow(&mut *watch, from.revision, until).await;
    assert_eq!(replica, Replica::list(&*engine).await.0);
}

pub(super) async fn may_be_dropped_while_it_waits(lab: &dyn Lab) {
    let engine = lab.open().await;
    let start = engine.revision().await.expect("a revision");
    let mut watch = engine.watch(Prefix::all(), start).await.expect("a watch");
    let writer = engine.clone();
    let mut writing = JoinSet::new();
    writing.spawn(async move { disorder(&writer, 2, 40).await });
    let mut replica = Replica::default();
    let mut at = start;
    for turn in 0..200u64 {
        let patience = Duration::from_micros(turn % 13 * 20);
        if let Ok(batch) = tokio::time::timeout(patience, watch.next()).await {
            let batch = batch.expect("the watch goes on");
            assert!(batch.revision > at);
            replica.apply(&batch);
            at = batch.revision;
        }
    }
    let until = writing.join_all().await.into_iter().max().expect("it wrote");
    replica.follow(&mut *watch, at, until).await;
    assert_eq!(replica, Replica::list(&*engine).await.0);
}

pub(super) async fn ends_with_the_engine(lab: &dyn Lab) {
    let engine = lab.open().await;
    let start = engine.revision().await.expect("a revision");
    let mut waiting = engine.watch(Prefix::all(), start).await.expect("a watch");
    let mut behind = engine.watch(Prefix::all(), start).await.expect("a watch");
    let revision = commit(&*engine, vec![put(&thing("a"), 1)]).await;
    assert_eq!(next(&mut *waiting).await.revision, revision);
    let mut task = JoinSet::new();
    task.spawn(async move { waiting.next().await.err() });
    engine.close().await;
    let ended = tokio::time::timeout(PATIENCE, task.join_all())
        .await
        .expect("it does not wait for ever");
    assert!(matches!(ended[..], [Some(StoreError::Closed)]), "{ended:?}");
    // What is at hand may still be had; then it ends as well.
    let mut last = behind.next().await;
    if last.is_ok() {
        last = behind.next().await;
    }
    assert!(matches!(last, Err(StoreError::Closed)));
}
