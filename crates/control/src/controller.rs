//! A controller: changes and a slow clock bring keys, workers reconcile them.

use std::{fmt, future::Future, hash::Hash, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use madang_store::{Change, Kind, Store};
use tracing::{debug, error, warn};

use crate::{Backoff, Queue, TaskGroup};

/// How a reconciliation ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// What is matches what was asked; wake me on a change.
    Done,
    /// Something has to be looked at again after this long, changed or not.
    After(Duration),
}

/// Builds and starts a controller.
///
/// `T` is the key it works on, mostly a [`madang_store::Key`] or an id.
pub struct Controller<T> {
    name: String,
    queue: Queue<T>,
    workers: usize,
    resync: Duration,
}

impl<T> Controller<T>
where
    T: Clone + Eq + Hash + fmt::Debug + Send + Sync + 'static,
{
    /// A controller with 4 workers that looks at everything again every 5 minutes.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            queue: Queue::new(Backoff::default()),
            workers: 4,
            resync: Duration::from_secs(300),
        }
    }

    /// How many keys are worked on at a time.
    #[must_use]
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers.max(1);
        self
    }

    /// How often every key is looked at without a change.
    #[must_use]
    pub fn resync(mut self, every: Duration) -> Self {
        self.resync = every;
        self
    }

    /// How long to wait after failures.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.queue = Queue::new(backoff);
        self
    }

    /// Wakes for the keys that `keys` gives for a change of a resource of kind `K`. Call it before [`Controller::run`].
    #[must_use]
    pub fn watch<K: Kind>(self, store: &Store, keys: impl Fn(&Change<K>) -> Vec<T> + Send + Sync + 'static) -> Self {
        let queue = self.queue.clone();
        store.cache::<K>().on_change(move |change| {
            for key in keys(change) {
                queue.add(key);
            }
        });
        self
    }

    /// The queue, for waking it from elsewhere (a driver's event, a timer).
    pub fn queue(&self) -> Queue<T> {
        self.queue.clone()
    }

    /// Starts the workers and the clock in `group`. `all` gives every key there is: at the start, and at every resync.
    ///
    /// An error is logged and the key comes again after the backoff; so does one whose reconciliation panics. When the
    /// group stops, what is at work is finished and nothing else is begun.
    pub fn run<F, R, E>(self, group: &TaskGroup, all: impl Fn() -> Vec<T> + Send + Sync + 'static, reconcile: F)
    where
        F: Fn(T) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Next, E>> + Send + 'static,
        E: fmt::Display + Send + 'static,
    {
        let reconcile = Arc::new(reconcile);
        for worker in 0..self.workers {
            let (queue, reconcile, token) = (self.queue.clone(), Arc::clone(&reconcile), group.token());
            let controller = self.name.clone();
            group.spawn(format!("{}-{worker}", self.name), async move {
                loop {
                    let ticket = tokio::select! {
                        biased;
                        () = token.cancelled() => return,
                        ticket = queue.next() => ticket,
                    };
                    let key = ticket.key().clone();
                    // Inside, so that a panic before the first await is caught as well.
                    let work = async { reconcile(key).await };
                    match AssertUnwindSafe(work).catch_unwind().await {
                        Ok(Ok(Next::Done)) => ticket.done(),
                        Ok(Ok(Next::After(delay))) => ticket.done_until(delay),
                        Ok(Err(error)) => {
                            warn!(controller, key = ?ticket.key(), %error, "could not reconcile, trying again");
                            ticket.failed();
                        }
                        Err(_) => {
                            error!(controller, key = ?ticket.key(), "a reconciliation panicked, trying again");
                            ticket.failed();
                        }
                    }
                }
            });
        }
        let (queue, resync, name) = (self.queue, self.resync, self.name.clone());
        group.spawn_until_stopped(format!("{}-clock", self.name), async move {
            loop {
                match std::panic::catch_unwind(AssertUnwindSafe(&all)) {
                    Ok(keys) => {
                        debug!(controller = name, keys = keys.len(), "looking at everything");
                        keys.into_iter().for_each(|key| queue.add_idle(key));
                    }
                    Err(_) => error!(controller = name, "a panic while everything was listed"),
                }
                tokio::time::sleep(resync).await;
            }
        });
    }
}
