//! The engine for several machines: etcd, 3.3 or newer.
//!
//! ```text
//! txn ──queue──► writer: one transaction of etcd's for up to 256 of ours ──► publish to watchers ──► answer
//! ```
//! It counts revisions as SQLite does, one for each transaction; [`layout`] says how they lie in etcd. Reads are
//! linearizable: they see everything that was acknowledged anywhere. Watchers read recent batches from memory and older
//! ones from etcd's past, which is kept within [`EtcdOptions`]. Several processes may write: each commit expects the head
//! as its writer knows it. Who opens it in the name of an owner keeps all others out, also those that had it before.

mod client;
mod copy;
mod group;
mod layout;
mod options;
mod read;
mod wire;
mod writer;

use std::{path::Path, sync::Arc};

use ahash::AHashMap;
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

pub use self::options::{EtcdOptions, EtcdTls};
use self::{
    client::Client,
    layout::{Entry, Head, Layout},
    read::{Shared, follow, head_of},
    wire::{Compare, PutRequest, RangeRequest, Request, TxnRequest, key},
    writer::{Job, Writer},
};
use crate::{
    Backend, Key, Page, Prefix, Record, Revision, Scan, StoreError, Txn, Watch, log::Log, prepared::Prepared,
    watcher::HistoryWatch,
};

/// Transactions that may wait for the writer before callers wait themselves.
const QUEUE: usize = 1024;
/// Scans that may be under way; the place of one that is left is forgotten when there are more.
const SCANS: u64 = 1024;

/// The engine. Clones share it.
#[derive(Clone)]
pub struct Etcd {
    jobs: mpsc::Sender<Job>,
    shared: Arc<Shared>,
    /// Where scans go on, by the number that stands for it.
    scans: Arc<Mutex<Scans>>,
    tasks: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

#[derive(Default)]
struct Scans {
    last: u64,
    places: AHashMap<u64, Key>,
}

impl Etcd {
    /// Opens the store below the options' prefix, making it where there is nothing.
    ///
    /// # Errors
    /// `Backend` when no member answers, etcd refuses, takes less than the options say, what is there is of another
    /// version, half a copy, or belongs to another owner.
    pub async fn open(options: EtcdOptions) -> Result<Self, StoreError> {
        let client = Client::new(&options)?;
        let layout = Layout::new(&options.prefix);
        check_limits(&client, &layout, &options).await?;
        find_or_make(&client, &layout).await?;
        let owner_at = own(&client, &layout, &options).await?;
        // Once more: until then, what an owner before had sent may still have come.
        let head = find_or_make(&client, &layout).await?;
        let shared = Arc::new(Shared {
            client,
            layout,
            log: Log::new(head.0.revision, head.0.compacted),
        });
        let oldest = oldest(&shared, head.0).await?;
        let (jobs, queue) = mpsc::channel(QUEUE);
        let writer = Writer::new(Arc::clone(&shared), queue, head, owner_at, oldest, options);
        // The store is below the task groups of `control`: it owns these two itself and ends them in `close`.
        #[expect(clippy::disallowed_methods, reason = "owned by `tasks`, joined in `close`")]
        let tasks = vec![tokio::spawn(writer.run()), tokio::spawn(follow(Arc::clone(&shared)))];
        Ok(Self {
            jobs,
            shared,
            scans: Arc::default(),
            tasks: Arc::new(Mutex::new(tasks)),
        })
    }

    /// Whether there is a store below the options' prefix; makes none.
    ///
    /// # Errors
    /// `Backend` when no member answers.
    pub async fn exists(options: &EtcdOptions) -> Result<bool, StoreError> {
        let (client, layout) = (Client::new(options)?, Layout::new(&options.prefix));
        let head = RangeRequest {
            count_only: true,
            ..key(layout.head())
        };
        let found = client.read("be opened", || client.range(&head)).await?;
        Ok(found.count > 0)
    }

    async fn submit<T>(
        &self,
        job: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Job,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.jobs.send(job(reply)).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }
}

#[async_trait]
impl Backend for Etcd {
    async fn get(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        self.shared.get(key).await
    }

    async fn range(&self, prefix: &Prefix, after: Option<&Key>, limit: usize) -> Result<Page, StoreError> {
        let after = after.map(Key::encode).transpose()?;
        self.shared.range(prefix, after.as_deref(), limit).await
    }

    async fn scan(&self, from: u64, limit: usize) -> Result<Scan, StoreError> {
        let after = match from {
            0 => None,
            from => Some(self.scans.lock().places.get(&from).cloned().ok_or_else(|| {
                StoreError::Invalid(format!(
                    "no scan has come to {from}, or it is too long ago: begin again"
                ))
            })?),
        };
        let page = self.range(&Prefix::all(), after.as_ref(), limit).await?;
        let last = page.records.last().filter(|_| page.more);
        let next = last.map(|last| {
            let mut scans = self.scans.lock();
            scans.last += 1;
            let place = scans.last;
            scans.places.insert(place, last.key.clone());
            scans.places.remove(&place.wrapping_sub(SCANS));
            place
        });
        Ok(Scan {
            records: page.records,
            revision: page.revision,
            next,
        })
    }

    async fn txn(&self, txn: Txn) -> Result<Revision, StoreError> {
        let txn = Prepared::new(txn)?;
        self.submit(|reply| Job::Txn { txn, reply }).await
    }

