//! OpenID Connect: asking a provider, or its signature, whom a token stands for.
//!
//! What a provider serves (its addresses and keys) is fetched when it is first needed and kept for an hour; a token of a
//! key that is not known asks for the keys anew, twice a minute at most. Whatever is fetched is bounded in size and time,
//! and only spoken of over TLS, but for a provider on this machine.

mod document;
mod fetch;
mod jwt;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use jsonwebtoken::Header;
use serde_json::{Map, Value};
use tokio::{sync::Semaphore, time::Instant};
use tracing::warn;

use super::mapping::engine::Assertion;
use document::Document;
use fetch::Fetcher;

/// How long what a provider serves is taken as it was.
const FRESH: Duration = Duration::from_secs(3600);
/// How long it is still used where the provider does not answer.
const STALE: Duration = Duration::from_secs(24 * 3600);
/// How long to wait until keys that were just fetched are fetched again.
const PATIENCE: Duration = Duration::from_secs(30);
/// Far above any token that people use.
const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// What a provider says of somebody.
pub(crate) type Claims = Map<String, Value>;

/// How to speak to a provider.
#[derive(Clone)]
pub struct Settings {
    /// Its issuer, exactly as its tokens have it.
    pub issuer: String,
    /// Its discovery document; none for where the standard has it, below the issuer.
    pub discovery_url: Option<String>,
    /// What it knows this cloud as.
    pub client_id: String,
    /// What this cloud proves that with; none for a public client, which can neither ask about tokens nor be a browser's.
    pub client_secret: Option<String>,
    /// Whom tokens may be for, beside the client.
    pub audiences: Vec<String>,
    /// What claims are called in mappings: this, then their name.
    pub claim_prefix: String,
    /// Whether what it says of users at its userinfo endpoint counts as well. Tokens that cannot be read are then taken
    /// without knowing whom they were made for.
    pub userinfo: bool,
    /// What browsers ask it for.
    pub scope: String,
    /// Whom to trust for its certificate, in PEM; none for whom the system trusts.
    pub ca_file: Option<PathBuf>,
}

impl std::fmt::Debug for Settings {
    /// Without the secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} as {}", self.issuer, self.client_id)
    }
}

impl Settings {
    /// The usual ones for an issuer and a client.
    pub fn new(issuer: impl Into<String>, client_id: impl Into<String>) -> Self {
        Self {
            issuer: issuer.into(),
            discovery_url: None,
            client_id: client_id.into(),
            client_secret: None,
            audiences: Vec::new(),
            claim_prefix: "OIDC-".to_owned(),
            userinfo: false,
            scope: "openid email profile".to_owned(),
            ca_file: None,
        }
    }

    /// Whether all addresses can be used.
    ///
    /// # Errors
    /// Which cannot, and why.
    pub fn check(&self) -> Result<(), String> {
        fetch::check_url(&self.issuer)?;
        self.discovery_url.as_deref().map_or(Ok(()), fetch::check_url)
    }

    /// Claims as mappings have them: `OIDC-email` and, as a web server hands headers on, `HTTP_OIDC_EMAIL`.
    pub(crate) fn assertion(&self, claims: &Claims) -> Assertion {
        let mut assertion = Assertion::new();
        // Those whose own name is the plain one come first: `ISS` is not `iss`.
        let (plain, other): (Vec<_>, Vec<_>) = claims
            .iter()
            .partition(|(name, _)| name.chars().all(|c| !c.is_ascii_uppercase() && c != '-'));
        for (name, value) in plain.into_iter().chain(other) {
            let values = texts(value);
            if values.is_empty() {
                continue;
            }
            let name = format!("{}{name}", self.claim_prefix);
            let header = |c: char| {
                if c.is_ascii_alphanumeric() {
                    c.to_ascii_uppercase()
                } else {
                    '_'
                }
            };
            let variable = format!("HTTP_{}", name.chars().map(header).collect::<String>());
            assertion.entry(variable).or_insert_with(|| values.clone());
            assertion.entry(name).or_insert(values);
        }
        if let Some(sub) = claims.get("sub").and_then(Value::as_str) {
            assertion.insert("REMOTE_USER".to_owned(), vec![sub.to_owned()]);
        }
        assertion
    }
}

