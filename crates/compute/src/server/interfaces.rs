//! What is attached to a server, as Nova shows it: interfaces and their groups.

mod verbs;

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{Arc, LazyLock},
};

use axum::{
    extract::{Path, State},
    response::Response,
};
use http::StatusCode;
use madang_http::{Failure, Form, Json, Microversion, Schema, json};
use madang_identity::Caller;
use madang_network::{Network, Port, SecurityGroup};
use madang_store::Resource;
use serde_json::{Value, json};

use self::verbs::Wanted;
pub(crate) use self::verbs::{add_address, remove_address};
use super::api::find_for;
use crate::api::{ComputeApi, proxies};

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

/// What `POST os-interface` takes. Tags came with 2.49.
fn schema(has_tag: bool) -> Schema {
    let mut properties = json!({
        "net_id": { "type": "string", "format": "uuid" },
        "port_id": { "type": "string", "format": "uuid" },
        "fixed_ips": {
            "type": "array", "minItems": 1, "maxItems": 1,
            "items": {
                "type": "object",
                "properties": {
                    "ip_address": { "type": "string", "oneOf": [{ "format": "ipv4" }, { "format": "ipv6" }] },
                },
                "required": ["ip_address"],
                "additionalProperties": false,
            },
        },
    });
    if has_tag {
        properties["tag"] = json!({ "type": "string", "minLength": 1, "maxLength": 60, "pattern": "^[^,/]*$" });
    }
    let body = json!({
        "type": "object",
        "properties": {
            "interfaceAttachment": { "type": "object", "properties": properties, "additionalProperties": false },
        },
        "required": ["interfaceAttachment"],
        "additionalProperties": false,
    });
    Schema::new(Form::Nova, body)
}

static WITH_TAG: LazyLock<Schema> = LazyLock::new(|| schema(true));
static WITHOUT_TAG: LazyLock<Schema> = LazyLock::new(|| schema(false));

/// `POST /servers/{id}/os-interface`.
pub async fn attach(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
    Json(mut body): Json<Value>,
) -> Result<Response, Failure> {
    // Without a word it is the only network there is.
    if body["interfaceAttachment"].is_null() && body.is_object() {
        body["interfaceAttachment"] = json!({});
    }
    let has_tag = version >= Microversion(2, 49);
    if has_tag { &WITH_TAG } else { &WITHOUT_TAG }.check(&body)?;
    let server = find_for(&api, &caller, &id, "os_compute_api:os-attach-interfaces:create")?;
    let asked = &body["interfaceAttachment"];
    let wanted = wanted(&api, &caller, &server, asked)?;
    let port = verbs::attach(&api.store, &caller, &server, &wanted, asked["tag"].as_str()).await?;
    let shown = json!({ "interfaceAttachment": interface(&port, version) });
    Ok(json(StatusCode::OK, &shown))
}

fn wanted(
    api: &ComputeApi,
    caller: &Caller,
    server: &Resource<crate::Server>,
    asked: &Value,
) -> Result<Wanted, Failure> {
    let address = asked["fixed_ips"][0]["ip_address"].as_str();
    let address: Option<IpAddr> = address.and_then(|address| address.parse().ok());
    match (asked["port_id"].as_str(), asked["net_id"].as_str()) {
        (Some(_), Some(_)) => Err(Failure::invalid("Must not input both network_id and port_id")),
        (_, None) if address.is_some() => Err(Failure::invalid("Must input network_id when request IP address")),
        (Some(port), None) => {
            let found = api.store.cache::<Port>().by_name(port);
            let found = found.filter(|found| caller.can_see(found.project()));
            let missing = || Failure::not_found(format!("Port {port} could not be found."));
            Ok(Wanted::Port(found.ok_or_else(missing)?))
        }
        (None, network) => Ok(Wanted::Network {
            network: network_for(api, caller, server.project(), network)?,
            address,
        }),
    }
}

/// The network asked for, or the only one that the project has.
fn network_for(
    api: &ComputeApi,
    caller: &Caller,
    project: &str,
    id: Option<&str>,
) -> Result<Arc<Resource<Network>>, Failure> {
    let networks = api.store.cache::<Network>();
    if let Some(id) = id {
        let is_usable = |network: &Arc<Resource<Network>>| {
            madang_network::is_visible(&api.store, network, project) || caller.is_admin()
        };
        let network = networks.by_name(id).filter(is_usable);
        let network = network.ok_or_else(|| Failure::not_found(format!("Network {id} could not be found.")))?;
        if network.spec.is_external
            && !madang_network::may_plug_into(&api.store, &network, project)
            && !caller.is_admin()
        {
            let message = format!("It is not allowed to create an interface on external network {id}");
            return Err(Failure::forbidden(message));
        }
        return Ok(network);
    }
    let mut usable = networks.in_project(project);
    usable.retain(|network| !network.spec.is_external);
    if usable.is_empty() {
        usable = networks.by("shared", "yes");
        usable.retain(|network| !network.spec.is_external);
    }
    match (usable.pop(), usable.is_empty()) {
        (Some(only), true) => Ok(only),
        (None, _) => Err(Failure::invalid("No network to attach to was found")),
        (Some(_), false) => Err(Failure::invalid(
            "Multiple possible networks found, use a Network ID to be more specific.",
        )),
    }
}

/// `DELETE /servers/{id}/os-interface/{port}`.
pub async fn detach(
    State(api): State<ComputeApi>,
    caller: Caller,
    Path((id, port)): Path<(String, String)>,
) -> Result<StatusCode, Failure> {
    let server = find_for(&api, &caller, &id, "os_compute_api:os-attach-interfaces:delete")?;
    let found = api
        .store
        .cache::<Port>()
        .by_name(&port)
        .filter(|port| port.spec.device_id == server.name());
    let missing = || Failure::not_found(format!("Instance {id} does not have port with id {port}"));
    let found = found.ok_or_else(missing)?;
    verbs::detach(&api.store, &caller, &server, &found).await?;
    Ok(StatusCode::ACCEPTED)
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
        .map(|group| proxies::security_groups::view(&api.store, &group))
        .collect();
    Ok(json(StatusCode::OK, &json!({ "security_groups": shown })))
}
