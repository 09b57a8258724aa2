//! `POST /volumes/{id}/action`: one action in a body, named by its only member.

use std::sync::{Arc, LazyLock};

use axum::{
    extract::{Path, State},
    response::{IntoResponse as _, Response},
};
use http::StatusCode;
use madang_http::{Failure, Form, Json, Microversion, Schema, json};
use madang_identity::Caller;
use madang_image::{ContainerFormat, DiskFormat, Image, ImageSpec, Visibility};
use madang_store::{Metadata, Resource};
use serde_json::{Map, Value, json};

use super::{open_type, size_schema, whole};
use crate::{
    api::{BlockApi, accepted, enforce, failure, flag, metadata as pairs, since, text, updated, volume_for},
    attachment::Attachment,
    manage,
    volume::{Task, Volume, VolumeState, verbs},
    volume_type::VolumeType,
};

/// What an action works with.
struct Action<'a> {
    api: &'a BlockApi,
    caller: &'a Caller,
    version: Microversion,
    volume: Arc<Resource<Volume>>,
    /// What the action's member says; empty for null.
    said: Map<String, Value>,
}

/// `POST /volumes/{id}/action`.
pub async fn act(
    State(api): State<BlockApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    let (name, said) = only_member(&body)?;
    check(name, &body)?;
    let volume = volume_for(&api, &caller, &id, "volume:get")?;
    let action = Action {
        api: &api,
        caller: &caller,
        version,
        volume,
        said: said.as_object().cloned().unwrap_or_default(),
    };
    action.run(name).await
}

/// The name of the only action, and what it says.
pub(crate) fn only_member(body: &Value) -> Result<(&str, &Value), Failure> {
    let members = body.as_object().map(|members| members.iter().collect::<Vec<_>>());
    match members.as_deref() {
        Some([(name, said)]) => Ok((name.as_str(), said)),
        _ => Err(Failure::invalid("There is no such action: None")),
    }
}

fn of(name: &str, said: Value) -> (String, Schema) {
    let body = json!({
        "type": "object", "properties": { name: said }, "required": [name], "additionalProperties": false,
    });
    (name.to_owned(), Schema::new(Form::Nova, body))
}

