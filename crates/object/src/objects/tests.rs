use std::sync::Arc;

use super::*;
use crate::{
    disk::{DiskOptions, Uploaded},
    listing::{Line, Wanted},
};

async fn cloud() -> (Objects, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let objects = Objects::new(Disk::open(directory.path(), DiskOptions::default()).unwrap());
    objects.set_container("a", "c", true, |_| Ok(())).await.unwrap();
    (objects, directory)
}

fn new(text: &str) -> NewObject {
    let uploaded = Uploaded::of(text.to_owned().into());
    NewObject {
        object: Object {
            bytes: uploaded.length(),
            etag: uploaded.md5().to_owned(),
            content_type: "text/plain".to_owned(),
            ..Object::default()
        },
        bytes: Bytes::Uploaded(Arc::new(uploaded)),
        only_new: false,
    }
}

async fn put(objects: &Objects, name: &str, text: &str) -> Result<Object, ObjectError> {
    objects.put_object(&Which::new("a", "c", name), new(text)).await
}

async fn text(objects: &Objects, which: &Which) -> Option<String> {
    let (_, given) = objects.object(which).await.unwrap();
    let bytes = given?.stream.all().await.unwrap();
    Some(String::from_utf8(bytes.to_vec()).unwrap())
}

async fn used(objects: &Objects, container: &str) -> (u64, u64) {
    let used = objects.container("a", container).await.unwrap().unwrap().used;
    (used.objects, used.bytes)
}

