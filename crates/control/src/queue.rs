//! A queue of keys: each is in it once, and never at work twice at a time.
//!
//! A key waits in one of two lines, or for its time. The first line is for changes; the second, for keys that are only
//! looked at again, moves when the first is empty and a little when it is not, so that a resync of ten thousand keys
//! holds up nobody who waits for an answer.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    hash::Hash,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use rand::RngExt as _;
use tokio::{sync::Notify, time::Instant};

/// While changes wait, one key in so many is taken from the second line: it is slow then, but never stands still.
const SECOND_LINE_SHARE: u32 = 8;

/// How long to wait before trying again: doubles from `first` to `most`, less up to a fifth by chance so that many do
/// not come back at once.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// After the first failure.
    pub first: Duration,
    /// After many.
    pub most: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(100),
            most: Duration::from_secs(60),
        }
    }
}

impl Backoff {
    /// The delay after `failures` failures in a row (1 or more).
    pub fn delay(&self, failures: u32) -> Duration {
        let doubled = self.first.saturating_mul(1 << failures.saturating_sub(1).min(20));
        doubled.min(self.most).mul_f64(rand::rng().random_range(0.8..=1.0))
    }
}

/// Keys waiting for work. Clones are the same queue; it holds at most one entry a key.
pub struct Queue<T> {
    inner: Arc<Inner<T>>,
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

struct Inner<T> {
    state: Mutex<State<T>>,
    wake: Notify,
    backoff: Backoff,
}

struct State<T> {
    entries: HashMap<T, Entry>,
    /// The keys whose entry says `First`.
    first: VecDeque<T>,
    /// The keys whose entry says `Second`, and some that have moved to the first line since.
    second: VecDeque<T>,
    /// The keys whose entry has that place in time.
    delayed: BTreeMap<Place, T>,
    /// How many entries say `is_dirty`.
    dirty: usize,
    /// How many entries say `Second`.
    seconds: usize,
    /// Makes places in time unique, in the order in which they were given.
    order: u64,
    /// Keys taken from the first line since one was taken from the second.
    since_second: u32,
}

/// When a delayed key comes back.
type Place = (Instant, u64);

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Line {
    #[default]
    None,
    First,
    Second,
}

#[derive(Default)]
struct Entry {
    line: Line,
    /// Held by a [`Ticket`].
    is_working: bool,
    /// Came again while at work: goes back to the first line afterwards.
    is_dirty: bool,
    failures: u32,
    /// When it comes back by itself, at the earliest.
    due: Option<Place>,
}

impl Entry {
    fn is_idle(&self) -> bool {
        self.line == Line::None && !self.is_working && self.failures == 0 && self.due.is_none()
    }
}

impl<T: Clone + Eq + Hash> Queue<T> {
    /// An empty queue.
    pub fn new(backoff: Backoff) -> Self {
        let state = State {
            entries: HashMap::new(),
            first: VecDeque::new(),
            second: VecDeque::new(),
            delayed: BTreeMap::new(),
            dirty: 0,
            seconds: 0,
            order: 0,
            since_second: 0,
        };
        Self {
            inner: Arc::new(Inner {
                state: Mutex::new(state),
                wake: Notify::new(),
                backoff,
            }),
        }
    }

    /// Puts a key in, now. Nothing changes when it waits already; when it is at work, it comes again afterwards.
    pub fn add(&self, key: T) {
        if self.inner.state.lock().make_ready(key) {
            self.inner.wake.notify_one();
        }
    }

    /// Puts a key in that has not changed and is to be looked at again when there is nothing better to do. Nothing
    /// changes when it waits already, is at work, or waits out its backoff.
    pub fn add_idle(&self, key: T) {
        if self.inner.state.lock().make_second(key) {
            self.inner.wake.notify_one();
        }
    }

    /// Puts a key in after a delay; an earlier time that it has already stays.
    pub fn add_after(&self, key: T, delay: Duration) {
        self.inner.state.lock().schedule(key, Instant::now() + delay);
        self.inner.wake.notify_one();
    }

