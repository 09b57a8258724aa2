//! `/v3/OS-EP-FILTER`.

use std::sync::{Arc, LazyLock};

use axum::{
    Router,
    extract::{Path, State},
    response::Response,
    routing::get,
};
use http::StatusCode;
use madang_http::{Failure, Query, RequestInfo};
use madang_store::Resource;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{Chosen, EndpointChoice, EndpointGroup, EndpointGroupSpec, FILTERS, in_group, seen_by};
use crate::{
    Caller, Identity,
    api::{
        Links, Listed,
        collection::{self, Collection, Schemas},
        input::{Input, schemas},
        links, no_content, not_found, one, passes,
    },
    catalog::{Endpoint, filter},
    project::{self, Project},
};

static SCHEMAS: LazyLock<Schemas> = LazyLock::new(|| {
    let text = json!({ "type": "string" });
    let filters: Map<String, Value> = FILTERS.iter().map(|name| ((*name).to_owned(), text.clone())).collect();
    let filters = json!({ "type": "object", "properties": filters, "additionalProperties": false });
    let properties = json!({ "name": text, "description": { "type": ["string", "null"] }, "filters": filters });
    schemas("endpoint_group", properties, &["name", "filters"])
});

/// An endpoint group as Keystone shows it.
#[derive(Serialize)]
pub(crate) struct View {
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

impl Collection for EndpointGroup {
    const ONE: &'static str = "endpoint_group";
    const MANY: &'static str = "endpoint_groups";
    type View = View;

    fn view(_: &Identity, info: &RequestInfo, group: &Resource<Self>) -> View {
        View {
            id: group.name().to_owned(),
            name: group.spec.name.clone(),
            description: group.spec.description.clone(),
            filters: group.spec.filters.clone(),
            links: links(info, "OS-EP-FILTER/endpoint_groups", group.name()),
        }
    }

    fn schemas() -> &'static Schemas {
        &SCHEMAS
    }

    fn spec(mut input: Input) -> Result<(Option<String>, EndpointGroupSpec), Failure> {
        let spec = EndpointGroupSpec {
            name: input.text("name").unwrap_or_default(),
            description: input.text("description"),
            filters: input.object("filters"),
        };
        Ok((None, spec))
    }

    fn apply(spec: &mut EndpointGroupSpec, mut input: Input) {
        input.set("name", &mut spec.name);
        input.set_nullable("description", &mut spec.description);
        if input.has("filters") {
            spec.filters = input.object("filters");
        }
    }

    fn passes(query: &Query, group: &Resource<Self>) -> bool {
        passes(query, "name", &group.spec.name)
    }

    fn order(group: &Resource<Self>) -> &str {
        &group.spec.name
    }
}

pub(crate) fn routes() -> Router<Arc<Identity>> {
    let groups = Router::new()
        .route("/{id}/projects", get(projects_of_group))
        .route("/{id}/endpoints", get(endpoints_of_group))
        .route(
            "/{id}/projects/{project_id}",
            get(check_group).put(add_group).delete(remove_group),
        );
    collection::routes::<EndpointGroup>("/OS-EP-FILTER/endpoint_groups")
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

fn find(identity: &Identity, caller: &Caller, rule: &str, id: &str) -> Result<Arc<Resource<EndpointGroup>>, Failure> {
    collection::find(identity, caller, rule, id)
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
    collection::find::<Endpoint>(&identity, &caller, "identity:list_projects_for_endpoint", &id)?;
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
    collection::respond(&identity, &info, &query, in_group(&identity.store, &group))
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
    collection::respond(&identity, &info, &query, endpoints.collect())
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
    collection::respond(&identity, &info, &query, groups.collect())
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
