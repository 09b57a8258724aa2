//! Speaking to a provider: bounded answers, bounded patience, no detours.

use std::{net::IpAddr, path::Path, sync::Arc, time::Duration};

use http::header;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Client, RequestBuilder, redirect::Policy};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use serde_json::{Map, Value};

use super::{Claims, Refusal, Settings};

/// For a whole exchange. Somebody waits for it.
const TIME: Duration = Duration::from_secs(10);
/// To be connected.
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// Far above any document, set of keys or description of a user.
const MAX_BYTES: usize = 256 * 1024;
/// Whom Debian trusts.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// A client for one provider.
pub(super) struct Fetcher(Client);

impl Fetcher {
    pub(super) fn new(ca_file: Option<&Path>) -> Result<Self, String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots(ca_file)?)
            .with_no_client_auth();
        let client = Client::builder()
            .timeout(TIME)
            .connect_timeout(CONNECT_TIME)
            .redirect(Policy::none())
            .use_preconfigured_tls(tls)
            .build();
        client.map(Self).map_err(|error| error.to_string())
    }

    /// JSON at an address.
    pub(super) async fn get(&self, url: &str) -> Result<Map<String, Value>, Refusal> {
        self.object(url, self.0.get(url)).await
    }

    /// What the provider says of who has this access token.
    pub(super) async fn userinfo(&self, url: &str, token: &str) -> Result<Claims, Refusal> {
        self.object(url, self.0.get(url).bearer_auth(token)).await
    }

    /// What the provider says of this access token.
    pub(super) async fn introspect(&self, url: &str, settings: &Settings, token: &str) -> Result<Claims, Refusal> {
        let parameters = [("token", token), ("token_type_hint", "access_token")];
        self.token(url, settings, &parameters).await
    }

    /// Asks for something as the client that this cloud is.
    pub(super) async fn token(
        &self,
        url: &str,
        settings: &Settings,
        parameters: &[(&str, &str)],
    ) -> Result<Claims, Refusal> {
        let mut parameters = parameters.to_vec();
        let mut request = self
            .0
            .post(url)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        match &settings.client_secret {
            Some(secret) => request = request.basic_auth(encoded(&settings.client_id), Some(encoded(secret))),
            None => parameters.push(("client_id", &settings.client_id)),
        }
        self.object(url, request.body(form(&parameters))).await
    }

    async fn object(&self, url: &str, request: RequestBuilder) -> Result<Map<String, Value>, Refusal> {
        let wrong = |what: String| Refusal::Provider(format!("{url} {what}"));
        let request = request.header(header::ACCEPT, "application/json");
        let mut answer = request
            .send()
            .await
            .map_err(|error| wrong(format!("does not answer: {}", chain(&error))))?;
        let status = answer.status();
        // It understood, and does not take what the client brought.
        if matches!(status.as_u16(), 400 | 401 | 403) {
            return Err(Refusal::Token(format!("{url} answers {status}")));
        }
        if !status.is_success() {
            return Err(wrong(format!("answers {status}")));
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer
            .chunk()
            .await
            .map_err(|error| wrong(format!("stopped in the middle: {}", chain(&error))))?
        {
            if body.len() + chunk.len() > MAX_BYTES {
                return Err(wrong(format!("answers more than {MAX_BYTES} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        serde_json::from_slice(&body).map_err(|error| wrong(format!("does not answer a JSON object: {error}")))
    }
}

/// An error with what caused it; reqwest's own words stop before the reason.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let file = ca_file.unwrap_or(Path::new(SYSTEM_ROOTS));
    if ca_file.is_none() && !file.exists() {
        // Nobody is trusted then, which is said where it matters: at the first handshake.
        return Ok(roots);
    }
    let unreadable = |error| format!("could not read certificates of {}: {error}", file.display());
    for certificate in CertificateDer::pem_file_iter(file).map_err(unreadable)? {
        // The system's bundle may hold some that rustls does not take; the rest is still good.
        _ = roots.add(certificate.map_err(unreadable)?);
    }
    Ok(roots)
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// As forms and queries are written.
pub(super) fn form(parameters: &[(&str, &str)]) -> String {
    let pairs: Vec<String> = parameters
        .iter()
        .map(|(name, value)| format!("{name}={}", encoded(value)))
        .collect();
    pairs.join("&")
}

/// Whether a provider may be spoken to at an address: over TLS, or on this machine.
///
/// # Errors
/// Why not.
pub(super) fn check_url(url: &str) -> Result<(), String> {
    let parsed = reqwest::Url::parse(url).map_err(|error| format!("{url} is no address: {error}"))?;
    let host = parsed.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let is_here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    match parsed.scheme() {
        "https" if !host.is_empty() => Ok(()),
        "http" if is_here => Ok(()),
        _ => Err(format!("{url} has to be https://, or http:// on this machine")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_do_not_travel_in_the_clear() {
        for good in [
            "https://sso.example.org/realms/x",
            "http://127.0.0.1:9400",
            "http://[::1]:1/",
            "http://localhost",
        ] {
            check_url(good).unwrap();
        }
        for bad in ["http://sso.example.org", "ftp://localhost", "sso.example.org", ""] {
            assert!(check_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn forms_are_encoded() {
        assert_eq!(form(&[("a", "b c&d"), ("e", "ü")]), "a=b%20c%26d&e=%C3%BC");
    }
}