    /// How many keys wait, ready or delayed.
    pub fn len(&self) -> usize {
        let state = self.inner.state.lock();
        state.first.len() + state.seconds + state.delayed.len() + state.dirty
    }

    /// Whether no key waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The next key, when one is ready. Dropping the future loses nothing.
    pub async fn next(&self) -> Ticket<T> {
        loop {
            let wake = self.inner.wake.notified();
            let due = match self.inner.state.lock().take(Instant::now()) {
                Taken::Key { key, more } => {
                    if more {
                        self.inner.wake.notify_one();
                    }
                    return Ticket {
                        queue: self.clone(),
                        key,
                        finished: false,
                    };
                }
                Taken::Nothing { due } => due,
            };
            match due {
                Some(due) => tokio::select! {
                    () = wake => {}
                    () = tokio::time::sleep_until(due) => {}
                },
                None => wake.await,
            }
        }
    }

    /// Up to `limit` more keys that are ready now, for work that is done in bulk.
    pub fn take_ready(&self, limit: usize) -> Vec<Ticket<T>> {
        let mut state = self.inner.state.lock();
        let mut tickets = Vec::new();
        while tickets.len() < limit {
            let Taken::Key { key, .. } = state.take(Instant::now()) else {
                break;
            };
            tickets.push(Ticket {
                queue: self.clone(),
                key,
                finished: false,
            });
        }
        tickets
    }
}

enum Taken<T> {
    Key { key: T, more: bool },
    Nothing { due: Option<Instant> },
}

impl<T: Clone + Eq + Hash> State<T> {
    /// Whether somebody has to be woken for it.
    fn make_ready(&mut self, key: T) -> bool {
        let entry = self.entries.entry(key.clone()).or_default();
        if let Some(place) = entry.due.take() {
            self.delayed.remove(&place);
        }
        if entry.is_working {
            self.dirty += usize::from(!entry.is_dirty);
            entry.is_dirty = true;
            return false;
        }
        match entry.line {
            Line::First => return false,
            Line::Second => self.seconds -= 1, // its place in that line stays behind and is passed over
            Line::None => {}
        }
        entry.line = Line::First;
        self.first.push_back(key);
        true
    }

    fn make_second(&mut self, key: T) -> bool {
        let entry = self.entries.entry(key.clone()).or_default();
        if entry.line != Line::None || entry.is_working || entry.failures > 0 {
            return false;
        }
        if let Some(place) = entry.due.take() {
            self.delayed.remove(&place);
        }
        entry.line = Line::Second;
        self.seconds += 1;
        self.second.push_back(key);
        true
    }

    fn schedule(&mut self, key: T, due: Instant) {
        let entry = self.entries.entry(key.clone()).or_default();
        if entry.line != Line::None || entry.is_dirty || entry.due.is_some_and(|(earlier, _)| earlier <= due) {
            return;
        }
        if let Some(later) = entry.due.take() {
            self.delayed.remove(&later);
        }
        self.order += 1;
        let place = (due, self.order);
        entry.due = Some(place);
        self.delayed.insert(place, key);
    }

    fn take(&mut self, now: Instant) -> Taken<T> {
        while let Some(first) = self.delayed.first_entry()
            && first.key().0 <= now
        {
            let key = first.remove();
            if let Some(entry) = self.entries.get_mut(&key) {
                entry.due = None;
            }
            self.make_ready(key);
        }
        match self.pop() {
            Some(key) => {
                let entry = self.entries.entry(key.clone()).or_default();
                entry.line = Line::None;
                entry.is_working = true;
                Taken::Key {
                    key,
                    more: !self.first.is_empty() || self.seconds > 0,
                }
            }
            None => Taken::Nothing {
                due: self.delayed.first_key_value().map(|((due, _), _)| *due),
            },
        }
    }

