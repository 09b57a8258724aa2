//! What a host's machine and hypervisor are, in the scheduler's words.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use madang_host::{acceleration::Acceleration, machine::Machine, process::find_program, workload::TpmVersion};
use madang_scheduler::{Capabilities, Cell};

/// What a machine is on which QEMU of `version` runs guests, on the processor or emulated. Emulators for other machines are
/// not installed. `dedicated` are the processors that are given to one guest each.
pub fn capabilities(
    machine: &Machine,
    acceleration: Option<Acceleration>,
    version: u64,
    dedicated: &[u32],
) -> Capabilities {
    let arch = std::env::consts::ARCH;
    let mut architectures = vec![arch.to_owned()];
    if arch == "x86_64" {
        architectures.push("i686".to_owned());
    }
    let mut names = Vec::new();
    if acceleration.is_some() {
        names.push("qemu".to_owned());
    }
    if acceleration == Some(Acceleration::Kvm) {
        names.push("kvm".to_owned());
    }
    let (sockets, cores, threads) = machine.topology;
    let cpu = [
        ("vendor", machine.vendor.clone()),
        ("model", machine.model.clone()),
        ("arch", arch.to_owned()),
        ("topology:sockets", sockets.to_string()),
        ("topology:cores", cores.to_string()),
        ("topology:threads", threads.to_string()),
    ];
    let cells = machine.nodes.iter().map(|node| Cell {
        id: node.id,
        cpus: node.cpus.clone(),
        dedicated: node
            .cpus
            .iter()
            .filter(|cpu| dedicated.contains(cpu))
            .copied()
            .collect(),
        memory_mb: (node.memory_bytes >> 20) as i64,
        pages: node.pages.clone(),
    });
    Capabilities {
        architectures,
        hypervisor_type: "QEMU".to_owned(),
        hypervisor_names: names,
        hypervisor_version: version,
        vm_modes: ["hvm", "exe"].map(str::to_owned).to_vec(),
        cpu: cpu.map(|(name, value)| (name.to_owned(), value)).into(),
        cpu_features: machine.features.clone(),
        cells: cells.collect(),
    }
}

/// The traits that the agent says of its host; all others are the operator's. Source: Nova's libvirt driver.
pub(super) const OWN_TRAITS: &[&str] = &[tpm_trait(TpmVersion::V1), tpm_trait(TpmVersion::V2)];

/// The trait of a host whose machines can have a trusted platform module.
pub(crate) const fn tpm_trait(version: TpmVersion) -> &'static str {
    match version {
        TpmVersion::V1 => "COMPUTE_SECURITY_TPM_1_2",
        TpmVersion::V2 => "COMPUTE_SECURITY_TPM_2_0",
    }
}

/// Those of [`OWN_TRAITS`] that this host has now: what is installed meanwhile is found.
pub(super) fn own_traits() -> Vec<String> {
    match find_program("swtpm") {
        Some(_) => OWN_TRAITS.iter().map(|name| (*name).to_owned()).collect(),
        None => Vec::new(),
    }
}

/// A machine for hosts that only pretend: two nodes with half of the processors, the memory and the huge pages each.
pub fn pretended(cpus: u32, memory_bytes: u64) -> Machine {
    let half = cpus / 2;
    // A quarter of the memory in pages of 2 MiB.
    let pages: BTreeMap<u64, u64> = [(2048, (memory_bytes / 8) >> 21)].into();
    let nodes = [(0, 0..half), (1, half..cpus)].map(|(id, cpus)| madang_host::machine::Node {
        id,
        cpus: cpus.collect(),
        memory_bytes: memory_bytes / 2,
        pages: pages.clone(),
    });
    Machine {
        vendor: "madang".to_owned(),
        model: "simulated".to_owned(),
        features: ["aes", "avx", "avx2", "fma", "sse4_2"].map(str::to_owned).to_vec(),
        topology: (2, half.max(1), 1),
        nodes: nodes.into(),
    }
}

/// When this machine was started.
pub fn booted() -> Option<Timestamp> {
    let uptime = std::fs::read_to_string("/proc/uptime").ok()?;
    let seconds: f64 = uptime.split_whitespace().next()?.parse().ok()?;
    Timestamp::now().checked_sub(Duration::from_secs(seconds as u64)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_told_in_the_schedulers_words() {
        let machine = pretended(8, 64 << 30);
        let told = capabilities(&machine, Some(Acceleration::Kvm), 7_002_009, &[3, 9]);
        assert_eq!(told.hypervisor_names, ["qemu", "kvm"]);
        assert_eq!(told.cpu["topology:cores"], "4");
        assert_eq!((told.cells.len(), &told.cells[1].cpus[..]), (2, &[4, 5, 6, 7][..]));
        assert_eq!((told.cells[0].memory_mb, told.cells[0].pages[&2048]), (32 << 10, 4096));
        assert_eq!(
            (&told.cells[0].dedicated[..], &told.cells[1].dedicated[..]),
            (&[3][..], &[][..])
        );
        assert!(capabilities(&machine, None, 0, &[]).hypervisor_names.is_empty());
    }
}
