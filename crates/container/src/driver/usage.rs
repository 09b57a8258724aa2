//! What a container uses: its control group counts, and its network devices do.

use std::{fs, time::Duration};

use madang_host::{
    process::Identity,
    workload::{DriverError, NicUsage, Usage},
};
use nix::unistd::{SysconfVar, sysconf};
use uuid::Uuid;

use super::Inner;
use crate::record::SpecNic;

impl Inner {
    pub(super) fn usage(&self, id: Uuid) -> Result<Usage, DriverError> {
        let (_, spec, pid) = self.running(id)?;
        let counted = self.group(id)?.usage();
        let devices = fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default();
        Ok(Usage {
            uptime: age(pid),
            cpu_time: vec![Duration::from_nanos(counted.cpu_ns)],
            memory_bytes: spec.memory_bytes,
            memory_used_bytes: Some(counted.memory_bytes),
            disks: Vec::new(),
            nics: spec.nics.iter().filter_map(|nic| of_device(&devices, nic)).collect(),
        })
    }
}

/// How long a process has run.
fn age(pid: u32) -> Duration {
    let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let uptime = uptime.split(' ').next().and_then(|seconds| seconds.parse::<f64>().ok());
    let ticks = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100) as f64;
    let started = Identity::of(pid).map(|process| process.started as f64 / ticks);
    let age = uptime.zip(started).map_or(0.0, |(uptime, started)| uptime - started);
    Duration::from_secs_f64(age.max(0.0))
}

/// The counters of one device. Source: proc_pid_net(5), `net/dev`.
fn of_device(devices: &str, nic: &SpecNic) -> Option<NicUsage> {
    let line = devices
        .lines()
        .find_map(|line| line.trim().strip_prefix(&format!("{}:", nic.name)))?;
    let numbers: Vec<u64> = line
        .split_whitespace()
        .filter_map(|number| number.parse().ok())
        .collect();
    let at = |first: usize| {
        Some((
            *numbers.get(first)?,
            *numbers.get(first + 1)?,
            *numbers.get(first + 2)?,
            *numbers.get(first + 3)?,
        ))
    };
    Some(NicUsage {
        mac: nic.mac,
        received: at(0)?,
        sent: at(8)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_devices_counters_are_found() {
        let nic: SpecNic = serde_json::from_value(serde_json::json!({
            "name": "eth1", "peer": "p", "netns": "/n", "mac": [2, 0, 0, 0, 0, 1], "mtu": 1500, "addresses": [],
            "gateway": null, "routes": [],
        }))
        .unwrap();
        let devices = "Inter-|   Receive\n face |bytes packets\n  eth0: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  eth1:  10 2 3 4 0 0 0 0 50 6 7 8 0 0 0 0\n";
        let usage = of_device(devices, &nic).unwrap();
        assert_eq!((usage.received, usage.sent), ((10, 2, 3, 4), (50, 6, 7, 8)));
        assert_eq!(of_device("", &nic), None);
    }
}
