//! Tasks that have an owner, a name and a way to stop.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::task::AbortHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, error, info_span};

/// A group of tasks that stop together. Clones are the same group; a child group stops with its parent.
#[derive(Clone)]
pub struct TaskGroup {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    token: CancellationToken,
    tracker: TaskTracker,
    running: Mutex<BTreeMap<u64, Running>>,
    next: AtomicU64,
    children: Mutex<Vec<TaskGroup>>,
}

struct Running {
    name: String,
    abort: Option<AbortHandle>,
}

impl TaskGroup {
    /// An empty group; the name appears in logs and when tasks are late.
    pub fn new(name: impl Into<String>) -> Self {
        Self::with_token(name.into(), CancellationToken::new())
    }

    /// A group that stops when this one does.
    pub fn child(&self, name: impl Into<String>) -> Self {
        let child = Self::with_token(
            format!("{}/{}", self.inner.name, name.into()),
            self.inner.token.child_token(),
        );
        let mut children = self.inner.children.lock();
        children.retain(|other| !(other.inner.token.is_cancelled() && other.inner.running.lock().is_empty()));
        children.push(child.clone());
        child
    }

    fn with_token(name: String, token: CancellationToken) -> Self {
        Self {
            inner: Arc::new(Inner {
                name,
                token,
                tracker: TaskTracker::new(),
                running: Mutex::default(),
                next: AtomicU64::new(0),
                children: Mutex::default(),
            }),
        }
    }

    /// Cancelled when the group is asked to stop; every long task watches it.
    pub fn token(&self) -> CancellationToken {
        self.inner.token.clone()
    }

    /// Whether the group was asked to stop.
    pub fn is_stopping(&self) -> bool {
        self.inner.token.is_cancelled()
    }

    /// Starts a task. It has to end by itself once [`TaskGroup::token`] is cancelled. A panic in it is logged and ends
    /// only that task.
    pub fn spawn(&self, name: impl Into<String>, task: impl Future<Output = ()> + Send + 'static) {
        let name = name.into();
        let id = self.inner.next.fetch_add(1, Ordering::Relaxed);
        self.inner.running.lock().insert(
            id,
            Running {
                name: name.clone(),
                abort: None,
            },
        );
        let done = Done {
            group: Arc::clone(&self.inner),
            id,
        };
        let span = info_span!("task", group = self.inner.name, task = name);
        let task = async move {
            let _done = done; // dropped at the end, also by a panic or an abort
            task.await;
        };
        #[expect(clippy::disallowed_methods, reason = "this is the owner that loose tasks lack")]
        let handle = tokio::spawn(self.inner.tracker.track_future(task.instrument(span)));
        if let Some(running) = self.inner.running.lock().get_mut(&id) {
            running.abort = Some(handle.abort_handle());
        }
    }

    /// Starts a task that is dropped, wherever it is, when the group stops. For work that is safe to cut anywhere.
    pub fn spawn_until_stopped(&self, name: impl Into<String>, task: impl Future<Output = ()> + Send + 'static) {
        let token = self.token();
        self.spawn(name, async move {
            tokio::select! {
                () = task => {}
                () = token.cancelled() => {}
            }
        });
    }

    /// The names of the tasks that run now, those of child groups included.
    pub fn running(&self) -> Vec<String> {
        let own = self
            .inner
            .running
            .lock()
            .values()
            .map(|r| format!("{}/{}", self.inner.name, r.name))
            .collect();
        let children = self.inner.children.lock().clone();
        children.iter().fold(own, |mut names: Vec<String>, child| {
            names.extend(child.running());
            names
        })
    }

    /// Asks everything to stop and waits for at most `patience`; then ends by force what is late, and names it.
    pub async fn shutdown(&self, patience: Duration) -> Vec<String> {
        self.inner.token.cancel();
        if tokio::time::timeout(patience, self.ended()).await.is_ok() {
            return Vec::new();
        }
        let late = self.running();
        error!(group = self.inner.name, ?late, "tasks did not stop in time");
        self.abort();
        late
    }

    async fn ended(&self) {
        self.inner.tracker.close();
        self.inner.tracker.wait().await;
        let children = self.inner.children.lock().clone();
        for child in children {
            Box::pin(child.ended()).await;
        }
    }

    fn abort(&self) {
        for running in self.inner.running.lock().values() {
            if let Some(handle) = &running.abort {
                handle.abort();
            }
        }
        for child in self.inner.children.lock().iter() {
            child.abort();
        }
    }
}

/// Strikes a task off the list when it ends, however it ends.
struct Done {
    group: Arc<Inner>,
    id: u64,
}

impl Drop for Done {
    fn drop(&mut self) {
        let ended = self.group.running.lock().remove(&self.id);
        if std::thread::panicking() {
            let name = ended.map(|task| task.name).unwrap_or_default();
            error!(group = self.group.name, task = name, "a task panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn shutdown_names_who_is_late() {
        let group = TaskGroup::new("all");
        let child = group.child("part");
        let token = child.token();
        child.spawn("polite", async move { token.cancelled().await });
        child.spawn("deaf", std::future::pending());
        assert_eq!(group.shutdown(Duration::from_secs(5)).await, ["all/part/deaf"]);
        tokio::task::yield_now().await;
        assert_eq!(group.running(), [""; 0]);
    }

    #[tokio::test]
    async fn a_panic_ends_only_its_task() {
        let group = TaskGroup::new("all");
        group.spawn("bad", async { panic!("on purpose") });
        let (send, receive) = tokio::sync::oneshot::channel();
        group.spawn("good", async move { send.send(()).unwrap() });
        receive.await.unwrap();
        assert_eq!(group.shutdown(Duration::from_secs(1)).await, [""; 0]);
    }
}
