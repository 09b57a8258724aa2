//! The one thread that writes.

mod group;

use std::{fs::File, sync::Arc};

use rusqlite::{Connection, params};
use tokio::sync::{mpsc, oneshot};
use tracing::{error, warn};

use self::group::{ApplyError, Group};
use super::{SqliteOptions, failed, read::Head};
use crate::{Revision, StoreError, counting::CounterFields, log::Log, prepared::Prepared, recent::Recent};

/// Transactions committed by one fsync at most.
const GROUP: usize = 256;
/// History is trimmed once it is this many revisions longer than asked for, so that trimming is rare.
const TRIM_SLACK: u64 = 1024;
/// Revisions forgotten at a time, so that trimming never holds up writers for long.
const TRIM_STEP: u64 = 4096;

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// What is known of a record that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    /// Its row.
    row: i64,
    /// When it was last written.
    modified: Revision,
    /// Its sums, if it is a counter record and they have been read.
    sums: Option<CounterFields>,
}

/// What the writer is asked.
pub(super) enum Job {
    Txn { txn: Prepared, reply: Reply<Revision> },
    Compact { through: Revision, reply: Reply<()> },
    Close { reply: Reply<()> },
}

pub(super) struct Writer {
    connection: Connection,
    log: Arc<Log>,
    head: Head,
    /// What is known of the records in the database, without looking.
    recent: Recent<Known>,
    keep_revisions: u64,
    keep_bytes: u64,
    /// Held as long as this thread writes: keeps other processes out.
    lock: File,
}

impl Writer {
    pub(super) fn new(connection: Connection, log: Arc<Log>, head: Head, options: &SqliteOptions, lock: File) -> Self {
        let SqliteOptions {
            keep_revisions,
            keep_bytes,
            ..
        } = *options;
        Self {
            connection,
            log,
            head,
            recent: Recent::default(),
            keep_revisions,
            keep_bytes,
            lock,
        }
    }

