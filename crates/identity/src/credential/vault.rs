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
        spec.sealed = self
            .vault
            .seal_text(Timestamp::now(), blob.as_bytes(), &belongs_to(spec));
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
                    self.seal_credential(&mut new.spec, &blob);
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
