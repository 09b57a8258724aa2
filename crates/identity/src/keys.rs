//! Keys that tokens and credentials are sealed with: a directory of numbered files, the newest of which seals.
//!
//! Those of tokens are made anew each day, and go once no token that they sealed can still be asked about; those of
//! credentials stay until nothing is sealed with them. Several processes may share a directory: a new key seals only after
//! all of them have had time to read it.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use aes_gcm::{Aes256Gcm, KeyInit, Nonce, aead::Aead, aead::Payload};
use arc_swap::ArcSwap;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::{SignedDuration, Timestamp};
use rand::{RngExt, TryRng, rngs::SysRng};
use serde::{Deserialize, Serialize};

use crate::token::Claims;

/// How long a key seals new tokens.
const SEALS_FOR: SignedDuration = SignedDuration::from_hours(24);
/// How old a key must be to seal, where there is an older one: longer than it takes until every process that shares the
/// directory has looked again (see [`crate::token::upkeep`]).
const STAGED_FOR: SignedDuration = SignedDuration::from_mins(30);
/// What is sealed begins with it: the form of what follows.
const FORMAT: u8 = 1;
const NONCE_BYTES: usize = 12;
const HEADER_BYTES: usize = 1 + 4 + NONCE_BYTES;
/// Far above any token of ours; what is longer is not even decoded.
const MAX_TOKEN_CHARS: usize = 512;

/// Why keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// A file could not be read or written.
    #[error("could not {action} {}", path.display())]
    File {
        /// A verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file does not hold a key.
    #[error("{} does not hold a key: {reason}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The system gave no random bytes.
    #[error("the system gives no random bytes: {0}")]
    Random(String),
}

/// The keys in use.
pub struct KeyRing {
    dir: PathBuf,
    keys: ArcSwap<Vec<Key>>,
}

struct Key {
    number: u32,
    created: Timestamp,
    cipher: Aes256Gcm,
}

/// A key's file.
#[derive(Serialize, Deserialize)]
struct Stored {
    created: Timestamp,
    key: String,
}

impl KeyRing {
    /// Reads the keys of a directory; makes both where there are none. Reads files: not for an async worker's thread.
    ///
    /// # Errors
    /// When the directory cannot be used, or a file in it is not a key.
    pub fn open(dir: impl Into<PathBuf>, now: Timestamp) -> Result<Self, KeysError> {
        let dir = dir.into();
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        made.map_err(|source| KeysError::File {
            action: "create",
            path: dir.clone(),
            source,
        })?;
        let mut keys = read_all(&dir)?;
        if keys.is_empty() {
            make(&dir, 1, now)?;
            keys = read_all(&dir)?;
        }
        Ok(Self {
            dir,
            keys: ArcSwap::from_pointee(keys),
        })
    }

    /// Makes a new key when the newest is a day old, and removes those that no token younger than `keep` can be sealed with.
    /// Also takes over what other processes made. Reads files: not for an async worker's thread.
    ///
    /// # Errors
    /// When the directory cannot be used; the keys in use stay.
    pub fn rotate(&self, now: Timestamp, keep: SignedDuration) -> Result<(), KeysError> {
        self.renew(now, SEALS_FOR)?;
        self.retire(now, keep, |_| false)
    }

    /// Makes a new key when the newest is `age` old. As [`KeyRing::rotate`] in all else.
    pub(crate) fn renew(&self, now: Timestamp, age: SignedDuration) -> Result<(), KeysError> {
        let mut keys = read_all(&self.dir)?;
        if keys
            .last()
            .is_none_or(|newest| now.duration_since(newest.created) >= age)
        {
            let number = keys.last().map_or(1, |newest| newest.number + 1);
            make(&self.dir, number, now)?;
            keys = read_all(&self.dir)?;
        }
        self.keys.store(Arc::new(keys));
        Ok(())
    }

    /// Removes the oldest keys, once they have not sealed for `keep` and as long as they are not in use.
    pub(crate) fn retire(
        &self,
        now: Timestamp,
        keep: SignedDuration,
        is_used: impl Fn(u32) -> bool,
    ) -> Result<(), KeysError> {
        let mut keys = read_all(&self.dir)?;
        // A key stopped sealing when its successor began.
        while keys.len() > 1 && now.duration_since(keys[1].created) > keep + STAGED_FOR && !is_used(keys[0].number) {
            let path = path(&self.dir, keys[0].number);
            fs::remove_file(&path).map_err(|source| KeysError::File {
                action: "remove",
                path,
                source,
            })?;
            keys.remove(0);
        }
        self.keys.store(Arc::new(keys));
        Ok(())
    }

