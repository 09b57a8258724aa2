//! The one task that writes: many transactions per transaction of etcd's, one of those at a time.
//!
//! ```text
//! queue ─► learn what is not known ─► decide ─► head as it was? log, records, head ─► publish ─► answer
//! ```
//! Every commit expects `head` as the one before left it, so that what was decided on is what there is. One whose answer
//! is lost is sent again as it is until etcd says what became of it: the head has moved on for good then, and the log has
//! its nonce or has not. Nobody is told before that.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use ahash::AHashMap;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tracing::{debug, error, warn};

use super::{
    EtcdOptions,
    client::{PATIENCE, backend, is_refusal},
    group::{Group, Known, Sealed, most_writes},
    layout::{Entry, Head, decode_record},
    read::Shared,
    wire::{Compare, DeleteRequest, PutRequest, RangeRequest, Request, TxnRequest, TxnResponse, key},
};
use crate::{
    Revision, StoreError, counting,
    prepared::{Prepared, What},
    recent::Recent,
};

/// Transactions committed together at most.
const GROUP: usize = 256;
/// Bytes that are committed together, more than one transaction aside: below what etcd takes in one request.
const GROUP_BYTES: usize = 512 << 10;
/// History is trimmed once it is an eighth longer than asked for, and this much at least.
const TRIM_SLACK: u64 = 16;
/// Between attempts to find out what became of a commit.
const PAUSE: Duration = Duration::from_millis(50);

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// What the writer is asked.
pub(super) enum Job {
    Txn { txn: Prepared, reply: Reply<Revision> },
    Compact { through: Revision, reply: Reply<()> },
    Close { reply: Reply<()> },
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    queue: mpsc::Receiver<Job>,
    /// What has come and is not committed yet.
    waiting: VecDeque<(Prepared, Reply<Revision>)>,
    closers: Vec<Reply<()>>,
    head: Head,
    /// etcd's revision of `head`.
    head_at: i64,
    /// etcd's revision of `owner`; 0 where nobody is.
    owner_at: i64,
    /// Why nothing is written any more.
    ended: Option<String>,
    recent: Recent<Known>,
    /// [`Head::written`] before the oldest entry of the log.
    oldest: u64,
    options: EtcdOptions,
}

