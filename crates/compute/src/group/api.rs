//! `/os-server-groups`.

use std::sync::{Arc, LazyLock};

use axum::{
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use http::StatusCode;
use madang_http::{Failure, Form, Json, Microversion, Query, Schema, json};
use madang_identity::Caller;
use madang_scheduler::GroupPolicy;
use madang_store::{Metadata, Resource, Store, StoreError};
use serde_json::{Value, json};

use super::{SERVER_GROUPS, ServerGroup, ServerGroupSpec};
use crate::{
    Server,
    api::{ComputeApi, enforce, failure},
    quota,
};

/// Nova's `max_limit`.
const MOST: usize = 1000;

/// The group, if the caller may know of it.
///
/// # Errors
/// `NotFound`, also for those of others.
pub(crate) fn find(store: &Store, caller: &Caller, id: &str) -> Result<Arc<Resource<ServerGroup>>, Failure> {
    let group = store
        .cache::<ServerGroup>()
        .by_name(id)
        .filter(|group| caller.can_see(group.project()));
    group.ok_or_else(|| Failure::not_found(format!("Instance group {id} could not be found.")))
}

fn view(store: &Store, group: &Resource<ServerGroup>, version: Microversion) -> Value {
    let servers = store.cache::<Server>().by("group", group.name());
    let members: Vec<&str> = servers
        .iter()
        .filter(|server| !server.metadata.is_deleting())
        .map(|server| server.name())
        .collect();
    let mut shown = json!({ "id": group.name(), "name": group.spec.name, "members": members });
    if version >= Microversion(2, 64) {
        shown["policy"] = json!(group.spec.policy);
        shown["rules"] = match group.spec.max_server_per_host {
            Some(most) => json!({ "max_server_per_host": most }),
            None => json!({}),
        };
    } else {
        shown["policies"] = json!([group.spec.policy]);
        shown["metadata"] = json!({});
    }
    if version >= Microversion(2, 13) {
        shown["project_id"] = json!(group.project());
        shown["user_id"] = json!(group.spec.user);
    }
    shown
}

/// `GET /os-server-groups`.
pub async fn list(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    query: Query,
) -> Result<Response, Failure> {
    let own = caller.subject.project_id().unwrap_or_default();
    enforce(&caller, "os_compute_api:os-server-groups:index", own)?;
    let all = query.has("all_projects") && caller.allows("os_compute_api:os-server-groups:index:all_projects", &[]);
    let groups = api.store.cache::<ServerGroup>();
    let mut groups = if all { groups.all() } else { groups.in_project(own) };
    groups.sort_unstable_by_key(|group| (group.metadata.created, group.metadata.uid));
    let limit = number(&query, "limit")?
        .filter(|limit| *limit > 0)
        .unwrap_or(MOST)
        .min(MOST);
    let page = groups.iter().skip(number(&query, "offset")?.unwrap_or(0)).take(limit);
    let list: Vec<Value> = page.map(|group| view(&api.store, group, version)).collect();
    Ok(json(StatusCode::OK, &json!({ "server_groups": list })))
}

fn number(query: &Query, name: &str) -> Result<Option<usize>, Failure> {
    let bad = |text: &str| {
        let message = format!("Invalid input for query parameters {name}. Value: {text}. It is not a number from 0.");
        Failure::invalid(message).at(name)
    };
    query
        .get(name)
        .map(|text| text.parse().map_err(|_| bad(text)))
        .transpose()
}

/// `GET /os-server-groups/{id}`.
pub async fn show(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let group = find(&api.store, &caller, &id)?;
    enforce(&caller, "os_compute_api:os-server-groups:show", group.project())?;
    Ok(json(
        StatusCode::OK,
        &json!({ "server_group": view(&api.store, &group, version) }),
    ))
}

fn body_schema(version: u16) -> Value {
    let mut policies = vec!["anti-affinity", "affinity"];
    if version >= 15 {
        policies.extend(["soft-anti-affinity", "soft-affinity"]);
    }
    let policy = json!({ "type": "string", "enum": policies });
    let name = json!({ "type": "string", "minLength": 1, "maxLength": 255, "pattern": "^\\s*\\S[\\s\\S]*$" });
    let (member, schema) = if version >= 64 {
        ("policy", policy)
    } else {
        (
            "policies",
            json!({ "type": "array", "items": policy, "minItems": 1, "maxItems": 1 }),
        )
    };
    let mut properties = json!({ "name": name });
    properties[member] = schema;
    if version >= 64 {
        properties["rules"] = json!({
            "type": "object",
            "properties": { "max_server_per_host": {
                "type": ["integer", "string"], "pattern": "^[0-9]*$", "minimum": 1, "minLength": 1,
            } },
            "additionalProperties": false,
        });
    }
    let group = json!({
        "type": "object", "properties": properties, "required": ["name", member], "additionalProperties": false,
    });
    json!({
        "type": "object", "properties": { "server_group": group },
        "required": ["server_group"], "additionalProperties": false,
    })
}

fn schema(version: Microversion) -> &'static Schema {
    static OLD: LazyLock<Schema> = LazyLock::new(|| Schema::new(Form::Nova, body_schema(1)));
    static SOFT: LazyLock<Schema> = LazyLock::new(|| Schema::new(Form::Nova, body_schema(15)));
    static SINGLE: LazyLock<Schema> = LazyLock::new(|| Schema::new(Form::Nova, body_schema(64)));
    match version {
        v if v >= Microversion(2, 64) => &SINGLE,
        v if v >= Microversion(2, 15) => &SOFT,
        _ => &OLD,
    }
}

