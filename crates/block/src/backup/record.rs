//! A backup's record outside of this cloud: enough to find its bytes in the vault again when the store is lost.
//!
//! The record is what Cinder calls `backup_url`: base64 of a JSON object with the backup's fields.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use madang_http::Failure;
use madang_store::Resource;
use serde::{Deserialize, Serialize};

use super::{Backup, BackupSpec, Origin};

/// What Cinder calls the driver that wrote a backup.
pub const SERVICE: &str = "cinder.backup.drivers.madang.Vault";

/// What a record says. The names are Cinder's where it has one.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    id: String,
    size: u32,
    #[serde(default)]
    display_name: Option<String>,
    #[serde(default)]
    display_description: Option<String>,
    volume_id: String,
    #[serde(default)]
    snapshot_id: Option<String>,
    #[serde(default)]
    parent_id: Option<String>,
    #[serde(default)]
    container: Option<String>,
    #[serde(default)]
    availability_zone: Option<String>,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
    #[serde(default)]
    data_timestamp: Option<Timestamp>,
    #[serde(default)]
    object_count: u32,
    /// Where the bytes are.
    service_metadata: String,
    #[serde(default)]
    origin: Origin,
}

/// The record of a backup.
pub fn write(backup: &Resource<Backup>) -> String {
    let (spec, status) = (&backup.spec, &backup.status);
    let record = Record {
        id: backup.name().to_owned(),
        size: spec.size_gib,
        display_name: spec.name.clone(),
        display_description: spec.description.clone(),
        volume_id: spec.volume.clone(),
        snapshot_id: spec.snapshot.clone(),
        parent_id: spec.parent.clone(),
        container: spec.container.clone(),
        availability_zone: spec.availability_zone.clone(),
        metadata: spec.metadata.clone(),
        data_timestamp: Some(spec.data_timestamp.unwrap_or(backup.metadata.created)),
        object_count: status.objects,
        service_metadata: spec.data.clone(),
        origin: spec.of.clone(),
    };
    STANDARD.encode(serde_json::to_vec(&record).unwrap_or_default())
}

/// A backup's id, spec and number of objects from its record; `user` has it from now on.
///
/// # Errors
/// 400 for what is no record.
pub fn read(url: &str, user: &str) -> Result<(uuid::Uuid, BackupSpec, u32), Failure> {
    let bad = |why: String| Failure::invalid(format!("Invalid input received: Can't parse backup record. {why}"));
    let bytes = STANDARD.decode(url.trim()).map_err(|error| bad(error.to_string()))?;
    let value: serde_json::Value = serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
    for (name, what) in [("id", "an id"), ("size", "size attribute")] {
        if value.get(name).is_none() {
            let message = format!("Invalid input received: Provided backup record is missing {what}");
            return Err(Failure::invalid(message));
        }
    }
    let record: Record = serde_json::from_value(value).map_err(|error| bad(error.to_string()))?;
    let id = record
        .id
        .parse()
        .map_err(|_| bad(format!("'{}' is not an id", record.id)))?;
    // It names a directory of the vault.
    if record.service_metadata.parse::<uuid::Uuid>().is_err() {
        return Err(bad(format!("'{}' names no bytes", record.service_metadata)));
    }
    let spec = BackupSpec {
        name: record.display_name,
        description: record.display_description,
        volume: record.volume_id,
        snapshot: record.snapshot_id,
        size_gib: record.size,
        user: user.to_owned(),
        container: record.container,
        availability_zone: record.availability_zone,
        metadata: record.metadata,
        parent: record.parent_id,
        data: record.service_metadata,
        data_timestamp: record.data_timestamp,
        of: record.origin,
    };
    Ok((id, spec, record.object_count))
}

#[cfg(test)]
mod tests {
    use madang_store::Metadata;

    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let data = uuid::Uuid::new_v4().to_string();
        let spec = BackupSpec {
            name: Some("b".to_owned()),
            volume: "v".to_owned(),
            size_gib: 3,
            data: data.clone(),
            ..BackupSpec::default()
        };
        let backup = Resource::<Backup>::new(Metadata::with_id("p"), spec);
        let (id, read, objects) = read(&write(&backup), "u").unwrap();
        assert_eq!((id, objects), (backup.metadata.uid, 0));
        assert_eq!((read.name.as_deref(), read.size_gib, read.data), (Some("b"), 3, data));
    }

    #[test]
    fn what_is_no_record_is_refused() {
        let encoded = |text: &str| STANDARD.encode(text);
        let escaping =
            r#"{"id":"6f3a2f0e-8d4c-4d7a-9f6e-2b1c0d9e8f7a","size":1,"volume_id":"v","service_metadata":"../x"}"#;
        for said in [
            "",
            "%",
            &encoded("x"),
            &encoded("{}"),
            &encoded("{\"id\":\"x\"}"),
            &encoded(escaping),
        ] {
            assert!(super::read(said, "u").is_err(), "{said}");
        }
    }
}
