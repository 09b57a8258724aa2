//! Identity providers. `metadata.name` is the id, which who makes one chooses.
//!
//! Each has a domain that its users are in; one is made with it where none is named. With a provider go its protocols, the
//! users that it alone stands for, and its word about groups.

use std::sync::{Arc, LazyLock};

use axum::Router;
use madang_http::{Failure, Form, Query, RequestInfo, Schema};
use madang_store::{ErrorKind, Indexes, Key, Kind, Metadata, Op, Rejection, Resource, StoreBuilder, StoreError, Tx};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Protocol, shadow};
use crate::{
    Caller, Identity,
    api::{
        Listed,
        collection::{self, Collection, Schemas},
        input::Input,
        links, not_found,
    },
    cascade::remove_all,
    project::{Project, ProjectSpec},
};

/// The space of reservations in which remote ids are unique.
const REMOTE_IDS: &str = "names/federation-remote-ids";

/// The kind of identity providers.
#[derive(Debug)]
pub struct IdentityProvider;

/// What an identity provider is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IdentityProviderSpec {
    /// Whether its users are let in, and their tokens taken.
    pub enabled: bool,
    /// Free text.
    #[serde(default)]
    pub description: Option<String>,
    /// The domain of its users.
    pub domain_id: String,
    /// What assertions call it: issuers. Where there is any, an assertion must name one of them.
    #[serde(default)]
    pub remote_ids: Vec<String>,
    /// For how many minutes its word about groups holds; none for what the configuration says.
    #[serde(default)]
    pub authorization_ttl: Option<u32>,
}

impl Kind for IdentityProvider {
    const NAME: &'static str = "identity-providers";
    type Spec = IdentityProviderSpec;
    type Status = ();

    fn indexes() -> Indexes<Self> {
        Indexes::<Self>::new()
            .on("domain", |r| vec![r.spec.domain_id.clone()])
            .on("remote_id", |r| r.spec.remote_ids.clone())
    }
}

impl IdentityProvider {
    /// Where an identity provider is stored.
    pub fn key(id: &str) -> Key {
        Key::new(Self::NAME, "", "", id)
    }
}

pub(super) fn register(builder: &mut StoreBuilder) {
    builder.rule::<IdentityProvider>(|tx, op| match op {
        Op::Create(new) => take(tx, new, &new.spec.remote_ids),
        Op::Update { old, new } => {
            let (before, now) = (&old.spec.remote_ids, &new.spec.remote_ids);
            for gone in before.iter().filter(|id| !now.contains(id)) {
                tx.release(REMOTE_IDS, gone);
            }
            let added: Vec<String> = now.iter().filter(|id| !before.contains(id)).cloned().collect();
            take(tx, new, &added)
        }
        Op::Remove(old) => {
            for id in &old.spec.remote_ids {
                tx.release(REMOTE_IDS, id);
            }
            remove_all(tx, tx.store().cache::<Protocol>().by("provider", old.name()))?;
            shadow::forget_provider(tx, old.name())
        }
    });
    builder.rule::<Project>(|tx, op| {
        let Op::Remove(project) = op else { return Ok(()) };
        remove_all(tx, tx.store().cache::<IdentityProvider>().by("domain", project.name()))
    });
}

/// Reserves remote ids for a provider. The index says it with words, the reservation holds when two ask at once.
fn take(tx: &mut Tx<'_>, provider: &Resource<IdentityProvider>, ids: &[String]) -> Result<(), StoreError> {
    for id in ids {
        let others = tx.store().cache::<IdentityProvider>().by("remote_id", id);
        let is_taken = others.iter().any(|other| {
            let now = tx.get::<IdentityProvider>(&other.key());
            other.metadata.uid != provider.metadata.uid && now.is_some_and(|now| now.spec.remote_ids.contains(id))
        });
        if is_taken {
            let message =
                format!("Conflict occurred attempting to store identity_provider - Duplicate remote ID: {id}.");
            return Err(Rejection::new(ErrorKind::Conflict, "Duplicate", message)
                .at("remote_ids")
                .into());
        }
        tx.reserve(REMOTE_IDS, id, provider.metadata.uid)?;
    }
    Ok(())
}

static SCHEMAS: LazyLock<Schemas> = LazyLock::new(|| {
    let properties = json!({
        "enabled": { "type": "boolean" },
        "description": { "type": ["string", "null"] },
        "authorization_ttl": { "type": ["integer", "null"], "minimum": 0, "maximum": u32::MAX },
        "remote_ids": {
            "type": ["array", "null"],
            "items": { "type": "string", "maxLength": 64 },
            "uniqueItems": true,
        },
    });
    let mut new = properties.clone();
    new["domain_id"] = json!({ "type": ["string", "null"], "pattern": "^[a-zA-Z0-9-]+$", "maxLength": 64 });
    let schema = |properties: Value, least: u32| {
        let provider = json!({
            "type": "object", "properties": properties, "minProperties": least, "additionalProperties": false,
        });
        let body = json!({
            "type": "object", "properties": { "identity_provider": provider }, "required": ["identity_provider"],
        });
        Schema::new(Form::Keystone, body)
    };
    Schemas {
        create: schema(new, 0),
        update: schema(properties, 1),
    }
});

