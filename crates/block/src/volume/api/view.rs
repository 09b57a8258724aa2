//! How a volume looks in Cinder's API.

use madang_http::{Microversion, RequestInfo};
use madang_identity::Caller;
use madang_store::Resource;
use serde_json::{Map, Value, json};

use crate::{
    api::{BlockApi, links, micros, updated},
    attachment::{AttachState, Attachment},
    volume::{Source, Volume, VolumeState},
    volume_type::VolumeType,
};

/// The short form: id, name and links.
pub(crate) fn brief(volume: &Resource<Volume>, info: &RequestInfo, caller: &Caller) -> Value {
    json!({
        "id": volume.name(),
        "name": volume.spec.name,
        "links": links(info, caller, "volumes", volume.name()),
    })
}

/// How volumes are to be shown, and to whom.
pub(crate) struct Look<'a> {
    pub(crate) api: &'a BlockApi,
    pub(crate) caller: &'a Caller,
    pub(crate) version: Microversion,
    pub(crate) info: &'a RequestInfo,
}

fn shown_state(state: VolumeState) -> &'static str {
    match state {
        VolumeState::Managing => "creating",
        VolumeState::ErrorManaging => "error",
        other => other.as_str(),
    }
}

impl Look<'_> {
    fn from(&self, minor: u16) -> bool {
        self.version >= Microversion(3, minor)
    }

    /// A volume as the answer to its creation has it.
    pub(crate) fn legacy(&self, volume: &Resource<Volume>) -> Map<String, Value> {
        let (spec, status, id) = (&volume.spec, &volume.status, volume.name());
        let source = |is: fn(&Source) -> bool| spec.source.id().filter(|_| is(&spec.source));
        let of_type = spec.volume_type.as_ref();
        let of_type = of_type.and_then(|id| self.api.store.cache::<VolumeType>().by_name(id));
        let mut metadata = spec.metadata.clone();
        if let Some(is_read_only) = spec.is_read_only {
            metadata.insert(
                "readonly".to_owned(),
                if is_read_only { "True" } else { "False" }.to_owned(),
            );
        }
        let shown = json!({
            "id": id,
            "status": shown_state(status.state),
            "size": spec.size_gib,
            "availability_zone": spec.availability_zone,
            "created_at": micros(volume.metadata.created),
            "updated_at": updated(volume),
            "name": spec.name,
            "description": spec.description,
            "volume_type": of_type.as_ref().map(|of_type| &of_type.spec.name),
            "snapshot_id": source(|source| matches!(source, Source::Snapshot(_))),
            "source_volid": source(|source| matches!(source, Source::Volume(_))),
            "metadata": metadata,
            "links": links(self.info, self.caller, "volumes", id),
            "user_id": spec.user,
            "bootable": if spec.is_bootable { "true" } else { "false" },
            "encrypted": spec.is_encrypted,
            "replication_status": null,
            "consistencygroup_id": null,
            "multiattach": spec.is_multiattach,
            "attachments": self.attachments(volume),
        });
        let Value::Object(mut shown) = shown else {
            return Map::new();
        };
        let mut put = |name: &str, value: Value| _ = shown.insert(name.to_owned(), value);
        if self.caller.is_admin() {
            put("migration_status", json!(status.migration));
        }
        if self.from(13) {
            put("group_id", json!(spec.group));
        }
        if self.caller.is_admin() && self.from(21) {
            put("provider_id", Value::Null);
        }
        if self.from(48) {
            put("shared_targets", json!(false));
            put("service_uuid", Value::Null);
        }
        if self.caller.is_admin() && self.from(61) {
            put("cluster_name", Value::Null);
        }
        if self.from(63) {
            put("volume_type_id", json!(spec.volume_type));
        }
        if self.from(65) {
            put("consumes_quota", json!(true));
        }
        shown
    }

    /// A volume as it is shown and listed.
    pub(crate) fn full(&self, volume: &Resource<Volume>) -> Map<String, Value> {
        let mut shown = self.legacy(volume);
        let mut put = |name: &str, value: Value| _ = shown.insert(name.to_owned(), value);
        let target = [("project_id", volume.project())];
        if self.caller.allows("volume_extension:volume_tenant_attribute", &target) {
            put("os-vol-tenant-attr:tenant_id", json!(volume.project()));
        }
        if self.caller.allows("volume_extension:volume_host_attribute", &target) {
            put("os-vol-host-attr:host", json!(volume.status.host));
        }
        if self
            .caller
            .allows("volume_extension:volume_mig_status_attribute", &target)
        {
            put("os-vol-mig-status-attr:migstat", json!(volume.status.migration));
            put("os-vol-mig-status-attr:name_id", Value::Null);
        }
        if !volume.spec.image_metadata.is_empty() {
            put("volume_image_metadata", json!(volume.spec.image_metadata));
        }
        shown
    }

    fn attachments(&self, volume: &Resource<Volume>) -> Vec<Value> {
        if volume.status.attachments.is_empty() {
            return Vec::new();
        }
        let attachments = self.api.store.cache::<Attachment>().by("volume", volume.name());
        let there = attachments
            .iter()
            .filter(|attachment| matches!(attachment.status.state, AttachState::Attached | AttachState::Detaching));
        let view = |attachment: &std::sync::Arc<Resource<Attachment>>| {
            let host = attachment.status.host.as_ref().filter(|_| self.caller.is_admin());
            json!({
                "id": volume.name(),
                "attachment_id": attachment.name(),
                "volume_id": volume.name(),
                "server_id": attachment.spec.server,
                "host_name": host,
                "device": attachment.spec.mountpoint,
                "attached_at": attachment.status.attached.map(micros),
            })
        };
        there.map(view).collect()
    }
}
