//! Objects: put, read, described anew, deleted.

use std::sync::Arc;

use super::{
    Account, Container, Difference, Headers, Object, ObjectError, Objects, Use, container_of, count_in, read, read_at,
    signed, use_of, versions, write,
};
use crate::{
    Stamp,
    disk::{Look, Place, Stream, Tx, Uploaded},
    key,
};

/// Where an object is, or is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Which {
    /// The account.
    pub account: String,
    /// The container.
    pub container: String,
    /// The object's name.
    pub name: String,
    /// An older version of it, where that is wanted.
    pub version: Option<Stamp>,
}

impl Which {
    /// An object as it is now.
    pub fn new(account: &str, container: &str, name: &str) -> Self {
        Self {
            account: account.to_owned(),
            container: container.to_owned(),
            name: name.to_owned(),
            version: None,
        }
    }
}

/// An object, and where its bytes are.
#[derive(Clone)]
pub struct Given {
    /// The object.
    pub object: Object,
    /// Its bytes.
    pub stream: Stream,
    /// Where they are.
    pub place: Place,
    /// Where the object itself is: a version may be the one that is there now.
    pub key: Vec<u8>,
}

/// The bytes of an object that is put.
#[derive(Clone)]
pub enum Bytes {
    /// They came from outside.
    Uploaded(Arc<Uploaded>),
    /// Another has them.
    Of {
        /// Which.
        key: Vec<u8>,
        /// Where it was seen to have them.
        place: Place,
    },
}

/// An object to put.
#[derive(Clone)]
pub struct NewObject {
    /// What it is; its time is set when it is put.
    pub object: Object,
    /// Its bytes.
    pub bytes: Bytes,
    /// Only where there is none.
    pub only_new: bool,
}

impl Objects {
    /// An object with its container; none of either where there is none, or it has ended.
    ///
    /// # Errors
    /// When it cannot be read or is damaged.
    pub async fn object(&self, which: &Which) -> Result<(Option<Container>, Option<Given>), ObjectError> {
        let which = which.clone();
        let look = self.disk.view(move |view| {
            let container: Option<Container> = read_at(view, &key::container(&which.account, &which.container))?;
            let Some(container) = container else {
                return Ok((None, None));
            };
            let found = find(view, container.id, &which)?;
            let Some((key, object, place)) = found.filter(|(_, object, _)| !object.has_ended()) else {
                return Ok((Some(container), None));
            };
            let stream = view.open(&place)?;
            let given = Given {
                object,
                stream,
                place,
                key,
            };
            Ok::<_, ObjectError>((Some(container), Some(given)))
        });
        look.await
    }

    /// Puts an object where there was one or none. What is there now.
    ///
    /// # Errors
    /// `NoContainer`, `Exists`, `OverQuota`, `NoArchive`, `Changed`, or when it cannot be written.
    pub async fn put_object(&self, which: &Which, new: NewObject) -> Result<Object, ObjectError> {
        let which = which.clone();
        self.disk.transact(move |tx| put(tx, &which, new)).await
    }

    /// Changes what is said of an object. What is there now.
    ///
    /// # Errors
    /// `NoContainer`, `NoObject`, what `change` refuses, or when it cannot be written.
    pub async fn set_object(
        &self,
        which: &Which,
        change: impl FnOnce(&mut Object) -> Result<(), ObjectError> + Send + 'static,
    ) -> Result<Object, ObjectError> {
        let which = which.clone();
        let set = self.disk.transact(move |tx| {
            let container = container_of(tx, &which.account, &which.container)?;
            let (key, mut object, place) = find(tx, container.id, &which)?.ok_or(ObjectError::NoObject)?;
            if object.has_ended() {
                return Err(ObjectError::NoObject);
            }
            let before = object.ends();
            change(&mut object)?;
            object.at = Stamp::after(Some(object.at));
            move_end(tx, &which, container.id, before, object.ends())?;
            tx.put_at(&key, write(&object), place)?;
            Ok(object)
        });
        set.await
    }

