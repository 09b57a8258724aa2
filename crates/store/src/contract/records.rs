//! Records: get, range, expectations, atomicity.

use std::collections::BTreeMap;

use tokio::task::JoinSet;

use super::{Lab, commit, everything, put, refused, thing, txn};
use crate::{Delta, Expect, Key, MAX_VALUE_BYTES, Prefix, StoreError, Write};

pub(super) async fn what_is_put_can_be_got(lab: &dyn Lab) {
    let engine = lab.open().await;
    let key = thing("a");
    assert_eq!(engine.get(&key).await.expect("a read"), None);
    let first = commit(&*engine, vec![put(&key, 1)]).await;
    let second = commit(&*engine, vec![put(&key, 2)]).await;
    let record = engine.get(&key).await.expect("a read").expect("it was put");
    assert_eq!((record.created, record.modified), (first, second));
    assert_eq!(&record.value[..], br#"{"is":"2"}"#);
    commit(&*engine, vec![Write::Delete(key.clone())]).await;
    assert_eq!(engine.get(&key).await.expect("a read"), None);
    let again = commit(&*engine, vec![put(&key, 3)]).await;
    let record = engine.get(&key).await.expect("a read").expect("it was put again");
    assert_eq!(
        (record.created, record.modified),
        (again, again),
        "a new record has a new beginning"
    );
}

pub(super) async fn every_key_comes_back(lab: &dyn Lab) {
    let engine = lab.open().await;
    let parts = [
        "",
        "a",
        "a/b",
        "a%2Fb",
        "ä ö",
        "\u{0}\u{7f}",
        "日本",
        "A",
        "a-b",
        "a.b",
        "~",
    ];
    let mut keys = Vec::new();
    for project in parts {
        for name in parts.into_iter().filter(|name| !name.is_empty()) {
            keys.push(Key::new("things", project, name, name));
        }
    }
    commit(&*engine, keys.iter().map(|key| put(key, "x")).collect()).await;
    for key in &keys {
        assert!(engine.get(key).await.expect("a read").is_some(), "{key:?} was put");
    }
    let (records, _) = everything(&*engine).await;
    let mut encoded: Vec<_> = keys.iter().map(|key| key.encode().expect("a key")).collect();
    encoded.sort_unstable();
    let listed: Vec<_> = records
        .iter()
        .map(|record| record.key.encode().expect("a key"))
        .collect();
    assert_eq!(listed, encoded, "all keys, in the order of their encoded bytes");
    let value = vec![b'x'; MAX_VALUE_BYTES];
    commit(&*engine, vec![Write::Put(thing("large"), value.clone().into())]).await;
    let record = engine.get(&thing("large")).await.expect("a read").expect("it was put");
    assert!(record.value == value, "the largest value is whole");
}

pub(super) async fn a_prefix_ends_where_it_ends(lab: &dyn Lab) {
    let engine = lab.open().await;
    let keys = [
        Key::new("thing", "p", "", "a"),
        Key::new("things", "", "", "a"),
        Key::new("things", "p", "", "a"),
        Key::new("things", "p", "n", "a"),
        Key::new("things", "p-1", "", "a"),
        Key::new("things", "p/", "", "a"),
        Key::new("things", "p0", "", "a"),
        Key::new("things", "q", "", "a"),
        Key::new("things0", "p", "", "a"),
        Key::new("thingss", "p", "", "a"),
    ];
    commit(&*engine, keys.iter().map(|key| put(key, "x")).collect()).await;
    let count = async |prefix: Prefix| {
        let page = engine.range(&prefix, None, 100).await.expect("a range");
        assert!(page.records.iter().all(|record| prefix.covers(&record.key)));
        page.records.len()
    };
    assert_eq!(count(Prefix::all()).await, keys.len());
    assert_eq!(count(Prefix::kind("things")).await, 7);
    assert_eq!(count(Prefix::kind("thing")).await, 1);
    assert_eq!(count(Prefix::kind("th")).await, 0);
    assert_eq!(count(Prefix::project("things", "p")).await, 2);
    assert_eq!(count(Prefix::project("things", "p/")).await, 1);
    assert_eq!(count(Prefix::project("things", "")).await, 1);
    assert_eq!(count(Prefix::project("things", "nobody")).await, 0);
}

pub(super) async fn pages_cover_a_range_once(lab: &dyn Lab) {
    let engine = lab.open().await;
    let keys: Vec<Key> = (0..25).map(|n| thing(format!("{n:02}"))).collect();
    commit(
        &*engine,
        keys.iter()
            .chain([&Key::new("others", "p", "", "x")])
            .map(|key| put(key, "x"))
            .collect(),
    )
    .await;
    let prefix = Prefix::kind("things");
    for limit in [1, 7, 24, 25, 26, 1000] {
        let mut seen = Vec::new();
        let mut after = None;
        loop {
            let page = engine.range(&prefix, after.as_ref(), limit).await.expect("a range");
            assert!(page.records.len() <= limit);
            seen.extend(page.records.iter().map(|record| record.key.clone()));
            after = seen.last().cloned();
            if !page.more {
                break;
            }
            assert_eq!(page.records.len(), limit, "a page that has more after it is full");
        }
        assert_eq!(seen, keys, "with pages of {limit}");
    }
    let page = engine.range(&prefix, Some(&thing("055")), 1).await.expect("a range");
    assert_eq!(page.records[0].key, keys[6], "`after` need not exist");
    let page = engine
        .range(&prefix, Some(&Key::new("a", "", "", "a")), 1)
        .await
        .expect("a range");
    assert_eq!(page.records[0].key, keys[0], "`after` may be before all of the prefix");
    let page = engine
        .range(&prefix, Some(&Key::new("z", "", "", "z")), 1)
        .await
        .expect("a range");
    assert!(
        page.records.is_empty() && !page.more,
        "`after` may be behind all of the prefix"
    );
}

pub(super) async fn a_scan_covers_everything_once(lab: &dyn Lab) {
    let engine = lab.open().await;
    let keys: Vec<Key> = (0..25).map(|n| thing(format!("{:02}", n * 7 % 25))).collect();
    for some in keys.chunks(4) {
        commit(&*engine, some.iter().map(|key| put(key, "x")).collect()).await;
    }
    commit(&*engine, vec![Write::Delete(keys[3].clone()), put(&keys[5], "y")]).await;
    commit(&*engine, vec![put(&keys[3], "again")]).await;
    let (all, revision) = everything(&*engine).await;
    for limit in [1, 7, 24, 25, 26, 1000] {
        let mut seen = Vec::new();
        let mut from = Some(0);
        while let Some(place) = from {
            let scan = engine.scan(place, limit).await.expect("a scan");
            assert!(scan.records.len() <= limit && scan.revision == revision);
            seen.extend(scan.records);
            from = scan.next;
        }
        seen.sort_by_key(|record| record.key.encode().expect("a key"));
        assert_eq!(seen, all, "with pages of {limit}");
    }
}

pub(super) async fn a_transaction_expects(lab: &dyn Lab) {
    let engine = lab.open().await;
    let (key, other) = (thing("a"), thing("b"));
    let first = engine
        .txn(txn(vec![Expect::Absent(key.clone())], vec![put(&key, 1)]))
        .await
        .expect("it was absent");
    let failed = refused(&*engine, vec![Expect::Absent(key.clone())], vec![put(&key, 2)]).await;
    assert!(
        matches!(&failed, StoreError::Exists { key: of } if *of == key),
        "{failed}"
    );
    let failed = refused(&*engine, vec![Expect::At(other.clone(), first)], vec![put(&key, 2)]).await;
    assert!(
        matches!(&failed, StoreError::NotFound { key: of } if *of == other),
        "{failed}"
    );
    let second = engine
        .txn(txn(vec![Expect::At(key.clone(), first)], vec![put(&key, 2)]))
        .await
        .expect("it was there");
    let failed = refused(&*engine, vec![Expect::At(key.clone(), first)], vec![put(&key, 3)]).await;
    assert!(
        matches!(&failed, StoreError::Conflict { key: of } if *of == key),
        "{failed}"
    );
    // The first that does not hold is named; one that is not written is checked all the same.
    let expects = vec![
        Expect::At(key.clone(), second),
        Expect::At(other.clone(), second),
        Expect::Absent(key.clone()),
    ];
    let failed = refused(&*engine, expects, vec![put(&thing("c"), 1)]).await;
    assert!(
        matches!(&failed, StoreError::NotFound { key: of } if *of == other),
        "{failed}"
    );
    let removing = txn(
        vec![Expect::At(key.clone(), second)],
        vec![Write::Delete(key.clone()), put(&other, 1)],
    );
    engine.txn(removing).await.expect("it was there");
    assert_eq!(engine.get(&key).await.expect("a read"), None);
    assert!(engine.get(&other).await.expect("a read").is_some());
}

pub(super) async fn a_refused_transaction_leaves_nothing(lab: &dyn Lab) {
    let engine = lab.open().await;
    let counter = Key::new("counters", "p", "", "c");
    let adding = |limit| {
        Write::Add(
            counter.clone(),
            vec![Delta {
                field: "n".to_owned(),
                add: 3,
                limit: Some(limit),
            }],
        )
    };
    let before = commit(&*engine, vec![put(&thing("a"), 1), adding(5)]).await;
    let state = everything(&*engine).await;
    let writes = || {
        vec![
            put(&thing("new"), 1),
            put(&thing("a"), 2),
            Write::Delete(thing("a2")),
            adding(99),
        ]
    };
    refused(&*engine, vec![Expect::Absent(thing("a"))], writes()).await;
    refused(&*engine, vec![Expect::At(thing("x"), before)], writes()).await;
    let failed = refused(
        &*engine,
        Vec::new(),
        vec![put(&thing("new"), 1), adding(5), put(&thing("newer"), 1)],
    )
    .await;
    assert!(
        matches!(
            failed,
            StoreError::LimitExceeded {
                used: 3,
                requested: 3,
                limit: 5,
                ..
            }
        ),
        "{failed}"
    );
    assert_eq!(everything(&*engine).await, state);
    assert_eq!(
        engine.revision().await.expect("a revision"),
        before,
        "a refused transaction is no revision"
    );
    let after = commit(&*engine, vec![put(&thing("last"), 1)]).await;
    let mut watch = engine.watch(Prefix::all(), before).await.expect("a watch");
    let batch = watch.next().await.expect("a change");
    assert_eq!(batch.revision, after, "watchers see nothing of what was refused");
}

/// Commits many transactions at once, every third of which is refused at its last expectation, so that an engine that
/// groups them has both in one group.
pub(super) async fn a_refused_neighbour_harms_nobody(lab: &dyn Lab) {
    const TRANSACTIONS: usize = 300;
    let engine = lab.open().await;
    commit(&*engine, vec![put(&thing("taken"), 1)]).await;
    let mut tasks = JoinSet::new();
    for number in 0..TRANSACTIONS {
        let engine = engine.clone();
        tasks.spawn(async move {
            let keys = [thing(format!("{number:03}-a")), thing(format!("{number:03}-b"))];
            let mut expects: Vec<_> = keys.iter().cloned().map(Expect::Absent).collect();
            if number % 3 == 0 {
                expects.push(Expect::Absent(thing("taken")));
            }
            let writes = keys.iter().map(|key| put(key, number)).collect();
            (number, engine.txn(txn(expects, writes)).await)
        });
    }
    let mut revisions = BTreeMap::new();
    while let Some(done) = tasks.join_next().await {
        let (number, result) = done.expect("a writer does not panic");
        match result {
            Ok(revision) => assert_eq!(
                revisions.insert(revision, number),
                None,
                "a revision is one transaction"
            ),
            Err(failed) => assert!(
                number % 3 == 0 && matches!(failed, StoreError::Exists { .. }),
                "{number}: {failed}"
            ),
        }
    }
    assert_eq!(revisions.len(), TRANSACTIONS - TRANSACTIONS.div_ceil(3));
    let (records, _) = everything(&*engine).await;
    assert_eq!(records.len(), 1 + 2 * revisions.len());
    for (revision, number) in revisions {
        for half in ["a", "b"] {
            let record = engine
                .get(&thing(format!("{number:03}-{half}")))
                .await
                .expect("a read")
                .expect("it was put");
            assert_eq!(record.modified, revision);
        }
    }
}

pub(super) async fn one_of_many_gets_a_key(lab: &dyn Lab) {
    let engine = lab.open().await;
    let mut tasks = JoinSet::new();
    for number in 0..100 {
        let engine = engine.clone();
        tasks.spawn(async move {
            let key = thing(number % 10);
            engine
                .txn(txn(vec![Expect::Absent(key.clone())], vec![put(&key, number)]))
                .await
                .is_ok()
        });
    }
    let won = tasks.join_all().await.into_iter().filter(|won| *won).count();
    assert_eq!(won, 10, "ten keys, ten winners");
}

pub(super) async fn what_no_engine_takes_is_refused(lab: &dyn Lab) {
    let engine = lab.open().await;
    let nameless = Key::new("things", "p", "", "");
    let long = thing("x".repeat(2000));
    let large = Write::Put(thing("a"), vec![b'x'; MAX_VALUE_BYTES + 1].into());
    let adding = Write::Add(
        thing("a"),
        vec![Delta {
            field: "n".to_owned(),
            add: 1,
            limit: None,
        }],
    );
    for writes in [
        vec![put(&nameless, 1)],
        vec![put(&long, 1)],
        vec![put(&thing("b"), 1), large],
        vec![put(&thing("a"), 1), put(&thing("b"), 1), Write::Delete(thing("a"))],
        vec![put(&thing("a"), 1), adding],
    ] {
        let failed = refused(&*engine, Vec::new(), writes).await;
        assert!(matches!(failed, StoreError::Invalid(_)), "{failed}");
    }
    assert!(engine.get(&nameless).await.is_err());
    assert_eq!(everything(&*engine).await.0, []);
    commit(&*engine, vec![Write::Delete(thing("absent"))]).await;
    commit(&*engine, Vec::new()).await;
    assert_eq!(everything(&*engine).await.0, []);
}
