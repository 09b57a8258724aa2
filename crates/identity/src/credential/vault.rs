//! Sealing credentials, and opening them again.
//!
//! A new key is made each month. What older keys sealed is sealed anew with it, and a key that seals nothing any more goes
//! two days later: until then a backup of the store that is being made may still need it.

use std::{collections::BTreeSet, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use madang_http::Failure;
use madang_store::{Cause, Resource};
use tracing::warn;

use super::{Credential, CredentialSpec};
use crate::{
    Identity,
    keys::{KeysError, key_of},
};

/// How long a key seals.
const SEALS_FOR: SignedDuration = SignedDuration::from_hours(30 * 24);
/// How long a key stays that seals nothing any more.
const STAYS_FOR: SignedDuration = SignedDuration::from_hours(48);
/// How many credentials are sealed anew in one transaction.
const AT_ONCE: usize = 128;

/// What a secret is bound to: it does not open as another user's, or as another type of credential.
fn belongs_to(spec: &CredentialSpec) -> Vec<u8> {
    format!("{}\n{}", spec.user_id, spec.credential_type).into_bytes()
}

impl Identity {
    /// Puts a secret into a credential.
    pub(super) fn seal_credential(&self, spec: &mut CredentialSpec, blob: &str) {
        self.seal_at(Timestamp::now(), spec, blob);
    }

    fn seal_at(&self, now: Timestamp, spec: &mut CredentialSpec, blob: &str) {
        spec.sealed = self.vault.seal_text(now, blob.as_bytes(), &belongs_to(spec));
        spec.plain = None;
    }

    /// The secret of a credential.
    ///
    /// # Errors
    /// Where the key that sealed it is gone.
    pub(crate) fn open_credential(&self, credential: &Resource<Credential>) -> Result<String, Failure> {
        let spec = &credential.spec;
        if let Some(plain) = &spec.plain {
            return Ok(plain.clone());
        }
        let opened = self.vault.open_text(&spec.sealed, &belongs_to(spec));
        let text = opened.and_then(|bytes| String::from_utf8(bytes).ok());
        text.ok_or_else(|| {
            let (id, key) = (credential.name(), key_of(&spec.sealed));
            let key = key.map_or_else(|| "its key".to_owned(), |number| format!("key {number}"));
            Failure::internal(format!(
                "credential {id} cannot be opened: {key} is not in keys/credentials, restore it from a backup"
            ))
        })
    }

    /// What credentials need now and then: new keys, and everything sealed with them.
    ///
    /// # Errors
    /// When keys or the store cannot be used, in words.
    pub(crate) async fn keep_vault(self: &Arc<Self>, now: Timestamp) -> Result<(), String> {
        self.with_vault(move |identity| identity.vault.renew(now, SEALS_FOR))
            .await?;
        let seals = self.vault.seals_with(now);
        let is_old = |spec: &CredentialSpec| spec.plain.is_some() || key_of(&spec.sealed) != Some(seals);
        let mut old = self.store.cache::<Credential>().all();
        old.retain(|credential| is_old(&credential.spec));
        for piece in old.chunks(AT_ONCE) {
            let sealed = self.store.transact(Cause::system("credential-upkeep"), |tx| {
                for credential in piece {
                    let Some(there) = tx.get::<Credential>(&credential.key()) else {
                        continue;
                    };
                    // One that cannot be opened stays as it is, for the day its key is found.
                    let Ok(blob) = self.open_credential(&there) else {
                        warn!(
                            id = there.name(),
                            "a credential cannot be opened: its key is not in keys/credentials"
                        );
                        continue;
                    };
                    let mut new = (*there).clone();
                    self.seal_at(now, &mut new.spec, &blob);
                    tx.update(&there, new)?;
                }
                Ok::<_, Failure>(())
            });
            sealed.await.map_err(|failure| failure.message)?;
        }
        let all = self.store.cache::<Credential>().all();
        let used: BTreeSet<u32> = all
            .iter()
            .filter_map(|credential| key_of(&credential.spec.sealed))
            .collect();
        self.with_vault(move |identity| identity.vault.retire(now, STAYS_FOR, |number| used.contains(&number)))
            .await
    }

    /// Works on the files of keys, away from async workers.
    async fn with_vault(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<(), KeysError> + Send + 'static,
    ) -> Result<(), String> {
        let identity = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || work(&identity)).await;
        let done = done.map_err(|error| error.to_string())?;
        done.map_err(|error| {
            format!(
                "{error}: {}",
                std::error::Error::source(&error).map_or_else(String::new, ToString::to_string)
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use madang_store::{Metadata, Sqlite, SqliteOptions, StoreBuilder};

    use super::*;
    use crate::{Options, Policy};

    #[tokio::test]
    async fn everything_is_sealed_anew_and_old_keys_go() {
        let dir = tempfile::tempdir().unwrap();
        let mut builder = StoreBuilder::new();
        crate::register(&mut builder);
        let backend = Sqlite::open(SqliteOptions::new(dir.path().join("store.db")))
            .await
            .unwrap();
        let store = builder.open(Arc::new(backend)).await.unwrap();
        let options = Options::new(dir.path().join("keys"));
        let identity = Identity::open(store, Policy::new(), options).await.unwrap();
        // As it was kept before there were keys.
        let spec: CredentialSpec = serde_json::from_value(serde_json::json!({
            "user_id": "u", "type": "note", "blob": "open sesame",
        }))
        .unwrap();
        let made = identity.store.transact(Cause::system("test"), |tx| {
            tx.create(Resource::<Credential>::new(Metadata::new("", "c"), spec.clone()))
                .map(|_| ())
        });
        made.await.unwrap();
        let kept = || identity.store.get::<Credential>(&Credential::key("c")).unwrap();
        assert_eq!(identity.open_credential(&kept()).unwrap(), "open sesame");

        let days = |days: i64| Timestamp::now() + SignedDuration::from_hours(24 * days);
        let mut sealed = Vec::new();
        for (day, key, keys) in [(0, 1, 1), (31, 1, 2), (32, 2, 2), (35, 2, 1)] {
            identity.keep_vault(days(day)).await.unwrap();
            let now = kept();
            assert_eq!(now.spec.plain, None);
            assert_eq!(key_of(&now.spec.sealed), Some(key), "day {day}");
            assert_eq!(identity.vault.len(), keys, "day {day}");
            assert_eq!(identity.open_credential(&now).unwrap(), "open sesame");
            sealed.push(now.spec.sealed.clone());
        }
        assert_eq!(sealed[0], sealed[1], "nothing is sealed anew without need");

        let mut stolen = (*kept()).clone();
        stolen.spec.user_id = "other".to_owned();
        assert!(identity.open_credential(&stolen).is_err(), "it is bound to its user");
        identity.store.close().await;
    }
}
