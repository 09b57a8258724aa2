//! Rules see the right operations and produce the right writes, whoever writes and however often it is tried.

use std::sync::Arc;

use madang_store::{ErrorKind, Op, Revision, StoreBuilder, StoreError};
use tokio::task::JoinSet;

use super::kinds::{Book, Diary, Library, Shelf, book, builder, engine, key, me, shelf};

#[tokio::test]
async fn a_rule_completes_checks_and_counts() {
    let library = Library::open().await;
    let made = library.shelve(book("a", "")).await.unwrap();
    assert_eq!(made.spec.title, "untitled a", "the rule's word is what is stored");
    assert_eq!(
        (made.metadata.generation, made.metadata.created),
        (1, made.metadata.updated)
    );
    assert!(made.revision > Revision(0));
    assert_eq!(library.store.counters("p", "library")["books"], 1);

    let refused = library.shelve(book("b", "forbidden")).await.unwrap_err();
    assert!(
        matches!(&refused, StoreError::Rejected(r) if r.reason == "Forbidden" && r.field.as_deref() == Some("title"))
    );
    assert_eq!(refused.kind(), ErrorKind::Forbidden);
    let refused = library.shelve(book("c", "untitled a")).await.unwrap_err();
    assert!(
        matches!(&refused, StoreError::Exists { key } if key.kind == "reservations"),
        "{refused}"
    );
    let refused = library.shelve(book("a", "another")).await.unwrap_err();
    assert!(
        matches!(&refused, StoreError::Exists { key } if key.kind == "books"),
        "{refused}"
    );
    assert_eq!(
        library.store.counters("p", "library")["books"],
        1,
        "who is refused counts for nothing"
    );
    assert_eq!(library.store.cache::<Book>().len(), 1);
    library.store.close().await;
}

#[tokio::test]
async fn a_rule_sees_each_step_of_a_life() {
    let library = Library::open().await;
    let mut kept = book("kept", "kept");
    kept.metadata.finalizers = vec!["reader".to_owned()];
    library.shelve(kept).await.unwrap();
    library.shelve(book("loose", "loose")).await.unwrap();
    assert_eq!(library.diary.take(), ["create kept", "create loose"]);

    let same = library.change("loose", |_| {}).await.unwrap();
    assert_eq!(
        same.revision,
        library.book("loose").unwrap().revision,
        "no difference is no write"
    );
    let seen = library.change("loose", |book| book.status.count = 1).await.unwrap();
    assert_eq!(seen.metadata.generation, 1, "the status is no generation");
    let renamed = library
        .change("loose", |book| book.spec.title = "new".to_owned())
        .await
        .unwrap();
    assert_eq!(renamed.metadata.generation, 2);
    assert!(renamed.metadata.updated > renamed.metadata.created);
    library.diary.take();

    // Without finalizers it goes at once; with one it is marked, then goes with it.
    library.delete::<Book>("loose").await.unwrap();
    assert_eq!(library.diary.take(), ["remove loose"]);
    assert!(library.book("loose").is_none());
    library.delete::<Book>("kept").await.unwrap();
    assert_eq!(library.diary.take(), ["update kept to go"]);
    library.delete::<Book>("kept").await.unwrap();
    assert_eq!(library.diary.take(), [""; 0], "asked for already");
    let marked = library.book("kept").unwrap();
    assert!(marked.metadata.is_deleting());
    let stubborn = library
        .change("kept", |book| book.metadata.deleted = None)
        .await
        .unwrap();
    assert_eq!(
        stubborn.metadata.deleted, marked.metadata.deleted,
        "a mark of deletion stays"
    );
    library.change("kept", |book| book.status.count = 7).await.unwrap();
    library.diary.take();
    library
        .change("kept", |book| book.metadata.finalizers.clear())
        .await
        .unwrap();
    assert_eq!(library.diary.take(), ["remove kept"]);
    assert!(library.book("kept").is_none());
    assert!(library.store.counters("p", "library").is_empty());
    // Their titles are free again, for good.
    library.shelve(book("next", "new")).await.unwrap();
    library.shelve(book("after", "kept")).await.unwrap();
    library.store.close().await;
}

#[tokio::test]
async fn a_rule_that_clears_the_last_finalizer_ends_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut builder = StoreBuilder::new();
    builder.rule::<Shelf>(|_, op| {
        if let Op::Update { new, .. } = op
            && new.metadata.is_deleting()
        {
            new.metadata.finalizers.clear(); // nothing to clean up after all
        }
        Ok(())
    });
    let store = builder.open(engine(&dir).await).await.unwrap();
    let mut tx = store.begin(me());
    let mut made = shelf("a");
    made.metadata.finalizers = vec!["carpenter".to_owned()];
    let made = tx.create(made).unwrap();
    tx.delete(&made).unwrap();
    assert!(tx.get::<Shelf>(&made.key()).is_none());
    tx.commit().await.unwrap();
    assert!(store.cache::<Shelf>().is_empty());
    store.close().await;
}

