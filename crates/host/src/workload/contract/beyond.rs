//! The contract of the verbs beyond power. A driver that does not do one refuses it; one that does, does it like this.

use tokio::io::AsyncReadExt;

use super::{
    Arc, Driver, DriverError, Duration, Fixture, State, Uuid, Workload, eventually, greeted, removed, timeout,
};
use crate::workload::{ConsoleKind, DiskName, Usage};

pub(super) async fn run(fixture: &mut dyn Fixture) {
    suspends(fixture).await;
    snapshots(fixture).await;
    disks_come_and_go(fixture).await;
    interfaces_come_and_go(fixture).await;
    consoles_open(fixture).await;
    usage_is_told(fixture).await;
}

/// None when the driver does not do it.
fn done<T>(result: Result<T, DriverError>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(DriverError::Unsupported { .. }) => None,
        Err(error) => panic!("{error}"),
    }
}

async fn started(fixture: &dyn Fixture) -> (Arc<dyn Driver>, Workload) {
    let driver = fixture.driver();
    let workload = fixture.workload().await;
    driver.start(&workload).await.unwrap();
    greeted(fixture, &*driver, workload.id).await;
    (driver, workload)
}

async fn is_running(driver: &dyn Driver, id: Uuid) -> bool {
    matches!(driver.state(id).await.unwrap(), State::Running { .. })
}

async fn suspends(fixture: &mut dyn Fixture) {
    let (driver, workload) = started(fixture).await;
    let id = workload.id;
    if done(driver.suspend(id).await).is_none() {
        return removed(&*driver, &workload).await;
    }
    assert_eq!(driver.state(id).await.unwrap(), State::Suspended);
    driver.suspend(id).await.unwrap();
    drop(driver);
    let driver = fixture.reopen().await;
    assert_eq!(
        driver.state(id).await.unwrap(),
        State::Suspended,
        "found again suspended"
    );
    driver.start(&workload).await.unwrap();
    assert!(is_running(&*driver, id).await, "goes on");
    driver.suspend(id).await.unwrap();
    driver.stop(id, None).await.unwrap();
    assert!(
        matches!(driver.state(id).await.unwrap(), State::Stopped { .. }),
        "a stop forgets its memory"
    );
    driver.suspend(id).await.expect_err("what is off has no memory");
    driver.start(&workload).await.unwrap();
    driver.suspend(id).await.unwrap();
    driver.reboot(&workload, None).await.unwrap();
    assert!(is_running(&*driver, id).await, "a reboot begins anew");
    driver.suspend(id).await.unwrap();
    removed(&*driver, &workload).await;
}

async fn snapshots(fixture: &dyn Fixture) {
    let Some(scratch) = fixture.scratch() else { return };
    let (driver, workload) = started(fixture).await;
    let id = workload.id;
    let into = scratch.join(format!("snapshot-{id}"));
    if done(driver.snapshot(&workload, &into).await).is_some() {
        assert!(std::fs::metadata(&into).unwrap().len() > 0);
        assert!(is_running(&*driver, id).await, "it goes on meanwhile");
        driver.snapshot(&workload, &into).await.unwrap();
        driver.stop(id, None).await.unwrap();
        std::fs::remove_file(&into).unwrap();
        driver.snapshot(&workload, &into).await.unwrap();
        assert!(std::fs::metadata(&into).unwrap().len() > 0, "of a stopped one");
    }
    removed(&*driver, &workload).await;
}

async fn disks_come_and_go(fixture: &mut dyn Fixture) {
    let Some(disk) = fixture.disk().await else { return };
    let (driver, mut workload) = started(fixture).await;
    let id = workload.id;
    let has = |usage: &Usage| usage.disks.iter().any(|used| used.disk == DiskName::Disk(disk.id));
    driver.attach_disk(id, &disk).await.unwrap();
    driver.attach_disk(id, &disk).await.unwrap();
    assert!(has(&driver.usage(id).await.unwrap()), "attached");
    drop(driver);
    let driver = fixture.reopen().await;
    assert!(has(&driver.usage(id).await.unwrap()), "attached after a restart");
    done(driver.detach_disk(id, disk.id).await).unwrap();
    driver.detach_disk(id, disk.id).await.unwrap();
    assert!(!has(&driver.usage(id).await.unwrap()), "detached");
    driver.detach_disk(id, Uuid::new_v4()).await.unwrap();
    driver.attach_disk(id, &disk).await.unwrap();
    assert!(has(&driver.usage(id).await.unwrap()), "attached again");
    driver.stop(id, None).await.unwrap();
    driver.detach_disk(id, disk.id).await.unwrap();
    driver.attach_disk(id, &disk).await.unwrap();
    workload.disks.push(disk.clone());
    driver.start(&workload).await.unwrap();
    assert!(
        has(&driver.usage(id).await.unwrap()),
        "one that it was started with shows, too"
    );
    driver.detach_disk(id, disk.id).await.unwrap();
    assert!(!has(&driver.usage(id).await.unwrap()));
    removed(&*driver, &workload).await;
}

async fn interfaces_come_and_go(fixture: &dyn Fixture) {
    let Some(nic) = fixture.nic().await else { return };
    let (driver, workload) = started(fixture).await;
    let id = workload.id;
    let has = |usage: &Usage| usage.nics.iter().any(|used| used.mac == nic.mac);
    driver.attach_nic(id, &nic).await.unwrap();
    driver.attach_nic(id, &nic).await.unwrap();
    assert!(has(&driver.usage(id).await.unwrap()), "attached");
    driver.detach_nic(id, nic.port).await.unwrap();
    driver.detach_nic(id, nic.port).await.unwrap();
    assert!(!has(&driver.usage(id).await.unwrap()), "detached");
    removed(&*driver, &workload).await;
}

async fn consoles_open(fixture: &dyn Fixture) {
    let (driver, workload) = started(fixture).await;
    if let Some(mut session) = done(driver.open_console(workload.id, ConsoleKind::Vnc).await) {
        let mut greeting = [0; 4];
        timeout(fixture.patience(), session.read_exact(&mut greeting))
            .await
            .expect("a screen says hello")
            .unwrap();
        assert_eq!(&greeting, b"RFB ");
    }
    // One who comes later takes over from one who hangs on.
    for _ in 0..2 {
        done(driver.open_console(workload.id, ConsoleKind::Serial).await);
    }
    removed(&*driver, &workload).await;
    assert!(
        driver.open_console(workload.id, ConsoleKind::Serial).await.is_err(),
        "of nothing"
    );
}

async fn usage_is_told(fixture: &dyn Fixture) {
    let (driver, workload) = started(fixture).await;
    if let Some(usage) = done(driver.usage(workload.id).await) {
        assert!(usage.memory_bytes > 0);
        assert!(!usage.cpu_time.is_empty());
        eventually(Duration::from_secs(20), || async {
            let later = driver.usage(workload.id).await.map_err(|error| error.to_string())?;
            match later.uptime > usage.uptime {
                true => Ok(()),
                false => Err("its time stands still".to_owned()),
            }
        })
        .await;
        driver.stop(workload.id, None).await.unwrap();
        driver.usage(workload.id).await.expect_err("what is off uses nothing");
    }
    removed(&*driver, &workload).await;
}
