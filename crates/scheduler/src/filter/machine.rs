//! Filters that look at what a host's machine and hypervisor are.

use super::{Context, Why, matches, when};
use crate::{Capabilities, DISK_GB, MEMORY_MB, VCPU, snapshot::Host};

/// A fact of a host by the name that extra specs and queries have for it; none for one there is not.
pub(super) fn fact(host: &Host, name: &str) -> Option<String> {
    let inventory = |class: &str| host.provider.spec.inventories.get(class);
    let total = |class: &str| inventory(class).map_or(0, |one| one.total);
    let used = |class: &str| host.used.get(class).unwrap_or(0);
    let own = host.provider.status.capabilities.as_deref();
    let number = |value: i64| Some(value.to_string());
    match name {
        "host" | "hypervisor_hostname" | "nodename" => Some(host.name().to_owned()),
        "vcpus_total" => number(total(VCPU)),
        "vcpus_used" => number(used(VCPU)),
        "total_usable_ram_mb" => number(total(MEMORY_MB)),
        "free_ram_mb" => number(total(MEMORY_MB) - used(MEMORY_MB)),
        "total_usable_disk_gb" => number(total(DISK_GB)),
        "free_disk_mb" => number((total(DISK_GB) - used(DISK_GB)) * 1024),
        "disk_mb_used" => number(used(DISK_GB) * 1024),
        "num_instances" => number(i64::from(host.servers)),
        "num_io_ops" => number(i64::from(host.busy)),
        "ram_allocation_ratio" => inventory(MEMORY_MB).map(|one| one.allocation_ratio.to_string()),
        "cpu_allocation_ratio" => inventory(VCPU).map(|one| one.allocation_ratio.to_string()),
        "disk_allocation_ratio" => inventory(DISK_GB).map(|one| one.allocation_ratio.to_string()),
        "host_ip" => host.provider.status.address.clone(),
        "hypervisor_type" => own.map(|own| own.hypervisor_type.clone()),
        "hypervisor_version" => own.map(|own| own.hypervisor_version.to_string()),
        "cpu_info:features" => own.map(|own| own.cpu_features.join(" ")),
        other => {
            let key = other
                .strip_prefix("cpu_info:")
                .or_else(|| other.strip_prefix("cpu_info."))?;
            own?.cpu.get(key).cloned()
        }
    }
}

/// Extra specs `capabilities:…`, and those without a scope, compared with the host's facts.
pub(super) fn capabilities(context: &Context<'_>, host: &Host) -> Option<Why> {
    for (key, asked) in context.ask.extra_specs() {
        let name = match key.strip_prefix("capabilities:") {
            Some(name) => name,
            None if key.contains(':') || key == "group_policy" => continue,
            None => key,
        };
        // Without a scope it may be for the aggregates.
        let is_theirs = key == name && host.metadata(name).any(|value| matches(value, asked));
        if !is_theirs && !fact(host, name).is_some_and(|value| matches(&value, asked)) {
            return Some(format!("are not {name} {asked}").into());
        }
    }
    None
}

/// The image's architecture, hypervisor and kind of guest. A host that does not say what it is takes all.
pub(super) fn image(context: &Context<'_>, host: &Host) -> Option<Why> {
    let own: &Capabilities = host.provider.status.capabilities.as_deref()?;
    let ask = |name: &str| context.ask.image_property(name);
    let lacks = |known: &[String], wanted: Option<&str>| {
        !known.is_empty() && wanted.is_some_and(|wanted| !known.iter().any(|one| one.eq_ignore_ascii_case(wanted)))
    };
    let architecture = ask("hw_architecture").or_else(|| ask("architecture")).map(plain);
    let kind = ask("img_hv_type").or_else(|| ask("hypervisor_type"));
    let is_other = |wanted: &str| {
        let mut names = own.hypervisor_names.iter().chain([&own.hypervisor_type]);
        !own.hypervisor_type.is_empty() && !names.any(|name| name.eq_ignore_ascii_case(wanted))
    };
    let mode = ask("hw_vm_mode").or_else(|| ask("vm_mode"));
    let version = ask("img_hv_requested_version").or_else(|| ask("hypervisor_version_requires"));
    when(
        lacks(&own.architectures, architecture),
        "have another architecture than the image",
    )
    .or_else(|| {
        when(
            kind.is_some_and(is_other),
            "have another hypervisor than the image wants",
        )
    })
    .or_else(|| when(lacks(&own.vm_modes, mode), "do not run this kind of guest"))
    .or_else(|| {
        let is_old = version.is_some_and(|wanted| !holds(own.hypervisor_version, wanted));
        when(is_old, "have another hypervisor version than the image wants")
    })
}

/// Debian's and container images' names of architectures in the kernel's words.
fn plain(architecture: &str) -> &str {
    match architecture {
        "amd64" => "x86_64",
        "arm64" => "aarch64",
        "i386" | "i486" | "i586" => "i686",
        other => other,
    }
}

/// Whether a version, in thousands, meets conditions such as `>=4.0,<9`.
fn holds(version: u64, conditions: &str) -> bool {
    conditions.split(',').map(str::trim).all(|one| {
        let at = one.find(|c: char| c.is_ascii_digit()).unwrap_or(one.len());
        let (operator, wanted) = one.split_at(at);
        let mut parts = wanted.split('.').map(|part| part.trim().parse::<u64>().unwrap_or(0));
        let mut part = || parts.next().unwrap_or(0);
        let wanted = part() * 1_000_000 + part() * 1000 + part();
        match operator.trim() {
            ">=" => version >= wanted,
            "<=" => version <= wanted,
            ">" => version > wanted,
            "<" => version < wanted,
            "!=" => version != wanted,
            _ => version == wanted,
        }
    })
}

/// Seats on the host's NUMA nodes: dedicated processors (`hw:cpu_policy`), nodes (`hw:numa_nodes`), pages of the size asked
/// for (`hw:mem_page_size`).
pub(super) fn numa(context: &Context<'_>, host: &Host) -> Option<Why> {
    let seating = context.ask.seating.as_ref()?;
    when(
        host.seats(seating).is_none(),
        if seating.is_dedicated {
            "do not have so many dedicated processors left on their NUMA nodes"
        } else {
            "do not have the NUMA nodes or pages asked for"
        },
    )
}

/// Devices passed through are refused clearly rather than given without them.
pub(super) fn pci(context: &Context<'_>, _: &Host) -> Option<Why> {
    when(
        context.ask.extra_spec("pci_passthrough:alias").is_some(),
        "have no devices to pass through (pci_passthrough:alias)",
    )
}

#[cfg(test)]
mod tests {
    use super::holds;

    #[test]
    fn versions_are_compared_by_parts() {
        assert!(holds(7_002_009, ">=7.2") && holds(7_002_009, ">=4.0,<9") && holds(6_000_000, "==6"));
        assert!(!holds(7_002_009, "<7.2.9") && !holds(7_002_009, ">=8"));
    }
}
