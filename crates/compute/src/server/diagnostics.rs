//! `/servers/{id}/diagnostics` and `/servers/{id}/topology`: what a running server uses, and what its host gave it.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Path, State},
    response::Response,
    routing::get,
};
use http::StatusCode;
use madang_block::Attachment;
use madang_host::workload::{DiskName, DriverError, Hardware, NicUsage, Usage};
use madang_http::{Failure, Microversion, json};
use madang_identity::Caller;
use madang_store::{Resource, Store};
use serde_json::{Map, Value, json};

use super::{LocalDiskSpec, api::find_for, hardware, local, machine, state, volumes};
use crate::{
    Server,
    api::{ComputeApi, input},
};

/// The routes.
pub(crate) fn routes() -> Router<ComputeApi> {
    Router::new()
        .route("/servers/{id}/diagnostics", get(diagnostics))
        .route("/servers/{id}/topology", get(topology))
}

/// `GET /servers/{id}/diagnostics`: flat until 2.47, the same for every driver since 2.48.
async fn diagnostics(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let server = find_for(&api, &caller, &id, "os_compute_api:os-server-diagnostics")?;
    let state = state::of(&server);
    if !matches!(state.vm_state, "active" | "paused" | "rescued") {
        let message = format!(
            "Cannot 'get_diagnostics' instance {id} while it is in vm_state {}",
            state.vm_state
        );
        return Err(Failure::conflict(message));
    }
    let usage = async { api.reach.driver(&server)?.usage(server.metadata.uid).await };
    let usage = usage.await.map_err(|error| unknown(&error))?;
    let shown = if version >= Microversion(2, 48) {
        common(&server, &usage)
    } else {
        Value::Object(flat(&api.store, &server, &usage))
    };
    Ok(json(StatusCode::OK, &shown))
}

fn unknown(error: &DriverError) -> Failure {
    let failure = Failure::conflict(error.to_string());
    match error {
        DriverError::Unsupported { .. } => failure.with_status(StatusCode::NOT_IMPLEMENTED),
        _ => failure,
    }
}

