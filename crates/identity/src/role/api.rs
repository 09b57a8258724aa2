//! `/v3/roles`, and which implies which.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

use axum::{
    Router,
    extract::{Path, State},
    response::Response,
    routing::get,
};
use http::{Method, StatusCode};
use madang_http::{Failure, Json, Query, RequestInfo, Schema, json};
use madang_store::Resource;
use serde::Serialize;
use serde_json::{Map, Value, json as value};

use super::{
    Implication, Role, RoleSpec,
    rules::{self, RoleChange},
};
use crate::{
    Caller, Identity,
    api::{
        Links, Listed,
        input::{Input, id_schema, immutable_schema, name_schema, resource_schema},
        links, many, no_content, not_found, one, passes,
    },
};

static CREATE: LazyLock<Schema> = LazyLock::new(|| resource_schema("role", properties(), &["name"]));
static UPDATE: LazyLock<Schema> = LazyLock::new(|| resource_schema("role", properties(), &[]));

fn properties() -> Value {
    value!({
        "name": name_schema(255),
        "description": { "type": ["string", "null"] },
        "domain_id": id_schema(),
        "options": immutable_schema(),
    })
}

/// A role as Keystone shows it.
#[derive(Serialize)]
pub(crate) struct View {
    id: String,
    name: String,
    domain_id: Option<String>,
    description: Option<String>,
    options: Map<String, Value>,
    #[serde(flatten)]
    extra: Map<String, Value>,
    links: Links,
}

impl Listed for View {
    fn id(&self) -> &str {
        &self.id
    }
}

pub(crate) fn view(info: &RequestInfo, role: &Resource<Role>) -> View {
    let spec = &role.spec;
    View {
        id: role.name().to_owned(),
        name: spec.name.clone(),
        domain_id: Some(spec.domain_id.clone()).filter(|id| !id.is_empty()),
        description: spec.description.clone(),
        options: spec.options.clone(),
        extra: spec.extra.clone(),
        links: links(info, "roles", role.name()),
    }
}

pub(crate) fn routes() -> Router<Arc<Identity>> {
    Router::new()
        .route("/roles", get(list).post(create))
        .route("/roles/{role_id}", get(show).patch(update).delete(delete))
        .route("/roles/{role_id}/implies", get(implied))
        .route(
            "/roles/{role_id}/implies/{implied_id}",
            get(show_implied).put(imply).delete(imply_no_more),
        )
        .route("/role_inferences", get(inferences))
}

async fn create(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    let mut input = Input::read(&CREATE, body, "role")?;
    let spec = RoleSpec {
        name: input.text("name").unwrap_or_default(),
        domain_id: input.text("domain_id").unwrap_or_default(),
        description: input.text("description"),
        options: input.object("options"),
        extra: input.rest(),
    };
    let role = rules::create(&identity, &caller, spec).await?;
    Ok(one(StatusCode::CREATED, "role", &view(&info, &role)))
}

async fn show(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let role = rules::find(&identity, &caller, "get", &id)?;
    Ok(one(StatusCode::OK, "role", &view(&info, &role)))
}

async fn list(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    query: Query,
) -> Result<Response, Failure> {
    let domain_id = query.get("domain_id").unwrap_or_default();
    let own_domain = caller.subject.domain_id().unwrap_or_default();
    let rule = if domain_id.is_empty() {
        "identity:list_roles"
    } else {
        "identity:list_domain_roles"
    };
    caller.enforce(rule, &[("target.domain_id", own_domain)])?;
    let roles = identity.store.cache::<Role>().by("domain", domain_id);
    respond(&info, &query, roles)
}

/// A list of roles, by name.
pub(crate) fn respond(
    info: &RequestInfo,
    query: &Query,
    mut roles: Vec<Arc<Resource<Role>>>,
) -> Result<Response, Failure> {
    roles.retain(|role| passes(query, "name", &role.spec.name));
    roles.sort_by(|a, b| (&a.spec.name, a.name()).cmp(&(&b.spec.name, b.name())));
    many(
        info,
        query,
        "roles",
        roles.iter().map(|role| view(info, role)).collect(),
    )
}

async fn update(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    Path(id): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    let mut input = Input::read(&UPDATE, body, "role")?;
    let now = rules::find(&identity, &caller, "update", &id)?;
    if input.has("domain_id") && input.text("domain_id").unwrap_or_default() != now.spec.domain_id {
        return Err(Failure::invalid("Update of `domain_id` is not allowed.").at("domain_id"));
    }
    let change = RoleChange {
        name: input.text("name"),
        description: input.nullable("description"),
        options: input.object("options"),
        extra: input.rest(),
    };
    let role = rules::update(&identity, &caller, &id, &change).await?;
    Ok(one(StatusCode::OK, "role", &view(&info, &role)))
}

