//! Random typed writes: whatever happens, caches and indexes are what a scan says.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use madang_store::{Backend, Key, Kind, Prefix, Resource, Revision, Store, StoreError};
use proptest::prelude::*;

use super::kinds::{Book, Diary, Library, Sheet, Shelf, book, builder, key, me, sheet, shelf, until};

/// Compares every way to find a resource with a list of the engine and with a store that is opened on it now.
pub async fn assert_same(store: &Store, engine: &Arc<dyn Backend>) {
    let newest = engine.revision().await.unwrap();
    store.reached(newest).await.unwrap();
    compare::<Shelf>(store, engine, &[]).await;
    compare::<Book>(store, engine, &["title", "tag", "reader"]).await;
    compare::<Sheet>(store, engine, &[]).await;
}

type Seen = BTreeMap<Key, (Revision, String)>;

fn seen<K: Kind>(resources: &[Arc<Resource<K>>]) -> Seen {
    let pair = |r: &Arc<Resource<K>>| (r.key(), (r.revision, serde_json::to_string(&r.spec).unwrap()));
    let seen: Seen = resources.iter().map(pair).collect();
    assert_eq!(seen.len(), resources.len(), "nothing is found twice");
    seen
}

async fn compare<K: Kind>(store: &Store, engine: &Arc<dyn Backend>, indexes: &[&str]) {
    let mut listed = BTreeMap::new();
    let mut after = None;
    loop {
        let page = engine.range(&Prefix::kind(K::NAME), after.as_ref(), 5).await.unwrap();
        after = page.records.last().map(|record| record.key.clone());
        listed.extend(page.records.into_iter().map(|record| (record.key, record.modified)));
        if !page.more {
            break;
        }
    }
    let cache = store.cache::<K>();
    let all = cache.all();
    assert_eq!(all.len(), cache.len());
    let cached: BTreeMap<Key, Revision> = all.iter().map(|r| (r.key(), r.revision)).collect();
    assert_eq!(cached, listed);
    let mut projects = BTreeSet::new();
    for resource in &all {
        projects.insert(resource.project().to_owned());
        assert!(Arc::ptr_eq(&cache.get(&resource.key()).unwrap(), resource));
        assert!(Arc::ptr_eq(&cache.by_uid(resource.metadata.uid).unwrap(), resource));
        assert_eq!(cache.by_name(resource.name()).unwrap().name(), resource.name());
    }
    for project in projects {
        let expected: Vec<_> = all.iter().filter(|r| r.project() == project).cloned().collect();
        assert_eq!(seen(&cache.in_project(&project)), seen(&expected));
    }
    let owners: BTreeSet<_> = all
        .iter()
        .flat_map(|r| r.metadata.owners.iter().map(|owner| owner.uid))
        .collect();
    for owner in owners {
        let owned = |r: &&Arc<Resource<K>>| r.metadata.owners.iter().any(|reference| reference.uid == owner);
        let expected: Vec<_> = all.iter().filter(owned).cloned().collect();
        assert_eq!(seen(&cache.owned_by(owner)), seen(&expected));
    }
    let values = K::indexes();
    for index in indexes {
        let mut expected: BTreeMap<String, Vec<Arc<Resource<K>>>> = BTreeMap::new();
        for resource in &all {
            let of: BTreeSet<_> = values.values_of(index, resource).into_iter().collect();
            of.into_iter()
                .for_each(|value| expected.entry(value).or_default().push(Arc::clone(resource)));
        }
        for (value, resources) in &expected {
            assert_eq!(seen(&cache.by(index, value)), seen(resources), "{index} = {value}");
            assert_eq!(cache.count_by(index, value), resources.len());
        }
        for value in ["", "t0", "t1", "t2", "t3", "x"] {
            assert_eq!(cache.by(index, value).len(), expected.get(value).map_or(0, Vec::len));
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Shelve {
        name: u8,
        title: u8,
        tags: Vec<u8>,
        owner: Option<u8>,
        held: bool,
    },
    Retitle {
        name: u8,
        title: u8,
    },
    Read {
        name: u8,
        by: Option<u8>,
    },
    LetGo {
        name: u8,
    },
    DeleteBook {
        name: u8,
    },
    Build {
        name: u8,
    },
    Tear {
        name: u8,
    },
    Write {
        name: u8,
        owner: u8,
    },
    Swap {
        a: u8,
        b: u8,
    },
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let tags = proptest::collection::vec(0u8..4, 0..3);
    prop_oneof![
        5 => (0u8..5, 0u8..4, tags, proptest::option::of(0u8..3), any::<bool>())
            .prop_map(|(name, title, tags, owner, held)| Step::Shelve { name, title, tags, owner, held }),
        2 => (0u8..5, 0u8..4).prop_map(|(name, title)| Step::Retitle { name, title }),
        2 => (0u8..5, proptest::option::of(0u8..3)).prop_map(|(name, by)| Step::Read { name, by }),
        2 => (0u8..5).prop_map(|name| Step::LetGo { name }),
        2 => (0u8..5).prop_map(|name| Step::DeleteBook { name }),
        3 => (0u8..3).prop_map(|name| Step::Build { name }),
        1 => (0u8..3).prop_map(|name| Step::Tear { name }),
        2 => (0u8..6, 0u8..5).prop_map(|(name, owner)| Step::Write { name, owner }),
        1 => (0u8..5, 0u8..5).prop_map(|(a, b)| Step::Swap { a, b }),
        1 => Just(Step::Reopen),
    ]
}

/// Does a step; that it is refused (a name taken, nothing there) is as good as any other outcome.
async fn act(library: &Library, step: Step) -> Result<(), StoreError> {
    let title = |title: u8| format!("t{title}");
    match step {
        Step::Shelve {
            name,
            title: t,
            tags,
            owner,
            held,
        } => {
            let mut made = book(&format!("b{name}"), &title(t));
            made.spec.tags = tags.into_iter().map(title).collect();
            let owner = owner.and_then(|owner| library.store.get::<Shelf>(&key::<Shelf>(&format!("s{owner}"))));
            made.metadata.owners.extend(owner.map(|owner| owner.as_owner()));
            made.metadata.finalizers.extend(held.then(|| "reader".to_owned()));
            library.shelve(made).await.map(drop)
        }
        Step::Retitle { name, title: t } => library
            .change(&format!("b{name}"), |book| book.spec.title = title(t))
            .await
            .map(drop),
        Step::Read { name, by } => library
            .change(&format!("b{name}"), |book| book.status.by = by.map(title))
            .await
            .map(drop),
        Step::LetGo { name } => library
            .change(&format!("b{name}"), |book| book.metadata.finalizers.clear())
            .await
            .map(drop),
        Step::DeleteBook { name } => library.delete::<Book>(&format!("b{name}")).await,
        Step::Build { name } => create(library, shelf(&format!("s{name}"))).await,
        Step::Tear { name } => library.delete::<Shelf>(&format!("s{name}")).await,
        Step::Write { name, owner } => {
            let owner = library.book(&format!("b{owner}"));
            let mut made = sheet(&format!("p{name}"));
            made.metadata.owners.extend(owner.map(|owner| owner.as_owner()));
            create(library, made).await
        }
        Step::Swap { a, b } => library.store.transact(me(), |tx| swap(tx, a, b)).await,
        Step::Reopen => Ok(()),
    }
}

async fn create<K: Kind>(library: &Library, made: Resource<K>) -> Result<(), StoreError> {
    let mut tx = library.store.begin(me());
    tx.create(made)?;
    tx.commit().await.map(drop)
}

/// Makes a book anew under its old key, in one transaction, with another one's tags.
fn swap(tx: &mut madang_store::Tx<'_>, a: u8, b: u8) -> Result<(), StoreError> {
    let (Some(a), Some(b)) = (
        tx.get::<Book>(&key::<Book>(&format!("b{a}"))),
        tx.get::<Book>(&key::<Book>(&format!("b{b}"))),
    ) else {
        return Ok(());
    };
    tx.delete(&a)?;
    if tx.get::<Book>(&a.key()).is_some() {
        return Ok(()); // somebody still holds it
    }
    let mut again = book(a.name(), &a.spec.title);
    again.spec.tags = b.spec.tags.clone();
    tx.create(again).map(drop)
}

/// Nothing is left that has owners and none of them alive.
fn is_settled(store: &Store) -> bool {
    let shelves: BTreeSet<_> = store.cache::<Shelf>().all().iter().map(|r| r.metadata.uid).collect();
    let books: BTreeSet<_> = store.cache::<Book>().all().iter().map(|r| r.metadata.uid).collect();
    let orphaned = |owners: &[madang_store::OwnerReference], living: &BTreeSet<_>| {
        !owners.is_empty() && !owners.iter().any(|owner| living.contains(&owner.uid))
    };
    let book = |b: &Arc<Resource<Book>>| orphaned(&b.metadata.owners, &shelves) && !b.metadata.is_deleting();
    let page = |s: &Arc<Resource<Sheet>>| orphaned(&s.metadata.owners, &books);
    !store.cache::<Book>().all().iter().any(book) && !store.cache::<Sheet>().all().iter().any(page)
}

async fn run(steps: Vec<Step>) {
    let mut library = Library::open().await;
    for step in steps {
        if let Step::Reopen = step {
            library = library.reopen().await;
        } else if let Err(failed) = act(&library, step).await {
            let fine = matches!(failed, StoreError::Exists { .. } | StoreError::NotFound { .. });
            assert!(fine, "{failed}");
        }
    }
    until("orphans go", || is_settled(&library.store)).await;
    let engine = library.store.backend().clone();
    assert_same(&library.store, &engine).await;
    // Counters and reservations are what the books say.
    let books = library.store.cache::<Book>().all();
    assert_eq!(
        library
            .store
            .counters("p", "library")
            .get("books")
            .copied()
            .unwrap_or(0),
        books.len() as i64
    );
    let page = engine.range(&Prefix::kind("reservations"), None, 1000).await.unwrap();
    let reserved: BTreeSet<_> = page.records.into_iter().map(|record| record.key.name).collect();
    assert_eq!(reserved, books.iter().map(|book| book.spec.title.clone()).collect());
    // A store that is opened now sees the same.
    let second = builder(Diary::default()).open(engine.clone()).await.unwrap();
    assert_same(&second, &engine).await;
    library.store.close().await;
    second.close().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn caches_and_indexes_are_what_a_scan_says(steps in proptest::collection::vec(step(), 1..50)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(steps));
    }
}
