//! Kinds to test with: shelves own books, a book has pages that it owns; rules keep a diary of what they saw.

use std::sync::Arc;

use madang_store::{
    Backend, Cause, Delta, ErrorKind, Indexes, Key, Kind, Metadata, Op, Rejection, Resource, Sqlite, SqliteOptions,
    Store, StoreBuilder, StoreError, Tx,
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Text {
    pub title: String,
    #[serde(default)]
    pub tags: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    pub by: Option<String>,
    #[serde(default)]
    pub count: u64,
}

pub struct Shelf;
impl Kind for Shelf {
    const NAME: &'static str = "shelves";
    type Spec = Text;
    type Status = Seen;
}

pub struct Book;
impl Kind for Book {
    const NAME: &'static str = "books";
    type Spec = Text;
    type Status = Seen;

    fn indexes() -> Indexes<Self> {
        Indexes::<Self>::new()
            .on("title", |book| vec![book.spec.title.clone()])
            .on("tag", |book| book.spec.tags.clone())
            .on("reader", |book| book.status.by.iter().cloned().collect())
    }
}

pub struct Sheet;
impl Kind for Sheet {
    const NAME: &'static str = "sheets";
    type Spec = Text;
    type Status = ();
}

pub fn text(title: &str) -> Text {
    Text {
        title: title.to_owned(),
        tags: Vec::new(),
    }
}

pub fn shelf(name: &str) -> Resource<Shelf> {
    Resource::new(Metadata::new("p", name), text(name))
}

pub fn book(name: &str, title: &str) -> Resource<Book> {
    Resource::new(Metadata::new("p", name), text(title))
}

pub fn sheet(name: &str) -> Resource<Sheet> {
    Resource::new(Metadata::new("p", name), text(name))
}

pub fn key<K: Kind>(name: &str) -> Key {
    Key::new(K::NAME, "p", "", name)
}

pub fn me() -> Cause {
    Cause::request("me", "req-1")
}

/// What the rules of books saw, in order.
#[derive(Clone, Default)]
pub struct Diary(Arc<Mutex<Vec<String>>>);

impl Diary {
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock())
    }

    fn note(&self, line: String) {
        self.0.lock().push(line);
    }
}

/// A new book is counted and gets its title reserved; a forbidden one is refused; a removed one gives back both.
pub fn librarian(diary: Diary) -> impl Fn(&mut Tx<'_>, Op<'_, Book>) -> Result<(), StoreError> + Send + Sync + 'static {
    let counted = |add| {
        vec![Delta {
            field: "books".to_owned(),
            add,
            limit: Some(50),
        }]
    };
    move |tx, op| {
        match op {
            Op::Create(new) => {
                diary.note(format!("create {}", new.name()));
                if new.spec.title == "forbidden" {
                    let refusal = Rejection::new(ErrorKind::Forbidden, "Forbidden", "this book is forbidden");
                    return Err(refusal.at("title").into());
                }
                if new.spec.title.is_empty() {
                    new.spec.title = format!("untitled {}", new.name());
                }
                tx.reserve("titles", &new.spec.title, new.metadata.uid)?;
                tx.add(new.project(), "library", counted(1));
            }
            Op::Update { old, new } => {
                let mark = if new.metadata.is_deleting() && !old.metadata.is_deleting() {
                    " to go"
                } else {
                    ""
                };
                diary.note(format!("update {}{mark}", new.name()));
                if new.spec.title != old.spec.title {
                    tx.release("titles", &old.spec.title);
                    tx.reserve("titles", &new.spec.title, new.metadata.uid)?;
                }
            }
            Op::Remove(old) => {
                diary.note(format!("remove {}", old.name()));
                if old.spec.tags.iter().any(|tag| tag == "chained") {
                    return Err(Rejection::new(ErrorKind::Conflict, "Chained", "this book is chained").into());
                }
                tx.release("titles", &old.spec.title);
                tx.add(old.project(), "library", counted(-1));
            }
        }
        Ok(())
    }
}

pub struct Library {
    pub store: Store,
    pub diary: Diary,
    pub dir: tempfile::TempDir,
}

impl Library {
    pub async fn open() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let engine = engine(&dir).await;
        Self::open_on(engine, dir).await
    }

    pub async fn open_on(engine: Arc<dyn Backend>, dir: tempfile::TempDir) -> Self {
        let diary = Diary::default();
        let store = builder(diary.clone()).open(engine).await.unwrap();
        Self { store, diary, dir }
    }

    pub async fn reopen(self) -> Self {
        self.store.close().await;
        let engine = engine(&self.dir).await;
        Self::open_on(engine, self.dir).await
    }

    pub fn book(&self, name: &str) -> Option<Arc<Resource<Book>>> {
        self.store.get(&key::<Book>(name))
    }

    /// Creates one book.
    pub async fn shelve(&self, book: Resource<Book>) -> Result<Arc<Resource<Book>>, StoreError> {
        let key = book.key();
        let mut tx = self.store.begin(me());
        tx.create(book)?;
        tx.commit().await?;
        Ok(self.store.get(&key).unwrap())
    }

    pub async fn change(
        &self,
        name: &str,
        mut change: impl FnMut(&mut Resource<Book>),
    ) -> Result<Arc<Resource<Book>>, StoreError> {
        self.store
            .modify::<Book, StoreError>(&key::<Book>(name), me(), |book| {
                change(book);
                Ok(())
            })
            .await
    }

    pub async fn delete<K: Kind>(&self, name: &str) -> Result<(), StoreError> {
        self.store
            .transact(me(), |tx| {
                let found = tx
                    .get::<K>(&key::<K>(name))
                    .ok_or(StoreError::NotFound { key: key::<K>(name) })?;
                tx.delete(&found)
            })
            .await
    }
}

pub fn builder(diary: Diary) -> StoreBuilder {
    let mut builder = StoreBuilder::new();
    builder.kind::<Shelf>().kind::<Sheet>().rule::<Book>(librarian(diary));
    builder
}

pub async fn engine(dir: &tempfile::TempDir) -> Arc<Sqlite> {
    Arc::new(
        Sqlite::open(SqliteOptions::new(dir.path().join("state.db")))
            .await
            .unwrap(),
    )
}

/// Waits until something is so; panics when it never is.
pub async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    panic!("{what}: it is not so after all this time");
}
