//! A server: a machine or a container of a user.
//!
//! ```text
//!                       no host            the driver failed, too often
//!  create ──► Scheduling ────► Error ◄───────────────────────────────┐
//!                 │ claim placed (same transaction)                   │
//!                 ▼                 ports wired, image here, started  │
//!              Building ───────────────────────────────────────────► Active ◄──► Stopped
//!                 └────────────────────────────────────────────────►   ▲  └────► Paused
//!  delete: marked; the agent of its host ends the workload and drops the finalizer; without a host there is none
//! ```
//! Beside this, [`asked`]: suspended, rescued, rebuilt, moved to another size or host, put on the shelf and taken off it.
//! `spec` says what was asked (power, reboots), the agent brings `status.phase` there. Nova's `vm_state`, `task_state`
//! and `power_state` are views of both ([`state`]). A restart finds the phase and what the driver sees, and goes on.

pub mod action;
pub mod api;
pub mod asked;
pub mod control;
pub mod create;
pub mod departed;
pub mod diagnostics;
pub mod hardware;
pub mod interfaces;
mod load;
pub mod local;
pub(crate) mod machine;
pub mod metadata;
pub mod migration;
pub(crate) mod moves;
pub mod password;
pub mod rules;
pub mod shares;
pub mod state;
pub mod tags;
pub mod verbs;
pub mod view;
pub mod volumes;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, Ipv6Addr},
};

use jiff::Timestamp;
use madang_store::{Indexes, Kind};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use self::{
    action::{Action, ActionSpec, ActionStatus, Doing, Event},
    asked::{Asked, Move, MoveKind, Rescue, Rotation, Shelf, Snapshot, Stage},
    departed::{Departed, DepartedSpec, DepartedStatus},
    local::LocalDiskSpec,
    migration::{Migration, MigrationSpec, MigrationStatus},
};
use crate::FlavorSpec;

/// The finalizer under which a host's agent holds a server until its workload is gone.
pub const AGENT_FINALIZER: &str = "agent";

/// The kind of servers. `metadata.name` is the id. It owns its claim and the ports that were made for it.
pub struct Server;

impl Kind for Server {
    const NAME: &'static str = "servers";
    type Spec = ServerSpec;
    type Status = ServerStatus;

    fn indexes() -> Indexes<Self> {
        Indexes::<Self>::new()
            .on("host", |r| r.status.host.iter().cloned().collect())
            .on("image", |r| r.spec.image.iter().cloned().collect())
            .on("group", |r| r.spec.group.iter().map(Uuid::to_string).collect())
    }
}

