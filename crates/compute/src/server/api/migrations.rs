//! `/os-migrations` and `/servers/{id}/migrations`: records of what moved.

use std::sync::{Arc, LazyLock};

use axum::{
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use http::StatusCode;
use jiff::Timestamp;
use madang_http::{Failure, Form, Json, LimitRules, Microversion, PageQuery, Query, RequestInfo, Schema, json};
use madang_identity::Caller;
use madang_store::{Resource, Store};
use serde_json::{Value, json};

use super::{find, find_for};
use crate::{
    api::{ComputeApi, base, input},
    server::{Migration, Move, MoveKind, Stage, migration::number, state, verbs, view::micros},
};

const LIMITS: LimitRules = LimitRules::up_to(1000);

/// `GET /os-migrations`.
pub async fn list(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    query: Query,
    info: RequestInfo,
) -> Result<Response, Failure> {
    let own = caller.subject.project_id().unwrap_or_default();
    crate::api::enforce(&caller, "os_compute_api:os-migrations:index", own)?;
    if query.get("project_id") != Some(own) {
        caller.enforce("os_compute_api:os-migrations:index:all_projects", &[])?;
    }
    check_query(version, &query)?;
    let shows_host = caller.allows("os_compute_api:os-migrations:index:host", &[]);
    let mut found = api.store.cache::<Migration>().all();
    found.retain(|migration| matches(&api.store, migration, version, &query));
    found.sort_unstable_by_key(|migration| std::cmp::Reverse((migration.metadata.created, migration.metadata.uid)));
    let base = base(&info);
    if version < Microversion(2, 59) {
        let shown: Vec<Value> = found.iter().map(|one| view(one, version, &base, shows_host)).collect();
        return Ok(json(StatusCode::OK, &json!({ "migrations": shown })));
    }
    let page = PageQuery::from(&query, LIMITS)?.cut(found, |migration| migration.name())?;
    let shown: Vec<Value> = page
        .items
        .iter()
        .map(|one| view(one, version, &base, shows_host))
        .collect();
    let mut answer = json!({ "migrations": shown });
    if let Some(next) = page.next_link(&info, &query, |migration| migration.name()) {
        answer["migrations_links"] = json!([next]);
    }
    Ok(json(StatusCode::OK, &answer))
}

/// Refuses what Nova's schemas refuse: before 2.59 everything passes, since then only what is known.
fn check_query(version: Microversion, query: &Query) -> Result<(), Failure> {
    if version < Microversion(2, 59) {
        return Ok(());
    }
    let known = |name: &str| match name {
        "hidden" | "host" | "instance_uuid" | "source_compute" | "status" | "migration_type" | "limit" | "marker"
        | "changes-since" => true,
        "changes-before" => version >= Microversion(2, 66),
        "user_id" | "project_id" => version >= Microversion(2, 80),
        _ => false,
    };
    input::refuse_unknown(query, known)?;
    for name in ["changes-since", "changes-before"] {
        if let Some(value) = query.get(name) {
            time(name, value)?;
        }
    }
    let (since, before) = (query.get("changes-since"), query.get("changes-before"));
    if let (Some(since), Some(before)) = (since, before)
        && time("changes-since", since)? > time("changes-before", before)?
    {
        return Err(Failure::invalid(
            "The value of changes-since must be less than or equal to changes-before.",
        ));
    }
    Ok(())
}

pub(super) fn time(name: &str, value: &str) -> Result<Timestamp, Failure> {
    let read = value.parse::<Timestamp>().or_else(|_| format!("{value}Z").parse());
    read.or_else(|_| format!("{value}T00:00:00Z").parse()).map_err(|_| {
        let message =
            format!("Invalid input for query parameters {name}. Value: {value}. '{value}' is not a 'date-time'");
        Failure::invalid(message).at(name)
    })
}

fn matches(store: &Store, migration: &Resource<Migration>, version: Microversion, query: &Query) -> bool {
    let (spec, status) = (&migration.spec, &migration.status);
    let at = migration.metadata.updated;
    query.iter().all(|(name, value)| match name {
        "instance_uuid" => spec.server == value,
        "status" => status.state == value,
        "migration_type" => spec.kind.as_str() == value,
        "source_compute" => spec.source == value,
        "host" => spec.source == value || status.target.as_deref() == Some(value),
        "user_id" => spec.user == value,
        "project_id" => migration.project() == value,
        // Hidden are those of servers that are gone.
        "hidden" => {
            let is_gone = store.cache::<crate::Server>().by_name(&spec.server).is_none();
            is_gone == matches!(value, "1" | "true" | "True")
        }
        "changes-since" if version >= Microversion(2, 59) => time(name, value).is_ok_and(|since| at >= since),
        "changes-before" if version >= Microversion(2, 66) => time(name, value).is_ok_and(|before| at <= before),
        _ => true,
    })
}

fn view(migration: &Arc<Resource<Migration>>, version: Microversion, base: &str, shows_host: bool) -> Value {
    let (spec, status) = (&migration.spec, &migration.status);
    let host = |name: Option<&str>| if shows_host { json!(name) } else { Value::Null };
    let target = status.target.as_deref();
    let mut shown = json!({
        "id": number(migration.metadata.uid),
        "source_compute": host(Some(&spec.source)),
        "source_node": host(Some(&spec.source)),
        "dest_compute": host(target),
        "dest_node": host(target),
        "dest_host": Value::Null,
        "status": status.state,
        "instance_uuid": spec.server,
        "old_instance_type_id": flavor_number(&spec.old_flavor_id),
        "new_instance_type_id": flavor_number(&spec.new_flavor_id),
        "created_at": micros(migration.metadata.created),
        "updated_at": micros(migration.metadata.updated),
    });
    if version >= Microversion(2, 23) {
        shown["migration_type"] = json!(spec.kind.as_str());
        let id = number(migration.metadata.uid);
        if is_under_way(migration) {
            shown["links"] = json!([
                { "rel": "self", "href": format!("{base}/v2.1/servers/{}/migrations/{id}", spec.server) },
                { "rel": "bookmark", "href": format!("{base}/servers/{}/migrations/{id}", spec.server) },
            ]);
        }
    }
    if version >= Microversion(2, 59) {
        shown["uuid"] = json!(migration.name());
    }
    if version >= Microversion(2, 80) {
        shown["user_id"] = json!(spec.user);
        shown["project_id"] = json!(migration.project());
    }
    shown
}

/// Nova's own number of a flavor, which nobody else knows: its id where that is a number.
fn flavor_number(id: &str) -> u32 {
    id.parse().unwrap_or_else(|_| {
        let sum = id
            .bytes()
            .fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte)));
        sum & 0x7fff_ffff
    })
}

