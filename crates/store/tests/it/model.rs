//! Random transactions against a map: the engine says and holds what the map does, at every revision.

use std::collections::BTreeMap;

use bytes::Bytes;
use jiff::Timestamp;
use madang_store::{
    Backend, Batch, Cause, Delta, Event, Expect, Key, Prefix, Revision, StoreError, Txn, Write, contract::Lab,
};
use proptest::{prelude::*, test_runner::TestRunner};

use crate::{
    cluster::Cluster,
    contract::{EtcdLab, SqliteLab},
};

const KEYS: usize = 6;
const COUNTERS: usize = 2;

#[derive(Clone, Debug)]
enum Step {
    Txn(Vec<Want>, Vec<Change>),
    /// Forgets the oldest half, third, … of history.
    Compact(u64),
    Reopen,
}

#[derive(Clone, Debug)]
enum Want {
    Absent(usize),
    /// At the revision it has, or at one that it does not have.
    At(usize, bool),
}

#[derive(Clone, Debug)]
enum Change {
    Put(usize, u8),
    Delete(usize),
    Add(usize, Vec<(u8, i64, Option<i64>)>),
}

fn step() -> impl Strategy<Value = Step> {
    let want = prop_oneof![
        (0..KEYS).prop_map(Want::Absent),
        (0..KEYS, proptest::bool::weighted(0.8)).prop_map(|(key, right)| Want::At(key, right)),
    ];
    let delta = (0u8..2, -3i64..6, proptest::option::of(0i64..12));
    let change = prop_oneof![
        4 => (0..KEYS, any::<u8>()).prop_map(|(key, value)| Change::Put(key, value)),
        2 => (0..KEYS).prop_map(Change::Delete),
        2 => (0..COUNTERS, proptest::collection::vec(delta, 0..3)).prop_map(|(key, deltas)| Change::Add(key, deltas)),
    ];
    let txn = (
        proptest::collection::vec(want, 0..2),
        proptest::collection::vec(change, 0..5),
    );
    prop_oneof![
        20 => txn.prop_map(|(wants, changes)| Step::Txn(wants, changes)),
        1 => (2u64..5).prop_map(Step::Compact),
        1 => Just(Step::Reopen),
    ]
}

fn key(number: usize) -> Key {
    Key::new(
        ["as", "bs"][number % 2],
        ["p", "p/1", ""][number % 3],
        "",
        format!("k{number}"),
    )
}

fn counter(number: usize) -> Key {
    Key::new("counters", "p", "", format!("c{number}"))
}

#[derive(Clone, Debug, PartialEq)]
struct Held {
    value: Bytes,
    created: Revision,
    modified: Revision,
}

/// What the engine has to be: records by encoded key, as they are and as they were.
#[derive(Default)]
struct Model {
    records: BTreeMap<String, Held>,
    revision: Revision,
    compacted: Revision,
    /// The values after each revision.
    past: BTreeMap<Revision, BTreeMap<String, Bytes>>,
}

#[derive(Debug, PartialEq)]
enum Refusal {
    Conflict(Key),
    Exists(Key),
    NotFound(Key),
    Limit(Key, String),
    Invalid,
}

impl Model {
    fn at(&self, key: &Key) -> Option<&Held> {
        self.records.get(&key.encode().unwrap())
    }

    fn values(&self) -> BTreeMap<String, Bytes> {
        self.records
            .iter()
            .map(|(key, held)| (key.clone(), held.value.clone()))
            .collect()
    }

