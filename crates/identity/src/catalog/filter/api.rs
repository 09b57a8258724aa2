//! `/v3/OS-EP-FILTER`.

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

use super::{Chosen, EndpointChoice, EndpointGroup, EndpointGroupSpec, FILTERS, in_group, seen_by};
use crate::{
    Caller, Identity,
    api::{
        Links, Listed,
        input::{Input, resource_schema},
        links, many, no_content, not_found, one, passes,
    },
    catalog::{Endpoint, api::respond_endpoints, filter, rules},
    project::{self, Project},
};

static CREATE: LazyLock<Schema> =
    LazyLock::new(|| resource_schema("endpoint_group", properties(), &["name", "filters"]));
static UPDATE: LazyLock<Schema> = LazyLock::new(|| resource_schema("endpoint_group", properties(), &[]));

fn properties() -> Value {
    let text = json!({ "type": "string" });
    let filters: Map<String, Value> = FILTERS.iter().map(|name| ((*name).to_owned(), text.clone())).collect();
    let filters = json!({ "type": "object", "properties": filters, "additionalProperties": false });
    json!({ "name": text, "description": { "type": ["string", "null"] }, "filters": filters })
}

/// An endpoint group as Keystone shows it.
#[derive(Serialize)]
struct View {
    id: String,
    name: String,
    description: Option<String>,
    filters: Map<String, Value>,
    links: Links,
}

impl Listed for View {
    fn id(&self) -> &str {
        &self.id
    }
}

fn view(info: &RequestInfo, group: &Resource<EndpointGroup>) -> View {
    View {
        id: group.name().to_owned(),
        name: group.spec.name.clone(),
        description: group.spec.description.clone(),
        filters: group.spec.filters.clone(),
        links: links(info, "OS-EP-FILTER/endpoint_groups", group.name()),
    }
}

pub(crate) fn routes() -> Router<Arc<Identity>> {
    let groups = Router::new()
        .route("/", get(list).post(create))
        .route("/{id}", get(show).patch(update).delete(delete))
        .route("/{id}/projects", get(projects_of_group))
        .route("/{id}/endpoints", get(endpoints_of_group))
        .route(
            "/{id}/projects/{project_id}",
            get(check_group).put(add_group).delete(remove_group),
        );
    Router::new()
        .nest("/OS-EP-FILTER/endpoint_groups", groups)
        .route("/OS-EP-FILTER/endpoints/{id}/projects", get(projects_of_endpoint))
        .route(
            "/OS-EP-FILTER/projects/{project_id}/endpoints",
            get(endpoints_of_project),
        )
        .route(
            "/OS-EP-FILTER/projects/{project_id}/endpoint_groups",
            get(groups_of_project),
        )
        .route(
            "/OS-EP-FILTER/projects/{project_id}/endpoints/{id}",
            get(check_endpoint).put(add_endpoint).delete(remove_endpoint),
        )
}

async fn create(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    let mut input = Input::read(&CREATE, body, "endpoint_group")?;
    let spec = EndpointGroupSpec {
        name: input.text("name").unwrap_or_default(),
        description: input.text("description"),
        filters: input.object("filters"),
    };
    let group =
        rules::create::<EndpointGroup>(&identity, &caller, "identity:create_endpoint_group", None, spec).await?;
    Ok(one(StatusCode::CREATED, "endpoint_group", &view(&info, &group)))
}

fn find(identity: &Identity, caller: &Caller, rule: &str, id: &str) -> Result<Arc<Resource<EndpointGroup>>, Failure> {
    rules::find::<EndpointGroup>(identity, caller, rule, id)
}

async fn show(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let group = find(&identity, &caller, "identity:get_endpoint_group", &id)?;
    Ok(one(StatusCode::OK, "endpoint_group", &view(&info, &group)))
}

async fn list(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    query: Query,
) -> Result<Response, Failure> {
    caller.enforce("identity:list_endpoint_groups", &[])?;
    let groups = identity.store.cache::<EndpointGroup>().all();
    respond(&info, &query, groups)
}

fn respond(
    info: &RequestInfo,
    query: &Query,
    mut groups: Vec<Arc<Resource<EndpointGroup>>>,
) -> Result<Response, Failure> {
    groups.retain(|group| passes(query, "name", &group.spec.name));
    groups.sort_by(|a, b| (&a.spec.name, a.name()).cmp(&(&b.spec.name, b.name())));
    many(
        info,
        query,
        "endpoint_groups",
        groups.iter().map(|group| view(info, group)).collect(),
    )
}

async fn update(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    Path(id): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    let mut input = Input::read(&UPDATE, body, "endpoint_group")?;
    let (name, description) = (input.text("name"), input.nullable("description"));
    let filters = input.has("filters").then(|| input.object("filters"));
    let change = |group: &mut Resource<EndpointGroup>| {
        let spec = &mut group.spec;
        spec.name = name.clone().unwrap_or_else(|| spec.name.clone());
        spec.description = description.clone().unwrap_or_else(|| spec.description.clone());
        spec.filters = filters.clone().unwrap_or_else(|| spec.filters.clone());
        Ok(())
    };
    let rule = "identity:update_endpoint_group";
    let group = rules::update::<EndpointGroup>(&identity, &caller, rule, &id, change).await?;
    Ok(one(StatusCode::OK, "endpoint_group", &view(&info, &group)))
}

