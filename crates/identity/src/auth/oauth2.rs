//! `/v3/OS-OAUTH2/token`: tokens for clients of OAuth 2.0 (RFC 6749, section 4.4). The client is an application credential;
//! the token is one of ours, and services take it as `Authorization: Bearer`, too.

use std::sync::Arc;

use axum::{Router, body::Bytes, extract::State, response::Response, routing::post};
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, StatusCode, header};
use madang_http::{Query, RequestInfo, json};
use madang_store::ErrorKind;
use serde_json::json as value;

use super::{CredentialRef, Login, Proof, ScopeRequest};
use crate::Identity;

pub(crate) fn routes() -> Router<Arc<Identity>> {
    Router::new().route("/OS-OAUTH2/token", post(token).fallback(not_allowed))
}

/// An answer as RFC 6749 wants failures.
fn refused(status: StatusCode, error: &str, description: &str) -> Response {
    json(status, &value!({ "error": error, "error_description": description }))
}

async fn not_allowed() -> Response {
    let description = "The method is not allowed for the requested URL.";
    refused(StatusCode::METHOD_NOT_ALLOWED, "other_error", description)
}

async fn token(State(identity): State<Arc<Identity>>, info: RequestInfo, headers: HeaderMap, body: Bytes) -> Response {
    info.set_action("authenticate");
    let form = Query::parse(std::str::from_utf8(&body).unwrap_or_default());
    match form.get("grant_type") {
        Some("client_credentials") => {}
        Some(other) => {
            let description = format!("The parameter grant_type {other} is not supported.");
            return refused(StatusCode::BAD_REQUEST, "unsupported_grant_type", &description);
        }
        None => {
            let description = "The parameter grant_type is required.";
            return refused(StatusCode::BAD_REQUEST, "invalid_request", description);
        }
    }
    let unknown = || {
        refused(
            StatusCode::UNAUTHORIZED,
            "invalid_client",
            "Client authentication failed.",
        )
    };
    let in_form = || Some((form.get("client_id")?.to_owned(), form.get("client_secret")?.to_owned()));
    let Some((id, secret)) = basic(&headers).or_else(in_form) else {
        return unknown();
    };
    if id.is_empty() || secret.is_empty() {
        return unknown();
    }
    info.set_claimed(format!("application credential {id}"));
    let proof = Proof::ApplicationCredential {
        credential: CredentialRef::Id(id),
        secret,
    };
    let login = Login {
        proofs: vec![proof],
        scope: ScopeRequest::Default,
    };
    match identity.login(login).await {
        Ok((token, validated)) => {
            info.set_subject(validated.log.clone());
            info.set_actor(Arc::clone(&validated.actor));
            let seconds = identity.options.token_lifetime.as_secs();
            let body = value!({ "access_token": token, "token_type": "Bearer", "expires_in": seconds });
            json(StatusCode::OK, &body)
        }
        Err(failure) if failure.kind == ErrorKind::Unauthenticated => {
            refused(StatusCode::UNAUTHORIZED, "invalid_client", &failure.message)
        }
        Err(_) => {
            let description = "An unknown error occurred and failed to get an OAuth2.0 access token.";
            refused(StatusCode::INTERNAL_SERVER_ERROR, "other_error", description)
        }
    }
}

/// The id and the secret in the header (RFC 7617).
fn basic(headers: &HeaderMap) -> Option<(String, String)> {
    let header = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, text) = header.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(text.trim()).ok()?).ok()?;
    let (id, secret) = decoded.split_once(':')?;
    Some((id.to_owned(), secret.to_owned()))
}
