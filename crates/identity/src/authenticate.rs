//! The layer that turns `X-Auth-Token` into a [`Caller`], in front of every face.

use std::sync::Arc;

use axum::{
    Router,
    extract::{FromRequestParts, Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use madang_http::{Failure, RequestInfo};
use tracing::debug;

use crate::{
    Caller, Identity,
    application_credential::rules::may_be_used,
    auth::unauthenticated,
    token::validate::{Validated, Void},
};

pub(crate) const AUTH_TOKEN: HeaderName = HeaderName::from_static("x-auth-token");
const SERVICE_TOKEN: HeaderName = HeaderName::from_static("x-service-token");
/// keystonemiddleware's `service_token_roles`.
const SERVICE_ROLE: &str = "service";

struct Guard {
    identity: Arc<Identity>,
    /// What access rules of application credentials call the service: `compute`.
    service_type: &'static str,
    /// Whether requests without a valid token end here.
    strict: bool,
}

impl Guard {
    /// What the request's token is worth; none where there is none.
    fn caller(&self, headers: &HeaderMap) -> Option<Result<Arc<Validated>, Void>> {
        let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
        let own = text(&AUTH_TOKEN);
        if !self.strict {
            return own.map(|token| self.identity.validate(token));
        }
        let bearer = || {
            let (scheme, token) = text(&header::AUTHORIZATION)?.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
        };
        let token = own.or_else(bearer)?;
        Some(match text(&SERVICE_TOKEN) {
            None => self.identity.validate(token),
            Some(service) => self.validate_for_service(service, token),
        })
    }

    /// A service that finishes somebody's work shows its own token beside, and the other may have expired meanwhile.
    fn validate_for_service(&self, service: &str, token: &str) -> Result<Arc<Validated>, Void> {
        let service = self.identity.validate(service)?;
        if !service.subject.roles.iter().any(|role| role.name == SERVICE_ROLE) {
            return Err(Void::NoRoles);
        }
        self.identity.validate_allowing_expired(token)
    }
}

/// The router behind authentication: requests without a valid token get 401, handlers can take a [`Caller`]. Goes
/// inside of the face. Version documents and the like, which everybody may read, are merged in outside of it.
/// `service_type` is what the catalog calls the service.
pub fn authenticate(identity: &Arc<Identity>, service_type: &'static str, router: Router) -> Router {
    guard(identity, service_type, router, true)
}

/// As [`authenticate`], for what has something for everybody: requests without a valid token pass, and handlers that take a
/// [`Caller`] refuse them.
pub fn recognize(identity: &Arc<Identity>, service_type: &'static str, router: Router) -> Router {
    guard(identity, service_type, router, false)
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
    let caller = guard.caller(&parts.headers);
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
