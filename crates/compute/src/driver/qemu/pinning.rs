//! Where a machine's threads run: its own processors on those of the host that it has to itself, all else on the shared
//! ones. Set from outside: QEMU itself may not.

use std::fs;

use madang_host::workload::{Cpu, DriverError};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use serde_json::Value;

use super::machine::Machine;

/// Binds the threads of a machine that was just started; those to come inherit it from them.
///
/// # Errors
/// `Host` when the host does not have these processors, or QEMU does not tell its threads.
pub(super) async fn pin(machine: &Machine, cpu: &Cpu) -> Result<(), DriverError> {
    if cpu.pinned.is_empty() && cpu.shared.is_empty() {
        return Ok(());
    }
    // QEMU's own work is done beside other machines' where it can be.
    let others = if cpu.shared.is_empty() {
        &cpu.pinned
    } else {
        &cpu.shared
    };
    let tasks = format!("/proc/{}/task", machine.pid());
    let entries = fs::read_dir(&tasks).map_err(DriverError::io(format!("read {tasks}")))?;
    let threads = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    for thread in threads {
        match bind(thread, others) {
            // Ended meanwhile.
            Err(nix::Error::ESRCH) => {}
            bound => bound.map_err(|error| failed(thread, others, error))?,
        }
    }
    if cpu.pinned.is_empty() {
        return Ok(());
    }
    let told = machine.ask("query-cpus-fast", Value::Null).await?;
    for known in told.as_array().into_iter().flatten() {
        let number = known["cpu-index"]
            .as_u64()
            .and_then(|index| cpu.pinned.get(index as usize));
        let thread = known["thread-id"].as_i64().and_then(|id| i32::try_from(id).ok());
        let (Some(number), Some(thread)) = (number, thread) else {
            return Err(DriverError::Host(format!(
                "QEMU tells of a processor that nobody knows: {known}"
            )));
        };
        let own = std::slice::from_ref(number);
        bind(thread, own).map_err(|error| failed(thread, own, error))?;
    }
    Ok(())
}

fn bind(thread: i32, numbers: &[u32]) -> nix::Result<()> {
    let mut set = CpuSet::new();
    for number in numbers {
        set.set(*number as usize)?;
    }
    sched_setaffinity(Pid::from_raw(thread), &set)
}

fn failed(thread: i32, numbers: &[u32], error: nix::Error) -> DriverError {
    DriverError::Host(format!(
        "could not bind thread {thread} to processors {numbers:?}: {error}"
    ))
}
