//! `/servers`: parse, call a verb, render.

mod create;
mod filter;

use axum::{
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use madang_http::{
    Direction, Failure, Form, Json, LimitRules, Microversion, Page, PageQuery, Query, RequestInfo, Schema, SortKeys,
    SortValue, json,
};
use madang_identity::Caller;
use madang_network::SecurityGroup;
use madang_store::{Resource, Store};
use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::{Value, json};
use std::sync::{Arc, LazyLock};

pub use create::create;

use crate::{
    Server,
    api::{ComputeApi, base, enforce},
    server::{
        state, verbs,
        view::{Look, Surroundings, brief},
    },
};

/// Nova's `max_limit`.
const LIMITS: LimitRules = LimitRules::up_to(1000);
/// Console output is given at most so long, in bytes; a longer one loses its beginning.
const MAX_CONSOLE: u64 = 100 * 1024;

/// The server, if the caller may know of it.
///
/// # Errors
/// `NotFound`, also for those of others.
pub(crate) fn find(store: &Store, caller: &Caller, id: &str) -> Result<Arc<Resource<Server>>, Failure> {
    let server = store
        .cache::<Server>()
        .by_name(id)
        .filter(|server| caller.can_see(server.project()));
    server.ok_or_else(|| Failure::not_found(format!("Instance {id} could not be found.")))
}

/// The server, if the caller may do `rule` to it.
pub(crate) fn find_for(
    api: &ComputeApi,
    caller: &Caller,
    id: &str,
    rule: &str,
) -> Result<Arc<Resource<Server>>, Failure> {
    let server = find(&api.store, caller, id)?;
    enforce(caller, rule, server.project())?;
    Ok(server)
}

fn look(caller: &Caller, version: Microversion, is_single: bool) -> Look {
    let is_admin = caller.allows("os_compute_api:os-extended-server-attributes", &[]);
    Look {
        version,
        is_admin,
        is_single,
    }
}

/// `GET /servers`.
pub async fn list(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    query: Query,
    info: RequestInfo,
) -> Result<Response, Failure> {
    let page = selected(&api, &caller, version, &query, "os_compute_api:servers:index")?;
    let base = base(&info);
    let items: Vec<_> = page.items.iter().map(|server| brief(server, &base)).collect();
    Ok(json(
        StatusCode::OK,
        &List {
            items,
            next: next(&page, &info, &query),
        },
    ))
}

/// `GET /servers/detail`.
pub async fn detail(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    query: Query,
    info: RequestInfo,
) -> Result<Response, Failure> {
    let page = selected(&api, &caller, version, &query, "os_compute_api:servers:detail")?;
    let around = Surroundings::read(&api.store, base(&info));
    let look = look(&caller, version, false);
    let items: Vec<_> = page
        .items
        .iter()
        .map(|server| around.show(&api.store, server, look))
        .collect();
    Ok(json(
        StatusCode::OK,
        &List {
            items,
            next: next(&page, &info, &query),
        },
    ))
}

/// A page of servers with Nova's link to the next.
struct List<T> {
    items: Vec<T>,
    next: Option<madang_http::NextLink>,
}

impl<T: Serialize> Serialize for List<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("servers", &self.items)?;
        if let Some(next) = &self.next {
            map.serialize_entry("servers_links", &[next])?;
        }
        map.end()
    }
}

fn next(page: &Page<Arc<Resource<Server>>>, info: &RequestInfo, query: &Query) -> Option<madang_http::NextLink> {
    page.next_link(info, query, |server| server.name())
}

