//! Logging in with a browser: to the provider, back with a code, and on to the dashboard with a token.
//!
//! ```text
//! dashboard ─► websso?origin= ─► provider ─► OS-FEDERATION/oidc/redirect?code=&state= ─► page that posts the token to origin
//! ```
//! What a browser set out for is kept here under its `state`, for some minutes and one return; a cookie ties the return to
//! the browser that left, so that nobody can be made to finish another's login.

use std::time::Duration;

use axum::{body::Body, response::Response};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use madang_http::{Failure, Query, RequestInfo};
use moka::sync::Cache;
use rand::RngExt;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tracing::warn;

use super::{
    Protocol,
    api::{refused, settled},
    oidc::Claims,
};
use crate::{Identity, auth::unauthenticated};

/// How many logins may be under way.
const UNDER_WAY: u64 = 10_000;
/// How long somebody may take at the provider.
const TIME: Duration = Duration::from_secs(600);
/// The cookie that a browser brings back.
const COOKIE: &str = "madang-websso";
/// Where providers send browsers back to, below the API.
pub(super) const RETURN_PATH: &str = "/OS-FEDERATION/oidc/redirect";

/// Logins under way, by their `state`.
pub(crate) type Departures = Cache<String, Departure>;

/// What a browser set out for.
#[derive(Clone)]
pub(crate) struct Departure {
    provider_id: String,
    protocol_id: String,
    origin: String,
    redirect_uri: String,
    cookie: String,
    nonce: String,
    verifier: String,
}

pub(crate) fn departures() -> Departures {
    Cache::builder().max_capacity(UNDER_WAY).time_to_live(TIME).build()
}

/// Somebody who came back.
pub(super) struct Arrival {
    pub(super) provider_id: String,
    pub(super) protocol_id: String,
    pub(super) origin: String,
    pub(super) claims: Claims,
}

/// The dashboard that a token is for, when the operator trusts it.
///
/// # Errors
/// 400 where none is named, 401 for one that is not trusted.
pub(super) fn origin(identity: &Identity, query: &Query) -> Result<String, Failure> {
    let origin = query.get("origin").filter(|origin| !origin.is_empty());
    let origin = origin.ok_or_else(|| Failure::invalid("Request must have an origin query parameter").at("origin"))?;
    let trusted = &identity.options.federation.trusted_dashboards;
    if trusted.iter().any(|other| lower_host(other) == origin) {
        return Ok(origin.to_owned());
    }
    warn!(origin, "a login for a dashboard that is not trusted");
    Err(Failure::unauthenticated(format!(
        "{origin} is not a trusted dashboard host"
    )))
}

/// An address with its host in lower case, as browsers write it.
fn lower_host(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let end = rest.find('/').unwrap_or(rest.len());
    let (host, path) = rest.split_at(end);
    format!("{scheme}://{}{path}", host.to_lowercase())
}

/// The one provider that a protocol is of, among those that can be spoken to.
///
/// # Errors
/// 401 where there is none, or more than one.
pub(super) fn only_provider(identity: &Identity, protocol_id: &str) -> Result<String, Failure> {
    let mut found = identity.store.cache::<Protocol>().all();
    found
        .retain(|protocol| protocol.name() == protocol_id && identity.oidc.get(&protocol.metadata.namespace).is_some());
    match found.as_slice() {
        [one] => Ok(one.metadata.namespace.clone()),
        several => {
            let count = several.len();
            warn!(
                protocol = protocol_id,
                count, "a browser's login does not say by which provider"
            );
            Err(Failure::unauthenticated(format!(
                "{count} identity providers can be asked by protocol {protocol_id}; one is named with \
                 /v3/auth/OS-FEDERATION/identity_providers/ID/protocols/{protocol_id}/websso"
            )))
        }
    }
}

