//! Service providers: clouds that take this one's word. They are kept, and named in tokens; no assertions are made for
//! them, see [`super::api`].

use std::sync::{Arc, LazyLock};

use axum::Router;
use madang_http::{Failure, Form, Query, RequestInfo, Schema};
use madang_store::{Key, Kind, Resource, Store};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    Identity,
    api::{
        Links, Listed,
        collection::{self, Collection, Schemas},
        input::Input,
        links,
    },
};

/// Keystone's default.
const RELAY_STATE_PREFIX: &str = "ss:mem:";

/// The kind of service providers.
#[derive(Debug)]
pub struct ServiceProvider;

/// What a service provider is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceProviderSpec {
    /// Whether tokens name it.
    pub enabled: bool,
    /// Free text.
    #[serde(default)]
    pub description: Option<String>,
    /// Where to authenticate there.
    pub auth_url: String,
    /// Where assertions are sent.
    pub sp_url: String,
    /// What the state that comes back begins with.
    pub relay_state_prefix: String,
}

impl Kind for ServiceProvider {
    const NAME: &'static str = "service-providers";
    type Spec = ServiceProviderSpec;
    type Status = ();
}

impl ServiceProvider {
    /// Where a service provider is stored.
    pub fn key(id: &str) -> Key {
        Key::new(Self::NAME, "", "", id)
    }
}

/// A service provider as tokens name it.
#[derive(Serialize)]
pub(crate) struct InToken {
    auth_url: String,
    id: String,
    sp_url: String,
}

/// Those that are enabled.
pub(crate) fn in_token(store: &Store) -> Vec<InToken> {
    let mut enabled = store.cache::<ServiceProvider>().all();
    enabled.retain(|provider| provider.spec.enabled);
    enabled.sort_by(|a, b| a.name().cmp(b.name()));
    let named = enabled.iter().map(|provider| InToken {
        auth_url: provider.spec.auth_url.clone(),
        id: provider.name().to_owned(),
        sp_url: provider.spec.sp_url.clone(),
    });
    named.collect()
}

static SCHEMAS: LazyLock<Schemas> = LazyLock::new(|| {
    // Keystone's `parameter_types.url`.
    let url = json!({ "type": "string", "minLength": 0, "maxLength": 225, "pattern": "^[a-zA-Z0-9+.-]+:.+" });
    let properties = json!({
        "auth_url": url,
        "sp_url": url,
        "description": { "type": ["string", "null"] },
        "enabled": { "type": "boolean" },
        "relay_state_prefix": { "type": ["string", "null"] },
    });
    let schema = |more: Value| {
        let mut provider = json!({ "type": "object", "properties": properties, "additionalProperties": false });
        for (name, value) in more.as_object().into_iter().flatten() {
            provider[name] = value.clone();
        }
        let body = json!({
            "type": "object", "properties": { "service_provider": provider }, "required": ["service_provider"],
            "additionalProperties": false,
        });
        Schema::new(Form::Keystone, body)
    };
    Schemas {
        create: schema(json!({ "required": ["auth_url", "sp_url"] })),
        update: schema(json!({ "minProperties": 1 })),
    }
});

/// A service provider as Keystone shows it.
#[derive(Serialize)]
pub(crate) struct View {
    id: String,
    enabled: bool,
    description: Option<String>,
    auth_url: String,
    sp_url: String,
    relay_state_prefix: String,
    links: Links,
}

impl Listed for View {
    fn id(&self) -> &str {
        &self.id
    }
}

pub(crate) fn routes() -> Router<Arc<Identity>> {
    collection::named_routes::<ServiceProvider>("/OS-FEDERATION/service_providers")
}

impl Collection for ServiceProvider {
    const ONE: &'static str = "service_provider";
    const MANY: &'static str = "service_providers";
    type View = View;

    fn view(_: &Identity, info: &RequestInfo, provider: &Resource<Self>) -> View {
        let spec = &provider.spec;
        View {
            id: provider.name().to_owned(),
            enabled: spec.enabled,
            description: spec.description.clone(),
            auth_url: spec.auth_url.clone(),
            sp_url: spec.sp_url.clone(),
            relay_state_prefix: spec.relay_state_prefix.clone(),
            links: links(info, "OS-FEDERATION/service_providers", provider.name()),
        }
    }

    fn schemas() -> &'static Schemas {
        &SCHEMAS
    }

    fn spec(mut input: Input) -> Result<(Option<String>, ServiceProviderSpec), Failure> {
        let prefix = input.text("relay_state_prefix");
        let spec = ServiceProviderSpec {
            enabled: input.flag("enabled").unwrap_or(false),
            description: input.text("description"),
            auth_url: input.text("auth_url").unwrap_or_default(),
            sp_url: input.text("sp_url").unwrap_or_default(),
            relay_state_prefix: prefix.unwrap_or_else(|| RELAY_STATE_PREFIX.to_owned()),
        };
        Ok((None, spec))
    }

    fn apply(spec: &mut ServiceProviderSpec, mut input: Input) {
        input.set_flag("enabled", &mut spec.enabled);
        input.set_nullable("description", &mut spec.description);
        input.set("auth_url", &mut spec.auth_url);
        input.set("sp_url", &mut spec.sp_url);
        input.set("relay_state_prefix", &mut spec.relay_state_prefix);
    }

    fn words() -> String {
        "Service Provider".to_owned()
    }

    fn passes(query: &Query, provider: &Resource<Self>) -> bool {
        query.get("id").is_none_or(|id| id == provider.name())
            && (!query.has("enabled") || query.switch("enabled") == provider.spec.enabled)
    }
}
