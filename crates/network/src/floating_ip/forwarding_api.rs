//! Port forwardings as Neutron shows them, below their floating address.

use std::{net::IpAddr, sync::Arc};

use axum::{
    Router,
    extract::{Path, State},
    response::{IntoResponse, Response},
    routing::get,
};
use http::{Method, StatusCode};
use madang_http::{Failure, Json, Query, RequestInfo, json};
use madang_identity::Caller;
use madang_store::{ErrorKind, Resource};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{FloatingIp, PortForwarding};
use crate::{
    Port,
    api::{
        NetworkApi,
        attribute::{Attribute, Body},
        convert,
        failure::Stop,
        filter,
        resource::{Context, Facts, member, visible, wrapped},
    },
    refusal::{self, Missing},
};

const SINGULAR: &str = "port_forwarding";
const PLURAL: &str = "port_forwardings";

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

fn protocol(value: &Value) -> Result<Value, String> {
    let lower = value.as_str().map(str::to_lowercase);
    convert::one_of(&lower.map_or_else(|| value.clone(), Value::from), &["tcp", "udp"])
}

static ATTRIBUTES: [Attribute; 7] = [
    Attribute::new("description", convert::text_or_null),
    Attribute::new("protocol", protocol).required(),
    Attribute::new("external_port", number).required(),
    Attribute::new("internal_port", number).required(),
    Attribute::new("internal_port_id", convert::uuid).required(),
    Attribute::new("internal_ip_address", convert::ip_or_null),
    Attribute::shown("id"),
];

/// As its floating address shows it.
pub(super) fn in_address(forwarding: &PortForwarding) -> Value {
    let mut view = json!(forwarding);
    if let Some(members) = view.as_object_mut() {
        members.shift_remove("description");
    }
    view
}

