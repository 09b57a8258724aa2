//! `block_device_mapping` and `block_device_mapping_v2` of a request for servers: which disks they begin with.

use madang_block::{Device, Snapshot, Source, Volume, VolumeState, VolumeType};
use madang_host::workload::{DiskBus, DiskKind, FileSystem};
use madang_http::Failure;
use madang_identity::Caller;
use madang_image::{Image, is_visible};
use madang_store::Store;
use serde_json::Value;

use super::{DeviceRequest, DeviceSource, bus};
use crate::server::local::{LocalKind, LocalRequest};

/// The disks that a request asks for beside what its image and its flavor bring along.
#[derive(Clone, Debug, Default)]
pub struct Disks {
    /// Volumes, the root first.
    pub volumes: Vec<DeviceRequest>,
    /// Those that the host is to make.
    pub locals: Vec<LocalRequest>,
}

/// One of them.
enum One {
    Volume(DeviceRequest),
    Local(LocalRequest),
}

impl Disks {
    fn add(&mut self, one: Option<One>) {
        match one {
            Some(One::Volume(volume)) => self.volumes.push(volume),
            Some(One::Local(local)) => self.locals.push(local),
            None => {}
        }
    }

    /// The volume that the server starts from, if it does.
    pub fn root(&self) -> Option<&DeviceRequest> {
        self.volumes.iter().find(|volume| volume.device.boot_index == Some(0))
    }

    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.volumes.is_empty() && self.locals.is_empty()
    }
}

fn invalid(why: impl std::fmt::Display) -> Failure {
    Failure::invalid(format!("Block Device Mapping is Invalid: {why}")).at("block_device_mapping_v2")
}

fn truth(value: &Value) -> bool {
    *value == true
        || value
            .as_str()
            .is_some_and(|said| madang_http::parse_bool(said) == Some(true))
}

fn number(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.trim().parse().ok())
}

/// The disks that an image of a server with volumes brings along, in the form of a request.
pub fn of_image(store: &Store, image: &str) -> Vec<Value> {
    let image = store.cache::<Image>().by_name(image);
    let mapping = image.and_then(|image| {
        let properties = &image.spec.properties;
        properties.get("bdm_v2").filter(|said| *said == "True")?;
        serde_json::from_str::<Vec<Value>>(properties.get("block_device_mapping")?).ok()
    });
    let mut mapping = mapping.unwrap_or_default();
    for disk in &mut mapping {
        disk["uuid"] = disk["snapshot_id"].clone();
    }
    mapping
}

/// Reads the disks of a request. What says no more than that the image is the root is left out.
///
/// # Errors
/// 400 for disks that cannot be, in the original's words.
pub fn read(
    store: &Store,
    caller: &Caller,
    project: &str,
    image: &str,
    old: &[Value],
    new: &[Value],
) -> Result<Disks, Failure> {
    let reader = Reader { store, caller, project };
    if !old.is_empty() && !new.is_empty() {
        return Err(Failure::invalid(
            "Using different block_device_mapping syntaxes is not allowed in the same request.",
        ));
    }
    let mut disks = Disks::default();
    for (place, said) in old.iter().enumerate() {
        let is_root = image.is_empty() && place == 0;
        disks.add(reader.old(said, is_root)?);
    }
    for said in new {
        disks.add(reader.read(said, image)?);
    }
    let devices = &mut disks.volumes;
    let mut roots = devices.iter().filter(|device| device.device.boot_index == Some(0));
    if roots.nth(1).is_some() {
        return Err(invalid(
            "Boot sequence for the instance and image/block device mapping combination is not valid.",
        ));
    }
    // The root comes first, as the guest sees it.
    devices.sort_by_key(|device| device.device.boot_index != Some(0));
    Ok(disks)
}