/// What was asked of a server. Written by its verbs; by the agent only where noted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerSpec {
    /// What the user calls it; need not be unique.
    pub name: String,
    /// What the guest calls itself; a DNS label.
    pub hostname: String,
    /// Free text.
    #[serde(default)]
    pub description: Option<String>,
    /// The user who made it.
    pub user: String,
    /// The image it was made from.
    pub image: Option<String>,
    /// The image's properties, as they were then.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub image_properties: BTreeMap<String, String>,
    /// The flavor's id, as it was then.
    pub flavor_id: String,
    /// The flavor, as it was then.
    pub flavor: FlavorSpec,
    /// The key to put in, as it was then.
    #[serde(default)]
    pub key: Option<ServerKey>,
    /// For the guest, in base64, as it came.
    #[serde(default)]
    pub user_data: Option<String>,
    /// The user's own words about it.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    /// The user's tags.
    #[serde(default)]
    pub tags: BTreeSet<String>,
    /// Gets its metadata on a drive, too.
    #[serde(default)]
    pub config_drive: bool,
    /// The zone it has to be in, wherever it moves.
    #[serde(default)]
    pub availability_zone: Option<String>,
    /// What its maker told the scheduler, but for the group: name to values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub hints: BTreeMap<String, Vec<String>>,
    /// The driver that runs it: `qemu` or `oci`.
    pub driver: String,
    /// Whether it is to run. The agent writes `Off` when the guest powered itself off.
    pub power: Power,
    /// Reboots asked for so far.
    #[serde(default)]
    pub reboots: u64,
    /// Whether the last reboot asked for is a hard one.
    #[serde(default)]
    pub is_hard_reboot: bool,
    /// Who locked it, and why.
    #[serde(default)]
    pub lock: Option<Lock>,
    /// The server group it is in.
    #[serde(default)]
    pub group: Option<Uuid>,
    /// The request that made it, `r-…`; shared by servers made together.
    pub reservation_id: String,
    /// Its place among them, from 0.
    #[serde(default)]
    pub launch_index: u32,
    /// What the user said of the disk's partitions: `AUTO` rather than `MANUAL`. Said back, nothing more.
    #[serde(default)]
    pub is_disk_automatic: bool,
    /// Where the user says it is reached. Said back, nothing more.
    #[serde(default)]
    pub access_ipv4: Option<Ipv4Addr>,
    /// Where the user says it is reached, in IPv6. Said back, nothing more.
    #[serde(default)]
    pub access_ipv6: Option<Ipv6Addr>,
    /// What is put into the guest when its root is made.
    #[serde(default)]
    pub injected: Injected,
    /// The disks that its host makes for it, in guest order, after the root.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<LocalDiskSpec>,
    /// What is asked of it beyond power and reboots.
    #[serde(default)]
    pub asked: Asked,
}

/// What a guest finds on its config drive beside what is told of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Injected {
    /// Files for its root; Nova's `personality`.
    #[serde(default)]
    pub files: Vec<InjectedFile>,
    /// The password for its administrator. Told once: the agent takes it back when the guest has started.
    #[serde(default)]
    pub password: Option<String>,
}

/// A file for a guest's root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InjectedFile {
    /// Where it goes.
    pub path: String,
    /// Its bytes, in base64.
    pub contents: String,
}

/// A key as it was when the server was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerKey {
    /// Its name.
    pub name: String,
    /// `ssh` or `x509`.
    #[serde(rename = "type")]
    pub key_type: String,
    /// The public key.
    pub public_key: String,
}

/// What a server is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Power {
    /// Run.
    On,
    /// Be off, its disk kept.
    Off,
    /// Hold still, its memory kept.
    Paused,
    /// Be off, its memory kept on the disk.
    Suspended,
}

/// Nobody but who locked it (or an admin) may change it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lock {
    /// An admin locked it: its owner cannot unlock it.
    pub by_admin: bool,
    /// Why.
    #[serde(default)]
    pub reason: Option<String>,
}

/// What is seen of a server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServerStatus {
    /// Where it is on its way. Written by the claim's rule (placed or not), then by the agent.
    #[serde(default)]
    pub phase: Phase,
    /// The host it is on (a provider's name). Written by the claim's rule.
    #[serde(default)]
    pub host: Option<String>,
    /// Why it is in error, or what went wrong last.
    #[serde(default)]
    pub fault: Option<Fault>,
    /// When it was first active.
    #[serde(default)]
    pub launched: Option<Timestamp>,
    /// The last reboot that was done, of those asked for.
    #[serde(default)]
    pub reboots_done: u64,
    /// Its place among the host's workloads, from which its user id there follows.
    #[serde(default)]
    pub slot: Option<u32>,
    /// The ports whose interfaces its guest has; not known of servers that were started before this was kept. Written by
    /// the agent.
    #[serde(default)]
    pub interfaces: Option<BTreeSet<Uuid>>,
    /// How often the agent has tried to start it without success.
    #[serde(default)]
    pub attempts: u32,
    /// The last rebuild that was done, of those asked for.
    #[serde(default)]
    pub rebuilds_done: u64,
    /// What it was before it was scheduled or built again; none when it is new.
    #[serde(default)]
    pub before: Option<Phase>,
    /// What its root stands on, from its first start on: the image may go or change its name.
    #[serde(default)]
    pub base: Option<Base>,
    /// The image it came off the shelf with, until it runs; then the image goes.
    #[serde(default)]
    pub unshelved: Option<String>,
    /// When it was soft-deleted.
    #[serde(default)]
    pub soft_deleted: Option<Timestamp>,
    /// The password the guest made for itself, encrypted with its user's key. Written by what the guest posts.
    #[serde(default)]
    pub password: Option<String>,
    /// The action under way, of those that are recorded.
    #[serde(default)]
    pub action: Option<Doing>,
}

