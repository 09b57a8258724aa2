//! The container as the OCI runtime is told about it.
//!
//! The document is written as data rather than through builders, because it is read far more often than changed and reads
//! like the specification; a test checks it against the specification's own types.

mod program;
mod seccomp;
mod user;

use std::path::{Path, PathBuf};

use madang_host::userns::IdRange;
use serde_json::{Value, json};

pub(crate) use self::{
    program::check as check_program,
    user::{Account, User},
};
use crate::record::Spec;

/// What a container whose image says nothing finds its programs in.
pub(crate) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Rights over its own files, processes and network that programs running as root expect. Not in it, of what others give:
/// making devices, writing to the audit log, file capabilities.
const CAPABILITIES: [&str; 11] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// Parts of `/proc` and `/sys` that tell about the host or slow it down.
const MASKED: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Processes and threads per virtual processor; a Java server has a few hundred.
pub(crate) const PROCESSES_PER_VCPU: u64 = 2048;
/// Open files: more than any program needs, fewer than hurt programs that loop over all of them.
pub(crate) const OPEN_FILES: u64 = 65536;
/// The kernel ends containers before the host's own services when memory is short.
const OOM_SCORE: i32 = 200;

/// Starts the best shell there is. Every image with a shell has this one.
const SHELL: &str = "command -v bash >/dev/null 2>&1 && exec bash -i || exec sh -i";
/// What the console's page and most terminal programs are.
const TERMINAL: &str = "xterm-256color";

/// What only the shim knows at the time of the start.
pub(crate) struct Place<'a> {
    pub rootfs: &'a Path,
    /// Holds `hostname`, `hosts` and `resolv.conf`.
    pub etc: &'a Path,
    pub user_ns: PathBuf,
    pub net_ns: PathBuf,
    pub user: &'a User,
    /// Whether the host counts swap, so that it can be limited.
    pub limit_swap: bool,
    /// Open files per process.
    pub open_files: u64,
}

/// The OCI runtime specification of a container.
pub(crate) fn document(spec: &Spec, place: &Place<'_>) -> Value {
    json!({
        "ociVersion": "1.0.2",
        "hostname": spec.hostname,
        "root": { "path": place.rootfs, "readonly": false },
        "process": process(spec, place),
        "mounts": mounts(place.etc),
        "linux": linux(spec, place),
    })
}

fn process(spec: &Spec, place: &Place<'_>) -> Value {
    let user = place.user;
    // A user other than root has none of the capabilities; the bound stays, for what root's helpers may give it.
    let held: &[&str] = if user.uid == 0 { &CAPABILITIES } else { &[] };
    json!({
        "terminal": false,
        "user": { "uid": user.uid, "gid": user.gid, "additionalGids": user.groups },
        "args": spec.command,
        "env": spec.env,
        "cwd": spec.working_dir,
        "capabilities": {
            "bounding": CAPABILITIES, "effective": held, "permitted": held, "inheritable": [], "ambient": [],
        },
        "rlimits": [{ "type": "RLIMIT_NOFILE", "soft": place.open_files, "hard": place.open_files },
                    { "type": "RLIMIT_CORE", "soft": 0, "hard": 0 }],
        "noNewPrivileges": true,
        "oomScoreAdj": OOM_SCORE,
    })
}

/// A shell beside the container's first process, with the same rights, on a terminal.
pub(crate) fn shell(process: &Value) -> Value {
    let mut shell = process.clone();
    shell["terminal"] = json!(true);
    shell["args"] = json!(["/bin/sh", "-c", SHELL]);
    if let Some(env) = shell["env"].as_array_mut() {
        env.retain(|entry| !entry.as_str().is_some_and(|entry| entry.starts_with("TERM=")));
        env.push(json!(format!("TERM={TERMINAL}")));
    }
    shell
}

