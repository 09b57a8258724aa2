//! `/os-services`: the agent of each host.

use std::sync::LazyLock;

use axum::{
    Router,
    extract::{Path, State},
    response::{IntoResponse, Response},
    routing::{get, put},
};
use http::StatusCode;
use madang_http::{Failure, Json, Microversion, Query, Schema, json};
use madang_identity::Caller;
use madang_scheduler::{Provider, ProviderSpec};
use madang_store::{Resource, StoreError};
use serde_json::{Value, json};

use super::{Host, all, by_id, by_name, id_of, number, state, status};
use crate::{
    Aggregate, Server,
    aggregate::zone_of,
    api::{ComputeApi, failure, input},
    server::view::micros,
};

/// What agents are called in Nova.
const BINARY: &str = "nova-compute";

pub(super) fn routes() -> Router<ComputeApi> {
    Router::new()
        .route("/os-services", get(list))
        .route("/os-services/{id}", put(update).delete(delete))
}

fn view(api: &ComputeApi, host: &Resource<Provider>, version: Microversion) -> Value {
    let mut shown = json!({
        "id": id_of(host, version),
        "binary": BINARY,
        "host": host.spec.name,
        "zone": zone_of(&api.store, host),
        "status": status(host),
        "state": state(host),
        "updated_at": host.status.seen.map(micros),
        "disabled_reason": host.spec.disabled_reason,
    });
    if version >= Microversion(2, 11) {
        shown["forced_down"] = json!(host.spec.is_forced_down);
    }
    shown
}

/// `GET /os-services`.
async fn list(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    query: Query,
) -> Result<Response, Failure> {
    caller.enforce("os_compute_api:os-services:list", &[])?;
    let mut hosts = all(&api.store);
    if let Some(wanted) = query.get("host").filter(|host| !host.is_empty()) {
        hosts.retain(|host| host.spec.name == wanted);
    }
    if query
        .get("binary")
        .is_some_and(|binary| !binary.is_empty() && binary != BINARY)
    {
        hosts.clear();
    }
    let list: Vec<Value> = hosts.iter().map(|host| view(&api, host, version)).collect();
    Ok(json(StatusCode::OK, &json!({ "services": list })))
}

fn check_body(version: Microversion, body: &Value) -> Result<(), Failure> {
    fn schema(minor: u16) -> Schema {
        let text = json!({ "type": "string", "minLength": 1, "maxLength": 255 });
        let mut properties = json!({ "disabled_reason": text });
        let mut required = json!([]);
        if minor >= 53 {
            properties["status"] = json!({ "type": "string", "enum": ["enabled", "disabled"] });
        } else {
            properties["host"] = input::host();
            properties["binary"] = text;
            required = json!(["host", "binary"]);
        }
        if minor >= 11 {
            properties["forced_down"] = input::boolean();
        }
        let mut schema = json!({ "type": "object", "properties": properties, "additionalProperties": false });
        if required != json!([]) {
            schema["required"] = required;
        }
        input::nova(schema)
    }
    static OLD: LazyLock<Schema> = LazyLock::new(|| schema(1));
    static FORCED: LazyLock<Schema> = LazyLock::new(|| schema(11));
    static BY_ID: LazyLock<Schema> = LazyLock::new(|| schema(53));
    match version {
        v if v >= Microversion(2, 53) => BY_ID.check(body),
        v if v >= Microversion(2, 11) => FORCED.check(body),
        _ => OLD.check(body),
    }
}

/// `PUT /os-services/{id}`, since 2.53. Before: `PUT /os-services/{enable|disable|disable-log-reason|force-down}` with
/// the host in the body. Takes a host out of scheduling or back in, or says that it is down.
async fn update(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    caller.enforce("os_compute_api:os-services:update", &[])?;
    check_body(version, &body)?;
    if version < Microversion(2, 53) {
        return update_by_name(&api, &caller, version, &id, &body).await;
    }
    let host = by_id(&api.store, &id, version)?.ok_or_else(|| no_service(&id))?;
    let reason = body["disabled_reason"].as_str();
    let is_enabled = body["status"].as_str().map(|status| status == "enabled");
    let forced_down = body.get("forced_down").map(input::truth);
    if is_enabled.is_none() && forced_down.is_none() {
        return Err(Failure::invalid(
            "No updates were requested. Fields 'status' or 'forced_down' should be specified.",
        ));
    }
    if is_enabled == Some(true) && reason.is_some() {
        return Err(
            Failure::invalid("Specifying 'disabled_reason' when status is 'enabled' is invalid.").at("disabled_reason"),
        );
    }
    let host = change(&api, &caller, &host, |spec| {
        if let Some(is_enabled) = is_enabled {
            set_enabled(spec, is_enabled, reason);
        }
        spec.is_forced_down = forced_down.unwrap_or(spec.is_forced_down);
    });
    Ok(json(
        StatusCode::OK,
        &json!({ "service": view(&api, &*host.await?, version) }),
    ))
}

