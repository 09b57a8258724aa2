//! From the gates to the book: a bounded queue, and one task that writes what came together.
//!
//! A gate that finds the queue full drops the event and counts it; how many were lost is said in the log and in the
//! metrics. That takes a disk that has not answered for seconds, and then the store does not answer either.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use madang_control::TaskGroup;
use madang_http::{Event, Metrics};
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use tokio::{
    sync::mpsc::{Receiver, Sender, channel, error::TrySendError},
    time::{Instant, interval, sleep, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::{Book, BookError, Keep};

/// Events that wait to be written; each is some hundred bytes.
const QUEUE: usize = 16_384;
/// The most that is written in one transaction.
const BATCH: usize = 2_048;
/// What comes within this time is written together: one sync of the disk instead of many.
const GATHER: Duration = Duration::from_millis(250);
/// How often the book's bounds are looked at.
const UPKEEP: Duration = Duration::from_secs(60);
/// How long a stopping process listens for the events of its last requests.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// A pause between two pieces of forgetting, so that events are written in between.
const BREATH: Duration = Duration::from_millis(20);
/// After a write that failed (a full disk), before the next.
const RETRY: Duration = Duration::from_secs(1);
/// How many refused requests of strangers are written per second; without a bound, whoever can reach the port could push
/// everything else out of the book.
const STRANGERS_PER_SECOND: u32 = 100;

/// Takes events from the gates.
pub struct Recorder {
    queue: Sender<Event>,
    lost: Counter,
    strangers: Mutex<Window>,
    path: PathBuf,
}

/// How many strangers were refused in the second that began then.
struct Window {
    begun: Instant,
    taken: u32,
}

impl Recorder {
    /// Opens the book at `path` and starts to write into it, as a task of the group.
    ///
    /// # Errors
    /// When the book cannot be opened.
    pub async fn start(path: &Path, keep: Keep, metrics: &Metrics, group: &TaskGroup) -> Result<Arc<Self>, BookError> {
        let owned = path.to_owned();
        let book = tokio::task::spawn_blocking(move || Book::open(&owned)).await;
        // A task of opening that was cancelled: the process ends.
        let book = book.map_err(|_| BookError::Database {
            path: path.to_owned(),
            source: rusqlite::Error::InvalidQuery,
        })??;
        let (queue, events) = channel(QUEUE);
        let lost = counted(metrics);
        let writer = Writer {
            book: Arc::new(Mutex::new(book)),
            keep,
            events,
            lost: lost.clone(),
            said: 0,
        };
        group.spawn("audit trail", writer.run(group.token()));
        Ok(Arc::new(Self {
            queue,
            lost,
            strangers: Mutex::new(Window {
                begun: Instant::now(),
                taken: 0,
            }),
            path: path.to_owned(),
        }))
    }

    /// Where the book is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn is_one_stranger_too_many(&self) -> bool {
        let now = Instant::now();
        let mut window = self.strangers.lock();
        if now.duration_since(window.begun) >= Duration::from_secs(1) {
            *window = Window { begun: now, taken: 0 };
        }
        window.taken += 1;
        window.taken > STRANGERS_PER_SECOND
    }
}

impl madang_http::Recorder for Recorder {
    fn record(&self, event: Event) {
        let too_many = event.actor.is_none() && self.is_one_stranger_too_many();
        if too_many || matches!(self.queue.try_send(event), Err(TrySendError::Full(_))) {
            self.lost.inc();
        }
    }
}

fn counted(metrics: &Metrics) -> Counter {
    let lost = Counter::default();
    metrics.register(|registry| {
        registry.register(
            "audit_events_lost",
            "Events that the audit trail had no room for",
            lost.clone(),
        );
    });
    lost
}

struct Writer {
    /// For the blocking pool; nobody else takes it.
    book: Arc<Mutex<Book>>,
    keep: Keep,
    events: Receiver<Event>,
    lost: Counter,
    /// How many of the lost were spoken of.
    said: u64,
}

impl Writer {
    async fn run(mut self, stop: CancellationToken) {
        let mut upkeep = interval(UPKEEP);
        loop {
            let mut batch = Vec::new();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                taken = self.events.recv_many(&mut batch, 1) => {
                    if taken == 0 {
                        return;
                    }
                    tokio::select! {
                        () = sleep(GATHER) => {}
                        () = stop.cancelled() => {}
                    }
                    self.write_with(batch).await;
                }
                _ = upkeep.tick() => self.trim().await,
            }
        }
        // Requests that are being answered still speak; the gates are gone once they are.
        let until = Instant::now() + LAST_WORDS;
        loop {
            let mut batch = Vec::new();
            match timeout_at(until, self.events.recv_many(&mut batch, BATCH)).await {
                Ok(0) => return,
                Ok(_) => self.write_with(batch).await,
                Err(_) => break,
            }
        }
        self.events.close();
        self.write_with(Vec::new()).await;
    }

    /// Writes what was taken and all that waits behind it.
    async fn write_with(&mut self, mut batch: Vec<Event>) {
        loop {
            while batch.len() < BATCH
                && let Ok(event) = self.events.try_recv()
            {
                batch.push(event);
            }
            if batch.is_empty() {
                return;
            }
            self.write(std::mem::take(&mut batch)).await;
        }
    }

    async fn write(&mut self, batch: Vec<Event>) {
        let count = batch.len() as u64;
        if !self.with_book(move |book| book.add(&batch).map(|()| false)).await.1 {
            self.lost.inc_by(count);
            sleep(RETRY).await;
        }
        let lost = self.lost.get();
        if lost > self.said {
            warn!(events = lost - self.said, "the audit trail lost events");
            self.said = lost;
        }
    }

    async fn trim(&mut self) {
        let keep = self.keep;
        while self.with_book(move |book| book.trim(keep, Timestamp::now())).await.0 {
            sleep(BREATH).await;
            self.write_with(Vec::new()).await;
        }
    }

    /// What the work answers, and whether it succeeded.
    async fn with_book(
        &self,
        work: impl FnOnce(&mut Book) -> Result<bool, BookError> + Send + 'static,
    ) -> (bool, bool) {
        let book = Arc::clone(&self.book);
        match tokio::task::spawn_blocking(move || work(&mut book.lock())).await {
            Ok(Ok(answer)) => (answer, true),
            Ok(Err(error)) => {
                error!(
                    error = &error as &dyn std::error::Error,
                    "the audit trail cannot be written"
                );
                (false, false)
            }
            Err(_) => (false, false),
        }
    }
}