fn selected(
    api: &ComputeApi,
    caller: &Caller,
    version: Microversion,
    query: &Query,
    rule: &str,
) -> Result<Page<Arc<Resource<Server>>>, Failure> {
    let filter = filter::Filter::read(caller, version, query, rule)?;
    let sort = SortKeys::from(
        query,
        filter::SORT_KEYS,
        &[("created_at", Direction::Descending), ("uuid", Direction::Descending)],
    )?;
    let page = PageQuery::from(query, LIMITS)?;
    let mut servers = filter.candidates(&api.store);
    // None is what a client asks for with 0, unlike everywhere else in OpenStack.
    let wants_none = query.get("limit") == Some("0");
    servers.retain(|server| !wants_none && filter.matches(&api.store, server));
    sort.sort(&mut servers, sort_value);
    page.cut(servers, |server| server.name())
}

fn sort_value<'a>(server: &'a Arc<Resource<Server>>, key: &str) -> SortValue<'a> {
    let spec = &server.spec;
    match key {
        "uuid" => server.name().into(),
        "updated_at" => server.metadata.updated.into(),
        "display_name" => spec.name.as_str().into(),
        "display_description" => spec.description.as_deref().into(),
        "vm_state" => state::of(server).vm_state.into(),
        "task_state" => state::of(server).task_state.into(),
        "power_state" => i64::from(state::of(server).power_state).into(),
        "host" | "node" => server.status.host.as_deref().into(),
        "image_ref" => spec.image.as_deref().into(),
        "instance_type_id" => spec.flavor_id.as_str().into(),
        "key_name" => spec.key.as_ref().map(|key| key.name.as_str()).into(),
        "project_id" => server.project().into(),
        "user_id" => spec.user.as_str().into(),
        "availability_zone" => spec.availability_zone.as_deref().into(),
        "launched_at" => server.status.launched.map_or(SortValue::Nothing, SortValue::from),
        "launch_index" => i64::from(spec.launch_index).into(),
        "locked" => spec.lock.is_some().into(),
        _ => server.metadata.created.into(),
    }
}

/// `GET /servers/{id}`.
pub async fn show(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
    info: RequestInfo,
) -> Result<Response, Failure> {
    let server = find_for(&api, &caller, &id, "os_compute_api:servers:show")?;
    Ok(shown(&api, &caller, version, &info, &server))
}

fn shown(
    api: &ComputeApi,
    caller: &Caller,
    version: Microversion,
    info: &RequestInfo,
    server: &Resource<Server>,
) -> Response {
    #[derive(Serialize)]
    struct One<T> {
        server: T,
    }
    let around = Surroundings::read(&api.store, base(info));
    json(
        StatusCode::OK,
        &One {
            server: around.show(&api.store, server, look(caller, version, true)),
        },
    )
}

fn update_schema(version: Microversion) -> &'static Schema {
    static BASE: LazyLock<Schema> = LazyLock::new(|| Schema::new(Form::Nova, update_body(false, false)));
    static DESCRIBED: LazyLock<Schema> = LazyLock::new(|| Schema::new(Form::Nova, update_body(true, false)));
    static NAMED: LazyLock<Schema> = LazyLock::new(|| Schema::new(Form::Nova, update_body(true, true)));
    match version {
        v if v >= Microversion(2, 90) => &NAMED,
        v if v >= Microversion(2, 19) => &DESCRIBED,
        _ => &BASE,
    }
}

fn update_body(has_description: bool, has_hostname: bool) -> Value {
    let mut properties = json!({
        "name": create::name_schema(),
        "OS-DCF:diskConfig": { "type": "string", "enum": ["AUTO", "MANUAL"] },
        "accessIPv4": { "type": "string", "format": "ipv4" },
        "accessIPv6": { "type": "string", "format": "ipv6" },
    });
    if has_description {
        properties["description"] = create::description_schema();
    }
    if has_hostname {
        properties["hostname"] = create::hostname_schema();
    }
    json!({
        "type": "object",
        "properties": { "server": { "type": "object", "properties": properties, "additionalProperties": false } },
        "required": ["server"],
        "additionalProperties": false,
    })
}

