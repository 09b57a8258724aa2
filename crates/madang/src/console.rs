//! What `madang up` and its siblings say to the person in front of them: checks as they pass, and progress for whatever
//! takes longer than a second. Without a terminal, the same in plain lines.

use std::{
    io::{IsTerminal, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

/// Shorter work needs no announcement.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often the sign turns.
const TURN: Duration = Duration::from_millis(120);

/// The line of checks: `✓ store   ✓ network`.
pub struct Checks {
    count: usize,
    is_terminal: bool,
}

impl Checks {
    /// An empty line.
    pub fn new() -> Self {
        Self {
            count: 0,
            is_terminal: std::io::stdout().is_terminal(),
        }
    }

    /// Adds a check that has passed.
    pub fn pass(&mut self, text: &str) {
        self.add("✓", "32", text);
    }

    /// Adds one that has not, and without which it goes on.
    pub fn fail(&mut self, text: &str) {
        self.add("✗", "31", text);
    }

    fn add(&mut self, mark: &str, color: &str, text: &str) {
        let gap = if self.count == 0 { "" } else { "   " };
        if self.is_terminal {
            print(&format!("{gap}\x1b[{color}m{mark}\x1b[0m {text}"));
        } else {
            print(&format!("{gap}{mark} {text}"));
        }
        self.count += 1;
    }

    /// Ends the line.
    pub fn end(&mut self) {
        if self.count > 0 {
            print("\n");
            self.count = 0;
        }
    }

    /// Waits for some work; says what is being waited for once it takes longer than a second.
    pub async fn wait<T>(&mut self, what: &str, work: impl Future<Output = T>) -> T {
        self.follow(what, async |_| work.await).await
    }

    /// As [`Checks::wait`], for work that says where it is.
    pub async fn follow<T>(&mut self, what: &str, work: impl AsyncFnOnce(Progress) -> T) -> T {
        let progress = Progress::new(what);
        let mut work = std::pin::pin!(work(progress.clone()));
        let started = Instant::now();
        if let Ok(done) = tokio::time::timeout(PATIENCE, work.as_mut()).await {
            return done;
        }
        self.end();
        progress.show(what);
        let done = work.await;
        progress.bar.finish_and_clear();
        print(&format!("  {what}: {:.1} s\n", started.elapsed().as_secs_f64()));
        done
    }
}

/// Where some work is. Shown on a terminal as a turning sign, elsewhere as lines, and not at all for the first second.
#[derive(Clone)]
pub struct Progress {
    bar: ProgressBar,
    is_shown: Arc<AtomicBool>,
}

impl Progress {
    fn new(what: &str) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        bar.set_style(
            ProgressStyle::with_template("  {spinner} {msg} {elapsed}").expect("the template is well-formed"),
        );
        bar.set_message(what.to_owned());
        Self {
            bar,
            is_shown: Arc::default(),
        }
    }

    /// Says which step has begun.
    pub fn step(&self, step: &str) {
        self.bar.set_message(step.to_owned());
        if self.is_shown.load(Ordering::Relaxed) && !std::io::stderr().is_terminal() {
            print(&format!("  {step} …\n"));
        }
    }

    fn show(&self, what: &str) {
        self.is_shown.store(true, Ordering::Relaxed);
        if std::io::stderr().is_terminal() {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
            self.bar.enable_steady_tick(TURN);
        } else {
            print(&format!("  {what} …\n"));
        }
    }
}

/// A bar over bytes, for work whose size is known; plain lines every tenth elsewhere.
pub struct Bytes {
    bar: ProgressBar,
}

impl Bytes {
    /// A bar for `total` bytes.
    pub fn new(what: &str, total: u64) -> Self {
        let target = if std::io::stderr().is_terminal() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(Some(total), target);
        let style = ProgressStyle::with_template("  {msg} {wide_bar} {bytes}/{total_bytes} {eta}");
        bar.set_style(style.expect("the template is well-formed"));
        bar.set_message(what.to_owned());
        Self { bar }
    }

    /// So many more are done.
    pub fn add(&self, bytes: u64) {
        self.bar.inc(bytes);
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A closed pipe is no reason to fail: the cloud runs on without a reader.
fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// A line of its own.
pub fn line(text: &str) {
    print(&format!("{text}\n"));
}
