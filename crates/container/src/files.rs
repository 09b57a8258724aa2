//! Small JSON files that are either the old or the new one, never half of one.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use serde::{Serialize, de::DeserializeOwned};
use tracing::warn;

/// Reads a file; none if it does not exist or is damaged, as a power loss leaves it.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(body) => Ok(serde_json::from_slice(&body)
            .inspect_err(|error| warn!(path = %path.display(), %error, "ignoring a damaged file"))
            .ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Replaces a file by way of a second one beside it. Readable by its owner only. Survives this process, not a power loss:
/// nothing that these files describe survives that either.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut file: File = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)?;
    file.write_all(&serde_json::to_vec(value)?)?;
    drop(file);
    fs::rename(&beside, path)
}
