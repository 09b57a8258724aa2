//! What is attached to a server, as Nova shows it: interfaces and their groups.

use std::collections::BTreeSet;

use axum::{
    extract::{Path, State},
    response::Response,
};
use http::StatusCode;
use madang_http::{Failure, Microversion, json};
use madang_identity::Caller;
use madang_network::{Port, Rule, SecurityGroup};
use madang_store::Resource;
use serde_json::{Value, json};

use super::api::find_for;
use crate::api::ComputeApi;

/// `GET /servers/{id}/os-interface`.
pub async fn list(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let server = find_for(&api, &caller, &id, "os_compute_api:os-attach-interfaces:list")?;
    let ports = api.store.cache::<Port>().by("device", server.name());
    let shown: Vec<Value> = ports.iter().map(|port| interface(port, version)).collect();
    Ok(json(StatusCode::OK, &json!({ "interfaceAttachments": shown })))
}

/// `GET /servers/{id}/os-interface/{port}`.
pub async fn show(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path((id, port)): Path<(String, String)>,
) -> Result<Response, Failure> {
    let server = find_for(&api, &caller, &id, "os_compute_api:os-attach-interfaces:show")?;
    let found = api
        .store
        .cache::<Port>()
        .by_name(&port)
        .filter(|port| port.spec.device_id == server.name());
    let missing = || Failure::not_found(format!("Instance {id} does not have port with id {port}"));
    let found = found.ok_or_else(missing)?;
    Ok(json(
        StatusCode::OK,
        &json!({ "interfaceAttachment": interface(&found, version) }),
    ))
}

fn interface(port: &Resource<Port>, version: Microversion) -> Value {
    let ips: Vec<Value> = port
        .spec
        .fixed_ips
        .iter()
        .map(|ip| json!({ "ip_address": ip.ip_address, "subnet_id": ip.subnet_id }))
        .collect();
    let mut shown = json!({
        "port_id": port.name(),
        "net_id": port.spec.network_id,
        "mac_addr": port.spec.mac_address,
        "port_state": port.status.neutron(port.spec.binding_host.as_deref()),
        "fixed_ips": ips,
    });
    if version >= Microversion(2, 70) {
        shown["tag"] = json!(port.spec.device_tag);
    }
    shown
}

/// `GET /servers/{id}/os-security-groups`.
pub async fn security_groups(
    State(api): State<ComputeApi>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let server = find_for(&api, &caller, &id, "os_compute_api:os-security-groups:list")?;
    let ports = api.store.cache::<Port>().by("device", server.name());
    let ids: BTreeSet<&String> = ports.iter().flat_map(|port| &port.spec.security_groups).collect();
    let groups = api.store.cache::<SecurityGroup>();
    let shown: Vec<Value> = ids
        .into_iter()
        .filter_map(|id| groups.by_name(id))
        .map(|group| {
            let rules = api.store.cache::<Rule>().by("group", group.name());
            json!({
                "id": group.name(),
                "name": group.spec.name,
                "description": group.spec.description,
                "tenant_id": group.project(),
                "rules": rules.iter().map(|rule| rule_view(rule)).collect::<Vec<_>>(),
            })
        })
        .collect();
    Ok(json(StatusCode::OK, &json!({ "security_groups": shown })))
}

/// A rule in the words of the networks before Neutron, which knew only what comes in.
fn rule_view(rule: &Resource<Rule>) -> Value {
    json!({
        "id": rule.name(),
        "parent_group_id": rule.spec.group_id,
        "ip_protocol": rule.spec.protocol,
        "from_port": rule.spec.port_range_min,
        "to_port": rule.spec.port_range_max,
        "ip_range": rule.spec.remote_ip_prefix.map_or(json!({}), |cidr| json!({ "cidr": cidr })),
        "group": {},
    })
}