/// Sends a browser to the provider.
///
/// # Errors
/// 401 for a provider that is not configured, 503 where it does not answer.
pub(super) async fn depart(
    identity: &Identity,
    info: &RequestInfo,
    provider_id: &str,
    protocol_id: &str,
    origin: String,
) -> Result<Response, Failure> {
    let provider = settled(identity, provider_id, protocol_id)?;
    let own = identity.options.federation.public_url.clone();
    let base = own.unwrap_or_else(|| info.base_url());
    let departure = Departure {
        provider_id: provider_id.to_owned(),
        protocol_id: protocol_id.to_owned(),
        origin,
        redirect_uri: format!("{base}/v3{RETURN_PATH}"),
        cookie: secret(),
        nonce: secret(),
        verifier: secret(),
    };
    let state = secret();
    let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(&departure.verifier));
    let parameters = [
        ("redirect_uri", departure.redirect_uri.as_str()),
        ("state", &state),
        ("nonce", &departure.nonce),
        ("code_challenge", &challenge),
        ("code_challenge_method", "S256"),
    ];
    let url = provider.authorization_url(&parameters).await;
    let url = url.map_err(|refusal| refused(provider_id, &refusal))?;
    let secure = if departure.redirect_uri.starts_with("https:") {
        "; Secure"
    } else {
        ""
    };
    let cookie = format!(
        "{COOKIE}={}; Max-Age={}; Path=/; HttpOnly; SameSite=Lax{secure}",
        departure.cookie,
        TIME.as_secs()
    );
    identity.departures.insert(state, departure);
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::FOUND;
    let location =
        HeaderValue::try_from(url).map_err(|_| Failure::unavailable("the provider's address is no header"))?;
    response.headers_mut().insert(header::LOCATION, location);
    if let Ok(cookie) = HeaderValue::try_from(cookie) {
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    no_store(&mut response);
    Ok(response)
}

/// Takes a browser back.
///
/// # Errors
/// 401 for one that did not leave from here, or that the provider does not vouch for.
pub(super) async fn arrive(identity: &Identity, query: &Query, headers: &HeaderMap) -> Result<Arrival, Failure> {
    let state = query.get("state").unwrap_or_default();
    let departure = identity.departures.remove(state).filter(|departure| {
        let brought = cookie(headers).unwrap_or_default();
        bool::from(brought.as_bytes().ct_eq(departure.cookie.as_bytes()))
    });
    let departure = departure.ok_or_else(|| {
        Failure::unauthenticated("this login did not begin in this browser, or took too long: begin again")
    })?;
    if let Some(error) = query.get("error") {
        warn!(
            provider = departure.provider_id,
            error, "a provider does not let somebody in"
        );
        return Err(unauthenticated());
    }
    let code = query.get("code").unwrap_or_default();
    let provider = settled(identity, &departure.provider_id, &departure.protocol_id)?;
    let claims = provider.exchange(code, &departure.redirect_uri, &departure.verifier, &departure.nonce);
    let claims = claims
        .await
        .map_err(|refusal| refused(&departure.provider_id, &refusal))?;
    Ok(Arrival {
        provider_id: departure.provider_id,
        protocol_id: departure.protocol_id,
        origin: departure.origin,
        claims,
    })
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    let all = headers
        .get_all(header::COOKIE)
        .into_iter()
        .filter_map(|line| line.to_str().ok());
    all.flat_map(|line| line.split(';'))
        .find_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='))
}

/// A page that hands the token to the dashboard.
pub(super) fn page(origin: &str, token: &str) -> Response {
    let nonce = secret();
    let (origin, token) = (escaped(origin), escaped(token));
    let body = format!(
        "<!DOCTYPE html>\n<html>\n<head><meta charset=\"utf-8\"><title>Logging in</title></head>\n<body>\n\
         <form id=\"sso\" name=\"sso\" action=\"{origin}\" method=\"post\">\n\
         <input type=\"hidden\" name=\"token\" value=\"{token}\">\n\
         <noscript><button type=\"submit\">Continue</button></noscript>\n</form>\n\
         <script nonce=\"{nonce}\">document.getElementById(\"sso\").submit();</script>\n</body>\n</html>\n"
    );
    let mut response = Response::new(Body::from(body));
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/html; charset=utf-8"),
    );
    let policy = format!("default-src 'none'; script-src 'nonce-{nonce}'; base-uri 'none'; frame-ancestors 'none'");
    if let Ok(policy) = HeaderValue::try_from(policy) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    no_store(&mut response);
    response
}

fn no_store(response: &mut Response) {
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

/// 256 bits that nobody guesses.
fn secret() -> String {
    URL_SAFE_NO_PAD.encode(rand::rng().random::<[u8; 32]>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_compared_as_browsers_write_them() {
        assert_eq!(
            lower_host("https://Dash.Example.org/Auth/"),
            "https://dash.example.org/Auth/"
        );
        assert_eq!(lower_host("https://DASH"), "https://dash");
    }

    #[test]
    fn the_cookie_is_found_among_others() {
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, HeaderValue::from_static("a=b; madang-websso=x1; c=d"));
        assert_eq!(cookie(&headers), Some("x1"));
        headers.insert(header::COOKIE, HeaderValue::from_static("madang-websso2=x1"));
        assert_eq!(cookie(&headers), None);
    }

    #[test]
    fn nothing_gets_out_of_the_page() {
        let said = escaped("\"><script>'&");
        assert_eq!(said, "&quot;&gt;&lt;script&gt;&#39;&amp;");
    }
}
