//! `/v3/regions`, `/v3/services`, `/v3/endpoints`.

use std::sync::{Arc, LazyLock};

use axum::{
    Router,
    extract::{Path, State},
    response::Response,
    routing::put,
};
use http::StatusCode;
use madang_http::{Failure, Json, Query, RequestInfo};
use madang_store::Resource;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{Endpoint, EndpointSpec, Region, RegionSpec, Service, ServiceSpec, rules};
use crate::{
    Caller, Identity,
    api::{
        Links, Listed,
        collection::{self, Collection, Schemas},
        input::{Input, id_schema, schemas},
        links, merge, one, passes,
    },
};

static REGION: LazyLock<Schemas> = LazyLock::new(|| {
    let id = json!({ "type": "string", "maxLength": 255 });
    let text = json!({ "type": ["string", "null"] });
    schemas(
        "region",
        json!({ "id": id, "description": text, "parent_region_id": text }),
        &[],
    )
});
static SERVICE: LazyLock<Schemas> = LazyLock::new(|| {
    let properties = json!({
        "enabled": { "type": "boolean" },
        "name": { "type": "string" },
        "type": { "type": "string", "minLength": 1, "maxLength": 255 },
        "description": { "type": ["string", "null"] },
    });
    schemas("service", properties, &["type"])
});
static ENDPOINT: LazyLock<Schemas> = LazyLock::new(|| {
    let properties = json!({
        "enabled": { "type": "boolean" },
        "interface": { "type": "string", "enum": ["admin", "internal", "public"] },
        "region_id": { "type": ["string", "null"] },
        "region": { "type": ["string", "null"] },
        "service_id": id_schema(),
        "url": { "type": "string", "minLength": 1, "maxLength": 225, "pattern": "^[a-zA-Z0-9+.-]+:.+" },
    });
    schemas("endpoint", properties, &["interface", "service_id", "url"])
});

pub(crate) fn routes() -> Router<Arc<Identity>> {
    collection::routes::<Region>("/regions")
        .route("/regions/{id}", put(put_region))
        .merge(collection::routes::<Service>("/services"))
        .merge(collection::routes::<Endpoint>("/endpoints"))
}

#[derive(Serialize)]
pub(crate) struct RegionView {
    id: String,
    description: String,
    parent_region_id: Option<String>,
    #[serde(flatten)]
    extra: Map<String, Value>,
    links: Links,
}

#[derive(Serialize)]
pub(crate) struct ServiceView {
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
pub(crate) struct EndpointView {
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

impl Collection for Region {
    const ONE: &'static str = "region";
    const MANY: &'static str = "regions";
    type View = RegionView;

    fn view(_: &Identity, info: &RequestInfo, region: &Resource<Self>) -> RegionView {
        RegionView {
            id: region.name().to_owned(),
            description: region.spec.description.clone(),
            parent_region_id: region.spec.parent_region_id.clone(),
            extra: region.spec.extra.clone(),
            links: links(info, "regions", region.name()),
        }
    }

    fn schemas() -> &'static Schemas {
        &REGION
    }

    fn spec(mut input: Input) -> Result<(Option<String>, RegionSpec), Failure> {
        let id = input.text("id").filter(|id| !id.is_empty());
        let spec = RegionSpec {
            description: input.text("description").unwrap_or_default(),
            parent_region_id: input.text("parent_region_id"),
            extra: input.rest(),
        };
        Ok((id, spec))
    }

    fn apply(spec: &mut RegionSpec, mut input: Input) {
        if let Some(description) = input.nullable("description") {
            spec.description = description.unwrap_or_default();
        }
        input.set_nullable("parent_region_id", &mut spec.parent_region_id);
        merge(&mut spec.extra, &input.rest());
    }

    fn passes(query: &Query, region: &Resource<Self>) -> bool {
        let parent = region.spec.parent_region_id.as_deref();
        query.get("parent_region_id").is_none_or(|id| parent == Some(id))
    }
}

async fn put_region(
    State(identity): State<Arc<Identity>>,
    caller: Caller,
    info: RequestInfo,
    Path(id): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    let (said, spec) = Region::spec(Input::read(&REGION.create, body, "region")?)?;
    if said.is_some_and(|said| said != id) {
        return Err(Failure::invalid("Conflicting region IDs specified").at("id"));
    }
    let region = collection::create::<Region>(&identity, &caller, Some(id), spec).await?;
    Ok(one(
        StatusCode::CREATED,
        "region",
        &Region::view(&identity, &info, &region),
    ))
}

impl Collection for Service {
    const ONE: &'static str = "service";
    const MANY: &'static str = "services";
    type View = ServiceView;

