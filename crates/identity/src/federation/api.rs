//! Federated logins: `/v3/OS-FEDERATION/identity_providers/…/auth`, browsers, and what is not offered.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Path, State},
    response::Response,
    routing::get,
};
use http::{HeaderMap, StatusCode, header};
use madang_http::{Failure, Query, RequestInfo};
use tracing::{info, warn};

use super::{
    Protocol,
    login::enabled_provider,
    oidc::{Claims, Provider, Refusal},
    protocol::no_such_protocol,
    websso,
};
use crate::{
    Identity,
    auth::{self, Login, Proof, ScopeRequest, unauthenticated},
    token::validate::Validated,
};

pub(crate) fn routes() -> Router<Arc<Identity>> {
    let protocol = "identity_providers/{provider_id}/protocols/{protocol_id}";
    Router::new()
        .merge(super::provider::routes())
        .merge(super::protocol::routes())
        .merge(super::mapping::routes())
        .merge(super::service_provider::routes())
        .route(
            &format!("/OS-FEDERATION/{protocol}/auth"),
            get(authenticate).post(authenticate),
        )
        .route(
            "/auth/OS-FEDERATION/websso/{protocol_id}",
            get(by_protocol).post(by_protocol),
        )
        .route(
            &format!("/auth/OS-FEDERATION/{protocol}/websso"),
            get(by_provider).post(by_provider),
        )
        .route(websso::RETURN_PATH, get(come_back))
        .route("/OS-FEDERATION/projects", get(auth::api::projects))
        .route("/OS-FEDERATION/domains", get(auth::api::domains))
        .route("/OS-FEDERATION/saml2/metadata", get(no_saml))
        .route("/auth/OS-FEDERATION/saml2", axum::routing::post(no_saml))
        .route("/auth/OS-FEDERATION/saml2/ecp", axum::routing::post(no_saml))
}

/// A provider that can be spoken to, by a protocol that it has.
///
/// # Errors
/// 404 for a provider or protocol that is not there, 403 for a disabled provider, 401 where the configuration does not say
/// how to speak to it.
pub(super) fn settled<'i>(
    identity: &'i Identity,
    provider_id: &str,
    protocol_id: &str,
) -> Result<&'i Provider, Failure> {
    enabled_provider(identity, provider_id)?;
    let protocol = identity.store.get::<Protocol>(&Protocol::key(provider_id, protocol_id));
    protocol.ok_or_else(|| no_such_protocol(provider_id, protocol_id))?;
    identity.oidc.get(provider_id).ok_or_else(|| {
        warn!(
            provider = provider_id,
            "a login by an identity provider that the configuration does not name: \
             [identity.federation.providers.{provider_id}] is missing"
        );
        unauthenticated()
    })
}

/// What a refusal is answered with; the reason is for the log.
pub(super) fn refused(provider_id: &str, refusal: &Refusal) -> Failure {
    match refusal {
        Refusal::Token(_) => {
            info!(provider = provider_id, why = %refusal, "no token given");
            unauthenticated()
        }
        Refusal::Provider(_) => {
            warn!(provider = provider_id, why = %refusal, "an identity provider cannot be asked");
            Failure::unavailable(format!("Identity Provider {provider_id} does not answer as it should"))
        }
    }
}

async fn authenticate(
    State(identity): State<Arc<Identity>>,
    info: RequestInfo,
    query: Query,
    headers: HeaderMap,
    Path((provider_id, protocol_id)): Path<(String, String)>,
) -> Result<Response, Failure> {
    info.set_action("authenticate");
    info.set_claimed(format!("user of {provider_id}"));
    let provider = settled(&identity, &provider_id, &protocol_id)?;
    let bearer = bearer(&headers).ok_or_else(unauthenticated)?;
    let claims = provider.ask(bearer).await;
    let claims = claims.map_err(|refusal| refused(&provider_id, &refusal))?;
    let (token, validated) = log_in(&identity, &info, provider, (&provider_id, &protocol_id), &claims).await?;
    Ok(auth::api::answer(
        &identity,
        &query,
        StatusCode::CREATED,
        &token,
        &validated,
    ))
}

/// `Authorization: Bearer …`.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim())
        .filter(|token| !token.is_empty())
}

async fn log_in(
    identity: &Identity,
    info: &RequestInfo,
    provider: &Provider,
    (provider_id, protocol_id): (&str, &str),
    claims: &Claims,
) -> Result<(String, Arc<Validated>), Failure> {
    let proof = Proof::Assertion {
        provider_id: provider_id.to_owned(),
        protocol_id: protocol_id.to_owned(),
        assertion: provider.settings.assertion(claims),
    };
    let login = Login {
        proofs: vec![proof],
        scope: ScopeRequest::Default,
    };
    let (token, validated) = identity.login(login).await?;
    info.set_subject(validated.log.clone());
    info.set_actor(Arc::clone(&validated.actor));
    Ok((token, validated))
}

async fn by_protocol(
    State(identity): State<Arc<Identity>>,
    info: RequestInfo,
    query: Query,
    Path(protocol_id): Path<String>,
) -> Result<Response, Failure> {
    let origin = websso::origin(&identity, &query)?;
    let provider_id = websso::only_provider(&identity, &protocol_id)?;
    websso::depart(&identity, &info, &provider_id, &protocol_id, origin).await
}

async fn by_provider(
    State(identity): State<Arc<Identity>>,
    info: RequestInfo,
    query: Query,
    Path((provider_id, protocol_id)): Path<(String, String)>,
) -> Result<Response, Failure> {
    let origin = websso::origin(&identity, &query)?;
    websso::depart(&identity, &info, &provider_id, &protocol_id, origin).await
}

async fn come_back(
    State(identity): State<Arc<Identity>>,
    info: RequestInfo,
    query: Query,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    info.set_action("authenticate");
    let arrival = websso::arrive(&identity, &query, &headers).await?;
    let (provider_id, protocol_id) = (&arrival.provider_id, &arrival.protocol_id);
    let provider = settled(&identity, provider_id, protocol_id)?;
    let (token, _) = log_in(&identity, &info, provider, (provider_id, protocol_id), &arrival.claims).await?;
    Ok(websso::page(&arrival.origin, &token))
}

/// Keystone would speak SAML 2.0 here, to be an identity provider for other clouds.
async fn no_saml() -> Failure {
    Failure::invalid(
        "Keystone-to-Keystone federation is not offered: this cloud makes no SAML 2.0 assertions. Let both clouds trust \
         the same OpenID Connect provider instead.",
    )
    .because("NotImplemented")
    .with_status(StatusCode::NOT_IMPLEMENTED)
}
