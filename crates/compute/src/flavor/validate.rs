//! Which extra specs of flavors there are, and what they may be: since 2.86 a misspelt one is refused instead of ignored.
//! Source: Nova's extra spec validators.

use std::sync::LazyLock;

use madang_http::{Failure, parse_bool};
use regex::Regex;

/// What an extra spec may be.
#[derive(Clone, Copy)]
enum Takes {
    /// Anything.
    Text,
    /// A switch.
    Switch,
    /// A whole number from this on.
    From(i64),
    /// One of these.
    OneOf(&'static [&'static str]),
    /// What matches this expression as a whole.
    Like(&'static str),
}

use Takes::{From, Like, OneOf, Switch, Text};

const LEVELS: Takes = OneOf(&["custom", "high", "normal", "low"]);
const ANY_NUMBER: Takes = From(i64::MIN);
const CPUS: Takes = Like(r"\^?\d+((-\d+)?(,\^?\d+(-\d+)?)?)*");

/// Names (as expressions) in namespaces that are known, and what they take.
const KNOWN: &[(&str, Takes)] = &[
    ("accel:device_profile", Text),
    ("aggregate_instance_extra_specs:.+", Text),
    (r"capabilities:\w+(:\w+)*", Text),
    ("group_policy", OneOf(&["isolate", "none"])),
    ("hide_hypervisor_id", Switch),
    ("hw:boot_menu", Switch),
    ("hw:cpu_cores", From(1)),
    ("hw:cpu_dedicated_mask", CPUS),
    ("hw:cpu_max_cores", From(1)),
    ("hw:cpu_max_sockets", From(1)),
    ("hw:cpu_max_threads", From(1)),
    ("hw:cpu_policy", OneOf(&["dedicated", "shared", "mixed"])),
    ("hw:cpu_realtime", Switch),
    ("hw:cpu_realtime_mask", Like(r"(\^)?\d+((-\d+)?(,\^?\d+(-\d+)?)?)*")),
    ("hw:cpu_sockets", From(1)),
    ("hw:cpu_thread_policy", OneOf(&["prefer", "isolate", "require"])),
    ("hw:cpu_threads", From(1)),
    ("hw:emulator_threads_policy", OneOf(&["isolate", "share"])),
    ("hw:ephemeral_encryption", Switch),
    ("hw:ephemeral_encryption_format", OneOf(&["plain", "luks", "luksv2"])),
    ("hw:hide_hypervisor_id", Switch),
    ("hw:locked_memory", Switch),
    ("hw:maxphysaddr_bits", From(0)),
    ("hw:maxphysaddr_mode", OneOf(&["passthrough", "emulate"])),
    ("hw:mem_encryption", Switch),
    (
        "hw:mem_encryption_model",
        OneOf(&["amd-sev", "amd-sev-es", "amd-sev-snp", "intel-tdx"]),
    ),
    ("hw:mem_page_size", Like(r"(large|small|any|\d+([kKMGT]i?)?(b|bit|B)?)")),
    (r"hw:numa_cpus\.\d+", CPUS),
    (r"hw:numa_mem\.\d+", From(1)),
    ("hw:numa_nodes", From(1)),
    (
        "hw:pci_numa_affinity_policy",
        OneOf(&["required", "preferred", "legacy", "socket"]),
    ),
    ("hw:pmem", Like("([a-zA-Z0-9_]+(,)?)+")),
    ("hw:pmu", Switch),
    ("hw:redirected_usb_ports", From(0)),
    ("hw:serial_port_count", From(0)),
    (
        "hw:sound_model",
        OneOf(&["sb16", "es1370", "pcspk", "ac97", "ich6", "ich9", "usb", "virtio"]),
    ),
    ("hw:tpm_model", OneOf(&["tpm-tis", "tpm-crb"])),
    ("hw:tpm_secret_security", OneOf(&["user", "host", "deployment"])),
    ("hw:tpm_version", OneOf(&["1.2", "2.0"])),
    ("hw:usb_model", OneOf(&["none", "nec-xhci", "qemu-xhci"])),
    ("hw:vif_multiqueue_enabled", Switch),
    ("hw:viommu_model", OneOf(&["intel", "smmuv3", "virtio", "auto"])),
    ("hw:virtio_packed_ring", Switch),
    (
        "hw:watchdog_action",
        OneOf(&["none", "pause", "poweroff", "reset", "disabled"]),
    ),
    ("hw_rng:allowed", Switch),
    ("hw_rng:rate_bytes", From(0)),
    ("hw_rng:rate_period", From(0)),
    ("hw_video:ram_max_mb", From(0)),
    ("os:secure_boot", OneOf(&["disabled", "required"])),
    ("pci_passthrough:alias", Like(r"[^:]+:\d+(?:\s*,\s*[^:]+:\d+)*")),
    ("quota:(cpu|memory|disk_io|vif)_limit", From(0)),
    ("quota:(cpu|memory|disk_io|vif)_reservation", ANY_NUMBER),
    ("quota:(cpu|memory|disk_io|vif)_shares_level", LEVELS),
    ("quota:(cpu|memory|disk_io|vif)_shares_share", From(0)),
    ("quota:cpu_(shares|period)", From(0)),
    ("quota:cpu_quota", ANY_NUMBER),
    ("quota:disk_(read|write|total)_(bytes|iops)_sec", From(0)),
    ("quota:vif_(inbound|outbound)_(average|peak|burst)", From(0)),
    ("resources([a-zA-Z0-9_-]{1,64})?:[A-Z0-9_]+", From(0)),
    (
        "trait([a-zA-Z0-9_-]{1,64})?:[A-Z0-9_]+",
        OneOf(&["required", "forbidden"]),
    ),
    ("vmware:(hw_version|storage_policy)", Text),
];

