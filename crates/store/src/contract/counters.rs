//! Counters: sums and limits that are decided inside the commit.

use std::collections::BTreeMap;

use tokio::task::JoinSet;

use super::{Lab, commit, put, refused, thing, txn};
use crate::{Backend, Delta, Key, StoreError, Write};

fn counter(group: &str) -> Key {
    Key::new("counters", "p", "", group)
}

fn delta(field: &str, add: i64, limit: Option<i64>) -> Delta {
    Delta {
        field: field.to_owned(),
        add,
        limit,
    }
}

async fn value(engine: &dyn Backend, key: &Key) -> BTreeMap<String, i64> {
    let record = engine.get(key).await.expect("a read");
    record
        .map(|record| serde_json::from_slice(&record.value).expect("a counter is JSON"))
        .unwrap_or_default()
}

pub(super) async fn counters_add_up(lab: &dyn Lab) {
    let engine = lab.open().await;
    let mut tasks = JoinSet::new();
    for number in 0..200 {
        let engine = engine.clone();
        tasks.spawn(async move {
            let adds = vec![delta("n", 1, None), delta("size", number, None)];
            let more = vec![delta("n", 1, None)];
            let writes = vec![
                put(&thing(number), number),
                Write::Add(counter("a"), adds),
                Write::Add(counter("b"), more.clone()),
                Write::Add(counter("a"), more),
            ];
            engine.txn(txn(Vec::new(), writes)).await.expect("nobody is in the way");
        });
    }
    tasks.join_all().await;
    let expected = BTreeMap::from([("n".to_owned(), 400), ("size".to_owned(), (0..200).sum())]);
    assert_eq!(value(&*engine, &counter("a")).await, expected);
    assert_eq!(
        value(&*engine, &counter("b")).await,
        BTreeMap::from([("n".to_owned(), 200)])
    );
}

pub(super) async fn limits_hold(lab: &dyn Lab) {
    const LIMIT: i64 = 37;
    let engine = lab.open().await;
    let mut tasks = JoinSet::new();
    for number in 0..120 {
        let engine = engine.clone();
        tasks.spawn(async move {
            let add = 1 + number % 2;
            let writes = vec![
                put(&thing(number), number),
                Write::Add(counter("q"), vec![delta("n", add, Some(LIMIT))]),
            ];
            (add, engine.txn(txn(Vec::new(), writes)).await)
        });
    }
    let (mut sum, mut committed) = (0, 0);
    for (add, result) in tasks.join_all().await {
        match result {
            Ok(_) => (sum, committed) = (sum + add, committed + 1),
            Err(StoreError::LimitExceeded {
                field,
                used,
                requested,
                limit,
                ..
            }) => {
                assert!(field == "n" && requested == add && limit == LIMIT && used + requested > limit);
            }
            Err(failed) => panic!("{failed}"),
        }
    }
    assert_eq!(sum, LIMIT, "with ones and twos the limit is met exactly");
    assert_eq!(value(&*engine, &counter("q")).await["n"], LIMIT);
    let things = engine
        .range(&crate::Prefix::kind("things"), None, 1000)
        .await
        .expect("a range")
        .records
        .len();
    assert_eq!(things, committed, "who is over the limit writes nothing else");
    // A lower limit refuses more of it, never less.
    commit(&*engine, vec![Write::Add(counter("q"), vec![delta("n", -5, Some(3))])]).await;
    assert_eq!(value(&*engine, &counter("q")).await["n"], LIMIT - 5);
    refused(
        &*engine,
        Vec::new(),
        vec![Write::Add(counter("q"), vec![delta("n", 1, Some(3))])],
    )
    .await;
    // All of a transaction's additions count together.
    let twice = vec![delta("n", 3, Some(LIMIT)), delta("n", 3, Some(LIMIT))];
    refused(&*engine, Vec::new(), vec![Write::Add(counter("q"), twice)]).await;
}

pub(super) async fn a_counter_is_never_below_zero(lab: &dyn Lab) {
    let engine = lab.open().await;
    let key = counter("a");
    commit(
        &*engine,
        vec![Write::Add(key.clone(), vec![delta("n", 2, None), delta("m", 1, None)])],
    )
    .await;
    commit(&*engine, vec![Write::Add(key.clone(), vec![delta("n", -9, None)])]).await;
    assert_eq!(
        value(&*engine, &key).await,
        BTreeMap::from([("m".to_owned(), 1)]),
        "a field at 0 is dropped"
    );
    commit(&*engine, vec![Write::Add(key.clone(), vec![delta("m", -1, None)])]).await;
    assert_eq!(
        engine.get(&key).await.expect("a read"),
        None,
        "a counter without fields is no record"
    );
    commit(
        &*engine,
        vec![Write::Add(
            key.clone(),
            vec![delta("n", i64::MAX, None), delta("n", 1, None)],
        )],
    )
    .await;
    assert_eq!(value(&*engine, &key).await["n"], i64::MAX, "a sum does not wrap around");
}