/// `PUT /servers/{id}`.
pub async fn update(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
    info: RequestInfo,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    update_schema(version).check(&body)?;
    let server = find_for(&api, &caller, &id, "os_compute_api:servers:update")?;
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let update = verbs::Update {
        name: body["server"]
            .get("name")
            .and_then(text)
            .map(|name| name.trim().to_owned()),
        hostname: body["server"].get("hostname").and_then(text),
        description: body["server"].get("description").map(text),
        is_disk_automatic: body["server"].get("OS-DCF:diskConfig").map(|config| config == "AUTO"),
        access_ipv4: body["server"]["accessIPv4"].as_str().and_then(|ip| ip.parse().ok()),
        access_ipv6: body["server"]["accessIPv6"].as_str().and_then(|ip| ip.parse().ok()),
    };
    let server = verbs::update(&api.store, &caller, &server, &update).await?;
    if version >= Microversion(2, 75) {
        return Ok(shown(&api, &caller, version, &info, &server));
    }
    let around = Surroundings::read(&api.store, base(&info));
    let mut answer = to_value(&around.show(&api.store, &server, look(&caller, version, true)))?;
    if let Some(members) = answer.as_object_mut() {
        members.retain(|name, _| !ONLY_SHOWN.iter().any(|prefix| name.starts_with(prefix)));
    }
    Ok(json(StatusCode::OK, &json!({ "server": answer })))
}

/// What a changed server's answer does not have before 2.75, by how the members' names begin.
const ONLY_SHOWN: &[&str] = &[
    "OS-EXT-",
    "OS-SRV-USG:",
    "config_drive",
    "key_name",
    "security_groups",
    "os-extended-volumes:",
    "host_status",
];