/// What became of a commit.
enum Outcome {
    /// It is durable; etcd's revision of it.
    Committed(i64),
    /// Another writer was first.
    Overtaken,
    /// It has changed nothing and will not.
    Failed(StoreError),
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        queue: mpsc::Receiver<Job>,
        head: (Head, i64),
        owner_at: i64,
        oldest: u64,
        options: EtcdOptions,
    ) -> Self {
        Self {
            shared,
            queue,
            waiting: VecDeque::new(),
            closers: Vec::new(),
            head: head.0,
            head_at: head.1,
            owner_at,
            ended: None,
            recent: Recent::default(),
            oldest,
            options,
        }
    }

    /// Works until it was told to close and has done everything submitted before, or until nobody can ask any more.
    pub(super) async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        // However this ends, nobody waits for it in vain.
        let _closes = ClosesLog(&shared);
        while let Some(first) = self.queue.recv().await {
            self.take(first).await;
            loop {
                while self.waiting.len() < GROUP
                    && let Ok(job) = self.queue.try_recv()
                {
                    self.take(job).await;
                }
                if self.waiting.is_empty() {
                    break;
                }
                let group = self.next_group();
                self.commit(group).await;
                self.trim().await;
            }
        }
        shared.log.close();
        for reply in std::mem::take(&mut self.closers) {
            _ = reply.send(Ok(()));
        }
    }

    async fn take(&mut self, job: Job) {
        match job {
            Job::Txn { txn, reply } => self.waiting.push_back((txn, reply)),
            // Whoever asked may have gone; the work is done all the same.
            Job::Compact { through, reply } => {
                let through = through.min(self.head.revision);
                _ = reply.send(self.forget(through).await);
            }
            Job::Close { reply } => {
                self.queue.close(); // what is in it already is still done
                self.closers.push(reply);
            }
        }
    }

    /// As many of the oldest as fit together.
    fn next_group(&mut self) -> Vec<(Prepared, Reply<Revision>)> {
        let (mut group, mut bytes, mut writes) = (Vec::new(), 0, 0);
        while let Some((txn, _)) = self.waiting.front() {
            bytes += most_bytes(txn);
            writes += txn.writes.len();
            let is_full = bytes > GROUP_BYTES || writes > most_writes(self.options.max_txn_ops);
            if !group.is_empty() && (is_full || group.len() >= GROUP) {
                break;
            }
            group.extend(self.waiting.pop_front());
        }
        group
    }

    /// Commits all transactions of a group that are not refused, together, and answers.
    async fn commit(&mut self, group: Vec<(Prepared, Reply<Revision>)>) {
        let (transactions, replies): (Vec<Prepared>, Vec<_>) = group.into_iter().unzip();
        let mut answers = self.commit_all(&transactions).await;
        if transactions.len() > 1 && matches!(answers[0], Err(StoreError::Invalid(_))) {
            // Together they are more than etcd takes, against all expectation.
            answers.clear();
            for txn in &transactions {
                answers.append(&mut self.commit_all(std::slice::from_ref(txn)).await);
            }
        }
        for (reply, answer) in replies.into_iter().zip(answers) {
            _ = reply.send(answer);
        }
    }

    async fn commit_all(&mut self, transactions: &[Prepared]) -> Vec<Result<Revision, StoreError>> {
        match self.try_commit(transactions).await {
            Ok(answers) => answers,
            Err(failed) => {
                self.recent.clear();
                if !matches!(failed, StoreError::Invalid(_)) {
                    error!(%failed, "a group of transactions was not committed");
                }
                transactions.iter().map(|_| Err(again(&failed))).collect()
            }
        }
    }

    async fn try_commit(&mut self, transactions: &[Prepared]) -> Result<Vec<Result<Revision, StoreError>>, StoreError> {
        loop {
            if let Some(reason) = &self.ended {
                let reason = reason.clone();
                return Err(StoreError::Backend {
                    action: "commit",
                    reason,
                });
            }
            self.learn(transactions).await?;
            let mut group = Group::begin(&self.shared.layout, &mut self.recent, self.head);
            let answers: Vec<_> = transactions.iter().map(|txn| group.apply(txn)).collect();
            let Some(sealed) = group.seal()? else {
                // Refused, or nothing to do: true only if what is known is still so.
                if self.is_current().await? {
                    return Ok(answers);
                }
                self.start_over().await?;
                continue;
            };
            match self.send(&sealed).await? {
                Outcome::Committed(at) => {
                    self.head = sealed.head;
                    self.head_at = at;
                    self.shared.log.publish(sealed.batches);
                    return Ok(answers);
                }
                Outcome::Overtaken => self.start_over().await?,
                Outcome::Failed(failed) => return Err(failed),
            }
        }
    }

    /// Finds out about records that the transactions touch and that are not known.
    async fn learn(&mut self, transactions: &[Prepared]) -> Result<(), StoreError> {
        let mut unknown: AHashMap<&str, Option<&crate::Key>> = AHashMap::new();
        for txn in transactions {
            for wanted in &txn.expects {
                if self.recent.get(&wanted.encoded).is_none() {
                    unknown.entry(&wanted.encoded).or_default();
                }
            }
            for change in &txn.writes {
                let known = self.recent.get(&change.encoded);
                let counted = matches!(change.what, What::Add(_)).then_some(&change.key);
                let lacks_sums = counted.is_some() && matches!(known, Some(Known::There { sums: None, .. }));
                if known.is_none() || lacks_sums {
                    let asked = unknown.entry(&change.encoded).or_default();
                    *asked = asked.or(counted);
                }
            }
        }
        if unknown.is_empty() {
            return Ok(());
        }
        let keys: Vec<_> = unknown
            .keys()
            .map(|encoded| (self.shared.layout.record(encoded), 0))
            .collect();
        let found = self.shared.find(&keys).await?;
        for ((encoded, counted), found) in unknown.into_iter().zip(found) {
            let known = match found {
                None => Known::Absent,
                Some(found) => {
                    let key = crate::Key::decode(encoded)?;
                    let record = decode_record(key, found.value)?;
                    // What is no counter fails the transaction that adds to it, not its neighbours.
                    let sums = counted.and_then(|key| counting::decode(key, &record.value).ok());
                    Known::There {
                        created: record.created,
                        modified: record.modified,
                        sums,
                    }
                }
            };
            self.recent.note(encoded, known);
        }
        Ok(())
    }

    /// Whether nobody else has written since this writer looked.
    async fn is_current(&mut self) -> Result<bool, StoreError> {
        let head = self.shared.head().await?;
        Ok(head.is_some_and(|(_, at)| at == self.head_at))
    }

    /// Another writer was here: what it wrote is shown to watchers, and everything is learnt anew.
    async fn start_over(&mut self) -> Result<(), StoreError> {
        debug!("another writer was first, deciding anew");
        self.recent.clear();
        let head = self.shared.head().await?.ok_or_else(|| StoreError::Backend {
            action: "commit",
            reason: format!("there is no store at {} any more", self.shared.layout.prefix()),
        })?;
        self.shared.catch_up().await?;
        (self.head, self.head_at) = head;
        Ok(())
    }

    /// Sends a commit until it is known what became of it.
    async fn send(&mut self, sealed: &Sealed) -> Result<Outcome, StoreError> {
        if sealed.bytes > self.options.max_request_bytes {
            return Err(StoreError::Invalid(format!(
                "a transaction of {} bytes is more than etcd takes: {} with its --max-request-bytes",
                sealed.bytes, self.options.max_request_bytes
            )));
        }
        let request = TxnRequest {
            compare: self.unchanged(),
            success: sealed.operations(self.options.max_txn_ops)?,
            failure: [self.shared.layout.log(sealed.head.revision), self.shared.layout.owner()]
                .map(|of| Request::Range(key(of)).into())
                .into(),
        };
        let began = Instant::now();
        let mut in_doubt = false;
        loop {
            match self.shared.client.txn(&request).await {
                Ok(answer) if answer.succeeded => return Ok(Outcome::Committed(revision_of(&answer))),
                Ok(answer) => return Ok(self.what_became_of_it(sealed, answer)),
                Err(refused) if is_refusal(&refused) && !in_doubt => {
                    return Ok(Outcome::Failed(backend("commit", &refused)));
                }
                Err(failed) => {
                    in_doubt = true;
                    debug!(%failed, "no answer to a commit, asking again");
                    if began.elapsed() > PATIENCE {
                        self.send_away(&backend("commit", &failed)).await;
                        if !self.closers.is_empty() {
                            return Ok(Outcome::Failed(StoreError::Closed));
                        }
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// The head is not as it was: because of this very commit, or of another one.
    fn what_became_of_it(&mut self, sealed: &Sealed, answer: TxnResponse) -> Outcome {
        let mut found = answer.ranges().map(|mut range| range.kvs.pop());
        let (log, owner) = (found.next().flatten(), found.next().flatten());
        if let Some(log) = log
            && Entry::decode(log.value).is_ok_and(|entry| entry.nonce == sealed.nonce)
        {
            return Outcome::Committed(log.mod_revision);
        }
        if owner.as_ref().map_or(0, |owner| owner.mod_revision) != self.owner_at {
            let by = owner.map(|owner| String::from_utf8_lossy(&owner.value).into_owned());
            let reason = format!("{} has taken the store over", by.as_deref().unwrap_or("somebody"));
            error!(reason, "nothing is written any more");
            self.ended = Some(reason.clone());
            return Outcome::Failed(StoreError::Backend {
                action: "commit",
                reason,
            });
        }
        Outcome::Overtaken
    }

    /// Tells those who came meanwhile, of whom nothing was sent, that etcd does not answer.
    async fn send_away(&mut self, failed: &StoreError) {
        while let Ok(job) = self.queue.try_recv() {
            match job {
                Job::Compact { reply, .. } => _ = reply.send(Err(again(failed))),
                Job::Txn { .. } | Job::Close { .. } => self.take(job).await,
            }
        }
        for (_, reply) in self.waiting.drain(..) {
            _ = reply.send(Err(again(failed)));
        }
    }

    /// Forgets a little of a history that has grown too long or too large.
    async fn trim(&mut self) {
        let Head {
            revision,
            compacted,
            written,
        } = self.head;
        let kept = revision.0 - compacted.0;
        let EtcdOptions {
            keep_revisions,
            keep_bytes,
            ..
        } = self.options;
        let mut through = 0;
        if kept
            > keep_revisions
                .saturating_add(keep_revisions / 8)
                .saturating_add(TRIM_SLACK)
        {
            through = revision.0 - keep_revisions;
        }
        if written.saturating_sub(self.oldest) > keep_bytes {
            // The oldest eighth goes, so that trimming is rare.
            through = through.max(compacted.0 + kept.div_ceil(8));
        }
        if through > compacted.0
            && let Err(failed) = self.forget(Revision(through)).await
        {
            warn!(%failed, "could not trim the history");
        }
    }

    /// Forgets history up to a revision, here and in etcd.
    async fn forget(&mut self, through: Revision) -> Result<(), StoreError> {
        while through > self.head.compacted {
            let head = Head {
                compacted: through,
                ..self.head
            };
            let (log, end) = self.shared.layout.log_between(Revision(0), through);
            let request = TxnRequest {
                compare: self.unchanged(),
                success: vec![
                    Request::Put(PutRequest {
                        key: self.shared.layout.head(),
                        value: head.encode(),
                    })
                    .into(),
                    Request::Delete(DeleteRequest {
                        key: log,
                        range_end: end,
                    })
                    .into(),
                ],
                failure: Vec::new(),
            };
            // Once more does no harm, so that the answer is all that has to be waited for.
            let client = &self.shared.client;
            let answer = client.read("compact", || client.txn(&request)).await?;
            if answer.succeeded {
                (self.head, self.head_at) = (head, revision_of(&answer));
            } else {
                self.start_over().await?;
            }
        }
        self.shared.log.compacted(self.head.compacted);
        let (start, end) = self.shared.layout.log_between(Revision(0), Revision(u64::MAX - 1));
        let asked = RangeRequest {
            key: start,
            range_end: end,
            limit: 1,
            ..RangeRequest::default()
        };
        let client = &self.shared.client;
        let mut found = client.read("compact", || client.range(&asked)).await?;
        let (oldest, at) = match found.kvs.pop() {
            Some(entry) => (Entry::decode(entry.value)?.written, entry.mod_revision),
            None => (self.head.written, self.head_at),
        };
        self.oldest = oldest;
        client.read("compact", || client.compact(at)).await
    }

    /// That nobody else has written, and that the store is still ours.
    fn unchanged(&self) -> Vec<Compare> {
        vec![
            Compare::modified_at(self.shared.layout.head(), self.head_at),
            Compare::modified_at(self.shared.layout.owner(), self.owner_at),
        ]
    }
}

fn revision_of(answer: &TxnResponse) -> i64 {
    answer.header.as_ref().map_or(0, |header| header.revision)
}

/// What a transaction takes at most.
fn most_bytes(txn: &Prepared) -> usize {
    let write = |change: &crate::prepared::Change| match &change.what {
        What::Put(value) => 2 * (change.encoded.len() + value.len() + 64),
        What::Delete => 2 * (change.encoded.len() + 64),
        What::Add(_) => 2 * (change.encoded.len() + 512),
    };
    txn.writes.iter().map(write).sum::<usize>() + 256
}

/// One failure, told to several.
fn again(failed: &StoreError) -> StoreError {
    match failed {
        StoreError::Closed => StoreError::Closed,
        StoreError::Invalid(what) => StoreError::Invalid(what.clone()),
        StoreError::Backend { action, reason } => StoreError::Backend {
            action,
            reason: reason.clone(),
        },
        other => StoreError::Backend {
            action: "commit",
            reason: other.to_string(),
        },
    }
}

/// Ends all watches when the writer ends.
struct ClosesLog<'l>(&'l Shared);

impl Drop for ClosesLog<'_> {
    fn drop(&mut self) {
        self.0.log.close();
    }
}