/// An identity provider as Keystone shows it.
#[derive(Serialize)]
pub(crate) struct View {
    id: String,
    enabled: bool,
    description: Option<String>,
    remote_ids: Vec<String>,
    domain_id: String,
    authorization_ttl: Option<u32>,
    links: Value,
}

impl Listed for View {
    fn id(&self) -> &str {
        &self.id
    }
}

pub(crate) fn routes() -> Router<Arc<Identity>> {
    collection::named_routes::<IdentityProvider>("/OS-FEDERATION/identity_providers")
}

fn texts(input: &mut Input, name: &str) -> Option<Vec<String>> {
    input.has(name).then(|| input.texts(name).unwrap_or_default())
}

fn minutes(input: &mut Input) -> Option<Option<u32>> {
    let value = input.take("authorization_ttl")?;
    Some(value.as_u64().and_then(|minutes| u32::try_from(minutes).ok()))
}

impl Collection for IdentityProvider {
    const ONE: &'static str = "identity_provider";
    const MANY: &'static str = "identity_providers";
    type View = View;

    fn view(_: &Identity, info: &RequestInfo, provider: &Resource<Self>) -> View {
        let spec = &provider.spec;
        let itself = links(info, "OS-FEDERATION/identity_providers", provider.name());
        let protocols = format!("{}/protocols", itself.itself());
        View {
            id: provider.name().to_owned(),
            enabled: spec.enabled,
            description: spec.description.clone(),
            remote_ids: spec.remote_ids.clone(),
            domain_id: spec.domain_id.clone(),
            authorization_ttl: spec.authorization_ttl,
            links: json!({ "self": itself.itself(), "protocols": protocols }),
        }
    }

    fn schemas() -> &'static Schemas {
        &SCHEMAS
    }

    fn spec(mut input: Input) -> Result<(Option<String>, IdentityProviderSpec), Failure> {
        let spec = IdentityProviderSpec {
            enabled: input.flag("enabled").unwrap_or(false),
            description: input.text("description"),
            domain_id: input.text("domain_id").unwrap_or_default(),
            remote_ids: texts(&mut input, "remote_ids").unwrap_or_default(),
            authorization_ttl: minutes(&mut input).flatten(),
        };
        Ok((None, spec))
    }

    fn apply(spec: &mut IdentityProviderSpec, mut input: Input) {
        input.set_flag("enabled", &mut spec.enabled);
        input.set_nullable("description", &mut spec.description);
        if let Some(remote_ids) = texts(&mut input, "remote_ids") {
            spec.remote_ids = remote_ids;
        }
        if let Some(ttl) = minutes(&mut input) {
            spec.authorization_ttl = ttl;
        }
    }

    fn passes(query: &Query, provider: &Resource<Self>) -> bool {
        query.get("id").is_none_or(|id| id == provider.name())
            && (!query.has("enabled") || query.switch("enabled") == provider.spec.enabled)
    }

    fn words() -> String {
        "Identity Provider".to_owned()
    }

    /// In the domain that is named, or in one of its own that is made with it.
    async fn create_named(
        identity: &Identity,
        caller: &Caller,
        id: String,
        input: Input,
    ) -> Result<Arc<Resource<Self>>, Failure> {
        caller.enforce("identity:create_identity_provider", &[])?;
        let spec = Self::spec(input)?.1;
        let created = identity.store.transact(caller.cause(), |tx| {
            if tx.get::<Self>(&Self::key(&id)).is_some() {
                let message =
                    format!("Conflict occurred attempting to store identity_provider - Duplicate entry: {id}.");
                return Err(Failure::conflict(message));
            }
            let mut spec = spec.clone();
            if spec.domain_id.is_empty() {
                spec.domain_id = own_domain(tx, &id)?;
            } else {
                let domain = tx
                    .get::<Project>(&Project::key(&spec.domain_id))
                    .filter(|domain| domain.spec.is_domain);
                tx.expect(&*domain.ok_or_else(|| not_found("domain", &spec.domain_id))?)?;
            }
            Ok::<_, Failure>(tx.create(Resource::<Self>::new(Metadata::new("", id.as_str()), spec))?)
        });
        created.await
    }
}

fn own_domain(tx: &mut Tx<'_>, provider_id: &str) -> Result<String, StoreError> {
    let mut metadata = Metadata::new("", "");
    metadata.name = metadata.uid.simple().to_string();
    let spec = ProjectSpec {
        name: metadata.name.clone(),
        is_domain: true,
        domain_id: String::new(),
        parent_id: String::new(),
        description: format!("Auto generated federated domain for Identity Provider: {provider_id}"),
        enabled: true,
        tags: Vec::new(),
        options: Map::new(),
        extra: Map::new(),
        tokens_void_until: None,
    };
    let domain = tx.create(Resource::<Project>::new(metadata, spec))?;
    Ok(domain.name().to_owned())
}
