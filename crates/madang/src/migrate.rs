//! `madang migrate`: the state of a cloud that is not up, from SQLite to etcd and back.
//!
//! All records go as they are, with the revisions that made them; then both sides are read again and compared, record by
//! record. What is not in the store (keys, images, the audit trail) stays in the data directory.

use std::{path::Path, sync::Arc};

use anyhow::{Context, bail};
use madang_store::{Backend, Etcd, Pages, Record, Revision, Sqlite, SqliteOptions};
use sha2::{Digest, Sha256};

use crate::{cli, config, console::line, storage};

/// Copies and compares.
///
/// # Errors
/// When one side cannot be reached, the other is not empty, somebody writes meanwhile, or the two are not the same.
pub async fn run(asked: &cli::Migrate) -> anyhow::Result<()> {
    let mut settings = config::Store::default();
    settings.add(None, &asked.tls);
    let (from, to) = (Place::parse(&asked.from)?, Place::parse(&asked.to)?);
    let source = from.open(&settings).await?;
    let moved = from_to(&*source, &to, &settings).await;
    source.close().await;
    let (count, digest, revision) = moved?;
    line(&format!(
        "{count} records are the same in {} and {}: revision {revision}, SHA-256 {digest}",
        asked.from, asked.to
    ));
    match to {
        Place::Etcd(address) => line(&format!("go on with: madang up --store {address}")),
        Place::Sqlite(_) => line("go on with: madang up --store sqlite"),
    }
    Ok(())
}

/// Where a store is.
enum Place<'a> {
    Sqlite(&'a Path),
    Etcd(&'a str),
}

impl<'a> Place<'a> {
    fn parse(said: &'a str) -> anyhow::Result<Self> {
        if said.starts_with("etcd://") {
            return Ok(Self::Etcd(said));
        }
        match said.strip_prefix("sqlite:") {
            Some(path) if !path.is_empty() => Ok(Self::Sqlite(Path::new(path))),
            _ => bail!("{said} is no store: name sqlite:FILE or etcd://HOST:PORT[,HOST:PORT…][/PREFIX]"),
        }
    }

    async fn open(&self, settings: &config::Store) -> anyhow::Result<Arc<dyn Backend>> {
        match self {
            Self::Sqlite(path) => {
                if !path.exists() {
                    bail!("there is no {}", path.display());
                }
                // Its lock keeps a madang out until this is done.
                let opened = Sqlite::open(SqliteOptions::new(*path)).await;
                Ok(Arc::new(
                    opened.context("could not open the store: is madang up on it?")?,
                ))
            }
            Self::Etcd(address) => {
                let options = storage::etcd(address, settings)?;
                let said = "could not open the store in etcd";
                if !Etcd::exists(&options).await.context(said)? {
                    bail!("there is no store at {address}");
                }
                Ok(Arc::new(Etcd::open(options).await.context(said)?))
            }
        }
    }
}

async fn from_to(
    source: &dyn Backend,
    to: &Place<'_>,
    settings: &config::Store,
) -> anyhow::Result<(u64, String, Revision)> {
    if source.revision().await? == Revision(0) {
        bail!("there is nothing to migrate: the store is empty");
    }
    let copied = match to {
        Place::Sqlite(path) => Sqlite::copy_from(source, path).await,
        Place::Etcd(address) => Etcd::copy_from(source, &storage::etcd(address, settings)?).await,
    };
    copied.context("could not copy")?;
    let target = to.open(settings).await?;
    let compared = compare(source, &*target).await;
    target.close().await;
    compared
}

/// Reads both sides to their ends. How many records there are, their digest, and the revision.
async fn compare(source: &dyn Backend, target: &dyn Backend) -> anyhow::Result<(u64, String, Revision)> {
    let (mut ours, mut theirs) = (Pages::new(source), Pages::new(target));
    let (mut count, mut digest) = (0, Sha256::new());
    loop {
        let (one, other) = (ours.next().await?, theirs.next().await?);
        if one != other {
            let first = first_difference(one.as_deref().unwrap_or_default(), other.as_deref().unwrap_or_default());
            bail!("the copy is not the same: {first}; do not use it");
        }
        let Some(records) = one else {
            break;
        };
        count += records.len() as u64;
        for record in &records {
            note(&mut digest, record)?;
        }
    }
    if ours.revision() != theirs.revision() {
        bail!(
            "the copy is at revision {}, not {}: do not use it",
            theirs.revision(),
            ours.revision()
        );
    }
    let digest = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok((count, digest, ours.revision()))
}

fn note(digest: &mut Sha256, record: &Record) -> anyhow::Result<()> {
    let key = record.key.encode()?;
    for part in [key.as_bytes(), &record.value] {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    digest.update(record.created.0.to_le_bytes());
    digest.update(record.modified.0.to_le_bytes());
    Ok(())
}

fn first_difference(ours: &[Record], theirs: &[Record]) -> String {
    let differs = ours.iter().zip(theirs).find(|(one, other)| one != other);
    match differs {
        Some((one, other)) if one.key != other.key => format!("{:?} is there instead of {:?}", other.key, one.key),
        Some((one, _)) => format!("{:?} differs", one.key),
        None => format!("{} records instead of {}", theirs.len(), ours.len()),
    }
}

#[cfg(test)]
mod tests {
    use madang_store::{Cause, Key, Txn, Write};

    use super::*;

    async fn store(path: &Path, value: &str, more: bool) -> Sqlite {
        let engine = Sqlite::open(SqliteOptions::new(path)).await.unwrap();
        let mut writes = vec![Write::Put(Key::new("things", "p", "", "a"), value.to_owned().into())];
        if more {
            writes.push(Write::Put(Key::new("things", "p", "", "b"), "1".into()));
        }
        let txn = Txn {
            expects: vec![],
            writes,
            cause: Cause::system("test"),
            at: jiff::Timestamp::UNIX_EPOCH,
        };
        engine.txn(txn).await.unwrap();
        engine
    }

    #[tokio::test]
    async fn what_differs_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let one = store(&dir.path().join("one.db"), "1", false).await;
        let same = store(&dir.path().join("same.db"), "1", false).await;
        let other = store(&dir.path().join("other.db"), "2", false).await;
        let longer = store(&dir.path().join("longer.db"), "1", true).await;
        let (count, digest, revision) = compare(&one, &same).await.unwrap();
        assert_eq!((count, digest.len(), revision), (1, 64, Revision(1)));
        let differs = compare(&one, &other).await.unwrap_err().to_string();
        assert!(differs.contains("things/p//a differs"), "{differs}");
        let differs = compare(&one, &longer).await.unwrap_err().to_string();
        assert!(differs.contains("2 records instead of 1"), "{differs}");
    }

    #[test]
    fn what_is_no_store_is_said() {
        for wrong in ["sqlite:", "store.db", "http://x"] {
            assert!(Place::parse(wrong).is_err(), "{wrong}");
        }
    }
}
