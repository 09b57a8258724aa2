//! `/v3/auth`: tokens, and what a token could be for.

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::State,
    response::Response,
    routing::{get, post},
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use jiff::SignedDuration;
use madang_http::{Failure, Json, Query, RequestInfo, json};
use serde_json::{Value, json as value};

use super::{Outcome, receipt::Receipt, request};
use crate::{
    Caller, Identity, Scope,
    api::no_content,
    assignment::{On, effective},
    authenticate::no_such_token,
    catalog::render::catalog,
    oauth1::signature::Signed,
    project,
    token::{revocation, validate::Validated},
};

pub(crate) const SUBJECT_TOKEN: HeaderName = HeaderName::from_static("x-subject-token");

const RECEIPT: HeaderName = HeaderName::from_static("openstack-auth-receipt");

pub(crate) fn routes() -> Router<Arc<Identity>> {
    Router::new()
        .route("/auth/tokens", post(create).get(validate).delete(revoke))
        .route("/auth/projects", get(projects))
        .route("/auth/domains", get(domains))
        .route("/auth/catalog", get(show_catalog))
        .route("/auth/system", get(system))
}

async fn create(
    State(identity): State<Arc<Identity>>,
    info: RequestInfo,
    method: Method,
    query: Query,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    info.set_action("authenticate");
    let signed = Signed::read(&info, &method, &headers);
    let login = request::read(&body, signed.as_ref())?;
    if let Some(who) = login.claimed() {
        info.set_claimed(who);
    }
    let receipt = headers.get(&RECEIPT).and_then(|receipt| receipt.to_str().ok());
    let (token, validated) = match identity.login_or_receipt(login, receipt).await? {
        Outcome::Token(token, validated) => (token, validated),
        Outcome::Receipt(receipt) => return Ok(with_receipt(&receipt)),
    };
    info.set_subject(validated.log.clone());
    info.set_actor(Arc::clone(&validated.actor));
    Ok(answer(&identity, &query, StatusCode::CREATED, &token, &validated))
}

/// 401, saying what is proved and what is not.
fn with_receipt(receipt: &Receipt) -> Response {
    let mut response = json(StatusCode::UNAUTHORIZED, &receipt.body);
    if let Ok(mut value) = HeaderValue::from_str(&receipt.sealed) {
        value.set_sensitive(true);
        response.headers_mut().insert(RECEIPT, value);
    }
    response
}

/// A token, as Keystone answers it.
pub(crate) fn answer(
    identity: &Identity,
    query: &Query,
    status: StatusCode,
    token: &str,
    validated: &Validated,
) -> Response {
    let mut response = Response::new(Body::from(validated.body(identity, !query.has("nocatalog"))));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::VARY, HeaderValue::from_static("X-Auth-Token"));
    if let Ok(mut value) = HeaderValue::from_str(token) {
        value.set_sensitive(true);
        headers.insert(SUBJECT_TOKEN, value);
    }
    response
}

/// The token that a request is about.
fn subject_token(headers: &HeaderMap) -> Result<&str, Failure> {
    let token = headers.get(&SUBJECT_TOKEN).and_then(|token| token.to_str().ok());
    token.ok_or_else(|| Failure::not_found("No token in the request"))
}

async fn validate(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    method: Method,
    query: Query,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let token = subject_token(&headers)?;
    let validated = if query.switch("allow_expired") {
        identity.validate_allowing_expired(token)
    } else {
        identity.validate(token)
    };
    let validated = validated.map_err(no_such_token)?;
    let rule = if method == Method::HEAD {
        "identity:check_token"
    } else {
        "identity:validate_token"
    };
    caller.enforce(rule, &[("target.token.user_id", &validated.subject.user.id)])?;
    Ok(answer(&identity, &query, StatusCode::OK, token, &validated))
}

async fn revoke(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let validated = identity.validate(subject_token(&headers)?).map_err(no_such_token)?;
    caller.enforce(
        "identity:revoke_token",
        &[("target.token.user_id", &validated.subject.user.id)],
    )?;
    // As long as somebody could still show it, also with `allow_expired`.
    let until = validated.claims.expires + identity.options.expired_window + SignedDuration::from_mins(1);
    revocation::revoke(&identity.store, caller.cause(), validated.claims.audit, until).await?;
    Ok(no_content())
}

pub(crate) async fn projects(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    query: Query,
) -> Result<Response, Failure> {
    caller.enforce("identity:get_auth_projects", &[])?;
    let own = effective::projects_of(&identity.store, &*caller.subject);
    project::api::respond_own(&info, &query, own)
}

pub(crate) async fn domains(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    query: Query,
) -> Result<Response, Failure> {
    caller.enforce("identity:get_auth_domains", &[])?;
    let mut own = effective::domains_of(&identity.store, &*caller.subject);
    own.retain(|domain| domain.spec.enabled && project::domains::passes_filters(&query, domain));
    project::domains::respond(&info, &query, own)
}

async fn show_catalog(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
) -> Result<Response, Failure> {
    caller.enforce("identity:get_auth_catalog", &[])?;
    if caller.subject.scope == Scope::Unscoped {
        return Err(Failure::forbidden(
            "A project-scoped token is required to produce a service catalog.",
        ));
    }
    let catalog = catalog(&identity.store, &caller.subject.user.id, caller.subject.project_id());
    Ok(json(
        StatusCode::OK,
        &value!({ "catalog": catalog, "links": { "self": info.url() } }),
    ))
}

async fn system(State(identity): State<Arc<Identity>>, caller: Caller, info: RequestInfo) -> Result<Response, Failure> {
    caller.enforce("identity:get_auth_system", &[])?;
    let has_role = !effective::roles(&identity.store, &*caller.subject, &On::System).is_empty();
    let system = if has_role {
        vec![value!({ "all": true })]
    } else {
        Vec::new()
    };
    Ok(json(
        StatusCode::OK,
        &value!({ "system": system, "links": { "self": info.url() } }),
    ))
}