    /// The token that says `claims`.
    pub fn seal(&self, claims: &Claims) -> String {
        self.seal_text(claims.issued, &claims.pack(), &[])
    }

    /// What a token says; none for one that we did not seal, or with a key that is gone.
    pub fn open_token(&self, token: &str) -> Option<Claims> {
        if token.len() > MAX_TOKEN_CHARS {
            return None;
        }
        Claims::unpack(&self.open_text(token, &[])?)
    }

    /// `content`, sealed with the key of the moment. Opens only where `belongs_to` is given again.
    pub(crate) fn seal_text(&self, now: Timestamp, content: &[u8], belongs_to: &[u8]) -> String {
        let keys = self.keys.load();
        let key = sealing(&keys, now);
        let mut sealed = vec![FORMAT];
        sealed.extend(key.number.to_be_bytes());
        // The generator of this thread is a cryptographic one, seeded by the system.
        let nonce: [u8; NONCE_BYTES] = rand::rng().random();
        sealed.extend(nonce);
        let aad = [&sealed[..HEADER_BYTES], belongs_to].concat();
        let payload = Payload {
            msg: content,
            aad: &aad,
        };
        let encrypted = key
            .cipher
            .encrypt(&Nonce::from(nonce), payload)
            .expect("what is sealed is far shorter than a cipher's limit");
        sealed.extend(encrypted);
        URL_SAFE_NO_PAD.encode(sealed)
    }

    /// What [`KeyRing::seal_text`] sealed; none where it is not ours, or its key is gone.
    pub(crate) fn open_text(&self, sealed: &str, belongs_to: &[u8]) -> Option<Vec<u8>> {
        let bytes = URL_SAFE_NO_PAD.decode(sealed).ok()?;
        let (header, encrypted) = bytes.split_at_checked(HEADER_BYTES)?;
        let number = number_of(header)?;
        let nonce: [u8; NONCE_BYTES] = header[5..].try_into().ok()?;
        let keys = self.keys.load();
        let key = keys.iter().rev().find(|key| key.number == number)?;
        let aad = [header, belongs_to].concat();
        let payload = Payload {
            msg: encrypted,
            aad: &aad,
        };
        key.cipher.decrypt(&Nonce::from(nonce), payload).ok()
    }

    /// The number of the key that seals now.
    pub(crate) fn seals_with(&self, now: Timestamp) -> u32 {
        sealing(&self.keys.load(), now).number
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.keys.load().len()
    }

    /// Never: a ring without a key cannot be opened.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The newest key that everybody has had time to read.
fn sealing(keys: &[Key], now: Timestamp) -> &Key {
    let ready = keys
        .iter()
        .rev()
        .find(|key| now.duration_since(key.created) >= STAGED_FOR);
    ready.or(keys.first()).expect("a ring is never without a key")
}

/// The number of the key that something was sealed with, by its first bytes.
fn number_of(header: &[u8]) -> Option<u32> {
    let (format, rest) = header.split_first()?;
    let number = rest.get(..4)?.try_into().ok()?;
    (*format == FORMAT).then(|| u32::from_be_bytes(number))
}

/// The number of the key that a text was sealed with.
pub(crate) fn key_of(sealed: &str) -> Option<u32> {
    number_of(&URL_SAFE_NO_PAD.decode(sealed).ok()?)
}

fn path(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("{number:08}.key"))
}

/// The keys of a directory, oldest first.
fn read_all(dir: &Path) -> Result<Vec<Key>, KeysError> {
    let failed = |source| KeysError::File {
        action: "read",
        path: dir.to_owned(),
        source,
    };
    let mut keys = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some(number) = name.strip_suffix(".key").and_then(|digits| digits.parse().ok()) else {
            continue;
        };
        keys.push(read(&path, number)?);
    }
    keys.sort_by_key(|key| key.number);
    Ok(keys)
}

