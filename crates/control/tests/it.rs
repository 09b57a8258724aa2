//! A controller as a whole: what wakes it, what it survives, how it stops.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use madang_control::{Backoff, Controller, Next, TaskGroup};
use madang_store::{Cause, Key, Kind, Metadata, Resource, Sqlite, SqliteOptions, Store, StoreBuilder, StoreError};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep},
};

const PATIENCE: Duration = Duration::from_secs(5);

fn backoff() -> Backoff {
    Backoff {
        first: Duration::from_millis(100),
        most: Duration::from_secs(2),
    }
}

#[tokio::test(start_paused = true)]
async fn the_clock_brings_every_key_at_the_start_and_again() {
    let group = TaskGroup::new("test");
    let seen = Arc::new(Mutex::new(BTreeMap::<u32, Vec<Duration>>::new()));
    let (begun, notes) = (Instant::now(), seen.clone());
    Controller::new("clock").resync(Duration::from_secs(60)).run(
        &group,
        || vec![1, 2],
        move |key| {
            notes.lock().entry(key).or_default().push(begun.elapsed());
            async { Ok::<_, StoreError>(Next::Done) }
        },
    );
    sleep(Duration::from_secs(130)).await;
    assert_eq!(group.shutdown(PATIENCE).await, [""; 0]);
    let seen = seen.lock();
    assert_eq!(seen.keys().copied().collect::<Vec<_>>(), [1, 2]);
    for times in seen.values() {
        let minutes: Vec<_> = times.iter().map(Duration::as_secs).collect();
        assert_eq!(minutes, [0, 60, 120]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_that_panics_is_asked_again() {
    let group = TaskGroup::new("test");
    let (lists, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (count, notes) = (lists.clone(), done.clone());
    let all = move || {
        assert!(count.fetch_add(1, SeqCst) > 0, "the first list fails, on purpose");
        vec![1]
    };
    Controller::new("lister")
        .resync(Duration::from_secs(1))
        .run(&group, all, move |_| {
            notes.fetch_add(1, SeqCst);
            async { Ok::<_, StoreError>(Next::Done) }
        });
    sleep(Duration::from_millis(1500)).await;
    assert_eq!((lists.load(SeqCst), done.load(SeqCst)), (2, 1));
    assert_eq!(group.shutdown(PATIENCE).await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_failing_key_waits_longer_each_time_and_starts_over_when_it_works() {
    let group = TaskGroup::new("test");
    let times = Arc::new(Mutex::new(Vec::new()));
    let notes = times.clone();
    let controller = Controller::new("failing")
        .backoff(backoff())
        .resync(Duration::from_secs(3600));
    let queue = controller.queue();
    controller.run(&group, Vec::<u32>::new, move |_| {
        let mut times = notes.lock();
        times.push(Instant::now());
        let works = times.len() == 7;
        async move { if works { Ok(Next::Done) } else { Err("not now") } }
    });
    queue.add(1);
    sleep(Duration::from_secs(20)).await;
    queue.add(1);
    sleep(Duration::from_secs(1)).await;
    let times = std::mem::take(&mut *times.lock());
    let waits: Vec<_> = times.windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect();
    let expected = [100, 200, 400, 800, 1600, 2000];
    for (wait, most) in waits.iter().zip(expected) {
        assert!(*wait <= most + 1 && *wait >= most * 8 / 10, "{waits:?}");
    }
    // Worked at the seventh; added again it fails, and waits as after a first failure.
    assert!(waits[7] <= 101, "{waits:?}");
    assert_eq!(group.shutdown(PATIENCE).await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_panic_costs_its_key_a_backoff_and_no_worker() {
    let group = TaskGroup::new("test");
    let (bad, good) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (bads, goods) = (bad.clone(), good.clone());
    let controller = Controller::new("panicking")
        .workers(1)
        .backoff(backoff())
        .resync(Duration::from_secs(3600));
    let queue = controller.queue();
    controller.run(&group, Vec::<&str>::new, move |key| {
        // One panics before it gives a future, one within it.
        assert_ne!(key, "worse", "on purpose, at once");
        let (bads, goods) = (bads.clone(), goods.clone());
        async move {
            if key == "bad" && bads.fetch_add(1, SeqCst) < 3 {
                tokio::task::yield_now().await;
                panic!("on purpose, later");
            }
            if key == "good" {
                goods.fetch_add(1, SeqCst);
            }
            Ok::<_, StoreError>(Next::Done)
        }
    });
    queue.add("worse");
    queue.add("bad");
    for _ in 0..20 {
        queue.add("good");
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(good.load(SeqCst), 20, "the only worker goes on");
    assert_eq!(bad.load(SeqCst), 4, "three panics, then it worked");
    assert_eq!(group.running().len(), 2);
    assert_eq!(group.shutdown(PATIENCE).await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_key_comes_back_when_it_said_and_at_once_when_it_changed() {
    let group = TaskGroup::new("test");
    let times = Arc::new(Mutex::new(Vec::new()));
    let (begun, notes) = (Instant::now(), times.clone());
    let controller = Controller::new("waiting").resync(Duration::from_secs(3600));
    let queue = controller.queue();
    controller.run(&group, Vec::<u32>::new, move |_| {
        notes.lock().push(begun.elapsed().as_secs());
        async { Ok::<_, StoreError>(Next::After(Duration::from_secs(10))) }
    });
    queue.add(1);
    sleep(Duration::from_secs(14)).await;
    queue.add(1);
    sleep(Duration::from_secs(21)).await;
    assert_eq!(*times.lock(), [0, 10, 14, 24, 34]);
    assert_eq!(group.shutdown(PATIENCE).await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn the_clock_does_not_wait_for_a_key_that_waits_long() {
    let group = TaskGroup::new("test");
    let times = Arc::new(Mutex::new(Vec::new()));
    let (begun, notes) = (Instant::now(), times.clone());
    Controller::new("patient").resync(Duration::from_secs(60)).run(
        &group,
        || vec![1],
        move |_: u32| {
            notes.lock().push(begun.elapsed().as_secs());
            async { Ok::<_, StoreError>(Next::After(Duration::from_secs(100))) }
        },
    );
    sleep(Duration::from_secs(190)).await;
    assert_eq!(*times.lock(), [0, 60, 120, 180]);
    assert_eq!(group.shutdown(PATIENCE).await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn stopping_finishes_what_is_at_work_and_begins_nothing() {
    let group = TaskGroup::new("test");
    let (begun, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (begins, ends) = (begun.clone(), ended.clone());
    let controller = Controller::new("busy").workers(3).resync(Duration::from_secs(3600));
    let queue = controller.queue();
    controller.run(
        &group,
        || (0..100).collect(),
        move |_: u32| {
            let (begins, ends) = (begins.clone(), ends.clone());
            async move {
                begins.fetch_add(1, SeqCst);
                sleep(Duration::from_secs(2)).await;
                ends.fetch_add(1, SeqCst);
                Ok::<_, StoreError>(Next::Done)
            }
        },
    );
    sleep(Duration::from_secs(1)).await;
    assert_eq!(group.shutdown(PATIENCE).await, [""; 0]);
    assert_eq!((begun.load(SeqCst), ended.load(SeqCst)), (3, 3));
    assert_eq!(queue.len(), 97);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_end_is_named_and_ended() {
    let group = TaskGroup::new("test");
    let controller = Controller::new("deaf").workers(2).resync(Duration::from_secs(3600));
    let queue = controller.queue();
    controller.run(&group, Vec::<u32>::new, |_| {
        std::future::pending::<Result<Next, StoreError>>()
    });
    queue.add(1);
    sleep(Duration::from_millis(10)).await;
    let late = group.shutdown(PATIENCE).await;
    assert!(matches!(&late[..], [one] if one.starts_with("test/deaf-")), "{late:?}");
    tokio::task::yield_now().await;
    assert_eq!(group.running(), [""; 0]);
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Wish(u64);

struct Toy;
impl Kind for Toy {
    const NAME: &'static str = "toys";
    type Spec = Wish;
    type Status = Option<u64>;
}

fn toy(name: &str) -> Key {
    Key::new(Toy::NAME, "p", "", name)
}

async fn store(dir: &tempfile::TempDir) -> Store {
    let engine = Sqlite::open(SqliteOptions::new(dir.path().join("state.db")))
        .await
        .unwrap();
    let mut builder = StoreBuilder::new();
    builder.kind::<Toy>();
    builder.open(Arc::new(engine)).await.unwrap()
}

/// Many wishes of many resources, changed while they are worked on, by a reconciler that fails and panics at times: in
/// the end, what is is what was asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_comes_to_match_what_was_asked() {
    const TOYS: u64 = 30;
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir).await;
    let group = TaskGroup::new("test");
    let calls = Arc::new(AtomicU64::new(0));
    let (at_work, in_store, count) = (Arc::new(Semaphore::new(4)), store.clone(), calls.clone());
    Controller::new("toys")
        .backoff(Backoff {
            first: Duration::from_millis(1),
            most: Duration::from_millis(20),
        })
        .watch::<Toy>(&store, |change| vec![change.resource().key()])
        .run(
            &group,
            {
                let store = store.clone();
                move || store.cache::<Toy>().all().iter().map(|toy| toy.key()).collect()
            },
            move |key| {
                let (store, at_work) = (in_store.clone(), at_work.clone());
                let call = count.fetch_add(1, SeqCst);
                async move {
                    let _worker = at_work.try_acquire().expect("no more than the workers are at work");
                    assert_ne!(call % 17, 5, "a panic on purpose");
                    if call % 5 == 1 {
                        return Err(StoreError::Invalid("a failure on purpose".to_owned()));
                    }
                    let Some(asked) = store.get::<Toy>(&key) else {
                        return Ok(Next::Done);
                    };
                    let wish = asked.spec.0;
                    let met = store.modify::<Toy, StoreError>(&key, Cause::system("toys"), |toy| {
                        toy.status = Some(wish);
                        Ok(())
                    });
                    match met.await {
                        Ok(_) | Err(StoreError::NotFound { .. }) => Ok(Next::Done),
                        Err(failed) => Err(failed),
                    }
                }
            },
        );
    for number in 0..TOYS {
        let mut tx = store.begin(Cause::system("test"));
        tx.create(Resource::<Toy>::new(Metadata::new("p", format!("{number}")), Wish(0)))
            .unwrap();
        tx.commit().await.unwrap();
    }
    for wish in 1..=10 {
        for number in 0..TOYS {
            let key = toy(&format!("{number}"));
            let changed = store.modify::<Toy, StoreError>(&key, Cause::system("test"), |toy| {
                toy.spec = Wish(wish * 100 + number);
                Ok(())
            });
            changed.await.unwrap();
        }
    }
    let matches = || {
        store
            .cache::<Toy>()
            .all()
            .iter()
            .all(|toy| toy.status == Some(toy.spec.0))
    };
    for _ in 0..1000 {
        if matches() {
            break;
        }
        sleep(Duration::from_millis(5)).await;
    }
    assert!(matches(), "after {} calls", calls.load(SeqCst));
    assert_eq!(group.shutdown(PATIENCE).await, [""; 0]);
    store.close().await;
}