    /// The next key of either line.
    fn pop(&mut self) -> Option<T> {
        let second_is_due = self.first.is_empty() || self.since_second >= SECOND_LINE_SHARE;
        if self.seconds > 0 && second_is_due {
            while let Some(key) = self.second.pop_front() {
                if self.entries.get(&key).is_some_and(|entry| entry.line == Line::Second) {
                    self.seconds -= 1;
                    self.since_second = 0;
                    return Some(key);
                }
            }
        }
        if self.seconds == 0 {
            self.second.clear();
        }
        self.since_second = self.since_second.saturating_add(1);
        self.first.pop_front()
    }

    fn finish(&mut self, key: &T, retry: Option<Duration>, failed: bool, backoff: Backoff) -> bool {
        let Some(entry) = self.entries.get_mut(key) else {
            return false;
        };
        entry.is_working = false;
        entry.failures = if failed { entry.failures.saturating_add(1) } else { 0 };
        let delay = retry.or_else(|| failed.then(|| backoff.delay(entry.failures)));
        let was_dirty = std::mem::take(&mut entry.is_dirty);
        self.dirty -= usize::from(was_dirty);
        if was_dirty && !failed {
            return self.make_ready(key.clone());
        }
        if let Some(delay) = delay {
            self.schedule(key.clone(), Instant::now() + delay);
            return true;
        }
        if entry.is_idle() {
            self.entries.remove(key);
        }
        false
    }
}

/// A key at work. Finish it; dropped unfinished (a panic, a cancelled task) it counts as failed and comes again.
pub struct Ticket<T: Clone + Eq + Hash> {
    queue: Queue<T>,
    key: T,
    finished: bool,
}

impl<T: Clone + Eq + Hash> Ticket<T> {
    /// The key.
    pub fn key(&self) -> &T {
        &self.key
    }

    /// Done; it comes again when it was added meanwhile.
    pub fn done(self) {
        self.finish(None, false);
    }

    /// Done; it comes again after `delay` at the latest.
    pub fn done_until(self, delay: Duration) {
        self.finish(Some(delay), false);
    }

    /// Failed; it comes again after the backoff.
    pub fn failed(self) {
        self.finish(None, true);
    }

    fn finish(mut self, retry: Option<Duration>, failed: bool) {
        self.finished = true;
        self.put_back(retry, failed);
    }