/// The bytes that a root is a layer over, as the host's cache has them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// SHA-512 in hex.
    pub digest: String,
    /// How many bytes.
    pub size: u64,
    /// The size of the disk that a guest sees, in bytes; none for what is not a disk.
    #[serde(default)]
    pub virtual_size: Option<u64>,
    /// What the bytes are.
    pub disk_format: madang_image::DiskFormat,
    /// What they are wrapped in.
    pub container_format: madang_image::ContainerFormat,
}

/// Where a server is on its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Waits for a host.
    #[default]
    Scheduling,
    /// Its host gets it ready.
    Building,
    /// Runs.
    Active,
    /// Is off.
    Stopped,
    /// Holds still.
    Paused,
    /// Is off, its memory on the disk.
    Suspended,
    /// Runs from another root, to be mended.
    Rescued,
    /// Runs (or is off) in a new size or place, and waits for a word.
    Resized,
    /// Is off, its root kept in an image, too.
    Shelved,
    /// Is nowhere, its root kept in an image.
    Offloaded,
    /// Is off, and goes after a while unless it is wanted back.
    SoftDeleted,
    /// Could not be what was asked; `fault` says why.
    Error,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fault {
    /// An HTTP-like code: 500 for what the cloud could not do, 400 for what the request made impossible.
    pub code: u16,
    /// For the user: what, with which value, and what to do.
    pub message: String,
    /// When.
    pub created: Timestamp,
    /// More, for those who may know of hosts: what each filter of the scheduler left, a line for each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<String>,
}

impl Fault {
    /// One without details.
    pub fn new(code: u16, message: impl Into<String>, created: Timestamp) -> Self {
        Self {
            code,
            message: message.into(),
            created,
            details: None,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use madang_store::{Metadata, Resource};

    use super::*;

    /// A server that has just been asked for.
    pub(crate) fn server(name: &str) -> Resource<Server> {
        let flavor = FlavorSpec {
            name: "m1.tiny".to_owned(),
            vcpus: 1,
            ram_mb: 128,
            disk_gb: 1,
            ephemeral_gb: 0,
            swap_mb: 0,
            rxtx_factor: 1.0,
            is_public: true,
            is_disabled: false,
            description: None,
            extra_specs: BTreeMap::new(),
            access: BTreeSet::new(),
        };
        let spec = ServerSpec {
            name: name.to_owned(),
            hostname: name.to_owned(),
            description: None,
            user: "u1".to_owned(),
            image: Some(Uuid::nil().to_string()),
            image_properties: BTreeMap::new(),
            flavor_id: "1".to_owned(),
            flavor,
            key: None,
            user_data: None,
            metadata: BTreeMap::new(),
            tags: BTreeSet::new(),
            config_drive: false,
            availability_zone: None,
            hints: BTreeMap::new(),
            driver: "qemu".to_owned(),
            power: Power::On,
            reboots: 0,
            is_hard_reboot: false,
            lock: None,
            group: None,
            reservation_id: "r-1".to_owned(),
            launch_index: 0,
            is_disk_automatic: false,
            access_ipv4: None,
            access_ipv6: None,
            injected: Injected::default(),
            disks: Vec::new(),
            asked: Asked::default(),
        };
        Resource::new(Metadata::with_id("p1"), spec)
    }
}
