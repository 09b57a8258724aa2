//! The hosts of this process: the machine it runs on, and those that only pretend.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs,
    sync::Arc,
};

use anyhow::{Context, bail};
use madang_block::{api::BlockApi, driver::file::FileBackEnd, vault::DirectoryVault};
use madang_compute::{
    Phase, Power, Server,
    agent::{AgentOptions, ConfigDriveFormat, Ground, HostFacts, facts},
    driver::{
        qemu::QemuDriver,
        simulated::{Behaviour, SimulatedDriver, World},
    },
    metadata_service::MetadataService,
    reach::Reach,
};
use madang_container::OciDriver;
use madang_control::TaskGroup;
use madang_host::{
    Instance,
    acceleration::{self, Acceleration, Probe},
    capability::{self, Capacity},
    machine::{Machine, numbers_of},
    workload::{Driver, DriverError, State},
};
use madang_image::{Intake, LocalCache, LocalIntake};
use tokio::time::Duration;
use tracing::warn;

use super::domains::Cloud;
use crate::{
    config::{self, Config},
    console::Checks,
    data_dir::{DataDir, write_secret},
};

/// What hosts without further word belong to, as with Nova.
const ZONE: &str = "nova";
/// What simulated hosts are called, and a number.
const SIMULATED: &str = "simulated-";
/// So that one can ask for them.
const SIMULATED_ZONE: &str = "simulated";
/// The version of QEMU that they pretend to have: Debian's.
const SIMULATED_VERSION: u64 = 7_002_009;

/// Drivers by the name that servers ask for.
pub type Drivers = BTreeMap<String, Arc<dyn Driver>>;

/// This machine.
pub struct Host {
    /// As the cloud knows it. Kept, since servers are bound to it and a machine's own name may change.
    name: String,
    instance: Instance,
    /// How machines run; an error says why they do not.
    probe: Result<Probe, String>,
    capacity: Capacity,
    /// Processors that are given to one server each.
    dedicated: Vec<u32>,
}

impl Host {
    /// In a few words, for the line of checks.
    pub fn summary(&self) -> String {
        match &self.probe {
            Ok(probe) if probe.acceleration == Acceleration::Kvm => "acceleration: KVM".to_owned(),
            Ok(_) => "acceleration: none usable, emulating".to_owned(),
            Err(why) => format!("acceleration: none, no virtual machines: {why}"),
        }
    }
}

/// Looks at this machine. What it lacks takes nothing else away: without QEMU containers still run.
///
/// # Errors
/// When the data directory cannot be read or written.
pub async fn examine(config: &Config, data: &DataDir, instance: Instance, checks: &mut Checks) -> anyhow::Result<Host> {
    let file = data.join("acceleration.json");
    let forced = async |forced, cpu: &str| Probe {
        acceleration: forced,
        cpu: cpu.to_owned(),
        reason: "the configuration says so".to_owned(),
        version: acceleration::version().await,
    };
    let probe = match config.host.acceleration {
        config::Acceleration::Auto => {
            let probing = checks
                .wait("running a guest to see how machines run", acceleration::probe(&file))
                .await;
            probing.map_err(|error| error.chain())
        }
        config::Acceleration::Kvm => Ok(forced(Acceleration::Kvm, "host").await),
        config::Acceleration::Tcg => Ok(forced(Acceleration::Tcg, "max").await),
    };
    let capacity = capability::capacity(data.path()).map_err(|error| anyhow::anyhow!(error.chain()))?;
    Ok(Host {
        name: name(data)?,
        instance,
        probe,
        capacity,
        dedicated: dedicated(config)?,
    })
}

/// The processors that the configuration gives to one server each, of those this machine has.
fn dedicated(config: &Config) -> anyhow::Result<Vec<u32>> {
    let list = &config.compute.cpu_dedicated_set;
    let numbers =
        numbers_of(list).with_context(|| format!("compute.cpu_dedicated_set: {list:?} is no list such as 2-5,8"))?;
    let here: Vec<u32> = Machine::here().nodes.into_iter().flat_map(|node| node.cpus).collect();
    match numbers.iter().find(|number| !here.contains(number)) {
        Some(number) => bail!("compute.cpu_dedicated_set: this machine has no processor {number}"),
        None if !numbers.is_empty() && numbers.len() == here.len() => {
            bail!("compute.cpu_dedicated_set: {list:?} leaves no processor for everything else")
        }
        None => Ok(numbers),
    }
}