/// A disk that the host is to make.
fn local_disk(said: &Value, size: u32) -> Result<LocalRequest, Failure> {
    let format = said["guest_format"].as_str().filter(|format| !format.is_empty());
    let (kind, file_system) = match format {
        None => (LocalKind::Ephemeral, None),
        Some("swap") => (LocalKind::Swap, None),
        Some("ext2") => (LocalKind::Ephemeral, Some(FileSystem::Ext2)),
        Some("ext3") => (LocalKind::Ephemeral, Some(FileSystem::Ext3)),
        Some("ext4") => (LocalKind::Ephemeral, Some(FileSystem::Ext4)),
        Some("xfs") => (LocalKind::Ephemeral, Some(FileSystem::Xfs)),
        Some(other) => return Err(invalid(format!("{other} format is not supported"))),
    };
    Ok(LocalRequest {
        kind,
        size: (size > 0).then_some(size),
        file_system,
        bus: disk_bus(said)?,
        tag: said["tag"].as_str().map(str::to_owned),
    })
}

fn disk_bus(said: &Value) -> Result<Option<DiskBus>, Failure> {
    let name = said["disk_bus"].as_str().filter(|name| !name.is_empty());
    let found = name.map(|name| bus(name).ok_or_else(|| invalid(format!("{name} is no disk bus"))));
    found.transpose()
}

struct Reader<'a> {
    store: &'a Store,
    caller: &'a Caller,
    project: &'a str,
}