    /// Takes an object away, or brings back the version before it where that is how its container keeps them. The sign
    /// that was left, if one was.
    ///
    /// # Errors
    /// `NoContainer`, `NoObject`, or when it cannot be written.
    pub async fn delete_object(&self, which: &Which) -> Result<Option<Object>, ObjectError> {
        let which = which.clone();
        match self.disk.transact(move |tx| delete(tx, &which)).await? {
            Deleted::Done => Ok(None),
            Deleted::Sign(sign) => Ok(Some(sign)),
            Deleted::HadEnded => Err(ObjectError::NoObject),
        }
    }

    /// Takes many objects away at once. What became of each.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn delete_objects(&self, all: Vec<Which>) -> Result<Vec<Result<(), ObjectError>>, ObjectError> {
        let delete_all = self.disk.transact(move |tx| {
            let mut outcomes = Vec::new();
            for which in &all {
                outcomes.push(match delete(tx, which) {
                    Ok(Deleted::HadEnded) => Err(ObjectError::NoObject),
                    Ok(_) => Ok(()),
                    // The rest would fail the same way, and what was done must go back.
                    Err(ObjectError::Disk(error)) => return Err(error.into()),
                    Err(refused) => Err(refused),
                });
            }
            Ok(outcomes)
        });
        delete_all.await
    }
}

/// An object or one of its older versions: where it is, what it is, where its bytes are.
pub(super) fn find(look: &Look<'_>, id: u64, which: &Which) -> Result<Option<(Vec<u8>, Object, Place)>, ObjectError> {
    let current = key::object(id, &which.name);
    let entry = look.get(&current)?;
    let object = entry.as_ref().map(read::<Object>).transpose()?;
    let found = object.zip(entry).map(|(object, entry)| (current, object, entry.place));
    let Some(wanted) = which.version else { return Ok(found) };
    if let Some(found) = found.filter(|(_, object, _)| object.version.unwrap_or_default() == wanted) {
        return Ok(Some(found));
    }
    let key = key::version(id, &which.name, wanted.0);
    let Some(entry) = look.get(&key)? else { return Ok(None) };
    Ok(Some((key, read(&entry)?, entry.place)))
}

/// Puts an object inside of a transaction.
pub(super) fn put(tx: &mut Tx<'_>, which: &Which, new: NewObject) -> Result<Object, ObjectError> {
    let container = container_of(tx, &which.account, &which.container)?;
    let key = key::object(container.id, &which.name);
    let before = tx.get(&key)?;
    let old = before.as_ref().map(read::<Object>).transpose()?;
    if new.only_new && old.as_ref().is_some_and(|old| !old.has_ended()) {
        return Err(ObjectError::Exists);
    }
    let mut object = new.object;
    object.at = Stamp::after(old.as_ref().map(|old| old.at));
    object.version = container.versions.filter(|on| *on).map(|_| object.at);
    check_quotas(tx, which, &container, &object, old.as_ref())?;
    let mut by = Difference {
        objects: i64::from(old.is_none()),
        bytes: signed(object.bytes),
        ..Difference::default()
    };
    if let (Some(old), Some(before)) = (&old, &before) {
        let is_kept = versions::keep(tx, which, &container, old, &before.place)?;
        if !is_kept {
            by.bytes -= signed(old.bytes);
        }
    }
    move_end(tx, which, container.id, old.and_then(|old| old.ends()), object.ends())?;
    match &new.bytes {
        Bytes::Uploaded(uploaded) => tx.put_uploaded(&key, write(&object), uploaded)?,
        Bytes::Of { key: source, place } => {
            let is_there = *source == key && before.is_some_and(|before| before.place == *place);
            if is_there {
                tx.put_at(&key, write(&object), *place)?
            } else if tx.get(source)?.is_some_and(|entry| entry.place == *place) {
                tx.put_copy(&key, write(&object), place)?
            } else {
                return Err(ObjectError::Changed);
            }
        }
    };
    count_in(tx, &which.account, container.id, by)?;
    Ok(object)
}

/// What became of an object that was to be deleted.
pub(super) enum Deleted {
    /// It is gone, or the version before it is there.
    Done,
    /// It is a version now, and this says that it was deleted.
    Sign(Object),
    /// It had ended by itself; now it is gone, too.
    HadEnded,
}