    async fn watch(&self, prefix: Prefix, after: Revision) -> Result<Box<dyn Watch>, StoreError> {
        let watch = HistoryWatch::new(Arc::clone(&self.shared), prefix, after);
        watch.check().await?;
        Ok(Box::new(watch))
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.shared.open()?;
        let head = self.shared.head().await?;
        Ok(head.map_or(Revision(0), |(head, _)| head.revision))
    }

    async fn compact(&self, through: Revision) -> Result<(), StoreError> {
        self.submit(|reply| Job::Compact { through, reply }).await
    }

    async fn backup(&self, to: &Path) -> Result<(), StoreError> {
        self.shared.open()?;
        copy::backup(&self.shared, to).await
    }

    async fn close(&self) {
        // Closed already is as good.
        _ = self.submit(|reply| Job::Close { reply }).await;
        let tasks = std::mem::take(&mut *self.tasks.lock());
        for task in tasks {
            if let Err(failed) = task.await {
                tracing::error!(%failed, "a task of the store ended badly");
            }
        }
    }
}

/// That etcd takes as many operations in one transaction as it is said to.
async fn check_limits(client: &Client, layout: &Layout, options: &EtcdOptions) -> Result<(), StoreError> {
    let most = options.max_txn_ops;
    let range = RangeRequest {
        count_only: true,
        ..key(layout.head())
    };
    let request = TxnRequest {
        success: vec![Request::Range(range).into(); most],
        ..TxnRequest::default()
    };
    client.read("be opened", || client.txn(&request)).await.map(drop)
}

/// The head of the store, made where there is nothing at all.
async fn find_or_make(client: &Client, layout: &Layout) -> Result<(Head, i64), StoreError> {
    let cannot = |reason: String| StoreError::Backend {
        action: "be opened",
        reason,
    };
    let (all, end) = layout.all();
    loop {
        let mut others = RangeRequest {
            key: all.clone(),
            range_end: end.clone(),
            limit: 1,
            ..RangeRequest::default()
        };
        others.count_only = true;
        let request = TxnRequest {
            success: [key(layout.head()), key(layout.importing()), others]
                .map(|range| Request::Range(range).into())
                .into(),
            ..TxnRequest::default()
        };
        let answer = client.read("be opened", || client.txn(&request)).await?;
        let mut ranges = answer.ranges();
        let mut next = || ranges.next().unwrap_or_default();
        let (head, importing, others) = (next(), next(), next());
        let prefix = layout.prefix();
        if !importing.kvs.is_empty() {
            return Err(cannot(format!(
                "a copy into {prefix} has not come to its end: `etcdctl del --prefix {prefix}` and copy again"
            )));
        }
        if let Some(head) = head.kvs.into_iter().next() {
            return head_of(head);
        }
        if others.count > 0 {
            return Err(cannot(format!(
                "etcd has {} keys below {prefix} that are no store of madang's: name another prefix",
                others.count
            )));
        }
        let request = TxnRequest {
            compare: vec![Compare::modified_at(layout.head(), 0)],
            success: vec![put(layout.head(), Head::default().encode())],
            failure: Vec::new(),
        };
        client.read("be opened", || client.txn(&request)).await?;
    }
}

/// Takes the store for the options' owner; etcd's revision of that.
async fn own(client: &Client, layout: &Layout, options: &EtcdOptions) -> Result<i64, StoreError> {
    loop {
        let asked = key(layout.owner());
        let mut found = client.read("be opened", || client.range(&asked)).await?;
        let owner = found.kvs.pop();
        let at = owner.as_ref().map_or(0, |owner| owner.mod_revision);
        let Some(wanted) = &options.owner else {
            return Ok(at);
        };
        if let Some(owner) = owner
            && owner.value != wanted.as_bytes()
            && !options.take_over
        {
            return Err(StoreError::Backend {
                action: "be opened",
                reason: format!(
                    "{} belongs to {}, and two that do not know of each other must not run on it",
                    layout.prefix(),
                    String::from_utf8_lossy(&owner.value)
                ),
            });
        }
        // Written anew each time: a process that had it before does not write any more.
        let request = TxnRequest {
            compare: vec![Compare::modified_at(layout.owner(), at)],
            success: vec![put(layout.owner(), wanted.clone().into())],
            failure: Vec::new(),
        };
        let answer = client.read("be opened", || client.txn(&request)).await?;
        if answer.succeeded {
            return Ok(answer.header.map_or(0, |header| header.revision));
        }
    }
}

/// [`Head::written`] before the oldest entry of the log.
async fn oldest(shared: &Shared, head: Head) -> Result<u64, StoreError> {
    let (start, end) = shared.layout.log_between(Revision(0), Revision(u64::MAX - 1));
    let asked = RangeRequest {
        key: start,
        range_end: end,
        limit: 1,
        ..RangeRequest::default()
    };
    let mut found = shared.client.read("be opened", || shared.client.range(&asked)).await?;
    match found.kvs.pop() {
        Some(entry) => Ok(Entry::decode(entry.value)?.written),
        None => Ok(head.written),
    }
}

fn put(key: Bytes, value: Bytes) -> wire::RequestOp {
    Request::Put(PutRequest { key, value }).into()
}
