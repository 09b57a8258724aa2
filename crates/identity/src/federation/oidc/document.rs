//! What a provider says of itself: its discovery document.

use serde_json::Value;

use super::{
    Refusal, Settings,
    fetch::{Fetcher, check_url},
};

/// The addresses of a provider. Each is https, or on this machine.
pub(super) struct Document {
    pub(super) jwks_uri: String,
    pub(super) authorization_endpoint: Option<String>,
    pub(super) token_endpoint: Option<String>,
    pub(super) userinfo_endpoint: Option<String>,
    pub(super) introspection_endpoint: Option<String>,
}

impl Document {
    /// Fetches it, and checks that it is the configured issuer's.
    pub(super) async fn fetch(fetcher: &Fetcher, settings: &Settings) -> Result<Self, Refusal> {
        let issuer = &settings.issuer;
        let usual = || format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let url = settings.discovery_url.clone().unwrap_or_else(usual);
        let wrong = |what: String| Refusal::Provider(format!("{url} {what}"));
        let members = fetcher.get(&url).await?;
        let said = members.get("issuer").and_then(Value::as_str).unwrap_or_default();
        if said != issuer {
            return Err(wrong(format!("is of issuer {said:?}, not of {issuer:?}")));
        }
        let address = |name: &str| match members.get(name).and_then(Value::as_str) {
            None => Ok(None),
            Some(address) => check_url(address)
                .map(|()| Some(address.to_owned()))
                .map_err(|why| wrong(format!("has a {name} that cannot be used: {why}"))),
        };
        Ok(Self {
            jwks_uri: address("jwks_uri")?.ok_or_else(|| wrong("has no jwks_uri".to_owned()))?,
            authorization_endpoint: address("authorization_endpoint")?,
            token_endpoint: address("token_endpoint")?,
            userinfo_endpoint: address("userinfo_endpoint")?,
            introspection_endpoint: address("introspection_endpoint")?,
        })
    }
}