fn mounts(etc: &Path) -> Value {
    let mut mounts = vec![
        json!({ "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] }),
        json!({ "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                "options": ["nosuid", "strictatime", "mode=755", "size=1m"] }),
        json!({ "destination": "/dev/pts", "type": "devpts", "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] }),
        json!({ "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
                "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=64m"] }),
        json!({ "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"] }),
        json!({ "destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"] }),
        json!({ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
                "options": ["nosuid", "noexec", "nodev", "relatime", "ro"] }),
    ];
    for name in ["hostname", "hosts", "resolv.conf"] {
        mounts.push(json!({
            "destination": format!("/etc/{name}"), "type": "bind", "source": etc.join(name),
            "options": ["bind", "nosuid", "noexec", "nodev"],
        }));
    }
    Value::Array(mounts)
}

fn linux(spec: &Spec, place: &Place<'_>) -> Value {
    let mapping = json!([{ "containerID": 0, "hostID": spec.first_id, "size": IdRange::COUNT }]);
    let vcpus = u64::from(spec.vcpus.max(1));
    let mut memory = json!({ "limit": spec.memory_bytes });
    if place.limit_swap {
        // The sum of memory and swap.
        memory["swap"] = json!(spec.memory_bytes + spec.swap_bytes);
    }
    json!({
        "uidMappings": mapping,
        "gidMappings": mapping,
        "namespaces": [
            { "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" }, { "type": "cgroup" },
            { "type": "user", "path": place.user_ns }, { "type": "network", "path": place.net_ns },
        ],
        // The network namespace is the container's own, so low ports and ping may be too.
        "sysctl": { "net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 65535" },
        "cgroupsPath": format!("/{}", spec.cgroup),
        "resources": {
            "devices": [{ "allow": false, "access": "rwm" }],
            "memory": memory,
            "cpu": { "shares": vcpus * 1024, "quota": vcpus * 100_000, "period": 100_000 },
            "pids": { "limit": vcpus * PROCESSES_PER_VCPU },
        },
        "seccomp": seccomp::profile(),
        "maskedPaths": MASKED,
        "readonlyPaths": READ_ONLY,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> Spec {
        serde_json::from_value(json!({
            "id": "01890a5d-ac96-774b-bcce-b302099a8057", "run": "01890a5d-ac96-774b-bcce-b302099a8057", "hostname": "web", "command": ["/bin/app", "-v"],
            "env": ["PATH=/bin"], "working_dir": "/srv", "user": "", "stop_signal": 15, "layers": [], "lower": [],
            "first_id": 536_870_912, "vcpus": 2, "memory_bytes": 67_108_864, "nics": [], "name_servers": [],
            "cgroup": "madang-0a1b2c/ct-1", "shims": "madang-0a1b2c/shims", "runc": "/usr/sbin/runc", "events": "/tmp/events",
        }))
        .unwrap()
    }

    fn place(user: &User) -> Place<'_> {
        Place {
            rootfs: Path::new("/mnt/root"),
            etc: Path::new("/mnt/etc"),
            user_ns: "/proc/1/fd/3".into(),
            net_ns: "/proc/1/fd/4".into(),
            user,
            limit_swap: true,
            open_files: 1024,
        }
    }

    #[test]
    fn the_document_is_a_valid_oci_specification() {
        let document = document(
            &spec(),
            &place(&User {
                uid: 0,
                gid: 0,
                groups: vec![1],
            }),
        );
        let parsed: oci_spec::runtime::Spec = serde_json::from_value(document.clone()).unwrap();
        // Nothing we wrote is unknown to the specification: it all comes back.
        let again = serde_json::to_value(&parsed).unwrap();
        assert_contains(&again, &document, "");
        let linux = parsed.linux().as_ref().unwrap();
        assert_eq!(linux.namespaces().as_ref().unwrap().len(), 7);
        assert_eq!(
            linux.resources().as_ref().unwrap().memory().unwrap().limit(),
            Some(67_108_864)
        );
        assert_eq!(parsed.process().as_ref().unwrap().no_new_privileges(), Some(true));
    }

    #[test]
    fn swap_is_what_it_may_use_beyond_its_memory() {
        let user = User {
            uid: 0,
            gid: 0,
            groups: vec![],
        };
        let swap = |swap_bytes| {
            let spec = Spec { swap_bytes, ..spec() };
            document(&spec, &place(&user))["linux"]["resources"]["memory"]["swap"].clone()
        };
        assert_eq!(swap(0), 67_108_864, "none at all");
        assert_eq!(swap(1 << 20), 67_108_864 + (1 << 20));
    }

    fn assert_contains(all: &Value, part: &Value, at: &str) {
        match (all, part) {
            (Value::Object(all), Value::Object(part)) => {
                for (key, value) in part {
                    assert_contains(all.get(key).unwrap_or(&Value::Null), value, &format!("{at}.{key}"));
                }
            }
            // Sets come back in another order.
            (Value::Array(all), Value::Array(part)) => assert_eq!(all.len(), part.len(), "{at}"),
            _ => assert_eq!(all, part, "{at}"),
        }
    }

    #[test]
    fn other_users_than_root_hold_no_capabilities() {
        let user = User {
            uid: 1000,
            gid: 1000,
            groups: vec![],
        };
        let process = &document(&spec(), &place(&user))["process"];
        assert_eq!(process["capabilities"]["effective"], json!([]));
        assert_eq!(process["capabilities"]["permitted"], json!([]));
        assert!(!CAPABILITIES.contains(&"CAP_SYS_ADMIN"));
    }
}
