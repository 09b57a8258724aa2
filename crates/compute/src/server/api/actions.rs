//! `/servers/{id}/os-instance-actions`: what was done to a server, also after its end.

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    response::Response,
};
use http::StatusCode;
use jiff::Timestamp;
use madang_http::{Failure, LimitRules, Microversion, PageQuery, Query, RequestInfo, json};
use madang_identity::Caller;
use madang_store::{Resource, Store};
use serde_json::{Value, json};

use super::{migrations::time, to_value};
use crate::{
    Server,
    api::{ComputeApi, enforce, input},
    server::{
        Action, Departed, Event,
        view::{host_id, micros},
    },
};

const LIMITS: LimitRules = LimitRules::up_to(1000);

/// The project of a server, if the caller may know of it: since 2.21 also of one that is gone.
fn project_of(store: &Store, caller: &Caller, version: Microversion, id: &str) -> Result<String, Failure> {
    let living = store
        .cache::<Server>()
        .by_name(id)
        .map(|server| server.project().to_owned());
    let departed = || {
        let departed = store.cache::<Departed>().by_name(id)?;
        (version >= Microversion(2, 21)).then(|| departed.project().to_owned())
    };
    living
        .or_else(departed)
        .filter(|project| caller.can_see(project))
        .ok_or_else(|| Failure::not_found(format!("Instance {id} could not be found.")))
}

/// `GET /servers/{id}/os-instance-actions`.
pub async fn list(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
    query: Query,
    info: RequestInfo,
) -> Result<Response, Failure> {
    let project = project_of(&api.store, &caller, version, &id)?;
    enforce(&caller, "os_compute_api:os-instance-actions:list", &project)?;
    let mut actions = api.store.cache::<Action>().by("server", &id);
    actions.sort_unstable_by_key(|action| std::cmp::Reverse((action.spec.started, action.metadata.uid)));
    if version < Microversion(2, 58) {
        let shown: Vec<Value> = actions.iter().map(|action| brief(action, version)).collect();
        return Ok(json(StatusCode::OK, &json!({ "instanceActions": shown })));
    }
    let (since, before) = window(version, &query)?;
    actions.retain(|action| {
        let at = action.metadata.updated;
        since.is_none_or(|since| at >= since) && before.is_none_or(|before| at <= before)
    });
    let page = PageQuery::from(&query, LIMITS)?.cut(actions, |action| action.name())?;
    let shown: Vec<Value> = page.items.iter().map(|action| brief(action, version)).collect();
    let mut answer = json!({ "instanceActions": shown });
    if let Some(next) = page.next_link(&info, &query, |action| action.name()) {
        answer["links"] = json!([to_value(&next)?]);
    }
    Ok(json(StatusCode::OK, &answer))
}

/// Since when and until when changes are asked for. What the query may hold is said by the microversion.
fn window(version: Microversion, query: &Query) -> Result<(Option<Timestamp>, Option<Timestamp>), Failure> {
    let known = |name: &str| match name {
        "limit" | "marker" | "changes-since" => true,
        "changes-before" => version >= Microversion(2, 66),
        _ => false,
    };
    input::refuse_unknown(query, known)?;
    let read = |name: &str| query.get(name).map(|value| time(name, value)).transpose();
    let (since, before) = (read("changes-since")?, read("changes-before")?);
    if since.zip(before).is_some_and(|(since, before)| since > before) {
        return Err(Failure::invalid(
            "The value of changes-since must be less than or equal to changes-before.",
        ));
    }
    Ok((since, before))
}

fn brief(action: &Resource<Action>, version: Microversion) -> Value {
    let mut shown = json!({
        "action": action.spec.action,
        "instance_uuid": action.metadata.namespace,
        "request_id": action.name(),
        "user_id": action.spec.user,
        "project_id": action.project(),
        "start_time": micros(action.spec.started),
        "message": action.status.message,
    });
    if version >= Microversion(2, 58) {
        shown["updated_at"] = json!(micros(action.metadata.updated));
    }
    shown
}

/// `GET /servers/{id}/os-instance-actions/{request}`.
pub async fn show(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path((id, request)): Path<(String, String)>,
) -> Result<Response, Failure> {
    let project = project_of(&api.store, &caller, version, &id)?;
    enforce(&caller, "os_compute_api:os-instance-actions:show", &project)?;
    let actions = api.store.cache::<Action>().by("server", &id);
    let action = actions.into_iter().find(|action| action.name() == request);
    let action = action.ok_or_else(|| Failure::not_found(format!("Action {request} not found")))?;
    Ok(json(
        StatusCode::OK,
        &json!({ "instanceAction": full(&action, &caller, version) }),
    ))
}

fn full(action: &Arc<Resource<Action>>, caller: &Caller, version: Microversion) -> Value {
    let target = [("project_id", action.project())];
    let sees_all = caller.allows("os_compute_api:os-instance-actions:events", &target);
    let mut shown = brief(action, version);
    if !sees_all && version < Microversion(2, 51) {
        return shown;
    }
    let sees_details =
        version >= Microversion(2, 84) && caller.allows("os_compute_api:os-instance-actions:events:details", &target);
    let event = |event: &Event| {
        let mut shown = json!({
            "event": event.event,
            "start_time": micros(event.started),
            "finish_time": event.finished.map(micros),
            "result": event.result(),
        });
        if sees_all {
            // Errors are words here, never the inside of a program.
            shown["traceback"] = Value::Null;
        }
        if version >= Microversion(2, 62) {
            if sees_all {
                shown["host"] = json!(event.host);
            }
            shown["hostId"] = json!(host_id(action.project(), event.host.as_deref()));
        }
        if sees_details {
            shown["details"] = json!(event.details);
        }
        shown
    };
    shown["events"] = action.status.events.iter().map(event).collect();
    shown
}