fn delete(tx: &mut Tx<'_>, which: &Which) -> Result<Deleted, ObjectError> {
    let container = container_of(tx, &which.account, &which.container)?;
    if which.version.is_some() {
        return versions::delete_one(tx, which, &container);
    }
    let key = key::object(container.id, &which.name);
    let found = tx.get(&key)?;
    let old = found.as_ref().map(read::<Object>).transpose()?;
    if container.versions == Some(true) {
        return versions::leave_sign(tx, which, &container, old.as_ref(), found.as_ref());
    }
    let (Some(old), Some(found)) = (old, found) else {
        return Err(ObjectError::NoObject);
    };
    if old.has_ended() {
        remove(tx, which, container.id, &old)?;
        return Ok(Deleted::HadEnded);
    }
    if !versions::take_back(tx, which, &container, &old, &found.place)? {
        remove(tx, which, container.id, &old)?;
    }
    Ok(Deleted::Done)
}

/// Takes an object away for good.
pub(super) fn remove(tx: &mut Tx<'_>, which: &Which, id: u64, old: &Object) -> Result<(), ObjectError> {
    tx.delete(&key::object(id, &which.name))?;
    move_end(tx, which, id, old.ends(), None)?;
    let by = Difference {
        objects: -1,
        bytes: -signed(old.bytes),
        ..Difference::default()
    };
    Ok(count_in(tx, &which.account, id, by)?)
}

/// Notes when an object ends.
pub(super) fn move_end(
    tx: &mut Tx<'_>,
    which: &Which,
    id: u64,
    before: Option<u64>,
    after: Option<u64>,
) -> Result<(), ObjectError> {
    if before == after {
        return Ok(());
    }
    if let Some(before) = before {
        tx.delete(&key::expiry(before, id, &which.name))?;
    }
    if let Some(after) = after {
        let whose = format!("{}\0{}", which.account, which.container);
        tx.put(&key::expiry(after, id, &which.name), whose)?;
    }
    Ok(())
}

fn limit(headers: &Headers, name: &str) -> Option<u64> {
    headers.get(name)?.parse().ok()
}

fn check_quotas(
    tx: &Tx<'_>,
    which: &Which,
    container: &Container,
    new: &Object,
    old: Option<&Object>,
) -> Result<(), ObjectError> {
    let account: Account = read_at(tx, &key::account(&which.account))?.unwrap_or_default();
    let fits = |used: Use, bytes: Option<u64>, objects: Option<u64>| {
        let is_kept = container.versions == Some(true);
        let old_bytes = old.filter(|_| !is_kept).map_or(0, |old| old.bytes);
        let bytes_fit = bytes.is_none_or(|most| used.bytes.saturating_sub(old_bytes) + new.bytes <= most);
        (
            bytes_fit,
            objects.is_none_or(|most| used.objects + u64::from(old.is_none()) <= most),
        )
    };
    let (bytes, objects) = (
        limit(&container.headers, "x-container-meta-quota-bytes"),
        limit(&container.headers, "x-container-meta-quota-count"),
    );
    if bytes.is_some() || objects.is_some() {
        let used = use_of(tx, &key::container_use(container.id))?;
        if fits(used, bytes, objects) != (true, true) {
            return Err(ObjectError::OverQuota("Upload exceeds quota."));
        }
    }
    // Swift has a quota for each policy; all that is here is of the only one.
    let least = |names: [&str; 2]| names.iter().filter_map(|name| limit(&account.headers, name)).min();
    let bytes = least(["x-account-meta-quota-bytes", "x-account-quota-bytes-policy-policy-0"]);
    let objects = least(["x-account-quota-count", "x-account-quota-count-policy-policy-0"]);
    if bytes.is_some() || objects.is_some() {
        let used = use_of(tx, &key::account_use(&which.account))?;
        return match fits(used, bytes, objects) {
            (false, _) => Err(ObjectError::OverQuota("Upload exceeds quota.")),
            (_, false) => Err(ObjectError::OverQuota("Upload exceeds object quota.")),
            _ => Ok(()),
        };
    }
    Ok(())
}