impl Reader<'_> {
    /// The form of before: a volume or a snapshot, or EC2's name of a disk of the host's, and where it goes.
    fn old(&self, said: &Value, is_root: bool) -> Result<Option<One>, Failure> {
        if truth(&said["no_device"]) {
            return Ok(None);
        }
        let size_gib = self.size(&said["volume_size"])?;
        let kind = match said["virtual_name"].as_str() {
            Some("swap") => Some(LocalKind::Swap),
            Some(name) if name.starts_with("ephemeral") => Some(LocalKind::Ephemeral),
            _ => None,
        };
        if let Some(kind) = kind {
            return Ok(Some(One::Local(LocalRequest {
                kind,
                size: (size_gib > 0).then_some(size_gib),
                file_system: None,
                bus: None,
                tag: None,
            })));
        }
        let source = match (said["volume_id"].as_str(), said["snapshot_id"].as_str()) {
            (Some(id), _) if !id.is_empty() => self.volume(id, is_root)?,
            (_, Some(id)) if !id.is_empty() => self.snapshot(id, size_gib, None)?,
            _ => return Err(invalid("a mapping needs a volume_id or a snapshot_id")),
        };
        let name = said["device_name"].as_str().map(str::to_owned);
        let device = Device {
            boot_index: is_root.then_some(0),
            delete_on_termination: truth(&said["delete_on_termination"]),
            ..Device::default()
        };
        Ok(Some(One::Volume(DeviceRequest { source, device, name })))
    }

    fn read(&self, said: &Value, image: &str) -> Result<Option<One>, Failure> {
        if truth(&said["no_device"]) {
            return Ok(None);
        }
        let word = |name: &str| said[name].as_str().filter(|word| !word.is_empty());
        let kind = word("source_type").unwrap_or("volume");
        let local = matches!(kind, "image" | "blank");
        let destination = word("destination_type").unwrap_or(if local { "local" } else { "volume" });
        let id = word("uuid");
        let boot_index = number(&said["boot_index"]).and_then(|index| u32::try_from(index).ok());
        let size_gib = self.size(&said["volume_size"])?;
        let volume_type = word("volume_type").map(|name| self.volume_type(name)).transpose()?;
        let source = match (kind, destination, id) {
            ("image", "local", Some(id)) if id == image && boot_index.unwrap_or(0) == 0 => return Ok(None),
            ("image", "volume", Some(id)) => self.image(id, size_gib, volume_type)?,
            ("snapshot", "volume", Some(id)) => self.snapshot(id, size_gib, volume_type)?,
            ("volume", "volume", Some(id)) => self.volume(id, boot_index == Some(0))?,
            ("blank", "volume", _) if size_gib > 0 => DeviceSource::New {
                source: Source::Blank,
                size_gib,
                volume_type,
            },
            ("blank", "volume", _) => {
                return Err(invalid(
                    "Blank volumes (source: 'blank', dest: 'volume') need to have non-zero size",
                ));
            }
            ("blank", "local", Some(_)) => return Err(invalid("Invalid device UUID.")),
            ("blank", "local", None) if boot_index == Some(0) => {
                return Err(invalid(
                    "Boot sequence for the instance and image/block device mapping combination is not valid.",
                ));
            }
            ("blank", "local", None) => return Ok(Some(One::Local(local_disk(said, size_gib)?))),
            (_, _, None) => return Err(invalid(format!("a {kind} needs its uuid"))),
            _ => return Err(invalid(format!("a disk from {kind} to {destination} cannot be"))),
        };
        let device = Device {
            tag: word("tag").map(str::to_owned),
            bus: disk_bus(said)?,
            kind: match word("device_type") {
                Some("cdrom") => DiskKind::Cdrom,
                _ => DiskKind::Disk,
            },
            boot_index,
            delete_on_termination: truth(&said["delete_on_termination"]),
            ..Device::default()
        };
        let name = word("device_name").map(str::to_owned);
        Ok(Some(One::Volume(DeviceRequest { source, device, name })))
    }

    fn size(&self, said: &Value) -> Result<u32, Failure> {
        match said {
            Value::Null => Ok(0),
            Value::String(text) if text.is_empty() => Ok(0),
            other => {
                let size = number(other).and_then(|size| u32::try_from(size).ok());
                size.ok_or_else(|| invalid(format!("{other} is no volume_size")))
            }
        }
    }

    fn volume(&self, id: &str, is_root: bool) -> Result<DeviceSource, Failure> {
        let found = self.store.cache::<Volume>().by_name(id);
        let found = found.filter(|volume| volume.project() == self.project);
        let volume = found.ok_or_else(|| invalid(format!("failed to get volume {id}.")))?;
        let is_free = volume.status.state == VolumeState::Available
            || (volume.spec.is_multiattach && volume.status.state == VolumeState::InUse);
        if !is_free {
            let message = format!("volume {id} is {}, not available", volume.status.state);
            return Err(invalid(message));
        }
        if is_root && !volume.spec.is_bootable {
            return Err(invalid(format!("Block Device {id} is not bootable.")));
        }
        Ok(DeviceSource::Volume(id.to_owned()))
    }

    fn snapshot(&self, id: &str, size_gib: u32, volume_type: Option<String>) -> Result<DeviceSource, Failure> {
        let found = self.store.cache::<Snapshot>().by_name(id);
        let found = found.filter(|snapshot| snapshot.project() == self.project);
        found.ok_or_else(|| invalid(format!("failed to get snapshot {id}.")))?;
        let source = Source::Snapshot(id.to_owned());
        Ok(DeviceSource::New {
            source,
            size_gib,
            volume_type,
        })
    }

    fn image(&self, id: &str, size_gib: u32, volume_type: Option<String>) -> Result<DeviceSource, Failure> {
        let found = self.store.cache::<Image>().by_name(id);
        let found = found.filter(|image| is_visible(image, self.project) || self.caller.is_admin());
        found.ok_or_else(|| invalid(format!("failed to get image {id}.")))?;
        if size_gib == 0 {
            return Err(invalid(
                "Images with destination_type 'volume' need to have a non-zero size specified",
            ));
        }
        let source = Source::Image(id.to_owned());
        Ok(DeviceSource::New {
            source,
            size_gib,
            volume_type,
        })
    }

    fn volume_type(&self, name: &str) -> Result<String, Failure> {
        let types = self.store.cache::<VolumeType>();
        let found = types.by_name(name).or_else(|| types.by("name", name).pop());
        let found = found.filter(|found| found.spec.is_open_to(self.project));
        let found = found
            .ok_or_else(|| Failure::invalid(format!("Volume type {name} could not be found.")).at("volume_type"))?;
        Ok(found.name().to_owned())
    }
}