fn nanoseconds(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn mac(nic: &NicUsage) -> String {
    let parts: Vec<String> = nic.mac.iter().map(|byte| format!("{byte:02x}")).collect();
    parts.join(":")
}

/// The members that Nova's libvirt driver has.
fn flat(store: &Store, server: &Resource<Server>, usage: &Usage) -> Map<String, Value> {
    let mut shown = Map::new();
    for (index, time) in usage.cpu_time.iter().enumerate() {
        shown.insert(format!("cpu{index}_time"), json!(nanoseconds(*time)));
    }
    let volumes = volumes::of(store, server.name());
    for disk in &usage.disks {
        let Some(name) = device_of(&server.spec.disks, &volumes, &disk.disk) else {
            continue;
        };
        shown.insert(format!("{name}_read"), json!(disk.read.0));
        shown.insert(format!("{name}_read_req"), json!(disk.read.1));
        shown.insert(format!("{name}_write"), json!(disk.written.0));
        shown.insert(format!("{name}_write_req"), json!(disk.written.1));
        shown.insert(format!("{name}_errors"), json!(disk.errors));
    }
    for (index, nic) in usage.nics.iter().enumerate() {
        for (way, counts) in [("rx", nic.received), ("tx", nic.sent)] {
            shown.insert(format!("vnet{index}_{way}"), json!(counts.0));
            shown.insert(format!("vnet{index}_{way}_packets"), json!(counts.1));
            shown.insert(format!("vnet{index}_{way}_errors"), json!(counts.2));
            shown.insert(format!("vnet{index}_{way}_drop"), json!(counts.3));
        }
    }
    // In KiB, as libvirt has it.
    shown.insert("memory".to_owned(), json!(u64::from(server.spec.flavor.ram_mb) * 1024));
    shown.insert("memory-actual".to_owned(), json!(usage.memory_bytes / 1024));
    if let Some(used) = usage.memory_used_bytes {
        shown.insert("memory-rss".to_owned(), json!(used / 1024));
    }
    shown
}

/// What a disk is called inside, as far as the guest was told: `vdb`.
fn device_of(locals: &[LocalDiskSpec], volumes: &[Arc<Resource<Attachment>>], disk: &DiskName) -> Option<String> {
    let path = match disk {
        DiskName::Root => return Some("vda".to_owned()),
        DiskName::Local(name) => local::named(locals).find(|(own, _)| own == name)?.1.device.clone(),
        DiskName::Disk(id) => {
            let id = id.to_string();
            let volume = volumes.iter().find(|volume| volume.spec.volume == id)?;
            volume.spec.mountpoint.clone()?
        }
    };
    Some(path.trim_start_matches("/dev/").to_owned())
}

/// The form that is the same for every driver. Its words for drivers are a closed list, in which ours is nearest to
/// `libvirt`.
fn common(server: &Resource<Server>, usage: &Usage) -> Value {
    let cpus: Vec<Value> = (0..)
        .zip(&usage.cpu_time)
        .map(|(id, time): (u32, _)| json!({ "id": id, "time": nanoseconds(*time), "utilisation": null }))
        .collect();
    let disks: Vec<Value> = usage
        .disks
        .iter()
        .map(|disk| {
            json!({
                "read_bytes": disk.read.0, "read_requests": disk.read.1,
                "write_bytes": disk.written.0, "write_requests": disk.written.1,
                "errors_count": disk.errors,
            })
        })
        .collect();
    let nics: Vec<Value> = usage.nics.iter().map(nic).collect();
    let is_paused = state::of(server).power_state == 3;
    json!({
        "state": if is_paused { "paused" } else { "running" },
        "driver": "libvirt",
        "hypervisor": server.spec.driver,
        "hypervisor_os": "linux",
        "uptime": usage.uptime.as_secs(),
        "config_drive": server.spec.config_drive,
        "num_cpus": cpus.len(),
        "num_nics": nics.len(),
        "num_disks": disks.len(),
        "memory_details": {
            "maximum": server.spec.flavor.ram_mb,
            "used": usage.memory_used_bytes.map(|used| used >> 20),
        },
        "cpu_details": cpus,
        "nic_details": nics,
        "disk_details": disks,
    })
}

fn nic(nic: &NicUsage) -> Value {
    json!({
        "mac_address": mac(nic),
        "rx_octets": nic.received.0, "rx_packets": nic.received.1,
        "rx_errors": nic.received.2, "rx_drop": nic.received.3, "rx_rate": null,
        "tx_octets": nic.sent.0, "tx_packets": nic.sent.1,
        "tx_errors": nic.sent.2, "tx_drop": nic.sent.3, "tx_rate": null,
    })
}

/// `GET /servers/{id}/topology`, since 2.78: a server without NUMA nodes of its own has none to show.
async fn topology(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    input::since(version, 78)?;
    let server = find_for(&api, &caller, &id, "compute:server:topology:index")?;
    let shows_host = caller.enforce("compute:server:topology:host:index", &[]).is_ok();
    let mut hardware = match server.spec.driver.as_str() {
        "qemu" => machine::hardware(&api.store, &server).map_err(|unfit| Failure::conflict(unfit.to_string()))?,
        _ => Hardware::default(),
    };
    let (seats, flavor) = (machine::seats(&api.store, &server), &server.spec.flavor);
    hardware::sit(&mut hardware, &seats, &[], flavor.vcpus, flavor.ram_mb);
    Ok(json(StatusCode::OK, &nodes(&hardware, shows_host)))
}

/// The NUMA nodes of a machine; those of its host, where they are to be seen.
fn nodes(hardware: &Hardware, shows_host: bool) -> Value {
    let pinned = &hardware.cpu.pinned;
    let threads = hardware.cpu.topology.map_or(1, |(_, _, threads)| threads) as usize;
    let nodes = hardware.numa.iter().map(|node| {
        let siblings: Vec<&[u32]> = match threads {
            0 | 1 => Vec::new(),
            threads => node.cpus.chunks_exact(threads).collect(),
        };
        let mut shown = json!({ "memory_mb": node.memory_mib, "vcpu_set": node.cpus, "siblings": siblings });
        if shows_host {
            let pinning = node.cpus.iter().filter_map(|cpu| {
                let own = pinned.get(*cpu as usize)?;
                Some((cpu.to_string(), json!(own)))
            });
            shown["host_node"] = json!(node.host_node.unwrap_or_default());
            shown["cpu_pinning"] = Value::Object(pinning.collect());
        }
        shown
    });
    let page = hardware.numa.iter().find_map(|node| node.page_kib);
    json!({ "nodes": nodes.collect::<Vec<_>>(), "pagesize_kb": page })
}

#[cfg(test)]
mod tests {
    use madang_host::workload::NumaNode;
    use madang_scheduler::Seat;

    use super::*;

    #[test]
    fn nodes_are_shown_with_their_place() {
        let nowhere = nodes(&Hardware::default(), true);
        assert_eq!(nowhere, json!({ "nodes": [], "pagesize_kb": null }));
        let mut hardware = Hardware {
            numa: vec![NumaNode {
                cpus: vec![0, 1],
                memory_mib: 512,
                ..NumaNode::default()
            }],
            ..Hardware::default()
        };
        hardware.cpu.topology = Some((1, 1, 2));
        let seat = Seat {
            cell: 1,
            cpus: vec![6, 7],
            pages: Some((2048, 256)),
        };
        hardware::sit(&mut hardware, &[seat], &[], 2, 512);
        let shown = nodes(&hardware, true);
        let node = json!({
            "memory_mb": 512, "vcpu_set": [0, 1], "siblings": [[0, 1]], "host_node": 1,
            "cpu_pinning": { "0": 6, "1": 7 },
        });
        assert_eq!(shown, json!({ "nodes": [node], "pagesize_kb": 2048 }));
        let shown = nodes(&hardware, false);
        assert_eq!(
            shown["nodes"],
            json!([{ "memory_mb": 512, "vcpu_set": [0, 1], "siblings": [[0, 1]] }]),
            "where it is, is for who may know of hosts"
        );
    }
}
