//! Older versions of objects, in Swift's three ways.
//!
//! - `X-Versions-Enabled`: a container keeps them itself, each with an id; a delete leaves a sign.
//! - `X-Versions-Location`: they are objects of another container, and a delete brings the last one back.
//! - `X-History-Location`: likewise, but a delete leaves a sign over there.

use super::{
    Container, Difference, Object, ObjectError, Objects, Which, container_of, count_in,
    object::{Bytes, Deleted, NewObject, find, move_end, put, remove},
    read, read_at, signed, write,
};
use crate::{
    Stamp,
    disk::{Entry, Place, Tx, Uploaded},
    key,
};

/// What the sign of a deleted object says it is.
pub const DELETED: &str = "application/x-deleted;swift_versions_deleted=1";

/// Where the older versions of an object go, as objects.
fn archive(container: &Container) -> Option<&str> {
    let names = ["x-versions-location", "x-history-location"];
    names.iter().find_map(|name| container.header(name))
}

/// What all older versions of an object are called there.
fn archived(name: &str) -> String {
    format!("{:03x}{name}/", name.len())
}

/// Keeps what is about to be replaced. Whether it still counts in its container.
pub(super) fn keep(
    tx: &mut Tx<'_>,
    which: &Which,
    container: &Container,
    old: &Object,
    place: &Place,
) -> Result<bool, ObjectError> {
    if container.versions.is_some_and(|on| on || old.version.is_some()) {
        let at = old.version.unwrap_or_default();
        let key = key::version(container.id, &which.name, at.0);
        if let Some(entry) = tx.get(&key)? {
            let by = Difference {
                bytes: -signed(read::<Object>(&entry)?.bytes),
                ..Difference::default()
            };
            count_in(tx, &which.account, container.id, by)?;
        }
        tx.put_copy(&key, write(old), place)?;
        return Ok(true);
    }
    if let Some(archive) = archive(container)
        && !old.has_ended()
    {
        let source = Bytes::Of {
            key: key::object(container.id, &which.name),
            place: *place,
        };
        put_archived(tx, which, archive, old.at, old.clone(), source)?;
    }
    Ok(false)
}

fn put_archived(
    tx: &mut Tx<'_>,
    which: &Which,
    archive: &str,
    at: Stamp,
    object: Object,
    bytes: Bytes,
) -> Result<(), ObjectError> {
    let name = format!("{}{at}", archived(&which.name));
    let there = Which::new(&which.account, archive, &name);
    if read_at::<Container>(tx, &key::container(&which.account, archive))?.is_none() {
        return Err(ObjectError::NoArchive);
    }
    let new = NewObject {
        object,
        bytes,
        only_new: false,
    };
    put(tx, &there, new)?;
    Ok(())
}

/// A delete where the container keeps versions itself: what was there becomes one of them, a sign takes its place.
pub(super) fn leave_sign(
    tx: &mut Tx<'_>,
    which: &Which,
    container: &Container,
    old: Option<&Object>,
    found: Option<&Entry>,
) -> Result<Deleted, ObjectError> {
    if let (Some(old), Some(found)) = (old, found) {
        keep(tx, which, container, old, &found.place)?;
        tx.delete(&key::object(container.id, &which.name))?;
        move_end(tx, which, container.id, old.ends(), None)?;
        let by = Difference {
            objects: -1,
            ..Difference::default()
        };
        count_in(tx, &which.account, container.id, by)?;
    }
    let at = Stamp::after(old.map(|old| old.at));
    let sign = Object {
        at,
        etag: "d41d8cd98f00b204e9800998ecf8427e".to_owned(),
        content_type: DELETED.to_owned(),
        version: Some(at),
        deleted: true,
        ..Object::default()
    };
    tx.put(&key::version(container.id, &which.name, at.0), write(&sign))?;
    Ok(Deleted::Sign(sign))
}