/// The values of a claim. As Keystone does, a text is cut at semicolons; a flag is `1` or `0`, an object its JSON.
fn texts(value: &Value) -> Vec<String> {
    let one = |value: &Value| match value {
        Value::Null => None,
        Value::Bool(flag) => Some(u8::from(*flag).to_string()),
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    };
    match value {
        Value::Array(items) => items.iter().filter_map(one).collect(),
        Value::String(text) => text.split(';').map(str::to_owned).collect(),
        other => one(other).into_iter().collect(),
    }
}

/// Why a token says nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// It is not one that counts here.
    #[error("the token is not taken: {0}")]
    Token(String),
    /// The provider is not there, or not what it should be.
    #[error("the provider cannot be asked: {0}")]
    Provider(String),
}

/// The providers that the configuration names.
pub(crate) struct Providers(BTreeMap<String, Provider>);

impl Providers {
    /// Makes ready to speak to them. Nobody is asked anything yet.
    ///
    /// # Errors
    /// When a file of certificates cannot be read.
    pub(crate) fn new(settings: &BTreeMap<String, Settings>) -> Result<Self, String> {
        let provider = |(id, settings): (&String, &Settings)| {
            let fetcher =
                Fetcher::new(settings.ca_file.as_deref()).map_err(|error| format!("provider {id}: {error}"))?;
            let provider = Provider {
                settings: settings.clone(),
                fetcher,
                known: ArcSwapOption::empty(),
                turn: Semaphore::new(1),
            };
            Ok((id.clone(), provider))
        };
        Ok(Self(settings.iter().map(provider).collect::<Result<_, String>>()?))
    }

    /// One, by its id in the API.
    pub(crate) fn get(&self, id: &str) -> Option<&Provider> {
        self.0.get(id)
    }
}

/// What a provider served, and when.
struct Known {
    document: Document,
    keys: jwt::Keys,
    at: Instant,
}

/// One provider.
pub(crate) struct Provider {
    pub(crate) settings: Settings,
    fetcher: Fetcher,
    known: ArcSwapOption<Known>,
    /// Who fetches; others wait and find it fetched.
    turn: Semaphore,
}

