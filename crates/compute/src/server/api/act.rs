//! `POST /servers/{id}/action`: the body has one member, the action's name.

mod moves;
mod roots;
mod schemas;

use axum::{
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use http::StatusCode;
use madang_host::workload::DriverError;
use madang_http::{Failure, Json, Microversion, RequestInfo, json, parse_bool};
use madang_identity::Caller;
use madang_store::Resource;
use serde_json::{Value, json};
use std::sync::Arc;

use super::{find_for, security_group};
use crate::{
    Phase, Server,
    api::{ComputeApi, proxies::floating_ips},
    server::{
        action, interfaces,
        verbs::{self, End, Wants, rebuild, resize, shelf},
    },
};

/// Console output is given at most so long, in bytes; a longer one loses its beginning.
const MAX_CONSOLE: u64 = 100 * 1024;

/// An action with its body checked.
struct Act<'a> {
    api: &'a ComputeApi,
    caller: &'a Caller,
    version: Microversion,
    id: &'a str,
    info: &'a RequestInfo,
    /// What stands under the action's name.
    arguments: &'a Value,
}

impl Act<'_> {
    /// The server, if the caller may do `rule` (without its prefix) to it.
    fn server(&self, rule: &str) -> Result<Arc<Resource<Server>>, Failure> {
        find_for(self.api, self.caller, self.id, &format!("os_compute_api:{rule}"))
    }

    fn from(&self, minor: u16) -> bool {
        self.version >= Microversion(2, minor)
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.arguments.get(name)?.as_str()
    }

    fn truth(&self, name: &str) -> bool {
        let value = self.arguments.get(name);
        value
            .and_then(|value| value.as_bool().or_else(|| parse_bool(value.as_str()?)))
            .unwrap_or(false)
    }
}

/// Does an action.
pub async fn act(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
    info: RequestInfo,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    let malformed = || Failure::invalid("Malformed request body");
    let members = body
        .as_object()
        .filter(|members| members.len() == 1)
        .ok_or_else(malformed)?;
    let (action, arguments) = members.iter().next().ok_or_else(malformed)?;
    info.set_action(action.as_str());
    if let Some(schema) = schemas::schema(action, version) {
        schema.check(&body)?;
    }
    let act = Act {
        api: &api,
        caller: &caller,
        version,
        id: &id,
        info: &info,
        arguments,
    };
    match action.as_str() {
        "os-getConsoleOutput" => console(&act).await,
        "os-getVNCConsole" | "os-getSerialConsole" | "os-getSPICEConsole" | "os-getRDPConsole" => {
            crate::console::api::act(&api, &caller, version, &id, &info, action, arguments)
        }
        "rebuild" => roots::rebuild(&act).await,
        "rescue" => roots::rescue(&act).await,
        "createImage" => roots::create_image(&act).await,
        "createBackup" => roots::create_backup(&act).await,
        "evacuate" => moves::evacuate(&act).await,
        "confirmResize" => {
            resize::confirm(&api.store, &caller, &*act.server("servers:confirm_resize")?).await?;
            Ok(StatusCode::NO_CONTENT.into_response())
        }
        other => plain(&act, other).await.map(|()| StatusCode::ACCEPTED.into_response()),
    }
}

