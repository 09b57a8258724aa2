//! Actions about a server's root: rebuild, rescue, images of it.

use std::{collections::BTreeMap, sync::Arc};

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use madang_http::{Failure, json};
use madang_identity::Caller;
use madang_image::{Image, ImageState, is_visible};
use madang_store::{Resource, Store};
use serde_json::{Value, json};

use super::{
    super::{create, located, look, show_one, to_value},
    Act,
};
use crate::{
    Server,
    api::base,
    quota,
    server::{
        Injected, InjectedFile, Rotation,
        verbs::{rebuild, snapshot},
    },
};

const GIB: u64 = 1 << 30;

pub(super) async fn rebuild(act: &Act<'_>) -> Result<Response, Failure> {
    let server = act.server("servers:rebuild")?;
    let (api, caller, body) = (act.api, act.caller, act.arguments);
    let files: Vec<InjectedFile> = match body.get("personality") {
        Some(files) => serde_json::from_value(files.clone()).map_err(|error| Failure::invalid(error.to_string()))?,
        None => Vec::new(),
    };
    create::check_files(&api.store, server.project(), &files)?;
    let password = act.text("adminPass").map_or_else(create::new_password, str::to_owned);
    if body["trusted_image_certificates"].is_array() {
        let message = "trusted_image_certificates are not available: image signatures are not verified";
        return Err(Failure::invalid(message).at("trusted_image_certificates"));
    }
    if act.truth("preserve_ephemeral") {
        let message = "The current driver does not support preserving ephemeral partitions.";
        return Err(Failure::invalid(message).at("preserve_ephemeral"));
    }
    let image = usable(&api.store, caller, act.text("imageRef").unwrap_or_default())
        .ok_or_else(|| Failure::invalid("Cannot find image for rebuild").at("imageRef"))?;
    fits(&server, &image)?;
    let metadata = strings(&body["metadata"]);
    if let Some(metadata) = &metadata {
        create::check_metadata(&api.store, server.project(), metadata)?;
    }
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let key = match body.get("key_name") {
        Some(Value::String(name)) => Some(Some(create::key(&api.store, caller, name)?)),
        Some(_) => Some(None),
        None => None,
    };
    let change = rebuild::Rebuild {
        name: act.text("name").map(|name| name.trim().to_owned()),
        hostname: act.text("hostname").map(str::to_owned),
        description: body.get("description").map(text),
        metadata,
        key,
        user_data: body.get("user_data").map(text),
        is_disk_automatic: act.text("OS-DCF:diskConfig").map(|config| config == "AUTO"),
        access_ipv4: act.text("accessIPv4").and_then(|ip| ip.parse().ok()),
        access_ipv6: act.text("accessIPv6").and_then(|ip| ip.parse().ok()),
        injected: Injected {
            files,
            password: Some(password.clone()),
        },
        may_reimage: act.from(93),
    };
    let server = rebuild::rebuild(&api.store, caller, &server, &image, &change).await?;
    let base = base(act.info);
    let mut answer = to_value(&show_one(&api.store, &base, &server, look(caller, act.version, true)))?;
    if !act.from(75) {
        super::super::without_what_is_only_shown(&mut answer);
    }
    if act.from(54) {
        answer["key_name"] = json!(server.spec.key.as_ref().map(|key| &key.name));
    }
    if act.from(57) {
        answer["user_data"] = json!(server.spec.user_data);
        if let Some(members) = answer.as_object_mut() {
            members.remove("OS-EXT-SRV-ATTR:user_data");
        }
    }
    answer["adminPass"] = json!(password);
    Ok(located(
        json(StatusCode::ACCEPTED, &json!({ "server": answer })),
        &format!("{base}/v2.1/servers/{}", server.name()),
    ))
}

pub(super) async fn rescue(act: &Act<'_>) -> Result<Response, Failure> {
    let server = act.server("os-rescue")?;
    let asked = act.text("rescue_image_ref");
    let id = asked.or(server.spec.image.as_deref());
    let found = id.and_then(|id| usable(&act.api.store, act.caller, id));
    let found = found.filter(|image| !image.spec.is_container());
    if let (Some(id), None) = (asked, &found) {
        let message = format!("Requested rescue image '{id}' is not valid");
        return Err(Failure::invalid(message).at("rescue_image_ref"));
    }
    let says_where = |image: &Arc<Resource<Image>>| {
        let properties = &image.spec.properties;
        properties.contains_key("hw_rescue_bus") || properties.contains_key("hw_rescue_device")
    };
    let rescuer = rebuild::Rescuer {
        image: asked.map(str::to_owned),
        is_stable: found.as_ref().is_some_and(says_where),
        may_have_volume: act.from(87),
    };
    let password = act.text("adminPass").map_or_else(create::new_password, str::to_owned);
    rebuild::rescue(&act.api.store, act.caller, &server, &rescuer).await?;
    Ok(json(StatusCode::OK, &json!({ "adminPass": password })))
}

