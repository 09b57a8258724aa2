//! `/os-floating-ips` and `/os-floating-ip-pools`.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, LazyLock},
};

use axum::{Router, body::Bytes, response::Response, routing::get};
use http::StatusCode;
use madang_http::{Failure, Microversion, Schema, json};
use madang_identity::Caller;
use madang_network::{FloatingIp, FloatingIpSpec, Network, Port, Subnet};
use madang_store::{Metadata, Resource, Store, StoreError};
use serde_json::{Value, json};

use super::{
    collection::{self, Asked, Collection, on_delete, on_list, on_show},
    refusal,
};
use crate::{
    Server,
    api::{ComputeApi, input},
};

pub(super) fn routes() -> Router<ComputeApi> {
    Router::new()
        .route("/os-floating-ip-pools", get(pools))
        .route("/os-floating-ips", get(on_list::<FloatingIps>).post(create))
        .route(
            "/os-floating-ips/{id}",
            get(on_show::<FloatingIps>).delete(on_delete::<FloatingIps>),
        )
}

/// The project's addresses.
struct FloatingIps;

impl Collection for FloatingIps {
    type Kind = FloatingIp;
    const ONE: &'static str = "floating_ip";
    const MANY: &'static str = "floating_ips";

    fn allow(asked: &Asked, verb: &str) -> Result<(), Failure> {
        asked
            .allowed(&format!("os_compute_api:os-floating-ips:{verb}"))
            .map(|_| ())
    }

    fn missing(id: &str) -> String {
        format!("Floating IP not found for ID {id}")
    }

    fn view(asked: &Asked, floating: &Resource<FloatingIp>) -> Value {
        let (store, spec) = (asked.store(), &floating.spec);
        let port = spec.port_id.as_deref().and_then(|id| store.cache::<Port>().by_name(id));
        let network = store.cache::<Network>().by_name(&spec.network_id);
        json!({
            "id": floating.name(),
            "ip": spec.address,
            "fixed_ip": spec.fixed_ip_address,
            "instance_id": port.map(|port| port.spec.device_id.clone()),
            "pool": network.as_deref().map_or(spec.network_id.as_str(), pool_name),
        })
    }
}

/// The networks that addresses come from.
fn external(store: &Store) -> Vec<Arc<Resource<Network>>> {
    let mut networks = store.cache::<Network>().all();
    networks.retain(|network| network.spec.is_external);
    networks.sort_unstable_by(|a, b| (a.metadata.created, a.name()).cmp(&(b.metadata.created, b.name())));
    networks
}

/// What Nova calls a pool: an external network's name, or its id where it has none.
fn pool_name(network: &Resource<Network>) -> &str {
    if network.spec.name.is_empty() {
        network.name()
    } else {
        &network.spec.name
    }
}

/// The last microversion whose servers have actions for addresses.
const LAST_ACTION: u16 = 43;

static ADDRESS: LazyLock<Schema> = LazyLock::new(|| {
    let ip = json!({ "type": "string", "oneOf": [{ "format": "ipv4" }, { "format": "ipv6" }] });
    input::nova(json!({
        "type": "object",
        "properties": { "address": ip, "fixed_address": ip },
        "required": ["address"],
        "additionalProperties": false,
    }))
});

/// The project's floating address that an action names.
fn named(
    store: &Store,
    caller: &Caller,
    version: Microversion,
    arguments: &Value,
) -> Result<Arc<Resource<FloatingIp>>, Failure> {
    input::until(version, LAST_ACTION)?;
    ADDRESS.check(arguments)?;
    let address = arguments["address"].as_str().unwrap_or_default();
    let mut found = store.cache::<FloatingIp>().by("address", address).into_iter();
    let found = found.find(|floating| caller.can_see(floating.project()));
    found.ok_or_else(|| Failure::not_found(format!("floating IP not found for address {address}.")))
}

/// The action `addFloatingIp`: leads an address to a server.
pub(crate) async fn add_to(
    store: &Store,
    caller: &Caller,
    version: Microversion,
    server: &Resource<Server>,
    arguments: &Value,
) -> Result<(), Failure> {
    let floating = named(store, caller, version, arguments)?;
    let to = inside(store, server, arguments)?;
    lead(store, caller, &floating, Some(to)).await
}

/// The port and the address of a server that an action means: the one it names, or the first.
fn inside(store: &Store, server: &Resource<Server>, arguments: &Value) -> Result<(String, IpAddr), Failure> {
    let wanted = arguments["fixed_address"]
        .as_str()
        .and_then(|ip| ip.parse::<IpAddr>().ok());
    let mut ports = store.cache::<Port>().by("device", server.name());
    ports.sort_unstable_by_key(|port| (port.spec.device_index, port.metadata.uid));
    for port in &ports {
        let mut own = port.spec.fixed_ips.iter().map(|ip| ip.ip_address);
        let found = own.find(|ip| ip.is_ipv4() && wanted.is_none_or(|wanted| wanted == *ip));
        if let Some(ip) = found {
            return Ok((port.name().to_owned(), ip));
        }
    }
    Err(Failure::invalid(match wanted {
        Some(_) => "Specified fixed address not assigned to instance",
        None => "No fixed IPs associated to instance",
    }))
}

