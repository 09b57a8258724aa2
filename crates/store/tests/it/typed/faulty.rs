//! An engine that forgets, over one that works: what the store does when the changes are lost, or cannot be had.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use madang_store::{Backend, Batch, Key, Page, Prefix, Record, Revision, Scan, StoreError, Txn, Watch};

/// Passes everything on, except that watches lose their way when told to, and lists fail a few times after that.
pub struct Forgetful {
    inner: Arc<dyn Backend>,
    pub loses: Arc<AtomicBool>,
    pub failing_lists: AtomicUsize,
}

impl Forgetful {
    pub fn new(inner: Arc<dyn Backend>) -> Self {
        Self {
            inner,
            loses: Arc::default(),
            failing_lists: AtomicUsize::new(0),
        }
    }
}

struct Lossy {
    inner: Box<dyn Watch>,
    loses: Arc<AtomicBool>,
}

#[async_trait]
impl Watch for Lossy {
    async fn next(&mut self) -> Result<Arc<Batch>, StoreError> {
        let batch = self.inner.next().await?;
        if self.loses.swap(false, Ordering::SeqCst) {
            return Err(StoreError::Compacted {
                compacted: batch.revision,
            });
        }
        Ok(batch)
    }
}

#[async_trait]
impl Backend for Forgetful {
    async fn get(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        self.inner.get(key).await
    }

    async fn range(&self, prefix: &Prefix, after: Option<&Key>, limit: usize) -> Result<Page, StoreError> {
        let fails = |left: usize| left.checked_sub(1);
        if self
            .failing_lists
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, fails)
            .is_ok()
        {
            return Err(StoreError::Backend {
                action: "list",
                reason: "not now".to_owned(),
            });
        }
        // Short pages, so that a list is made of several moments.
        self.inner.range(prefix, after, limit.min(7)).await
    }

    async fn scan(&self, from: u64, limit: usize) -> Result<Scan, StoreError> {
        self.inner.scan(from, limit.min(7)).await
    }

    async fn txn(&self, txn: Txn) -> Result<Revision, StoreError> {
        self.inner.txn(txn).await
    }

    async fn watch(&self, prefix: Prefix, after: Revision) -> Result<Box<dyn Watch>, StoreError> {
        let inner = self.inner.watch(prefix, after).await?;
        Ok(Box::new(Lossy {
            inner,
            loses: Arc::clone(&self.loses),
        }))
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.inner.revision().await
    }

    async fn compact(&self, through: Revision) -> Result<(), StoreError> {
        self.inner.compact(through).await
    }

    async fn backup(&self, to: &Path) -> Result<(), StoreError> {
        self.inner.backup(to).await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}
