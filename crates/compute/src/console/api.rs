//! Consoles as Nova gives them out: a URL with a token in it.

use std::sync::LazyLock;

use axum::{
    extract::{Path, State},
    response::Response,
};
use http::StatusCode;
use madang_host::workload::ConsoleKind;
use madang_http::{Failure, Form, Json, Microversion, RequestInfo, Schema, json};
use madang_identity::Caller;
use madang_store::Resource;
use serde_json::{Value, json};

use super::door::{PAGE, WEBSOCKET};
use crate::{
    Server,
    api::{ComputeApi, base, input},
    server::{api::find_for, state},
};

const RULE: &str = "os_compute_api:os-remote-consoles";

/// What may be asked for, here or anywhere.
fn schema(version: Microversion) -> &'static Schema {
    fn of(minor: u16) -> Schema {
        let (mut protocols, mut types) = (
            vec!["vnc", "spice", "serial", "rdp"],
            vec!["novnc", "xvpvnc", "spice-html5", "serial", "rdp-html5"],
        );
        if minor >= 8 {
            protocols.push("mks");
            types.push("webmks");
        }
        if minor >= 99 {
            types.push("spice-direct");
        }
        let properties = json!({
            "protocol": { "type": "string", "enum": protocols },
            "type": { "type": "string", "enum": types },
        });
        Schema::new(
            Form::Nova,
            input::wrapped("remote_console", properties, &["protocol", "type"]),
        )
    }
    static FIRST: LazyLock<Schema> = LazyLock::new(|| of(6));
    static MKS: LazyLock<Schema> = LazyLock::new(|| of(8));
    static DIRECT: LazyLock<Schema> = LazyLock::new(|| of(99));
    match version {
        v if v >= Microversion(2, 99) => &DIRECT,
        v if v >= Microversion(2, 8) => &MKS,
        _ => &FIRST,
    }
}

/// `POST /servers/{id}/remote-consoles`, from 2.6.
pub async fn create(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
    info: RequestInfo,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    if version < Microversion(2, 6) {
        return Err(Failure::not_found("The resource could not be found."));
    }
    schema(version).check(&body)?;
    let server = find_for(&api, &caller, &id, RULE)?;
    let asked = &body["remote_console"];
    let protocol = asked["protocol"].as_str().unwrap_or_default();
    let shape = asked["type"].as_str().unwrap_or_default();
    let kind = match (protocol, shape) {
        ("vnc", "novnc") => ConsoleKind::Vnc,
        ("serial", "serial") => ConsoleKind::Serial,
        _ => return Err(unavailable(shape)),
    };
    let url = open(&api, &server, kind, shape, &info)?;
    let shown = json!({ "protocol": protocol, "type": shape, "url": url });
    Ok(json(StatusCode::OK, &json!({ "remote_console": shown })))
}

/// The actions of before 2.6: `os-getVNCConsole` and those like it.
///
/// # Errors
/// As Nova's: 404 where the microversion has them no more, 400 for a console that is not there.
pub fn act(
    api: &ComputeApi,
    caller: &Caller,
    version: Microversion,
    id: &str,
    info: &RequestInfo,
    action: &str,
    arguments: &Value,
) -> Result<Response, Failure> {
    if version >= Microversion(2, 6) {
        return Err(Failure::not_found("The resource could not be found."));
    }
    let server = find_for(api, caller, id, RULE)?;
    let shape = arguments["type"]
        .as_str()
        .ok_or_else(|| Failure::invalid("'type' is a required property").at("type"))?;
    let kind = match (action, shape) {
        ("os-getVNCConsole", "novnc") => ConsoleKind::Vnc,
        ("os-getSerialConsole", "serial") => ConsoleKind::Serial,
        _ => return Err(unavailable(shape)),
    };
    let url = open(api, &server, kind, shape, info)?;
    Ok(json(
        StatusCode::OK,
        &json!({ "console": { "type": shape, "url": url } }),
    ))
}

/// `GET /os-console-auth-tokens/{token}`: what a token opens, for proxies.
pub async fn token(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(token): Path<String>,
) -> Result<Response, Failure> {
    if !caller.allows("os_compute_api:os-console-auth-tokens", &[]) {
        return Err(Failure::forbidden(
            "Policy doesn't allow os_compute_api:os-console-auth-tokens to be performed.",
        ));
    }
    if version < Microversion(2, 31) {
        // Until then only for a console that is not here.
        return Err(Failure::invalid(
            "The requested console type details are not accessible",
        ));
    }
    let missing = || Failure::not_found("Token not found");
    let grant = api.consoles.tokens().find(&token).ok_or_else(missing)?;
    let server = api.store.get::<Server>(&grant.server).ok_or_else(missing)?;
    let shown = json!({
        "instance_uuid": server.name(),
        "host": server.status.host,
        // Consoles listen nowhere.
        "port": 0,
        "internal_access_path": null,
    });
    Ok(json(StatusCode::OK, &json!({ "console": shown })))
}

fn unavailable(shape: &str) -> Failure {
    Failure::invalid(format!("Unavailable console type {shape}."))
}

fn open(
    api: &ComputeApi,
    server: &Resource<Server>,
    kind: ConsoleKind,
    shape: &str,
    info: &RequestInfo,
) -> Result<String, Failure> {
    if kind == ConsoleKind::Vnc && server.spec.driver == "oci" {
        let reason = format!(
            "Unavailable console type {shape}: instance {} is a container and has no screen; its console is of type serial",
            server.name()
        );
        return Err(Failure::invalid(reason));
    }
    let now = state::of(server);
    if now.task_state.is_some_and(|task| task != "deleting") && now.vm_state == "building" {
        return Err(Failure::conflict(format!("Instance {} is not ready", server.name())));
    }
    if !matches!(now.vm_state, "active" | "paused" | "rescued" | "resized") {
        let message = format!(
            "Cannot 'get_{}_console' instance {} while it is in vm_state {}",
            if kind == ConsoleKind::Vnc { "vnc" } else { "serial" },
            server.name(),
            now.vm_state
        );
        return Err(Failure::conflict(message));
    }
    let token = api.consoles.tokens().issue(server.key(), kind);
    let base = base(info);
    Ok(match kind {
        // noVNC's own form: the path of its websocket, as a parameter.
        ConsoleKind::Vnc => {
            let mount = mount(&base);
            format!(
                "{base}/{PAGE}?path={}",
                encode(&format!("{mount}{WEBSOCKET}?token={token}"))
            )
        }
        ConsoleKind::Serial => {
            let rest = base.strip_prefix("http").unwrap_or(&base);
            format!("ws{rest}/{WEBSOCKET}?token={token}")
        }
    })
}

/// The path of the API, as `compute/`.
fn mount(base: &str) -> String {
    let path = base.split_once("://").and_then(|(_, rest)| rest.split_once('/'));
    match path {
        Some((_, path)) if !path.is_empty() => format!("{path}/"),
        _ => String::new(),
    }
}

/// For a query's value. Source: RFC 3986, section 2.
fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len() * 2);
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => encoded.push(char::from(byte)),
            other => encoded.push_str(&format!("%{other:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_told_where_its_websocket_is() {
        assert_eq!(mount("https://cloud:9000/compute"), "compute/");
        assert_eq!(mount("https://cloud:9000"), "");
        assert_eq!(encode("compute/x?token=a-_"), "compute%2Fx%3Ftoken%3Da-_");
    }
}
