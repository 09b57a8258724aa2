//! Reading: records at one revision, and history from where etcd keeps it.

use std::{collections::VecDeque, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use tonic::Code;

use super::{
    client::{Client, backend},
    layout::{Entry, Head, Layout, decode_record},
    wire::{KeyValue, RangeRequest, RangeResponse, Request, RequestOp, TxnRequest, key},
};
use crate::{Batch, Key, Page, Prefix, Record, Revision, StoreError, log::Log, watcher::History};

/// Keys that are asked for in one request: below the 128 operations that etcd takes unless told otherwise.
const AT_ONCE: usize = 100;
/// Records of a list that are asked for in one request.
const LIST_AT_ONCE: usize = 2048;
/// Commits of history that are read ahead.
const COMMITS_AT_ONCE: i64 = 64;
/// Bytes of history that are read ahead at most, more than one commit aside.
const READ_AHEAD_BYTES: usize = 4 << 20;

/// What reading and writing share.
pub(super) struct Shared {
    pub(super) client: Client,
    pub(super) layout: Layout,
    pub(super) log: Log,
}

/// Where a list goes on.
pub(super) struct Place {
    pub(super) start: Bytes,
    pub(super) end: Bytes,
    /// etcd's revision; 0 for the newest, which it then stays at.
    pub(super) at: i64,
}

/// A key that is there, in etcd's words.
pub(super) struct Found {
    pub(super) value: Bytes,
}

impl Shared {
    /// Several ranges at one moment; for reading only.
    async fn look(&self, action: &'static str, ranges: Vec<RangeRequest>) -> Result<Vec<RangeResponse>, StoreError> {
        let wanted = ranges.len();
        let request = TxnRequest {
            success: ranges
                .into_iter()
                .map(|range| RequestOp::from(Request::Range(range)))
                .collect(),
            ..TxnRequest::default()
        };
        let answer = self.client.read(action, || self.client.txn(&request)).await?;
        let found: Vec<RangeResponse> = answer.ranges().collect();
        if found.len() != wanted {
            let reason = format!("etcd answers {} of {wanted} questions", found.len());
            return Err(StoreError::Backend { action, reason });
        }
        Ok(found)
    }

    /// Some keys, each as it was at a revision of etcd's (0: as it is).
    pub(super) async fn find(&self, keys: &[(Bytes, i64)]) -> Result<Vec<Option<Found>>, StoreError> {
        let mut all = Vec::with_capacity(keys.len());
        for some in keys.chunks(AT_ONCE) {
            let ranges = some.iter().map(|(of, revision)| RangeRequest {
                revision: *revision,
                ..key(of.clone())
            });
            let found = self.look("read records", ranges.collect()).await?;
            all.extend(found.into_iter().map(|mut range| range.kvs.pop().map(Found::from)));
        }
        Ok(all)
    }

    /// Where the store stands, and etcd's revision of that; none where there is no store.
    pub(super) async fn head(&self) -> Result<Option<(Head, i64)>, StoreError> {
        let asked = key(self.layout.head());
        let mut found = self
            .client
            .read("read its newest revision", || self.client.range(&asked))
            .await?;
        found.kvs.pop().map(head_of).transpose()
    }

    pub(super) async fn get(&self, of: &Key) -> Result<Option<Record>, StoreError> {
        self.open()?;
        let asked = key(self.layout.record(&of.encode()?));
        let mut found = self.client.read("read a record", || self.client.range(&asked)).await?;
        found
            .kvs
            .pop()
            .map(|kv| decode_record(of.clone(), kv.value))
            .transpose()
    }

    pub(super) async fn range(&self, prefix: &Prefix, after: Option<&str>, limit: usize) -> Result<Page, StoreError> {
        self.open()?;
        let (start, end) = self.layout.records(prefix, after);
        let mut place = Place { start, end, at: 0 };
        let limit = limit.max(1);
        let mut page = self.page(&mut place, limit.min(LIST_AT_ONCE)).await?;
        while page.more && page.records.len() < limit {
            let left = (limit - page.records.len()).min(LIST_AT_ONCE);
            let mut more = self.page(&mut place, left).await?;
            page.records.append(&mut more.records);
            page.more = more.more;
        }
        Ok(page)
    }

    /// Up to `limit` records from a place on; the place moves behind them, and stays at one revision of etcd's.
    pub(super) async fn page(&self, place: &mut Place, limit: usize) -> Result<Page, StoreError> {
        let head = RangeRequest {
            revision: place.at,
            ..key(self.layout.head())
        };
        let mut success = vec![Request::Range(head).into()];
        // etcd takes no range that ends before it begins.
        if place.start < place.end {
            let list = RangeRequest {
                key: place.start.clone(),
                range_end: place.end.clone(),
                limit: limit as i64,
                revision: place.at,
                count_only: false,
            };
            success.push(Request::Range(list).into());
        }
        let request = TxnRequest {
            success,
            ..TxnRequest::default()
        };
        let answer = self.client.read("list records", || self.client.txn(&request)).await?;
        if place.at == 0 {
            place.at = answer.header.as_ref().map_or(0, |header| header.revision);
        }
        let mut ranges = answer.ranges();
        let revision = self.revision_in(ranges.next().unwrap_or_default())?;
        let found = ranges.next().unwrap_or_default();
        if let Some(last) = found.kvs.last() {
            place.start = [&last.key[..], &[0]].concat().into();
        }
        let records = found.kvs.into_iter().map(|kv| self.record(kv));
        Ok(Page {
            records: records.collect::<Result<_, _>>()?,
            revision,
            more: found.more,
        })
    }

    fn revision_in(&self, mut head: RangeResponse) -> Result<Revision, StoreError> {
        let head = head.kvs.pop().ok_or_else(|| StoreError::Backend {
            action: "read its newest revision",
            reason: format!("there is no store at {} any more", self.layout.prefix()),
        })?;
        Ok(head_of(head)?.0.revision)
    }

    fn record(&self, kv: KeyValue) -> Result<Record, StoreError> {
        let encoded = self.layout.encoded(&kv.key).ok_or_else(|| StoreError::Backend {
            action: "read a record",
            reason: format!("etcd has {:?}, which is no key", kv.key),
        })?;
        decode_record(Key::decode(encoded)?, kv.value)
    }

    /// Where the store stands, and some whole commits after a revision.
    async fn commits(&self, after: Revision) -> Result<(Head, VecDeque<Arc<Batch>>), StoreError> {
        let (start, end) = self.layout.log_between(after, Revision(u64::MAX - 1));
        let log = RangeRequest {
            key: start,
            range_end: end,
            limit: COMMITS_AT_ONCE,
            ..RangeRequest::default()
        };
        let mut found = self
            .look("read its changes", vec![key(self.layout.head()), log])
            .await?;
        let (log, head) = (found.pop().unwrap_or_default(), found.pop().unwrap_or_default());
        let head = match head.kvs.into_iter().next() {
            Some(head) => head_of(head)?.0,
            None => Head::default(),
        };
        if after < head.compacted {
            let compacted = head.compacted;
            return Err(StoreError::Compacted { compacted });
        }
        let gone = || StoreError::Compacted {
            compacted: head.revision,
        };
        if after > head.revision {
            // Not of this history: a copy from before that revision was put in place since.
            return Err(gone());
        }
        let mut batches = VecDeque::new();
        let mut size = 0;
        for kv in log.kvs {
            size += kv.value.len();
            let entry = Entry::decode(kv.value)?;
            let entry = self.complete(entry, kv.mod_revision).await?.ok_or_else(gone)?;
            for batch in entry {
                size += batch
                    .events
                    .iter()
                    .map(|event| event.value.as_ref().map_or(0, Bytes::len))
                    .sum::<usize>();
                if batch.revision > after {
                    batches.push_back(Arc::new(batch));
                }
            }
            if size > READ_AHEAD_BYTES {
                break;
            }
        }
        let expected = std::iter::successors(Some(after.next()), |revision| Some(revision.next()));
        let is_whole = batches
            .iter()
            .zip(expected)
            .all(|(batch, expected)| batch.revision == expected);
        if !is_whole || batches.is_empty() && after < head.revision {
            return Err(gone()); // somebody else has removed a part of the log
        }
        Ok((head, batches))
    }

    /// The batches of a commit with all their values; none when those are gone.
    async fn complete(&self, entry: Entry, at: i64) -> Result<Option<Vec<Batch>>, StoreError> {
        let mut batches = Vec::with_capacity(entry.batches.len());
        let (mut keys, mut places) = (Vec::new(), Vec::new());
        for logged in entry.batches {
            for place in logged.elsewhere {
                let key = logged.batch.events[place as usize].key.encode()?;
                keys.push((self.layout.record(&key), at));
                places.push((batches.len(), place as usize));
            }
            batches.push(logged.batch);
        }
        let found = match self.find(&keys).await {
            Err(StoreError::Backend { reason, .. }) if reason.contains("compacted") => return Ok(None),
            found => found?,
        };
        for ((batch, place), found) in places.into_iter().zip(found) {
            let event = &mut batches[batch].events[place];
            let Some(found) = found else {
                return Ok(None);
            };
            event.value = Some(decode_record(event.key.clone(), found.value)?.value);
        }
        Ok(Some(batches))
    }

    /// Shows watchers everything that there is by now, also what others have written.
    pub(super) async fn catch_up(&self) -> Result<(), StoreError> {
        loop {
            let shown = self.log.head();
            let (head, batches) = match self.commits(shown).await {
                Err(StoreError::Compacted { .. }) => {
                    let (head, _) = self.head().await?.unwrap_or_default();
                    self.log.compacted(head.compacted);
                    self.log.skip_to(head.revision);
                    return Ok(());
                }
                found => found?,
            };
            self.log.compacted(head.compacted);
            let newest = batches.back().map_or(shown, |batch| batch.revision);
            self.log.publish(batches.into());
            if newest >= head.revision {
                return Ok(());
            }
        }
    }

    /// # Errors
    /// `Closed`.
    pub(super) fn open(&self) -> Result<(), StoreError> {
        if self.log.is_closed() {
            return Err(StoreError::Closed);
        }
        Ok(())
    }
}

#[async_trait]
impl History for Arc<Shared> {
    fn log(&self) -> &Log {
        &self.log
    }

    async fn load(&self, after: Revision, limit: usize) -> Result<VecDeque<Arc<Batch>>, StoreError> {
        self.open()?;
        let (_, mut batches) = self.commits(after).await?;
        batches.truncate(limit);
        Ok(batches)
    }
}

impl From<KeyValue> for Found {
    fn from(kv: KeyValue) -> Self {
        Self { value: kv.value }
    }
}

pub(super) fn head_of(kv: KeyValue) -> Result<(Head, i64), StoreError> {
    Ok((Head::decode(&kv.value)?, kv.mod_revision))
}

/// Follows what others write until the log is closed.
pub(super) async fn follow(shared: Arc<Shared>) {
    let mut closed = shared.log.follow();
    let following = async {
        loop {
            if let Err(failed) = follow_once(&shared).await {
                tracing::debug!(%failed, "lost sight of the head in etcd, looking again");
            }
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    };
    tokio::select! {
        () = following => {}
        _ = closed.wait_for(Option::is_none) => {}
    }
}

async fn follow_once(shared: &Shared) -> Result<(), StoreError> {
    let lost = |failed: tonic::Status| backend("follow its changes", &failed);
    let mut changes = shared.client.watch(shared.layout.head()).await.map_err(lost)?;
    while let Some(change) = changes.message().await.map_err(lost)? {
        if change.canceled {
            let failed = tonic::Status::new(Code::Unavailable, change.cancel_reason);
            return Err(lost(failed));
        }
        let newest = match change.events.into_iter().next_back().and_then(|event| event.kv) {
            Some(kv) => Head::decode(&kv.value).map(|head| head.revision).unwrap_or_default(),
            // The first message has none; what was written before it is asked for.
            None => shared.head().await?.map_or(Revision(0), |(head, _)| head.revision),
        };
        if newest > shared.log.head() {
            shared.catch_up().await?;
        }
    }
    Ok(())
}
