//! `/v3/OS-OAUTH1`, and the access tokens of a user.

use std::sync::{Arc, LazyLock};

use axum::{
    Router,
    extract::{Path, State},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use http::{HeaderMap, Method, StatusCode, header};
use jiff::Timestamp;
use madang_http::{Failure, Json, Query, RequestInfo, json};
use madang_store::Resource;
use serde::Serialize;
use serde_json::{Map, Value, json as value};

use super::{AccessToken, Consumer, ConsumerSpec, rules, signature::Signed};
use crate::{
    Caller, Identity,
    api::{
        Links, Listed,
        collection::{self, Collection, Schemas},
        input::{Input, schemas},
        links, many, merge, no_content, not_found, one,
    },
    application_credential::api::{names, role_name},
    auth::render::time,
    role::Role,
};

static SCHEMAS: LazyLock<Schemas> = LazyLock::new(|| {
    let properties = value!({ "description": { "type": ["string", "null"] } });
    let mut schemas = schemas("consumer", properties, &[]);
    let changeable = value!({ "description": { "type": ["string", "null"] }, "secret": { "not": {} } });
    schemas.update = crate::api::input::resource_schema("consumer", changeable, &[]);
    schemas
});

/// The header that says for which project a consumer asks.
const PROJECT: &str = "requested-project-id";

pub(crate) fn routes() -> Router<Arc<Identity>> {
    let tokens = "/users/{user_id}/OS-OAUTH1/access_tokens";
    collection::routes::<Consumer>("/OS-OAUTH1/consumers")
        .route("/OS-OAUTH1/request_token", post(request_token))
        .route("/OS-OAUTH1/authorize/{id}", put(authorize))
        .route("/OS-OAUTH1/access_token", post(access_token))
        .route(tokens, get(list))
        .route(&format!("{tokens}/{{id}}"), get(show).delete(delete))
        .route(&format!("{tokens}/{{id}}/roles"), get(roles))
        .route(&format!("{tokens}/{{id}}/roles/{{role_id}}"), get(show_role))
}

/// A consumer as Keystone shows it; with its secret only once, to who makes it.
#[derive(Serialize)]
pub(crate) struct View {
    id: String,
    description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
    #[serde(flatten)]
    extra: Map<String, Value>,
    links: Links,
}

impl Listed for View {
    fn id(&self) -> &str {
        &self.id
    }
}

impl Collection for Consumer {
    const ONE: &'static str = "consumer";
    const MANY: &'static str = "consumers";
    type View = View;

    fn view(_: &Identity, info: &RequestInfo, consumer: &Resource<Self>) -> View {
        View {
            id: consumer.name().to_owned(),
            description: consumer.spec.description.clone(),
            secret: None,
            extra: consumer.spec.extra.clone(),
            links: links(info, "OS-OAUTH1/consumers", consumer.name()),
        }
    }

    fn new_view(identity: &Identity, info: &RequestInfo, consumer: &Resource<Self>) -> View {
        View {
            secret: Some(consumer.spec.secret.clone()),
            ..Self::view(identity, info, consumer)
        }
    }

    fn schemas() -> &'static Schemas {
        &SCHEMAS
    }

    fn spec(mut input: Input) -> Result<(Option<String>, ConsumerSpec), Failure> {
        input.take("secret");
        let spec = ConsumerSpec {
            description: input.text("description"),
            secret: rules::secret(),
            extra: input.rest(),
        };
        Ok((None, spec))
    }

    fn apply(spec: &mut ConsumerSpec, mut input: Input) {
        input.set_nullable("description", &mut spec.description);
        merge(&mut spec.extra, &input.rest());
    }
}

/// `oauth_token=…&oauth_token_secret=…&oauth_expires_at=…`.
fn form(id: &str, secret: &str, expires: Timestamp) -> Response {
    let body = format!(
        "oauth_token={id}&oauth_token_secret={secret}&oauth_expires_at={}",
        time(expires)
    );
    let kind = [(header::CONTENT_TYPE, "application/x-www-form-urlencoded")];
    (StatusCode::CREATED, kind, body).into_response()
}