async fn with(objects: &Objects, container: &str, header: &str, value: &str) {
    let (header, value) = (header.to_owned(), value.to_owned());
    let set = objects.set_container("a", container, true, move |row| {
        row.headers.insert(header, value);
        Ok(())
    });
    set.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_follow_what_is_there() {
    let (objects, _directory) = cloud().await;
    put(&objects, "x", "hello").await.unwrap();
    put(&objects, "x", "hi").await.unwrap();
    put(&objects, "y", "").await.unwrap();
    assert_eq!(used(&objects, "c").await, (2, 2));
    let (_, account) = objects.account("a").await.unwrap().unwrap();
    assert_eq!((account.containers, account.objects, account.bytes), (1, 2, 2));
    assert!(matches!(
        objects.delete_container("a", "c").await,
        Err(ObjectError::NotEmpty)
    ));
    for name in ["x", "y"] {
        objects.delete_object(&Which::new("a", "c", name)).await.unwrap();
    }
    objects.delete_container("a", "c").await.unwrap();
    let (_, account) = objects.account("a").await.unwrap().unwrap();
    assert_eq!((account.containers, account.objects, account.bytes), (0, 0, 0));
    assert!(matches!(put(&objects, "x", "x").await, Err(ObjectError::NoContainer)));
}

#[tokio::test(flavor = "multi_thread")]
async fn quotas_hold_for_writers_at_the_same_time() {
    let (objects, _directory) = cloud().await;
    with(&objects, "c", "x-container-meta-quota-count", "5").await;
    let puts = (0..20).map(|n| {
        let objects = objects.clone();
        async move { put(&objects, &n.to_string(), "x").await }
    });
    let done = futures_util::future::join_all(puts).await;
    assert_eq!(done.iter().filter(|outcome| outcome.is_ok()).count(), 5);
    let only_new = NewObject {
        only_new: true,
        ..new("y")
    };
    let taken = objects.put_object(&Which::new("a", "c", "0"), only_new).await;
    assert!(matches!(taken, Err(ObjectError::Exists | ObjectError::OverQuota(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_brings_back_the_version_before() {
    let (objects, _directory) = cloud().await;
    with(&objects, "c", "x-versions-location", "old").await;
    put(&objects, "x", "1").await.unwrap();
    assert!(matches!(put(&objects, "x", "2").await, Err(ObjectError::NoArchive)));
    objects.set_container("a", "old", true, |_| Ok(())).await.unwrap();
    put(&objects, "x", "22").await.unwrap();
    put(&objects, "x", "333").await.unwrap();
    assert_eq!(
        (used(&objects, "c").await, used(&objects, "old").await),
        ((1, 3), (2, 3))
    );
    let x = Which::new("a", "c", "x");
    for left in [Some("22"), Some("1"), None] {
        objects.delete_object(&x).await.unwrap();
        assert_eq!(text(&objects, &x).await.as_deref(), left);
    }
    assert_eq!(
        (used(&objects, "c").await, used(&objects, "old").await),
        ((0, 0), (0, 0))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_keeps_what_was_deleted() {
    let (objects, _directory) = cloud().await;
    objects.set_container("a", "old", true, |_| Ok(())).await.unwrap();
    with(&objects, "c", "x-history-location", "old").await;
    put(&objects, "x", "1").await.unwrap();
    objects.delete_object(&Which::new("a", "c", "x")).await.unwrap();
    assert_eq!(
        (used(&objects, "c").await, used(&objects, "old").await),
        ((0, 0), (2, 1))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_of_a_container_have_ids() {
    let (objects, _directory) = cloud().await;
    put(&objects, "x", "null").await.unwrap();
    let on = objects.set_container("a", "c", false, |row| {
        row.versions = Some(true);
        Ok(())
    });
    on.await.unwrap();
    let second = put(&objects, "x", "2").await.unwrap();
    put(&objects, "x", "33").await.unwrap();
    put(&objects, "x/y", "other").await.unwrap();
    let mut x = Which::new("a", "c", "x");
    assert!(objects.delete_object(&x).await.unwrap().unwrap().deleted);
    assert_eq!(text(&objects, &x).await, None);
    let list = async |after| {
        let versions = objects.versions("a", "c", "x", after, 100).await.unwrap();
        versions
            .iter()
            .map(|version| (version.name.clone(), version.object.bytes, version.is_latest))
            .collect::<Vec<_>>()
    };
    let line = |name: &str, bytes, is_latest| (name.to_owned(), bytes, is_latest);
    let all = [
        line("x", 0, true),
        line("x", 2, false),
        line("x", 1, false),
        line("x", 4, false),
    ];
    assert_eq!(list(None).await, [&all[..], &[line("x/y", 5, true)]].concat());
    assert_eq!(
        list(Some(("x".to_owned(), second.version))).await,
        [line("x", 4, false), line("x/y", 5, true)]
    );
    assert_eq!(list(Some(("x".to_owned(), None))).await, [line("x/y", 5, true)]);
    x.version = second.version;
    assert_eq!(text(&objects, &x).await.as_deref(), Some("2"));
    objects.delete_object(&x).await.unwrap();
    assert_eq!(text(&objects, &x).await, None);
    assert_eq!(used(&objects, "c").await, (1, 4 + 2 + 5));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_ended_is_not_there_and_then_gone() {
    let (objects, _directory) = cloud().await;
    let mut ending = new("bye");
    let soon = (Stamp::now().seconds() - 1).to_string();
    ending.object.headers.insert("x-delete-at".to_owned(), soon);
    let which = Which::new("a", "c", "x");
    objects.put_object(&which, ending.clone()).await.unwrap();
    let deleted = objects.delete_object(&which).await;
    assert!(
        matches!(deleted, Err(ObjectError::NoObject)),
        "it was not there any more"
    );
    assert_eq!(used(&objects, "c").await, (0, 0), "and now it does not count either");
    objects.put_object(&which, ending.clone()).await.unwrap();
    objects.delete_container("a", "c").await.unwrap();
    objects.set_container("a", "c", true, |_| Ok(())).await.unwrap();
    objects.put_object(&which, ending).await.unwrap();
    put(&objects, "y", "stays").await.unwrap();
    assert_eq!(text(&objects, &which).await, None);
    assert_eq!(objects.remove_ended().await.unwrap(), 1);
    assert_eq!(objects.remove_ended().await.unwrap(), 0);
    let all = Wanted {
        limit: 9,
        ..Wanted::default()
    };
    let id = objects.container("a", "c").await.unwrap().unwrap().container.id;
    let lines = objects.objects(id, all).await.unwrap();
    assert!(matches!(&lines[..], [Line::One(name, _)] if name == "y"));
}