/// The name that this machine had when the cloud began.
fn name(data: &DataDir) -> anyhow::Result<String> {
    let path = data.join("host-name");
    if let Ok(kept) = fs::read_to_string(&path) {
        return Ok(kept.trim().to_owned());
    }
    let name = nix::unistd::gethostname().context("could not read this machine's name")?;
    let name = name.to_string_lossy().into_owned();
    write_secret(&path, &format!("{name}\n"))?;
    Ok(name)
}

/// The drivers of this machine, by name.
///
/// # Errors
/// When their directories cannot be read or written.
pub async fn drivers(data: &DataDir, host: &Host, group: &TaskGroup) -> anyhow::Result<Drivers> {
    let mut drivers = Drivers::new();
    match &host.probe {
        Ok(probe) => {
            let qemu = QemuDriver::open(&data.join("servers"), &host.instance, probe.clone(), group).await;
            drivers.insert(
                "qemu".to_owned(),
                Arc::new(qemu.context("could not open the servers' directory")?),
            );
        }
        Err(why) => warn!(why, "no virtual machines on this host"),
    }
    let options = madang_container::Options {
        root: data.join("containers"),
        instance: host.instance.clone(),
        // This very program, also after its file was replaced by a newer one.
        shim: ["/proc/self/exe", "container-shim"].map(OsString::from).to_vec(),
        tasks: group.child("containers"),
    };
    match OciDriver::open(options).await {
        Ok(oci) => _ = drivers.insert("oci".to_owned(), Arc::new(oci)),
        Err(error @ DriverError::Host(_)) => warn!(%error, "no containers on this host"),
        Err(error) => return Err(error).context("could not open the containers' directory"),
    }
    Ok(drivers)
}

/// What keeps volumes on this machine, and its API.
///
/// # Errors
/// When their directory cannot be made.
pub fn block(cloud: &Cloud, data: &DataDir, host: &Host) -> anyhow::Result<BlockApi> {
    let back_end = FileBackEnd::open(&data.join("volumes")).context("could not open the volumes' directory")?;
    let vault = DirectoryVault::open(&data.join("backups")).context("could not open the backups' directory")?;
    Ok(BlockApi {
        store: cloud.store.clone(),
        host: host.name.clone(),
        back_end: Arc::new(back_end),
        vault: Arc::new(vault),
    })
}

/// Starts what makes volumes.
///
/// # Errors
/// When their directory cannot be read.
pub async fn start_volumes(cloud: &Cloud, block: BlockApi, group: &TaskGroup) -> anyhow::Result<()> {
    let images = LocalCache::new(cloud.store.clone(), Arc::clone(cloud.library.blobs()));
    let options = madang_block::control::Options {
        host: block.host,
        back_end: block.back_end,
        vault: block.vault,
        images: Arc::new(images),
        intake: Some(Arc::new(LocalIntake::new(Arc::clone(&cloud.library)))),
    };
    let started = madang_block::control::run(&cloud.store, options, group).await;
    started.context("could not look through the volumes' directory")
}

/// Starts the agents: this machine's, and those of the simulated hosts.
///
/// # Errors
/// When no range of user ids is free on this machine.
pub fn start(
    cloud: &Cloud,
    config: &Config,
    data: &DataDir,
    host: &Host,
    drivers: Drivers,
    simulated: Drivers,
    group: &TaskGroup,
) -> anyhow::Result<()> {
    let uids = host.instance.uids().map_err(|error| anyhow::anyhow!(error.chain()))?;
    let mut network = madang_network::agent::Options {
        metadata: Some(Arc::new(MetadataService::new(cloud.store.clone()))),
        ..madang_network::agent::Options::default()
    };
    if !config.network.name_servers.is_empty() {
        network.name_servers.clone_from(&config.network.name_servers);
    }
    madang_network::agent::run(&cloud.store, &host.name, host.instance.clone(), network, group);

    let (images, intake) = images(cloud);
    let ground = Ground {
        directory: data.join("servers"),
        volumes: data.join("volumes"),
        instance: host.instance.clone(),
        uids,
    };
    let options = AgentOptions {
        hosts: [host.name.clone()].into(),
        facts: facts_of(host),
        ground: Some(ground),
        drivers,
        images,
        intake,
        config_drive: config.compute.config_drive_format,
    };
    madang_compute::agent::run(&cloud.store, options, group);
    simulate(cloud, config, simulated, group);
    Ok(())
}

