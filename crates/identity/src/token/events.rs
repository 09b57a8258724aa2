//! `/v3/OS-REVOKE/events`: which tokens were ended before their time; and the lists of the days when tokens were signed
//! certificates, which are gone as in Keystone.

use std::sync::Arc;

use axum::{Router, extract::State, response::Response, routing::get};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::StatusCode;
use jiff::Timestamp;
use madang_http::{Failure, Query, RequestInfo, json};
use serde_json::{Value, json as value};
use uuid::Uuid;

use super::revocation::Revocation;
use crate::{
    Caller, Identity, application_credential::api::read_time, auth::render::time, project::Project, user::User,
};

pub(crate) fn routes() -> Router<Arc<Identity>> {
    Router::new()
        .route("/OS-REVOKE/events", get(events))
        .route("/auth/tokens/OS-PKI/revoked", get(no_list))
        .route("/OS-SIMPLE-CERT/ca", get(no_certificates))
        .route("/OS-SIMPLE-CERT/certificates", get(no_certificates))
}

async fn events(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    query: Query,
) -> Result<Response, Failure> {
    caller.enforce("identity:list_revoke_events", &[])?;
    let since = query.get("since").filter(|since| !since.is_empty());
    let since = since.map(|text| {
        read_time(text).ok_or_else(|| Failure::invalid(format!("invalidate date format {text}")).at("since"))
    });
    let found = all(&identity, Timestamp::now(), since.transpose()?);
    let itself = format!("{}/v3/OS-REVOKE/events", info.base_url());
    let links = value!({ "self": itself, "next": null, "previous": null });
    Ok(json(StatusCode::OK, &value!({ "events": found, "links": links })))
}

/// What still matters, oldest first: a token that is over anyway has no event.
fn all(identity: &Identity, now: Timestamp, since: Option<Timestamp>) -> Vec<Value> {
    let store = &identity.store;
    let mut found: Vec<(Timestamp, Value)> = Vec::new();
    for revocation in store.cache::<Revocation>().all() {
        let Ok(audit) = Uuid::try_parse(revocation.name()) else {
            continue;
        };
        found.push((
            revocation.spec.revoked,
            value!({ "audit_id": URL_SAFE_NO_PAD.encode(audit.as_bytes()) }),
        ));
    }
    for user in store.cache::<User>().all() {
        if let Some(until) = user.spec.tokens_void_until {
            found.push((until, value!({ "user_id": user.name() })));
        }
    }
    for project in store.cache::<Project>().all() {
        if let Some(until) = project.spec.tokens_void_until {
            let of = if project.spec.is_domain {
                "domain_id"
            } else {
                "project_id"
            };
            found.push((until, value!({ of: project.name() })));
        }
    }
    let keep = identity.options.keep_keys();
    found.retain(|(at, _)| now.duration_since(*at) <= keep && since.is_none_or(|since| *at > since));
    found.sort_by_key(|(at, _)| *at);
    let finished = found.into_iter().map(|(at, mut event)| {
        event["issued_before"] = time(at).into();
        event["revoked_at"] = time(at).into();
        event
    });
    finished.collect()
}

async fn no_list() -> Failure {
    Failure::forbidden("You are not authorized to perform the requested action.")
}

async fn no_certificates() -> Failure {
    let message = "This API is no longer available due to the removal of support for PKI tokens.";
    Failure::not_found(message).with_status(StatusCode::GONE)
}
