//! `madang backup` and `madang restore`: the whole state of the control plane in one file.
//!
//! The file is a tar archive, compressed with zstd: first `backup.json`, which says what it is, then the store, the audit
//! trail, keys, certificates, credentials, rules of who may do what, and image blobs. The store is copied by SQLite at one
//! revision while madang goes on, and the trail after it. A blob is
//! never changed, and is held by a link from before that moment on, so that all the store names at that revision is
//! there. Servers' disks are not part of it: they belong to the host they lie on.

use std::{
    fs::{self, File, OpenOptions},
    io::{BufReader, BufWriter, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Component, Path, PathBuf},
};

use anyhow::{Context, bail};
use madang_store::Sqlite;
use serde::{Deserialize, Serialize};

use crate::{
    console::{Bytes, line},
    data_dir::DataDir,
    storage,
};

/// Counted up when the archive changes in a way that an older madang cannot read.
const VERSION: u32 = 1;
const ABOUT: &str = "backup.json";
const STORE: &str = "store.db";
/// The copy of the store in a data directory, until it is checked and in its place.
const RESTORED: &str = "store.restored";
const AUDIT: &str = "audit.db";
const BLOBS: &str = "images/blobs";
/// What else is state, as named in the data directory. `instance` is not: what is restored is another instance.
const STATE: [&str; 6] = ["begun", "credentials.toml", "host-name", "keys", "policy.yaml", "tls"];

#[derive(Debug, Serialize, Deserialize)]
struct About {
    version: u32,
    madang: String,
    made: String,
    /// Of all that follows, for showing progress.
    bytes: u64,
}

/// Writes the state of the data directory to `file`, which must not exist.
///
/// # Errors
/// When there is no state, the file exists, or something cannot be read or written.
pub async fn backup(data: &DataDir, file: &Path) -> anyhow::Result<()> {
    data.require_used()?;
    if file.exists() {
        bail!("{} exists already: name a new file, or remove it", file.display());
    }
    // Beside the blobs, so that linking them is possible.
    let scratch = tempfile::Builder::new().prefix("backup-").tempdir_in(data.path());
    let scratch = scratch.with_context(|| format!("could not make a directory in {}", data.path().display()))?;
    let held = scratch.path().join("blobs");
    fs::create_dir(&held).context("could not make a directory for blobs")?;
    hold_blobs(&data.join(BLOBS), &held)?;
    storage::copy(data, &scratch.path().join(STORE)).await?;
    if data.audit().exists() {
        Sqlite::copy(&data.audit(), &scratch.path().join(AUDIT))
            .await
            .context("could not copy the audit trail")?;
    }
    hold_blobs(&data.join(BLOBS), &held)?;

    let (data, file) = (data.clone(), file.to_owned());
    let written = tokio::task::spawn_blocking(move || {
        let bytes = write(&data, scratch.path(), &file)?;
        line(&format!(
            "the state of {} is in {} ({:.1} MB)",
            data.path().display(),
            file.display(),
            bytes as f64 / 1e6
        ));
        anyhow::Ok(())
    });
    written.await?
}

/// Links every blob that is there; those that are held already stay.
fn hold_blobs(blobs: &Path, held: &Path) -> anyhow::Result<()> {
    for path in files(blobs)? {
        let link = held.join(path.file_name().unwrap_or_default());
        match fs::hard_link(&path, &link) {
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::AlreadyExists | std::io::ErrorKind::NotFound
                ) => {}
            linked => linked.with_context(|| format!("could not hold {}", path.display()))?,
        }
    }
    Ok(())
}

