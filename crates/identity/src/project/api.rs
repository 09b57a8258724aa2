//! `/v3/projects`.

use std::sync::{Arc, LazyLock};

use axum::{
    Router,
    extract::{Path, State},
    response::Response,
    routing::get,
};
use http::StatusCode;
use madang_http::{Failure, Json, Query, RequestInfo, Schema};
use madang_store::{Resource, Store};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{
    Project, ProjectSpec, domains,
    rules::{self, ProjectChange},
};
use crate::{
    Caller, Identity,
    api::{
        Links, Listed,
        input::{Input, id_schema, immutable_schema, name_schema, resource_schema},
        links, many, no_content, one, passes,
    },
    assignment::effective,
};

static CREATE: LazyLock<Schema> = LazyLock::new(|| resource_schema("project", properties(), &["name"]));
static UPDATE: LazyLock<Schema> = LazyLock::new(|| resource_schema("project", properties(), &[]));

fn properties() -> Value {
    json!({
        "name": name_schema(64),
        "description": { "type": ["string", "null"] },
        "enabled": { "type": "boolean" },
        "is_domain": { "type": "boolean" },
        "domain_id": id_schema(),
        "parent_id": id_schema(),
        "tags": tags_schema(),
        "options": immutable_schema(),
    })
}

/// Keystone's limits of tags.
pub(crate) fn tags_schema() -> Value {
    let tag = json!({ "type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[^,/]*$" });
    json!({ "type": "array", "items": tag, "maxItems": 80, "uniqueItems": true })
}

/// A project as Keystone shows it.
#[derive(Serialize)]
pub(crate) struct View {
    id: String,
    name: String,
    domain_id: Option<String>,
    description: String,
    enabled: bool,
    parent_id: Option<String>,
    is_domain: bool,
    tags: Vec<String>,
    options: Map<String, Value>,
    #[serde(flatten)]
    extra: Map<String, Value>,
    links: Links,
    #[serde(skip_serializing_if = "Option::is_none")]
    parents: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subtree: Option<Value>,
}

impl Listed for View {
    fn id(&self) -> &str {
        &self.id
    }
}

pub(crate) fn view(info: &RequestInfo, project: &Resource<Project>) -> View {
    let spec = &project.spec;
    let some = |id: &String| Some(id.clone()).filter(|id| !id.is_empty());
    View {
        id: project.name().to_owned(),
        name: spec.name.clone(),
        domain_id: some(&spec.domain_id),
        description: spec.description.clone(),
        enabled: spec.enabled,
        parent_id: some(&spec.parent_id),
        is_domain: spec.is_domain,
        tags: spec.tags.clone(),
        options: spec.options.clone(),
        extra: spec.extra.clone(),
        links: links(info, "projects", project.name()),
        parents: None,
        subtree: None,
    }
}

pub(crate) fn routes() -> Router<Arc<Identity>> {
    Router::new()
        .route("/projects", get(list).post(create))
        .route("/projects/{id}", get(show).patch(update).delete(delete))
}

async fn create(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    let mut input = Input::read(&CREATE, body, "project")?;
    let spec = ProjectSpec {
        name: input.text("name").unwrap_or_default(),
        is_domain: input.flag("is_domain").unwrap_or(false),
        domain_id: input.text("domain_id").unwrap_or_default(),
        parent_id: input.text("parent_id").unwrap_or_default(),
        description: input.text("description").unwrap_or_default(),
        enabled: input.flag("enabled").unwrap_or(true),
        tags: input.texts("tags").unwrap_or_default(),
        options: input.object("options"),
        extra: input.rest(),
        tokens_void_until: None,
    };
    let project = rules::create(&identity, &caller, spec, None).await?;
    Ok(one(StatusCode::CREATED, "project", &view(&info, &project)))
}

async fn show(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    query: Query,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let project = rules::find(&identity, &caller, "identity:get_project", &id, false)?;
    let mut view = view(&info, &project);
    let store = &identity.store;
    let seen = |list: &[Arc<Resource<Project>>]| in_list(&info, store, &caller, list);
    if query.switch("parents_as_list") {
        view.parents = Some(seen(&effective::ancestors(store, &project)));
    } else if query.switch("parents_as_ids") {
        view.parents = Some(parents_as_ids(store, &project));
    }
    if query.switch("subtree_as_list") {
        view.subtree = Some(seen(&effective::descendants(store, &id)));
    } else if query.switch("subtree_as_ids") {
        view.subtree = Some(subtree_as_ids(store, &id));
    }
    Ok(one(StatusCode::OK, "project", &view))
}