/// `DELETE /servers/{id}`.
pub async fn delete(
    State(api): State<ComputeApi>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let server = find_for(&api, &caller, &id, "os_compute_api:servers:delete")?;
    verbs::delete(&api.store, &caller, &server).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `GET /servers/{id}/ips`.
pub async fn addresses(
    State(api): State<ComputeApi>,
    caller: Caller,
    Path(id): Path<String>,
    info: RequestInfo,
) -> Result<Response, Failure> {
    let server = find_for(&api, &caller, &id, "os_compute_api:ips:index")?;
    let around = Surroundings::read(&api.store, base(&info));
    let shown = around.show(&api.store, &server, look(&caller, crate::api::OLDEST, true));
    Ok(json(
        StatusCode::OK,
        &json!({ "addresses": to_value(&shown.addresses(false))? }),
    ))
}

/// `GET /servers/{id}/ips/{network}`.
pub async fn network_addresses(
    State(api): State<ComputeApi>,
    caller: Caller,
    Path((id, network)): Path<(String, String)>,
    info: RequestInfo,
) -> Result<Response, Failure> {
    let server = find_for(&api, &caller, &id, "os_compute_api:ips:show")?;
    let around = Surroundings::read(&api.store, base(&info));
    let shown = around.show(&api.store, &server, look(&caller, crate::api::OLDEST, true));
    let addresses = shown.addresses(false);
    let found = addresses.get(network.as_str());
    let found = found.ok_or_else(|| Failure::not_found("Instance is not a member of specified network"))?;
    Ok(json(StatusCode::OK, &json!({ network: to_value(found)? })))
}

fn to_value(value: &impl Serialize) -> Result<Value, Failure> {
    serde_json::to_value(value).map_err(|error| Failure::internal(format!("could not render: {error}")))
}

/// `POST /servers/{id}/action`: the body has one member, the action's name.
pub async fn act(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    info: RequestInfo,
    Path(id): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    let malformed = || Failure::invalid("Malformed request body");
    let members = body
        .as_object()
        .filter(|members| members.len() == 1)
        .ok_or_else(malformed)?;
    let (action, arguments) = members.iter().next().ok_or_else(malformed)?;
    info.set_action(action.as_str());
    let rule = |rule: &str| find_for(&api, &caller, &id, rule);
    let (store, accepted) = (&api.store, StatusCode::ACCEPTED.into_response());
    match action.as_str() {
        "os-start" => {
            verbs::start(store, &caller, &*rule("os_compute_api:servers:start")?).await?;
        }
        "os-stop" => {
            verbs::stop(store, &caller, &*rule("os_compute_api:servers:stop")?).await?;
        }
        "reboot" => {
            REBOOT.check(&body)?;
            let is_hard = arguments["type"]
                .as_str()
                .is_some_and(|kind| kind.eq_ignore_ascii_case("HARD"));
            verbs::reboot(store, &caller, &*rule("os_compute_api:servers:reboot")?, is_hard).await?;
        }
        "pause" => {
            verbs::pause(store, &caller, &*rule("os_compute_api:os-pause-server:pause")?).await?;
        }
        "unpause" => {
            verbs::unpause(store, &caller, &*rule("os_compute_api:os-pause-server:unpause")?).await?;
        }
        "lock" => {
            let reason = lock_reason(version, arguments)?;
            verbs::lock(store, &caller, &*rule("os_compute_api:os-lock-server:lock")?, reason).await?;
        }
        "unlock" => {
            verbs::unlock(store, &caller, &*rule("os_compute_api:os-lock-server:unlock")?).await?;
        }
        "os-resetState" => {
            RESET.check(&body)?;
            let is_active = arguments["state"] == "active";
            let server = rule("os_compute_api:os-admin-actions:reset_state")?;
            verbs::reset_state(store, &caller, &server, is_active).await?;
        }
        "addSecurityGroup" | "removeSecurityGroup" => {
            let is_member = action == "addSecurityGroup";
            let rule_name = if is_member { "add" } else { "remove" };
            let server = rule(&format!("os_compute_api:os-security-groups:{rule_name}"))?;
            let name = arguments["name"].as_str().unwrap_or_default();
            if name.trim().is_empty() {
                return Err(Failure::invalid("Security group name cannot be empty").at("name"));
            }
            let group = security_group(store, server.project(), name).ok_or_else(|| {
                let message = format!("Security group {name} not found for project {}.", server.project());
                Failure::not_found(message)
            })?;
            verbs::set_group(store, &caller, &server, &group, is_member).await?;
        }
        "os-getConsoleOutput" => {
            let server = rule("os_compute_api:os-console-output")?;
            return console(&api, &server, &body).await;
        }
        "forceDelete" => {
            verbs::delete(store, &caller, &*rule("os_compute_api:os-deferred-delete:force")?).await?;
        }
        other if NOT_HERE.contains(&other) => {
            let server = find(store, &caller, &id)?;
            let message = format!(
                "{other} is not available in this cloud; server {} is unchanged",
                server.name()
            );
            return Err(Failure::invalid(message));
        }
        other => return Err(Failure::invalid(format!("There is no such action: {other}"))),
    }
    Ok(accepted)
}

/// Nova's actions that are not served.
const NOT_HERE: &[&str] = &[
    "addFixedIp",
    "addFloatingIp",
    "changePassword",
    "confirmResize",
    "createBackup",
    "createImage",
    "evacuate",
    "injectNetworkInfo",
    "migrate",
    "os-getRDPConsole",
    "os-getSPICEConsole",
    "os-getSerialConsole",
    "os-getVNCConsole",
    "os-migrateLive",
    "rebuild",
    "removeFixedIp",
    "removeFloatingIp",
    "rescue",
    "resetNetwork",
    "resize",
    "restore",
    "resume",
    "revertResize",
    "shelve",
    "shelveOffload",
    "suspend",
    "trigger_crash_dump",
    "unrescue",
    "unshelve",
];

static REBOOT: LazyLock<Schema> = LazyLock::new(|| {
    let kinds = ["HARD", "Hard", "hard", "SOFT", "Soft", "soft"];
    let reboot = json!({
        "type": "object",
        "properties": { "type": { "type": "string", "enum": kinds } },
        "required": ["type"],
        "additionalProperties": false,
    });
    Schema::new(
        Form::Nova,
        json!({ "type": "object", "properties": { "reboot": reboot } }),
    )
});

static RESET: LazyLock<Schema> = LazyLock::new(|| {
    let reset = json!({
        "type": "object",
        "properties": { "state": { "type": "string", "enum": ["active", "error"] } },
        "required": ["state"],
        "additionalProperties": false,
    });
    Schema::new(
        Form::Nova,
        json!({ "type": "object", "properties": { "os-resetState": reset } }),
    )
});

static CONSOLE: LazyLock<Schema> = LazyLock::new(|| {
    let output = json!({
        "type": "object",
        "properties": { "length": { "type": ["integer", "string", "null"], "pattern": "^-?[0-9]+$", "minimum": -1 } },
        "additionalProperties": false,
    });
    Schema::new(
        Form::Nova,
        json!({ "type": "object", "properties": { "os-getConsoleOutput": output } }),
    )
});

/// Since 2.73 a lock may have a reason.
fn lock_reason(version: Microversion, arguments: &Value) -> Result<Option<String>, Failure> {
    if version < Microversion(2, 73) || arguments.is_null() {
        return Ok(None);
    }
    let reason = arguments.get("locked_reason").and_then(Value::as_str);
    match reason {
        Some(reason) if reason.is_empty() || reason.len() > 255 => {
            let message = format!("Invalid input for field/attribute locked_reason. Value: {reason}.");
            Err(Failure::invalid(message).at("lock.locked_reason"))
        }
        reason => Ok(reason.map(str::to_owned)),
    }
}

async fn console(api: &ComputeApi, server: &Resource<Server>, body: &Value) -> Result<Response, Failure> {
    CONSOLE.check(body)?;
    if server.status.host.is_none() {
        return Err(Failure::conflict(format!("Instance {} is not ready", server.name())));
    }
    let length = &body["os-getConsoleOutput"]["length"];
    let length = length
        .as_i64()
        .or_else(|| length.as_str()?.parse().ok())
        .filter(|lines| *lines >= 0);
    let output = api
        .consoles
        .read(server, MAX_CONSOLE)
        .await
        .map_err(|error| Failure::unavailable(error.to_string()))?;
    let text = String::from_utf8_lossy(&output);
    let output = last_lines(&text, length.and_then(|lines| usize::try_from(lines).ok()));
    Ok(json(StatusCode::OK, &json!({ "output": output })))
}

/// The last `count` lines; all when none is said.
fn last_lines(text: &str, count: Option<usize>) -> &str {
    let Some(count) = count else { return text };
    let body = text.strip_suffix('\n').unwrap_or(text);
    match count.checked_sub(1).map(|skip| body.rmatch_indices('\n').nth(skip)) {
        None => "",
        Some(None) => text,
        Some(Some((at, _))) => &text[at + 1..],
    }
}

/// A security group of a project by name or id.
pub(crate) fn security_group(store: &Store, project: &str, name: &str) -> Option<Arc<Resource<SecurityGroup>>> {
    let groups = store.cache::<SecurityGroup>();
    let by_id = groups.by_name(name).filter(|group| group.project() == project);
    by_id.or_else(|| {
        groups
            .by("name", name)
            .into_iter()
            .find(|group| group.project() == project)
    })
}

/// An answer with a `Location`.
pub(crate) fn located(mut response: Response, location: &str) -> Response {
    if let Ok(value) = HeaderValue::try_from(location) {
        response.headers_mut().insert(header::LOCATION, value);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::last_lines;

    #[test]
    fn the_last_lines_of_a_console() {
        assert_eq!(last_lines("a\nb\nc\n", Some(2)), "b\nc\n");
        assert_eq!(last_lines("a\nb\nc", Some(1)), "c");
        assert_eq!(last_lines("a\nb\n", Some(9)), "a\nb\n");
        assert_eq!(last_lines("a\nb\n", Some(0)), "");
        assert_eq!(last_lines("a\nb\n", None), "a\nb\n");
        assert_eq!(last_lines("", Some(3)), "");
    }
}
