//! `/v3/users`.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

use axum::{
    Router,
    extract::{Path, State},
    response::Response,
    routing::{get, post},
};
use jiff::Timestamp;
use madang_http::{Failure, Json, Query, RequestInfo, Schema};
use madang_store::Resource;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{User, UserSpec, rules};
use crate::{
    Caller, Identity,
    api::{
        Links, Listed,
        collection::{self, Collection, Schemas, in_domain},
        input::{Input, id_schema, name_schema, resource_schema, schemas},
        links, many, merge, no_content, passes,
    },
    application_credential::api::read_time,
    assignment::effective,
    auth::render::bare_time,
    federation::shadow,
    group::{Group, Membership},
    project,
};

static SCHEMAS: LazyLock<Schemas> = LazyLock::new(|| schemas("user", properties(), &["name"]));
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
        "federated": federated_schema(),
    })
}

fn federated_schema() -> Value {
    let text = json!({ "type": "string" });
    let protocol = json!({
        "type": "object",
        "properties": { "protocol_id": text, "unique_id": text },
        "required": ["protocol_id", "unique_id"],
    });
    let object = json!({
        "type": "object",
        "properties": { "idp_id": text, "protocols": { "type": "array", "items": protocol, "minItems": 1 } },
        "required": ["idp_id", "protocols"],
    });
    json!({ "type": "array", "items": object })
}

/// A user as Keystone shows it.
#[derive(Serialize)]
pub(crate) struct View {
    id: String,
    name: String,
    domain_id: String,
    enabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    default_project_id: Option<String>,
    password_expires_at: Option<String>,
    options: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    federated: Option<Value>,
    #[serde(flatten)]
    extra: Map<String, Value>,
    links: Links,
}

impl Listed for View {
    fn id(&self) -> &str {
        &self.id
    }
}

pub(crate) fn routes() -> Router<Arc<Identity>> {
    collection::routes::<User>("/users")
        .route("/users/{user_id}/password", post(change_password))
        .route("/users/{user_id}/groups", get(groups))
        .route("/users/{user_id}/projects", get(projects))
}

impl Collection for User {
    const ONE: &'static str = "user";
    const MANY: &'static str = "users";
    type View = View;

    fn view(identity: &Identity, info: &RequestInfo, user: &Resource<Self>) -> View {
        let spec = &user.spec;
        View {
            id: user.name().to_owned(),
            name: spec.name.clone(),
            domain_id: spec.domain_id.clone(),
            enabled: spec.enabled && !identity.is_inactive(user),
            default_project_id: spec.default_project_id.clone(),
            password_expires_at: spec.password_expires.map(bare_time),
            options: spec.options.clone(),
            federated: (!spec.federated.is_empty()).then(|| shadow::as_value(&spec.federated)),
            extra: spec.extra.clone(),
            links: links(info, "users", user.name()),
        }
    }

    fn schemas() -> &'static Schemas {
        &SCHEMAS
    }

    fn spec(mut input: Input) -> Result<(Option<String>, UserSpec), Failure> {
        let spec = UserSpec {
            name: input.text("name").unwrap_or_default(),
            domain_id: input.text("domain_id").unwrap_or_default(),
            enabled: input.flag("enabled").unwrap_or(true),
            default_project_id: input.text("default_project_id"),
            password: input.text("password"),
            options: input.object("options"),
            federated: shadow::from_value(&input.take("federated").unwrap_or_default()),
            extra: input.rest(),
            ..UserSpec::default()
        };
        Ok((None, spec))
    }

    /// All but the password, which is not stored as it comes.
    fn apply(spec: &mut UserSpec, mut input: Input) {
        input.take("password");
        // As Keystone: an empty list changes nothing.
        let federated = input.take("federated").map(|names| shadow::from_value(&names));
        if let Some(names) = federated.filter(|names| !names.is_empty()) {
            spec.federated = names;
        }
        input.set("name", &mut spec.name);
        input.set_flag("enabled", &mut spec.enabled);
        input.set_nullable("default_project_id", &mut spec.default_project_id);
        merge(&mut spec.options, &input.object("options"));
        merge(&mut spec.extra, &input.rest());
    }

    fn passes(query: &Query, user: &Resource<Self>) -> bool {
        passes(query, "name", &user.spec.name)
            && (!query.has("enabled") || query.switch("enabled") == user.spec.enabled)
            && passes_expiry(query, user.spec.password_expires)
            && passes_federated(query, &user.spec)
    }

    fn order(user: &Resource<Self>) -> &str {
        &user.spec.name
    }

    async fn create(identity: &Identity, caller: &Caller, input: Input) -> Result<Arc<Resource<Self>>, Failure> {
        rules::create(identity, caller, Self::spec(input)?.1).await
    }

    fn find(identity: &Identity, caller: &Caller, verb: &str, id: &str) -> Result<Arc<Resource<Self>>, Failure> {
        rules::find(identity, caller, &format!("identity:{verb}_user"), id)
    }

    fn list(identity: &Identity, caller: &Caller, query: &Query) -> Result<Vec<Arc<Resource<Self>>>, Failure> {
        for filter in query.all("password_expires_at") {
            read_expiry(filter)?;
        }
        let (domain_id, users) = in_domain(identity, caller, query);
        caller.enforce("identity:list_users", &[("target.domain_id", &domain_id)])?;
        Ok(users)
    }

    async fn update(
        identity: &Identity,
        caller: &Caller,
        id: &str,
        mut input: Input,
    ) -> Result<Arc<Resource<Self>>, Failure> {
        let now = Self::find(identity, caller, "update", id)?;
        input.keep_domain(&now.spec.domain_id)?;
        rules::update(identity, caller, id, input).await
    }

    async fn delete(identity: &Identity, caller: &Caller, id: &str) -> Result<(), Failure> {
        let now = Self::find(identity, caller, "delete", id)?;
        identity.check_removable(&now.spec.domain_id, id)?;
        crate::api::collection::delete::<Self>(identity, caller, id).await
    }
}