    fn apply(&mut self, txn: &Txn) -> Result<Revision, Refusal> {
        let mut seen = BTreeMap::new();
        for write in &txn.writes {
            let (Write::Put(key, _) | Write::Delete(key) | Write::Add(key, _)) = write;
            let is_add = matches!(write, Write::Add(..));
            if seen
                .insert(key.encode().unwrap(), is_add)
                .is_some_and(|was_add| !(was_add && is_add))
            {
                return Err(Refusal::Invalid);
            }
        }
        for expect in &txn.expects {
            match expect {
                Expect::Absent(key) if self.at(key).is_some() => return Err(Refusal::Exists(key.clone())),
                Expect::At(key, revision) => match self.at(key) {
                    None => return Err(Refusal::NotFound(key.clone())),
                    Some(held) if held.modified != *revision => return Err(Refusal::Conflict(key.clone())),
                    Some(_) => {}
                },
                Expect::Absent(_) => {}
            }
        }
        // Several additions to one record are as one.
        let mut writes: Vec<Write> = Vec::new();
        for write in &txn.writes {
            let before = writes.iter_mut().find_map(|before| match (before, write) {
                (Write::Add(key, deltas), Write::Add(other, _)) if key == other => Some(deltas),
                _ => None,
            });
            match (before, write) {
                (Some(before), Write::Add(_, more)) => before.extend(more.iter().cloned()),
                _ => writes.push(write.clone()),
            }
        }
        let mut next = self.records.clone();
        let revision = self.revision.next();
        let mut changed = false;
        for write in &writes {
            let (Write::Put(key, _) | Write::Delete(key) | Write::Add(key, _)) = write;
            let encoded = key.encode().unwrap();
            let value = match write {
                Write::Put(_, value) => Some(value.clone()),
                Write::Delete(_) => None,
                Write::Add(_, deltas) => {
                    let fields = next
                        .get(&encoded)
                        .map(|held| serde_json::from_slice(&held.value).unwrap());
                    let mut fields: BTreeMap<String, i64> = fields.unwrap_or_default();
                    for Delta { field, add, limit } in deltas {
                        let sum = fields.entry(field.clone()).or_default();
                        *sum = (*sum + add).max(0);
                        if *add > 0 && limit.is_some_and(|limit| *sum > limit) {
                            return Err(Refusal::Limit(key.clone(), field.clone()));
                        }
                    }
                    fields.retain(|_, sum| *sum != 0);
                    (!fields.is_empty()).then(|| serde_json::to_vec(&fields).unwrap().into())
                }
            };
            changed |= match value {
                Some(value) => {
                    let created = next.get(&encoded).map_or(revision, |held| held.created);
                    next.insert(
                        encoded,
                        Held {
                            value,
                            created,
                            modified: revision,
                        },
                    );
                    true
                }
                None => next.remove(&encoded).is_some(),
            };
        }
        if changed {
            self.records = next;
            self.revision = revision;
            self.past.insert(revision, self.values());
        }
        Ok(self.revision)
    }
}

fn build(model: &Model, wants: &[Want], changes: &[Change], number: usize) -> Txn {
    let expects = wants.iter().map(|want| match want {
        Want::Absent(number) => Expect::Absent(key(*number)),
        Want::At(number, right) => {
            let modified = model.at(&key(*number)).map_or(Revision(1), |held| held.modified);
            Expect::At(key(*number), if *right { modified } else { Revision(modified.0 + 1) })
        }
    });
    let writes = changes.iter().map(|change| match change {
        Change::Put(number, value) => Write::Put(key(*number), format!("{value}").into()),
        Change::Delete(number) => Write::Delete(key(*number)),
        Change::Add(number, deltas) => {
            let delta = |(field, add, limit): &(u8, i64, Option<i64>)| Delta {
                field: format!("f{field}"),
                add: *add,
                limit: *limit,
            };
            Write::Add(counter(*number), deltas.iter().map(delta).collect())
        }
    });
    Txn {
        expects: expects.collect(),
        writes: writes.collect(),
        cause: Cause::request(format!("user-{number}"), "req"),
        at: Timestamp::from_microsecond(number as i64).unwrap(),
    }
}