pub(super) async fn create_image(act: &Act<'_>) -> Result<Response, Failure> {
    let server = act.server("servers:create_image")?;
    let wanted = wanted(act, &server)?;
    let id = snapshot::snapshot(&act.api.store, act.caller, &server, &wanted).await?;
    Ok(answer(act, &id, true))
}

pub(super) async fn create_backup(act: &Act<'_>) -> Result<Response, Failure> {
    let server = act.server("os-create-backup")?;
    let rotation = &act.arguments["rotation"];
    let keep = rotation
        .as_u64()
        .or_else(|| rotation.as_str()?.parse().ok())
        .unwrap_or(0);
    let mut wanted = wanted(act, &server)?;
    wanted.rotation = Some(Rotation {
        sort: act.text("backup_type").unwrap_or_default().to_owned(),
        keep: u32::try_from(keep).unwrap_or(u32::MAX),
    });
    let id = snapshot::snapshot(&act.api.store, act.caller, &server, &wanted).await?;
    Ok(answer(act, &id, keep > 0))
}

/// The image's id: in the body since 2.45, in a header before.
fn answer(act: &Act<'_>, id: &str, is_told: bool) -> Response {
    if act.from(45) {
        return json(StatusCode::ACCEPTED, &json!({ "image_id": id }));
    }
    let accepted = StatusCode::ACCEPTED.into_response();
    if !is_told {
        return accepted;
    }
    let base = base(act.info);
    let root = base.strip_suffix("/compute").unwrap_or(&base);
    located(accepted, &format!("{root}/image/v2/images/{id}"))
}

fn wanted(act: &Act<'_>, server: &Resource<Server>) -> Result<snapshot::Wanted, Failure> {
    let properties = strings(&act.arguments["metadata"]).unwrap_or_default();
    if !act.from(39) {
        let limit = quota::limit(&act.api.store, server.project(), "metadata_items");
        if limit.is_some_and(|limit| properties.len() as i64 > limit) {
            let message = "Image metadata limit exceeded";
            return Err(Failure::forbidden(message).because("OverQuota").at("metadata"));
        }
    }
    Ok(snapshot::Wanted {
        name: act.text("name").unwrap_or_default().trim().to_owned(),
        properties,
        rotation: None,
    })
}

/// An image that the caller may start something from.
fn usable(store: &Store, caller: &Caller, id: &str) -> Option<Arc<Resource<Image>>> {
    let project = caller.subject.project_id().unwrap_or_default();
    let image = store.cache::<Image>().by_name(id)?;
    let is_usable = is_visible(&image, project) || caller.is_admin();
    (is_usable && image.status.state == ImageState::Active).then_some(image)
}

/// Whether an image fits a server's flavor.
fn fits(server: &Resource<Server>, image: &Resource<Image>) -> Result<(), Failure> {
    let flavor = &server.spec.flavor;
    let at = |message: String| Err(Failure::invalid(message).at("imageRef"));
    if flavor.ram_mb < image.spec.min_ram {
        return at("Flavor's memory is too small for requested image.".to_owned());
    }
    let disk = u64::from(flavor.disk_gb) * GIB;
    let content = image.status.content.as_ref();
    let needed = content.map_or(0, |content| content.virtual_size.unwrap_or(content.size));
    let needed = needed.max(u64::from(image.spec.min_disk) * GIB);
    if disk > 0 && disk < needed && !image.spec.is_container() {
        return at(format!(
            "Flavor's disk is too small for requested image. Flavor disk is {disk} bytes, image is {needed} bytes."
        ));
    }
    Ok(())
}

fn strings(value: &Value) -> Option<BTreeMap<String, String>> {
    let members = value.as_object()?;
    let text = |(name, value): (&String, &Value)| Some((name.clone(), value.as_str()?.to_owned()));
    Some(members.iter().filter_map(text).collect())
}