    fn view(_: &Identity, info: &RequestInfo, service: &Resource<Self>) -> ServiceView {
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

    fn schemas() -> &'static Schemas {
        &SERVICE
    }

    fn spec(mut input: Input) -> Result<(Option<String>, ServiceSpec), Failure> {
        let spec = ServiceSpec {
            service_type: input.text("type").unwrap_or_default(),
            name: input.text("name"),
            description: input.text("description"),
            enabled: input.flag("enabled").unwrap_or(true),
            extra: input.rest(),
        };
        Ok((None, spec))
    }

    fn apply(spec: &mut ServiceSpec, mut input: Input) {
        input.set("type", &mut spec.service_type);
        input.set_flag("enabled", &mut spec.enabled);
        input.set_nullable("name", &mut spec.name);
        input.set_nullable("description", &mut spec.description);
        merge(&mut spec.extra, &input.rest());
    }

    fn passes(query: &Query, service: &Resource<Self>) -> bool {
        let wanted = query.get("type");
        wanted.is_none_or(|wanted| service.spec.service_type == wanted)
            && passes(query, "name", service.spec.name.as_deref().unwrap_or_default())
    }

    fn order(service: &Resource<Self>) -> &str {
        &service.spec.service_type
    }
}

impl Collection for Endpoint {
    const ONE: &'static str = "endpoint";
    const MANY: &'static str = "endpoints";
    type View = EndpointView;

    fn view(_: &Identity, info: &RequestInfo, endpoint: &Resource<Self>) -> EndpointView {
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

    fn schemas() -> &'static Schemas {
        &ENDPOINT
    }

    fn spec(mut input: Input) -> Result<(Option<String>, EndpointSpec), Failure> {
        let old_region = input.text("region");
        let spec = EndpointSpec {
            service_id: input.text("service_id").unwrap_or_default(),
            interface: input.text("interface").unwrap_or_default(),
            region_id: input.text("region_id").or(old_region),
            url: input.text("url").unwrap_or_default(),
            enabled: input.flag("enabled").unwrap_or(true),
            extra: input.rest(),
        };
        Ok((None, spec))
    }

    fn apply(spec: &mut EndpointSpec, mut input: Input) {
        let old_region = input.nullable("region");
        input.set("interface", &mut spec.interface);
        input.set("url", &mut spec.url);
        input.set_flag("enabled", &mut spec.enabled);
        input.set("service_id", &mut spec.service_id);
        if let Some(region) = input.nullable("region_id").or(old_region) {
            spec.region_id = region;
        }
        merge(&mut spec.extra, &input.rest());
    }

    fn passes(query: &Query, endpoint: &Resource<Self>) -> bool {
        let is = |name: &str, text: &str| query.get(name).is_none_or(|wanted| wanted == text);
        is("interface", &endpoint.spec.interface)
            && is("service_id", &endpoint.spec.service_id)
            && is("region_id", endpoint.spec.region_id.as_deref().unwrap_or_default())
    }

    async fn create(identity: &Identity, caller: &Caller, input: Input) -> Result<Arc<Resource<Self>>, Failure> {
        ensure_region(identity, caller, "identity:create_endpoint", &input).await?;
        let (id, spec) = Self::spec(input)?;
        collection::create(identity, caller, id, spec).await
    }

    async fn update(
        identity: &Identity,
        caller: &Caller,
        id: &str,
        input: Input,
    ) -> Result<Arc<Resource<Self>>, Failure> {
        Self::find(identity, caller, "update", id)?;
        ensure_region(identity, caller, "identity:update_endpoint", &input).await?;
        collection::update(identity, caller, id, input).await
    }
}

/// Under its older name, a region that is not there yet is made.
async fn ensure_region(identity: &Identity, caller: &Caller, rule: &str, input: &Input) -> Result<(), Failure> {
    let old = input.clone().text("region").filter(|_| !input.has("region_id"));
    match old {
        Some(id) => rules::ensure_region(identity, caller, rule, &id).await,
        None => Ok(()),
    }
}
