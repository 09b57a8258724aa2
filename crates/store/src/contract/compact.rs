//! Compaction: history goes, records stay, and nobody takes a gap for the truth.

use super::{Lab, commit, everything, put, thing};
use crate::{Prefix, Revision, StoreError, Write};

pub(super) async fn what_is_compacted_is_told(lab: &dyn Lab) {
    let engine = lab.open().await;
    let mut revisions = Vec::new();
    for number in 0..20 {
        revisions.push(commit(&*engine, vec![put(&thing(number), number)]).await);
    }
    let through = revisions[9];
    engine.compact(through).await.expect("a compaction");
    engine
        .compact(revisions[3])
        .await
        .expect("what is gone may be compacted again");
    for gone in [Revision(0), revisions[0], revisions[8]] {
        let failed = engine.watch(Prefix::all(), gone).await.err();
        assert!(
            matches!(failed, Some(StoreError::Compacted { compacted }) if compacted >= through),
            "{failed:?}"
        );
    }
    for (place, kept) in revisions.iter().enumerate().skip(9) {
        let mut watch = engine
            .watch(Prefix::all(), *kept)
            .await
            .expect("everything after it is there");
        if let Some(after) = revisions.get(place + 1) {
            assert_eq!(watch.next().await.expect("a change").revision, *after);
        }
    }
    // It is still so after reopening, and for all there is.
    engine.close().await;
    drop(engine);
    let engine = lab.open().await;
    assert!(matches!(
        engine.watch(Prefix::all(), revisions[8]).await.err(),
        Some(StoreError::Compacted { .. })
    ));
    let head = engine.revision().await.expect("a revision");
    engine.compact(head).await.expect("all of the history may go");
    engine
        .compact(Revision(u64::MAX))
        .await
        .expect("more than there is, is all there is");
    let mut watch = engine
        .watch(Prefix::all(), head)
        .await
        .expect("the newest is never too old");
    let next = commit(&*engine, vec![put(&thing("next"), 1)]).await;
    assert_eq!(watch.next().await.expect("a change").revision, next);
}

pub(super) async fn compaction_keeps_records(lab: &dyn Lab) {
    let engine = lab.open().await;
    for number in 0..30 {
        commit(
            &*engine,
            vec![put(&thing(number % 10), number), put(&thing("same"), number)],
        )
        .await;
    }
    let last = commit(&*engine, vec![Write::Delete(thing(3))]).await;
    let before = everything(&*engine).await;
    engine.compact(last).await.expect("a compaction");
    assert_eq!(
        everything(&*engine).await,
        before,
        "records, and their revisions, are as they were"
    );
    engine.close().await;
    drop(engine);
    assert_eq!(everything(&*lab.open().await).await, before);
}

pub(super) async fn a_revision_that_never_was(lab: &dyn Lab) {
    let engine = lab.open().await;
    let last = commit(&*engine, vec![put(&thing("a"), 1)]).await;
    let failed = engine.watch(Prefix::all(), Revision(last.0 + 1000)).await.err();
    assert!(matches!(failed, Some(StoreError::Compacted { .. })), "{failed:?}");
}
