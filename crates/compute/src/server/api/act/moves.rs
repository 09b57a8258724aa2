//! Actions about a server's size and place.

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use madang_http::{Failure, json};
use madang_scheduler::Provider;
use serde_json::{Value, json};

use super::{super::create, Act};
use crate::{
    Phase,
    server::verbs::{self, Wants, resize as verb, shelf},
};

type Done = std::sync::Arc<madang_store::Resource<crate::Server>>;

pub(super) async fn resize(act: &Act<'_>) -> Result<Done, Failure> {
    let server = act.server("servers:resize")?;
    let store = &act.api.store;
    let flavor = create::flavor(store, act.caller, server.project(), &act.arguments["flavorRef"])?;
    let is_disk_automatic = act.text("OS-DCF:diskConfig").map(|config| config == "AUTO");
    verb::resize(store, act.caller, &server, &flavor, is_disk_automatic).await
}

pub(super) async fn migrate(act: &Act<'_>) -> Result<Done, Failure> {
    let host = act.text("host").filter(|_| act.from(56));
    let rule = if host.is_some() { "migrate:host" } else { "migrate" };
    let server = act.server(&format!("os-migrate-server:{rule}"))?;
    if let Some(host) = host {
        known(act, host, StatusCode::BAD_REQUEST)?;
    }
    verb::migrate(&act.api.store, act.caller, &server, host).await
}

pub(super) async fn unshelve(act: &Act<'_>) -> Result<Done, Failure> {
    let server = act.server("os-shelve:unshelve")?;
    let mut place = shelf::Place::default();
    if act.from(77) {
        let zone = act.arguments.get("availability_zone");
        place.zone = zone.map(|zone| zone.as_str().map(str::to_owned));
    }
    if act.from(91) {
        place.host = act.text("host").map(str::to_owned);
    }
    if place.host.is_some() {
        act.server("os-shelve:unshelve_to_host")?;
    }
    shelf::unshelve(&act.api.store, act.caller, &server, &place).await
}

pub(super) async fn evacuate(act: &Act<'_>) -> Result<Response, Failure> {
    let server = act.server("os-evacuate")?;
    let host = act.text("host");
    let is_shared = !act.from(14) && act.truth("onSharedStorage");
    let given = act.text("adminPass");
    if is_shared && given.is_some() {
        return Err(Failure::invalid("admin password can't be changed on existing disk").at("adminPass"));
    }
    let is_forced = act.from(29) && act.truth("force");
    if is_forced && host.is_none() {
        return Err(Failure::invalid("Can't force to a non-provided destination").at("force"));
    }
    if let Some(host) = host {
        known(act, host, StatusCode::NOT_FOUND)?;
        if server.status.host.as_deref() == Some(host) {
            return Err(Failure::invalid("The target host can't be the same one.").at("host"));
        }
    }
    verb::evacuate(&act.api.store, act.caller, &server, host, act.from(95)).await?;
    if act.from(14) {
        return Ok(StatusCode::OK.into_response());
    }
    let password = match (given, is_shared) {
        (Some(given), _) => json!(given),
        (None, false) => json!(create::new_password()),
        (None, true) => Value::Null,
    };
    Ok(json(StatusCode::OK, &json!({ "adminPass": password })))
}

/// Checked as Nova does, and refused as it refuses where there is nowhere to go.
pub(super) async fn migrate_live(act: &Act<'_>) -> Result<(), Failure> {
    let host = act.text("host");
    let rule = if host.is_some() {
        "migrate_live:host"
    } else {
        "migrate_live"
    };
    let server = act.server(&format!("os-migrate-server:{rule}"))?;
    if act.from(30) && act.truth("force") && host.is_none() {
        return Err(Failure::invalid("Can't force to a non-provided destination").at("force"));
    }
    let store = &act.api.store;
    verbs::check_lock(act.caller, &server)?;
    verbs::allowed(&server, "os-migrateLive", &[Phase::Active, Phase::Paused], Wants::Idle)?;
    if let Some(host) = host {
        known(act, host, StatusCode::BAD_REQUEST)?;
    }
    let Some(reason) = verb::is_stuck(store, &server, host) else {
        return verb::migrate_live(store, act.caller, &server, host).await.map(drop);
    };
    super::note(act, &server, "live-migration", Some(reason.clone())).await?;
    // Since 2.34 it is accepted first and found impossible then.
    if act.from(34) {
        return Ok(());
    }
    Err(Failure::invalid(reason))
}

fn known(act: &Act<'_>, host: &str, otherwise: StatusCode) -> Result<(), Failure> {
    let hosts = act.api.store.cache::<Provider>();
    if !hosts.by("name", host).is_empty() {
        return Ok(());
    }
    Err(match otherwise {
        StatusCode::NOT_FOUND => Failure::not_found(format!("Compute host {host} not found.")),
        _ => Failure::invalid(format!("Compute host {host} could not be found.")).at("host"),
    })
}