/// A delete where older versions are elsewhere. Whether that was all.
pub(super) fn take_back(
    tx: &mut Tx<'_>,
    which: &Which,
    container: &Container,
    old: &Object,
    place: &Place,
) -> Result<bool, ObjectError> {
    if let Some(archive) = container.header("x-history-location") {
        keep(tx, which, container, old, place)?;
        let sign = Object {
            etag: "d41d8cd98f00b204e9800998ecf8427e".to_owned(),
            content_type: DELETED.to_owned(),
            ..Object::default()
        };
        let nothing = Bytes::Uploaded(std::sync::Arc::new(Uploaded::of(bytes::Bytes::new())));
        put_archived(tx, which, archive, Stamp::after(Some(old.at)), sign, nothing)?;
        return Ok(false);
    }
    let Some(archive) = container.header("x-versions-location") else {
        return Ok(false);
    };
    let Some(there): Option<Container> = read_at(tx, &key::container(&which.account, archive))? else {
        return Ok(false);
    };
    let prefix = [key::objects(there.id), archived(&which.name).into_bytes()].concat();
    loop {
        let last = tx.range(&prefix, &key::end_of(&prefix), true, 1)?.pop();
        let Some((source, entry)) = last else { return Ok(false) };
        let name = String::from_utf8_lossy(&source[9..]).into_owned();
        let version = Which::new(&which.account, archive, &name);
        let object: Object = read(&entry)?;
        if object.content_type == DELETED || object.has_ended() {
            remove(tx, &version, there.id, &object)?;
            continue;
        }
        // With nothing there, what comes back replaces nothing that would be kept.
        remove(tx, which, container.id, old)?;
        let restored = NewObject {
            object: object.clone(),
            bytes: Bytes::Of {
                key: source,
                place: entry.place,
            },
            only_new: false,
        };
        put(tx, which, restored)?;
        remove(tx, &version, there.id, &object)?;
        return Ok(true);
    }
}

/// Takes one version away; where it was the one that is there now, nothing takes its place.
pub(super) fn delete_one(tx: &mut Tx<'_>, which: &Which, container: &Container) -> Result<Deleted, ObjectError> {
    let (key, object, _) = find(tx, container.id, which)?.ok_or(ObjectError::NoObject)?;
    if key == key::object(container.id, &which.name) {
        remove(tx, which, container.id, &object)?;
        return Ok(Deleted::Done);
    }
    tx.delete(&key)?;
    let by = Difference {
        bytes: -signed(object.bytes),
        ..Difference::default()
    };
    count_in(tx, &which.account, container.id, by)?;
    Ok(Deleted::Done)
}

/// A version in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// The object's name.
    pub name: String,
    /// What it is.
    pub object: Object,
    /// Whether it is the newest.
    pub is_latest: bool,
}

impl Objects {
    /// All versions of the objects in a container, by name and from the newest on: those behind a name and one of its
    /// versions, with a prefix, at most so many.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn versions(
        &self,
        account: &str,
        container: &str,
        prefix: &str,
        after: Option<(String, Option<Stamp>)>,
        limit: usize,
    ) -> Result<Vec<Version>, ObjectError> {
        let which = Which::new(account, container, prefix);
        let look = self.disk.view(move |view| {
            let container = container_of(view, &which.account, &which.container)?;
            let mut found = Vec::new();
            let mut name_from = after
                .as_ref()
                .map_or_else(|| which.name.clone(), |(name, _)| name.clone());
            let mut is_first = true;
            while found.len() < limit {
                let Some(name) = next_name(view, container.id, &name_from, is_first, &after)? else {
                    break;
                };
                if !name.starts_with(&which.name) {
                    break;
                }
                let current = read_at::<Object>(view, &key::object(container.id, &name))?;
                let has_current = current.is_some();
                let older = key::versions(container.id, &name);
                let rows = view.range(&older, &key::end_of(&older), false, limit + 1)?;
                let older = rows
                    .iter()
                    .map(|(_, entry)| read::<Object>(entry))
                    .collect::<Result<Vec<_>, _>>()?;
                for (i, object) in current.into_iter().chain(older).enumerate() {
                    let is_behind = match &after {
                        Some((marker, Some(version))) if *marker == name => {
                            object.version.unwrap_or_default() < *version
                        }
                        Some((marker, None)) if *marker == name => false,
                        _ => true,
                    };
                    if is_behind {
                        found.push(Version {
                            name: name.clone(),
                            is_latest: i == 0 && (has_current || object.deleted),
                            object,
                        });
                    }
                }
                name_from = name;
                is_first = false;
            }
            found.truncate(limit);
            Ok::<_, ObjectError>(found)
        });
        look.await
    }
}

/// The first name from `from` on (or behind it) that has an object or a version.
fn next_name(
    look: &crate::disk::Look<'_>,
    id: u64,
    from: &str,
    is_first: bool,
    after: &Option<(String, Option<Stamp>)>,
) -> Result<Option<String>, ObjectError> {
    let includes = is_first && after.as_ref().is_none_or(|(_, version)| version.is_some());
    let mut names = Vec::new();
    for (prefix, is_versions) in [(key::objects(id), false), (key::all_versions(id), true)] {
        let mut low = [&prefix[..], from.as_bytes()].concat();
        if !includes {
            // Behind all versions of the name, which have a zero byte after it.
            low.push(u8::from(is_versions));
        }
        let row = look.range(&low, &key::end_of(&prefix), false, 1)?.pop();
        names.extend(row.map(|(key, _)| {
            let end = if is_versions { key.len() - 9 } else { key.len() };
            String::from_utf8_lossy(&key[9..end]).into_owned()
        }));
    }
    Ok(names.into_iter().min())
}