    /// Works until it was told to close and has done everything submitted before, or until nobody can ask any more.
    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        let log = Arc::clone(&self.log);
        // However this thread ends, nobody waits for it in vain: a panic drops the queue, and this closes the log.
        let _closes = ClosesLog(&log);
        let mut closers = Vec::new();
        while let Some(first) = queue.blocking_recv() {
            let mut group = Vec::new();
            let mut next = Some(first);
            while let Some(job) = next.take() {
                match job {
                    Job::Txn { txn, reply } => group.push((txn, reply)),
                    // Whoever asked may have gone; the work is done all the same.
                    Job::Compact { through, reply } => _ = reply.send(self.compact(through)),
                    Job::Close { reply } => {
                        queue.close(); // what is in it already is still done
                        closers.push(reply);
                    }
                }
                if group.len() < GROUP {
                    next = queue.try_recv().ok();
                }
            }
            self.commit_group(group);
            self.trim();
        }
        let Self { connection, lock, .. } = self;
        if let Err((_, e)) = connection.close() {
            warn!(%e, "the database did not close well");
        }
        drop(lock);
        log.close();
        for reply in closers {
            _ = reply.send(Ok(()));
        }
    }

    /// Commits all transactions of a group that are not refused, together. Nobody is answered before the outcome is
    /// known: a refusal may rest on what a neighbour in the group wrote.
    fn commit_group(&mut self, transactions: Vec<(Prepared, Reply<Revision>)>) {
        if transactions.is_empty() {
            return;
        }
        let mut answers = Vec::with_capacity(transactions.len());
        let committed = self.try_commit(transactions, &mut answers);
        if let Err(reason) = committed {
            error!(%reason, "a group of transactions was not committed");
            self.recent.clear();
            self.roll_back();
            let off = |_| {
                Err(StoreError::Backend {
                    action: "commit",
                    reason: reason.to_string(),
                })
            };
            answers = answers
                .into_iter()
                .map(|(reply, answer)| (reply, off(answer)))
                .collect();
        }
        for (reply, answer) in answers {
            _ = reply.send(answer);
        }
    }

    fn try_commit(
        &mut self,
        transactions: Vec<(Prepared, Reply<Revision>)>,
        answers: &mut Vec<(Reply<Revision>, Result<Revision, StoreError>)>,
    ) -> rusqlite::Result<()> {
        let mut broken = if self.connection.is_autocommit() {
            None
        } else {
            self.roll_back()
        };
        if broken.is_none() {
            broken = self
                .connection
                .prepare_cached("BEGIN IMMEDIATE")
                .and_then(|mut begin| begin.execute([]))
                .err();
        }
        let mut group = match broken {
            None => Group::begin(&self.connection, &mut self.recent, self.head),
            Some(e) => Err(e),
        };
        let mut broken = None;
        for (txn, reply) in transactions {
            let answer = match (&mut group, &broken) {
                (Ok(group), None) => match group.apply(txn) {
                    Ok(revision) => Ok(revision),
                    Err(ApplyError::Refused(refused)) => Err(refused),
                    Err(ApplyError::Sqlite(e)) => {
                        broken = Some(e);
                        Err(StoreError::Closed) // replaced by what broke the group
                    }
                },
                _ => Err(StoreError::Closed), // replaced by what broke the group
            };
            answers.push((reply, answer));
        }
        if let Some(e) = broken {
            return Err(e);
        }
        let (head, batches) = group?.finish()?;
        if batches.is_empty() {
            self.roll_back(); // all were refused or changed nothing
            return Ok(());
        }
        self.connection.prepare_cached("COMMIT")?.execute([])?;
        self.head = head;
        self.log.publish(batches);
        Ok(())
    }

    /// Ends an open transaction without its writes. SQLite may have done so by itself after an error.
    fn roll_back(&self) -> Option<rusqlite::Error> {
        if self.connection.is_autocommit() {
            return None;
        }
        let failed = self.connection.execute_batch("ROLLBACK").err();
        if let Some(e) = &failed {
            error!(%e, "could not roll back");
        }
        failed
    }

    fn compact(&mut self, through: Revision) -> Result<(), StoreError> {
        let through = through.min(self.head.revision);
        while self.head.compacted < through {
            let step = Revision(through.0.min(self.head.compacted.0 + TRIM_STEP));
            self.forget(step).map_err(failed("compact"))?;
        }
        Ok(())
    }

    /// Forgets a little of a history that has grown too long or too large.
    fn trim(&mut self) {
        let Head {
            revision,
            compacted,
            history_bytes,
        } = self.head;
        let mut through = 0;
        if revision.0
            > self
                .keep_revisions
                .saturating_add(compacted.0)
                .saturating_add(TRIM_SLACK)
        {
            through = revision.0 - self.keep_revisions;
        }
        if history_bytes > self.keep_bytes {
            // The oldest eighth goes: some of the slack that makes trimming rare.
            through = through.max(compacted.0 + (revision.0 - compacted.0).div_ceil(8));
        }
        if through > compacted.0 {
            let step = Revision(through.min(compacted.0 + TRIM_STEP));
            if let Err(e) = self.forget(step) {
                warn!(%e, "could not trim the history");
                self.roll_back();
            }
        }
    }

    fn forget(&mut self, through: Revision) -> rusqlite::Result<()> {
        let at = through.0 as i64;
        let transaction = self.connection.transaction()?;
        let bytes: i64 = transaction
            .prepare_cached("SELECT coalesce(sum(length(batch)), 0) FROM history WHERE revision <= ?1")?
            .query_row([at], |row| row.get(0))?;
        let left = self.head.history_bytes.saturating_sub(bytes as u64);
        transaction
            .prepare_cached("DELETE FROM history WHERE revision <= ?1")?
            .execute([at])?;
        transaction
            .prepare_cached("UPDATE head SET compacted = ?1, history_bytes = ?2")?
            .execute(params![at, left as i64])?;
        transaction.commit()?;
        self.head.compacted = through;
        self.head.history_bytes = left;
        self.log.compacted(through);
        Ok(())
    }
}

/// Ends all watches when the writer thread ends.
struct ClosesLog<'l>(&'l Log);

impl Drop for ClosesLog<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}