/// What simulated hosts run workloads with.
pub fn simulated(cloud: &Cloud, config: &Config) -> Drivers {
    if config.simulated_hosts == 0 {
        return Drivers::new();
    }
    let behaviour = Behaviour {
        // Copying takes its time wherever there are bytes, and who looks at once sees an image that is being saved.
        copy_takes: Duration::from_secs(1),
        ..Behaviour::default()
    };
    let simulated: Arc<dyn Driver> = Arc::new(SimulatedDriver::new(Arc::new(pretended(cloud)), behaviour));
    ["qemu", "oci"]
        .map(|name| (name.to_owned(), Arc::clone(&simulated)))
        .into()
}

/// The way to all hosts of this process.
pub fn reach(config: &Config, host: &Host, drivers: &Drivers, simulated: &Drivers) -> Reach {
    simulated_reach(config, simulated).and([host.name.clone()].into(), drivers.clone())
}

/// The way to the simulated hosts.
pub fn simulated_reach(config: &Config, simulated: &Drivers) -> Reach {
    Reach::default().and(simulated_names(config.simulated_hosts), simulated.clone())
}

/// Where agents get images from, and leave those that they make.
fn images(cloud: &Cloud) -> (Arc<dyn madang_image::Cache>, Arc<dyn Intake>) {
    let cache = LocalCache::new(cloud.store.clone(), Arc::clone(cloud.library.blobs()));
    (Arc::new(cache), Arc::new(LocalIntake::new(Arc::clone(&cloud.library))))
}

fn simulated_names(count: u32) -> BTreeSet<String> {
    (1..=count).map(|number| format!("{SIMULATED}{number:05}")).collect()
}

/// Starts one agent for all simulated hosts, if there are any. They take what real hosts take.
pub fn simulate(cloud: &Cloud, config: &Config, drivers: Drivers, group: &TaskGroup) {
    if config.simulated_hosts == 0 {
        return;
    }
    let (images, intake) = images(cloud);
    let is_simulated = |host: &str| host.starts_with(SIMULATED);
    // The upper half of each of their two nodes.
    let dedicated: Vec<u32> = (16..32).chain(48..64).collect();
    madang_network::agent::simulate(&cloud.store, is_simulated, group);
    let options = AgentOptions {
        hosts: simulated_names(config.simulated_hosts),
        facts: HostFacts {
            zone: SIMULATED_ZONE.to_owned(),
            cpus: 64,
            memory_bytes: 512 << 30,
            disk_bytes: 8 << 40,
            hypervisor: "simulated".to_owned(),
            acceleration: "nothing really runs here".to_owned(),
            capabilities: facts::capabilities(
                &facts::pretended(64, 512 << 30),
                Some(Acceleration::Kvm),
                SIMULATED_VERSION,
                &dedicated,
            ),
            booted: facts::booted(),
        },
        ground: None,
        drivers,
        images,
        intake,
        config_drive: ConfigDriveFormat::default(),
    };
    madang_compute::agent::run(&cloud.store, options, group);
}

/// What simulated hosts went on pretending while madang was away, as real ones go on running.
fn pretended(cloud: &Cloud) -> World {
    let servers = cloud.store.cache::<Server>().all();
    let on_simulated = servers.iter().filter(|server| {
        let host = server.status.host.as_ref();
        host.is_some_and(|host| host.starts_with(SIMULATED))
    });
    World::with(on_simulated.filter_map(|server| match server.status.phase {
        Phase::Active | Phase::Rescued => Some((server.metadata.uid, State::Running { pid: 0 })),
        Phase::Resized if server.spec.power == Power::On => Some((server.metadata.uid, State::Running { pid: 0 })),
        Phase::Paused => Some((server.metadata.uid, State::Paused)),
        Phase::Suspended => Some((server.metadata.uid, State::Suspended)),
        _ => None,
    }))
}

fn facts_of(host: &Host) -> HostFacts {
    let probe = host.probe.as_ref().ok();
    let (kind, version) = (
        probe.map(|probe| probe.acceleration),
        probe.map_or(0, |probe| probe.version),
    );
    let (acceleration, reason) = match &host.probe {
        Ok(probe) => (probe.acceleration.as_str().to_owned(), probe.reason.clone()),
        Err(why) => ("none".to_owned(), why.clone()),
    };
    HostFacts {
        zone: ZONE.to_owned(),
        cpus: host.capacity.cpus,
        memory_bytes: host.capacity.memory_bytes,
        disk_bytes: host.capacity.disk_bytes,
        hypervisor: format!("QEMU ({acceleration})"),
        acceleration: reason,
        capabilities: facts::capabilities(&Machine::here(), kind, version, &host.dedicated),
        booted: facts::booted(),
    }
}
