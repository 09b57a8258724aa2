//! What this host can do: processors, memory, disk, kernel features (by trying them), programs.
//!
//! `madang doctor` prints it and the scheduler's inventory starts from it.

use std::{fs, path::Path, time::Duration};

use serde::Serialize;

use crate::{
    Error, Result,
    acceleration::{QEMU, QEMU_REMEDY},
    cgroup::{Hierarchies, Layout},
    mounts,
    netns::Netns,
    process::Command,
};

/// Longer than any program takes to tell its version.
const TIMEOUT: Duration = Duration::from_secs(5);

/// One thing that a host has or lacks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Capability {
    /// What it is, such as `bridges` or `qemu-img`.
    pub name: String,
    /// Whether it is there.
    pub present: bool,
    /// A version, or why it is not there.
    pub detail: String,
    /// What is impossible without it.
    pub needed_for: String,
    /// How to get it; empty when it is there.
    pub remedy: String,
}

/// Sizes of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Capacity {
    /// Processors this process may use.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Size of the file system that holds the data directory, in bytes.
    pub disk_bytes: u64,
    /// What is free on it, in bytes.
    pub disk_free_bytes: u64,
}

/// Reads the sizes. `directory` is the data directory.
pub fn capacity(directory: &Path) -> Result<Capacity> {
    let memory = fs::read_to_string("/proc/meminfo").map_err(Error::io("read /proc/meminfo"))?;
    let disk = nix::sys::statvfs::statvfs(directory).map_err(Error::io(format!(
        "find the size of the disk at {}",
        directory.display()
    )))?;
    Ok(Capacity {
        cpus: std::thread::available_parallelism().map_or(1, |count| count.get() as u32),
        memory_bytes: total_memory(&memory).unwrap_or_default(),
        disk_bytes: disk.blocks() as u64 * disk.fragment_size() as u64,
        disk_free_bytes: disk.blocks_available() as u64 * disk.fragment_size() as u64,
    })
}

fn total_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

/// Tries everything that madang needs. Kernel features are tried in a namespace that is thrown away. `directory` is on
/// the file system to try overlays on. Needs root for the kernel features; without it they count as absent.
pub async fn examine(directory: &Path) -> Vec<Capability> {
    let mut found = Vec::new();
    for program in PROGRAMS {
        found.push(examine_program(program).await);
    }
    found.extend(examine_kernel().await);
    found.push(examine_overlay(directory).await);
    found.push(examine_groups());
    found.push(examine_firmware());
    found
}

struct Program {
    name: &'static str,
    version: &'static [&'static str],
    needed_for: &'static str,
    remedy: &'static str,
}

const PROGRAMS: &[Program] = &[
    Program {
        name: QEMU,
        version: &["--version"],
        needed_for: "virtual machines",
        remedy: QEMU_REMEDY,
    },
    Program {
        name: "qemu-img",
        version: &["--version"],
        needed_for: "disks of virtual machines",
        remedy: "install it with `apt-get install qemu-utils`",
    },
    Program {
        name: "runc",
        version: &["--version"],
        needed_for: "containers",
        remedy: "install it with `apt-get install runc`",
    },
    Program {
        name: "swtpm",
        version: &["--version"],
        needed_for: "trusted platform modules of virtual machines",
        remedy: "install it with `apt-get install swtpm`",
    },
    Program {
        name: "nft",
        version: &["--version"],
        needed_for: "security groups and address translation",
        remedy: "install it with `apt-get install nftables`",
    },
];

async fn examine_program(program: &Program) -> Capability {
    let result = Command::new(program.name)
        .args(program.version)
        .if_missing(program.remedy)
        .run(TIMEOUT)
        .await;
    let detail = match &result {
        Ok(output) => String::from_utf8_lossy(&output.stdout)
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned(),
        Err(Error::Missing { .. }) => "not installed".into(),
        Err(error) => error.chain(),
    };
    verdict(
        program.name,
        program.needed_for,
        result.map(|_| ()),
        detail,
        program.remedy,
    )
}

fn verdict(name: &str, needed_for: &str, result: Result<()>, detail: String, remedy: &str) -> Capability {
    let present = result.is_ok();
    Capability {
        name: name.into(),
        present,
        detail,
        needed_for: needed_for.into(),
        remedy: if present { String::new() } else { remedy.into() },
    }
}