/// The action `removeFloatingIp`: leads an address nowhere.
pub(crate) async fn remove_from(
    store: &Store,
    caller: &Caller,
    version: Microversion,
    server: &Resource<Server>,
    arguments: &Value,
) -> Result<(), Failure> {
    let floating = named(store, caller, version, arguments)?;
    let port = floating.spec.port_id.as_deref();
    let port = port.and_then(|id| store.cache::<Port>().by_name(id));
    if port.is_none_or(|port| port.spec.device_id != server.name()) {
        let message = format!(
            "Floating IP {} is not associated with instance {}.",
            floating.spec.address,
            server.name()
        );
        return Err(Failure::conflict(message));
    }
    lead(store, caller, &floating, None).await
}

async fn lead(
    store: &Store,
    caller: &Caller,
    floating: &Resource<FloatingIp>,
    to: Option<(String, IpAddr)>,
) -> Result<(), Failure> {
    let key = floating.key();
    let led = store.modify::<FloatingIp, StoreError>(&key, caller.cause(), |floating| {
        floating.spec.port_id = to.as_ref().map(|(port, _)| port.clone());
        floating.spec.fixed_ip_address = to.as_ref().map(|(_, ip)| *ip);
        Ok(())
    });
    led.await.map(|_| ()).map_err(refusal)
}

/// `GET /os-floating-ip-pools`.
async fn pools(asked: Asked) -> Result<Response, Failure> {
    input::until(asked.version, super::LAST)?;
    asked.caller.enforce("os_compute_api:os-floating-ip-pools", &[])?;
    let networks = external(asked.store());
    let pools: Vec<Value> = networks
        .iter()
        .map(|network| json!({ "name": pool_name(network) }))
        .collect();
    Ok(json(StatusCode::OK, &json!({ "floating_ip_pools": pools })))
}

/// `POST /os-floating-ips`: an address of the pool named, or of the first there is. The body may be empty.
async fn create(asked: Asked, body: Bytes) -> Result<Response, Failure> {
    static CREATE: LazyLock<Schema> = LazyLock::new(|| {
        let pool = json!({ "type": ["string", "null"] });
        input::nova(json!({ "type": ["object", "null"], "properties": { "pool": pool } }))
    });
    let project = asked.allowed("os_compute_api:os-floating-ips:create")?;
    let body: Value = if body.is_empty() {
        Value::Null
    } else {
        serde_json::from_slice(&body).map_err(|_| Failure::invalid("Malformed request body"))?
    };
    CREATE.check(&body)?;
    let network = pool(asked.store(), body["pool"].as_str())?;
    let spec = FloatingIpSpec {
        description: String::new(),
        network_id: network.name().to_owned(),
        subnet_id: String::new(),
        address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        holder_port_id: String::new(),
        port_id: None,
        fixed_ip_address: None,
        port_forwardings: Vec::new(),
        router_id: None,
        qos_policy_id: None,
        dns_domain: String::new(),
        dns_name: String::new(),
        tags: Vec::new(),
    };
    let wanted = Resource::<FloatingIp>::new(Metadata::with_id(project), spec);
    let made = collection::make(&asked, wanted).await;
    let made = made.map_err(|error| no_address(error, pool_name(&network)))?;
    Ok(collection::one::<FloatingIps>(&asked, &made))
}

fn pool(store: &Store, name: Option<&str>) -> Result<Arc<Resource<Network>>, Failure> {
    let mut networks = external(store);
    networks.retain(|network| store.cache::<Subnet>().count_by("network", network.name()) > 0);
    let found = match name {
        None => networks.into_iter().next(),
        Some(name) => networks
            .into_iter()
            .find(|network| network.name() == name || network.spec.name == name),
    };
    found.ok_or_else(|| Failure::not_found("Floating IP pool not found."))
}

/// Nova's words and statuses for a full pool and a full quota.
fn no_address(error: StoreError, pool: &str) -> Failure {
    let refused = refusal(error);
    match refused.reason {
        "OverQuota" => Failure::forbidden(format!("IP allocation over quota in pool {pool}.")),
        "IpAddressGenerationFailure" | "ExternalIpAddressExhausted" => {
            Failure::not_found(format!("No more floating IPs in pool {pool}."))
        }
        _ => refused,
    }
}
