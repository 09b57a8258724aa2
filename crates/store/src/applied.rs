//! How far the caches have come, and who waits for them to come further.

use std::{
    cmp::Ordering,
    collections::BinaryHeap,
    sync::atomic::{AtomicU64, Ordering as Memory},
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::{Revision, StoreError};

/// The revision that all caches show. Each waiter is woken once, when its own revision is reached: many wait at a time,
/// each for another one.
#[derive(Default)]
pub(crate) struct AppliedRevision {
    at: AtomicU64,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    is_closed: bool,
    waiters: BinaryHeap<Waiter>,
}

struct Waiter {
    revision: Revision,
    reached: oneshot::Sender<()>,
}

// The heap gives the greatest first: the one with the lowest revision.
impl Ord for Waiter {
    fn cmp(&self, other: &Self) -> Ordering {
        other.revision.cmp(&self.revision)
    }
}
impl PartialOrd for Waiter {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl PartialEq for Waiter {
    fn eq(&self, other: &Self) -> bool {
        self.revision == other.revision
    }
}
impl Eq for Waiter {}

impl AppliedRevision {
    pub(crate) fn get(&self) -> Revision {
        Revision(self.at.load(Memory::Acquire))
    }

    /// Waits for a revision.
    ///
    /// # Errors
    /// `Closed` when it will never be reached.
    pub(crate) async fn reached(&self, revision: Revision) -> Result<(), StoreError> {
        if self.get() >= revision {
            return Ok(());
        }
        let wait = {
            let mut waiting = self.waiting.lock();
            if self.get() >= revision {
                return Ok(());
            }
            if waiting.is_closed {
                return Err(StoreError::Closed);
            }
            let (reached, wait) = oneshot::channel();
            waiting.waiters.push(Waiter { revision, reached });
            wait
        };
        wait.await.map_err(|_| StoreError::Closed)
    }

    /// Notes that the caches show a revision now.
    pub(crate) fn advance(&self, to: Revision) {
        let mut waiting = self.waiting.lock();
        self.at.fetch_max(to.0, Memory::AcqRel);
        while waiting.waiters.peek().is_some_and(|first| first.revision <= to) {
            if let Some(first) = waiting.waiters.pop() {
                _ = first.reached.send(()); // who does not wait any more needs no word
            }
        }
    }

    /// Nothing will be reached any more.
    pub(crate) fn close(&self) {
        let mut waiting = self.waiting.lock();
        waiting.is_closed = true;
        waiting.waiters.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_waiter_is_woken_by_its_own_revision() {
        let applied = AppliedRevision::default();
        let mut second = Box::pin(applied.reached(Revision(2)));
        let mut first = Box::pin(applied.reached(Revision(1)));
        assert!(futures_now(&mut second).is_none() && futures_now(&mut first).is_none());
        applied.advance(Revision(1));
        assert!(futures_now(&mut first).is_some_and(|r| r.is_ok()));
        assert!(futures_now(&mut second).is_none());
        applied.close();
        assert!(futures_now(&mut second).is_some_and(|r| r.is_err()));
        assert!(applied.reached(Revision(1)).await.is_ok());
        assert!(applied.reached(Revision(2)).await.is_err());
    }

    fn futures_now<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match std::pin::Pin::new(future).poll(&mut context) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        }
    }
}