/// Writes the archive beside `file` and then gives it its name; its size.
fn write(data: &DataDir, scratch: &Path, file: &Path) -> anyhow::Result<u64> {
    let mut content = vec![(scratch.join(STORE), STORE.to_owned())];
    let audit = scratch.join(AUDIT);
    if audit.exists() {
        content.push((audit, AUDIT.to_owned()));
    }
    for name in STATE {
        let path = data.join(name);
        if path.is_dir() {
            content.extend(
                files(&path)?
                    .into_iter()
                    .map(|path| (path.clone(), relative(data, &path))),
            );
        } else if path.exists() {
            content.push((path, name.to_owned()));
        }
    }
    for blob in files(&scratch.join("blobs"))? {
        let name = format!("{BLOBS}/{}", blob.file_name().unwrap_or_default().to_string_lossy());
        content.push((blob, name));
    }
    let bytes = content
        .iter()
        .map(|(path, _)| fs::metadata(path).map_or(0, |about| about.len()))
        .sum();
    let progress = Bytes::new("writing the backup", bytes);

    let partial = file.with_extension("partial");
    let open = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&partial);
    let open = open.with_context(|| format!("could not write {}", partial.display()))?;
    let packed = zstd::Encoder::new(BufWriter::new(open), 3)?;
    let mut archive = tar::Builder::new(packed);
    let about = About {
        version: VERSION,
        madang: env!("CARGO_PKG_VERSION").to_owned(),
        made: jiff::Timestamp::now().to_string(),
        bytes,
    };
    let text = serde_json::to_vec_pretty(&about)?;
    append(
        &mut archive,
        ABOUT,
        text.len() as u64,
        text.as_slice(),
        &Bytes::new("", 0),
    )?;
    for (path, name) in &content {
        let source = File::open(path).with_context(|| format!("could not read {}", path.display()))?;
        let size = source.metadata()?.len();
        append(&mut archive, name, size, source, &progress)
            .with_context(|| format!("could not write {}", file.display()))?;
    }
    let finished = archive
        .into_inner()?
        .finish()?
        .into_inner()
        .map_err(|error| error.into_error())?;
    finished.sync_all()?;
    let size = finished.metadata()?.len();
    fs::rename(&partial, file).with_context(|| format!("could not write {}", file.display()))?;
    Ok(size)
}

fn append(
    archive: &mut tar::Builder<impl Write>,
    name: &str,
    size: u64,
    source: impl Read,
    progress: &Bytes,
) -> anyhow::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(0o600);
    archive.append_data(&mut header, name, Counted { source, progress })?;
    Ok(())
}

/// Brings the state in `file` into a data directory that has none.
///
/// # Errors
/// When there is state already, or the file is not a backup, is of a newer version, or is damaged.
pub async fn restore(data: &DataDir, file: &Path) -> anyhow::Result<()> {
    let _lock = data.lock()?;
    if data.is_used() {
        bail!(
            "{} is not empty: a restore never overwrites; name another with --data-dir",
            data.path().display()
        );
    }
    let (into, from) = (data.clone(), file.to_owned());
    tokio::task::spawn_blocking(move || unpack(&into, &from)).await??;
    // Last: without the store the directory still counts as empty.
    let unpacked = data.join(RESTORED);
    Sqlite::restore(&unpacked, &data.database())
        .await
        .context("could not restore the store")?;
    fs::remove_file(&unpacked).with_context(|| format!("could not remove {}", unpacked.display()))?;
    line(&format!(
        "{} has the state of {}: `madang up` brings it to life",
        data.path().display(),
        file.display()
    ));
    Ok(())
}

fn unpack(data: &DataDir, file: &Path) -> anyhow::Result<()> {
    let not_one = || format!("{} is not a backup of madang, or is damaged", file.display());
    let open = File::open(file).with_context(|| format!("could not read {}", file.display()))?;
    let mut archive = tar::Archive::new(zstd::Decoder::new(BufReader::new(open)).with_context(not_one)?);
    let mut entries = archive.entries().with_context(not_one)?;
    let mut first = entries.next().with_context(not_one)?.with_context(not_one)?;
    let mut text = String::new();
    // It is a few hundred bytes; more is not ours.
    first
        .by_ref()
        .take(65536)
        .read_to_string(&mut text)
        .with_context(not_one)?;
    let about: About = serde_json::from_str(&text).with_context(not_one)?;
    if about.version > VERSION {
        bail!(
            "{} was written by madang {}, which is newer than this one",
            file.display(),
            about.madang
        );
    }
    let progress = Bytes::new("restoring", about.bytes);
    for entry in entries {
        let mut entry = entry.with_context(not_one)?;
        let name = entry.path().with_context(not_one)?.into_owned();
        let is_plain = name.components().all(|part| matches!(part, Component::Normal(_)));
        if !is_plain || !entry.header().entry_type().is_file() {
            bail!("{}: entry {} is none of madang's", not_one(), name.display());
        }
        let to = if name == Path::new(STORE) {
            data.join(RESTORED)
        } else {
            data.path().join(&name)
        };
        write_private(
            &to,
            &mut Counted {
                source: &mut entry,
                progress: &progress,
            },
        )
        .with_context(not_one)?;
    }
    Ok(())
}

fn write_private(to: &Path, source: &mut impl Read) -> anyhow::Result<()> {
    if let Some(directory) = to.parent() {
        fs::create_dir_all(directory)?;
    }
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(to)?;
    std::io::copy(source, &mut file)?;
    file.sync_all()?;
    Ok(())
}