fn object(properties: Value, required: &[&str]) -> Value {
    let mut schema = json!({ "type": "object", "properties": properties, "additionalProperties": false });
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

/// Checks the body of an action that has a schema.
fn check(name: &str, body: &Value) -> Result<(), Failure> {
    static SCHEMAS: LazyLock<Vec<(String, Schema)>> = LazyLock::new(|| {
        let boolean = json!({ "type": ["boolean", "string"] });
        let attach = json!({
            "instance_uuid": { "type": "string", "format": "uuid" },
            "mountpoint": { "type": "string", "minLength": 1, "maxLength": 255 },
            "host_name": { "type": "string", "maxLength": 255 },
            "mode": { "type": "string", "enum": ["rw", "ro"] },
        });
        let mut attach = object(attach, &["mountpoint"]);
        attach["anyOf"] = json!([{ "required": ["instance_uuid"] }, { "required": ["host_name"] }]);
        let retype = json!({
            "new_type": { "type": "string" },
            "migration_policy": { "type": ["string", "null"], "enum": ["on-demand", "never", null] },
        });
        vec![
            of("os-attach", attach),
            of("os-extend", object(json!({ "new_size": size_schema() }), &["new_size"])),
            of("os-retype", object(retype, &["new_type"])),
            of("os-set_bootable", object(json!({ "bootable": boolean }), &["bootable"])),
            of(
                "os-update_readonly_flag",
                object(json!({ "readonly": boolean }), &["readonly"]),
            ),
            of(
                "os-set_image_metadata",
                object(json!({ "metadata": super::metadata_schema() }), &["metadata"]),
            ),
            of(
                "os-unset_image_metadata",
                object(
                    json!({ "key": { "type": "string", "minLength": 1, "maxLength": 255 } }),
                    &["key"],
                ),
            ),
            of(
                "os-initialize_connection",
                object(
                    json!({ "connector": { "type": ["object", "string"], "minProperties": 1 } }),
                    &["connector"],
                ),
            ),
        ]
    });
    SCHEMAS
        .iter()
        .find(|(known, _)| known == name)
        .map_or(Ok(()), |(_, schema)| schema.check(body))
}

impl Action<'_> {
    fn enforce(&self, rule: &str) -> Result<(), Failure> {
        enforce(self.caller, rule, self.volume.project())
    }

    async fn run(&self, name: &str) -> Result<Response, Failure> {
        match name {
            "os-attach" => self.attach().await,
            "os-detach" => {
                self.enforce("volume_extension:volume_actions:detach")?;
                self.detach(false).await
            }
            "os-force_detach" => {
                self.enforce("volume_extension:volume_admin_actions:force_detach")?;
                self.detach(true).await
            }
            "os-reserve" => {
                self.enforce("volume_extension:volume_actions:reserve")?;
                let allowed = [VolumeState::Available];
                self.begin(&allowed, VolumeState::Attaching).await
            }
            "os-unreserve" => {
                self.enforce("volume_extension:volume_actions:unreserve")?;
                self.settle(VolumeState::Attaching).await
            }
            "os-begin_detaching" => {
                self.enforce("volume_extension:volume_actions:begin_detaching")?;
                self.begin(&[VolumeState::InUse], VolumeState::Detaching).await
            }
            "os-roll_detaching" => {
                self.enforce("volume_extension:volume_actions:roll_detaching")?;
                self.settle(VolumeState::Detaching).await
            }
            "os-initialize_connection" => self.connect(),
            "os-terminate_connection" => {
                self.enforce("volume_extension:volume_actions:terminate_connection")?;
                Ok(accepted())
            }
            "os-extend" => self.extend().await,
            "os-reset_status" => self.reset().await,
            "os-force_delete" => {
                self.enforce("volume_extension:volume_admin_actions:force_delete")?;
                let how = verbs::Deletion {
                    cascade: false,
                    force: true,
                };
                verbs::delete(&self.api.store, self.caller, &self.volume, how).await?;
                Ok(accepted())
            }
            "os-set_bootable" => {
                self.enforce("volume:update")?;
                let is_bootable = flag(&self.said, "bootable", false)?;
                self.edit(|volume| volume.spec.is_bootable = is_bootable).await?;
                Ok(StatusCode::OK.into_response())
            }
            "os-update_readonly_flag" => {
                self.enforce("volume:update_readonly_flag")?;
                let is_read_only = flag(&self.said, "readonly", false)?;
                verbs::require(&self.volume, &[VolumeState::Available], "updating the readonly flag")?;
                self.edit(|volume| volume.spec.is_read_only = Some(is_read_only))
                    .await?;
                Ok(accepted())
            }
            "os-retype" => self.retype().await,
            "os-volume_upload_image" => self.upload().await,
            "revert" => {
                since(self.version, 40)?;
                self.enforce("volume:revert_to_snapshot")?;
                let snapshot = text(&self.said, "snapshot_id");
                verbs::revert(&self.api.store, self.caller, &self.volume, snapshot.as_deref()).await?;
                Ok(accepted())
            }
            "os-reimage" => self.reimage().await,
            "os-set_image_metadata" => self.set_image_metadata().await,
            "os-unset_image_metadata" => self.unset_image_metadata().await,
            "os-show_image_metadata" => {
                self.enforce("volume_extension:volume_image_metadata:show")?;
                Ok(pairs::answer(&self.volume.spec.image_metadata))
            }
            "os-unmanage" => {
                self.enforce("volume_extension:volume_unmanage")?;
                manage::leave_volume(&self.api.store, self.caller, &self.volume).await?;
                Ok(accepted())
            }
            "os-migrate_volume" | "os-migrate_volume_completion" => {
                self.enforce("volume_extension:volume_admin_actions:migrate_volume")?;
                let host = text(&self.said, "host").unwrap_or_default();
                Err(Failure::invalid(format!(
                    "Invalid input received: No available service named {host}: this cloud has one back end"
                )))
            }
            other => Err(Failure::invalid(format!("There is no such action: {other}"))),
        }
    }

    async fn edit(&self, change: impl Fn(&mut Resource<Volume>)) -> verbs::Done {
        let change = |volume: &mut Resource<Volume>| {
            change(volume);
            Ok(())
        };
        verbs::edit(&self.api.store, self.caller, &self.volume, change).await
    }

    async fn begin(&self, allowed: &[VolumeState], state: VolumeState) -> Result<Response, Failure> {
        verbs::begin(&self.api.store, self.caller, &self.volume, allowed, state, None).await?;
        Ok(accepted())
    }

    /// Takes back what was begun, unless it is over already.
    async fn settle(&self, during: VolumeState) -> Result<Response, Failure> {
        self.edit(|volume| {
            if volume.status.state == during {
                volume.status.settle();
            }
        })
        .await?;
        Ok(accepted())
    }

    async fn attach(&self) -> Result<Response, Failure> {
        self.enforce("volume_extension:volume_actions:attach")?;
        let how = verbs::Attach {
            server: text(&self.said, "instance_uuid"),
            host: text(&self.said, "host_name"),
            mountpoint: text(&self.said, "mountpoint"),
            is_read_only: self.said.get("mode").is_some_and(|mode| mode == "ro"),
        };
        verbs::attach(&self.api.store, self.caller, &self.volume, &how).await?;
        Ok(accepted())
    }

    async fn detach(&self, is_forced: bool) -> Result<Response, Failure> {
        let which = text(&self.said, "attachment_id");
        verbs::detach(&self.api.store, self.caller, &self.volume, which.as_deref(), is_forced).await?;
        Ok(accepted())
    }

    /// What an outside consumer needs to reach the bytes: on this host, the file.
    fn connect(&self) -> Result<Response, Failure> {
        self.enforce("volume_extension:volume_actions:initialize_connection")?;
        let mut info =
            crate::attachment::api::connection(self.api, &self.volume, self.volume.spec.is_read_only == Some(true))?;
        info["enforce_multipath"] = json!(false);
        Ok(json(StatusCode::OK, &json!({ "connection_info": info })))
    }

    async fn extend(&self) -> Result<Response, Failure> {
        self.enforce("volume:extend")?;
        let may_be_attached = self.version >= Microversion(3, 42);
        if may_be_attached && self.volume.status.state == VolumeState::InUse {
            self.enforce("volume:extend_attached_volume")?;
        }
        let size = self.said.get("new_size").and_then(whole).unwrap_or(0);
        verbs::extend(&self.api.store, self.caller, &self.volume, size, may_be_attached).await?;
        Ok(accepted())
    }

    async fn reset(&self) -> Result<Response, Failure> {
        self.enforce("volume_extension:volume_admin_actions:reset_status")?;
        let word = |name: &str| self.said.get(name).and_then(Value::as_str).map(str::to_lowercase);
        if self.said.is_empty() {
            let message = "Must specify 'status', 'attach_status' or 'migration_status' for update.";
            return Err(Failure::invalid(message));
        }
        let bad = |name: &str, said: &str| {
            Failure::invalid(format!(
                "Invalid input for field/attribute {name}. Value: {said}. '{said}' is not one of the states"
            ))
            .at(name)
        };
        let state = word("status")
            .map(|said| VolumeState::from_word(&said).ok_or_else(|| bad("status", &said)))
            .transpose()?;
        let attach = word("attach_status");
        if let Some(said) = attach
            .as_ref()
            .filter(|said| !["attached", "detached"].contains(&said.as_str()))
        {
            return Err(bad("attach_status", said));
        }
        let migration = word("migration_status");
        if let Some(said) = migration.as_ref().filter(|said| {
            !["migrating", "error", "success", "completing", "none", "starting"].contains(&said.as_str())
        }) {
            return Err(bad("migration_status", said));
        }
        if attach.as_deref() == Some("detached") {
            self.end_free_attachments().await?;
        }
        self.edit(|volume| {
            if let Some(state) = state {
                volume.status.state = state;
                volume.status.task = None;
            }
            match migration.as_deref() {
                Some("none") => volume.status.migration = None,
                Some(said) => volume.status.migration = Some(said.to_owned()),
                None => {}
            }
        })
        .await?;
        Ok(accepted())
    }

    async fn end_free_attachments(&self) -> Result<(), Failure> {
        let store = &self.api.store;
        let attachments = store.cache::<Attachment>().by("volume", self.volume.name());
        let mut tx = store.begin(self.caller.cause());
        for attachment in attachments
            .iter()
            .filter(|attachment| attachment.metadata.finalizers.is_empty())
        {
            tx.delete(attachment).map_err(failure)?;
        }
        tx.commit().await.map(|_| ()).map_err(failure)
    }

    async fn retype(&self) -> Result<Response, Failure> {
        self.enforce("volume:retype")?;
        let name = text(&self.said, "new_type").unwrap_or_default();
        let wanted = open_type(&self.api.store, self.caller, self.volume.project(), &name)
            .map_err(|_| Failure::invalid(format!("Invalid volume_type passed: {name}")).at("new_type"))?;
        verbs::require(&self.volume, &[VolumeState::Available, VolumeState::InUse], "retype")?;
        if self.volume.spec.volume_type.as_deref() == Some(wanted.name()) {
            return Err(Failure::invalid(format!(
                "Invalid volume_type passed: {name} (already of this type)"
            )));
        }
        let is_in_use = self.volume.status.state == VolumeState::InUse;
        if is_in_use && wanted.spec.is_multiattach() != self.volume.spec.is_multiattach {
            return Err(Failure::invalid(
                "Invalid volume: Changing multiattach requires the volume to be available.",
            ));
        }
        self.edit(|volume| {
            volume.spec.volume_type = Some(wanted.name().to_owned());
            volume.spec.is_multiattach = wanted.spec.is_multiattach();
            volume.spec.is_encrypted = wanted.spec.encryption.is_some();
        })
        .await?;
        Ok(accepted())
    }

    async fn reimage(&self) -> Result<Response, Failure> {
        since(self.version, 68)?;
        self.enforce("volume:reimage")?;
        let image = text(&self.said, "image_id").unwrap_or_default();
        let found = self.api.store.cache::<Image>().by_name(&image);
        found.ok_or_else(|| Failure::not_found(format!("Image {image} could not be found.")))?;
        let allowed = [VolumeState::Available, VolumeState::Error];
        let task = Task::Reimage { image };
        let (store, volume) = (&self.api.store, &self.volume);
        verbs::begin(
            store,
            self.caller,
            volume,
            &allowed,
            VolumeState::Downloading,
            Some(task),
        )
        .await?;
        Ok(accepted())
    }

    async fn set_image_metadata(&self) -> Result<Response, Failure> {
        self.enforce("volume_extension:volume_image_metadata:set")?;
        let wanted = json!({ "metadata": self.said.get("metadata").cloned().unwrap_or_default() });
        let wanted = pairs::read(wanted)?;
        let changed = self
            .edit(|volume| volume.spec.image_metadata.extend(wanted.clone()))
            .await?;
        Ok(pairs::answer(&changed.spec.image_metadata))
    }

    async fn unset_image_metadata(&self) -> Result<Response, Failure> {
        self.enforce("volume_extension:volume_image_metadata:remove")?;
        let key = text(&self.said, "key").unwrap_or_default();
        if !self.volume.spec.image_metadata.contains_key(&key) {
            return Err(Failure::not_found("Metadata item was not found."));
        }
        self.edit(|volume| _ = volume.spec.image_metadata.remove(&key)).await?;
        Ok(StatusCode::OK.into_response())
    }

    /// Asks for an image of its bytes: the image is there at once and waits for them.
    async fn upload(&self) -> Result<Response, Failure> {
        self.enforce("volume_extension:volume_actions:upload_image")?;
        let name = text(&self.said, "image_name").filter(|name| !name.is_empty() && name.len() <= 255);
        let name =
            name.ok_or_else(|| Failure::invalid("Invalid input for field/attribute image_name.").at("image_name"))?;
        flag(&self.said, "force", false)?;
        let word = |key: &str, default: &str| text(&self.said, key).unwrap_or_else(|| default.to_owned());
        let format = word("disk_format", "raw");
        let unfit = |key: &str, said: &str| {
            Failure::invalid(format!("Invalid input for field/attribute {key}. Value: {said}.")).at(key)
        };
        let disk_format: DiskFormat = format.parse().map_err(|_| unfit("disk_format", &format))?;
        let container = word("container_format", "bare");
        let container_format: ContainerFormat = container.parse().map_err(|_| unfit("container_format", &container))?;
        let visibility = word("visibility", "private");
        let is_public = visibility == "public";
        if self.version >= Microversion(3, 1) && is_public {
            self.enforce("volume_extension:volume_actions:upload_public")?;
        }
        let spec = ImageSpec {
            name: Some(name.clone()),
            visibility: match self.version >= Microversion(3, 1) {
                true => visibility.parse().map_err(|_| unfit("visibility", &visibility))?,
                false => Visibility::Private,
            },
            container_format: Some(container_format),
            disk_format: Some(disk_format),
            is_protected: self.version >= Microversion(3, 1) && flag(&self.said, "protected", false)?,
            properties: self.image_properties(),
            ..ImageSpec::default()
        };
        let image = self.begin_upload(spec, &format).await?;
        let volume = self
            .api
            .store
            .get::<Volume>(&self.volume.key())
            .unwrap_or_else(|| Arc::clone(&self.volume));
        let of_type = volume.spec.volume_type.as_ref();
        let of_type = of_type.and_then(|id| self.api.store.cache::<VolumeType>().by_name(id));
        let mut shown = json!({
            "id": volume.name(),
            "status": "uploading",
            "size": volume.spec.size_gib,
            "display_description": volume.spec.description,
            "updated_at": updated(&volume),
            "volume_type": of_type.map(|of_type| crate::volume_type::api::view(self.caller, &of_type, self.version)),
            "image_id": image,
            "image_name": name,
            "disk_format": format,
            "container_format": container,
        });
        if self.version >= Microversion(3, 1) {
            shown["visibility"] = json!(visibility);
            shown["protected"] = json!(flag(&self.said, "protected", false)?);
        }
        Ok(json(StatusCode::ACCEPTED, &json!({ "os-volume_upload_image": shown })))
    }

    /// What the volume was told of its own image goes on to the new one.
    fn image_properties(&self) -> std::collections::BTreeMap<String, String> {
        let own = [
            "image_id",
            "image_name",
            "min_disk",
            "min_ram",
            "disk_format",
            "container_format",
            "size",
            "checksum",
        ];
        let kept = self
            .volume
            .spec
            .image_metadata
            .iter()
            .filter(|(key, _)| !own.contains(&key.as_str()));
        kept.map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    async fn begin_upload(&self, spec: ImageSpec, format: &str) -> Result<String, Failure> {
        let key = self.volume.key();
        let project = self.caller.project()?;
        let begun = self
            .api
            .store
            .transact::<String, verbs::Refusal>(self.caller.cause(), |tx| {
                let missing = || Failure::not_found(format!("Volume {} could not be found.", key.name));
                let volume = tx.get::<Volume>(&key).ok_or_else(missing)?;
                verbs::require(&volume, &[VolumeState::Available], "upload")?;
                let image = tx.create(Resource::<Image>::new(Metadata::with_id(project), spec.clone()))?;
                let mut new = (*volume).clone();
                new.status.state = VolumeState::Uploading;
                new.status.task = Some(Task::Upload {
                    image: image.name().to_owned(),
                    format: format.to_owned(),
                });
                tx.update(&volume, new)?;
                Ok(image.name().to_owned())
            });
        begun.await.map_err(|verbs::Refusal(failure)| failure)
    }
}