async fn delete(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    rules::delete::<EndpointGroup>(&identity, &caller, "identity:delete_endpoint_group", &id).await?;
    Ok(no_content())
}

/// The projects that something was chosen for.
fn projects(identity: &Identity, info: &RequestInfo, query: &Query, chosen: &Chosen) -> Result<Response, Failure> {
    let choices = identity.store.cache::<EndpointChoice>().by("chosen", &chosen.as_text());
    let projects = choices
        .iter()
        .filter_map(|c| identity.store.get::<Project>(&Project::key(&c.spec.project_id)));
    project::api::respond(info, query, projects.collect())
}

async fn projects_of_group(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    query: Query,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    find(
        &identity,
        &caller,
        "identity:list_projects_associated_with_endpoint_group",
        &id,
    )?;
    projects(&identity, &info, &query, &Chosen::Group(id))
}

async fn projects_of_endpoint(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    query: Query,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    rules::find::<Endpoint>(&identity, &caller, "identity:list_projects_for_endpoint", &id)?;
    projects(&identity, &info, &query, &Chosen::Endpoint(id))
}

async fn endpoints_of_group(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    query: Query,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let group = find(
        &identity,
        &caller,
        "identity:list_endpoints_associated_with_endpoint_group",
        &id,
    )?;
    respond_endpoints(&info, &query, in_group(&identity.store, &group))
}

async fn endpoints_of_project(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    query: Query,
    Path(project_id): Path<String>,
) -> Result<Response, Failure> {
    caller.enforce("identity:list_endpoints_for_project", &[])?;
    let project = identity.store.get::<Project>(&Project::key(&project_id));
    project.ok_or_else(|| not_found("project", &project_id))?;
    let ids = seen_by(&identity.store, &project_id).unwrap_or_default();
    let endpoints = ids
        .iter()
        .filter_map(|id| identity.store.get::<Endpoint>(&Endpoint::key(id)));
    respond_endpoints(&info, &query, endpoints.collect())
}

async fn groups_of_project(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    query: Query,
    Path(project_id): Path<String>,
) -> Result<Response, Failure> {
    caller.enforce("identity:list_endpoint_groups_for_project", &[])?;
    let choices = identity.store.cache::<EndpointChoice>().by("project", &project_id);
    let groups = choices.iter().filter_map(|choice| match &choice.spec.chosen {
        Chosen::Group(id) => identity.store.get::<EndpointGroup>(&EndpointGroup::key(id)),
        Chosen::Endpoint(_) => None,
    });
    respond(&info, &query, groups.collect())
}

async fn check_group(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    Path((id, project_id)): Path<(String, String)>,
) -> Result<Response, Failure> {
    let rule = "identity:get_endpoint_group_in_project";
    filter::check_chosen(&identity, &caller, rule, &project_id, &Chosen::Group(id.clone()))?;
    let links = links(
        &info,
        &format!("OS-EP-FILTER/endpoint_groups/{id}/projects"),
        &project_id,
    );
    let choice = json!({ "endpoint_group_id": id, "project_id": project_id, "links": links });
    Ok(one(StatusCode::OK, "project_endpoint_group", &choice))
}

async fn add_group(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    Path((id, project_id)): Path<(String, String)>,
) -> Result<Response, Failure> {
    let rule = "identity:add_endpoint_group_to_project";
    filter::choose(&identity, &caller, rule, &project_id, &Chosen::Group(id)).await?;
    Ok(no_content())
}

async fn remove_group(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    Path((id, project_id)): Path<(String, String)>,
) -> Result<Response, Failure> {
    let rule = "identity:remove_endpoint_group_from_project";
    filter::choose_no_more(&identity, &caller, rule, &project_id, &Chosen::Group(id)).await?;
    Ok(no_content())
}

async fn check_endpoint(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    Path((project_id, id)): Path<(String, String)>,
) -> Result<Response, Failure> {
    let rule = "identity:check_endpoint_in_project";
    filter::check_chosen(&identity, &caller, rule, &project_id, &Chosen::Endpoint(id))?;
    Ok(no_content())
}

async fn add_endpoint(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    Path((project_id, id)): Path<(String, String)>,
) -> Result<Response, Failure> {
    let rule = "identity:add_endpoint_to_project";
    filter::choose(&identity, &caller, rule, &project_id, &Chosen::Endpoint(id)).await?;
    Ok(no_content())
}

async fn remove_endpoint(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    Path((project_id, id)): Path<(String, String)>,
) -> Result<Response, Failure> {
    let rule = "identity:remove_endpoint_from_project";
    filter::choose_no_more(&identity, &caller, rule, &project_id, &Chosen::Endpoint(id)).await?;
    Ok(no_content())
}
