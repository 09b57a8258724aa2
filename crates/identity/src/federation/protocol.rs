//! Protocols of identity providers: by which mapping their users become users here. `metadata.namespace` is the provider.

use std::sync::{Arc, LazyLock};

use axum::{
    Router,
    extract::{Path, State},
    response::Response,
    routing::get,
};
use http::StatusCode;
use madang_http::{Failure, Form, Json, Query, RequestInfo, Schema};
use madang_store::{Indexes, Key, Kind, Metadata, Op, Resource, StoreBuilder};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{IdentityProvider, Mapping, shadow};
use crate::{
    Caller, Identity,
    api::{Listed, input::Input, links, many, no_content, not_found, one},
};

/// The kind of protocols.
#[derive(Debug)]
pub struct Protocol;

/// What a protocol of a provider is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProtocolSpec {
    /// The mapping.
    pub mapping_id: String,
    /// What its assertions call the provider; none for what the configuration says.
    #[serde(default)]
    pub remote_id_attribute: Option<String>,
}

impl Kind for Protocol {
    const NAME: &'static str = "federation-protocols";
    type Spec = ProtocolSpec;
    type Status = ();

    fn indexes() -> Indexes<Self> {
        Indexes::<Self>::new().on("provider", |r| vec![r.metadata.namespace.clone()])
    }
}

impl Protocol {
    /// Where a protocol is stored.
    pub fn key(provider_id: &str, id: &str) -> Key {
        Key::new(Self::NAME, "", provider_id, id)
    }
}

pub(super) fn register(builder: &mut StoreBuilder) {
    builder.rule::<Protocol>(|tx, op| {
        let Op::Remove(old) = op else { return Ok(()) };
        shadow::forget_protocol(tx, &old.metadata.namespace, old.name())
    });
}

static CREATE: LazyLock<Schema> = LazyLock::new(|| schema(json!(["string", "null"])));
static UPDATE: LazyLock<Schema> = LazyLock::new(|| schema(json!("string")));

fn schema(attribute_type: Value) -> Schema {
    let protocol = json!({
        "type": "object",
        "properties": {
            "mapping_id": { "type": "string", "minLength": 1, "maxLength": 64 },
            "remote_id_attribute": { "type": attribute_type, "maxLength": 64 },
        },
        "required": ["mapping_id"],
        "additionalProperties": false,
    });
    let body = json!({
        "type": "object", "properties": { "protocol": protocol }, "required": ["protocol"],
        "additionalProperties": false,
    });
    Schema::new(Form::Keystone, body)
}

/// A protocol as Keystone shows it.
#[derive(Serialize)]
struct View {
    id: String,
    mapping_id: String,
    remote_id_attribute: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    idp_id: Option<String>,
    links: Value,
}

impl Listed for View {
    fn id(&self) -> &str {
        &self.id
    }
}

fn view(info: &RequestInfo, protocol: &Resource<Protocol>) -> View {
    let provider_id = &protocol.metadata.namespace;
    let provider = links(info, "OS-FEDERATION/identity_providers", provider_id);
    View {
        id: protocol.name().to_owned(),
        mapping_id: protocol.spec.mapping_id.clone(),
        remote_id_attribute: protocol.spec.remote_id_attribute.clone(),
        idp_id: None,
        links: json!({
            "self": format!("{}/protocols/{}", provider.itself(), protocol.name()),
            "identity_provider": provider.itself(),
        }),
    }
}

pub(crate) fn routes() -> Router<Arc<Identity>> {
    let path = "/OS-FEDERATION/identity_providers/{provider_id}/protocols";
    Router::new().route(path, get(list)).route(
        &format!("{path}/{{id}}"),
        get(show).put(create).patch(update).delete(delete),
    )
}

/// Keystone's answer where a provider has no such protocol.
pub(super) fn no_such_protocol(provider_id: &str, id: &str) -> Failure {
    Failure::not_found(format!(
        "Could not find federated protocol {id} for Identity Provider: {provider_id}."
    ))
}

