//! `/flavors`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, LazyLock},
};

use axum::{
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use http::StatusCode;
use madang_http::{
    Direction, Failure, Form, Json, LimitRules, Microversion, Page, PageQuery, Query, RequestInfo, Schema, SortKeys,
    SortValue, json, parse_bool,
};
use madang_identity::Caller;
use madang_store::{Cause, Key, Kind as _, Metadata, Resource, Store, StoreError};
use serde_json::{Value, json};
use uuid::Uuid;

use super::view::{brief, full};
use crate::{
    Flavor, FlavorSpec,
    api::{ComputeApi, base, failure},
};

const LIMITS: LimitRules = LimitRules::up_to(1000);
const SORT_KEYS: &[&str] = &[
    "created_at",
    "description",
    "disabled",
    "ephemeral_gb",
    "flavorid",
    "id",
    "is_public",
    "memory_mb",
    "name",
    "root_gb",
    "rxtx_factor",
    "swap",
    "updated_at",
    "vcpu_weight",
    "vcpus",
];

/// The flavor, if the caller may know of it.
pub(super) fn find(api: &ComputeApi, caller: &Caller, id: &str) -> Result<Arc<Resource<Flavor>>, Failure> {
    let flavor = api.store.cache::<Flavor>().by_name(id);
    let project = caller.subject.project_id().unwrap_or_default();
    let flavor = flavor.filter(|flavor| caller.is_admin() || flavor.spec.is_visible(project));
    flavor.ok_or_else(|| Failure::not_found(format!("Flavor {id} could not be found.")))
}

fn selected(
    api: &ComputeApi,
    caller: &Caller,
    version: Microversion,
    query: &Query,
) -> Result<Page<Arc<Resource<Flavor>>>, Failure> {
    let number = |name: &str| -> Result<u32, Failure> {
        let Some(text) = query.get(name) else { return Ok(0) };
        text.parse()
            .map_err(|_| Failure::invalid(format!("Invalid {name} filter [{text}]")).at(name))
    };
    let (min_ram, min_disk) = (number("minRam")?, number("minDisk")?);
    // Only admins may ask for others than the public ones and their own; `None` asks for all.
    let is_public = match query.get("is_public") {
        Some(_) if !caller.is_admin() => Some(true),
        None => Some(true),
        Some(text) if text.eq_ignore_ascii_case("none") => None,
        Some(text) => Some(
            parse_bool(text)
                .ok_or_else(|| Failure::invalid(format!("Invalid is_public filter [{text}]")).at("is_public"))?,
        ),
    };
    let project = caller.subject.project_id().unwrap_or_default();
    let mut flavors = api.store.cache::<Flavor>().all();
    flavors.retain(|flavor| {
        let spec = &flavor.spec;
        let is_listed = match is_public {
            None => true,
            Some(true) => spec.is_visible(project),
            Some(false) => !spec.is_public,
        };
        is_listed && !spec.is_disabled && spec.ram_mb >= min_ram && spec.disk_gb >= min_disk
    });
    // Ignored before 2.102.
    let name = query.get("name").filter(|_| version >= Microversion(2, 102));
    if let Some(name) = name {
        flavors.retain(|flavor| flavor.spec.name == name);
    }
    let sort_keys: Vec<&str> = SORT_KEYS
        .iter()
        .copied()
        .filter(|key| *key != "rxtx_factor" || version < Microversion(2, 102))
        .collect();
    let keys = SortKeys::from(query, &sort_keys, &[("flavorid", Direction::Ascending)])?;
    keys.sort(&mut flavors, sort_value);
    PageQuery::from(query, LIMITS)?.cut(flavors, |flavor| flavor.name())
}

fn sort_value<'a>(flavor: &'a Arc<Resource<Flavor>>, key: &str) -> SortValue<'a> {
    let spec = &flavor.spec;
    match key {
        "name" => spec.name.as_str().into(),
        "memory_mb" => i64::from(spec.ram_mb).into(),
        "vcpus" => i64::from(spec.vcpus).into(),
        "root_gb" => i64::from(spec.disk_gb).into(),
        "ephemeral_gb" => i64::from(spec.ephemeral_gb).into(),
        "swap" => i64::from(spec.swap_mb).into(),
        "is_public" => spec.is_public.into(),
        "disabled" => spec.is_disabled.into(),
        "description" => spec.description.as_deref().into(),
        "created_at" | "id" => flavor.metadata.created.into(),
        "updated_at" => flavor.metadata.updated.into(),
        _ => flavor.name().into(),
    }
}

