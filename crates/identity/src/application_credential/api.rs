//! `/v3/users/{id}/application_credentials` and `/v3/users/{id}/access_rules`.

use std::sync::{Arc, LazyLock};

use axum::{
    Router,
    extract::{Path, State},
    response::Response,
    routing::get,
};
use http::StatusCode;
use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use madang_http::{Failure, Json, Query, RequestInfo, Schema};
use madang_store::{Resource, Store};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    AccessRule, ApplicationCredential,
    rules::{self, AccessRuleName, NewCredential, RoleName},
};
use crate::{
    Caller, Identity,
    api::{
        Links, Listed,
        input::{Input, name_schema, resource_schema},
        links, many, no_content, one, passes,
    },
    auth::render::bare_time,
    role::Role,
};

static CREATE: LazyLock<Schema> = LazyLock::new(|| {
    let text = json!({ "type": ["string", "null"] });
    let role = json!({ "type": "object", "properties": { "id": text, "name": text }, "minProperties": 1 });
    let rule = json!({
        "type": "object",
        "properties": {
            "id": { "type": "string" },
            "service": { "type": "string", "minLength": 1, "maxLength": 255 },
            "method": { "type": "string", "enum": ["POST", "GET", "HEAD", "PATCH", "PUT", "DELETE"] },
            "path": { "type": "string", "minLength": 1, "maxLength": 255 },
        },
        "additionalProperties": false,
    });
    let properties = json!({
        "name": name_schema(255),
        "description": text,
        "secret": text,
        "expires_at": text,
        "roles": { "type": "array", "items": role },
        "unrestricted": { "type": "boolean" },
        "access_rules": { "type": "array", "items": rule },
    });
    resource_schema("application_credential", properties, &["name"])
});

#[derive(Serialize)]
struct RoleView {
    id: String,
    name: String,
    domain_id: Option<String>,
}

/// An access rule as Keystone shows it within an application credential.
#[derive(Serialize)]
pub(crate) struct AccessRuleView {
    id: String,
    service: String,
    path: String,
    method: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    links: Option<Links>,
}

/// An application credential as Keystone shows it.
#[derive(Serialize)]
struct View {
    id: String,
    name: String,
    description: Option<String>,
    project_id: String,
    user_id: String,
    roles: Vec<RoleView>,
    expires_at: Option<String>,
    unrestricted: bool,
    system: Option<()>,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    access_rules: Vec<AccessRuleView>,
    links: Links,
}

impl Listed for View {
    fn id(&self) -> &str {
        &self.id
    }
}

impl Listed for AccessRuleView {
    fn id(&self) -> &str {
        &self.id
    }
}

/// The access rules of an application credential.
pub(crate) fn access_rules_of(store: &Store, credential: &Resource<ApplicationCredential>) -> Vec<AccessRuleView> {
    let ids = credential.spec.access_rule_ids.iter();
    ids.filter_map(|id| store.get::<AccessRule>(&AccessRule::key(id)))
        .map(|rule| access_rule_view(&rule, None))
        .collect()
}

fn access_rule_view(rule: &Resource<AccessRule>, links: Option<Links>) -> AccessRuleView {
    AccessRuleView {
        id: rule.name().to_owned(),
        service: rule.spec.service.clone(),
        path: rule.spec.path.clone(),
        method: rule.spec.method.clone(),
        links,
    }
}

fn view(store: &Store, info: &RequestInfo, credential: &Resource<ApplicationCredential>) -> View {
    let spec = &credential.spec;
    let roles = spec.role_ids.iter().filter_map(|id| store.get::<Role>(&Role::key(id)));
    let collection = format!("users/{}/application_credentials", spec.user_id);
    View {
        id: credential.name().to_owned(),
        name: spec.name.clone(),
        description: spec.description.clone(),
        project_id: spec.project_id.clone(),
        user_id: spec.user_id.clone(),
        roles: roles
            .map(|role| RoleView {
                id: role.name().to_owned(),
                name: role.spec.name.clone(),
                domain_id: None,
            })
            .collect(),
        expires_at: spec.expires.map(bare_time),
        unrestricted: spec.unrestricted,
        system: None,
        secret: None,
        access_rules: access_rules_of(store, credential),
        links: links(info, &collection, credential.name()),
    }
}

pub(crate) fn routes() -> Router<Arc<Identity>> {
    Router::new()
        .route("/users/{user_id}/application_credentials", get(list).post(create))
        .route(
            "/users/{user_id}/application_credentials/{id}",
            get(show).delete(delete),
        )
        .route("/users/{user_id}/access_rules", get(list_access_rules))
        .route(
            "/users/{user_id}/access_rules/{id}",
            get(show_access_rule).delete(delete_access_rule),
        )
}