/// Nova serves these since a microversion; before there is nothing.
fn since(version: Microversion, minor: u16) -> Result<(), Failure> {
    if version < Microversion(2, minor) {
        return Err(Failure::not_found("The resource could not be found."));
    }
    Ok(())
}

/// `GET /servers/{id}/migrations`: live migrations under way.
pub async fn of_server(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    since(version, 23)?;
    let server = find_for(&api, &caller, &id, "os_compute_api:servers:migrations:index")?;
    let shows_host = caller.allows("os_compute_api:servers:migrations:index:host", &[]);
    let all = api.store.cache::<Migration>().by("server", server.name());
    let under_way = all.iter().filter(|migration| is_under_way(migration));
    let shown: Vec<Value> = under_way.map(|one| view_live(one, version, shows_host)).collect();
    Ok(json(StatusCode::OK, &json!({ "migrations": shown })))
}

fn is_under_way(migration: &Resource<Migration>) -> bool {
    let is_live = migration.spec.kind == MoveKind::LiveMigration;
    is_live && matches!(migration.status.state.as_str(), "accepted" | "preparing" | "running")
}

/// A live migration under way. Its bytes are not counted.
fn view_live(migration: &Resource<Migration>, version: Microversion, shows_host: bool) -> Value {
    let (spec, status) = (&migration.spec, &migration.status);
    let host = |name: Option<&str>| if shows_host { json!(name) } else { Value::Null };
    let target = status.target.as_deref();
    let mut shown = json!({
        "id": number(migration.metadata.uid),
        "created_at": micros(migration.metadata.created),
        "updated_at": micros(migration.metadata.updated),
        "server_uuid": spec.server,
        "status": status.state,
        "source_compute": host(Some(&spec.source)),
        "source_node": host(Some(&spec.source)),
        "dest_compute": host(target),
        "dest_node": host(target),
        "dest_host": Value::Null,
    });
    for name in ["disk", "memory"] {
        for part in ["total", "processed", "remaining"] {
            shown[format!("{name}_{part}_bytes")] = Value::Null;
        }
    }
    if version >= Microversion(2, 59) {
        shown["uuid"] = json!(migration.name());
    }
    if version >= Microversion(2, 80) {
        shown["user_id"] = json!(spec.user);
        shown["project_id"] = json!(migration.project());
    }
    shown
}