/// `POST /os-server-groups`.
pub async fn create(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    let project = caller.project()?.to_owned();
    enforce(&caller, "os_compute_api:os-server-groups:create", &project)?;
    schema(version).check(&body)?;
    let wanted = &body["server_group"];
    let policy = wanted["policy"]
        .as_str()
        .or_else(|| wanted["policies"][0].as_str())
        .unwrap_or_default();
    let policy = policy_of(policy).ok_or_else(|| Failure::invalid("a server group needs a policy").at("policy"))?;
    let max_server_per_host = read_rules(&wanted["rules"], policy)?;
    let name = wanted["name"].as_str().unwrap_or_default().trim().to_owned();
    let spec = ServerGroupSpec {
        name,
        user: caller.subject.user.id.clone(),
        policy,
        max_server_per_host,
    };
    let group = Resource::<ServerGroup>::new(Metadata::with_id(&project), spec);
    let made = api
        .store
        .transact::<_, StoreError>(caller.cause(), |tx| tx.create(group.clone()))
        .await;
    let group = made.map_err(|error| over_quota(error, &api.store, &project))?;
    Ok(json(
        StatusCode::OK,
        &json!({ "server_group": view(&api.store, &group, version) }),
    ))
}

fn policy_of(word: &str) -> Option<GroupPolicy> {
    serde_json::from_value(json!(word)).ok()
}

/// How many members one host may have, which only anti-affinity knows.
fn read_rules(rules: &Value, policy: GroupPolicy) -> Result<Option<u32>, Failure> {
    if rules.as_object().is_none_or(serde_json::Map::is_empty) {
        return Ok(None);
    }
    if policy != GroupPolicy::AntiAffinity {
        return Err(Failure::invalid("Only anti-affinity policy supports rules.").at("server_group.rules"));
    }
    let most = &rules["max_server_per_host"];
    let most = most.as_u64().or_else(|| most.as_str()?.parse().ok());
    Ok(most.and_then(|most| u32::try_from(most).ok()))
}

fn over_quota(error: StoreError, store: &Store, project: &str) -> Failure {
    match error {
        StoreError::LimitExceeded { .. } => {
            let limit = quota::limit(store, project, SERVER_GROUPS).unwrap_or(-1);
            let message = format!("Quota exceeded, too many server groups (at most {limit}).");
            Failure::forbidden(message).because("OverQuota")
        }
        other => failure(other),
    }
}

/// `DELETE /os-server-groups/{id}`. Its members stay.
pub async fn delete(
    State(api): State<ComputeApi>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let group = find(&api.store, &caller, &id)?;
    enforce(&caller, "os_compute_api:os-server-groups:delete", group.project())?;
    let key = group.key();
    let deleted = api
        .store
        .transact::<_, StoreError>(caller.cause(), |tx| match tx.get::<ServerGroup>(&key) {
            Some(group) => tx.delete(&group),
            None => Ok(()),
        });
    deleted.await.map_err(failure)?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