/// `lt:2030-01-31T12:00:00Z`: an operator, which is `eq` where there is none, and a time.
fn read_expiry(filter: &str) -> Result<(&str, Timestamp), Failure> {
    let known = |operator: &&str| ["lt", "lte", "gt", "gte", "eq", "neq"].contains(operator);
    let split = filter.split_once(':').filter(|(operator, _)| known(operator));
    let (operator, text) = split.unwrap_or(("eq", filter));
    let message =
        format!("Invalid value for password_expires_at: {filter} is not a time such as lt:2030-01-31T12:00:00Z");
    let time = read_time(text).ok_or_else(|| Failure::invalid(message).at("password_expires_at"))?;
    Ok((operator, time))
}

/// Users whose password does not expire pass no filter of this kind.
fn passes_expiry(query: &Query, expires: Option<Timestamp>) -> bool {
    let mut filters = query
        .all("password_expires_at")
        .filter_map(|filter| read_expiry(filter).ok());
    filters.all(|(operator, time)| {
        expires.is_some_and(|end| match operator {
            "lt" => end < time,
            "lte" => end <= time,
            "gt" => end > time,
            "gte" => end >= time,
            "neq" => end != time,
            _ => end == time,
        })
    })
}

/// `idp_id`, `protocol_id` and `unique_id`: all of one name.
fn passes_federated(query: &Query, user: &UserSpec) -> bool {
    let is_asked = ["idp_id", "protocol_id", "unique_id"]
        .iter()
        .any(|name| query.has(name));
    let fits = |name: &str, is: &str| query.get(name).is_none_or(|wanted| wanted == is);
    !is_asked
        || user.federated.iter().any(|name| {
            fits("idp_id", &name.provider_id)
                && fits("protocol_id", &name.protocol_id)
                && fits("unique_id", &name.unique_id)
        })
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

async fn groups(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    query: Query,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    rules::find(&identity, &caller, "identity:list_groups_for_user", &id)?;
    let store = &identity.store;
    let own = store.cache::<Membership>().by("user", &id);
    let own = own.iter().map(|membership| (membership.spec.group_id.clone(), None));
    let vouched = shadow::memberships(store, &id, false);
    let vouched = vouched
        .iter()
        .map(|membership| (membership.spec.group_id.clone(), Some(membership.spec.expires)));
    // One that a user is in for good does not end.
    let ends: BTreeMap<String, Option<Timestamp>> = vouched.chain(own).collect();
    let mut groups: Vec<_> = ends
        .into_iter()
        .filter_map(|(id, end)| Some((store.get::<Group>(&Group::key(&id))?, end)))
        .filter(|(group, _)| caller.is_in_sight(&group.spec.domain_id) && Group::passes(&query, group))
        .collect();
    groups.sort_by(|(a, _), (b, _)| (&a.spec.name, a.name()).cmp(&(&b.spec.name, b.name())));
    let views = groups.iter().map(|(group, end)| {
        let mut view = Group::view(&identity, &info, group);
        view.membership_expires_at = Some(end.map(bare_time));
        view
    });
    many(&info, &query, "groups", views.collect())
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