fn listed(
    page: &Page<Arc<Resource<Flavor>>>,
    info: &RequestInfo,
    query: &Query,
    view: impl Fn(&Resource<Flavor>) -> Value,
) -> Response {
    let items: Vec<Value> = page.items.iter().map(|flavor| view(flavor)).collect();
    let mut body = json!({ "flavors": items });
    if let Some(next) = page.next_link(info, query, |flavor| flavor.name()) {
        body["flavors_links"] = json!([next]);
    }
    json(StatusCode::OK, &body)
}

/// `GET /flavors`.
pub async fn list(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    query: Query,
    info: RequestInfo,
) -> Result<Response, Failure> {
    let page = selected(&api, &caller, version, &query)?;
    let base = base(&info);
    Ok(listed(&page, &info, &query, |flavor| brief(flavor, &base, version)))
}

/// `GET /flavors/detail`.
pub async fn detail(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    query: Query,
    info: RequestInfo,
) -> Result<Response, Failure> {
    let page = selected(&api, &caller, version, &query)?;
    let base = base(&info);
    Ok(listed(&page, &info, &query, |flavor| {
        full(flavor, &base, version, true)
    }))
}

/// `GET /flavors/{id}`.
pub async fn show(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
    info: RequestInfo,
) -> Result<Response, Failure> {
    let flavor = find(&api, &caller, &id)?;
    Ok(json(
        StatusCode::OK,
        &json!({ "flavor": full(&flavor, &base(&info), version, true) }),
    ))
}

/// What a new flavor may say.
fn create_schema(version: Microversion) -> &'static Schema {
    static FIRST: LazyLock<Schema> = LazyLock::new(|| Schema::new(Form::Nova, create_body(1)));
    static DESCRIBED: LazyLock<Schema> = LazyLock::new(|| Schema::new(Form::Nova, create_body(55)));
    static WITHOUT_FACTOR: LazyLock<Schema> = LazyLock::new(|| Schema::new(Form::Nova, create_body(102)));
    match version {
        v if v >= Microversion(2, 102) => &WITHOUT_FACTOR,
        v if v >= Microversion(2, 55) => &DESCRIBED,
        _ => &FIRST,
    }
}

fn create_body(minor: u16) -> Value {
    let number = |minimum: u32| json!({ "type": ["integer", "string"], "pattern": "^[0-9]*$", "minLength": 1, "minimum": minimum, "maximum": 0x7fff_ffff });
    let mut properties = json!({
        "name": { "type": "string", "minLength": 1, "maxLength": 255, "pattern": "^\\s*\\S[\\s\\S]*$" },
        "id": { "oneOf": [
            { "type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[a-zA-Z0-9. _-]*$" },
            { "type": "integer" },
            { "type": "null" },
        ] },
        "ram": number(1),
        "vcpus": number(1),
        "disk": number(0),
        "OS-FLV-EXT-DATA:ephemeral": number(0),
        "swap": number(0),
        "os-flavor-access:is_public": { "type": ["boolean", "string"] },
    });
    if minor < 102 {
        properties["rxtx_factor"] = json!({ "type": ["number", "string"], "minimum": 0 });
    }
    if minor >= 55 {
        properties["description"] = json!({ "type": ["string", "null"], "minLength": 0, "maxLength": 65535 });
    }
    json!({
        "type": "object",
        "properties": { "flavor": {
            "type": "object",
            "properties": properties,
            "required": ["name", "ram", "vcpus", "disk"],
            "additionalProperties": false,
        } },
        "required": ["flavor"],
        "additionalProperties": false,
    })
}