fn refusal(failed: StoreError) -> Refusal {
    match failed {
        StoreError::Conflict { key } => Refusal::Conflict(key),
        StoreError::Exists { key } => Refusal::Exists(key),
        StoreError::NotFound { key } => Refusal::NotFound(key),
        StoreError::LimitExceeded { key, field, .. } => Refusal::Limit(*key, field),
        StoreError::Invalid(_) => Refusal::Invalid,
        other => panic!("{other}"),
    }
}

async fn run(steps: Vec<Step>, lab: &dyn Lab) {
    let mut engine = lab.open().await;
    let mut model = Model::default();
    model.past.insert(Revision(0), BTreeMap::new());
    for (number, step) in steps.into_iter().enumerate() {
        match step {
            Step::Txn(wants, changes) => {
                let txn = build(&model, &wants, &changes, number);
                let expected = model.apply(&txn);
                assert_eq!(engine.txn(txn).await.map_err(refusal), expected);
            }
            Step::Compact(part) => {
                let through = Revision(model.revision.0 / part);
                engine.compact(through).await.unwrap();
                model.compacted = model.compacted.max(through);
            }
            Step::Reopen => {
                engine.close().await;
                engine = lab.open().await;
            }
        }
    }
    compare(&*engine, &model).await;
    engine.close().await;
    let engine = lab.open().await;
    compare(&*engine, &model).await;
    engine.close().await;
}

async fn compare(engine: &dyn Backend, model: &Model) {
    assert_eq!(engine.revision().await.unwrap(), model.revision);
    for prefix in [Prefix::all(), Prefix::kind("as"), Prefix::project("bs", "p/1")] {
        let mut listed = BTreeMap::new();
        let mut after = None;
        loop {
            let page = engine.range(&prefix, after.as_ref(), 2).await.unwrap();
            assert_eq!(page.revision, model.revision);
            after = page.records.last().map(|record| record.key.clone());
            listed.extend(page.records.into_iter().map(|record| {
                let held = Held {
                    value: record.value,
                    created: record.created,
                    modified: record.modified,
                };
                (record.key.encode().unwrap(), held)
            }));
            if !page.more {
                break;
            }
        }
        let expected = model.records.iter().filter(|(key, _)| prefix.matches(key));
        assert_eq!(
            listed,
            expected.map(|(key, held)| (key.clone(), held.clone())).collect()
        );
    }
    // A watch from any revision brings what was there to what is there, through what was there between.
    for from in 0..=model.revision.0 {
        let from = Revision(from);
        let watch = engine.watch(Prefix::all(), from).await;
        if from < model.compacted {
            assert!(matches!(watch.err(), Some(StoreError::Compacted { compacted }) if compacted == model.compacted));
            continue;
        }
        let mut watch = watch.unwrap();
        let mut values = model.past[&from].clone();
        for revision in from.0 + 1..=model.revision.0 {
            let batch = watch.next().await.unwrap();
            assert_eq!(batch.revision, Revision(revision));
            let Batch { events, cause, at, .. } = &*batch;
            assert_eq!(
                *cause.actor,
                format!("user-{}", at.as_microsecond()),
                "a change keeps its own cause"
            );
            for Event { key, value } in events {
                match value {
                    Some(value) => _ = values.insert(key.encode().unwrap(), value.clone()),
                    None => assert!(values.remove(&key.encode().unwrap()).is_some()),
                }
            }
            assert_eq!(values, model.past[&batch.revision]);
        }
    }
}

fn try_all(cases: u32, lab: impl Fn() -> Box<dyn Lab>) {
    let config = ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let steps = proptest::collection::vec(step(), 1..60);
    let tried = TestRunner::new(config).run(&steps, |steps| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(run(steps, &*lab()));
        Ok(())
    });
    tried.unwrap();
}

#[test]
fn the_engine_is_a_map_with_a_past() {
    try_all(48, || Box::new(SqliteLab::new()));
}

#[test]
fn etcd_is_a_map_with_a_past() {
    let cluster = Cluster::start();
    try_all(16, || Box::new(EtcdLab::new(&cluster)));
}