/// The actions that are answered with 202 and nothing.
async fn plain(act: &Act<'_>, action: &str) -> Result<(), Failure> {
    let (store, caller) = (&act.api.store, act.caller);
    match action {
        "os-start" => verbs::start(store, caller, &*act.server("servers:start")?).await?,
        "os-stop" => verbs::stop(store, caller, &*act.server("servers:stop")?).await?,
        "reboot" => {
            let is_hard = act.text("type").is_some_and(|kind| kind.eq_ignore_ascii_case("HARD"));
            verbs::reboot(store, caller, &*act.server("servers:reboot")?, is_hard).await?
        }
        "pause" => verbs::pause(store, caller, &*act.server("os-pause-server:pause")?).await?,
        "unpause" => verbs::unpause(store, caller, &*act.server("os-pause-server:unpause")?).await?,
        "suspend" => verbs::suspend(store, caller, &*act.server("os-suspend-server:suspend")?).await?,
        "resume" => verbs::resume(store, caller, &*act.server("os-suspend-server:resume")?).await?,
        "restore" => verbs::restore(store, caller, &*act.server("os-deferred-delete:restore")?).await?,
        "lock" => {
            let reason = act.text("locked_reason").filter(|_| act.from(73)).map(str::to_owned);
            verbs::lock(store, caller, &*act.server("os-lock-server:lock")?, reason).await?
        }
        "unlock" => verbs::unlock(store, caller, &*act.server("os-lock-server:unlock")?).await?,
        "os-resetState" => {
            let is_active = act.text("state") == Some("active");
            verbs::reset_state(store, caller, &*act.server("os-admin-actions:reset_state")?, is_active).await?
        }
        "unrescue" => rebuild::unrescue(store, caller, &*act.server("os-unrescue")?).await?,
        "shelve" => {
            let at_once = act.api.options.shelved_offload_time == Some(std::time::Duration::ZERO);
            shelf::shelve(store, caller, &*act.server("os-shelve:shelve")?, at_once).await?
        }
        "shelveOffload" => shelf::offload(store, caller, &*act.server("os-shelve:shelve_offload")?).await?,
        "unshelve" => moves::unshelve(act).await?,
        "resize" => moves::resize(act).await?,
        "revertResize" => resize::revert(store, caller, &*act.server("servers:revert_resize")?).await?,
        "migrate" => moves::migrate(act).await?,
        "os-migrateLive" => return moves::migrate_live(act).await,
        "addSecurityGroup" | "removeSecurityGroup" => return set_group(act, action == "addSecurityGroup").await,
        "forceDelete" => {
            return verbs::delete(store, caller, &*act.server("os-deferred-delete:force")?, End::Now).await;
        }
        "addFloatingIp" => {
            let server = act.server("os-floating-ips:add")?;
            return floating_ips::add_to(store, caller, act.version, &server, act.arguments).await;
        }
        "removeFloatingIp" => {
            let server = act.server("os-floating-ips:remove")?;
            return floating_ips::remove_from(store, caller, act.version, &server, act.arguments).await;
        }
        "changePassword" => return change_password(act).await,
        "trigger_crash_dump" if act.from(17) => return crash_dump(act).await,
        "injectNetworkInfo" => return inject_network_info(act),
        "resetNetwork" => {
            let message = "This action only worked with the Xen driver, and is gone.";
            return Err(Failure::invalid(message).with_status(StatusCode::GONE));
        }
        "addFixedIp" | "removeFixedIp" if !act.from(44) => {
            let server = act.server(&format!("os-multinic:{}", &action[..action.len() - "FixedIp".len()]))?;
            let (network, address) = (act.text("networkId"), act.text("address"));
            return match address.and_then(|address| address.parse().ok()) {
                Some(address) => interfaces::remove_address(store, caller, &server, address).await,
                None => interfaces::add_address(store, caller, &server, network.unwrap_or_default()).await,
            };
        }
        other => return Err(Failure::invalid(format!("There is no such action: {other}"))),
    };
    Ok(())
}

async fn set_group(act: &Act<'_>, is_member: bool) -> Result<(), Failure> {
    let rule_name = if is_member { "add" } else { "remove" };
    let server = act.server(&format!("os-security-groups:{rule_name}"))?;
    let name = act.text("name").unwrap_or_default();
    if name.trim().is_empty() {
        return Err(Failure::invalid("Security group name cannot be empty").at("name"));
    }
    let store = &act.api.store;
    let group = security_group(store, server.project(), name).ok_or_else(|| {
        let message = format!("Security group {name} not found for project {}.", server.project());
        Failure::not_found(message)
    })?;
    verbs::set_group(store, act.caller, &server, &group, is_member).await
}

/// Sets a password through the guest's agent, at once: a password is nothing to keep.
async fn change_password(act: &Act<'_>) -> Result<(), Failure> {
    let server = act.server("os-admin-password")?;
    verbs::check_lock(act.caller, &server)?;
    verbs::allowed(&server, "changePassword", &[Phase::Active], Wants::Idle)?;
    let driver = act.api.reach.driver(&server);
    let password = act.text("adminPass").unwrap_or_default();
    let user = administrator(act, &server);
    let set = match driver {
        Ok(driver) => driver.set_password(server.metadata.uid, &user, password).await,
        Err(error) => Err(error),
    };
    let failure = set.as_ref().err().map(ToString::to_string);
    note(act, &server, "changePassword", failure).await?;
    set.map_err(|error| match error {
        DriverError::Unsupported { .. } => {
            Failure::conflict(format!("Unable to set password on instance {}: {error}", server.name()))
        }
        other => Failure::conflict(format!(
            "Failed to set admin password on {} because {other}",
            server.name()
        )),
    })
}

