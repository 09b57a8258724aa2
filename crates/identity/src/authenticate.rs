//! The layer that turns `X-Auth-Token` into a [`Caller`], in front of every face.

use std::sync::Arc;

use axum::{
    Router,
    extract::{FromRequestParts, Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use http::{HeaderName, HeaderValue, StatusCode, header};
use madang_http::{Failure, RequestInfo};
use tracing::debug;

use crate::{
    Caller, Identity, application_credential::rules::may_be_used, auth::unauthenticated, token::validate::Void,
};

pub(crate) const AUTH_TOKEN: HeaderName = HeaderName::from_static("x-auth-token");

struct Guard {
    identity: Arc<Identity>,
    /// What access rules of application credentials call the service: `compute`.
    service_type: &'static str,
    /// Whether requests without a valid token end here.
    strict: bool,
}

/// The router behind authentication: requests without a valid token get 401, handlers can take a [`Caller`]. Goes
/// inside of the face. Version documents and the like, which everybody may read, are merged in outside of it.
/// `service_type` is what the catalog calls the service.
pub fn authenticate(identity: &Arc<Identity>, service_type: &'static str, router: Router) -> Router {
    guard(identity, service_type, router, true)
}

/// As [`authenticate`], for Keystone itself: requests without a token pass, and handlers that take a [`Caller`] refuse
/// them.
pub(crate) fn recognize(identity: &Arc<Identity>, router: Router) -> Router {
    guard(identity, "identity", router, false)
}

fn guard(identity: &Arc<Identity>, service_type: &'static str, router: Router, strict: bool) -> Router {
    let guard = Arc::new(Guard {
        identity: Arc::clone(identity),
        service_type,
        strict,
    });
    router.layer(middleware::from_fn_with_state(guard, pass))
}

async fn pass(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let Ok(info) = RequestInfo::from_request_parts(&mut parts, &()).await;
    let token = parts.headers.get(&AUTH_TOKEN).and_then(|token| token.to_str().ok());
    let caller = token.map(|token| guard.identity.validate(token));
    let mut response = match caller {
        Some(Ok(validated)) => {
            let path = info.path().strip_prefix(info.mount()).unwrap_or(info.path());
            if !may_be_used(
                &guard.identity.store,
                &validated.claims,
                guard.service_type,
                &parts.method,
                path,
            ) {
                debug!(
                    request = info.id(),
                    "the application credential's access rules do not allow this"
                );
                unauthenticated().into_response()
            } else {
                info.set_subject(validated.log.clone());
                info.set_actor(Arc::clone(&validated.actor));
                let policy = Arc::clone(&guard.identity.policy);
                parts
                    .extensions
                    .insert(Caller::new(Arc::clone(&validated.subject), policy, info.id()));
                next.run(Request::from_parts(parts, body)).await
            }
        }
        refused => {
            if let Some(Err(void)) = refused {
                debug!(request = info.id(), why = %void, "token not taken");
            }
            if guard.strict {
                unauthenticated().into_response()
            } else {
                next.run(Request::from_parts(parts, body)).await
            }
        }
    };
    if response.status() == StatusCode::UNAUTHORIZED {
        say_where_to_authenticate(&info, &mut response);
    }
    response
}

/// As keystonemiddleware does.
fn say_where_to_authenticate(info: &RequestInfo, response: &mut Response) {
    let value = format!("Keystone uri=\"{}/identity\"", info.origin());
    if let Ok(value) = HeaderValue::try_from(value) {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, value);
    }
}

/// What a token that does not hold is answered with where it is asked about.
pub(crate) fn no_such_token(void: Void) -> Failure {
    debug!(why = %void, "token asked about does not hold");
    Failure::not_found("Failed to validate token")
}
