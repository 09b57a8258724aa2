//! Samples of stored resources, one for every version that was ever released, kept for ever and loaded by a test.
//!
//! A crate keeps them in `samples/`, as `<kind>.v<version>.json`: the record as it is at rest. A test says
//! `samples::check::<Volume>(concat!(env!("CARGO_MANIFEST_DIR"), "/samples"))`; a new version gets its sample by running
//! it once with `MADANG_WRITE_SAMPLES=1` after [`keep`], and a released one is never changed again.

use std::{fs, path::Path};

use serde_json::Value;

use crate::{Key, Kind, Resource, Revision};

/// Loads every sample of a kind: each version up to the current one has one, can be read, and is written as the current
/// version with nothing lost on the way.
///
/// # Errors
/// Words that say which sample is missing or what was lost, for a test to show.
pub fn check<K: Kind>(dir: impl AsRef<Path>) -> Result<(), String> {
    let samples = (1..=K::VERSION).map(|version| check_version::<K>(dir.as_ref(), version));
    let broken: Vec<String> = samples.filter_map(Result::err).collect();
    if broken.is_empty() {
        Ok(())
    } else {
        Err(broken.join("\n"))
    }
}

fn check_version<K: Kind>(dir: &Path, version: u32) -> Result<(), String> {
    let path = dir.join(format!("{}.v{version}.json", K::NAME));
    let broken = |reason: String| format!("{}: {reason}", path.display());
    let bytes = fs::read(&path).map_err(|e| broken(e.to_string()))?;
    let sample: Value = serde_json::from_slice(&bytes).map_err(|e| broken(e.to_string()))?;
    if sample.get("v").and_then(Value::as_u64) != Some(u64::from(version)) {
        return Err(broken(format!("it is not of version {version}")));
    }
    let part = |name: &str| sample["metadata"].get(name).and_then(Value::as_str).unwrap_or_default();
    let key = Key::new(K::NAME, part("project"), part("namespace"), part("name"));
    let resource = Resource::<K>::decode(&key, Revision(1), &bytes).map_err(|e| broken(e.to_string()))?;
    let written = resource.encode().map_err(|e| broken(e.to_string()))?;
    let again =
        Resource::<K>::decode(&key, Revision(1), &written).map_err(|e| broken(format!("as written again: {e}")))?;
    if again.metadata != resource.metadata || again.spec != resource.spec || again.status != resource.status {
        return Err(broken("it is another one after being written and read".to_owned()));
    }
    let written: Value = serde_json::from_slice(&written).map_err(|e| broken(e.to_string()))?;
    // Of the current version every field is known; an upgrade may drop some of an older one, but not of its metadata.
    let (path_in, kept) = if version == K::VERSION {
        ("", &sample)
    } else {
        ("/metadata", &sample["metadata"])
    };
    let now = if version == K::VERSION {
        &written
    } else {
        &written["metadata"]
    };
    match lost(path_in, kept, now) {
        Some(field) => Err(broken(format!(
            "{field} is lost or changed when it is read and written"
        ))),
        None => Ok(()),
    }
}

/// The first field of `sample` that is not the same in `written`. New fields with defaults may be there.
fn lost(path: &str, sample: &Value, written: &Value) -> Option<String> {
    match (sample, written) {
        (Value::Object(sample), Value::Object(written)) => sample.iter().find_map(|(name, value)| {
            let path = format!("{path}/{name}");
            match written.get(name) {
                Some(written) => lost(&path, value, written),
                None => Some(path),
            }
        }),
        (Value::Array(sample), Value::Array(written)) if sample.len() == written.len() => sample
            .iter()
            .zip(written)
            .enumerate()
            .find_map(|(i, (s, w))| lost(&format!("{path}/{i}"), s, w)),
        _ => (sample != written).then(|| path.to_owned()),
    }
}

/// Writes the sample of the current version when the variable `MADANG_WRITE_SAMPLES` is set and there is none yet. Fill
/// in every field of it.
///
/// # Errors
/// What the file system says.
pub fn keep<K: Kind>(dir: impl AsRef<Path>, sample: &Resource<K>) -> Result<(), String> {
    let path = dir.as_ref().join(format!("{}.v{}.json", K::NAME, K::VERSION));
    if std::env::var_os("MADANG_WRITE_SAMPLES").is_none() || path.exists() {
        return Ok(());
    }
    let failed = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    let bytes = sample.encode().map_err(|e| failed(&e))?;
    let value: Value = serde_json::from_slice(&bytes).map_err(|e| failed(&e))?;
    let pretty = serde_json::to_string_pretty(&value).map_err(|e| failed(&e))?;
    fs::create_dir_all(dir.as_ref()).map_err(|e| failed(&e))?;
    fs::write(&path, pretty + "\n").map_err(|e| failed(&e))
}