fn find(identity: &Identity, provider_id: &str, id: &str) -> Result<Arc<Resource<Protocol>>, Failure> {
    let found = identity.store.get::<Protocol>(&Protocol::key(provider_id, id));
    found.ok_or_else(|| no_such_protocol(provider_id, id))
}

async fn list(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    query: Query,
    Path(provider_id): Path<String>,
) -> Result<Response, Failure> {
    caller.enforce("identity:list_protocols", &[])?;
    let mut found = identity.store.cache::<Protocol>().by("provider", &provider_id);
    found.sort_by(|a, b| a.name().cmp(b.name()));
    let views = found.iter().map(|protocol| View {
        idp_id: Some(provider_id.clone()),
        ..view(&info, protocol)
    });
    many(&info, &query, "protocols", views.collect())
}

async fn show(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    Path((provider_id, id)): Path<(String, String)>,
) -> Result<Response, Failure> {
    caller.enforce("identity:get_protocol", &[])?;
    let protocol = find(&identity, &provider_id, &id)?;
    Ok(one(StatusCode::OK, "protocol", &view(&info, &protocol)))
}

fn check_mapping(identity: &Identity, id: &str) -> Result<(), Failure> {
    let mapping = identity.store.get::<Mapping>(&Mapping::key(id));
    let missing = || Failure::invalid(format!("Invalid mapping id: {id}")).at("mapping_id");
    mapping.map(|_| ()).ok_or_else(missing)
}

async fn create(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    Path((provider_id, id)): Path<(String, String)>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    caller.enforce("identity:create_protocol", &[])?;
    let mut input = Input::read(&CREATE, body, "protocol")?;
    let spec = ProtocolSpec {
        mapping_id: input.text("mapping_id").unwrap_or_default(),
        remote_id_attribute: input.text("remote_id_attribute"),
    };
    check_mapping(&identity, &spec.mapping_id)?;
    let created = identity.store.transact(caller.cause(), |tx| {
        let provider = tx.get::<IdentityProvider>(&IdentityProvider::key(&provider_id));
        tx.expect(&*provider.ok_or_else(|| not_found("Identity Provider", &provider_id))?)?;
        if tx.get::<Protocol>(&Protocol::key(&provider_id, &id)).is_some() {
            let message = format!(
                "Conflict occurred attempting to store federation_protocol - Duplicate entry found with ID {id}."
            );
            return Err(Failure::conflict(message));
        }
        let mut metadata = Metadata::new("", id.as_str());
        metadata.namespace.clone_from(&provider_id);
        Ok(tx.create(Resource::<Protocol>::new(metadata, spec.clone()))?)
    });
    let created = created.await?;
    Ok(one(StatusCode::CREATED, "protocol", &view(&info, &created)))
}

async fn update(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    Path((provider_id, id)): Path<(String, String)>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    caller.enforce("identity:update_protocol", &[])?;
    let mut input = Input::read(&UPDATE, body, "protocol")?;
    let mapping_id = input.text("mapping_id").unwrap_or_default();
    check_mapping(&identity, &mapping_id)?;
    let key = find(&identity, &provider_id, &id)?.key();
    let changed = identity
        .store
        .modify::<Protocol, Failure>(&key, caller.cause(), |protocol| {
            let mut input = input.clone();
            protocol.spec.mapping_id.clone_from(&mapping_id);
            input.set_nullable("remote_id_attribute", &mut protocol.spec.remote_id_attribute);
            Ok(())
        });
    let changed = changed.await?;
    Ok(one(StatusCode::OK, "protocol", &view(&info, &changed)))
}

async fn delete(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    Path((provider_id, id)): Path<(String, String)>,
) -> Result<Response, Failure> {
    caller.enforce("identity:delete_protocol", &[])?;
    let deleted = identity.store.transact(caller.cause(), |tx| {
        let protocol = tx.get::<Protocol>(&Protocol::key(&provider_id, &id));
        let protocol = protocol.ok_or_else(|| no_such_protocol(&provider_id, &id))?;
        Ok::<_, Failure>(tx.delete(&protocol)?)
    });
    deleted.await?;
    Ok(no_content())
}
