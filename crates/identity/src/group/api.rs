//! `/v3/groups`.

use std::sync::{Arc, LazyLock};

use axum::{
    Router,
    extract::{Path, State},
    response::Response,
    routing::get,
};
use http::StatusCode;
use madang_http::{Failure, Json, Query, RequestInfo, Schema};
use madang_store::Resource;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{
    Group, GroupSpec, Membership,
    rules::{self, GroupChange},
};
use crate::{
    Caller, Identity,
    api::{
        Links, Listed,
        input::{Input, name_schema, resource_schema},
        links, many, no_content, one, passes,
    },
    user::{self, User},
};

static CREATE: LazyLock<Schema> = LazyLock::new(|| resource_schema("group", properties(), &["name"]));
static UPDATE: LazyLock<Schema> = LazyLock::new(|| resource_schema("group", properties(), &[]));

fn properties() -> Value {
    json!({
        "name": name_schema(64),
        "domain_id": { "type": "string", "pattern": "^[a-zA-Z0-9-]+$", "maxLength": 64 },
        "description": { "type": ["string", "null"] },
    })
}

/// A group as Keystone shows it.
#[derive(Serialize)]
struct View {
    id: String,
    name: String,
    domain_id: String,
    description: String,
    #[serde(flatten)]
    extra: Map<String, Value>,
    links: Links,
}

impl Listed for View {
    fn id(&self) -> &str {
        &self.id
    }
}

fn view(info: &RequestInfo, group: &Resource<Group>) -> View {
    View {
        id: group.name().to_owned(),
        name: group.spec.name.clone(),
        domain_id: group.spec.domain_id.clone(),
        description: group.spec.description.clone(),
        extra: group.spec.extra.clone(),
        links: links(info, "groups", group.name()),
    }
}

pub(crate) fn routes() -> Router<Arc<Identity>> {
    Router::new()
        .route("/groups", get(list).post(create))
        .route("/groups/{group_id}", get(show).patch(update).delete(delete))
        .route("/groups/{group_id}/users", get(users))
        .route(
            "/groups/{group_id}/users/{user_id}",
            get(check_user).put(add_user).delete(remove_user),
        )
}

async fn create(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    let mut input = Input::read(&CREATE, body, "group")?;
    let spec = GroupSpec {
        name: input.text("name").unwrap_or_default(),
        domain_id: input.text("domain_id").unwrap_or_default(),
        description: input.text("description").unwrap_or_default(),
        extra: input.rest(),
    };
    let group = rules::create(&identity, &caller, spec).await?;
    Ok(one(StatusCode::CREATED, "group", &view(&info, &group)))
}

async fn show(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let group = rules::find(&identity, &caller, "identity:get_group", &id)?;
    Ok(one(StatusCode::OK, "group", &view(&info, &group)))
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
    caller.enforce("identity:list_groups", &[("target.group.domain_id", domain_id)])?;
    let cache = identity.store.cache::<Group>();
    let groups = if domain_id.is_empty() {
        cache.all()
    } else {
        cache.by("domain", domain_id)
    };
    respond(&info, &query, groups)
}

/// A list of groups, by name.
pub(crate) fn respond(
    info: &RequestInfo,
    query: &Query,
    mut groups: Vec<Arc<Resource<Group>>>,
) -> Result<Response, Failure> {
    groups.retain(|group| passes(query, "name", &group.spec.name));
    groups.sort_by(|a, b| (&a.spec.name, a.name()).cmp(&(&b.spec.name, b.name())));
    many(
        info,
        query,
        "groups",
        groups.iter().map(|group| view(info, group)).collect(),
    )
}

async fn update(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    Path(id): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    let mut input = Input::read(&UPDATE, body, "group")?;
    let now = rules::find(&identity, &caller, "identity:update_group", &id)?;
    if input
        .text("domain_id")
        .is_some_and(|domain_id| domain_id != now.spec.domain_id)
    {
        return Err(Failure::invalid("Cannot change Domain ID").at("domain_id"));
    }
    let change = GroupChange {
        name: input.text("name"),
        description: input.nullable("description").map(Option::unwrap_or_default),
        extra: input.rest(),
    };
    let group = rules::update(&identity, &caller, &id, &change).await?;
    Ok(one(StatusCode::OK, "group", &view(&info, &group)))
}

async fn delete(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    rules::delete(&identity, &caller, &id).await?;
    Ok(no_content())
}

async fn users(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    query: Query,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    rules::find(&identity, &caller, "identity:list_users_in_group", &id)?;
    let memberships = identity.store.cache::<Membership>().by("group", &id);
    let users = memberships
        .iter()
        .filter_map(|m| identity.store.get::<User>(&User::key(&m.spec.user_id)));
    user::api::respond(&info, &query, users.collect())
}

async fn check_user(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    Path((group_id, user_id)): Path<(String, String)>,
) -> Result<Response, Failure> {
    rules::check_user(&identity, &caller, &group_id, &user_id)?;
    Ok(no_content())
}

async fn add_user(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    Path((group_id, user_id)): Path<(String, String)>,
) -> Result<Response, Failure> {
    rules::add_user(&identity, &caller, &group_id, &user_id).await?;
    Ok(no_content())
}

async fn remove_user(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    Path((group_id, user_id)): Path<(String, String)>,
) -> Result<Response, Failure> {
    rules::remove_user(&identity, &caller, &group_id, &user_id).await?;
    Ok(no_content())
}