impl Provider {
    /// What the provider says of who was given this access token.
    pub(crate) async fn ask(&self, token: &str) -> Result<Claims, Refusal> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(Refusal::Token(format!("it is longer than {MAX_TOKEN_BYTES} bytes")));
        }
        let mut claims = match jsonwebtoken::decode_header(token) {
            Ok(header) => {
                let claims = self.signed(token, &header).await?;
                self.check_audience(&claims)?;
                claims
            }
            Err(_) => return self.ask_about_opaque(token).await,
        };
        if self.settings.userinfo {
            let more = self.userinfo(token).await?;
            merge(&mut claims, more)?;
        }
        Ok(claims)
    }

    /// A token that only the provider can read.
    async fn ask_about_opaque(&self, token: &str) -> Result<Claims, Refusal> {
        let known = self.known(FRESH).await?;
        let mut claims = Claims::new();
        if let (Some(url), Some(_)) = (&known.document.introspection_endpoint, &self.settings.client_secret) {
            claims = self.fetcher.introspect(url, &self.settings, token).await?;
            if claims.get("active") != Some(&Value::Bool(true)) {
                return Err(Refusal::Token("the provider says that it does not hold".to_owned()));
            }
            if claims.get("iss").is_some_and(|iss| *iss != *self.settings.issuer) {
                return Err(Refusal::Token("it is of another issuer".to_owned()));
            }
            if ["aud", "azp", "client_id"]
                .iter()
                .any(|name| claims.contains_key(*name))
            {
                self.check_audience(&claims)?;
            }
        } else if !self.settings.userinfo {
            let message = "it is not signed, and the provider has no introspection endpoint for this client";
            return Err(Refusal::Token(message.to_owned()));
        }
        if self.settings.userinfo {
            let more = self.userinfo(token).await?;
            merge(&mut claims, more)?;
        }
        // What the provider did not say, its address did.
        claims.insert("iss".to_owned(), self.settings.issuer.clone().into());
        Ok(claims)
    }

    async fn userinfo(&self, token: &str) -> Result<Claims, Refusal> {
        let known = self.known(FRESH).await?;
        let url = known.document.userinfo_endpoint.as_deref();
        let url = url.ok_or_else(|| Refusal::Provider("it has no userinfo endpoint".to_owned()))?;
        self.fetcher.userinfo(url, token).await
    }

    /// The claims of a signed token of this provider that is not over.
    async fn signed(&self, token: &str, header: &Header) -> Result<Claims, Refusal> {
        let mut known = self.known(FRESH).await?;
        if !known.keys.has(header) {
            known = self.known(PATIENCE).await?;
        }
        known.keys.open(token, header, &self.settings.issuer)
    }

    /// Whether a token was made for this cloud.
    fn check_audience(&self, claims: &Claims) -> Result<(), Refusal> {
        let own = &self.settings.client_id;
        let is_ours = |audience: &Value| {
            let audience = audience.as_str().unwrap_or_default();
            audience == own || self.settings.audiences.iter().any(|other| other == audience)
        };
        let is_for = match claims.get("aud") {
            Some(Value::Array(audiences)) => audiences.iter().any(is_ours),
            Some(audience) => is_ours(audience),
            None => false,
        };
        // Who got it is as good: that is this cloud's own client.
        let got = ["azp", "client_id"].iter().filter_map(|name| claims.get(*name));
        if is_for || got.into_iter().any(|party| party == own) {
            return Ok(());
        }
        let aud = claims.get("aud").unwrap_or(&Value::Null);
        Err(Refusal::Token(format!(
            "it is for {aud}, neither for client {own} nor for an audience of the configuration"
        )))
    }

    /// Where a browser goes to say who sits in front of it.
    pub(crate) async fn authorization_url(&self, parameters: &[(&str, &str)]) -> Result<String, Refusal> {
        let known = self.known(FRESH).await?;
        let url = known.document.authorization_endpoint.as_deref();
        let url = url.ok_or_else(|| Refusal::Provider("it has no authorization endpoint".to_owned()))?;
        let mut all = vec![
            ("response_type", "code"),
            ("client_id", self.settings.client_id.as_str()),
            ("scope", self.settings.scope.as_str()),
        ];
        all.extend(parameters);
        let separator = if url.contains('?') { '&' } else { '?' };
        Ok(format!("{url}{separator}{}", fetch::form(&all)))
    }

    /// What the provider says of whom a browser came back with this code for.
    pub(crate) async fn exchange(
        &self,
        code: &str,
        redirect_uri: &str,
        verifier: &str,
        nonce: &str,
    ) -> Result<Claims, Refusal> {
        let known = self.known(FRESH).await?;
        let url = known.document.token_endpoint.as_deref();
        let url = url.ok_or_else(|| Refusal::Provider("it has no token endpoint".to_owned()))?;
        let parameters = [
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", redirect_uri),
            ("code_verifier", verifier),
        ];
        let answer = self.fetcher.token(url, &self.settings, &parameters).await?;
        let text = |name: &str| answer.get(name).and_then(Value::as_str);
        let token = text("id_token").ok_or_else(|| Refusal::Provider("its answer has no id_token".to_owned()))?;
        let header =
            jsonwebtoken::decode_header(token).map_err(|error| Refusal::Provider(format!("its id_token: {error}")))?;
        let mut claims = self.signed(token, &header).await?;
        let own = Value::from(self.settings.client_id.as_str());
        let is_ours = match claims.get("aud") {
            Some(Value::Array(audiences)) => audiences.contains(&own),
            audience => audience == Some(&own),
        };
        if !is_ours || claims.get("nonce").and_then(Value::as_str) != Some(nonce) {
            return Err(Refusal::Token(
                "the id_token is not the answer to this login".to_owned(),
            ));
        }
        if let (Some(_), Some(access)) = (&known.document.userinfo_endpoint, text("access_token")) {
            let more = self.userinfo(access).await?;
            merge(&mut claims, more)?;
        }
        Ok(claims)
    }

    /// What the provider serves, fetched not longer ago than this where it answers.
    async fn known(&self, age: Duration) -> Result<Arc<Known>, Refusal> {
        let recent = || self.known.load_full().filter(|known| known.at.elapsed() < age);
        if let Some(known) = recent() {
            return Ok(known);
        }
        let turn = self.turn.acquire().await;
        let _turn = turn.map_err(|_| Refusal::Provider("madang is stopping".to_owned()))?;
        if let Some(known) = recent() {
            return Ok(known);
        }
        match self.fetch().await {
            Ok(known) => {
                let known = Arc::new(known);
                self.known.store(Some(Arc::clone(&known)));
                Ok(known)
            }
            Err(refusal) => {
                let old = self.known.load_full().filter(|known| known.at.elapsed() < STALE);
                let old = old.ok_or_else(|| refusal.to_string());
                let Ok(old) = old else { return Err(refusal) };
                warn!(issuer = self.settings.issuer, %refusal, "what the provider served before still counts");
                Ok(old)
            }
        }
    }

    async fn fetch(&self) -> Result<Known, Refusal> {
        let document = Document::fetch(&self.fetcher, &self.settings).await?;
        let keys = jwt::Keys::fetch(&self.fetcher, &document.jwks_uri).await?;
        Ok(Known {
            document,
            keys,
            at: Instant::now(),
        })
    }
}

