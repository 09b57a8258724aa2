//! `/servers`: parse, call a verb, render.

mod act;
pub mod actions;
mod create;
pub mod external;
mod filter;
pub mod migrations;

use axum::{
    Router,
    extract::{Path, Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use http::{HeaderValue, StatusCode, header};
use madang_http::{
    Direction, Failure, Json, LimitRules, Microversion, Page, PageQuery, Query, RequestInfo, Schema, SortKeys,
    SortValue, json, json_of,
};
use madang_identity::Caller;
use madang_network::SecurityGroup;
use madang_store::{Moment, Resource, Store};
use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::{Value, json};
use std::sync::{Arc, LazyLock};

pub use act::act;
pub use create::create;

use crate::{
    Server,
    api::{ComputeApi, base, enforce, input},
    server::{
        state,
        verbs::{self, End},
        view::{Look, Shown, Surroundings, brief},
    },
};

/// Nova's `max_limit`.
const LIMITS: LimitRules = LimitRules::up_to(1000);

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
    let asked = Asked::read(&caller, version, &query, "os_compute_api:servers:index")?;
    let page = asked.page(&api.store.moment(), &api.store)?;
    let base = base(&info);
    let items = page.items.iter().map(|server| brief(server, &base));
    Ok(answer(items.collect(), BRIEF_BYTES, next(&page, &info, &query)))
}

/// `GET /servers/detail`.
pub async fn detail(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    query: Query,
    info: RequestInfo,
) -> Result<Response, Failure> {
    let asked = Asked::read(&caller, version, &query, "os_compute_api:servers:detail")?;
    let base = base(&info);
    let look = look(&caller, version, false);
    // Each server and its ports are of the same moment; writing it all down takes longer and needs none.
    let moment = api.store.moment();
    let page = asked.page(&moment, &api.store)?;
    let around = Surroundings::new(&api.store, &base);
    let items = page.items.iter().map(|server| around.show(server, look)).collect();
    drop(moment);
    Ok(answer(items, DETAIL_BYTES, next(&page, &info, &query)))
}

/// How long one of a list mostly is, so that the answer need not grow.
const BRIEF_BYTES: usize = 320;
const DETAIL_BYTES: usize = 2048;

fn answer<T: Serialize>(items: Vec<T>, bytes_each: usize, next: Option<madang_http::NextLink>) -> Response {
    let expected = items.len() * bytes_each;
    json_of(StatusCode::OK, &List { items, next }, expected)
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

/// Which servers a list is to hold, in which order, and which page of it.
struct Asked {
    filter: filter::Filter,
    sort: SortKeys,
    page: PageQuery,
    /// None is what a client asks for with 0, unlike everywhere else in OpenStack.
    wants_none: bool,
}

impl Asked {
    fn read(caller: &Caller, version: Microversion, query: &Query, rule: &str) -> Result<Self, Failure> {
        let filter = filter::Filter::read(caller, version, query, rule)?;
        let (keys, sort_query) = filter::sortable(caller, version, query)?;
        let sort = SortKeys::from(
            &sort_query,
            &keys,
            &[("created_at", Direction::Descending), ("uuid", Direction::Descending)],
        )?;
        Ok(Self {
            filter,
            sort,
            page: PageQuery::from(query, LIMITS)?,
            wants_none: query.get("limit") == Some("0"),
        })
    }

    /// The page as it is now.
    fn page(&self, moment: &Moment<'_>, store: &Store) -> Result<Page<Arc<Resource<Server>>>, Failure> {
        let departed = self.filter.departed(store);
        let there = moment.view::<Server>();
        let mut servers = self.filter.there(&there);
        servers.extend(&departed);
        // The last one of the page before may not fit the filter any more.
        let is_marker = |server: &Resource<Server>| self.page.marker.as_deref() == Some(server.name());
        servers.retain(|server| !self.wants_none && (self.filter.matches(store, server) || is_marker(server)));
        let page = self.page.cut_sorted(
            servers,
            &self.sort,
            |server, key| sort_value(server, key),
            |server| server.name(),
        )?;
        Ok(page.map(Arc::clone))
    }
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
    let base = base(info);
    json(
        StatusCode::OK,
        &One {
            server: show_one(&api.store, &base, server, look(caller, version, true)),
        },
    )
}

fn show_one<'a>(store: &'a Store, base: &'a str, server: &'a Resource<Server>, look: Look) -> Shown<'a> {
    let _still = store.moment();
    Surroundings::new(store, base).show(server, look)
}