fn set_enabled(spec: &mut ProviderSpec, is_enabled: bool, reason: Option<&str>) {
    spec.is_enabled = is_enabled;
    spec.disabled_reason = reason.filter(|_| !is_enabled).map(str::to_owned);
}

async fn update_by_name(
    api: &ComputeApi,
    caller: &Caller,
    version: Microversion,
    verb: &str,
    body: &Value,
) -> Result<Response, Failure> {
    let reason = body["disabled_reason"].as_str();
    let text = |name: &str| body[name].as_str().unwrap_or_default();
    let (name, binary) = (text("host"), text("binary"));
    let mut shown = json!({ "host": name, "binary": binary });
    let forced_down = body.get("forced_down").map(input::truth);
    match verb {
        "enable" => shown["status"] = json!("enabled"),
        "disable" => shown["status"] = json!("disabled"),
        "disable-log-reason" => {
            let reason =
                reason.ok_or_else(|| Failure::invalid("Missing disabled reason field").at("disabled_reason"))?;
            shown["status"] = json!("disabled");
            shown["disabled_reason"] = json!(reason);
        }
        "force-down" if version >= Microversion(2, 11) => {
            let is_down = forced_down.ok_or_else(|| Failure::invalid("Missing forced_down field").at("forced_down"))?;
            shown["forced_down"] = json!(is_down);
        }
        _ => return Err(Failure::not_found("Unknown action")),
    }
    if binary != BINARY {
        return Err(Failure::invalid(format!(
            "Updating a {binary} service is not supported. Only nova-compute services can be updated."
        )));
    }
    let host = by_name(&api.store, name)
        .ok_or_else(|| Failure::not_found(format!("Could not find binary {binary} on host {name}.")))?;
    let changed = change(api, caller, &host, |spec| match verb {
        "enable" => set_enabled(spec, true, None),
        "disable" => set_enabled(spec, false, None),
        "disable-log-reason" => set_enabled(spec, false, reason),
        _ => spec.is_forced_down = forced_down.unwrap_or(false),
    });
    changed.await?;
    Ok(json(StatusCode::OK, &json!({ "service": shown })))
}

async fn change(
    api: &ComputeApi,
    caller: &Caller,
    host: &Resource<Provider>,
    change: impl Fn(&mut ProviderSpec),
) -> Result<Host, Failure> {
    let key = host.key();
    let changed = api.store.modify::<Provider, StoreError>(&key, caller.cause(), |host| {
        change(&mut host.spec);
        Ok(())
    });
    changed.await.map_err(failure)
}

fn no_service(id: &str) -> Failure {
    Failure::not_found(format!("Service {id} not found."))
}

/// `DELETE /os-services/{id}`: forgets a host, with its place in aggregates. An agent that still runs comes back.
async fn delete(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    caller.enforce("os_compute_api:os-services:delete", &[])?;
    if version < Microversion(2, 53) && id.parse::<i64>().is_err() {
        return Err(Failure::invalid(format!(
            "Invalid input received: id must be an integer, not {id}"
        )));
    }
    let host = by_id(&api.store, &id, version)?.ok_or_else(|| no_service(&id))?;
    debug_assert!(version >= Microversion(2, 53) || number(&host).to_string() == id);
    let name = host.spec.name.clone();
    let (key, store) = (host.key(), &api.store);
    let in_use = || {
        Failure::conflict(
            "Unable to delete compute service that is hosting instances. Migrate or delete the instances first.",
        )
    };
    if store.cache::<Server>().count_by("host", &name) > 0 {
        return Err(in_use());
    }
    let gone = store.transact::<(), StoreError>(caller.cause(), |tx| {
        for aggregate in tx.store().cache::<Aggregate>().by("host", &name) {
            let mut without = (*aggregate).clone();
            without.spec.hosts.remove(&name);
            tx.update(&aggregate, without)?;
        }
        match tx.get::<Provider>(&key) {
            Some(host) => tx.delete(&host),
            None => Ok(()),
        }
    });
    gone.await.map_err(failure)?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