struct Known {
    names: Vec<(Regex, Takes)>,
    namespaces: Regex,
}

static COMPILED: LazyLock<Option<Known>> = LazyLock::new(|| {
    let names = KNOWN
        .iter()
        .map(|(name, takes)| Some((Regex::new(&format!("^(?:{name})$")).ok()?, *takes)))
        .collect::<Option<Vec<_>>>()?;
    let namespaces = "^(accel|aggregate_instance_extra_specs|capabilities|hw|hw_rng|hw_video|os|pci_passthrough|quota|\
                      resources([a-zA-Z0-9_-]{1,64})?|trait([a-zA-Z0-9_-]{1,64})?|vmware):";
    Some(Known {
        names,
        namespaces: Regex::new(namespaces).ok()?,
    })
});

/// Checks one extra spec. Names without a namespace, and in namespaces that nobody knows, are the operator's own.
///
/// # Errors
/// `Invalid` for a name that a known namespace does not have, and a value that the name does not take.
pub(super) fn check(name: &str, value: &str) -> Result<(), Failure> {
    let Some(known) = &*COMPILED else { return Ok(()) };
    if let Some((_, takes)) = known.names.iter().find(|(pattern, _)| pattern.is_match(name)) {
        return takes.check(name, value);
    }
    if known.namespaces.is_match(name) {
        let message = format!("Validation failed; extra spec '{name}' does not appear to be a valid extra spec.");
        return Err(Failure::invalid(message).at(name));
    }
    Ok(())
}

impl Takes {
    fn check(self, name: &str, value: &str) -> Result<(), Failure> {
        let wanted = match self {
            Text => return Ok(()),
            Switch if parse_bool(value).is_some() => return Ok(()),
            From(least) if value.parse::<i64>().is_ok_and(|number| number >= least) => return Ok(()),
            OneOf(words) if words.contains(&value) => return Ok(()),
            Like(pattern) if Regex::new(&format!("^(?:{pattern})$")).is_ok_and(|pattern| pattern.is_match(value)) => {
                return Ok(());
            }
            Switch => "it should be a boolean".to_owned(),
            From(i64::MIN) => "it should be an integer".to_owned(),
            From(least) => format!("it should be an integer from {least}"),
            OneOf(words) => format!("it should be one of {}", words.join(", ")),
            Like(pattern) => format!("it should match '{pattern}'"),
        };
        let message = format!("Validation failed; '{value}' is not a valid value for '{name}': {wanted}.");
        Err(Failure::invalid(message).at(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_compiles() {
        assert!(COMPILED.is_some());
        for (name, takes) in KNOWN {
            if let Like(pattern) = takes {
                assert!(Regex::new(pattern).is_ok(), "{name}");
            }
        }
    }

    #[test]
    fn known_names_take_what_they_take() {
        for (name, value) in [
            ("hw:cpu_policy", "dedicated"),
            ("hw:numa_nodes", "2"),
            ("hw:numa_cpus.0", "0-1,3"),
            ("hw:mem_page_size", "2MB"),
            ("quota:cpu_quota", "-1"),
            ("trait:CUSTOM_GOLD", "required"),
            ("resources1:VCPU", "4"),
            ("my_own", "anything"),
            ("vendor:thing", "anything"),
        ] {
            assert!(check(name, value).is_ok(), "{name}={value}");
        }
    }

    #[test]
    fn misspelt_names_and_values_are_refused() {
        for (name, value) in [
            ("hw:cpu_polic", "dedicated"),
            ("hw:cpu_policy", "sharrred"),
            ("hw:numa_nodes", "0"),
            ("hw:hide_hypervisor_id", "maybe"),
            ("quota:disk_read_bytes_second", "1"),
            ("trait:CUSTOM_GOLD", "preferred"),
        ] {
            let refused = check(name, value).unwrap_err();
            assert!(refused.message.contains(name), "{}", refused.message);
        }
    }
}
