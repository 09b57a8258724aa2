//! The contract suite for engines: what every [`Backend`] has to do, whatever it is made of.
//!
//! An engine's tests give a [`Lab`] to each of the [`CHECKS`]. A check panics with what was broken. Nothing here knows
//! SQLite: the suite for another engine is another lab.

mod compact;
mod counters;
mod history;
mod records;
mod watches;

use std::{path::PathBuf, pin::Pin, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;

use crate::{Backend, Cause, Expect, Key, Prefix, Record, Revision, StoreError, Txn, Write};

/// A place where engines are tried: one set of data, opened and closed as often as a check wants. Each check gets a new
/// one, without data.
#[async_trait]
pub trait Lab: Send + Sync {
    /// Opens the engine on the lab's data, as a process that starts would.
    async fn open(&self) -> Arc<dyn Backend>;

    /// Opens a copy that [`Backend::backup`] wrote, as what is restored; none when the engine's copies are restored by
    /// other means.
    async fn open_backup(&self, backup: PathBuf) -> Option<Arc<dyn Backend>>;

    /// A directory for files that a check makes.
    fn scratch(&self) -> PathBuf;
}

/// One check, under way.
pub type Checking<'l> = Pin<Box<dyn Future<Output = ()> + Send + 'l>>;

/// One clause of the contract.
#[derive(Clone, Copy)]
pub struct Check {
    /// What holds.
    pub name: &'static str,
    run: for<'l> fn(&'l dyn Lab) -> Checking<'l>,
}

impl Check {
    /// Panics when it does not hold.
    pub async fn run(&self, lab: &dyn Lab) {
        (self.run)(lab).await;
    }
}

/// A row of [`CHECKS`].
const fn check(name: &'static str, run: for<'l> fn(&'l dyn Lab) -> Checking<'l>) -> Check {
    Check { name, run }
}

/// The whole contract.
pub const CHECKS: &[Check] = &[
    check("what is put can be got", |lab| {
        Box::pin(records::what_is_put_can_be_got(lab))
    }),
    check("every key and value comes back as it was", |lab| {
        Box::pin(records::every_key_comes_back(lab))
    }),
    check("a prefix ends where it ends", |lab| {
        Box::pin(records::a_prefix_ends_where_it_ends(lab))
    }),
    check("pages cover a range once", |lab| {
        Box::pin(records::pages_cover_a_range_once(lab))
    }),
    check("a scan covers everything once", |lab| {
        Box::pin(records::a_scan_covers_everything_once(lab))
    }),
    check("a transaction expects", |lab| {
        Box::pin(records::a_transaction_expects(lab))
    }),
    check("a refused transaction leaves nothing", |lab| {
        Box::pin(records::a_refused_transaction_leaves_nothing(lab))
    }),
    check("a refused neighbour harms nobody", |lab| {
        Box::pin(records::a_refused_neighbour_harms_nobody(lab))
    }),
    check("of many that want one key one gets it", |lab| {
        Box::pin(records::one_of_many_gets_a_key(lab))
    }),
    check("what no engine takes is refused", |lab| {
        Box::pin(records::what_no_engine_takes_is_refused(lab))
    }),
    check("counters add up under concurrency", |lab| {
        Box::pin(counters::counters_add_up(lab))
    }),
    check("limits hold under concurrency", |lab| {
        Box::pin(counters::limits_hold(lab))
    }),
    check("a counter is never below zero", |lab| {
        Box::pin(counters::a_counter_is_never_below_zero(lab))
    }),
    check("revisions only go up", |lab| {
        Box::pin(history::revisions_only_go_up(lab))
    }),
    check("what was acknowledged is there after reopening", |lab| {
        Box::pin(history::reopening_keeps_everything(lab))
    }),
    check("closing does what was submitted", |lab| {
        Box::pin(history::closing_does_what_was_submitted(lab))
    }),
    check("a closed engine says so", |lab| {
        Box::pin(history::a_closed_engine_says_so(lab))
    }),
    check("a backup is one moment", |lab| {
        Box::pin(history::a_backup_is_one_moment(lab))
    }),
    check("a dropped call does all or nothing", |lab| {
        Box::pin(history::a_dropped_call_does_all_or_nothing(lab))
    }),
    check("a watch shows all changes in order", |lab| {
        Box::pin(watches::all_changes_in_order(lab))
    }),
    check("a watch from a list continues it", |lab| {
        Box::pin(watches::a_watch_continues_a_list(lab))
    }),
    check("a watch shows its prefix only", |lab| {
        Box::pin(watches::its_prefix_only(lab))
    }),
    check("a watch catches up from far behind", |lab| {
        Box::pin(watches::catches_up_from_far_behind(lab))
    }),
    check("a slow watcher misses nothing", |lab| {
        Box::pin(watches::a_slow_watcher_misses_nothing(lab))
    }),
    check("a watch goes on after reopening", |lab| {
        Box::pin(watches::goes_on_after_reopening(lab))
    }),
    check("a watch may be dropped while it waits", |lab| {
        Box::pin(watches::may_be_dropped_while_it_waits(lab))
    }),
    check("a watch ends with the engine", |lab| {
        Box::pin(watches::ends_with_the_engine(lab))
    }),
    check("changes that are compacted are told", |lab| {
        Box::pin(compact::what_is_compacted_is_told(lab))
    }),
    check("compaction keeps records", |lab| {
        Box::pin(compact::compaction_keeps_records(lab))
    }),
    check("a revision that never was is told", |lab| {
        Box::pin(compact::a_revision_that_never_was(lab))
    }),
];

/// `things/p//name`.
fn thing(name: impl std::fmt::Display) -> Key {
    Key::new("things", "p", "", name.to_string())
}

fn put(key: &Key, value: impl std::fmt::Display) -> Write {
    Write::Put(key.clone(), Bytes::from(format!("{{\"is\":\"{value}\"}}")))
}

fn txn(expects: Vec<Expect>, writes: Vec<Write>) -> Txn {
    Txn {
        expects,
        writes,
        cause: Cause::request("tester", "req-1"),
        at: Timestamp::UNIX_EPOCH,
    }
}

/// Commits what has to be committed.
async fn commit(engine: &dyn Backend, writes: Vec<Write>) -> Revision {
    engine
        .txn(txn(Vec::new(), writes))
        .await
        .expect("an unconditional transaction is committed")
}

/// What has to be refused.
async fn refused(engine: &dyn Backend, expects: Vec<Expect>, writes: Vec<Write>) -> StoreError {
    engine
        .txn(txn(expects, writes))
        .await
        .expect_err("this is to be refused")
}

/// Every record there is.
async fn everything(engine: &dyn Backend) -> (Vec<Record>, Revision) {
    let page = engine
        .range(&Prefix::all(), None, usize::MAX)
        .await
        .expect("records can be listed");
    assert!(!page.more, "a range without limit is all of it");
    (page.records, page.revision)
}