fn view(forwarding: &PortForwarding) -> Map<String, Value> {
    match json!(forwarding) {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}

/// The routes.
pub(crate) fn routes() -> Router<NetworkApi> {
    let all = "/floatingips/{id}/port_forwardings";
    Router::new()
        .route(all, get(list).post(create))
        .route(&format!("{all}/{{forwarding}}"), get(show).put(update).delete(delete))
}

fn context(api: NetworkApi, caller: Caller) -> Context {
    Context {
        store: api.store,
        caller,
    }
}

fn address(context: &Context, id: &str, verb: &str) -> Result<Arc<Resource<FloatingIp>>, Failure> {
    let floating = visible::<FloatingIp>(context, id)?;
    let rule = format!("{verb}_floatingip_port_forwarding");
    Facts::of(floating.project()).enforce(&context.caller, &rule)?;
    Ok(floating)
}

fn missing(id: &str) -> Failure {
    let message = format!("Port Forwarding {id} could not be found.");
    refusal::refuse(ErrorKind::NotFound, "PortForwardingNotFound", message).into()
}

/// Puts what a request says over what was said before.
fn fill(context: &Context, body: &Body, to: &mut PortForwarding) -> Result<(), Stop> {
    body.set_text("description", &mut to.description);
    if let Some(protocol) = body.text("protocol") {
        protocol.clone_into(&mut to.protocol);
    }
    for (name, port) in [
        ("external_port", &mut to.external_port),
        ("internal_port", &mut to.internal_port),
    ] {
        if let Some(given) = body.number(name).and_then(|number| u16::try_from(number).ok()) {
            *port = given;
        }
    }
    if let Some(id) = body.text("internal_port_id") {
        let port = visible::<Port>(context, id)?;
        if port.name() != to.internal_port_id {
            port.name().clone_into(&mut to.internal_port_id);
            let mut v4 = port.spec.fixed_ips.iter().filter(|ip| ip.ip_address.is_ipv4());
            let first = v4.next().ok_or_else(|| {
                let why = format_args!("port {id} has no IPv4 address to forward to");
                refusal::bad_request(SINGULAR, why)
            })?;
            to.internal_ip_address = first.ip_address;
        }
    }
    if let Some(address) = body.typed::<IpAddr>("internal_ip_address")? {
        to.internal_ip_address = address;
    }
    Ok(())
}

async fn list(
    State(api): State<NetworkApi>,
    caller: Caller,
    Path(id): Path<String>,
    query: Query,
    info: RequestInfo,
) -> Result<Response, Failure> {
    let floating = address(&context(api, caller), &id, "get")?;
    let items = floating.spec.port_forwardings.iter().map(view).collect();
    let names: Vec<_> = ATTRIBUTES.iter().map(|attribute| attribute.name).collect();
    Ok(json(
        StatusCode::OK,
        &filter::page(PLURAL, items, &names, &[], &query, &info)?,
    ))
}

async fn show(
    State(api): State<NetworkApi>,
    caller: Caller,
    Path((id, forwarding)): Path<(String, String)>,
) -> Result<Response, Failure> {
    let floating = address(&context(api, caller), &id, "get")?;
    let found = floating
        .spec
        .port_forwardings
        .iter()
        .find(|other| other.id == forwarding);
    let found = found.ok_or_else(|| missing(&forwarding))?;
    Ok(json(StatusCode::OK, &wrapped(SINGULAR, Value::Object(view(found)))))
}

async fn create(
    State(api): State<NetworkApi>,
    caller: Caller,
    Path(id): Path<String>,
    body: Json<Value>,
) -> Result<Response, Failure> {
    let context = context(api, caller);
    let known = address(&context, &id, "create")?;
    let body = Body::read(&ATTRIBUTES, &Method::POST, &member(body.0, SINGULAR)?)?;
    let mut made = PortForwarding {
        id: Uuid::new_v4().to_string(),
        protocol: String::new(),
        external_port: 0,
        internal_port_id: String::new(),
        internal_ip_address: IpAddr::from([0; 4]),
        internal_port: 0,
        description: String::new(),
    };
    fill(&context, &body, &mut made)?;
    change(&context, &known, |all| {
        all.push(made.clone());
        Ok(())
    })
    .await?;
    Ok(json(
        StatusCode::CREATED,
        &wrapped(SINGULAR, Value::Object(view(&made))),
    ))
}

async fn update(
    State(api): State<NetworkApi>,
    caller: Caller,
    Path((id, forwarding)): Path<(String, String)>,
    body: Json<Value>,
) -> Result<Response, Failure> {
    let context = context(api, caller);
    let known = address(&context, &id, "update")?;
    let body = Body::read(&ATTRIBUTES, &Method::PUT, &member(body.0, SINGULAR)?)?;
    let changed = change(&context, &known, |all| {
        let found = all.iter_mut().find(|other| other.id == forwarding);
        let found = found.ok_or_else(|| Stop::from(missing(&forwarding)))?;
        fill(&context, &body, found)?;
        Ok(found.clone())
    });
    let changed = changed.await?;
    Ok(json(StatusCode::OK, &wrapped(SINGULAR, Value::Object(view(&changed)))))
}

async fn delete(
    State(api): State<NetworkApi>,
    caller: Caller,
    Path((id, forwarding)): Path<(String, String)>,
) -> Result<Response, Failure> {
    let context = context(api, caller);
    let known = address(&context, &id, "delete")?;
    change(&context, &known, |all| {
        let place = all.iter().position(|other| other.id == forwarding);
        all.remove(place.ok_or_else(|| Stop::from(missing(&forwarding)))?);
        Ok(())
    })
    .await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn change<T>(
    context: &Context,
    known: &Resource<FloatingIp>,
    change: impl Fn(&mut Vec<PortForwarding>) -> Result<T, Stop>,
) -> Result<T, Failure> {
    let changed = context.store.transact(context.caller.cause(), |tx| {
        let old = tx.get::<FloatingIp>(&known.key());
        let old = old.ok_or_else(|| refusal::not_found(Missing::FloatingIp, known.name()))?;
        let mut new = (*old).clone();
        let answer = change(&mut new.spec.port_forwardings)?;
        tx.update(&old, new)?;
        Ok::<_, Stop>(answer)
    });
    Ok(changed.await?)
}