/// `POST /flavors`.
pub async fn create(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    info: RequestInfo,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    caller.enforce("os_compute_api:os-flavor-manage:create", &[])?;
    create_schema(version).check(&body)?;
    let flavor = &body["flavor"];
    let number = |name: &str| -> Result<u32, Failure> {
        let value = &flavor[name];
        let read = value.as_u64().or_else(|| value.as_str()?.parse().ok());
        let read = if value.is_null() { Some(0) } else { read };
        let bad = || Failure::invalid(format!("Invalid input for field/attribute {name}. Value: {value}.")).at(name);
        read.and_then(|number| u32::try_from(number).ok()).ok_or_else(bad)
    };
    let factor = &flavor["rxtx_factor"];
    let factor = if factor.is_null() {
        Some(1.0)
    } else {
        factor.as_f64().or_else(|| factor.as_str()?.parse().ok())
    };
    let public = &flavor["os-flavor-access:is_public"];
    let spec = FlavorSpec {
        name: flavor["name"].as_str().unwrap_or_default().trim().to_owned(),
        vcpus: number("vcpus")?,
        ram_mb: number("ram")?,
        disk_gb: number("disk")?,
        ephemeral_gb: number("OS-FLV-EXT-DATA:ephemeral")?,
        swap_mb: number("swap")?,
        rxtx_factor: factor.ok_or_else(|| Failure::invalid("Invalid rxtx_factor").at("rxtx_factor"))?,
        is_public: public
            .as_bool()
            .or_else(|| parse_bool(public.as_str()?))
            .unwrap_or(true),
        is_disabled: false,
        description: flavor["description"].as_str().map(str::to_owned),
        extra_specs: BTreeMap::new(),
        access: BTreeSet::new(),
    };
    let id = match &flavor["id"] {
        Value::String(id) if id != "auto" => id.trim().to_owned(),
        Value::Number(id) => id.to_string(),
        _ => Uuid::new_v4().to_string(),
    };
    let made = make(&api.store, caller.cause(), &id, spec)
        .await
        .map_err(|error| match error {
            StoreError::Exists { key } if key.kind == Flavor::NAME => {
                Failure::conflict(format!("Flavor with ID {id} already exists."))
            }
            StoreError::Exists { .. } => Failure::conflict(format!(
                "Flavor with name {} already exists.",
                flavor["name"].as_str().unwrap_or_default()
            )),
            other => failure(other),
        })?;
    Ok(json(
        StatusCode::OK,
        &json!({ "flavor": full(&made, &base(&info), version, true) }),
    ))
}

/// Makes a flavor; its name is taken for it in the same transaction.
///
/// # Errors
/// `Exists` for a flavor of that id, or a reservation of that name.
pub(crate) async fn make(
    store: &Store,
    cause: Cause,
    id: &str,
    spec: FlavorSpec,
) -> Result<Arc<Resource<Flavor>>, StoreError> {
    if let Some(same) = store.cache::<Flavor>().by("name", &spec.name).first() {
        let key = Key::new("names", "", Flavor::NAME, same.spec.name.clone());
        return Err(StoreError::Exists { key });
    }
    let mut tx = store.begin(cause);
    let metadata = Metadata::new("", id);
    tx.reserve(Flavor::NAME, &spec.name, metadata.uid)?;
    let flavor = tx.create(Resource::<Flavor>::new(metadata, spec))?;
    tx.commit().await?;
    Ok(flavor)
}

/// `PUT /flavors/{id}`: the description, since 2.55.
pub async fn update(
    State(api): State<ComputeApi>,
    caller: Caller,
    version: Microversion,
    Path(id): Path<String>,
    info: RequestInfo,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    static UPDATE: LazyLock<Schema> = LazyLock::new(|| {
        let description = json!({ "type": ["string", "null"], "minLength": 0, "maxLength": 65535 });
        Schema::new(
            Form::Nova,
            json!({
                "type": "object",
                "properties": { "flavor": {
                    "type": "object",
                    "properties": { "description": description },
                    "required": ["description"],
                    "additionalProperties": false,
                } },
                "required": ["flavor"],
                "additionalProperties": false,
            }),
        )
    });
    if version < Microversion(2, 55) {
        return Err(Failure::not_found("The resource could not be found."));
    }
    caller.enforce("os_compute_api:os-flavor-manage:update", &[])?;
    UPDATE.check(&body)?;
    let description = body["flavor"]["description"].as_str().map(str::to_owned);
    let flavor = edit(&api, &caller, &id, |spec| spec.description.clone_from(&description)).await?;
    Ok(json(
        StatusCode::OK,
        &json!({ "flavor": full(&flavor, &base(&info), version, true) }),
    ))
}