fn update_schema(version: Microversion) -> &'static Schema {
    static BASE: LazyLock<Schema> = LazyLock::new(|| input::nova(update_body(1)));
    static DESCRIBED: LazyLock<Schema> = LazyLock::new(|| input::nova(update_body(19)));
    static NAMED: LazyLock<Schema> = LazyLock::new(|| input::nova(update_body(90)));
    static QUALIFIED: LazyLock<Schema> = LazyLock::new(|| input::nova(update_body(94)));
    static PINNED: LazyLock<Schema> = LazyLock::new(|| input::nova(update_body(104)));
    match version {
        v if v >= Microversion(2, 104) => &PINNED,
        v if v >= Microversion(2, 94) => &QUALIFIED,
        v if v >= Microversion(2, 90) => &NAMED,
        v if v >= Microversion(2, 19) => &DESCRIBED,
        _ => &BASE,
    }
}

fn update_body(minor: u16) -> Value {
    let mut properties = json!({
        "name": input::name(),
        "OS-DCF:diskConfig": { "type": "string", "enum": ["AUTO", "MANUAL"] },
        "accessIPv4": { "type": "string", "format": "ipv4" },
        "accessIPv6": { "type": "string", "format": "ipv6" },
    });
    if minor >= 19 {
        properties["description"] = create::description_schema();
    }
    if minor >= 90 {
        // Since 2.94 it may be qualified.
        properties["hostname"] = if minor >= 94 {
            input::host()
        } else {
            create::hostname_schema()
        };
    }
    if minor >= 104 {
        properties["pinned_availability_zone"] = json!({ "oneOf": [input::name(), { "type": "null" }] });
    }
    input::wrapped("server", properties, &[])
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
        zone: body["server"].get("pinned_availability_zone").map(text),
    };
    let server = verbs::update(&api.store, &caller, &server, &update).await?;
    if version >= Microversion(2, 75) {
        return Ok(shown(&api, &caller, version, &info, &server));
    }
    let base = base(&info);
    let mut answer = to_value(&show_one(&api.store, &base, &server, look(&caller, version, true)))?;
    without_what_is_only_shown(&mut answer);
    Ok(json(StatusCode::OK, &json!({ "server": answer })))
}

/// Takes out what a changed or rebuilt server's answer does not have before 2.75.
fn without_what_is_only_shown(answer: &mut Value) {
    if let Some(members) = answer.as_object_mut() {
        members.retain(|name, _| !ONLY_SHOWN.iter().any(|prefix| name.starts_with(prefix)));
    }
    let networks = answer["addresses"].as_object_mut().into_iter().flatten();
    for address in networks.flat_map(|(_, list)| list.as_array_mut().into_iter().flatten()) {
        if let Some(members) = address.as_object_mut() {
            members.retain(|name, _| !name.starts_with("OS-EXT-"));
        }
    }
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
    let end = if api.options.reclaim_instance_interval.is_zero() {
        End::Now
    } else {
        End::Softly
    };
    verbs::delete(&api.store, &caller, &server, end).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `/os-volumes_boot`: `/servers` by another name, until 2.102.
pub(crate) fn volumes_boot() -> Router<ComputeApi> {
    async fn check(version: Microversion, request: Request, next: Next) -> Result<Response, Failure> {
        input::until(version, 102)?;
        Ok(next.run(request).await)
    }
    Router::new()
        .route("/os-volumes_boot", get(list).post(create))
        .route("/os-volumes_boot/detail", get(detail))
        .route("/os-volumes_boot/{id}", get(show).put(update).delete(delete))
        .route("/os-volumes_boot/{id}/action", post(act))
        .route_layer(middleware::from_fn(check))
}

/// `GET /servers/{id}/ips`.
pub async fn addresses(
    State(api): State<ComputeApi>,
    caller: Caller,
    Path(id): Path<String>,
    info: RequestInfo,
) -> Result<Response, Failure> {
    let server = find_for(&api, &caller, &id, "os_compute_api:ips:index")?;
    let base = base(&info);
    let shown = show_one(&api.store, &base, &server, look(&caller, crate::api::OLDEST, true));
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
    let base = base(&info);
    let shown = show_one(&api.store, &base, &server, look(&caller, crate::api::OLDEST, true));
    let addresses = shown.addresses(false);
    let found = addresses.get(network.as_str());
    let found = found.ok_or_else(|| Failure::not_found("Instance is not a member of specified network"))?;
    Ok(json(StatusCode::OK, &json!({ network: to_value(found)? })))
}

fn to_value(value: &impl Serialize) -> Result<Value, Failure> {
    serde_json::to_value(value).map_err(|error| Failure::internal(format!("could not render: {error}")))
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