#[tokio::test]
async fn reservations_pass_from_hand_to_hand() {
    let library = Library::open().await;
    library.shelve(book("a", "one")).await.unwrap();
    library.shelve(book("b", "two")).await.unwrap();
    // Both swap titles in one transaction: each is freed and taken once.
    library
        .store
        .transact::<_, StoreError>(me(), |tx| {
            let (a, b) = (
                tx.get::<Book>(&key::<Book>("a")).unwrap(),
                tx.get::<Book>(&key::<Book>("b")).unwrap(),
            );
            let mut parked = (*a).clone();
            parked.spec.title = "parked".to_owned();
            let parked = tx.update(&a, parked)?;
            let mut new_b = (*b).clone();
            new_b.spec.title = "one".to_owned();
            tx.update(&b, new_b)?;
            let mut new_a = (*parked).clone();
            new_a.spec.title = "two".to_owned();
            tx.update(&parked, new_a)?;
            Ok(())
        })
        .await
        .unwrap();
    for taken in ["one", "two"] {
        assert!(library.shelve(book("c", taken)).await.is_err(), "{taken} is taken");
    }
    library.shelve(book("c", "parked")).await.unwrap();

    let store = &library.store;
    let uid = uuid::Uuid::new_v4();
    let mut tx = store.begin(me());
    tx.reserve("seats", "1", uid).unwrap();
    assert!(tx.has_reserved("seats", "1"));
    assert!(matches!(tx.reserve("seats", "1", uid), Err(StoreError::Exists { .. })));
    tx.release("seats", "1");
    assert!(!tx.has_reserved("seats", "1"));
    tx.reserve("seats", "1", uid).unwrap();
    tx.commit().await.unwrap();
    // Freed twice and taken again by one transaction, it is taken.
    let mut tx = store.begin(me());
    tx.release("seats", "1");
    tx.release("seats", "1");
    tx.reserve("seats", "1", uid).unwrap();
    tx.commit().await.unwrap();
    let mut tx = store.begin(me());
    tx.reserve("seats", "1", uid).unwrap();
    assert!(matches!(tx.commit().await, Err(StoreError::Exists { .. })));
    // Taken and freed by one transaction, it is free.
    let mut tx = store.begin(me());
    tx.reserve("seats", "2", uid).unwrap();
    tx.release("seats", "2");
    tx.commit().await.unwrap();
    let mut tx = store.begin(me());
    tx.reserve("seats", "2", uid).unwrap();
    tx.commit().await.unwrap();
    library.store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_many_gets_a_reservation_and_limits_hold() {
    let library = Library::open().await;
    let mut tasks = JoinSet::new();
    for number in 0..80 {
        let store = library.store.clone();
        tasks.spawn(async move {
            let made = book(&format!("{number}"), &format!("title {}", number % 20));
            store
                .transact::<_, StoreError>(me(), |tx| tx.create(made.clone()).map(|_| ()))
                .await
                .is_ok()
        });
    }
    let made = tasks.join_all().await.into_iter().filter(|made| *made).count();
    assert_eq!(made, 20, "as many as there are titles");
    assert_eq!(library.store.counters("p", "library")["books"], 20);
    let mut tasks = JoinSet::new();
    for number in 100..200 {
        let store = library.store.clone();
        tasks.spawn(async move {
            let mut tx = store.begin(me());
            tx.create(book(&format!("{number}"), "")).unwrap();
            match tx.commit().await {
                Ok(_) => true,
                Err(StoreError::LimitExceeded { limit: 50, .. }) => false,
                Err(failed) => panic!("{failed}"),
            }
        });
    }
    let made = tasks.join_all().await.into_iter().filter(|made| *made).count();
    assert_eq!(
        (made, library.store.cache::<Book>().len()),
        (30, 50),
        "the quota is met exactly"
    );
    library.store.close().await;
}

#[tokio::test]
async fn a_transaction_does_not_overwrite_itself() {
    let library = Library::open().await;
    library.shelve(book("a", "a")).await.unwrap();
    let old = library.book("a").unwrap();
    let mut tx = library.store.begin(me());
    let mut first = (*old).clone();
    first.status.count = 1;
    let first = tx.update(&old, first).unwrap();
    let mut second = (*old).clone();
    second.status.by = Some("me".to_owned());
    let failed = tx.update(&old, second).unwrap_err();
    assert!(
        matches!(&failed, StoreError::Invalid(why) if why.contains("read it through")),
        "{failed}"
    );
    let mut second = (*first).clone();
    second.status.by = Some("me".to_owned());
    tx.update(&first, second).unwrap();
    tx.commit().await.unwrap();
    assert_eq!(library.book("a").unwrap().status.count, 1);
    assert_eq!(library.book("a").unwrap().status.by.as_deref(), Some("me"));

    // What it has removed is gone for it, and may be made anew.
    let old = library.book("a").unwrap();
    let mut tx = library.store.begin(me());
    tx.delete(&old).unwrap();
    tx.delete(&old).unwrap();
    assert!(matches!(
        tx.update(&old, (*old).clone()),
        Err(StoreError::NotFound { .. })
    ));
    let again = tx.create(book("a", "a")).unwrap();
    tx.commit().await.unwrap();
    assert_eq!(library.book("a").unwrap().metadata.uid, again.metadata.uid);
    assert_ne!(old.metadata.uid, again.metadata.uid);
    library.store.close().await;
}

#[tokio::test]
async fn a_rule_that_writes_what_is_being_written_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut builder = builder(Diary::default());
    // A shelf bends its book, which bends its shelf, and so on for ever.
    builder.rule::<Shelf>(|tx, op| {
        if let Op::Update { new, .. } = op
            && let Some(on_it) = tx.get::<Book>(&key::<Book>(new.name()))
        {
            let mut moved = (*on_it).clone();
            moved.status.count += 1;
            tx.update(&on_it, moved)?;
        }
        Ok(())
    });
    builder.rule::<Book>(|tx, op| {
        if let Op::Update { new, .. } = op
            && let Some(under_it) = tx.get::<Shelf>(&key::<Shelf>(new.name()))
        {
            let mut bent = (*under_it).clone();
            bent.status.count += 1;
            tx.update(&under_it, bent)?;
        }
        Ok(())
    });
    let store = builder.open(engine(&dir).await).await.unwrap();
    let mut tx = store.begin(me());
    tx.create(shelf("x")).unwrap();
    tx.create(book("x", "x")).unwrap();
    tx.commit().await.unwrap();
    let at = key::<Shelf>("x");
    let changed = store.modify::<Shelf, StoreError>(&at, me(), |shelf| {
        shelf.spec.title = "new".to_owned();
        Ok(())
    });
    let failed = changed.await.unwrap_err();
    assert!(
        matches!(&failed, StoreError::Invalid(why) if why.contains("which is being written")),
        "{failed}"
    );
    store.close().await;
}

