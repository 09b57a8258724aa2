//! `/v3/regions`, `/v3/services`, `/v3/endpoints`.

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

use super::{Endpoint, EndpointSpec, Region, RegionSpec, Service, ServiceSpec, rules};
use crate::{
    Caller, Identity,
    api::{
        Links, Listed,
        input::{Input, id_schema, resource_schema},
        links, many, merge, no_content, one, passes,
    },
};

static REGION: LazyLock<Schema> = LazyLock::new(|| {
    let id = json!({ "type": "string", "maxLength": 255 });
    let text = json!({ "type": ["string", "null"] });
    resource_schema(
        "region",
        json!({ "id": id, "description": text, "parent_region_id": text }),
        &[],
    )
});
static SERVICE: LazyLock<Schema> = LazyLock::new(|| resource_schema("service", service_properties(), &["type"]));
static SERVICE_UPDATE: LazyLock<Schema> = LazyLock::new(|| resource_schema("service", service_properties(), &[]));
static ENDPOINT: LazyLock<Schema> =
    LazyLock::new(|| resource_schema("endpoint", endpoint_properties(), &["interface", "service_id", "url"]));
static ENDPOINT_UPDATE: LazyLock<Schema> = LazyLock::new(|| resource_schema("endpoint", endpoint_properties(), &[]));

fn service_properties() -> Value {
    json!({
        "enabled": { "type": "boolean" },
        "name": { "type": "string" },
        "type": { "type": "string", "minLength": 1, "maxLength": 255 },
        "description": { "type": ["string", "null"] },
    })
}

fn endpoint_properties() -> Value {
    json!({
        "enabled": { "type": "boolean" },
        "interface": { "type": "string", "enum": ["admin", "internal", "public"] },
        "region_id": { "type": ["string", "null"] },
        "region": { "type": ["string", "null"] },
        "service_id": id_schema(),
        "url": { "type": "string", "minLength": 1, "maxLength": 225, "pattern": "^[a-zA-Z0-9+.-]+:.+" },
    })
}

pub(crate) fn routes() -> Router<Arc<Identity>> {
    Router::new()
        .route("/regions", get(list_regions).post(create_region))
        .route(
            "/regions/{id}",
            get(show_region)
                .put(put_region)
                .patch(update_region)
                .delete(delete_region),
        )
        .route("/services", get(list_services).post(create_service))
        .route(
            "/services/{id}",
            get(show_service).patch(update_service).delete(delete_service),
        )
        .route("/endpoints", get(list_endpoints).post(create_endpoint))
        .route(
            "/endpoints/{id}",
            get(show_endpoint).patch(update_endpoint).delete(delete_endpoint),
        )
}

#[derive(Serialize)]
struct RegionView {
    id: String,
    description: String,
    parent_region_id: Option<String>,
    #[serde(flatten)]
    extra: Map<String, Value>,
    links: Links,
}

#[derive(Serialize)]
struct ServiceView {
    id: String,
    #[serde(rename = "type")]
    service_type: String,
    enabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    #[serde(flatten)]
    extra: Map<String, Value>,
    links: Links,
}

#[derive(Serialize)]
struct EndpointView {
    id: String,
    interface: String,
    region_id: Option<String>,
    region: Option<String>,
    service_id: String,
    url: String,
    enabled: bool,
    #[serde(flatten)]
    extra: Map<String, Value>,
    links: Links,
}

impl Listed for RegionView {
    fn id(&self) -> &str {
        &self.id
    }
}

impl Listed for ServiceView {
    fn id(&self) -> &str {
        &self.id
    }
}

impl Listed for EndpointView {
    fn id(&self) -> &str {
        &self.id
    }
}

fn region_view(info: &RequestInfo, region: &Resource<Region>) -> RegionView {
    RegionView {
        id: region.name().to_owned(),
        description: region.spec.description.clone(),
        parent_region_id: region.spec.parent_region_id.clone(),
        extra: region.spec.extra.clone(),
        links: links(info, "regions", region.name()),
    }
}

fn service_view(info: &RequestInfo, service: &Resource<Service>) -> ServiceView {
    ServiceView {
        id: service.name().to_owned(),
        service_type: service.spec.service_type.clone(),
        enabled: service.spec.enabled,
        name: service.spec.name.clone(),
        description: service.spec.description.clone(),
        extra: service.spec.extra.clone(),
        links: links(info, "services", service.name()),
    }
}

fn endpoint_view(info: &RequestInfo, endpoint: &Resource<Endpoint>) -> EndpointView {
    let spec = &endpoint.spec;
    EndpointView {
        id: endpoint.name().to_owned(),
        interface: spec.interface.clone(),
        region_id: spec.region_id.clone(),
        region: spec.region_id.clone(),
        service_id: spec.service_id.clone(),
        url: spec.url.clone(),
        enabled: spec.enabled,
        extra: spec.extra.clone(),
        links: links(info, "endpoints", endpoint.name()),
    }
}

