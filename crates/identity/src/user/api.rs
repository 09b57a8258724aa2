//! `/v3/users`.

use std::sync::{Arc, LazyLock};

use axum::{
    Router,
    extract::{Path, State},
    response::Response,
    routing::{get, post},
};
use http::StatusCode;
use madang_http::{Failure, Json, Query, RequestInfo, Schema};
use madang_store::Resource;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{
    User, UserSpec,
    rules::{self, UserChange},
};
use crate::{
    Caller, Identity,
    api::{
        Links, Listed,
        input::{Input, id_schema, name_schema, resource_schema},
        links, many, no_content, one, passes,
    },
    assignment::effective,
    group::{self, Group, Membership},
    project,
};

static CREATE: LazyLock<Schema> = LazyLock::new(|| resource_schema("user", properties(), &["name"]));
static UPDATE: LazyLock<Schema> = LazyLock::new(|| resource_schema("user", properties(), &[]));
static PASSWORD: LazyLock<Schema> = LazyLock::new(|| {
    let text = json!({ "type": "string" });
    let properties = json!({ "original_password": text, "password": text });
    resource_schema("user", properties, &["original_password", "password"])
});

fn properties() -> Value {
    let flag = json!({ "type": ["boolean", "null"] });
    let rules = json!({ "type": "array", "items": { "type": "array", "items": { "type": "string" } } });
    json!({
        "name": name_schema(255),
        "default_project_id": id_schema(),
        "domain_id": { "type": "string", "pattern": "^[a-zA-Z0-9-]+$", "maxLength": 64 },
        "description": { "type": ["string", "null"] },
        "enabled": { "type": "boolean" },
        "password": { "type": ["string", "null"] },
        "options": {
            "type": "object",
            "properties": {
                "ignore_change_password_upon_first_use": flag,
                "ignore_password_expiry": flag,
                "ignore_lockout_failure_attempts": flag,
                "ignore_user_inactivity": flag,
                "lock_password": flag,
                "multi_factor_auth_enabled": flag,
                "multi_factor_auth_rules": rules,
            },
            "additionalProperties": false,
        },
    })
}

/// A user as Keystone shows it.
#[derive(Serialize)]
struct View {
    id: String,
    name: String,
    domain_id: String,
    enabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    default_project_id: Option<String>,
    password_expires_at: Option<()>,
    options: Map<String, Value>,
    #[serde(flatten)]
    extra: Map<String, Value>,
    links: Links,
}

impl Listed for View {
    fn id(&self) -> &str {
        &self.id
    }
}

fn view(info: &RequestInfo, user: &Resource<User>) -> View {
    let spec = &user.spec;
    View {
        id: user.name().to_owned(),
        name: spec.name.clone(),
        domain_id: spec.domain_id.clone(),
        enabled: spec.enabled,
        default_project_id: spec.default_project_id.clone(),
        password_expires_at: None,
        options: spec.options.clone(),
        extra: spec.extra.clone(),
        links: links(info, "users", user.name()),
    }
}

pub(crate) fn routes() -> Router<Arc<Identity>> {
    Router::new()
        .route("/users", get(list).post(create))
        .route("/users/{user_id}", get(show).patch(update).delete(delete))
        .route("/users/{user_id}/password", post(change_password))
        .route("/users/{user_id}/groups", get(groups))
        .route("/users/{user_id}/projects", get(projects))
}

async fn create(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    let mut input = Input::read(&CREATE, body, "user")?;
    let spec = UserSpec {
        name: input.text("name").unwrap_or_default(),
        domain_id: input.text("domain_id").unwrap_or_default(),
        enabled: input.flag("enabled").unwrap_or(true),
        default_project_id: input.text("default_project_id"),
        password: input.text("password"),
        options: input.object("options"),
        extra: input.rest(),
        tokens_void_until: None,
    };
    let user = rules::create(&identity, &caller, spec).await?;
    Ok(one(StatusCode::CREATED, "user", &view(&info, &user)))
}

async fn show(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let user = rules::find(&identity, &caller, "identity:get_user", &id)?;
    Ok(one(StatusCode::OK, "user", &view(&info, &user)))
}

async fn list(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    query: Query,
) -> Result<Response, Failure> {
    let domain_id = query
        .get("domain_id")
        .or(caller.subject.domain_id())
        .unwrap_or_default();
    caller.enforce("identity:list_users", &[("target.domain_id", domain_id)])?;
    let cache = identity.store.cache::<User>();
    let users = if domain_id.is_empty() {
        cache.all()
    } else {
        cache.by("domain", domain_id)
    };
    respond(&info, &query, users)
}

/// A list of users, by name.
pub(crate) fn respond(
    info: &RequestInfo,
    query: &Query,
    mut users: Vec<Arc<Resource<User>>>,
) -> Result<Response, Failure> {
    users.retain(|user| {
        passes(query, "name", &user.spec.name)
            && (!query.has("enabled") || query.switch("enabled") == user.spec.enabled)
            // Passwords do not expire here, so no user has an expiry to compare with.
            && !query.has("password_expires_at")
    });
    users.sort_by(|a, b| (&a.spec.name, a.name()).cmp(&(&b.spec.name, b.name())));
    many(
        info,
        query,
        "users",
        users.iter().map(|user| view(info, user)).collect(),
    )
}

async fn update(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    Path(id): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    let mut input = Input::read(&UPDATE, body, "user")?;
    let now = rules::find(&identity, &caller, "identity:update_user", &id)?;
    if input
        .text("domain_id")
        .is_some_and(|domain_id| domain_id != now.spec.domain_id)
    {
        return Err(Failure::invalid("Cannot change Domain ID").at("domain_id"));
    }
    let change = UserChange {
        name: input.text("name"),
        enabled: input.flag("enabled"),
        default_project_id: input.nullable("default_project_id"),
        password: input.nullable("password"),
        options: input.object("options"),
        extra: input.rest(),
    };
    let user = rules::update(&identity, &caller, &id, &change).await?;
    Ok(one(StatusCode::OK, "user", &view(&info, &user)))
}

async fn change_password(
    State(identity): State<Arc<Identity>>,
    info: RequestInfo,
    Path(id): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    let mut input = Input::read(&PASSWORD, body, "user")?;
    let mut text = |name| input.text(name).unwrap_or_default();
    let (old, new) = (text("original_password"), text("password"));
    rules::change_password(&identity, &id, &old, &new, info.id()).await?;
    Ok(no_content())
}

async fn delete(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    rules::delete(&identity, &caller, &id).await?;
    Ok(no_content())
}

async fn groups(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    query: Query,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    rules::find(&identity, &caller, "identity:list_groups_for_user", &id)?;
    let memberships = identity.store.cache::<Membership>().by("user", &id);
    let groups = memberships
        .iter()
        .filter_map(|m| identity.store.get::<Group>(&Group::key(&m.spec.group_id)));
    group::api::respond(&info, &query, groups.collect())
}

async fn projects(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    query: Query,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    rules::find(&identity, &caller, "identity:list_user_projects", &id)?;
    let mut projects = effective::projects_of(&identity.store, &id);
    projects.retain(|project| project::domains::passes_filters(&query, project));
    project::api::respond(&info, &query, projects)
}