/// Counts what is read.
struct Counted<'a, R> {
    source: R,
    progress: &'a Bytes,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.source.read(buffer)?;
        self.progress.add(read as u64);
        Ok(read)
    }
}

/// The files below a directory; none when it is not there.
fn files(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(next) = directories.pop() {
        if !next.is_dir() {
            continue;
        }
        let entries = fs::read_dir(&next).with_context(|| format!("could not list {}", next.display()))?;
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                directories.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

fn relative(data: &DataDir, path: &Path) -> String {
    path.strip_prefix(data.path())
        .unwrap_or(path)
        .to_string_lossy()
        .into_owned()
}

#[cfg(test)]
mod tests {
    use madang_store::{Backend, Cause, Key, SqliteOptions, Txn, Write as StoreWrite};

    use madang_audit::{Book, Filter};
    use serde_json::json;

    use super::*;

    fn noted() -> madang_http::Event {
        let event = json!({
            "time": "2026-01-01T00:00:00Z", "request_id": "req-1", "service": "compute", "action": "create",
            "resource": "servers", "method": "POST", "path": "/", "route": "/", "status": 202, "outcome": "success",
            "duration_us": 1,
        });
        serde_json::from_value(event).unwrap()
    }

    async fn state_in(path: &Path) -> DataDir {
        let data = DataDir::new(Some(path)).unwrap();
        fs::create_dir_all(data.join(BLOBS)).unwrap();
        fs::create_dir_all(data.join("keys")).unwrap();
        fs::write(data.join("keys/0"), "key").unwrap();
        fs::write(data.join("credentials.toml"), "secret").unwrap();
        fs::write(data.join("instance"), "abcdef").unwrap();
        fs::write(data.join("images/blobs/aa"), "bytes").unwrap();
        let store = Sqlite::open(SqliteOptions::new(data.database())).await.unwrap();
        let writes = vec![StoreWrite::Put(Key::new("things", "p", "", "n"), "{}".into())];
        let txn = Txn {
            expects: vec![],
            writes,
            cause: Cause::system("test"),
            at: jiff::Timestamp::now(),
        };
        store.txn(txn).await.unwrap();
        store.close().await;
        Book::open(&data.audit()).unwrap().add(&[noted()]).unwrap();
        data
    }

    #[tokio::test]
    async fn what_is_backed_up_comes_back() {
        let scratch = tempfile::tempdir().unwrap();
        let from = state_in(&scratch.path().join("from")).await;
        let file = scratch.path().join("state");
        backup(&from, &file).await.unwrap();
        let to = DataDir::new(Some(&scratch.path().join("to"))).unwrap();
        restore(&to, &file).await.unwrap();
        for name in ["keys/0", "credentials.toml", "images/blobs/aa"] {
            assert_eq!(
                fs::read(to.join(name)).unwrap(),
                fs::read(from.join(name)).unwrap(),
                "{name}"
            );
        }
        assert!(!to.join("instance").exists(), "what is restored is another instance");
        let store = Sqlite::open(SqliteOptions::new(to.database())).await.unwrap();
        assert!(store.get(&Key::new("things", "p", "", "n")).await.unwrap().is_some());
        store.close().await;
        let trail = Book::read_only(&to.audit()).unwrap();
        let found = trail.find(&Filter::default(), 10).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].event.request_id, "req-1");
    }

    #[tokio::test]
    async fn nothing_is_overwritten() {
        let scratch = tempfile::tempdir().unwrap();
        let data = state_in(&scratch.path().join("data")).await;
        let file = scratch.path().join("state");
        backup(&data, &file).await.unwrap();
        assert!(
            backup(&data, &file)
                .await
                .unwrap_err()
                .to_string()
                .contains("exists already")
        );
        assert!(
            restore(&data, &file)
                .await
                .unwrap_err()
                .to_string()
                .contains("not empty")
        );
    }

    #[tokio::test]
    async fn what_is_no_backup_is_refused_and_leaves_nothing_in_use() {
        let scratch = tempfile::tempdir().unwrap();
        let junk = scratch.path().join("junk");
        fs::write(&junk, "junk").unwrap();
        let data = DataDir::new(Some(&scratch.path().join("data"))).unwrap();
        let error = format!("{:#}", restore(&data, &junk).await.unwrap_err());
        assert!(error.contains("junk is not a backup"), "{error}");
        assert!(!data.is_used());
    }
}
