//! Tokens that were ended before their time, by audit id. Users and projects void all their tokens by themselves.

use jiff::Timestamp;
use madang_store::{Cause, Indexes, Key, Kind, Metadata, Resource, Store, StoreError};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The kind of revocations. `metadata.name` is the audit id that is revoked.
#[derive(Debug)]
pub struct Revocation;

/// What is revoked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RevocationSpec {
    /// When the token would have ended, and nobody can ask for it any more; then this goes.
    pub expires: Timestamp,
    /// When it was revoked.
    pub revoked: Timestamp,
}

impl Kind for Revocation {
    const NAME: &'static str = "token-revocations";
    type Spec = RevocationSpec;
    type Status = ();

    fn indexes() -> Indexes<Self> {
        Indexes::new()
    }
}

impl Revocation {
    /// Where the revocation of an audit id is stored.
    pub fn key(audit: Uuid) -> Key {
        Key::new(Self::NAME, "", "", audit.simple().to_string())
    }
}

/// Ends the token with this audit id. Ending it again is fine.
pub(crate) async fn revoke(store: &Store, cause: Cause, audit: Uuid, expires: Timestamp) -> Result<(), StoreError> {
    store
        .transact(cause, |tx| {
            if tx.get::<Revocation>(&Revocation::key(audit)).is_none() {
                let metadata = Metadata::new("", audit.simple().to_string());
                let spec = RevocationSpec {
                    expires,
                    revoked: tx.at(),
                };
                tx.create(Resource::<Revocation>::new(metadata, spec))?;
            }
            Ok(())
        })
        .await
}

/// Forgets revocations of tokens that have ended by themselves; at most this many at a time, so that a transaction
/// stays small.
const PRUNED_AT_ONCE: usize = 500;

/// Forgets what is over. Says how many went.
pub(crate) async fn prune(store: &Store, now: Timestamp) -> Result<usize, StoreError> {
    let all = store.cache::<Revocation>().all();
    let over: Vec<_> = all
        .into_iter()
        .filter(|r| r.spec.expires < now)
        .take(PRUNED_AT_ONCE)
        .collect();
    store
        .transact(Cause::system("token-upkeep"), |tx| {
            for revocation in &over {
                if let Some(there) = tx.get::<Revocation>(&revocation.key()) {
                    tx.delete(&there)?;
                }
            }
            Ok::<_, StoreError>(over.len())
        })
        .await
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::SignedDuration;
    use madang_store::{Sqlite, SqliteOptions, StoreBuilder};

    use super::*;

    #[tokio::test]
    async fn only_what_is_over_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let mut builder = StoreBuilder::new();
        builder.kind::<Revocation>();
        let backend = Sqlite::open(SqliteOptions::new(dir.path().join("store.db")))
            .await
            .unwrap();
        let store = builder.open(Arc::new(backend)).await.unwrap();
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let (over, live) = (Uuid::new_v4(), Uuid::new_v4());
        for (audit, hours) in [(over, -1), (live, 1), (live, 1)] {
            let expires = now + SignedDuration::from_hours(hours);
            revoke(&store, Cause::system("test"), audit, expires).await.unwrap();
        }
        assert_eq!(prune(&store, now).await.unwrap(), 1);
        assert!(store.get::<Revocation>(&Revocation::key(over)).is_none());
        assert!(store.get::<Revocation>(&Revocation::key(live)).is_some());
        assert_eq!(prune(&store, now).await.unwrap(), 0);
        store.close().await;
    }
}
