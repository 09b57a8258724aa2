//! What a machine has used: its processors by their threads, its disks as QEMU counts, its interfaces as the host does.

use std::{fs, path::Path, time::Duration};

use madang_host::{
    cgroup::Group,
    netns::Netns,
    workload::{DiskName, DiskUsage, DriverError, NicUsage, Usage},
};
use serde_json::{Value, json};

use super::{
    devices::{Devices, NicEntry, ROOT},
    hotplug::device_name,
    local,
    machine::Machine,
};

/// Everything that is counted.
pub(super) async fn read(machine: &Machine, dir: &Path, group: Option<Group>) -> Result<Usage, DriverError> {
    let pid = machine.pid();
    let cpus = machine.ask("query-cpus-fast", Value::Null).await?;
    let threads = cpus.as_array().into_iter().flatten();
    let cpu_time = threads
        .filter_map(|cpu| cpu["thread-id"].as_u64())
        .map(|thread| processor_time(pid, thread))
        .collect();
    let memory = machine.ask("query-memory-size-summary", Value::Null).await?;
    let known = Devices::load(dir)?;
    Ok(Usage {
        uptime: uptime(pid),
        cpu_time,
        memory_bytes: memory["base-memory"].as_u64().unwrap_or_default(),
        memory_used_bytes: group.map(|group| group.usage().memory_bytes),
        disks: disks(machine, &known).await?,
        nics: nics(known.nics).await?,
    })
}

async fn disks(machine: &Machine, known: &Devices) -> Result<Vec<DiskUsage>, DriverError> {
    let stats = machine.ask("query-blockstats", json!({})).await?;
    let name_of = |device: &str| match (device, local::name_of(device)) {
        (ROOT, _) => Some(DiskName::Root),
        (_, Some(local)) => Some(DiskName::Local(local.to_owned())),
        (device, None) => {
            let entry = known.disks.iter().find(|entry| entry.device == device)?;
            Some(DiskName::Disk(entry.id))
        }
    };
    let used = stats.as_array().into_iter().flatten().filter_map(|block| {
        let disk = name_of(&device_name(&block["qdev"])?)?;
        let count = |name: &str| block["stats"][name].as_u64().unwrap_or_default();
        Some(DiskUsage {
            disk,
            read: (count("rd_bytes"), count("rd_operations")),
            written: (count("wr_bytes"), count("wr_operations")),
            errors: count("failed_rd_operations") + count("failed_wr_operations") + count("failed_flush_operations"),
        })
    });
    Ok(used.collect())
}

/// By the counters of their taps, all of which are in one namespace.
async fn nics(entries: Vec<NicEntry>) -> Result<Vec<NicUsage>, DriverError> {
    let Some(netns) = entries.first().map(|entry| entry.netns.clone()) else {
        return Ok(Vec::new());
    };
    // `/proc/self` would be the namespace of the main thread.
    let netns = Netns::named(netns);
    let table = netns
        .run(|| fs::read_to_string("/proc/thread-self/net/dev"))
        .await?
        .map_err(DriverError::io("read the counters of interfaces"))?;
    Ok(entries.iter().map(|entry| nic_usage(&table, entry)).collect())
}

/// What comes out of a tap is what the guest sent. Source: proc_pid_net(5).
fn nic_usage(table: &str, entry: &NicEntry) -> NicUsage {
    let line = table
        .lines()
        .find_map(|line| line.trim().strip_prefix(&entry.tap)?.strip_prefix(':'));
    let counts: Vec<u64> = line
        .unwrap_or_default()
        .split_whitespace()
        .map(|count| count.parse().unwrap_or_default())
        .collect();
    let at = |index: usize| counts.get(index).copied().unwrap_or_default();
    NicUsage {
        mac: entry.mac,
        received: (at(8), at(9), at(10), at(11)),
        sent: (at(0), at(1), at(2), at(3)),
    }
}

/// How long a thread has run on a processor. Source: schedstat's first field, in nanoseconds.
fn processor_time(pid: u32, thread: u64) -> Duration {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{thread}/schedstat")).unwrap_or_default();
    let nanoseconds = text.split_whitespace().next().and_then(|number| number.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or_default())
}

/// How long a process has been there. Source: proc_pid_stat(5), field 22, in clock ticks of a hundredth of a second.
fn uptime(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let host = fs::read_to_string("/proc/uptime").unwrap_or_default();
    // The second field is a name, which may hold anything.
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    let started: f64 = match fields
        .split_whitespace()
        .nth(19)
        .and_then(|ticks| ticks.parse::<f64>().ok())
    {
        Some(ticks) => ticks / 100.0,
        None => return Duration::ZERO,
    };
    let now: f64 = host
        .split_whitespace()
        .next()
        .and_then(|seconds| seconds.parse().ok())
        .unwrap_or_default();
    Duration::from_secs_f64((now - started).max(0.0))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn what_leaves_the_tap_came_from_the_guest() {
        let table = "Inter-| Receive | Transmit\n  lo: 9 9 9 9 0 0 0 0 9 9 9 9 0 0 0 0\n tap1: 1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0\n";
        let entry = NicEntry {
            port: Uuid::nil(),
            mac: [1; 6],
            tap: "tap1".into(),
            netns: String::new(),
            slot: 1,
        };
        let usage = nic_usage(table, &entry);
        assert_eq!((usage.sent, usage.received), ((1, 2, 3, 4), (5, 6, 7, 8)));
    }

    #[test]
    fn this_process_has_been_there_for_a_while() {
        let pid = std::process::id();
        assert!(uptime(pid) < Duration::from_secs(600));
        assert!(processor_time(pid, u64::from(pid)) > Duration::ZERO);
        assert_eq!(uptime(u32::MAX), Duration::ZERO);
    }
}