fn region_spec(mut input: Input) -> (Option<String>, RegionSpec) {
    let id = input.text("id").filter(|id| !id.is_empty());
    let description = input.text("description").unwrap_or_default();
    let parent_region_id = input.text("parent_region_id");
    (
        id,
        RegionSpec {
            description,
            parent_region_id,
            extra: input.rest(),
        },
    )
}

async fn create_region(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    let (id, spec) = region_spec(Input::read(&REGION, body, "region")?);
    let region = rules::create::<Region>(&identity, &caller, "identity:create_region", id, spec).await?;
    Ok(one(StatusCode::CREATED, "region", &region_view(&info, &region)))
}

async fn put_region(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    Path(id): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    let (said, spec) = region_spec(Input::read(&REGION, body, "region")?);
    if said.is_some_and(|said| said != id) {
        return Err(Failure::invalid("Conflicting region IDs specified").at("id"));
    }
    let region = rules::create::<Region>(&identity, &caller, "identity:create_region", Some(id), spec).await?;
    Ok(one(StatusCode::CREATED, "region", &region_view(&info, &region)))
}

async fn show_region(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let region = rules::find::<Region>(&identity, &caller, "identity:get_region", &id)?;
    Ok(one(StatusCode::OK, "region", &region_view(&info, &region)))
}

async fn list_regions(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    query: Query,
) -> Result<Response, Failure> {
    caller.enforce("identity:list_regions", &[])?;
    let mut regions = identity.store.cache::<Region>().all();
    regions.retain(|r| {
        query
            .get("parent_region_id")
            .is_none_or(|id| r.spec.parent_region_id.as_deref() == Some(id))
    });
    regions.sort_by(|a, b| a.name().cmp(b.name()));
    many(
        &info,
        &query,
        "regions",
        regions.iter().map(|region| region_view(&info, region)).collect(),
    )
}

async fn update_region(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    Path(id): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    let mut input = Input::read(&REGION, body, "region")?;
    let description = input.nullable("description").map(Option::unwrap_or_default);
    let parent = input.nullable("parent_region_id");
    let extra = input.rest();
    let change = |region: &mut Resource<Region>| {
        let spec = &mut region.spec;
        spec.description = description.clone().unwrap_or_else(|| spec.description.clone());
        spec.parent_region_id = parent.clone().unwrap_or_else(|| spec.parent_region_id.clone());
        merge(&mut spec.extra, &extra);
        Ok(())
    };
    let region = rules::update::<Region>(&identity, &caller, "identity:update_region", &id, change).await?;
    Ok(one(StatusCode::OK, "region", &region_view(&info, &region)))
}

async fn delete_region(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    rules::delete::<Region>(&identity, &caller, "identity:delete_region", &id).await?;
    Ok(no_content())
}

async fn create_service(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    let mut input = Input::read(&SERVICE, body, "service")?;
    let spec = ServiceSpec {
        service_type: input.text("type").unwrap_or_default(),
        name: input.text("name"),
        description: input.text("description"),
        enabled: input.flag("enabled").unwrap_or(true),
        extra: input.rest(),
    };
    let service = rules::create::<Service>(&identity, &caller, "identity:create_service", None, spec).await?;
    Ok(one(StatusCode::CREATED, "service", &service_view(&info, &service)))
}

async fn show_service(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let service = rules::find::<Service>(&identity, &caller, "identity:get_service", &id)?;
    Ok(one(StatusCode::OK, "service", &service_view(&info, &service)))
}

async fn list_services(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    query: Query,
) -> Result<Response, Failure> {
    caller.enforce("identity:list_services", &[])?;
    let mut services = identity.store.cache::<Service>().all();
    services.retain(|service| {
        query
            .get("type")
            .is_none_or(|wanted| service.spec.service_type == wanted)
            && passes(&query, "name", service.spec.name.as_deref().unwrap_or_default())
    });
    services.sort_by(|a, b| (&a.spec.service_type, a.name()).cmp(&(&b.spec.service_type, b.name())));
    many(
        &info,
        &query,
        "services",
        services.iter().map(|service| service_view(&info, service)).collect(),
    )
}

