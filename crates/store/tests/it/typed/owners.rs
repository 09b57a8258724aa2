//! When an owner is gone, what only it owned goes too.

use madang_store::{Backend, Expect, Kind, OwnerReference, StoreBuilder, Txn, Write};
use uuid::Uuid;

use super::kinds::{Book, Library, Sheet, Shelf, book, engine, key, me, sheet, shelf, until};

fn names<K: Kind>(library: &Library) -> Vec<String> {
    let mut names: Vec<_> = library
        .store
        .cache::<K>()
        .all()
        .iter()
        .map(|r| r.name().to_owned())
        .collect();
    names.sort_unstable();
    names
}

/// A shelf with books, and a book with sheets.
async fn furnish(library: &Library, books: usize) {
    let mut tx = library.store.begin(me());
    let oak = tx.create(shelf("oak")).unwrap();
    let elm = tx.create(shelf("elm")).unwrap();
    tx.commit().await.unwrap();
    for number in 0..books {
        let mut owned = book(&format!("{number}"), "");
        owned.metadata.owners = vec![oak.as_owner()];
        if number == 0 {
            owned.metadata.owners.push(elm.as_owner());
        }
        let owned = library.shelve(owned).await.unwrap();
        let mut tx = library.store.begin(me());
        let mut page = sheet(&format!("of-{number}"));
        page.metadata.owners = vec![owned.as_owner()];
        tx.create(page).unwrap();
        tx.commit().await.unwrap();
    }
}

#[tokio::test]
async fn what_it_owned_goes_and_what_that_owned() {
    let library = Library::open().await;
    furnish(&library, 4).await;
    library.delete::<Shelf>("oak").await.unwrap();
    until("only the shared book is left", || names::<Book>(&library) == ["0"]).await;
    until("and its sheet", || names::<Sheet>(&library) == ["of-0"]).await;
    assert_eq!(
        library.store.counters("p", "library")["books"],
        1,
        "the rules ran for each"
    );
    library.delete::<Shelf>("elm").await.unwrap();
    until("nothing is left", || {
        names::<Sheet>(&library).is_empty() && names::<Book>(&library).is_empty()
    })
    .await;
    library.store.close().await;
}

#[tokio::test]
async fn finalizers_of_what_is_owned_are_waited_for() {
    let library = Library::open().await;
    furnish(&library, 2).await;
    library
        .change("1", |book| book.metadata.finalizers = vec!["reader".to_owned()])
        .await
        .unwrap();
    library.delete::<Shelf>("oak").await.unwrap();
    until("it is marked", || library.book("1").unwrap().metadata.is_deleting()).await;
    assert_eq!(names::<Sheet>(&library), ["of-0", "of-1"], "a marked owner still lives");
    library
        .change("1", |book| book.metadata.finalizers.clear())
        .await
        .unwrap();
    until("its sheet goes with it", || names::<Sheet>(&library) == ["of-0"]).await;
    library.store.close().await;
}

#[tokio::test]
async fn one_that_may_not_go_holds_up_no_other() {
    let library = Library::open().await;
    furnish(&library, 5).await;
    library.delete::<Shelf>("elm").await.unwrap();
    library
        .change("3", |book| book.spec.tags = vec!["chained".to_owned()])
        .await
        .unwrap();
    library.delete::<Shelf>("oak").await.unwrap();
    until("all others go", || names::<Book>(&library) == ["3"]).await;
    until("with their sheets", || names::<Sheet>(&library) == ["of-3"]).await;
    // It is tried again, and goes once it may.
    library.change("3", |book| book.spec.tags.clear()).await.unwrap();
    until("it goes as well", || names::<Sheet>(&library).is_empty()).await;
    library.store.close().await;
}

#[tokio::test]
async fn what_comes_after_its_owner_went_goes_at_once() {
    let library = Library::open().await;
    furnish(&library, 1).await;
    let gone = library.store.get::<Shelf>(&key::<Shelf>("oak")).unwrap();
    library.delete::<Shelf>("oak").await.unwrap();
    let mut late = book("late", "late");
    late.metadata.owners = vec![gone.as_owner()];
    // Not by `shelve`, which looks at it afterwards: it may be gone by then.
    let mut tx = library.store.begin(me());
    tx.create(late).unwrap();
    tx.commit().await.unwrap();
    until("it does not stay", || names::<Book>(&library) == ["0"]).await;
    // Owner and owned in one transaction, in whatever order, are no orphans.
    let mut tx = library.store.begin(me());
    let ash = shelf("ash");
    let mut with_it = book("with-it", "with-it");
    with_it.metadata.owners = vec![ash.as_owner()];
    tx.create(with_it).unwrap();
    tx.create(ash).unwrap();
    tx.commit().await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    assert_eq!(names::<Book>(&library), ["0", "with-it"]);
    library.store.close().await;
}

#[tokio::test]
async fn a_restart_finds_orphans_and_leaves_strangers_alone() {
    let library = Library::open().await;
    furnish(&library, 3).await;
    let mut strange = book("strange", "strange");
    strange.metadata.owners = vec![OwnerReference {
        kind: "aliens".to_owned(),
        uid: Uuid::new_v4(),
    }];
    library.shelve(strange).await.unwrap();
    library.store.close().await;
    // The owner goes while nobody looks: as after a crash between its removal and what follows.
    let behind = engine(&library.dir).await;
    let oak = behind.get(&key::<Shelf>("oak")).await.unwrap().unwrap();
    let removal = Txn {
        expects: vec![Expect::At(oak.key.clone(), oak.modified)],
        writes: vec![Write::Delete(oak.key)],
        cause: me(),
        at: jiff::Timestamp::UNIX_EPOCH,
    };
    behind.txn(removal).await.unwrap();
    behind.close().await;
    let library = library.reopen().await;
    until("orphans are found", || names::<Book>(&library) == ["0", "strange"]).await;
    until("and theirs", || names::<Sheet>(&library) == ["of-0"]).await;
    library.store.close().await;

    // A process that knows fewer kinds deletes nothing for want of knowing.
    let mut few = StoreBuilder::new();
    few.kind::<Sheet>();
    let few = few.open(engine(&library.dir).await).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    assert_eq!(few.cache::<Sheet>().len(), 1);
    few.close().await;
}

#[tokio::test]
async fn a_great_many_go_in_steps() {
    let library = Library::open().await;
    let mut tx = library.store.begin(me());
    let big = tx.create(shelf("big")).unwrap();
    for number in 0..700 {
        let mut page = sheet(&format!("{number}"));
        page.metadata.owners = vec![big.as_owner()];
        tx.create(page).unwrap();
    }
    tx.commit().await.unwrap();
    assert_eq!(library.store.cache::<Sheet>().owned_by(big.metadata.uid).len(), 700);
    library.delete::<Shelf>("big").await.unwrap();
    until("all go", || library.store.cache::<Sheet>().is_empty()).await;
    library.store.close().await;
}