/// Adds what a provider says elsewhere of the same user; what is signed wins.
fn merge(claims: &mut Claims, more: Claims) -> Result<(), Refusal> {
    let sub = |claims: &Claims| claims.get("sub").cloned();
    if let (Some(one), Some(other)) = (sub(claims), sub(&more))
        && one != other
    {
        return Err(Refusal::Provider(format!(
            "it says {one} and {other} of the same token"
        )));
    }
    for (name, value) in more {
        claims.entry(name).or_insert(value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn settings() -> Settings {
        Settings::new("https://sso.example.org", "madang")
    }

    #[test]
    fn claims_are_called_as_web_servers_call_them() {
        let claims = json!({
            "iss": "https://sso.example.org", "ISS": "https://evil", "sub": "1", "groups": ["a;b", "c"],
            "preferred_username": "bob", "email_verified": true, "note": "x;y", "none": null, "many": [],
        });
        let assertion = settings().assertion(claims.as_object().unwrap());
        let all = |name: &str| assertion[name].join("|");
        assert_eq!(all("HTTP_OIDC_ISS"), "https://sso.example.org");
        assert_eq!(all("OIDC-groups"), "a;b|c");
        assert_eq!(all("HTTP_OIDC_NOTE"), "x|y");
        assert_eq!(all("HTTP_OIDC_PREFERRED_USERNAME"), "bob");
        assert_eq!(all("OIDC-preferred_username"), "bob");
        assert_eq!(all("HTTP_OIDC_EMAIL_VERIFIED"), "1");
        assert_eq!(all("REMOTE_USER"), "1");
        assert!(!assertion.contains_key("OIDC-none") && !assertion.contains_key("OIDC-many"));
    }

    #[test]
    fn a_token_for_somebody_else_is_not_for_us() {
        let providers = BTreeMap::from([(
            "sso".to_owned(),
            Settings {
                audiences: vec!["account".to_owned()],
                ..settings()
            },
        )]);
        let providers = Providers::new(&providers).unwrap();
        let provider = providers.get("sso").unwrap();
        let fits = |claims: Value| provider.check_audience(claims.as_object().unwrap()).is_ok();
        assert!(fits(json!({ "aud": "madang" })));
        assert!(fits(json!({ "aud": ["other", "account"] })));
        assert!(fits(json!({ "aud": "other", "azp": "madang" })));
        assert!(!fits(json!({ "aud": "other" })));
        assert!(!fits(json!({ "azp": "other" })));
        assert!(!fits(json!({})));
    }

    #[test]
    fn two_answers_about_different_users_are_refused() {
        let mut claims = Claims::from_iter([("sub".to_owned(), json!("1"))]);
        let other = Claims::from_iter([("sub".to_owned(), json!("2"))]);
        assert!(merge(&mut claims, other).is_err());
        let same = Claims::from_iter([("sub".to_owned(), json!("1")), ("email".to_owned(), json!("a@b"))]);
        merge(&mut claims, same).unwrap();
        assert_eq!(claims["email"], "a@b");
    }
}