async fn update_service(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    Path(id): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    let mut input = Input::read(&SERVICE_UPDATE, body, "service")?;
    let (service_type, enabled) = (input.text("type"), input.flag("enabled"));
    let (name, description) = (input.nullable("name"), input.nullable("description"));
    let extra = input.rest();
    let change = |service: &mut Resource<Service>| {
        let spec = &mut service.spec;
        spec.service_type = service_type.clone().unwrap_or_else(|| spec.service_type.clone());
        spec.enabled = enabled.unwrap_or(spec.enabled);
        spec.name = name.clone().unwrap_or_else(|| spec.name.clone());
        spec.description = description.clone().unwrap_or_else(|| spec.description.clone());
        merge(&mut spec.extra, &extra);
        Ok(())
    };
    let service = rules::update::<Service>(&identity, &caller, "identity:update_service", &id, change).await?;
    Ok(one(StatusCode::OK, "service", &service_view(&info, &service)))
}

async fn delete_service(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    rules::delete::<Service>(&identity, &caller, "identity:delete_service", &id).await?;
    Ok(no_content())
}

async fn create_endpoint(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    let mut input = Input::read(&ENDPOINT, body, "endpoint")?;
    // Under its older name, a region that is not there yet is made.
    let old_region = input.text("region").filter(|_| !input.has("region_id"));
    if let Some(id) = &old_region {
        rules::ensure_region(&identity, &caller, id).await?;
    }
    let spec = EndpointSpec {
        service_id: input.text("service_id").unwrap_or_default(),
        interface: input.text("interface").unwrap_or_default(),
        region_id: input.text("region_id").or(old_region),
        url: input.text("url").unwrap_or_default(),
        enabled: input.flag("enabled").unwrap_or(true),
        extra: input.rest(),
    };
    let endpoint = rules::create::<Endpoint>(&identity, &caller, "identity:create_endpoint", None, spec).await?;
    Ok(one(StatusCode::CREATED, "endpoint", &endpoint_view(&info, &endpoint)))
}

async fn show_endpoint(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let endpoint = rules::find::<Endpoint>(&identity, &caller, "identity:get_endpoint", &id)?;
    Ok(one(StatusCode::OK, "endpoint", &endpoint_view(&info, &endpoint)))
}

async fn list_endpoints(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    query: Query,
) -> Result<Response, Failure> {
    caller.enforce("identity:list_endpoints", &[])?;
    let mut endpoints = identity.store.cache::<Endpoint>().all();
    let is = |name: &str, text: &str| query.get(name).is_none_or(|wanted| wanted == text);
    endpoints.retain(|endpoint| {
        is("interface", &endpoint.spec.interface)
            && is("service_id", &endpoint.spec.service_id)
            && is("region_id", endpoint.spec.region_id.as_deref().unwrap_or_default())
    });
    respond_endpoints(&info, &query, endpoints)
}

/// A list of endpoints, by id.
pub(crate) fn respond_endpoints(
    info: &RequestInfo,
    query: &Query,
    mut endpoints: Vec<Arc<Resource<Endpoint>>>,
) -> Result<Response, Failure> {
    endpoints.sort_by(|a, b| a.name().cmp(b.name()));
    many(
        info,
        query,
        "endpoints",
        endpoints.iter().map(|endpoint| endpoint_view(info, endpoint)).collect(),
    )
}

async fn update_endpoint(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    Path(id): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    let mut input = Input::read(&ENDPOINT_UPDATE, body, "endpoint")?;
    let (interface, url, enabled) = (input.text("interface"), input.text("url"), input.flag("enabled"));
    let (old_region, region_id) = (input.nullable("region"), input.nullable("region_id"));
    if let (Some(Some(region)), None) = (&old_region, &region_id) {
        rules::find::<Endpoint>(&identity, &caller, "identity:update_endpoint", &id)?;
        rules::ensure_region(&identity, &caller, region).await?;
    }
    let (region_id, service_id) = (region_id.or(old_region), input.text("service_id"));
    let extra = input.rest();
    let change = |endpoint: &mut Resource<Endpoint>| {
        let spec = &mut endpoint.spec;
        spec.interface = interface.clone().unwrap_or_else(|| spec.interface.clone());
        spec.url = url.clone().unwrap_or_else(|| spec.url.clone());
        spec.enabled = enabled.unwrap_or(spec.enabled);
        spec.region_id = region_id.clone().unwrap_or_else(|| spec.region_id.clone());
        spec.service_id = service_id.clone().unwrap_or_else(|| spec.service_id.clone());
        merge(&mut spec.extra, &extra);
        Ok(())
    };
    let endpoint = rules::update::<Endpoint>(&identity, &caller, "identity:update_endpoint", &id, change).await?;
    Ok(one(StatusCode::OK, "endpoint", &endpoint_view(&info, &endpoint)))
}

async fn delete_endpoint(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    rules::delete::<Endpoint>(&identity, &caller, "identity:delete_endpoint", &id).await?;
    Ok(no_content())
}