    fn put_back(&self, retry: Option<Duration>, failed: bool) {
        let inner = &self.queue.inner;
        if inner.state.lock().finish(&self.key, retry, failed, inner.backoff) {
            inner.wake.notify_one();
        }
    }
}

impl<T: Clone + Eq + Hash> Drop for Ticket<T> {
    fn drop(&mut self) {
        if !self.finished {
            self.put_back(None, true);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

    use super::*;

    fn queue() -> Queue<&'static str> {
        Queue::new(Backoff::default())
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_is_there_once_and_never_at_work_twice() {
        let queue = queue();
        queue.add("a");
        queue.add("a");
        let ticket = queue.next().await;
        queue.add("a");
        assert!(queue.take_ready(9).is_empty());
        ticket.done();
        queue.next().await.done();
        assert!(queue.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_key_comes_back_later_each_time() {
        let queue = queue();
        queue.add("a");
        let mut waits = Vec::new();
        for _ in 0..4 {
            let before = Instant::now();
            let ticket = queue.next().await;
            waits.push(before.elapsed());
            ticket.failed();
        }
        assert!(
            waits[1] >= Duration::from_millis(80) && waits[2] > waits[1] && waits[3] > waits[2],
            "{waits:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_failing_key_that_is_added_again_still_waits_out_its_backoff() {
        let queue = queue();
        queue.add("a");
        let ticket = queue.next().await;
        queue.add("a");
        ticket.failed();
        let before = Instant::now();
        queue.next().await.done();
        assert!(before.elapsed() >= Duration::from_millis(80));
    }

    #[tokio::test(start_paused = true)]
    async fn the_earlier_of_two_times_counts() {
        let queue = queue();
        queue.add_after("a", Duration::from_secs(10));
        queue.add_after("a", Duration::from_secs(1));
        let before = Instant::now();
        queue.next().await.done();
        assert_eq!(before.elapsed(), Duration::from_secs(1));
        assert!(
            tokio::time::timeout(Duration::from_secs(60), queue.next())
                .await
                .is_err()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn changes_go_before_those_that_are_only_looked_at() {
        let queue = Queue::new(Backoff::default());
        for key in 0..100 {
            queue.add_idle(key);
        }
        queue.add(1000);
        queue.add(50);
        queue.add_idle(1000);
        assert_eq!(queue.len(), 101);
        let mut order = Vec::new();
        while !queue.is_empty() {
            let ticket = queue.next().await;
            order.push(*ticket.key());
            ticket.done();
        }
        assert_eq!(order[..4], [1000, 50, 0, 1]);
        assert_eq!(order.len(), 101, "each once, the one that changed meanwhile as well");
        // Under a load of changes the second line still moves.
        queue.add_idle(7);
        let mut taken = Vec::new();
        for change in 100..120 {
            queue.add(change);
            queue.add(change + 100);
            let ticket = queue.next().await;
            taken.push(*ticket.key());
            ticket.done();
        }
        assert!(taken.contains(&7), "{taken:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn delays_that_are_given_again_and_again_leave_nothing_behind() {
        let queue = queue();
        for _ in 0..1000 {
            queue.add("a");
            queue.next().await.done_until(Duration::from_secs(3600));
        }
        assert_eq!(queue.len(), 1);
        let state = queue.inner.state.lock();
        assert_eq!((state.delayed.len(), state.entries.len(), state.dirty), (1, 1, 0));
    }

    #[tokio::test]
    async fn nothing_is_lost_or_doubled_under_load() {
        const KEYS: u64 = 200;
        let queue: Queue<u64> = Queue::new(Backoff {
            first: Duration::from_micros(1),
            most: Duration::from_micros(50),
        });
        let wanted: Arc<Vec<AtomicU64>> = Arc::new((0..KEYS).map(|_| AtomicU64::new(0)).collect());
        let seen: Arc<Vec<AtomicU64>> = Arc::new((0..KEYS).map(|_| AtomicU64::new(0)).collect());
        let working: Arc<Vec<AtomicBool>> = Arc::new((0..KEYS).map(|_| AtomicBool::new(false)).collect());
        let mut tasks = tokio::task::JoinSet::new();
        for worker in 0..8u64 {
            let (queue, wanted, seen, working) = (queue.clone(), wanted.clone(), seen.clone(), working.clone());
            tasks.spawn(async move {
                for round in 0u64.. {
                    let Ok(ticket) = tokio::time::timeout(Duration::from_secs(1), queue.next()).await else {
                        return;
                    };
                    let key = *ticket.key() as usize;
                    assert!(!working[key].swap(true, SeqCst), "a key is at work twice");
                    // What is asked before the work begins is seen by it.
                    let newest = wanted[key].load(SeqCst);
                    tokio::task::yield_now().await;
                    seen[key].store(newest, SeqCst);
                    working[key].store(false, SeqCst);
                    match (worker + round) % 5 {
                        0 => ticket.failed(),
                        1 => drop(ticket),
                        _ => ticket.done(),
                    }
                }
            });
        }
        for change in 1..=20_000u64 {
            let key = change * 7919 % KEYS;
            wanted[key as usize].store(change, SeqCst);
            match change % 7 {
                0 => queue.add_after(key, Duration::from_micros(change % 100)),
                _ => queue.add(key),
            }
            queue.add_idle((key + 1) % KEYS);
            if change % 16 == 0 {
                tokio::task::yield_now().await;
            }
        }
        tasks.join_all().await;
        for key in 0..KEYS as usize {
            assert_eq!(
                seen[key].load(SeqCst),
                wanted[key].load(SeqCst),
                "the last change of {key} was seen"
            );
        }
        assert!(queue.is_empty());
        assert!(
            queue.inner.state.lock().entries.is_empty(),
            "a queue that is done holds nothing"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_ticket_is_a_failure() {
        let queue = queue();
        queue.add("a");
        drop(queue.next().await);
        queue.next().await.done();
        assert!(queue.is_empty());
    }
}
