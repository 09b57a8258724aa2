//! `/v3/domains`: the projects at the roots, under their old name.

use std::sync::{Arc, LazyLock};

use axum::{
    Router,
    extract::{Path, State},
    response::Response,
    routing::get,
};
use http::StatusCode;
use madang_http::{Failure, Json, Query, RequestInfo, Schema};
use madang_store::Resource;
use serde::Serialize;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{
    Project, ProjectSpec,
    api::{change, tags_schema},
    rules,
};
use crate::{
    Caller, Identity,
    api::{
        Links, Listed,
        input::{Input, immutable_schema, name_schema, resource_schema},
        links, many, no_content, one, passes,
    },
};

static CREATE: LazyLock<Schema> = LazyLock::new(|| resource_schema("domain", properties(), &["name"]));
static UPDATE: LazyLock<Schema> = LazyLock::new(|| resource_schema("domain", properties(), &[]));

fn properties() -> Value {
    json!({
        "name": name_schema(64),
        "description": { "type": ["string", "null"] },
        "enabled": { "type": "boolean" },
        "tags": tags_schema(),
        "options": immutable_schema(),
        "explicit_domain_id": { "type": "string" },
    })
}

#[derive(Serialize)]
struct View {
    id: String,
    name: String,
    description: String,
    enabled: bool,
    tags: Vec<String>,
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

fn view(info: &RequestInfo, domain: &Resource<Project>) -> View {
    let spec = &domain.spec;
    View {
        id: domain.name().to_owned(),
        name: spec.name.clone(),
        description: spec.description.clone(),
        enabled: spec.enabled,
        tags: spec.tags.clone(),
        options: spec.options.clone(),
        extra: spec.extra.clone(),
        links: links(info, "domains", domain.name()),
    }
}

pub(crate) fn routes() -> Router<Arc<Identity>> {
    Router::new()
        .route("/domains", get(list).post(create))
        .route("/domains/{id}", get(show).patch(update).delete(delete))
}

async fn create(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    let mut input = Input::read(&CREATE, body, "domain")?;
    let id = input
        .text("explicit_domain_id")
        .map(|text| explicit_id(&text))
        .transpose()?;
    let spec = ProjectSpec {
        name: input.text("name").unwrap_or_default(),
        is_domain: true,
        domain_id: String::new(),
        parent_id: String::new(),
        description: input.text("description").unwrap_or_default(),
        enabled: input.flag("enabled").unwrap_or(true),
        tags: input.texts("tags").unwrap_or_default(),
        options: input.object("options"),
        extra: input.rest(),
        tokens_void_until: None,
    };
    let domain = rules::create(&identity, &caller, spec, id).await?;
    Ok(one(StatusCode::CREATED, "domain", &view(&info, &domain)))
}

/// The form of ids that we make ourselves.
fn explicit_id(text: &str) -> Result<Uuid, Failure> {
    let id = Uuid::try_parse(text).ok().filter(|id| id.simple().to_string() == text);
    id.ok_or_else(|| {
        Failure::invalid(format!("The specified domain ID {text} is not 32 hexadecimal digits"))
            .at("explicit_domain_id")
    })
}

async fn show(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let domain = rules::find(&identity, &caller, "identity:get_domain", &id, true)?;
    Ok(one(StatusCode::OK, "domain", &view(&info, &domain)))
}

async fn list(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    query: Query,
) -> Result<Response, Failure> {
    let own = caller.subject.domain_id().unwrap_or_default();
    caller.enforce("identity:list_domains", &[("target.domain.id", own)])?;
    let mut domains = identity.store.cache::<Project>().by("domain", "");
    domains.retain(|domain| {
        domain.spec.is_domain && (own.is_empty() || domain.name() == own) && passes_filters(&query, domain)
    });
    respond(&info, &query, domains)
}

/// A list of domains, by name.
pub(crate) fn respond(
    info: &RequestInfo,
    query: &Query,
    mut domains: Vec<Arc<Resource<Project>>>,
) -> Result<Response, Failure> {
    domains.sort_by(|a, b| (&a.spec.name, a.name()).cmp(&(&b.spec.name, b.name())));
    many(
        info,
        query,
        "domains",
        domains.iter().map(|domain| view(info, domain)).collect(),
    )
}

/// The filters that lists of projects and of domains share.
pub(crate) fn passes_filters(query: &Query, project: &Resource<Project>) -> bool {
    let tags = &project.spec.tags;
    let wanted = |name: &str| {
        query
            .get(name)
            .map(|list| list.split(',').map(str::to_owned).collect::<Vec<_>>())
    };
    let all = |list: &Vec<String>| list.iter().all(|tag| tags.contains(tag));
    let any = |list: &Vec<String>| list.iter().any(|tag| tags.contains(tag));
    passes(query, "name", &project.spec.name)
        && (!query.has("enabled") || query.switch("enabled") == project.spec.enabled)
        && query.get("id").is_none_or(|id| id == project.name())
        && wanted("tags").is_none_or(|list| all(&list))
        && wanted("tags-any").is_none_or(|list| any(&list))
        && wanted("not-tags").is_none_or(|list| !all(&list))
        && wanted("not-tags-any").is_none_or(|list| !any(&list))
}

async fn update(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    Path(id): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    let change = change(Input::read(&UPDATE, body, "domain")?);
    let domain = rules::update(&identity, &caller, &id, true, &change).await?;
    Ok(one(StatusCode::OK, "domain", &view(&info, &domain)))
}

async fn delete(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    rules::delete(&identity, &caller, &id, true).await?;
    Ok(no_content())
}
