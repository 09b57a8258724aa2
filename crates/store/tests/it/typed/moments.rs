//! What one transaction wrote is seen at once, by whoever looks at several kinds.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::Duration,
};

use madang_store::{Delta, Indexes, Kind, Metadata, Resource, Store, StoreBuilder, StoreError};
use parking_lot::Mutex;

use super::kinds::{Seen, Text, engine, key, me, text};

/// A kind that is written together with [`Right`].
struct Left;
impl Kind for Left {
    const NAME: &'static str = "lefts";
    type Spec = Text;
    type Status = Seen;
}

/// A kind whose index takes as long as a test wants it to.
struct Right;
impl Kind for Right {
    const NAME: &'static str = "rights";
    type Spec = Text;
    type Status = Seen;

    fn indexes() -> Indexes<Self> {
        Indexes::<Self>::new().on("title", |right| {
            if right.spec.title == "slow"
                && let Some(look) = LOOK.lock().take()
            {
                look();
            }
            vec![right.spec.title.clone()]
        })
    }
}

/// Called once, when the index of a slow [`Right`] is asked next.
static LOOK: Mutex<Option<Box<dyn FnOnce() + Send>>> = Mutex::new(None);

async fn open(dir: &tempfile::TempDir) -> Store {
    let mut builder = StoreBuilder::new();
    builder.kind::<Left>().kind::<Right>();
    builder.open(engine(dir).await).await.unwrap()
}

async fn make(store: &Store, title: &str) {
    let mut tx = store.begin(me());
    tx.create(Resource::<Left>::new(Metadata::new("p", "a"), text(title)))
        .unwrap();
    tx.create(Resource::<Right>::new(Metadata::new("p", "a"), text(title)))
        .unwrap();
    tx.commit().await.unwrap();
}

/// How it once was: a server was gone a moment before its ports, and whoever had seen that was told that its subnet is in
/// use.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_together_is_gone_together() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir).await;
    make(&store, "slow").await;
    let (seen, was_seen) = mpsc::sync_channel(1);
    let looked = store.clone();
    *LOOK.lock() = Some(Box::new(move || {
        let left = looked.get::<Left>(&key::<Left>("a")).is_some();
        let right = looked.get::<Right>(&key::<Right>("a")).is_some();
        seen.send((left, right)).unwrap();
    }));
    store
        .transact::<_, StoreError>(me(), |tx| {
            let (left, right) = (
                tx.get::<Left>(&key::<Left>("a")).unwrap(),
                tx.get::<Right>(&key::<Right>("a")).unwrap(),
            );
            tx.delete(&left)?;
            tx.delete(&right)
        })
        .await
        .unwrap();
    let (left, right) = was_seen.recv_timeout(Duration::from_secs(10)).unwrap();
    assert_eq!(left, right, "one is gone before the other");
    assert!(store.cache::<Left>().is_empty() && store.cache::<Right>().is_empty());
    store.close().await;
}

/// Two kinds and a counter say the same number in one moment; one after the other, the later look is never the older.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_moment_shows_every_kind_at_one_revision() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir).await;
    make(&store, "quick").await;
    let is_done = Arc::new(AtomicBool::new(false));
    let readers = [(); 2].map(|()| {
        let (store, is_done) = (store.clone(), Arc::clone(&is_done));
        std::thread::spawn(move || {
            let left = || store.get::<Left>(&key::<Left>("a")).unwrap().status.count;
            let right = || store.get::<Right>(&key::<Right>("a")).unwrap().status.count;
            let counted = || store.counters("p", "pairs").get("made").copied().unwrap_or(0) as u64;
            let mut looks = 0_u32;
            while !is_done.load(Ordering::Relaxed) || looks == 0 {
                looks += 1;
                let moment = store.moment();
                assert_eq!((left(), counted()), (right(), right()));
                drop(moment);
                let first = left();
                assert!(
                    right() >= first && counted() >= first,
                    "a later look at another kind shows less"
                );
                let first = right();
                assert!(left() >= first, "a later look at another kind shows less");
            }
        })
    });
    for _ in 0..500 {
        store
            .transact::<_, StoreError>(me(), |tx| {
                let left = tx.get::<Left>(&key::<Left>("a")).unwrap();
                let right = tx.get::<Right>(&key::<Right>("a")).unwrap();
                let (mut new_left, mut new_right) = ((*left).clone(), (*right).clone());
                new_left.status.count += 1;
                new_right.status.count += 1;
                tx.update(&left, new_left)?;
                tx.update(&right, new_right)?;
                let one = Delta {
                    field: "made".to_owned(),
                    add: 1,
                    limit: None,
                };
                tx.add("p", "pairs", vec![one]);
                Ok(())
            })
            .await
            .unwrap();
    }
    is_done.store(true, Ordering::Relaxed);
    for reader in readers {
        reader.join().unwrap();
    }
    store.close().await;
}
