//! Port forwardings as Neutron shows them, below their floating address.

use std::net::IpAddr;

use axum::Router;
use madang_http::Failure;
use madang_store::ErrorKind;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{FloatingIp, PortForwarding};
use crate::{
    Port,
    api::{
        NetworkApi,
        attribute::{Attribute, Body},
        below::Below,
        convert,
        failure::Stop,
        resource::{Context, visible},
    },
    refusal,
};

fn number(value: &Value) -> Result<Value, String> {
    let number = convert::number(value)?;
    match number.as_i64() {
        Some(1..=65535) => Ok(number),
        _ => Err(format!(
            "{} is not in valid range 1 through 65535",
            convert::quoted(value)
        )),
    }
}

/// `1000:1010`, also of one port alone, as both.
fn range(value: &Value) -> Result<Value, String> {
    let bad = || format!("{} is not a valid port range", convert::quoted(value));
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let (first, last) = text.split_once(':').unwrap_or((&text, &text));
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(bad);
    let (first, last) = (port(first)?, port(last)?);
    if first > last {
        return Err(bad());
    }
    Ok(json!([first, last]))
}

fn protocol(value: &Value) -> Result<Value, String> {
    let lower = value.as_str().map(str::to_lowercase);
    convert::one_of(&lower.map_or_else(|| value.clone(), Value::from), &["tcp", "udp"])
}

static ATTRIBUTES: [Attribute; 9] = [
    Attribute::new("description", convert::text_or_null),
    Attribute::new("protocol", protocol).required(),
    Attribute::new("external_port", number),
    Attribute::new("internal_port", number),
    Attribute::new("external_port_range", range),
    Attribute::new("internal_port_range", range),
    Attribute::new("internal_port_id", convert::uuid).required(),
    Attribute::new("internal_ip_address", convert::ip_or_null),
    Attribute::shown("id"),
];

/// As its floating address shows it.
pub(super) fn in_address(forwarding: &PortForwarding) -> Value {
    let mut view = view(forwarding);
    view.shift_remove("description");
    if forwarding.external_ports().len() == 1 {
        view.shift_remove("external_port_range");
        view.shift_remove("internal_port_range");
    }
    Value::Object(view)
}

/// A single port is shown as one, and any number as a range.
fn view(forwarding: &PortForwarding) -> Map<String, Value> {
    let mut view = match json!(forwarding) {
        Value::Object(members) => members,
        _ => Map::new(),
    };
    for (name, ports) in [
        ("external_port", forwarding.external_ports()),
        ("internal_port", forwarding.internal_ports()),
    ] {
        let range = format!("{}:{}", ports.start(), ports.end());
        view.insert(format!("{name}_range"), range.into());
        view.shift_remove(&format!("{name}_last"));
        if ports.len() > 1 {
            view.shift_remove(name);
        }
    }
    view
}

/// The routes.
pub(crate) fn routes() -> Router<NetworkApi> {
    FORWARDINGS.routes()
}

static FORWARDINGS: Below<FloatingIp, PortForwarding> = Below {
    parents: "floatingips",
    singular: "port_forwarding",
    plural: "port_forwardings",
    noun: "floatingip_port_forwarding",
    is_for_any: false,
    attributes: &ATTRIBUTES,
    all: |spec| &mut spec.port_forwardings,
    is_here: |_| true,
    id: |forwarding| &forwarding.id,
    view,
    read,
    missing: |_, id| {
        let message = format!("Port Forwarding {id} could not be found.");
        refusal::refuse(ErrorKind::NotFound, "PortForwardingNotFound", message).into()
    },
};

fn read(context: &Context, body: &Body, before: Option<&PortForwarding>) -> Result<PortForwarding, Stop> {
    if let Some(before) = before {
        let mut changed = before.clone();
        fill(context, body, &mut changed)?;
        return Ok(changed);
    }
    for side in ["external_port", "internal_port"] {
        if !body.has(side) && !body.has(&format!("{side}_range")) {
            let message = format!("Failed to parse request. Required attribute '{side}' not specified");
            return Err(Failure::invalid(message).at("port_forwarding").into());
        }
    }
    let mut made = PortForwarding {
        id: Uuid::new_v4().to_string(),
        protocol: String::new(),
        external_port: 0,
        external_port_last: 0,
        internal_port_id: String::new(),
        internal_ip_address: IpAddr::from([0; 4]),
        internal_port: 0,
        internal_port_last: 0,
        description: String::new(),
    };
    fill(context, body, &mut made)?;
    Ok(made)
}

/// Puts what a request says over what was said before.
fn fill(context: &Context, body: &Body, to: &mut PortForwarding) -> Result<(), Stop> {
    body.set_text("description", &mut to.description);
    if let Some(protocol) = body.text("protocol") {
        protocol.clone_into(&mut to.protocol);
    }
    for (name, first, last) in [
        ("external_port", &mut to.external_port, &mut to.external_port_last),
        ("internal_port", &mut to.internal_port, &mut to.internal_port_last),
    ] {
        let single = body.number(name).and_then(|number| u16::try_from(number).ok());
        let range: Option<(u16, u16)> = body.typed(&format!("{name}_range"))?;
        if let (Some(_), Some(_)) = (single, range) {
            let why = format_args!("{name} and {name}_range cannot both be specified");
            return Err(refusal::bad_request("port_forwarding", why).into());
        }
        if let Some((from, to)) = range.or(single.map(|port| (port, port))) {
            *first = from;
            *last = if to == from { 0 } else { to };
        }
    }
    if let Some(id) = body.text("internal_port_id") {
        let port = visible::<Port>(context, id)?;
        if port.name() != to.internal_port_id {
            port.name().clone_into(&mut to.internal_port_id);
            let mut v4 = port.spec.fixed_ips.iter().filter(|ip| ip.ip_address.is_ipv4());
            let first = v4.next().ok_or_else(|| {
                let why = format_args!("port {id} has no IPv4 address to forward to");
                refusal::bad_request("port_forwarding", why)
            })?;
            to.internal_ip_address = first.ip_address;
        }
    }
    if let Some(address) = body.typed::<IpAddr>("internal_ip_address")? {
        to.internal_ip_address = address;
    }
    Ok(())
}