/// `DELETE /flavors/{id}`.
pub async fn delete(
    State(api): State<ComputeApi>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    caller.enforce("os_compute_api:os-flavor-manage:delete", &[])?;
    let flavor = find(&api, &caller, &id)?;
    let mut tx = api.store.begin(caller.cause());
    tx.release(Flavor::NAME, &flavor.spec.name);
    tx.delete(&flavor).map_err(failure)?;
    tx.commit().await.map_err(failure)?;
    Ok(StatusCode::ACCEPTED.into_response())
}

/// `GET /flavors/{id}/os-flavor-access`.
pub async fn access(
    State(api): State<ComputeApi>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    caller.enforce("os_compute_api:os-flavor-access", &[])?;
    let flavor = find(&api, &caller, &id)?;
    if flavor.spec.is_public {
        return Err(Failure::not_found("Access list not available for public flavors."));
    }
    Ok(access_list(&flavor))
}

fn access_list(flavor: &Resource<Flavor>) -> Response {
    let list = flavor
        .spec
        .access
        .iter()
        .map(|project| json!({ "flavor_id": flavor.name(), "tenant_id": project }));
    json(StatusCode::OK, &json!({ "flavor_access": list.collect::<Vec<_>>() }))
}

/// `POST /flavors/{id}/action`: `addTenantAccess` and `removeTenantAccess`.
pub async fn act(
    State(api): State<ComputeApi>,
    caller: Caller,
    Path(id): Path<String>,
    Json(body): Json<Value>,
) -> Result<Response, Failure> {
    let (is_added, argument) = match (body.get("addTenantAccess"), body.get("removeTenantAccess")) {
        (Some(argument), None) => (true, argument),
        (None, Some(argument)) => (false, argument),
        _ => return Err(Failure::invalid("There is no such action")),
    };
    let verb = if is_added { "add" } else { "remove" };
    caller.enforce(&format!("os_compute_api:os-flavor-access:{verb}_tenant_access"), &[])?;
    let tenant = argument["tenant"].as_str().filter(|tenant| !tenant.is_empty());
    let tenant = tenant.ok_or_else(|| Failure::invalid("'tenant' is a required property").at("tenant"))?;
    let flavor = find(&api, &caller, &id)?;
    if flavor.spec.is_public {
        return Err(Failure::conflict("Can not change the access of a public flavor."));
    }
    if flavor.spec.access.contains(tenant) == is_added {
        return Err(if is_added {
            Failure::conflict(format!(
                "Flavor access already exists for flavor {id} and project {tenant} combination."
            ))
        } else {
            Failure::not_found(format!("Flavor access not found for {id} / {tenant} combination."))
        });
    }
    let flavor = edit(&api, &caller, &id, |spec| {
        if is_added {
            spec.access.insert(tenant.to_owned());
        } else {
            spec.access.remove(tenant);
        }
    });
    Ok(access_list(&*flavor.await?))
}

/// Changes what may change of a flavor.
pub(super) async fn edit(
    api: &ComputeApi,
    caller: &Caller,
    id: &str,
    change: impl Fn(&mut FlavorSpec),
) -> Result<Arc<Resource<Flavor>>, Failure> {
    let flavor = find(api, caller, id)?;
    let key = flavor.key();
    let changed = api.store.modify::<Flavor, StoreError>(&key, caller.cause(), |flavor| {
        change(&mut flavor.spec);
        Ok(())
    });
    changed.await.map_err(failure)
}