async fn request_token(
    State(identity): State<Arc<Identity>>,
    info: RequestInfo,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let project_id = headers.get(PROJECT).and_then(|id| id.to_str().ok());
    let signed = Signed::read(&info, &method, &headers);
    let token = rules::request(&identity, signed, project_id).await?;
    Ok(form(token.name(), &token.spec.secret, token.spec.expires))
}

async fn access_token(
    State(identity): State<Arc<Identity>>,
    info: RequestInfo,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let token = rules::exchange(&identity, Signed::read(&info, &method, &headers)).await?;
    Ok(form(token.name(), &token.spec.secret, token.spec.expires))
}

async fn authorize(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    Path(id): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    let roles = body["roles"].as_array().filter(|roles| !roles.is_empty());
    let roles = roles.ok_or_else(|| rules::expecting("roles"))?;
    let names = names(Some(value!(roles)), role_name);
    let verifier = rules::authorize(&identity, &caller, &id, &names).await?;
    Ok(json(
        StatusCode::OK,
        &value!({ "token": { "oauth_verifier": verifier } }),
    ))
}

/// An access token as Keystone shows it.
#[derive(Serialize)]
struct AccessView {
    id: String,
    consumer_id: String,
    project_id: String,
    authorizing_user_id: String,
    expires_at: String,
    links: Value,
}

impl Listed for AccessView {
    fn id(&self) -> &str {
        &self.id
    }
}

fn access_view(info: &RequestInfo, access: &Resource<AccessToken>) -> AccessView {
    let spec = &access.spec;
    let itself = format!(
        "{}/v3/users/{}/OS-OAUTH1/access_tokens/{}",
        info.base_url(),
        spec.user_id,
        access.name()
    );
    AccessView {
        id: access.name().to_owned(),
        consumer_id: spec.consumer_id.clone(),
        project_id: spec.project_id.clone(),
        authorizing_user_id: spec.user_id.clone(),
        expires_at: time(spec.expires),
        links: value!({ "roles": format!("{itself}/roles"), "self": itself }),
    }
}

async fn list(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    query: Query,
    Path(user_id): Path<String>,
) -> Result<Response, Failure> {
    caller.enforce("identity:list_access_tokens", &[("user_id", &user_id)])?;
    caller.check_not_delegated()?;
    let mut found = identity.store.cache::<AccessToken>().by("user", &user_id);
    found.sort_by(|a, b| a.name().cmp(b.name()));
    let views = found.iter().map(|access| access_view(&info, access)).collect();
    many(&info, &query, "access_tokens", views)
}

async fn show(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    Path((user_id, id)): Path<(String, String)>,
) -> Result<Response, Failure> {
    let access = rules::find(&identity, &caller, "identity:get_access_token", &user_id, &id)?;
    Ok(one(StatusCode::OK, "access_token", &access_view(&info, &access)))
}

async fn delete(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    Path((user_id, id)): Path<(String, String)>,
) -> Result<Response, Failure> {
    rules::end(&identity, &caller, &user_id, &id).await?;
    Ok(no_content())
}

async fn roles(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    query: Query,
    Path((user_id, id)): Path<(String, String)>,
) -> Result<Response, Failure> {
    let access = rules::find(&identity, &caller, "identity:list_access_token_roles", &user_id, &id)?;
    let roles = access.spec.role_ids.iter();
    let roles = roles.filter_map(|id| identity.store.get::<Role>(&Role::key(id)));
    collection::respond(&identity, &info, &query, roles.collect())
}

async fn show_role(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    Path((user_id, id, role_id)): Path<(String, String, String)>,
) -> Result<Response, Failure> {
    let access = rules::find(&identity, &caller, "identity:get_access_token_role", &user_id, &id)?;
    let role = identity.store.get::<Role>(&Role::key(&role_id));
    let role = role.filter(|_| access.spec.role_ids.contains(&role_id));
    let role = role.ok_or_else(|| not_found("role", &role_id))?;
    Ok(one(StatusCode::OK, "role", &Role::view(&identity, &info, &role)))
}
