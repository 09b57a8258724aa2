//! `/resource_classes` and `/traits`: the names of what providers have.

use std::collections::BTreeSet;

use axum::{
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use http::StatusCode;
use madang_http::{Failure, Microversion, Query, json};
use madang_identity::Caller;
use madang_store::Store;
use serde_json::{Value, json};

use super::{PlacementApi, dated, enforce};
use crate::Provider;

/// The standard classes. Source: os-resource-classes.
const CLASSES: &[&str] = &[
    "VCPU",
    "MEMORY_MB",
    "DISK_GB",
    "PCI_DEVICE",
    "SRIOV_NET_VF",
    "NUMA_SOCKET",
    "NUMA_CORE",
    "NUMA_THREAD",
    "NUMA_MEMORY_MB",
    "IPV4_ADDRESS",
    "VGPU",
    "VGPU_DISPLAY_HEAD",
    "NET_BW_EGR_KILOBIT_PER_SEC",
    "NET_BW_IGR_KILOBIT_PER_SEC",
    "PCPU",
    "MEM_ENCRYPTION_CONTEXT",
    "FPGA",
    "PGPU",
    "NET_PACKET_RATE_KILOPACKET_PER_SEC",
    "NET_PACKET_RATE_EGR_KILOPACKET_PER_SEC",
    "NET_PACKET_RATE_IGR_KILOPACKET_PER_SEC",
];

/// Standard traits that mean something here. Source: os-traits.
const TRAITS: &[&str] = &[
    "COMPUTE_STATUS_DISABLED",
    "COMPUTE_NODE",
    "COMPUTE_IMAGE_TYPE_QCOW2",
    "COMPUTE_IMAGE_TYPE_RAW",
    "HW_CPU_X86_VMX",
    "HW_CPU_X86_SVM",
    "HW_CPU_X86_AVX",
    "HW_CPU_X86_AVX2",
    "HW_CPU_X86_AESNI",
];

fn classes_of(store: &Store) -> BTreeSet<String> {
    let providers = store.cache::<Provider>().all();
    let used = providers
        .iter()
        .flat_map(|provider| provider.spec.inventories.keys().cloned());
    CLASSES.iter().map(|class| (*class).to_owned()).chain(used).collect()
}

fn traits_of(store: &Store) -> BTreeSet<String> {
    let providers = store.cache::<Provider>().all();
    let used = providers
        .iter()
        .flat_map(|provider| provider.spec.traits.iter().cloned());
    TRAITS.iter().map(|one| (*one).to_owned()).chain(used).collect()
}

fn class_view(name: &str) -> Value {
    json!({ "name": name, "links": [{ "rel": "self", "href": format!("/placement/resource_classes/{name}") }] })
}

/// `GET /resource_classes`, since 1.2.
pub(super) async fn list(
    State(api): State<PlacementApi>,
    caller: Caller,
    version: Microversion,
) -> Result<Response, Failure> {
    enforce(&caller, "placement:resource_classes:list")?;
    let classes: Vec<Value> = classes_of(&api.store).iter().map(|name| class_view(name)).collect();
    Ok(dated(
        json(StatusCode::OK, &json!({ "resource_classes": classes })),
        version,
    ))
}

/// `GET /resource_classes/{name}`.
pub(super) async fn show(
    State(api): State<PlacementApi>,
    caller: Caller,
    version: Microversion,
    Path(name): Path<String>,
) -> Result<Response, Failure> {
    enforce(&caller, "placement:resource_classes:show")?;
    if !classes_of(&api.store).contains(&name) {
        return Err(Failure::not_found(format!("No such resource class {name}.")));
    }
    Ok(dated(json(StatusCode::OK, &class_view(&name)), version))
}

/// `GET /traits`: all, or those that `name=in:…` or `name=startswith:…` selects.
pub(super) async fn traits(
    State(api): State<PlacementApi>,
    caller: Caller,
    version: Microversion,
    query: Query,
) -> Result<Response, Failure> {
    enforce(&caller, "placement:traits:list")?;
    let mut traits = traits_of(&api.store);
    if let Some(filter) = query.get("name") {
        match filter.split_once(':') {
            Some(("in", names)) => traits.retain(|name| names.split(',').any(|wanted| wanted == name)),
            Some(("startswith", start)) => traits.retain(|name| name.starts_with(start)),
            _ => {
                let message = format!(
                    "Badly formatted name parameter. Expected name query string parameter in form: ?name=[in|startswith]:[name1,name2|prefix]. Got: \"{filter}\""
                );
                return Err(Failure::invalid(message).at("name"));
            }
        }
    }
    Ok(dated(json(StatusCode::OK, &json!({ "traits": traits })), version))
}

/// `GET /traits/{name}`: 204 when it is known.
pub(super) async fn show_trait(
    State(api): State<PlacementApi>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Response, Failure> {
    enforce(&caller, "placement:traits:show")?;
    if traits_of(&api.store).contains(&name) {
        Ok(StatusCode::NO_CONTENT.into_response())
    } else {
        Err(Failure::not_found(format!("No such trait(s): {name}.")))
    }
}

/// `PUT /traits/{name}`: traits need not be made here; a well-formed custom one is known as soon as a provider has it.
pub(super) async fn need_trait(
    State(api): State<PlacementApi>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Response, Failure> {
    enforce(&caller, "placement:traits:update")?;
    check_trait(&api.store, &name)?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Requires that a trait is a standard one or a well-formed custom one.
pub(crate) fn check_trait(store: &Store, name: &str) -> Result<(), Failure> {
    let is_custom = name.strip_prefix("CUSTOM_").is_some_and(|rest| {
        !rest.is_empty()
            && name.len() <= 255
            && rest
                .bytes()
                .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
    });
    if is_custom || traits_of(store).contains(name) {
        Ok(())
    } else {
        Err(Failure::invalid(format!(
            "No such trait {name}: it is neither a standard one nor CUSTOM_[A-Z0-9_]+"
        ))
        .at("traits"))
    }
}
