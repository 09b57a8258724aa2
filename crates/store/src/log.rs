//! The newest batches, in memory, for watchers that keep up.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{Batch, Revision};

/// Batches kept in memory at most; a watcher that is further behind reads the table.
const MAX_BATCHES: usize = 4096;
/// Bytes of values kept in memory at most, one batch aside.
const MAX_BYTES: usize = 8 << 20;

/// The end of the change log.
pub(crate) struct Log {
    recent: Mutex<Recent>,
    head: watch::Sender<Option<Revision>>,
}

struct Recent {
    batches: VecDeque<Arc<Batch>>,
    bytes: usize,
    head: Revision,
    compacted: Revision,
}

/// What a watcher finds after its revision.
pub(crate) enum Tail {
    /// These follow, without a gap; none when the watcher is at the head.
    Batches(Vec<Arc<Batch>>),
    /// The next batch is not in memory any more.
    TooOld,
}

impl Log {
    pub(crate) fn new(head: Revision, compacted: Revision) -> Self {
        Self {
            recent: Mutex::new(Recent {
                batches: VecDeque::new(),
                bytes: 0,
                head,
                compacted,
            }),
            head: watch::Sender::new(Some(head)),
        }
    }

    /// The newest durable revision.
    pub(crate) fn head(&self) -> Revision {
        self.recent.lock().head
    }

    /// The newest revision that is forgotten. A watcher that is on its way may still get older ones from memory.
    pub(crate) fn oldest(&self) -> Revision {
        self.recent.lock().compacted
    }

    /// Notes that everything up to a revision is forgotten.
    pub(crate) fn compacted(&self, through: Revision) {
        let mut recent = self.recent.lock();
        recent.compacted = recent.compacted.max(through);
    }

    /// Changes with every new head; none once the store is closed.
    pub(crate) fn follow(&self) -> watch::Receiver<Option<Revision>> {
        self.head.subscribe()
    }

    /// Shows durable batches to the watchers; those that they have been shown already are left out.
    pub(crate) fn publish(&self, batches: Vec<Arc<Batch>>) {
        let Some(newest) = batches.last().map(|batch| batch.revision) else {
            return;
        };
        let mut recent = self.recent.lock();
        if newest <= recent.head {
            return;
        }
        let shown = recent.head;
        for batch in batches.into_iter().filter(|batch| batch.revision > shown) {
            recent.bytes += size(&batch);
            recent.batches.push_back(batch);
        }
        while recent.batches.len() > MAX_BATCHES || recent.bytes > MAX_BYTES && recent.batches.len() > 1 {
            if let Some(oldest) = recent.batches.pop_front() {
                recent.bytes -= size(&oldest);
            }
        }
        recent.head = newest;
        drop(recent);
        self.tell(newest);
    }

    /// Begins anew at a revision: what is between was missed, and whoever watches finds out.
    pub(crate) fn skip_to(&self, head: Revision) {
        let mut recent = self.recent.lock();
        if head <= recent.head {
            return;
        }
        recent.batches.clear();
        recent.bytes = 0;
        recent.head = head;
        drop(recent);
        self.tell(head);
    }

    fn tell(&self, newest: Revision) {
        self.head.send_if_modified(|head| {
            let open = head.is_some();
            if open {
                *head = Some(newest);
            }
            open
        });
    }

    /// Whether there will be nothing more.
    pub(crate) fn is_closed(&self) -> bool {
        self.head.borrow().is_none()
    }

    /// Up to `limit` batches after a revision.
    pub(crate) fn after(&self, revision: Revision, limit: usize) -> Tail {
        let recent = self.recent.lock();
        if revision >= recent.head {
            return Tail::Batches(Vec::new());
        }
        match recent.batches.front() {
            Some(oldest) if oldest.revision <= revision.next() => {
                let skip = (revision.0 + 1 - oldest.revision.0) as usize;
                Tail::Batches(recent.batches.iter().skip(skip).take(limit).cloned().collect())
            }
            _ => Tail::TooOld,
        }
    }

    /// Ends all watches.
    pub(crate) fn close(&self) {
        self.head.send_replace(None);
    }
}

fn size(batch: &Batch) -> usize {
    batch
        .events
        .iter()
        .map(|event| event.value.as_ref().map_or(0, bytes::Bytes::len) + 128)
        .sum()
}
