//! A watcher: its place in the history, and what it has read ahead.

use std::{collections::VecDeque, sync::Arc};

use async_trait::async_trait;
use tokio::sync::watch;

use crate::{
    Batch, Prefix, Revision, StoreError, Watch,
    log::{Log, Tail},
};

/// Batches read ahead at most.
const READ_AHEAD: usize = 256;

/// An engine's changes: the newest in memory, older ones where it keeps them.
#[async_trait]
pub(crate) trait History: Send + Sync {
    /// The end of the changes.
    fn log(&self) -> &Log;

    /// Up to `limit` whole batches after a revision, from where they are kept.
    ///
    /// # Errors
    /// `Compacted` when some of them are gone, or that revision has never been; `Closed`; `Backend`.
    async fn load(&self, after: Revision, limit: usize) -> Result<VecDeque<Arc<Batch>>, StoreError>;
}

pub(crate) struct HistoryWatch<H> {
    store: H,
    prefix: Prefix,
    /// Everything up to here is in `ready` or was delivered.
    read: Revision,
    ready: VecDeque<Arc<Batch>>,
    head: watch::Receiver<Option<Revision>>,
}

impl<H: History> HistoryWatch<H> {
    pub(crate) fn new(store: H, prefix: Prefix, after: Revision) -> Self {
        let head = store.log().follow();
        Self {
            store,
            prefix,
            read: after,
            ready: VecDeque::new(),
            head,
        }
    }

    /// Whether everything after its revision is still there, and that revision has been.
    pub(crate) async fn check(&self) -> Result<(), StoreError> {
        let compacted = self.store.log().oldest();
        if self.read < compacted {
            return Err(StoreError::Compacted { compacted });
        }
        // What was just committed is in the table a moment before it is in memory, so only the table knows the future.
        let is_ahead = self.read > self.store.log().head();
        if is_ahead || matches!(self.store.log().after(self.read, 1), Tail::TooOld) {
            self.store.load(self.read, 1).await?;
        }
        Ok(())
    }

    /// The part of a batch that is watched; none when nothing of it is.
    fn select(&self, batch: Arc<Batch>) -> Option<Arc<Batch>> {
        if self.prefix.as_str().is_empty() {
            return Some(batch);
        }
        let watched = |event: &&crate::Event| self.prefix.covers(&event.key);
        let count = batch.events.iter().filter(watched).count();
        if count == batch.events.len() {
            return Some(batch);
        }
        if count == 0 {
            return None;
        }
        let events = batch.events.iter().filter(watched).cloned().collect();
        Some(Arc::new(Batch {
            events,
            cause: batch.cause.clone(),
            ..*batch
        }))
    }

    /// Reads ahead: what follows `read`, waiting for it.
    async fn fill(&mut self) -> Result<(), StoreError> {
        // A watcher that always finds something lets others run all the same.
        tokio::task::consume_budget().await;
        loop {
            let head = *self.head.borrow_and_update();
            let batches = match self.store.log().after(self.read, READ_AHEAD) {
                Tail::Batches(batches) => batches.into(),
                Tail::TooOld => self.store.load(self.read, READ_AHEAD).await?,
            };
            match batches.back() {
                Some(last) => {
                    self.read = last.revision;
                    self.ready = batches;
                    return Ok(());
                }
                None if head.is_none() => return Err(StoreError::Closed),
                None => self.head.changed().await.map_err(|_| StoreError::Closed)?,
            }
        }
    }
}

#[async_trait]
impl<H: History> Watch for HistoryWatch<H> {
    async fn next(&mut self) -> Result<Arc<Batch>, StoreError> {
        loop {
            while let Some(batch) = self.ready.pop_front() {
                if let Some(selected) = self.select(batch) {
                    return Ok(selected);
                }
            }
            self.fill().await?;
        }
    }

    async fn next_many(&mut self, limit: usize) -> Result<Vec<Arc<Batch>>, StoreError> {
        let mut batches = vec![self.next().await?];
        while batches.len() < limit
            && let Some(batch) = self.ready.pop_front()
        {
            batches.extend(self.select(batch));
        }
        Ok(batches)
    }
}