/// Who the administrator of a guest is. Source: the image property `os_admin_user`, and Nova's defaults.
fn administrator(act: &Act<'_>, server: &Resource<Server>) -> String {
    let image = server.spec.image.as_deref();
    let image = image.and_then(|id| act.api.store.cache::<madang_image::Image>().by_name(id));
    let property = |name: &str| {
        image
            .as_ref()
            .and_then(|image| image.spec.properties.get(name).cloned())
    };
    let is_windows = property("os_type").is_some_and(|kind| kind == "windows");
    let default = if is_windows { "Administrator" } else { "root" };
    property("os_admin_user").unwrap_or_else(|| default.to_owned())
}

async fn crash_dump(act: &Act<'_>) -> Result<(), Failure> {
    let server = act.server("servers:trigger_crash_dump")?;
    verbs::check_lock(act.caller, &server)?;
    let phases = [
        Phase::Active,
        Phase::Paused,
        Phase::Rescued,
        Phase::Resized,
        Phase::Error,
    ];
    verbs::allowed(&server, "trigger_crash_dump", &phases, Wants::Idle)?;
    let sent = match act.api.reach.driver(&server) {
        Ok(driver) => driver.trigger_crash_dump(server.metadata.uid).await,
        Err(error) => Err(error),
    };
    let failure = sent.as_ref().err().map(ToString::to_string);
    note(act, &server, "trigger_crash_dump", failure).await?;
    sent.map_err(|error| {
        let message = format!("Cannot 'trigger_crash_dump' instance {}: {error}", server.name());
        Failure::conflict(message)
    })
}

/// Records an action that is done already.
async fn note(act: &Act<'_>, server: &Resource<Server>, name: &str, failure: Option<String>) -> Result<(), Failure> {
    let noted = act
        .api
        .store
        .transact::<(), madang_store::StoreError>(act.caller.cause(), |tx| {
            action::note(tx, server, name, failure.clone())
        });
    noted.await.map_err(crate::api::failure)
}

/// Guests learn their network by themselves: there is nothing to put in.
fn inject_network_info(act: &Act<'_>) -> Result<(), Failure> {
    let server = act.server("os-admin-actions:inject_network_info")?;
    verbs::check_lock(act.caller, &server)
}

async fn console(act: &Act<'_>) -> Result<Response, Failure> {
    let server = act.server("os-console-output")?;
    if server.status.host.is_none() {
        return Err(Failure::conflict(format!("Instance {} is not ready", server.name())));
    }
    let length = &act.arguments["length"];
    let length = length
        .as_i64()
        .or_else(|| length.as_str()?.parse().ok())
        .filter(|lines| *lines >= 0);
    let output = act
        .api
        .consoles
        .read(&server, MAX_CONSOLE)
        .await
        .map_err(|error| Failure::unavailable(error.to_string()))?;
    let text = String::from_utf8_lossy(&output);
    let output = last_lines(&text, length.and_then(|lines| usize::try_from(lines).ok()));
    Ok(json(StatusCode::OK, &json!({ "output": output })))
}

/// The last `count` lines; all when none is said.
fn last_lines(text: &str, count: Option<usize>) -> &str {
    let Some(count) = count else { return text };
    match count.checked_sub(1).map(|skip| text.rmatch_indices('\n').nth(skip)) {
        None => "",
        Some(None) => text,
        Some(Some((at, _))) => &text[at + 1..],
    }
}

#[cfg(test)]
mod tests {
    use super::last_lines;

    #[test]
    fn the_last_lines_of_a_console_of_which_the_last_may_be_empty() {
        assert_eq!(last_lines("a\nb\nc\n", Some(3)), "b\nc\n");
        assert_eq!(last_lines("a\nb\nc", Some(1)), "c");
        assert_eq!(last_lines("a\nb\n", Some(1)), "");
        assert_eq!(last_lines("a\nb\n", Some(9)), "a\nb\n");
        assert_eq!(last_lines("a\nb\n", Some(0)), "");
        assert_eq!(last_lines("a\nb\n", None), "a\nb\n");
        assert_eq!(last_lines("", Some(3)), "");
    }
}
