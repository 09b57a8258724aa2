//! Reading one's writes, contention, listeners, lost changes, closing.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use madang_store::{Backend, Cause, Revision, StoreError};
use parking_lot::Mutex;
use tokio::task::JoinSet;

use super::{
    faulty::Forgetful,
    kinds::{Book, Diary, Library, Shelf, book, builder, engine, key, me, shelf},
    properties::assert_same,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_written_reads_it() {
    let library = Library::open().await;
    let mut tasks = JoinSet::new();
    for writer in 0..16 {
        let store = library.store.clone();
        tasks.spawn(async move {
            for number in 0..20 {
                let mut tx = store.begin(me());
                let made = tx.create(shelf(&format!("{writer}-{number}"))).unwrap();
                let revision = tx.commit().await.unwrap();
                assert_eq!(store.get::<Shelf>(&made.key()).unwrap().revision, revision);
                assert!(store.applied() >= revision);
            }
        });
    }
    tasks.join_all().await;
    assert_eq!(library.store.cache::<Shelf>().in_project("p").len(), 320);
    assert_eq!(library.store.cache::<Shelf>().count_in_project("p"), 320);
    library.store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_gets_through_at_one_resource() {
    let library = Library::open().await;
    library.shelve(book("a", "a")).await.unwrap();
    let mut tasks = JoinSet::new();
    for _ in 0..64 {
        let store = library.store.clone();
        tasks.spawn(async move {
            for _ in 0..10 {
                let at = key::<Book>("a");
                let counted = store.modify::<Book, StoreError>(&at, me(), |book| {
                    book.status.count += 1;
                    Ok(())
                });
                counted.await.unwrap();
            }
        });
    }
    tasks.join_all().await;
    assert_eq!(library.book("a").unwrap().status.count, 640);
    library.store.close().await;
}

#[tokio::test]
async fn what_moves_to_another_key_keeps_its_age() {
    let library = Library::open().await;
    let old = library.shelve(book("a", "a")).await.unwrap();
    tokio::time::sleep(Duration::from_millis(2)).await;
    let mut tx = library.store.begin(me());
    tx.delete(&*old).unwrap();
    let moved = tx.create_since(book("b", "b"), old.metadata.created).unwrap();
    tx.commit().await.unwrap();
    let moved = library.store.get::<Book>(&moved.key()).unwrap();
    assert_eq!(moved.metadata.created, old.metadata.created);
    assert!(moved.metadata.updated > old.metadata.updated);
    library.store.close().await;
}

#[tokio::test]
async fn a_conflict_that_stays_is_told_at_once() {
    let library = Library::open().await;
    let stale = library.shelve(book("a", "a")).await.unwrap();
    library.change("a", |book| book.status.count = 1).await.unwrap();
    let mut attempts = 0;
    let changed = library.store.transact::<_, StoreError>(me(), |tx| {
        attempts += 1;
        let mut new = (*stale).clone();
        new.status.count = 9;
        tx.update(&stale, new).map(|_| ())
    });
    assert!(matches!(changed.await, Err(StoreError::Conflict { .. })));
    assert!(attempts <= 3, "what was read outside does not get newer: {attempts}");
    let missing = library.change("nobody", |_| {}).await;
    assert!(matches!(missing, Err(StoreError::NotFound { .. })));
    library.delete::<Book>("a").await.unwrap();
    let mut tx = library.store.begin(me());
    let mut new = (*stale).clone();
    new.status.count = 9;
    tx.update(&stale, new).unwrap();
    assert!(matches!(tx.commit().await, Err(StoreError::NotFound { .. })));
    // An expectation without a write is checked, too.
    let b = library.shelve(book("b", "b")).await.unwrap();
    library.change("b", |book| book.status.count = 1).await.unwrap();
    let mut tx = library.store.begin(me());
    tx.expect(&*b).unwrap();
    tx.create(shelf("by-b")).unwrap();
    assert!(matches!(tx.commit().await, Err(StoreError::Conflict { .. })));
    library.store.close().await;
}

#[tokio::test]
async fn a_uid_is_there_once() {
    let library = Library::open().await;
    let first = library.shelve(book("a", "a")).await.unwrap();
    let mut second = book("b", "b");
    second.metadata.uid = first.metadata.uid;
    assert!(matches!(library.shelve(second).await, Err(StoreError::Exists { .. })));
    library.store.close().await;
}

/// What a listener was told, as name and count before and after.
type Told = Arc<Mutex<Vec<(String, Option<u64>, Option<u64>)>>>;

fn listen(library: &Library) -> Told {
    let told = Told::default();
    let notes = Arc::clone(&told);
    library.store.cache::<Book>().on_change(move |change| {
        let count = |book: &Option<Arc<madang_store::Resource<Book>>>| book.as_ref().map(|book| book.status.count);
        let name = change.resource().name().to_owned();
        notes.lock().push((name, count(&change.old), count(&change.new)));
    });
    told
}

#[tokio::test]
async fn a_listener_sees_all_that_was_written_together() {
    let library = Library::open().await;
    let store = library.store.clone();
    let seen = Arc::new(Mutex::new(None));
    let notes = Arc::clone(&seen);
    library.store.cache::<Shelf>().on_change(move |_| {
        *notes.lock() = Some(store.get::<Book>(&key::<Book>("a")).is_some());
    });
    let mut tx = library.store.begin(me());
    tx.create(shelf("first")).unwrap();
    tx.create(book("a", "a")).unwrap();
    tx.commit().await.unwrap();
    assert_eq!(
        *seen.lock(),
        Some(true),
        "the book was written after the shelf, with it"
    );
    library.store.close().await;
}

#[tokio::test]
async fn listeners_are_told_every_change_in_order() {
    let library = Library::open().await;
    library.store.cache::<Book>().on_change(|change| {
        assert_ne!(change.resource().name(), "b", "a listener that panics, on purpose");
    });
    let told = listen(&library);
    library.shelve(book("a", "a")).await.unwrap();
    library.shelve(book("b", "b")).await.unwrap();
    library.change("a", |book| book.status.count = 1).await.unwrap();
    library.delete::<Book>("a").await.unwrap();
    let told = std::mem::take(&mut *told.lock());
    let of_a: Vec<_> = told
        .iter()
        .filter(|(name, ..)| name == "a")
        .map(|(_, old, new)| (*old, *new))
        .collect();
    assert_eq!(of_a, [(None, Some(0)), (Some(0), Some(1)), (Some(1), None)]);
    assert!(
        library.book("b").is_some(),
        "a panic of a listener harms nobody's write"
    );
    library.store.close().await;
}

#[tokio::test]
async fn lost_changes_are_listed_again() {
    let dir = tempfile::tempdir().unwrap();
    let inner = engine(&dir).await;
    let forgetful = Arc::new(Forgetful::new(inner.clone()));
    let library = Library::open_on(forgetful.clone(), dir).await;
    for number in 0..20 {
        library.shelve(book(&format!("{number}"), "")).await.unwrap();
    }
    let told = listen(&library);
    forgetful.failing_lists.store(1, Ordering::SeqCst);
    forgetful.loses.store(true, Ordering::SeqCst);
    // The change that is lost removes, changes and adds; whoever made it still waits until the caches show it.
    library
        .store
        .transact::<_, StoreError>(me(), |tx| {
            let (gone, changed) = (
                tx.get::<Book>(&key::<Book>("3")).unwrap(),
                tx.get::<Book>(&key::<Book>("4")).unwrap(),
            );
            tx.delete(&gone)?;
            let mut new = (*changed).clone();
            new.status.count = 5;
            tx.update(&changed, new)?;
            tx.create(book("new", ""))?;
            Ok(())
        })
        .await
        .unwrap();
    assert!(library.book("3").is_none());
    assert_eq!(library.book("4").unwrap().status.count, 5);
    assert!(library.book("new").is_some());
    let mut told = std::mem::take(&mut *told.lock());
    told.sort();
    let expected = [("3", Some(0), None), ("4", Some(0), Some(5)), ("new", None, Some(0))];
    assert_eq!(
        told,
        expected.map(|(name, old, new)| (name.to_owned(), old, new)),
        "these, and nothing that stayed"
    );
    assert_eq!(library.store.counters("p", "library")["books"], 20);
    library.change("4", |book| book.status.count = 6).await.unwrap();
    let engine: Arc<dyn Backend> = forgetful;
    assert_same(&library.store, &engine).await;
    library.store.close().await;
}

#[tokio::test]
async fn a_dropped_commit_is_taken_in_all_the_same() {
    let library = Library::open().await;
    for number in 0..30 {
        let mut tx = library.store.begin(me());
        tx.create(shelf(&format!("{number}"))).unwrap();
        let patience = Duration::from_micros(number * 20);
        _ = tokio::time::timeout(patience, tx.commit()).await;
    }
    library.shelve(book("last", "last")).await.unwrap();
    let engine = library.store.backend().clone();
    assert_same(&library.store, &engine).await;
    library.store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_answers_everybody() {
    let library = Library::open().await;
    let mut tasks = JoinSet::new();
    for number in 0..200 {
        let store = library.store.clone();
        tasks.spawn(async move {
            let mut tx = store.begin(me());
            tx.create(shelf(&format!("{number}"))).unwrap();
            (format!("{number}"), tx.commit().await)
        });
    }
    tokio::time::sleep(Duration::from_millis(2)).await;
    library.store.close().await;
    let all = tokio::time::timeout(Duration::from_secs(10), tasks.join_all())
        .await
        .expect("nobody waits for ever");
    let mut acknowledged = BTreeMap::new();
    for (name, result) in all {
        match result {
            Ok(revision) => _ = acknowledged.insert(name, revision),
            Err(failed) => assert!(matches!(failed, StoreError::Closed), "{failed}"),
        }
    }
    assert!(
        matches!(library.store.begin(me()).commit().await, Ok(Revision(_))),
        "an empty transaction asks nobody"
    );
    let library = library.reopen().await;
    let there: BTreeMap<_, _> = library
        .store
        .cache::<Shelf>()
        .all()
        .iter()
        .map(|shelf| (shelf.name().to_owned(), shelf.revision))
        .collect();
    assert_eq!(there, acknowledged, "acknowledged is there, and only that");
    library.store.close().await;
}

#[tokio::test]
async fn two_stores_on_one_engine_see_each_other() {
    let library = Library::open().await;
    let second = builder(Diary::default())
        .open(library.store.backend().clone())
        .await
        .unwrap();
    library.shelve(book("a", "a")).await.unwrap();
    second.reached(library.store.applied()).await.unwrap();
    assert!(second.get::<Book>(&key::<Book>("a")).is_some());
    let mut tasks = JoinSet::new();
    for store in [library.store.clone(), second.clone()] {
        tasks.spawn(async move {
            for _ in 0..30 {
                let at = key::<Book>("a");
                let counted = store.modify::<Book, StoreError>(&at, Cause::system("test"), |book| {
                    book.status.count += 1;
                    Ok(())
                });
                counted.await.unwrap();
            }
        });
    }
    tasks.join_all().await;
    second
        .reached(library.store.backend().revision().await.unwrap())
        .await
        .unwrap();
    assert_eq!(second.get::<Book>(&key::<Book>("a")).unwrap().status.count, 60);
    library.store.close().await;
    second.close().await;
}
