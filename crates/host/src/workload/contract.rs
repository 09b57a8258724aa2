//! What every driver does the same, as a suite to run on each: simulated, virtual machine, container.
//!
//! Panics with what was not kept, as tests do; only for tests.
#![expect(clippy::unwrap_used, reason = "this is test code, shared by several crates")]

use std::{
    future::Future,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use super::{Disk, Driver, DriverError, Nic, State, Workload};

mod beyond;

/// How the suite gets at a driver and at workloads for it. The suite runs one workload at a time.
#[async_trait]
pub trait Fixture: Send + Sync {
    /// The driver under test.
    fn driver(&self) -> Arc<dyn Driver>;

    /// Forgets the driver and makes a new one over what it left behind, as a restart of madang does.
    async fn reopen(&mut self) -> Arc<dyn Driver>;

    /// A workload with a fresh id, whose directory exists and is empty. It runs until it is asked to end, and ends when it
    /// is asked politely.
    async fn workload(&self) -> Workload;

    /// One that cannot be started because its image is broken, with a word that the reason must hold.
    async fn broken(&self) -> Option<(Workload, &'static str)>;

    /// A text that a workload writes to its console soon after its start; none when it has no console.
    fn greeting(&self) -> Option<&'static str>;

    /// Makes a running workload end by itself, successfully.
    async fn end(&self, id: Uuid);

    /// Makes a running workload die as by an accident of the host.
    async fn kill(&self, id: Uuid);

    /// How long a workload needs to start or end politely, generously.
    fn patience(&self) -> Duration;

    /// A directory for files that a driver makes outside of its workloads; none when it makes none.
    fn scratch(&self) -> Option<PathBuf> {
        None
    }

    /// A disk to attach, whose back end is ready; none where workloads have no further disks.
    async fn disk(&self) -> Option<Disk> {
        None
    }

    /// A wired interface to attach; none where workloads have none.
    async fn nic(&self) -> Option<Nic> {
        None
    }
}

/// The whole contract, on one fixture.
pub async fn run(fixture: &mut dyn Fixture) {
    absent(fixture).await;
    start_pause_stop(fixture).await;
    survives_restarts(fixture).await;
    reboots(fixture).await;
    ends_by_itself(fixture).await;
    dies(fixture).await;
    breaks(fixture).await;
    made_ready(fixture).await;
    beyond::run(fixture).await;
}

/// Nothing is known of what never was, and ending it is no error.
async fn absent(fixture: &dyn Fixture) {
    let driver = fixture.driver();
    let id = Uuid::new_v4();
    assert_eq!(driver.state(id).await.unwrap(), State::Absent);
    driver.stop(id, None).await.unwrap();
    driver.remove(id).await.unwrap();
    assert!(driver.list().await.unwrap().iter().all(|(other, _)| *other != id));
}

async fn start_pause_stop(fixture: &dyn Fixture) {
    let driver = fixture.driver();
    let workload = fixture.workload().await;
    let id = workload.id;
    driver.start(&workload).await.unwrap();
    let running = driver.state(id).await.unwrap();
    let State::Running { pid } = running else {
        panic!("{running:?} after a start")
    };
    assert!(pid > 0);
    driver.start(&workload).await.unwrap();
    assert_eq!(
        driver.state(id).await.unwrap(),
        running,
        "starting what runs changes nothing"
    );
    assert!(driver.list().await.unwrap().contains(&(id, running.clone())));
    greeted(fixture, &*driver, id).await;

    match driver.pause(id).await {
        Ok(()) => {
            assert_eq!(driver.state(id).await.unwrap(), State::Paused);
            driver.pause(id).await.unwrap();
            driver.resume(id).await.unwrap();
            assert_eq!(driver.state(id).await.unwrap(), running);
            driver.resume(id).await.unwrap();
        }
        Err(DriverError::Unsupported { .. }) => {}
        Err(error) => panic!("could not pause: {error}"),
    }

    driver.stop(id, Some(fixture.patience())).await.unwrap();
    assert!(matches!(driver.state(id).await.unwrap(), State::Stopped { .. }));
    driver.stop(id, None).await.unwrap();
    driver.start(&workload).await.unwrap();
    assert!(matches!(driver.state(id).await.unwrap(), State::Running { .. }));
    driver.stop(id, None).await.unwrap();
    assert!(
        matches!(driver.state(id).await.unwrap(), State::Stopped { .. }),
        "stopped by force"
    );
    removed(&*driver, &workload).await;
}

async fn survives_restarts(fixture: &mut dyn Fixture) {
    let workload = fixture.workload().await;
    let id = workload.id;
    let driver = fixture.driver();
    driver.start(&workload).await.unwrap();
    let running = driver.state(id).await.unwrap();
    drop(driver);
    let driver = fixture.reopen().await;
    assert_eq!(driver.state(id).await.unwrap(), running, "found again, undisturbed");
    greeted(fixture, &*driver, id).await;
    driver.stop(id, None).await.unwrap();
    drop(driver);
    let driver = fixture.reopen().await;
    assert!(
        matches!(driver.state(id).await.unwrap(), State::Stopped { .. }),
        "stays stopped"
    );
    driver.start(&workload).await.unwrap();
    removed(&*driver, &workload).await;
    drop(driver);
    let driver = fixture.reopen().await;
    assert_eq!(driver.state(id).await.unwrap(), State::Absent, "stays removed");
}

async fn reboots(fixture: &dyn Fixture) {
    let driver = fixture.driver();
    let workload = fixture.workload().await;
    let id = workload.id;
    driver.start(&workload).await.unwrap();
    greeted(fixture, &*driver, id).await;
    for grace in [Some(fixture.patience()), None] {
        driver.reboot(&workload, grace).await.unwrap();
        assert!(
            matches!(driver.state(id).await.unwrap(), State::Running { .. }),
            "reboot with {grace:?}"
        );
    }
    driver.stop(id, None).await.unwrap();
    driver.reboot(&workload, None).await.unwrap();
    assert!(
        matches!(driver.state(id).await.unwrap(), State::Running { .. }),
        "a reboot starts what is stopped"
    );
    removed(&*driver, &workload).await;
}

async fn ends_by_itself(fixture: &dyn Fixture) {
    let driver = fixture.driver();
    let workload = fixture.workload().await;
    driver.start(&workload).await.unwrap();
    greeted(fixture, &*driver, workload.id).await;
    let mut changes = driver.changes();
    fixture.end(workload.id).await;
    changed(&mut changes, workload.id, fixture.patience()).await;
    let state = driver.state(workload.id).await.unwrap();
    assert!(
        matches!(
            state,
            State::Stopped {
                exit_code: None | Some(0)
            }
        ),
        "{state:?} after an end by itself"
    );
    removed(&*driver, &workload).await;
}

async fn dies(fixture: &dyn Fixture) {
    let driver = fixture.driver();
    let workload = fixture.workload().await;
    driver.start(&workload).await.unwrap();
    let mut changes = driver.changes();
    fixture.kill(workload.id).await;
    changed(&mut changes, workload.id, fixture.patience()).await;
    match driver.state(workload.id).await.unwrap() {
        State::Failed { reason } => assert!(!reason.is_empty()),
        // A container's first process cannot tell who killed it.
        State::Stopped { exit_code: Some(137) } => {}
        state => panic!("{state:?} after it was killed"),
    }
    driver.start(&workload).await.unwrap();
    assert!(
        matches!(driver.state(workload.id).await.unwrap(), State::Running { .. }),
        "can be started again"
    );
    removed(&*driver, &workload).await;
}

async fn breaks(fixture: &dyn Fixture) {
    let driver = fixture.driver();
    let Some((workload, word)) = fixture.broken().await else {
        return;
    };
    let error = driver.start(&workload).await.unwrap_err();
    assert!(matches!(error, DriverError::Broken(_)), "{error:?}");
    assert!(error.to_string().contains(word), "`{word}` is missing from: {error}");
    assert!(!matches!(
        driver.state(workload.id).await.unwrap(),
        State::Running { .. } | State::Paused
    ));
    removed(&*driver, &workload).await;
}

/// What was made ready is not there until it is started, and goes like what never was.
async fn made_ready(fixture: &mut dyn Fixture) {
    let driver = fixture.driver();
    let workload = fixture.workload().await;
    driver.make_ready(&workload).await.unwrap();
    driver.make_ready(&workload).await.unwrap();
    assert_eq!(driver.state(workload.id).await.unwrap(), State::Absent);
    driver.start(&workload).await.unwrap();
    greeted(fixture, &*driver, workload.id).await;
    driver.make_ready(&workload).await.unwrap();
    assert!(matches!(
        driver.state(workload.id).await.unwrap(),
        State::Running { .. }
    ));
    removed(&*driver, &workload).await;

    let never = fixture.workload().await;
    driver.make_ready(&never).await.unwrap();
    removed(&*driver, &never).await;

    // After a restart it is started all the same, also as something else than was made ready.
    let mut other = fixture.workload().await;
    driver.make_ready(&other).await.unwrap();
    drop(driver);
    let driver = fixture.reopen().await;
    other.memory_bytes *= 2;
    driver.start(&other).await.unwrap();
    greeted(fixture, &*driver, other.id).await;
    removed(&*driver, &other).await;
}

/// Removes it, twice, and checks that nothing is left.
async fn removed(driver: &dyn Driver, workload: &Workload) {
    driver.remove(workload.id).await.unwrap();
    driver.remove(workload.id).await.unwrap();
    assert_eq!(driver.state(workload.id).await.unwrap(), State::Absent);
    assert!(
        driver
            .list()
            .await
            .unwrap()
            .iter()
            .all(|(other, _)| *other != workload.id)
    );
    assert_eq!(left_in(&workload.dir), Vec::<String>::new(), "left in its directory");
}

fn left_in(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// Waits until its console holds the greeting.
async fn greeted(fixture: &dyn Fixture, driver: &dyn Driver, id: Uuid) {
    let Some(greeting) = fixture.greeting() else { return };
    eventually(fixture.patience(), || async {
        let console = driver.console(id, 1 << 16).await.unwrap();
        let text = String::from_utf8_lossy(&console).into_owned();
        if text.contains(greeting) {
            Ok(())
        } else {
            Err(format!("no `{greeting}` on its console:\n{text}"))
        }
    })
    .await;
    assert!(driver.console(id, 3).await.unwrap().len() <= 3, "more than asked for");
}

async fn changed(changes: &mut tokio::sync::broadcast::Receiver<Uuid>, id: Uuid, patience: Duration) {
    let told = async { while changes.recv().await.unwrap() != id {} };
    timeout(patience, told)
        .await
        .expect("a change without being asked is told");
}

async fn eventually<F: Future<Output = Result<(), String>>>(patience: Duration, check: impl Fn() -> F) {
    let deadline = Instant::now() + patience;
    loop {
        match check().await {
            Ok(()) => return,
            Err(error) if Instant::now() > deadline => panic!("{error}"),
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    }
}
