//! Virtual machines on QEMU: one process, one unprivileged user and one control group per server, spoken to over QMP.
//!
//! The agent calls it through [`Driver`]. A machine is found again after a restart of madang by `qemu.json` in its
//! directory; its QEMU keeps running meanwhile and even stays, halted, when its guest powers off, so that how it ended
//! is never lost:
//!
//! ```text
//!             start                    pause / resume
//!   absent ─────────▶ starting ─▶ running ◀────▶ paused
//!                        │           │ stop, guest powers off  ─▶ stopped ─┐
//!                        │           │ guest panics, process dies ─▶ failed ┤ start
//!                        │           │ suspend                    ─▶ suspended ┤
//!                        └───────────┴──────────────────────────────────────┘
//! ```
//!
//! QEMU opens no file by itself: disks, taps and sockets are opened here and handed down as descriptors, so its user
//! needs no right to anything.

mod agent;
mod arguments;
mod console;
mod devices;
mod disk;
mod firmware;
mod hotplug;
mod job;
mod launch;
mod layer;
mod local;
mod machine;
mod pinning;
mod qmp;
mod record;
#[cfg(test)]
mod root_tests;
mod session;
mod shape;
mod snapshot;
mod suspend;
mod tpm;
mod usage;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use madang_control::TaskGroup;
use madang_host::{
    Instance,
    acceleration::Probe,
    cgroup::{Group, Hierarchies},
    workload::{ConsoleKind, Disk, Driver, DriverError, Nic, Session, State, Usage, Workload},
};
use parking_lot::Mutex;
use tokio::sync::{Mutex as Turn, broadcast};
use uuid::Uuid;

use self::{
    machine::{Machine, Phase},
    record::{End, Record},
};

/// How many changes a receiver may lag behind before it has to look at everything.
const CHANGES: usize = 1024;

/// Runs virtual machines.
pub struct QemuDriver {
    host: Arc<Host>,
    slots: Mutex<HashMap<Uuid, Arc<Slot>>>,
}

/// What all machines of this host share.
struct Host {
    instance: Instance,
    hierarchies: Hierarchies,
    probe: Probe,
    tasks: TaskGroup,
    changes: broadcast::Sender<Uuid>,
}

/// One workload that the host knows of.
struct Slot {
    dir: PathBuf,
    /// Held by whoever changes the workload, from the decision to its end: starts, stops and reboots take turns.
    turn: Turn<()>,
    current: Mutex<Current>,
}

/// What there is of it.
#[derive(Clone)]
enum Current {
    /// A QEMU process, watched by a task; how it ended once it has.
    Machine(Arc<Machine>),
    /// None: how it ended, as far as known.
    Ended(End),
}

impl Slot {
    fn state(&self) -> State {
        match &*self.current.lock() {
            Current::Machine(machine) => machine.state(),
            Current::Ended(end) => end.state(),
        }
    }

    /// The machine, if its process has not ended.
    fn machine(&self) -> Option<Arc<Machine>> {
        match &*self.current.lock() {
            Current::Machine(machine) if !matches!(machine.phase(), Phase::Ended(_)) => Some(Arc::clone(machine)),
            _ => None,
        }
    }
}

impl QemuDriver {
    /// A driver for the workloads whose directories are in `root`; finds those that were there before, running or not.
    ///
    /// `tasks` owns what watches the machines; stopping it leaves the machines running. Errors when `root` cannot be
    /// read.
    pub async fn open(root: &Path, instance: &Instance, probe: Probe, tasks: &TaskGroup) -> Result<Self, DriverError> {
        let host = Arc::new(Host {
            instance: instance.clone(),
            hierarchies: Hierarchies::detect(),
            probe,
            tasks: tasks.child("qemu"),
            changes: broadcast::channel(CHANGES).0,
        });
        let records = record::scan(root)?;
        host.end_strangers(&records).await;
        let mut slots = HashMap::with_capacity(records.len());
        for (dir, record) in records {
            let id = record.id;
            let current = host.find_again(&dir, record).await;
            slots.insert(
                id,
                Arc::new(Slot {
                    dir,
                    turn: Turn::new(()),
                    current: Mutex::new(current),
                }),
            );
        }
        Ok(Self {
            host,
            slots: Mutex::new(slots),
        })
    }