/// Only the projects that the caller has a role in, as Keystone does; an admin sees them all.
fn in_list(info: &RequestInfo, store: &Store, caller: &Caller, list: &[Arc<Resource<Project>>]) -> Value {
    let own = effective::projects_of(store, &*caller.subject);
    let sees = |project: &Resource<Project>| caller.is_admin() || own.iter().any(|p| p.name() == project.name());
    let seen = list.iter().filter(|project| sees(project));
    seen.map(|project| json!({ "project": view(info, project) })).collect()
}

/// `{"parent": {"grandparent": {"domain": null}}}`.
fn parents_as_ids(store: &Store, project: &Resource<Project>) -> Value {
    let above = effective::ancestors(store, project);
    let mut ids: Vec<&str> = above.iter().map(|parent| parent.name()).collect();
    ids.push(&project.spec.domain_id);
    ids.iter().rev().fold(Value::Null, |inner, id| json!({ *id: inner }))
}

/// `{"child": {"grandchild": null}}`; `null` at the leaves.
fn subtree_as_ids(store: &Store, id: &str) -> Value {
    let children = store.cache::<Project>().by("parent", id);
    if children.is_empty() {
        return Value::Null;
    }
    children
        .iter()
        .map(|child| (child.name().to_owned(), subtree_as_ids(store, child.name())))
        .collect::<Map<_, _>>()
        .into()
}

async fn list(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    query: Query,
) -> Result<Response, Failure> {
    let own_domain = caller.subject.domain_id().unwrap_or_default();
    let domain_id = query.get("domain_id").unwrap_or(own_domain);
    caller.enforce("identity:list_projects", &[("target.domain_id", domain_id)])?;
    let cache = identity.store.cache::<Project>();
    let is_domain = query.has("is_domain") && query.switch("is_domain");
    let mut projects = match query.get("parent_id") {
        Some(parent_id) => cache.by("parent", parent_id),
        None if !domain_id.is_empty() && !is_domain => cache.by("domain", domain_id),
        None => cache.all(),
    };
    projects.retain(|project| {
        project.spec.is_domain == is_domain
            && (domain_id.is_empty() || project.spec.domain_id == domain_id)
            && domains::passes_filters(&query, project)
    });
    respond(&info, &query, projects)
}

/// A list of projects, by name.
pub(crate) fn respond(
    info: &RequestInfo,
    query: &Query,
    mut projects: Vec<Arc<Resource<Project>>>,
) -> Result<Response, Failure> {
    projects.sort_by(|a, b| (&a.spec.name, a.name()).cmp(&(&b.spec.name, b.name())));
    many(
        info,
        query,
        "projects",
        projects.iter().map(|project| view(info, project)).collect(),
    )
}

/// A list of projects that the caller has a role in, as `/v3/auth/projects` and `/v3/users/{id}/projects` have it.
pub(crate) fn respond_own(
    info: &RequestInfo,
    query: &Query,
    projects: Vec<Arc<Resource<Project>>>,
) -> Result<Response, Failure> {
    let passing = projects
        .into_iter()
        .filter(|p| p.spec.enabled && passes(query, "name", &p.spec.name));
    respond(info, query, passing.collect())
}

async fn update(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    Path(id): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    let mut input = Input::read(&UPDATE, body, "project")?;
    let now = rules::find(&identity, &caller, "identity:update_project", &id, false)?;
    check_fixed(&mut input, &now)?;
    let change = change(input);
    let project = rules::update(&identity, &caller, &id, false, &change).await?;
    Ok(one(StatusCode::OK, "project", &view(&info, &project)))
}

/// What can never change may be sent as it is.
fn check_fixed(input: &mut Input, now: &Resource<Project>) -> Result<(), Failure> {
    let spec = &now.spec;
    for (field, is) in [("domain_id", &spec.domain_id), ("parent_id", &spec.parent_id)] {
        if input.has(field) && input.text(field).unwrap_or_default() != *is {
            let message = format!("Update of `{field}` is not allowed.");
            return Err(if field == "parent_id" {
                Failure::forbidden(message)
            } else {
                Failure::invalid(message).at(field)
            });
        }
    }
    match input.flag("is_domain") {
        Some(is_domain) if is_domain != spec.is_domain => {
            Err(Failure::invalid("Update of `is_domain` is not allowed.").at("is_domain"))
        }
        _ => Ok(()),
    }
}

/// What a `PATCH` of a project or a domain asks for.
pub(crate) fn change(mut input: Input) -> ProjectChange {
    ProjectChange {
        name: input.text("name"),
        description: input.nullable("description").map(Option::unwrap_or_default),
        enabled: input.flag("enabled"),
        tags: input.texts("tags"),
        options: input.object("options"),
        extra: input.rest(),
    }
}

async fn delete(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    rules::delete(&identity, &caller, &id, false).await?;
    Ok(no_content())
}
