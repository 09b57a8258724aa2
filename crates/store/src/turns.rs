//! Who may try next, of those who want to change the same record at the same time.
//!
//! Without turns the winner of a race is in the next one at once, and somebody can lose for ever. A turn is a courtesy
//! within this process, not a lock: the commit alone decides.

use std::sync::Arc;

use ahash::AHashMap;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::Key;

/// The records that somebody waits for.
#[derive(Default)]
pub(crate) struct Turns(Mutex<AHashMap<Key, Arc<Semaphore>>>);

/// The turn to change one record, until it is dropped.
pub(crate) struct Turn<'t> {
    turns: &'t Turns,
    key: Key,
    semaphore: Arc<Semaphore>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Turns {
    /// Whether anybody has the turn.
    pub(crate) fn is_wanted(&self, key: &Key) -> bool {
        let wanted = self.0.lock();
        !wanted.is_empty() && wanted.contains_key(key)
    }

    /// Waits for the turn; first come, first served.
    pub(crate) async fn take(&self, key: &Key) -> Turn<'_> {
        let semaphore = Arc::clone(
            self.0
                .lock()
                .entry(key.clone())
                .or_insert_with(|| Arc::new(Semaphore::new(1))),
        );
        // Whoever waits has a turn already, without a permit: dropped meanwhile, it leaves nothing.
        let mut turn = Turn {
            turns: self,
            key: key.clone(),
            semaphore,
            permit: None,
        };
        turn.permit = Arc::clone(&turn.semaphore).acquire_owned().await.ok();
        turn
    }
}

impl Turn<'_> {
    /// Whether it is the turn for this record.
    pub(crate) fn is_for(&self, key: &Key) -> bool {
        self.key == *key
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.permit = None;
        let mut wanted = self.turns.0.lock();
        // One reference is the map's, one is ours: all others are those who wait.
        if Arc::strong_count(&self.semaphore) == 2 {
            wanted.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn turns_go_round_and_leave_nothing() {
        let turns = Turns::default();
        let key = Key::new("things", "p", "", "a");
        assert!(!turns.is_wanted(&key));
        let first = turns.take(&key).await;
        let mut second = Box::pin(turns.take(&key));
        assert!(
            tokio::time::timeout(std::time::Duration::from_millis(5), &mut second)
                .await
                .is_err()
        );
        let third = Box::pin(turns.take(&key));
        drop(third);
        drop(first);
        assert!(turns.is_wanted(&key));
        drop(second.await);
        assert!(!turns.is_wanted(&key));
    }
}