/// The migration of a server that a number names, or its id.
fn known(api: &ComputeApi, server: &str, id: &str) -> Option<Arc<Resource<Migration>>> {
    let all = api.store.cache::<Migration>().by("server", server);
    all.into_iter()
        .find(|migration| migration.name() == id || number(migration.metadata.uid).to_string() == id)
}

/// `GET /servers/{id}/migrations/{migration}`.
pub async fn show(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path((id, migration)): Path<(String, String)>,
) -> Result<Response, Failure> {
    since(version, 23)?;
    let server = find_for(&api, &caller, &id, "os_compute_api:servers:migrations:show")?;
    let name = server.name();
    let found = known(&api, name, &migration);
    if let Some(found) = found.as_ref().filter(|found| is_under_way(found)) {
        let shows_host = caller.allows("os_compute_api:servers:migrations:index:host", &[]);
        let shown = view_live(found, version, shows_host);
        return Ok(json(StatusCode::OK, &json!({ "migration": shown })));
    }
    Err(Failure::not_found(match found {
        Some(found) if found.spec.kind != MoveKind::LiveMigration => {
            format!("Migration {migration} for server {name} is not live-migration.")
        }
        Some(_) => format!("Live migration {migration} for server {name} is not in progress."),
        None => format!("In-progress live migration {migration} is not found for server {name}."),
    }))
}

/// `DELETE /servers/{id}/migrations/{migration}`: ends a live migration that has not come far.
pub async fn abort(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path((id, migration)): Path<(String, String)>,
) -> Result<Response, Failure> {
    since(version, 24)?;
    let server = find_for(&api, &caller, &id, "os_compute_api:servers:migrations:delete")?;
    verbs::check_lock(&caller, &server)?;
    travelling(&api, &server, &migration, "abort live migration")?;
    verbs::edit(&api.store, &caller, &server, |server| {
        match &mut server.spec.asked.moving {
            Some(moving) if moving.kind == MoveKind::LiveMigration => {
                moving.failure = Some("it was aborted".to_owned());
                if moving.stage == Stage::Placing {
                    moving.stage = Stage::Failed;
                }
                Ok(())
            }
            _ => Err(not_migrating(server, "abort live migration")),
        }
    })
    .await?;
    Ok(StatusCode::ACCEPTED.into_response())
}

/// Refuses unless a server is on its way by this live migration.
fn travelling(
    api: &ComputeApi,
    server: &Resource<crate::Server>,
    migration: &str,
    verb: &str,
) -> Result<Arc<Resource<Migration>>, Failure> {
    let is_live = |moving: &Move| moving.kind == MoveKind::LiveMigration;
    if !server.spec.asked.moving.as_ref().is_some_and(is_live) {
        return Err(not_migrating(server, verb));
    }
    let found = known(api, server.name(), migration).filter(|found| is_under_way(found));
    found.ok_or_else(|| {
        Failure::not_found(format!(
            "Migration {migration} not found for instance {}",
            server.name()
        ))
    })
}

static FORCE: LazyLock<Schema> = LazyLock::new(|| {
    Schema::new(
        Form::Nova,
        json!({
            "type": "object",
            "properties": { "force_complete": { "type": "null" } },
            "required": ["force_complete"],
            "additionalProperties": false,
        }),
    )
});

/// `POST /servers/{id}/migrations/{migration}/action`: hurries a live migration. None is ever slowed down, so there is
/// nothing to do but to say so.
pub async fn act(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path((id, migration)): Path<(String, String)>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    since(version, 22)?;
    FORCE.check(&body)?;
    find(&api.store, &caller, &id)?;
    let server = find_for(&api, &caller, &id, "os_compute_api:servers:migrations:force_complete")?;
    verbs::check_lock(&caller, &server)?;
    let found = travelling(&api, &server, &migration, "force_complete")?;
    if found.status.state != "running" {
        let message = format!(
            "Migration {migration} state of instance {} is {}. Cannot force_complete while the migration is in this state.",
            server.name(),
            found.status.state
        );
        return Err(Failure::invalid(message));
    }
    Ok(StatusCode::ACCEPTED.into_response())
}

fn not_migrating(server: &Resource<crate::Server>, verb: &str) -> Failure {
    let state = state::of(server);
    let task = state.task_state.unwrap_or("None");
    Failure::conflict(format!(
        "Cannot '{verb}' instance {} while it is in task_state {task}",
        server.name()
    ))
}
