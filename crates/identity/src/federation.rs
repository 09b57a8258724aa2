//! Users of somebody else: identity providers, and what their users are here. Keystone's OS-FEDERATION.
//!
//! ```text
//! access token ─► oidc: whose is it? ─► assertion ─► mapping: who is that here? ─► shadow: a user, its groups ─► token
//! ```
//! An [`IdentityProvider`] and its [`Protocol`]s are made through the API and say which [`Mapping`] holds; how to speak to
//! the provider (issuer, client, keys) is in the operator's configuration, [`oidc::Settings`]. Keystone leaves the second
//! half to the web server in front of it; here nothing is in front, and madang checks tokens itself.

pub mod api;
mod login;
pub mod mapping;
pub mod oidc;
pub mod protocol;
pub mod provider;
pub mod service_provider;
pub mod shadow;
mod websso;

use std::collections::BTreeMap;

use jiff::SignedDuration;
use madang_store::StoreBuilder;

pub(crate) use login::{Known, receive};
pub use mapping::Mapping;
pub use protocol::Protocol;
pub use provider::IdentityProvider;
pub use service_provider::ServiceProvider;
pub(crate) use websso::{Departures, departures};

/// What the operator says about federation.
#[derive(Clone, Debug)]
pub struct Options {
    /// How to speak to identity providers, by their ids in the API.
    pub providers: BTreeMap<String, oidc::Settings>,
    /// The addresses that a browser's token may be sent to, as dashboards name them in `origin`.
    pub trusted_dashboards: Vec<String>,
    /// How long a provider's word about groups holds beyond the token it was given for, where the provider says nothing.
    pub authorization_ttl: SignedDuration,
    /// What an assertion calls the issuer, where a protocol says nothing.
    pub remote_id_attribute: String,
    /// Where browsers reach Keystone's API, such as `https://cloud.example.org/identity`; none for where they came.
    pub public_url: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            providers: BTreeMap::new(),
            trusted_dashboards: Vec::new(),
            authorization_ttl: SignedDuration::ZERO,
            remote_id_attribute: "HTTP_OIDC_ISS".to_owned(),
            public_url: None,
        }
    }
}

pub(crate) fn register(builder: &mut StoreBuilder) {
    builder.kind::<Mapping>();
    builder.kind::<ServiceProvider>();
    provider::register(builder);
    protocol::register(builder);
    shadow::register(builder);
}
