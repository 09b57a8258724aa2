//! How an image looks in Glance's API.

use std::collections::BTreeMap;

use jiff::Timestamp;
use madang_store::Resource;
use serde::Serialize;

use super::super::{Image, ImageState, Member};
use crate::api::STORE;

/// An image as Glance shows it; the user's own properties stand among the others.
#[derive(Serialize)]
pub(crate) struct View<'a> {
    #[serde(flatten)]
    properties: &'a BTreeMap<String, String>,
    name: Option<&'a str>,
    disk_format: Option<&'static str>,
    container_format: Option<&'static str>,
    visibility: &'static str,
    size: Option<u64>,
    virtual_size: Option<u64>,
    status: &'static str,
    checksum: Option<&'a str>,
    protected: bool,
    min_ram: u32,
    min_disk: u32,
    owner: Option<&'a str>,
    os_hidden: bool,
    os_hash_algo: Option<&'static str>,
    os_hash_value: Option<&'a str>,
    id: &'a str,
    created_at: String,
    updated_at: String,
    tags: Vec<&'a str>,
    #[serde(rename = "self")]
    itself: String,
    file: String,
    schema: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    stores: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    os_glance_importing_to_stores: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    os_glance_failed_import: Option<&'static str>,
}

pub(crate) fn view(image: &Resource<Image>) -> View<'_> {
    let (spec, status, id) = (&image.spec, &image.status, image.name());
    let content = status.content.as_ref();
    let is_importing = status.state == ImageState::Importing;
    View {
        properties: &spec.properties,
        name: spec.name.as_deref(),
        disk_format: spec.disk_format.map(super::super::DiskFormat::as_str),
        container_format: spec.container_format.map(super::super::ContainerFormat::as_str),
        visibility: spec.visibility.as_str(),
        size: content.map(|content| content.size),
        virtual_size: content.and_then(|content| content.virtual_size),
        status: status.state.as_str(),
        checksum: content.map(|content| content.md5.as_str()),
        protected: spec.is_protected,
        min_ram: spec.min_ram,
        min_disk: spec.min_disk,
        owner: Some(image.project()).filter(|owner| !owner.is_empty()),
        os_hidden: spec.is_hidden,
        os_hash_algo: content.map(|_| "sha512"),
        os_hash_value: content.map(|content| content.sha512.as_str()),
        id,
        created_at: time(image.metadata.created),
        updated_at: time(image.metadata.updated),
        tags: spec.tags.iter().map(String::as_str).collect(),
        itself: format!("/v2/images/{id}"),
        file: format!("/v2/images/{id}/file"),
        schema: "/v2/schemas/image",
        stores: matches!(status.state, ImageState::Active | ImageState::Deactivated).then_some(STORE),
        os_glance_importing_to_stores: status.was_imported.then_some(if is_importing { STORE } else { "" }),
        os_glance_failed_import: status
            .was_imported
            .then_some(if status.has_failed { STORE } else { "" }),
    }
}

/// A member of an image as Glance shows it.
#[derive(Serialize)]
pub(crate) struct MemberView<'a> {
    member_id: &'a str,
    image_id: &'a str,
    status: &'static str,
    created_at: String,
    updated_at: String,
    schema: &'static str,
}

pub(crate) fn member_view<'a>(image: &'a str, member: &'a Member) -> MemberView<'a> {
    MemberView {
        member_id: &member.project,
        image_id: image,
        status: member.status.as_str(),
        created_at: time(member.created),
        updated_at: time(member.updated),
        schema: "/v2/schemas/member",
    }
}

/// `2026-11-21T02:03:04Z`: whole seconds, as Glance has it.
pub(crate) fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