fn read(path: &Path, number: u32) -> Result<Key, KeysError> {
    let text = fs::read(path).map_err(|source| KeysError::File {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    let broken = |reason: String| KeysError::Content {
        path: path.to_owned(),
        reason,
    };
    let stored: Stored = serde_json::from_slice(&text).map_err(|e| broken(e.to_string()))?;
    let bytes = URL_SAFE_NO_PAD.decode(&stored.key).map_err(|e| broken(e.to_string()))?;
    let cipher = Aes256Gcm::new_from_slice(&bytes).map_err(|_| broken(format!("it has {} bytes", bytes.len())))?;
    Ok(Key {
        number,
        created: stored.created,
        cipher,
    })
}

/// Writes a new key. Where another process was faster, its key stays.
fn make(dir: &Path, number: u32, now: Timestamp) -> Result<(), KeysError> {
    let mut key = [0; 32];
    SysRng
        .try_fill_bytes(&mut key)
        .map_err(|e| KeysError::Random(e.to_string()))?;
    let stored = Stored {
        created: now,
        key: URL_SAFE_NO_PAD.encode(key),
    };
    let text = serde_json::to_vec(&stored).expect("a time and a text are JSON");
    let path = path(dir, number);
    let beside = path.with_extension(format!("new{}", std::process::id()));
    let failed = |source| KeysError::File {
        action: "write",
        path: path.clone(),
        source,
    };
    let _ = fs::remove_file(&beside);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&beside)
        .map_err(failed)?;
    file.write_all(&text).and_then(|()| file.sync_all()).map_err(failed)?;
    // A link, unlike a rename, does not replace what is there.
    let linked = fs::hard_link(&beside, &path);
    fs::remove_file(&beside).map_err(failed)?;
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(failed(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use uuid::Uuid;

    use super::*;
    use crate::token::{Methods, ScopeClaim};

    fn claims() -> Claims {
        Claims {
            user_id: Uuid::new_v4().simple().to_string(),
            scope: ScopeClaim::Project(Uuid::new_v4().simple().to_string()),
            methods: Methods::PASSWORD.and(Methods::TOKEN),
            audit: Uuid::new_v4(),
            chain: Some(Uuid::new_v4()),
            issued: start(),
            expires: start() + SignedDuration::from_hours(1),
            application_credential: Some(Uuid::new_v4().simple().to_string()),
            trust: None,
            oauth1: None,
            federated: None,
        }
    }

    fn start() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    #[test]
    fn a_token_is_short_and_opens_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let claims = claims();
        let token = KeyRing::open(dir.path(), start()).unwrap().seal(&claims);
        assert!(token.len() <= 255, "{}", token.len());
        let again = KeyRing::open(dir.path(), start()).unwrap();
        assert_eq!(again.open_token(&token), Some(claims));
        let mode = fs::metadata(dir.path().join("00000001.key"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn any_changed_bit_makes_it_void() {
        let dir = tempfile::tempdir().unwrap();
        let ring = KeyRing::open(dir.path(), start()).unwrap();
        let bytes = URL_SAFE_NO_PAD.decode(ring.seal(&claims())).unwrap();
        for at in 0..bytes.len() {
            let mut forged = bytes.clone();
            forged[at] ^= 1;
            assert_eq!(ring.open_token(&URL_SAFE_NO_PAD.encode(forged)), None, "byte {at}");
        }
        for junk in ["", "x", "gAAAAABl", "\u{e9}"] {
            assert_eq!(ring.open_token(junk), None);
        }
        let other = tempfile::tempdir().unwrap();
        assert_eq!(
            KeyRing::open(other.path(), start())
                .unwrap()
                .open_token(&ring.seal(&claims())),
            None
        );
    }

    #[test]
    fn keys_rotate_and_outlive_their_tokens() {
        let dir = tempfile::tempdir().unwrap();
        let ring = KeyRing::open(dir.path(), start()).unwrap();
        let other = KeyRing::open(dir.path(), start()).unwrap();
        let token = ring.seal(&claims());
        let keep = SignedDuration::from_hours(50);
        let hours = |n| start() + SignedDuration::from_hours(n);
        ring.rotate(hours(23), keep).unwrap();
        assert_eq!(ring.len(), 1);
        ring.rotate(hours(25), keep).unwrap();
        assert_eq!(ring.len(), 2);
        assert!(ring.open_token(&token).is_some());
        let at = |hour| Claims {
            issued: hours(hour),
            ..claims()
        };
        let seen = other.open_token(&ring.seal(&at(25)));
        assert!(seen.is_some(), "a new key does not seal before others know it");
        let newer = ring.seal(&at(26));
        assert_eq!(other.open_token(&newer), None);
        other.rotate(hours(26), keep).unwrap();
        assert!(
            other.open_token(&newer).is_some(),
            "what another process made is taken over"
        );
        ring.rotate(hours(76), keep).unwrap();
        assert_eq!(
            (ring.open_token(&token), ring.open_token(&newer).is_some()),
            (None, true)
        );
    }
}