async fn delete(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    rules::delete(&identity, &caller, &id).await?;
    Ok(no_content())
}

/// A role in an inference.
#[derive(Serialize)]
struct Brief {
    id: String,
    name: String,
    description: Option<String>,
    links: Links,
}

fn brief(info: &RequestInfo, role: &Resource<Role>) -> Brief {
    Brief {
        id: role.name().to_owned(),
        name: role.spec.name.clone(),
        description: role.spec.description.clone(),
        links: links(info, "roles", role.name()),
    }
}

fn role(identity: &Identity, id: &str) -> Result<Arc<Resource<Role>>, Failure> {
    identity
        .store
        .get::<Role>(&Role::key(id))
        .ok_or_else(|| not_found("role", id))
}

/// The roles that one implies itself, by name.
fn implied_by(identity: &Identity, prior_id: &str) -> Vec<Arc<Resource<Role>>> {
    let implications = identity.store.cache::<Implication>().by("prior", prior_id);
    let mut roles: Vec<_> = implications
        .iter()
        .filter_map(|i| role(identity, &i.spec.implied_id).ok())
        .collect();
    roles.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
    roles
}

async fn implied(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    Path(prior_id): Path<String>,
) -> Result<Response, Failure> {
    caller.enforce("identity:list_implied_roles", &[])?;
    let prior = role(&identity, &prior_id)?;
    let implies: Vec<Brief> = implied_by(&identity, &prior_id)
        .iter()
        .map(|role| brief(&info, role))
        .collect();
    let inference = value!({ "prior_role": brief(&info, &prior), "implies": implies });
    Ok(json(
        StatusCode::OK,
        &value!({ "role_inference": inference, "links": { "self": info.url() } }),
    ))
}

fn inference(identity: &Identity, info: &RequestInfo, prior_id: &str, implied_id: &str) -> Result<Value, Failure> {
    let (prior, implied) = (role(identity, prior_id)?, role(identity, implied_id)?);
    let inference = value!({ "prior_role": brief(info, &prior), "implies": brief(info, &implied) });
    Ok(value!({ "role_inference": inference, "links": { "self": info.url() } }))
}

async fn show_implied(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    method: Method,
    Path((prior_id, implied_id)): Path<(String, String)>,
) -> Result<Response, Failure> {
    let checks = method == Method::HEAD;
    caller.enforce(
        if checks {
            "identity:check_implied_role"
        } else {
            "identity:get_implied_role"
        },
        &[],
    )?;
    let implication = identity
        .store
        .get::<Implication>(&Implication::key(&prior_id, &implied_id));
    implication.ok_or_else(|| rules::no_implication(&prior_id, &implied_id))?;
    if checks {
        return Ok(no_content());
    }
    Ok(json(
        StatusCode::OK,
        &inference(&identity, &info, &prior_id, &implied_id)?,
    ))
}

async fn imply(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    Path((prior_id, implied_id)): Path<(String, String)>,
) -> Result<Response, Failure> {
    rules::imply(&identity, &caller, &prior_id, &implied_id).await?;
    Ok(json(
        StatusCode::CREATED,
        &inference(&identity, &info, &prior_id, &implied_id)?,
    ))
}

async fn imply_no_more(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    Path((prior_id, implied_id)): Path<(String, String)>,
) -> Result<Response, Failure> {
    rules::imply_no_more(&identity, &caller, &prior_id, &implied_id).await?;
    Ok(no_content())
}

async fn inferences(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
) -> Result<Response, Failure> {
    caller.enforce("identity:list_role_inference_rules", &[])?;
    let mut priors = BTreeMap::new();
    for implication in identity.store.cache::<Implication>().all() {
        if let Ok(prior) = role(&identity, &implication.spec.prior_id) {
            priors.insert(prior.spec.name.clone(), prior);
        }
    }
    let inferences: Vec<Value> = priors
        .values()
        .map(|prior| {
            let implies: Vec<Brief> = implied_by(&identity, prior.name())
                .iter()
                .map(|role| brief(&info, role))
                .collect();
            value!({ "prior_role": brief(&info, prior), "implies": implies })
        })
        .collect();
    Ok(json(
        StatusCode::OK,
        &value!({ "role_inferences": inferences, "links": { "self": info.url() } }),
    ))
}