#[tokio::test]
async fn a_refused_write_leaves_nothing_in_its_transaction() {
    let library = Library::open().await;
    for name in ["a", "b"] {
        library.shelve(book(name, name)).await.unwrap();
        library
            .change(name, |book| book.spec.tags = vec!["chained".to_owned()])
            .await
            .unwrap();
    }
    let before = library.book("a").unwrap();
    let mut tx = library.store.begin(me());
    tx.reserve("seats", "1", before.metadata.uid).unwrap();
    // Renamed and read again by the transaction, then not to be deleted: it stays renamed.
    let mut renamed = (*before).clone();
    renamed.spec.title = "renamed".to_owned();
    let renamed = tx.update(&before, renamed).unwrap();
    assert!(matches!(tx.delete(&renamed), Err(StoreError::Rejected(_))));
    assert!(Arc::ptr_eq(&tx.get::<Book>(&before.key()).unwrap(), &renamed));
    // Never written before: as if it had not been touched, though the rule has noted things by then.
    assert!(matches!(
        tx.delete(&library.book("b").unwrap()),
        Err(StoreError::Rejected(_))
    ));
    assert!(matches!(
        tx.create(book("c", "renamed")),
        Err(StoreError::Exists { .. })
    ));
    assert!(matches!(
        tx.create(book("d", "forbidden")),
        Err(StoreError::Rejected(_))
    ));
    assert_eq!(tx.staged::<Book>().count(), 1);
    // Something else changes `b` meanwhile: the transaction does not mind.
    library.change("b", |book| book.status.count = 3).await.unwrap();
    tx.create(book("c", "a")).unwrap(); // the title that the renamed one gave back
    tx.commit().await.unwrap();
    assert_eq!(library.book("a").unwrap().spec.title, "renamed");
    assert_eq!(library.book("b").unwrap().status.count, 3);
    assert_eq!(library.store.counters("p", "library")["books"], 3);
    for (name, title, is_free) in [
        ("e", "a", false),
        ("e", "b", false),
        ("e", "renamed", false),
        ("e", "forbidden?", true),
    ] {
        assert_eq!(library.shelve(book(name, title)).await.is_ok(), is_free, "{title}");
    }
    library.store.close().await;
}

#[tokio::test]
async fn a_rule_may_try_one_after_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let mut builder = builder(Diary::default());
    // A shelf comes with a book, of the first title that is free.
    builder.rule::<Shelf>(|tx, op| {
        let Op::Create(new) = op else { return Ok(()) };
        for title in ["forbidden", "one", "two", "three"] {
            match tx.create(book(new.name(), title)) {
                Err(StoreError::Rejected(_) | StoreError::Exists { .. }) => {}
                done => return done.map(drop),
            }
        }
        Err(StoreError::Invalid("no title is free".to_owned()))
    });
    let store = builder.open(engine(&dir).await).await.unwrap();
    let mut tx = store.begin(me());
    for name in ["a", "b", "c"] {
        tx.create(shelf(name)).unwrap();
    }
    assert!(matches!(tx.create(shelf("d")), Err(StoreError::Invalid(_))));
    tx.commit().await.unwrap();
    assert_eq!(store.cache::<Shelf>().len(), 3);
    let mut titles: Vec<_> = store
        .cache::<Book>()
        .all()
        .iter()
        .map(|book| book.spec.title.clone())
        .collect();
    titles.sort_unstable();
    assert_eq!(titles, ["one", "three", "two"]);
    assert_eq!(store.counters("p", "library")["books"], 3);
    store.close().await;
}