/// What a kernel must know, and a line for `nft` or `ip` that shows it.
async fn examine_kernel() -> Vec<Capability> {
    let netns = Netns::named(format!("mdg-probe-{}", &uuid::Uuid::new_v4().simple().to_string()[..8]));
    let made = netns.ensure().await.map(|_| ());
    let remedy = "run as root on a kernel with network namespaces (CONFIG_NET_NS)";
    let mut found = vec![describe("network namespaces", "every network", made, remedy)];
    if found[0].present {
        let bridge = crate::link::Bridge::default();
        let links = crate::link::Links::open(&netns).await;
        if let Ok(links) = &links {
            let made = links.ensure_bridge("probe", &bridge).await;
            found.push(describe(
                "bridges",
                "every network",
                made,
                "load the kernel module `bridge`",
            ));
            let end = |name: &str| crate::link::VethEnd {
                name: name.into(),
                netns: netns.clone(),
                mac: None,
                mtu: None,
            };
            let made = links.ensure_veth(&end("probe0"), &end("probe1")).await;
            found.push(describe(
                "veth pairs",
                "routers and containers",
                made,
                "load the kernel module `veth`",
            ));
        }
        let made = crate::tap::ensure(&netns, "probe2").await;
        found.push(describe(
            "taps",
            "virtual machines",
            made,
            "load the kernel module `tun`",
        ));
        let inet = "add table inet p\nadd chain inet p c { type nat hook postrouting priority 100; }\n\
                    add rule inet p c ct state new masquerade\n";
        let tried = crate::nft::apply(&netns, inet).await;
        let remedy = "load the kernel modules `nf_tables`, `nf_nat` and `nf_conntrack`";
        found.push(describe(
            "packet filter with connection tracking",
            "security groups and floating addresses",
            tried,
            remedy,
        ));
        let bridged = "add table bridge p\nadd chain bridge p c { type filter hook forward priority -10; }\n\
                       add rule bridge p c meta mark set 1\n";
        let tried = crate::nft::apply(&netns, bridged).await;
        found.push(describe(
            "packet filter on bridges",
            "security groups",
            tried,
            "use a kernel with CONFIG_NF_TABLES_BRIDGE",
        ));
        let key = "net/bridge/bridge-nf-call-iptables";
        let tried = crate::sysctl::set(&netns, &[(key, "1")]).await;
        found.push(describe(
            "br_netfilter",
            "security groups",
            tried,
            "load the kernel module `br_netfilter`",
        ));
        drop(links);
        if let Err(error) = netns.remove().await {
            tracing::warn!(error = %error.chain(), "could not remove the namespace of the examination");
        }
    }
    found
}

fn describe(name: &str, needed_for: &str, result: Result<()>, remedy: &str) -> Capability {
    let detail = result.as_ref().map_or_else(Error::chain, |()| "works".into());
    verdict(name, needed_for, result, detail, remedy)
}

async fn examine_overlay(directory: &Path) -> Capability {
    let base = directory.join(format!(".probe-{}", &uuid::Uuid::new_v4().simple().to_string()[..8]));
    let tried = tokio::task::spawn_blocking(move || {
        let result = try_overlay(&base);
        let _ = fs::remove_dir_all(&base);
        result
    });
    let tried = tried
        .await
        .unwrap_or_else(|error| Err(Error::Invalid(error.to_string())));
    describe(
        "overlay file systems",
        "containers",
        tried,
        "load the kernel module `overlay`, and keep the data on ext4 or xfs",
    )
}

fn try_overlay(base: &Path) -> Result<()> {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    for part in ["lower", "upper", "work", "merged"] {
        fs::create_dir_all(base.join(part)).map_err(Error::io(format!("make {}", base.display())))?;
    }
    let base = base.to_owned();
    mounts::on_host(move || {
        let at = |part: &str| base.join(part).display().to_string();
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            at("lower"),
            at("upper"),
            at("work")
        );
        let target = base.join("merged");
        mount(
            Some("overlay"),
            &target,
            Some("overlay"),
            MsFlags::empty(),
            Some(options.as_str()),
        )
        .map_err(Error::io("mount an overlay"))?;
        umount2(&target, MntFlags::MNT_DETACH).map_err(Error::io("unmount an overlay"))
    })
}

/// Debian's package puts it in one of these places, older releases in the second.
fn examine_firmware() -> Capability {
    let places = ["/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_CODE.fd"];
    let found = places.into_iter().find(|place| Path::new(place).exists());
    let result = found.map(|_| ()).ok_or_else(|| Error::Invalid("not installed".into()));
    let detail = found.unwrap_or("not installed").to_owned();
    let remedy = "install it with `apt-get install ovmf`";
    verdict(
        "UEFI firmware",
        "virtual machines that start through UEFI",
        result,
        detail,
        remedy,
    )
}

fn examine_groups() -> Capability {
    let hierarchies = Hierarchies::detect();
    let missing: Vec<&str> = ["cpu", "memory", "pids"]
        .into_iter()
        .filter(|name| !hierarchies.controllers().contains(name))
        .collect();
    let result = match (hierarchies.layout(), missing.as_slice()) {
        (Layout::None, _) => Err(Error::Invalid("not mounted".into())),
        (_, []) => Ok(()),
        (_, missing) => Err(Error::Invalid(format!("without {}", missing.join(", ")))),
    };
    let detail = match &result {
        Ok(()) => match hierarchies.layout() {
            Layout::V1 => "version 1".into(),
            Layout::Hybrid => "version 1 beside an empty version 2".into(),
            _ => "version 2".into(),
        },
        Err(error) => error.to_string(),
    };
    let remedy = "mount control groups with the controllers cpu, memory and pids (kernel option cgroup_enable=memory)";
    verdict("control groups", "limits", result, detail, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_bytes() {
        assert_eq!(
            total_memory("MemTotal:       24682416 kB\nMemFree: 1 kB\n"),
            Some(24_682_416 * 1024)
        );
        assert_eq!(total_memory("nothing"), None);
    }

    #[test]
    fn sizes_are_those_of_this_host() {
        let capacity = capacity(Path::new("/")).unwrap();
        assert!(
            capacity.cpus >= 1 && capacity.memory_bytes > 1 << 20 && capacity.disk_bytes >= capacity.disk_free_bytes
        );
    }

    #[tokio::test]
    async fn a_missing_program_comes_with_its_remedy() {
        let absent = Program {
            name: "no-such-program",
            version: &[],
            needed_for: "tests",
            remedy: "write it",
        };
        let found = examine_program(&absent).await;
        assert!(!found.present);
        assert_eq!(
            (found.detail.as_str(), found.remedy.as_str()),
            ("not installed", "write it")
        );
    }
}
