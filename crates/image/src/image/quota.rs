//! How many images a project may have, and how large all of them may be together, where unified limits say so; the names
//! are Glance's. Counted in the project's counter record in the transaction that creates, fills or removes an image.

use madang_identity::limit::unified::{self, Asked};
use madang_store::{Cause, Delta, Moment, Op, Resource, Store, StoreError, Sums, Tx};

use super::Image;

const SERVICE: &str = "image";
const COUNTERS: &str = "image";
const COUNT: &str = "image_count_total";
/// In MiB.
const SIZE: &str = "image_size_total";
pub(super) const MIB: u64 = 1024 * 1024;

pub(super) fn count(tx: &mut Tx<'_>, op: Op<'_, Image>) -> Result<(), StoreError> {
    match op {
        Op::Create(image) => {
            add(tx, image, COUNT, 1);
            add(tx, image, SIZE, size(image));
        }
        Op::Update { old, new } => add(tx, new, SIZE, size(new) - size(old)),
        Op::Remove(image) => {
            add(tx, image, COUNT, -1);
            add(tx, image, SIZE, -size(image));
        }
    }
    Ok(())
}

/// Brings what is counted to the images that are there: some may be from before images were counted. For the start.
///
/// # Errors
/// What the engine says.
pub(crate) async fn recount(store: &Store) -> Result<(), StoreError> {
    let there = |moment: &Moment<'_>| {
        let mut sums = Sums::default();
        for image in moment.view::<Image>().all() {
            if image.project().is_empty() {
                continue;
            }
            sums.add(image.project(), COUNTERS, COUNT, 1);
            sums.add(image.project(), COUNTERS, SIZE, size(image));
        }
        sums
    };
    let recounted = store.recount(Cause::system("image"), |group| group == COUNTERS, there);
    recounted.await.map(|_| ())
}

/// In MiB, rounded up.
fn size(image: &Resource<Image>) -> i64 {
    let contents = image.status.content.iter().chain(&image.status.staged);
    let bytes: u64 = contents.map(|content| content.size).sum();
    i64::try_from(bytes.div_ceil(MIB)).unwrap_or(i64::MAX)
}

fn add(tx: &mut Tx<'_>, image: &Resource<Image>, field: &str, amount: i64) {
    if amount == 0 || image.project().is_empty() {
        return;
    }
    let limit = if amount > 0 {
        limit(tx.store(), image.project(), field)
    } else {
        None
    };
    let delta = Delta {
        field: field.to_owned(),
        add: amount,
        limit,
    };
    tx.add(image.project(), COUNTERS, vec![delta]);
}

/// As Glance, where nothing is registered nobody may have any.
fn limit(store: &Store, project: &str, field: &str) -> Option<i64> {
    match unified::asked(store, SERVICE, field, project) {
        Asked::Own => None,
        Asked::Unregistered => Some(0),
        Asked::AtMost(limit) => limit,
    }
}

/// How many MiB may still come, where that is limited.
pub(super) fn room(store: &Store, project: &str) -> Option<u64> {
    let limit = limit(store, project, SIZE)?;
    let used = store.counters(project, COUNTERS).get(SIZE).copied().unwrap_or(0);
    Some(u64::try_from(limit - used).unwrap_or(0))
}

/// A passed limit in the words of Glance's; anything else as it is.
pub(super) fn over_limit(error: StoreError) -> madang_http::Failure {
    let StoreError::LimitExceeded {
        key,
        field,
        used,
        requested,
        limit,
    } = &error
    else {
        return error.into();
    };
    madang_http::Failure::exhausted(format!(
        "Project {} is over a limit for [Resource {field} is over limit of {limit} due to current usage {used} and delta \
         {requested}]",
        key.project
    ))
}