    /// How machines run on this host.
    pub fn probe(&self) -> &Probe {
        &self.host.probe
    }

    fn slot(&self, id: Uuid) -> Option<Arc<Slot>> {
        self.slots.lock().get(&id).cloned()
    }

    fn slot_for(&self, workload: &Workload) -> Arc<Slot> {
        let mut slots = self.slots.lock();
        let slot = slots.entry(workload.id).or_insert_with(|| {
            let current = Mutex::new(Current::Ended(End::Stopped));
            Arc::new(Slot {
                dir: workload.dir.clone(),
                turn: Turn::new(()),
                current,
            })
        });
        Arc::clone(slot)
    }

    /// The machine of a workload that is on, and its turn to be changed.
    fn running(&self, id: Uuid) -> Option<(Arc<Slot>, Arc<Machine>)> {
        let slot = self.slot(id)?;
        let machine = slot.machine()?;
        Some((slot, machine))
    }

    /// With the slot's turn: starts what does not run.
    async fn start_in(&self, slot: &Slot, workload: &Workload) -> Result<(), DriverError> {
        if let Some(machine) = slot.machine() {
            return machine.started().await;
        }
        match launch::start(&self.host, workload).await {
            Ok(machine) => {
                *slot.current.lock() = Current::Machine(machine);
                Ok(())
            }
            Err(error) => {
                let end = End::Failed {
                    reason: error.to_string(),
                };
                record::write(&slot.dir, &Record::ended(workload.id, end.clone()));
                *slot.current.lock() = Current::Ended(end);
                Err(error)
            }
        }
    }
}

impl Host {
    fn group(&self, id: Uuid) -> Result<Group, DriverError> {
        Ok(self.instance.cgroup(&self.hierarchies).child(&format!("vm-{id}"))?)
    }

    /// Ends machines whose directory is gone: nobody could ever stop them.
    async fn end_strangers(&self, records: &[(PathBuf, Record)]) {
        for name in self.instance.cgroup(&self.hierarchies).children() {
            let Some(id) = name.strip_prefix("vm-").and_then(|id| Uuid::parse_str(id).ok()) else {
                continue;
            };
            if records.iter().any(|(_, record)| record.id == id) {
                continue;
            }
            tracing::warn!(workload = %id, "ending a machine without a directory");
            if let Ok(group) = self.group(id)
                && let Err(error) = group.remove().await
            {
                tracing::warn!(workload = %id, error = %error.chain(), "could not end a machine without a directory");
            }
        }
    }

    /// After a restart of madang: what has become of a workload meanwhile.
    async fn find_again(self: &Arc<Self>, dir: &Path, record: Record) -> Current {
        if let Some(end) = &record.end {
            return Current::Ended(end.clone());
        }
        let id = record.id;
        let group = self.group(id).ok();
        if let Some(process) = record.process(group.as_ref()) {
            tracing::info!(workload = %id, pid = process.pid(), "found a running machine");
            record::write(dir, &Record::running(id, process.identity()));
            return Current::Machine(Machine::watch(self, id, dir, process));
        }
        if let Some(group) = group
            && let Err(error) = group.remove().await
        {
            tracing::warn!(workload = %id, error = %error.chain(), "could not remove a control group");
        }
        let end = record.end_unseen(dir);
        record::write(dir, &Record::ended(id, end.clone()));
        Current::Ended(end)
    }
}