async fn create(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    Path(user_id): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    let mut input = Input::read(&CREATE, body, "application_credential")?;
    let new = NewCredential {
        name: input.text("name").unwrap_or_default(),
        description: input.text("description"),
        secret: input.text("secret"),
        expires: input.text("expires_at").map(|text| expiry(&text)).transpose()?,
        roles: names(input.take("roles"), role_name),
        unrestricted: input.flag("unrestricted").unwrap_or(false),
        access_rules: names(input.take("access_rules"), access_rule_name),
    };
    let (credential, secret) = rules::create(&identity, &caller, &user_id, new).await?;
    let view = View {
        secret: Some(secret),
        ..view(&identity.store, &info, &credential)
    };
    Ok(one(StatusCode::CREATED, "application_credential", &view))
}

/// A time, in UTC where it does not say.
pub(crate) fn read_time(text: &str) -> Option<Timestamp> {
    let civil = || Some(text.parse::<DateTime>().ok()?.to_zoned(TimeZone::UTC).ok()?.timestamp());
    text.parse::<Timestamp>().ok().or_else(civil)
}

/// A time as [`read_time`] reads it; and not one that is over.
pub(crate) fn expiry(text: &str) -> Result<Timestamp, Failure> {
    let bad = || {
        Failure::invalid(format!(
            "Expiration time {text} is not a time, such as 2030-01-31T12:00:00Z"
        ))
    };
    let end = read_time(text).ok_or_else(|| bad().at("expires_at"))?;
    if end <= Timestamp::now() {
        let message = "The 'expires_at' must not be before now. The server could not comply with the request since it is \
                       either malformed or otherwise incorrect. The client is assumed to be in error.";
        return Err(Failure::invalid(message).at("expires_at"));
    }
    Ok(end)
}

pub(crate) fn names<T>(list: Option<Value>, read: fn(&Value) -> T) -> Vec<T> {
    list.as_ref()
        .and_then(Value::as_array)
        .map(|list| list.iter().map(read).collect())
        .unwrap_or_default()
}

pub(crate) fn role_name(value: &Value) -> RoleName {
    let text = |name: &str| value[name].as_str().map(str::to_owned);
    text("id").map_or_else(|| RoleName::Name(text("name").unwrap_or_default()), RoleName::Id)
}

fn access_rule_name(value: &Value) -> AccessRuleName {
    let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
    match value["id"].as_str() {
        Some(id) => AccessRuleName::Id(id.to_owned()),
        None => AccessRuleName::Rule {
            service: text("service"),
            method: text("method"),
            path: text("path"),
        },
    }
}

async fn show(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    Path((user_id, id)): Path<(String, String)>,
) -> Result<Response, Failure> {
    let credential = rules::find(&identity, &caller, "identity:get_application_credential", &user_id, &id)?;
    Ok(one(
        StatusCode::OK,
        "application_credential",
        &view(&identity.store, &info, &credential),
    ))
}

async fn list(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    query: Query,
    Path(user_id): Path<String>,
) -> Result<Response, Failure> {
    let target = [("user_id", user_id.as_str()), ("target.user.id", user_id.as_str())];
    caller.enforce("identity:list_application_credentials", &target)?;
    let mut credentials = identity.store.cache::<ApplicationCredential>().by("user", &user_id);
    credentials.retain(|credential| passes(&query, "name", &credential.spec.name));
    credentials.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
    let views = credentials
        .iter()
        .map(|credential| view(&identity.store, &info, credential))
        .collect();
    many(&info, &query, "application_credentials", views)
}

async fn delete(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    Path((user_id, id)): Path<(String, String)>,
) -> Result<Response, Failure> {
    rules::delete(&identity, &caller, &user_id, &id).await?;
    Ok(no_content())
}

async fn list_access_rules(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    query: Query,
    Path(user_id): Path<String>,
) -> Result<Response, Failure> {
    caller.enforce("identity:list_access_rules", &[("target.user.id", &user_id)])?;
    let mut found = identity.store.cache::<AccessRule>().by("user", &user_id);
    found.retain(|rule| {
        passes(&query, "service", &rule.spec.service)
            && passes(&query, "method", &rule.spec.method)
            && passes(&query, "path", &rule.spec.path)
    });
    found.sort_by(|a, b| a.name().cmp(b.name()));
    let collection = format!("users/{user_id}/access_rules");
    let views = found
        .iter()
        .map(|rule| access_rule_view(rule, Some(links(&info, &collection, rule.name()))));
    many(&info, &query, "access_rules", views.collect())
}

async fn show_access_rule(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    Path((user_id, id)): Path<(String, String)>,
) -> Result<Response, Failure> {
    let rule = rules::find_access_rule(&identity, &caller, "identity:get_access_rule", &user_id, &id)?;
    let links = links(&info, &format!("users/{user_id}/access_rules"), &id);
    Ok(one(
        StatusCode::OK,
        "access_rule",
        &access_rule_view(&rule, Some(links)),
    ))
}

async fn delete_access_rule(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    Path((user_id, id)): Path<(String, String)>,
) -> Result<Response, Failure> {
    rules::delete_access_rule(&identity, &caller, &user_id, &id).await?;
    Ok(no_content())
}