#[async_trait]
impl Driver for QemuDriver {
    fn name(&self) -> &'static str {
        "qemu"
    }

    async fn start(&self, workload: &Workload) -> Result<(), DriverError> {
        let slot = self.slot_for(workload);
        let _turn = slot.turn.lock().await;
        self.start_in(&slot, workload).await
    }

    async fn stop(&self, id: Uuid, grace: Option<Duration>) -> Result<(), DriverError> {
        let Some(slot) = self.slot(id) else { return Ok(()) };
        let _turn = slot.turn.lock().await;
        match slot.machine() {
            Some(machine) => machine.stop(grace).await,
            None => {
                // Asked for now, whatever it was before.
                suspend::forget_memory(&slot.dir);
                record::write(&slot.dir, &Record::ended(id, End::Stopped));
                *slot.current.lock() = Current::Ended(End::Stopped);
                Ok(())
            }
        }
    }

    async fn reboot(&self, workload: &Workload, grace: Option<Duration>) -> Result<(), DriverError> {
        let slot = self.slot_for(workload);
        let _turn = slot.turn.lock().await;
        if let Some(machine) = slot.machine() {
            if let Some(grace) = grace
                && machine.restart_politely(grace).await
            {
                return Ok(());
            }
            machine.stop(None).await?;
        }
        suspend::forget_memory(&slot.dir);
        self.start_in(&slot, workload).await
    }

    async fn pause(&self, id: Uuid) -> Result<(), DriverError> {
        let Some(slot) = self.slot(id) else {
            return Err(not_running(id));
        };
        let _turn = slot.turn.lock().await;
        slot.machine().ok_or_else(|| not_running(id))?.pause().await
    }

    async fn resume(&self, id: Uuid) -> Result<(), DriverError> {
        let Some(slot) = self.slot(id) else {
            return Err(not_running(id));
        };
        let _turn = slot.turn.lock().await;
        slot.machine().ok_or_else(|| not_running(id))?.resume().await
    }

    async fn remove(&self, id: Uuid) -> Result<(), DriverError> {
        let Some(slot) = self.slot(id) else { return Ok(()) };
        let _turn = slot.turn.lock().await;
        if let Some(machine) = slot.machine() {
            machine.kill().await?;
        }
        self.host.group(id)?.remove().await?;
        record::remove_all(&slot.dir)?;
        self.slots.lock().remove(&id);
        Ok(())
    }

    async fn state(&self, id: Uuid) -> Result<State, DriverError> {
        Ok(self.slot(id).map_or(State::Absent, |slot| slot.state()))
    }

    async fn list(&self) -> Result<Vec<(Uuid, State)>, DriverError> {
        Ok(self.slots.lock().iter().map(|(id, slot)| (*id, slot.state())).collect())
    }

    async fn console(&self, id: Uuid, max_bytes: u64) -> Result<Vec<u8>, DriverError> {
        let Some(slot) = self.slot(id) else {
            return Ok(Vec::new());
        };
        if let Some(machine) = slot.machine() {
            machine.collect_console().await;
        }
        let dir = slot.dir.clone();
        let read = tokio::task::spawn_blocking(move || console::tail(&dir, max_bytes)).await;
        read.unwrap_or_else(|_| Err(DriverError::Host("the host is shutting down".into())))
    }

    async fn suspend(&self, id: Uuid) -> Result<(), DriverError> {
        let slot = self.slot(id).ok_or_else(|| not_running(id))?;
        let _turn = slot.turn.lock().await;
        match slot.machine() {
            Some(machine) => suspend::suspend(&machine, &slot.dir).await,
            None if slot.state() == State::Suspended => Ok(()),
            None => Err(not_running(id)),
        }
    }

    async fn snapshot(&self, workload: &Workload, into: &Path) -> Result<(), DriverError> {
        let slot = self.slot(workload.id);
        let Some(slot) = slot else {
            return Err(DriverError::Host(format!("there is no machine {}", workload.id)));
        };
        let _turn = slot.turn.lock().await;
        snapshot::take(slot.machine().as_deref(), workload, into).await
    }

    async fn attach_disk(&self, id: Uuid, disk: &Disk) -> Result<(), DriverError> {
        // What is off gets it with its next start.
        let Some(slot) = self.slot(id) else { return Ok(()) };
        let _turn = slot.turn.lock().await;
        match slot.machine() {
            Some(machine) => hotplug::attach_disk(&machine, &slot.dir, disk).await,
            None => Ok(()),
        }
    }

    async fn detach_disk(&self, id: Uuid, disk: Uuid) -> Result<(), DriverError> {
        let Some(slot) = self.slot(id) else { return Ok(()) };
        let _turn = slot.turn.lock().await;
        match slot.machine() {
            Some(machine) => hotplug::detach_disk(&machine, &slot.dir, disk).await,
            None => Ok(()),
        }
    }

    async fn grow_disk(&self, id: Uuid, disk: &Disk, bytes: u64) -> Result<(), DriverError> {
        let Some(slot) = self.slot(id) else {
            return disk::grow_closed(disk, bytes).await;
        };
        let _turn = slot.turn.lock().await;
        match slot.machine() {
            Some(machine) => hotplug::grow_disk(&machine, disk.id, bytes).await,
            None => disk::grow_closed(disk, bytes).await,
        }
    }

    async fn stack_disk(&self, id: Uuid, top: &Disk) -> Result<(), DriverError> {
        let Some(slot) = self.slot(id) else { return Ok(()) };
        let _turn = slot.turn.lock().await;
        match slot.machine() {
            Some(machine) => hotplug::stack_disk(&machine, top).await,
            // What is off starts with it.
            None => Ok(()),
        }
    }

    async fn swap_disk(&self, id: Uuid, old: Uuid, new: &Disk) -> Result<(), DriverError> {
        let slot = self.slot(id).ok_or_else(|| not_running(id))?;
        let _turn = slot.turn.lock().await;
        let machine = slot.machine().ok_or_else(|| not_running(id))?;
        hotplug::swap_disk(&machine, &slot.dir, old, new).await
    }

    async fn attach_nic(&self, id: Uuid, nic: &Nic) -> Result<(), DriverError> {
        let Some(slot) = self.slot(id) else { return Ok(()) };
        let _turn = slot.turn.lock().await;
        match slot.machine() {
            Some(machine) => hotplug::attach_nic(&machine, &slot.dir, nic).await,
            None => Ok(()),
        }
    }

    async fn detach_nic(&self, id: Uuid, port: Uuid) -> Result<(), DriverError> {
        let Some(slot) = self.slot(id) else { return Ok(()) };
        let _turn = slot.turn.lock().await;
        match slot.machine() {
            Some(machine) => hotplug::detach_nic(&machine, &slot.dir, port).await,
            None => Ok(()),
        }
    }

    async fn set_password(&self, id: Uuid, user: &str, password: &str) -> Result<(), DriverError> {
        let (slot, _machine) = self.running(id).ok_or_else(|| not_running(id))?;
        agent::set_password(&slot.dir, user, password).await
    }

    async fn trigger_crash_dump(&self, id: Uuid) -> Result<(), DriverError> {
        let (_, machine) = self.running(id).ok_or_else(|| not_running(id))?;
        machine.ask("inject-nmi", serde_json::Value::Null).await.map(drop)
    }

    async fn open_console(&self, id: Uuid, kind: ConsoleKind) -> Result<Box<dyn Session>, DriverError> {
        let (_, machine) = self.running(id).ok_or_else(|| not_running(id))?;
        session::open(&machine, kind).await
    }

    async fn usage(&self, id: Uuid) -> Result<Usage, DriverError> {
        let (slot, machine) = self.running(id).ok_or_else(|| not_running(id))?;
        usage::read(&machine, &slot.dir, self.host.group(id).ok()).await
    }

    fn changes(&self) -> broadcast::Receiver<Uuid> {
        self.host.changes.subscribe()
    }
}

fn not_running(id: Uuid) -> DriverError {
    DriverError::Host(format!("machine {id} is not running"))
}
